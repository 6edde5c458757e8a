//! Datagrams for syslog and the journal, one for each line.
//!
//! In a sink's buffer each stands behind its length, four bytes of this machine's order.

use std::io;
use std::net::{ToSocketAddrs, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use super::place::{Failure, Writer};

/// Where systemd's journal listens.
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";
/// The longest syslog message that every server must take (RFC 3164, 4.1).
pub(super) const LONGEST_UDP: usize = 1024;
/// What servers take from this machine without being told to.
pub(super) const LONGEST_UNIX: usize = 8 * 1024;
/// How long a server may take nothing before that is a failure.
const FULL: Duration = Duration::from_secs(1);

/// Sends to one server.
#[derive(Debug)]
pub(super) struct Datagrams {
    server: Server,
    /// Opened when it is needed; opened anew after a failure, as the server may have been started anew.
    socket: Option<Socket>,
}

#[derive(Debug)]
enum Server {
    Unix(PathBuf),
    Udp(String, u16),
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Datagrams {
    pub(super) fn unix(path: PathBuf) -> Datagrams {
        Datagrams { server: Server::Unix(path), socket: None }
    }

    pub(super) fn udp(host: String, port: u16) -> Datagrams {
        Datagrams { server: Server::Udp(host, port), socket: None }
    }

    fn send(&mut self, datagram: &[u8]) -> Result<(), Failure> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => self.socket.insert(self.server.connect()?),
        };
        let sent = match socket {
            Socket::Unix(socket) => socket.send(datagram),
            Socket::Udp(socket) => socket.send(datagram),
        };
        match sent {
            Ok(_) => Ok(()),
            // It will not become shorter.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                tracing::warn!("a line of {} bytes is too long for {}: dropped", datagram.len(), self.server.name());
                Ok(())
            }
            Err(error) => {
                self.socket = None;
                Err(self.server.failure("send to", error))
            }
        }
    }
}

impl Writer for Datagrams {
    fn write(&mut self, bytes: &mut &[u8]) -> Result<(), Failure> {
        while let Some((datagram, rest)) = unframe(bytes) {
            self.send(datagram)?;
            *bytes = rest;
        }
        Ok(())
    }
}

impl Server {
    fn connect(&self) -> Result<Socket, Failure> {
        let connected = match self {
            Server::Unix(path) => UnixDatagram::unbound().and_then(|socket| {
                socket.connect(path)?;
                socket.set_write_timeout(Some(FULL))?;
                Ok(Socket::Unix(socket))
            }),
            Server::Udp(host, port) => (host.as_str(), *port).to_socket_addrs().and_then(|mut addresses| {
                let address = addresses.next().ok_or_else(|| io::Error::other("it has no address"))?;
                let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(address)?;
                socket.set_write_timeout(Some(FULL))?;
                Ok(Socket::Udp(socket))
            }),
        };
        connected.map_err(|error| self.failure("connect to", error))
    }

    fn name(&self) -> String {
        match self {
            Server::Unix(path) => format!("{path:?}"),
            Server::Udp(host, port) => format!("udp://{host}:{port}"),
        }
    }

    fn failure(&self, verb: &str, error: io::Error) -> Failure {
        Failure { step: format!("{verb} {}", self.name()), error }
    }
}

/// Adds a datagram to a buffer.
pub(super) fn frame(buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend([0; 4]);
    write(buffer);
    let length = u32::try_from(buffer.len() - start - 4).expect("a line is no longer than 128 KiB");
    buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// The first datagram of a buffer, and what is behind it.
pub(super) fn unframe(buffer: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = buffer.split_first_chunk()?;
    rest.split_at_checked(u32::from_ne_bytes(*length) as usize)
}

/// Adds a field of a journal entry, in the form that is safe for any bytes.
pub(super) fn field(name: &str, value: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(name.as_bytes());
    to.push(b'\n');
    to.extend_from_slice(&(value.len() as u64).to_le_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}
