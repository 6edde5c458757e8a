//! The buffer before a place where output ends, and what happens when that place does not take it.
//!
//! ```text
//!            a write ends well
//!        ┌──────────◀───────────┬────────────────┐
//!        ▼                      │                │
//!      well ──(250 ms)──▶     slow ──(1 s)──▶  stuck ◀──(a write fails)── any
//! ```
//!
//! | pace | readers wait for room | a process's end waits for its last lines | when full |
//! |---|---|---|---|
//! | well | yes | yes | (readers wait) |
//! | slow | no | yes | lines are lost |
//! | stuck | no | no, but the last one for the last chance | lines are lost |

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memchr::{memchr, memchr_iter};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::format::Format;
use super::passage::{Passage, Source};
use super::place::{Hand, Means, Place, Work};
use crate::model::names::WatcherName;
use crate::model::spec::{self, ProgramSpec, Rotation, StreamSpec};

/// How much may wait for a place. The last passage may go beyond it.
pub(super) const BUFFER: usize = 1 << 20;
/// How soon after a write the next one follows, unless there is so much to write.
const GATHERING: Duration = Duration::from_millis(1);
const PORTION: usize = 64 * 1024;
/// A write that takes longer holds up nobody any more.
pub(super) const SLOW: Duration = Duration::from_millis(250);
/// How long the end of a process waits for its last lines to be written.
pub(super) const PARTING: Duration = Duration::from_secs(1);
/// How long a place that takes nothing is still tried after the last process has ended. Less than [`PARTING`], so that
/// losses are told before the agent leaves.
const LAST_CHANCE: Duration = Duration::from_millis(500);
/// The pause after a write that failed: it doubles up to the second.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often losses are told of.
const NEWS: Duration = Duration::from_secs(10);

/// All places that somebody writes to.
#[derive(Debug)]
pub(super) struct Sinks {
    used: Mutex<HashMap<Place, Arc<Sink>>>,
    means: Means,
}

impl Sinks {
    pub(super) fn new(means: Means) -> Sinks {
        Sinks { used: Mutex::default(), means }
    }

    /// Has classes in Python called by this interpreter, from the next one on.
    pub(super) fn set_python(&self, interpreter: Option<PathBuf>) {
        self.means.set_python(interpreter);
    }

    /// A way from `source` to the place of `spec`; none where its output goes no further. `around` is the program it
    /// comes from, and `file` the place where that is a file that has been opened. The last one to come says how a file
    /// is rotated.
    pub(super) fn tap(
        self: &Arc<Self>,
        spec: &StreamSpec,
        source: &Arc<Source>,
        around: &Arc<ProgramSpec>,
        file: Option<File>,
    ) -> Option<Tap> {
        let place = Place::of(&spec.sink, source)?;
        let mut used = self.used();
        let sink = used.entry(place).or_insert_with_key(|place| {
            let sink = Arc::new(Sink::new(place.clone()));
            tokio::spawn(Arc::clone(&sink).drain(Hand::new(place, file, around, &self.means), Arc::clone(self)));
            sink
        });
        sink.users.fetch_add(1, Ordering::Relaxed);
        if let spec::Sink::File { rotation, .. } = &spec.sink {
            sink.backlog().rotation = Some(rotation.clone());
        }
        let format = Format::new(spec, source, self.means.zone());
        Some(Tap { sink: Arc::clone(sink), source: Arc::clone(source), format, dropping: false })
    }

    pub(super) fn reopen(&self) {
        self.used().values().for_each(|sink| sink.backlog().reopen = true);
    }

    /// Gives up a place that nobody writes to any more; false where somebody does, or did.
    fn retire(&self, sink: &Sink, unwritten: Unwritten) -> bool {
        let mut used = self.used();
        let gone = sink.is_unused() && (unwritten == Unwritten::Lose || sink.backlog().bytes.is_empty());
        if gone {
            used.remove(&sink.place);
        }
        gone
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Place, Arc<Sink>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of bytes that wait for a place that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unwritten {
    /// Where there are some, it is not given up.
    Keep,
    Lose,
}

/// A place, and what waits to be written there.
#[derive(Debug)]
struct Sink {
    place: Place,
    backlog: Mutex<Backlog>,
    /// Something is new: bytes, or one user less.
    news: Notify,
    progress: watch::Sender<Progress>,
    users: AtomicUsize,
}

#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    /// How much of what was taken out of `bytes` is not yet written.
    in_hand: usize,
    /// How much has come in, ever.
    accepted: u64,
    /// Whose line has not come to its end.
    open: Option<Arc<Source>>,
    reopen: bool,
    rotation: Option<Rotation>,
    /// Why nothing is written.
    trouble: Option<String>,
    /// Lines lost since that was last told.
    lost: BTreeMap<WatcherName, u64>,
    /// When something was last told.
    told: Option<Instant>,
    /// Whether what was told is yet to be said to be over.
    warned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    /// How much has been written, or given up.
    done: u64,
    pace: Pace,
    /// Whether the place has been left, and nobody will write there for this sink any more.
    left: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Well,
    Slow,
    Stuck,
}

/// The way from one source to a place.
#[derive(Debug)]
pub(super) struct Tap {
    sink: Arc<Sink>,
    source: Arc<Source>,
    format: Format,
    /// Whether the beginning of the line that continues was lost: so is the rest.
    dropping: bool,
}

impl Tap {
    /// Waits until there is room, as long as the place takes what it is given.
    pub(super) async fn room(&self) {
        if self.sink.backlog().is_full() {
            let there_is = |progress: &Progress| progress.pace != Pace::Well || !self.sink.backlog().is_full();
            // The sink lives as long as we do.
            let _ = self.sink.progress.subscribe().wait_for(there_is).await;
        }
    }

