//! The ways between hosts and servers, and the adapter that puts an agent's questions to them.
//!
//! The adapter is as that of the product: it drives the product's own [`Vote`], gives each server a time, and asks for
//! all of a node's refreshes that come together in one round trip.

use std::time::Duration;

use circus_agent::cluster::pause;
use circus_agent::model::event::{Ask, AskKind, Event, LeaseAnswer};
use circus_agent::model::names::{LeaseName, WatcherName};
use circus_agent::model::vote::{Put, Vote};

use crate::plants::Flaw;
use crate::queue::{Instant, OnHost, What};
use crate::store::Shape;
use crate::world::World;

/// A host's way to all servers, and back.
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

/// A question that an agent asked.
pub(crate) struct Question {
    pub(crate) host: usize,
    life: u64,
    pub(crate) watcher: WatcherName,
    ask: Ask,
    timeout: Duration,
    /// When the adapter stops waiting for what decides it.
    ends: Instant,
    /// The groups of servers that are asked.
    groups: Vec<usize>,
    vote: Vote,
    /// What was put to whom, and whether the adapter still waits for the answer.
    puts: Vec<(Put, bool)>,
    told: bool,
}

/// One put of one question, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PutId {
    pub(crate) question: usize,
    put: usize,
}

impl World {
    /// An agent asks: what it is to be told comes within `timeout`.
    pub(crate) fn ask(&mut self, host: usize, watcher: WatcherName, ask: Ask, timeout: Duration) {
        let (life, ends) = (self.hosts[host].life, self.now + timeout.as_nanos() as u64);
        let groups = match self.store.shape {
            Shape::Majority => self.electorate(),
            Shape::Standalone | Shape::Cluster => vec![self.hosts[host].homes[&watcher]],
        };
        let (vote, puts) = Vote::new(ask.clone(), groups.len());
        if matches!(ask.kind, AskKind::Take { .. } | AskKind::Refresh { .. }) {
            self.hosts[host].owners.insert(watcher.clone(), ask.owner.clone());
        }
        let question = self.questions.len();
        let new = Question { host, life, watcher, ask, timeout, ends, groups, vote, puts: Vec::new(), told: false };
        self.questions.push(new);
        puts.into_iter().for_each(|put| self.put(question, put));
    }

    /// The independent servers that are asked.
    fn electorate(&mut self) -> Vec<usize> {
        let mut groups: Vec<usize> = (0..self.store.groups.len()).collect();
        // Most of any two fewer: half of them, rounded down.
        if self.flaw == Some(Flaw::HalfIsMost) {
            for _ in 0..2 {
                groups.remove((self.random.number() % groups.len() as u64) as usize);
            }
        }
        groups
    }

    /// One server is asked, and has its time to answer.
    fn put(&mut self, question: usize, put: Put) {
        let Question { host, ask, groups, puts, ends, timeout, .. } = &mut self.questions[question];
        let (host, server, mut asked) = (*host, self.hosts[*host].masters[groups[put.server]], put.ask.clone());
        let in_passing = std::mem::discriminant(&asked.kind) != std::mem::discriminant(&ask.kind);
        let id = PutId { question, put: puts.len() };
        // Nobody waits for a vote that is given back.
        let left =
            if asked.kind == AskKind::Withdraw { timeout.as_nanos() as u64 } else { ends.saturating_sub(self.now) };
        match self.flaw {
            Some(Flaw::NoSecondRound) if in_passing && matches!(asked.kind, AskKind::Refresh { .. }) => {
                puts.push((put, true));
                return self.returned(id, LeaseAnswer::Granted { token: 0 });
            }
            Some(Flaw::VotesKept) if asked.kind == AskKind::Withdraw => return,
            Some(Flaw::OwnerReused) => asked.owner.nonce = host as u128,
            _ => {}
        }
        puts.push((Put { server: put.server, ask: asked.clone() }, true));
        self.at(left, What::On(host, OnHost::GiveUp { put: id }));
        // In a cluster each lease has a slot of its own, and one round trip does for one slot.
        if matches!(asked.kind, AskKind::Refresh { .. }) && self.store.shape != Shape::Cluster {
            let batch = self.hosts[host].batches.entry(server).or_default();
            batch.push((id, asked));
            if batch.len() == 1 {
                self.at(0, What::On(host, OnHost::Send { server }));
            }
        } else {
            self.send(host, server, vec![(id, asked)]);
        }
    }

    /// Questions that got lost long ago reach the server after all, on a connection that the adapter has given up.
    pub(crate) fn arrive_late(&mut self, host: usize) {
        let lost = self.hosts[host].lost.len() as u64;
        if lost > 0 {
            let one = (self.random.number() % lost) as usize;
            let (server, puts) = self.hosts[host].lost.swap_remove(one);
            self.at(0, What::Arrive { host, server, puts });
        }
    }

    /// A question is put to the server that has its lease now.
    pub(crate) fn ask_anew(&mut self, question: usize) {
        let Question { host, groups, puts, .. } = &self.questions[question];
        let (Put { server, ask }, _) = &puts[0];
        let server = self.store.groups[groups[*server]].master;
        self.at(0, What::Arrive { host: *host, server, puts: vec![(PutId { question, put: 0 }, ask.clone())] });
    }

    /// Refreshes that came together go out.
    pub(crate) fn send_batch(&mut self, host: usize, server: usize) {
        let batch = self.hosts[host].batches.remove(&server).unwrap_or_default();
        self.send(host, server, batch);
    }

