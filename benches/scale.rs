//! Two hundred agents on one machine: how long all of them take to answer one question, and what an idle one costs. Then
//! the registry of thousands: what one heartbeat and one reading of all rows cost Redis.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

mod support;

#[path = "../tests/support/redis.rs"]
mod redis_server;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use circus_agent::cluster::scripts;
use redis_server::RedisServer;
use serde_json::{Value, json};
use support::{Agent, PATIENCE, median};

const AGENTS: usize = 200;
/// How often it is asked.
const TIMES: usize = 20;
/// How long an idle cluster is looked at.
const IDLE: Duration = Duration::from_secs(20);

fn main() {
    support::print_load();
    println!("the registry, by the shipped scripts:");
    [200, 1_000, 10_000].into_iter().for_each(registry);
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    let begun = Instant::now();
    let agents: Vec<Agent> = (0..AGENTS).map(|number| agent(dir.path(), number, &redis)).collect();
    println!("{AGENTS} agents started, one after the other, in {:.1} s", begun.elapsed().as_secs_f64());
    wait_for_all(&agents[0]);

    let ping = times(|| drop(redis.command(&["PING"])));
    let one = times(|| drop(agents[0].ask("status", &json!({}))));
    let here = times(|| assert_eq!(answers(&agents[0].ask("status", &json!({"all": true}))), AGENTS));
    let there = times(|| assert_eq!(answers(&through_redis(&redis)), AGENTS));
    println!("baseline: PING, on a connection of its own        p50 {:>8.2} ms   max {:>8.2} ms", ping.0, ping.1);
    println!("status of one agent, from itself                  p50 {:>8.2} ms   max {:>8.2} ms", one.0, one.1);
    println!("status --all, from an agent                       p50 {:>8.2} ms   max {:>8.2} ms", here.0, here.1);
    println!("circusctl status --all, straight through Redis    p50 {:>8.2} ms   max {:>8.2} ms", there.0, there.1);
    println!("{:<50} of all to one, for each node: {:.2}", "", here.0 / one.0 / AGENTS as f64);

    let used = || agents.iter().map(|agent| agent.usage()).collect::<Vec<_>>();
    redis.command(&["CONFIG", "RESETSTAT"]);
    let before = used();
    std::thread::sleep(IDLE);
    let (commands, after) = (commands(&redis), used());
    let cpu: Duration = after.iter().zip(&before).map(|(after, before)| after.since(before).0).sum();
    let each_second = AGENTS as f64 * IDLE.as_secs_f64();
    println!(
        "idle: {:.2} Redis commands and {:.3} ms of a processor for each node and second",
        commands as f64 / each_second,
        cpu.as_secs_f64() * 1e3 / each_second
    );
    let (own, shared): (u64, u64) =
        agents.iter().map(|agent| memory(agent.pid())).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!(
        "memory of an agent: {:.1} MB of its own, {:.1} MB with its share of the program",
        own as f64 / 1e6 / AGENTS as f64,
        shared as f64 / 1e6 / AGENTS as f64
    );
}

/// What so many rows cost: Redis's own time for one heartbeat and for one reading, and what that brings.
fn registry(nodes: usize) {
    let redis = RedisServer::start();
    let mut connection = redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("redis");
    let about = format!(
        r#"{{"version":"0.1.0","host":"node.example.org","pid":12345,"up":86400.0,"config":"0123456789ab","watchers":["{}"]}}"#,
        ["web", "worker", "beat", "mail", "cron"].join("\",\"")
    );
    let mut pipe = redis::pipe();
    for node in 0..nodes {
        let name = format!("node-{node:05}");
        pipe.cmd("EVAL")
            .arg(scripts::BEAT)
            .arg(2)
            .arg(format!("circus:{{scale}}:node:{name}"))
            .arg("circus:{scale}:nodes");
        pipe.arg(format!("{node:032x}")).arg(name).arg("up").arg(&about).arg(6_000).arg(3_600_000).ignore();
    }
    // The first beat of each lists it; what comes later is what costs.
    pipe.query::<()>(&mut connection).expect("beats");
    redis.command(&["CONFIG", "RESETSTAT"]);
    pipe.query::<()>(&mut connection).expect("beats");
    let beat = spent(&redis).as_secs_f64() * 1e6 / nodes as f64;
    redis.command(&["CONFIG", "RESETSTAT"]);
    let mut roster = redis::cmd("EVAL");
    roster.arg(scripts::ROSTER).arg(1).arg("circus:{scale}:nodes").arg("circus:{scale}:node:");
    let rows: Vec<String> = roster.query(&mut connection).expect("the roster");
    assert_eq!(rows.len(), 4 * nodes);
    println!(
        "{nodes:>6} nodes: a heartbeat {beat:>5.1} us of Redis, all of them {:>4.1} % of one core; a reading {:>6.2} ms, {:.2} MB",
        beat / 1e6 * nodes as f64 / 2.0 * 100.0,
        spent(&redis).as_secs_f64() * 1e3,
        rows.iter().map(String::len).sum::<usize>() as f64 / 1e6
    );
}

/// Redis's time for scripts since its statistics were reset.
fn spent(redis: &RedisServer) -> Duration {
    let stats = redis.text(&["INFO", "commandstats"]).expect("statistics");
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_eval:")).expect("scripts");
    let micros = line.split(',').find_map(|field| field.strip_prefix("usec=")).and_then(|text| text.parse().ok());
    Duration::from_micros(micros.expect("a number"))
}

fn agent(dir: &std::path::Path, number: usize, redis: &RedisServer) -> Agent {
    let watchers = "[watcher:web]\ncmd = sleep 100000\n[watcher:beat]\ncmd = sleep 100000\nsingleton = true\n";
    Agent::start(dir, &format!("n{number:03}"), &format!("[redis]\nurl = {}\n{watchers}", redis.url()))
}

/// Waits until every node answers, and all is at rest.
fn wait_for_all(agent: &Agent) {
    let begun = Instant::now();
    while answers(&agent.ask("status", &json!({"all": true}))) < AGENTS {
        assert!(begun.elapsed() < PATIENCE, "not all answer");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(5));
}

/// How many nodes have answered.
fn answers(reply: &Value) -> usize {
    reply["nodes"].as_object().into_iter().flatten().filter(|(_, part)| part["status"] == "ok").count()
}

fn through_redis(redis: &RedisServer) -> Value {
    let words = ["--endpoint", &redis.url(), "--all", "--json", "status"];
    let said = Command::new(env!("CARGO_BIN_EXE_circusctl")).args(words).output().expect("circusctl");
    serde_json::from_slice(&said.stdout).expect("a reply")
}

/// Median and longest, in milliseconds.
fn times(mut ask: impl FnMut()) -> (f64, f64) {
    let mut time = || {
        let begun = Instant::now();
        ask();
        begun.elapsed()
    };
    let times: Vec<Duration> = (0..TIMES).map(|_| time()).collect();
    let longest = times.iter().max().copied().unwrap_or_default();
    (median(&times).as_secs_f64() * 1e3, longest.as_secs_f64() * 1e3)
}

/// How many commands Redis was given since its statistics were reset; what scripts call is not given.
fn commands(redis: &RedisServer) -> u64 {
    let stats = redis.text(&["INFO", "commandstats"]).expect("statistics");
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    ["evalsha", "eval", "ping", "publish", "subscribe", "script|load"].map(calls).iter().sum()
}

/// What a process has of memory in bytes: for itself alone, and with its part of what several share.
fn memory(pid: u32) -> (u64, u64) {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running agent");
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    (field("Private_Clean:") + field("Private_Dirty:"), field("Pss:"))
}
