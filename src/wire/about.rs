//! What a node says of itself in the registry.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::command::NodeAbout;
use crate::model::names::Labels;
use crate::model::stats::Machine;

/// The row's text: agents of other versions read it, so fields are only ever added.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct About {
    version: String,
    host: String,
    pid: u32,
    endpoint: String,
    /// Seconds.
    up: f64,
    config: String,
    labels: Labels,
    watchers: Vec<String>,
    holds: Vec<String>,
    waits: Vec<String>,
    well: u32,
    processes: u32,
    wanted: BTreeMap<String, u32>,
    most: BTreeMap<String, u32>,
    cores: u32,
    load: f64,
    /// Bytes.
    memory: u64,
    memory_used: u64,
    /// The version of the protocol.
    v: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    seals: Vec<String>,
}

/// What a node says of itself, as one line of JSON.
pub fn about_json(about: &NodeAbout) -> String {
    let row = About {
        version: about.version.clone(),
        host: about.host.clone(),
        pid: about.pid,
        endpoint: about.endpoint.clone(),
        up: about.up.as_millis() as f64 / 1000.0,
        config: about.config.clone(),
        labels: about.labels.clone(),
        watchers: about.watchers.clone(),
        holds: about.holds.clone(),
        waits: about.waits.clone(),
        well: about.well,
        processes: about.processes,
        wanted: about.wanted.clone(),
        most: about.most.clone(),
        cores: about.machine.cores,
        // More digits would be of no use to anybody.
        load: (about.machine.load * 100.0).round() / 100.0,
        memory: about.machine.memory,
        memory_used: about.machine.memory_used,
        v: about.protocol,
        seals: about.seals.clone(),
    };
    serde_json::to_string(&row).expect("strings and numbers are always JSON")
}

/// Reads such a line. Fields that are missing are empty and unknown ones ignored, so that agents of different versions
/// can share a registry; the error is for a text that is no such object at all.
pub fn parse_about(text: &str) -> Result<NodeAbout, String> {
    let row: About = serde_json::from_str(text).map_err(|error| format!("not a registry row: {error}"))?;
    Ok(NodeAbout {
        version: row.version,
        host: row.host,
        pid: row.pid,
        endpoint: row.endpoint,
        // A time that no Duration can hold is another node's mistake: not worth losing its row for.
        up: Duration::try_from_secs_f64(row.up).unwrap_or_default(),
        config: row.config,
        labels: row.labels,
        watchers: row.watchers,
        holds: row.holds,
        waits: row.waits,
        well: row.well,
        processes: row.processes,
        wanted: row.wanted,
        most: row.most,
        machine: Machine { cores: row.cores, load: row.load, memory: row.memory, memory_used: row.memory_used },
        protocol: row.v,
        seals: row.seals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> NodeAbout {
        NodeAbout {
            version: "0.1.0".into(),
            host: "web-1.example".into(),
            pid: 42,
            endpoint: "unix:///run/circus/web-1.sock".into(),
            up: Duration::from_millis(1_234_567),
            config: "7f3a2c".into(),
            labels: [("zone".into(), "a".into())].into(),
            watchers: vec!["web".into(), "beat \"x\"".into()],
            holds: vec!["beat".into()],
            waits: vec![],
            well: 2,
            processes: 7,
            wanted: [("web".into(), 7)].into(),
            most: [("web".into(), 9)].into(),
            machine: Machine { cores: 4, load: 0.62, memory: 8 << 30, memory_used: 3 << 30 },
            protocol: 1,
            seals: vec!["5f".into()],
        }
    }

    #[test]
    fn a_row_reads_back() {
        assert_eq!(parse_about(&about_json(&about())), Ok(about()));
    }

    #[test]
    fn a_newer_and_an_older_node_are_understood() {
        let row = parse_about(r#"{"version": "9", "moon": "full"}"#).unwrap();
        assert_eq!((row.version.as_str(), row.pid), ("9", 0));
        assert_eq!(parse_about("{}"), Ok(NodeAbout::default()));
        assert_eq!(parse_about(r#"{"up": -1}"#).unwrap().up, Duration::ZERO);
        assert_eq!(parse_about(r#"{"up": 1e300}"#).unwrap().up, Duration::ZERO);
    }

    #[test]
    fn prefixes_and_corrupted_bytes_never_panic() {
        let good = about_json(&about());
        for end in 0..good.len() {
            assert!(parse_about(&good[..end]).is_err());
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let _ = parse_about(&String::from_utf8_lossy(&bytes));
            }
        }
    }
}
