//! What happened ([`Event`], past tense) and what to do about it ([`Action`], imperative).

use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::command::{Command, NodeRow, Outcome, RequestId, Sample, Target};
use super::drill::Drill;
use super::election::{Muster, Word};
use super::history::{Entry, Fact};
use super::names::{ClusterName, LeaseName, NodeName, Owner, WatcherName};
use super::pattern::Pattern;
use super::pause::{Pause, Told, Wish};
use super::snapshot::{Lordship, ProcessView};
use super::spec::{
    AgentSpec, Check, CronSpec, Defaults, HookPoint, HookProgram, ProgramSpec, Purpose, Slot, SocketSpec, WatcherSpec,
};
use super::stats::{Detail, History, Measures, NodeStats};
use super::store::{Missed, StoreFacts};
use super::time::Time;

/// One process of one watcher, from its spawn to the end of its tree. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// One call of one hook. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookId(pub u64);

/// One opening of one socket. Another follows where its address changes. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// One wanted process's own share of the `so_reuseport` sockets of a watcher: its listeners stay open when the process
/// is replaced, and the next one has them. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

/// One order to open sockets. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindId(pub u64);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A deadline came ([`super::node::Node::next_wakeup`]); nothing else did.
    Woke,
    /// A process changed.
    Process(ProcessId, ProcessEvent),
    /// The lease store answered, or failed to.
    Lease { watcher: WatcherName, ask: Ask, answer: LeaseAnswer },
    /// A lease may be free: its release was announced, or announcements may have been missed.
    LeaseFreed { watcher: WatcherName },
    /// A lease was paused or resumed, somebody says: who waits and who holds is to ask.
    PauseChanged { watcher: WatcherName },
    /// The store said who is there of those that contend for a lease, to a question sent then, or failed to.
    Mustered { watcher: WatcherName, sent: Time, result: Result<Muster, String> },
    /// Another member came, went or changed: who is there is to be asked anew.
    MembersChanged { watcher: WatcherName },
    /// The lease store can be reached.
    StoreUp,
    /// It cannot, for this reason.
    StoreDown { reason: String },
    /// A server of the lease store was reached and said this of itself, or is none of it any more.
    StoreSeen { server: String, facts: Option<StoreFacts> },
    /// Of several independent servers these cannot be used, which is news.
    StoreMissed(Missed),
    /// Another live agent has this node's name, and says this of itself.
    NameTaken { by: String },
    /// So many messages of others were not taken since the agent started: forged, stale, doubled, or none of ours.
    MessagesDropped(u64),
    /// A door was asked.
    /// `by` says who asks, in words; `limit` is how long each of several nodes may take, where the asker says so.
    Asked { request: RequestId, by: String, target: Target, command: Command, limit: Option<Duration> },
    /// The node has this name in the registry now, and `file` has the old one; or it cannot be had, and nothing is changed.
    Renamed { request: RequestId, to: NodeName, file: Result<String, String> },
    /// The registry was read for a request, or could not be.
    RosterRead { request: RequestId, rows: Result<Vec<NodeRow>, String> },
    /// Another node answered what was relayed to it.
    Replied { request: RequestId, node: NodeName, text: String },
    /// What was relayed to another node did not get there, or not back, and will not: nobody listens, or the bus failed.
    Unreachable { request: RequestId, node: NodeName, reason: String },
    /// A door's lease-init came back.
    LeaseInitialised { request: RequestId, result: Result<(), String> },
    /// A door's question about a token came back.
    LeaseChecked { request: RequestId, result: Result<TokenState, String> },
    /// A door's wish about the pause of a lease came back.
    LeasePaused { request: RequestId, result: Result<Told, String> },
    /// A drill is watched from outside, and begins in a moment; or why it does not.
    DrillWatched { request: RequestId, result: Result<(), String> },
    /// What the store keeps of some leases was read for a request, or could not be.
    HistoryRead { request: RequestId, read: Result<HistoryRead, String> },
    /// Processes were sampled for a request.
    Sampled { request: RequestId, samples: Vec<Sample> },
    /// Somebody watches what this node uses, and says so again every few seconds; `begun` the first time.
    Watched { by: Onlooker, begun: bool },
    /// Somebody elsewhere in the cluster follows what these watchers print, and says so again every few seconds.
    OutputWatched { by: String, names: Vec<Pattern> },
    /// What processes use was measured for those who watch.
    Measured(Box<Measures>),
    /// A hook came back, or did not in time.
    HookEnded { hook: HookId, end: HookEnd },
    /// The configuration was read again, or all that is wrong with it.
    SpecRead { request: Option<RequestId>, spec: Result<Box<AgentSpec>, String> },
    /// A watcher's changed or new settings were understood, or what is wrong with them.
    Amended { request: RequestId, spec: Result<Box<WatcherSpec>, String> },
    /// A socket's changed or new settings were understood, or what is wrong with them.
    SocketAmended { request: RequestId, spec: Result<Box<SocketSpec>, String> },
    /// All sockets of an order are open, or none of them is: then all that went wrong, a line each.
    Bound { bind: BindId, result: Result<Vec<(SocketId, Bound)>, String> },
    /// Somebody wants something of a watcher that sleeps: a connection or a datagram waits.
    Demanded { watcher: WatcherName },
    /// A watcher's sockets were looked at: whether anybody has wanted something since the last time, or still does.
    Counted { watcher: WatcherName, busy: bool },
    /// The calendar was looked at for a watcher that runs at times; nothing: it could not be read.
    CalendarRead { watcher: WatcherName, calendar: Option<Calendar> },
    /// The lease store answered a claim, or failed to.
    SlotClaimed { watcher: WatcherName, claim: Claim, answer: Claimed },
    /// The agent was told to apply its configuration file's changes (SIGHUP), by whom.
    ReloadAsked { by: String },
    /// The agent was told to end: in good order, and in haste when it is told again.
    StopAsked { by: String },
}

