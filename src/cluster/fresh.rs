//! Which questions are new: none is taken twice, and where messages are sealed none that was kept back for long.
//!
//! No clock is compared with another's. A node draws a *challenge* now and then; a question counts when it names one of
//! those that are a minute old at most, and its id was not heard under them. So what has to be remembered is what came in
//! a minute, and a restarted node, which remembers nothing, knows no challenge of its earlier life either. Who asks for the
//! first time knows none: it is told one, and asks again.
//!
//! Without a seal anybody can make up anything, and only what Redis delivers twice by accident is to be dropped: ids
//! alone count then.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How long a challenge is given away, and for how long after it was drawn it counts.
const GIVEN: Duration = Duration::from_secs(30);
const COUNTS: Duration = Duration::from_secs(60);
/// How many ids are remembered of one challenge before there is a next one.
const MOST: usize = 4096;

/// The latest questions.
pub(super) struct Fresh {
    /// Draws a challenge.
    draw: fn() -> u128,
    /// Latest last.
    periods: VecDeque<Period>,
}

struct Period {
    challenge: u128,
    from: Instant,
    ids: HashSet<String>,
}

/// Why a question is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Old {
    /// It was asked before.
    Known,
    /// It names no challenge that counts; this one does.
    Stale(u128),
}

impl Fresh {
    pub(super) fn new(draw: fn() -> u128) -> Fresh {
        Fresh { draw, periods: VecDeque::new() }
    }

    /// Takes the question `id`, once.
    ///
    /// # Errors
    /// It is not to be taken.
    pub(super) fn take(&mut self, now: Instant, id: &str) -> Result<(), Old> {
        self.turn(now, false);
        self.remember(id)
    }

    /// The same where it has to name a challenge.
    ///
    /// # Errors
    /// It is not to be taken.
    pub(super) fn take_sealed(&mut self, now: Instant, id: &str, challenge: Option<u128>) -> Result<(), Old> {
        self.turn(now, true);
        match challenge {
            Some(challenge) if self.periods.iter().any(|period| period.challenge == challenge) => self.remember(id),
            _ => Err(Old::Stale(self.periods.back().expect("there is always one").challenge)),
        }
    }

    fn remember(&mut self, id: &str) -> Result<(), Old> {
        if self.periods.iter().any(|period| period.ids.contains(id)) {
            return Err(Old::Known);
        }
        self.periods.back_mut().expect("there is always one").ids.insert(id.to_owned());
        Ok(())
    }

    /// Begins a new period where it is time, and forgets those that do not count any more.
    fn turn(&mut self, now: Instant, ages: bool) {
        let lasts = |period: &Period| period.ids.len() < MOST && !(ages && now - period.from >= GIVEN);
        if !self.periods.back().is_some_and(lasts) {
            let period = Period { challenge: (self.draw)(), from: now, ids: HashSet::new() };
            self.periods.push_back(period);
        }
        let counts = |period: &Period| !(ages && now - period.from >= COUNTS);
        while self.periods.len() > 2 || !self.periods.front().is_some_and(counts) {
            self.periods.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Draws 1, 2, 3 and so on, in each test.
    fn fresh() -> Fresh {
        thread_local!(static LAST: Cell<u128> = const { Cell::new(0) });
        LAST.set(0);
        Fresh::new(|| {
            LAST.set(LAST.get() + 1);
            LAST.get()
        })
    }

    #[test]
    fn without_a_seal_ids_alone_count_in_bounds() {
        let (mut fresh, now) = (fresh(), Instant::now());
        assert_eq!(fresh.take(now, "a"), Ok(()));
        assert_eq!(fresh.take(now + 2 * COUNTS, "a"), Err(Old::Known));
        for i in 0..3 * MOST {
            assert_eq!(fresh.take(now, &i.to_string()), Ok(()));
        }
        assert!(fresh.periods.iter().map(|period| period.ids.len()).sum::<usize>() <= 2 * MOST);
        assert_eq!(fresh.take(now, "a"), Ok(()), "the oldest are forgotten");
    }

    #[test]
    fn a_sealed_question_names_a_challenge_of_the_last_minute() {
        let (mut fresh, now) = (fresh(), Instant::now());
        assert_eq!(fresh.take_sealed(now, "a", None), Err(Old::Stale(1)));
        assert_eq!(fresh.take_sealed(now, "a", Some(1)), Ok(()));
        assert_eq!(fresh.take_sealed(now, "a", Some(1)), Err(Old::Known));
        // The next challenge is drawn, and the one before still counts.
        let later = now + GIVEN;
        assert_eq!(fresh.take_sealed(later, "b", Some(9)), Err(Old::Stale(2)));
        assert_eq!(fresh.take_sealed(later, "a", Some(1)), Err(Old::Known), "however it is said again");
        assert_eq!(fresh.take_sealed(later, "a", Some(2)), Err(Old::Known));
        assert_eq!(fresh.take_sealed(later, "b", Some(1)), Ok(()));
        // Kept back for a minute, it is stale, also where nothing was asked meanwhile.
        assert_eq!(fresh.take_sealed(now + COUNTS, "c", Some(1)), Err(Old::Stale(3)));
        assert_eq!(fresh.take_sealed(now + 10 * COUNTS, "c", Some(3)), Err(Old::Stale(4)));
    }

    #[test]
    fn a_flood_makes_what_is_remembered_no_longer_and_lets_nothing_in_twice() {
        let (mut fresh, now) = (fresh(), Instant::now());
        assert_eq!(fresh.take_sealed(now, "first", None), Err(Old::Stale(1)));
        assert_eq!(fresh.take_sealed(now, "first", Some(1)), Ok(()));
        let mut challenge = 1;
        for i in 0..3 * MOST {
            if let Err(Old::Stale(next)) = fresh.take_sealed(now, &i.to_string(), Some(challenge)) {
                challenge = next;
            }
        }
        assert!(fresh.periods.len() <= 2);
        assert!(matches!(fresh.take_sealed(now, "first", Some(1)), Err(Old::Stale(_))));
    }
}
