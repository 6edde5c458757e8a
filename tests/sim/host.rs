//! A machine: its agent, and its clock.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::model::event::{
    Action, Address, BindId, Bound, Event, HookEnd, HookId, Notification, ProcessEvent, ProcessId, SocketId,
};
use circus_agent::model::names::NodeName;
use circus_agent::model::node::Node;
use circus_agent::model::random::Random;
use circus_agent::model::spec::{
    AgentSpec, Check, HookPoint, HookProgram, HookSpec, Place, ReadySpec, RedisSpec, Secret, SocketSpec, WatcherSpec,
};
use circus_agent::model::time::Time;

use crate::child::Child;
use crate::network::Link;
use crate::plants::{Plant, planted};
use crate::queue::{Instant, What};
use crate::specs;
use crate::world::World;

/// Where the singleton's socket is, unless a file has moved it.
const PORT: u16 = 8000;

/// A machine that runs one agent.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    /// How fast its clock runs, and what it showed at the beginning.
    pub(crate) rate: f64,
    pub(crate) offset: u64,
    pub(crate) agent: Option<Agent>,
    pub(crate) children: BTreeMap<ProcessId, Child>,
    pub(crate) reachable: bool,
    pub(crate) link: Link,
    /// How many agents this host has had: what tells messages to an old one from those to the present one.
    pub(crate) life: u64,
}

/// An agent: the product's own [`Node`].
pub(crate) struct Agent {
    pub(crate) node: Node,
    pub(crate) frozen: bool,
    pub(crate) inbox: Vec<Event>,
    pub(crate) wake: Option<Instant>,
}

impl World {
    pub(crate) fn local(&self, host: usize) -> Time {
        let host = &self.hosts[host];
        Time::from_nanos(host.offset + (self.now as f64 * host.rate) as u64)
    }

    /// The true time at which a host's clock shows `time`, but never in the past.
    pub(crate) fn truly(&self, host: usize, time: Time) -> Instant {
        let host = &self.hosts[host];
        let shown = time.as_nanos().saturating_sub(host.offset);
        ((shown as f64 / host.rate) as u64 + 1).max(self.now)
    }

    pub(crate) fn boot(&mut self, host: usize) {
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

    pub(crate) fn hook_timeout(&self) -> Duration {
        self.timings.ttl / 2
    }

    pub(crate) fn spec(&self, host: usize) -> AgentSpec {
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
    pub(crate) fn bind(&mut self, host: usize, bind: BindId, sockets: &[(SocketId, SocketSpec)]) {
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
    pub(crate) fn report(&mut self, host: usize, event: Event) {
        let life = self.hosts[host].life;
        let delay = self.random.below(Duration::from_micros(500));
        self.after(delay, What::Tell { host, life, event });
    }

    pub(crate) fn tell(&mut self, host: usize, event: Event) {
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

    pub(crate) fn schedule(&mut self, host: usize) {
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

    pub(crate) fn perform(&mut self, host: usize, action: Action) {
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
            | Action::InitLease { .. } => {}
        }
    }

    /// A hook comes back, some time or never: then its time is up.
    pub(crate) fn hook(&mut self, host: usize, hook: HookId, point: HookPoint, timeout: Duration) {
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
}
