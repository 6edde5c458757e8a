//! One child, from the decision to have it to the end of its tree.
//!
//! ```text
//!            allowed        ordered            Spawned            Exited            Gone
//!  Planned ─────────▶ Due ─────────▶ Starting ───────▶ Running ───────▶ Ended ─────────▶ (removed)
//!     │ (before_spawn)                 │ SpawnFailed                      the main process is dead,
//!     └─────────▶ (removed)            └──────────▶ (removed)             what it left is being killed
//!
//!  stop: in any state; its signal is due once, SIGKILL to the whole tree when its time is up
//! ```

use std::time::Duration;

use super::checkup::{Checkup, Verdict};
use super::event::{Action, Deadline, Exit, LaneId, Notification, ProcessId, Reach, SocketId};
use super::snapshot::ProcessView;
use super::spec::{Purpose, WatcherSpec};
use super::time::Time;

/// One child of one watcher.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Which one. Later ones have higher numbers.
    pub id: ProcessId,
    /// Its slot in the watcher.
    pub wid: u32,
    state: State,
    stop: Option<Stop>,
    /// Why it is ended as if it had failed by itself.
    fault: Option<String>,
    /// When it has its `max_age`.
    expires: Option<Time>,
    /// The sockets it has, once its spawn was ordered.
    sockets: Vec<SocketId>,
    lane: Option<LaneId>,
    /// Since when nothing of its tree is left, as its guard says.
    empty: Option<Time>,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Planned,
    Due,
    Starting { asked: Time },
    Running { pid: u32, since: Time, checkup: Box<Checkup>, announced: bool },
    Ended { pid: u32, exit: Exit },
}

/// A stop under way.
#[derive(Debug, Clone, PartialEq)]
struct Stop {
    signal: i32,
    reach: Reach,
    kill_at: Time,
    step: Step,
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Wanted,
    Signalled,
    Killed,
}

/// What of a stop is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopDue {
    /// Its signal.
    Signal { signal: i32, reach: Reach },
    /// SIGKILL to all of its tree.
    Kill,
}

impl Process {
    /// A process that is to be.
    pub fn planned(id: ProcessId, wid: u32) -> Process {
        Process {
            id,
            wid,
            state: State::Planned,
            stop: None,
            fault: None,
            expires: None,
            sockets: Vec::new(),
            lane: None,
            empty: None,
        }
    }

    /// Nothing stands against it any more.
    pub fn allow(&mut self) {
        if self.state == State::Planned {
            self.state = State::Due;
        }
    }

    /// Whether its spawn is to be ordered; from now on it counts as ordered.
    pub fn order(&mut self, now: Time) -> bool {
        let due = self.state == State::Due && self.stop.is_none();
        if due {
            self.state = State::Starting { asked: now };
        }
        due
    }

    /// Takes note of what it is given.
    pub fn equip(&mut self, sockets: Vec<SocketId>, lane: Option<LaneId>) {
        (self.sockets, self.lane) = (sockets, lane);
    }

    /// The sockets it has.
    pub fn sockets(&self) -> &[SocketId] {
        &self.sockets
    }

    /// The lane it is in.
    pub fn lane(&self) -> Option<LaneId> {
        self.lane
    }

    /// Its program runs.
    pub fn spawned(&mut self, now: Time, pid: u32, spec: &WatcherSpec, expires: Option<Time>) {
        if let State::Starting { .. } = self.state {
            let (mut ready, mut health) = (spec.ready.clone(), spec.health.clone());
            let checks = ready.iter_mut().map(|ready| &mut ready.check).chain(health.iter_mut().map(|h| &mut h.check));
            checks.for_each(|check| *check = check.in_slot(self.wid));
            let checkup = Box::new(Checkup::new(now, ready, health));
            self.state = State::Running { pid, since: now, checkup, announced: false };
            self.expires = expires;
        }
    }

    /// Its start may be told; whether it was not before.
    pub fn announce(&mut self) -> bool {
        match &mut self.state {
            State::Running { announced, .. } => !std::mem::replace(announced, true),
            State::Planned | State::Due | State::Starting { .. } | State::Ended { .. } => false,
        }
    }

    /// Its main process ended; how long it had run.
    pub fn exited(&mut self, now: Time, exit: Exit) -> Duration {
        let (pid, ran) = match &self.state {
            State::Running { pid, since, .. } => (*pid, now.since(*since)),
            State::Planned | State::Due | State::Starting { .. } => (0, Duration::ZERO),
            State::Ended { pid, .. } => (*pid, Duration::ZERO),
        };
        self.state = State::Ended { pid, exit };
        ran
    }

