//! One cluster-wide promise, as one node keeps it.
//!
//! ```text
//!             due or freed           granted
//!   Waiting ───────────────▶ Asking ─────────▶ Held ──────────────▶ Releasing ──▶ Waiting or Aside
//!      ▲                        │               │   the tree is gone              (as is wanted then)
//!      └────────────────────────┘               │
//!         denied, or no answer                  └─ refused, unconfirmed or expired: *losing*. Still Held, so that
//!                                                  nothing else starts, until the watcher's tree is gone.
//!   Aside: not wanted, or standing back after failures
//! ```
//!
//! Rules, each from the rule of thirds: a third of the ttl to wait, a third to try, a third to stop.
//!
//! - A grant is valid for its ttl less a margin, counted from when it was **asked for**: the store may have started
//!   the ttl long before the answer arrives.
//! - A refresh is due a third after the last confirmed one was sent. When it is not confirmed within another third,
//!   the lease is *losing*: the child's stop begins, and the rest of the ttl is its time to end.
//! - Refused because someone else has it: the child is killed at once.
//! - A question has as long as a refresh may take. A refresh without an answer is asked again three times as often, so
//!   that it survives a connection that hangs, and a store that is far away.
//! - No failure of the store is an answer. Only a grant prolongs, only a refusal ends, only time expires.
//! - A taking that is granted when nobody waits for it, or after its end, is released. What a late refresh was granted
//!   ends by itself: where the store had lost its data, the refresh restored what another may have, and a release would
//!   say that nobody does.
//! - A release is asked for only after the tree is gone, and an owner is never used for two tenures. One whose question
//!   was answered with no, or is overdue, asks nothing more: what may still be on its way to take its vote back harms
//!   nobody.
//! - What was seen held a moment ago has not ended long ago, whatever the store's clock says: each taking tells when that
//!   was.
//! - A pause takes nothing away: who holds is told with its next refresh, which goes out at the news of it, stops its child
//!   in good order and gives the lease back. Who waits goes on waiting, for the news of its end.
//! - All leases of a node are refreshed on the node's own [`Ticks`], so that one round trip does for all of them.

use std::time::Duration;

use super::event::{Ask, AskKind, Deadline, LeaseAnswer};
use super::history::{Cause, Ending};
use super::names::{LeaseName, NodeName, Owner};
use super::pause::Pause;
use super::random::Random;
use super::snapshot::{LeaseCounts, LeaseRole, LeaseView};
use super::spec::LeaseTimings;
use super::ticks::Ticks;
use super::time::Time;

/// How long a released lease is kept for the node it was moved to.
pub const RESERVATION: Duration = Duration::from_secs(2);

/// Waiting nodes spread over this much when a lease ends, so that they do not ask all at once; and when they were in each
/// other's way.
const HERD: Duration = Duration::from_millis(50);

/// A question to put to the store now, with the time it has.
pub type Question = (Ask, Duration);

/// One node's side of one lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    name: LeaseName,
    node: NodeName,
    timings: LeaseTimings,
    random: Random,
    /// Drawn from its first name.
    ticks: Ticks,
    state: State,
    /// The longest ttl known of any node: what a quarantine has to wait out.
    longest: Duration,
    /// When another node was last seen to hold it.
    seen: Option<Time>,
    /// How often in a row this node and others were in each other's way.
    splits: u32,
    latency: Option<Duration>,
    counts: LeaseCounts,
}

/// How it stands. A question is asked `again` where it is not known what came of the same owner's before.
#[derive(Debug, Clone, PartialEq)]
enum State {
    Aside { until: Option<Time>, why: String, given_to: Option<NodeName> },
    Waiting { owner: Owner, next: Time, why: Why },
    Asking { owner: Owner, sent: Time, freed: bool, again: bool },
    Held(Held),
    Releasing { owner: Owner, to: Option<NodeName>, next: Time, since: Time, then: Then },
}

/// Why a node waits.
#[derive(Debug, Clone, PartialEq)]
enum Why {
    NotAskedYet,
    HeldBy(String),
    Quarantine,
    ReservedFor(String),
    Paused(Pause),
    Split(String),
    NoAnswer(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    owner: Owner,
    token: u64,
    since: Time,
    /// When the last confirmed question was sent: validity counts from here.
    confirmed: Time,
    /// When the refresh under way became due.
    due: Time,
    /// When the next question goes out.
    next: Time,
    /// When the unanswered question went out.
    asked: Option<Time>,
    trouble: Option<String>,
    loss: Option<Loss>,
    /// Nobody is to have it any more, this node neither: it is to stop in good order.
    pause: Option<Pause>,
}

/// Why a lease is being lost.
#[derive(Debug, Clone, PartialEq)]
enum Loss {
    Unconfirmed,
    Taken { by: Option<String> },
    Expired,
}

/// What follows a release.
#[derive(Debug, Clone, PartialEq)]
enum Then {
    Wait,
    Aside { until: Option<Time>, why: String },
}

/// Whether a child may run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// No.
    No,
    /// Yes, and it is stopped and killed at these times unless the lease is confirmed again.
    Firm { token: u64, deadline: Deadline },
    /// Not any more: no child starts, and what runs is to end by then; a time that has come means now.
    Losing { kill: Time },
}

/// What this node does after it gave a lease away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// It stands back for a while, so that another may try, and then wants it again.
    StandBack { pause: Duration, why: String },
    /// It wants it again at once.
    Stay,
    /// It wants no part in it until it is told to, for this reason.
    Aside { why: String },
}

impl Lease {
    /// A lease that this node does not want yet.
    pub fn new(name: LeaseName, node: NodeName, timings: LeaseTimings, random: Random) -> Lease {
        let state = State::Aside { until: None, why: String::new(), given_to: None };
        let ticks = Ticks::new(&node, timings.refresh_interval);
        let (longest, counts) = (timings.ttl, LeaseCounts::default());
        Lease { name, node, timings, random, ticks, state, longest, seen: None, splits: 0, latency: None, counts }
    }

