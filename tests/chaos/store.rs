//! The Redis that a singleton depends on, of each kind, each server on a host of its own.
//!
//! A fault of "Redis" is one of all its servers, or of those that decide on the lease (its keepers), as the scenario
//! says. Agents log in as a user of their own, so that their password can change while servers and sentinels go on.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::net::{Host, Net};
use super::redis_server::RedisServer;
use super::sentinels::{self, Sentinel};

/// The lease that all scenarios are about, and a key of its slot that is nobody's.
pub const LEASE: &str = "circus:{chaos/beat}:lease";
pub const META: &str = "circus:{chaos/beat}:meta";
pub const PROBE: &str = "circus:{chaos/beat}:probe";

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// When a server that does not answer counts as down, for sentinels and for a Redis Cluster.
const DOWN_AFTER: Duration = Duration::from_secs(1);
const NODE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any election here takes.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longer than a server takes to answer that is neither frozen nor paused.
const ANSWER: Duration = Duration::from_millis(300);
/// What every server is told at its start.
const ARGUMENTS: [&str; 9] = ["--protected-mode", "no", "--user", "circus", "on", ">secret", "~*", "&*", "+@all"];

/// The kinds of Redis that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Standalone,
    /// A master with two replicas, watched by three sentinels.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
    /// Three servers that know nothing of each other.
    Majority,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Standalone => "standalone",
            Kind::Sentinel => "sentinel",
            Kind::Cluster => "cluster",
            Kind::Majority => "majority",
        }
    }
}

/// A running Redis of one kind.
pub struct Store {
    pub kind: Kind,
    pub servers: Vec<Seat>,
    sentinels: Vec<(Host, Sentinel)>,
    /// Holds what the sentinels want to be told.
    password: tempfile::NamedTempFile,
}

/// A server and the host that it runs on.
pub struct Seat {
    pub host: Host,
    pub server: RedisServer,
}

impl Seat {
    fn start(net: &mut Net, environment: &[(String, String)], more: &[&str]) -> Seat {
        let host = net.host();
        let arguments = [&ARGUMENTS[..], more].concat();
        let server = host.run(|| RedisServer::start_at(&host.address.to_string(), PORT, environment, &arguments));
        Seat { host, server }
    }

    fn info(&self, section: &str) -> String {
        let info = self.server.try_within(ANSWER, &["INFO", section]).ok();
        info.and_then(|it| redis::from_redis_value(it).ok()).unwrap_or_default()
    }

    fn is_master(&self) -> bool {
        self.info("replication").contains("role:master")
    }

    fn at(&self) -> String {
        format!("{}:{PORT}", self.host.address)
    }
}

impl Store {
    /// Starts one of this kind, its servers with this in their environment, and waits until all its parts know of each
    /// other and it takes writes.
    pub fn start(kind: Kind, net: &mut Net, environment: &[(String, String)]) -> Store {
        let seat = |net: &mut Net, more: &[&str]| Seat::start(net, environment, more);
        let (mut servers, mut sentinels) = (Vec::new(), Vec::new());
        match kind {
            Kind::Standalone => servers.push(seat(net, &[])),
            Kind::Majority => servers.extend((0..3).map(|_| seat(net, &[]))),
            Kind::Sentinel => {
                servers.push(seat(net, &[]));
                let master = servers[0].host.address.to_string();
                servers.extend((0..2).map(|_| seat(net, &["--replicaof", &master, &PORT.to_string()])));
                in_step(&servers, 2);
                for _ in 0..3 {
                    let (host, watched) = (net.host(), format!("{master} {PORT}"));
                    let at = host.address.to_string();
                    let sentinel = host.run(|| Sentinel::start_at(&at, SENTINEL_PORT, &watched, 2, DOWN_AFTER));
                    sentinels.push((host, sentinel));
                }
                until("the sentinels to know of all", || {
                    let knows = |one: &Sentinel, what: &str| one.knows(what) == Some("2".into());
                    sentinels.iter().all(|(_, one)| knows(one, "num-other-sentinels") && knows(one, "num-slaves"))
                });
            }
            Kind::Cluster => {
                let patience = NODE_TIMEOUT.as_millis().to_string();
                let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", &patience];
                servers.extend((0..6).map(|_| seat(net, &settings)));
                let at: Vec<String> = servers.iter().map(Seat::at).collect();
                cluster_tool(
                    &[
                        &["create"],
                        &at.iter().map(String::as_str).collect::<Vec<_>>()[..],
                        &["--cluster-replicas", "1"],
                    ]
                    .concat(),
                );
                in_step(&servers, 3);
            }
        }
        let password = tempfile::NamedTempFile::new().expect("a file for a password");
        std::fs::write(password.path(), sentinels::PASSWORD).expect("a password");
        let store = Store { kind, servers, sentinels, password };
        store.serves();
        store
    }

