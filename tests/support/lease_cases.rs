//! What a lease must do, whoever runs its scripts: the same cases for a real Redis and for a simulated one.
//!
//! Each case wants a store of its own and a ttl that suits it: a real one waits that long, a simulated one does not.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.

#[path = "claim_cases.rs"]
mod claim_cases;
#[path = "member_cases.rs"]
mod member_cases;
#[path = "pause_cases.rs"]
mod pause_cases;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use circus_agent::model::election::{Membership, Muster};
use circus_agent::model::event::{Ask, AskKind, Claim, Claimed, LeaseAnswer};
use circus_agent::model::names::{ClusterName, LeaseName, NodeName, Owner, WatcherName};
use circus_agent::model::pause::{Told, Wish};
use circus_agent::model::time::Time;

pub use claim_cases::*;
pub use member_cases::*;
pub use pause_cases::*;

/// Something that keeps leases by the scripts.
pub trait Store {
    /// Puts one ask and gives the answer.
    fn ask(&mut self, lease: &LeaseName, ask: &Ask) -> LeaseAnswer;
    /// How many servers keep them.
    fn servers(&self) -> usize {
        1
    }
    /// Declares a lease free.
    fn init(&mut self, lease: &LeaseName) -> Result<(), String>;
    /// Tells what a node says of itself among those that contend for the one lease, or that it leaves, and gives who does.
    fn muster(&mut self, node: &str, membership: Option<Membership>) -> Result<Muster, String> {
        self.muster_as(node, node, membership)
    }
    /// The same of the agent that is called `agent` here, under the `name` that its node has or had.
    fn muster_as(&mut self, agent: &str, name: &str, membership: Option<Membership>) -> Result<Muster, String>;
    /// Claims a slot of this watcher for a node, under the one lease.
    fn claim(&mut self, node: &str, watcher: &str, claim: Claim) -> Claimed;
    /// Pauses the one lease, lets it be taken again, or tells how that stands.
    fn pause(&mut self, wish: Wish) -> Result<Told, String>;
    /// What its clock shows, in seconds of the Unix epoch.
    fn unix_time(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a date").as_secs()
    }
    /// Lets time pass.
    fn pass(&mut self, time: Duration);
    /// Does something to the store behind the agents' backs.
    fn disturb(&mut self, how: Disturbance);
}

/// What can happen to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(dead_code)] // Each test file that includes this one uses a part of it.
pub enum Disturbance {
    /// `FLUSHALL`: all keys are gone, the server is the same.
    FlushAll,
    /// `SCRIPT FLUSH`: it knows no script any more.
    FlushScripts,
    /// `DEL` of one key.
    Delete(String),
    /// `SET` of one key to a value that no agent wrote, without an end.
    Overwrite(String, String),
    /// A turn of another program that takes this key as its lock by `SET value PX ttl NX`, and keeps it by `PEXPIRE` while it
    /// has this value: what BeatCop does three times in each ttl.
    OthersTurn(String, String, Duration),
    /// It was killed and started with nothing.
    RestartEmpty,
    /// It was killed and started with all it had at the last [`Disturbance::Save`].
    RestartWithSaved,
    /// What it has is written to disk.
    Save,
    /// Its clock was set back by so much: all that it knows of this lease ends so much later.
    SetBack(LeaseName, Duration),
}

/// Names the cases, and makes `lease_case_tests!()`, which makes a test of each. The caller has a
/// `fn run_lease_case(case: lease_cases::Case)`.
macro_rules! cases {
    ($($name:ident)*) => {
        /// One case: a store of its own, and the ttl to use.
        pub type Case = fn(&mut dyn Store, Duration);

        /// All cases, each named as the sentence it proves.
        #[allow(dead_code)]
        pub const CASES: &[(&str, Case)] = &[$((stringify!($name), $name)),*];

        macro_rules! lease_case_tests {
            () => {
                $(#[test]
                fn $name() {
                    run_lease_case(lease_cases::$name);
                })*
            };
        }
    };
}

