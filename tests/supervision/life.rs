//! The ends of processes that are nobody's fault.

use std::collections::BTreeSet;

use super::World;
use super::agent::{is_alive, wait_for};

#[test]
fn a_process_is_replaced_when_it_has_its_age() {
    let world = World::new();
    let command = world.teller("web", "");
    let config = format!("[watcher:web]\ncmd = {command}\nmax_age = 1\nmax_age_variance = 0\n");
    let agent = world.agent("a", &config);
    agent.comes_to("web", "active");
    let first = agent.pids("web");
    world.tells("up web#1", 2);
    agent.comes_to("web", "active");
    assert!(!is_alive(first[0]));
    assert_eq!(agent.watcher("web")["restarts"], 0, "an age is no failure");
    world.end(agent);
}

#[test]
fn the_children_of_a_process_are_told_to_stop_where_that_is_wanted_and_gone_in_either_case() {
    let world = World::new();
    let child = world.teller("child", "");
    let watcher = |name: &str, then: &str, stop: &str| {
        let parent =
            world.teller(name, &format!("{child} & child=$!; trap '{then}; say down; exit' TERM; say listens"));
        format!("[watcher:{name}]\ncmd = {parent}\nstop_children = {stop}\n")
    };
    let agent = world.agent("a", &(watcher("told", "wait $child", "True") + &watcher("untold", ":", "False")));
    for name in ["told", "untold"] {
        // Parent and child have one name in the journal.
        world.tells(&format!("up {name}#1"), 2);
        world.tells(&format!("listens {name}#1"), 1);
    }
    agent.ctl(&world, &["stop", "--waiting"]).expect(0);
    assert_eq!(world.left(), [].into());
    let downs = |name: &str| world.told().iter().filter(|line| **line == format!("down {name}#1")).count();
    assert_eq!((downs("told"), downs("untold")), (2, 1), "{:?}", world.told());
    world.end(agent);
}

#[test]
fn without_respawn_what_ends_is_not_replaced_and_the_rest_is_as_well_as_before() {
    let world = World::new();
    let command = world.teller("job", "test $CIRCUS_WID = 2 && gate never; gate done; say done; exit 3");
    let agent = world.agent("a", &format!("[watcher:job]\ncmd = {command}\nrespawn = False\nnumprocesses = 2\n"));
    agent.comes_to("job", "active");
    world.open("done");
    world.tells("done job#1", 1);
    agent.notes("job", "1 of 2 ended, and respawn is off");
    assert_eq!((agent.watcher("job")["state"].as_str(), agent.pids("job").len()), (Some("active"), 1));
    agent.ctl(&world, &["status", "job"]).expect(0);
    let one_more = agent.ctl(&world, &["incr", "job", "--waiting", "--timeout", "20"]);
    assert_eq!(one_more.expect(0).out, "3\n");

    world.open("never");
    agent.comes_to("job", "stopped");
    agent.notes("job", "exit 3, and respawn is off");
    // A start is a start: they come once more.
    world.close("done");
    agent.ctl(&world, &["start", "job", "--waiting"]).expect(0);
    assert_eq!(agent.pids("job").len(), 3);
    world.open("done");
    agent.comes_to("job", "stopped");

    // A reload brings back those that ended, as a restart does.
    world.close("done");
    world.close("never");
    agent.ctl(&world, &["start", "job", "--waiting"]).expect(0);
    world.open("done");
    wait_for("all but one to end", || (agent.pids("job").len() == 1).then_some(()));
    world.close("done");
    agent.ctl(&world, &["reload", "job", "--waiting", "--timeout", "20"]).expect(0);
    assert_eq!(agent.pids("job").into_iter().collect::<BTreeSet<_>>().len(), 3);
    world.end(agent);
}
