//! What happens where Redis has replicas: another server becomes the master, and what it knows is what it was told.

use crate::net::Host;
use crate::stage::{Setup, Stage, nanos};
use crate::store::Kind;
use crate::witness::now;

/// A failover in order, while all is well.
pub fn failed_over_in_order(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let before = stage.store.keeper();
    stage.store.fail_over();
    stage.wait_for("another master", |stage| (!stage.store.keepers().contains(&before)).then_some(()));
    stage.serves_again();
    stage
}

/// The master is killed, and comes back later.
pub fn master_killed(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let before = stage.store.keeper();
    stage.store.servers[before].server.kill();
    stage.serves_again();
    assert_ne!(stage.store.keeper(), before);
    let back = now();
    stage.store.restart(before);
    stage.undisturbed(back, stage.ttl * 2);
    stage
}

/// The master is killed whose replicas were cut off before the lease was taken: none of them ever saw it.
pub fn failed_over_to_one_that_never_saw_the_lease(setup: Setup) -> Stage {
    let mut stage = setup.start_apart(|stage| {
        let master = stage.store.keeper();
        let replicas: Vec<Host> = stage.store.replicas_of(master);
        stage.net.cut(&[stage.store.servers[master].host.clone()], &replicas);
    });
    stage.opens();
    let master = stage.store.keeper();
    assert!(stage.store.replicas_know_nothing_of_the_lease(), "a replica knows the lease");
    stage.store.servers[master].server.kill();
    stage.net.mend();
    stage.serves_again();
    assert_ne!(stage.store.keeper(), master);
    let back = now();
    stage.store.restart(master);
    stage.undisturbed(back, stage.ttl * 2);
    stage
}

/// The master is cut off from all, and thinks that it still is one; later it is back.
pub fn master_cut_off_from_all(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let before = stage.store.keeper();
    stage.net.isolate(&stage.store.servers[before].host);
    stage.wait_for("another master", |stage| {
        let keepers = stage.store.keepers();
        (keepers.len() == 1 && keepers[0] != before).then_some(())
    });
    stage.serves_again();
    stage.net.mend();
    let mended = now();
    stage.undisturbed(mended, stage.ttl * 2);
    stage
}

/// Split brain: the master is cut off from all but the holder, whose every question it goes on answering, and another
/// takes its place. Redis Cluster's minority takes no writes for long; with sentinels `require_replica_ack` tells the
/// holder in time that its master stands alone. Later all are back together.
pub fn master_and_holder_cut_off_together(setup: Setup) -> Stage {
    let by_sentinels = setup.kind() == Kind::Sentinel;
    let mut stage = if by_sentinels { setup.redis("require_replica_ack = 1\n").start() } else { setup.start() };
    let (child, before, cut) = (stage.child(), stage.store.keeper(), now());
    let master = stage.store.servers[before].host.clone();
    let (here, there) = ([master, stage.host(&child.node).clone()], stage.all_hosts());
    let there: Vec<Host> =
        there.into_iter().filter(|host| !here.iter().any(|one| one.address == host.address)).collect();
    stage.net.cut(&here, &there);
    if by_sentinels {
        stage.stops_in_time(&child, cut + nanos(stage.ttl / 10));
    }
    stage.wait_for("another master", |stage| {
        let keepers = stage.store.keepers();
        (keepers.len() == 1 && keepers[0] != before).then_some(())
    });
    stage.serves_again();
    assert_ne!(stage.child().node, child.node);
    stage.net.mend();
    let mended = now();
    stage.undisturbed(mended, stage.ttl * 2);
    stage
}

/// The slot of the lease moves to another master while it is held: its keys one after the other, with a pause in which
/// both masters have a say, and then for good. Nothing is noticed.
pub fn slot_moves(setup: Setup) -> Stage {
    let mut stage = setup.start();
    assert_eq!(stage.store.kind, Kind::Cluster);
    let begun = now();
    let before = stage.store.keeper();
    stage.store.move_slot(|| std::thread::sleep(stage.ttl / 2));
    assert_ne!(stage.store.keeper(), before);
    stage.undisturbed(begun, stage.ttl * 4);
    let child = stage.child();
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    stage
}
