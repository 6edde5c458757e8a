//! What asks agents: over the control socket of this machine, over Redis from anywhere, or over ZeroMQ, where a circusd
//! may answer as well.
//!
//! Invariants: every wait has an end; who did not answer is named; nothing is printed here.

pub mod drill;
pub mod follow;
pub mod roll;

mod zmq;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::cluster::client::{BusClient, Deafness};
use crate::control::Places;
use crate::model::command::{Answer, Command, NodeState, Outcome, Part, Reply, Target};
use crate::model::names::{ClusterName, NodeName};
use crate::model::roster::{self, Addressees, Nobody};
use crate::model::spec::{RedisSpec, Secret, ZmqAddress};
use crate::unix::Probe;
use crate::wire;

/// What an agent that asks others is given beyond its own patience with them, so that its reply, which names the
/// silent ones, arrives before we give up on it.
const GATHERING: Duration = Duration::from_secs(2);
/// How soon the registry knows what is wanted of a node: when it may be chosen anew among them.
const REGISTERED: Duration = Duration::from_millis(300);
/// How often that is done.
const PLACEMENTS: usize = 5;
/// The longest reply taken, in bytes. Statistics of a thousand processes are a third of a megabyte.
const MAX_REPLY: u64 = 64 << 20;

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An agent's control socket.
    Unix(PathBuf),
    /// The Redis that the agents share.
    Redis(RedisSpec),
    /// The `endpoint` of a circusd, or of an agent that has one.
    Zmq(ZmqAddress),
}

impl Endpoint {
    /// Reads `unix:///path`, a plain path, `redis://…` or a relative of it, `tcp://host:port` or `ipc://path`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(parts) => parts,
            None if text.starts_with(['/', '.']) => ("unix", text),
            None => return Err(format!("'{text}' is no endpoint: it is unix:///path or redis://host:port/db")),
        };
        match scheme {
            "unix" if rest.is_empty() => Err("unix:// needs a path, as in unix:///run/circus/web-1.sock".into()),
            "unix" => Ok(Endpoint::Unix(rest.into())),
            "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel" | "redis+majority"
            | "rediss+majority" | "redis+cluster" | "rediss+cluster" | "valkey" | "valkeys" => {
                Ok(Endpoint::Redis(RedisSpec::at(Secret::new(text.to_owned()))))
            }
            "unix+redis" => Ok(Endpoint::Redis(RedisSpec::at(Secret::new(format!("redis+unix://{rest}"))))),
            "tcp" | "ipc" => match ZmqAddress::parse(text) {
                Ok(address) => Ok(Endpoint::Zmq(address)),
                Err(why) => Err(format!("'{text}' {why}")),
            },
            _ => Err(format!(
                "unknown endpoint '{scheme}://': it is unix:///path, redis://host:port/db or tcp://host:port"
            )),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Zmq(address) => address.fmt(f),
            // Without what may be a password.
            Endpoint::Redis(spec) => {
                let url = spec.url.reveal();
                let scheme = url.split_once("://").map_or("redis", |(scheme, _)| scheme);
                write!(f, "{scheme}://{}", spec.place())
            }
        }
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No agent, or no Redis, was reached.
    #[error("{0}")]
    Unreached(String),
    /// It was reached and did not answer in time, or hung up.
    #[error("{0}")]
    Silent(String),
    /// It cannot be asked this way: the asker has to say more.
    #[error("{0}")]
    Usage(String),
    /// It was asked for a stream, and refused.
    #[error("{0}")]
    Refused(String),
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What is asked.
    pub command: Command,
    /// Of whom.
    pub target: Target,
    /// The cluster, where Redis is asked.
    pub cluster: ClusterName,
    /// How long each node may take.
    pub patience: Duration,
}