    /// This node would run the child. Ends a stand-back too.
    pub fn want(&mut self, now: Time) {
        match &mut self.state {
            State::Aside { .. } => self.wait(now, Why::NotAskedYet),
            State::Releasing { then, .. } => *then = Then::Wait,
            State::Waiting { .. } | State::Asking { .. } | State::Held(_) => {}
        }
    }

    /// This node wants no part in it and nothing of the child's runs. A lease that is held is released.
    pub fn leave(&mut self, now: Time) {
        self.give_up(now, None, Then::Aside { until: None, why: String::new() });
    }

    /// This node is not the one to ask for it, for this reason, and `to` is where that is known. What it holds it keeps,
    /// and a stand-back goes on.
    pub fn defer(&mut self, now: Time, why: String, to: Option<NodeName>) {
        if self.stands_back(now) {
            return;
        }
        match &mut self.state {
            State::Held(_) => {}
            State::Aside { .. } => self.state = State::Aside { until: None, why, given_to: to },
            State::Releasing { then, .. } => *then = Then::Aside { until: None, why },
            State::Waiting { .. } | State::Asking { .. } => {
                self.give_up(now, None, Then::Aside { until: None, why });
                if let State::Aside { given_to, .. } = &mut self.state {
                    *given_to = to;
                }
            }
        }
    }

    /// Whether this node leaves it to others for a while, whoever else would have it.
    pub fn stands_back(&self, now: Time) -> bool {
        match &self.state {
            State::Aside { until, .. } => until.is_some_and(|until| until > now),
            State::Releasing { then, .. } => matches!(then, Then::Aside { until: Some(_), .. }),
            State::Waiting { .. } | State::Asking { .. } | State::Held(_) => false,
        }
    }

    /// It does so no longer.
    pub fn end_stand_back(&mut self) {
        match &mut self.state {
            State::Aside { until, .. } | State::Releasing { then: Then::Aside { until, .. }, .. } => *until = None,
            State::Releasing { then: Then::Wait, .. }
            | State::Waiting { .. }
            | State::Asking { .. }
            | State::Held(_) => {}
        }
    }

    /// Releases a lease whose child's whole tree is gone, for `to` alone where it is named.
    pub fn release(&mut self, now: Time, to: Option<NodeName>, after: After) {
        let then = match after {
            After::StandBack { pause, why } => Then::Aside { until: Some(now + pause), why },
            After::Stay => Then::Wait,
            After::Aside { why } => Then::Aside { until: None, why },
        };
        self.give_up(now, to, then);
    }

    /// This node is called `node` from now on. It stays the owner that it was, and the store learns the new name by a
    /// refresh at once.
    pub fn rename(&mut self, now: Time, node: &NodeName) {
        self.node = node.clone();
        match &mut self.state {
            State::Aside { .. } => {}
            State::Waiting { owner, .. } | State::Asking { owner, .. } | State::Releasing { owner, .. } => {
                owner.node = node.clone();
            }
            State::Held(held) => {
                held.owner.node = node.clone();
                (held.asked, held.next) = (None, now);
            }
        }
    }

    fn give_up(&mut self, now: Time, to: Option<NodeName>, then: Then) {
        match &mut self.state {
            State::Held(held) => {
                // Someone else's lease is not ours to free; everything else may still be ours.
                if let Some(Loss::Taken { .. }) = held.loss {
                    self.rest(now, then, None);
                } else {
                    let owner = held.owner.clone();
                    self.state = State::Releasing { owner, to, next: now, since: now, then };
                }
            }
            // The question may yet be granted, by a store that heard it and whose answer was lost.
            State::Asking { owner, .. } | State::Waiting { owner, why: Why::NoAnswer(_), .. } => {
                let owner = owner.clone();
                self.state = State::Releasing { owner, to, next: now, since: now, then };
            }
            State::Releasing { then: old, .. } => *old = then,
            State::Waiting { .. } | State::Aside { .. } => self.rest(now, then, None),
        }
    }

    fn rest(&mut self, now: Time, then: Then, given_to: Option<NodeName>) {
        match then {
            Then::Wait => self.wait(now, Why::NotAskedYet),
            Then::Aside { until, why } => self.state = State::Aside { until, why, given_to },
        }
    }

    /// Waits for the next try, as a new owner.
    fn wait(&mut self, next: Time, why: Why) {
        let owner = Owner { node: self.node.clone(), nonce: self.random.nonce() };
        self.state = State::Waiting { owner, next, why };
    }

    /// The lease may be free: ask at once.
    pub fn freed(&mut self, now: Time) {
        match &mut self.state {
            State::Waiting { next, .. } => *next = (*next).min(now),
            // The answer under way may have been given before the release.
            State::Asking { freed, .. } => *freed = true,
            State::Aside { .. } | State::Held(_) | State::Releasing { .. } => {}
        }
    }

    /// It was paused or resumed: ask at once, also where it is held. The answer under way may be older than that.
    pub fn pause_changed(&mut self, now: Time) {
        match &mut self.state {
            State::Held(held) => (held.asked, held.next) = (None, held.next.min(now)),
            State::Waiting { .. } | State::Asking { .. } | State::Aside { .. } | State::Releasing { .. } => {
                self.freed(now);
            }
        }
    }

