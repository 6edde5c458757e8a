//! Leases without Redis: file locks in the state directory, for the agents of one machine.
//!
//! The questions and answers are those of the Lua scripts, so that one machine in the model serves both. Below
//! `STATE_DIR/leases/CLUSTER/` each lease has these files:
//!
//! ```text
//! NAME.lease   one line of JSON: who has it, under which token, until when. Its holder keeps it open and locked
//!              (flock) for the whole tenure, and the guard of the holder's child keeps the same open file.
//! NAME.mutex   locked for the moment of one question; holds the last token given. Never replaced, never removed.
//! NAME.members one line of JSON: the agents that contend for it, where they say so. Replaced at each word of one of them.
//! NAME.history a line of JSON for each fact about a tenure, the latest last; cut when there are too many.
//! NAME.slots   one line of JSON: of each watcher that runs at times under it the latest slot that was claimed.
//! NAME.paused  one line of JSON, while nobody is to take it: since when, who wants it so, and why.
//! NAME@WATCHER.runs  a line of JSON for each fact about a slot of that watcher, as in NAME.history.
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
//! * No polling: inotify tells of releases, of members and of pauses (a new file was renamed into place, or one is gone) and
//!   of deaths (the kernel closed a file that was open for writing).
//! * No fsync, but of a pause: a record matters only as long as this boot.
//! * No network file systems: their locks end with a connection, and their clients share no clock. They are refused.
//! * No way around an agent that was stopped *while* it asked (some microseconds): it keeps the mutex until it goes on
//!   or ends, and until then nobody gets the lease. None is better than two.

pub(super) mod files;
mod history;
mod members;
mod pauses;
mod record;
mod slots;
mod worker;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::inotify::{InitFlags, Inotify};
use tokio::sync::{mpsc, oneshot};

use self::files::{clock_name, file_name};
use self::worker::{Store, Worker};
use crate::model::command::RequestId;
use crate::model::election::{Muster, Word};
use crate::model::event::{Ask, Claim, Claimed, Event, HistoryRead, LeaseAnswer, Schedule, TokenState};
use crate::model::history::Fact;
use crate::model::names::{ClusterName, NodeName, Owner, WatcherName};
use crate::model::pause::{Told, Wish};

