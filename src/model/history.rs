//! What has been with a lease: the facts about its tenures that the store keeps, and the tenures that they tell of.
//!
//! A *tenure* is the time under one token. At most two facts are kept of each, both measured by the node that had it:
//! when the first child of it ran, and when the last of its tree was gone. Restarts in place are neither. What a node
//! could not tell, because it was killed, the next one brings: whom the store knew before it, and since when not any more.
//!
//! [`fold`] is pure and knows no order: a node that was cut off may report its end long after others began.

use std::collections::BTreeMap;

use super::names::WatcherName;
use super::runs::{Run, Turn};
use super::spec::Slot;
use super::time::Time;

/// Of how many facts the store keeps about one lease, at least: those of a hundred tenures and more.
pub const KEPT: usize = 256;

/// For how long moves are counted, ms.
const WEEK: u64 = 7 * 24 * 3_600 * 1_000;

/// A fact as its node orders it to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Of which tenure.
    pub token: u64,
    /// When it was so, by this machine's clock.
    pub at: Time,
    /// What was so.
    pub what: What,
}

/// What can be told of a tenure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Its first child ran.
    Started { pid: u32 },
    /// Nothing was left of its children.
    Ended(Ending),
    /// It is over, and no child of it ever ran.
    Idle(Ending),
    /// Its node was called `from` until then. Of no tenure: of all that it had.
    Renamed { from: String },
    /// Of a slot of a schedule that goes by the lease: [`super::runs`] puts these together.
    Run { watcher: WatcherName, slot: Slot, turn: Turn },
}

/// Why a tenure ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// In a word.
    pub cause: Cause,
    /// What there is to add: where it went, what failed.
    pub detail: Option<String>,
    /// Who wanted it so, where somebody did.
    pub by: Option<String>,
}

impl Ending {
    /// One that nobody asked for and that needs no more words.
    pub fn of(cause: Cause) -> Ending {
        Ending { cause, detail: None, by: None }
    }
}

/// The causes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was moved, to the node in the detail.
    Moved,
    /// Its watcher was stopped on the holder.
    Stopped,
    /// The holder's agent was told to end.
    AgentStopping,
    /// Its watcher was removed.
    Removed,
    /// Its watcher became something else.
    Changed,
    /// The store gave the lease to somebody else.
    Taken,
    /// The store did not confirm it in time.
    Unconfirmed,
    /// It was over before anything else was known.
    Expired,
    /// Its child did not run there.
    GaveUp,
    /// Its child ended, and is not to be replaced.
    Finished,
    /// A better member took over, the node in the detail.
    Preempted,
    /// Too few of its members lived.
    NoQuorum,
    /// It was paused: nobody is to have it.
    Paused,
    /// A drill did what is in the detail to its holder: told by the drill's witness, not by the holder.
    Drilled,
}

impl Cause {
    const ALL: [Cause; 14] = [
        Cause::Moved,
        Cause::Stopped,
        Cause::AgentStopping,
        Cause::Removed,
        Cause::Changed,
        Cause::Taken,
        Cause::Unconfirmed,
        Cause::Expired,
        Cause::GaveUp,
        Cause::Finished,
        Cause::Preempted,
        Cause::NoQuorum,
        Cause::Paused,
        Cause::Drilled,
    ];

    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Moved => "moved",
            Cause::Stopped => "stopped",
            Cause::AgentStopping => "agent-stopping",
            Cause::Removed => "removed",
            Cause::Changed => "changed",
            Cause::Taken => "taken",
            Cause::Unconfirmed => "unconfirmed",
            Cause::Expired => "expired",
            Cause::GaveUp => "gave-up",
            Cause::Finished => "finished",
            Cause::Preempted => "preempted",
            Cause::NoQuorum => "no-quorum",
            Cause::Paused => "paused",
            Cause::Drilled => "drilled",
        }
    }

    /// The cause of this word.
    pub fn parse(word: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.word() == word)
    }
}

/// A fact as the store has it. Times are milliseconds of the Unix epoch by the store's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of which tenure.
    pub token: u64,
    /// Whose that was.
    pub node: String,
    /// When it was so.
    pub at: u64,
    /// How far `at` may be off, either way.
    pub slack: u64,
    /// What was so.
    pub what: What,
    /// Of a start: what the store knew of the tenure before.
    pub before: Option<Before>,
}

