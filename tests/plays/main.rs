//! Plays on the whole model: a script of events, and what the node orders.

mod cron;
mod drills;
mod explain;
mod history;
mod legions;
mod onlookers;
mod pause;
mod rename;
mod sockets;
#[path = "../support/specs.rs"]
mod specs;
mod stage;
mod supervision;

use std::time::Duration;

use circus_agent::model::command::{
    Answer, Command, NodeAbout, NodeRow, NodeState, Outcome, Part, Patience, Refusal, Reply, RequestId, Target,
};
use circus_agent::model::event::{
    Action, AskKind, Event, Exit, LeaseAnswer, Onlooker, ProcessEvent, ProcessId, SpawnFailure,
};
use circus_agent::model::names::WatcherName;
use circus_agent::model::pattern::Pattern;
use circus_agent::model::random::Random;
use circus_agent::model::snapshot::WatcherState;
use circus_agent::model::spec::WatcherSpec;
use specs::watcher;
use stage::{GRACE, Stage, TERM, killed, name, releases, signalled, singleton};

#[test]
fn processes_start_in_order_each_in_a_slot_of_its_own() {
    let mut stage = Stage::new(vec![WatcherSpec { numprocesses: 3, ..watcher("web") }, watcher("aux")]);
    let started: Vec<String> = stage.spawns().into_iter().map(|(_, what)| what).collect();
    assert_eq!(started, ["aux#1", "web#1", "web#2", "web#3"]);
}

#[test]
fn a_warm_up_delay_spaces_processes_and_watchers() {
    let slow = WatcherSpec { numprocesses: 2, warmup_delay: Duration::from_secs(2), ..watcher("web") };
    let mut stage = Stage::with(vec![slow, watcher("xtra")], Duration::from_secs(1), true);
    assert_eq!(stage.spawns().len(), 1);
    stage.wait(Duration::from_secs(2));
    assert_eq!(stage.spawns()[0].1, "web#2");
    stage.wait(Duration::from_secs(2));
    assert_eq!(stage.spawns().len(), 0);
    stage.wait(Duration::from_secs(1));
    assert_eq!(stage.spawns()[0].1, "xtra#1");
}

#[test]
fn a_stop_in_the_middle_of_start_up_starts_nothing_more() {
    let mut stage = Stage::with(vec![watcher("web"), watcher("aux")], Duration::from_secs(10), true);
    let id = stage.start()[0];
    stage.tell(Event::StopAsked { by: "test".into() });
    assert!(signalled(&stage.orders(), id));
    stage.end(id, Exit::Signal(TERM));
    stage.wait(Duration::from_secs(60));
    assert_eq!(stage.orders(), [Action::Leave { code: 0 }]);
}

#[test]
fn a_dead_process_is_replaced_in_its_slot_once_its_tree_is_gone() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let id = stage.start()[0];
    stage.wait(Duration::from_secs(60));
    stage.process(id, ProcessEvent::Exited(Exit::Signal(9)));
    assert_eq!(stage.spawns(), []);
    stage.process(id, ProcessEvent::Gone);
    assert_eq!(stage.spawns()[0].1, "web#1");
}

#[test]
fn a_crash_loop_slows_down_and_delays_no_other_watcher() {
    let mut stage = Stage::new(vec![watcher("bad"), watcher("web")]);
    let ids = stage.start();
    let (mut bad, web) = (ids[0], ids[1]);
    for _ in 0..8 {
        stage.end(bad, Exit::Code(1));
        stage.wait(Duration::from_secs(20));
        bad = stage.start()[0];
    }
    stage.end(bad, Exit::Code(1));
    assert_eq!(stage.state("bad"), WatcherState::Backoff);
    assert!(stage.note("bad").starts_with("exit 1, again in"), "{}", stage.note("bad"));
    stage.wait(Duration::from_secs(5));
    assert_eq!(stage.spawns(), [], "about ten seconds of pause after nine failures");
    stage.end(web, Exit::Code(1));
    assert_eq!(stage.spawns()[0].1, "web#1");
}

