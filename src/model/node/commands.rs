//! Commands, carried out on this node: at once, or answered when what was asked for is done.

use super::changes::Reading;
use super::relay::Errand;
use super::watchers::Key;
use super::{Node, State, exit, log};
use crate::model::command::{Answer, Command, NodeRow, NodeState, Patience, Refusal, Reply, RequestId, Sample};
use crate::model::event::{Action, Haste, HookEnd, HookId, Level, News, ProcessId};
use crate::model::lease::Hold;
use crate::model::names::{NodeName, WatcherName};
use crate::model::pattern::Pattern;
use crate::model::plan::Plan;
use crate::model::snapshot::{Snapshot, WatcherState};
use crate::model::spec::HookPoint;
use crate::model::time::Time;
use crate::model::watcher::{Reloading, Watcher};

/// A request that is answered when its watchers settle.
#[derive(Debug)]
pub(super) struct Wait {
    request: RequestId,
    goal: Goal,
}

/// What it waits for.
#[derive(Debug)]
pub(super) enum Goal {
    /// These are up, and where `replace` none of the processes from before is left.
    Up { keys: Vec<Key>, before: Vec<ProcessId>, pids: Vec<u32>, replace: bool },
    /// An added one is up.
    Added { key: Key },
    /// These are down.
    Down { keys: Vec<Key> },
    /// It has as many processes as are wanted.
    Resized { key: Key },
    /// These are as their settings say, and up unless nobody wants them.
    AsTold { keys: Vec<Key> },
    /// What a changed file says is done.
    Applied { plan: Plan, changed: Vec<Key>, gone: Vec<Key> },
    /// None of these processes is left.
    Killed { key: Key, processes: Vec<ProcessId> },
    /// These watchers are not there any more.
    Removed { keys: Vec<Key> },
    /// The lease has gone.
    Moved { key: Key, to: Option<NodeName>, token: u64 },
    /// Samples come back.
    Sampled { watcher: Option<Key>, pid: Option<u32>, extended: bool },
    /// Hooks add to the samples that there are.
    Extended { watcher: Option<Key>, pid: Option<u32>, samples: Vec<Sample>, calls: usize },
    /// The agent has ended.
    Left,
}

/// A hook that adds to one sample of a request.
#[derive(Debug)]
pub(super) struct StatsCall {
    request: RequestId,
    watcher: Key,
    sample: usize,
}

