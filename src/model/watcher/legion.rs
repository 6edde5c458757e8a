//! A watcher whose holder is elected: its membership, what follows from the election's verdict, and the events of it.
//!
//! ```text
//!   New ─────────────▶ Member ─────────────▶ Dying ──────────────────────▶ Leaving ─────────▶ Gone
//!    on_setup is done           it is to go    on_death is done, and the    the store knows
//!                               for good       lease given back             that it left
//! ```
//!
//! What an event asks for is done by a process on the side, one after the other, and holds up nothing but the two steps
//! above: before `on_setup` is done this node is no member, and an agent that ends waits for `on_death`.
//!
//! A lord process that somebody kills leaves what `on_lord` set up. That is undone by such a process, too, when nothing of
//! those that follow it is left; before it is, no other lord process starts here, and the lease is not given away.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Cause, End, Goal, Parting, Watcher};
use crate::model::election::{Change, Election, Member, Membership, Muster, Surroundings, Verdict};
use crate::model::event::{Action, Deadline, Exit, HookEnd, HookId, Level};
use crate::model::history::{self, Ending};
use crate::model::lease::{After, Hold, Lease};
use crate::model::names::NodeName;
use crate::model::snapshot::{LeaseRole, LegionChange, LegionState, LegionView, LordView, Lordship, MemberView};
use crate::model::spec::{ElectionSpec, HookPoint, HookProgram, LeaseTimings, LegionEvent, LegionSpec, WatcherSpec};
use crate::model::time::Time;

/// How long it is waited for the store to hear of a release, and of a leave.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many changes are remembered.
const REMEMBERED: usize = 16;
/// How many events may wait for their turn. Of more the oldest are forgotten.
const WAITING: usize = 64;
/// What a process on the side may take beyond its actions' times.
const SLACK: Duration = Duration::from_secs(5);

/// A membership.
#[derive(Debug)]
pub(super) struct Legion {
    election: Election,
    life: Life,
    /// There is none to be any more, whatever becomes of the watcher.
    forgotten: bool,
    affairs: VecDeque<Affair>,
    out: Option<HookId>,
    /// What a killed lord process has left.
    debt: Debt,
    joined: bool,
    quorate: bool,
    /// Who leads, and since when that is known.
    lord: Option<(String, Time)>,
    /// Whom people would have lead, as this node has or had the lease.
    appoints: Option<NodeName>,
    /// The latest first.
    changes: VecDeque<(Time, String)>,
    shown: Option<Box<Lordship>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    New,
    Member,
    Dying,
    Leaving { since: Time },
    Gone,
}

/// Whether `on_unlord` is to be done by another than the lord process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Debt {
    None,
    /// It is, when nothing is left that runs under the lease.
    Owed,
    /// Nothing is left.
    Due,
    /// It is being done.
    Out(HookId),
    /// Somebody is in a hurry, and it is not to be done.
    Waived,
}

/// An event whose actions are to be done.
#[derive(Debug, Clone, PartialEq)]
struct Affair {
    event: LegionEvent,
    /// The node that it is about.
    node: NodeName,
    reason: String,
}

/// What there is to elect by.
fn elective(spec: &WatcherSpec) -> Option<(&ElectionSpec, LeaseTimings)> {
    spec.election.as_ref().zip(spec.singleton).filter(|_| spec.follows.is_none())
}

impl Legion {
    fn remember(&mut self, now: Time, text: String) {
        self.changes.push_front((now, text));
        self.changes.truncate(REMEMBERED);
    }

    /// Who lives, by name.
    fn living(&self, now: Time) -> Vec<NodeName> {
        let me_too = |member: &Member| !member.left.is_zero() || self.election.seen(now).is_none();
        self.election.members(now).into_iter().filter(me_too).map(|member| member.node).collect()
    }

    fn lord(&self) -> Option<&str> {
        self.lord.as_ref().map(|(node, _)| node.as_str())
    }

    fn verdict(&self, now: Time, holds: bool) -> Verdict {
        match self.life {
            Life::New => Verdict::Unknown("on_setup's actions are being done".into()),
            Life::Member | Life::Dying => self.election.verdict(now, holds),
            Life::Leaving { .. } | Life::Gone => Verdict::Aside,
        }
    }
}

