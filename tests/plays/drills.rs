//! When a drill may begin, and what is said of it.

use std::time::Duration;

use circus_agent::model::command::{
    Answer, Command, NodeAbout, NodeRow, NodeState, Outcome, Refusal, Reply, RequestId,
};
use circus_agent::model::drill::{Drill, Kind};
use circus_agent::model::event::{Action, Event, Exit, ProcessId};
use circus_agent::model::names::{ClusterName, LeaseName, WatcherName};
use circus_agent::model::spec::{AgentSpec, WatcherSpec};

use crate::specs;
use crate::specs::watcher;
use crate::stage::{Stage, TERM, name, singleton};

/// A node with Redis that allows drills, or does not.
fn node(allow_drills: bool, watcher: WatcherSpec) -> Stage {
    Stage::of(AgentSpec { redis: specs::redis(), allow_drills, ..specs::agent(&name("a"), vec![watcher]) })
}

/// One that runs `beat` under token 7, and its child.
fn holder(allow_drills: bool) -> (Stage, ProcessId) {
    let mut stage = node(allow_drills, singleton("beat"));
    stage.grant(7);
    let child = stage.start()[0];
    (stage, child)
}

fn drill(watcher: &str, kind: Kind, lasting: Option<Duration>) -> Command {
    Command::Drill { watcher: watcher.into(), kind, lasting }
}

/// The registry says that b is so, and waits for these.
fn registry(stage: &mut Stage, request: RequestId, state: NodeState, waits: &[&str]) {
    let about = NodeAbout { waits: waits.iter().map(ToString::to_string).collect(), ..NodeAbout::default() };
    let row = NodeRow { name: name("b"), state, seen: Duration::from_secs(1), about };
    stage.tell(Event::RosterRead { request, rows: Ok(vec![row]) });
}

/// What begins, if anything does.
fn begun(stage: &mut Stage) -> Option<Drill> {
    stage.orders().into_iter().find_map(|action| match action {
        Action::Drill { drill, .. } => Some(*drill),
        _ => None,
    })
}

#[track_caller]
fn refused(stage: &mut Stage, request: RequestId, refusal: Refusal) {
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refusal))));
}

#[test]
fn a_drill_begins_when_somebody_could_take_over_and_is_told_when_it_is_watched() {
    let (mut stage, child) = holder(true);
    let ttl = Duration::from_secs(15);
    for (kind, asked, lasting) in [
        (Kind::Kill, Some(ttl), None),
        (Kind::Freeze, None, Some(ttl * 3 / 2)),
        (Kind::RedisLoss, Some(ttl / 5), Some(ttl / 5)),
    ] {
        let request = stage.asks_for(drill("Beat", kind, asked));
        assert_eq!(begun(&mut stage), None);
        registry(&mut stage, request, NodeState::Up, &["beat"]);
        let drill = begun(&mut stage).expect("a drill");
        let (cluster, watcher) = (ClusterName::parse("test").unwrap(), WatcherName::parse("beat").unwrap());
        let (lease, pid) = (LeaseName { cluster, watcher, key: None }, 1_000 + child.0 as u32);
        let by = Some("amy".into());
        assert_eq!(drill, Drill { lease, token: 7, pid, ttl, kind, lasting, by });
        stage.tell(Event::DrillWatched { request, result: Ok(()) });
        let answer = Answer::Drilling { node: name("a"), drill: Box::new(drill) };
        assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Done(answer))));
        // Told twice is told once.
        stage.tell(Event::DrillWatched { request, result: Err("late".into()) });
        assert_eq!(stage.orders(), []);
    }
}

#[test]
fn a_drill_that_is_not_watched_has_not_begun() {
    let (mut stage, _) = holder(true);
    let request = stage.asks_for(drill("beat", Kind::Kill, None));
    registry(&mut stage, request, NodeState::Up, &["beat"]);
    stage.tell(Event::DrillWatched { request, result: Err("no answer within 3 s".into()) });
    refused(&mut stage, request, Refusal::Failed("nothing was done: no answer within 3 s".into()));
}

#[test]
fn a_drill_is_refused_where_it_is_not_allowed_or_proves_nothing() {
    let beat = || WatcherName::parse("beat").unwrap();
    let (mut stage, _) = holder(false);
    let request = stage.asks_for(drill("beat", Kind::Kill, None));
    refused(&mut stage, request, Refusal::NoDrills(name("a")));

    let mut plain = node(true, watcher("web"));
    let request = plain.asks_for(drill("web", Kind::Kill, None));
    refused(&mut plain, request, Refusal::NotSingleton(WatcherName::parse("web").unwrap()));

    let (mut stage, child) = holder(true);
    for (state, waits) in [(NodeState::Up, &[][..]), (NodeState::Stale, &["beat"]), (NodeState::Draining, &["beat"])] {
        let request = stage.asks_for(drill("beat", Kind::Freeze, None));
        registry(&mut stage, request, state, waits);
        refused(&mut stage, request, Refusal::NoCandidate("beat stays: no node waits for it".into()));
    }
    let request = stage.asks_for(drill("beat", Kind::Freeze, None));
    stage.tell(Event::RosterRead { request, rows: Err("no answer".into()) });
    refused(&mut stage, request, Refusal::Unavailable("Redis: no answer".into()));

    // Between two of its processes there is nothing to watch, though the lease is held.
    stage.end(child, Exit::Signal(TERM));
    let request = stage.asks_for(drill("beat", Kind::Kill, None));
    let Some(Outcome::Own(Reply::Refused(Refusal::Failed(why)))) = stage.outcome(request) else { panic!() };
    assert_eq!(why, "beat has no process just now, so there is nothing to watch");

    let mut waiting = node(true, singleton("beat"));
    let request = waiting.asks_for(drill("beat", Kind::Kill, None));
    refused(&mut waiting, request, Refusal::NotHolder { watcher: beat(), holder: None });

    let mut alone = Stage::of(AgentSpec { allow_drills: true, ..specs::agent(&name("a"), vec![singleton("beat")]) });
    alone.grant(7);
    alone.start();
    let request = alone.asks_for(drill("beat", Kind::Kill, None));
    refused(&mut alone, request, Refusal::NoCluster);
}
