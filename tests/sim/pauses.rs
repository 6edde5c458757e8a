//! Leases that people pause and resume in this world: how their wishes get to the servers and back, and what has to be so
//! once a pause is said to be done.
//!
//! The adapter is as that of the product: it puts `pause.lua`'s question to all servers and has the product's own
//! [`pause::agreed`] count the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::cluster::pause;
use circus_agent::model::attendance::is_most;
use circus_agent::model::command::{Answer, Command, Outcome, Patience, Reply, RequestId};
use circus_agent::model::event::Event;
use circus_agent::model::names::{LeaseName, WatcherName};
use circus_agent::model::pause::{Told, Wish};
use circus_agent::model::random::Random;

use crate::plants::{Field, Plant};
use crate::queue::{OnHost, SEC, What};
use crate::store::{Shape, State};
use crate::witness::Promise;
use crate::world::World;

/// How long the adapter waits for servers.
const PATIENCE: Duration = Duration::from_secs(2);

/// What people wish for, and what has come of it.
pub(crate) struct Pauses {
    random: Random,
    /// How many there were: each has a name of its own.
    asked_for: u64,
    /// Of each lease that is paused, as somebody was told, whose wish that was.
    done: BTreeMap<WatcherName, String>,
    /// When a server has lost something last: a holder that it does not know may live.
    lost: Option<crate::queue::Instant>,
    asked: Vec<Asked>,
}

/// A wish on its way.
struct Asked {
    host: usize,
    life: u64,
    request: RequestId,
    watcher: WatcherName,
    wish: Wish,
    said: Vec<Option<Result<Told, String>>>,
    answered: bool,
}

impl Pauses {
    /// In four of ten seeds. Drawn by themselves, so that the others are what they are without.
    pub(crate) fn of(seed: u64, plant: Option<&Plant>) -> Option<Pauses> {
        let mut random = Random::from_number(seed ^ 0x9a05_e000_0000);
        let wanted = random.fraction() < 0.4;
        let wanted = plant.map_or(wanted, |plant| plant.field == Field::Pauses);
        wanted.then(|| Pauses { random, asked_for: 0, done: BTreeMap::new(), lost: None, asked: Vec::new() })
    }
}

// ---- people ----

impl World {
    /// Somebody pauses a lease, or resumes one, and will again.
    pub(crate) fn somebody_pauses(&mut self) {
        let at_peace = self.at_peace();
        let (hosts, watchers) = (self.hosts.len() as u64, self.watchers.len() as u64);
        let Some(pauses) = self.pauses.as_mut().filter(|_| !at_peace) else { return };
        let (host, watcher) = (pauses.random.number() % hosts, pauses.random.number() % watchers);
        let (pausing, waits) = (pauses.random.fraction() < 0.4, pauses.random.fraction() < 0.8);
        let again = self.timings.ttl.mul_f64(4.0 * pauses.random.fraction());
        let watcher = self.watchers[watcher as usize].clone();
        let patience = if waits { Patience::Settled } else { Patience::Admitted };
        self.wish(host as usize, &watcher, pausing.then_some(patience));
        self.after(again, What::SomebodyPauses);
    }

    /// A host's agent is told to pause a lease, or without patience to resume it.
    fn wish(&mut self, host: usize, watcher: &WatcherName, pause: Option<Patience>) {
        let Some(pauses) = &mut self.pauses else { return };
        pauses.asked_for += 1;
        let by = format!("amy-{}", pauses.asked_for);
        let watcher = watcher.to_string();
        let command = match pause {
            Some(patience) => Command::Pause { watcher, reason: None, patience },
            None => Command::Resume { watcher },
        };
        self.trace(host, || format!("{by} asks for {command:?}"));
        let asked = self.asks_as(by, command);
        self.report(host, asked);
    }

    /// People who go home leave nothing paused.
    pub(crate) fn resume_all(&mut self) {
        let Some(pauses) = &mut self.pauses else { return };
        pauses.done.clear();
        pauses.asked_for += 1;
        for watcher in self.watchers.clone() {
            for group in self.groups_of(&watcher) {
                let (server, lease) = (self.store.groups[group].master, self.lease(&watcher));
                self.evaluate_wish(server, &lease, &Wish::Resume).expect("a server that answers");
            }
        }
    }