    /// What an agent's file says of it.
    pub fn section(&self) -> String {
        let list = |at: Vec<String>| at.join(",");
        let servers = || list(self.servers.iter().map(Seat::at).collect());
        let url = match self.kind {
            Kind::Standalone => format!("redis://circus:secret@{}", servers()),
            Kind::Majority => format!("redis+majority://circus:secret@{}", servers()),
            Kind::Cluster => {
                format!("redis+cluster://circus:secret@{}", list(self.servers[..3].iter().map(Seat::at).collect()))
            }
            Kind::Sentinel => {
                let sentinels = list(self.sentinels.iter().map(|(host, _)| host.address.to_string()).collect());
                let file = self.password.path().display();
                format!(
                    "redis+sentinel://circus:secret@{sentinels}/{}/0\nsentinel_password_file = {file}",
                    sentinels::MASTER
                )
            }
        };
        format!("[redis]\nurl = {url}\n")
    }

    /// The servers that decide on the lease now.
    pub fn keepers(&self) -> Vec<usize> {
        // One that was cut off may still think that it is the master.
        let elected = |seat: &Seat| {
            let at = Some(seat.host.address.to_string());
            self.sentinels.iter().filter(|(_, sentinel)| sentinel.knows("ip") == at).count() > self.sentinels.len() / 2
        };
        let keeps = |seat: &Seat| match self.kind {
            Kind::Standalone | Kind::Majority => true,
            Kind::Sentinel => seat.is_master() && elected(seat),
            // One that has not the slot says where it is, and one that is cut off that it does not know.
            Kind::Cluster => seat.is_master() && seat.server.try_within(ANSWER, &["EXISTS", LEASE]).is_ok(),
        };
        (0..self.servers.len()).filter(|index| keeps(&self.servers[*index])).collect()
    }

    /// Whether another server takes over from one that hangs.
    pub fn fails_over(&self) -> bool {
        matches!(self.kind, Kind::Sentinel | Kind::Cluster)
    }

    /// The one server that decides on the lease, where it is one.
    pub fn keeper(&self) -> usize {
        until("one server that decides on the lease", || self.keepers().len() == 1);
        self.keepers()[0]
    }

    /// Puts a command to every server that decides on the lease.
    pub fn tell_keepers(&self, words: &[&str]) {
        self.keepers().into_iter().for_each(|index| drop(self.servers[index].server.command(words)));
    }

    /// Puts a command to every server.
    pub fn tell_all(&self, words: &[&str]) {
        self.servers.iter().for_each(|seat| drop(seat.server.command(words)));
    }

    /// SIGKILL for every server.
    pub fn kill_all(&mut self) {
        self.servers.iter_mut().for_each(|seat| seat.server.kill());
    }

    /// Has every server lose what it has on disk.
    pub fn forget_all(&self) {
        self.servers.iter().for_each(|seat| seat.server.forget());
    }

    /// Starts every server again, with what it has on disk.
    pub fn restart_all(&mut self) {
        self.servers.iter_mut().for_each(|seat| seat.host.run(|| seat.server.restart()));
    }

    /// Starts one server again, with what it has on disk.
    pub fn restart(&mut self, index: usize) {
        let seat = &mut self.servers[index];
        seat.host.run(|| seat.server.restart());
    }

    pub fn freeze_all(&self) {
        self.servers.iter().for_each(|seat| seat.server.freeze());
    }

    pub fn thaw_all(&self) {
        self.servers.iter().for_each(|seat| seat.server.thaw());
    }

    /// Waits until the lease could be written again: everywhere, or where its one master is.
    pub fn serves(&self) {
        until("Redis to take writes", || {
            let keepers = self.keepers();
            let writes = |index: &usize| self.servers[*index].server.try_within(ANSWER, &["SET", PROBE, "1"]).is_ok();
            let enough = if self.kind == Kind::Majority { 3 } else { 1 };
            keepers.len() == enough && keepers.iter().all(writes)
        });
    }

