//! circus-top: what streams bring onto the screen, and keys to whoever they are for.
//!
//! ```text
//!   stream of frames ─┐                     ┌─→ the terminal, four times a second at most
//!   stream of events ─┼─→ News ─→ Screen ───┤
//!   the registry ─────┤                     └─→ wishes ─→ client::ask ─→ News
//!   keys, signals ────┘
//! ```
//!
//! Invariants: a stream that breaks off is taken up again by itself; nothing waits inside the loop; the terminal is given
//! back as it was, whatever ends the program.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, SystemTime};

use clap::Parser;
use futures_util::StreamExt;
use jiff::tz::TimeZone;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, Frame};
use serde_json::Value;
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::{colours, ctl, ctl_exit};
use crate::client::follow::Stream;
use crate::client::{self, Call, ClientError, Endpoint};
use crate::host::clock;
use crate::model::command::{Command, Selector, Target};
use crate::model::names::{ClusterName, NodeName, NodeWord, WatcherName};
use crate::model::pattern::Pattern;
use crate::model::stats::NodeStats;
use crate::view::top::{self, Key, Link, Listed, Now, Screen, Settings, Wish};
use crate::view::{self, StreamView, Style};
use crate::wire::{self, Follow, Nodes, Subject};

/// How long anybody may take to begin a stream, or to answer what is asked on the side.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after a stream has broken off, or could not be begun, that is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the registry is read.
const ROSTER_EVERY: Duration = Duration::from_secs(5);
/// How often news are drawn, at most; keys are drawn at once.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How long `--once` waits for the nodes that have not yet been heard, when one has.
const OTHERS: Duration = Duration::from_secs(2);
/// How many events and lines of output that were before are shown.
const BEFORE: usize = 200;
/// How many news wait to be taken; a stream that brings more is read more slowly.
const WAITING: usize = 256;
/// How wide `--once` is where there is no terminal.
const WIDTH: u16 = 100;

/// circus-top's command line.
#[derive(Debug, Parser)]
#[command(
    name = "circus-top",
    version,
    about = "Shows what happens on an agent's node, or in its cluster, as it happens",
    after_help = "Without --endpoint and CIRCUSCTL_ENDPOINT the agent of this machine is asked; with ? the screen tells its \
                  keys.\n\
                  Exit codes: 0 ok, 2 usage, 5 no agent or Redis reached (--once), 128 and the signal's number where one \
                  ended it."
)]
pub struct TopArgs {
    /// Show these nodes only, separated by commas; that of the agent that is asked is shown without Redis, too
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    node: Vec<String>,
    /// Print one picture as plain text, and leave
    #[arg(long)]
    once: bool,
    /// Do without what changes anything
    #[arg(long)]
    read_only: bool,
    /// Draw with ASCII only, as where the locale is not UTF-8
    #[arg(long)]
    ascii: bool,
    #[command(flatten)]
    place: ctl::Place,
}

/// Runs circus-top with these arguments, its own name first; gives back the exit code.
pub fn circus_top(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let args = match TopArgs::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ctl_exit::USAGE } else { ctl_exit::OK };
        }
    };
    run(&args).unwrap_or_else(|error| {
        super::print_error(&error);
        match error {
            ClientError::Unreached(_) | ClientError::Silent(_) => ctl_exit::UNREACHED,
            ClientError::Usage(_) => ctl_exit::USAGE,
            ClientError::Refused(_) => ctl_exit::FAILED,
        }
    })
}

fn run(args: &TopArgs) -> Result<u8, ClientError> {
    let endpoint = ctl::endpoint(&args.place)?;
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !(args.once || is_terminal) {
        return Err(ClientError::Usage("this is no terminal; --once prints one picture".into()));
    }
    let screen = Screen::new(Settings {
        title: match &endpoint {
            Endpoint::Unix(_) => endpoint.to_string(),
            Endpoint::Redis(_) => args.place.cluster.to_string(),
        },
        colour: !args.once && colours(true),
        unicode: !args.ascii && is_utf8(|name| std::env::var(name).ok()),
        read_only: args.read_only,
        zone: TimeZone::system(),
    });
    let source =
        Source { endpoint, cluster: args.place.cluster.clone(), nodes: args.node.clone(), own: Arc::default() };
    ctl::runtime()?.block_on(async {
        if args.once {
            return once(&source, screen).await;
        }
        live(&source, screen).await
    })
}

