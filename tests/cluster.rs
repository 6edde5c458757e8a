//! The shared world over a real Redis: leases, what happens when Redis does not do its part, the registry, the bus.

#[macro_use]
#[path = "support/lease_cases.rs"]
mod lease_cases;
#[path = "support/cluster_servers.rs"]
mod cluster_servers;
#[path = "support/end.rs"]
mod end;
#[path = "support/real_store.rs"]
mod real_store;
/// Over a Redis Cluster.
#[path = "cluster/redis_cluster.rs"]
mod redis_cluster;
#[path = "support/redis.rs"]
mod redis_server;
/// Where replicas must have a lease before it counts.
#[path = "cluster/replica_acks.rs"]
mod replica_acks;
#[path = "support/sentinels.rs"]
mod sentinels;
#[path = "support/tls.rs"]
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use circus_agent::cluster::client::BusClient;
use circus_agent::cluster::muster;
use circus_agent::cluster::watch::ClusterStream;
use circus_agent::model::command::{NodeRow, NodeState, RequestId};
use circus_agent::model::election::Membership;
use circus_agent::model::event::{Ask, AskKind, Claim, Claimed, Event, Exit, LeaseAnswer, ScheduleRead, TokenState};
use circus_agent::model::history::{Before, Cause, Ending, Entry, Fact, KEPT, Left, What};
use circus_agent::model::names::{LeaseName, NodeName, Owner, WatcherName};
use circus_agent::model::pause::Wish;
use circus_agent::model::runs::{How, Turn};
use circus_agent::model::snapshot::LogLine;
use circus_agent::model::spec::{RedisSpec, Secret, Slot, TlsFiles};
use circus_agent::model::time::Time;
use circus_agent::wire::{Follow, Subject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

use end::{
    ASK, Agent, BusQuestionSeen, PATIENCE, TTL, ask, at, beat, cluster, job, lease, lease_of, node, owner, refresh,
    release, take,
};
use real_store::RealStore;
use redis_server::RedisServer;
use sentinels::Watched;
use tls::{Authority, Pair, TlsServer, Valid};

fn state_of(rows: &[NodeRow], name: &str) -> Option<NodeState> {
    rows.iter().find(|row| row.name.as_str() == name).map(|row| row.state)
}

// ---- Leases, as any store must keep them ----

fn run_lease_case(case: lease_cases::Case) {
    let server = RedisServer::start();
    case(&mut RealStore::new(at(&server.url()), vec![server]), TTL);
}

lease_case_tests!();

mod behind_a_sentinel {
    use super::{Duration, RealStore, TTL, Watched, behind, lease_cases};

    fn run_lease_case(case: lease_cases::Case) {
        // Too patient to find its master missing when that is restarted.
        let mut watched = Watched::start(0, 1, Duration::from_secs(60));
        let server = watched.servers.remove(0);
        case(&mut RealStore::new(behind(&watched), vec![server]), TTL);
    }

    lease_case_tests!();
}

mod on_valkey {
    use std::path::Path;

    use super::{RealStore, RedisServer, TTL, at, lease_cases};

    /// Where `make setup` puts it, or says why there is none.
    const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.servers/valkey");

    fn run_lease_case(case: lease_cases::Case) {
        if let Ok(why) = std::fs::read_to_string(Path::new(SERVER).join("unavailable")) {
            return eprintln!("not tested on Valkey: {why}");
        }
        let program = Path::new(SERVER).join("bin/valkey-server");
        assert!(program.exists(), "run `make setup`, which puts Valkey into {SERVER}");
        let server = RedisServer::start_of(program);
        case(&mut RealStore::new(at(&server.url()), vec![server]), TTL);
    }

    lease_case_tests!();
}

// ---- Sentinel ----

/// The Redis to which sentinels lead.
fn behind(watched: &Watched) -> RedisSpec {
    RedisSpec {
        sentinel_username: Some("circus".into()),
        sentinel_password_file: Some(watched.password_file()),
        ..at(&watched.url())
    }
}

/// Long enough for a failover to be over before the lease is.
const LONG: Duration = Duration::from_secs(10);

fn long(kind: AskKind, owner: &Owner) -> Ask {
    let kind = match kind {
        AskKind::Take { .. } => AskKind::Take { ttl: LONG, longest: LONG, seen: None },
        AskKind::Refresh { token, .. } => AskKind::Refresh { ttl: LONG, token },
        other @ (AskKind::Release { .. } | AskKind::Withdraw) => other,
    };
    ask(owner, kind)
}

impl Agent {
    async fn behind(watched: &Watched, name: &str, instance: u128) -> Agent {
        let mut agent = Agent::start_at(behind(watched), name, instance);
        agent.up_and_heard().await;
        agent
    }

    /// The first answer that is one.
    async fn answered(&mut self, ask: &Ask) -> LeaseAnswer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ask(ask).await {
                LeaseAnswer::Failed { reason } => {
                    assert!(Instant::now() < deadline, "{reason}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Two agents, of which one holds the lease; its replica knows nothing of that when the master dies.
async fn failed_over_without_the_lease() -> (Watched, Agent, Agent, u64) {
    let mut watched = Watched::start(1, 3, Duration::from_millis(500));
    let mut holder = Agent::behind(&watched, "a", 1).await;
    let mut waiter = Agent::behind(&watched, "b", 2).await;
    // Also that it is free, so that a promoted replica without a rule of its own would grant it at once.
    holder.init().await.unwrap();
    waiter.freed().await;
    let free = || watched.servers[1].text(&["HGET", &lease().meta_key(), "state"]);
    while free().as_deref() != Some("free") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watched.servers[1].freeze();
    // What is in the pipe to a frozen replica would still reach it.
    assert_eq!(watched.servers[0].number(&["CLIENT", "KILL", "TYPE", "replica"]), 1);
    let a = owner("a", 1);
    let token = holder.granted(&long(take(&a).kind, &a)).await;
    watched.servers[0].kill();
    watched.servers[1].thaw();
    let promoted = watched.promoted();
    assert_eq!(promoted.text(&["GET", &lease().lease_key()]), None, "it has never seen the lease");
    assert_eq!(promoted.text(&["HGET", &lease().meta_key(), "state"]).as_deref(), Some("free"));
    (watched, holder, waiter, token)
}

#[tokio::test]
async fn a_failover_that_lost_the_lease_grants_it_to_no_second_and_its_holder_goes_on() {
    let (_watched, mut holder, mut waiter, token) = failed_over_without_the_lease().await;
    let (a, b) = (owner("a", 1), owner("b", 2));
    let waits = waiter.answered(&long(take(&b).kind, &b)).await;
    assert!(matches!(waits, LeaseAnswer::Quarantined { .. }), "{waits:?}");
    let goes_on = holder.answered(&long(refresh(&a, token).kind, &a)).await;
    assert_eq!(goes_on, LeaseAnswer::Granted { token });
    let waits = waiter.answered(&long(take(&b).kind, &b)).await;
    assert!(matches!(waits, LeaseAnswer::Held { ref by, .. } if *by == a.to_string()), "{waits:?}");
    assert_eq!(holder.answered(&release(&a)).await, LeaseAnswer::Released);
    waiter.freed().await;
    assert!(matches!(waiter.answered(&take(&b)).await, LeaseAnswer::Granted { token: next } if next > token));
}

#[tokio::test]
async fn a_failover_that_lost_the_lease_and_its_holder_is_waited_out_and_tokens_grow() {
    let (_watched, holder, mut waiter, token) = failed_over_without_the_lease().await;
    drop(holder);
    let b = owner("b", 2);
    let first = waiter.answered(&take(&b)).await;
    let asked = Instant::now();
    let LeaseAnswer::Quarantined { left } = first else { panic!("{first:?}") };
    let next = loop {
        match waiter.answered(&take(&b)).await {
            LeaseAnswer::Granted { token } => break token,
            LeaseAnswer::Quarantined { left } => tokio::time::sleep(left).await,
            other => panic!("{other:?}"),
        }
    };
    // The server counted from a moment before its answer came.
    assert!(asked.elapsed() > left * 9 / 10, "{:?} of {left:?}", asked.elapsed());
    assert!(next > token, "{next} after {token}");
}

#[tokio::test]
async fn a_master_that_hangs_is_left_for_the_one_that_is_promoted() {
    let watched = Watched::start(1, 3, Duration::from_millis(500));
    let mut agent = Agent::behind(&watched, "a", 1).await;
    let hung = format!("127.0.0.1:{}", watched.servers[0].port());
    watched.servers[0].freeze();
    let promoted = watched.promoted();
    let begun = Instant::now();
    agent.up_and_heard().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} after {hung} was replaced", begun.elapsed());
    promoted.command(&["PUBLISH", &lease().free_channel(), "x"]);
    agent.freed().await;
    agent.roster_until(|rows| rows.len() == 1).await;
}

#[tokio::test]
async fn a_planned_failover_is_followed_and_circusctl_finds_the_master_with_a_sentinel_missing() {
    let mut watched = Watched::start(1, 3, Duration::from_secs(2));
    let mut a = Agent::behind(&watched, "a", 1).await;
    let a_owner = owner("a", 1);
    a.init().await.unwrap();
    let token = a.granted(&long(take(&a_owner).kind, &a_owner)).await;
    watched.fail_over();
    let to = format!("127.0.0.1:{}", watched.promoted().port());
    while a.down().await != format!("the master has moved to {to}") {}
    let goes_on = a.answered(&long(refresh(&a_owner, token).kind, &a_owner)).await;
    assert_eq!(goes_on, LeaseAnswer::Granted { token });
    watched.end_sentinel(0);
    let spec = behind(&watched);
    a.roster_until(|rows| rows.len() == 1).await;
    let mut client = BusClient::connect(&spec, &cluster(), PATIENCE).await.unwrap();
    let asked = [node("a")];
    let (said, _) = tokio::join!(client.ask(&asked, "{}", PATIENCE), a.reply("yes"));
    assert_eq!(said.unwrap()[&node("a")], Ok("yes".into()));
}

#[test]
fn the_manual_has_the_rights_with_which_sentinels_are_asked_here() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    assert!(page.contains(&format!("`{}`", sentinels::RIGHTS)));
}

#[tokio::test]
async fn what_is_wrong_with_sentinels_is_said() {
    let watched = Watched::start(0, 1, Duration::from_secs(60));
    let why = async |spec: RedisSpec| BusClient::connect(&spec, &cluster(), PATIENCE).await.err().unwrap();
    let spec = behind(&watched);
    let sentinel = watched.url().split(['/', ',']).nth(2).unwrap().to_owned();
    let renamed = RedisSpec { url: Secret::new(watched.url().replace("mymaster", "other")), ..spec.clone() };
    let nowhere = |why: &str| format!("no sentinel tells where the master is ({sentinel}: {why})");
    assert_eq!(why(renamed).await, nowhere("it watches no master other"));
    let anonymous = RedisSpec { sentinel_username: None, sentinel_password_file: None, ..spec.clone() };
    assert_eq!(why(anonymous).await, nowhere("the server wants a password, and the URL has none (NOAUTH)"));
    drop(watched);
    let file = spec.sentinel_password_file.clone().unwrap();
    std::fs::write(&file, "x").unwrap();
    assert_eq!(why(spec).await, nowhere(&format!("connection refused by {sentinel}")));
    std::fs::remove_file(file).unwrap();
}

// ---- How an agent is let in ----

#[tokio::test]
async fn a_rotated_password_is_read_anew_at_the_next_connection() {
    let server = RedisServer::start_with_password("first");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let spec = RedisSpec { password_file: Some(file.clone()), ..at(&format!("redis://127.0.0.1:{}", server.port())) };
    let shown = file.display();
    let mut agent = Agent::start_at(spec.clone(), "a", 1);
    let absent = format!("the password file {shown} cannot be read: No such file or directory (os error 2)");
    assert_eq!(agent.down().await, absent);
    std::fs::write(&file, "first\n").unwrap();
    agent.up_and_heard().await;

    server.command(&["CONFIG", "SET", "requirepass", "second"]);
    let second = RedisSpec { password_file: Some(file.clone()), ..at(&server.url().replace("first", "second")) };
    agent.init().await.unwrap();
    kill_clients(&second).await;
    agent.redis.ask(&lease(), take(&owner("a", 1)), ASK);
    while agent.down().await != format!("wrong password in {shown} (WRONGPASS)") {}
    let why = BusClient::connect(&spec, &cluster(), PATIENCE).await.err().unwrap();
    assert_eq!(why, format!("wrong password in {shown} (WRONGPASS)"));
    std::fs::write(&file, "second").unwrap();
    agent.up_and_heard().await;
    assert!(matches!(agent.ask(&take(&owner("a", 1))).await, LeaseAnswer::Granted { .. }));
    BusClient::connect(&spec, &cluster(), PATIENCE).await.expect("circusctl reads it, too");
}

/// Ends all connections to a server but the one that says so.
async fn kill_clients(spec: &RedisSpec) {
    let client = redis::Client::open(spec.url.reveal()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    for kind in ["normal", "pubsub"] {
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", kind]).exec_async(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn a_unix_socket_with_user_password_and_database_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("redis.sock");
    let server = RedisServer::start_with(None, &["--unixsocket", socket.to_str().unwrap()]);
    server.command(&["ACL", "SETUSER", "me", "on", ">pw", "~*", "&*", "+@all"]);
    let mut agent = Agent::ready(&format!("unix://{}?db=3&user=me&pass=pw", socket.display()), "a", 1).await;
    agent.roster_until(|rows| rows.len() == 1).await;
    let rows = server.command(&["INFO", "keyspace"]);
    assert!(format!("{rows:?}").contains("db3:") && !format!("{rows:?}").contains("db0:"), "{rows:?}");
    let mut agent = Agent::start(&format!("unix://{}?user=me&pass=no", socket.display()), "b", 2);
    assert_eq!(agent.down().await, "wrong password for user me, or no such user (WRONGPASS)");
}

/// A Redis over TLS, by this name of its host.
fn over_tls(server: &TlsServer, host: &str, ca: Option<&Authority>, own: Option<&Pair>) -> RedisSpec {
    let tls = TlsFiles {
        ca: ca.map(Authority::certificate),
        cert: own.map(|pair| pair.cert.clone()),
        key: own.map(|pair| pair.key.clone()),
    };
    RedisSpec { tls, ..at(&server.url(host)) }
}

#[tokio::test]
async fn over_tls_agents_and_circusctl_do_all_that_they_do_without() {
    let authority = Authority::new();
    let shown = authority.sign("server", "IP:127.0.0.1,DNS:localhost", &Valid::Now);
    let own = authority.sign("agent", "DNS:agent", &Valid::Now);
    let server = TlsServer::start(&shown, Some(&authority));
    let spec = over_tls(&server, "localhost", Some(&authority), Some(&own));
    let mut a = Agent::start_at(spec.clone(), "a", 1);
    let mut b = Agent::start_at(over_tls(&server, "127.0.0.1", Some(&authority), Some(&own)), "b", 2);
    a.up_and_heard().await;
    b.up_and_heard().await;
    a.init().await.unwrap();
    b.freed().await;
    a.granted(&take(&owner("a", 1))).await;
    assert_eq!(a.ask(&release(&owner("a", 1))).await, LeaseAnswer::Released);
    b.freed().await;
    b.granted(&take(&owner("b", 2))).await;

    let mut client = BusClient::connect(&spec, &cluster(), PATIENCE).await.unwrap();
    let asked = [node("b")];
    let (said, _) = tokio::join!(client.ask(&asked, "{}", PATIENCE), b.reply("yes"));
    assert_eq!(said.unwrap()[&node("b")], Ok("yes".into()));
    let mut events = ClusterStream::connect(&spec, &cluster(), &Follow::all(Subject::Events), PATIENCE).await.unwrap();
    a.redis.publish_event("{}".into());
    assert_eq!(timeout(PATIENCE, events.next()).await.unwrap(), Ok(json!({})));

    let mut ctl = std::process::Command::new(env!("CARGO_BIN_EXE_circusctl"));
    ctl.args(["nodes", "--json", "--cluster", "prod", "--endpoint", &server.url("localhost")]);
    ctl.arg("--redis-tls-ca").arg(authority.certificate());
    ctl.env("CIRCUS_REDIS_TLS_CERT", &own.cert).env("CIRCUS_REDIS_TLS_KEY", &own.key);
    let said = tokio::task::spawn_blocking(move || ctl.output()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains(r#""name":"b""#), "{said:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_with_the_way_out() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.sign("server", "IP:127.0.0.1", &Valid::Now);
    let expired = authority.sign("expired", "IP:127.0.0.1", &Valid::Expired);
    let foreign = other.sign("agent", "DNS:agent", &Valid::Now);
    let own = authority.sign("agent", "DNS:agent", &Valid::Now);
    let server = TlsServer::start(&good, Some(&authority));
    let why = async |spec: RedisSpec| Agent::start_at(spec, "a", 1).down().await;
    let at_port = format!("127.0.0.1:{}", server.port);
    let (trusted, other_ca) = (Some(&authority), other.certificate());

    let unknown = why(over_tls(&server, "127.0.0.1", Some(&other), Some(&own))).await;
    assert_eq!(unknown, format!("the certificate of {at_port} is not signed by {} (tls_ca)", other_ca.display()));
    let unknown = why(over_tls(&server, "127.0.0.1", None, Some(&own))).await;
    let machine = "is not signed by what this machine trusts; name its CA with tls_ca";
    assert_eq!(unknown, format!("the certificate of {at_port} {machine}"));
    let named = why(over_tls(&server, "localhost", trusted, Some(&own))).await;
    assert!(
        named.starts_with(&format!("the certificate of localhost:{} is not for localhost", server.port)),
        "{named}"
    );
    assert!(named.contains("127.0.0.1") && named.ends_with("correct the host in the URL"), "{named}");
    let missing = why(over_tls(&server, "127.0.0.1", trusted, None)).await;
    assert!(missing.contains(&at_port) && missing.contains("name it with tls_cert and tls_key"), "{missing}");
    let refused = why(over_tls(&server, "127.0.0.1", trusted, Some(&foreign))).await;
    assert!(refused.contains(&at_port), "{refused}");
    let mixed = Pair { cert: own.cert.clone(), key: foreign.key.clone() };
    let mixed = why(over_tls(&server, "127.0.0.1", trusted, Some(&mixed))).await;
    assert!(mixed.starts_with("tls_cert and tls_key cannot be used together"), "{mixed}");
    let no_key = Pair { cert: own.cert.clone(), key: own.cert.clone() };
    let no_key = why(over_tls(&server, "127.0.0.1", trusted, Some(&no_key))).await;
    assert!(no_key.ends_with("holds no private key in PEM, or one under a passphrase"), "{no_key}");
    let plain_port = not_redis().await;
    let plain = why(at(&format!("rediss://127.0.0.1:{plain_port}"))).await;
    assert_eq!(plain, format!("127.0.0.1:{plain_port} does not speak TLS; redis:// goes without"));

    server.show(&expired);
    let late = why(over_tls(&server, "127.0.0.1", trusted, Some(&own))).await;
    assert_eq!(late, format!("the certificate of {at_port} has expired: renew it, or set this machine's clock"));
    let client = BusClient::connect(&over_tls(&server, "127.0.0.1", trusted, Some(&own)), &cluster(), PATIENCE).await;
    assert_eq!(client.err(), Some(late));
}

#[tokio::test]
async fn renewed_certificates_are_read_at_the_next_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    let pair = |authority: &Authority, file: &str| authority.sign(file, "IP:127.0.0.1", &Valid::Now);
    let server = TlsServer::start(&pair(&old, "server"), None);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::copy(old.certificate(), &ca).unwrap();
    let tls = TlsFiles { ca: Some(ca.clone()), ..TlsFiles::default() };
    let mut agent = Agent::start_at(RedisSpec { tls, ..at(&server.url("127.0.0.1")) }, "a", 1);
    agent.up_and_heard().await;
    server.show(&pair(&new, "renewed"));
    kill_clients(&at(&server.server.url())).await;
    agent.redis.ask(&lease(), take(&owner("a", 1)), ASK);
    while !agent.down().await.contains("is not signed by") {}
    std::fs::copy(new.certificate(), &ca).unwrap();
    agent.up_and_heard().await;
}

/// The line with the least rights, as the manual has it, in words.
fn rights() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER circus ")).expect("the line");
    line.split(' ').map(ToOwned::to_owned).collect()
}

/// Does all that an agent and circusctl do in Redis under the rights that `words` give, and gives what failed.
async fn all_that_is_done(words: &[&str]) -> Vec<String> {
    // Long enough for a slow machine where everything is allowed, and nobody's patience where it is not.
    const STEP: Duration = Duration::from_secs(3);
    let server = RedisServer::start();
    server.command(words);
    let spec = at(&server.url().replace("//", "//circus:CHANGE-ME@"));
    let mut failed = Vec::new();
    let mut agent = Agent::start_at(spec.clone(), "a", 1);
    if timeout(STEP, agent.up_and_heard()).await.is_err() {
        return vec!["the agent has no link, or hears nothing".into()];
    }
    let mut check = |what: &str, good: bool| {
        if !good {
            failed.push(what.to_owned());
        }
    };
    let (a, b) = (owner("a", 1), owner("b", 2));
    check("init", agent.init().await.is_ok());
    let token = match agent.ask(&take(&a)).await {
        LeaseAnswer::Granted { token } => token,
        other => return vec![format!("take: {other:?}")],
    };
    let membership = Membership { valor: 1, stands: true, appoints: None, scroll: String::new(), ttl: LONG };
    let mustered = agent.muster(Some(membership)).await;
    check("mustered", mustered.is_ok_and(|muster| muster.members.len() == 1));
    check("held", matches!(agent.ask(&take(&b)).await, LeaseAnswer::Held { .. }));
    check("refresh", agent.ask(&refresh(&a, token)).await == LeaseAnswer::Granted { token });
    check("token checked", matches!(agent.check(token).await, Ok(TokenState::Holds { .. })));
    let claimed = agent.claim(&beat(), Claim { slot: Slot(1_795_348_800), token }).await;
    check(&format!("claimed: {claimed:?}"), claimed == Claimed::Ours);
    agent.redis.record(&lease(), &started(token));
    check("history", timeout(STEP, agent.facts(1)).await.is_ok());
    let paused = agent.pause(Wish::pause("amy", Some("migration"))).await;
    check("paused", paused.is_ok_and(|told| told.changed));
    check("told to stop", matches!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::GrantedToStop { .. }));
    check("resumed", agent.pause(Wish::Resume).await.is_ok_and(|told| told.changed));
    let moved = ask(&a, AskKind::Release { to: Some(node("b")) });
    check("release, and its news", agent.release(&moved, STEP).await.is_empty());
    check("reserved", matches!(agent.ask(&take(&owner("a", 2))).await, LeaseAnswer::Reserved { .. }));
    check("taken by b", matches!(agent.ask(&take(&b)).await, LeaseAnswer::Granted { .. }));
    check("release by b", agent.ask(&release(&b)).await == LeaseAnswer::Released);
    check("free", server.text(&["HGET", &lease().meta_key(), "state"]).as_deref() == Some("free"));

    let listed = async {
        while server.number(&["EXISTS", "circus:{prod}:node:a"]) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    check("listed", timeout(STEP, listed).await.is_ok());
    server.command(&["ZADD", "circus:{prod}:nodes", "1", "expired"]);
    agent.redis.read_roster(RequestId(3));
    let read = agent.next(|event| match event {
        Event::RosterRead { request: RequestId(3), rows } => Some(rows),
        _ => None,
    });
    check("the expired is forgotten", read.await.is_ok_and(|rows| rows.len() == 1));
    match BusClient::connect(&spec, &cluster(), STEP).await {
        Ok(mut client) => {
            let asked = [node("a")];
            let (said, heard) = tokio::join!(client.ask(&asked, "{}", STEP), timeout(STEP, agent.reply("yes")));
            check("circusctl asks", heard.is_ok() && said.is_ok_and(|said| said[&node("a")] == Ok("yes".into())));
        }
        Err(why) => check(&why, false),
    }
    let output = broadcast::Sender::new(8);
    for subject in [Subject::Stats, Subject::Logs] {
        match ClusterStream::connect(&spec, &cluster(), &Follow::all(subject), STEP).await {
            Ok(mut stream) => {
                let told = async {
                    let heard = agent.next(|event| match event {
                        Event::Watched { .. } => Some(None),
                        Event::OutputWatched { names, .. } => Some(Some(names)),
                        _ => None,
                    });
                    match heard.await {
                        None => agent.redis.publish_frame(r#"{"node": "a"}"#.into()),
                        Some(names) => {
                            agent.redis.tell_output(names, || output.subscribe());
                            let (watcher, bytes) = (beat(), b"x".to_vec());
                            let line = LogLine { watcher, wid: 1, pid: 7, stream: "stdout", time: 1.0, bytes };
                            output.send(Arc::new(line)).expect("a listener");
                        }
                    }
                };
                let (line, heard) = tokio::join!(timeout(STEP, stream.next()), timeout(STEP, told));
                let of_node = line.is_ok_and(|line| line.is_ok_and(|line| line["node"] == "a"));
                check(&format!("{subject:?}"), heard.is_ok() && of_node);
            }
            Err(why) => check(&why, false),
        }
    }
    match ClusterStream::connect(&spec, &cluster(), &Follow::all(Subject::Events), STEP).await {
        Ok(mut events) => {
            agent.redis.publish_event("{}".into());
            check("events", timeout(STEP, events.next()).await.is_ok_and(|event| event.is_ok()));
        }
        Err(why) => check(&why, false),
    }
    agent.redis.leave().await;
    check("left", server.text(&["HGET", "circus:{prod}:node:a", "state"]).as_deref() == Some("gone"));
    // What nobody waits for fails without a word, but the server has noted it.
    let redis::Value::Array(log) = server.command(&["ACL", "LOG"]) else { panic!("no log") };
    failed.extend(log.iter().map(|entry| format!("{entry:?}")));
    failed
}

#[tokio::test]
async fn the_rights_in_the_manual_are_enough_and_each_of_them_is_needed() {
    let words = rights();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(all_that_is_done(&words).await, [""; 0]);
    let rights: Vec<usize> = (0..words.len()).filter(|at| words[*at].starts_with(['+', '~', '&'])).collect();
    assert!(rights.len() > 10, "{words:?}");
    let without = async |at: usize| {
        let fewer: Vec<&str> = words.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, word)| *word).collect();
        (words[at], all_that_is_done(&fewer).await)
    };
    let all = futures_util::future::join_all(rights.into_iter().map(without)).await;
    let needless: Vec<&str> = all.into_iter().filter(|(_, failed)| failed.is_empty()).map(|(right, _)| right).collect();
    assert_eq!(needless, [""; 0], "nothing fails without these");
}

// ---- What is kept of tenures ----

/// A child that starts now.
fn started(token: u64) -> Fact {
    Fact { token, at: boottime(), what: What::Started { pid: 7 } }
}

/// This machine's clock, by which facts are told.
fn boottime() -> Time {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    Time::ZERO + Duration::from(now)
}

/// A number in the record of the lease.
fn meta(server: &RedisServer, field: &str) -> u64 {
    server.text(&["HGET", &lease().meta_key(), field]).and_then(|text| text.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_slot_is_claimed_once_and_in_the_same_step_leaves_its_trace() {
    let server = RedisServer::start();
    let (mut a, mut b) = (Agent::ready(&server.url(), "a", 1).await, Agent::ready(&server.url(), "b", 2).await);
    a.init().await.unwrap();
    let first = a.granted(&take(&owner("a", 1))).await;
    let claim = |slot, token| Claim { slot: Slot(slot), token };
    let taken = || Claimed::Taken { by: "a".into() };
    assert_eq!(a.runs().await, ScheduleRead { watcher: job(), entries: vec![], holder: None });
    // Asked again, and for what comes before it.
    assert_eq!(a.claim(&job(), claim(60, first)).await, Claimed::Ours);
    assert_eq!(a.claim(&job(), claim(60, first)).await, Claimed::Ours);
    assert_eq!(a.claim(&job(), claim(59, first)).await, taken());
    assert!(matches!(b.claim(&job(), claim(120, first + 1)).await, Claimed::Unknown(_)), "who has no lease");
    assert_eq!(a.claim(&job(), claim(120, first)).await, Claimed::Ours);
    let trace = |read: &ScheduleRead| {
        let slot = |entry: &Entry| match &entry.what {
            What::Run { watcher, slot, turn: Turn::Claimed } if *watcher == job() => (slot.0, entry.token),
            other => panic!("{other:?}"),
        };
        assert!(read.entries.iter().all(|entry| entry.node == "a" && entry.slack == 0), "{read:?}");
        read.entries.iter().map(slot).collect::<Vec<_>>()
    };
    let read = b.runs().await;
    assert_eq!((trace(&read), read.holder), (vec![(120, first), (60, first)], Some(first)));
    // Another one has the lease now, and not yet claimed anything: what goes on is known not to.
    assert_eq!(a.ask(&release(&owner("a", 1))).await, LeaseAnswer::Released);
    let second = b.granted(&take(&owner("b", 2))).await;
    assert_eq!(b.claim(&job(), claim(120, second)).await, taken());
    assert!(matches!(a.claim(&job(), claim(180, first)).await, Claimed::Unknown(_)), "it is another tenure's");
    let read = a.runs().await;
    assert_eq!((trace(&read).len(), read.holder), (2, None));
    // An end that is told late is told to the same schedule.
    let ended = Turn::Ended { how: How::Exit(Exit::Code(0)), told: false };
    let what = What::Run { watcher: job(), slot: Slot(120), turn: ended };
    a.redis.record(&lease(), &Fact { token: first, at: boottime(), what: what.clone() });
    let deadline = Instant::now() + PATIENCE;
    while b.runs().await.entries.first().is_none_or(|entry| entry.what != what) {
        assert!(Instant::now() < deadline, "{:?}", b.runs().await);
    }
    assert_eq!(b.history().await.unwrap().1, [], "and pushes nothing out of the lease's history");
}

#[tokio::test]
async fn facts_are_kept_with_the_servers_time_and_a_start_brings_the_tenure_before() {
    let server = RedisServer::start();
    let (mut a, mut b) = (Agent::ready(&server.url(), "a", 1).await, Agent::ready(&server.url(), "b", 2).await);
    a.init().await.unwrap();
    let first = a.granted(&take(&owner("a", 1))).await;
    let (earliest, _) = a.history().await.unwrap();
    a.redis.record(&lease(), &started(first));
    let entries = a.facts(1).await;
    let (latest, _) = a.history().await.unwrap();
    let [Entry { token, node, at, slack, what: What::Started { pid: 7 }, before: None }] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!((*token, node.as_str()), (first, "a"));
    // Half of what a reading took is how far off it may be.
    assert!(*at + slack + 1 >= earliest && *at <= latest + slack + 1, "{earliest} {at} {latest}, give or take {slack}");
    assert!(*slack < 1_000, "{slack}");

    // Released: by whom and when. An end that is told late is still of its time.
    let (ending, gone) = (Ending { by: Some("amy".into()), ..Ending::of(Cause::Stopped) }, boottime());
    let (ended, _) = a.history().await.unwrap();
    assert_eq!(a.ask(&release(&owner("a", 1))).await, LeaseAnswer::Released);
    let released = meta(&server, "until");
    let second = b.granted(&take(&owner("b", 2))).await;
    b.redis.record(&lease(), &started(second));
    let entries = b.facts(2).await;
    let before = |token, node: &str, seen, left| Some(Before { token, node: node.into(), seen: Some(seen), left });
    assert_eq!(entries[0].before, before(first, "a", released, Left::Released));
    tokio::time::sleep(TTL / 2).await;
    a.redis.record(&lease(), &Fact { token: first, at: gone, what: What::Ended(ending.clone()) });
    let entries = b.facts(3).await;
    assert_eq!((entries[0].token, &entries[0].what), (first, &What::Ended(ending)));
    // Read a moment later than measured, and back by half of what the reading took.
    assert!(entries[0].at <= ended + 1 && entries[0].at + entries[0].slack + 100 > ended, "{entries:?} {ended}");

    // Ended by itself: when its last refresh was confirmed.
    b.granted(&refresh(&owner("b", 2), second)).await;
    let heard = meta(&server, "until") - TTL.as_millis() as u64;
    let third = loop {
        match a.ask(&take(&owner("a", 3))).await {
            LeaseAnswer::Granted { token } => break token,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    a.redis.record(&lease(), &started(third));
    assert_eq!(a.facts(4).await[0].before, before(second, "b", heard, Left::Expired));

    // What is told of another tenure than the latest knows nothing of the one before that.
    a.redis.record(&lease(), &started(second));
    assert_eq!(a.facts(5).await[0].before, None);
}

#[tokio::test]
async fn when_a_holder_was_last_heard_of_outlasts_a_restart_of_the_server() {
    let mut server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    a.init().await.unwrap();
    let first = a.granted(&take(&owner("a", 1))).await;
    let heard = meta(&server, "until") - TTL.as_millis() as u64;
    // Twice, so that what was waited out once is waited out again.
    for _ in 0..2 {
        server.restart_with_data();
        a.up().await;
        let asked = a.ask(&take(&owner("b", 2))).await;
        assert!(!matches!(asked, LeaseAnswer::Granted { .. }), "{asked:?}");
        tokio::time::sleep(TTL / 3).await;
        let asked = a.ask(&take(&owner("b", 2))).await;
        assert!(!matches!(asked, LeaseAnswer::Granted { .. }), "{asked:?}");
    }
    let second = loop {
        match a.ask(&take(&owner("b", 2))).await {
            LeaseAnswer::Granted { token } => break token,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    a.redis.record(&lease(), &started(second));
    let before = Before { token: first, node: "a".into(), seen: Some(heard), left: Left::Expired };
    assert_eq!(a.facts(1).await[0].before, Some(before));
}

#[tokio::test]
async fn what_happens_while_redis_is_away_is_kept_when_it_is_back_with_the_time_it_had() {
    let mut server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let (before, _) = a.history().await.unwrap();
    server.kill();
    a.down().await;
    a.redis.record(&lease(), &started(5));
    a.redis.record(&lease(), &Fact { token: 5, at: boottime(), what: What::Ended(Ending::of(Cause::Expired)) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.restart();
    a.up().await;
    let (back, _) = a.history().await.unwrap();
    // In whatever order: they know their times.
    let mut entries = a.facts(2).await;
    entries.sort_by_key(|entry| matches!(entry.what, What::Ended(_)));
    assert!(matches!((&entries[0].what, &entries[1].what), (What::Started { .. }, What::Ended(_))), "{entries:?}");
    for entry in &entries {
        assert!(before <= entry.at + entry.slack && entry.at + 250 < back, "{before} {entry:?} {back}");
    }
    // Whoever leaves waits until the last of it is told.
    a.redis.record(&lease(), &started(6));
    a.redis.leave().await;
    assert_eq!(server.number(&["XLEN", &lease().history_key()]), 3);
}

#[tokio::test]
async fn a_history_that_somebody_spoilt_holds_up_no_other() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let spoilt = WatcherName::parse("spoilt").unwrap();
    let key = lease_of(&spoilt).history_key();
    server.command(&["SET", &key, "mine"]);
    a.redis.record(&lease_of(&spoilt), &started(1));
    a.redis.record(&lease(), &started(2));
    assert_eq!(a.facts(1).await[0].token, 2);
    server.command(&["DEL", &key]);
    let deadline = Instant::now() + PATIENCE;
    while server.number(&["XLEN", &key]) == 0 {
        assert!(Instant::now() < deadline, "it is not tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_history_of_a_lease_is_bounded() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    for token in 0..3 * KEPT as u64 {
        a.redis.record(&lease(), &started(token));
    }
    let last = 3 * KEPT as u64 - 1;
    while a.facts(1).await[0].token < last {}
    let kept = server.number(&["XLEN", &lease().history_key()]);
    assert!((KEPT as i64..2 * KEPT as i64).contains(&kept), "{kept}");
    assert_eq!(a.facts(KEPT).await.len() as i64, kept);
}

#[tokio::test]
async fn a_token_counts_only_while_its_tenure_holds_on_this_very_server() {
    let mut server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let over = |holder: Option<&str>, token| Ok(TokenState::Over { holder: holder.map(str::to_owned), token });
    assert_eq!(a.check(7).await, over(None, None));
    a.init().await.unwrap();
    let first = a.granted(&take(&owner("a", 1))).await;
    match a.check(first).await {
        Ok(TokenState::Holds { left }) => assert!(left <= TTL, "{left:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(a.check(first - 1).await, over(Some("a"), Some(first)));
    assert_eq!(a.check(first + 1).await, over(Some("a"), Some(first)));
    a.ask(&release(&owner("a", 1))).await;
    assert_eq!(a.check(first).await, over(None, Some(first)));

    let long = ask(&owner("b", 2), AskKind::Take { ttl: PATIENCE, longest: PATIENCE, seen: None });
    let second = a.granted(&long).await;
    assert!(matches!(a.check(second).await, Ok(TokenState::Holds { .. })));
    server.command(&["SET", &lease().lease_key(), "somebody"]);
    assert_eq!(a.check(second).await, over(Some("somebody"), None));
    server.command(&["SET", &lease().lease_key(), &owner("b", 2).to_string(), "PX", "20000"]);
    server.restart_with_data();
    a.up().await;
    let unsure = a.check(second).await.unwrap_err();
    assert!(unsure.contains("restarted or promoted"), "{unsure}");
    let again = ask(&owner("b", 2), AskKind::Refresh { ttl: PATIENCE, token: second });
    a.granted(&again).await;
    assert!(matches!(a.check(second).await, Ok(TokenState::Holds { .. })));
    server.kill();
    a.down().await;
    assert!(a.check(second).await.is_err());
}

// ---- Leases, where Redis does not do its part ----

#[tokio::test]
async fn the_release_of_a_lease_that_is_asked_for_later_is_heard_too() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "b", 2).await;
    let late = WatcherName::parse("late").unwrap();
    agent.redis.ask(&lease_of(&late), take(&owner("b", 2)), ASK);
    let freed = Event::LeaseFreed { watcher: late.clone() };
    // Once when its channel is new, as something may have been missed.
    agent.next(|event| (event == freed).then_some(())).await;
    let lease = lease_of(&late);
    server.command(&["PUBLISH", &lease.free_channel(), "x"]);
    agent.next(|event| (event == freed).then_some(())).await;
}

#[tokio::test]
async fn a_waiter_hears_of_a_release_and_takes_the_lease() {
    let server = RedisServer::start();
    let (a, b) = (owner("a", 1), owner("b", 2));
    let mut holder = Agent::ready(&server.url(), "a", 1).await;
    let mut waiter = Agent::ready(&server.url(), "b", 2).await;
    holder.init().await.unwrap();
    waiter.freed().await;
    for _ in 0..10 {
        let first = holder.granted(&take(&a)).await;
        assert!(matches!(waiter.ask(&take(&b)).await, LeaseAnswer::Held { .. }));
        holder.redis.ask(&lease(), release(&a), ASK);
        waiter.freed().await;
        let second = waiter.granted(&take(&b)).await;
        assert!(second > first);
        assert_eq!(holder.answer(&release(&a)).await, LeaseAnswer::Released);
        assert_eq!(waiter.release(&release(&b), PATIENCE).await, []);
        holder.freed().await;
    }
}

#[tokio::test]
async fn a_replica_says_nothing_about_leases() {
    let mut server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.init().await.unwrap();
    let token = agent.granted(&take(&owner("a", 1))).await;
    // The connection stays open when a master becomes a replica.
    let master = RedisServer::start();
    server.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    agent.redis.ask(&lease(), refresh(&owner("a", 1), token), ASK);
    loop {
        match agent.event().await {
            Event::StoreDown { reason } if reason == "the server is a replica" => break,
            Event::Lease { answer: LeaseAnswer::Failed { .. }, .. } => {}
            Event::Lease { answer, .. } => panic!("{answer:?}"),
            _ => {}
        }
    }
    assert_eq!(agent.failed(&refresh(&owner("a", 1), token)).await, "the server is a replica");
    server.command(&["REPLICAOF", "NO", "ONE"]);
    agent.up().await;
    let again = agent.ask(&refresh(&owner("a", 1), token)).await;
    assert_eq!(again, LeaseAnswer::Granted { token }, "the replica had lost it; the holder brings it back");
    server.kill();
}

#[tokio::test]
async fn a_server_out_of_memory_goes_on_refreshing_and_says_why_it_grants_nothing() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.init().await.unwrap();
    let token = agent.granted(&take(&owner("a", 1))).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(agent.ask(&refresh(&owner("a", 1), token)).await, LeaseAnswer::Granted { token });
    assert_eq!(agent.ask(&release(&owner("a", 1))).await, LeaseAnswer::Released);
    let reason = agent.failed(&take(&owner("b", 2))).await;
    assert_eq!(reason, "OOM command not allowed when used memory > 'maxmemory'");
    let rows = agent.roster_until(|rows| state_of(rows, "a") == Some(NodeState::Up)).await;
    assert_eq!(rows.len(), 1, "its rows are kept, too");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    agent.granted(&take(&owner("b", 2))).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_never_shown() {
    let server = RedisServer::start_with_password("right");
    let mut agent = Agent::start(&format!("redis://:hunter2@127.0.0.1:{}", server.port()), "a", 1);
    assert_eq!(agent.down().await, "wrong password (WRONGPASS)");
    assert_eq!(agent.failed(&take(&owner("a", 1))).await, "wrong password (WRONGPASS)");
    let mut agent = Agent::start(&format!("redis://127.0.0.1:{}", server.port()), "a", 1);
    assert_eq!(agent.down().await, "the server wants a password, and the URL has none (NOAUTH)");
    server.command(&["CONFIG", "SET", "requirepass", ""]);
    agent.up().await;
    let mut agent = Agent::start(&server.url().replace("right", "hunter2"), "b", 2);
    server.try_command(&["PING"]).unwrap_err();
    let reason = agent.down().await;
    assert!(!reason.contains("hunter2"), "{reason}");
}

#[tokio::test]
async fn a_frozen_server_is_given_up_in_time_and_found_again_after_the_thaw() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.init().await.unwrap();
    let token = agent.granted(&take(&owner("a", 1))).await;
    server.freeze();
    let begun = Instant::now();
    assert_eq!(agent.failed(&refresh(&owner("a", 1), token)).await, "no answer within 0.5 s");
    assert!(begun.elapsed() < ASK + Duration::from_millis(200), "{:?}", begun.elapsed());
    let reason = agent.down().await;
    assert!(reason.starts_with("no answer within"), "{reason}");
    let begun = Instant::now();
    agent.failed(&refresh(&owner("a", 1), token)).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "while the link is down nothing waits");
    server.thaw();
    let begun = Instant::now();
    agent.up().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(agent.ask(&release(&owner("a", 1))).await, LeaseAnswer::Released);
}

#[tokio::test]
async fn a_subscription_that_hangs_is_made_anew() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    let subscriptions = |server: &RedisServer| {
        let list: String = redis::from_redis_value(server.command(&["CLIENT", "LIST", "TYPE", "PUBSUB"])).unwrap();
        list.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect::<Vec<String>>()
    };
    let before = subscriptions(&server);
    server.freeze();
    // A sign of life is asked for every 5 s and given up after 2 s.
    tokio::time::sleep(Duration::from_secs(8)).await;
    server.thaw();
    agent.freed().await;
    assert!(subscriptions(&server).iter().all(|id| !before.contains(id)), "the old connection is closed");
}

#[tokio::test]
async fn a_server_far_away_can_be_used() {
    let server = RedisServer::start();
    let far = delayed(server.port(), Duration::from_millis(300)).await;
    // Its connection takes longer than the first attempt may.
    let mut agent = Agent::ready(&format!("redis://127.0.0.1:{far}"), "a", 1).await;
    agent.redis.init_lease(RequestId(1), &lease());
    assert!(matches!(agent.ask_within(&take(&owner("a", 1)), PATIENCE).await, LeaseAnswer::Granted { .. }));
}

/// A way to `port` on which bytes take `delay` in each direction.
async fn delayed(port: u16, delay: Duration) -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_read, far_write, delay));
            tokio::spawn(carry(far_read, near_write, delay));
        }
    });
    own
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sent, mut due) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let _ = sent.send((tokio::time::Instant::now() + delay, buffer[..count].to_vec()));
        }
    };
    let writing = async move {
        while let Some((time, bytes)) = due.recv().await {
            tokio::time::sleep_until(time).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

#[tokio::test]
async fn a_killed_server_is_down_and_then_up() {
    let mut server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    server.kill();
    agent.redis.ask(&lease(), take(&owner("a", 1)), ASK);
    let refused = format!("connection refused by 127.0.0.1:{}", server.port());
    while agent.down().await != refused {}
    assert_eq!(agent.failed(&take(&owner("a", 1))).await, refused);
    server.restart();
    let begun = Instant::now();
    agent.up_and_heard().await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_same_reason_is_told_once() {
    let port = redis_server::free_port();
    let mut agent = Agent::start(&format!("redis://127.0.0.1:{port}"), "a", 1);
    assert_eq!(agent.down().await, format!("connection refused by 127.0.0.1:{port}"));
    assert!(timeout(Duration::from_secs(2), agent.events.recv()).await.is_err(), "there is nothing new to tell");
}

/// The port of a server that speaks neither Redis's protocol nor TLS.
async fn not_redis() -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = listener.accept().await.unwrap();
            let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    port
}

#[tokio::test]
async fn a_server_of_another_kind_is_no_redis() {
    let port = not_redis().await;
    let mut agent = Agent::start(&format!("redis://127.0.0.1:{port}"), "a", 1);
    let reason = agent.down().await;
    assert!(reason.contains("does not speak Redis's protocol") || reason.contains("closed"), "{reason}");
}

#[tokio::test]
async fn what_was_given_up_may_still_be_done_and_is_granted_to_who_asks_again() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.init().await.unwrap();
    // Once undisturbed: a server that does not know the script answers a late question with NOSCRIPT alone.
    let first = agent.granted(&take(&owner("b", 2))).await.to_string();
    agent.ask(&release(&owner("b", 2))).await;
    server.freeze();
    agent.failed(&take(&owner("a", 1))).await;
    server.thaw();
    // It is carried out now, though nobody waits for it any more.
    let deadline = Instant::now() + PATIENCE;
    let tok = loop {
        if let Some(tok) = server.text(&["HGET", &lease().meta_key(), "tok"])
            && tok != first
        {
            break tok;
        }
        assert!(Instant::now() < deadline, "it was not carried out");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let token = loop {
        match agent.ask(&take(&owner("a", 1))).await {
            LeaseAnswer::Granted { token } => break token,
            LeaseAnswer::Failed { .. } => {}
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline);
    };
    assert_eq!(token.to_string(), tok, "one taking, one token");
}

#[tokio::test]
async fn a_key_of_the_wrong_type_is_a_failure_with_the_servers_words() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    server.command(&["SET", &lease().meta_key(), "by hand"]);
    let reason = agent.failed(&take(&owner("a", 1))).await;
    assert_eq!(reason, "WRONGTYPE Operation against a key holding the wrong kind of value");
    server.command(&["DEL", &lease().meta_key()]);
    server.command(&["LPUSH", &lease().lease_key(), "by hand"]);
    assert!(agent.failed(&refresh(&owner("a", 1), 1)).await.starts_with("WRONGTYPE"));
}

#[tokio::test]
async fn asks_of_one_moment_go_out_together_and_each_has_its_answer() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    let names: Vec<WatcherName> = (0..200).map(|i| WatcherName::parse(&format!("w{i}")).unwrap()).collect();
    for (i, name) in names.iter().enumerate() {
        agent.redis.ask(&lease_of(name), take(&owner("a", i as u128)), PATIENCE);
    }
    let mut answers = BTreeMap::new();
    while answers.len() < names.len() {
        if let Event::Lease { watcher, ask, answer } = agent.event().await {
            assert_eq!(answer, LeaseAnswer::Quarantined { left: TTL });
            assert_eq!(names[usize::try_from(ask.owner.nonce).unwrap()], watcher);
            assert!(answers.insert(watcher, answer).is_none(), "answered twice");
        }
    }
}

#[tokio::test]
async fn a_hasty_refresh_does_not_end_the_patience_of_those_that_go_with_it() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.init().await.unwrap();
    let a = owner("a", 1);
    let token = agent.granted(&take(&a)).await;
    let hasty = WatcherName::parse("hasty").unwrap();
    server.freeze();
    agent.redis.ask(&lease_of(&hasty), refresh(&owner("a", 2), 1), Duration::from_millis(50));
    agent.redis.ask(&lease(), refresh(&a, token), PATIENCE);
    let said = agent
        .next(|event| if let Event::Lease { watcher, answer, .. } = event { Some((watcher, answer)) } else { None });
    assert!(matches!(said.await, (watcher, LeaseAnswer::Failed { .. }) if watcher == hasty));
    server.thaw();
    assert_eq!(agent.answer(&refresh(&a, token)).await, LeaseAnswer::Granted { token });
}

