//! Commands as users type them, and what they do.

use std::collections::BTreeMap;

use serde_json::json;

use super::World;
use super::agent::{Agent, is_alive, send, wait_for};

/// Waits until a watcher runs so many processes, none of which is among `old`.
#[track_caller]
fn new_pids(agent: &Agent, watcher: &str, count: usize, old: &[u32]) -> Vec<u32> {
    wait_for(&format!("{count} new processes of {watcher}"), || {
        let pids = agent.pids(watcher);
        (pids.len() == count && !pids.iter().any(|pid| old.contains(pid))).then_some(pids)
    })
}

#[test]
fn set_changes_what_runs_or_says_why_not() {
    let world = World::new();
    let command = world.teller("run", "say \"version $VERSION $1\"");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nnumprocesses = 2\n"));
    agent.comes_to("web", "active");
    let first = agent.pids("web");

    // What no process has to know leaves all of them.
    agent.ctl(&world, &["set", "web", "graceful_timeout", "7", "max_retry", "3", "--waiting"]).expect(0);
    assert_eq!(agent.pids("web"), first);
    let got = agent.ctl(&world, &["get", "web", "graceful_timeout", "max_retry"]).expect(0).out;
    assert_eq!(got, "graceful_timeout: 7\nmax_retry: 3\n");
    agent.ctl(&world, &["set", "web", "numprocesses", "3", "--waiting"]).expect(0);
    assert!(first.iter().all(|pid| agent.pids("web").contains(pid)) && agent.pids("web").len() == 3);

    // What they have to know replaces them.
    agent.ctl(&world, &["set", "web", "env", "VERSION=2", "--waiting"]).expect(0);
    let second = new_pids(&agent, "web", 3, &first);
    agent.ctl(&world, &["set", "web", "cmd", &format!("{command} new"), "--waiting"]).expect(0);
    new_pids(&agent, "web", 3, &second);
    world.tells("version 2 new web#1", 1);

    // What makes no sense changes nothing.
    let before = agent.pids("web");
    for (pair, problem) in [
        (["numproceses", "3"], "numprocesses"),
        (["numprocesses", "many"], "integer"),
        (["stop_signal", "SIGNOPE"], "signal"),
        (["uid", "nobody-of-that-name"], "a user that this machine does not have"),
        (["after", "nothing"], "nothing"),
        (["after", "web"], "web"),
    ] {
        let said = agent.ctl(&world, &["set", "web", pair[0], pair[1]]).expect(1);
        assert!(said.err.contains(problem), "{pair:?}: {said:?}");
    }
    assert_eq!(agent.pids("web"), before);
    // A program that is not there may come to be; until then the reason shows.
    let said = agent.ctl(&world, &["set", "web", "cmd", "/nonexistent/program", "--waiting"]).expect(1);
    assert!(said.err.contains("/nonexistent/program") && said.err.contains("ENOENT"), "{said:?}");
    world.end(agent);
}

#[test]
fn watchers_come_and_go_while_others_run() {
    let world = World::new();
    let command = world.teller("run", "say \"args $*\"");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\n"));
    agent.comes_to("web", "active");
    let web = agent.pids("web");

    let options = ["--option", "numprocesses=2", "--option", "env=A=1"];
    let said =
        agent.ctl(&world, &[&["add", "extra", &command, "one", "two", "--start", "--waiting"], &options[..]].concat());
    let extra = agent.pids("extra");
    assert_eq!(said.expect(0).out, format!("ok, started {} {}\n", extra[0], extra[1]));
    world.tells("args one two extra#1", 1);
    let said = agent.ctl(&world, &["add", "EXTRA", &command]).expect(1);
    assert!(said.err.contains("extra"), "{said:?}");
    let said = agent.ctl(&world, &["add", "bad", &command, "--option", "numproceses=1"]).expect(1);
    assert!(said.err.contains("numprocesses"), "{said:?}");

    // One that is not started waits for that.
    agent.ctl(&world, &["add", "later", &command]).expect(0);
    assert_eq!((agent.watcher("later")["state"].as_str(), agent.pids("later").len()), (Some("stopped"), 0));
    agent.ctl(&world, &["start", "later", "--waiting"]).expect(0);

    agent.ctl(&world, &["rm", "extra", "--waiting"]).expect(0);
    assert!(!extra.iter().any(|pid| is_alive(*pid)));
    let said = agent.ctl(&world, &["status", "extra"]).expect(1);
    assert!(said.err.contains("extra not found"), "{said:?}");

    // Told to, it leaves its processes behind, and they live on when it has gone.
    let later = agent.pids("later");
    agent.ctl(&world, &["rm", "later", "--nostop"]).expect(0);
    assert_eq!(agent.ctl(&world, &["list"]).expect(0).out, "web\n");
    assert!(is_alive(later[0]));
    send(later[0], libc::SIGKILL);
    wait_for("the end of what was left behind", || (!is_alive(later[0])).then_some(()));
    assert_eq!(agent.pids("web"), web);
    world.end(agent);
}