impl Node {
    /// Carries a command out here.
    pub(super) fn execute(&mut self, request: RequestId, command: Command, actions: &mut Vec<Action>) {
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
                let key = self.find(&name)?;
                let mut pids: Vec<_> = self.watchers[key].pids().into_iter().map(|(_, pid)| pid).collect();
                pids.sort_unstable();
                Answer::Pids(pids)
            }
            Command::Status { watcher: None } => Answer::Status(Box::new(self.snapshot())),
            Command::Status { watcher: Some(name) } => {
                let key = self.find(&name)?;
                let watchers = vec![self.watchers[key].view(now)];
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
            Command::Stats { watcher, pid, extended } => {
                let processes = self.processes_of(watcher.as_deref(), pid)?;
                let watcher = watcher.map(|text| self.find(&text)).transpose()?;
                // Circus extends the statistics of a named watcher only.
                let extended = extended && watcher.is_some();
                actions.push(Action::Sample { request, processes, extended });
                let goal = Goal::Sampled { watcher, pid, extended };
                return Ok(self.wait_or(Patience::Settled, request, goal));
            }
            Command::AgentStats => {
                actions.push(Action::SampleAgent { request });
                let goal = Goal::Sampled { watcher: None, pid: None, extended: false };
                return Ok(self.wait_or(Patience::Settled, request, goal));
            }
            Command::Options { watcher, keys } => {
                let watcher = &self.watchers[self.find(&watcher)?];
                Answer::Options { spec: Box::new(watcher.spec().clone()), numprocesses: watcher.numprocesses(), keys }
            }
            Command::GlobalOptions { option: None } => Answer::GlobalOptions(self.agent.global_options.clone()),
            Command::GlobalOptions { option: Some(option) } => match self.agent.global_options.get_key_value(&option) {
                Some((key, value)) => Answer::GlobalOptions([(key.clone(), value.clone())].into()),
                None => return Err(Refusal::BadMessage(format!("'{option}' not an existing option"))),
            },
            Command::ListSockets => Answer::Sockets,
            Command::Plan => {
                self.read_spec(request, Reading::Plan, actions);
                return Ok(None);
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
                return Ok(self.wait_or(patience, request, Goal::Left));
            }
            Command::Start { .. }
            | Command::Restart { .. }
            | Command::Reload { .. }
            | Command::ReloadConfig { .. }
            | Command::Resize { .. }
            | Command::Set { .. }
            | Command::Add { .. }
            | Command::Failover { .. }
            | Command::LeaseInit { .. }
                if stopping =>
            {
                return Err(Refusal::Stopping);
            }
            Command::Start { pattern, patience } => {
                let keys = self.select(pattern.as_ref(), true)?;
                let goal = self.up_goal(keys.clone(), false);
                keys.iter().for_each(|key| self.watchers.stir(*key).start(now));
                return Ok(self.wait_or(patience, request, goal));
            }
            Command::Stop { pattern, patience } => {
                let keys = self.select(pattern.as_ref(), false)?;
                self.queue.retain(|key| !keys.contains(key));
                for key in &keys {
                    let watcher = self.watchers.stir(*key);
                    // One that rests is told of once more: whoever means to start it again, such as the flapping
                    // plugin, learns that it is to stay down.
                    if watcher.is_at_rest() && watcher.is_empty() {
                        watcher.publish(News::Stop, actions);
                    }
                    watcher.stop();
                }
                return Ok(self.wait_or(patience, request, Goal::Down { keys }));
            }
            Command::Restart { pattern, patience } => {
                let keys = self.select(pattern.as_ref(), true)?;
                let goal = self.up_goal(keys.clone(), true);
                keys.iter().for_each(|key| self.watchers.stir(*key).restart(now));
                return Ok(self.wait_or(patience, request, goal));
            }
            Command::Reload { watcher, way, patience } => {
                // One that is named starts where it is at rest, as in Circus; of all, those that somebody wants.
                let keys = match watcher {
                    Some(text) => vec![self.find(&text)?],
                    None => self.watchers.keys().into_iter().filter(|key| !self.watchers[*key].is_at_rest()).collect(),
                };
                let Goal::Up { before, pids, .. } = self.up_goal(keys.clone(), true) else { return Ok(None) };
                let ways = keys.iter().map(|key| self.watchers.stir(*key).reload(now, way, actions));
                let replace = ways.fold(false, |any, way| any | (way == Reloading::Replaced));
                return Ok(self.wait_or(patience, request, Goal::Up { keys, before, pids, replace }));
            }
            Command::ReloadConfig { patience } => {
                self.read_spec(request, Reading::Apply { patience }, actions);
                return Ok(None);
            }
            Command::Resize { watcher, by, patience } => {
                let key = self.find(&watcher)?;
                let numprocesses = self.watchers.stir(key).resize(by);
                let singleton = self.watchers[key].lease().is_some();
                if patience == Patience::Settled && !singleton {
                    return Ok(self.wait_or(patience, request, Goal::Resized { key }));
                }
                Answer::Resized { numprocesses, singleton }
            }
            Command::Set { watcher, changes, patience } => {
                return self.set(request, &watcher, changes, patience, actions).map(|()| None);
            }
            command @ Command::Add { .. } => return self.add(request, command, actions).map(|()| None),
            Command::Remove { watcher, leave, patience } => {
                return self.remove_watcher(request, &watcher, leave, patience, actions);
            }
            Command::Signal { watcher, pid, signal, reach } => {
                let key = self.find(&watcher)?;
                self.watchers.stir(key).signal(pid, signal, reach, actions);
                Answer::Ok
            }
            Command::Kill { watcher, pid, signal, grace, patience } => {
                let key = self.find(&watcher)?;
                let processes = self.watchers.stir(key).kill_some(now, pid, signal, grace);
                return Ok(self.wait_or(patience, request, Goal::Killed { key, processes }));
            }
            Command::Failover { watcher, to, patience } => {
                return self.admit_failover(request, watcher, to, patience, actions).map(|()| None);
            }
            Command::LeaseInit { watcher } => {
                let key = self.find(&watcher)?;
                let name = self.watchers[key].spec().name.clone();
                if self.watchers[key].lease().is_none() {
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
        let key = self.find(&watcher)?;
        let name = self.watchers[key].spec().name.clone();
        let Some(lease) = self.watchers[key].lease() else { return Err(Refusal::NotSingleton(name)) };
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
            let deadline = self.now + command.usual_time();
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
    pub(super) fn fail_over(
        &mut self,
        request: RequestId,
        watcher: &str,
        to: Option<NodeName>,
        patience: Patience,
        rows: Option<&[NodeRow]>,
        actions: &mut Vec<Action>,
    ) {
        let reply = match self.begin_move(watcher, to, rows) {
            Err(refusal) => Some(Reply::Refused(refusal)),
            Ok(Move { key, to, token }) => {
                let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
                log(actions, Level::Info, format!("{watcher}: moving to {whom}, as asked"));
                let from = self.name.clone();
                match patience {
                    Patience::Admitted => Some(Reply::Done(Answer::Moved { from, to, token })),
                    Patience::Settled => self.wait_or(patience, request, Goal::Moved { key, to, token }),
                }
            }
        };
        if let Some(reply) = reply {
            self.reply(request, reply, actions);
        }
    }

    fn begin_move(&mut self, watcher: &str, to: Option<NodeName>, rows: Option<&[NodeRow]>) -> Result<Move, Refusal> {
        let now = self.now;
        let key = self.find(watcher)?;
        let watcher = self.watchers[key].spec().name.clone();
        let hold = self.watchers[key].lease().map(|lease| lease.hold(now));
        let Some(Hold::Firm { token, .. }) = hold else {
            return Err(Refusal::NotHolder { watcher, holder: None });
        };
        // Without a registry there is nobody to choose from: whoever waits for the lease will have it.
        let to = match rows {
            Some(rows) => Some(successor(&watcher, &self.name, to, rows).map_err(Refusal::NoCandidate)?),
            None => to,
        };
        self.watchers.stir(key).part(to.clone());
        Ok(Move { key, to, token })
    }

    /// The reply where it is due now; else it is kept for when what it waits for has come true.
    pub(super) fn wait_or(&mut self, patience: Patience, request: RequestId, goal: Goal) -> Option<Reply> {
        match (patience, goal) {
            (Patience::Admitted, Goal::Applied { plan, .. }) => Some(Reply::Done(Answer::Plan(plan))),
            (Patience::Admitted, _) => Some(Reply::Done(Answer::Ok)),
            (Patience::Settled, goal) => {
                self.waits.push(Wait { request, goal });
                None
            }
        }
    }

    /// What the processes are before they are started or replaced.
    fn up_goal(&self, keys: Vec<Key>, replace: bool) -> Goal {
        let before = keys.iter().flat_map(|key| self.watchers[*key].ids()).collect();
        let pids = keys.iter().flat_map(|key| self.watchers[*key].pids()).map(|(_, pid)| pid).collect();
        Goal::Up { keys, before, pids, replace }
    }

    // ---- statistics ----

    /// Processes were sampled for a request.
    pub(super) fn sampled(&mut self, request: RequestId, samples: Vec<Sample>, actions: &mut Vec<Action>) {
        let sampling = |wait: &Wait| wait.request == request && matches!(wait.goal, Goal::Sampled { .. });
        let Some(index) = self.waits.iter().position(sampling) else { return };
        let Goal::Sampled { watcher, pid, extended } = self.waits.remove(index).goal else { return };
        let calls =
            watcher.filter(|_| extended).map_or(0, |key| self.call_stats_hooks(request, key, &samples, actions));
        self.waits.push(Wait { request, goal: Goal::Extended { watcher, pid, samples, calls } });
    }

    /// Has a watcher's hook add to the statistics of each process: how many calls that takes.
    fn call_stats_hooks(
        &mut self,
        request: RequestId,
        watcher: Key,
        samples: &[Sample],
        actions: &mut Vec<Action>,
    ) -> usize {
        let Some(found) = self.watchers.get(watcher) else { return 0 };
        let calls = samples.iter().enumerate().filter(|(_, sample)| sample.usage.is_some());
        let calls: Vec<_> =
            calls.filter_map(|(index, sample)| Some((index, found.stats_call(self.now, sample)?))).collect();
        let count = calls.len();
        for (sample, (call, timeout)) in calls {
            self.last_id += 1;
            let hook = HookId(self.last_id);
            self.stats_calls.insert(hook, StatsCall { request, watcher, sample });
            actions.push(Action::Hook { hook, call: Box::new(call), timeout });
        }
        count
    }

    /// A hook that adds to statistics came back.
    pub(super) fn stats_hook_ended(&mut self, hook: HookId, end: &HookEnd, actions: &mut Vec<Action>) {
        let Some(StatsCall { request, watcher, sample }) = self.stats_calls.remove(&hook) else { return };
        if let Some(watcher) = self.watchers.get(watcher) {
            watcher.tell_hook(HookPoint::ExtendedStats, end, actions);
        }
        for wait in self.waits.iter_mut().filter(|wait| wait.request == request) {
            if let Goal::Extended { samples, calls, .. } = &mut wait.goal {
                *calls = calls.saturating_sub(1);
                if let (Some(sample), HookEnd::Returned { output, .. }) = (samples.get_mut(sample), end) {
                    sample.extra = Some(output.clone()).filter(|output| !output.is_empty());
                }
            }
        }
    }

    // ---- open requests ----

    /// Answers all requests that are still open: the agent leaves.
    pub(super) fn dismiss(&mut self, actions: &mut Vec<Action>) {
        for wait in std::mem::take(&mut self.waits) {
            let reply = match wait.goal {
                Goal::Left | Goal::Down { .. } | Goal::Removed { .. } | Goal::Killed { .. } => Reply::Done(Answer::Ok),
                Goal::Up { .. }
                | Goal::Added { .. }
                | Goal::Resized { .. }
                | Goal::AsTold { .. }
                | Goal::Applied { .. }
                | Goal::Moved { .. }
                | Goal::Sampled { .. }
                | Goal::Extended { .. } => Reply::Refused(Refusal::Stopping),
            };
            self.reply(wait.request, reply, actions);
        }
        let asked: Vec<RequestId> = self.readings.keys().chain(self.amendments.keys()).copied().collect();
        for request in asked {
            self.reply(request, Reply::Refused(Refusal::Stopping), actions);
        }
        self.readings.clear();
        self.amendments.clear();
        for request in self.errands.keys().copied().collect::<Vec<_>>() {
            self.abandon(request, "the agent that gathered the answers ended", actions);
        }
    }

    /// Forgets what was to be waited for on behalf of a request.
    pub(super) fn forget(&mut self, request: RequestId) {
        self.waits.retain(|wait| wait.request != request);
        self.readings.remove(&request);
        self.amendments.remove(&request);
    }

    /// Answers the requests that have what they waited for.
    pub(super) fn answer_settled(&mut self, actions: &mut Vec<Action>) {
        let waits = std::mem::take(&mut self.waits);
        for wait in waits {
            match self.settled(&wait.goal) {
                Some(reply) => self.reply(wait.request, reply, actions),
                None => self.waits.push(wait),
            }
        }
    }

    fn settled(&self, goal: &Goal) -> Option<Reply> {
        let now = self.now;
        let done = |answer| Some(Reply::Done(answer));
        match goal {
            Goal::Left | Goal::Sampled { .. } => None,
            Goal::Extended { calls, .. } if *calls > 0 => None,
            Goal::Extended { watcher, pid, samples, .. } => {
                let watcher = watcher.and_then(|key| self.watchers.get(key)).map(|watcher| watcher.spec().name.clone());
                match samples.as_slice() {
                    // The agent's own sample belongs to no slot.
                    [own] if watcher.is_none() && own.wid == 0 => done(Answer::AgentStats(own.clone())),
                    samples => done(Answer::Stats { watcher, pid: *pid, samples: samples.to_vec() }),
                }
            }
            Goal::Down { keys } => {
                let mut watchers = keys.iter().filter_map(|key| self.watchers.get(*key));
                match watchers.clone().find(|watcher| !watcher.is_at_rest()) {
                    Some(watcher) => Some(called_back(watcher)),
                    None => watchers.all(Watcher::is_down).then_some(Reply::Done(Answer::Ok)),
                }
            }
            Goal::Removed { keys } => match keys.iter().find(|key| self.watchers.get(**key).is_some()) {
                None => done(Answer::Ok),
                Some(key) if !self.leaving.contains(key) => Some(called_back(&self.watchers[*key])),
                Some(_) => None,
            },
            Goal::Killed { key, processes } => {
                let ids = self.watchers.get(*key).map(Watcher::ids).unwrap_or_default();
                processes.iter().all(|id| !ids.contains(id)).then_some(Reply::Done(Answer::Ok))
            }
            Goal::Resized { key } => {
                let Some(watcher) = self.watchers.get(*key) else { return Some(removed()) };
                let (numprocesses, state) = (watcher.numprocesses(), watcher.state(now));
                let all = watcher.is_full() && is_up(state);
                let idle = state == WatcherState::Stopped;
                let answer = Answer::Resized { numprocesses, singleton: false };
                (all || idle).then_some(Reply::Done(answer)).or_else(|| failure(watcher, now))
            }
            Goal::AsTold { keys } => self.as_told(keys).map(|told| told.err().unwrap_or(Reply::Done(Answer::Ok))),
            Goal::Applied { plan, changed, gone } => {
                let told = self.as_told(changed)?;
                let gone = gone.iter().all(|key| self.watchers.get(*key).is_none() || !self.leaving.contains(key));
                match told {
                    Err(failed) => Some(failed),
                    Ok(()) => gone.then(|| Reply::Done(Answer::Plan(plan.clone()))),
                }
            }
            Goal::Moved { key, to, token } => {
                let Some(watcher) = self.watchers.get(*key) else { return Some(removed()) };
                let held = watcher.lease().is_some_and(|lease| matches!(lease.hold(now), Hold::Firm { .. }));
                if held && !watcher.is_parting() && !watcher.is_at_rest() {
                    return Some(called_back(watcher));
                }
                let clear = watcher.is_down() || watcher.lease().is_some_and(|lease| lease.releasing_since().is_some());
                let answer = Answer::Moved { from: self.name.clone(), to: to.clone(), token: *token };
                (clear && watcher.is_empty()).then_some(Reply::Done(answer))
            }
            Goal::Added { key } => {
                let Some(watcher) = self.watchers.get(*key) else { return Some(removed()) };
                if let Some(failed) = failure(watcher, now) {
                    return Some(failed);
                }
                let up = is_up(watcher.state(now)) || watcher.is_at_rest();
                let started = watcher.pids().into_iter().map(|(_, pid)| pid).collect();
                up.then_some(Reply::Done(Answer::Added { started }))
            }
            Goal::Up { keys, before, pids, replace } => {
                let watchers: Vec<&Watcher> = keys.iter().filter_map(|key| self.watchers.get(*key)).collect();
                if let Some(failed) = watchers.iter().find_map(|watcher| failure(watcher, now)) {
                    return Some(failed);
                }
                let replaced = !replace || watchers.iter().all(|w| w.ids().iter().all(|id| !before.contains(id)));
                let up = |watcher: &&Watcher| is_up(watcher.state(now)) || watcher.state(now) == WatcherState::Stopped;
                if !replaced || !watchers.iter().all(up) {
                    return None;
                }
                if watchers.len() != 1 {
                    return done(Answer::Ok);
                }
                let live: Vec<u32> = watchers.iter().flat_map(|w| w.pids()).map(|(_, pid)| pid).collect();
                let (kept, started) = live.iter().copied().partition(|pid| pids.contains(pid));
                let stopped = pids.iter().copied().filter(|pid| !live.contains(pid)).collect();
                done(Answer::Started { started, kept, stopped })
            }
        }
    }

    /// Whether these are as their settings say; the first that fails ends the wait.
    fn as_told(&self, keys: &[Key]) -> Option<Result<(), Reply>> {
        let now = self.now;
        let watchers: Vec<&Watcher> = keys.iter().filter_map(|key| self.watchers.get(*key)).collect();
        if let Some(failed) = watchers.iter().find_map(|watcher| failure(watcher, now)) {
            return Some(Err(failed));
        }
        let queued = |key: &Key| self.queue.contains(key);
        let settled = |watcher: &&Watcher| {
            watcher.is_as_told() && (watcher.is_down() || (!watcher.is_at_rest() && is_up(watcher.state(now))))
        };
        (watchers.iter().all(settled) && !keys.iter().any(queued)).then_some(Ok(()))
    }

    // ---- look-ups ----

    /// The watcher a user means.
    pub(super) fn find(&self, text: &str) -> Result<Key, Refusal> {
        let found = self.watchers.position(|watcher| watcher.spec().name.matches(text));
        found.filter(|key| !self.leaving.contains(key)).ok_or_else(|| self.no_such(text))
    }

    /// The watchers a pattern means; without one all, of which `starting` leaves out those that do not start by
    /// themselves. One that is named alone is always meant.
    fn select(&self, pattern: Option<&Pattern>, starting: bool) -> Result<Vec<Key>, Refusal> {
        let staying = self.watchers.keys().into_iter().filter(|key| !self.leaving.contains(key));
        let meant = |key: &Key| pattern.is_none_or(|pattern| pattern.fits(self.watchers[*key].spec().name.as_str()));
        let matching: Vec<Key> = staying.filter(meant).collect();
        match (matching.as_slice(), pattern) {
            ([], Some(pattern)) => Err(self.no_such(pattern.text())),
            ([_], Some(_)) => Ok(matching),
            _ => Ok(matching.into_iter().filter(|key| !starting || self.watchers[*key].spec().autostart).collect()),
        }
    }

    fn no_such(&self, text: &str) -> Refusal {
        let names = self.watchers.iter().map(|watcher| &watcher.spec().name);
        let near = names.map(|name| (distance(&name.as_str().to_lowercase(), &text.to_lowercase()), name)).min();
        let hint = near.filter(|(steps, _)| *steps <= 2.max(text.len() / 4)).map(|(_, name)| name.clone());
        Refusal::NoSuchWatcher { name: text.to_owned(), hint }
    }

    fn processes_of(&self, watcher: Option<&str>, pid: Option<u32>) -> Result<Vec<(WatcherName, u32, u32)>, Refusal> {
        let found = match watcher {
            Some(text) => vec![self.find(text)?],
            None => self.watchers.keys(),
        };
        let of = |key: &Key| {
            let watcher = &self.watchers[*key];
            watcher.pids().into_iter().map(|(wid, pid)| (watcher.spec().name.clone(), wid, pid)).collect::<Vec<_>>()
        };
        let mut processes: Vec<_> = found.iter().flat_map(of).collect();
        if let (Some(pid), Some(key)) = (pid, found.first()) {
            processes.retain(|(_, _, other)| *other == pid);
            if processes.is_empty() {
                let watcher = self.watchers[*key].spec().name.clone();
                return Err(Refusal::NoSuchProcess { watcher, pid });
            }
        }
        Ok(processes)
    }
}

/// A move that has begun.
struct Move {
    key: Key,
    to: Option<NodeName>,
    token: u64,
}

/// The node that takes a singleton over: the one asked for, if it can, or of those that can the one heard of last.
fn successor(
    watcher: &WatcherName,
    holder: &NodeName,
    to: Option<NodeName>,
    rows: &[NodeRow],
) -> Result<NodeName, String> {
    let waits = |row: &NodeRow| row.about.waits.iter().any(|waiting| watcher.matches(waiting));
    // The holder's own row may be from a moment ago, when it waited too.
    let can = |row: &&NodeRow| row.state == NodeState::Up && waits(row) && row.name != *holder;
    let able: Vec<&NodeRow> = rows.iter().filter(can).collect();
    let names = able.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(", ");
    let hint = if able.is_empty() { "no node waits for it".into() } else { format!("candidates: {names}") };
    let Some(to) = to else {
        let latest = able.iter().min_by_key(|row| row.seen);
        return latest.map(|row| row.name.clone()).ok_or_else(|| format!("{watcher} stays: {hint}"));
    };
    if able.iter().any(|row| row.name == to) {
        return Ok(to);
    }
    let why = match rows.iter().find(|row| row.name == to) {
        None => "no such node is registered".to_owned(),
        Some(row) if row.state == NodeState::Up => "it does not wait for it".to_owned(),
        Some(row) => format!("it is {} (last seen {} s ago)", row.state.word(), row.seen.as_secs()),
    };
    Err(format!("{to} cannot take {watcher}: {why}; {hint}"))
}

fn is_up(state: WatcherState) -> bool {
    matches!(state, WatcherState::Active | WatcherState::Unhealthy | WatcherState::Standby)
}

fn removed() -> Reply {
    Reply::Refused(Refusal::Failed("it was removed meanwhile".into()))
}

/// What is said to who waits for a watcher to go, when someone has started it again meanwhile.
fn called_back(watcher: &Watcher) -> Reply {
    Reply::Refused(Refusal::Failed(format!("{} was started again meanwhile", watcher.spec().name)))
}

/// Why a watcher that was to come up does not.
fn failure(watcher: &Watcher, now: Time) -> Option<Reply> {
    matches!(watcher.state(now), WatcherState::Failed | WatcherState::Backoff).then(|| {
        let note = watcher.note(now).unwrap_or_else(|| "it does not run".into());
        Reply::Refused(Refusal::Failed(format!("{}: {note}", watcher.spec().name)))
    })
}

/// Levenshtein's: how many characters to change, add or drop. The model has only std, so it is spelled out here.
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
