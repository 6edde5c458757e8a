//! Why a watcher runs, or does not: each cross once, with the command that changes it.

use std::time::Duration;

use circus_agent::model::command::{Answer, Command, Outcome, Patience, Refusal, Reply};
use circus_agent::model::event::{Action, AskKind, Event, Exit, LeaseAnswer, ProcessEvent};
use circus_agent::model::explain::{Explanation, Move, What};
use circus_agent::model::pattern::Pattern;
use circus_agent::model::spec::{
    AgentSpec, Check, HookPoint, HookProgram, HookSpec, OnDemand, ReadySpec, SocketUse, WatcherSpec, Which,
};

use crate::specs::{self, watcher};
use crate::stage::{Stage, TERM, name, singleton};

fn explain(stage: &mut Stage, watcher: &str) -> Explanation {
    let request = stage.asks_for(Command::Explain { watcher: watcher.into() });
    match stage.outcome(request) {
        Some(Outcome::Own(Reply::Done(Answer::Explained { explanation, .. }))) => *explanation,
        other => panic!("{other:?}"),
    }
}

/// The only cross: its words, and the command that changes it.
#[track_caller]
fn cross(explanation: &Explanation, what: What) -> (String, Option<String>) {
    let crosses: Vec<_> = explanation.conditions.iter().filter(|condition| !condition.met).collect();
    let [cross] = crosses[..] else { panic!("{crosses:?}") };
    assert_eq!(cross.what, what);
    (cross.text.clone(), cross.remedy.clone())
}

#[track_caller]
fn says(explanation: &Explanation, what: What, text: &str) {
    let condition = explanation.conditions.iter().find(|condition| condition.what == what).expect("the condition");
    assert!(condition.met && condition.text == text, "{condition:?}");
}

fn answer(stage: &mut Stage, answer: LeaseAnswer) {
    let asked = stage.orders().into_iter().find_map(|action| match action {
        Action::AskLease { lease, ask, .. } if !matches!(ask.kind, AskKind::Release { .. }) => {
            Some((lease.watcher, ask))
        }
        _ => None,
    });
    let (watcher, ask) = asked.expect("a question");
    stage.tell(Event::Lease { watcher, ask, answer });
}

fn held(left: u64) -> LeaseAnswer {
    let (by, ttl) = ("b:00000000000000000000000000000007".into(), Duration::from_secs(15));
    LeaseAnswer::Held { by, left: Duration::from_secs(left), ttl }
}

fn up(stage: &mut Stage) {
    stage.tell(Event::StoreUp);
}

/// A node that waits for its lease, as the store has answered.
fn waiting(said: &LeaseAnswer) -> Stage {
    let mut stage = Stage::new(vec![singleton("beat")]);
    up(&mut stage);
    // Asked once more, as it may have been freed before the store was heard.
    answer(&mut stage, said.clone());
    answer(&mut stage, said.clone());
    stage
}

fn start(name: &str) -> Option<String> {
    Some(format!("start {name}"))
}

#[test]
fn what_runs_has_ticks_only() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    let told = explain(&mut stage, "web");
    assert!(told.conditions.iter().all(|condition| condition.met), "{told:?}");
    assert!(told.runs && told.right && !told.singleton && told.outlook.is_none() && told.moves.is_none());
    let whats: Vec<What> = told.conditions.iter().map(|condition| condition.what).collect();
    assert_eq!(whats, [What::Configured, What::Agent, What::Wanted, What::Process], "of no lease, sockets or hooks");
}

#[test]
fn a_holder_says_its_token_and_how_to_move_it_away() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    up(&mut stage);
    stage.grant(7);
    stage.start();
    stage.wait(Duration::from_secs(2));
    let told = explain(&mut stage, "beat");
    assert!(told.conditions.iter().all(|condition| condition.met), "{told:?}");
    says(&told, What::Lease, "held here, for 2.0 s, token 7, 12 s of 15 s left");
    says(&told, What::Store, "Redis at localhost, answered in 0.0 ms");
    assert_eq!(told.moves, Some(Move { here: false, command: "failover beat".into() }));
    assert!(told.runs && told.right && told.singleton);
    assert_eq!(told.holder.as_deref(), Some("a"));
}

