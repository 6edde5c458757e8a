//! circusd-cluster's words: the files of its manual, with `[redis]` added, make a cluster of real agents in which what the
//! manual does is done.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use circus_agent::model::spec::ZmqAddress;
use circus_agent::zmq::Dealer;
use serde_json::{Value, json};

use agent::{Agent, Home, PATIENCE, Said, wait_for};
use redis_server::RedisServer;

/// Asks at one of the two doors that lead to all nodes.
type Door<'a> = &'a dyn Fn(&[&str]) -> Said;

/// The master's file and two workers', each as an agent.
struct Cluster {
    home: Home,
    redis: RedisServer,
    agents: [Agent; 3],
    /// `[circus-cluster] endpoint`.
    endpoint: ZmqAddress,
}

/// A file of the manual with ports that nobody else has.
fn manual(name: &str) -> String {
    let file = std::fs::read_to_string(format!("tests/circus_cluster/{name}.ini")).expect("a file");
    let mut parts = file.split("tcp://127.0.0.1:");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let place = listener.local_addr().expect("its address");
        text.push_str(&format!("tcp://{place}{}", part.trim_start_matches(|c: char| c.is_ascii_digit())));
    }
    text
}

impl Cluster {
    fn new() -> Cluster {
        let (home, redis) = (Home::new(), RedisServer::start());
        let files = ["cluster", "first", "second"].map(|name| (name, manual(name)));
        let endpoint = files[0].1.lines().find_map(|line| line.strip_prefix("endpoint = "));
        let endpoint = ZmqAddress::parse(endpoint.expect("the master's endpoint")).expect("an address");
        let agents = files.map(|(name, file)| home.agent(name, &format!("{file}\n[redis]\nurl = {}\n", redis.url())));
        agents[1..].iter().for_each(|agent| agent.comes_to("dummy", "active"));
        let cluster = Cluster { home, redis, agents, endpoint };
        wait_for("all to be registered", || (cluster.ctl(&["nodelist"]).out.lines().count() == 3).then_some(()));
        cluster
    }

    /// Asks where the manual asks the master.
    fn ctl(&self, words: &[&str]) -> Said {
        self.agents[0].ctl(&self.home, words)
    }

    /// Puts a message where circusd-cluster's clients put it.
    fn over_zmq(&self, message: &Value) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let asked = async {
            let mut dealer = Dealer::connect(&self.endpoint).await?;
            dealer.ask(&message.to_string())?;
            dealer.next().await
        };
        let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
        serde_json::from_slice(&asked.expect("an answer in time").expect("an answer")).expect("JSON")
    }

    /// Puts `cmd` as circusd-cluster's own circusctl does.
    fn wrapped(&self, node: Option<&str>, broadcast: bool, cmd: &Value) -> Value {
        self.agents[0].ask(&json!({"node": node, "broadcast": broadcast, "cmd": cmd, "cluster_timeout": 20}))
    }
}

#[test]
fn the_manuals_files_load_with_a_word_on_what_is_not_needed_and_make_a_cluster() {
    let cluster = Cluster::new();
    let [master, first, second] = &cluster.agents;
    for (agent, says) in [
        (master, "[circus-cluster] stats_endpoint tcp://127.0.0.1:"),
        (master, "[node:first] is not needed"),
        (second, "`master` has no effect"),
    ] {
        agent.logs(says);
        agent.logs("nodes register by themselves, in the Redis of `[redis] url`");
    }
    // `circusctl incr dummy --node first`
    cluster.ctl(&["incr", "dummy", "--node", "first"]).expect(0);
    wait_for("one more", || (first.pids("dummy").len() == 6).then_some(()));
    assert_eq!(second.pids("dummy").len(), 5);
    let said =
        cluster.ctl(&["decr", "dummy", "--node", "first,second", "--cluster_timeout", "20", "--waiting"]).expect(0);
    assert!(said.out.contains("first: 5") && said.out.contains("second: 4"), "{said:?}");
    // The master's own file has no such watcher, and says so; the others do it.
    let said = cluster.ctl(&["numprocesses", "dummy", "--broadcast"]).expect(1);
    assert!(said.out.contains("first: 5\n") && said.out.contains("second: 4\n"), "{said:?}");
    assert!(said.err.contains("cluster: program dummy not found"), "{said:?}");
    // All nodes' processes in one place.
    let stats = cluster.ctl(&["stats", "dummy", "--node", "first,second", "--json"]).expect(0).json();
    let count = |node: &str| stats["nodes"][node]["info"].as_object().map(serde_json::Map::len);
    assert_eq!((count("first"), count("second")), (Some(5), Some(4)), "{stats}");
}

