//! What a schedule has around a moment, in its time zone.
//!
//! A slot follows from the schedule and the rules of the zone alone, so that all nodes find the same one. What is set for a
//! time that the clocks skip comes right after the gap; what is set for one that they double comes once, at the first of
//! both; and what comes every so often goes on through either.

use std::time::{Duration, SystemTime};

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::model::event::Calendar;
use crate::model::spec::{CronSpec, Slot, Zone};

/// Looks at the calendar; nothing where the time zone cannot be read, or the clock tells no time. It may read files.
pub fn read(cron: &CronSpec, now: SystemTime) -> Option<Calendar> {
    let zone = match &cron.zone {
        Zone::Local => TimeZone::system(),
        Zone::Named(name) => TimeZone::get(name).ok()?,
    };
    let schedule: Cron = cron.schedule.parse().ok()?;
    let now = Timestamp::try_from(now).ok()?;
    let zoned = now.to_zoned(zone);
    let slot = |found: &Zoned| u64::try_from(found.timestamp().as_second()).ok().map(Slot);
    let away = |found: &Zoned| Duration::try_from(now.duration_until(found.timestamp()).abs()).ok();
    let around = |found: Zoned| slot(&found).zip(away(&found));
    Some(Calendar {
        now: slot(&zoned)?,
        past: schedule.find_previous_occurrence(&zoned, true).ok().and_then(around),
        next: schedule.find_next_occurrence(&zoned, false).ok().and_then(around),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::OnFailure;

    /// The slots of a schedule in Berlin between two moments in UTC, as a machine meets them that looks every 7 minutes.
    fn slots(schedule: &str, from: &str, to: &str) -> Vec<String> {
        let zone = Zone::Named("Europe/Berlin".into());
        let cron =
            CronSpec { schedule: schedule.into(), zone, misfire_grace: Duration::ZERO, on_failure: OnFailure::Report };
        let (mut now, end): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
        let mut found: Vec<String> = Vec::new();
        while now < end {
            let calendar = read(&cron, now.into()).unwrap();
            let (slot, late) = calendar.past.unwrap();
            assert_eq!(slot.0 + late.as_secs(), calendar.now.0);
            let (next, left) = calendar.next.unwrap();
            assert_eq!(calendar.now.0 + left.as_secs(), next.0);
            if slot.0 >= u64::try_from(from.parse::<Timestamp>().unwrap().as_second()).unwrap() {
                found.push(slot.to_string()[11..16].to_owned());
            }
            now += jiff::SignedDuration::from_mins(7);
        }
        found.dedup();
        found
    }

    // In 2026 Berlin's clocks went from 2 to 3 on 29 March at 1:00 UTC, and from 3 to 2 on 25 October at 1:00 UTC.

    #[test]
    fn a_skipped_time_comes_right_after_the_gap() {
        assert_eq!(slots("30 2 * * *", "2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z"), ["01:00"]);
    }

    #[test]
    fn a_doubled_time_comes_once() {
        assert_eq!(slots("30 2 * * *", "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"), ["00:30"]);
    }

    #[test]
    fn what_comes_every_so_often_goes_on_while_the_clocks_change() {
        let halves = ["00:00", "00:30", "01:00", "01:30", "02:00", "02:30"];
        assert_eq!(slots("*/30 * * * *", "2026-03-29T00:00:00Z", "2026-03-29T02:45:00Z"), halves);
        assert_eq!(slots("*/30 * * * *", "2026-10-25T00:00:00Z", "2026-10-25T02:45:00Z"), halves);
    }

    #[test]
    fn a_slot_has_come_with_its_first_second() {
        let cron = CronSpec {
            schedule: "0 12 * * *".into(),
            zone: Zone::Named("UTC".into()),
            misfire_grace: Duration::ZERO,
            on_failure: OnFailure::Report,
        };
        let noon: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let at = |nanos| read(&cron, (noon + jiff::SignedDuration::from_nanos(nanos)).into()).unwrap();
        let noon = Slot(u64::try_from(noon.as_second()).unwrap());
        assert_eq!(at(-1).next, Some((noon, Duration::from_nanos(1))));
        assert_eq!(at(0).past, Some((noon, Duration::ZERO)));
        assert_eq!(at(999_999_999).past, Some((noon, Duration::from_nanos(999_999_999))));
        assert_eq!(at(0).next.map(|(slot, _)| slot.0), Some(noon.0 + 86_400));
    }
}
