//! Whether one running process is ready, and stays well.
//!
//! ```text
//!            the check came true                     `retries` checks in a row failed
//!  Waiting ──────────────────────▶ Ready (well) ◀──────────────────────────────▶ Ready (unwell)
//!     └── not within its time-out: NotReady                  one came true
//! ```
//!
//! `Tcp`, `Http` and `Command` are asked for, one at a time; `Notify`, `Ack` and `Log` are listened for.

use std::time::Duration;

use super::event::{Action, Notification, ProcessId};
use super::spec::{Check, HealthAction, HealthSpec, Purpose, ReadySpec};
use super::time::Time;

/// The pause after the first check that found a process not ready; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// No pause between two of them is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long one of them may take.
const ONE_CHECK: Duration = Duration::from_secs(5);

/// The record of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkup {
    ready: Option<ReadySpec>,
    health: Option<HealthSpec>,
    since: Time,
    ready_at: Option<Time>,
    /// When the next check is due, or the interval ends in which a sign is awaited.
    next: Option<Time>,
    /// A check was asked for and has not come out.
    out: bool,
    /// Checks before it was ready.
    tries: u32,
    /// A sign of life was heard in this interval.
    heard: bool,
    /// Failures in a row.
    failures: u32,
    /// Something was done about them.
    acted: bool,
    why: Option<String>,
    status: Option<String>,
}

/// What is to be done about a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is not ready, and its time is over.
    NotReady(String),
    /// It is unwell.
    Unwell(String, HealthAction),
    /// It is well again.
    Recovered,
}

impl Checkup {
    /// A process that has just begun to run.
    pub fn new(now: Time, ready: Option<ReadySpec>, health: Option<HealthSpec>) -> Checkup {
        let mut checkup = Checkup {
            ready,
            health,
            since: now,
            ready_at: None,
            next: None,
            out: false,
            tries: 0,
            heard: false,
            failures: 0,
            acted: false,
            why: None,
            status: None,
        };
        match &checkup.ready {
            None => checkup.become_ready(now),
            Some(ReadySpec { check: Check::Timer(after), .. }) => checkup.next = Some(now + *after),
            Some(ReadySpec { check: Check::Notify | Check::Ack | Check::Log(_), .. }) => {}
            Some(_) => checkup.next = Some(now + FIRST_PAUSE),
        }
        checkup
    }

    /// Whether it is ready, be it well or not.
    pub fn is_ready(&self) -> bool {
        self.ready_at.is_some()
    }

    /// Whether a check says when it is ready.
    pub fn has_ready_check(&self) -> bool {
        self.ready.is_some()
    }

    /// Why it is unwell, or not ready yet.
    pub fn complaint(&self) -> Option<&str> {
        let unwell = self.health.as_ref().is_some_and(|health| self.failures >= health.retries);
        self.why.as_deref().filter(|_| !self.is_ready() || unwell)
    }

    /// Whether it is ready and unwell.
    pub fn is_unwell(&self) -> bool {
        self.is_ready() && self.complaint().is_some()
    }

