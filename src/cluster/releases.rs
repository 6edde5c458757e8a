//! Releases of leases, as the servers announce them.
//!
//! Invariant: a release is told when all servers have announced it, or a moment after the first one did. Who asks at the
//! first word of several finds votes that are not free yet, and gets in the way of others who do the same. Nothing that
//! is announced later is lost: it is told by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::model::event::Event;
use crate::model::names::WatcherName;

/// How long the others may take once one has announced a release: longer than servers that stand together need, and
/// short beside the start of a child.
const MOMENT: Duration = Duration::from_millis(10);

/// What was announced last of each lease; clones share it.
#[derive(Clone)]
pub(super) struct Releases {
    servers: usize,
    last: Arc<Mutex<BTreeMap<WatcherName, Release>>>,
    events: mpsc::Sender<Event>,
}

/// One owner's release.
#[derive(Default)]
struct Release {
    owner: Vec<u8>,
    by: BTreeSet<usize>,
    told: bool,
}

impl Releases {
    /// Of so many servers, of which none has announced anything.
    pub(super) fn new(servers: usize, events: mpsc::Sender<Event>) -> Releases {
        Releases { servers, last: Arc::default(), events }
    }

    /// A server announced that `owner` has released a lease: what is to be told of it at once.
    pub(super) fn announced(&self, server: usize, watcher: WatcherName, owner: &[u8]) -> Option<Event> {
        let mut last = self.last();
        let release = last.entry(watcher.clone()).or_default();
        if release.owner != owner {
            *release = Release { owner: owner.to_vec(), ..Release::default() };
        }
        release.by.insert(server);
        if release.told || release.by.len() == self.servers {
            release.told = true;
            return Some(Event::LeaseFreed { watcher });
        }
        if release.by.len() == 1 {
            tokio::spawn(self.clone().tell_in_a_moment(watcher, owner.to_vec()));
        }
        None
    }

    async fn tell_in_a_moment(self, watcher: WatcherName, owner: Vec<u8>) {
        sleep(MOMENT).await;
        let is_news = |release: &mut Release| release.owner == owner && !std::mem::replace(&mut release.told, true);
        if self.last().get_mut(&watcher).is_some_and(is_news) {
            // An agent that ended wants no news.
            let _ = self.events.send(Event::LeaseFreed { watcher }).await;
        }
    }

    /// Held for a few lines that cannot panic half-way.
    fn last(&self) -> MutexGuard<'_, BTreeMap<WatcherName, Release>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(servers: usize) -> (Releases, mpsc::Receiver<Event>) {
        let (events, told) = mpsc::channel(4);
        (Releases::new(servers, events), told)
    }

    fn beat() -> WatcherName {
        WatcherName::parse("beat").unwrap()
    }

    fn freed() -> Option<Event> {
        Some(Event::LeaseFreed { watcher: beat() })
    }

    #[tokio::test]
    async fn one_server_is_taken_at_its_word() {
        let (releases, _told) = releases(1);
        for owner in [b"a", b"a", b"b"] {
            assert_eq!(releases.announced(0, beat(), owner), freed());
        }
    }

    #[tokio::test]
    async fn a_release_is_told_when_all_have_announced_it() {
        let (releases, mut told) = releases(3);
        assert_eq!(releases.announced(0, beat(), b"a"), None);
        assert_eq!(releases.announced(2, beat(), b"a"), None);
        // Another one's has nothing to do with it, whatever became of the first.
        assert_eq!(releases.announced(0, beat(), b"b"), None);
        assert_eq!(releases.announced(1, beat(), b"b"), None);
        assert_eq!(releases.announced(2, beat(), b"b"), freed());
        sleep(MOMENT * 3).await;
        assert!(told.try_recv().is_err(), "it was told already");
    }

    #[tokio::test]
    async fn a_server_that_keeps_silent_is_not_waited_for_and_one_that_is_late_is_heard() {
        let (releases, mut told) = releases(3);
        assert_eq!(releases.announced(0, beat(), b"a"), None);
        assert_eq!(releases.announced(1, beat(), b"a"), None);
        assert_eq!(told.recv().await, freed());
        assert_eq!(releases.announced(2, beat(), b"a"), freed());
    }
}
