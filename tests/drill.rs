//! Drills, end to end: real agents that are really killed, frozen and cut off, and what circusctl tells of that, beside
//! what the children themselves bear witness of.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "support/witness.rs"]
mod witness;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use serde_json::{Value, json};

use agent::{Agent, Home, PATIENCE, Said, wait_for};
use redis_server::RedisServer;
use witness::{Life, Witness};

/// How far what was measured may be off: ticks, clocks, and a machine that does much else.
const SLACK: f64 = 0.5;

struct Stage {
    home: Home,
    redis: RedisServer,
    witness: Witness,
    agents: [Agent; 2],
    first: Life,
}

impl Stage {
    /// Two agents that allow drills, of which one runs the singleton and the other waits for it.
    fn new() -> Stage {
        Stage::with("allow_drills = true")
    }

    fn with(circus: &str) -> Stage {
        let (home, redis) = (Home::new(), RedisServer::start());
        let witness = Witness::new(home.path());
        let config = config(circus, &witness, &redis);
        let agents = [home.agent("a", &config), home.agent("b", &config)];
        wait_for("the lease to be initialised", || {
            (agents[0].ctl(&home, &["lease", "init", "beat"]).code == 0).then_some(())
        });
        let first = witness.first();
        let stage = Stage { home, redis, witness, agents, first };
        stage.other().comes_to("beat", "standby");
        stage.both_are_known();
        stage
    }

    /// Waits until the registry says who holds and who waits: each tells it as soon as it can.
    fn both_are_known(&self) {
        wait_for("both to be known", || {
            let rows = self.other().ctl(&self.home, &["nodes", "--json"]).json()["roster"].clone();
            let is = |node: &str, what: &str| {
                let row = rows.as_array()?.iter().find(|row| row["name"] == node)?.clone();
                (row[what] == json!(["beat"])).then_some(())
            };
            is(&self.holder().name, "holds").and(is(&self.other().name, "waits"))
        });
    }

    fn holder(&self) -> &Agent {
        &self.agents[usize::from(self.agents[1].name == self.first.node)]
    }

    fn other(&self) -> &Agent {
        &self.agents[usize::from(self.agents[1].name != self.first.node)]
    }

    /// Holds a drill, as asked at the node that waits.
    fn drill(&self, words: &[&str]) -> Said {
        self.other().ctl(&self.home, &[&["drill", "beat", "--yes", "--kind"], words].concat())
    }

    fn over_redis(&self, words: &[&str]) -> Said {
        self.home.ctl(&[&["--endpoint", &self.redis.url()], words].concat())
    }

    /// The last tenures, the latest first.
    fn tenures(&self) -> Vec<Value> {
        let said = self.other().ctl(&self.home, &["history", "beat", "--json"]).expect(0);
        said.json()["history"][0]["tenures"].as_array().unwrap().clone()
    }

    /// Holds the gap that was told against what the children tell of themselves.
    #[track_caller]
    fn measured(&self, gap: &Value) {
        let second = self.witness.after(&self.first, PATIENCE);
        let first = self.witness.lives().into_iter().find(|life| life.pid == self.first.pid).unwrap();
        let (gap, seen) = (gap.as_f64().unwrap(), first.gap_to(&second).as_secs_f64());
        println!("nothing ran for {gap} s as measured, for {seen} s as the children tell");
        assert!((seen - gap).abs() < SLACK, "measured {gap}, seen {seen}");
        self.witness.check();
    }

    /// The promise was kept, in every figure, and the history knows why the singleton moved.
    #[track_caller]
    fn kept(&self, told: &Value, by: &str) {
        let second = self.witness.after(&self.first, PATIENCE);
        let (node, token, next) = (&self.first.node, self.first.token, second.token);
        let right = json!({
            "node": node, "name": "beat", "token": token, "next": next, "kept": true, "overlap": 0.0, "broken": [],
            "gap_at_most": false, "ttl": 2.0,
        });
        let figures = right.as_object().unwrap().iter();
        figures.for_each(|(key, figure)| assert_eq!(told[key], *figure, "{key}: {told}"));
        let last = &self.tenures()[0];
        assert_eq!((&last["cause"], &last["detail"]), (&json!("drilled"), &told["kind"]), "{last}");
        assert!(last["by"].as_str().unwrap().starts_with(by), "{last}");
        // Whatever the harmed agent tells of it when it is back.
        assert_eq!((&last["gap"], &last["overlap"]), (&told["gap"], &json!(0.0)), "{last}");
        self.measured(&told["gap"]);
    }
}

fn config(circus: &str, witness: &Witness, redis: &RedisServer) -> String {
    let command = witness.command("grace=0.05");
    format!(
        "{circus}\n[watcher:beat]\ncmd = {command}\nsingleton = true\ngraceful_timeout = 500ms\n\
         [watcher:web]\ncmd = sleep 1000\n[redis]\nurl = {}\nlease_ttl = 2s\n",
        redis.url()
    )
}

