//! What is kept of the tenures of a lease on one machine, and of the slots of schedules: a line of JSON for each fact, with the fields of the entries
//! that Redis keeps. Only whoever has the lease's mutex reads or writes it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::files::{Paths, at, boottime, millis, private, wall_clock_ms};
use super::record::{Found, Record};
use crate::cluster::history::{Measured, entry, fields};
use crate::model::history::{Entry, Fact, KEPT, Left, What};
use crate::model::names::NodeName;
use crate::model::runs;
use crate::model::time::Time;

/// The file is smaller: it has at most twice the facts that are kept, and texts in them are cut.
const MAX_SIZE: u64 = 4 << 20;

/// The tenure before one that this agent has.
pub(super) struct Was {
    /// The token of the one that came after it.
    pub(super) by: u64,
    token: u64,
    owner: String,
    seen: Option<u64>,
    left: Left,
}

impl Was {
    /// What was found when the lease was taken under token `by`; nothing where nobody had it before.
    pub(super) fn new(found: &Found, by: u64, clock: &str, now: Time) -> Option<Was> {
        let (record, left) = match found {
            Found::Free(record) => (record, Left::Released),
            Found::Held { record, locked: false } => (record, Left::Died),
            Found::Held { record, locked: true } => (record, Left::Expired),
            Found::Nothing | Found::Spoilt { .. } | Found::Quarantine(_) => return None,
        };
        if record.owner.is_empty() {
            return None;
        }
        // A free one says when it was released, a held one when it would end.
        let heard = |record: &Record| record.until.saturating_sub(record.ttl * 1_000_000);
        let ago = |record: &Record| millis(now.since(Time::from_nanos(heard(record))));
        // A time of another boot says nothing on this one's clock.
        let seen = (record.clock == clock).then(|| wall_clock_ms().saturating_sub(ago(record)));
        Some(Was { by, token: record.token, owner: record.owner.clone(), seen, left })
    }

    fn fields(&self) -> [(&'static str, String); 4] {
        [
            ("was_id", self.owner.clone()),
            ("was_tok", self.token.to_string()),
            ("was_seen", self.seen.map_or_else(String::new, |seen| seen.to_string())),
            ("was_left", self.left.word().to_owned()),
        ]
    }
}

/// Keeps a fact.
pub(super) fn append(paths: &Paths, node: &NodeName, fact: &Fact, was: Option<&Was>) -> io::Result<()> {
    let (path, most) = match &fact.what {
        What::Run { watcher, .. } => (paths.runs(watcher), runs::KEPT),
        What::Started { .. } | What::Ended(_) | What::Idle(_) | What::Renamed { .. } => (paths.history.clone(), KEPT),
    };
    let named = at(&path);
    let measured = Measured { now: wall_clock_ms(), slack: 0, ago: millis(boottime().since(fact.at)) };
    let mut own: BTreeMap<&str, String> = fields(node, fact, measured).into_iter().collect();
    own.insert("tok", fact.token.to_string());
    own.extend(was.into_iter().flat_map(Was::fields));
    let mut line = serde_json::to_vec(&own)?;
    line.push(b'\n');
    let mut lines = read(&path)?;
    let kept = lines.iter().filter(|&&byte| byte == b'\n').count();
    if kept < 2 * most {
        let mut file = private().append(true).create(true).open(&path).map_err(&named)?;
        return file.write_all(&line).map_err(&named);
    }
    // Whoever is killed in between leaves the old file.
    let old = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(kept - most);
    lines.drain(..=old.map_or(0, |(end, _)| end));
    lines.extend(line);
    let mut new = path.clone().into_os_string();
    new.push("-new");
    let new = PathBuf::from(new);
    let mut file = private().write(true).create(true).truncate(true).open(&new).map_err(at(&new))?;
    file.write_all(&lines).map_err(at(&new))?;
    std::fs::rename(&new, &path).map_err(named)
}

/// All facts that are kept. Lines that are none are passed over: one may be cut short by a full disk.
pub(super) fn entries(path: &Path) -> io::Result<Vec<Entry>> {
    let text = read(path)?;
    let line = |line: &[u8]| {
        let fields: BTreeMap<String, String> = serde_json::from_slice(line).ok()?;
        entry(&fields.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect())
    };
    Ok(text.split(|&byte| byte == b'\n').filter_map(line).collect())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match private().read(true).open(path) {
        Ok(file) => file.take(MAX_SIZE).read_to_end(&mut text).map_err(at(path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(at(path)(error)),
    };
    Ok(text)
}