#[test]
fn a_program_that_cannot_be_started_is_given_up_after_max_retry_and_a_start_tries_anew() {
    let mut stage = Stage::new(vec![WatcherSpec { max_retry: Some(3), ..watcher("bad") }]);
    let failure = SpawnFailure { stage: "exec(\"bad\")".into(), error: "ENOENT: No such file or directory".into() };
    for _ in 0..3 {
        let id = stage.spawns()[0].0;
        stage.process(id, ProcessEvent::SpawnFailed(failure.clone()));
        stage.wait(Duration::from_secs(5));
    }
    assert_eq!(stage.spawns(), []);
    assert_eq!(stage.state("bad"), WatcherState::Failed);
    assert!(stage.note("bad").contains("exec(\"bad\"): ENOENT"), "{}", stage.note("bad"));
    stage.asks_for(Command::Start { pattern: Some(Pattern::Glob("bad".into())), patience: Patience::Admitted });
    assert_eq!(stage.spawns().len(), 1);
}

#[test]
fn without_respawn_the_last_end_is_the_watchers() {
    let mut stage = Stage::new(vec![WatcherSpec { respawn: false, numprocesses: 2, ..watcher("job") }]);
    let ids = stage.start();
    stage.end(ids[0], Exit::Code(0));
    assert_eq!(stage.spawns(), []);
    // It is as it should be, and says what is missing.
    assert_eq!(
        (stage.state("job"), stage.note("job").as_str()),
        (WatcherState::Active, "1 of 2 ended, and respawn is off")
    );
    stage.end(ids[1], Exit::Code(0));
    assert_eq!((stage.spawns(), stage.state("job")), (vec![], WatcherState::Stopped));
}

#[test]
fn a_stopped_process_that_stays_is_killed_when_its_grace_is_over() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let id = stage.start()[0];
    let request =
        stage.asks_for(Command::Stop { pattern: Some(Pattern::Glob("web".into())), patience: Patience::Settled });
    let orders = stage.orders();
    assert!(signalled(&orders, id) && !killed(&orders, id));
    stage.wait(GRACE - Duration::from_millis(1));
    assert!(!killed(&stage.orders(), id));
    stage.wait(Duration::from_millis(1));
    assert!(killed(&stage.orders(), id));
    stage.process(id, ProcessEvent::Exited(Exit::Signal(9)));
    assert_eq!(stage.outcome(request), None, "what it left may still live");
    stage.process(id, ProcessEvent::Gone);
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Done(Answer::Stopped))));
}

#[test]
fn who_waits_for_a_stop_or_a_move_hears_when_it_is_called_back() {
    let again = || Command::Start { pattern: None, patience: Patience::Admitted };
    let refused = |outcome| matches!(outcome, Some(Outcome::Own(Reply::Refused(Refusal::Failed(_)))));

    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    let stop =
        stage.asks_for(Command::Stop { pattern: Some(Pattern::Glob("web".into())), patience: Patience::Settled });
    assert_eq!(stage.outcome(stop), None);
    stage.asks_for(again());
    assert!(refused(stage.outcome(stop)));

    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    stage.start();
    let to = Some(name("b"));
    let failover = stage.asks_for(Command::Failover { watcher: "beat".into(), to, patience: Patience::Settled });
    let rows = Ok(vec![row("b", NodeState::Up, &["beat"])]);
    stage.tell(Event::RosterRead { request: failover, rows });
    assert_eq!(stage.outcome(failover), None);
    stage.asks_for(again());
    assert!(refused(stage.outcome(failover)));
}

#[test]
fn priorities_stop_from_the_lowest_up_and_a_second_request_hurries() {
    let specs = vec![WatcherSpec { priority: 9, ..watcher("db") }, watcher("web")];
    let mut stage = Stage::new(specs);
    let ids = stage.start();
    let (db, web) = (ids[0], ids[1]);
    stage.tell(Event::StopAsked { by: "test".into() });
    let orders = stage.orders();
    assert!(signalled(&orders, web) && !signalled(&orders, db));
    stage.end(web, Exit::Code(0));
    assert!(signalled(&stage.orders(), db));
    stage.tell(Event::StopAsked { by: "test".into() });
    assert!(killed(&stage.orders(), db));
    stage.end(db, Exit::Signal(9));
    assert_eq!(stage.orders(), [Action::Leave { code: 0 }]);
}

#[test]
fn incr_adds_and_decr_takes_the_oldest() {
    let mut stage = Stage::new(vec![WatcherSpec { numprocesses: 2, ..watcher("web") }]);
    let ids = stage.start();
    stage.asks_for(Command::Resize { watcher: "WEB".into(), by: 1, patience: Patience::Admitted });
    assert_eq!(stage.spawns()[0].1, "web#3");
    stage.asks_for(Command::Resize { watcher: "web".into(), by: -5, patience: Patience::Admitted });
    let orders = stage.orders();
    assert!(signalled(&orders, ids[0]) && signalled(&orders, ids[1]));
}

