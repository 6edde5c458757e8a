//! How circusctl asks nodes without an agent of its own: the same registry, the same bus, for the length of one command.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::select_ok;
use redis::RedisResult;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{bus, keys, link, reason, registry, subscription};
use crate::model::command::NodeRow;
use crate::model::names::{ClusterName, NodeName};
use crate::model::spec::RedisSpec;

/// Two connections to a cluster's Redis: one to ask on, one to be answered on. Not remade when they break.
pub struct BusClient {
    cluster: ClusterName,
    address: String,
    /// How this asker is called in the logs of nodes: `circusctl on db-1`.
    from: String,
    reply_to: String,
    connection: MultiplexedConnection,
    answers: PubSubStream,
    /// Held, because the stream ends with it.
    _sink: PubSubSink,
    timeout: Duration,
}

impl BusClient {
    /// Connects to the Redis that `spec` names: of several servers, to the first that answers, because every node is at
    /// all of them. `timeout` bounds that, and each later question to Redis itself.
    ///
    /// # Errors
    /// Why not, in words for people and without the password.
    pub async fn connect(spec: &RedisSpec, cluster: &ClusterName, timeout: Duration) -> Result<BusClient, String> {
        let host = nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned());
        let from = format!("circusctl on {}", host.as_deref().unwrap_or("an unknown host"));
        let reply_to = keys::reply(cluster, bus::new_id()?);
        let channels = [reply_to.clone()];
        let both = async |spec: &RedisSpec| {
            tokio::try_join!(link::connect(spec, "circusctl"), subscription::subscribe(spec, &channels))
        };
        let specs = spec.servers();
        let any = select_ok(specs.iter().map(|spec| Box::pin(both(spec))));
        let (((connection, address), (sink, answers)), _others) =
            tokio::time::timeout(timeout, any).await.unwrap_or_else(|_| Err(reason::no_answer(timeout)))?;
        let (cluster, address) = (cluster.clone(), address.to_string());
        Ok(BusClient { cluster, address, from, reply_to, connection, answers, _sink: sink, timeout })
    }

    /// The nodes of the cluster, sorted by name; those that left an hour ago are forgotten.
    ///
    /// # Errors
    /// Redis did not tell, and why.
    pub async fn roster(&self) -> Result<Vec<NodeRow>, String> {
        let call = registry::roster_call(&self.cluster);
        let mut connection = self.connection.clone();
        let answer = self.bounded(link::run_script(&call, &mut connection)).await?;
        Ok(registry::rows(&link::words(answer)?))
    }

    /// Puts `message`, a Circus message, to each of `nodes`, and gives what each replied; an `Err` says why it did not.
    /// Ends when all have answered, or after `patience`.
    ///
    /// # Errors
    /// Redis could not be asked at all.
    pub async fn ask(
        &mut self,
        nodes: &[NodeName],
        message: &str,
        patience: Duration,
    ) -> Result<BTreeMap<NodeName, Result<String, String>>, String> {
        let deadline = Instant::now() + patience;
        let mut replies = BTreeMap::new();
        let mut open: HashMap<String, NodeName> = HashMap::new();
        for node in nodes {
            if replies.contains_key(node) || open.values().any(|other| other == node) {
                continue;
            }
            let id = format!("{:032x}", bus::new_id()?);
            let text = bus::question_text(&id, &self.from, &self.reply_to, message.to_owned())?;
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(keys::bus(&self.cluster, node)).arg(text);
            let mut connection = self.connection.clone();
            match self.bounded(publish.query_async::<u64>(&mut connection)).await? {
                0 => drop(replies.insert(node.clone(), Err(bus::nobody(node)))),
                _ => drop(open.insert(id, node.clone())),
            }
        }
        while !open.is_empty() {
            let silent = match timeout_at(deadline, self.answers.next()).await {
                Ok(Some(message)) => {
                    // What is no answer, or one to an earlier question, is nothing to this one.
                    if let Ok((re, said)) = bus::parse_answer(message.get_payload_bytes())
                        && let Some(node) = open.remove(&re)
                    {
                        replies.insert(node, said);
                    }
                    continue;
                }
                Ok(None) => format!("{} closed the connection", self.address),
                Err(_) => reason::no_answer(patience),
            };
            replies.extend(open.drain().map(|(_, node)| (node, Err(silent.clone()))));
        }
        Ok(replies)
    }

    async fn bounded<T>(&self, question: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
        match timeout(self.timeout, question).await {
            Ok(answer) => answer.map_err(|error| reason::of(&error, &self.address)),
            Err(_) => Err(reason::no_answer(self.timeout)),
        }
    }
}