    /// Waits until the servers that decide on the lease take no writes.
    pub fn refuses_writes(&self) {
        until("Redis to refuse writes", || {
            let refuses = |index: usize| self.servers[index].server.try_within(ANSWER, &["SET", PROBE, "1"]).is_err();
            self.keepers().into_iter().all(refuses)
        });
    }

    /// How many of the servers that decide on the lease have this key.
    pub fn exists(&self, key: &str) -> i64 {
        self.keepers().into_iter().map(|index| self.servers[index].server.number(&["EXISTS", key])).sum()
    }

    /// The hosts of a master's replicas.
    pub fn replicas_of(&self, master: usize) -> Vec<Host> {
        self.replicas(master).map(|seat| seat.host.clone()).collect()
    }

    fn replicas(&self, master: usize) -> impl Iterator<Item = &Seat> {
        let follows = format!("master_host:{}\r", self.servers[master].host.address);
        self.servers.iter().filter(move |seat| seat.info("replication").contains(&follows))
    }

    /// Whether no replica of the lease's master has heard of it.
    pub fn replicas_know_nothing_of_the_lease(&self) -> bool {
        // KEYS, as a replica of a Redis Cluster answers nothing else about a key.
        let knows =
            |seat: &Seat| seat.server.command(&["KEYS", "circus:*beat*:lease"]) != redis::Value::Array(Vec::new());
        !self.replicas(self.keeper()).any(knows)
    }

    /// Moves the slot of the lease to another master, with a pause before its keys move, and one after.
    pub fn move_slot(&self, pause: impl Fn()) {
        let (from, slot) = (self.keeper(), self.servers[0].server.number(&["CLUSTER", "KEYSLOT", LEASE]).to_string());
        let masters: Vec<&Seat> = self.servers.iter().filter(|seat| seat.is_master()).collect();
        let from = &self.servers[from];
        let to = masters.iter().find(|seat| seat.host.address != from.host.address).expect("another master");
        let id = |seat: &Seat| seat.server.text(&["CLUSTER", "MYID"]).expect("an identity");
        to.server.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        from.server.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        pause();
        for key in [META, LEASE, PROBE] {
            from.server.command(&["MIGRATE", &to.host.address.to_string(), &PORT.to_string(), key, "0", "1000"]);
        }
        pause();
        [to, from].into_iter().chain(masters.iter().copied()).for_each(|seat| {
            seat.server.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
        });
    }

    /// Orders a failover while all is well.
    pub fn fail_over(&self) {
        match self.kind {
            Kind::Sentinel => {
                let done: redis::Value = self.sentinels[0].1.ask(&["FAILOVER", sentinels::MASTER]).expect("a failover");
                assert_eq!(done, redis::Value::Okay);
            }
            Kind::Cluster => {
                let replica = self.replicas(self.keeper()).next().expect("a replica of the lease's master");
                let master = &self.servers[self.keeper()].server;
                until("the master to know its replica as one", || {
                    let nodes: String = redis::from_redis_value(master.command(&["CLUSTER", "NODES"])).unwrap();
                    nodes.lines().any(|line| line.contains("slave") && line.contains(&replica.at()))
                });
                replica.server.command(&["CLUSTER", "FAILOVER"]);
            }
            Kind::Standalone | Kind::Majority => panic!("{} has no replica", self.kind.name()),
        }
    }
}

fn in_step(servers: &[Seat], replicas: usize) {
    until("the replicas to be in step", || {
        servers.iter().filter(|seat| seat.info("replication").contains("master_link_status:up")).count() == replicas
    });
}

fn cluster_tool(words: &[&str]) {
    let output = Command::new("redis-cli").arg("--cluster").args(words).arg("--cluster-yes").output();
    let output = output.expect("redis-cli is installed");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(kind: Kind, keepers: usize) {
        let mut net = Net::new();
        let store = Store::start(kind, &mut net, &[]);
        assert_eq!(store.keepers().len(), keepers);
        if kind == Kind::Cluster {
            let before = store.keeper();
            store.move_slot(|| ());
            assert_ne!(store.keeper(), before);
            store.serves();
        }
    }

    #[test]
    #[ignore = "takes its time: see `make chaos`"]
    fn a_redis_of_each_kind_takes_writes() {
        starts(Kind::Standalone, 1);
        starts(Kind::Sentinel, 1);
        starts(Kind::Cluster, 1);
        starts(Kind::Majority, 3);
    }
}
