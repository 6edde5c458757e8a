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
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::follow::{AllNodes, Source};
use crate::model::event::{Event, Onlooker};
use crate::model::stats::NodeStats;
use crate::wire::{self, Follow, Message, Subject};
use crate::zmq::Publisher;

/// The latest statistics of this node; none yet.
pub(super) type Latest = watch::Receiver<Option<Arc<NodeStats>>>;

/// So many messages are published at once: then their readers have a turn, and the rest of the agent.
const TOGETHER: usize = 256;
/// After this time without news of it something is not there any more. circus-top forgets a process after 3 s.
const SILENCE: Duration = Duration::from_secs(4);
/// How often it is looked who that is, at least.
const TURN: Duration = Duration::from_secs(1);
/// Of so many things it is remembered that something was said: strangers may name any number.
const MOST: usize = 100_000;

/// Publishes this node's statistics, as `messages` has them, until nobody brings them any more.
pub(super) async fn publish(
    publisher: Publisher,
    mut latest: Latest,
    onlooker: Onlooker,
    events: mpsc::Sender<Event>,
    messages: fn(&NodeStats) -> Vec<Message>,
) {
    let mut heard = publisher.is_heard();
    let mut said = Said::default();
    loop {
        tokio::select! {
            changed = latest.changed() => {
                let stats = latest.borrow_and_update().clone();
                match (changed, stats) {
                    (Err(_), _) => break,
                    (Ok(()), Some(stats)) if *heard.borrow() => said.tell(&publisher, messages(&stats)).await,
                    (Ok(()), _) => continue,
                }
            }
            Ok(()) = heard.changed() => {}
        }
        if *heard.borrow_and_update() {
            // Nobody listens to an agent that is leaving.
            let _ = events.send(Event::Watched { by: onlooker, begun: false }).await;
        }
    }
    publisher.close().await;
}

/// Publishes the statistics of all nodes, until `leaving`.
pub(super) async fn publish_all(publisher: Publisher, all: AllNodes, leaving: impl Future<Output = ()>) {
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
        tokio::select! {
            line = source.next() => match (wire::node_stats(&line), line["note"].as_str()) {
                (Ok(stats), _) => said.tell(publisher, wire::cluster_stats_messages(&stats)).await,
                (Err(_), Some(note)) => tracing::warn!("[circus-cluster] stats_endpoint: {note}"),
                (Err(why), None) => tracing::debug!("[circus-cluster] stats_endpoint: {why}"),
            },
            _ = turns.tick() => said.tell(publisher, Vec::new()).await,
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
        for topic in messages.iter().map(|(topic, _)| topic).filter(|topic| wire::is_sum(topic)) {
            if self.0.len() < MOST || self.0.contains_key(topic) {
                self.0.insert(topic.clone(), now);
            }
        }
        let gone = self.0.extract_if(.., |_, at| now - *at > SILENCE);
        gone.map(|(topic, _)| (topic, wire::no_processes())).collect()
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
        assert_eq!(all.note(&[said("stat.b-web")], second(5)), [("stat.a-web".to_owned(), wire::no_processes())]);
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
