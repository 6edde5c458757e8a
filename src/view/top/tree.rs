//! The rows of the panel of watchers: a tree of watcher, node and process, or of node, watcher and process.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::curve::Curve;
use super::filter::{Facts, Filter};
use super::known::{Known, Part};
use crate::model::names::{NodeName, WatcherName};
use crate::model::snapshot::WatcherState;
use crate::model::stats::{ProcessStats, Used};
use crate::model::time::Time;

/// Which thing a row is about. A choice stays with the thing while rows come, go and change places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Spot {
    Watcher(WatcherName),
    Node(NodeName),
    Part(NodeName, WatcherName),
    /// By slot: a process that is replaced has a new pid.
    Process(NodeName, WatcherName, u32),
}

/// What stands at the top of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grouping {
    Watchers,
    Nodes,
}

/// What rows of one level are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Cpu,
    Memory,
    Name,
    Uptime,
}

/// How the tree is looked at.
pub(super) struct View<'a> {
    pub(super) grouping: Grouping,
    pub(super) sort: Sort,
    pub(super) inverted: bool,
    pub(super) filter: Option<&'a Filter>,
    pub(super) open: &'a HashSet<Spot>,
}

/// A row.
pub(super) struct Row<'a> {
    pub(super) spot: Spot,
    pub(super) depth: usize,
    /// Whether what is below it shows; nothing where there is nothing below it.
    pub(super) open: Option<bool>,
    pub(super) name: Cow<'a, str>,
    /// How many processes are ready, and how many are wanted.
    pub(super) ready: Option<(usize, usize)>,
    pub(super) used: Used,
    /// The longest that one of its processes has run.
    pub(super) age: Option<Duration>,
    pub(super) state: &'a str,
    pub(super) note: Cow<'a, str>,
    /// The watchers on nodes that it is made of.
    pub(super) parts: Vec<Part<'a>>,
    process: Option<&'a ProcessStats>,
}

/// The rows that show, from the top down.
pub(super) fn rows<'a>(known: &'a Known, view: &View, now: Time) -> Vec<Row<'a>> {
    let mut groups: BTreeMap<&str, Vec<Part>> = BTreeMap::new();
    for part in known.parts(now) {
        let key = match view.grouping {
            Grouping::Watchers => part.stats.name.as_str(),
            Grouping::Nodes => part.node.as_str(),
        };
        groups.entry(key).or_default().push(part);
    }
    // Where there is one node only, a level of nodes would say nothing.
    let flat = view.grouping == Grouping::Watchers && known.nodes.len() <= 1;
    let mut rows = Vec::new();
    let tops = groups.into_values().map(|parts| {
        let spot = match view.grouping {
            Grouping::Watchers => Spot::Watcher(parts[0].stats.name.clone()),
            Grouping::Nodes => Spot::Node(parts[0].node.clone()),
        };
        Row::of(spot, parts)
    });
    for mut top in view.arranged(tops.collect()) {
        let parts = top.parts.clone();
        let is_open = top.opens(view);
        rows.push(top);
        if is_open && flat {
            push_processes(&mut rows, parts[0], 1, view);
        } else if is_open {
            let parts = parts.into_iter().map(|part| Row::of_part(part, view.grouping));
            for mut row in view.arranged(parts.collect()) {
                let part = row.parts[0];
                let is_open = row.opens(view);
                rows.push(row);
                if is_open {
                    push_processes(&mut rows, part, 2, view);
                }
            }
        }
    }
    rows
}

fn push_processes<'a>(rows: &mut Vec<Row<'a>>, part: Part<'a>, depth: usize, view: &View) {
    let processes = part.stats.processes.iter().map(|process| Row::of_process(part, process, depth));
    rows.extend(view.arranged(processes.collect()));
}

