//! How long a child that died is missing: replaced by an agent, beside a loop that does nothing else.

#![allow(clippy::print_stdout)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Agent, child_command, death_of, lines, median, now, print, wait_for};

/// Each process is killed once: only the first end in a row is followed by a start at once.
const PROCESSES: usize = 100;

fn main() {
    support::be_the_child_if_called_so();
    support::print_load();
    let dir = tempfile::tempdir().expect("a directory");
    let (bare, agent) = (bare(dir.path()), agent(dir.path()));
    print("baseline: wait, fork and exec, no agent", &bare);
    print("agent: a child's death to its successor's start", &agent);
    println!("ratio of the medians: {:.1}", median(&agent).as_secs_f64() / median(&bare).as_secs_f64());
}

fn bare(dir: &Path) -> Vec<Duration> {
    let log = dir.join("bare");
    let command = child_command(&log);
    let words: Vec<&str> = command.split(' ').collect();
    let mut gaps = Vec::new();
    let mut child = Command::new(words[0]).args(&words[1..]).spawn().expect("the child");
    for done in 0..PROCESSES {
        wait_for(&log, "the child starts", |lines| lines.get(done).cloned());
        let pid = child.id() as i32;
        let dead = std::thread::spawn(move || death_of(pid));
        std::thread::sleep(Duration::from_millis(5));
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("SIGKILL");
        child.wait().expect("the child");
        child = Command::new(words[0]).args(&words[1..]).spawn().expect("the child");
        let next = wait_for(&log, "the next one starts", |lines| lines.get(done + 1).cloned());
        gaps.push(next.at.saturating_sub(dead.join().expect("its death")));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("the child");
    gaps
}

fn agent(dir: &Path) -> Vec<Duration> {
    let log = dir.join("agent");
    let ini = format!("[watcher:child]\ncmd = {}\nnumprocesses = {PROCESSES}\n", child_command(&log));
    let _agent = Agent::start(dir, "restart", &ini);
    wait_for(&log, "all start", |lines| (lines.len() == PROCESSES).then_some(()));
    let mut gaps = Vec::new();
    for (done, child) in lines(&log).into_iter().enumerate() {
        let dead = std::thread::spawn(move || death_of(child.pid));
        std::thread::sleep(Duration::from_millis(5));
        let killed = now();
        kill(Pid::from_raw(child.pid), Signal::SIGKILL).expect("SIGKILL");
        let next = wait_for(&log, "the next one starts", |lines| lines.get(PROCESSES + done).cloned());
        gaps.push(next.at.saturating_sub(dead.join().expect("its death").max(killed)));
    }
    gaps
}
