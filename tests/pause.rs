//! Singletons that are paused and resumed: real agents with a real Redis, and without one.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::fs;

use serde_json::{Value, json};

use agent::{Agent, Home, Said, is_alive, wait_for};
use redis_server::RedisServer;

/// Agents with a singleton that tells in a file when it starts and when it is asked to end.
struct Cluster {
    home: Home,
    redis: Option<RedisServer>,
    agents: Vec<Agent>,
}

impl Cluster {
    /// With Redis, or with the files of one machine.
    fn new(redis: bool) -> Cluster {
        Cluster { home: Home::new(), redis: redis.then(RedisServer::start), agents: Vec::new() }
    }

    /// The first one runs `beat`, the others wait for it.
    fn start(redis: bool, names: &[&str]) -> Cluster {
        let mut all = Cluster::new(redis);
        for name in names {
            all.add(name);
            if all.agents.len() == 1 {
                all.init();
                all.agents[0].comes_to("beat", "active");
            } else {
                all.agents.last().unwrap().comes_to("beat", "standby");
            }
        }
        all
    }

    fn init(&self) {
        // File locks need none, and say so.
        if self.redis.is_some() {
            wait_for("the lease to be initialised", || {
                (self.ctl(0, &["lease", "init", "beat"]).code == 0).then_some(())
            });
        }
    }

    fn config(&self) -> String {
        let told = self.home.file("told").display().to_string();
        let text = format!(
            "echo \"started $CIRCUS_NODE\" >> {told}\ntrap 'echo \"ended $CIRCUS_NODE\" >> {told}; exit 0' TERM\n\
             while :; do sleep 0.05; done\n"
        );
        let beat = self.home.script("beat.sh", &text);
        let redis = self
            .redis
            .as_ref()
            .map_or_else(String::new, |redis| format!("\n[redis]\nurl = {}\nlease_ttl = 1500ms\n", redis.url()));
        format!("{redis}\n[watcher:beat]\ncmd = {beat}\nsingleton = true\n\n[watcher:web]\ncmd = sleep 600\n")
    }

    fn add(&mut self, name: &str) {
        let agent = self.home.agent(name, &self.config());
        self.agents.push(agent);
    }

    /// Ends an agent in good order, and starts it anew.
    fn restart(&mut self, at: usize) {
        let mut old = self.agents.remove(at);
        old.signal(libc::SIGTERM);
        old.exits(0);
        let name = old.name.clone();
        drop(old);
        let agent = self.home.agent(&name, &self.config());
        self.agents.insert(at, agent);
    }

    fn ctl(&self, at: usize, words: &[&str]) -> Said {
        self.agents[at].ctl(&self.home, words)
    }

