//! What happens to Redis, all of it: what its network does, and what some of its servers do, is told elsewhere.

use std::time::Duration;

use crate::stage::{Setup, Stage, nanos};
use crate::store::{LEASE, META, PROBE};
use crate::witness::{Life, now};

// ------------------------------------------------------------------------------------------------- away and back

/// All servers are killed and started again at once, with nothing in them.
pub fn restarted_empty(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, killed) = (stage.child(), now());
    stage.store.kill_all();
    stage.store.forget_all();
    stage.store.restart_all();
    assert_eq!(stage.store.exists(PROBE), 0, "Redis is not empty");
    back_soon(&mut stage, &child, killed);
    stage
}

/// The same, with all that they knew.
pub fn restarted_with_its_data(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let child = stage.child();
    stage.store.tell_all(&["SAVE"]);
    let killed = now();
    stage.store.kill_all();
    stage.store.restart_all();
    back_soon(&mut stage, &child, killed);
    stage
}

/// Redis is back. Where that took less than a third of a ttl, the holder has found its lease again, or restored it, and
/// its child was not even restarted.
fn back_soon(stage: &mut Stage, child: &Life, killed: u64) {
    stage.store.serves();
    let back = now();
    stage.soon(back);
    if back - killed < nanos(stage.ttl / 3) {
        stage.note("the child is not restarted");
        stage.undisturbed(killed, stage.ttl);
        assert_eq!(stage.child().pid, child.pid);
    }
}

/// All servers are away for two ttls, and come back with nothing in them.
pub fn away_and_back_empty(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, killed) = (stage.child(), now());
    stage.store.kill_all();
    stage.store.forget_all();
    stage.stops_in_time(&child, killed);
    stage.lasts_until(killed + nanos(stage.ttl * 2));
    stage.nobody_since(killed + nanos(stage.ttl));
    stage.store.restart_all();
    stage.serves_again();
    stage
}

// ------------------------------------------------------------------------------------------------- it does not answer

/// All servers hang for half a ttl.
pub fn frozen_for_half_a_ttl(setup: Setup) -> Stage {
    let mut stage = setup.start();
    stage.store.freeze_all();
    stage.lasts(stage.ttl / 2);
    stage.store.thaw_all();
    stage.serves_again();
    stage
}

/// All servers hang for three ttls.
pub fn frozen_for_three_ttls(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, frozen) = (stage.child(), now());
    stage.store.freeze_all();
    stage.stops_in_time(&child, frozen);
    stage.lasts_until(frozen + nanos(stage.ttl * 3));
    stage.nobody_since(frozen + nanos(stage.ttl));
    stage.store.thaw_all();
    stage.serves_again();
    stage
}

/// CLIENT PAUSE, for half a ttl and for two.
pub fn clients_paused(setup: Setup) -> Stage {
    let mut stage = setup.start();
    for time in [stage.ttl / 2, stage.ttl * 2] {
        let paused = now();
        stage.store.tell_keepers(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "ALL"]);
        stage.lasts_until(paused + nanos(time));
        stage.serves_again();
    }
    stage
}

/// CLIENT KILL for all clients, over and over for a ttl: they come back, and nothing else is to be noticed.
pub fn clients_killed(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let begun = now();
    while now() < begun + nanos(stage.ttl) {
        for kind in ["normal", "pubsub"] {
            stage.store.tell_keepers(&["CLIENT", "KILL", "TYPE", kind]);
        }
        stage.lasts(stage.ttl / 10);
    }
    stage.undisturbed(begun, stage.ttl * 2);
    stage
}

/// Somebody's script runs without end, until it is killed two ttls later.
pub fn busy_with_a_script(setup: Setup) -> Stage {
    let mut stage = setup.start();
    stage.store.tell_all(&["CONFIG", "SET", "busy-reply-threshold", "200"]);
    let (child, begun) = (stage.child(), now());
    let busy = stage.store.keepers();
    for index in &busy {
        // It goes on when nobody waits for its answer any more.
        let server = &stage.store.servers[*index].server;
        let answer = server.try_within(Duration::from_millis(50), &["EVAL", "while true do end", "0"]);
        assert!(answer.is_err(), "{answer:?}");
    }
    // Where another server takes over, the child may go on.
    if !stage.store.fails_over() {
        stage.stops_in_time(&child, begun);
    }
    stage.lasts_until(begun + nanos(stage.ttl * 2));
    for index in busy {
        // Sentinels kill such a script themselves, and then there is none.
        let _ = stage.store.servers[index].server.try_command(&["SCRIPT", "KILL"]);
    }
    stage.serves_again();
    stage
}

// ------------------------------------------------------------------------------------------------- it forgets

/// SCRIPT FLUSH: scripts are sent again.
pub fn scripts_flushed(setup: Setup) -> Stage {
    nothing_is_noticed_of(setup, |stage| stage.store.tell_keepers(&["SCRIPT", "FLUSH"]))
}

