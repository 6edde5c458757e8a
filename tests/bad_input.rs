//! What a cluster meets that nobody wishes for, with real agents and a real Redis: strangers in the same Redis, agents of
//! other versions, nodes that die in the middle of a command, a registry full of the dead, messages without end.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use agent::{Agent, Home, PATIENCE, Said, wait_for};
use redis_server::RedisServer;

/// Asks at one of the two doors that lead to all nodes.
type Door<'a> = &'a dyn Fn(&[&str]) -> Said;

fn over_redis(home: &Home, redis: &RedisServer, words: &[&str]) -> Said {
    home.ctl(&[&["--endpoint", &redis.url()], words].concat())
}

fn redis_section(redis: &RedisServer) -> String {
    format!("[redis]\nurl = {}\nlease_ttl = 2s\n", redis.url())
}

/// Writes a row of the registry by hand, as a node would that was heard of now.
fn register(redis: &RedisServer, name: &str, about: &Value) {
    let script = "local now = redis.call('TIME')[1] * 1000 redis.call('ZADD', KEYS[1], now, ARGV[1]) \
                  redis.call('HSET', KEYS[2], 'instance', 'x', 'seen', now, 'state', 'up', 'about', ARGV[2]) return 1";
    let (nodes, row) = ("circus:{default}:nodes", format!("circus:{{default}}:node:{name}"));
    redis.command(&["EVAL", script, "2", nodes, &row, name, &about.to_string()]);
}