#[test]
fn a_watcher_can_be_changed_when_one_that_it_came_after_was_removed() {
    let world = World::new();
    let command = world.teller("run", "");
    let watcher = |name: &str, more: &str| format!("[watcher:{name}]\ncmd = {command}\n{more}");
    let agent = world.agent("a", &(watcher("db", "") + &watcher("app", "after = db\n")));
    agent.comes_to("app", "active");
    agent.ctl(&world, &["rm", "db", "--waiting"]).expect(0);
    agent.ctl(&world, &["set", "app", "max_retry", "9", "--waiting"]).expect(0);
    agent.ctl(&world, &["restart", "app", "--waiting"]).expect(0);
    // It cannot be told anew to come after what is not there.
    agent.ctl(&world, &["set", "app", "after", "db, cache"]).expect(1);
    // What comes back comes before it again, and must not come after it.
    let said = agent.ctl(&world, &["add", "db", &command, "--option", "after=app"]).expect(1);
    assert!(said.err.contains("wait for each other"), "{said:?}");
    agent.ctl(&world, &["add", "db", &command]).expect(0);
    world.end(agent);
}

#[test]
fn processes_are_counted_added_taken_away_signalled_and_killed() {
    let world = World::new();
    let command = world.teller("run", "trap 'say usr1' USR1");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nnumprocesses = 2\n"));
    agent.comes_to("web", "active");
    let first = agent.pids("web");

    assert_eq!(agent.ctl(&world, &["incr", "web", "2", "--waiting"]).expect(0).out, "4\n");
    assert!(first.iter().all(|pid| agent.pids("web").contains(pid)));
    assert_eq!(agent.ctl(&world, &["numprocesses", "web"]).expect(0).out, "4\n");
    // The oldest go first.
    assert_eq!(agent.ctl(&world, &["decr", "web", "2", "--waiting"]).expect(0).out, "2\n");
    let second = new_pids(&agent, "web", 2, &first);
    wait_for("their end", || (!first.iter().any(|pid| is_alive(*pid))).then_some(()));
    assert_eq!(agent.ctl(&world, &["decr", "web", "9", "--waiting"]).expect(0).out, "0\n");
    agent.comes_to("web", "active");
    assert_eq!(agent.ctl(&world, &["incr", "web", "2", "--waiting"]).expect(0).out, "2\n");
    let third = new_pids(&agent, "web", 2, &second);

    world.tells("up web#1", 2);
    world.tells("up web#2", 2);
    agent.ctl(&world, &["signal", "web", &third[0].to_string(), "USR1"]).expect(0);
    wait_for("one to hear it", || world.told().iter().any(|line| line.starts_with("usr1")).then_some(()));
    agent.ctl(&world, &["signal", "web", "SIGUSR1"]).expect(0);
    wait_for("both to hear it", || {
        let mut heard: BTreeMap<String, u32> = BTreeMap::new();
        world
            .told()
            .into_iter()
            .filter(|line| line.starts_with("usr1"))
            .for_each(|line| *heard.entry(line).or_default() += 1);
        (heard.len() == 2).then_some(())
    });
    assert_eq!(agent.pids("web"), third);

    // Whoever is killed on purpose is replaced at once, and that is no failure.
    agent.ctl(&world, &["kill", "web", &third[1].to_string(), "--waiting"]).expect(0);
    assert!(!is_alive(third[1]) && is_alive(third[0]));
    agent.ctl(&world, &["kill", "web", "--signum", "KILL", "--waiting"]).expect(0);
    new_pids(&agent, "web", 2, &third);
    agent.comes_to("web", "active");
    assert_eq!(agent.watcher("web")["restarts"], 0);
    world.end(agent);
}

