//! The thread that does the file work: questions in turn, and in between an ear for what others do to the files.

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, Inotify};
use tokio::sync::mpsc;

use super::files::{
    LEASE, LeaseMutex, Lock, MEMBERS, PAUSED, Paths, at, boottime, draft, file_name, find, is_at, millis, publish,
    publish_free, refuse_network, wall_clock_ms, write_record,
};
use super::history::{self, Was};
use super::members;
use super::pauses;
use super::record::{Found, Record, State, Verdict, verdict};
use super::slots;
use super::{Hold, Holds, Job, lock};
use crate::model::attendance::{Attendance, Register};
use crate::model::election::Word;
use crate::model::event::{
    Ask, AskKind, Claim, Claimed, Event, HistoryRead, LeaseAnswer, Schedule, ScheduleRead, TokenState,
};
use crate::model::history::{Fact, What};
use crate::model::lease::RESERVATION;
use crate::model::names::{NodeName, Owner, WatcherName};
use crate::model::pause::{Told, Wish};
use crate::model::runs::Turn;
use crate::model::time::Time;

/// Does the file work, one job after the other, and listens for changes in between.
pub(super) struct Worker {
    pub(super) dir: PathBuf,
    pub(super) node: NodeName,
    pub(super) instance: u128,
    pub(super) clock: String,
    /// The leases by the first part of their files' names.
    pub(super) names: HashMap<String, WatcherName>,
    pub(super) inotify: Inotify,
    pub(super) queue: Receiver<Job>,
    pub(super) rung: UnixStream,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) holds: Holds,
    /// The highest token seen of each lease.
    pub(super) tokens: HashMap<WatcherName, u64>,
    /// Of each lease that this agent took, the tenure before.
    pub(super) before: HashMap<WatcherName, Was>,
    pub(super) looks: Vec<Look>,
    /// Of each lease for which this agent contends, who else does; and the record of it that was heard of last.
    pub(super) attendance: HashMap<WatcherName, Attendance>,
    pub(super) heard: HashMap<WatcherName, members::Record>,
    /// Whether the directory is there and listened to.
    pub(super) watched: bool,
    /// What was last said of it.
    pub(super) store: Store,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Store {
    Unknown,
    Up,
    Down(String),
}

