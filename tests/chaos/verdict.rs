//! The checker: what the witness saw, held against what was promised. A function of values, so that it can be tested
//! itself.

use std::time::Duration;

use super::witness::Life;

/// A moment of CLOCK_MONOTONIC, in nanoseconds.
pub type Moment = u64;

/// How long a planned move may take.
pub const PLANNED: Duration = Duration::from_millis(100);

/// How long a process may go on that was frozen beyond its lease's end, together with the guard that was to kill it:
/// when all wake at once, somebody is first. What it does in this time is told as overlap, and is no broken promise.
pub const THAW: Duration = Duration::from_millis(100);

/// What holds in one scenario, from one moment to another.
#[derive(Debug, Clone, PartialEq)]
pub enum Claim {
    /// The fault ended at `from`: so long after, at most, one runs, and from then on one always does.
    Soon { from: Moment, until: Moment, bound: Duration },
    /// One and the same child runs all the time.
    Undisturbed { from: Moment, until: Moment },
    /// This child, and all that descends from it, is dead.
    Dead { pid: u32, by: Moment },
    /// Nothing gives a sign of life.
    Nobody { from: Moment, until: Moment },
    /// From the end of one child to the start of the next, at each of several planned moves.
    Moves(Vec<Duration>),
}

/// A time in which a process could do nothing, however alive it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Frozen {
    pub pid: u32,
    pub from: Moment,
    pub until: Moment,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The longest time for which two ran at once, by their signs of life.
    pub overlap: Duration,
    /// The gap that came nearest to its bound, and that bound; nothing where no gap was allowed.
    pub gap: Duration,
    pub bound: Option<Duration>,
    pub orphans: usize,
    /// Whether tokens only grew, and none served two nodes.
    pub tokens: bool,
    pub children: usize,
    /// Every promise that was broken, in words.
    pub broken: Vec<String>,
    /// How many of them say only that nothing ran for too long.
    late: usize,
}

impl Verdict {
    /// Whether nothing is wrong but that something came late, as it may where the whole machine stands still for a moment.
    pub fn is_merely_late(&self) -> bool {
        self.late > 0 && self.late == self.broken.len()
    }
}

/// Judges the lives of one singleton's children and of all that descends from them. `left` is what outlived its agent.
pub fn judge(lives: &[Life], frozen: &[Frozen], claims: &[Claim], left: &[String]) -> Verdict {
    let (mut broken, mut late) = (Vec::new(), 0);
    let overlap = overlap(lives, frozen, &mut broken);
    let children: Vec<&Life> = lives.iter().filter(|life| life.parent.is_none()).collect();
    if children.is_empty() {
        broken.push("nothing ran at all".into());
    }
    let tokens = tokens(&children, &mut broken);
    let running: Vec<Span> = children.iter().flat_map(|child| spans(child, frozen)).collect();
    let mut worst: Option<(Duration, Duration)> = None;
    for claim in claims {
        let (gap, bound) = match claim {
            Claim::Soon { from, until, bound } => (last_pause(&running, *from, *until), *bound),
            Claim::Moves(gaps) => (quartile(gaps), PLANNED),
            Claim::Undisturbed { from, until } => {
                if !children.iter().any(|child| child.start <= *from && child.last >= *until) {
                    late += 1;
                    broken.push(format!("the child did not run on: {claim:?}"));
                }
                continue;
            }
            Claim::Dead { pid, by } => {
                let last =
                    lives.iter().filter(|life| life.pid == *pid || life.parent == Some(*pid)).map(|life| life.last);
                let longer = last.max().unwrap_or(Moment::MAX).saturating_sub(*by);
                if longer > 0 {
                    broken.push(format!("pid {pid} outlived its lease by {:?}", Duration::from_nanos(longer)));
                }
                continue;
            }
            Claim::Nobody { from, until } => {
                for life in lives.iter().flat_map(|life| spans(life, frozen)) {
                    if life.from < *until && life.last > *from {
                        let longer = Duration::from_nanos(life.last.min(*until) - *from);
                        broken.push(format!("something ran {longer:?} too long, pid {}", life.pid));
                    }
                }
                continue;
            }
        };
        if gap > bound {
            late += 1;
            broken.push(format!("{gap:?} without a child, of {bound:?} allowed: {claim:?}"));
        }
        let share = |(gap, bound): (Duration, Duration)| gap.as_secs_f64() / bound.as_secs_f64();
        if worst.is_none_or(|worst| share(worst) < share((gap, bound))) {
            worst = Some((gap, bound));
        }
    }
    broken.extend(left.iter().map(|one| format!("left behind: {one}")));
    Verdict {
        overlap,
        gap: worst.map_or(Duration::ZERO, |(gap, _)| gap),
        bound: worst.map(|(_, bound)| bound),
        orphans: left.len(),
        tokens,
        children: children.len(),
        broken,
        late,
    }
}

