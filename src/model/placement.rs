//! Which node gets the next process: a choice of one among those that can.
//!
//! A node can where it is up, fits what the asker says of nodes, has the watcher (for a new one: has none of that name),
//! and has room for it, which `max_per_node` bounds. Of those that can the strategy prefers one; what it sees as equal is
//! decided by the name, so that the same registry always leads to the same node.
//!
//! | strategy | prefers |
//! |---|---|
//! | `least-loaded` | the least load for each processor, then the fewest processes of the watcher |
//! | `spread` | the fewest processes of the watcher, then the least load |
//! | `pack` | the most processes of the watcher, then the least load |

use super::command::{Command, NodeRow, NodeState, Refusal, Selector, Strategy};
use super::names::{NodeName, is_called};
use super::pattern::Pattern;

/// Loads that differ by less than this for each processor are the same: they change while one looks.
const LOAD_STEP: f64 = 0.05;

/// What is to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task<'a> {
    /// So many more processes of a watcher.
    More { watcher: &'a str, by: u64 },
    /// A watcher that is stopped there.
    Start { watcher: &'a str },
    /// A watcher that is not there yet.
    New { watcher: &'a str },
}

/// The node that `command` goes to.
///
/// # Errors
/// It is no command that is placed, or no node can take it: then each is named with the reason.
pub fn place(
    strategy: Strategy,
    selector: &Selector,
    command: &Command,
    rows: &[NodeRow],
) -> Result<NodeName, Refusal> {
    let task = Task::of(command)?;
    let mut meant: Vec<&NodeRow> =
        rows.iter().filter(|row| row.state != NodeState::Gone && selector.fits(&row.name, &row.about.labels)).collect();
    meant.sort_by_key(|row| &row.name);
    let mut able: Vec<&NodeRow> = meant.iter().copied().filter(|row| task.obstacle(row).is_none()).collect();
    // Stable: of equals the first by name.
    able.sort_by_key(|row| {
        let (load, count) = (load(row), task.count(row));
        match strategy {
            Strategy::LeastLoaded => (load, count),
            Strategy::Spread => (count, load),
            Strategy::Pack => (u64::MAX - count, load),
        }
    });
    if let Some(row) = able.first() {
        return Ok(row.name.clone());
    }
    let why = |row: &&NodeRow| Some(format!("{} {}", row.name, task.obstacle(row)?));
    let why: Vec<String> = meant.iter().filter_map(why).collect();
    let why = if why.is_empty() { "none is meant that is there".into() } else { why.join(", ") };
    Err(Refusal::NoCandidate(format!("no node can take {}: {why}", task.watcher())))
}

impl<'a> Task<'a> {
    fn of(command: &'a Command) -> Result<Task<'a>, Refusal> {
        match command {
            Command::Resize { watcher, by, .. } if *by > 0 => Ok(Task::More { watcher, by: by.unsigned_abs() }),
            Command::Add { name, .. } => Ok(Task::New { watcher: name }),
            Command::Start { pattern: Some(Pattern::Name(watcher)), .. } => Ok(Task::Start { watcher }),
            Command::Start { pattern: Some(Pattern::Glob(watcher)), .. } if !watcher.contains(['*', '?', '[']) => {
                Ok(Task::Start { watcher })
            }
            Command::Start { .. } => Err(Refusal::BadMessage("one watcher is started on any node: name it".into())),
            _ => Err(Refusal::BadMessage("only incr, start and add leave it open which node does it".into())),
        }
    }

    fn watcher(&self) -> &'a str {
        match self {
            Task::More { watcher, .. } | Task::Start { watcher } | Task::New { watcher } => watcher,
        }
    }

    /// Why a node cannot take it, after its name.
    fn obstacle(&self, row: &NodeRow) -> Option<String> {
        let has = row.about.watchers.iter().any(|own| is_called(own, self.watcher()));
        let count = self.count(row);
        let most =
            row.about.most.iter().find(|(own, _)| is_called(own, self.watcher())).map(|(_, most)| u64::from(*most));
        let runs = row.about.wanted.keys().any(|own| is_called(own, self.watcher()));
        match (self, has) {
            _ if row.state != NodeState::Up => Some(format!("is {}", row.state.word())),
            _ if row.about.is_strange() => Some("speaks another protocol".into()),
            (Task::New { .. }, true) => Some("has it already".into()),
            (Task::More { .. } | Task::Start { .. }, false) => Some("does not have it".into()),
            (Task::More { .. }, true) if row.about.holds.iter().any(|own| is_called(own, self.watcher())) => {
                Some("has it as a singleton".into())
            }
            (Task::More { by, .. }, true) => most
                .filter(|most| count.saturating_add(*by) > *most)
                .map(|most| format!("has {count} of {most} at most")),
            (Task::Start { .. }, true) if runs => Some("runs it already".into()),
            (Task::Start { .. }, true) | (Task::New { .. }, false) => None,
        }
    }

    /// How many processes of it are wanted there.
    fn count(&self, row: &NodeRow) -> u64 {
        row.about
            .wanted
            .iter()
            .find(|(own, _)| is_called(own, self.watcher()))
            .map_or(0, |(_, count)| u64::from(*count))
    }
}

/// The load for each processor, in steps; one that is not known is the greatest.
fn load(row: &NodeRow) -> u64 {
    let machine = &row.about.machine;
    match machine.cores {
        0 => u64::MAX,
        cores => (machine.load / f64::from(cores) / LOAD_STEP) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{NodeAbout, PROTOCOL, Patience};
    use crate::model::event::Changes;
    use crate::model::names::{Label, NodeWord};
    use crate::model::stats::Machine;
    use std::time::Duration;

    /// A node of four processors with `count` processes of `web`.
    fn row(name: &str, load: f64, count: u32) -> NodeRow {
        let about = NodeAbout {
            watchers: vec!["web".into(), "off".into()],
            wanted: [("web".into(), count)].into(),
            machine: Machine { cores: 4, load, ..Machine::default() },
            labels: [("zone".into(), name[..1].into())].into(),
            protocol: PROTOCOL,
            ..NodeAbout::default()
        };
        NodeRow { name: NodeName::parse(name).unwrap(), state: NodeState::Up, seen: Duration::ZERO, about }
    }

    fn incr(by: i64) -> Command {
        Command::Resize { watcher: "WEB".into(), by, patience: Patience::Admitted }
    }

    fn placed(strategy: Strategy, selector: &Selector, command: &Command, rows: &[NodeRow]) -> String {
        place(strategy, selector, command, rows).map_or_else(|why| why.to_string(), |node| node.to_string())
    }

    #[test]
    fn each_strategy_prefers_what_its_name_says() {
        use Strategy::{LeastLoaded, Pack, Spread};
        let most = |mut row: NodeRow, most: u32| {
            row.about.most = [("web".into(), most)].into();
            row
        };
        let unknown = |mut row: NodeRow| {
            row.about.machine.cores = 0;
            row
        };
        let table = [
            (LeastLoaded, vec![row("a", 2.0, 1), row("b", 1.0, 9)], "b"),
            (LeastLoaded, vec![row("a", 1.02, 3), row("b", 1.0, 2)], "b"),
            (LeastLoaded, vec![row("b", 1.0, 2), row("a", 1.0, 2)], "a"),
            (LeastLoaded, vec![unknown(row("a", 0.0, 0)), row("b", 9.0, 2)], "b"),
            (LeastLoaded, vec![most(row("a", 0.0, 4), 4), row("b", 9.0, 2)], "b"),
            (Spread, vec![row("a", 0.0, 2), row("b", 9.0, 1)], "b"),
            (Spread, vec![row("a", 2.0, 1), row("b", 1.0, 1)], "b"),
            (Spread, vec![most(row("a", 0.0, 0), 0), row("b", 9.0, 8)], "b"),
            (Pack, vec![row("a", 0.0, 2), row("b", 9.0, 3)], "b"),
            (Pack, vec![row("a", 0.0, 2), most(row("b", 0.0, 3), 3)], "a"),
            (Pack, vec![row("a", 2.0, 3), row("b", 1.0, 3)], "b"),
        ];
        for (strategy, rows, node) in table {
            assert_eq!(placed(strategy, &Selector::default(), &incr(1), &rows), node, "{strategy:?} {rows:?}");
        }
    }

    #[test]
    fn only_who_can_is_chosen_and_the_reasons_are_told() {
        let mut rows = vec![row("a1", 0.0, 2), row("b1", 1.0, 2), row("b2", 2.0, 4), row("c1", 3.0, 1)];
        let zone = |zone: &str| Selector { labels: vec![Label::parse(zone).unwrap()], ..Selector::default() };
        let named = |word: &str| Selector { nodes: vec![NodeWord::parse(word).unwrap()], ..Selector::default() };
        let (any, least) = (Selector::default(), Strategy::LeastLoaded);
        assert_eq!(placed(least, &zone("zone=b"), &incr(1), &rows), "b1");
        assert_eq!(placed(least, &named("?2"), &incr(1), &rows), "b2");
        let none = placed(least, &zone("zone=z"), &incr(1), &rows);
        assert_eq!(none, "no node can take WEB: none is meant that is there");

        rows[0].state = NodeState::Draining;
        rows[1].state = NodeState::Gone;
        rows[2].about.most = [("Web".into(), 4)].into();
        rows[3].about.watchers.clear();
        let full = placed(least, &any, &incr(1), &rows);
        assert_eq!(full, "no node can take WEB: a1 is draining, b2 has 4 of 4 at most, c1 does not have it");
        rows[2].about.most = [("web".into(), 6)].into();
        assert_eq!(placed(least, &any, &incr(2), &rows), "b2");
        assert!(placed(least, &any, &incr(3), &rows).contains("b2 has 4 of 6 at most"));
        rows[2].about.protocol = PROTOCOL + 2;
        assert!(placed(least, &any, &incr(1), &rows).contains("b2 speaks another protocol"));
    }

    #[test]
    fn a_start_goes_where_it_is_stopped_and_a_new_one_where_it_is_not() {
        let patience = Patience::Admitted;
        let start = |pattern| Command::Start { pattern, patience };
        let glob = |name: &str| start(Some(Pattern::Glob(name.into())));
        let add = |name: &str| Command::Add { name: name.into(), changes: Changes::default(), start: true, patience };
        let mut rows = vec![row("a", 0.0, 1), row("b", 9.0, 1)];
        let of = |command: &Command, rows: &[NodeRow]| placed(Strategy::Spread, &Selector::default(), command, rows);
        assert_eq!(of(&glob("web"), &rows), "no node can take web: a runs it already, b runs it already");
        rows[1].about.wanted.clear();
        assert_eq!(of(&glob("Web"), &rows), "b");
        assert_eq!(of(&add("job"), &rows), "a");
        rows[0].about.watchers.push("job".into());
        assert_eq!(of(&add("job"), &rows), "b");
        for command in [start(None), glob("w*"), incr(-1), incr(0), Command::Version] {
            assert!(place(Strategy::Spread, &Selector::default(), &command, &rows).is_err(), "{command:?}");
        }
    }
}
