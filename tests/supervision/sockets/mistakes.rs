//! Sockets that cannot be had: the agent says so before anything starts, all of it at once, and what to do about it.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;

use nix::unistd::geteuid;

use super::super::World;
use super::super::agent::Agent;
use super::{own_address, tcp, unix, who_at};

/// A watcher that leaves a trace when it is started.
fn eager(world: &World) -> String {
    format!("[watcher:eager]\ncmd = {}\nuse_sockets = True\n", world.teller("eager", ""))
}

/// What an agent logs that ends by itself with this code, and has started nothing.
#[track_caller]
fn refuses(world: &World, mut agent: Agent, code: i32) -> String {
    agent.exits(code);
    world.is_clean();
    assert_eq!(world.told(), [""; 0], "something was started");
    agent.log()
}

#[track_caller]
fn says(log: &str, line: &str) {
    assert!(log.contains(line), "{line:?} is missing in:\n{log}");
}

#[test]
fn all_that_cannot_be_opened_is_told_at_once_with_who_has_it_and_nothing_starts() {
    let world = World::new();
    let taken = SocketAddr::from((own_address(), 8000));
    let free = SocketAddr::from((own_address(), 8000));
    let _other = TcpListener::bind(taken).unwrap();
    let (live, plain, lost, good) =
        (world.file("live"), world.file("plain"), world.path().join("no/dir"), world.file("good"));
    let _live = UnixListener::bind(&live).unwrap();
    fs::write(&plain, "of somebody").unwrap();
    world.configure(
        "a",
        &[
            tcp("free", free),
            tcp("taken", taken),
            tcp("away", "192.0.2.1:80".parse().unwrap()),
            tcp("wired", (own_address(), 8000).into()) + "interface = nonesuch0\n",
            "[socket:named]\nhost = no-such-host.invalid\n".into(),
            unix("live", &live),
            unix("plain", &plain),
            unix("lost", &lost),
            unix("good", &good),
            eager(&world),
        ]
        .concat(),
    );
    let log = refuses(&world, world.launch("a", &[]), 69);
    let me = fs::read_to_string("/proc/self/comm").unwrap();
    let me = format!("{} (pid {})", me.trim_end(), std::process::id());
    for line in [
        format!(
            "socket taken: cannot listen on {taken}: EADDRINUSE: {me} listens there; stop it or choose another port"
        ),
        "socket away: cannot listen on 192.0.2.1:80: EADDRNOTAVAIL: this machine has no such address".into(),
        "ENODEV: there is no interface nonesuch0; `ip link` shows those there are".into(),
        "socket named: cannot listen on no-such-host.invalid:8080: no host \"no-such-host.invalid\" is known".into(),
        format!("socket live: cannot listen on {}: EADDRINUSE: {me} has it; stop it", live.display()),
        format!("socket plain: cannot listen on {}: EADDRINUSE: a file that is no socket is there", plain.display()),
        format!("socket lost: cannot listen on {}: ENOENT: there is no directory", lost.display()),
    ] {
        says(&log, &line);
    }
    assert!(!log.contains("socket free: cannot") && !log.contains("socket good: cannot"), "{log}");
    // What was there is there still, and nothing is left of ours.
    assert_eq!(fs::read_to_string(&plain).unwrap(), "of somebody");
    assert!(live.exists() && !good.exists());
    TcpListener::bind(free).expect("a port that was given back");
}

#[test]
fn what_takes_a_privilege_says_which() {
    let world = World::new();
    let dir = world.file("theirs");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o500)).unwrap();
    let low = SocketAddr::from((own_address(), 80));
    world.configure("a", &(tcp("low", low) + &unix("shut", &dir.join("web")) + &eager(&world)));
    let agent = match geteuid().is_root() {
        // root without what makes it mighty, as in a container.
        true => {
            chown(&dir, Some(65534), None).unwrap();
            world.launch_by("a", &["setpriv", "--bounding-set", "-net_bind_service,-dac_override"])
        }
        false => world.launch("a", &[]),
    };
    let log = refuses(&world, agent, 69);
    says(&log, "EACCES: ports below 1024 take a privilege; run the agent with CAP_NET_BIND_SERVICE");
    says(&log, &format!("EACCES: this agent's user may not make a file in {}", dir.display()));
    fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_path_that_nobody_listens_at_any_more_is_taken_and_a_live_one_only_when_it_is_to_be_replaced() {
    let world = World::new();
    let (stale, live) = (world.file("stale"), world.file("live"));
    drop(UnixListener::bind(&stale).unwrap());
    let other = UnixListener::bind(&live).unwrap();
    let config = [
        unix("stale", &stale),
        unix("live", &live) + "replace = True\n",
        format!("[watcher:web]\ncmd = {}\nuse_sockets = True\n", world.server("")),
    ];
    let agent = world.listening(&config.concat());
    agent.comes_to("web", "active");
    says(&agent.log(), &format!("socket stale: removing {}, a socket that nobody has open", stale.display()));
    says(&agent.log(), &format!("socket live: taking {} from ", live.display()));
    // That somebody is there was found out by a connection.
    other.set_nonblocking(true).unwrap();
    while other.accept().is_ok() {}
    for path in [&stale, &live] {
        assert!(who_at(path).starts_with("web#1 "));
    }
    assert!(other.accept().is_err(), "who has it no more was asked");
    world.end(agent);
    assert!(!stale.exists() && !live.exists());
}

#[test]
fn names_that_are_not_there_or_not_for_a_watcher_are_errors_of_the_file() {
    let world = World::new();
    let host = own_address();
    world.configure(
        "a",
        &[
            tcp("website", (host, 8000).into()),
            tcp("admin", (host, 8001).into()) + "watchers = boss\n",
            format!(
                "[watcher:boss]\ncmd = {} --fd $(circus.sockets.websit)\nsockets = website, admin\n",
                world.teller("boss", "")
            ),
            "[watcher:web]\ncmd = sleep 600\nsockets = admin, wesbite\n".into(),
            "[watcher:bare]\ncmd = sleep ((circus.sockets.website))\n".into(),
        ]
        .concat(),
    );
    let log = refuses(&world, world.launch("a", &[]), 78);
    for line in [
        "there is no socket `websit`",
        "there is no socket `wesbite`",
        "did you mean `website`?",
        "`web` may not have socket `admin`",
        "it is for `boss` alone",
        "socket `website` would be closed there",
        "write `sockets = website`",
    ] {
        says(&log, line);
    }
}
