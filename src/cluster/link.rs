//! One connection to Redis for all commands of a node, remade whenever it is in doubt.
//!
//! ```text
//!            connects and answers as a master                a broken pipe, a replica,
//!   Down ───────────────────────────────────────▶ Up ─────── two time-outs in a row ──────▶ Down
//!     ▲                                            │        its master has moved
//!     └── no: again after 50 ms … 500 ms           └── one time-out: PING, the second chance
//! ```
//!
//! Invariants:
//! - Every question ends within its own time-out, and at once while the link is down: nothing queues, but for the
//!   questions that come before the first attempt to connect has ended.
//! - A connection that may be out of step is never used again. Each has a generation.
//! - A question given up may still be carried out by the server, now or later: only the asker can tell what that means.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, RedisError, RedisResult, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::access::Server;
use super::reason;
use super::scripts::{self, Call};
use super::sentinel::Whereabouts;
use crate::model::event::Event;
use crate::model::spec::RedisSpec;

/// How long the server may take to say that it is still there, after it left a question unanswered.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// So many questions in a row without an answer, and the connection is remade.
const MAX_UNANSWERED: u32 = 2;
/// How many questions may wait to be written; more wait their turn inside their own time-outs.
const QUEUE: usize = 1024;

/// Handle on the link; clones share it.
#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
}

#[derive(Clone)]
enum State {
    /// The first connection is being made.
    Begun,
    Down(Arc<str>),
    Up(Arc<Wire>),
}

/// One connection, from hello to the first doubt.
struct Wire {
    connection: MultiplexedConnection,
    address: Arc<str>,
    generation: u64,
    unanswered: AtomicU32,
    doubts: mpsc::Sender<Doubt>,
}

/// What a question found out about its connection.
enum Doubt {
    /// It was not answered in time. The server may be slow, or hung.
    Silent,
    /// The connection is of no more use, for this reason.
    Useless(String),
}

impl Link {
    /// A link to the server that `spec` names, and the task that keeps it up. The task tells `StoreUp` and `StoreDown`.
    pub(super) fn new(
        spec: RedisSpec,
        name: String,
        whereabouts: Whereabouts,
        events: mpsc::Sender<Event>,
    ) -> (Link, impl Future<Output = ()>) {
        let (told, state) = watch::channel(State::Begun);
        (Link { state }, keep_up(spec, name, whereabouts, told, events))
    }

    /// Calls a script and gives its answer: a flat list of texts.
    ///
    /// # Errors
    /// The reason in words: the link's own while it is down, the server's, or that it did not answer in time.
    pub(super) async fn call(&self, call: &Call, patience: Duration) -> Result<Vec<String>, String> {
        let run = async |mut connection: MultiplexedConnection| run_script(call, &mut connection).await;
        words(self.ask(patience, run).await?)
    }

    /// Publishes `text` on `channel` and gives the number of subscribers that got it.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn publish(&self, channel: &str, text: &str, patience: Duration) -> Result<u64, String> {
        let run = async |mut connection: MultiplexedConnection| {
            redis::cmd("PUBLISH").arg(channel).arg(text).query_async::<u64>(&mut connection).await
        };
        self.ask(patience, run).await
    }

    /// Publishes `texts` on `channel` in one round trip, in their order.
    ///
    /// # Errors
    /// As [`Link::call`]. Some may have been published.
    pub(super) async fn publish_all(&self, channel: &str, texts: &[String], patience: Duration) -> Result<(), String> {
        let run = async |mut connection: MultiplexedConnection| {
            let mut publish = redis::pipe();
            for text in texts {
                publish.publish(channel, text).ignore();
            }
            publish.query_async(&mut connection).await
        };
        self.ask(patience, run).await
    }

    /// Waits for a connection newer than `generation`, and gives its own.
    pub(super) async fn newer_than(&self, generation: u64) -> u64 {
        let mut state = self.state.clone();
        let is_newer = |state: &State| matches!(state, State::Up(wire) if wire.generation > generation);
        if let Ok(state) = state.wait_for(is_newer).await
            && let State::Up(wire) = &*state
        {
            return wire.generation;
        }
        // The link has ended, and no connection will ever come.
        std::future::pending().await
    }

    /// How the link is, once the first attempt to connect has ended or `end` has come: what is asked in an agent's
    /// first milliseconds need not fail.
    async fn settled(&self, end: Instant) -> State {
        let mut state = self.state.clone();
        let settled = timeout_at(end, state.wait_for(|state| !matches!(state, State::Begun))).await;
        match settled {
            Ok(Ok(state)) => state.clone(),
            // Too late, or the link has ended.
            Ok(Err(_)) | Err(_) => State::Begun,
        }
    }

    async fn ask<T>(
        &self,
        patience: Duration,
        run: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + patience;
        let wire = match self.settled(end).await {
            State::Up(wire) => wire,
            State::Down(reason) => return Err(reason.to_string()),
            State::Begun => return Err(format!("still connecting after {} s", patience.as_secs_f64())),
        };
        match timeout_at(end, run(wire.connection.clone())).await {
            Ok(Ok(answer)) => {
                wire.answered();
                Ok(answer)
            }
            Ok(Err(error)) => Err(wire.failed(&error)),
            Err(_) => Err(wire.silent(patience)),
        }
    }
}

