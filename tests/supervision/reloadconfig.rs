//! `circusctl reloadconfig`, SIGHUP, and `circusctl plan`, which says beforehand what they would do.

use std::fs;

use super::World;
use super::agent::{Agent, is_alive, wait_for};

/// A file with one watcher for each thing that can become of it, before and after.
struct Files {
    before: String,
    after: String,
}

fn files(world: &World) -> Files {
    let command = world.teller("run", "echo READY");
    let watcher = |name: &str, more: &str| format!("[watcher:{name}]\ncmd = {command} {more}\n");
    let (same, ready) = (watcher("same", ""), "numprocesses = 2\nready = log READY\nstdout_stream.class = QueueStream");
    Files {
        before: [
            &same,
            &watcher("changed", &format!("--version 1\n{ready}")),
            &watcher("patient", "\ngraceful_timeout = 30"),
            &watcher("few", "\nnumprocesses = 1"),
            &watcher("old", ""),
        ]
        .map(String::as_str)
        .concat(),
        after: [
            &same,
            &watcher("changed", &format!("--version 2\n{ready}")),
            &watcher("patient", "\ngraceful_timeout = 20"),
            &watcher("few", "\nnumprocesses = 3"),
            &watcher("new", "\npriority = 9"),
        ]
        .map(String::as_str)
        .concat(),
    }
}

/// Waits until all processes of the file before have told that they run, and the agent knows it.
fn all_run(world: &World, agent: &Agent) {
    wait_for("all of them", || (world.told().len() == 6).then_some(()));
    for (watcher, processes) in [("same", 1), ("changed", 2), ("patient", 1), ("few", 1), ("old", 1)] {
        wait_for(watcher, || (agent.pids(watcher).len() == processes).then_some(()));
    }
}

