//! A drill: a bad thing that is done on purpose to a singleton's holder, and whether the promise was kept through it.
//!
//! [`judge`] is pure and believes nobody: it sees only what the history of the lease tells, and what it does not tell is
//! never taken for good.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

use super::history::{Gap, Tenure};
use super::names::LeaseName;

/// How long a singleton may be missing beyond its ttl.
pub const ALLOWANCE: Duration = Duration::from_secs(1);

/// The bad things there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL to the holder's agent.
    Kill,
    /// SIGSTOP to it, and SIGCONT after a while.
    Freeze,
    /// Its connections to Redis are cut for a while.
    RedisLoss,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Kill, Kind::Freeze, Kind::RedisLoss];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Freeze => "freeze",
            Kind::RedisLoss => "redis-loss",
        }
    }

    /// The kind of this word.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Whether it is over after a while.
    pub fn passes(self) -> bool {
        self != Kind::Kill
    }
}

/// One drill, as the holder's agent is to hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// The singleton's lease.
    pub lease: LeaseName,
    /// The token under which it runs.
    pub token: u64,
    /// Its process.
    pub pid: u32,
    /// For how long its lease is given.
    pub ttl: Duration,
    /// What is done.
    pub kind: Kind,
    /// For how long; nothing where it does not pass.
    pub lasting: Option<Duration>,
    /// Who asked for it.
    pub by: Option<String>,
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course<'a> {
    /// The node that had the singleton.
    pub node: &'a str,
    /// Its token.
    pub token: u64,
    /// When its child began, ms, where that is kept.
    pub start: Option<u64>,
    /// The ttl of the lease.
    pub ttl: Duration,
    /// What the history tells, in whichever order.
    pub runs: &'a [Run],
}

/// What a verdict needs to know of a [`Tenure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its token.
    pub token: u64,
    /// Whose it is.
    pub node: String,
    /// Its child.
    pub pid: Option<u32>,
    /// When that began, ms.
    pub start: Option<u64>,
    /// When nothing was left of it, ms.
    pub end: Option<u64>,
    /// For how long nothing ran before it.
    pub gap: Option<Gap>,
    /// For how long it ran beside an earlier one.
    pub overlap: Option<u64>,
}

impl From<&Tenure> for Run {
    fn from(tenure: &Tenure) -> Run {
        let Tenure { token, to, pid, start, end, gap, overlap, .. } = tenure.clone();
        Run { token, node: to, pid, start, end, gap, overlap }
    }
}

/// How a drill went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For how long nothing ran; nothing where it ran through, or nobody can tell.
    pub gap: Option<Gap>,
    /// For how long two ran at once; nothing where nobody can tell.
    pub overlap: Option<u64>,
    /// The token of the first child after; nothing where the one before ran through, or none came.
    pub next: Option<u64>,
    /// What was not as promised; nothing: the promise was kept.
    pub broken: Vec<Breach>,
}

/// One thing that was not as promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breach {
    /// Two ran at once, for so many ms.
    Overlap(u64),
    /// Nothing ran for longer than that, ms.
    Late { gap: u64, most: u64 },
    /// A child began under a token that is not above the one before.
    Token { earlier: u64, later: u64 },
    /// Nothing runs in its place.
    Nobody,
    /// Nobody told when the child's end was.
    Unmeasured,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: &u64| *ms as f64 / 1_000.0;
        match self {
            Breach::Overlap(ms) => write!(f, "two ran at once for {} s", seconds(ms)),
            Breach::Late { gap, most } => {
                write!(f, "nothing ran for {} s, while {} s were promised at most", seconds(gap), seconds(most))
            }
            Breach::Token { earlier, later } => {
                write!(f, "token {later} came after token {earlier}, and is not above it")
            }
            Breach::Nobody => f.write_str("nothing runs in its place"),
            Breach::Unmeasured => f.write_str("nobody told when the child's end was, so nothing is proven"),
        }
    }
}