#[test]
fn an_unknown_watcher_is_refused_with_one_like_it() {
    let mut stage = Stage::new(vec![watcher("worker")]);
    let request =
        stage.asks_for(Command::Stop { pattern: Some(Pattern::Glob("wroker".into())), patience: Patience::Admitted });
    let hint = Some(WatcherName::parse("worker").unwrap());
    let refusal = Refusal::NoSuchWatcher { name: "wroker".into(), hint };
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refusal))));
}

#[test]
fn a_singletons_child_starts_only_with_the_lease_and_knows_its_token() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    assert_eq!(stage.state("beat"), WatcherState::Standby);
    stage.grant(42);
    let orders = stage.orders();
    let Some(Action::Spawn { launch, .. }) = orders.iter().find(|action| matches!(action, Action::Spawn { .. })) else {
        panic!("{orders:?}")
    };
    assert!(launch.env.contains(&("CIRCUS_FENCING_TOKEN".into(), "42".into())));
    assert!(launch.env.contains(&("CIRCUS_LEASE_KEY".into(), "circus:{test/beat}:lease".into())));
    assert!(launch.guard.is_some());
}

#[test]
fn a_lost_lease_stops_the_child_before_it_expires() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let id = stage.start()[0];
    stage.wait(Duration::from_secs(9));
    assert!(!signalled(&stage.orders(), id));
    stage.wait(Duration::from_millis(1_600));
    let orders = stage.orders();
    assert!(signalled(&orders, id) && !killed(&orders, id));
    stage.wait(Duration::from_millis(4_200));
    assert!(killed(&stage.orders(), id), "the lease ends 15 s after it was asked for");
}

#[test]
fn the_lease_is_released_only_after_the_last_of_the_tree_is_gone() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let id = stage.start()[0];
    stage.asks_for(Command::Stop { pattern: None, patience: Patience::Admitted });
    stage.process(id, ProcessEvent::Exited(Exit::Code(0)));
    assert_eq!(releases(&stage.orders()), 0);
    stage.process(id, ProcessEvent::Gone);
    assert_eq!(releases(&stage.orders()), 1);
}

#[test]
fn a_dead_child_is_restarted_under_the_same_lease() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let id = stage.start()[0];
    stage.end(id, Exit::Code(1));
    let orders = stage.orders();
    assert_eq!(releases(&orders), 0);
    assert!(orders.iter().any(|action| matches!(action, Action::Spawn { .. })));
}

#[test]
fn a_child_that_does_not_run_here_is_left_to_another_node() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let mut released = 0;
    for _ in 0..6 {
        let Some(id) = stage.start().pop() else { break };
        stage.end(id, Exit::Code(1));
        released += releases(&stage.orders.clone());
        if released == 0 {
            stage.wait(Duration::from_secs(3));
        }
    }
    assert_eq!(released, 1);
}

#[test]
fn a_planned_stop_keeps_the_lease_for_all_of_its_grace() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let id = stage.start()[0];
    stage.asks_for(Command::Stop { pattern: None, patience: Patience::Admitted });
    for _ in 0..290 {
        stage.wait(Duration::from_millis(100));
        let orders = stage.orders();
        assert!(!killed(&orders, id));
        for action in orders {
            if let Action::AskLease { lease, ask, .. } = action {
                assert!(matches!(ask.kind, AskKind::Refresh { .. }));
                stage.tell(Event::Lease { watcher: lease.watcher, ask, answer: LeaseAnswer::Granted { token: 1 } });
            }
        }
    }
    stage.orders.clear();
    stage.wait(Duration::from_secs(2));
    assert!(killed(&stage.orders(), id), "after its grace, which is longer than the ttl");
}

fn row(node: &str, state: NodeState, waits: &[&str]) -> NodeRow {
    let waits = waits.iter().map(ToString::to_string).collect();
    let about = NodeAbout { waits, ..NodeAbout::default() };
    NodeRow { name: name(node), state, seen: Duration::from_secs(14), about }
}

