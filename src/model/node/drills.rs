//! Drills: whether one may begin on this node, and what is said of it.

use std::time::Duration;

use super::commands::{name_of, successor, without_lease};
use super::waits::Goal;
use super::{Node, log};
use crate::model::command::{Answer, Command, NodeRow, Patience, Refusal, Reply, RequestId};
use crate::model::drill::{Drill, Kind};
use crate::model::event::{Action, Level};
use crate::model::lease::Hold;

impl Node {
    /// A drill is the holder's to suffer. It is refused while it is still harmless to refuse it: next the registry is read
    /// for who would take over.
    pub(super) fn admit_drill(
        &mut self,
        request: RequestId,
        watcher: String,
        kind: Kind,
        lasting: Option<Duration>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        self.plan_drill(request, &watcher, kind, lasting)?;
        self.ask_roster(request, Command::Drill { watcher, kind, lasting }, actions);
        Ok(())
    }

    /// Has the drill begin, now that it is known who is there.
    pub(super) fn drill(
        &mut self,
        request: RequestId,
        (watcher, kind, lasting): (&str, Kind, Option<Duration>),
        rows: &[NodeRow],
        actions: &mut Vec<Action>,
    ) {
        let planned = self.plan_drill(request, watcher, kind, lasting).and_then(|drill| {
            successor(&drill.lease.watcher, &self.name, None, rows).map_err(Refusal::NoCandidate)?;
            Ok(Box::new(drill))
        });
        match planned {
            Ok(drill) => {
                actions.push(Action::Drill { request, drill: drill.clone() });
                self.wait_or(Patience::Settled, request, Goal::Drilled { drill });
            }
            Err(refusal) => self.reply(request, Reply::Refused(refusal), actions),
        }
    }

    /// The drill's witness watches, or could not be had.
    pub(super) fn drill_watched(&mut self, request: RequestId, result: Result<(), String>, actions: &mut Vec<Action>) {
        let Some(Goal::Drilled { drill }) = self.take_wait(request, |goal| matches!(goal, Goal::Drilled { .. })) else {
            return;
        };
        let reply = match result {
            Ok(()) => {
                let by = drill.by.as_ref().map_or_else(String::new, |by| format!(", as asked by {by}"));
                let what = format!("{}: a drill ({}) begins{by}", drill.lease.watcher, drill.kind.word());
                log(actions, Level::Warn, what);
                Reply::Done(Answer::Drilling { node: self.name.clone(), drill })
            }
            Err(why) => Reply::Refused(Refusal::Failed(format!("nothing was done: {why}"))),
        };
        self.reply(request, reply, actions);
    }

    fn plan_drill(
        &self,
        request: RequestId,
        watcher: &str,
        kind: Kind,
        lasting: Option<Duration>,
    ) -> Result<Drill, Refusal> {
        let watcher = &self.watchers[self.find(watcher)?];
        let name = name_of(watcher);
        let Some(lease) = watcher.lease() else { return Err(without_lease(watcher)) };
        if !self.clustered {
            return Err(Refusal::NoCluster);
        }
        let Hold::Firm { token, .. } = lease.hold(self.now) else {
            let holder = lease.holder().filter(|holder| *holder != self.name.as_str());
            return Err(Refusal::NotHolder { watcher: name, holder });
        };
        if !self.agent.allow_drills {
            return Err(Refusal::NoDrills(self.name.clone()));
        }
        let Some((_, pid)) = watcher.pids().first().copied() else {
            return Err(Refusal::Failed(format!("{name} has no process just now, so there is nothing to watch")));
        };
        let ttl = lease.ttl();
        // Longer than the lease lives, by default: what is shorter need not end it.
        let lasting = kind.passes().then(|| lasting.unwrap_or(ttl * 3 / 2));
        Ok(Drill { lease: lease.name().clone(), token, pid, ttl, kind, lasting, by: self.asker(request) })
    }
}