    /// What the singleton has told so far.
    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.home.file("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// All agents know of the pause, and none runs the singleton.
    #[track_caller]
    fn is_paused_everywhere(&self) {
        for agent in &self.agents {
            agent.notes("beat", "paused by ");
            assert_eq!((agent.watcher("beat")["state"].as_str(), agent.pids("beat").len()), (Some("standby"), 0));
        }
    }

    /// One of the agents comes to run it.
    #[track_caller]
    fn runs_on(&self, among: &[usize]) -> usize {
        wait_for("somebody to run it", || among.iter().copied().find(|at| !self.agents[*at].pids("beat").is_empty()))
    }
}

#[test]
fn what_is_paused_runs_nowhere_whoever_comes_or_begins_anew_until_it_is_resumed_from_anywhere() {
    let mut all = Cluster::start(true, &["a", "b"]);
    let mut events = all.agents[1].events("beat");
    let child = all.agents[0].pids("beat")[0];

    // Asked for at the node that does not hold it: the reply comes when the child has ended, in good order.
    let said = all.ctl(1, &["pause", "beat", "--reason", "migration"]).expect(0);
    assert!(!is_alive(child), "its child is there");
    assert_eq!(said.out, "ok, beat is paused: it runs nowhere until circusctl resume beat\n");
    assert_eq!(all.told(), ["started a", "ended a"]);
    all.is_paused_everywhere();
    let news = events.read().expect("an event");
    assert_eq!((&news["event"], &news["body"]["reason"]), (&json!("paused"), &json!("migration")));

    // Again changes nothing, and what would start it is told why it does not.
    let again = all.ctl(0, &["pause", "beat", "--reason", "other"]).expect(0).out;
    assert!(
        again.starts_with("ok, beat was paused before, by circusctl") && again.ends_with(": migration\n"),
        "{again}"
    );
    for words in [&["start", "beat"][..], &["start", "beat", "--waiting"], &["failover", "beat"]] {
        let refused = all.ctl(0, words).expect(1).err;
        assert!(refused.contains("paused by ") && refused.contains("circusctl resume beat"), "{words:?}: {refused}");
    }
    let plain = all.ctl(0, &["pause", "web"]).expect(1).err;
    assert!(plain.contains("web is no singleton"), "{plain}");

    // What people are told of it.
    let leases = all.ctl(0, &["leases"]).expect(0).out;
    let row: Vec<&str> = leases.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row[..5], ["beat", "paused", "-", "-", "-"], "{leases}");
    assert!(leases.contains(": migration") && !leases.contains("vacant"), "{leases}");
    let lease = all.agents[0].lease("beat");
    assert_eq!((&lease["pause"]["reason"], &lease["role"]), (&json!("migration"), &json!("standby")));
    let explained = all.ctl(0, &["explain", "beat", "--node", "a"]).expect(0).out;
    assert!(explained.contains("✘ pause") && explained.contains("circusctl resume beat"), "{explained}");

    // All begin anew, one more joins, and the watcher goes and comes back.
    all.restart(0);
    all.restart(1);
    all.add("c");
    all.is_paused_everywhere();
    all.ctl(2, &["rm", "beat", "--waiting"]).expect(0);
    all.ctl(2, &["reloadconfig", "--waiting"]).expect(0);
    all.ctl(1, &["drain", "--waiting"]).expect(0);
    all.ctl(1, &["undrain", "--waiting"]).expect(0);
    all.ctl(1, &["rename", "d"]).expect(0);
    all.is_paused_everywhere();
    assert_eq!(all.told().len(), 2, "{:?}", all.told());

    // Resumed from a third node, it runs again on one.
    let mut events = all.agents[2].events("beat");
    let said = all.ctl(2, &["resume", "beat"]).expect(0).out;
    assert!(said.starts_with("ok, beat may run again; it was paused by circusctl"), "{said}");
    assert_eq!(events.read().expect("an event")["event"], "resumed");
    all.runs_on(&[0, 1, 2]);
    wait_for("it to say so", || (all.told().len() == 3).then_some(()));
    assert_eq!(all.ctl(0, &["resume", "beat"]).expect(0).out, "ok, beat is not paused\n");
    let tenure = wait_for("the tenure to be told", || {
        let told = all.ctl(0, &["history", "beat", "--json"]).json()["history"][0]["tenures"][0].clone();
        (told["cause"] == "paused").then_some(told)
    });
    assert_eq!(tenure["detail"], "migration");
    assert!(tenure["by"].as_str().is_some_and(|by| by.starts_with("circusctl")), "{tenure}");
}

