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

mod net;
mod scenarios;
mod stage;
mod store;
mod verdict;

use stage::{Setup, Stage};
use store::Kind;

fn play(kind: Kind, name: &'static str, scenario: fn(Setup) -> Stage) {
    scenario(Setup::new(kind, name)).judge();
}

/// A test for a scenario: run with all others where it is marked, else only when asked for.
macro_rules! test {
    (Standalone $module:ident $name:ident always) => {
        #[test]
        fn $name() {
            crate::play(crate::Kind::Standalone, stringify!($name), crate::scenarios::$module::$name);
        }
    };
    ($kind:ident $module:ident $name:ident $($always:ident)?) => {
        #[test]
        #[ignore = "takes its time: see `make chaos`"]
        fn $name() {
            crate::play(crate::Kind::$kind, stringify!($name), crate::scenarios::$module::$name);
        }
    };
}

/// Scenarios as tests on one kind of Redis.
macro_rules! tests {
    ($kind:ident { $($module:ident :: $name:ident $($always:ident)? ;)* }) => {
        $( test!($kind $module $name $($always)?); )*
    };
}

/// What must hold on every kind of Redis.
macro_rules! everywhere {
    ($kind:ident) => {
        tests!($kind {
            agents::agent_asked_to_end;
            agents::agent_killed always;
            agents::agent_stopped_for_three_ttls;
            agents::agent_stopped_for_ever always;
            agents::host_frozen always;
            agents::rolling_restart;
            agents::planned_moves always;
            agents::holder_of_twenty_killed_ten_times;
            children::child_killed;
            children::child_deaf_to_sigterm;
            children::child_leaves_detached_grandchildren always;
            children::child_cannot_run_on_one_node;
            redis::restarted_empty always;
            redis::restarted_with_its_data;
            redis::away_and_back_empty;
            redis::frozen_for_half_a_ttl;
            redis::frozen_for_three_ttls;
            redis::clients_paused;
            redis::clients_killed;
            redis::busy_with_a_script;
            redis::scripts_flushed;
            redis::data_flushed;
            redis::lease_deleted;
            redis::lease_overwritten;
            redis::lease_evicted;
            redis::out_of_memory;
            redis::refuses_writes;
            redis::password_changed;
            network::holder_cut_off always;
            network::waiter_cut_off;
            network::redis_cut_off_from_all;
            network::packets_lost;
            network::packets_late;
        });
    };
}

mod standalone {
    everywhere!(Standalone);
}

mod sentinel {
    everywhere!(Sentinel);
}
