//! Every fault that the promise names, against real processes: agents and Redis on hosts of their own, and a witness
//! outside of them all.
//!
//! `make chaos` plays all scenarios on every kind of Redis and prints a table; a selection is part of `make test`.
//!
//! Read [`scenarios`] first: each is a few lines. [`stage`] is what they play on, [`net`] the hosts and the network,
//! [`store`] the kinds of Redis, [`verdict`] the checker.

#![allow(unreachable_pub)] // What is public here is public to this crate.
#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/redis.rs"]
mod redis_server;
#[path = "../support/sentinels.rs"]
mod sentinels;
#[path = "../support/witness.rs"]
mod witness;

mod address;
mod clock;
mod legions;
mod net;
mod scenarios;
mod stage;
mod store;
mod verdict;

use stage::{Setup, Stage};
use store::Kind;

/// The kinds of Redis that agents can use. Scenarios of the others do nothing, and have no row in the table.
const KINDS: &[Kind] = &[Kind::Standalone, Kind::Sentinel, Kind::Cluster, Kind::Majority];

fn play(kind: Kind, name: &'static str, scenario: fn(Setup) -> Stage) {
    if !KINDS.contains(&kind) {
        return println!("agents cannot use {} yet", kind.name());
    }
    // What is late because the whole machine stood still for a moment is played once more, but not for the table. That two
    // ran at once, or that something was left behind, counts the first time.
    let for_the_table = std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "chaos");
    if !scenario(Setup::new(kind, name)).judge(!for_the_table) {
        scenario(Setup::new(kind, name)).judge(false);
    }
}

/// A test for a scenario. Those that are marked are part of every run: `once` on a standalone Redis, `each` on each
/// kind that has it. The others are only where they are asked for.
macro_rules! test {
    (Standalone $module:ident $name:ident once) => { test!(Standalone $module $name each); };
    ($kind:ident $module:ident $name:ident each) => {
        #[test]
        fn $name() {
            crate::play(crate::Kind::$kind, stringify!($name), crate::scenarios::$module::$name);
        }
    };
    ($kind:ident $module:ident $name:ident $($once:ident)?) => {
        #[test]
        #[ignore = "takes its time: see `make chaos`"]
        fn $name() {
            crate::play(crate::Kind::$kind, stringify!($name), crate::scenarios::$module::$name);
        }
    };
}

/// Scenarios as tests on one kind of Redis.
macro_rules! tests {
    ($kind:ident { $($module:ident :: $name:ident $($mark:ident)? ;)* }) => {
        $( test!($kind $module $name $($mark)?); )*
    };
}

/// What must hold on every kind of Redis.
macro_rules! everywhere {
    ($kind:ident) => {
        tests!($kind {
            agents::agent_asked_to_end;
            agents::agent_killed once;
            agents::agent_stopped_for_three_ttls;
            agents::agent_stopped_for_ever once;
            agents::host_frozen once;
            agents::rolling_restart;
            agents::planned_moves once;
            agents::holder_of_twenty_killed_ten_times;
            children::child_killed;
            children::child_deaf_to_sigterm;
            children::child_leaves_detached_grandchildren once;
            children::child_cannot_run_on_one_node;
            redis::restarted_empty once;
            redis::restarted_with_its_data;
            redis::away_and_back_empty;
            redis::frozen_for_half_a_ttl;
            redis::frozen_for_three_ttls once;
            redis::clients_paused;
            redis::clients_killed;
            redis::busy_with_a_script;
            redis::scripts_flushed;
            redis::data_flushed once;
            redis::lease_deleted;
            redis::lease_overwritten;
            redis::lease_evicted;
            redis::out_of_memory;
            redis::refuses_writes;
            redis::password_changed;
            network::holder_cut_off once;
            network::waiter_cut_off;
            network::redis_cut_off_from_all;
            network::packets_lost;
            network::packets_late;
            random::faults_mixed_at_random;
        });
    };
}

/// What must hold where another server takes over.
macro_rules! with_replicas {
    ($kind:ident) => {
        tests!($kind {
            failover::failed_over_in_order;
            failover::master_killed;
            failover::failed_over_to_one_that_never_saw_the_lease each;
            failover::master_cut_off_from_all;
            failover::master_and_holder_cut_off_together;
        });
    };
}

/// What can be done where no other server takes over, and nobody mends what an operator did by hand.
macro_rules! without_replicas {
    ($kind:ident) => {
        tests!($kind {
            redis::becomes_a_replica;
            clock::redis_steps_ahead;
            clock::redis_steps_back;
            clock::redis_steps_back_as_the_holder_is_killed;
            clock::agents_step;
        });
    };
}

mod standalone {
    everywhere!(Standalone);
    without_replicas!(Standalone);
}

mod sentinel {
    everywhere!(Sentinel);
    with_replicas!(Sentinel);
}

mod cluster {
    everywhere!(Cluster);
    with_replicas!(Cluster);
    tests!(Cluster { failover::slot_moves; });
}

mod majority {
    everywhere!(Majority);
    without_replicas!(Majority);
    tests!(Majority {
        majority::one_of_three_dead;
        majority::each_of_three_empty_in_turn;
        majority::two_of_three_dead;
        majority::holder_cut_off_with_one_of_three;
    });
}

/// The page has a row for each scenario, as `scripts/chaos-table --markdown` prints it.
#[test]
fn the_page_tells_of_every_scenario() {
    let page = include_str!("../../docs/guarantees.md");
    let listed = include_str!("main.rs").lines().map(str::trim).filter(|line| line.ends_with(';'));
    let names = listed.filter_map(|line| line.split_once("::")?.1.split([' ', ';']).next());
    let played = names.filter(|name| name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    let words: Vec<String> = played.map(|name| format!("| {} |", name.replace('_', " "))).collect();
    assert!(words.len() > 40, "{words:?}");
    for row in words {
        assert!(page.contains(&row), "docs/guarantees.md has no row {row}");
    }
}
