//! What others may see of a node: values, counted from the moment they were taken.

use std::time::Duration;

use super::event::{Bound, Deadline, Exit};
use super::names::{ClusterName, NodeName, SocketName, WatcherName};
use super::pause::Pause;
use super::spec::{Slot, SocketKind};
use super::store::Missed;

/// A node at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Whose it is.
    pub node: NodeName,
    /// The node's cluster.
    pub cluster: ClusterName,
    /// What the agent is doing.
    pub phase: Phase,
    /// A hash of the configuration in force.
    pub config: String,
    /// The lease store.
    pub store: StoreView,
    /// Those of its servers that cannot be used, where there are several.
    pub missed: Missed,
    /// How many messages of others were not taken since it started.
    pub messages_dropped: u64,
    /// The watchers in start order.
    pub watchers: Vec<WatcherView>,
}

/// What an agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its watchers are being started.
    Starting,
    /// They have been.
    Running,
    /// They are being stopped, and it stays.
    Draining,
    /// They have been, and none starts.
    Drained,
    /// They are being stopped, and then it ends.
    Stopping,
}

impl Phase {
    /// The word people see.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Draining => "draining",
            Phase::Drained => "drained",
            Phase::Stopping => "stopping",
        }
    }

    /// Whether other nodes had better take what there is to do.
    pub fn takes_nothing(self) -> bool {
        matches!(self, Phase::Draining | Phase::Drained | Phase::Stopping)
    }
}

/// How the lease store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreView {
    /// Not yet heard of.
    Unknown,
    /// Reached.
    Up,
    /// Not reached, for this reason.
    Down { reason: String },
}

/// A watcher.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherView {
    /// Its name.
    pub name: WatcherName,
    /// How it is.
    pub state: WatcherState,
    /// Why it is so, where that is a question: `exit 1, again in 4 s`, `held by web-2`.
    pub note: Option<String>,
    /// How many processes are wanted.
    pub numprocesses: u32,
    /// Those there are, by slot.
    pub processes: Vec<ProcessView>,
    /// How many processes were replaced after they ended unasked.
    pub restarts: u64,
    /// How the last process ended, and how long ago.
    pub last_exit: Option<(Exit, Duration)>,
    /// How long until a process that ended is tried again.
    pub next_try: Option<Duration>,
    /// Its lease, where it is a singleton.
    pub lease: Option<LeaseView>,
    /// Its members, where they elect who has the lease.
    pub legion: Option<Box<LegionView>>,
    /// Its schedule, where it runs at times.
    pub cron: Option<CronView>,
}

/// A schedule, as one node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CronView {
    /// The next time, where this node would run it.
    pub next: Option<Slot>,
    /// The time for which it runs.
    pub running: Option<Slot>,
    /// What this node has counted.
    pub counts: CronCounts,
}

/// What became of the times of a schedule on one node, since its agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CronCounts {
    /// Runs that ended with exit 0.
    pub done: u64,
    /// Runs that failed. One that was told to end is none of them.
    pub failed: u64,
    /// Times that had no run.
    pub skipped: u64,
    /// The latest time whose run ended with exit 0.
    pub last_done: Option<Slot>,
}

/// A socket that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketView {
    /// Its name.
    pub name: SocketName,
    /// The agent's descriptor of it, and where it is; nothing while it is being opened.
    pub bound: Option<Bound>,
    /// What goes through it.
    pub kind: SocketKind,
    /// How many connections may wait to be accepted.
    pub backlog: u32,
    /// Whether each process has a listener of its own.
    pub reuse_port: bool,
    /// The watchers that use it.
    pub watchers: Vec<WatcherName>,
}