/// What a schedule has around this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// This moment by the clock on the wall, which may be set at any time.
    pub now: Slot,
    /// The latest slot that has come, and how long ago.
    pub past: Option<(Slot, Duration)>,
    /// The first that has not, and how long it is until then.
    pub next: Option<(Slot, Duration)>,
}

/// A wish to be the one who runs a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Which.
    pub slot: Slot,
    /// The token of the tenure that is to run it.
    pub token: u64,
}

/// What the lease store says to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The slot is this tenure's, and nobody else's ever.
    Ours,
    /// It, or a later one, is another tenure's.
    Taken {
        /// The node that had it.
        by: String,
    },
    /// No answer, or none that says anything: why. The claim may still be carried out, now or later.
    Unknown(String),
}

/// From where somebody watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onlooker {
    /// At this agent's own door.
    Here,
    /// Anywhere in the cluster.
    Elsewhere,
    /// At this agent's `stats_endpoint`: a client of Circus's, which wants each process by itself.
    Circus,
}

/// Whether a tenure is the one that holds a lease now, as the store knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// It is, for so long unless it is refreshed.
    Holds { left: Duration },
    /// It is not: another one is, or none; with the latest token that was drawn.
    Over { holder: Option<String>, token: Option<u64> },
}

/// A watcher that runs at times, and the lease under which it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// The watcher.
    pub watcher: WatcherName,
    /// Its own, or its leader's.
    pub lease: LeaseName,
}

/// What the store keeps of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRead {
    /// Of which watcher.
    pub watcher: WatcherName,
    /// What was told of its slots.
    pub entries: Vec<Entry>,
    /// The token that holds the lease now, where one of those that began holds it.
    pub holder: Option<u64>,
}

/// What the store keeps of some leases' tenures, and of schedules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryRead {
    /// The store's clock, ms of the Unix epoch.
    pub now: u64,
    /// Of each lease what was asked for.
    pub leases: Vec<(WatcherName, Vec<Entry>)>,
    /// Of each schedule.
    pub schedules: Vec<ScheduleRead>,
}

