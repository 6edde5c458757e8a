//! What is kept of a tenure, and with which reason.

use std::time::Duration;

use circus_agent::model::command::{Answer, Command, NodeAbout, NodeRow, NodeState, Outcome, Patience, Refusal, Reply};
use circus_agent::model::event::{
    Action, AskKind, Event, Exit, HistoryRead, HookEnd, LeaseAnswer, ProcessEvent, ProcessId, SpawnFailure, TokenState,
};
use circus_agent::model::history::{Cause, Ending, Entry, Fact, What};
use circus_agent::model::names::WatcherName;
use circus_agent::model::pattern::Pattern;
use circus_agent::model::spec::{AgentSpec, HookPoint, HookProgram, HookSpec, WatcherSpec};
use circus_agent::model::time::Time;

use crate::specs;
use crate::specs::watcher;
use crate::stage::{Stage, TERM, name, singleton};

/// A node whose child runs under token 7, and when it began to.
fn holder(spec: WatcherSpec) -> (Stage, ProcessId, Time) {
    let mut stage = Stage::new(vec![spec]);
    stage.grant(7);
    let child = stage.start()[0];
    let began = stage.now;
    assert_eq!(stage.facts(), [Fact { token: 7, at: began, what: What::Started { pid: 1_000 + child.0 as u32 } }]);
    stage.wait(Duration::from_secs(2));
    (stage, child, began)
}

fn beat() -> Option<Pattern> {
    Some(Pattern::Glob("beat".into()))
}

/// The child ends as it was asked to, and the one end that is told.
#[track_caller]
fn ending(stage: &mut Stage, child: ProcessId) -> Ending {
    assert_eq!(stage.facts(), [], "it is not over yet");
    stage.end(child, Exit::Signal(TERM));
    let gone = stage.now;
    let facts = stage.facts();
    let [Fact { token: 7, at, what: What::Ended(ending) }] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!(*at, gone);
    ending.clone()
}

fn by(cause: Cause, by: &str) -> Ending {
    Ending { by: Some(by.into()), ..Ending::of(cause) }
}

#[test]
fn a_stop_says_who_asked_for_it() {
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.asks_for(Command::Stop { pattern: beat(), patience: Patience::Admitted });
    assert_eq!(ending(&mut stage, child), by(Cause::Stopped, "amy"));
}

#[test]
fn an_agent_that_ends_says_who_told_it_to() {
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.tell(Event::StopAsked { by: "SIGTERM from pid 1".into() });
    assert_eq!(ending(&mut stage, child), by(Cause::AgentStopping, "SIGTERM from pid 1"));
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.asks_for(Command::Quit { patience: Patience::Admitted });
    assert_eq!(ending(&mut stage, child), by(Cause::AgentStopping, "amy"));
}

#[test]
fn a_move_says_where_to_and_who_asked_for_it_however_long_the_registry_took() {
    let (mut stage, child, _) = holder(singleton("beat"));
    let request = stage.asks_for(Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled });
    stage.wait(Duration::from_secs(1));
    let about = NodeAbout { waits: vec!["beat".into()], ..NodeAbout::default() };
    let rows = vec![NodeRow { name: name("b"), state: NodeState::Up, seen: Duration::ZERO, about }];
    stage.tell(Event::RosterRead { request, rows: Ok(rows) });
    assert_eq!(ending(&mut stage, child), Ending { detail: Some("b".into()), ..by(Cause::Moved, "amy") });
}

#[test]
fn a_removed_watcher_and_one_that_becomes_another_kind_say_so() {
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.asks_for(Command::Remove {
        watcher: "beat".into(),
        leave: circus_agent::model::command::Leave::Nothing,
        patience: Patience::Admitted,
    });
    assert_eq!(ending(&mut stage, child), by(Cause::Removed, "amy"));

    let (mut stage, child, _) = holder(singleton("beat"));
    let plain = AgentSpec { redis: specs::redis(), ..specs::agent(&name("a"), vec![watcher("beat")]) };
    stage.tell(Event::ReloadAsked { by: "SIGHUP".into() });
    stage.tell(Event::SpecRead { request: None, spec: Ok(Box::new(plain)) });
    assert_eq!(ending(&mut stage, child), Ending::of(Cause::Changed));
}

