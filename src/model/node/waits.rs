//! Requests that are answered when what they wait for has come true, or cannot.

use std::collections::BTreeSet;

use super::Node;
use super::pauses::Pausing;
use super::watchers::Key;
use crate::model::command::{Answer, Patience, Refusal, Reply, RequestId, Sample};
use crate::model::drill::Drill;
use crate::model::event::{Action, HistoryRead, ProcessId, TokenState};
use crate::model::history::{self, Entry, History};
use crate::model::lease::Hold;
use crate::model::names::{NodeName, WatcherName};
use crate::model::plan::Plan;
use crate::model::runs::{self, Run};
use crate::model::snapshot::WatcherState;
use crate::model::time::Time;
use crate::model::watcher::Watcher;

/// A request that is answered when its watchers settle.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) request: RequestId,
    pub(super) goal: Goal,
}

/// What it waits for.
#[derive(Debug)]
pub(super) enum Goal {
    /// These are up, and where `replace` none of the processes from before is left.
    Up { keys: Vec<Key>, before: BTreeSet<ProcessId>, pids: Vec<u32>, replace: bool },
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
    /// The store says how a token stands.
    Checked { watcher: WatcherName, token: u64 },
    /// The store has heard a wish to pause or to resume, and the holder has gone.
    Paused(Box<Pausing>),
    /// What the store keeps comes back.
    HistoryRead { count: usize, here: Vec<(WatcherName, Vec<Run>)> },
    /// The registry says whether the name can be had.
    Renamed,
    /// The witness of a drill watches.
    Drilled { drill: Box<Drill> },
    /// Nothing runs here any more, and the agent stays.
    Drained,
    /// The agent has ended.
    Left,
}

impl Wait {
    /// When there is something to do about it, though nothing happens.
    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.goal {
            Goal::Paused(pausing) => pausing.look,
            _ => None,
        }
    }
}

/// What was read of leases and schedules, with what the agent keeps by itself of others: `count` of each.
pub(super) fn histories(count: usize, read: HistoryRead, here: Vec<(WatcherName, Vec<Run>)>) -> Answer {
    let HistoryRead { now, leases, schedules } = read;
    let of_lease = |(watcher, entries): (WatcherName, Vec<Entry>)| (watcher, history::fold(&entries, now));
    let mut told: Vec<(WatcherName, History)> = leases.into_iter().map(of_lease).collect();
    let kept = schedules.into_iter().map(|read| (read.watcher, runs::fold(&read.entries, read.holder)));
    for (watcher, runs) in kept.chain(here) {
        match told.iter_mut().find(|(known, _)| *known == watcher) {
            Some((_, history)) => history.runs = Some(runs),
            None => told.push((watcher, History { runs: Some(runs), ..History::default() })),
        }
    }
    for (_, history) in &mut told {
        history.tenures.truncate(count);
        history.runs.iter_mut().for_each(|runs| runs.truncate(count));
    }
    Answer::Histories(told)
}

impl Node {
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
    pub(super) fn up_goal(&self, keys: Vec<Key>, replace: bool) -> Goal {
        let before = keys.iter().flat_map(|key| self.watchers[*key].ids()).collect();
        let pids = keys.iter().flat_map(|key| self.watchers[*key].pids()).map(|(_, pid)| pid).collect();
        Goal::Up { keys, before, pids, replace }
    }

    /// The store said how a token stands, or could not be asked.
    pub(super) fn lease_checked(
        &mut self,
        request: RequestId,
        result: Result<TokenState, String>,
        actions: &mut Vec<Action>,
    ) {
        let goal = self.take_wait(request, |goal| matches!(goal, Goal::Checked { .. }));
        let Some(Goal::Checked { watcher, token }) = goal else { return };
        let reply = match result {
            Ok(state) => Reply::Done(Answer::LeaseChecked { watcher, token, state }),
            Err(why) => Reply::Refused(Refusal::Unavailable(format!("{}: {why}", self.store_name()))),
        };
        self.reply(request, reply, actions);
    }

