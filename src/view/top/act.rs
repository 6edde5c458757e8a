//! What can be done about what is chosen, and what is asked before.

use super::known::Part;
use super::over::Over;
use super::screen::{Now, Panel, Screen, Wish};
use super::tree::Spot;
use crate::model::command::{Command, Patience, Selector, Strategy, Target};
use crate::model::names::{NodeName, NodeWord, WatcherName};
use crate::model::pattern::Pattern;
use crate::model::snapshot::WatcherState;

/// How many tenures of a singleton are told.
const TENURES: usize = 20;

/// What the choice is about, where something can be done to it.
struct Chosen {
    watcher: WatcherName,
    /// The nodes that are heard of those that it is on.
    nodes: Vec<NodeName>,
    /// Those of them where something is done to it: of a singleton the holder.
    seats: Vec<NodeName>,
    /// The one of them that has most to do with it.
    busiest: Option<NodeName>,
    pid: Option<u32>,
    singleton: bool,
    stopped: bool,
    running: usize,
}

impl Screen {
    pub(super) fn explain(&mut self, now: Now) -> Option<Wish> {
        match self.chosen(now) {
            None => self.say("choose a watcher or a singleton to have it explained"),
            Some(Chosen { watcher, nodes, .. }) if nodes.is_empty() => {
                self.say(format!("nobody who has {watcher} is heard"));
            }
            Some(Chosen { watcher, nodes, .. }) => {
                let questions = vec![Command::Explain { watcher: watcher.to_string() }];
                return Some(Wish::Read { title: format!("explain {watcher}"), questions, nodes });
            }
        }
        None
    }

    /// All that there is to say of what is chosen.
    pub(super) fn describe(&mut self, now: Now) -> Option<Wish> {
        if let Some(node) = self.chosen_node(now) {
            let questions = vec![Command::Status { watcher: None }, Command::GlobalOptions { option: None }];
            return Some(Wish::Read { title: node.to_string(), questions, nodes: vec![node] });
        }
        match self.chosen(now) {
            None => self.say("choose a watcher, a process or a node to have it described"),
            Some(Chosen { watcher, nodes, .. }) if nodes.is_empty() => {
                self.say(format!("nobody who has {watcher} is heard"));
            }
            Some(Chosen { watcher, nodes, pid, singleton, .. }) => {
                let name = watcher.to_string();
                let mut questions =
                    vec![Command::Explain { watcher: name.clone() }, Command::Status { watcher: Some(name.clone()) }];
                if singleton {
                    questions.push(Command::History { watcher: Some(name.clone()), count: TENURES });
                }
                if pid.is_some() {
                    questions.push(Command::Stats { watcher: Some(name.clone()), pid, extended: false });
                }
                questions.push(Command::Options { watcher: name, keys: None });
                let title = match pid {
                    Some(pid) => format!("process {pid} of {watcher}"),
                    None => watcher.to_string(),
                };
                return Some(Wish::Read { title, questions, nodes });
            }
        }
        None
    }

    pub(super) fn logs(&mut self, now: Now) -> Option<Wish> {
        match self.chosen(now) {
            None => self.say("choose a watcher to read what it prints"),
            Some(Chosen { watcher, seats, .. }) => match &seats[..] {
                [node] => return Some(Wish::Logs(watcher, node.clone())),
                [] => self.say(format!("nobody who has {watcher} is heard")),
                [..] => self.say(format!("{watcher} is on {} nodes: open it, and choose one", seats.len())),
            },
        }
        None
    }

    /// Asks whether something is meant to be done.
    pub(super) fn act(&mut self, key: char, now: Now) {
        if self.settings.read_only {
            return self.say("read only: nothing can be changed from here");
        }
        let Some(chosen) = self.chosen(now) else {
            return self.say("choose a watcher first");
        };
        if chosen.seats.is_empty() {
            return self.say(format!("nobody who has {} is heard", chosen.watcher));
        }
        match chosen.plan(key) {
            Err(why) => self.say(why),
            Ok((mut effect, command, target)) => {
                if let Some(silent) = self.stale(now) {
                    effect.push_str(&format!(" What is shown here is {} s old.", silent.as_secs()));
                }
                let doing = effect.split(['.', ':']).next().unwrap_or_default().to_owned();
                self.over = Over::Dialog { effect, wish: Wish::Ask { command, target, doing } };
            }
        }
    }

    /// The node that is chosen, where it is a node.
    fn chosen_node(&self, now: Now) -> Option<NodeName> {
        match self.panel {
            Panel::Nodes => Some((*self.nodes(now).get(self.at(Panel::Nodes, now))?).clone()),
            Panel::Watchers => {
                let rows = self.rows(now);
                match &rows.get(self.at_row(&rows))?.spot {
                    Spot::Node(name) => Some(name.clone()),
                    Spot::Watcher(_) | Spot::Part(..) | Spot::Process(..) => None,
                }
            }
            Panel::Singletons | Panel::Events => None,
        }
    }