#[tokio::test]
async fn an_announcement_missed_while_redis_hung_is_made_up_for() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
    assert_eq!(server.number(&kill), 1);
    agent.freed().await;
    server.command(&["PUBLISH", &lease().free_channel(), ""]);
    agent.freed().await;
}

// ---- The registry ----

#[tokio::test]
async fn a_node_is_up_draining_and_gone_and_all_can_see_it() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let b = Agent::ready(&server.url(), "b", 2).await;
    let rows = a.roster_until(|rows| state_of(rows, "b") == Some(NodeState::Up) && rows.len() == 2).await;
    assert_eq!((rows[0].name.as_str(), rows[1].name.as_str()), ("a", "b"));
    assert_eq!(rows[1].about.host, "host-b");
    assert!(rows[1].seen < Duration::from_secs(3), "{rows:?}");

    b.standing.send_modify(|standing| standing.draining = true);
    let begun = Instant::now();
    a.roster_until(|rows| state_of(rows, "b") == Some(NodeState::Draining)).await;
    assert!(begun.elapsed() < Duration::from_millis(1_500), "a change is told soon: {:?}", begun.elapsed());

    b.redis.leave().await;
    assert_eq!(state_of(&a.roster().await, "b"), Some(NodeState::Gone));
}

#[tokio::test]
async fn a_node_that_stops_beating_is_stale_then_gone_and_then_forgotten() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let b = Agent::ready(&server.url(), "b", 2).await;
    a.roster_until(|rows| rows.len() == 2).await;
    drop(b);
    // Its last beat is made older than it is: nobody wants to wait for an hour.
    let row = "circus:{prod}:node:b";
    let seen: i64 = server.text(&["HGET", row, "seen"]).unwrap().parse().unwrap();
    for (age, state) in [(7_000, NodeState::Stale), (61_000, NodeState::Gone)] {
        server.command(&["HSET", row, "seen", &(seen - age).to_string()]);
        assert_eq!(state_of(&a.roster().await, "b"), Some(state));
    }
    let left = server.number(&["PTTL", row]);
    assert!(left > 3_500_000 && left <= 3_600_000, "{left} ms");
    assert!(server.number(&["PTTL", "circus:{prod}:nodes"]) > 3_600_000);
    server.command(&["DEL", row]);
    assert_eq!(a.roster().await.len(), 1);
    assert_eq!(server.text(&["ZSCORE", "circus:{prod}:nodes", "b"]), None, "its name is forgotten with it");
}

