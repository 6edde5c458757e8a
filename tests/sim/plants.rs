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
    pub(crate) field: Field,
}

/// What a bug concerns: it is hunted where there is such a thing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// Any singleton: where there is nothing else.
    Singletons,
    Legions,
    /// Watchers that run at times, with legions and without.
    Jobs,
    /// Leases that people pause and resume.
    Pauses,
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
    /// The machine's clock stands still while it is frozen.
    SleepingClock,
    /// A kill takes longer than the margin allows for.
    SlowKill,
    /// The guards go with an agent that crashes, and its children live on.
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
    /// Refreshes that go out together are taken for each other's.
    LeasesMixedUp,
    /// All singletons share one lease.
    OneLeaseForAll,
    /// A release frees the other leases of the server, too.
    FreesNeighbour,
    /// What was known of members before a loss of data is forgotten with it.
    NoAttendance,
    /// An agent is another member under each of its names.
    AnotherByName,
    /// The guards of what follows a leader do not know the deadline.
    FollowerUnguarded,
    /// What follows a leader is taken for gone when it is told to stop.
    FollowerGoneAtOnce,
    /// The leader goes when what follows it is told to.
    LeaderFirst,
    /// A run begins first, and its slot is claimed then.
    RunsBeforeClaim,
    /// No answer to a claim is taken for a yes.
    SilenceIsOurs,
    /// No answer to a claim is taken for a no.
    SilenceIsTaken,
    /// A claim counts that one server has.
    OneClaimIsEnough,
    /// A slot is the moment at which it is noticed.
    SlotFromNow,
    /// Who holds goes on though the store says that it is paused.
    PauseUnheard,
    /// However long ago a slot came, it is taken for one that has just come.
    NeverLate,
}

use Promise::{
    Best, ByHolder, CountedOnce, EachSlot, InOrder, InTime, NeverTwo, OfSchedule, OncePerSlot, Paused, Quorum, SoonOne,
    TokensGrow, Undisturbed,
};
use Shape::{Cluster, Majority, Standalone};

const ALONE: &[Shape] = &[Standalone, Cluster];
const EVERYWHERE: &[Shape] = &[Standalone, Cluster, Majority];

