//! What a node and its processes use at one moment: a frame, for whoever watches.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::command::Usage;
use super::event::Address;
use super::names::{NodeName, WatcherName};
use super::snapshot::{LeaseRole, WatcherState};
use super::time::Time;

/// One node at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStats {
    /// The node.
    pub node: NodeName,
    /// When, in seconds of the Unix epoch by the node's own clock.
    pub at: f64,
    /// The machine that it runs on.
    pub machine: Machine,
    /// The agent itself, without what it runs; an older one does not tell.
    pub agent: Option<Box<ProcessStats>>,
    /// Its watchers in start order.
    pub watchers: Vec<WatcherStats>,
    /// Its sockets, where they were looked at.
    pub sockets: Vec<SocketStats>,
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Machine {
    /// Processors that the agent may use.
    pub cores: u32,
    /// The load average of the last minute.
    pub load: f64,
    /// Memory in bytes.
    pub memory: u64,
    /// How much of it could not be had at once.
    pub memory_used: u64,
}

/// A watcher.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherStats {
    /// Its name.
    pub name: WatcherName,
    /// How it is.
    pub state: WatcherState,
    /// Why, where that is a question.
    pub note: Option<String>,
    /// How many processes are wanted.
    pub wanted: u32,
    /// How many processes were replaced after they ended unasked.
    pub restarts: u64,
    /// Its part in its lease, where it is a singleton.
    pub lease: Option<LeaseStats>,
    /// Its processes by slot.
    pub processes: Vec<ProcessStats>,
}

/// A watcher's lease, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseStats {
    /// What this node does about it.
    pub role: LeaseRole,
    /// Who holds it, as far as this node knows.
    pub holder: Option<NodeName>,
    /// The token, where this node holds it.
    pub token: Option<u64>,
    /// How long it is valid without another refresh, where this node holds it.
    pub left: Option<Duration>,
    /// How long a refresh lasts.
    pub ttl: Duration,
    /// How long the last refresh took, where this node holds it.
    pub latency: Option<Duration>,
}

/// A process, and together with it all that descends from it.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessStats {
    /// Its slot.
    pub wid: u32,
    /// Its pid.
    pub pid: u32,
    /// How it is, in the word of `status`.
    pub state: String,
    /// Basename of its program.
    pub program: String,
    /// How long it has run.
    pub age: Duration,
    /// What it uses with all below it.
    pub used: Used,
    /// How many processes there are below it.
    pub children: u32,
    /// What it uses by itself, where that was asked for.
    pub own: Option<Box<Usage>>,
}

/// A socket that processes share.
#[derive(Debug, Clone, PartialEq)]
pub struct SocketStats {
    /// The agent's descriptor of it.
    pub fd: i32,
    /// Where it is.
    pub address: Address,
    /// Whether somebody waited in it at that moment.
    pub waiting: bool,
}

/// What is used. Sums add up, so that a watcher, a node and a cluster have one, too.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Used {
    /// Per cent of one processor since the sample before.
    pub cpu: f64,
    /// Resident bytes.
    pub resident: u64,
    /// Open descriptors; nothing where they may not be counted.
    pub descriptors: Option<u32>,
    /// Bytes read from storage each second; nothing where that cannot be known.
    pub read: Option<f64>,
    /// Bytes written to storage each second.
    pub written: Option<f64>,
}

impl Used {
    /// Both together; what one of them does not know, the sum leaves out.
    #[must_use]
    pub fn plus(self, other: Used) -> Used {
        fn sum<T: std::ops::Add<Output = T> + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a + b),
                (known, None) | (None, known) => known,
            }
        }
        Used {
            cpu: self.cpu + other.cpu,
            resident: self.resident + other.resident,
            descriptors: sum(self.descriptors, other.descriptors),
            read: sum(self.read, other.read),
            written: sum(self.written, other.written),
        }
    }

    /// All together.
    pub fn sum(all: impl IntoIterator<Item = Used>) -> Used {
        all.into_iter().fold(Used::default(), Used::plus)
    }
}