/// What a stream shows first of a watcher: the line as JSON.
fn first_line(home: &Home, words: &[&str]) -> Value {
    let mut follower =
        home.clean(env!("CARGO_BIN_EXE_circusctl"), words).stdout(Stdio::piped()).spawn().expect("circusctl");
    let mut line = String::new();
    BufReader::new(follower.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    follower.kill().and_then(|()| follower.wait()).expect("its end");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn two_clusters_on_one_redis_with_the_same_names_know_nothing_of_each_other() {
    let redis = RedisServer::start();
    let watchers = "[watcher:web]\ncmd = sleep 600\n[watcher:beat]\ncmd = sleep 600\nsingleton = true\n";
    let clusters = ["red", "blue"].map(|cluster| {
        let home = Home::new();
        let config = format!("cluster = {cluster}\n\n{}{watchers}", redis_section(&redis));
        let agents = ["a", "b"].map(|name| home.agent(name, &config));
        (cluster, home, agents)
    });
    let ask = |at: usize, words: &[&str]| {
        let (cluster, home, _) = &clusters[at];
        over_redis(home, &redis, &[&["--cluster", *cluster], words].concat())
    };
    for (at, (_, home, agents)) in clusters.iter().enumerate() {
        agents.iter().for_each(|agent| agent.comes_to("web", "active"));
        let sockets: String =
            agents.iter().map(|agent| format!("{}: unix://{}\n", agent.name, agent.socket.display())).collect();
        wait_for("its own nodes, and no others", || (ask(at, &["nodelist"]).out == sockets).then_some(()));
        // Neither lease is in the way of the other.
        wait_for("the lease to be initialised", || {
            (agents[0].ctl(home, &["lease", "init", "beat"]).code == 0).then_some(())
        });
        wait_for("a holder", || agents.iter().any(|agent| !agent.pids("beat").is_empty()).then_some(()));
    }
    let pids = |at: usize| clusters[at].2.each_ref().map(|agent| [agent.pids("web"), agent.pids("beat")].concat());
    let before = pids(1);
    assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 3);

    // What one is told to do, the other does not.
    ask(0, &["incr", "web", "--all", "--waiting"]).expect(0);
    ask(0, &["stop", "beat", "--all", "--waiting"]).expect(0);
    clusters[0].2[0].ctl(&clusters[0].1, &["drain", "--node", "b", "--waiting"]).expect(0);
    assert_eq!(pids(1), before);
    let rows = ask(1, &["nodes", "--json"]).expect(0).json();
    assert!(rows["roster"].as_array().expect("rows").iter().all(|row| row["state"] == "up"), "{rows}");

    // Nor is it seen or measured there.
    for (at, (cluster, home, _)) in clusters.iter().enumerate() {
        let url = redis.url();
        let words = ["--endpoint", &url, "--cluster", cluster, "--json", "stats", "-f", "--node", "a"];
        let frame = first_line(home, &words).to_string();
        let [own, other] = [pids(at), pids(1 - at)];
        assert!(own[0].iter().all(|pid| frame.contains(&pid.to_string())), "{own:?} {frame}");
        assert!(!other[0].iter().any(|pid| frame.contains(&format!("\"pid\":{pid},"))), "{other:?} {frame}");
    }
    // A holder that ends is followed by one of its own cluster.
    let holder = wait_for("a holder", || clusters[1].2.iter().find(|agent| !agent.pids("beat").is_empty()));
    holder.ctl(&clusters[1].1, &["failover", "beat"]).expect(0);
    let after = wait_for("the next holder", || clusters[1].2.iter().find(|agent| !agent.pids("beat").is_empty()));
    assert_ne!(after.name, holder.name);
    assert!(clusters[0].2.iter().all(|agent| agent.pids("beat").is_empty()));
}

#[test]
fn an_agent_one_protocol_on_is_asked_and_one_two_on_is_named() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let agent = home.agent("a", &format!("\n{}[watcher:web]\ncmd = sleep 600\n", redis_section(&redis)));
    // One of the next version, which answers on its channel as agents do.
    let mut listener = redis::Client::open(redis.url()).and_then(|it| it.get_connection()).expect("redis");
    let mut speaker = redis::Client::open(redis.url()).and_then(|it| it.get_connection()).expect("redis");
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let mut ear = listener.as_pubsub();
        ear.subscribe("circus:{default}:bus:next").expect("a subscription");
        ready.send(()).expect("the test waits");
        while let Ok(message) = ear.get_message() {
            let asked: Value = serde_json::from_slice(message.get_payload_bytes()).expect("a question");
            let reply = json!({"status": "ok", "version": "9.9.9"}).to_string();
            let answer = json!({"v": 1, "re": asked["id"], "from": "next", "message": reply}).to_string();
            let to = asked["reply_to"].as_str().expect("a channel");
            redis::cmd("PUBLISH").arg(to).arg(answer).query::<u64>(&mut speaker).expect("PUBLISH");
        }
    });
    is_ready.recv().expect("a subscription");
    wait_for("its own row", || over_redis(&home, &redis, &["nodes"]).out.contains('a').then_some(()));

    let here = |words: &[&str]| agent.ctl(&home, words);
    let redis_door = |words: &[&str]| over_redis(&home, &redis, words);
    let doors: [Door<'_>; 2] = [&here, &redis_door];
    for ask in doors {
        register(&redis, "next", &json!({"version": "9.9.9", "v": 2}));
        register(&redis, "later", &json!({"version": "10.0.0", "v": 3}));
        let said = ask(&["version", "--all"]).expect(4);
        assert!(said.out.contains("next: 9.9.9\n") && said.out.contains("a: "), "{said:?}");
        assert_eq!(said.err, "error: later: it speaks protocol 3, and this side 1: upgrade the older one first\n");
        let nodes = ask(&["nodes"]).expect(0).out;
        assert!(nodes.contains("agents of protocol 3 cannot be asked from here, which is 1\n"), "{nodes}");
    }
}

