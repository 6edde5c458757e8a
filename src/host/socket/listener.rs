//! One open socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::Refusal;
use super::arrival;
use super::file::{Keeper, Occupant, SocketFile, check_length};
use super::kernel;
use super::place::Target;
use crate::host::sys::error_text;
use crate::model::event::{Address, Bound};
use crate::model::spec::{Place, SocketKind, SocketSpec};

/// The first port that needs no privilege, unless the system says otherwise.
const FIRST_FREE_PORT: u16 = 1024;

/// An open socket of the agent's. It is closed with this, and its path, where it has one, goes along.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    address: Address,
    kind: SocketKind,
    /// Where it is not the usual one.
    protocol: Option<i32>,
    /// Of a Unix socket of our own.
    file: Option<Arc<SocketFile>>,
    bell: Bell,
}

/// Tells whether anybody has come, even where a process has served them since.
#[derive(Debug, Default)]
struct Bell {
    is_armed: Mutex<bool>,
    /// How often it has rung.
    rung: AtomicU64,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Processes may go on with the socket; the signals would speak of a descriptor that is another's by then.
        if *self.bell.is_armed.get_mut().unwrap_or_else(PoisonError::into_inner) {
            arrival::disarm(&self.socket);
        }
    }
}

impl Listener {
    /// Opens the socket of `spec` there; `ours` are all others.
    pub(super) fn open(
        target: &Target,
        spec: &SocketSpec,
        ours: &[(&SocketSpec, &Listener)],
    ) -> Result<Listener, Refusal> {
        let step = target.step(spec.kind);
        let refused = |error| Refusal { step: step.clone(), error };
        match target {
            Target::Inet(address) => open_inet(*address, spec, ours).map_err(refused),
            Target::Unix(path) => open_unix(path, spec, ours).map_err(refused),
            Target::Given(fd, address) => open_given(fd, address, spec).map_err(refused),
        }
    }

    /// One more at the same address, for a lane (`SO_REUSEPORT`).
    pub(super) fn beside(&self, spec: &SocketSpec) -> Result<Listener, Refusal> {
        let refused = |error| Refusal { step: format!("have one more at {}", self.address), error };
        match &self.address {
            Address::Inet(address) => open_inet(*address, spec, &[]).map_err(refused),
            Address::Unix(_) => Err(refused("there is one Unix socket at a path; take so_reuseport out".into())),
        }
    }

    /// Makes one that is as `from` says as `to` says. May have done a part where it fails.
    pub(super) fn adjust(&self, from: &SocketSpec, to: &SocketSpec) -> Result<(), Refusal> {
        let refused = |what: &str| {
            let step = format!("{what} of {}", self.address);
            move |error| Refusal { step, error }
        };
        if to.interface != from.interface {
            bind_to_interface(&self.socket, to.interface.as_deref()).map_err(refused("change the interface"))?;
        }
        if to.reuse_port && !from.reuse_port {
            self.share_address(true);
        }
        if to.backlog != from.backlog && has_backlog(to) {
            let listened = self.socket.listen(backlog(to));
            listened.map_err(|error| refused("change the backlog")(error_text(&error)))?;
        }
        if to.blocking != from.blocking {
            let set = self.socket.set_nonblocking(!to.blocking);
            set.map_err(|error| refused("change blocking")(error_text(&error)))?;
        }
        if let Some(file) = &self.file
            && (to.umask, to.owner) != (from.umask, from.owner)
        {
            file.put_back();
            file.dress(to.umask, to.owner).map_err(refused("change umask or owner"))?;
        }
        Ok(())
    }

    /// Whether others of ours may be bound beside it.
    pub(super) fn share_address(&self, shared: bool) {
        if let Err(error) = self.socket.set_reuse_port(shared) {
            tracing::warn!("{}: cannot set SO_REUSEPORT: {}", self.address, error_text(&error));
        }
    }

    /// Whether this is what `spec` would be there.
    pub(super) fn is_at(&self, target: &Target, spec: &SocketSpec) -> bool {
        let alike = self.kind == spec.kind && self.protocol == protocol_of(spec);
        alike
            && match target {
                // Port 0 is another one each time.
                Target::Inet(address) => self.address == Address::Inet(*address) && address.port() != 0,
                Target::Unix(path) => self.file.as_ref().is_some_and(|file| file.is_at(path)),
                Target::Given(_, address) => self.file.is_none() && self.address == *address,
            }
    }

    /// Whether what `spec` would be there could not be beside this: a path is of one socket, of whichever kind.
    pub(super) fn is_in_the_way(&self, target: &Target, spec: &SocketSpec) -> bool {
        match (target, &self.file) {
            (Target::Unix(path), Some(file)) => file.is_at(path),
            (Target::Unix(_) | Target::Inet(_) | Target::Given(..), _) => self.is_at(target, spec),
        }
    }

    /// A descriptor of it for somebody else.
    pub(super) fn duplicate(&self) -> Result<OwnedFd, Refusal> {
        let duplicate = self.socket.try_clone().map(OwnedFd::from);
        duplicate.map_err(|error| Refusal { step: format!("hand over {}", self.address), error: error_text(&error) })
    }