    /// Questions go to a server, unless they get lost.
    pub(crate) fn send(&mut self, host: usize, server: usize, puts: Vec<(PutId, Ask)>) {
        if self.reaches(host, server) {
            let delay = self.wander(self.hosts[host].link.there);
            self.after(delay, What::Arrive { host, server, puts });
        } else if self.hosts[host].lost.len() < 10 {
            self.hosts[host].lost.push((server, puts));
        }
    }

    /// Answers go back, unless they get lost.
    pub(crate) fn send_back(&mut self, host: usize, server: usize, answers: Vec<(PutId, LeaseAnswer)>) {
        // Some that were on their way get through in the end.
        if self.hosts[host].cut && self.random.fraction() < 0.5 {
            self.hosts[host].stuck.extend(answers);
        } else if self.reaches(host, server) {
            let delay = self.wander(self.hosts[host].link.back);
            for (put, answer) in answers {
                self.after(delay, What::On(host, OnHost::Return { put, answer }));
            }
        }
    }

    /// A host is cut off no more: what got stuck gets through.
    pub(crate) fn unstick(&mut self, host: usize) {
        for (put, answer) in std::mem::take(&mut self.hosts[host].stuck) {
            let delay = self.wander(self.hosts[host].link.back);
            self.after(delay, What::On(host, OnHost::Return { put, answer }));
        }
    }

    /// A server's answer is back, or is not to be expected any more.
    pub(crate) fn returned(&mut self, put: PutId, answer: LeaseAnswer) {
        let Question { host, life, watcher, ask, vote, puts, told, .. } = &mut self.questions[put.question];
        let (host, is_here) = (*host, self.hosts[*host].life == *life);
        let (Put { server, ask: asked }, open) = &mut puts[put.put];
        if !is_here {
            return;
        }
        if !std::mem::take(open) {
            // It comes after the adapter gave up, and is dropped; now and then it slips through all the same.
            if self.store.shape != Shape::Majority && self.random.fraction() < 0.2 {
                let event = Event::Lease { watcher: watcher.clone(), ask: ask.clone(), answer };
                self.tell(host, event);
            }
            return;
        }
        let counts = self.flaw == Some(Flaw::OneIsEnough) && matches!(ask.kind, AskKind::Refresh { .. });
        let alone = (counts && matches!(answer, LeaseAnswer::Granted { .. })).then(|| answer.clone());
        let mut then = Vec::new();
        vote.answered(*server, &asked.kind, answer, &mut then);
        if let Some(answer) = alone.or_else(|| vote.verdict().cloned())
            && !std::mem::replace(told, true)
        {
            let event = Event::Lease { watcher: watcher.clone(), ask: ask.clone(), answer };
            self.tell(host, event);
        }
        then.into_iter().for_each(|next| self.put(put.question, next));
    }

    /// Whether the adapter waits for the answer to this.
    pub(crate) fn waits_for(&self, put: PutId) -> bool {
        self.questions[put.question].puts[put.put].1
    }

    /// The adapter's patience with one server ends.
    pub(crate) fn gave_up(&mut self, put: PutId) {
        if self.waits_for(put) {
            self.returned(put, LeaseAnswer::Failed { reason: "no answer in time".into() });
        }
    }

    /// A word about a lease is spread to all hosts that hear it.
    pub(crate) fn announce(&mut self, server: usize, channel: &str, message: &str) {
        let freed = |watcher: &&WatcherName| LeaseName::free_channel(&self.lease(watcher)) == channel;
        let freed = self.watchers.iter().find(freed).map(|watcher| match pause::is_news(message.as_bytes()) {
            true => Event::PauseChanged { watcher: watcher.clone() },
            false => Event::LeaseFreed { watcher: watcher.clone() },
        });
        let (event, by) = match (freed, self.changed(channel, message)) {
            (Some(freed), _) => (freed, None),
            (None, Some((watcher, node))) => (Event::MembersChanged { watcher }, Some(node)),
            (None, None) => return,
        };
        for host in 0..self.hosts.len() {
            // A node's own change is no news to it.
            if by.as_ref() != Some(&self.hosts[host].name) && self.reaches(host, server) {
                let delay = self.wander(self.hosts[host].link.back);
                let (life, event) = (self.hosts[host].life, event.clone());
                self.after(delay, What::On(host, OnHost::Tell { life, event }));
            }
        }
    }

    /// Whether a message between them arrives.
    pub(crate) fn reaches(&mut self, host: usize, server: usize) -> bool {
        let Link { loss, .. } = self.hosts[host].link;
        let cut = self.hosts[host].cut || self.hosts[host].away || self.hosts[host].cut_from.contains(&server);
        !cut && self.random.fraction() >= loss
    }

    /// What is neither a question of leases nor an answer sets out. What gets lost may get there yet, on a connection that
    /// the adapter has given up.
    pub(crate) fn set_out(&mut self, host: usize, server: usize, arrives: What) {
        if self.reaches(host, server) {
            let delay = self.wander(self.hosts[host].link.there);
            self.after(delay, arrives);
        } else if !self.at_peace() && self.random.fraction() < 0.3 {
            let late = self.pause(3.0);
            self.after(late, arrives);
        }
    }

    pub(crate) fn wander(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(0.8 + 0.4 * self.random.fraction())
    }
}