/// Whose leases, and where they are kept.
#[derive(Debug, Clone)]
pub struct Me {
    /// The state directory, shared by the agents that are to know each other's leases.
    pub dir: PathBuf,
    /// The cluster: agents of another one have other leases.
    pub cluster: ClusterName,
    /// This agent's node.
    pub node: NodeName,
    /// The agent itself, whatever its node is called, see [`Identity`](super::identity::Identity).
    pub instance: u128,
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
            instance: me.instance,
            clock: clock_name()?,
            names: me.leases.into_iter().map(|lease| (file_name(lease.as_str()), lease)).collect(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            queue,
            rung,
            events: events.clone(),
            holds: holds.clone(),
            tokens: HashMap::new(),
            before: HashMap::new(),
            looks: Vec::new(),
            attendance: HashMap::new(),
            heard: HashMap::new(),
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

    /// Tells that a node is one of those that contend for a lease, or with nothing that it is none any more, and asks who
    /// is; exactly one [`Event::Mustered`] follows. To be called inside a tokio runtime.
    pub fn muster(&mut self, watcher: WatcherName, word: Word) {
        let (of, sent) = (watcher.clone(), word.sent);
        self.put(
            |reply| Job::Muster { watcher, word, reply },
            move |result| Event::Mustered { watcher: of, sent, result },
        );
    }

    /// Claims a slot of a watcher under a lease; exactly one [`Event::SlotClaimed`] follows. To be called inside a tokio
    /// runtime.
    pub fn claim(&mut self, watcher: WatcherName, lease: WatcherName, claim: Claim) {
        let of = watcher.clone();
        self.put(
            |reply| Job::Claim { watcher, lease, claim, reply },
            move |result| {
                let answer = result.unwrap_or_else(Claimed::Unknown);
                Event::SlotClaimed { watcher: of, claim, answer }
            },
        );
    }

    /// Declares a lease free that nobody ever held, or whose trace is gone; exactly one [`Event::LeaseInitialised`]
    /// follows. To be called inside a tokio runtime.
    pub fn init_lease(&mut self, request: RequestId, watcher: WatcherName) {
        self.put(|reply| Job::Init { watcher, reply }, move |result| Event::LeaseInitialised { request, result });
    }

    /// Pauses a lease, lets it be taken again, or asks how that stands; exactly one [`Event::LeasePaused`] follows. To be
    /// called inside a tokio runtime.
    pub fn pause_lease(&mut self, request: RequestId, watcher: WatcherName, wish: Wish) {
        self.put(|reply| Job::Pause { watcher, wish, reply }, move |result| Event::LeasePaused { request, result });
    }

    /// Asks whether the tenure under `token` holds; exactly one [`Event::LeaseChecked`] follows. To be called inside a
    /// tokio runtime.
    pub fn check_lease(&mut self, request: RequestId, watcher: WatcherName, token: u64) {
        self.put(|reply| Job::Check { watcher, token, reply }, move |result| Event::LeaseChecked { request, result });
    }

    /// Reads what is kept of these leases and schedules; exactly one [`Event::HistoryRead`] follows. To be called inside a
    /// tokio runtime.
    pub fn read_history(&mut self, request: RequestId, watchers: Vec<WatcherName>, schedules: Vec<Schedule>) {
        self.put(|reply| Job::History { watchers, schedules, reply }, move |read| Event::HistoryRead { request, read });
    }

    /// Keeps a fact about a tenure.
    pub fn record(&mut self, watcher: WatcherName, fact: Fact) {
        if let Err(reason) = self.send(Job::Record { watcher, fact }) {
            tracing::warn!(%reason, "a fact is missing in the history of leases");
        }
    }

    /// This agent's node is called `node` from now on.
    pub fn rename(&mut self, node: &NodeName) {
        if let Err(reason) = self.send(Job::Rename(node.clone())) {
            tracing::warn!(%reason, "leases are taken under the old name");
        }
    }

    /// Puts a question; its answer, or why there is none, becomes an event.
    fn put<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Job,
        event: impl FnOnce(Result<T, String>) -> Event + Send + 'static,
    ) {
        /// File work on a disk that answers at all takes less.
        const PATIENCE: Duration = Duration::from_secs(5);
        let (reply, answer) = oneshot::channel();
        let queued = self.send(job(reply));
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = match queued {
                Ok(()) => within(PATIENCE, answer).await.and_then(|result| result),
                Err(reason) => Err(reason),
            };
            // An agent that no longer listens has no use for the answer.
            let _ = events.send(event(result)).await;
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
    Ask {
        watcher: WatcherName,
        ask: Ask,
        reply: oneshot::Sender<LeaseAnswer>,
    },
    Muster {
        watcher: WatcherName,
        word: Word,
        reply: oneshot::Sender<Result<Muster, String>>,
    },
    Claim {
        watcher: WatcherName,
        lease: WatcherName,
        claim: Claim,
        reply: oneshot::Sender<Result<Claimed, String>>,
    },
    Init {
        watcher: WatcherName,
        reply: oneshot::Sender<Result<(), String>>,
    },
    Pause {
        watcher: WatcherName,
        wish: Wish,
        reply: oneshot::Sender<Result<Told, String>>,
    },
    Check {
        watcher: WatcherName,
        token: u64,
        reply: oneshot::Sender<Result<TokenState, String>>,
    },
    Record {
        watcher: WatcherName,
        fact: Fact,
    },
    Rename(NodeName),
    History {
        watchers: Vec<WatcherName>,
        schedules: Vec<Schedule>,
        reply: oneshot::Sender<Result<HistoryRead, String>>,
    },
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
