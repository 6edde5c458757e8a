//! The servers that keep the leases, in one of several shapes. They run the product's own scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::cluster::scripts;
use circus_agent::model::event::{Ask, AskKind, LeaseAnswer};
use circus_agent::model::names::{ClusterName, LeaseName, WatcherName};
use circus_agent::model::random::Random;
use circus_agent::model::spec::LeaseTimings;

use crate::jobs::EPOCH;
use crate::network::{PutId, Question};
use crate::plants::Flaw;
use crate::queue::{Instant, MS, OnHost, What};
use crate::simulated_redis::{Rewrite, SimulatedRedis, Snapshot};
use crate::world::World;

/// How the servers stand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One master, perhaps with replicas.
    Standalone,
    /// Several masters, each with a replica. Each lease is in a slot of one of them.
    Cluster,
    /// Independent masters without replicas, of which most have to agree.
    Majority,
}

impl Shape {
    const ALL: [Shape; 3] = [Shape::Standalone, Shape::Cluster, Shape::Majority];

    /// The shape of a seed's world: they take turns.
    pub(crate) fn of(seed: u64) -> Shape {
        Shape::ALL[(seed % Shape::ALL.len() as u64) as usize]
    }
}

/// All servers.
pub(crate) struct Store {
    pub(crate) shape: Shape,
    pub(crate) servers: Vec<Server>,
    /// Those that hold the same data.
    pub(crate) groups: Vec<Group>,
    /// The group whose servers have a lease.
    pub(crate) homes: BTreeMap<WatcherName, usize>,
    /// Whether a grant counts only once a replica has it.
    pub(crate) needs_ack: bool,
    /// Whether the servers' wall clocks disagree by hours and are set back. Then nothing is lost with a server: tokens
    /// grow over a loss of data because wall clocks do.
    pub(crate) dates_jump: bool,
}

/// A master and its replicas.
pub(crate) struct Group {
    pub(crate) master: usize,
    pub(crate) members: Vec<usize>,
}

/// One server.
pub(crate) struct Server {
    pub(crate) redis: SimulatedRedis,
    pub(crate) group: usize,
    pub(crate) state: State,
    /// What reached it while it was frozen.
    held_back: Vec<(usize, Vec<(PutId, Ask)>)>,
    /// Its snapshot file.
    pub(crate) saved: Snapshot,
    /// How far behind its master it is as a replica, and since when it has heard nothing more.
    lag: Duration,
    pub(crate) deaf_since: Option<Instant>,
    /// What it had when, for its replicas; and how often these were taken from it.
    log: Vec<(Instant, Snapshot)>,
    pub(crate) links: u64,
    /// How fast its clock runs, and what its date is ahead of others', in ms.
    rate: f64,
    pub(crate) ahead: i64,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum State {
    Up,
    Down,
    Frozen,
}

/// What a server has when it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// It was only frozen.
    Untouched,
    /// All of it, in a new process.
    Kept,
    /// Some of it: what a snapshot file had at the time of the fault before.
    Old,
    /// None.
    Lost,
}