    /// The store answered `ask`, or failed to.
    pub fn answered(&mut self, now: Time, ask: &Ask, answer: LeaseAnswer, questions: &mut Vec<Question>) {
        let end = ask.sent + self.timings.validity();
        if let LeaseAnswer::Held { ttl, .. } = &answer {
            self.longest = self.longest.max(*ttl);
            self.seen = self.seen.max(Some(ask.sent));
        }
        let (answer, pause) = match answer {
            LeaseAnswer::GrantedToStop { token, pause } => (LeaseAnswer::Granted { token }, Some(pause)),
            answer => (answer, None),
        };
        let tick = self.ticks.after(ask.sent);
        let due = self.due(ask.sent, tick);
        match (&mut self.state, &ask.kind, answer) {
            (
                State::Asking { owner, .. } | State::Waiting { owner, .. },
                AskKind::Take { .. },
                LeaseAnswer::Granted { token },
            ) if *owner == ask.owner && now < end => {
                self.counts.taken += 1;
                self.splits = 0;
                self.took(now.since(ask.sent));
                self.state = State::Held(Held {
                    owner: ask.owner.clone(),
                    token,
                    since: now,
                    confirmed: ask.sent,
                    due,
                    next: tick,
                    asked: None,
                    trouble: None,
                    loss: None,
                    pause,
                });
            }
            (State::Held(held), AskKind::Refresh { .. }, answer) if held.owner == ask.owner => {
                if held.asked == Some(ask.sent) {
                    held.asked = None;
                    // Those that were asked for together are asked for together again.
                    held.next = now + self.timings.refresh_timeout / 10;
                }
                match answer {
                    LeaseAnswer::Granted { .. } if now < end => {
                        if held.confirmed < ask.sent {
                            held.confirmed = ask.sent;
                            held.pause = pause;
                            // What was asked again meanwhile counts when it is answered, and is not asked once more.
                            held.asked = None;
                            (held.due, held.next) = (due, tick.max(now));
                            if held.loss.is_none() {
                                held.trouble = None;
                            }
                            self.counts.refreshes += 1;
                            self.took(now.since(ask.sent));
                        }
                    }
                    LeaseAnswer::Granted { .. } => self.counts.late_grants += 1,
                    LeaseAnswer::Lost { by } => {
                        if !matches!(held.loss, Some(Loss::Taken { .. })) {
                            self.counts.lost_taken += u64::from(held.loss.is_none());
                            held.loss = Some(Loss::Taken { by });
                        }
                    }
                    LeaseAnswer::Failed { reason } => {
                        self.counts.refreshes_failed += 1;
                        // One that was confirmed since is no trouble any more.
                        if held.confirmed < ask.sent {
                            held.trouble = Some(reason);
                        }
                    }
                    other => {
                        self.counts.refreshes_failed += 1;
                        held.trouble = Some(format!("the store answered a refresh with {other:?}"));
                    }
                }
            }
            (State::Releasing { owner, to, then, next, .. }, kind, answer) if *owner == ask.owner => {
                match (kind, answer) {
                    (AskKind::Release { .. }, LeaseAnswer::Released) => {
                        let (then, to) = (then.clone(), to.clone());
                        self.counts.released += 1;
                        self.rest(now, then, to);
                    }
                    // Granted after all: the release that went before it freed nothing.
                    (AskKind::Take { .. }, LeaseAnswer::Granted { .. }) => *next = now,
                    _ => {}
                }
            }
            // The take that made this tenure was asked twice, and here is the other answer.
            (State::Held(held), AskKind::Take { .. }, LeaseAnswer::Granted { .. }) if held.owner == ask.owner => {}
            // Nobody waits for this any more, or it came after its end: it is not ours to keep.
            (_, AskKind::Take { .. }, LeaseAnswer::Granted { .. }) => {
                let release = Ask { owner: ask.owner.clone(), sent: now, kind: AskKind::Release { to: None } };
                questions.push((release, self.timings.refresh_timeout));
                self.counts.late_grants += 1;
                if let State::Asking { owner, .. } | State::Waiting { owner, .. } = &self.state
                    && *owner == ask.owner
                {
                    let next = now + self.retry();
                    self.wait(next, Why::NoAnswer("the grant came after its end".into()));
                }
            }
            (State::Asking { owner, sent, freed, again }, AskKind::Take { .. }, answer)
                if *owner == ask.owner && *sent == ask.sent =>
            {
                let (owner, freed) = (owner.clone(), *freed);
                // It may have been granted before that, and nobody else knows of it.
                if *again && matches!(answer, LeaseAnswer::Paused(_)) {
                    let release = Ask { owner: owner.clone(), sent: now, kind: AskKind::Release { to: None } };
                    questions.push((release, self.timings.refresh_timeout));
                }
                let (pause, why) = match answer {
                    LeaseAnswer::Held { by, left, .. } => {
                        let look = if Owner::parse(&by).is_some() { left } else { self.halfway(left) };
                        (look + self.random.below(HERD), Why::HeldBy(by))
                    }
                    LeaseAnswer::Quarantined { left } => (left + self.random.below(HERD), Why::Quarantine),
                    LeaseAnswer::Reserved { node, left } => (left + self.random.below(HERD), Why::ReservedFor(node)),
                    LeaseAnswer::Paused(pause) => (self.timings.ttl + self.random.below(HERD), Why::Paused(pause)),
                    LeaseAnswer::Split { reason } => (self.apart(), Why::Split(reason)),
                    LeaseAnswer::Failed { reason } => (self.retry(), Why::NoAnswer(reason)),
                    other => (self.retry(), Why::NoAnswer(format!("the store answered {other:?}"))),
                };
                let next = if freed { now } else { now + pause };
                if !matches!(why, Why::Split(_)) {
                    self.splits = 0;
                }
                match why {
                    // The same owner asks again: were the lost answer a grant, this one is the same grant.
                    Why::NoAnswer(_) => self.state = State::Waiting { owner, next, why },
                    _ => self.wait(next, why),
                }
            }
            _ => {}
        }
        self.advance(now, questions);
    }

    /// A grant that counts took so long.
    fn took(&mut self, latency: Duration) {
        self.latency = Some(latency);
        self.counts.greatest_latency = self.counts.greatest_latency.max(Some(latency));
    }