#[test]
fn nodes_are_listed_with_their_endpoints_and_nobody_registers_for_another() {
    let cluster = Cluster::new();
    let at = |agent: &Agent| format!("unix://{}", agent.socket.display());
    let list: String = cluster.agents.iter().map(|agent| format!("{}: {}\n", agent.name, at(agent))).collect();
    let over_redis = |words: &[&str]| cluster.home.ctl(&[&["--endpoint", &cluster.redis.url()], words].concat());
    assert_eq!(cluster.ctl(&["nodelist"]).expect(0).out, list);
    assert_eq!(over_redis(&["nodelist"]).expect(0).out, list);
    let json = cluster.ctl(&["nodelist", "--json"]).expect(0).json();
    assert_eq!(json["nodelist"]["second"], at(&cluster.agents[2]), "{json}");

    let here = |words: &[&str]| cluster.ctl(words);
    let doors: [Door<'_>; 2] = [&here, &over_redis];
    for ask in doors {
        for words in [
            &["register_node", "second", "tcp://127.0.0.1:6555", "tcp://127.0.0.1:6557"][..],
            &["register_node", "second", &at(&cluster.agents[2])],
            &["join_cluster", "second", "tcp://127.0.0.1:5558"],
        ] {
            let said = ask(words).expect(0);
            assert!(said.out.starts_with("ok, second registered by itself, from "), "{words:?}: {said:?}");
        }
        let taken = ask(&["register_node", "second", &at(&cluster.agents[1])]).expect(1);
        assert_eq!(taken.err, "error: node name 'second' is already registered\n");
        for words in [&["register_node", "third", "tcp://127.0.0.1:7555"][..], &["join_cluster", "third", "tcp://x:1"]]
        {
            let absent = ask(words).expect(1);
            assert!(absent.err.contains("third is not registered: start circus-agent there"), "{absent:?}");
            assert!(absent.err.contains("`[redis] url` of this cluster"), "{absent:?}");
        }
    }
}

#[test]
fn its_own_wrapped_messages_are_answered_as_its_clients_expect() {
    let cluster = Cluster::new();
    let count = json!({"command": "numprocesses", "properties": {"name": "dummy"}, "id": "x"});
    let one = cluster.wrapped(Some("first"), false, &count);
    assert_eq!(
        (&one["node"], &one["status"], &one["numprocesses"]),
        (&json!("first"), &json!("ok"), &json!(5)),
        "{one}"
    );
    assert_eq!(one["id"], "x");
    let none = cluster.wrapped(Some("third"), false, &count);
    assert_eq!((&none["err"], &none["node"]), (&json!("No matching node"), &json!("third")), "{none}");
    let each = cluster.wrapped(None, true, &count);
    let nodes: Vec<&Value> = each.as_array().expect("a list").iter().map(|reply| &reply["node"]).collect();
    assert_eq!(nodes, ["cluster", "first", "second"], "{each}");
    assert_eq!((&each[0]["status"], &each[2]["numprocesses"]), (&json!("error"), &json!(5)), "{each}");
    let own = cluster.wrapped(None, false, &json!({"command": "nodelist", "properties": {}}));
    assert_eq!(own["nodelist"].as_object().map(serde_json::Map::len), Some(3), "{own}");

    // The same at the endpoint that the master had.
    let message = |node: Option<&str>, cmd: &Value| json!({"node": node, "broadcast": node.is_none(), "cmd": cmd});
    let there = cluster.over_zmq(&message(Some("first"), &count));
    assert_eq!((&there["node"], &there["numprocesses"]), (&one["node"], &one["numprocesses"]), "{there}");
    assert_eq!(cluster.over_zmq(&message(None, &count)).as_array().map(Vec::len), Some(3));

    // A node that is there and says nothing.
    cluster.agents[2].signal(libc::SIGSTOP);
    let request = json!({"node": "second", "broadcast": false, "cmd": count, "cluster_timeout": 0.5});
    let silent = cluster.agents[0].ask(&request);
    cluster.agents[2].signal(libc::SIGCONT);
    assert_eq!(silent["err"], "Timed out. Try to raise the --timeout value", "{silent}");
    assert_eq!(silent["node"], "second");
}

#[test]
fn an_agent_without_redis_says_that_it_is_alone() {
    let home = Home::new();
    let agent = home.agent("second", &manual("second"));
    agent.logs("this file means a cluster, and has no [redis]");
    for words in [&["nodelist"][..], &["join_cluster", "second", "tcp://127.0.0.1:5558"]] {
        let refused = agent.ctl(&home, words).expect(1);
        assert!(refused.err.contains("this agent has no [redis] section"), "{refused:?}");
    }
}
