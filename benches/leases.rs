//! A thousand leases over three agents: what they cost Redis, and how soon all run again when an agent is killed.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

mod support;

#[path = "../tests/support/redis.rs"]
mod redis_server;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use redis_server::RedisServer;
use support::{Agent, Line, child_command, lines, now};

const LEASES: usize = 1_000;
const TTL: Duration = Duration::from_secs(15);
/// How long the cost of keeping them is measured.
const KEPT: Duration = Duration::from_secs(20);
/// What no call may take: others wait meanwhile.
const LONGEST: Duration = Duration::from_millis(2);

fn main() {
    support::be_the_child_if_called_so();
    support::print_load();
    let redis = RedisServer::start_with(None, &["--slowlog-log-slower-than", "500", "--slowlog-max-len", "100000"]);
    goes_first(&redis);
    baseline(&redis);
    let dir = tempfile::tempdir().expect("a directory");
    let each = bare_starts(&dir.path().join("bare"));
    println!("baseline: fork and exec, {:.2} ms for each of as many children", each.as_secs_f64() * 1e3);
    let log = dir.path().join("children");
    let mut agents: Vec<Agent> = ["a", "b", "c"].map(|name| agent(dir.path(), name, &redis, &log)).into();
    wait_until(&log, "all leases are held", |running| running.len() == LEASES);

    redis.command(&["CONFIG", "RESETSTAT"]);
    redis.command(&["SLOWLOG", "RESET"]);
    std::thread::sleep(KEPT);
    let (calls, spent) = scripts(&redis);
    println!(
        "kept: {:.1} calls a second, {:.2} ms of Redis each second, {:.2} us for each lease and refresh",
        calls as f64 / KEPT.as_secs_f64(),
        spent.as_secs_f64() * 1e3 / KEPT.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / (LEASES as f64 * KEPT.as_secs_f64() / (TTL.as_secs_f64() / 3.0)),
    );
    slowest(&redis);

    redis.command(&["SLOWLOG", "RESET"]);
    let holds = |agent: &Agent| running(&lines(&log)).values().filter(|life| life.node == agent.name).count();
    let most = (0..agents.len()).max_by_key(|at| holds(&agents[*at])).expect("an agent");
    let (held, name) = (holds(&agents[most]), agents[most].name.clone());
    let killed = agents[most].kill();
    wait_until(&log, "all leases are held elsewhere", |running| {
        running.len() == LEASES && running.values().all(|life| life.node != name)
    });
    let moved = lines(&log);
    let starts =
        || moved.iter().filter(|line| line.start && line.at > killed).map(|line| (line.at - killed).as_secs_f64());
    let (first, last) = (starts().fold(f64::INFINITY, f64::min), starts().fold(0.0, f64::max));
    println!(
        "killed: {held} leases of {LEASES} moved, the first child {first:.2} s after the kill, the last {last:.2} s; the ttl \
         is {} s, and so many children need {:.2} s by fork and exec alone",
        TTL.as_secs(),
        each.as_secs_f64() * held as f64
    );
    slowest(&redis);
}

/// Lets Redis run before all others, as it does on a machine of its own: a thousand children that start at once would
/// otherwise take its processor away in the middle of a call, and the call would seem to last.
fn goes_first(redis: &RedisServer) {
    let pid = redis.pid().to_string();
    let done = Command::new("chrt").args(["--all-tasks", "--fifo", "--pid", "1", &pid]).status();
    if !done.is_ok_and(|status| status.success()) {
        println!("without the right to put Redis before others: its calls seem longer than they are");
    }
}

fn agent(dir: &Path, name: &str, redis: &RedisServer, log: &Path) -> Agent {
    let watcher = |at| format!("[watcher:w{at}]\ncmd = {}\nsingleton = true\n", child_command(log));
    let watchers: String = (0..LEASES).map(watcher).collect();
    let redis = format!("[redis]\nurl = {}\nlease_ttl = {}\n", redis.url(), TTL.as_secs());
    Agent::start(dir, name, &(redis + &watchers))
}

