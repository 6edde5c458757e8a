//! What one event costs the model, with few watchers and with many: it should depend on what changes, not on what
//! exists. Prints both times and their ratio.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

#[path = "../tests/support/specs.rs"]
mod specs;

use std::time::{Duration, Instant};

use circus_agent::model::event::{Action, Event, Exit, ProcessEvent, ProcessId};
use circus_agent::model::names::NodeName;
use circus_agent::model::node::Node;
use circus_agent::model::random::Random;
use circus_agent::model::time::Time;

const DEATHS: u32 = 20_000;

fn main() {
    let few = death_and_restart(10);
    let many = death_and_restart(1_000);
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    println!(
        "the model, a death and a restart: {} ns with 10 watchers, {} ns with 1000; ratio {ratio:.1}",
        few.as_nanos(),
        many.as_nanos()
    );
}

/// Lets one process after the other die and start again; the mean time of that.
fn death_and_restart(watchers: usize) -> Duration {
    let name = NodeName::parse("bench").unwrap();
    let specs = (0..watchers).map(|i| specs::watcher(&format!("w{i}"))).collect();
    let mut now = Time::from_nanos(1_000_000_000);
    let mut node = Node::new(specs::agent(&name, specs), Random::from_number(1), now);
    let mut actions = Vec::new();
    node.step(now, Event::Woke, &mut actions);
    let mut alive: Vec<ProcessId> = Vec::new();
    let mut tell = |now: Time, event: Event, alive: &mut Vec<ProcessId>| {
        let mut actions = Vec::new();
        node.step(now, event, &mut actions);
        let spawned = |action: &Action| match action {
            Action::Spawn { process, .. } => Some(*process),
            _ => None,
        };
        alive.extend(actions.iter().filter_map(spawned));
    };
    alive.extend(actions.iter().filter_map(|action| match action {
        Action::Spawn { process, .. } => Some(*process),
        _ => None,
    }));
    for id in alive.clone() {
        tell(now, Event::Process(id, ProcessEvent::Spawned { pid: id.0 as u32 }), &mut alive);
    }
    let start = Instant::now();
    for _ in 0..DEATHS {
        // Each has run for long: its successor starts at once.
        now = now + Duration::from_secs(60);
        let id = alive.remove(0);
        tell(now, Event::Process(id, ProcessEvent::Exited(Exit::Code(1))), &mut alive);
        tell(now, Event::Process(id, ProcessEvent::Gone), &mut alive);
        let id = *alive.last().expect("a successor");
        tell(now, Event::Process(id, ProcessEvent::Spawned { pid: id.0 as u32 }), &mut alive);
    }
    start.elapsed() / DEATHS
}