/// How a watcher is: honest, so that "active" means that all wanted processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatcherState {
    /// It is not wanted, and nothing of it runs.
    Stopped,
    /// Some of its processes do not run yet, or are not ready; or it waits for another watcher.
    Starting,
    /// All of them run and are ready.
    Active,
    /// All of them run, and one is unwell.
    Unhealthy,
    /// A process died lately and the next try is not yet due.
    Backoff,
    /// It sleeps until the first connection.
    Listening,
    /// It waits for the next time at which it runs.
    Scheduled,
    /// A singleton that another node runs, or that nobody may run yet.
    Standby,
    /// Processes are being ended.
    Stopping,
    /// It gave up; a start tries anew.
    Failed,
}

impl WatcherState {
    /// The word people see; Circus's where Circus has one.
    pub fn word(self) -> &'static str {
        match self {
            WatcherState::Stopped => "stopped",
            WatcherState::Starting => "starting",
            WatcherState::Active => "active",
            WatcherState::Unhealthy => "unhealthy",
            WatcherState::Backoff => "backoff",
            WatcherState::Listening => "listening",
            WatcherState::Scheduled => "scheduled",
            WatcherState::Standby => "standby",
            WatcherState::Stopping => "stopping",
            WatcherState::Failed => "failed",
        }
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessView {
    /// Its slot.
    pub wid: u32,
    /// Its pid, once it has one.
    pub pid: Option<u32>,
    /// How it is: `starting` (until it is ready), `running`, `unhealthy`, `stopping`, `exited`.
    pub state: &'static str,
    /// How long it has run.
    pub age: Duration,
    /// What it last said of itself over its `NOTIFY_SOCKET`.
    pub status: Option<String>,
}

/// A lease as one node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseView {
    /// Its watcher.
    pub watcher: WatcherName,
    /// Its key in the store.
    pub key: String,
    /// This node's part in it.
    pub role: LeaseRole,
    /// The fencing token, where this node holds it.
    pub token: Option<u64>,
    /// How long a grant lasts.
    pub ttl: Duration,
    /// Until the child must be dead (holder), or until the next try (others).
    pub left: Option<Duration>,
    /// The node that holds it, as far as this one knows.
    pub holder: Option<String>,
    /// How long the last refresh took.
    pub latency: Option<Duration>,
    /// How long it has been held.
    pub held_for: Option<Duration>,
    /// Why this node does not hold it, or is about to lose it.
    pub why: Option<String>,
    /// That nobody is to have it, as far as this node knows.
    pub pause: Option<Pause>,
    /// What this node has counted of it.
    pub counts: LeaseCounts,
}

/// What a node has counted of a lease since its agent began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseCounts {
    /// How often it was granted in time.
    pub taken: u64,
    /// How often it was given back, and the store said so.
    pub released: u64,
    /// How often it was lost because the store knew another holder,
    pub lost_taken: u64,
    /// because a refresh was not confirmed in time,
    pub lost_unconfirmed: u64,
    /// and because it was over before that was noticed.
    pub lost_expired: u64,
    /// Refreshes that were confirmed in time.
    pub refreshes: u64,
    /// Refreshes that were not, each try by itself.
    pub refreshes_failed: u64,
    /// Grants that came when nobody waited for them any more, or after their end.
    pub late_grants: u64,
    /// The longest that a grant took which counted.
    pub greatest_latency: Option<Duration>,
}

/// A node's part in a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseRole {
    /// It may run the child.
    Holder,
    /// It was, and is stopping the child.
    Losing,
    /// It would take it.
    Standby,
    /// It wants no part: stopped, or standing back after failures.
    Aside,
}

impl LeaseRole {
    /// The word people see.
    pub fn word(self) -> &'static str {
        match self {
            LeaseRole::Holder => "holder",
            LeaseRole::Losing => "losing",
            LeaseRole::Standby => "standby",
            LeaseRole::Aside => "aside",
        }
    }
}