    /// Its guard says since when nothing of its tree is left.
    pub fn is_empty_since(&mut self, since: Time) {
        self.empty = Some(since);
    }

    /// Since when nothing of its tree is left, where its guard said so.
    pub fn empty_since(&self) -> Option<Time> {
        self.empty
    }

    /// Asks it to stop, and kills its tree at `kill_at`; `quiet`: its end is no news. A second stop can only bring the
    /// end nearer.
    pub fn stop(&mut self, signal: i32, reach: Reach, kill_at: Time, quiet: bool) {
        match &mut self.stop {
            Some(stop) => stop.kill_at = stop.kill_at.min(kill_at),
            None => self.stop = Some(Stop { signal, reach, kill_at, step: Step::Wanted, quiet }),
        }
    }

    /// Ends it as if it had failed by itself.
    pub fn fail(&mut self, why: String) {
        if self.stop.is_none() {
            self.fault = Some(why);
        }
    }

    /// What of its stop is due now; each step once.
    pub fn stop_due(&mut self, now: Time) -> Option<StopDue> {
        let stop = self.stop.as_mut()?;
        if stop.kill_at <= now && stop.step != Step::Killed {
            stop.step = Step::Killed;
            return Some(StopDue::Kill);
        }
        let signal = matches!(self.state, State::Running { .. }) && stop.step == Step::Wanted;
        signal.then(|| {
            stop.step = Step::Signalled;
            StopDue::Signal { signal: stop.signal, reach: stop.reach }
        })
    }

    /// A check came out.
    pub fn checked(&mut self, now: Time, purpose: Purpose, result: Result<(), String>) {
        self.with_checkup(|checkup| checkup.checked(now, purpose, result));
    }

    /// A line of its output matched.
    pub fn matched(&mut self, now: Time, purpose: Purpose) {
        self.with_checkup(|checkup| checkup.matched(now, purpose));
    }

    /// It said something.
    pub fn notified(&mut self, now: Time, notification: Notification) {
        self.with_checkup(|checkup| checkup.notified(now, notification));
    }

    /// Asks for the checks that are due; what is to be done about it. One that is stopping is left in peace.
    pub fn check(&mut self, now: Time, actions: &mut Vec<Action>) -> Option<Verdict> {
        let (id, stopping) = (self.id, self.stop.is_some());
        self.with_checkup(|checkup| if stopping { None } else { checkup.wake(now, id, actions) }).flatten()
    }

    fn with_checkup<T>(&mut self, then: impl FnOnce(&mut Checkup) -> T) -> Option<T> {
        match &mut self.state {
            State::Running { checkup, .. } => Some(then(checkup)),
            State::Planned | State::Due | State::Starting { .. } | State::Ended { .. } => None,
        }
    }

    /// Tells its guard of a new deadline.
    pub fn guard(&self, deadline: Deadline, actions: &mut Vec<Action>) {
        if !self.has_not_begun() {
            actions.push(Action::Guard { process: self.id, deadline });
        }
    }

    /// Its next deadline.
    pub fn next_wakeup(&self) -> Option<Time> {
        match (&self.stop, &self.state) {
            (Some(stop), _) => Some(stop.kill_at).filter(|_| stop.step != Step::Killed),
            (None, State::Running { checkup, .. }) => checkup.next_wakeup().into_iter().chain(self.expires).min(),
            (None, _) => None,
        }
    }

