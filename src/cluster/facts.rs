//! What a server says of itself, looked at when it is reached and from time to time: its operator may change it.
//!
//! Invariant: told to the agent when it is something new. What it means is the model's to say.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::line::{Line, Patience, State, Trouble};
use crate::model::event::Event;
use crate::model::store::{Failover, NODE_TIMEOUT, StoreFacts};

/// How often a server is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a server is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing, or a master and its replicas.
    Alone,
    /// A Redis Cluster.
    Cluster,
}

/// Tells, for ever, what the server at the end of `line` says of itself.
pub(super) async fn watch(line: Line, place: Place, events: mpsc::Sender<Event>) {
    let mut state = line.state();
    let mut told: Option<(Arc<str>, StoreFacts)> = None;
    loop {
        let up = state.wait_for(|state| matches!(state, State::Up(_))).await;
        let Ok(Some(wire)) = up.map(|state| if let State::Up(wire) = &*state { Some(Arc::clone(wire)) } else { None })
        else {
            return;
        };
        if let Ok(facts) = look(&line, place, wire.failover.clone()).await {
            let now = Some((Arc::clone(&wire.address), facts));
            if told != now
                && let Some((server, facts)) = &now
            {
                let elsewhere = told.as_ref().filter(|(old, _)| old != server);
                let gone = elsewhere.map(|(old, _)| Event::StoreSeen { server: old.to_string(), facts: None });
                let seen = Event::StoreSeen { server: server.to_string(), facts: Some(facts.clone()) };
                for event in gone.into_iter().chain([seen]) {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            }
            told = now;
        }
        // Sooner where it is reached anew. An error is what the line ended with.
        let _ = timeout(LOOK_EVERY, state.changed()).await;
    }
}

async fn look(line: &Line, place: Place, failover: Option<Failover>) -> Result<StoreFacts, Trouble> {
    line.ask(Patience::until(Instant::now() + LOOK_TIMEOUT), async |mut connection| {
        let mut info = redis::pipe();
        info.cmd("INFO").arg("replication").cmd("INFO").arg("memory");
        let (replication, memory): (String, String) = info.query_async(&mut connection).await?;
        let failover = match place {
            Place::Alone => failover,
            Place::Cluster => {
                let mut asked = redis::cmd("CONFIG");
                asked.arg("GET").arg(NODE_TIMEOUT);
                // Refused to who may not ask: then it is not known.
                node_timeout(asked.query_async(&mut connection).await.ok())
            }
        };
        Ok(read(&replication, &memory, failover))
    })
    .await
}

/// Reads `INFO replication` and `INFO memory`.
fn read(replication: &str, memory: &str, failover: Option<Failover>) -> StoreFacts {
    let policy = field(memory, "maxmemory_policy").filter(|policy| *policy != "noeviction");
    let limited = field(memory, "maxmemory").is_some_and(|bytes| bytes != "0");
    StoreFacts {
        evicts: policy.filter(|_| limited).map(ToOwned::to_owned),
        replicas: field(replication, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0),
        // There only where `min-replicas-to-write` is set.
        guarded: field(replication, "min_slaves_good_slaves").is_some(),
        failover,
    }
}

/// What `CONFIG GET cluster-node-timeout` says; nothing where it was refused.
fn node_timeout(answer: Option<Value>) -> Option<Failover> {
    let [_, value] = redis::from_redis_value::<[String; 2]>(answer?).ok()?;
    Some(Failover { setting: NODE_TIMEOUT, after: Duration::from_millis(value.parse().ok()?) })
}

/// The value in a line `name:value` of `INFO` and its like.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_found_in_what_a_server_says() {
        let replication = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nmin_slaves_good_slaves:2\r\n";
        let memory = "maxmemory:1048576\r\nmaxmemory_human:1.00M\r\nmaxmemory_policy:volatile-ttl\r\n";
        let facts = read(replication, memory, None);
        let evicts = Some("volatile-ttl".to_owned());
        assert_eq!(facts, StoreFacts { evicts, replicas: 2, guarded: true, failover: None });
        assert_eq!(read("role:master", "maxmemory:0\r\nmaxmemory_policy:allkeys-lru", None), StoreFacts::default());
        assert_eq!(read("", "maxmemory:9\r\nmaxmemory_policy:noeviction\r\n", None), StoreFacts::default());
    }

    #[test]
    fn a_node_timeout_is_read_where_it_may_be() {
        let words = |words: &[&str]| Value::Array(words.iter().map(|w| Value::BulkString((*w).into())).collect());
        let read = node_timeout(Some(words(&["cluster-node-timeout", "2000"])));
        assert_eq!(read, Some(Failover { setting: NODE_TIMEOUT, after: Duration::from_secs(2) }));
        assert_eq!(node_timeout(Some(words(&[]))), None);
        assert_eq!(node_timeout(None), None);
    }
}