cases! {
    the_first_taking_of_all_waits_one_ttl
    init_skips_the_wait_of_the_first_taking
    init_does_not_touch_a_lease_with_a_past
    a_released_lease_is_granted_at_once
    a_taken_lease_is_held_for_others_with_the_time_left
    the_longer_ttl_of_another_node_is_waited_out
    an_owner_that_asks_twice_is_granted_once
    a_lease_that_is_not_refreshed_ends
    a_refreshed_lease_outlives_its_ttl
    a_refresh_of_anothers_lease_is_lost
    a_refresh_after_the_release_is_lost
    what_comes_after_its_owners_release_is_too_late
    a_release_of_anothers_lease_changes_nothing
    an_owner_whose_node_is_renamed_keeps_its_lease_token_and_all
    a_renamed_owner_restores_what_was_lost_and_frees_what_it_held
    a_deleted_key_is_restored_by_its_holder_token_and_all
    a_deleted_key_is_no_permission_for_a_waiter
    a_clock_that_was_set_back_makes_nobody_wait_longer_than_a_ttl
    an_overwritten_key_is_held_by_nobody_we_know
    what_another_program_holds_no_agent_takes_before_its_end
    what_an_agent_holds_no_other_program_takes
    what_another_program_held_is_not_free_where_its_key_is_lost
    a_holder_does_not_restore_what_another_program_had_meanwhile
    after_an_empty_restart_the_holder_restores_its_lease_before_a_waiter_may_have_it
    after_an_empty_restart_without_a_holder_one_ttl_is_waited
    a_restart_with_data_is_waited_out_too
    a_restart_with_data_does_not_trust_a_freed_lease
    a_holder_that_the_restored_data_never_saw_restores_its_lease
    a_holder_that_the_restored_data_never_saw_restores_its_lease_also_after_a_waiter_asked
    a_holder_that_the_restored_data_saw_leave_stays_gone
    a_release_after_everything_was_lost_frees_nothing
    tokens_only_grow_also_when_everything_is_lost
    a_lease_kept_for_a_node_is_refused_to_others
    a_reservation_ends_by_itself
    a_reservation_does_not_outlast_a_quarantine
    forgotten_scripts_go_unnoticed
    members_hear_of_each_other_what_they_say_and_who_has_the_lease
    who_leaves_is_gone_at_once_and_may_come_back
    who_is_silent_for_a_ttl_of_its_own_lapses
    who_goes_on_speaking_lives_on
    a_renamed_member_is_one_all_the_while
    who_gives_up_a_name_does_not_leave_for_whoever_has_it_now
    what_a_member_says_may_change
    where_everything_was_lost_who_was_seen_counts_until_it_lapses
    where_everything_was_lost_a_renamed_member_is_one
    a_restart_with_data_loses_no_member
    a_clock_that_was_set_back_makes_no_member_live_longer
    what_stands_in_place_of_the_members_is_named
    who_holds_the_lease_has_a_slot_however_often_it_asks
    who_does_not_hold_the_lease_claims_nothing
    what_one_tenure_has_claimed_no_other_gets
    what_comes_before_a_claimed_slot_is_claimed_no_more
    each_watcher_has_slots_of_its_own
    a_slot_far_from_having_come_is_kept_from_nobody
    a_lease_that_has_ended_claims_nothing
    a_renamed_owner_has_what_it_claimed_before
    a_claim_waits_for_a_holder_that_restores_its_lease
    a_restart_with_data_forgets_no_claim_and_wants_the_lease_confirmed
    a_claim_that_was_lost_with_all_else_is_none
    scripts_that_were_forgotten_keep_no_slot_from_its_run
    what_stands_in_place_of_the_claims_is_no_permission
    a_paused_lease_is_granted_to_nobody_until_it_is_resumed
    who_holds_a_paused_lease_goes_on_holding_it_and_is_told
    what_was_granted_before_a_pause_is_not_granted_again
    a_pause_that_stands_stays_what_it_is
    a_paused_lease_is_kept_for_nobody
    a_pause_is_no_permission_for_the_first_taking
    a_paused_lease_whose_holder_falls_silent_ends_and_is_nobodys
    a_restart_with_data_forgets_no_pause
    a_deleted_key_is_restored_by_its_holder_that_is_to_stop
    a_pause_that_was_lost_with_all_else_is_none
}

