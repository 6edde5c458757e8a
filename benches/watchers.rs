//! A thousand watchers under one agent: started, idle, asked after and stopped, each beside what the same machine needs,
//! in the same run, for the same thousand children without an agent.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Agent, PATIENCE, median, print};

const WATCHERS: usize = 1_000;
/// What all of them run: it does nothing, so that only the agent is measured.
const PROGRAM: &str = "/bin/sleep";
const ROUNDS: usize = 3;
const IDLE: Duration = Duration::from_secs(5);
const QUESTIONS: usize = 20;

fn main() {
    support::print_load();
    let dir = tempfile::tempdir().expect("a directory");
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let children = (0..WATCHERS).map(|_| spawn()).collect::<Vec<_>>();
        starts.push(begun.elapsed());
        let begun = Instant::now();
        end(children);
        stops.push(begun.elapsed());
    }
    print("baseline: 1000 children, one after the other", &starts);
    print("baseline: SIGTERM to all, and all reaped", &stops);

    let one = agent(dir.path(), "one", 1, "").memory();
    let begun = Instant::now();
    let many = agent(dir.path(), "many", WATCHERS, "");
    print("agent: from its own start to 1000 watchers up", &[begun.elapsed()]);
    let used = many.memory();
    println!(
        "agent: resident memory with 1 watcher {:.1} MB, with 1000 {:.1} MB: {:.1} KB for each",
        one as f64 / 1e6,
        used as f64 / 1e6,
        (used - one) as f64 / 1e3 / (WATCHERS - 1) as f64
    );
    let before = many.usage();
    std::thread::sleep(IDLE);
    println!(
        "agent: idle, {:.3} ms of a processor each second",
        many.usage().since(&before).0.as_secs_f64() * 1e3 / IDLE.as_secs_f64()
    );

    let version = asked(&many, &["version"]);
    print("baseline: circusctl version", &version);
    for words in [&["status"][..], &["list"], &["status", "w500"]] {
        let times = asked(&many, words);
        print(&format!("circusctl {}", words.join(" ")), &times);
        ratio(&times, &version);
    }

    let (mut agent_starts, mut agent_stops) = (Vec::new(), Vec::new());
    let before = many.usage();
    for _ in 0..ROUNDS {
        agent_stops.push(command(&many, "stop"));
        agent_starts.push(command(&many, "start"));
    }
    let rounds = many.usage().since(&before).0 / ROUNDS as u32;
    print("agent: start of 1000 watchers, until all are up", &agent_starts);
    ratio(&agent_starts, &starts);
    print("agent: stop of 1000 watchers, until all are down", &agent_stops);
    ratio(&agent_stops, &stops);
    println!(
        "agent: {:.3} ms of a processor to stop and start one watcher",
        rounds.as_secs_f64() * 1e3 / WATCHERS as f64
    );
    print("agent: restart of 1000 watchers, until all are up", &[command(&many, "restart")]);
    let begun = Instant::now();
    drop(many);
    print("agent: SIGTERM, until it has stopped all and ended", &[begun.elapsed()]);

    let ordered = agent(dir.path(), "ordered", WATCHERS, "after = w0\n");
    print("agent: stop where 999 come after one", &[command(&ordered, "stop")]);
    print("agent: start where 999 come after one", &[command(&ordered, "start")]);
}

fn spawn() -> Child {
    let null = || Stdio::null();
    let mut command = Command::new(PROGRAM);
    command.arg("1000").stdin(null()).stdout(null()).stderr(null()).spawn().expect("a child")
}

fn end(children: Vec<Child>) {
    for child in &children {
        // SAFETY: kill takes two numbers.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    }
    for mut child in children {
        child.wait().expect("a child");
    }
}

/// An agent with so many watchers, all of them up; `more` is for all but the first.
fn agent(dir: &Path, name: &str, watchers: usize, more: &str) -> Agent {
    let more = |number| if number == 0 { "" } else { more };
    let watcher = |number| format!("[watcher:w{number}]\ncmd = {PROGRAM} 1000\n{}", more(number));
    let agent = Agent::start(dir, name, &(0..watchers).map(watcher).collect::<String>());
    comes_up(&agent);
    agent
}

/// Waits until all watchers are up; asked seldom, so that the asking costs little.
fn comes_up(agent: &Agent) {
    let begun = Instant::now();
    let up = |status: Value| {
        let states = status["statuses"].as_object().map(|states| states.values().all(|state| state == "active"));
        states == Some(true) && status["phase"] == "running"
    };
    while !up(agent.ask("status", &json!({}))) {
        assert!(begun.elapsed() < PATIENCE, "not all watchers come up");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long a command takes that waits for all watchers.
fn command(agent: &Agent, name: &str) -> Duration {
    let begun = Instant::now();
    let reply = agent.ask(name, &json!({"waiting": true}));
    assert_eq!(reply["status"], "ok", "{reply}");
    begun.elapsed()
}

/// How long circusctl takes to ask this, and to print the answer.
fn asked(agent: &Agent, words: &[&str]) -> Vec<Duration> {
    let ask = |_| {
        let begun = Instant::now();
        let mut circusctl = Command::new(env!("CARGO_BIN_EXE_circusctl"));
        circusctl.args(["--endpoint", &agent.endpoint()]).args(words).stdout(Stdio::null());
        assert!(circusctl.status().expect("circusctl").success(), "circusctl {words:?}");
        begun.elapsed()
    };
    (0..QUESTIONS).map(ask).collect()
}

fn ratio(times: &[Duration], baseline: &[Duration]) {
    println!("{:<58} ratio of the medians {:.1}", "", median(times).as_secs_f64() / median(baseline).as_secs_f64());
}
