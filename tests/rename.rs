//! Nodes that get another name while they run: real agents, a real Redis, and without one.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::collections::BTreeSet;

use serde_json::Value;

use agent::{Agent, Home, Said, is_alive, send, variable_of, wait_for};
use redis_server::RedisServer;

const BEAT: &str = "\n[watcher:beat]\ncmd = sleep 600\nsingleton = true\n[watcher:web]\ncmd = sleep 600\n";

/// Agents of one cluster, of which the first holds `beat`.
struct Cluster {
    home: Home,
    redis: RedisServer,
    agents: Vec<Agent>,
}

impl Cluster {
    #[track_caller]
    fn start(ttl: &str, others: &[&str]) -> Cluster {
        let mut all = Cluster { home: Home::new(), redis: RedisServer::start(), agents: Vec::new() };
        all.add("web-1", ttl, "");
        wait_for("the lease to be initialised", || {
            (all.agents[0].ctl(&all.home, &["lease", "init", "beat"]).code == 0).then_some(())
        });
        all.agents[0].comes_to("beat", "active");
        for name in others {
            all.add(name, ttl, "");
            all.agents.last().unwrap().comes_to("beat", "standby");
        }
        all.is_listed(&[&["web-1"], others].concat());
        all
    }

    fn add(&mut self, name: &str, ttl: &str, circus: &str) {
        let config = format!("{circus}\n[redis]\nurl = {}\nlease_ttl = {ttl}\n{BEAT}", self.redis.url());
        self.agents.push(self.home.agent(name, &config));
    }

    /// Asks the agent that was started under this name, at its control socket.
    fn at(&self, name: &str, words: &[&str]) -> Said {
        let agent = self.agents.iter().find(|agent| agent.name == name).expect("an agent");
        agent.ctl(&self.home, words)
    }

    /// Waits until these are the nodes, and no others.
    #[track_caller]
    fn is_listed(&self, names: &[&str]) {
        let names: BTreeSet<&str> = names.iter().copied().collect();
        wait_for("the registry to have these nodes", || {
            let said = self.agents[0].ctl(&self.home, &["nodes", "--json"]);
            let rows = if said.code == 0 { said.json()["roster"].as_array().cloned()? } else { return None };
            let listed: BTreeSet<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
            (listed == names).then_some(())
        });
    }

    /// `beat` as `leases` has it at one agent.
    fn lease(&self, at: &str) -> Value {
        self.agents.iter().find(|agent| agent.name == at).expect("an agent").lease("beat")
    }
}

#[test]
fn a_holder_is_renamed_and_nothing_that_runs_notices() {
    // Nobody asks again by himself before this test is over.
    let cluster = Cluster::start("5m", &["web-2"]);
    let (token, pids) = (cluster.lease("web-1")["token"].clone(), cluster.agents[0].pids("beat"));
    let name = |agent: &Agent| agent.ctl(&cluster.home, &["status", "--json"]).json()["node"].clone();

    let said = cluster.at("web-2", &["rename", "web-9", "--node", "web-1"]).expect(0);
    let file = cluster.home.file("web-1.ini");
    let text = format!(
        "ok, web-1 is web-9 now; to keep that over a restart write node = web-9 in [circus] of {}",
        file.display()
    );
    assert!(said.out.contains(&text), "{said:?}");

    // The same child under the same lease.
    let lease = cluster.lease("web-1");
    assert_eq!((&lease["token"], &lease["holder"], &lease["role"]), (&token, &"web-9".into(), &"holder".into()));
    assert_eq!(cluster.agents[0].pids("beat"), pids);
    assert_eq!(name(&cluster.agents[0]), "web-9");
    assert_eq!(variable_of(pids[0], "CIRCUS_NODE").as_deref(), Some("web-1"), "it was told so when it started");
    // Who waits for it has heard of it, long before it has to ask again.
    wait_for("the others to know the holder's name", || (cluster.lease("web-2")["holder"] == "web-9").then_some(()));
    cluster.is_listed(&["web-2", "web-9"]);
    for words in [&["leases"][..], &["status", "--all"], &["history", "beat"], &["nodes"], &["explain", "beat"]] {
        wait_for("the new name everywhere", || {
            let said = cluster.at("web-2", words);
            (said.code == 0 && said.out.contains("web-9") && !said.out.contains("web-1")).then_some(())
        });
    }

    let mut top = cluster.home.clean(env!("CARGO_BIN_EXE_circus-top"), &["--once", "--ascii"]);
    let top = top.env("CIRCUSCTL_ENDPOINT", format!("unix://{}", cluster.agents[0].socket.display())).output().unwrap();
    let screen = String::from_utf8_lossy(&top.stdout);
    // What happened before was told by the name of then.
    let now = screen.split(" Events ").next().unwrap_or_default();
    assert!(top.status.success() && now.contains("web-9") && !now.contains("web-1"), "{screen}");

    // It is asked by the one name, and not by the other.
    assert!(cluster.at("web-2", &["version", "--node", "web-9"]).expect(0).out.contains("web-9"));
    wait_for("who asks for the old one to be told", || {
        let lost = cluster.at("web-2", &["version", "--node", "web-1"]).expect(4);
        lost.err.contains("no such node: web-1 is web-9 now").then_some(())
    });

    // Away and back: a move finds it under its new name, and history knows it under that alone.
    cluster.at("web-1", &["failover", "beat"]).expect(0);
    cluster.agents[1].comes_to("beat", "active");
    assert!(!is_alive(pids[0]));
    cluster.agents[0].comes_to("beat", "standby");
    wait_for("a move back", || (cluster.at("web-2", &["failover", "beat", "--to", "web-9"]).code == 0).then_some(()));
    cluster.agents[0].comes_to("beat", "active");
    let own = cluster.agents[0].pids("beat")[0];
    assert_eq!(variable_of(own, "CIRCUS_NODE").as_deref(), Some("web-9"));
    wait_for("the history of it", || {
        let text =
            cluster.at("web-2", &["history", "beat", "--json"]).expect(0).json()["history"][0]["tenures"].to_string();
        (text.matches("\"to\":\"web-9\"").count() == 2 && !text.contains("web-1")).then_some(())
    });
}

