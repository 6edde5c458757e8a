//! Hooks, as commands and in Python: what they are told, what they decide, and what becomes of those that fail or hang.

use std::fs;

use serde_json::json;

use super::agent::{is_alive, send, wait_for};
use super::{World, words};

#[test]
fn commands_are_called_at_each_point_of_a_life() {
    let world = World::new();
    let command = world.teller("web", "");
    let hook = world.script(
        "hook",
        &format!(
            "echo $CIRCUS_HOOK $CIRCUS_WATCHER ${{CIRCUS_WID-}} ${{CIRCUS_SIGNAL-}} >>{}",
            world.journal().display()
        ),
    );
    let points = [
        "before_start",
        "after_start",
        "before_spawn",
        "after_spawn",
        "before_stop",
        "after_stop",
        "before_signal",
        "after_signal",
        "before_reap",
        "after_reap",
    ];
    let hooks: String = points.map(|point| format!("hooks.{point} = {hook}\n")).concat();
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\n{hooks}"));
    agent.comes_to("web", "active");
    world.tells("up web#1", 1);
    agent.ctl(&world, &["stop", "web", "--waiting"]).expect(0);
    world.tells("after_stop web", 1);
    world.tells("after_signal web 1 SIGTERM", 1);
    world.tells("after_reap web 1", 1);
    let told = world.told();
    for line in [
        "before_start web",
        "before_spawn web 1",
        "after_spawn web 1",
        "after_start web",
        "before_stop web",
        "before_signal web 1 SIGTERM",
        "after_signal web 1 SIGTERM",
        "before_reap web 1",
        "after_reap web 1",
        "after_stop web",
    ] {
        assert_eq!(told.iter().filter(|told| *told == line).count(), 1, "{line} in {told:?}");
    }
    // What must come before what: the rest is at the same time.
    let at = |line: &str| told.iter().position(|told| told == line).unwrap();
    for (first, then) in [
        ("before_start web", "before_spawn web 1"),
        ("before_spawn web 1", "up web#1"),
        ("before_spawn web 1", "after_spawn web 1"),
        ("after_spawn web 1", "after_start web"),
        ("before_stop web", "before_signal web 1 SIGTERM"),
        ("before_signal web 1 SIGTERM", "down web#1"),
        ("down web#1", "before_reap web 1"),
        ("before_reap web 1", "after_reap web 1"),
        ("down web#1", "after_stop web"),
    ] {
        assert!(at(first) < at(then), "{first} after {then}: {told:?}");
    }
    world.end(agent);
}

#[test]
fn hooks_in_python_see_their_watcher_and_decide() {
    let world = World::new();
    let command = world.teller("run", "");
    fs::write(
        world.file("myhooks.py"),
        format!(
            "import os\n\
             def yes(watcher, arbiter, hook_name, **kwargs):\n\
             \x20   with open({journal:?}, 'a') as journal:\n\
             \x20       journal.write(f'{{hook_name}} {{watcher.name}} of {{watcher.numprocesses}}\\n')\n\
             \x20   return True\n\
             def no(watcher, arbiter, hook_name, **kwargs):\n\
             \x20   return False\n\
             def veto(watcher, arbiter, hook_name, pid, signum, **kwargs):\n\
             \x20   return signum != 10\n\
             def oops(*args, **kwargs):\n\
             \x20   raise KeyError('oops')\n",
            journal = world.journal()
        ),
    )
    .unwrap();
    let watcher = |name: &str, hooks: &str| {
        format!("[watcher:{name}]\ncmd = {command}\nworking_dir = {}\n{hooks}\n", world.path().display())
    };
    let config = [
        watcher(
            "good",
            "hooks.before_start = myhooks.yes\nhooks.after_spawn = myhooks:yes\nhooks.before_signal = myhooks.veto",
        ),
        watcher("refused", "hooks.before_start = myhooks.no"),
        watcher("broken", "hooks.after_start = myhooks.oops"),
        watcher("lenient", "hooks.after_start = myhooks.oops,true"),
        watcher("absent", "hooks.before_spawn = myhooks.nothing"),
        watcher("plain", ""),
    ];
    let agent = world.agent_with("a", &config.concat(), &[("PYTHONDONTWRITEBYTECODE", "1")]);
    agent.comes_to("good", "active");
    world.tells("before_start good of 1", 1);
    world.tells("after_spawn good of 1", 1);
    agent.comes_to("lenient", "active");
    agent.comes_to("plain", "active");
    for (name, why) in [
        ("refused", "hook before_start said no"),
        ("broken", "hook after_start failed: KeyError: 'oops'"),
        ("absent", "hook before_spawn failed: "),
    ] {
        agent.comes_to(name, "failed");
        assert!(agent.note(name).contains(why), "{name}: {}", agent.note(name));
        assert_eq!(agent.pids(name).len(), 0);
    }
    assert!(agent.note("absent").contains("nothing"), "{}", agent.note("absent"));
    assert!(!world.told().iter().any(|line| line == "up refused#1" || line == "up absent#1"));
    agent.logs("Traceback");
    let said = agent.ctl(&world, &["start", "refused", "--waiting"]).expect(1);
    assert!(said.err.contains("hook before_start said no"), "{said:?}");

    // A signal that the hook does not want is not sent, and the process does not notice.
    let pids = agent.pids("good");
    let mut events = agent.events("good");
    agent.ctl(&world, &["signal", "good", "USR1"]).expect(0);
    assert_eq!(words(&mut events, "hook_success"), ["hook_success"]);
    agent.ctl(&world, &["signal", "good", "HUP"]).expect(0);
    world.tells("hup good#1", 1);
    assert_eq!(agent.pids("good"), pids);
    world.end(agent);
}

