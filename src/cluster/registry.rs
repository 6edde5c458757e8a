//! Which nodes there are: each beats a row into Redis, and anybody can list the rows.
//!
//! Invariants:
//! - Ages are by Redis's clock alone, so no two nodes need to agree on the time.
//! - Of two agents with one name the one that beats keeps it; the other is told.
//! - A beat that fails says nothing about leases, and stops nothing.
//! - A node that is renamed has its new name when most servers have given it, and otherwise its old one; no beat falls in
//!   between. A row that is left over under the other one goes with the next beat that gets through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{RwLock, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::link::{Link, jittered};
use super::scripts::{self, Call};
use super::seal::Seal;
use super::servers::Servers;
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

/// Who an agent is in the registry.
#[derive(Clone)]
pub(super) struct Agent {
    pub(super) cluster: ClusterName,
    /// What tells it from another one of its name.
    pub(super) instance: u128,
    /// What it is called. Who writes a row keeps it from being changed meanwhile.
    pub(super) called: Arc<RwLock<Called>>,
    /// What it says of itself, and what measures its machine.
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) machine: fn() -> Machine,
    /// What its messages are sealed with.
    pub(super) seal: Seal,
    /// Since when the agent is up.
    pub(super) begun: Instant,
}

/// What an agent is called.
pub(super) struct Called {
    pub(super) now: NodeName,
    /// What it was called before, or could not be called: a row of its own may still stand under that name.
    pub(super) other: Option<NodeName>,
}

impl Agent {
    /// The call that says that it is there under a name, and not under another.
    fn beat_call(&self, name: &NodeName, not: Option<&NodeName>, draining: bool, about: &NodeAbout) -> Call {
        let (counts, lives) = (UP.as_millis().to_string(), FORGOTTEN.as_millis().to_string());
        let (instance, state) = (format!("{:032x}", self.instance), if draining { "draining" } else { "up" });
        let mut keys = vec![keys::node(&self.cluster, name), keys::nodes(&self.cluster)];
        let mut args = vec![instance, name.to_string(), state.to_owned(), about_json(about), counts, lives];
        keys.extend(not.map(|not| keys::node(&self.cluster, not)));
        args.extend(not.map(NodeName::to_string));
        Call { script: scripts::BEAT, keys, args }
    }

    /// What it says of itself now. Secrets are read anew each time: they change while agents run.
    fn about(&self, said: &Standing, machine: Machine) -> NodeAbout {
        NodeAbout { up: self.begun.elapsed(), machine, seals: self.seal.marks(), ..said.about.clone() }
    }

    /// Has it called `to`.
    ///
    /// # Errors
    /// The name cannot be had, and all is as it was.
    pub(super) async fn rename(&self, servers: &Servers, to: &NodeName) -> Result<(), String> {
        let said = self.standing.borrow().clone();
        let machine = measure(self.machine).await.unwrap_or(said.about.machine);
        let mut called = self.called.write().await;
        let from = called.now.clone();
        let mut about = self.about(&said, machine);
        // The node itself says so as soon as it knows.
        about.formerly.insert(0, from.clone());
        let call = self.beat_call(to, Some(&from), said.draining, &about);
        let given = given(to, servers.call(&call, BEAT_TIMEOUT).await);
        let (now, other) = if given.is_ok() { (to.clone(), from) } else { (from, to.clone()) };
        *called = Called { now, other: Some(other) };
        given
    }
}

/// Whether servers gave a name: most of them have to, and none may know of another agent that has it.
fn given(name: &NodeName, answers: Vec<Result<Vec<String>, String>>) -> Result<(), String> {
    let majority = answers.len() / 2 + 1;
    let (mut gave, mut why) = (0, String::new());
    for answer in answers {
        match answer {
            Ok(words) => match rival(&words) {
                Some(by) => return Err(format!("the name {name} is in use by {by}")),
                None => gave += 1,
            },
            Err(reason) => why = reason,
        }
    }
    if gave >= majority { Ok(()) } else { Err(format!("Redis: {why}")) }
}

