//! What a node and its processes use at one moment, as JSON for whoever watches.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::names::{NodeName, WatcherName};
use crate::model::snapshot::{LeaseRole, WatcherState};
use crate::model::stats::{History, LeaseStats, Machine, NodeStats, Past, Point, ProcessStats, Used, WatcherStats};

/// The longest frame that is sent or taken, in bytes: some 15,000 processes.
pub const MAX_FRAME: usize = 4 << 20;

/// As it is written. What may be missing has a value of its own, so that versions can differ.
#[derive(Serialize, Deserialize)]
struct Frame {
    node: String,
    at: f64,
    #[serde(default)]
    machine: MachineText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<ProcessText>,
    #[serde(default)]
    watchers: Vec<WatcherText>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct MachineText {
    cores: u32,
    load: f64,
    memory: u64,
    memory_used: u64,
}

#[derive(Serialize, Deserialize)]
struct WatcherText {
    name: String,
    #[serde(default)]
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default)]
    wanted: u32,
    #[serde(default)]
    restarts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseText>,
    #[serde(default)]
    processes: Vec<ProcessText>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct LeaseText {
    role: String,
    holder: Option<String>,
    token: Option<u64>,
    left: Option<f64>,
    ttl: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<f64>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct ProcessText {
    wid: u32,
    pid: u32,
    state: String,
    program: String,
    age: f64,
    children: u32,
    cpu: f64,
    resident: u64,
    descriptors: Option<u32>,
    read: Option<f64>,
    written: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct HistoryText {
    step: f64,
    watchers: Vec<PastText>,
}

#[derive(Serialize, Deserialize)]
struct PastText {
    name: String,
    cpu: Vec<Option<f64>>,
    resident: Vec<Option<u64>>,
}

/// A frame of a node:
///
/// ```json
/// {"node": name, "at": time,
///  "machine": {"cores": n, "load": n, "memory": bytes, "memory_used": bytes},
///  "agent": {as a process},
///  "watchers": [{"name": name, "state": word, "note": text, "wanted": n, "restarts": n,
///    "lease": {"role": word, "holder": node, "token": n, "left": seconds, "ttl": seconds, "latency": seconds},
///    "processes": [{"wid": n, "pid": n, "state": word, "program": name, "age": seconds, "children": n, "cpu": per cent,
///      "resident": bytes, "descriptors": n, "read": bytes a second, "written": bytes a second}]}],
///  "history": {"step": seconds, "watchers": [{"name": name, "cpu": [n…], "resident": [n…]}]}}
/// ```
///
/// What a process uses counts all below it, whose number is `children`; `cpu` is of one processor. `agent` is the agent
/// itself, as slot 0, without what it runs. `agent`, `note`, `lease`, `latency` and `history` are left out where there is
/// none; what is not known is null. `history` has the latest last, and null for when nobody watched. What a process uses by
/// itself, and the sockets, are no part of a frame.
pub fn node_stats_json(stats: &NodeStats, history: Option<&History>) -> Value {
    let frame = Frame {
        node: stats.node.to_string(),
        at: round(stats.at, 3),
        machine: MachineText {
            cores: stats.machine.cores,
            load: round(stats.machine.load, 2),
            memory: stats.machine.memory,
            memory_used: stats.machine.memory_used,
        },
        agent: stats.agent.as_deref().map(process_text),
        watchers: stats.watchers.iter().map(watcher_text).collect(),
    };
    let mut frame = serde_json::to_value(frame).expect("texts and numbers are JSON");
    if let Some(history) = history {
        frame["history"] = json!(HistoryText {
            step: history.step.as_secs_f64(),
            watchers: history.watchers.iter().map(past_text).collect(),
        });
    }
    frame
}

/// What is told instead of a frame of `bytes`, which is longer than [`MAX_FRAME`]: a note of the node.
pub fn untold_json(node: &NodeName, bytes: usize) -> Value {
    let megabytes = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let (long, most) = (megabytes(bytes), megabytes(MAX_FRAME));
    let note = format!("what {node} uses takes {long:.1} MiB to tell, and {most:.0} are the most: it is not shown");
    json!({"node": node.as_str(), "note": note})
}

fn watcher_text(watcher: &WatcherStats) -> WatcherText {
    WatcherText {
        name: watcher.name.to_string(),
        state: watcher.state.word().to_owned(),
        note: watcher.note.clone(),
        wanted: watcher.wanted,
        restarts: watcher.restarts,
        lease: watcher.lease.as_ref().map(|lease| LeaseText {
            role: lease.role.word().to_owned(),
            holder: lease.holder.as_ref().map(ToString::to_string),
            token: lease.token,
            left: lease.left.map(|left| round(left.as_secs_f64(), 3)),
            ttl: lease.ttl.as_secs_f64(),
            latency: lease.latency.map(|latency| round(latency.as_secs_f64(), 6)),
        }),
        processes: watcher.processes.iter().map(process_text).collect(),
    }
}

fn process_text(process: &ProcessStats) -> ProcessText {
    let Used { cpu, resident, descriptors, read, written } = process.used;
    ProcessText {
        wid: process.wid,
        pid: process.pid,
        state: process.state.clone(),
        program: process.program.clone(),
        age: round(process.age.as_secs_f64(), 3),
        children: process.children,
        cpu: round(cpu, 1),
        resident,
        descriptors,
        read: read.map(f64::round),
        written: written.map(f64::round),
    }
}

fn past_text((name, past): &(WatcherName, Past)) -> PastText {
    PastText {
        name: name.to_string(),
        cpu: past.iter().map(|point| Some(round((*point)?.cpu, 1))).collect(),
        resident: past.iter().map(|point| Some((*point)?.resident)).collect(),
    }
}

/// Reads a frame. Fields that are missing are empty and unknown ones ignored; a state that a later version has reads as
/// `starting` with that word in its note, and a part in a lease as `aside`.
///
/// # Errors
/// It is no frame, or a longer one than anybody sends.
pub fn parse_node_stats(text: &str) -> Result<NodeStats, String> {
    stats(parse(text)?)
}

/// Reads a frame that has been read as JSON, as a stream brings it.
///
/// # Errors
/// It is no frame.
pub fn node_stats(frame: &Value) -> Result<NodeStats, String> {
    stats(Frame::deserialize(frame).map_err(|error| format!("not a frame: {error}"))?)
}

fn stats(frame: Frame) -> Result<NodeStats, String> {
    Ok(NodeStats {
        node: NodeName::parse(&frame.node).map_err(|bad| bad.to_string())?,
        at: frame.at,
        machine: Machine {
            cores: frame.machine.cores,
            load: frame.machine.load,
            memory: frame.machine.memory,
            memory_used: frame.machine.memory_used,
        },
        agent: frame.agent.map(|agent| Box::new(process(agent))),
        watchers: frame.watchers.into_iter().map(watcher).collect::<Result<_, _>>()?,
        sockets: Vec::new(),
    })
}

/// The history that a frame has with it: the first that comes to who begins to watch has one.
pub fn parse_history(text: &str) -> Option<History> {
    stats_history(&parse(text).ok()?)
}

/// As [`parse_history`], of a frame that has been read as JSON.
pub fn stats_history(frame: &Value) -> Option<History> {
    let HistoryText { step, watchers } = HistoryText::deserialize(frame.get("history")?).ok()?;
    let past = |PastText { name, cpu, resident }: PastText| {
        let points = cpu.into_iter().zip(resident);
        let points = points.map(|(cpu, resident)| Some(Point { cpu: cpu?, resident: resident? }));
        Some((WatcherName::parse(&name).ok()?, points.collect()))
    };
    let step = seconds(step);
    (!step.is_zero()).then(|| History { step, watchers: watchers.into_iter().filter_map(past).collect() })
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    match text.len() {
        ..=MAX_FRAME => serde_json::from_str(text).map_err(|error| format!("not a frame: {error}")),
        long => Err(format!("a frame of {long} bytes, the most is {MAX_FRAME}")),
    }
}

fn watcher(text: WatcherText) -> Result<WatcherStats, String> {
    let state = state(&text.state);
    let later = || Some(text.state.clone()).filter(|word| !word.is_empty());
    Ok(WatcherStats {
        name: WatcherName::parse(&text.name).map_err(|bad| bad.to_string())?,
        note: if state.is_some() { text.note } else { later().or(text.note) },
        state: state.unwrap_or(WatcherState::Starting),
        wanted: text.wanted,
        restarts: text.restarts,
        lease: text.lease.map(lease),
        processes: text.processes.into_iter().map(process).collect(),
    })
}

fn lease(text: LeaseText) -> LeaseStats {
    const ROLES: [LeaseRole; 4] = [LeaseRole::Holder, LeaseRole::Losing, LeaseRole::Standby, LeaseRole::Aside];
    LeaseStats {
        role: ROLES.into_iter().find(|role| role.word() == text.role).unwrap_or(LeaseRole::Aside),
        holder: text.holder.and_then(|holder| NodeName::parse(&holder).ok()),
        token: text.token,
        left: text.left.map(seconds),
        ttl: seconds(text.ttl),
        latency: text.latency.map(seconds),
    }
}

fn process(text: ProcessText) -> ProcessStats {
    ProcessStats {
        wid: text.wid,
        pid: text.pid,
        state: text.state,
        program: text.program,
        age: seconds(text.age),
        used: Used {
            cpu: text.cpu,
            resident: text.resident,
            descriptors: text.descriptors,
            read: text.read,
            written: text.written,
        },
        children: text.children,
        own: None,
    }
}

fn state(word: &str) -> Option<WatcherState> {
    const STATES: [WatcherState; 10] = [
        WatcherState::Stopped,
        WatcherState::Starting,
        WatcherState::Active,
        WatcherState::Unhealthy,
        WatcherState::Backoff,
        WatcherState::Listening,
        WatcherState::Scheduled,
        WatcherState::Standby,
        WatcherState::Stopping,
        WatcherState::Failed,
    ];
    STATES.into_iter().find(|state| state.word() == word)
}

/// A time that no Duration can hold is another node's mistake: not worth losing its frame for.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}

fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WatcherName {
        WatcherName::parse(text).unwrap()
    }

    fn frame() -> NodeStats {
        let web = WatcherStats {
            name: name("web"),
            state: WatcherState::Active,
            note: None,
            wanted: 2,
            restarts: 7,
            lease: None,
            processes: vec![ProcessStats {
                wid: 1,
                pid: 4711,
                state: "running".into(),
                program: "python \"3\"".into(),
                age: Duration::from_millis(61_500),
                used: Used { cpu: 12.5, resident: 1 << 40, descriptors: Some(12), read: Some(4096.0), written: None },
                children: 3,
                own: None,
            }],
        };
        let agent = ProcessStats { wid: 0, pid: 4700, program: "circus-agent".into(), ..web.processes[0].clone() };
        let beat = WatcherStats {
            name: name("Beat é"),
            state: WatcherState::Standby,
            note: Some("held by web-2".into()),
            lease: Some(LeaseStats {
                role: LeaseRole::Holder,
                holder: Some(NodeName::parse("web-2").unwrap()),
                token: Some(u64::MAX),
                left: Some(Duration::from_millis(9_250)),
                ttl: Duration::from_secs(15),
                latency: Some(Duration::from_micros(412)),
            }),
            processes: vec![],
            ..web.clone()
        };
        NodeStats {
            node: NodeName::parse("web-1").unwrap(),
            at: 1_700_000_000.125,
            machine: Machine { cores: 4, load: 0.25, memory: 8 << 30, memory_used: 3 << 30 },
            agent: Some(Box::new(agent)),
            watchers: vec![web, beat],
            sockets: Vec::new(),
        }
    }

    fn history() -> History {
        let past = [Some(Point { cpu: 1.5, resident: 4096 }), None].into_iter().collect();
        History { step: Duration::from_secs(10), watchers: vec![(name("web"), past)] }
    }

    #[test]
    fn a_frame_reads_back_with_and_without_a_history() {
        let alone = node_stats_json(&frame(), None).to_string();
        assert_eq!((parse_node_stats(&alone), parse_history(&alone)), (Ok(frame()), None));
        let with = node_stats_json(&frame(), Some(&history()));
        assert_eq!(node_stats(&with), Ok(frame()));
        let with = with.to_string();
        assert_eq!((parse_node_stats(&with), parse_history(&with)), (Ok(frame()), Some(history())));
    }

    #[test]
    fn fields_have_the_names_and_units_that_are_promised() {
        let frame = node_stats_json(&frame(), Some(&history()));
        assert_eq!(
            frame["watchers"][0],
            json!({
                "name": "web", "state": "active", "wanted": 2, "restarts": 7,
                "processes": [{
                    "wid": 1, "pid": 4711, "state": "running", "program": "python \"3\"", "age": 61.5, "children": 3,
                    "cpu": 12.5, "resident": 1_u64 << 40, "descriptors": 12, "read": 4096.0, "written": null,
                }],
            })
        );
        assert_eq!(
            frame["watchers"][1]["lease"],
            json!({"role": "holder", "holder": "web-2", "token": u64::MAX, "left": 9.25, "ttl": 15.0, "latency": 0.000412})
        );
        assert_eq!(
            frame["history"],
            json!({"step": 10.0, "watchers": [{"name": "web", "cpu": [1.5, null], "resident": [4096, null]}]})
        );
        assert_eq!((&frame["agent"]["pid"], &frame["agent"]["resident"]), (&json!(4700), &json!(1_u64 << 40)));
        assert_eq!((&frame["node"], &frame["at"]), (&json!("web-1"), &json!(1_700_000_000.125)));
        assert_eq!(
            frame["machine"],
            json!({"cores": 4, "load": 0.25, "memory": 8_u64 << 30, "memory_used": 3_u64 << 30})
        );
    }

    #[test]
    fn a_newer_and_an_older_node_are_understood() {
        let later = r#"{"node": "a", "at": 1, "moon": "full", "watchers": [
            {"name": "web", "state": "waxing", "note": "why", "lease": {"role": "eclipsed", "ttl": -1},
             "processes": [{"wid": 1, "age": 1e300, "gpu": 7}]}]}"#;
        let read = parse_node_stats(later).unwrap();
        let web = &read.watchers[0];
        assert_eq!((web.state, web.note.as_deref()), (WatcherState::Starting, Some("waxing")));
        let lease = web.lease.as_ref().unwrap();
        assert_eq!((lease.role, lease.ttl), (LeaseRole::Aside, Duration::ZERO));
        assert_eq!(web.processes[0].age, Duration::ZERO);
        assert!(parse_node_stats(r#"{"node": "a", "at": 1}"#).unwrap().watchers.is_empty());
    }

    #[test]
    fn every_state_reads_back() {
        let words = "stopped starting active unhealthy backoff listening scheduled standby stopping failed";
        for word in words.split(' ') {
            assert_eq!(state(word).map(WatcherState::word), Some(word));
        }
    }

    #[test]
    fn prefixes_corrupted_bytes_and_floods_are_refused_without_a_panic() {
        let good = node_stats_json(&frame(), Some(&history())).to_string();
        for end in (0..good.len()).filter(|end| good.is_char_boundary(*end)) {
            assert!(parse_node_stats(&good[..end]).is_err() && parse_history(&good[..end]).is_none(), "{end} bytes");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let text = String::from_utf8_lossy(&bytes);
                let _ = (parse_node_stats(&text), parse_history(&text));
            }
        }
        let long = format!("{good}{}", " ".repeat(MAX_FRAME));
        assert!(parse_node_stats(&long).unwrap_err().contains("the most is 4194304"));
        for bad in [r#"{"node": "", "at": 1}"#, r#"{"node": "a", "at": 1, "watchers": [{"name": ""}]}"#, "[]", "7"] {
            assert!(parse_node_stats(bad).is_err(), "{bad}");
        }
    }
}