impl Watcher {
    /// Makes its membership what its settings say.
    pub(super) fn fit_legion(&mut self) {
        let Some((election, timings)) = elective(&self.spec) else {
            if let Some(legion) = &mut self.legion {
                legion.forgotten = true;
            }
            return;
        };
        match &mut self.legion {
            Some(legion) if matches!(legion.life, Life::New | Life::Member) => {
                legion.election.amend(election.clone(), timings);
                legion.forgotten = false;
            }
            _ => {
                let election = Election::new(self.me.1.clone(), election.clone(), timings, self.random.branch());
                self.legion = Some(Legion {
                    election,
                    life: Life::New,
                    forgotten: false,
                    affairs: VecDeque::new(),
                    out: None,
                    debt: Debt::None,
                    joined: false,
                    quorate: false,
                    lord: None,
                    appoints: None,
                    changes: VecDeque::new(),
                    shown: None,
                });
                self.tell_of(LegionEvent::Setup, None, "this node learned of it".into());
            }
        }
    }

    /// Its node is called `node` from now on.
    pub(super) fn rename_member(&mut self, node: &NodeName) {
        let me = &self.me.1;
        if let Some(legion) = &mut self.legion {
            legion.election.rename(node);
            legion.appoints = legion.appoints.take().map(|named| if named == *me { node.clone() } else { named });
        }
    }

    /// It goes for good once it is down: the agent ends, or it is removed.
    pub fn retire(&mut self) {
        self.retired_for_good = true;
    }

    /// It does not.
    pub(super) fn unretire(&mut self) {
        self.retired_for_good = false;
        self.fit_legion();
    }

    /// Whether there is nothing left to be told of its end.
    pub fn has_bidden_farewell(&self) -> bool {
        self.legion.as_ref().is_none_or(|legion| legion.life == Life::Gone)
    }

    /// Nobody waits for what is still to be done before it goes.
    pub fn hurry_farewell(&mut self, actions: &mut Vec<Action>) {
        let Some(legion) = &mut self.legion else { return };
        legion.affairs.clear();
        if let Some(hook) = legion.out.take() {
            actions.push(Action::CallOff { hook });
        }
        self.waive_debt(actions);
    }

    // ---- a lord process that was killed ----

    /// Whether this is the end of a lord process whose `on_lord` failed, where that is a reason to stand back.
    pub(super) fn has_failed_to_lead(&self, end: &End) -> bool {
        let matters = |legion: &LegionSpec| legion.death_on_lord_error.is_some();
        self.spec.legion.as_ref().is_some_and(matters) && matches!(end, End::Exit(Exit::Code(1..)))
    }

    /// Its lord process has ended, `killed` before it could do `on_unlord`.
    pub(super) fn lord_ended(&mut self, killed: bool) {
        let owes = self.spec.legion.as_ref().is_some_and(|legion| killed && legion.has_actions(LegionEvent::Unlord));
        if let Some(legion) = self.legion.as_mut().filter(|legion| owes && legion.debt == Debt::None) {
            legion.debt = Debt::Owed;
        }
    }

    /// Whether nothing is left to be undone, now that nothing runs; `kill` is when there is no more time for it.
    pub(super) fn has_undone(&mut self, now: Time, kill: Option<Time>, actions: &mut Vec<Action>) -> bool {
        if kill.is_some_and(|kill| kill <= now) {
            self.waive_debt(actions);
        }
        let Some(legion) = &mut self.legion else { return true };
        match legion.debt {
            Debt::None => true,
            Debt::Owed => {
                legion.debt = Debt::Due;
                false
            }
            Debt::Due | Debt::Out(_) => false,
            Debt::Waived => {
                legion.debt = Debt::None;
                true
            }
        }
    }

    /// Nothing is undone any more before it is down.
    pub(super) fn waive_debt(&mut self, actions: &mut Vec<Action>) {
        let Some(legion) = &mut self.legion else { return };
        if let Debt::Out(hook) = std::mem::replace(&mut legion.debt, Debt::Waived) {
            actions.push(Action::CallOff { hook });
        }
    }

    /// Whether something of its end waits for actions to be done.
    pub fn is_saying_farewell(&self) -> bool {
        let busy = |legion: &Legion| legion.out.is_some() || !legion.affairs.is_empty();
        self.retired_for_good && self.legion.as_ref().is_some_and(busy)
    }

    // ---- what happened ----

