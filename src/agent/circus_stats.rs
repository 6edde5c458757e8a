//! Statistics for Circus's own clients: of this node at `stats_endpoint`, of all at `[circus-cluster] stats_endpoint`.
//!
//! ```text
//!   measured here ──▶ latest ──▶ a task for each door ──▶ messages ──▶ publisher ──▶ who has subscribed
//!   all nodes ──────▶ Redis ──▶           │
//!                                         └── while anybody has: that somebody watches
//! ```
//!
//! Invariants:
//! - A door that nobody listens to has nothing measured and nothing of other nodes come.
//! - Who has subscribed is never waited for; a door that is behind skips to the latest.
//! - Of who is not there any more it is said that it has no processes: clients drop nothing by themselves.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::follow::{AllNodes, Source};
use crate::model::event::{Event, Onlooker};
use crate::model::stats::NodeStats;
use crate::wire::circus::{self, Message};
use crate::wire::{self, Follow, Subject};
use crate::zmq::Publisher;

/// So many messages are published at once: then their readers have a turn, and the rest of the agent.
const TOGETHER: usize = 256;
/// After this time without news of it something is not there any more. circus-top forgets a process after 3 s.
const SILENCE: Duration = Duration::from_secs(4);
/// How often it is looked who that is, at least.
const TURN: Duration = Duration::from_secs(1);
/// Of so many things it is remembered that something was said: strangers may name any number.
const MOST: usize = 100_000;

/// The doors that are open, and what they are brought.
#[derive(Debug)]
pub(super) struct CircusStats {
    latest: watch::Sender<Option<Measured>>,
    doors: Vec<JoinHandle<()>>,
}

/// The latest of this node.
#[derive(Debug, Clone)]
struct Measured {
    stats: Arc<NodeStats>,
    /// Whether each process was measured by itself.
    in_full: bool,
}

/// Whose statistics this node's own are published as.
#[derive(Debug, Clone, Copy)]
enum As {
    /// An agent's.
    Node,
    /// Those of a cluster that it is all of.
    Cluster,
}

impl CircusStats {
    /// Opens those there are; all nodes are heard there, or this one is all there is. To be called within a tokio runtime.
    pub(super) fn open(
        node: Option<Publisher>,
        cluster: Option<Publisher>,
        all: Option<AllNodes>,
        events: &mpsc::Sender<Event>,
    ) -> CircusStats {
        let latest = watch::Sender::new(None);
        let own = |publisher, whose| tokio::spawn(publish(publisher, latest.subscribe(), whose, events.clone()));
        let node = node.map(|publisher| own(publisher, As::Node));
        let cluster = cluster.map(|publisher| match all {
            Some(all) => tokio::spawn(publish_all(publisher, all, latest.subscribe())),
            None => own(publisher, As::Cluster),
        });
        let doors = node.into_iter().chain(cluster).collect();
        CircusStats { latest, doors }
    }

    /// Brings what was measured; `in_full`: each process by itself.
    pub(super) fn show(&self, stats: Box<NodeStats>, in_full: bool) {
        // Where there is no door, nobody.
        let _ = self.latest.send(Some(Measured { stats: stats.into(), in_full }));
    }

    /// Closes them: what was told is still written, for a second or two.
    pub(super) async fn close(self) {
        drop(self.latest);
        for door in self.doors {
            if door.await.is_err() {
                tracing::warn!("a door for statistics ended by a panic");
            }
        }
    }
}

impl As {
    /// Who watches, where somebody has subscribed.
    fn onlooker(self) -> Onlooker {
        match self {
            As::Node => Onlooker::Circus,
            As::Cluster => Onlooker::Here,
        }
    }

    /// What is published; nothing where that was not measured.
    fn messages(self, measured: &Measured) -> Option<Vec<Message>> {
        match self {
            As::Node => measured.in_full.then(|| circus::stats_messages(&measured.stats)),
            As::Cluster => Some(circus::cluster_stats_messages(&measured.stats)),
        }
    }
}

