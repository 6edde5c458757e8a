//! What should be: the configuration as the model reads it, checked and complete.

mod check;
mod cron;
mod hook;
mod legion;
mod majority;
mod output;
mod seeds;
mod sentinels;
mod socket;
mod zmq;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use check::{Check, HealthAction, HealthSpec, Purpose, ReadySpec, Url};
pub use cron::{CronSpec, Slot, Zone};
pub use hook::{HookPoint, HookProgram, HookSpec};
pub use legion::{ElectionSpec, LegionAction, LegionEvent, LegionSpec, is_topic, legion_file};
pub use majority::Majority;
pub use output::{Output, Rollover, Rotation, Sink, StreamSpec, Syslog, SyslogAddress};
pub use seeds::Seeds;
pub use sentinels::Sentinels;
pub use socket::{Convention, FIRST_FD, Family, Place, SocketKind, SocketSpec, SocketUse, Which};
pub use zmq::{ZmqAddress, ZmqDoors};

use super::names::{ClusterName, Labels, NodeName, SocketName, WatcherName};

/// Everything one agent was told to be.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSpec {
    /// This node's name.
    pub node: NodeName,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// What it is called besides its name.
    pub labels: Labels,
    /// Where the control socket goes; nothing: the default.
    pub control_socket: Option<PathBuf>,
    /// Where Circus's own clients are served.
    pub zmq: ZmqDoors,
    /// Where state is kept; nothing: the default.
    pub state_dir: Option<PathBuf>,
    /// Whether `drill` may harm this agent.
    pub allow_drills: bool,
    /// Where the agent's pid is written.
    pub pidfile: Option<PathBuf>,
    /// The agent's umask, which its children inherit.
    pub umask: Option<u32>,
    /// How much the agent logs: `error`, `warning`, `info` or `debug`.
    pub log_level: Option<LogLevel>,
    /// Where the agent logs to.
    pub log_output: LogOutput,
    /// The interpreter for hooks and streams written in Python; nothing: none was found.
    pub python: Option<PathBuf>,
    /// What `globaloptions` answers: Circus's endpoints and `check_delay`, as the file has them.
    pub global_options: BTreeMap<String, String>,
    /// Redis, or nothing: then this machine's agents are a cluster of their own.
    pub redis: Option<RedisSpec>,
    /// The lease timings of `[redis]` as texts, for watchers that commands add or change.
    pub lease_settings: BTreeMap<String, String>,
    /// Six hex digits over all keys and values but those that differ between nodes on purpose (node name, paths of the
    /// agent's own, Redis's URL): nodes that show the same were told the same.
    pub hash: String,
    /// The pause between the starts of two watchers.
    pub warmup_delay: Duration,
    /// The sockets its processes share, by name.
    pub sockets: Vec<SocketSpec>,
    /// The watchers in start order: by priority, highest first, then by name.
    pub watchers: Vec<WatcherSpec>,
}

/// What a watcher takes from the configuration around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Defaults {
    /// The interpreter for what is in Python.
    pub python: Option<PathBuf>,
    /// The lease timings of `[redis]`, as texts.
    pub lease: BTreeMap<String, String>,
    /// The watchers there are, each with those that are up before it.
    pub watchers: BTreeMap<WatcherName, Vec<WatcherName>>,
    /// Those of them that are legions.
    pub legions: BTreeSet<WatcherName>,
    /// The sockets there are, each with the only watchers that may have it.
    pub sockets: BTreeMap<SocketName, Vec<WatcherName>>,
}

impl AgentSpec {
    /// What a watcher of this agent takes from it.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            python: self.python.clone(),
            lease: self.lease_settings.clone(),
            watchers: self
                .watchers
                .iter()
                .map(|watcher| (watcher.name.clone(), watcher.firsts().cloned().collect()))
                .collect(),
            legions: self
                .watchers
                .iter()
                .filter(|watcher| watcher.legion.is_some())
                .map(|it| it.name.clone())
                .collect(),
            sockets: self.sockets.iter().map(|socket| (socket.name.clone(), socket.watchers.clone())).collect(),
        }
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what may fail next.
    Warning,
    /// And what happened.
    Info,
    /// And why.
    Debug,
}

/// Where the agent's own log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogOutput {
    /// To stderr.
    #[default]
    Stderr,
    /// To the end of a file, opened anew when it was moved, and on SIGUSR1.
    File(PathBuf),
    /// To a syslog server.
    Syslog(Syslog),
}