    /// What it last said of itself.
    pub fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }

    /// A check came out.
    pub fn checked(&mut self, now: Time, purpose: Purpose, result: Result<(), String>) {
        if !std::mem::take(&mut self.out) {
            return;
        }
        match (purpose, result) {
            (Purpose::Ready, Ok(())) if !self.is_ready() => self.become_ready(now),
            (Purpose::Ready, Err(why)) if !self.is_ready() => {
                self.why = Some(why);
                self.next = Some(now + FIRST_PAUSE.saturating_mul(1 << self.tries.min(10)).min(LONGEST_PAUSE));
                self.tries = self.tries.saturating_add(1);
            }
            (Purpose::Health, result) if self.is_ready() => self.judge(result),
            (Purpose::Ready | Purpose::Health, _) => {}
        }
    }

    /// A line of its output matched.
    pub fn matched(&mut self, now: Time, purpose: Purpose) {
        match purpose {
            Purpose::Ready if self.ready_waits_for(|check| matches!(check, Check::Log(_))) => self.become_ready(now),
            Purpose::Health if self.health_is(|check| matches!(check, Check::Log(_))) => self.heard = true,
            Purpose::Ready | Purpose::Health => {}
        }
    }

    /// It said something.
    pub fn notified(&mut self, now: Time, notification: Notification) {
        let watched = self.health_is(|check| *check == Check::Notify);
        match notification {
            Notification::Ready if self.ready_waits_for(|check| *check == Check::Notify) => self.become_ready(now),
            Notification::Ack if self.ready_waits_for(|check| *check == Check::Ack) => self.become_ready(now),
            Notification::Alive if watched => self.heard = true,
            Notification::Trigger if watched && self.is_ready() => {
                self.failures = self.health.as_ref().map_or(0, |health| health.retries.saturating_sub(1));
                self.judge(Err("it asked to be ended (WATCHDOG=trigger)".into()));
            }
            Notification::Status(text) => self.status = Some(text),
            Notification::Ready
            | Notification::Ack
            | Notification::Alive
            | Notification::Trigger
            | Notification::Stopping => {}
        }
    }

    fn ready_waits_for(&self, kind: impl Fn(&Check) -> bool) -> bool {
        !self.is_ready() && self.ready.as_ref().is_some_and(|ready| kind(&ready.check))
    }

    fn health_is(&self, kind: impl Fn(&Check) -> bool) -> bool {
        self.health.as_ref().is_some_and(|health| kind(&health.check))
    }

    fn become_ready(&mut self, now: Time) {
        self.ready_at = Some(now);
        (self.why, self.out, self.heard) = (None, false, false);
        self.next = self.health.as_ref().map(|health| now + health.interval);
    }

    fn judge(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.failures = 0,
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                self.why = Some(why);
            }
        }
    }

    /// Asks for what is due; what is to be done about the process, each thing once.
    pub fn wake(&mut self, now: Time, process: ProcessId, actions: &mut Vec<Action>) -> Option<Verdict> {
        match (self.ready.clone(), self.ready_at) {
            (Some(ready), None) => self.wake_waiting(now, process, &ready, actions),
            _ => self.wake_ready(now, process, actions),
        }
    }

    fn wake_waiting(
        &mut self,
        now: Time,
        process: ProcessId,
        ready: &ReadySpec,
        actions: &mut Vec<Action>,
    ) -> Option<Verdict> {
        let end = self.since + ready.timeout;
        let due = self.next.is_some_and(|next| next <= now);
        if let Check::Timer(_) = ready.check {
            due.then(|| self.become_ready(now));
            return None;
        }
        if end <= now {
            // Said once: it is being stopped from now on.
            let last = self.why.take().map_or_else(String::new, |why| format!(": {why}"));
            (self.ready, self.health, self.next) = (None, None, None);
            return Some(Verdict::NotReady(format!(
                "not ready within {} s ({}){last}",
                ready.timeout.as_secs_f64(),
                ready.check
            )));
        }
        if due {
            (self.next, self.out) = (None, true);
            let (purpose, check, timeout) = (Purpose::Ready, ready.check.clone(), ONE_CHECK.min(now.until(end)));
            actions.push(Action::Check { process, purpose, check, timeout });
        }
        None
    }

    fn wake_ready(&mut self, now: Time, process: ProcessId, actions: &mut Vec<Action>) -> Option<Verdict> {
        let health = self.health.clone()?;
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now + health.interval);
            match &health.check {
                Check::Notify | Check::Log(_) => {
                    let heard = std::mem::take(&mut self.heard);
                    let silence =
                        || format!("no sign of life ({}) for {} s", health.check, health.interval.as_secs_f64());
                    self.judge(heard.then_some(()).ok_or_else(silence));
                }
                check => {
                    self.out = true;
                    let (purpose, check, timeout) = (Purpose::Health, check.clone(), health.timeout);
                    actions.push(Action::Check { process, purpose, check, timeout });
                }
            }
        }
        let unwell = self.failures >= health.retries;
        if unwell == self.acted {
            return None;
        }
        self.acted = unwell;
        let why = self.why.clone().unwrap_or_default();
        Some(if unwell { Verdict::Unwell(format!("unwell: {why}"), health.action) } else { Verdict::Recovered })
    }

    /// When to look again.
    pub fn next_wakeup(&self) -> Option<Time> {
        let end = self.ready.as_ref().filter(|_| !self.is_ready());
        let end = end.filter(|ready| !matches!(ready.check, Check::Timer(_))).map(|ready| self.since + ready.timeout);
        self.next.into_iter().chain(end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ProcessId = ProcessId(1);

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn tcp() -> Check {
        Check::Tcp { host: "localhost".into(), port: 80 }
    }

    fn ready(check: Check) -> Option<ReadySpec> {
        Some(ReadySpec { check, timeout: Duration::from_secs(10) })
    }

    fn health(check: Check, retries: u32) -> Option<HealthSpec> {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_millis(500));
        Some(HealthSpec { check, interval, timeout, retries, action: HealthAction::Restart })
    }

    /// Wakes at each deadline up to `end`; the checks asked for and the verdicts, with their times in milliseconds.
    fn run(
        checkup: &mut Checkup,
        end: u64,
        answer: &mut dyn FnMut(u64) -> Option<Result<(), String>>,
    ) -> Vec<(u64, String)> {
        let mut seen = Vec::new();
        while let Some(due) = checkup.next_wakeup().filter(|due| *due <= at(end)) {
            let ms = due.as_nanos() / 1_000_000;
            let mut actions = Vec::new();
            if let Some(verdict) = checkup.wake(due, ID, &mut actions) {
                seen.push((ms, format!("{verdict:?}")));
            }
            for action in actions {
                let Action::Check { purpose, .. } = action else { continue };
                seen.push((ms, format!("check {purpose:?}")));
                if let Some(result) = answer(ms) {
                    checkup.checked(due, purpose, result);
                }
            }
        }
        seen
    }

    #[test]
    fn without_a_check_running_is_ready() {
        let checkup = Checkup::new(at(0), None, None);
        assert!(checkup.is_ready() && checkup.next_wakeup().is_none());
    }

    #[test]
    fn a_timer_makes_ready_when_it_is_over_even_after_the_time_out() {
        let mut checkup = Checkup::new(at(0), ready(Check::Timer(Duration::from_secs(60))), None);
        assert_eq!(run(&mut checkup, 59_999, &mut |_| None), []);
        assert!(!checkup.is_ready());
        run(&mut checkup, 60_000, &mut |_| None);
        assert!(checkup.is_ready());
    }

    #[test]
    fn checks_are_repeated_ever_more_slowly_until_one_comes_true() {
        let mut checkup = Checkup::new(at(0), ready(tcp()), None);
        let seen = run(&mut checkup, 9_000, &mut |ms| Some(if ms < 300 { Err("refused".into()) } else { Ok(()) }));
        let times: Vec<u64> = seen.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(times, [20, 40, 80, 160, 320]);
        assert!(checkup.is_ready());
    }

    #[test]
    fn what_is_not_ready_in_time_is_said_once_with_the_last_reason() {
        let mut checkup = Checkup::new(at(0), ready(tcp()), None);
        let seen = run(&mut checkup, 60_000, &mut |_| Some(Err("refused".into())));
        let last = seen.last().unwrap();
        assert_eq!(last, &(10_000, "NotReady(\"not ready within 10 s (tcp localhost:80): refused\")".into()));
        assert_eq!(checkup.next_wakeup(), None);
    }

    #[test]
    fn a_check_that_never_comes_out_ends_with_the_time_out() {
        let mut checkup = Checkup::new(at(0), ready(tcp()), None);
        let seen = run(&mut checkup, 60_000, &mut |_| None);
        assert_eq!(seen.len(), 2, "{seen:?}");
    }

    #[test]
    fn a_process_is_unwell_after_so_many_failures_in_a_row_and_well_after_one_success() {
        let mut checkup = Checkup::new(at(0), None, health(tcp(), 3));
        let good = |ms| ms == 3_000 || ms >= 7_000;
        let seen = run(&mut checkup, 8_000, &mut |ms| Some(if good(ms) { Ok(()) } else { Err("refused".into()) }));
        let verdicts: Vec<_> = seen.iter().filter(|(_, what)| !what.starts_with("check")).collect();
        // Each shows when the next check is due.
        assert_eq!(verdicts.len(), 2, "{seen:?}");
        assert!(verdicts[0].1.starts_with("Unwell(\"unwell: refused\""), "{verdicts:?}");
        assert_eq!(verdicts[1], &(8_000, "Recovered".into()));
    }

    #[test]
    fn a_silent_interval_counts_as_a_failure_and_a_sign_of_life_forgives() {
        let mut checkup = Checkup::new(at(0), None, health(Check::Notify, 2));
        assert_eq!(run(&mut checkup, 1_000, &mut |_| None), []);
        checkup.notified(at(1_500), Notification::Alive);
        assert_eq!(run(&mut checkup, 3_000, &mut |_| None), []);
        let seen = run(&mut checkup, 4_000, &mut |_| None);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen[0].1.contains("no sign of life (notify) for 1 s"), "{seen:?}");
    }

    #[test]
    fn a_late_or_doubled_answer_changes_nothing() {
        let mut checkup = Checkup::new(at(0), ready(Check::Notify), None);
        checkup.checked(at(1), Purpose::Ready, Ok(()));
        checkup.matched(at(1), Purpose::Ready);
        assert!(!checkup.is_ready());
        checkup.notified(at(2), Notification::Ready);
        assert!(checkup.is_ready());
    }
}
