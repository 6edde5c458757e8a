//! Leases without Redis: file locks in the state directory, for the agents of one machine.
//!
//! The questions and answers are those of the Lua scripts, so that one machine in the model serves both. Below
//! `STATE_DIR/leases/CLUSTER/` each lease has two files:
//!
//! ```text
//! NAME.lease   one line of JSON: who has it, under which token, until when. Its holder keeps it open and locked
//!              (flock) for the whole tenure, and the guard of the holder's child keeps the same open file.
//! NAME.mutex   locked for the moment of one question; holds the last token given. Never replaced, never removed.
//! ```
//!
//! # Who may have it
//!
//! A lock belongs to an open file, not to a process. The agent has that open file, and so has the guard, the parent
//! of the singleton's child, until the child's whole tree is gone. So the kernel itself frees the lock when the last
//! of them ends, and *a free lock says that nothing of the holder's tree is left*. That is more than a missing key in
//! Redis can say, and it is why no ttl is waited out after a crash: the next agent starts within milliseconds.
//!
//! A lock that is not free may still be had: an agent that is stopped (SIGSTOP) keeps its files, but its guard kills
//! the child when the lease's time is over. So a lock whose record ended on this same boot is passed by: a *new* file
//! takes the path's place. `CLOCK_BOOTTIME` is common to the machine; a record of another boot, or of a container
//! with a clock of its own, never ends by time.
//!
//! # Invariants
//!
//! * A locked file at the path is held. Locks are taken only on new files, before they get their name; what stands at
//!   the path is only ever probed with a shared lock, which takes nothing from anybody.
//! * A tenure is one file. Taking and releasing put a new file in place by `rename`; only a refresh writes into it.
//!   So a holder knows by the file's identity (device, inode) whether the lease is still its own.
//! * Every question is asked under `NAME.mutex`, so no decision falls between another's look and its rename.
//! * A token is above every token before it, because it is above the record's, above the mutex file's and above this
//!   agent's memory of both, and at least the wall clock's milliseconds. Tokens are drawn far more seldom than once
//!   a millisecond, so the clock alone is above all earlier tokens should every file have been deleted.
//! * What people do to the files costs time, not safety. Where the record is gone, is garbage, or stands in a file
//!   that is not the one it was written for, a holder may live on with the file that was there. Then nobody gets the
//!   lease for one ttl, within which that holder's refresh finds its file replaced (`Lost`), or its guard ends.
//!   Deleting the whole state directory also deletes that trace for agents which start afterwards.
//!
//! # Absent on purpose
//!
//! * No polling: inotify tells of releases (a new file was renamed into place) and of deaths (the kernel closed a
//!   file that was open for writing).
//! * No fsync: a record matters only as long as this boot.
//! * No network file systems: their locks end with a connection, and their clients share no clock. They are refused.
//! * No way around an agent that was stopped *while* it asked (some microseconds): it keeps the mutex until it goes on
//!   or ends, and until then nobody gets the lease. None is better than two.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::statfs::statfs;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::model::command::RequestId;
use crate::model::event::{Ask, AskKind, Event, LeaseAnswer};
use crate::model::lease::RESERVATION;
use crate::model::names::{ClusterName, NodeName, Owner, WatcherName};
use crate::model::time::Time;

/// Whose leases, and where they are kept.
#[derive(Debug, Clone)]
pub struct Me {
    /// The state directory, shared by the agents that are to know each other's leases.
    pub dir: PathBuf,
    /// The cluster: agents of another one have other leases.
    pub cluster: ClusterName,
    /// This agent's node.
    pub node: NodeName,
    /// The leases to hear of; those asked for later are added by themselves.
    pub leases: Vec<WatcherName>,
}

/// The lease store of one machine. Answers come as events; it ends when it is dropped.
#[derive(Debug)]
pub struct Local {
    jobs: SyncSender<Job>,
    /// A byte wakes the thread; the end of the stream ends it.
    bell: UnixStream,
    events: mpsc::Sender<Event>,
    holds: Holds,
}

/// How many questions may wait: far more than there are leases on a machine.
const QUEUE: usize = 1024;