/// What became of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// Its program runs.
    Spawned { pid: u32 },
    /// It never ran: the end of this process.
    SpawnFailed(SpawnFailure),
    /// A check that was ordered came out, or could not be made.
    Checked { purpose: Purpose, result: Result<(), String> },
    /// A line of its output matched the pattern of a check.
    Matched(Purpose),
    /// It said something over its `NOTIFY_SOCKET`.
    Notified(Notification),
    /// It was stopped, and all below it, until it is let go on.
    Frozen,
    /// Its main process ended. What is left of its tree is being killed.
    Exited(Exit),
    /// Since then nothing of its tree is left, as its guard has seen it; `Gone` follows. It may come late, where the agent
    /// was stopped.
    Empty { since: Time },
    /// Nothing of its tree is left: the end of this process.
    Gone,
}

/// What a process can say over its `NOTIFY_SOCKET` (sd_notify(3)), and over its einhorn socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification {
    /// `READY=1`
    Ready,
    /// `{"command":"worker:ack","pid":PID}`, over `EINHORN_SOCK_PATH` or `EINHORN_SOCK_FD`.
    Ack,
    /// `STOPPING=1`
    Stopping,
    /// `WATCHDOG=1`
    Alive,
    /// `WATCHDOG=trigger`
    Trigger,
    /// `STATUS=…`
    Status(String),
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEnd {
    /// It came back: with its truth, and with what it printed or (extended_stats) returned, a JSON object.
    Returned { truth: bool, output: String },
    /// It could not run, raised, or took too long: why.
    Failed(String),
}

/// Why a program could not be started: at which stage, and the system's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnFailure {
    /// The step that failed, with what it was given: `exec("/bin/nosuch")`, `setuid("www")`.
    pub stage: String,
    /// The system's error: `ENOENT: No such file or directory`.
    pub error: String,
}

impl fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spawn failed at {}: {}", self.stage, self.error)
    }
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown: its guard ended first and took it along.
    Lost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit {code}"),
            Exit::Signal(signal) => write!(f, "killed by {}", signal_name(*signal)),
            Exit::Lost => f.write_str("ended with its guard"),
        }
    }
}

/// The usual name of a Linux signal, `SIGTERM`; `signal 40` where it has none.
pub fn signal_name(signal: i32) -> String {
    SIGNALS
        .iter()
        .find(|(_, number)| *number == signal)
        .map_or_else(|| format!("signal {signal}"), |(name, _)| format!("SIG{name}"))
}

/// The number of a signal by its name or number: `9`, `kill`, `SIGKILL`, `SIGRTMIN+1`; 0, which only asks whether
/// somebody is there, is one too. Real-time signals begin where glibc's programs see them begin.
pub fn signal_number(text: &str) -> Option<i32> {
    const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
    let upper = text.trim().to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
    if let Ok(number) = upper.parse::<i32>() {
        return (0..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.start().checked_add(offset(rest)?)?,
        (_, Some(rest)) => REAL_TIME.end().checked_add(offset(rest)?)?,
        _ => return SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number),
    };
    REAL_TIME.contains(&number).then_some(number)
}

/// Linux's signals without the real-time ones (signal(7), x86 and ARM numbering).
pub const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// One question to the lease store. The answer brings it back, so that validity counts from `sent`:
/// Redis may have started the ttl long before we hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// On whose behalf.
    pub owner: Owner,
    /// When it was asked.
    pub sent: Time,
    /// What was asked.
    pub kind: AskKind,
}

/// What can be asked of the lease store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskKind {
    /// Grant the lease, if it may be granted. The same owner may ask again: it is granted once.
    /// `ttl` is the node's own; `longest` is the longest ttl known of any node, waited out in a quarantine. `seen` is how
    /// long ago, by its own clock, the node saw another hold it: what the store's clock says besides is not believed.
    Take { ttl: Duration, longest: Duration, seen: Option<Duration> },
    /// Go on granting it, and restore it, token and all, where the store lost it.
    Refresh { ttl: Duration, token: u64 },
    /// Free it, and let nobody but `to` take it for [`super::lease::RESERVATION`].
    Release { to: Option<NodeName> },
    /// Free what was granted and never used, and wake nobody: one server's vote, of [`super::vote`].
    Withdraw,
}

