//! Who looks on from outside: it sees children, tokens and time, and nothing of what anybody believes.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::model::event::ProcessId;
use circus_agent::model::names::WatcherName;

use crate::queue::{Instant, MS};

/// How a run went.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// Steps that the nodes took.
    pub(crate) steps: u64,
    /// Children that were started.
    pub(crate) children: u64,
    /// Runs of watchers that run at times.
    pub(crate) runs: u64,
    /// The first promise that was broken.
    pub(crate) broken: Option<Broken>,
}

/// A promise that was broken: which, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) promise: Promise,
    pub(crate) how: String,
}

/// What is promised of each singleton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// No two children run at once.
    NeverTwo,
    /// Fencing tokens grow with each tenure.
    TokensGrow,
    /// One runs again soon after all faults have ended.
    SoonOne,
    /// What lasts less than a third of the ttl moves no child.
    Undisturbed,
    /// What is paused runs nowhere, once that was said.
    Paused,
    /// In good order what follows a leader is gone before it.
    InOrder,
    /// Nobody leads a legion of which too few live.
    Quorum,
    /// No member counts twice, whatever it is called.
    CountedOnce,
    /// Where all live and a better one takes over, the best leads.
    Best,
    /// A slot has one run at most: in the cluster, or on each host.
    OncePerSlot,
    /// No server gives a slot to anybody but the holder of the lease.
    ByHolder,
    /// A run has the token that its slot was claimed with, and a lease.
    UnderLease,
    /// What is run is a time of the schedule.
    OfSchedule,
    /// No run begins later than it may.
    InTime,
    /// Where nothing lasts that goes wrong, each slot has its run.
    EachSlot,
}

/// What the witness saw, and holds against the promises.
#[derive(Default)]
pub(crate) struct Witness {
    children: BTreeMap<(usize, ProcessId), Sight>,
    /// Of each singleton: its newest token, the host that had it, and when its last child ended.
    newest: BTreeMap<WatcherName, (u64, usize)>,
    ends: BTreeMap<WatcherName, Instant>,
    /// How many were started, without those that run at times; and these.
    pub(crate) started: u64,
    pub(crate) runs: u64,
    /// The first promise that was broken.
    pub(crate) broken: Option<Broken>,
}

/// A child that lives.
struct Sight {
    watcher: WatcherName,
    /// Under whose lease it runs.
    lease: WatcherName,
    since: Instant,
    /// Its machine stands still: it lives, but does nothing.
    frozen: bool,
    /// Its machine was thawed: its guard has until then to see to it.
    excused: Instant,
}

impl Witness {
    /// A child is there.
    pub(crate) fn born(
        &mut self,
        now: Instant,
        host: usize,
        id: ProcessId,
        (watcher, lease): (&WatcherName, &WatcherName),
        token: u64,
    ) {
        // What follows a leader may run beside it, on its host.
        let is_another = |other: usize, sight: &Sight| other != host || sight.watcher == *watcher;
        let runs = |sight: &Sight| sight.lease == *lease && !sight.frozen && sight.excused <= now;
        let mut others = self.children.iter().filter(|((other, _), sight)| is_another(*other, sight) && runs(sight));
        if let Some(((other, _), sight)) = others.next() {
            let (ms, its) = ((now - sight.since) / MS, &sight.watcher);
            let how = format!("a child of {watcher} starts on host {host} while {its} of host {other} lives ({ms} ms)");
            self.holds_against(now, Promise::NeverTwo, &how);
        }
        let (newest, by) = self.newest.get(watcher).copied().unwrap_or_default();
        if token < newest || token == newest && host != by {
            let how = format!("host {host} starts a child of {watcher} with token {token} after {newest} of host {by}");
            self.holds_against(now, Promise::TokensGrow, &how);
        }
        self.newest.insert(watcher.clone(), (token, host));
        let (watcher, lease) = (watcher.clone(), lease.clone());
        let sight = Sight { watcher, lease, since: now, frozen: false, excused: 0 };
        self.children.insert((host, id), sight);
    }

