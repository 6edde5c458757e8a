//! A real Redis Cluster of a test's own: three masters, each with a replica.

#![allow(unreachable_pub, dead_code)] // Included by several test files, each a crate of its own, which use a part.

use std::time::{Duration, Instant};

use redis::Value;

use super::redis_server::RedisServer;

/// How many masters there are at the start; as many replicas follow them.
const MASTERS: usize = 3;
const SLOTS: usize = 16384;

/// The servers of a cluster.
pub struct ClusterServers {
    /// The first three are the masters at the start, each of the others is the replica of the one three before it.
    pub servers: Vec<RedisServer>,
}

impl ClusterServers {
    /// Starts one whose masters are missed when they have not answered for `node_timeout`, and waits until all know of
    /// each other and the replicas are in step: one that never was takes no part in a failover.
    pub fn start(node_timeout: Duration) -> ClusterServers {
        ClusterServers::start_with(node_timeout, &[])
    }

    /// [`ClusterServers::start`], each with more arguments.
    pub fn start_with(node_timeout: Duration, arguments: &[&str]) -> ClusterServers {
        let timeout = node_timeout.as_millis().to_string();
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout];
        all.extend(["--cluster-replica-validity-factor", "0"]);
        all.extend(arguments);
        let servers: Vec<RedisServer> = (0..2 * MASTERS).map(|_| RedisServer::start_with(None, &all)).collect();
        let cluster = ClusterServers { servers };
        for (which, master) in cluster.servers[..MASTERS].iter().enumerate() {
            let (first, end) = (SLOTS * which / MASTERS, SLOTS * (which + 1) / MASTERS);
            master.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]);
            // Two masters with one epoch settle that between them, in time; here nobody waits for it.
            master.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(which + 1).to_string()]);
        }
        let over_tls = cluster.servers[0].text_of_config("tls-cluster") == "yes";
        let first = match over_tls {
            true => cluster.servers[0].text_of_config("tls-port"),
            false => cluster.servers[0].port().to_string(),
        };
        for server in &cluster.servers[1..] {
            server.command(&["CLUSTER", "MEET", "127.0.0.1", &first]);
        }
        let known = format!("cluster_known_nodes:{}", cluster.servers.len());
        for server in &cluster.servers {
            until("all servers to know of each other", || said(server, &["CLUSTER", "INFO"]).contains(&known));
        }
        for (master, replica) in cluster.servers[..MASTERS].iter().zip(&cluster.servers[MASTERS..]) {
            let id = id(master);
            until("a replica to know its master", || replica.try_command(&["CLUSTER", "REPLICATE", &id]).is_ok());
        }
        cluster.settled();
        cluster
    }

    /// Waits until all is well: every server is content, and every replica in step.
    pub fn settled(&self) {
        for server in &self.servers {
            until("a server to be content", || said(server, &["CLUSTER", "INFO"]).contains("cluster_state:ok"));
            until("a replica to be in step", || {
                let role = said(server, &["INFO", "replication"]);
                role.contains("role:master") || role.contains("master_link_status:up")
            });
        }
        // What one server has heard the others may not have yet.
        let masters = |server: &RedisServer| {
            let slots = server.try_command(&["CLUSTER", "SLOTS"]).ok()?;
            let Value::Array(ranges) = slots else { return None };
            Some(ranges.iter().filter(|range| matches!(range, Value::Array(parts) if parts.len() == 4)).count())
        };
        until("all to know of all replicas", || self.servers.iter().all(|server| masters(server) == Some(MASTERS)));
    }

    /// `redis+cluster://…` of the masters.
    pub fn url(&self) -> String {
        let at: Vec<String> =
            self.servers[..MASTERS].iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis+cluster://{}", at.join(","))
    }

    /// Which server is the master of the slot of `key`, by what one that runs says.
    pub fn master_of(&self, key: &str) -> usize {
        let asked = self.servers.iter().find(|server| server.try_command(&["PING"]).is_ok()).expect("one that runs");
        let slot = asked.number(&["CLUSTER", "KEYSLOT", key]);
        let ranges: Vec<(i64, i64, Value)> = match asked.command(&["CLUSTER", "SLOTS"]) {
            Value::Array(ranges) => ranges.into_iter().map(range).collect(),
            other => panic!("{other:?}"),
        };
        let (_, _, master) =
            ranges.into_iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).expect("somebody has it");
        let Value::Array(about) = master else { panic!("{master:?}") };
        let Value::Int(port) = about[1] else { panic!("{about:?}") };
        self.servers.iter().position(|server| i64::from(server.port()) == port).expect("one of ours")
    }

    /// Has the replica of the master `which` take its place, while all is well.
    pub fn fail_over(&self, which: usize) {
        self.servers[which + MASTERS].command(&["CLUSTER", "FAILOVER"]);
        self.promoted(which);
    }

    /// Waits until the replica of the master `which` has taken its place.
    pub fn promoted(&self, which: usize) -> &RedisServer {
        let replica = &self.servers[which + MASTERS];
        until("a replica to be promoted", || {
            said(replica, &["INFO", "replication"]).contains("role:master")
                && said(replica, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
        replica
    }

    /// Begins to move the slot of `key` from the master `from` to the master `to`.
    pub fn begin_to_move(&self, key: &str, from: usize, to: usize) {
        let (from, to) = (&self.servers[from], &self.servers[to]);
        let slot = from.number(&["CLUSTER", "KEYSLOT", key]).to_string();
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
    }

    /// Moves one key on the way that [`ClusterServers::begin_to_move`] made.
    pub fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.servers[to].port().to_string();
        self.servers[from].command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
    }

    /// Ends the move.
    pub fn end_the_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.servers[from].number(&["CLUSTER", "KEYSLOT", key]).to_string();
        let id = id(&self.servers[to]);
        for which in [to, from] {
            self.servers[which].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }
}

fn id(server: &RedisServer) -> String {
    server.text(&["CLUSTER", "MYID"]).expect("an id")
}

fn range(range: Value) -> (i64, i64, Value) {
    let Value::Array(mut parts) = range else { panic!("{range:?}") };
    let master = parts.remove(2);
    let [Value::Int(first), Value::Int(last), ..] = parts[..] else { panic!("{parts:?}") };
    (first, last, master)
}

fn said(server: &RedisServer, words: &[&str]) -> String {
    server.try_command(words).ok().and_then(|it| redis::from_redis_value(it).ok()).unwrap_or_default()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
