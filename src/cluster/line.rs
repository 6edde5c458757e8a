//! One connection to one server, remade whenever it is in doubt.
//!
//! ```text
//!            connects and answers as a master                a broken pipe, a replica,
//!   Down ───────────────────────────────────────▶ Up ─────── a second silence ────────────▶ Down
//!     ▲                                            │        its master has moved
//!     └── no: again after 50 ms … 500 ms           └── a first silence: PING, the second chance
//! ```
//!
//! A silence is a question's time that has passed without its answer; of one about a lease, each third of it.
//!
//! Invariants:
//! - Every question ends within its own time-out, and at once while the line is down: nothing queues, but for the
//!   questions that come before the first attempt to connect has ended.
//! - A connection that may be out of step is never used again. Each has a generation. What is still open on it then
//!   ends with it, so that it is asked again at once.
//! - A question given up may still be carried out by the server, now or later: only the asker can tell what that means.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, RedisResult, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::access::Server;
use super::reason;
use super::sentinel::Whereabouts;
use crate::model::spec::RedisSpec;
use crate::model::store::Failover;

/// How long the server may take to say that it is still there, after it left a question unanswered.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many questions may wait to be written; more wait their turn inside their own time-outs.
const QUEUE: usize = 1024;

/// Handle on a line; clones share it.
#[derive(Clone)]
pub(super) struct Line {
    state: watch::Receiver<State>,
}

#[derive(Clone)]
pub(super) enum State {
    /// The first connection is being made.
    Begun,
    Down(Arc<str>),
    Up(Arc<Wire>),
}

/// One connection, from hello to the first doubt.
pub(super) struct Wire {
    connection: MultiplexedConnection,
    pub(super) address: Arc<str>,
    pub(super) generation: u64,
    /// When another server takes the place of this one, where whoever led to it said so.
    pub(super) failover: Option<Failover>,
    /// When the silence was first noticed that lasts until now.
    silent_since: Mutex<Option<Instant>>,
    doubts: mpsc::Sender<Doubt>,
}

/// How long a question may take, and how much of that in silence makes its connection doubtful.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) end: Instant,
    parts: u32,
}

impl Patience {
    /// All of it: a server that is slow for a moment need not see all of its clients come anew.
    pub(super) fn until(end: Instant) -> Patience {
        Patience { end, parts: 1 }
    }

    /// Each third, where another connection has to be found while there still is time to ask on it. One that is merely
    /// slow has all of it.
    pub(super) fn in_thirds(end: Instant) -> Patience {
        Patience { end, parts: 3 }
    }
}

/// What a question found out about its connection.
enum Doubt {
    /// It was not answered in time. The server may be slow, or hung.
    Silent,
    /// The connection is of no more use, for this reason.
    Useless(String),
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server said no.
    Said(RedisError),
    /// Nobody said anything, for this reason.
    Lost(String),
    /// The line was given up meanwhile: its server is none of those to be asked any more.
    Forgotten,
}

impl Trouble {
    /// It in words.
    pub(super) fn reason(&self) -> String {
        match self {
            Trouble::Said(error) => reason::of(error, "the server"),
            Trouble::Lost(reason) => reason.clone(),
            Trouble::Forgotten => "its server is asked no more".into(),
        }
    }
}

impl Line {
    /// A line to the server that `spec` names, and the task that keeps it up.
    pub(super) fn new(
        spec: RedisSpec,
        name: String,
        whereabouts: Whereabouts,
    ) -> (Line, impl Future<Output = ()> + use<>) {
        let (told, state) = watch::channel(State::Begun);
        (Line { state }, keep_up(spec, name, whereabouts, told))
    }

    /// How the line is, to be looked at and waited for.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether it is known not to reach its server.
    pub(super) fn is_down(&self) -> bool {
        matches!(*self.state.borrow(), State::Down(_))
    }