    /// Nothing of a child is left.
    pub(crate) fn dead(&mut self, now: Instant, host: usize, id: ProcessId) {
        if let Some(sight) = self.children.remove(&(host, id)) {
            self.ends.insert(sight.watcher, now);
        }
    }

    /// A machine stands still, with all that runs on it.
    pub(crate) fn freezes(&mut self, host: usize) {
        self.on(host).for_each(|sight| sight.frozen = true);
    }

    /// A machine goes on. For `grace` its children are excused: so long their guards may take.
    pub(crate) fn thaws(&mut self, now: Instant, host: usize, grace: Duration) {
        let excused = now + grace.as_nanos() as u64;
        for sight in self.on(host).filter(|sight| sight.frozen) {
            (sight.frozen, sight.excused) = (false, excused);
        }
    }

    /// The excuse of a thawed machine's children is over.
    pub(crate) fn look(&mut self, now: Instant, host: usize) {
        let runs = |sight: &&Sight| !sight.frozen && sight.excused <= now;
        let mine = |key: &(usize, ProcessId)| key.0 == host;
        for (_, late) in self.children.iter().filter(|(key, sight)| mine(key) && runs(sight)) {
            let other =
                |key: &(usize, ProcessId), sight: &&Sight| !mine(key) && runs(sight) && sight.lease == late.lease;
            if let Some(((other, _), _)) = self.children.iter().find(|(key, sight)| other(key, sight)) {
                let watcher = &late.watcher;
                let how =
                    format!("host {host}, thawed, has a child of {watcher} still, while that of host {other} lives");
                return self.holds_against(now, Promise::NeverTwo, &how);
            }
        }
    }

    /// By this promise one child of this singleton has to run.
    pub(crate) fn expects(&mut self, now: Instant, watcher: &WatcherName, promise: Promise, what: &str) {
        if !self.children.values().any(|sight| sight.watcher == *watcher) {
            let quiet = (now - self.ends.get(watcher).copied().unwrap_or_default()) / MS;
            self.holds_against(now, promise, &format!("nobody runs {watcher}, for {quiet} ms, {what}"));
        }
    }

    /// Since there were `started` children nothing has happened that moves one.
    pub(crate) fn expects_no_more(&mut self, now: Instant, started: u64, what: &str) {
        if self.started != started {
            self.holds_against(now, Promise::Undisturbed, &format!("a child moved {what}"));
        }
    }

    /// A host on which something does something under this lease, if there is one.
    pub(crate) fn has_under(&self, now: Instant, lease: &WatcherName) -> Option<usize> {
        let runs = |sight: &Sight| sight.lease == *lease && !sight.frozen && sight.excused <= now;
        self.children.iter().find(|(_, sight)| runs(sight)).map(|((host, _), _)| *host)
    }

    fn on(&mut self, host: usize) -> impl Iterator<Item = &mut Sight> {
        self.children.iter_mut().filter(move |(key, _)| key.0 == host).map(|(_, sight)| sight)
    }

    /// Whether this is a child of what runs under another's lease.
    pub(crate) fn follows(&self, host: usize, id: ProcessId) -> bool {
        self.children.get(&(host, id)).is_some_and(|sight| sight.watcher != sight.lease)
    }

    /// Whether this is a child of that singleton.
    pub(crate) fn is_of(&self, host: usize, id: ProcessId, watcher: &WatcherName) -> bool {
        self.children.get(&(host, id)).is_some_and(|sight| sight.watcher == *watcher)
    }

    /// A host on which a child of this singleton does something, if there is one.
    pub(crate) fn runs_on(&self, watcher: &WatcherName) -> Option<usize> {
        let runs = |(_, sight): &(&(usize, ProcessId), &Sight)| sight.watcher == *watcher && !sight.frozen;
        self.children.iter().find(runs).map(|((host, _), _)| *host)
    }

    pub(crate) fn holds_against(&mut self, now: Instant, promise: Promise, how: &str) {
        let how = format!("{}.{:03} s: {how}", now / (1_000 * MS), now / MS % 1_000);
        self.broken.get_or_insert(Broken { promise, how });
    }
}
