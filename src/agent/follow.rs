//! Those who follow this agent: each is told what happens, what processes print, or what they use, as it comes.
//!
//! ```text
//!   Followers::publish ──▶ broadcast ─┐                 a task for each follower
//!   Followers::show ─────▶ broadcast ─┼──▶ chosen, as JSON ──▶ bounded queue ──▶ its connection
//!   output of processes ─▶ broadcast ─┤        │
//!   all nodes ───────────▶ Redis ─────┘        └── no room: counted, and said as soon as there is
//! ```
//!
//! Who follows all nodes has a connection to Redis of its own, on which its task listens; what this node tells comes
//! that way, too.
//!
//! Invariants:
//! - Whoever has something to tell never waits for a follower; one that reads too slowly loses lines, and is told how
//!   many.
//! - The first line of a stream is the reply to its request; each line has the request's id.
//! - A stream ends with its client, and all of them end with the agent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::unix_time;
use crate::cluster::watch::ClusterStream;
use crate::control;
use crate::model::command::{Answer, Outcome, Refusal, Reply};
use crate::model::names::{ClusterName, WatcherName};
use crate::model::snapshot::LogLine;
use crate::model::spec::RedisSpec;
use crate::wire::{self, Follow, Subject};

/// How many streams there are at once, of all clients.
pub const MAX_FOLLOWERS: usize = 64;
/// How many events are kept for those who ask what has been.
pub const KEPT_EVENTS: usize = 1000;

/// How far the tasks of followers may be behind what happens before they lose some of it.
const BEHIND: usize = 1024;
/// How many frames a task may be behind: who sees only every tenth sees no more with a longer queue.
const FRAMES_BEHIND: usize = 8;
/// How many lines wait for one connection.
const QUEUE: usize = 128;
/// How many bytes of lines from all nodes wait for one connection.
const BACKLOG: usize = 8 << 20;
/// How long Redis may take to let somebody follow all nodes, and after what pause that is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// What followers are told of. Dropping it ends all streams.
#[derive(Debug)]
pub struct Followers {
    events: broadcast::Sender<Arc<Told>>,
    recent: VecDeque<Arc<Told>>,
    frames: broadcast::Sender<Arc<Value>>,
    /// Each follower's task has a receiver: by them they are counted, and end.
    leaving: watch::Sender<()>,
}

/// An event as it is told.
#[derive(Debug)]
struct Told {
    watcher: WatcherName,
    event: Value,
}

/// The output of the watchers that one follower is to see.
#[derive(Debug)]
pub struct Output {
    /// What has been, oldest first.
    pub recent: Vec<Arc<LogLine>>,
    /// What comes, of all watchers. Subscribed to at the same moment.
    pub live: broadcast::Receiver<Arc<LogLine>>,
    /// Those whose output the agent does not see.
    pub unseen: Vec<WatcherName>,
}

impl Default for Followers {
    fn default() -> Followers {
        Followers {
            events: broadcast::Sender::new(BEHIND),
            recent: VecDeque::new(),
            frames: broadcast::Sender::new(FRAMES_BEHIND),
            leaving: watch::Sender::new(()),
        }
    }
}

