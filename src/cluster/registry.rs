//! Which nodes there are: each beats a row into Redis, and anybody can list the rows.
//!
//! Invariants:
//! - Ages are by Redis's clock alone, so no two nodes need to agree on the time.
//! - Of two agents with one name the one that beats keeps it; the other is told.
//! - A beat that fails says nothing about leases, and stops nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::link::{Link, jittered};
use super::scripts::{self, Call};
use super::seal::Seal;
use super::{Standing, keys};
use crate::model::command::{NodeAbout, NodeRow, NodeState};
use crate::model::event::Event;
use crate::model::names::{ClusterName, NodeName};
use crate::model::stats::Machine;
use crate::wire::{about_json, parse_about};

/// How often a node beats.
const BEAT_EVERY: Duration = Duration::from_secs(2);
/// How long a beat may take.
const BEAT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to measure the machine; what was measured before then counts again.
const MEASURE_TIMEOUT: Duration = Duration::from_millis(100);
/// How soon a change of what a node says of itself is beaten, so that several at once cost one beat.
const CHANGE_SETTLES: Duration = Duration::from_millis(200);
/// A node heard of within this is up.
const UP: Duration = Duration::from_secs(6);
/// A node not heard of for this is gone.
const GONE: Duration = Duration::from_secs(60);
/// A node not heard of for this is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Whether this agent may act under its node's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// Redis was not asked yet.
    Unknown,
    /// Nobody else has it, as far as is known.
    Ours,
    /// Another live agent has it.
    Taken,
}

/// The call that says that a node is there.
pub(super) fn beat_call(cluster: &ClusterName, node: &NodeName, instance: u128, state: &str, about: String) -> Call {
    let (counts, lives) = (UP.as_millis().to_string(), FORGOTTEN.as_millis().to_string());
    Call {
        script: scripts::BEAT,
        keys: vec![keys::node(cluster, node), keys::nodes(cluster)],
        args: vec![format!("{instance:032x}"), node.to_string(), state.to_owned(), about, counts, lives],
    }
}

/// The call that says that a node has left.
pub(super) fn leave_call(cluster: &ClusterName, node: &NodeName, instance: u128) -> Call {
    Call { script: scripts::LEAVE, keys: vec![keys::node(cluster, node)], args: vec![format!("{instance:032x}")] }
}

/// The call that lists the nodes.
pub(super) fn roster_call(cluster: &ClusterName) -> Call {
    Call { script: scripts::ROSTER, keys: vec![keys::nodes(cluster)], args: vec![keys::node_prefix(cluster)] }
}