#[test]
fn a_holder_that_is_stopped_or_killed_is_waited_for_until_its_lease_ends_and_nobody_follows_it() {
    let mut all = Cluster::start(true, &["a", "b"]);
    let child = all.agents[0].pids("beat")[0];
    all.agents[0].signal(libc::SIGSTOP);
    all.ctl(1, &["pause", "beat"]).expect(0);
    // Its guard has seen to it, before the lease could end.
    assert!(!is_alive(child), "it runs although nobody has the lease");
    all.agents[0].signal(libc::SIGCONT);
    all.is_paused_everywhere();
    all.ctl(1, &["resume", "beat"]).expect(0);
    let holder = all.runs_on(&[0, 1]);

    let mut killed = all.agents.remove(holder);
    killed.kill();
    let said = all.ctl(0, &["pause", "beat"]).expect(0);
    assert!(said.out.starts_with("ok, beat is paused"), "{}", said.out);
    all.is_paused_everywhere();
    let name = killed.name.clone();
    drop(killed);
    all.add(&name);
    all.is_paused_everywhere();
    all.ctl(1, &["resume", "beat"]).expect(0);
    all.runs_on(&[0, 1]);
}

#[test]
fn a_pause_may_come_before_anybody_has_ever_had_the_lease_and_over_redis() {
    let mut all = Cluster::new(true);
    all.add("a");
    let redis = all.redis.as_ref().unwrap().url();
    let over_redis = |words: &[&str]| all.home.ctl(&[&["--endpoint", &redis], words].concat());
    wait_for("it to be registered", || (over_redis(&["pause", "beat", "--no-waiting"]).code == 0).then_some(()));
    // The first taking waits one ttl as ever, and is none then.
    all.is_paused_everywhere();
    assert!(all.told().is_empty(), "{:?}", all.told());
    over_redis(&["resume", "beat"]).expect(0);
    all.runs_on(&[0]);
}

#[test]
fn without_redis_a_pause_holds_for_all_agents_of_the_machine() {
    let mut all = Cluster::start(false, &["a", "b"]);
    let child = all.agents[0].pids("beat")[0];
    all.ctl(1, &["pause", "beat", "--reason", "migration"]).expect(0);
    assert!(!is_alive(child), "its child is there");
    assert_eq!(all.told(), ["started a", "ended a"]);
    all.is_paused_everywhere();
    all.restart(0);
    all.restart(1);
    all.add("c");
    all.is_paused_everywhere();
    assert_eq!(all.told().len(), 2, "{:?}", all.told());
    all.ctl(2, &["resume", "beat"]).expect(0);
    all.runs_on(&[0, 1, 2]);
}

#[test]
fn a_paused_legion_has_no_lord_and_undoes_what_its_lord_did() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let did = home.file("did").display().to_string();
    let config = |valor: u32| {
        format!(
            "\n[redis]\nurl = {}\n\n[legion:ip]\nvalor = {valor}\nquorum = 1\ntolerance = 2\n\
             on_lord = cmd:sh -c 'echo lord {valor} >> {did}'\non_unlord = cmd:sh -c 'echo unlord {valor} >> {did}'\n\
             \n[watcher:web]\ncmd = sleep 600\nlegion = ip\n",
            redis.url()
        )
    };
    let did =
        || fs::read_to_string(home.file("did")).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    let agents = [home.agent("a", &config(30)), home.agent("b", &config(20))];
    agents[0].comes_to("web", "active");
    let web = agents[0].pids("web")[0];

    agents[1].ctl(&home, &["pause", "ip", "--reason", "migration"]).expect(0);
    assert!(!is_alive(web), "it follows nobody");
    assert_eq!(did(), ["lord 30", "unlord 30"]);
    agents[0].notes("ip", "paused by ");
    let told = agents[0].ctl(&home, &["legions", "ip", "--json"]).expect(0).json();
    let legion: &Value = &told["legions"][0];
    assert!(legion["lord_node"].is_null(), "{legion}");
    assert!(legion["reason"].as_str().is_some_and(|why| why.contains(": migration")), "{legion}");
    agents[0].ctl(&home, &["lord", "ip"]).expect(1);
    assert!(agents[1].pids("web").is_empty());

    agents[1].ctl(&home, &["resume", "ip"]).expect(0);
    agents[0].comes_to("web", "active");
    assert_eq!(did(), ["lord 30", "unlord 30", "lord 30"]);
}
