//! Where circus-top has it all from: streams, the registry, and answers to what is asked on the side.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use jiff::tz::TimeZone;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::{News, PATIENCE, Reading, palette};
use crate::client::follow::Stream;
use crate::client::{self, Call, ClientError, Endpoint};
use crate::model::command::{Command, Selector, Target};
use crate::model::names::{ClusterName, NodeName, NodeWord, WatcherName};
use crate::model::pattern::Pattern;
use crate::view::top::{Link, Listed, Screen, Wish};
use crate::view::{self, StreamView, Style};
use crate::wire::{self, Follow, Nodes, Subject};

/// How long after a stream has broken off, or could not be begun, that is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long all nodes may keep silent before the one that is asked is asked past Redis.
const SILENT: Duration = Duration::from_secs(3);
/// How often the registry is read.
const ROSTER_EVERY: Duration = Duration::from_secs(5);
/// How many events and lines of output that were before are shown.
const BEFORE: usize = 200;
/// How many tenures of a singleton are asked for: more than a day has.
const TENURES: usize = 100;
/// How wide answers are set.
const WIDTH: usize = 100;

/// Where it all comes from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) endpoint: Endpoint,
    pub(super) cluster: ClusterName,
    /// Which nodes are shown: names, or patterns; none: all.
    pub(super) nodes: Vec<String>,
    /// The node behind the control socket, once it has told its name, and its cluster, where it has one.
    pub(super) own: Arc<OnceLock<(NodeName, Option<String>)>>,
}

impl Source {
    /// Begins what brings news, each in a task of its own.
    pub(super) fn start(&self, news: &mpsc::Sender<News>) {
        tokio::spawn(self.clone().frames(news.clone()));
        tokio::spawn(self.clone().events(news.clone()));
        tokio::spawn(self.clone().registry(news.clone()));
    }

