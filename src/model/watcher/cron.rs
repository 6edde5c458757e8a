//! Watchers that run at times (`cron`): one process at each slot of a schedule, never two at once.
//!
//! ```text
//!              a slot has come            nothing of the run before is left
//!   Waiting ───────────────────▶ Due ─────────────────────────────────────▶ Running
//!      ▲                          │ misfire_grace is over                      │ its process ended
//!      └──────────────────────────┴────────────────────────────────────────────┘
//! ```
//!
//! The model has no calendar: where its own clock says that a slot may have come, and every half minute besides, it has the
//! calendar looked at. So a clock that is set, and a machine that slept, shift a slot by half a minute at most. Of several
//! slots that were missed only the latest counts, and one that has come is past for good: a clock that is set back by a
//! little does not bring it again.

use std::time::Duration;

use super::{End, Goal, Stage, Watcher};
use crate::model::event::{Action, Calendar, Exit, Level};
use crate::model::explain::span;
use crate::model::lease::Hold;
use crate::model::spec::{CronSpec, Slot};
use crate::model::time::Time;

/// It is not looked at the calendar more rarely than this.
const LOOK: Duration = Duration::from_secs(30);
/// Nor more often.
const SHORTEST: Duration = Duration::from_millis(1);
/// A clock that was set back further was wrong before: what it brought is forgotten.
const WRONG: u64 = 3_600;

/// Where a watcher is between two slots.
#[derive(Debug)]
pub(super) struct Cron {
    spec: CronSpec,
    phase: Phase,
    /// The latest slot that is past; nothing: whatever has come is.
    past: Option<Slot>,
    /// The next, as the last look has it.
    next: Option<(Slot, Time)>,
    /// When the calendar is looked at next; nothing: it is no use to.
    look: Option<Time>,
    /// What became of the last slot that had no good end.
    failed: Option<(Slot, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// It is to begin before then.
    Due {
        slot: Slot,
        until: Time,
    },
    Running(Slot),
}

impl Cron {
    fn new(spec: CronSpec) -> Cron {
        Cron { spec, phase: Phase::Waiting, past: None, next: None, look: None, failed: None }
    }
}

impl Watcher {
    /// Makes its schedule what its settings say. A run goes on, and of another schedule nothing has come yet.
    pub(super) fn fit_schedule(&mut self) {
        self.cron = self.spec.cron.clone().map(|spec| match self.cron.take() {
            Some(cron) if cron.spec == spec => cron,
            Some(Cron { phase: Phase::Running(slot), failed, .. }) => {
                Cron { phase: Phase::Running(slot), failed, ..Cron::new(spec) }
            }
            Some(_) | None => Cron::new(spec),
        });
    }

    /// Whether it waits for a slot, or for its turn at one.
    pub fn is_between_slots(&self) -> bool {
        self.cron.as_ref().is_some_and(|cron| !matches!(cron.phase, Phase::Running(_)))
    }

    // ---- what happened ----

    /// The calendar was looked at.
    pub fn calendar_read(&mut self, now: Time, calendar: Option<Calendar>, actions: &mut Vec<Action>) {
        let busy = !self.is_over();
        let Some(cron) = self.cron.as_mut().filter(|cron| cron.look.is_some()) else { return };
        let Some(Calendar { now: wall, past, next }) = calendar else {
            self.say(actions, Level::Warn, None, "cannot tell when it runs next: the time zone cannot be read");
            return;
        };
        cron.next = next.map(|(slot, left)| (slot, now + left));
        cron.look = Some(now + next.map_or(LOOK, |(_, left)| left.clamp(SHORTEST, LOOK)));
        cron.past = cron.past.filter(|known| known.0 <= wall.0.saturating_add(WRONG));
        let Some((slot, late)) = past.filter(|(slot, _)| cron.past.is_none_or(|known| known < *slot)) else { return };
        // What came before this one looked is not its to do.
        if cron.past.replace(slot).is_none() {
            return;
        }
        let left = cron.spec.misfire_grace.checked_sub(late);
        match (cron.phase, left) {
            (Phase::Running(_), _) => self.pass_over(slot, "the run before goes on".into(), actions),
            (Phase::Waiting | Phase::Due { .. }, _) if busy => {
                self.pass_over(slot, "the run before is not over".into(), actions);
            }
            (Phase::Waiting | Phase::Due { .. }, None) => {
                self.pass_over(slot, format!("it was noticed {} late", span(late)), actions);
            }
            (Phase::Waiting | Phase::Due { .. }, Some(left)) => cron.phase = Phase::Due { slot, until: now + left },
        }
    }