impl Followers {
    /// Tells of something that happened to `watcher`; `event` as [`wire::notice_json`] has it.
    pub fn publish(&mut self, watcher: WatcherName, event: Value) {
        let told = Arc::new(Told { watcher, event });
        if self.recent.len() == KEPT_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(&told));
        // Nobody may follow.
        let _ = self.events.send(told);
    }

    /// Shows what this node uses, as [`wire::node_stats_json`] has it; whether anybody watches.
    pub fn show(&self, frame: Value) -> bool {
        self.frames.send(Arc::new(frame)).is_ok()
    }

    /// Answers a request for the stream of this node with one, or refuses it where there are [`MAX_FOLLOWERS`] already. `output` is
    /// asked for where output is what is to be followed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn answer(
        &self,
        id: Value,
        follow: Follow,
        output: impl FnOnce(&Follow) -> Output,
        answer: oneshot::Sender<control::Answer>,
    ) {
        let Some(stream) = self.begin(id, QUEUE, answer) else { return };
        let live = follow.live;
        match follow.subject {
            Subject::Events => {
                let fitting = self.recent.iter().rev().filter(|told| follow.fits(&told.watcher));
                let mut recent: Vec<Arc<Told>> = fitting.take(follow.lines).cloned().collect();
                recent.reverse();
                let coming = live.then(|| self.events.subscribe());
                let fits = move |told: &Told| follow.fits(&told.watcher);
                tokio::spawn(stream.run(Vec::new(), recent, coming, fits, |told| told.event.clone()));
            }
            Subject::Logs => {
                let Output { recent, live: coming, unseen } = output(&follow);
                let notes = unseen.iter().map(note).collect();
                let fits = move |line: &LogLine| follow.fits(&line.watcher);
                tokio::spawn(stream.run(notes, recent, live.then_some(coming), fits, wire::log_line_json));
            }
            Subject::Stats => {
                let coming = live.then(|| self.frames.subscribe());
                let narrowed = move |frame: &Value| {
                    let mut frame = frame.clone();
                    follow.narrow(&mut frame);
                    frame
                };
                tokio::spawn(stream.run(Vec::new(), Vec::new(), coming, |_| true, narrowed));
            }
        }
    }

    /// Answers a request for the stream of several nodes, in the same way. While Redis is away the stream says so, and
    /// goes on when it is back.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn answer_from_all(&self, id: Value, follow: Follow, all: AllNodes, answer: oneshot::Sender<control::Answer>) {
        // Few lines: what waits is counted in bytes, before it gets there.
        if let Some(stream) = self.begin(id, 1, answer) {
            tokio::spawn(stream.follow_all(follow, all));
        }
    }

    /// Says that a stream begins, or that there are too many.
    fn begin(&self, id: Value, queue: usize, answer: oneshot::Sender<control::Answer>) -> Option<Stream> {
        let reply = |reply, more| {
            let line = wire::reply_json(&Outcome::Own(reply), &id, unix_time()).to_string();
            // Who asked may have hung up.
            let _ = answer.send(control::Answer { line, more });
        };
        if self.leaving.receiver_count() == MAX_FOLLOWERS {
            let why = format!("{MAX_FOLLOWERS} streams are followed already: end one of them and ask again");
            reply(Reply::Refused(Refusal::Unavailable(why)), None);
            return None;
        }
        let (lines, more) = mpsc::channel(queue);
        reply(Reply::Done(Answer::Ok), Some(more));
        Some(Stream { id, lines, leaving: self.leaving.subscribe() })
    }
}

/// Where all nodes of a cluster are heard.
#[derive(Debug, Clone)]
pub struct AllNodes {
    /// Where Redis is.
    pub redis: RedisSpec,
    /// The cluster.
    pub cluster: ClusterName,
}

impl AllNodes {
    async fn listen(&self, follow: &Follow) -> Result<ClusterStream, String> {
        ClusterStream::connect(&self.redis, &self.cluster, follow, PATIENCE).await
    }
}

/// Lines that wait for one connection, bounded by their bytes.
#[derive(Debug, Default)]
struct Backlog {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
}

impl Backlog {
    /// Takes a line, or counts it where there is no room.
    fn add(&mut self, line: impl FnOnce() -> String, dropped: impl FnOnce(u64) -> String) {
        // Half of it free: with less, every other line would tell of the one that was dropped before it.
        if self.dropped > 0 && self.bytes <= BACKLOG / 2 {
            let count = std::mem::take(&mut self.dropped);
            self.push(dropped(count));
        }
        if self.dropped > 0 || self.bytes > BACKLOG {
            self.dropped += 1;
        } else {
            self.push(line());
        }
    }

    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn pop(&mut self) -> Option<String> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        Some(line)
    }
}

fn note(unseen: &WatcherName) -> Value {
    json!({"note": format!("{unseen} writes to the agent's own output: give it a stdout_stream to see it here")})
}

