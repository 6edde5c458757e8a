//! The independent servers of a cluster: one, or several of which most have to agree.
//!
//! Invariants:
//! - A lease is what most servers say it is ([`Vote`]).
//! - Who contends for it is told to all, and asked of most of them ([`Attendance`](crate::model::attendance::Attendance)).
//! - Everything else needs one server only: each node beats, listens and answers at all of them, so that whoever reaches
//!   one of them reaches the nodes that do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::acks::Acks;
use super::claim;
use super::desk::Desk;
use super::link::{Link, Needs};
use super::muster;
use super::pause;
use super::scripts::Call;
use super::sentinel::{self, Whereabouts};
use crate::model::attendance::{Register, is_most};
use crate::model::election::Word;
use crate::model::event::{Ask, AskKind, Claimed, Event, LeaseAnswer};
use crate::model::names::{LeaseName, NodeName};
use crate::model::pause::{Told, Wish};
use crate::model::spec::{RedisSpec, Sentinels};
use crate::model::store::Missed;
use crate::model::vote::{Put, Vote};

/// How much longer than most servers a few may take to say who contends for a lease.
const A_MOMENT: Duration = Duration::from_millis(50);

/// Handle on the servers; clones share it.
#[derive(Clone)]
pub(super) struct Servers(Arc<[Server]>);

/// One of them.
pub(super) struct Server {
    /// Where it is, and how one is let in.
    pub(super) spec: RedisSpec,
    /// Where it is now, where sentinels know.
    pub(super) whereabouts: Whereabouts,
    /// The connection for commands.
    pub(super) link: Link,
    desk: Desk,
}

impl Servers {
    /// Connects to all that `spec` names, in tasks of their own. They tell `StoreUp` and `StoreDown`.
    pub(super) fn start(
        spec: &RedisSpec,
        node: &NodeName,
        events: &mpsc::Sender<Event>,
        tasks: &mut JoinSet<()>,
    ) -> Servers {
        let specs = spec.servers();
        let board = Arc::new(Mutex::new(Board::of(specs.iter().map(|spec| spec.host().to_owned()).collect())));
        let mut start = |(index, spec): (usize, RedisSpec)| {
            let whereabouts = Whereabouts::unknown();
            if let Ok(Some(sentinels)) = Sentinels::parse(spec.url.reveal()) {
                tasks.spawn(sentinel::follow(spec.clone(), sentinels, whereabouts.clone()));
            }
            let (told, news) = mpsc::channel(4);
            let (link, keep_up) = Link::new(spec.clone(), format!("circus-agent:{node}"), whereabouts.clone(), told);
            tasks.spawn(keep_up);
            tasks.spawn(watch(index, news, Arc::clone(&board), events.clone()));
            let (desk, serve) = Desk::new(link.clone());
            tasks.spawn(serve);
            Server { spec, whereabouts, link, desk }
        };
        Servers(specs.into_iter().enumerate().map(&mut start).collect())
    }

