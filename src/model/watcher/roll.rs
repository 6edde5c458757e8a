//! Replacing the processes of a running watcher, one at a time.
//!
//! ```text
//!  OneUp    a new process comes up, then the oldest old one is asked to stop, and so on: never fewer than wanted
//!  OneDown  the oldest old one is asked to stop, its successor comes up in its slot, and so on: never more
//! ```
//!
//! A new process that does not come up is tried again, ever more slowly, and the old ones go on meanwhile. Where nothing
//! says that it is ready it has to live for [`LIFE`]: many a program that cannot run dies at once.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Watcher;
use crate::model::event::{Action, Level, News, ProcessId};
use crate::model::process::Process;
use crate::model::time::Time;

/// How long a new process runs before an old one goes for it.
const LIFE: Duration = Duration::from_millis(250);

/// A replacement under way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Roll {
    way: Way,
    old: BTreeSet<ProcessId>,
    /// The old ones' slots: new ones take others, so that a reload of N processes in 1..N leads to N+1..2N and back, as
    /// in Circus.
    reserved: BTreeSet<u32>,
}

/// Which goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    OneUp,
    OneDown,
}

impl Roll {
    /// How many processes there may be more than wanted.
    pub(super) fn surplus(&self, processes: &[Process]) -> usize {
        usize::from(self.way == Way::OneUp && self.remaining(processes).next().is_some())
    }

    /// Whether a new process must not take this slot.
    pub(super) fn reserves(&self, wid: u32) -> bool {
        self.way == Way::OneUp && self.reserved.contains(&wid)
    }

    /// Whether one that is stopping stands in nobody's way.
    pub(super) fn overlaps(&self) -> bool {
        self.way == Way::OneUp
    }

    /// When the next new one is proven.
    pub(super) fn next_wakeup(&self, processes: &[Process], now: Time) -> Option<Time> {
        let new = processes.iter().filter(|process| !self.old.contains(&process.id));
        new.filter_map(|process| process.proven_at(LIFE)).filter(|proven| *proven > now).min()
    }

    /// The old ones that nobody has asked to stop, oldest first.
    fn remaining<'a>(&'a self, processes: &'a [Process]) -> impl Iterator<Item = ProcessId> + 'a {
        processes.iter().filter(|p| self.old.contains(&p.id) && p.is_staying()).map(|p| p.id)
    }
}

impl Watcher {
    /// Begins to replace all processes that there are. Those that ended and were not replaced come back with them, as in
    /// Circus.
    pub(super) fn begin_roll(&mut self, way: Way) {
        self.retired.clear();
        let old = self.processes.iter().filter(|process| process.is_staying());
        let (old, reserved) = old.map(|process| (process.id, process.wid)).unzip();
        self.roll = Some(Roll { way, old, reserved });
    }

    /// Asks the next old one to stop when its time has come; ends the roll when none is left.
    pub(super) fn advance_roll(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(roll) = &self.roll else { return };
        let staying: Vec<&Process> = self.processes.iter().filter(|process| process.is_staying()).collect();
        let next = roll.remaining(&self.processes).next();
        let wanted = self.numprocesses as usize;
        let proven = |process: &Process| process.proven_at(LIFE).is_some_and(|proven| proven <= now);
        let new_up = staying.iter().all(|process| roll.old.contains(&process.id) || proven(process));
        let due = match roll.way {
            Way::OneUp => staying.len() > wanted,
            // A successor takes its slot when nothing of the one before is left.
            Way::OneDown => staying.len() >= wanted && staying.len() == self.processes.len(),
        };
        match next {
            Some(oldest) if due && new_up => {
                let quiet = roll.way == Way::OneUp;
                self.stop_one(oldest, now, quiet);
            }
            Some(_) => {}
            None if new_up && staying.len() >= wanted && !self.processes.iter().any(|p| roll.old.contains(&p.id)) => {
                self.roll = None;
                self.say(actions, Level::Info, None, "reloaded");
                self.publish(News::Reload, actions);
            }
            None => {}
        }
    }
}
