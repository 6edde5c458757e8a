//! Watchers that run at times (`cron`): one process at each slot of a schedule, never two at once.
//!
//! ```text
//!              a slot has come        it may begin (under a lease)         the slot is ours
//!   Waiting ───────────────────▶ Due ────────────────────────────▶ Claiming ───────────────▶ Running
//!      ▲                          │ misfire_grace is over             │ it is another's         │ its process ended
//!      └──────────────────────────┴───────────────────────────────────┴─────────────────────────┘
//! ```
//!
//! What has a lease, or follows one, runs once at each slot in the whole cluster: before a run begins the store has to say
//! that the slot is this tenure's, and it says so to one tenure only. So a node that takes over looks back as far as
//! `misfire_grace` reaches, and makes up for what the one before has not begun. A node that dies between its claim and its
//! run leaves a slot without one: at most once, not at least. All others run wherever they are, and need no store.
//!
//! The model has no calendar: where its own clock says that a slot may have come, and every half minute besides, it has the
//! calendar looked at. So a clock that is set, and a machine that slept, shift a slot by half a minute at most. Of several
//! slots that were missed only the latest counts, and one that has come is past for good: a clock that is set back by a
//! little does not bring it again, and by however much it is set, no tenure runs a slot twice.
//!
//! What became of a slot is kept where its claim is, so that each node can tell of all of them; of what needs no claim the
//! agent keeps it by itself.

use std::time::Duration;

use super::{End, Goal, Stage, Watcher};
use crate::model::event::{Action, Calendar, Claim, Claimed, Exit, Level, News, Schedule};
use crate::model::explain::span;
use crate::model::history::{Fact, What};
use crate::model::lease::Hold;
use crate::model::names::{LeaseName, WatcherName};
use crate::model::runs::{How, Journal, Run, Turn};
use crate::model::snapshot::{CronCounts, CronView};
use crate::model::spec::{CronSpec, OnFailure, Slot};
use crate::model::time::Time;

/// It is not looked at the calendar more rarely than this.
const LOOK: Duration = Duration::from_secs(30);
/// Nor more often.
const SHORTEST: Duration = Duration::from_millis(1);
/// A clock that was set back further was wrong before: what it brought is forgotten.
const WRONG: u64 = 3_600;

/// How long the store may take to answer a claim.
const CLAIM: Duration = Duration::from_secs(1);
/// How long after one that had no answer the next follows.
const AGAIN: Duration = Duration::from_millis(500);

/// Where a watcher is between two slots.
#[derive(Debug)]
pub(super) struct Cron {
    spec: CronSpec,
    phase: Phase,
    /// The latest slot that this node has seen come while it could run it.
    past: Option<Slot>,
    /// The latest slot that a tenure of this node has had. No clock brings it that again, nor one before it.
    had: Option<Claim>,
    since: Since,
    /// The next, as the last look has it.
    next: Option<(Slot, Time)>,
    /// When the calendar is looked at next; nothing: it is no use to.
    look: Option<Time>,
    /// What became of the last slot that had no good end.
    failed: Option<(Slot, String)>,
    /// What became of the others, where no store keeps it.
    journal: Journal,
    counts: CronCounts,
    /// The lease is to be given up after a failure.
    yields: Option<Yield>,
}

/// A wish to stand back from a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yield {
    /// Whose lease it is.
    pub lease: WatcherName,
    /// For how long this node stands back.
    pause: Duration,
    why: String,
}

/// Where the facts about its slots are.
#[derive(Debug)]
pub enum Runs {
    /// It has no schedule.
    None,
    /// The agent has them.
    Here(Vec<Run>),
    /// With a lease.
    Kept(Schedule),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    /// It is to begin before then.
    Due {
        slot: Slot,
        until: Time,
    },
    /// The store is asked whose it is, and after an answer that said nothing asked again then.
    Claiming {
        claim: Claim,
        until: Time,
        again: Option<Time>,
    },
    /// Under this token, where it has a lease.
    Running {
        slot: Slot,
        token: Option<u64>,
    },
}