impl Local {
    /// Starts the thread that does the file work. A state directory that cannot be used is no error here: it is
    /// reported as `StoreDown`, and each question says so again.
    pub fn start(me: Me, events: mpsc::Sender<Event>) -> io::Result<Local> {
        let (jobs, queue) = sync_channel(QUEUE);
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let holds = Holds::default();
        let worker = Worker {
            dir: me.dir.join("leases").join(file_name(me.cluster.as_str())),
            node: me.node,
            clock: clock_name()?,
            names: me.leases.into_iter().map(|lease| (file_name(lease.as_str()), lease)).collect(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            queue,
            rung,
            events: events.clone(),
            holds: holds.clone(),
            tokens: HashMap::new(),
            looks: Vec::new(),
            watched: false,
            store: Store::Unknown,
        };
        std::thread::Builder::new().name("leases".into()).spawn(move || worker.run())?;
        Ok(Local { jobs, bell, events, holds })
    }

    /// Asks; exactly one [`Event::Lease`] follows, at the latest after `timeout`. Never waits itself. To be called
    /// inside a tokio runtime.
    pub fn ask(&mut self, watcher: WatcherName, ask: Ask, timeout: Duration) {
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Job::Ask { watcher: watcher.clone(), ask: ask.clone(), reply });
        let events = self.events.clone();
        tokio::spawn(async move {
            let answer = match queued {
                Ok(()) => within(timeout, answer).await,
                Err(reason) => Err(reason),
            };
            let answer = answer.unwrap_or_else(|reason| LeaseAnswer::Failed { reason });
            // An agent that no longer listens has no use for the answer.
            let _ = events.send(Event::Lease { watcher, ask, answer }).await;
        });
    }

    /// Declares a lease free that nobody ever held, or whose trace is gone; exactly one [`Event::LeaseInitialised`]
    /// follows. To be called inside a tokio runtime.
    pub fn init_lease(&mut self, request: RequestId, watcher: WatcherName) {
        /// File work on a disk that answers at all takes less.
        const PATIENCE: Duration = Duration::from_secs(5);
        let (reply, answer) = oneshot::channel();
        let queued = self.send(Job::Init { watcher, reply });
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = match queued {
                Ok(()) => within(PATIENCE, answer).await.and_then(|result| result),
                Err(reason) => Err(reason),
            };
            let _ = events.send(Event::LeaseInitialised { request, result }).await;
        });
    }

    /// The open file behind a held lease, for the guard of its child to keep until the child's tree is gone. The kernel
    /// frees the lease when this agent and everyone who has got the file this way have closed it.
    pub fn hold(&self, watcher: &WatcherName) -> Option<OwnedFd> {
        let hold = lock(&self.holds).get(watcher).map(|hold| hold.file.clone())?;
        hold.try_clone().ok().map(OwnedFd::from)
    }

    fn send(&self, job: Job) -> Result<(), String> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => "too many questions wait for the state directory".to_owned(),
            TrySendError::Disconnected(_) => GONE.to_owned(),
        })?;
        // A full pipe wakes the thread as well as one more byte would.
        let _ = (&self.bell).write(&[0]);
        Ok(())
    }
}

const GONE: &str = "the thread that keeps the leases has ended";

async fn within<T>(timeout: Duration, answer: oneshot::Receiver<T>) -> Result<T, String> {
    match tokio::time::timeout(timeout, answer).await {
        Ok(answer) => answer.map_err(|_| GONE.to_owned()),
        Err(_) => Err(format!("no answer from the state directory within {} ms", timeout.as_millis())),
    }
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Job {
    Ask { watcher: WatcherName, ask: Ask, reply: oneshot::Sender<LeaseAnswer> },
    Init { watcher: WatcherName, reply: oneshot::Sender<Result<(), String>> },
}

/// The leases that this agent holds. Shared with the agent's loop, and never locked over file work.
type Holds = Arc<Mutex<HashMap<WatcherName, Hold>>>;

#[derive(Debug, Clone)]
struct Hold {
    owner: Owner,
    token: u64,
    /// Open and locked. Shared for the thread's own reading and writing; it closes with the last of them.
    file: Arc<File>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line in a lease file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    state: State,
    /// The last holder: node and nonce.
    owner: String,
    token: u64,
    /// When it ends, in nanoseconds since boot.
    until: u64,
    /// The holder's ttl, ms.
    ttl: u64,
    /// The clock that `until` and `reserved` are of: the boot, and the time namespace.
    clock: String,
    /// The file's own inode: another one says that somebody copied the record.
    inode: u64,
    /// The node that a free lease is kept for, until `reserved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    reserved: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Held,
    Free,
    Quarantine,
}

/// What stands at a lease's path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing, and nothing says that there ever was.
    Nothing,
    /// Somebody's doing: nothing, though tokens were given; or what no agent wrote into this file. A holder may live.
    Spoilt { locked: bool, why: &'static str },
    /// The record of a holder, whose lock is on the file or is not any more.
    Held { record: Record, locked: bool },
    /// The record of a release.
    Free(Record),
    /// Nobody is known to have it, but someone may, until the record ends.
    Quarantine(Record),
}

impl Found {
    fn record(&self) -> Option<&Record> {
        match self {
            Found::Nothing | Found::Spoilt { .. } => None,
            Found::Held { record, .. } | Found::Free(record) | Found::Quarantine(record) => Some(record),
        }
    }
}

/// What is to be done about a wish to take a lease.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Grant,
    /// Answer with this, and change nothing.
    Answer(LeaseAnswer),
    /// Nobody is known to hold it, but someone may: write that down, and wait.
    Quarantine,
    /// Someone holds it, unknown who and for how long: write down that it ends.
    Bound,
}