#[test]
fn a_killed_agent_cannot_tell_when_its_child_ended_and_its_witness_can() {
    let mut stage = Stage::new();
    let told = stage.drill(&["kill", "--json"]).expect(0).json();
    assert_eq!((&told["kind"], &told["lasting"]), (&json!("kill"), &Value::Null));
    let asker = format!("circusctl (uid {}) on {}", nix::unistd::getuid(), stage.other().name);
    stage.kept(&told, &asker);
    let holder = usize::from(stage.agents[1].name == stage.first.node);
    assert_eq!(stage.agents[holder].ends().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_frozen_agent_wakes_to_a_singleton_that_runs_elsewhere_and_starts_no_second_one() {
    let stage = Stage::new();
    let said = stage.drill(&["freeze"]).expect(0);
    let (from, to) = (&stage.first.node, &stage.other().name);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", said.out);
    let (token, pid) = (stage.first.token, stage.first.pid);
    assert_eq!(
        lines[0],
        format!("beat runs on {from} (token {token}, pid {pid}): the agent of {from} is frozen for 3.00 s")
    );
    assert!(lines[1].ends_with(&format!("Z  nothing is left of it on {from}")), "{}", lines[1]);
    let second = stage.witness.after(&stage.first, PATIENCE);
    assert!(lines[2].contains(&format!("Z  it runs on {to} (token {}, pid ", second.token)), "{}", lines[2]);
    assert!(
        lines[3].starts_with("gap ") && lines[3].contains(" (promised: ttl 2 s + 1 s), overlap none, "),
        "{}",
        said.out
    );
    assert!(lines[3].ends_with(&format!("token {token} → {}: the promise was kept", second.token)), "{}", said.out);
    // It goes on, and what it tells of its own end by now counts less than what the witness saw.
    stage.holder().comes_to("beat", "standby");
    stage.holder().comes_to("web", "active");
    let last = &stage.tenures()[0];
    assert_eq!((&last["cause"], &last["overlap"]), (&json!("drilled"), &json!(0.0)), "{last}");
    stage.witness.lives_on(&second, Duration::from_millis(100));
    stage.measured(&last["gap"]);
}

#[test]
fn an_agent_without_redis_stops_its_child_in_time_and_comes_back() {
    let stage = Stage::new();
    let told = stage.over_redis(&["drill", "beat", "--yes", "--kind", "redis-loss", "--for", "2500ms", "--json"]);
    let told = told.expect(0).json();
    assert_eq!((&told["kind"], &told["lasting"]), (&json!("redis-loss"), &json!(2.5)));
    assert!(stage.holder().log().contains("cut off by a drill"), "{}", stage.holder().log());
    stage.holder().comes_to("beat", "standby");
    stage.kept(&told, "circusctl on ");
    // What needs no Redis never noticed.
    assert_eq!(stage.holder().watcher("web")["restarts"], 0);
}

#[test]
fn what_is_short_enough_is_run_through() {
    let stage = Stage::new();
    let said = stage.drill(&["freeze", "--for", "100ms"]).expect(0);
    let last = format!("no gap, as it ran through, overlap none, token {}: the promise was kept\n", stage.first.token);
    assert!(said.out.ends_with(&last), "{}", said.out);
    assert_eq!(stage.witness.children().len(), 1);
}

#[test]
fn what_cannot_be_drilled_is_refused_and_nothing_is_done() {
    let stage = Stage::with("");
    let refused = |said: Said, code: i32, why: &str| {
        let said = said.expect(code);
        assert!(said.err.contains(why), "{why}: {}", said.err);
    };
    let holder = stage.holder().name.clone();
    refused(stage.drill(&["kill"]), 1, &format!("{holder} allows no drills: put allow_drills = true into"));
    let ask = |words: &[&str]| stage.other().ctl(&stage.home, words);
    refused(ask(&["drill", "web", "--yes", "--kind", "kill"]), 1, "web is no singleton");
    refused(ask(&["drill", "baet", "--yes", "--kind", "kill"]), 1, "did you mean beat?");
    refused(ask(&["drill", "beat", "--kind", "kill"]), 2, "add --yes if that is meant");
    refused(ask(&["drill", "beat", "--yes", "--kind", "kill", "--for", "1"]), 2, "a kill is for good");
    refused(ask(&["drill", "beat", "--yes", "--kind", "kill", "--all"]), 2, "leave --node and --all out");
    // The very agent that is to be harmed cannot tell what becomes of it; put to it by hand it refuses as well.
    let here = stage.holder().ctl(&stage.home, &["drill", "beat", "--yes", "--kind", "freeze"]);
    refused(here, 2, "run this on another node, or with --endpoint redis://");
    let by_hand =
        |agent: &Agent| agent.ask(&json!({"command": "drill", "properties": {"name": "beat", "kind": "kill"}}));
    assert_eq!(by_hand(stage.holder())["code"], "no-drills");
    let elsewhere = by_hand(stage.other());
    assert_eq!((&elsewhere["code"], &elsewhere["holder"]), (&json!("not-holder"), &json!(holder)));
    assert_eq!(stage.witness.children().len(), 1);
    stage.witness.ticks(&stage.first);
}

#[test]
fn where_nobody_could_take_over_nothing_is_done() {
    let mut stage = Stage::new();
    let other = usize::from(stage.agents[1].name != stage.first.node);
    stage.agents[other].signal(libc::SIGTERM);
    stage.agents[other].exits(0);
    let said = stage.over_redis(&["drill", "beat", "--yes", "--kind", "kill"]).expect(1);
    assert!(said.err.contains("beat stays: no node waits for it"), "{}", said.err);
    stage.witness.ticks(&stage.first);

    // Nor where there is no cluster at all.
    let home = Home::new();
    let alone = home.agent("alone", "allow_drills = true\n[watcher:beat]\ncmd = sleep 1000\nsingleton = true\n");
    let said = alone.ctl(&home, &["drill", "beat", "--yes", "--kind", "kill"]).expect(1);
    assert!(said.err.contains("no [redis] section"), "{}", said.err);
}
