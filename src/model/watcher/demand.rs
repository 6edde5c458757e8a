//! Watchers that start when somebody wants something of them (`on_demand`), and sleep again when nobody does.
//!
//! ```text
//!             a connection waits                   up, and counted now and then
//!   Asleep ─────────────────────▶ Awake(Watching) ─────────────────────────────▶ Awake(Counting)
//!     ▲                                 ▲  ▲                busy, or not quiet for long    │
//!     │                                 │  └──────────────────────────────────────────────┤
//!     │ nobody                          │ busy                                quiet for idle_timeout
//!     └───────── Awake(Deciding) ◀──────┴─────────────── Awake(Freezing) ◀─────────────────┘
//!                                                              all frozen
//! ```
//!
//! Between the look that finds nobody and the signal that stops a process, somebody may connect, be accepted, and be cut
//! off. So the processes are frozen first, and it is looked once more: what came meanwhile waits in the queue, where it
//! is seen. Only then they are told to stop, and go on to do so.

use std::time::Duration;

use super::{Goal, Stage, Watcher};
use crate::model::event::{Action, Level, ProcessId, Reach};
use crate::model::lease::Hold;
use crate::model::time::Time;

const SIGCONT: i32 = 18;
/// It is looked so many times in an `idle_timeout`.
const LOOKS: u32 = 4;
/// And not more often than this, nor more rarely.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(15));
/// A count or a freeze that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether anybody wants something of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Demand {
    /// Nobody.
    Asleep(Watch),
    /// Somebody did.
    Awake(Vigil),
}

/// Whether one that sleeps will be told of the first who wants something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    Off,
    On,
    /// Its sockets have become others. Until that is called off, those that are closed are kept open by it.
    Outdated,
}

/// How one that is awake comes to sleep.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Vigil {
    /// Since when nobody has wanted anything; nothing: it is not up, so that is no question.
    quiet: Option<Time>,
    step: Step,
    /// When it is counted next, or what it does now has taken too long.
    due: Option<Time>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// It waits for the next count.
    Watching,
    /// It is being counted.
    Counting,
    /// Those that are yet to freeze.
    Freezing(Vec<ProcessId>),
    /// It is being counted for the last time.
    Deciding,
}

impl Demand {
    const WAKING: Demand = Demand::Awake(Vigil::NONE);
}

impl Vigil {
    const NONE: Vigil = Vigil { quiet: None, step: Step::Watching, due: None };
}

impl Watcher {
    /// Whether it sleeps, or goes to.
    pub fn is_asleep(&self) -> bool {
        matches!(self.demand, Some(Demand::Asleep(_)))
    }

    /// Somebody wants something.
    pub fn demanded(&mut self, actions: &mut Vec<Action>) {
        if self.demand == Some(Demand::Asleep(Watch::On)) {
            self.demand = Some(Demand::WAKING);
            // What it has failed at before is not forgotten: who asks again and again does not make it quicker.
            self.retired.clear();
            self.say(actions, Level::Info, None, "a connection waits; starting");
        }
    }

    /// It was looked whether anybody wants something.
    pub fn counted(&mut self, now: Time, busy: bool, actions: &mut Vec<Action>) {
        let idle_timeout = self.idle_timeout();
        let Some(Demand::Awake(vigil)) = &mut self.demand else { return };
        if busy {
            vigil.quiet = vigil.quiet.map(|_| now);
        }
        match (&vigil.step, idle_timeout) {
            (Step::Counting, Some(timeout)) => {
                let end = vigil.quiet.unwrap_or(now) + timeout;
                (vigil.step, vigil.due) = (Step::Watching, Some(end.min(now + pause(timeout))));
                if end <= now {
                    self.freeze(now, actions);
                }
            }
            (Step::Deciding, Some(_)) if !busy => {
                self.say(actions, Level::Info, None, "nobody wants anything; stopping until the next connection");
                self.go_to_sleep();
            }
            (Step::Counting | Step::Deciding, _) => (vigil.step, vigil.due) = (Step::Watching, None),
            (Step::Watching | Step::Freezing(_), _) => {}
        }
    }

    /// One of its processes does nothing any more until it is let go on.
    pub(super) fn is_frozen(&mut self, id: ProcessId) {
        if let Some(Demand::Awake(Vigil { step: Step::Freezing(left), .. })) = &mut self.demand {
            left.retain(|process| *process != id);
        }
    }

    /// The last of its processes ended, and had nothing more to do.
    pub(super) fn go_to_sleep(&mut self) {
        self.demand = Some(Demand::Asleep(Watch::Off));
    }

    /// What it was watched for may be elsewhere now.
    pub(super) fn forget_watch(&mut self) {
        if let Some(Demand::Asleep(watch @ Watch::On)) = &mut self.demand {
            *watch = Watch::Outdated;
        }
    }