/// Time that an answer may take beyond what the store itself waits.
const SLACK: Duration = Duration::from_millis(100);

pub fn lease() -> LeaseName {
    let (cluster, watcher) = (ClusterName::parse("prod").unwrap(), WatcherName::parse("beat").unwrap());
    LeaseName { cluster, watcher, key: None }
}

fn owner(node: &str, nonce: u128) -> Owner {
    Owner { node: NodeName::parse(node).unwrap(), nonce }
}

fn ask(owner: &Owner, kind: AskKind) -> Ask {
    Ask { owner: owner.clone(), sent: Time::ZERO, kind }
}

fn take(store: &mut dyn Store, owner: &Owner, ttl: Duration) -> LeaseAnswer {
    store.ask(&lease(), &ask(owner, AskKind::Take { ttl, longest: ttl, seen: None }))
}

fn refresh(store: &mut dyn Store, owner: &Owner, ttl: Duration, token: u64) -> LeaseAnswer {
    store.ask(&lease(), &ask(owner, AskKind::Refresh { ttl, token }))
}

fn release(store: &mut dyn Store, owner: &Owner) -> LeaseAnswer {
    store.ask(&lease(), &ask(owner, AskKind::Release { to: None }))
}

/// Takes the lease as an agent does: asks, waits for as long as it is told, asks again. Gives the token and all the
/// time it was told to wait.
fn take_in_the_end(store: &mut dyn Store, owner: &Owner, ttl: Duration) -> (u64, Duration) {
    let mut waited = Duration::ZERO;
    // A real server is slow now and then; one that never grants is not waited for.
    let deadline = Instant::now() + 20 * ttl + Duration::from_secs(10);
    while Instant::now() < deadline && waited < 20 * ttl + Duration::from_secs(10) {
        let left = match take(store, owner, ttl) {
            LeaseAnswer::Granted { token } => return (token, waited),
            LeaseAnswer::Held { left, .. } | LeaseAnswer::Quarantined { left } | LeaseAnswer::Reserved { left, .. } => {
                left
            }
            other => panic!("{other:?}"),
        };
        let wait = left.clamp(Duration::from_millis(1), 20 * ttl);
        waited += wait;
        store.pass(wait);
    }
    panic!("not granted after {waited:?}");
}

/// A lease that `owner` holds, and its token.
fn held(store: &mut dyn Store, owner: &Owner, ttl: Duration) -> u64 {
    store.init(&lease()).expect("a lease without a past");
    granted(&take(store, owner, ttl))
}

#[track_caller]
fn granted(answer: &LeaseAnswer) -> u64 {
    match answer {
        LeaseAnswer::Granted { token } => *token,
        other => panic!("not granted but {other:?}"),
    }
}

#[track_caller]
fn quarantined(answer: &LeaseAnswer) -> Duration {
    match answer {
        LeaseAnswer::Quarantined { left } => *left,
        other => panic!("not quarantined but {other:?}"),
    }
}

#[track_caller]
fn held_by(answer: &LeaseAnswer, holder: &str) -> Duration {
    match answer {
        LeaseAnswer::Held { by, left, .. } if by == holder => *left,
        other => panic!("not held by {holder} but {other:?}"),
    }
}

fn restart_with_data(store: &mut dyn Store) {
    store.disturb(Disturbance::Save);
    store.disturb(Disturbance::RestartWithSaved);
}

/// Waits one ttl in which `owner` holds on, and stops short of its end.
fn hold_on(store: &mut dyn Store, owner: &Owner, ttl: Duration, token: u64, times: u32) {
    for _ in 0..times {
        store.pass(ttl / 3);
        assert_eq!(refresh(store, owner, ttl, token), LeaseAnswer::Granted { token });
    }
}

/// Others hear that this owner has it. Of several servers one may not have heard its new name yet.
fn is_held_by(store: &mut dyn Store, holder: &Owner, ttl: Duration) {
    let other = take(store, &owner("b", 2), ttl);
    let LeaseAnswer::Held { by, .. } = &other else { panic!("not held but {other:?}") };
    let told = Owner::parse(by).unwrap();
    assert_eq!(told.nonce, holder.nonce);
    assert!(told.node == holder.node || store.servers() > 1, "{by}");
}