    fn chosen(&self, now: Now) -> Option<Chosen> {
        let parts: Vec<Part>;
        let mut pid = None;
        match self.panel {
            Panel::Watchers => {
                let mut rows = self.rows(now);
                let at = self.at_row(&rows);
                let row = (at < rows.len()).then(|| rows.swap_remove(at))?;
                if let Spot::Node(_) = row.spot {
                    return None;
                }
                pid = row.process().map(|process| process.pid);
                parts = row.parts;
            }
            Panel::Singletons => {
                let all = self.singletons(now);
                let name = all.get(self.at(Panel::Singletons, now))?.name;
                let (known, then) = self.shown(now);
                parts = known.parts(then).filter(|part| part.stats.name == *name).collect();
            }
            Panel::Nodes | Panel::Events => return None,
        }
        let first = parts.first()?.stats;
        let heard = || parts.iter().filter(|part| part.silent.is_none());
        let nodes: Vec<NodeName> = heard().map(|part| part.node.clone()).collect();
        let mut seats = nodes.clone();
        let singleton = first.lease.is_some();
        // What is done to a singleton is done where it is.
        let holds = |part: &&Part| part.stats.lease.as_ref().is_some_and(|lease| lease.token.is_some());
        if singleton && let Some(holder) = heard().find(holds) {
            seats = vec![holder.node.clone()];
        }
        Some(Chosen {
            watcher: first.name.clone(),
            nodes,
            seats,
            busiest: heard().max_by_key(|part| part.stats.wanted).map(|part| part.node.clone()),
            pid,
            singleton,
            stopped: heard().all(|part| matches!(part.stats.state, WatcherState::Stopped | WatcherState::Failed)),
            running: parts.iter().map(|part| part.stats.processes.len()).sum(),
        })
    }
}

impl Chosen {
    /// What a key would do, in words and as a command; the error says what to choose instead.
    fn plan(&self, key: char) -> Result<(String, Command, Target), String> {
        let Chosen { watcher, seats, busiest, pid, singleton, stopped, running, .. } = self;
        let patience = Patience::Admitted;
        let name = watcher.as_str().to_owned();
        let on = match &seats[..] {
            [] => String::new(),
            [node] => node.to_string(),
            [all @ .., last] if all.len() < 4 => {
                let all: Vec<&str> = all.iter().map(NodeName::as_str).collect();
                format!("{} and {last}", all.join(", "))
            }
            all => format!("{} nodes", all.len()),
        };
        let running = match running {
            1 => "1 process".to_owned(),
            some => format!("{some} processes"),
        };
        let only = || Some(Pattern::Name(name.clone()));
        let resize = |by| Command::Resize { watcher: name.clone(), by, patience };
        let there = Selector { nodes: seats.iter().cloned().map(NodeWord::Name).collect(), labels: Vec::new() };
        let target = Target::Nodes(there.clone());
        let (effect, command) = match (key, pid) {
            ('r', Some(pid)) => (
                format!("Restart process {pid} of {name} on {on}: it is stopped, and another takes its place."),
                Command::Kill { watcher: name.clone(), pid: Some(*pid), signal: None, grace: None, patience },
            ),
            ('r', None) => (
                format!("Restart {name} on {on}: {running} stop, and start again."),
                Command::Restart { pattern: only(), patience },
            ),
            ('p', _) if *stopped => (format!("Start {name} on {on}."), Command::Start { pattern: only(), patience }),
            ('p', _) => (
                format!("Stop {name} on {on}: {running} end, and stay ended until it is started."),
                Command::Stop { pattern: only(), patience },
            ),
            ('F', _) if !*singleton => {
                return Err(format!("{name} is no singleton: it runs wherever it is configured"));
            }
            ('F', _) => (
                format!("Move {name} away from {on}: it stops there, and starts where it is waited for."),
                Command::Failover { watcher: name.clone(), to: None, patience: Patience::Settled },
            ),
            ('+' | '-', _) if *singleton => return Err(format!("{name} is a singleton: there is one, or none")),
            // As circusctl's --any.
            ('+', _) if seats.len() > 1 => {
                let effect = format!("Add a process to {name} on the node that has the least to do, of {on}.");
                return Ok((effect, resize(1), Target::Any(Strategy::LeastLoaded, there)));
            }
            ('+', _) => (format!("Add a process to {name} on {on}."), resize(1)),
            (_, _) if let (Some(most), 2..) = (busiest, seats.len()) => {
                let effect = format!("Take a process from {name} on {most}, which has the most of them.");
                return Ok((effect, resize(-1), Target::node(most.clone())));
            }
            _ => (format!("Take a process from {name} on {on}."), resize(-1)),
        };
        Ok((effect, command, target))
    }
}
