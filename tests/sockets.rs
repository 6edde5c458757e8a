//! What `host` promises of sockets, proven on those of the kernel.
//!
//! Each case runs in a process of its own: see `support/cases.rs`.

#![allow(clippy::print_stdout)]

#[path = "support/cases.rs"]
mod cases;

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use cases::{Case, NEVER, cases, eventually};
use circus_agent::host::Host;
use circus_agent::model::event::{Address, BindId, Bound, Event, Handed, SocketId};
use circus_agent::model::names::{SocketName, WatcherName};
use circus_agent::model::spec::{Family, Place, SocketKind, SocketSpec};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{GetSockOpt, getsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use tokio::sync::mpsc;

const CASES: &[Case] = cases![
    every_kind_of_socket_opens_and_carries,
    a_socket_blocks_as_it_is_told_to,
    a_unix_socket_has_the_mode_and_the_owner_it_is_given_and_goes_when_it_is_closed,
    a_unix_socket_goes_with_the_host,
    an_order_that_fails_in_part_changes_nothing_and_tells_all_that_is_wrong,
    who_has_a_port_is_named,
    nobody_takes_the_place_of_a_socket_that_stays,
    each_bad_address_is_told_with_the_way_out,
    each_missing_privilege_is_told_with_the_way_out,
    each_bad_path_is_told_with_the_way_out,
    a_path_where_this_user_may_not_be_is_told_with_the_way_out,
    a_stale_socket_is_removed_and_a_live_one_only_where_it_is_to_be_replaced,
    an_open_socket_is_adjusted,
    an_adjustment_that_fails_is_taken_back_with_its_order,
    names_change_places_and_no_connection_is_lost,
    a_socket_moves_between_an_address_and_all_of_them,
    a_unix_socket_becomes_one_of_another_kind_at_its_path,
    a_socket_begins_and_ends_to_have_lanes_and_no_connection_is_lost,
    sockets_of_the_service_manager_are_used_by_name,
    what_the_service_manager_has_not_given_is_told,
    a_path_that_a_process_removes_is_put_back,
    a_path_that_another_socket_takes_is_left_to_it,
    the_first_who_comes_wakes_a_watcher_once,
    a_watcher_that_is_not_watched_for_any_more_is_not_woken,
    a_watcher_is_busy_while_a_connection_is_open_or_waits_or_was_made_since,
    datagrams_make_a_watcher_busy,
    what_comes_to_another_watcher_does_not_count,
    two_watchers_of_one_socket_both_hear_of_a_connection,
    a_watcher_that_was_woken_counts_as_busy_first,
    where_too_many_signals_wait_any_socket_may_be_meant,
    a_process_that_takes_the_signal_off_makes_the_watcher_busy,
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
        let mut server = TcpStream::from(OwnedFd::from(accepts(&bound).await));
        server.read_exact(&mut [0]).unwrap();
    }

    let bound = world.binds(5, SocketSpec { kind: SocketKind::Datagram, ..tcp("127.0.0.1", 0) }).await;
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"x", inet(&bound)).unwrap();
    assert_eq!(UdpSocket::from(copy(&bound)).recv(&mut [0; 9]).unwrap(), 1);

    let path = world.path("stream");
    let bound = world.binds(6, unix(&path)).await;
    let _client = UnixStream::connect(&path).unwrap();
    accepts(&bound).await;

    let path = world.path("datagram");
    let bound = world.binds(7, SocketSpec { kind: SocketKind::Datagram, ..unix(&path) }).await;
    UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
    assert_eq!(UnixDatagram::from(copy(&bound)).recv(&mut [0; 9]).unwrap(), 1);

    let path = world.path("seqpacket");
    let bound = world.binds(8, SocketSpec { kind: SocketKind::SeqPacket, ..unix(&path) }).await;
    assert_eq!(bound.address, Address::Unix(path));
}

async fn a_socket_blocks_as_it_is_told_to() {
    let mut world = World::new();
    for (id, blocking) in [(1, true), (2, false)] {
        let bound = world.binds(id, SocketSpec { blocking, ..tcp("127.0.0.1", 0) }).await;
        assert_eq!(!flags(&bound).contains(OFlag::O_NONBLOCK), blocking);
    }
}

async fn a_unix_socket_has_the_mode_and_the_owner_it_is_given_and_goes_when_it_is_closed() {
    let mut world = World::new();
    let path = world.path("a");
    // More than our own umask leaves, and less.
    for (id, umask) in [(1, 0o000), (2, 0o077)] {
        world.binds(id, SocketSpec { umask, owner: (Some(12), Some(34)), ..unix(&path) }).await;
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid(), found.gid()), (0o777 & !umask, 12, 34));
        world.host.unbind(&[SocketId(id)]);
        eventually("its path goes", || !path.exists()).await;
    }
}