/// What the lease store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The owner has it for a ttl counted from [`Ask::sent`].
    Granted { token: u64 },
    /// Someone else has it for `left`, and grants itself `ttl` at each refresh.
    Held { by: String, left: Duration, ttl: Duration },
    /// Nobody is known to have it, but someone may: not before `left`.
    Quarantined { left: Duration },
    /// It is kept for another node for `left`.
    Reserved { node: String, left: Duration },
    /// To a take: it could be had, and nobody is to have it.
    Paused(Pause),
    /// To a refresh: granted as ever, for nobody is to have it any more, and the child ends in good order.
    GrantedToStop { token: u64, pause: Pause },
    /// To a refresh: it is not the owner's any more.
    Lost { by: Option<String> },
    /// To a release: it is not the owner's (any more).
    Released,
    /// No answer, or an error: nothing is known. What was asked may still be carried out, now or later.
    Failed { reason: String },
    /// To a take: of several servers neither most granted it nor do most deny it. What some granted was given back.
    Split { reason: String },
}

impl LeaseAnswer {
    /// Who has the lease, where the answer says that somebody else does.
    pub fn holder(&self) -> Option<&str> {
        match self {
            LeaseAnswer::Held { by, .. } | LeaseAnswer::Lost { by: Some(by) } => Some(by),
            _ => None,
        }
    }

    /// The token, where the owner has the lease.
    pub fn granted(&self) -> Option<u64> {
        match self {
            LeaseAnswer::Granted { token } | LeaseAnswer::GrantedToStop { token, .. } => Some(*token),
            _ => None,
        }
    }

    /// To a take: for how long it is denied.
    pub fn left(&self) -> Option<Duration> {
        match self {
            LeaseAnswer::Held { left, .. } | LeaseAnswer::Quarantined { left } | LeaseAnswer::Reserved { left, .. } => {
                Some(*left)
            }
            // Until somebody says so.
            LeaseAnswer::Paused(_) => Some(Duration::MAX),
            _ => None,
        }
    }
}

