//! Frames of nodes that do not exist, for the screen of circus-top.

#![allow(dead_code, unreachable_pub)] // Included by test files and benches, each of which uses a part of it.

use std::time::Duration;

use circus_agent::model::names::{NodeName, WatcherName};
use circus_agent::model::snapshot::{LeaseRole, WatcherState};
use circus_agent::model::stats::{
    History, Keeper, LeaseStats, Machine, NodeStats, Point, ProcessStats, Used, WatcherStats,
};
use circus_agent::model::time::Time;
use circus_agent::view::top::{Now, Settings};
use jiff::tz::TimeZone;

pub const SECOND: Duration = Duration::from_secs(1);

/// A moment so many milliseconds after 2026-11-22 22:08:51 UTC.
pub fn now(ms: u64) -> Now {
    Now {
        since_boot: Time::from_nanos(1_000_000_000_000 + ms * 1_000_000),
        unix: 1_795_385_331.0 + ms as f64 / 1_000.0,
    }
}

/// A screen of a terminal that can do all, at one place for all tests.
pub fn settings() -> Settings {
    Settings { title: "prod".into(), colour: false, unicode: true, read_only: false, zone: TimeZone::UTC }
}

pub fn name(text: &str) -> NodeName {
    NodeName::parse(text).expect("a node's name")
}

/// A node of four cores and 8 GB.
pub fn node(node: &str, watchers: Vec<WatcherStats>) -> NodeStats {
    let machine = Machine { cores: 4, load: 0.62, memory: 8 << 30, memory_used: 3 << 30 };
    NodeStats { node: name(node), at: 0.0, machine, agent: None, watchers, sockets: Vec::new() }
}

/// A watcher that is well, with a process for each share of a CPU.
pub fn watcher(name: &str, shares: &[f64]) -> WatcherStats {
    WatcherStats {
        name: WatcherName::parse(name).expect("a watcher's name"),
        state: WatcherState::Active,
        note: None,
        wanted: shares.len() as u32,
        restarts: 0,
        lease: None,
        processes: shares.iter().enumerate().map(|(at, cpu)| process(at as u32 + 1, *cpu)).collect(),
    }
}

/// A watcher that should have as many more processes as it has, and has them not.
pub fn ill(name: &str, shares: &[f64], missing: u32, note: &str) -> WatcherStats {
    let well = watcher(name, shares);
    WatcherStats {
        state: WatcherState::Backoff,
        note: Some(note.into()),
        wanted: well.wanted + missing,
        restarts: 1,
        ..well
    }
}

/// What such a node has kept of seven minutes before.
pub fn history(stats: &NodeStats) -> History {
    let wave = [0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 0.9, 0.6, 0.4, 0.3, 0.5, 0.7];
    let point = |used: Used, step: usize| Point { cpu: used.cpu * wave[step % 12], resident: used.resident };
    // For a while nobody watched.
    let past = |used: Used| (0..42).map(|step| (!(30..=32).contains(&step)).then(|| point(used, step))).collect();
    let watchers = stats.watchers.iter().map(|watcher| (watcher.name.clone(), past(watcher.used())));
    History { step: Keeper::STEP, watchers: watchers.collect() }
}

pub fn process(wid: u32, cpu: f64) -> ProcessStats {
    ProcessStats {
        wid,
        pid: 4_700 + wid,
        state: "running".into(),
        program: "celery".into(),
        age: Duration::from_secs(21_600 + u64::from(wid) * 60),
        used: Used { cpu, resident: 256 << 20, descriptors: Some(34), read: Some(0.0), written: Some(12_000.0) },
        children: u32::from(wid == 2) * 3,
        own: None,
    }
}

/// A singleton that runs here.
pub fn holder(name: &str, token: u64, left: Duration) -> WatcherStats {
    let lease = LeaseStats {
        role: LeaseRole::Holder,
        holder: None,
        token: Some(token),
        left: Some(left),
        ttl: Duration::from_secs(5),
        latency: Some(Duration::from_micros(412)),
    };
    WatcherStats { lease: Some(lease), ..watcher(name, &[0.1]) }
}

/// A singleton that `holder` has, or nobody.
pub fn standby(name: &str, holder: Option<&str>) -> WatcherStats {
    let lease = LeaseStats {
        role: LeaseRole::Standby,
        holder: holder.map(self::name),
        token: None,
        left: None,
        ttl: Duration::from_secs(5),
        latency: None,
    };
    let note = holder.map(|holder| format!("held by {holder}"));
    WatcherStats { lease: Some(lease), state: WatcherState::Standby, note, wanted: 1, ..watcher(name, &[]) }
}

/// Three nodes as in the documentation.
pub fn three() -> Vec<NodeStats> {
    vec![
        node(
            "web-1",
            vec![
                standby("beat", Some("web-2")),
                watcher("web", &[5.0, 7.0]),
                watcher("worker", &[10.0, 20.0, 30.0, 6.0]),
            ],
        ),
        node(
            "web-2",
            vec![
                holder("beat", 1_795_358_590_720, Duration::from_millis(4_100)),
                watcher("web", &[6.0, 6.0]),
                watcher("worker", &[20.0, 20.0, 25.0, 6.0]),
            ],
        ),
        node(
            "web-3",
            vec![
                standby("beat", Some("web-2")),
                watcher("web", &[7.0, 7.0]),
                ill("worker", &[30.0, 40.0, 5.0], 1, "#2 killed by SIGKILL, again in 4 s"),
            ],
        ),
    ]
}