/// A lease file was closed: whether its lock is free is to be looked at, repeatedly for a short while.
///
/// The kernel reports the close before it drops the lock, so the first look can come too early.
pub(super) struct Look {
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
    pub(super) fn run(mut self) {
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

    /// Anything may have happened to any of the leases and their members.
    fn tell_all_freed(&self) {
        self.names.values().cloned().for_each(|watcher| self.tell(Event::LeaseFreed { watcher }));
        self.heard.keys().cloned().for_each(|watcher| self.tell(Event::MembersChanged { watcher }));
    }

    // ------------------------------------------------------------------------------------------------ questions

    fn work_off(&mut self) {
        while let Ok(job) = self.queue.try_recv() {
            self.work(job);
        }
    }

    /// Claims a slot, which is a fact about it too.
    fn claim(&self, paths: &Paths, watcher: &WatcherName, claim: Claim) -> io::Result<Claimed> {
        let claimed = slots::claim(paths, watcher, &self.node, claim)?;
        if claimed == Claimed::Ours {
            let what = What::Run { watcher: watcher.clone(), slot: claim.slot, turn: Turn::Claimed };
            history::append(paths, &self.node, &Fact { token: claim.token, at: boottime(), what }, None)?;
        }
        Ok(claimed)
    }

    fn read_history(&mut self, watchers: Vec<WatcherName>, schedules: Vec<Schedule>) -> Result<HistoryRead, String> {
        let mut read = HistoryRead { now: wall_clock_ms(), ..HistoryRead::default() };
        for watcher in watchers {
            let entries = self.transact(&watcher, |_, paths, _| history::entries(&paths.history))?;
            read.leases.push((watcher, entries));
        }
        for Schedule { watcher, lease } in schedules {
            let of_one = self.transact(&lease.watcher, |worker, paths, _| {
                let entries = history::entries(&paths.runs(&watcher))?;
                // Only the latest of those that ran something can still hold the lease.
                let holder = match entries.iter().map(|entry| entry.token).max() {
                    Some(token) => match worker.token_state(paths, token)? {
                        TokenState::Holds { .. } => Some(token),
                        TokenState::Over { .. } => None,
                    },
                    None => None,
                };
                Ok(ScheduleRead { watcher, entries, holder })
            });
            read.schedules.push(of_one?);
        }
        Ok(read)
    }

    fn work(&mut self, job: Job) {
        match job {
            // Nobody waits for the answer any more, and it was counted as failed; but a release is always right.
            Job::Ask { ask, reply, .. } if reply.is_closed() && !matches!(ask.kind, AskKind::Release { .. }) => {}
            Job::Ask { watcher, ask, reply } => {
                let answer = self.transact(&watcher, |worker, paths, mutex| match &ask.kind {
                    AskKind::Take { ttl, longest, .. } => worker.take(&watcher, paths, mutex, &ask, *ttl, *longest),
                    AskKind::Refresh { ttl, .. } => worker.refresh(&watcher, paths, &ask, *ttl),
                    AskKind::Release { to } => Ok(worker.release(&watcher, paths, &ask, to.as_ref())),
                    AskKind::Withdraw => Ok(worker.release(&watcher, paths, &ask, None)),
                });
                let _ = reply.send(answer.unwrap_or_else(|reason| LeaseAnswer::Failed { reason }));
            }
            // Nobody waits for the answer any more, but who leaves has left.
            Job::Muster { word: Word { membership: Some(_), .. }, reply, .. } if reply.is_closed() => {}
            Job::Muster { watcher, word, reply } => {
                let register = self.transact(&watcher, |worker, paths, _| worker.muster(&watcher, paths, &word));
                let _ = reply.send(self.attendance.entry(watcher).or_default().call(word.sent, vec![register]));
            }
            // Nobody waits for the answer any more.
            Job::Claim { reply, .. } if reply.is_closed() => {}
            Job::Claim { watcher, lease, claim, reply } => {
                let answer =
                    self.transact(&lease, |worker, paths, _| match worker.token_state(paths, claim.token)? {
                        TokenState::Holds { .. } => worker.claim(paths, &watcher, claim),
                        TokenState::Over { .. } => Ok(Claimed::Unknown("the lease is another tenure's".into())),
                    });
                let _ = reply.send(answer);
            }
            Job::Pause { watcher, wish, reply } => {
                let result = self.transact(&watcher, |worker, paths, _| worker.pause(paths, &wish));
                let _ = reply.send(result);
            }
            Job::Check { watcher, token, reply } => {
                let result = self.transact(&watcher, |worker, paths, _| worker.token_state(paths, token));
                let _ = reply.send(result);
            }
            Job::Record { watcher, fact } => {
                let kept = self.transact(&watcher, |worker, paths, _| {
                    let was = worker.before.get(&watcher).filter(|was| was.by == fact.token);
                    history::append(paths, &worker.node, &fact, was)
                });
                if let Err(reason) = kept {
                    tracing::warn!(%reason, "a fact is missing in the history of leases");
                }
            }
            Job::Rename(node) => self.node = node,
            Job::History { watchers, schedules, reply } => {
                let _ = reply.send(self.read_history(watchers, schedules));
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
        let paused = pauses::read(paths)?;
        // A question asked again whose first answer was lost is granted again, under the same token.
        if let Some(hold) = self.held(watcher, paths, &ask.owner) {
            if let Some(pause) = paused {
                return Ok(LeaseAnswer::Paused(pause));
            }
            self.prolong(&hold, ask, ttl).map_err(at(&paths.lease))?;
            return Ok(LeaseAnswer::Granted { token: hold.token });
        }
        let last = mutex.token().max(self.tokens.get(watcher).copied().unwrap_or(0));
        let found = find(paths, last)?;
        let last = last.max(found.record().map_or(0, |record| record.token));
        let longest = longest.max(ttl);
        self.tokens.insert(watcher.clone(), last);
        let now = boottime();
        match (verdict(&found, &self.node, &self.clock, now, ttl), paused) {
            (Verdict::Grant, Some(pause)) => Ok(LeaseAnswer::Paused(pause)),
            (Verdict::Grant, None) => {
                let token = last.saturating_add(1).max(wall_clock_ms());
                // Before the lease itself: a token that is written down too early is merely one not used.
                mutex.remember(token)?;
                let owner = ask.owner.clone();
                let record = self.record(State::Held, owner.to_string(), token, ask.sent + ttl, ttl);
                let file = draft(paths, record, Lock::Taken)?;
                publish(paths)?;
                self.tokens.insert(watcher.clone(), token);
                match Was::new(&found, token, &self.clock, now) {
                    Some(was) => drop(self.before.insert(watcher.clone(), was)),
                    None => drop(self.before.remove(watcher)),
                }
                lock(&self.holds).insert(watcher.clone(), Hold { owner, token, file: Arc::new(file) });
                Ok(LeaseAnswer::Granted { token })
            }
            (Verdict::Quarantine, _) => {
                let record = self.record(State::Quarantine, String::new(), last, now + longest, longest);
                publish_free(paths, record)?;
                Ok(LeaseAnswer::Quarantined { left: longest })
            }
            (Verdict::Bound, _) => {
                let file = OpenOptions::new().write(true).open(&paths.lease).map_err(at(&paths.lease))?;
                let record = self.record(State::Held, "unknown".into(), last, now + longest, longest);
                write_record(&file, record).map_err(at(&paths.lease))?;
                Ok(LeaseAnswer::Held { by: "unknown".into(), left: longest, ttl: longest })
            }
            (Verdict::Answer(answer), _) => Ok(answer),
        }
    }

    fn refresh(&mut self, watcher: &WatcherName, paths: &Paths, ask: &Ask, ttl: Duration) -> io::Result<LeaseAnswer> {
        match self.held(watcher, paths, &ask.owner) {
            Some(hold) => {
                self.prolong(&hold, ask, ttl).map_err(at(&paths.lease))?;
                let token = hold.token;
                Ok(match pauses::read(paths)? {
                    Some(pause) => LeaseAnswer::GrantedToStop { token, pause },
                    None => LeaseAnswer::Granted { token },
                })
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
            ..self.record(State::Free, ask.owner.to_string(), hold.token, now, Duration::ZERO)
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

    fn muster(&mut self, watcher: &WatcherName, paths: &Paths, word: &Word) -> io::Result<Register> {
        let now = boottime();
        let mut record = members::Record::read(paths, &self.clock, now)?;
        // What others have said since it was heard of last will be in what is heard of next.
        let is_news = self.heard.get(watcher).is_some_and(|heard| record.is_news(heard, &word.node));
        record.note(self.instance, word, now);
        record.publish(paths)?;
        let holder = match find(paths, 0)? {
            Found::Held { record, locked: true } => Some(record.owner),
            _ => None,
        };
        let register = record.register(holder, now);
        if !is_news {
            self.heard.insert(watcher.clone(), record);
        }
        Ok(register)
    }

    fn pause(&self, paths: &Paths, wish: &Wish) -> io::Result<Told> {
        let (pause, changed) = pauses::carry_out(paths, wish)?;
        let now = boottime();
        let holder = match find(paths, 0)? {
            // A lock that is on it after its end is that of an agent that is stopped: nothing of its child is left.
            Found::Held { record, locked: true } if record.clock == self.clock => {
                let left = now.until(Time::from_nanos(record.until));
                (!left.is_zero()).then_some((record.owner, left))
            }
            Found::Held { record, locked: true } => Some((record.owner, Duration::from_millis(record.ttl))),
            _ => None,
        };
        Ok(Told { pause, changed, holder })
    }

    /// Whether the tenure under `token` is the one that holds.
    fn token_state(&self, paths: &Paths, token: u64) -> io::Result<TokenState> {
        let now = boottime();
        Ok(match find(paths, 0)? {
            Found::Held { record, locked: true } if record.token == token => {
                TokenState::Holds { left: now.until(Time::from_nanos(record.until)) }
            }
            Found::Held { record, locked } => {
                TokenState::Over { holder: locked.then(|| Owner::node_in(&record.owner)), token: Some(record.token) }
            }
            found => TokenState::Over { holder: None, token: found.record().map(|record| record.token) },
        })
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
        write_record(&hold.file, self.record(State::Held, ask.owner.to_string(), hold.token, ask.sent + ttl, ttl))
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
                let Some(name) = event.name.as_deref().and_then(|name| name.to_str()) else { continue };
                if let Some(lease) = name.strip_suffix(PAUSED).and_then(|name| self.names.get(name)).cloned() {
                    self.tell(Event::PauseChanged { watcher: lease });
                    continue;
                }
                if let Some(lease) = name.strip_suffix(MEMBERS).and_then(|name| self.names.get(name)).cloned() {
                    self.hear_members(lease);
                    continue;
                }
                let Some(lease) = name.strip_suffix(LEASE).and_then(|name| self.names.get(name)).cloned() else {
                    continue;
                };
                if event.mask.intersects(AddWatchFlags::IN_CLOSE_WRITE) {
                    self.looks.retain(|look| look.lease != lease);
                    self.looks.push(Look { lease, at: Instant::now(), pause: Look::FIRST });
                } else if !self.is_taken(&lease) {
                    self.tell(Event::LeaseFreed { watcher: lease });
                }
            }
        }
    }

    /// A record of members was replaced: what others changed in it is news.
    fn hear_members(&mut self, watcher: WatcherName) {
        let Some(heard) = self.heard.get(&watcher) else { return };
        // One that cannot be read is told of by the next question.
        let Ok(record) = members::Record::read(&Paths::new(&self.dir, &watcher), &self.clock, boottime()) else {
            return;
        };
        let is_news = record.is_news(heard, &self.node);
        self.heard.insert(watcher.clone(), record);
        if is_news {
            self.tell(Event::MembersChanged { watcher });
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
