//! A drill from its beginning to its verdict, as circusctl takes it: it has the holder harmed, and reads in the history of
//! the lease, at another node, what becomes of that.
//!
//! Invariant: what is told was measured by agents and by the drill's witness, none of it here.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Call, ClientError, Endpoint, ask, own_name};
use crate::model::command::{Command, Target};
use crate::model::drill::{self, Course, Kind, Run};
use crate::model::names::NodeName;
use crate::wire;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many of the latest tenures are looked at.
const TENURES: usize = 20;
/// How long it is watched on when the bad thing is over: an agent that wakes must do no harm either.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// How much longer than promised it is waited for what is missing, before that is said to be missing.
const GRACE: Duration = Duration::from_secs(10);

/// What a drill would hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// The node that has the singleton.
    pub holder: NodeName,
    /// The other singletons it has.
    pub others: Vec<String>,
    /// How many watchers it has in all.
    pub watchers: usize,
    /// Where it is watched from.
    seat: Target,
    /// When the child there began, ms, where that is kept.
    start: Option<u64>,
}

/// What came to light.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It begins: the holder's reply.
    Begun(Value),
    /// The harmed child is gone.
    Ended(Run),
    /// A child runs.
    Started(Run),
}

/// One drill.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The singleton.
    pub watcher: String,
    /// What is done to its holder.
    pub kind: Kind,
    /// For how long.
    pub lasting: Option<Duration>,
}

/// Looks where the singleton is, and whether it can be watched from where `call` asks. Harms nobody.
///
/// # Errors
/// There is no such singleton, no cluster, nobody who has it, or nobody else to watch from.
pub async fn look(endpoint: &Endpoint, call: &Call, watcher: &str) -> Result<Scene, ClientError> {
    let runs = read(endpoint, call, &Target::Here, watcher).await?;
    let roster = asked(endpoint, call, Command::Nodes, &Target::Here).await?;
    let rows = roster["roster"].as_array().map_or(&[][..], Vec::as_slice);
    let has = |row: &Value, what: &str| names(row, what).iter().any(|name| name.eq_ignore_ascii_case(watcher));
    let name = |row: &Value| row["name"].as_str().and_then(|name| NodeName::parse(name).ok());
    let here = |row: &&Value| row["state"] != "gone";
    let row = rows.iter().filter(here).find(|row| has(row, "holds"));
    let Some((row, holder)) = row.and_then(|row| Some((row, name(row)?))) else {
        return Err(ClientError::Refused(format!("no node is known to hold {watcher}")));
    };
    let seat = match endpoint {
        Endpoint::Unix(_) if own_name(endpoint, call).await.as_deref() == Some(holder.as_str()) => {
            return Err(ClientError::Usage(format!(
                "{holder}, which is asked here, holds {watcher}, and could not tell what becomes of it: run this on another \
                 node, or with --endpoint redis://…"
            )));
        }
        Endpoint::Unix(_) | Endpoint::Zmq(_) => Target::Here,
        // Where nobody waits the holder refuses, and says so.
        Endpoint::Redis(_) => {
            let waits = |row: &&Value| row["state"] == "up" && has(row, "waits");
            Target::node(rows.iter().find(waits).and_then(name).unwrap_or_else(|| holder.clone()))
        }
    };
    let others = names(row, "holds").into_iter().filter(|name| !name.eq_ignore_ascii_case(watcher)).collect();
    let start = runs.iter().filter(|run| run.node == holder.as_str()).max_by_key(|run| run.token);
    let start = start.and_then(|run| run.start);
    Ok(Scene { watchers: names(row, "watchers").len(), holder, others, seat, start })
}

/// Has the drill begin, and watches it to its end: the reply that began it, with the verdict
/// ([`wire::verdict_json`]). Each step is told as it comes to light.
///
/// # Errors
/// It was refused, or nobody answers.
pub async fn run(
    endpoint: &Endpoint,
    call: &Call,
    scene: &Scene,
    plan: &Plan,
    mut tell: impl FnMut(Step),
) -> Result<Value, ClientError> {
    let Plan { watcher, kind, lasting } = plan.clone();
    let command = Command::Drill { watcher, kind, lasting };
    let begun = asked(endpoint, call, command, &Target::node(scene.holder.clone())).await?;
    let unread = || ClientError::Silent("the holder's answer could not be read".into());
    let span = |key: &str| begun[key].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let (Some(token), Some(ttl)) = (begun["token"].as_u64(), span("ttl")) else { return Err(unread()) };
    let lasting = span("lasting");
    tell(Step::Begun(begun.clone()));

    let since = Instant::now();
    let over = lasting.unwrap_or_default() + AFTERWARDS;
    let outlasts = lasting.is_none_or(|lasting| lasting >= ttl);
    let (mut runs, mut ended, mut started) = (Vec::new(), false, token);
    loop {
        sleep(LOOK_EVERY).await;
        let looked = read(endpoint, call, &scene.seat, &plan.watcher).await;
        let late = since.elapsed() > over + ttl * 2 + GRACE;
        match looked {
            Ok(read) => runs = read,
            // It may be a moment only; but not for ever.
            Err(error) if late => return Err(error),
            Err(_) => {}
        }
        if let Some(own) = runs.iter().find(|run| run.token == token && run.end.is_some() && !ended) {
            ended = true;
            tell(Step::Ended(own.clone()));
        }
        let mut new: Vec<&Run> = runs.iter().filter(|run| run.token > started && run.start.is_some()).collect();
        new.sort_by_key(|run| run.token);
        for run in new {
            started = run.token;
            tell(Step::Started(run.clone()));
        }
        let course = Course { node: scene.holder.as_str(), token, start: scene.start, ttl, runs: &runs };
        let told = drill::is_told(&course) && since.elapsed() > over;
        // By then a lease that was not refreshed has ended, and its child with it.
        let through = !outlasts && !ended && started == token && since.elapsed() > over + ttl;
        if told || through || late {
            return Ok(wire::verdict_json(&begun, &drill::judge(&course, outlasts)));
        }
    }
}

async fn read(endpoint: &Endpoint, call: &Call, target: &Target, watcher: &str) -> Result<Vec<Run>, ClientError> {
    let command = Command::History { watcher: Some(watcher.to_owned()), count: TENURES };
    let reply = asked(endpoint, call, command, target).await?;
    wire::runs(&reply, watcher).ok_or_else(|| ClientError::Silent("the history could not be read".into()))
}

/// The reply of the one node that is asked.
async fn asked(endpoint: &Endpoint, call: &Call, command: Command, target: &Target) -> Result<Value, ClientError> {
    let call = Call { command, target: target.clone(), ..call.clone() };
    let part = wire::only_part(ask(endpoint, &call).await?);
    match part["status"].as_str() {
        Some("error") | None => {
            let reason = wire::why(&part).to_owned();
            Err(if part["silent"] == true { ClientError::Silent(reason) } else { ClientError::Refused(reason) })
        }
        Some(_) => Ok(part),
    }
}

fn names(row: &Value, key: &str) -> Vec<String> {
    let names = row[key].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
