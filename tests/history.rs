//! What is kept of leases, end to end: real agents with real ends, and what circusctl tells of them.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "support/witness.rs"]
mod witness;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use agent::{Agent, Home, PATIENCE, wait_for};
use redis_server::RedisServer;
use witness::{Life, Witness};

fn beat(witness: &Witness) -> String {
    let command = witness.command("grace=0.05");
    format!("\n[watcher:beat]\ncmd = {command}\nsingleton = true\ngraceful_timeout = 1s\n")
}

fn redis_section(redis: &RedisServer) -> String {
    format!("\n[redis]\nurl = {}\nlease_ttl = 1s\n", redis.url())
}

/// The latest tenure, once it is the one of this child.
#[track_caller]
fn latest(home: &Home, agent: &Agent, child: &Life) -> Value {
    wait_for("the tenure to be told", || {
        let said = agent.ctl(home, &["history", "beat", "--json"]);
        let told = said.json()["history"][0]["tenures"][0].clone();
        (told["token"] == child.token && told["start"].is_f64()).then_some(told)
    })
}

/// Two agents, of which one may run the singleton at once.
fn pair(home: &Home, config: &str) -> [Agent; 2] {
    let agents = [home.agent("a", config), home.agent("b", config)];
    wait_for("the lease to be initialised", || {
        (agents[0].ctl(home, &["lease", "init", "beat"]).code == 0).then_some(())
    });
    agents
}