    /// Its pid, once it has one and while the main process lives.
    pub fn pid(&self) -> Option<u32> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Planned | State::Due | State::Starting { .. } | State::Ended { .. } => None,
        }
    }

    /// Whether its program runs, it is ready and told of, and nobody asked it to stop.
    pub fn is_up(&self) -> bool {
        matches!(&self.state, State::Running { checkup, announced: true, .. } if checkup.is_ready())
            && self.stop.is_none()
    }

    /// When it may be counted on: at once where a check says that it is ready, or else when it has run for `life`. Nothing
    /// for one that is not up.
    pub fn proven_at(&self, life: Duration) -> Option<Time> {
        match &self.state {
            State::Running { since, checkup, .. } if self.is_up() => {
                Some(if checkup.has_ready_check() { *since } else { *since + life })
            }
            State::Running { .. } | State::Planned | State::Due | State::Starting { .. } | State::Ended { .. } => None,
        }
    }

    /// Whether its program runs, is ready and unwell.
    pub fn is_unwell(&self) -> bool {
        matches!(&self.state, State::Running { checkup, .. } if checkup.is_unwell())
    }

    /// Whether someone asked it to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Whether SIGKILL was ordered.
    pub fn is_being_killed(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.step == Step::Killed)
    }

    /// Whether its end is no news.
    pub fn is_quiet(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.quiet)
    }

    /// Whether it is to go on: it has not ended, and nobody asked it to stop.
    pub fn is_staying(&self) -> bool {
        self.stop.is_none() && !matches!(self.state, State::Ended { .. })
    }

    /// Whether no spawn was ordered yet.
    pub fn has_not_begun(&self) -> bool {
        matches!(self.state, State::Planned | State::Due)
    }

    /// Whether it has reached its `max_age`.
    pub fn is_expired(&self, now: Time) -> bool {
        self.stop.is_none() && self.expires.is_some_and(|expires| expires <= now)
    }

    /// Why it is ended as if it had failed by itself.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Why it is not ready, or unwell.
    pub fn complaint(&self) -> Option<&str> {
        match &self.state {
            State::Running { checkup, .. } => checkup.complaint(),
            State::Planned | State::Due | State::Starting { .. } | State::Ended { .. } => None,
        }
    }

    /// What others may see of it.
    pub fn view(&self, now: Time) -> ProcessView {
        let stopping = self.stop.is_some();
        let (pid, state, age) = match &self.state {
            State::Planned | State::Due => (None, "starting", Duration::ZERO),
            State::Starting { asked } => (None, "starting", now.since(*asked)),
            State::Running { pid, since, .. } if stopping => (Some(*pid), "stopping", now.since(*since)),
            State::Running { pid, since, checkup, .. } => {
                let state = match (checkup.is_ready(), checkup.is_unwell()) {
                    (false, _) => "starting",
                    (true, true) => "unhealthy",
                    (true, false) => "running",
                };
                (Some(*pid), state, now.since(*since))
            }
            State::Ended { pid, .. } => (Some(*pid), "exited", Duration::ZERO),
        };
        let status = match &self.state {
            State::Running { checkup, .. } => checkup.status().map(str::to_owned),
            State::Planned | State::Due | State::Starting { .. } | State::Ended { .. } => None,
        };
        ProcessView { wid: self.wid, pid, state, age, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = 15;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn starting() -> Process {
        let mut process = Process::planned(ProcessId(1), 1);
        process.allow();
        assert!(process.order(at(0)) && !process.order(at(0)));
        process
    }

    fn running() -> Process {
        let mut process = starting();
        let checkup = Box::new(Checkup::new(at(0), None, None));
        process.state = State::Running { pid: 7, since: at(0), checkup, announced: true };
        process
    }

    #[test]
    fn a_stop_while_starting_signals_as_soon_as_there_is_someone_to_signal() {
        let mut process = starting();
        process.stop(TERM, Reach::Main, at(100), false);
        assert_eq!(process.stop_due(at(1)), None);
        process.state = running().state;
        assert_eq!(process.stop_due(at(2)), Some(StopDue::Signal { signal: TERM, reach: Reach::Main }));
    }

    #[test]
    fn the_tree_is_killed_once_when_the_grace_is_over() {
        let mut process = running();
        process.stop(TERM, Reach::Main, at(100), false);
        assert!(process.stop_due(at(1)).is_some());
        assert_eq!(process.next_wakeup(), Some(at(100)));
        assert_eq!(process.stop_due(at(100)), Some(StopDue::Kill));
        assert_eq!((process.stop_due(at(101)), process.next_wakeup()), (None, None));
    }

    #[test]
    fn a_second_stop_cannot_put_the_end_off_nor_signal_again() {
        let mut process = running();
        process.stop(TERM, Reach::Main, at(100), false);
        assert!(process.stop_due(at(1)).is_some());
        process.stop(TERM, Reach::Main, at(500), false);
        process.stop(TERM, Reach::Main, at(50), false);
        assert_eq!((process.stop_due(at(2)), process.next_wakeup()), (None, Some(at(50))));
    }

    #[test]
    fn one_that_was_stopped_before_it_began_is_never_ordered() {
        let mut process = Process::planned(ProcessId(1), 1);
        process.stop(TERM, Reach::Main, at(100), false);
        process.allow();
        assert!(!process.order(at(1)) && process.has_not_begun());
    }
}
