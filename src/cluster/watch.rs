//! Those who watch a cluster: what they follow comes from all nodes, without anybody in between.
//!
//! ```text
//! circus:{prod}:watch    {"v":1, "by":"5f…", "topic":"stats", "begun":true}       every 5 s, from whoever watches
//! circus:{prod}:watch    {"v":1, "by":"5f…", "topic":"output", "names":["web*"]}
//! circus:{prod}:stats    a frame of each node, each second           from nodes that have heard of somebody lately
//! circus:{prod}:output   lines of those watchers
//! ```
//!
//! Invariants:
//! - Who watches says so again and again; silence ends it, so that nobody who vanished costs a node anything.
//! - What is no message of ours is dropped; it never stops what follows.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::select_ok;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::access::Server;
use super::seal::Seal;
use super::sentinel::Whereabouts;
use super::{bus, keys, reason, subscription};
use crate::model::event::{Event, Onlooker};
use crate::model::names::ClusterName;
use crate::model::pattern::Pattern;
use crate::model::spec::RedisSpec;
use crate::wire::{self, Follow, Subject};

/// How often whoever watches says so, and sees whether the server is still there.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How long the server may take to show that it is.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How many patterns of watchers one may follow; more of them are all.
const MAX_NAMES: usize = 64;
/// The longest message that is taken, in bytes.
const MAX_MESSAGE: usize = 16 << 10;