/// Answers the refresh that is due.
fn refresh(stage: &mut Stage, answer: LeaseAnswer) {
    let asked = stage.orders().into_iter().find_map(|action| match action {
        Action::AskLease { lease, ask, .. } if matches!(ask.kind, AskKind::Refresh { .. }) => {
            Some((lease.watcher, ask))
        }
        _ => None,
    });
    let (watcher, ask) = asked.expect("a refresh");
    stage.tell(Event::Lease { watcher, ask, answer });
}

#[test]
fn a_lease_that_is_lost_says_to_whom() {
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.wait(Duration::from_secs(4));
    refresh(&mut stage, LeaseAnswer::Lost { by: Some("b:00000000000000000000000000000007".into()) });
    assert_eq!(ending(&mut stage, child), Ending { detail: Some("b".into()), ..Ending::of(Cause::Taken) });
}

#[test]
fn a_lease_that_is_not_confirmed_says_what_the_trouble_was_and_one_that_is_over_that_it_is() {
    let unconfirmed = Ending { detail: Some("no route".into()), ..Ending::of(Cause::Unconfirmed) };
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.wait(Duration::from_secs(4));
    refresh(&mut stage, LeaseAnswer::Failed { reason: "no route".into() });
    stage.wait(Duration::from_secs(6));
    assert_eq!(ending(&mut stage, child), unconfirmed);

    // Nobody woke the agent in time.
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.now = stage.now + Duration::from_secs(100);
    stage.tell(Event::Woke);
    assert_eq!(ending(&mut stage, child), Ending::of(Cause::Expired));
}

#[test]
fn what_was_asked_for_first_is_the_reason() {
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.asks_for(Command::Stop { pattern: beat(), patience: Patience::Admitted });
    stage.wait(Duration::from_secs(20));
    assert_eq!(ending(&mut stage, child), by(Cause::Stopped, "amy"));
}

#[test]
fn a_crash_loop_is_told_once_when_it_is_given_up() {
    let (mut stage, mut child, _) = holder(WatcherSpec { max_retry: Some(3), ..singleton("beat") });
    for left in (0..3).rev() {
        stage.end(child, Exit::Code(1));
        let gone = stage.now;
        if left == 0 {
            let why = "exit 1, 3 times in a row".to_owned();
            let ending = Ending { detail: Some(why), ..Ending::of(Cause::GaveUp) };
            assert_eq!(stage.facts(), [Fact { token: 7, at: gone, what: What::Ended(ending) }]);
            return;
        }
        stage.wait(Duration::from_secs(1));
        child = stage.start()[0];
        assert_eq!(stage.facts(), [], "a restart in place is no news");
    }
}

#[test]
fn a_tenure_in_which_nothing_could_be_started_is_told_by_its_end() {
    let mut stage = Stage::new(vec![WatcherSpec { max_retry: Some(1), ..singleton("beat") }]);
    stage.grant(7);
    let id = stage.spawns()[0].0;
    let failure = SpawnFailure { stage: "exec(\"beat\")".into(), error: "ENOENT".into() };
    stage.process(id, ProcessEvent::SpawnFailed(failure));
    let facts = stage.facts();
    let [Fact { token: 7, what: What::Idle(Ending { cause: Cause::GaveUp, .. }), .. }] = &facts[..] else {
        panic!("{facts:?}")
    };
}

#[test]
fn without_respawn_the_childs_end_is_that_of_the_tenure() {
    let (mut stage, child, _) = holder(WatcherSpec { respawn: false, ..singleton("beat") });
    stage.end(child, Exit::Code(0));
    let facts = stage.facts();
    let [Fact { what: What::Ended(Ending { cause, detail, .. }), .. }] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!((*cause, detail.as_deref()), (Cause::Finished, Some("exit 0, and respawn is off")));
}

#[test]
fn a_lease_kept_over_a_restart_is_one_tenure() {
    let (mut stage, child, _) = holder(singleton("beat"));
    stage.asks_for(Command::Restart { pattern: beat(), patience: Patience::Admitted });
    stage.end(child, Exit::Signal(TERM));
    assert_eq!(stage.start().len(), 1);
    assert_eq!(stage.facts(), []);
}

