//! What this node tells those elsewhere who watch it.
//!
//! Invariants:
//! - Over connections of its own, made when somebody watches and closed when nobody does: no lease waits behind a frame.
//! - Of frames the latest is told; one that could not go out in time is of no use any more.
//! - Lines of output that cannot be told in time are lost, counted, and their number is told as soon as it can be.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use serde_json::json;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;

use super::access::Server;
use super::bus::PUBLISH_TIMEOUT;
use super::reason;
use super::seal::Seal;
use super::sentinel::Whereabouts;
use super::servers::Servers;
use crate::model::names::NodeName;
use crate::model::pattern::Pattern;
use crate::model::snapshot::LogLine;
use crate::model::spec::RedisSpec;
use crate::wire;

/// How long a connection is kept on which nothing was to be told.
const IDLE: Duration = Duration::from_secs(15);
/// How many lines are looked at for one round trip, and how many bytes of them are published.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// Connections to all servers, for what may be lost.
pub(super) struct Mouths(Vec<Mouth>);

struct Mouth {
    spec: RedisSpec,
    seal: Seal,
    whereabouts: Whereabouts,
    connection: Option<MultiplexedConnection>,
}

impl Mouths {
    pub(super) fn new(servers: &Servers) -> Mouths {
        let mouth = |server: &super::servers::Server| Mouth {
            spec: server.spec.clone(),
            seal: Seal::new(server.spec.secret_file.clone()),
            whereabouts: server.whereabouts.clone(),
            connection: None,
        };
        Mouths(servers.iter().map(mouth).collect())
    }

    /// Publishes `texts` at all servers, in their order.
    ///
    /// # Errors
    /// They were published nowhere, and why.
    async fn publish(&mut self, channel: &str, texts: &[String]) -> Result<(), String> {
        let published = join_all(self.0.iter_mut().map(|mouth| mouth.publish(channel, texts))).await;
        published.into_iter().reduce(Result::or).unwrap_or(Ok(()))
    }

    fn are_open(&self) -> bool {
        self.0.iter().any(|mouth| mouth.connection.is_some())
    }

    fn close(&mut self) {
        self.0.iter_mut().for_each(|mouth| mouth.connection = None);
    }
}

impl Mouth {
    async fn publish(&mut self, channel: &str, texts: &[String]) -> Result<(), String> {
        // Taken, so that one that failed, or took too long, is not used again.
        let connection = self.connection.take();
        let publish = async {
            self.whereabouts.cut().check()?;
            let mut connection = match connection {
                Some(connection) => connection,
                None => {
                    let server = Server::of(&self.spec, &self.whereabouts).await?;
                    let connection = server.client.get_multiplexed_async_connection().await;
                    connection.map_err(|error| server.refusal(&error))?
                }
            };
            let mut pipe = redis::pipe();
            for text in texts {
                pipe.cmd("PUBLISH").arg(channel).arg(&*self.seal.close(channel, text)?).ignore();
            }
            pipe.exec_async(&mut connection).await.map_err(|error| error.to_string())?;
            Ok(connection)
        };
        let done = timeout(PUBLISH_TIMEOUT, publish).await;
        self.connection = Some(done.unwrap_or_else(|_| Err(reason::no_answer(PUBLISH_TIMEOUT)))?);
        Ok(())
    }
}

/// Tells the latest frame whenever there is one.
pub(super) async fn tell_frames(channel: String, mut mouths: Mouths, mut frames: watch::Receiver<String>) {
    loop {
        let patience = if mouths.are_open() { IDLE } else { Duration::MAX };
        match timeout(patience, frames.changed()).await {
            Ok(Ok(())) => {
                let frame = [frames.borrow_and_update().clone()];
                if let Err(why) = mouths.publish(&channel, &frame).await {
                    tracing::debug!(%why, "a frame was not published to the cluster");
                }
            }
            Ok(Err(_)) => return,
            Err(_) => mouths.close(),
        }
    }
}

/// Tells the lines of the watchers that fit one of `of`, until that is closed.
pub(super) async fn tell_output(
    channel: String,
    node: watch::Receiver<NodeName>,
    mut mouths: Mouths,
    mut lines: broadcast::Receiver<Arc<LogLine>>,
    mut of: watch::Receiver<Vec<Pattern>>,
) {
    let mut dropped: u64 = 0;
    loop {
        let mut batch = Vec::new();
        let (mut count, mut bytes) = (0, 0);
        let mut looked_at = 0;
        let mut received = tokio::select! {
            received = lines.recv() => received,
            changed = of.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        loop {
            match received {
                Ok(line) => {
                    if of.borrow().iter().any(|name| name.fits(line.watcher.as_str())) {
                        let mut line = wire::log_line_json(&line);
                        line["node"] = node.borrow().as_str().into();
                        let line = line.to_string();
                        (count, bytes) = (count + 1, bytes + line.len());
                        batch.push(line);
                    }
                }
                // Of whichever watchers: it is not known any more.
                Err(RecvError::Lagged(missed)) => dropped += missed,
                Err(RecvError::Closed) => return,
            }
            looked_at += 1;
            if looked_at == BATCH || bytes >= BATCH_BYTES {
                break;
            }
            received = match lines.try_recv() {
                Ok(line) => Ok(line),
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
        }
        if dropped > 0 {
            batch.insert(0, json!({"dropped": dropped, "node": node.borrow().as_str()}).to_string());
        }
        if batch.is_empty() {
            continue;
        }
        match mouths.publish(&channel, &batch).await {
            Ok(()) => dropped = 0,
            Err(why) => {
                dropped += count as u64;
                tracing::debug!(%why, dropped, "lines of output were not published to the cluster");
            }
        }
    }
}