pub fn an_owner_whose_node_is_renamed_keeps_its_lease_token_and_all(store: &mut dyn Store, ttl: Duration) {
    let (before, after) = (owner("a", 1), owner("z", 1));
    let token = held(store, &before, ttl);
    assert_eq!(refresh(store, &after, ttl, token), LeaseAnswer::Granted { token });
    is_held_by(store, &after, ttl);
    // A question of before that comes late is its own, too; and so is one that is asked again.
    assert_eq!(refresh(store, &before, ttl, token), LeaseAnswer::Granted { token });
    let again = granted(&take(store, &after, ttl));
    assert!(again == token || again > token && store.servers() > 1, "an answer was lost, not the lease");
    // Another tenure of the same node is another owner's.
    assert!(matches!(refresh(store, &owner("z", 2), ttl, again), LeaseAnswer::Lost { .. }));
    is_held_by(store, &after, ttl);
}

pub fn a_renamed_owner_restores_what_was_lost_and_frees_what_it_held(store: &mut dyn Store, ttl: Duration) {
    let (before, after) = (owner("a", 1), owner("z", 1));
    let token = held(store, &before, ttl);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    assert_eq!(refresh(store, &after, ttl, token), LeaseAnswer::Granted { token });
    assert_eq!(release(store, &before), LeaseAnswer::Released);
    // Its release is on record, under whichever name it asks.
    let late = take(store, &after, ttl);
    assert!(!matches!(late, LeaseAnswer::Granted { .. }), "{late:?}");
    assert!(granted(&take(store, &owner("b", 2), ttl)) > token);
}

pub fn the_first_taking_of_all_waits_one_ttl(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    assert_eq!(quarantined(&take(store, &a, ttl)), ttl);
    let left = quarantined(&take(store, &owner("b", 2), ttl));
    assert!(left <= ttl, "a second asker does not begin the wait anew: {left:?}");
    let (_, waited) = take_in_the_end(store, &a, ttl);
    assert!(waited <= ttl + SLACK, "{waited:?}");
}

pub fn init_skips_the_wait_of_the_first_taking(store: &mut dyn Store, ttl: Duration) {
    quarantined(&take(store, &owner("a", 1), ttl));
    store.init(&lease()).unwrap();
    granted(&take(store, &owner("a", 1), ttl));
}

pub fn init_does_not_touch_a_lease_with_a_past(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    held(store, &a, ttl);
    assert!(store.init(&lease()).is_err(), "it is held");
    release(store, &a);
    assert!(store.init(&lease()).is_err(), "it was held");
}

pub fn a_released_lease_is_granted_at_once(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let first = held(store, &a, ttl);
    assert_eq!(refresh(store, &a, ttl, first), LeaseAnswer::Granted { token: first });
    assert_eq!(release(store, &a), LeaseAnswer::Released);
    let second = granted(&take(store, &b, ttl));
    assert!(second > first, "{second} after {first}");
}

pub fn a_taken_lease_is_held_for_others_with_the_time_left(store: &mut dyn Store, ttl: Duration) {
    let (a, begun) = (owner("a", 1), Instant::now());
    held(store, &a, ttl);
    store.pass(ttl / 4);
    let answer = take(store, &owner("b", 2), 2 * ttl);
    let left = held_by(&answer, &a.to_string());
    // A machine that stood still in between leaves less of it.
    assert!(left <= ttl * 3 / 4 && left + ttl / 4 + begun.elapsed() >= ttl, "{left:?}");
    assert!(matches!(answer, LeaseAnswer::Held { ttl: told, .. } if told == ttl), "the holder's ttl: {answer:?}");
}

pub fn the_longer_ttl_of_another_node_is_waited_out(store: &mut dyn Store, ttl: Duration) {
    let longest = AskKind::Take { ttl, longest: 3 * ttl, seen: None };
    assert_eq!(quarantined(&store.ask(&lease(), &ask(&owner("a", 1), longest))), 3 * ttl);
    assert!(quarantined(&take(store, &owner("b", 2), ttl)) > 2 * ttl);
}

