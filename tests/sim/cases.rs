//! The cases that a real Redis passes (`tests/cluster.rs`), on the simulated one: it may stand for the other.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::cluster::{muster, scripts};
use circus_agent::model::attendance::Attendance;
use circus_agent::model::election::{Membership, Muster};
use circus_agent::model::event::{Ask, LeaseAnswer};
use circus_agent::model::names::{LeaseName, NodeName};
use circus_agent::model::time::Time;

use crate::lease_cases::{self, Disturbance, Store};
use crate::simulated_redis::{Rewrite, SimulatedRedis, Snapshot};

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
        self.redis.eval(1_700_000_000_000 + self.now.as_millis() as u64, call)
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
            Disturbance::OthersTurn(key, value, ttl) => {
                let now = 1_700_000_000_000 + self.now.as_millis() as u64;
                self.redis.others_turn(now, (&key, &value), ttl);
            }
            Disturbance::RestartEmpty => self.redis.restart(false),
            Disturbance::Save => self.saved = self.redis.snapshot(),
            Disturbance::RestartWithSaved => self.redis.restore(&self.saved),
            Disturbance::SetBack(_, by) => self.now -= by,
        }
    }
}

fn run_lease_case(case: lease_cases::Case) {
    run_on(&[], case);
}

/// Runs a case on scripts with something planted in them.
fn run_on(rewrite: Rewrite, case: lease_cases::Case) {
    let redis = SimulatedRedis::new(1, rewrite);
    // Its clock has been going for a day, and can be set back.
    let now = Duration::from_secs(86_400);
    let mut store = SimulatedStore { redis, now, passed: now, attendance: BTreeMap::new(), saved: Snapshot::default() };
    case(&mut store, Duration::from_secs(15));
}

lease_case_tests!();

#[test]
fn what_is_planted_beside_another_programs_value_is_seen() {
    let plants: [(Rewrite, lease_cases::Case); 4] = [
        // It is taken for nobody's.
        (
            &[(
                "if holder and not same(holder, owner)",
                "if holder and #nonce(holder) == 32 and not same(holder, owner)",
            )],
            lease_cases::what_another_program_holds_no_agent_takes_before_its_end,
        ),
        // Its end is not recorded, and waited for once more where it is over.
        (
            &[("not same(holder, meta[8])", "false")],
            lease_cases::what_another_program_holds_no_agent_takes_before_its_end,
        ),
        // Or it is, and what was free before goes on being free.
        (
            &[(
                "'state', 'quarantine', 'until', text(ends), 'inc', inc, 'ttl'",
                "'until', text(ends), 'inc', inc, 'ttl'",
            )],
            lease_cases::what_another_program_held_is_not_free_where_its_key_is_lost,
        ),
        // Or whose it was before goes on being its holder.
        (
            &[(
                "'state', 'quarantine', 'until', text(ends), 'inc', inc, 'ttl'",
                "'until', text(ends), 'inc', inc, 'ttl'",
            )],
            lease_cases::a_holder_does_not_restore_what_another_program_had_meanwhile,
        ),
    ];
    for (rewrite, case) in plants {
        assert!(scripts::TAKE.contains(rewrite[0].0), "{}", rewrite[0].0);
        assert!(std::panic::catch_unwind(|| run_on(rewrite, case)).is_err(), "not seen: {}", rewrite[0].0);
    }
}
