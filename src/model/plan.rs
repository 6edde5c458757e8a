//! What a changed configuration changes: the difference between two specs, and its effect.

use super::names::{SocketName, WatcherName};

/// What applying a file would do. Empty lists: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// One entry for each watcher that is added, changed or removed, in the order in which it would happen.
    pub changes: Vec<Change>,
    /// One entry for each socket that is added, changed or removed, by name.
    pub sockets: Vec<SocketChange>,
    /// Watchers that stay as they are.
    pub unchanged: usize,
    /// Keys outside of watchers that change only with a restart of the agent: `[circus] node`.
    pub needs_restart: Vec<String>,
    /// A hash of what the file says that is not this node's alone, to see whether other nodes have the same file.
    pub config: String,
}

/// What becomes of one watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub watcher: WatcherName,
    /// What becomes of it.
    pub effect: Effect,
    /// The keys that differ, sorted; empty for one that is added or removed.
    pub keys: Vec<KeyChange>,
}

/// What a change comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is new, and starts so many processes.
    Added { starts: u32 },
    /// It goes, and so many processes with it.
    Removed { stops: u32 },
    /// It changes, and no process notices.
    InPlace,
    /// It runs so many processes from now on.
    Resized { from: u32, to: u32 },
    /// So many processes are replaced, one at a time.
    Replaced { restarts: u32 },
}

/// What becomes of one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketChange {
    /// Which.
    pub socket: SocketName,
    /// What becomes of it.
    pub effect: SocketEffect,
    /// The keys that differ, sorted; empty for one that is added or removed.
    pub keys: Vec<KeyChange>,
}

/// What a change of a socket comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEffect {
    /// It is opened.
    Added,
    /// It is closed, and the processes that have it are replaced.
    Removed,
    /// It is opened elsewhere, and the processes that have it are replaced.
    Moved,
    /// It changes as it is, and no process notices.
    Adjusted,
}

/// One key that differs. Values of the environment are not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// `graceful_timeout`, `env SECRET`.
    pub key: String,
    /// What it was; nothing: it was not there.
    pub from: Option<String>,
    /// What it will be; nothing: it will not be there.
    pub to: Option<String>,
}