pub fn an_owner_that_asks_twice_is_granted_once(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let first = held(store, &a, ttl);
    let again = granted(&take(store, &a, ttl));
    // Of several servers each has drawn a token, and another majority may have a greater one.
    assert!(again == first || again > first && store.servers() > 1, "an answer was lost, not the lease");
    // Another taking by the same node is another owner.
    held_by(&take(store, &owner("a", 9), ttl), &a.to_string());
}

pub fn a_lease_that_is_not_refreshed_ends(store: &mut dyn Store, ttl: Duration) {
    let first = held(store, &owner("a", 1), ttl);
    let (second, waited) = take_in_the_end(store, &owner("b", 2), ttl);
    assert!(second > first && waited <= ttl + SLACK, "{first}, then {second} after {waited:?}");
    assert_eq!(
        refresh(store, &owner("a", 1), ttl, first),
        LeaseAnswer::Lost { by: Some(owner("b", 2).to_string()) },
        "who slept through its end is told who has it"
    );
}

pub fn a_refreshed_lease_outlives_its_ttl(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    hold_on(store, &a, ttl, token, 6);
    held_by(&take(store, &owner("b", 2), ttl), &a.to_string());
}

pub fn a_refresh_of_anothers_lease_is_lost(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    let lost = LeaseAnswer::Lost { by: Some(a.to_string()) };
    assert_eq!(refresh(store, &owner("b", 2), ttl, token), lost);
    assert_eq!(refresh(store, &owner("b", 2), ttl, token + 1), lost);
}

pub fn a_refresh_after_the_release_is_lost(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    release(store, &a);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Lost { by: None });
}

pub fn what_comes_after_its_owners_release_is_too_late(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    assert_eq!(release(store, &a), LeaseAnswer::Released);
    let late = take(store, &a, ttl);
    assert!(matches!(late, LeaseAnswer::Lost { by: None } | LeaseAnswer::Split { .. }), "{late:?}");
    // Also where the server has drawn a smaller token than others.
    assert_eq!(refresh(store, &a, ttl, token + 1_000), LeaseAnswer::Lost { by: None });
    granted(&take(store, &owner("a", 2), ttl));
}

pub fn a_release_of_anothers_lease_changes_nothing(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    assert_eq!(release(store, &owner("b", 2)), LeaseAnswer::Released);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
}

pub fn a_deleted_key_is_restored_by_its_holder_token_and_all(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
    held_by(&take(store, &owner("b", 2), ttl), &a.to_string());
}

pub fn a_deleted_key_is_no_permission_for_a_waiter(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    quarantined(&take(store, &owner("b", 2), ttl));
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token }, "the waiter's question harms nobody");
}

pub fn a_clock_that_was_set_back_makes_nobody_wait_longer_than_a_ttl(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    held(store, &a, ttl);
    let hours = Duration::from_secs(10_000);
    store.disturb(Disturbance::SetBack(lease(), hours));
    assert!(held_by(&take(store, &b, ttl), &a.to_string()) <= ttl, "the holder's next refresh would say so");
    store.disturb(Disturbance::Delete(lease().lease_key()));
    store.disturb(Disturbance::SetBack(lease(), hours));
    assert!(quarantined(&take(store, &b, ttl)) <= ttl);
    let (_, waited) = take_in_the_end(store, &b, ttl);
    assert!(waited <= ttl + SLACK, "{waited:?}");
    store.ask(&lease(), &ask(&b, AskKind::Release { to: Some(NodeName::parse("dead").unwrap()) }));
    store.disturb(Disturbance::SetBack(lease(), hours));
    assert!(matches!(take(store, &a, ttl), LeaseAnswer::Granted { .. }), "kept for another node no more");
}

pub fn an_overwritten_key_is_held_by_nobody_we_know(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    store.disturb(Disturbance::Overwrite(lease().lease_key(), "me".into()));
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Lost { by: Some("me".into()) });
    assert_eq!(held_by(&take(store, &owner("b", 2), ttl), "me"), ttl, "without an end it is asked again after a ttl");
}

