//! What happens on nodes, published for whoever listens: no node does, and nothing is kept.
//!
//! Invariants:
//! - Leases come first: of events one small batch at a time is on its way, in the order in which they happened.
//! - An event that cannot be published at once, because Redis is away or slow, is dropped and counted.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::select_ok;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::bus::PUBLISH_TIMEOUT;
use super::seal::Seal;
use super::servers::Servers;
use super::{keys, reason, subscription};
use crate::model::names::ClusterName;
use crate::model::spec::RedisSpec;

/// How many events may wait to be published.
const QUEUE: usize = 1024;
/// How many are published in one round trip.
const BATCH: usize = 64;
/// How often a server that publishes nothing is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a node's events go. They wait in a bounded queue.
pub(super) struct Publisher {
    queue: mpsc::Sender<String>,
    dropped: Dropped,
    task: JoinHandle<()>,
}

impl Publisher {
    /// Publishes at all of `servers`, in a task of its own.
    pub(super) fn start(cluster: &ClusterName, servers: Servers) -> Publisher {
        let (queue, queued) = mpsc::channel(QUEUE);
        let task = tokio::spawn(publish(keys::events(cluster), servers, queued));
        Publisher { queue, dropped: Dropped(0), task }
    }

    /// Publishes an event soon, or never.
    pub(super) fn publish(&mut self, event: String) {
        if self.queue.try_send(event).is_err() {
            self.dropped.add(1, "Redis is slower than what happens");
        }
    }

    /// Waits until what was to be published is, or is lost.
    pub(super) async fn settled(self) {
        drop(self.queue);
        // A panic has been reported where it was.
        let _ = self.task.await;
    }
}

async fn publish(channel: String, servers: Servers, mut queued: mpsc::Receiver<String>) {
    let mut dropped = Dropped(0);
    let mut batch = Vec::with_capacity(BATCH);
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(reason) = servers.publish_all(&channel, &batch, PUBLISH_TIMEOUT).await {
            dropped.add(batch.len() as u64, &reason);
        }
        batch.clear();
    }
}

/// Counts what is not published. Logged whenever the number has doubled: an outage must not flood the log.
struct Dropped(u64);

impl Dropped {
    fn add(&mut self, count: u64, why: &str) {
        let before = self.0;
        self.0 += count;
        if before == 0 || self.0.ilog2() > before.ilog2() {
            tracing::warn!(%why, dropped = self.0, "events were not published to the cluster");
        }
    }
}

/// The events of all nodes of a cluster, for circusctl.
pub struct EventStream {
    seal: Seal,
    channel: String,
    sink: PubSubSink,
    messages: PubSubStream,
}

impl EventStream {
    /// Listens at the Redis that `spec` names, at one of several, which is reached within `patience`.
    ///
    /// # Errors
    /// Why not, in words for people and without the password.
    pub async fn connect(spec: &RedisSpec, cluster: &ClusterName, patience: Duration) -> Result<EventStream, String> {
        let channel = keys::events(cluster);
        let channels = [channel.clone()];
        let specs = spec.servers();
        let any = specs.iter().map(|spec| Box::pin(subscription::subscribe(spec, &channels)));
        let subscribed = timeout(patience, select_ok(any)).await.map(|any| any.map(|(subscribed, _)| subscribed));
        let (sink, messages) = subscribed.unwrap_or_else(|_| Err(reason::no_answer(patience)))?;
        Ok(EventStream { seal: Seal::new(spec.secret_file.clone()), channel, sink, messages })
    }

    /// The next event, as it was published: whatever somebody put into the channel who may. Nothing is lost where the
    /// future is dropped.
    ///
    /// # Errors
    /// The connection is lost, and why.
    pub async fn next(&mut self) -> Result<Vec<u8>, String> {
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        loop {
            tokio::select! {
                message = self.messages.next() => return match message {
                    Some(message) => match self.seal.open(&self.channel, message.get_payload_bytes()) {
                        Ok(event) => Ok(event.into_owned()),
                        Err(why) => {
                            tracing::debug!(%why, "an event was dropped");
                            continue;
                        }
                    },
                    None => Err("the server closed the connection".into()),
                },
                // A server that hangs never closes a connection.
                _ = pings.tick() => match timeout(PING_TIMEOUT, self.sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(error.to_string()),
                    Err(_) => return Err(reason::no_answer(PING_TIMEOUT)),
                },
            }
        }
    }
}
