//! What others may see of a watcher.

use std::time::Duration;

use super::{Cause, End, Goal, Stage, Watcher, secs};
use crate::model::command::Refusal;
use crate::model::event::ProcessId;
use crate::model::lease::{Hold, Lease};
use crate::model::process::Process;
use crate::model::snapshot::{LeaseRole, LeaseView, ProcessView, WatcherState, WatcherView};
use crate::model::time::Time;

impl Watcher {
    /// The next deadline of anything inside.
    pub fn next_wakeup(&self, now: Time) -> Option<Time> {
        let processes = self.processes.iter().filter_map(Process::next_wakeup).min();
        let lease = self.lease.as_ref().and_then(Lease::next_wakeup);
        let may_run = matches!(self.hold(now), None | Some(Hold::Firm { .. }));
        let open = matches!(self.stage, Stage::Open | Stage::Confirming | Stage::Settled);
        let growing = open && may_run && !self.must_go() && self.has_its_sockets();
        let start = growing.then(|| self.open_slots().into_iter().map(|wid| self.start_due(wid)).min()).flatten();
        let roll = self.roll.as_ref().and_then(|roll| roll.next_wakeup(&self.processes, now));
        let legion = self.next_muster(now).into_iter().chain(self.next_doubt(now)).min();
        [processes, lease, legion, start, roll, self.next_look(), self.next_slot()].into_iter().flatten().min()
    }

    /// Whether nothing of it runs and no lease is held: what a stop comes to.
    pub fn is_down(&self) -> bool {
        self.is_empty() && self.lease.as_ref().is_none_or(Lease::is_clear)
    }