#[test]
fn a_failover_checks_its_target_before_it_touches_anything() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let id = stage.start()[0];
    let to =
        |node: &str| Command::Failover { watcher: "beat".into(), to: Some(name(node)), patience: Patience::Settled };
    let request = stage.asks_for(to("c"));
    let rows = vec![row("b", NodeState::Up, &["beat"]), row("c", NodeState::Stale, &["beat"])];
    stage.tell(Event::RosterRead { request, rows: Ok(rows.clone()) });
    let orders = stage.orders.clone();
    assert!(!signalled(&orders, id));
    let Some(Outcome::Own(Reply::Refused(refusal))) = stage.outcome(request) else { panic!() };
    let said = refusal.to_string();
    assert!(said.contains("c cannot take beat: it is stale") && said.contains("candidates: b"), "{said}");

    let request = stage.asks_for(to("b"));
    stage.tell(Event::RosterRead { request, rows: Ok(rows) });
    assert!(signalled(&stage.orders, id));
    stage.process(id, ProcessEvent::Exited(Exit::Code(0)));
    stage.process(id, ProcessEvent::Gone);
    let reserved = |action: &Action| match action {
        Action::AskLease { ask, .. } => ask.kind == AskKind::Release { to: Some(name("b")) },
        _ => false,
    };
    assert!(stage.orders.iter().any(reserved));
    assert!(matches!(stage.outcome(request), Some(Outcome::Own(Reply::Done(Answer::Moved { token: 1, .. })))));
}

#[test]
fn a_failover_without_a_target_goes_to_the_node_heard_of_last_and_is_known_to_be_there() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    stage.grant(1);
    let id = stage.start()[0];
    let failover = || Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled };
    let request = stage.asks_for(failover());
    let seen = |secs, node| NodeRow { seen: Duration::from_secs(secs), ..row(node, NodeState::Up, &["beat"]) };
    let rows = vec![seen(0, "a"), seen(3, "b"), seen(1, "c"), seen(2, "d")];
    stage.tell(Event::RosterRead { request, rows: Ok(rows) });
    stage.end(id, Exit::Code(0));
    let moved = Answer::Moved { from: name("a"), to: Some(name("c")), token: 1, stays: false };
    let release = stage.orders.iter().find_map(|action| match action {
        Action::AskLease { lease, ask, .. } if ask.kind == AskKind::Release { to: Some(name("c")) } => {
            Some((lease.watcher.clone(), ask.clone()))
        }
        _ => None,
    });
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Done(moved))));
    let (watcher, ask) = release.expect("a release for c");
    stage.tell(Event::Lease { watcher, ask, answer: LeaseAnswer::Released });
    let request = stage.asks_for(failover());
    assert_eq!(stage.orders(), [Action::Relay { request, to: name("c"), command: failover(), by: "amy".into() }]);
}

#[test]
fn a_failover_is_passed_on_to_the_holder() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    let asked = stage.orders().into_iter().find_map(|action| match action {
        Action::AskLease { lease, ask, .. } => Some((lease.watcher, ask)),
        _ => None,
    });
    let (watcher, ask) = asked.unwrap();
    let by = format!("b:{:032x}", 5);
    let left = Duration::from_secs(9);
    stage.tell(Event::Lease { watcher, ask, answer: LeaseAnswer::Held { by, left, ttl: left } });
    let command = Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled };
    let request = stage.asks_for(command.clone());
    assert_eq!(stage.orders(), [Action::Relay { request, to: name("b"), command, by: "amy".into() }]);
    stage.tell(Event::Replied { request, node: name("b"), text: "{}".into() });
    assert_eq!(stage.outcome(request), Some(Outcome::Relayed("{}".into())));
}

#[test]
fn a_command_for_all_gathers_and_names_the_silent() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let request = stage.ask(Target::All, Command::NumWatchers);
    let rows = [("a", NodeState::Up), ("b", NodeState::Up), ("c", NodeState::Stale), ("d", NodeState::Gone)];
    let rows = rows.into_iter().map(|(node, state)| row(node, state, &[])).collect();
    stage.tell(Event::RosterRead { request, rows: Ok(rows) });
    stage.tell(Event::Replied { request, node: name("b"), text: "{}".into() });
    assert_eq!(stage.orders.iter().filter(|action| matches!(action, Action::Reply { .. })).count(), 0);
    stage.wait(Duration::from_secs(5));
    let Some(Outcome::Gathered { parts, .. }) = stage.outcome(request) else { panic!() };
    let own = Part::Own(Reply::Done(Answer::NumWatchers(1)));
    let silent = Part::Silent("no answer within 5 s".into());
    assert_eq!(parts, [(name("a"), own), (name("b"), Part::Relayed("{}".into())), (name("c"), silent)]);
}

