//! What someone asks, and what they are told. All doors make the same [`Command`] and get the same [`Reply`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::drill::{Drill, Kind};
use super::event::{Changes, Reach, TokenState};
use super::explain::Explanation;
use super::history::History;
use super::names::{Label, Labels, NodeName, NodeWord, SocketName, WatcherName};
use super::pattern::Pattern;
use super::pause::Pause;
use super::plan::Plan;
use super::snapshot::{LeaseView, LegionView, Lordship, Snapshot, SocketView};
use super::spec::WatcherSpec;
use super::stats::Machine;

/// A question of one door, answered exactly once. The agent draws it; the model gives it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Which nodes a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The node that was asked.
    Here,
    /// Those that the asker names or describes.
    Nodes(Selector),
    /// Every node of the cluster that is up, draining or stale.
    All,
    /// The one that holds the singleton of this watcher.
    Holder(String),
    /// One of those described, which the strategy prefers.
    Any(Strategy, Selector),
}

/// Which node is preferred for another process ([`place`](super::placement::place)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The one with the least to do.
    #[default]
    LeastLoaded,
    /// The one with the fewest of the kind.
    Spread,
    /// The one with the most of the kind that has room for more.
    Pack,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 3] = [Strategy::LeastLoaded, Strategy::Spread, Strategy::Pack];

    /// The word people write.
    pub fn word(self) -> &'static str {
        match self {
            Strategy::LeastLoaded => "least-loaded",
            Strategy::Spread => "spread",
            Strategy::Pack => "pack",
        }
    }

    /// The strategy of this word; the error says which there are.
    pub fn parse(text: &str) -> Result<Strategy, String> {
        let found = Strategy::ALL.into_iter().find(|strategy| strategy.word() == text);
        found.ok_or_else(|| format!("it is one of {}", Strategy::ALL.map(Strategy::word).join(", ")))
    }
}

impl Target {
    /// The one node of this name.
    pub fn node(name: NodeName) -> Target {
        Target::Nodes(Selector { nodes: vec![NodeWord::Name(name)], labels: Vec::new() })
    }
}

/// Nodes by their names and by what they are labelled with: whoever fits one of `nodes` and has all `labels`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector {
    /// Names and patterns; none: any name.
    pub nodes: Vec<NodeWord>,
    /// None: any labels.
    pub labels: Vec<Label>,
}

impl Selector {
    /// Whether a node is among those.
    pub fn fits(&self, node: &NodeName, labels: &Labels) -> bool {
        let named = self.nodes.is_empty() || self.nodes.iter().any(|word| word.fits(node));
        named && self.labels.iter().all(|label| label.is_among(labels))
    }

    /// Whether it can mean one node at most.
    pub fn is_one(&self) -> bool {
        matches!(&self.nodes[..], [NodeWord::Name(_)])
    }
}

impl fmt::Display for Selector {
    /// `web-*,db-1 with zone=a,role=web`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |words: Vec<String>| words.join(",");
        f.write_str(&list(self.nodes.iter().map(NodeWord::to_string).collect()))?;
        if !self.labels.is_empty() {
            let gap = if self.nodes.is_empty() { "" } else { " " };
            write!(f, "{gap}with {}", list(self.labels.iter().map(Label::to_string).collect()))?;
        }
        Ok(())
    }
}

/// When the reply is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// As soon as the command is admitted.
    Admitted,
    /// When what was asked for is done, or cannot be (Circus's `waiting`).
    Settled,
}

