//! A watcher's hooks: what is called when, and what goes on once it has come back.
//!
//! Whatever a hook stands before waits for it, and for nothing else: each call has its own continuation, and no call
//! outlasts its time. Where a lease is being lost nothing waits at all: what is out is called off, and what is called
//! then ends by the end of the lease. No lease is given away while a call is out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Stage, Watcher};
use crate::model::command::Sample;
use crate::model::event::{Action, Exit, HookAbout, HookCall, HookEnd, HookId, Level, News, ProcessId, Reach};
use crate::model::lease::Hold;
use crate::model::spec::{HookPoint, HookProgram, WatcherSpec};
use crate::model::time::Time;

/// The calls that are out, and those that are to be made.
#[derive(Debug, Default)]
pub(super) struct Calls {
    out: BTreeMap<HookId, Out>,
    wanted: Vec<(HookPoint, Facts, Next)>,
}

/// A call that is out.
#[derive(Debug)]
struct Out {
    point: HookPoint,
    next: Next,
    /// Its time is within what is left of a lease that is being lost.
    hurried: bool,
}

/// What a call is about, besides the watcher.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) pid: Option<u32>,
    pub(super) wid: Option<u32>,
    pub(super) signal: Option<i32>,
    pub(super) exit: Option<Exit>,
}

/// What goes on when a call has come back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// The watcher's processes may run.
    Open,
    /// The watcher has come up.
    Settle,
    /// This process may be spawned.
    Spawn(ProcessId),
    /// And this one told of.
    Announce(ProcessId),
    /// The processes are stopped.
    Drain,
    /// Nothing of it is left, and nothing is out.
    Close,
    /// This process is sent this signal.
    Send { process: ProcessId, signal: i32, reach: Reach },
    /// The end of a process is told.
    TellEnd { wid: u32, pid: u32, exit: Exit },
    /// Nothing.
    Nothing,
}

impl Calls {
    /// Whether none is out, and none is to be made.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty() && self.wanted.is_empty()
    }
}

impl Watcher {
    /// Calls off all hooks that are out, and makes none: what they stood before happens without them.
    pub(super) fn call_off_hooks(&mut self, actions: &mut Vec<Action>) {
        self.calls.wanted.clear();
        self.call_off(|_| true, actions);
    }

    /// Calls off those that may take longer than what is left of a lease.
    pub(super) fn hurry_hooks(&mut self, actions: &mut Vec<Action>) {
        self.call_off(|out| !out.hurried, actions);
    }

    fn call_off(&mut self, meant: impl Fn(&Out) -> bool, actions: &mut Vec<Action>) {
        let (off, staying) = std::mem::take(&mut self.calls.out).into_iter().partition(|(_, out)| meant(out));
        self.calls.out = staying;
        let off: BTreeMap<HookId, Out> = off;
        for (hook, Out { next, .. }) in off {
            actions.push(Action::CallOff { hook });
            // An end is told in any case; the stages move on by themselves.
            if let Next::TellEnd { wid, pid, exit } = next {
                self.tell_end(wid, pid, exit, actions);
            }
        }
    }

    /// Has the hook of `point` called, if there is one; `next` then waits for it.
    pub(super) fn call(&mut self, point: HookPoint, facts: Facts, next: Next) -> bool {
        let there_is = self.spec.hooks.contains_key(&point);
        if there_is {
            self.calls.wanted.push((point, facts, next));
        }
        there_is
    }

    /// Orders the calls that are wanted.
    pub(super) fn order_calls(&mut self, now: Time, ids: &mut u64, actions: &mut Vec<Action>) {
        let hurried = matches!(self.hold(now), Some(Hold::Losing { .. }));
        for (point, facts, next) in std::mem::take(&mut self.calls.wanted) {
            let Some(call) = self.call_at(now, point, facts) else { continue };
            *ids += 1;
            let hook = HookId(*ids);
            self.calls.out.insert(hook, Out { point, next, hurried });
            actions.push(Action::Hook { hook, call: Box::new(call), timeout: self.hook_time(now) });
        }
    }

    /// How long a hook may take: nothing of a watcher outlasts its lease.
    fn hook_time(&self, now: Time) -> Duration {
        match self.hold(now) {
            Some(Hold::Losing { kill }) => self.spec.hook_timeout.min(now.until(kill)),
            Some(Hold::Firm { .. } | Hold::No) | None => self.spec.hook_timeout,
        }
    }

    /// The call of the hook that adds to the statistics of a process, where there is one.
    pub fn stats_call(&self, now: Time, sample: &Sample) -> Option<(HookCall, Duration)> {
        let facts = Facts { pid: Some(sample.pid), wid: Some(sample.wid), ..Facts::default() };
        let stats = Some(sample.clone());
        let call = HookCall { stats, ..self.call_at(now, HookPoint::ExtendedStats, facts)? };
        Some((call, self.hook_time(now)))
    }

