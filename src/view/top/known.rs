//! What is known of the cluster: the latest frame of each node, what came before it as curves, and what has happened.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::curve::Curve;
use super::holders::Tenure;
use crate::model::names::{NodeName, WatcherName};
use crate::model::snapshot::LeaseRole;
use crate::model::stats::{History, Keeper, LeaseStats, NodeStats, Point, Used, WatcherStats};
use crate::model::time::Time;

/// A node says something each second; one that kept silent for longer than this shows what was, not what is.
const SILENT: Duration = Duration::from_millis(3_500);
/// For how long restarts are counted, and over how many seconds events.
const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: f64 = 60.0;
/// How many events are kept.
const EVENTS: usize = 500;

/// What is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) nodes: BTreeMap<NodeName, Heard>,
    /// What the registry says of each node.
    pub(super) roster: BTreeMap<NodeName, Listed>,
    /// The latest last.
    pub(super) events: VecDeque<String>,
    /// When they happened, in seconds of the Unix epoch.
    times: VecDeque<f64>,
    /// Who has had each singleton, by its name.
    pub(super) tenures: BTreeMap<String, Vec<Tenure>>,
    /// Why nodes do not tell how they are.
    pub(super) untold: BTreeMap<NodeName, String>,
    /// Restarts that were seen: when, and how many.
    restarts: VecDeque<(Time, u64)>,
}

/// One node's latest frame.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) stats: NodeStats,
    /// When it came.
    pub(super) at: Time,
    /// What each watcher of the frame uses: summed once, looked at often.
    pub(super) used: Vec<Used>,
    pub(super) cpu: Curve,
    pub(super) memory: Curve,
    /// The CPU of each watcher.
    curves: BTreeMap<WatcherName, Curve>,
}

/// What the registry says of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The node.
    pub name: NodeName,
    /// Its state, in the word of `nodes`.
    pub state: String,
    /// How long its agent has been up.
    pub up: Option<Duration>,
    /// Singletons it holds.
    pub holds: Vec<String>,
}

/// A watcher on a node.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) node: &'a NodeName,
    pub(super) stats: &'a WatcherStats,
    pub(super) used: Used,
    pub(super) heard: &'a Heard,
    /// How long its node has kept silent, where that is too long.
    pub(super) silent: Option<Duration>,
}

/// A singleton, put together from what all nodes say.
pub(super) struct Singleton<'a> {
    pub(super) name: &'a WatcherName,
    /// Who holds it, as far as anybody knows.
    pub(super) holder: Option<&'a NodeName>,
    /// What the holder itself says.
    pub(super) held: Option<Part<'a>>,
    pub(super) lease: Option<&'a LeaseStats>,
    pub(super) state: &'a str,
    pub(super) note: Option<&'a str>,
}

impl Known {
    /// Takes in what a node said at `now`.
    pub(super) fn frame(&mut self, stats: NodeStats, now: Time) {
        let used: Vec<Used> = stats.watchers.iter().map(WatcherStats::used).collect();
        let all = Used::sum(used.iter().copied());
        self.untold.remove(&stats.node);
        let before = self.nodes.remove(&stats.node);
        if let Some(before) = &before {
            self.count_restarts(&before.stats, &stats, now);
        }
        let (mut cpu, mut memory, mut old) =
            before.map(|heard| (heard.cpu, heard.memory, heard.curves)).unwrap_or_default();
        cpu.push(all.cpu, now);
        memory.push(all.resident as f64, now);
        // Of watchers that are gone nothing stays.
        let curves = stats.watchers.iter().zip(&used).map(|(watcher, used)| {
            let mut curve = old.remove(&watcher.name).unwrap_or_default();
            curve.push(used.cpu, now);
            (watcher.name.clone(), curve)
        });
        let curves = curves.collect();
        self.nodes.insert(stats.node.clone(), Heard { stats, at: now, used, cpu, memory, curves });
    }

