//! Reads one pipe: as much as there is, a little at a time.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::unix::pipe;
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::passage::{Cutter, LONGEST_LINE, Passage, Source};
use super::signs::Ear;
use super::sink::Tap;
use super::{Hub, Outputs, Stage};
use crate::model::event::{Event, ProcessEvent};
use crate::model::spec::Purpose;

/// How much is read at once, before others get their turn.
const READ: usize = 64 * 1024;
/// Room for what is read, behind the beginning of a line.
pub(super) const BUFFER: usize = LONGEST_LINE + READ;
/// A line that is not ended for so long is passed on as it is: it may be a prompt.
const PAUSE: Duration = Duration::from_millis(200);
/// How many reads empty a pipe that somebody may still write to: the largest that an ordinary user can have.
const LAST_READS: usize = (1 << 20) / READ;

/// Reads one stream of one process to its end.
pub(super) struct Reader {
    outputs: Arc<Outputs>,
    source: Arc<Source>,
    pipe: pipe::Receiver,
    cutter: Cutter,
    outlets: Outlets,
}

/// Where a passage goes.
pub(super) struct Outlets {
    pub(super) hub: Hub,
    pub(super) ear: Ear,
    pub(super) tap: Option<Tap>,
    pub(super) events: mpsc::Sender<Event>,
    /// Signs that are yet to be told.
    pub(super) heard: Vec<Purpose>,
}

/// What a look into the pipe found.
enum Found {
    Bytes,
    Nothing,
    End,
}

impl Reader {
    /// Takes over our end of a pipe.
    pub(super) fn new(
        outputs: Arc<Outputs>,
        source: Arc<Source>,
        end: OwnedFd,
        outlets: Outlets,
    ) -> io::Result<Reader> {
        let pipe = pipe::Receiver::from_owned_fd(end)?;
        Ok(Reader { outputs, source, pipe, cutter: Cutter::default(), outlets })
    }

    /// Reads until nobody holds the other end, or nothing is left of the process: then what is there, and no more.
    /// Ends when that is written, or will not be. `catching_up` is dropped when what was there at the end of the main
    /// process has been read.
    pub(super) async fn run(mut self, mut stages: watch::Receiver<Stage>, catching_up: mpsc::Sender<Infallible>) {
        let mut catching_up = Some(catching_up);
        loop {
            select! {
                biased;
                _ = stages.changed() => {
                    let stage = *stages.borrow_and_update();
                    self.empty().await;
                    self.release().await;
                    drop(catching_up.take());
                    if stage == Stage::Gone {
                        break;
                    }
                }
                more = self.step() => if !more { break },
            }
        }
        self.release().await;
        drop(catching_up);
        if let Some(tap) = self.outlets.tap {
            tap.close().await;
        }
    }

    /// Waits for output and passes on a part of it; false at the end. Dropping the wait loses no output.
    async fn step(&mut self) -> bool {
        select! {
            biased;
            ready = self.pipe.readable() => if ready.is_err() {
                return false;
            },
            () = sleep(PAUSE), if !self.cutter.held().is_empty() => {
                self.release().await;
                return true;
            }
        }
        // Last of all, as others may fill what was empty.
        self.outlets.wait_for_room().await;
        let found = self.take(pipe::Receiver::try_read);
        self.outlets.report(&self.source).await;
        // A child that writes without end would otherwise have the loop for itself.
        yield_now().await;
        !matches!(found, Found::End)
    }

    /// Passes on what is in the pipe now. Asks the kernel itself, since the runtime may not have heard of it yet.
    async fn empty(&mut self) {
        for _ in 0..LAST_READS {
            self.outlets.wait_for_room().await;
            let found = self.take(|pipe, buffer| Ok(nix::unistd::read(pipe, buffer)?));
            self.outlets.report(&self.source).await;
            if !matches!(found, Found::Bytes) {
                break;
            }
        }
    }

    /// Reads once and passes it on.
    fn take(&mut self, read: impl FnOnce(&pipe::Receiver, &mut [u8]) -> io::Result<usize>) -> Found {
        let mut buffer = self.outputs.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.cutter.held().len();
        buffer[..held].copy_from_slice(self.cutter.held());
        let length = match read(&self.pipe, &mut buffer[held..held + READ]) {
            Ok(0) => return Found::End,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Found::Nothing;
            }
            Err(error) => {
                tracing::error!("{}: its {} cannot be read: {error}", self.source.watcher, self.source.stream.name());
                return Found::End;
            }
        };
        if let Some((bytes, continues)) = self.cutter.cut(&buffer[..held + length]) {
            self.outlets.pass(&self.source, bytes, continues);
        }
        Found::Bytes
    }

    /// Passes on a line that has not come to its end.
    async fn release(&mut self) {
        self.outlets.wait_for_room().await;
        if let Some((bytes, continues)) = self.cutter.release() {
            self.outlets.pass(&self.source, &bytes, continues);
            self.outlets.report(&self.source).await;
        }
    }
}

impl Outlets {
    /// Lets a place catch up that gets on, so that what a child writes in one go is not lost: the child is held up as
    /// long as the place itself would have held it up.
    async fn wait_for_room(&self) {
        if let Some(tap) = &self.tap {
            tap.room().await;
        }
    }

    /// Passes on what was read.
    fn pass(&mut self, source: &Arc<Source>, bytes: &[u8], continues: bool) {
        let passage = Passage { source, time: Timestamp::now(), bytes, continues };
        self.hub.put(&passage);
        if let Some(tap) = &mut self.tap {
            tap.put(&passage);
        }
        self.heard.extend(self.ear.hear(&passage, Instant::now()));
    }

    /// Tells of the signs that were heard. Dropping the wait loses none.
    async fn report(&mut self, source: &Source) {
        while !self.heard.is_empty() {
            // Nobody listens to an agent that is leaving.
            let Ok(room) = self.events.reserve().await else { return self.heard.clear() };
            room.send(Event::Process(source.process, ProcessEvent::Matched(self.heard.remove(0))));
        }
    }
}
