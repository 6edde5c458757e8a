//! A real Redis, one server or several, asked as an agent asks it.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.

use std::time::{Duration, Instant};

use std::collections::BTreeMap;

use circus_agent::cluster::scripts;
use circus_agent::model::election::{Membership, Muster};
use circus_agent::model::event::{Ask, Claim, Claimed, LeaseAnswer};
use circus_agent::model::names::{LeaseName, WatcherName};
use circus_agent::model::pause::{Told, Wish};
use circus_agent::model::spec::RedisSpec;

use super::end::{ASK, Agent, PATIENCE, lease, owner, refresh};
use super::lease_cases::{Disturbance, Store, instance};
use super::redis_server::RedisServer;

/// What is done to it is done to all of its servers.
pub struct RealStore {
    spec: RedisSpec,
    runtime: tokio::runtime::Runtime,
    agent: Agent,
    /// Those that contend for the lease, or for slots, each the first time it says something.
    members: BTreeMap<String, Agent>,
    servers: Vec<RedisServer>,
}

impl RealStore {
    /// The store that `spec` leads to, on `servers`.
    pub fn new(spec: RedisSpec, servers: Vec<RedisServer>) -> RealStore {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let agent = runtime.block_on(async {
            let mut agent = Agent::start_at(spec.clone(), "tester", 1);
            agent.up_and_heard().await;
            reach_all(&mut agent, "tester", &servers).await;
            agent
        });
        RealStore { spec, runtime, agent, members: BTreeMap::new(), servers }
    }
}

impl RealStore {
    /// Has a node's agent do something; it is started where it is not there yet.
    fn with_member<T>(&mut self, node: &str, does: impl AsyncFnOnce(&mut Agent) -> T) -> T {
        let RealStore { spec, runtime, members, servers, .. } = self;
        runtime.block_on(async {
            if !members.contains_key(node) {
                let mut agent = Agent::start_at(spec.clone(), node, instance(node));
                agent.up_and_heard().await;
                reach_all(&mut agent, node, servers).await;
                members.insert(node.to_owned(), agent);
            }
            does(members.get_mut(node).expect("it is there")).await
        })
    }
}

impl Store for RealStore {
    fn ask(&mut self, lease: &LeaseName, ask: &Ask) -> LeaseAnswer {
        assert_eq!(*lease, self::lease());
        self.runtime.block_on(self.agent.ask_within(ask, PATIENCE))
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

    fn servers(&self) -> usize {
        self.servers.len()
    }

    fn init(&mut self, lease: &LeaseName) -> Result<(), String> {
        assert_eq!(*lease, self::lease());
        self.runtime.block_on(self.agent.init())
    }

    fn pass(&mut self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn disturb(&mut self, how: Disturbance) {
        for server in &mut self.servers {
            match &how {
                Disturbance::FlushAll => drop(server.command(&["FLUSHALL"])),
                Disturbance::FlushScripts => drop(server.command(&["SCRIPT", "FLUSH"])),
                Disturbance::Delete(key) => {
                    // The last of several servers may not have it yet.
                    let deadline = Instant::now() + PATIENCE;
                    while server.number(&["DEL", key]) == 0 {
                        assert!(Instant::now() < deadline, "there is no {key} to delete");
                        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
                    }
                }
                Disturbance::Overwrite(key, value) => drop(server.command(&["SET", key, value])),
                Disturbance::OthersTurn(key, value, ttl) => others_turn(server, (key, value), *ttl),
                Disturbance::SetBack(lease, by) => set_back(server, lease, *by),
                Disturbance::RestartEmpty => server.restart_empty(),
                Disturbance::Save => server.save(),
                Disturbance::RestartWithSaved => server.restart_with_saved(),
            }
        }
        if matches!(how, Disturbance::RestartEmpty | Disturbance::RestartWithSaved) {
            // A server that does not know a script is told it and asked again, and what came later may be before it: of
            // several servers most may then be of one mind, and one is late.
            for server in &self.servers {
                scripts::ALL.iter().for_each(|script| drop(server.command(&["SCRIPT", "LOAD", script])));
            }
            self.runtime.block_on(async {
                reach_all(&mut self.agent, "tester", &self.servers).await;
                for (name, member) in &mut self.members {
                    reach_all(member, name, &self.servers).await;
                }
            });
        }
    }
}

/// Waits until the agent has reached all servers. Asks, so that the loss of a connection is noticed at once.
async fn reach_all(agent: &mut Agent, name: &str, servers: &[RedisServer]) {
    let nothing = refresh(&owner("nobody", 0), 0);
    let connected = |server: &RedisServer| {
        let clients = server.text(&["CLIENT", "LIST"]).unwrap_or_default();
        clients.contains(&format!("name=circus-agent:{name} "))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = agent.ask_within(&nothing, ASK).await;
        if matches!(answer, LeaseAnswer::Lost { .. }) && servers.iter().all(connected) {
            return;
        }
        assert!(Instant::now() < deadline, "not all servers are reached: {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A turn of another program that would have the key as its lock.
pub fn others_turn(server: &RedisServer, (key, value): (&str, &str), ttl: Duration) {
    let ttl = ttl.as_millis().to_string();
    if server.text(&["GET", key]).as_deref() == Some(value) {
        server.command(&["PEXPIRE", key, &ttl]);
    } else {
        server.command(&["SET", key, value, "PX", &ttl, "NX"]);
    }
}

/// The machine's clock is not ours to set back: what ends ends later by as much.
pub fn set_back(server: &RedisServer, lease: &LeaseName, by: Duration) {
    let by = i64::try_from(by.as_millis()).unwrap();
    let (key, record) = (lease.lease_key(), lease.meta_key());
    let left = server.number(&["PTTL", &key]);
    server.command(&["PEXPIRE", &key, &(left + by).to_string()]);
    for field in ["until", "reserved"] {
        if server.number(&["HEXISTS", &record, field]) == 1 {
            server.command(&["HINCRBY", &record, field, &by.to_string()]);
        }
    }
    let members = lease.members_key();
    let left = server.number(&["PTTL", &members]);
    server.command(&["PEXPIRE", &members, &(left + by).to_string()]);
    let kept: BTreeMap<String, String> = redis::from_redis_value(server.command(&["HGETALL", &members])).unwrap();
    for (field, text) in kept {
        let later = |(at, word): (usize, &str)| match word.parse::<i64>() {
            Ok(time) if at == 0 || at == 1 && field == "/kept" => (time + by).to_string(),
            _ => word.to_owned(),
        };
        let words: Vec<String> = text.split(' ').enumerate().map(later).collect();
        server.command(&["HSET", &members, &field, &words.join(" ")]);
    }
}