impl Store {
    /// Servers of this shape, the rest drawn from the seed.
    pub(crate) fn new(
        shape: Shape,
        watchers: &[WatcherName],
        timings: LeaseTimings,
        rewrite: Rewrite,
        random: &mut Random,
    ) -> Store {
        let (groups, replicas) = match shape {
            Shape::Standalone => (1, (random.number() % 3) as usize),
            Shape::Cluster => (3, 1),
            Shape::Majority => ([3, 5][(random.number() % 2) as usize], 0),
        };
        let needs_ack = replicas > 0 && random.fraction() < 0.5;
        let dates_jump = random.fraction() < 0.3;
        // One that is too far behind acknowledges nothing in time.
        let furthest = if needs_ack { 0.03 } else { 0.6 };
        let mut store =
            Store { shape, servers: Vec::new(), groups: Vec::new(), homes: BTreeMap::new(), needs_ack, dates_jump };
        for group in 0..groups {
            let master = store.servers.len();
            let members: Vec<usize> = (master..=master + replicas).collect();
            for &member in &members {
                let lag = if dates_jump { Duration::ZERO } else { random.below(timings.ttl.mul_f64(furthest)) };
                let hours = if dates_jump { (random.fraction() * 6.0 - 3.0) * 3_600_000.0 } else { 0.0 };
                store.servers.push(Server {
                    redis: SimulatedRedis::new(member as u64 + 1, rewrite),
                    group,
                    state: State::Up,
                    held_back: Vec::new(),
                    saved: Snapshot::default(),
                    lag,
                    deaf_since: None,
                    log: vec![(0, Snapshot::default())],
                    links: 0,
                    // Within the 1 % that the margin allows for, of a host's clock and a server's together.
                    rate: 1.0 + 0.004 * (2.0 * random.fraction() - 1.0),
                    ahead: hours as i64,
                });
                if member != master {
                    store.servers[member].redis.follow(true);
                }
            }
            store.groups.push(Group { master, members });
        }
        for watcher in watchers {
            store.homes.insert(watcher.clone(), (random.number() % groups as u64) as usize);
        }
        store
    }

    /// Whether this server is its group's master, in everybody's eyes.
    pub(crate) fn is_master(&self, server: usize) -> bool {
        self.groups[self.servers[server].group].master == server
    }

    /// The master that has this lease.
    pub(crate) fn master_of(&self, watcher: &WatcherName) -> usize {
        self.groups[self.homes[watcher]].master
    }

    /// The replicas that hear what happens on this server.
    fn followers(&self, server: usize) -> impl Iterator<Item = &Server> {
        let members = self.groups[self.servers[server].group].members.iter();
        let hears =
            |server: &&Server| server.redis.is_replica() && server.deaf_since.is_none() && server.state == State::Up;
        let is_master = self.is_master(server);
        members.map(|&member| &self.servers[member]).filter(move |server| is_master && hears(server))
    }

    /// How long it takes until one of them has it.
    pub(crate) fn follower_lag(&self, server: usize) -> Option<Duration> {
        self.followers(server).map(|replica| replica.lag).min()
    }

    /// What has got from a group's master to this replica by now.
    fn received(&self, replica: usize, now: Instant) -> Snapshot {
        let Server { lag, deaf_since, group, .. } = &self.servers[replica];
        let heard = deaf_since.unwrap_or(now).saturating_sub(lag.as_nanos() as u64);
        let log = &self.servers[self.groups[*group].master].log;
        let last = log.iter().rfind(|(at, _)| *at <= heard).unwrap_or(&log[0]);
        last.1.clone()
    }

    /// Something on this server changed: its replicas will hear of it.
    pub(crate) fn changed(&mut self, server: usize, now: Instant, ttl: Duration) {
        let group = &self.groups[self.servers[server].group];
        if group.members.len() > 1 {
            let Server { redis, log, .. } = &mut self.servers[server];
            // No replica is further behind than a ttl.
            let old = log.iter().take_while(|(at, _)| at + (ttl.as_nanos() as u64) < now).count();
            log.drain(..old.saturating_sub(1));
            log.push((now, redis.snapshot()));
        }
    }

    /// Nobody follows this server any more.
    pub(crate) fn part(&mut self, server: usize, now: Instant) {
        self.servers[server].links += 1;
        if self.is_master(server) {
            for &member in &self.groups[self.servers[server].group].members {
                self.servers[member].deaf_since.get_or_insert(now);
            }
        }
    }

    /// A replica takes its master's place, with what it has. The others follow it, but for the old master.
    pub(crate) fn promote(&mut self, replica: usize, now: Instant) {
        let had = self.received(replica, now);
        let group = self.servers[replica].group;
        self.part(self.groups[group].master, now);
        let server = &mut self.servers[replica];
        server.redis.load(&had);
        server.redis.follow(false);
        server.log = vec![(now, had)];
        self.groups[group].master = replica;
        for &member in &self.groups[group].members {
            let alone = member != replica && !self.servers[member].redis.is_replica();
            self.servers[member].deaf_since = alone.then_some(now);
        }
    }

