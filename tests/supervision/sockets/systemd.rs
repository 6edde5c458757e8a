//! Sockets that the service manager has opened.

use std::fs;
use std::net::SocketAddr;

use super::super::World;
use super::super::agent::{Agent, wait_for};
use super::{Client, only, own_address, shared, sockets_of, tcp, variable, variable_of, who, who_at};

/// Starts an agent as systemd does, at the first connection to one of these places, which it knows by these names.
fn activated(world: &World, places: &[&str], names: &str) -> Agent {
    let mark = format!("CIRCUS_PROCESS={}", world.mark());
    let mut launcher = vec!["systemd-socket-activate", "--fdname", names, "--setenv", &mark];
    places.iter().for_each(|place| launcher.extend(["--listen", place]));
    world.launch_by("a", &launcher)
}

#[test]
fn sockets_of_systemd_are_used_by_name_whatever_address_the_file_has() {
    let world = World::new();
    let [at, other, whole] = [(); 3].map(|()| SocketAddr::from((own_address(), 8000)));
    let path = world.file("adm.unix");
    let server = world.server("");
    let config = [
        // The file runs without systemd, too: there this address counts.
        tcp("web", other),
        "[socket:adm]\nfrom = systemd\n[socket:whole]\nfrom = systemd\n".into(),
        format!("[watcher:web]\ncmd = {server}\nsockets = web\n"),
        format!("[watcher:whole]\ncmd = {server}\nsockets = whole\n"),
        format!("[watcher:adm]\ncmd = {server}\nsockets = ADM\n"),
        "[watcher:plain]\ncmd = sleep 600\ncopy_env = True\n".into(),
    ];
    world.configure("a", &config.concat());
    let places = [at.to_string(), path.display().to_string(), whole.to_string()];
    let mut agent = activated(&world, &places.each_ref().map(String::as_str), "web:adm:whole");
    // Who connects first starts the agent, and is served like all others.
    let mut first = wait_for("somebody who listens", || Client::connect(at).ok());
    agent.answers();
    assert_eq!(first.ask("who").unwrap(), format!("web#1 {}", only(&agent, "web")));
    assert_eq!(who_at(&path), format!("adm#1 {}", only(&agent, "adm")));
    // How many may wait is the unit's to say: here it is more than the agent's default, if the system lets it.
    let most: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let backlog: u32 = Client::connect(whole).unwrap().ask("backlog").unwrap().parse().unwrap();
    assert!(backlog >= most.min(4096), "{backlog} of {most}");
    Client::connect(other).map(drop).expect_err("the address of the file was opened, too");

    agent.comes_to("plain", "active");
    let (there, plain, adm) = (shared(&agent), only(&agent, "plain"), only(&agent, "adm"));
    assert!(sockets_of(plain).is_empty(), "{:?}", sockets_of(plain));
    assert_eq!(variable(plain, "CIRCUS_WATCHER"), "plain");
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"] {
        assert_eq!(variable_of(plain, name), None, "{name}");
    }
    assert_eq!((variable(adm, "LISTEN_FDNAMES"), &sockets_of(adm)[&3]), ("adm".into(), &there["adm"]));
    assert!(!sockets_of(adm).values().any(|socket| *socket == there["web"]));

    // They are kept through reloads, and their path is systemd's: nobody removes it.
    agent.ctl(&world, &["reload", "--waiting"]).expect(0);
    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    assert_eq!((shared(&agent), who(at)), (there, format!("web#2 {}", only(&agent, "web"))));
    world.end(agent);
    assert!(path.exists());
}

#[test]
fn without_systemd_a_socket_of_its_is_an_error_that_says_what_is_missing() {
    let world = World::new();
    let command = world.teller("web", "");
    world.configure("a", &format!("[socket:web]\nfrom = systemd\n[watcher:web]\ncmd = {command}\nsockets = web\n"));
    let mut agent = world.launch("a", &[]);
    agent.exits(69);
    for words in ["socket web: cannot take over what the service manager has opened", "FileDescriptorName=web"] {
        assert!(agent.log().contains(words), "{}", agent.log());
    }
    assert!(world.told().is_empty());
}

#[test]
fn what_systemd_hands_over_and_does_not_fit_is_told() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 8000));
    let command = world.teller("web", "");
    let config = [
        tcp("web", at) + "type = SOCK_DGRAM\n",
        "[socket:adm]\nfrom = systemd\n".into(),
        format!("[watcher:web]\ncmd = {command}\nuse_sockets = True\n"),
    ];
    world.configure("a", &config.concat());
    let mut agent = activated(&world, &[&at.to_string()], "web");
    wait_for("somebody who listens", || Client::connect(at).ok());
    agent.exits(69);
    for words in [
        "socket web: cannot use what the service manager has handed over: it is a SOCK_STREAM of AF_INET",
        "socket adm: cannot take over what the service manager has opened",
    ] {
        assert!(agent.log().contains(words), "{}", agent.log());
    }
    assert!(world.told().is_empty());
}
