//! Which slots of schedules were claimed on one machine: the same rules as in claim.lua, over a line of JSON in
//! `NAME.slots`. Only whoever has the lease's mutex reads or writes it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::files::{Paths, at, private, wall_clock_ms};
use crate::model::event::{Claim, Claimed};
use crate::model::names::{NodeName, WatcherName};

/// The file is smaller: it has a line's worth for each watcher of a lease.
const MAX_SIZE: u64 = 4 << 20;
/// A slot that is further from having come is not claimed, ms.
const AHEAD: u64 = 60_000;

/// The latest claim of a watcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    slot: u64,
    token: u64,
    node: String,
}

/// Claims a slot for the tenure that holds the lease, as the caller has made sure.
pub(super) fn claim(paths: &Paths, watcher: &WatcherName, node: &NodeName, claim: Claim) -> io::Result<Claimed> {
    let Claim { slot, token } = claim;
    if slot.0.saturating_mul(1_000) > wall_clock_ms().saturating_add(AHEAD) {
        return Ok(Claimed::Unknown("that time is far from having come".into()));
    }
    let mut all = read(paths)?;
    if let Some(known) = all.get(watcher.as_str())
        && (known.slot > slot.0 || known.slot == slot.0 && known.token != token)
    {
        return Ok(Claimed::Taken { by: known.node.clone() });
    }
    all.insert(watcher.to_string(), Known { slot: slot.0, token, node: node.to_string() });
    // Whoever is killed in between leaves the old one.
    let new = paths.slots.with_extension("slots-new");
    let mut file = private().write(true).create(true).truncate(true).open(&new).map_err(at(&new))?;
    file.write_all(&serde_json::to_vec(&all)?).map_err(at(&new))?;
    std::fs::rename(&new, &paths.slots).map_err(at(&paths.slots))?;
    Ok(Claimed::Ours)
}

fn read(paths: &Paths) -> io::Result<BTreeMap<String, Known>> {
    let mut text = Vec::new();
    match private().read(true).open(&paths.slots) {
        Ok(file) => file.take(MAX_SIZE).read_to_end(&mut text).map_err(at(&paths.slots))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(at(&paths.slots)(error)),
    };
    let spoilt = |_| at(&paths.slots)(io::Error::new(io::ErrorKind::InvalidData, "it holds no record of claims"));
    serde_json::from_slice(&text).map_err(spoilt)
}