    /// How long to wait after an answer that was none, about.
    fn breath(&self) -> Duration {
        (self.timings.ttl / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn retry(&mut self) -> Duration {
        self.random.about(self.breath(), 0.2)
    }

    /// When to look again at what no agent wrote, and of which nobody tells: in time to see that it is kept, or lost. Near
    /// its end, at that.
    fn halfway(&self, left: Duration) -> Duration {
        if left > self.breath() { left / 2 } else { left }
    }

    /// How long to wait so that those who were in each other's way do not meet again: where servers are near a moment
    /// suffices, and where they are far it soon is long enough.
    fn apart(&mut self) -> Duration {
        let most = HERD.saturating_mul(1 << self.splits.min(16)).min(self.breath());
        self.splits += 1;
        self.random.below(most)
    }

    /// From when on a refresh that is not confirmed counts as late. One that went out early, so as to go with others,
    /// has until then besides.
    fn due(&self, sent: Time, tick: Time) -> Time {
        tick.max(sent + self.timings.refresh_interval.mul_f64(1.0 - LeaseTimings::JITTER))
    }

    /// After so long without an answer a refresh or a release is put again, beside what is still open: the first one may
    /// be lost, and where the store is only far away its answer counts as well as ever.
    fn again(&self) -> Duration {
        self.timings.refresh_timeout / 3
    }

    /// After so long without an answer a question was lost on its way to the store's adapter.
    fn lost(&self) -> Duration {
        self.timings.refresh_timeout + self.again()
    }

    /// Does what has come due.
    pub fn advance(&mut self, now: Time, questions: &mut Vec<Question>) {
        let (again, lost) = (self.again(), self.lost());
        let LeaseTimings { ttl, refresh_timeout, .. } = self.timings;
        if let State::Aside { until: Some(until), .. } = self.state
            && until <= now
        {
            self.wait(now, Why::NotAskedYet);
        }
        match &mut self.state {
            State::Aside { .. } => {}
            State::Waiting { owner, next, why } => {
                if *next <= now {
                    let again = matches!(why, Why::NoAnswer(_));
                    let seen = self.seen.map(|seen| now.since(seen));
                    let kind = AskKind::Take { ttl, longest: self.longest, seen };
                    questions.push((Ask { owner: owner.clone(), sent: now, kind }, refresh_timeout));
                    self.state = State::Asking { owner: owner.clone(), sent: now, freed: false, again };
                }
            }
            State::Asking { owner, sent, .. } => {
                // The adapter answers in time, so the agent or its machine has stood still. The votes for this question may
                // be on their way back by now: given to the same owner once more, they would be taken from a holder.
                if *sent + lost <= now {
                    let kind = AskKind::Release { to: None };
                    questions.push((Ask { owner: owner.clone(), sent: now, kind }, refresh_timeout));
                    self.wait(now, Why::NoAnswer("the question got lost".into()));
                    self.advance(now, questions);
                }
            }
            State::Held(held) => {
                if held.confirmed + self.timings.validity() <= now && !matches!(held.loss, Some(Loss::Taken { .. })) {
                    self.counts.lost_expired += u64::from(held.loss.is_none());
                    held.loss = Some(Loss::Expired);
                }
                if held.loss.is_none() && held.due + refresh_timeout <= now {
                    self.counts.lost_unconfirmed += 1;
                    held.loss = Some(Loss::Unconfirmed);
                }
                if matches!(held.loss, Some(Loss::Taken { .. } | Loss::Expired)) {
                    return;
                }
                if held.asked.is_some_and(|sent| sent + again <= now) {
                    (held.asked, held.next) = (None, now);
                }
                if held.asked.is_none() && held.next <= now {
                    held.asked = Some(now);
                    let kind = AskKind::Refresh { ttl, token: held.token };
                    questions.push((Ask { owner: held.owner.clone(), sent: now, kind }, refresh_timeout));
                }
            }
            State::Releasing { owner, to, next, since, then } => {
                if *since + ttl <= now {
                    // Whatever was ours has ended by itself.
                    let then = then.clone();
                    self.rest(now, then, None);
                    self.advance(now, questions);
                } else if *next <= now {
                    *next = now + again + Duration::from_millis(100);
                    let kind = AskKind::Release { to: to.clone() };
                    questions.push((Ask { owner: owner.clone(), sent: now, kind }, refresh_timeout));
                }
            }
        }
    }

    /// The next deadline.
    pub fn next_wakeup(&self) -> Option<Time> {
        match &self.state {
            State::Aside { until, .. } => *until,
            State::Waiting { next, .. } => Some(*next),
            State::Asking { sent, .. } => Some(*sent + self.lost()),
            State::Held(held) => {
                let question = held.asked.map_or(held.next, |sent| sent + self.again());
                let expiry = held.confirmed + self.timings.validity();
                match held.loss {
                    Some(Loss::Taken { .. } | Loss::Expired) => None,
                    Some(Loss::Unconfirmed) => Some(question.min(expiry)),
                    None => Some(question.min(expiry).min(held.due + self.timings.refresh_timeout)),
                }
            }
            State::Releasing { next, since, .. } => Some((*next).min(*since + self.timings.ttl)),
        }
    }

    /// Whether a child may run now.
    pub fn hold(&self, now: Time) -> Hold {
        let State::Held(held) = &self.state else { return Hold::No };
        let kill = held.confirmed + self.timings.validity();
        match held.loss {
            None if now < kill => {
                let stop = (held.due + self.timings.refresh_timeout).min(kill);
                Hold::Firm { token: held.token, deadline: Deadline { stop, kill } }
            }
            None | Some(Loss::Unconfirmed) => Hold::Losing { kill },
            Some(Loss::Taken { .. } | Loss::Expired) => Hold::Losing { kill: now },
        }
    }

    /// Whether this node has given the lease back, or never had it. With an unreachable store that takes a ttl at
    /// most; who cannot wait so long asks for [`Lease::releasing_since`].
    pub fn is_clear(&self) -> bool {
        matches!(self.state, State::Aside { .. } | State::Waiting { .. } | State::Asking { .. })
    }

    /// Since when a release has been asked for.
    pub fn releasing_since(&self) -> Option<Time> {
        match self.state {
            State::Releasing { since, .. } => Some(since),
            _ => None,
        }
    }

    /// The token of this node's tenure, from its grant until the lease is given up.
    pub fn token(&self) -> Option<u64> {
        match &self.state {
            State::Held(held) => Some(held.token),
            _ => None,
        }
    }

    /// Why this node's tenure is ending by itself; nothing while it does not.
    pub fn losing_to(&self) -> Option<Ending> {
        let State::Held(Held { loss: Some(loss), trouble, .. }) = &self.state else { return None };
        let (cause, detail) = match loss {
            Loss::Taken { by } => (Cause::Taken, by.as_deref().map(Owner::node_in)),
            Loss::Unconfirmed => (Cause::Unconfirmed, trouble.clone()),
            Loss::Expired => (Cause::Expired, trouble.clone()),
        };
        Some(Ending { cause, detail, by: None })
    }

    /// Its name.
    pub fn name(&self) -> &LeaseName {
        &self.name
    }

    /// How long a grant lasts.
    pub fn ttl(&self) -> Duration {
        self.timings.ttl
    }

    /// The node that has it, as far as this one knows; as text where no agent of ours wrote it.
    pub fn holder(&self) -> Option<String> {
        match &self.state {
            State::Held(Held { loss: Some(Loss::Taken { by }), .. }) => by.as_deref().map(Owner::node_in),
            State::Held(_) | State::Releasing { .. } => Some(self.node.to_string()),
            State::Waiting { why: Why::HeldBy(by), .. } => Some(Owner::node_in(by)),
            State::Aside { given_to, .. } => given_to.as_ref().map(ToString::to_string),
            State::Waiting { .. } | State::Asking { .. } => None,
        }
    }

    /// What holds it where that is no agent, by its value: another program, or somebody's hand.
    pub fn other_holder(&self) -> Option<&str> {
        match &self.state {
            State::Waiting { why: Why::HeldBy(by), .. } => Some(by.as_str()).filter(|by| Owner::parse(by).is_none()),
            _ => None,
        }
    }

    /// Whether another node has it, or is about to, or nobody is to have it, as far as the store has said; nothing speaks
    /// against it while it is being asked.
    pub fn is_left_to_another(&self) -> bool {
        match &self.state {
            State::Waiting { why: Why::HeldBy(_) | Why::ReservedFor(_) | Why::Paused(_), .. }
            | State::Asking { .. } => true,
            State::Aside { given_to, .. } => given_to.is_some(),
            State::Waiting { .. } | State::Held(_) | State::Releasing { .. } => false,
        }
    }

    /// That nobody is to have it, as far as this node knows.
    pub fn pause(&self) -> Option<&Pause> {
        match &self.state {
            State::Waiting { why: Why::Paused(pause), .. } => Some(pause),
            State::Held(held) => held.pause.as_ref(),
            State::Waiting { .. } | State::Aside { .. } | State::Asking { .. } | State::Releasing { .. } => None,
        }
    }

    /// Whether it is waited out that nobody is known to have it.
    pub fn is_quarantined(&self) -> bool {
        matches!(self.state, State::Waiting { why: Why::Quarantine, .. })
    }

    /// Why this node waits, once the store has said so or could not be asked.
    pub fn waits_because(&self) -> Option<String> {
        match &self.state {
            State::Waiting { .. } | State::Aside { .. } => self.why(),
            State::Asking { .. } | State::Held(_) | State::Releasing { .. } => None,
        }
    }

    /// Why no child may run here, in words; nothing while one may.
    pub fn why(&self) -> Option<String> {
        match &self.state {
            State::Aside { why, .. } => (!why.is_empty()).then(|| why.clone()),
            State::Waiting { why, .. } => match why {
                Why::NotAskedYet => None,
                Why::HeldBy(by) => Some(format!("held by {}", Owner::node_in(by))),
                Why::Quarantine => Some("a holder may still live: one ttl is waited out".into()),
                Why::ReservedFor(node) => Some(format!("being moved to {node}")),
                Why::Paused(pause) => Some(pause.to_string()),
                Why::Split(reason) | Why::NoAnswer(reason) => Some(reason.clone()),
            },
            State::Asking { .. } => Some("asking for the lease".into()),
            State::Releasing { .. } => Some("releasing the lease".into()),
            State::Held(held) => match &held.loss {
                None => match (&held.trouble, &held.pause) {
                    (Some(trouble), _) => Some(format!("refresh: {trouble}")),
                    (None, pause) => pause.as_ref().map(Pause::to_string),
                },
                Some(Loss::Taken { by: Some(by) }) => Some(format!("lease lost to {}", Owner::node_in(by))),
                Some(Loss::Taken { by: None }) => Some("lease lost: the store knows of another tenure".into()),
                Some(Loss::Expired) => Some(with("lease expired", held.trouble.as_deref())),
                Some(Loss::Unconfirmed) => Some(with("refresh not confirmed in time", held.trouble.as_deref())),
            },
        }
    }

    /// This node's part in it.
    pub fn role(&self) -> LeaseRole {
        match &self.state {
            State::Aside { .. } => LeaseRole::Aside,
            State::Waiting { .. } | State::Asking { .. } => LeaseRole::Standby,
            State::Held(held) if held.loss.is_none() => LeaseRole::Holder,
            State::Held(_) | State::Releasing { .. } => LeaseRole::Losing,
        }
    }

    /// What others may see of it.
    pub fn view(&self, now: Time) -> LeaseView {
        let left = match &self.state {
            State::Aside { until, .. } => *until,
            State::Waiting { next, .. } => Some(*next),
            State::Held(held) => Some(held.confirmed + self.timings.validity()),
            State::Asking { .. } | State::Releasing { .. } => None,
        };
        let held = match &self.state {
            State::Held(held) => Some(held),
            _ => None,
        };
        LeaseView {
            watcher: self.name.watcher.clone(),
            key: self.name.lease_key(),
            role: self.role(),
            token: held.map(|held| held.token),
            ttl: self.timings.ttl,
            left: left.map(|time| now.until(time)),
            holder: self.holder(),
            latency: held.and(self.latency),
            held_for: held.map(|held| now.since(held.since)),
            why: self.why(),
            pause: self.pause().cloned(),
            counts: self.counts,
        }
    }
}

fn with(what: &str, why: Option<&str>) -> String {
    why.map_or_else(|| what.to_owned(), |why| format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{ClusterName, WatcherName};

    const TTL: Duration = Duration::from_secs(15);

    fn at(secs: f64) -> Time {
        Time::ZERO + Duration::from_secs(1_000) + Duration::from_secs_f64(secs)
    }

    fn lease(node: &str, watcher: &str) -> Lease {
        let (cluster, watcher) = (ClusterName::parse("test").unwrap(), WatcherName::parse(watcher).unwrap());
        let (name, node) = (LeaseName { cluster, watcher, key: None }, NodeName::parse(node).unwrap());
        Lease::new(name, node, LeaseTimings::thirds(TTL), Random::from_number(1))
    }

    /// A lease and what it asked last.
    struct Play {
        lease: Lease,
        asked: Vec<Question>,
    }

    impl Play {
        fn new() -> Play {
            Play { lease: lease("a", "beat"), asked: Vec::new() }
        }

        /// One that was asked for at 0 and granted at `answered`.
        fn held(answered: f64) -> Play {
            let mut play = Play::new();
            play.lease.want(at(0.0));
            let ask = play.advance(0.0);
            play.answer(answered, &ask, LeaseAnswer::Granted { token: 7 });
            play
        }

        /// Lets it do what is due; what it asked.
        fn advance(&mut self, secs: f64) -> Ask {
            self.asked.clear();
            self.lease.advance(at(secs), &mut self.asked);
            self.asked.first().expect("a question").0.clone()
        }

        fn idle(&mut self, secs: f64) {
            self.asked.clear();
            self.lease.advance(at(secs), &mut self.asked);
            assert_eq!(self.asked, []);
        }

        fn answer(&mut self, secs: f64, ask: &Ask, answer: LeaseAnswer) {
            self.asked.clear();
            self.lease.answered(at(secs), ask, answer, &mut self.asked);
        }

        fn kill(&self, secs: f64) -> Time {
            match self.lease.hold(at(secs)) {
                Hold::Firm { deadline, .. } => deadline.kill,
                other => panic!("not firm: {other:?}"),
            }
        }
    }

    fn failed() -> LeaseAnswer {
        LeaseAnswer::Failed { reason: "no answer".into() }
    }

    #[test]
    fn validity_counts_from_the_question_not_from_the_answer() {
        let play = Play::held(1.2);
        assert_eq!(play.kill(1.2), at(0.0) + LeaseTimings::thirds(TTL).validity());
        assert!(play.kill(1.2) < at(15.0));
    }

    #[test]
    fn a_lease_seen_held_is_asked_for_with_how_long_ago_that_was() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        assert!(matches!(ask.kind, AskKind::Take { seen: None, .. }));
        let by = format!("b:{:032x}", 7);
        play.answer(0.1, &ask, LeaseAnswer::Held { by, left: Duration::from_secs(4), ttl: TTL });
        let ask = play.advance(5.0);
        assert!(matches!(ask.kind, AskKind::Take { seen: Some(ago), .. } if ago == Duration::from_secs(5)), "{ask:?}");
    }

    #[test]
    fn what_no_agent_wrote_is_looked_at_halfway_to_its_end() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        for (secs, left, next) in [(0.0, 10, 5.0), (5.1, 10, 10.1), (10.2, 4, 12.2), (12.3, 1, 13.3)] {
            let ask = play.advance(secs);
            play.answer(
                secs,
                &ask,
                LeaseAnswer::Held { by: "web-1-77".into(), left: Duration::from_secs(left), ttl: TTL },
            );
            let wakeup = play.lease.next_wakeup().unwrap();
            assert!(at(next) <= wakeup && wakeup <= at(next) + HERD, "{wakeup:?} for {next}");
        }
    }

    #[test]
    fn whoever_is_told_no_asks_again_as_another_owner_and_soon_where_the_vote_was_split() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let first = play.advance(0.0);
        play.answer(0.1, &first, LeaseAnswer::Split { reason: "no majority".into() });
        assert_eq!(play.lease.why().as_deref(), Some("no majority"));
        let second = play.advance(1.2);
        assert_ne!(first.owner, second.owner, "what takes the first one's votes back may still be on its way");
        play.answer(1.3, &second, LeaseAnswer::Quarantined { left: Duration::from_secs(1) });
        assert_ne!(second.owner, play.advance(2.5).owner);
    }

