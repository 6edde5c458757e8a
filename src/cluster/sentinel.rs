//! Where the master is, by what its sentinels say: asked at each connection, and heard of when it changes.
//!
//! Invariants:
//! - All sentinels are asked at once, and the latest of their answers counts: each failover has a greater number
//!   (`config-epoch`) than those before it, so one that was cut off is not believed beside one that was not.
//! - What a sentinel says is a wake-up and an address. Whether a master is there is asked of the server itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::PubSubStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use super::access::Server;
use super::link::Backoff;
use super::survey::Connections;
use super::{reason, subscription};
use crate::model::spec::{RedisSpec, Secret, Sentinels};
use crate::model::store::{DOWN_AFTER, Failover};

/// How long the others may take once one sentinel has answered.
const OTHERS: Duration = Duration::from_millis(200);
/// How long one sentinel may take: less than an attempt to connect may, so that the master is reached in the same one.
const ASK_TIMEOUT: Duration = Duration::from_millis(700);
/// How often a sentinel is asked for a sign of life, and how long it may take to give one.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// The channel on which sentinels tell of a new master.
const SWITCHED: &str = "+switch-master";

/// What a sentinel knows of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Master {
    epoch: u64,
    host: String,
    port: String,
    /// How long it may be missed.
    down_after: Option<Duration>,
}

/// The spec of the server that is the master now, and how long the sentinels may miss it before they act.
///
/// # Errors
/// No sentinel could say.
pub(super) async fn master(spec: &RedisSpec, sentinels: &Sentinels) -> Result<(RedisSpec, Option<Failover>), String> {
    let ask = async |at: &String| {
        let answer = timeout(ASK_TIMEOUT, ask(spec, sentinels, at)).await;
        answer.unwrap_or_else(|_| Err(reason::no_answer(ASK_TIMEOUT))).map_err(|why| format!("{at}: {why}"))
    };
    let mut asked: FuturesUnordered<_> = sentinels.at.iter().map(ask).collect();
    let (mut latest, mut reasons) = (None::<Master>, Vec::new());
    let mut end = Instant::now() + ASK_TIMEOUT * 2;
    while let Ok(Some(answer)) = timeout_at(end, asked.next()).await {
        match answer {
            Ok(master) => {
                end = end.min(Instant::now() + OTHERS);
                if latest.as_ref().is_none_or(|known| known.epoch < master.epoch) {
                    latest = Some(master);
                }
            }
            Err(why) => reasons.push(why),
        }
    }
    reasons.sort_unstable();
    let master = latest.ok_or_else(|| format!("no sentinel tells where the master is ({})", reasons.join("; ")))?;
    let failover = master.down_after.map(|after| Failover { setting: DOWN_AFTER, after });
    Ok((RedisSpec { url: Secret::new(sentinels.server(&master.host, &master.port)), ..spec.clone() }, failover))
}

async fn ask(spec: &RedisSpec, sentinels: &Sentinels, at: &str) -> Result<Master, String> {
    let server = Server::of_one(&for_sentinel(spec, sentinels, at)).await?;
    let refused = |error| server.refusal(&error);
    let mut connection = server.client.get_multiplexed_async_connection().await.map_err(refused)?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("MASTER").arg(&sentinels.master);
    let about: Result<Vec<String>, _> = question.query_async(&mut connection).await;
    match about {
        Ok(about) => {
            let field = |name: &str| about.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
            let epoch = field("config-epoch").and_then(|epoch| epoch.parse().ok());
            let all = epoch.zip(field("ip").zip(field("port")));
            let (epoch, (host, port)) = all.ok_or_else(|| reason::nonsense(&about))?;
            let down_after = field("down-after-milliseconds").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
            Ok(Master { epoch, host, port, down_after })
        }
        // What the server says of it is that it has `No such master with that name`.
        Err(error) if error.code() == Some("ERR") => Err(format!("it watches no master {}", sentinels.master)),
        Err(error) => Err(server.refusal(&error)),
    }
}