#[test]
fn a_name_in_use_is_refused_with_who_has_it_and_a_free_one_is_anybodys() {
    let mut cluster = Cluster::start("2s", &["web-2"]);
    let token = cluster.lease("web-1")["token"].clone();
    let refused = cluster.at("web-1", &["rename", "web-2"]).expect(1);
    let who = format!("pid {}", cluster.agents[1].pid());
    assert!(refused.err.contains("web-2") && refused.err.contains(&who), "{refused:?}");
    assert_eq!(cluster.lease("web-1")["token"], token);
    cluster.is_listed(&["web-1", "web-2"]);
    assert!(cluster.at("web-2", &["version", "--node", "web-1"]).expect(0).out.contains("web-1"));
    let twice = cluster.at("web-1", &["rename", "web-5", "--all"]).expect(1);
    assert!(twice.err.contains("several nodes cannot have one name"), "{twice:?}");
    cluster.at("web-1", &["rename", "web 5"]).expect(2);
    cluster.at("web-1", &["rename", "web-1"]).expect(0);

    // The name that it gives up is another agent's at once, also on this machine; and each is asked by its own.
    cluster.at("web-1", &["rename", "web-9"]).expect(0);
    let first = cluster.agents.remove(0);
    let first_pid = first.pid();
    std::fs::rename(cluster.home.file("web-1.ini"), cluster.home.file("first.ini")).unwrap();
    cluster.add("web-1", "2s", &format!("control_socket = {}", cluster.home.file("other.sock").display()));
    cluster.agents.push(first);
    cluster.is_listed(&["web-1", "web-2", "web-9"]);
    let pid = |name: &str| cluster.agents[0].ctl(&cluster.home, &["dstats", "--json", "--node", name]).expect(0).json();
    assert_eq!(pid("web-9")["nodes"]["web-9"]["info"]["pid"], first_pid);
    assert_ne!(pid("web-1")["nodes"]["web-1"]["info"]["pid"], first_pid);
}

#[test]
fn the_guard_of_a_renamed_holder_works_and_another_node_takes_over() {
    let mut cluster = Cluster::start("2s", &["web-2"]);
    cluster.at("web-1", &["rename", "web-9"]).expect(0);
    let child = cluster.agents[0].pids("beat")[0];
    send(cluster.agents[0].pid(), libc::SIGKILL);
    wait_for("the child to end with its agent", || (!is_alive(child)).then_some(()));
    cluster.agents[1].comes_to("beat", "active");
    let mut old = cluster.agents.remove(0);
    old.ends();
    let said = cluster.at("web-2", &["history", "beat"]).expect(0);
    assert!(said.out.contains("web-9") && !said.out.contains("web-1"), "{said:?}");
}

#[test]
fn with_redis_away_a_node_keeps_its_name() {
    let cluster = Cluster::start("2s", &[]);
    cluster.redis.freeze();
    let refused = cluster.at("web-1", &["rename", "web-9"]);
    cluster.redis.thaw();
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("Redis: "), "{refused:?}");
    // What was heard after all is taken back.
    cluster.is_listed(&["web-1"]);
    assert_eq!(cluster.at("web-1", &["status", "--json"]).json()["node"], "web-1");
    // And it is no reason not to try again.
    wait_for("the name", || (cluster.at("web-1", &["rename", "web-9"]).code == 0).then_some(()));
    cluster.is_listed(&["web-9"]);
}

#[test]
fn without_redis_a_node_is_renamed_on_its_machine() {
    let home = Home::new();
    let mut agent = home.agent("web-1", BEAT);
    agent.comes_to("beat", "active");
    let (pids, token) = (agent.pids("beat"), agent.lease("beat")["token"].clone());
    let other = home.agent("web-2", BEAT);
    other.comes_to("beat", "standby");
    let refused = agent.ctl(&home, &["rename", "web-2"]).expect(1);
    assert!(refused.err.contains("another agent named web-2 runs on this machine"), "{refused:?}");
    agent.ctl(&home, &["rename", "web-9"]).expect(0);
    assert_eq!((agent.pids("beat"), &agent.lease("beat")["token"]), (pids.clone(), &token));
    wait_for("history", || agent.ctl(&home, &["history", "beat"]).out.contains("web-9").then_some(()));
    // The lease it holds is still its own, and whoever comes next gets it.
    agent.kill();
    wait_for("the child to end with its agent", || (!is_alive(pids[0])).then_some(()));
    other.comes_to("beat", "active");
    let said = other.ctl(&home, &["history", "beat"]);
    assert!(said.out.contains("web-9") && !said.out.contains("web-1"), "{said:?}");
}

#[test]
fn a_failover_asked_at_a_drained_node_finds_the_holder() {
    let mut cluster = Cluster::start("2s", &["web-2", "web-3"]);
    cluster.at("web-2", &["drain", "--waiting"]).expect(0);
    wait_for("a move", || (cluster.at("web-2", &["failover", "beat", "--to", "web-3"]).code == 0).then_some(()));
    cluster.agents.remove(2).comes_to("beat", "active");
}
