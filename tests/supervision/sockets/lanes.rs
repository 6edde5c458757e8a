//! Processes that are replaced behind their sockets: `so_reuseport`, a rolling reload, `ready = ack`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::super::World;
use super::super::agent::{Agent, is_alive, send, wait_for};
use super::{Client, names, own_address, socket_of, tcp, who};

/// So many connections that each of a few listeners has some: the kernel chooses by address and port.
const MANY: usize = 64;

/// Two processes, each with a listener of its own.
fn spread(world: &World, at: SocketAddr, more: &str) -> String {
    tcp("web", at)
        + &format!(
            "so_reuseport = True\n[watcher:web]\ncmd = {}\nsockets = web\nnumprocesses = 2\n{more}\n",
            world.server("")
        )
}

/// The listeners of a watcher's processes.
fn listeners(agent: &Agent) -> BTreeSet<String> {
    let pids = agent.pids("web").into_iter();
    pids.map(|pid| socket_of(pid, 3).unwrap_or_else(|| panic!("{pid} has no socket"))).collect()
}

/// Who answers to many.
fn who_all(at: SocketAddr) -> BTreeSet<String> {
    (0..MANY).map(|_| who(at)).collect()
}

#[test]
fn each_process_has_a_listener_of_its_own_which_its_successor_inherits() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 1000));
    let agent = world.listening(&spread(&world, at, ""));
    agent.comes_to("web", "active");
    let own = listeners(&agent);
    assert_eq!(own.len(), 2, "{own:?}");
    assert_eq!(who_all(at), names(&agent, "web").into_iter().collect());

    // Replaced in order or by death, one goes and another comes, and the listeners stay.
    agent.ctl(&world, &["reload", "web", "--waiting"]).expect(0);
    assert_eq!(listeners(&agent), own);
    let victim = agent.pids("web")[0];
    send(victim, libc::SIGKILL);
    wait_for("another one", || {
        let pids = agent.pids("web");
        (pids.len() == 2 && !pids.contains(&victim)).then_some(())
    });
    wait_for("the same listeners", || (listeners(&agent) == own).then_some(()));
    assert_eq!(who_all(at), names(&agent, "web").into_iter().collect());

    // With fewer processes there are fewer listeners: else the kernel would send connections where nobody accepts them.
    agent.ctl(&world, &["decr", "web", "--waiting"]).expect(0);
    wait_for("one listener", || (listeners(&agent).len() == 1).then_some(()));
    assert_eq!(who_all(at), names(&agent, "web").into_iter().collect());
    agent.ctl(&world, &["incr", "web", "2", "--waiting"]).expect(0);
    assert_eq!(listeners(&agent).len(), 3);
    assert_eq!(who_all(at), names(&agent, "web").into_iter().collect());
    world.end(agent);
}

#[test]
fn who_waits_for_a_process_that_dies_is_served_by_the_next() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 1000));
    let agent = world.listening(&spread(&world, at, ""));
    agent.comes_to("web", "active");
    who_all(at);
    // One of them hears nothing: what the kernel gives to it waits.
    let deaf = agent.pids("web")[0];
    send(deaf, libc::SIGSTOP);
    let mut clients: Vec<_> = (0..MANY).map(|_| Client::connect(at).expect("a connection")).collect();
    clients.iter_mut().for_each(|client| client.send("who").expect("a connection"));
    send(deaf, libc::SIGKILL);
    let answers: Vec<String> = clients.iter_mut().map(|client| client.receive().expect("an answer")).collect();
    let by: BTreeSet<String> = answers.into_iter().collect();
    assert_eq!(by, names(&agent, "web").into_iter().collect(), "both of them had some");
    world.end(agent);
}

#[test]
fn a_rolling_reload_waits_for_each_ack_and_refuses_nobody_meanwhile() {
    for way in ["ack-by-path", "ack-by-fd"] {
        let world = World::new();
        let at = SocketAddr::from((own_address(), 1000));
        let config = tcp("web", at)
            + &format!(
                "[watcher:web]\ncmd = {} $(circus.sockets.web)\nsockets = web\nnumprocesses = 2\nready = ack\n",
                world.server(way)
            );
        let agent = world.listening(&config);
        ["up web#1", "up web#2"].iter().for_each(|line| world.tells(line, 1));
        assert_eq!(agent.watcher("web")["state"], "starting", "{way}");
        world.open("ack");
        agent.comes_to("web", "active");
        let old = agent.pids("web");

        world.close("ack");
        let said = world.meanwhile(&agent, &["reload", "web", "--waiting"], || {
            world.tells("up web#3", 1);
            assert!(old.iter().all(|pid| is_alive(*pid)));
            // Those that are up serve on, and nobody waits for the one that does not accept yet.
            let up = names(&agent, "web");
            assert!((0..9).all(|_| up[..2].contains(&who(at))), "{up:?}");
            world.open("ack");
        });
        said.expect(0);
        let new = agent.pids("web");
        assert!(new.len() == 2 && !new.iter().any(|pid| old.contains(pid)), "{old:?} {new:?}");
        assert!(names(&agent, "web").contains(&who(at)));
        // No old one goes before a new one has said that it is up.
        let told = world.told().split_off(4);
        let of = |words: &str, upto: usize| told[..upto].iter().filter(|line| line.starts_with(words)).count();
        for (at, line) in told.iter().enumerate().filter(|(_, line)| line.starts_with("down")) {
            assert!(of("acks", at) > of("down", at), "{line} too early: {told:?}");
        }
        assert_eq!(of("down", told.len()), 2, "{told:?}");
        world.end(agent);
    }
}