/// What is asked of one node. Watchers are named as the user wrote them.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The names of the watchers, or the pids of one.
    List { watcher: Option<String> },
    /// How the watchers are, or one of them.
    Status { watcher: Option<String> },
    /// How many watchers there are.
    NumWatchers,
    /// How many processes run, in all or of one watcher.
    NumProcesses { watcher: Option<String> },
    /// What the processes and their children use; `extended`: with what hooks add, of one watcher.
    Stats { watcher: Option<String>, pid: Option<u32>, extended: bool },
    /// What the agent itself uses.
    AgentStats,
    /// One watcher's options; only `keys` where they are named.
    Options { watcher: String, keys: Option<Vec<String>> },
    /// The agent's options; only one where it is named.
    GlobalOptions { option: Option<String> },
    /// The sockets that are shared.
    ListSockets,
    /// Wants the watchers that match to run; without a pattern all that start by themselves.
    Start { pattern: Option<Pattern>, patience: Patience },
    /// Wants them not to run.
    Stop { pattern: Option<Pattern>, patience: Patience },
    /// Replaces their processes: all stop, then all start.
    Restart { pattern: Option<Pattern>, patience: Patience },
    /// Replaces the processes of a watcher, or of all, one at a time.
    Reload { watcher: Option<String>, way: ReloadWay, patience: Patience },
    /// Applies what has changed in the configuration file.
    ReloadConfig { patience: Patience },
    /// What `ReloadConfig` would do.
    Plan,
    /// Wants `by` more processes, or fewer where it is negative; never below none.
    Resize { watcher: String, by: i64, patience: Patience },
    /// Changes settings of a watcher.
    Set { watcher: String, changes: Changes, patience: Patience },
    /// Adds a watcher, until the agent ends.
    Add { name: String, changes: Changes, start: bool, patience: Patience },
    /// Removes a watcher. With [`Leave::Processes`] what it runs goes on running, supervised by nobody.
    Remove { watcher: String, leave: Leave, patience: Patience },
    /// Adds a socket, until the agent ends.
    AddSocket { name: String, changes: Changes, patience: Patience },
    /// Changes settings of a socket. Where it is bound anew, the processes that have it are replaced.
    SetSocket { socket: String, changes: Changes, patience: Patience },
    /// Removes a socket that no watcher names.
    RemoveSocket { socket: String, patience: Patience },
    /// Sends a signal to a watcher's processes, or one of them.
    Signal { watcher: String, pid: Option<u32>, signal: i32, reach: Reach },
    /// Tells whoever follows events of this, in a watcher's name. Nothing else comes of it.
    Publish { watcher: String, topic: String },
    /// Stops a watcher's processes, or one of them, with this signal and time; they are replaced.
    Kill { watcher: String, pid: Option<u32>, signal: Option<i32>, grace: Option<Duration>, patience: Patience },
    /// Stops all that runs here, hands singletons over, and starts nothing until [`Command::Undrain`].
    Drain { patience: Patience },
    /// Starts again what was stopped for that.
    Undrain { patience: Patience },
    /// Calls the node something else.
    Rename { to: NodeName },
    /// Ends the agent and all it runs.
    Quit { patience: Patience },
    /// Which program answers.
    Version,
    /// The nodes of the cluster.
    Nodes,
    /// Where the agent of each node of the cluster is asked.
    NodeList,
    /// Whether a node is registered, and by the agent at `endpoint` where one is named: nobody registers for another.
    Registered { node: NodeName, endpoint: Option<String> },
    /// The leases as this node sees them.
    Leases,
    /// The legions as this node sees them, or one of them.
    Legions { legion: Option<String> },
    /// Whether this node leads a legion.
    Lord { legion: String },
    /// What the members of a legion tell the others.
    Scrolls { legion: String },
    /// The latest tenures of a singleton, or of each; `count` of each at most.
    History { watcher: Option<String>, count: usize },
    /// Every condition for a watcher to run here, met or not.
    Explain { watcher: String },
    /// What this node counts and measures.
    Metrics,
    /// Moves a singleton to another node.
    Failover { watcher: String, to: Option<NodeName>, patience: Patience },
    /// Has a singleton run nowhere in the cluster until somebody resumes it; `reason`: why, for others to read.
    Pause { watcher: String, reason: Option<String>, patience: Patience },
    /// Lets it run again.
    Resume { watcher: String },
    /// Does a bad thing to the agent that holds a singleton, to see the promise kept; `lasting`: for so long, where that is
    /// not left to the holder.
    Drill { watcher: String, kind: Kind, lasting: Option<Duration> },
    /// Whether the tenure under this token is the one that holds the lease now.
    LeaseCheck { watcher: String, token: u64 },
    /// Declares a lease that nobody ever held to be free, so that its first taking need not wait.
    LeaseInit { watcher: String },
}

/// How a reload goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadWay {
    /// One new process is up before one old one goes.
    Rolling,
    /// One old one goes before its successor comes.
    Sequential,
    /// All stop, then all start.
    Restart,
}

/// What a removed watcher leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Its processes are stopped first.
    Nothing,
    /// Its processes run on.
    Processes,
}