/// The version of the message.
const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Interest {
    v: u32,
    by: String,
    topic: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    begun: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

/// What a message on the channel of those who watch means to a node; nothing where it is none, or about something that
/// this version does not know.
pub(super) fn heard(payload: &[u8]) -> Option<Event> {
    if payload.len() > MAX_MESSAGE {
        return None;
    }
    let interest: Interest = serde_json::from_slice(payload).ok()?;
    if interest.v != VERSION || interest.by.is_empty() || interest.by.len() > 64 {
        return None;
    }
    match interest.topic.as_str() {
        "stats" => Some(Event::Watched { by: Onlooker::Elsewhere, begun: interest.begun }),
        "output" => {
            let names = match interest.names.len() {
                1..=MAX_NAMES => interest.names.into_iter().map(Pattern::Glob).collect(),
                _ => vec![Pattern::Glob("*".into())],
            };
            Some(Event::OutputWatched { by: interest.by, names })
        }
        _ => None,
    }
}

/// What all nodes of a cluster tell, for who watches.
pub struct ClusterStream {
    follow: Follow,
    seal: Seal,
    channel: String,
    sink: PubSubSink,
    messages: PubSubStream,
    /// Where it is said that somebody watches; nowhere where nodes tell unasked.
    say: Option<(MultiplexedConnection, String, Interest)>,
    pings: tokio::time::Interval,
    /// Whether it was said that a message was too long.
    has_dropped: bool,
}

impl ClusterStream {
    /// Listens at the Redis that `spec` names, at one of several, which is reached within `patience`.
    ///
    /// # Errors
    /// Why not, in words for people and without the password.
    pub async fn connect(
        spec: &RedisSpec,
        cluster: &ClusterName,
        follow: &Follow,
        patience: Duration,
    ) -> Result<ClusterStream, String> {
        let by = format!("{:032x}", bus::new_id()?);
        let interest = |topic: &str, names| Interest { v: VERSION, by, topic: topic.into(), begun: true, names };
        let names = || follow.names.iter().map(|name| name.text().to_owned()).collect();
        let (channel, interest) = match follow.subject {
            // Nodes tell that unasked.
            Subject::Events => (keys::events(cluster), None),
            Subject::Stats => (keys::stats(cluster), Some(interest("stats", Vec::new()))),
            Subject::Logs => (keys::output(cluster), Some(interest("output", names()))),
        };
        let channels = [channel.clone()];
        let connect = async |spec: &RedisSpec| {
            let server = Server::of(spec, &Whereabouts::unknown()).await?;
            let (sink, messages) = subscription::subscribe_at(&server, &channels).await?;
            let mouth = match &interest {
                None => None,
                Some(_) => {
                    let connection = server.client.get_multiplexed_async_connection().await;
                    Some(connection.map_err(|error| server.refusal(&error))?)
                }
            };
            Ok((sink, messages, mouth))
        };
        let specs = spec.servers();
        let any = select_ok(specs.iter().map(|spec| Box::pin(connect(spec))));
        let connected = timeout(patience, any).await.map(|any| any.map(|(connected, _others)| connected));
        let (sink, messages, mouth) = connected.unwrap_or_else(|_| Err(reason::no_answer(patience)))?;
        let mut pings = interval(SAY_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let say = mouth.zip(interest).map(|(mouth, interest)| (mouth, keys::watch(cluster), interest));
        let seal = Seal::new(spec.secret_file.clone());
        Ok(ClusterStream { follow: follow.clone(), seal, channel, sink, messages, say, pings, has_dropped: false })
    }

    /// The next of what is followed. Nothing is lost where the future is dropped, unless for so long that nodes think
    /// that nobody watches any more.
    ///
    /// # Errors
    /// The connection is lost, and why.
    pub async fn next(&mut self) -> Result<Value, String> {
        loop {
            tokio::select! {
                message = self.messages.next() => {
                    let Some(message) = message else { return Err("the server closed the connection".into()) };
                    match self.seal.open(&self.channel, message.get_payload_bytes()) {
                        // Who wrote it is not looked for; but that something is missing must not pass in silence.
                        Ok(payload) if payload.len() > wire::MAX_FRAME => {
                            if !std::mem::replace(&mut self.has_dropped, true) {
                                return Ok(too_long(payload.len()));
                            }
                        }
                        Ok(payload) => {
                            if let Some(line) = line(&payload, &self.follow) {
                                return Ok(line);
                            }
                        }
                        Err(why) => tracing::debug!(%why, "a message was dropped"),
                    }
                }
                // The first comes at once. A server that hangs never closes a connection.
                _ = self.pings.tick() => {
                    let said = async {
                        self.sink.ping::<redis::Value>().await.map_err(|error| error.to_string())?;
                        let Some((mouth, channel, interest)) = &mut self.say else { return Ok(()) };
                        let text = serde_json::to_string(interest).expect("texts and numbers are JSON");
                        let message = self.seal.close(channel, &text)?;
                        let said = redis::cmd("PUBLISH").arg(&*channel).arg(&*message).exec_async(mouth).await;
                        said.map_err(|error| error.to_string())?;
                        interest.begun = false;
                        Ok(())
                    };
                    match timeout(PING_TIMEOUT, said).await {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => return Err(why),
                        Err(_) => return Err(reason::no_answer(PING_TIMEOUT)),
                    }
                },
            }
        }
    }
}

/// What is said of a message that is dropped for its length.
fn too_long(bytes: usize) -> Value {
    json!({"note": format!("a message of {bytes} bytes was dropped: the most is {}", wire::MAX_FRAME)})
}

/// What is followed of a message; nothing where that is nothing, or no message of ours: anybody may publish.
fn line(payload: &[u8], follow: &Follow) -> Option<Value> {
    let mut line: Value = serde_json::from_slice(payload).ok()?;
    (line.is_object() && follow.narrow(&mut line)).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Pattern {
        Pattern::Glob(text.into())
    }

    fn output(names: &str) -> Option<Event> {
        heard(format!(r#"{{"v": 1, "by": "5f", "topic": "output", "names": {names}}}"#).as_bytes())
    }

    #[test]
    fn what_is_watched_is_understood_and_each_part_of_it_is_nothing() {
        let interest = Interest { v: 1, by: "5f".into(), topic: "stats".into(), begun: true, names: Vec::new() };
        let text = serde_json::to_string(&interest).unwrap();
        assert_eq!(text, r#"{"v":1,"by":"5f","topic":"stats","begun":true}"#);
        assert_eq!(heard(text.as_bytes()), Some(Event::Watched { by: Onlooker::Elsewhere, begun: true }));
        for end in 0..text.len() {
            assert_eq!(heard(&text.as_bytes()[..end]), None, "{end} bytes of it");
        }
        let names = vec![glob("web*"), glob("a")];
        assert_eq!(output(r#"["web*", "a"]"#), Some(Event::OutputWatched { by: "5f".into(), names }));
    }

    #[test]
    fn who_names_nothing_or_too_much_follows_all() {
        let all = Some(Event::OutputWatched { by: "5f".into(), names: vec![glob("*")] });
        assert_eq!(output("[]"), all);
        assert_eq!(output(&format!("{:?}", vec!["a"; MAX_NAMES + 1])), all);
    }

    #[test]
    fn what_anybody_may_publish_is_looked_at_before_it_is_passed_on() {
        let follow = Follow {
            subject: Subject::Logs,
            names: vec![glob("web")],
            lines: 0,
            live: true,
            nodes: wire::Nodes::Named(vec![glob("a")]),
        };
        let good = r#"{"node":"a","watcher":"web","line":"x"}"#;
        assert!(line(good.as_bytes(), &follow).is_some());
        for bad in ["", "7", "[]", "{", &good.replace("web", "beat"), &good.replace("\"a\"", "\"b\"")] {
            assert_eq!(line(bad.as_bytes(), &follow), None);
        }
    }

    #[test]
    fn another_version_another_topic_and_a_flood_are_nothing() {
        for text in [
            r#"{"v":2,"by":"5f","topic":"stats"}"#,
            r#"{"v":1,"by":"","topic":"stats"}"#,
            r#"{"v":1,"by":"5f","topic":"weather"}"#,
            r#"{"v":1,"topic":"stats"}"#,
            "7",
        ] {
            assert_eq!(heard(text.as_bytes()), None, "{text}");
        }
        assert!(heard(br#"{"v":1,"by":"5f","topic":"stats","later":1}"#).is_some(), "a message may gain fields");
        assert_eq!(
            heard(format!(r#"{{"v":1,"by":"5f","topic":"stats"}}{}"#, " ".repeat(MAX_MESSAGE)).as_bytes()),
            None
        );
    }
}
