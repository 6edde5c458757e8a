//! The Redis server, which runs the product's own scripts.

use circus_agent::cluster::scripts;
use circus_agent::model::event::{Ask, Event, LeaseAnswer};
use circus_agent::model::names::{ClusterName, LeaseName, WatcherName};

use crate::queue::{MS, What};
use crate::world::World;

/// How the server is.
#[derive(PartialEq, Eq, Clone, Copy)]
pub(crate) enum Server {
    Up,
    Down,
    Frozen,
}

/// What a server has when it is back.
#[derive(Clone, Copy)]
pub(crate) enum Data {
    /// It was only frozen.
    Untouched,
    /// All of it, in a new process.
    Kept,
    /// Some of it: what a replica or a snapshot file had at the time of the fault before.
    Old,
    /// None.
    Lost,
}

impl World {
    pub(crate) fn server_ms(&self) -> u64 {
        // Some date, so that tokens are what they are in earnest.
        1_700_000_000_000 + (self.now as f64 * self.server_rate) as u64 / MS
    }

    pub(crate) fn serve(&mut self, host: usize, life: u64, watcher: WatcherName, ask: &Ask) {
        let name = LeaseName { cluster: ClusterName::parse("test").unwrap(), watcher: watcher.clone() };
        let ms = self.server_ms();
        let answer = match self.redis.eval(ms, &scripts::call(&name, ask)) {
            Ok(words) => scripts::answer(&words),
            Err(reason) => LeaseAnswer::Failed { reason },
        };
        self.trace(host, || format!("Redis answers {ask:?} with {answer:?}"));
        assert!(
            !matches!(&answer, LeaseAnswer::Failed { reason } if !reason.starts_with("REPLICA")),
            "a script failed: {answer:?}"
        );
        for _ in self.redis.take_published() {
            for other in 0..self.hosts.len() {
                if self.hosts[other].reachable && self.random.fraction() >= self.hosts[other].link.loss {
                    let life = self.hosts[other].life;
                    let delay = self.hosts[other].link.back.mul_f64(0.8 + 0.4 * self.random.fraction());
                    self.after(
                        delay,
                        What::Tell { host: other, life, event: Event::LeaseFreed { watcher: watcher.clone() } },
                    );
                }
            }
        }
        let link = self.hosts[host].link;
        if self.hosts[host].reachable && self.random.fraction() >= link.loss {
            let delay = link.back.mul_f64(0.8 + 0.4 * self.random.fraction());
            self.after(delay, What::Return { host, life, watcher, ask: ask.clone(), answer });
        }
    }
}
