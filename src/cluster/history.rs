//! What is kept of leases' tenures and of schedules' slots, and whether a token still counts.
//!
//! A fact is measured on this machine's clock and kept with Redis's time, so that the facts of all nodes can be compared:
//! before one is written Redis is asked what time it is. The half of how long that took is how far the time may be off.
//! A node that is cut off thus tells the right time when it is back, however late.
//!
//! Invariants:
//! - Facts wait in a bounded queue and are tried until Redis has taken them, in whichever order, or the agent ends. Whoever
//!   orders one waits for nothing.
//! - An answer that was lost may keep a fact twice; who reads them counts it once ([`crate::model::history::fold`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::future::join_all;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::link::Link;
use super::scripts::{self, Call};
use super::servers::{Server, Servers};
use crate::model::event::{Exit, HistoryRead, ScheduleRead, TokenState};
use crate::model::history::{Before, Cause, Ending, Entry, Fact, KEPT, Left, What};
use crate::model::names::{LeaseName, NodeName, Owner, WatcherName};
use crate::model::runs::{self, How, Turn};
use crate::model::spec::Slot;
use crate::model::time::Time;

/// How many facts may wait to be written: those of many singletons that are all lost in one outage.
const QUEUE: usize = 1024;
/// How many characters of a reason are kept, and of who asked.
const MAX_TEXT: usize = 200;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much longer a few servers may take than most.
const A_MOMENT: Duration = Duration::from_millis(100);
/// How long after a failure it is tried again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Where a node's facts go: to each server for itself.
pub(super) struct Recorder {
    queues: Vec<mpsc::Sender<(LeaseName, Fact)>>,
    dropped: u64,
    /// They end with this value.
    tasks: JoinSet<()>,
}

impl Recorder {
    /// Keeps facts of the node that is called so on all of `servers`, in a task for each.
    pub(super) fn start(node: &watch::Receiver<NodeName>, servers: &Servers) -> Recorder {
        let mut tasks = JoinSet::new();
        let start = |server: &Server| {
            let (queue, queued) = mpsc::channel(QUEUE);
            tasks.spawn(keep(node.clone(), server.link.clone(), queued));
            queue
        };
        let queues = servers.iter().map(start).collect();
        Recorder { queues, dropped: 0, tasks }
    }

    /// Keeps a fact as soon as it can be.
    pub(super) fn record(&mut self, lease: &LeaseName, fact: &Fact) {
        let sent = self.queues.iter().map(|queue| queue.try_send((lease.clone(), fact.clone())).is_ok());
        // Any one of the servers can tell it later.
        if sent.filter(|sent| *sent).count() == 0 {
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::warn!(dropped = self.dropped, "facts are missing in the history of leases");
            }
        }
    }

    /// Waits until most servers have all that was to be kept: one that is away is not waited for.
    pub(super) async fn settled(mut self) {
        let majority = self.queues.len() / 2 + 1;
        self.queues.clear();
        for _ in 0..majority {
            // A panic has been reported where it was.
            let _ = self.tasks.join_next().await;
        }
        // The others may be about to have it, too.
        let _ = timeout(A_MOMENT, self.tasks.join_all()).await;
    }
}