impl View<'_> {
    /// Those that pass the filter, in order.
    fn arranged<'a>(&self, mut rows: Vec<Row<'a>>) -> Vec<Row<'a>> {
        if let Some(filter) = self.filter {
            rows.retain(|row| row.passes(filter));
        }
        let usual = |a: &Row, b: &Row| match self.sort {
            Sort::Cpu => b.used.cpu.total_cmp(&a.used.cpu),
            Sort::Memory => b.used.resident.cmp(&a.used.resident),
            Sort::Uptime => b.age.cmp(&a.age),
            Sort::Name => a.by_name(b),
        };
        let order = |a: &Row, b: &Row| {
            let order = usual(a, b);
            let order = if self.inverted { order.reverse() } else { order };
            // Equals keep their places from one frame to the next.
            order.then_with(|| a.by_name(b))
        };
        rows.sort_by(order);
        rows
    }
}

impl<'a> Row<'a> {
    /// A row at the top, of all that it is made of.
    fn of(spot: Spot, parts: Vec<Part<'a>>) -> Row<'a> {
        let name = match &spot {
            Spot::Node(_) => Cow::Borrowed(parts[0].node.as_str()),
            _ => Cow::Borrowed(parts[0].stats.name.as_str()),
        };
        let live = || parts.iter().filter(|part| part.silent.is_none());
        let wanted = |part: &Part| part.stats.wanted as usize;
        let spare = |part: &&Part| part.stats.state != WatcherState::Standby;
        let lease = parts[0].stats.lease.is_some() && matches!(spot, Spot::Watcher(_));
        Row {
            depth: 0,
            open: Some(false),
            name,
            ready: Some((
                parts.iter().map(Part::ready).sum(),
                match lease {
                    // Of a singleton one is wanted, however many stand by.
                    true => parts.iter().map(wanted).max().unwrap_or(0),
                    false => parts.iter().filter(spare).map(wanted).sum(),
                },
            )),
            used: Used::sum(live().map(|part| part.used)),
            age: live().filter_map(age).max(),
            state: state(&parts),
            note: note(&parts, matches!(spot, Spot::Node(_))),
            process: None,
            spot,
            parts,
        }
    }

    /// A watcher on a node, within its watcher or its node.
    fn of_part(part: Part<'a>, grouping: Grouping) -> Row<'a> {
        let name = match grouping {
            Grouping::Watchers => part.node.as_str(),
            Grouping::Nodes => part.stats.name.as_str(),
        };
        let silent = part.silent.is_some();
        Row {
            spot: Spot::Part(part.node.clone(), part.stats.name.clone()),
            depth: 1,
            open: Some(false),
            name: Cow::Borrowed(name),
            ready: Some((
                part.ready(),
                if part.stats.state == WatcherState::Standby { 0 } else { part.stats.wanted as usize },
            )),
            used: if silent { Used::default() } else { part.used },
            age: age(&part).filter(|_| !silent),
            state: if silent { "stale" } else { part.stats.state.word() },
            note: note(&[part], false),
            parts: vec![part],
            process: None,
        }
    }

    fn of_process(part: Part<'a>, process: &'a ProcessStats, depth: usize) -> Row<'a> {
        let ProcessStats { wid, pid, program, children, .. } = process;
        let below = match children {
            0 => String::new(),
            1 => ", 1 child".into(),
            some => format!(", {some} children"),
        };
        let silent = part.silent.is_some();
        Row {
            spot: Spot::Process(part.node.clone(), part.stats.name.clone(), *wid),
            depth,
            open: None,
            name: Cow::Owned(format!("#{wid} {pid} {program}{below}")),
            ready: None,
            used: if silent { Used::default() } else { process.used },
            age: (!silent).then_some(process.age),
            state: if silent { "stale" } else { &process.state },
            note: Cow::Borrowed(""),
            parts: vec![part],
            process: Some(process),
        }
    }

    /// Finds out whether what is below it shows.
    fn opens(&mut self, view: &View) -> bool {
        let below = self.parts.iter().any(|part| !part.stats.processes.is_empty()) || self.parts.len() > 1;
        self.open = below.then(|| view.open.contains(&self.spot));
        self.open == Some(true)
    }

    /// Whether it, or something below it, is asked for.
    fn passes(&self, filter: &Filter) -> bool {
        let own = |words: &str, row: &Row| {
            filter.fits(Facts {
                words,
                state: row.state,
                cpu: row.used.cpu,
                resident: row.used.resident,
                age: row.age.unwrap_or_default(),
            })
        };
        let of_part = |part: &Part| format!("{} {}", part.stats.name, part.node);
        match (&self.spot, self.process) {
            (Spot::Process(..), Some(process)) => {
                own(&format!("{} {} {}", of_part(&self.parts[0]), process.pid, process.program), self)
            }
            (Spot::Part(..) | Spot::Process(..), _) => {
                let part = self.parts[0];
                let within = || part.stats.processes.iter().map(|process| Row::of_process(part, process, 2));
                own(&of_part(&part), self) || within().any(|row| row.passes(filter))
            }
            (Spot::Watcher(_) | Spot::Node(_), _) => {
                let within = || self.parts.iter().map(|part| Row::of_part(*part, Grouping::Watchers));
                own(&self.name, self) || within().any(|row| row.passes(filter))
            }
        }
    }

    fn by_name(&self, other: &Row) -> Ordering {
        let slot = |row: &Row| row.process.map(|process| process.wid);
        slot(self).cmp(&slot(other)).then_with(|| self.name.cmp(&other.name))
    }

    /// Its CPU, step by step; of a single process none is kept.
    pub(super) fn curve(&self, count: usize) -> Vec<Option<f32>> {
        match self.process {
            Some(_) => Vec::new(),
            None => Curve::sum(self.parts.iter().filter(|part| part.silent.is_none()).map(Part::curve), count),
        }
    }

    /// The process that it is about.
    pub(super) fn process(&self) -> Option<&'a ProcessStats> {
        self.process
    }
}

