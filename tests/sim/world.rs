//! Several hosts, the servers of their leases, a network between them, and everything that can go wrong: driven by a
//! seed.
//!
//! The agents are the product's own [`Node`](circus_agent::model::node::Node)s and the servers run the product's own
//! scripts. Simulated are only what stands between them: clocks, messages, processes and guards. The world obeys a
//! queue of true time; each host and each server has its own clock, which runs a little fast or slow.
//!
//! A [`Witness`] outside sees the children themselves and nothing of what anybody believes.

use std::time::Duration;

use circus_agent::model::command::Command;
use circus_agent::model::lease::RESERVATION;
use circus_agent::model::names::WatcherName;
use circus_agent::model::random::Random;
use circus_agent::model::spec::LeaseTimings;

use crate::host::Host;
use crate::jobs::{Asked, Jobs};
use crate::members::{Legion, Word};
use crate::network::{Link, Question};
use crate::pauses::Pauses;
use crate::plants::{Bug, Flaw, Plant};
use crate::queue::{Instant, OnHost, Queue, SEC, What};
use crate::store::{Shape, Store};
use crate::witness::{Promise, Report, Witness};

/// How many ttls a storm lasts, and how many small things go wrong after it.
const STORM: u32 = 60;
const RIPPLES: u32 = 12;

/// The whole.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: Instant,
    pub(crate) random: Random,
    queue: Queue,
    pub(crate) hosts: Vec<Host>,
    pub(crate) store: Store,
    /// All questions that were ever asked.
    pub(crate) questions: Vec<Question>,
    /// All that nodes ever said of themselves.
    pub(crate) words: Vec<Word>,
    /// All slots that nodes ever claimed.
    pub(crate) claims: Vec<Asked>,
    /// What the first singleton is, where its holder is elected.
    pub(crate) legion: Option<Legion>,
    /// What runs at times, where something does.
    pub(crate) jobs: Option<Jobs>,
    /// Where people pause and resume leases.
    pub(crate) pauses: Option<Pauses>,
    /// The singletons, and what they have in common. The last runs at times, where something does.
    pub(crate) watchers: Vec<WatcherName>,
    pub(crate) timings: LeaseTimings,
    pub(crate) graceful: Duration,
    /// Whether they have hooks, which may be slow, hang, fail and say no.
    pub(crate) hooked: bool,
    /// Whether their children have to say that they are ready.
    pub(crate) says_ready: bool,
    /// Whether the first one's child has a socket, which may be slow to open, or not to be had.
    pub(crate) serves: bool,
    /// Whether a child has crashed: then its node may stand back for a while.
    pub(crate) crashes: bool,
    /// Whether people have moved a singleton.
    pub(crate) moved: bool,
    pub(crate) requests: u64,
    pub(crate) faults_end: Instant,
    /// All has become well, and a leader ends in good order only.
    pub(crate) settled: bool,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) witness: Witness,
    pub(crate) steps: u64,
    traced: bool,
}

impl World {
    /// A world that this seed makes.
    pub(crate) fn new(seed: u64, plant: Option<&Plant>) -> World {
        let mut random = Random::from_number(seed);
        let (rewrite, flaw) = match plant.map(|plant| plant.bug) {
            Some(Bug::Script(rewrite)) => (rewrite, None),
            Some(Bug::Flaw(flaw)) => (&[][..], Some(flaw)),
            None => (&[][..], None),
        };
        let ttl = Duration::from_millis([600, 1_500, 3_000, 15_000][(random.number() % 4) as usize]);
        let timings = LeaseTimings::thirds(ttl);
        let hosts = 2 + (random.number() % 4) as usize;
        let watchers = &["beat", "clock", "mail"][..1 + (random.number() % 3) as usize];
        let mut watchers: Vec<_> = watchers.iter().map(|name| WatcherName::parse(name).unwrap()).collect();
        let legion = Legion::of(seed, plant, hosts, ttl);
        let jobs = Jobs::of(seed, plant, legion.is_some(), ttl);
        watchers.extend(jobs.as_ref().map(|jobs| jobs.alone.clone()));
        let store = Store::new(Shape::of(seed), &watchers, timings, rewrite, &mut random);
        let rate = |random: &mut Random| 1.0 + 0.004 * (2.0 * random.fraction() - 1.0);
        let mut hosts: Vec<Host> = (0..hosts).map(|i| Host::new(i, rate(&mut random))).collect();
        for host in &mut hosts {
            host.masters = store.groups.iter().map(|group| group.master).collect();
            host.homes = store.homes.clone();
        }
        let graceful = ttl.mul_f64(0.2 + random.fraction());
        let (hooked, says_ready, serves) = (random.fraction() < 0.5, random.fraction() < 0.3, random.fraction() < 0.3);
        let mut world = World {
            seed,
            now: 0,
            random,
            queue: Queue::default(),
            hosts,
            store,
            questions: Vec::new(),
            words: Vec::new(),
            claims: Vec::new(),
            legion,
            jobs,
            pauses: Pauses::of(seed, plant),
            watchers,
            timings,
            graceful,
            hooked,
            says_ready,
            serves,
            // One that never says that it is ready counts as one that crashes.
            crashes: says_ready,
            requests: 0,
            faults_end: 0,
            settled: false,
            moved: false,
            flaw,
            witness: Witness::default(),
            steps: 0,
            traced: std::env::var_os("CIRCUS_TRACE").is_some(),
        };
        for host in 0..world.hosts.len() {
            let delay = world.random.below(ttl);
            world.after(delay, What::On(host, OnHost::Boot));
        }
        world
    }

