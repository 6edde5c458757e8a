//! The real agent, end to end: real children, a real Redis, the real circusctl, and a witness outside of them all.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "support/witness.rs"]
mod witness;

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use agent::{Agent, Home, Line, PATIENCE, is_alive, wait_for, wait_within};
use redis_server::RedisServer;
use witness::{Life, Witness, now};

/// Of the leases in these tests, unless they say otherwise.
const TTL: Duration = Duration::from_secs(3);
/// What the specification grants beyond a ttl.
const ONE_SECOND: Duration = Duration::from_secs(1);
/// How long a planned move may take here: milliseconds, and the start of an interpreter on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// Three agents of one cluster, or however many.
struct Cluster(BTreeMap<String, Agent>);

impl Cluster {
    fn start(home: &Home, names: &[&str], config: &str) -> Cluster {
        Cluster(names.iter().map(|name| ((*name).to_owned(), home.agent(name, config))).collect())
    }

    /// The agent whose child this is.
    #[track_caller]
    fn of(&mut self, child: &Life) -> &mut Agent {
        self.0.get_mut(&child.node).unwrap_or_else(|| panic!("no agent runs as {}", child.node))
    }

    fn any(&self) -> &Agent {
        self.0.values().next().expect("an agent")
    }

    /// Skips the first ttl of a new lease.
    #[track_caller]
    fn init(&self, home: &Home) {
        // Who is asked too early has no connection yet.
        wait_for("the lease to be initialised", || {
            (self.any().ctl(home, &["lease", "init", "beat"]).code == 0).then_some(())
        });
    }