/// How long a child takes to start where somebody only starts one after the other.
fn bare_starts(log: &Path) -> Duration {
    let command = child_command(log);
    let words: Vec<&str> = command.split(' ').collect();
    let begun = Instant::now();
    let start = |_| Command::new(words[0]).args(&words[1..]).spawn().expect("the child");
    let children: Vec<Child> = (0..LEASES).map(start).collect();
    wait_until(log, "all bare children run", |_| lines(log).len() == LEASES);
    let last = lines(log).into_iter().map(|line| line.at).max().expect("a start");
    let taken = begun.elapsed() - (now() - last);
    for mut child in children {
        child.kill().and_then(|()| child.wait()).expect("its end");
    }
    taken / LEASES as u32
}

/// What the same number of keys costs that are simply set to expire later, one command each.
fn baseline(redis: &RedisServer) {
    let mut connection = redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("redis");
    let each = |command: &dyn Fn(usize) -> redis::Cmd| {
        let mut pipe = redis::pipe();
        for at in 0..LEASES {
            pipe.add_command(command(at)).ignore();
        }
        pipe
    };
    let named = |verb: &str, at: usize| redis::cmd(verb).arg(format!("baseline:{at}")).to_owned();
    each(&|at| named("SET", at).arg("1").to_owned()).query::<()>(&mut connection).expect("SET");
    redis.command(&["CONFIG", "RESETSTAT"]);
    each(&|at| named("PEXPIRE", at).arg(15_000).to_owned()).query::<()>(&mut connection).expect("PEXPIRE");
    let spent = stat(redis, "pexpire").1;
    println!("baseline: PEXPIRE, {:.2} us of Redis for each key", spent.as_secs_f64() * 1e6 / LEASES as f64);
}

/// How often a command was called since the statistics were reset, and what Redis spent on it.
fn stat(redis: &RedisServer, command: &str) -> (u64, Duration) {
    let stats = redis.text(&["INFO", "commandstats"]).expect("statistics");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
    let field = |name: &str| {
        let fields = line?.split(',').find_map(|field| field.strip_prefix(name));
        fields?.strip_prefix('=')?.parse::<u64>().ok()
    };
    (field("calls").unwrap_or(0), Duration::from_micros(field("usec").unwrap_or(0)))
}

fn scripts(redis: &RedisServer) -> (u64, Duration) {
    let (by_hash, by_text) = (stat(redis, "evalsha"), stat(redis, "eval"));
    (by_hash.0 + by_text.0, by_hash.1 + by_text.1)
}

/// Prints how long Redis was busy at once with one command, at most.
fn slowest(redis: &RedisServer) {
    let entries: Vec<Vec<redis::Value>> =
        redis::from_redis_value(redis.command(&["SLOWLOG", "GET", "-1"])).expect("the slow log");
    let times = entries.iter().filter_map(|entry| match entry.get(2) {
        Some(redis::Value::Int(micros)) => Some(Duration::from_micros(micros.unsigned_abs())),
        _ => None,
    });
    let over = times.clone().filter(|time| *time > LONGEST).count();
    match times.max() {
        Some(longest) => println!("      the slowest call {:.2} ms, {over} above 2 ms", longest.as_secs_f64() * 1e3),
        None => println!("      no call above 0.5 ms"),
    }
}

/// The life of each lease's present child.
fn running(lines: &[Line]) -> BTreeMap<&str, &Line> {
    let mut running = BTreeMap::new();
    // Who is killed says nothing of its end, and its successor counts.
    for line in lines {
        if line.start {
            running.insert(line.watcher.as_str(), line);
        } else {
            running.remove(line.watcher.as_str());
        }
    }
    running
}

fn wait_until(log: &Path, what: &str, done: impl Fn(&BTreeMap<&str, &Line>) -> bool) {
    let (begun, before) = (Instant::now(), now());
    while !done(&running(&lines(log))) {
        assert!(begun.elapsed() < 8 * TTL, "{what}: not within {:?}", now() - before);
        // The record grows long, and to read it takes time from those that are measured.
        std::thread::sleep(Duration::from_millis(500));
    }
}