/// How one of the sentinels is reached.
fn for_sentinel(spec: &RedisSpec, sentinels: &Sentinels, at: &str) -> RedisSpec {
    RedisSpec {
        url: Secret::new(sentinels.sentinel(at)),
        username: spec.sentinel_username.clone(),
        password_file: spec.sentinel_password_file.clone(),
        ..spec.clone()
    }
}

/// What is known of where to go: where the master is, which each connection compares with its own address, and the
/// servers of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Whereabouts {
    master: watch::Sender<Option<Arc<str>>>,
    servers: Arc<Mutex<Vec<Arc<str>>>>,
    /// Connections to some of these.
    pub(super) connections: Connections,
}

impl Whereabouts {
    pub(super) fn unknown() -> Whereabouts {
        Whereabouts { master: watch::Sender::new(None), servers: Arc::default(), connections: Connections::default() }
    }

    /// The servers of the cluster that were last told of.
    pub(super) fn servers(&self) -> Vec<Arc<str>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The cluster has these servers.
    pub(super) fn know(&self, servers: &BTreeSet<Arc<str>>) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers.iter().cloned().collect();
    }

    /// A master was found here.
    pub(super) fn found(&self, address: &Arc<str>) {
        self.master.send_replace(Some(Arc::clone(address)));
    }

    /// Waits until the master is known to be elsewhere, and says so.
    pub(super) async fn elsewhere(&self, address: &str) -> String {
        let mut heard = self.master.subscribe();
        let elsewhere = |known: &Option<Arc<str>>| known.as_deref().is_some_and(|known| known != address);
        let now = heard.wait_for(elsewhere).await.ok().and_then(|known| known.clone());
        // Its sender is ours, so there is always an answer.
        format!("the master has moved to {}", now.as_deref().unwrap_or("another server"))
    }
}

/// Hears, for ever, from one sentinel after the other, when the master changes.
pub(super) async fn follow(spec: RedisSpec, sentinels: Sentinels, whereabouts: Whereabouts) {
    let mut backoff = Backoff::new();
    for at in sentinels.at.iter().cycle() {
        let begun = Instant::now();
        let reached = for_sentinel(&spec, &sentinels, at);
        let channels = [SWITCHED.to_owned()];
        match backoff.attempt(subscription::subscribe_one(&reached, &channels)).await {
            Ok((mut sink, mut heard)) => {
                // Something may have been missed; a master that answers says where it is before anybody moves.
                if let Ok((now, _)) = master(&spec, &sentinels).await
                    && let Ok(server) = Server::of_one(&now).await
                {
                    whereabouts.found(&server.address);
                }
                let mut pings = interval(PING_EVERY);
                pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    tokio::select! {
                        moved = switched(&mut heard, &sentinels.master) => match moved {
                            Some(to) => whereabouts.found(&to.into()),
                            None => break,
                        },
                        _ = pings.tick() => match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
                            Ok(Ok(_)) => {}
                            Ok(Err(_)) | Err(_) => break,
                        },
                    }
                }
                tracing::debug!(sentinel = %at, "subscription to a sentinel lost");
                backoff.lived(begun.elapsed());
            }
            Err(reason) => tracing::debug!(sentinel = %at, %reason, "no subscription to a sentinel"),
        }
        sleep_until(begun + backoff.next()).await;
    }
}

/// The master's new address; nothing when the connection ends.
async fn switched(heard: &mut PubSubStream, master: &str) -> Option<String> {
    loop {
        let message = heard.next().await?;
        let text = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
        if let Some(to) = new_address(&text, master) {
            return Some(to);
        }
    }
}

/// `mymaster OLD-HOST OLD-PORT NEW-HOST NEW-PORT` → `NEW-HOST:NEW-PORT`.
fn new_address(text: &str, master: &str) -> Option<String> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        [name, _, _, host, port] if name == master => Some(format!("{host}:{port}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_of_our_master_count() {
        assert_eq!(new_address("m 10.0.0.1 6379 10.0.0.2 6380", "m").as_deref(), Some("10.0.0.2:6380"));
        assert_eq!(new_address("other 10.0.0.1 6379 10.0.0.2 6380", "m"), None);
        assert_eq!(new_address("m 10.0.0.1", "m"), None);
    }
}
