//! The cases that a real Redis passes (`tests/cluster.rs`), on the simulated one: it may stand for the other.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::cluster::scripts::{CLAIM, PAUSE, REFRESH, TAKE};
use circus_agent::cluster::{claim, muster, pause, scripts};
use circus_agent::model::attendance::Attendance;
use circus_agent::model::election::{Membership, Muster};
use circus_agent::model::event::{Ask, Claim, Claimed, LeaseAnswer};
use circus_agent::model::names::{LeaseName, NodeName, WatcherName};
use circus_agent::model::pause::{Told, Wish};
use circus_agent::model::time::Time;

use crate::lease_cases::{self, Disturbance, Store};
use crate::simulated_redis::{Rewrite, SimulatedRedis, Snapshot};

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

    fn muster_as(&mut self, agent: &str, name: &str, membership: Option<Membership>) -> Result<Muster, String> {
        let sent = Time::ZERO + self.passed;
        let (name, instance) = (NodeName::parse(name).unwrap(), lease_cases::instance(agent));
        let call = muster::call(&lease_cases::lease(), (&name, instance), sent, membership.as_ref());
        let said = self.run(&call).and_then(|words| muster::answer(&words));
        self.attendance.entry(agent.to_owned()).or_default().call(sent, vec![said])
    }

    fn claim(&mut self, node: &str, watcher: &str, claim: Claim) -> Claimed {
        let (watcher, node) = (WatcherName::parse(watcher).unwrap(), NodeName::parse(node).unwrap());
        let call = claim::call(&lease_cases::lease(), &watcher, &node, claim);
        self.run(&call).map_or_else(Claimed::Unknown, |words| claim::answer(&words))
    }

    fn pause(&mut self, wish: Wish) -> Result<Told, String> {
        let call = pause::call(&lease_cases::lease(), &wish);
        self.run(&call).and_then(|words| pause::answer(&words))
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

/// For each case of claims a script that does not do what it wants.
const BENT: &[(&str, Rewrite)] = &[
    (
        "who_holds_the_lease_has_a_slot_however_often_it_asks",
        &[("num(known) == slot and by ~= ARGV[1]", "num(known) == slot")],
    ),
    ("who_does_not_hold_the_lease_claims_nothing", &[(" or (meta[1] or meta[4]) ~= ARGV[1]", "")]),
    ("what_one_tenure_has_claimed_no_other_gets", &[(" or num(known) == slot and by ~= ARGV[1]", "")]),
    ("what_comes_before_a_claimed_slot_is_claimed_no_more", &[("num(known) > slot or ", "")]),
    (
        "each_watcher_has_slots_of_its_own",
        &[
            ("'HGET', KEYS[3], ARGV[2]", "'HGET', KEYS[3], 'all'"),
            ("'HSET', KEYS[3], ARGV[2]", "'HSET', KEYS[3], 'all'"),
        ],
    ),
    (
        "a_slot_far_from_having_come_is_kept_from_nobody",
        &[("if slot * 1000 > now + AHEAD * 1000 then", "if false then")],
    ),
    ("a_lease_that_has_ended_claims_nothing", &[("if not holder or not same(holder, meta[2]) or", "if")]),
    ("a_renamed_owner_has_what_it_claimed_before", &[("slot and by ~= ARGV[1]", "slot and node ~= ARGV[4]")]),
    ("a_claim_waits_for_a_holder_that_restores_its_lease", &[("if not holder or not same(holder, meta[2]) or", "if")]),
    (
        "a_restart_with_data_forgets_no_claim_and_wants_the_lease_confirmed",
        &[("if meta[3] ~= inc then\n  return {'unsure'", "if false then\n  return {'unsure'")],
    ),
    (
        "a_claim_that_was_lost_with_all_else_is_none",
        &[
            ("if not holder or not same(holder, meta[2]) or (meta[1] or meta[4]) ~= ARGV[1] then", "if false then"),
            ("if meta[3] ~= inc then\n  return {'unsure'", "if false then\n  return {'unsure'"),
        ],
    ),
    ("scripts_that_were_forgotten_keep_no_slot_from_its_run", &[("return {'claimed'}", "return {}")]),
    (
        "what_stands_in_place_of_the_claims_is_no_permission",
        &[
            ("redis.call('HGET', KEYS[3], ARGV[2]) or ''", "''"),
            ("redis.call('HSET', KEYS[3]", "redis.pcall('HSET', KEYS[3]"),
        ],
    ),
];

/// And for each case of pauses.
const BENT_PAUSES: &[(&str, Rewrite)] = &[
    ("a_paused_lease_is_granted_to_nobody_until_it_is_resumed", &[("if meta[13] then", "if false then")]),
    (
        "who_holds_a_paused_lease_goes_on_holding_it_and_is_told",
        &[("return 'granted', text(token), meta[4]", "return 'granted', text(token)")],
    ),
    (
        "what_was_granted_before_a_pause_is_not_granted_again",
        &[("if meta[13] then", "if meta[13] and not holder then")],
    ),
    (
        "a_pause_that_stands_stays_what_it_is",
        &[("if ARGV[1] == 'pause' and not stands then", "if ARGV[1] == 'pause' then")],
    ),
    ("a_paused_lease_is_kept_for_nobody", &[("if meta[13] then", "if meta[13] and to ~= ARGV[4] then")]),
    (
        "a_pause_is_no_permission_for_the_first_taking",
        &[("'HSET', KEYS[2], 'paused', stands)", "'HSET', KEYS[2], 'paused', stands, 'state', 'free', 'inc', inc)")],
    ),
    (
        "a_paused_lease_whose_holder_falls_silent_ends_and_is_nobodys",
        &[("if meta[13] then", "if meta[13] and state ~= 'held' then")],
    ),
    (
        "a_restart_with_data_forgets_no_pause",
        &[("'HMGET', record, 'state', 'id', 'tok', 'paused')", "'HMGET', record, 'state', 'id', 'tok')")],
    ),
    (
        "a_deleted_key_is_restored_by_its_holder_that_is_to_stop",
        &[(
            "redis.call('SET', lease, owner, 'PX', ttl)\n    if not mine",
            "redis.call('HDEL', record, 'paused') meta[4] = nil\n    if not mine",
        )],
    ),
    ("a_pause_that_was_lost_with_all_else_is_none", &[("local stands = meta[1]", "local stands = '7'")]),
];

#[test]
fn each_case_of_claims_fails_on_a_bent_script() {
    fails_where_bent(BENT, &[CLAIM]);
}

#[test]
fn each_case_of_pauses_fails_on_a_bent_script() {
    fails_where_bent(BENT_PAUSES, &[TAKE, REFRESH, PAUSE]);
}

fn fails_where_bent(bent: &[(&str, Rewrite)], scripts: &[&str]) {
    for (name, rewrite) in bent {
        for (from, _) in *rewrite {
            assert!(scripts.iter().any(|script| script.contains(from)), "no script has {from:?}");
        }
        let (_, case) = lease_cases::CASES.iter().find(|(case, _)| case == name).expect("a case");
        assert!(std::panic::catch_unwind(|| run_on(rewrite, *case)).is_err(), "{name} holds on a bent script");
    }
}
