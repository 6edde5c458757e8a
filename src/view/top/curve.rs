//! What a value was like lately: a few minutes of it, as a line of little bars.

use std::collections::VecDeque;

use crate::model::stats::Keeper;
use crate::model::time::Time;

/// How many steps are kept: ten minutes, as many as the widest screen shows.
const KEPT: usize = 60;

/// A value in steps as nodes keep them ([`Keeper::STEP`]): the average of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Curve {
    /// Steps that are over, the latest last; nothing for when nobody watched.
    over: VecDeque<Option<f32>>,
    /// The step under way, counted from boot, and what has come in it.
    step: u64,
    sum: f64,
    count: u32,
}

impl Curve {
    /// Takes in what the value is at `now`.
    pub(super) fn push(&mut self, value: f64, now: Time) {
        let step = now.as_nanos() / Keeper::STEP.as_nanos() as u64;
        if self.count > 0 && step > self.step {
            self.over.push_back(self.under_way());
            let unseen = usize::try_from(step - self.step - 1).unwrap_or(usize::MAX).min(KEPT);
            self.over.extend(std::iter::repeat_n(None, unseen));
            self.over.drain(..self.over.len().saturating_sub(KEPT));
            (self.sum, self.count) = (0.0, 0);
        }
        self.step = self.step.max(step);
        self.sum += value;
        self.count += 1;
    }

    /// Learns what was before, the latest first. What nobody else knows stays as it was seen.
    pub(super) fn begin_with(&mut self, past: impl IntoIterator<Item = Option<f64>>) {
        for (back, value) in past.into_iter().take(KEPT).enumerate() {
            if back == self.over.len() {
                self.over.push_front(None);
            }
            let at = self.over.len() - 1 - back;
            self.over[at] = value.map(|value| value as f32).or(self.over[at]);
        }
    }

    /// The latest `count` steps of all `curves` added up, the latest last, from the first on of which anything is known.
    pub(super) fn sum<'a>(curves: impl IntoIterator<Item = &'a Curve> + Clone, count: usize) -> Vec<Option<f32>> {
        let latest = curves.clone().into_iter().map(|curve| curve.step).max().unwrap_or(0);
        let mut sum: Vec<Option<f32>> = Vec::new();
        for curve in curves {
            // Who has said nothing yet in the step that has just begun goes on as before.
            let late = usize::try_from(latest - curve.step).unwrap_or(usize::MAX).min(count);
            let steps = std::iter::repeat_n(curve.under_way(), late + 1).chain(curve.over.iter().rev().copied());
            for (back, value) in steps.take(count).enumerate() {
                if back == sum.len() {
                    sum.push(None);
                }
                if let Some(value) = value {
                    *sum[back].get_or_insert(0.0) += value;
                }
            }
        }
        let known = sum.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        sum.truncate(known);
        sum.reverse();
        sum
    }

    fn under_way(&self) -> Option<f32> {
        (self.count > 0).then(|| (self.sum / f64::from(self.count)) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn curve(values: &[(u64, f64)]) -> Curve {
        let mut curve = Curve::default();
        values.iter().for_each(|(second, value)| curve.push(*value, Time::ZERO + Duration::from_secs(*second)));
        curve
    }

    fn seen(curves: &[Curve]) -> Vec<Option<f32>> {
        Curve::sum(curves, KEPT)
    }

    #[test]
    fn a_step_is_the_average_of_what_came_in_it_and_one_that_nobody_saw_is_empty() {
        let curve = curve(&[(100, 1.0), (109, 3.0), (110, 5.0), (139, 7.0)]);
        assert_eq!(seen(&[curve]), [Some(2.0), Some(5.0), None, Some(7.0)]);
    }

    #[test]
    fn it_begins_with_what_the_node_has_kept_and_keeps_what_only_it_has_seen() {
        let mut curve = curve(&[(100, 1.0), (110, 2.0), (120, 3.0)]);
        curve.begin_with([Some(20.0), None, Some(8.0), None, Some(7.0)]);
        assert_eq!(seen(&[curve]), [Some(7.0), None, Some(8.0), Some(1.0), Some(20.0), Some(3.0)]);
    }

    #[test]
    fn ten_minutes_are_kept() {
        let mut long = curve(&(0..2_000).map(|second| (second, second as f64)).collect::<Vec<_>>());
        long.begin_with((0..360).map(|back| Some(f64::from(back))));
        let seen = seen(&[long.clone()]);
        assert_eq!((seen.len(), seen.last(), long.over.len()), (KEPT, Some(&Some(1_994.5)), KEPT));
        long.push(1.0, Time::ZERO + Duration::from_secs(1 << 40));
        assert_eq!(Curve::sum(&[long], KEPT), [Some(1.0)], "after a long time without anybody");
    }

    #[test]
    fn a_sum_adds_the_same_steps_and_who_is_late_goes_on_as_before() {
        let (early, late) = (curve(&[(100, 1.0), (110, 2.0)]), curve(&[(90, 40.0), (100, 10.0)]));
        assert_eq!(seen(&[early, late]), [Some(40.0), Some(11.0), Some(12.0)]);
        assert_eq!(seen(&[]), []);
    }
}
