//! The children of singletons, and the guards that keep their deadlines.

use std::time::Duration;

use circus_agent::model::event::{Deadline, Event, Exit, Launch, Notification, ProcessEvent, ProcessId};

use crate::host::REPORT;
use crate::plants::Flaw;
use crate::queue::{OnHost, What};
use crate::witness::Promise;
use crate::world::World;

/// A child and its guard.
pub(crate) struct Child {
    main_alive: bool,
    /// How long its main process takes to stop, where it heeds the signal.
    main_stops_after: Option<Duration>,
    /// How long the rest of its tree stays after it.
    leftovers_last: Duration,
    /// Nothing where it is no singleton.
    pub(crate) deadline: Option<Deadline>,
    deadline_serial: u64,
    killed: bool,
}

impl World {
    /// A child starts; that of a singleton, under a guard.
    pub(crate) fn spawn(&mut self, host: usize, id: ProcessId, launch: &Launch) {
        let token = launch.env.iter().find(|(key, _)| *key == "CIRCUS_FENCING_TOKEN");
        let token = token.map(|(_, token)| token.parse().unwrap());
        assert_eq!(launch.guard.is_some(), token.is_some(), "a singleton's child has a guard");
        let stubborn = self.random.fraction() < 0.3;
        let takes = self.random.below(self.graceful.mul_f64(0.5));
        let leftovers_last = match self.random.number() % 3 {
            0 => self.random.below(Duration::from_millis(300)),
            _ => Duration::from_micros(100),
        };
        let child = Child {
            main_alive: true,
            main_stops_after: (!stubborn).then_some(takes),
            leftovers_last,
            deadline: launch.guard,
            deadline_serial: 0,
            killed: false,
        };
        self.hosts[host].children.insert(id, child);
        if self.is_job(&launch.watcher) {
            self.run_begins(host, id, launch);
        } else {
            self.witness.started += 1;
        }
        if let (Some(token), Some(deadline)) = (token, launch.guard) {
            let lease = self.lease_of(&launch.watcher);
            self.starts_under(host, &lease);
            self.witness.born(self.now, host, id, (&launch.watcher, &lease), token);
            self.look_for_a_quorum(launch.watcher == self.watchers[0]);
            self.arm(host, id, deadline);
        }
        self.report(host, Event::Process(id, ProcessEvent::Spawned { pid: id.0 as u32 }));
        if launch.signs.notify && (self.at_peace() || self.random.fraction() < 0.8) {
            let event = Event::Process(id, ProcessEvent::Notified(Notification::Ready));
            let (life, delay) = (self.hosts[host].life, self.pause(0.3) + Duration::from_millis(1));
            self.after(delay, What::On(host, OnHost::Tell { life, event }));
        }
    }

    /// A guard is told its deadline.
    pub(crate) fn arm(&mut self, host: usize, id: ProcessId, deadline: Deadline) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        child.deadline = Some(deadline);
        child.deadline_serial += 1;
        let serial = child.deadline_serial;
        for time in [deadline.stop, deadline.kill] {
            let at = self.truly(host, time) - self.now;
            let late = self.random.below(Duration::from_millis(1)).as_nanos() as u64;
            self.at(at + late, What::On(host, OnHost::Deadline { id, serial }));
        }
    }

    /// A guard is gone, and nobody keeps its deadline.
    pub(crate) fn disarm(&mut self, host: usize, id: ProcessId) {
        if let Some(child) = self.hosts[host].children.get_mut(&id) {
            child.deadline_serial += 1;
        }
    }

    /// A guard's timer rings.
    pub(crate) fn deadline(&mut self, host: usize, id: ProcessId, serial: u64) {
        let local = self.local(host);
        let Some(child) = self.hosts[host].children.get(&id) else { return };
        let unguarded = self.flaw == Some(Flaw::FollowerUnguarded) && self.witness.follows(host, id);
        if child.deadline_serial != serial || self.flaw == Some(Flaw::NoDeadline) || unguarded {
            return;
        }
        let Some(deadline) = child.deadline else { return };
        if deadline.kill <= local {
            self.kill(host, id);
        } else if deadline.stop <= local {
            self.signal(host, id);
        }
    }

    /// The main process gets its stop signal.
    pub(crate) fn signal(&mut self, host: usize, id: ProcessId) {
        if self.flaw == Some(Flaw::FollowerGoneAtOnce) && self.witness.follows(host, id) {
            self.report(host, Event::Process(id, ProcessEvent::Exited(Exit::Code(0))));
            self.report(host, Event::Process(id, ProcessEvent::Gone));
        }
        if self.flaw == Some(Flaw::LeaderFirst) && self.witness.follows(host, id) {
            let mut children = self.hosts[host].children.keys().copied();
            let leader = children.find(|child| self.witness.is_of(host, *child, &self.watchers[0]));
            leader.into_iter().for_each(|leader| self.main_ends(host, leader, Exit::Code(0)));
        }
        let Some(child) = self.hosts[host].children.get(&id) else { return };
        if let Some(after) = child.main_stops_after.filter(|_| child.main_alive) {
            self.after(after, What::On(host, OnHost::MainEnds { id, exit: Exit::Code(0) }));
        }
    }

    /// The main process is gone; what it leaves behind takes a little longer.
    pub(crate) fn main_ends(&mut self, host: usize, id: ProcessId, exit: Exit) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        if !child.main_alive {
            return;
        }
        child.main_alive = false;
        let last = if child.killed { child.leftovers_last.min(Duration::from_millis(1)) } else { child.leftovers_last };
        // Who is told of both is told of them in order.
        let last = last.max(REPORT);
        self.look_for_followers(host, id);
        self.report(host, Event::Process(id, ProcessEvent::Exited(exit)));
        if self.flaw == Some(Flaw::GoneWithMain) {
            self.report(host, Event::Process(id, ProcessEvent::Gone));
        }
        self.after(last, What::On(host, OnHost::TreeGone { id }));
    }

    /// While a leader ends in good order only nothing may follow it then.
    fn look_for_followers(&mut self, host: usize, id: ProcessId) {
        let children = || self.hosts[host].children.iter().filter(|(_, child)| child.main_alive);
        let leads = !self.witness.follows(host, id) && self.witness.is_of(host, id, &self.watchers[0]);
        if self.legion.is_some()
            && self.settled
            && leads
            && children().any(|(other, _)| self.witness.follows(host, *other))
        {
            let how = format!("the leader on host {host} ends while what follows it runs");
            self.witness.holds_against(self.now, Promise::InOrder, &how);
        }
    }

    /// Nothing of the tree is left.
    pub(crate) fn tree_gone(&mut self, host: usize, id: ProcessId) {
        if self.hosts[host].children.remove(&id).is_some() {
            self.witness.dead(self.now, host, id);
            if self.flaw != Some(Flaw::GoneWithMain) {
                self.report(host, Event::Process(id, ProcessEvent::Gone));
            }
        }
    }

    /// The guard kills the whole tree.
    pub(crate) fn kill(&mut self, host: usize, id: ProcessId) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        child.killed = true;
        let alive = child.main_alive;
        let longest = if self.flaw == Some(Flaw::SlowKill) { self.timings.ttl / 4 } else { Duration::from_millis(3) };
        let delay = self.random.below(longest);
        let end = if alive { OnHost::MainEnds { id, exit: Exit::Signal(9) } } else { OnHost::TreeGone { id } };
        self.after(delay, What::On(host, end));
    }
}