    #[test]
    fn an_unconfirmed_refresh_begins_the_stop_after_two_thirds_and_ends_before_the_ttl() {
        let mut play = Play::held(0.0);
        let Hold::Firm { deadline, .. } = play.lease.hold(at(0.0)) else { panic!() };
        assert!(deadline.stop >= at(9.5) && deadline.stop <= at(10.5), "{deadline:?}");
        let mut secs = 4.0;
        while secs < 11.0 {
            play.asked.clear();
            play.lease.advance(at(secs), &mut play.asked);
            if let Some((ask, _)) = play.asked.first().cloned() {
                play.answer(secs, &ask, failed());
            }
            secs += 0.1;
        }
        let Hold::Losing { kill } = play.lease.hold(at(11.0)) else { panic!("{:?}", play.lease) };
        assert_eq!(kill, deadline.kill);
        assert!(play.lease.why().unwrap().contains("no answer"));
    }

    #[test]
    fn a_late_confirmation_puts_the_kill_off_but_does_not_call_the_stop_back() {
        let mut play = Play::held(0.0);
        play.advance(5.6);
        let ask = play.advance(10.6);
        assert!(matches!(play.lease.hold(at(10.6)), Hold::Losing { .. }));
        play.answer(10.7, &ask, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.lease.hold(at(10.7)), Hold::Losing { kill: at(10.6) + LeaseTimings::thirds(TTL).validity() });
    }

