//! `circusctl reload`: processes are replaced, and what is served goes on.

use std::fs;

use super::agent::{is_alive, wait_for};
use super::{World, words};

/// A watcher of two that are ready when they have been let through the gate.
fn gated(world: &World) -> String {
    let command = world.teller("web", "gate web; say ready; echo READY");
    format!(
        "[watcher:web]\ncmd = {command}\nnumprocesses = 2\nready = log ^READY\nstdout_stream.class = QueueStream\n\
         graceful_timeout = 10\n"
    )
}

#[test]
fn a_rolling_reload_has_each_new_process_ready_before_an_old_one_goes() {
    let world = World::new();
    world.open("web");
    let agent = world.agent("a", &gated(&world));
    agent.comes_to("web", "active");
    let (old, mut events) = (agent.pids("web"), agent.events("web"));
    world.close("web");
    let said = world.meanwhile(&agent, &["reload", "web", "--waiting"], || {
        world.tells("up web#3", 1);
        // As long as the new one is not ready, nobody is asked to go.
        agent.ctl(&world, &["status", "web"]).expect(0);
        assert_eq!(agent.pids("web").len(), 3);
        assert!(old.iter().all(|pid| is_alive(*pid)));
        assert!(!world.told().iter().any(|line| line.starts_with("down")));
        world.open("web");
    });
    let new = agent.pids("web");
    let pids = |pids: &[u32]| pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(said.expect(0).out, format!("ok, stopped {}, started {}\n", pids(&old), pids(&new)));
    assert!(!old.iter().any(|pid| is_alive(*pid)));

    // One of the old ones goes for each new one that is ready, and not before.
    let (mut ready, mut down) = (0, Vec::new());
    for line in world.told().split_off(4) {
        match line.split_once(' ') {
            Some(("ready", _)) => ready += 1,
            Some(("down", who)) => down.push(who.to_owned()),
            _ => {}
        }
        assert!(down.len() <= ready, "{:?}", world.told());
    }
    assert_eq!((ready, down), (2, vec!["web#1".to_owned(), "web#2".to_owned()]));
    assert_eq!(words(&mut events, "reload"), ["spawn", "kill", "spawn", "kill", "reload"]);
    world.end(agent);
}

#[test]
fn a_broken_new_version_leaves_the_old_one_running_and_a_waiting_reload_tells_the_truth() {
    let world = World::new();
    let command = world.teller("web", "");
    // Without a sign of its own a process counts as ready when it runs, be it for a millisecond.
    let web = format!("[watcher:web]\ncmd = {command}\nnumprocesses = 2\nready = timer 0.2\n");
    let agent = world.agent("a", &web);
    agent.comes_to("web", "active");
    let old = agent.pids("web");
    let good = fs::read_to_string(world.file("web")).unwrap();

    fs::write(world.file("web"), "exit 7").unwrap();
    let said = agent.ctl(&world, &["reload", "web", "--waiting"]).expect(1);
    assert!(said.err.contains("web") && said.err.contains("exit 7"), "{said:?}");
    assert!(old.iter().all(|pid| is_alive(*pid)), "the old version was given up for a broken one");
    let status = agent.ctl(&world, &["status", "web"]).expect(3).out;
    assert!(status.contains("exit 7"), "{status}");

    // Mended, it goes on by itself.
    fs::write(world.file("web"), good).unwrap();
    wait_for("the new version", || {
        let new = agent.pids("web");
        (new.len() == 2 && new.iter().all(|pid| !old.contains(pid))).then_some(())
    });
    agent.comes_to("web", "active");
    assert!(!old.iter().any(|pid| is_alive(*pid)));
    world.end(agent);
}

#[test]
fn a_version_that_never_becomes_ready_leaves_the_old_one_running() {
    let world = World::new();
    world.open("web");
    let agent = world.agent("a", &(gated(&world) + "ready_timeout = 0.2\n"));
    agent.comes_to("web", "active");
    let old = agent.pids("web");
    world.close("web");
    let said = agent.ctl(&world, &["reload", "web", "--waiting"]).expect(1);
    assert!(said.err.contains("not ready within 0.2 s"), "{said:?}");
    assert!(old.iter().all(|pid| is_alive(*pid)));
    world.open("web");
    wait_for("the new version", || agent.pids("web").iter().all(|pid| !old.contains(pid)).then_some(()));
    world.end(agent);
}

#[test]
fn a_sequential_reload_never_runs_more_than_are_wanted_and_keeps_the_slots() {
    let world = World::new();
    world.open("web");
    let agent = world.agent("a", &gated(&world));
    agent.comes_to("web", "active");
    agent.ctl(&world, &["reload", "web", "--sequential", "--waiting"]).expect(0);
    assert_eq!(
        world.told().split_off(4),
        ["down web#1", "up web#1", "ready web#1", "down web#2", "up web#2", "ready web#2"]
    );
    world.end(agent);
}

#[test]
fn a_reload_that_terminates_has_all_old_ones_down_before_a_new_one_starts() {
    let world = World::new();
    let command = world.teller("web", "");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nnumprocesses = 2\n"));
    agent.comes_to("web", "active");
    world.tells("up web#2", 1);
    world.tells("up web#1", 1);
    agent.ctl(&world, &["reload", "web", "--terminate", "--waiting"]).expect(0);
    world.tells("up web#2", 2);
    world.tells("up web#1", 2);
    let told: Vec<String> = world.told().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(told, ["up", "up", "down", "down", "up", "up"]);
    world.end(agent);
}

#[test]
fn with_send_hup_a_reload_is_a_signal_and_no_process_goes() {
    let world = World::new();
    let command = world.teller("web", "");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nnumprocesses = 2\nsend_hup = True\n"));
    agent.comes_to("web", "active");
    world.tells("up web#1", 1);
    world.tells("up web#2", 1);
    let (pids, mut events) = (agent.pids("web"), agent.events("web"));
    let said = agent.ctl(&world, &["reload", "web", "--waiting"]).expect(0);
    assert_eq!(said.out, format!("ok, kept {} {}\n", pids[0], pids[1]));
    world.tells("hup web#1", 1);
    world.tells("hup web#2", 1);
    assert_eq!(words(&mut events, "reload"), ["reload"]);
    assert_eq!(agent.pids("web"), pids);
    world.end(agent);
}

#[test]
fn a_reload_of_all_replaces_what_runs_and_starts_nothing_that_was_stopped() {
    let world = World::new();
    let command = world.teller("web", "");
    let watcher = |name: &str| format!("[watcher:{name}]\ncmd = {command}\n");
    let agent = world.agent("a", &(watcher("one") + &watcher("two") + &watcher("three")));
    agent.ctl(&world, &["stop", "two", "--waiting"]).expect(0);
    let old = [agent.pids("one"), agent.pids("three")];
    agent.ctl(&world, &["reload", "--waiting"]).expect(0);
    let new = [agent.pids("one"), agent.pids("three")];
    assert!(new.iter().zip(&old).all(|(new, old)| new.len() == 1 && new != old), "{old:?} {new:?}");
    assert_eq!(agent.watcher("two")["state"], "stopped");
    world.end(agent);
}