/// What several nodes tell. While Redis is away it says so, and goes on when it is back.
pub(super) struct Source {
    follow: Follow,
    all: AllNodes,
    stream: Option<Box<ClusterStream>>,
    away: bool,
}

impl Source {
    /// One that has not begun to listen yet.
    pub(super) fn new(follow: Follow, all: AllNodes) -> Source {
        Source { follow, all, stream: None, away: false }
    }

    /// What comes next. Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self) -> Value {
        loop {
            let failed = match &mut self.stream {
                Some(stream) => match stream.next().await {
                    Ok(line) => return line,
                    Err(why) => why,
                },
                None => {
                    if self.away {
                        sleep(PAUSE).await;
                    }
                    match self.all.listen(&self.follow).await {
                        Ok(begun) => {
                            self.stream = Some(Box::new(begun));
                            if std::mem::take(&mut self.away) {
                                return json!({"note": "Redis is reached again; what happened meanwhile is not known"});
                            }
                            continue;
                        }
                        Err(why) => why,
                    }
                }
            };
            self.stream = None;
            if !std::mem::replace(&mut self.away, true) {
                return json!({"note": format!("Redis: {failed}; waiting for its return")});
            }
        }
    }
}

/// The way to one follower.
struct Stream {
    id: Value,
    lines: mpsc::Sender<String>,
    leaving: watch::Receiver<()>,
}

impl Stream {
    /// Tells all there is to tell: `notes`, what has been, and what comes, or that this was all.
    async fn run<T>(
        mut self,
        notes: Vec<Value>,
        recent: Vec<Arc<T>>,
        coming: Option<broadcast::Receiver<Arc<T>>>,
        fits: impl Fn(&T) -> bool,
        json: impl Fn(&T) -> Value,
    ) {
        // At the client's own pace; that costs nobody but it, and the connection knows how long is too long.
        for line in notes.into_iter().chain(recent.into_iter().map(|item| json(&item))) {
            if self.lines.send(self.text(line)).await.is_err() {
                return;
            }
        }
        match coming {
            Some(coming) => self.go_on(coming, fits, json).await,
            None => drop(self.lines.send(self.text(json!({"end": true}))).await),
        }
    }

    async fn go_on<T>(
        &mut self,
        mut coming: broadcast::Receiver<Arc<T>>,
        fits: impl Fn(&T) -> bool,
        json: impl Fn(&T) -> Value,
    ) {
        let mut dropped: u64 = 0;
        loop {
            tokio::select! {
                // In this order, so that what was lost is said where it is missing, and all that was told before the
                // agent leaves is passed on.
                biased;
                // Half the queue: with less, every other line would tell of the one that was dropped before it.
                room = self.lines.reserve_many(QUEUE / 2), if dropped > 0 => {
                    let Some(room) = room.ok().and_then(|mut room| room.next()) else { return };
                    room.send(self.text(json!({"dropped": dropped})));
                    dropped = 0;
                }
                told = coming.recv() => match told {
                    Ok(item) if !fits(&item) => {}
                    Ok(item) => match self.lines.try_reserve() {
                        Ok(room) if dropped == 0 => room.send(self.text(json(&item))),
                        Ok(_) | Err(TrySendError::Full(())) => dropped += 1,
                        Err(TrySendError::Closed(())) => return,
                    },
                    // Of whichever watchers: it is not known any more.
                    Err(RecvError::Lagged(missed)) => dropped += missed,
                    Err(RecvError::Closed) => break,
                },
                () = self.lines.closed() => return,
                _ = self.leaving.changed() => break,
            }
        }
        if dropped > 0 {
            let _ = self.lines.try_send(self.text(json!({"dropped": dropped})));
        }
    }

    /// Tells what all nodes tell, for as long as the client listens.
    async fn follow_all(mut self, follow: Follow, all: AllNodes) {
        let mut backlog = Backlog::default();
        let mut source = Source::new(follow, all);
        loop {
            tokio::select! {
                biased;
                room = self.lines.reserve(), if !backlog.lines.is_empty() => {
                    let (Ok(room), Some(line)) = (room, backlog.pop()) else { return };
                    room.send(line);
                }
                line = source.next() => {
                    backlog.add(|| self.text(line), |dropped| self.text(json!({"dropped": dropped})));
                }
                () = self.lines.closed() => return,
                _ = self.leaving.changed() => return,
            }
        }
    }

