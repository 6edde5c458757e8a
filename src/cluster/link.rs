//! All commands of a node: to one server, or to whichever server of a Redis Cluster a key belongs to.
//!
//! Invariants: those of [`super::line`] and [`super::nodes`]. Above all: every question ends within its own time-out.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::acks::{Acks, Counted};
use super::facts::{self, Place};
use super::line::{Line, Patience, State, Trouble};
use super::nodes::Nodes;
use super::reason;
use super::scripts::{self, Call};
use super::seal::Seal;
use super::sentinel::Whereabouts;
use crate::model::event::Event;
use crate::model::spec::{RedisSpec, Seeds};

pub(super) use super::line::{Backoff, jittered};

/// Handle on the link; clones share it.
#[derive(Clone)]
pub(super) struct Link {
    door: Door,
    /// What is published is sealed with it.
    seal: Seal,
    /// How it is, told whenever that changes.
    standing: watch::Receiver<Standing>,
}

#[derive(Clone)]
enum Door {
    One(Lines),
    Cluster(Nodes),
}

/// How a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is being made.
    Begun,
    /// It cannot be used, for this reason.
    Down(String),
    /// It can. The number grows with each reason to ask again what failed before.
    Up(u64),
}

/// Whether a call counts only when replicas have what it wrote, where they are asked for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// The server's word is enough.
    Nothing,
    /// `require_replica_ack`.
    Acks,
}

impl Link {
    /// A link to what `spec` names, and the task that keeps it up. The task tells `StoreUp`, `StoreDown` and
    /// `StoreSeen`.
    pub(super) fn new(
        spec: RedisSpec,
        name: String,
        whereabouts: Whereabouts,
        events: mpsc::Sender<Event>,
    ) -> (Link, impl Future<Output = ()>) {
        let seal = Seal::new(spec.secret_file.clone());
        let (told, standing) = watch::channel(Standing::Begun);
        let told_of = tell(standing.clone(), events.clone());
        let keep_up: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
        let door = match Seeds::parse(spec.url.reveal()) {
            Ok(Some(seeds)) => {
                let (nodes, keep) = Nodes::new(spec, seeds, name, whereabouts, told, events);
                keep_up = Box::pin(keep);
                Door::Cluster(nodes)
            }
            // What is wrong with a URL is told when it is connected to.
            Ok(None) | Err(_) => {
                let (lines, keep) = Lines::open(spec, &name, whereabouts);
                let (stands, line) = (follow(lines.plain.clone(), told), lines.plain.clone());
                keep_up = Box::pin(async move {
                    tokio::join!(keep, stands, facts::watch(line, Place::Alone, events));
                });
                Door::One(lines)
            }
        };
        let ends = async move {
            tokio::select! {
                () = keep_up => {}
                // The agent has ended.
                () = told_of => {}
            }
        };
        (Link { door, seal, standing }, ends)
    }

    /// Whether it leads to one server, so that one script may have any keys.
    pub(super) fn is_one_server(&self) -> bool {
        matches!(self.door, Door::One(_))
    }

    /// Calls a script and gives its answer: a flat list of texts.
    ///
    /// # Errors
    /// The reason in words: the link's own while it is down, the server's, or that it did not answer in time.
    pub(super) async fn call(&self, call: &Call, patience: Duration) -> Result<Vec<String>, String> {
        Ok(self.put(call, Needs::Nothing, Patience::until(Instant::now() + patience)).await?.0)
    }