impl WatcherStats {
    /// What all its processes use.
    pub fn used(&self) -> Used {
        Used::sum(self.processes.iter().map(|process| process.used))
    }
}

impl NodeStats {
    /// What all processes of the node use.
    pub fn used(&self) -> Used {
        Used::sum(self.watchers.iter().map(WatcherStats::used))
    }
}

/// What is to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// What a frame tells.
    Frame,
    /// What Circus's statistics tell, too: each process by itself, and the sockets.
    Circus,
}

/// What was measured for a frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measures {
    /// When, in seconds of the Unix epoch.
    pub at: f64,
    /// The machine.
    pub machine: Machine,
    /// The agent itself, without what it runs.
    pub agent: Option<Box<ProcessStats>>,
    /// Processes by pid; those that have ended meanwhile are missing.
    pub processes: BTreeMap<u32, Measure>,
    /// Its sockets, where they were looked at.
    pub sockets: Vec<SocketStats>,
}

/// What was measured of a process, and together with it of all that descends from it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measure {
    /// Basename of its program.
    pub program: String,
    /// What it uses with all below it.
    pub used: Used,
    /// How many processes there are below it.
    pub children: u32,
    /// What it uses by itself, where that was asked for.
    pub own: Option<Box<Usage>>,
}

/// What the watchers of a node have used so far, an hour of it at most.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// How long each point stands for.
    pub step: Duration,
    /// The watchers, each with its past.
    pub watchers: Vec<(WatcherName, Past)>,
}

/// What a watcher used at points in the past, the latest last; nothing where nobody watched.
pub type Past = VecDeque<Option<Point>>;

/// What a watcher used in one step of its history, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Per cent of one processor.
    pub cpu: f64,
    /// Resident bytes.
    pub resident: u64,
}

/// Keeps what watchers use for an hour, while frames come.
#[derive(Debug, Default)]
pub struct Keeper {
    /// The step under way, counted from boot, and the sum of its frames.
    step: u64,
    sums: BTreeMap<WatcherName, Sum>,
    past: BTreeMap<WatcherName, Past>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    frames: u32,
    cpu: f64,
    resident: u128,
}

impl Keeper {
    /// How long each point stands for.
    pub const STEP: Duration = Duration::from_secs(10);
    /// How many of them are kept of each watcher.
    pub const POINTS: usize = 360;

    /// Takes in a frame.
    pub fn add(&mut self, now: Time, stats: &NodeStats) {
        let step = now.as_nanos() / Keeper::STEP.as_nanos() as u64;
        if step > self.step {
            self.close(step);
        }
        for watcher in &stats.watchers {
            let used = watcher.used();
            let sum = self.sums.entry(watcher.name.clone()).or_default();
            sum.frames += 1;
            sum.cpu += used.cpu;
            sum.resident += u128::from(used.resident);
        }
    }

    /// What is kept: steps that are over.
    pub fn history(&self) -> History {
        let watchers = self.past.iter().map(|(name, past)| (name.clone(), past.clone())).collect();
        History { step: Keeper::STEP, watchers }
    }

    /// Ends the step under way; `next` is the one that begins.
    fn close(&mut self, next: u64) {
        let sums = std::mem::take(&mut self.sums);
        for name in sums.keys().filter(|name| !self.past.contains_key(*name)).cloned().collect::<Vec<_>>() {
            self.past.insert(name, Past::new());
        }
        // In the steps between nobody watched; more of them than are kept leave nothing of what was before.
        let unseen = usize::try_from(next - self.step - 1).unwrap_or(usize::MAX).min(Keeper::POINTS);
        for (name, past) in &mut self.past {
            past.push_back(sums.get(name).map(Sum::average));
            past.extend(std::iter::repeat_n(None, unseen));
            past.drain(..past.len().saturating_sub(Keeper::POINTS));
        }
        // Who was removed an hour ago is forgotten.
        self.past.retain(|_, past| past.iter().any(Option::is_some));
        self.step = next;
    }
}