/// What the store knew of a tenure when the next one began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// Its token.
    pub token: u64,
    /// Whose it was; as text where no agent of ours wrote it.
    pub node: String,
    /// When it was last heard of: its last confirmed refresh, or its release.
    pub seen: Option<u64>,
    /// How it went.
    pub left: Left,
}

/// How a tenure went, as far as the store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Its holder gave it back.
    Released,
    /// Its holder fell silent, and its time ran out.
    Expired,
    /// Nothing was left of its holder: the kernel says so on one machine.
    Died,
}

impl Left {
    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Left::Released => "released",
            Left::Expired => "expired",
            Left::Died => "died",
        }
    }

    /// That of this word.
    pub fn parse(word: &str) -> Option<Left> {
        [Left::Released, Left::Expired, Left::Died].into_iter().find(|left| left.word() == word)
    }
}

/// What is known of one lease, or of a watcher that runs at times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// What became of its slots, the latest first; nothing: it does not run at times.
    pub runs: Option<Vec<Run>>,
    /// Its tenures, the latest first.
    pub tenures: Vec<Tenure>,
    /// The longest time without a child between two of them.
    pub worst_gap: Option<Gap>,
    /// How often it came to another node within seven days.
    pub moves: usize,
    /// How often a child started before the last of an earlier tenure was gone. Must never be.
    pub overlaps: usize,
}

/// One tenure. Times are milliseconds, as in [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    /// Its token.
    pub token: u64,
    /// The node that had it before.
    pub from: Option<String>,
    /// The node that has it, or had.
    pub to: String,
    /// When its first child ran; nothing: none ever did, or that is not kept any more.
    pub start: Option<u64>,
    /// That child.
    pub pid: Option<u32>,
    /// When nothing was left of it, where that was told.
    pub end: Option<u64>,
    /// For how long nothing ran before it.
    pub gap: Option<Gap>,
    /// For how long it ran beside an earlier one; nothing: the earlier one's end was not measured.
    pub overlap: Option<u64>,
    /// Why it came here.
    pub why: Why,
}

/// A time without a child, ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How long.
    pub ms: u64,
    /// Whether it was perhaps shorter: who had it before could not tell its end, and is counted from its last sign of life.
    pub at_most: bool,
}

/// Why a lease came to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Nothing is known to have been before.
    First,
    /// The tenure before ended for this reason, as its node told.
    Ended(Ending),
    /// The tenure before was over, as the store knows.
    Over(Before),
    /// What was before is not kept any more.
    Unknown,
}

/// The two facts of one tenure.
#[derive(Default)]
struct Facts<'a> {
    started: Option<&'a Entry>,
    ended: Option<&'a Entry>,
}

impl<'a> Facts<'a> {
    /// Takes one in. Where one fact was told twice, the better measured counts. A drill's witness knows best: the holder
    /// was dead, frozen or cut off when its child ended, and notices later.
    fn add(&mut self, entry: &'a Entry) {
        let place = match entry.what {
            What::Started { .. } => &mut self.started,
            What::Ended(_) | What::Idle(_) => &mut self.ended,
            What::Renamed { .. } | What::Run { .. } => return,
        };
        let witnessed = |entry: &Entry| matches!(&entry.what, What::Ended(ending) if ending.cause == Cause::Drilled);
        let rank = |entry: &Entry| (!witnessed(entry), entry.slack, entry.at);
        if place.is_none_or(|old| rank(entry) < rank(old)) {
            *place = Some(entry);
        }
    }

    fn node(&self) -> Option<&'a str> {
        self.started.or(self.ended).map(|entry| entry.node.as_str())
    }

    fn ending(&self) -> Option<&'a Ending> {
        match &self.ended?.what {
            What::Ended(ending) | What::Idle(ending) => Some(ending),
            What::Started { .. } | What::Renamed { .. } | What::Run { .. } => None,
        }
    }

    /// Whether a child ran, also where its start was lost with the store's data.
    fn ran(&self) -> bool {
        self.started.is_some() || self.ended.is_some_and(|ended| matches!(ended.what, What::Ended(_)))
    }
}