/// All of them.
pub(crate) const PLANTS: &[Plant] = &[
    script(
        "absence is permission",
        &[
            (
                "if not state then\n    redis.call('HSET', KEYS[2], 'state', 'quarantine'",
                "if false then\n    redis.call('HSET', KEYS[2], 'state', 'quarantine'",
            ),
            ("if seen ~= inc then\n    ends", "if state and seen ~= inc then\n    ends"),
            ("if state ~= 'free' and now < ends then", "if state and state ~= 'free' and now < ends then"),
        ],
        ALONE,
        &[NeverTwo, Undisturbed],
    ),
    script(
        "no quarantine after a restart or a failover",
        &[("if seen ~= inc then\n    ends", "if false then\n    ends")],
        ALONE,
        &[NeverTwo, Undisturbed],
    ),
    script(
        "a quarantine of half a ttl",
        &[(
            "ends = now + longest\n    redis.call('HSET', KEYS[2], 'state', state",
            "ends = now + longest / 2\n    redis.call('HSET', KEYS[2], 'state', state",
        )],
        &[Standalone],
        &[NeverTwo],
    ),
    script(
        "a refresh restores without a look at the record",
        &[("local ours = mine and meta[1] == 'held' or not mine and known < token", "local ours = true")],
        &[Cluster],
        &[NeverTwo, TokensGrow, Undisturbed],
    ),
    script(
        "a refresh restores nothing",
        &[("local ours = mine and meta[1] == 'held' or not mine and known < token", "local ours = false")],
        ALONE,
        &[Undisturbed],
    ),
    script(
        "a refresh takes over another's key",
        &[
            (
                "if holder and not same(holder, owner) then\n    return 'lost', holder\n  end",
                "if not same(holder, owner) then\n    holder = nil\n  end",
            ),
            ("local ours = mine and meta[1] == 'held' or not mine and known < token", "local ours = true"),
        ],
        &[Standalone],
        &[NeverTwo, TokensGrow, Undisturbed],
    ),
    script(
        "a refresh forgets the token",
        &[("'tok', text(math.max(known, token))", "'tok', '0'")],
        ALONE,
        &[TokensGrow],
    ),
    script(
        "a taking does not compare the owner",
        &[("if holder and not same(holder, owner) then\n  local left", "if false then\n  local left")],
        EVERYWHERE,
        &[NeverTwo, TokensGrow],
    ),
    script(
        "a renamed owner is another one",
        &[("return nonce(one) == nonce(other)", "return one == other")],
        EVERYWHERE,
        &[Undisturbed],
    ),
    script(
        "a token that does not grow",
        &[("token = math.max(token + 1, now)", "token = math.max(token, 1)")],
        EVERYWHERE,
        &[TokensGrow],
    ),
    script(
        "a token that counts from nothing",
        &[("token = math.max(token + 1, now)", "token = token + 1")],
        ALONE,
        &[TokensGrow],
    ),
    script(
        "a release does not compare the owner",
        &[("if not same(redis.call('GET', KEYS[1]), ARGV[1]) then\n  return {'released'}\nend", "")],
        EVERYWHERE,
        &[NeverTwo],
    ),
    script(
        "a release after a failover frees the lease",
        &[
            ("if meta[1] ~= inc then", "if false then"),
            ("'state', 'free', 'until', text(now))", "'state', 'free', 'until', text(now), 'inc', inc)"),
        ],
        &[Standalone],
        &[NeverTwo],
    ),
    script(
        "a replica's no is believed",
        &[(
            "return redis.error_reply('REPLICA this server is a replica; leases are decided on the master')",
            "return {'lost', '', '', 'lost', '', '', 'lost', '', ''}",
        )],
        &[Standalone],
        &[Undisturbed],
    ),
    of_legions(script(
        "a member that hardly ever lapses",
        &[
            ("{ends = now + ttl, ttl = ttl,", "{ends = now + 1000 * ttl, ttl = ttl,"),
            ("if num(ends) > now + num(its) then", "if false then"),
        ],
        EVERYWHERE,
        // Nobody takes the place of one that comes first and is gone.
        &[Quorum, SoonOne],
    )),
    of_legions(script(
        "all members of one valor",
        &[("for _, said in ipairs({name, member.valor,", "for _, said in ipairs({name, '1',")],
        EVERYWHERE,
        &[Best],
    )),
    of_legions(script(
        "a record of members that says nothing of its age",
        &[(
            "local words = {'mustered', holder or '', text(now - since)}",
            "local words = {'mustered', holder or '', '99999999'}",
        )],
        ALONE,
        &[Undisturbed],
    )),
    of_legions(flaw("members forgotten with the data", Flaw::NoAttendance, ALONE, &[Undisturbed])),
    of_legions(flaw("a renamed member that is two", Flaw::AnotherByName, EVERYWHERE, &[CountedOnce])),
    of_legions(flaw("a follower taken for gone", Flaw::FollowerGoneAtOnce, EVERYWHERE, &[NeverTwo, InOrder])),
    of_legions(flaw("a leader that goes first", Flaw::LeaderFirst, EVERYWHERE, &[InOrder])),
    of_legions(flaw("a follower that nobody guards", Flaw::FollowerUnguarded, EVERYWHERE, &[NeverTwo])),
    of_jobs(script(
        "a claim of a slot that another has",
        &[("or num(known) == slot and by ~= ARGV[1] then", "then")],
        EVERYWHERE,
        &[OncePerSlot],
    )),
    of_jobs(script(
        "a claim of a slot before a claimed one",
        &[("if num(known) > slot or num(known)", "if num(known)")],
        EVERYWHERE,
        &[OncePerSlot],
    )),
    of_jobs(script(
        "a claim by whoever asks",
        &[("or (meta[1] or meta[4]) ~= ARGV[1] then", "then")],
        EVERYWHERE,
        &[ByHolder],
    )),
    of_jobs(script(
        "a claim of a time years ahead",
        &[("if slot * 1000 > now + AHEAD * 1000 then", "if false then")],
        ALONE,
        &[EachSlot],
    )),
    of_jobs(script(
        "claims forgotten at a release",
        &[(
            "redis.call('DEL', KEYS[1])\nif ARGV[4]",
            "redis.call('DEL', KEYS[1])\nredis.call('DEL', (string.gsub(KEYS[1], ':lease$', ':slots')))\nif ARGV[4]",
        )],
        EVERYWHERE,
        &[OncePerSlot],
    )),
    of_jobs(script(
        "claims forgotten at a taking",
        &[(
            "'to', 'reserved', 'void')\nreturn",
            "'to', 'reserved', 'void')\nredis.call('DEL', (string.gsub(KEYS[1], ':lease$', ':slots')))\nreturn",
        )],
        EVERYWHERE,
        &[OncePerSlot],
    )),
    of_jobs(flaw("a run before its claim", Flaw::RunsBeforeClaim, EVERYWHERE, &[OncePerSlot])),
    of_jobs(flaw("no answer to a claim taken for a yes", Flaw::SilenceIsOurs, &[Standalone], &[OncePerSlot])),
    of_jobs(flaw("no answer to a claim taken for a no", Flaw::SilenceIsTaken, ALONE, &[EachSlot])),
    of_jobs(flaw("a claim that one server has", Flaw::OneClaimIsEnough, &[Majority], &[OncePerSlot])),
    of_jobs(flaw("a slot that is the moment of its notice", Flaw::SlotFromNow, EVERYWHERE, &[OfSchedule])),
    of_jobs(flaw("a slot that is never late", Flaw::NeverLate, &[Standalone, Majority], &[InTime])),
    of_pauses(script(
        "a taking that ignores the pause",
        &[("if meta[13] then", "if false then")],
        EVERYWHERE,
        &[Paused],
    )),
    of_pauses(script(
        "a pause that a release forgets",
        &[(
            "redis.call('HSET', KEYS[2], 'state', 'free', 'until', text(now))\nif ARGV[2]",
            "redis.call('HSET', KEYS[2], 'state', 'free', 'until', text(now))\nredis.call('HDEL', KEYS[2], 'paused')\nif ARGV[2]",
        )],
        EVERYWHERE,
        &[Paused],
    )),
    of_pauses(script(
        "a resume that nobody hears of",
        &[("redis.call('PUBLISH', ARGV[4], ARGV[1])", "local _ = ARGV[4]")],
        EVERYWHERE,
        &[SoonOne],
    )),
    of_pauses(flaw("a holder that goes on though it is paused", Flaw::PauseUnheard, EVERYWHERE, &[Paused])),
    flaw("validity counted from the answer", Flaw::CountFromAnswer, ALONE, &[NeverTwo]),
    flaw("a late grant accepted", Flaw::LateGrant, &[Standalone], &[NeverTwo]),
    flaw("no answer taken for a grant", Flaw::FailureIsGrant, EVERYWHERE, &[NeverTwo]),
    flaw("no answer taken for a refusal", Flaw::FailureIsLoss, EVERYWHERE, &[Undisturbed]),
    flaw("an owner used for two tenures", Flaw::OwnerReused, &[Standalone], &[NeverTwo]),
    flaw("a guard that does not know the deadline", Flaw::NoDeadline, EVERYWHERE, &[NeverTwo]),
    flaw("a clock that sleeps with the machine", Flaw::SleepingClock, EVERYWHERE, &[NeverTwo]),
    flaw("a kill beyond the margin", Flaw::SlowKill, EVERYWHERE, &[NeverTwo]),
    flaw("orphans of a crashed agent", Flaw::Orphans, EVERYWHERE, &[NeverTwo]),
    flaw("a release before the tree is gone", Flaw::GoneWithMain, EVERYWHERE, &[NeverTwo]),
    flaw("sockets of which nothing is heard any more", Flaw::LostFailure, &[Standalone], &[SoonOne]),
    flaw("a replica's acknowledgement ignored", Flaw::AckIgnored, ALONE, &[NeverTwo, TokensGrow]),
    flaw("one lease for all singletons", Flaw::OneLeaseForAll, EVERYWHERE, &[SoonOne, Undisturbed, TokensGrow]),
    flaw("a release that frees the neighbour", Flaw::FreesNeighbour, EVERYWHERE, &[NeverTwo, Undisturbed]),
    flaw("half of the servers are most", Flaw::HalfIsMost, &[Majority], &[NeverTwo]),
    flaw("no second round", Flaw::NoSecondRound, &[Majority], &[TokensGrow]),
    flaw("one server's refresh counted", Flaw::OneIsEnough, &[Majority], &[NeverTwo]),
    flaw("votes not given back", Flaw::VotesKept, &[Majority], &[SoonOne]),
    flaw(
        "leases of one round trip mixed up",
        Flaw::LeasesMixedUp,
        &[Standalone, Majority],
        &[NeverTwo, SoonOne, Undisturbed],
    ),
];