async fn a_unix_socket_goes_with_the_host() {
    let mut world = World::new();
    let path = world.path("a");
    world.binds(1, unix(&path)).await;
    assert_eq!(world.files(), [".a.circus-second", "a"]);
    drop(world.host);
    let left: Vec<_> = fs::read_dir(world.dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

async fn an_order_that_fails_in_part_changes_nothing_and_tells_all_that_is_wrong() {
    let mut world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, path, old) = (taken.local_addr().unwrap().port(), world.path("a"), world.path("old"));
    let _live = UnixListener::bind(&old).unwrap();
    let replacing = SocketSpec { replace: true, ..unix(&old) };
    let wrong = world.fails(vec![unix(&path), replacing, tcp("127.0.0.1", port), tcp("192.0.2.1", 80)]).await;
    let lines: Vec<&str> = wrong.lines().collect();
    assert_eq!(lines.len(), 2, "{wrong}");
    assert!(lines[0].starts_with(&format!("socket s: cannot listen on 127.0.0.1:{port}: EADDRINUSE: ")), "{wrong}");
    assert!(lines[1].starts_with("socket s: cannot listen on 192.0.2.1:80: EADDRNOTAVAIL: "), "{wrong}");
    assert_eq!(world.files(), ["old"]);
    UnixStream::connect(old).expect("the one that was to be replaced is there again");
}

async fn who_has_a_port_is_named() {
    let mut world = World::new();
    for (address, kind) in [
        ("127.0.0.1", SocketKind::Stream),
        ("0.0.0.0", SocketKind::Stream),
        ("::1", SocketKind::Stream),
        ("127.0.0.1", SocketKind::Datagram),
    ] {
        let holder = Holder::at(address, kind);
        let (pid, port) = (holder.child.id(), holder.port);
        let wrong = world.fails(vec![SocketSpec { kind, ..tcp(address, port) }]).await;
        let place = SocketAddr::new(address.parse().unwrap(), port);
        let (does, is) = if kind == SocketKind::Stream { ("listen on", "listens") } else { ("bind to", "is") };
        let who = format!("python3 (pid {pid}) {is} there; stop it or choose another port");
        assert_eq!(wrong, format!("socket s: cannot {does} {place}: EADDRINUSE: {who}"));
        // All addresses of both families: it is in the way of one, too.
        let any = Holder::at("::", kind);
        let wrong = world.fails(vec![SocketSpec { kind, ..tcp("127.0.0.1", any.port) }]).await;
        assert!(wrong.contains(&format!("python3 (pid {})", any.child.id())), "{wrong}");
    }
    // Two of one order, of which neither is wrong by itself.
    let port = free_port();
    let wrong = world.fails(vec![tcp("127.0.0.1", port), tcp("127.0.0.1", port)]).await;
    let why = "EADDRINUSE: socket s is to be there; give each a place of its own";
    assert_eq!(wrong, format!("socket s: cannot listen on 127.0.0.1:{port}: {why}"));
}

async fn nobody_takes_the_place_of_a_socket_that_stays() {
    let mut world = World::new();
    let (web, path) = (world.binds(1, tcp("127.0.0.1", 0)).await, world.path("a"));
    world.binds(2, unix(&path)).await;
    let port = inet(&web).port();
    let others = [
        // The same by another name.
        tcp("localhost", port),
        SocketSpec { reuse_port: true, ..tcp("127.0.0.1", port) },
        SocketSpec { kind: SocketKind::Datagram, ..unix(&path) },
    ];
    for (id, other) in (3..).zip(others) {
        let order = vec![(SocketId(id), other)];
        let wrong = world.order_beside(order.clone(), &[1, 2]).await.unwrap_err();
        assert!(wrong.ends_with("EADDRINUSE: socket s is there; give each a place of its own"), "{wrong}");
        let _waiting = UnixStream::connect(&path).unwrap();
        // Once the other is to go, it may.
        world.order_beside(order, &[]).await.unwrap();
        world.host.unbind(&[SocketId(id)]);
        world.binds(2, unix(&path)).await;
    }
}

async fn each_bad_address_is_told_with_the_way_out() {
    let mut world = World::new();
    let with = |change: fn(&mut SocketSpec)| {
        let mut spec = tcp("127.0.0.1", 0);
        change(&mut spec);
        spec
    };
    let cases = [
        (
            tcp("nosuch.invalid", 80),
            &["listen on nosuch.invalid:80: no host \"nosuch.invalid\" is known", "give an address"][..],
        ),
        (
            spec(Place::Inet { host: "127.0.0.1".into(), port: 80, family: Family::V6 }),
            &["\"127.0.0.1\" has no address of family AF_INET6; set another family"],
        ),
        (tcp("192.0.2.1", 80), &["EADDRNOTAVAIL: this machine has no such address; `ip address` shows"]),
        (
            with(|spec| spec.interface = Some("nosuch0".into())),
            &["ENODEV: there is no interface nosuch0; `ip link` shows"],
        ),
        (
            with(|spec| spec.interface = Some("a-name-that-is-too-long".into())),
            &["ENODEV: there is no interface a-name"],
        ),
        (
            with(|spec| spec.protocol = Some(17)),
            &["EPROTONOSUPPORT", "SOCK_STREAM has no such protocol here, correct proto"],
        ),
        (with(|spec| spec.kind = SocketKind::SeqPacket), &["ESOCKTNOSUPPORT", "correct proto or type"]),
    ];
    for (spec, parts) in cases {
        let wrong = world.fails(vec![spec]).await;
        assert!(wrong.starts_with("socket s: cannot ") && wrong.lines().count() == 1, "{wrong}");
        parts.iter().for_each(|part| assert!(wrong.contains(part), "{part:?} is not in: {wrong}"));
    }
}

async fn each_missing_privilege_is_told_with_the_way_out() {
    let mut world = World::new();
    give_up(&[CAP_CHOWN, CAP_NET_BIND_SERVICE, CAP_NET_RAW]);
    let raw = SocketSpec { kind: SocketKind::Raw, protocol: Some(253), ..tcp("127.0.0.1", 0) };
    let wrong = world.fails(vec![raw]).await;
    assert!(
        wrong.contains("EPERM: Operation not permitted: such a socket needs CAP_NET_RAW; run the agent"),
        "{wrong}"
    );

    let privileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    // A container may have let go of them all.
    if privileged.trim().parse::<u16>().unwrap() > 1 {
        let wrong = world.fails(vec![tcp("127.0.0.1", 1)]).await;
        assert!(wrong.contains("listen on 127.0.0.1:1: EACCES: ports below 1024 take a privilege; run the agent with CAP_NET_BIND_SERVICE, or choose a higher port"), "{wrong}");
    }

    let spec = SocketSpec { interface: Some("lo".into()), ..tcp("127.0.0.1", 0) };
    world.binds(1, spec.clone()).await;
    let wrong = world.order(vec![(SocketId(1), SocketSpec { interface: None, ..spec })]).await.unwrap_err();
    assert!(wrong.contains("cannot change the interface of 127.0.0.1:"), "{wrong}");
    assert!(wrong.contains("EPERM: interface none takes a privilege; run the agent with CAP_NET_RAW"), "{wrong}");

    let path = world.path("a");
    let wrong = world.fails(vec![SocketSpec { owner: (Some(12), None), ..unix(&path) }]).await;
    assert!(wrong.contains("EPERM: Operation not permitted; to give a file away takes a privilege"), "{wrong}");
    assert!(world.files().is_empty());
}

async fn each_bad_path_is_told_with_the_way_out() {
    let mut world = World::new();
    let file = world.path("file");
    fs::write(&file, "precious").unwrap();
    let dir = world.path("dir");
    fs::create_dir(&dir).unwrap();
    let link = world.path("link");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    let long = world.path(&"x".repeat(108));
    let missing = world.path("missing");
    let replace = |path: &Path| SocketSpec { replace: true, ..unix(path) };
    let no_socket = |path: &Path| format!("socket s: cannot listen on {}: EADDRINUSE: a ", path.display());
    let cases = [
        (unix(&missing.join("a")), format!("ENOENT: there is no directory {}; make it", missing.display())),
        (unix(&file.join("a")), format!("ENOTDIR: {} is no directory; choose another path", file.display())),
        (replace(&file), no_socket(&file) + "file that is no socket is there; remove it or choose another path"),
        (replace(&dir), no_socket(&dir) + "directory that is no socket is there"),
        (replace(&link), no_socket(&link) + "file that is no socket is there"),
        (
            unix(&long),
            format!(
                "ENAMETOOLONG: a socket's path has at most 107 bytes, and this one {}; choose",
                long.as_os_str().len()
            ),
        ),
    ];
    for (spec, part) in cases {
        let wrong = world.fails(vec![spec]).await;
        assert!(wrong.contains(&part) && wrong.lines().count() == 1, "{part:?} is not in: {wrong}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

async fn a_path_where_this_user_may_not_be_is_told_with_the_way_out() {
    let mut world = World::new();
    give_up(&[CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH]);
    let (closed, taken) = (world.path("closed"), world.path("taken"));
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o500)).unwrap();
    let wrong = world.fails(vec![unix(&closed.join("a"))]).await;
    let why = format!("EACCES: this agent's user may not make a file in {}; let it", closed.display());
    assert!(wrong.contains(&why), "{wrong}");

    let _live = UnixListener::bind(&taken).unwrap();
    fs::set_permissions(&taken, Permissions::from_mode(0o000)).unwrap();
    let wrong = world.fails(vec![SocketSpec { replace: true, ..unix(&taken) }]).await;
    assert!(wrong.contains("EACCES: Permission denied; this agent's user may not connect to the socket"), "{wrong}");
    assert!(taken.exists());
}

async fn a_stale_socket_is_removed_and_a_live_one_only_where_it_is_to_be_replaced() {
    let mut world = World::new();
    for (kind, n) in [(SocketKind::Stream, 1), (SocketKind::Datagram, 2), (SocketKind::SeqPacket, 3)] {
        let path = world.path(&format!("a{n}"));
        drop(bind_path(&path, kind));
        assert!(path.exists());
        // As an agent leaves them that is killed.
        fs::hard_link(&path, world.path(&format!(".a{n}.circus-second"))).unwrap();
        world.binds(n, SocketSpec { kind, ..unix(&path) }).await;

        let path = world.path(&format!("b{n}"));
        let live = bind_path(&path, kind);
        let inode = fs::metadata(&path).unwrap().ino();
        let wrong = world.fails(vec![SocketSpec { kind, ..unix(&path) }]).await;
        let me = format!("(pid {}) has it; stop it, choose another path, or set replace = true", std::process::id());
        assert!(wrong.contains("EADDRINUSE: ") && wrong.contains(&me), "{wrong}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);

        world.binds(10 + n, SocketSpec { kind, replace: true, ..unix(&path) }).await;
        assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
        drop(live);
    }
    let of =
        |n: u32| [format!(".a{n}.circus-second"), format!(".b{n}.circus-second"), format!("a{n}"), format!("b{n}")];
    let mut all: Vec<String> = (1..4).flat_map(of).collect();
    all.sort();
    assert_eq!(world.files(), all);
}

async fn an_open_socket_is_adjusted() {
    let mut world = World::new();
    let path = world.path("a");
    let from = SocketSpec { umask: 0o077, backlog: 1, ..unix(&path) };
    let bound = world.binds(1, from.clone()).await;
    let inode = fs::metadata(&path).unwrap().ino();
    let to = SocketSpec { umask: 0o007, owner: (Some(12), Some(34)), blocking: false, backlog: 50, ..from };
    assert_eq!(world.binds(1, to).await, bound);
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.ino(), found.mode() & 0o777, found.uid(), found.gid()), (inode, 0o770, 12, 34));
    assert!(flags(&bound).contains(OFlag::O_NONBLOCK));
    // More may wait than before.
    let _waiting: Vec<_> = (0..20).map(|_| connect_at_once(&path)).collect();

    let bound = world.binds(2, tcp("127.0.0.1", 0)).await;
    let port = inet(&bound).port();
    world.binds(2, SocketSpec { interface: Some("lo".into()), ..tcp("127.0.0.1", port) }).await;
    assert_eq!(socket_option(&bound, sockopt::BindToDevice), "lo");
}

async fn an_adjustment_that_fails_is_taken_back_with_its_order() {
    let mut world = World::new();
    let path = world.path("a");
    let from = SocketSpec { umask: 0o077, ..unix(&path) };
    let bound = world.binds(1, from.clone()).await;
    let to = SocketSpec { umask: 0, blocking: false, ..from };
    world.order(vec![(SocketId(1), to.clone()), (SocketId(2), tcp("192.0.2.1", 80))]).await.unwrap_err();
    let is_as_before = || {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(!flags(&bound).contains(OFlag::O_NONBLOCK));
    };
    is_as_before();
    // Itself half done.
    world.order(vec![(SocketId(1), SocketSpec { interface: Some("nosuch0".into()), ..to })]).await.unwrap_err();
    is_as_before();
}

async fn names_change_places_and_no_connection_is_lost() {
    let mut world = World::new();
    let (a, b) = (world.binds(1, tcp("127.0.0.1", 0)).await, world.binds(2, tcp("127.0.0.1", 0)).await);
    let _waiting = TcpStream::connect(inet(&a)).unwrap();
    // The usual protocol is the same, be it named or not.
    let named = SocketSpec { protocol: Some(6), ..tcp("127.0.0.1", inet(&a).port()) };
    let swapped = vec![(SocketId(3), tcp("127.0.0.1", inet(&b).port())), (SocketId(4), named)];
    let bound = world.order(swapped).await.unwrap();
    world.host.unbind(&[SocketId(1), SocketId(2)]);
    assert_eq!((inet(&bound[0].1), inet(&bound[1].1)), (inet(&b), inet(&a)));
    accepts(&bound[1].1).await;
}

async fn a_socket_moves_between_an_address_and_all_of_them() {
    let mut world = World::new();
    for (id, kind) in [(0, SocketKind::Stream), (10, SocketKind::Datagram)] {
        let port = free_port();
        let at = |host| SocketSpec { kind, ..tcp(host, port) };
        let one = world.binds(id + 1, at("127.0.0.1")).await;
        let all = world.binds(id + 2, at("")).await;
        let _first = Client::met(kind, port);
        eventually("the one that has the address is nearer", || waits(&one)).await;
        world.closes(id + 1, &one).await;
        let _second = Client::met(kind, port);
        eventually("the new one has it", || waits(&all)).await;

        let one = world.binds(id + 3, at("127.0.0.1")).await;
        world.closes(id + 2, &all).await;
        let _third = Client::met(kind, port);
        eventually("the newest has it", || waits(&one)).await;
        assert!(!socket_option(&one, sockopt::ReusePort), "it lets nobody in beside it");
    }
}

async fn a_unix_socket_becomes_one_of_another_kind_at_its_path() {
    let mut world = World::new();
    let path = world.path("a");
    let old = world.binds(1, unix(&path)).await;
    let datagrams = SocketSpec { kind: SocketKind::Datagram, ..unix(&path) };
    // Not where the rest of the order fails: then the old one is there, and stays.
    world.order(vec![(SocketId(2), datagrams.clone()), (SocketId(3), tcp("192.0.2.1", 80))]).await.unwrap_err();
    UnixStream::connect(&path).unwrap();
    fs::remove_file(&path).unwrap();
    eventually("it is put back", || path.exists()).await;

    world.binds(2, datagrams).await;
    UnixDatagram::unbound().unwrap().connect(&path).unwrap();
    world.closes(1, &old).await;
    assert_eq!(world.files(), [".a.circus-second", "a"]);
}

async fn a_socket_begins_and_ends_to_have_lanes_and_no_connection_is_lost() {
    let mut world = World::new();
    let one = world.binds(1, tcp("127.0.0.1", 0)).await;
    let port = inet(&one).port();
    let _first = TcpStream::connect(inet(&one)).unwrap();
    let lanes = world.binds(2, SocketSpec { reuse_port: true, ..tcp("127.0.0.1", port) }).await;
    world.host.unbind(&[SocketId(1)]);
    let _second = TcpStream::connect(inet(&one)).unwrap();
    let again = world.binds(3, tcp("127.0.0.1", port)).await;
    world.host.unbind(&[SocketId(2)]);
    eventually("that is done", || !socket_option(&again, sockopt::ReusePort)).await;
    assert_eq!((one.fd, one.fd), (lanes.fd, again.fd));
    accepts(&again).await;
    accepts(&again).await;
}

async fn sockets_of_the_service_manager_are_used_by_name() {
    let dir = TempDir::new().unwrap();
    let (tcp4, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let path = dir.path().join("given");
    let (place, of_unix) = (tcp4.local_addr().unwrap(), UnixListener::bind(&path).unwrap());
    let given = vec![("s".into(), udp.into()), ("S".into(), tcp4.into()), ("other".into(), OwnedFd::from(of_unix))];
    let mut world = World::with_given(given);
    // By its name; of two that have it the one that fits.
    let bound = world.binds(1, spec(Place::Given)).await;
    assert_eq!(inet(&bound), place);
    let _client = TcpStream::connect(place).unwrap();
    accepts(&bound).await;
    // And in the place of one of our own.
    assert_eq!(inet(&world.binds(2, SocketSpec { blocking: false, ..tcp("127.0.0.1", 0) }).await), place);
    assert!(flags(&bound).contains(OFlag::O_NONBLOCK));
    let other = SocketSpec { name: SocketName::parse("other").unwrap(), ..spec(Place::Given) };
    assert_eq!(world.binds(3, other).await.address, Address::Unix(path.clone()));
    world.host.unbind(&[SocketId(1), SocketId(2), SocketId(3)]);
    drop(world);
    assert!(path.exists(), "it is the service manager's");
}

async fn what_the_service_manager_has_not_given_is_told() {
    let mut world = World::new();
    let wrong = world.fails(vec![spec(Place::Given)]).await;
    assert_eq!(
        wrong,
        "socket s: cannot take over what the service manager has opened: none of that name was handed over; \
         start the agent by a systemd unit whose .socket has FileDescriptorName=s, or give it a port or a path"
    );
    drop(world);
    let mut world = World::with_given(vec![("s".into(), UdpSocket::bind("127.0.0.1:0").unwrap().into())]);
    for wanted in [spec(Place::Given), tcp("127.0.0.1", 0)] {
        let wrong = world.fails(vec![wanted]).await;
        let why = "it is a SOCK_DGRAM of AF_INET, which does not fit; correct the .socket unit";
        assert_eq!(wrong, format!("socket s: cannot use what the service manager has handed over: {why}"));
    }
    drop(world);
    let mut world = World::with_given(vec![("s".into(), File::open("/dev/null").unwrap().into())]);
    let wrong = world.fails(vec![spec(Place::Given)]).await;
    assert!(wrong.contains("ENOTSOCK"), "{wrong}");
}

async fn a_path_that_a_process_removes_is_put_back() {
    let mut world = World::new();
    let (path, other) = (world.path("a"), world.path("b"));
    let bound = world.binds(1, unix(&path)).await;
    world.binds(2, unix(&other)).await;
    // Whose file may not be linked to without a privilege.
    world.binds(3, SocketSpec { owner: (Some(12), None), umask: 0o077, ..unix(&world.path("c")) }).await;
    for _ in 0..3 {
        fs::remove_file(&path).unwrap();
        fs::rename(&other, world.path("moved")).unwrap();
        fs::remove_file(world.path("c")).unwrap();
        eventually("they are back", || path.exists() && other.exists() && world.path("c").exists()).await;
    }
    let _client = UnixStream::connect(&path).unwrap();
    accepts(&bound).await;
    // Moved elsewhere by its id.
    world.host.unbind(&[SocketId(1), SocketId(2), SocketId(3)]);
    fs::remove_file(world.path("moved")).unwrap();
    eventually("all are gone", || world.files().is_empty()).await;
}

async fn a_path_that_another_socket_takes_is_left_to_it() {
    let mut world = World::new();
    let (path, new) = (world.path("a"), world.path("new"));
    world.binds(1, unix(&path)).await;
    let _taker = UnixListener::bind(&new).unwrap();
    let inode = fs::metadata(&new).unwrap().ino();
    fs::rename(&new, &path).unwrap();
    // Has inotify tell of this directory once more, after that.
    world.binds(2, unix(&world.path("b"))).await;
    fs::remove_file(world.path("b")).unwrap();
    eventually("it is put back", || world.path("b").exists()).await;
    drop(world.host);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

async fn the_first_who_comes_wakes_a_watcher_once() {
    let mut world = World::new();
    for (id, kind) in [(1, SocketKind::Stream), (2, SocketKind::Datagram)] {
        let bound = world.binds(id, SocketSpec { kind, ..tcp("127.0.0.1", 0) }).await;
        let other = world.binds(10 + id, tcp("127.0.0.1", 0)).await;
        let web = watcher("web");
        // In place of those that it was watched for before.
        world.host.await_demand(web.clone(), &[handed(10 + id)]);
        world.host.await_demand(web.clone(), &[handed(id), handed(99)]);
        let _unheard = TcpStream::connect(inet(&other)).unwrap();
        world.hears_nothing().await;
        let _clients = [Client::met(kind, inet(&bound).port()), Client::met(kind, inet(&bound).port())];
        assert_eq!(world.events.recv().await, Some(Event::Demanded { watcher: web.clone() }));
        world.hears_nothing().await;
        // Who waits already is as good as who comes.
        world.host.await_demand(web.clone(), &[handed(id)]);
        assert_eq!(world.events.recv().await, Some(Event::Demanded { watcher: web }));
    }
}

async fn a_watcher_that_is_not_watched_for_any_more_is_not_woken() {
    let mut world = World::new();
    let bound = world.binds(1, tcp("127.0.0.1", 0)).await;
    world.host.await_demand(watcher("web"), &[handed(1)]);
    world.host.ignore_demand(&watcher("web"));
    let _client = TcpStream::connect(inet(&bound)).unwrap();
    world.hears_nothing().await;
}

async fn a_watcher_is_busy_while_a_connection_is_open_or_waits_or_was_made_since() {
    let mut world = World::new();
    let path = world.path("a");
    // What it is, and an address of another family at which it is to be met, too.
    let cases = [
        (tcp("127.0.0.1", 0), None),
        (tcp("::1", 0), None),
        (tcp("::", 0), Some("127.0.0.1")),
        (unix(&path), None),
        (SocketSpec { kind: SocketKind::SeqPacket, ..unix(&world.path("b")) }, None),
    ];
    for (id, (spec, at)) in (1..).zip(cases) {
        let what = format!("{spec:?}");
        let bound = world.binds(id, spec).await;
        assert!(world.is_busy("web", id).await, "nobody knows what came before the first count: {what}");
        assert!(!world.is_busy("web", id).await, "{what}");

        // Nobody accepts.
        let waiting = Client::connect(&bound, at);
        assert!(world.is_busy("web", id).await, "{what}");
        assert!(world.is_busy("web", id).await, "{what}");

        let server = Served::by(SERVER, &bound);
        drop(waiting);
        world.becomes_idle("web", id).await;
        // Long served when it is asked.
        Client::connect(&bound, at).is_served(b'x');
        assert!(world.is_busy("web", id).await, "{what}");
        assert!(!world.is_busy("web", id).await, "{what}");

        let open = Client::connect(&bound, at);
        open.is_served(b'h');
        assert!(world.is_busy("web", id).await, "{what}");
        assert!(world.is_busy("web", id).await, "{what}");
        drop(open);
        world.becomes_idle("web", id).await;

        // The server goes, and the socket stays.
        drop(server);
        assert!(!world.is_busy("web", id).await, "{what}");
    }
}

async fn datagrams_make_a_watcher_busy() {
    let mut world = World::new();
    let path = world.path("a");
    let kind = SocketKind::Datagram;
    for (id, spec) in [(1, tcp("127.0.0.1", 0)), (2, tcp("::1", 0)), (3, unix(&path))] {
        let bound = world.binds(id, SocketSpec { kind, ..spec }).await;
        world.becomes_idle("web", id).await;
        let client = Client::connect(&bound, None);
        client.send(b'x');
        assert!(world.is_busy("web", id).await);
        assert!(world.is_busy("web", id).await, "it waits");
        let _server = Served::by("import socket\ns = socket.socket(fileno=0)\nwhile True: s.recv(9)", &bound);
        world.becomes_idle("web", id).await;
        client.send(b'x');
        eventually("it is taken", || !waits(&bound)).await;
        assert!(world.is_busy("web", id).await);
        assert!(!world.is_busy("web", id).await);
    }
}

async fn what_comes_to_another_watcher_does_not_count() {
    let mut world = World::new();
    let (path, other) = (world.path("a"), world.path("b"));
    let port = free_port();
    let pairs = [
        (tcp("127.0.0.1", 0), tcp("127.0.0.1", 0)),
        (tcp("127.0.0.1", port), tcp("127.0.0.2", port)),
        (unix(&path), unix(&other)),
    ];
    for (id, (mine, others)) in (1..).step_by(2).zip(pairs) {
        let (mine, others) = (world.binds(id, mine).await, world.binds(id + 1, others).await);
        let _servers = (Served::by(SERVER, &mine), Served::by(SERVER, &others));
        world.becomes_idle("web", id).await;
        world.becomes_idle("other", id + 1).await;
        Client::connect(&others, None).is_served(b'x');
        let open = Client::connect(&others, None);
        open.is_served(b'h');
        assert!(!world.is_busy("web", id).await);
        assert!(world.is_busy("other", id + 1).await);
    }
}

async fn two_watchers_of_one_socket_both_hear_of_a_connection() {
    let mut world = World::new();
    let bound = world.binds(1, tcp("127.0.0.1", 0)).await;
    let _server = Served::by(SERVER, &bound);
    world.becomes_idle("a", 1).await;
    world.becomes_idle("b", 1).await;
    for _ in 0..2 {
        Client::connect(&bound, None).is_served(b'x');
        assert!(world.is_busy("a", 1).await);
        Client::connect(&bound, None).is_served(b'x');
        assert!(world.is_busy("a", 1).await);
        assert!(world.is_busy("b", 1).await);
        assert!(!world.is_busy("a", 1).await);
        assert!(!world.is_busy("b", 1).await);
    }
}

async fn a_watcher_that_was_woken_counts_as_busy_first() {
    let mut world = World::new();
    let bound = world.binds(1, tcp("127.0.0.1", 0)).await;
    world.becomes_idle("web", 1).await;
    // Counted already when it wakes, and served when it is counted again.
    let client = Client::connect(&bound, None);
    assert!(world.is_busy("web", 1).await);
    world.host.await_demand(watcher("web"), &[handed(1)]);
    assert_eq!(world.events.recv().await, Some(Event::Demanded { watcher: watcher("web") }));
    let _server = Served::by(SERVER, &bound);
    client.is_served(b'x');
    assert!(world.is_busy("web", 1).await);
    assert!(!world.is_busy("web", 1).await);
}

async fn where_too_many_signals_wait_any_socket_may_be_meant() {
    let mut world = World::new();
    let (bound, _other) = (world.binds(1, tcp("127.0.0.1", 0)).await, world.binds(2, tcp("127.0.0.1", 0)).await);
    let _server = Served::by(SERVER, &bound);
    world.becomes_idle("web", 1).await;
    world.becomes_idle("other", 2).await;
    // None may wait: the kernel sends SIGIO instead, which would end a process that does not expect it.
    setrlimit(Resource::RLIMIT_SIGPENDING, 0, 0).unwrap();
    Client::connect(&bound, None).is_served(b'x');
    assert!(world.is_busy("web", 1).await);
    assert!(world.is_busy("other", 2).await);
    assert!(!world.is_busy("web", 1).await);
    assert!(!world.is_busy("other", 2).await);
}

async fn a_process_that_takes_the_signal_off_makes_the_watcher_busy() {
    let mut world = World::new();
    let bound = world.binds(1, tcp("127.0.0.1", 0)).await;
    world.becomes_idle("web", 1).await;
    fcntl(copy(&bound), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    assert!(world.is_busy("web", 1).await);
    assert!(!world.is_busy("web", 1).await);
}

// ---- what the cases are told with ----------------------------------------------------------------------------------

/// A host, what it has told, and a directory for paths.
struct World {
    host: Host,
    events: mpsc::Receiver<Event>,
    dir: TempDir,
    binds: u64,
    barriers: u64,
}

impl World {
    fn new() -> World {
        World::with_given(Vec::new())
    }

    fn with_given(given: Vec<(String, OwnedFd)>) -> World {
        let (sender, events) = mpsc::channel(64);
        let dir = TempDir::new().unwrap();
        let host = Host::new(sender, dir.path().join("notify"), &[]).unwrap().with_given_sockets(given);
        World { host, events, dir, binds: 0, barriers: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn order(&mut self, sockets: Vec<(SocketId, SocketSpec)>) -> Result<Vec<(SocketId, Bound)>, String> {
        self.order_beside(sockets, &[]).await
    }

    /// While these stay.
    async fn order_beside(
        &mut self,
        sockets: Vec<(SocketId, SocketSpec)>,
        staying: &[u64],
    ) -> Result<Vec<(SocketId, Bound)>, String> {
        self.binds += 1;
        self.host.bind(BindId(self.binds), sockets, staying.iter().copied().map(SocketId).collect());
        match self.events.recv().await {
            Some(Event::Bound { bind, result }) if bind == BindId(self.binds) => result,
            other => panic!("not the end of the order: {other:?}"),
        }
    }

    async fn binds(&mut self, id: u64, spec: SocketSpec) -> Bound {
        let mut bound = self.order(vec![(SocketId(id), spec)]).await.unwrap();
        bound.remove(0).1
    }

    /// All in its directory, by name.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Closes one, and waits until it is.
    async fn closes(&mut self, id: u64, bound: &Bound) {
        let fd = format!("/proc/self/fd/{}", bound.fd);
        let socket = fs::read_link(&fd).unwrap();
        self.host.unbind(&[SocketId(id)]);
        eventually("it is closed", || fs::read_link(&fd).ok().as_ref() != Some(&socket)).await;
    }

    /// Nothing was told up to now: what is told of something else comes first.
    async fn hears_nothing(&mut self) {
        self.barriers += 1;
        let id = 1000 + self.barriers;
        let bound = self.binds(id, tcp("127.0.0.1", 0)).await;
        self.host.await_demand(watcher("barrier"), &[handed(id)]);
        let _client = TcpStream::connect(inet(&bound)).unwrap();
        assert_eq!(self.events.recv().await, Some(Event::Demanded { watcher: watcher("barrier") }));
    }

    async fn is_busy(&mut self, name: &str, id: u64) -> bool {
        self.host.count_demand(watcher(name), &[handed(id)]);
        match self.events.recv().await {
            Some(Event::Counted { watcher: counted, busy }) if counted == watcher(name) => busy,
            other => panic!("not counted: {other:?}"),
        }
    }

    async fn becomes_idle(&mut self, name: &str, id: u64) {
        let start = Instant::now();
        while self.is_busy(name, id).await {
            assert!(start.elapsed() < NEVER, "it stays busy");
        }
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

fn unix(path: &Path) -> SocketSpec {
    spec(Place::Unix(path.to_owned()))
}

fn spec(place: Place) -> SocketSpec {
    SocketSpec { backlog: 128, blocking: true, ..SocketSpec::at(SocketName::parse("s").unwrap(), place) }
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

fn flags(bound: &Bound) -> OFlag {
    OFlag::from_bits_retain(fcntl(copy(bound), FcntlArg::F_GETFL).unwrap())
}

fn socket_option<O: GetSockOpt>(bound: &Bound, option: O) -> O::Val {
    getsockopt(&copy(bound), option).unwrap()
}

/// Whether a connection or a datagram waits in it.
fn waits(bound: &Bound) -> bool {
    let socket = copy(bound);
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
}

/// Takes a connection that waits in it, or comes.
async fn accepts(bound: &Bound) -> Socket {
    eventually("somebody comes", || waits(bound)).await;
    Socket::from(copy(bound)).accept().unwrap().0
}

fn watcher(name: &str) -> WatcherName {
    WatcherName::parse(name).unwrap()
}

fn handed(id: u64) -> Handed {
    Handed { socket: SocketId(id), lane: None }
}

fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

/// A socket of nobody's agent at a path.
fn bind_path(path: &Path, kind: SocketKind) -> Socket {
    let socket = Socket::new(Domain::UNIX, type_of(kind), None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    if kind.listens() {
        socket.listen(8).unwrap();
    }
    socket
}

fn connect_at_once(path: &Path) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
    socket
}

fn type_of(kind: SocketKind) -> Type {
    match kind {
        SocketKind::Stream => Type::STREAM,
        SocketKind::Datagram => Type::DGRAM,
        SocketKind::SeqPacket => Type::SEQPACKET,
        SocketKind::Raw => Type::RAW,
    }
}

/// Somebody who wants something.
struct Client(Socket);

impl Client {
    /// Comes to a socket, by another address if there is one.
    fn connect(bound: &Bound, at: Option<&str>) -> Client {
        let theirs = Socket::from(copy(bound));
        let address = match (&bound.address, at) {
            (Address::Inet(address), Some(at)) => SocketAddr::new(at.parse().unwrap(), address.port()).into(),
            (Address::Inet(address), None) => SockAddr::from(*address),
            (Address::Unix(path), _) => SockAddr::unix(path).unwrap(),
        };
        let socket = Socket::new(address.domain(), theirs.r#type().unwrap(), None).unwrap();
        socket.connect(&address).unwrap();
        Client(socket)
    }

    /// Comes to this port, with a datagram if it takes those.
    fn met(kind: SocketKind, port: u16) -> Client {
        let socket = Socket::new(Domain::IPV4, type_of(kind), None).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        let client = Client(socket);
        client.send(b'x');
        client
    }

    fn send(&self, byte: u8) {
        self.0.send(&[byte]).unwrap();
    }

    /// Has [`SERVER`] serve it, and waits for the answer: `x`, and the server is done with it before; `h`, and it holds on.
    fn is_served(&self, byte: u8) {
        self.send(byte);
        let mut answer = [MaybeUninit::uninit()];
        self.0.set_read_timeout(Some(NEVER)).unwrap();
        let length = loop {
            match self.0.recv(&mut answer) {
                // A socket with a time-out is not read on after a signal, and the host has children.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        assert_eq!(length, usize::from(byte == b'h'), "answered, or closed");
    }
}

/// Serves one after the other: one that sends `x` is done, one that sends `h` is held until it goes.
const SERVER: &str = "
import socket
listener = socket.socket(fileno=0)
while True:
    with listener.accept()[0] as connection:
        if connection.recv(1) == b'h':
            connection.send(b'h')
            connection.recv(1)
";

/// A process that has a socket of ours as its stdin.
struct Served(Child);

impl Served {
    fn by(script: &str, bound: &Bound) -> Served {
        Served(Command::new("python3").args(["-c", script]).stdin(copy(bound)).spawn().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A process that has a socket of its own.
struct Holder {
    child: Child,
    port: u16,
}

impl Holder {
    fn at(address: &str, kind: SocketKind) -> Holder {
        let script = "
import socket, sys
address, kind = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, getattr(socket, kind))
s.bind((address, 0))
if kind == 'SOCK_STREAM': s.listen()
print(s.getsockname()[1], flush=True)
sys.stdin.read()
";
        let mut child = Command::new("python3")
            .args(["-c", script, address, kind.word()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Holder { child, port: line.trim().parse().unwrap() }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_RAW: u32 = 13;

/// Drops capabilities from this thread and those it starts, leaving root with all other rights.
fn give_up(capabilities: &[u32]) {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    // Effective, permitted and inheritable, the lower and then the upper 32.
    let mut sets = [0_u32; 6];
    // SAFETY: both are arrays of the size that version 3 asks for.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    assert_eq!(read, 0);
    capabilities.iter().for_each(|capability| sets[0] &= !(1 << capability));
    // SAFETY: as above.
    let written = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(written, 0);
}

// ---- how the cases are run -----------------------------------------------------------------------------------------

fn main() -> ExitCode {
    cases::main(CASES, |role| panic!("no role {role}"))
}