    /// Lives through a storm, then in peace until the promise of "soon one again" is due, and then sees to it that
    /// small things move nothing.
    pub(crate) fn run(mut self) -> Report {
        let ttl = self.timings.ttl.as_nanos() as u64;
        self.faults_end = self.now + ttl * u64::from(STORM);
        self.at(ttl, What::Fault);
        self.at(ttl, What::SomebodyPauses);
        if self.legion.is_some() {
            self.at(u64::from(STORM) / 3 * ttl, What::MostAreAway);
        }
        self.live_until(self.faults_end);
        self.make_peace();
        self.live_until(self.now + self.soon());
        self.expect_all(Promise::SoonOne, "though all is well");
        self.settled = true;
        self.expect_the_best();
        self.settled = false;
        // Nothing at first: then it stays so.
        let (before, mut what) = (self.witness.started, "though all is well".to_owned());
        // Long enough for some slots once all has settled.
        let (settles, lasts) = self.jobs.as_ref().map_or_else(Default::default, Jobs::ending);
        let from = self.now + settles.as_nanos() as u64;
        let ripples = RIPPLES.max(lasts.div_duration_f64(self.timings.ttl) as u32);
        for ripple in 0..ripples {
            let pause = if ripple == 0 { 3 * ttl } else { ttl + self.pause(0.5).as_nanos() as u64 };
            self.live_until(self.now + pause);
            self.witness.expects_no_more(self.now, before, &what);
            self.expect_all(Promise::Undisturbed, &what);
            what = format!("on {}", self.ripple());
        }
        self.expect_each_slot(from);
        self.expect_a_pause();
        Report {
            steps: self.steps,
            children: self.witness.started,
            runs: self.witness.runs,
            broken: self.witness.broken,
        }
    }

    /// How soon after all faults one has to run: one ttl for the lease, one second for everything else, and the time
    /// that a stop under way may take.
    pub(crate) fn soon(&self) -> Instant {
        let ttl = self.timings.ttl.as_nanos() as u64;
        // A node that had its child crash stands back before it tries again.
        let back = if self.crashes { 2 * ttl.clamp(SEC, 30 * SEC) + ttl } else { 0 };
        // Hooks that hang take all of their time: before a stop, around its signal, and after it; and so does a child
        // that never says that it is ready.
        let back = back + if self.hooked { 4 * self.hook_timeout().as_nanos() as u64 } else { 0 };
        let back = back + if self.says_ready { ttl } else { 0 };
        // A socket that was ordered before may be late, and its node end because of it, and be back later.
        let back = back + if self.serves { 2 * ttl } else { 0 };
        // What follows a legion is stopped before its leader is, and both when a better one has stood there for the delay.
        let moves = |legion: &Legion| (legion.preempt_delay + self.graceful).as_nanos() as u64;
        let back = back + self.legion.as_ref().map_or(0, moves);
        ttl + ttl / 50 + SEC + self.graceful.as_nanos() as u64 + back
    }

    fn expect_all(&mut self, promise: Promise, what: &str) {
        for watcher in self.wanted() {
            self.witness.expects(self.now, &watcher, promise, what);
        }
    }