    /// Passes on what was read, or counts it as lost.
    pub(super) fn put(&mut self, passage: &Passage<'_>) {
        let mut passage = *passage;
        if self.dropping {
            // The rest of a line whose beginning was lost.
            let Some(end) = memchr(b'\n', passage.bytes) else { return };
            self.dropping = false;
            passage = Passage { bytes: &passage.bytes[end + 1..], continues: false, ..passage };
        }
        if passage.bytes.is_empty() {
            return;
        }
        let mut backlog = self.sink.backlog();
        if backlog.is_full() {
            self.dropping = !passage.is_finished();
            let lines = memchr_iter(b'\n', passage.bytes).count() as u64 + u64::from(self.dropping);
            *backlog.lost.entry(self.source.watcher.clone()).or_default() += lines;
            backlog.tell(&self.sink.place);
            return;
        }
        let before = backlog.bytes.len();
        let within = passage.continues && backlog.open.as_ref() == Some(&self.source);
        if backlog.open.is_some() && !within && self.format.is_text() {
            // After somebody else's line, or one of ours whose rest was lost.
            backlog.bytes.push(b'\n');
        }
        self.format.put(&passage, within, &mut backlog.bytes);
        backlog.open = (!passage.is_finished()).then(|| Arc::clone(&self.source));
        let after = backlog.bytes.len();
        backlog.accepted += (after - before) as u64;
        drop(backlog);
        if before == 0 || (before < PORTION && after >= PORTION) {
            self.sink.news.notify_one();
        }
    }

    /// Waits until what was put in is written, or will not be. The last one waits until the place is left, so that who
    /// comes next finds nobody there.
    pub(super) async fn close(self) {
        let sink = Arc::clone(&self.sink);
        let accepted = sink.backlog().accepted;
        let written = |progress: &Progress| progress.done >= accepted || progress.pace == Pace::Stuck;
        let left = |progress: &Progress| progress.left || !sink.is_unused();
        let parting = async {
            // The sink lives as long as we hold it.
            let _ = sink.progress.subscribe().wait_for(written).await;
            drop(self);
            let _ = sink.progress.subscribe().wait_for(left).await;
        };
        let _ = timeout(PARTING, parting).await;
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.sink.users.fetch_sub(1, Ordering::Relaxed);
        self.sink.news.notify_one();
    }
}

impl Sink {
    fn new(place: Place) -> Sink {
        let progress = watch::Sender::new(Progress { done: 0, pace: Pace::Well, left: false });
        Sink { place, backlog: Mutex::default(), news: Notify::new(), progress, users: AtomicUsize::new(0) }
    }

    /// Has what comes in written, until nobody writes here any more.
    async fn drain(self: Arc<Self>, mut hand: Hand, sinks: Arc<Sinks>) {
        let mut spare = Vec::new();
        loop {
            if let Some(work) = self.take(&mut spare) {
                let Some((back, written)) = self.write(work, hand, &sinks).await else { break };
                (hand, spare) = (back, written);
                self.gather().await;
            } else if sinks.retire(&self, Unwritten::Keep) {
                hand.close().await;
                break;
            } else {
                self.news.notified().await;
            }
        }
        self.backlog().part(&self.place);
        self.progress.send_modify(|progress| progress.left = true);
    }

    /// Lets a busy child's next lines come together, since a write for each costs more than the lines.
    async fn gather(&self) {
        let enough = async {
            while self.backlog().bytes.len() < PORTION && !self.is_unused() {
                self.news.notified().await;
            }
        };
        let _ = timeout(GATHERING, enough).await;
    }

    /// What is to be written next. `spare` is used again for what comes in meanwhile.
    fn take(&self, spare: &mut Vec<u8>) -> Option<Work> {
        let mut backlog = self.backlog();
        let mut bytes = std::mem::take(spare);
        if backlog.bytes.is_empty() {
            // A thousand idle places are not to keep what they once needed.
            backlog.bytes = Vec::new();
            return None;
        }
        bytes.clear();
        std::mem::swap(&mut bytes, &mut backlog.bytes);
        backlog.in_hand = bytes.len();
        Some(Work { bytes, at: 0 })
    }

