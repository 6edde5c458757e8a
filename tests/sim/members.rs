//! A legion in this world: who contends for the first lease, and how that is told to the servers and heard from them.
//!
//! The adapter is as that of the product: it puts `muster.lua`'s questions to all servers, has the product's own [`Attendance`]
//! count the answers, and takes back what fewer than most of them have heard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use circus_agent::cluster::muster;
use circus_agent::model::attendance::{Attendance, Register, is_most};
use circus_agent::model::election::{self, Membership, Muster};
use circus_agent::model::event::Event;
use circus_agent::model::names::{LeaseName, NodeName, WatcherName};
use circus_agent::model::random::Random;
use circus_agent::model::spec::{ElectionSpec, LegionSpec, WatcherSpec};
use circus_agent::model::time::Time;

use crate::plants::{Field, Flaw, Plant};
use crate::queue::{Instant, OnHost, SEC, What};
use crate::specs;
use crate::store::{Shape, State};
use crate::witness::Promise;
use crate::world::World;

/// What the first singleton is where its holder is elected.
pub(crate) struct Legion {
    /// What follows it, under its lease.
    pub(crate) follower: WatcherName,
    /// Each host's; 0: an arbiter.
    valors: Vec<u32>,
    pub(crate) quorum: u32,
    pub(crate) preempt: bool,
    pub(crate) preempt_delay: Duration,
    /// When each host's word was last heard by some server.
    spoke: BTreeMap<usize, Instant>,
}

/// What a node said of itself, on its way.
pub(crate) struct Word {
    host: usize,
    life: u64,
    watcher: WatcherName,
    node: NodeName,
    sent: Time,
    membership: Option<Membership>,
    /// The groups of servers that are told, and what each said.
    groups: Vec<usize>,
    said: Vec<Option<Result<Register, String>>>,
    told: bool,
}

impl Legion {
    /// One in half of the seeds that have hosts enough. Drawn by itself, so that the others are what they are without.
    pub(crate) fn of(seed: u64, plant: Option<&Plant>, hosts: usize, ttl: Duration) -> Option<Legion> {
        let mut random = Random::from_number(seed ^ 0x1e91_0000_0000);
        let wanted = random.fraction() < 0.5;
        if hosts < 3
            || !plant.map_or(wanted, |plant| match plant.field {
                Field::Singletons => false,
                Field::Legions => true,
                Field::Jobs | Field::Pauses => wanted,
            })
        {
            return None;
        }
        let mut valors: Vec<u32> = (0..hosts).map(|_| (random.number() % 4) as u32).collect();
        // One at least may lead, also where another is away.
        (valors[0], valors[1]) = (valors[0].max(1), valors[1].max(1));
        let preempt = random.fraction() < 0.6;
        let preempt_delay = if random.fraction() < 0.5 { Duration::ZERO } else { random.below(ttl / 2) };
        let quorum = ElectionSpec::majority(hosts as u32);
        let follower = WatcherName::parse("tail").unwrap();
        Some(Legion { follower, valors, quorum, preempt, preempt_delay, spoke: BTreeMap::new() })
    }

    /// Whether no host has a higher valor, this one left out.
    pub(crate) fn is_best(&self, host: usize, but: Option<usize>) -> bool {
        let others = self.valors.iter().enumerate().filter(|(other, _)| Some(*other) != but);
        Some(host) != but && others.map(|(_, valor)| valor).all(|valor| *valor <= self.valors[host])
    }

    /// How many hosts have been heard within `time`.
    pub(crate) fn live(&self, now: Instant, time: Duration) -> u32 {
        let lives = |spoke: &&Instant| **spoke + time.as_nanos() as u64 >= now;
        u32::try_from(self.spoke.values().filter(lives).count()).unwrap()
    }

    /// The leader's settings on a host, made of those of a plain singleton, and the follower's.
    pub(crate) fn specs(&self, host: usize, plain: &mut WatcherSpec) -> WatcherSpec {
        plain.election = Some(ElectionSpec {
            valor: self.valors[host],
            quorum: self.quorum,
            expected: None,
            preempt: self.preempt,
            preempt_delay: self.preempt_delay,
            scroll: format!("host {host}"),
        });
        plain.legion = Some(LegionSpec::default());
        WatcherSpec {
            graceful_timeout: plain.graceful_timeout,
            follows: Some(plain.name.clone()),
            ..specs::watcher(self.follower.as_str())
        }
    }
}