/// A child gives a sign every hundredth of a second, or a little later where the machine is busy.
const SIGN: u64 = 500_000_000;

/// A time in which a process could do something.
struct Span {
    thawed: bool,
    pid: u32,
    family: u32,
    from: Moment,
    last: Moment,
}

/// A life without the times in which it was frozen.
fn spans(life: &Life, frozen: &[Frozen]) -> Vec<Span> {
    let span = |thawed, from, last| Span { thawed, pid: life.pid, family: life.parent.unwrap_or(life.pid), from, last };
    let its = |cold: &&Frozen| cold.pid == life.pid && cold.from < life.last && cold.until > life.start;
    let (mut spans, mut thawed, mut from) = (Vec::new(), false, life.start);
    for cold in frozen.iter().filter(its) {
        spans.push(span(thawed, from, cold.from));
        (thawed, from) = (true, cold.until);
    }
    if life.last > from || !thawed {
        spans.push(span(thawed, from, life.last));
    }
    spans
}

/// A child and what descends from it are one; whatever else ran at the same time should not have.
fn overlap(lives: &[Life], frozen: &[Frozen], broken: &mut Vec<String>) -> Duration {
    let spans: Vec<Span> = lives.iter().flat_map(|life| spans(life, frozen)).collect();
    let mut longest = Duration::ZERO;
    for (at, one) in spans.iter().enumerate() {
        for other in spans[at + 1..].iter().filter(|other| other.family != one.family) {
            let (from, last) = (one.from.max(other.from), one.last.min(other.last));
            if last >= from {
                let time = Duration::from_nanos(last - from);
                longest = longest.max(time).max(Duration::from_nanos(1));
                let just_woken = |span: &Span| span.thawed && last < span.from + THAW.as_nanos() as u64;
                if just_woken(one) || just_woken(other) {
                    continue;
                }
                broken.push(format!("two at once for {time:?}: pids {} and {}", one.pid, other.pid));
            }
        }
    }
    longest
}

fn tokens(children: &[&Life], broken: &mut Vec<String>) -> bool {
    let mut good = true;
    for pair in children.windows(2) {
        let (before, next) = (pair[0], pair[1]);
        if next.token < before.token || (next.token == before.token && next.node != before.node) {
            broken.push(format!("token {} of {} after {} of {}", next.token, next.node, before.token, before.node));
            good = false;
        }
    }
    good
}

/// How long after `from` it was for the last time that no child ran.
fn last_pause(running: &[Span], from: Moment, until: Moment) -> Duration {
    if !running.iter().any(|span| span.from <= until && span.last + SIGN >= until) {
        return Duration::from_nanos(until - from);
    }
    // None ran before a start where no other child was left.
    let starts = running.iter().map(|span| span.from).filter(|start| *start > from && *start <= until);
    let after_a_pause = |start: &Moment| !running.iter().any(|span| span.from < *start && span.last >= *start);
    let last = starts.filter(after_a_pause).max();
    Duration::from_nanos(last.map_or(0, |start| start - from))
}

