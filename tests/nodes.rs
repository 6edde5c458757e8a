//! Which nodes are meant, on real agents with a real Redis: by name, pattern, label, and by what they hold.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use serde_json::Value;

use agent::{Agent, Home, Said, wait_for};
use redis_server::RedisServer;

/// Some agents of one cluster.
struct Nodes {
    home: Home,
    redis: RedisServer,
    agents: Vec<Agent>,
}

impl Nodes {
    /// Starts those of these names, each with what its `[circus]` section says, and the same watchers. They know each
    /// other when this ends.
    #[track_caller]
    fn start(nodes: &[(&str, &str)], watchers: &str) -> Nodes {
        let (home, redis) = (Home::new(), RedisServer::start());
        let mut all = Nodes { home, redis, agents: Vec::new() };
        for (name, circus) in nodes {
            all.add(name, circus, watchers);
        }
        all.know(nodes.len());
        all
    }

    fn add(&mut self, name: &str, circus: &str, watchers: &str) {
        let redis = format!("\n[redis]\nurl = {}\nlease_ttl = 2s\n", self.redis.url());
        self.agents.push(self.home.agent(name, &format!("{circus}{redis}{watchers}")));
    }

    #[track_caller]
    fn know(&self, count: usize) {
        wait_for("all nodes to be registered", || (self.rows().len() == count).then_some(()));
    }

    /// The registry.
    fn rows(&self) -> Vec<Value> {
        let nodes = self.over_redis(&["nodes", "--json"]);
        if nodes.code == 0 { nodes.json()["roster"].as_array().cloned().unwrap_or_default() } else { Vec::new() }
    }

