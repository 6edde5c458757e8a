//! What happens to agents, and to the hosts that they run on.

use std::time::Duration;

use crate::agent::is_alive;
use crate::stage::{Setup, Stage, nanos};
use crate::witness::now;

/// SIGTERM: the child ends in order, and the next one starts at that moment.
pub fn agent_asked_to_end(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let child = stage.child();
        stage.end_agent(&child.node);
        let next = stage.child_after(&child);
        gaps.push(stage.again(&child).gap_to(&next));
        stage.start_agent(&child.node);
        stage.stand_by();
    }
    stage.moves(gaps);
    stage
}

/// SIGKILL: the child dies with its agent, and the next one starts when the lease ends.
pub fn agent_killed(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let child = stage.child();
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    dies_with_its_agent(&mut stage, child.pid, killed);
    stage
}

fn dies_with_its_agent(stage: &mut Stage, pid: u32, killed: u64) {
    let child = stage.witness.children().into_iter().find(|child| child.pid == pid).expect("the child");
    let outlived = Duration::from_nanos(child.last.saturating_sub(killed));
    stage.note(&format!("the child outlives its agent by {} ms", outlived.as_millis()));
    assert!(outlived < Duration::from_millis(500), "{outlived:?}");
}

/// SIGSTOP for 3 ttl, then SIGCONT: its guard ends the child in time, and what the agent says then is too late.
pub fn agent_stopped_for_three_ttls(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let child = stage.child();
    let stopped = now();
    stage.agent(&child.node).signal(libc::SIGSTOP);
    stage.stops_in_time(&child, stopped);
    let next = stage.child_after(&child);
    assert_ne!(next.node, child.node);
    stage.soon(stopped);
    stage.lasts(Duration::from_nanos((stopped + nanos(stage.ttl * 3)).saturating_sub(now())));
    stage.agent(&child.node).signal(libc::SIGCONT);
    let going = now();
    let ttl = stage.ttl;
    stage.undisturbed(going, ttl);
    stage.agent(&child.node).comes_to("beat", "standby");
    stage
}

/// SIGSTOP for ever.
pub fn agent_stopped_for_ever(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let child = stage.child();
    let stopped = now();
    stage.agent(&child.node).signal(libc::SIGSTOP);
    stage.stops_in_time(&child, stopped);
    stage.soon(stopped);
    stage
}

/// The whole host stands still, guard and child included, and goes on when another runs the singleton: the child is
/// dead before it can matter.
pub fn host_frozen(setup: Setup) -> Stage {
    // The lock is inherited by what is frozen, and would tell of two where one of them can do nothing.
    let mut stage = setup.child("unlocked").start();
    let child = stage.child();
    let (frozen, all) = stage.freeze_host(&child.node);
    let next = stage.child_after(&child);
    assert_ne!(next.node, child.node);
    stage.soon(frozen);
    let thawed = stage.thaw_host(frozen, &all);
    stage.wait_for("the child's death", |_| (!is_alive(child.pid)).then_some(()));
    let dead = now();
    let acted = stage.again(&child).last.saturating_sub(thawed);
    stage.note(&format!(
        "dead within {:.1} ms of the thaw; it acted for {:.1} ms of them",
        (dead - thawed) as f64 / 1e6,
        acted as f64 / 1e6
    ));
    let ttl = stage.ttl;
    stage.undisturbed(thawed, ttl);
    stage
}

/// Every agent is ended in order and started again, one after the other.
pub fn rolling_restart(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let mut gaps = Vec::new();
    for _ in 0..2 {
        for node in stage.nodes() {
            let child = stage.child();
            stage.end_agent(&node);
            if child.node == node {
                let next = stage.child_after(&child);
                gaps.push(stage.again(&child).gap_to(&next));
            }
            stage.start_agent(&node);
            stage.stand_by();
        }
    }
    assert!(gaps.len() >= 2, "the holder was among them each time");
    let ended = now();
    stage.moves(gaps);
    stage.soon(ended);
    stage
}

/// `circusctl failover`: from node to node.
pub fn planned_moves(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let mut gaps = Vec::new();
    for _ in 0..7 {
        let child = stage.child();
        let to = stage.others(&child.node).swap_remove(gaps.len() % 2);
        // Who gave it away stands back for a while.
        stage.wait_for("a move", |stage| {
            (stage.ctl(&child.node, &["failover", "beat", "--to", &to]).code == 0).then_some(())
        });
        let next = stage.child_after(&child);
        assert_eq!(next.node, to);
        gaps.push(stage.again(&child).gap_to(&next));
        stage.stand_by();
    }
    stage.moves(gaps);
    stage
}

/// Twenty agents, and whoever holds the lease is killed, ten times.
pub fn holder_of_twenty_killed_ten_times(setup: Setup) -> Stage {
    let mut stage = setup.agents(20).start();
    for _ in 0..10 {
        let child = stage.child();
        let killed = stage.kill_agent(&child.node);
        stage.child_after(&child);
        stage.soon(killed);
        stage.start_agent(&child.node);
    }
    stage
}
