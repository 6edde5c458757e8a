//! Who looks at the children from outside: what they do is all that is judged.

use std::collections::BTreeMap;

use circus_agent::model::event::ProcessId;

use crate::queue::{Instant, MS};

/// How a run went.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Steps that the nodes took.
    pub(crate) steps: u64,
    /// Children that were started.
    pub(crate) children: u64,
    /// Promises that were broken.
    pub(crate) broken: Vec<String>,
}

/// What the witness holds against the promises.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) alive: BTreeMap<(usize, ProcessId), Instant>,
    pub(crate) newest: u64,
    pub(crate) last_end: Instant,
    pub(crate) children: u64,
    pub(crate) broken: Vec<String>,
}

impl Witness {
    pub(crate) fn born(&mut self, now: Instant, host: usize, id: ProcessId, token: u64) {
        self.children += 1;
        if let Some(((other, _), since)) = self.alive.first_key_value() {
            let ms = (now - since) / MS;
            self.broken
                .push(format!("{now}: a child starts on host {host} while that of host {other} lives ({ms} ms)"));
        }
        if token < self.newest {
            self.broken.push(format!("{now}: host {host} starts a child with token {token} after {}", self.newest));
        }
        self.newest = token;
        self.alive.insert((host, id), now);
    }

    pub(crate) fn dead(&mut self, now: Instant, host: usize, id: ProcessId) {
        if self.alive.remove(&(host, id)).is_some() {
            self.last_end = now;
        }
    }
}
