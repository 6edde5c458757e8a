//! What is wanted of a watcher's sockets: the first who comes while it sleeps, and whether anybody came lately.
//!
//! # Invariants
//!
//! - A connection is not accepted here, and no datagram read.
//! - In doubt a watcher is wanted: where the kernel does not tell, it is busy.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::future::select_all;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_blocking};

use super::Sockets;
use super::arrival::{Arrival, Arrivals};
use super::listener::{Listener, has_waiting};
use crate::host::sys::{self, error_text};
use crate::model::event::{Event, Handed};
use crate::model::names::WatcherName;

/// Who is watched for, and what was counted.
#[derive(Debug)]
pub(in crate::host) struct Demand {
    events: mpsc::Sender<Event>,
    awaited: HashMap<WatcherName, AbortHandle>,
    counts: Arc<Counts>,
    /// From the first count on.
    hearing: Option<Hearing>,
}

/// Where this thread hears of arrivals.
#[derive(Debug)]
struct Hearing {
    arrivals: Arc<Arrivals>,
    tid: i32,
    /// Takes them as they come.
    task: AbortHandle,
}

/// What the last count of each watcher saw.
#[derive(Debug, Default)]
struct Counts {
    seen: Mutex<HashMap<WatcherName, Seen>>,
    is_told: AtomicBool,
}

/// Listeners, and how often somebody had come to each ([`Listener::arm`]).
type Seen = Vec<(Weak<Listener>, u64)>;

impl Demand {
    pub(in crate::host) fn new(events: mpsc::Sender<Event>) -> Demand {
        Demand { events, awaited: HashMap::new(), counts: Arc::default(), hearing: None }
    }

    /// Tells once when somebody waits for a watcher.
    pub(in crate::host) fn wait(&mut self, sockets: &Sockets, watcher: WatcherName, handed: &[Handed]) {
        // What comes now is what it wakes for: the first count must not call that nothing.
        self.counts.forget(&watcher);
        self.ignore(&watcher);
        let listeners = sockets.listeners(handed);
        let duplicates = listeners.iter().filter_map(|listener| match listener.duplicate() {
            Ok(duplicate) => Some(duplicate),
            Err(refusal) => {
                tracing::warn!("watcher {watcher} sleeps: cannot {}: {}", refusal.step, refusal.error);
                None
            }
        });
        let waiting = first_of(duplicates.collect());
        let (events, name) = (self.events.clone(), watcher.clone());
        let task = tokio::spawn(async move {
            waiting.await;
            // Nobody listens to an agent that is leaving.
            let _ = events.send(Event::Demanded { watcher: name }).await;
        });
        self.awaited.retain(|_, task| !task.is_finished());
        self.awaited.insert(watcher, task.abort_handle());
    }

    /// Ends that.
    pub(in crate::host) fn ignore(&mut self, watcher: &WatcherName) {
        if let Some(task) = self.awaited.remove(watcher) {
            task.abort();
        }
    }

    /// Tells whether somebody came to a watcher's sockets since it was last asked, or is still there.
    pub(in crate::host) fn count(&mut self, sockets: &Arc<Sockets>, watcher: WatcherName, handed: &[Handed]) {
        let tid = self.hear(sockets);
        let (listeners, counts, events) = (sockets.listeners(handed), Arc::clone(&self.counts), self.events.clone());
        spawn_blocking(move || {
            let busy = counts.count(&watcher, &listeners, tid);
            // Whoever closes one after this has closed it.
            drop(listeners);
            // Nobody listens to an agent that is leaving.
            let _ = events.blocking_send(Event::Counted { watcher, busy });
        });
    }

    /// Hears of arrivals up to now, and of those to come: the thread that they are to be told to.
    fn hear(&mut self, sockets: &Arc<Sockets>) -> Option<i32> {
        if self.hearing.is_none() {
            match Arrivals::new() {
                Ok((arrivals, tid)) => {
                    let arrivals = Arc::new(arrivals);
                    let task = tokio::spawn(hear_all(Arc::clone(&arrivals), Arc::downgrade(sockets))).abort_handle();
                    self.hearing = Some(Hearing { arrivals, tid, task });
                }
                Err(error) => self.counts.doubt(&error_text(&error)),
            }
        }
        let hearing = self.hearing.as_ref()?;
        // Who has been served already is to count, be it that the task has not had its turn yet.
        if let Err(error) = ring(&hearing.arrivals, sockets) {
            self.counts.doubt(&error_text(&error));
        }
        Some(hearing.tid)
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.awaited.values().for_each(AbortHandle::abort);
        if let Some(hearing) = &self.hearing {
            hearing.task.abort();
        }
    }
}

impl Counts {
    fn count(&self, watcher: &WatcherName, listeners: &[Arc<Listener>], tid: Option<i32>) -> bool {
        let before = self.seen().remove(watcher).unwrap_or_default();
        let (mut busy, mut seen) = (false, Vec::new());
        for listener in listeners {
            match tid.map(|tid| listener.arm(tid)) {
                Some(Ok(rung)) => {
                    // One that was not asked before may have had any number.
                    let known = before.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(listener)));
                    busy |= known.is_none_or(|(_, before)| *before != rung);
                    seen.push((Arc::downgrade(listener), rung));
                }
                Some(Err(error)) => {
                    self.doubt(&error_text(&error));
                    busy = true;
                }
                None => busy = true,
            }
            busy |= listener.has_waiting();
        }
        self.seen().insert(watcher.clone(), seen);
        busy || listeners.iter().any(|listener| {
            listener.has_connection().unwrap_or_else(|error| {
                self.doubt(&error_text(&error));
                true
            })
        })
    }

    fn forget(&self, watcher: &WatcherName) {
        self.seen().remove(watcher);
    }

    /// Says once what cannot be seen.
    fn doubt(&self, error: &str) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!("cannot see whether a watcher is idle, so that idle_timeout stops none: {error}");
        }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<WatcherName, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn hear_all(arrivals: Arc<Arrivals>, sockets: Weak<Sockets>) {
    while arrivals.come().await.is_ok() {
        let Some(sockets) = sockets.upgrade() else {
            return;
        };
        if ring(&arrivals, &sockets).is_err() {
            return;
        }
    }
}

/// Rings the bells of those that somebody came to.
fn ring(arrivals: &Arrivals, sockets: &Sockets) -> io::Result<()> {
    let arrivals = arrivals.take()?;
    if arrivals.is_empty() {
        return Ok(());
    }
    let is_meant = |listener: &Arc<Listener>| {
        let fd = listener.bound().fd;
        arrivals.iter().any(|arrival| matches!(arrival, Arrival::Anywhere) || *arrival == Arrival::At(fd))
    };
    sockets.all_listeners().iter().filter(|listener| is_meant(listener)).for_each(|listener| listener.ring());
    Ok(())
}

/// Waits until something waits in one of these. For ever where there is none.
async fn first_of(sockets: Vec<OwnedFd>) {
    let waits = sockets.into_iter().map(|socket| Box::pin(waits_in(socket))).collect::<Vec<_>>();
    if waits.is_empty() {
        return pending().await;
    }
    select_all(waits).await;
}

async fn waits_in(socket: OwnedFd) {
    let socket = match sys::watch(socket) {
        Ok(socket) => socket,
        // Too much is better than never.
        Err((_, error)) => return tracing::warn!("a socket cannot be watched: {}", error_text(&error)),
    };
    while let Ok(mut ready) = socket.readable().await {
        // Another watcher may have been faster.
        if has_waiting(socket.get_ref()) {
            return;
        }
        ready.clear_ready();
    }
    pending::<()>().await;
}