#[test]
fn a_watcher_that_takes_its_time_to_stop_refuses_nothing_and_delays_nobody() {
    let world = World::new();
    let slow = world.teller("slow", "trap 'gate slow; say down; exit 0' TERM; say listens");
    let quick = world.teller("quick", "");
    let config = format!("[watcher:slow]\ncmd = {slow}\ngraceful_timeout = 60\n[watcher:quick]\ncmd = {quick}\n");
    let agent = world.agent("a", &config);
    world.tells("listens slow#1", 1);
    let said = world.meanwhile(&agent, &["restart", "slow", "--waiting"], || {
        agent.comes_to("slow", "stopping");
        for args in [
            &["restart", "quick", "--waiting"][..],
            &["stop", "quick", "--waiting"],
            &["start", "quick", "--waiting"],
            &["incr", "quick", "--waiting"],
            &["set", "quick", "numprocesses", "1", "--waiting"],
            &["reload", "quick", "--waiting"],
            &["reloadconfig", "--waiting"],
            // And of the slow one itself.
            &["set", "slow", "priority", "3"],
            &["incr", "slow"],
            &["signal", "slow", "HUP"],
            &["get", "slow", "priority"],
            &["stats", "slow"],
        ] {
            agent.ctl(&world, args).expect(0);
        }
        assert_eq!(agent.watcher("slow")["state"], "stopping");
        world.open("slow");
    });
    said.expect(0);
    agent.comes_to("slow", "active");
    assert_eq!(agent.pids("slow").len(), 2);
    world.end(agent);
}

#[test]
fn commands_that_follow_on_each_others_heels_come_to_what_the_last_one_says() {
    let world = World::new();
    let command = world.teller("run", "");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nnumprocesses = 2\n"));
    agent.comes_to("web", "active");
    let say = |command: &str| agent.ask(&json!({"command": command, "properties": {"name": "web"}}));
    for (commands, state, count) in [
        (&["stop", "start", "restart", "reload", "incr"][..], "active", 3),
        (&["restart", "reload", "decr", "stop"], "stopped", 0),
        (&["start", "stop", "start", "reload", "restart", "stop", "start"], "active", 2),
    ] {
        for command in commands {
            assert_eq!(say(command)["status"], "ok", "{command}");
        }
        wait_for(&format!("{commands:?}"), || {
            let watcher = agent.watcher("web");
            (watcher["state"] == state && agent.pids("web").len() == count).then_some(())
        });
    }
    world.end(agent);
}

#[test]
fn two_changes_before_a_watcher_has_become_a_singleton_are_both_kept() {
    let world = World::new();
    let slow = world.teller("slow", "trap 'gate slow; say down; exit 0' TERM; say listens");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {slow}\ngraceful_timeout = 60\n"));
    world.tells("listens web#1", 1);
    agent.ctl(&world, &["set", "web", "singleton", "True"]).expect(0);
    agent.comes_to("web", "stopping");
    agent.ctl(&world, &["set", "web", "max_retry", "9"]).expect(0);
    world.open("slow");
    wait_for("a singleton", || agent.lease("web").is_object().then_some(()));
    agent.comes_to("web", "active");
    let got = agent.ctl(&world, &["get", "web", "max_retry", "singleton"]).expect(0).out;
    assert_eq!(got, "max_retry: 9\nsingleton: True\n");

    // And what is taken back before it has come about never does.
    world.close("slow");
    world.tells("listens web#1", 2);
    agent.ctl(&world, &["set", "web", "singleton", "False"]).expect(0);
    agent.comes_to("web", "stopping");
    agent.ctl(&world, &["set", "web", "singleton", "True"]).expect(0);
    world.open("slow");
    agent.comes_to("web", "active");
    assert!(agent.lease("web").is_object());
    world.end(agent);
}