    /// Takes in what a node, whose frame has come, has kept of the time before.
    pub(super) fn history(&mut self, node: &NodeName, history: &History) {
        // With steps of another length it would tell of another time.
        let Some(heard) = self.nodes.get_mut(node).filter(|_| history.step == Keeper::STEP) else { return };
        let pasts = || history.watchers.iter().map(|(_, past)| past);
        let longest = pasts().map(|past| past.len()).max().unwrap_or(0);
        let mut sums: Vec<Option<(f64, u64)>> = vec![None; longest];
        for past in pasts() {
            for (sum, Point { cpu, resident }) in
                sums.iter_mut().zip(past.iter().rev()).filter_map(|(sum, point)| Some((sum, (*point)?)))
            {
                let (all, bytes) = sum.unwrap_or_default();
                *sum = Some((all + cpu, bytes.saturating_add(resident)));
            }
        }
        heard.cpu.begin_with(sums.iter().map(|sum| sum.map(|(cpu, _)| cpu)));
        heard.memory.begin_with(sums.iter().map(|sum| sum.map(|(_, bytes)| bytes as f64)));
        for (name, past) in &history.watchers {
            if let Some(curve) = heard.curves.get_mut(name) {
                curve.begin_with(past.iter().rev().map(|point| Some((*point)?.cpu)));
            }
        }
    }

    /// Takes in what the registry says; nodes that it knows to be gone are forgotten.
    pub(super) fn list(&mut self, rows: Vec<Listed>) {
        for row in rows.iter().filter(|row| row.state == "gone") {
            self.nodes.remove(&row.name);
        }
        let there = rows.into_iter().filter(|row| row.state != "gone");
        self.roster = there.map(|row| (row.name.clone(), row)).collect();
    }

    /// Takes in an event, which happened at `time`.
    pub(super) fn event(&mut self, line: String, time: Option<f64>) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(line);
        if let Some(time) = time {
            self.times.push_back(time);
            self.times.drain(..self.times.len().saturating_sub(EVENTS));
        }
    }

    /// Events a second, of the last minute, at `unix`.
    pub(super) fn event_rate(&self, unix: f64) -> f64 {
        let latest = self.times.iter().filter(|time| **time > unix - MINUTE);
        // Where there were more than are kept, those reach back less far.
        let reach = match self.times.front() {
            Some(first) if self.times.len() == EVENTS => (unix - first).clamp(1.0, MINUTE),
            _ => MINUTE,
        };
        latest.count() as f64 / reach
    }

    fn count_restarts(&mut self, before: &NodeStats, stats: &NodeStats, now: Time) {
        let old: BTreeMap<_, _> = before.watchers.iter().map(|watcher| (&watcher.name, watcher.restarts)).collect();
        let more = stats.watchers.iter().filter_map(|watcher| watcher.restarts.checked_sub(*old.get(&watcher.name)?));
        let more: u64 = more.sum();
        if more > 0 {
            self.restarts.push_back((now, more));
        }
        self.restarts.retain(|(at, _)| now.since(*at) < HOUR);
    }

    /// How many restarts were seen in the last hour.
    pub(super) fn restarts(&self, now: Time) -> u64 {
        self.restarts.iter().filter(|(at, _)| now.since(*at) < HOUR).map(|(_, count)| count).sum()
    }

    /// How long the slowest holder of a lease took to refresh it: how Redis is.
    pub(super) fn latency(&self, now: Time) -> Option<Duration> {
        let watchers = self.heard(now).flat_map(|heard| &heard.stats.watchers);
        let held =
            watchers.filter_map(|watcher| watcher.lease.as_ref()).filter(|lease| lease.role == LeaseRole::Holder);
        held.filter_map(|lease| lease.latency).max()
    }

    /// When anything was heard last.
    pub(super) fn latest(&self) -> Option<Time> {
        self.nodes.values().map(|heard| heard.at).max()
    }

    /// For how long nothing has been heard, where that is too long.
    pub(super) fn stale(&self, now: Time) -> Option<Duration> {
        self.latest().map(|at| now.since(at)).filter(|silent| *silent > SILENT)
    }

    /// How long one node has kept silent while others spoke. Where all are silent they are seen as they were then, and
    /// it is said of the whole ([`Known::stale`]).
    pub(super) fn silent(&self, heard: &Heard, now: Time) -> Option<Duration> {
        heard.silent(self.judged(now))
    }

    /// The moment by which nodes are judged. It looks at all of them, and is asked for once for all.
    fn judged(&self, now: Time) -> Time {
        self.latest().filter(|latest| now.since(*latest) > SILENT).unwrap_or(now)
    }

    /// Every watcher on every node.
    pub(super) fn parts(&self, now: Time) -> impl Iterator<Item = Part<'_>> {
        let then = self.judged(now);
        self.nodes.iter().flat_map(move |(node, heard)| {
            let silent = heard.silent(then);
            let watchers = heard.stats.watchers.iter().zip(&heard.used);
            watchers.map(move |(stats, used)| Part { node, stats, used: *used, heard, silent })
        })
    }

    /// Each singleton, by name.
    pub(super) fn singletons(&self, now: Time) -> Vec<Singleton<'_>> {
        let mut found: BTreeMap<&WatcherName, Vec<Part>> = BTreeMap::new();
        for part in self.parts(now).filter(|part| part.stats.lease.is_some()) {
            found.entry(&part.stats.name).or_default().push(part);
        }
        found.into_iter().map(|(name, parts)| Singleton::of(name, &parts)).collect()
    }

    /// The frames of nodes that are heard.
    pub(super) fn heard(&self, now: Time) -> impl Iterator<Item = &Heard> + Clone {
        let then = self.judged(now);
        self.nodes.values().filter(move |heard| heard.silent(then).is_none())
    }
}