    #[test]
    fn a_store_that_is_far_away_keeps_its_holder() {
        let mut play = Play::held(0.0);
        let first = play.advance(5.6);
        let patience = play.asked[0].1;
        assert!(patience >= Duration::from_secs(5), "as long as a refresh may take: {patience:?}");
        let second = play.advance(7.4);
        play.answer(9.6, &first, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.kill(9.6), at(5.6) + LeaseTimings::thirds(TTL).validity());
        // The second one is still open, and that is no reason to ask a third time.
        play.idle(9.7);
        play.answer(11.4, &second, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.kill(11.4), at(7.4) + LeaseTimings::thirds(TTL).validity());
        assert_eq!(play.lease.why(), None);
    }

    #[test]
    fn a_failure_that_is_older_than_a_confirmation_is_no_trouble() {
        let mut play = Play::held(0.0);
        let first = play.advance(5.6);
        let second = play.advance(7.4);
        play.answer(7.5, &second, LeaseAnswer::Granted { token: 7 });
        play.answer(10.6, &first, failed());
        assert_eq!(play.lease.why(), None);
        play.idle(10.7);
    }

    #[test]
    fn a_refusal_kills_at_once_and_there_is_nothing_to_release() {
        let mut play = Play::held(0.0);
        let ask = play.advance(5.6);
        play.answer(5.7, &ask, LeaseAnswer::Lost { by: Some("b:x".into()) });
        assert_eq!(play.lease.hold(at(5.7)), Hold::Losing { kill: at(5.7) });
        play.lease.release(at(5.8), None, After::Stay);
        let ask = play.advance(5.8);
        assert!(matches!(ask.kind, AskKind::Take { .. }));
    }