/// The other agent that has a name, where a beat's answer says so.
fn rival(words: &[String]) -> Option<String> {
    let taken = words.first().is_some_and(|word| word == "taken");
    taken.then(|| rival_text(words.get(1).map_or("", String::as_str)))
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

/// Beats for ever: every two seconds, soon after a change, and at once on each new connection and where a drain begins or
/// ends.
pub(super) async fn beat(link: Link, agent: Agent, name: watch::Sender<Name>, events: mpsc::Sender<Event>) {
    let mut generation = link.newer_than(0).await;
    let mut standing = agent.standing.clone();
    let (mut known_rival, mut tidied) = (None, None);
    let mut measured = Machine::default();
    loop {
        let said = standing.borrow_and_update().clone();
        measured = measure(agent.machine).await.unwrap_or(measured);
        let about = agent.about(&said, measured);
        let (beaten, other) = {
            let called = agent.called.read().await;
            let other = called.other.clone();
            let not = other.as_ref().filter(|other| tidied.as_ref() != Some(*other));
            let call = agent.beat_call(&called.now, not, said.draining, &about);
            (link.call(&call, BEAT_TIMEOUT).await, other)
        };
        match beaten.map(|words| rival(&words)) {
            Ok(Some(by)) => {
                name.send_replace(Name::Taken);
                if known_rival.as_ref() != Some(&by) {
                    known_rival = Some(by.clone());
                    if events.send(Event::NameTaken { by }).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => {
                (known_rival, tidied) = (None, other);
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
            () = another(&mut standing, &said) => {}
        }
    }
}

/// Measures the machine on another thread; nothing where that takes too long to wait with a heartbeat for it.
async fn measure(machine: fn() -> Machine) -> Option<Machine> {
    timeout(MEASURE_TIMEOUT, spawn_blocking(machine)).await.ok()?.ok()
}

/// Waits until it is time to tell that a node has other [news](NodeAbout::news) than `said`; that time goes by is none.
/// Whether it is drained is told at once: nothing more is to be placed there, and who waited for that is about to look.
async fn another(standing: &mut watch::Receiver<Standing>, said: &Standing) {
    let mut due = None;
    loop {
        let told = tokio::select! {
            told = standing.changed() => told,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return,
        };
        if told.is_err() {
            // The agent says nothing more, and goes on beating until it leaves.
            std::future::pending::<()>().await;
        }
        let now = standing.borrow_and_update();
        if now.draining != said.draining {
            return;
        }
        if now.about.news() != said.about.news() {
            due = due.or_else(|| Some(Instant::now() + CHANGE_SETTLES));
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
    fn a_name_is_given_by_most_servers_and_by_none_that_knows_another_agent_of_that_name() {
        let name = NodeName::parse("web-9").unwrap();
        let (beaten, silent) = (|| Ok(words(&["beaten"])), || Err("no answer".to_owned()));
        let taken = || Ok(words(&["taken", r#"{"version": "0.1.0", "host": "db", "pid": 7}"#]));
        assert_eq!(given(&name, vec![beaten()]), Ok(()));
        assert_eq!(given(&name, vec![beaten(), silent(), beaten()]), Ok(()));
        assert_eq!(given(&name, vec![beaten(), silent(), silent()]), Err("Redis: no answer".into()));
        let why = given(&name, vec![beaten(), beaten(), taken()]).unwrap_err();
        assert_eq!(why, "the name web-9 is in use by circus-agent 0.1.0 on db, pid 7");
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
    fn that_a_node_is_drained_is_told_at_once_and_other_news_when_they_have_settled() {
        use futures_util::FutureExt;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let said = Standing { about: NodeAbout::default(), draining: false };
            let (teller, mut standing) = watch::channel(said.clone());
            let mut telling = Box::pin(another(&mut standing, &said));
            assert_eq!((&mut telling).now_or_never(), None);
            teller.send_modify(|standing| standing.about.holds = vec!["beat".into()]);
            assert_eq!((&mut telling).now_or_never(), None);
            teller.send_modify(|standing| standing.draining = true);
            assert_eq!((&mut telling).now_or_never(), Some(()));
            drop(telling);
            let held = Standing { about: NodeAbout::default(), draining: true };
            teller.send_modify(|standing| standing.about.holds.push("reaper".into()));
            another(&mut standing, &held).await;
        });
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
