//! The whole of one agent's decisions: `step(now, event) -> actions`.
//!
//! The node owns every machine and every request that is not answered yet. It never waits: what takes time is a
//! state, and [`Node::next_wakeup`] says when to come back at the latest.
//!
//! ```text
//!   Starting ──all started──▶ Running ──StopAsked, quit──▶ Stopping ──all down──▶ Leave
//!       └───────────────────────────────────────────────────▲
//! ```
//!
//! Stopping goes through the priorities from the lowest up, each when the one before is down. A watcher that comes
//! after others starts when they are up, and they stop when it is down.

mod changes;
mod commands;
mod drills;
mod frames;
mod order;
mod pauses;
mod relay;
mod rename;
mod sockets;
mod stats;
mod waits;
mod watchers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::changes::{Amendment, Reading, count};
use self::frames::Frames;
use self::order::Order;
use self::relay::Errand;
use self::sockets::{Binding, SocketAmendment};
use self::stats::StatsCall;
use self::waits::Wait;
use self::watchers::{Key, Watchers};
use super::command::{Answer, NodeAbout, Part, Refusal, Reply, RequestId};
use super::event::{Action, Event, HookId, Level};
use super::lease::Lease;
use super::names::{ClusterName, NodeName};
use super::random::Random;
use super::snapshot::{LeaseRole, Phase, Snapshot, StoreView, WatcherState};
use super::sockets::Sockets;
use super::spec::{AgentSpec, WatcherSpec};
use super::store::{self, Missed, StoreFacts};
use super::time::Time;
use super::watcher::Watcher;

/// How long an ending agent waits for the store to hear of its releases.
const LAST_RELEASE: Duration = Duration::from_secs(1);
/// And for other nodes' answers that somebody waits for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How often the log repeats that the store is away and what that means.
const REMINDER: Duration = Duration::from_secs(60);

/// Exit codes of an agent that ran.
pub mod exit {
    /// It was asked to end, and all is stopped.
    pub const OK: i32 = 0;
    /// Another live agent has its name (sysexits' EX_UNAVAILABLE).
    pub const NAME_TAKEN: i32 = 69;
    /// A socket that it is to open cannot be had (EX_UNAVAILABLE too).
    pub const CANNOT_LISTEN: i32 = 69;
}

/// One agent.
#[derive(Debug)]
pub struct Node {
    name: NodeName,
    /// What it was called before, the latest first.
    formerly: Vec<NodeName>,
    cluster: ClusterName,
    clustered: bool,
    /// What the file says of the agent itself: its watchers are elsewhere.
    agent: AgentSpec,
    watchers: Watchers,
    /// Those that are to start, in order, and when the next may.
    queue: VecDeque<Key>,
    next_start: Time,
    order: Order,
    sockets: Arc<Sockets>,
    /// The change of sockets that is under way, and what waits for its end.
    binding: Option<Binding>,
    deferred: VecDeque<Event>,
    /// Requests for which a socket is being worked out.
    socket_amendments: BTreeMap<RequestId, SocketAmendment>,
    /// Those that are removed once they are down.
    leaving: BTreeSet<Key>,
    phase: State,
    /// That nothing is to run here, for as long as that holds.
    drained: Option<Drained>,
    store: StoreView,
    /// What the store's servers said of themselves, by address, those that are missed, and what was last advised because
    /// of it.
    servers: BTreeMap<String, StoreFacts>,
    /// How many messages of others were not taken.
    messages_dropped: u64,
    missed: Missed,
    advised: Vec<String>,
    reminder: Option<Time>,
    random: Random,
    last_id: u64,
    waits: Vec<Wait>,
    errands: BTreeMap<RequestId, Errand>,
    /// Requests for which the configuration is being read.
    readings: BTreeMap<RequestId, Reading>,
    /// Requests for which a watcher is being worked out.
    amendments: BTreeMap<RequestId, Amendment>,
    /// Hooks that add to statistics.
    stats_calls: BTreeMap<HookId, StatsCall>,
    /// Who watches.
    frames: Frames,
    /// Who asked what is not answered yet.
    askers: BTreeMap<RequestId, String>,
    now: Time,
}

