//! What became of the times of a schedule: the facts about each slot that are kept, and the runs that they tell of.
//!
//! Where a slot is claimed, the claim is the first fact, and the store writes it down in the very step that grants it: so
//! it is known that a run was somebody's whatever becomes of that node. The others are told by the node that runs it. One
//! that is killed tells no end, and none is made up for it: such a run is [`Outcome::Unfinished`].
//!
//! [`fold`] is pure and knows no order: a node that was cut off may tell of an end when later slots have long had theirs.

use std::collections::{BTreeMap, VecDeque};

use super::event::Exit;
use super::history::{Entry, What};
use super::spec::Slot;
use super::time::Time;

/// Of how many facts are kept about one schedule, at least: those of a hundred slots and more.
pub const KEPT: usize = 400;

/// What can be told of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It was claimed for a tenure.
    Claimed,
    /// Its process ran.
    Began { pid: u32 },
    /// Its process ended, or never began; `told`: because it was told to, or its lease was over.
    Ended { how: How, told: bool },
    /// It has no run, for this reason, as the node says that could have run it.
    PassedOver { why: String },
    /// It was over when this node could first have run it: nobody else has a run of it that is known.
    Missed { why: String },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// Its process did so.
    Exit(Exit),
    /// Its process could not be started, or was ended because it was unwell: why.
    Failed(String),
}

/// One slot of a schedule. Times are milliseconds of the Unix epoch, by the clock of the store where that keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which.
    pub slot: Slot,
    /// The node that ran it, or was to.
    pub node: String,
    /// Under which token; nothing where it runs without a lease.
    pub token: Option<u64>,
    /// Its process.
    pub pid: Option<u32>,
    /// When its process began.
    pub began: Option<u64>,
    /// When it ended.
    pub ended: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Running,
    /// Its process ended with exit 0.
    Done,
    /// It ended otherwise, or could not be started.
    Failed(How),
    /// It was told to end, or its lease was over, and it ended otherwise than with exit 0.
    Stopped(How),
    /// It began, or was about to; of its end nothing was heard.
    Unfinished,
    /// There was none, for this reason.
    NoRun(String),
}

impl Outcome {
    /// The word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Done => "done",
            Outcome::Failed(_) => "failed",
            Outcome::Stopped(_) => "stopped",
            Outcome::Unfinished => "unfinished",
            Outcome::NoRun(_) => "no-run",
        }
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            How::Exit(exit) => exit.fmt(f),
            How::Failed(why) => f.write_str(why),
        }
    }
}

/// The facts that an agent keeps by itself about a schedule without a lease.
#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    /// What the clock on the wall showed when it was last looked at.
    wall: Option<(u64, Time)>,
}

impl Journal {
    /// The clock on the wall shows this, ms.
    pub fn set_clock(&mut self, now: Time, wall: u64) {
        self.wall = Some((wall, now));
    }

    /// Keeps a fact about a node's schedule. What came before the first look at the clock is of no slot.
    pub fn note(&mut self, now: Time, node: &str, what: What) {
        let Some((wall, then)) = self.wall else { return };
        let at = wall.saturating_add(u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX));
        self.entries.push_back(Entry { token: WITHOUT, node: node.to_owned(), at, slack: 0, what, before: None });
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }

    /// The runs that it tells of, the latest slot first.
    pub fn runs(&self) -> Vec<Run> {
        let entries: Vec<Entry> = self.entries.iter().cloned().collect();
        fold(&entries, Some(WITHOUT))
    }
}

/// The token of what has no lease.
const WITHOUT: u64 = 0;

/// The runs that these facts tell of, the latest slot first. `holder` is the token that holds the lease now, where that is
/// known: only its runs can be going on, as nothing is left of any other's.
pub fn fold(entries: &[Entry], holder: Option<u64>) -> Vec<Run> {
    let mut slots: BTreeMap<Slot, Vec<(&Entry, &Turn)>> = BTreeMap::new();
    for entry in entries {
        if let What::Run { slot, turn, .. } = &entry.what {
            slots.entry(*slot).or_default().push((entry, turn));
        }
    }
    // What was over before anything was known of a schedule may have been before there was one.
    let is_before_all = |slot: &Slot, facts: &[(&Entry, &Turn)]| {
        let is_missed = |(_, turn): &(&Entry, &Turn)| matches!(turn, Turn::Missed { .. });
        facts.iter().all(is_missed) && slots.range(..*slot).next().is_none()
    };
    let told = slots.iter().rev().filter(|(slot, facts)| !is_before_all(slot, facts));
    told.filter_map(|(slot, facts)| run(*slot, facts, holder)).collect()
}