    /// [`Link::call`] about leases, for which time is short: and whether what was written is where it must be to count.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn call_for_leases(
        &self,
        call: &Call,
        needs: Needs,
        patience: Duration,
    ) -> Result<(Vec<String>, Acks), String> {
        self.put(call, needs, Patience::in_thirds(Instant::now() + patience)).await
    }

    async fn put(&self, call: &Call, needs: Needs, patience: Patience) -> Result<(Vec<String>, Acks), String> {
        let (value, acks) = match &self.door {
            Door::One(lines) => lines.call(call, needs, Way::Direct, patience).await.map_err(|it| it.reason()),
            Door::Cluster(nodes) => nodes.call(call, needs, patience).await,
        }?;
        Ok((words(value)?, acks))
    }

    /// Publishes `text` on `channel` and gives the number of subscribers that got it. A server of a cluster knows only
    /// its own: there somebody is always taken to be there, and silence must tell.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn publish(&self, channel: &str, text: &str, patience: Duration) -> Result<u64, String> {
        let message = self.seal.close(channel, text)?;
        let publish = async |mut connection: MultiplexedConnection| {
            redis::cmd("PUBLISH").arg(channel).arg(&*message).query_async::<u64>(&mut connection).await
        };
        let end = Instant::now() + patience;
        match &self.door {
            Door::One(lines) => {
                lines.plain.ask(Patience::until(end), publish).await.map_err(|trouble| trouble.reason())
            }
            Door::Cluster(nodes) => nodes.say(channel, end, publish).await.map(|heard| heard.max(1)),
        }
    }

    /// Publishes `texts` on `channel` in one round trip, in their order.
    ///
    /// # Errors
    /// As [`Link::call`]. Some may have been published.
    pub(super) async fn publish_all(&self, channel: &str, texts: &[String], patience: Duration) -> Result<(), String> {
        let messages: Vec<_> = texts.iter().map(|text| self.seal.close(channel, text)).collect::<Result<_, _>>()?;
        let publish = async |mut connection: MultiplexedConnection| {
            let mut publish = redis::pipe();
            for message in &messages {
                publish.publish(channel, &**message).ignore();
            }
            publish.query_async(&mut connection).await
        };
        let end = Instant::now() + patience;
        match &self.door {
            Door::One(lines) => {
                lines.plain.ask(Patience::until(end), publish).await.map_err(|trouble| trouble.reason())
            }
            Door::Cluster(nodes) => nodes.say(channel, end, publish).await,
        }
    }

    /// Waits for a connection newer than `generation`, and gives its own.
    pub(super) async fn newer_than(&self, generation: u64) -> u64 {
        let mut standing = self.standing.clone();
        let is_newer = |standing: &Standing| matches!(standing, Standing::Up(now) if *now > generation);
        if let Ok(standing) = standing.wait_for(is_newer).await
            && let Standing::Up(now) = &*standing
        {
            return *now;
        }
        // The link has ended, and no connection will ever come.
        std::future::pending().await
    }

    /// Waits until the first attempt has ended.
    ///
    /// # Errors
    /// It failed, for this reason.
    pub(super) async fn settled(&self) -> Result<(), String> {
        let mut standing = self.standing.clone();
        match standing.wait_for(|standing| *standing != Standing::Begun).await.as_deref() {
            Ok(Standing::Up(_)) => Ok(()),
            Ok(Standing::Down(reason)) => Err(reason.clone()),
            Ok(Standing::Begun) | Err(_) => Err("the link has ended".into()),
        }
    }
}

