//! Who of several nodes is to hold a lease: the first of those that live, if enough of them do.
//!
//! Members tell the store every [`LeaseTimings::refresh_interval`](super::spec::LeaseTimings) that they live, and hear
//! who else does. The store keeps time; what it says decides who *asks* for the lease, and nothing else: who *has* it is
//! decided by the lease alone, so that a wrong view of the members costs time and never makes two.
//!
//! ```text
//!             say                       due, changed, or one fell silent          answered
//!   no member ───▶ has a word to tell ──────────────────────────────────▶ asking ─────────▶ has a view
//!       ▲                                          ▲                        │  no answer        │
//!       │ leave, and the store knows               └────────────────────────┴───────────────────┘
//! ```
//!
//! Rules:
//!
//! - A view counts from when it was asked for, and by this node's own clock its members fall silent one by one. Whom only
//!   that clock takes for silent the store is asked about at once, and until it answers nothing is decided that hangs
//!   on that member.
//! - No failure of the store is an answer: the view before it counts until it is as old as a lease.
//! - Of those that would have the lease the highest valor is the first, then the name. Without preemption whoever has the
//!   lease and would keep it goes before all of them.
//! - Only a higher valor takes over from a holder, and only when it has stood there for the delay, as the holder has seen
//!   it. Among equals names decide who begins, and move nobody: a node that is renamed, or comes back, disturbs no lord.
//! - Whom people have moved the lease to comes before all others, if it lives and would have it, and keeps it as if without
//!   preemption until it does not have it any more. Whoever has the lease says who that is; where nobody has it, whoever had.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::names::{NodeName, Owner, WatcherName};
use super::random::Random;
use super::spec::{ElectionSpec, LeaseTimings, LegionEvent};
use super::ticks::Ticks;
use super::time::Time;

/// What a node tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its valor, see [`ElectionSpec::valor`](super::spec::ElectionSpec).
    pub valor: u32,
    /// Whether it would hold the lease: not an arbiter, not standing back, not drained.
    pub stands: bool,
    /// Whom people would have lead, where it has the lease, or has just had it: itself, or who is to come after it.
    pub appoints: Option<NodeName>,
    /// Its scroll.
    pub scroll: String,
    /// It counts as dead when it has said nothing for so long.
    pub ttl: Duration,
}

/// A member that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub node: NodeName,
    /// What it said of itself.
    pub membership: Membership,
    /// How long it lives on without another word.
    pub left: Duration,
}

/// Who is there, as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Muster {
    /// Who has the lease, as it stands there ([`Owner`](super::names::Owner)); nothing: nobody.
    pub holder: Option<String>,
    /// Those that live, by name; the one that asks among them.
    pub members: Vec<Member>,
}

/// One node's part in the election of a lease's holder.
#[derive(Debug, Clone, PartialEq)]
pub struct Election {
    node: NodeName,
    spec: ElectionSpec,
    timings: LeaseTimings,
    random: Random,
    ticks: Ticks,
    /// What this node is to say of itself; nothing: that it is no member.
    word: Option<Membership>,
    /// What the store has heard of it.
    heard: Heard,
    asked: Option<Asked>,
    /// When the latest one did.
    last: Option<Time>,
    /// When the next goes out, at the latest.
    next: Time,
    view: Option<View>,
    /// Why there is no newer one.
    trouble: Option<String>,
    /// Since when each of the others has stood, with this valor.
    standing: BTreeMap<NodeName, (u32, Time)>,
    /// What this node was called, as long as the store has not heard that nobody is a member under that name.
    former: Vec<NodeName>,
}

/// The question under way.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    sent: Time,
    /// In which name.
    node: NodeName,
    said: Option<Membership>,
}

/// What the store knows of this node.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    /// Nothing, or that is not known.
    Nothing,
    Word(Membership),
    /// That it is no member any more.
    Leave,
}

/// Who is there, as the store said.
#[derive(Debug, Clone, PartialEq)]
struct View {
    /// When it was asked.
    sent: Time,
    /// The node that has the lease; as text where no agent of ours wrote it.
    holder: Option<String>,
    /// The others, and until when each counts.
    others: BTreeMap<NodeName, (Membership, Time)>,
}

/// What is to be told the store, and asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// When.
    pub sent: Time,
    /// By whom: this node, by the name that it has, or one that it had.
    pub node: NodeName,
    /// What this node says of itself; nothing: that it is no member any more.
    pub membership: Option<Membership>,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Who is to have the lease, from one node's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This node: it asks for it, or keeps it.
    Lead(Claim),
    /// Another one, which comes before it.
    Behind { node: NodeName, claim: Claim },
    /// Nobody: too few live.
    NoQuorum { live: u32, needed: u32 },
    /// Not this node, which is an arbiter.
    Arbiter,
    /// Not this node, which stands back.
    Aside,
    /// That is not known, for this reason: who has it keeps it, and nobody asks.
    Unknown(String),
}

