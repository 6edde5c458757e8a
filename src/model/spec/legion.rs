//! How nodes choose who is to hold a lease, and what is done about it: uWSGI's legions.
//!
//! A legion is a lease with members, and a watcher that leads it: `[legion:NAME]` is read as a singleton watcher whose
//! one process does [`LegionEvent::Lord`]'s actions, and [`LegionEvent::Unlord`]'s when it is told to stop.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::Url;
use crate::model::names::WatcherName;

/// What a node brings to the election of a lease's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionSpec {
    /// Of the members that live the one with the highest is to hold the lease; of equals the first by name. 0: an
    /// arbiter, that counts for the quorum and never holds it.
    pub valor: u32,
    /// So many members have to live for one to take the lease, and to keep it. At least 1.
    pub quorum: u32,
    /// How many members there should be, where that was said.
    pub expected: Option<u32>,
    /// Whether a higher valor takes over from a holder that lives.
    pub preempt: bool,
    /// And how long it has to have been there for that.
    pub preempt_delay: Duration,
    /// What this node tells the others of itself.
    pub scroll: String,
}

impl ElectionSpec {
    /// How many of `expected` are a majority.
    pub fn majority(expected: u32) -> u32 {
        expected / 2 + 1
    }
}

/// What is done when a legion changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LegionSpec {
    /// In the order in which they are done.
    pub actions: BTreeMap<LegionEvent, Vec<LegionAction>>,
    /// How long each of them may take.
    pub action_timeout: Duration,
    /// A node whose [`LegionEvent::Lord`] failed stands back for so long; nothing: the failure is told, and it leads.
    pub death_on_lord_error: Option<Duration>,
}

/// What can happen to a legion, as one of its members sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegionEvent {
    /// The agent starts, or has been told of the legion: before anything else.
    Setup,
    /// There is a quorum for the first time.
    Join,
    /// This node leads: it has the lease, and nothing of the lord before is left.
    Lord,
    /// It does not any more: the lease is still kept, for as long as this takes.
    Unlord,
    /// The agent ends, or forgets the legion.
    Death,
    /// Another member appeared.
    NodeJoined,
    /// Another member left or went silent.
    NodeLeft,
    /// Another node leads than before, or none.
    LordChanged,
}

impl LegionEvent {
    /// All of them, in the order of a life.
    pub const ALL: [LegionEvent; 8] = [
        LegionEvent::Setup,
        LegionEvent::Join,
        LegionEvent::Lord,
        LegionEvent::Unlord,
        LegionEvent::Death,
        LegionEvent::NodeJoined,
        LegionEvent::NodeLeft,
        LegionEvent::LordChanged,
    ];

    /// Its name in files, events and `LEGION_EVENT`: uWSGI's, where it has one.
    pub fn name(self) -> &'static str {
        match self {
            LegionEvent::Setup => "setup",
            LegionEvent::Join => "join",
            LegionEvent::Lord => "lord",
            LegionEvent::Unlord => "unlord",
            LegionEvent::Death => "death",
            LegionEvent::NodeJoined => "node_joined",
            LegionEvent::NodeLeft => "node_left",
            LegionEvent::LordChanged => "lord_changed",
        }
    }

    /// The event of this name.
    pub fn parse(name: &str) -> Option<LegionEvent> {
        LegionEvent::ALL.into_iter().find(|event| event.name() == name)
    }
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegionAction {
    /// A line for `sh -c`; it succeeds with exit code 0.
    Command(String),
    /// A line for the log.
    Log(String),
    /// A signal, by number, for the processes of a watcher of this node.
    Signal {
        /// Whose processes.
        watcher: WatcherName,
        /// Which signal.
        signal: i32,
    },
    /// A GET of this URL; it succeeds with a status of 2xx.
    Http(Url),
    /// An event of this topic for whoever follows events.
    Publish(String),
}