/// Tells the agent how the link is, each time that changes.
async fn tell(mut standing: watch::Receiver<Standing>, events: mpsc::Sender<Event>) {
    let mut last = Standing::Begun;
    while standing.changed().await.is_ok() {
        let now = standing.borrow_and_update().clone();
        // An outage is told once for each reason, however many attempts fail for it.
        if now == last {
            continue;
        }
        last = now.clone();
        let event = match now {
            Standing::Begun => continue,
            Standing::Up(_) => Event::StoreUp,
            Standing::Down(reason) => Event::StoreDown { reason },
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Makes what a line is known by what a link is.
async fn follow(line: Line, told: watch::Sender<Standing>) {
    let mut state = line.state();
    while state.changed().await.is_ok() {
        let now = match &*state.borrow_and_update() {
            State::Begun => Standing::Begun,
            State::Down(reason) => Standing::Down(reason.to_string()),
            State::Up(wire) => Standing::Up(wire.generation),
        };
        told.send_replace(now);
    }
}

/// The lines to one server.
#[derive(Clone)]
pub(super) struct Lines {
    pub(super) plain: Line,
    counted: Option<Counted>,
}

/// How a question came to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The server has the key.
    Direct,
    /// It is about to have it, and answers only who says `ASKING`.
    Asking,
}

impl Lines {
    /// Lines to the server that `spec` names, and the task that keeps them up.
    pub(super) fn open(
        spec: RedisSpec,
        name: &str,
        whereabouts: Whereabouts,
    ) -> (Lines, impl Future<Output = ()> + use<>) {
        let wanted = spec.require_replica_ack;
        let own = (wanted > 0).then(|| {
            let (line, keep) = Line::new(spec.clone(), format!("{name}:acks"), whereabouts.clone());
            let (counted, put) = Counted::new(line, wanted);
            (counted, async move { tokio::join!(keep, put) })
        });
        let (counted, counts) = own.unzip();
        let (plain, keep) = Line::new(spec, name.to_owned(), whereabouts);
        let both = async move {
            match counts {
                Some(counts) => drop(tokio::join!(keep, counts)),
                None => keep.await,
            }
        };
        (Lines { plain, counted }, both)
    }

    /// Calls a script here within `patience`.
    ///
    /// # Errors
    /// As [`Line::ask`].
    pub(super) async fn call(
        &self,
        call: &Call,
        needs: Needs,
        way: Way,
        patience: Patience,
    ) -> Result<(Value, Acks), Trouble> {
        match (&self.counted, needs) {
            (Some(counted), Needs::Acks) => counted.call(call, way, patience).await,
            (None, _) | (_, Needs::Nothing) => {
                let run = async |mut connection| run_script(call, way, &mut connection).await;
                Ok((self.plain.ask(patience, run).await?, Acks::Enough))
            }
        }
    }
}

/// Calls a script by its hash, and by its text where the server does not know it (any more).
async fn run_script(call: &Call, way: Way, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
    let mut run = async |by| {
        let command = command(by, call);
        match way {
            Way::Direct => command.query_async(connection).await,
            Way::Asking => {
                let mut both = redis::pipe();
                both.cmd("ASKING").ignore().add_command(command);
                both.query_async::<(Value,)>(connection).await.map(|(answer,)| answer)
            }
        }
    };
    match run(By::Hash).await {
        answer if is_unknown(&answer) => run(By::Text).await,
        answered => answered,
    }
}

/// How a script is named to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Hash,
    Text,
}

/// Whether the server does not know the script by its hash.
pub(super) fn is_unknown(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT"))
}

/// The command that calls a script.
pub(super) fn command(by: By, call: &Call) -> Cmd {
    let mut command = match by {
        By::Hash => redis::cmd("EVALSHA"),
        By::Text => redis::cmd("EVAL"),
    };
    match by {
        By::Hash => command.arg(hash(call.script)),
        By::Text => command.arg(call.script),
    };
    command.arg(call.keys.len()).arg(&call.keys).arg(&call.args);
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
fn words(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(items) = value else {
        return Err(reason::nonsense(value));
    };
    let word = |item| match item {
        Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        other => Err(reason::nonsense(other)),
    };
    items.into_iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_no_list_of_texts_is_nonsense() {
        assert!(words(Value::Okay).is_err());
        assert!(words(Value::Array(vec![Value::Int(1)])).is_err());
        assert_eq!(words(Value::Array(vec![Value::BulkString(b"lost".to_vec())])), Ok(vec!["lost".to_owned()]));
        assert_eq!(words(Value::Array(vec![Value::BulkString(vec![0xff])])), Ok(vec!["\u{fffd}".to_owned()]));
    }
}