/// Since when it has looked at the calendar without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Nothing was seen of its lease yet.
    Begun,
    /// It could not run, and another node may have.
    Away,
    /// Its schedule was another one, or it came to a lease that was held: what this very tenure has run nobody knows.
    Changed,
    /// No slot can have come unseen.
    Before,
}

impl Cron {
    fn new(spec: CronSpec) -> Cron {
        Cron {
            spec,
            phase: Phase::Waiting,
            past: None,
            had: None,
            since: Since::Begun,
            next: None,
            look: None,
            failed: None,
            journal: Journal::default(),
            counts: CronCounts::default(),
            yields: None,
        }
    }

    /// Whether that tenure has had this slot, or a later one.
    fn has_had(&self, claim: Claim) -> bool {
        self.had.is_some_and(|had| had.token == claim.token && had.slot >= claim.slot)
    }
}

/// What the clock on the wall shows, as told by a slot that has come, or by the next one.
fn wall_ms(past: Option<(Slot, Duration)>, next: Option<(Slot, Duration)>) -> Option<u64> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let since = past.map(|(slot, late)| slot.0.saturating_mul(1_000).saturating_add(millis(late)));
    since.or_else(|| next.map(|(slot, left)| slot.0.saturating_mul(1_000).saturating_sub(millis(left))))
}

impl Watcher {
    /// Makes its schedule what its settings say. A run goes on, and of another schedule nothing has come yet.
    pub(super) fn fit_schedule(&mut self) {
        self.cron = self.spec.cron.clone().map(|spec| match self.cron.take() {
            Some(cron) if cron.spec == spec => cron,
            Some(Cron { phase, had, failed, journal, counts, .. }) => {
                let phase = if let Phase::Running { .. } = phase { phase } else { Phase::Waiting };
                Cron { phase, had, failed, journal, counts, since: Since::Changed, ..Cron::new(spec) }
            }
            None => Cron::new(spec),
        });
    }

    /// Whether it waits for a slot, or for its turn at one.
    pub fn is_between_slots(&self) -> bool {
        self.cron.as_ref().is_some_and(|cron| !matches!(cron.phase, Phase::Running { .. }))
    }

    // ---- what happened ----

    /// The calendar was looked at.
    pub fn calendar_read(&mut self, now: Time, calendar: Option<Calendar>, actions: &mut Vec<Action>) {
        let (busy, claims) = (!self.is_over(), self.is_guarded());
        let Some(cron) = self.cron.as_mut().filter(|cron| cron.look.is_some()) else { return };
        let Some(Calendar { now: wall, past, next }) = calendar else {
            self.say(actions, Level::Warn, None, "cannot tell when it runs next: the time zone cannot be read");
            return;
        };
        cron.next = next.map(|(slot, left)| (slot, now + left));
        cron.look = Some(now + next.map_or(LOOK, |(_, left)| left.clamp(SHORTEST, LOOK)));
        if let Some(wall) = wall_ms(past, next) {
            cron.journal.set_clock(now, wall);
        }
        let since = std::mem::replace(&mut cron.since, Since::Before);
        cron.past = cron.past.filter(|known| known.0 <= wall.0.saturating_add(WRONG));
        let Some((slot, late)) = past.filter(|(slot, _)| cron.past.is_none_or(|known| known < *slot)) else { return };
        cron.past = Some(slot);
        let left = cron.spec.misfire_grace.checked_sub(late);
        match since {
            Since::Before => {}
            // Another node may not have begun it: the claim tells.
            Since::Away if claims && left.is_some() && !busy => {}
            Since::Away if claims && left.is_none() => {
                let why = format!("no node was there for it, it was noticed {} late", span(late));
                return self.record_run(now, self.firm_token(now), slot, Turn::Missed { why }, actions);
            }
            Since::Away | Since::Begun | Since::Changed => return,
        }
        match (cron.phase, left) {
            (Phase::Running { .. }, _) => self.pass_over(now, slot, "the run before goes on", actions),
            (Phase::Waiting | Phase::Due { .. } | Phase::Claiming { .. }, _) if busy => {
                self.pass_over(now, slot, "the run before is not over", actions);
            }
            (Phase::Waiting | Phase::Due { .. } | Phase::Claiming { .. }, None) => {
                self.pass_over(now, slot, &format!("it was noticed {} late", span(late)), actions);
            }
            (Phase::Waiting | Phase::Due { .. } | Phase::Claiming { .. }, Some(left)) => {
                cron.phase = Phase::Due { slot, until: now + left };
            }
        }
    }