    fn text(&self, mut line: Value) -> String {
        line["id"] = self.id.clone();
        line.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pattern::Pattern;
    use std::time::Duration;
    use tokio::time::timeout;

    fn name(name: &str) -> WatcherName {
        WatcherName::parse(name).unwrap()
    }

    fn follow(subject: Subject, lines: usize, live: bool) -> Follow {
        Follow { names: vec![Pattern::Glob("web*".into())], lines, live, ..Follow::all(subject) }
    }

    fn line(watcher: &str, text: &str) -> Arc<LogLine> {
        let bytes = text.as_bytes().to_vec();
        Arc::new(LogLine { watcher: name(watcher), wid: 1, pid: 7, stream: "stdout", time: 1.0, bytes })
    }

    fn no_output(_: &Follow) -> Output {
        unreachable!("events have nothing to do with output")
    }

    /// What comes next in a stream, or nothing at its end.
    async fn next(more: &mut mpsc::Receiver<String>) -> Option<Value> {
        let line = timeout(Duration::from_secs(10), more.recv()).await.expect("a line or the end")?;
        Some(serde_json::from_str(&line).unwrap())
    }

    async fn ask(
        followers: &Followers,
        wanted: Follow,
        output: impl FnOnce(&Follow) -> Output,
    ) -> (Value, Option<mpsc::Receiver<String>>) {
        let (sender, answer) = oneshot::channel();
        followers.answer(json!("me"), wanted, output, sender);
        let control::Answer { line, more } = answer.await.unwrap();
        (serde_json::from_str(&line).unwrap(), more)
    }

    #[tokio::test]
    async fn an_event_reaches_those_who_follow_its_watcher_and_ends_with_the_agent() {
        let mut followers = Followers::default();
        for number in 0..3 {
            followers.publish(name("web"), json!({"number": number}));
            followers.publish(name("beat"), json!({}));
        }
        let (reply, more) = ask(&followers, follow(Subject::Events, 2, true), no_output).await;
        assert_eq!((&reply["status"], &reply["id"]), (&json!("ok"), &json!("me")));
        let mut more = more.unwrap();
        followers.publish(name("beat"), json!({}));
        followers.publish(name("web-2"), json!({"number": 3}));
        for number in 1..4 {
            assert_eq!(next(&mut more).await, Some(json!({"number": number, "id": "me"})));
        }
        followers.publish(name("web"), json!({"number": 4}));
        drop(followers);
        assert_eq!(next(&mut more).await.unwrap()["number"], 4, "what was told last is still heard");
        assert_eq!(next(&mut more).await, None);
    }

    #[tokio::test]
    async fn only_so_many_events_are_kept() {
        let mut followers = Followers::default();
        for number in 0..=KEPT_EVENTS {
            followers.publish(name("web"), json!({"number": number}));
        }
        let (_, more) = ask(&followers, follow(Subject::Events, usize::MAX, false), no_output).await;
        let mut more = more.unwrap();
        for number in 1..=KEPT_EVENTS {
            assert_eq!(next(&mut more).await.unwrap()["number"], number);
        }
        assert_eq!(next(&mut more).await, Some(json!({"end": true, "id": "me"})));
        assert_eq!(next(&mut more).await, None);
    }

    #[tokio::test]
    async fn output_comes_after_a_note_on_what_is_not_seen_and_then_live() {
        let followers = Followers::default();
        let source = broadcast::Sender::new(8);
        let output = |_: &Follow| Output {
            recent: vec![line("web", "old")],
            live: source.subscribe(),
            unseen: vec![name("web-2")],
        };
        let (_, more) = ask(&followers, follow(Subject::Logs, 9, true), output).await;
        let mut more = more.unwrap();
        source.send(line("beat", "tick")).unwrap();
        source.send(line("web", "new")).unwrap();
        assert!(next(&mut more).await.unwrap()["note"].as_str().unwrap().starts_with("web-2 writes to the agent's"));
        assert_eq!(next(&mut more).await.unwrap()["line"], "old");
        assert_eq!(next(&mut more).await.unwrap()["line"], "new");
        drop(followers);
        assert_eq!(next(&mut more).await, None, "although there is more output to come");
    }

    #[tokio::test]
    async fn who_reads_too_slowly_is_told_how_many_lines_were_lost() {
        let followers = Followers::default();
        let source = broadcast::Sender::new(4 * QUEUE);
        let output = |_: &Follow| Output { recent: Vec::new(), live: source.subscribe(), unseen: Vec::new() };
        let (_, more) = ask(&followers, follow(Subject::Logs, 0, true), output).await;
        let mut more = more.unwrap();
        for number in 0..2 * QUEUE {
            source.send(line("web", &number.to_string())).unwrap();
            // What is not asked for is not missed.
            source.send(line("beat", "tick")).unwrap();
        }
        while !source.is_empty() {
            tokio::task::yield_now().await;
        }
        for number in 0..QUEUE {
            assert_eq!(next(&mut more).await.unwrap()["line"], number.to_string());
        }
        assert_eq!(next(&mut more).await, Some(json!({"dropped": QUEUE, "id": "me"})));
        source.send(line("web", "again")).unwrap();
        assert_eq!(next(&mut more).await.unwrap()["line"], "again");
    }

    #[test]
    fn what_waits_for_a_slow_reader_of_all_nodes_is_bounded_and_what_is_lost_is_told_where_it_is_missing() {
        let mut backlog = Backlog::default();
        let line = "x".repeat(BACKLOG / 8);
        let add = |backlog: &mut Backlog| backlog.add(|| line.clone(), |dropped| format!("dropped {dropped}"));
        (0..20).for_each(|_| add(&mut backlog));
        assert_eq!((backlog.lines.len(), backlog.dropped), (9, 11), "one over the bound ends it");
        for _ in 0..3 {
            backlog.pop();
        }
        add(&mut backlog);
        assert_eq!((backlog.lines.len(), backlog.dropped), (6, 12), "not before half of it is free");
        for _ in 0..2 {
            backlog.pop();
        }
        add(&mut backlog);
        let said: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        assert_eq!((said.len(), said[4].as_str(), backlog.bytes), (6, "dropped 12", 0));
    }

    #[tokio::test]
    async fn frames_are_narrowed_to_what_is_followed_and_show_says_whether_anybody_watches() {
        let followers = Followers::default();
        assert!(!followers.show(json!({})));
        let (_, more) = ask(&followers, follow(Subject::Stats, 0, true), no_output).await;
        let mut more = more.unwrap();
        let frame = json!({"node": "a", "watchers": [{"name": "beat"}, {"name": "web-2"}]});
        assert!(followers.show(frame));
        let narrowed = json!({"node": "a", "watchers": [{"name": "web-2"}], "id": "me"});
        assert_eq!(next(&mut more).await, Some(narrowed));
        drop(more);
        while followers.show(json!({"watchers": []})) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_follower_too_many_is_refused_until_one_leaves() {
        let followers = Followers::default();
        let mut streams = Vec::new();
        for _ in 0..MAX_FOLLOWERS {
            streams.push(ask(&followers, follow(Subject::Events, 0, true), no_output).await.1.unwrap());
        }
        let (reply, more) = ask(&followers, follow(Subject::Events, 0, true), no_output).await;
        assert!(reply["reason"].as_str().unwrap().starts_with("64 streams are followed already"), "{reply}");
        assert!(more.is_none());
        streams.pop();
        while followers.leaving.receiver_count() == MAX_FOLLOWERS {
            tokio::task::yield_now().await;
        }
        let (reply, _) = ask(&followers, follow(Subject::Events, 0, true), no_output).await;
        assert_eq!(reply["status"], "ok");
    }
}
