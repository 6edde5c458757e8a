//! What a server says of itself → [`StoreFacts`]. Pure: texts in, values out.

use std::time::Duration;

use redis::Value;

use crate::model::store::{Failover, NODE_TIMEOUT, StoreFacts};

/// Reads `INFO replication` and `INFO memory`.
pub(super) fn read(replication: &str, memory: &str, failover: Option<Failover>) -> StoreFacts {
    let policy = field(memory, "maxmemory_policy").filter(|policy| *policy != "noeviction");
    let limited = field(memory, "maxmemory").is_some_and(|bytes| bytes != "0");
    StoreFacts {
        evicts: policy.filter(|_| limited).map(ToOwned::to_owned),
        replicas: field(replication, "connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0),
        // There only where `min-replicas-to-write` is set.
        guarded: field(replication, "min_slaves_good_slaves").is_some(),
        failover,
    }
}

/// What `CONFIG GET cluster-node-timeout` says; nothing where it was refused.
pub(super) fn node_timeout(answer: Option<Value>) -> Option<Failover> {
    let [_, value] = redis::from_redis_value::<[String; 2]>(answer?).ok()?;
    Some(Failover { setting: NODE_TIMEOUT, after: Duration::from_millis(value.parse().ok()?) })
}

/// The value in a line `name:value` of `INFO` and its like.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_found_in_what_a_server_says() {
        let replication = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nmin_slaves_good_slaves:2\r\n";
        let memory = "maxmemory:1048576\r\nmaxmemory_human:1.00M\r\nmaxmemory_policy:volatile-ttl\r\n";
        let facts = read(replication, memory, None);
        let evicts = Some("volatile-ttl".to_owned());
        assert_eq!(facts, StoreFacts { evicts, replicas: 2, guarded: true, failover: None });
        assert_eq!(read("role:master", "maxmemory:0\r\nmaxmemory_policy:allkeys-lru", None), StoreFacts::default());
        assert_eq!(read("", "maxmemory:9\r\nmaxmemory_policy:noeviction\r\n", None), StoreFacts::default());
    }

    #[test]
    fn a_node_timeout_is_read_where_it_may_be() {
        let words = |words: &[&str]| Value::Array(words.iter().map(|w| Value::BulkString((*w).into())).collect());
        let read = node_timeout(Some(words(&["cluster-node-timeout", "2000"])));
        assert_eq!(read, Some(Failover { setting: NODE_TIMEOUT, after: Duration::from_secs(2) }));
        assert_eq!(node_timeout(Some(words(&[]))), None);
        assert_eq!(node_timeout(None), None);
    }
}