    /// Where nothing goes wrong a pause ends what runs in good order, nothing runs while it lasts, and its end is heard of at
    /// once.
    pub(crate) fn expect_a_pause(&mut self) {
        if self.pauses.is_none() || self.witness.broken.is_some() {
            return;
        }
        // What the last fault has left behind is over.
        self.live_until(self.now + 4 * self.timings.ttl.as_nanos() as u64);
        let watcher = self.watchers[0].clone();
        let hosts = self.hosts.len() as u64;
        let host = (self.random.number() % hosts) as usize;
        self.wish(host, &watcher, Some(Patience::Settled));
        self.live_until(self.now + self.soon());
        if !self.pauses.as_ref().is_some_and(|pauses| pauses.done.contains_key(&watcher)) {
            let how = format!("{watcher} was to be paused, and nobody says that it is");
            self.witness.holds_against(self.now, Promise::Paused, &how);
        }
        self.live_until(self.now + 3 * self.timings.ttl.as_nanos() as u64);
        let other = (self.random.number() % hosts) as usize;
        self.wish(other, &watcher, None);
        let hooks = if self.hooked { 3 * self.hook_timeout() } else { Duration::ZERO };
        self.live_until(self.now + SEC / 2 + hooks.as_nanos() as u64);
        self.witness.expects(self.now, &watcher, Promise::SoonOne, "after it was resumed");
    }
}

// ---- the way to the servers and back ----

impl World {
    fn groups_of(&self, watcher: &WatcherName) -> Vec<usize> {
        match self.store.shape {
            Shape::Majority => (0..self.store.groups.len()).collect(),
            Shape::Standalone | Shape::Cluster => vec![self.store.homes[watcher]],
        }
    }

    /// An agent puts a wish to the servers.
    pub(crate) fn pause_lease(&mut self, host: usize, request: RequestId, watcher: WatcherName, wish: Wish) {
        let groups = match self.store.shape {
            Shape::Cluster => vec![self.hosts[host].homes[&watcher]],
            Shape::Standalone | Shape::Majority => self.groups_of(&watcher),
        };
        let (life, said) = (self.hosts[host].life, vec![None; groups.len()]);
        let Some(pauses) = &mut self.pauses else { return };
        let asked = pauses.asked.len();
        pauses.asked.push(Asked { host, life, request, watcher, wish, said, answered: false });
        for (seat, group) in groups.into_iter().enumerate() {
            let server = self.hosts[host].masters[group];
            self.send_wish(asked, seat, server);
        }
        self.after(PATIENCE, What::On(host, OnHost::WishEnds { asked }));
    }

    fn asked(&mut self, asked: usize) -> &mut Asked {
        &mut self.pauses.as_mut().expect("somebody pauses").asked[asked]
    }

    fn send_wish(&mut self, asked: usize, seat: usize, server: usize) {
        let host = self.asked(asked).host;
        let arrives = What::WishArrives { asked, seat, server };
        self.set_out(host, server, arrives);
    }

    /// A wish has reached a server.
    pub(crate) fn wish_arrives(&mut self, asked: usize, seat: usize, server: usize) {
        let Asked { host, watcher, wish, answered, .. } = self.asked(asked);
        let (host, watcher, wish, answered) = (*host, watcher.clone(), wish.clone(), *answered);
        match self.store.servers[server].state {
            State::Frozen => {
                let later = self.timings.ttl / 10;
                return self.after(later, What::WishArrives { asked, seat, server });
            }
            State::Down => return self.wish_returns(asked, seat, server, Err("refused".into())),
            State::Up => {}
        }
        if self.has_moved(&watcher, server) {
            if !answered {
                let master = self.follows_move(host, &watcher);
                self.send_wish(asked, seat, master);
            }
            return;
        }
        let lease = self.lease(&watcher);
        // People have gone home, and what comes as late as that is nobody's wish any more.
        let latest = format!("amy-{}", self.pauses.as_ref().map_or(0, |pauses| pauses.asked_for));
        if self.at_peace() && matches!(&wish, Wish::Pause { by, .. } if *by != latest) {
            return;
        }
        let answer = self.evaluate_wish(server, &lease, &wish);
        self.trace(host, || format!("server {server} answers {watcher} {wish:?} with {answer:?}"));
        if answer.is_err() || wish == Wish::Look || !self.store.needs_ack {
            return self.wish_returns(asked, seat, server, answer);
        }
        if let Some(lag) = self.store.follower_lag(server) {
            let links = self.store.servers[server].links;
            self.after(lag, What::WishAcknowledged { asked, seat, server, links, answer });
        }
    }