async fn keep(node: watch::Receiver<NodeName>, link: Link, mut queued: mpsc::Receiver<(LeaseName, Fact)>) {
    let mut pause = PAUSES.0;
    // What could not be written makes way for the next: a key that somebody spoilt holds up no other lease.
    let mut again = VecDeque::new();
    loop {
        while again.len() < QUEUE
            && let Ok(next) = queued.try_recv()
        {
            again.push_back(next);
        }
        let next = match again.pop_front() {
            Some(next) => Some(next),
            None => queued.recv().await,
        };
        let Some((lease, fact)) = next else { return };
        let name = node.borrow().clone();
        match write(&name, &link, &lease, &fact).await {
            Ok(()) => pause = PAUSES.0,
            Err(reason) => {
                tracing::debug!(%reason, %lease, "a fact about it is not kept yet");
                again.push_back((lease, fact));
                sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

async fn write(node: &NodeName, link: &Link, lease: &LeaseName, fact: &Fact) -> Result<(), String> {
    let sent = boottime();
    let clock = link.call(&read_call(lease.history_key(), 0), PATIENCE).await?;
    let took = boottime().since(sent);
    let now = clock.first().and_then(|now| now.parse().ok()).ok_or("Redis does not say what time it is")?;
    let at = Measured { now, slack: millis(took).div_ceil(2), ago: millis((sent + took / 2).since(fact.at)) };
    link.call(&record_call(node, lease, fact, at), PATIENCE).await.map(drop)
}

/// What time it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    /// The store's clock, ms.
    pub(super) now: u64,
    /// How far it may be off, ms.
    pub(super) slack: u64,
    /// How long before that the fact was so, ms.
    pub(super) ago: u64,
}

fn boottime() -> Time {
    // The clock is there since Linux 2.6.39, and the argument is a constant: it cannot fail.
    Time::ZERO + clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The call that keeps a fact.
fn record_call(node: &NodeName, lease: &LeaseName, fact: &Fact, at: Measured) -> Call {
    let (stream, kept) = match &fact.what {
        What::Run { watcher, .. } => (lease.runs_key(watcher), runs::KEPT),
        What::Started { .. } | What::Ended(_) | What::Idle(_) | What::Renamed { .. } => (lease.history_key(), KEPT),
    };
    let mut args = vec![fact.token.to_string(), kept.to_string()];
    args.extend(fields(node, fact, at).into_iter().flat_map(|(name, text)| [name.to_owned(), text]));
    Call { script: scripts::RECORD, keys: vec![stream, lease.meta_key()], args }
}

/// The call that reads the latest `count` facts of a stream.
fn read_call(stream: String, count: usize) -> Call {
    Call { script: scripts::HISTORY, keys: vec![stream], args: vec![count.to_string()] }
}

/// Reads all that is kept of these leases, and of the schedules that go by them: from the server that knows most of the
/// latest tenures, because times of several servers cannot be compared.
///
/// # Errors
/// The reason in words.
pub(super) async fn read(
    servers: Servers,
    leases: Vec<LeaseName>,
    schedules: Vec<(LeaseName, WatcherName)>,
    patience: Duration,
) -> Result<HistoryRead, String> {
    let mut reading = Vec::new();
    for server in servers.iter() {
        reading.push(read_one(&server.link, &leases, &schedules, patience));
    }
    let known = |read: &HistoryRead| {
        let of_schedules = || read.schedules.iter().flat_map(|read| &read.entries);
        let entries = || read.leases.iter().flat_map(|(_, entries)| entries).chain(of_schedules());
        (entries().map(|entry| entry.token).max(), entries().count())
    };
    let by_knowledge = |a: &Result<HistoryRead, String>, b: &Result<HistoryRead, String>| {
        a.as_ref().ok().map(known).cmp(&b.as_ref().ok().map(known))
    };
    join_all(reading).await.into_iter().max_by(by_knowledge).unwrap_or_else(|| Err("there is no server".into()))
}

async fn read_one(
    link: &Link,
    leases: &[LeaseName],
    schedules: &[(LeaseName, WatcherName)],
    patience: Duration,
) -> Result<HistoryRead, String> {
    let mut read = HistoryRead::default();
    let facts = async |stream: String, kept: usize| {
        // The bound is about right: a stream is cut where its nodes in memory end.
        let words = link.call(&read_call(stream, 2 * kept), patience).await?;
        entries(&words).ok_or_else(|| format!("Redis answered nonsense: {words:?}"))
    };
    for lease in leases {
        let (now, entries) = facts(lease.history_key(), KEPT).await?;
        read.now = now;
        read.leases.push((lease.watcher.clone(), entries));
    }
    for (lease, watcher) in schedules {
        let (now, entries) = facts(lease.runs_key(watcher), runs::KEPT).await?;
        read.now = now;
        // Only the latest of those that ran something can still hold the lease.
        let latest = entries.iter().map(|entry| entry.token).max();
        let mut holder = None;
        if let Some(token) = latest
            && let Ok(TokenState::Holds { .. }) = token_state(&link.call(&check_call(lease, token), patience).await?)
        {
            holder = Some(token);
        }
        read.schedules.push(ScheduleRead { watcher: watcher.clone(), entries, holder });
    }
    Ok(read)
}

/// The call that asks how a token stands.
pub(super) fn check_call(lease: &LeaseName, token: u64) -> Call {
    Call { script: scripts::CHECK, keys: vec![lease.lease_key(), lease.meta_key()], args: vec![token.to_string()] }
}

/// What [`check_call`]'s answer means.
///
/// # Errors
/// The store does not know.
pub(super) fn token_state(words: &[String]) -> Result<TokenState, String> {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let some = |at: usize| Some(word(at)).filter(|word| !word.is_empty());
    match (word(0), word(1).parse()) {
        ("holds", Ok(left)) => Ok(TokenState::Holds { left: Duration::from_millis(left) }),
        ("over", _) => Ok(TokenState::Over {
            holder: some(1).map(Owner::node_in),
            token: some(2).and_then(|token| token.parse().ok()),
        }),
        ("unsure", _) => Err(word(1).to_owned()),
        _ => Err(format!("Redis answered nonsense: {words:?}")),
    }
}

/// What most of several servers say of a token.
///
/// # Errors
/// They do not agree, or cannot be asked: what they say.
pub(super) fn agreed(mut states: Vec<Result<TokenState, String>>) -> Result<TokenState, String> {
    if states.len() == 1 {
        return states.remove(0);
    }
    let majority = states.len() / 2 + 1;
    let (mut left, mut over, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for state in states {
        match state {
            Ok(TokenState::Holds { left: its }) => left.push(its),
            Ok(state @ TokenState::Over { .. }) => over.push(state),
            Err(reason) => reasons.push(reason),
        }
    }
    left.sort_unstable_by(|a, b| b.cmp(a));
    match (left.get(majority - 1), over.len() >= majority) {
        (Some(left), _) => Ok(TokenState::Holds { left: *left }),
        // Who holds it is best told by one that knows of somebody.
        (None, true) => {
            let known = |state: &TokenState| matches!(state, TokenState::Over { holder: Some(_), .. });
            Ok(over.iter().find(|state| known(state)).unwrap_or(&over[0]).clone())
        }
        (None, false) => Err(format!(
            "no majority of servers: {} say it holds, {} that it is over, {} nothing ({})",
            left.len(),
            over.len(),
            reasons.len(),
            reasons.join("; ")
        )),
    }
}

/// A fact as names and texts, as a store keeps it.
pub(super) fn fields(node: &NodeName, fact: &Fact, at: Measured) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("node", node.to_string()),
        ("at", at.now.saturating_sub(at.ago).to_string()),
        ("slack", at.slack.to_string()),
    ];
    match &fact.what {
        What::Started { pid } => fields.extend([("what", "started".to_owned()), ("pid", pid.to_string())]),
        What::Renamed { from } => fields.extend([("what", "renamed".to_owned()), ("from", from.clone())]),
        What::Run { watcher, slot, turn } => {
            fields.extend([("of", watcher.to_string()), ("slot", slot.0.to_string())]);
            fields.extend(turn_fields(turn));
        }
        What::Ended(ending) | What::Idle(ending) => {
            let Ending { cause, detail, by } = ending;
            let what = if matches!(fact.what, What::Idle(_)) { "idle" } else { "ended" };
            fields.extend([("what", what.to_owned()), ("cause", cause.word().to_owned())]);
            fields.extend(detail.as_deref().map(|detail| ("detail", short(detail))));
            fields.extend(by.as_deref().map(|by| ("by", short(by))));
        }
    }
    fields
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// What was told of a slot, as names and texts.
fn turn_fields(turn: &Turn) -> Vec<(&'static str, String)> {
    let what = |word: &str| ("what", word.to_owned());
    match turn {
        Turn::Claimed => vec![what("claimed")],
        Turn::Began { pid } => vec![what("began"), ("pid", pid.to_string())],
        Turn::Ended { how, told } => {
            let how = match how {
                How::Exit(Exit::Code(code)) => ("code", code.to_string()),
                How::Exit(Exit::Signal(signal)) => ("signal", signal.to_string()),
                How::Exit(Exit::Lost) => ("lost", "1".to_owned()),
                How::Failed(why) => ("why", short(why)),
            };
            let told = told.then(|| ("told", "1".to_owned()));
            [what("run-ended"), how].into_iter().chain(told).collect()
        }
        Turn::PassedOver { why } => vec![what("passed"), ("why", short(why))],
        Turn::Missed { why } => vec![what("missed"), ("why", short(why))],
    }
}

/// The fact that these names and texts are; nothing where they are none that this version knows.
pub(super) fn entry(fields: &BTreeMap<&str, &str>) -> Option<Entry> {
    let text = |name: &str| fields.get(name).map(ToString::to_string);
    let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
    let run = |turn: Turn| {
        Some(What::Run { watcher: WatcherName::parse(fields.get("of")?).ok()?, slot: Slot(number("slot")?), turn })
    };
    let what = match *fields.get("what")? {
        "started" => What::Started { pid: number("pid")?.try_into().ok()? },
        "renamed" => What::Renamed { from: text("from")? },
        "claimed" => run(Turn::Claimed)?,
        "began" => run(Turn::Began { pid: number("pid")?.try_into().ok()? })?,
        "run-ended" => {
            let signed = |name: &str| fields.get(name)?.parse::<i32>().ok();
            let exit = signed("code").map(Exit::Code).or_else(|| signed("signal").map(Exit::Signal));
            let exit = exit.or_else(|| text("lost").map(|_| Exit::Lost)).map(How::Exit);
            let how = exit.or_else(|| text("why").map(How::Failed))?;
            run(Turn::Ended { how, told: text("told").is_some() })?
        }
        "passed" => run(Turn::PassedOver { why: text("why")? })?,
        "missed" => run(Turn::Missed { why: text("why")? })?,
        what @ ("ended" | "idle") => {
            let cause = Cause::parse(fields.get("cause")?)?;
            let ending = Ending { cause, detail: text("detail"), by: text("by") };
            if what == "idle" { What::Idle(ending) } else { What::Ended(ending) }
        }
        _ => return None,
    };
    let before = || {
        let left = Left::parse(fields.get("was_left")?)?;
        Some(Before {
            token: number("was_tok")?,
            node: Owner::node_in(fields.get("was_id")?),
            seen: number("was_seen"),
            left,
        })
    };
    let before = matches!(what, What::Started { .. }).then(before).flatten();
    Some(Entry { token: number("tok")?, node: text("node")?, at: number("at")?, slack: number("slack")?, what, before })
}

/// Redis's clock and the facts in an answer of `history.lua`.
fn entries(words: &[String]) -> Option<(u64, Vec<Entry>)> {
    let (now, mut rest) = words.split_first()?;
    let mut entries = Vec::new();
    while let Some((count, more)) = rest.split_first() {
        let (own, others) = more.split_at_checked(count.parse().ok()?)?;
        let pairs = own.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str()));
        entries.extend(entry(&pairs.collect()));
        rest = others;
    }
    Some((now.parse().ok()?, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::ClusterName;

    fn lease() -> LeaseName {
        LeaseName {
            cluster: ClusterName::parse("prod").unwrap(),
            watcher: WatcherName::parse("beat").unwrap(),
            key: None,
        }
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fact_reads_back_with_redis_time_and_what_the_script_adds() {
        let node = NodeName::parse("web-1").unwrap();
        let at = Measured { now: 10_000, slack: 2, ago: 1_500 };
        let ending = Ending { cause: Cause::Moved, detail: Some("web-2".into()), by: Some("amy".into()) };
        let renamed = What::Renamed { from: "web-0".into() };
        for what in [What::Started { pid: 7 }, What::Ended(ending), What::Idle(Ending::of(Cause::Expired)), renamed] {
            let fact = Fact { token: 5, at: Time::ZERO, what: what.clone() };
            let call = record_call(&node, &lease(), &fact, at);
            assert_eq!(call.keys, ["circus:{prod/beat}:history", "circus:{prod/beat}:meta"]);
            let was = ["was_id", "web-3:00000000000000000000000000000007", "was_tok", "4", "was_seen", "", "was_left"];
            let mut own = words(&["tok", &call.args[0]]);
            own.extend(call.args[2..].iter().cloned().chain(words(&was)).chain(["released".to_owned()]));
            let answer: Vec<String> = ["11000".to_owned(), own.len().to_string()].into_iter().chain(own).collect();
            let before = Before { token: 4, node: "web-3".into(), seen: None, left: Left::Released };
            let before = matches!(what, What::Started { .. }).then_some(before);
            let read = Entry { token: 5, node: "web-1".into(), at: 8_500, slack: 2, what, before };
            assert_eq!(entries(&answer), Some((11_000, vec![read])));
        }
    }

    #[test]
    fn a_fact_about_a_slot_goes_to_its_schedule_and_reads_back() {
        let (node, watcher) = (NodeName::parse("web-1").unwrap(), WatcherName::parse("job").unwrap());
        let at = Measured { now: 10_000, slack: 2, ago: 1_500 };
        let ended = |how, told| Turn::Ended { how, told };
        for turn in [
            Turn::Claimed,
            Turn::Began { pid: 7 },
            ended(How::Exit(Exit::Code(0)), false),
            ended(How::Exit(Exit::Signal(9)), true),
            ended(How::Exit(Exit::Lost), false),
            ended(How::Failed("no such file".into()), false),
            Turn::PassedOver { why: "the run before goes on".into() },
            Turn::Missed { why: "late".into() },
        ] {
            let what = What::Run { watcher: watcher.clone(), slot: Slot(9), turn };
            let call = record_call(&node, &lease(), &Fact { token: 5, at: Time::ZERO, what: what.clone() }, at);
            assert_eq!(call.keys, ["circus:{prod/beat}:runs:job", "circus:{prod/beat}:meta"]);
            let own = words(&["tok", "5"]).into_iter().chain(call.args[2..].iter().cloned()).collect::<Vec<_>>();
            let answer: Vec<String> = ["11000".to_owned(), own.len().to_string()].into_iter().chain(own).collect();
            let read = Entry { token: 5, node: "web-1".into(), at: 8_500, slack: 2, what, before: None };
            assert_eq!(entries(&answer), Some((11_000, vec![read])));
        }
    }

    #[test]
    fn facts_of_another_version_are_passed_over_and_nonsense_is_none() {
        let answer = words(&["9", "2", "what", "eaten", "4", "what", "ended", "cause", "eaten"]);
        assert_eq!(entries(&answer), Some((9, vec![])));
        for nonsense in [&[][..], &["x"], &["9", "2", "what"], &["9", "x"]] {
            assert_eq!(entries(&words(nonsense)), None, "{nonsense:?}");
        }
    }

    #[test]
    fn of_several_servers_most_say_how_a_token_stands() {
        let holds = |left| Ok(TokenState::Holds { left: Duration::from_secs(left) });
        let over = || Ok(TokenState::Over { holder: None, token: Some(8) });
        let silent = || Err("refused".to_owned());
        assert_eq!(agreed(vec![holds(9)]), holds(9));
        assert_eq!(agreed(vec![holds(9), over(), holds(5)]), holds(5), "for as long as most say so");
        assert_eq!(agreed(vec![over(), holds(9), over()]), over());
        assert!(agreed(vec![over(), holds(9), silent()]).unwrap_err().contains("refused"));
    }

    #[test]
    fn how_a_token_stands_is_read_and_what_is_not_known_is_an_error() {
        let holds = TokenState::Holds { left: Duration::from_millis(1_500) };
        assert_eq!(token_state(&words(&["holds", "1500"])), Ok(holds));
        let over = |holder: Option<&str>, token| Ok(TokenState::Over { holder: holder.map(str::to_owned), token });
        assert_eq!(token_state(&words(&["over", "", "7"])), over(None, Some(7)));
        assert_eq!(token_state(&words(&["over", "somebody", ""])), over(Some("somebody"), None));
        assert_eq!(token_state(&words(&["unsure", "why"])), Err("why".into()));
        assert!(token_state(&words(&["holds", "x"])).is_err());
    }
}
