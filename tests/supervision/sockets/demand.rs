//! `on_demand`: asleep until somebody connects, and asleep again when nobody wants anything.

use std::net::SocketAddr;

use super::super::agent::{Agent, is_alive, send, wait_for};
use super::super::{World, words};
use super::{Client, only, own_address, tcp, unix, who, who_at};

/// A watcher of the server that sleeps until somebody connects to the socket of its name.
fn sleeper(world: &World, name: &str, more: &str) -> String {
    format!("[watcher:{name}]\ncmd = {}\nsockets = {name}\non_demand = True\n{more}\n", world.server(""))
}

/// Asks through one connection, which is closed then: which process answered.
#[track_caller]
fn wakes(agent: &Agent, watcher: &str, at: SocketAddr) -> u32 {
    let answer = who(at);
    let pid = only(agent, watcher);
    assert_eq!(answer, format!("{watcher}#1 {pid}"));
    pid
}

#[test]
fn the_first_connection_wakes_its_own_watcher_alone_and_is_served_by_it() {
    let world = World::new();
    let host = own_address();
    let places = [1000, 1001].map(|port| SocketAddr::from((host, port)));
    let path = world.file("path.unix");
    let config = [
        tcp("one", places[0]),
        tcp("two", places[1]),
        unix("path", &path),
        sleeper(&world, "one", ""),
        sleeper(&world, "two", ""),
        sleeper(&world, "path", ""),
    ];
    let agent = world.listening(&config.concat());
    let sleeps = |watcher: &str| agent.watcher(watcher)["state"] == "listening" && agent.pids(watcher).is_empty();
    ["one", "two", "path"].iter().for_each(|watcher| agent.comes_to(watcher, "listening"));
    // All is well: that nobody is there is as it should be.
    agent.ctl(&world, &["status"]).expect(0);

    let mut first = Client::connect(places[1]).unwrap();
    assert_eq!(first.ask("who").unwrap(), format!("two#1 {}", only(&agent, "two")));
    agent.logs("two: a connection waits; starting");
    agent.comes_to("two", "active");
    assert!(sleeps("one") && sleeps("path"));
    assert_eq!(who_at(&path), format!("path#1 {}", only(&agent, "path")));
    assert!(sleeps("one"));

    // Without a time to be idle in it stays up; one that dies is replaced.
    let old = only(&agent, "two");
    send(old, libc::SIGKILL);
    wait_for("another one", || agent.pids("two").first().is_some_and(|pid| *pid != old).then_some(()));
    world.end(agent);
    assert!(!path.exists());
}

#[test]
fn a_stopped_sleeper_hears_nobody_and_a_started_one_those_who_came_meanwhile() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 1000));
    let agent = world.listening(&(tcp("web", at) + &sleeper(&world, "web", "")));
    agent.comes_to("web", "listening");
    agent.ctl(&world, &["stop", "web", "--waiting"]).expect(0);
    assert_eq!(agent.watcher("web")["state"], "stopped");
    // The socket is open, and belongs to the agent; so they wait.
    let mut waiting = Client::connect(at).unwrap();
    waiting.send("who").unwrap();
    agent.ctl(&world, &["status", "web"]).expect(0);
    assert!(agent.pids("web").is_empty());
    agent.ctl(&world, &["start", "web", "--waiting"]).expect(0);
    assert_eq!(waiting.receive().unwrap(), format!("web#1 {}", only(&agent, "web")));
    // Stopped while it is awake, it is stopped; started, it sleeps.
    agent.ctl(&world, &["stop", "web", "--waiting"]).expect(0);
    drop(waiting);
    agent.ctl(&world, &["start", "web", "--waiting"]).expect(0);
    agent.comes_to("web", "listening");
    wakes(&agent, "web", at);
    world.end(agent);
}

#[test]
fn who_is_connected_keeps_it_up_and_when_they_have_gone_it_sleeps_again() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 1000));
    let path = world.file("path.unix");
    let config = [
        tcp("web", at),
        unix("path", &path),
        sleeper(&world, "web", "idle_timeout = 0.3"),
        sleeper(&world, "path", "idle_timeout = 0.3"),
    ];
    let agent = world.listening(&config.concat());
    let mut kept = Client::connect(at).unwrap();
    let mut kept_too = Client::connect_to(&path).unwrap();
    kept.ask("who").unwrap();
    kept_too.ask("who").unwrap();
    let pids = ["web", "path"].map(|watcher| only(&agent, watcher));
    // Silent as they are, their connections are open: longer than the time, which another watcher measures here.
    let other = SocketAddr::from((own_address(), 1000));
    let clock = [tcp("clock", other), sleeper(&world, "clock", "idle_timeout = 0.6")];
    world.configure("a", &[config.concat(), clock.concat()].concat());
    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    who(other);
    agent.comes_to("clock", "listening");
    assert_eq!(["web", "path"].map(|watcher| only(&agent, watcher)), pids);

    let mut events = agent.events("web");
    drop((kept, kept_too));
    for watcher in ["web", "path"] {
        agent.comes_to(watcher, "listening");
        agent.logs(&format!("{watcher}: nobody wants anything; stopping until the next connection"));
    }
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    world.tells("down web#1", 1);
    assert_eq!(words(&mut events, "stop"), ["kill", "reap", "stop"]);
    assert_ne!(wakes(&agent, "web", at), pids[0]);
    assert_eq!(words(&mut events, "start"), ["spawn", "start"]);
    world.end(agent);
}

#[test]
fn one_that_crashes_whenever_it_is_woken_is_tried_ever_more_slowly_and_says_so() {
    let world = World::new();
    let host = own_address();
    let (bad, good) = (SocketAddr::from((host, 1000)), SocketAddr::from((host, 1001)));
    let command = world.script("bad", &format!("echo up >>{}; exit 3", world.journal().display()));
    let config = [
        tcp("bad", bad),
        tcp("good", good),
        format!("[watcher:bad]\ncmd = {command}\nsockets = bad\non_demand = True\n"),
        sleeper(&world, "good", ""),
    ];
    let agent = world.listening(&config.concat());
    agent.comes_to("bad", "listening");
    let _waiting = Client::connect(bad).unwrap();
    agent.comes_to("bad", "backoff");
    agent.notes("bad", "exit 3");
    world.tells("up", 3);
    // The pauses double from 0.1 s: no busy loop, and no other watcher waits.
    wakes(&agent, "good", good);
    agent.notes("bad", "exit 3, again in ");
    world.end(agent);
}

#[test]
fn an_agent_whose_watchers_sleep_leaves_at_once_and_takes_its_paths_along() {
    let world = World::new();
    let path = world.file("web.unix");
    let mut agent = world.listening(&(unix("web", &path) + &sleeper(&world, "web", "graceful_timeout = 600")));
    agent.comes_to("web", "listening");
    assert!(path.exists());
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    assert!(!path.exists());
    assert!(world.told().is_empty());
    world.is_clean();
}
