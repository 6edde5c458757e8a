//! What must be so of those that contend for a lease, whoever keeps them: cases as those of the lease itself.

use std::time::Duration;

use circus_agent::model::election::{Membership, Muster};

use super::{Disturbance, Store, ask, granted, lease, owner, take};
use circus_agent::model::event::AskKind;
use circus_agent::model::names::NodeName;

/// A member of this valor, which would hold the lease.
fn member(valor: u32, ttl: Duration) -> Membership {
    Membership { valor, stands: true, appoints: None, scroll: format!("role=web {valor}"), ttl }
}

/// So long that nobody lapses who is not meant to, however slow a machine is.
fn long(ttl: Duration) -> Duration {
    100 * ttl
}

/// Tells that `node` lives, and gives who does.
#[track_caller]
fn says(store: &mut dyn Store, node: &str, membership: &Membership) -> Muster {
    let muster = store.muster(node, Some(membership.clone())).unwrap();
    assert_eq!(said(&muster, node).as_ref(), Some(membership), "who asks is among them");
    muster
}

fn said(muster: &Muster, node: &str) -> Option<Membership> {
    Some(muster.members.iter().find(|member| member.node.as_str() == node)?.membership.clone())
}

/// Who an agent is that was called `agent` first.
pub fn instance(agent: &str) -> u128 {
    agent.bytes().fold(0, |all, byte| all << 8 | u128::from(byte))
}

/// An agent has another name, and says so, or that it leaves by that: who lives then.
#[track_caller]
fn says_as(store: &mut dyn Store, agent: &str, name: &str, membership: Option<&Membership>) -> Vec<String> {
    // No agent does all of that within the resolution of its words' numbers.
    store.pass(Duration::from_millis(1));
    let muster = store.muster_as(agent, name, membership.cloned()).unwrap();
    names(&muster).into_iter().map(str::to_owned).collect()
}

fn names(muster: &Muster) -> Vec<&str> {
    muster.members.iter().map(|member| member.node.as_str()).collect()
}

pub fn members_hear_of_each_other_what_they_say_and_who_has_the_lease(store: &mut dyn Store, ttl: Duration) {
    let ttl = long(ttl);
    let (a, b) = (member(9, ttl), Membership { stands: false, ..member(0, 2 * ttl) });
    let alone = says(store, "a", &a);
    assert_eq!((names(&alone), &alone.holder), (vec!["a"], &None));
    let both = says(store, "b", &b);
    assert_eq!((names(&both), said(&both, "a"), said(&both, "b")), (vec!["a", "b"], Some(a.clone()), Some(b)));
    assert!(both.members.iter().all(|member| member.left > ttl / 2 && member.left <= member.membership.ttl));
    let holder = owner("a", 1);
    store.init(&lease()).unwrap();
    granted(&take(store, &holder, ttl));
    assert_eq!(says(store, "a", &a).holder, Some(holder.to_string()));
    store.ask(&lease(), &ask(&holder, AskKind::Release { to: None }));
    assert_eq!(says(store, "a", &a).holder, None);
}

pub fn who_leaves_is_gone_at_once_and_may_come_back(store: &mut dyn Store, ttl: Duration) {
    let a = member(1, long(ttl));
    says(store, "a", &a);
    says(store, "b", &a);
    assert_eq!(names(&store.muster("a", None).unwrap()), ["b"], "and hears who is left");
    assert_eq!(names(&says(store, "b", &a)), ["b"]);
    assert_eq!(names(&says(store, "a", &a)), ["a", "b"]);
    // Twice is once, and who was never there leaves nothing behind.
    for node in ["a", "a", "c"] {
        store.muster(node, None).unwrap();
    }
    assert_eq!(names(&says(store, "b", &a)), ["b"]);
}

pub fn who_is_silent_for_a_ttl_of_its_own_lapses(store: &mut dyn Store, ttl: Duration) {
    let long = member(2, long(ttl));
    says(store, "a", &member(1, ttl));
    let before = says(store, "b", &long).members.remove(0);
    assert!(before.left <= ttl, "{:?}", before.left);
    store.pass(before.left + Duration::from_millis(1));
    assert_eq!(names(&says(store, "b", &long)), ["b"]);
    assert_eq!(names(&says(store, "c", &long)), ["b", "c"]);
}

pub fn who_goes_on_speaking_lives_on(store: &mut dyn Store, ttl: Duration) {
    let (a, b) = (member(1, 4 * ttl), member(2, long(ttl)));
    for _ in 0..6 {
        says(store, "a", &a);
        store.pass(ttl);
    }
    assert_eq!(names(&says(store, "b", &b)), ["a", "b"]);
}

pub fn a_renamed_member_is_one_all_the_while(store: &mut dyn Store, ttl: Duration) {
    let (a, c) = (member(1, long(ttl)), member(2, long(ttl)));
    says(store, "c", &c);
    says(store, "a", &a);
    for (new, old) in [("b", "a"), ("a", "b"), ("d", "a")] {
        let mut both = [new, "c"];
        both.sort_unstable();
        assert_eq!(says_as(store, "a", new, Some(&a)), both);
        assert_eq!(names(&says(store, "c", &c)), both);
        assert_eq!(says_as(store, "a", old, None), both);
        assert_eq!(names(&says(store, "c", &c)), both);
    }
    assert_eq!(says_as(store, "a", "d", None), ["c"]);
}