impl World {
    /// Which lease a watcher runs under.
    pub(crate) fn lease_of(&self, watcher: &WatcherName) -> WatcherName {
        match &self.legion {
            Some(legion) if legion.follower == *watcher => self.watchers[0].clone(),
            _ if self.jobs.as_ref().is_some_and(|jobs| jobs.follows(watcher)) => self.watchers[0].clone(),
            _ => watcher.clone(),
        }
    }

    /// All that is to run somewhere, at all times.
    pub(crate) fn wanted(&self) -> Vec<WatcherName> {
        let singletons = self.watchers.iter().filter(|watcher| !self.is_job(watcher)).cloned();
        singletons.chain(self.legion.as_ref().map(|legion| legion.follower.clone())).collect()
    }

    /// An agent says how it stands in an election, and asks who else does.
    pub(crate) fn muster(&mut self, host: usize, watcher: WatcherName, said_now: election::Word) {
        let election::Word { sent, node, membership, timeout } = said_now;
        let groups: Vec<usize> = match self.store.shape {
            Shape::Majority => (0..self.store.groups.len()).collect(),
            Shape::Standalone | Shape::Cluster => vec![self.hosts[host].homes[&watcher]],
        };
        let said = vec![None; groups.len()];
        let life = self.hosts[host].life;
        let word = self.words.len();
        self.words.push(Word { host, life, watcher, node, sent, membership, groups, said, told: false });
        for seat in 0..self.words[word].groups.len() {
            let group = self.words[word].groups[seat];
            let server = self.hosts[host].masters[group];
            self.send_word(word, seat, server, false);
        }
        self.after(timeout, What::On(host, OnHost::Count { word }));
    }

    fn send_word(&mut self, word: usize, seat: usize, server: usize, taken_back: bool) {
        let host = self.words[word].host;
        let arrives = What::Said { word, seat, server, taken_back };
        self.set_out(host, server, arrives);
    }