/// Whether the locale has more than ASCII: the first of these that says anything counts.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let said = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|value| !value.is_empty());
    said.is_some_and(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// What happens outside of the screen.
enum News {
    Frame(NodeStats),
    Event(Value),
    Roster(Vec<Listed>),
    Link(Link),
    Name(String),
    Said(String),
    Page {
        title: String,
        text: String,
    },
    /// A line of what is read, in the reading of that number.
    Line(u64, String),
}

/// Where it all comes from.
#[derive(Debug, Clone)]
struct Source {
    endpoint: Endpoint,
    cluster: ClusterName,
    /// Which nodes are shown: names, or patterns; none: all.
    nodes: Vec<String>,
    /// The node behind the control socket, once it has told its name, and its cluster, where it has one.
    own: Arc<OnceLock<(NodeName, Option<String>)>>,
}

/// Prints one picture.
async fn once(source: &Source, mut screen: Screen) -> Result<u8, ClientError> {
    let (sender, mut news) = mpsc::channel(WAITING);
    // Then it is known who is still to be heard.
    if let Some(rows) = source.roster().await {
        screen.roster(rows);
    }
    source.start(&sender);
    let mut deadline = Instant::now() + PATIENCE;
    let (mut reason, mut note) = (None, None);
    while !screen.is_whole() {
        tokio::select! {
            Some(came) = news.recv() => {
                match &came {
                    News::Link(Link::Down(why)) => reason = Some(why.clone()),
                    News::Said(text) => note = Some(text.clone()),
                    _ => {}
                }
                let first = screen.heard() == 0 && matches!(came, News::Frame(_));
                take(&mut screen, came, 0);
                if first {
                    deadline = Instant::now() + OTHERS;
                }
            }
            () = sleep_until(deadline) => break,
        }
        if screen.heard() == 0 && reason.is_some() {
            break;
        }
    }
    if screen.heard() == 0 {
        let why = reason.or(note).unwrap_or_else(|| "no node has told how it is".into());
        return Err(ClientError::Unreached(why));
    }
    let width = match ratatui::crossterm::terminal::size() {
        Ok((width, _)) if io::stdout().is_terminal() => width,
        _ => std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH),
    };
    let text = top::lines(&screen, now(), width.min(1_000));
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(ctl_exit::OK),
        // Nobody reads it: that is their choice.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ctl_exit::OK),
        Err(error) => Err(ClientError::Refused(format!("standard output: {error}"))),
    }
}

/// Shows all as it happens, until somebody ends it.
async fn live(source: &Source, mut screen: Screen) -> Result<u8, ClientError> {
    let broken = |error: io::Error| ClientError::Refused(format!("the terminal: {error}"));
    // Before the terminal is taken: from then on nothing may end the program but this loop.
    let mut signals = Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT]).map_err(broken)?;
    let mut terminal = OnTerminal::take().map_err(broken)?;
    let (sender, mut news) = mpsc::channel(WAITING);
    source.start(&sender);
    let mut keys = keys();
    let mut clock = interval(Duration::from_secs(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reading = Reading::default();
    let mut is_drawn = false;
    let mut next_draw = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(signal) = signals.next() => return Ok(128 + u8::try_from(signal).unwrap_or(0)),
            key = keys.recv() => {
                let wish = match key {
                    Some(Pressed::Key(key)) => screen.key(key, now()),
                    Some(Pressed::Nothing) => None,
                    Some(Pressed::Interrupt) | None => Some(Wish::Quit),
                };
                match wish {
                    Some(Wish::Quit) => return Ok(ctl_exit::OK),
                    Some(wish) => source.grant(wish, &sender, &mut screen, &mut reading),
                    None => {}
                }
                if !screen.is_read() {
                    reading.end();
                }
                (is_drawn, next_draw) = (false, Instant::now());
            }
            Some(came) = news.recv() => {
                take(&mut screen, came, reading.number);
                is_drawn = false;
            }
            _ = clock.tick() => is_drawn = false,
            () = sleep_until(next_draw), if !is_drawn => {
                let size = terminal.0.size().map_err(broken)?;
                screen.resize(size.height);
                let at = now();
                let picture = |frame: &mut Frame| top::draw(&screen, at, frame.area(), frame.buffer_mut());
                terminal.0.draw(picture).map_err(broken)?;
                (is_drawn, next_draw) = (true, Instant::now() + DRAW_EVERY);
            }
        }
    }
}