/// Whether all is told that a verdict needs: the end, and a child after it.
pub fn is_told(course: &Course<'_>) -> bool {
    own(course).is_some_and(|own| own.end.is_some()) && followers(course).next().is_some()
}

/// What came of a drill. `outlasts` says whether it was longer than the lease lives, so that the child cannot have run
/// through.
pub fn judge(course: &Course<'_>, outlasts: bool) -> Verdict {
    let first = followers(course).min_by_key(|run| run.token);
    let mut broken = tokens_that_do_not_grow(course);
    let Some(first) = first else {
        let through = !outlasts && own(course).is_none_or(|own| own.end.is_none());
        if !through {
            broken.push(Breach::Nobody);
        }
        return Verdict { gap: None, overlap: through.then_some(0), next: None, broken };
    };
    let longest = followers(course).filter_map(|run| run.overlap).max();
    match (first.overlap, longest) {
        (_, Some(ms @ 1..)) => broken.push(Breach::Overlap(ms)),
        // Without the end the gap is counted from the last sign of life, and may hide anything.
        (None, _) => broken.push(Breach::Unmeasured),
        (Some(_), _) => {}
    }
    let most = millis(course.ttl + ALLOWANCE);
    if let Some(Gap { ms: gap, at_most: false }) = first.gap
        && gap > most
    {
        broken.push(Breach::Late { gap, most });
    }
    Verdict { gap: first.gap, overlap: first.overlap.and(longest), next: Some(first.token), broken }
}

/// Children that began after the drilled one, and under its token or a lower one.
fn tokens_that_do_not_grow(course: &Course<'_>) -> Vec<Breach> {
    let later = |run: &&Run| match run.token.cmp(&course.token) {
        Ordering::Less => run.start > course.start,
        Ordering::Equal => run.node != course.node || run.start > course.start,
        Ordering::Greater => false,
    };
    let later = course.runs.iter().filter(|run| course.start.is_some() && later(run));
    later.map(|run| Breach::Token { earlier: course.token, later: run.token }).collect()
}

fn own<'a>(course: &Course<'a>) -> Option<&'a Run> {
    course.runs.iter().find(|run| run.token == course.token)
}

