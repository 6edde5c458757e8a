//! What still stops on nodes that are being drained, or whose watchers were told to stop: from their status and what
//! happens there, to lines.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::words::printable;
use super::{list, word};
use crate::wire;

/// Watchers on their way down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopping {
    /// Of each node, those that still stop.
    left: BTreeMap<String, BTreeSet<String>>,
    /// How many there were.
    all: usize,
    /// Singletons that these nodes had, and of which nobody has heard where they are now.
    held: BTreeMap<String, String>,
}

impl Stopping {
    /// Those of the watchers that are `meant` which run, from a reply to `status` of one node or several.
    pub fn of(reply: &Value, meant: impl Fn(&str) -> bool) -> Stopping {
        let mut stopping = Stopping { left: BTreeMap::new(), all: 0, held: BTreeMap::new() };
        for (node, watcher) in watchers(reply) {
            let name = word(watcher, "name").to_owned();
            if !meant(&name) || !runs(watcher) {
                continue;
            }
            if watcher["lease"]["role"] == "holder" {
                stopping.held.insert(name.clone(), node.to_owned());
            }
            stopping.left.entry(node.to_owned()).or_default().insert(name);
            stopping.all += 1;
        }
        stopping
    }

    /// What a later look shows to be over; a line for each.
    pub fn look(&mut self, reply: &Value) -> Vec<String> {
        let over = watchers(reply).filter(|(_, watcher)| !runs(watcher));
        over.filter_map(|(node, watcher)| self.stopped(node, word(watcher, "name"))).collect()
    }

    /// An event of any node: the line that it is worth.
    pub fn hear(&mut self, event: &Value) -> Option<String> {
        let (node, watcher) = (event["node"].as_str()?, event["watcher"].as_str()?);
        match event["event"].as_str()? {
            "stop" => self.stopped(node, watcher),
            "spawn" if self.held.get(watcher).is_some_and(|from| from != node) => {
                let from = self.held.remove(watcher)?;
                Some(printable(&format!("{watcher} went from {from} to {node}")))
            }
            _ => None,
        }
    }

    fn stopped(&mut self, node: &str, watcher: &str) -> Option<String> {
        self.left.get_mut(node)?.remove(watcher).then(|| {
            let line = format!("{node}: {watcher} stopped, {} of {} still to stop", self.left(), self.all);
            printable(&line)
        })
    }

    /// How many there were.
    pub fn all(&self) -> usize {
        self.all
    }

    /// How many still stop.
    pub fn left(&self) -> usize {
        self.left.values().map(BTreeSet::len).sum()
    }

    /// Whether nobody has heard yet where some singleton went.
    pub fn is_moving(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is waited for: `web-3: worker and 2 more stop`.
    pub fn now(&self) -> String {
        let mut left = self.left.iter().flat_map(|(node, names)| names.iter().map(move |name| (node, name)));
        match (left.next(), self.left()) {
            (None, _) => String::new(),
            (Some((node, name)), 1) => printable(&format!("{node}: {name} stops")),
            (Some((node, name)), count) => printable(&format!("{node}: {name} and {} more stop", count - 1)),
        }
    }
}

fn runs(watcher: &Value) -> bool {
    !list(watcher, "processes").is_empty()
}

fn watchers(reply: &Value) -> impl Iterator<Item = (&str, &Value)> {
    wire::parts(reply).flat_map(|(node, part)| list(part, "watchers").iter().map(move |watcher| (node, watcher)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(watchers: &[(&str, bool)]) -> Value {
        let watcher = |(name, runs): &(&str, bool)| {
            let processes = if *runs { json!([{"wid": 1}]) } else { json!([]) };
            let lease = if *name == "beat" { json!({"role": "holder"}) } else { Value::Null };
            json!({"name": name, "processes": processes, "lease": lease})
        };
        let watchers: Vec<Value> = watchers.iter().map(watcher).collect();
        json!({"status": "ok", "nodes": {"a": {"status": "ok", "watchers": watchers}}})
    }

    fn event(word: &str, node: &str, watcher: &str) -> Value {
        json!({"event": word, "node": node, "watcher": watcher})
    }

    #[test]
    fn each_that_stops_is_told_once_and_each_lease_where_it_goes() {
        let mut stopping =
            Stopping::of(&status(&[("web", true), ("beat", true), ("off", false), ("db", true)]), |_| true);
        assert_eq!((stopping.all(), stopping.left()), (3, 3));
        assert_eq!(stopping.now(), "a: beat and 2 more stop");
        assert_eq!(stopping.hear(&event("stop", "b", "web")), None, "another node's");
        assert_eq!(stopping.hear(&event("spawn", "a", "beat")), None);
        let told = stopping.hear(&event("stop", "a", "beat"));
        assert_eq!(told.as_deref(), Some("a: beat stopped, 2 of 3 still to stop"));
        assert_eq!(stopping.hear(&event("stop", "a", "beat")), None);
        assert!(stopping.is_moving());
        assert_eq!(stopping.hear(&event("spawn", "b", "beat")).as_deref(), Some("beat went from a to b"));
        assert_eq!((stopping.hear(&event("spawn", "c", "beat")), stopping.is_moving()), (None, false));
        // What was not heard of is seen.
        let lines = stopping.look(&status(&[("web", false), ("beat", false), ("db", true)]));
        assert_eq!(lines, ["a: web stopped, 1 of 3 still to stop"]);
        assert_eq!(stopping.now(), "a: db stops");
        stopping.hear(&event("stop", "a", "db"));
        assert_eq!(stopping.now(), "");
    }

    #[test]
    fn only_what_is_meant_counts() {
        let alone = status(&[("web", true), ("db", true)])["nodes"]["a"].clone();
        let mut named = alone.clone();
        named["node"] = json!("a");
        let stopping = Stopping::of(&named, |name| name == "db");
        assert_eq!((stopping.all(), stopping.now()), (1, "a: db stops".into()));
        assert_eq!(Stopping::of(&alone, |_| true).all(), 0, "nobody's");
    }
}