    /// The store said who is there, or failed to.
    pub fn mustered(&mut self, now: Time, sent: Time, result: Result<Muster, String>) {
        let Some(legion) = &mut self.legion else { return };
        let changes = legion.election.mustered(now, sent, result);
        let (live, needed) = (legion.election.live(now), legion.election.spec().quorum);
        let known = legion.election.seen(now).is_some() && legion.life == Life::Member;
        for change in changes {
            let (event, node, text) = match change {
                Change::Joined(node) => (LegionEvent::NodeJoined, node.clone(), format!("{node} joined")),
                Change::Left(node) => (LegionEvent::NodeLeft, node.clone(), format!("{node} left")),
            };
            self.tell_change(now, event, Some(node), text);
        }
        let Some(legion) = self.legion.as_mut().filter(|_| known) else { return };
        let quorate = live >= needed;
        if std::mem::replace(&mut legion.quorate, quorate) != quorate {
            let there = if quorate { "a quorum" } else { "no quorum" };
            let text = format!("{there}: {live} live, {needed} have to");
            legion.remember(now, text.clone());
            if quorate && !std::mem::replace(&mut legion.joined, true) {
                self.tell_of(LegionEvent::Join, None, text);
            }
        }
    }

    /// Others have changed, or the store can be asked again.
    pub fn members_changed(&mut self, now: Time) {
        if let Some(legion) = &mut self.legion {
            legion.election.hurry(now);
        }
    }

    /// What an event asked for is done, or was not; whether it was one of these.
    pub(super) fn affair_ended(&mut self, hook: HookId, end: &HookEnd, actions: &mut Vec<Action>) -> bool {
        let Some(legion) = &mut self.legion else { return false };
        match hook {
            hook if legion.out == Some(hook) => legion.out = None,
            hook if legion.debt == Debt::Out(hook) => legion.debt = Debt::None,
            _ => return false,
        }
        match end {
            HookEnd::Returned { truth: true, .. } => {}
            HookEnd::Returned { truth: false, .. } => {
                self.say(actions, Level::Warn, None, "an action of the legion failed");
            }
            HookEnd::Failed(why) => self.say(actions, Level::Warn, None, &format!("an action of the legion: {why}")),
        }
        true
    }

    // ---- what follows ----

    /// Says how this node stands, asks who is there, and asks for the lease or leaves it to others.
    pub(super) fn attend(&mut self, now: Time, actions: &mut Vec<Action>) {
        let (holds, stands, appoints) = (self.holds(now), self.would_lead(now), self.appoints(now));
        let ends = self.retired_for_good && self.goal != Goal::Run && self.is_over();
        let given = self.lease.as_ref().is_none_or(|lease| {
            lease.is_clear() || lease.releasing_since().is_some_and(|since| since + PATIENCE <= now)
        });
        let Some(legion) = &mut self.legion else { return };
        legion.appoints.clone_from(&appoints);
        if legion.life == Life::New && legion.affairs.is_empty() && legion.out.is_none() {
            legion.life = Life::Member;
        }
        if matches!(legion.life, Life::New | Life::Member) && (legion.forgotten || ends) {
            legion.life = Life::Dying;
            legion.affairs.clear();
            let reason = if legion.forgotten { "it is no legion any more" } else { "it goes from this node" };
            self.tell_of(LegionEvent::Death, None, reason.into());
        }
        let Some(legion) = &mut self.legion else { return };
        let idle = legion.affairs.is_empty() && legion.out.is_none();
        match legion.life {
            Life::New => {}
            Life::Member => legion.election.say(stands, appoints),
            Life::Dying if idle && (given || legion.forgotten) => {
                legion.life = Life::Leaving { since: now };
                legion.election.leave();
            }
            Life::Dying => legion.election.say(false, None),
            Life::Leaving { .. } | Life::Gone => {}
        }
        if let Life::Leaving { since } = legion.life
            && (legion.election.has_left() || since + PATIENCE <= now)
        {
            legion.life = Life::Gone;
        }
        if legion.life != Life::Gone
            && let Some(word) = legion.election.advance(now)
        {
            actions.push(Action::Muster { lease: self.spec.lease_name(&self.me.0), word });
        }
        let (verdict, gone) = (legion.verdict(now, holds), legion.life == Life::Gone && legion.forgotten);
        if gone {
            self.show_lordship(None, actions);
            self.legion = None;
            if let (Some(lease), Goal::Run, None) = (&mut self.lease, &self.goal, &self.heir) {
                lease.want(now);
            }
            return;
        }
        self.contend(now, &verdict);
        self.note_lord(now);
        let lordship = self.legion.as_ref().filter(|legion| legion.life != Life::Gone).map(|_| self.lordship(now));
        self.show_lordship(lordship.flatten().map(Box::new), actions);
    }