#[test]
fn what_holds_the_lease_and_is_no_agent_is_asked_for_nothing() {
    let (by, secs) = ("db-1-77".to_owned(), Duration::from_secs);
    let mut stage = waiting(&LeaseAnswer::Held { by, left: secs(10), ttl: secs(15) });
    let told = explain(&mut stage, "beat");
    let (text, _) = cross(&told, What::Lease);
    assert!(text.starts_with("held by db-1-77, asked for again in 5.0 s"), "{text}");
    let outlook = "a may get it within 15 s after db-1-77 falls silent, which is no agent and takes no commands.";
    assert_eq!((told.outlook.as_deref(), told.moves), (Some(outlook), None));
    let failover = Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled };
    let request = stage.asks_for(failover);
    let why = "beat is held by db-1-77, which is no agent: end it there, and an agent has it after that";
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(Refusal::NoCandidate(why.into())))));
}

#[test]
fn cross_lease_held_elsewhere_is_right_and_tells_when_it_comes_and_how_to_have_it() {
    let mut stage = waiting(&held(9));
    let told = explain(&mut stage, "beat");
    let (text, remedy) = cross(&told, What::Lease);
    assert!(text.starts_with("held by b, asked for again in 9.0 s"), "{text}");
    assert_eq!(remedy, None);
    assert!(!told.runs && told.right);
    assert_eq!(
        told.outlook.as_deref(),
        Some("a may get it within 15 s after b falls silent, and at once when b gives it back.")
    );
    assert_eq!(told.moves, Some(Move { here: true, command: "failover beat --to a".into() }));
}

#[test]
fn cross_lease_that_nobody_is_known_to_have() {
    let mut stage = waiting(&LeaseAnswer::Quarantined { left: Duration::from_secs(4) });
    let told = explain(&mut stage, "beat");
    let (text, remedy) = cross(&told, What::Lease);
    assert!(text.starts_with("a holder may still live: one ttl is waited out, asked for again in 4.0 s"), "{text}");
    assert_eq!(remedy.as_deref(), Some("lease init beat"));
    assert!(!told.right && told.moves.is_none());
    assert!(told.outlook.unwrap().starts_with("a asks for it again in 4.0 s"));
}

#[test]
fn cross_lease_that_is_kept_for_another() {
    let mut stage = waiting(&LeaseAnswer::Reserved { node: "c".into(), left: Duration::from_secs(2) });
    let told = explain(&mut stage, "beat");
    assert!(cross(&told, What::Lease).0.starts_with("being moved to c"));
    assert!(told.right);
}

#[test]
fn cross_lease_stood_back_from_after_failures() {
    let mut stage = Stage::new(vec![WatcherSpec { max_retry: Some(1), ..singleton("beat") }]);
    up(&mut stage);
    stage.grant(7);
    let child = stage.start()[0];
    stage.end(child, Exit::Code(1));
    let release = stage.orders().into_iter().find_map(|action| match action {
        Action::AskLease { lease, ask, .. } if matches!(ask.kind, AskKind::Release { .. }) => {
            Some((lease.watcher, ask))
        }
        _ => None,
    });
    let (watcher, ask) = release.expect("a release");
    stage.tell(Event::Lease { watcher, ask, answer: LeaseAnswer::Released });
    let told = explain(&mut stage, "beat");
    let (text, remedy) = cross(&told, What::Lease);
    assert_eq!(text, "exit 1, 1 times in a row: stood back for another node, for 30 s more");
    assert_eq!(remedy, start("beat"));
    assert_eq!(told.outlook.as_deref(), Some("a asks for it again in 30 s."));
    assert!(!told.right);
}