    /// What the store keeps was read for a request.
    pub(super) fn history_read(
        &mut self,
        request: RequestId,
        read: Result<HistoryRead, String>,
        actions: &mut Vec<Action>,
    ) {
        let goal = self.take_wait(request, |goal| matches!(goal, Goal::HistoryRead { .. }));
        let Some(Goal::HistoryRead { count, here }) = goal else { return };
        let reply = match read {
            Ok(read) => Reply::Done(histories(count, read, here)),
            Err(why) => Reply::Refused(Refusal::Unavailable(format!("{}: {why}", self.store_name()))),
        };
        self.reply(request, reply, actions);
    }

    // ---- open requests ----

    /// What a request waits for, which is due now; nothing where it waits for something else, or not any more.
    pub(super) fn take_wait(&mut self, request: RequestId, is: impl Fn(&Goal) -> bool) -> Option<Goal> {
        let index = self.waits.iter().position(|wait| wait.request == request && is(&wait.goal))?;
        Some(self.waits.remove(index).goal)
    }

    /// Answers all requests that are still open: the agent leaves.
    pub(super) fn dismiss(&mut self, actions: &mut Vec<Action>) {
        for wait in std::mem::take(&mut self.waits) {
            let reply = match wait.goal {
                Goal::Paused(pausing) => pausing.reply(),
                Goal::Left | Goal::Drained | Goal::Down { .. } | Goal::Removed { .. } | Goal::Killed { .. } => {
                    Reply::Done(Answer::Ok)
                }
                Goal::Up { .. }
                | Goal::Added { .. }
                | Goal::Resized { .. }
                | Goal::AsTold { .. }
                | Goal::Applied { .. }
                | Goal::Moved { .. }
                | Goal::Sampled { .. }
                | Goal::Checked { .. }
                | Goal::HistoryRead { .. }
                | Goal::Renamed
                | Goal::Drilled { .. }
                | Goal::Extended { .. } => Reply::Refused(Refusal::Stopping),
            };
            self.reply(wait.request, reply, actions);
        }
        let mut asked: Vec<RequestId> = self.readings.keys().chain(self.amendments.keys()).copied().collect();
        asked.extend(self.forget_openings().into_iter().filter(|request| !self.readings.contains_key(request)));
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
        self.socket_amendments.remove(&request);
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
            Goal::Left
            | Goal::Sampled { .. }
            | Goal::Checked { .. }
            | Goal::Renamed
            | Goal::Drilled { .. }
            | Goal::Paused(_)
            | Goal::HistoryRead { .. } => None,
            Goal::Extended { calls, .. } if *calls > 0 => None,
            Goal::Extended { watcher, pid, samples, .. } => {
                let watcher = watcher.and_then(|key| self.watchers.get(key)).map(|watcher| watcher.spec().name.clone());
                match samples.as_slice() {
                    // The agent's own sample belongs to no slot.
                    [own] if watcher.is_none() && own.wid == 0 => done(Answer::AgentStats(own.clone())),
                    samples => {
                        let rests = |name: &WatcherName| !samples.iter().any(|sample| sample.watcher == *name);
                        let all = self
                            .watchers
                            .iter()
                            .filter(|_| watcher.is_none())
                            .map(|watcher| watcher.spec().name.clone());
                        let idle = all.filter(rests).collect();
                        done(Answer::Stats { watcher, pid: *pid, samples: samples.to_vec(), idle })
                    }
                }
            }
            Goal::Drained if self.drained.is_none() => {
                Some(Reply::Refused(Refusal::Failed(format!("{} was undrained meanwhile", self.name))))
            }
            Goal::Drained => self.is_all_down().then_some(Reply::Done(Answer::Ok)),
            Goal::Down { keys } => {
                let mut watchers = keys.iter().filter_map(|key| self.watchers.get(*key));
                let answer = if keys.len() == 1 { Answer::Stopped } else { Answer::Ok };
                match watchers.clone().find(|watcher| !watcher.is_at_rest()) {
                    Some(watcher) => Some(called_back(watcher)),
                    None => watchers.all(Watcher::is_down).then_some(Reply::Done(answer)),
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
                let all = watcher.is_full() && is_up(watcher, now);
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
                let (from, stays) = (self.name.clone(), watcher.is_elected());
                let answer = Answer::Moved { from, to: to.clone(), token: *token, stays };
                (clear && watcher.is_empty()).then_some(Reply::Done(answer))
            }
            Goal::Added { key } => {
                let Some(watcher) = self.watchers.get(*key) else { return Some(removed()) };
                if let Some(failed) = failure(watcher, now) {
                    return Some(failed);
                }
                let up = is_up(watcher, now) || watcher.is_at_rest();
                let started = watcher.pids().into_iter().map(|(_, pid)| pid).collect();
                up.then_some(Reply::Done(Answer::Added { started }))
            }
            Goal::Up { keys, before, pids, replace } => {
                if let Some(failed) = self.new_failure(keys) {
                    return Some(failed);
                }
                let mut watchers = keys.iter().filter_map(|key| self.watchers.get(*key));
                if let ([_], false, Some(refusal)) = (&keys[..], replace, watchers.clone().find_map(Watcher::paused)) {
                    return Some(Reply::Refused(refusal));
                }
                let replaced = |watcher: &Watcher| !replace || watcher.ids().iter().all(|id| !before.contains(id));
                let stays = |watcher: &Watcher| watcher.staying().any(|id| before.contains(&id));
                let kept =
                    |watcher: &&Watcher| *replace && stays(watcher) && watcher.is_as_told() && !watcher.is_at_rest();
                if let Some(watcher) = watchers.clone().find(kept) {
                    let note = watcher.note(now).map_or_else(String::new, |note| format!(": {note}"));
                    let text = format!("{} keeps its old processes{note}", watcher.spec().name);
                    return Some(Reply::Refused(Refusal::Failed(text)));
                }
                let up = |watcher: &Watcher| is_up(watcher, now) || watcher.state(now) == WatcherState::Stopped;
                if !watchers.clone().all(|watcher| replaced(watcher) && up(watcher)) {
                    return None;
                }
                let (Some(watcher), None) = (watchers.next(), watchers.next()) else { return done(Answer::Ok) };
                let live: Vec<u32> = watcher.pids().into_iter().map(|(_, pid)| pid).collect();
                let (kept, started) = live.iter().copied().partition(|pid| pids.contains(pid));
                let stopped = pids.iter().copied().filter(|pid| !live.contains(pid)).collect();
                done(Answer::Started { started, kept, stopped })
            }
        }
    }