    /// A server follows its group's master, and has what that one has, unless it is cut off.
    pub(crate) fn follow(&mut self, server: usize) {
        let cut_off = self.servers[self.groups[self.servers[server].group].master].deaf_since;
        let is_master = self.is_master(server);
        let Server { redis, deaf_since, .. } = &mut self.servers[server];
        *deaf_since = if is_master { None } else { cut_off.and(deaf_since.or(cut_off)) };
        if !is_master && !redis.is_replica() {
            redis.follow(true);
        }
    }

    /// A master is back with its replicas.
    pub(crate) fn reunite(&mut self, group: usize) {
        self.follow(self.groups[group].master);
        for member in self.groups[group].members.clone() {
            if self.servers[member].redis.is_replica() {
                self.follow(member);
            }
        }
    }

    /// Whether a replica can take its master's place. Where nothing is to be lost it must have heard all.
    fn is_fit(&self, replica: usize, master: usize) -> bool {
        let [replica, master] = [&self.servers[replica], &self.servers[master]];
        let heard_all = replica.redis.is_replica() && replica.deaf_since == master.deaf_since;
        replica.state == State::Up && (heard_all || !self.dates_jump)
    }

    /// What a server's wall clock shows, in ms: some date, so that tokens are what they are in earnest.
    pub(crate) fn date(&self, server: usize, now: Instant) -> u64 {
        let Server { rate, ahead, .. } = self.servers[server];
        (EPOCH * 1_000).saturating_add_signed(ahead) + (now as f64 * rate) as u64 / MS
    }
}

impl World {
    /// The full name of a singleton's lease.
    pub(crate) fn lease(&self, watcher: &WatcherName) -> LeaseName {
        let watcher = if self.flaw == Some(Flaw::OneLeaseForAll) { &self.watchers[0] } else { watcher };
        LeaseName { cluster: ClusterName::parse("test").unwrap(), watcher: watcher.clone(), key: None }
    }

    /// Questions of a host have reached a server.
    pub(crate) fn arrive(&mut self, host: usize, server: usize, puts: Vec<(PutId, Ask)>) {
        match self.store.servers[server].state {
            State::Frozen => self.store.servers[server].held_back.push((host, puts)),
            State::Down => {
                let refused = |(put, _)| (put, LeaseAnswer::Failed { reason: "connection refused".into() });
                self.send_back(host, server, puts.into_iter().map(refused).collect());
            }
            State::Up if puts.iter().any(|(put, _)| self.has_moved(&self.questions[put.question].watcher, server)) => {
                let (put, _) = puts[0];
                if self.waits_for(put) {
                    let watcher = self.questions[put.question].watcher.clone();
                    let master = self.follows_move(host, &watcher);
                    self.send(host, master, puts);
                }
            }
            State::Up => self.serve(host, server, &puts),
        }
    }

    /// Whether a server of a cluster says `MOVED` when it is asked of a lease.
    pub(crate) fn has_moved(&self, lease: &WatcherName, server: usize) -> bool {
        let Server { group, redis, .. } = &self.store.servers[server];
        self.store.shape == Shape::Cluster && (redis.is_replica() || self.store.homes[lease] != *group)
    }

    /// A host's adapter goes to where a lease is now, as long as it waits for the answer: which server that is.
    pub(crate) fn follows_move(&mut self, host: usize, lease: &WatcherName) -> usize {
        let (home, master) = (self.store.homes[lease], self.store.master_of(lease));
        self.hosts[host].homes.insert(lease.clone(), home);
        self.hosts[host].masters[home] = master;
        master
    }

