//! Supervision as its users meet it: a real agent, the real circusctl, and real programs of all kinds, the broken ones
//! included. What is looked at is what anybody can see: files that were written, pids, `status`, events, exit codes.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/ice.rs"]
mod ice;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/witness.rs"]
mod witness;

mod commands;
mod harm;
mod hooks;
mod life;
mod ready;
mod reload;
mod reloadconfig;
mod scarce;
mod singleton;
mod sockets;

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::thread;

use agent::{Agent, Home, Said, wait_for};

/// A home whose processes keep a journal: one line for each thing that happens to them, in the order in which it did.
struct World(Home);

impl Deref for World {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.0
    }
}

impl World {
    fn new() -> World {
        World(Home::new())
    }

    /// The command line of a process that says `up`, `hup` and `down` in the journal; `first` is what it does between
    /// the first two, where `gate NAME` waits until the test has opened that gate.
    fn teller(&self, name: &str, first: &str) -> String {
        let text = format!(
            "say() {{ echo \"$1 $CIRCUS_WATCHER#$CIRCUS_WID\" >>{journal}; }}\n\
             gate() {{ until [ -e {dir}/gate.$1 ]; do sleep 0.01; done; }}\n\
             trap 'say down; exit 0' TERM\n\
             trap 'say hup' HUP\n\
             say up\n\
             {first}\n\
             while :; do sleep 1000 & wait $!; done\n",
            journal = self.file("journal").display(),
            dir = self.path().display(),
        );
        self.script(name, &text)
    }

    /// Where it is, for whatever else has something to say.
    fn journal(&self) -> PathBuf {
        self.file("journal")
    }

    /// What the journal says so far.
    fn told(&self) -> Vec<String> {
        fs::read_to_string(self.journal()).unwrap_or_default().lines().map(String::from).collect()
    }

    /// Waits until the journal has this line so many times.
    #[track_caller]
    fn tells(&self, line: &str, times: usize) {
        let count = || self.told().iter().filter(|told| *told == line).count();
        wait_for(&format!("{line}, {times} times"), || (count() >= times).then_some(()));
    }

    /// Lets those through that wait at a gate, and those after them.
    fn open(&self, gate: &str) {
        fs::write(self.file(&format!("gate.{gate}")), "").expect("a gate");
    }

    /// Holds up those who come to a gate.
    fn close(&self, gate: &str) {
        fs::remove_file(self.file(&format!("gate.{gate}"))).expect("a gate");
    }

    /// Has circusctl carry out `args` while the test does something else: what it said in the end.
    fn meanwhile(&self, agent: &Agent, args: &[&str], then: impl FnOnce()) -> Said {
        thread::scope(|scope| {
            let asked = scope.spawn(|| agent.ctl(self, args));
            then();
            asked.join().expect("circusctl")
        })
    }

    /// Ends an agent in order.
    #[track_caller]
    fn end_one(&self, mut agent: Agent) {
        agent.signal(libc::SIGTERM);
        agent.exits(0);
    }

    /// Ends the only agent in order; nothing of what it started is left.
    #[track_caller]
    fn end(&self, agent: Agent) {
        self.end_one(agent);
        // Helpers of hooks end when they see that nobody calls any more.
        self.is_clean();
    }
}

/// The words of the next events of a stream, up to the one that is `last`.
#[track_caller]
fn words(events: &mut agent::Line, last: &str) -> Vec<String> {
    let mut words = Vec::new();
    while words.last().is_none_or(|word| word != last) {
        let event = events.read().unwrap_or_else(|| panic!("no {last} after {words:?}"));
        words.push(event["event"].as_str().unwrap_or_default().to_owned());
    }
    words
}