#[test]
fn a_node_that_dies_in_the_middle_of_a_command_is_named_in_the_time_agreed() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let stubborn = home.script("stubborn", "trap '' TERM; while :; do sleep 1; done\n");
    let config = |cmd: &str| format!("\n{}[watcher:web]\ncmd = {cmd}\ngraceful_timeout = 600\n", redis_section(&redis));
    for by_redis in [false, true] {
        let a = home.agent("a", &config("sleep 600"));
        let mut b = home.agent("b", &config(&stubborn));
        [&a, &b].iter().for_each(|agent| agent.comes_to("web", "active"));
        wait_for("both to be known", || (a.ctl(&home, &["nodelist"]).out.lines().count() == 2).then_some(()));
        let endpoint = if by_redis { redis.url() } else { format!("unix://{}", a.socket.display()) };
        let words = ["--endpoint", &endpoint, "--all", "--timeout", "3", "--yes", "--quiet", "stop", "--waiting"];
        let begun = Instant::now();
        let mut command = home.clean(env!("CARGO_BIN_EXE_circusctl"), &words);
        let asked = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("circusctl");
        b.comes_to("web", "stopping");
        let orphans = b.pids("web");
        b.kill();
        let said = asked.wait_with_output().expect("circusctl to end");
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert_eq!(said.status.code(), Some(4), "{out}{err}");
        assert_eq!((&*out, &*err), ("a: ok\n", "error: b: no answer within 3 s\n"));
        assert!(begun.elapsed() >= Duration::from_secs(3), "it was given its time");
        // What is no singleton outlives its agent.
        drop((a, b));
        for pid in orphans {
            // SAFETY: a system call that takes plain numbers; the process group is that of our own child.
            unsafe { libc::kill(-i32::try_from(pid).expect("a pid"), libc::SIGKILL) };
        }
        home.is_clean();
    }
}

/// How many nodes were there once.
const DEAD: usize = 10_000;

#[test]
fn ten_thousand_dead_nodes_keep_nobody_from_the_living() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let agent = home.agent("a", &format!("\n{}[watcher:web]\ncmd = sleep 600\n", redis_section(&redis)));
    agent.comes_to("web", "active");
    wait_for("its own row", || (agent.ctl(&home, &["nodelist"]).out.lines().count() == 1).then_some(()));
    // Heard of half a minute ago: stale for another half.
    let script = "local now = redis.call('TIME')[1] * 1000 - 20000 for i = 1, ARGV[1] do \
                  local name = string.format('dead-%05d', i) redis.call('ZADD', 'circus:{default}:nodes', now, name) \
                  redis.call('HSET', 'circus:{default}:node:' .. name, 'instance', 'x', 'seen', now, 'state', 'up', \
                  'about', '{\"version\":\"0.1.0\",\"host\":\"old\",\"v\":1}') end return 1";
    let here = |words: &[&str]| agent.ctl(&home, words);
    let redis_door = |words: &[&str]| over_redis(&home, &redis, words);
    let doors: [Door<'_>; 2] = [&here, &redis_door];
    for ask in doors {
        redis.command(&["EVAL", script, "0", &DEAD.to_string()]);
        let nodes = ask(&["nodes"]).expect(0);
        let lines: Vec<&str> = nodes.out.lines().collect();
        assert!(lines.len() < 40, "{} lines", lines.len());
        assert!(lines.iter().any(|line| line.starts_with('a') && line.contains("up")), "{}", nodes.out);
        assert!(nodes.out.contains("more are stale or gone; --json shows all"), "{}", nodes.out);
        let all = ask(&["nodes", "--json"]).expect(0).json();
        assert_eq!(all["roster"].as_array().map(Vec::len), Some(DEAD + 1));

        let status = ask(&["status", "--all", "--timeout", "15"]).expect(4);
        assert!(status.out.contains("1 of 10001 nodes answered"), "{}", status.out);
        assert!(status.out.contains("all who answered are well"), "{}", status.out);
        assert!(status.out.lines().count() < 40, "{} lines", status.out.lines().count());
        assert!(status.err.lines().count() < 20, "{} lines of errors", status.err.lines().count());
        assert!(status.err.contains(" more: nobody listens"), "{}", &status.err[..status.err.len().min(2_000)]);
        // Who is alive is asked, and answers, among all those who do not.
        assert!(ask(&["version", "--all", "--timeout", "15"]).expect(4).out.contains("a: "));
    }
    // They are forgotten with their rows, by whoever lists them next.
    let expire =
        "for i = 1, ARGV[1] do redis.call('PEXPIRE', string.format('circus:{default}:node:dead-%05d', i), 1) end";
    redis.command(&["EVAL", expire, "0", &DEAD.to_string()]);
    wait_for("them to be forgotten", || {
        let left = here(&["nodelist"]).expect(0).out.lines().count();
        (left == 1 && redis.number(&["ZCARD", "circus:{default}:nodes"]) == 1).then_some(())
    });
    here(&["status", "--all"]).expect(0);
}

