//! A roll as circusctl performs it: it looks, asks the node that is next, looks whether that came up and stayed up, and
//! goes on. What is next is decided by [`Rollout`].
//!
//! Invariant: each question goes to one node, by name, and each wait has an end.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::time::sleep;

use super::{Call, ClientError, Endpoint, ask};
use crate::model::command::{Command, NodeState, Patience, Target};
use crate::model::names::NodeName;
use crate::model::pattern::Pattern;
use crate::model::rollout::{Heard, Next, Rollout, Share, Sight, Verdict};
use crate::wire;

/// How often the registry is asked whether a node that was asked is still heard of: who died does not answer, and nobody
/// else tells.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a look at the nodes may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// What is done on each node.
#[derive(Debug, Clone)]
pub struct Plan {
    /// A restart or a reload, of the watchers that are meant.
    pub deed: Command,
    /// How many nodes may be down at once.
    pub most: Share,
    /// How long a node must stay up before it counts as done.
    pub min_ready: Duration,
}

impl Plan {
    fn means(&self, watcher: &str) -> bool {
        match &self.deed {
            Command::Restart { pattern, .. } => pattern.as_ref().is_none_or(|pattern| pattern.fits(watcher)),
            Command::Reload { watcher: Some(only), .. } => Pattern::Name(only.clone()).fits(watcher),
            _ => true,
        }
    }

    /// The same for one watcher, answered when it is done. By its name: what is stopped is not to be started.
    fn on(&self, watcher: String) -> Command {
        let patience = Patience::Settled;
        match &self.deed {
            Command::Reload { way, .. } => Command::Reload { watcher: Some(watcher), way: *way, patience },
            _ => Command::Restart { pattern: Some(Pattern::Name(watcher)), patience },
        }
    }

    /// The watchers that are meant, as they were written; nothing where all are.
    pub fn watchers(&self) -> Option<&str> {
        match &self.deed {
            Command::Restart { pattern, .. } => pattern.as_ref().map(Pattern::text),
            Command::Reload { watcher, .. } => watcher.as_deref(),
            _ => None,
        }
    }
}

/// What has just been seen of a roll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This node was asked.
    Asked(NodeName),
    /// It was heard what came of that.
    Heard(NodeName),
}

/// A roll, and what it takes to perform it.
pub struct Roll<'a> {
    endpoint: &'a Endpoint,
    /// Whom it is for, and how long each node may take.
    call: &'a Call,
    plan: &'a Plan,
    /// How far it is.
    pub rollout: Rollout,
    /// Whether the one node that was asked is the only one there is.
    alone: bool,
}

impl<'a> Roll<'a> {
    /// Looks at the nodes that `call` is for. Touches nobody.
    ///
    /// # Errors
    /// It cannot be told which nodes there are, or none of them has what is meant.
    pub async fn look(endpoint: &'a Endpoint, call: &'a Call, plan: &'a Plan) -> Result<Roll<'a>, ClientError> {
        if matches!(endpoint, Endpoint::Redis(_)) && call.target == Target::Here {
            let what = wire::command_name(&plan.deed);
            return Err(ClientError::Usage(format!("over Redis, say where to {what}: --node NAME, or --all")));
        }
        let reply = status(endpoint, call, call.target.clone()).await?;
        let alone = reply["nodes"].is_null();
        let seen = seen(&reply, plan)?;
        if seen.is_empty() {
            let watcher = plan.watchers().map_or_else(String::new, |name| format!(" {name}"));
            return Err(ClientError::Refused(format!("no node that was asked has a watcher{watcher}")));
        }
        let rollout = Rollout::new(seen.into_iter().map(|(node, sight, _)| (node, sight)), plan.most);
        Ok(Roll { endpoint, call, plan, rollout, alone })
    }

    /// Performs it to its end, and says each step. Dropped, it asks nobody any more; [`Roll::rollout`] says how far it was.
    pub async fn run(&mut self, mut tell: impl FnMut(&Rollout, &Step)) -> Verdict {
        let (endpoint, call, plan, alone) = (self.endpoint, self.call, self.plan, self.alone);
        let mut under_way = FuturesUnordered::new();
        loop {
            match self.rollout.decide() {
                Next::Over(verdict) => return verdict,
                Next::Ask(node) => {
                    tell(&self.rollout, &Step::Asked(node.clone()));
                    let site = Site { endpoint, call, plan, target: target(alone, &node), node };
                    under_way.push(async move {
                        let heard = site.perform().await;
                        (site.node, heard)
                    });
                }
                Next::Wait => {
                    let Some((node, heard)) = under_way.next().await else {
                        return Verdict::Blind("nobody is waited for".into());
                    };
                    self.rollout.heard(&node, heard);
                    tell(&self.rollout, &Step::Heard(node));
                    if self.rollout.goes_on()
                        && let Err(error) = self.look_again().await
                    {
                        return Verdict::Blind(error.to_string());
                    }
                }
            }
        }
    }

    /// Others may have gone down meanwhile, or one that had come up.
    async fn look_again(&mut self) -> Result<(), ClientError> {
        let reply = status(self.endpoint, self.call, self.call.target.clone()).await?;
        for (node, sight, _) in seen(&reply, self.plan)? {
            self.rollout.see(&node, sight);
        }
        Ok(())
    }
}

/// One node's turn.
struct Site<'a> {
    endpoint: &'a Endpoint,
    call: &'a Call,
    plan: &'a Plan,
    target: Target,
    node: NodeName,
}