impl Wire {
    fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    fn failed(&self, error: &RedisError) -> String {
        let reason = reason::of(error, &self.address);
        if reason::is_fatal(error) {
            self.doubt(Doubt::Useless(reason.clone()));
        } else {
            self.answered();
        }
        reason
    }

    fn silent(&self, waited: Duration) -> String {
        let reason = reason::no_answer(waited);
        let unanswered = self.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
        self.doubt(if unanswered < MAX_UNANSWERED { Doubt::Silent } else { Doubt::Useless(reason.clone()) });
        reason
    }

    fn doubt(&self, doubt: Doubt) {
        // Where the queue is full of doubts already, one more says nothing new.
        let _ = self.doubts.try_send(doubt);
    }
}

/// Connects, serves until the connection is in doubt, and begins again, for ever.
async fn keep_up(
    spec: RedisSpec,
    name: String,
    whereabouts: Whereabouts,
    told: watch::Sender<State>,
    events: mpsc::Sender<Event>,
) {
    let mut backoff = Backoff::new();
    let mut generation = 0;
    let mut last_reason = None;
    loop {
        let begun = Instant::now();
        let reason = match backoff.attempt(connect(&spec, &name)).await {
            Ok((connection, address)) => {
                generation += 1;
                whereabouts.found(&address);
                tracing::debug!(%address, generation, "connected to Redis");
                let (doubts, mut doubted) = mpsc::channel(16);
                let unanswered = AtomicU32::new(0);
                let wire = Arc::new(Wire { connection, address, generation, unanswered, doubts });
                told.send_replace(State::Up(Arc::clone(&wire)));
                last_reason = None;
                if events.send(Event::StoreUp).await.is_err() {
                    return;
                }
                let reason = tokio::select! {
                    reason = serve(&wire, &mut doubted) => reason,
                    moved = whereabouts.elsewhere(&wire.address) => moved,
                };
                backoff.lived(begun.elapsed());
                reason
            }
            Err(reason) => reason,
        };
        told.send_replace(State::Down(reason.as_str().into()));
        if last_reason.as_ref() != Some(&reason) {
            last_reason = Some(reason.clone());
            if events.send(Event::StoreDown { reason }).await.is_err() {
                return;
            }
        }
        // Counted from the beginning of the attempt: one that hung has waited already, and a connection that lived is
        // remade at once.
        sleep_until(begun + backoff.next()).await;
    }
}

/// Waits until the connection is of no more use, and says why.
async fn serve(wire: &Wire, doubted: &mut mpsc::Receiver<Doubt>) -> String {
    loop {
        match doubted.recv().await {
            Some(Doubt::Silent) => {
                let mut connection = wire.connection.clone();
                match timeout(PROBE_TIMEOUT, redis::cmd("PING").query_async::<Value>(&mut connection)).await {
                    Ok(Ok(_)) => wire.answered(),
                    Ok(Err(error)) if reason::is_fatal(&error) => return reason::of(&error, &wire.address),
                    Ok(Err(_)) => wire.answered(),
                    Err(_) => return reason::no_answer(PROBE_TIMEOUT),
                }
            }
            Some(Doubt::Useless(reason)) => return reason,
            None => unreachable!("the wire holds a sender"),
        }
    }
}

/// A connection to a master that answers, and the server's address. Takes as long as it takes: three round trips, on
/// a good day.
///
/// # Errors
/// The reason, in words.
pub(super) async fn connect(spec: &RedisSpec, name: &str) -> Result<(MultiplexedConnection, Arc<str>), String> {
    let server = Server::of(spec).await?;
    let config = AsyncConnectionConfig::new()
        // Every question is bounded by its asker; these would only cut the longer ones short.
        .set_response_timeout(None)
        .set_connection_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let fail = |error: RedisError| server.refusal(&error);
    let connection = server.client.get_multiplexed_async_connection_with_config(&config).await.map_err(fail)?;
    let say = async |words: &[&str]| {
        redis::cmd(words[0]).arg(&words[1..]).query_async::<Value>(&mut connection.clone()).await
    };
    let named = ["CLIENT", "SETNAME", name];
    // All at once: with a server far away each round trip counts.
    let (_named, pong, role) = tokio::join!(
        // So that CLIENT LIST tells an operator whose connection it is. Refused by some servers: no matter.
        say(&named),
        say(&["PING"]),
        say(&["INFO", "replication"]),
    );
    match pong.map_err(fail)? {
        Value::SimpleString(pong) if pong == "PONG" => {}
        other => return Err(reason::nonsense(other)),
    }
    let role: String = redis::from_redis_value(role.map_err(fail)?).map_err(reason::nonsense)?;
    if !role.contains("role:master") {
        return Err(reason::REPLICA.to_owned());
    }
    Ok((connection, server.address))
}

