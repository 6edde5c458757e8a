//! What nodes use, and the streams of all nodes together: real agents, a real Redis, the real circusctl.

use std::collections::BTreeSet;

use circus_agent::model::stats::History;
use circus_agent::wire::{parse_history, parse_node_stats};

use super::*;

const TICKING: &str = "\n[watcher:web]\ncmd = sh -c \"while :; do echo tick; sleep 0.1; done\"\n\
                       stdout_stream.class = QueueStream\n[watcher:idle]\ncmd = sleep 1000\n";

fn config(redis: &RedisServer) -> String {
    format!("cluster = prod{TICKING}[redis]\nurl = {}\n", redis.url())
}

fn unix(agent: &agent::Agent) -> String {
    format!("unix://{}", agent.socket.display())
}

/// The nodes of the next lines, until there is one of each of these, and of no others.
#[track_caller]
fn hears(ctl: &Ctl, nodes: &[&str]) {
    let mut heard = BTreeSet::new();
    wait_for("a line of each node", || {
        let line = ctl.says_json();
        heard.insert(line["node"].as_str().unwrap_or_else(|| panic!("no node in {line}")).to_owned());
        (heard.len() == nodes.len()).then_some(())
    });
    // Two rounds more: whoever is not meant would have been heard.
    for _ in 0..4 * nodes.len() {
        heard.insert(ctl.says_json()["node"].as_str().expect("a node").to_owned());
    }
    assert_eq!(heard.iter().map(String::as_str).collect::<Vec<_>>(), nodes);
}

#[test]
fn what_an_agents_processes_use_comes_each_second_and_narrowed_to_who_is_named() {
    let home = Home::new();
    let agent = home.agent("web-1", TICKING);
    let all = Ctl::start(&unix(&agent), "--json stats -f");
    let web = Ctl::start(&unix(&agent), "--json stats --follow w*");
    let first = all.says();
    assert!(parse_history(&first).is_some(), "who begins gets the past: {first}");
    let frame = parse_node_stats(&all.says()).unwrap();
    assert_eq!(frame.node.as_str(), "web-1");
    assert!(frame.machine.cores > 0 && frame.machine.memory_used > 0, "{frame:?}");
    let names: Vec<_> = frame.watchers.iter().map(|watcher| watcher.name.as_str()).collect();
    assert_eq!(names, ["idle", "web"]);
    let idle = &frame.watchers[0].processes[0];
    assert_eq!((vec![idle.pid], idle.program.as_str()), (agent.pids("idle"), "sleep"));
    assert!(idle.used.resident > 0 && idle.used.descriptors.is_some(), "{idle:?}");
    let narrowed = parse_node_stats(&web.says()).unwrap();
    assert_eq!(narrowed.watchers.len(), 1);
    drop(web);

    let table = Ctl::start(&unix(&agent), "stats -f idle");
    assert!(table.says().starts_with("WATCHER"));
    assert!(table.says().starts_with("idle "));
    assert!(table.says().starts_with("web-1: 1 process, "));
    assert_eq!(table.says(), "", "frames stand apart");
}

#[test]
fn each_node_is_heard_over_redis_and_over_any_agents_socket() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let (a, _b) = (home.agent("a", &config(&redis)), home.agent("b", &config(&redis)));
    let (redis, socket) = (redis.url(), unix(&a));
    for (words, watcher) in [("stats -f", None), ("logs -f web", Some("web")), ("logs -f", Some("web"))] {
        let streams = [
            (&redis, String::new(), &["a", "b"][..]),
            (&socket, "--all ".into(), &["a", "b"]),
            (&redis, "--node b ".into(), &["b"]),
            (&socket, "--node b ".into(), &["b"]),
        ];
        // All at once: none may take from the others.
        let streams =
            streams.map(|(endpoint, of, nodes)| (Ctl::start(endpoint, &format!("--json {of}{words}")), nodes));
        for (stream, nodes) in &streams {
            let line = stream.says_json();
            assert!(watcher.is_none_or(|watcher| line["watcher"] == watcher), "{line}");
            assert!(watcher.is_some() || parse_node_stats(&line.to_string()).is_ok(), "{line}");
            hears(stream, nodes);
        }
    }
    let people = Ctl::start(&socket, "--node b logs -f");
    assert_eq!(people.says(), "b web#1 | tick");
    let events = Ctl::start(&socket, "--json --all events -f");
    wait_for("an event of b", || {
        home.ctl(&["--endpoint", &redis, "--cluster", "prod", "--node", "b", "restart", "idle"]).expect(0);
        events.out.recv_timeout(Duration::from_millis(200)).ok().filter(|line| line.contains("\"node\":\"b\""))
    });
}