/// The time that three of four did not stay below: the others were as quick as the machine was busy.
fn quartile(gaps: &[Duration]) -> Duration {
    let mut gaps = gaps.to_vec();
    gaps.sort();
    gaps.get(gaps.len() / 4).copied().unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const BOUND: Duration = Duration::from_secs(4);

    fn life(pid: u32, node: &str, token: u64, start: u64, last: u64) -> Life {
        let (start, last) = (start * SECOND / 10, last * SECOND / 10);
        Life { pid, node: node.into(), token, parent: None, start, last, asked: None, exit: None }
    }

    fn soon(from: u64, until: u64) -> Claim {
        Claim::Soon { from: from * SECOND / 10, until: until * SECOND / 10, bound: BOUND }
    }

    #[test]
    fn what_was_kept_is_found_kept() {
        let lives = [life(1, "a", 5, 0, 20), life(2, "b", 6, 50, 100), life(3, "b", 6, 102, 150)];
        let verdict = judge(&lives, &[], &[soon(20, 90), soon(100, 150)], &[]);
        assert_eq!(verdict.broken, Vec::<String>::new());
        assert_eq!(
            (verdict.overlap, verdict.gap, verdict.bound),
            (Duration::ZERO, Duration::from_secs(3), Some(BOUND))
        );
        assert!(verdict.tokens && verdict.orphans == 0 && verdict.children == 3);
    }

    #[test]
    fn two_at_once_are_seen_and_grandchildren_count() {
        let two = [life(1, "a", 5, 0, 21), life(2, "b", 6, 20, 100)];
        let verdict = judge(&two, &[], &[], &[]);
        assert_eq!((verdict.overlap, verdict.broken.len()), (Duration::from_millis(100), 1));
        // A child's own grandchild may run beside it, and not beside the next child.
        let kid = Life { parent: Some(1), ..life(7, "a", 5, 1, 30) };
        let verdict = judge(&[life(1, "a", 5, 0, 21), kid.clone()], &[], &[], &[]);
        assert_eq!(verdict.broken, Vec::<String>::new());
        let verdict = judge(&[life(1, "a", 5, 0, 19), kid, life(2, "b", 6, 25, 100)], &[], &[], &[]);
        assert_eq!(verdict.overlap, Duration::from_millis(500));
    }

    #[test]
    fn a_frozen_process_overlaps_by_what_it_does_after_the_thaw_only() {
        let frozen = [Frozen { pid: 1, from: 2 * SECOND, until: 8 * SECOND }];
        let dead_at_once = [life(1, "a", 5, 0, 20), life(2, "b", 6, 60, 100)];
        assert_eq!(judge(&dead_at_once, &frozen, &[], &[]).overlap, Duration::ZERO);
        for (last, kept) in [(8 * SECOND + 90_000_000, true), (8 * SECOND + 110_000_000, false)] {
            let woken = [Life { last, ..life(1, "a", 5, 0, 0) }, life(2, "b", 6, 60, 100)];
            let verdict = judge(&woken, &frozen, &[], &[]);
            assert_eq!(verdict.overlap, Duration::from_nanos(last - 8 * SECOND));
            assert_eq!(verdict.broken.is_empty(), kept);
        }
    }

    #[test]
    fn one_that_was_frozen_twice_could_do_nothing_twice_and_all_the_rest_of_the_time() {
        let frozen =
            [(2, 3), (5, 8)].map(|(from, until)| Frozen { pid: 1, from: from * SECOND, until: until * SECOND });
        let one = life(1, "a", 5, 0, 50);
        assert!(judge(&[one.clone(), life(2, "b", 6, 60, 100)], &frozen, &[], &[]).broken.is_empty());
        // Long after it woke it is as awake as any.
        for start in [25, 45] {
            let moment = Life { last: start * SECOND / 10 + 50_000_000, ..life(2, "b", 6, start, 0) };
            let verdict = judge(&[one.clone(), moment], &frozen, &[], &[]);
            assert_eq!(verdict.broken.is_empty(), start == 25, "{verdict:?}");
        }
    }

    #[test]
    fn a_token_that_goes_back_or_serves_two_nodes_is_seen() {
        for (node, token) in [("a", 4), ("b", 4), ("b", 5)] {
            let lives = [life(1, "a", 5, 0, 20), life(2, node, token, 30, 40)];
            let verdict = judge(&lives, &[], &[], &[]);
            assert!(!verdict.tokens && !verdict.broken.is_empty(), "{node} {token}");
        }
        // Started again in place.
        assert!(judge(&[life(1, "a", 5, 0, 20), life(2, "a", 5, 30, 40)], &[], &[], &[]).tokens);
    }

    #[test]
    fn too_late_too_long_and_too_little_are_seen() {
        let broken = |lives: &[Life], claim: Claim| !judge(lives, &[], &[claim], &[]).broken.is_empty();
        // Too late; never; there for a moment, and then no more; there, gone too late in the bound, and never again.
        assert!(broken(&[life(1, "a", 5, 0, 20), life(2, "b", 6, 61, 100)], soon(20, 100)));
        assert!(broken(&[life(1, "a", 5, 0, 20)], soon(20, 70)));
        assert!(broken(&[life(1, "a", 5, 0, 20), life(2, "b", 6, 30, 40)], soon(20, 70)));
        let twice = [life(1, "a", 5, 0, 20), life(2, "b", 6, 30, 40), life(3, "b", 6, 65, 100)];
        assert!(broken(&twice, soon(20, 100)));
        // A start in time does not excuse a later pause.
        assert!(!broken(&[life(1, "a", 5, 0, 20), life(2, "b", 6, 59, 100)], soon(20, 100)));

        let undisturbed = Claim::Undisturbed { from: SECOND, until: 9 * SECOND };
        assert!(broken(&[life(1, "a", 5, 0, 50), life(2, "a", 5, 50, 100)], undisturbed.clone()));
        assert!(!broken(&[life(1, "a", 5, 0, 100)], undisturbed));

        let dead = Claim::Dead { pid: 1, by: 3 * SECOND };
        assert!(broken(&[life(1, "a", 5, 0, 31)], dead.clone()));
        assert!(broken(&[life(1, "a", 5, 0, 29), Life { parent: Some(1), ..life(7, "a", 5, 0, 31) }], dead.clone()));
        assert!(!broken(&[life(1, "a", 5, 0, 29), life(2, "b", 6, 30, 100)], dead));

        let nobody = Claim::Nobody { from: 3 * SECOND, until: 9 * SECOND };
        assert!(broken(&[life(1, "a", 5, 0, 31)], nobody.clone()));
        assert!(broken(&[life(1, "a", 5, 0, 20), life(2, "b", 6, 85, 100)], nobody.clone()));
        assert!(!broken(&[life(1, "a", 5, 0, 29), life(2, "b", 6, 91, 100)], nobody));

        let moves = |second: u64| Claim::Moves([10, second, 900, 900].map(Duration::from_millis).to_vec());
        assert!(!broken(&[life(1, "a", 5, 0, 31)], moves(100)));
        assert!(broken(&[life(1, "a", 5, 0, 31)], moves(101)));
        assert!(broken(&[life(1, "a", 5, 0, 31)], Claim::Moves(vec![Duration::from_millis(101)])));
        assert!(broken(&[life(1, "a", 5, 0, 31)], Claim::Moves(Vec::new())));
    }

    #[test]
    fn nothing_but_lateness_is_merely_late() {
        let late = [life(1, "a", 5, 0, 20), life(2, "b", 6, 61, 100)];
        let undisturbed = Claim::Undisturbed { from: SECOND, until: 9 * SECOND };
        assert!(judge(&late, &[], &[soon(20, 100), undisturbed], &[]).is_merely_late());
        assert!(!judge(&late, &[], &[], &[]).is_merely_late(), "nothing is wrong");
        let two = [life(1, "a", 5, 0, 22), life(2, "b", 6, 21, 30)];
        for (lives, claim, left) in [
            (&two, soon(20, 100), &[][..]),
            (&late, soon(20, 100), &["17: sleep 600".to_owned()]),
            (&late, Claim::Dead { pid: 1, by: SECOND }, &[]),
            (&late, Claim::Nobody { from: SECOND, until: 9 * SECOND }, &[]),
        ] {
            assert!(!judge(lives, &[], &[soon(20, 100), claim.clone()], left).is_merely_late(), "{claim:?}");
        }
    }

    #[test]
    fn what_is_left_behind_and_what_never_ran_are_seen() {
        let verdict = judge(&[life(1, "a", 5, 0, 20)], &[], &[], &["17: sleep 600".into()]);
        assert_eq!((verdict.orphans, verdict.broken.len()), (1, 1));
        assert_eq!(judge(&[], &[], &[], &[]).broken, ["nothing ran at all"]);
    }
}
