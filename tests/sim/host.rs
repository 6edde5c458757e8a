//! A machine: its agent, and its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use circus_agent::model::attendance::Attendance;
use circus_agent::model::command::{NodeAbout, NodeRow, NodeState};
use circus_agent::model::event::{
    Action, Address, Ask, BindId, Bound, Event, HookEnd, HookId, LeaseAnswer, ProcessId, SocketId,
};
use circus_agent::model::names::{NodeName, Owner, WatcherName};
use circus_agent::model::node::Node;
use circus_agent::model::random::Random;
use circus_agent::model::spec::{
    AgentSpec, Check, HookPoint, HookProgram, HookSpec, Place, ReadySpec, RedisSpec, Secret, SocketSpec, WatcherSpec,
};
use circus_agent::model::time::Time;

use crate::child::Child;
use crate::jobs::{Jobs, Wall};
use crate::network::{Link, PutId};
use crate::plants::{Flaw, planted};
use crate::queue::{Instant, OnHost, SEC, What};
use crate::specs;
use crate::world::World;

/// Where the first singleton's socket is, unless a file has moved it.
const PORT: u16 = 8000;

/// How long it takes at most until an agent hears of what its kernel sees.
pub(crate) const REPORT: Duration = Duration::from_micros(500);

/// A machine that runs one agent.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    /// How fast its clock runs, and what it showed at the beginning.
    rate: f64,
    offset: u64,
    pub(crate) agent: Option<Agent>,
    /// How many agents this host has had: what tells messages to an old one from those to the present one.
    pub(crate) life: u64,
    pub(crate) children: BTreeMap<ProcessId, Child>,
    /// Whether all of it stands still since then; and what will happen when it goes on.
    pub(crate) frozen: Option<Instant>,
    postponed: Vec<OnHost>,
    /// Its network: from which servers it is cut off, and how it reaches the others.
    pub(crate) cut: bool,
    pub(crate) cut_from: BTreeSet<usize>,
    /// It is one of many that are cut off for long.
    pub(crate) away: bool,
    pub(crate) link: Link,
    /// Which server it takes for each group's master, and where it believes each lease to be.
    pub(crate) masters: Vec<usize>,
    pub(crate) homes: BTreeMap<WatcherName, usize>,
    /// As which owner its agent last asked for each lease.
    pub(crate) owners: BTreeMap<WatcherName, Owner>,
    pub(crate) wall: Wall,
    /// Who contends for leases, as its agent knows.
    pub(crate) attendance: BTreeMap<WatcherName, Attendance>,
    /// Answers that are stuck where it is cut off, and get through when it is not any more.
    pub(crate) stuck: Vec<(PutId, LeaseAnswer)>,
    /// Questions that got lost on the way to a server, and may get there yet.
    pub(crate) lost: Vec<(usize, Vec<(PutId, Ask)>)>,
    /// Refreshes that are about to go out, by the server that they go to.
    pub(crate) batches: BTreeMap<usize, Vec<(PutId, Ask)>>,
}

/// An agent: the product's own [`Node`].
pub(crate) struct Agent {
    node: Node,
    /// SIGSTOP: what is reported to it waits.
    pub(crate) stopped: bool,
    inbox: Vec<Event>,
    wake: Option<Instant>,
}

impl Host {
    /// The `i`th machine; its clock runs at `rate`.
    pub(crate) fn new(i: usize, rate: f64) -> Host {
        Host {
            name: NodeName::parse(&format!("host-{i}")).unwrap(),
            rate,
            offset: 1_000 * SEC * (i as u64 + 1),
            agent: None,
            life: 0,
            children: BTreeMap::new(),
            frozen: None,
            postponed: Vec::new(),
            cut: false,
            cut_from: BTreeSet::new(),
            away: false,
            link: Link::GOOD,
            masters: Vec::new(),
            homes: BTreeMap::new(),
            owners: BTreeMap::new(),
            wall: Wall::default(),
            attendance: BTreeMap::new(),
            stuck: Vec::new(),
            lost: Vec::new(),
            batches: BTreeMap::new(),
        }
    }
}