#[test]
fn a_stream_comes_from_the_nodes_with_a_label_or_from_the_holder_of_a_singleton() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let config = |labels: &str| {
        let beat = "[watcher:beat]\ncmd = sleep 1000\nsingleton = true\n";
        format!("labels = {labels}\n{}lease_ttl = 2s\n{beat}", config(&redis))
    };
    let agents = [("a", "zone=x"), ("b", "zone=y,role=web"), ("c", "zone=y")];
    let agents = agents.map(|(name, labels)| home.agent(name, &config(labels)));
    let over_redis = ["--endpoint", &redis.url(), "--cluster", "prod"];
    let rows = || home.ctl(&[&over_redis[..], &["--json", "nodes"]].concat()).json()["roster"].clone();
    wait_for("all nodes to be registered", || (rows().as_array()?.len() == 3).then_some(()));
    wait_for("the lease to be initialised", || {
        (agents[0].ctl(&home, &["lease", "init", "beat"]).code == 0).then_some(())
    });
    let holder = wait_for("a holder", || {
        let rows = rows();
        let holds = |row: &&Value| row["holds"].as_array().is_some_and(|holds| !holds.is_empty());
        Some(rows.as_array()?.iter().find(holds)?["name"].as_str()?.to_owned())
    });
    for endpoint in [redis.url(), unix(&agents[0])] {
        for (words, nodes) in [
            ("-l zone=y logs -f web", &["b", "c"][..]),
            ("--node a,b --label role logs -f web", &["b"]),
            ("--holder Beat stats -f", &[holder.as_str()]),
        ] {
            hears(&Ctl::start(&endpoint, &format!("--json {words}")), nodes);
        }
        let refused = |words: &str| {
            let words: Vec<&str> =
                ["--endpoint", &endpoint, "--cluster", "prod"].into_iter().chain(words.split(' ')).collect();
            home.ctl(&words)
        };
        for (words, code, why) in [
            ("-l zone=z events -f", 1, "no node has zone=z"),
            ("--holder bet events -f", 1, "no node is known to hold bet; did you mean beat?"),
            ("-l zone=y events", 2, "follow it with -f"),
            ("logs -f --any", 2, "leave --any out"),
            ("--all --holder beat logs -f", 2, "exclude each other"),
        ] {
            let said = refused(words).expect(code);
            assert!(said.err.contains(why), "{words}: {said:?}");
        }
    }
}

#[test]
fn hooks_find_the_socket_on_which_the_statistics_of_the_cluster_are_told() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let (told, script) = (home.file("told"), "printf %s \"$CIRCUS_STATS_SOCKET\" >$1");
    let hook = home.script("hook", script);
    let config = config(&redis)
        .replace("sleep 1000\n", &format!("sleep 1000\nhooks.before_start = cmd: {hook} {}\n", told.display()));
    let agent = home.agent("a", &config);
    let socket = wait_for("the hook", || std::fs::read_to_string(&told).ok().filter(|path| !path.is_empty()));
    assert_eq!(Path::new(&socket), agent.socket);
    let asked = json!({"command": "stats", "properties": {"follow": true, "all": true}, "id": 7});
    let mut line = agent.connect();
    assert_eq!(line.ask(&asked.to_string()).expect("a reply")["status"], "ok");
    let frame = line.read().expect("a frame");
    assert_eq!((&frame["node"], &frame["id"]), (&json!("a"), &json!(7)));
}

#[test]
fn who_begins_to_watch_gets_the_past_of_every_node() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let (a, _b) = (home.agent("a", &config(&redis)), home.agent("b", &config(&redis)));
    // It watches long enough for a step of the history to be over.
    let first = Ctl::start(&redis.url(), "--json stats -f");
    wait_for("a step to end", || {
        first.says();
        let late = Ctl::start(&unix(&a), "--json --all stats -f");
        let frames = [late.says(), late.says(), late.says()];
        let pasts = frames.iter().filter_map(|frame| parse_history(frame));
        let seen =
            |past: &History| past.watchers.iter().any(|(name, past)| *name == watcher("web") && !past.is_empty());
        (pasts.filter(seen).count() >= 2).then_some(())
    });
}

