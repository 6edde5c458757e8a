//! What a Redis server says of itself, and what whoever keeps leases there should know about it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// What matters of a server, as it was when it was reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreFacts {
    /// Its `maxmemory-policy`, where that makes it forget keys: there is a `maxmemory`, and the policy evicts.
    pub evicts: Option<String>,
    /// How many replicas it has.
    pub replicas: u32,
    /// Whether it stops writing when too few replicas follow it (`min-replicas-to-write`).
    pub guarded: bool,
    /// How long it is missed before another takes its place, where that happens by itself and could be learned.
    pub failover: Option<Failover>,
}

/// When a failover begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// The setting's name: `cluster-node-timeout`.
    pub setting: &'static str,
    /// What it is set to.
    pub after: Duration,
}

/// Of several independent servers, those that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missed {
    /// How many there are.
    pub of: usize,
    /// Which of them, and why.
    pub servers: BTreeMap<String, String>,
}

impl Missed {
    /// A sentence for each: what it is to the others.
    pub fn advice(&self) -> Vec<String> {
        let (left, majority) = (self.of.saturating_sub(self.servers.len()), self.of / 2 + 1);
        let then = match left.checked_sub(majority) {
            None => "too few to hold a lease".to_owned(),
            Some(0) => "and none of these may be lost".to_owned(),
            Some(more) => format!("and {more} more may be lost"),
        };
        let of = self.of;
        let sentence =
            |(server, reason)| format!("{server} cannot be used ({reason}): {left} of {of} servers are left, {then}");
        self.servers.iter().map(sentence).collect()
    }
}

/// What is to be told of the servers that are known, by address: a sentence each, with the way out.
///
/// `shortest` is the shortest ttl of any lease, `acks` how many replicas must have a grant before it counts.
pub fn advice(servers: &BTreeMap<String, StoreFacts>, shortest: Option<Duration>, acks: u32) -> Vec<String> {
    let mut advice = Vec::new();
    for (server, facts) in servers {
        if let Some(policy) = &facts.evicts {
            advice.push(format!(
                "{server} forgets keys when its memory is full (maxmemory-policy {policy}), leases, too: \
                 CONFIG SET maxmemory-policy noeviction"
            ));
        }
        if acks > facts.replicas {
            let has = match facts.replicas {
                0 => "no replica".to_owned(),
                1 => "1 replica".to_owned(),
                n => format!("{n} replicas"),
            };
            advice.push(format!(
                "{server} has {has}, require_replica_ack wants {acks}: no lease can be held there before more follow it"
            ));
        } else if facts.replicas > 0 && acks == 0 && !facts.guarded && !is_cluster(facts) {
            advice.push(format!(
                "{server} has replicas, and goes on alone when it is cut off from them: two could run. Set \
                 require_replica_ack = 1, or there min-replicas-to-write 1"
            ));
        }
        if let Some((failover, ttl)) = facts.failover.as_ref().zip(shortest)
            && failover.after * 3 > ttl * 2
        {
            advice.push(format!(
                "{server} is missed for {} before another takes its place ({}), and the shortest lease_ttl of {} rides \
                 out {}: its singletons stop in a failover. Choose a shorter {} or a longer lease_ttl",
                seconds(failover.after),
                failover.setting,
                seconds(ttl),
                seconds(ttl * 2 / 3),
                failover.setting,
            ));
        }
    }
    advice
}

/// A master of a cluster that is cut off stops by itself, after its node time-out.
fn is_cluster(facts: &StoreFacts) -> bool {
    facts.failover.as_ref().is_some_and(|failover| failover.setting == NODE_TIMEOUT)
}

/// The setting that says how long a master of a cluster may be missed.
pub const NODE_TIMEOUT: &str = "cluster-node-timeout";
/// The setting that says how long a master may be missed by its sentinels.
pub const DOWN_AFTER: &str = "down-after-milliseconds";

/// `15 s`, `0.5 s`.
fn seconds(time: Duration) -> String {
    let text = format!("{:.1}", time.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(facts: StoreFacts, ttl: u64, acks: u32) -> Vec<String> {
        advice(&BTreeMap::from([("db:6379".to_owned(), facts)]), Some(Duration::from_secs(ttl)), acks)
    }

    fn failover(setting: &'static str, seconds: u64) -> Option<Failover> {
        Some(Failover { setting, after: Duration::from_secs(seconds) })
    }

    #[test]
    fn a_server_without_a_fault_is_told_nothing_of() {
        assert!(told(StoreFacts::default(), 15, 0).is_empty());
        let good = StoreFacts { replicas: 2, guarded: true, failover: failover(DOWN_AFTER, 10), evicts: None };
        assert!(told(good.clone(), 15, 0).is_empty());
        assert!(told(StoreFacts { guarded: false, ..good }, 15, 2).is_empty(), "acks are a guard, too");
    }

    #[test]
    fn each_fault_has_its_sentence() {
        let evicts = StoreFacts { evicts: Some("allkeys-lru".into()), ..StoreFacts::default() };
        assert!(told(evicts, 15, 0)[0].contains("maxmemory-policy allkeys-lru"));
        let alone = StoreFacts { replicas: 1, ..StoreFacts::default() };
        assert!(told(alone.clone(), 15, 0)[0].contains("min-replicas-to-write 1"));
        assert!(told(alone, 15, 2)[0].starts_with("db:6379 has 1 replica, require_replica_ack wants 2"));
        let slow = StoreFacts { failover: failover(DOWN_AFTER, 30), ..StoreFacts::default() };
        let said = &told(slow, 15, 0)[0];
        assert!(said.contains("30 s") && said.contains("15 s rides out 10 s"), "{said}");
    }

    #[test]
    fn of_servers_that_are_missed_it_is_told_what_that_means() {
        let told = |of: usize, missed: &[&str]| {
            let servers = missed.iter().map(|server| ((*server).to_owned(), "refused".to_owned())).collect();
            Missed { of, servers }.advice()
        };
        assert!(told(3, &[]).is_empty());
        let one = "a:1 cannot be used (refused): 2 of 3 servers are left, and none of these may be lost";
        assert_eq!(told(3, &["a:1"]), [one]);
        assert!(told(5, &["a:1"])[0].ends_with("4 of 5 servers are left, and 1 more may be lost"));
        assert!(told(3, &["a:1", "b:1"])[1].ends_with("1 of 3 servers are left, too few to hold a lease"));
    }

    #[test]
    fn a_cluster_guards_itself_and_no_lease_needs_no_failover() {
        let facts = StoreFacts { replicas: 1, failover: failover(NODE_TIMEOUT, 15), ..StoreFacts::default() };
        assert!(told(facts.clone(), 30, 0).is_empty());
        assert_eq!(told(facts.clone(), 15, 0).len(), 1);
        assert!(advice(&BTreeMap::from([("db".to_owned(), facts)]), None, 0).is_empty());
    }
}