/// A legion, or a singleton whose holder is elected, as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegionView {
    /// Its name: that of the watcher that leads it.
    pub name: WatcherName,
    /// This node.
    pub node: NodeName,
    /// Its valor; 0: an arbiter.
    pub valor: u32,
    /// Whether a higher valor takes over from a lord that lives.
    pub preempt: bool,
    /// So many members have to live.
    pub quorum: u32,
    /// How many there should be, where that was said.
    pub expected: Option<u32>,
    /// What this node tells the others of itself.
    pub scroll: String,
    /// Whether there has been a quorum since the agent knows of it.
    pub joined: bool,
    /// How many members live, this one included.
    pub live: u32,
    /// Those that this node has heard of, by name, itself among them.
    pub members: Vec<MemberView>,
    /// For how long what is known of them is so; nothing: nothing is known yet.
    pub seen: Option<Duration>,
    /// Who leads, as far as this node knows.
    pub lord: Option<LordView>,
    /// This node's part in it.
    pub state: LegionState,
    /// Why this node leads, or does not.
    pub why: String,
    /// What has changed lately, the latest first.
    pub changes: Vec<LegionChange>,
}

/// A node's part in a legion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegionState {
    /// It leads.
    Lord,
    /// It did, and what leads here is being stopped.
    Losing,
    /// It comes before all others, and does not have the lease yet.
    Candidate,
    /// Another one comes before it.
    Standby,
    /// Too few live.
    NoQuorum,
    /// It never leads.
    Arbiter,
    /// It stands back: stopped, drained, or after failures.
    Aside,
    /// Who is there is not known.
    Unknown,
}

impl LegionState {
    /// The word people see.
    pub fn word(self) -> &'static str {
        match self {
            LegionState::Lord => "lord",
            LegionState::Losing => "losing",
            LegionState::Candidate => "candidate",
            LegionState::Standby => "standby",
            LegionState::NoQuorum => "no-quorum",
            LegionState::Arbiter => "arbiter",
            LegionState::Aside => "aside",
            LegionState::Unknown => "unknown",
        }
    }
}

/// A member of a legion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its node.
    pub node: NodeName,
    /// Its valor.
    pub valor: u32,
    /// Whether it would lead: not an arbiter, not stopped, not standing back.
    pub stands: bool,
    /// Its scroll.
    pub scroll: String,
    /// How long ago the store heard of it; of one that fell silent, at least.
    pub heard: Duration,
    /// For how long it counts without another word; zero: it has fallen silent, and the store has not been heard since.
    pub left: Duration,
}

/// Who leads a legion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LordView {
    /// Its node; as text where no agent of ours wrote it.
    pub node: String,
    /// The token, where that is this node.
    pub token: Option<u64>,
    /// For how long it leads unless that is put off, where that is this node.
    pub left: Option<Duration>,
    /// For how long this node has known it to lead.
    pub held_for: Duration,
}

/// Something that changed in a legion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegionChange {
    /// How long ago.
    pub ago: Duration,
    /// What: `web-3 joined`, `web-1 leads`, `no quorum: 1 of 2`.
    pub text: String,
}

/// Whether this node leads a legion now: what programs ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lordship {
    /// The legion.
    pub legion: WatcherName,
    /// This node.
    pub node: NodeName,
    /// Where it leads: under which token, and until when unless that is put off.
    pub mine: Option<(u64, Deadline)>,
    /// The node that leads, as far as this one knows.
    pub lord: Option<String>,
    /// The members that live, by name.
    pub members: Vec<NodeName>,
    /// So many have to.
    pub quorum: u32,
    /// The lord's scroll.
    pub scroll: String,
    /// Why this node leads, or does not.
    pub reason: String,
}

/// A line of a process's output.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Its watcher.
    pub watcher: WatcherName,
    /// Its slot.
    pub wid: u32,
    /// Its pid.
    pub pid: u32,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// When it was read: seconds of the Unix epoch.
    pub time: f64,
    /// The line without its end; a very long one comes in parts.
    pub bytes: Vec<u8>,
}
