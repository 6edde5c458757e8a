//! What stands in a lease file, and who may have the lease then. Pure: the same decisions as in take.lua.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::event::LeaseAnswer;
use crate::model::names::NodeName;
use crate::model::time::Time;

/// The line in a lease file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) state: State,
    /// The last holder: node and nonce.
    pub(super) owner: String,
    pub(super) token: u64,
    /// When it ends, in nanoseconds since boot.
    pub(super) until: u64,
    /// The holder's ttl, ms.
    pub(super) ttl: u64,
    /// The clock that `until` and `reserved` are of: the boot, and the time namespace.
    pub(super) clock: String,
    /// The file's own inode: another one says that somebody copied the record.
    pub(super) inode: u64,
    /// The node that a free lease is kept for, until `reserved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) reserved: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Held,
    Free,
    Quarantine,
}

/// What stands at a lease's path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, and nothing says that there ever was.
    Nothing,
    /// Somebody's doing: nothing, though tokens were given; or what no agent wrote into this file. A holder may live.
    Spoilt { locked: bool, why: &'static str },
    /// The record of a holder, whose lock is on the file or is not any more.
    Held { record: Record, locked: bool },
    /// The record of a release.
    Free(Record),
    /// Nobody is known to have it, but someone may, until the record ends.
    Quarantine(Record),
}

impl Found {
    pub(super) fn record(&self) -> Option<&Record> {
        match self {
            Found::Nothing | Found::Spoilt { .. } => None,
            Found::Held { record, .. } | Found::Free(record) | Found::Quarantine(record) => Some(record),
        }
    }
}

/// What is to be done about a wish to take a lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Grant,
    /// Answer with this, and change nothing.
    Answer(LeaseAnswer),
    /// Nobody is known to hold it, but someone may: write that down, and wait.
    Quarantine,
    /// Someone holds it, unknown who and for how long: write down that it ends.
    Bound,
}

/// Decides about a wish of `node` to take the lease, as take.lua does on Redis.
pub(super) fn verdict(found: &Found, node: &NodeName, clock: &str, now: Time, ttl: Duration) -> Verdict {
    // What is left until then; nothing when it has passed, or is no time of this clock.
    let left = |record: &Record, then: u64| {
        let left = now.until(Time::from_nanos(then));
        (record.clock == clock && !left.is_zero()).then_some(left)
    };
    match found {
        Found::Nothing => Verdict::Grant,
        Found::Spoilt { locked: false, .. } => Verdict::Quarantine,
        Found::Spoilt { locked: true, .. } => Verdict::Bound,
        Found::Held { locked: false, .. } => Verdict::Grant,
        Found::Held { record, locked: true } => {
            let its = Duration::from_millis(record.ttl);
            let held = |left| Verdict::Answer(LeaseAnswer::Held { by: record.owner.clone(), left, ttl: its });
            match left(record, record.until) {
                Some(left) => held(left),
                None if record.clock == clock => Verdict::Grant,
                None => held(its.max(ttl)),
            }
        }
        Found::Quarantine(record) => match left(record, record.until) {
            Some(left) => Verdict::Answer(LeaseAnswer::Quarantined { left }),
            None => Verdict::Grant,
        },
        Found::Free(record) => match (&record.to, left(record, record.reserved)) {
            (Some(to), Some(left)) if to != node.as_str() => {
                Verdict::Answer(LeaseAnswer::Reserved { node: to.clone(), left })
            }
            _ => Verdict::Grant,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TTL: Duration = Duration::from_secs(15);

    fn record(state: State, clock: &str, until: u64) -> Record {
        let owner = "amy:00000000000000000000000000000007".to_owned();
        Record { state, owner, token: 7, until, ttl: 15_000, clock: clock.into(), inode: 1, to: None, reserved: 0 }
    }

    fn at_second_100(found: &Found) -> Verdict {
        verdict(found, &NodeName::parse("ben").unwrap(), "this boot", Time::from_nanos(100 * SECOND), TTL)
    }

    fn held(left: u64) -> Verdict {
        let (left, by) = (Duration::from_secs(left), "amy:00000000000000000000000000000007".to_owned());
        Verdict::Answer(LeaseAnswer::Held { by, left, ttl: TTL })
    }

    #[test]
    fn a_free_lock_is_permission_whatever_the_time_and_a_taken_one_until_it_ends_on_this_clock() {
        for clock in ["this boot", "another boot"] {
            for until in [99, 101] {
                let record = record(State::Held, clock, until * SECOND);
                assert_eq!(at_second_100(&Found::Held { record, locked: false }), Verdict::Grant);
            }
        }
        let locked = |clock, until| Found::Held { record: record(State::Held, clock, until), locked: true };
        assert_eq!(at_second_100(&locked("this boot", 101 * SECOND)), held(1));
        assert_eq!(at_second_100(&locked("this boot", 100 * SECOND + 1)), {
            let Verdict::Answer(LeaseAnswer::Held { by, ttl, .. }) = held(0) else { unreachable!() };
            Verdict::Answer(LeaseAnswer::Held { by, left: Duration::from_nanos(1), ttl })
        });
        assert_eq!(at_second_100(&locked("this boot", 100 * SECOND)), Verdict::Grant);
        assert_eq!(at_second_100(&locked("another boot", 0)), held(15));
    }

    #[test]
    fn what_somebody_did_to_the_file_is_no_permission() {
        assert_eq!(at_second_100(&Found::Nothing), Verdict::Grant);
        assert_eq!(at_second_100(&Found::Spoilt { locked: false, why: "" }), Verdict::Quarantine);
        assert_eq!(at_second_100(&Found::Spoilt { locked: true, why: "" }), Verdict::Bound);
    }

    #[test]
    fn a_quarantine_ends_with_its_time_or_with_the_boot() {
        let quarantine = |clock, until| at_second_100(&Found::Quarantine(record(State::Quarantine, clock, until)));
        let left = Duration::from_secs(1);
        assert_eq!(quarantine("this boot", 101 * SECOND), Verdict::Answer(LeaseAnswer::Quarantined { left }));
        assert_eq!(quarantine("this boot", 100 * SECOND), Verdict::Grant);
        assert_eq!(quarantine("another boot", 101 * SECOND), Verdict::Grant);
    }

    #[test]
    fn a_reservation_binds_others_for_its_time_on_this_boot() {
        let free = |clock, to: &str, reserved| {
            let to = Some(to.to_owned());
            at_second_100(&Found::Free(Record { to, reserved, ..record(State::Free, clock, 99 * SECOND) }))
        };
        let (node, left) = ("eve".to_owned(), Duration::from_secs(2));
        assert_eq!(free("this boot", "eve", 102 * SECOND), Verdict::Answer(LeaseAnswer::Reserved { node, left }));
        assert_eq!(free("this boot", "ben", 102 * SECOND), Verdict::Grant);
        assert_eq!(free("this boot", "eve", 100 * SECOND), Verdict::Grant);
        assert_eq!(free("another boot", "eve", 102 * SECOND), Verdict::Grant);
    }
}
