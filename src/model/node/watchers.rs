//! The watchers of a node, and which of them have to be looked at: what an event costs depends on what it changes, not
//! on how many there are.
//!
//! All may be read at any time. Who changes one stirs it, and the next [`Watchers::settle`] lets it settle, together
//! with those whose deadline has come.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;

use crate::model::event::{Action, ProcessEvent, ProcessId};
use crate::model::names::WatcherName;
use crate::model::time::Time;
use crate::model::watcher::Watcher;

#[derive(Debug)]
pub(super) struct Watchers {
    list: Vec<Watcher>,
    stirred: BTreeSet<usize>,
    /// Each one's next deadline, and the same in order.
    due: Vec<Option<Time>>,
    timers: BTreeSet<(Time, usize)>,
    /// Whose each process is, until its end.
    owners: HashMap<ProcessId, usize>,
}

impl Deref for Watchers {
    type Target = [Watcher];

    fn deref(&self) -> &[Watcher] {
        &self.list
    }
}

impl Watchers {
    pub(super) fn new(list: Vec<Watcher>) -> Watchers {
        let due = vec![None; list.len()];
        Watchers { list, stirred: BTreeSet::new(), due, timers: BTreeSet::new(), owners: HashMap::new() }
    }

    /// The watcher to change.
    pub(super) fn stir(&mut self, index: usize) -> &mut Watcher {
        self.stirred.insert(index);
        &mut self.list[index]
    }

    /// The watcher of that very name, to change.
    pub(super) fn stir_named(&mut self, name: &WatcherName) -> Option<&mut Watcher> {
        let index = self.list.iter().position(|watcher| watcher.spec().name == *name)?;
        Some(self.stir(index))
    }

    /// Tells a process's watcher what became of it. One that is nobody's, or has ended, changes nothing.
    pub(super) fn process_changed(&mut self, now: Time, id: ProcessId, event: ProcessEvent, actions: &mut Vec<Action>) {
        let ended = matches!(event, ProcessEvent::SpawnFailed(_) | ProcessEvent::Gone);
        let owner = if ended { self.owners.remove(&id) } else { self.owners.get(&id).copied() };
        if let Some(index) = owner {
            self.stir(index).process_changed(now, id, event, actions);
        }
    }

    /// The earliest deadline of all.
    pub(super) fn next_wakeup(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Lets those settle that were changed or whose deadline has come.
    pub(super) fn settle(&mut self, now: Time, last_id: &mut u64, actions: &mut Vec<Action>) {
        while let Some((due, index)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            self.due[index] = None;
            self.stirred.insert(index);
        }
        for index in std::mem::take(&mut self.stirred) {
            let before = actions.len();
            self.list[index].settle(now, last_id, actions);
            for action in &actions[before..] {
                if let Action::Spawn { process, .. } = action {
                    self.owners.insert(*process, index);
                }
            }
            let due = self.list[index].next_wakeup(now);
            if let Some(old) = std::mem::replace(&mut self.due[index], due) {
                self.timers.remove(&(old, index));
            }
            self.timers.extend(due.map(|due| (due, index)));
        }
    }
}