#[tokio::test]
async fn a_second_agent_with_a_live_name_is_told_who_has_it_and_is_not_asked_in_its_place() {
    let server = RedisServer::start();
    let mut first = Agent::ready(&server.url(), "web", 1).await;
    first.roster_until(|rows| rows.len() == 1).await;
    let mut second = Agent::start(&server.url(), "web", 2);
    let by = second.next(|event| if let Event::NameTaken { by } = event { Some(by) } else { None }).await;
    assert_eq!(by, "circus-agent 0.1.0 on host-web, pid 7");

    let mut asker = Agent::ready(&server.url(), "asker", 3).await;
    asker.redis.relay(RequestId(5), &node("web"), "{}".into());
    first.reply("from the first").await;
    let replied = Event::Replied { request: RequestId(5), node: node("web"), text: "from the first".into() };
    asker.next(|event| (event == replied).then_some(())).await;
    assert!(second.questions.try_recv().is_err(), "a name has one voice");

    first.redis.leave().await;
    second.roster_until(|rows| state_of(rows, "web") == Some(NodeState::Up)).await;
}

#[tokio::test]
async fn an_agent_that_restarts_on_its_machine_keeps_its_name() {
    let server = RedisServer::start();
    let mut first = Agent::ready(&server.url(), "web", 1).await;
    first.roster_until(|rows| rows.len() == 1).await;
    drop(first);
    let mut again = Agent::ready(&server.url(), "web", 1).await;
    again.standing.send_modify(|standing| standing.about.pid = 8);
    again.roster_until(|rows| rows.first().is_some_and(|row| row.about.pid == 8)).await;
}