    /// The process of a run ended, because it was told to or not, or it never began.
    pub(super) fn run_ended(&mut self, end: &End, expected: bool, actions: &mut Vec<Action>) {
        let Some(cron) = &mut self.cron else { return };
        let Phase::Running(slot) = cron.phase else { return };
        cron.phase = Phase::Waiting;
        let (level, what) = match end {
            End::Exit(Exit::Code(0)) => {
                cron.failed = None;
                (Level::Info, "is done")
            }
            End::Exit(_) | End::NoStart(_) | End::Fault(_) => {
                cron.failed = Some((slot, end.to_string()));
                (Level::Warn, if expected { "was cut short" } else { "failed" })
            }
        };
        self.say(actions, level, None, &format!("the run of {slot} {what}: {end}"));
    }

    /// A slot has no run.
    fn pass_over(&mut self, slot: Slot, why: String, actions: &mut Vec<Action>) {
        self.say(actions, Level::Warn, None, &format!("no run at {slot}: {why}"));
        if let Some(cron) = &mut self.cron {
            cron.failed = Some((slot, format!("no run, {why}")));
        }
    }

    // ---- what follows ----

    /// Has the calendar looked at where that is due, and lets a run begin whose slot has come.
    pub(super) fn keep_time(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.cron.is_none() {
            return;
        }
        let may_run = matches!(self.hold(now), None | Some(Hold::Firm { .. })) && !self.has_to_part();
        let may_start = may_run && self.is_over() && self.start_gate.is_none() && self.has_its_sockets();
        let is_empty = self.is_empty();
        let Some(cron) = &mut self.cron else { return };
        if !may_run {
            // Somebody else may see to what comes meanwhile, or nobody is to.
            (cron.look, cron.past, cron.next) = (None, None, None);
            if is_empty || !matches!(cron.phase, Phase::Running(_)) {
                cron.phase = Phase::Waiting;
            }
            return;
        }
        if cron.look.is_none_or(|look| look <= now) {
            cron.look = Some(now + LOOK);
            actions.push(Action::ReadCalendar { watcher: self.spec.name.clone(), cron: cron.spec.clone() });
        }
        match cron.phase {
            Phase::Due { slot, .. } if may_start => {
                cron.phase = Phase::Running(slot);
                // What failed in another run says nothing of this one.
                self.slots.clear();
                self.say(actions, Level::Info, None, &format!("running for {slot}"));
            }
            Phase::Due { slot, until } if until <= now => {
                cron.phase = Phase::Waiting;
                self.pass_over(slot, "it could not begin in time".into(), actions);
            }
            Phase::Due { .. } | Phase::Waiting | Phase::Running(_) => {}
        }
    }

    /// What its process is told of the run.
    pub(super) fn run_env(&self) -> Option<(String, String)> {
        match self.cron.as_ref()?.phase {
            Phase::Running(slot) => Some(("CIRCUS_SLOT".to_owned(), slot.0.to_string())),
            Phase::Waiting | Phase::Due { .. } => None,
        }
    }

    // ---- what is seen ----

    /// When something of its schedule is due.
    pub(super) fn next_slot(&self) -> Option<Time> {
        let cron = self.cron.as_ref()?;
        let late = match cron.phase {
            Phase::Due { until, .. } => Some(until),
            Phase::Waiting | Phase::Running(_) => None,
        };
        cron.look.into_iter().chain(late).min()
    }

    /// Whether it is as it should be that nothing of it runs.
    pub(super) fn is_scheduled(&self) -> bool {
        self.is_between_slots() && self.is_empty() && self.goal == Goal::Run && self.stage == Stage::Closed
    }

    /// What comes next, and what became of the last slot where that was not a good end.
    pub(super) fn timetable(&self, now: Time) -> Option<String> {
        let cron = self.cron.as_ref()?;
        let failed = cron.failed.as_ref().map(|(slot, why)| format!("{slot}: {why}"));
        let next = match (cron.phase, cron.next) {
            (Phase::Running(slot), _) => Some(format!("runs for {slot}")),
            (Phase::Due { slot, .. }, _) => Some(format!("{slot} has come")),
            (Phase::Waiting, Some((_, at))) => Some(format!("next in {}", span(now.until(at)))),
            (Phase::Waiting, None) if cron.look.is_some() => Some("never again".to_owned()),
            (Phase::Waiting, None) => None,
        };
        let parts: Vec<String> = next.into_iter().chain(failed).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