/// What these facts tell, in whichever order they come; `now` by the store's clock.
pub fn fold(entries: &[Entry], now: u64) -> History {
    let entries = under_latest_names(entries);
    let mut known: BTreeMap<u64, Facts> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !matches!(entry.what, What::Renamed { .. } | What::Run { .. })) {
        known.entry(entry.token).or_default().add(entry);
    }
    let mut history = History::default();
    for (token, facts) in &known {
        let before = facts.started.and_then(|started| started.before.as_ref());
        let earlier = known.range(..token);
        let previous = match before {
            Some(before) => known.get(&before.token),
            None => earlier.clone().next_back().map(|(_, facts)| facts),
        };
        let why = match (previous, before) {
            (Some(Facts { ended: Some(_), .. }), _) => {
                previous.and_then(Facts::ending).map_or(Why::Unknown, |ending| Why::Ended(ending.clone()))
            }
            (_, Some(before)) => Why::Over(before.clone()),
            (Some(_), None) => Why::Unknown,
            (None, None) => Why::First,
        };
        let from = before.map(|before| before.node.as_str()).or_else(|| previous.and_then(Facts::node));
        let (gap, overlap) = match facts.started {
            // Of a tenure that is not kept nobody knows whether a child ran in it.
            Some(_) if before.is_some() && previous.is_none() => (None, None),
            Some(started) => between(earlier, started),
            None => (None, None),
        };
        let to = facts.node().unwrap_or_default();
        if let Some(started) = facts.started
            && started.at + WEEK >= now
            && from.is_some_and(|from| from != to)
        {
            history.moves += 1;
        }
        history.overlaps += usize::from(overlap.is_some_and(|overlap| overlap > 0));
        if let Some(gap) = gap
            && history.worst_gap.is_none_or(|worst| worst.ms < gap.ms)
        {
            history.worst_gap = Some(gap);
        }
        history.tenures.push(Tenure {
            token: *token,
            from: from.map(str::to_owned),
            to: to.to_owned(),
            start: facts.started.map(|started| started.at),
            pid: facts.started.and_then(|started| match started.what {
                What::Started { pid } => Some(pid),
                What::Ended(_) | What::Idle(_) | What::Renamed { .. } | What::Run { .. } => None,
            }),
            end: facts.ended.map(|ended| ended.at),
            gap,
            overlap,
            why,
        });
    }
    history.tenures.reverse();
    history
}

/// These facts with each node called what it is called now. A name that one node gave up may be another's later: it is
/// the first one's in what was before.
fn under_latest_names(entries: &[Entry]) -> Vec<Entry> {
    let renaming = |entry: &Entry| match &entry.what {
        What::Renamed { from } => Some((entry.at + entry.slack, from.clone(), entry.node.clone())),
        What::Started { .. } | What::Ended(_) | What::Idle(_) | What::Run { .. } => None,
    };
    let mut renamings: Vec<_> = entries.iter().filter_map(renaming).collect();
    renamings.sort();
    let rename = |name: &mut String, at: u64| {
        for (until, from, to) in &renamings {
            if at <= *until && from == name {
                name.clone_from(to);
            }
        }
    };
    let mut entries = entries.to_vec();
    for Entry { node, at, what, before, .. } in &mut entries {
        rename(node, *at);
        if let What::Ended(ending) | What::Idle(ending) = what
            && let Ending { cause: Cause::Moved | Cause::Taken, detail: Some(node), .. } = ending
        {
            rename(node, *at);
        }
        if let Some(Before { node, token, seen, .. }) = before {
            // A token is about the time of its taking, in ms too.
            rename(node, seen.unwrap_or(*token));
        }
    }
    entries
}