#[tokio::test]
async fn rows_come_back_after_everything_was_lost() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.roster_until(|rows| rows.len() == 1).await;
    server.command(&["FLUSHALL"]);
    agent.roster_until(|rows| rows.len() == 1).await;
}

#[tokio::test]
async fn an_idle_node_costs_at_most_three_commands_a_second() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.roster_until(|rows| rows.len() == 1).await;
    let count = || {
        let stats: String = redis::from_redis_value(server.command(&["INFO", "stats"])).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    let (begun, before) = (Instant::now(), count());
    tokio::time::sleep(Duration::from_secs(8)).await;
    // The fixture's own: two commands to greet, and the one that asks.
    let rate = (count() - before - 3.0) / begun.elapsed().as_secs_f64();
    assert!(rate <= 3.0, "{rate} commands a second, those inside scripts included");
}

// ---- The bus ----

#[tokio::test]
async fn a_node_asks_another_and_is_answered() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    for i in 0..3 {
        let message = format!(r#"{{"command":"status","id":{i}}}"#);
        a.redis.relay(RequestId(i), &node("b"), message.clone());
        let seen = b.reply(&format!("answer {i}")).await;
        assert_eq!(seen, BusQuestionSeen { line: message, from: "a".into() });
        let replied = Event::Replied { request: RequestId(i), node: node("b"), text: format!("answer {i}") };
        a.next(|event| (event == replied).then_some(())).await;
    }
}