/// What to do. The agent carries out each in turn, and never waits in between.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a process. Ends in `Spawned` … `Gone`, or in `SpawnFailed`.
    Spawn { process: ProcessId, launch: Launch },
    /// Send a signal to the main process, or to what `reach` says.
    Signal { process: ProcessId, signal: i32, reach: Reach },
    /// Stop the whole tree (SIGSTOP); ends in `Frozen` when nothing of it runs any more, or with the process.
    Freeze { process: ProcessId },
    /// SIGKILL the whole tree until nothing is left of it.
    Kill { process: ProcessId },
    /// Move the deadline of a guarded process.
    Guard { process: ProcessId, deadline: Deadline },
    /// Ask the lease store; an answer, or `Failed`, comes within `timeout`.
    AskLease { lease: LeaseName, ask: Ask, timeout: Duration },
    /// Get another name for this node; ends in `Renamed`.
    Rename { request: RequestId, to: NodeName },
    /// Tell the store that a node is a member of those that contend for a lease, or with nothing that it is none any
    /// more, and ask who else is; ends in `Mustered` within the word's `timeout`.
    Muster { lease: LeaseName, word: Word },
    /// Keep for programs to read whether this node leads a legion; nothing: there is no such legion here any more.
    ShowLordship { legion: WatcherName, lordship: Option<Box<Lordship>> },
    /// Say that a lease nobody ever held is free.
    InitLease { request: RequestId, lease: LeaseName },
    /// Ask the lease store whether the tenure under this token holds; ends in `LeaseChecked`.
    CheckLease { request: RequestId, lease: LeaseName, token: u64 },
    /// Pause a lease in the store, let it be taken again, or ask how that stands; ends in `LeasePaused`.
    PauseLease { request: RequestId, lease: LeaseName, wish: Wish },
    /// Keep a fact about a tenure, or about a slot that went by it, where the lease is kept, as soon as the store can be reached. Nothing answers.
    Record { lease: LeaseName, fact: Fact },
    /// Have a drill begin, once a witness outside of this agent watches it; ends in `DrillWatched`.
    Drill { request: RequestId, drill: Box<Drill> },
    /// Read what the store keeps of these leases and schedules; ends in `HistoryRead`.
    ReadHistory { request: RequestId, leases: Vec<LeaseName>, schedules: Vec<Schedule> },
    /// Read the registry.
    ReadRoster { request: RequestId },
    /// Ask another node, on behalf of whoever asked this one. Each reply comes as `Replied`; silence is the model's to
    /// notice.
    Relay { request: RequestId, to: NodeName, command: Command, by: String },
    /// Sample processes, watcher, slot and pid of each, and all below them.
    Sample { request: RequestId, processes: Vec<(WatcherName, u32, u32)> },
    /// Sample the agent itself.
    SampleAgent { request: RequestId },
    /// Measure these processes, each with all below it, the agent and the machine; ends in `Measured`.
    Measure { pids: Vec<u32>, detail: Detail },
    /// Show what is used to those who watch here, with `elsewhere` to the whole cluster, and with `circus` to Circus's
    /// clients. Who has just begun wants the past too.
    Show { stats: Box<NodeStats>, history: Option<Box<History>>, elsewhere: bool, circus: bool },
    /// From now on tell the whole cluster what these watchers print, and no others.
    TellOutput { of: Vec<Pattern> },
    /// Make a check of a running process (`Tcp`, `Http`, `Command`); ends in `Checked` within `timeout`.
    Check { process: ProcessId, purpose: Purpose, check: Check, timeout: Duration },
    /// Call a hook; ends in `HookEnded` within `timeout`.
    Hook { hook: HookId, call: Box<HookCall>, timeout: Duration },
    /// End a hook that is out, and all of its tree; whether it still ends in `HookEnded` does not matter any more.
    CallOff { hook: HookId },
    /// Read the configuration file again; ends in `SpecRead`.
    ReadSpec { request: Option<RequestId> },
    /// Work out a watcher from `base` with changed settings; ends in `Amended`.
    Amend { request: RequestId, base: AmendBase, changes: Changes, defaults: Defaults },
    /// Work out a socket from `base` with changed settings; ends in `SocketAmended`.
    AmendSocket { request: RequestId, base: SocketBase, changes: Changes, defaults: Defaults },
    /// Open these sockets, or none of them; ends in `Bound`. One that is open under this id already is adjusted to its
    /// new spec. One at the address of an open one is that very socket, under another id: no connection is lost. That is
    /// for those that go afterwards; at the address of one that stays none is opened.
    Bind { bind: BindId, sockets: Vec<(SocketId, SocketSpec)>, staying: Vec<SocketId> },
    /// Close sockets. Processes that have them keep them.
    Unbind { sockets: Vec<SocketId> },
    /// Close the listeners of lanes.
    CloseLanes { lanes: Vec<LaneId> },
    /// Watch a sleeping watcher's sockets, in place of those watched for it before; ends in `Demanded`, unless it is
    /// called off.
    AwaitDemand { watcher: WatcherName, sockets: Vec<Handed> },
    /// Stop to watch for a watcher.
    IgnoreDemand { watcher: WatcherName },
    /// See whether somebody wants something of a watcher's sockets; ends in `Counted`.
    CountDemand { watcher: WatcherName, sockets: Vec<Handed> },
    /// See what a watcher's schedule has around this moment; ends in `CalendarRead`.
    ReadCalendar { watcher: WatcherName, cron: CronSpec },
    /// Claim a slot of a watcher under a lease; ends in `SlotClaimed`, within `timeout` or little more. Asked again for the
    /// same, the store says the same.
    ClaimSlot { watcher: WatcherName, lease: LeaseName, claim: Claim, timeout: Duration },
    /// Tell whoever listens.
    Publish(Notice),
    /// Answer a request, once and for all.
    Reply { request: RequestId, outcome: Outcome },
    /// Write a line to the log.
    Log { level: Level, text: String },
    /// All is stopped and released: leave with this exit code. The last action of all.
    Leave { code: i32 },
}

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something may fail.
    Warn,
    /// Something happened.
    Info,
}

