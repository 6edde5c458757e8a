//! Who contends for a lease on one machine: the same rules as in muster.lua, over a line of JSON in `NAME.members`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::{Paths, at, millis, private};
use crate::model::attendance::{Entry, Register};
use crate::model::election::{Member, Membership, Word};
use crate::model::names::NodeName;
use crate::model::time::Time;

/// The file is smaller: a machine has few agents.
const MAX_SIZE: u64 = 4 << 20;

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// The clock that all times are of: the boot, and the time namespace.
    clock: String,
    /// Since when it goes on without a break, in nanoseconds since boot.
    since: u64,
    members: BTreeMap<String, Line>,
}

/// One node's latest word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    said: Said,
    /// Its number: when the agent said it, in nanoseconds since boot.
    word: u64,
    /// When it lapses, in nanoseconds since boot.
    until: u64,
}

/// What others are told of when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    valor: u32,
    stands: bool,
    /// Whom people have moved the lease to, as whoever has it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    appoints: Option<String>,
    scroll: String,
    /// Its ttl, ms.
    ttl: u64,
    /// Whether it leaves.
    left: bool,
    /// The agent that says so, in hexadecimal.
    instance: String,
}

impl Record {
    /// What stands there, without those that have lapsed. A file of another boot has nobody who lives.
    pub(super) fn read(paths: &Paths, clock: &str, now: Time) -> io::Result<Record> {
        let mut text = Vec::new();
        let none = Record { clock: clock.to_owned(), since: now.as_nanos(), members: BTreeMap::new() };
        match private().read(true).open(&paths.members) {
            Ok(file) => file.take(MAX_SIZE).read_to_end(&mut text).map_err(at(&paths.members))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(none),
            Err(error) => return Err(at(&paths.members)(error)),
        };
        let spoilt =
            |_| at(&paths.members)(io::Error::new(io::ErrorKind::InvalidData, "it holds no record of members"));
        let mut record: Record = serde_json::from_slice(&text).map_err(spoilt)?;
        if record.clock != clock {
            return Ok(none);
        }
        record.members.retain(|_, line| line.until > now.as_nanos());
        Ok(record)
    }

    /// Puts it in its file's place, for all to hear of. Whoever is killed in between leaves the old one.
    pub(super) fn publish(&self, paths: &Paths) -> io::Result<()> {
        let new = paths.members.with_extension("members-new");
        let mut file = private().write(true).create(true).truncate(true).open(&new).map_err(at(&new))?;
        file.write_all(&serde_json::to_vec(self)?).map_err(at(&new))?;
        std::fs::rename(&new, &paths.members).map_err(at(&paths.members))
    }

    /// Takes down what an agent says of itself, or that it leaves: for itself, not for another that has got the name since.
    pub(super) fn note(&mut self, instance: u128, Word { sent, node, membership, .. }: &Word, now: Time) {
        let (word, instance) = (sent.as_nanos(), format!("{instance:032x}"));
        let known = self.members.get(node.as_str()).filter(|known| known.said.instance == instance);
        let line = match (membership, known) {
            (Some(Membership { valor, stands, appoints, scroll, ttl }), _) => {
                let said = Said {
                    valor: *valor,
                    stands: *stands,
                    appoints: appoints.as_ref().map(ToString::to_string),
                    scroll: scroll.clone(),
                    ttl: millis(*ttl),
                    left: false,
                    instance,
                };
                Line { said, word, until: (now + *ttl).as_nanos() }
            }
            (None, Some(known)) if !known.said.left => {
                let until = now + Duration::from_millis(known.said.ttl);
                Line { said: Said { left: true, ..known.said.clone() }, word, until: until.as_nanos() }
            }
            (None, _) => return,
        };
        self.members.insert(node.to_string(), line);
    }

    /// Whether others than `node` have come, left or changed since `before`, and not merely lapsed.
    pub(super) fn is_news(&self, before: &Record, node: &NodeName) -> bool {
        let of = |record: &Record, name: &str| record.members.get(name).map(|line| line.said.clone());
        let mut others = self.members.iter().filter(|(name, _)| *name != node.as_str());
        others.any(|(name, line)| of(before, name).map_or(!line.said.left, |said| said != line.said))
    }

    /// What it says to who asks.
    pub(super) fn register(&self, holder: Option<String>, now: Time) -> Register {
        let entry = |(name, line): (&String, &Line)| {
            let Said { valor, stands, appoints, scroll, ttl, left, instance } = line.said.clone();
            let appoints = appoints.and_then(|node| NodeName::parse(&node).ok());
            let membership = Membership { valor, stands, appoints, scroll, ttl: Duration::from_millis(ttl) };
            let node = NodeName::parse(name).ok()?;
            let member = Member { node, membership, left: now.until(Time::from_nanos(line.until)) };
            Some(Entry { member, left, word: line.word, instance: u128::from_str_radix(&instance, 16).ok()? })
        };
        let kept = now.since(Time::from_nanos(self.since));
        Register { holder, kept, entries: self.members.iter().filter_map(entry).collect() }
    }
}