/// Calls a script by its hash, and by its text where the server does not know it (any more).
pub(super) async fn run_script(call: &Call, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
    match command("EVALSHA", &hash(call.script), call).query_async(connection).await {
        Err(error) if error.code() == Some("NOSCRIPT") => {
            command("EVAL", call.script, call).query_async(connection).await
        }
        answered => answered,
    }
}

fn command(verb: &str, script: &str, call: &Call) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(script).arg(call.keys.len()).arg(&call.keys).arg(&call.args);
    command
}

fn hash(script: &'static str) -> String {
    static HASHES: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
        let hashed = |script| (script, redis::Script::new(script).get_hash().to_owned());
        scripts::ALL.iter().copied().map(hashed).collect()
    });
    let known = HASHES.iter().find(|(text, _)| *text == script);
    known.map_or_else(|| redis::Script::new(script).get_hash().to_owned(), |(_, hash)| hash.clone())
}

/// A script's answer as texts. What people put into keys by hand need not be UTF-8, and is still somebody's.
pub(super) fn words(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(items) = value else {
        return Err(reason::nonsense(value));
    };
    let word = |item| match item {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        other => Err(reason::nonsense(other)),
    };
    items.into_iter().map(word).collect()
}

/// How attempts to connect follow each other.
///
/// One begins 50 ms after the beginning of the one before it, then 100 ms, up to 500 ms, ±25 %: no longer than that,
/// because what waits for Redis must go on within a second of its return. One may take 1 s; where that was too short,
/// the next may take 2 s, then 4 s: with 300 ms to the server and back a connection takes a second.
pub(super) struct Backoff {
    pause: Duration,
    patience: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_millis(500);
    const PATIENCE: Duration = Duration::from_secs(1);
    const LONGEST_PATIENCE: Duration = Duration::from_secs(4);

    pub(super) fn new() -> Backoff {
        Backoff { pause: Self::FIRST, patience: Self::PATIENCE }
    }

    /// Makes one attempt, no longer than it may take.
    pub(super) async fn attempt<T>(&mut self, connect: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        match timeout(self.patience, connect).await {
            Ok(ended) => {
                self.patience = Self::PATIENCE;
                ended
            }
            Err(_) => {
                self.patience = (self.patience * 2).min(Self::LONGEST_PATIENCE);
                // The same words each time: that it is tried for longer is no news.
                Err(reason::no_answer(Self::PATIENCE))
            }
        }
    }

    /// A connection that lived for a while forgives the attempts before it; one that broke at once does not.
    pub(super) fn lived(&mut self, time: Duration) {
        if time > Duration::from_secs(1) {
            self.pause = Self::FIRST;
        }
    }

    /// How long after the beginning of this attempt the next one begins.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(Self::LONGEST);
        jittered(pause, 0.25)
    }
}

/// `time`, longer or shorter by up to `part` of itself, so that nodes that fail together do not return together.
pub(super) fn jittered(time: Duration, part: f64) -> Duration {
    // Without random bits there is no jitter, and nothing worse.
    let random = getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX));
    time.mul_f64(1.0 - part + 2.0 * part * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_to_connect_come_further_apart_but_never_far() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..8).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= Duration::from_millis(63), "{pauses:?}");
        assert!(pauses[7] >= Duration::from_millis(375) && pauses[7] <= Duration::from_millis(625), "{pauses:?}");
        backoff.lived(Duration::from_millis(3));
        assert!(backoff.next() >= Duration::from_millis(375), "a connection that broke at once forgives nothing");
        backoff.lived(Duration::from_secs(2));
        assert!(backoff.next() <= Duration::from_millis(63));
    }

    #[test]
    fn an_answer_that_is_no_list_of_texts_is_nonsense() {
        assert!(words(Value::Okay).is_err());
        assert!(words(Value::Array(vec![Value::Int(1)])).is_err());
        assert_eq!(words(Value::Array(vec![Value::BulkString(b"lost".to_vec())])), Ok(vec!["lost".to_owned()]));
        assert_eq!(words(Value::Array(vec![Value::BulkString(vec![0xff])])), Ok(vec!["\u{fffd}".to_owned()]));
    }
}