impl Command {
    /// Whether it changes what runs on the node that carries it out, so that nobody may be hit by accident.
    pub fn acts(&self) -> bool {
        match self {
            Command::Start { .. }
            | Command::Stop { .. }
            | Command::Restart { .. }
            | Command::Reload { .. }
            | Command::ReloadConfig { .. }
            | Command::Resize { .. }
            | Command::Set { .. }
            | Command::Add { .. }
            | Command::Remove { .. }
            | Command::AddSocket { .. }
            | Command::SetSocket { .. }
            | Command::RemoveSocket { .. }
            | Command::Signal { .. }
            | Command::Publish { .. }
            | Command::Kill { .. }
            | Command::Drain { .. }
            | Command::Undrain { .. }
            | Command::Rename { .. }
            | Command::Quit { .. }
            | Command::Failover { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Drill { .. }
            | Command::LeaseInit { .. } => true,
            Command::List { .. }
            | Command::Status { .. }
            | Command::NumWatchers
            | Command::NumProcesses { .. }
            | Command::Stats { .. }
            | Command::AgentStats
            | Command::Options { .. }
            | Command::GlobalOptions { .. }
            | Command::ListSockets
            | Command::Plan
            | Command::Version
            | Command::Nodes
            | Command::NodeList
            | Command::Registered { .. }
            | Command::Leases
            | Command::Legions { .. }
            | Command::Lord { .. }
            | Command::Scrolls { .. }
            | Command::History { .. }
            | Command::Explain { .. }
            | Command::Metrics
            | Command::LeaseCheck { .. } => false,
        }
    }

    /// How long a node may take to answer it, unless the asker says otherwise: 5 s, or 60 s where the answer comes when
    /// it is done.
    pub fn usual_time(&self) -> Duration {
        let patience = match self {
            Command::Start { patience, .. }
            | Command::Stop { patience, .. }
            | Command::Restart { patience, .. }
            | Command::Reload { patience, .. }
            | Command::ReloadConfig { patience }
            | Command::Resize { patience, .. }
            | Command::Set { patience, .. }
            | Command::Add { patience, .. }
            | Command::Remove { patience, .. }
            | Command::AddSocket { patience, .. }
            | Command::SetSocket { patience, .. }
            | Command::RemoveSocket { patience, .. }
            | Command::Kill { patience, .. }
            | Command::Drain { patience }
            | Command::Undrain { patience }
            | Command::Quit { patience }
            | Command::Failover { patience, .. }
            | Command::Pause { patience, .. } => *patience,
            Command::List { .. }
            | Command::Status { .. }
            | Command::NumWatchers
            | Command::NumProcesses { .. }
            | Command::Stats { .. }
            | Command::AgentStats
            | Command::Options { .. }
            | Command::GlobalOptions { .. }
            | Command::ListSockets
            | Command::Plan
            | Command::Signal { .. }
            | Command::Rename { .. }
            | Command::Publish { .. }
            | Command::Version
            | Command::Nodes
            | Command::NodeList
            | Command::Registered { .. }
            | Command::Leases
            | Command::Legions { .. }
            | Command::Lord { .. }
            | Command::Scrolls { .. }
            | Command::History { .. }
            | Command::Explain { .. }
            | Command::Metrics
            | Command::Resume { .. }
            | Command::Drill { .. }
            | Command::LeaseCheck { .. }
            | Command::LeaseInit { .. } => Patience::Admitted,
        };
        match patience {
            Patience::Admitted => Duration::from_secs(5),
            Patience::Settled => Duration::from_secs(60),
        }
    }
}

/// What one node says to one command.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It was done, or admitted.
    Done(Answer),
    /// It was not, and nothing changed.
    Refused(Refusal),
}