/// Decides about a wish of `node` to take the lease, as take.lua does on Redis.
fn verdict(found: &Found, node: &NodeName, clock: &str, now: Time, ttl: Duration) -> Verdict {
    // What is left until then; nothing when it has passed, or is no time of this clock.
    let left = |record: &Record, then: u64| {
        let left = now.until(Time::from_nanos(then));
        (record.clock == clock && !left.is_zero()).then_some(left)
    };
    match found {
        Found::Nothing => Verdict::Grant,
        Found::Spoilt { locked: false, .. } => Verdict::Quarantine,
        Found::Spoilt { locked: true, .. } => Verdict::Bound,
        Found::Held { locked: false, .. } => Verdict::Grant,
        Found::Held { record, locked: true } => {
            let its = Duration::from_millis(record.ttl);
            let held = |left| Verdict::Answer(LeaseAnswer::Held { by: record.owner.clone(), left, ttl: its });
            match left(record, record.until) {
                Some(left) => held(left),
                None if record.clock == clock => Verdict::Grant,
                None => held(its.max(ttl)),
            }
        }
        Found::Quarantine(record) => match left(record, record.until) {
            Some(left) => Verdict::Answer(LeaseAnswer::Quarantined { left }),
            None => Verdict::Grant,
        },
        Found::Free(record) => match (&record.to, left(record, record.reserved)) {
            (Some(to), Some(left)) if to != node.as_str() => {
                Verdict::Answer(LeaseAnswer::Reserved { node: to.clone(), left })
            }
            _ => Verdict::Grant,
        },
    }
}

/// Does the file work, one job after the other, and listens for changes in between.
struct Worker {
    dir: PathBuf,
    node: NodeName,
    clock: String,
    /// The leases by the first part of their files' names.
    names: HashMap<String, WatcherName>,
    inotify: Inotify,
    queue: Receiver<Job>,
    rung: UnixStream,
    events: mpsc::Sender<Event>,
    holds: Holds,
    /// The highest token seen of each lease.
    tokens: HashMap<WatcherName, u64>,
    looks: Vec<Look>,
    /// Whether the directory is there and listened to.
    watched: bool,
    /// What was last said of it.
    store: Store,
}

#[derive(Debug, PartialEq, Eq)]
enum Store {
    Unknown,
    Up,
    Down(String),
}

/// A lease file was closed: whether its lock is free is to be looked at, repeatedly for a short while.
///
/// The kernel reports the close before it drops the lock, so the first look can come too early.
struct Look {
    lease: WatcherName,
    at: Instant,
    pause: Duration,
}

impl Look {
    const FIRST: Duration = Duration::from_millis(1);
    /// Pauses double up to this, half a second in all.
    const LAST: Duration = Duration::from_millis(256);
}

impl Worker {
    fn run(mut self) {
        self.reach();
        while self.wait() {
            self.hear();
            self.work_off();
            self.look();
        }
        // What was still asked for: a release, as likely as not.
        self.work_off();
    }