    /// Asks for the lease, or leaves it to others, as the verdict is.
    fn contend(&mut self, now: Time, verdict: &Verdict) {
        let forgotten = self.legion.as_ref().is_none_or(|legion| legion.forgotten);
        // Who comes next may have to wait for who has it.
        let holder = self.legion.as_ref().and_then(|legion| NodeName::parse(legion.election.holder()?).ok());
        let holder = holder.filter(|holder| *holder != self.me.1);
        let Some(lease) = &mut self.lease else { return };
        if self.goal != Goal::Run || self.heir.is_some() || lease.stands_back(now) {
            return;
        }
        match verdict {
            Verdict::Lead(_) => lease.want(now),
            _ if forgotten => lease.want(now),
            Verdict::Behind { node, .. } => {
                lease.defer(now, verdict.to_string(), Some(holder.unwrap_or_else(|| node.clone())));
            }
            Verdict::NoQuorum { .. } | Verdict::Arbiter | Verdict::Aside | Verdict::Unknown(_) => {
                lease.defer(now, verdict.to_string(), None);
            }
        }
    }

    /// Has the lease given away in good order where somebody else is to have it, or nobody.
    pub(super) fn yield_to_verdict(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(legion) = self.legion.as_ref().filter(|legion| !legion.forgotten) else { return };
        if !self.holds(now) || self.goal != Goal::Run || self.parting.is_some() || self.heir.is_some() {
            return;
        }
        let verdict = legion.verdict(now, true);
        let (cause, to, detail) = match &verdict {
            Verdict::Behind { node, .. } => (history::Cause::Preempted, Some(node.clone()), node.to_string()),
            Verdict::NoQuorum { live, needed } => (history::Cause::NoQuorum, None, format!("{live} of {needed}")),
            Verdict::Arbiter => (history::Cause::Changed, None, verdict.to_string()),
            Verdict::Lead(_) | Verdict::Aside | Verdict::Unknown(_) => return,
        };
        self.say(actions, Level::Info, None, &format!("{verdict}: giving the lease up"));
        let ending = Ending { detail: Some(detail), ..Ending::of(cause) };
        self.parting = Some(Parting { to, after: After::Aside { why: verdict.to_string() }, ending });
    }

    /// Whom people would have lead: as long as this node stands back from a lease that they moved, who is to have it; and
    /// as long as it has one that was moved here, itself.
    fn appoints(&self, now: Time) -> Option<NodeName> {
        let (legion, lease) = (self.legion.as_ref()?, self.lease.as_ref()?);
        let me = &self.me.1;
        match &self.parting {
            Some(Parting { to, ending, .. }) if ending.cause == history::Cause::Moved => to.clone(),
            Some(_) => None,
            None if self.holds(now) => {
                let stays = legion.appoints.as_ref() == Some(me) || legion.election.is_appointed();
                stays.then(|| me.clone())
            }
            None => legion.appoints.clone().filter(|_| lease.stands_back(now)),
        }
    }

    /// Whether it would have the lease.
    fn would_lead(&self, now: Time) -> bool {
        let moved = matches!(&self.parting, Some(Parting { after: After::StandBack { .. }, .. }));
        let back = self.lease.as_ref().is_some_and(|lease| lease.stands_back(now));
        self.goal == Goal::Run && self.heir.is_none() && !self.retired_for_good && !moved && !back
    }

    fn holds(&self, now: Time) -> bool {
        matches!(self.lease.as_ref().map(|lease| lease.hold(now)), Some(Hold::Firm { .. }))
    }

    /// Who leads, as far as this node knows.
    pub(super) fn lord(&self) -> Option<&str> {
        self.legion.as_ref().and_then(Legion::lord)
    }

    /// Whether members choose its holder.
    pub fn is_elected(&self) -> bool {
        self.legion.is_some()
    }

