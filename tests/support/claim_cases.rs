//! What must be so of claims to slots, whoever keeps them: cases as those of the lease itself.

use std::time::Duration;

use circus_agent::model::event::{Claim, Claimed, LeaseAnswer};
use circus_agent::model::names::Owner;
use circus_agent::model::spec::Slot;

use super::{Case, Disturbance, Store, granted, held, lease, owner, refresh, release, take};

/// Those that want nothing done to the store: file locks pass them, too.
#[allow(dead_code)] // Each test file that includes this one uses a part of it.
pub const UNDISTURBED: &[(&str, Case)] = &[
    ("who_holds_the_lease_has_a_slot_however_often_it_asks", who_holds_the_lease_has_a_slot_however_often_it_asks),
    ("who_does_not_hold_the_lease_claims_nothing", who_does_not_hold_the_lease_claims_nothing),
    ("what_one_tenure_has_claimed_no_other_gets", what_one_tenure_has_claimed_no_other_gets),
    ("what_comes_before_a_claimed_slot_is_claimed_no_more", what_comes_before_a_claimed_slot_is_claimed_no_more),
    ("each_watcher_has_slots_of_its_own", each_watcher_has_slots_of_its_own),
    ("a_slot_far_from_having_come_is_kept_from_nobody", a_slot_far_from_having_come_is_kept_from_nobody),
];

/// So long that no lease ends that is not meant to, however slow a machine is.
fn long(ttl: Duration) -> Duration {
    100 * ttl
}

/// A slot that came so many seconds ago.
fn ago(store: &dyn Store, seconds: u64) -> Slot {
    Slot(store.unix_time() - seconds)
}

/// A node's claim for the one watcher that most cases have.
fn claim(store: &mut dyn Store, node: &str, slot: Slot, token: u64) -> Claimed {
    store.claim(node, "job", Claim { slot, token })
}

/// The same, asked again as nodes do, where an answer says nothing.
fn decided(store: &mut dyn Store, node: &str, slot: Slot, token: u64) -> Claimed {
    decided_of(store, node, "job", Claim { slot, token })
}

fn decided_of(store: &mut dyn Store, node: &str, watcher: &str, claim: Claim) -> Claimed {
    let mut said = store.claim(node, watcher, claim);
    for _ in 0..100 {
        if !matches!(said, Claimed::Unknown(_)) {
            break;
        }
        said = store.claim(node, watcher, claim);
    }
    said
}

fn taken(by: &str) -> Claimed {
    Claimed::Taken { by: by.into() }
}

#[track_caller]
fn is_unknown(said: &Claimed) {
    assert!(matches!(said, Claimed::Unknown(_)), "{said:?}");
}

/// The lease goes from one owner to the next, whose token this is.
fn moves(store: &mut dyn Store, from: &Owner, to: &Owner, ttl: Duration) -> u64 {
    assert_eq!(release(store, from), LeaseAnswer::Released);
    let token = granted(&take(store, to, ttl));
    // Of several servers one may not have heard of the release yet; a holder that refreshes has it there, too.
    for _ in 0..5 {
        store.pass(Duration::from_millis(5));
        assert_eq!(refresh(store, to, ttl, token), LeaseAnswer::Granted { token });
    }
    token
}

pub fn who_holds_the_lease_has_a_slot_however_often_it_asks(store: &mut dyn Store, ttl: Duration) {
    let token = held(store, &owner("a", 1), long(ttl));
    let slot = ago(store, 1);
    for _ in 0..3 {
        assert_eq!(decided(store, "a", slot, token), Claimed::Ours, "an answer may be lost");
    }
    assert_eq!(decided(store, "a", Slot(slot.0 + 1), token), Claimed::Ours);
}

pub fn who_does_not_hold_the_lease_claims_nothing(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let slot = ago(store, 1);
    is_unknown(&claim(store, "a", slot, 0));
    is_unknown(&claim(store, "a", slot, 7));
    let first = held(store, &a, long(ttl));
    for token in [0, first - 1, first + 1] {
        is_unknown(&claim(store, "a", slot, token));
    }
    let second = moves(store, &a, &b, long(ttl));
    // What comes too late takes nothing from the next.
    is_unknown(&claim(store, "a", slot, first));
    assert_eq!(decided(store, "b", slot, second), Claimed::Ours);
    assert_eq!(release(store, &b), LeaseAnswer::Released);
    is_unknown(&claim(store, "b", Slot(slot.0 + 1), second));
}

pub fn what_one_tenure_has_claimed_no_other_gets(store: &mut dyn Store, ttl: Duration) {
    let (a, again, b) = (owner("a", 1), owner("a", 2), owner("b", 3));
    let slot = ago(store, 3);
    let mut token = held(store, &a, long(ttl));
    assert_eq!(decided(store, "a", slot, token), Claimed::Ours);
    // Not even another tenure of the same node.
    token = moves(store, &a, &again, long(ttl));
    assert_eq!(decided(store, "a", slot, token), taken("a"));
    token = moves(store, &again, &b, long(ttl));
    assert_eq!(decided(store, "b", slot, token), taken("a"));
    assert_eq!(decided(store, "b", Slot(slot.0 + 1), token), Claimed::Ours);
    token = moves(store, &b, &owner("a", 4), long(ttl));
    assert_eq!(decided(store, "a", Slot(slot.0 + 1), token), taken("b"));
}

