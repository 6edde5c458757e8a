//! What it costs to watch: a thousand processes measured each second, beside one direct look at the same files.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Agent, PATIENCE, median, print};

const PROCESSES: usize = 1_000;
const FRAMES: u32 = 10;
const ROUNDS: usize = 10;
const IDLE: Duration = Duration::from_secs(5);

fn main() {
    support::print_load();
    let dir = tempfile::tempdir().expect("a directory");
    let config = format!("[watcher:web]\ncmd = /bin/sleep 1000\nnumprocesses = {PROCESSES}\n");
    let agent = Agent::start(dir.path(), "many", &config);
    let pids = comes_up(&agent);

    let looks: Vec<Duration> = (0..ROUNDS).map(|_| look(&pids)).collect();
    print("baseline: one direct look at 1000 processes", &looks);

    let before = agent.usage();
    std::thread::sleep(IDLE);
    let idle = agent.usage().since(&before).0 / IDLE.as_secs() as u32;
    println!("agent: nobody watches, {:.3} ms of a processor each second", idle.as_secs_f64() * 1e3);

    let mut streams = vec![watch(&agent)];
    let one = cost(&agent, &mut streams);
    println!("agent: one watches, {:.1} ms of a processor for each frame", one.as_secs_f64() * 1e3);
    println!("{:<58} ratio to the median of a look {:.1}", "", one.as_secs_f64() / median(&looks).as_secs_f64());
    streams.extend((1..10).map(|_| watch(&agent)));
    let ten = cost(&agent, &mut streams);
    println!("agent: ten watch, {:.1} ms of a processor for each frame", ten.as_secs_f64() * 1e3);
}

/// Waits until all processes run: their pids.
fn comes_up(agent: &Agent) -> Vec<u64> {
    let begun = Instant::now();
    loop {
        let listed = agent.ask("list", &json!({"name": "web"}));
        let pids: Vec<u64> = listed["pids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        if pids.len() == PROCESSES {
            return pids;
        }
        assert!(begun.elapsed() < PATIENCE, "not all processes come up");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads once what a frame is made of, and makes nothing of it.
fn look(pids: &[u64]) -> Duration {
    let begun = Instant::now();
    for pid in pids {
        for file in ["stat", "cmdline", "io"] {
            fs::read(format!("/proc/{pid}/{file}")).expect("a process");
        }
        fs::metadata(format!("/proc/{pid}/fd")).expect("a process");
    }
    begun.elapsed()
}

fn watch(agent: &Agent) -> BufReader<UnixStream> {
    let path = agent.endpoint();
    let mut stream = UnixStream::connect(path.trim_start_matches("unix://")).expect("a socket");
    writeln!(stream, "{}", json!({"command": "stats", "properties": {"follow": true}})).expect("a request");
    let mut stream = BufReader::new(stream);
    frame(&mut stream);
    frame(&mut stream);
    stream
}

fn frame(stream: &mut BufReader<UnixStream>) {
    stream.read_line(&mut String::new()).expect("a frame");
}

/// What the agent uses for each frame.
fn cost(agent: &Agent, streams: &mut [BufReader<UnixStream>]) -> Duration {
    let before = agent.usage();
    for _ in 0..FRAMES {
        streams.iter_mut().for_each(frame);
    }
    agent.usage().since(&before).0 / FRAMES
}
