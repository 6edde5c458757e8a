//! Why a watcher runs on a node, or does not: every condition for it, each met or not, with the command that changes it.
//!
//! The list of conditions is closed. A watcher knows all but two: what the agent does, and how the lease store is
//! ([`Around`]).

use std::time::Duration;

use super::snapshot::{StoreView, WatcherState};

/// What is around a watcher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Around<'a> {
    /// Whether the agent is stopping.
    pub stopping: bool,
    /// Whether the node is drained.
    pub drained: bool,
    /// The lease store.
    pub store: &'a StoreView,
    /// What that is: `Redis at redis-1:6379`, `lease files`.
    pub store_name: &'a str,
    /// Whether there are other nodes to ask.
    pub clustered: bool,
}

/// How it stands with a watcher on one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// How it is.
    pub state: WatcherState,
    /// Whether it is a singleton.
    pub singleton: bool,
    /// Whether there are other nodes to ask.
    pub clustered: bool,
    /// Whether a process of it runs here.
    pub runs: bool,
    /// Whether that is as it should be.
    pub right: bool,
    /// Of a singleton the node that has it, as far as this one knows.
    pub holder: Option<String>,
    /// All conditions, in the order in which they have to be met.
    pub conditions: Vec<Condition>,
    /// When this node would get it, or what comes next.
    pub outlook: Option<String>,
    /// The command that moves it.
    pub moves: Option<Move>,
}

/// How it can be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// To this node, or away from it.
    pub here: bool,
    /// The command, without `circusctl`.
    pub command: String,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub what: What,
    /// Whether it is met.
    pub met: bool,
    /// How it stands, in words.
    pub text: String,
    /// The command that changes it, without `circusctl`.
    pub remedy: Option<String>,
}

impl Condition {
    /// One that is met.
    pub fn met(what: What, text: impl Into<String>) -> Condition {
        Condition { what, met: true, text: text.into(), remedy: None }
    }

    /// One that is not, and what is to be done about it where a command can.
    pub fn unmet(what: What, text: impl Into<String>, remedy: Option<String>) -> Condition {
        Condition { what, met: false, text: text.into(), remedy }
    }
}

/// The conditions there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It is one of the node's watchers.
    Configured,
    /// The agent is there to stay.
    Agent,
    /// Somebody wants it.
    Wanted,
    /// Those it comes after are up.
    After,
    /// Its sockets are open.
    Sockets,
    /// Somebody has connected, where it waits for that.
    Demand,
    /// The time has come, where it runs at times.
    Time,
    /// The lease store can be reached.
    Store,
    /// Nobody has paused it.
    Pause,
    /// Its members elect this node, or it follows a legion that is led here.
    Legion,
    /// It has its lease.
    Lease,
    /// No hook is waited for.
    Hooks,
    /// Its processes come up and stay.
    Process,
}

impl What {
    /// The word people and programs see.
    pub fn word(self) -> &'static str {
        match self {
            What::Configured => "configured",
            What::Agent => "agent",
            What::Wanted => "wanted",
            What::After => "after",
            What::Sockets => "sockets",
            What::Demand => "demand",
            What::Time => "time",
            What::Store => "store",
            What::Pause => "pause",
            What::Legion => "legion",
            What::Lease => "lease",
            What::Hooks => "hooks",
            What::Process => "process",
        }
    }
}

/// A span for people: `0.4 s`, `12 s`, `4m 10s`, `3h 05m`, `3d 04h`.
pub fn span(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{whole} s"),
        60..3_600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}
