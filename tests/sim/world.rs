//! Several hosts, one Redis, a network between them, and everything that can go wrong: driven by a seed.
//!
//! The agents are the product's own [`Node`]s and the Redis runs the product's own scripts. Simulated are only what
//! stands between them: clocks, messages, processes and guards. The world obeys a queue of true time; each host has
//! its own clock, which runs a little fast or slow.
//!
//! A [`Witness`] outside sees the children themselves and nothing of what anybody believes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use circus_agent::model::event::Ask;
use circus_agent::model::event::{Event, LeaseAnswer, ProcessEvent};
use circus_agent::model::names::{NodeName, WatcherName};
use circus_agent::model::random::Random;
use circus_agent::model::spec::LeaseTimings;
use circus_agent::model::time::Time;

use crate::host::Host;
use crate::network::Link;
use crate::plants::{Plant, plant_absence};
use crate::queue::{Due, Instant, MS, SEC, What};
use crate::simulated_redis::{SimulatedRedis, Snapshot};
use crate::store::{Data, Server};
use crate::witness::{Report, Witness};

/// The whole.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) queue: BinaryHeap<Reverse<Due>>,
    pub(crate) serial: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) server: Server,
    pub(crate) server_rate: f64,
    pub(crate) redis: SimulatedRedis,
    pub(crate) snapshot: Snapshot,
    pub(crate) held_back: Vec<(usize, u64, WatcherName, Ask)>,
    pub(crate) open: BTreeSet<(usize, u64, Time, u128)>,
    pub(crate) timings: LeaseTimings,
    pub(crate) graceful: Duration,
    pub(crate) plant: Plant,
    pub(crate) witness: Witness,
    pub(crate) steps: u64,
    pub(crate) requests: u64,
    pub(crate) faults_end: Instant,
    pub(crate) crashes: bool,
    /// Whether the watcher has hooks, which may be slow, hang, fail and say no.
    pub(crate) hooked: bool,
    /// Whether its child has to say that it is ready.
    pub(crate) says_ready: bool,
    /// Whether its child has a socket, which may be slow to open, or not to be had.
    pub(crate) serves: bool,
    pub(crate) traced: bool,
}

impl World {
    /// A world that this seed makes.
    pub(crate) fn new(seed: u64, plant: Plant) -> World {
        let mut random = Random::from_number(seed);
        let ttl = Duration::from_millis([600, 1_500, 3_000, 15_000][(random.number() % 4) as usize]);
        let timings = LeaseTimings::thirds(ttl);
        let hosts = 2 + (random.number() % 4) as usize;
        // Within the 1 % that the margin allows for, of both clocks together.
        let mut rate = || 1.0 + 0.004 * (2.0 * random.fraction() - 1.0);
        let server_rate = rate();
        let hosts: Vec<Host> = (0..hosts)
            .map(|i| Host {
                name: NodeName::parse(&format!("host-{i}")).unwrap(),
                rate: rate(),
                offset: 1_000 * SEC * (i as u64 + 1),
                agent: None,
                children: BTreeMap::new(),
                reachable: true,
                link: Link::GOOD,
                life: 0,
            })
            .collect();
        let graceful = ttl.mul_f64(0.2 + random.fraction());
        let (hooked, says_ready, serves) = (random.fraction() < 0.5, random.fraction() < 0.3, random.fraction() < 0.3);
        let redis = SimulatedRedis::with_plant(match plant {
            Plant::AbsentIsPermission => plant_absence,
            _ => str::to_owned,
        });
        let mut world = World {
            now: 0,
            random,
            queue: BinaryHeap::new(),
            serial: 0,
            hosts,
            server: Server::Up,
            server_rate,
            redis,
            snapshot: Snapshot::default(),
            held_back: Vec::new(),
            open: BTreeSet::new(),
            timings,
            graceful,
            plant,
            witness: Witness::default(),
            steps: 0,
            requests: 0,
            faults_end: 0,
            // One that never says that it is ready counts as one that crashes.
            crashes: says_ready,
            hooked,
            says_ready,
            serves,
            traced: std::env::var_os("CIRCUS_TRACE").is_some(),
        };
        for host in 0..world.hosts.len() {
            let at = world.random.below(ttl).as_nanos() as u64;
            world.at(at, What::Boot { host });
        }
        world
    }