#[test]
fn what_is_too_long_to_be_taken_is_missed_aloud_and_once() {
    let redis = RedisServer::start();
    let home = Home::new();
    let agent = home.agent("web-1", &config(&redis));
    let web = Ctl::start(&unix(&agent), "--json stats -f --all");
    hears(&web, &["web-1"]);
    let flood = "x".repeat(circus_agent::wire::MAX_FRAME + 1);
    for _ in 0..2 {
        redis.command(&["PUBLISH", "circus:{prod}:stats", &flood]);
    }
    let note = wait_for("a note", || web.says_json()["note"].as_str().map(str::to_owned));
    assert_eq!(note, "a message of 4194305 bytes was dropped: the most is 4194304");
    // Frames go on to come, and the second one is not told of.
    hears(&web, &["web-1"]);
    // A node whose own frame is too long says that in place of it.
    let told = circus_agent::wire::untold_json(&circus_agent::model::names::NodeName::parse("web-2").unwrap(), 5 << 20);
    redis.command(&["PUBLISH", "circus:{prod}:stats", &told.to_string()]);
    let note = wait_for("a note of web-2", || web.says_json()["note"].as_str().map(str::to_owned));
    assert_eq!(note, "what web-2 uses takes 5.0 MiB to tell, and 4 are the most: it is not shown");
}

/// How often clients have published since the server began.
fn published(redis: &RedisServer) -> u64 {
    let stats = redis.text(&["INFO", "commandstats"]).expect("statistics");
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// Waits until the node has given so many signs of life more.
fn beats(redis: &RedisServer, count: usize) {
    let seen = || redis.text(&["HGET", "circus:{prod}:node:a", "seen"]);
    for _ in 0..count {
        let before = seen();
        wait_for("a heartbeat", || (seen() != before).then_some(()));
    }
}

#[test]
fn nobody_watching_nothing_is_published() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let agent = home.agent("a", &config(&redis));
    agent.comes_to("web", "active");
    // Somebody here is nobody there.
    let _here = Ctl::start(&unix(&agent), "--json stats -f");
    beats(&redis, 1);
    let before = published(&redis);
    beats(&redis, 2);
    assert_eq!(published(&redis), before);
    let watching = Ctl::start(&redis.url(), "--json stats -f");
    let reading = Ctl::start(&redis.url(), "--json logs -f");
    for stream in [&watching, &reading] {
        stream.says();
    }
    drop((watching, reading));
    // Its last word is 12 s old at some time; until then it is as if it were still there.
    wait_within(2 * PATIENCE, "silence", || {
        let before = published(&redis);
        beats(&redis, 1);
        (published(&redis) == before).then_some(())
    });
}

#[test]
fn redis_gone_is_said_in_a_stream_of_all_nodes_and_its_return_too() {
    let (home, mut redis) = (Home::new(), RedisServer::start());
    let agent = home.agent("a", &config(&redis));
    let stream = Ctl::start(&unix(&agent), "--json --all stats -f");
    hears(&stream, &["a"]);
    redis.restart_empty();
    let mut notes =
        std::iter::repeat_with(|| stream.says_json()).filter_map(|line| line["note"].as_str().map(str::to_owned));
    assert!(notes.next().unwrap().ends_with("; waiting for its return"));
    assert!(notes.next().unwrap().starts_with("Redis is reached again"));
    hears(&stream, &["a"]);
}

#[test]
fn a_plugin_judges_what_the_whole_cluster_uses_together() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let a = home.agent("a", &config(&redis));
    let size = wait_for("what one of them uses", || {
        let stats = a.ask(&json!({"command": "stats", "properties": {"name": "idle"}}));
        let (_, info) = stats["info"].as_object()?.iter().next()?;
        info["mem"].as_f64().filter(|size| *size > 0.0)
    });
    // One of them is within it, two together are not.
    let limit = 1.5 * size;
    let plugin = format!(
        "[plugin:sum]\nuse = circus.plugins.resource_watcher.ResourceWatcher\nwatcher = idle\nmax_mem = {limit}\n\
         max_cpu = 0\nhealth_threshold = 0\nmax_count = 0\nloop_rate = 0.2\nwhole_cluster = True\n"
    );
    let b = home.agent("b", &(config(&redis) + &plugin));
    b.logs("idle: over_memory: the whole cluster uses ");
    assert!(!a.log().contains("over_memory"), "{}", a.log());
}