/// What the facts about one slot come to: it is of the tenure that got furthest with it.
fn run(slot: Slot, facts: &[(&Entry, &Turn)], holder: Option<u64>) -> Option<Run> {
    let rank = |(entry, turn): &&(&Entry, &Turn)| match turn {
        Turn::Ended { .. } => (4, entry.token, 0),
        Turn::Began { .. } => (3, entry.token, 0),
        // Who has claimed it and says that it has no run has the last word of both.
        Turn::PassedOver { .. } => (2, entry.token, 1),
        Turn::Claimed => (2, entry.token, 0),
        Turn::Missed { .. } => (1, entry.token, 0),
    };
    let (last, turn) = facts.iter().max_by_key(rank)?;
    // Where one fact was told twice, the better measured counts.
    let best = |is: fn(&Turn) -> bool| {
        let same = facts.iter().filter(|(entry, turn)| entry.token == last.token && is(turn));
        same.min_by_key(|(entry, _)| (entry.slack, entry.at))
    };
    let began = best(|turn| matches!(turn, Turn::Began { .. }));
    let ended = best(|turn| matches!(turn, Turn::Ended { .. }));
    let outcome = match turn {
        Turn::Ended { how: How::Exit(Exit::Code(0)), .. } => Outcome::Done,
        Turn::Ended { how, told: true } => Outcome::Stopped(how.clone()),
        Turn::Ended { how, told: false } => Outcome::Failed(how.clone()),
        Turn::Began { .. } | Turn::Claimed if holder == Some(last.token) => Outcome::Running,
        Turn::Began { .. } | Turn::Claimed => Outcome::Unfinished,
        Turn::PassedOver { why } | Turn::Missed { why } => Outcome::NoRun(why.clone()),
    };
    Some(Run {
        slot,
        node: last.node.clone(),
        token: Some(last.token).filter(|token| *token != WITHOUT),
        pid: began.and_then(|(_, turn)| match turn {
            Turn::Began { pid } => Some(*pid),
            _ => None,
        }),
        began: began.map(|(entry, _)| entry.at),
        // Each was measured by itself, give or take its slack.
        ended: ended.map(|(entry, _)| began.map_or(entry.at, |(began, _)| entry.at.max(began.at))),
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::WatcherName;
    use crate::model::random::Random;

    fn fact(slot: u64, token: u64, node: &str, at: u64, turn: Turn) -> Entry {
        let watcher = WatcherName::parse("job").unwrap();
        let what = What::Run { watcher, slot: Slot(slot), turn };
        Entry { token, node: node.into(), at, slack: 1, what, before: None }
    }

    fn ended(code: i32) -> Turn {
        Turn::Ended { how: How::Exit(Exit::Code(code)), told: false }
    }

    fn missed() -> Turn {
        Turn::Missed { why: "too late".into() }
    }

    fn passed(why: &str) -> Turn {
        Turn::PassedOver { why: why.into() }
    }

    /// A run that is well, one whose node is killed, one that fails elsewhere, one that has no run, and one that goes on.
    fn story() -> Vec<Entry> {
        vec![
            fact(60, 1, "a", 60_005, Turn::Claimed),
            fact(60, 1, "a", 60_020, Turn::Began { pid: 7 }),
            fact(60, 1, "a", 61_000, ended(0)),
            fact(120, 1, "a", 120_005, Turn::Claimed),
            fact(120, 1, "a", 120_030, Turn::Began { pid: 8 }),
            // b takes over, when it is too late: a has it all the same.
            fact(120, 2, "b", 140_000, missed()),
            fact(180, 2, "b", 180_005, Turn::Claimed),
            fact(180, 2, "b", 180_010, Turn::Began { pid: 9 }),
            fact(180, 2, "b", 290_000, ended(3)),
            fact(240, 2, "b", 240_000, passed("the run before goes on")),
            fact(300, 2, "b", 300_005, Turn::Claimed),
        ]
    }

    #[test]
    fn runs_tell_what_became_of_each_slot() {
        let runs = fold(&story(), Some(2));
        let rows: Vec<_> = runs.iter().map(|run| (run.slot.0, &*run.node, run.token, run.outcome.clone())).collect();
        assert_eq!(
            rows,
            [
                (300, "b", Some(2), Outcome::Running),
                (240, "b", Some(2), Outcome::NoRun("the run before goes on".into())),
                (180, "b", Some(2), Outcome::Failed(How::Exit(Exit::Code(3)))),
                (120, "a", Some(1), Outcome::Unfinished),
                (60, "a", Some(1), Outcome::Done),
            ]
        );
        assert_eq!((runs[4].began, runs[4].ended, runs[4].pid), (Some(60_020), Some(61_000), Some(7)));
        assert_eq!((runs[3].began, runs[3].ended, runs[3].pid), (Some(120_030), None, Some(8)));
        for holder in [None, Some(3)] {
            assert_eq!(fold(&story(), holder)[0].outcome, Outcome::Unfinished, "nobody says that it goes on");
        }
    }

    #[test]
    fn an_end_that_is_told_late_is_as_good_as_one_told_in_time() {
        let mut entries = story();
        entries.push(fact(120, 1, "a", 121_000, ended(0)));
        assert_eq!(fold(&entries, Some(2))[3].outcome, Outcome::Done);
    }

    #[test]
    fn no_slack_ends_a_run_before_it_began() {
        let short = [fact(60, 1, "a", 60_020, Turn::Began { pid: 7 }), fact(60, 1, "a", 60_019, ended(0))];
        assert_eq!(fold(&short, None)[0].ended, Some(60_020));
    }

    #[test]
    fn a_claim_that_came_to_nothing_is_no_run() {
        let nothing = [fact(60, 1, "a", 60_000, Turn::Claimed), fact(60, 1, "a", 70_000, passed("no answer"))];
        assert_eq!(fold(&nothing, Some(1))[0].outcome, Outcome::NoRun("no answer".into()));
        // Who could not, and who did: whichever came first.
        for (one, two) in [(1, 2), (2, 1)] {
            let both =
                [fact(60, one, "a", 60_000, passed("no time")), fact(60, two, "b", 60_010, Turn::Began { pid: 7 })];
            assert_eq!((&*fold(&both, None)[0].node, &fold(&both, None)[0].outcome), ("b", &Outcome::Unfinished));
        }
    }

    #[test]
    fn a_slot_from_before_all_that_is_known_is_not_made_up() {
        let first = [fact(60, 1, "a", 99_000, missed())];
        assert_eq!(fold(&first, Some(1)), []);
        let later = [fact(60, 1, "a", 61_000, ended(0)), fact(120, 2, "b", 190_000, missed())];
        assert_eq!(fold(&later, Some(2))[0].outcome, Outcome::NoRun("too late".into()));
    }

    #[test]
    fn no_order_and_no_repetition_changes_what_is_told() {
        let mut random = Random::from_number(5);
        let told = fold(&story(), Some(2));
        for _ in 0..300 {
            let mut below = |end: usize| random.number() as usize % end;
            let mut shuffled = story();
            let again = below(shuffled.len());
            let double = Entry { at: shuffled[again].at + 300, slack: 90, ..shuffled[again].clone() };
            shuffled.push(double);
            for at in (1..shuffled.len()).rev() {
                shuffled.swap(at, below(at + 1));
            }
            assert_eq!(fold(&shuffled, Some(2)), told, "{shuffled:?}");
        }
    }

    #[test]
    fn a_journal_is_bounded_and_tells_the_time_on_the_wall() {
        let mut journal = Journal::default();
        let watcher = WatcherName::parse("job").unwrap();
        let began = |slot| What::Run { watcher: watcher.clone(), slot: Slot(slot), turn: Turn::Began { pid: 7 } };
        journal.note(Time::ZERO, "a", began(1));
        assert_eq!(journal.runs(), [], "it has not looked at the clock");
        journal.set_clock(Time::ZERO, 50_000);
        for slot in 0..KEPT as u64 + 9 {
            journal.note(Time::ZERO + std::time::Duration::from_secs(slot), "a", began(slot));
        }
        let runs = journal.runs();
        assert_eq!((runs.len(), runs[0].slot.0, runs[0].token), (KEPT, KEPT as u64 + 8, None));
        assert_eq!(runs[0].began, Some(50_000 + 1_000 * (KEPT as u64 + 8)));
    }
}