impl Sum {
    fn average(&self) -> Point {
        let frames = self.frames.max(1);
        let resident = self.resident / u128::from(frames);
        Point { cpu: self.cpu / f64::from(frames), resident: u64::try_from(resident).unwrap_or(u64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_leaves_out_what_nobody_knows() {
        let one = Used { cpu: 1.5, resident: 10, descriptors: Some(3), read: None, written: None };
        let two = Used { cpu: 2.0, resident: 5, descriptors: None, read: Some(8.0), written: None };
        let sum = Used { cpu: 3.5, resident: 15, descriptors: Some(3), read: Some(8.0), written: None };
        assert_eq!(Used::sum([one, two]), sum);
    }

    fn frame(watchers: &[(&str, f64)]) -> NodeStats {
        let stats = |&(name, cpu): &(&str, f64)| WatcherStats {
            name: WatcherName::parse(name).unwrap(),
            state: WatcherState::Active,
            note: None,
            wanted: 1,
            restarts: 0,
            lease: None,
            processes: vec![ProcessStats {
                wid: 1,
                pid: 7,
                state: "running".into(),
                program: name.into(),
                age: Duration::ZERO,
                used: Used { cpu, resident: cpu as u64, ..Used::default() },
                children: 0,
                own: None,
            }],
        };
        let node = NodeName::parse("a").unwrap();
        NodeStats {
            node,
            at: 0.0,
            machine: Machine::default(),
            agent: None,
            watchers: watchers.iter().map(stats).collect(),
            sockets: Vec::new(),
        }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// The processor share at each point of a watcher's past.
    fn past(keeper: &Keeper, name: &str) -> Vec<Option<f64>> {
        let history = keeper.history();
        let found = history.watchers.iter().find(|(other, _)| other.as_str() == name);
        found.map(|(_, past)| past.iter().map(|point| Some((*point)?.cpu)).collect()).unwrap_or_default()
    }

    #[test]
    fn a_point_is_the_average_of_its_step_and_steps_that_nobody_saw_have_none() {
        let mut keeper = Keeper::default();
        keeper.add(at(1_000), &frame(&[("web", 10.0)]));
        keeper.add(at(1_009), &frame(&[("web", 30.0)]));
        assert_eq!(past(&keeper, "web"), [], "the step is not over");
        keeper.add(at(1_010), &frame(&[("web", 5.0), ("beat", 1.0)]));
        assert_eq!(past(&keeper, "web"), [Some(20.0)]);
        keeper.add(at(1_040), &frame(&[("web", 5.0)]));
        assert_eq!(past(&keeper, "web"), [Some(20.0), Some(5.0), None, None]);
        assert_eq!(past(&keeper, "beat"), [Some(1.0), None, None]);
        keeper.add(at(1_030), &frame(&[("web", 7.0)]));
        keeper.add(at(1_050), &frame(&[]));
        assert_eq!(past(&keeper, "web").last(), Some(&Some(6.0)), "a late frame counts where it comes");
    }

    #[test]
    fn an_hour_is_kept_and_who_was_not_seen_in_it_is_forgotten() {
        let mut keeper = Keeper::default();
        keeper.add(at(0), &frame(&[("gone", 1.0), ("web", 1.0)]));
        for step in 1..=2 * Keeper::POINTS as u64 {
            keeper.add(at(10 * step), &frame(&[("web", step as f64)]));
            assert!(past(&keeper, "web").len() <= Keeper::POINTS);
            assert_eq!(past(&keeper, "gone").is_empty(), step > Keeper::POINTS as u64, "at step {step}");
        }
        assert_eq!((past(&keeper, "web").len(), past(&keeper, "web").first()), (360, Some(&Some(360.0))));
        keeper.add(at(1_000_000_000), &frame(&[]));
        assert_eq!(keeper.history().watchers, [], "after a long time without anybody");
    }
}
