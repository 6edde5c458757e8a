//! The ZeroMQ doors: where each of them is, and for whom.

use core::net::{IpAddr, Ipv6Addr, SocketAddrV4};
use std::fmt;
use std::path::{Path, PathBuf};

/// The ZeroMQ doors of an agent: none but those that the file names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ZmqDoors {
    /// `[circus] endpoint`: takes commands.
    pub endpoint: Option<ZmqAddress>,
    /// `[circus] pubsub_endpoint`: publishes events.
    pub pubsub: Option<ZmqAddress>,
    /// `[circus] stats_endpoint`: publishes what this node uses.
    pub stats: Option<ZmqAddress>,
    /// `[circus-cluster] endpoint`: takes commands, too; circusd-cluster had a port of its own for them.
    pub cluster_endpoint: Option<ZmqAddress>,
    /// `[circus-cluster] stats_endpoint`: publishes what all nodes use.
    pub cluster_stats: Option<ZmqAddress>,
    /// `multicast_endpoint`: the group in which who asks over UDP is told of `endpoint`; none without one.
    pub discovery: Option<SocketAddrV4>,
    /// `endpoint_owner`: the uid that `ipc://` sockets belong to; nothing: the agent's.
    pub owner: Option<u32>,
    /// `endpoint_public`: whether other machines may come to them.
    pub public: bool,
    /// Whether there are plugins in Python, which need `endpoint` and `pubsub_endpoint`, named or not.
    pub for_plugins: bool,
}

impl ZmqDoors {
    /// The key of [`pubsub`](ZmqDoors::pubsub).
    pub const PUBSUB: &str = "[circus] pubsub_endpoint";
    /// The key of [`stats`](ZmqDoors::stats).
    pub const STATS: &str = "[circus] stats_endpoint";
    /// The key of [`cluster_stats`](ZmqDoors::cluster_stats).
    pub const CLUSTER_STATS: &str = "[circus-cluster] stats_endpoint";

    /// The variable that tells children where [`endpoint`](ZmqDoors::endpoint) is.
    pub const ENDPOINT_VARIABLE: &str = "CIRCUS_ZMQ_ENDPOINT";
    /// The variable that tells children where [`pubsub`](ZmqDoors::pubsub) is.
    pub const PUBSUB_VARIABLE: &str = "CIRCUS_ZMQ_PUBSUB_ENDPOINT";

    /// Whether there are doors that plugins need, and that the file does not name.
    pub fn has_unnamed(&self) -> bool {
        self.for_plugins && (self.endpoint.is_none() || self.pubsub.is_none())
    }

    /// With those that plugins need: where they have no name they are files beside the control socket, and the agent's alone.
    pub fn beside(&self, control_socket: &Path) -> ZmqDoors {
        let mut doors = self.clone();
        let file = |suffix: &str| {
            let mut path = control_socket.as_os_str().to_owned();
            path.push(suffix);
            ZmqAddress::Ipc(path.into())
        };
        if self.for_plugins {
            doors.endpoint.get_or_insert_with(|| file(".endpoint"));
            doors.pubsub.get_or_insert_with(|| file(".pubsub"));
        }
        doors
    }

    /// Those there are, each with the key that names it.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &ZmqAddress)> {
        let keyed = [
            ("[circus] endpoint", &self.endpoint),
            (ZmqDoors::PUBSUB, &self.pubsub),
            (ZmqDoors::STATS, &self.stats),
            ("[circus-cluster] endpoint", &self.cluster_endpoint),
            (ZmqDoors::CLUSTER_STATS, &self.cluster_stats),
        ];
        keyed.into_iter().filter_map(|(key, address)| Some((key, address.as_ref()?)))
    }
}

/// Where a ZeroMQ socket is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ZmqAddress {
    /// `tcp://HOST:PORT`; the host is a name, an address without brackets, or `*` for all of this machine's.
    Tcp {
        /// Where.
        host: String,
        /// From 1.
        port: u16,
    },
    /// `ipc://PATH`.
    Ipc(PathBuf),
}

