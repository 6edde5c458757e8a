//! What a node and its processes use at one moment: a frame, for whoever watches.

use std::collections::VecDeque;
use std::time::Duration;

use super::names::{NodeName, WatcherName};
use super::snapshot::{LeaseRole, WatcherState};

/// One node at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStats {
    /// The node.
    pub node: NodeName,
    /// When, in seconds of the Unix epoch by the node's own clock.
    pub at: f64,
    /// The machine that it runs on.
    pub machine: Machine,
    /// Its watchers in start order.
    pub watchers: Vec<WatcherStats>,
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
}
