//! Leases, registry and bus over a Redis Cluster, while its servers fail, take over and move slots.

use super::cluster_servers::ClusterServers;
use super::lease_cases::{Disturbance, Store, instance};
use super::*;
use circus_agent::model::election::{Membership, Muster};
use circus_agent::model::pause::{Told, Wish};

/// Longer than any test, so that nobody takes over by himself.
const NEVER: Duration = Duration::from_secs(60);
/// So soon that a test need not wait for long.
const SOON: Duration = Duration::from_millis(1_000);

impl Agent {
    async fn in_cluster(cluster: &ClusterServers, name: &str, instance: u128) -> Agent {
        Agent::ready(&cluster.url(), name, instance).await
    }

    /// Asks about a lease of another name.
    async fn ask_of(&mut self, name: &WatcherName, ask: &Ask) -> LeaseAnswer {
        self.redis.ask(&lease_of(name), ask.clone(), ASK);
        let answer = |event| match event {
            Event::Lease { watcher, ask: asked, answer } if watcher == *name && asked == *ask => Some(answer),
            _ => None,
        };
        self.next(answer).await
    }
}

fn long_refresh(owner: &Owner, token: u64) -> Ask {
    ask(owner, AskKind::Refresh { ttl: LONG, token })
}

/// A lease that is held for [`LONG`], and its token. Its replica knows of it.
async fn held(cluster: &ClusterServers, agent: &mut Agent, owner: &Owner) -> u64 {
    agent.init().await.unwrap();
    let token = agent.granted(&ask(owner, AskKind::Take { ttl: LONG, longest: LONG, seen: None })).await;
    let master = &cluster.servers[cluster.master_of(&lease().lease_key())];
    let synced = || master.text(&["GET", &lease().lease_key()]).is_some() && offsets_agree(master);
    let deadline = Instant::now() + PATIENCE;
    while !synced() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    token
}

/// Whether its one replica has acknowledged all that the master wrote.
fn offsets_agree(master: &RedisServer) -> bool {
    let about: String = redis::from_redis_value(master.command(&["INFO", "replication"])).unwrap();
    let ours = about.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap().trim().to_owned();
    about.contains(&format!(",offset={ours},"))
}

/// Names of leases that are on other masters than [`lease`].
fn elsewhere(cluster: &ClusterServers) -> Vec<WatcherName> {
    let ours = cluster.master_of(&lease().lease_key());
    let mut seen = vec![ours];
    let mut names = Vec::new();
    for i in 0..50 {
        let watcher = WatcherName::parse(&format!("w{i}")).unwrap();
        let at = cluster.master_of(&lease_of(&watcher).lease_key());
        if !seen.contains(&at) {
            seen.push(at);
            names.push(watcher);
        }
    }
    assert_eq!(names.len(), 2, "leases spread over the masters");
    names
}

// ---- As any store must keep them ----

struct ClusterStore {
    runtime: tokio::runtime::Runtime,
    agent: Agent,
    members: BTreeMap<String, Agent>,
    cluster: ClusterServers,
}

impl ClusterStore {
    fn new() -> ClusterStore {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = ClusterServers::start(NEVER);
        let agent = runtime.block_on(Agent::in_cluster(&cluster, "tester", 1));
        ClusterStore { runtime, agent, members: BTreeMap::new(), cluster }
    }

    fn master(&mut self) -> &mut RedisServer {
        let master = self.cluster.master_of(&lease().lease_key());
        &mut self.cluster.servers[master]
    }

    /// Has a node's agent do something; it is started where it is not there yet.
    fn with_member<T>(&mut self, node: &str, does: impl AsyncFnOnce(&mut Agent) -> T) -> T {
        let ClusterStore { runtime, members, cluster, .. } = self;
        runtime.block_on(async {
            if !members.contains_key(node) {
                members.insert(node.to_owned(), Agent::in_cluster(cluster, node, instance(node)).await);
            }
            does(members.get_mut(node).expect("it is there")).await
        })
    }

    /// Waits until a master that was restarted decides again.
    fn decides_again(&mut self) {
        let nothing = refresh(&owner("nobody", 0), 0);
        let answer = self.runtime.block_on(self.agent.answered(&nothing));
        assert!(matches!(answer, LeaseAnswer::Lost { .. }), "{answer:?}");
        for member in self.members.values_mut() {
            self.runtime.block_on(member.answered(&nothing));
        }
    }
}

