//! A node on a stage: plays tell it events and look at what it orders.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::model::command::{Command, Outcome, RequestId, Target};
use circus_agent::model::event::{
    Action, AskKind, Event, Exit, HookEnd, HookId, LeaseAnswer, News, ProcessEvent, ProcessId, Reach,
};
use circus_agent::model::history::Fact;
use circus_agent::model::names::NodeName;
use circus_agent::model::node::Node;
use circus_agent::model::random::Random;
use circus_agent::model::snapshot::WatcherState;
use circus_agent::model::spec::{AgentSpec, LeaseTimings, WatcherSpec};
use circus_agent::model::time::Time;

use crate::specs::{self, watcher};

pub(crate) const TERM: i32 = 15;
pub(crate) const GRACE: Duration = Duration::from_secs(30);

pub(crate) fn singleton(name: &str) -> WatcherSpec {
    WatcherSpec { singleton: Some(LeaseTimings::thirds(Duration::from_secs(15))), ..watcher(name) }
}

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

/// A node on a stage: what it orders is collected, and processes do as they are told unless the play says otherwise.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) now: Time,
    pub(crate) orders: Vec<Action>,
    /// What was ordered to be kept of tenures.
    facts: Vec<Fact>,
    requests: u64,
    /// Processes ordered and hooks called, by what they are called in stories.
    names: BTreeMap<u64, String>,
}

impl Stage {
    pub(crate) fn new(watchers: Vec<WatcherSpec>) -> Stage {
        Stage::with(watchers, Duration::ZERO, true)
    }

    pub(crate) fn with(watchers: Vec<WatcherSpec>, warmup_delay: Duration, clustered: bool) -> Stage {
        let redis = specs::redis().filter(|_| clustered);
        Stage::of(AgentSpec { redis, warmup_delay, ..specs::agent(&name("a"), watchers) })
    }

    pub(crate) fn of(spec: AgentSpec) -> Stage {
        let now = Time::from_nanos(1_000_000_000);
        let mut stage = Stage {
            node: Node::new(spec, Random::from_number(1), now),
            now,
            orders: Vec::new(),
            facts: Vec::new(),
            requests: 0,
            names: BTreeMap::new(),
        };
        stage.tell(Event::Woke);
        stage
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.node.step(self.now, event, &mut self.orders);
        assert!(self.node.next_wakeup().is_none_or(|due| due > self.now), "a deadline lies in the past");
    }

    pub(crate) fn process(&mut self, id: ProcessId, event: ProcessEvent) {
        self.tell(Event::Process(id, event));
    }

