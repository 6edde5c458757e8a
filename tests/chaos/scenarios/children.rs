//! What children do, and what is done to them.

use crate::agent::{is_alive, send};
use crate::stage::{Setup, Stage};
use crate::witness::{Life, now};

/// It starts again in place, under the same token.
pub fn child_killed(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let child = stage.child();
    let killed = now();
    send(child.pid, libc::SIGKILL);
    let next = stage.child_after(&child);
    assert_eq!((&next.node, next.token), (&child.node, child.token), "not in place");
    stage.soon(killed);
    stage
}

/// It is deaf to SIGTERM: killed when its graceful time is over, while its lease is kept; and where its agent is
/// killed or stopped, in time too.
pub fn child_deaf_to_sigterm(setup: Setup) -> Stage {
    let mut stage = setup.child("stubborn").start();
    let child = stage.child();
    stage.end_agent(&child.node);
    let next = stage.child_after(&child);
    let ended = stage.again(&child);
    assert!(ended.asked.is_some(), "never asked to stop");
    stage.note(&format!("the next one starts {} ms after it was killed", ended.gap_to(&next).as_millis()));
    stage.soon(ended.last);
    stage.start_agent(&child.node);
    let stopped = now();
    stage.agent(&next.node).signal(libc::SIGSTOP);
    stage.stops_in_time(&next, stopped);
    stage.soon(stopped);
    stage
}

/// It leaves grandchildren that called setsid and are deaf to signals: nothing of them is left when the next begins,
/// whether the child is killed, its agent is, or all end in order.
pub fn child_leaves_detached_grandchildren(setup: Setup) -> Stage {
    let mut stage = setup.child("kid").start();
    let kid_of = |stage: &Stage, child: &Life| {
        stage.wait_for("a grandchild", |stage| {
            stage.witness.lives().into_iter().find(|life| life.parent == Some(child.pid) && life.is_alive())
        })
    };
    let child = stage.child();
    let kid = kid_of(&stage, &child);
    let killed = now();
    send(child.pid, libc::SIGKILL);
    let next = stage.child_after(&child);
    assert!(!is_alive(kid.pid), "a grandchild is left");
    stage.soon(killed);

    kid_of(&stage, &next);
    let killed = stage.kill_agent(&next.node);
    let third = stage.child_after(&next);
    stage.soon(killed);

    kid_of(&stage, &third);
    stage.end_agent(&third.node);
    let last = stage.child_after(&third);
    kid_of(&stage, &last);
    stage
}

/// It crashes again and again on one node: the node yields the lease, and another runs it.
pub fn child_cannot_run_on_one_node(setup: Setup) -> Stage {
    let dir = tempfile::tempdir().expect("a directory");
    let cannot = dir.path().join("cannot");
    let mut stage = setup.child(&format!("cannot={}", cannot.display())).watcher("max_retry = 2\n").start();
    let child = stage.child();
    std::fs::write(format!("{}-{}", cannot.display(), child.node), "").expect("a mark");
    send(child.pid, libc::SIGKILL);
    let elsewhere = stage
        .wait_for("a child elsewhere", |stage| stage.witness.children().into_iter().find(|one| one.node != child.node));
    let lives = stage.witness.children();
    let here: Vec<&Life> = lives.iter().filter(|one| one.node == child.node && one.start > child.start).collect();
    assert!(!here.is_empty(), "never tried again in place");
    // The fault is over for the cluster when the node has given up.
    let gave_up = here.last().expect("a try").last;
    let gap = std::time::Duration::from_nanos(elsewhere.start.saturating_sub(gave_up));
    stage.note(&format!("{} tries in place, then elsewhere after {} ms", here.len(), gap.as_millis()));
    stage.soon(gave_up);
    stage
}