impl ZmqAddress {
    /// Reads `tcp://HOST:PORT`, `tcp://[IPV6]:PORT`, `tcp://*:PORT` or `ipc://PATH`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence: "must be …".
    pub fn parse(text: &str) -> Result<ZmqAddress, &'static str> {
        const WHAT: &str = "must be tcp://HOST:PORT or ipc://PATH";
        if let Some(path) = text.strip_prefix("ipc://") {
            return match path {
                "" | "*" => Err("must name a path, as in ipc:///run/circus/endpoint"),
                _ if path.starts_with('@') => {
                    Err("must be a path: who may connect to an abstract socket cannot be said")
                }
                _ if path.contains('\0') => Err("must be a path"),
                _ => Ok(ZmqAddress::Ipc(path.into())),
            };
        }
        let (host, port) = text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).ok_or(WHAT)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or("must have a port from 1 to 65535")?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => address,
            None if is_host(host) => host,
            _ => return Err(WHAT),
        };
        Ok(ZmqAddress::Tcp { host: host.to_owned(), port })
    }

    /// What who is on this machine connects to, where this is what the agent listens at.
    pub fn from_here(&self) -> ZmqAddress {
        match self {
            ZmqAddress::Tcp { host, port } => {
                let host = match host.as_str() {
                    "*" | "0.0.0.0" => "127.0.0.1",
                    "::" => "::1",
                    host => host,
                };
                ZmqAddress::Tcp { host: host.to_owned(), port: *port }
            }
            ZmqAddress::Ipc(_) => self.clone(),
        }
    }

    /// Whether nobody but this machine can come to it. A name other than `localhost` may mean anything.
    pub fn is_local(&self) -> bool {
        match self {
            ZmqAddress::Ipc(_) => true,
            ZmqAddress::Tcp { host, .. } => host == "localhost" || is_loopback(host),
        }
    }
}

fn is_host(host: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control() || "[]/@:;".contains(c);
    !host.is_empty() && (host == "*" || !host.contains(|c| strange(c) || c == '*'))
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for ZmqAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ZmqAddress::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            ZmqAddress::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            ZmqAddress::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_as_it_was() {
        for text in [
            "tcp://127.0.0.1:5555",
            "tcp://*:5555",
            "tcp://localhost:1",
            "tcp://[::1]:65535",
            "tcp://db-1.example:5555",
            "ipc:///run/circus/endpoint",
            "ipc://var/circus.sock",
        ] {
            assert_eq!(ZmqAddress::parse(text).map(|address| address.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "5555",
            "tcp://",
            "tcp://h",
            "tcp://:5555",
            "tcp://h:0",
            "tcp://h:*",
            "tcp://h:+80",
            "tcp://h:65536",
            "tcp://::1:5555",
            "tcp://[x]:5555",
            "tcp://a b:5555",
            "tcp://*.*:5555",
            "udp://h:5555",
            "ipc://",
            "ipc://*",
            "ipc://@abstract",
        ] {
            assert!(ZmqAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn plugins_have_doors_of_their_own_where_the_file_names_none() {
        let socket = Path::new("/run/circus/a.sock");
        assert_eq!(ZmqDoors::default().beside(socket), ZmqDoors::default());
        let endpoint = ZmqAddress::parse("tcp://*:5555").ok();
        let doors = ZmqDoors { for_plugins: true, endpoint: endpoint.clone(), ..ZmqDoors::default() };
        assert!(doors.has_unnamed());
        let doors = doors.beside(socket);
        assert_eq!((&doors.endpoint, doors.has_unnamed()), (&endpoint, false));
        assert_eq!(doors.pubsub, Some(ZmqAddress::Ipc("/run/circus/a.sock.pubsub".into())));
        let from_here = |text: &str| ZmqAddress::parse(text).map(|address| address.from_here().to_string());
        assert_eq!(from_here("tcp://*:5555").as_deref(), Ok("tcp://127.0.0.1:5555"));
        assert_eq!(from_here("tcp://[::]:1").as_deref(), Ok("tcp://[::1]:1"));
        assert_eq!(from_here("tcp://10.0.0.1:1").as_deref(), Ok("tcp://10.0.0.1:1"));
    }

    #[test]
    fn loopback_and_ipc_are_local_and_all_else_is_not() {
        let local = |text: &str| ZmqAddress::parse(text).unwrap().is_local();
        for text in ["tcp://127.0.0.1:1", "tcp://127.1.2.3:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///a"] {
            assert!(local(text), "{text}");
        }
        for text in ["tcp://*:1", "tcp://0.0.0.0:1", "tcp://[::]:1", "tcp://10.0.0.1:1", "tcp://web-1:1"] {
            assert!(!local(text), "{text}");
        }
    }
}
