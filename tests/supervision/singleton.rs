//! A singleton of two agents on one machine, whose leases are file locks: whatever is done to it, there are never two.

use super::World;
use super::agent::{Agent, wait_for};
use super::witness::{Life, Witness};

const TTL: &str = "lease_ttl = 3\n";

fn beat(witness: &Witness, options: &str) -> String {
    format!("[watcher:beat]\ncmd = {}\nsingleton = True\ngraceful_timeout = 1\n{TTL}", witness.command(options))
}

/// The child after this one, once it has told of itself twice.
#[track_caller]
fn next(witness: &Witness, life: &Life) -> Life {
    let next = witness.after(life, super::agent::PATIENCE);
    witness.ticks(&next);
    witness.check();
    next
}

#[test]
fn a_singleton_is_never_two_through_reloads_settings_files_and_moves() {
    let world = World::new();
    let witness = Witness::new(world.path());
    let config = beat(&witness, "grace=0.05");
    let agents = ["a", "b"].map(|name| world.agent(name, &config));
    let of = |life: &Life| -> &Agent { agents.iter().find(|agent| agent.name == life.node).expect("its agent") };
    let mut life = witness.first();
    witness.ticks(&life);

    // Whatever is done where it runs replaces it there, under the lease that there is.
    for args in [
        &["reload", "beat", "--waiting"][..],
        &["reload", "beat", "--sequential", "--waiting"],
        &["restart", "beat", "--waiting"],
        &["set", "beat", "env", "VERSION=2", "--waiting"],
        &["kill", "beat", "--waiting"],
    ] {
        let here = of(&life);
        here.ctl(&world, args).expect(0);
        let after = next(&witness, &life);
        assert_eq!((&after.node, after.token), (&life.node, life.token), "{args:?}");
        life = after;
    }
    // What cannot be done to it is said, and does nothing.
    let said = of(&life).ctl(&world, &["incr", "beat"]).expect(0);
    assert!(said.out.contains("Singleton"), "{said:?}");
    of(&life).ctl(&world, &["set", "beat", "numprocesses", "2"]).expect(1);
    witness.ticks(&life);

    // A changed file, applied on both.
    let changed = beat(&witness, "grace=0.06");
    agents.iter().for_each(|agent| drop(world.configure(&agent.name, &changed)));
    for agent in &agents {
        agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    }
    life = next(&witness, &life);

    // Other timings make it another lease, so it goes down first; either may be the next to have it.
    let slower = changed.replace(TTL, "lease_ttl = 4\n");
    agents.iter().for_each(|agent| drop(world.configure(&agent.name, &slower)));
    of(&life).ctl(&world, &["reloadconfig"]).expect(0);
    life = next(&witness, &life);
    for agent in &agents {
        agent.ctl(&world, &["reloadconfig"]).expect(0);
    }

    // Stopped where it runs, it goes to the other one.
    of(&life).ctl(&world, &["stop", "beat", "--waiting"]).expect(0);
    let moved = next(&witness, &life);
    assert_ne!(moved.node, life.node);
    of(&life).ctl(&world, &["start", "beat", "--waiting"]).expect(0);
    wait_for("the other to stand by", || (of(&life).watcher("beat")["state"] == "standby").then_some(()));
    of(&moved).ctl(&world, &["failover", "beat"]).expect(0);
    let back = next(&witness, &moved);
    assert_eq!(back.node, life.node);

    // Removed where it runs, and from the file of the other.
    of(&back).ctl(&world, &["rm", "beat", "--waiting"]).expect(0);
    let last = next(&witness, &back);
    assert_ne!(last.node, back.node);
    world.configure(&last.node, "");
    of(&last).ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    witness.check_over();
    for agent in agents {
        world.end_one(agent);
    }
    world.is_clean();
}

#[test]
fn a_plain_watcher_becomes_a_singleton_and_back_without_ever_being_two_of_its_kind() {
    let world = World::new();
    let witness = Witness::new(world.path());
    let config = beat(&witness, "grace=0.05");
    let plain = config.replace("singleton = True\n", "singleton = False\n");
    let (a, b) = (
        world.agent("a", &plain),
        world.agent("b", &config.replace("[watcher:beat]", "[watcher:beat]\nautostart = False")),
    );
    let first = witness.first();
    witness.ticks(&first);
    a.ctl(&world, &["set", "beat", "singleton", "True", "--waiting"]).expect(0);
    let second = next(&witness, &first);
    assert!(second.token > 0);
    b.ctl(&world, &["start", "beat", "--waiting"]).expect(0);
    b.comes_to("beat", "standby");
    a.ctl(&world, &["quit"]).expect(0);
    let third = next(&witness, &second);
    assert_eq!(third.node, "b");
    world.end_one(b);
    witness.check_over();
    drop(a);
}
