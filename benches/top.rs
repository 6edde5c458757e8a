//! What a frame of circus-top costs, with 200 nodes of 50 processes each, beside what it costs to write the same processes
//! as lines of text. Only what shows is drawn, so that the first should not grow with what exists as the second does.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

#[path = "../tests/support/frames.rs"]
mod frames;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use circus_agent::model::stats::NodeStats;
use circus_agent::view::top::{self, Key, Screen};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const NODES: usize = 200;
const ROUNDS: u32 = 200;

fn main() {
    for (watchers, processes) in [(10, 5), (1_000, 1)] {
        let nodes = nodes(watchers, processes);
        let mut screen = Screen::new(frames::settings());
        let take = timed(1, || nodes.iter().for_each(|stats| screen.frame(stats.clone(), frames::now(0))));
        let area = Rect::new(0, 0, 120, 40);
        let mut buffer = Buffer::empty(area);
        let mut draw = |screen: &Screen| timed(ROUNDS, || top::draw(screen, frames::now(0), area, &mut buffer));
        let closed = draw(&screen);
        for key in [Key::Enter, Key::Down, Key::Enter] {
            screen.key(key, frames::now(0));
        }
        let open = draw(&screen);
        "/celery and cpu>0".chars().for_each(|c| drop(screen.key(Key::Char(c), frames::now(0))));
        let filtered = draw(&screen);
        let text = timed(ROUNDS.min(20), || drop(std::hint::black_box(plain(&nodes))));
        println!(
            "circus-top, {NODES} nodes with {watchers} watchers of {processes}: a frame {} ms, with a watcher open {} ms, \
             filtered by its processes {} ms; their {} processes as plain text {} ms; all frames of a second taken in {} ms",
            ms(closed),
            ms(open),
            ms(filtered),
            NODES * watchers * processes,
            ms(text),
            ms(take),
        );
    }
}

fn nodes(watchers: usize, processes: usize) -> Vec<NodeStats> {
    let watcher = |i: usize| frames::watcher(&format!("watcher-{i}"), &vec![i as f64 % 90.0 + 1.0; processes]);
    (0..NODES).map(|i| frames::node(&format!("node-{i}"), (0..watchers).map(watcher).collect())).collect()
}

/// Every process as a line.
fn plain(nodes: &[NodeStats]) -> String {
    let mut text = String::new();
    for stats in nodes {
        for watcher in &stats.watchers {
            for process in &watcher.processes {
                let used = process.used;
                let (node, name, program) = (&stats.node, &watcher.name, &process.program);
                writeln!(
                    text,
                    "{node:<20} {name:<20} {:>3} {:>7} {program:<20} {:>6.1} {:>12} {:>10.1} {}",
                    process.wid,
                    process.pid,
                    used.cpu,
                    used.resident,
                    process.age.as_secs_f64(),
                    process.state
                )
                .expect("a string");
            }
        }
    }
    text
}

fn timed(rounds: u32, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..rounds).for_each(|_| work());
    start.elapsed() / rounds
}

fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1_000.0)
}
