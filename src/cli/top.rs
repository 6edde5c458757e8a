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

mod palette;
mod source;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
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
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::{colours, ctl, ctl_exit, whom};
use crate::client::{ClientError, Endpoint};
use crate::host::clock;
use crate::model::names::NodeName;
use crate::model::stats::{History, NodeStats};
use crate::view::top::{self, Key, Link, Listed, Now, Screen, Settings, Wish};
use source::Source;

/// How long anybody may take to begin a stream, or to answer what is asked on the side.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked who has had which singleton.
const TENURES_EVERY: Duration = Duration::from_secs(10);
/// How often news are drawn, at most; keys are drawn at once.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// How long `--once` waits for the nodes that have not yet been heard, when one has.
const OTHERS: Duration = Duration::from_secs(2);
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
    place: whom::Place,
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
    let endpoint = args.place.endpoint()?;
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !(args.once || is_terminal) {
        return Err(ClientError::Usage("this is no terminal; --once prints one picture".into()));
    }
    let screen = Screen::new(Settings {
        title: match &endpoint {
            Endpoint::Unix(_) | Endpoint::Zmq(_) => endpoint.to_string(),
            Endpoint::Redis(_) => args.place.cluster.to_string(),
        },
        colour: !args.once && colours(true),
        unicode: !args.ascii && is_utf8(|name| std::env::var(name).ok()),
        read_only: args.read_only,
        zone: TimeZone::system(),
    });
    let source =
        Source { endpoint, cluster: args.place.cluster.clone(), nodes: args.node.clone(), own: Default::default() };
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
    Frame(NodeStats, Option<History>),
    /// A node's frame cannot be told, for this reason.
    Untold(NodeName, String),
    Event(Value),
    Roster(Vec<Listed>),
    Link(Link),
    Name(String),
    Said(String),
    /// What `history` tells of a singleton.
    Tenures(Value),
    /// A line of what is read, in the reading of that number.
    Line(u64, String),
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
                let first = screen.heard() == 0 && matches!(came, News::Frame(..));
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
    let tenures = source.clone().tenures(screen.singletons_heard(now()), sender);
    let take_all = async {
        while let Some(came) = news.recv().await {
            take(&mut screen, came, 0);
        }
    };
    // What is not told by then is not part of the picture.
    let _ = timeout(OTHERS, async {
        tokio::select! { () = tenures => {}, () = take_all => {} }
    })
    .await;
    while let Ok(came) = news.try_recv() {
        take(&mut screen, came, 0);
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
    let mut next_tenures = Instant::now();
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
            _ = clock.tick() => {
                is_drawn = false;
                let singletons = screen.singletons_heard(now());
                if !singletons.is_empty() && next_tenures <= Instant::now() {
                    tokio::spawn(source.clone().tenures(singletons, sender.clone()));
                    next_tenures = Instant::now() + TENURES_EVERY;
                }
            }
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
        News::Frame(stats, history) => {
            let node = stats.node.clone();
            screen.frame(stats, now());
            if let Some(history) = history {
                screen.history(&node, &history);
            }
        }
        News::Untold(node, why) => screen.untold(node, why),
        News::Event(event) => screen.event(&event),
        News::Roster(rows) => screen.roster(rows),
        News::Link(link) => screen.link(link),
        News::Name(name) => screen.name(name),
        News::Said(text) => screen.say(text),
        News::Tenures(reply) => screen.tenures(&reply),
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
}
