//! What is wanted of a watcher's sockets: the first who comes while it sleeps, and whether anybody came lately.
//!
//! # Invariants
//!
//! - A connection is not accepted here, and no datagram read.
//! - In doubt a watcher is wanted: where the kernel does not tell, it is busy.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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
    /// The task that hears of arrivals, and the thread that they are told to; from the first count on.
    hearing: Option<(AbortHandle, i32)>,
}

/// How often the bells of a watcher's sockets had rung when it was last asked.
#[derive(Debug, Default)]
struct Counts {
    seen: Mutex<HashMap<WatcherName, Vec<(Weak<Listener>, u64)>>>,
    is_told: AtomicBool,
}

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
            // Nobody listens to an agent that is leaving.
            let _ = events.blocking_send(Event::Counted { watcher, busy });
        });
    }

    /// Begins to hear of arrivals, if that has not begun: the thread that they are to be told to.
    fn hear(&mut self, sockets: &Arc<Sockets>) -> Option<i32> {
        if self.hearing.is_none() {
            match Arrivals::new() {
                Ok((arrivals, tid)) => {
                    let task = tokio::spawn(ring(arrivals, Arc::downgrade(sockets)));
                    self.hearing = Some((task.abort_handle(), tid));
                }
                Err(error) => self.counts.doubt(&error_text(&error)),
            }
        }
        self.hearing.as_ref().map(|(_, tid)| *tid)
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.awaited.values().for_each(AbortHandle::abort);
        if let Some((task, _)) = &self.hearing {
            task.abort();
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

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<WatcherName, Vec<(Weak<Listener>, u64)>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rings the bells of those that somebody came to.
async fn ring(arrivals: Arrivals, sockets: Weak<Sockets>) {
    while let Ok(arrival) = arrivals.next().await {
        let Some(sockets) = sockets.upgrade() else {
            return;
        };
        let all = sockets.all_listeners().into_iter();
        all.filter(|listener| match arrival {
            Arrival::At(fd) => listener.bound().fd == fd,
            Arrival::Anywhere => true,
        })
        .for_each(|listener| listener.ring());
    }
}

/// Waits until something waits in one of these. For ever where there is none.
async fn first_of(sockets: Vec<OwnedFd>) {
    let waits = sockets.into_iter().map(|socket| Box::pin(waits_in(socket))).collect::<Vec<_>>();
    if waits.is_empty() {
        return std::future::pending().await;
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
    std::future::pending().await
}
