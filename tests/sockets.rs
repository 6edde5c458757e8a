//! What `host` promises of sockets, proven on those of the kernel.
//!
//! Each case runs in a process of its own: see `support/cases.rs`.

#![allow(clippy::print_stdout)]

#[path = "support/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;

use cases::{Case, cases, eventually};
use circus_agent::host::Host;
use circus_agent::model::event::{Address, BindId, Bound, Event, SocketId};
use circus_agent::model::names::SocketName;
use circus_agent::model::spec::{Family, Place, SocketKind, SocketSpec};
use tempfile::TempDir;
use tokio::sync::mpsc;

const CASES: &[Case] = cases![
    every_kind_of_socket_opens_and_carries,
    a_unix_socket_has_the_mode_and_the_owner_it_is_given_and_goes_when_it_is_closed,
    an_order_that_fails_in_part_changes_nothing_and_tells_all_that_is_wrong,
    names_change_places_and_no_connection_is_lost,
];

// ---- the cases -----------------------------------------------------------------------------------------------------

async fn every_kind_of_socket_opens_and_carries() {
    let mut world = World::new();
    for (id, host) in [(1, "127.0.0.1"), (2, "::1"), (3, "localhost"), (4, "")] {
        let bound = world.binds(id, tcp(host, 0)).await;
        let address = inet(&bound);
        assert_ne!(address.port(), 0);
        assert_eq!(address.is_ipv6(), host == "::1", "{address}");
        let to = SocketAddr::new(if host.is_empty() { [127, 0, 0, 1].into() } else { address.ip() }, address.port());
        let mut client = TcpStream::connect(to).unwrap();
        client.write_all(b"x").unwrap();
        let mut server = TcpListener::from(copy(&bound)).accept().unwrap().0;
        server.read_exact(&mut [0]).unwrap();
    }

    let bound = world.binds(5, SocketSpec { kind: SocketKind::Datagram, ..tcp("127.0.0.1", 0) }).await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"x", inet(&bound)).unwrap();
    assert_eq!(UdpSocket::from(copy(&bound)).recv(&mut [0; 9]).unwrap(), 1);

    let path = world.path("stream");
    let bound = world.binds(6, unix(path.clone())).await;
    let _client = UnixStream::connect(&path).unwrap();
    UnixListener::from(copy(&bound)).accept().unwrap();

    let path = world.path("datagram");
    let bound = world.binds(7, SocketSpec { kind: SocketKind::Datagram, ..unix(path.clone()) }).await;
    UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
    assert_eq!(UnixDatagram::from(copy(&bound)).recv(&mut [0; 9]).unwrap(), 1);

    let path = world.path("seqpacket");
    let bound = world.binds(8, SocketSpec { kind: SocketKind::SeqPacket, ..unix(path.clone()) }).await;
    assert_eq!(bound.address, Address::Unix(path));
}

async fn a_unix_socket_has_the_mode_and_the_owner_it_is_given_and_goes_when_it_is_closed() {
    let mut world = World::new();
    let path = world.path("a");
    // More than our own umask leaves, and less.
    for (id, umask) in [(1, 0o000), (2, 0o077)] {
        world.binds(id, SocketSpec { umask, owner: (Some(12), Some(34)), ..unix(path.clone()) }).await;
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o777 & !umask, 12, 34));
        world.host.unbind(&[SocketId(id)]);
        eventually("its path goes", || !path.exists()).await;
    }
}

async fn an_order_that_fails_in_part_changes_nothing_and_tells_all_that_is_wrong() {
    let mut world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, path) = (taken.local_addr().unwrap().port(), world.path("a"));
    let wrong = world.fails(vec![unix(path.clone()), tcp("127.0.0.1", port), tcp("192.0.2.1", 80)]).await;
    let lines: Vec<&str> = wrong.lines().collect();
    assert_eq!(lines.len(), 2, "{wrong}");
    assert!(lines[0].starts_with(&format!("socket s: cannot listen on 127.0.0.1:{port}: EADDRINUSE: ")), "{wrong}");
    assert!(lines[1].starts_with("socket s: cannot listen on 192.0.2.1:80: EADDRNOTAVAIL: "), "{wrong}");
    assert!(!path.exists());
}

