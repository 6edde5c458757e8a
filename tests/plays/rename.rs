//! A node that gets another name while it runs: nothing stops, and all it says bears the new one.

use std::time::Duration;

use circus_agent::model::command::{
    Answer, Command, NodeAbout, NodeRow, NodeState, Outcome, Part, Patience, Refusal, Reply, RequestId, Target,
};
use circus_agent::model::event::{Action, Ask, AskKind, Event, Exit, LeaseAnswer, ProcessId};
use circus_agent::model::history::What;
use circus_agent::model::names::WatcherName;
use circus_agent::model::pattern::Pattern;
use circus_agent::model::snapshot::{LeaseRole, WatcherState};
use circus_agent::model::spec::WatcherSpec;

use crate::specs::watcher;
use crate::stage::{Stage, name, singleton};

/// The singleton.
fn beat() -> WatcherName {
    WatcherName::parse("beat").unwrap()
}

const FILE: &str = "/etc/circus.ini";

/// Node `a`, which runs `beat` under token 7.
fn holder() -> (Stage, ProcessId) {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web")]);
    stage.grant(7);
    let child = stage.start()[0];
    (stage, child)
}

fn rename(to: &str) -> Command {
    Command::Rename { to: name(to) }
}

fn given(stage: &mut Stage, request: RequestId, to: &str) {
    stage.tell(Event::Renamed { request, to: name(to), file: Ok(FILE.into()) });
}

fn own(reply: Reply) -> Option<Outcome> {
    Some(Outcome::Own(reply))
}

fn renamed(from: &str, to: &str) -> Reply {
    Reply::Done(Answer::Renamed { from: name(from), to: name(to), file: FILE.into() })
}

/// The refreshes among these orders.
fn refreshes(orders: &[Action]) -> Vec<Ask> {
    let refresh = |action: &Action| match action {
        Action::AskLease { ask, .. } if matches!(ask.kind, AskKind::Refresh { .. }) => Some(ask.clone()),
        _ => None,
    };
    orders.iter().filter_map(refresh).collect()
}

#[test]
fn a_renamed_holder_goes_on_under_the_same_token_and_refreshes_under_the_new_name_at_once() {
    let (mut stage, child) = holder();
    let before = {
        stage.wait(Duration::from_secs(6));
        let ask = refreshes(&stage.orders()).pop().expect("a refresh");
        stage.tell(Event::Lease { watcher: beat(), ask: ask.clone(), answer: LeaseAnswer::Granted { token: 7 } });
        stage.orders();
        ask.owner
    };
    let request = stage.asks_for(rename("z"));
    assert_eq!(stage.orders(), [Action::Rename { request, to: name("z") }]);
    assert_eq!(stage.node.snapshot().node, name("a"), "not before it is given");
    given(&mut stage, request, "z");

    let lease = stage.node.snapshot().watchers.into_iter().find_map(|watcher| watcher.lease).expect("a lease");
    assert_eq!((lease.role, lease.token, lease.holder.as_deref()), (LeaseRole::Holder, Some(7), Some("z")));
    assert_eq!(stage.node.snapshot().node, name("z"));
    assert_eq!(stage.node.about(NodeAbout::default()).formerly, [name("a")]);
    let orders = stage.orders();
    let asked = refreshes(&orders);
    let stray = |action: &Action| {
        !matches!(action, Action::AskLease { ask, .. } if matches!(ask.kind, AskKind::Refresh { .. }))
            && !matches!(action, Action::Reply { .. })
    };
    assert_eq!(orders.iter().filter(|action| stray(action)).count(), 0, "{orders:?}");
    let [ask] = &asked[..] else { panic!("one refresh: {asked:?}") };
    assert_eq!((ask.owner.node.as_str(), ask.owner.nonce), ("z", before.nonce));
    assert_eq!(ask.kind, AskKind::Refresh { ttl: Duration::from_secs(15), token: 7 });
    assert_eq!(
        stage.facts().into_iter().map(|fact| fact.what).collect::<Vec<_>>(),
        [What::Started { pid: 1_000 + child.0 as u32 }, What::Renamed { from: "a".into() }]
    );

    // Who starts from now on is told the new name.
    stage.tell(Event::Lease { watcher: beat(), ask: ask.clone(), answer: LeaseAnswer::Granted { token: 7 } });
    stage.end(child, Exit::Code(1));
    stage.wait(Duration::from_secs(2));
    let told = stage.orders().into_iter().find_map(|action| match action {
        Action::Spawn { launch, .. } => {
            launch.env.iter().find(|(name, _)| name == "CIRCUS_NODE").map(|(_, node)| node.clone())
        }
        _ => None,
    });
    assert_eq!(told.as_deref(), Some("z"));
}