impl World {
    /// Something happens on a host, if not now then when it goes on.
    pub(crate) fn happen_on(&mut self, host: usize, what: OnHost) {
        if self.hosts[host].frozen.is_some() {
            return self.hosts[host].postponed.push(what);
        }
        match what {
            OnHost::Boot => self.boot(host),
            OnHost::Thaw => self.go_on(host),
            OnHost::Wake { life, due } => {
                let current = self.hosts[host].life == life;
                // Another may have been set since that rings earlier.
                if let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| current && agent.wake == Some(due))
                {
                    agent.wake = None;
                    self.tell(host, Event::Woke);
                }
            }
            OnHost::Tell { life, event } => {
                if self.hosts[host].life == life {
                    self.tell(host, event);
                }
            }
            OnHost::Send { server } => self.send_batch(host, server),
            OnHost::Return { put, answer } => self.returned(put, answer),
            OnHost::GiveUp { put } => self.gave_up(put),
            OnHost::Heard { word, seat, answer } => self.heard(word, seat, answer),
            OnHost::Count { word } => self.count(word),
            OnHost::ClaimAnswered { asked, seat, answer } => self.claim_answered(asked, seat, answer),
            OnHost::ClaimEnds { asked } => self.claim_ends(asked),
            OnHost::WishAnswered { asked, seat, answer } => self.wish_answered(asked, seat, answer),
            OnHost::WishEnds { asked } => self.wish_ends(asked),
            OnHost::Learn { group } => {
                self.hosts[host].masters[group] = self.store.groups[group].master;
                self.store_up(host);
            }
            OnHost::Deadline { id, serial } => self.deadline(host, id, serial),
            OnHost::MainEnds { id, exit } => self.main_ends(host, id, exit),
            OnHost::RunEnds { life, id, exit } => {
                if self.hosts[host].life == life {
                    self.main_ends(host, id, exit);
                }
            }
            OnHost::TreeGone { id } => self.tree_gone(host, id),
        }
    }

    /// The whole machine stands still: agent, guards and children.
    pub(crate) fn freeze(&mut self, host: usize) {
        self.hosts[host].frozen = Some(self.now);
        self.witness.freezes(host);
    }

    /// It goes on, and does what has come due, in no order that anybody could rely on.
    pub(crate) fn thaw(&mut self, host: usize) {
        let Some(since) = self.hosts[host].frozen.take() else { return };
        // So long a guard may take, by its margin, to do what has come due.
        let grace = self.timings.margin();
        self.witness.thaws(self.now, host, grace);
        self.after(grace, What::Look(host));
        for what in std::mem::take(&mut self.hosts[host].postponed) {
            let late = self.random.below(Duration::from_millis(1));
            self.after(late, What::On(host, what));
        }
        if self.flaw == Some(Flaw::SleepingClock) {
            self.hosts[host].offset -= ((self.now - since) as f64 * self.hosts[host].rate) as u64;
            let deadlines = |(id, child): (&ProcessId, &Child)| Some((*id, child.deadline?));
            for (id, deadline) in self.hosts[host].children.iter().filter_map(deadlines).collect::<Vec<_>>() {
                self.arm(host, id, deadline);
            }
        }
    }

    /// What the host's clock shows, which goes on while it is frozen.
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

    fn boot(&mut self, host: usize) {
        if self.hosts[host].agent.is_some() {
            return;
        }
        self.hosts[host].life += 1;
        self.hosts[host].attendance.clear();
        self.hosts[host].wall.forgot = Some(self.now);
        let seed = self.random.number();
        let spec = self.spec(host);
        let node = Node::new(spec, Random::from_number(seed), self.local(host));
        self.hosts[host].agent = Some(Agent { node, stopped: false, inbox: Vec::new(), wake: None });
        self.tell(host, Event::Woke);
    }

    fn go_on(&mut self, host: usize) {
        if let Some(agent) = &mut self.hosts[host].agent {
            agent.stopped = false;
            for event in std::mem::take(&mut agent.inbox) {
                self.tell(host, event);
            }
            self.tell(host, Event::Woke);
        }
    }

    /// Its adapter reaches the store again, or another server of it.
    pub(crate) fn store_up(&mut self, host: usize) {
        self.report(host, Event::StoreUp);
    }

    /// How long a hook may take.
    pub(crate) fn hook_timeout(&self) -> Duration {
        self.timings.ttl / 2
    }

    fn spec(&self, host: usize) -> AgentSpec {
        let hook = |point| (point, HookSpec { program: HookProgram::Python("a.b".into()), ignore_failure: false });
        let ready = ReadySpec { check: Check::Notify, timeout: self.timings.ttl };
        let singleton = |(i, name): (usize, &WatcherName)| WatcherSpec {
            graceful_timeout: self.graceful,
            singleton: Some(self.timings),
            hooks: HookPoint::ALL.into_iter().filter(|_| self.hooked).map(hook).collect(),
            hook_timeout: self.hook_timeout(),
            ready: self.says_ready.then(|| ready.clone()),
            ..match self.serves && i == 0 {
                true => specs::serving(name.as_str(), &["web"]),
                false => specs::watcher(name.as_str()),
            }
        };
        let mut watchers: Vec<WatcherSpec> = self.watchers.iter().enumerate().map(singleton).collect();
        if let Some(jobs) = &self.jobs {
            watchers.iter_mut().for_each(|watcher| jobs.schedule(watcher));
            let others: Vec<WatcherSpec> = jobs.others(&self.watchers[0], &watchers[0]).collect();
            watchers.extend(others);
        }
        if let Some(legion) = &self.legion {
            let follower = legion.specs(host, &mut watchers[0]);
            watchers.push(follower);
        }
        let redis = Some(RedisSpec::at(Secret::new("redis://simulated".into())));
        let sockets = if self.serves { vec![specs::socket("web", PORT)] } else { Vec::new() };
        AgentSpec { redis, sockets, ..specs::agent(&self.hosts[host].name, watchers) }
    }

    /// What the file says when it is read again: in times of trouble, something else.
    fn spec_read_again(&mut self, host: usize) -> AgentSpec {
        let mut spec = self.spec(host);
        if !self.at_peace() {
            let one = (self.random.number() % spec.watchers.len() as u64) as usize;
            match self.random.number() % 6 {
                0 => {}
                3 if self.serves => spec.sockets = vec![specs::socket("web", PORT + 1)],
                1 if spec.watchers[one].cron.is_some() => Jobs::reschedule(&mut spec.watchers[one]),
                1 => spec.watchers[one].program.words.push("--new".into()),
                2 => spec.watchers[one].graceful_timeout /= 2,
                4 => {
                    let gone = spec.watchers.remove(one).name;
                    spec.watchers.retain(|watcher| watcher.follows.as_ref() != Some(&gone));
                }
                _ => spec.watchers.clear(),
            }
        }
        spec
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
        if self.flaw == Some(Flaw::LostFailure) && result.is_err() {
            return;
        }
        self.after(delay, What::On(host, OnHost::Tell { life, event: Event::Bound { bind, result } }));
    }

    /// Something reaches an agent through its kernel: at once, or when it goes on.
    pub(crate) fn report(&mut self, host: usize, event: Event) {
        let life = self.hosts[host].life;
        let delay = self.random.below(REPORT);
        self.after(delay, What::On(host, OnHost::Tell { life, event }));
    }

    /// An agent hears of something, and does what it decides.
    pub(crate) fn tell(&mut self, host: usize, event: Event) {
        let (now, seed) = (self.local(host), self.seed);
        let Some(agent) = &mut self.hosts[host].agent else { return };
        if agent.stopped {
            if event != Event::Woke {
                agent.inbox.push(event);
            }
            return;
        }
        let mut actions = Vec::new();
        let told = planted(self.flaw, event, now);
        agent.node.step(now, told, &mut actions);
        self.steps += 1;
        let due = agent.node.next_wakeup();
        assert!(
            due.is_none_or(|due| due > now),
            "seed {seed}, host {host}: a deadline lies in the past: {:?}",
            agent.node
        );
        for action in actions {
            self.perform(host, action);
        }
        self.schedule(host);
    }

    /// An agent is woken when it wants to be.
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
            self.at(at - self.now + late, What::On(host, OnHost::Wake { life, due: at }));
        }
    }

    fn perform(&mut self, host: usize, action: Action) {
        self.trace(host, || format!("{action:?}"));
        match action {
            Action::Spawn { process, launch } => self.spawn(host, process, &launch),
            Action::Signal { process, .. } => self.signal(host, process),
            Action::Kill { process } => self.kill(host, process),
            Action::Guard { process, deadline } => self.arm(host, process, deadline),
            Action::AskLease { lease, ask, timeout } => self.ask(host, lease.watcher, ask, timeout),
            Action::Muster { lease, word } => self.muster(host, lease.watcher, word),
            Action::ReadCalendar { watcher, cron } => self.read_calendar(host, watcher, &cron),
            Action::ClaimSlot { watcher, lease, claim, timeout } => {
                self.claim(host, watcher, lease.watcher, claim, timeout);
            }
            Action::Leave { .. } => {
                self.hosts[host].agent = None;
                self.hosts[host].life += 1;
                let pause = self.random.below(self.timings.ttl);
                self.after(pause, What::On(host, OnHost::Boot));
            }
            Action::ReadRoster { request } => {
                // The registry is another machine; here everybody knows that everybody waits.
                let waits: Vec<String> = self.watchers.iter().map(ToString::to_string).collect();
                let row = |host: &Host| NodeRow {
                    name: host.name.clone(),
                    state: NodeState::Up,
                    seen: Duration::ZERO,
                    about: NodeAbout { waits: waits.clone(), ..NodeAbout::default() },
                };
                let rows = Ok(self.hosts.iter().map(row).collect());
                self.report(host, Event::RosterRead { request, rows });
            }
            Action::PauseLease { request, lease, wish } => self.pause_lease(host, request, lease.watcher, wish),
            Action::Reply { outcome, .. } => self.is_told(&outcome),
            Action::Bind { bind, sockets, .. } => self.bind(host, bind, &sockets),
            Action::Hook { hook, call, timeout } => self.hook(host, hook, call.point, timeout),
            Action::Rename { request, to } => {
                // Now and then the registry cannot be asked, or somebody is quicker.
                let refused = !self.at_peace() && self.random.number().is_multiple_of(4);
                let taken = self.hosts.iter().any(|host| host.name == to);
                let file = if refused || taken { Err("it is in use".into()) } else { Ok("the file".into()) };
                if file.is_ok() {
                    self.hosts[host].name = to.clone();
                }
                self.report(host, Event::Renamed { request, to, file });
            }
            Action::ReadSpec { request } => {
                let spec = self.spec_read_again(host);
                self.hosts[host].wall.forgot = Some(self.now);
                self.report(host, Event::SpecRead { request, spec: Ok(Box::new(spec)) });
            }
            Action::Log { .. }
            | Action::ShowLordship { .. }
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
            | Action::Relay { .. }
            | Action::Sample { .. }
            | Action::Measure { .. }
            | Action::Show { .. }
            | Action::TellOutput { .. }
            | Action::InitLease { .. }
            | Action::CheckLease { .. }
            | Action::Record { .. }
            | Action::ReadHistory { .. }
            | Action::Drill { .. } => {}
        }
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
        self.after(delay, What::On(host, OnHost::Tell { life, event: Event::HookEnded { hook, end } }));
    }
}