/// Where Redis is, and how to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSpec {
    /// `redis://…`, `rediss://…`, `unix://…`, [`Sentinels`], [`Seeds`] or a [`Majority`].
    pub url: Secret,
    /// The user, where the URL names none.
    pub username: Option<String>,
    /// Holds the password, where the URL has none; read for each connection.
    pub password_file: Option<PathBuf>,
    /// What is trusted, and shown, where the URL wants TLS.
    pub tls: TlsFiles,
    /// The user at the sentinels, where they want one.
    pub sentinel_username: Option<String>,
    /// Holds the password for the sentinels, where they want one.
    pub sentinel_password_file: Option<PathBuf>,
    /// How many replicas must have a taking or a refresh before it counts.
    pub require_replica_ack: u32,
    /// Holds the secrets, one a line, under which messages are sealed.
    pub secret_file: Option<PathBuf>,
}

/// Files in PEM, read for each connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// The certificates that sign a server's; without it, those that the machine trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate, for servers that want one, with those between it and their CA.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// The secrets in the text of a [`RedisSpec::secret_file`]: its lines, but empty ones. The first seals, all of them open.
///
/// # Errors
/// There is none, or one that somebody might guess: who can read a sealed message may try secrets at leisure.
pub fn secrets(text: &str) -> Result<Vec<&str>, String> {
    const SHORTEST: usize = 32;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.iter().map(|line| line.len()).min() {
        None => Err("it is empty".into()),
        Some(SHORTEST..) => Ok(lines),
        Some(short) => Err(format!("a line of {short} bytes is too short, it takes {SHORTEST}")),
    }
}

impl RedisSpec {
    /// All that there is to say stands in the URL.
    pub fn at(url: Secret) -> RedisSpec {
        RedisSpec {
            url,
            username: None,
            password_file: None,
            tls: TlsFiles::default(),
            sentinel_username: None,
            sentinel_password_file: None,
            require_replica_ack: 0,
            secret_file: None,
        }
    }

    /// The independent servers, of which most decide: all that a [`Majority`] names, otherwise just this.
    pub fn servers(&self) -> Vec<RedisSpec> {
        match Majority::parse(self.url.reveal()) {
            Ok(Some(majority)) => {
                let one = |url| RedisSpec { url: Secret::new(url), ..self.clone() };
                majority.urls.into_iter().map(one).collect()
            }
            _ => vec![self.clone()],
        }
    }

    /// [`RedisSpec::place`] without the database, where it is one server on the network: `redis-1:6379`.
    pub fn host(&self) -> &str {
        let place = self.place();
        place.split_once('/').map_or(place, |(host, _)| host)
    }

    /// Where it is, without what may be a password: `redis-1:6379/0`.
    pub fn place(&self) -> &str {
        let url = self.url.reveal();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        host.split_once('?').map_or(host, |(host, _)| host)
    }
}

/// A text that is never shown: its `Debug` and `Display` say so instead.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A command and how many processes of it there should be.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherSpec {
    /// Its name.
    pub name: WatcherName,
    /// What each process runs.
    pub program: ProgramSpec,
    /// How many processes there should be.
    pub numprocesses: u32,
    /// How many there may be at most; nothing: any number.
    pub max_per_node: Option<u32>,
    /// The pause after each process's start.
    pub warmup_delay: Duration,
    /// Higher starts first and stops last.
    pub priority: i32,
    /// Whether it starts with the agent.
    pub autostart: bool,
    /// Whether a process that ends is replaced.
    pub respawn: bool,
    /// How often in a row a start may fail before the watcher gives up; nothing: it never does.
    pub max_retry: Option<u32>,
    /// How long a stopped process may take before SIGKILL.
    pub graceful_timeout: Duration,
    /// The signal, by number, that asks a process to stop.
    pub stop_signal: i32,
    /// Whether the stop signal goes to the process's children too.
    pub stop_children: bool,
    /// Whether a reload sends SIGHUP instead of replacing the processes.
    pub send_hup: bool,
    /// A process is replaced at this age; nothing: at none.
    pub max_age: Option<Duration>,
    /// And up to so much later, drawn for each.
    pub max_age_variance: Duration,
    /// How a process shows that it is ready; nothing: by running.
    pub ready: Option<ReadySpec>,
    /// How it shows that it is well; nothing: by running.
    pub health: Option<HealthSpec>,
    /// The watchers that are up before this one starts, and that stop after it.
    pub after: Vec<WatcherName>,
    /// What runs at points of its life.
    pub hooks: BTreeMap<HookPoint, HookSpec>,
    /// How long a hook may take.
    pub hook_timeout: Duration,
    /// It starts at the first connection to one of its sockets; nothing: it starts like any other.
    pub on_demand: Option<OnDemand>,
    /// It runs at times; nothing: all the time.
    pub cron: Option<CronSpec>,
    /// The lease's timings where at most one process may run in the whole cluster.
    pub singleton: Option<LeaseTimings>,
    /// How it is chosen who runs it; nothing: whoever asks first. Only for what has a lease of its own.
    pub election: Option<ElectionSpec>,
    /// What it does as the leader of a legion; nothing: it is a plain watcher.
    pub legion: Option<LegionSpec>,
    /// The legion on whose lord alone it runs, under that one's lease.
    pub follows: Option<WatcherName>,
    /// All keys as they were given, variables replaced, free-form ones and inherited lease timings included: what `set`
    /// changes one of.
    pub settings: BTreeMap<String, String>,
}

