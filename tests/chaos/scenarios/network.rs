//! What happens on the network: packets vanish, and nobody is told.

use std::time::Duration;

use crate::net::Host;
use crate::stage::{Setup, Stage, nanos};
use crate::witness::now;

/// The holder is cut off from all others: its child stops in time, another node has one, and what the old one says when
/// it is back is too late.
pub fn holder_cut_off(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, cut) = (stage.child(), now());
    stage.net.isolate(stage.host(&child.node));
    stage.stops_in_time(&child, cut);
    stage.soon(cut);
    assert!(stage.net.dropped() > 0, "no packet was dropped");
    stage.net.mend();
    let mended = now();
    stage.undisturbed(mended, stage.ttl);
    stage.agent(&child.node).comes_to("beat", "standby");
    stage
}

/// One that waits is cut off: nobody notices, then or when it is back.
pub fn waiter_cut_off(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, cut) = (stage.child(), now());
    let waiter = stage.others(&child.node).swap_remove(0);
    stage.net.isolate(stage.host(&waiter));
    stage.lasts(stage.ttl * 2);
    stage.net.mend();
    stage.undisturbed(cut, stage.ttl * 4);
    assert_eq!(stage.child().pid, child.pid);
    stage
}

/// All servers are cut off from all agents, and from each other, for two ttls.
pub fn redis_cut_off_from_all(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, cut) = (stage.child(), now());
    let servers: Vec<Host> = stage.store.servers.iter().map(|seat| seat.host.clone()).collect();
    servers.iter().for_each(|host| stage.net.isolate(host));
    stage.stops_in_time(&child, cut + nanos(CUTTING));
    stage.lasts_until(cut + nanos(stage.ttl * 2));
    stage.nobody_since(cut + nanos(CUTTING + stage.ttl));
    stage.net.mend();
    stage.serves_again();
    stage
}

/// How long it may take until all are cut off.
const CUTTING: Duration = Duration::from_millis(200);

/// Three of ten packets are lost, for five ttls: never two; and one soon after.
pub fn packets_lost(setup: Setup) -> Stage {
    let mut stage = setup.start();
    stage.net.lose(0.3);
    stage.lasts(stage.ttl * 5);
    assert!(stage.net.dropped() > 0, "no packet was lost");
    stage.net.mend();
    stage.serves_again();
    stage
}

/// Each answer comes 300 ms later than it would: leases are kept all the same, and taken over.
pub fn packets_late(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let begun = now();
    stage.net.delay(Duration::from_millis(150));
    stage.undisturbed(begun, stage.ttl * 3);
    let child = stage.child();
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    stage.net.mend();
    let mended = now();
    stage.undisturbed(mended, stage.ttl);
    stage
}