    /// Whether it reaches its server, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Puts a question to the server, which is to be answered within `patience`.
    ///
    /// # Errors
    /// What the server said, or why it said nothing.
    pub(super) async fn ask<T>(
        &self,
        Patience { end, parts }: Patience,
        run: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Trouble> {
        let begun = Instant::now();
        let time = end.saturating_duration_since(begun);
        let wire = match self.settled(end).await {
            State::Up(wire) => wire,
            State::Down(reason) => return Err(Trouble::Lost(reason.to_string())),
            State::Begun if self.is_forgotten() => return Err(Trouble::Forgotten),
            State::Begun => return Err(Trouble::Lost(format!("still connecting after {} s", time.as_secs_f64()))),
        };
        let mut answer = pin!(run(wire.connection.clone()));
        let mut since = Instant::now();
        let part = end.saturating_duration_since(since) / parts;
        for left in (0..parts).rev() {
            let until = end - part * left;
            tokio::select! {
                biased;
                said = timeout_at(until, &mut answer) => match said {
                    Ok(Ok(answer)) => {
                        wire.answered();
                        return Ok(answer);
                    }
                    Ok(Err(error)) => return Err(wire.failed(error)),
                    Err(_) => wire.silent(since, until, time),
                },
                trouble = self.gives_up(&wire) => return Err(trouble),
            }
            since = until;
        }
        Err(Trouble::Lost(reason::no_answer(time)))
    }

    /// Waits until `wire` is not used any more, and says why.
    async fn gives_up(&self, wire: &Wire) -> Trouble {
        let mut state = self.state.clone();
        let is_another = |state: &State| !matches!(state, State::Up(now) if now.generation == wire.generation);
        match state.wait_for(is_another).await.as_deref() {
            Ok(State::Down(reason)) => Trouble::Lost(reason.to_string()),
            Ok(State::Begun | State::Up(_)) => Trouble::Lost("the connection was made anew".into()),
            Err(_) => Trouble::Forgotten,
        }
    }

    /// Whether nobody keeps it up any more.
    fn is_forgotten(&self) -> bool {
        self.state.has_changed().is_err()
    }

    /// How the line is, once the first attempt to connect has ended or `end` has come: what is asked in an agent's
    /// first milliseconds need not fail.
    async fn settled(&self, end: Instant) -> State {
        let mut state = self.state.clone();
        let settled = timeout_at(end, state.wait_for(|state| !matches!(state, State::Begun))).await;
        match settled {
            Ok(Ok(state)) => state.clone(),
            // Too late, or the line has ended.
            Ok(Err(_)) | Err(_) => State::Begun,
        }
    }
}

impl Wire {
    fn answered(&self) {
        *self.silence() = None;
    }

    fn failed(&self, error: RedisError) -> Trouble {
        if !reason::is_fatal(&error) {
            self.answered();
            return Trouble::Said(error);
        }
        let reason = reason::of(&error, &self.address);
        self.doubt(Doubt::Useless(reason.clone()));
        Trouble::Lost(reason)
    }

    /// Somebody has waited from `since` until now, in vain. The first such silence may be the server's bad moment; one
    /// that began when that was known already is one too many. Many who wait at the same time know no more than one.
    fn silent(&self, since: Instant, now: Instant, time: Duration) {
        let first = *self.silence().get_or_insert(now);
        self.doubt(if since < first { Doubt::Silent } else { Doubt::Useless(reason::no_answer(time)) });
    }

    fn silence(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubt(&self, doubt: Doubt) {
        // Where the queue is full of doubts already, one more says nothing new.
        let _ = self.doubts.try_send(doubt);
    }
}

/// Connects, serves until the connection is in doubt, and begins again, for ever.
async fn keep_up(spec: RedisSpec, name: String, whereabouts: Whereabouts, told: watch::Sender<State>) {
    let mut backoff = Backoff::new();
    let mut generation = 0;
    loop {
        let begun = Instant::now();
        let reason = match backoff.attempt(connect(&spec, &name, &whereabouts)).await {
            Ok(Reached { connection, address, failover }) => {
                generation += 1;
                whereabouts.found(&address);
                tracing::debug!(%address, generation, "connected to Redis");
                let (doubts, mut doubted) = mpsc::channel(16);
                let silent_since = Mutex::default();
                let wire = Arc::new(Wire { connection, address, generation, failover, silent_since, doubts });
                told.send_replace(State::Up(Arc::clone(&wire)));
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

/// A server that was reached.
struct Reached {
    connection: MultiplexedConnection,
    address: Arc<str>,
    failover: Option<Failover>,
}

/// A connection to a master that answers. Takes as long as it takes: three round trips, on a good day.
///
/// # Errors
/// The reason, in words.
async fn connect(spec: &RedisSpec, name: &str, whereabouts: &Whereabouts) -> Result<Reached, String> {
    let server = Server::of(spec, whereabouts).await?;
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
    Ok(Reached { connection, address: server.address, failover: server.failover })
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
    use crate::model::spec::Secret;

    #[tokio::test]
    async fn a_line_that_is_given_up_says_so_at_once_and_not_that_it_is_still_connecting() {
        let spec = RedisSpec::at(Secret::new("redis://127.0.0.1:1/0".into()));
        let (line, keep_up) = Line::new(spec, "a".into(), Whereabouts::unknown());
        let question = || line.ask(Patience::until(Instant::now() + Duration::from_millis(20)), async |_| Ok(()));
        let Err(Trouble::Lost(why)) = question().await else { panic!("nobody keeps it up yet") };
        assert!(why.starts_with("still connecting"), "{why}");
        drop(keep_up);
        assert!(matches!(question().await, Err(Trouble::Forgotten)));
    }

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
}
