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

use circus_agent::cluster::scripts;
use circus_agent::model::command::{Command, Leave, Patience, ReloadWay, RequestId, Target};
use circus_agent::model::event::{
    Action, Address, Ask, AskKind, BindId, Bound, Deadline, Event, Exit, HookEnd, HookId, LeaseAnswer, Notification,
    ProcessEvent, ProcessId, SocketId,
};
use circus_agent::model::names::{ClusterName, LeaseName, NodeName, WatcherName};
use circus_agent::model::node::Node;
use circus_agent::model::random::Random;
use circus_agent::model::spec::{
    AgentSpec, Check, HookPoint, HookProgram, HookSpec, LeaseTimings, Place, ReadySpec, RedisSpec, Secret, SocketSpec,
    WatcherSpec,
};
use circus_agent::model::time::Time;

use crate::simulated_redis::{SimulatedRedis, Snapshot};
use crate::specs;

/// True time, in nanoseconds.
pub(crate) type Instant = u64;

const MS: Instant = 1_000_000;
const SEC: Instant = 1_000 * MS;

/// Where the singleton's socket is, unless a file has moved it.
const PORT: u16 = 8000;

/// A defect of the world that the checks must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// None.
    Nothing,
    /// Validity counts from the answer, not from the question.
    CountFromAnswer,
    /// The tree is reported gone, and so the lease released, when only its main process is.
    ReleaseBeforeGone,
    /// An absent lease key is taken for permission.
    AbsentIsPermission,
    /// The guard does not know the deadline.
    NoDeadline,
    /// That a changed file's sockets cannot be opened is never told.
    LostFailure,
}

/// How a run went.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Steps that the nodes took.
    pub(crate) steps: u64,
    /// Children that were started.
    pub(crate) children: u64,
    /// Promises that were broken.
    pub(crate) broken: Vec<String>,
}

/// What the witness holds against the promises.
#[derive(Default)]
struct Witness {
    alive: BTreeMap<(usize, ProcessId), Instant>,
    newest: u64,
    last_end: Instant,
    children: u64,
    broken: Vec<String>,
}

impl Witness {
    fn born(&mut self, now: Instant, host: usize, id: ProcessId, token: u64) {
        self.children += 1;
        if let Some(((other, _), since)) = self.alive.first_key_value() {
            let ms = (now - since) / MS;
            self.broken
                .push(format!("{now}: a child starts on host {host} while that of host {other} lives ({ms} ms)"));
        }
        if token < self.newest {
            self.broken.push(format!("{now}: host {host} starts a child with token {token} after {}", self.newest));
        }
        self.newest = token;
        self.alive.insert((host, id), now);
    }

    fn dead(&mut self, now: Instant, host: usize, id: ProcessId) {
        if self.alive.remove(&(host, id)).is_some() {
            self.last_end = now;
        }
    }
}

struct Host {
    name: NodeName,
    /// How fast its clock runs, and what it showed at the beginning.
    rate: f64,
    offset: u64,
    agent: Option<Agent>,
    children: BTreeMap<ProcessId, Child>,
    reachable: bool,
    link: Link,
    /// How many agents this host has had: what tells messages to an old one from those to the present one.
    life: u64,
}

struct Agent {
    node: Node,
    frozen: bool,
    inbox: Vec<Event>,
    wake: Option<Instant>,
}

struct Child {
    main_alive: bool,
    main_stops_after: Option<Duration>,
    leftovers_last: Duration,
    deadline: Deadline,
    deadline_serial: u64,
    killed: bool,
}

/// A host's way to Redis, and back.
#[derive(Clone, Copy)]
struct Link {
    there: Duration,
    back: Duration,
    loss: f64,
}