/// Publishes this node's statistics until nobody brings them any more.
async fn publish(
    publisher: Publisher,
    mut latest: watch::Receiver<Option<Measured>>,
    whose: As,
    events: mpsc::Sender<Event>,
) {
    let mut heard = publisher.is_heard();
    let mut said = Said::default();
    loop {
        // Who has subscribed watches, from here on and as long as frames come.
        if *heard.borrow_and_update() {
            // Nobody listens to an agent that is leaving.
            let _ = events.send(Event::Watched { by: whose.onlooker(), begun: false }).await;
        }
        tokio::select! {
            changed = latest.changed() => {
                if changed.is_err() {
                    break;
                }
                let measured = latest.borrow_and_update().clone().filter(|_| *heard.borrow());
                if let Some(messages) = measured.and_then(|measured| whose.messages(&measured)) {
                    said.tell(&publisher, messages).await;
                }
            }
            Ok(()) = heard.changed() => {}
        }
    }
    publisher.close().await;
}

/// Publishes the statistics of all nodes, until nobody brings this node's any more.
async fn publish_all(publisher: Publisher, all: AllNodes, mut latest: watch::Receiver<Option<Measured>>) {
    let mut heard = publisher.is_heard();
    let mut said = Said::default();
    let work = async {
        while heard.wait_for(|heard| *heard).await.is_ok() {
            let mut unheard = heard.clone();
            tokio::select! {
                () = relay(&publisher, &all, &mut said) => {}
                _ = unheard.wait_for(|heard| !heard) => {}
            }
        }
    };
    let leaving = async { while latest.changed().await.is_ok() {} };
    tokio::select! {
        () = work => {}
        () = leaving => {}
    }
    publisher.close().await;
}

/// Publishes what all nodes tell, for ever.
async fn relay(publisher: &Publisher, all: &AllNodes, said: &mut Said) {
    let mut source = Source::new(Follow::all(Subject::Stats), all.clone());
    // However silent all of them are.
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut next = pin!(source.next());
        let line = loop {
            tokio::select! {
                line = &mut next => break line,
                _ = turns.tick() => said.tell(publisher, Vec::new()).await,
            }
        };
        match (wire::node_stats(&line), line["note"].as_str()) {
            (Ok(stats), _) => said.tell(publisher, circus::cluster_stats_messages(&stats)).await,
            (Err(_), Some(note)) => tracing::warn!("[circus-cluster] stats_endpoint: {note}"),
            (Err(why), None) => tracing::debug!("[circus-cluster] stats_endpoint: {why}"),
        }
    }
}

/// Of whom something was said, and when.
#[derive(Debug, Default)]
struct Said(BTreeMap<String, Instant>);

impl Said {
    async fn tell(&mut self, publisher: &Publisher, messages: Vec<Message>) {
        let now = Instant::now();
        let gone = self.note(&messages, now);
        let mut messages = messages.into_iter().chain(gone).peekable();
        while messages.peek().is_some() {
            messages.by_ref().take(TOGETHER).for_each(|(topic, body)| publisher.publish(&topic, &body));
            yield_now().await;
        }
    }

    /// Takes note of whom these are, and gives what is to be said of those who have not been heard of for long.
    fn note(&mut self, messages: &[Message], now: Instant) -> Vec<Message> {
        for topic in messages.iter().map(|(topic, _)| topic).filter(|topic| circus::is_sum(topic)) {
            if self.0.len() < MOST || self.0.contains_key(topic) {
                self.0.insert(topic.clone(), now);
            }
        }
        let gone = self.0.extract_if(.., |_, at| now - *at > SILENCE);
        gone.map(|(topic, _)| (topic, circus::no_processes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_for_long_has_no_processes_and_that_is_said_once() {
        let said = |topic: &str| (topic.to_owned(), "{}".to_owned());
        let mut all = Said::default();
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let first = [said("stat.a-web.7"), said("stat.a-web"), said("stat.b-web"), said("stat.sockets")];
        assert_eq!(all.note(&first, start), []);
        assert_eq!(all.note(&[said("stat.b-web")], second(3)), []);
        assert_eq!(all.note(&[said("stat.b-web")], second(5)), [("stat.a-web".to_owned(), circus::no_processes())]);
        assert_eq!(all.note(&[said("stat.b-web")], second(8)), []);
        assert_eq!(all.note(&[], second(13)).len(), 1);
    }

    #[test]
    fn strangers_cannot_have_any_number_of_names_remembered() {
        let mut all = Said::default();
        let many: Vec<_> = (0..MOST + 10).map(|number| (format!("stat.a-{number}"), String::new())).collect();
        all.note(&many, Instant::now());
        assert_eq!(all.0.len(), MOST);
    }
}