impl Heard {
    fn silent(&self, then: Time) -> Option<Duration> {
        Some(then.since(self.at)).filter(|silent| *silent > SILENT)
    }
}

impl<'a> Singleton<'a> {
    fn of(name: &'a WatcherName, parts: &[Part<'a>]) -> Singleton<'a> {
        use crate::model::snapshot::LeaseRole::{Holder, Losing};
        let holds = |part: &&Part| part.lease().is_some_and(|lease| matches!(lease.role, Holder | Losing));
        let fresh = || parts.iter().filter(|part| part.silent.is_none());
        // Tokens only grow, so the highest is the newest.
        let held = fresh().filter(holds).max_by_key(|part| part.lease().and_then(|lease| lease.token)).copied();
        let running = |part: &&Part| holds(part) && !part.stats.processes.is_empty();
        let holder = match &held {
            Some(part) => Some(part.node),
            // The holder says nothing, but others know it by name.
            None => fresh().find_map(|part| part.lease()?.holder.as_ref()),
        };
        let state = match &held {
            _ if fresh().filter(running).count() > 1 => "conflict",
            Some(part) => part.stats.state.word(),
            None if holder.is_some() => "stale",
            // One of those that say nothing may have it.
            None if parts.iter().any(|part| part.silent.is_some()) => "unknown",
            None => "vacant",
        };
        let note = held.or(fresh().next().copied()).and_then(|part| part.stats.note.as_deref());
        let note = note.filter(|_| held.is_some() || holder.is_none());
        Singleton { name, holder, held, lease: held.and_then(|part| part.lease()), state, note }
    }
}

impl<'a> Part<'a> {
    /// Its part in a lease, where it is a singleton.
    pub(super) fn lease(&self) -> Option<&'a LeaseStats> {
        self.stats.lease.as_ref()
    }

    /// What it used, sample by sample.
    pub(super) fn curve(&self) -> &'a Curve {
        // Each watcher of a frame has one.
        &self.heard.curves[&self.stats.name]
    }

    /// How many of its processes run and are ready. Of a silent node nobody knows.
    pub(super) fn ready(&self) -> usize {
        match self.silent {
            Some(_) => 0,
            None => self.stats.processes.iter().filter(|process| process.state == "running").count(),
        }
    }
}
