//! Planted bugs: what the checks are for, and must see.

use circus_agent::model::event::{AskKind, Event, LeaseAnswer};
use circus_agent::model::time::Time;

use crate::simulated_redis::Rewrite;
use crate::store::Shape;
use crate::witness::Promise;

/// A bug, the shapes in which it must be seen, and as what.
pub(crate) struct Plant {
    pub(crate) name: &'static str,
    pub(crate) bug: Bug,
    pub(crate) shapes: &'static [Shape],
    pub(crate) breaks: &'static [Promise],
}

/// Where a bug sits.
#[derive(Clone, Copy)]
pub(crate) enum Bug {
    /// In the scripts.
    Script(Rewrite),
    /// In what an agent hears, or in what carries out its words.
    Flaw(Flaw),
}

/// A defect of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Validity counts from the answer, not from the question.
    CountFromAnswer,
    /// A grant that comes after its end is taken for a fresh one.
    LateGrant,
    /// No answer is taken for a grant.
    FailureIsGrant,
    /// No answer is taken for a refusal.
    FailureIsLoss,
    /// A node is the same owner in all its tenures.
    OwnerReused,
    /// The guard does not know the deadline.
    NoDeadline,
    /// The guard's timer stands still while the machine is frozen.
    SleepingTimer,
    /// A kill takes longer than the margin allows for.
    SlowKill,
    /// The children of an agent that crashed live on.
    Orphans,
    /// The tree is reported gone, and so the lease released, when only its main process is.
    GoneWithMain,
    /// That a changed file's sockets cannot be opened is never told.
    LostFailure,
    /// A grant counts though no replica has it.
    AckIgnored,
    /// Half of the servers count as most of them.
    HalfIsMost,
    /// A take is told before most servers know its token.
    NoSecondRound,
    /// The votes of a take that failed are not given back.
    VotesKept,
    /// A refresh counts that one server confirmed.
    OneIsEnough,
    /// The answers to refreshes that went out together are taken for each other's.
    AnswersMixedUp,
    /// All singletons share one lease.
    OneLeaseForAll,
    /// A release frees the other leases of the server, too.
    FreesNeighbour,
}

use Promise::{NeverTwo, SoonOne, TokensGrow, Undisturbed};
use Shape::{Cluster, Majority, Standalone};

const ALONE: &[Shape] = &[Standalone, Cluster];
const EVERYWHERE: &[Shape] = &[Standalone, Cluster, Majority];

