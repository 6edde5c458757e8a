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

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::command::{Answer, Command, NodeRow, NodeState, Outcome, Part, Patience, Refusal, Reply, RequestId, Target};
use super::event::{Action, Event, Haste, Level, ProcessId};
use super::gather::Gather;
use super::lease::Hold;
use super::names::{ClusterName, NodeName, WatcherName};
use super::random::Random;
use super::snapshot::{Phase, Snapshot, StoreView, WatcherState};
use super::spec::AgentSpec;
use super::time::Time;
use super::watcher::Watcher;

/// How long another node has to answer a command that is answered at once.
pub const RELAY_TIMEOUT: Duration = Duration::from_secs(5);
/// And one whose answer comes when it is done.
pub const RELAY_PATIENCE: Duration = Duration::from_secs(60);
/// And at most, whatever the asker says: every wait has an end.
const LONGEST_PATIENCE: Duration = Duration::from_secs(86_400);
/// How long an ending agent waits for the store to hear of its releases.
const LAST_RELEASE: Duration = Duration::from_secs(1);
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
    watchers: Vec<Watcher>,
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
    Starting { queue: VecDeque<usize>, next: Time },
    Running,
    Stopping { haste: Haste, code: i32 },
    Left,
}

/// A request that is answered when its watchers settle.
#[derive(Debug)]
struct Wait {
    request: RequestId,
    watchers: Vec<WatcherName>,
    goal: Goal,
}

#[derive(Debug)]
enum Goal {
    Up { before: Vec<ProcessId>, pids: Vec<u32>, replace: bool },
    Down,
    Resized,
    Moved { to: Option<NodeName>, token: u64 },
    Sampled { pid: Option<u32> },
    Left,
}

/// A request that needs other nodes.
#[derive(Debug)]
enum Errand {
    /// The registry is being read for the nodes it is for.
    Find { target: Target, command: Command, patience: Duration },
    /// The registry is being read for the command itself.
    Roster { command: Command },
    /// The nodes' answers are being gathered.
    Gather { parts: Gather<Part>, missing: Option<String>, deadline: Time, patience: Duration },
    /// Another node's answer is passed on.
    Pass { to: NodeName, deadline: Time },
}

/// The nodes that a command is for.
struct Addressees {
    nodes: Vec<NodeName>,
    /// Why there may be more of them.
    missing: Option<String>,
}