    /// Waits for a job, a change in the directory or a look that is due; false when it is time to end.
    fn wait(&mut self) -> bool {
        /// How often a directory that cannot be used is tried again.
        const RETRY: Duration = Duration::from_secs(1);
        let look = self.looks.iter().map(|look| look.at).min();
        let look = look.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_micros(999));
        let retry = (!self.watched).then_some(RETRY);
        let timeout = look
            .into_iter()
            .chain(retry)
            .min()
            .map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let mut fds =
            [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN), PollFd::new(self.rung.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => self.reach(),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
        let mut rings = [0; 256];
        loop {
            match (&self.rung).read(&mut rings) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn tell(&self, event: Event) {
        // An agent that no longer listens has dropped us as well, which `wait` is about to notice.
        let _ = self.events.blocking_send(event);
    }

    /// Anything may have happened to any of the leases.
    fn tell_all_freed(&self) {
        self.names.values().cloned().for_each(|watcher| self.tell(Event::LeaseFreed { watcher }));
    }

    // ------------------------------------------------------------------------------------------------ questions

    fn work_off(&mut self) {
        while let Ok(job) = self.queue.try_recv() {
            self.work(job);
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            // Nobody waits for the answer any more, and it was counted as failed; but a release is always right.
            Job::Ask { ask, reply, .. } if reply.is_closed() && !matches!(ask.kind, AskKind::Release { .. }) => {}
            Job::Ask { watcher, ask, reply } => {
                let answer = self.transact(&watcher, |worker, paths, mutex| match &ask.kind {
                    AskKind::Take { ttl, longest } => worker.take(&watcher, paths, mutex, &ask, *ttl, *longest),
                    AskKind::Refresh { ttl, .. } => worker.refresh(&watcher, paths, &ask, *ttl),
                    AskKind::Release { to } => Ok(worker.release(&watcher, paths, &ask, to.as_ref())),
                });
                let _ = reply.send(answer.unwrap_or_else(|reason| LeaseAnswer::Failed { reason }));
            }
            Job::Init { watcher, reply } => {
                let result = self.transact(&watcher, |worker, paths, mutex| worker.init(&watcher, paths, mutex));
                let _ = reply.send(result.and_then(|known| known));
            }
        }
    }

    /// Runs `decide` under the lease's mutex, in a directory that is there.
    fn transact<T>(
        &mut self,
        watcher: &WatcherName,
        decide: impl FnOnce(&mut Worker, &Paths, &LeaseMutex) -> io::Result<T>,
    ) -> Result<T, String> {
        self.names.entry(file_name(watcher.as_str())).or_insert_with(|| watcher.clone());
        self.reach();
        if let Store::Down(reason) = &self.store {
            return Err(reason.clone());
        }
        let paths = Paths::new(&self.dir, watcher);
        let mutex = LeaseMutex::lock(&paths.mutex).inspect_err(|error| {
            // The directory was removed beneath us: it is made anew.
            self.watched &= error.kind() != io::ErrorKind::NotFound;
        });
        mutex.and_then(|mutex| decide(self, &paths, &mutex)).map_err(|error| error.to_string())
    }

    fn take(
        &mut self,
        watcher: &WatcherName,
        paths: &Paths,
        mutex: &LeaseMutex,
        ask: &Ask,
        ttl: Duration,
        longest: Duration,
    ) -> io::Result<LeaseAnswer> {
        // A question asked again whose first answer was lost is granted again, under the same token.
        if let Some(hold) = self.held(watcher, paths, &ask.owner) {
            self.prolong(&hold, ask, ttl).map_err(at(&paths.lease))?;
            return Ok(LeaseAnswer::Granted { token: hold.token });
        }
        let last = mutex.token().max(self.tokens.get(watcher).copied().unwrap_or(0));
        let found = find(paths, last)?;
        let last = last.max(found.record().map_or(0, |record| record.token));
        let longest = longest.max(ttl);
        self.tokens.insert(watcher.clone(), last);
        let now = boottime();
        match verdict(&found, &self.node, &self.clock, now, ttl) {
            Verdict::Grant => {
                let token = last.saturating_add(1).max(wall_clock_ms());
                // Before the lease itself: a token that is written down too early is merely one not used.
                mutex.remember(token)?;
                let owner = ask.owner.clone();
                let record = self.record(State::Held, owner.to_string(), token, ask.sent + ttl, ttl);
                let file = draft(paths, record, Lock::Taken)?;
                publish(paths)?;
                self.tokens.insert(watcher.clone(), token);
                lock(&self.holds).insert(watcher.clone(), Hold { owner, token, file: Arc::new(file) });
                Ok(LeaseAnswer::Granted { token })
            }
            Verdict::Quarantine => {
                let record = self.record(State::Quarantine, String::new(), last, now + longest, longest);
                publish_free(paths, record)?;
                Ok(LeaseAnswer::Quarantined { left: longest })
            }
            Verdict::Bound => {
                let file = OpenOptions::new().write(true).open(&paths.lease).map_err(at(&paths.lease))?;
                let record = self.record(State::Held, "unknown".into(), last, now + longest, longest);
                write_record(&file, record).map_err(at(&paths.lease))?;
                Ok(LeaseAnswer::Held { by: "unknown".into(), left: longest, ttl: longest })
            }
            Verdict::Answer(answer) => Ok(answer),
        }
    }

    fn refresh(&mut self, watcher: &WatcherName, paths: &Paths, ask: &Ask, ttl: Duration) -> io::Result<LeaseAnswer> {
        match self.held(watcher, paths, &ask.owner) {
            Some(hold) => {
                self.prolong(&hold, ask, ttl).map_err(at(&paths.lease))?;
                Ok(LeaseAnswer::Granted { token: hold.token })
            }
            None => {
                let by = match find(paths, 0)? {
                    Found::Held { record, .. } => Some(record.owner),
                    _ => None,
                };
                Ok(LeaseAnswer::Lost { by })
            }
        }
    }

    fn release(&mut self, watcher: &WatcherName, paths: &Paths, ask: &Ask, to: Option<&NodeName>) -> LeaseAnswer {
        let Some(hold) = self.held(watcher, paths, &ask.owner) else {
            return LeaseAnswer::Released;
        };
        let now = boottime();
        let free = Record {
            to: to.map(ToString::to_string),
            reserved: to.map_or(0, |_| (now + RESERVATION).as_nanos()),
            ..self.record(State::Free, hold.owner.to_string(), hold.token, now, Duration::ZERO)
        };
        // Where nothing can be written the lock alone tells that the lease is free.
        let _ = publish_free(paths, free);
        lock(&self.holds).remove(watcher);
        // Not left to the closing: a guard that is just ending may have the file open a moment longer.
        let _ = hold.file.unlock();
        LeaseAnswer::Released
    }

    fn init(&mut self, watcher: &WatcherName, paths: &Paths, mutex: &LeaseMutex) -> io::Result<Result<(), String>> {
        let last = mutex.token().max(self.tokens.get(watcher).copied().unwrap_or(0));
        let past = match find(paths, last)? {
            Found::Nothing => None,
            Found::Quarantine(record) if record.token == 0 && last == 0 => None,
            Found::Quarantine(_) => Some("it is quarantined because a holder may be alive".to_owned()),
            Found::Spoilt { why, .. } => Some(format!("{why}, and a holder may be alive")),
            Found::Held { record, .. } => Some(format!("its last holder is {}", record.owner)),
            Found::Free(_) => Some("it is free".to_owned()),
        };
        if let Some(past) = past {
            return Ok(Err(format!("{watcher} needs no initialising: {past}")));
        }
        publish_free(paths, self.record(State::Free, String::new(), last, boottime(), Duration::ZERO))?;
        Ok(Ok(()))
    }

    /// Our hold of the lease, if `owner` has it and it still is what stands at the path.
    fn held(&mut self, watcher: &WatcherName, paths: &Paths, owner: &Owner) -> Option<Hold> {
        let hold = lock(&self.holds).get(watcher).filter(|hold| hold.owner == *owner).cloned()?;
        if is_at(&hold.file, &paths.lease) {
            return Some(hold);
        }
        lock(&self.holds).remove(watcher);
        None
    }

    fn prolong(&self, hold: &Hold, ask: &Ask, ttl: Duration) -> io::Result<()> {
        write_record(&hold.file, self.record(State::Held, hold.owner.to_string(), hold.token, ask.sent + ttl, ttl))
    }

    fn record(&self, state: State, owner: String, token: u64, until: Time, ttl: Duration) -> Record {
        let clock = self.clock.clone();
        Record {
            state,
            owner,
            token,
            until: until.as_nanos(),
            ttl: millis(ttl),
            clock,
            inode: 0,
            to: None,
            reserved: 0,
        }
    }

    // ---------------------------------------------------------------------------------------------------- changes

    /// Makes sure that the directory is there, can carry locks, and is listened to; and says so when that changes.
    fn reach(&mut self) {
        if self.watched {
            return;
        }
        let store = match self.watch() {
            Ok(()) => Store::Up,
            Err(error) => Store::Down(error.to_string()),
        };
        let before = std::mem::replace(&mut self.store, store);
        match &self.store {
            _ if self.store == before => {}
            Store::Up => self.tell(Event::StoreUp),
            Store::Down(reason) => self.tell(Event::StoreDown { reason: reason.clone() }),
            Store::Unknown => {}
        }
        self.watched = self.store == Store::Up;
        if self.watched && before != Store::Unknown {
            self.tell_all_freed();
        }
    }

    fn watch(&self) -> io::Result<()> {
        let named = at(&self.dir);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(&named)?;
        refuse_network(&self.dir).map_err(&named)?;
        let what = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR
            // The file of an earlier tenure, which a guard may close late, is no news.
            | AddWatchFlags::from_bits_retain(libc::IN_EXCL_UNLINK);
        self.inotify.add_watch(&self.dir, what).map_err(|errno| named(errno.into()))?;
        Ok(())
    }

    /// Reads what happened in the directory.
    fn hear(&mut self) {
        let lost = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.intersects(lost) {
                    self.watched = false;
                }
                if event.mask.intersects(lost | AddWatchFlags::IN_Q_OVERFLOW) {
                    self.tell_all_freed();
                    continue;
                }
                let name = event.name.as_deref().and_then(|name| name.to_str()?.strip_suffix(LEASE));
                let Some(lease) = name.and_then(|name| self.names.get(name)).cloned() else { continue };
                if event.mask.intersects(AddWatchFlags::IN_CLOSE_WRITE) {
                    self.looks.retain(|look| look.lease != lease);
                    self.looks.push(Look { lease, at: Instant::now(), pause: Look::FIRST });
                } else if !self.is_taken(&lease) {
                    self.tell(Event::LeaseFreed { watcher: lease });
                }
            }
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.looks).into_iter().partition(|look| look.at <= now);
        self.looks = later;
        for look in due {
            let Look { lease, pause, .. } = look;
            if !self.is_taken(&lease) {
                self.tell(Event::LeaseFreed { watcher: lease });
            } else if pause <= Look::LAST {
                self.looks.push(Look { lease, at: Instant::now() + pause, pause: pause * 2 });
            }
        }
    }