/// What a command that was done has to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nothing but that.
    Ok,
    /// Watchers, sorted.
    Watchers(Vec<WatcherName>),
    /// Pids of one watcher's live processes, sorted.
    Pids(Vec<u32>),
    /// The node with all of its watchers.
    Status(Box<Snapshot>),
    /// The node with the one watcher that was asked for.
    WatcherStatus(Box<Snapshot>),
    /// A number of watchers.
    NumWatchers(usize),
    /// A number of processes, of one watcher where it was named.
    NumProcesses { watcher: Option<WatcherName>, count: usize },
    /// What processes use; `idle`: where all watchers are meant, those of which nothing runs.
    Stats { watcher: Option<WatcherName>, pid: Option<u32>, samples: Vec<Sample>, idle: Vec<WatcherName> },
    /// What the agent itself uses.
    AgentStats(Sample),
    /// One watcher's options, with the number of processes wanted now; of them the `keys` that were asked for.
    Options { spec: Box<WatcherSpec>, numprocesses: u32, keys: Option<Vec<String>> },
    /// The agent's options.
    GlobalOptions(BTreeMap<String, String>),
    /// The sockets that are shared, by name.
    Sockets(Vec<SocketView>),
    /// What a reload of the configuration would do, or did.
    Plan(Plan),
    /// What the start of an added watcher led to: pids.
    Added { started: Vec<u32> },
    /// The one watcher that was waited for is down.
    Stopped,
    /// What a start or restart led to, of one watcher: pids.
    Started { started: Vec<u32>, kept: Vec<u32>, stopped: Vec<u32> },
    /// The new number of processes of a watcher.
    Resized { numprocesses: u32, singleton: bool },
    /// The program's version.
    Version(&'static str),
    /// The cluster's nodes, sorted by name.
    Nodes(Vec<NodeRow>),
    /// Where the agents of those that are not gone are asked, sorted by name.
    NodeList(Vec<(NodeName, String)>),
    /// This node is registered, and by whom.
    Registered { node: NodeName, host: String, endpoint: String },
    /// This node's view of its leases, and what its operators should know of where they are kept.
    Leases { leases: Vec<LeaseView>, advice: Vec<String> },
    /// This node's view of its legions; `store`: where their members meet.
    Legions { store: String, legions: Vec<LegionView> },
    /// Whether this node leads; `left`: for how long, unless that is put off.
    Lord { lordship: Box<Lordship>, left: Option<Duration> },
    /// This node's view of one legion, for what its members tell.
    Scrolls(Box<LegionView>),
    /// How it stands with a watcher on this node.
    Explained { node: NodeName, watcher: WatcherName, explanation: Box<Explanation> },
    /// The node with what it has counted.
    Metrics(Box<Snapshot>),
    /// What has been with some leases.
    Histories(Vec<(WatcherName, History)>),
    /// How a token stands.
    LeaseChecked { watcher: WatcherName, token: u64, state: TokenState },
    /// A singleton is paused; `changed`: it was not before. `holder`: who has the lease still; where that is an agent it
    /// `hears` of it, and stops.
    Paused { watcher: WatcherName, pause: Pause, changed: bool, holder: Option<String>, hears: bool },
    /// It may run again; nothing: it was not paused.
    Resumed { watcher: WatcherName, pause: Option<Pause> },
    /// A drill is about to begin here, and is witnessed.
    Drilling { node: NodeName, drill: Box<Drill> },
    /// The node is called something else now; `file` has its old name.
    Renamed { from: NodeName, to: NodeName, file: String },
    /// A singleton left this node; `stays`: where others would come before who has it now, and leave it there.
    Moved { from: NodeName, to: Option<NodeName>, token: u64, stays: bool },
}

/// Why a command was not carried out. The list is closed: each reason has its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are no JSON object.
    NotJson(String),
    /// There is no such command.
    UnknownCommand(String),
    /// A property is missing or is not what it should be.
    BadMessage(String),
    /// No watcher of that name; `hint` is one like it.
    NoSuchWatcher { name: String, hint: Option<WatcherName> },
    /// No legion of that name; `hint` is one like it, or the one that a watcher of that name follows.
    NoSuchLegion { name: String, hint: Option<WatcherName> },
    /// No socket of that name; `hint` is one like it.
    NoSuchSocket { name: String, hint: Option<SocketName> },
    /// There is a socket of that name already.
    SocketExists(SocketName),
    /// The watcher is no singleton.
    NotSingleton(WatcherName),
    /// The watcher has no process of that pid.
    NoSuchProcess { watcher: WatcherName, pid: u32 },
    /// This node does not hold the lease.
    NotHolder { watcher: WatcherName, holder: Option<String> },
    /// The singleton is paused, so nobody is to run it.
    Paused { watcher: WatcherName, pause: Pause },
    /// Nobody could take the singleton over.
    NoCandidate(String),
    /// No node is what was asked for.
    NoSuchNode(String),
    /// Another agent has this node's name.
    NodeExists(NodeName),
    /// So many processes are more than the watcher may have on a node.
    TooMany { watcher: WatcherName, wanted: u32, most: u32 },
    /// This node's configuration allows no drills.
    NoDrills(NodeName),
    /// The agent is stopping and admits nothing new.
    Stopping,
    /// This node is drained, and starts nothing.
    Drained(NodeName),
    /// There is no cluster: no `[redis]` section.
    NoCluster,
    /// What the command needed could not be reached or failed there.
    Unavailable(String),
    /// What was waited for cannot come true.
    Failed(String),
    /// There is a watcher of that name already.
    Exists(WatcherName),
    /// The configuration cannot be read, or says what cannot be: all of it.
    BadConfig(String),
}