    /// Whether these are as their settings say; the first that fails ends the wait.
    fn as_told(&self, keys: &[Key]) -> Option<Result<(), Reply>> {
        if let Some(failed) = self.new_failure(keys) {
            return Some(Err(failed));
        }
        let queued = |key: &Key| self.queue.contains(key);
        let settled = |watcher: &Watcher| {
            watcher.is_as_told() && (watcher.is_down() || (!watcher.is_at_rest() && is_up(watcher, self.now)))
        };
        let mut watchers = keys.iter().filter_map(|key| self.watchers.get(*key));
        (watchers.all(settled) && !keys.iter().any(queued)).then_some(Ok(()))
    }

    /// Why one of these does not come up, where that shows in this step; in an earlier one it was told already.
    fn new_failure(&self, keys: &[Key]) -> Option<Reply> {
        let touched = self.watchers.touched().iter().filter(|key| keys.contains(key));
        touched.filter_map(|key| self.watchers.get(*key)).find_map(|watcher| failure(watcher, self.now))
    }
}

/// Whether it runs as it should, here or elsewhere. A singleton whose lease was not answered for yet may be about to.
fn is_up(watcher: &Watcher, now: Time) -> bool {
    match watcher.state(now) {
        WatcherState::Active | WatcherState::Unhealthy | WatcherState::Listening | WatcherState::Scheduled => true,
        WatcherState::Standby => watcher.is_known_standby(),
        WatcherState::Stopped
        | WatcherState::Starting
        | WatcherState::Backoff
        | WatcherState::Stopping
        | WatcherState::Failed => false,
    }
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
    let missing = !watcher.is_at_rest() && watcher.missing_socket().is_some();
    (missing || matches!(watcher.state(now), WatcherState::Failed | WatcherState::Backoff)).then(|| {
        let note = watcher.note(now).unwrap_or_else(|| "it does not run".into());
        Reply::Refused(Refusal::Failed(format!("{}: {note}", watcher.spec().name)))
    })
}
