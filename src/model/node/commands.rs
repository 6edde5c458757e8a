//! Commands, carried out on this node: at once, or answered when what was asked for is done.

use super::relay::Errand;
use super::{Node, State, exit, log};
use crate::model::command::{Answer, Command, NodeRow, NodeState, Patience, Refusal, Reply, RequestId, Sample};
use crate::model::event::{Action, Haste, Level, ProcessId};
use crate::model::lease::Hold;
use crate::model::names::{NodeName, WatcherName};
use crate::model::pattern::Pattern;
use crate::model::snapshot::{Snapshot, WatcherState};
use crate::model::time::Time;
use crate::model::watcher::Watcher;

/// A request that is answered when its watchers settle.
#[derive(Debug)]
pub(super) struct Wait {
    request: RequestId,
    watchers: Vec<WatcherName>,
    goal: Goal,
}

/// What it waits for.
#[derive(Debug)]
enum Goal {
    Up { before: Vec<ProcessId>, pids: Vec<u32>, replace: bool },
    Down,
    Resized,
    Moved { to: Option<NodeName>, token: u64 },
    Sampled { pid: Option<u32> },
    Left,
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
            Command::Stats { watcher, pid, .. } => {
                let processes = self.processes_of(watcher.as_deref(), pid)?;
                actions.push(Action::Sample { request, processes });
                let named = watcher.and_then(|text| self.find(&text).ok()).into_iter().collect::<Vec<_>>();
                return Ok(self.wait_or(Patience::Settled, request, self.names(&named), Goal::Sampled { pid }));
            }
            Command::Options { watcher, keys } => {
                let watcher = &self.watchers[self.find(&watcher)?];
                Answer::Options { spec: Box::new(watcher.spec().clone()), numprocesses: watcher.numprocesses(), keys }
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
                let goal = self.up_goal(pattern.as_ref(), false)?;
                let found = self.select(pattern.as_ref(), true)?;
                found.iter().for_each(|index| self.watchers.stir(*index).start(now));
                return Ok(self.wait_or(patience, request, self.names(&found), goal));
            }
            Command::Stop { pattern, patience } => {
                let found = self.select(pattern.as_ref(), false)?;
                if let State::Starting { queue, .. } = &mut self.phase {
                    queue.retain(|index| !found.contains(index));
                }
                found.iter().for_each(|index| self.watchers.stir(*index).stop());
                return Ok(self.wait_or(patience, request, self.names(&found), Goal::Down));
            }
            Command::Restart { pattern, patience } => {
                let goal = self.up_goal(pattern.as_ref(), true)?;
                let found = self.select(pattern.as_ref(), true)?;
                found.iter().for_each(|index| self.watchers.stir(*index).restart(now, actions));
                return Ok(self.wait_or(patience, request, self.names(&found), goal));
            }
            Command::Resize { watcher, by, patience } => {
                let index = self.find(&watcher)?;
                let numprocesses = self.watchers.stir(index).resize(by);
                let singleton = self.watchers[index].lease().is_some();
                if patience == Patience::Settled && !singleton {
                    return Ok(self.wait_or(patience, request, self.names(&[index]), Goal::Resized));
                }
                Answer::Resized { numprocesses, singleton }
            }
            Command::Failover { watcher, to, patience } => {
                return self.admit_failover(request, watcher, to, patience, actions).map(|()| None);
            }
            command @ (Command::AgentStats
            | Command::GlobalOptions { .. }
            | Command::ListSockets
            | Command::Reload { .. }
            | Command::ReloadConfig { .. }
            | Command::Plan
            | Command::Set { .. }
            | Command::Add { .. }
            | Command::Remove { .. }
            | Command::Signal { .. }
            | Command::Kill { .. }) => return Err(Refusal::Failed(format!("{command:?}"))),
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
            Ok(Move { watcher, to, token }) => {
                let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
                log(actions, Level::Info, format!("{watcher}: moving to {whom}, as asked"));
                let from = self.name.clone();
                match patience {
                    Patience::Admitted => Some(Reply::Done(Answer::Moved { from, to, token })),
                    Patience::Settled => self.wait_or(patience, request, vec![watcher], Goal::Moved { to, token }),
                }
            }
        };
        if let Some(reply) = reply {
            self.reply(request, reply, actions);
        }
    }

    fn begin_move(&mut self, watcher: &str, to: Option<NodeName>, rows: Option<&[NodeRow]>) -> Result<Move, Refusal> {
        let now = self.now;
        let index = self.find(watcher)?;
        let watcher = self.watchers[index].spec().name.clone();
        let hold = self.watchers[index].lease().map(|lease| lease.hold(now));
        let Some(Hold::Firm { token, .. }) = hold else {
            return Err(Refusal::NotHolder { watcher, holder: None });
        };
        // Without a registry there is nobody to choose from: whoever waits for the lease will have it.
        let to = match rows {
            Some(rows) => Some(successor(&watcher, &self.name, to, rows).map_err(Refusal::NoCandidate)?),
            None => to,
        };
        self.watchers.stir(index).part(to.clone());
        Ok(Move { watcher, to, token })
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
    fn up_goal(&self, pattern: Option<&Pattern>, replace: bool) -> Result<Goal, Refusal> {
        let found = self.select(pattern, true)?;
        let before = found.iter().flat_map(|index| self.watchers[*index].ids()).collect();
        let pids = found.iter().flat_map(|index| self.watchers[*index].pids()).map(|(_, pid)| pid).collect();
        Ok(Goal::Up { before, pids, replace })
    }

    /// Processes were sampled for a request.
    pub(super) fn sampled(&mut self, request: RequestId, samples: Vec<Sample>, actions: &mut Vec<Action>) {
        let sampling = |wait: &Wait| wait.request == request && matches!(wait.goal, Goal::Sampled { .. });
        if let Some(index) = self.waits.iter().position(sampling)
            && let Wait { mut watchers, goal: Goal::Sampled { pid }, .. } = self.waits.remove(index)
        {
            let answer = Answer::Stats { watcher: watchers.pop(), pid, samples };
            self.reply(request, Reply::Done(answer), actions);
        }
    }

    /// Answers all requests that are still open: the agent leaves.
    pub(super) fn dismiss(&mut self, actions: &mut Vec<Action>) {
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
    }

    /// Forgets what was to be waited for on behalf of a request.
    pub(super) fn forget(&mut self, request: RequestId) {
        self.waits.retain(|wait| wait.request != request);
    }

    /// Answers the requests whose watchers have settled.
    pub(super) fn answer_settled(&mut self, actions: &mut Vec<Action>) {
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
            Goal::Down => match watchers.iter().find(|watcher| !watcher.is_at_rest()) {
                Some(watcher) => Some(called_back(watcher)),
                None => watchers.iter().all(|watcher| watcher.is_down()).then_some(Reply::Done(Answer::Ok)),
            },
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
                let held = watcher.lease().is_some_and(|lease| matches!(lease.hold(now), Hold::Firm { .. }));
                if held && !watcher.is_parting() && !watcher.is_at_rest() {
                    return Some(called_back(watcher));
                }
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

    /// The watcher a user means.
    fn find(&self, text: &str) -> Result<usize, Refusal> {
        let found = self.watchers.iter().position(|watcher| watcher.spec().name.matches(text));
        found.ok_or_else(|| self.no_such(text))
    }

    /// The watchers a pattern means; without one all, of which `starting` leaves out those that do not start by
    /// themselves. One that is named alone is always meant.
    fn select(&self, pattern: Option<&Pattern>, starting: bool) -> Result<Vec<usize>, Refusal> {
        let all = 0..self.watchers.len();
        let matching: Vec<usize> = match pattern {
            None => all.collect(),
            Some(pattern) => all.filter(|index| pattern.fits(self.watchers[*index].spec().name.as_str())).collect(),
        };
        match (matching.as_slice(), pattern) {
            ([], Some(pattern)) => Err(self.no_such(pattern.text())),
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

/// A move that has begun.
struct Move {
    watcher: WatcherName,
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
