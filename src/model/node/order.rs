//! Who waits for whom: `after` when starting, and the reverse when stopping; and who follows whom.

use std::collections::{BTreeSet, HashMap};

use super::watchers::Key;
use super::{Drained, Haste, Node, State, is_settled_down};
use crate::model::event::Action;
use crate::model::history::{Cause, Ending};
use crate::model::names::WatcherName;
use crate::model::spec::WatcherSpec;
use crate::model::watcher::{Lead, Watcher};

/// Who comes after whom.
#[derive(Debug, Default)]
pub(super) struct Order {
    firsts: HashMap<Key, Vec<Key>>,
    laters: HashMap<Key, Vec<Key>>,
}

impl Order {
    /// Those that this one comes after, as its settings list them.
    fn firsts(&self, key: Key) -> &[Key] {
        self.firsts.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Those that come after this one, in start order.
    fn laters(&self, key: Key) -> &[Key] {
        self.laters.get(&key).map_or(&[], Vec::as_slice)
    }
}

impl Node {
    /// Takes note of who comes after whom, when a watcher was added, changed or removed.
    pub(super) fn learn_order(&mut self) {
        self.order = Order::default();
        for key in self.watchers.keys() {
            for first in self.watchers[key].firsts().filter_map(|name| self.watchers.named(name)) {
                let firsts = self.order.firsts.entry(key).or_default();
                if !firsts.contains(&first) {
                    firsts.push(first);
                    self.order.laters.entry(first).or_default().push(key);
                }
            }
        }
        for key in self.watchers.keys() {
            let lead = self.watchers[key].leader().map(|leader| self.lead_by(leader));
            // Whoever it waited for may not be named any more; who still is, is found again at once.
            let gated = self.watchers.peek(key);
            if gated.wait_to_start(None) | gated.wait_to_stop(None) | gated.wait_for_follower(None) | gated.follow(lead)
            {
                self.watchers.stir(key);
            }
        }
    }

    /// Tells each watcher whom it waits for now; whether that is news for one. Only those next to one that was touched
    /// can have any.
    pub(super) fn open_gates(&mut self) -> bool {
        let near = |key: &Key| [&[*key], self.order.firsts(*key), self.order.laters(*key)].concat();
        let gated: BTreeSet<Key> = self.watchers.touched().iter().flat_map(near).collect();
        let mut news = false;
        for key in gated {
            let name = |key: &Key| self.watchers[*key].spec().name.clone();
            let first = self.order.firsts(key).iter().find(|first| self.keeps_waiting(**first)).map(name);
            let last = self.order.laters(key).iter().find(|later| self.keeps_up(**later)).map(name);
            let follower = self.order.laters(key).iter().find(|later| self.holds_up(**later, key)).map(name);
            let lead = self.watchers[key].leader().map(|leader| self.lead_by(leader));
            let watcher = self.watchers.peek(key);
            if watcher.wait_to_start(first)
                | watcher.wait_to_stop(last)
                | watcher.wait_for_follower(follower)
                | watcher.follow(lead)
            {
                self.watchers.stir(key);
                news = true;
            }
        }
        news
    }

    /// Has leases given up after runs that failed under them.
    pub(super) fn pass_yields_on(&mut self, actions: &mut Vec<Action>) {
        for key in self.watchers.touched().clone() {
            if let Some(wish) = self.watchers.peek(key).take_yield()
                && let Some(holder) = self.watchers.stir_named(&wish.lease)
            {
                holder.yield_lease(wish, actions);
            }
        }
    }

    /// Whether what comes after this one has to wait: it is wanted and not up, or it was wanted and gave up. One that
    /// nobody wants keeps nobody waiting.
    fn keeps_waiting(&self, first: Key) -> bool {
        let watcher = &self.watchers[first];
        let wanted = !watcher.is_at_rest() || watcher.has_failed() || self.queue.contains(&first);
        wanted && !watcher.is_up(self.now)
    }

    /// Whether what this one comes after has to wait before it stops: this one is on its way down, and not there.
    fn keeps_up(&self, later: Key) -> bool {
        let watcher = &self.watchers[later];
        let hurry = matches!(self.phase, State::Stopping { haste: Haste::Fast, .. });
        !hurry && watcher.is_at_rest() && !watcher.is_empty()
    }