pub fn what_comes_before_a_claimed_slot_is_claimed_no_more(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let slot = ago(store, 10);
    let first = held(store, &a, long(ttl));
    assert_eq!(decided(store, "a", Slot(slot.0 + 5), first), Claimed::Ours);
    assert_eq!(decided(store, "a", slot, first), taken("a"));
    let second = moves(store, &a, &b, long(ttl));
    // As a node does whose clock is behind.
    assert_eq!(decided(store, "b", Slot(slot.0 + 4), second), taken("a"));
    assert_eq!(decided(store, "b", Slot(slot.0 + 6), second), Claimed::Ours);
}

pub fn each_watcher_has_slots_of_its_own(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let slot = ago(store, 1);
    let first = held(store, &a, long(ttl));
    for watcher in ["job", "job2", "beat"] {
        assert_eq!(decided_of(store, "a", watcher, Claim { slot, token: first }), Claimed::Ours, "{watcher}");
    }
    let second = moves(store, &a, &b, long(ttl));
    assert_eq!(decided_of(store, "b", "other", Claim { slot, token: second }), Claimed::Ours);
    assert_eq!(decided_of(store, "b", "job2", Claim { slot, token: second }), taken("a"));
}

pub fn a_slot_far_from_having_come_is_kept_from_nobody(store: &mut dyn Store, ttl: Duration) {
    let token = held(store, &owner("a", 1), long(ttl));
    let now = store.unix_time();
    is_unknown(&claim(store, "a", Slot(now + 100_000), token));
    assert_eq!(decided(store, "a", Slot(now - 1), token), Claimed::Ours);
    // Clocks may differ by a little.
    assert_eq!(decided(store, "a", Slot(now + 30), token), Claimed::Ours);
}

pub fn a_lease_that_has_ended_claims_nothing(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    store.pass(ttl + Duration::from_millis(1));
    let slot = ago(store, 1);
    is_unknown(&claim(store, "a", slot, token));
    assert_eq!(refresh(store, &a, long(ttl), token), LeaseAnswer::Granted { token });
    assert_eq!(decided(store, "a", slot, token), Claimed::Ours, "nobody has had it since");
}

pub fn a_renamed_owner_has_what_it_claimed_before(store: &mut dyn Store, ttl: Duration) {
    let (before, after) = (owner("a", 1), owner("z", 1));
    let slot = ago(store, 2);
    let token = held(store, &before, long(ttl));
    assert_eq!(decided(store, "a", slot, token), Claimed::Ours);
    assert_eq!(refresh(store, &after, long(ttl), token), LeaseAnswer::Granted { token });
    assert_eq!(decided(store, "z", slot, token), Claimed::Ours, "asked again under its new name");
    assert_eq!(decided(store, "z", Slot(slot.0 + 1), token), Claimed::Ours);
    let next = moves(store, &after, &owner("b", 2), long(ttl));
    assert_eq!(decided(store, "b", Slot(slot.0 + 1), next), taken("z"));
}

pub fn a_claim_waits_for_a_holder_that_restores_its_lease(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let slot = ago(store, 1);
    let token = held(store, &a, long(ttl));
    store.disturb(Disturbance::Delete(lease().lease_key()));
    is_unknown(&claim(store, "a", slot, token));
    assert_eq!(refresh(store, &a, long(ttl), token), LeaseAnswer::Granted { token });
    assert_eq!(decided(store, "a", slot, token), Claimed::Ours);
}

pub fn a_restart_with_data_forgets_no_claim_and_wants_the_lease_confirmed(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let slot = ago(store, 2);
    let first = held(store, &a, long(ttl));
    assert_eq!(decided(store, "a", slot, first), Claimed::Ours);
    store.disturb(Disturbance::Save);
    store.disturb(Disturbance::RestartWithSaved);
    // What was restored may be older than a tenure that came after.
    is_unknown(&claim(store, "a", Slot(slot.0 + 1), first));
    assert_eq!(refresh(store, &a, long(ttl), first), LeaseAnswer::Granted { token: first });
    assert_eq!(decided(store, "a", Slot(slot.0 + 1), first), Claimed::Ours);
    let second = moves(store, &a, &b, long(ttl));
    assert_eq!(decided(store, "b", Slot(slot.0 + 1), second), taken("a"));
}

pub fn a_claim_that_was_lost_with_all_else_is_none(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let slot = ago(store, 1);
    let first = held(store, &a, long(ttl));
    assert_eq!(decided(store, "a", slot, first), Claimed::Ours);
    store.disturb(Disturbance::FlushAll);
    is_unknown(&claim(store, "a", slot, first));
    assert_eq!(refresh(store, &a, long(ttl), first), LeaseAnswer::Granted { token: first });
    // As docs/guarantees.md says of it: the next tenure has the slot once more.
    let second = moves(store, &a, &b, long(ttl));
    assert_eq!(decided(store, "b", slot, second), Claimed::Ours);
}

pub fn scripts_that_were_forgotten_keep_no_slot_from_its_run(store: &mut dyn Store, ttl: Duration) {
    let token = held(store, &owner("a", 1), long(ttl));
    let slot = ago(store, 1);
    for _ in 0..2 {
        store.disturb(Disturbance::FlushScripts);
        assert_eq!(decided(store, "a", slot, token), Claimed::Ours);
    }
}

pub fn what_stands_in_place_of_the_claims_is_no_permission(store: &mut dyn Store, ttl: Duration) {
    let token = held(store, &owner("a", 1), long(ttl));
    let slot = ago(store, 1);
    store.disturb(Disturbance::Overwrite(lease().slots_key(), "me".into()));
    is_unknown(&claim(store, "a", slot, token));
    store.disturb(Disturbance::Delete(lease().slots_key()));
    assert_eq!(decided(store, "a", slot, token), Claimed::Ours);
}