    /// Whether nothing of it runs, and no hook of its start or stop is out.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.stage == Stage::Closed
    }

    /// Whether all that runs of it is being killed.
    pub fn is_being_killed(&self) -> bool {
        self.stage == Stage::Draining && self.processes.iter().all(Process::is_being_killed)
    }

    /// Whether the lease is being given away, in an orderly move or after failures.
    pub fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// That nobody is to run it, as far as this node knows.
    pub fn paused(&self) -> Option<Refusal> {
        let pause = self.lease.as_ref()?.pause()?.clone();
        Some(Refusal::Paused { watcher: self.spec.name.clone(), pause })
    }

    /// Whether nothing of it is wanted.
    pub fn is_at_rest(&self) -> bool {
        self.goal != Goal::Run
    }

    /// Whether it gave up.
    pub fn has_failed(&self) -> bool {
        matches!(self.goal, Goal::Rest(Cause::Failed(_)))
    }

    /// Whether what waits for it may go on: it is up, or another node has it up.
    pub fn is_up(&self, now: Time) -> bool {
        matches!(
            self.state(now),
            WatcherState::Active
                | WatcherState::Unhealthy
                | WatcherState::Listening
                | WatcherState::Scheduled
                | WatcherState::Standby
        )
    }

    /// Whether its processes are all as it says they should be: none is being replaced, and it is to become nothing else.
    pub fn is_as_told(&self) -> bool {
        self.roll.is_none() && self.heir.is_none() && !self.recycle
    }

    /// Whether it has as many processes as are wanted, counting those that ended and are not replaced.
    pub fn is_full(&self) -> bool {
        let (there, wanted) = (self.processes.len(), self.numprocesses as usize);
        there <= wanted && there + self.retired.len() >= wanted
    }

    /// Whether nothing of it runs, and since when only the store is waited for.
    pub fn releasing_since(&self) -> Option<Time> {
        self.lease.as_ref().filter(|_| self.is_empty()).and_then(Lease::releasing_since)
    }

    /// Pids of its live main processes, by slot.
    pub fn pids(&self) -> Vec<(u32, u32)> {
        let mut pids: Vec<_> = self.processes.iter().filter_map(|p| Some((p.wid, p.pid()?))).collect();
        pids.sort_unstable();
        pids
    }

    /// Ids of its processes, those included whose tree is being ended.
    pub fn ids(&self) -> Vec<ProcessId> {
        self.processes.iter().map(|process| process.id).collect()
    }

    /// Ids of its processes that are to go on.
    pub fn staying(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.processes.iter().filter(|process| process.is_staying()).map(|process| process.id)
    }

    /// How it is.
    pub fn state(&self, now: Time) -> WatcherState {
        match &self.goal {
            Goal::Rest(_) if !self.is_empty() => WatcherState::Stopping,
            Goal::Rest(Cause::Failed(_)) => WatcherState::Failed,
            Goal::Rest(_) => WatcherState::Stopped,
            Goal::Run => match self.hold(now) {
                Some(Hold::No) if self.is_empty() => WatcherState::Standby,
                Some(Hold::No) => WatcherState::Stopping,
                Some(Hold::Losing { .. }) => WatcherState::Stopping,
                None if self.is_asleep() && self.is_empty() => WatcherState::Listening,
                Some(Hold::Firm { .. }) | None if self.is_scheduled() => WatcherState::Scheduled,
                Some(Hold::Firm { .. }) | None if self.must_go() => WatcherState::Stopping,
                Some(Hold::Firm { .. }) | None if self.pausing(now).is_some() => WatcherState::Backoff,
                Some(Hold::Firm { .. }) | None => {
                    let up = self.stage == Stage::Settled && self.all_up();
                    match self.processes.iter().any(Process::is_unwell) {
                        _ if !up => WatcherState::Starting,
                        true => WatcherState::Unhealthy,
                        false => WatcherState::Active,
                    }
                }
            },
        }
    }

    /// How long the next start of an open slot is put off because of failures.
    pub(super) fn pausing(&self, now: Time) -> Option<Duration> {
        let open = self.open_slots();
        let paused = open.iter().filter_map(|wid| self.slots.get(wid));
        paused.filter(|slot| slot.failures() > 0 && slot.next() > now).map(|slot| now.until(slot.next())).min()
    }

    /// Why it is as it is, where that is a question.
    pub fn note(&self, now: Time) -> Option<String> {
        if let (Some(gate), true) = (&self.stop_gate, self.must_go()) {
            return Some(format!("waits for {gate} to stop"));
        }
        match &self.goal {
            Goal::Rest(Cause::NotStarted) => Some("not started".into()),
            Goal::Rest(Cause::Asked(_)) => None,
            Goal::Rest(Cause::Ended(why) | Cause::Failed(why)) => Some(why.clone()),
            Goal::Run => {
                let lease = || {
                    let firm = matches!(self.hold(now), Some(Hold::Firm { .. }));
                    if self.lease.is_some() || !firm { self.standby_because() } else { None }
                };
                let gate = || {
                    let gate = self.start_gate.as_ref().filter(|_| self.stage == Stage::Closed);
                    gate.map(|gate| format!("waits for {gate}"))
                };
                let asleep =
                    || (self.is_asleep() && self.is_empty()).then(|| "starts at the first connection".to_owned());
                let missing = || self.missing_socket().map(|name| format!("there is no socket {name}"));
                let unbound = || (!self.has_its_sockets()).then(|| "waits for its sockets".to_owned());
                let pause = || {
                    let end = self.last_end.as_ref().map_or_else(String::new, |(end, _)| format!("{end}, "));
                    self.pausing(now).map(|pause| format!("{end}again in {}", secs(pause)))
                };
                let hook = || match self.stage {
                    Stage::Opening => Some("hook before_start runs".into()),
                    Stage::Confirming => Some("hook after_start runs".into()),
                    Stage::Parting => Some("hook before_stop runs".into()),
                    Stage::Leaving => Some("hook after_stop runs".into()),
                    Stage::Closed | Stage::Open | Stage::Settled | Stage::Draining => None,
                };
                // Of one that is on demand, those that had nothing more to do.
                let why = if self.spec.respawn { "exit 0" } else { "and respawn is off" };
                let retired = || match self.retired.len() {
                    0 => None,
                    ended => Some(format!("{ended} of {} ended, {why}", self.numprocesses)),
                };
                let complaint = || {
                    let found = self.processes.iter().find_map(|process| Some((process.wid, process.complaint()?)));
                    found.map(|(wid, why)| format!("#{wid}: {why}"))
                };
                lease()
                    .or_else(gate)
                    .or_else(missing)
                    .or_else(unbound)
                    .or_else(asleep)
                    .or_else(|| self.timetable(now))
                    .or_else(pause)
                    .or_else(hook)
                    .or_else(complaint)
                    .or_else(retired)
            }
        }
    }

    pub(super) fn process_views(&self, now: Time) -> Vec<ProcessView> {
        let mut processes: Vec<_> = self.processes.iter().map(|process| process.view(now)).collect();
        processes.sort_by_key(|process| process.wid);
        processes
    }

    /// What others may see of its lease. Who waits for the lease behind a better member does so without asking for it.
    pub fn lease_view(&self, now: Time) -> Option<LeaseView> {
        let view = self.lease.as_ref()?.view(now);
        let role = if self.is_behind(now) { LeaseRole::Standby } else { view.role };
        Some(LeaseView { role, ..view })
    }

    /// What others may see of it.
    pub fn view(&self, now: Time) -> WatcherView {
        let last_exit = self.last_end.as_ref().and_then(|(end, at)| match end {
            End::Exit(exit) => Some((*exit, now.since(*at))),
            End::NoStart(_) | End::Fault(_) => None,
        });
        WatcherView {
            name: self.spec.name.clone(),
            state: self.state(now),
            note: self.note(now),
            numprocesses: self.numprocesses,
            processes: self.process_views(now),
            restarts: self.restarts,
            last_exit,
            next_try: self.pausing(now),
            lease: self.lease_view(now),
            legion: self.legion_view(now),
            cron: self.cron_view(),
        }
    }
}
