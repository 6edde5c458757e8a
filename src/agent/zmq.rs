//! The ZeroMQ doors that are open.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::StartError;
use crate::model::spec::ZmqDoors;
use crate::zmq::{self, Listener, Publisher, Question};

/// The ZeroMQ doors of an agent, as far as its configuration names them.
#[derive(Debug, Default)]
pub(super) struct Zmq {
    /// Tells of events.
    pub(super) events: Option<Publisher>,
    /// Tells what this node uses; to be taken by who has that to tell.
    pub(super) stats: Option<Publisher>,
    /// Tells what all nodes use; the same.
    pub(super) cluster_stats: Option<Publisher>,
    /// Those that answer: they end when nobody takes their questions any more.
    answering: Vec<JoinHandle<()>>,
}

impl Zmq {
    /// Opens them all, or none. To be called within a tokio runtime.
    pub(super) fn open(doors: &ZmqDoors, questions: &mpsc::Sender<Question>) -> Result<Zmq, StartError> {
        let mut listeners = Vec::new();
        for (key, address) in doors.all() {
            let listener = Listener::bind(key, address, doors.public, doors.owner);
            listeners.push((key, listener.map_err(|error| StartError::Zmq { key, error })?));
            tracing::info!("{key} {address}");
        }
        let mut zmq = Zmq::default();
        for (key, listener) in listeners {
            match key {
                ZmqDoors::PUBSUB => zmq.events = Some(Publisher::new(listener)),
                ZmqDoors::STATS => zmq.stats = Some(Publisher::new(listener)),
                ZmqDoors::CLUSTER_STATS => zmq.cluster_stats = Some(Publisher::new(listener)),
                _ => zmq.answering.push(tokio::spawn(zmq::serve(listener, questions.clone()))),
            }
        }
        Ok(zmq)
    }

    /// Closes those that nobody has taken, once nobody takes questions any more: what was answered and told is still
    /// written, for a second or two.
    pub(super) async fn close(self) {
        let Zmq { events, answering, .. } = self;
        let telling = events.map(|publisher| tokio::spawn(publisher.close()));
        for ended in answering.into_iter().chain(telling) {
            if ended.await.is_err() {
                tracing::warn!("a ZeroMQ door ended by a panic");
            }
        }
    }
}