/// Asks, and gives back the reply as its JSON promises it ([`wire::reply_json`]).
///
/// Three questions are asked once more, in other words: leases of all nodes become this node's where there is no cluster,
/// a failover goes on to the holder where the node that was asked is not, and a singleton is explained by all nodes. A
/// fourth is asked again as it is: where a node is full that was to take a process, because others asked at the same time.
pub async fn ask(endpoint: &Endpoint, call: &Call) -> Result<Value, ClientError> {
    let mut reply = ask_once(endpoint, call).await?;
    if let Target::Any(..) = call.target {
        for _ in 0..PLACEMENTS {
            let full = |part: &Value| part["code"] == "too-many";
            if !reply["nodes"].as_object().is_some_and(|nodes| nodes.values().any(full)) {
                break;
            }
            sleep(REGISTERED).await;
            reply = ask_once(endpoint, call).await?;
        }
    }
    match (&call.command, &call.target, reply["code"].as_str()) {
        (Command::Leases, Target::All, Some("no-cluster")) => {
            ask_once(endpoint, &Call { target: Target::Here, ..call.clone() }).await
        }
        // Of a singleton each node knows its part: put together, they are the whole.
        (Command::Explain { .. }, Target::Here, _) if reply["singleton"] == true && reply["clustered"] == true => {
            let all = ask_once(endpoint, &Call { target: Target::All, ..call.clone() }).await;
            Ok(all.ok().filter(|all| all["missing"].is_null() && all["nodes"].is_object()).map_or(reply, known_only))
        }
        (
            Command::Explain { .. }
            | Command::Legions { legion: Some(_) }
            | Command::Lord { .. }
            | Command::Scrolls { .. },
            ..,
        ) => Ok(known_only(reply)),
        (Command::Failover { .. }, Target::Here, Some("not-holder")) => {
            match reply["holder"].as_str().and_then(|holder| NodeName::parse(holder).ok()) {
                Some(holder) => ask_once(endpoint, &Call { target: Target::node(holder), ..call.clone() }).await,
                None => Ok(reply),
            }
        }
        _ => Ok(reply),
    }
}

/// A gathered reply without the nodes that do not know the watcher or legion, where others do.
fn known_only(mut reply: Value) -> Value {
    let Some(nodes) = reply.get_mut("nodes").and_then(Value::as_object_mut) else { return reply };
    let strange = |part: &Value| part["code"] == "no-such-watcher" || part["code"] == "no-such-legion";
    if nodes.values().all(strange) {
        return reply;
    }
    nodes.retain(|_, part| !strange(part));
    if nodes.values().all(|part| part["status"] != "error") && reply["missing"].is_null() {
        reply["status"] = json!("ok");
        if let Some(reply) = reply.as_object_mut() {
            ["reason", "errno", "tb"].iter().for_each(|key| drop(reply.remove(*key)));
        }
    }
    reply
}

async fn ask_once(endpoint: &Endpoint, call: &Call) -> Result<Value, ClientError> {
    match endpoint {
        Endpoint::Unix(path) => over_unix(path, call).await,
        Endpoint::Redis(spec) => over_redis(spec, call).await,
        Endpoint::Zmq(address) => zmq::over_zmq(address, call).await,
    }
}

/// The name of the node behind a control socket, where it says so in time.
pub async fn own_name(endpoint: &Endpoint, call: &Call) -> Option<String> {
    let Endpoint::Unix(path) = endpoint else { return None };
    let call = Call { command: Command::Status { watcher: None }, target: Target::Here, ..call.clone() };
    let reply = over_unix(path, &call).await.ok()?;
    Some(reply["node"].as_str()?.to_owned())
}

/// The control socket of this machine's agent: the only one that is live in the usual places, or the one that is
/// named as the `host`.
pub fn find_local(places: &Places, host: &str) -> Result<Endpoint, ClientError> {
    let (mut live, mut closed) = (Vec::new(), Vec::new());
    for (path, probe) in places.sockets() {
        match probe {
            Probe::Live => live.push(path),
            Probe::Failed(error) => closed.push((path, error)),
            Probe::Dead => {}
        }
    }
    let own = live.iter().find(|path| path.file_stem().is_some_and(|name| name == host));
    match (&live[..], own) {
        ([only], _) => Ok(Endpoint::Unix(only.clone())),
        (_, Some(own)) => Ok(Endpoint::Unix(own.clone())),
        ([], None) => Err(ClientError::Unreached(match closed.first() {
            Some((path, error)) => format!("an agent's socket is at {}, but cannot be opened: {error}", path.display()),
            None => {
                let looked: Vec<String> = places.dirs().iter().map(|dir| dir.display().to_string()).collect();
                format!("no agent runs here (looked in {}); start one, or name one with --endpoint", looked.join(", "))
            }
        })),
        (several, None) => {
            let mut text = "several agents run here; name one:".to_owned();
            for path in several {
                text.push_str(&format!("\n  --endpoint unix://{}", path.display()));
            }
            Err(ClientError::Usage(text))
        }
    }
}

