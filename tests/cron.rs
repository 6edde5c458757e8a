//! Watchers that run at times, end to end: real agents, each slot once, also where the node that has it dies.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// A watcher `job` that tells of its runs.
fn job(home: &Home, schedule: &str, more: &str) -> String {
    let runs = home.file("runs");
    let tells = format!("echo \"$CIRCUS_NODE $CIRCUS_SLOT $CIRCUS_FENCING_TOKEN\" >> {}", runs.display());
    format!("\n[watcher:job]\nshell = True\ncmd = {tells}\ncron = {schedule}\nmisfire_grace = {GRACE}\n{more}\n")
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
        let home = Home::new();
        let at = redis.as_ref().map_or_else(String::new, |redis| format!("\n[redis]\nurl = {}\n", redis.url()));
        let schedule = format!("*/{EVERY} * * * * *");
        let config = job(&home, &schedule, "legion = ip") + "[legion:ip]\ntolerance = 1\n" + &at;
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

    /// Kills the node, and gives the other one.
    fn kill(&mut self, node: &str) -> &Agent {
        let lord = usize::from(self.agents[1].name == node);
        self.agents[lord].kill();
        &self.agents[1 - lord]
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

/// The lord dies after it has begun a run: the next one knows, and goes on with the next slot.
fn a_run_that_began_is_not_repeated(redis: Option<RedisServer>) {
    let mut pair = Pair::new(redis);
    let first = pair.run_from(0);
    let next = pair.kill(&first.node);
    next.logs(&format!("{} had it", first.node));
    let second = pair.run_from(first.slot + 1);
    assert_eq!((second.slot, second.node == first.node), (first.slot + EVERY, false));
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
}