#[test]
fn hooks_that_hang_cost_their_time_and_leave_nothing_behind() {
    let world = World::new();
    let command = world.teller("run", "");
    let hang = world.script("hang", &format!("echo hangs $CIRCUS_WATCHER >>{}; sleep 1000", world.journal().display()));
    fs::write(world.file("hanging.py"), "import time\ndef forever(*args, **kwargs):\n    time.sleep(1000)\n").unwrap();
    let watcher = |name: &str, hook: &str| {
        format!(
            "[watcher:{name}]\ncmd = {command}\nworking_dir = {}\nhook_timeout = 0.4\n{hook}\n",
            world.path().display()
        )
    };
    let config = [
        watcher("start", &format!("hooks.before_start = {hang}")),
        watcher("python", "hooks.before_start = hanging.forever"),
        watcher("stop", &format!("hooks.before_stop = {hang}")),
        watcher("plain", ""),
    ];
    let agent = world.agent_with("a", &config.concat(), &[("PYTHONDONTWRITEBYTECODE", "1")]);
    agent.comes_to("plain", "active");
    for name in ["start", "python"] {
        agent.comes_to(name, "failed");
        agent.notes(name, "hook before_start failed: ");
        assert!(agent.note(name).contains("0.4 s"), "{}", agent.note(name));
    }
    agent.comes_to("stop", "active");
    let stopped = agent.pids("stop");
    let said = world.meanwhile(&agent, &["stop", "stop", "--waiting"], || {
        world.tells("hangs stop", 1);
        // Nobody else waits for it.
        agent.ctl(&world, &["restart", "plain", "--waiting"]).expect(0);
    });
    said.expect(0);
    assert!(!is_alive(stopped[0]));
    let running = || world.left().into_values().filter(|words| words.contains("hang")).collect::<Vec<_>>();
    wait_for("nothing to hang", || running().is_empty().then_some(()));
    agent.comes_to("plain", "active");
    world.end(agent);
}

#[test]
fn a_hook_adds_to_the_statistics_that_are_asked_for() {
    let world = World::new();
    let command = world.teller("web", "");
    let hook = world.script("hook", "echo '{\"queued\": 7}'");
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nhooks.extended_stats = {hook}\n"));
    agent.comes_to("web", "active");
    let stats = agent.ask(&json!({"command": "stats", "properties": {"name": "web", "extended": true}}));
    let pid = agent.pids("web")[0].to_string();
    assert_eq!(stats["info"][&pid]["queued"], 7, "{stats}");
    world.end(agent);
}

#[test]
fn an_agent_that_leaves_leaves_no_hook_behind_that_nobody_waits_for() {
    let world = World::new();
    let command = world.teller("web", "");
    let hang =
        world.script("hang", &format!("echo hangs $CIRCUS_HOOK >>{}; exec sleep 1000", world.journal().display()));
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nhooks.after_reap = {hang}\n"));
    agent.comes_to("web", "active");
    send(agent.pids("web")[0], libc::SIGKILL);
    world.tells("hangs after_reap", 1);
    world.end(agent);
}