/// Why what was relayed did not get there.
async fn unreachable(agent: &mut Agent) -> String {
    agent.next(|event| if let Event::Unreachable { reason, .. } = event { Some(reason) } else { None }).await
}

#[tokio::test]
async fn it_is_known_at_once_that_nobody_is_there() {
    let mut server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.redis.relay(RequestId(1), &node("nobody"), "{}".into());
    let begun = Instant::now();
    assert_eq!(unreachable(&mut agent).await, "nobody listens on the bus under its name");
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    agent.redis.relay(RequestId(2), &node("a"), "x".repeat(1 << 20));
    assert!(unreachable(&mut agent).await.contains("the most is 1048576"));
    server.kill();
    agent.redis.relay(RequestId(3), &node("b"), "{}".into());
    let reason = unreachable(&mut agent).await;
    assert!(reason.contains("127.0.0.1"), "{reason}");
}

#[tokio::test]
async fn an_agent_that_drops_a_question_or_has_too_many_says_so() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    a.redis.relay(RequestId(1), &node("b"), "{}".into());
    drop(timeout(PATIENCE, b.questions.recv()).await.unwrap().unwrap().answer);
    assert_eq!(unreachable(&mut a).await, "the agent ended before it answered");
    for i in 0..17 {
        a.redis.relay(RequestId(i), &node("b"), "{}".into());
    }
    assert_eq!(unreachable(&mut a).await, "the agent is asked too much at once");
}