/// FLUSHALL: the holder restores its lease, token included.
pub fn data_flushed(setup: Setup) -> Stage {
    nothing_is_noticed_of(setup, |stage| stage.store.tell_keepers(&["FLUSHALL"]))
}

/// The lease's key is deleted by hand, and then its record too.
pub fn lease_deleted(setup: Setup) -> Stage {
    let mut stage = nothing_is_noticed_of(setup, |stage| stage.store.tell_keepers(&["DEL", LEASE]));
    let deleted = now();
    stage.store.tell_keepers(&["DEL", LEASE, META]);
    stage.undisturbed(deleted, stage.ttl * 2);
    stage
}

/// Out of memory, Redis evicts whatever it has.
pub fn lease_evicted(setup: Setup) -> Stage {
    nothing_is_noticed_of(setup, |stage| {
        stage.store.tell_keepers(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
        stage.store.tell_keepers(&["CONFIG", "SET", "maxmemory", "1"]);
        stage.wait_for("the lease to be evicted", |stage| {
            stage.store.keepers().iter().for_each(|index| {
                let _ = stage.store.servers[*index].server.try_command(&["SET", "more", "more"]);
            });
            (stage.store.exists(LEASE) + stage.store.exists(META) == 0).then_some(())
        });
        stage.store.tell_keepers(&["CONFIG", "SET", "maxmemory", "0"]);
    })
}

fn nothing_is_noticed_of(setup: Setup, fault: impl FnOnce(&mut Stage)) -> Stage {
    let mut stage = setup.start();
    let (child, begun) = (stage.child(), now());
    fault(&mut stage);
    stage.undisturbed(begun, stage.ttl * 2);
    stage.wait_for("the lease to be in Redis again", |stage| (stage.store.exists(LEASE) > 0).then_some(()));
    assert_eq!(stage.agent(&child.node).lease("beat")["token"], child.token);
    stage
}

// ------------------------------------------------------------------------------------------------- it refuses

/// Somebody else's word in the place of the lease counts for as long as it stands there.
pub fn lease_overwritten(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, overwritten) = (stage.child(), now());
    stage.store.tell_keepers(&["SET", LEASE, "somebody"]);
    stage.stops_in_time(&child, overwritten);
    stage.lasts_until(overwritten + nanos(stage.ttl * 2));
    stage.nobody_since(overwritten + nanos(stage.ttl));
    let deleted = now();
    stage.store.tell_keepers(&["DEL", LEASE]);
    stage.soon(deleted);
    stage
}

/// Out of memory, Redis refuses what takes more: the holder keeps its lease, and only a new one cannot be taken.
pub fn out_of_memory(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, begun) = (stage.child(), now());
    stage.store.tell_keepers(&["CONFIG", "SET", "maxmemory", "1"]);
    stage.store.refuses_writes();
    stage.undisturbed(begun, stage.ttl + stage.ttl / 2);
    let killed = stage.kill_agent(&child.node);
    stage.lasts_until(killed + nanos(stage.ttl * 2));
    stage.nobody_since(killed + nanos(stage.ttl));
    stage.store.tell_keepers(&["CONFIG", "SET", "maxmemory", "0"]);
    stage.serves_again();
    stage
}

/// Redis takes no writes: it misses replicas that it was told to have.
pub fn refuses_writes(setup: Setup) -> Stage {
    refused(
        setup,
        |stage| {
            stage.store.tell_all(&["CONFIG", "SET", "min-replicas-to-write", "9"]);
            stage.store.refuses_writes();
        },
        |stage| stage.store.tell_all(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
    )
}

/// Redis becomes a replica of a server that is not there.
pub fn becomes_a_replica(setup: Setup) -> Stage {
    refused(
        setup,
        |stage| stage.store.tell_all(&["REPLICAOF", "10.9.250.2", "6379"]),
        |stage| stage.store.tell_all(&["REPLICAOF", "NO", "ONE"]),
    )
}

/// The password of all agents is changed, and later changed back.
pub fn password_changed(setup: Setup) -> Stage {
    refused(
        setup,
        |stage| {
            stage.store.tell_all(&["ACL", "SETUSER", "circus", "resetpass", ">other"]);
            // Who is connected is not asked again.
            stage.store.tell_all(&["CLIENT", "KILL", "USER", "circus"]);
        },
        |stage| stage.store.tell_all(&["ACL", "SETUSER", "circus", "resetpass", ">secret"]),
    )
}

/// For two ttls no lease can be kept or taken.
fn refused(setup: Setup, begin: impl FnOnce(&mut Stage), end: impl FnOnce(&mut Stage)) -> Stage {
    let mut stage = setup.start();
    let (child, begun) = (stage.child(), now());
    begin(&mut stage);
    stage.stops_in_time(&child, begun + nanos(BEGINNING));
    stage.lasts_until(begun + nanos(stage.ttl * 2));
    stage.nobody_since(begun + nanos(BEGINNING + stage.ttl));
    end(&mut stage);
    stage.serves_again();
    stage
}

/// How long it may take until a fault that is several commands has begun.
const BEGINNING: Duration = Duration::from_millis(500);
