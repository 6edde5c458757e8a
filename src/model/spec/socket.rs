//! A socket that the agent opens and its processes share, and how a process comes by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::model::names::{SocketName, WatcherName};

/// How many connections may wait where nothing else is said, as in Circus.
const DEFAULT_BACKLOG: u32 = 2048;

/// A socket of the agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSpec {
    /// Its name, lower case.
    pub name: SocketName,
    /// Where it is bound.
    pub place: Place,
    /// What goes through it.
    pub kind: SocketKind,
    /// The IP protocol's number (protocols(5)); nothing: the usual one of its kind.
    pub protocol: Option<i32>,
    /// How many connections may wait to be accepted.
    pub backlog: u32,
    /// Whether `accept` waits where there is nothing to accept. The flag is the socket's: all who share it share that.
    pub blocking: bool,
    /// Whether each process has a listener of its own at this address (`SO_REUSEPORT`), and the kernel chooses.
    pub reuse_port: bool,
    /// Whether a Unix socket takes the place of one that somebody listens on.
    pub replace: bool,
    /// The mode a Unix socket's file does not get: 0o077 leaves it to its owner.
    pub umask: u32,
    /// Whose a Unix socket's file is: user and group, each where it is not the agent's.
    pub owner: (Option<u32>, Option<u32>),
    /// The network interface it is bound to (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
    /// The only watchers that may have it; empty: any.
    pub watchers: Vec<WatcherName>,
    /// All keys as they were given, variables replaced: what `setsocket` changes one of.
    pub settings: BTreeMap<String, String>,
}

impl SocketSpec {
    /// A stream socket there, and nothing else said.
    pub fn at(name: SocketName, place: Place) -> SocketSpec {
        SocketSpec {
            name,
            place,
            kind: SocketKind::Stream,
            protocol: None,
            backlog: DEFAULT_BACKLOG,
            blocking: false,
            reuse_port: false,
            replace: false,
            umask: 0,
            owner: (None, None),
            interface: None,
            watchers: Vec::new(),
            settings: BTreeMap::new(),
        }
    }

    /// Whether an open socket can become what `other` says without being opened anew.
    pub fn is_bound_like(&self, other: &SocketSpec) -> bool {
        let how = |spec: &SocketSpec| (spec.place.clone(), spec.kind, spec.protocol, spec.reuse_port);
        how(self) == how(other)
    }

    /// Whether this watcher may have it.
    pub fn admits(&self, watcher: &WatcherName) -> bool {
        self.watchers.is_empty() || self.watchers.contains(watcher)
    }
}

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a host's address and port; port 0: one that is free.
    Inet {
        /// An address, or a name that is looked up when the socket is bound; empty: all addresses.
        host: String,
        /// The port.
        port: u16,
        /// Which addresses of the host count.
        family: Family,
    },
    /// At a path.
    Unix(PathBuf),
    /// Wherever the service manager has bound it, which hands it over under this socket's name (sd_listen_fds(3)).
    Given,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Inet { host, port, .. } if host.is_empty() => write!(f, "*:{port}"),
            Place::Inet { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Inet { host, port, .. } => write!(f, "{host}:{port}"),
            Place::Unix(path) => path.display().fmt(f),
            Place::Given => f.write_str("from systemd"),
        }
    }
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

/// What goes through a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketKind {
    /// Connections that carry bytes.
    Stream,
    /// Datagrams.
    Datagram,
    /// Connections that carry messages (Unix only).
    SeqPacket,
    /// IP packets.
    Raw,
}

impl SocketKind {
    /// Whether somebody listens on it, and connections wait to be accepted.
    pub fn listens(self) -> bool {
        matches!(self, SocketKind::Stream | SocketKind::SeqPacket)
    }

    /// Circus's word, which is also the system's: `SOCK_STREAM`.
    pub fn word(self) -> &'static str {
        match self {
            SocketKind::Stream => "SOCK_STREAM",
            SocketKind::Datagram => "SOCK_DGRAM",
            SocketKind::SeqPacket => "SOCK_SEQPACKET",
            SocketKind::Raw => "SOCK_RAW",
        }
    }
}

/// Which sockets a program gets, and how it is told of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketUse {
    /// Those it finds from descriptor [`FIRST_FD`] on.
    pub which: Which,
    /// The one that is its stdin.
    pub stdin: Option<SocketName>,
    /// How its environment speaks of them.
    pub conventions: BTreeSet<Convention>,
}

impl SocketUse {
    /// Whether the program gets any.
    pub fn is_empty(&self) -> bool {
        self.stdin.is_none() && self.which == Which::default()
    }
}

/// A selection of sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that admit the watcher, by name, those that come later included.
    All,
    /// These, in this order.
    These(Vec<SocketName>),
}

impl Default for Which {
    fn default() -> Which {
        Which::These(Vec::new())
    }
}

/// The descriptor of the first socket that a program gets; the others follow (systemd's `SD_LISTEN_FDS_START`).
pub const FIRST_FD: u32 = 3;

/// A way to tell a program of its sockets, in its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Convention {
    /// `CIRCUS_SOCKETS=web:admin` and `CIRCUS_SOCKET_WEB_FD=3`.
    Circus,
    /// `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES` (sd_listen_fds(3)).
    Listen,
    /// `EINHORN_FD_COUNT`, `EINHORN_FD_0`, … and the socket for its ACK.
    Einhorn,
    /// `NGINX=3;4;`
    Nginx,
    /// `SERVER_STARTER_PORT=127.0.0.1:8000=3;/path=4`
    ServerStarter,
    /// `UNICORN_FD=3,4`
    Unicorn,
    /// `PUMA_INHERIT_0=3:tcp://127.0.0.1:8000`
    Puma,
}

impl Convention {
    /// All of them.
    pub const ALL: [Convention; 7] = [
        Convention::Circus,
        Convention::Listen,
        Convention::Einhorn,
        Convention::Nginx,
        Convention::ServerStarter,
        Convention::Unicorn,
        Convention::Puma,
    ];

    /// Its word in `socket_env`.
    pub fn word(self) -> &'static str {
        match self {
            Convention::Circus => "circus",
            Convention::Listen => "listen",
            Convention::Einhorn => "einhorn",
            Convention::Nginx => "nginx",
            Convention::ServerStarter => "server-starter",
            Convention::Unicorn => "unicorn",
            Convention::Puma => "puma",
        }
    }
}