#[tokio::test]
async fn malformed_messages_are_harmless_and_doubled_ones_are_asked_once() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    let (bus, long) = ("circus:{prod}:bus:b", "x".repeat((1 << 20) + 1));
    let question = r#"{"v":1,"id":"7","from":"x","reply_to":"circus:{prod}:reply:0","message":"once"}"#;
    let elsewhere = r#"{"v":1,"id":"8","from":"x","reply_to":"circus:{prod/beat}:free","message":"never"}"#;
    for message in ["", "{", "null", "[]", r#"{"v":1}"#, long.as_str(), elsewhere, question, question] {
        assert_eq!(server.number(&["PUBLISH", bus, message]), 1);
    }
    a.redis.relay(RequestId(1), &node("b"), "last".into());
    let mut asked = [b.reply("y").await.line, b.reply("y").await.line];
    asked.sort();
    assert_eq!(asked, ["last", "once"]);
    let replied = Event::Replied { request: RequestId(1), node: node("b"), text: "y".into() };
    a.next(|event| (event == replied).then_some(())).await;
    assert!(b.questions.try_recv().is_err());
}

#[tokio::test]
async fn the_last_answers_are_out_before_a_node_leaves() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    a.redis.relay(RequestId(1), &node("b"), "quit".into());
    b.reply("bye").await;
    b.redis.leave().await;
    let replied = Event::Replied { request: RequestId(1), node: node("b"), text: "bye".into() };
    a.next(|event| (event == replied).then_some(())).await;
    // The server may see the end of its connection a moment later than we do; what is asked meanwhile meets silence.
    let deadline = Instant::now() + PATIENCE;
    let reason = loop {
        a.redis.relay(RequestId(2), &node("b"), "status".into());
        match timeout(Duration::from_millis(200), unreachable(&mut a)).await {
            Ok(reason) => break reason,
            Err(_) => assert!(Instant::now() < deadline, "its channel stays open"),
        }
    };
    assert!(reason.starts_with("nobody listens"), "{reason}");
}