    /// Whether this one follows that leader, and something of it is left.
    fn holds_up(&self, later: Key, leader: Key) -> bool {
        let watcher = &self.watchers[later];
        watcher.leader() == Some(&self.watchers[leader].spec().name) && !watcher.is_over()
    }

    /// What is told to those that follow this legion.
    fn lead_by(&self, leader: &WatcherName) -> Lead {
        let found = self.watchers.named(leader).and_then(|key| self.watchers[key].lead(self.now));
        found.unwrap_or_else(|| Lead::nobody(leader))
    }

    /// Why everything is to stop, and how fast; nothing where it is not.
    fn wind_down(&self) -> Option<(Haste, Ending)> {
        match (&self.phase, &self.drained) {
            (State::Stopping { haste, by, .. }, _) => {
                Some((*haste, Ending { by: Some(by.clone()), ..Ending::of(Cause::AgentStopping) }))
            }
            (State::Starting | State::Running, Some(Drained { by, .. })) => {
                Some((Haste::Graceful, Ending { by: Some(by.clone()), ..Ending::of(Cause::Stopped) }))
            }
            (State::Starting | State::Running, None) | (State::Left, _) => None,
        }
    }

    /// Of an ending agent, or one that is drained: stops the lowest priority that is not down yet, and what comes after
    /// it; whether that is news.
    pub(super) fn stop_next(&mut self, actions: &mut Vec<Action>) -> bool {
        let Some((haste, ending)) = self.wind_down() else { return false };
        let now = self.now;
        let mut news = false;
        if haste == Haste::Fast {
            for key in self
                .watchers
                .keys()
                .into_iter()
                .filter(|key| self.watchers[*key].is_saying_farewell())
                .collect::<Vec<_>>()
            {
                self.watchers.stir(key).hurry_farewell(actions);
                news = true;
            }
        }
        let up = self.watchers.iter().filter(|watcher| !is_settled_down(watcher, now));
        let Some(lowest) = up.map(|watcher| watcher.spec().priority).min() else { return news };
        // What has not started never will; the rest waits for its turn, unless there is haste.
        let turn = |watcher: &Watcher| watcher.spec().priority <= lowest || watcher.is_empty() || haste == Haste::Fast;
        let mut turns: BTreeSet<Key> =
            self.watchers.keys().into_iter().filter(|key| turn(&self.watchers[*key])).collect();
        let mut ahead: Vec<Key> = turns.iter().copied().collect();
        while let Some(key) = ahead.pop() {
            ahead.extend(self.order.laters(key).iter().filter(|later| turns.insert(**later)));
        }
        for key in turns {
            if !self.watchers[key].is_at_rest() {
                self.watchers.stir(key).stop(ending.clone());
                news = true;
            }
            if haste == Haste::Fast && !self.watchers[key].is_empty() && !self.watchers[key].is_being_killed() {
                self.watchers.stir(key).kill(now, actions);
                news = true;
            }
        }
        news
    }

    /// Why a watcher must not come after those, or follow that one: it is not there, unless it was so `before`, or it would
    /// wait for itself.
    pub(super) fn check_firsts(&self, new: &WatcherSpec, before: &[WatcherName]) -> Result<(), String> {
        let name = &new.name;
        let mut path = vec![name.clone()];
        let mut next: Vec<WatcherName> = new.firsts().cloned().collect();
        for first in &new.after {
            if first != name && !before.contains(first) && self.watchers.named(first).is_none() {
                return Err(format!("after: there is no watcher {first}"));
            }
        }
        if let Some(legion) = new.follows.as_ref().filter(|legion| !before.contains(legion)) {
            let found = self.watchers.named(legion).map(|key| &self.watchers[key]);
            if found.is_none_or(|leader| leader.lease().is_none()) {
                return Err(format!("legion: there is no legion {legion}"));
            }
        }
        while let Some(first) = next.pop() {
            if first == *name {
                return Err(format!("after: {name} would wait for itself"));
            }
            if !path.contains(&first) {
                let found = self.watchers.named(&first);
                next.extend(found.into_iter().flat_map(|key| self.watchers[key].spec().firsts().cloned()));
                path.push(first);
            }
        }
        Ok(())
    }
}