    /// To whom the lease is to go: who was meant may have gone meanwhile, or another have come that is better.
    pub(super) fn heir_of(&self, now: Time, parting: &Parting) -> Option<NodeName> {
        let to = parting.to.clone();
        let Some(legion) = &self.legion else { return to };
        let candidates = legion.election.candidates(now);
        let anyone = parting.ending.cause == history::Cause::Moved;
        to.filter(|to| if anyone { candidates.contains(&to) } else { candidates.first() == Some(&to) })
    }

    /// Where it goes when it is moved away from here, to `to` or to whoever comes next, or why not; nothing where nobody
    /// is elected. `absent`: why `to` cannot do anything at all.
    pub fn elected_successor(
        &self,
        now: Time,
        to: Option<&NodeName>,
        absent: Option<String>,
    ) -> Option<Result<NodeName, String>> {
        let election = &self.legion.as_ref()?.election;
        let name = &self.spec.name;
        let candidates = election.candidates(now);
        let Some(to) = to else {
            let next = candidates.first().map(|next| (*next).clone());
            return Some(next.ok_or_else(|| format!("{name} stays: no other member would lead")));
        };
        if absent.is_none() && candidates.contains(&to) {
            return Some(Ok(to.clone()));
        }
        let why = absent.unwrap_or_else(|| match election.word_of(now, to) {
            None => format!("it is no member of {name}"),
            Some(Membership { valor: 0, .. }) => "it is an arbiter (valor 0)".into(),
            Some(_) => "it stands back".into(),
        });
        let others: Vec<&str> =
            candidates.iter().map(|node| node.as_str()).filter(|node| *node != to.as_str()).collect();
        let hint = if others.is_empty() {
            "nobody else would lead".into()
        } else {
            format!("candidates: {}", others.join(", "))
        };
        Some(Err(format!("{to} cannot take {name}: {why}; {hint}")))
    }

    /// Whether it would take the lease over, though it need not be the next.
    pub fn stands_for_election(&self) -> bool {
        self.legion.as_ref().is_some_and(|legion| legion.election.stands())
    }

    /// Whether somebody else leads than before.
    fn note_lord(&mut self, now: Time) {
        let token = self.lease.as_ref().and_then(Lease::token);
        let me = self.me.1.as_str();
        let Some(legion) = &mut self.legion else { return };
        // What the store said of this node's own holding may be from before it ended.
        let seen = legion.election.holder().filter(|holder| *holder != me);
        let lord = token.map(|_| me).or(seen).map(str::to_owned);
        if legion.lord() == lord.as_deref() {
            return;
        }
        let text = lord.as_ref().map_or_else(|| "nobody leads".to_owned(), |lord| format!("{lord} leads"));
        legion.lord = lord.map(|lord| (lord, now));
        self.tell_change(now, LegionEvent::LordChanged, None, text);
    }

    // ---- events ----

    fn tell_change(&mut self, now: Time, event: LegionEvent, node: Option<NodeName>, text: String) {
        if let Some(legion) = &mut self.legion {
            legion.remember(now, text.clone());
        }
        self.tell_of(event, node, text);
    }

    /// Has an event's actions done, where there are any.
    fn tell_of(&mut self, event: LegionEvent, node: Option<NodeName>, reason: String) {
        let there_are = |spec: &WatcherSpec| spec.legion.as_ref().is_some_and(|legion| legion.has_actions(event));
        let there_are = there_are(&self.spec);
        let node = node.unwrap_or_else(|| self.me.1.clone());
        if let Some(legion) = self.legion.as_mut().filter(|_| there_are) {
            if legion.affairs.len() >= WAITING {
                legion.affairs.pop_front();
            }
            legion.affairs.push_back(Affair { event, node, reason });
        }
    }

    /// Orders what the next event asks for, once what the one before asked for is done.
    pub(super) fn order_affairs(&mut self, now: Time, ids: &mut u64, actions: &mut Vec<Action>) {
        let me = self.me.1.clone();
        let Some(legion) = &mut self.legion else { return };
        if legion.debt == Debt::Due {
            legion.debt = Debt::Out(HookId(*ids + 1));
            let reason = "the lord process was killed".to_owned();
            self.order(now, Affair { event: LegionEvent::Unlord, node: me, reason }, ids, actions);
        }
        let Some(legion) = self.legion.as_mut().filter(|legion| legion.out.is_none()) else { return };
        let Some(affair) = legion.affairs.pop_front() else { return };
        legion.out = Some(HookId(*ids + 1));
        self.order(now, affair, ids, actions);
    }

