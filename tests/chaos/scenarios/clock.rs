//! Wall clocks step by hours.

use crate::stage::{Setup, Stage, nanos};
use crate::witness::now;

const HOURS: i64 = 5 * 3600;

/// Redis's clock steps ahead, over and over: each lease there is over at once, by that clock.
pub fn redis_steps_ahead(setup: Setup) -> Stage {
    redis_steps(setup, HOURS)
}

/// Redis's clock steps back: each lease there lasts for hours, by that clock.
pub fn redis_steps_back(setup: Setup) -> Stage {
    redis_steps(setup, -HOURS)
}

/// Nobody who has seen the holder alive takes its lease: nothing is noticed. And when the holder is killed, another one
/// runs as soon as ever.
fn redis_steps(setup: Setup, by: i64) -> Stage {
    let mut stage = setup.with_clocks().start();
    let begun = now();
    for step in 1..=8 {
        stage.clocks().0.step_to(step * by);
        // At another point between two refreshes each time.
        stage.lasts(stage.ttl * 7 / 10);
    }
    stage.undisturbed(begun, stage.ttl * 56 / 10);
    let child = stage.child();
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    stage
}

/// Redis's clock steps back at the moment at which the holder is killed, so that nobody corrects what was recorded: who
/// waits notices at its next question, within a ttl, and from then on the lease has one ttl left as ever.
pub fn redis_steps_back_as_the_holder_is_killed(setup: Setup) -> Stage {
    let mut stage = setup.with_clocks().start();
    let child = stage.child();
    stage.clocks().0.step_to(-HOURS);
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed + nanos(stage.ttl));
    stage
}

/// The clocks of all agents step, ahead and back: nothing is noticed.
pub fn agents_step(setup: Setup) -> Stage {
    let mut stage = setup.with_clocks().start();
    let begun = now();
    for by in [HOURS, -HOURS, 0] {
        stage.clocks().1.step_to(by);
        stage.lasts(stage.ttl);
    }
    let time = now() - begun;
    stage.undisturbed(begun, std::time::Duration::from_nanos(time));
    let child = stage.child();
    stage.clocks().1.step_to(HOURS);
    let killed = stage.kill_agent(&child.node);
    stage.soon(killed);
    assert!(killed - begun >= nanos(stage.ttl), "the steps took no time");
    stage
}