/// Those after the drilled one in which a child ran.
fn followers<'a>(course: &Course<'a>) -> impl Iterator<Item = &'a Run> {
    let token = course.token;
    course.runs.iter().filter(move |run| run.token > token && run.start.is_some())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::history::{Before, Cause, Ending, Entry, Left, What, fold};

    const TTL: Duration = Duration::from_secs(15);

    fn started(token: u64, node: &str, at: u64) -> Entry {
        let before = Before { token: token - 1, node: "a".into(), seen: Some(9_000), left: Left::Expired };
        let what = What::Started { pid: 7 };
        Entry { token, node: node.into(), at, slack: 1, what, before: (token > 17).then_some(before) }
    }

    fn ended(token: u64, node: &str, at: u64, cause: Cause) -> Entry {
        Entry { token, node: node.into(), at, slack: 1, what: What::Ended(Ending::of(cause)), before: None }
    }

    /// The verdict on a history: a had beat from 1.000 s on under token 17, and was drilled at 10.000 s.
    fn verdict(entries: &[Entry], outlasts: bool) -> Verdict {
        let runs: Vec<Run> = fold(entries, 60_000).tenures.iter().map(Run::from).collect();
        judge(&Course { node: "a", token: 17, start: Some(1_000), ttl: TTL, runs: &runs }, outlasts)
    }

    #[test]
    fn a_promise_that_was_kept_is_told_with_its_figures() {
        let kept =
            verdict(&[started(17, "a", 1_000), ended(17, "a", 10_010, Cause::Drilled), started(18, "b", 25_030)], true);
        let gap = Some(Gap { ms: 15_020, at_most: false });
        assert_eq!(kept, Verdict { gap, overlap: Some(0), next: Some(18), broken: vec![] });
    }

    #[test]
    fn an_agent_that_wakes_and_tells_its_own_end_late_does_not_outweigh_the_witness() {
        let told = [
            started(17, "a", 1_000),
            Entry { slack: 0, ..ended(17, "a", 33_000, Cause::Expired) },
            ended(17, "a", 19_000, Cause::Drilled),
            started(18, "b", 25_000),
        ];
        let kept = verdict(&told, true);
        assert_eq!((kept.gap, kept.overlap), (Some(Gap { ms: 6_000, at_most: false }), Some(0)));
        assert_eq!(kept.broken, []);
    }

    #[test]
    fn a_child_that_outlives_the_start_of_the_next_is_an_overlap() {
        let two = [started(17, "a", 1_000), ended(17, "a", 25_100, Cause::Drilled), started(18, "b", 25_000)];
        let broken = verdict(&two, true);
        assert_eq!((broken.overlap, broken.broken), (Some(100), vec![Breach::Overlap(100)]));
    }

    #[test]
    fn an_overlap_after_the_thaw_counts_too() {
        let mut told = vec![started(17, "a", 1_000), ended(17, "a", 19_000, Cause::Drilled), started(18, "b", 25_000)];
        // The agent woke, and started a child beside the one that runs.
        told.extend([started(19, "a", 33_000), ended(18, "b", 34_000, Cause::Taken)]);
        assert_eq!(verdict(&told, true).broken, [Breach::Overlap(1_000)]);
    }

    #[test]
    fn a_gap_beyond_the_ttl_and_a_second_is_too_long() {
        let told = |start| [started(17, "a", 1_000), ended(17, "a", 10_000, Cause::Drilled), started(18, "b", start)];
        assert_eq!(verdict(&told(26_000), true).broken, []);
        assert_eq!(verdict(&told(26_001), true).broken, [Breach::Late { gap: 16_001, most: 16_000 }]);
    }

    #[test]
    fn a_token_that_does_not_grow_is_said() {
        let ended = || ended(17, "a", 10_000, Cause::Drilled);
        let lower = verdict(&[started(17, "a", 1_000), ended(), started(16, "b", 25_000)], true);
        assert!(lower.broken.contains(&Breach::Token { earlier: 17, later: 16 }), "{lower:?}");
        let again = verdict(&[started(17, "b", 25_000), ended()], true);
        assert!(again.broken.contains(&Breach::Token { earlier: 17, later: 17 }), "{again:?}");
        // Where the first start is the better measured the second does not show, but nobody follows.
        let hidden = verdict(&[started(17, "a", 1_000), ended(), Entry { slack: 2, ..started(17, "b", 25_000) }], true);
        assert_eq!(hidden.broken, [Breach::Nobody]);
    }

    #[test]
    fn what_nobody_measured_is_not_proven() {
        let unmeasured = verdict(&[started(17, "a", 1_000), started(18, "b", 24_000)], true);
        assert_eq!(unmeasured.gap, Some(Gap { ms: 15_000, at_most: true }));
        assert_eq!((unmeasured.overlap, unmeasured.broken), (None, vec![Breach::Unmeasured]));
        let nobody = verdict(&[started(17, "a", 1_000), ended(17, "a", 10_000, Cause::Drilled)], true);
        assert_eq!((nobody.next, nobody.broken), (None, vec![Breach::Nobody]));
        assert_eq!(verdict(&[], true).broken, [Breach::Nobody]);
    }

    #[test]
    fn a_short_one_may_be_run_through() {
        let through = [started(17, "a", 1_000)];
        let kept = verdict(&through, false);
        assert_eq!(kept, Verdict { gap: None, overlap: Some(0), next: None, broken: vec![] });
        // What outlasts the lease cannot be: then the end is missing, and whoever comes after.
        assert_eq!(verdict(&through, true).broken, [Breach::Nobody]);
    }
}