    /// The store said whose a slot is, or failed to.
    pub fn slot_claimed(&mut self, now: Time, claim: Claim, answer: Claimed, actions: &mut Vec<Action>) {
        let Some(cron) = &mut self.cron else { return };
        let Phase::Claiming { claim: asked, until, again: None } = cron.phase else { return };
        if asked != claim {
            return;
        }
        if answer == Claimed::Ours {
            cron.had = Some(claim);
        }
        match answer {
            Claimed::Ours if now < until => self.begin_run(claim.slot, Some(claim.token), actions),
            Claimed::Ours => {
                cron.phase = Phase::Waiting;
                self.pass_over(now, claim.slot, "the answer to its claim came too late", actions);
            }
            Claimed::Taken { by } => {
                cron.phase = Phase::Waiting;
                self.say(actions, Level::Info, None, &format!("no run at {}: {by} had it", claim.slot));
            }
            Claimed::Unknown(_) if now + AGAIN < until => {
                cron.phase = Phase::Claiming { claim, until, again: Some(now + AGAIN) };
            }
            Claimed::Unknown(why) => {
                cron.phase = Phase::Waiting;
                self.pass_over(
                    now,
                    claim.slot,
                    &format!("it is not known whether another node has it ({why})"),
                    actions,
                );
            }
        }
    }

    fn begin_run(&mut self, slot: Slot, token: Option<u64>, actions: &mut Vec<Action>) {
        if let Some(cron) = &mut self.cron {
            cron.phase = Phase::Running { slot, token };
        }
        // What failed in another run says nothing of this one.
        self.slots.clear();
        self.say(actions, Level::Info, None, &format!("running for {slot}"));
    }

    /// The process of a run runs.
    pub(super) fn run_began(&mut self, now: Time, pid: u32, actions: &mut Vec<Action>) {
        if let Some(Phase::Running { slot, token }) = self.cron.as_ref().map(|cron| cron.phase) {
            self.record_run(now, token, slot, Turn::Began { pid }, actions);
        }
    }

    /// The process of a run ended, because it was told to or not, or it never began.
    pub(super) fn run_ended(&mut self, now: Time, end: &End, expected: bool, actions: &mut Vec<Action>) {
        let Some(cron) = &mut self.cron else { return };
        let Phase::Running { slot, token } = cron.phase else { return };
        cron.phase = Phase::Waiting;
        let (level, what) = match end {
            End::Exit(Exit::Code(0)) => {
                cron.failed = None;
                cron.counts.done += 1;
                cron.counts.last_done = cron.counts.last_done.max(Some(slot));
                (Level::Info, "is done")
            }
            End::Exit(_) | End::NoStart(_) | End::Fault(_) => {
                cron.failed = Some((slot, end.to_string()));
                cron.counts.failed += u64::from(!expected);
                (Level::Warn, if expected { "was cut short" } else { "failed" })
            }
        };
        let is_failure = level == Level::Warn && !expected;
        self.say(actions, level, None, &format!("the run of {slot} {what}: {end}"));
        let how = match end {
            End::Exit(exit) => How::Exit(*exit),
            End::NoStart(why) | End::Fault(why) => How::Failed(why.clone()),
        };
        self.record_run(now, token, slot, Turn::Ended { how, told: expected }, actions);
        if is_failure {
            self.publish(News::CronFailure { slot, error: end.to_string() }, actions);
            self.answer_failure(&format!("the run of {slot} failed: {end}"));
        }
    }

