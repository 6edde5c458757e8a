//! The servers of a Redis Cluster: each question goes to the master that has its keys, over a line to that one.
//!
//! ```text
//!   question ─▶ slot ─▶ its master ─▶ line ─┬─ answered
//!                 ▲                         ├─ MOVED: the same question there, and the map is corrected
//!                 │                         ├─ ASK: the same question there, this once
//!                 │                         ├─ TRYAGAIN: once more in a moment, while there is time
//!                 └───── a survey ◀─────────┴─ down, silent, any other error: told to the asker, and looked into
//! ```
//!
//! Invariants:
//! - Every question ends within its own time-out, however often it is sent on.
//! - A master that hangs or is gone is the trouble of those questions alone that need it: each master has a line of
//!   its own, made when the first question wants it, remade when in doubt, ended when it is no master any more.
//! - While anything is wrong the map is asked for again, up to twice a second, over connections that are kept for it.
//!   Where nothing is, nothing is asked.
//! - That a server sends on, has no master or is loading is no refusal. Only a script's own answer is one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster_routing::Slot;
use redis::{RedisResult, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::acks::Acks;
use super::facts::{self, Place};
use super::line::{Backoff, Patience, State, Trouble};
use super::link::{Lines, Needs, Standing, Way};
use super::scripts::Call;
use super::sentinel::Whereabouts;
use super::slots::{Redirect, Slots};
use super::survey::{DOWN, one_of, survey};
use crate::model::event::Event;
use crate::model::spec::{RedisSpec, Seeds};

/// How often one question is sent on.
const MOST_REDIRECTS: u32 = 8;
/// How soon a question is put again whose keys are on their way.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Handle on the servers; clones share it.
#[derive(Clone)]
pub(super) struct Nodes(Arc<Inner>);

struct Inner {
    spec: RedisSpec,
    seeds: Seeds,
    name: String,
    whereabouts: Whereabouts,
    standing: watch::Sender<Standing>,
    /// How many reasons there were to ask again.
    reasons: AtomicU64,
    slots: Mutex<Slots>,
    lines: Mutex<HashMap<Arc<str>, Kept>>,
    /// Something is wrong: the map should be looked at again.
    doubted: Notify,
    events: mpsc::Sender<Event>,
}

/// The lines to one server. The task that keeps them up ends with this.
struct Kept {
    lines: Lines,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Nodes {
    /// The servers of the cluster that `seeds` lead to, and the task that keeps their map.
    pub(super) fn new(
        spec: RedisSpec,
        seeds: Seeds,
        name: String,
        whereabouts: Whereabouts,
        standing: watch::Sender<Standing>,
        events: mpsc::Sender<Event>,
    ) -> (Nodes, impl Future<Output = ()>) {
        let nodes = Nodes(Arc::new(Inner {
            spec,
            seeds,
            name,
            whereabouts,
            standing,
            reasons: AtomicU64::new(0),
            slots: Mutex::default(),
            lines: Mutex::default(),
            doubted: Notify::new(),
            events,
        }));
        (nodes.clone(), keep_map(nodes))
    }

    /// Calls a script where its keys are.
    ///
    /// # Errors
    /// The reason in words.
    pub(super) async fn call(&self, call: &Call, needs: Needs, patience: Patience) -> Result<(Value, Acks), String> {
        let end = patience.end;
        let slot = Slot::for_key(call.keys.first().map_or("", String::as_str));
        let (mut at, mut way) = (self.master(slot, end).await?, Way::Direct);
        let mut redirects = 0;
        while redirects <= MOST_REDIRECTS {
            let error = match self.lines(&at).call(call, needs, way, patience).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Said(error)) => error,
                // A survey, perhaps of a server that had not heard of the change, found another master than the one that
                // was asked. What a lease or a node asks may come twice.
                Err(Trouble::Forgotten) => {
                    (at, way) = (self.master(slot, end).await?, Way::Direct);
                    redirects += 1;
                    continue;
                }
                Err(lost) => return Err(self.doubt(&lost)),
            };
            match Redirect::of(&error, &at) {
                Some(Redirect::Moved(to)) => {
                    lock(&self.0.slots).moved(slot, &to);
                    self.0.doubted.notify_one();
                    (at, way) = (to, Way::Direct);
                    redirects += 1;
                }
                Some(Redirect::Ask(to)) => {
                    (at, way) = (to, Way::Asking);
                    redirects += 1;
                }
                // One of the two keys has been moved already, and the other soon will be.
                None if error.code() == Some("TRYAGAIN") && Instant::now() + TRY_AGAIN < end => {
                    sleep(TRY_AGAIN).await;
                    (at, way) = (self.master(slot, end).await?, Way::Direct);
                }
                None if is_of_cluster(error.code()) => return Err(self.doubt(&Trouble::Said(error))),
                None => return Err(Trouble::Said(error).reason()),
            }
        }
        Err(format!("sent on {MOST_REDIRECTS} times, at last to {at}: the cluster is being changed"))
    }

    /// Says something on `channel` through any server: all of them pass it on.
    ///
    /// # Errors
    /// The reason in words.
    pub(super) async fn say<T>(
        &self,
        channel: &str,
        end: Instant,
        run: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, String> {
        let usual = self.master(Slot::for_key(channel), end).await?;
        let lines = match self.lines(&usual) {
            lines if !lines.plain.is_down() => lines,
            down => self.some_that_is_up().unwrap_or(down),
        };
        lines.plain.ask(Patience::until(end), run).await.map_err(|trouble| self.doubt(&trouble))
    }

    /// The master of `slot`, once a first survey has ended or `end` has come.
    async fn master(&self, slot: Slot, end: Instant) -> Result<Arc<str>, String> {
        let mut standing = self.0.standing.subscribe();
        let settled = timeout_at(end, standing.wait_for(|standing| *standing != Standing::Begun)).await;
        match settled.ok().and_then(Result::ok).as_deref() {
            Some(Standing::Up(_)) => {}
            Some(Standing::Down(reason)) => return Err(reason.clone()),
            Some(Standing::Begun) | None => return Err("still looking for the servers of the cluster".into()),
        }
        let master = lock(&self.0.slots).master(slot).cloned();
        master.ok_or_else(|| self.doubt(&Trouble::Lost("no server of the cluster has its slot".into())))
    }

    /// The lines to the server at `at`; new ones where there are none.
    fn lines(&self, at: &Arc<str>) -> Lines {
        let inner = &self.0;
        let mut all = lock(&inner.lines);
        if let Some(kept) = all.get(at) {
            return kept.lines.clone();
        }
        let spec = one_of(&inner.spec, &inner.seeds, at);
        let (lines, keep_up) = Lines::open(spec, &inner.name, inner.whereabouts.unknown_beside());
        let watched = watch_line(Arc::downgrade(inner), lines.plain.state());
        let looked_at = facts::watch(lines.plain.clone(), Place::Cluster, inner.events.clone());
        let task = tokio::spawn(async move {
            tokio::join!(keep_up, watched, looked_at);
        });
        all.insert(Arc::clone(at), Kept { lines: lines.clone(), task: task.abort_handle() });
        lines
    }

    fn some_that_is_up(&self) -> Option<Lines> {
        lock(&self.0.lines).values().find(|kept| kept.lines.plain.is_up()).map(|kept| kept.lines.clone())
    }

    /// Has it looked into, and gives the reason.
    fn doubt(&self, trouble: &Trouble) -> String {
        self.0.doubted.notify_one();
        trouble.reason()
    }

    /// Whether each master that somebody wanted something of can be reached.
    fn is_well(&self) -> bool {
        self.0.is_up() && !lock(&self.0.lines).values().any(|kept| kept.lines.plain.is_down())
    }

    /// Takes over what a survey found.
    async fn adopt(&self, found: Slots) {
        let gone: Vec<Arc<str>> = {
            let masters = found.masters();
            let mut lines = lock(&self.0.lines);
            let gone = lines.keys().filter(|at| !masters.contains(at)).cloned().collect();
            lines.retain(|at, _| masters.contains(at));
            gone
        };
        let is_news = {
            let mut slots = lock(&self.0.slots);
            let is_news = *slots != found;
            *slots = found;
            is_news
        };
        if is_news || !self.0.is_up() {
            self.0.ask_again();
        }
        for server in gone {
            let forgotten = Event::StoreSeen { server: server.to_string(), facts: None };
            // An agent that ended wants no news.
            let _ = self.0.events.send(forgotten).await;
        }
    }
}

impl Inner {
    /// What failed before may go well now.
    fn ask_again(&self) {
        let times = self.reasons.fetch_add(1, Ordering::Relaxed) + 1;
        self.standing.send_replace(Standing::Up(times));
    }

    fn is_up(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Up(_))
    }
}