// ---- circusctl's own door ----

#[tokio::test]
async fn circusctl_reads_the_registry_and_asks_nodes_without_an_agent() {
    let server = RedisServer::start_with_password("secret");
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    a.roster_until(|rows| rows.len() == 2).await;

    let mut client = BusClient::connect(&at(&server.url()), &cluster(), PATIENCE).await.unwrap();
    let names: Vec<NodeName> = client.roster().await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(names, [node("a"), node("b")]);

    let nodes = [node("a"), node("b"), node("c"), node("a")];
    let answered = async {
        let seen = a.reply("from a").await;
        assert!(seen.from.starts_with("circusctl on "), "{seen:?}");
        b.reply("from b").await;
    };
    let (replies, ()) = tokio::join!(client.ask(&nodes, "{}", PATIENCE), answered);
    let replies = replies.unwrap();
    assert_eq!(replies[&node("a")], Ok("from a".into()));
    assert_eq!(replies[&node("b")], Ok("from b".into()));
    assert!(replies[&node("c")].as_ref().unwrap_err().contains("nobody listens"), "{replies:?}");

    let silent = client.ask(&[node("a")], "{}", Duration::from_millis(300)).await.unwrap();
    assert_eq!(silent[&node("a")], Err("no answer within 0.3 s".into()));
    a.reply("too late").await;
    let only_a = [node("a")];
    let (replies, _) = tokio::join!(client.ask(&only_a, "{}", PATIENCE), a.reply("in time"));
    assert_eq!(replies.unwrap()[&node("a")], Ok("in time".into()), "a late answer is not taken for another's");
}

