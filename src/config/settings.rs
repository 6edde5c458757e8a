//! One section's keys with their values, typed, each over its default.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::{self, Key, Section, Status};
use super::problem::Spot;
use super::scan::Entry;
use super::value::{Kind, RLIMITS, Value};
use super::vars;
use crate::model::names::{Labels, SocketName};
use crate::model::spec::{LogLevel, Rlimit, UserSpec, WID, socket_word};

/// One section's keys with their values, each over its default.
pub(super) struct Settings<'a> {
    /// The section's head.
    pub(super) head: &'a str,
    pub(super) section: Section,
    pub(super) set: Vec<Set<'a>>,
    /// What no key is known by, as text.
    pub(super) free: Vec<(&'a str, String)>,
}

/// A key that is set.
pub(super) struct Set<'a> {
    pub(super) key: &'static Key,
    pub(super) entry: Entry<'a>,
    /// The text with its `$(circus.env.…)` replaced.
    pub(super) text: String,
    pub(super) value: Value,
}

impl Set<'_> {
    /// Whether it says what holds anyway.
    pub(super) fn is_default(&self) -> bool {
        self.key.is_default(&self.value)
    }

    /// Whether anything may come of it.
    pub(super) fn works(&self) -> bool {
        !matches!(self.key.status, Status::Dead(_))
    }

    /// Where a part of the text stands, or all of it where variables have moved that.
    pub(super) fn part(&self, part: Range<usize>) -> Spot {
        match vars::references(self.entry.value).is_empty() {
            true => self.entry.part(&part),
            false => self.entry.spot(),
        }
    }
}

/// The parts of a list, trimmed, each with the byte where it begins; empty ones are left out.
pub(super) fn parts(text: &str, separates: fn(char) -> bool) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive(separates).filter_map(move |part| {
        let start = at + part.len() - part.trim_start().len();
        at += part.len();
        let part = part.trim_end_matches(separates).trim();
        Some((start, part)).filter(|_| !part.is_empty())
    })
}

impl<'a> Settings<'a> {
    /// All keys that are set, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Set<'a>> {
        self.set.iter()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Set<'a>> {
        self.set.iter().find(|set| set.entry.key == name)
    }

    /// The value of a key: as set, else its default, else nothing.
    pub(super) fn value(&self, name: &str) -> Option<Value> {
        let set = self.get(name).map(|set| set.value.clone()).filter(|value| *value != Value::Unset);
        set.or_else(|| {
            let key = keys::find(self.section, name)?;
            key.kind.parse(key.default).ok().filter(|value| *value != Value::Unset && !key.default.is_empty())
        })
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Bool(true))
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        match self.value(name) {
            Some(Value::Number(number)) => T::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn optional_seconds(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Some(Value::Seconds(seconds)) => Some(seconds),
            _ => None,
        }
    }

    pub(super) fn seconds(&self, name: &str) -> Duration {
        self.optional_seconds(name).unwrap_or_default()
    }

    pub(super) fn user(&self, name: &str) -> Option<UserSpec> {
        match self.value(name) {
            Some(Value::User(user)) => Some(user),
            _ => None,
        }
    }

    pub(super) fn level(&self, name: &str) -> Option<LogLevel> {
        match self.get(name)?.value {
            Value::Level(level) => Some(level),
            _ => None,
        }
    }

    pub(super) fn labels(&self, name: &str) -> Labels {
        match self.value(name) {
            Some(Value::Labels(labels)) => labels,
            _ => Labels::new(),
        }
    }

    pub(super) fn rlimits(&self) -> Vec<Rlimit> {
        let set = |set: &Set<'_>| match set.value {
            Value::Limit(limit) => Some(Rlimit { limit, ..rlimit(set.key.family(set.entry.key)?)? }),
            _ => None,
        };
        let mut limits: Vec<Rlimit> = self.set.iter().filter_map(set).collect();
        // Their order means nothing, and must not look like a change.
        limits.sort_by(|a, b| a.name.cmp(&b.name));
        limits
    }

    /// What a variable of a command line stands for, without `circus.` and in lower case.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        match name {
            "wid" => return Some(WID.to_owned()),
            // Circus's inner name.
            "use_fds" => return self.variable("use_sockets"),
            _ => {}
        }
        // Its number is known when a process starts; in both spellings and any case it becomes this one.
        if let Some(socket) = name.strip_prefix("sockets.") {
            return SocketName::parse(socket).ok().map(|socket| socket_word(&socket));
        }
        if let Some(limit) = name.strip_prefix("rlimits.") {
            let limit = format!("rlimit_{limit}");
            return self.set.iter().find(|set| set.entry.key.to_lowercase() == limit).map(|set| set.text.clone());
        }
        let key = keys::find(self.section, name)?;
        let text = self.get(name).map_or(key.default, |set| &set.text);
        match self.value(name)? {
            Value::Bool(true) => Some("True".into()),
            Value::Bool(false) => Some("False".into()),
            Value::Number(number) if key.kind == Kind::Signal => Some(number.to_string()),
            Value::Seconds(seconds) => Some(seconds.as_secs_f64().to_string()),
            _ => Some(text.trim().to_owned()),
        }
    }
}

/// A resource limit by its name in any case, infinite.
pub(super) fn rlimit(name: &str) -> Option<Rlimit> {
    let name = name.to_lowercase();
    let resource = RLIMITS.iter().find(|(known, _)| *known == name)?.1;
    Some(Rlimit { name, resource, limit: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_list_know_where_they_begin() {
        let text = " a b,\u{a0}c,,  d ";
        let found: Vec<_> = parts(text, |c| c == ',').collect();
        assert_eq!(found, [(1, "a b"), (7, "c"), (12, "d")]);
        assert!(found.iter().all(|(at, part)| text[*at..].starts_with(part)));
        assert_eq!(parts(", ,", |c| c == ',').count(), 0);
    }
}