    /// The call of the hook of this point, where there is one.
    fn call_at(&self, now: Time, point: HookPoint, facts: Facts) -> Option<HookCall> {
        let hook = self.spec.hooks.get(&point)?;
        let Facts { pid, wid, signal, exit } = facts;
        let (_, env) = self.lease_env(now);
        Some(HookCall { pid, wid, signal, exit, ..self.hook_call(now, point, hook.program.clone(), env) })
    }

    /// A call of this program, about the watcher.
    pub(super) fn hook_call(
        &self,
        now: Time,
        point: HookPoint,
        program: HookProgram,
        env: Vec<(String, String)>,
    ) -> HookCall {
        let (cluster, node) = &self.me;
        let about = HookAbout {
            watcher: self.spec.name.clone(),
            node: node.clone(),
            cluster: cluster.clone(),
            status: self.state(now).word(),
            numprocesses: self.numprocesses,
            processes: self.process_views(now),
            settings: Arc::clone(&self.settings),
        };
        let token = self.hold(now).and_then(|hold| match hold {
            Hold::Firm { token, .. } => Some(token),
            Hold::Losing { .. } | Hold::No => None,
        });
        HookCall {
            point,
            program,
            about,
            surroundings: Arc::clone(&self.program),
            pid: None,
            wid: None,
            signal: None,
            exit: None,
            stats: None,
            token,
            env,
        }
    }

    /// A hook came back. One that is not waited for any more is told of by nobody.
    pub fn hook_ended(&mut self, now: Time, hook: HookId, end: &HookEnd, actions: &mut Vec<Action>) {
        if self.affair_ended(hook, end, actions) {
            return;
        }
        let Some(Out { point, next, .. }) = self.calls.out.remove(&hook) else { return };
        self.tell_hook(point, end, actions);
        let go_on = goes_on(&self.spec, point, end);
        let why = || match end {
            HookEnd::Returned { .. } => format!("hook {} said no", point.name()),
            HookEnd::Failed(why) => format!("hook {} failed: {why}", point.name()),
        };
        match (next, go_on) {
            (Next::Open, true) if self.stage == Stage::Opening => self.stage = Stage::Open,
            (Next::Open, false) if self.stage == Stage::Opening => {
                self.stage = Stage::Closed;
                self.give_up(now, why(), actions);
            }
            (Next::Settle, true) if self.stage == Stage::Confirming => self.settle_in(actions),
            (Next::Settle, false) if self.stage == Stage::Confirming => self.give_up(now, why(), actions),
            (Next::Spawn(id), true) => self.with_process(id, |process| process.allow()),
            (Next::Spawn(id), false) => {
                self.processes.retain(|process| process.id != id);
                self.give_up(now, why(), actions);
            }
            (Next::Announce(id), true) => self.announce(id, actions),
            (Next::Announce(_), false) => self.give_up(now, why(), actions),
            (Next::Drain, _) if self.stage == Stage::Parting => self.stage = Stage::Draining,
            (Next::Close, _) if self.stage == Stage::Leaving => self.stage = Stage::Closed,
            (Next::Send { process, signal, reach }, true) => self.send(process, signal, reach, actions),
            (Next::TellEnd { wid, pid, exit }, _) => self.tell_end(wid, pid, exit, actions),
            (
                Next::Open | Next::Settle | Next::Drain | Next::Close | Next::Send { .. } | Next::Nothing,
                true | false,
            ) => {}
        }
    }

    /// Says how a hook ended.
    pub fn tell_hook(&self, point: HookPoint, end: &HookEnd, actions: &mut Vec<Action>) {
        match end {
            HookEnd::Returned { .. } => self.publish(News::HookSuccess { hook: point }, actions),
            HookEnd::Failed(error) => {
                self.say(actions, Level::Warn, None, &format!("hook {}: {error}", point.name()));
                self.publish(News::HookFailure { hook: point, error: error.clone() }, actions);
            }
        }
    }
}

/// Whether what a hook stood before happens (Circus's rules): a failure counts only where it can, and unless it is to be
/// ignored; a plain "no" counts there too, and keeps a signal from being sent.
fn goes_on(spec: &WatcherSpec, point: HookPoint, end: &HookEnd) -> bool {
    match end {
        HookEnd::Returned { truth, .. } => *truth || !(point.can_fail() || point == HookPoint::BeforeSignal),
        HookEnd::Failed(_) => !point.can_fail() || spec.hooks.get(&point).is_some_and(|hook| hook.ignore_failure),
    }
}