    /// Whether a lock is on the lease; when in doubt it is worth a question, which then names the trouble.
    fn is_taken(&self, lease: &WatcherName) -> bool {
        find(&Paths::new(&self.dir, lease), 0)
            .is_ok_and(|found| matches!(found, Found::Held { locked: true, .. } | Found::Spoilt { locked: true, .. }))
    }
}

// ---------------------------------------------------------------------------------------------------------- identity

/// What makes an agent itself over its restarts.
#[derive(Debug)]
pub struct Identity {
    /// Drawn at the node's first start with this state directory.
    pub instance: u128,
    /// Locked for as long as it is open; keep it for the agent's life, and let no child inherit it.
    pub lock: OwnedFd,
}

/// Why an agent has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another agent runs under this name.
    #[error("another agent named {node} runs on this machine ({}), with the same state directory {}; \
             give one of them another name (node = …) or another state_dir",
            pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}")), dir.display())]
    Taken {
        /// The name.
        node: NodeName,
        /// The state directory.
        dir: PathBuf,
        /// Its process, where its file says.
        pid: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error("cannot keep this node's identity: {0}")]
    Io(#[from] io::Error),
}

/// This node's identity, from `STATE_DIR/NODE.id` or new; refused while another agent has it.
///
/// The instance tells a restarted agent from another one with the same name: the first is recognised in the
/// registry, the second refused.
pub fn identity(state_dir: &Path, node: &NodeName) -> Result<Identity, IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(at(state_dir))?;
    let path = state_dir.join(format!("{}.id", file_name(node.as_str())));
    let named = at(&path);
    let file = private().read(true).write(true).create(true).truncate(false).open(&path).map_err(&named)?;
    let locked = file.try_lock();
    let mut text = Vec::new();
    (&file).take(4096).read_to_end(&mut text).map_err(&named)?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let (instance, pid) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = pid.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
            return Err(IdentityError::Taken { node: node.clone(), dir: state_dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(named(error).into()),
    }
    let known = (instance.len() == 32).then(|| u128::from_str_radix(instance, 16).ok()).flatten();
    let instance = match known {
        Some(instance) => instance,
        None => {
            let mut bits = [0; 16];
            getrandom::fill(&mut bits).map_err(|error| named(io::Error::other(error.to_string())))?;
            u128::from_ne_bytes(bits)
        }
    };
    // Same length up to the pid: an agent killed in the middle of this keeps its instance.
    let text = format!("{instance:032x}\npid {}\n", std::process::id());
    file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64)).map_err(&named)?;
    Ok(Identity { instance, lock: file.into() })
}

