//! What must be so of leases that are paused, whoever keeps them: cases as those of the lease itself.

use std::time::Duration;

use circus_agent::model::event::LeaseAnswer;
use circus_agent::model::names::{NodeName, Owner};
use circus_agent::model::pause::{Pause, Told, Wish};

use super::{
    Case, Disturbance, Store, ask, granted, held, held_by, lease, owner, quarantined, refresh, release,
    restart_with_data, take,
};

/// Those that want nothing done to the store, and wait for nothing: file locks pass them, too.
#[allow(dead_code)] // Each test file that includes this one uses a part of it.
pub const UNDISTURBED_PAUSES: &[(&str, Case)] = &[
    (
        "a_paused_lease_is_granted_to_nobody_until_it_is_resumed",
        a_paused_lease_is_granted_to_nobody_until_it_is_resumed,
    ),
    (
        "who_holds_a_paused_lease_goes_on_holding_it_and_is_told",
        who_holds_a_paused_lease_goes_on_holding_it_and_is_told,
    ),
    ("what_was_granted_before_a_pause_is_not_granted_again", what_was_granted_before_a_pause_is_not_granted_again),
    ("a_pause_that_stands_stays_what_it_is", a_pause_that_stands_stays_what_it_is),
    ("a_paused_lease_is_kept_for_nobody", a_paused_lease_is_kept_for_nobody),
];

/// So long that no lease ends that is not meant to, however slow a machine is.
fn long(ttl: Duration) -> Duration {
    100 * ttl
}

#[track_caller]
fn pause(store: &mut dyn Store, by: &str, why: Option<&str>) -> Told {
    store.pause(Wish::pause(by, why)).expect("a pause")
}

#[track_caller]
fn resume(store: &mut dyn Store) -> Told {
    store.pause(Wish::Resume).expect("an answer")
}

/// That it is paused, by whom and why.
#[track_caller]
fn is_paused(answer: &LeaseAnswer) -> (String, Option<String>) {
    match answer {
        LeaseAnswer::Paused(Pause { since, by, why }) => {
            assert!(*since > 1_600_000_000_000, "since {since}");
            (by.clone(), why.clone())
        }
        other => panic!("not paused but {other:?}"),
    }
}

/// That the holder keeps it, and is to stop.
#[track_caller]
fn is_to_stop(answer: &LeaseAnswer, token: u64) {
    match answer {
        LeaseAnswer::GrantedToStop { token: told, .. } => assert_eq!(*told, token),
        other => panic!("not granted to stop but {other:?}"),
    }
}

fn has_it(told: &Told, holder: &Owner) -> bool {
    told.holder.as_ref().is_some_and(|(by, _)| *by == holder.to_string())
}

pub fn a_paused_lease_is_granted_to_nobody_until_it_is_resumed(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (owner("a", 1), owner("b", 2));
    let token = held(store, &a, long(ttl));
    release(store, &a);
    let told = pause(store, "amy", Some("migration"));
    assert!(told.changed && told.holder.is_none(), "{told:?}");
    for node in [&b, &owner("a", 3), &owner("c", 4)] {
        assert_eq!(is_paused(&take(store, node, long(ttl))), ("amy".into(), Some("migration".into())));
    }
    assert_eq!(resume(store).pause, told.pause);
    assert!(granted(&take(store, &owner("b", 5), long(ttl))) > token);
}

pub fn who_holds_a_paused_lease_goes_on_holding_it_and_is_told(store: &mut dyn Store, ttl: Duration) {
    let (a, ttl) = (owner("a", 1), long(ttl));
    let token = held(store, &a, ttl);
    let told = pause(store, "amy", None);
    assert!(told.changed && has_it(&told, &a), "{told:?}");
    for _ in 0..2 {
        is_to_stop(&refresh(store, &a, ttl, token), token);
        held_by(&take(store, &owner("b", 2), ttl), &a.to_string());
    }
    let look = store.pause(Wish::Look).unwrap();
    assert!(!look.changed && look.pause == told.pause && has_it(&look, &a), "{look:?}");
    assert_eq!(release(store, &a), LeaseAnswer::Released);
    is_paused(&take(store, &owner("b", 3), ttl));
    assert_eq!(store.pause(Wish::Look).unwrap().holder, None);

    resume(store);
    let c = owner("c", 4);
    let again = granted(&take(store, &c, ttl));
    assert_eq!(refresh(store, &c, ttl, again), LeaseAnswer::Granted { token: again }, "nothing is left of it");
}