    pub(super) fn bound(&self) -> Bound {
        Bound { fd: self.socket.as_raw_fd(), address: self.address.clone() }
    }

    /// What it has taken the place of is not needed any more, and its own path is to stay.
    pub(super) fn keep(&self, keeper: &Keeper) {
        if let Some(file) = &self.file {
            file.keep();
            keeper.add(file);
        }
    }

    /// Has thread `tid` signalled when somebody comes, once; gives back how often that was so. To be heard of by
    /// [`Listener::ring`].
    pub(super) fn arm(&self, tid: i32) -> io::Result<u64> {
        let mut is_armed = self.bell.is_armed.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_armed && !arrival::is_armed(&self.socket)? {
            // A process has taken the flag from the socket that it shares with us. Nobody knows who has come since.
            self.bell.rung.fetch_add(1, Ordering::Relaxed);
            *is_armed = false;
        }
        if !*is_armed {
            arrival::arm(&self.socket, tid)?;
            *is_armed = true;
        }
        Ok(self.bell.rung.load(Ordering::Relaxed))
    }

    /// Somebody has come. The next who comes is told when it is armed again: a busy server costs a signal for each time.
    pub(super) fn ring(&self) {
        let mut is_armed = self.bell.is_armed.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *is_armed) {
            self.bell.rung.fetch_add(1, Ordering::Relaxed);
            arrival::disarm(&self.socket);
        }
    }

    /// Whether a connection or a datagram waits.
    pub(super) fn has_waiting(&self) -> bool {
        has_waiting(&self.socket)
    }

    /// Whether a process has a connection that came through it. Where lanes or others share the address, through any of
    /// them: the kernel does not tell.
    pub(super) fn has_connection(&self) -> io::Result<bool> {
        match &self.address {
            _ if !self.kind.listens() => Ok(false),
            Address::Inet(_) if self.protocol.is_some() => {
                Err(io::Error::other("connections are looked for only where they are TCP's"))
            }
            Address::Inet(address) => kernel::has_tcp_connection(*address),
            Address::Unix(_) => kernel::has_unix_connection(&self.socket),
        }
    }

    fn new(socket: Socket, address: Address, spec: &SocketSpec, file: Option<Arc<SocketFile>>) -> Listener {
        Listener { socket, address, kind: spec.kind, protocol: protocol_of(spec), file, bell: Bell::default() }
    }
}

/// The system's word for a kind.
pub(super) fn type_of(kind: SocketKind) -> Type {
    match kind {
        SocketKind::Stream => Type::STREAM,
        SocketKind::Datagram => Type::DGRAM,
        SocketKind::SeqPacket => Type::SEQPACKET,
        SocketKind::Raw => Type::RAW,
    }
}

/// The protocol, where it is not the usual one of its kind.
fn protocol_of(spec: &SocketSpec) -> Option<i32> {
    let usual = match spec.kind {
        SocketKind::Stream => libc::IPPROTO_TCP,
        SocketKind::Datagram => libc::IPPROTO_UDP,
        SocketKind::SeqPacket | SocketKind::Raw => 0,
    };
    spec.protocol.filter(|protocol| ![0, usual].contains(protocol))
}

/// Whether a connection or a datagram waits in a socket.
pub(super) fn has_waiting(socket: impl AsFd) -> bool {
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) && asked[0].any() == Some(true)
}

/// Where a socket is bound.
pub(super) fn address_of(socket: &Socket) -> io::Result<Address> {
    let address = socket.local_addr()?;
    if let Some(address) = address.as_socket() {
        return Ok(Address::Inet(address));
    }
    match address.as_pathname() {
        Some(path) => Ok(Address::Unix(path.to_owned())),
        None => Err(io::Error::other("it is bound to no address or path")),
    }
}

fn open_inet(address: SocketAddr, spec: &SocketSpec, ours: &[(&SocketSpec, &Listener)]) -> Result<Listener, String> {
    let socket = new_socket(Domain::for_address(address), spec)?;
    let explain = |error: io::Error| explain_inet(&error, address, spec);
    if spec.kind == SocketKind::Stream {
        // Else the connections of an earlier agent would keep the port for a minute after their end.
        socket.set_reuse_address(true).map_err(explain)?;
    }
    if spec.reuse_port {
        socket.set_reuse_port(true).map_err(explain)?;
    }
    if spec.interface.is_some() {
        bind_to_interface(&socket, spec.interface.as_deref())?;
    }
    let mut bound = socket.bind(&address.into());
    // One that has an address, and one that has all of them, can be neighbours if both say so at that moment. So a
    // socket of ours can move from one to the other, its old one being closed only when nobody has it any more. (The
    // kernel goes on to admit neighbours at this port that say so, but only sockets of this very user.)
    let is_neighbour = |(_, other): &&(&SocketSpec, &Listener)| {
        let port = |address: &Address| if let Address::Inet(address) = address { address.port() } else { 0 };
        let is_elsewhere = other.address != Address::Inet(address);
        other.kind == spec.kind && port(&other.address) == address.port() && is_elsewhere
    };
    let neighbours = || ours.iter().filter(is_neighbour);
    let is_taken = bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    if is_taken && neighbours().next().is_some() {
        neighbours().for_each(|(_, other)| other.share_address(true));
        bound = socket.set_reuse_port(true).and_then(|()| socket.bind(&address.into()));
    }
    let done = bound.map_err(explain).and_then(|()| set_up(&socket, spec));
    if is_taken {
        neighbours().for_each(|(theirs, other)| other.share_address(theirs.reuse_port));
    }
    done?;
    socket.set_reuse_port(spec.reuse_port).map_err(explain)?;
    let address = address_of(&socket).map_err(explain)?;
    Ok(Listener::new(socket, address, spec, None))
}