#[test]
fn an_answer_to_the_old_name_still_counts() {
    let (mut stage, _) = holder();
    stage.wait(Duration::from_secs(6));
    let asked = refreshes(&stage.orders()).pop().expect("a refresh");
    let request = stage.asks_for(rename("z"));
    given(&mut stage, request, "z");
    stage.tell(Event::Lease { watcher: beat(), ask: asked.clone(), answer: LeaseAnswer::Granted { token: 7 } });
    stage.orders();
    // Half a ttl after that answer, which alone was given.
    stage.wait(Duration::from_secs(4));
    let orders = stage.orders();
    assert!(!orders.iter().any(|action| matches!(action, Action::Signal { .. } | Action::Kill { .. })), "{orders:?}");
    assert_eq!(stage.state("beat"), WatcherState::Active);
}

#[test]
fn a_name_that_cannot_be_had_changes_nothing() {
    let (mut stage, _) = holder();
    let request = stage.asks_for(rename("b"));
    stage.orders();
    let why = "the name b is in use by circus-agent 0.1.0 on db, pid 7";
    stage.tell(Event::Renamed { request, to: name("b"), file: Err(why.into()) });
    assert_eq!(stage.outcome(request), own(Reply::Refused(Refusal::Failed(why.into()))));
    assert_eq!(stage.orders(), []);
    assert_eq!(stage.node.snapshot().node, name("a"));
    assert_eq!(stage.node.about(NodeAbout::default()).formerly, []);
    assert!(!stage.facts().iter().any(|fact| matches!(fact.what, What::Renamed { .. })));
}

#[test]
fn one_renaming_at_a_time_the_own_name_is_fine_and_an_ending_agent_keeps_its_name() {
    let (mut stage, _) = holder();
    let same = stage.asks_for(rename("a"));
    assert_eq!(stage.outcome(same), own(Reply::Done(Answer::Ok)));
    let first = stage.asks_for(rename("z"));
    let second = stage.asks_for(rename("y"));
    let refusal = Refusal::Failed("a is being renamed already".into());
    assert_eq!(stage.outcome(second), own(Reply::Refused(refusal)));
    given(&mut stage, first, "z");
    assert_eq!(stage.outcome(first), own(renamed("a", "z")));
    // The next one begins where that one ended, and back again is a new name like any other.
    let back = stage.asks_for(rename("a"));
    given(&mut stage, back, "a");
    assert_eq!(stage.outcome(back), own(renamed("z", "a")));
    assert_eq!(stage.node.about(NodeAbout::default()).formerly, [name("z")]);
    stage.tell(Event::StopAsked { by: "SIGTERM".into() });
    let late = stage.asks_for(rename("x"));
    assert_eq!(stage.outcome(late), own(Reply::Refused(Refusal::Stopping)));
}