/// All it takes to start one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The watcher, for messages and the process table.
    pub watcher: WatcherName,
    /// The slot.
    pub wid: u32,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where, as whom, within which limits.
    pub program: Arc<ProgramSpec>,
    /// Variables of ours, above all others: `CIRCUS_WATCHER`, `CIRCUS_WID`, `CIRCUS_FENCING_TOKEN`, ….
    pub env: Vec<(String, String)>,
    /// Variables that tell it of its sockets. Unlike `env` they are for nobody else: a command that checks it has none of
    /// the sockets.
    pub socket_env: Vec<(String, String)>,
    /// Variables of ours that hold a pid which nobody knows before the process is there.
    pub pids: Vec<(&'static str, Whose)>,
    /// The sockets it finds from descriptor 3 on.
    pub sockets: Vec<Handed>,
    /// The socket that is its stdin.
    pub stdin: Option<Handed>,
    /// The signal it is to get when the agent itself dies and nobody guards it.
    pub stop_signal: i32,
    /// Where a lease is behind it: when its guard stops and kills it unless told otherwise.
    pub guard: Option<Deadline>,
    /// Its part in a legion, where it has one: what becomes of it without the agent.
    pub legion: Option<LegionPart>,
    /// What it is listened to for.
    pub signs: Signs,
}

/// Whose pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The process's own.
    Own,
    /// Its parent's: the agent's, or its guard's.
    Parent,
}

/// A socket that is handed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// Which.
    pub socket: SocketId,
    /// Where each process has a listener of its own: whose.
    pub lane: Option<LaneId>,
}

/// An open socket, as the system has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The agent's own descriptor of it.
    pub fd: i32,
    /// Where it is.
    pub address: Address,
}

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IP address and port; of raw sockets 0.
    Inet(SocketAddr),
    /// A path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The signs of life that a process is listened to for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signs {
    /// It gets a `NOTIFY_SOCKET`.
    pub notify: bool,
    /// And `WATCHDOG_USEC`: it is to say `WATCHDOG=1` at least so often.
    pub watchdog: Option<Duration>,
    /// It gets einhorn's socket: `EINHORN_SOCK_PATH` and `EINHORN_SOCK_FD`.
    pub ack: bool,
    /// Regular expressions whose first match (ready) or each match (health) in a line of output is reported.
    pub log: Vec<(Purpose, String)>,
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The main process.
    Main,
    /// Its children, and not itself.
    Children,
    /// Its children, then itself: the order in which no child can lose its parent unsignalled.
    MainAndChildren,
    /// All its descendants, then itself.
    Tree,
    /// This child of it; nobody where it is none.
    Child(u32),
}

/// What a guarded process is in a legion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegionPart {
    /// The lord process. Without the agent it is asked to stop, when nothing of its followers is left, and killed only at
    /// its deadline.
    Lord,
    /// One that runs where the lord process does. Without the agent it is killed at once, as any singleton.
    Follower {
        /// The lord process's watcher.
        of: WatcherName,
    },
}

/// From what a watcher is worked out.
#[derive(Debug, Clone, PartialEq)]
pub enum AmendBase {
    /// A watcher that there is.
    Watcher(Box<WatcherSpec>),
    /// Nothing yet but a name.
    New(String),
}

/// From what a socket is worked out.
#[derive(Debug, Clone, PartialEq)]
pub enum SocketBase {
    /// A socket that there is.
    Socket(Box<SocketSpec>),
    /// Nothing yet but a name.
    New(String),
}

/// Settings to change, as a file would have them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Keys and their new values; nothing: the key goes.
    pub settings: Vec<(String, Option<String>)>,
    /// All of its environment, in place of what it has.
    pub env: Option<Vec<(String, String)>>,
}