fn take(screen: &mut Screen, news: News, reading: u64) {
    match news {
        News::Frame(stats) => screen.frame(stats, now()),
        News::Event(event) => screen.event(&event),
        News::Roster(rows) => screen.roster(rows),
        News::Link(link) => screen.link(link),
        News::Name(name) => screen.name(name),
        News::Said(text) => screen.say(text),
        News::Page { title, text } => screen.page(title, &text, false),
        News::Line(number, line) if number == reading => screen.page_line(&line),
        News::Line(..) => {}
    }
}

/// The output that is being read, if any.
#[derive(Default)]
struct Reading {
    /// Which one it is, so that a line that was under way does not end up in the next.
    number: u64,
    task: Option<JoinHandle<()>>,
}

impl Reading {
    fn begin(&mut self, task: impl FnOnce(u64) -> JoinHandle<()>) {
        self.end();
        self.number += 1;
        self.task = Some(task(self.number));
    }

    fn end(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Source {
    /// Begins what brings news, each in a task of its own.
    fn start(&self, news: &mpsc::Sender<News>) {
        tokio::spawn(self.clone().frames(news.clone()));
        tokio::spawn(self.clone().events(news.clone()));
        tokio::spawn(self.clone().registry(news.clone()));
    }

    /// Brings frames, for as long as anybody takes them.
    async fn frames(self, news: mpsc::Sender<News>) {
        loop {
            let why = match self.open(Subject::Stats).await {
                Ok(mut stream) => {
                    let _ = news.send(News::Name(self.title().await)).await;
                    let _ = news.send(News::Link(Link::Up)).await;
                    pass_on(&mut stream, &news, frame).await
                }
                Err(error) => error.to_string(),
            };
            if news.send(News::Link(Link::Down(why))).await.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Brings events: those that the agent has kept, and then all that come.
    async fn events(self, news: mpsc::Sender<News>) {
        if let Endpoint::Unix(_) = self.endpoint {
            let kept = Follow { lines: BEFORE, live: false, nodes: Nodes::Here, ..Follow::all(Subject::Events) };
            if let Ok(mut stream) = Stream::open(&self.endpoint, &self.cluster, &kept, PATIENCE).await {
                while let Ok(Some(event)) = stream.next().await {
                    let _ = news.send(News::Event(event)).await;
                }
            }
        }
        while !news.is_closed() {
            if let Ok(mut stream) = self.open(Subject::Events).await {
                pass_on(&mut stream, &news, |line| line["event"].is_string().then(|| News::Event(line.clone()))).await;
            }
            sleep(PAUSE).await;
        }
    }

    /// Brings what the registry knows, where there is one.
    async fn registry(self, news: mpsc::Sender<News>) {
        loop {
            if let Some(rows) = self.roster().await
                && news.send(News::Roster(rows)).await.is_err()
            {
                return;
            }
            sleep(ROSTER_EVERY).await;
        }
    }

    async fn roster(&self) -> Option<Vec<Listed>> {
        let reply = self.ask(Command::Nodes, Target::Here).await.ok()?;
        let rows = reply["roster"].as_array()?.iter();
        let wanted: Vec<Pattern> = self.patterns();
        let rows = rows.filter_map(|row| {
            let holds = row["holds"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Some(Listed {
                name: NodeName::parse(row["name"].as_str()?).ok()?,
                state: row["state"].as_str()?.to_owned(),
                up: row["up"].as_f64().and_then(|up| Duration::try_from_secs_f64(up).ok()),
                holds: holds.map(str::to_owned).collect(),
            })
        });
        Some(rows.filter(|row| wanted.is_empty() || wanted.iter().any(|name| name.fits(row.name.as_str()))).collect())
    }

    /// A stream of all nodes that are shown.
    async fn open(&self, subject: Subject) -> Result<Stream, ClientError> {
        let wanted = Follow { nodes: self.shown().await, ..Follow::all(subject) };
        Stream::open(&self.endpoint, &self.cluster, &wanted, PATIENCE).await
    }

    /// Which nodes are shown. That of the agent itself needs no Redis in between.
    async fn shown(&self) -> Nodes {
        match &self.nodes[..] {
            [] => Nodes::All,
            [only] if self.own().await.is_some_and(|own| own.as_str() == only) => Nodes::Here,
            _ => Nodes::Named(self.patterns()),
        }
    }

    fn patterns(&self) -> Vec<Pattern> {
        self.nodes.iter().map(|name| Pattern::Glob(name.trim().to_owned())).collect()
    }

    /// The node behind the control socket.
    async fn own(&self) -> Option<&NodeName> {
        if self.own.get().is_none()
            && let Endpoint::Unix(_) = self.endpoint
            && let Ok(reply) = self.ask(Command::Status { watcher: None }, Target::Here).await
            && let Some(own) = reply["node"].as_str().and_then(|name| NodeName::parse(name).ok())
        {
            let roster = self.ask(Command::Nodes, Target::Here).await;
            let is_alone = roster.is_ok_and(|roster| roster["code"] == "no-cluster");
            let cluster = reply["cluster"].as_str().filter(|_| !is_alone);
            let _ = self.own.set((own, cluster.map(str::to_owned)));
        }
        self.own.get().map(|(own, _)| own)
    }

    async fn ask(&self, command: Command, target: Target) -> Result<Value, ClientError> {
        let patience = command.usual_time();
        let call = Call { command, target, cluster: self.cluster.clone(), patience };
        client::ask(&self.endpoint, &call).await
    }

    /// Sees to what somebody wishes.
    fn grant(&self, wish: Wish, news: &mpsc::Sender<News>, screen: &mut Screen, reading: &mut Reading) {
        let (source, news) = (self.clone(), news.clone());
        match wish {
            Wish::Quit => {}
            Wish::Ask { command, nodes, doing } => {
                screen.say(format!("{doing} …"));
                tokio::spawn(async move {
                    let target = source.target(nodes).await;
                    let went = match source.ask(command.clone(), target).await {
                        Ok(reply) => told(&command, &reply),
                        Err(error) => error.to_string(),
                    };
                    let _ = news.send(News::Said(format!("{doing}: {went}"))).await;
                });
            }
            Wish::Explain(watcher) => {
                tokio::spawn(async move {
                    let command = Command::Explain { watcher: watcher.to_string() };
                    let text = match source.ask(command.clone(), Target::Here).await {
                        Ok(reply) => {
                            let own = source.own.get().map(|(own, _)| own.as_str());
                            let text = view::text(&command, &reply, own, Style { colour: false, width: Some(76) });
                            text.out + &text.err
                        }
                        Err(error) => format!("{error}\n"),
                    };
                    let _ = news.send(News::Page { title: format!("explain {watcher}"), text }).await;
                });
            }
            Wish::Logs(watcher, node) => {
                screen.page(format!("logs of {watcher} on {node}"), "", true);
                reading.begin(|number| tokio::spawn(source.logs(watcher, node, number, news)));
            }
        }
    }

    /// Those nodes; the agent's own is asked without anybody in between.
    async fn target(&self, nodes: Vec<NodeName>) -> Target {
        match &nodes[..] {
            [only] if self.own().await == Some(only) => Target::Here,
            _ => {
                let nodes = nodes.into_iter().map(NodeWord::Name).collect();
                Target::Nodes(Selector { nodes, labels: Vec::new() })
            }
        }
    }

    async fn logs(self, watcher: WatcherName, node: NodeName, number: u64, news: mpsc::Sender<News>) {
        let names = vec![Pattern::Glob(literally(watcher.as_str()))];
        let nodes = match self.own().await {
            Some(own) if *own == node => Nodes::Here,
            _ => Nodes::Named(vec![Pattern::Name(node.to_string())]),
        };
        let wanted = Follow { names, lines: BEFORE, nodes, ..Follow::all(Subject::Logs) };
        let why = match Stream::open(&self.endpoint, &self.cluster, &wanted, PATIENCE).await {
            Ok(mut stream) => {
                let mut view = StreamView::new(Style::default(), TimeZone::system());
                let line = |line: &Value| {
                    let text = view.text(line);
                    Some(News::Line(number, (text.out + &text.err).trim_end().to_owned()))
                };
                pass_on(&mut stream, &news, line).await
            }
            Err(error) => error.to_string(),
        };
        let _ = news.send(News::Line(number, why)).await;
    }

    /// What is looked at, in short.
    async fn title(&self) -> String {
        let nodes = self.shown().await;
        // Over a control socket it is asked here, at the latest.
        let _ = self.own().await;
        match (&self.endpoint, self.own.get()) {
            (Endpoint::Redis(_), _) => self.cluster.to_string(),
            (Endpoint::Unix(_), None) => self.endpoint.to_string(),
            (Endpoint::Unix(_), Some((own, cluster))) => match cluster {
                Some(cluster) if nodes != Nodes::Here => cluster.clone(),
                _ => own.to_string(),
            },
        }
    }
}

/// Passes on what a stream brings, until it breaks off: why it did.
async fn pass_on(
    stream: &mut Stream,
    news: &mpsc::Sender<News>,
    mut read: impl FnMut(&Value) -> Option<News>,
) -> String {
    loop {
        let line = match stream.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return "the stream has ended".into(),
            Err(error) => return error.to_string(),
        };
        if let Some(came) = read(&line)
            && news.send(came).await.is_err()
        {
            return String::new();
        }
    }
}

/// A frame, or what there is to say about their stream.
fn frame(line: &Value) -> Option<News> {
    match line["note"].as_str() {
        Some(note) => Some(News::Said(note.to_owned())),
        // Anybody may publish where they come from.
        None => wire::node_stats(line).ok().map(News::Frame),
    }
}

/// How it went, on one line.
fn told(command: &Command, reply: &Value) -> String {
    let text = view::text(command, reply, None, Style::default());
    let said = if text.err.is_empty() { text.out } else { text.err };
    said.lines().collect::<Vec<_>>().join("; ")
}

/// A pattern that only this name fits.
fn literally(name: &str) -> String {
    let mut pattern = String::new();
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern
}

/// What a person did at the terminal.
enum Pressed {
    Key(Key),
    /// ^C.
    Interrupt,
    /// It has another size, and is to be drawn.
    Nothing,
}

/// Keys as they are pressed; the end of them where the terminal is gone.
fn keys() -> mpsc::Receiver<Pressed> {
    let (sender, keys) = mpsc::channel(16);
    // A terminal can only be waited for by a thread; it ends with the program.
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            let pressed = match event {
                TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => pressed(key),
                TerminalEvent::Resize(..) => Some(Pressed::Nothing),
                _ => None,
            };
            if pressed.is_some_and(|pressed| sender.blocking_send(pressed).is_err()) {
                return;
            }
        }
    });
    keys
}

fn pressed(key: KeyEvent) -> Option<Pressed> {
    let with = |modifiers| key.modifiers.intersects(modifiers);
    Some(Pressed::Key(match key.code {
        KeyCode::Char('c') if with(KeyModifiers::CONTROL) => return Some(Pressed::Interrupt),
        KeyCode::Char('l') if with(KeyModifiers::CONTROL) => return Some(Pressed::Nothing),
        KeyCode::Char(_) if with(KeyModifiers::CONTROL | KeyModifiers::ALT) => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    }))
}

/// The terminal, with a screen of its own; it is given back with the value, and before a panic is told.
struct OnTerminal(DefaultTerminal);

impl OnTerminal {
    fn take() -> io::Result<OnTerminal> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(OnTerminal(terminal)),
            Err(error) => {
                ratatui::restore();
                Err(error)
            }
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        // Where the terminal is gone there is nothing to give back.
        let _ = ratatui::try_restore();
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { since_boot: clock::now(), unix: unix.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        TopArgs::command().debug_assert();
        let words = "circus-top --endpoint redis://h/0 --cluster prod --node a,b* --once --read-only --ascii";
        let args = TopArgs::try_parse_from(words.split(' ')).unwrap();
        assert_eq!(
            (args.node, args.once, args.read_only, args.ascii),
            (vec!["a".into(), "b*".into()], true, true, true)
        );
    }

    #[test]
    fn the_first_word_on_the_locale_counts() {
        let utf8 = |said: &[(&str, &str)]| {
            is_utf8(|name| said.iter().find(|(named, _)| *named == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(utf8(&[("LANG", "de_DE.UTF-8")]));
        assert!(utf8(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!utf8(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!utf8(&[("LANG", "de_DE.ISO-8859-1")]));
        assert!(!utf8(&[]));
    }

    #[test]
    fn a_name_is_no_pattern() {
        for name in ["web", "a*b", "[x]", "what?", "*"] {
            let pattern = Pattern::Glob(literally(name));
            assert!(pattern.fits(name), "{name}");
            assert!(
                !pattern.fits(&format!("{name}x"))
                    && !pattern.fits(&name.replace(['*', '?', '['], "zz").replace("web", "wec"))
            );
        }
    }
}