impl Link {
    const GOOD: Link = Link { there: Duration::from_micros(300), back: Duration::from_micros(300), loss: 0.0 };
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Server {
    Up,
    Down,
    Frozen,
}

/// What a server has when it is back.
#[derive(Clone, Copy)]
enum Data {
    /// It was only frozen.
    Untouched,
    /// All of it, in a new process.
    Kept,
    /// Some of it: what a replica or a snapshot file had at the time of the fault before.
    Old,
    /// None.
    Lost,
}

enum What {
    Wake {
        host: usize,
        life: u64,
    },
    Tell {
        host: usize,
        life: u64,
        event: Event,
    },
    /// A question reaches the server.
    Arrive {
        host: usize,
        life: u64,
        watcher: WatcherName,
        ask: Ask,
    },
    /// Its answer is back.
    Return {
        host: usize,
        life: u64,
        watcher: WatcherName,
        ask: Ask,
        answer: LeaseAnswer,
    },
    /// The adapter's patience with a question ends.
    GiveUp {
        host: usize,
        life: u64,
        watcher: WatcherName,
        ask: Ask,
    },
    /// A guard's deadline, on its host's clock.
    Deadline {
        host: usize,
        id: ProcessId,
        serial: u64,
    },
    MainEnds {
        host: usize,
        id: ProcessId,
        exit: Exit,
    },
    TreeGone {
        host: usize,
        id: ProcessId,
    },
    Boot {
        host: usize,
    },
    Thaw {
        host: usize,
    },
    Heal {
        host: usize,
    },
    Cut {
        host: usize,
    },
    ServerBack {
        data: Data,
    },
    Fault,
}

struct Due {
    at: Instant,
    serial: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// The whole.
pub(crate) struct World {
    now: Instant,
    random: Random,
    queue: BinaryHeap<Reverse<Due>>,
    serial: u64,
    hosts: Vec<Host>,
    server: Server,
    server_rate: f64,
    redis: SimulatedRedis,
    snapshot: Snapshot,
    held_back: Vec<(usize, u64, WatcherName, Ask)>,
    open: BTreeSet<(usize, u64, Time, u128)>,
    timings: LeaseTimings,
    graceful: Duration,
    plant: Plant,
    witness: Witness,
    steps: u64,
    requests: u64,
    faults_end: Instant,
    crashes: bool,
    /// Whether the watcher has hooks, which may be slow, hang, fail and say no.
    hooked: bool,
    /// Whether its child has to say that it is ready.
    says_ready: bool,
    /// Whether its child has a socket, which may be slow to open, or not to be had.
    serves: bool,
    traced: bool,
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
    fn trace(&self, host: usize, text: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>10.3} s  host {host}  {}", self.now as f64 / SEC as f64, text());
        }
    }

    fn at(&mut self, delay: Instant, what: What) {
        self.serial += 1;
        self.queue.push(Reverse(Due { at: self.now + delay, serial: self.serial, what }));
    }

    fn after(&mut self, delay: Duration, what: What) {
        self.at(delay.as_nanos() as u64, what);
    }