pub fn who_gives_up_a_name_does_not_leave_for_whoever_has_it_now(store: &mut dyn Store, ttl: Duration) {
    let (a, heir) = (member(1, long(ttl)), member(7, long(ttl)));
    says(store, "a", &a);
    assert_eq!(says_as(store, "a", "b", Some(&a)), ["b"]);
    assert_eq!(says_as(store, "heir", "a", Some(&heir)), ["a", "b"]);
    assert_eq!(says_as(store, "a", "a", None), ["a", "b"]);
    assert_eq!(said(&says(store, "c", &a), "a"), Some(heir));
}

pub fn what_a_member_says_may_change(store: &mut dyn Store, ttl: Duration) {
    let old = member(1, long(ttl));
    says(store, "a", &old);
    for changed in [
        Membership { valor: u32::MAX, ..old.clone() },
        Membership { stands: false, ..old.clone() },
        Membership { appoints: NodeName::parse("b-2").ok(), ..old.clone() },
        Membership { scroll: String::new(), ..old.clone() },
        Membership { scroll: "two lines\nof \u{e4} text, 1 2 3 ".into(), ..old.clone() },
        Membership { ttl: 2 * old.ttl, ..old.clone() },
    ] {
        says(store, "a", &changed);
        assert_eq!(said(&says(store, "b", &old), "a"), Some(changed));
    }
    // It lapses by what it said last.
    says(store, "a", &Membership { ttl, ..old.clone() });
    says(store, "b", &old);
    store.pass(ttl + Duration::from_millis(1));
    assert_eq!(names(&says(store, "b", &old)), ["b"]);
}

pub fn where_everything_was_lost_who_was_seen_counts_until_it_lapses(store: &mut dyn Store, ttl: Duration) {
    for loss in [Disturbance::FlushAll, Disturbance::RestartEmpty] {
        let (a, b) = (member(1, 6 * ttl), member(2, long(ttl)));
        says(store, "a", &a);
        says(store, "b", &b);
        let left = says(store, "b", &b).members[0].left;
        store.disturb(loss);
        assert_eq!(names(&says(store, "b", &b)), ["a", "b"], "it may live, and not have spoken again");
        assert_eq!(names(&says(store, "c", &b)), ["b", "c"], "whoever has never seen it knows of nobody");
        store.pass(left);
        assert_eq!(names(&says(store, "b", &b)), ["b", "c"]);
        // Whatever comes next begins with nobody.
        ["b", "c"].into_iter().for_each(|node| drop(store.muster(node, None).unwrap()));
    }
}

pub fn where_everything_was_lost_a_renamed_member_is_one(store: &mut dyn Store, ttl: Duration) {
    let (a, c) = (member(1, long(ttl)), member(2, long(ttl)));
    says(store, "a", &a);
    says(store, "c", &c);
    store.disturb(Disturbance::FlushAll);
    says_as(store, "a", "b", Some(&a));
    assert_eq!(names(&says(store, "c", &c)), ["b", "c"]);
}

pub fn a_restart_with_data_loses_no_member(store: &mut dyn Store, ttl: Duration) {
    let a = member(1, long(ttl));
    says(store, "a", &a);
    store.disturb(Disturbance::Save);
    store.disturb(Disturbance::RestartWithSaved);
    assert_eq!(names(&says(store, "b", &a)), ["a", "b"]);
}

pub fn a_clock_that_was_set_back_makes_no_member_live_longer(store: &mut dyn Store, ttl: Duration) {
    let b = member(2, long(ttl));
    let holder = owner("a", 1);
    store.init(&lease()).unwrap();
    granted(&take(store, &holder, ttl));
    says(store, "a", &member(1, ttl));
    assert_eq!(says(store, "b", &b).holder, Some(holder.to_string()));
    store.disturb(Disturbance::SetBack(lease(), Duration::from_secs(10_000)));
    let seen = says(store, "b", &b);
    assert!(names(&seen) == ["a", "b"] && seen.members[0].left <= ttl, "{seen:?}");
    assert_eq!(seen.holder, None, "nobody waits for a lease that lasts for hours");
    store.pass(ttl + Duration::from_millis(1));
    assert_eq!(names(&says(store, "b", &b)), ["b"]);
}

pub fn what_stands_in_place_of_the_members_is_named(store: &mut dyn Store, ttl: Duration) {
    let a = member(1, long(ttl));
    store.disturb(Disturbance::Overwrite(lease().members_key(), "me".into()));
    for membership in [Some(a.clone()), None] {
        let why = store.muster("a", membership).unwrap_err();
        assert!(why.contains("circus:{prod/beat}:members: WRONGTYPE"), "{why}");
    }
    store.disturb(Disturbance::Delete(lease().members_key()));
    says(store, "a", &a);
}
