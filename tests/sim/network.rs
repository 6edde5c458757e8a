//! A host's way to Redis, and back.

use std::time::Duration;

use circus_agent::model::event::{Ask, Event, LeaseAnswer};
use circus_agent::model::names::WatcherName;

use crate::queue::What;
use crate::world::World;

/// A host's way to Redis, and back.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(crate) there: Duration,
    pub(crate) back: Duration,
    pub(crate) loss: f64,
}

impl Link {
    pub(crate) const GOOD: Link =
        Link { there: Duration::from_micros(300), back: Duration::from_micros(300), loss: 0.0 };
}

impl World {
    pub(crate) fn send(&mut self, host: usize, life: u64, watcher: WatcherName, ask: Ask, timeout: Duration) {
        self.open.insert((host, life, ask.sent, ask.owner.nonce));
        let link = self.hosts[host].link;
        let delay = link.there.mul_f64(0.8 + 0.4 * self.random.fraction());
        if self.hosts[host].reachable && self.random.fraction() >= link.loss {
            self.after(delay, What::Arrive { host, life, watcher: watcher.clone(), ask: ask.clone() });
        }
        self.after(timeout, What::GiveUp { host, life, watcher, ask });
    }

    pub(crate) fn answer(&mut self, host: usize, life: u64, watcher: WatcherName, ask: Ask, answer: LeaseAnswer) {
        if self.open.remove(&(host, life, ask.sent, ask.owner.nonce)) && self.hosts[host].life == life {
            self.tell(host, Event::Lease { watcher, ask, answer });
        }
    }
}