pub fn what_was_granted_before_a_pause_is_not_granted_again(store: &mut dyn Store, ttl: Duration) {
    let (a, ttl) = (owner("a", 1), long(ttl));
    held(store, &a, ttl);
    pause(store, "amy", None);
    // Its answer was lost, and it asks anew.
    is_paused(&take(store, &a, ttl));
    // That takes nothing from it either: the first answer may have come after all.
    held_by(&take(store, &owner("b", 2), ttl), &a.to_string());
    release(store, &a);
    is_paused(&take(store, &owner("b", 3), ttl));
}

pub fn a_pause_that_stands_stays_what_it_is(store: &mut dyn Store, ttl: Duration) {
    let first = pause(store, "amy", Some("migration"));
    let second = pause(store, "bob", None);
    assert_eq!((second.changed, &second.pause), (false, &first.pause));
    let resumed = resume(store);
    assert_eq!((resumed.changed, &resumed.pause), (true, &first.pause));
    assert_eq!(resume(store), Told { pause: None, changed: false, holder: None });
    assert_eq!(store.pause(Wish::Look).unwrap().pause, None);
    held(store, &owner("a", 1), long(ttl));
    assert_eq!(pause(store, "bob", None).pause.unwrap().by, "bob");
}

pub fn a_paused_lease_is_kept_for_nobody(store: &mut dyn Store, ttl: Duration) {
    let (a, b, ttl) = (owner("a", 1), owner("b", 2), long(ttl));
    held(store, &a, ttl);
    pause(store, "amy", None);
    let to = Some(NodeName::parse("b").unwrap());
    store.ask(&lease(), &ask(&a, super::AskKind::Release { to }));
    is_paused(&take(store, &b, ttl));
    resume(store);
    granted(&take(store, &owner("b", 3), ttl));
}

pub fn a_pause_is_no_permission_for_the_first_taking(store: &mut dyn Store, ttl: Duration) {
    pause(store, "amy", None);
    assert_eq!(quarantined(&take(store, &owner("a", 1), ttl)), ttl);
    resume(store);
    quarantined(&take(store, &owner("b", 2), ttl));
    pause(store, "amy", None);
    let mut answer = take(store, &owner("a", 3), ttl);
    while let LeaseAnswer::Quarantined { left } = answer {
        store.pass(left.max(Duration::from_millis(1)));
        answer = take(store, &owner("a", 3), ttl);
    }
    is_paused(&answer);
    resume(store);
    granted(&take(store, &owner("a", 4), ttl));
}

pub fn a_paused_lease_whose_holder_falls_silent_ends_and_is_nobodys(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    pause(store, "amy", None);
    let mut answer = take(store, &owner("b", 2), ttl);
    while let LeaseAnswer::Held { left, .. } | LeaseAnswer::Quarantined { left } = answer {
        store.pass(left.max(Duration::from_millis(1)));
        answer = take(store, &owner("b", 2), ttl);
    }
    is_paused(&answer);
    store.pass(ttl);
    is_paused(&take(store, &owner("c", 3), ttl));
    resume(store);
    assert!(granted(&take(store, &owner("b", 4), ttl)) > token);
}

pub fn a_restart_with_data_forgets_no_pause(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    pause(store, "amy", Some("migration"));
    restart_with_data(store);
    is_to_stop(&refresh(store, &a, ttl, token), token);
    release(store, &a);
    let mut answer = take(store, &owner("b", 2), ttl);
    while let LeaseAnswer::Held { left, .. } | LeaseAnswer::Quarantined { left } = answer {
        store.pass(left.max(Duration::from_millis(1)));
        answer = take(store, &owner("b", 2), ttl);
    }
    assert_eq!(is_paused(&answer), ("amy".into(), Some("migration".into())));
}

pub fn a_deleted_key_is_restored_by_its_holder_that_is_to_stop(store: &mut dyn Store, ttl: Duration) {
    let a = owner("a", 1);
    let token = held(store, &a, ttl);
    pause(store, "amy", None);
    store.disturb(Disturbance::Delete(lease().lease_key()));
    assert!(has_it(&store.pause(Wish::Look).unwrap(), &a), "nobody says that it has gone");
    quarantined(&take(store, &owner("b", 2), ttl));
    is_to_stop(&refresh(store, &a, ttl, token), token);
}

pub fn a_pause_that_was_lost_with_all_else_is_none(store: &mut dyn Store, ttl: Duration) {
    held(store, &owner("a", 1), ttl);
    pause(store, "amy", None);
    store.disturb(Disturbance::RestartEmpty);
    assert_eq!(store.pause(Wish::Look).unwrap().pause, None);
    // What it has lost, is waited out as ever.
    quarantined(&take(store, &owner("b", 2), ttl));
    assert!(pause(store, "amy", None).changed);
}