/// BeatCop's value, `FQDN-PID`.
const OTHER: &str = "web-9.example.com-77";

fn others_turn(store: &mut dyn Store, ttl: Duration) {
    store.disturb(Disturbance::OthersTurn(lease().lease_key(), OTHER.into(), ttl));
}

pub fn what_another_program_holds_no_agent_takes_before_its_end(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    for _ in 0..5 {
        others_turn(store, ttl);
        assert!(held_by(&take(store, &a, ttl), OTHER) <= ttl);
        store.pass(ttl / 3);
    }
    // It has ended without a word, and its end is known.
    let (_, waited) = take_in_the_end(store, &a, ttl);
    assert!(waited <= ttl * 2 / 3 + SLACK, "{waited:?}");
}

pub fn what_an_agent_holds_no_other_program_takes(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    for _ in 0..4 {
        others_turn(store, ttl);
        assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
        store.pass(ttl / 3);
    }
    release(store, &a);
    others_turn(store, ttl);
    held_by(&take(store, &owner("b", 2), ttl), OTHER);
}

pub fn what_another_program_held_is_not_free_where_its_key_is_lost(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    held(store, &a, ttl);
    release(store, &a);
    others_turn(store, ttl);
    held_by(&take(store, &b, ttl), OTHER);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    assert!(quarantined(&take(store, &b, ttl)) > ttl / 2, "it lives, and comes for its key in a third of its ttl");
    store.pass(ttl / 3);
    others_turn(store, ttl);
    held_by(&take(store, &b, ttl), OTHER);
}

pub fn a_holder_does_not_restore_what_another_program_had_meanwhile(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    others_turn(store, ttl);
    held_by(&take(store, &owner("b", 2), ttl), OTHER);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    assert!(matches!(refresh(store, &a, ttl, token), LeaseAnswer::Lost { .. }));
}

pub fn after_an_empty_restart_the_holder_restores_its_lease_before_a_waiter_may_have_it(
    store: &mut dyn Store,
    ttl: Duration,
) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let token = held(store, &a, ttl);
    store.disturb(Disturbance::RestartEmpty);
    assert_eq!(quarantined(&take(store, &b, ttl)), ttl);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
    held_by(&take(store, &b, ttl), &a.to_string());
    hold_on(store, &a, ttl, token, 4);
    release(store, &a);
    assert!(granted(&take(store, &b, ttl)) > token);
}

pub fn after_an_empty_restart_without_a_holder_one_ttl_is_waited(store: &mut dyn Store, ttl: Duration) {
    let first = held(store, &owner("a", 1), ttl);
    store.disturb(Disturbance::RestartEmpty);
    let b = owner("b", 2);
    assert_eq!(quarantined(&take(store, &b, ttl)), ttl);
    let (second, waited) = take_in_the_end(store, &b, ttl);
    assert!(waited <= ttl + SLACK, "{waited:?}");
    assert!(second > first, "{second} after {first}: the token comes from the clock");
    let lost = LeaseAnswer::Lost { by: Some(b.to_string()) };
    assert_eq!(refresh(store, &owner("a", 1), ttl, first), lost);
}

pub fn a_restart_with_data_is_waited_out_too(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let token = held(store, &a, ttl);
    // Its end has passed, and what was restored may be older than a refresh that was confirmed since.
    store.pass(ttl + Duration::from_millis(1));
    restart_with_data(store);
    assert_eq!(quarantined(&take(store, &b, ttl)), ttl);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
    held_by(&take(store, &b, ttl), &a.to_string());
}

pub fn a_restart_with_data_does_not_trust_a_freed_lease(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    held(store, &a, ttl);
    release(store, &a);
    restart_with_data(store);
    // Somebody may have taken it after what was restored had been written.
    assert_eq!(quarantined(&take(store, &b, ttl)), ttl);
    take_in_the_end(store, &b, ttl);
}

/// A store whose lease was free when it was saved and has a holder by now; the holder's token.
fn taken_since_saved(store: &mut dyn Store, owner: &Owner, ttl: Duration) -> u64 {
    let before = Owner { nonce: 99, ..owner.clone() };
    held(store, &before, ttl);
    release(store, &before);
    store.disturb(Disturbance::Save);
    granted(&take(store, owner, ttl))
}

