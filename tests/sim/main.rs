//! Never two, and soon one again: the model against a world of faults, a seed at a time.
//!
//! `CIRCUS_SEEDS=N` runs N seeds, `CIRCUS_SEED=N` just that one. A seed that fails is printed; it fails again the same way.

#[path = "../support/lease_cases.rs"]
#[macro_use]
mod lease_cases;
#[path = "../support/simulated_redis.rs"]
mod simulated_redis;
#[path = "../support/specs.rs"]
mod specs;

mod cases;
mod child;
mod faults;
mod host;
mod network;
mod plants;
mod queue;
mod store;
mod witness;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use plants::Plant;
use witness::Report;
use world::World;

/// What is seen: two at once, or none for too long.
const TWO: &str = "while that of host";
const NONE: &str = "nobody runs";
/// Ttls of faults in each run.
const FAULTS: u32 = 60;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs seeds on all cores; stops at the first that breaks a promise.
fn run(seeds: std::ops::Range<u64>, plant: Plant) -> (Report, Option<u64>) {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((Report::default(), None::<u64>));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || total.lock().unwrap().1.is_some() {
                        return;
                    }
                    let report = World::new(seed, plant).run(FAULTS);
                    let mut total = total.lock().unwrap();
                    total.0.steps += report.steps;
                    total.0.children += report.children;
                    if !report.broken.is_empty() && total.1.is_none_or(|first| seed < first) {
                        *total = (Report { broken: report.broken, ..std::mem::take(&mut total.0) }, Some(seed));
                    }
                }
            });
        }
    });
    total.into_inner().unwrap()
}

#[test]
fn never_two_and_soon_one_again_over_a_million_steps() {
    let seeds = match setting("CIRCUS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("CIRCUS_SEEDS").unwrap_or(200),
    };
    let whole = seeds.end - seeds.start >= 200;
    let (report, seed) = run(seeds, Plant::Nothing);
    assert!(seed.is_none(), "CIRCUS_SEED={}: {}", seed.unwrap(), report.broken.join("\n"));
    println!("{} steps, {} children", report.steps, report.children);
    assert!(!whole || report.steps >= 1_000_000, "only {} steps: the faults have become too few", report.steps);
}

fn must_be_seen(plant: Plant, as_what: &str) {
    let (report, seed) = run(0..3_000, plant);
    assert!(seed.is_some(), "{plant:?} went unseen in {} steps", report.steps);
    assert!(report.broken[0].contains(as_what), "{:?} was taken for something else", report.broken);
}

#[test]
fn validity_counted_from_the_answer_is_seen() {
    must_be_seen(Plant::CountFromAnswer, TWO);
}

#[test]
fn a_release_before_the_tree_is_gone_is_seen() {
    must_be_seen(Plant::ReleaseBeforeGone, TWO);
}

#[test]
fn an_absent_key_taken_for_permission_is_seen() {
    must_be_seen(Plant::AbsentIsPermission, TWO);
}

#[test]
fn a_guard_that_does_not_know_the_deadline_is_seen() {
    must_be_seen(Plant::NoDeadline, TWO);
}

#[test]
fn sockets_of_which_nothing_is_heard_any_more_are_seen() {
    must_be_seen(Plant::LostFailure, NONE);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let report = World::new(seed, Plant::Nothing).run(FAULTS);
        (report.steps, report.children)
    };
    assert_eq!(run(7), run(7));
}
