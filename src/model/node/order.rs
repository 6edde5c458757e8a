//! Who waits for whom: `after` when starting, and the reverse when stopping.

use std::collections::BTreeSet;

use super::watchers::Key;
use super::{Haste, Node, State, is_settled_down};
use crate::model::event::Action;
use crate::model::names::WatcherName;
use crate::model::watcher::Watcher;

impl Node {
    /// Takes note of who comes after whom, when a watcher was added, changed or removed.
    pub(super) fn learn_order(&mut self) {
        self.ordered = self.watchers.iter().any(|watcher| !watcher.spec().after.is_empty());
        for key in self.watchers.keys() {
            // Whoever it waited for may not be named any more; who still is, is found again at once.
            let gated = self.watchers.peek(key);
            if gated.wait_to_start(None) | gated.wait_to_stop(None) {
                self.watchers.stir(key);
            }
        }
    }

    /// Tells each watcher whom it waits for now; whether that is news for one.
    pub(super) fn open_gates(&mut self) -> bool {
        if !self.ordered {
            return false;
        }
        let mut news = false;
        for key in self.watchers.keys() {
            let after = &self.watchers[key].spec().after;
            let first = after.iter().find(|first| self.keeps_waiting(first)).cloned();
            let last = self.kept_up_by(key);
            let watcher = self.watchers.peek(key);
            if watcher.wait_to_start(first) | watcher.wait_to_stop(last) {
                self.watchers.stir(key);
                news = true;
            }
        }
        news
    }

    /// Whether what comes after `first` has to wait: it is wanted and not up, or it was wanted and gave up. One that
    /// nobody wants, or that is not there, keeps nobody waiting.
    fn keeps_waiting(&self, first: &WatcherName) -> bool {
        let Some(key) = self.watchers.position(|watcher| watcher.spec().name == *first) else { return false };
        let watcher = &self.watchers[key];
        let wanted = !watcher.is_at_rest() || watcher.has_failed() || self.queue.contains(&key);
        wanted && !watcher.is_up(self.now)
    }

    /// Who has to be down before this one stops: one that comes after it and is on its way down too.
    fn kept_up_by(&self, key: Key) -> Option<WatcherName> {
        let name = &self.watchers[key].spec().name;
        if let State::Stopping { haste: Haste::Fast, .. } = self.phase {
            return None;
        }
        let holds = |other: &&Watcher| other.spec().after.contains(name) && other.is_at_rest() && !other.is_empty();
        self.watchers.iter().find(holds).map(|other| other.spec().name.clone())
    }

    /// Of an ending agent: stops the lowest priority that is not down yet, and what comes after it; whether that is news.
    pub(super) fn stop_next(&mut self, actions: &mut Vec<Action>) -> bool {
        let State::Stopping { haste, .. } = self.phase else { return false };
        let now = self.now;
        let up = self.watchers.iter().filter(|watcher| !is_settled_down(watcher, now));
        let Some(lowest) = up.map(|watcher| watcher.spec().priority).min() else { return false };
        // What has not started never will; the rest waits for its turn, unless there is haste.
        let turn = |watcher: &Watcher| watcher.spec().priority <= lowest || watcher.is_empty() || haste == Haste::Fast;
        let mut turns: BTreeSet<Key> =
            self.watchers.keys().into_iter().filter(|key| turn(&self.watchers[*key])).collect();
        loop {
            let named = |name: &WatcherName| turns.iter().any(|key| self.watchers[*key].spec().name == *name);
            let follows = |key: &Key| !turns.contains(key) && self.watchers[*key].spec().after.iter().any(named);
            let more: Vec<Key> = self.watchers.keys().into_iter().filter(follows).collect();
            if more.is_empty() {
                break;
            }
            turns.extend(more);
        }
        let mut news = false;
        for key in turns {
            if !self.watchers[key].is_at_rest() {
                self.watchers.stir(key).stop();
                news = true;
            }
            if haste == Haste::Fast && !self.watchers[key].is_empty() && !self.watchers[key].is_being_killed() {
                self.watchers.stir(key).kill(now, actions);
                news = true;
            }
        }
        news
    }

    /// Why a watcher must not come after those: one is not there, unless it came after it `before`, or it would wait for
    /// itself.
    pub(super) fn check_after(
        &self,
        name: &WatcherName,
        after: &[WatcherName],
        before: &[WatcherName],
    ) -> Result<(), String> {
        let mut path = vec![name.clone()];
        let mut next: Vec<WatcherName> = after.to_vec();
        for first in after {
            if first != name
                && !before.contains(first)
                && self.watchers.position(|watcher| watcher.spec().name == *first).is_none()
            {
                return Err(format!("after: there is no watcher {first}"));
            }
        }
        while let Some(first) = next.pop() {
            if first == *name {
                return Err(format!("after: {name} would wait for itself"));
            }
            if !path.contains(&first) {
                let found = self.watchers.iter().find(|watcher| watcher.spec().name == first);
                next.extend(found.into_iter().flat_map(|watcher| watcher.spec().after.iter().cloned()));
                path.push(first);
            }
        }
        Ok(())
    }
}