/// The rows that [`roster_call`]'s answer tells of, sorted by name. What is no row of ours is left out.
pub(super) fn rows(words: &[String]) -> Vec<NodeRow> {
    let row = |words: &[String]| {
        let [name, age, said, about] = words else { return None };
        let seen = Duration::from_millis(age.parse().ok()?);
        let row = NodeRow {
            name: NodeName::parse(name).ok()?,
            state: state(seen, said),
            seen,
            // A later version may say it in another way, and is there all the same.
            about: parse_about(about).unwrap_or_default(),
        };
        (seen < FORGOTTEN).then_some(row)
    };
    let mut rows: Vec<NodeRow> = words.chunks(4).filter_map(row).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// What all servers together know, of each node what is newest. One of them suffices.
///
/// # Errors
/// None of them told, and why.
pub(super) fn merged(answers: Vec<Result<Vec<String>, String>>) -> Result<Vec<NodeRow>, String> {
    let mut newest: BTreeMap<NodeName, NodeRow> = BTreeMap::new();
    let mut told = Err(String::new());
    for answer in answers {
        match answer {
            Ok(words) => {
                told = Ok(());
                for row in rows(&words) {
                    let known = newest.entry(row.name.clone()).or_insert_with(|| row.clone());
                    if row.seen < known.seen {
                        *known = row;
                    }
                }
            }
            Err(reason) => told = told.map_err(|_| reason),
        }
    }
    told.map(|()| newest.into_values().collect())
}

/// How a node is that was heard of `seen` ago and `said` how it was.
fn state(seen: Duration, said: &str) -> NodeState {
    match said {
        _ if seen >= GONE => NodeState::Gone,
        "gone" => NodeState::Gone,
        _ if seen >= UP => NodeState::Stale,
        "draining" => NodeState::Draining,
        _ => NodeState::Up,
    }
}

/// Beats for ever: every two seconds, soon after a change, and at once on each new connection.
pub(super) async fn beat(
    link: Link,
    (cluster, node, instance): (ClusterName, NodeName, u128),
    (mut standing, machine, seal): (watch::Receiver<Standing>, fn() -> Machine, Seal),
    name: watch::Sender<Name>,
    events: mpsc::Sender<Event>,
) {
    let mut generation = link.newer_than(0).await;
    let mut changed = Instant::now();
    let mut rival = None;
    let mut measured = Machine::default();
    loop {
        if standing.has_changed().unwrap_or(false) {
            changed = Instant::now();
        }
        let said = standing.borrow_and_update().clone();
        measured = measure(machine).await.unwrap_or(measured);
        let up = said.about.up + changed.elapsed();
        // Read anew each time: secrets change while agents run.
        let about = NodeAbout { up, machine: measured, seals: seal.marks(), ..said.about.clone() };
        let state = if said.draining { "draining" } else { "up" };
        let call = beat_call(&cluster, &node, instance, state, about_json(&about));
        match link.call(&call, BEAT_TIMEOUT).await {
            Ok(words) if words.first().is_some_and(|word| word == "taken") => {
                name.send_replace(Name::Taken);
                let by = rival_text(words.get(1).map_or("", String::as_str));
                if rival.as_ref() != Some(&by) {
                    rival = Some(by.clone());
                    if events.send(Event::NameTaken { by }).await.is_err() {
                        return;
                    }
                }
            }
            Ok(_) => {
                rival = None;
                name.send_replace(Name::Ours);
            }
            Err(reason) => {
                tracing::debug!(%reason, "no heartbeat");
                // A Redis that cannot keep rows can still carry messages.
                name.send_if_modified(|name| {
                    let unknown = *name == Name::Unknown;
                    if unknown {
                        *name = Name::Ours;
                    }
                    unknown
                });
            }
        }
        tokio::select! {
            () = sleep(jittered(BEAT_EVERY, 0.1)) => {}
            newer = link.newer_than(generation) => generation = newer,
            () = another(&mut standing, &said, &mut changed) => sleep(CHANGE_SETTLES).await,
        }
    }
}

/// Measures the machine on another thread; nothing where that takes too long to wait with a heartbeat for it.
async fn measure(machine: fn() -> Machine) -> Option<Machine> {
    timeout(MEASURE_TIMEOUT, spawn_blocking(machine)).await.ok()?.ok()
}

/// Waits until a node has other [news](NodeAbout::news) than `said`; that time goes by is none.
async fn another(standing: &mut watch::Receiver<Standing>, said: &Standing, changed: &mut Instant) {
    loop {
        if standing.changed().await.is_err() {
            // The agent says nothing more, and goes on beating until it leaves.
            std::future::pending::<()>().await;
        }
        *changed = Instant::now();
        let now = standing.borrow_and_update();
        if now.draining != said.draining || now.about.news() != said.about.news() {
            return;
        }
    }
}

/// Who has the name, for people.
fn rival_text(about: &str) -> String {
    match parse_about(about) {
        Ok(about) => format!("circus-agent {} on {}, pid {}", about.version, about.host, about.pid),
        Err(_) => "another agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_is_up_then_stale_then_gone_and_draining_only_while_it_beats() {
        for (age, said, is) in [
            (0, "up", NodeState::Up),
            (5_999, "up", NodeState::Up),
            (6_000, "up", NodeState::Stale),
            (59_999, "up", NodeState::Stale),
            (60_000, "up", NodeState::Gone),
            (10, "draining", NodeState::Draining),
            (6_000, "draining", NodeState::Stale),
            (10, "gone", NodeState::Gone),
        ] {
            assert_eq!(state(Duration::from_millis(age), said), is, "{said} {age} ms ago");
        }
    }

    #[test]
    fn of_several_servers_the_newest_word_counts_and_one_suffices() {
        let beat = |name: &str, age: &str| words(&[name, age, "up", "{}"]);
        let both = [beat("web-1", "7000"), beat("web-2", "10")].concat();
        let all = merged(vec![Ok(both), Err("refused".into()), Ok(beat("web-1", "20"))]).unwrap();
        let seen: Vec<u128> = all.iter().map(|row| row.seen.as_millis()).collect();
        assert_eq!(seen, [20, 10]);
        assert_eq!(merged(vec![Err("refused".into()); 3]), Err("refused".into()));
    }

    #[test]
    fn what_a_node_is_to_do_is_news_and_how_much_it_does_is_none() {
        let about = NodeAbout { holds: vec!["beat".into()], ..NodeAbout::default() };
        let busy = Machine { load: 3.5, ..Machine::default() };
        let up = Duration::from_secs(9);
        assert_eq!(NodeAbout { up, processes: 7, well: 2, machine: busy, ..about.clone() }.news(), about.news());
        for other in [
            NodeAbout { wanted: [("web".into(), 3)].into(), ..about.clone() },
            NodeAbout { labels: [("zone".into(), "a".into())].into(), ..about.clone() },
            NodeAbout { holds: Vec::new(), ..about.clone() },
        ] {
            assert_ne!(other.news(), about.news());
        }
    }

    #[test]
    fn rows_are_sorted_and_what_is_none_is_left_out() {
        let rows = rows(&words(&[
            "web-2", "10", "up", "{}", "no name", "10", "up", "{}", "web-1", "7000", "up", "?", "old", "3600000", "up",
            "{}", "cut", "1",
        ]));
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["web-1", "web-2"]);
        assert_eq!(rows[0].state, NodeState::Stale);
    }
}