impl Refusal {
    /// Circus's error number.
    pub fn errno(&self) -> i64 {
        match self {
            Refusal::NotJson(_) => 1,
            Refusal::UnknownCommand(_) => 2,
            Refusal::BadMessage(_)
            | Refusal::NoSuchWatcher { .. }
            | Refusal::NoSuchLegion { .. }
            | Refusal::NoSuchSocket { .. }
            | Refusal::NoSuchProcess { .. }
            | Refusal::NotSingleton(_) => 3,
            Refusal::NotHolder { .. }
            | Refusal::NoCandidate(_)
            | Refusal::Paused { .. }
            | Refusal::NoSuchNode(_)
            | Refusal::NodeExists(_)
            | Refusal::TooMany { .. }
            | Refusal::NoDrills(_)
            | Refusal::Stopping
            | Refusal::Drained(_)
            | Refusal::NoCluster => 5,
            Refusal::Exists(_) | Refusal::SocketExists(_) => 5,
            Refusal::Unavailable(_) | Refusal::Failed(_) | Refusal::BadConfig(_) => 6,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotJson(_) => f.write_str("json invalid"),
            Refusal::UnknownCommand(name) => write!(f, "unknown command: '{name}'"),
            Refusal::BadMessage(why) => f.write_str(why),
            Refusal::NoSuchWatcher { name, hint: None } => write!(f, "program {name} not found"),
            Refusal::NoSuchWatcher { name, hint: Some(hint) } => {
                write!(f, "program {name} not found; did you mean {hint}?")
            }
            Refusal::NoSuchLegion { name, hint: None } => write!(f, "legion {name} not found"),
            Refusal::NoSuchLegion { name, hint: Some(hint) } => {
                write!(f, "legion {name} not found; did you mean {hint}?")
            }
            Refusal::NoSuchSocket { name, hint: None } => write!(f, "socket {name} not found"),
            Refusal::NoSuchSocket { name, hint: Some(hint) } => {
                write!(f, "socket {name} not found; did you mean {hint}?")
            }
            Refusal::SocketExists(name) => write!(f, "socket '{name}' already exist"),
            Refusal::NotSingleton(name) => write!(f, "{name} is no singleton"),
            Refusal::NoSuchProcess { watcher, pid } => write!(f, "process {pid} not found in '{watcher}'"),
            Refusal::NotHolder { watcher, holder: Some(holder) } => {
                write!(f, "{watcher} is held by {holder}, not by this node")
            }
            Refusal::NotHolder { watcher, holder: None } => write!(f, "nobody is known to hold {watcher}"),
            Refusal::TooMany { watcher, wanted, most } => {
                write!(f, "{watcher} may have {most} processes on a node (max_per_node), not {wanted}")
            }
            Refusal::Paused { watcher, pause } => {
                write!(
                    f,
                    "{watcher} is {pause}; it runs nowhere until somebody asks for it: circusctl resume {watcher}"
                )
            }
            Refusal::NoCandidate(why) | Refusal::NoSuchNode(why) => f.write_str(why),
            Refusal::NodeExists(node) => write!(f, "node name '{node}' is already registered"),
            Refusal::NoDrills(node) => write!(
                f,
                "{node} allows no drills: put allow_drills = true into the [circus] section of its file, then \
                 circusctl reloadconfig --node {node}"
            ),
            Refusal::Stopping => f.write_str("the agent is stopping"),
            Refusal::Drained(node) => {
                write!(f, "{node} is drained and starts nothing: circusctl undrain --node {node} ends that")
            }
            Refusal::NoCluster => f.write_str("this agent has no [redis] section, so it knows no other node"),
            Refusal::Exists(name) => write!(f, "'{name}' already exist"),
            Refusal::BadConfig(problems) => write!(f, "the configuration cannot be applied\n\n{}", problems.trim_end()),
            Refusal::Unavailable(why) | Refusal::Failed(why) => f.write_str(why),
        }
    }
}

/// What a request comes to: one node's reply, or that of each node it was for.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The reply of the node that was asked.
    Own(Reply),
    /// What another node replied, as it arrived: the model passes it on unread.
    Relayed(String),
    /// Each node's part, sorted by node.
    Gathered {
        /// Of the nodes that are known.
        parts: Vec<(NodeName, Part)>,
        /// Why there may be more nodes than those.
        missing: Option<String>,
    },
}

/// One node's part in a gathered reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// This node's own reply.
    Own(Reply),
    /// Another node's reply, as it arrived.
    Relayed(String),
    /// The node did not answer in time, and why.
    Silent(String),
    /// The node was not asked, and why.
    Absent(String),
}

