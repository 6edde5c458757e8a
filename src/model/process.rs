//! One child, from the order to start it to the end of its tree.
//!
//! ```text
//!             Spawned            Exited            Gone
//!  Starting ───────────▶ Running ───────▶ Ended ─────────▶ (removed)
//!     │ SpawnFailed                        the main process is dead,
//!     └──────────▶ (removed)               what it left is being killed
//!
//!  stop: in any state; its signal goes out once, SIGKILL to the whole tree when its time is up
//! ```

use std::time::Duration;

use super::event::{Action, Deadline, Exit, ProcessId, Reach};
use super::snapshot::ProcessView;
use super::time::Time;

/// One child of one watcher.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Which one.
    pub id: ProcessId,
    /// Its slot in the watcher.
    pub wid: u32,
    state: State,
    stop: Option<Stop>,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Starting { asked: Time },
    Running { pid: u32, since: Time },
    Ended { pid: u32, exit: Exit },
}

/// A stop under way.
#[derive(Debug, Clone, PartialEq)]
struct Stop {
    signal: i32,
    signalled: bool,
    kill_at: Time,
    killed: bool,
}

impl Process {
    /// A process whose `Spawn` was just ordered.
    pub fn new(id: ProcessId, wid: u32, now: Time) -> Process {
        Process { id, wid, state: State::Starting { asked: now }, stop: None }
    }

    /// Its program runs.
    pub fn spawned(&mut self, now: Time, pid: u32, actions: &mut Vec<Action>) {
        if let State::Starting { .. } = self.state {
            self.state = State::Running { pid, since: now };
        }
        self.wake(now, actions);
    }

    /// Its main process ended; how long it had run.
    pub fn exited(&mut self, now: Time, exit: Exit) -> Duration {
        let (pid, ran) = match self.state {
            State::Running { pid, since } => (pid, now.since(since)),
            State::Starting { .. } => (0, Duration::ZERO),
            State::Ended { pid, .. } => (pid, Duration::ZERO),
        };
        self.state = State::Ended { pid, exit };
        ran
    }

    /// Asks it to stop, and kills its tree at `kill_at`. A second stop can only bring the end nearer.
    pub fn stop(&mut self, now: Time, signal: i32, kill_at: Time, actions: &mut Vec<Action>) {
        match &mut self.stop {
            Some(stop) => stop.kill_at = stop.kill_at.min(kill_at),
            None => self.stop = Some(Stop { signal, signalled: false, kill_at, killed: false }),
        }
        self.wake(now, actions);
    }

    /// Sends what is due of a stop.
    pub fn wake(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(stop) = &mut self.stop else { return };
        if stop.kill_at <= now && !stop.killed {
            stop.killed = true;
            actions.push(Action::Kill { process: self.id });
        } else if let State::Running { .. } = self.state
            && !stop.signalled
            && !stop.killed
        {
            stop.signalled = true;
            actions.push(Action::Signal { process: self.id, signal: stop.signal, reach: Reach::Main });
        }
    }

    /// Tells its guard of a new deadline.
    pub fn guard(&self, deadline: Deadline, actions: &mut Vec<Action>) {
        actions.push(Action::Guard { process: self.id, deadline });
    }

    /// Its next deadline.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.stop.as_ref().filter(|stop| !stop.killed).map(|stop| stop.kill_at)
    }

    /// Its pid, once it has one and while the main process lives.
    pub fn pid(&self) -> Option<u32> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Starting { .. } | State::Ended { .. } => None,
        }
    }

    /// Whether its program runs and nobody asked it to stop.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. }) && self.stop.is_none()
    }

    /// Whether someone asked it to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// What others may see of it.
    pub fn view(&self, now: Time) -> ProcessView {
        let (pid, state, age) = match self.state {
            State::Starting { asked } => (None, "starting", now.since(asked)),
            State::Running { pid, since } if self.stop.is_some() => (Some(pid), "stopping", now.since(since)),
            State::Running { pid, since } => (Some(pid), "running", now.since(since)),
            State::Ended { pid, .. } => (Some(pid), "exited", Duration::ZERO),
        };
        ProcessView { wid: self.wid, pid, state, age }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = 15;

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_stop_while_starting_signals_as_soon_as_there_is_someone_to_signal() {
        let mut actions = Vec::new();
        let mut process = Process::new(ProcessId(1), 1, at(0));
        process.stop(at(1), TERM, at(100), &mut actions);
        assert_eq!(actions, []);
        process.spawned(at(2), 7, &mut actions);
        assert_eq!(actions, [Action::Signal { process: ProcessId(1), signal: TERM, reach: Reach::Main }]);
    }

    #[test]
    fn the_tree_is_killed_once_when_the_grace_is_over() {
        let mut actions = Vec::new();
        let mut process = Process::new(ProcessId(1), 1, at(0));
        process.spawned(at(0), 7, &mut actions);
        process.stop(at(1), TERM, at(100), &mut actions);
        assert_eq!(process.next_wakeup(), Some(at(100)));
        actions.clear();
        process.wake(at(100), &mut actions);
        process.wake(at(101), &mut actions);
        assert_eq!(actions, [Action::Kill { process: ProcessId(1) }]);
        assert_eq!(process.next_wakeup(), None);
    }

    #[test]
    fn a_second_stop_cannot_put_the_end_off_nor_signal_again() {
        let mut actions = Vec::new();
        let mut process = Process::new(ProcessId(1), 1, at(0));
        process.spawned(at(0), 7, &mut actions);
        process.stop(at(1), TERM, at(100), &mut actions);
        process.stop(at(2), TERM, at(500), &mut actions);
        process.stop(at(3), TERM, at(50), &mut actions);
        assert_eq!((actions.len(), process.next_wakeup()), (1, Some(at(50))));
    }
}