#[test]
fn an_end_is_when_the_last_of_the_tree_was_gone_whatever_a_hook_does_after_it() {
    let program = HookProgram::Command(vec!["true".into()]);
    let hook = HookSpec { program, ignore_failure: false };
    let (mut stage, child, _) =
        holder(WatcherSpec { hooks: [(HookPoint::AfterStop, hook)].into(), ..singleton("beat") });
    stage.asks_for(Command::Stop { pattern: beat(), patience: Patience::Admitted });
    stage.end(child, Exit::Signal(TERM));
    let gone = stage.now;
    stage.wait(Duration::from_secs(1));
    let hook = stage.orders().into_iter().find_map(|action| match action {
        Action::Hook { hook, .. } => Some(hook),
        _ => None,
    });
    let end = HookEnd::Returned { truth: true, output: String::new() };
    stage.tell(Event::HookEnded { hook: hook.expect("a hook"), end });
    let facts = stage.facts();
    assert!(matches!(&facts[..], [Fact { at, what: What::Ended(_), .. }] if *at == gone), "{facts:?} {gone:?}");
}

#[test]
fn an_agent_that_was_stopped_tells_the_end_that_the_guard_has_seen() {
    let (mut stage, child, _) = holder(singleton("beat"));
    let gone = stage.now + Duration::from_secs(10);
    stage.now = stage.now + Duration::from_secs(100);
    stage.process(child, ProcessEvent::Exited(Exit::Signal(libc::SIGKILL)));
    stage.process(child, ProcessEvent::Empty { since: gone });
    stage.process(child, ProcessEvent::Gone);
    let facts = stage.facts();
    assert!(matches!(&facts[..], [Fact { at, what: What::Ended(_), .. }] if *at == gone), "{facts:?} {gone:?}");
}

#[test]
fn a_plain_watcher_has_no_history() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let id = stage.start()[0];
    stage.tell(Event::StopAsked { by: "test".into() });
    stage.end(id, Exit::Signal(TERM));
    assert_eq!(stage.facts(), []);
    let request = stage.asks_for(Command::History { watcher: Some("web".into()), count: 1 });
    let web = WatcherName::parse("web").unwrap();
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(Refusal::NotSingleton(web)))));
}

#[test]
fn history_is_read_from_the_store_and_cut_to_what_was_asked_for() {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web"), singleton("reaper")]);
    let request = stage.asks_for(Command::History { watcher: None, count: 1 });
    let asked = stage.orders().into_iter().find_map(|action| match action {
        Action::ReadHistory { request: own, leases, .. } if own == request => Some(leases),
        _ => None,
    });
    let asked = asked.expect("a question");
    let names: Vec<WatcherName> = asked.into_iter().map(|lease| lease.watcher).collect();
    assert_eq!(names.iter().map(WatcherName::as_str).collect::<Vec<_>>(), ["beat", "reaper"]);
    let started =
        |token, at| Entry { token, node: "a".into(), at, slack: 0, what: What::Started { pid: 1 }, before: None };
    let leases = vec![(names[0].clone(), vec![started(1, 10), started(2, 20)]), (names[1].clone(), vec![])];
    stage.tell(Event::HistoryRead { request, read: Ok(HistoryRead { now: 30, leases, schedules: vec![] }) });
    let Some(Outcome::Own(Reply::Done(Answer::Histories(told)))) = stage.outcome(request) else { panic!() };
    assert_eq!(told[0].1.tenures.iter().map(|tenure| tenure.token).collect::<Vec<_>>(), [2]);
    assert_eq!(told[1].1.tenures, []);

    let request = stage.asks_for(Command::History { watcher: Some("beat".into()), count: 1 });
    stage.tell(Event::HistoryRead { request, read: Err("no answer".into()) });
    let refused = Refusal::Unavailable("Redis: no answer".into());
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refused))));
}

#[test]
fn how_a_token_stands_is_asked_of_the_store_alone() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    let beat = WatcherName::parse("beat").unwrap();
    let request = stage.asks_for(Command::LeaseCheck { watcher: "beat".into(), token: 7 });
    let is_asked = |order: &Action| match order {
        Action::CheckLease { lease, token: 7, .. } => lease.watcher == beat,
        _ => false,
    };
    assert!(stage.orders().iter().any(is_asked));
    let state = TokenState::Over { holder: Some("b".into()), token: Some(8) };
    stage.tell(Event::LeaseChecked { request, result: Ok(state.clone()) });
    let answer = Answer::LeaseChecked { watcher: beat, token: 7, state };
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Done(answer))));
}