#[test]
fn cross_lease_that_is_being_lost() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    up(&mut stage);
    stage.grant(7);
    stage.start();
    stage.wait(Duration::from_secs(6));
    answer(&mut stage, LeaseAnswer::Lost { by: Some("b:00000000000000000000000000000007".into()) });
    let told = explain(&mut stage, "beat");
    let lease = told.conditions.iter().find(|condition| condition.what == What::Lease).unwrap();
    assert!(!lease.met && lease.text == "lease lost to b", "{lease:?}");
    assert!(told.runs && !told.right);
}

#[test]
fn cross_store_that_cannot_be_reached() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    let told = explain(&mut stage, "beat");
    let store = told.conditions.iter().find(|condition| condition.what == What::Store).unwrap();
    assert_eq!((store.met, store.text.as_str()), (false, "Redis at localhost: not heard of yet"));

    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.tell(Event::StoreDown { reason: "connection refused by db:6379".into() });
    answer(&mut stage, LeaseAnswer::Failed { reason: "connection refused by db:6379".into() });
    let told = explain(&mut stage, "beat");
    let crosses: Vec<&str> =
        told.conditions.iter().filter(|condition| !condition.met).map(|condition| condition.text.as_str()).collect();
    assert_eq!(crosses[0], "Redis: connection refused by db:6379");
    assert!(crosses[1].starts_with("connection refused by db:6379, asked for again in"), "{crosses:?}");
    assert!(!told.right);
}

#[test]
fn cross_wanted_with_who_stopped_it() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let child = stage.start()[0];
    stage.asks_for(Command::Stop { pattern: Some(Pattern::Glob("web".into())), patience: Patience::Admitted });
    stage.end(child, Exit::Signal(TERM));
    let told = explain(&mut stage, "web");
    assert_eq!(cross(&told, What::Wanted), ("stopped by amy".into(), start("web")));
    assert!(!told.runs && told.right);
}

#[test]
fn cross_wanted_of_one_that_does_not_start_by_itself() {
    let mut stage = Stage::new(vec![WatcherSpec { autostart: false, ..watcher("a b") }]);
    let told = explain(&mut stage, "a b");
    assert_eq!(cross(&told, What::Wanted), ("nobody has started it yet".into(), start("'a b'")));
}

#[test]
fn cross_wanted_of_one_that_gave_up_ended_or_has_no_processes() {
    let mut stage = Stage::new(vec![WatcherSpec { max_retry: Some(1), ..watcher("bad") }]);
    let id = stage.spawns()[0].0;
    let failure = circus_agent::model::event::SpawnFailure { stage: "exec(\"bad\")".into(), error: "ENOENT".into() };
    stage.process(id, ProcessEvent::SpawnFailed(failure));
    let told = explain(&mut stage, "bad");
    let (text, remedy) = cross(&told, What::Wanted);
    assert!(text.starts_with("given up: spawn failed at exec(\"bad\"): ENOENT"), "{text}");
    assert_eq!(remedy, start("bad"));
    assert!(!told.right);

    let mut stage = Stage::new(vec![WatcherSpec { respawn: false, ..watcher("job") }]);
    let child = stage.start()[0];
    stage.end(child, Exit::Code(0));
    let told = explain(&mut stage, "job");
    assert_eq!(cross(&told, What::Wanted), ("not any more: exit 0, and respawn is off".into(), start("job")));
    assert!(told.right);

    let mut stage = Stage::new(vec![WatcherSpec { numprocesses: 0, ..watcher("web") }]);
    let told = explain(&mut stage, "web");
    let none = "none of its processes is (numprocesses is 0)";
    assert_eq!(cross(&told, What::Wanted), (none.into(), Some("incr web".into())));
}

#[test]
fn cross_agent_that_is_stopping() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    stage.tell(Event::StopAsked { by: "SIGTERM from pid 1".into() });
    let told = explain(&mut stage, "web");
    let crosses: Vec<_> = told.conditions.iter().filter(|condition| !condition.met).collect();
    assert_eq!((crosses[0].what, crosses[0].text.as_str()), (What::Agent, "it is stopping"));
    assert_eq!((crosses[1].what, crosses[1].text.as_str()), (What::Wanted, "stopped by SIGTERM from pid 1"));
    assert_eq!((crosses[2].what, crosses[2].text.as_str()), (What::Process, "pid 1001, being stopped"));
    assert!(!told.right);
}

