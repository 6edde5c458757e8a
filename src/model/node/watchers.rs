//! The watchers of a node, and which of them have to be looked at: what an event costs depends on what it changes, not
//! on how many there are.
//!
//! All may be read at any time. Who changes one stirs it, and the next [`Watchers::settle`] lets it settle, together
//! with those whose deadline has come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Index;

use crate::model::event::{Action, HookEnd, HookId, ProcessEvent, ProcessId};
use crate::model::names::WatcherName;
use crate::model::time::Time;
use crate::model::watcher::Watcher;

/// A watcher's number in its node. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u32);

#[derive(Debug, Default)]
pub(super) struct Watchers {
    list: BTreeMap<Key, Watcher>,
    /// Start order: by priority, highest first, then by name.
    order: Vec<Key>,
    /// By name: there is never a second one of a name.
    named: HashMap<WatcherName, Key>,
    last_key: u32,
    stirred: BTreeSet<Key>,
    /// Those that were changed or have settled in this step: whatever is new is new of one of them.
    touched: BTreeSet<Key>,
    /// Each one's next deadline, and the same in order.
    due: HashMap<Key, Time>,
    timers: BTreeSet<(Time, Key)>,
    /// Whose each process and each call of a hook is, until its end.
    owners: HashMap<ProcessId, Key>,
    callers: HashMap<HookId, Key>,
}

impl Index<Key> for Watchers {
    type Output = Watcher;

    fn index(&self, key: Key) -> &Watcher {
        &self.list[&key]
    }
}

impl Watchers {
    /// Adds one, in its place in the order.
    pub(super) fn add(&mut self, watcher: Watcher) -> Key {
        self.last_key += 1;
        let key = Key(self.last_key);
        self.named.insert(watcher.spec().name.clone(), key);
        self.list.insert(key, watcher);
        self.order.push(key);
        self.sort();
        self.stir(key);
        key
    }

    /// Forgets one. What still runs of it is nobody's.
    pub(super) fn remove(&mut self, key: Key) -> Option<Watcher> {
        self.order.retain(|other| *other != key);
        self.stirred.remove(&key);
        self.touched.remove(&key);
        if let Some(due) = self.due.remove(&key) {
            self.timers.remove(&(due, key));
        }
        self.owners.retain(|_, owner| *owner != key);
        self.callers.retain(|_, caller| *caller != key);
        let watcher = self.list.remove(&key)?;
        self.named.remove(&watcher.spec().name);
        Some(watcher)
    }

    /// Puts them into start order again, after a priority has changed.
    pub(super) fn sort(&mut self) {
        let list = &self.list;
        self.order.sort_by(|a, b| list[a].spec().start_order(list[b].spec()));
    }

    /// All of them in start order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Watcher> + Clone {
        self.order.iter().map(|key| &self.list[key])
    }

    /// Their keys in start order.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.order.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The one with this key, if it is still there.
    pub(super) fn get(&self, key: Key) -> Option<&Watcher> {
        self.list.get(&key)
    }

    /// The one of that very name.
    pub(super) fn named(&self, name: &WatcherName) -> Option<Key> {
        self.named.get(name).copied()
    }

    /// The first that `is` says yes to.
    pub(super) fn position(&self, is: impl Fn(&Watcher) -> bool) -> Option<Key> {
        self.order.iter().copied().find(|key| is(&self.list[key]))
    }

    /// A watcher to change without having it looked at.
    pub(super) fn peek(&mut self, key: Key) -> &mut Watcher {
        self.list.get_mut(&key).expect("a key is used only while its watcher is there")
    }

    /// The watcher to change.
    pub(super) fn stir(&mut self, key: Key) -> &mut Watcher {
        self.stirred.insert(key);
        self.touched.insert(key);
        self.peek(key)
    }

    /// Those that were changed or have settled in this step.
    pub(super) fn touched(&self) -> &BTreeSet<Key> {
        &self.touched
    }

    /// The step is over.
    pub(super) fn forget_touched(&mut self) {
        self.touched.clear();
    }

    /// The watcher of that very name, to change.
    pub(super) fn stir_named(&mut self, name: &WatcherName) -> Option<&mut Watcher> {
        Some(self.stir(self.named(name)?))
    }

    /// Tells a process's watcher what became of it. One that is nobody's, or has ended, changes nothing.
    pub(super) fn process_changed(&mut self, now: Time, id: ProcessId, event: ProcessEvent, actions: &mut Vec<Action>) {
        let ended = matches!(event, ProcessEvent::SpawnFailed(_) | ProcessEvent::Gone);
        let owner = if ended { self.owners.remove(&id) } else { self.owners.get(&id).copied() };
        if let Some(key) = owner {
            self.stir(key).process_changed(now, id, event, actions);
        }
    }

    /// Tells a hook's watcher how it ended; whether there was one.
    pub(super) fn hook_ended(&mut self, now: Time, hook: HookId, end: &HookEnd, actions: &mut Vec<Action>) -> bool {
        let caller = self.callers.remove(&hook);
        if let Some(key) = caller {
            self.stir(key).hook_ended(now, hook, end, actions);
        }
        caller.is_some()
    }

    /// The earliest deadline of all.
    pub(super) fn next_wakeup(&self) -> Option<Time> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Lets those learn how it stands with their leases that were changed or whose deadline has come.
    pub(super) fn consult(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some((due, key)) = self.timers.first().copied()
            && due <= now
        {
            self.timers.pop_first();
            self.due.remove(&key);
            self.stirred.insert(key);
        }
        for key in &self.stirred {
            if let Some(watcher) = self.list.get_mut(key) {
                self.touched.insert(*key);
                watcher.consult(now, actions);
            }
        }
    }

    /// Lets those settle that were changed.
    pub(super) fn settle(&mut self, now: Time, last_id: &mut u64, actions: &mut Vec<Action>) {
        for key in std::mem::take(&mut self.stirred) {
            let Some(watcher) = self.list.get_mut(&key) else { continue };
            self.touched.insert(key);
            let before = actions.len();
            watcher.settle(now, last_id, actions);
            for action in &actions[before..] {
                match action {
                    Action::Spawn { process, .. } => drop(self.owners.insert(*process, key)),
                    Action::Hook { hook, .. } => drop(self.callers.insert(*hook, key)),
                    Action::CallOff { hook } => drop(self.callers.remove(hook)),
                    _ => {}
                }
            }
            let due = watcher.next_wakeup(now);
            let old = match due {
                Some(due) => self.due.insert(key, due),
                None => self.due.remove(&key),
            };
            if let Some(old) = old {
                self.timers.remove(&(old, key));
            }
            self.timers.extend(due.map(|due| (due, key)));
        }
    }
}
