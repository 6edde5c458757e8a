//! A witness outside of all agents: what each child of a singleton wrote of its own life (witness.py), read and judged.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.
#![allow(dead_code)] // Each of which uses a part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::agent::{is_alive, wait_for, wait_within};

/// The file in which the children of one singleton write.
pub struct Witness(PathBuf);

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
        Witness(dir.join("witness"))
    }

    /// The command line of a child that bears witness, with options of witness.py.
    pub fn command(&self, options: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/witness.py");
        // Without the site's packages it starts in a few milliseconds.
        format!("/usr/bin/python3 -I -S {script} {} {options}", self.0.display())
    }

    /// All lives so far, in the order of their beginnings.
    #[track_caller]
    pub fn lives(&self) -> Vec<Life> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut lives: Vec<Life> = Vec::new();
        // The latest of each number: the system gives one to another process when it has gone round.
        let mut latest: BTreeMap<u32, usize> = BTreeMap::new();
        // What is not a whole line is being written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, at, pid, node, token, parent] = words[..] else { panic!("a torn line: {line:?}") };
            let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{error}: {line:?}"));
            let (at, pid, token, parent) = (number(at), number(pid) as u32, number(token), number(parent) as u32);
            assert!(kind != "TWICE", "{node} started a child, token {token}, while something of another was left");
            let parent = (parent != 0).then_some(parent);
            let known = latest.get(&pid).filter(|index| kind != "START" && lives[**index].parent == parent);
            let index = known.copied().unwrap_or(lives.len());
            if index == lives.len() {
                let (node, start, last) = (node.to_owned(), at, at);
                lives.push(Life { pid, node, token, parent, start, last, asked: None, exit: None });
                latest.insert(pid, index);
            }
            let life = &mut lives[index];
            // Its start is reckoned back, and told after.
            life.start = life.start.min(at);
            life.last = life.last.max(at);
            match kind {
                "TERM" => life.asked = life.asked.or(Some(at)),
                "EXIT" => life.exit = Some(at),
                _ => {}
            }
        }
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

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
