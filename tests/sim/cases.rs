//! The cases that a real Redis passes (`tests/cluster.rs`), on the simulated one: it may stand for the other.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::cluster::{claim, muster, scripts};
use circus_agent::model::attendance::Attendance;
use circus_agent::model::election::{Membership, Muster};
use circus_agent::model::event::{Ask, Claim, Claimed, LeaseAnswer};
use circus_agent::model::names::{LeaseName, NodeName, WatcherName};
use circus_agent::model::time::Time;

use crate::lease_cases::{self, Disturbance, Store};
use crate::simulated_redis::{SimulatedRedis, Snapshot};

/// What its clock shows at the beginning, in ms.
const EPOCH: u64 = 1_700_000_000_000;

struct SimulatedStore {
    redis: SimulatedRedis,
    now: Duration,
    /// What the nodes' own clocks show: nobody sets them back.
    passed: Duration,
    attendance: BTreeMap<String, Attendance>,
    saved: Snapshot,
}

impl SimulatedStore {
    fn run(&mut self, call: &scripts::Call) -> Result<Vec<String>, String> {
        self.redis.eval(EPOCH + self.now.as_millis() as u64, call)
    }
}

impl Store for SimulatedStore {
    fn ask(&mut self, lease: &LeaseName, ask: &Ask) -> LeaseAnswer {
        match self.run(&scripts::call(lease, ask)) {
            Ok(words) => scripts::answer(&words),
            Err(reason) => LeaseAnswer::Failed { reason },
        }
    }

    fn muster(&mut self, node: &str, membership: Option<Membership>) -> Result<Muster, String> {
        let sent = Time::ZERO + self.passed;
        let name = NodeName::parse(node).unwrap();
        let call = muster::call(&lease_cases::lease(), &name, sent, membership.as_ref());
        let said = self.run(&call).and_then(|words| muster::answer(&words));
        self.attendance.entry(node.to_owned()).or_default().call(sent, vec![said])
    }

    fn claim(&mut self, node: &str, watcher: &str, claim: Claim) -> Claimed {
        let (watcher, node) = (WatcherName::parse(watcher).unwrap(), NodeName::parse(node).unwrap());
        let call = claim::call(&lease_cases::lease(), &watcher, &node, claim);
        self.run(&call).map_or_else(Claimed::Unknown, |words| claim::answer(&words))
    }

    fn unix_time(&self) -> u64 {
        EPOCH / 1_000 + self.now.as_secs()
    }

    fn init(&mut self, lease: &LeaseName) -> Result<(), String> {
        let words = self.run(&scripts::init_call(lease))?;
        scripts::init_answer(lease, &words)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.passed += time;
    }

    fn disturb(&mut self, how: Disturbance) {
        match how {
            Disturbance::FlushAll => self.redis.flush(),
            // It compiles each script it is given, every time.
            Disturbance::FlushScripts => {}
            Disturbance::Delete(key) => self.redis.delete(&key),
            Disturbance::Overwrite(key, value) => self.redis.overwrite(&key, &value),
            Disturbance::RestartEmpty => self.redis.restart(false),
            Disturbance::Save => self.saved = self.redis.snapshot(),
            Disturbance::RestartWithSaved => self.redis.restore(&self.saved),
            Disturbance::SetBack(_, by) => self.now -= by,
        }
    }
}

fn run_lease_case(case: lease_cases::Case) {
    let redis = SimulatedRedis::new(1, &[]);
    // Its clock has been going for a day, and can be set back.
    let now = Duration::from_secs(86_400);
    let mut store = SimulatedStore { redis, now, passed: now, attendance: BTreeMap::new(), saved: Snapshot::default() };
    case(&mut store, Duration::from_secs(15));
}

lease_case_tests!();
