//! What output is listened to for: that a process is ready, that it is well.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use regex::bytes::Regex;
use tokio::time::Instant;

use super::passage::{LONGEST_LINE, Passage, body, lines};
use crate::model::event::SpawnFailure;
use crate::model::spec::Purpose;

/// A health sign is told at most this often: that a process is well now is news for longer than that.
const NEWS: Duration = Duration::from_millis(100);

/// What both streams of a process are listened to for.
#[derive(Debug)]
pub(super) struct Signs(Mutex<Vec<Sign>>);

#[derive(Debug)]
struct Sign {
    purpose: Purpose,
    pattern: Regex,
    /// When it was last told of.
    told: Option<Instant>,
}

impl Signs {
    /// Takes the patterns of a `Launch`. An error names the pattern.
    pub(super) fn compile(patterns: &[(Purpose, String)]) -> Result<Signs, SpawnFailure> {
        let sign = |(purpose, pattern): &(Purpose, String)| match Regex::new(pattern) {
            Ok(pattern) => Ok(Sign { purpose: *purpose, pattern, told: None }),
            Err(error) => Err(SpawnFailure { stage: format!("log({pattern:?})"), error: error.to_string() }),
        };
        Ok(Signs(Mutex::new(patterns.iter().map(sign).collect::<Result<_, _>>()?)))
    }

    /// Listens for nothing any more.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sign>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens to one stream.
#[derive(Debug)]
pub(super) struct Ear {
    signs: Arc<Signs>,
    /// The line that has not come to its end, as far as it was passed on, for what comes next to be read with it.
    begun: Vec<u8>,
}

impl Ear {
    pub(super) fn new(signs: Arc<Signs>) -> Ear {
        Ear { signs, begun: Vec::new() }
    }

    /// The signs in a passage that are news.
    pub(super) fn hear(&mut self, passage: &Passage<'_>, now: Instant) -> Vec<Purpose> {
        let mut signs = self.signs.lock();
        if signs.is_empty() {
            self.begun = Vec::new();
            return Vec::new();
        }
        let mut heard = Vec::new();
        for line in lines(passage.bytes) {
            self.begun.extend_from_slice(line);
            signs.retain_mut(|sign| {
                let old = sign.told.is_some_and(|told| now.duration_since(told) < NEWS);
                if old || !sign.pattern.is_match(body(&self.begun)) {
                    return true;
                }
                heard.push(sign.purpose);
                sign.told = Some(now);
                sign.purpose != Purpose::Ready
            });
            if line.ends_with(b"\n") || self.begun.len() >= LONGEST_LINE {
                self.begun.clear();
            }
        }
        heard
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::passage::{Source, Stream};
    use super::*;
    use crate::model::event::ProcessId;
    use crate::model::names::WatcherName;

    fn ear(patterns: &[(Purpose, &str)]) -> Ear {
        let patterns: Vec<_> = patterns.iter().map(|(purpose, text)| (*purpose, (*text).into())).collect();
        Ear::new(Arc::new(Signs::compile(&patterns).unwrap()))
    }

    fn hear(ear: &mut Ear, bytes: &[u8], now: Instant) -> Vec<Purpose> {
        let watcher = WatcherName::parse("web").unwrap();
        let source = Arc::new(Source { process: ProcessId(1), watcher, wid: 1, pid: 2, stream: Stream::Stdout });
        ear.hear(&Passage { source: &source, time: Timestamp::UNIX_EPOCH, bytes, continues: false }, now)
    }

    #[test]
    fn ready_is_told_once_and_health_now_and_then() {
        let mut ear = ear(&[(Purpose::Ready, "^up$"), (Purpose::Health, "ok")]);
        let now = Instant::now();
        assert_eq!(hear(&mut ear, b"upper\nok\nok\n", now), [Purpose::Health]);
        assert_eq!(hear(&mut ear, b"ok\nup\nup\n", now + NEWS / 2), [Purpose::Ready]);
        assert_eq!(hear(&mut ear, b"up\nok\n", now + NEWS), [Purpose::Health]);
    }

    #[test]
    fn a_sign_may_come_in_pieces_and_beside_bytes_that_are_no_text() {
        let mut ear = ear(&[(Purpose::Ready, "read[y]")]);
        let now = Instant::now();
        assert_eq!(hear(&mut ear, b"\xff\0 rea", now), []);
        assert_eq!(hear(&mut ear, b"dy", now), [Purpose::Ready]);
    }

    #[test]
    fn a_pattern_that_is_none_is_named() {
        let failed = Signs::compile(&[(Purpose::Ready, "(".into())]).unwrap_err();
        assert_eq!(failed.stage, r#"log("(")"#);
    }
}