impl WatcherSpec {
    /// Those that are up before it: the watchers that it comes after, and the legion that it follows.
    pub fn firsts(&self) -> impl Iterator<Item = &WatcherName> {
        self.after.iter().chain(&self.follows)
    }

    /// Who starts first: the higher priority, then the name.
    pub fn start_order(&self, other: &WatcherSpec) -> std::cmp::Ordering {
        other.priority.cmp(&self.priority).then_with(|| self.name.cmp(&other.name))
    }
}

/// A watcher that sleeps until somebody wants something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDemand {
    /// How long nobody must have wanted anything for it to sleep again; nothing: it stays up.
    pub idle_timeout: Option<Duration>,
}

/// What one process runs and in which surroundings.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgramSpec {
    /// Program and arguments; the words may hold `$(circus.wid)` and `$(circus.sockets.NAME)`, which
    /// [`ProgramSpec::argv`] fills in.
    pub words: Vec<String>,
    /// The file that is executed in place of the first word, which then only names it.
    pub executable: Option<PathBuf>,
    /// Variables of `[env]` and `[env:…]`, in that order of precedence already merged.
    pub env: BTreeMap<String, String>,
    /// Whether the agent's own environment comes below `env`.
    pub copy_env: bool,
    /// Where it runs; nothing: where the agent does.
    pub working_dir: Option<PathBuf>,
    /// As whom it runs; nothing: as the agent.
    pub user: Option<UserSpec>,
    /// With which group it runs; nothing: the user's.
    pub gid: Option<u32>,
    /// Its file mode mask; nothing: the agent's.
    pub umask: Option<u32>,
    /// Its resource limits: soft and hard alike.
    pub rlimits: Vec<Rlimit>,
    /// Whether fd 0 is /dev/null rather than the agent's.
    pub close_stdin: bool,
    /// Where fd 1 goes.
    pub stdout: Output,
    /// Where fd 2 goes.
    pub stderr: Output,
    /// The sockets it gets.
    pub sockets: SocketUse,
}

impl ProgramSpec {
    /// These words, and nothing else said: in the agent's directory, as its user, to its output, in an empty environment,
    /// with nothing to read.
    pub fn of(words: Vec<String>) -> ProgramSpec {
        ProgramSpec {
            words,
            executable: None,
            env: BTreeMap::new(),
            copy_env: false,
            working_dir: None,
            user: None,
            gid: None,
            umask: None,
            rlimits: Vec::new(),
            close_stdin: true,
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            sockets: SocketUse::default(),
        }
    }

    /// Program and arguments of the process in slot `wid` that gets these sockets, in this order.
    pub fn argv(&self, wid: u32, sockets: &[SocketName]) -> Vec<String> {
        let numbered = |word: String| {
            let numbers = sockets.iter().zip(FIRST_FD..);
            numbers.fold(word, |word, (name, fd)| word.replace(&socket_word(name), &fd.to_string()))
        };
        self.words.iter().map(|word| numbered(in_slot(word, wid))).collect()
    }
}

/// A word of a command line of the process in slot `wid`.
fn in_slot(word: &str, wid: u32) -> String {
    word.replace(WID, &wid.to_string())
}

/// What stands for a socket's descriptor in [`ProgramSpec::words`]: `$(circus.sockets.web)`.
pub fn socket_word(name: &SocketName) -> String {
    format!("$(circus.sockets.{name})")
}

