//! What happens where several independent servers vote.

use crate::stage::{Setup, Stage, nanos};
use crate::witness::now;

/// One of three is dead: nobody notices, and the lease can be taken.
pub fn one_of_three_dead(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let begun = now();
    stage.store.servers[0].server.kill();
    stage.undisturbed(begun, stage.ttl * 2);
    let child = stage.child();
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    let back = now();
    stage.store.restart(0);
    stage.undisturbed(back, stage.ttl * 2);
    stage
}

/// One after the other loses all that it knew, each with time for the holder to tell it again.
pub fn each_of_three_empty_in_turn(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let begun = now();
    for index in 0..3 {
        stage.store.servers[index].server.kill();
        stage.store.servers[index].server.forget();
        stage.store.restart(index);
        stage.lasts(stage.ttl * 3 / 2);
    }
    let time = std::time::Duration::from_nanos(now() - begun);
    stage.undisturbed(begun, time);
    let child = stage.child();
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    stage
}

/// Two of three are dead: nobody runs. Then they are back.
pub fn two_of_three_dead(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, killed) = (stage.child(), now());
    stage.store.servers[0].server.kill();
    stage.store.servers[1].server.kill();
    stage.stops_in_time(&child, killed);
    stage.lasts_until(killed + nanos(stage.ttl * 2));
    stage.nobody_since(killed + nanos(stage.ttl));
    stage.store.restart(0);
    stage.store.restart(1);
    stage.serves_again();
    stage
}

/// The holder is left with one server of three, and the others with two.
pub fn holder_cut_off_with_one_of_three(setup: Setup) -> Stage {
    let mut stage = setup.start();
    let (child, cut) = (stage.child(), now());
    let here = [stage.host(&child.node).clone(), stage.store.servers[0].host.clone()];
    let mut there: Vec<_> = stage.others(&child.node).iter().map(|node| stage.host(node).clone()).collect();
    there.extend(stage.store.servers[1..].iter().map(|seat| seat.host.clone()));
    stage.net.cut(&here, &there);
    stage.stops_in_time(&child, cut + nanos(stage.ttl / 10));
    stage.soon(cut);
    stage.net.mend();
    let mended = now();
    stage.undisturbed(mended, stage.ttl);
    stage
}