impl From<Vec<NodeName>> for Addressees {
    fn from(nodes: Vec<NodeName>) -> Addressees {
        Addressees { nodes, missing: None }
    }
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
            watchers,
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
        let watchers = self.watchers.iter().filter_map(|watcher| watcher.next_wakeup(self.now));
        let errands = self.errands.values().filter_map(|errand| match errand {
            Errand::Gather { deadline, .. } | Errand::Pass { deadline, .. } => Some(*deadline),
            Errand::Find { .. } | Errand::Roster { .. } => None,
        });
        let phase = match &self.phase {
            State::Starting { next, .. } => Some(*next),
            State::Stopping { .. } => {
                self.watchers.iter().filter_map(Watcher::releasing_since).map(|since| since + LAST_RELEASE).min()
            }
            State::Running => None,
            State::Left => return None,
        };
        watchers.chain(errands).chain(phase).chain(self.reminder).min()
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
                for watcher in &mut self.watchers {
                    watcher.process_changed(now, id, event.clone(), actions);
                }
            }
            Event::Lease { watcher, ask, answer } => {
                if let Some(watcher) = self.watcher(&watcher) {
                    watcher.lease_answered(now, &ask, answer, actions);
                }
            }
            Event::LeaseFreed { watcher } => {
                if let Some(watcher) = self.watcher(&watcher) {
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
                self.watchers.iter_mut().for_each(|watcher| watcher.lease_freed(now));
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
            Event::Sampled { request, samples } => {
                let sampling = |wait: &Wait| wait.request == request && matches!(wait.goal, Goal::Sampled { .. });
                if let Some(index) = self.waits.iter().position(sampling)
                    && let Wait { mut watchers, goal: Goal::Sampled { pid }, .. } = self.waits.remove(index)
                {
                    let answer = Answer::Stats { watcher: watchers.pop(), pid, samples };
                    self.reply(request, Reply::Done(answer), actions);
                }
            }
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
            State::Stopping { haste: old, code: first } => {
                if haste == Haste::Fast {
                    *old = Haste::Fast;
                }
                *first = (*first).max(code);
            }
            State::Starting { .. } | State::Running => self.phase = State::Stopping { haste, code },
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
        for watcher in &mut self.watchers {
            watcher.settle(now, &mut self.last_id, actions);
        }
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
            let watcher = &mut self.watchers[index];
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
        for watcher in &mut self.watchers {
            // What has not started never will; the rest waits for its turn, unless there is haste.
            if watcher.spec().priority <= lowest || watcher.pids().is_empty() || haste == Haste::Fast {
                watcher.stop();
            }
            if haste == Haste::Fast {
                watcher.kill(now, actions);
            }
        }
    }

    fn leave_when_down(&mut self, actions: &mut Vec<Action>) {
        let State::Stopping { code, .. } = self.phase else { return };
        let now = self.now;
        if !self.watchers.iter().all(|watcher| is_settled_down(watcher, now)) {
            return;
        }
        self.phase = State::Left;
        for wait in std::mem::take(&mut self.waits) {
            let reply = match wait.goal {
                Goal::Left | Goal::Down => Reply::Done(Answer::Ok),
                Goal::Up { .. } | Goal::Resized | Goal::Moved { .. } | Goal::Sampled { .. } => {
                    Reply::Refused(Refusal::Stopping)
                }
            };
            self.reply(wait.request, reply, actions);
        }
        for request in self.errands.keys().copied().collect::<Vec<_>>() {
            self.abandon(request, "the agent that gathered the answers ended", actions);
        }
        let unconfirmed = self.watchers.iter().filter(|watcher| watcher.releasing_since().is_some()).count();
        let text = match unconfirmed {
            0 => "all watchers are stopped; leaving".to_owned(),
            1 => "all watchers are stopped; a release was not confirmed, that lease ends by itself".into(),
            n => format!("all watchers are stopped; {n} releases were not confirmed, those leases end by themselves"),
        };
        log(actions, Level::Info, text);
        actions.push(Action::Leave { code });
    }

    // ---- commands ----

    fn asked(
        &mut self,
        request: RequestId,
        target: Target,
        command: Command,
        limit: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        let patience = limit.map_or_else(|| relay_patience(&command), |limit| limit.min(LONGEST_PATIENCE));
        match target {
            Target::Here => self.execute(request, command, actions),
            Target::Nodes(nodes) if !self.clustered => {
                let absent = |_: &NodeName| Some("this agent has no [redis] section".into());
                self.gather(request, nodes.into(), command, patience, absent, actions);
            }
            Target::All if !self.clustered => {
                self.gather(request, vec![self.name.clone()].into(), command, patience, |_| None, actions);
            }
            target @ (Target::Nodes(_) | Target::All) => {
                self.errands.insert(request, Errand::Find { target, command, patience });
                actions.push(Action::ReadRoster { request });
            }
        }
    }

    fn roster_read(&mut self, request: RequestId, rows: Result<Vec<NodeRow>, String>, actions: &mut Vec<Action>) {
        match self.errands.remove(&request) {
            Some(Errand::Find { target, command, patience }) => {
                self.send_out(request, target, command, patience, rows, actions);
            }
            Some(Errand::Roster { command }) => match (command, rows) {
                (_, Err(why)) => {
                    self.reply(request, Reply::Refused(Refusal::Unavailable(format!("Redis: {why}"))), actions);
                }
                (Command::Failover { watcher, to, patience }, Ok(rows)) => {
                    self.fail_over(request, &watcher, to, patience, Some(&rows), actions);
                }
                (_, Ok(rows)) => self.reply(request, Reply::Done(Answer::Nodes(rows)), actions),
            },
            Some(errand @ (Errand::Gather { .. } | Errand::Pass { .. })) => {
                self.errands.insert(request, errand);
            }
            None => {}
        }
    }

    /// Sends a command to the nodes it is for, which the registry names.
    fn send_out(
        &mut self,
        request: RequestId,
        target: Target,
        command: Command,
        patience: Duration,
        rows: Result<Vec<NodeRow>, String>,
        actions: &mut Vec<Action>,
    ) {
        let here = self.name.clone();
        match (target, rows) {
            (Target::Nodes(nodes), Ok(rows)) => {
                let absent = |node: &NodeName| match rows.iter().find(|row| row.name == *node) {
                    _ if *node == here => None,
                    None => Some(format!("no node {node} is registered in this cluster")),
                    Some(row) if row.state == NodeState::Gone => Some(format!("{node} is gone")),
                    Some(_) => None,
                };
                self.gather(request, nodes.into(), command, patience, absent, actions);
            }
            (Target::All | Target::Here, Ok(rows)) => {
                let live = rows.into_iter().filter(|row| row.state != NodeState::Gone).map(|row| row.name);
                self.gather(
                    request,
                    live.chain([here]).collect::<Vec<_>>().into(),
                    command,
                    patience,
                    |_| None,
                    actions,
                );
            }
            (Target::Nodes(nodes), Err(why)) => {
                let absent = |_: &NodeName| Some(format!("Redis: {why}"));
                self.gather(request, nodes.into(), command, patience, absent, actions);
            }
            (Target::All | Target::Here, Err(why)) => {
                let asked = Addressees { nodes: vec![here], missing: Some(format!("Redis: {why}")) };
                self.gather(request, asked, command, patience, |_| None, actions);
            }
        }
    }

    /// Asks some nodes, this one included where it is among them; `absent` says of one why asking is in vain.
    fn gather(
        &mut self,
        request: RequestId,
        Addressees { nodes, missing }: Addressees,
        command: Command,
        patience: Duration,
        absent: impl Fn(&NodeName) -> Option<String>,
        actions: &mut Vec<Action>,
    ) {
        let mut parts = Gather::new(nodes);
        let mut here = false;
        let asked: Vec<NodeName> = parts.silent().cloned().collect();
        for node in asked {
            if node == self.name {
                here = true;
            } else if let Some(why) = absent(&node) {
                parts.answer(&node, Part::Silent(why));
            } else {
                actions.push(Action::Relay { request, to: node, command: command.clone() });
            }
        }
        self.errands.insert(request, Errand::Gather { parts, missing, deadline: self.now + patience, patience });
        if here {
            self.execute(request, command, actions);
        }
        self.finish_gather(request, actions);
    }

    /// Takes in one node's part of an answer.
    fn part(&mut self, request: RequestId, node: &NodeName, part: Part, actions: &mut Vec<Action>) {
        match self.errands.get_mut(&request) {
            Some(Errand::Gather { parts, .. }) => {
                parts.answer(node, part);
                self.finish_gather(request, actions);
            }
            Some(Errand::Pass { to, .. }) if to == node => {
                self.errands.remove(&request);
                let outcome = match part {
                    Part::Relayed(text) => Outcome::Relayed(text),
                    Part::Own(reply) => Outcome::Own(reply),
                    Part::Silent(why) => Outcome::Own(Reply::Refused(Refusal::Unavailable(why))),
                };
                self.deliver(request, outcome, actions);
            }
            Some(Errand::Pass { .. } | Errand::Find { .. } | Errand::Roster { .. }) | None => {}
        }
    }

    fn finish_gather(&mut self, request: RequestId, actions: &mut Vec<Action>) {
        if let Some(Errand::Gather { parts, .. }) = self.errands.get(&request)
            && parts.is_complete()
        {
            self.abandon(request, "", actions);
        }
    }

    /// Ends an errand with what there is; `why` stands for what is missing.
    fn abandon(&mut self, request: RequestId, why: &str, actions: &mut Vec<Action>) {
        let outcome = match self.errands.remove(&request) {
            Some(Errand::Gather { parts, missing, .. }) => {
                let parts = parts.finish(why).into_iter();
                let parts = parts.map(|(node, part)| (node, part.unwrap_or_else(Part::Silent))).collect();
                Outcome::Gathered { parts, missing }
            }
            Some(Errand::Find { .. } | Errand::Roster { .. } | Errand::Pass { .. }) => {
                Outcome::Own(Reply::Refused(Refusal::Unavailable(why.to_owned())))
            }
            None => return,
        };
        self.deliver(request, outcome, actions);
    }

    fn expire_errands(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        let expired: Vec<_> = self
            .errands
            .iter()
            .filter_map(|(request, errand)| match errand {
                Errand::Gather { deadline, patience, .. } if *deadline <= now => {
                    Some((*request, format!("no answer within {} s", patience.as_secs_f64())))
                }
                Errand::Pass { to, deadline } if *deadline <= now => {
                    Some((*request, format!("{to}, which holds the lease, did not answer")))
                }
                _ => None,
            })
            .collect();
        for (request, why) in expired {
            // What was begun here for a request that ends without it has nobody to report to.
            self.waits.retain(|wait| wait.request != request);
            self.abandon(request, &why, actions);
        }
    }

    /// Answers a request for this node, or this node's part of one for several.
    fn reply(&mut self, request: RequestId, reply: Reply, actions: &mut Vec<Action>) {
        match self.errands.get(&request) {
            Some(Errand::Gather { .. }) => {
                let here = self.name.clone();
                self.part(request, &here, Part::Own(reply), actions);
            }
            _ => {
                self.errands.remove(&request);
                self.deliver(request, Outcome::Own(reply), actions);
            }
        }
    }

    fn deliver(&self, request: RequestId, outcome: Outcome, actions: &mut Vec<Action>) {
        actions.push(Action::Reply { request, outcome });
    }

    /// Carries a command out here.
    fn execute(&mut self, request: RequestId, command: Command, actions: &mut Vec<Action>) {
        if let Some(reply) =
            self.admit(request, command, actions).unwrap_or_else(|refusal| Some(Reply::Refused(refusal)))
        {
            self.reply(request, reply, actions);
        }
    }

    /// The reply, or nothing where it comes later.
    fn admit(
        &mut self,
        request: RequestId,
        command: Command,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Refusal> {
        let now = self.now;
        let stopping = matches!(self.phase, State::Stopping { .. } | State::Left);
        let answer = match command {
            Command::List { watcher: None } => {
                let mut names: Vec<_> = self.watchers.iter().map(|watcher| watcher.spec().name.clone()).collect();
                names.sort();
                Answer::Watchers(names)
            }
            Command::List { watcher: Some(name) } => {
                let watcher = self.find(&name)?;
                let mut pids: Vec<_> = self.watchers[watcher].pids().into_iter().map(|(_, pid)| pid).collect();
                pids.sort_unstable();
                Answer::Pids(pids)
            }
            Command::Status { watcher: None } => Answer::Status(Box::new(self.snapshot())),
            Command::Status { watcher: Some(name) } => {
                let index = self.find(&name)?;
                let watchers = vec![self.watchers[index].view(now)];
                Answer::WatcherStatus(Box::new(Snapshot { watchers, ..self.snapshot() }))
            }
            Command::NumWatchers => Answer::NumWatchers(self.watchers.len()),
            Command::NumProcesses { watcher: None } => {
                let count = self.watchers.iter().map(|watcher| watcher.pids().len()).sum();
                Answer::NumProcesses { watcher: None, count }
            }
            Command::NumProcesses { watcher: Some(name) } => {
                let watcher = &self.watchers[self.find(&name)?];
                Answer::NumProcesses { watcher: Some(watcher.spec().name.clone()), count: watcher.pids().len() }
            }
            Command::Stats { watcher, pid } => {
                let processes = self.processes_of(watcher.as_deref(), pid)?;
                actions.push(Action::Sample { request, processes });
                let named = watcher.and_then(|text| self.find(&text).ok()).into_iter().collect::<Vec<_>>();
                return Ok(self.wait_or(Patience::Settled, request, self.names(&named), Goal::Sampled { pid }));
            }
            Command::Options { watcher } => {
                let watcher = &self.watchers[self.find(&watcher)?];
                Answer::Options { spec: Box::new(watcher.spec().clone()), numprocesses: watcher.numprocesses() }
            }
            Command::Version => Answer::Version(env!("CARGO_PKG_VERSION")),
            Command::Leases => {
                Answer::Leases(self.watchers.iter().filter_map(|watcher| Some(watcher.lease()?.view(now))).collect())
            }
            Command::Nodes if !self.clustered => return Err(Refusal::NoCluster),
            command @ Command::Nodes => {
                self.ask_roster(request, command, actions);
                return Ok(None);
            }
            Command::Quit { patience } => {
                log(actions, Level::Info, "quit: stopping all watchers".into());
                self.end(Haste::Graceful, exit::OK);
                return Ok(self.wait_or(patience, request, vec![], Goal::Left));
            }
            Command::Start { .. }
            | Command::Restart { .. }
            | Command::Resize { .. }
            | Command::Failover { .. }
            | Command::LeaseInit { .. }
                if stopping =>
            {
                return Err(Refusal::Stopping);
            }
            Command::Start { pattern, patience } => {
                let goal = self.up_goal(pattern.as_deref(), false)?;
                let found = self.select(pattern.as_deref(), true)?;
                found.iter().for_each(|index| self.watchers[*index].start(now));
                return Ok(self.wait_or(patience, request, self.names(&found), goal));
            }
            Command::Stop { pattern, patience } => {
                let found = self.select(pattern.as_deref(), false)?;
                if let State::Starting { queue, .. } = &mut self.phase {
                    queue.retain(|index| !found.contains(index));
                }
                found.iter().for_each(|index| self.watchers[*index].stop());
                return Ok(self.wait_or(patience, request, self.names(&found), Goal::Down));
            }
            Command::Restart { pattern, patience } => {
                let goal = self.up_goal(pattern.as_deref(), true)?;
                let found = self.select(pattern.as_deref(), true)?;
                found.iter().for_each(|index| self.watchers[*index].restart(now, actions));
                return Ok(self.wait_or(patience, request, self.names(&found), goal));
            }
            Command::Resize { watcher, by, patience } => {
                let index = self.find(&watcher)?;
                let numprocesses = self.watchers[index].resize(by);
                let singleton = self.watchers[index].lease().is_some();
                if patience == Patience::Settled && !singleton {
                    return Ok(self.wait_or(patience, request, self.names(&[index]), Goal::Resized));
                }
                Answer::Resized { numprocesses, singleton }
            }
            Command::Failover { watcher, to, patience } => {
                return self.admit_failover(request, watcher, to, patience, actions).map(|()| None);
            }
            Command::LeaseInit { watcher } => {
                let index = self.find(&watcher)?;
                let name = self.watchers[index].spec().name.clone();
                if self.watchers[index].lease().is_none() {
                    return Err(Refusal::NotSingleton(name));
                }
                actions.push(Action::InitLease { request, watcher: name });
                return Ok(None);
            }
        };
        Ok(Some(Reply::Done(answer)))
    }

    fn ask_roster(&mut self, request: RequestId, command: Command, actions: &mut Vec<Action>) {
        // As one part of a gathered request the registry would answer for a request that is something else by now.
        if self.errands.contains_key(&request) {
            let refusal = Refusal::BadMessage("ask one node for this: each knows the same".into());
            self.reply(request, Reply::Refused(refusal), actions);
            return;
        }
        self.errands.insert(request, Errand::Roster { command });
        actions.push(Action::ReadRoster { request });
    }

    /// A failover is the holder's to do: passes it on to the node that is known to hold the lease.
    fn admit_failover(
        &mut self,
        request: RequestId,
        watcher: String,
        to: Option<NodeName>,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let index = self.find(&watcher)?;
        let name = self.watchers[index].spec().name.clone();
        let Some(lease) = self.watchers[index].lease() else { return Err(Refusal::NotSingleton(name)) };
        let here = matches!(lease.hold(self.now), Hold::Firm { .. });
        if !here {
            let holder = lease.holder().filter(|holder| *holder != self.name.as_str());
            let Some(node) = holder.as_deref().and_then(|holder| NodeName::parse(holder).ok()) else {
                return Err(Refusal::NotHolder { watcher: name, holder });
            };
            if !self.clustered || self.errands.contains_key(&request) {
                return Err(Refusal::NotHolder { watcher: name, holder });
            }
            let command = Command::Failover { watcher, to, patience };
            let deadline = self.now + relay_patience(&command);
            actions.push(Action::Relay { request, to: node.clone(), command });
            self.errands.insert(request, Errand::Pass { to: node, deadline });
        } else if to.as_ref() == Some(&self.name) {
            return Err(Refusal::NoCandidate(format!("{name} is on {} already", self.name)));
        } else if self.clustered {
            self.ask_roster(request, Command::Failover { watcher, to, patience }, actions);
        } else {
            self.fail_over(request, &watcher, to, patience, None, actions);
        }
        Ok(())
    }

    /// Moves a lease held here, once the registry says that somebody can take it.
    fn fail_over(
        &mut self,
        request: RequestId,
        watcher: &str,
        to: Option<NodeName>,
        patience: Patience,
        rows: Option<&[NodeRow]>,
        actions: &mut Vec<Action>,
    ) {
        let reply = match self.begin_move(watcher, to.clone(), rows) {
            Err(refusal) => Some(Reply::Refused(refusal)),
            Ok((name, token)) => {
                let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
                log(actions, Level::Info, format!("{name}: moving to {whom}, as asked"));
                let from = self.name.clone();
                match patience {
                    Patience::Admitted => Some(Reply::Done(Answer::Moved { from, to, token })),
                    Patience::Settled => self.wait_or(patience, request, vec![name], Goal::Moved { to, token }),
                }
            }
        };
        if let Some(reply) = reply {
            self.reply(request, reply, actions);
        }
    }

    fn begin_move(
        &mut self,
        watcher: &str,
        to: Option<NodeName>,
        rows: Option<&[NodeRow]>,
    ) -> Result<(WatcherName, u64), Refusal> {
        let now = self.now;
        let index = self.find(watcher)?;
        let name = self.watchers[index].spec().name.clone();
        let hold = self.watchers[index].lease().map(|lease| lease.hold(now));
        let Some(Hold::Firm { token, .. }) = hold else {
            return Err(Refusal::NotHolder { watcher: name, holder: None });
        };
        if let Some(rows) = rows {
            let waits = |row: &&NodeRow| row.about.waits.iter().any(|waiting| name.matches(waiting));
            let able: Vec<&NodeRow> = rows.iter().filter(|row| row.state == NodeState::Up).filter(waits).collect();
            let candidates = able.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ");
            let hint =
                if able.is_empty() { "no node waits for it".into() } else { format!("candidates: {candidates}") };
            match &to {
                Some(node) if !able.iter().any(|row| row.name == *node) => {
                    let why = match rows.iter().find(|row| row.name == *node) {
                        None => "no such node is registered".to_owned(),
                        Some(row) if row.state == NodeState::Up => "it does not wait for it".to_owned(),
                        Some(row) => format!("it is {} (last seen {} s ago)", row.state.word(), row.seen.as_secs()),
                    };
                    return Err(Refusal::NoCandidate(format!("{node} cannot take {name}: {why}; {hint}")));
                }
                None if able.is_empty() => {
                    return Err(Refusal::NoCandidate(format!("{name} stays: {hint}")));
                }
                Some(_) | None => {}
            }
        }
        self.watchers[index].part(to);
        Ok((name, token))
    }

    /// The reply where it is due now; else it is kept for when its watchers have settled.
    fn wait_or(
        &mut self,
        patience: Patience,
        request: RequestId,
        watchers: Vec<WatcherName>,
        goal: Goal,
    ) -> Option<Reply> {
        match patience {
            Patience::Admitted => Some(Reply::Done(Answer::Ok)),
            Patience::Settled => {
                self.waits.push(Wait { request, watchers, goal });
                None
            }
        }
    }

    /// What the processes are before they are started or replaced.
    fn up_goal(&self, pattern: Option<&str>, replace: bool) -> Result<Goal, Refusal> {
        let found = self.select(pattern, true)?;
        let before = found.iter().flat_map(|index| self.watchers[*index].ids()).collect();
        let pids = found.iter().flat_map(|index| self.watchers[*index].pids()).map(|(_, pid)| pid).collect();
        Ok(Goal::Up { before, pids, replace })
    }

    /// Answers the requests whose watchers have settled.
    fn answer_settled(&mut self, actions: &mut Vec<Action>) {
        let waits = std::mem::take(&mut self.waits);
        for wait in waits {
            match self.settled(&wait) {
                Some(reply) => self.reply(wait.request, reply, actions),
                None => self.waits.push(wait),
            }
        }
    }

    fn settled(&self, wait: &Wait) -> Option<Reply> {
        let now = self.now;
        let of = |name: &WatcherName| self.watchers.iter().find(|watcher| watcher.spec().name == *name);
        let watchers: Vec<&Watcher> = wait.watchers.iter().filter_map(of).collect();
        match &wait.goal {
            Goal::Left | Goal::Sampled { .. } => None,
            Goal::Down => watchers.iter().all(|watcher| watcher.is_down()).then_some(Reply::Done(Answer::Ok)),
            Goal::Resized => {
                let watcher = watchers.first()?;
                let numprocesses = watcher.numprocesses();
                let done = watcher.ids().len() == numprocesses as usize && watcher.state(now) == WatcherState::Active;
                let idle = watcher.state(now) == WatcherState::Stopped;
                let answer = Answer::Resized { numprocesses, singleton: false };
                (done || idle).then_some(Reply::Done(answer)).or_else(|| failure(watcher, now))
            }
            Goal::Moved { to, token } => {
                let watcher = watchers.first()?;
                let clear = watcher.is_down() || watcher.lease().is_some_and(|lease| lease.releasing_since().is_some());
                let answer = Answer::Moved { from: self.name.clone(), to: to.clone(), token: *token };
                (clear && watcher.ids().is_empty()).then_some(Reply::Done(answer))
            }
            Goal::Up { before, pids, replace } => {
                if let Some(failed) = watchers.iter().find_map(|watcher| failure(watcher, now)) {
                    return Some(failed);
                }
                let replaced = !replace || watchers.iter().all(|w| w.ids().iter().all(|id| !before.contains(id)));
                let up = |watcher: &&Watcher| {
                    matches!(watcher.state(now), WatcherState::Active | WatcherState::Standby | WatcherState::Stopped)
                };
                if !replaced || !watchers.iter().all(up) {
                    return None;
                }
                let live: Vec<u32> = watchers.iter().flat_map(|w| w.pids()).map(|(_, pid)| pid).collect();
                let (kept, started) = live.iter().copied().partition(|pid| pids.contains(pid));
                let stopped = pids.iter().copied().filter(|pid| !live.contains(pid)).collect();
                Some(Reply::Done(Answer::Started { started, kept, stopped }))
            }
        }
    }

    // ---- look-ups ----

    fn watcher(&mut self, name: &WatcherName) -> Option<&mut Watcher> {
        self.watchers.iter_mut().find(|watcher| watcher.spec().name == *name)
    }

    /// The watcher a user means.
    fn find(&self, text: &str) -> Result<usize, Refusal> {
        let found = self.watchers.iter().position(|watcher| watcher.spec().name.matches(text));
        found.ok_or_else(|| self.no_such(text))
    }

    /// The watchers a pattern means; without one all, of which `starting` leaves out those that do not start by
    /// themselves. One that is named alone is always meant.
    fn select(&self, pattern: Option<&str>, starting: bool) -> Result<Vec<usize>, Refusal> {
        let all = 0..self.watchers.len();
        let matching: Vec<usize> = match pattern {
            None => all.collect(),
            Some(pattern) => all.filter(|index| self.watchers[*index].spec().name.fits(pattern)).collect(),
        };
        match (matching.as_slice(), pattern) {
            ([], Some(pattern)) => Err(self.no_such(pattern)),
            ([_], Some(_)) => Ok(matching),
            _ => Ok(matching.into_iter().filter(|i| !starting || self.watchers[*i].spec().autostart).collect()),
        }
    }

    fn no_such(&self, text: &str) -> Refusal {
        let names = self.watchers.iter().map(|watcher| &watcher.spec().name);
        let near = names.map(|name| (distance(&name.as_str().to_lowercase(), &text.to_lowercase()), name)).min();
        let hint = near.filter(|(steps, _)| *steps <= 2.max(text.len() / 4)).map(|(_, name)| name.clone());
        Refusal::NoSuchWatcher { name: text.to_owned(), hint }
    }

    fn names(&self, indices: &[usize]) -> Vec<WatcherName> {
        indices.iter().map(|index| self.watchers[*index].spec().name.clone()).collect()
    }

    fn processes_of(&self, watcher: Option<&str>, pid: Option<u32>) -> Result<Vec<(WatcherName, u32, u32)>, Refusal> {
        let found = match watcher {
            Some(text) => vec![self.find(text)?],
            None => (0..self.watchers.len()).collect(),
        };
        let of = |index: &usize| {
            let watcher = &self.watchers[*index];
            watcher.pids().into_iter().map(|(wid, pid)| (watcher.spec().name.clone(), wid, pid)).collect::<Vec<_>>()
        };
        let mut processes: Vec<_> = found.iter().flat_map(of).collect();
        if let (Some(pid), Some(index)) = (pid, found.first()) {
            processes.retain(|(_, _, other)| *other == pid);
            if processes.is_empty() {
                let watcher = self.watchers[*index].spec().name.clone();
                return Err(Refusal::NoSuchProcess { watcher, pid });
            }
        }
        Ok(processes)
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

/// Why a watcher that was to come up does not.
fn failure(watcher: &Watcher, now: Time) -> Option<Reply> {
    matches!(watcher.state(now), WatcherState::Failed | WatcherState::Backoff).then(|| {
        let note = watcher.note(now).unwrap_or_else(|| "it does not run".into());
        Reply::Refused(Refusal::Failed(format!("{}: {note}", watcher.spec().name)))
    })
}

fn relay_patience(command: &Command) -> Duration {
    match command {
        Command::Start { patience, .. }
        | Command::Stop { patience, .. }
        | Command::Restart { patience, .. }
        | Command::Resize { patience, .. }
        | Command::Quit { patience }
        | Command::Failover { patience, .. } => match patience {
            Patience::Settled => RELAY_PATIENCE,
            Patience::Admitted => RELAY_TIMEOUT,
        },
        Command::List { .. }
        | Command::Status { .. }
        | Command::NumWatchers
        | Command::NumProcesses { .. }
        | Command::Stats { .. }
        | Command::Options { .. }
        | Command::Version
        | Command::Nodes
        | Command::Leases
        | Command::LeaseInit { .. } => RELAY_TIMEOUT,
    }
}

/// Levenshtein's: how many characters to change, add or drop.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let change = corner + usize::from(ca != *cb);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