/// Many times what is taken.
const ENDLESS: usize = 100 << 20;
/// By how much an agent may grow over it: not by the message. What the allocator keeps is some of it.
const GROWTH: u64 = 64 << 20;

fn is_well(agent: &Agent, home: &Home, redis: &RedisServer, memory: u64) {
    wait_for("an answer over Redis", || (over_redis(home, redis, &["version", "--node", "a"]).code == 0).then_some(()));
    assert_eq!(agent.ask(&json!({"command": "numwatchers"}))["numwatchers"], 1);
    wait_for("its memory to be its own again", || (agent.memory().saturating_sub(memory) < GROWTH).then_some(()));
}

#[test]
fn a_message_of_a_hundred_megabytes_at_the_control_socket_is_refused_while_others_are_answered() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let agent = home.agent("a", &format!("\n{}[watcher:web]\ncmd = sleep 600\n", redis_section(&redis)));
    is_well(&agent, &home, &redis, agent.memory());
    let memory = agent.memory();
    let mut endless = UnixStream::connect(&agent.socket).expect("the control socket");
    endless.set_write_timeout(Some(PATIENCE)).expect("a time-out");
    let piece = vec![b'x'; 1 << 20];
    let mut written = 0;
    // One line of it; meanwhile others are answered. Whether the agent reads on or hangs up is its own affair.
    while written < ENDLESS && endless.write_all(&piece).is_ok() {
        written += piece.len();
        assert_eq!(agent.ask(&json!({"command": "numwatchers"}))["numwatchers"], 1);
        assert!(agent.memory().saturating_sub(memory) < GROWTH, "after {written} bytes");
    }
    let _ = endless.write_all(b"\n");
    let mut reply = String::new();
    endless.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let _ = BufReader::new(&endless).read_line(&mut reply);
    assert!(reply.contains("\"status\":\"error\"") || written < ENDLESS, "{written} bytes were taken: {reply}");
    is_well(&agent, &home, &redis, memory);
}

#[test]
fn a_message_of_a_hundred_megabytes_through_redis_harms_no_agent() {
    // Where Redis has its usual bound for subscribers, it hangs up on them; without one the message comes through.
    for bound in [None, Some("pubsub 0 0 0")] {
        let (home, redis) = (Home::new(), RedisServer::start());
        if let Some(bound) = bound {
            redis.command(&["CONFIG", "SET", "client-output-buffer-limit", bound]);
        }
        let agent = home.agent("a", &format!("\n{}[watcher:web]\ncmd = sleep 600\n", redis_section(&redis)));
        is_well(&agent, &home, &redis, agent.memory());
        let memory = agent.memory();
        let web = agent.pids("web");
        let endless = "x".repeat(ENDLESS);
        let reply = wait_for("its channel for answers", || {
            let channels: Vec<String> =
                redis::from_redis_value(redis.command(&["PUBSUB", "CHANNELS", "circus:{default}:reply:*"])).ok()?;
            channels.into_iter().next()
        });
        for channel in ["circus:{default}:bus:a", &reply, "circus:{default}:watch"] {
            redis.command(&["PUBLISH", channel, &endless]);
            assert_eq!(agent.ask(&json!({"command": "numwatchers"}))["numwatchers"], 1);
            if bound.is_some() {
                agent.logs("a message on the bus was dropped");
                agent.logs("it has 104857600 bytes, the most is 1048576");
            }
            is_well(&agent, &home, &redis, memory);
        }
        if bound.is_some() {
            let metrics = agent.ctl(&home, &["metrics"]).expect(0).out;
            assert!(metrics.contains("circus_messages_dropped_total{node=\"a\"} 3"), "{metrics}");
        }
        assert_eq!(agent.pids("web"), web);
    }
}
