//! How long nobody runs when a singleton moves, on loopback, with a real redis-server and real agents.
//!
//! Each figure stands beside what the same machine needs, in the same run, for the same thing without an agent.

#![allow(clippy::print_stdout)]

mod support;

#[path = "../tests/support/redis.rs"]
mod redis_server;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use redis_server::RedisServer;
use serde_json::json;
use support::{Agent, PATIENCE, child_command, death_of, lines, now, print, wait_for};

const MOVES: usize = 100;
const KILLS: usize = 20;
/// Of the kills, which each take about a ttl.
const TTL: Duration = Duration::from_secs(3);

fn main() {
    support::be_the_child_if_called_so();
    // `cargo bench --bench handover -- kills` runs that part alone.
    let named: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    support::print_load();
    let redis = RedisServer::start();
    let dir = tempfile::tempdir().expect("a directory");
    baseline(&redis, dir.path());
    if wanted("moves") {
        moves(&redis, dir.path());
    }
    if wanted("kills") {
        kills(&redis, dir.path());
    }
}

/// What cannot be saved: a key freed and taken, and a program started.
fn baseline(redis: &RedisServer, dir: &Path) {
    let log = dir.join("baseline");
    let mut connection = redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("redis");
    let command = child_command(&log);
    let words: Vec<&str> = command.split(' ').collect();
    let mut gaps = Vec::new();
    for done in 0..MOVES {
        let _: redis::Value = redis::cmd("SET")
            .arg("baseline")
            .arg("1")
            .arg("NX")
            .arg("PX")
            .arg(15_000)
            .query(&mut connection)
            .expect("SET");
        let from = now();
        let _: redis::Value = redis::cmd("DEL").arg("baseline").query(&mut connection).expect("DEL");
        let _: redis::Value = redis::cmd("SET")
            .arg("baseline")
            .arg("2")
            .arg("NX")
            .arg("PX")
            .arg(15_000)
            .query(&mut connection)
            .expect("SET");
        let mut child = Command::new(words[0]).args(&words[1..]).spawn().expect("the child");
        let started = wait_for(&log, "the child starts", |lines| {
            lines.iter().filter(|line| line.start).nth(done).map(|line| line.at)
        });
        gaps.push(started - from);
        let _: redis::Value = redis::cmd("DEL").arg("baseline").query(&mut connection).expect("DEL");
        child.kill().expect("SIGKILL");
        child.wait().expect("the child");
    }
    print("baseline: DEL, SET NX, fork and exec, no agent", &gaps);
}

fn agents(
    redis: &RedisServer,
    dir: &Path,
    cluster: &str,
    names: &[&str],
    ttl: Duration,
) -> (Vec<Agent>, std::path::PathBuf) {
    let log = dir.join(cluster);
    let ini = ini(redis, &log, cluster, ttl);
    let start = |name: &&str| Agent::start(dir, &format!("{cluster}-{name}"), &ini);
    (names.iter().map(start).collect(), log)
}

fn ini(redis: &RedisServer, log: &Path, cluster: &str, ttl: Duration) -> String {
    format!(
        "cluster = {cluster}\n[redis]\nurl = {}\nlease_ttl = {}\n[watcher:child]\ncmd = {}\nsingleton = true\n",
        redis.url(),
        ttl.as_secs_f64(),
        child_command(log)
    )
}

/// `circusctl failover`, from the last word of the old child to the first one of the new. Takes four minutes: who gave
/// a lease away stands back for two seconds, and more agents than two would get in each other's way on one machine.
fn moves(redis: &RedisServer, dir: &Path) {
    let (agents, log) = agents(redis, dir, "moves", &["a", "b"], Duration::from_secs(15));
    let mut holder = wait_for(&log, "somebody starts", |lines| lines.first().map(|line| line.node.clone()));
    let (mut gaps, mut whole) = (Vec::new(), Vec::new());
    while gaps.len() < MOVES {
        std::thread::sleep(Duration::from_millis(300));
        let at = agents.iter().position(|agent| agent.name == holder).expect("a holder");
        let to = &agents[(at + 1) % agents.len()].name;
        let before = lines(&log).len();
        let begun = Instant::now();
        let asked = loop {
            let asked = now();
            let reply = agents[at].ask("failover", &json!({"name": "child", "to": to, "waiting": true}));
            if reply["status"] == "ok" {
                break asked;
            }
            assert!(begun.elapsed() < PATIENCE, "{reply}");
            std::thread::sleep(Duration::from_millis(100));
        };
        let next = wait_for(&log, "the next one starts", |lines| lines.get(before + 1).cloned());
        let ended = lines(&log)[before].clone();
        assert!(!ended.start && next.start, "{ended:?} {next:?}");
        gaps.push(next.at - ended.at);
        whole.push(next.at - asked);
        holder = next.node;
    }
    print("failover: the old child's end to the new one's start", &gaps);
    print("failover: the command to the new child's start", &whole);
}

/// SIGKILL to the agent that holds.
fn kills(redis: &RedisServer, dir: &Path) {
    let (mut agents, log) = agents(redis, dir, "kills", &["a", "b"], TTL);
    let mut connection = redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("redis");
    let ini = ini(redis, &log, "kills", TTL);
    let (mut deaths, mut nexts, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    for done in 0..KILLS {
        let child = wait_for(&log, "somebody starts", |lines| lines.get(done).cloned());
        // At any time of the refresh's round.
        std::thread::sleep(Duration::from_millis(500 + 137 * done as u64 % 1_000));
        let at = agents.iter().position(|agent| agent.name == child.node).expect("a holder");
        let watch = std::thread::spawn(move || death_of(child.pid));
        std::thread::sleep(Duration::from_millis(20));
        let killed = agents[at].kill();
        // Afterwards: a refresh just before would count for nothing.
        let left: u64 = redis::cmd("PTTL").arg("circus:{kills/child}:lease").query(&mut connection).expect("the lease");
        let end = now() + Duration::from_millis(left);
        deaths.push(watch.join().expect("its death") - killed);
        let next = wait_for(&log, "the next one starts", |lines| lines.get(done + 1).cloned());
        nexts.push(next.at - killed);
        beyond.push(next.at.saturating_sub(end));
        let name = agents[at].name.clone();
        agents.remove(at);
        agents.push(Agent::start(dir, &name, &ini));
    }
    print("agent SIGKILL: to its child's death", &deaths);
    print(&format!("agent SIGKILL: to the next child's start, ttl {} s", TTL.as_secs()), &nexts);
    print("agent SIGKILL: from the lease's end to the next start", &beyond);
}
