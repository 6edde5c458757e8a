//! How long a child that died is missing: replaced by an agent, beside a loop that does nothing else.

#![allow(clippy::print_stdout)]

mod support;

use support::{gaps_with_agent, gaps_without_agent, median, print};

/// Each process is killed once: only the first end in a row is followed by a start at once.
const PROCESSES: usize = 100;

fn main() {
    support::be_the_child_if_called_so();
    support::print_load();
    let dir = tempfile::tempdir().expect("a directory");
    let bare = gaps_without_agent(dir.path(), PROCESSES);
    let agent = gaps_with_agent(dir.path(), "restart", PROCESSES, "", "");
    print("baseline: wait, fork and exec, no agent", &bare);
    print("agent: a child's death to its successor's start", &agent);
    println!("ratio of the medians: {:.1}", median(&agent).as_secs_f64() / median(&bare).as_secs_f64());
}