/// All of them.
pub(crate) const PLANTS: &[Plant] = &[
    Plant {
        name: "absence is permission",
        bug: Bug::Script(&[
            (
                "if not state then\n    redis.call('HSET', KEYS[2], 'state', 'quarantine'",
                "if false then\n    redis.call('HSET', KEYS[2], 'state', 'quarantine'",
            ),
            ("if seen ~= inc then\n    ends", "if state and seen ~= inc then\n    ends"),
            ("if state ~= 'free' and now < ends then", "if state and state ~= 'free' and now < ends then"),
        ]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "no quarantine after a restart or a failover",
        bug: Bug::Script(&[("if seen ~= inc then\n    ends", "if false then\n    ends")]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a quarantine of half a ttl",
        bug: Bug::Script(&[(
            "ends = now + longest\n    redis.call('HSET', KEYS[2], 'state', state",
            "ends = now + longest / 2\n    redis.call('HSET', KEYS[2], 'state', state",
        )]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a refresh restores without a look at the record",
        bug: Bug::Script(&[(
            "local ours = known < token or (meta[1] == 'held' and meta[2] == owner)",
            "local ours = true",
        )]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo, TokensGrow],
    },
    Plant {
        name: "a refresh restores nothing",
        bug: Bug::Script(&[(
            "local ours = known < token or (meta[1] == 'held' and meta[2] == owner)",
            "local ours = false",
        )]),
        shapes: ALONE,
        breaks: &[Undisturbed],
    },
    Plant {
        name: "a refresh takes over another's key",
        bug: Bug::Script(&[(
            "if holder and holder ~= owner then\n    return 'lost', holder\n  end\n  if holder then",
            "  if holder == owner then",
        )]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo, TokensGrow],
    },
    Plant {
        name: "a refresh forgets the token",
        bug: Bug::Script(&[("'tok', text(math.max(known, token))", "'tok', '0'")]),
        shapes: ALONE,
        breaks: &[TokensGrow],
    },
    Plant {
        name: "a taking does not compare the owner",
        bug: Bug::Script(&[("if holder and holder ~= owner then\n  local left", "if false then\n  local left")]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a token that does not grow",
        bug: Bug::Script(&[("token = math.max(token + 1, now)", "token = math.max(token, 1)")]),
        shapes: EVERYWHERE,
        breaks: &[TokensGrow],
    },
    Plant {
        name: "a token that counts from nothing",
        bug: Bug::Script(&[("token = math.max(token + 1, now)", "token = token + 1")]),
        shapes: ALONE,
        breaks: &[TokensGrow],
    },
    Plant {
        name: "a release does not compare the owner",
        bug: Bug::Script(&[("if redis.call('GET', KEYS[1]) ~= ARGV[1] then\n  return {'released'}\nend", "")]),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a release after a failover announces a free lease",
        bug: Bug::Script(&[("if meta[1] ~= inc then", "if false then")]),
        shapes: ALONE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a replica's no is believed",
        bug: Bug::Script(&[(
            "return redis.error_reply('REPLICA this server is a replica; leases are decided on the master')",
            "return {'lost', ''}",
        )]),
        shapes: &[Standalone],
        breaks: &[Undisturbed],
    },
    Plant {
        name: "validity counted from the answer",
        bug: Bug::Flaw(Flaw::CountFromAnswer),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant { name: "a late grant accepted", bug: Bug::Flaw(Flaw::LateGrant), shapes: EVERYWHERE, breaks: &[NeverTwo] },
    Plant {
        name: "no answer taken for a grant",
        bug: Bug::Flaw(Flaw::FailureIsGrant),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "no answer taken for a refusal",
        bug: Bug::Flaw(Flaw::FailureIsLoss),
        shapes: EVERYWHERE,
        breaks: &[Undisturbed],
    },
    Plant {
        name: "an owner used for two tenures",
        bug: Bug::Flaw(Flaw::OwnerReused),
        shapes: ALONE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a guard that does not know the deadline",
        bug: Bug::Flaw(Flaw::NoDeadline),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a timer that sleeps with the machine",
        bug: Bug::Flaw(Flaw::SleepingTimer),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant { name: "a kill beyond the margin", bug: Bug::Flaw(Flaw::SlowKill), shapes: EVERYWHERE, breaks: &[NeverTwo] },
    Plant {
        name: "orphans of a crashed agent",
        bug: Bug::Flaw(Flaw::Orphans),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "a release before the tree is gone",
        bug: Bug::Flaw(Flaw::GoneWithMain),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "sockets of which nothing is heard any more",
        bug: Bug::Flaw(Flaw::LostFailure),
        shapes: EVERYWHERE,
        breaks: &[SoonOne],
    },
    Plant {
        name: "a replica's acknowledgement ignored",
        bug: Bug::Flaw(Flaw::AckIgnored),
        shapes: ALONE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "one lease for all singletons",
        bug: Bug::Flaw(Flaw::OneLeaseForAll),
        shapes: EVERYWHERE,
        breaks: &[SoonOne],
    },
    Plant {
        name: "a release that frees the neighbour",
        bug: Bug::Flaw(Flaw::FreesNeighbour),
        shapes: EVERYWHERE,
        breaks: &[NeverTwo],
    },
    Plant {
        name: "half of the servers are most",
        bug: Bug::Flaw(Flaw::HalfIsMost),
        shapes: &[Majority],
        breaks: &[NeverTwo],
    },
    Plant { name: "no second round", bug: Bug::Flaw(Flaw::NoSecondRound), shapes: &[Majority], breaks: &[TokensGrow] },
    Plant { name: "votes not given back", bug: Bug::Flaw(Flaw::VotesKept), shapes: &[Majority], breaks: &[SoonOne] },
    Plant {
        name: "one server's refresh counted",
        bug: Bug::Flaw(Flaw::OneIsEnough),
        shapes: &[Majority],
        breaks: &[NeverTwo],
    },
    Plant {
        name: "answers of one round trip mixed up",
        bug: Bug::Flaw(Flaw::AnswersMixedUp),
        shapes: &[Standalone, Majority],
        breaks: &[NeverTwo, SoonOne, Undisturbed],
    },
];

/// What an agent hears where a flaw bends it.
pub(crate) fn planted(flaw: Option<Flaw>, event: Event, now: Time) -> Event {
    let Event::Lease { watcher, mut ask, mut answer } = event else { return event };
    let keeps = !matches!(ask.kind, AskKind::Release { .. });
    match (flaw, &answer) {
        (Some(Flaw::CountFromAnswer), LeaseAnswer::Granted { .. }) if keeps => ask.sent = now,
        (Some(Flaw::LateGrant), LeaseAnswer::Granted { .. }) => match &ask.kind {
            AskKind::Take { ttl, .. } | AskKind::Refresh { ttl, .. } if ask.sent + *ttl / 2 < now => ask.sent = now,
            _ => {}
        },
        (Some(Flaw::FailureIsGrant), LeaseAnswer::Failed { .. }) => {
            if let AskKind::Refresh { token, .. } = ask.kind {
                answer = LeaseAnswer::Granted { token };
            }
        }
        (Some(Flaw::FailureIsLoss), LeaseAnswer::Failed { .. }) => {
            if matches!(ask.kind, AskKind::Refresh { .. }) {
                answer = LeaseAnswer::Lost { by: None };
            }
        }
        _ => {}
    }
    Event::Lease { watcher, ask, answer }
}
