//! `cron` and its time zone: texts → when a watcher runs, and what must not be said besides.

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::build::Build;
use super::problem::code;
use super::settings::Settings;
use super::value::{Kind, Value, Wrong, wrong};
use crate::model::names::WatcherName;
use crate::model::spec::{CronSpec, OnFailure, Zone};

/// Words for schedules, and what they stand for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// The five or six fields of a schedule that has a time to come.
pub(super) fn schedule(text: &str) -> Result<String, Wrong> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let fields = match fields.as_slice() {
        [word] if word.starts_with('@') => {
            let known = NICKNAMES.iter().find(|(nickname, _)| nickname.eq_ignore_ascii_case(word));
            let names = NICKNAMES.map(|(nickname, _)| nickname).join(", ");
            let (_, fields) = known.ok_or_else(|| wrong("is no schedule").help(format!("the words are {names}")))?;
            (*fields).to_owned()
        }
        [_, _, _, _, _] | [_, _, _, _, _, _] => fields.join(" "),
        _ => {
            let label = if fields.len() == 1 { "this is 1".to_owned() } else { format!("these are {}", fields.len()) };
            let help = "minute hour day month weekday, as in `*/5 * * * *`, or six with the second before them";
            return Err(wrong("must have five fields").label(label).help(help));
        }
    };
    let cron: Cron = fields.parse().map_err(|error| wrong("is no schedule").label(told(&error)))?;
    // Any time would do: a schedule comes round in less than two times four centuries of leap years, or never.
    let some_time = Zoned::new(Timestamp::UNIX_EPOCH, TimeZone::UTC);
    match cron.find_next_occurrence(&some_time, true) {
        Ok(_) => Ok(fields),
        Err(_) => Err(wrong("names a day that never comes")),
    }
}

/// What the library says, without its own titles.
fn told(error: &croner::errors::CronError) -> String {
    let text = error.to_string();
    let text = text.rsplit(": ").next().unwrap_or(&text).trim_end_matches('.');
    text.to_owned()
}

/// What follows a run that fails.
pub(super) fn on_failure(text: &str) -> Result<OnFailure, Wrong> {
    match text.split_once(char::is_whitespace) {
        None if text == "report" => Ok(OnFailure::Report),
        Some(("stand_back", time)) => match Kind::Positive.parse(time.trim())? {
            Value::Seconds(time) => Ok(OnFailure::StandBack(time)),
            _ => Err(wrong("must say for how long")),
        },
        _ => Err(wrong("must be report or stand_back TIME").label("this is neither").help("as in `stand_back 10m`")),
    }
}

/// A time zone that this machine knows.
pub(super) fn zone(text: &str) -> Result<Zone, Wrong> {
    if text.eq_ignore_ascii_case("local") {
        return Ok(Zone::Local);
    }
    match TimeZone::get(text) {
        Ok(_) => Ok(Zone::Named(text.to_owned())),
        Err(_) => {
            Err(wrong("is no time zone that this machine knows").help("`local`, `UTC`, or a name as in `Europe/Paris`"))
        }
    }
}

impl Build<'_> {
    /// When it runs, where it runs at times.
    pub(super) fn cron(
        &mut self,
        name: &WatcherName,
        settings: &Settings<'_>,
        numprocesses: u32,
        has_lease: bool,
    ) -> Option<CronSpec> {
        let Some(Value::Text(schedule)) = settings.value("cron") else {
            if self.is_absent(settings, "cron") {
                self.no_effect(settings, &["cron_timezone", "misfire_grace", "cron_on_failure"], "there is no `cron`");
            }
            return None;
        };
        let set = settings.get("cron")?;
        if numprocesses > 1 {
            let message = format!("`{name}` runs at times and cannot have {numprocesses} processes");
            self.problems
                .error(code::CONFLICT, set.entry.spot(), message)
                .help("a run is one process: take `numprocesses` or `cron` out");
        }
        for key in ["on_demand", "max_age", "health"] {
            let Some(other) = settings.get(key).filter(|other| !other.is_default()) else { continue };
            let message = format!("`{key}` does not go together with `cron`");
            self.problems
                .error(code::CONFLICT, other.entry.key_spot(), message)
                .help(format_args!("a run ends by itself: take `{key}` or `cron` out"));
        }
        self.no_effect(
            settings,
            &["respawn", "max_retry"],
            "a run at a time is not repeated: the next one has its own time",
        );
        let zone = match settings.value("cron_timezone") {
            Some(Value::Zone(zone)) => zone,
            _ => Zone::Local,
        };
        let on_failure = match settings.value("cron_on_failure") {
            Some(Value::OnFailure(what)) => what,
            _ => OnFailure::Report,
        };
        if let (OnFailure::StandBack(_), false, Some(set)) = (on_failure, has_lease, settings.get("cron_on_failure")) {
            let message = format!("`{name}` has no lease to stand back from");
            self.problems
                .error(code::CONFLICT, set.entry.spot(), message)
                .help("each node runs it by itself: add `singleton` or `legion`, or take this out");
        }
        Some(CronSpec { schedule, zone, misfire_grace: settings.seconds("misfire_grace"), on_failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_five_fields_and_comes_some_time() {
        for (text, read) in [
            ("*/5 * * * *", "*/5 * * * *"),
            (" 0   3 1-7,15 jan-mar  MON ", "0 3 1-7,15 jan-mar MON"),
            ("0 0 2-31/2 * *", "0 0 2-31/2 * *"),
            ("0 0 29 2 *", "0 0 29 2 *"),
            ("0 0 * * 7", "0 0 * * 7"),
            ("*/2 * * * * *", "*/2 * * * * *"),
            ("@daily", "0 0 * * *"),
        ] {
            assert_eq!(schedule(text).as_deref(), Ok(read), "{text}");
        }
        for (text, why) in [
            ("* * * *", "must have five fields"),
            ("0 0 0 * * * *", "must have five fields"),
            ("60 * * * *", "is no schedule"),
            ("* * * * lun", "is no schedule"),
            ("@sometimes", "is no schedule"),
            ("0 0 30 2 *", "names a day that never comes"),
        ] {
            assert_eq!(schedule(text).unwrap_err().message, why, "{text}");
        }
    }

    #[test]
    fn what_follows_a_failure_is_nothing_more_or_a_time_apart() {
        assert_eq!(on_failure("report"), Ok(OnFailure::Report));
        for text in ["stand_back 90", "stand_back  1.5m", "stand_back 90s"] {
            let minutes = OnFailure::StandBack(std::time::Duration::from_secs(90));
            assert_eq!(on_failure(text), Ok(minutes), "{text}");
        }
        for text in ["retry", "stand_back", "stand_back 0", "stand_back soon", "Report 1m", "stand_back -1"] {
            assert!(on_failure(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_zone_is_this_machines_or_has_a_name() {
        assert_eq!(zone("Local"), Ok(Zone::Local));
        assert_eq!(zone("UTC"), Ok(Zone::Named("UTC".into())));
        assert!(zone("Mars/Olympus").is_err());
    }
}
