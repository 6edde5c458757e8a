//! When a watcher runs that runs at times.

use std::fmt;
use std::time::Duration;

/// A watcher that runs once at each time of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronSpec {
    /// The five fields of crontab(5), or six with the second before them, checked when the file was read.
    pub schedule: String,
    /// In which time zone they count.
    pub zone: Zone,
    /// How late a run may begin.
    pub misfire_grace: Duration,
    /// What follows a run that fails.
    pub on_failure: OnFailure,
}

/// What follows a run that fails, besides that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing.
    Report,
    /// The node gives the lease up that the run was under, its own or its legion's, and stands back for so long.
    StandBack(Duration),
}

/// A time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zone {
    /// This machine's.
    Local,
    /// One that all machines have: `UTC`, `Europe/Paris`.
    Named(String),
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Local => f.write_str("local"),
            Zone::Named(name) => f.write_str(name),
        }
    }
}

/// One time of a schedule, in seconds of the Unix epoch: the same on all nodes, whenever each of them comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl fmt::Display for Slot {
    /// In UTC: `2026-11-22T12:00:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Counted from the first of March of the year 0, so that a leap day is the last of its year.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, january) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + january;
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_shown_in_utc() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Slot(seconds).to_string(), shown);
        }
    }
}