#[test]
fn a_process_that_is_being_started_stops_when_its_priority_has_its_turn() {
    let mut stage = Stage::new(vec![watcher("early"), WatcherSpec { priority: 9, ..watcher("late") }]);
    let spawns = stage.spawns();
    let [(late, _), (early, _)] = &spawns[..] else { panic!("{spawns:?}") };
    stage.process(*early, ProcessEvent::Spawned { pid: 10 });
    stage.tell(Event::StopAsked { by: "SIGTERM".into() });
    stage.process(*late, ProcessEvent::Spawned { pid: 11 });
    let orders = stage.orders();
    assert!(signalled(&orders, *early) && !signalled(&orders, *late), "{orders:?}");
    stage.end(*early, Exit::Code(0));
    assert!(signalled(&stage.orders(), *late));
}

#[test]
fn the_asker_says_how_long_each_node_may_take() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let request = stage.ask_within(Some(Duration::from_millis(500)), Target::All, Command::NumWatchers);
    let rows = vec![row("a", NodeState::Up, &[]), row("b", NodeState::Up, &[])];
    stage.tell(Event::RosterRead { request, rows: Ok(rows) });
    stage.wait(Duration::from_millis(500));
    let Some(Outcome::Gathered { parts, .. }) = stage.outcome(request) else { panic!() };
    assert_eq!(parts[1], (name("b"), Part::Silent("no answer within 0.5 s".into())));
}

#[test]
fn who_asked_all_to_quit_hears_of_each_before_this_node_leaves_but_not_for_long() {
    for answers in [true, false] {
        let mut stage = Stage::new(vec![]);
        let request = stage.ask(Target::All, Command::Quit { patience: Patience::Admitted });
        let rows = vec![row("a", NodeState::Up, &[]), row("b", NodeState::Up, &[])];
        stage.tell(Event::RosterRead { request, rows: Ok(rows) });
        let leaves = |stage: &Stage| stage.orders.iter().any(|action| matches!(action, Action::Leave { .. }));
        assert!(!leaves(&stage));
        if answers {
            stage.tell(Event::Replied { request, node: name("b"), text: "{}".into() });
        } else {
            stage.wait(Duration::from_millis(1_000));
        }
        assert!(leaves(&stage));
        let Some(Outcome::Gathered { parts, .. }) = stage.outcome(request) else { panic!() };
        assert_eq!(matches!(parts[1].1, Part::Relayed(_)), answers, "{parts:?}");
    }
}

#[test]
fn a_release_that_was_waited_for_long_enough_wakes_nobody_while_another_watcher_stops() {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web")]);
    let spawned = stage.orders.iter().find_map(|action| match action {
        Action::Spawn { process, .. } => Some(*process),
        _ => None,
    });
    stage.grant(1);
    let (beat, web) = (stage.start()[0], spawned.expect("web"));
    stage.tell(Event::StopAsked { by: "SIGTERM".into() });
    stage.end(beat, Exit::Code(0));
    // The store does not answer, and web takes its time. The stage sees to it that no deadline lies in the past.
    stage.wait(Duration::from_secs(5));
    let leaves = |stage: &Stage| stage.orders.iter().any(|action| matches!(action, Action::Leave { .. }));
    assert!(!leaves(&stage));
    stage.end(web, Exit::Code(0));
    assert!(leaves(&stage));
}

#[test]
fn without_the_registry_a_command_for_all_says_that_others_are_not_known() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let request = stage.ask(Target::All, Command::NumWatchers);
    stage.tell(Event::RosterRead { request, rows: Err("connection refused".into()) });
    let parts = vec![(name("a"), Part::Own(Reply::Done(Answer::NumWatchers(1))))];
    let missing = Some("Redis: connection refused".into());
    assert_eq!(stage.outcome(request), Some(Outcome::Gathered { parts, missing }));
}

#[test]
fn a_node_that_is_not_registered_is_named_at_once() {
    let mut stage = Stage::new(vec![watcher("web")]);
    let request = stage.ask(Target::node(name("x")), Command::Version);
    stage.tell(Event::RosterRead { request, rows: Ok(vec![row("a", NodeState::Up, &[])]) });
    let Some(Outcome::Gathered { parts, .. }) = stage.outcome(request) else { panic!() };
    assert!(matches!(&parts[0].1, Part::Absent(why) if why == "no such node"), "{parts:?}");
}