    /// Has an event's actions done by a process on the side, which is the next hook.
    fn order(&self, now: Time, Affair { event, node, reason }: Affair, ids: &mut u64, actions: &mut Vec<Action>) {
        *ids += 1;
        let spec = self.spec.legion.clone().unwrap_or_default();
        let words = spec.event_words(&self.spec.name, event);
        let timeout = spec.time_for(event) + SLACK;
        let env = self.legion_env(now, Some(event), Some(&node), &reason);
        let call = self.hook_call(now, HookPoint::Legion(event), HookProgram::Command(words), env);
        actions.push(Action::Hook { hook: HookId(*ids), call: Box::new(call), timeout });
    }

    /// What its processes, its actions and those that follow it are told of it: nothing where it is no legion.
    pub(super) fn legion_env(
        &self,
        now: Time,
        event: Option<LegionEvent>,
        node: Option<&NodeName>,
        reason: &str,
    ) -> Vec<(String, String)> {
        let (me, token) = (&self.me.1, self.lease.as_ref().and_then(Lease::token));
        let (members, lord) = match &self.legion {
            Some(legion) => (legion.living(now), legion.lord()),
            None => (vec![me.clone()], None),
        };
        let lord = token.map(|_| me.as_str()).or(lord);
        let scroll = self.legion.as_ref().zip(lord).map_or("", |(legion, lord)| legion.election.scroll_of(lord));
        let node = node.unwrap_or(me);
        let (legion, members) = (&self.spec.name, members.as_slice());
        Surroundings { legion, event, node, lord, token, members, scroll, reason }.variables()
    }

    /// Why this node leads, or does not.
    pub(super) fn standing(&self, now: Time) -> Option<String> {
        let legion = self.legion.as_ref()?;
        Some(match (&self.goal, legion.verdict(now, self.holds(now))) {
            (Goal::Rest(Cause::Asked(Ending { by: Some(by), .. })), Verdict::Aside) => format!("stopped by {by}"),
            (Goal::Rest(_), Verdict::Aside) => "it is not wanted here".into(),
            (Goal::Run, Verdict::Aside) => {
                self.lease.as_ref().and_then(Lease::why).unwrap_or_else(|| Verdict::Aside.to_string())
            }
            (_, verdict) => verdict.to_string(),
        })
    }

    /// Whether it is this node that is to have the lease.
    pub(super) fn is_first(&self, now: Time) -> bool {
        self.legion.as_ref().is_some_and(|legion| matches!(legion.verdict(now, self.holds(now)), Verdict::Lead(_)))
    }

    /// Whether it leaves the lease alone because of the election.
    pub(super) fn is_deferred(&self, now: Time) -> bool {
        let back = self.lease.as_ref().is_none_or(|lease| lease.stands_back(now) || lease.role() != LeaseRole::Aside);
        self.goal == Goal::Run && self.legion.is_some() && !back && !self.is_first(now)
    }

    /// Whether it would have the lease, and leaves it to one that comes before it.
    pub(super) fn is_behind(&self, now: Time) -> bool {
        self.is_deferred(now) && self.legion_state(now) == LegionState::Standby
    }

    /// Whether it is as it should be that another node has it, or is about to; an arbiter wants nothing else.
    pub(super) fn is_left_to_another(&self, now: Time) -> bool {
        let arbiter = |legion: &Legion| legion.verdict(now, false) == Verdict::Arbiter;
        self.lease.as_ref().is_some_and(Lease::is_left_to_another) || self.legion.as_ref().is_some_and(arbiter)
    }

    // ---- what is seen ----

    /// Its next deadline.
    pub(super) fn next_muster(&self, now: Time) -> Option<Time> {
        let legion = self.legion.as_ref()?;
        let patience = match legion.life {
            Life::New | Life::Gone => return None,
            Life::Member => None,
            Life::Dying => self.lease.as_ref().and_then(Lease::releasing_since).map(|since| since + PATIENCE),
            Life::Leaving { since } => Some(since + PATIENCE),
        };
        let election = legion.election.next_wakeup(now, self.holds(now));
        let too_late = match self.lease.as_ref().map(|lease| lease.hold(now)) {
            Some(Hold::Losing { kill }) if matches!(legion.debt, Debt::Due | Debt::Out(_)) => Some(kill),
            _ => None,
        };
        [patience, too_late].into_iter().flatten().filter(|time| *time > now).chain(election).min()
    }