/// Where state is kept when nothing is configured: `/var/lib/circus` if it can be written, else
/// `$XDG_STATE_HOME/circus`, else `~/.local/state/circus`.
pub fn default_state_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    choose_state_dir(Path::new("/var/lib/circus"), var("XDG_STATE_HOME"), var("HOME"))
}

fn choose_state_dir(system: &Path, xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(system);
    if made.is_ok() && access(system, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
        return system.to_owned();
    }
    // A relative path is to be ignored, says the XDG specification; it would follow the working directory.
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = xdg.filter(absolute).or_else(|| home.filter(absolute).map(|home| home.join(".local/state")));
    // Without a home there is nowhere else: what then fails names this path.
    state.map_or_else(|| system.to_owned(), |state| state.join("circus"))
}

// ------------------------------------------------------------------------------------------------------------- files

const LEASE: &str = ".lease";

/// The files of one lease.
struct Paths {
    lease: PathBuf,
    /// A lease file to be; whoever has the mutex may write it.
    new: PathBuf,
    mutex: PathBuf,
}

impl Paths {
    fn new(dir: &Path, watcher: &WatcherName) -> Paths {
        let name = file_name(watcher.as_str());
        let path = |suffix: &str| dir.join(format!("{name}{suffix}"));
        Paths { lease: path(LEASE), new: path(".new"), mutex: path(".mutex") }
    }
}

/// A text as a file's name: what is no letter, digit, `_`, `-` or inner dot becomes `%` and its hexadecimal number.
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            b'.' if i > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

/// Reads what stands at the path, and probes its lock. `last` is the highest token known from elsewhere.
fn find(paths: &Paths, last: u64) -> io::Result<Found> {
    // For reading only: closing a file that was open for writing would wake every waiting agent.
    let file = match private().read(true).open(&paths.lease) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && last == 0 => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found::Spoilt { locked: false, why: "its file was removed" });
        }
        Err(error) => return Err(at(&paths.lease)(error)),
    };
    let locked = match file.try_lock_shared() {
        Ok(()) => {
            // Not left to the closing: a child forked in this moment has the file open until it executes.
            let _ = file.unlock();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => return Err(at(&paths.lease)(error)),
    };
    let mut text = Vec::new();
    (&file).take(64 * 1024).read_to_end(&mut text).map_err(at(&paths.lease))?;
    let inode = file.metadata().map_err(at(&paths.lease))?.ino();
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let spoilt = |why| Found::Spoilt { locked, why };
    Ok(match serde_json::from_slice::<Record>(line) {
        Err(_) => spoilt("its file holds no record"),
        Ok(record) if record.state == State::Quarantine && !locked => Found::Quarantine(record),
        // A copy that took the place of the file which a holder may have locked.
        Ok(record) if record.inode != inode => spoilt("its file holds the record of another file"),
        Ok(record) if record.state == State::Held => Found::Held { record, locked },
        Ok(record) if !locked => Found::Free(record),
        Ok(_) => spoilt("its file is locked, and says that it is free"),
    })
}

