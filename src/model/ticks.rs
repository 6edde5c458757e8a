//! When a node asks the store for what it asks again and again.
//!
//! All that a node asks at one interval is asked on its own ticks, so that one round trip does for all of it; the ticks of
//! several nodes are spread.

use std::time::Duration;

use super::names::NodeName;
use super::random::Random;
use super::spec::LeaseTimings;
use super::time::Time;

/// One node's ticks at one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    /// What tells this node's ticks from others'.
    phase: u64,
    interval: Duration,
}

impl Ticks {
    pub(super) fn new(node: &NodeName, interval: Duration) -> Ticks {
        Ticks { phase: node.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, fnv_1a), interval }
    }

    /// When the next question goes out after one that was sent then: at the last of this node's ticks that is not more
    /// than the interval and its jitter away. There is one, because no two ticks are further apart than that.
    pub(super) fn after(&self, sent: Time) -> Time {
        let interval = self.interval.as_nanos() as u64;
        let jitter = LeaseTimings::JITTER * interval as f64;
        let latest = sent.as_nanos() + interval + jitter as u64;
        // Each tick comes a little after its turn, by what the node's name makes of it.
        let tick = |turn: u64| {
            turn * interval
                + (jitter * Random::from_number(self.phase ^ turn).fraction()) as u64
                + self.phase % interval
        };
        let turn = latest.saturating_sub(self.phase % interval) / interval;
        let last = if tick(turn) <= latest { tick(turn) } else { tick(turn.saturating_sub(1)) };
        // Right after the machine's start no turn has come yet.
        Time::from_nanos(last.min(latest))
    }
}

/// One step of FNV-1a (Fowler, Noll and Vo): spreads names over numbers.
fn fnv_1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn ticks(node: &str) -> Ticks {
        Ticks::new(&NodeName::parse(node).unwrap(), INTERVAL)
    }

    #[test]
    fn the_next_question_is_never_later_than_the_interval_and_its_jitter() {
        for node in ["a", "b", "web-1.example.net"] {
            for step in 0..20_000 {
                let sent = Time::ZERO + Duration::from_millis(step * 37);
                let next = ticks(node).after(sent);
                assert!(sent < next && sent.until(next) <= INTERVAL.mul_f64(1.1), "{sent:?} {next:?}");
            }
        }
    }

    #[test]
    fn questions_of_a_node_come_to_be_asked_together_and_those_of_others_at_other_times() {
        let moments = |node: &str| {
            let after = |start: u64| {
                let mut sent = Time::ZERO + Duration::from_millis(start * 113);
                while sent < Time::ZERO + Duration::from_secs(60) {
                    sent = ticks(node).after(sent);
                }
                sent
            };
            let all: std::collections::BTreeSet<Time> = (0..40).map(after).collect();
            all.into_iter().collect::<Vec<_>>()
        };
        let nodes: Vec<Vec<Time>> = (0..8).map(|n| moments(&format!("web-{n}"))).collect();
        assert!(nodes.iter().all(|moments| moments.len() == 1), "{nodes:?}");
        let mut moments: Vec<Time> = nodes.into_iter().flatten().collect();
        moments.sort_unstable();
        moments.dedup_by(|a, b| b.until(*a) < Duration::from_millis(20));
        assert!(moments.len() >= 7, "{moments:?}");
    }
}
