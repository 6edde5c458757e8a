//! A node that gets another name while it runs.
//!
//! The name is for people, and for finding the node; nothing that runs hangs on it. The registry decides whether it may be
//! had; from the moment it says so, all that this node says bears the new one, and each lease is refreshed under it. What
//! was under way goes on: who asked the node by its old name is answered.

use super::Node;
use super::log;
use super::waits::Goal;
use crate::model::command::{Answer, Patience, Refusal, Reply, RequestId};
use crate::model::event::{Action, Level};
use crate::model::history::{Fact, What};
use crate::model::names::NodeName;

/// How many of its old names a node remembers, for those who ask for it by one of them.
const REMEMBERED: usize = 8;

impl Node {
    /// Asks for the name; the reply comes with the answer.
    pub(super) fn admit_rename(
        &mut self,
        request: RequestId,
        to: NodeName,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Refusal> {
        if to == self.name {
            return Ok(Some(Reply::Done(Answer::Ok)));
        }
        if self.waits.iter().any(|wait| matches!(wait.goal, Goal::Renamed)) {
            return Err(Refusal::Failed(format!("{} is being renamed already", self.name)));
        }
        actions.push(Action::Rename { request, to });
        Ok(self.wait_or(Patience::Settled, request, Goal::Renamed))
    }

    /// The name is ours, and `file` has the old one; or why it cannot be had.
    pub(super) fn renamed(
        &mut self,
        request: RequestId,
        to: NodeName,
        file: Result<String, String>,
        actions: &mut Vec<Action>,
    ) {
        let asked = self.take_wait(request, |goal| matches!(goal, Goal::Renamed)).is_some();
        let by = self.asker(request);
        let reply = match file {
            Ok(file) => {
                let from = self.take_name(&to, by, actions);
                Reply::Done(Answer::Renamed { from, to, file })
            }
            Err(why) => Reply::Refused(Refusal::Failed(why)),
        };
        if asked {
            self.reply(request, reply, actions);
        }
    }

    /// Is called `to` from now on; what it was called until now.
    fn take_name(&mut self, to: &NodeName, by: Option<String>, actions: &mut Vec<Action>) -> NodeName {
        let from = std::mem::replace(&mut self.name, to.clone());
        let by = by.map(|by| format!(", as {by} asked")).unwrap_or_default();
        log(actions, Level::Info, format!("{from} is {to} now{by}"));
        self.agent.node = to.clone();
        self.formerly.retain(|name| name != to);
        self.formerly.insert(0, from.clone());
        self.formerly.truncate(REMEMBERED);
        for key in self.watchers.keys() {
            let watcher = self.watchers.stir(key);
            watcher.rename(self.now, to);
            if let Some(lease) = watcher.lease() {
                let fact = Fact { token: 0, at: self.now, what: What::Renamed { from: from.to_string() } };
                actions.push(Action::Record { lease: lease.name().clone(), fact });
            }
        }
        from
    }
}