    /// Lets time pass, waking the node whenever it asked for it.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.node.next_wakeup().filter(|due| *due <= end) {
            self.now = due;
            self.tell(Event::Woke);
        }
        self.now = end;
        self.tell(Event::Woke);
    }

    /// What was ordered since the last look, one line each: `spawn web#1`, `signal web#1 15`, `kill web#1`,
    /// `hook web before_start`, `bind web`, `await web`, `count web`, `look job`, and events as `web stop`, `web spawn 1001`.
    pub(crate) fn story(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for action in std::mem::take(&mut self.orders) {
            lines.push(match action {
                Action::Spawn { process, launch } => {
                    let name = format!("{}#{}", launch.watcher, launch.wid);
                    self.names.insert(process.0, name.clone());
                    format!("spawn {name}")
                }
                Action::Signal { process, signal, .. } => format!("signal {} {signal}", self.names[&process.0]),
                Action::Kill { process } => format!("kill {}", self.names[&process.0]),
                Action::Hook { hook, call, .. } => {
                    let name = format!("{} {}", call.about.watcher, call.point.name());
                    self.names.insert(hook.0, name.clone());
                    format!("hook {name}")
                }
                Action::Publish(notice) => {
                    let pid = match notice.news {
                        News::Spawn { pid, .. } | News::Reap { pid, .. } | News::Kill { pid, .. } => format!(" {pid}"),
                        _ => String::new(),
                    };
                    format!("{} {}{pid}", notice.watcher, notice.news.word())
                }
                Action::Freeze { process } => format!("freeze {}", self.names[&process.0]),
                Action::Bind { sockets, .. } => {
                    let names: Vec<&str> = sockets.iter().map(|(_, spec)| spec.name.as_str()).collect();
                    format!("bind {}", names.join(" "))
                }
                Action::Unbind { sockets } => format!("unbind {}", sockets.len()),
                Action::CloseLanes { lanes } => format!("close {} lanes", lanes.len()),
                Action::AwaitDemand { watcher, .. } => format!("await {watcher}"),
                Action::IgnoreDemand { watcher } => format!("ignore {watcher}"),
                Action::CountDemand { watcher, .. } => format!("count {watcher}"),
                Action::ReadCalendar { watcher, .. } => format!("look {watcher}"),
                Action::Check { process, .. } => format!("check {}", self.names[&process.0]),
                _ => continue,
            });
        }
        lines
    }

    /// The latest process or hook of this name in a story.
    pub(crate) fn id(&self, name: &str) -> u64 {
        let found = self.names.iter().rev().find(|(_, other)| *other == name);
        *found.unwrap_or_else(|| panic!("no {name} in {:?}", self.names)).0
    }

    /// The process of a story: its program runs, with the pid 1000 and its number.
    pub(crate) fn spawned(&mut self, name: &str) {
        let id = self.id(name);
        self.process(ProcessId(id), ProcessEvent::Spawned { pid: 1_000 + id as u32 });
    }

    /// The pids of a watcher's processes, by slot.
    pub(crate) fn pids(&self, name: &str) -> Vec<u32> {
        let snapshot = self.node.snapshot();
        let found = snapshot.watchers.iter().find(|watcher| watcher.name.as_str() == name).expect("a watcher");
        found.processes.iter().filter_map(|process| process.pid).collect()
    }

    pub(crate) fn pid(&self, name: &str) -> u32 {
        1_000 + self.id(name) as u32
    }

    /// The process of a story ends, tree and all.
    pub(crate) fn ends(&mut self, name: &str, exit: Exit) {
        self.end(ProcessId(self.id(name)), exit);
    }

    /// The hook of a story comes back.
    pub(crate) fn returns(&mut self, name: &str, truth: bool) {
        let hook = HookId(self.id(name));
        self.tell(Event::HookEnded { hook, end: HookEnd::Returned { truth, output: String::new() } });
    }

    /// The hook of a story fails.
    pub(crate) fn fails(&mut self, name: &str) {
        let hook = HookId(self.id(name));
        self.tell(Event::HookEnded { hook, end: HookEnd::Failed("it broke".into()) });
    }

    pub(crate) fn orders(&mut self) -> Vec<Action> {
        let orders = std::mem::take(&mut self.orders);
        let (facts, orders): (Vec<_>, Vec<_>) =
            orders.into_iter().partition(|action| matches!(action, Action::Record { .. }));
        self.facts.extend(facts.into_iter().filter_map(|action| match action {
            Action::Record { fact, .. } => Some(fact),
            _ => None,
        }));
        orders.into_iter().filter(|action| !matches!(action, Action::Log { .. } | Action::Publish(_))).collect()
    }

    /// What was to be kept of tenures since the last look.
    pub(crate) fn facts(&mut self) -> Vec<Fact> {
        self.orders();
        std::mem::take(&mut self.facts)
    }

    /// The processes ordered since the last look, as `watcher#wid`.
    pub(crate) fn spawns(&mut self) -> Vec<(ProcessId, String)> {
        let spawn = |action| match action {
            Action::Spawn { process, launch } => Some((process, format!("{}#{}", launch.watcher, launch.wid))),
            _ => None,
        };
        self.orders().into_iter().filter_map(spawn).collect()
    }

    /// Starts what was ordered; their ids.
    pub(crate) fn start(&mut self) -> Vec<ProcessId> {
        let ids: Vec<ProcessId> = self.spawns().into_iter().map(|(id, _)| id).collect();
        for id in &ids {
            self.process(*id, ProcessEvent::Spawned { pid: 1_000 + id.0 as u32 });
        }
        ids
    }

    pub(crate) fn end(&mut self, id: ProcessId, exit: Exit) {
        self.process(id, ProcessEvent::Exited(exit));
        self.process(id, ProcessEvent::Gone);
    }

    pub(crate) fn ask(&mut self, target: Target, command: Command) -> RequestId {
        self.ask_within(None, target, command)
    }

    pub(crate) fn ask_within(&mut self, limit: Option<Duration>, target: Target, command: Command) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.tell(Event::Asked { request, by: "amy".into(), target, command, limit });
        request
    }

    pub(crate) fn asks_for(&mut self, command: Command) -> RequestId {
        self.ask(Target::Here, command)
    }

    /// The one reply to a request since the last look, if there was one.
    pub(crate) fn outcome(&mut self, request: RequestId) -> Option<Outcome> {
        let mut outcomes: Vec<_> = self
            .orders()
            .into_iter()
            .filter_map(|action| match action {
                Action::Reply { request: to, outcome } if to == request => Some(outcome),
                _ => None,
            })
            .collect();
        assert!(outcomes.len() <= 1, "answered twice: {outcomes:?}");
        outcomes.pop()
    }

    pub(crate) fn state(&self, name: &str) -> WatcherState {
        self.node.snapshot().watchers.iter().find(|watcher| watcher.name.as_str() == name).unwrap().state
    }

    pub(crate) fn note(&self, name: &str) -> String {
        let snapshot = self.node.snapshot();
        snapshot.watchers.into_iter().find(|watcher| watcher.name.as_str() == name).unwrap().note.unwrap_or_default()
    }

    /// Grants the lease that was just asked for.
    pub(crate) fn grant(&mut self, token: u64) {
        let asked = self.orders().into_iter().find_map(|action| match action {
            Action::AskLease { lease, ask, .. } if matches!(ask.kind, AskKind::Take { .. }) => {
                Some((lease.watcher, ask))
            }
            _ => None,
        });
        let (watcher, ask) = asked.expect("a take");
        self.tell(Event::Lease { watcher, ask, answer: LeaseAnswer::Granted { token } });
    }
}

pub(crate) fn killed(orders: &[Action], id: ProcessId) -> bool {
    orders.contains(&Action::Kill { process: id })
}

pub(crate) fn signalled(orders: &[Action], id: ProcessId) -> bool {
    orders.contains(&Action::Signal { process: id, signal: TERM, reach: Reach::Main })
}

pub(crate) fn releases(orders: &[Action]) -> usize {
    let release = |action: &&Action| matches!(action, Action::AskLease { ask, .. } if matches!(ask.kind, AskKind::Release { .. }));
    orders.iter().filter(release).count()
}
