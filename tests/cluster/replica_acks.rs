//! Leases that count only when replicas have them (`require_replica_ack`).

use super::cluster_servers::ClusterServers;
use super::*;

/// Not one replica has it.
const NONE: &str = "only 0 of 1 replicas have it (WAIT)";

/// `spec`, with one replica that must have what was written.
fn acked(spec: RedisSpec) -> RedisSpec {
    RedisSpec { require_replica_ack: 1, ..spec }
}

/// A master and its replica, which is in step.
fn a_pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::start();
    let replica = RedisServer::start_with(None, &["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let deadline = Instant::now() + PATIENCE;
    while !in_step(&replica) {
        assert!(Instant::now() < deadline, "the replica is never in step");
        std::thread::sleep(Duration::from_millis(20));
    }
    (master, replica)
}

fn in_step(replica: &RedisServer) -> bool {
    let about: String = redis::from_redis_value(replica.command(&["INFO", "replication"])).unwrap();
    about.contains("master_link_status:up")
}

async fn started(spec: RedisSpec, name: &str, instance: u128) -> Agent {
    let mut agent = Agent::start_at(acked(spec), name, instance);
    agent.up_and_heard().await;
    agent
}

#[tokio::test]
async fn a_lease_counts_when_the_replica_has_it_and_not_before() {
    let (master, replica) = a_pair();
    let mut agent = started(at(&master.url()), "a", 1).await;
    let mut other = started(at(&master.url()), "b", 2).await;
    let (a, b) = (owner("a", 1), owner("b", 2));
    agent.init().await.unwrap();
    let LeaseAnswer::Granted { token } = agent.answered(&long(take(&a).kind, &a)).await else { panic!("not granted") };
    assert_eq!(replica.text(&["GET", &lease().lease_key()]), Some(a.to_string()), "it was there when it was granted");
    let goes_on = long(refresh(&a, token).kind, &a);
    assert_eq!(agent.ask(&goes_on).await, LeaseAnswer::Granted { token });
    master.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(agent.ask(&goes_on).await, LeaseAnswer::Granted { token }, "also with the script's text");

    replica.freeze();
    for _ in 0..4 {
        assert_eq!(agent.failed(&goes_on).await, NONE);
    }
    let waits = other.ask(&take(&b)).await;
    assert!(matches!(waits, LeaseAnswer::Held { .. }), "a refusal needs no replica: {waits:?}");
    replica.thaw();
    assert_eq!(agent.answered(&goes_on).await, LeaseAnswer::Granted { token });
    assert_eq!(agent.ask(&release(&a)).await, LeaseAnswer::Released);
    other.freed().await;
    assert!(other.granted(&take(&b)).await > token);
}

#[tokio::test]
async fn a_dead_replica_holds_up_nothing_but_what_needs_it() {
    let (master, mut replica) = a_pair();
    let mut agent = started(at(&master.url()), "a", 1).await;
    let a = owner("a", 1);
    agent.init().await.unwrap();
    let LeaseAnswer::Granted { token } = agent.answered(&long(take(&a).kind, &a)).await else { panic!("not granted") };
    replica.kill();
    let names: Vec<WatcherName> = (0..30).map(|i| WatcherName::parse(&format!("w{i}")).unwrap()).collect();
    let longer = Duration::from_secs(3);
    for (i, name) in names.iter().enumerate() {
        agent.redis.ask(&lease_of(name), take(&owner("x", i as u128)), longer);
    }
    agent.redis.ask(&lease(), long(refresh(&a, token).kind, &a), longer);
    // While these wait for it, what does not is answered.
    assert_eq!(agent.roster_until(|rows| rows.len() == 1).await.len(), 1);
    let mut waiting = names.len();
    let mut held_up = true;
    agent.redis.ask(&lease(), release(&owner("nobody", 9)), ASK);
    while waiting > 0 || held_up {
        match agent.event().await {
            Event::Lease { answer: LeaseAnswer::Released, .. } => {
                held_up = false;
                assert!(waiting > 0, "the release came last");
            }
            Event::Lease { watcher, answer, .. } if watcher != beat() => {
                waiting -= 1;
                // A first taking is refused for one ttl, whatever replicas have.
                assert!(matches!(answer, LeaseAnswer::Quarantined { .. }), "{watcher}: {answer:?}");
            }
            Event::Lease { answer, .. } => assert_eq!(answer, LeaseAnswer::Failed { reason: NONE.into() }),
            Event::StoreDown { reason } => panic!("{reason}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn on_a_cluster_the_replica_of_the_leases_own_master_is_waited_for() {
    let cluster = ClusterServers::start(Duration::from_secs(60));
    let mut agent = started(at(&cluster.url()), "a", 1).await;
    let a = owner("a", 1);
    agent.init().await.unwrap();
    let LeaseAnswer::Granted { token } = agent.answered(&long(take(&a).kind, &a)).await else { panic!("not granted") };
    let master = cluster.master_of(&lease().lease_key());
    let goes_on = long(refresh(&a, token).kind, &a);
    cluster.servers[(master + 1) % 3 + 3].freeze();
    assert_eq!(agent.ask(&goes_on).await, LeaseAnswer::Granted { token }, "another master's replica is no matter");
    cluster.servers[master + 3].freeze();
    assert_eq!(agent.failed(&goes_on).await, NONE);
    cluster.servers[master + 3].thaw();
    assert_eq!(agent.answered(&goes_on).await, LeaseAnswer::Granted { token });
}

#[tokio::test]
async fn with_acks_the_slot_of_a_lease_can_be_moved() {
    let cluster = ClusterServers::start(Duration::from_secs(60));
    let mut agent = started(at(&cluster.url()), "a", 1).await;
    let a = owner("a", 1);
    agent.init().await.unwrap();
    let LeaseAnswer::Granted { token } = agent.answered(&long(take(&a).kind, &a)).await else { panic!("not granted") };
    let (lease_key, meta_key) = (lease().lease_key(), lease().meta_key());
    let from = cluster.master_of(&lease_key);
    let to = (from + 1) % 3;
    let goes_on = long(refresh(&a, token).kind, &a);
    cluster.begin_to_move(&lease_key, from, to);
    cluster.move_key(&lease_key, from, to);
    cluster.move_key(&meta_key, from, to);
    assert_eq!(agent.ask_within(&goes_on, PATIENCE).await, LeaseAnswer::Granted { token });
    cluster.end_the_move(&lease_key, from, to);
    assert_eq!(agent.ask_within(&goes_on, PATIENCE).await, LeaseAnswer::Granted { token });
}