impl Store for ClusterStore {
    fn ask(&mut self, lease: &LeaseName, ask: &Ask) -> LeaseAnswer {
        assert_eq!(*lease, super::lease());
        self.runtime.block_on(self.agent.ask_within(ask, PATIENCE))
    }

    fn init(&mut self, lease: &LeaseName) -> Result<(), String> {
        assert_eq!(*lease, super::lease());
        self.runtime.block_on(self.agent.init())
    }

    fn pause(&mut self, wish: Wish) -> Result<Told, String> {
        self.runtime.block_on(self.agent.pause(wish))
    }

    fn muster_as(&mut self, agent: &str, name: &str, membership: Option<Membership>) -> Result<Muster, String> {
        self.with_member(agent, async |agent| agent.muster_as(name, membership).await)
    }

    fn claim(&mut self, node: &str, watcher: &str, claim: Claim) -> Claimed {
        let watcher = WatcherName::parse(watcher).unwrap();
        self.with_member(node, async |agent| agent.claim(&watcher, claim).await)
    }

    fn pass(&mut self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn disturb(&mut self, how: Disturbance) {
        match how {
            Disturbance::FlushAll => drop(self.master().command(&["FLUSHALL"])),
            Disturbance::FlushScripts => drop(self.master().command(&["SCRIPT", "FLUSH"])),
            Disturbance::Delete(key) => assert_eq!(self.master().number(&["DEL", &key]), 1),
            Disturbance::Overwrite(key, value) => drop(self.master().command(&["SET", &key, &value])),
            Disturbance::OthersTurn(key, value, ttl) => real_store::others_turn(self.master(), (&key, &value), ttl),
            Disturbance::Save => self.master().save(),
            Disturbance::SetBack(lease, by) => real_store::set_back(self.master(), &lease, by),
            Disturbance::RestartEmpty => {
                self.master().restart_empty();
                self.decides_again();
            }
            Disturbance::RestartWithSaved => {
                self.master().restart_with_saved();
                self.decides_again();
            }
        }
    }
}

/// A third of the cases, on one cluster: its servers take longer to start than a case takes to run.
fn lease_cases_of(part: usize) {
    let mut store = ClusterStore::new();
    for (name, case) in lease_cases::CASES.iter().skip(part).step_by(3) {
        eprintln!("{name}");
        store.disturb(Disturbance::FlushAll);
        store.members.clear();
        case(&mut store, TTL);
    }
}

#[test]
fn a_third_of_the_lease_cases_hold_on_a_cluster() {
    lease_cases_of(0);
}

#[test]
fn another_third_of_the_lease_cases_hold_on_a_cluster() {
    lease_cases_of(1);
}

#[test]
fn the_last_third_of_the_lease_cases_hold_on_a_cluster() {
    lease_cases_of(2);
}

// ---- Masters that fail ----

#[tokio::test]
async fn a_master_that_hangs_is_the_trouble_of_its_own_leases_alone() {
    let cluster = ClusterServers::start(NEVER);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    let others = elsewhere(&cluster);
    for name in &others {
        agent.ask_of(name, &take(&a)).await;
    }
    let hung = cluster.master_of(&lease().lease_key());
    cluster.servers[hung].freeze();
    for _ in 0..6 {
        agent.redis.ask(&lease(), long_refresh(&a, token), ASK);
        let mut asked = vec![beat()];
        for name in &others {
            agent.redis.ask(&lease_of(name), take(&owner("b", 2)), ASK);
            asked.push(name.clone());
        }
        while !asked.is_empty() {
            let Event::Lease { watcher, answer, .. } = agent.event().await else { continue };
            asked.retain(|name| *name != watcher);
            let failed = matches!(answer, LeaseAnswer::Failed { .. });
            assert_eq!(failed, watcher == beat(), "{watcher}: {answer:?}");
        }
    }
    cluster.servers[hung].thaw();
    assert_eq!(agent.answered(&long_refresh(&a, token)).await, LeaseAnswer::Granted { token });
}

#[tokio::test]
async fn a_master_that_stays_dead_is_asked_after_without_a_connection_each_time() {
    let mut cluster = ClusterServers::start(NEVER);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    let dead = cluster.master_of(&lease().lease_key());
    cluster.servers[dead].kill();
    let other = &cluster.servers[(dead + 1) % 3];
    other.command(&["CONFIG", "RESETSTAT"]);
    let stat = |name: &str| {
        let stats = other.text(&["INFO", "everything"]).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").to_owned();
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let (deadline, mut own) = (Instant::now() + PATIENCE, 0);
    while stat("cmdstat_cluster|slots:calls=") < 12 {
        assert!(Instant::now() < deadline, "nobody looks after the dead one");
        own += 1;
        assert!(matches!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::Failed { .. }));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let others = stat("total_connections_received:") - own;
    assert!(others < 9, "{others} connections for 12 looks");
}

#[tokio::test]
async fn a_killed_master_is_replaced_and_its_lease_goes_on_with_its_token() {
    let mut cluster = ClusterServers::start(SOON);
    let mut holder = Agent::in_cluster(&cluster, "a", 1).await;
    let mut waiter = Agent::in_cluster(&cluster, "b", 2).await;
    let (a, b) = (owner("a", 1), owner("b", 2));
    let token = held(&cluster, &mut holder, &a).await;
    let master = cluster.master_of(&lease().lease_key());
    cluster.servers[master].kill();
    cluster.promoted(master);
    let goes_on = holder.answered(&long_refresh(&a, token)).await;
    assert_eq!(goes_on, LeaseAnswer::Granted { token });
    let waits = waiter.answered(&take(&b)).await;
    assert!(matches!(waits, LeaseAnswer::Held { ref by, .. } if *by == a.to_string()), "{waits:?}");
    assert_eq!(holder.answered(&release(&a)).await, LeaseAnswer::Released);
    waiter.freed().await;
    assert!(matches!(waiter.answered(&take(&b)).await, LeaseAnswer::Granted { token: next } if next > token));
}

#[tokio::test]
async fn a_master_that_hangs_is_left_for_the_one_that_takes_its_place() {
    let cluster = ClusterServers::start(SOON);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    let master = cluster.master_of(&lease().lease_key());
    cluster.servers[master].freeze();
    cluster.promoted(master);
    let begun = Instant::now();
    assert_eq!(agent.answered(&long_refresh(&a, token)).await, LeaseAnswer::Granted { token });
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?} after it was replaced", begun.elapsed());
}

#[tokio::test]
async fn a_planned_failover_goes_unnoticed() {
    let cluster = ClusterServers::start(NEVER);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    cluster.fail_over(cluster.master_of(&lease().lease_key()));
    agent.redis.ask(&lease(), long_refresh(&a, token), PATIENCE);
    loop {
        match agent.event().await {
            Event::Lease { answer, .. } => break assert_eq!(answer, LeaseAnswer::Granted { token }),
            Event::StoreDown { reason } => panic!("{reason}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_cluster_that_is_down_says_so_and_is_reached_again_at_once() {
    let cluster = ClusterServers::start(SOON);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    // A master and its replica: nobody has these slots.
    let which = cluster.master_of(&lease().lease_key());
    let gone = [&cluster.servers[which], &cluster.servers[which + 3]];
    gone.iter().for_each(|server| server.freeze());
    let deadline = Instant::now() + PATIENCE;
    let reason = loop {
        assert!(Instant::now() < deadline);
        agent.redis.ask(&lease(), long_refresh(&a, token), ASK);
        if let Event::StoreDown { reason } = agent.event().await {
            break reason;
        }
    };
    assert!(reason.starts_with("the cluster is down (cluster_state:fail)"), "{reason}");
    gone.iter().for_each(|server| server.thaw());
    agent.up().await;
    let goes_on = agent.answered(&long_refresh(&a, token)).await;
    assert_eq!(goes_on, LeaseAnswer::Granted { token });
}

// ---- Slots that move ----

#[tokio::test]
async fn a_lease_whose_slot_is_moved_loses_no_refresh() {
    let cluster = ClusterServers::start(NEVER);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    let (lease_key, meta_key) = (lease().lease_key(), lease().meta_key());
    let from = cluster.master_of(&lease_key);
    let to = (from + 1) % 3;
    let granted = LeaseAnswer::Granted { token };
    let goes_on = long_refresh(&a, token);

    cluster.begin_to_move(&lease_key, from, to);
    assert_eq!(agent.ask(&goes_on).await, granted, "both keys are where they were");
    cluster.move_key(&lease_key, from, to);
    // Between the two no server has both: it is tried again until one has.
    agent.redis.ask(&lease(), goes_on.clone(), PATIENCE);
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.move_key(&meta_key, from, to);
    assert_eq!(agent.answer(&goes_on).await, granted);
    cluster.servers[to].command(&["SCRIPT", "FLUSH"]);
    for _ in 0..2 {
        assert_eq!(agent.ask(&goes_on).await, granted, "both have been moved, and ASK leads there");
    }
    cluster.end_the_move(&lease_key, from, to);
    assert_eq!(agent.ask(&goes_on).await, granted, "MOVED leads there");
    assert_eq!(cluster.servers[to].text(&["GET", &lease_key]), Some(a.to_string()));
}

// ---- News, registry and bus ----

#[tokio::test]
async fn a_release_is_heard_whatever_server_one_listens_on() {
    let cluster = ClusterServers::start(NEVER);
    let mut holder = Agent::in_cluster(&cluster, "a", 1).await;
    let mut others = Vec::new();
    for instance in 2..8 {
        others.push(Agent::in_cluster(&cluster, &format!("n{instance}"), instance).await);
    }
    let a = owner("a", 1);
    held(&cluster, &mut holder, &a).await;
    for other in &mut others {
        other.freed().await;
    }
    assert_eq!(holder.ask(&release(&a)).await, LeaseAnswer::Released);
    for other in &mut others {
        other.freed().await;
    }
    let heard = |server: &RedisServer| format!("{:?}", server.command(&["PUBSUB", "NUMSUB", &lease().free_channel()]));
    let listened_on: Vec<String> = cluster.servers.iter().map(heard).collect();
    assert!(listened_on.iter().filter(|heard| !heard.contains("int(0)")).count() > 1, "{listened_on:?}");
}

/// The server on which an agent listens.
fn heard_at(cluster: &ClusterServers, name: &str) -> Option<usize> {
    let channel = format!("circus:{{prod}}:bus:{name}");
    let listens = |server: &RedisServer| {
        let said = server.try_command(&["PUBSUB", "NUMSUB", &channel]).ok();
        matches!(said, Some(redis::Value::Array(parts)) if parts.last() == Some(&redis::Value::Int(1)))
    };
    cluster.servers.iter().position(listens)
}

#[tokio::test]
async fn who_listens_on_a_server_that_was_taken_out_of_the_cluster_leaves_it() {
    let cluster = ClusterServers::start(NEVER);
    let mut agent = Agent::in_cluster(&cluster, "a", 1).await;
    let deadline = Instant::now() + PATIENCE;
    let replica = loop {
        match heard_at(&cluster, "a") {
            Some(at @ 3..) => break at,
            Some(master) => drop(cluster.servers[master].command(&["CLIENT", "KILL", "TYPE", "pubsub"])),
            None => {}
        }
        assert!(Instant::now() < deadline, "never on a replica");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // It still answers, and hears nothing of the others.
    cluster.servers[replica].command(&["CLUSTER", "RESET", "HARD"]);
    while heard_at(&cluster, "a").is_none_or(|at| at == replica) {
        assert!(Instant::now() < deadline + PATIENCE, "it stays there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.servers[0].command(&["PUBLISH", &lease().free_channel(), ""]);
    agent.freed().await;
}

#[tokio::test]
async fn registry_bus_and_circusctl_work_over_a_cluster_and_find_it_when_the_servers_of_the_url_are_gone() {
    let mut cluster = ClusterServers::start(SOON);
    let url = cluster.url().split(',').next().unwrap().to_owned();
    let mut a = Agent::ready(&url, "a", 1).await;
    let mut b = Agent::ready(&url, "b", 2).await;
    a.roster_until(|rows| rows.len() == 2).await;
    a.redis.relay(RequestId(1), &node("b"), "{}".into());
    b.reply("yes").await;
    let replied = Event::Replied { request: RequestId(1), node: node("b"), text: "yes".into() };
    a.next(|event| (event == replied).then_some(())).await;

    let spec = at(&url);
    let mut client = BusClient::connect(&spec, &super::cluster(), PATIENCE).await.unwrap();
    // So many that not all of them listen on the server on which they are asked.
    let (mut c, mut d) = (Agent::ready(&url, "c", 3).await, Agent::ready(&url, "d", 4).await);
    let (mut e, mut f) = (Agent::ready(&url, "e", 5).await, Agent::ready(&url, "f", 6).await);
    let asked = ["b", "c", "d", "e", "f"].map(node);
    let replies =
        async { tokio::join!(b.reply("yes"), c.reply("yes"), d.reply("yes"), e.reply("yes"), f.reply("yes")) };
    let (said, _) = tokio::join!(client.ask(&asked, "{}", PATIENCE), timeout(PATIENCE, replies));
    let said = said.unwrap();
    assert!(asked.iter().all(|node| said[node] == Ok("yes".into())), "{said:?}");
    let mut events =
        ClusterStream::connect(&spec, &super::cluster(), &Follow::all(Subject::Events), PATIENCE).await.unwrap();
    a.redis.publish_event("{}".into());
    assert_eq!(timeout(PATIENCE, events.next()).await.unwrap(), Ok(json!({})));
    let mut ctl = std::process::Command::new(env!("CARGO_BIN_EXE_circusctl"));
    ctl.args(["nodes", "--json", "--cluster", "prod", "--endpoint", &url]);
    let said = tokio::task::spawn_blocking(move || ctl.output()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains(r#""name":"b""#), "{said:?}");

    cluster.servers[0].kill();
    cluster.promoted(0);
    let begun = Instant::now();
    let again = async {
        loop {
            a.redis.relay(RequestId(2), &node("b"), "{}".into());
            let question = timeout(Duration::from_millis(300), b.questions.recv()).await;
            if let Ok(Some(question)) = question {
                break question;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("both are known by others' word");
    assert!(begun.elapsed() < PATIENCE);
    let why = BusClient::connect(&spec, &super::cluster(), PATIENCE).await.err().unwrap();
    assert!(why.starts_with("no server of the cluster can be asked (127.0.0.1:"), "{why}");
}

// ---- How agents are let in ----

/// The line with the least rights at a cluster: the manual's, and what it says is to be added.
fn rights_at_a_cluster() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    let more = page.split('`').find(|words| words.starts_with("+cluster|info ")).expect("what a cluster needs");
    rights().into_iter().chain(more.split(' ').map(ToOwned::to_owned)).collect()
}

#[tokio::test]
async fn the_rights_in_the_manual_are_enough_at_a_cluster_while_a_slot_moves() {
    let cluster = ClusterServers::start(NEVER);
    let words = rights_at_a_cluster();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for server in &cluster.servers {
        server.command(&words);
    }
    let url = cluster.url().replace("//", "//circus:CHANGE-ME@");
    let mut agent = Agent::ready(&url, "a", 1).await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    let (lease_key, meta_key) = (lease().lease_key(), lease().meta_key());
    let from = cluster.master_of(&lease_key);
    let to = (from + 1) % 3;
    cluster.begin_to_move(&lease_key, from, to);
    cluster.move_key(&lease_key, from, to);
    cluster.move_key(&meta_key, from, to);
    assert_eq!(agent.ask(&long_refresh(&a, token)).await, LeaseAnswer::Granted { token });
    agent.roster_until(|rows| rows.len() == 1).await;
    BusClient::connect(&at(&url), &super::cluster(), PATIENCE).await.expect("circusctl is let in");
    for server in &cluster.servers {
        let refused = format!("{:?}", server.command(&["ACL", "LOG"]));
        let only_config = refused == "array([])" || !refused.contains("bulk-string('\"object\"')");
        assert!(only_config, "{refused}");
    }
}

#[tokio::test]
async fn a_cluster_is_reached_over_tls() {
    let authority = Authority::new();
    let shown = authority.sign("server", "IP:127.0.0.1", &Valid::Now);
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (cert, key, ca) = (text(&shown.cert), text(&shown.key), text(&authority.certificate()));
    let arguments = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let arguments = [&arguments[..], &["--tls-auth-clients", "no", "--tls-port", "{free}"]].concat();
    let arguments = [&arguments[..], &["--tls-cluster", "yes", "--tls-replication", "yes"]].concat();
    let cluster = ClusterServers::start_with(NEVER, &arguments);
    let port = |server: &RedisServer| server.text_of_config("tls-port");
    let tls = TlsFiles { ca: Some(authority.certificate()), ..TlsFiles::default() };
    let spec = RedisSpec { tls, ..at(&format!("rediss+cluster://127.0.0.1:{}", port(&cluster.servers[0]))) };
    let mut agent = Agent::start_at(spec.clone(), "a", 1);
    agent.up_and_heard().await;
    let a = owner("a", 1);
    let token = held(&cluster, &mut agent, &a).await;
    assert_eq!(agent.ask(&long_refresh(&a, token)).await, LeaseAnswer::Granted { token });
    agent.roster_until(|rows| rows.len() == 1).await;
    let plain = RedisSpec { tls: TlsFiles::default(), ..spec };
    let why = Agent::start_at(plain, "b", 2).down().await;
    assert!(why.contains("is not signed by what this machine trusts; name its CA with tls_ca"), "{why}");
}