    /// Each of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.0.iter()
    }

    /// Cuts all connections off for so long.
    pub(super) fn cut_off(&self, time: Duration) {
        self.iter().for_each(|server| server.whereabouts.cut().last(time));
    }

    /// What most servers answer to `ask`, within `patience`. What is to be done about those that say otherwise is seen to
    /// afterwards.
    pub(super) fn ask(
        &self,
        lease: LeaseName,
        ask: Ask,
        patience: Duration,
    ) -> impl Future<Output = LeaseAnswer> + use<> {
        let (verdict, decided) = oneshot::channel();
        tokio::spawn(self.clone().put_to_vote(lease, ask, patience, verdict));
        async { decided.await.unwrap_or_else(|_| LeaseAnswer::Failed { reason: "the agent is ending".into() }) }
    }

    async fn put_to_vote(self, lease: LeaseName, ask: Ask, patience: Duration, verdict: oneshot::Sender<LeaseAnswer>) {
        let end = Instant::now() + patience;
        let put = |Put { server, ask }: Put| {
            let desk = self.0[server].desk.clone();
            let lease = lease.clone();
            let patience = match ask.kind {
                // Nobody waits for these.
                AskKind::Withdraw => patience,
                _ => end.saturating_duration_since(Instant::now()),
            };
            async move {
                let asked = ask.kind.clone();
                (server, asked, desk.ask(lease, ask, patience).await)
            }
        };
        let (mut vote, puts) = Vote::new(ask, self.0.len());
        let mut open: FuturesUnordered<_> = puts.into_iter().map(put).collect();
        let mut verdict = Some(verdict);
        while let Some((server, asked, answer)) = open.next().await {
            let mut puts = Vec::new();
            vote.answered(server, &asked, answer, &mut puts);
            open.extend(puts.into_iter().map(put));
            if let Some(decided) = vote.verdict()
                && let Some(verdict) = verdict.take()
            {
                // Who asked may have ended.
                let _ = verdict.send(decided.clone());
            }
        }
    }

    /// Tells all servers that an agent is one of those that contend for a lease, or that it is none any more, and gives what
    /// each says of them. What most did not hear is taken back where it was heard.
    pub(super) async fn muster(
        self,
        lease: LeaseName,
        instance: u128,
        Word { sent, node, membership, timeout: patience }: Word,
    ) -> Vec<Result<Register, String>> {
        let call = muster::call(&lease, (&node, instance), sent, membership.as_ref());
        let put = |(index, server): (usize, &Server)| {
            let (link, call) = (server.link.clone(), call.clone());
            async move {
                let said = link.call_for_leases(&call, Needs::Nothing, patience).await;
                (index, said.and_then(|(words, _)| muster::answer(&words)))
            }
        };
        let mut open: FuturesUnordered<_> = self.iter().enumerate().map(put).collect();
        let late = || Err("it is slower than the others".to_owned());
        let mut said: Vec<Result<Register, String>> = (0..self.0.len()).map(|_| late()).collect();
        let heard = |said: &[Result<Register, String>]| said.iter().filter(|said| said.is_ok()).count();
        let mut end = Instant::now() + 2 * patience;
        while let Ok(Some((index, answer))) = timeout_at(end, open.next()).await {
            let had_most = is_most(heard(&said), said.len());
            said[index] = answer;
            if !had_most && is_most(heard(&said), said.len()) {
                end = Instant::now() + A_MOMENT;
            }
        }
        // Whoever is late has its own time to show that its connection is of no more use.
        tokio::spawn(async move { while open.next().await.is_some() {} });
        if membership.is_some() && !is_most(heard(&said), said.len()) {
            let back = muster::call(&lease, (&node, instance), sent, None);
            for (server, _) in self.iter().zip(&said).filter(|(_, said)| said.is_ok()) {
                let (link, back) = (server.link.clone(), back.clone());
                tokio::spawn(async move { link.call(&back, patience).await });
            }
        }
        said
    }

    /// Claims a slot at all servers, and gives what they come to.
    pub(super) async fn claim(self, call: Call, patience: Duration) -> Claimed {
        let put = |server: &Server| {
            let (link, call) = (server.link.clone(), call.clone());
            async move {
                match link.call_for_leases(&call, Needs::Acks, patience).await {
                    Ok((words, acks)) => match (claim::answer(&words), acks) {
                        (Claimed::Ours, Acks::Missing(why)) => Claimed::Unknown(why),
                        (said, _) => said,
                    },
                    Err(why) => Claimed::Unknown(why),
                }
            }
        };
        claim::agreed(&join_all(self.iter().map(put)).await)
    }

    /// Puts a wish about the pause of a lease to all servers, and gives what they come to.
    pub(super) async fn pause(self, lease: LeaseName, wish: Wish, patience: Duration) -> Result<Told, String> {
        let call = pause::call(&lease, &wish);
        // Otherwise the next server in its place might know nothing of it.
        let needs = if wish == Wish::Look { Needs::Nothing } else { Needs::Acks };
        let put = |server: &Server| {
            let (link, call) = (server.link.clone(), call.clone());
            async move {
                match link.call_for_leases(&call, needs, patience).await? {
                    (words, Acks::Enough) => pause::answer(&words),
                    (_, Acks::Missing(why)) => Err(why),
                }
            }
        };
        pause::agreed(&wish, join_all(self.iter().map(put)).await)
    }

    /// Puts `call` to all servers at once, and gives what each answered.
    pub(super) async fn call(&self, call: &Call, patience: Duration) -> Vec<Result<Vec<String>, String>> {
        let mut calls = Vec::with_capacity(self.0.len());
        for server in self.iter() {
            calls.push(server.link.call(call, patience));
        }
        join_all(calls).await
    }

    /// Publishes `text` at the first server where somebody hears it, and gives how many do.
    ///
    /// # Errors
    /// No server could be asked; what the last one said.
    pub(super) async fn publish(&self, channel: &str, text: &str, patience: Duration) -> Result<u64, String> {
        let mut result = Err(String::new());
        for server in self.iter() {
            match server.link.publish(channel, text, patience).await {
                Ok(0) => result = Ok(0),
                Ok(heard) => return Ok(heard),
                Err(reason) => result = result.map_err(|_| reason),
            }
        }
        result
    }

    /// Publishes `texts` at all servers, each in one round trip, in their order.
    ///
    /// # Errors
    /// They were published nowhere, and why.
    pub(super) async fn publish_all(&self, channel: &str, texts: &[String], patience: Duration) -> Result<(), String> {
        let mut published = Vec::with_capacity(self.0.len());
        for server in self.iter() {
            published.push(server.link.publish_all(channel, texts, patience));
        }
        join_all(published).await.into_iter().reduce(Result::or).unwrap_or(Ok(()))
    }
}