    fn live_until(&mut self, end: Instant) {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= end) && self.witness.broken.is_empty() {
            let Reverse(due) = self.queue.pop().unwrap();
            self.now = due.at;
            self.happen(due.what);
        }
        self.now = self.now.max(end);
    }

    fn local(&self, host: usize) -> Time {
        let host = &self.hosts[host];
        Time::from_nanos(host.offset + (self.now as f64 * host.rate) as u64)
    }

    /// The true time at which a host's clock shows `time`, but never in the past.
    fn truly(&self, host: usize, time: Time) -> Instant {
        let host = &self.hosts[host];
        let shown = time.as_nanos().saturating_sub(host.offset);
        ((shown as f64 / host.rate) as u64 + 1).max(self.now)
    }

    fn server_ms(&self) -> u64 {
        // Some date, so that tokens are what they are in earnest.
        1_700_000_000_000 + (self.now as f64 * self.server_rate) as u64 / MS
    }

    fn happen(&mut self, what: What) {
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

    // ---- agents ----

    fn boot(&mut self, host: usize) {
        if self.hosts[host].agent.is_some() {
            return;
        }
        self.hosts[host].life += 1;
        let seed = self.random.number();
        let spec = self.spec(host);
        let node = Node::new(spec, Random::from_number(seed), self.local(host));
        self.hosts[host].agent = Some(Agent { node, frozen: false, inbox: Vec::new(), wake: None });
        self.tell(host, Event::Woke);
    }

    fn hook_timeout(&self) -> Duration {
        self.timings.ttl / 2
    }

    fn spec(&self, host: usize) -> AgentSpec {
        let hook = |point| (point, HookSpec { program: HookProgram::Python("a.b".into()), ignore_failure: false });
        let hooks = HookPoint::ALL.into_iter().filter(|_| self.hooked).map(hook);
        let ready = ReadySpec { check: Check::Notify, timeout: self.timings.ttl };
        let beat = WatcherSpec {
            graceful_timeout: self.graceful,
            singleton: Some(self.timings),
            hooks: hooks.collect(),
            hook_timeout: self.hook_timeout(),
            ready: self.says_ready.then_some(ready),
            ..if self.serves { specs::serving("beat", &["web"]) } else { specs::watcher("beat") }
        };
        let redis = Some(RedisSpec::at(Secret::new("redis://simulated".into())));
        let sockets = if self.serves { vec![specs::socket("web", PORT)] } else { Vec::new() };
        AgentSpec { redis, sockets, ..specs::agent(&self.hosts[host].name, vec![beat]) }
    }

    /// Sockets are opened, some time, or cannot be.
    fn bind(&mut self, host: usize, bind: BindId, sockets: &[(SocketId, SocketSpec)]) {
        let (troubled, life) = (!self.at_peace(), self.hosts[host].life);
        let delay = if troubled { self.random.below(self.timings.ttl) } else { Duration::from_millis(1) };
        let bound = |spec: &SocketSpec| match &spec.place {
            Place::Inet { port, .. } => Bound { fd: 9, address: Address::Inet(([127, 0, 0, 1], *port).into()) },
            place => panic!("no socket of this world: {place:?}"),
        };
        let result = match troubled && self.random.number().is_multiple_of(4) {
            true => Err("socket web: cannot listen on it".into()),
            false => Ok(sockets.iter().map(|(id, spec)| (*id, bound(spec))).collect()),
        };
        if self.plant == Plant::LostFailure && result.is_err() {
            return;
        }
        self.after(delay, What::Tell { host, life, event: Event::Bound { bind, result } });
    }

    /// Something reaches an agent through its kernel: at once, or when it is thawed.
    fn report(&mut self, host: usize, event: Event) {
        let life = self.hosts[host].life;
        let delay = self.random.below(Duration::from_micros(500));
        self.after(delay, What::Tell { host, life, event });
    }

    fn tell(&mut self, host: usize, event: Event) {
        let now = self.local(host);
        let Some(agent) = &mut self.hosts[host].agent else { return };
        if agent.frozen {
            if event != Event::Woke {
                agent.inbox.push(event);
            }
            return;
        }
        let mut actions = Vec::new();
        agent.node.step(now, planted(self.plant, event, now), &mut actions);
        self.steps += 1;
        assert!(agent.node.next_wakeup().is_none_or(|due| due > now), "a deadline lies in the past: {:?}", agent.node);
        for action in actions {
            self.perform(host, action);
        }
        self.schedule(host);
    }

    fn schedule(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let Some(agent) = &self.hosts[host].agent else { return };
        let Some(due) = agent.node.next_wakeup() else { return };
        let at = self.truly(host, due);
        let agent = self.hosts[host].agent.as_mut().unwrap();
        if agent.wake.is_none_or(|wake| at < wake) {
            agent.wake = Some(at);
            // No scheduler is exact.
            let late = self.random.below(Duration::from_millis(2)).as_nanos() as u64;
            self.at(at - self.now + late, What::Wake { host, life });
        }
    }

    fn perform(&mut self, host: usize, action: Action) {
        let life = self.hosts[host].life;
        self.trace(host, || format!("{action:?}"));
        match action {
            Action::Spawn { process, launch } => {
                let token =
                    launch.env.iter().find(|(key, _)| *key == "CIRCUS_FENCING_TOKEN").unwrap().1.parse().unwrap();
                let deadline = launch.guard.expect("a singleton's child has a guard");
                let stubborn = self.random.fraction() < 0.3;
                let takes = self.random.below(self.graceful.mul_f64(0.5));
                let leftovers_last = match self.random.number() % 3 {
                    0 => self.random.below(Duration::from_millis(300)),
                    _ => Duration::from_micros(100),
                };
                let child = Child {
                    main_alive: true,
                    main_stops_after: (!stubborn).then_some(takes),
                    leftovers_last,
                    deadline,
                    deadline_serial: 0,
                    killed: false,
                };
                self.hosts[host].children.insert(process, child);
                self.witness.born(self.now, host, process, token);
                self.arm(host, process, deadline);
                self.report(host, Event::Process(process, ProcessEvent::Spawned { pid: process.0 as u32 }));
                if launch.signs.notify && (self.at_peace() || self.random.fraction() < 0.8) {
                    let ready = ProcessEvent::Notified(Notification::Ready);
                    let delay = self.random.below(self.timings.ttl.mul_f64(0.3)) + Duration::from_millis(1);
                    self.after(delay, What::Tell { host, life, event: Event::Process(process, ready) });
                }
            }
            Action::Signal { process, .. } => self.signal(host, process),
            Action::Kill { process } => self.kill(host, process),
            Action::Guard { process, deadline } => self.arm(host, process, deadline),
            Action::AskLease { watcher, ask, timeout } => self.send(host, life, watcher, ask, timeout),
            Action::Leave { .. } => {
                self.hosts[host].agent = None;
                self.hosts[host].life += 1;
                let pause = self.random.below(self.timings.ttl);
                self.after(pause, What::Boot { host });
            }
            Action::ReadRoster { request } => {
                // The registry is another machine; here everybody knows that everybody waits.
                let row = |host: &Host| circus_agent::model::command::NodeRow {
                    name: host.name.clone(),
                    state: circus_agent::model::command::NodeState::Up,
                    seen: Duration::ZERO,
                    about: circus_agent::model::command::NodeAbout { waits: vec!["beat".into()], ..Default::default() },
                };
                let rows = Ok(self.hosts.iter().map(row).collect());
                self.report(host, Event::RosterRead { request, rows });
            }
            Action::Bind { bind, sockets, .. } => self.bind(host, bind, &sockets),
            Action::Hook { hook, call, timeout } => self.hook(host, hook, call.point, timeout),
            Action::ReadSpec { request } => {
                let mut spec = self.spec(host);
                if !self.at_peace() {
                    match self.random.number() % 5 {
                        0 => {}
                        3 if self.serves => spec.sockets = vec![specs::socket("web", PORT + 1)],
                        1 => spec.watchers[0].program.words.push("--new".into()),
                        2 => spec.watchers[0].graceful_timeout /= 2,
                        _ => spec.watchers.clear(),
                    }
                }
                self.report(host, Event::SpecRead { request, spec: Ok(Box::new(spec)) });
            }
            Action::Log { .. }
            | Action::Publish(_)
            | Action::SampleAgent { .. }
            | Action::Check { .. }
            | Action::CallOff { .. }
            | Action::Amend { .. }
            | Action::AmendSocket { .. }
            | Action::Unbind { .. }
            | Action::CloseLanes { .. }
            | Action::AwaitDemand { .. }
            | Action::IgnoreDemand { .. }
            | Action::CountDemand { .. }
            | Action::Freeze { .. }
            | Action::Reply { .. }
            | Action::Relay { .. }
            | Action::Sample { .. }
            | Action::InitLease { .. }
            | Action::CheckLease { .. }
            | Action::Record { .. }
            | Action::ReadHistory { .. } => {}
        }
    }

    fn at_peace(&self) -> bool {
        self.now >= self.faults_end
    }

    /// A hook comes back, some time or never: then its time is up.
    fn hook(&mut self, host: usize, hook: HookId, point: HookPoint, timeout: Duration) {
        let returned = |truth| HookEnd::Returned { truth, output: String::new() };
        let fate = if self.at_peace() { 0 } else { self.random.number() % 20 };
        let (delay, end) = match fate {
            0..14 => (self.random.below(self.timings.ttl.mul_f64(0.1)), returned(true)),
            14 | 15 => (Duration::from_millis(1), returned(false)),
            16 | 17 => (Duration::from_millis(1), HookEnd::Failed("it broke".into())),
            _ => (timeout, HookEnd::Failed("it hung".into())),
        };
        let (delay, end) = if delay < timeout { (delay, end) } else { (timeout, HookEnd::Failed("it hung".into())) };
        self.crashes |= point.can_fail() && end != returned(true);
        let life = self.hosts[host].life;
        self.after(delay, What::Tell { host, life, event: Event::HookEnded { hook, end } });
    }

    // ---- children and guards ----

    fn arm(&mut self, host: usize, id: ProcessId, deadline: Deadline) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        child.deadline = deadline;
        child.deadline_serial += 1;
        let serial = child.deadline_serial;
        for time in [deadline.stop, deadline.kill] {
            let at = self.truly(host, time) - self.now;
            let late = self.random.below(Duration::from_millis(1)).as_nanos() as u64;
            self.at(at + late, What::Deadline { host, id, serial });
        }
    }

    fn signal(&mut self, host: usize, id: ProcessId) {
        let Some(child) = self.hosts[host].children.get(&id) else { return };
        if let Some(after) = child.main_stops_after.filter(|_| child.main_alive) {
            self.after(after, What::MainEnds { host, id, exit: Exit::Code(0) });
        }
    }

    fn main_ends(&mut self, host: usize, id: ProcessId, exit: Exit) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        if !child.main_alive {
            return;
        }
        child.main_alive = false;
        let last = if child.killed { child.leftovers_last.min(Duration::from_millis(1)) } else { child.leftovers_last };
        self.report(host, Event::Process(id, ProcessEvent::Exited(exit)));
        if self.plant == Plant::ReleaseBeforeGone {
            self.report(host, Event::Process(id, ProcessEvent::Gone));
        }
        self.after(last, What::TreeGone { host, id });
    }

    fn kill(&mut self, host: usize, id: ProcessId) {
        let Some(child) = self.hosts[host].children.get_mut(&id) else { return };
        child.killed = true;
        let alive = child.main_alive;
        let delay = self.random.below(Duration::from_millis(3));
        if alive {
            self.after(delay, What::MainEnds { host, id, exit: Exit::Signal(9) });
        } else {
            self.after(delay, What::TreeGone { host, id });
        }
    }

    // ---- Redis and the way there ----

    fn send(&mut self, host: usize, life: u64, watcher: WatcherName, ask: Ask, timeout: Duration) {
        self.open.insert((host, life, ask.sent, ask.owner.nonce));
        let link = self.hosts[host].link;
        let delay = link.there.mul_f64(0.8 + 0.4 * self.random.fraction());
        if self.hosts[host].reachable && self.random.fraction() >= link.loss {
            self.after(delay, What::Arrive { host, life, watcher: watcher.clone(), ask: ask.clone() });
        }
        self.after(timeout, What::GiveUp { host, life, watcher, ask });
    }

    fn serve(&mut self, host: usize, life: u64, watcher: WatcherName, ask: &Ask) {
        let name = LeaseName { cluster: ClusterName::parse("test").unwrap(), watcher: watcher.clone() };
        let ms = self.server_ms();
        let answer = match self.redis.eval(ms, &scripts::call(&name, ask)) {
            Ok(words) => scripts::answer(&words),
            Err(reason) => LeaseAnswer::Failed { reason },
        };
        self.trace(host, || format!("Redis answers {ask:?} with {answer:?}"));
        assert!(
            !matches!(&answer, LeaseAnswer::Failed { reason } if !reason.starts_with("REPLICA")),
            "a script failed: {answer:?}"
        );
        for _ in self.redis.take_published() {
            for other in 0..self.hosts.len() {
                if self.hosts[other].reachable && self.random.fraction() >= self.hosts[other].link.loss {
                    let life = self.hosts[other].life;
                    let delay = self.hosts[other].link.back.mul_f64(0.8 + 0.4 * self.random.fraction());
                    self.after(
                        delay,
                        What::Tell { host: other, life, event: Event::LeaseFreed { watcher: watcher.clone() } },
                    );
                }
            }
        }
        let link = self.hosts[host].link;
        if self.hosts[host].reachable && self.random.fraction() >= link.loss {
            let delay = link.back.mul_f64(0.8 + 0.4 * self.random.fraction());
            self.after(delay, What::Return { host, life, watcher, ask: ask.clone(), answer });
        }
    }

    fn answer(&mut self, host: usize, life: u64, watcher: WatcherName, ask: Ask, answer: LeaseAnswer) {
        if self.open.remove(&(host, life, ask.sent, ask.owner.nonce)) && self.hosts[host].life == life {
            self.tell(host, Event::Lease { watcher, ask, answer });
        }
    }

    // ---- faults ----

    fn pause(&mut self, ttls: f64) -> Duration {
        self.timings.ttl.mul_f64(ttls * self.random.fraction())
    }

    fn fault(&mut self) {
        if self.now >= self.faults_end {
            return;
        }
        let host = (self.random.number() % self.hosts.len() as u64) as usize;
        let fault = self.random.number() % 22;
        self.trace(host, || format!("FAULT {fault}"));
        match fault {
            0 | 1 => self.crash_agent(host),
            2 => {
                let times = if self.random.fraction() < 0.2 { 2 } else { 1 };
                (0..times).for_each(|_| self.report(host, Event::StopAsked { by: "SIGTERM".into() }));
            }
            3 | 4 => {
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.frozen = true;
                    let pause = self.pause(4.0);
                    self.after(pause, What::Thaw { host });
                }
            }
            5 | 6 => self.happen(What::Cut { host }),
            7 => {
                // Slow one way or both, up to beyond what the adapter waits for; often followed by nothing at all.
                let mut slow = || self.timings.ttl.mul_f64(0.13 * self.random.fraction());
                let (there, back) = (slow(), slow());
                let loss = if self.random.fraction() < 0.5 { 0.0 } else { 0.5 * self.random.fraction() };
                let there = if self.random.fraction() < 0.5 { Link::GOOD.there } else { there };
                self.hosts[host].link = Link { there, back, loss };
                let pause = self.pause(6.0);
                let next = if self.random.fraction() < 0.5 { What::Cut { host } } else { What::Heal { host } };
                self.after(pause, next);
            }
            8 => {
                let data = [Data::Kept, Data::Lost][(self.random.number() % 2) as usize];
                self.stop_server(Server::Down, data);
            }
            9 => self.stop_server(Server::Down, Data::Old),
            10 => self.stop_server(Server::Frozen, Data::Untouched),
            11 => self.redis.flush(),
            12 => self.redis.delete("circus:{test/beat}:lease"),
            13 => {
                self.crashes = true;
                let children: Vec<_> = self.hosts[host].children.keys().copied().collect();
                children.into_iter().for_each(|id| self.main_ends(host, id, Exit::Signal(11)));
            }
            14 => self.command(host, |patience| Command::Failover { watcher: "beat".into(), to: None, patience }),
            15 => {
                let to = (self.random.number() % self.hosts.len() as u64) as usize;
                let to = Some(self.hosts[to].name.clone());
                self.command(host, |patience| Command::Failover { watcher: "beat".into(), to, patience });
            }
            16 => self.command(host, |patience| Command::Restart { pattern: None, patience }),
            17 => {
                let ways = [ReloadWay::Rolling, ReloadWay::Sequential, ReloadWay::Restart];
                let way = ways[(self.random.number() % 3) as usize];
                self.command(host, |patience| Command::Reload { watcher: None, way, patience });
            }
            18 => {
                let grace = Some(self.graceful.mul_f64(self.random.fraction()));
                let (watcher, pid, signal) = ("beat".into(), None, Some(9));
                self.command(host, |patience| Command::Kill { watcher, pid, signal, grace, patience });
            }
            19 => {
                let (watcher, leave) = ("beat".into(), Leave::Nothing);
                self.command(host, |patience| Command::Remove { watcher, leave, patience });
            }
            20 => self.command(host, |patience| Command::ReloadConfig { patience }),
            _ => {
                self.command(host, |patience| Command::Stop { pattern: None, patience });
                self.command(host, |patience| Command::Start { pattern: None, patience });
            }
        }
        if self.random.fraction() < 0.3 {
            self.snapshot = self.redis.snapshot();
        }
        let pause = self.pause(2.0);
        self.after(pause, What::Fault);
    }

    fn crash_agent(&mut self, host: usize) {
        if self.hosts[host].agent.take().is_none() {
            return;
        }
        self.hosts[host].life += 1;
        // Its guards notice and kill.
        for id in self.hosts[host].children.keys().copied().collect::<Vec<_>>() {
            self.kill(host, id);
        }
        // Sometimes it is back at once, and finds its own old lease.
        let pause = if self.random.number().is_multiple_of(2) { Duration::from_millis(20) } else { self.pause(3.0) };
        self.after(pause.max(Duration::from_millis(10)), What::Boot { host });
    }

    fn stop_server(&mut self, state: Server, data: Data) {
        if self.server == Server::Up {
            self.server = state;
            let long = if self.random.number().is_multiple_of(2) { 0.3 } else { 3.0 };
            let pause = self.pause(long);
            self.after(pause, What::ServerBack { data });
        }
    }

    fn command(&mut self, host: usize, command: impl FnOnce(Patience) -> Command) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let patience = if self.random.number().is_multiple_of(2) { Patience::Settled } else { Patience::Admitted };
        self.report(
            host,
            Event::Asked {
                request,
                by: "the simulation".into(),
                target: Target::Here,
                command: command(patience),
                limit: None,
            },
        );
    }

    /// Ends all faults: what is broken is whole, who is away is back.
    fn make_peace(&mut self) {
        if self.server != Server::Up {
            let data = if self.server == Server::Frozen { Data::Untouched } else { Data::Kept };
            self.happen(What::ServerBack { data });
        }
        for host in 0..self.hosts.len() {
            self.happen(What::Heal { host });
            self.happen(What::Thaw { host });
            self.happen(What::Boot { host });
            self.command(host, |patience| Command::ReloadConfig { patience });
            self.command(host, |patience| Command::Start { pattern: None, patience });
        }
    }
}

/// Takes an absent key for permission, as every other tool does.
fn plant_absence(script: &str) -> String {
    script.replace("if not holder then\n  if not state then", "if false then\n  if not state then")
}

/// Rewrites what reaches the model where the plant asks for it.
fn planted(plant: Plant, event: Event, now: Time) -> Event {
    match (plant, event) {
        (Plant::CountFromAnswer, Event::Lease { watcher, mut ask, answer: answer @ LeaseAnswer::Granted { .. } })
            if !matches!(ask.kind, AskKind::Release { .. }) =>
        {
            ask.sent = now;
            Event::Lease { watcher, ask, answer }
        }
        (_, event) => event,
    }
}
