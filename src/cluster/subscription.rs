//! The connection on which a node hears: words about leases, questions of others, answers to its own.
//!
//! Invariants:
//! - Redis keeps no message for who is not there. Each time the subscription is made anew, [`Heard::Anew`] says so.
//! - A server that hangs never closes a connection, so it is asked for a sign of life every few seconds.
//! - All servers of a cluster hear all of it. One that is cut off from the others still answers, so it is asked for that,
//!   too, and left for another.
//! - Who makes an agent hear more than any of ours would say does not take its memory: that connection ends.
//! - What is heard waits in a bounded box for the agent; a full box drops, as a lost connection would.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::access::Server;
use super::link::Backoff;
use super::sentinel::Whereabouts;
use super::word::Subject;
use super::{reason, survey};
use crate::model::event::Event;
use crate::model::spec::{RedisSpec, Seeds};

/// How often the server is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to give one.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How many events may wait for the agent.
const OUTBOX: usize = 4096;

/// The longest message after which a connection is kept, in bytes: longer than any of ours. Whatever was heard on it, a
/// connection keeps the memory for it to its end.
const LONGEST: usize = 8 << 20;

/// The channels that are listened on; those on which words about leases are spread with what they are about.
pub(super) type Channels = BTreeMap<String, Option<Subject>>;

/// What came over the subscription.
pub(super) enum Heard<'a> {
    /// It was made anew; anything may have been missed before.
    Anew,
    /// A message.
    Message { channel: &'a str, payload: &'a [u8] },
}

/// Listens on `channels`, which may become others, for ever, and passes on the events that `take` makes of what is heard.
pub(super) async fn listen(
    spec: RedisSpec,
    whereabouts: Whereabouts,
    mut channels: watch::Receiver<Channels>,
    mut take: impl FnMut(Heard<'_>) -> Vec<Event>,
    events: mpsc::Sender<Event>,
) {
    let is_cluster = Seeds::parse(spec.url.reveal()).is_ok_and(|seeds| seeds.is_some());
    let mut backoff = Backoff::new();
    // Outlives each connection: what was heard was heard.
    let mut outbox = VecDeque::new();
    loop {
        let begun = Instant::now();
        let wanted: Vec<String> = channels.borrow_and_update().keys().cloned().collect();
        let subscribe = async {
            let server = Server::of(&spec, &whereabouts).await?;
            Ok((subscribe_at(&server, &wanted).await?, server))
        };
        match backoff.attempt(subscribe).await {
            Ok(((sink, stream), server)) => {
                tracing::debug!("subscribed");
                // Those of the connection before say no more than these.
                outbox.retain(|event| !matches!(event, Event::LeaseFreed { .. } | Event::MembersChanged { .. }));
                outbox.extend(take(Heard::Anew));
                let reason = tokio::select! {
                    reason = serve(sink, stream, (&mut channels, wanted), &mut outbox, &mut take, &events) => reason,
                    moved = whereabouts.elsewhere(&server.address) => moved,
                    cut_off = survey::cut_off(&server), if is_cluster => cut_off,
                };
                tracing::debug!(%reason, "subscription lost");
                backoff.lived(begun.elapsed());
            }
            Err(reason) => tracing::debug!(%reason, "no subscription"),
        }
        if events.is_closed() {
            return;
        }
        sleep_until(begun + backoff.next()).await;
    }
}

/// A subscription to `channels`. Takes as long as it takes.
///
/// # Errors
/// The reason, in words.
pub(super) async fn subscribe(spec: &RedisSpec, channels: &[String]) -> Result<(PubSubSink, PubSubStream), String> {
    subscribe_at(&Server::of(spec, &Whereabouts::unknown()).await?, channels).await
}

/// [`subscribe`] at a URL that names one server.
pub(super) async fn subscribe_one(spec: &RedisSpec, channels: &[String]) -> Result<(PubSubSink, PubSubStream), String> {
    subscribe_at(&Server::of_one(spec).await?, channels).await
}

/// [`subscribe`] at this very server.
pub(super) async fn subscribe_at(server: &Server, channels: &[String]) -> Result<(PubSubSink, PubSubStream), String> {
    let attempt = async {
        let (mut sink, stream) = server.client.get_async_pubsub().await?.split();
        sink.subscribe(channels).await?;
        Ok((sink, stream))
    };
    attempt.await.map_err(|error| server.refusal(&error))
}

async fn serve(
    mut sink: PubSubSink,
    mut stream: PubSubStream,
    (channels, mut subscribed): (&mut watch::Receiver<Channels>, Vec<String>),
    outbox: &mut VecDeque<Event>,
    take: &mut impl FnMut(Heard<'_>) -> Vec<Event>,
    events: &mpsc::Sender<Event>,
) -> String {
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = stream.next() => {
                let Some(message) = message else { return "the server closed the connection".into() };
                let heard =
                    Heard::Message { channel: message.get_channel_name(), payload: message.get_payload_bytes() };
                for event in take(heard) {
                    if outbox.len() < OUTBOX {
                        outbox.push_back(event);
                    } else {
                        tracing::warn!(?event, "the agent hears too much at once: dropped");
                    }
                }
                match message.get_payload_bytes().len() {
                    ..=LONGEST => {}
                    long => return format!("a message of {long} bytes was heard"),
                }
            }
            permit = events.reserve(), if !outbox.is_empty() => match (permit, outbox.pop_front()) {
                (Ok(permit), Some(event)) => permit.send(event),
                _ => return "the agent has ended".into(),
            },
            Ok(()) = channels.changed() => {
                let wanted: Vec<String> = channels.borrow_and_update().keys().cloned().collect();
                let idle: Vec<&String> = subscribed.iter().filter(|channel| !wanted.contains(channel)).collect();
                let listen = async {
                    if !idle.is_empty() {
                        sink.unsubscribe(&idle).await?;
                    }
                    sink.subscribe(&wanted).await
                };
                let listening = timeout(PING_TIMEOUT, listen).await;
                subscribed = wanted;
                match listening {
                    // What was told on a new one before may have been missed.
                    Ok(Ok(())) => outbox.extend(take(Heard::Anew)),
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return reason::no_answer(PING_TIMEOUT),
                }
            }
            _ = pings.tick() => match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return reason::no_answer(PING_TIMEOUT),
            },
        }
    }
}
