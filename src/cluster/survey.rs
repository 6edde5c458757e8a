//! Who is in a Redis Cluster and has which slots, by what its servers say.
//!
//! Invariants:
//! - Many servers are asked at once, and the latest of their answers counts: each failover makes the cluster's epoch
//!   greater, so one that was cut off is not believed beside one that was not.
//! - A server that was told of may be asked next time, so that nobody depends on the ones in the URL for ever.
//! - While something is wrong the same servers are asked again and again, over the same connections ([`Connections`]): many
//!   agents that look after a dead master make no storm of new ones. Where all is well none is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::access::Server;
use super::facts::field;
use super::reason;
use super::sentinel::Whereabouts;
use super::slots::Slots;
use crate::model::spec::{RedisSpec, Secret, Seeds};

/// How long one server may take.
const ASK_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long the others may take once one has answered.
const OTHERS: Duration = Duration::from_millis(200);
/// How many servers are asked at once.
const MOST: usize = 16;
/// How often a server on which somebody listens is asked whether it still is in the cluster.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What a cluster says that cannot be used.
pub(super) const DOWN: &str =
    "the cluster is down (cluster_state:fail): too few of its masters are there, or nobody has some slots";

/// A cluster, as its servers see it.
#[derive(Debug)]
pub(super) struct View {
    /// Who has what.
    pub(super) slots: Slots,
    /// Servers that answered, and are in step with the latest.
    in_step: Vec<Arc<str>>,
}

/// What one server says.
#[derive(Debug)]
struct Answer {
    at: Arc<str>,
    epoch: u64,
    is_ok: bool,
    slots: Slots,
}

/// Connections over which servers were asked, for the next time.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Arc<Mutex<HashMap<Arc<str>, MultiplexedConnection>>>);

impl Connections {
    /// There will be no next time soon.
    pub(super) fn close(&self) {
        self.open().clear();
    }

    /// Taken out, so that one which turns out to be of no use is not used again.
    fn take(&self, at: &str) -> Option<MultiplexedConnection> {
        self.open().remove(at)
    }