#[test]
fn a_node_that_is_renamed_by_its_name_answers_under_the_name_that_was_asked() {
    let (mut stage, _) = holder();
    let request = stage.ask(Target::node(name("a")), rename("z"));
    stage.tell(Event::RosterRead { request, rows: Ok(Vec::new()) });
    given(&mut stage, request, "z");
    let parts = vec![(name("a"), Part::Own(renamed("a", "z")))];
    assert_eq!(stage.outcome(request), Some(Outcome::Gathered { parts, missing: None }));
    // And what was asked of several nodes before is put together after it.
    let request = stage.ask(Target::All, Command::Version);
    let row = NodeRow { name: name("b"), state: NodeState::Up, seen: Duration::ZERO, about: NodeAbout::default() };
    let about = NodeAbout { protocol: 1, ..NodeAbout::default() };
    stage.tell(Event::RosterRead { request, rows: Ok(vec![NodeRow { about, ..row }]) });
    let meanwhile = stage.asks_for(rename("y"));
    given(&mut stage, meanwhile, "y");
    stage.orders();
    stage.tell(Event::Replied { request, node: name("b"), text: "{}".into() });
    let Some(Outcome::Gathered { parts, .. }) = stage.outcome(request) else { panic!("an outcome") };
    assert_eq!(parts.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["b", "z"]);
}

#[test]
fn without_redis_a_node_is_renamed_too() {
    let mut stage = Stage::with(vec![watcher("web")], Duration::ZERO, false);
    let request = stage.asks_for(rename("z"));
    given(&mut stage, request, "z");
    assert_eq!(stage.outcome(request), own(renamed("a", "z")));
    assert_eq!(stage.state("web"), WatcherState::Starting);
}

#[test]
fn an_undrain_starts_what_the_drain_stopped_and_nothing_else() {
    let off = WatcherSpec { autostart: false, ..watcher("off") };
    let mut stage = Stage::new(vec![watcher("a"), watcher("b"), watcher("c"), off]);
    stage.start();
    // One that starts by itself was stopped by hand, one that does not was started.
    let stop =
        |watcher: &str| Command::Stop { pattern: Some(Pattern::Name(watcher.into())), patience: Patience::Admitted };
    let start = Command::Start { pattern: Some(Pattern::Name("off".into())), patience: Patience::Admitted };
    stage.asks_for(start);
    stage.start();
    stage.asks_for(stop("a"));
    end_all(&mut stage);
    stage.asks_for(Command::Drain { patience: Patience::Admitted });
    end_all(&mut stage);
    // And one more is stopped by hand while nothing runs.
    stage.asks_for(stop("b"));
    stage.orders();
    stage.asks_for(Command::Undrain { patience: Patience::Admitted });
    stage.wait(Duration::from_secs(1));
    let mut spawns: Vec<String> = stage.spawns().into_iter().map(|(_, name)| name).collect();
    spawns.sort();
    assert_eq!(spawns, ["c#1", "off#1"]);
}

/// Ends all that was told to stop.
fn end_all(stage: &mut Stage) {
    for action in stage.orders() {
        if let Action::Signal { process, .. } = action {
            stage.end(process, Exit::Signal(15));
        }
    }
}

#[test]
fn a_drained_node_passes_a_failover_on_to_the_holder_that_the_registry_names() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.asks_for(Command::Drain { patience: Patience::Admitted });
    stage.orders();
    let command = Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled };
    let row = |holder: &str, state| NodeRow {
        name: name(holder),
        state,
        seen: Duration::ZERO,
        about: NodeAbout { holds: vec!["Beat".into()], ..NodeAbout::default() },
    };
    let request = stage.asks_for(command.clone());
    stage.tell(Event::RosterRead { request, rows: Ok(vec![row("b", NodeState::Gone), row("c", NodeState::Up)]) });
    let relayed = Action::Relay { request, to: name("c"), command: command.clone(), by: "amy".into() };
    assert!(stage.orders().contains(&relayed));
    stage.tell(Event::Replied { request, node: name("c"), text: "moved".into() });
    assert_eq!(stage.outcome(request), Some(Outcome::Relayed("moved".into())));

    let request = stage.asks_for(command);
    stage.tell(Event::RosterRead { request, rows: Ok(vec![row("b", NodeState::Gone)]) });
    let refusal = Refusal::NotHolder { watcher: beat(), holder: None };
    assert_eq!(stage.outcome(request), own(Reply::Refused(refusal)));
}