/// Which servers cannot be reached, and why.
struct Board {
    names: Vec<String>,
    /// Nothing of one that is still being connected to.
    down: BTreeMap<usize, Option<String>>,
    missed: Missed,
}

impl Board {
    fn of(names: Vec<String>) -> Board {
        let down = (0..names.len()).map(|server| (server, None)).collect();
        let missed = Missed { of: names.len(), servers: BTreeMap::new() };
        Board { names, down, missed }
    }

    /// What one server's news mean for all of them.
    fn note(&mut self, server: usize, news: Event) -> Vec<Event> {
        match &news {
            Event::StoreUp => drop(self.down.remove(&server)),
            Event::StoreDown { reason } => drop(self.down.insert(server, Some(reason.clone()))),
            _ => return vec![news],
        }
        if self.names.len() == 1 {
            return vec![news];
        }
        let enough = self.names.len() - self.down.len() > self.names.len() / 2;
        let all = match news {
            Event::StoreUp if enough => Some(Event::StoreUp),
            Event::StoreDown { .. } if !enough => Some(Event::StoreDown { reason: self.reason() }),
            _ => None,
        };
        let missed = self.missed();
        let is_news = self.missed != missed;
        self.missed = missed;
        let each = is_news.then(|| Event::StoreMissed(self.missed.clone()));
        all.into_iter().chain(each).collect()
    }

    fn missed(&self) -> Missed {
        let tried =
            self.down.iter().filter_map(|(server, reason)| Some((self.names[*server].clone(), reason.clone()?)));
        Missed { of: self.names.len(), servers: tried.collect() }
    }

    fn reason(&self) -> String {
        let each = |(server, reason): (&usize, &Option<String>)| {
            let (name, reason) = (&self.names[*server], reason.as_deref().unwrap_or("still connecting"));
            if reason.contains(name) { reason.to_owned() } else { format!("{name}: {reason}") }
        };
        let reasons: Vec<String> = self.down.iter().map(each).collect();
        format!("{} of {} servers cannot be used ({})", self.down.len(), self.names.len(), reasons.join("; "))
    }
}

/// Passes on what one server's link tells, as far as it matters for all.
async fn watch(server: usize, mut news: mpsc::Receiver<Event>, board: Arc<Mutex<Board>>, events: mpsc::Sender<Event>) {
    while let Some(news) = news.recv().await {
        let told = board.lock().unwrap_or_else(PoisonError::into_inner).note(server, news);
        for event in told {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(reason: &str) -> Event {
        Event::StoreDown { reason: reason.into() }
    }

    fn board(names: &[&str]) -> Board {
        Board::of(names.iter().map(ToString::to_string).collect())
    }

    fn missed(servers: &[(&str, &str)]) -> Event {
        let servers = servers.iter().map(|(name, reason)| ((*name).to_owned(), (*reason).to_owned())).collect();
        Event::StoreMissed(Missed { of: 3, servers })
    }

    #[test]
    fn several_servers_are_up_while_most_are_and_each_that_is_not_is_told_of() {
        let mut board = board(&["a:1", "b:1", "c:1"]);
        assert_eq!(board.note(0, Event::StoreUp), []);
        assert_eq!(board.note(1, Event::StoreUp), [Event::StoreUp]);
        assert_eq!(board.note(2, down("refused")), [missed(&[("c:1", "refused")])]);
        let reason = "2 of 3 servers cannot be used (a:1: no answer; c:1: refused)";
        assert_eq!(
            board.note(0, down("no answer")),
            [down(reason), missed(&[("a:1", "no answer"), ("c:1", "refused")])]
        );
        assert_eq!(board.note(2, Event::StoreUp), [Event::StoreUp, missed(&[("a:1", "no answer")])]);
        assert_eq!(board.note(0, Event::StoreUp), [Event::StoreUp, missed(&[])]);
    }

    #[test]
    fn what_one_server_says_stands_alone() {
        let mut board = board(&["a:1"]);
        assert_eq!(board.note(0, down("refused")), [down("refused")]);
        assert_eq!(board.note(0, Event::StoreUp), [Event::StoreUp]);
    }
}
