//! Watchers that run at times, end to end: real agents, each slot once, also where the node that has it dies.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use agent::{Agent, Home, wait_for, wait_within};
use redis_server::RedisServer;

/// From one slot to the next, and how late a run may begin, in seconds.
const EVERY: u64 = 15;
const GRACE: u64 = 10;

/// What a run has told of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    node: String,
    slot: u64,
    token: String,
}

/// All runs that there were.
fn runs(home: &Home) -> Vec<Run> {
    let text = fs::read_to_string(home.file("runs")).unwrap_or_default();
    let run = |line: &str| {
        let [node, slot, token] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        Some(Run { node: node.into(), slot: slot.parse().ok()?, token: token.into() })
    };
    text.lines().filter_map(run).collect()
}

/// A watcher `job` that tells of its runs, and then does this.
fn job_that(home: &Home, does: &str, schedule: &str, more: &str) -> String {
    let runs = home.file("runs");
    let tells = format!("echo \"$CIRCUS_NODE $CIRCUS_SLOT $CIRCUS_FENCING_TOKEN\" >> {}", runs.display());
    format!(
        "\n[watcher:job]\nshell = True\ncmd = {tells}; {does}\ncron = {schedule}\nmisfire_grace = {GRACE}\n{more}\n"
    )
}

/// One that does nothing more.
fn job(home: &Home, schedule: &str, more: &str) -> String {
    job_that(home, "true", schedule, more)
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Two nodes of a legion whose lord has the job.
struct Pair {
    agents: [Agent; 2],
    home: Home,
    _redis: Option<RedisServer>,
}

impl Pair {
    fn new(redis: Option<RedisServer>) -> Pair {
        Pair::that(redis, "true", "")
    }

    fn that(redis: Option<RedisServer>, does: &str, more: &str) -> Pair {
        let home = Home::new();
        let at = redis.as_ref().map_or_else(String::new, |redis| format!("\n[redis]\nurl = {}\n", redis.url()));
        let schedule = format!("*/{EVERY} * * * * *");
        let more = format!("legion = ip\n{more}");
        let config = job_that(&home, does, &schedule, &more) + "[legion:ip]\ntolerance = 1\n" + &at;
        let agents = [home.agent("a", &config), home.agent("b", &config)];
        if redis.is_some() {
            wait_for("the lease to be initialised", || {
                (agents[0].ctl(&home, &["lease", "init", "ip"]).code == 0).then_some(())
            });
        }
        Pair { home, agents, _redis: redis }
    }

    /// The run of a slot from this one on.
    fn run_from(&self, slot: u64) -> Run {
        let found = || runs(&self.home).into_iter().find(|run| run.slot >= slot);
        wait_within(Duration::from_secs(4 * EVERY), "a run", found)
    }

    /// The run of the next slot from now on, rather than of one that was made up for at the start.
    fn next_run(&self) -> Run {
        wait_for("a lord", || self.agents.iter().find(|agent| agent.watcher("job")["state"] == "scheduled"));
        self.run_from(unix_time() + 1)
    }

    /// That node, and the other one.
    fn of(&self, node: &str) -> (usize, usize) {
        let at = usize::from(self.agents[1].name == node);
        (at, 1 - at)
    }

    /// Kills the node, and gives the other one.
    fn kill(&mut self, node: &str) -> &Agent {
        let (lord, other) = self.of(node);
        self.agents[lord].kill();
        &self.agents[other]
    }

    /// What an agent tells of a run, once that is how it is with it.
    #[track_caller]
    fn comes_to(&self, agent: usize, run: &Run, outcome: &str) -> Value {
        wait_for(&format!("the run to be told as {outcome}"), || {
            let said = self.agents[agent].ctl(&self.home, &["history", "job", "--json"]);
            let told = told(&said.json(), run.slot)?;
            assert_eq!((&told["node"], told["token"].to_string()), (&json!(run.node), run.token.clone()), "{told}");
            (told["outcome"] == outcome).then_some(told)
        })
    }

    /// Each slot has had one run, each tenure a token of its own.
    fn each_slot_had_one_run(&self) {
        let (mut slots, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for run in runs(&self.home) {
            assert_eq!(slots.insert(run.slot, run.clone()), None, "two runs: {run:?}");
            let node = tokens.entry(run.token.clone()).or_insert_with(|| run.node.clone());
            assert_eq!(*node, run.node, "{run:?}");
        }
    }
}

/// What is told of a slot.
fn told(history: &Value, slot: u64) -> Option<Value> {
    history["history"][0]["runs"].as_array()?.iter().find(|run| run["slot"] == slot).cloned()
}

/// The lord dies after it has begun a run: the next one knows, tells of it, and goes on with the next slot.
fn a_run_that_began_is_not_repeated(redis: Option<RedisServer>) {
    let mut pair = Pair::new(redis);
    let first = pair.next_run();
    let (_, other) = pair.of(&first.node);
    let done = pair.comes_to(other, &first, "done");
    assert_eq!(done["exit_code"], 0);
    let (began, ended) = (done["began"].as_f64().expect("a beginning"), done["ended"].as_f64().expect("an end"));
    // Give or take what the store's clock is off, as each time was measured.
    let slot = first.slot as f64;
    assert!(slot - 1.0 < began && began <= ended && ended < slot + GRACE as f64, "{done}");
    println!("begun {:.0} ms after its time", 1_000.0 * (began - slot));
    let next = pair.kill(&first.node);
    next.logs(&format!("{} had it", first.node));
    let late = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - slot;
    println!("known {late:.2} s after it that it is not to be repeated");
    assert!(late < GRACE as f64, "no later would it have been repeated");
    assert_eq!(pair.comes_to(other, &first, "done"), done);
    let second = pair.run_from(first.slot + 1);
    assert_eq!((second.slot, second.node == first.node), (first.slot + EVERY, false));
    pair.comes_to(other, &second, "done");
    pair.each_slot_had_one_run();
}

/// The lord dies in the middle of a run: nobody says how that ended, and nobody makes it up.
fn a_run_that_was_killed_with_its_node_is_unfinished(redis: Option<RedisServer>) {
    let mut pair = Pair::that(redis, "exec sleep 600", "");
    let first = pair.run_from(0);
    let (_, other) = pair.of(&first.node);
    let running = pair.comes_to(other, &first, "running");
    assert!(running["pid"].is_u64() && running["ended"].is_null(), "{running}");
    pair.kill(&first.node);
    let unfinished = pair.comes_to(other, &first, "unfinished");
    assert_eq!((&unfinished["began"], &unfinished["pid"]), (&running["began"], &running["pid"]));
    assert!(unfinished["ended"].is_null() && unfinished["exit_code"].is_null(), "{unfinished}");
    let second = pair.run_from(first.slot + 1);
    pair.comes_to(other, &second, "running");
    let text = pair.agents[other].ctl(&pair.home, &["history", "job"]).expect(0).out;
    assert!(text.contains("  unfinished: nothing was heard of its end\n"), "{text}");
    pair.each_slot_had_one_run();
}

#[test]
fn what_was_killed_with_its_node_is_told_as_unfinished() {
    a_run_that_was_killed_with_its_node_is_unfinished(Some(RedisServer::start()));
}

#[test]
fn and_so_it_is_on_a_machine_without_redis() {
    a_run_that_was_killed_with_its_node_is_unfinished(None);
}

#[test]
fn a_failed_run_is_told_and_by_itself_moves_nothing() {
    let pair = Pair::that(Some(RedisServer::start()), "exit 3", "");
    let first = pair.run_from(0);
    let (here, other) = pair.of(&first.node);
    let failed = pair.comes_to(other, &first, "failed");
    assert_eq!((&failed["exit_code"], &failed["why"]), (&json!(3), &json!("exit 3")));
    let events = pair.agents[here].ctl(&pair.home, &["events", "job", "--json"]).expect(0).out;
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let event = events.iter().find(|event| event["event"] == "cron_failure").expect("an event");
    assert_eq!((&event["body"]["slot"], &event["body"]["error"]), (&json!(first.slot), &json!("exit 3")));
    pair.agents[here].notes("job", ": exit 3");
    let metrics = pair.agents[here].ctl(&pair.home, &["metrics"]).expect(0).out;
    let series =
        |result| format!("circus_cron_runs_total{{node=\"{}\",watcher=\"job\",result=\"{result}\"}}", first.node);
    assert!(metrics.contains(&format!("{} 1\n", series("failed"))), "{metrics}");
    assert!(metrics.contains(&format!("{} 0\n", series("done"))), "{metrics}");
    let second = pair.run_from(first.slot + 1);
    assert_eq!((second.slot, &second.node), (first.slot + EVERY, &first.node), "it is not repeated, and stays");
    assert_eq!(second.token, first.token);
    pair.each_slot_had_one_run();
}

#[test]
fn a_failed_run_moves_the_legion_where_it_is_to() {
    let pair = Pair::that(Some(RedisServer::start()), "exit 3", "cron_on_failure = stand_back 1h");
    let first = pair.run_from(0);
    let (here, other) = pair.of(&first.node);
    pair.agents[other].logs("ip: lease held, token");
    pair.comes_to(other, &first, "failed");
    pair.agents[here].notes("ip", "exit 3: stood back for another node");
    let second = pair.run_from(first.slot + 1);
    assert_eq!((second.slot, second.node == first.node), (first.slot + EVERY, false));
    pair.comes_to(other, &second, "failed");
    pair.comes_to(here, &first, "failed");
    pair.each_slot_had_one_run();
}

#[test]
fn a_lord_that_dies_after_a_slot_leaves_nothing_to_repeat() {
    a_run_that_began_is_not_repeated(Some(RedisServer::start()));
}

#[test]
fn and_neither_does_one_on_a_machine_without_redis() {
    a_run_that_began_is_not_repeated(None);
}

#[test]
fn a_lord_that_dies_before_a_slot_has_the_next_one_run_it() {
    let mut pair = Pair::new(Some(RedisServer::start()));
    let lord = wait_for("a lord", || pair.agents.iter().position(|agent| agent.watcher("job")["state"] == "scheduled"));
    let lord = pair.agents[lord].name.clone();
    // So late that its lease ends after the slot.
    let slot = wait_within(Duration::from_secs(2 * EVERY), "the last moment before a slot", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let slot = (unix_time() / EVERY + 1) * EVERY;
        (u128::from(slot) * 1_000 - now <= 400).then_some(slot)
    });
    pair.kill(&lord);
    let run = pair.run_from(slot);
    assert_eq!((run.slot, run.node == lord), (slot, false));
    let (_, other) = pair.of(&lord);
    let done = pair.comes_to(other, &run, "done");
    println!("made up for {:.2} s after its time", done["began"].as_f64().expect("a beginning") - slot as f64);
    pair.each_slot_had_one_run();
}

#[test]
fn without_a_lease_each_node_runs_by_itself_and_tells_what_became_of_it() {
    let home = Home::new();
    let agent = home.agent("a", &(job(&home, "* * * * * *", "") + "[watcher:bad]\ncmd = false\ncron = * * * * * *\n"));
    let all = wait_for("three runs", || Some(runs(&home)).filter(|all| all.len() >= 3));
    assert!(all.windows(2).all(|two| two[0].slot < two[1].slot), "{all:?}");
    assert!(all.iter().all(|run| run.token.is_empty() && run.slot.abs_diff(unix_time()) < 60), "{all:?}");
    agent.notes("bad", ": exit 1");
    assert_eq!(agent.ctl(&home, &["status"]).code, 0, "a failed run is not unwell");
    let history = agent.ctl(&home, &["history", "job", "--json"]).json();
    for run in &all[..2] {
        let told = told(&history, run.slot).unwrap_or_else(|| panic!("no {run:?} in {history}"));
        assert_eq!((&told["outcome"], &told["node"], &told["token"]), (&json!("done"), &json!("a"), &Value::Null));
        assert!((told["began"].as_f64().expect("a beginning") - run.slot as f64).abs() < 5.0, "{told}");
    }
    let history = agent.ctl(&home, &["history", "-n", "1"]).expect(0).out;
    assert!(history.contains("  failed: exit 1\n"), "{history}");
}