    /// Under which token this node leads, and until when unless that is put off.
    fn leads(&self, now: Time) -> Option<(u64, Deadline)> {
        // Between two slots it leads as well.
        let goes = if self.spec.cron.is_some() { self.has_to_part() } else { self.must_go() };
        match self.lease.as_ref().map(|lease| lease.hold(now)) {
            Some(Hold::Firm { token, deadline }) if !goes => Some((token, deadline)),
            _ => None,
        }
    }

    /// Whether this node leads, for programs.
    pub fn lordship(&self, now: Time) -> Option<Lordship> {
        let legion = self.legion.as_ref()?;
        Some(Lordship {
            legion: self.spec.name.clone(),
            node: self.me.1.clone(),
            mine: self.leads(now),
            lord: legion.lord().map(str::to_owned),
            members: legion.living(now),
            quorum: legion.election.spec().quorum,
            scroll: legion.lord().map_or("", |lord| legion.election.scroll_of(lord)).to_owned(),
            reason: self.standing(now).unwrap_or_default(),
        })
    }

    fn show_lordship(&mut self, lordship: Option<Box<Lordship>>, actions: &mut Vec<Action>) {
        let Some(legion) = &mut self.legion else { return };
        if legion.shown != lordship {
            legion.shown.clone_from(&lordship);
            actions.push(Action::ShowLordship { legion: self.spec.name.clone(), lordship });
        }
    }

    fn legion_state(&self, now: Time) -> LegionState {
        let verdict = self.legion.as_ref().map(|legion| legion.verdict(now, self.holds(now)));
        match (self.lease.as_ref().map_or(LeaseRole::Aside, Lease::role), verdict) {
            (LeaseRole::Holder, _) if self.leads(now).is_some() => LegionState::Lord,
            (LeaseRole::Holder | LeaseRole::Losing, _) => LegionState::Losing,
            (_, Some(Verdict::Lead(_))) => LegionState::Candidate,
            (_, Some(Verdict::Behind { .. })) => LegionState::Standby,
            (_, Some(Verdict::NoQuorum { .. })) => LegionState::NoQuorum,
            (_, Some(Verdict::Arbiter)) => LegionState::Arbiter,
            (_, Some(Verdict::Aside)) => LegionState::Aside,
            (_, Some(Verdict::Unknown(_)) | None) => LegionState::Unknown,
        }
    }

    /// The legion, for people.
    pub fn legion_view(&self, now: Time) -> Option<Box<LegionView>> {
        let legion = self.legion.as_ref()?;
        let spec = legion.election.spec();
        let member = |Member { node, membership, left }: Member| MemberView {
            node,
            valor: membership.valor,
            stands: membership.stands,
            scroll: membership.scroll,
            heard: membership.ttl.saturating_sub(left),
            left,
        };
        let token = self.lease.as_ref().and_then(Lease::token);
        let lord = legion.lord.as_ref().map(|(node, since)| {
            let is_me = node == self.me.1.as_str();
            let left = self.leads(now).map(|(_, deadline)| now.until(deadline.stop));
            LordView {
                node: node.clone(),
                token: token.filter(|_| is_me),
                left: left.filter(|_| is_me),
                held_for: now.since(*since),
            }
        });
        let state = self.legion_state(now);
        let mut why = self.standing(now).unwrap_or_default();
        // Being the first is not all there is to it.
        if let (LegionState::Candidate, Some(more)) = (state, self.lease.as_ref().and_then(Lease::why)) {
            why = format!("{why}; {more}");
        }
        let change = |(at, text): &(Time, String)| LegionChange { ago: now.since(*at), text: text.clone() };
        Some(Box::new(LegionView {
            name: self.spec.name.clone(),
            node: self.me.1.clone(),
            valor: spec.valor,
            preempt: spec.preempt,
            quorum: spec.quorum,
            expected: spec.expected,
            scroll: spec.scroll.clone(),
            joined: legion.joined,
            live: legion.election.live(now),
            members: legion.election.members(now).into_iter().map(member).collect(),
            seen: legion.election.seen(now),
            lord,
            state,
            why,
            changes: legion.changes.iter().map(change).collect(),
        }))
    }
}