#[derive(Clone, Copy)]
enum Lock {
    Taken,
    Free,
}

/// A new file with this record, locked or not, that does not have the lease's path yet.
fn draft(paths: &Paths, record: Record, lock: Lock) -> io::Result<File> {
    let named = at(&paths.new);
    // One that an agent left behind when it was killed may be open in its guard: never write into it.
    match std::fs::remove_file(&paths.new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let file = private().read(true).write(true).create_new(true).open(&paths.new).map_err(&named)?;
    match lock {
        Lock::Taken => file.try_lock().map_err(|error| named(error.into()))?,
        Lock::Free => {}
    }
    write_record(&file, record).map_err(&named)?;
    Ok(file)
}

/// Puts the draft in the lease's place.
fn publish(paths: &Paths) -> io::Result<()> {
    std::fs::rename(&paths.new, &paths.lease).map_err(at(&paths.lease))
}

/// Puts a record in the lease's place that nobody's lock is on.
fn publish_free(paths: &Paths, record: Record) -> io::Result<()> {
    // Closed before it has the lease's name, so that waiting agents hear of it once: of the rename.
    drop(draft(paths, record, Lock::Free)?);
    publish(paths)
}

/// Writes the record's line over the one before. Readers take the first line only, so that a longer one that an agent
/// did not live to cut off does not matter.
fn write_record(file: &File, mut record: Record) -> io::Result<()> {
    record.inode = file.metadata()?.ino();
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    file.write_all_at(&line, 0)?;
    file.set_len(line.len() as u64)
}

/// Whether `file` is what stands at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

/// Files for this user only: whoever can open one can lock it.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

/// The lock that makes one question of several file operations.
struct LeaseMutex {
    file: File,
    path: PathBuf,
}

impl LeaseMutex {
    /// Together long beside a question's microseconds, and short beside a third of the shortest ttl, after which the
    /// other leases that this thread keeps would fail.
    const TRIES: u32 = 40;
    const PAUSE: Duration = Duration::from_millis(1);

    fn lock(path: &Path) -> io::Result<LeaseMutex> {
        for _ in 0..LeaseMutex::TRIES {
            let file = private().read(true).write(true).create(true).truncate(false).open(path).map_err(at(path))?;
            match file.try_lock() {
                // Somebody may have removed the file between our opening and our locking it.
                Ok(()) if is_at(&file, path) => return Ok(LeaseMutex { file, path: path.to_owned() }),
                Ok(()) | Err(TryLockError::WouldBlock) => std::thread::sleep(LeaseMutex::PAUSE),
                Err(TryLockError::Error(error)) => return Err(at(path)(error)),
            }
        }
        Err(at(path)(io::Error::new(io::ErrorKind::TimedOut, "another agent keeps it locked; is one of them stopped?")))
    }

    /// The last token given; 0 where none was.
    fn token(&self) -> u64 {
        let mut text = [0; 32];
        let read = self.file.read_at(&mut text, 0).unwrap_or(0);
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        // Text that is no number is the trace of a token all the same.
        if text.is_empty() { 0 } else { text.trim().parse().unwrap_or(1) }
    }

    fn remember(&self, token: u64) -> io::Result<()> {
        // Tokens have the clock's thirteen digits for some centuries: each covers the one before.
        self.file.write_all_at(format!("{token}\n").as_bytes(), 0).map_err(at(&self.path))
    }
}

impl Drop for LeaseMutex {
    fn drop(&mut self) {
        // Not left to the closing: a child forked in this moment has the file open until it executes.
        let _ = self.file.unlock();
    }
}

/// Adds the path to an error.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Refuses file systems that other machines write as well: the lock of one that lost its connection is given away
/// while its child runs on, and a record's end means nothing on another machine's clock.
fn refuse_network(dir: &Path) -> io::Result<()> {
    const SHARED: [(u32, &str); 9] = [
        (0x0000_6969, "NFS"),
        (0x0000_517B, "SMB"),
        (0xFE53_4D42, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
        (0x0116_1970, "GFS2"),
        (0x7461_636F, "OCFS2"),
        (0x0BD0_0BD0, "Lustre"),
    ];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the kernel's numbers have 32 bits")]
    let kind = statfs(dir)?.filesystem_type().0 as u32;
    match SHARED.iter().find(|(number, _)| *number == kind) {
        Some((_, name)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "is on {name}, but file locks keep leases on one machine only: set state_dir to a local disk, or use [redis]"
            ),
        )),
        None => Ok(()),
    }
}

// ------------------------------------------------------------------------------------------------------------ clocks

fn boottime() -> Time {
    // The clock is there since Linux 2.6.39, and the argument is a constant: it cannot fail.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Time::ZERO + now
}

