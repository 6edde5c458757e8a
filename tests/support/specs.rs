//! Specs for tests of the model.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::model::names::{ClusterName, NodeName, WatcherName};
use circus_agent::model::spec::{AgentSpec, LogOutput, ProgramSpec, RedisSpec, Secret, WatcherSpec};

/// A node of the cluster `test` without Redis, with these watchers.
pub(crate) fn agent(node: &NodeName, watchers: Vec<WatcherSpec>) -> AgentSpec {
    AgentSpec {
        node: node.clone(),
        cluster: ClusterName::parse("test").unwrap(),
        control_socket: None,
        state_dir: None,
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
    Some(RedisSpec { url: Secret::new("redis://".into()) })
}

/// A watcher with Circus's defaults, which runs a program of its own name.
pub(crate) fn watcher(name: &str) -> WatcherSpec {
    WatcherSpec {
        name: WatcherName::parse(name).unwrap(),
        program: ProgramSpec::of(vec![name.into(), "--wid=$(circus.wid)".into()]),
        numprocesses: 1,
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
        singleton: None,
        settings: BTreeMap::new(),
    }
}