#[test]
fn while_redis_is_away_the_log_repeats_it_once_a_minute() {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web")]);
    let reminders = |orders: Vec<Action>| {
        let text = "Redis: connection refused; 1 singleton waits for it";
        orders
            .into_iter()
            .filter(|order| matches!(order, Action::Log { text: said, .. } if said.starts_with(text)))
            .count()
    };
    stage.tell(Event::StoreDown { reason: "connection refused".into() });
    stage.wait(Duration::from_secs(121));
    assert_eq!(reminders(std::mem::take(&mut stage.orders)), 3);
    stage.tell(Event::StoreUp);
    stage.wait(Duration::from_secs(121));
    assert_eq!(reminders(std::mem::take(&mut stage.orders)), 0);
}

#[test]
fn a_name_that_is_taken_ends_the_agent_with_an_error() {
    let mut stage = Stage::new(vec![]);
    stage.tell(Event::NameTaken { by: "pid 7 on db-1".into() });
    assert_eq!(stage.orders(), [Action::Leave { code: 69 }]);
}

#[test]
fn any_event_in_any_state_is_survived() {
    let mut random = Random::from_number(11);
    let mut stage = Stage::new(vec![singleton("beat"), WatcherSpec { numprocesses: 2, ..watcher("web") }]);
    let mut asks = Vec::new();
    for _ in 0..6_000 {
        for action in stage.orders() {
            if let Action::AskLease { lease, ask, .. } = action {
                asks.push((lease.watcher, ask));
            }
        }
        asks.truncate(50);
        let id = ProcessId(random.number() % 60);
        let patience = if random.number().is_multiple_of(2) { Patience::Settled } else { Patience::Admitted };
        let pattern = Some(Pattern::Glob("*e*".into()));
        let request = RequestId(random.number() % 1_000);
        let event = match random.number() % 19 {
            0 => Event::Process(id, ProcessEvent::Spawned { pid: 5 }),
            1 => Event::Process(id, ProcessEvent::Exited(Exit::Code(0))),
            2 => Event::Process(id, ProcessEvent::Gone),
            3 => Event::Process(id, ProcessEvent::SpawnFailed(SpawnFailure { stage: "x".into(), error: "y".into() })),
            4..=6 if !asks.is_empty() => {
                let (watcher, ask) = asks[random.number() as usize % asks.len()].clone();
                let second = Duration::from_secs(1);
                let answer = match random.number() % 7 {
                    0 | 1 => LeaseAnswer::Granted { token: 1 },
                    2 => LeaseAnswer::Held { by: "x".into(), left: second, ttl: second },
                    3 => LeaseAnswer::Lost { by: None },
                    4 => LeaseAnswer::Released,
                    5 => LeaseAnswer::Quarantined { left: second },
                    _ => LeaseAnswer::Failed { reason: "z".into() },
                };
                Event::Lease { watcher, ask, answer }
            }
            7 => Event::LeaseFreed { watcher: WatcherName::parse("beat").unwrap() },
            8 => Event::Asked {
                by: "amy".into(),
                request,
                target: Target::All,
                command: Command::Restart { pattern, patience },
                limit: None,
            },
            9 => Event::Asked {
                by: "amy".into(),
                request,
                target: Target::Here,
                command: Command::Start { pattern, patience },
                limit: None,
            },
            10 => Event::Asked {
                by: "amy".into(),
                request,
                target: Target::Here,
                command: Command::Stop { pattern, patience },
                limit: None,
            },
            11 => Event::RosterRead { request, rows: Ok(vec![row("a", NodeState::Up, &["beat"])]) },
            12 => Event::Replied { request, node: name("b"), text: String::new() },
            13 => Event::Sampled { request, samples: vec![] },
            14 => Event::StoreDown { reason: "w".into() },
            15 => Event::Watched { by: Onlooker::Here, begun: true },
            16 => Event::Measured(Box::default()),
            17 => Event::OutputWatched { by: "x".into(), names: pattern.into_iter().collect() },
            _ => Event::Woke,
        };
        stage.now = stage.now + random.below(Duration::from_secs(2));
        stage.tell(event);
        stage.node.snapshot();
    }
}