pub fn a_holder_that_the_restored_data_never_saw_restores_its_lease(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let token = taken_since_saved(store, &a, ttl);
    store.disturb(Disturbance::RestartWithSaved);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
    held_by(&take(store, &b, ttl), &a.to_string());
    release(store, &a);
    assert!(granted(&take(store, &b, ttl)) > token);
}

pub fn a_holder_that_the_restored_data_never_saw_restores_its_lease_also_after_a_waiter_asked(
    store: &mut dyn Store,
    ttl: Duration,
) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let token = taken_since_saved(store, &a, ttl);
    store.disturb(Disturbance::RestartWithSaved);
    assert_eq!(quarantined(&take(store, &b, ttl)), ttl);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
    held_by(&take(store, &b, ttl), &a.to_string());
}

pub fn a_holder_that_the_restored_data_saw_leave_stays_gone(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    release(store, &a);
    restart_with_data(store);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Lost { by: None });
    quarantined(&take(store, &owner("b", 2), ttl));
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Lost { by: None });
}

pub fn a_release_after_everything_was_lost_frees_nothing(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    held(store, &a, ttl);
    store.disturb(Disturbance::FlushAll);
    assert_eq!(release(store, &a), LeaseAnswer::Released);
    quarantined(&take(store, &owner("b", 2), ttl));
}

pub fn tokens_only_grow_also_when_everything_is_lost(store: &mut dyn Store, ttl: Duration) {
    let mut last = 0;
    for (nonce, disturbance) in [
        (1, None),
        (2, Some(Disturbance::FlushAll)),
        (3, None),
        (4, Some(Disturbance::RestartEmpty)),
        (5, Some(Disturbance::RestartWithSaved)),
    ] {
        if let Some(disturbance) = disturbance {
            store.disturb(Disturbance::Save);
            store.disturb(disturbance);
        }
        let owner = owner("a", nonce);
        let (token, _) = take_in_the_end(store, &owner, ttl);
        assert!(token > last, "{token} after {last}");
        last = token;
        assert_eq!(release(store, &owner), LeaseAnswer::Released);
    }
}

pub fn a_lease_kept_for_a_node_is_refused_to_others(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    held(store, &a, ttl);
    let to = NodeName::parse("b").unwrap();
    let released = store.ask(&lease(), &ask(&a, AskKind::Release { to: Some(to) }));
    assert_eq!(released, LeaseAnswer::Released);
    match take(store, &owner("c", 3), ttl) {
        LeaseAnswer::Reserved { node, left } => assert!(node == "b" && left <= Duration::from_secs(2), "{left:?}"),
        other => panic!("{other:?}"),
    }
    granted(&take(store, &owner("b", 2), ttl));
    release(store, &owner("b", 2));
    granted(&take(store, &owner("c", 3), ttl));
}

pub fn a_reservation_ends_by_itself(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    held(store, &a, ttl);
    store.ask(&lease(), &ask(&a, AskKind::Release { to: Some(NodeName::parse("dead").unwrap()) }));
    let (_, waited) = take_in_the_end(store, &owner("c", 3), ttl);
    assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_secs(2) + SLACK, "{waited:?}");
}

pub fn a_reservation_does_not_outlast_a_quarantine(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    held(store, &a, ttl);
    store.ask(&lease(), &ask(&a, AskKind::Release { to: Some(NodeName::parse("dead").unwrap()) }));
    store.disturb(Disturbance::Save);
    store.disturb(Disturbance::RestartWithSaved);
    store.disturb(Disturbance::SetBack(lease(), Duration::from_secs(10_000)));
    let (_, waited) = take_in_the_end(store, &b, ttl);
    assert!(waited <= ttl + SLACK, "{waited:?}");
}

pub fn forgotten_scripts_go_unnoticed(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    store.disturb(Disturbance::FlushScripts);
    assert_eq!(refresh(store, &a, ttl, token), LeaseAnswer::Granted { token });
    store.disturb(Disturbance::FlushScripts);
    assert_eq!(release(store, &a), LeaseAnswer::Released);
}
