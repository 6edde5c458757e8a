//! Streams: what happens, what is printed and what is used, on one node or in a whole cluster.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Call, ClientError, Endpoint, MAX_REPLY, zmq};
use crate::cluster::client::{BusClient, Deafness};
use crate::cluster::watch::ClusterStream;
use crate::model::command::{Command, NodeState, Target};
use crate::model::names::ClusterName;
use crate::model::spec::{RedisSpec, ZmqAddress};
use crate::wire::{self, Follow, Nodes, Subject};
use crate::zmq::Subscriber;

/// A stream that is being followed.
pub struct Stream {
    source: Source,
    /// What is to be said before all else.
    note: Option<Value>,
}

enum Source {
    Agent { lines: BufReader<UnixStream>, at: PathBuf },
    Cluster(Box<ClusterStream>),
    Published { events: Box<Subscriber>, follow: Follow },
}

impl Stream {
    /// Asks for a stream, and gives it back once it has begun. `patience` bounds how long that may take.
    ///
    /// # Errors
    /// Nobody was reached; or the agent was, and refused ([`ClientError::Refused`]).
    pub async fn open(
        endpoint: &Endpoint,
        cluster: &ClusterName,
        follow: &Follow,
        patience: Duration,
    ) -> Result<Stream, ClientError> {
        match endpoint {
            Endpoint::Unix(path) => match timeout(patience, ask(path, follow)).await {
                Ok(begun) => Ok(Stream { source: Source::Agent { lines: begun?, at: path.clone() }, note: None }),
                Err(_) => Err(ClientError::Silent(format!(
                    "the agent at {} did not reply within {} s",
                    path.display(),
                    patience.as_secs_f64()
                ))),
            },
            Endpoint::Zmq(address) => {
                let events =
                    timeout(patience, subscribe(address, cluster, follow, patience)).await.unwrap_or_else(|_| {
                        Err(ClientError::Silent(format!("no reply from {address} within {} s", patience.as_secs_f64())))
                    })?;
                Ok(Stream {
                    source: Source::Published { events: Box::new(events), follow: follow.clone() },
                    note: None,
                })
            }
            Endpoint::Redis(_) if !follow.live => {
                Err(ClientError::Usage("nothing of this is kept in Redis: follow it with -f".into()))
            }
            Endpoint::Redis(spec) => {
                let lines = ClusterStream::connect(spec, cluster, follow, patience).await;
                let source = Source::Cluster(Box::new(lines.map_err(ClientError::Unreached)?));
                match deafness(spec, cluster, patience).await {
                    Some(why @ Deafness::Sealed) => Err(ClientError::Usage(why.to_string())),
                    // Anybody who reaches Redis may have written that: it keeps nobody from what is sealed with our secret.
                    why => Ok(Stream { source, note: why.map(|why| json!({"note": why.to_string()})) }),
                }
            }
        }
    }

    /// The next line: an event, a line of output, or what there is to say about the stream (`note`, `dropped`).
    /// Nothing where all has been said that was asked for. Takes as long as it takes.
    ///
    /// # Errors
    /// The stream broke off.
    pub async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        if let Some(note) = self.note.take() {
            return Ok(Some(note));
        }
        match &mut self.source {
            Source::Agent { lines, at } => {
                let line = read(lines, at).await?;
                Ok((line["end"] != true).then_some(line))
            }
            Source::Cluster(lines) => lines.next().await.map(Some).map_err(ClientError::Silent),
            Source::Published { events, follow } => loop {
                let (topic, body) = events.next().await.map_err(|broken| ClientError::Silent(broken.to_string()))?;
                let event = wire::circus::heard(&topic, &body);
                if let Some(event) = event.and_then(|mut event| follow.narrow(&mut event).then_some(event)) {
                    return Ok(Some(event));
                }
            },
        }
    }
}

/// Listens where events are published, which who is asked at `address` knows.
async fn subscribe(
    address: &ZmqAddress,
    cluster: &ClusterName,
    follow: &Follow,
    patience: Duration,
) -> Result<Subscriber, ClientError> {
    let usage = |why: &str| Err(ClientError::Usage(format!("over ZeroMQ {why}")));
    if follow.subject != Subject::Events {
        return usage("events are followed, and nothing else: ask the agent's control socket, or Redis");
    }
    if !follow.live {
        return usage("what has been is not to be had: follow it with -f");
    }
    if follow.nodes != Nodes::Here {
        return usage("one node is followed: ask Redis for all of them");
    }
    let command = Command::GlobalOptions { option: Some("pubsub_endpoint".into()) };
    let call = Call { command, target: Target::Here, cluster: cluster.clone(), patience };
    let reply = zmq::over_zmq(address, &call).await?;
    let place = reply["options"]["pubsub_endpoint"].as_str().and_then(|text| ZmqAddress::parse(text).ok());
    let Some(place) = place else {
        return Err(ClientError::Refused(format!("{address} does not say where it publishes events")));
    };
    let unreached = |broken| ClientError::Unreached(format!("no events are to be had at {place}: {broken}"));
    Subscriber::connect(&place, "watcher.").await.map_err(unreached)
}

/// Why nothing would be understood of any node of the cluster; nothing where something would be, or where that is not
/// known.
async fn deafness(spec: &RedisSpec, cluster: &ClusterName, patience: Duration) -> Option<Deafness> {
    let bus = BusClient::connect(spec, cluster, patience).await.ok()?;
    let rows = bus.roster().await.ok()?;
    let there = rows.iter().filter(|row| row.state != NodeState::Gone);
    let deaf: Option<Vec<Deafness>> = there.map(|row| bus.deafness(row)).collect();
    deaf?.first().copied()
}

/// Puts the request to an agent and reads its reply.
async fn ask(path: &Path, follow: &Follow) -> Result<BufReader<UnixStream>, ClientError> {
    let unreached =
        |error: io::Error| ClientError::Unreached(format!("no agent reached at {}: {error}", path.display()));
    let mut agent = UnixStream::connect(path).await.map_err(unreached)?;
    let mut request = wire::follow_json(follow);
    request["id"] = json!(std::process::id());
    agent.write_all(format!("{request}\n").as_bytes()).await.map_err(|error| broken(path, &error))?;
    let mut lines = BufReader::new(agent);
    let reply = read(&mut lines, path).await?;
    match reply["status"] == "ok" {
        true => Ok(lines),
        false => Err(ClientError::Refused(reply["reason"].as_str().unwrap_or("it did not say why").to_owned())),
    }
}

async fn read(lines: &mut BufReader<UnixStream>, at: &Path) -> Result<Value, ClientError> {
    let mut line = Vec::new();
    match lines.take(MAX_REPLY).read_until(b'\n', &mut line).await {
        Ok(0) => Err(ClientError::Silent(format!("the agent at {} hung up", at.display()))),
        Ok(_) => serde_json::from_slice(&line).map_err(|error| broken(at, &error.into())),
        Err(error) => Err(broken(at, &error)),
    }
}

fn broken(at: &Path, error: &io::Error) -> ClientError {
    ClientError::Silent(format!("the agent at {} broke off: {error}", at.display()))
}