fn age(part: &Part) -> Option<Duration> {
    part.stats.processes.iter().map(|process| process.age).max()
}

/// How all of them are together. What nobody knows of some of them is not well.
fn state(parts: &[Part]) -> &'static str {
    let live = || parts.iter().filter(|part| part.silent.is_none());
    let worst = live().map(|part| part.stats.state).max_by_key(|state| weight(*state));
    match worst {
        None => "stale",
        Some(WatcherState::Active | WatcherState::Listening | WatcherState::Scheduled) if missed(parts).is_some() => {
            "degraded"
        }
        Some(state) => state.word(),
    }
}

/// One that is silent and would matter: of a singleton that runs, nobody else does.
fn missed<'b, 'a>(parts: &'b [Part<'a>]) -> Option<&'b Part<'a>> {
    let runs = |part: &Part| part.silent.is_none() && part.lease().is_some_and(|lease| lease.token.is_some());
    let held = |name| parts.iter().any(|part| part.stats.name == name && runs(part));
    parts.iter().find(|part| part.silent.is_some() && !(part.lease().is_some() && held(part.stats.name.clone())))
}

/// Which of several states speaks for all: the worst, and of those that are well the one that does something.
fn weight(state: WatcherState) -> u8 {
    match state {
        WatcherState::Failed => 9,
        WatcherState::Backoff => 8,
        WatcherState::Unhealthy => 7,
        WatcherState::Stopping => 6,
        WatcherState::Starting => 5,
        WatcherState::Active => 4,
        WatcherState::Scheduled => 3,
        WatcherState::Listening => 2,
        WatcherState::Standby => 1,
        WatcherState::Stopped => 0,
    }
}

/// What there is to say: of nodes that are silent, and of watchers that are not well.
fn note<'a>(parts: &[Part<'a>], of_node: bool) -> Cow<'a, str> {
    if let Some((node, silent)) = missed(parts).and_then(|part| Some((part.node, part.silent?))) {
        return Cow::Owned(format!("{node} silent for {} s", silent.as_secs()));
    }
    let worst = parts.iter().filter(|part| part.stats.note.is_some()).max_by_key(|part| weight(part.stats.state));
    let Some((part, note)) = worst.and_then(|part| Some((part, part.stats.note.as_deref()?))) else {
        return Cow::Borrowed("");
    };
    // That some stand by while one runs is no news.
    let is_spare = part.stats.state == WatcherState::Standby;
    match parts.len() {
        1 if !of_node => Cow::Borrowed(note),
        _ if is_spare => Cow::Borrowed(""),
        _ if of_node => Cow::Owned(format!("{}: {note}", part.stats.name)),
        _ => Cow::Owned(format!("{}: {note}", part.node)),
    }
}
