//! Words about a lease that the servers spread: it was released, paused or resumed, its members changed.
//!
//! Invariant: a word is passed on when all servers have spread it, or a moment after the first one did. Who asks at the
//! first word of several finds votes that are not free yet, and gets in the way of others who do the same. Nothing that
//! is spread later is lost: it is passed on by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::model::event::Event;
use crate::model::names::WatcherName;

/// How long the others may take once one has spread a word: longer than servers that stand together need, and short
/// beside the start of a child.
const MOMENT: Duration = Duration::from_millis(10);

/// What a word is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A lease was released.
    Freed(WatcherName),
    /// It was paused or resumed.
    Pause(WatcherName),
    /// Its members changed.
    Members(WatcherName),
}

impl Subject {
    /// What the agent is told.
    pub(super) fn event(self) -> Event {
        match self {
            Subject::Freed(watcher) => Event::LeaseFreed { watcher },
            Subject::Pause(watcher) => Event::PauseChanged { watcher },
            Subject::Members(watcher) => Event::MembersChanged { watcher },
        }
    }
}

/// What was spread last about each subject; clones share it.
#[derive(Clone)]
pub(super) struct Words {
    servers: usize,
    last: Arc<Mutex<BTreeMap<Subject, Word>>>,
    events: mpsc::Sender<Event>,
}

/// One word: whose release, or whose change.
#[derive(Default)]
struct Word {
    text: Vec<u8>,
    by: BTreeSet<usize>,
    told: bool,
}

impl Words {
    /// Of so many servers, of which none has spread anything.
    pub(super) fn new(servers: usize, events: mpsc::Sender<Event>) -> Words {
        Words { servers, last: Arc::default(), events }
    }

    /// A server spread `text`: what is to be told of it at once.
    pub(super) fn spread(&self, server: usize, subject: Subject, text: &[u8]) -> Option<Event> {
        let mut last = self.last();
        let word = last.entry(subject.clone()).or_default();
        if word.text != text {
            *word = Word { text: text.to_vec(), ..Word::default() };
        }
        word.by.insert(server);
        if word.told || word.by.len() == self.servers {
            word.told = true;
            return Some(subject.event());
        }
        if word.by.len() == 1 {
            tokio::spawn(self.clone().tell_in_a_moment(subject, text.to_vec()));
        }
        None
    }

    async fn tell_in_a_moment(self, subject: Subject, text: Vec<u8>) {
        sleep(MOMENT).await;
        let is_news = |word: &mut Word| word.text == text && !std::mem::replace(&mut word.told, true);
        if self.last().get_mut(&subject).is_some_and(is_news) {
            // An agent that ended wants no news.
            let _ = self.events.send(subject.event()).await;
        }
    }

    /// Held for a few lines that cannot panic half-way.
    fn last(&self) -> MutexGuard<'_, BTreeMap<Subject, Word>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(servers: usize) -> (Words, mpsc::Receiver<Event>) {
        let (events, told) = mpsc::channel(4);
        (Words::new(servers, events), told)
    }

    fn beat() -> Subject {
        Subject::Freed(WatcherName::parse("beat").unwrap())
    }

    fn freed() -> Option<Event> {
        Some(beat().event())
    }

    #[tokio::test]
    async fn one_server_is_taken_at_its_word() {
        let (words, _told) = words(1);
        for owner in [b"a", b"a", b"b"] {
            assert_eq!(words.spread(0, beat(), owner), freed());
        }
    }

    #[tokio::test]
    async fn a_word_is_told_when_all_have_spread_it() {
        let (words, mut told) = words(3);
        assert_eq!(words.spread(0, beat(), b"a"), None);
        assert_eq!(words.spread(2, beat(), b"a"), None);
        // Another one's has nothing to do with it, whatever became of the first.
        assert_eq!(words.spread(0, beat(), b"b"), None);
        assert_eq!(words.spread(1, beat(), b"b"), None);
        assert_eq!(words.spread(2, beat(), b"b"), freed());
        sleep(MOMENT * 3).await;
        assert!(told.try_recv().is_err(), "it was told already");
    }

    #[tokio::test]
    async fn a_server_that_keeps_silent_is_not_waited_for_and_one_that_is_late_is_heard() {
        let (words, mut told) = words(3);
        assert_eq!(words.spread(0, beat(), b"a"), None);
        assert_eq!(words.spread(1, beat(), b"a"), None);
        assert_eq!(told.recv().await, freed());
        assert_eq!(words.spread(2, beat(), b"a"), freed());
    }

    #[tokio::test]
    async fn words_about_one_subject_do_not_hide_those_about_another() {
        let (words, _told) = words(2);
        let members = || Subject::Members(WatcherName::parse("beat").unwrap());
        assert_eq!(words.spread(0, beat(), b"a"), None);
        assert_eq!(words.spread(0, members(), b"b"), None);
        assert_eq!(words.spread(1, beat(), b"a"), freed());
        assert_eq!(words.spread(1, members(), b"b"), Some(members().event()));
    }
}