/// Looks at the cluster at the start, and whenever something is wrong with it.
async fn keep_map(nodes: Nodes) {
    let inner = &nodes.0;
    let mut backoff = Backoff::new();
    loop {
        let begun = Instant::now();
        match survey(&inner.spec, &inner.seeds, &inner.whereabouts).await {
            Ok(view) => nodes.adopt(view.slots).await,
            // Where no server has time to be asked for the map, those that are reached still know their own slots.
            Err(reason) if nodes.some_that_is_up().is_none() || reason == DOWN => {
                inner.standing.send_replace(Standing::Down(reason));
            }
            Err(reason) => tracing::debug!(%reason, "no survey of the cluster"),
        }
        if nodes.is_well() {
            inner.whereabouts.connections.close();
            inner.doubted.notified().await;
            backoff.lived(begun.elapsed());
        }
        sleep_until(begun + backoff.next()).await;
        if inner.events.is_closed() {
            return;
        }
    }
}

/// Sees to what follows when a line goes down or comes back.
async fn watch_line(inner: Weak<Inner>, mut state: watch::Receiver<State>) {
    let mut was_down = false;
    while state.changed().await.is_ok() {
        let is_down = matches!(*state.borrow_and_update(), State::Down(_));
        let Some(inner) = inner.upgrade() else { return };
        if is_down {
            inner.doubted.notify_one();
        } else if was_down && inner.is_up() {
            inner.ask_again();
        }
        was_down = is_down;
    }
}

/// Whether an error says something about the cluster, and not about the question.
fn is_of_cluster(code: Option<&str>) -> bool {
    matches!(code, Some("CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK"))
}

/// Locks are held for a few lines that cannot panic half-way; what they guard is whole in any case.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