fn open_unix(path: &Path, spec: &SocketSpec, ours: &[(&SocketSpec, &Listener)]) -> Result<Listener, String> {
    check_length(path)?;
    let socket = new_socket(Domain::UNIX, spec)?;
    let mut files = ours.iter().filter_map(|(_, other)| other.file.as_ref());
    let occupant = match files.find(|file| file.is_at(path)) {
        Some(file) => Occupant::Ours(Arc::clone(file)),
        None => Occupant::of(path, spec.kind)?,
    };
    let file = Arc::new(SocketFile::bind(&socket, path, spec, occupant)?);
    set_up(&socket, spec)?;
    Ok(Listener::new(socket, Address::Unix(path.to_owned()), spec, Some(file)))
}

fn open_given(fd: &OwnedFd, address: &Address, spec: &SocketSpec) -> Result<Listener, String> {
    let socket = Socket::from(fd.try_clone().map_err(|error| error_text(&error))?);
    if let (true, Address::Inet(_)) = (spec.reuse_port, address) {
        socket.set_reuse_port(true).map_err(|error| error_text(&error))?;
    }
    if spec.interface.is_some() {
        bind_to_interface(&socket, spec.interface.as_deref())?;
    }
    set_up(&socket, spec)?;
    Ok(Listener::new(socket, address.clone(), spec, None))
}

fn new_socket(domain: Domain, spec: &SocketSpec) -> Result<Socket, String> {
    Socket::new(domain, type_of(spec.kind), spec.protocol.map(Protocol::from)).map_err(|error| {
        let text = error_text(&error);
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EPERM | Errno::EACCES => format!("{text}: such a socket needs CAP_NET_RAW; run the agent with it"),
            Errno::EAFNOSUPPORT => format!("{text}; this machine does not have it, set another family"),
            Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT | Errno::EPROTOTYPE => {
                format!("{text}; {} has no such protocol here, correct proto or type", spec.kind.word())
            }
            _ => text,
        }
    })
}

fn bind_to_interface(socket: &Socket, interface: Option<&str>) -> Result<(), String> {
    socket.bind_device(interface.map(str::as_bytes)).map_err(|error| {
        let name = interface.unwrap_or("none");
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENODEV | Errno::EINVAL => {
                format!("ENODEV: there is no interface {name}; `ip link` shows those there are")
            }
            Errno::EPERM => format!("EPERM: interface {name} takes a privilege; run the agent with CAP_NET_RAW"),
            _ => format!("{} (interface {name})", error_text(&error)),
        }
    })
}

/// What comes after a socket has its place.
fn set_up(socket: &Socket, spec: &SocketSpec) -> Result<(), String> {
    let listened = if has_backlog(spec) { socket.listen(backlog(spec)) } else { Ok(()) };
    listened.and_then(|()| socket.set_nonblocking(!spec.blocking)).map_err(|error| error_text(&error))
}

/// Whether we say how many may wait. Of a socket that the service manager has opened, its unit does.
fn has_backlog(spec: &SocketSpec) -> bool {
    spec.kind.listens() && spec.place != Place::Given
}

fn backlog(spec: &SocketSpec) -> i32 {
    i32::try_from(spec.backlog).unwrap_or(i32::MAX)
}

fn explain_inet(error: &io::Error, address: SocketAddr, spec: &SocketSpec) -> String {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        Errno::EADDRINUSE => {
            let who = kernel::holder(address, spec.kind).unwrap_or_else(|| "another program".into());
            let does = if spec.kind.listens() { "listens" } else { "is" };
            format!("EADDRINUSE: {who} {does} there; stop it or choose another port")
        }
        Errno::EACCES if address.port() < FIRST_FREE_PORT => format!(
            "EACCES: ports below {FIRST_FREE_PORT} take a privilege; \
             run the agent with CAP_NET_BIND_SERVICE, or choose a higher port"
        ),
        Errno::EADDRNOTAVAIL => {
            "EADDRNOTAVAIL: this machine has no such address; `ip address` shows those it has".into()
        }
        Errno::EINVAL if address.is_ipv6() && spec.interface.is_none() => {
            format!("{}; a link-local address needs its interface: fe80::1%eth0", error_text(error))
        }
        _ => error_text(error),
    }
}
