//! When a file gives way by time, and what it is called then: as in Python's `TimedRotatingFileHandler`.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use crate::model::spec::Rollover;

/// One file's calendar.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    every: Rollover,
    interval: i64,
    zone: TimeZone,
}

/// How far the next turn is.
enum Step {
    /// So long after the file was begun.
    After(SignedDuration),
    /// At the midnight that ends the so-manieth day of a round.
    Days(i64),
}

impl Calendar {
    /// Turns every `interval` units; 0 counts as 1.
    pub(super) fn new(every: Rollover, interval: u32, zone: TimeZone) -> Calendar {
        Calendar { every, interval: i64::from(interval.max(1)), zone }
    }

    /// When a file that was begun at `begun` gives way; one that would outlast time never does.
    pub(super) fn next(&self, begun: Timestamp) -> Timestamp {
        let at = match self.step() {
            Step::After(duration) => begun.checked_add(duration).ok(),
            Step::Days(days) => {
                let today = begun.to_zoned(self.zone.clone()).date();
                // A week ends with its day, whichever day it was begun on.
                let first = match self.every {
                    Rollover::Weekday(day) => days_until(today, day),
                    _ => 0,
                };
                let round = if matches!(self.every, Rollover::Weekday(_)) { 7 } else { 1 };
                self.midnight(today, first + days - round + 1)
            }
        };
        at.unwrap_or(Timestamp::MAX)
    }

    /// What is appended to the name of a file that gives way at `due`: when it should have been begun.
    pub(super) fn suffix(&self, due: Timestamp) -> String {
        let begun = match self.step() {
            Step::After(duration) => due.checked_sub(duration).ok(),
            Step::Days(days) => self.midnight(due.to_zoned(self.zone.clone()).date(), -days),
        };
        begun.unwrap_or(due).to_zoned(self.zone.clone()).strftime(self.format()).to_string()
    }

    /// Whether a file's name behind the dot is one of ours, or one that somebody has compressed since.
    pub(super) fn is_suffix(&self, text: &str) -> bool {
        let time = text.split_once('.').map_or(text, |(time, _)| time);
        let sample = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC).strftime(self.format()).to_string();
        let alike = |(a, b): (u8, u8)| a == b || a.is_ascii_digit() && b.is_ascii_digit();
        time.len() == sample.len() && time.bytes().zip(sample.bytes()).all(alike)
    }

    fn step(&self) -> Step {
        let seconds = |unit: i64| Step::After(SignedDuration::from_secs(unit * self.interval));
        match self.every {
            Rollover::Seconds => seconds(1),
            Rollover::Minutes => seconds(60),
            Rollover::Hours => seconds(60 * 60),
            Rollover::Days => seconds(24 * 60 * 60),
            Rollover::Midnight => Step::Days(self.interval),
            Rollover::Weekday(_) => Step::Days(7 * self.interval),
        }
    }

    fn format(&self) -> &'static str {
        match self.every {
            Rollover::Seconds => "%Y-%m-%d_%H-%M-%S",
            Rollover::Minutes => "%Y-%m-%d_%H-%M",
            Rollover::Hours => "%Y-%m-%d_%H",
            Rollover::Days | Rollover::Midnight | Rollover::Weekday(_) => "%Y-%m-%d",
        }
    }

    /// The first moment of the day `days` after `date`.
    fn midnight(&self, date: Date, days: i64) -> Option<Timestamp> {
        let date = date.checked_add(Span::new().try_days(days).ok()?).ok()?;
        Some(date.to_zoned(self.zone.clone()).ok()?.timestamp())
    }
}

/// How many days it is from `today` to the next `day` of the week, counted from Monday; none where it is today.
fn days_until(today: Date, day: u8) -> i64 {
    (i64::from(day) - i64::from(today.weekday().to_monday_zero_offset())).rem_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's handler makes of the same moments in the same time zone.
    #[test]
    fn files_give_way_when_pythons_do_and_under_the_same_names() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let sunday = "2026-11-22T10:00:30Z";
        // Clocks go back in the night that follows.
        let before_winter = "2026-10-24T10:00:30Z";
        for (every, interval, begun, due, suffix) in [
            (Rollover::Seconds, 1, sunday, "2026-11-22T10:00:31Z", "2026-11-22_11-00-30"),
            (Rollover::Minutes, 1, sunday, "2026-11-22T10:01:30Z", "2026-11-22_11-00"),
            (Rollover::Hours, 1, sunday, "2026-11-22T11:00:30Z", "2026-11-22_11"),
            (Rollover::Hours, 2, sunday, "2026-11-22T12:00:30Z", "2026-11-22_11"),
            (Rollover::Days, 1, sunday, "2026-11-23T10:00:30Z", "2026-11-22"),
            (Rollover::Midnight, 1, sunday, "2026-11-22T23:00:00Z", "2026-11-22"),
            (Rollover::Midnight, 2, sunday, "2026-11-23T23:00:00Z", "2026-11-22"),
            (Rollover::Weekday(0), 1, sunday, "2026-11-23T23:00:00Z", "2026-11-17"),
            (Rollover::Weekday(5), 1, sunday, "2026-11-28T23:00:00Z", "2026-11-22"),
            (Rollover::Weekday(6), 1, sunday, "2026-11-22T23:00:00Z", "2026-11-16"),
            (Rollover::Midnight, 1, before_winter, "2026-10-24T22:00:00Z", "2026-10-24"),
            (Rollover::Weekday(6), 1, before_winter, "2026-10-25T23:00:00Z", "2026-10-19"),
        ] {
            let calendar = Calendar::new(every, interval, berlin.clone());
            let found = calendar.next(begun.parse().unwrap());
            assert_eq!((found.to_string().as_str(), calendar.suffix(found).as_str()), (due, suffix), "{every:?}");
        }
    }

    #[test]
    fn an_interval_beyond_the_end_of_time_never_comes() {
        let calendar = Calendar::new(Rollover::Weekday(3), u32::MAX, TimeZone::UTC);
        assert_eq!(calendar.next(Timestamp::UNIX_EPOCH), Timestamp::MAX);
    }

    #[test]
    fn names_of_the_same_kind_are_known() {
        let calendar = Calendar::new(Rollover::Hours, 1, TimeZone::UTC);
        for (text, ours) in [
            ("2026-11-22_11", true),
            ("2026-11-22_11.gz", true),
            ("2026-11-22", false),
            ("2026-11-22_11-00", false),
            ("2026-11-22_xx", false),
            ("1", false),
        ] {
            assert_eq!(calendar.is_suffix(text), ours, "{text}");
        }
    }
}