/// The time between the end of all earlier children and this start: how long nothing ran, or how long two did.
fn between<'a>(
    earlier: impl DoubleEndedIterator<Item = (&'a u64, &'a Facts<'a>)> + Clone,
    started: &Entry,
) -> (Option<Gap>, Option<u64>) {
    let mut ran = earlier.rev().map(|(_, facts)| facts).filter(|facts| facts.ran());
    let latest = ran.clone().filter_map(|facts| facts.ended).max_by_key(|ended| ended.at);
    if let Some(ended) = latest
        && started.at + started.slack + ended.slack < ended.at
    {
        return (Some(Gap { ms: 0, at_most: false }), Some(ended.at - started.at));
    }
    let Some(last) = ran.next() else { return (None, None) };
    match (last.ended, &started.before) {
        (Some(ended), _) => (Some(Gap { ms: started.at.saturating_sub(ended.at), at_most: false }), Some(0)),
        // A later tenure without a child would not say when this one's was last alive.
        (None, Some(Before { token, seen: Some(seen), .. })) if last.started.is_some_and(|own| own.token == *token) => {
            (Some(Gap { ms: started.at.saturating_sub(*seen), at_most: true }), None)
        }
        (None, _) => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::Random;

    fn started(token: u64, node: &str, at: u64, before: Option<Before>) -> Entry {
        Entry { token, node: node.into(), at, slack: 1, what: What::Started { pid: 7 }, before }
    }

    fn ended(token: u64, node: &str, at: u64, cause: Cause) -> Entry {
        Entry { token, node: node.into(), at, slack: 1, what: What::Ended(Ending::of(cause)), before: None }
    }

    fn before(token: u64, node: &str, seen: u64, left: Left) -> Option<Before> {
        Some(Before { token, node: node.into(), seen: Some(seen), left })
    }

    fn exact(ms: u64) -> Option<Gap> {
        Some(Gap { ms, at_most: false })
    }

    /// A planned move, a crash, a hand-over back, and one that could not start its child.
    fn story() -> Vec<Entry> {
        vec![
            started(1, "a", 1_000, None),
            ended(1, "a", 5_000, Cause::Moved),
            started(2, "b", 5_020, before(1, "a", 5_001, Left::Released)),
            // b is killed.
            started(3, "a", 20_000, before(2, "b", 10_000, Left::Expired)),
            ended(3, "a", 30_000, Cause::AgentStopping),
            Entry { what: What::Idle(Ending::of(Cause::GaveUp)), ..ended(4, "c", 31_000, Cause::GaveUp) },
            started(5, "b", 32_500, before(4, "c", 31_000, Left::Released)),
        ]
    }

    #[test]
    fn a_renamed_node_has_its_latest_name_in_all_it_had_and_who_took_the_old_one_keeps_it() {
        let renamed = |from: &str, node: &str, at| Entry {
            what: What::Renamed { from: from.into() },
            before: None,
            ..started(0, node, at, None)
        };
        let moved = |token, node: &str, at, to: &str| {
            let ending = Ending { detail: Some(to.into()), ..Ending::of(Cause::Moved) };
            Entry { what: What::Ended(ending), ..ended(token, node, at, Cause::Moved) }
        };
        let mut entries = vec![
            started(1, "b", 1_000, None),
            moved(1, "b", 2_000, "a"),
            started(2, "a", 2_010, before(1, "b", 2_005, Left::Released)),
            renamed("a", "x", 3_000),
            renamed("x", "y", 3_500),
            moved(2, "y", 4_000, "a"),
            // That is another one, which has the name now; and the store heard last of the first one by its old name.
            started(3, "a", 4_010, before(2, "y", 4_005, Left::Released)),
        ];
        for _ in 0..2 {
            let history = fold(&entries, 9_000);
            let rows: Vec<_> = history.tenures.iter().map(|row| (row.token, row.from.as_deref(), &*row.to)).collect();
            assert_eq!(rows, [(3, Some("y"), "a"), (2, Some("b"), "y"), (1, None, "b")]);
            let details = history.tenures.iter().map(|row| match &row.why {
                Why::Ended(ending) => ending.detail.as_deref(),
                _ => None,
            });
            assert_eq!(details.collect::<Vec<_>>(), [Some("a"), Some("y"), None]);
            assert_eq!(history.moves, 2);
            entries.reverse();
        }
    }

    #[test]
    fn tenures_tell_where_a_lease_was_why_it_came_and_how_long_nothing_ran() {
        let history = fold(&story(), 40_000);
        let rows: Vec<_> = history
            .tenures
            .iter()
            .map(|tenure| (tenure.token, tenure.from.as_deref(), tenure.to.as_str(), tenure.gap, tenure.overlap))
            .collect();
        assert_eq!(
            rows,
            [
                // Of the time before it: from the last child's end, not from that of the one that had none.
                (5, Some("c"), "b", exact(2_500), Some(0)),
                (4, Some("a"), "c", None, None),
                (3, Some("b"), "a", Some(Gap { ms: 10_000, at_most: true }), None),
                (2, Some("a"), "b", exact(20), Some(0)),
                (1, None, "a", None, None),
            ]
        );
        let whys: Vec<_> = history.tenures.iter().map(|tenure| tenure.why.clone()).collect();
        assert_eq!(
            whys,
            [
                Why::Ended(Ending::of(Cause::GaveUp)),
                Why::Ended(Ending::of(Cause::AgentStopping)),
                Why::Over(before(2, "b", 10_000, Left::Expired).unwrap()),
                Why::Ended(Ending::of(Cause::Moved)),
                Why::First,
            ]
        );
        assert_eq!(history.worst_gap, Some(Gap { ms: 10_000, at_most: true }));
        assert_eq!((history.moves, history.overlaps), (3, 0));
    }

    #[test]
    fn an_end_that_is_told_late_is_as_good_as_one_told_in_time() {
        let mut entries = story();
        // Cut off, it lost the lease and stopped its child in time, and could not say so until now.
        entries.push(ended(2, "b", 18_000, Cause::Unconfirmed));
        let history = fold(&entries, 40_000);
        let third = &history.tenures[2];
        assert_eq!((third.gap, third.overlap), (exact(2_000), Some(0)));
        assert_eq!(third.why, Why::Ended(Ending::of(Cause::Unconfirmed)));
    }

    #[test]
    fn a_start_before_the_last_end_is_an_overlap_whichever_tenure_it_was() {
        let mut entries = story();
        entries.push(ended(2, "b", 20_700, Cause::Unconfirmed));
        let history = fold(&entries, 40_000);
        assert_eq!((history.tenures[2].overlap, history.overlaps), (Some(700), 1));
        entries.pop();
        // One that outlived the tenure after it, too.
        entries.push(ended(2, "b", 33_000, Cause::Unconfirmed));
        let history = fold(&entries, 40_000);
        assert_eq!((history.tenures[0].overlap, history.overlaps), (Some(500), 2));
    }

    #[test]
    fn what_lies_within_the_slack_of_the_clocks_is_no_overlap() {
        let entries = [
            started(1, "a", 1_000, None),
            Entry { slack: 30, ..ended(1, "a", 5_000, Cause::Moved) },
            Entry { slack: 20, ..started(2, "b", 4_950, before(1, "a", 5_000, Left::Released)) },
        ];
        let history = fold(&entries, 6_000);
        assert_eq!((history.tenures[0].gap, history.tenures[0].overlap), (exact(0), Some(0)));
        let [first, second, mut third] = entries;
        third.at -= 1;
        assert_eq!(fold(&[first, second, third], 6_000).tenures[0].overlap, Some(51));
    }

    #[test]
    fn no_order_and_no_repetition_changes_what_is_told() {
        let mut random = Random::from_number(5);
        let mut entries = story();
        entries.push(ended(2, "b", 18_000, Cause::Unconfirmed));
        let told = fold(&entries, 40_000);
        for _ in 0..500 {
            let mut below = |end: usize| random.number() as usize % end;
            let again = below(entries.len());
            // Told twice, and not so well the second time.
            let double = Entry { at: entries[again].at + 300, slack: 90, ..entries[again].clone() };
            let mut shuffled = entries.clone();
            shuffled.push(double);
            for at in (1..shuffled.len()).rev() {
                shuffled.swap(at, below(at + 1));
            }
            assert_eq!(fold(&shuffled, 40_000), told, "{shuffled:?}");
        }
    }

    #[test]
    fn what_is_not_kept_any_more_is_not_made_up() {
        let history = fold(&story()[3..], 40_000);
        let oldest = history.tenures.last().unwrap();
        assert_eq!((oldest.gap, oldest.overlap), (None, None));
        assert_eq!(oldest.from.as_deref(), Some("b"));
        assert!(matches!(&oldest.why, Why::Over(before) if before.seen == Some(10_000)));
    }

    #[test]
    fn an_end_whose_start_was_lost_is_measured_from_all_the_same() {
        let entries = [ended(2, "b", 18_000, Cause::Unconfirmed), started(3, "a", 20_000, None)];
        let history = fold(&entries, 40_000);
        assert_eq!((history.tenures[0].gap, history.tenures[0].overlap), (exact(2_000), Some(0)));
        assert_eq!((history.tenures[1].start, history.tenures[1].end), (None, Some(18_000)));
    }

    #[test]
    fn only_moves_of_the_last_week_count() {
        assert_eq!(fold(&story(), 10_000 + WEEK).moves, 2);
        assert_eq!(fold(&story(), 60_000 + WEEK).moves, 0);
    }

    #[test]
    fn words_read_back() {
        for cause in Cause::ALL {
            assert_eq!(Cause::parse(cause.word()), Some(cause));
        }
        assert_eq!(Left::parse("died"), Some(Left::Died));
        assert_eq!(Cause::parse("eaten"), None);
    }
}