    /// Writes until all is written; nothing where that was given up.
    async fn write(&self, mut work: Work, mut hand: Hand, sinks: &Sinks) -> Option<(Hand, Vec<u8>)> {
        let mut pause = PAUSES.0;
        let mut last_chance = false;
        loop {
            self.pass_orders(&mut hand);
            let result;
            (hand, work, result) = self.watch(hand.write(work, &sinks.means), sinks).await?;
            self.advance(work.bytes.len() - work.at, result.is_ok());
            let Err(failure) = result else { return Some((hand, work.bytes)) };
            self.backlog().fail(&self.place, failure.to_string());
            if !self.is_unused() {
                last_chance = false;
                select! {
                    () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
                    () = self.abandoned() => {}
                }
            } else if !last_chance {
                last_chance = true;
                sleep(LAST_CHANCE).await;
            } else if sinks.retire(self, Unwritten::Lose) {
                return None;
            }
        }
    }

    /// Waits for a write; nothing where it hangs and nobody writes here any more.
    async fn watch<T>(&self, mut job: JoinHandle<T>, sinks: &Sinks) -> Option<T> {
        for (patience, then) in [(SLOW, Pace::Slow), (PARTING - SLOW, Pace::Stuck)] {
            match timeout(patience, &mut job).await {
                Ok(done) => return done.ok(),
                Err(_) => self.progress.send_modify(|progress| progress.pace = then),
            }
        }
        // Told when something is lost by it: it may just be slow to begin.
        self.backlog().trouble = Some(format!("{} hangs", self.place));
        loop {
            select! {
                done = &mut job => return done.ok(),
                () = self.abandoned() => {}
            }
            match timeout(LAST_CHANCE, &mut job).await {
                Ok(done) => return done.ok(),
                Err(_) if sinks.retire(self, Unwritten::Lose) => {
                    // Where it can be ended, it is.
                    job.abort();
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    /// Notes how much of the work in hand is left, and whether the place takes it.
    fn advance(&self, left: usize, well: bool) {
        let mut backlog = self.backlog();
        let written = std::mem::replace(&mut backlog.in_hand, left) - left;
        if well {
            backlog.recover(&self.place);
        }
        drop(backlog);
        self.progress.send_modify(|progress| {
            progress.done += written as u64;
            progress.pace = if well { Pace::Well } else { Pace::Stuck };
        });
    }

    fn pass_orders(&self, hand: &mut Hand) {
        let mut backlog = self.backlog();
        if std::mem::take(&mut backlog.reopen) {
            hand.reopen();
        }
        if let Some(rotation) = backlog.rotation.take() {
            hand.rotate(rotation);
        }
    }

    fn is_unused(&self) -> bool {
        self.users.load(Ordering::Relaxed) == 0
    }

    /// Waits until nobody writes here.
    async fn abandoned(&self) {
        while !self.is_unused() {
            self.news.notified().await;
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backlog {
    fn is_full(&self) -> bool {
        self.bytes.len() + self.in_hand >= BUFFER
    }

    /// Notes why nothing is written, and tells of it, now and then.
    fn fail(&mut self, place: &Place, trouble: String) {
        self.trouble = Some(trouble);
        self.tell(place);
    }

    /// Tells what is wrong and what was lost by it, unless that was done lately.
    fn tell(&mut self, place: &Place) {
        if self.told.is_some_and(|told| told.elapsed() < NEWS) {
            return;
        }
        self.told = Some(Instant::now());
        self.warned = true;
        if self.lost.is_empty() {
            tracing::warn!("{}; its output is kept, up to 1 MiB", self.why(place));
        }
        self.tell_losses(place);
    }

    fn tell_losses(&mut self, place: &Place) {
        let why = self.why(place);
        for (watcher, lines) in std::mem::take(&mut self.lost) {
            tracing::warn!("{watcher}: {lines} lines of its output were lost: {why}");
        }
    }

    fn why(&self, place: &Place) -> String {
        self.trouble.clone().unwrap_or_else(|| format!("{place} is slower than what is written there"))
    }

    /// Tells that what was told of is over.
    fn recover(&mut self, place: &Place) {
        if std::mem::take(&mut self.warned) {
            self.tell_losses(place);
            tracing::info!("{place} takes output again");
        }
        self.trouble = None;
    }

    /// Tells of what can no longer be told later.
    fn part(&mut self, place: &Place) {
        let left = self.in_hand + self.bytes.len();
        if left > 0 {
            tracing::warn!("the last {left} bytes for {place} were lost: {}", self.why(place));
        }
        self.tell_losses(place);
    }
}