    /// Lives through faults for `faults` ttls, then in peace until the promise of "soon one again" is due.
    pub(crate) fn run(mut self, faults: u32) -> Report {
        let ttl = self.timings.ttl.as_nanos() as u64;
        self.faults_end = self.now + ttl * u64::from(faults);
        self.at(ttl, What::Fault);
        self.live_until(self.faults_end);
        self.make_peace();
        // One ttl for the lease, one second for everything else, and the time a stop under way may take. A node that
        // had its child crash stands back before it tries again.
        let back = if self.crashes { 2 * ttl.clamp(SEC, 30 * SEC) + ttl } else { 0 };
        // Hooks that hang take all of their time: before a stop, around its signal, and after it; and so does a child
        // that never says that it is ready.
        let back = back + if self.hooked { 4 * self.hook_timeout().as_nanos() as u64 } else { 0 };
        let back = back + if self.says_ready { ttl } else { 0 };
        // A socket that was ordered before may be late, and its node end because of it, and be back later.
        let back = back + if self.serves { 2 * ttl } else { 0 };
        let due = self.now + ttl + ttl / 50 + SEC + self.graceful.as_nanos() as u64 + back;
        self.live_until(due);
        if self.witness.alive.is_empty() {
            let quiet = (self.now - self.witness.last_end) / MS;
            self.witness.broken.push(format!("{}: nobody runs, for {quiet} ms, though all is well", self.now));
        }
        // And then it stays so.
        let before = self.witness.children;
        self.live_until(due + 3 * ttl);
        if self.witness.children != before {
            self.witness.broken.push(format!("{}: a child moved though all is well", self.now));
        }
        Report { steps: self.steps, children: self.witness.children, broken: self.witness.broken }
    }

    /// Prints what happens where `CIRCUS_TRACE` is set: a failed seed is replayed with it.
    pub(crate) fn trace(&self, host: usize, text: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>10.3} s  host {host}  {}", self.now as f64 / SEC as f64, text());
        }
    }

    pub(crate) fn at(&mut self, delay: Instant, what: What) {
        self.serial += 1;
        self.queue.push(Reverse(Due { at: self.now + delay, serial: self.serial, what }));
    }

    pub(crate) fn after(&mut self, delay: Duration, what: What) {
        self.at(delay.as_nanos() as u64, what);
    }

    pub(crate) fn live_until(&mut self, end: Instant) {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= end) && self.witness.broken.is_empty() {
            let Reverse(due) = self.queue.pop().unwrap();
            self.now = due.at;
            self.happen(due.what);
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn happen(&mut self, what: What) {
        match what {
            What::Wake { host, life } => {
                if self.hosts[host].life == life {
                    if let Some(agent) = &mut self.hosts[host].agent {
                        agent.wake = None;
                    }
                    self.tell(host, Event::Woke);
                }
            }
            What::Tell { host, life, event } => {
                if self.hosts[host].life == life {
                    self.tell(host, event);
                }
            }
            What::Arrive { host, life, watcher, ask } => match self.server {
                Server::Up => self.serve(host, life, watcher, &ask),
                Server::Frozen => self.held_back.push((host, life, watcher, ask)),
                Server::Down => {
                    let reason = "connection refused".into();
                    self.answer(host, life, watcher, ask, LeaseAnswer::Failed { reason });
                }
            },
            What::Return { host, life, watcher, ask, answer } => {
                // An answer after the adapter gave up is dropped; now and then one slips through all the same.
                if self.random.fraction() < 0.1 {
                    self.open.insert((host, life, ask.sent, ask.owner.nonce));
                }
                self.answer(host, life, watcher, ask, answer);
            }
            What::GiveUp { host, life, watcher, ask } => {
                let reason = "no answer in time".into();
                self.answer(host, life, watcher, ask, LeaseAnswer::Failed { reason });
            }
            What::Deadline { host, id, serial } => {
                let Some(child) = self.hosts[host].children.get(&id) else { return };
                if child.deadline_serial == serial && self.plant != Plant::NoDeadline {
                    let local = self.local(host);
                    let child = &self.hosts[host].children[&id];
                    if child.deadline.kill <= local {
                        self.kill(host, id);
                    } else if child.deadline.stop <= local {
                        self.signal(host, id);
                    }
                }
            }
            What::MainEnds { host, id, exit } => self.main_ends(host, id, exit),
            What::TreeGone { host, id } => {
                if self.hosts[host].children.remove(&id).is_some() {
                    self.witness.dead(self.now, host, id);
                    if self.plant != Plant::ReleaseBeforeGone {
                        self.report(host, Event::Process(id, ProcessEvent::Gone));
                    }
                }
            }
            What::Boot { host } => self.boot(host),
            What::Thaw { host } => {
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.frozen = false;
                    for event in std::mem::take(&mut agent.inbox) {
                        self.tell(host, event);
                    }
                    self.tell(host, Event::Woke);
                }
            }
            What::Cut { host } => {
                self.hosts[host].reachable = self.now >= self.faults_end;
                let pause = self.pause(4.0);
                self.after(pause, What::Heal { host });
            }
            What::Heal { host } => {
                self.hosts[host].reachable = true;
                self.hosts[host].link = Link::GOOD;
                self.report(host, Event::StoreUp);
            }
            What::ServerBack { data } => {
                if self.server == Server::Up {
                    return;
                }
                match data {
                    Data::Untouched => {}
                    Data::Kept => self.redis.restart(true),
                    Data::Old => self.redis.restore(&self.snapshot),
                    Data::Lost => self.redis.restart(false),
                }
                self.server = Server::Up;
                for (host, life, watcher, ask) in std::mem::take(&mut self.held_back) {
                    self.serve(host, life, watcher, &ask);
                }
                for host in 0..self.hosts.len() {
                    self.report(host, Event::StoreUp);
                }
            }
            What::Fault => self.fault(),
        }
    }
}
