//! A plugin's options: texts → values of one type, and all that is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::model::event::SIGNALS;

/// The longest time that can be asked for, in seconds: a hundred years are for ever, and every sum of them fits.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;
/// The shortest time between two rounds: below it a plugin would do nothing else.
const SHORTEST_ROUND: Duration = Duration::from_millis(10);

/// Options while they are read. A wrong one counts as absent, and is told of by [`Options::done`].
#[derive(Debug)]
pub(super) struct Options {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Options {
    pub(super) fn new(values: BTreeMap<String, String>) -> Options {
        Options { values, problems: Vec::new() }
    }

    /// The end: all that was wrong, a line each.
    pub(super) fn done(self) -> Result<(), String> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.problems.join("\n")) }
    }

    /// Notes what is wrong with `key`: that it `must be …`. Its value is not shown, as it may be a secret.
    pub(super) fn wrong(&mut self, key: &str, must: impl Display) {
        self.problems.push(format!("{key} {must}"));
    }

    /// A text; what is empty counts as absent.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.values.get(key).map(|value| value.trim()).filter(|value| !value.is_empty()).map(ToOwned::to_owned)
    }

    pub(super) fn text_or(&mut self, key: &str, default: &str) -> String {
        self.text(key).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        let Some(text) = self.text(key) else { return default };
        match text.to_lowercase().as_str() {
            "yes" | "true" | "on" | "1" => true,
            "no" | "false" | "off" | "0" => false,
            _ => {
                self.wrong(key, "must be true or false");
                default
            }
        }
    }

    /// What `parse` makes of the text; where it makes nothing, the option `must` be something else.
    pub(super) fn parsed<T>(&mut self, key: &str, must: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(key)?;
        let value = parse(&text);
        if value.is_none() {
            self.wrong(key, must);
        }
        value
    }

    /// A number within `least` and `most`.
    pub(super) fn number<T>(&mut self, key: &str, default: T, least: T, most: T) -> T
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let must = format!("must be a number from {least} to {most}");
        let within = |value: &T| (&least..=&most).contains(&value);
        self.parsed(key, &must, |text| text.parse::<T>().ok().filter(within)).unwrap_or(default)
    }

    /// Seconds, or a number with `ms`, `s`, `m` or `h`.
    pub(super) fn time(&mut self, key: &str) -> Option<Duration> {
        self.parsed(key, "must be a time: seconds, or a number with ms, s, m or h", duration)
    }

    /// A time that lies between two things that happen again and again.
    pub(super) fn interval(&mut self, key: &str, default: Duration) -> Duration {
        match self.time(key) {
            Some(time) if time < SHORTEST_ROUND => {
                self.wrong(key, "must be 10 ms at least");
                default
            }
            time => time.unwrap_or(default),
        }
    }

    /// A signal by name or number.
    pub(super) fn signal(&mut self, key: &str) -> Option<i32> {
        self.parsed(key, "must be a signal, by name or number", |text| {
            let name = text.to_uppercase();
            let name = name.strip_prefix("SIG").unwrap_or(&name);
            let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
            named.or_else(|| text.parse().ok().filter(|number| (1..=64).contains(number)))
        })
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    (seconds <= LONGEST).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        Options::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        let time = |text: &str| options(&[("window", text)]).time("window");
        assert_eq!(time("1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(time("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(time("2 m"), Some(Duration::from_secs(120)));
        for wrong in ["soon", "-1", "1e300h", "1d", "9999999999999"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let signal = |text: &str| options(&[("s", text)]).signal("s");
        assert_eq!((signal("sigkill"), signal("TERM"), signal("9")), (Some(9), Some(15), Some(9)));
        assert_eq!((signal("0"), signal("65"), signal("frob"), signal("")), (None, None, None, None));
    }

    #[test]
    fn a_wrong_option_is_named_without_its_value() {
        let mut options = options(&[("port", "70000"), ("rate", "fast"), ("loop_rate", "0"), ("fine", "7")]);
        assert_eq!(options.number("port", 8125, 1, 65535), 8125);
        assert_eq!(options.number("rate", 1.0, 0.0, 1.0), 1.0);
        assert_eq!(options.number("fine", 1, 0, 10), 7);
        assert_eq!(options.interval("loop_rate", Duration::from_secs(60)), Duration::from_secs(60));
        let why = options.done().unwrap_err();
        assert_eq!(
            why,
            "port must be a number from 1 to 65535\nrate must be a number from 0 to 1\nloop_rate must be 10 ms at least"
        );
    }
}
