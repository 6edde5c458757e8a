//! The children of singletons, and the guards that keep their deadlines.

use std::time::Duration;

use circus_agent::model::event::{Deadline, Event, Exit, ProcessEvent, ProcessId};

use crate::plants::Plant;
use crate::queue::What;
use crate::world::World;

/// A child and its guard.
pub(crate) struct Child {
    pub(crate) main_alive: bool,
    pub(crate) main_stops_after: Option<Duration>,
    pub(crate) leftovers_last: Duration,
    pub(crate) deadline: Deadline,
    pub(crate) deadline_serial: u64,
    pub(crate) killed: bool,
}

impl World {
    pub(crate) fn arm(&mut self, host: usize, id: ProcessId, deadline: Deadline) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        child.deadline = deadline;
        child.deadline_serial += 1;
        let serial = child.deadline_serial;
        for time in [deadline.stop, deadline.kill] {
            let at = self.truly(host, time) - self.now;
            let late = self.random.below(Duration::from_millis(1)).as_nanos() as u64;
            self.at(at + late, What::Deadline { host, id, serial });
        }
    }

    pub(crate) fn signal(&mut self, host: usize, id: ProcessId) {
        let Some(child) = self.hosts[host].children.get(&id) else { return };
        if let Some(after) = child.main_stops_after.filter(|_| child.main_alive) {
            self.after(after, What::MainEnds { host, id, exit: Exit::Code(0) });
        }
    }

    pub(crate) fn main_ends(&mut self, host: usize, id: ProcessId, exit: Exit) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        if !child.main_alive {
            return;
        }
        child.main_alive = false;
        let last = if child.killed { child.leftovers_last.min(Duration::from_millis(1)) } else { child.leftovers_last };
        self.report(host, Event::Process(id, ProcessEvent::Exited(exit)));
        if self.plant == Plant::ReleaseBeforeGone {
            self.report(host, Event::Process(id, ProcessEvent::Gone));
        }
        self.after(last, What::TreeGone { host, id });
    }

    pub(crate) fn kill(&mut self, host: usize, id: ProcessId) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        child.killed = true;
        let alive = child.main_alive;
        let delay = self.random.below(Duration::from_millis(3));
        if alive {
            self.after(delay, What::MainEnds { host, id, exit: Exit::Signal(9) });
        } else {
            self.after(delay, What::TreeGone { host, id });
        }
    }
}