    /// One row of it.
    #[track_caller]
    fn row(&self, name: &str) -> Value {
        self.rows().into_iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    fn agent(&self, name: &str) -> &Agent {
        self.agents.iter().find(|agent| agent.name == name).expect("an agent")
    }

    /// Asks the first one at its control socket.
    fn here(&self, words: &[&str]) -> Said {
        self.agents[0].ctl(&self.home, words)
    }

    /// Asks over Redis.
    fn over_redis(&self, words: &[&str]) -> Said {
        self.home.ctl(&[&["--endpoint", &self.redis.url()], words].concat())
    }
}

/// The nodes that a reply in JSON is of.
fn named(said: &Said) -> Vec<String> {
    said.json()["nodes"].as_object().into_iter().flat_map(|nodes| nodes.keys().cloned()).collect()
}

/// Asks at one of the two doors that decide who is meant.
type Door<'a> = &'a dyn Fn(&[&str]) -> Said;

#[test]
fn a_redis_without_agents_is_nobody_reached() {
    let (home, redis) = (Home::new(), RedisServer::start());
    for words in [&["version"][..], &["--all", "version"], &["--all", "stop", "web"], &["failover", "beat"]] {
        let said = home.ctl(&[&["--endpoint", &redis.url()], words].concat()).expect(5);
        assert_eq!(said.err, "error: no agent of cluster default is registered in this Redis\n", "{words:?}");
    }
}

#[test]
fn nodes_are_meant_by_name_pattern_and_label_at_a_control_socket_and_over_redis() {
    let web = "\n[watcher:web]\ncmd = sleep 600\n[watcher:beat]\ncmd = sleep 600\nsingleton = true\n";
    let nodes = Nodes::start(
        &[("db-1", "labels = zone=a"), ("web-1", "labels = zone=a,role=web"), ("web-2", "labels = zone=b, role=web")],
        web,
    );
    nodes.agents.iter().for_each(|agent| agent.comes_to("web", "active"));
    assert_eq!(nodes.row("web-2")["labels"], serde_json::json!({"zone": "b", "role": "web"}));
    wait_for("the lease to be initialised", || (nodes.here(&["lease", "init", "beat"]).code == 0).then_some(()));
    let holder = wait_for("a holder", || {
        let rows = nodes.rows();
        let holds = |row: &&Value| row["holds"].as_array().is_some_and(|holds| !holds.is_empty());
        Some(rows.iter().find(holds)?["name"].as_str()?.to_owned())
    });

    let doors: [(&str, Door<'_>); 2] =
        [("db-1", &|words| nodes.here(words)), ("Redis", &|words| nodes.over_redis(words))];
    for (door, ask) in doors {
        let json = |words: &[&str]| ask(&[&["numprocesses", "web", "--json"], words].concat());
        for (words, meant) in [
            (&["--node", "web-*,db-1"][..], &["db-1", "web-1", "web-2"][..]),
            (&["--node", "web-[2-9]"], &["web-2"]),
            (&["-l", "zone=a"], &["db-1", "web-1"]),
            (&["--label", "zone=a,role"], &["web-1"]),
            (&["--node", "web-*", "-l", "zone=b"], &["web-2"]),
            (&["--holder", "Beat"], &[holder.as_str()]),
        ] {
            let said = json(words).expect(0);
            assert_eq!(named(&said), meant, "{words:?} at {door}");
        }
        for (words, code, why) in [
            (&["--node", "mail-*"][..], 1, "no node fits mail-*"),
            (&["-l", "zone=c"], 1, "no node has zone=c; did you mean zone="),
            (&["--node", "wbe-1,db-1"], 4, "no such node; did you mean web-1?"),
            (&["--node", "db-1,web-2", "-l", "zone=a"], 4, "it has no label zone=a"),
            (&["--holder", "bet"], 1, "no node is known to hold bet; did you mean beat?"),
            (&["--node", "web-*", "--all"], 2, "exclude each other"),
        ] {
            let said = ask(&[&["numprocesses", "web"], words].concat());
            assert_eq!(said.code, code, "{words:?} at {door}: {said:?}");
            assert!(said.err.contains(why), "{words:?} at {door}: {said:?}");
        }
        // What acts reaches those alone.
        ask(&["incr", "web", "--node", "web-*", "--waiting"]).expect(0);
        assert_eq!(nodes.agents.iter().map(|agent| agent.pids("web").len()).collect::<Vec<_>>(), [1, 2, 2], "{door}");
        ask(&["decr", "web", "-l", "role=web", "--waiting"]).expect(0);
        assert_eq!(nodes.agents.iter().map(|agent| agent.pids("web").len()).collect::<Vec<_>>(), [1, 1, 1], "{door}");
    }
    // What the registry says of the machine, and of what it has to do, is of now.
    wait_for("the registry to know", || (nodes.row("web-1")["wanted"]["web"] == 1).then_some(()));
    let row = nodes.row("web-1");
    let (used, all) = (row["memory_used"].as_u64().unwrap(), row["memory"].as_u64().unwrap());
    assert!(row["cores"].as_u64().unwrap() > 0 && 0 < used && used < all && row["load"].is_number(), "{row}");
    assert_eq!((&row["protocol"], &row["differs"]), (&1.into(), &false.into()), "{row}");
    wait_for("the numbers of a heartbeat", || (nodes.row("web-1")["processes"].as_u64()? >= 1).then_some(()));
    let table = nodes.here(&["nodes"]).expect(0).out;
    assert!(table.contains("db-1 *") && table.contains("zone=b") && !table.contains("differs"), "{table}");

    // Nobody is hit for want of a word.
    let refused = nodes.over_redis(&["incr", "web"]).expect(2);
    assert!(refused.err.contains("say where to incr"), "{refused:?}");

    // A label that the file changes is the node's own at once, and everybody's soon.
    nodes
        .home
        .configure("web-1", &format!("labels = zone=c\n[redis]\nurl = {}\nlease_ttl = 2s\n{web}", nodes.redis.url()));
    nodes.agent("web-1").ctl(&nodes.home, &["reloadconfig", "--waiting"]).expect(0);
    let said = nodes.agent("web-1").ctl(&nodes.home, &["numwatchers", "--json", "-l", "zone=c"]).expect(0);
    assert_eq!(named(&said), ["web-1"]);
    wait_for("the others to see it", || {
        (named(&nodes.here(&["numwatchers", "--json", "-l", "zone=c"])) == ["web-1"]).then_some(())
    });
}

#[test]
fn a_process_that_may_run_anywhere_goes_to_one_node_that_has_room() {
    let web = "\n[watcher:web]\ncmd = sleep 600\nmax_per_node = 3\n";
    let nodes = Nodes::start(&[("a", "labels = zone=a"), ("b", "labels = zone=b"), ("c", "labels = zone=b")], web);
    nodes.agents.iter().for_each(|agent| agent.comes_to("web", "active"));
    let counts = || nodes.agents.iter().map(|agent| agent.pids("web").len()).collect::<Vec<_>>();
    let known = |wanted: [u64; 3]| {
        wait_for("the registry to know", || {
            let rows = nodes.rows();
            let known = |(row, wanted): (&Value, u64)| row["wanted"]["web"] == wanted && row["cores"] != 0;
            rows.iter().zip(wanted).all(known).then_some(())
        });
    };
    known([1, 1, 1]);
    let here = |words: &[&str]| nodes.here(words);
    let over_redis = |words: &[&str]| nodes.over_redis(words);
    let doors: [Door<'_>; 2] = [&here, &over_redis];
    let place = |at: usize, words: &[&str]| {
        let words = [&["incr", "web", "--waiting", "--json", "--any"], words].concat();
        let named = named(&doors[at % 2](&words).expect(0));
        assert_eq!(named.len(), 1, "{named:?}");
        named[0].clone()
    };
    // Spread: a round before anyone has a second one more.
    let mut round = Vec::new();
    for at in 0..3 {
        round.push(place(at, &["spread"]));
        let wanted = ["a", "b", "c"].map(|node| 1 + u64::from(round.iter().any(|placed| placed == node)));
        known(wanted);
        assert_eq!(counts(), wanted.map(|count| usize::try_from(count).unwrap()), "{round:?}");
    }
    // Packed: what has most gets more, until it has as many as it may.
    nodes.here(&["incr", "web", "--node", "c", "--waiting"]).expect(0);
    known([2, 2, 3]);
    nodes.here(&["decr", "web", "--node", "a", "--waiting"]).expect(0);
    known([1, 2, 3]);
    assert_eq!(place(0, &["pack"]), "b");
    known([1, 3, 3]);
    // The least loaded of those that are meant and have room.
    assert_eq!(place(1, &["-l", "zone=a"]), "a");
    known([2, 3, 3]);
    assert_eq!(place(0, &[]), "a");
    known([3, 3, 3]);
    for ask in doors {
        let full = ask(&["incr", "web", "--any"]).expect(1);
        assert!(full.err.contains("no node can take web: a has 3 of 3 at most, b has 3"), "{full:?}");
    }
    // Nor does a node take more by itself.
    let full = nodes.here(&["incr", "web"]).expect(1);
    assert!(full.err.contains("web may have 3 processes on a node (max_per_node), not 4"), "{full:?}");
    let full = nodes.here(&["set", "web", "numprocesses", "4"]).expect(1);
    assert!(full.err.contains("cannot have 4 processes and 3 at most"), "{full:?}");
    assert_eq!(counts(), [3, 3, 3]);

    // A start goes where it is stopped, a new one where there is none of its name.
    nodes.here(&["stop", "web", "--node", "b", "--waiting"]).expect(0);
    wait_for("the registry to know", || nodes.row("b")["wanted"]["web"].is_null().then_some(()));
    assert_eq!(named(&nodes.over_redis(&["start", "web", "--any", "--waiting", "--json"]).expect(0)), ["b"]);
    let add = |ask: Door<'_>| {
        let said = ask(&["add", "--start", "--waiting", "--json", "--any=pack", "-l", "zone=b", "job", "sleep", "600"]);
        named(&said.expect(0))[0].clone()
    };
    let first = add(&here);
    wait_for("the registry to know", || (nodes.row(&first)["wanted"]["job"] == 1).then_some(()));
    let mut both = [first, add(&over_redis)];
    both.sort();
    assert_eq!(both, ["b", "c"]);
    let refused = nodes.here(&["stop", "web", "--any"]).expect(1);
    assert!(refused.err.contains("only incr, start and add"), "{refused:?}");
}

#[test]
fn processes_that_are_placed_at_the_same_time_find_the_room_that_there_is() {
    let web = "\n[watcher:web]\ncmd = sleep 600\nmax_per_node = 4\n";
    let nodes = Nodes::start(&[("a", ""), ("b", "")], web);
    nodes.agents.iter().for_each(|agent| agent.comes_to("web", "active"));
    wait_for("the registry to know", || {
        nodes.rows().iter().all(|row| row["wanted"]["web"] == 1 && row["cores"] != 0).then_some(())
    });
    // All of them would have it on a, which has room for three.
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let asking = [(); 6].map(|()| scope.spawn(|| nodes.over_redis(&["incr", "web", "--any", "pack"]).code));
        asking.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    assert_eq!(codes, [0; 6]);
    nodes.agents.iter().for_each(|agent| {
        wait_for("four of them", || (agent.pids("web").len() == 4).then_some(()));
    });
}

#[test]
fn a_plan_of_several_nodes_is_told_once_and_says_whose_file_is_another() {
    let web = "\n[watcher:web]\ncmd = sleep 600\n";
    let nodes = Nodes::start(&[("a", "labels = zone=a"), ("b", "labels = zone=b"), ("c", "")], web);
    let plan = |words: &[&str]| nodes.here(&[&["plan", "--all"], words].concat()).expect(0);
    assert_eq!(plan(&[]).out, "a, b, c  (the same)\nnothing to do\n");
    // What is each node's own makes no difference.
    for (node, labels) in [("a", "labels = zone=a"), ("b", "labels = zone=b")] {
        let redis = format!("\n[redis]\nurl = {}\nlease_ttl = 2s\n", nodes.redis.url());
        nodes.home.configure(node, &format!("{labels}{redis}{web}graceful_timeout = 5\n"));
    }
    let told = plan(&["--json"]).json();
    let config = |node: &str| told["nodes"][node]["config"].as_str().expect("a hash").to_owned();
    assert!(config("a") == config("b") && config("a") != config("c"), "{told}");
    assert_eq!(told["nodes"]["b"]["plan"]["changes"][0]["watcher"], "web");
    let said = plan(&[]).out;
    assert!(said.starts_with("a, b  (the same)\n  ~ web   no restart\n"), "{said}");
    let drift = format!("c\nnothing to do\nthe files differ: {} on a, b; {} on c\n", config("a"), config("c"));
    assert!(said.ends_with(&drift), "{said}");
}

#[test]
fn a_drained_node_hands_over_runs_nothing_and_stays_until_it_is_undrained() {
    let config = "\n[watcher:web]\ncmd = sleep 600\n[watcher:off]\ncmd = sleep 600\nautostart = false\n\
                  [watcher:beat]\ncmd = sleep 600\nsingleton = true\n";
    let mut nodes = Nodes::start(&[("a", ""), ("b", "")], config);
    nodes.agents.iter().for_each(|agent| agent.comes_to("web", "active"));
    wait_for("the lease to be initialised", || (nodes.here(&["lease", "init", "beat"]).code == 0).then_some(()));
    let holder = wait_for("a holder that another waits for", || {
        let rows = nodes.rows();
        let with = |what: &str| {
            let has = |row: &&Value| row[what].as_array().is_some_and(|names| !names.is_empty());
            Some(rows.iter().find(has)?["name"].as_str()?.to_owned())
        };
        with("waits").and(with("holds"))
    });
    let other = if holder == "a" { "b" } else { "a" };
    nodes.agent(&holder).ctl(&nodes.home, &["start", "off", "--waiting"]).expect(0);

    // Asked anywhere, it ends when nothing runs there any more.
    nodes.over_redis(&["drain", "--node", &holder, "--wait"]).expect(0);
    let drained = nodes.agent(&holder);
    for watcher in ["web", "off", "beat"] {
        assert_eq!((drained.pids(watcher), drained.watcher(watcher)["state"].as_str()), (vec![], Some("stopped")));
    }
    nodes.agent(other).comes_to("beat", "active");
    nodes.agent(other).comes_to("web", "active");

    // It is there, and everybody sees how it is.
    wait_for("the registry to know", || (nodes.row(&holder)["state"] == "draining").then_some(()));
    let status = drained.ctl(&nodes.home, &["status", "--json"]).json();
    assert_eq!(status["phase"], "drained");
    let why = drained.ctl(&nodes.home, &["explain", "web"]).out;
    assert!(why.contains("it is drained") && why.contains(&format!("circusctl undrain --node {holder}")), "{why}");

    // Nothing starts there, whoever asks, and nothing is placed or moved there.
    for words in [&["start", "web"][..], &["restart"], &["reload", "web"], &["add", "--start", "job", "sleep", "600"]] {
        let refused = drained.ctl(&nodes.home, words).expect(1);
        assert!(refused.err.contains(&format!("circusctl undrain --node {holder}")), "{words:?}: {refused:?}");
    }
    drained.ctl(&nodes.home, &["add", "job", "sleep", "600"]).expect(0);
    nodes.home.configure(
        &holder,
        &format!("[redis]\nurl = {}\nlease_ttl = 2s\n{config}\n[watcher:new]\ncmd = sleep 600\n", nodes.redis.url()),
    );
    drained.ctl(&nodes.home, &["reloadconfig", "--waiting"]).expect(0);
    assert_eq!(drained.watcher("new")["state"], "stopped");
    let placed = nodes.here(&["incr", "web", "--any", "spread", "--json"]).expect(0);
    assert_eq!(named(&placed), [other]);
    let refused = nodes.agent(other).ctl(&nodes.home, &["failover", "beat", "--to", &holder]).expect(1);
    assert!(refused.err.contains(&format!("{holder} cannot take beat")), "{refused:?}");

    // What the drain stopped runs again, also what somebody had started.
    nodes.over_redis(&["undrain", "--node", &holder, "--wait"]).expect(0);
    let drained = nodes.agent(&holder);
    for (watcher, state) in [("web", "active"), ("new", "active"), ("beat", "standby"), ("off", "active")] {
        assert_eq!(drained.watcher(watcher)["state"], state, "{watcher}");
    }
    wait_for("the registry to know", || (nodes.row(&holder)["state"] == "up").then_some(()));

    // An agent that is started anew is not drained.
    drained.ctl(&nodes.home, &["drain", "--waiting"]).expect(0);
    let at = nodes.agents.iter().position(|agent| agent.name == holder).unwrap();
    let mut old = nodes.agents.remove(at);
    old.signal(libc::SIGTERM);
    old.exits(0);
    let mut anew = nodes.home.launch(&holder, &[]);
    anew.answers();
    anew.comes_to("web", "active");
}