/// One row of the registry.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// The node.
    pub name: NodeName,
    /// Whether it can be counted on.
    pub state: NodeState,
    /// How long ago it was heard of, by Redis's clock.
    pub seen: Duration,
    /// What it says of itself.
    pub about: NodeAbout,
}

/// What a node says of itself with each heartbeat.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeAbout {
    /// The agent's version.
    pub version: String,
    /// The machine's host name.
    pub host: String,
    /// The agent's pid there.
    pub pid: u32,
    /// Where it is asked on that machine: `unix:///run/circus/web-1.sock`.
    pub endpoint: String,
    /// How long the agent has been up.
    pub up: Duration,
    /// A hash of the configuration, to see which nodes differ.
    pub config: String,
    /// What it was called before, the latest first.
    pub formerly: Vec<NodeName>,
    /// What it is called besides its name.
    pub labels: Labels,
    /// Its watchers.
    pub watchers: Vec<String>,
    /// Singletons it holds.
    pub holds: Vec<String>,
    /// Singletons it waits for.
    pub waits: Vec<String>,
    /// How many of its watchers are as they should be: all that is wanted of them runs, here or elsewhere.
    pub well: u32,
    /// How many processes run.
    pub processes: u32,
    /// How many processes are wanted here of each watcher that is not stopped.
    pub wanted: BTreeMap<String, u32>,
    /// How many there may be here at most, of those watchers that say so.
    pub most: BTreeMap<String, u32>,
    /// The machine that it runs on.
    pub machine: Machine,
    /// The version of what agents say to each other; 0: from before there was one.
    pub protocol: u32,
    /// Marks of the secrets under which it takes messages; none: its messages are not sealed, as far as it says. Whoever
    /// may write to Redis may write this: it explains a silence, and lets nobody in.
    pub seals: Vec<String>,
}

/// The version of what this agent says to others and understands of them. Those one apart work together; those further
/// apart do not ask each other anything.
pub const PROTOCOL: u32 = 1;

impl NodeAbout {
    /// Whether it would not understand what this side says: protocols one apart work.
    pub fn is_strange(&self) -> bool {
        self.protocol.abs_diff(PROTOCOL) > 1
    }

    /// What of it is worth a heartbeat before its time. How much there is to do changes all the time, and can wait.
    pub fn news(&self) -> NodeAbout {
        let (up, machine) = (Duration::ZERO, Machine::default());
        NodeAbout { up, well: 0, processes: 0, machine, seals: Vec::new(), ..self.clone() }
    }
}

/// Whether a node can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Heard of lately.
    Up,
    /// Not heard of for a while.
    Stale,
    /// Stopping, or drained: finishes what it has, takes nothing new.
    Draining,
    /// Left, or not heard of for long.
    Gone,
}

impl NodeState {
    /// The word people see.
    pub fn word(self) -> &'static str {
        match self {
            NodeState::Up => "up",
            NodeState::Stale => "stale",
            NodeState::Draining => "draining",
            NodeState::Gone => "gone",
        }
    }
}

/// What one process uses, as /proc has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its watcher.
    pub watcher: WatcherName,
    /// Its slot.
    pub wid: u32,
    /// Its pid.
    pub pid: u32,
    /// What it uses, or nothing where it vanished meanwhile.
    pub usage: Option<Usage>,
    /// Its children, each with theirs: pid and use.
    pub children: Vec<ChildSample>,
    /// What its watcher's `extended_stats` hook made of it: a JSON object.
    pub extra: Option<String>,
}

/// What a child of a process uses.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildSample {
    /// Its pid.
    pub pid: u32,
    /// What it uses.
    pub usage: Usage,
    /// Its own children.
    pub children: Vec<ChildSample>,
}

/// A process's use of the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Basename of the program.
    pub program: String,
    /// The user's name, or number where it has none.
    pub user: String,
    /// Nice value.
    pub nice: i64,
    /// Resident bytes.
    pub resident: u64,
    /// Virtual bytes.
    pub virtual_size: u64,
    /// Share of the machine's memory, per cent.
    pub memory_percent: f64,
    /// Processor use since it was last asked for, per cent of one core; 0 at the first time.
    pub cpu_percent: f64,
    /// Processor time in all.
    pub cpu_time: Duration,
    /// How long it has run.
    pub age: Duration,
    /// Its start as seconds of the Unix epoch.
    pub started: f64,
}
