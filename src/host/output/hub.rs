//! What was read lately, for whoever asks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::passage::{Passage, Source, body, lines};
use crate::model::names::WatcherName;
use crate::model::snapshot::LogLine;

/// How much is kept of each watcher, in bytes of memory.
const RING: usize = 256 * 1024;
/// What a passage takes beside its bytes.
const OVERHEAD: usize = size_of::<Kept>() + 2 * size_of::<usize>();
/// How many lines a follower may be behind before it misses some.
const BEHIND: usize = 2048;

/// The lines of all watchers: the latest of each, and those to come. A clone is the same hub.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rings: Mutex<HashMap<WatcherName, Ring>>,
    followers: broadcast::Sender<Arc<LogLine>>,
}

/// The latest passages of a watcher. They are cut into lines when somebody asks, which is seldom.
#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Kept>,
    size: usize,
}

#[derive(Debug)]
struct Kept {
    source: Arc<Source>,
    time: Timestamp,
    bytes: Box<[u8]>,
}

impl Hub {
    pub(super) fn new() -> Hub {
        Hub(Arc::new(Shared { rings: Mutex::default(), followers: broadcast::Sender::new(BEHIND) }))
    }

    /// The last `lines` lines of the watchers that `matches` names, oldest first, as far as they are kept: 256 KiB of
    /// each watcher, and of ended processes too.
    pub fn recent(&self, matches: impl Fn(&WatcherName) -> bool, lines: usize) -> Vec<Arc<LogLine>> {
        let rings = self.rings();
        let meant = rings.iter().filter(|(watcher, _)| matches(watcher));
        let mut found: Vec<LogLine> = meant.flat_map(|(_, ring)| ring.last(lines)).collect();
        // Stable: what was read together stays in its order.
        found.sort_by(|a, b| a.time.total_cmp(&b.time));
        found.drain(..found.len().saturating_sub(lines));
        found.into_iter().map(Arc::new).collect()
    }

    /// Every line of every watcher from now on. Who falls behind by more than 2048 lines misses the oldest and is told
    /// how many (`Lagged`).
    ///
    /// Called together with [`Hub::recent`] on the agent's loop, without waiting in between, no line is missed or seen
    /// twice.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<LogLine>> {
        self.0.followers.subscribe()
    }

    /// Forgets the lines of a watcher that is no more.
    pub fn forget(&self, watcher: &WatcherName) {
        self.rings().remove(watcher);
    }

    /// Takes in what was read.
    pub(super) fn put(&self, passage: &Passage<'_>) {
        let bytes = passage.visible();
        if bytes.is_empty() {
            return;
        }
        let kept = Kept { source: Arc::clone(passage.source), time: passage.time, bytes: bytes.into() };
        if self.0.followers.receiver_count() > 0 {
            // The last one may have gone in the meantime.
            kept.lines().for_each(|line| drop(self.0.followers.send(Arc::new(line))));
        }
        let mut rings = self.rings();
        match rings.get_mut(&passage.source.watcher) {
            Some(ring) => ring.push(kept),
            None => rings.entry(passage.source.watcher.clone()).or_default().push(kept),
        }
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<WatcherName, Ring>> {
        self.0.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, kept: Kept) {
        self.size += kept.size();
        self.kept.push_back(kept);
        while self.size > RING
            && let Some(oldest) = self.kept.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    /// The last `count` lines, oldest first.
    fn last(&self, count: usize) -> Vec<LogLine> {
        let mut passages = Vec::new();
        let mut found = 0;
        for kept in self.kept.iter().rev() {
            if found >= count {
                break;
            }
            let lines: Vec<LogLine> = kept.lines().collect();
            found += lines.len();
            passages.push(lines);
        }
        passages.into_iter().rev().flatten().skip(found.saturating_sub(count)).collect()
    }
}

impl Kept {
    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }

    fn lines(&self) -> impl Iterator<Item = LogLine> {
        let Source { watcher, wid, pid, stream, .. } = &*self.source;
        lines(&self.bytes).map(|line| LogLine {
            watcher: watcher.clone(),
            wid: *wid,
            pid: *pid,
            stream: stream.name(),
            time: self.time.as_duration().as_secs_f64(),
            bytes: body(line).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::passage::Stream;
    use super::*;
    use crate::model::event::ProcessId;

    fn put(hub: &Hub, watcher: &str, second: i64, bytes: &[u8]) {
        let watcher = WatcherName::parse(watcher).unwrap();
        let source = Arc::new(Source { process: ProcessId(1), watcher, wid: 1, pid: 2, stream: Stream::Stdout });
        let time = Timestamp::from_second(second).unwrap();
        hub.put(&Passage { source: &source, time, bytes, continues: false });
    }

    fn recent(hub: &Hub, lines: usize) -> Vec<String> {
        let found = hub.recent(|_| true, lines);
        found.iter().map(|line| String::from_utf8(line.bytes.clone()).unwrap()).collect()
    }

    #[test]
    fn the_latest_lines_come_merged_by_time() {
        let hub = Hub::new();
        put(&hub, "a", 1, b"a1\na2\n");
        put(&hub, "b", 2, b"b1\n\n");
        put(&hub, "a", 3, b"a3\na4");
        assert_eq!(recent(&hub, 4), ["b1", "", "a3", "a4"]);
        assert_eq!(recent(&hub, 100).len(), 6);
        assert_eq!(recent(&hub, 0), [""; 0]);
        let only_b = hub.recent(|watcher| watcher.to_string() == "b", 100);
        assert_eq!(only_b.len(), 2);
        hub.forget(&WatcherName::parse("a").unwrap());
        assert_eq!(recent(&hub, 100), ["b1", ""]);
    }

    #[test]
    fn a_ring_stays_within_its_bounds_however_short_the_lines_are() {
        let hub = Hub::new();
        for _ in 0..100_000 {
            put(&hub, "a", 1, b"\n");
        }
        put(&hub, "a", 1, &[b'x'; RING / 2]);
        put(&hub, "a", 1, &[b'y'; RING / 2]);
        let rings = hub.rings();
        let ring = rings.values().next().unwrap();
        assert!(ring.size <= RING && ring.kept.len() == 1, "{} bytes in {}", ring.size, ring.kept.len());
    }

    #[test]
    fn a_follower_sees_each_line_and_is_told_what_it_missed() {
        let hub = Hub::new();
        put(&hub, "a", 1, b"before\n");
        let mut follower = hub.subscribe();
        put(&hub, "a", 2, b"one\ntwo\n");
        assert_eq!(follower.try_recv().unwrap().bytes, b"one");
        assert_eq!(follower.try_recv().unwrap().bytes, b"two");
        put(&hub, "a", 3, &b"x\n".repeat(BEHIND + 7));
        assert!(matches!(follower.try_recv(), Err(broadcast::error::TryRecvError::Lagged(7))));
    }
}