    fn keep(&self, at: &Arc<str>, connection: MultiplexedConnection) {
        self.open().insert(Arc::clone(at), connection);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Arc<str>, MultiplexedConnection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the servers that are known, and those in the URL. The connections are kept.
///
/// # Errors
/// None answered, or the cluster is down.
pub(super) async fn survey(spec: &RedisSpec, seeds: &Seeds, whereabouts: &Whereabouts) -> Result<View, String> {
    let mut known = whereabouts.servers();
    known.extend(seeds.at.iter().map(|at| Arc::from(at.as_str())));
    known.sort_unstable();
    known.dedup();
    // Where there are more than can be asked, others are asked each time.
    let first = getrandom::u32().map_or(0, |bits| bits as usize % known.len());
    known.rotate_left(first);
    known.truncate(MOST);
    let ask = async |at: Arc<str>| {
        let answer = timeout(ASK_TIMEOUT, ask(spec, seeds, &whereabouts.connections, Arc::clone(&at))).await;
        answer.unwrap_or_else(|_| Err(reason::no_answer(ASK_TIMEOUT))).map_err(|why| format!("{at}: {why}"))
    };
    let mut asked: FuturesUnordered<_> = known.into_iter().map(ask).collect();
    let (mut answers, mut reasons) = (Vec::new(), Vec::new());
    let mut end = Instant::now() + ASK_TIMEOUT * 2;
    while let Ok(Some(answer)) = timeout_at(end, asked.next()).await {
        match answer {
            Ok(answer) => {
                end = end.min(Instant::now() + OTHERS);
                answers.push(answer);
            }
            Err(why) => reasons.push(why),
        }
    }
    reasons.sort_unstable();
    let nobody = || format!("no server of the cluster can be asked ({})", reasons.join("; "));
    let view = latest(answers).ok_or_else(nobody)??;
    whereabouts.know(view.slots.servers());
    Ok(view)
}

/// What the latest of `answers` say together; nothing where there is none.
fn latest(answers: Vec<Answer>) -> Option<Result<View, String>> {
    let rank = |answer: &Answer| (answer.epoch, answer.is_ok);
    let best = answers.iter().map(rank).max()?;
    let (at, slots): (Vec<_>, Vec<_>) =
        answers.into_iter().filter(|answer| rank(answer) == best).map(|answer| (answer.at, answer.slots)).unzip();
    let (_, is_ok) = best;
    Some(match slots.into_iter().next() {
        Some(slots) if is_ok => Ok(View { slots, in_step: at }),
        _ => Err(DOWN.to_owned()),
    })
}

async fn ask(spec: &RedisSpec, seeds: &Seeds, open: &Connections, at: Arc<str>) -> Result<Answer, String> {
    let mut connection = match open.take(&at) {
        Some(connection) => connection,
        None => {
            let server = Server::of_one(&one_of(spec, seeds, &at)).await?;
            let opened = server.client.get_multiplexed_async_connection().await;
            opened.map_err(|error| server.refusal(&error))?
        }
    };
    let mut both = redis::pipe();
    both.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Value) =
        both.query_async(&mut connection).await.map_err(|error| reason::of(&error, &at))?;
    let epoch = field(&info, "cluster_current_epoch").and_then(|epoch| epoch.parse().ok());
    let slots = Slots::parse(&slots, &at);
    let (epoch, slots) = epoch.zip(slots).ok_or_else(|| reason::nonsense(&info))?;
    open.keep(&at, connection);
    Ok(Answer { at, epoch, is_ok: is_ok(&info), slots })
}

/// How one server of the cluster is reached.
pub(super) fn one_of(spec: &RedisSpec, seeds: &Seeds, at: &str) -> RedisSpec {
    RedisSpec { url: Secret::new(seeds.server(at)), ..spec.clone() }
}

/// The spec of any one server that is in step with the cluster: another each time.
///
/// # Errors
/// As [`survey`].
pub(super) async fn any(spec: &RedisSpec, seeds: &Seeds, whereabouts: &Whereabouts) -> Result<RedisSpec, String> {
    let view = survey(spec, seeds, whereabouts).await?;
    whereabouts.connections.close();
    let which = getrandom::u32().map_or(0, |bits| bits as usize % view.in_step.len());
    Ok(one_of(spec, seeds, &view.in_step[which]))
}

/// Waits until `server` is cut off from its cluster, and says so: it hears nothing then of what others publish.
pub(super) async fn cut_off(server: &Server) -> String {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        looks.tick().await;
        match timeout(LOOK_EVERY, look(server, &mut connection)).await {
            Ok(Ok(info)) if !is_ok(&info) => return format!("{} is cut off from its cluster", server.address),
            Ok(Ok(_)) => {}
            // Whether it still answers is asked on the subscription itself.
            Ok(Err(_)) | Err(_) => connection = None,
        }
    }
}

async fn look(server: &Server, connection: &mut Option<MultiplexedConnection>) -> RedisResult<String> {
    let open = match connection {
        Some(connection) => connection,
        None => connection.insert(server.client.get_multiplexed_async_connection().await?),
    };
    redis::cmd("CLUSTER").arg("INFO").query_async(open).await
}

fn is_ok(info: &str) -> bool {
    field(info, "cluster_state") == Some("ok")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(at: &str, epoch: u64, is_ok: bool) -> Answer {
        let mut slots = Slots::default();
        slots.moved(redis::cluster_routing::Slot::for_key("x"), &at.into());
        Answer { at: at.into(), epoch, is_ok, slots }
    }

    #[test]
    fn the_latest_answer_counts_and_of_those_one_that_is_well() {
        let view = latest(vec![answer("cut-off", 3, true), answer("a", 4, true), answer("new", 4, false)]);
        let view = view.unwrap().unwrap();
        assert_eq!(view.in_step, [Arc::from("a")]);
        assert_eq!(view.slots, answer("a", 4, true).slots);
        let down = latest(vec![answer("old", 3, true), answer("a", 4, false)]).unwrap();
        assert!(down.unwrap_err().contains("cluster_state:fail"));
        assert!(latest(vec![]).is_none());
    }
}