    /// Brings its sleep in line with what it is told. Where another node leads what it follows, nobody's demand is its own.
    pub(super) fn fit_demand(&mut self, now: Time, actions: &mut Vec<Action>) {
        let may_run = matches!(self.hold(now), None | Some(Hold::Firm { .. })) && !self.is_led_away();
        if self.spec.on_demand.is_none() || self.goal != Goal::Run || !may_run {
            self.end_watch(actions);
        } else if self.demand.is_none() {
            let is_down = self.processes.is_empty() && self.stage == Stage::Closed;
            self.demand = Some(if is_down { Demand::Asleep(Watch::Off) } else { Demand::WAKING });
        }
    }

    /// Nobody's demand counts any more, and nobody stays frozen for it.
    pub(super) fn end_watch(&mut self, actions: &mut Vec<Action>) {
        if let Some(Demand::Asleep(Watch::On | Watch::Outdated)) = self.demand.take() {
            actions.push(Action::IgnoreDemand { watcher: self.spec.name.clone() });
        }
        self.thaw(actions);
    }

    /// Orders the looks that are due: for the first who wants something, or whether anybody still does.
    pub(super) fn look_out(&mut self, now: Time, actions: &mut Vec<Action>) {
        // Most watchers are none of these, and this is asked at each step of one.
        if self.demand.is_none() {
            return;
        }
        let is_down = self.processes.is_empty() && self.stage == Stage::Closed;
        let may_wait = is_down && self.start_gate.is_none() && self.has_its_sockets();
        let up = self.stage == Stage::Settled && self.all_up() && self.is_as_told();
        let may_sleep = up && self.idle_timeout().is_some();
        match &mut self.demand {
            None => {}
            Some(Demand::Asleep(watch @ (Watch::Off | Watch::Outdated))) if may_wait => {
                *watch = Watch::On;
                let (watcher, sockets) = (self.spec.name.clone(), self.doors());
                actions.push(Action::AwaitDemand { watcher, sockets });
            }
            Some(Demand::Asleep(watch @ Watch::Outdated)) => {
                *watch = Watch::Off;
                actions.push(Action::IgnoreDemand { watcher: self.spec.name.clone() });
            }
            Some(Demand::Asleep(Watch::Off | Watch::On)) => {}
            Some(Demand::Awake(vigil)) if !may_sleep => {
                *vigil = Vigil::NONE;
            }
            Some(Demand::Awake(vigil)) => {
                if vigil.step != Step::Watching && vigil.due.is_some_and(|due| due <= now) {
                    *vigil = Vigil::NONE;
                }
                vigil.quiet.get_or_insert(now);
                let next = match &vigil.step {
                    Step::Watching if vigil.due.is_none_or(|due| due <= now) => Step::Counting,
                    Step::Freezing(left) if left.is_empty() => Step::Deciding,
                    Step::Watching | Step::Counting | Step::Freezing(_) | Step::Deciding => return self.thaw(actions),
                };
                (vigil.step, vigil.due) = (next, Some(now + PATIENCE));
                let (watcher, sockets) = (self.spec.name.clone(), self.doors());
                actions.push(Action::CountDemand { watcher, sockets });
            }
        }
        self.thaw(actions);
    }

    /// When it is to be counted next.
    pub(super) fn next_look(&self) -> Option<Time> {
        match &self.demand {
            Some(Demand::Awake(vigil)) => vigil.due,
            Some(Demand::Asleep(_)) | None => None,
        }
    }

    /// Lets those that were frozen go on, unless it is still being decided about them.
    fn thaw(&mut self, actions: &mut Vec<Action>) {
        let deciding = matches!(&self.demand, Some(Demand::Awake(vigil))
            if matches!(vigil.step, Step::Freezing(_) | Step::Deciding));
        if deciding {
            return;
        }
        for process in std::mem::take(&mut self.frozen) {
            actions.push(Action::Signal { process, signal: SIGCONT, reach: Reach::Tree });
        }
    }

    fn freeze(&mut self, now: Time, actions: &mut Vec<Action>) {
        let ids: Vec<ProcessId> = self.processes.iter().filter(|p| p.pid().is_some()).map(|p| p.id).collect();
        actions.extend(ids.iter().map(|id| Action::Freeze { process: *id }));
        self.frozen.clone_from(&ids);
        if let Some(Demand::Awake(vigil)) = &mut self.demand {
            (vigil.step, vigil.due) = (Step::Freezing(ids), Some(now + PATIENCE));
        }
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.spec.on_demand.and_then(|on_demand| on_demand.idle_timeout)
    }
}

/// From one look to the next.
fn pause(idle_timeout: Duration) -> Duration {
    (idle_timeout / LOOKS).clamp(PAUSE.0, PAUSE.1)
}