async fn over_unix(path: &Path, call: &Call) -> Result<Value, ClientError> {
    let at = path.display();
    let unreached = |error: io::Error| ClientError::Unreached(format!("no agent reached at {at}: {error}"));
    let mut message = wire::command_json(&call.command);
    // Told apart from every other reply, should the agent ever send one more.
    let id = json!(std::process::id());
    message["id"] = id.clone();
    wire::address(&mut message, &call.target);
    if call.target != Target::Here {
        message["properties"]["timeout"] = json!(call.patience.as_secs_f64());
    }
    let patience = match call.target {
        Target::Here => call.patience,
        Target::All | Target::Nodes(_) | Target::Holder(_) | Target::Any(..) => call.patience + GATHERING,
    };
    let started = Instant::now();
    let mut agent = timeout(patience, UnixStream::connect(path))
        .await
        .map_err(|_| ClientError::Unreached(format!("the agent at {at} is too busy to be reached")))?
        .map_err(unreached)?;
    let conversation = async {
        agent.write_all(format!("{message}\n").as_bytes()).await?;
        let mut lines = BufReader::new(agent).take(MAX_REPLY);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).await? > 0 {
            match serde_json::from_slice::<Value>(&line) {
                // An error about bytes that were no request has no id, and can only be about ours.
                Ok(reply) if reply["id"] == id || reply["id"].is_null() => return Ok(Some(reply)),
                Ok(_) => line.clear(),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(None)
    };
    let left = patience.saturating_sub(started.elapsed());
    match timeout(left, conversation).await {
        Ok(Ok(Some(reply))) => Ok(reply),
        // An agent that was told to quit may be gone before the reply is out: that is what was asked for.
        Ok(gone)
            if matches!(call.command, Command::Quit { .. })
                && call.target == Target::Here
                && !gone.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) =>
        {
            Ok(wire::reply_json(&Outcome::Own(Reply::Done(Answer::Ok)), &id, unix_time()))
        }
        Ok(Ok(None)) => Err(ClientError::Silent(format!("the agent at {at} hung up without a reply"))),
        Ok(Err(error)) => Err(ClientError::Silent(format!("the agent at {at} broke off: {error}"))),
        Err(_) => Err(ClientError::Silent(format!(
            "the agent at {at} did not reply within {} s; it may still do what was asked (--timeout waits longer)",
            patience.as_secs_f64()
        ))),
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

async fn over_redis(spec: &RedisSpec, call: &Call) -> Result<Value, ClientError> {
    let mut bus = BusClient::connect(spec, &call.cluster, call.patience).await.map_err(ClientError::Unreached)?;
    let roster = bus.roster().await.map_err(ClientError::Unreached)?;
    let done = |outcome: &Outcome| Ok(wire::reply_json(outcome, &Value::Null, unix_time()));
    if roster::is_of_registry(&call.command) {
        return done(&Outcome::Own(roster::from_registry(&call.command, roster)));
    }
    if !matches!(call.target, Target::Nodes(_)) && roster.iter().all(|row| row.state == NodeState::Gone) {
        let why = format!("no agent of cluster {} is registered in this Redis", call.cluster);
        return Err(ClientError::Unreached(why));
    }
    let Addressees { ask, absent, missing } = match roster::choose(&call.target, &call.command, None, Ok(&roster)) {
        Ok(addressees) => addressees,
        Err(Nobody::Refused(refusal)) => return done(&Outcome::Own(Reply::Refused(refusal))),
        Err(Nobody::NotTold) => {
            let what = wire::command_name(&call.command);
            return Err(ClientError::Usage(format!("over Redis, say where to {what}: --node NAME, or --all")));
        }
    };
    let deafness = |node: &NodeName| roster.iter().find(|row| row.name == *node).and_then(|row| bus.deafness(row));
    let deaf: BTreeMap<NodeName, Deafness> =
        ask.iter().filter_map(|node| Some((node.clone(), deafness(node)?))).collect();
    // Who has a secret asks all the same: anybody who reaches Redis may have written what the registry says.
    if !ask.is_empty() && ask.iter().all(|node| deaf.get(node) == Some(&Deafness::Sealed)) {
        return Err(ClientError::Usage(Deafness::Sealed.to_string()));
    }
    let mut parts: Vec<_> = absent.into_iter().map(|(node, why)| (node, Part::Absent(why))).collect();
    let message = wire::command_json(&call.command).to_string();
    let mut answers = match ask.is_empty() {
        true => Default::default(),
        false => bus.ask(&ask, &message, call.patience).await.map_err(ClientError::Unreached)?,
    };
    for node in ask {
        let part = match answers.remove(&node) {
            Some(Ok(text)) => Part::Relayed(text),
            Some(Err(reason)) => Part::Silent(match deaf.get(&node) {
                Some(why) => format!("{reason}; {why}"),
                None => reason,
            }),
            None => Part::Silent(format!("no answer within {} s", call.patience.as_secs_f64())),
        };
        parts.push((node, part));
    }
    parts.sort_by(|(a, _), (b, _)| a.cmp(b));
    done(&Outcome::Gathered { parts, missing })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Patience, Selector, Strategy};
    use std::os::unix::net::UnixListener;

    fn call(command: Command, target: Target) -> Call {
        let cluster = ClusterName::parse("default").unwrap();
        Call { command, target, cluster, patience: Duration::from_millis(200) }
    }

    #[test]
    fn endpoints_are_read_and_never_show_a_password() {
        assert_eq!(Endpoint::parse("unix:///a/b"), Ok(Endpoint::Unix("/a/b".into())));
        assert_eq!(Endpoint::parse("/a/b"), Ok(Endpoint::Unix("/a/b".into())));
        let redis = Endpoint::parse("redis://user:pw@host:6379/0").unwrap();
        assert_eq!(redis.to_string(), "redis://host:6379/0");
        for several in ["sentinel://h/m", "cluster://h,i", "majority://h,i,j"] {
            for scheme in ["redis", "rediss"] {
                assert!(matches!(Endpoint::parse(&format!("{scheme}+{several}")), Ok(Endpoint::Redis(_))), "{several}");
            }
        }
        let unix = Endpoint::parse("redis+unix:///run/redis.sock?user=u&pass=pw").unwrap();
        assert_eq!(unix.to_string(), "redis+unix:///run/redis.sock");
        assert!(!format!("{redis:?}").contains("pw"));
        for text in ["tcp://127.0.0.1:5555", "ipc:///run/circus/endpoint"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "web-1", "unix://", "http://x", "tcp://127.0.0.1", "ipc://"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_local_agent_is_the_only_live_one_or_the_hosts_own() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(vec![dir.path().into()]);
        let none = find_local(&places, "web-1").unwrap_err();
        assert!(matches!(&none, ClientError::Unreached(why) if why.contains("no agent runs here")), "{none}");
        let path = |name: &str| dir.path().join(name);
        drop(UnixListener::bind(path("dead.sock")).unwrap());
        let _a = UnixListener::bind(path("a.sock")).unwrap();
        assert_eq!(find_local(&places, "web-1"), Ok(Endpoint::Unix(path("a.sock"))));
        let _b = UnixListener::bind(path("b.sock")).unwrap();
        assert_eq!(find_local(&places, "b"), Ok(Endpoint::Unix(path("b.sock"))));
        let several = find_local(&places, "web-1").unwrap_err();
        assert!(matches!(&several, ClientError::Usage(why) if why.contains("/b.sock")), "{several}");
    }

    /// Asks an agent that says `replies` to the requests in turn; what it was asked comes back too.
    fn conversation(call: &Call, replies: &[&str]) -> (Result<Value, ClientError>, Vec<Value>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let mut asked = Vec::new();
            let answering = async {
                for reply in replies {
                    let (client, _) = listener.accept().await.unwrap();
                    let mut client = BufReader::new(client);
                    let mut line = String::new();
                    client.read_line(&mut line).await.unwrap();
                    let request: Value = serde_json::from_str(&line).unwrap();
                    let reply = reply.replace("ID", &request["id"].to_string());
                    asked.push(request);
                    client.write_all(reply.as_bytes()).await.unwrap();
                }
                std::future::pending::<()>().await;
            };
            let endpoint = Endpoint::Unix(path.clone());
            let reply = tokio::select! {
                reply = ask(&endpoint, call) => reply,
                () = answering => unreachable!(),
            };
            (reply, asked)
        })
    }

    #[test]
    fn the_reply_with_our_id_is_ours() {
        let (reply, asked) = conversation(
            &call(Command::NumWatchers, Target::All),
            &["{\"id\":\"other\",\"status\":\"ok\"}\n{\"id\":ID,\"status\":\"ok\",\"numwatchers\":3}\n"],
        );
        assert_eq!(reply.unwrap()["numwatchers"], 3);
        assert_eq!(asked[0]["properties"], json!({"all": true, "timeout": 0.2}));
    }

    #[test]
    fn silence_rubbish_and_a_hang_up_are_told_apart_from_no_agent() {
        for reply in ["", "rubbish\n", "{\"id\":ID,", "{\"id\":\"other\"}\n"] {
            let (reply, _) = conversation(&call(Command::NumWatchers, Target::Here), &[reply]);
            assert!(matches!(reply, Err(ClientError::Silent(_))), "{reply:?}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let nobody = Endpoint::Unix("/nonexistent/a.sock".into());
        let reply = runtime.block_on(ask(&nobody, &call(Command::NumWatchers, Target::Here)));
        assert!(matches!(&reply, Err(ClientError::Unreached(why)) if why.contains("/nonexistent")), "{reply:?}");
    }

    #[test]
    fn leases_of_a_node_without_a_cluster_are_its_own() {
        let (reply, asked) = conversation(
            &call(Command::Leases, Target::All),
            &[
                "{\"id\":ID,\"status\":\"error\",\"code\":\"no-cluster\"}\n",
                "{\"id\":ID,\"status\":\"ok\",\"leases\":[]}\n",
            ],
        );
        assert_eq!(reply.unwrap()["leases"], json!([]));
        assert_eq!(asked[1]["properties"], json!({}));
    }

    #[test]
    fn a_failover_is_taken_on_to_the_holder() {
        let failover = Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled };
        let (reply, asked) = conversation(
            &call(failover, Target::Here),
            &[
                "{\"id\":ID,\"status\":\"error\",\"code\":\"not-holder\",\"holder\":\"web-2\"}\n",
                "{\"id\":ID,\"status\":\"ok\",\"nodes\":{}}\n",
            ],
        );
        assert_eq!(reply.unwrap()["status"], "ok");
        assert_eq!(asked[1]["properties"]["node"], json!(["web-2"]));
    }

    #[test]
    fn where_a_node_has_become_full_meanwhile_another_is_chosen() {
        let more = Command::Resize { watcher: "web".into(), by: 1, patience: Patience::Admitted };
        let any = || Target::Any(Strategy::Pack, Selector::default());
        let full = "{\"id\":ID,\"status\":\"error\",\"nodes\":{\"a\":{\"status\":\"error\",\"code\":\"too-many\"}}}\n";
        let taken = "{\"id\":ID,\"status\":\"ok\",\"nodes\":{\"b\":{\"status\":\"ok\",\"numprocesses\":2}}}\n";
        let (reply, asked) = conversation(&call(more.clone(), any()), &[full, full, taken]);
        assert_eq!((reply.unwrap()["status"].clone(), asked.len()), (json!("ok"), 3));
        // Who was named is not passed by.
        let (reply, asked) = conversation(&call(more, Target::All), &[full]);
        assert_eq!((reply.unwrap()["status"].clone(), asked.len()), (json!("error"), 1));
    }

    #[test]
    fn an_agent_that_quits_before_it_replies_did_what_was_asked() {
        let quit = call(Command::Quit { patience: Patience::Settled }, Target::Here);
        let (reply, _) = conversation(&quit, &[""]);
        assert_eq!(reply.unwrap()["status"], "ok");
    }

    #[test]
    fn a_question_goes_through_the_control_socket_and_its_answer_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-1.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let door = crate::control::ControlSocket::bind(&path).unwrap();
            let (sender, mut questions) = tokio::sync::mpsc::channel(4);
            let door = tokio::spawn(door.serve(sender));
            let answering = tokio::spawn(async move {
                let question = questions.recv().await.unwrap();
                let request = wire::parse_request(&question.line).unwrap();
                assert_eq!(request.command, Command::Version);
                let outcome = Outcome::Own(Reply::Done(Answer::Version("1.2.3")));
                question.answer.send(wire::reply_json(&outcome, &request.id, 1.0).to_string().into()).unwrap();
            });
            let endpoint = find_local(&Places::new(vec![dir.path().into()]), "x").unwrap();
            let reply = ask(&endpoint, &call(Command::Version, Target::Here)).await.unwrap();
            assert_eq!(reply["version"], "1.2.3");
            answering.await.unwrap();
            door.await.unwrap();
        });
    }
}