    fn evaluate_wish(&mut self, server: usize, lease: &LeaseName, wish: &Wish) -> Result<Told, String> {
        let date = self.store.date(server, self.now);
        let words = self.store.servers[server].redis.eval(date, &pause::call(lease, wish));
        let told = match words {
            Ok(words) => Ok(pause::answer(&words).expect("words of the script")),
            Err(reason) => {
                let expected = reason.starts_with("REPLICA") || reason.contains("READONLY");
                assert!(expected, "the script failed: {reason}");
                Err(reason)
            }
        };
        if told.as_ref().is_ok_and(|told| told.changed) && *wish == Wish::Resume {
            self.pauses.iter_mut().for_each(|pauses| drop(pauses.done.remove(&lease.watcher)));
        }
        self.store.changed(server, self.now, self.timings.ttl);
        for (channel, message) in self.store.servers[server].redis.take_published() {
            self.announce(server, &channel, &message);
        }
        told
    }

    /// A replica has what was written, if none was taken from its server in between.
    pub(crate) fn wish_acknowledged(
        &mut self,
        asked: usize,
        seat: usize,
        server: usize,
        links: u64,
        answer: Result<Told, String>,
    ) {
        if self.store.servers[server].links == links {
            self.wish_returns(asked, seat, server, answer);
        }
    }

    fn wish_returns(&mut self, asked: usize, seat: usize, server: usize, answer: Result<Told, String>) {
        let host = self.asked(asked).host;
        if self.reaches(host, server) {
            let delay = self.wander(self.hosts[host].link.back);
            self.after(delay, What::On(host, OnHost::WishAnswered { asked, seat, answer }));
        }
    }

    /// A server's answer to a wish is back.
    pub(crate) fn wish_answered(&mut self, asked: usize, seat: usize, answer: Result<Told, String>) {
        let Asked { said, .. } = self.asked(asked);
        said[seat].get_or_insert(answer);
        if said.iter().all(Option::is_some) {
            self.wish_ends(asked);
        }
    }

    /// The adapter counts what has come back.
    pub(crate) fn wish_ends(&mut self, asked: usize) {
        let Asked { host, life, request, wish, said, answered, .. } = self.asked(asked);
        if std::mem::replace(answered, true) {
            return;
        }
        let silent = || Err("no answer in time".to_owned());
        let result = pause::agreed(wish, said.iter().map(|said| said.clone().unwrap_or_else(silent)).collect());
        let (host, life, request) = (*host, *life, *request);
        if self.hosts[host].life == life {
            self.report(host, Event::LeasePaused { request, result });
        }
    }
}

// ---- what has to be so ----

impl World {
    /// Whether the pause that this one wished for stands.
    fn stands(&self, watcher: &WatcherName, by: &str) -> bool {
        let key = self.lease(watcher).meta_key();
        let groups = self.groups_of(watcher);
        let knows = |group: &&usize| {
            let master = &self.store.servers[self.store.groups[**group].master].redis;
            master.field(&key, "paused").is_some_and(|text| text.lines().nth(1) == Some(by))
        };
        is_most(groups.iter().filter(knows).count(), groups.len())
    }

    /// Somebody is told that a lease is paused, and that nobody has it any more: then nothing runs under it.
    pub(crate) fn is_told(&mut self, outcome: &Outcome) {
        let Outcome::Own(Reply::Done(Answer::Paused { watcher, pause, holder: None, .. })) = outcome else { return };
        let (now, lately) = (self.now, 2 * self.timings.ttl.as_nanos() as u64);
        let lost = self.pauses.as_ref().is_none_or(|pauses| pauses.lost.is_some_and(|lost| lost + lately >= now));
        if lost || !self.stands(watcher, &pause.by) {
            return;
        }
        if let Some(host) = self.witness.has_under(now, watcher) {
            let how = format!("host {host} runs something under {watcher}, which is said to be paused");
            self.witness.holds_against(now, Promise::Paused, &how);
        }
        self.pauses.iter_mut().for_each(|pauses| drop(pauses.done.insert(watcher.clone(), pause.by.clone())));
    }

    /// A child of a lease starts: of none that is paused.
    pub(crate) fn starts_under(&mut self, host: usize, lease: &WatcherName) {
        let by = self.pauses.as_ref().and_then(|pauses| pauses.done.get(lease));
        if let Some(by) = by {
            let how = format!("host {host} starts something under {lease}, which {by} has paused");
            self.witness.holds_against(self.now, Promise::Paused, &how);
        }
    }

    /// A group's data may have become less: which pauses it has lost. With them everybody may take the lease.
    pub(crate) fn recount_pauses(&mut self) {
        let now = self.now;
        let Some(pauses) = &mut self.pauses else { return };
        pauses.lost = Some(now);
        let mut done = std::mem::take(&mut pauses.done);
        done.retain(|watcher, by| self.stands(watcher, by));
        self.pauses.iter_mut().for_each(|pauses| pauses.done.append(&mut done));
    }
}
