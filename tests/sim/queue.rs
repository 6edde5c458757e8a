//! What will happen, and when: a queue of true time.

use circus_agent::model::event::{Ask, Event, Exit, LeaseAnswer, ProcessId};
use circus_agent::model::names::WatcherName;

use crate::store::Data;

/// True time, in nanoseconds.
pub(crate) type Instant = u64;

pub(crate) const MS: Instant = 1_000_000;
pub(crate) const SEC: Instant = 1_000 * MS;

/// One thing that happens.
pub(crate) enum What {
    Wake {
        host: usize,
        life: u64,
    },
    Tell {
        host: usize,
        life: u64,
        event: Event,
    },
    /// A question reaches the server.
    Arrive {
        host: usize,
        life: u64,
        watcher: WatcherName,
        ask: Ask,
    },
    /// Its answer is back.
    Return {
        host: usize,
        life: u64,
        watcher: WatcherName,
        ask: Ask,
        answer: LeaseAnswer,
    },
    /// The adapter's patience with a question ends.
    GiveUp {
        host: usize,
        life: u64,
        watcher: WatcherName,
        ask: Ask,
    },
    /// A guard's deadline, on its host's clock.
    Deadline {
        host: usize,
        id: ProcessId,
        serial: u64,
    },
    MainEnds {
        host: usize,
        id: ProcessId,
        exit: Exit,
    },
    TreeGone {
        host: usize,
        id: ProcessId,
    },
    Boot {
        host: usize,
    },
    Thaw {
        host: usize,
    },
    Heal {
        host: usize,
    },
    Cut {
        host: usize,
    },
    ServerBack {
        data: Data,
    },
    Fault,
}

/// When it does; what is due at one time happens in the order in which it was planned.
pub(crate) struct Due {
    pub(crate) at: Instant,
    pub(crate) serial: u64,
    pub(crate) what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}