#[tokio::test]
async fn circusctl_is_told_why_redis_cannot_be_asked() {
    let mut server = RedisServer::start_with_password("secret");
    let why = async |url: String| BusClient::connect(&at(&url), &cluster(), PATIENCE).await.err().unwrap();
    assert_eq!(why(server.url().replace("secret", "guess")).await, "wrong password (WRONGPASS)");
    let url = server.url();
    server.kill();
    assert_eq!(why(url).await, format!("connection refused by 127.0.0.1:{}", server.port()));
    assert!(why("http://:secret@x".into()).await.starts_with("the Redis URL cannot be used"));
}

// ---- Those that contend for a lease ----

/// A member of this valor, for so long that it does not lapse.
fn member(valor: u32) -> Membership {
    Membership { valor, stands: true, appoints: None, scroll: "role=web".into(), ttl: LONG }
}

impl Agent {
    async fn members_changed(&mut self) {
        let changed = Event::MembersChanged { watcher: beat() };
        self.next(|event| (event == changed).then_some(())).await;
    }

    /// Which members it has been told of, when it is told of nothing else any more.
    async fn news_of_members(&mut self) -> usize {
        // What was published before has been heard when this has.
        self.says(end::boottime(), Some(member(7)));
        let mut news = 0;
        loop {
            match self.event().await {
                Event::Mustered { .. } => return news,
                Event::MembersChanged { .. } => news += 1,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_change_of_members_is_heard_at_once_by_the_others_alone() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    for agent in [&mut a, &mut b] {
        agent.muster(Some(member(1))).await.unwrap();
    }
    let subscribed = || match server.command(&["PUBSUB", "NUMSUB", &lease().changed_channel()]) {
        redis::Value::Array(counts) => counts[1] == redis::Value::Int(2),
        other => panic!("{other:?}"),
    };
    let deadline = Instant::now() + PATIENCE;
    while !subscribed() {
        assert!(Instant::now() < deadline, "they do not listen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let scroll = Membership { scroll: "role=db".into(), ..member(1) };
    let aside = Membership { stands: false, ..member(1) };
    let shorter = Membership { ttl: LONG / 2, ..member(1) };
    for change in [Some(member(2)), Some(scroll), Some(aside), Some(shorter), None, Some(member(1))] {
        // Whatever is on its way from before.
        b.news_of_members().await;
        a.muster(change.clone()).await.unwrap();
        b.members_changed().await;
        let told = b.muster(Some(member(7))).await.unwrap();
        let its = told.members.into_iter().find(|member| member.node == node("a")).map(|member| member.membership);
        assert_eq!(its, change);
        // The same again is no news.
        a.muster(change).await.unwrap();
    }
    a.news_of_members().await;
    a.says(end::boottime(), Some(member(8)));
    b.muster(Some(member(9))).await.unwrap();
    a.members_changed().await;
    assert_eq!(a.news_of_members().await, 0, "its own word is no news to it");
}

#[tokio::test]
async fn a_hundred_members_are_seen_and_the_key_ends_with_the_last() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "node-00", 1).await;
    let say = |name: &str, membership: &Membership| {
        let call =
            muster::call(&lease(), (&node(name), lease_cases::instance(name)), end::boottime(), Some(membership));
        let mut words = vec!["EVAL", call.script, "2"];
        words.extend(call.keys.iter().chain(&call.args).map(String::as_str));
        server.command(&words);
    };
    (1..100).for_each(|i| say(&format!("node-{i:02}"), &member(i)));
    let all = agent.muster(Some(member(0))).await.unwrap();
    let seen: Vec<u32> = all.members.iter().map(|member| member.membership.valor).collect();
    assert_eq!(seen, (0..100).collect::<Vec<_>>(), "by name");
    let left = server.number(&["PTTL", &lease().members_key()]);
    assert!(left > 0 && left <= LONG.as_millis() as i64, "{left}");
}

#[tokio::test]
async fn what_comes_after_a_later_word_of_its_node_says_nothing() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    let now = end::boottime();
    for (ago, membership, valor) in [
        (5, Some(member(5)), Some(5)),
        (1, Some(member(1)), Some(1)),
        (3, Some(member(3)), Some(1)),
        (3, None, Some(1)),
    ] {
        let sent = now - Duration::from_secs(ago);
        agent.says(sent, membership);
        let all = agent.mustered(sent).await.unwrap();
        assert_eq!(all.members.first().map(|member| member.membership.valor), valor, "{ago} s ago");
    }
    agent.muster(None).await.unwrap();
    let late = now - Duration::from_secs(2);
    agent.says(late, Some(member(2)));
    assert_eq!(agent.mustered(late).await.unwrap().members, [], "it has left since");
}

#[tokio::test]
async fn what_nobody_said_among_the_members_is_forgotten() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    let key = lease().members_key();
    for (name, text) in
        [("b", "me"), ("c", "99999999999999 1 1 1 1"), ("no name", "99999999999999 600000 1 1 1 "), ("/kept", "x")]
    {
        server.command(&["HSET", &key, name, text]);
    }
    let all = agent.muster(Some(member(1))).await.unwrap();
    assert_eq!(all.members.len(), 1, "{all:?}");
    assert_eq!(server.number(&["HEXISTS", &key, "b"]) + server.number(&["HEXISTS", &key, "c"]), 0);
}

#[tokio::test]
async fn a_clock_that_was_set_ahead_makes_nobody_silent_who_was_seen() {
    let server = RedisServer::start();
    let mut a = Agent::ready(&server.url(), "a", 1).await;
    let mut b = Agent::ready(&server.url(), "b", 2).await;
    a.muster(Some(member(1))).await.unwrap();
    b.muster(Some(member(1))).await.unwrap();
    // All that is known of them is older by an hour.
    let key = lease().members_key();
    let known: BTreeMap<String, String> = redis::from_redis_value(server.command(&["HGETALL", &key])).unwrap();
    for (field, text) in known {
        let older = |(at, word): (usize, &str)| match word.parse::<i64>() {
            Ok(time) if at == 0 || at == 1 && field == "/kept" => (time - 3_600_000).to_string(),
            _ => word.to_owned(),
        };
        let words: Vec<String> = text.split(' ').enumerate().map(older).collect();
        server.command(&["HSET", &key, &field, &words.join(" ")]);
    }
    assert_eq!(b.muster(Some(member(1))).await.unwrap().members.len(), 2);
}

#[tokio::test]
async fn a_server_out_of_memory_goes_on_hearing_who_lives() {
    let server = RedisServer::start();
    let mut agent = Agent::ready(&server.url(), "a", 1).await;
    agent.muster(Some(member(1))).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(agent.muster(Some(member(2))).await.unwrap().members[0].membership, member(2));
}