#[test]
fn only_what_changed_restarts_and_the_plan_says_so_beforehand() {
    let world = World::new();
    let Files { before, after } = files(&world);
    let agent = world.agent("a", &before);
    let all = || ["same", "changed", "patient", "few"].map(|watcher| agent.pids(watcher));
    all_run(&world, &agent);
    let [same, changed, patient, few] = all();
    let old = agent.pids("old");
    assert_eq!(agent.ctl(&world, &["plan"]).expect(0).out, "nothing to do\n");

    world.configure("a", &after);
    let plan = agent.ctl(&world, &["plan"]).expect(0).out;
    for line in [
        "+ new       starts 1 process\n",
        "~ changed   restarts 2 processes, one at a time\n",
        "--version 1 → ",
        "~ patient   no restart\n",
        "graceful_timeout   30 → 20\n",
        "~ few       1 → 3 processes\n",
        "- old       stops 1 process\n",
        "= 1 watcher unchanged\n",
        "plan: 1 added, 3 changed, 1 removed, 2 restarts\n",
    ] {
        assert!(plan.contains(line), "{line:?} is missing in:\n{plan}");
    }
    assert_eq!(all(), [same.clone(), changed.clone(), patient.clone(), few.clone()], "a plan changes nothing");

    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    let [new_same, new_changed, new_patient, new_few] = all();
    assert_eq!((&new_same, &new_patient), (&same, &patient));
    assert!(new_changed.len() == 2 && new_changed.iter().all(|pid| !changed.contains(pid)), "{new_changed:?}");
    assert!(new_few.len() == 3 && new_few.contains(&few[0]), "{new_few:?}");
    assert!(!is_alive(old[0]));
    assert_eq!(agent.ctl(&world, &["list"]).expect(0).out, "changed,few,new,patient,same\n");
    agent.comes_to("new", "active");
    assert_eq!(agent.ctl(&world, &["get", "patient", "graceful_timeout"]).expect(0).out, "graceful_timeout: 20\n");
    assert_eq!(agent.ctl(&world, &["plan"]).expect(0).out, "nothing to do\n");
    // One at a time, and never more: the next goes when the one before is back.
    let told: Vec<String> = world.told().split_off(6).into_iter().filter(|line| line.contains("changed#")).collect();
    let turn = |first: u32, then: u32| {
        [format!("down changed#{first}"), format!("up changed#{first}")]
            .into_iter()
            .chain([format!("down changed#{then}"), format!("up changed#{then}")])
            .collect::<Vec<_>>()
    };
    assert!(told == turn(1, 2) || told == turn(2, 1), "{told:?}");

    // SIGHUP is the same, by another door.
    let processes = all();
    world.configure("a", &before);
    agent.signal(libc::SIGHUP);
    agent.logs("configuration read: 1 added, 3 changed, 1 removed, 1 unchanged");
    agent.comes_to("old", "active");
    wait_for("the change", || {
        let [_, changed, _, few] = all();
        (changed.len() == 2 && changed.iter().all(|pid| !processes[1].contains(pid)) && few.len() == 1).then_some(())
    });
    assert_eq!(agent.pids("same"), same);
    wait_for("the new watcher to go", || (agent.ctl(&world, &["list", "new"]).code == 1).then_some(()));
    world.end(agent);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let world = World::new();
    let Files { before, after } = files(&world);
    let agent = world.agent("a", &before);
    all_run(&world, &agent);
    let status = || ["same", "changed", "patient", "few", "old"].map(|watcher| agent.pids(watcher));
    let pids = status();

    let bad = after
        .replace("numprocesses = 3", "numprocesses = many\nnumproceses = 4")
        .replace("[watcher:new]", "[wacher:new]");
    world.configure("a", &bad);
    for command in ["plan", "reloadconfig"] {
        let said = agent.ctl(&world, &[command]).expect(1);
        for problem in ["`numprocesses` must be a whole number", "numproceses", "wacher:new", "a.ini:"] {
            assert!(said.err.contains(problem), "{command}: {problem} is missing in:\n{}", said.err);
        }
    }
    let said = agent.ctl(&world, &["reloadconfig", "--json"]).expect(1).json();
    assert_eq!((said["status"].as_str(), said["errno"].as_i64()), (Some("error"), Some(6)), "{said}");
    agent.signal(libc::SIGHUP);
    agent.logs("SIGHUP");
    wait_for("three refusals", || (agent.log().matches("nothing is changed").count() >= 4).then_some(()));
    assert_eq!(status(), pids);

    // No file at all is a bad one too.
    fs::remove_file(world.file("a.ini")).unwrap();
    let said = agent.ctl(&world, &["reloadconfig"]).expect(1);
    assert!(said.err.contains("a.ini does not exist"), "{said:?}");
    assert_eq!(status(), pids);

    world.configure("a", &after);
    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    agent.comes_to("new", "active");
    world.end(agent);
}

#[test]
fn a_file_whose_programs_do_not_run_is_applied_and_a_waiting_reloadconfig_tells_the_truth() {
    let world = World::new();
    let command = world.teller("run", "");
    let good = format!("[watcher:good]\ncmd = {command}\n");
    let agent = world.agent("a", &good);
    agent.comes_to("good", "active");
    let pids = agent.pids("good");
    world.configure("a", &(good + "[watcher:broken]\ncmd = /nonexistent/program\n"));
    let said = agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(1);
    assert!(said.err.contains("broken: spawn failed at exec(\"/nonexistent/program\"): ENOENT"), "{said:?}");
    assert_eq!(agent.pids("good"), pids);
    world.end(agent);
}

#[test]
fn what_only_a_restart_of_the_agent_changes_is_said() {
    let world = World::new();
    let command = world.teller("run", "");
    let good = format!("[watcher:good]\ncmd = {command}\n");
    let agent = world.agent("a", &good);
    agent.comes_to("good", "active");
    let pids = agent.pids("good");
    world.configure("a", &format!("pidfile = {}\n\n{good}", world.file("pid").display()));
    let plan = agent.ctl(&world, &["plan"]).expect(0).out;
    assert!(plan.contains("! [circus] pidfile   changes with a restart of the agent only"), "{plan}");
    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    agent.logs("only a restart of the agent changes [circus] pidfile");
    assert_eq!(agent.pids("good"), pids);
    world.end(agent);
}