/// By what one comes before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Its valor and its name, or that it sits there already.
    Rank,
    /// The word of people, who moved the lease there.
    Appointed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Lead(Claim::Rank) => f.write_str("it comes before all others that would lead"),
            Verdict::Lead(Claim::Appointed) => {
                f.write_str("it was moved here, and stays until this node ceases to lead")
            }
            Verdict::Behind { node, claim: Claim::Rank } => write!(f, "{node} comes before it"),
            Verdict::Behind { node, claim: Claim::Appointed } => {
                write!(f, "it was moved to {node}, and stays until that one ceases to lead")
            }
            Verdict::NoQuorum { live, needed } => write!(f, "no quorum: {live} of {needed} members that have to live"),
            Verdict::Arbiter => f.write_str("an arbiter (valor 0), which never leads"),
            Verdict::Aside => f.write_str("it stands back"),
            Verdict::Unknown(why) => f.write_str(why),
        }
    }
}

/// What a new view tells of the others, as against the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// One is there that was not.
    Joined(NodeName),
    /// One is not there any more.
    Left(NodeName),
}

impl Election {
    /// A node that has said nothing yet, and is no member before it [says](Election::say) so.
    pub fn new(node: NodeName, spec: ElectionSpec, timings: LeaseTimings, random: Random) -> Election {
        let ticks = Ticks::new(&node, timings.refresh_interval);
        Election {
            node,
            spec,
            timings,
            random,
            ticks,
            word: None,
            heard: Heard::Nothing,
            asked: None,
            last: None,
            next: Time::ZERO,
            view: None,
            trouble: None,
            standing: BTreeMap::new(),
            former: Vec::new(),
        }
    }

    /// Is called `node` from now on. The store has it under both names for a moment, which is one member to everybody.
    pub fn rename(&mut self, node: &NodeName) {
        self.former.retain(|former| former != node);
        self.former.push(std::mem::replace(&mut self.node, node.clone()));
        self.heard = Heard::Nothing;
    }

    /// What this node brings to it.
    pub fn spec(&self) -> &ElectionSpec {
        &self.spec
    }

    /// Brings something else to it from now on. What it says changes with the next [`Election::say`].
    pub fn amend(&mut self, spec: ElectionSpec, timings: LeaseTimings) {
        (self.spec, self.timings) = (spec, timings);
        self.ticks = Ticks::new(&self.node, timings.refresh_interval);
    }

    /// Is a member; `stands`: one that would have the lease; `appoints`: see [`Membership`].
    pub fn say(&mut self, stands: bool, appoints: Option<NodeName>) {
        let ElectionSpec { valor, scroll, .. } = &self.spec;
        let (stands, scroll) = (stands && *valor > 0, scroll.clone());
        self.word = Some(Membership { valor: *valor, stands, appoints, scroll, ttl: self.timings.ttl });
    }

    /// Is none any more.
    pub fn leave(&mut self) {
        self.word = None;
    }

    /// Whether the store knows it for no member.
    pub fn has_left(&self) -> bool {
        self.word.is_none() && self.asked.is_none() && (self.heard == Heard::Leave || self.last.is_none())
    }

    /// Others have changed, or the store can be asked again: asks at once.
    pub fn hurry(&mut self, now: Time) {
        // The answer under way may be from before.
        self.next = now;
    }

    /// What is due to be said and asked.
    pub fn advance(&mut self, now: Time) -> Option<Word> {
        if self.asked.as_ref().is_some_and(|asked| asked.sent + self.lost() <= now) {
            self.failed(now, "the question got lost".into());
        }
        if self.asked.is_some() || self.due().is_none_or(|due| due > now) {
            return None;
        }
        let (node, said) = match self.farewell() {
            Some(former) => (former.clone(), None),
            None => (self.node.clone(), self.word.clone()),
        };
        self.asked = Some(Asked { sent: now, node: node.clone(), said: said.clone() });
        self.last = Some(now);
        self.next = self.ticks.after(now);
        Some(Word { sent: now, node, membership: said, timeout: self.timings.refresh_timeout })
    }

    /// The store answered, or failed to; what has changed with the others. An answer that nobody waits for any more says
    /// nothing.
    pub fn mustered(&mut self, now: Time, sent: Time, result: Result<Muster, String>) -> Vec<Change> {
        let Some(asked) = self.asked.take_if(|asked| asked.sent == sent) else { return Vec::new() };
        let muster = match result {
            Ok(muster) => muster,
            Err(reason) => {
                self.failed(now, reason);
                return Vec::new();
            }
        };
        self.trouble = None;
        match asked {
            Asked { node, said, .. } if node == self.node => self.heard = said.map_or(Heard::Leave, Heard::Word),
            Asked { node, said: None, .. } => self.former.retain(|former| *former != node),
            // Said in a name that it had when it was asked.
            Asked { said: Some(_), .. } => {}
        }
        let own = |node: &NodeName| *node == self.node || self.former.contains(node);
        let lives = |member: &Member| !own(&member.node) && !member.left.is_zero();
        let others: BTreeMap<NodeName, (Membership, Time)> = muster
            .members
            .into_iter()
            .filter(lives)
            .map(|member| (member.node, (member.membership, sent + member.left)))
            .collect();
        let before = self.view.take().map(|view| view.others).unwrap_or_default();
        let gone = before.keys().filter(|node| !others.contains_key(*node)).cloned().map(Change::Left);
        let come = others.keys().filter(|node| !before.contains_key(*node)).cloned().map(Change::Joined);
        let changes = gone.chain(come).collect();
        let stand = others.iter().filter(|(_, (membership, _))| membership.stands);
        let since = |(node, (membership, _)): (&NodeName, &(Membership, Time))| {
            let old = self.standing.get(node).filter(|(valor, _)| *valor == membership.valor);
            (node.clone(), old.copied().unwrap_or((membership.valor, now)))
        };
        self.standing = stand.map(since).collect();
        let holder = muster.holder.as_deref().map(Owner::node_in);
        self.view = Some(View { sent, holder, others });
        changes
    }

