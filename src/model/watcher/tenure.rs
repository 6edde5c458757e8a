//! What is kept of a singleton's tenures: when the first child of one ran, and when and why the last was gone.
//!
//! Two facts at most of each, so that a child which crashes all day long does not push the moves out of the history.

use super::{Cause, Goal, Parting, Watcher};
use crate::model::event::{Action, Level};
use crate::model::history::{self, Ending, Fact, What};
use crate::model::lease::{After, Hold, Lease};
use crate::model::time::Time;

/// The tenure in which its processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tenure {
    token: u64,
    /// Since when nothing of it is left, or was the last time.
    empty: Option<Time>,
}

impl Watcher {
    /// A process runs: the first of its tenure is told.
    pub(super) fn has_started(&mut self, now: Time, pid: u32, actions: &mut Vec<Action>) {
        let Some(token) = self.lease.as_ref().and_then(Lease::token) else { return };
        if self.tenure.is_none_or(|tenure| tenure.token != token) {
            self.tenure = Some(Tenure { token, empty: None });
            self.record(Fact { token, at: now, what: What::Started { pid } }, actions);
        }
    }

    /// A process is gone, tree and all, since then.
    pub(super) fn has_gone(&mut self, since: Time) {
        if let Some(tenure) = &mut self.tenure
            && self.processes.is_empty()
        {
            tenure.empty = Some(since);
        }
    }

    /// Has the lease given away in good order where nobody is to have it any more. It is asked for again at once: so the end
    /// of that is heard of.
    pub(super) fn yield_to_pause(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(lease) = &self.lease else { return };
        let (Some(pause), Hold::Firm { .. }) = (lease.pause().cloned(), lease.hold(now)) else { return };
        if self.goal != Goal::Run || self.parting.is_some() || self.heir.is_some() {
            return;
        }
        self.say(actions, Level::Info, None, &format!("{pause}; stopping"));
        let ending = Ending { cause: history::Cause::Paused, detail: pause.why, by: Some(pause.by) };
        self.parting = Some(Parting { to: None, after: After::Stay, ending });
    }

    /// Nothing of it is left, and what follows may be the end of its tenure: then that is told.
    pub(super) fn tell_ending(&mut self, now: Time, losing: bool, actions: &mut Vec<Action>) {
        let Some(token) = self.lease.as_ref().and_then(Lease::token) else { return };
        let Some(ending) = self.ending(losing) else { return };
        let tenure = self.tenure.take().filter(|tenure| tenure.token == token);
        let at = tenure.and_then(|tenure| tenure.empty).unwrap_or(now);
        let what = if tenure.is_some() { What::Ended(ending) } else { What::Idle(ending) };
        self.record(Fact { token, at, what }, actions);
    }

    /// Why the lease does not stay; nothing where it does. What was asked for first counts.
    fn ending(&self, losing: bool) -> Option<Ending> {
        match (&self.goal, &self.parting) {
            (Goal::Rest(Cause::Asked(ending)), _) => Some(ending.clone()),
            (Goal::Rest(Cause::Ended(why) | Cause::Failed(why)), _) => {
                Some(Ending { detail: Some(why.clone()), ..Ending::of(history::Cause::Finished) })
            }
            (Goal::Rest(Cause::NotStarted), _) => Some(Ending::of(history::Cause::Stopped)),
            (Goal::Run, Some(parting)) => Some(parting.ending.clone()),
            (Goal::Run, None) if self.heir.is_some() => Some(Ending::of(history::Cause::Changed)),
            (Goal::Run, None) if losing => self.lease.as_ref().and_then(Lease::losing_to),
            (Goal::Run, None) => None,
        }
    }

    fn record(&self, fact: Fact, actions: &mut Vec<Action>) {
        actions.push(Action::Record { lease: self.spec.lease_name(&self.me.0), fact });
    }
}