    /// Does what is to follow a run that failed.
    fn answer_failure(&mut self, why: &str) {
        let lease = self.lease_behind().watcher;
        let name = &self.spec.name;
        if let Some(cron) = &mut self.cron
            && let OnFailure::StandBack(pause) = cron.spec.on_failure
        {
            let why = if lease == *name { why.to_owned() } else { format!("{name}: {why}") };
            cron.yields = Some(Yield { lease, pause, why });
        }
    }

    /// The lease that is to be given up after a failure, its own or its leader's; it is told once.
    pub fn take_yield(&mut self) -> Option<Yield> {
        self.cron.as_mut()?.yields.take()
    }

    /// Stands back from its lease after a run under it failed.
    pub fn yield_lease(&mut self, Yield { pause, why, .. }: Yield, actions: &mut Vec<Action>) {
        if self.lease.is_some() && self.goal == Goal::Run && self.parting.is_none() {
            self.stand_aside(pause, why, actions);
        }
    }

    /// A slot has no run.
    fn pass_over(&mut self, now: Time, slot: Slot, why: &str, actions: &mut Vec<Action>) {
        self.say(actions, Level::Warn, None, &format!("no run at {slot}: {why}"));
        if let Some(cron) = &mut self.cron {
            cron.failed = Some((slot, format!("no run, {why}")));
            cron.counts.skipped += 1;
        }
        self.record_run(now, self.firm_token(now), slot, Turn::PassedOver { why: why.to_owned() }, actions);
        self.publish(News::CronSkipped { slot, reason: why.to_owned() }, actions);
    }

    /// Has a fact about a slot kept: with the lease where that has one, and else by the agent.
    fn record_run(&mut self, now: Time, token: Option<u64>, slot: Slot, turn: Turn, actions: &mut Vec<Action>) {
        let what = What::Run { watcher: self.spec.name.clone(), slot, turn };
        match (self.is_guarded(), token, &mut self.cron) {
            (true, Some(token), _) => {
                let fact = Fact { token, at: now, what };
                actions.push(Action::Record { lease: self.lease_behind(), fact });
            }
            (false, _, Some(cron)) => cron.journal.note(now, self.me.1.as_str(), what),
            // Nobody's any more.
            (true, None, _) | (false, _, None) => {}
        }
    }

    /// Under whose lease it runs.
    fn lease_behind(&self) -> LeaseName {
        let own = self.spec.lease_name(&self.me.0);
        match self.leader() {
            // A legion has no key but its own.
            Some(leader) => LeaseName { watcher: leader.clone(), key: None, ..own },
            None => own,
        }
    }

    /// The token under which something of it may run now.
    fn firm_token(&self, now: Time) -> Option<u64> {
        match self.hold(now) {
            Some(Hold::Firm { token, .. }) => Some(token),
            Some(Hold::Losing { .. } | Hold::No) | None => None,
        }
    }

    // ---- what follows ----