    /// How many say that they hold the lease.
    fn holders(&self) -> usize {
        self.0.values().filter(|agent| agent.lease("beat")["role"] == "holder").count()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn redis_section(url: &str) -> String {
    format!("\n[redis]\nurl = {url}\nlease_ttl = {}s\n", TTL.as_secs())
}

fn beat(witness: &Witness, options: &str) -> String {
    format!("\n[watcher:beat]\ncmd = {}\nsingleton = true\ngraceful_timeout = 1s\n", witness.command(options))
}

/// Kills the agent of this child and waits for the child's death: how long that took.
#[track_caller]
fn kill_agent_of(cluster: &mut Cluster, child: &Life) -> (u64, Duration) {
    let moment = now();
    let begun = Instant::now();
    cluster.of(child).signal(libc::SIGKILL);
    while is_alive(child.pid) {
        assert!(begun.elapsed() < PATIENCE, "{child:?} outlives its agent");
        std::thread::yield_now();
    }
    let dead = begun.elapsed();
    assert!(dead < Duration::from_millis(500), "the child outlived its agent by {dead:?}");
    cluster.of(child).ends();
    (moment, dead)
}

// ------------------------------------------------------------------------------------------------- the configuration

#[test]
fn a_bad_file_shows_every_problem_and_starts_nothing() {
    let home = Home::new();
    let started = home.file("started");
    let command = home.script("touch", &format!("touch {}", started.display()));
    let path = home.configure(
        "web",
        &format!("[watcher:a]\ncmd = {command}\nnumproceses = 2\n[watcher:b]\ncmd = x\ngraceful_timeout = soon\n[wacher:c]\ncmd = x"),
    );
    let path = path.display().to_string();
    for args in [&[&path[..]][..], &["--check", &path]] {
        let output = home.program(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{errors}");
        for problem in ["numproceses", "numprocesses", "soon", "wacher:c"] {
            assert!(errors.contains(problem), "{problem} is missing in:\n{errors}");
        }
    }
    assert!(!started.exists() && !home.file("web.sock").exists() && !home.file("state").exists());

    let path = home.configure("web", &format!("[watcher:a]\ncmd = {command}"));
    let output = home.program(&["--check", &path.display().to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!started.exists(), "--check started something");
}

// ------------------------------------------------------------------------------------------------- singletons

#[test]
fn of_three_agents_one_runs_the_singleton_whatever_ends_or_stops_its_holder() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let config = redis_section(&redis.url()) + &beat(&witness, "grace=0.1");
    let mut cluster = Cluster::start(&home, &["a", "b", "c"], &config);
    cluster.init(&home);
    let first = witness.first();
    witness.ticks(&first);
    assert_eq!(witness.running(), witness.children(), "one child");
    wait_for("one holder", || (cluster.holders() == 1).then_some(()));

    // A planned end: the child stops in order, and the next one starts at once.
    let asked = now();
    cluster.of(&first).signal(libc::SIGTERM);
    let second = witness.after(&first, SOON);
    cluster.of(&first).exits(0);
    let first = witness.children().remove(0);
    assert!(first.asked.is_some() && first.exit.is_some(), "not stopped in order: {first:?}");
    assert!(second.token > first.token);
    println!(
        "SIGTERM: the next child starts {:.1} ms after it, {:.1} ms after the end of the one before",
        milliseconds(second.started_after(asked)),
        milliseconds(first.gap_to(&second))
    );
    cluster.0.insert(first.node.clone(), home.agent(&first.node, &config));

    // A crash: the child dies with its agent, and the next one starts when the lease ends.
    witness.ticks(&second);
    let (killed, dead) = kill_agent_of(&mut cluster, &second);
    let third = witness.after(&second, PATIENCE);
    println!("SIGKILL: the child is dead after {:.1} ms", milliseconds(dead));
    println!(
        "SIGKILL: the next child starts after {:.0} ms, with a ttl of {TTL:?}",
        milliseconds(third.started_after(killed))
    );
    assert!(third.started_after(killed) < TTL + ONE_SECOND);
    assert!(third.token > second.token);
    cluster.0.insert(second.node.clone(), home.agent(&second.node, &config));

    // An agent that hangs: its guard ends the child in time.
    witness.ticks(&third);
    let stopped = now();
    cluster.of(&third).signal(libc::SIGSTOP);
    let fourth = witness.after(&third, PATIENCE);
    println!("SIGSTOP: the next child starts after {:.0} ms", milliseconds(fourth.started_after(stopped)));
    assert!(fourth.started_after(stopped) < TTL + ONE_SECOND);
    assert!(fourth.token > third.token);
    assert!(!is_alive(third.pid), "the stopped agent's child runs on");
    cluster.of(&third).signal(libc::SIGCONT);
    cluster.of(&third).comes_to("beat", "standby");
    witness.ticks(&fourth);
    assert_eq!(witness.children().len(), 4);
    assert_eq!(cluster.holders(), 1);
    drop(cluster);
    witness.check_over();
}

#[test]
fn nothing_of_a_deaf_child_and_its_detached_grandchild_survives_a_move() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let config = redis_section(&redis.url()) + &beat(&witness, "stubborn kid");
    let mut cluster = Cluster::start(&home, &["a", "b"], &config);
    cluster.init(&home);
    let first = witness.first();
    let kid = |of: &Life| {
        wait_for("a grandchild", || {
            witness.lives().into_iter().find(|life| life.parent == Some(of.pid) && life.is_alive())
        })
    };
    let kid_of_first = kid(&first);

    // It gets its whole graceful_timeout, for the lease is kept until nothing of it is left.
    let asked = now();
    cluster.of(&first).signal(libc::SIGTERM);
    let second = witness.after(&first, PATIENCE);
    assert!(second.started_after(asked) >= Duration::from_millis(990), "{:?}", second.started_after(asked));
    assert!(!is_alive(first.pid) && !is_alive(kid_of_first.pid));
    cluster.of(&first).exits(0);
    cluster.0.insert(first.node.clone(), home.agent(&first.node, &config));

    let kid_of_second = kid(&second);
    kill_agent_of(&mut cluster, &second);
    wait_within(Duration::from_millis(500), "the grandchild's end", || (!is_alive(kid_of_second.pid)).then_some(()));
    let third = witness.after(&second, TTL + ONE_SECOND);
    kid(&third);
    drop(cluster);
    witness.check_over();
}

#[test]
fn what_happens_to_redis_moves_nothing_until_the_lease_is_in_doubt() {
    let ttl = Duration::from_secs(2);
    let (home, mut redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let config = format!("{}lease_ttl = 2\n", beat(&witness, "")) + &format!("\n[redis]\nurl = {}\n", redis.url());
    let mut cluster = Cluster::start(&home, &["a", "b"], &config);
    cluster.init(&home);
    let child = witness.first();
    let key = cluster.any().lease("beat")["key"].as_str().unwrap().to_owned();
    let holds_on = |cluster: &Cluster, redis: &RedisServer, what: &str| {
        wait_for(&format!("{what}: the holder restores its lease"), || redis.text(&["GET", &key]));
        witness.lives_on(&child, ttl + ttl / 2);
        assert_eq!(witness.children().len(), 1, "{what}");
        wait_for(&format!("{what}: the holder has its token"), || {
            cluster.0.values().any(|agent| agent.lease("beat")["token"] == child.token).then_some(())
        });
    };
    redis.command(&["DEL", &key]);
    holds_on(&cluster, &redis, "DEL");
    redis.command(&["FLUSHALL"]);
    redis.command(&["SCRIPT", "FLUSH"]);
    holds_on(&cluster, &redis, "FLUSHALL");
    redis.restart_empty();
    holds_on(&cluster, &redis, "restarted empty");

    // Away for longer than a ttl: the child is stopped in order, and dead before the lease could have ended.
    let killed = now();
    redis.kill();
    wait_for("the child to stop", || witness.running().is_empty().then_some(()));
    let child = witness.children().remove(0);
    let outlived = Duration::from_nanos(child.last - killed);
    println!(
        "Redis away: the child was asked to stop, and ended after {:.0} ms of a ttl of {ttl:?}",
        milliseconds(outlived)
    );
    assert!(child.asked.is_some() && child.exit.is_some(), "not stopped in order: {child:?}");
    assert!(outlived < ttl);
    let end = Instant::now() + ttl;
    wait_for("a ttl to pass", || (Instant::now() > end).then_some(()));
    assert_eq!(witness.running(), [], "something runs without a lease");
    for agent in cluster.0.values() {
        let leases = agent.ctl(&home, &["leases"]).out;
        assert!(leases.contains("vacant") && leases.contains("connection refused"), "{leases}");
        assert!(agent.watcher("beat")["note"].as_str().unwrap().contains("connection refused"));
    }
    let back = now();
    redis.restart();
    let next = witness.after(&child, PATIENCE);
    println!("Redis is back, empty: the next child starts after {:.0} ms", milliseconds(next.started_after(back)));
    assert!(next.started_after(back) < ttl + ONE_SECOND);
    assert!(next.token > child.token);

    // Who is asked to end while Redis is away does so all the same.
    witness.ticks(&next);
    redis.kill();
    for agent in cluster.0.values_mut() {
        agent.signal(libc::SIGTERM);
    }
    cluster.0.values_mut().for_each(|agent| agent.exits(0));
    witness.check_over();
}

#[test]
fn a_redis_that_hangs_or_is_overwritten_by_hand_never_makes_two_and_soon_has_one_again() {
    let ttl = Duration::from_secs(1);
    let (home, redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let config = format!("{}lease_ttl = 1\n", beat(&witness, "grace=0.05")) + &redis_section(&redis.url());
    let cluster = Cluster::start(&home, &["a", "b"], &config);
    cluster.init(&home);
    let first = witness.first();
    let key = cluster.any().lease("beat")["key"].as_str().unwrap().to_owned();

    // For half a ttl: nobody notices.
    redis.freeze();
    witness.lives_on(&first, ttl / 3);
    redis.thaw();
    witness.lives_on(&first, ttl * 2);
    assert_eq!(witness.children().len(), 1);

    // For three: the child is stopped in time, and one runs again.
    let frozen = now();
    redis.freeze();
    wait_for("the child to stop", || witness.running().is_empty().then_some(()));
    let ended = witness.children().remove(0);
    assert!(ended.asked.is_some(), "not stopped in order: {ended:?}");
    assert!(Duration::from_nanos(ended.last - frozen) < ttl);
    wait_for("three ttls", || (now() - frozen > 3 * ttl.as_nanos() as u64).then_some(()));
    assert_eq!(witness.running(), [], "something runs without a lease");
    let thawed = now();
    redis.thaw();
    let second = witness.after(&ended, PATIENCE);
    println!("Redis hung for 3 ttl: the next child starts {:.0} ms after", milliseconds(second.started_after(thawed)));
    assert!(second.started_after(thawed) < ttl + ONE_SECOND);

    // Somebody else's word in the place of the lease counts for as long as it stands there.
    redis.command(&["SET", &key, "somebody"]);
    wait_for("the child to stop", || witness.running().is_empty().then_some(()));
    wait_for("all to know who has it", || {
        cluster.0.values().all(|agent| agent.lease("beat")["holder"] == "somebody").then_some(())
    });
    for said in cluster.0.values().map(|agent| agent.ctl(&home, &["leases"])) {
        assert!(said.out.contains("somebody"), "{said:?}");
    }
    let stood = now();
    wait_for("two ttls", || (now() - stood > 2 * ttl.as_nanos() as u64).then_some(()));
    assert_eq!(witness.running(), [], "something runs beside somebody");
    let one_again = |what: &str| {
        let since = now();
        wait_for(&format!("one child again after {what}"), || {
            witness.running().into_iter().find(|life| life.last > since + 2 * ttl.as_nanos() as u64)
        });
        witness.check();
    };
    redis.command(&["DEL", &key]);
    one_again("DEL");
    redis.command(&["SET", &key, "b:0", "PX", "500"]);
    one_again("SET with a short life");
    redis.command(&["DEL", &key]);
    redis.command(&["LPUSH", &key, "x"]);
    wait_for("the child to stop", || witness.running().is_empty().then_some(()));
    for agent in cluster.0.values() {
        wait_for("the reason", || agent.watcher("beat")["note"].as_str()?.contains("WRONGTYPE").then_some(()));
    }
    redis.command(&["DEL", &key]);
    one_again("a list in the place of the lease");
    drop(cluster);
    witness.check_over();
}

#[test]
fn a_singleton_whose_child_or_guard_is_killed_starts_again_in_place() {
    let home = Home::new();
    let witness = Witness::new(home.path());
    let cluster = Cluster::start(&home, &["a", "b"], &beat(&witness, "kid"));
    let first = witness.first();
    witness.ticks(&first);
    agent::send(first.pid, libc::SIGKILL);
    let second = witness.after(&first, PATIENCE);
    assert_eq!((&second.node, second.token), (&first.node, first.token));
    witness.ticks(&second);
    let guard = agent::parent_of(second.pid).expect("a guard");
    assert_ne!(guard, cluster.0[&second.node].pid());
    agent::send(guard, libc::SIGKILL);
    wait_within(Duration::from_millis(500), "the child to die with its guard", || {
        (!is_alive(second.pid)).then_some(())
    });
    let third = witness.after(&second, PATIENCE);
    assert_eq!((&third.node, third.token), (&first.node, first.token));
    drop(cluster);
    witness.check_over();
}

#[test]
fn without_redis_at_the_start_the_rest_runs_and_the_singleton_says_what_it_waits_for() {
    let home = Home::new();
    let mut away = RedisServer::start();
    away.kill();
    let locked = RedisServer::start_with_password("right");
    let master = RedisServer::start();
    let replica = RedisServer::start_with(None, &["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let plain = format!("\n[watcher:plain]\ncmd = {}\n", home.script("plain", "exec sleep 600"));
    let wrong = format!("redis://:wrong@127.0.0.1:{}", locked.port());
    let cases = [
        ("away", away.url(), "connection refused"),
        ("locked", wrong, "wrong password"),
        ("replica", replica.url(), "replica"),
    ];
    let started: Vec<_> = cases
        .iter()
        .map(|(name, url, reason)| {
            let witness = Witness::new(&home.file(&format!("{name}-")));
            std::fs::create_dir(home.file(&format!("{name}-"))).unwrap();
            let config = format!("\n[redis]\nurl = {url}\nlease_ttl = 1\n") + &plain + &beat(&witness, "");
            (home.agent(name, &config), witness, *reason)
        })
        .collect();
    for (agent, witness, reason) in &started {
        agent.comes_to("plain", "active");
        agent.comes_to("beat", "standby");
        wait_for("the reason", || agent.watcher("beat")["note"].as_str()?.contains(reason).then_some(()));
        for command in [&["leases"][..], &["status"]] {
            let said = agent.ctl(&home, command);
            assert!((said.out.clone() + &said.err).contains(reason), "{command:?} of {}: {said:?}", agent.name);
            assert!(!format!("{said:?}").contains("wrong@"), "a password is shown: {said:?}");
        }
        // Nobody can wait for a turn that could not be heard of, and the other nodes are not known: not all is well.
        let status = agent.ctl(&home, &["status"]).expect(3);
        assert!(status.out.contains("plain") && status.out.contains("active"), "{status:?}");
        let leases = agent.ctl(&home, &["leases"]).expect(4);
        assert!(leases.err.contains("other nodes are not known"), "{leases:?}");
        agent.ctl(&home, &["leases", "--node", &agent.name]).expect(0);
        assert_eq!(witness.lives(), []);
    }
    away.restart();
    locked.command(&["CONFIG", "SET", "requirepass", "wrong"]);
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    for (agent, witness, _) in started {
        witness.ticks(&witness.first());
        agent.comes_to("beat", "active");
        agent.ctl(&home, &["status"]).expect(0);
        drop(agent);
        witness.check_over();
    }
}

#[test]
fn without_a_redis_section_the_same_holds_on_file_locks() {
    let home = Home::new();
    let witness = Witness::new(home.path());
    let config = format!("{}lease_ttl = 3\n", beat(&witness, "grace=0.1 kid"));
    let mut cluster = Cluster::start(&home, &["a", "b"], &config);
    let first = witness.first();
    witness.ticks(&first);

    let (killed, dead) = kill_agent_of(&mut cluster, &first);
    let second = witness.after(&first, SOON);
    println!("file locks, SIGKILL: the child is dead after {:.1} ms", milliseconds(dead));
    println!("file locks, SIGKILL: the next child starts after {:.1} ms", milliseconds(second.started_after(killed)));
    assert!(second.token > first.token);
    cluster.0.insert(first.node.clone(), home.agent(&first.node, &config));

    witness.ticks(&second);
    let stopped = now();
    cluster.of(&second).signal(libc::SIGSTOP);
    let third = witness.after(&second, PATIENCE);
    assert!(third.started_after(stopped) < TTL + ONE_SECOND, "{:?}", third.started_after(stopped));
    assert!(third.token > second.token);
    cluster.of(&second).signal(libc::SIGCONT);
    cluster.of(&second).comes_to("beat", "standby");

    witness.ticks(&third);
    let asked = now();
    cluster.of(&third).signal(libc::SIGTERM);
    let fourth = witness.after(&third, SOON);
    println!("file locks, SIGTERM: the next child starts after {:.1} ms", milliseconds(fourth.started_after(asked)));
    assert!(fourth.token > third.token);
    cluster.of(&third).exits(0);
    drop(cluster);
    witness.check_over();
}

// ------------------------------------------------------------------------------------------------- circusctl

#[test]
fn circusctl_does_each_command_here_on_a_named_node_on_all_and_through_redis() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let web = home.script("web", "exec sleep 600");
    let config = redis_section(&redis.url())
        + &beat(&witness, "")
        + &format!("\n[watcher:web]\ncmd = {web}\nnumprocesses = 2\n");
    let mut cluster = Cluster::start(&home, &["a", "b", "c"], &config);
    cluster.init(&home);
    let first = witness.first();
    let endpoint = redis.url();
    cluster.0.values().for_each(|agent| agent.comes_to("web", "active"));
    wait_for("all nodes to be registered", || {
        let nodes = cluster.any().ctl(&home, &["nodes", "--json"]).expect(0).json();
        (nodes["roster"].as_array()?.len() == 3).then_some(())
    });
    let on_a = |words: &[&str]| cluster.0["a"].ctl(&home, words);

    // Each command: to this agent, to another one through it, to all, and to one through Redis alone.
    let ways: [&[&str]; 4] = [&[], &["--node", "b"], &["--all"], &["--node", "c"]];
    for (at, way) in ways.iter().enumerate() {
        let say = |words: &[&str]| {
            let words = [*way, words].concat();
            if at == 3 { home.ctl(&[&["--endpoint", &endpoint], &words[..]].concat()) } else { on_a(&words) }
        };
        // The reply of the node that is meant, whatever it is wrapped in.
        let json = |words: &[&str]| {
            let reply = say(&[words, &["--json"]].concat()).expect(0).json();
            match reply["nodes"].as_object() {
                Some(nodes) if at == 2 => {
                    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["a", "b", "c"], "{words:?}");
                    nodes["b"].clone()
                }
                Some(nodes) => nodes.values().next().unwrap().clone(),
                None => reply,
            }
        };
        assert_eq!(json(&["list"])["watchers"], json!(["beat", "web"]));
        assert_eq!(json(&["list", "web"])["pids"].as_array().unwrap().len(), 2);
        assert_eq!(json(&["status", "web"])["status"], "active");
        assert_eq!(json(&["status"])["statuses"]["web"], "active");
        assert_eq!(json(&["numprocesses", "web"])["numprocesses"], 2);
        assert_eq!(json(&["numwatchers"])["numwatchers"], 2);
        assert_eq!(json(&["incr", "web", "2", "--waiting"])["numprocesses"], 4);
        assert_eq!(json(&["decr", "web", "--waiting"])["numprocesses"], 3);
        assert_eq!(json(&["decr", "web", "1", "--waiting"])["numprocesses"], 2);
        assert_eq!(json(&["incr", "beat"])["singleton"], true);
        let info = json(&["stats", "web"])["info"].clone();
        assert_eq!(info.as_object().unwrap().len(), 2, "{info}");
        assert_eq!(json(&["options", "web"])["options"]["numprocesses"], 2);
        assert_eq!(json(&["version"])["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json(&["leases"])["leases"][0]["name"], "beat");
        json(&["stop", "web", "--waiting"]);
        assert_eq!(json(&["status", "web"])["status"], "stopped");
        let started = json(&["start", "web", "--waiting"])["info"]["started"].clone();
        assert_eq!(started.as_array().unwrap().len(), 2);
        let info = json(&["restart", "web", "--waiting"])["info"].clone();
        assert_eq!((&info["stopped"], info["started"].as_array().unwrap().len()), (&started, 2));
        // For people too, and with the truth in the exit code.
        assert!(say(&["status"]).expect(0).out.contains("web"));
        assert!(say(&["leases"]).expect(0).out.contains(&first.node));
        let wrong = say(&["stop", "wbe"]).expect(1);
        assert!(wrong.err.contains("wbe") && wrong.err.contains("web"), "{wrong:?}");
    }

    // A move: from whichever node it is asked, to the node that is named.
    let target = cluster.0.keys().find(|name| **name != first.node).unwrap().clone();
    let moved = on_a(&["failover", "beat", "--to", &target, "--json"]).expect(0).json();
    assert_eq!(moved["to"], target.as_str());
    let second = witness.after(&first, SOON);
    assert_eq!(second.node, target);
    wait_for("who is where in the leases", || {
        let leases = home.ctl(&["--endpoint", &endpoint, "leases"]).expect(0).out;
        (leases.contains(&target) && leases.contains(&second.token.to_string())).then_some(())
    });
    // Who gave it away stands back for a moment, in which it does not ask who has it.
    wait_for("a to know the holder", || (cluster.0["a"].lease("beat")["holder"] == second.node.as_str()).then_some(()));
    let refused = on_a(&["failover", "beat", "--to", "mars"]).expect(1);
    assert!(refused.err.contains("mars"), "{refused:?}");

    // Who cannot answer is named.
    let absent = on_a(&["status", "--node", "a,mars"]).expect(4);
    assert!(absent.err.contains("mars") && absent.out.contains("web"), "{absent:?}");
    let frozen = cluster.0.keys().rfind(|name| **name != "a" && **name != second.node).unwrap().clone();
    cluster.0[&frozen].signal(libc::SIGSTOP);
    let begun = Instant::now();
    let silent = on_a(&["version", "--all", "--timeout", "1"]).expect(4);
    assert!(silent.err.contains(&frozen) && silent.out.contains('a'), "{silent:?}");
    let silent = home.ctl(&["--endpoint", &endpoint, "version", "--node", &frozen, "--timeout", "500ms"]).expect(4);
    assert!(silent.err.contains(&frozen), "{silent:?}");
    println!("two questions to a frozen node took {:?}", begun.elapsed());
    cluster.0[&frozen].signal(libc::SIGCONT);

    // Nobody ends all agents by accident; meant, they go.
    let refused = on_a(&["quit", "--all"]).expect(2);
    assert!(refused.err.contains("--yes"), "{refused:?}");
    on_a(&["quit", "--node", &frozen, "--waiting"]).expect(0);
    cluster.0.get_mut(&frozen).unwrap().exits(0);
    cluster.0.remove(&frozen);
    let left: Vec<String> = cluster.0.keys().cloned().collect();
    cluster.any().ctl(&home, &["quit", "--node", &left.join(","), "--yes"]).expect(0);
    cluster.0.values_mut().for_each(|agent| agent.exits(0));
    assert_eq!(home.ctl(&["--endpoint", "unix:///nonexistent/a.sock", "status"]).code, 5);
    witness.check_over();
}

#[test]
fn what_the_control_socket_does_not_understand_gets_its_reason_and_the_connection_goes_on() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:plain]\ncmd = {}", home.script("plain", "exec sleep 600")));
    agent.comes_to("plain", "active");
    let mut line: Line = agent.connect();
    let mut ask = |text: &str| line.ask(text).unwrap_or_else(|| panic!("no reply to {text}"));
    for (text, code, id) in [
        ("status", "not-json", Value::Null),
        ("{\"command\": \"status\", ", "not-json", Value::Null),
        ("[]", "not-json", Value::Null),
        (r#"{"id": 1, "command": "fly"}"#, "unknown-command", json!(1)),
        (r#"{"id": 2}"#, "bad-message", json!(2)),
        (r#"{"id": 3, "command": "options", "properties": {"name": 3}}"#, "bad-message", json!(3)),
        (r#"{"id": 4, "command": "options", "properties": {"name": "plian"}}"#, "no-such-watcher", json!(4)),
        (r#"{"id": 5, "command": "failover", "properties": {"name": "plain"}}"#, "not-singleton", json!(5)),
    ] {
        let reply = ask(text);
        assert_eq!((&reply["status"], &reply["code"], &reply["id"]), (&json!("error"), &json!(code), &id), "{text}");
        assert!(reply["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{reply}");
    }
    assert_eq!(ask(r#"{"id": "x", "command": "status"}"#)["statuses"], json!({"plain": "active"}));
}

// ------------------------------------------------------------------------------------------------- beginnings and ends

#[test]
fn sigterm_in_the_middle_of_a_slow_start_up_starts_no_more_and_stops_in_order() {
    let home = Home::new();
    let started = home.file("started");
    let command = home.script("run", &format!("echo $CIRCUS_WATCHER >>{}; exec sleep 600", started.display()));
    let watcher = |name: &str| format!("[watcher:{name}]\ncmd = {command}\n");
    let config = "warmup_delay = 60\n".to_owned() + "\n" + &watcher("one") + &watcher("two");
    let mut agent = home.agent("a", &config);
    wait_for("the first watcher", || std::fs::read_to_string(&started).is_ok_and(|text| text == "one\n").then_some(()));
    assert_eq!(agent.ask(&json!({"command": "status"}))["phase"], "starting");
    let children = agent.descendants();
    assert!(!children.is_empty());
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    assert_eq!(std::fs::read_to_string(&started).unwrap(), "one\n");
    assert!(!children.into_iter().any(is_alive));
    assert!(!home.file("a.sock").exists(), "the control socket is left behind");
}

#[test]
fn the_lowest_priority_stops_first_and_the_next_when_it_is_down() {
    let home = Home::new();
    let ends = home.file("ends");
    let command = home.script(
        "run",
        &format!(
            "trap 'echo stop $CIRCUS_WATCHER >>{0}; sleep 0.2; echo end $CIRCUS_WATCHER >>{0}; exit' TERM\n\
             echo up\nwhile :; do sleep 0.02; done",
            ends.display()
        ),
    );
    let watcher = |name: &str, priority: u32| format!("[watcher:{name}]\ncmd = {command}\npriority = {priority}\n");
    let mut agent = home.agent("a", &(watcher("last", 9) + &watcher("first", 1) + &watcher("middle", 5)));
    // Told to end before it listens, a shell ends without a word.
    wait_for("three children to listen", || (agent.log().matches("up\n").count() == 3).then_some(()));
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    let ends = std::fs::read_to_string(&ends).unwrap();
    let expected: String = ["first", "middle", "last"].map(|name| format!("stop {name}\nend {name}\n")).concat();
    assert_eq!(ends, expected);
}

#[test]
fn a_second_sigterm_hurries() {
    let home = Home::new();
    let command = home.script("run", "trap '' TERM\necho up\nwhile :; do sleep 0.02; done");
    let mut agent = home.agent("a", &format!("[watcher:deaf]\ncmd = {command}\ngraceful_timeout = 600\n"));
    wait_for("a deaf child", || agent.log().contains("up\n").then_some(()));
    let child = agent.descendants();
    agent.signal(libc::SIGTERM);
    agent.comes_to("deaf", "stopping");
    assert!(child.iter().any(|pid| is_alive(*pid)));
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    assert!(!child.into_iter().any(is_alive));
}

#[test]
fn a_watcher_that_cannot_start_or_keeps_ending_says_why_while_others_run() {
    let home = Home::new();
    let crash = home.script("crash", "exit 3");
    let config = format!(
        "[watcher:plain]\ncmd = {plain}\n\
         [watcher:absent]\ncmd = /nonexistent/program\nmax_retry = -1\n\
         [watcher:lost]\ncmd = {plain}\nworking_dir = {gone}\nmax_retry = 2\n\
         [watcher:crash]\ncmd = {crash}\n\
         [watcher:once]\ncmd = {crash}\nrespawn = false\n",
        plain = home.script("plain", "exec sleep 600"),
        gone = home.file("gone").display(),
    );
    let gone = home.file("gone");
    std::fs::create_dir(&gone).unwrap();
    home.configure("a", &config);
    std::fs::remove_dir(&gone).unwrap();
    let mut agent = home.launch("a", &[]);
    agent.answers();
    let note = |watcher: &str| agent.watcher(watcher)["note"].as_str().unwrap_or_default().to_owned();

    agent.comes_to("absent", "backoff");
    assert!(note("absent").contains("exec") && note("absent").contains("/nonexistent/program"), "{}", note("absent"));
    assert!(note("absent").contains("again in"), "{}", note("absent"));
    agent.comes_to("lost", "failed");
    assert!(note("lost").contains("chdir") && note("lost").contains("2 times"), "{}", note("lost"));
    agent.comes_to("once", "stopped");
    assert!(note("once").contains("exit 3"), "{}", note("once"));
    // Each pause is longer than the one before, and nobody else waits for it.
    wait_for("a crashing child to be tried again and again", || {
        (agent.watcher("crash")["restarts"].as_u64()? >= 4 && agent.watcher("crash")["state"] == "backoff")
            .then_some(())
    });
    assert!(note("crash").contains("exit 3, again in"), "{}", note("crash"));
    agent.comes_to("plain", "active");
    assert_eq!(agent.watcher("plain")["restarts"], 0);

    // One that is just being tried again has no reason to tell.
    wait_for("a status that says why", || {
        let status = agent.ctl(&home, &["status"]).expect(3);
        ["plain", "exec", "chdir", "exit 3"].iter().all(|words| status.out.contains(words)).then_some(())
    });
    agent.ctl(&home, &["status", "plain"]).expect(0);
    // What was the matter is mended: one command later it runs.
    std::fs::create_dir(&gone).unwrap();
    agent.ctl(&home, &["start", "lost", "--waiting"]).expect(0);
    agent.comes_to("lost", "active");
    agent.signal(libc::SIGTERM);
    agent.exits(0);
}

#[test]
fn a_second_agent_with_a_name_in_use_is_refused() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let plain = format!("\n[watcher:plain]\ncmd = {}\n", home.script("plain", "exec sleep 600"));
    let config = redis_section(&redis.url()) + &plain;
    let first = home.agent("a", &config);
    wait_for("the node to be registered", || {
        first.ctl(&home, &["nodes", "--json"]).json()["roster"].as_array().filter(|rows| rows.len() == 1).map(drop)
    });

    // On the same machine: at once, by its own state directory.
    let other = home.file("other.ini");
    let dir = home.path().display();
    let same = |circus: &str| {
        std::fs::write(&other, format!("[circus]\nnode = a\ncontrol_socket = {dir}/other.sock\n{circus}\n{config}"))
            .unwrap();
        let mut agent = home.launch("other", &[]);
        agent.exits(69);
        agent.log()
    };
    let log = same(&format!("state_dir = {dir}/state"));
    assert!(log.contains("a") && log.contains(&format!("pid {}", first.pid())), "{log}");
    // Elsewhere: through the registry.
    let log = same(&format!("state_dir = {dir}/elsewhere"));
    assert!(log.contains("the name a is in use by"), "{log}");
    first.comes_to("plain", "active");
    assert_eq!(first.ctl(&home, &["nodes", "--json"]).expect(0).json()["roster"][0]["pid"], first.pid());
}

// ------------------------------------------------------------------------------------------------- systemd

/// Stands in for systemd.
struct Manager(UnixDatagram);

impl Manager {
    fn bind(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    /// Waits for a message that has this line, and gives it.
    #[track_caller]
    fn hears(&self, line: &str) -> String {
        let mut heard = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            let length = self.0.recv(&mut bytes).unwrap_or_else(|error| panic!("{line}: {error}; heard {heard:?}"));
            let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
            if message.lines().any(|one| one.starts_with(line)) {
                return message;
            }
            heard.push(message);
        }
    }
}

#[test]
fn systemd_is_told_how_the_agent_is_and_the_children_are_not() {
    let home = Home::new();
    let manager = Manager::bind(&home.file("notify"));
    let witness = Witness::new(home.path());
    let seen = home.file("seen");
    let env = home.script("env", &format!("env >{0}.new; mv {0}.new {0}; exec sleep 600", seen.display()));
    let config = beat(&witness, "") + &format!("\n[watcher:env]\ncmd = {env}\ncopy_env = true\n");
    let notify = home.file("notify").display().to_string();
    let mut agent = home.agent_with("a", &config, &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "200000")]);
    manager.hears("READY=1");
    let status = manager.hears("STATUS=running: 1 of 1 watchers active; beat: holder, token");
    assert!(status.contains(&witness.first().token.to_string()), "{status}");
    manager.hears("WATCHDOG=1");
    let begun = Instant::now();
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");
    assert!(begun.elapsed() > Duration::from_millis(100), "fed by no clock");

    agent.signal(libc::SIGHUP);
    let message = manager.hears("RELOADING=1");
    let line = message.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("when the reload began");
    let (began, now) = (line.parse::<u64>().unwrap(), now() / 1000);
    assert!(began <= now && now - began < 10_000_000, "{began}, {now}");
    manager.hears("READY=1");

    let env = wait_for("the child's environment", || std::fs::read_to_string(&seen).ok());
    assert!(env.contains("CIRCUS_WATCHER=env\n") && env.contains("PATH="), "{env}");
    for word in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!env.contains(word), "{word} reached the child:\n{env}");
    }
    agent.signal(libc::SIGTERM);
    // Longer than the child may take, whatever the unit says.
    let message = manager.hears("STOPPING=1");
    let more = message.lines().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).expect("more time");
    assert!(more.parse::<u64>().unwrap() > 1_000_000, "{more}");
    agent.exits(0);
    witness.check_over();
}