/// How an agent is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// Each process gets its graceful time; a second request hurries.
    Graceful,
    /// SIGKILL at once.
    Fast,
}

/// That nothing is to run here.
#[derive(Debug)]
struct Drained {
    /// Who asked for it.
    by: String,
    /// What somebody wants to run, and is started when it ends.
    wanted: BTreeSet<Key>,
}

#[derive(Debug)]
enum State {
    Starting,
    Running,
    /// `by` asked for it; `down` is since when all watchers are.
    Stopping {
        haste: Haste,
        code: i32,
        by: String,
        down: Option<Time>,
    },
    Left,
}

impl Node {
    /// An agent at its beginning: the first step starts what starts by itself. `random` draws lease owners and jitter.
    pub fn new(mut spec: AgentSpec, mut random: Random, now: Time) -> Node {
        let mut watchers = Watchers::default();
        // Those that are started in one step are started in this order.
        spec.watchers.sort_by(WatcherSpec::start_order);
        for watcher in std::mem::take(&mut spec.watchers) {
            watchers.add(Watcher::new(watcher, true, &spec.cluster, &spec.node, random.branch()));
        }
        let queue = watchers.keys().into_iter().filter(|key| watchers[*key].spec().autostart).collect();
        let sockets = std::mem::take(&mut spec.sockets);
        let mut node = Node {
            name: spec.node.clone(),
            formerly: Vec::new(),
            cluster: spec.cluster.clone(),
            clustered: spec.redis.is_some(),
            agent: spec,
            watchers,
            queue,
            next_start: now,
            order: Order::default(),
            sockets: Arc::default(),
            binding: None,
            deferred: VecDeque::new(),
            socket_amendments: BTreeMap::new(),
            leaving: BTreeSet::new(),
            phase: State::Starting,
            drained: None,
            store: StoreView::Unknown,
            servers: BTreeMap::new(),
            messages_dropped: 0,
            missed: Missed::default(),
            advised: Vec::new(),
            reminder: None,
            random,
            last_id: 0,
            waits: Vec::new(),
            errands: BTreeMap::new(),
            readings: BTreeMap::new(),
            amendments: BTreeMap::new(),
            stats_calls: BTreeMap::new(),
            frames: Frames::default(),
            askers: BTreeMap::new(),
            now,
        };
        node.open_first(sockets);
        node.learn_order();
        node
    }

