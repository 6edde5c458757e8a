//! What happens on nodes, published for whoever listens: no node does, and nothing is kept.
//!
//! Invariants:
//! - Leases come first: of events one small batch at a time is on its way, in the order in which they happened.
//! - An event that cannot be published at once, because Redis is away or slow, is dropped and counted.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::bus::PUBLISH_TIMEOUT;
use super::keys;
use super::servers::Servers;
use crate::model::names::ClusterName;

/// How many events may wait to be published.
const QUEUE: usize = 1024;
/// How many are published in one round trip.
const BATCH: usize = 64;

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
