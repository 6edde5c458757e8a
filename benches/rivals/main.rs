//! The same faults for others that keep a process alone in a cluster, BeatCop and single-beat, beside this agent: two
//! nodes and a Redis on hosts of their own, one witness for all.
//!
//! `make rivals` prints the table of docs/guarantees.md. What the others do is measured; of this agent it is demanded.
//! `RIVALS_RUNS=5` says how often each fault is played, `RIVALS_AT_ONCE=6` how many of them go on beside each other;
//! `cargo bench --bench rivals -- frozen` plays those alone that have this word in their name.

#![allow(clippy::print_stdout)] // What was measured is told.
#![allow(dead_code, unreachable_pub)] // What is shared with tests is theirs, and used in part.

#[path = "../../tests/support/agent.rs"]
mod agent;
#[path = "../../tests/chaos/net.rs"]
mod net;
#[path = "../../tests/support/redis.rs"]
mod redis_server;
#[path = "../../tests/chaos/verdict.rs"]
mod verdict;
#[path = "../../tests/support/witness.rs"]
mod witness;

mod stage;

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use stage::{Outcome, RIVALS, Rival, Stage};

/// One fault, done when one node runs the child and the other one waits.
struct Scenario {
    name: &'static str,
    /// Options of witness.py.
    child: &'static str,
    fault: fn(&mut Stage),
    /// For how long it is watched, from when the fault began.
    watched: Duration,
}

const fn scenario(name: &'static str, child: &'static str, watched: u64, fault: fn(&mut Stage)) -> Scenario {
    Scenario { name, child, fault, watched: Duration::from_secs(watched) }
}

/// Three times what all of them call their ttl.
const LONG: Duration = Duration::from_secs(15);

const SCENARIOS: &[Scenario] = &[
    scenario("holder asked to end (SIGTERM)", "", 12, |stage| stage.end_holder(libc::SIGTERM)),
    scenario("… while its child ignores SIGTERM", "stubborn", 25, |stage| stage.end_holder(libc::SIGTERM)),
    scenario("… while its child has detached grandchildren", "kid", 12, |stage| stage.end_holder(libc::SIGTERM)),
    scenario("holder killed (SIGKILL)", "", 15, |stage| stage.end_holder(libc::SIGKILL)),
    scenario("holder stopped for 15 s (SIGSTOP)", "", 25, |stage| {
        stage.signal_holder(libc::SIGSTOP);
        thread::sleep(LONG);
        stage.signal_holder(libc::SIGCONT);
    }),
    scenario("holder cut off for 20 s, packets vanish", "", 30, |stage| {
        stage.cut_off_holder();
        thread::sleep(Duration::from_secs(20));
        stage.net.mend();
    }),
    scenario("Redis killed, restarted empty at once", "", 15, |stage| {
        stage.redis.kill();
        stage.restart_redis();
    }),
    scenario("Redis away for 4 s, comes back empty", "", 25, |stage| {
        stage.redis.kill();
        thread::sleep(Duration::from_secs(4));
        stage.restart_redis();
    }),
    scenario("Redis frozen for 15 s", "", 25, |stage| {
        stage.redis.freeze();
        thread::sleep(LONG);
        stage.redis.thaw();
    }),
    scenario("key of the lock deleted", "", 12, |stage| {
        assert_eq!(stage.redis.number(&["DEL", stage.rival.key()]), 1, "the lock of {}", stage.rival.name());
    }),
];

/// A number from the environment.
fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut asked: Vec<usize> = (0..SCENARIOS.len()).collect();
    asked.retain(|at| words.is_empty() || words.iter().any(|word| SCENARIOS[*at].name.contains(word)));
    let mut plays: Vec<(usize, Rival)> = Vec::new();
    for _ in 0..setting("RIVALS_RUNS", 5) {
        plays.extend(asked.iter().flat_map(|at| RIVALS.map(|rival| (*at, rival))));
    }
    let plays = Mutex::new(plays.into_iter());
    let outcomes: Mutex<Vec<(usize, Rival, Outcome)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..setting("RIVALS_AT_ONCE", 6) {
            scope.spawn(|| {
                loop {
                    let Some((at, rival)) = plays.lock().expect("the plays").next() else { return };
                    let Scenario { name, child, fault, watched } = SCENARIOS[at];
                    let outcome = Stage::start(rival, child).play(fault, watched);
                    println!("{name} | {} | {outcome:?}", rival.name());
                    outcomes.lock().expect("the outcomes").push((at, rival, outcome));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("the outcomes");
    let of = |at: usize, rival: Rival| -> Vec<Outcome> {
        outcomes.iter().filter(|one| (one.0, one.1) == (at, rival)).map(|one| one.2.clone()).collect()
    };
    println!("\n| | {} |\n|---|---|---|---|", RIVALS.map(Rival::name).join(" | "));
    for at in &asked {
        println!("| {} | {} |", SCENARIOS[*at].name, RIVALS.map(|rival| stage::tell(&of(*at, rival))).join(" | "));
    }
    for at in asked {
        for outcome in of(at, Rival::Agent) {
            assert!(outcome.is_good(), "{}: {outcome:?}", SCENARIOS[at].name);
        }
    }
}