#[test]
fn cross_after_one_that_is_not_up() {
    let first = WatcherSpec {
        ready: Some(ReadySpec { check: Check::Notify, timeout: Duration::from_secs(60) }),
        ..watcher("db")
    };
    let second = WatcherSpec { after: vec![first.name.clone()], ..watcher("web") };
    let mut stage = Stage::new(vec![first, second]);
    stage.start();
    let told = explain(&mut stage, "web");
    assert_eq!(cross(&told, What::After), ("waits for db".into(), Some("explain db".into())));
    let told = explain(&mut stage, "db");
    assert_eq!(cross(&told, What::Process), ("pid 1001; 0 of 1 ready".into(), Some("logs db".into())));
}

#[test]
fn what_has_started_says_so_of_those_before_it_and_not_that_they_are_up() {
    let later = WatcherSpec { after: vec![watcher("bad").name], ..watcher("web") };
    let mut stage = Stage::new(vec![watcher("bad"), later]);
    let bad = stage.start()[0];
    assert_eq!(stage.start().len(), 1);
    stage.end(bad, Exit::Code(1));
    says(&explain(&mut stage, "web"), What::After, "started after bad");
}

#[test]
fn cross_sockets_that_are_not_there() {
    let mut spec = watcher("web");
    let which = Which::These(vec![circus_agent::model::names::SocketName::parse("http").unwrap()]);
    spec.program.sockets = SocketUse { which, ..SocketUse::default() };
    let mut stage = Stage::new(vec![spec]);
    let told = explain(&mut stage, "web");
    let (text, remedy) = cross(&told, What::Sockets);
    assert_eq!((text.as_str(), remedy.as_deref()), ("there is no socket http", Some("addsocket http …")));
    assert!(!told.right);
}

#[test]
fn cross_hooks_that_are_waited_for() {
    let program = HookProgram::Command(vec!["true".into()]);
    let hook = HookSpec { program, ignore_failure: false };
    let spec = WatcherSpec { hooks: [(HookPoint::BeforeStart, hook)].into(), ..watcher("web") };
    let mut stage = Stage::new(vec![spec]);
    stage.story();
    let told = explain(&mut stage, "web");
    let (text, _) = cross(&told, What::Hooks);
    assert!(text.starts_with("before_start runs, for "), "{text}");
    assert!(!told.right);
}

#[test]
fn cross_process_that_crashes() {
    let mut stage = Stage::new(vec![watcher("bad")]);
    let child = stage.start()[0];
    stage.end(child, Exit::Code(1));
    let child = stage.start()[0];
    stage.end(child, Exit::Code(1));
    let told = explain(&mut stage, "bad");
    let (text, remedy) = cross(&told, What::Process);
    assert!(text.starts_with("exit 1, 0.0 s ago; failed 2 times in a row, next try in 0.1 s"), "{text}");
    assert_eq!(remedy, start("bad"));
    assert!(!told.runs && !told.right);
}

#[test]
fn cross_demand_of_one_that_sleeps() {
    let mut spec = AgentSpec { redis: specs::redis(), ..specs::agent(&name("a"), vec![]) };
    spec.watchers = vec![WatcherSpec { on_demand: Some(OnDemand { idle_timeout: None }), ..watcher("web") }];
    let mut stage = Stage::of(spec);
    let told = explain(&mut stage, "web");
    assert_eq!(cross(&told, What::Demand).0, "starts at the first connection");
    assert!(!told.runs && told.right);
}

#[test]
fn what_is_not_configured_is_refused_by_name() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let request = stage.asks_for(Command::Explain { watcher: "wbe".into() });
    let Some(Outcome::Own(Reply::Refused(Refusal::NoSuchWatcher { hint: Some(hint), .. }))) = stage.outcome(request)
    else {
        panic!()
    };
    assert_eq!(hint.as_str(), "web");
}