    fn serve(&mut self, host: usize, server: usize, puts: &[(PutId, Ask)]) {
        if self.store.servers[server].redis.is_replica() {
            let had = self.store.received(server, self.now);
            self.store.servers[server].redis.load(&had);
        }
        let answers = self.evaluate(server, puts);
        let releases = |(put, ask): &(PutId, Ask)| matches!(ask.kind, AskKind::Release { .. }).then_some(put.question);
        if let Some(question) = puts.iter().find_map(releases) {
            self.released(server, question);
        }
        self.store.changed(server, self.now, self.timings.ttl);
        for (channel, message) in self.store.servers[server].redis.take_published() {
            self.announce(server, &channel, &message);
        }
        let grants =
            |(_, answer): &(PutId, LeaseAnswer)| matches!(answer, LeaseAnswer::Granted { .. } | LeaseAnswer::Released);
        if !self.store.needs_ack || !answers.iter().any(grants) || self.flaw == Some(Flaw::AckIgnored) {
            return self.send_back(host, server, answers);
        }
        // What no replica acknowledges is not answered: the adapter's patience ends before WAIT's.
        if let Some(lag) = self.store.follower_lag(server) {
            let links = self.store.servers[server].links;
            self.after(lag, What::Acknowledged { host, server, links, answers });
        }
    }

    /// A release is where much can be lost: now and then the server fails right after it, and it is asked for again.
    fn released(&mut self, server: usize, question: usize) {
        if self.flaw == Some(Flaw::FreesNeighbour) {
            self.free_neighbour(server, question);
        }
        if !self.at_peace() && self.random.fraction() < 0.1 {
            let (fails, again) = (self.pause(0.05), self.pause(0.3));
            self.after(fails, What::Promote { group: self.store.servers[server].group });
            self.after(again, What::AskAnew(question));
        }
    }

    /// What the scripts say. Refreshes that came together are one call.
    fn evaluate(&mut self, server: usize, puts: &[(PutId, Ask)]) -> Vec<(PutId, LeaseAnswer)> {
        let mut leases: Vec<LeaseName> =
            puts.iter().map(|(put, _)| self.lease(&self.questions[put.question].watcher)).collect();
        if self.flaw == Some(Flaw::LeasesMixedUp) {
            leases.reverse();
        }
        let together = scripts::refresh_call(leases.iter().zip(puts.iter().map(|(_, ask)| ask)));
        let call = together.unwrap_or_else(|| scripts::call(&leases[0], &puts[0].1));
        let date = self.store.date(server, self.now);
        let said = self.store.servers[server].redis.eval(date, &call);
        let mut answers = Vec::with_capacity(puts.len());
        for (i, (put, ask)) in puts.iter().enumerate() {
            let answer = match &said {
                Ok(words) if matches!(ask.kind, AskKind::Refresh { .. }) => {
                    scripts::answer(words.chunks(scripts::ANSWER_LEN).nth(i).unwrap_or_default())
                }
                Ok(words) => scripts::answer(words),
                Err(reason) => LeaseAnswer::Failed { reason: reason.clone() },
            };
            let Question { host, watcher, .. } = &self.questions[put.question];
            self.trace(*host, || format!("server {server} answers {watcher} {ask:?} with {answer:?}"));
            let expected = |reason: &str| reason.starts_with("REPLICA") || reason.contains("READONLY");
            assert!(
                !matches!(&answer, LeaseAnswer::Failed { reason } if !expected(reason)),
                "a script failed: {answer:?}"
            );
            answers.push((*put, answer));
        }
        answers
    }

    /// Replicas have what a server answered, if none was taken from it in between.
    pub(crate) fn acknowledged(&mut self, host: usize, server: usize, links: u64, answers: Vec<(PutId, LeaseAnswer)>) {
        if self.store.servers[server].links == links {
            self.send_back(host, server, answers);
        }
    }

    /// A server is gone, or stands still, for a while.
    pub(crate) fn stop_server(&mut self, server: usize, state: State, data: Data, pause: Duration) {
        if self.store.servers[server].state == State::Up {
            self.store.servers[server].state = state;
            if state == State::Down {
                self.store.part(server, self.now);
                // Its connections go with it.
                self.hosts.iter_mut().for_each(|host| host.lost.retain(|(to, _)| *to != server));
            }
            self.after(pause, What::ServerBack { server, data });
        }
    }

