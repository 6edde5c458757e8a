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
//! Stopping goes through the priorities from the lowest up, each when the one before is down.

mod commands;
mod relay;
mod watchers;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::commands::Wait;
use self::relay::Errand;
use self::watchers::Watchers;
use super::command::{Answer, Part, Refusal, Reply, RequestId};
use super::event::{Action, Event, Haste, Level};
use super::names::{ClusterName, NodeName};
use super::random::Random;
use super::snapshot::{Phase, Snapshot, StoreView};
use super::spec::AgentSpec;
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
}

/// One agent.
#[derive(Debug)]
pub struct Node {
    name: NodeName,
    cluster: ClusterName,
    clustered: bool,
    warmup: Duration,
    watchers: Watchers,
    phase: State,
    store: StoreView,
    reminder: Option<Time>,
    last_id: u64,
    waits: Vec<Wait>,
    errands: BTreeMap<RequestId, Errand>,
    now: Time,
}

#[derive(Debug)]
enum State {
    Starting {
        queue: VecDeque<usize>,
        next: Time,
    },
    Running,
    /// `down` is since when all watchers are.
    Stopping {
        haste: Haste,
        code: i32,
        down: Option<Time>,
    },
    Left,
}

impl Node {
    /// An agent at its beginning: the first step starts what starts by itself. `random` draws lease owners and jitter.
    pub fn new(spec: AgentSpec, mut random: Random, now: Time) -> Node {
        let AgentSpec { node: name, cluster, redis, warmup_delay, watchers, .. } = spec;
        let watchers: Vec<Watcher> =
            watchers.into_iter().map(|spec| Watcher::new(spec, &cluster, &name, random.branch())).collect();
        let queue = (0..watchers.len()).filter(|i| watchers[*i].spec().autostart).collect();
        Node {
            name,
            cluster,
            clustered: redis.is_some(),
            warmup: warmup_delay,
            watchers: Watchers::new(watchers),
            phase: State::Starting { queue, next: now },
            store: StoreView::Unknown,
            reminder: None,
            last_id: 0,
            waits: Vec::new(),
            errands: BTreeMap::new(),
            now,
        }
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
            State::Starting { next, .. } => Some(*next),
            State::Stopping { down: Some(since), .. } => Some(*since + LAST_ANSWERS),
            State::Stopping { down: None, .. } => {
                self.watchers.iter().filter_map(Watcher::releasing_since).map(|since| since + LAST_RELEASE).min()
            }
            State::Running => None,
            State::Left => return None,
        };
        errands.chain(phase).chain(self.reminder).chain(self.watchers.next_wakeup()).min()
    }

    /// What others may see.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            node: self.name.clone(),
            cluster: self.cluster.clone(),
            phase: match self.phase {
                State::Starting { .. } => Phase::Starting,
                State::Running => Phase::Running,
                State::Stopping { .. } | State::Left => Phase::Stopping,
            },
            store: self.store.clone(),
            watchers: self.watchers.iter().map(|watcher| watcher.view(self.now)).collect(),
        }
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
            }
            Event::StoreUp => {
                if matches!(self.store, StoreView::Down { .. }) {
                    log(actions, Level::Info, format!("{}: reached again", self.store_name()));
                }
                self.store = StoreView::Up;
                self.reminder = None;
                // Who waited out an error need not wait any longer.
                (0..self.watchers.len()).for_each(|index| self.watchers.stir(index).lease_freed(now));
            }
            Event::StoreDown { reason } => {
                self.store = StoreView::Down { reason: format!("{}: {reason}", self.store_name()) };
                self.remind(actions);
            }
            Event::NameTaken { by } => {
                let text = format!("the name {} is in use by {by}; give this node another (node = …)", self.name);
                log(actions, Level::Error, text);
                self.end(Haste::Graceful, exit::NAME_TAKEN);
            }
            Event::Asked { request, target, command, limit } => {
                self.asked(request, target, command, limit, actions);
            }
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
            Event::Sampled { request, samples } => self.sampled(request, samples, actions),
            Event::HookEnded { .. } | Event::SpecRead { .. } | Event::Amended { .. } | Event::ReloadAsked { .. } => {}
            Event::StopAsked { haste, by } => {
                let hurry = matches!(self.phase, State::Stopping { .. });
                let haste = if hurry { Haste::Fast } else { haste };
                let how = if haste == Haste::Fast { "killing" } else { "stopping" };
                log(actions, Level::Info, format!("{by}: {how} all watchers"));
                self.end(haste, exit::OK);
            }
        }
    }

    /// Begins to end, or hurries an end that has begun. A reason to fail outlasts a later request to stop.
    fn end(&mut self, haste: Haste, code: i32) {
        match &mut self.phase {
            State::Left => {}
            State::Stopping { haste: old, code: first, .. } => {
                if haste == Haste::Fast {
                    *old = Haste::Fast;
                }
                *first = (*first).max(code);
            }
            State::Starting { .. } | State::Running => self.phase = State::Stopping { haste, code, down: None },
        }
    }

    /// Where leases are kept, in a word.
    fn store_name(&self) -> &'static str {
        if self.clustered { "Redis" } else { "lease files" }
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
        self.start_queued();
        self.stop_next(actions);
        self.watchers.settle(now, &mut self.last_id, actions);
        self.expire_errands(actions);
        self.answer_settled(actions);
        self.leave_when_down(actions);
    }

    /// Starts the next watchers of the start-up, in order and with the pauses between them.
    fn start_queued(&mut self) {
        let now = self.now;
        let State::Starting { queue, next } = &mut self.phase else { return };
        while *next <= now {
            let Some(index) = queue.pop_front() else {
                self.phase = State::Running;
                return;
            };
            let watcher = self.watchers.stir(index);
            watcher.start(now);
            *next = now + self.warmup + watcher.spec().warmup_delay * watcher.numprocesses();
        }
    }

    /// Of an ending agent: stops the lowest priority that is not down yet.
    fn stop_next(&mut self, actions: &mut Vec<Action>) {
        let State::Stopping { haste, .. } = self.phase else { return };
        let now = self.now;
        let up = self.watchers.iter().filter(|watcher| !is_settled_down(watcher, now));
        let Some(lowest) = up.map(|watcher| watcher.spec().priority).min() else { return };
        for index in 0..self.watchers.len() {
            let watcher = &self.watchers[index];
            // What has not started never will; the rest waits for its turn, unless there is haste.
            let turn = watcher.spec().priority <= lowest || watcher.ids().is_empty() || haste == Haste::Fast;
            if turn && !watcher.is_at_rest() {
                self.watchers.stir(index).stop();
            }
            if haste == Haste::Fast && !self.watchers[index].ids().is_empty() {
                self.watchers.stir(index).kill(now, actions);
            }
        }
    }

    fn leave_when_down(&mut self, actions: &mut Vec<Action>) {
        let State::Stopping { code, down, .. } = &mut self.phase else { return };
        let now = self.now;
        if !self.watchers.iter().all(|watcher| is_settled_down(watcher, now)) {
            return;
        }
        let (code, since) = (*code, *down.get_or_insert(now));
        // Who asked all nodes to quit wants to hear of each, and this one may be the first that is done.
        if now < since + LAST_ANSWERS && self.errands.values().any(|errand| errand.awaits_others_than(&self.name)) {
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

fn log(actions: &mut Vec<Action>, level: Level, text: String) {
    actions.push(Action::Log { level, text });
}

/// Whether nothing of a watcher runs and its lease is given back, as far as an ending agent waits for that.
fn is_settled_down(watcher: &Watcher, now: Time) -> bool {
    let waited_enough = watcher.releasing_since().is_some_and(|since| since + LAST_RELEASE <= now);
    watcher.is_at_rest() && (watcher.is_down() || waited_enough)
}