/// What `CLOCK_BOOTTIME` counts from: this boot, as seen in this time namespace.
fn clock_name() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = std::fs::read_to_string(path).map_err(at(path))?;
    // Absent before Linux 5.6, where there is only one.
    let space = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    Ok(format!("{} {}", boot.trim(), space.display()))
}

fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TTL: Duration = Duration::from_secs(15);

    fn record(state: State, clock: &str, until: u64) -> Record {
        let owner = "amy:00000000000000000000000000000007".to_owned();
        Record { state, owner, token: 7, until, ttl: 15_000, clock: clock.into(), inode: 1, to: None, reserved: 0 }
    }

    fn at_second_100(found: &Found) -> Verdict {
        verdict(found, &NodeName::parse("ben").unwrap(), "this boot", Time::from_nanos(100 * SECOND), TTL)
    }

    fn held(left: u64) -> Verdict {
        let (left, by) = (Duration::from_secs(left), "amy:00000000000000000000000000000007".to_owned());
        Verdict::Answer(LeaseAnswer::Held { by, left, ttl: TTL })
    }

    #[test]
    fn a_free_lock_is_permission_whatever_the_time_and_a_taken_one_until_it_ends_on_this_clock() {
        for clock in ["this boot", "another boot"] {
            for until in [99, 101] {
                let record = record(State::Held, clock, until * SECOND);
                assert_eq!(at_second_100(&Found::Held { record, locked: false }), Verdict::Grant);
            }
        }
        let locked = |clock, until| Found::Held { record: record(State::Held, clock, until), locked: true };
        assert_eq!(at_second_100(&locked("this boot", 101 * SECOND)), held(1));
        assert_eq!(at_second_100(&locked("this boot", 100 * SECOND + 1)), {
            let Verdict::Answer(LeaseAnswer::Held { by, ttl, .. }) = held(0) else { unreachable!() };
            Verdict::Answer(LeaseAnswer::Held { by, left: Duration::from_nanos(1), ttl })
        });
        assert_eq!(at_second_100(&locked("this boot", 100 * SECOND)), Verdict::Grant);
        assert_eq!(at_second_100(&locked("another boot", 0)), held(15));
    }

    #[test]
    fn what_somebody_did_to_the_file_is_no_permission() {
        assert_eq!(at_second_100(&Found::Nothing), Verdict::Grant);
        assert_eq!(at_second_100(&Found::Spoilt { locked: false, why: "" }), Verdict::Quarantine);
        assert_eq!(at_second_100(&Found::Spoilt { locked: true, why: "" }), Verdict::Bound);
    }

    #[test]
    fn a_quarantine_ends_with_its_time_or_with_the_boot() {
        let quarantine = |clock, until| at_second_100(&Found::Quarantine(record(State::Quarantine, clock, until)));
        let left = Duration::from_secs(1);
        assert_eq!(quarantine("this boot", 101 * SECOND), Verdict::Answer(LeaseAnswer::Quarantined { left }));
        assert_eq!(quarantine("this boot", 100 * SECOND), Verdict::Grant);
        assert_eq!(quarantine("another boot", 101 * SECOND), Verdict::Grant);
    }

    #[test]
    fn a_reservation_binds_others_for_its_time_on_this_boot() {
        let free = |clock, to: &str, reserved| {
            let to = Some(to.to_owned());
            at_second_100(&Found::Free(Record { to, reserved, ..record(State::Free, clock, 99 * SECOND) }))
        };
        let (node, left) = ("eve".to_owned(), Duration::from_secs(2));
        assert_eq!(free("this boot", "eve", 102 * SECOND), Verdict::Answer(LeaseAnswer::Reserved { node, left }));
        assert_eq!(free("this boot", "ben", 102 * SECOND), Verdict::Grant);
        assert_eq!(free("this boot", "eve", 100 * SECOND), Verdict::Grant);
        assert_eq!(free("another boot", "eve", 102 * SECOND), Verdict::Grant);
    }

    #[test]
    fn different_names_are_different_files_of_one_directory() {
        let names = ["a", "A", "a.b", "..", ".", "a/b", "a%2Fb", "%", "ä", "a b", "a_b"];
        let files: std::collections::HashSet<String> = names.iter().map(|name| file_name(name)).collect();
        assert_eq!(files.len(), names.len());
        assert!(files.iter().all(|file| !file.contains('/') && !file.starts_with('.')), "{files:?}");
    }

    #[test]
    fn state_goes_to_the_first_place_that_can_be_written() {
        let dir = tempfile::TempDir::new().unwrap();
        let good = dir.path().join("var");
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(choose_state_dir(&good, path("/xdg"), path("/home/me")), good);
        assert!(good.is_dir());
        let bad = Path::new("/proc/circus");
        assert_eq!(choose_state_dir(bad, path("/xdg"), path("/home/me")), Path::new("/xdg/circus"));
        assert_eq!(choose_state_dir(bad, path("xdg"), path("/home/me")), Path::new("/home/me/.local/state/circus"));
        assert_eq!(choose_state_dir(bad, None, path("")), bad);
    }
}