    /// It is back.
    pub(crate) fn server_back(&mut self, server: usize, data: Data) {
        if self.store.servers[server].state == State::Up {
            return;
        }
        let Server { redis, state, saved, .. } = &mut self.store.servers[server];
        *state = State::Up;
        match data {
            Data::Untouched => {}
            Data::Kept => redis.restart(true),
            Data::Old => redis.restore(saved),
            Data::Lost => redis.restart(false),
        }
        self.store.changed(server, self.now, self.timings.ttl);
        self.recount_claims(self.store.servers[server].group);
        self.recount_pauses();
        // A master that comes back is found by its replicas; one that is none any more is told so, in time.
        if self.store.is_master(server) {
            self.store.reunite(self.store.servers[server].group);
        } else if self.store.needs_ack && !self.store.servers[server].redis.is_replica() {
            let pause = self.pause(2.0);
            self.after(pause, What::Demote { server });
        } else {
            self.store.follow(server);
        }
        for (host, puts) in std::mem::take(&mut self.store.servers[server].held_back) {
            self.arrive(host, server, puts);
        }
        (0..self.hosts.len()).for_each(|host| self.store_up(host));
    }

    /// A replica takes its master's place, and hosts hear of it one by one.
    pub(crate) fn fail_over(&mut self, group: usize) {
        let Group { master, members } = &self.store.groups[group];
        let fit = |&&member: &&usize| member != *master && self.store.is_fit(member, *master);
        let fit: Vec<usize> = members.iter().filter(fit).copied().collect();
        if fit.is_empty() {
            if self.store.servers[*master].state == State::Up {
                self.store.reunite(group);
            }
            return;
        }
        let next = fit[(self.random.number() % fit.len() as u64) as usize];
        let old = *master;
        self.trace(0, || format!("server {next} takes the place of {old}"));
        self.store.promote(next, self.now);
        self.recount_pauses();
        // What the only replica had to acknowledge it has.
        if !self.store.needs_ack || self.store.groups[group].members.len() > 2 {
            self.recount_claims(group);
        }
        // Where no replica has to acknowledge, an old master that went on would be a [hazard](../../docs/guarantees.md).
        if self.store.needs_ack {
            let pause = self.pause(3.0);
            self.after(pause, What::Demote { server: old });
        } else if self.store.servers[old].state == State::Up {
            self.store.follow(old);
        }
        for host in 0..self.hosts.len() {
            // Some go on asking the old one for a while.
            let late = !self.at_peace() && self.random.fraction() < 0.3;
            let delay = if late { self.pause(3.0) } else { self.pause(0.15) };
            self.after(delay, What::On(host, OnHost::Learn { group }));
        }
    }

    /// A lease's slot goes to another group, keys and all.
    pub(crate) fn move_slot(&mut self, watcher: &WatcherName, to: usize) {
        let (old, new) = (self.store.master_of(watcher), self.store.groups[to].master);
        let whole = |server: usize| {
            let Server { state, deaf_since, .. } = &self.store.servers[server];
            *state == State::Up && deaf_since.is_none()
        };
        if old == new || !whole(old) || !whole(new) {
            return;
        }
        let lease = self.lease(watcher);
        let ahead = self.store.date(new, self.now) as i64 - self.store.date(old, self.now) as i64;
        let [from, into] = self.store.servers.get_disjoint_mut([old, new]).expect("two servers");
        let keys = [lease.lease_key(), lease.meta_key(), lease.members_key(), lease.slots_key()];
        from.redis.migrate(&keys, &mut into.redis, ahead);
        let from = self.store.homes.insert(watcher.clone(), to).expect("it had a home");
        self.claims_move(watcher, from, to);
        for server in [old, new] {
            self.store.changed(server, self.now, self.timings.ttl);
        }
    }

    /// What a store that mixes leases up does at a release: the others of the server are free, too.
    fn free_neighbour(&mut self, server: usize, question: usize) {
        let released = &self.questions[question].watcher;
        for other in self.watchers.iter().filter(|other| *other != released) {
            let lease = self.lease(other);
            let redis = &mut self.store.servers[server].redis;
            redis.delete(&lease.lease_key());
            redis.set_field(&lease.meta_key(), "state", "free");
        }
    }
}