impl Site<'_> {
    async fn perform(&self) -> Heard {
        tokio::select! {
            heard = self.asked() => heard,
            why = self.missed() => Heard::Silent(why),
        }
    }

    async fn asked(&self) -> Heard {
        let (sight, names) = self.look().await;
        if let Sight::Silent(why) = sight {
            return Heard::Silent(why);
        }
        for name in names {
            let call = Call { command: self.plan.on(name), target: self.target.clone(), ..self.call.clone() };
            match ask(self.endpoint, &call).await.map(wire::only_part) {
                Err(error) => return Heard::Silent(error.to_string()),
                Ok(part) if part["status"] == "error" => {
                    let why = wire::why(&part).to_owned();
                    return if part["silent"] == true { Heard::Silent(why) } else { Heard::Refused(why) };
                }
                Ok(_) => {}
            }
        }
        let (first, _) = self.look().await;
        sleep(self.plan.min_ready).await;
        let (later, _) = self.look().await;
        Heard::Seen { first, later }
    }

    async fn look(&self) -> (Sight, Vec<String>) {
        match status(self.endpoint, self.call, self.target.clone()).await {
            Err(error) => (Sight::Silent(error.to_string()), Vec::new()),
            Ok(reply) => {
                let gone = || (Sight::Idle("it has no such watcher any more".into()), Vec::new());
                wire::sight(&wire::only_part(reply), |name| self.plan.means(name)).unwrap_or_else(gone)
            }
        }
    }

    /// Waits until the node is not heard of any more: why it will not answer.
    async fn missed(&self) -> String {
        loop {
            sleep(LOOK_EVERY).await;
            let call = question(self.call, Command::Nodes, Target::Here);
            let Ok(reply) = ask(self.endpoint, &call).await else { continue };
            let row = reply["roster"].as_array().into_iter().flatten().find(|row| row["name"] == self.node.as_str());
            let gone = [NodeState::Stale.word(), NodeState::Gone.word()];
            if let Some(row) = row.filter(|row| gone.iter().any(|word| row["state"] == *word)) {
                let seen = row["seen"].as_f64().unwrap_or_default();
                return format!("it has not been heard of for {seen:.1} s");
            }
        }
    }
}

fn target(alone: bool, node: &NodeName) -> Target {
    if alone { Target::Here } else { Target::node(node.clone()) }
}

fn question(call: &Call, command: Command, target: Target) -> Call {
    Call { command, target, patience: call.patience.min(LOOK_PATIENCE), ..call.clone() }
}

async fn status(endpoint: &Endpoint, call: &Call, target: Target) -> Result<Value, ClientError> {
    let reply = ask(endpoint, &question(call, Command::Status { watcher: None }, target)).await?;
    match (reply["missing"].as_str(), reply["nodes"].is_null() && reply["status"] == "error") {
        (Some(why), _) => Err(ClientError::Silent(format!("it is not known which nodes there are: {why}"))),
        (None, true) => Err(ClientError::Refused(wire::why(&reply).to_owned())),
        (None, false) => Ok(reply),
    }
}

/// How the nodes are that have what is meant, in order, and which watchers that is.
fn seen(reply: &Value, plan: &Plan) -> Result<Vec<(NodeName, Sight, Vec<String>)>, ClientError> {
    let mut seen = Vec::new();
    for (node, part) in wire::parts(reply) {
        let node = NodeName::parse(node).map_err(|bad| ClientError::Silent(format!("'{node}' answered: {bad}")))?;
        if let Some((sight, names)) = wire::sight(part, |name| plan.means(name)) {
            seen.push((node, sight, names));
        }
    }
    Ok(seen)
}