    /// When the next question is due; nothing: none is, as long as nothing happens.
    fn due(&self) -> Option<Time> {
        if self.word.is_none() && self.has_left() {
            return None;
        }
        // What is new is told at once, unless the store has just failed to hear it.
        let news = match (&self.word, &self.heard) {
            (Some(word), Heard::Word(heard)) => word != heard,
            (Some(_), Heard::Nothing | Heard::Leave) | (None, _) => true,
        };
        if (news || self.farewell().is_some()) && self.trouble.is_none() {
            return Some(Time::ZERO);
        }
        let unasked = |silent: &Time| self.last.is_none_or(|last| *silent > last);
        self.silences().filter(unasked).chain([self.next]).min()
    }

    /// The name under which this node is to leave: once it is a member under the one that it has, so that enough live all
    /// the while.
    fn farewell(&self) -> Option<&NodeName> {
        self.former.first().filter(|_| matches!(self.heard, Heard::Word(_)))
    }

    /// When each of the others falls silent.
    fn silences(&self) -> impl Iterator<Item = Time> + '_ {
        self.view.iter().flat_map(|view| view.others.values()).map(|(_, until)| *until)
    }

    /// When what is known of the members is as old as a lease, and says nothing more.
    fn stale(&self) -> Option<Time> {
        self.view.as_ref().map(|view| view.sent + self.timings.ttl)
    }

    fn failed(&mut self, now: Time, reason: String) {
        self.asked = None;
        self.trouble = Some(reason);
        let pause = (self.timings.ttl / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
        self.next = now + self.random.about(pause, 0.2);
    }

    /// After so long without an answer a question was lost on its way to the store's adapter.
    fn lost(&self) -> Duration {
        self.timings.refresh_timeout * 4 / 3
    }

    /// When to come back at the latest; `holds`: this node has the lease.
    pub fn next_wakeup(&self, now: Time, holds: bool) -> Option<Time> {
        let question = match &self.asked {
            Some(asked) => Some(asked.sent + self.lost()),
            None => self.due(),
        };
        let preempted = self.standing.values().filter(|(valor, _)| holds && *valor > self.spec.valor);
        let preempted = preempted.map(|(_, since)| *since + self.spec.preempt_delay);
        let verdict = self.silences().chain(self.stale()).chain(preempted).filter(|time| *time > now);
        question.into_iter().chain(verdict.min()).min()
    }

    // ---- who it is ----

    /// Who is to have the lease; `holds`: this node has it.
    pub fn verdict(&self, now: Time, holds: bool) -> Verdict {
        let unknown = |what: String| match &self.trouble {
            Some(trouble) => Verdict::Unknown(format!("{what}: {trouble}")),
            None => Verdict::Unknown(what),
        };
        let (Some(word), Some(view)) = (&self.word, &self.view) else {
            return unknown("the store has not said who is there".into());
        };
        if self.stale().is_none_or(|stale| stale <= now) {
            return unknown("the store has not said lately who is there".into());
        }
        let silent = view.others.iter().filter(|(_, (_, until))| *until <= now).map(|(node, _)| node);
        let verdict = self.judge(word, |_, _| true, now, holds);
        match silent.clone().next() {
            Some(node) if self.judge(word, |_, until| until > now, now, holds) != verdict => {
                unknown(format!("{node} fell silent, which the store has not confirmed"))
            }
            _ => verdict,
        }
    }

    /// The same, where those count of the others that do.
    fn judge(&self, me: &Membership, counts: impl Fn(&NodeName, Time) -> bool, now: Time, holds: bool) -> Verdict {
        let others: Vec<(&NodeName, &Membership)> = self
            .others()
            .filter(|(node, _, until)| counts(node, *until))
            .map(|(node, membership, _)| (node, membership))
            .collect();
        let live = u32::try_from(1 + others.len()).unwrap_or(u32::MAX);
        if live < self.spec.quorum {
            return Verdict::NoQuorum { live, needed: self.spec.quorum };
        }
        match me {
            Membership { valor: 0, .. } => return Verdict::Arbiter,
            Membership { stands: false, .. } => return Verdict::Aside,
            Membership { .. } => {}
        }
        let stand = others.iter().filter(|(_, membership)| membership.stands);
        match self.appointed(holds) {
            Some(node) if *node == self.node => return Verdict::Lead(Claim::Appointed),
            Some(node) if stand.clone().any(|(name, _)| *name == node) => {
                return Verdict::Behind { node: node.clone(), claim: Claim::Appointed };
            }
            Some(_) | None => {}
        }
        let holder = self.view.as_ref().and_then(|view| view.holder.as_deref());
        let sits = |node: &NodeName, valor: u32| {
            holder == Some(node.as_str()) && (!self.spec.preempt || valor >= self.spec.valor)
        };
        // Who has it and would keep it is to be moved by its betters only, and by them after the delay.
        let in_the_way = |node: &NodeName, valor: u32| match (holds, self.spec.preempt) {
            (true, false) => false,
            (true, true) => valor > self.spec.valor && self.has_stood(node, now),
            (false, _) => self.is_before_me(node, valor) || sits(node, valor),
        };
        let before = stand.filter(|(node, membership)| in_the_way(node, membership.valor));
        let first =
            before.max_by_key(|(node, membership)| (sits(node, membership.valor), membership.valor, Reverse(*node)));
        match first {
            Some((node, _)) => Verdict::Behind { node: (*node).clone(), claim: Claim::Rank },
            None => Verdict::Lead(Claim::Rank),
        }
    }

    /// Whom people have moved the lease to.
    fn appointed(&self, holds: bool) -> Option<&NodeName> {
        if holds {
            return self.word.as_ref()?.appoints.as_ref();
        }
        let view = self.view.as_ref()?;
        let others = || view.others.iter().map(|(node, (membership, _))| (node.as_str(), membership));
        let sits = others().find(|(node, _)| view.holder.as_deref() == Some(*node));
        match sits {
            Some((_, holder)) => holder.appoints.as_ref(),
            None => others().find_map(|(_, membership)| membership.appoints.as_ref()),
        }
    }

    /// Whether others say that people have moved the lease to this node.
    pub fn is_appointed(&self) -> bool {
        self.others().any(|(_, membership, _)| membership.appoints.as_ref() == Some(&self.node))
    }

    fn is_before_me(&self, node: &NodeName, valor: u32) -> bool {
        (valor, Reverse(node)) > (self.spec.valor, Reverse(&self.node))
    }

    fn has_stood(&self, node: &NodeName, now: Time) -> bool {
        self.standing.get(node).is_some_and(|(_, since)| *since + self.spec.preempt_delay <= now)
    }

    /// The others that would have the lease, and have not fallen silent: who comes first is the first.
    pub fn candidates(&self, now: Time) -> Vec<&NodeName> {
        let stand = self.others().filter(|(_, membership, until)| membership.stands && *until > now);
        let mut stand: Vec<_> = stand.map(|(node, membership, _)| (Reverse(membership.valor), node)).collect();
        stand.sort();
        stand.into_iter().map(|(_, node)| node).collect()
    }

    /// What another node says of itself, unless it has fallen silent.
    pub fn word_of(&self, now: Time, node: &NodeName) -> Option<&Membership> {
        let mut others = self.others().filter(|(_, _, until)| *until > now);
        others.find(|(name, ..)| *name == node).map(|(_, membership, _)| membership)
    }

    /// Whether this node would have the lease, as it says itself.
    pub fn stands(&self) -> bool {
        self.word.as_ref().is_some_and(|word| word.stands)
    }

    // ---- what is seen ----

    /// The other members, by name, and until when each counts.
    fn others(&self) -> impl Iterator<Item = (&NodeName, &Membership, Time)> {
        let others = self.view.iter().flat_map(|view| &view.others);
        others.map(|(node, (membership, until))| (node, membership, *until))
    }

    /// All that this node knows to be members, itself among them, by name. Who has fallen silent has nothing left.
    pub fn members(&self, now: Time) -> Vec<Member> {
        let others = self.others().map(|(node, membership, until)| Member {
            node: node.clone(),
            membership: membership.clone(),
            left: now.until(until),
        });
        let me = self.word.iter().map(|word| Member {
            node: self.node.clone(),
            membership: word.clone(),
            left: self.stale().map_or(Duration::ZERO, |stale| now.until(stale)),
        });
        let mut members: Vec<Member> = others.chain(me).collect();
        members.sort_by(|a, b| a.node.cmp(&b.node));
        members
    }

    /// How many live, this node included.
    pub fn live(&self, now: Time) -> u32 {
        let others = self.others().filter(|(_, _, until)| *until > now).count();
        u32::try_from(others + usize::from(self.word.is_some())).unwrap_or(u32::MAX)
    }

    /// Who has the lease, as the store said last.
    pub fn holder(&self) -> Option<&str> {
        self.view.as_ref()?.holder.as_deref()
    }

    /// How old that is.
    pub fn seen(&self, now: Time) -> Option<Duration> {
        self.view.as_ref().map(|view| now.since(view.sent))
    }

    /// What that node tells the others of itself.
    pub fn scroll_of(&self, node: &str) -> &str {
        if node == self.node.as_str() {
            return &self.spec.scroll;
        }
        let found = self.others().find(|(name, ..)| name.as_str() == node);
        found.map_or("", |(_, membership, _)| &membership.scroll)
    }
}

