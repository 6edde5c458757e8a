//! One peer: what it says, what it is told, and what both may cost.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::listener::Duplex;
use super::zmtp::{self, Kind, Said, Session, Wrong};

/// How long a peer may take to introduce itself.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a message may take to come whole, and how long what is told may stay unread.
const STALL: Duration = Duration::from_secs(30);
/// How long the last words may take to be written.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// What each peer may have us keep without asking what others do.
const FREE: usize = 64 << 10;
/// How much is read at once.
const CHUNK: usize = 8 << 10;

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The peer left, or was cut off.
    #[error("it hung up")]
    HungUp,
    /// It did not introduce itself in time.
    #[error("it did not introduce itself within {} s", HANDSHAKE.as_secs())]
    Silent,
    /// It broke the protocol.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// It did not go on reading, or did not send the rest of a message.
    #[error("nothing came or went for {} s in the middle of a message", STALL.as_secs())]
    Stalled,
    /// What it and all others have us keep is too much.
    #[error("what waits for it and for others is more than {} bytes", super::MAX_KEPT)]
    TooMuch,
    /// It subscribed to too much.
    #[error("it subscribed to more than {} bytes of topics", super::MAX_TOPICS)]
    Topics,
}

/// What several may have us keep together, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    kept: Arc<AtomicUsize>,
    most: usize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Budget {
        Budget { kept: Arc::default(), most }
    }

    /// The share of one of them, nothing so far.
    pub(super) fn share(&self) -> Share {
        Share { budget: self.clone(), taken: 0 }
    }
}

/// What one of several has us keep, beyond what is free.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    taken: usize,
}

impl Share {
    /// It is so much now; false where that is too much, and then it is what it was.
    pub(super) fn keeps(&mut self, bytes: usize) -> bool {
        let (wanted, taken, most) = (bytes.saturating_sub(FREE), self.taken, self.budget.most);
        let changed = self.budget.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| {
            let all = kept - taken + wanted;
            (wanted <= taken || all <= most).then_some(all)
        });
        if changed.is_ok() {
            self.taken = wanted;
        }
        changed.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.kept.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// One peer.
pub(super) struct Connection {
    reader: ReadHalf<Box<dyn Duplex>>,
    writer: WriteHalf<Box<dyn Duplex>>,
    session: Session,
    chunk: Vec<u8>,
    /// What it is to be told; so much of it has been written.
    output: Vec<u8>,
    written: usize,
    share: Share,
    /// When it last said something whole, or was not listened to; and when it last read something.
    heard: Instant,
    told: Instant,
}

impl Connection {
    /// One to whom we are a socket of this kind.
    pub(super) fn new(stream: Box<dyn Duplex>, own: Kind, budget: &Budget) -> Connection {
        let (reader, writer) = tokio::io::split(stream);
        let now = Instant::now();
        Connection {
            reader,
            writer,
            session: Session::new(own),
            chunk: vec![0; CHUNK],
            output: zmtp::opening(own),
            written: 0,
            share: budget.share(),
            heard: now,
            told: now,
        }
    }

    /// Takes messages of so many bytes from it.
    pub(super) fn trust(&mut self, longest: usize) {
        let fresh = Session::new(self.session.own());
        self.session = std::mem::replace(&mut self.session, fresh).with_longest(longest);
    }

    /// Waits until it has introduced itself.
    pub(super) async fn meet(&mut self) -> Result<(), End> {
        let meeting = async {
            while self.hear()?.is_none() {
                self.go_on(true).await?;
            }
            Ok(())
        };
        timeout(HANDSHAKE, meeting).await.unwrap_or(Err(End::Silent))
    }

    /// What it says next, of what has come.
    pub(super) fn hear(&mut self) -> Result<Option<Said>, End> {
        let said = self.session.hear()?;
        if said.is_some() {
            self.heard = Instant::now();
        }
        Ok(said)
    }

    /// Tells it these bytes, once it reads.
    pub(super) fn say(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.output.is_empty() {
            self.told = Instant::now();
        }
        self.output.extend_from_slice(bytes);
        self.weigh()
    }

    /// How many bytes wait for it to read.
    pub(super) fn unread(&self) -> usize {
        self.output.len() - self.written
    }

    /// Reads, where `reading`, and writes what there is to tell; comes back once something was done. May be dropped at any
    /// time.
    pub(super) async fn go_on(&mut self, reading: bool) -> Result<(), End> {
        if !reading {
            self.heard = Instant::now();
        }
        let telling = self.unread() > 0;
        let hearing = reading && self.session.held() > 0;
        let patience = match (hearing, telling) {
            (true, true) => Some(self.heard.min(self.told)),
            (true, false) => Some(self.heard),
            (false, true) => Some(self.told),
            (false, false) => None,
        };
        tokio::select! {
            read = self.reader.read(&mut self.chunk), if reading => match read {
                Ok(0) | Err(_) => Err(End::HungUp),
                Ok(count) => {
                    self.session.add(&self.chunk[..count]);
                    self.weigh()
                }
            },
            written = self.writer.write(&self.output[self.written..]), if telling => match written {
                Ok(0) | Err(_) => Err(End::HungUp),
                Ok(count) => {
                    self.wrote(count);
                    self.weigh()
                }
            },
            () = until(patience) => Err(End::Stalled),
        }
    }

    /// Gives it a second to read what it has been told.
    pub(super) async fn part(mut self) {
        let flushing = async { while self.unread() > 0 && self.go_on(false).await.is_ok() {} };
        let _ = timeout(FAREWELL, flushing).await;
        let _ = self.writer.shutdown().await;
    }

    fn wrote(&mut self, count: usize) {
        self.told = Instant::now();
        self.written += count;
        if self.written == self.output.len() {
            self.output.clear();
            self.output.shrink_to(FREE);
            self.written = 0;
        } else if self.written > FREE {
            self.output.drain(..self.written);
            self.written = 0;
        }
    }

    fn weigh(&mut self) -> Result<(), End> {
        match self.share.keeps(self.session.held() + self.unread()) {
            true => Ok(()),
            false => Err(End::TooMuch),
        }
    }
}

/// The end of a peer's patience; never where it has nothing to be patient about.
async fn until(patience: Option<Instant>) {
    match patience {
        Some(since) => sleep_until(since + STALL).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_keep_together_is_bounded_and_a_little_is_always_free() {
        let budget = Budget::new(100);
        let (mut a, mut b) = (budget.share(), budget.share());
        assert!(a.keeps(FREE + 90) && !b.keeps(FREE + 11) && b.keeps(FREE) && b.keeps(FREE + 10));
        assert!(!a.keeps(FREE + 91), "the rest is b's");
        assert!(a.keeps(FREE + 50) && b.keeps(FREE + 50));
        drop(a);
        assert!(b.keeps(FREE + 100) && !b.keeps(FREE + 101));
        drop(b);
        assert_eq!(budget.kept.load(Ordering::Relaxed), 0);
    }
}
