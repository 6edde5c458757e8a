//! When a process that ended may start again.
//!
//! The first end after a steady run costs nothing: the next process starts at once. Each further end in quick
//! succession doubles the pause, up to a cap, with jitter so that slots that died together do not try together.

use std::time::Duration;

use super::random::Random;
use super::time::Time;

/// A process that ran this long was steady: what happens next is a first failure again.
pub const STEADY: Duration = Duration::from_secs(10);
/// The pause after the second failure; it doubles from there.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const JITTER: f64 = 0.2;

/// The record of one slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Restart {
    failures: u32,
    next: Time,
}

impl Restart {
    /// A slot without a past: it may start at once.
    pub fn fresh() -> Restart {
        Restart { failures: 0, next: Time::ZERO }
    }

    /// Notes that the slot's process ended after `ran`, or never started (then `ran` is nothing).
    pub fn ended(&mut self, now: Time, ran: Duration, random: &mut Random) {
        if ran >= STEADY {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.next = now + random.about(pause(self.failures), JITTER);
    }

    /// When the next start is due.
    pub fn next(&self) -> Time {
        self.next
    }

    /// Failures in quick succession.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn pause(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        n => FIRST_PAUSE.saturating_mul(1 << (n - 2).min(20)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(failures: u32) -> Duration {
        let mut random = Random::from_number(u64::from(failures));
        let mut restart = Restart::fresh();
        let now = Time::from_nanos(1);
        for _ in 0..failures {
            restart.ended(now, Duration::ZERO, &mut random);
        }
        restart.next().since(now)
    }

    #[test]
    fn the_first_failure_costs_nothing() {
        assert_eq!(after(1), Duration::ZERO);
    }

    #[test]
    fn pauses_double_with_jitter_up_to_the_cap() {
        for (failures, secs) in [(2, 0.1), (3, 0.2), (6, 1.6), (11, 30.0), (4_000, 30.0)] {
            let paused = after(failures).as_secs_f64();
            assert!(
                paused >= secs * 0.8 && paused <= secs * 1.2,
                "{failures} failures: {paused} s, not about {secs} s"
            );
        }
    }

    #[test]
    fn a_steady_run_forgives() {
        let mut random = Random::from_number(1);
        let mut restart = Restart::fresh();
        let now = Time::from_nanos(1);
        for _ in 0..5 {
            restart.ended(now, Duration::ZERO, &mut random);
        }
        restart.ended(now, STEADY, &mut random);
        assert_eq!((restart.failures(), restart.next()), (1, now));
    }
}