/// What stands for the slot number in [`ProgramSpec::words`].
pub const WID: &str = "$(circus.wid)";

/// A user as the system knows it, looked up when the file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    /// The user's number.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
    /// The name, for `initgroups`; a number without a passwd entry has none.
    pub name: Option<String>,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// The name as in `RLIMIT_<NAME>`, lower case: `nofile`.
    pub name: String,
    /// The number the kernel knows it by.
    pub resource: u32,
    /// Soft and hard limit; nothing: infinite.
    pub limit: Option<u64>,
}

/// How a lease keeps time: a third to wait, a third to try, a third to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimings {
    /// How long a grant lasts.
    pub ttl: Duration,
    /// How long after a confirmed refresh the next one is sent.
    pub refresh_interval: Duration,
    /// How long a refresh may take before it has failed.
    pub refresh_timeout: Duration,
}

impl LeaseTimings {
    /// The shortest ttl that leaves time to kill: below it, scheduling alone can outlast the margin.
    pub const MIN_TTL: Duration = Duration::from_millis(300);

    /// A third of `ttl` for each part.
    pub fn thirds(ttl: Duration) -> LeaseTimings {
        LeaseTimings { ttl, refresh_interval: ttl / 3, refresh_timeout: ttl / 3 }
    }

    /// What is kept back from the end of a grant: 1 % for clocks that run at different rates, and 4 %
    /// (20 to 300 ms) for the kill to be scheduled and carried out.
    pub fn margin(&self) -> Duration {
        let kill = (self.ttl / 25).clamp(Duration::from_millis(20), Duration::from_millis(300));
        self.ttl / 100 + kill
    }

    /// How long after it was asked for a grant may be used: everything is dead by then.
    pub fn validity(&self) -> Duration {
        self.ttl.saturating_sub(self.margin())
    }

    /// The latest that an orderly stop begins after a confirmed refresh was sent, jitter included.
    pub fn patience(&self) -> Duration {
        self.refresh_interval.mul_f64(1.0 + Self::JITTER) + self.refresh_timeout
    }

    /// How far a refresh may wander from its interval, as a fraction.
    pub const JITTER: f64 = 0.1;

    /// The least that an orderly stop has when the lease is being lost: from its latest beginning until everything is dead.
    pub fn to_stop(&self) -> Duration {
        self.validity().saturating_sub(self.patience())
    }

    /// Refuses timings that cannot keep the promise, with the numbers.
    pub fn check(&self) -> Result<(), String> {
        self.check_as(["lease_ttl", "refresh_interval", "refresh_timeout"])
    }

    /// The same, where its parts have other names.
    pub fn check_as(&self, [ttl, interval, timeout]: [&str; 3]) -> Result<(), String> {
        let s = |d: Duration| format!("{} s", d.as_secs_f64());
        if self.ttl < Self::MIN_TTL {
            return Err(format!("{ttl} is {}, the least is {}", s(self.ttl), s(Self::MIN_TTL)));
        }
        if self.refresh_interval.is_zero() || self.refresh_timeout.is_zero() {
            return Err(format!("{interval} and {timeout} must be above zero"));
        }
        let stop = self.ttl / 10;
        let needed = self.patience() + stop + self.margin();
        if needed > self.ttl {
            return Err(format!(
                "{interval} {} (+10 %) + {timeout} {} + a tenth of the {ttl} to stop {} + margin {} = {}, more than {ttl} {}",
                s(self.refresh_interval),
                s(self.refresh_timeout),
                s(stop),
                s(self.margin()),
                s(needed),
                s(self.ttl)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_always_work() {
        for ms in [300, 1_000, 3_000, 15_000, 3_600_000] {
            LeaseTimings::thirds(Duration::from_millis(ms)).check().unwrap();
        }
    }

    #[test]
    fn timings_that_cannot_work_are_refused_with_the_numbers() {
        let slow = LeaseTimings {
            ttl: Duration::from_secs(10),
            refresh_interval: Duration::from_secs(5),
            refresh_timeout: Duration::from_secs(5),
        };
        let why = slow.check().unwrap_err();
        assert!(why.contains("refresh_interval 5 s") && why.contains("lease_ttl 10 s"), "{why}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let url = Secret::new("redis://:pw@host".into());
        assert_eq!(format!("{url} {url:?}"), "(secret) (secret)");
    }
}
