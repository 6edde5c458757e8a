//! How circusctl asks nodes without an agent of its own: the same registry, the same bus, for the length of one command.
//! And how a drill's witness keeps what it saw, when its agent is dead.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::select_ok;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::bus::Said;
use super::history::Recorder;
use super::link::Link;
use super::seal::Seal;
use super::sentinel::Whereabouts;
use super::servers::Servers;
use super::{bus, keys, reason, registry, subscription};
use crate::model::command::NodeRow;
use crate::model::history::Fact;
use crate::model::names::{ClusterName, LeaseName, NodeName};
use crate::model::spec::RedisSpec;

/// Why a node and this asker do not understand each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deafness {
    /// The node's messages are sealed, and there is no secret here.
    Sealed,
    /// They are not, and ours are.
    Unsealed,
    /// They are, with another secret.
    OtherSecret,
}

impl fmt::Display for Deafness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deafness::Sealed => {
                "messages are sealed there: --secret-file FILE, or CIRCUS_SECRET_FILE, names the file with the secret"
            }
            Deafness::Unsealed => "messages are not sealed there: ask without --secret-file and CIRCUS_SECRET_FILE",
            Deafness::OtherSecret => {
                "messages are sealed with another secret there: --secret-file is to have the line that its agents have"
            }
        })
    }
}

/// Two ways to a cluster's Redis: one to ask on, one to be answered on. The second is not remade when it breaks.
pub struct BusClient {
    cluster: ClusterName,
    /// How this asker is called in the logs of nodes: `circusctl on db-1`.
    from: String,
    reply_to: String,
    seal: Seal,
    link: Link,
    /// Keeps the link up, and ends with this value.
    _task: JoinSet<()>,
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
        // What an agent would be told of the link is nothing to one command.
        let connect = async |spec: &RedisSpec| {
            let (unheard, mut dropped) = mpsc::channel(16);
            let (link, keep_up) = Link::new(spec.clone(), "circusctl".into(), Whereabouts::unknown(), unheard);
            let mut task = JoinSet::new();
            task.spawn(keep_up);
            task.spawn(async move { while dropped.recv().await.is_some() {} });
            let ((), (sink, answers)) = tokio::try_join!(link.settled(), subscription::subscribe(spec, &channels))?;
            Ok((link, task, sink, answers))
        };
        let specs = spec.servers();
        let any = select_ok(specs.iter().map(|spec| Box::pin(connect(spec))));
        let ((link, task, sink, answers), _others) =
            tokio::time::timeout(timeout, any).await.unwrap_or_else(|_| Err(reason::no_answer(timeout)))?;
        let (cluster, seal) = (cluster.clone(), Seal::new(spec.secret_file.clone()));
        Ok(BusClient { cluster, from, reply_to, seal, link, _task: task, answers, _sink: sink, timeout })
    }

    /// The nodes of the cluster, sorted by name; those that left an hour ago are forgotten.
    ///
    /// # Errors
    /// Redis did not tell, and why.
    pub async fn roster(&self) -> Result<Vec<NodeRow>, String> {
        let call = registry::roster_call(&self.cluster);
        Ok(registry::rows(&self.link.call(&call, self.timeout).await?))
    }

    /// Why `row`'s node cannot hear us or be heard, as far as it says itself under which secrets it takes messages.
    pub fn deafness(&self, row: &NodeRow) -> Option<Deafness> {
        let (ours, theirs) = (self.seal.marks(), &row.about.seals);
        // The first seals, and each opens.
        match (ours.first(), theirs.first()) {
            (None, Some(_)) if !self.seal.is_wanted() => Some(Deafness::Sealed),
            (Some(_), None) => Some(Deafness::Unsealed),
            (Some(our), Some(their)) if !(theirs.contains(our) && ours.contains(their)) => Some(Deafness::OtherSecret),
            _ => None,
        }
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
            match self.put(node, message, None).await? {
                None => drop(replies.insert(node.clone(), Err(bus::nobody(node)))),
                Some(id) => drop(open.insert(id, node.clone())),
            }
        }
        let mut met = HashSet::new();
        while !open.is_empty() {
            let silent = match timeout_at(deadline, self.answers.next()).await {
                Ok(Some(heard)) => {
                    // What is no answer, or one to an earlier question, is nothing to this one.
                    let answer = bus::opened(&self.seal, &self.reply_to, heard.get_payload_bytes());
                    let answer = answer.and_then(|answer| bus::parse_answer(&answer));
                    let Ok((re, said)) = answer else { continue };
                    let Some(node) = open.remove(&re) else { continue };
                    let reply = match said {
                        Said::Message(text) => Ok(text),
                        Said::Error(why) => Err(why),
                        Said::Challenge(_) if !met.insert(node.clone()) => Err(bus::STALE_TWICE.into()),
                        Said::Challenge(challenge) => match self.put(&node, message, Some(challenge)).await? {
                            None => Err(bus::nobody(&node)),
                            Some(id) => {
                                open.insert(id, node);
                                continue;
                            }
                        },
                    };
                    replies.insert(node, reply);
                    continue;
                }
                Ok(None) => "the server closed the connection".into(),
                Err(_) => reason::no_answer(patience),
            };
            replies.extend(open.drain().map(|(_, node)| (node, Err(silent.clone()))));
        }
        Ok(replies)
    }

    /// Puts a question to one node: its id, or nothing where nobody hears it.
    async fn put(&self, node: &NodeName, message: &str, challenge: Option<String>) -> Result<Option<String>, String> {
        let id = format!("{:032x}", bus::new_id()?);
        let text = bus::question_text(&id, &self.from, &self.reply_to, message.to_owned(), challenge)?;
        let heard = self.link.publish(&keys::bus(&self.cluster, node), &text, self.timeout).await?;
        Ok((heard > 0).then_some(id))
    }
}

/// How a drill's witness keeps what it saw: as an agent does, beside it.
pub struct HistoryKeeper {
    recorder: Recorder,
    /// The links. They end with this value.
    _tasks: JoinSet<()>,
}

impl HistoryKeeper {
    /// Connects to the Redis that `spec` names, for facts of `node`: of several servers, to one at least.
    ///
    /// # Errors
    /// None is reached in time, and why.
    pub async fn connect(spec: &RedisSpec, node: &NodeName, patience: Duration) -> Result<HistoryKeeper, String> {
        let (unheard, mut dropped) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        let servers = Servers::start(spec, node, &unheard, &mut tasks);
        tasks.spawn(async move { while dropped.recv().await.is_some() {} });
        let any = select_ok(servers.iter().map(|server| Box::pin(server.link.settled())));
        tokio::time::timeout(patience, any).await.unwrap_or_else(|_| Err(reason::no_answer(patience)))?;
        let recorder = Recorder::start(node, &servers);
        Ok(HistoryKeeper { recorder, _tasks: tasks })
    }

    /// Keeps a fact as soon as it can be.
    pub fn record(&mut self, lease: &LeaseName, fact: &Fact) {
        self.recorder.record(lease, fact);
    }

    /// Waits until all is kept, for so long at most.
    pub async fn close(self, patience: Duration) {
        // A server that is away for longer does not tell of it; whoever reads asks the one that knows most.
        let _ = tokio::time::timeout(patience, self.recorder.settled()).await;
    }
}