    /// A word has reached a server.
    pub(crate) fn said(&mut self, word: usize, seat: usize, server: usize, taken_back: bool) {
        let Word { host, watcher, node, sent, membership, told, .. } = &self.words[word];
        let (host, watcher, node, sent, told) = (*host, watcher.clone(), node.clone(), *sent, *told);
        let membership = membership.clone().filter(|_| !taken_back);
        match self.store.servers[server].state {
            State::Frozen => {
                let later = self.timings.ttl / 10;
                return self.after(later, What::Said { word, seat, server, taken_back });
            }
            State::Down => return self.say_back(word, seat, server, Err("connection refused".into())),
            State::Up => {}
        }
        if self.has_moved(&watcher, server) {
            if !told {
                let master = self.follows_move(host, &watcher);
                self.send_word(word, seat, master, taken_back);
            }
            return;
        }
        let instance = match self.flaw {
            Some(Flaw::AnotherByName) => node.as_str().bytes().fold(0, |all, byte| all << 8 | u128::from(byte)),
            _ => host as u128,
        };
        let call = muster::call(&self.lease(&watcher), (&node, instance), sent, membership.as_ref());
        let date = self.store.date(server, self.now);
        let answer = self.store.servers[server].redis.eval(date, &call).and_then(|words| muster::answer(&words));
        self.trace(host, || format!("server {server} hears {membership:?} of {watcher} and says {answer:?}"));
        // A planted bug has a replica answer as if it were asked of a lease.
        let expected = |reason: &str| {
            reason.starts_with("REPLICA") || reason.contains("READONLY") || reason.contains(r#"nonsense: ["lost""#)
        };
        assert!(!matches!(&answer, Err(reason) if !expected(reason)), "the script failed: {answer:?}");
        if let Some(legion) = self.legion.as_mut().filter(|_| answer.is_ok() && membership.is_some()) {
            legion.spoke.insert(host, self.now);
        }
        self.store.changed(server, self.now, self.timings.ttl);
        for (channel, message) in self.store.servers[server].redis.take_published() {
            self.announce(server, &channel, &message);
        }
        if !taken_back {
            self.say_back(word, seat, server, answer);
        }
    }

    fn say_back(&mut self, word: usize, seat: usize, server: usize, answer: Result<Register, String>) {
        let host = self.words[word].host;
        if self.reaches(host, server) {
            let delay = self.wander(self.hosts[host].link.back);
            self.after(delay, What::On(host, OnHost::Heard { word, seat, answer }));
        }
    }

    /// A server's answer to a word is back.
    pub(crate) fn heard(&mut self, word: usize, seat: usize, answer: Result<Register, String>) {
        let Word { host, said, told, .. } = &mut self.words[word];
        if *told {
            return;
        }
        said[seat] = Some(answer);
        let (host, open) = (*host, said.iter().filter(|said| said.is_none()).count());
        let most = is_most(said.iter().flatten().filter(|said| said.is_ok()).count(), said.len());
        if open == 0 {
            self.count(word);
        } else if most {
            // The others may take a moment longer.
            self.after(Duration::from_millis(50), What::On(host, OnHost::Count { word }));
        }
    }

    /// The adapter counts what has come back.
    pub(crate) fn count(&mut self, word: usize) {
        let Word { host, life, watcher, sent, membership, said, told, .. } = &mut self.words[word];
        let (host, life, watcher, sent) = (*host, *life, watcher.clone(), *sent);
        if std::mem::replace(told, true) || self.hosts[host].life != life {
            return;
        }
        let says = membership.is_some();
        let silent = || Err("no answer in time".to_owned());
        let said: Vec<_> = said.iter_mut().map(|said| said.take().unwrap_or_else(silent)).collect();
        let heard: Vec<usize> = (0..said.len()).filter(|seat| said[*seat].is_ok()).collect();
        if says && !is_most(heard.len(), said.len()) {
            for seat in heard {
                let server = self.hosts[host].masters[self.words[word].groups[seat]];
                self.send_word(word, seat, server, true);
            }
        }
        if self.flaw == Some(Flaw::NoAttendance) {
            self.hosts[host].attendance.clear();
        }
        let attendance: &mut Attendance = self.hosts[host].attendance.entry(watcher.clone()).or_default();
        let result = attendance.call(sent, said);
        self.look_for_doubles(host, &result);
        self.tell(host, Event::Mustered { watcher, sent, result });
    }

    /// By its scroll each member tells which host it is, whatever it is called.
    fn look_for_doubles(&mut self, host: usize, result: &Result<Muster, String>) {
        let Ok(muster) = result else { return };
        let scrolls: BTreeSet<&str> = muster.members.iter().map(|member| member.membership.scroll.as_str()).collect();
        if scrolls.len() < muster.members.len() {
            let how = format!("to host {host} {} hosts are {} members", scrolls.len(), muster.members.len());
            self.witness.holds_against(self.now, Promise::CountedOnce, &how);
        }
    }

    /// Whom a word on a lease's channel is about.
    pub(crate) fn changed(&self, channel: &str, message: &str) -> Option<(WatcherName, NodeName)> {
        let is_its = |watcher: &&WatcherName| LeaseName::changed_channel(&self.lease(watcher)) == channel;
        let (node, _) = message.split_once(' ')?;
        Some((self.watchers.iter().find(is_its)?.clone(), NodeName::parse(node).ok()?))
    }

    /// All but one too few for a quorum are cut off, for longer than that may go unnoticed.
    pub(crate) fn most_are_away(&mut self) {
        let Some(quorum) = self.legion.as_ref().map(|legion| legion.quorum as usize) else { return };
        let first = self.random.number() as usize;
        for i in quorum - 1..self.hosts.len() {
            let host = (first % self.hosts.len() + i) % self.hosts.len();
            self.trace(host, || "FAULT it is away, with most".into());
            self.hosts[host].away = true;
        }
        self.after(self.quorum_grace() + 4 * self.timings.ttl, What::MostAreBack);
    }

    /// They are back.
    pub(crate) fn most_are_back(&mut self) {
        self.look_for_a_quorum(false);
        for host in 0..self.hosts.len() {
            if std::mem::take(&mut self.hosts[host].away) {
                self.store_up(host);
            }
        }
    }

    /// How long a lord may go on, or begin, though too few live: until the last that was heard of them has lapsed, that is
    /// noticed, and it has parted in good order.
    pub(crate) fn quorum_grace(&self) -> Duration {
        let ttl = self.timings.ttl;
        // A clock that was set back may make it twice as long.
        let lapses = if self.store.dates_jump { 2 * ttl } else { ttl };
        let hooks = if self.hooked { 3 * self.hook_timeout() } else { Duration::ZERO };
        lapses + ttl + self.graceful + self.graceful + hooks + Duration::from_nanos(SEC)
    }
}
