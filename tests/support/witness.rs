//! A witness outside of all agents: what each child of a singleton wrote of its own life (witness.py), read and judged.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.
#![allow(dead_code)] // Each of which uses a part of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::agent::{is_alive, wait_for, wait_within};

/// The file in which the children of one singleton write.
pub struct Witness {
    path: PathBuf,
    read: Mutex<Told>,
}

/// What was read of it so far: it only grows.
#[derive(Default)]
struct Told {
    bytes: u64,
    lives: Vec<Life>,
    /// The latest of each number: the system gives one to another process when it has gone round.
    latest: BTreeMap<u32, usize>,
}

/// One process as it told itself. Times are CLOCK_MONOTONIC's, in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    pub pid: u32,
    pub node: String,
    pub token: u64,
    /// The child whose grandchild this is.
    pub parent: Option<u32>,
    pub start: u64,
    /// Its last sign of life.
    pub last: u64,
    pub asked: Option<u64>,
    pub exit: Option<u64>,
}

impl Life {
    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.exit.is_none() && is_alive(self.pid)
    }

    /// From this one's last sign of life to the other's start.
    pub fn gap_to(&self, next: &Life) -> Duration {
        Duration::from_nanos(next.start.saturating_sub(self.last))
    }

    /// From a moment of [`now`] to its start.
    pub fn started_after(&self, moment: u64) -> Duration {
        Duration::from_nanos(self.start.saturating_sub(moment))
    }
}

impl Witness {
    /// One that writes in this directory.
    pub fn new(dir: &Path) -> Witness {
        Witness { path: dir.join("witness"), read: Mutex::default() }
    }

    /// The command line of a child that bears witness, with options of witness.py.
    pub fn command(&self, options: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/witness.py");
        // Without the site's packages it starts in a few milliseconds.
        format!("/usr/bin/python3 -I -S {script} {} {options}", self.path.display())
    }

    /// All lives so far, in the order of their beginnings.
    #[track_caller]
    pub fn lives(&self) -> Vec<Life> {
        let mut told = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        told.read_on(&self.path);
        let mut lives = told.lives.clone();
        lives.sort_by_key(|life| life.start);
        lives
    }

    /// The children, without their grandchildren.
    #[track_caller]
    pub fn children(&self) -> Vec<Life> {
        self.lives().into_iter().filter(|life| life.parent.is_none()).collect()
    }

    /// Waits for the first child.
    #[track_caller]
    pub fn first(&self) -> Life {
        wait_for("a first child", || self.children().into_iter().next())
    }

    /// Waits for the child after this one, for so long at most.
    #[track_caller]
    pub fn after(&self, life: &Life, patience: Duration) -> Life {
        let what = format!("a child after that of {}, token {}", life.node, life.token);
        wait_within(patience, &what, || self.children().into_iter().find(|next| next.start > life.start))
    }

    /// Waits until this child has told of itself once more: it runs.
    #[track_caller]
    pub fn ticks(&self, life: &Life) {
        let since = now();
        wait_for("a tick", || self.lives().into_iter().find(|one| one.pid == life.pid && one.last > since));
    }

    /// Waits until this child has told of itself so long from now.
    #[track_caller]
    pub fn lives_on(&self, life: &Life, time: Duration) {
        let until = now() + time.as_nanos() as u64;
        let lasting = |one: &Life| one.pid == life.pid && one.last > until;
        wait_for("the child to live on", || self.lives().iter().any(lasting).then_some(()));
    }

    /// Whatever runs now: children and grandchildren.
    #[track_caller]
    pub fn running(&self) -> Vec<Life> {
        self.lives().into_iter().filter(Life::is_alive).collect()
    }

    /// Judges all that was told: no two children at one instant, nothing of one alive when the next began, tokens that
    /// only grow and never serve two nodes.
    #[track_caller]
    pub fn check(&self) {
        let lives = self.lives();
        let children: Vec<&Life> = lives.iter().filter(|life| life.parent.is_none()).collect();
        assert!(!children.is_empty(), "nothing ran at all");
        for (at, next) in children.iter().enumerate() {
            for before in lives.iter().filter(|life| life.start < next.start && life.parent != Some(next.pid)) {
                assert!(
                    before.last < next.start,
                    "two at once for {:?}: {before:?} and {next:?}",
                    Duration::from_nanos(before.last - next.start)
                );
            }
            let Some(before) = at.checked_sub(1).map(|at| children[at]) else { continue };
            assert!(before.token <= next.token, "tokens went back: {before:?}, then {next:?}");
            assert!(before.token < next.token || before.node == next.node, "one token of two: {before:?}, {next:?}");
        }
    }

    /// As [`Witness::check`], when all is over: nothing runs any more.
    #[track_caller]
    pub fn check_over(&self) {
        self.check();
        assert_eq!(self.running(), [], "this outlived its agent");
    }
}

impl Told {
    #[track_caller]
    fn read_on(&mut self, path: &Path) {
        let mut text = String::new();
        let Ok(mut file) = File::open(path) else { return };
        file.seek(SeekFrom::Start(self.bytes)).and_then(|_| file.read_to_string(&mut text)).expect("what was told");
        // What is not a whole line is being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            self.bytes += line.len() as u64;
            self.hear(line);
        }
    }

    #[track_caller]
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, at, pid, node, token, parent] = words[..] else { panic!("a torn line: {line:?}") };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let (at, pid, token, parent) = (number(at), number(pid) as u32, number(token), number(parent) as u32);
        assert!(kind != "TWICE", "{node} started a child, token {token}, while something of another was left");
        let parent = (parent != 0).then_some(parent);
        let known = self.latest.get(&pid).filter(|index| kind != "START" && self.lives[**index].parent == parent);
        let index = known.copied().unwrap_or(self.lives.len());
        if index == self.lives.len() {
            let (node, start, last) = (node.to_owned(), at, at);
            self.lives.push(Life { pid, node, token, parent, start, last, asked: None, exit: None });
            self.latest.insert(pid, index);
        }
        let life = &mut self.lives[index];
        // Its start is reckoned back, and told after.
        life.start = life.start.min(at);
        life.last = life.last.max(at);
        match kind {
            "TERM" => life.asked = life.asked.or(Some(at)),
            "EXIT" => life.exit = Some(at),
            _ => {}
        }
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
