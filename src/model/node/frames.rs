//! What is measured and told for those who watch: who does, and until when.
//!
//! Whoever watches says so every few seconds. Whoever falls silent watches no more, and while nobody does nothing is
//! measured and nothing told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Node;
use crate::model::event::{Action, Onlooker};
use crate::model::names::NodeName;
use crate::model::pattern::Pattern;
use crate::model::snapshot::{LeaseRole, LeaseView, ProcessView, WatcherView};
use crate::model::stats::{Detail, Keeper, LeaseStats, Measures, NodeStats, ProcessStats, WatcherStats};
use crate::model::time::Time;

/// How long somebody watches who said so: twice what lies between two times, and some for the way.
const INTEREST: Duration = Duration::from_secs(12);
/// What lies at least between two measurements, however many watch.
const EVERY: Duration = Duration::from_secs(1);
/// How many may follow output from elsewhere; beyond that the longest silent is forgotten.
const MAX_READERS: usize = 64;

/// Who watches, and what for them is under way.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Until when somebody here does, somebody elsewhere in the cluster, and a client of Circus's.
    here: Option<Time>,
    elsewhere: Option<Time>,
    circus: Option<Time>,
    /// Whether somebody has begun who has seen nothing of the past yet.
    begun: bool,
    /// When the latest measurement was ordered, and of what, while it is still under way.
    measured: Option<Time>,
    measuring: Option<Detail>,
    keeper: Keeper,
    /// Those elsewhere who follow output: of which watchers, and until when.
    readers: BTreeMap<String, (Vec<Pattern>, Time)>,
}

impl Frames {
    /// When to come back at the latest, or never.
    pub(super) fn next_wakeup(&self, now: Time) -> Option<Time> {
        let silent = self.readers.values().map(|(_, until)| *until).min();
        self.due(now).into_iter().chain(silent).min()
    }

    /// When to measure next, if anybody watches.
    fn due(&self, now: Time) -> Option<Time> {
        let due = self.measured.map_or(now, |measured| measured + EVERY).max(now);
        let until = self.here.max(self.elsewhere).max(self.circus);
        (self.measuring.is_none() && until > Some(due)).then_some(due)
    }

    /// What is wanted by those who watch at this moment.
    fn detail(&self, now: Time) -> Detail {
        if self.circus > Some(now) { Detail::Circus } else { Detail::Frame }
    }

    /// The watchers whose output somebody elsewhere follows.
    fn followed(&self) -> Vec<Pattern> {
        let mut followed: Vec<Pattern> = Vec::new();
        for pattern in self.readers.values().flat_map(|(patterns, _)| patterns) {
            if !followed.contains(pattern) {
                followed.push(pattern.clone());
            }
        }
        followed
    }
}

impl Node {
    /// Somebody watches what is used.
    pub(super) fn watched(&mut self, by: Onlooker, begun: bool) {
        let until = Some(self.now + INTEREST);
        match by {
            Onlooker::Here => self.frames.here = until,
            Onlooker::Elsewhere => self.frames.elsewhere = until,
            Onlooker::Circus => self.frames.circus = until,
        }
        self.frames.begun |= begun;
    }

    /// Somebody elsewhere follows the output of these watchers.
    pub(super) fn output_watched(&mut self, by: String, names: Vec<Pattern>, actions: &mut Vec<Action>) {
        let before = self.frames.followed();
        let readers = &mut self.frames.readers;
        readers.insert(by, (names, self.now + INTEREST));
        if readers.len() > MAX_READERS
            && let Some(oldest) = readers.iter().min_by_key(|(_, (_, until))| *until).map(|(by, _)| by.clone())
        {
            readers.remove(&oldest);
        }
        self.follow_output(&before, actions);
    }

    /// Measures when it is time, and forgets who fell silent.
    pub(super) fn serve_onlookers(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        if self.frames.due(now) == Some(now) {
            let pids = self.watchers.iter().flat_map(|watcher| watcher.pids()).map(|(_, pid)| pid);
            let detail = self.frames.detail(now);
            actions.push(Action::Measure { pids: pids.collect(), detail });
            (self.frames.measured, self.frames.measuring) = (Some(now), Some(detail));
        }
        if self.frames.readers.values().any(|(_, until)| *until <= now) {
            let before = self.frames.followed();
            self.frames.readers.retain(|_, (_, until)| *until > now);
            self.follow_output(&before, actions);
        }
    }

    fn follow_output(&self, before: &[Pattern], actions: &mut Vec<Action>) {
        let followed = self.frames.followed();
        if followed != before {
            actions.push(Action::TellOutput { of: followed });
        }
    }

    /// What was measured makes a frame.
    pub(super) fn measured(&mut self, measures: Measures, actions: &mut Vec<Action>) {
        let stats = NodeStats {
            node: self.name.clone(),
            at: measures.at,
            machine: measures.machine,
            watchers: self.watchers.iter().map(|watcher| watcher_stats(watcher.view(self.now), &measures)).collect(),
            agent: measures.agent,
            sockets: measures.sockets,
        };
        let frames = &mut self.frames;
        let detail = frames.measuring.take();
        frames.keeper.add(self.now, &stats);
        let history = std::mem::take(&mut frames.begun).then(|| Box::new(frames.keeper.history()));
        let elsewhere = frames.elsewhere > Some(self.now);
        // One that was ordered before anybody of them came has not what they want.
        let circus = detail == Some(Detail::Circus) && frames.circus > Some(self.now);
        actions.push(Action::Show { stats: Box::new(stats), history, elsewhere, circus });
    }
}

fn watcher_stats(view: WatcherView, measures: &Measures) -> WatcherStats {
    WatcherStats {
        name: view.name,
        state: view.state,
        note: view.note,
        wanted: view.numprocesses,
        restarts: view.restarts,
        lease: view.lease.map(lease_stats),
        processes: view.processes.iter().filter_map(|process| process_stats(process, measures)).collect(),
    }
}

fn lease_stats(view: LeaseView) -> LeaseStats {
    LeaseStats {
        role: view.role,
        holder: view.holder.and_then(|holder| NodeName::parse(&holder).ok()),
        token: view.token,
        left: view.left.filter(|_| matches!(view.role, LeaseRole::Holder | LeaseRole::Losing)),
        ttl: view.ttl,
        latency: view.latency,
    }
}

/// One that began after the measurement, or ended before it, is there and uses nothing.
fn process_stats(view: &ProcessView, measures: &Measures) -> Option<ProcessStats> {
    let pid = view.pid?;
    let measure = measures.processes.get(&pid).cloned().unwrap_or_default();
    Some(ProcessStats {
        wid: view.wid,
        pid,
        state: view.state.to_owned(),
        program: measure.program,
        age: view.age,
        used: measure.used,
        children: measure.children,
        own: measure.own,
    })
}