/// All it takes to call a hook.
#[derive(Debug, Clone, PartialEq)]
pub struct HookCall {
    /// At which point.
    pub point: HookPoint,
    /// What runs.
    pub program: HookProgram,
    /// The watcher, and what a hook may know of it.
    pub about: HookAbout,
    /// In which surroundings: a hook gets its watcher's environment, and runs as the agent.
    pub surroundings: Arc<ProgramSpec>,
    /// The process it is about.
    pub pid: Option<u32>,
    /// Its slot.
    pub wid: Option<u32>,
    /// The signal it is about.
    pub signal: Option<i32>,
    /// The end it is about.
    pub exit: Option<Exit>,
    /// The statistics it may add to.
    pub stats: Option<Sample>,
    /// The fencing token under which the watcher runs, where it is a singleton.
    pub token: Option<u64>,
    /// What it is told of its legion, besides.
    pub env: Vec<(String, String)>,
}

/// What a hook may know of its watcher: Python's get it as the `watcher` argument.
#[derive(Debug, Clone, PartialEq)]
pub struct HookAbout {
    /// Its name.
    pub watcher: WatcherName,
    /// This node.
    pub node: NodeName,
    /// And its cluster.
    pub cluster: ClusterName,
    /// How it is, in Circus's words.
    pub status: &'static str,
    /// How many processes are wanted.
    pub numprocesses: u32,
    /// Those there are.
    pub processes: Vec<ProcessView>,
    /// Its settings, free-form ones included.
    pub settings: Arc<BTreeMap<String, String>>,
}

/// Something that others may want to know of, in Circus's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Of which watcher.
    pub watcher: WatcherName,
    /// What.
    pub news: News,
}

/// Circus's events (reference: its documentation, "Events").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A process runs.
    Spawn { wid: u32, pid: u32 },
    /// A process ended by itself, or in a stop or restart.
    Reap { wid: u32, pid: u32, exit: Exit },
    /// A process was sent its stop signal, or SIGKILL.
    Kill { wid: u32, pid: u32 },
    /// The watcher became active.
    Start,
    /// Nothing of it runs any more.
    Stop,
    /// Its processes were reloaded.
    Reload,
    /// An option was changed by `set`.
    Updated,
    /// It was added.
    Add,
    /// It was removed.
    Remove,
    /// A hook came back.
    HookSuccess { hook: HookPoint },
    /// A hook failed.
    HookFailure { hook: HookPoint, error: String },
    /// A run at a time of its schedule failed.
    CronFailure { slot: Slot, error: String },
    /// A time of its schedule had no run.
    CronSkipped { slot: Slot, reason: String },
    /// Nobody is to take its lease any more.
    Paused { by: String, reason: Option<String> },
    /// Its lease may be taken again.
    Resumed { by: String },
    /// Somebody had this told in its name.
    Published { topic: String },
}

impl News {
    /// Circus's word: the last part of the topic `watcher.NAME.WORD`.
    pub fn word(&self) -> &'static str {
        match self {
            News::Spawn { .. } => "spawn",
            News::Reap { .. } => "reap",
            News::Kill { .. } => "kill",
            News::Start => "start",
            News::Stop => "stop",
            News::Reload => "reload",
            News::Updated => "updated",
            News::Add => "add",
            News::Remove => "remove",
            News::HookSuccess { .. } => "hook_success",
            News::HookFailure { .. } => "hook_failure",
            News::CronFailure { .. } => "cron_failure",
            News::CronSkipped { .. } => "cron_skipped",
            News::Paused { .. } => "paused",
            News::Resumed { .. } => "resumed",
            News::Published { .. } => "published",
        }
    }
}

/// When a guarded process ends if nothing is heard of its lease: asked to at `stop`, killed at `kill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// Its stop signal is due.
    pub stop: Time,
    /// Its whole tree is dead: the lease may end in the store soon after.
    pub kill: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        let cases = [
            ("9", Some(9)),
            ("kill", Some(9)),
            ("SIGKILL", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+1", Some(35)),
            ("rtmax-1", Some(63)),
            ("0", Some(0)),
            ("64", Some(64)),
            ("65", None),
            ("-1", None),
            ("SIG9", None),
            ("SIGRTMIN+99", None),
            ("RTMINX", None),
            ("FOO", None),
            ("", None),
        ];
        for (text, number) in cases {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
