//! Real agents where Redis has replicas: a cluster whose masters fail, and replicas that must have each lease.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/cluster_servers.rs"]
mod cluster_servers;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "support/sentinels.rs"]
mod sentinels;
#[path = "support/witness.rs"]
mod witness;

use std::time::Duration;

use agent::{Agent, Home, PATIENCE, is_alive, wait_for};
use cluster_servers::ClusterServers;
use redis_server::RedisServer;
use sentinels::Watched;
use witness::{Life, Witness, now};

const TTL: Duration = Duration::from_secs(3);
/// What the specification grants beyond a ttl.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// Two agents with one singleton, over this Redis.
struct Pair {
    home: Home,
    witness: Witness,
    agents: Vec<Agent>,
}

impl Pair {
    fn start(redis: &str) -> Pair {
        let home = Home::new();
        let witness = Witness::new(home.path());
        let config = format!(
            "\n[redis]\n{redis}\nlease_ttl = {}s\n[watcher:beat]\ncmd = {}\nsingleton = true\ngraceful_timeout = 500ms\n",
            TTL.as_secs(),
            witness.command("grace=0.1")
        );
        let agents: Vec<Agent> = ["a", "b"].iter().map(|name| home.agent(name, &config)).collect();
        wait_for("the lease to be initialised", || {
            (agents[0].ctl(&home, &["lease", "init", "beat"]).code == 0).then_some(())
        });
        Pair { home, witness, agents }
    }

    fn of(&mut self, child: &Life) -> &mut Agent {
        &mut self.agents[usize::from(child.node == "b")]
    }
}

fn replication(server: &RedisServer) -> String {
    server
        .try_command(&["INFO", "replication"])
        .ok()
        .and_then(|it| redis::from_redis_value(it).ok())
        .unwrap_or_default()
}

fn a_replica_of(master: &RedisServer) -> RedisServer {
    let replica = RedisServer::start_with(None, &["--replicaof", "127.0.0.1", &master.port().to_string()]);
    wait_for("the replica to be in step", || replication(&replica).contains("master_link_status:up").then_some(()));
    replica
}

#[test]
fn on_a_cluster_a_killed_holder_and_a_killed_master_are_replaced() {
    let mut cluster = ClusterServers::start(Duration::from_secs(1));
    let mut pair = Pair::start(&format!("url = {}", cluster.url()));
    let first = pair.witness.first();
    pair.witness.ticks(&first);
    let killed = now();
    pair.of(&first).signal(libc::SIGKILL);
    let second = pair.witness.after(&first, PATIENCE);
    assert!(second.started_after(killed) < TTL + ONE_SECOND, "{:?}", second.started_after(killed));
    assert_ne!(second.node, first.node);

    // A failover takes longer here than a lease can ride out: the child may have to stop, and then one starts again.
    let master = cluster.master_of("circus:{default/beat}:lease");
    cluster.servers[master].kill();
    cluster.promoted(master);
    wait_for("one to run", || pair.witness.running().into_iter().next());
    let last = pair.witness.children().pop().expect("a child");
    pair.witness.ticks(&last);
    pair.witness.check();
    let survivor = &pair.agents[usize::from(second.node == "b")];
    let said = survivor.ctl(&pair.home, &["leases", "--node", &second.node]).expect(0);
    assert!(!said.out.contains("note:"), "{}", said.out);
}

#[test]
fn without_its_replica_a_lease_is_lost_in_time_and_nobody_else_starts_before_it_is_back() {
    let master = RedisServer::start();
    let mut replica = a_replica_of(&master);
    let mut pair = Pair::start(&format!("url = {}\nrequire_replica_ack = 1", master.url()));
    let first = pair.witness.first();
    pair.witness.ticks(&first);
    let port = replica.port();
    replica.kill();
    let lost = now();
    wait_for("the child to be stopped", || (!is_alive(first.pid)).then_some(()));
    let stopped = Duration::from_nanos(now() - lost);
    assert!(stopped < TTL, "it ran for {stopped:?} without a replica");
    // One has the master's word for it, and that is not enough.
    let says = |agent: &Agent| agent.lease("beat").to_string().contains("only 0 of 1 replicas have it (WAIT)");
    wait_for("it to be said why", || pair.agents.iter().any(says).then_some(()));
    assert!(pair.witness.running().is_empty());
    replica.restart();
    assert_eq!(replica.port(), port);
    let second = pair.witness.after(&first, PATIENCE);
    pair.witness.ticks(&second);
    pair.witness.check();
    pair.of(&second).signal(libc::SIGTERM);
    let third = pair.witness.after(&second, PATIENCE);
    assert!(third.token > second.token);
    pair.witness.check();
}

#[test]
fn a_master_that_is_cut_off_from_its_replica_keeps_no_lease_beside_the_one_that_took_its_place() {
    let watched = Watched::start(1, 3, Duration::from_millis(500));
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, sentinels::PASSWORD).unwrap();
    let redis = format!(
        "url = {}\nsentinel_username = circus\nsentinel_password_file = {}\nrequire_replica_ack = 1",
        watched.url(),
        password.display()
    );
    let pair = Pair::start(&redis);
    let first = pair.witness.first();
    pair.witness.ticks(&first);
    // The replica goes: what is left is a master whom agents still reach, and who has nobody to tell.
    watched.servers[1].command(&["REPLICAOF", "NO", "ONE"]);
    wait_for("the child to be stopped", || (!is_alive(first.pid)).then_some(()));
    // The sentinels make it a replica again, and all goes on.
    let second = pair.witness.after(&first, PATIENCE * 2);
    pair.witness.ticks(&second);
    pair.witness.check();
}

#[test]
fn what_is_amiss_with_redis_is_said_in_the_log_and_beside_the_leases() {
    let arguments = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let master = RedisServer::start_with(None, &arguments);
    let _replica = a_replica_of(&master);
    let pair = Pair::start(&format!("url = {}", master.url()));
    let at = format!("127.0.0.1:{}", master.port());
    let sentences = [
        format!("{at} forgets keys when its memory is full (maxmemory-policy allkeys-lru)"),
        format!("{at} has replicas, and goes on alone when it is cut off from them"),
    ];
    let agent = &pair.agents[0];
    for sentence in &sentences {
        agent.logs(sentence);
    }
    let said = agent.ctl(&pair.home, &["leases"]).expect(0);
    for sentence in &sentences {
        assert_eq!(said.out.matches(&format!("note: {sentence}")).count(), 1, "{}", said.out);
    }
    let json = agent.ctl(&pair.home, &["--json", "leases", "--node", "a"]).expect(0).out;
    assert!(json.contains(r#""advice":["#), "{json}");
    master.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "min-replicas-to-write", "1"]);
    master.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    wait_for("all to be well", || {
        let said = agent.ctl(&pair.home, &["leases"]);
        (said.code == 0 && !said.out.contains("note:")).then_some(())
    });
}