    /// In a legion, where all live by now, the best leads after a move at most; and when people have moved it away from
    /// there, the best of the others.
    fn expect_the_best(&mut self) {
        if self.legion.is_none() {
            return;
        }
        // Where people have moved it, it stays until it ends there.
        let leads = self.witness.runs_on(&self.watchers[0]);
        if let Some(host) = leads.filter(|_| self.moved) {
            self.command(host, |patience| Command::Stop { pattern: None, patience });
            self.live_until(self.now + self.soon());
            self.command(host, |patience| Command::Start { pattern: None, patience });
        }
        self.live_until(self.now + 2 * self.soon());
        self.expect_that_the_best_leads(None, "though all is well");
        let leads = self.witness.runs_on(&self.watchers[0]);
        if let Some(host) = leads {
            self.move_away_from(host);
        }
        // Who was moved from stands back for as long as a lease is kept for its successor.
        self.live_until(self.now + 2 * (self.soon() + RESERVATION.as_nanos() as u64));
        self.expect_that_the_best_leads(leads, "after a move");
    }

    /// Of all but one, which people have moved it away from.
    fn expect_that_the_best_leads(&mut self, but: Option<usize>, what: &str) {
        self.expect_all(Promise::SoonOne, what);
        let Some(legion) = &self.legion else { return };
        let leads = self.witness.runs_on(&self.watchers[0]);
        if legion.preempt && !leads.is_some_and(|host| legion.is_best(host, but)) {
            let how = format!("host {leads:?} leads, and is not the best, {what}");
            self.witness.holds_against(self.now, Promise::Best, &how);
        }
    }

    /// Too few members live for anybody to lead the legion; or one just `begins` to.
    pub(crate) fn look_for_a_quorum(&mut self, begins: bool) {
        let Some(legion) = &self.legion else { return };
        let live = legion.live(self.now, self.quorum_grace());
        let (needed, leads) = (legion.quorum, self.witness.runs_on(&self.watchers[0]));
        if let Some(host) = leads.filter(|_| live < needed) {
            let does = if begins { "begins to lead" } else { "leads" };
            let how = format!("host {host} {does}, while {live} of {needed} members have been heard lately");
            self.witness.holds_against(self.now, Promise::Quorum, &how);
        }
    }

    /// Prints what happens where `CIRCUS_TRACE` is set: a failed seed is replayed with it.
    pub(crate) fn trace(&self, host: usize, text: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>10.3} s  host {host}  {}", self.now as f64 / SEC as f64, text());
        }
    }

    pub(crate) fn at(&mut self, delay: Instant, what: What) {
        self.queue.push(self.now + delay, what);
    }

    pub(crate) fn after(&mut self, delay: Duration, what: What) {
        self.at(delay.as_nanos() as u64, what);
    }

    /// What is due happens, until a promise is broken.
    pub(crate) fn live_until(&mut self, end: Instant) {
        while self.witness.broken.is_none()
            && let Some((at, what)) = self.queue.pop_until(end)
        {
            self.now = at;
            self.happen(what);
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn happen(&mut self, what: What) {
        match what {
            What::On(host, what) => self.happen_on(host, what),
            What::Arrive { host, server, puts } => self.arrive(host, server, puts),
            What::Said { word, seat, server, taken_back } => self.said(word, seat, server, taken_back),
            What::ClaimArrives { asked, seat, server } => self.claim_arrives(asked, seat, server),
            What::ClaimAcknowledged { asked, seat, server, links } => {
                self.claim_acknowledged(asked, seat, server, links);
            }
            What::SomebodyPauses => self.somebody_pauses(),
            What::WishArrives { asked, seat, server } => self.wish_arrives(asked, seat, server),
            What::WishAcknowledged { asked, seat, server, links, answer } => {
                self.wish_acknowledged(asked, seat, server, links, answer);
            }
            What::ArriveLate(host) => self.arrive_late(host),
            What::AskAnew(question) => self.ask_anew(question),
            What::Acknowledged { host, server, links, answers } => self.acknowledged(host, server, links, answers),
            What::HostThaws(host) => self.thaw(host),
            What::Look(host) => self.witness.look(self.now, host),
            What::MostAreAway => self.most_are_away(),
            What::MostAreBack => self.most_are_back(),
            What::Cut(host) => {
                self.hosts[host].cut = !self.at_peace();
                let pause = self.pause(4.0);
                self.after(pause, What::Heal(host));
            }
            What::Heal(host) => {
                self.hosts[host].cut = false;
                self.hosts[host].link = Link::GOOD;
                self.unstick(host);
                self.store_up(host);
            }
            What::Mend { host, server } => {
                self.hosts[host].cut_from.remove(&server);
                self.store_up(host);
            }
            What::ServerBack { server, data } => self.server_back(server, data),
            // What a storm left behind.
            What::Promote { .. } if self.at_peace() => {}
            What::Promote { group } => self.promote_one(group),
            What::Demote { server } => self.store.follow(server),
            What::Fault => {
                self.look_for_a_quorum(false);
                self.fault();
            }
        }
    }
}