/// Which of two agents runs this child, and the other one.
fn sides(agents: &mut [Agent; 2], child: &Life) -> (usize, usize) {
    let holder = usize::from(agents[1].name == child.node);
    (holder, 1 - holder)
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn a_move_a_crash_and_an_outage_are_told_as_they_were_measured() {
    let (home, mut redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let config = beat(&witness) + &redis_section(&redis);
    let mut agents = pair(&home, &config);
    let first = witness.first();
    let told = latest(&home, &agents[0], &first);
    assert_eq!((&told["cause"], &told["from"], &told["to"]), (&json!("first"), &Value::Null, &json!(first.node)));
    assert!((number(&told["start"]) - unix_time()).abs() < PATIENCE.as_secs_f64(), "{told}");

    // A planned move, asked for at the node that does not hold it: the holder knows who asked all the same.
    let (_, other) = sides(&mut agents, &first);
    let asked = Instant::now();
    wait_for("the other node to wait", || (agents[other].ctl(&home, &["failover", "beat"]).code == 0).then_some(()));
    let second = witness.after(&first, PATIENCE);
    let told = latest(&home, &agents[0], &second);
    let asker = format!("circusctl (uid {}) on {}", nix::unistd::getuid(), agents[other].name);
    assert_eq!(
        (&told["cause"], &told["from"], &told["to"], &told["by"], &told["overlap"], &told["gap_at_most"]),
        (&json!("moved"), &json!(first.node), &json!(second.node), &json!(asker), &json!(0.0), &json!(false))
    );
    println!("a planned move: nothing ran for {} s, as measured", told["gap"]);
    assert!(number(&told["gap"]) <= asked.elapsed().as_secs_f64(), "{told}");

    // Its token counts, and the one before does not.
    let check =
        |agent: &Agent, token: u64| agent.ctl(&home, &["lease", "check", "beat", "--token", &token.to_string()]);
    for agent in &agents {
        assert!(check(agent, second.token).expect(0).out.starts_with(&format!("token {} holds beat", second.token)));
        let over = check(agent, first.token).expect(1).out;
        assert!(over.contains(&format!("{} holds it with token {}", second.node, second.token)), "{over}");
    }

    // Every node explains its part.
    let (holder, other) = sides(&mut agents, &second);
    let (here, there) = (&agents[other].name, &agents[holder].name);
    agents[other].comes_to("beat", "standby");
    agents[other].notes("beat", &format!("held by {there}"));
    let told = agents[other].ctl(&home, &["explain", "beat"]).expect(0).out;
    assert!(told.starts_with(&format!("beat runs on {there}.\n")), "{told}");
    assert!(told.contains(&format!("token {}", second.token)), "{told}");
    assert!(told.contains(&format!("\n  ✘ {here:<12}lease: held by {there}, ")), "{told}");
    let told = agents[holder].ctl(&home, &["explain", "beat", "--node", here]).expect(0).out;
    assert!(told.starts_with(&format!("beat is not running on {here}, and that is right.\n")), "{told}");
    assert!(told.contains(&format!("  ✔ store       Redis at 127.0.0.1:{}\n", redis.port())), "{told}");
    assert!(told.ends_with(&format!("To move it here:  circusctl failover beat --to {here}\n")), "{told}");
    let told = agents[other].ctl(&home, &["metrics", "--all"]).expect(0).out;
    for (node, held, taken) in [(here, 0, 1), (there, 1, 1)] {
        for series in [
            format!("held{{node=\"{node}\",watcher=\"beat\"}} {held}\n"),
            format!("taken_total{{node=\"{node}\",watcher=\"beat\"}} {taken}\n"),
        ] {
            assert!(told.contains(&format!("circus_lease_{series}")), "{series} is missing in:\n{told}");
        }
    }

    // The holder is killed: nobody can tell when its child ended, but the store knows when it was last heard of.
    witness.ticks(&second);
    agents[holder].signal(libc::SIGKILL);
    agents[holder].ends();
    let third = witness.after(&second, PATIENCE);
    let told = latest(&home, &agents[other], &third);
    assert_eq!(
        (&told["cause"], &told["from"], &told["overlap"], &told["gap_at_most"]),
        (&json!("expired"), &json!(second.node), &Value::Null, &json!(true))
    );
    // A ttl was waited out, counted from then.
    assert!(number(&told["gap"]) >= 0.9, "{told}");
    assert!((number(&told["start"]) - number(&told["last_seen"]) - number(&told["gap"])).abs() < 0.002, "{told}");
    let text = agents[other].ctl(&home, &["history", "beat"]).expect(0).out;
    assert!(text.contains(&format!("lease expired, {} last seen ", second.node)), "{text}");
    assert!(text.ends_with("in 7 days, no overlap\n"), "{text}");

    // Redis is away: the child is stopped in time, and that is told when Redis is back, though all data is lost.
    agents[holder] = home.agent(&second.node, &config);
    redis.kill();
    let down = unix_time();
    assert_eq!(check(&agents[other], third.token).code, 5, "nobody can know");
    wait_for("the child to stop", || witness.running().is_empty().then_some(()));
    let stopped = unix_time();
    assert_eq!(agents[other].ctl(&home, &["history", "beat"]).code, 1);
    redis.restart();
    let fourth = witness.after(&third, PATIENCE);
    let told = latest(&home, &agents[other], &fourth);
    assert_eq!(
        (&told["cause"], &told["from"], &told["overlap"]),
        (&json!("unconfirmed"), &json!(third.node), &json!(0.0))
    );
    assert!(told["detail"].as_str().unwrap().contains("connection refused"), "{told}");
    let ended = number(&told["start"]) - number(&told["gap"]);
    assert!(down - 0.1 < ended && ended < stopped + 0.1, "{ended} is not between {down} and {stopped}: {told}");
    drop(agents);
    witness.check_over();
}

#[test]
fn an_agent_that_was_stopped_tells_of_no_overlap_that_was_none() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let witness = Witness::new(home.path());
    let config = beat(&witness) + &redis_section(&redis);
    let mut agents = pair(&home, &config);
    let first = witness.first();
    witness.ticks(&first);
    let (holder, other) = sides(&mut agents, &first);
    agents[other].comes_to("beat", "standby");
    agents[holder].signal(libc::SIGSTOP);
    let second = witness.after(&first, PATIENCE);
    witness.ticks(&second);
    agents[holder].signal(libc::SIGCONT);
    let told = wait_for("the end to be told", || {
        let told = latest(&home, &agents[other], &second);
        told["overlap"].is_f64().then_some(told)
    });
    assert_eq!((number(&told["overlap"]), &told["gap_at_most"]), (0.0, &json!(false)), "{told}");
    drop(agents);
    witness.check_over();
}

#[test]
fn agents_of_one_machine_keep_a_history_too() {
    let home = Home::new();
    let witness = Witness::new(home.path());
    let config = beat(&witness);
    let mut agents = [home.agent("a", &config), home.agent("b", &config)];
    let first = witness.first();
    let (holder, other) = sides(&mut agents, &first);
    agents[holder].signal(libc::SIGTERM);
    let second = witness.after(&first, PATIENCE);
    agents[holder].exits(0);
    let told = latest(&home, &agents[other], &second);
    let by = format!("SIGTERM from pid {} (uid {})", std::process::id(), nix::unistd::getuid());
    assert_eq!((&told["cause"], &told["by"], &told["overlap"]), (&json!("agent-stopping"), &json!(by), &json!(0.0)));
    println!("SIGTERM on one machine: nothing ran for {} s, as measured", told["gap"]);

    agents[holder] = home.agent(&first.node, &config);
    agents[holder].comes_to("beat", "standby");
    agents[other].signal(libc::SIGKILL);
    agents[other].ends();
    let third = witness.after(&second, PATIENCE);
    let told = latest(&home, &agents[holder], &third);
    assert_eq!((&told["cause"], &told["gap_at_most"]), (&json!("died"), &json!(true)));
    let text = agents[holder].ctl(&home, &["history"]).expect(0).out;
    assert!(text.contains(&format!("the agent of {} died, {0} last seen ", second.node)), "{text}");

    let token = |token: u64| token.to_string();
    agents[holder].ctl(&home, &["lease", "check", "beat", "--token", &token(third.token)]).expect(0);
    let over = agents[holder].ctl(&home, &["lease", "check", "beat", "--token", &token(first.token)]).expect(1);
    assert!(over.out.contains(&format!("{} holds it with token {}", third.node, third.token)), "{}", over.out);
    agents[holder].ctl(&home, &["stop", "beat", "--waiting"]).expect(0);
    let over = agents[holder].ctl(&home, &["lease", "check", "beat", "--token", &token(third.token)]).expect(1);
    assert!(over.out.contains("nobody does"), "{}", over.out);
    drop(agents);
    witness.check_over();
}