    /// Has the calendar looked at where that is due, and lets a run begin whose slot has come.
    pub(super) fn keep_time(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.cron.is_none() {
            return;
        }
        let hold = self.hold(now);
        let may_run = matches!(hold, None | Some(Hold::Firm { .. })) && !self.has_to_part();
        let may_start = may_run && self.is_over() && self.start_gate.is_none() && self.has_its_sockets();
        let is_empty = self.is_empty();
        let Some(cron) = &mut self.cron else { return };
        if cron.since == Since::Begun {
            cron.since = if let Some(Hold::Firm { .. }) = hold { Since::Changed } else { Since::Away };
        }
        if !may_run {
            // Somebody else may see to what comes meanwhile, or nobody is to.
            (cron.look, cron.next) = (None, None);
            if cron.since == Since::Before {
                cron.since = Since::Away;
            }
            match cron.phase {
                Phase::Running { .. } if !is_empty => {}
                Phase::Running { slot, token } => {
                    cron.phase = Phase::Waiting;
                    let why = "it was called off before it began".to_owned();
                    self.record_run(now, token, slot, Turn::PassedOver { why }, actions);
                }
                Phase::Waiting | Phase::Due { .. } | Phase::Claiming { .. } => cron.phase = Phase::Waiting,
            }
            return;
        }
        if cron.look.is_none_or(|look| look <= now) {
            cron.look = Some(now + LOOK);
            actions.push(Action::ReadCalendar { watcher: self.spec.name.clone(), cron: cron.spec.clone() });
        }
        match cron.phase {
            Phase::Due { slot, until } if may_start => match hold {
                Some(Hold::Firm { token, .. }) if cron.has_had(Claim { slot, token }) => {
                    cron.phase = Phase::Waiting;
                    self.say(actions, Level::Info, None, &format!("no run at {slot}: {} had it", self.me.1));
                }
                Some(Hold::Firm { token, .. }) => self.ask_for(Claim { slot, token }, until, actions),
                Some(Hold::Losing { .. } | Hold::No) | None => self.begin_run(slot, None, actions),
            },
            Phase::Claiming { claim, until, again: Some(again) } if again <= now => {
                self.ask_for(claim, until, actions);
            }
            Phase::Due { slot, until } if until <= now => {
                cron.phase = Phase::Waiting;
                self.pass_over(now, slot, "it could not begin in time", actions);
            }
            Phase::Due { .. } | Phase::Claiming { .. } | Phase::Waiting | Phase::Running { .. } => {}
        }
    }

    /// Claims a slot under its lease, or under its leader's.
    fn ask_for(&mut self, claim: Claim, until: Time, actions: &mut Vec<Action>) {
        let (watcher, lease) = (self.spec.name.clone(), self.lease_behind());
        if let Some(cron) = &mut self.cron {
            cron.phase = Phase::Claiming { claim, until, again: None };
        }
        actions.push(Action::ClaimSlot { watcher, lease, claim, timeout: CLAIM });
    }

    /// What its process is told of the run.
    pub(super) fn run_env(&self) -> Option<(String, String)> {
        match self.cron.as_ref()?.phase {
            Phase::Running { slot, .. } => Some(("CIRCUS_SLOT".to_owned(), slot.0.to_string())),
            Phase::Waiting | Phase::Due { .. } | Phase::Claiming { .. } => None,
        }
    }

    // ---- what is seen ----

    /// Where what became of its slots can be read.
    pub fn runs(&self) -> Runs {
        match &self.cron {
            None => Runs::None,
            Some(_) if self.is_guarded() => {
                Runs::Kept(Schedule { watcher: self.spec.name.clone(), lease: self.lease_behind() })
            }
            Some(cron) => Runs::Here(cron.journal.runs()),
        }
    }

    /// What others may see of its schedule.
    pub(super) fn cron_view(&self) -> Option<CronView> {
        let cron = self.cron.as_ref()?;
        let running = match cron.phase {
            Phase::Running { slot, .. } => Some(slot),
            Phase::Waiting | Phase::Due { .. } | Phase::Claiming { .. } => None,
        };
        Some(CronView { next: cron.next.map(|(slot, _)| slot), running, counts: cron.counts })
    }

    /// When something of its schedule is due.
    pub(super) fn next_slot(&self) -> Option<Time> {
        let cron = self.cron.as_ref()?;
        let late = match cron.phase {
            Phase::Due { until, .. } => Some(until),
            Phase::Claiming { again, .. } => again,
            Phase::Waiting | Phase::Running { .. } => None,
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
            (Phase::Running { slot, .. }, _) => Some(format!("runs for {slot}")),
            (Phase::Due { slot, .. }, _) => Some(format!("{slot} has come")),
            (Phase::Claiming { claim, .. }, _) => Some(format!("asks whose {} is", claim.slot)),
            (Phase::Waiting, Some((_, at))) => Some(format!("next in {}", span(now.until(at)))),
            (Phase::Waiting, None) if cron.look.is_some() => Some("never again".to_owned()),
            (Phase::Waiting, None) => None,
        };
        let parts: Vec<String> = next.into_iter().chain(failed).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}