/// What an action, a lord process and what follows it are told of their legion: the variables `LEGION…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings<'a> {
    /// Which legion.
    pub legion: &'a WatcherName,
    /// What happened to it, where something did.
    pub event: Option<LegionEvent>,
    /// The node that it is about.
    pub node: &'a NodeName,
    /// Who leads.
    pub lord: Option<&'a str>,
    /// Under which token, where that is this node.
    pub token: Option<u64>,
    /// Who lives, by name.
    pub members: &'a [NodeName],
    /// The lord's scroll.
    pub scroll: &'a str,
    /// Why it happened, or why it is so.
    pub reason: &'a str,
}

impl Surroundings<'_> {
    /// As variables. One without a value is there and empty, so that a script need not ask.
    pub fn variables(&self) -> Vec<(String, String)> {
        let members: Vec<&str> = self.members.iter().map(NodeName::as_str).collect();
        let event = self.event.map(|event| ("LEGION_EVENT", event.name().to_owned()));
        let always = [
            ("LEGION", self.legion.to_string()),
            ("LEGION_NODE", self.node.to_string()),
            ("LEGION_LORD", self.lord.unwrap_or_default().to_owned()),
            ("LEGION_TOKEN", self.token.map(|token| token.to_string()).unwrap_or_default()),
            ("LEGION_MEMBERS", members.join(",")),
            ("LEGION_SCROLL", self.scroll.to_owned()),
            ("LEGION_REASON", self.reason.to_owned()),
        ];
        always.into_iter().chain(event).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);
    const LEAD: Verdict = Verdict::Lead(Claim::Rank);
    const HELD_BY_C: &str = "c:00000000000000000000000000000007";

    fn at(seconds: f64) -> Time {
        Time::from_nanos(1_000_000_000_000) + Duration::from_secs_f64(seconds)
    }

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn spec(valor: u32, quorum: u32) -> ElectionSpec {
        let preempt_delay = Duration::ZERO;
        ElectionSpec { valor, quorum, expected: None, preempt: true, preempt_delay, scroll: String::new() }
    }

    fn behind(node: &str) -> Verdict {
        Verdict::Behind { node: name(node), claim: Claim::Rank }
    }

    /// Node `b`, which stands; it is told who else is there.
    struct Play(Election);

    impl Play {
        fn new(spec: ElectionSpec) -> Play {
            let timings = LeaseTimings::thirds(TTL);
            let mut election = Election::new(name("b"), spec, timings, Random::from_number(1));
            election.say(true, None);
            Play(election)
        }

        /// Puts what is due at `now` and has it answered at once: of each other its valor, and how long it has left; a
        /// valor below zero is that of one who does not stand.
        fn hears(&mut self, now: f64, others: &[(&str, i64, f64)], holder: Option<&str>) -> Vec<Change> {
            let word = self.0.advance(at(now)).expect("a question");
            self.0.mustered(at(now), word.sent, Ok(Play::muster(others, holder)))
        }

        fn muster(others: &[(&str, i64, f64)], holder: Option<&str>) -> Muster {
            let member = |&(node, valor, left): &(&str, i64, f64)| Member {
                node: name(node),
                membership: Membership {
                    valor: u32::try_from(valor.abs()).unwrap(),
                    stands: valor > 0,
                    appoints: None,
                    scroll: format!("of {node}"),
                    ttl: TTL,
                },
                left: Duration::from_secs_f64(left),
            };
            Muster { holder: holder.map(str::to_owned), members: others.iter().map(member).collect() }
        }

        fn fails(&mut self, now: f64) {
            let word = self.0.advance(at(now)).expect("a question");
            self.0.mustered(at(now), word.sent, Err("no route".into()));
        }
    }

    #[test]
    fn the_highest_valor_leads_and_of_equals_the_first_by_name() {
        for (others, verdict) in [
            (&[("a", 9, 15.0), ("c", 10, 15.0)][..], behind("c")),
            (&[("a", 5, 15.0), ("c", 9, 15.0)], behind("c")),
            (&[("a", 5, 15.0), ("c", 5, 15.0)], behind("a")),
            (&[("c", 5, 15.0), ("d", 5, 15.0)], LEAD),
            // Who does not stand is nobody to wait for.
            (&[("a", -9, 15.0)], LEAD),
            (&[], LEAD),
        ] {
            let mut play = Play::new(spec(5, 1));
            play.hears(0.0, others, None);
            assert_eq!(play.0.verdict(at(0.1), false), verdict, "{others:?}");
        }
    }

    #[test]
    fn an_arbiter_counts_and_never_leads() {
        let mut play = Play::new(spec(5, 2));
        play.hears(0.0, &[], None);
        assert_eq!(play.0.verdict(at(0.1), false), Verdict::NoQuorum { live: 1, needed: 2 });
        play.0.hurry(at(1.0));
        play.hears(1.0, &[("a", 0, 15.0)], None);
        assert_eq!(play.0.verdict(at(1.1), false), LEAD);
        let mut arbiter = Play::new(spec(0, 1));
        let word = arbiter.0.advance(at(0.0)).unwrap();
        assert!(!word.membership.unwrap().stands, "also where nothing else speaks against it");
        arbiter.0.mustered(at(0.0), word.sent, Ok(Muster::default()));
        assert_eq!(arbiter.0.verdict(at(0.1), false), Verdict::Arbiter);
    }

    #[test]
    fn before_the_store_has_spoken_nobody_asks() {
        let mut play = Play::new(spec(5, 1));
        assert!(matches!(play.0.verdict(at(0.0), false), Verdict::Unknown(_)));
        play.fails(0.0);
        let Verdict::Unknown(why) = play.0.verdict(at(0.0), false) else { panic!() };
        assert_eq!(why, "the store has not said who is there: no route");
    }

    #[test]
    fn who_is_silent_by_this_clock_alone_is_asked_about_before_anything_hangs_on_it() {
        let mut play = Play::new(spec(5, 1));
        play.hears(0.0, &[("a", 9, 4.0)], None);
        assert_eq!(play.0.next_wakeup(at(0.0), false), Some(at(4.0)));
        assert!(matches!(play.0.verdict(at(4.0), false), Verdict::Unknown(_)));
        play.hears(4.0, &[("a", 9, 0.5)], None);
        assert_eq!(play.0.verdict(at(4.1), false), behind("a"), "the store's clock counts");
        assert_eq!(play.hears(4.5, &[], None), [Change::Left(name("a"))]);
        assert_eq!(play.0.verdict(at(4.5), false), LEAD);
    }

    #[test]
    fn a_renamed_node_joins_before_it_leaves_and_counts_itself_once() {
        let mut play = Play::new(spec(5, 2));
        play.hears(0.0, &[("c", 1, 15.0)], None);
        assert_eq!(play.0.verdict(at(0.1), true), LEAD);
        play.0.rename(&name("z"));
        let word = play.0.advance(at(1.0)).expect("it says so at once");
        assert_eq!((word.node.as_str(), word.membership.is_some()), ("z", true));
        // By its old name, which comes first, it is in nobody's way here.
        let both = Play::muster(&[("b", 5, 15.0), ("c", 1, 15.0)], None);
        assert_eq!(play.0.mustered(at(1.0), word.sent, Ok(both)), []);
        assert_eq!((play.0.verdict(at(1.1), true), play.0.live(at(1.1))), (LEAD, 2));
        let farewell = play.0.advance(at(1.1)).expect("then it leaves by the old one");
        assert_eq!((farewell.node.as_str(), farewell.membership), ("b", None));
        play.0.mustered(at(1.2), farewell.sent, Err("no route".into()));
        assert_eq!(play.0.advance(at(1.2)), None, "not again and again");
        let again = play.0.advance(at(3.0)).expect("but until the store has heard it");
        assert_eq!(again.node.as_str(), "b");
        play.0.mustered(at(3.0), again.sent, Ok(Play::muster(&[("c", 1, 15.0)], None)));
        // Somebody else may be called so now.
        play.0.hurry(at(4.0));
        assert_eq!(play.hears(4.0, &[("b", 9, 15.0), ("c", 1, 15.0)], None), [Change::Joined(name("b"))]);
        assert_eq!(play.0.verdict(at(4.1), false), behind("b"));
    }

    #[test]
    fn whom_nothing_hangs_on_may_fall_silent() {
        let mut play = Play::new(spec(5, 2));
        play.hears(0.0, &[("c", 1, 4.0), ("d", 1, 15.0)], None);
        assert_eq!(play.0.verdict(at(4.0), false), LEAD);
        assert_eq!(play.0.verdict(at(4.0), true), LEAD);
        assert_eq!(play.0.live(at(4.0)), 2);
    }

    #[test]
    fn a_holder_keeps_its_lease_while_the_store_says_nothing_and_goes_when_it_says_so() {
        let mut play = Play::new(spec(5, 2));
        play.hears(0.0, &[("c", 1, 12.0)], None);
        play.fails(5.2);
        play.fails(12.0);
        assert!(matches!(play.0.verdict(at(12.1), true), Verdict::Unknown(_)), "a failure is no answer");
        play.hears(14.0, &[], None);
        assert_eq!(play.0.verdict(at(14.0), true), Verdict::NoQuorum { live: 1, needed: 2 });
    }

    #[test]
    fn what_is_as_old_as_a_lease_says_nothing_more() {
        let mut play = Play::new(spec(5, 1));
        play.hears(0.0, &[], None);
        assert_eq!(play.0.verdict(at(14.9), false), LEAD);
        assert!(matches!(play.0.verdict(at(15.0), false), Verdict::Unknown(_)));
    }

    #[test]
    fn a_better_member_takes_over_after_it_has_stood_for_the_delay() {
        let delay = ElectionSpec { preempt_delay: Duration::from_secs(10), ..spec(5, 1) };
        let mut play = Play::new(delay);
        play.hears(0.0, &[("a", -9, 15.0)], None);
        play.0.hurry(at(2.0));
        play.hears(2.0, &[("a", 9, 15.0)], None);
        assert_eq!(play.0.verdict(at(2.0), false), behind("a"), "a free lease is its at once");
        assert_eq!(play.0.verdict(at(11.9), true), LEAD);
        play.0.hurry(at(11.9));
        play.hears(11.9, &[("a", 9, 15.0)], None);
        assert_eq!(play.0.next_wakeup(at(11.9), true), Some(at(12.0)));
        assert_eq!(play.0.verdict(at(12.0), true), behind("a"));
        // It was away for a moment: that begins anew.
        play.0.hurry(at(13.0));
        play.hears(13.0, &[], None);
        play.0.hurry(at(14.0));
        play.hears(14.0, &[("a", 9, 15.0)], None);
        assert_eq!(play.0.verdict(at(14.1), true), LEAD);
    }

    #[test]
    fn without_preemption_the_holder_stays_as_long_as_it_stands() {
        let keeping = ElectionSpec { preempt: false, ..spec(5, 1) };
        let mut play = Play::new(keeping);
        play.hears(0.0, &[("a", 9, 15.0), ("c", 1, 15.0)], Some(HELD_BY_C));
        assert_eq!(play.0.verdict(at(0.1), true), LEAD);
        assert_eq!(play.0.verdict(at(0.1), false), behind("c"));
        play.0.hurry(at(1.0));
        play.hears(1.0, &[("a", 9, 15.0), ("c", -1, 15.0)], Some(HELD_BY_C));
        assert_eq!(play.0.verdict(at(1.1), false), behind("a"), "it is about to go");
        play.0.hurry(at(2.0));
        play.hears(2.0, &[], Some(HELD_BY_C));
        assert_eq!(play.0.verdict(at(2.1), false), LEAD, "it is silent");
    }

    /// As [`Play::hears`], of others of whom this one appoints somebody.
    fn appointed(others: &[(&str, i64, f64)], holder: Option<&str>, by: &str, whom: &str) -> Muster {
        let mut muster = Play::muster(others, holder);
        let lord = muster.members.iter_mut().find(|member| member.node == name(by));
        lord.expect("it is one of them").membership.appoints = Some(name(whom));
        muster
    }

    #[test]
    fn whom_people_have_moved_it_to_comes_before_all_and_keeps_it() {
        let to = |node: &str| Verdict::Behind { node: name(node), claim: Claim::Appointed };
        let others = [("a", 9, 15.0), ("c", -7, 15.0), ("d", 1, 15.0), ("e", -8, 15.0)];
        for (holder, by, whom, verdict) in [
            // Whoever has it parts from it, for this node or another.
            (Some(HELD_BY_C), "c", "b", Verdict::Lead(Claim::Appointed)),
            (Some(HELD_BY_C), "c", "d", to("d")),
            // It has been released.
            (None, "c", "b", Verdict::Lead(Claim::Appointed)),
            (None, "c", "d", to("d")),
            // Whoever is meant does not stand, or is nobody.
            (Some(HELD_BY_C), "c", "e", behind("a")),
            (Some(HELD_BY_C), "c", "z", behind("a")),
            // Another one has it by now, whose word counts.
            (Some(HELD_BY_C), "d", "d", behind("a")),
            (Some(HELD_BY_C), "d", "b", behind("a")),
        ] {
            let mut play = Play::new(spec(5, 1));
            let word = play.0.advance(at(0.0)).unwrap();
            play.0.mustered(at(0.0), word.sent, Ok(appointed(&others, holder, by, whom)));
            assert_eq!(play.0.verdict(at(0.1), false), verdict, "{by} appoints {whom}, of {holder:?}");
            assert_eq!(play.0.is_appointed(), whom == "b");
        }
        // The one that has it, says of itself who it is.
        let mut play = Play::new(spec(5, 1));
        play.hears(0.0, &[("a", 9, 15.0)], None);
        play.0.say(true, Some(name("b")));
        assert_eq!(play.0.verdict(at(0.1), true), Verdict::Lead(Claim::Appointed), "also against a higher valor");
        assert_eq!(play.0.verdict(at(0.1), false), behind("a"), "only as long as it has it");
        play.0.say(true, None);
        assert_eq!(play.0.verdict(at(0.1), true), behind("a"));
        // Neither an arbiter nor one that stands back, nor one where too few live.
        let others = [("a", 0, 15.0)];
        for (spec, stands) in [(spec(0, 1), true), (spec(5, 1), false), (spec(5, 3), true)] {
            let mut play = Play::new(spec);
            play.0.say(stands, None);
            let word = play.0.advance(at(0.0)).unwrap();
            play.0.mustered(at(0.0), word.sent, Ok(appointed(&others, None, "a", "b")));
            let verdict = play.0.verdict(at(0.1), false);
            assert!(!matches!(verdict, Verdict::Lead(_)), "{verdict:?}");
        }
    }

    #[test]
    fn who_is_silent_and_appointed_is_asked_about_before_another_asks() {
        let mut play = Play::new(spec(5, 1));
        let word = play.0.advance(at(0.0)).unwrap();
        let muster = appointed(&[("c", -1, 15.0), ("d", 1, 4.0)], None, "c", "d");
        play.0.mustered(at(0.0), word.sent, Ok(muster));
        assert!(matches!(play.0.verdict(at(4.0), false), Verdict::Unknown(_)));
    }

    #[test]
    fn what_is_new_is_told_at_once_and_otherwise_on_the_nodes_ticks() {
        let mut play = Play::new(spec(5, 1));
        play.hears(0.0, &[], None);
        assert!(play.0.advance(at(0.1)).is_none());
        let next = play.0.next_wakeup(at(0.1), false).unwrap();
        assert_eq!(next, Ticks::new(&name("b"), TTL / 3).after(at(0.0)));
        play.0.say(false, None);
        let word = play.0.advance(at(0.2)).unwrap();
        assert!(!word.membership.as_ref().unwrap().stands);
        // What changes meanwhile is told when that is answered, and who changed meanwhile is asked about then.
        play.0.say(true, None);
        assert!(play.0.advance(at(0.3)).is_none());
        play.0.mustered(at(0.4), word.sent, Ok(Muster::default()));
        assert!(play.0.advance(at(0.4)).unwrap().membership.unwrap().stands);
        play.0.hurry(at(0.5));
        play.0.mustered(at(0.6), at(0.4), Ok(Muster::default()));
        assert!(play.0.advance(at(0.6)).is_some());
    }

    #[test]
    fn a_store_that_fails_is_not_asked_without_a_pause() {
        let mut play = Play::new(spec(5, 1));
        play.fails(0.0);
        assert!(play.0.advance(at(0.5)).is_none());
        let word = play.0.advance(at(1.3)).unwrap();
        // This one is never answered.
        assert!(play.0.advance(at(7.0)).is_none());
        let lost = play.0.next_wakeup(at(7.0), false).unwrap();
        assert!(lost > at(7.0) && play.0.advance(lost).is_none());
        assert!(play.0.mustered(at(9.0), word.sent, Ok(Muster::default())).is_empty());
        assert!(matches!(play.0.verdict(at(9.0), false), Verdict::Unknown(_)), "nobody waited for it any more");
        assert!(play.0.advance(at(9.5)).is_some());
    }

    #[test]
    fn one_that_leaves_says_so_until_it_is_heard() {
        let mut play = Play::new(spec(5, 1));
        assert!(!play.0.has_left() || play.0.advance(at(0.0)).is_none());
        play.hears(0.0, &[], None);
        play.0.leave();
        assert!(!play.0.has_left());
        play.fails(1.0);
        assert!(!play.0.has_left());
        let word = play.0.advance(at(3.0)).unwrap();
        assert_eq!(word.membership, None);
        play.0.mustered(at(3.0), word.sent, Ok(Muster::default()));
        assert!(play.0.has_left());
        assert_eq!(play.0.advance(at(60.0)), None);
        assert_eq!(play.0.next_wakeup(at(60.0), false), None);
    }

    #[test]
    fn who_came_and_went_is_told_against_what_was_known_before() {
        let mut play = Play::new(spec(5, 1));
        let (a, c) = (("a", 9, 15.0), ("c", 1, 15.0));
        assert_eq!(play.hears(0.0, &[("b", 5, 15.0), a], None), [Change::Joined(name("a"))], "itself is no news");
        play.0.hurry(at(1.0));
        assert_eq!(play.hears(1.0, &[c], None), [Change::Left(name("a")), Change::Joined(name("c"))]);
        assert_eq!(play.0.members(at(1.0)).len(), 2);
        assert_eq!((play.0.candidates(at(1.0)), play.0.scroll_of("c")), (vec![&name("c")], "of c"));
        assert!(play.0.candidates(at(17.0)).is_empty(), "it is silent");
    }

    #[test]
    fn a_script_finds_each_variable_with_or_without_a_value() {
        let (legion, node) = (WatcherName::parse("ip").unwrap(), name("b"));
        let members = [name("a"), node.clone()];
        let about = Surroundings {
            legion: &legion,
            event: Some(LegionEvent::NodeLeft),
            node: &members[0],
            lord: None,
            token: None,
            members: &members,
            scroll: "",
            reason: "a left",
        };
        let told: Vec<String> = about.variables().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = "LEGION=ip LEGION_NODE=a LEGION_LORD= LEGION_TOKEN= LEGION_MEMBERS=a,b LEGION_SCROLL=";
        assert_eq!(told[..6].join(" "), expected);
        assert_eq!(told[6..], ["LEGION_REASON=a left", "LEGION_EVENT=node_left"]);
    }
}
