//! How it is known that a process is ready, and that it is well.

use std::fmt;
use std::time::Duration;

use super::in_slot;

/// One way to tell. The same ways serve `ready` and `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// So long after its start (`ready` only).
    Timer(Duration),
    /// It says so over `NOTIFY_SOCKET`: `READY=1`; for health, `WATCHDOG=1`.
    Notify,
    /// It says so over `EINHORN_SOCK_PATH` or `EINHORN_SOCK_FD`, as under einhorn: `worker:ack` (`ready` only).
    Ack,
    /// A line of its output matches this regular expression (syntax checked when the file was read).
    Log(String),
    /// Something accepts connections there.
    Tcp { host: String, port: u16 },
    /// A GET is answered with 200 to 399.
    Http(Url),
    /// A command exits with 0. It runs as the process's user, in its directory and environment.
    Command(Vec<String>),
}

/// An `http://` address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, with the leading slash.
    pub path: String,
}

impl Check {
    /// The same for the process in slot `wid`: a command may name it.
    pub fn in_slot(&self, wid: u32) -> Check {
        match self {
            Check::Command(words) => Check::Command(words.iter().map(|word| in_slot(word, wid)).collect()),
            Check::Timer(_) | Check::Notify | Check::Ack | Check::Log(_) | Check::Tcp { .. } | Check::Http(_) => {
                self.clone()
            }
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::Timer(after) => write!(f, "timer {} s", after.as_secs_f64()),
            Check::Notify => f.write_str("notify"),
            Check::Ack => f.write_str("ack"),
            Check::Log(pattern) => write!(f, "log {pattern}"),
            Check::Tcp { host, port } => write!(f, "tcp {host}:{port}"),
            Check::Http(url) => write!(f, "http://{}:{}{}", url.host, url.port, url.path),
            Check::Command(words) => write!(f, "cmd {}", words.join(" ")),
        }
    }
}

/// When a process that runs counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadySpec {
    /// How that is told.
    pub check: Check,
    /// One that is not ready so long after its start is stopped, as if it had died.
    pub timeout: Duration,
}

/// Whether a ready process stays well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    /// How that is told. `Notify` and `Log` want one sign of life per interval.
    pub check: Check,
    /// From one check to the next.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// How many in a row must fail before something is done.
    pub retries: u32,
    /// What is done then.
    pub action: HealthAction,
}

/// What is done about an unhealthy process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthAction {
    /// It is stopped and replaced.
    Restart,
    /// It is sent a signal, once until it is well again.
    Signal(i32),
    /// It shows, and nothing else.
    Report,
}

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// [`ReadySpec`]
    Ready,
    /// [`HealthSpec`]
    Health,
}
