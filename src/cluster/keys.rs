//! Every key and channel of a cluster in Redis, but those of a lease, which [`LeaseName`] gives:
//!
//! | name | what | written by | ends |
//! |---|---|---|---|
//! | `circus:{CLUSTER/NAME}:lease` | string: the holder | take, refresh | with its ttl |
//! | `circus:{CLUSTER/NAME}:meta` | hash: what is remembered of the lease | take, refresh, release, init, pause | never |
//! | `circus:{CLUSTER/NAME}:history` | stream: what was told of its tenures | record | never, but it is cut |
//! | `circus:{CLUSTER/NAME}:members` | hash: who contends for it | muster | with the last of them |
//! | `circus:{CLUSTER/NAME}:slots` | hash: which times of schedules were claimed under it | claim | never |
//! | `circus:{CLUSTER/NAME}:runs:WATCHER` | stream: what became of the slots of that watcher | claim, record | never, but it is cut |
//! | `circus:{CLUSTER/NAME}:free` | channel: the lease was released, paused or resumed, or its holder renamed | release, init, pause, refresh | |
//! | `circus:{CLUSTER/NAME}:changed` | channel: one of its members came, left or changed | muster | |
//! | `circus:{CLUSTER}:nodes` | sorted set: names of nodes by when they were listed | beat, roster | 2 h after the last listing |
//! | `circus:{CLUSTER}:node:NAME` | hash: instance, seen, state, about, listed | beat, leave | 1 h after the last beat |
//! | `circus:{CLUSTER}:bus:NODE` | channel: questions to that node | anybody | |
//! | `circus:{CLUSTER}:reply:ID` | channel: answers to one asker | nodes | |
//! | `circus:{CLUSTER}:events` | channel: what happens on nodes | nodes | |
//! | `circus:{CLUSTER}:watch` | channel: what somebody watches | whoever watches | |
//! | `circus:{CLUSTER}:stats` | channel: what nodes use | nodes, while somebody watches | |
//! | `circus:{CLUSTER}:output` | channel: what processes print | nodes, while somebody watches | |
//!
//! What stands in braces decides the slot of a Redis Cluster: a lease's keys share one, and so do all rows. Where a lease has
//! a key that others take, too, that one stands in the first one's place, and the others are `circus:lock:{KEY}:meta` and so on.

use crate::model::names::{ClusterName, NodeName};

#[cfg(doc)]
use crate::model::names::LeaseName;

/// The set of all nodes' names.
pub fn nodes(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:nodes")
}

/// What stands before a node's name in the key of its row.
pub fn node_prefix(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:node:")
}

/// A node's row.
pub fn node(cluster: &ClusterName, name: &NodeName) -> String {
    format!("{}{name}", node_prefix(cluster))
}

/// What stands before a node's name in the channel on which it is asked.
pub fn bus_prefix(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:bus:")
}

/// The channel on which a node is asked.
pub fn bus(cluster: &ClusterName, node: &NodeName) -> String {
    format!("{}{node}", bus_prefix(cluster))
}

/// What stands before the asker's id in a channel of answers.
pub fn reply_prefix(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:reply:")
}

/// The channel on which one asker is answered. `id` is drawn anew by each asker.
pub fn reply(cluster: &ClusterName, id: u128) -> String {
    format!("{}{id:032x}", reply_prefix(cluster))
}

/// The channel on which all nodes tell what happens.
pub fn events(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:events")
}

/// The channel on which whoever watches says so.
pub fn watch(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:watch")
}

/// The channel on which nodes tell what they use.
pub fn stats(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:stats")
}

/// The channel on which nodes tell what their processes print.
pub fn output(cluster: &ClusterName) -> String {
    format!("circus:{{{cluster}}}:output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_of_a_cluster_share_one_slot() {
        let cluster = ClusterName::parse("prod").unwrap();
        let web = NodeName::parse("web-1").unwrap();
        assert_eq!(nodes(&cluster), "circus:{prod}:nodes");
        assert_eq!(node(&cluster, &web), "circus:{prod}:node:web-1");
        assert_eq!(bus(&cluster, &web), "circus:{prod}:bus:web-1");
        assert_eq!(events(&cluster), "circus:{prod}:events");
        assert_eq!(watch(&cluster), "circus:{prod}:watch");
        assert_eq!(stats(&cluster), "circus:{prod}:stats");
        assert_eq!(output(&cluster), "circus:{prod}:output");
        assert_eq!(reply(&cluster, 7), "circus:{prod}:reply:00000000000000000000000000000007");
    }
}