    /// Brings frames, for as long as anybody takes them.
    async fn frames(self, news: mpsc::Sender<News>) {
        loop {
            let why = match self.open(Subject::Stats).await {
                Ok(stream) => {
                    let _ = news.send(News::Name(self.title().await)).await;
                    let _ = news.send(News::Link(Link::Up)).await;
                    self.pass_frames(stream, &news).await
                }
                Err(error) => error.to_string(),
            };
            if news.send(News::Link(Link::Down(why))).await.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Passes frames on until their stream breaks off: why it did. While none come, the node behind the control socket,
    /// which needs no Redis for that, is asked for its own.
    async fn pass_frames(&self, stream: Stream, news: &mpsc::Sender<News>) -> String {
        let has_own = self.shown().await != Nodes::Here && self.shows_own().await;
        let mut all = lines(stream);
        let mut own: Option<BoxStream<'static, Result<Value, String>>> = None;
        let mut why = String::from("no node is heard");
        let mut deadline = Instant::now() + SILENT;
        loop {
            let lacks_own = has_own && own.is_none();
            let own_next = async {
                match &mut own {
                    Some(own) => own.next().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                line = all.next() => {
                    let came = match line {
                        Some(Ok(line)) => frame(&line),
                        Some(Err(why)) => return why,
                        None => return "the stream has ended".into(),
                    };
                    match &came {
                        Some(News::Frame(..)) => {
                            deadline = Instant::now() + SILENT;
                            if own.take().is_some() {
                                let _ = news.send(News::Link(Link::Up)).await;
                            }
                        }
                        Some(News::Said(note)) => {
                            why.clone_from(note);
                            deadline = Instant::now();
                        }
                        _ => {}
                    }
                    if let Some(came) = came && news.send(came).await.is_err() {
                        return String::new();
                    }
                }
                line = own_next => match line {
                    Some(Ok(line)) => {
                        if let Some(came @ News::Frame(..)) = frame(&line) && news.send(came).await.is_err() {
                            return String::new();
                        }
                    }
                    _ => own = None,
                },
                () = sleep_until(deadline), if lacks_own => {
                    let here = Follow::all(Subject::Stats);
                    if let Ok(stream) = Stream::open(&self.endpoint, &self.cluster, &here, PATIENCE).await {
                        own = Some(lines(stream));
                        let _ = news.send(News::Link(Link::Own(format!("{why}; only this node is heard")))).await;
                    }
                    deadline = Instant::now() + SILENT;
                }
            }
        }
    }

    /// Whether the node behind the control socket is among those that are shown.
    async fn shows_own(&self) -> bool {
        let patterns = self.patterns();
        let fits = |own: &NodeName| patterns.is_empty() || patterns.iter().any(|name| name.fits(own.as_str()));
        self.own().await.is_some_and(fits)
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

    pub(super) async fn roster(&self) -> Option<Vec<Listed>> {
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
    pub(super) fn grant(&self, wish: Wish, news: &mpsc::Sender<News>, screen: &mut Screen, reading: &mut Reading) {
        let (source, news) = (self.clone(), news.clone());
        match wish {
            Wish::Quit => {}
            Wish::Ask { command, target, doing } => {
                screen.say(format!("{doing} …"));
                tokio::spawn(async move {
                    let target = source.straight(target).await;
                    let went = match source.ask(command.clone(), target).await {
                        Ok(reply) => told(&command, &reply),
                        Err(error) => error.to_string(),
                    };
                    let _ = news.send(News::Said(format!("{doing}: {went}"))).await;
                });
            }
            Wish::Read { title, questions, nodes } => {
                screen.page(title, "", false);
                reading.begin(|number| tokio::spawn(source.read(questions, nodes, number, news)));
            }
            Wish::Obey(line) => match palette::meaning(&line) {
                // Its first paragraph tells what is wrong; a text without that is help.
                Err(why) => match why.strip_prefix("error: ") {
                    Some(wrong) => {
                        let wrong = wrong.lines().map(str::trim).take_while(|line| !line.is_empty());
                        screen.say(wrong.collect::<Vec<_>>().join(" "));
                    }
                    None if why.trim().lines().count() > 1 => screen.page(line, &why, false),
                    None => screen.say(why.trim()),
                },
                Ok((call, _)) if call.command.acts() && screen.is_read_only() => {
                    screen.say("read only: nothing can be changed from here");
                }
                Ok((call, _)) if !call.command.acts() => {
                    screen.page(line, "", false);
                    reading.begin(|number| tokio::spawn(source.answer(call, number, news)));
                }
                Ok((Call { command, target, .. }, danger)) => {
                    let wish = Wish::Ask { command, target, doing: line };
                    match danger {
                        Some(what) => screen.confirm(format!("{what}."), wish),
                        None => source.grant(wish, &news, screen, reading),
                    }
                }
            },
            Wish::Complete(line) => {
                let (start, words) = palette::completion(&line, &screen.names());
                screen.complete(start, words);
            }
            Wish::Logs(watcher, node) => {
                screen.page(format!("logs of {watcher} on {node}"), "", true);
                reading.begin(|number| tokio::spawn(source.logs(watcher, node, number, news)));
            }
        }
    }

    /// Reads the answers to some questions, each below the words in which circusctl asks it.
    async fn read(self, questions: Vec<Command>, nodes: Vec<NodeName>, number: u64, news: mpsc::Sender<News>) {
        // What is the same everywhere is asked of one node, at best of that which is nearest.
        let own = self.own().await;
        let one = own.filter(|own| nodes.contains(own)).or(nodes.first()).cloned();
        for command in questions {
            let whom = match &command {
                Command::Options { .. } | Command::History { .. } => one.iter().cloned().collect(),
                _ => nodes.clone(),
            };
            let mut text = format!("circusctl {}\n", palette::words(&command, &whom));
            let target = self.straight(nodes_named(whom)).await;
            let answer = match self.ask(command.clone(), target).await {
                Ok(reply) => self.text(&command, &reply),
                Err(error) => format!("{error}\n"),
            };
            answer.lines().for_each(|line| text.push_str(&format!("  {line}\n")));
            text.push('\n');
            read_out(&text, number, &news).await;
        }
    }

    /// Reads the answer to a line of the palette.
    async fn answer(self, call: Call, number: u64, news: mpsc::Sender<News>) {
        let call = Call { cluster: self.cluster.clone(), ..call };
        let answer = match client::ask(&self.endpoint, &call).await {
            Ok(reply) => self.text(&call.command, &reply),
            Err(error) => error.to_string(),
        };
        read_out(&answer, number, &news).await;
    }

    fn text(&self, command: &Command, reply: &Value) -> String {
        let own = self.own.get().map(|(own, _)| own.as_str());
        let text = view::text(command, reply, own, Style { colour: false, width: Some(WIDTH) });
        text.out + &text.err
    }

    /// Who has had each of these singletons, as one of the nodes beside it tells it.
    pub(super) async fn tenures(self, singletons: Vec<(WatcherName, Vec<NodeName>)>, news: mpsc::Sender<News>) {
        for (watcher, nodes) in singletons {
            let own = self.own().await.filter(|own| nodes.contains(own)).cloned();
            let seat = own.into_iter().chain(nodes).take(1).collect();
            let target = self.straight(nodes_named(seat)).await;
            let command = Command::History { watcher: Some(watcher.to_string()), count: TENURES };
            if let Ok(reply) = self.ask(command, target).await
                && news.send(News::Tenures(reply)).await.is_err()
            {
                return;
            }
        }
    }

    /// The same; the agent's own node is asked without anybody in between.
    async fn straight(&self, target: Target) -> Target {
        match &target {
            Target::Nodes(Selector { nodes, labels }) if labels.is_empty() => match &nodes[..] {
                [NodeWord::Name(only)] if self.own().await == Some(only) => Target::Here,
                _ => target,
            },
            _ => target,
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
            (Endpoint::Unix(_), None) | (Endpoint::Zmq(_), _) => self.endpoint.to_string(),
            (Endpoint::Unix(_), Some((own, cluster))) => match cluster {
                Some(cluster) if nodes != Nodes::Here => cluster.clone(),
                _ => own.to_string(),
            },
        }
    }
}

fn nodes_named(nodes: Vec<NodeName>) -> Target {
    Target::Nodes(Selector { nodes: nodes.into_iter().map(NodeWord::Name).collect(), labels: Vec::new() })
}

/// Brings a text to be read, set as wide as the terminal is.
async fn read_out(text: &str, number: u64, news: &mpsc::Sender<News>) {
    let wide = ratatui::crossterm::terminal::size().map_or(WIDTH, |(columns, _)| usize::from(columns));
    for line in text.lines().flat_map(|line| wrapped(line, wide.saturating_sub(4))) {
        if news.send(News::Line(number, line)).await.is_err() {
            return;
        }
    }
}

/// A line in lines of so many characters at most, where its words allow that; all but the first are indented deeper.
fn wrapped(line: &str, wide: usize) -> Vec<String> {
    let indent = line.chars().take_while(|c| *c == ' ').count();
    let mut lines = Vec::new();
    let mut rest = line.to_owned();
    while let Some((end, beyond)) = rest.char_indices().nth(wide) {
        // The character beyond the end may be the blank itself.
        let Some(at) = rest[..end + beyond.len_utf8()].rfind(' ').filter(|at| !rest[..*at].trim().is_empty()) else {
            break;
        };
        let begun = rest[..at].trim_end().to_owned();
        rest = format!("{}{}", " ".repeat(indent + 4), rest[at..].trim_start());
        lines.push(begun);
    }
    lines.push(rest);
    lines
}

/// What a stream brings, of which nothing is lost where nobody waits for it any more.
fn lines(stream: Stream) -> BoxStream<'static, Result<Value, String>> {
    stream::unfold(stream, |mut stream| async {
        let line = stream.next().await.map_err(|error| error.to_string()).transpose()?;
        Some((line, stream))
    })
    .boxed()
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
    let node = line["node"].as_str().and_then(|node| NodeName::parse(node).ok());
    match line["note"].as_str() {
        Some(note) => Some(match node {
            Some(node) => News::Untold(node, note.to_owned()),
            None => News::Said(note.to_owned()),
        }),
        // Anybody may publish where they come from.
        None => wire::node_stats(line).ok().map(|stats| News::Frame(stats, wire::stats_history(line))),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_and_what_cannot_be_parted_stays_whole() {
        let set = |line: &str, wide| wrapped(line, wide).join("|");
        assert_eq!(set("  one two three", 9), "  one two|      three");
        assert_eq!(set("  one two three", 20), "  one two three");
        assert_eq!(set("x é é é é", 5), "x é é|    é|    é");
        assert_eq!(set(&"y".repeat(30), 9), "y".repeat(30));
        assert_eq!(set("", 9), "");
        assert_eq!(set("a b", 0), "a b");
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
