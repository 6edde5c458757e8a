//! Commands, carried out on this node: at once, or answered when what was asked for is done.

use super::changes::Reading;
use super::relay::Errand;
use super::waits::{Goal, histories};
use super::watchers::Key;
use super::{Haste, Node, State, exit, log};
use crate::model::command::{Answer, Command, NodeRow, NodeState, Patience, Refusal, Reply, RequestId};
use crate::model::event::{Action, HistoryRead, Level, News};
use crate::model::explain::Around;
use crate::model::history::{Cause, Ending};
use crate::model::lease::Hold;
use crate::model::names::{LeaseName, NodeName, WatcherName, is_called, nearest};
use crate::model::pattern::Pattern;
use crate::model::pause::Wish;
use crate::model::snapshot::Snapshot;
use crate::model::watcher::{Reloading, Runs, Watcher};

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
                actions.push(Action::Sample { request, processes });
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
            Command::ListSockets => Answer::Sockets(self.socket_views()),
            Command::Plan => {
                self.read_spec(request, Reading::Plan, actions);
                return Ok(None);
            }
            Command::Version => Answer::Version(env!("CARGO_PKG_VERSION")),
            Command::Leases => {
                let leases = self.watchers.iter().filter_map(|watcher| watcher.lease_view(now)).collect();
                Answer::Leases { leases, advice: self.advice() }
            }
            Command::Legions { legion: None } => {
                let legions = self.watchers.iter().filter_map(|watcher| watcher.legion_view(now));
                Answer::Legions { store: self.store_place(), legions: legions.map(|legion| *legion).collect() }
            }
            Command::Legions { legion: Some(name) } => Answer::Legions {
                store: self.store_place(),
                legions: vec![*self.of_legion(&name, |legion| legion.legion_view(now))?],
            },
            Command::Lord { legion } => {
                let lordship = self.of_legion(&legion, |legion| legion.lordship(now))?;
                let left = lordship.mine.map(|(_, deadline)| now.until(deadline.stop));
                Answer::Lord { lordship: Box::new(lordship), left }
            }
            Command::Scrolls { legion } => Answer::Scrolls(self.of_legion(&legion, |legion| legion.legion_view(now))?),
            Command::Explain { watcher } => {
                let key = self.find(&watcher)?;
                let store_name = self.store_place();
                let (store, store_name) = (&self.store, store_name.as_str());
                let around =
                    Around { stopping, drained: self.drained.is_some(), store, store_name, clustered: self.clustered };
                let explanation = Box::new(self.watchers[key].explain(now, around));
                Answer::Explained { node: self.name.clone(), watcher: name_of(&self.watchers[key]), explanation }
            }
            Command::Metrics => Answer::Metrics(Box::new(self.snapshot())),
            Command::History { watcher, count } => {
                return self.ask_history(request, watcher.as_deref(), count, actions);
            }
            command @ (Command::Nodes | Command::NodeList | Command::Registered { .. }) => {
                if !self.clustered {
                    return Err(Refusal::NoCluster);
                }
                self.ask_roster(request, command, actions);
                return Ok(None);
            }
            Command::Start { .. }
            | Command::Restart { .. }
            | Command::Reload { .. }
            | Command::Add { start: true, .. }
                if !stopping && self.drained.is_some() =>
            {
                return Err(Refusal::Drained(self.name.clone()));
            }
            Command::Quit { patience } => {
                log(actions, Level::Info, "quit: stopping all watchers".into());
                let by = self.asker(request).unwrap_or_default();
                self.end(Haste::Graceful, exit::OK, &by);
                return Ok(self.wait_or(patience, request, Goal::Left));
            }
            Command::Start { .. }
            | Command::Restart { .. }
            | Command::Reload { .. }
            | Command::ReloadConfig { .. }
            | Command::Resize { .. }
            | Command::Set { .. }
            | Command::Add { .. }
            | Command::AddSocket { .. }
            | Command::SetSocket { .. }
            | Command::RemoveSocket { .. }
            | Command::Drain { .. }
            | Command::Undrain { .. }
            | Command::Rename { .. }
            | Command::Failover { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Drill { .. }
            | Command::LeaseInit { .. }
                if stopping =>
            {
                return Err(Refusal::Stopping);
            }
            Command::Drain { patience } => {
                let by = self.asker(request).unwrap_or_default();
                self.drain(by, actions);
                return Ok(self.wait_or(patience, request, Goal::Drained));
            }
            Command::Undrain { patience } => {
                let by = self.asker(request).unwrap_or_default();
                let keys = self.undrain(&by, actions);
                return Ok(self.wait_or(patience, request, Goal::AsTold { keys }));
            }
            Command::Rename { to } => return self.admit_rename(request, to, actions),
            Command::Start { pattern, patience } => {
                let keys = self.select(pattern.as_ref(), true)?;
                if let ([_], Some(refusal)) = (&keys[..], keys.iter().find_map(|key| self.watchers[*key].paused())) {
                    return Err(refusal);
                }
                let goal = self.up_goal(keys.clone(), false);
                keys.iter().for_each(|key| self.watchers.stir(*key).start(now));
                return Ok(self.wait_or(patience, request, goal));
            }
            Command::Stop { pattern, patience } => {
                let keys = self.select(pattern.as_ref(), false)?;
                let ending = Ending { by: self.asker(request), ..Ending::of(Cause::Stopped) };
                self.queue.retain(|key| !keys.contains(key));
                if let Some(drained) = &mut self.drained {
                    drained.wanted.retain(|key| !keys.contains(key));
                }
                for key in &keys {
                    let watcher = self.watchers.stir(*key);
                    // One that rests is told of once more: whoever means to start it again, such as the flapping
                    // plugin, learns that it is to stay down.
                    if (watcher.is_at_rest() || watcher.is_asleep()) && watcher.is_empty() {
                        watcher.publish(News::Stop, actions);
                    }
                    watcher.stop(ending.clone());
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
                self.watchers[key].room_for(by)?;
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
            Command::AddSocket { name, changes, patience } => {
                return self.add_socket(request, &name, changes, patience, actions).map(|()| None);
            }
            Command::SetSocket { socket, changes, patience } => {
                return self.set_socket(request, &socket, changes, patience, actions).map(|()| None);
            }
            Command::RemoveSocket { socket, patience } => {
                return self.remove_socket(request, &socket, patience, actions);
            }
            Command::Signal { watcher, pid, signal, reach } => {
                let key = self.find(&watcher)?;
                self.watchers.stir(key).signal(pid, signal, reach, actions);
                Answer::Ok
            }
            Command::Publish { watcher, topic } => {
                let key = self.find(&watcher)?;
                self.watchers[key].publish(News::Published { topic }, actions);
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
            Command::Pause { watcher, reason, patience } => {
                let wish = Wish::pause(&self.asker(request).unwrap_or_default(), reason.as_deref());
                return self.ask_pause(request, &watcher, wish, patience, actions).map(|()| None);
            }
            Command::Resume { watcher } => {
                return self.ask_pause(request, &watcher, Wish::Resume, Patience::Admitted, actions).map(|()| None);
            }
            Command::Drill { watcher, kind, lasting } => {
                return self.admit_drill(request, watcher, kind, lasting, actions).map(|()| None);
            }
            Command::LeaseCheck { watcher, token } => {
                let lease = self.lease_of(&watcher)?;
                let goal = Goal::Checked { watcher: lease.watcher.clone(), token };
                actions.push(Action::CheckLease { request, lease, token });
                return Ok(self.wait_or(Patience::Settled, request, goal));
            }
            Command::LeaseInit { watcher } => {
                actions.push(Action::InitLease { request, lease: self.lease_of(&watcher)? });
                return Ok(None);
            }
        };
        Ok(Some(Reply::Done(answer)))
    }

    pub(super) fn ask_roster(&mut self, request: RequestId, command: Command, actions: &mut Vec<Action>) {
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
        let Some(lease) = self.watchers[key].lease() else { return Err(without_lease(&self.watchers[key])) };
        if let Some(other) = lease.other_holder() {
            let why =
                format!("{name} is held by {other}, which is no agent: end it there, and an agent has it after that");
            return Err(Refusal::NoCandidate(why));
        }
        if let Some(refusal) = self.watchers[key].paused() {
            return Err(refusal);
        }
        let here = matches!(lease.hold(self.now), Hold::Firm { .. });
        if !here {
            let holder = lease.holder().filter(|holder| *holder != self.name.as_str());
            if !self.clustered || self.errands.contains_key(&request) {
                return Err(Refusal::NotHolder { watcher: name, holder });
            }
            let command = Command::Failover { watcher, to, patience };
            match holder.map(|holder| NodeName::parse(&holder).map_err(|_| holder)) {
                Some(Ok(node)) => self.pass_on(request, node, command, actions),
                Some(Err(holder)) => return Err(Refusal::NotHolder { watcher: name, holder: Some(holder) }),
                // Who has no part in it, because this node is drained, say, does not know: the registry does.
                None => self.ask_roster(request, command, actions),
            }
        } else if to.as_ref() == Some(&self.name) {
            return Err(Refusal::NoCandidate(format!("{name} is on {} already", self.name)));
        } else if self.clustered {
            self.ask_roster(request, Command::Failover { watcher, to, patience }, actions);
        } else {
            self.fail_over(request, &watcher, to, patience, None, actions);
        }
        Ok(())
    }

    /// The node that says of itself that it holds a lease which is not held here.
    pub(super) fn elsewhere(&self, watcher: &str, rows: &[NodeRow]) -> Option<NodeName> {
        let lease = self.watchers.get(self.find(watcher).ok()?)?.lease()?;
        if matches!(lease.hold(self.now), Hold::Firm { .. }) {
            return None;
        }
        let holds = |row: &&NodeRow| row.about.holds.iter().any(|held| is_called(held, watcher));
        let live = rows.iter().filter(|row| matches!(row.state, NodeState::Up | NodeState::Draining));
        live.filter(holds).map(|row| row.name.clone()).find(|name| *name != self.name)
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
        let reply = match self.plan_move(watcher, to, rows) {
            Err(refusal) => Some(Reply::Refused(refusal)),
            Ok(Move { key, to, token }) => {
                let by = self.asker(request);
                self.watchers.stir(key).part(to.clone(), by);
                let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
                log(actions, Level::Info, format!("{watcher}: moving to {whom}, as asked"));
                let from = self.name.clone();
                match patience {
                    Patience::Admitted => {
                        let stays = self.watchers[key].is_elected();
                        Some(Reply::Done(Answer::Moved { from, to, token, stays }))
                    }
                    Patience::Settled => self.wait_or(patience, request, Goal::Moved { key, to, token }),
                }
            }
        };
        if let Some(reply) = reply {
            self.reply(request, reply, actions);
        }
    }

    /// What a move comes to, if it can be made.
    fn plan_move(&self, watcher: &str, to: Option<NodeName>, rows: Option<&[NodeRow]>) -> Result<Move, Refusal> {
        let now = self.now;
        let key = self.find(watcher)?;
        let watcher = self.watchers[key].spec().name.clone();
        let hold = self.watchers[key].lease().map(|lease| lease.hold(now));
        let Some(Hold::Firm { token, .. }) = hold else {
            return Err(Refusal::NotHolder { watcher, holder: None });
        };
        // Where its holder is elected the members are known, with a registry or without.
        let absent = rows.zip(to.as_ref()).and_then(|(rows, to)| absence(to, rows));
        let elected = self.watchers[key].elected_successor(now, to.as_ref(), absent);
        let to = match (elected, rows) {
            (Some(elected), _) => Some(elected.map_err(Refusal::NoCandidate)?),
            (None, Some(rows)) => Some(successor(&watcher, &self.name, to, rows).map_err(Refusal::NoCandidate)?),
            // Whoever waits for the lease will have it.
            (None, None) => to,
        };
        Ok(Move { key, to, token })
    }

    // ---- look-ups ----

    /// The watcher a user means.
    pub(super) fn find(&self, text: &str) -> Result<Key, Refusal> {
        let found = self.watchers.position(|watcher| watcher.spec().name.matches(text));
        found.filter(|key| !self.leaving.contains(key)).ok_or_else(|| self.no_such(text))
    }

    /// What there is to see of the legion a user means.
    fn of_legion<T>(&self, text: &str, see: impl Fn(&Watcher) -> Option<T>) -> Result<T, Refusal> {
        let meant = self.find(text).ok().map(|key| &self.watchers[key]);
        if let Some(seen) = meant.and_then(&see) {
            return Ok(seen);
        }
        let legions = self.watchers.iter().filter(|watcher| see(watcher).is_some());
        let like = || nearest(text, legions.map(|watcher| &watcher.spec().name)).cloned();
        let hint = meant.and_then(Watcher::leader).cloned().or_else(like);
        Err(Refusal::NoSuchLegion { name: text.to_owned(), hint })
    }

    /// The lease of the singleton a user means.
    pub(super) fn lease_of(&self, text: &str) -> Result<LeaseName, Refusal> {
        let watcher = &self.watchers[self.find(text)?];
        watcher.lease().map(|lease| lease.name().clone()).ok_or_else(|| without_lease(watcher))
    }

    /// Has read what is known of leases and schedules: of one watcher, or of all that have either.
    fn ask_history(
        &mut self,
        request: RequestId,
        watcher: Option<&str>,
        count: usize,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Refusal> {
        let meant: Vec<&Watcher> = match watcher {
            Some(text) => vec![&self.watchers[self.find(text)?]],
            None => self.watchers.iter().collect(),
        };
        let (mut leases, mut schedules, mut here) = (Vec::new(), Vec::new(), Vec::new());
        for one in meant {
            leases.extend(one.lease().map(|lease| lease.name().clone()));
            match one.runs() {
                Runs::Kept(schedule) => schedules.push(schedule),
                Runs::Here(runs) => here.push((name_of(one), runs)),
                Runs::None if watcher.is_some() && one.lease().is_none() => return Err(without_lease(one)),
                Runs::None => {}
            }
        }
        // What the agent keeps by itself it tells also where there is no store.
        if leases.is_empty() && schedules.is_empty() && !here.is_empty() {
            return Ok(Some(Reply::Done(histories(count, HistoryRead::default(), here))));
        }
        actions.push(Action::ReadHistory { request, leases, schedules });
        Ok(self.wait_or(Patience::Settled, request, Goal::HistoryRead { count, here }))
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
        let hint = nearest(text, names).cloned();
        Refusal::NoSuchWatcher { name: text.to_owned(), hint }
    }
}

pub(super) fn name_of(watcher: &Watcher) -> WatcherName {
    watcher.spec().name.clone()
}

/// Why what is asked of a lease is not asked of this watcher.
pub(super) fn without_lease(watcher: &Watcher) -> Refusal {
    let name = name_of(watcher);
    match watcher.leader() {
        Some(legion) => Refusal::BadMessage(format!("{name} runs where the legion {legion} is led: ask for {legion}")),
        None => Refusal::NotSingleton(name),
    }
}

/// A move that may begin.
struct Move {
    key: Key,
    to: Option<NodeName>,
    token: u64,
}

/// The node that takes a singleton over: the one asked for, if it can, or of those that can the one heard of last.
pub(super) fn successor(
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
    let why = absence(&to, rows).unwrap_or_else(|| "it does not wait for it".to_owned());
    Err(format!("{to} cannot take {watcher}: {why}; {hint}"))
}

/// Why a node can take nothing at all, as far as the registry knows.
fn absence(node: &NodeName, rows: &[NodeRow]) -> Option<String> {
    let Some(row) = rows.iter().find(|row| row.name == *node) else {
        let near = nearest(node.as_str(), rows.iter().map(|row| &row.name));
        return Some(match near {
            Some(near) => format!("no such node is registered, did you mean {near}?"),
            None => "no such node is registered".to_owned(),
        });
    };
    let seen = row.seen.as_secs();
    (row.state != NodeState::Up).then(|| format!("it is {} (last seen {seen} s ago)", row.state.word()))
}