const fn script(name: &'static str, rewrite: Rewrite, shapes: &'static [Shape], breaks: &'static [Promise]) -> Plant {
    Plant { name, bug: Bug::Script(rewrite), shapes, breaks, field: Field::Singletons }
}

const fn flaw(name: &'static str, flaw: Flaw, shapes: &'static [Shape], breaks: &'static [Promise]) -> Plant {
    Plant { name, bug: Bug::Flaw(flaw), shapes, breaks, field: Field::Singletons }
}

const fn of_jobs(mut plant: Plant) -> Plant {
    plant.field = Field::Jobs;
    plant
}

const fn of_pauses(mut plant: Plant) -> Plant {
    plant.field = Field::Pauses;
    plant
}

const fn of_legions(mut plant: Plant) -> Plant {
    plant.field = Field::Legions;
    plant
}

/// What an agent hears where a flaw bends it.
pub(crate) fn planted(flaw: Option<Flaw>, event: Event, now: Time) -> Event {
    let Event::Lease { watcher, mut ask, mut answer } = event else { return event };
    let keeps = !matches!(ask.kind, AskKind::Release { .. });
    match (flaw, &answer) {
        (Some(Flaw::PauseUnheard), LeaseAnswer::GrantedToStop { token, .. }) => {
            answer = LeaseAnswer::Granted { token: *token };
        }
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
