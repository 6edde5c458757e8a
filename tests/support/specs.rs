//! Specs for tests of the model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use circus_agent::model::names::{ClusterName, NodeName, SocketName, WatcherName};
use circus_agent::model::spec::{
    AgentSpec, Convention, Family, LogOutput, Place, ProgramSpec, RedisSpec, Secret, SocketSpec, WatcherSpec, Which,
    ZmqDoors,
};

/// A node of the cluster `test` without Redis, with these watchers.
pub(crate) fn agent(node: &NodeName, watchers: Vec<WatcherSpec>) -> AgentSpec {
    AgentSpec {
        node: node.clone(),
        cluster: ClusterName::parse("test").unwrap(),
        control_socket: None,
        zmq: ZmqDoors::default(),
        state_dir: None,
        labels: BTreeMap::new(),
        allow_drills: false,
        pidfile: None,
        umask: None,
        log_level: None,
        log_output: LogOutput::Stderr,
        python: None,
        global_options: BTreeMap::new(),
        lease_settings: BTreeMap::new(),
        hash: String::new(),
        redis: None,
        warmup_delay: Duration::ZERO,
        sockets: Vec::new(),
        watchers,
    }
}

/// A Redis that nobody reaches.
#[allow(dead_code, reason = "not every test has a Redis")]
pub(crate) fn redis() -> Option<RedisSpec> {
    Some(RedisSpec::at(Secret::new("redis://localhost".into())))
}

/// A watcher with Circus's defaults, which runs a program of its own name.
pub(crate) fn watcher(name: &str) -> WatcherSpec {
    WatcherSpec {
        name: WatcherName::parse(name).unwrap(),
        program: ProgramSpec::of(vec![name.into(), "--wid=$(circus.wid)".into()]),
        numprocesses: 1,
        max_per_node: None,
        warmup_delay: Duration::ZERO,
        priority: 0,
        autostart: true,
        respawn: true,
        max_retry: Some(5),
        graceful_timeout: Duration::from_secs(30),
        stop_signal: 15,
        stop_children: false,
        send_hup: false,
        max_age: None,
        max_age_variance: Duration::from_secs(30),
        ready: None,
        health: None,
        after: Vec::new(),
        hooks: BTreeMap::new(),
        hook_timeout: Duration::from_secs(30),
        on_demand: None,
        cron: None,
        singleton: None,
        election: None,
        legion: None,
        follows: None,
        settings: BTreeMap::new(),
    }
}

/// A TCP socket on this machine, with Circus's defaults.
#[allow(dead_code, reason = "not every test has sockets")]
pub(crate) fn socket(name: &str, port: u16) -> SocketSpec {
    SocketSpec {
        settings: BTreeMap::from([("port".to_owned(), port.to_string())]),
        ..SocketSpec::at(
            SocketName::parse(name).unwrap(),
            Place::Inet { host: "127.0.0.1".into(), port, family: Family::V4 },
        )
    }
}

/// A watcher that gets these sockets, in this order.
#[allow(dead_code, reason = "not every test has sockets")]
pub(crate) fn serving(name: &str, sockets: &[&str]) -> WatcherSpec {
    let names = sockets.iter().map(|name| SocketName::parse(name).unwrap()).collect();
    let mut spec = watcher(name);
    spec.program.sockets.which = Which::These(names);
    spec.program.sockets.conventions = BTreeSet::from([Convention::Listen]);
    spec
}