async fn names_change_places_and_no_connection_is_lost() {
    let mut world = World::new();
    let (a, b) = (world.binds(1, tcp("127.0.0.1", 0)).await, world.binds(2, tcp("127.0.0.1", 0)).await);
    let _waiting = TcpStream::connect(inet(&a)).unwrap();
    let swapped =
        vec![(SocketId(3), tcp("127.0.0.1", inet(&b).port())), (SocketId(4), tcp("127.0.0.1", inet(&a).port()))];
    let bound = world.order(swapped).await.unwrap();
    world.host.unbind(&[SocketId(1), SocketId(2)]);
    assert_eq!((inet(&bound[0].1), inet(&bound[1].1)), (inet(&b), inet(&a)));
    TcpListener::from(copy(&bound[1].1)).accept().unwrap();
}

// ---- what the cases are told with ----------------------------------------------------------------------------------

/// A host, what it has told, and a directory for paths.
struct World {
    host: Host,
    events: mpsc::Receiver<Event>,
    dir: TempDir,
    binds: u64,
}

impl World {
    fn new() -> World {
        let (sender, events) = mpsc::channel(64);
        let dir = TempDir::new().unwrap();
        World { host: Host::new(sender, dir.path().join("notify"), &[]).unwrap(), events, dir, binds: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn order(&mut self, sockets: Vec<(SocketId, SocketSpec)>) -> Result<Vec<(SocketId, Bound)>, String> {
        self.binds += 1;
        self.host.bind(BindId(self.binds), sockets);
        match self.events.recv().await {
            Some(Event::Bound { bind, result }) if bind == BindId(self.binds) => result,
            other => panic!("not the end of the order: {other:?}"),
        }
    }

    async fn binds(&mut self, id: u64, spec: SocketSpec) -> Bound {
        let mut bound = self.order(vec![(SocketId(id), spec)]).await.unwrap();
        bound.remove(0).1
    }

    async fn fails(&mut self, specs: Vec<SocketSpec>) -> String {
        let sockets = (100..).map(SocketId).zip(specs).collect();
        self.order(sockets).await.unwrap_err()
    }
}

fn tcp(host: &str, port: u16) -> SocketSpec {
    let family = if host.contains(':') { Family::V6 } else { Family::V4 };
    spec(Place::Inet { host: host.into(), port, family })
}

fn unix(path: PathBuf) -> SocketSpec {
    spec(Place::Unix(path))
}

fn spec(place: Place) -> SocketSpec {
    SocketSpec {
        name: SocketName::parse("s").unwrap(),
        place,
        kind: SocketKind::Stream,
        protocol: None,
        backlog: 128,
        blocking: true,
        reuse_port: false,
        replace: false,
        umask: 0,
        owner: (None, None),
        interface: None,
        watchers: Vec::new(),
        settings: BTreeMap::new(),
    }
}

fn inet(bound: &Bound) -> SocketAddr {
    match &bound.address {
        Address::Inet(address) => *address,
        Address::Unix(path) => panic!("it is at {path:?}"),
    }
}

/// A copy of the agent's descriptor, as a process gets one.
fn copy(bound: &Bound) -> OwnedFd {
    // SAFETY: the host keeps it open until it is told to unbind it, which no case does before it has its copy.
    let fd = unsafe { BorrowedFd::borrow_raw(bound.fd) };
    fd.try_clone_to_owned().unwrap()
}

// ---- how the cases are run -----------------------------------------------------------------------------------------

fn main() -> ExitCode {
    cases::main(CASES, |role| panic!("no role {role}"))
}