    /// Takes in what happened and orders what follows. Total: an event that is late, doubled or about nothing
    /// changes nothing. Time does not go back: an earlier `now` counts as the latest known.
    pub fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        // Deadlines that passed while nobody looked come before what was heard late.
        if self.next_wakeup().is_some_and(|due| due <= self.now) {
            self.advance(actions);
        }
        self.handle(event, actions);
        self.advance(actions);
    }

    /// When to come back at the latest, or never by itself.
    pub fn next_wakeup(&self) -> Option<Time> {
        let errands = self.errands.values().filter_map(Errand::deadline);
        let phase = match &self.phase {
            State::Starting | State::Running if self.drained.is_none() => None,
            State::Stopping { down: Some(since), .. } => Some(*since + LAST_ANSWERS),
            State::Starting | State::Running | State::Stopping { down: None, .. } => {
                // Some may have waited long enough for the store while others are still being stopped.
                let released =
                    self.watchers.iter().filter_map(Watcher::releasing_since).map(|since| since + LAST_RELEASE);
                released.filter(|due| *due > self.now).min()
            }
            State::Left => return None,
        };
        // After the last one too: then all have had their turn.
        let starting = !self.queue.is_empty() || matches!(self.phase, State::Starting);
        let start = (starting && !self.is_opening_first()).then_some(self.next_start);
        let frames = self.frames.next_wakeup(self.now);
        let looks = self.waits.iter().filter_map(Wait::deadline);
        errands
            .chain(phase)
            .chain(start)
            .chain(frames)
            .chain(looks)
            .chain(self.reminder)
            .chain(self.watchers.next_wakeup())
            .min()
    }

    /// What it is called.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// What is wanted of each watcher, in start order.
    pub fn specs(&self) -> impl Iterator<Item = &WatcherSpec> {
        self.watchers.iter().map(Watcher::spec)
    }

    /// What others may see.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            node: self.name.clone(),
            cluster: self.cluster.clone(),
            phase: match self.phase {
                State::Starting | State::Running if self.drained.is_some() => {
                    if self.is_all_down() {
                        Phase::Drained
                    } else {
                        Phase::Draining
                    }
                }
                State::Starting => Phase::Starting,
                State::Running => Phase::Running,
                State::Stopping { .. } | State::Left => Phase::Stopping,
            },
            config: self.agent.hash.clone(),
            store: self.store.clone(),
            missed: self.missed.clone(),
            messages_dropped: self.messages_dropped,
            watchers: self.watchers.iter().map(|watcher| watcher.view(self.now)).collect(),
        }
    }

    /// What the node says of itself, over what is said for it: the program, the machine.
    pub fn about(&self, rest: NodeAbout) -> NodeAbout {
        let (mut holds, mut waits) = (Vec::new(), Vec::new());
        for watcher in self.watchers.iter() {
            let name = || watcher.spec().name.to_string();
            match watcher.lease().map(Lease::role) {
                Some(LeaseRole::Holder) => holds.push(name()),
                Some(LeaseRole::Standby) => waits.push(name()),
                // It asks for it only when it is the next, and would have it all the same.
                Some(LeaseRole::Aside) if watcher.stands_for_election() => waits.push(name()),
                Some(LeaseRole::Losing | LeaseRole::Aside) | None => {}
            }
        }
        NodeAbout {
            config: self.agent.hash.clone(),
            formerly: self.formerly.clone(),
            labels: self.agent.labels.clone(),
            watchers: self.specs().map(|spec| spec.name.to_string()).collect(),
            holds,
            waits,
            well: count(self.watchers.iter().filter(|watcher| self.is_well(watcher)).count()),
            processes: count(self.watchers.iter().map(|watcher| watcher.pids().len()).sum()),
            most: self.specs().filter_map(|spec| Some((spec.name.to_string(), spec.max_per_node?))).collect(),
            wanted: self.watchers.iter().filter_map(wanted_here).collect(),
            ..rest
        }
    }

    fn is_well(&self, watcher: &Watcher) -> bool {
        use WatcherState::{Active, Listening, Scheduled, Standby};
        matches!(watcher.state(self.now), Active | Listening | Scheduled | Standby)
    }

    /// Whether nothing runs here, and no lease is kept from others.
    fn is_all_down(&self) -> bool {
        self.watchers.iter().all(|watcher| is_settled_down(watcher, self.now))
    }

    /// Stops all in order, and keeps it so.
    fn drain(&mut self, by: String, actions: &mut Vec<Action>) {
        if self.drained.is_none() {
            log(actions, Level::Info, format!("drained by {by}: stopping all watchers, and starting none"));
            let keys = self.watchers.keys().into_iter();
            let wanted = keys.filter(|key| !self.watchers[*key].is_at_rest()).chain(self.queue.drain(..)).collect();
            self.drained = Some(Drained { by, wanted });
        }
    }

    /// Starts what was stopped for it, in order: the watchers that are on their way.
    fn undrain(&mut self, by: &str, actions: &mut Vec<Action>) -> Vec<Key> {
        let Some(Drained { wanted, .. }) = self.drained.take() else { return Vec::new() };
        log(actions, Level::Info, format!("no longer drained, as {by} asked: starting what was stopped for it"));
        let staying = self.watchers.keys().into_iter().filter(|key| !self.leaving.contains(key));
        let keys: Vec<Key> = staying.filter(|key| wanted.contains(key)).collect();
        self.queue.extend(&keys);
        self.next_start = self.now;
        keys
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase, State::Stopping { .. } | State::Left)
    }

    fn handle(&mut self, event: Event, actions: &mut Vec<Action>) {
        let now = self.now;
        match event {
            Event::Woke => {}
            Event::Process(id, event) => {
                self.watchers.process_changed(now, id, event, actions);
            }
            Event::Lease { watcher, ask, answer } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.lease_answered(now, &ask, answer, actions);
                }
            }
            Event::LeaseFreed { watcher } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.lease_freed(now);
                }
                self.look_for_holder(&watcher);
            }
            Event::PauseChanged { watcher } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.pause_changed(now);
                }
            }
            Event::Mustered { watcher, sent, result } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.mustered(now, sent, result);
                }
            }
            Event::MembersChanged { watcher } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.members_changed(now);
                }
            }
            Event::StoreUp => {
                if matches!(self.store, StoreView::Down { .. }) {
                    log(actions, Level::Info, format!("{}: reached again", self.store_name()));
                }
                self.store = StoreView::Up;
                self.reminder = None;
                // Who waited out an error need not wait any longer.
                for key in self.watchers.keys() {
                    let watcher = self.watchers.stir(key);
                    watcher.lease_freed(now);
                    watcher.members_changed(now);
                }
            }
            Event::StoreDown { reason } => {
                self.store = StoreView::Down { reason: format!("{}: {reason}", self.store_name()) };
                self.remind(actions);
            }
            Event::StoreSeen { server, facts } => {
                match facts {
                    Some(facts) => drop(self.servers.insert(server, facts)),
                    None => drop(self.servers.remove(&server)),
                }
                self.advise(actions);
            }
            Event::StoreMissed(missed) => {
                for server in self.missed.servers.keys().filter(|server| !missed.servers.contains_key(*server)) {
                    log(actions, Level::Info, format!("{}: {server} is reached again", self.store_name()));
                }
                self.missed = missed;
                self.advise(actions);
            }
            Event::MessagesDropped(count) => self.messages_dropped = self.messages_dropped.max(count),
            Event::NameTaken { by } => {
                let text = format!("the name {} is in use by {by}; give this node another (node = …)", self.name);
                log(actions, Level::Error, text);
                self.end(Haste::Graceful, exit::NAME_TAKEN, "another agent with its name");
            }
            Event::Asked { request, by, target, command, limit } => {
                self.askers.insert(request, by);
                self.asked(request, target, command, limit, actions);
            }
            Event::Renamed { request, to, file } => self.renamed(request, to, file, actions),
            Event::RosterRead { request, rows } => self.roster_read(request, rows, actions),
            Event::Replied { request, node, text } => self.part(request, &node, Part::Relayed(text), actions),
            Event::Unreachable { request, node, reason } => self.part(request, &node, Part::Silent(reason), actions),
            Event::LeaseInitialised { request, result } => {
                let reply = match result {
                    Ok(()) => Reply::Done(Answer::Ok),
                    Err(why) => Reply::Refused(Refusal::Failed(why)),
                };
                self.reply(request, reply, actions);
            }
            Event::LeaseChecked { request, result } => self.lease_checked(request, result, actions),
            Event::LeasePaused { request, result } => self.lease_paused(request, result, actions),
            Event::DrillWatched { request, result } => self.drill_watched(request, result, actions),
            Event::HistoryRead { request, read } => self.history_read(request, read, actions),
            Event::Sampled { request, samples } => self.sampled(request, samples, actions),
            Event::Watched { by, begun } => self.watched(by, begun),
            Event::OutputWatched { by, names } => self.output_watched(by, names, actions),
            Event::Measured(measures) => self.measured(*measures, actions),
            Event::HookEnded { hook, end } => {
                if !self.watchers.hook_ended(self.now, hook, &end, actions) {
                    self.stats_hook_ended(hook, &end, actions);
                }
            }
            Event::SpecRead { request, spec } => self.spec_read(request, spec, actions),
            Event::Amended { request, spec } => self.amended(request, spec, actions),
            Event::SocketAmended { request, spec } => self.socket_amended(request, spec, actions),
            Event::Bound { bind, result } => self.bound(bind, result, actions),
            Event::Demanded { watcher } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.demanded(actions);
                }
            }
            Event::Counted { watcher, busy } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.counted(now, busy, actions);
                }
            }
            Event::CalendarRead { watcher, calendar } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.calendar_read(now, calendar, actions);
                }
            }
            Event::SlotClaimed { watcher, claim, answer } => {
                if let Some(watcher) = self.watchers.stir_named(&watcher) {
                    watcher.slot_claimed(now, claim, answer, actions);
                }
            }
            Event::ReloadAsked { by } => {
                log(actions, Level::Info, format!("{by}: reading the configuration again"));
                actions.push(Action::ReadSpec { request: None });
            }
            Event::StopAsked { by } => {
                let again = matches!(self.phase, State::Stopping { .. });
                let haste = if again { Haste::Fast } else { Haste::Graceful };
                let how = if haste == Haste::Fast { "killing" } else { "stopping" };
                log(actions, Level::Info, format!("{by}: {how} all watchers"));
                self.end(haste, exit::OK, &by);
            }
        }
    }

    /// Begins to end, or hurries an end that has begun. A reason to fail outlasts a later request to stop.
    fn end(&mut self, haste: Haste, code: i32, by: &str) {
        match &mut self.phase {
            State::Left => {}
            State::Stopping { haste: old, code: first, .. } => {
                if haste == Haste::Fast {
                    *old = Haste::Fast;
                }
                *first = (*first).max(code);
            }
            State::Starting | State::Running => {
                self.queue.clear();
                self.phase = State::Stopping { haste, code, by: by.to_owned(), down: None };
                self.watchers.keys().into_iter().for_each(|key| self.watchers.stir(key).retire());
            }
        }
    }

    /// Who asked this, as long as it is not answered.
    fn asker(&self, request: RequestId) -> Option<String> {
        self.askers.get(&request).cloned()
    }

    /// Where leases are kept, in a word.
    fn store_name(&self) -> &'static str {
        if self.clustered { "Redis" } else { "lease files" }
    }

    /// Tells the log of what is new in the advice.
    fn advise(&mut self, actions: &mut Vec<Action>) {
        let advice = self.advice();
        for text in advice.iter().filter(|text| !self.advised.contains(text)) {
            log(actions, Level::Warn, text.clone());
        }
        self.advised = advice;
    }

    /// What whoever keeps leases in these servers should know.
    fn advice(&self) -> Vec<String> {
        let leases = self.watchers.iter().filter_map(|watcher| watcher.spec().singleton.as_ref());
        let acks = self.agent.redis.as_ref().map_or(0, |redis| redis.require_replica_ack);
        let advice = store::advice(&self.servers, leases.map(|lease| lease.ttl).min(), acks);
        self.missed.advice().into_iter().chain(advice).collect()
    }

    /// And at which address, without what may be a password.
    fn store_place(&self) -> String {
        match &self.agent.redis {
            Some(redis) if self.missed.servers.is_empty() => format!("Redis at {}", redis.place()),
            Some(redis) => {
                let missed: Vec<&str> = self.missed.servers.keys().map(String::as_str).collect();
                format!("Redis at {}, without {}", redis.place(), missed.join(", "))
            }
            None => "lease files on this machine".to_owned(),
        }
    }

    fn remind(&mut self, actions: &mut Vec<Action>) {
        let StoreView::Down { reason } = &self.store else { return };
        let singletons = self.watchers.iter().filter(|watcher| watcher.lease().is_some()).count();
        let waiting = match singletons {
            0 => String::new(),
            1 => "; 1 singleton waits for it".into(),
            n => format!("; {n} singletons wait for it"),
        };
        log(actions, Level::Warn, format!("{reason}{waiting}; everything else runs on"));
        self.reminder = Some(self.now + REMINDER);
    }

    /// Does all that has come due, and lets every watcher settle.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        if self.reminder.is_some_and(|due| due <= now) {
            self.remind(actions);
        }
        self.order_opening(actions);
        self.start_queued();
        self.settle(actions);
        self.remove_those_down(actions);
        self.expire_errands(actions);
        self.look_for_holders(actions);
        self.answer_settled(actions);
        self.serve_onlookers(actions);
        self.watchers.forget_touched();
        self.leave_when_down(actions);
    }

    /// Lets the watchers settle, and those whose turn it is then.
    fn settle(&mut self, actions: &mut Vec<Action>) {
        self.stop_next(actions);
        self.pass_yields_on(actions);
        loop {
            self.watchers.consult(self.now, actions);
            self.open_gates();
            self.watchers.settle(self.now, &mut self.last_id, actions);
            if !(self.stop_next(actions) | self.open_gates()) {
                break;
            }
        }
    }

    /// Starts the next watchers that are to start, in order and with the pauses between them.
    fn start_queued(&mut self) {
        let now = self.now;
        if self.is_opening_first() {
            return;
        }
        while self.next_start <= now {
            let Some(key) = self.queue.pop_front() else {
                if let State::Starting = self.phase {
                    self.phase = State::Running;
                }
                return;
            };
            let watcher = self.watchers.stir(key);
            watcher.start(now);
            self.next_start = now + self.agent.warmup_delay + watcher.spec().warmup_delay * watcher.numprocesses();
        }
    }

    /// Forgets the removed ones of which nothing is left.
    fn remove_those_down(&mut self, actions: &mut Vec<Action>) {
        for key in self.leaving.clone() {
            if self.watchers.get(key).is_some_and(|watcher| watcher.is_down() && watcher.has_bidden_farewell()) {
                self.remove(key, actions);
            }
        }
    }

    fn leave_when_down(&mut self, actions: &mut Vec<Action>) {
        let State::Stopping { code, down, .. } = &mut self.phase else { return };
        let now = self.now;
        if !self.watchers.iter().all(|watcher| is_settled_down(watcher, now) && watcher.has_bidden_farewell()) {
            return;
        }
        let (code, since) = (*code, *down.get_or_insert(now));
        // Who asked all nodes to quit wants to hear of each, and this one may be the first that is done.
        if now < since + LAST_ANSWERS && self.errands.values().any(Errand::awaits_others) {
            return;
        }
        self.phase = State::Left;
        self.dismiss(actions);
        let text = match self.watchers.iter().any(|watcher| watcher.releasing_since().is_some()) {
            false => "all watchers are stopped; leaving".to_owned(),
            true => format!(
                "all watchers are stopped; {} did not answer the last question: a lease that was left ends by itself",
                self.store_name()
            ),
        };
        log(actions, Level::Info, text);
        actions.push(Action::Leave { code });
    }
}

/// How many processes of a watcher are wanted here; nothing where it is stopped.
fn wanted_here(watcher: &Watcher) -> Option<(String, u32)> {
    let wanted = match watcher.lease() {
        Some(lease) => u32::from(lease.role() == LeaseRole::Holder),
        None if watcher.is_led_away() => 0,
        None => watcher.numprocesses(),
    };
    (!watcher.is_at_rest()).then(|| (watcher.spec().name.to_string(), wanted))
}

fn log(actions: &mut Vec<Action>, level: Level, text: String) {
    actions.push(Action::Log { level, text });
}

/// Whether nothing of a watcher runs and its lease is given back, as far as an ending agent waits for that.
fn is_settled_down(watcher: &Watcher, now: Time) -> bool {
    let waited_enough = watcher.releasing_since().is_some_and(|since| since + LAST_RELEASE <= now);
    watcher.is_at_rest() && (watcher.is_down() || waited_enough)
}
