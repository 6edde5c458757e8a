//! Requests that need other nodes: who is asked, whose answers are gathered, what is passed on.
//!
//! The registry says which nodes there are. Each is asked over the bus, and its answer passed on unread; silence is
//! noticed here, by a deadline.

use std::time::Duration;

use super::Node;
use crate::model::command::{Command, NodeRow, NodeState, Outcome, Part, Refusal, Reply, RequestId, Target};
use crate::model::event::Action;
use crate::model::gather::Gather;
use crate::model::names::NodeName;
use crate::model::roster::{self, Addressees, Nobody};
use crate::model::time::Time;

/// How long another node has at most, whatever the asker says: every wait has an end.
const LONGEST_PATIENCE: Duration = Duration::from_secs(86_400);

/// A request that needs other nodes.
#[derive(Debug)]
pub(super) enum Errand {
    /// The registry is being read for the nodes it is for.
    Find { target: Target, command: Command, patience: Duration },
    /// The registry is being read for the command itself.
    Roster { command: Command },
    /// The nodes' answers are being gathered.
    Gather { parts: Gather<Part>, missing: Option<String>, deadline: Time, patience: Duration },
    /// Another node's answer is passed on.
    Pass { to: NodeName, deadline: Time },
}

impl Errand {
    /// When it ends without an answer; nothing where an adapter answers for sure.
    pub(super) fn deadline(&self) -> Option<Time> {
        match self {
            Errand::Gather { deadline, .. } | Errand::Pass { deadline, .. } => Some(*deadline),
            Errand::Find { .. } | Errand::Roster { .. } => None,
        }
    }

    /// Whether nodes other than `me` have not answered yet.
    pub(super) fn awaits_others_than(&self, me: &NodeName) -> bool {
        match self {
            Errand::Gather { parts, .. } => parts.silent().any(|node| node != me),
            Errand::Find { .. } | Errand::Roster { .. } | Errand::Pass { .. } => false,
        }
    }
}

impl Node {
    /// A door was asked: carries the command out here, or finds the nodes it is for. `limit` is how long each of several
    /// nodes may take, where the asker says so.
    pub(super) fn asked(
        &mut self,
        request: RequestId,
        target: Target,
        command: Command,
        limit: Option<Duration>,
        actions: &mut Vec<Action>,
    ) {
        let patience = limit.map_or_else(|| command.usual_time(), |limit| limit.min(LONGEST_PATIENCE));
        match target {
            Target::Here => self.execute(request, command, actions),
            target if !self.clustered => self.send_out(request, &target, command, patience, Ok(Vec::new()), actions),
            target => {
                self.errands.insert(request, Errand::Find { target, command, patience });
                actions.push(Action::ReadRoster { request });
            }
        }
    }

    /// The registry was read for a request, or could not be.
    pub(super) fn roster_read(
        &mut self,
        request: RequestId,
        rows: Result<Vec<NodeRow>, String>,
        actions: &mut Vec<Action>,
    ) {
        match self.errands.remove(&request) {
            Some(Errand::Find { target, command, patience }) => {
                self.send_out(request, &target, command, patience, rows, actions);
            }
            Some(Errand::Roster { command }) => match (command, rows) {
                (_, Err(why)) => {
                    self.reply(request, Reply::Refused(Refusal::Unavailable(format!("Redis: {why}"))), actions);
                }
                (Command::Failover { watcher, to, patience }, Ok(rows)) => {
                    self.fail_over(request, &watcher, to, patience, Some(&rows), actions);
                }
                (Command::Drill { watcher, kind, lasting }, Ok(rows)) => {
                    self.drill(request, (&watcher, kind, lasting), &rows, actions);
                }
                (command, Ok(rows)) => self.reply(request, roster::from_registry(&command, rows), actions),
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
        target: &Target,
        command: Command,
        patience: Duration,
        rows: Result<Vec<NodeRow>, String>,
        actions: &mut Vec<Action>,
    ) {
        let rows = rows.map(|rows| self.with_own_row(rows)).map_err(|why| format!("Redis: {why}"));
        let known = rows.as_deref().map_err(String::as_str);
        match roster::choose(target, &command, Some(&self.name), known) {
            Ok(mut addressees) => {
                if !self.clustered {
                    addressees.absent.iter_mut().for_each(|(_, why)| *why = Refusal::NoCluster.to_string());
                }
                self.gather(request, addressees, command, patience, actions);
            }
            Err(Nobody::Refused(refusal)) => self.reply(request, Reply::Refused(refusal), actions),
            Err(Nobody::NotTold) => {
                self.reply(request, Reply::Refused(Refusal::BadMessage("it was not told where".into())), actions);
            }
        }
    }

    /// The registry's rows, of which this node's own says what holds now: it may have been written a moment ago.
    fn with_own_row(&self, mut rows: Vec<NodeRow>) -> Vec<NodeRow> {
        let at = rows.iter().position(|row| row.name == self.name);
        let about = at.map(|at| rows.swap_remove(at).about).unwrap_or_default();
        let state = if self.is_ending() || self.drained.is_some() { NodeState::Draining } else { NodeState::Up };
        rows.push(NodeRow { name: self.name.clone(), state, seen: Duration::ZERO, about: self.about(about) });
        rows
    }

    /// Asks some nodes, this one included where it is among them.
    fn gather(
        &mut self,
        request: RequestId,
        Addressees { ask, absent, missing }: Addressees,
        command: Command,
        patience: Duration,
        actions: &mut Vec<Action>,
    ) {
        let here = ask.contains(&self.name);
        let by = self.asker(request).unwrap_or_default();
        for node in ask.iter().filter(|node| **node != self.name) {
            actions.push(Action::Relay { request, to: node.clone(), command: command.clone(), by: by.clone() });
        }
        let mut parts = Gather::new(ask.into_iter().chain(absent.iter().map(|(node, _)| node.clone())));
        for (node, why) in absent {
            parts.answer(&node, Part::Absent(why));
        }
        self.errands.insert(request, Errand::Gather { parts, missing, deadline: self.now + patience, patience });
        if here {
            self.execute(request, command, actions);
        }
        self.finish_gather(request, actions);
    }

    /// Takes in one node's part of an answer.
    pub(super) fn part(&mut self, request: RequestId, node: &NodeName, part: Part, actions: &mut Vec<Action>) {
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
                    Part::Silent(why) | Part::Absent(why) => Outcome::Own(Reply::Refused(Refusal::Unavailable(why))),
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
    pub(super) fn abandon(&mut self, request: RequestId, why: &str, actions: &mut Vec<Action>) {
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

    /// Ends the errands whose patience is over, and names the silent.
    pub(super) fn expire_errands(&mut self, actions: &mut Vec<Action>) {
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
            self.forget(request);
            self.abandon(request, &why, actions);
        }
    }

    /// Answers a request for this node, or this node's part of one for several.
    pub(super) fn reply(&mut self, request: RequestId, reply: Reply, actions: &mut Vec<Action>) {
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

    fn deliver(&mut self, request: RequestId, outcome: Outcome, actions: &mut Vec<Action>) {
        self.askers.remove(&request);
        actions.push(Action::Reply { request, outcome });
    }
}