    #[test]
    fn a_grant_that_comes_after_its_end_is_released() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        play.answer(14.8, &ask, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.lease.hold(at(14.8)), Hold::No);
        assert!(matches!(&play.asked[0].0, Ask { owner, kind: AskKind::Release { .. }, .. } if *owner == ask.owner));
    }

    #[test]
    fn a_grant_that_nobody_waits_for_any_more_is_released() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        play.lease.leave(at(0.1));
        let release = play.advance(0.1);
        play.answer(0.2, &release, LeaseAnswer::Released);
        play.answer(0.3, &ask, LeaseAnswer::Granted { token: 7 });
        assert!(matches!(play.asked[0].0.kind, AskKind::Release { .. }));
        assert_eq!(play.lease.hold(at(0.3)), Hold::No);
    }

    #[test]
    fn what_a_late_refresh_was_granted_is_not_released() {
        let mut play = Play::held(0.0);
        let refresh = play.advance(5.6);
        play.lease.leave(at(6.0));
        let release = play.advance(6.0);
        play.answer(6.1, &release, LeaseAnswer::Released);
        play.answer(90.0, &refresh, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.asked, [], "the store forgot everything, and somebody may have it");
    }

    #[test]
    fn a_second_grant_of_the_same_taking_changes_nothing() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let first = play.advance(0.0);
        play.answer(1.0, &first, failed());
        let second = play.advance(3.0);
        assert_eq!(first.owner, second.owner, "a question asked again is the same taking");
        play.answer(3.1, &second, LeaseAnswer::Granted { token: 7 });
        play.answer(3.2, &first, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.asked, []);
        assert!(matches!(play.lease.hold(at(3.2)), Hold::Firm { .. }));
    }

    #[test]
    fn a_waiting_node_sleeps_until_the_lease_ends_or_is_freed() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        let held = LeaseAnswer::Held { by: format!("b:{:032x}", 7), left: Duration::from_secs(9), ttl: TTL };
        play.answer(0.1, &ask, held);
        assert!(play.lease.next_wakeup().unwrap() >= at(9.1));
        play.idle(9.0);
        play.lease.freed(at(9.05));
        play.advance(9.05);
    }

    #[test]
    fn a_release_announced_while_the_answer_was_under_way_is_not_missed() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        play.lease.freed(at(0.1));
        play.answer(0.2, &ask, LeaseAnswer::Held { by: "b:x".into(), left: TTL, ttl: TTL });
        assert!(matches!(play.asked[0].0.kind, AskKind::Take { .. }));
    }

    #[test]
    fn those_in_each_others_way_part_by_little_at_first_and_by_more_each_time() {
        let furthest = |splits: u32| {
            let furthest = (0..200).map(|seed| {
                let mut play = Play::new();
                play.lease.random = Random::from_number(seed);
                play.lease.want(at(0.0));
                for _ in 1..splits {
                    let ask = play.advance(0.0);
                    play.answer(0.0, &ask, LeaseAnswer::Split { reason: "split".into() });
                    play.lease.freed(at(0.0));
                }
                let ask = play.advance(0.0);
                play.answer(0.0, &ask, LeaseAnswer::Split { reason: "split".into() });
                at(0.0).until(play.lease.next_wakeup().unwrap())
            });
            furthest.max().unwrap()
        };
        let millis = Duration::from_millis;
        assert!((millis(40)..=millis(50)).contains(&furthest(1)), "{:?}", furthest(1));
        assert!((millis(150)..=millis(200)).contains(&furthest(3)), "{:?}", furthest(3));
        assert!((millis(900)..=millis(1000)).contains(&furthest(40)), "{:?}", furthest(40));
    }

    fn pause() -> Pause {
        Pause { since: 7, by: "amy".into(), why: Some("migration".into()) }
    }

    #[test]
    fn who_holds_asks_at_the_news_and_is_told_of_a_pause_with_its_refresh() {
        let mut play = Play::held(0.0);
        let first = play.advance(6.1);
        play.answer(6.2, &first, LeaseAnswer::Granted { token: 7 });
        play.idle(6.3);
        play.lease.pause_changed(at(6.3));
        let refresh = play.advance(6.3);
        play.answer(6.4, &refresh, LeaseAnswer::GrantedToStop { token: 7, pause: pause() });
        assert_eq!(play.lease.pause(), Some(&pause()));
        assert_eq!(play.kill(6.4), at(6.3) + LeaseTimings::thirds(TTL).validity(), "it holds as ever");
        // The answer to an older question knows less, and a later one may know of its end.
        play.answer(6.5, &first, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.lease.pause(), Some(&pause()));
        play.lease.pause_changed(at(7.0));
        let refresh = play.advance(7.0);
        play.answer(7.1, &refresh, LeaseAnswer::Granted { token: 7 });
        assert_eq!(play.lease.pause(), None);
    }

    #[test]
    fn news_that_comes_while_a_refresh_is_out_is_asked_about_beside_it() {
        let mut play = Play::held(0.0);
        let first = play.advance(5.6);
        play.lease.pause_changed(at(5.7));
        let second = play.advance(5.7);
        assert!(matches!(second.kind, AskKind::Refresh { .. }) && second.sent > first.sent);
        play.answer(5.8, &first, LeaseAnswer::Granted { token: 7 });
        play.answer(5.9, &second, LeaseAnswer::GrantedToStop { token: 7, pause: pause() });
        assert_eq!(play.lease.pause(), Some(&pause()));
    }

    #[test]
    fn a_paused_lease_is_waited_for_until_there_is_news_and_looked_at_once_a_ttl() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        play.answer(0.1, &ask, LeaseAnswer::Paused(pause()));
        assert_eq!(play.lease.why().as_deref(), Some("paused by amy: migration"));
        assert_eq!((play.asked.len(), play.lease.role()), (0, LeaseRole::Standby));
        assert!(play.lease.next_wakeup().unwrap() >= at(15.1));
        play.idle(15.0);
        play.lease.pause_changed(at(15.05));
        let ask = play.advance(15.05);
        play.answer(15.1, &ask, LeaseAnswer::Granted { token: 8 });
        assert!(matches!(play.lease.hold(at(15.1)), Hold::Firm { token: 8, .. }));
        assert_eq!(play.lease.pause(), None);
    }

    #[test]
    fn what_may_have_been_granted_before_a_pause_is_given_back() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let lost = play.advance(0.0);
        play.answer(1.0, &lost, failed());
        let again = play.advance(3.0);
        play.answer(3.1, &again, LeaseAnswer::Paused(pause()));
        let [(release, _)] = play.asked.as_slice() else { panic!("{:?}", play.asked) };
        assert_eq!((&release.owner, &release.kind), (&lost.owner, &AskKind::Release { to: None }));
    }

    #[test]
    fn no_owner_is_used_for_two_tenures() {
        let mut play = Play::held(0.0);
        let refresh = play.advance(5.6);
        play.lease.release(at(6.0), None, After::Stay);
        let release = play.advance(6.0);
        play.answer(6.1, &release, LeaseAnswer::Released);
        let take = &play.asked[0].0;
        assert_ne!(take.owner, refresh.owner);
    }

    #[test]
    fn what_becomes_of_a_question_that_is_overdue_is_not_the_next_ones_business() {
        // The agent stood still. Votes for the first question may be on their way back by now, whoever was granted them.
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let overdue = play.advance(0.0);
        play.asked.clear();
        play.lease.advance(at(11.0), &mut play.asked);
        let [(release, _), (take, _)] = play.asked.as_slice() else { panic!("{:?}", play.asked) };
        assert_eq!((&release.kind, &release.owner), (&AskKind::Release { to: None }, &overdue.owner));
        assert!(matches!(take.kind, AskKind::Take { .. }));
        assert_ne!(take.owner, overdue.owner);
    }

    #[test]
    fn a_quarantine_waits_out_the_longest_ttl_that_any_node_has() {
        let mut play = Play::new();
        play.lease.want(at(0.0));
        let ask = play.advance(0.0);
        let longer = Duration::from_secs(40);
        play.answer(0.1, &ask, LeaseAnswer::Held { by: "b:x".into(), left: Duration::from_secs(1), ttl: longer });
        let ask = play.advance(2.0);
        assert_eq!(ask.kind, AskKind::Take { ttl: TTL, longest: longer, seen: Some(Duration::from_secs(2)) });
    }

    #[test]
    fn an_unreachable_store_is_not_waited_for_longer_than_a_ttl() {
        let mut play = Play::held(0.0);
        play.lease.leave(at(1.0));
        let ask = play.advance(1.0);
        play.answer(2.0, &ask, failed());
        assert!(!play.lease.is_clear());
        play.idle(16.0);
        assert!(play.lease.is_clear());
    }

    #[test]
    fn what_becomes_of_a_lease_is_counted_once() {
        let counts = |play: &Play| play.lease.view(at(100.0)).counts;
        let mut play = Play::held(0.2);
        let refresh = play.advance(5.6);
        play.answer(5.9, &refresh, LeaseAnswer::Granted { token: 7 });
        let refresh = play.advance(11.3);
        play.answer(11.4, &refresh, failed());
        let expected = LeaseCounts {
            taken: 1,
            refreshes: 1,
            refreshes_failed: 1,
            greatest_latency: Some(Duration::from_millis(300)),
            ..LeaseCounts::default()
        };
        assert_eq!(counts(&play), expected);

        // Not confirmed, then over, then another's: lost once, for the first reason.
        let refresh = play.advance(16.5);
        play.answer(16.6, &refresh, failed());
        play.idle(30.0);
        play.answer(30.1, &refresh, LeaseAnswer::Lost { by: None });
        let expected = LeaseCounts { lost_unconfirmed: 1, refreshes_failed: 2, ..expected };
        assert_eq!(counts(&play), expected);

        let mut play = Play::held(0.0);
        play.idle(30.0);
        assert_eq!(counts(&play).lost_expired, 1);
        let mut play = Play::held(0.0);
        let refresh = play.advance(5.6);
        play.answer(5.7, &refresh, LeaseAnswer::Lost { by: None });
        play.answer(5.8, &refresh, LeaseAnswer::Lost { by: None });
        assert_eq!((counts(&play).lost_taken, counts(&play).released), (1, 0));

        let mut play = Play::held(0.0);
        play.lease.leave(at(1.0));
        let release = play.advance(1.0);
        play.answer(1.1, &release, LeaseAnswer::Released);
        assert_eq!(counts(&play).released, 1);

        let mut play = Play::new();
        play.lease.want(at(0.0));
        let take = play.advance(0.0);
        play.answer(14.8, &take, LeaseAnswer::Granted { token: 7 });
        assert_eq!((counts(&play).taken, counts(&play).late_grants), (0, 1));
    }
}
