//! Plays of supervision: hooks, reloads, readiness and health, order, changes while the agent runs.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::model::command::{
    Answer, Command, Leave, Outcome, Patience, Refusal, ReloadWay, Reply, RequestId, Sample, Usage,
};
use circus_agent::model::event::{
    Action, AmendBase, Changes, Event, Exit, HookEnd, HookId, News, Notification, ProcessEvent, ProcessId, Reach,
};
use circus_agent::model::names::WatcherName;
use circus_agent::model::pattern::Pattern;
use circus_agent::model::plan::{Effect, Plan};
use circus_agent::model::snapshot::{Phase, WatcherState};
use circus_agent::model::spec::{
    AgentSpec, Check, Defaults, HealthAction, HealthSpec, HookPoint, HookProgram, HookSpec, Purpose, ReadySpec,
    WatcherSpec,
};

use crate::specs::{self, watcher};
use crate::stage::{GRACE, Stage, TERM, name, singleton};

const KILLED: Exit = Exit::Signal(9);
const ENDED: Exit = Exit::Signal(TERM);
/// How long a new process of a reload has to live where nothing says that it is ready.
const LIFE: Duration = Duration::from_millis(250);

fn hooked(points: &[HookPoint]) -> WatcherSpec {
    let hook = || HookSpec { program: HookProgram::Python("a.b".into()), ignore_failure: false };
    WatcherSpec { hooks: points.iter().map(|point| (*point, hook())).collect(), ..watcher("web") }
}

fn many(name: &str, numprocesses: u32) -> WatcherSpec {
    WatcherSpec { numprocesses, ..watcher(name) }
}

fn after(name: &str, first: &str) -> WatcherSpec {
    WatcherSpec { after: vec![WatcherName::parse(first).unwrap()], ..watcher(name) }
}

fn ready_by(check: Check) -> WatcherSpec {
    let ready = ReadySpec { check, timeout: Duration::from_secs(60) };
    WatcherSpec { ready: Some(ready), ..watcher("web") }
}

fn stop(name: &str) -> Command {
    Command::Stop { pattern: Some(Pattern::Name(name.into())), patience: Patience::Settled }
}

fn start(name: &str) -> Command {
    Command::Start { pattern: Some(Pattern::Name(name.into())), patience: Patience::Settled }
}

fn restart(name: &str) -> Command {
    Command::Restart { pattern: Some(Pattern::Name(name.into())), patience: Patience::Settled }
}

fn reload(name: &str, way: ReloadWay) -> Command {
    Command::Reload { watcher: Some(name.into()), way, patience: Patience::Settled }
}

fn settings(pairs: &[(&str, &str)]) -> Changes {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())));
    Changes { settings: pairs.collect(), env: None }
}

/// A stage on which all processes of all watchers run; what led there is told.
fn running(watchers: Vec<WatcherSpec>) -> Stage {
    let mut stage = Stage::new(watchers);
    run_all(&mut stage);
    stage
}

/// Lets run what is ordered, until nothing more is.
fn run_all(stage: &mut Stage) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let story = stage.story();
        if story.is_empty() {
            return told;
        }
        for spawn in story.iter().filter_map(|line| line.strip_prefix("spawn ")) {
            stage.spawned(spawn);
        }
        told.extend(story);
    }
}

fn reply(stage: &mut Stage, request: RequestId) -> Option<Reply> {
    stage.outcome(request).map(|outcome| match outcome {
        Outcome::Own(reply) => reply,
        other => panic!("{other:?}"),
    })
}

fn only(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// The configuration file as it is now, for the request that reads it.
fn file_says(stage: &mut Stage, request: Option<RequestId>, watchers: Vec<WatcherSpec>) {
    let redis = specs::redis();
    let spec = AgentSpec { redis, ..specs::agent(&name("a"), watchers) };
    stage.tell(Event::SpecRead { request, spec: Ok(Box::new(spec)) });
}

fn with_words(spec: WatcherSpec, words: &[&str]) -> WatcherSpec {
    let mut spec = spec;
    spec.program.words = words.iter().map(|word| (*word).to_owned()).collect();
    spec.settings = BTreeMap::from([("cmd".to_owned(), words.join(" "))]);
    spec
}

// ---- events ----

#[test]
fn a_restart_tells_kill_reap_stop_spawn_start_in_circuss_order() {
    let mut stage = running(vec![watcher("web")]);
    stage.asks_for(restart("web"));
    let old = stage.pid("web#1");
    assert_eq!(stage.story(), ["signal web#1 15".into(), format!("web kill {old}")]);
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story(), [format!("web reap {old}"), "web stop".into(), "spawn web#1".into()]);
    stage.spawned("web#1");
    assert_eq!(stage.story(), [format!("web spawn {}", stage.pid("web#1")), "web start".into()]);
}

#[test]
fn a_start_is_told_when_all_processes_are_up() {
    let mut stage = Stage::new(vec![many("web", 2)]);
    stage.story();
    stage.spawned("web#1");
    assert_eq!(stage.state("web"), WatcherState::Starting);
    stage.story();
    stage.spawned("web#2");
    assert!(stage.story().contains(&"web start".to_owned()));
    assert_eq!(stage.state("web"), WatcherState::Active);
}

// ---- hooks ----

#[test]
fn nothing_starts_before_the_hook_before_it_has_said_yes() {
    let mut stage = Stage::new(vec![hooked(&[HookPoint::BeforeStart])]);
    assert_eq!(stage.story(), ["hook web before_start"]);
    assert_eq!((stage.state("web"), stage.note("web").as_str()), (WatcherState::Starting, "hook before_start runs"));
    stage.returns("web before_start", true);
    assert_eq!(stage.story(), ["web hook_success", "spawn web#1"]);
}

#[test]
fn a_hook_that_says_no_keeps_a_watcher_from_starting_and_the_reason_shows() {
    let mut stage = Stage::new(vec![hooked(&[HookPoint::BeforeStart])]);
    stage.story();
    stage.returns("web before_start", false);
    assert_eq!(stage.story(), ["web hook_success"]);
    assert_eq!((stage.state("web"), stage.note("web").as_str()), (WatcherState::Failed, "hook before_start said no"));
}

#[test]
fn a_failure_counts_unless_it_is_to_be_ignored() {
    for (ignore_failure, state) in [(false, WatcherState::Failed), (true, WatcherState::Starting)] {
        let mut spec = hooked(&[HookPoint::BeforeStart]);
        spec.hooks.get_mut(&HookPoint::BeforeStart).unwrap().ignore_failure = ignore_failure;
        let mut stage = Stage::new(vec![spec]);
        stage.story();
        stage.fails("web before_start");
        assert_eq!((stage.story()[0].as_str(), stage.state("web")), ("web hook_failure", state));
    }
}

#[test]
fn an_after_start_that_says_no_stops_the_watcher_again() {
    let mut stage = Stage::new(vec![hooked(&[HookPoint::AfterStart])]);
    assert_eq!(run_all(&mut stage).last().unwrap(), "hook web after_start");
    stage.returns("web after_start", false);
    assert!(stage.story().contains(&"signal web#1 15".to_owned()));
    stage.ends("web#1", ENDED);
    assert_eq!((stage.story().last().unwrap().as_str(), stage.state("web")), ("web stop", WatcherState::Failed));
}

#[test]
fn a_before_spawn_that_says_no_stops_the_whole_watcher() {
    let mut stage = Stage::new(vec![WatcherSpec { numprocesses: 2, ..hooked(&[HookPoint::BeforeSpawn]) }]);
    assert_eq!(stage.story(), ["hook web before_spawn", "hook web before_spawn"]);
    stage.returns("web before_spawn", false);
    assert_eq!(stage.story(), ["web hook_success", "web stop"]);
    assert_eq!(stage.state("web"), WatcherState::Failed);
}

#[test]
fn an_after_spawn_that_says_no_ends_the_process_untold() {
    let mut stage = Stage::new(vec![hooked(&[HookPoint::AfterSpawn])]);
    stage.story();
    stage.spawned("web#1");
    assert_eq!(stage.story(), ["hook web after_spawn"]);
    stage.returns("web after_spawn", false);
    let story = stage.story();
    assert!(story.contains(&"signal web#1 15".to_owned()) && !story.iter().any(|line| line.contains("web spawn")));
}

#[test]
fn a_veto_keeps_the_signal_back_but_not_the_kill_at_the_end_of_the_grace() {
    let mut stage = running(vec![hooked(&[HookPoint::BeforeSignal, HookPoint::AfterSignal])]);
    stage.asks_for(stop("web"));
    let kill = format!("web kill {}", stage.pid("web#1"));
    assert_eq!(stage.story(), [kill.as_str(), "hook web before_signal"]);
    stage.returns("web before_signal", false);
    assert_eq!(stage.story(), ["web hook_success"]);
    stage.wait(GRACE);
    assert_eq!(stage.story(), ["kill web#1", kill.as_str()]);
}

#[test]
fn a_signal_goes_out_between_its_hooks() {
    let mut stage = running(vec![hooked(&[HookPoint::BeforeSignal, HookPoint::AfterSignal])]);
    stage.asks_for(Command::Signal { watcher: "web".into(), pid: None, signal: 10, reach: Reach::Main });
    assert_eq!(stage.story(), ["hook web before_signal"]);
    stage.returns("web before_signal", true);
    assert_eq!(stage.story(), ["web hook_success", "signal web#1 10", "hook web after_signal"]);
}

#[test]
fn a_stop_waits_for_its_hook_and_ends_with_the_other() {
    let mut stage = running(vec![hooked(&[HookPoint::BeforeStop, HookPoint::AfterStop])]);
    let request = stage.asks_for(stop("web"));
    assert_eq!(stage.story(), ["hook web before_stop"]);
    stage.fails("web before_stop");
    assert!(stage.story().contains(&"signal web#1 15".to_owned()), "its failure does not count");
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story()[1..], only(&["web stop", "hook web after_stop"]));
    assert_eq!(stage.state("web"), WatcherState::Stopping);
    stage.returns("web after_stop", true);
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Stopped)));
}

#[test]
fn a_lost_lease_waits_for_no_hook() {
    let points = [HookPoint::BeforeStop, HookPoint::BeforeSignal];
    let mut stage = Stage::new(vec![WatcherSpec { singleton: singleton("web").singleton, ..hooked(&points) }]);
    stage.grant(1);
    run_all(&mut stage);
    // Nobody answers a refresh any more.
    stage.wait(Duration::from_secs(12));
    let story = stage.story();
    assert!(story.contains(&"signal web#1 15".to_owned()), "{story:?}");
    assert!(!story.iter().any(|line| line.starts_with("hook")), "{story:?}");
    stage.wait(Duration::from_secs(3));
    assert!(stage.story().contains(&"kill web#1".to_owned()));
}

#[test]
fn a_hook_that_is_out_when_a_lease_is_lost_is_called_off_before_the_lease_goes() {
    let spec = WatcherSpec { singleton: singleton("web").singleton, ..hooked(&[HookPoint::BeforeStart]) };
    let mut stage = Stage::new(vec![spec]);
    stage.grant(1);
    stage.story();
    let hook = HookId(stage.id("web before_start"));
    // Nobody answers a refresh any more.
    stage.wait(Duration::from_secs(12));
    let orders = stage.orders();
    let off = orders.iter().position(|action| *action == Action::CallOff { hook }).expect("it is called off");
    assert_eq!(crate::stage::releases(&orders[..off]), 0);
    assert!(crate::stage::releases(&orders[off..]) > 0);
}

#[test]
fn a_planned_stop_gives_the_lease_away_after_the_last_hook() {
    let spec = WatcherSpec { singleton: singleton("web").singleton, ..hooked(&[HookPoint::AfterReap]) };
    let mut stage = Stage::new(vec![spec]);
    stage.grant(1);
    run_all(&mut stage);
    stage.asks_for(stop("web"));
    stage.story();
    stage.ends("web#1", ENDED);
    assert!(stage.orders.iter().any(|action| matches!(action, Action::Hook { .. })));
    assert_eq!(crate::stage::releases(&stage.orders), 0);
    stage.story();
    stage.returns("web after_reap", true);
    assert_eq!(crate::stage::releases(&stage.orders()), 1);
}

#[test]
fn an_agent_is_up_when_the_last_warm_up_pause_is_over() {
    let mut stage = Stage::with(vec![watcher("web")], Duration::from_secs(5), true);
    run_all(&mut stage);
    assert_eq!(stage.node.snapshot().phase, Phase::Starting);
    stage.wait(Duration::from_secs(5));
    assert_eq!(stage.node.snapshot().phase, Phase::Running);
}

#[test]
fn a_lease_goes_after_the_hook_that_cleans_up() {
    let spec = WatcherSpec { singleton: singleton("web").singleton, ..hooked(&[HookPoint::AfterStop]) };
    let mut stage = Stage::new(vec![spec]);
    stage.grant(1);
    run_all(&mut stage);
    stage.asks_for(stop("web"));
    stage.story();
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story().last().unwrap(), "hook web after_stop");
    assert_eq!(crate::stage::releases(&stage.orders()), 0);
    stage.returns("web after_stop", true);
    assert_eq!(crate::stage::releases(&stage.orders()), 1);
}

#[test]
fn a_crash_tells_its_end_between_the_hooks_of_the_reaper() {
    let mut stage = running(vec![hooked(&[HookPoint::BeforeReap, HookPoint::AfterReap])]);
    let pid = stage.pid("web#1");
    stage.ends("web#1", Exit::Code(1));
    assert_eq!(stage.story(), ["hook web before_reap", "spawn web#1"]);
    stage.returns("web before_reap", true);
    assert_eq!(stage.story(), ["web hook_success".into(), format!("web reap {pid}"), "hook web after_reap".into()]);
}

#[test]
fn a_second_stop_signal_during_start_up_hurries_past_a_hook_that_hangs() {
    let mut stage = Stage::new(vec![hooked(&[HookPoint::BeforeStart])]);
    stage.tell(Event::StopAsked { by: "test".into() });
    stage.tell(Event::StopAsked { by: "test".into() });
    assert!(stage.orders().contains(&Action::Leave { code: 0 }));
}

#[test]
fn extended_statistics_are_those_that_the_hook_adds_to() {
    let mut stage = running(vec![hooked(&[HookPoint::ExtendedStats])]);
    let request = stage.asks_for(Command::Stats { watcher: Some("web".into()), pid: None, extended: true });
    let usage = Usage {
        program: "web".into(),
        user: "root".into(),
        nice: 0,
        resident: 1,
        virtual_size: 2,
        memory_percent: 0.0,
        cpu_percent: 0.0,
        cpu_time: Duration::ZERO,
        age: Duration::ZERO,
        started: 0.0,
    };
    let web = WatcherName::parse("web").unwrap();
    let pid = stage.pid("web#1");
    let sample = Sample { watcher: web, wid: 1, pid, usage: Some(usage), children: vec![], extra: None };
    stage.story();
    stage.tell(Event::Sampled { request, samples: vec![sample] });
    assert_eq!(stage.story(), ["hook web extended_stats"]);
    let hook = HookId(stage.id("web extended_stats"));
    let end = HookEnd::Returned { truth: true, output: "{\"requests\": 3}".into() };
    stage.tell(Event::HookEnded { hook, end });
    let Some(Reply::Done(Answer::Stats { samples, .. })) = reply(&mut stage, request) else { panic!("no statistics") };
    assert_eq!(samples[0].extra.as_deref(), Some("{\"requests\": 3}"));
}

// ---- reloads ----

#[test]
fn a_reload_has_each_new_process_up_before_an_old_one_goes() {
    let mut stage = running(vec![many("web", 2)]);
    let (one, two) = (stage.pid("web#1"), stage.pid("web#2"));
    let request = stage.asks_for(reload("web", ReloadWay::Rolling));
    assert_eq!(stage.story(), ["spawn web#3"]);
    stage.spawned("web#3");
    stage.wait(LIFE);
    let three = stage.pid("web#3");
    let told =
        [format!("web spawn {three}"), "spawn web#4".into(), "signal web#1 15".into(), format!("web kill {one}")];
    assert_eq!(stage.story(), told);
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story(), only(&[]), "the end of one that was replaced is no news");
    stage.spawned("web#4");
    stage.wait(LIFE);
    let four = stage.pid("web#4");
    assert_eq!(stage.story(), [format!("web spawn {four}"), "signal web#2 15".into(), format!("web kill {two}")]);
    stage.ends("web#2", ENDED);
    assert!(stage.orders.iter().any(|action| matches!(action, Action::Publish(n) if n.news == News::Reload)));
    let answer = Answer::Started { started: vec![three, four], kept: vec![], stopped: vec![one, two] };
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(answer)));
    // And back: slots go N+1..2N, then 1..N.
    stage.asks_for(reload("web", ReloadWay::Rolling));
    assert_eq!(stage.story(), ["spawn web#1"]);
}

#[test]
fn a_new_process_that_dies_at_once_takes_no_old_one_along() {
    let mut stage = running(vec![watcher("web")]);
    stage.asks_for(reload("web", ReloadWay::Rolling));
    for _ in 0..3 {
        let story = run_all(&mut stage);
        stage.wait(LIFE / 2);
        stage.ends("web#2", Exit::Code(1));
        assert!(!story.iter().any(|line| line.starts_with("signal")), "{story:?}");
        stage.wait(Duration::from_secs(1));
    }
    assert_eq!(stage.pid("web#1"), stage.node.snapshot().watchers[0].processes[0].pid.unwrap());
}

#[test]
fn new_processes_take_other_slots_than_those_they_replace_even_when_these_are_free() {
    let mut stage = running(vec![many("web", 3)]);
    stage.asks_for(reload("web", ReloadWay::Rolling));
    for (old, new) in [("web#1", "web#4"), ("web#2", "web#5"), ("web#3", "web#6")] {
        stage.story();
        stage.spawned(new);
        stage.wait(LIFE);
        stage.story();
        stage.ends(old, ENDED);
    }
    let wids: Vec<u32> = stage.node.snapshot().watchers[0].processes.iter().map(|process| process.wid).collect();
    assert_eq!(wids, [4, 5, 6]);
    // And a crash after that is tried again in its own slot, with its own pause.
    for _ in 0..3 {
        stage.ends("web#5", Exit::Code(1));
        stage.wait(Duration::from_secs(1));
        run_all(&mut stage);
    }
    stage.ends("web#5", Exit::Code(1));
    assert_eq!(stage.state("web"), WatcherState::Backoff);
    assert!(!stage.story().iter().any(|line| line.starts_with("spawn")));
}

#[test]
fn a_new_process_that_does_not_come_up_leaves_the_old_ones_running() {
    let mut stage = Stage::new(vec![WatcherSpec { numprocesses: 2, ..ready_by(Check::Notify) }]);
    let ready = |stage: &mut Stage, name: &str| {
        stage.process(ProcessId(stage.id(name)), ProcessEvent::Notified(Notification::Ready));
    };
    run_all(&mut stage);
    ready(&mut stage, "web#1");
    ready(&mut stage, "web#2");
    let request = stage.asks_for(reload("web", ReloadWay::Rolling));
    let mut answers = Vec::new();
    for _ in 0..4 {
        let story = run_all(&mut stage);
        assert!(!story.iter().any(|line| line.starts_with("signal")), "{story:?}");
        stage.ends("web#3", Exit::Code(1));
        let told = |action: &Action| match action {
            Action::Reply { request: to, outcome } if *to == request => Some(outcome.clone()),
            _ => None,
        };
        answers.extend(stage.orders.iter().filter_map(told));
        stage.wait(Duration::from_secs(2));
    }
    assert!(matches!(answers[..], [Outcome::Own(Reply::Refused(Refusal::Failed(_)))]), "{answers:?}");
    // When it comes up at last, the reload goes on.
    run_all(&mut stage);
    ready(&mut stage, "web#3");
    assert!(stage.story().contains(&"signal web#1 15".to_owned()));
}

#[test]
fn a_sequential_reload_and_one_where_a_node_is_full_never_have_more_than_are_wanted() {
    for (max_per_node, way) in [(None, ReloadWay::Sequential), (Some(2), ReloadWay::Rolling)] {
        let mut stage = running(vec![WatcherSpec { max_per_node, ..many("web", 2) }]);
        let (one, two) = (stage.pid("web#1"), stage.pid("web#2"));
        stage.asks_for(reload("web", way));
        assert_eq!(stage.story(), ["signal web#1 15".into(), format!("web kill {one}")]);
        stage.ends("web#1", ENDED);
        assert_eq!(stage.story(), [format!("web reap {one}"), "spawn web#1".into()]);
        stage.spawned("web#1");
        stage.wait(LIFE);
        let new = stage.pid("web#1");
        assert_eq!(stage.story(), [format!("web spawn {new}"), "signal web#2 15".into(), format!("web kill {two}")]);
        stage.ends("web#2", ENDED);
        stage.story();
        stage.spawned("web#2");
        stage.wait(LIFE);
        assert_eq!(stage.story().last().unwrap(), "web reload");
    }
}

#[test]
fn a_watcher_never_has_more_processes_than_a_node_may_have() {
    let mut stage = running(vec![WatcherSpec { max_per_node: Some(3), ..many("web", 2) }]);
    let incr = |by| Command::Resize { watcher: "web".into(), by, patience: Patience::Admitted };
    let request = stage.asks_for(incr(2));
    let refused = Refusal::TooMany { watcher: watcher("web").name, wanted: 4, most: 3 };
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refused))));
    assert!(stage.story().is_empty());
    stage.asks_for(incr(1));
    assert_eq!(stage.story(), ["spawn web#3"]);
    stage.asks_for(incr(-3));
    let request = stage.asks_for(incr(3));
    assert!(matches!(stage.outcome(request), Some(Outcome::Own(Reply::Done(Answer::Resized { numprocesses: 3, .. })))));
}

#[test]
fn a_singleton_reloads_without_ever_being_two_and_keeps_its_lease() {
    let mut stage = Stage::new(vec![singleton("web")]);
    stage.grant(1);
    run_all(&mut stage);
    stage.asks_for(reload("web", ReloadWay::Rolling));
    let story = stage.story();
    assert!(story[0] == "signal web#1 15" && !story.contains(&"spawn web#1".to_owned()), "{story:?}");
    stage.ends("web#1", ENDED);
    let orders = stage.orders();
    assert_eq!(crate::stage::releases(&orders), 0);
    assert!(orders.iter().any(|action| matches!(action, Action::Spawn { .. })));
}

#[test]
fn a_watcher_that_reloads_by_itself_is_sent_sighup_and_kept() {
    let mut stage = running(vec![WatcherSpec { send_hup: true, ..watcher("web") }]);
    let pid = stage.pid("web#1");
    let request = stage.asks_for(reload("web", ReloadWay::Rolling));
    let Some(Reply::Done(answer)) = reply(&mut stage, request) else { panic!("no answer") };
    assert_eq!(answer, Answer::Started { started: vec![], kept: vec![pid], stopped: vec![] });
}

#[test]
fn a_reload_without_grace_is_a_restart() {
    let mut stage = running(vec![watcher("web")]);
    stage.asks_for(reload("web", ReloadWay::Restart));
    assert!(stage.story().contains(&"signal web#1 15".to_owned()));
}

#[test]
fn a_stop_in_the_middle_of_a_reload_stops_the_old_and_the_new() {
    let mut stage = running(vec![watcher("web")]);
    stage.asks_for(reload("web", ReloadWay::Rolling));
    stage.story();
    stage.spawned("web#2");
    stage.story();
    stage.asks_for(stop("web"));
    stage.ends("web#1", ENDED);
    stage.ends("web#2", ENDED);
    assert_eq!((stage.story().last().unwrap().as_str(), stage.state("web")), ("web stop", WatcherState::Stopped));
}

// ---- readiness and health ----

#[test]
fn a_process_that_is_not_ready_is_not_active() {
    let mut stage = running(vec![ready_by(Check::Notify)]);
    assert_eq!(stage.state("web"), WatcherState::Starting);
    stage.process(ProcessId(stage.id("web#1")), ProcessEvent::Notified(Notification::Ready));
    assert_eq!((stage.state("web"), stage.story().last().unwrap().as_str()), (WatcherState::Active, "web start"));
}

#[test]
fn a_process_that_is_not_ready_in_time_is_stopped_and_tried_again_ever_more_slowly() {
    let mut stage = running(vec![ready_by(Check::Tcp { host: "localhost".into(), port: 80 })]);
    for _ in 0..3 {
        let (id, refused) = (ProcessId(stage.id("web#1")), Err("connection refused".to_owned()));
        stage.wait(Duration::from_millis(30));
        assert!(stage.story().contains(&"check web#1".to_owned()));
        stage.process(id, ProcessEvent::Checked { purpose: Purpose::Ready, result: refused });
        assert!(stage.note("web").ends_with("connection refused"), "{}", stage.note("web"));
        stage.wait(Duration::from_secs(60));
        assert!(stage.story().contains(&"signal web#1 15".to_owned()));
        stage.ends("web#1", ENDED);
        stage.wait(Duration::from_secs(3));
        run_all(&mut stage);
    }
    assert_eq!(stage.node.snapshot().watchers[0].restarts, 3);
}

#[test]
fn an_unwell_process_is_replaced_and_the_reason_told() {
    let check = Check::Http(circus_agent::model::spec::Url { host: "h".into(), port: 80, path: "/".into() });
    let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(5));
    let health = HealthSpec { check, interval, timeout, retries: 2, action: HealthAction::Restart };
    let mut stage = running(vec![WatcherSpec { health: Some(health), ..watcher("web") }]);
    let id = ProcessId(stage.id("web#1"));
    for _ in 0..2 {
        assert_eq!(stage.state("web"), WatcherState::Active);
        stage.wait(Duration::from_secs(10));
        assert!(stage.story().contains(&"check web#1".to_owned()));
        let result = Err("503".to_owned());
        stage.process(id, ProcessEvent::Checked { purpose: Purpose::Health, result });
    }
    stage.wait(Duration::from_secs(10));
    assert!(stage.story().contains(&"signal web#1 15".to_owned()));
    stage.ends("web#1", ENDED);
    assert!(stage.story().contains(&"spawn web#1".to_owned()));
}

#[test]
fn a_reload_waits_for_the_new_process_to_be_ready() {
    let mut stage = running(vec![ready_by(Check::Notify)]);
    let ready = |stage: &mut Stage, name: &str| {
        stage.process(ProcessId(stage.id(name)), ProcessEvent::Notified(Notification::Ready));
    };
    ready(&mut stage, "web#1");
    stage.asks_for(reload("web", ReloadWay::Rolling));
    stage.story();
    stage.spawned("web#2");
    assert!(!stage.story().iter().any(|line| line.starts_with("signal")));
    ready(&mut stage, "web#2");
    assert!(stage.story().contains(&"signal web#1 15".to_owned()));
}

// ---- order ----

#[test]
fn a_watcher_starts_when_those_it_comes_after_are_up() {
    let mut stage = Stage::new(vec![after("app", "web"), ready_by(Check::Notify)]);
    assert_eq!(stage.story(), ["spawn web#1"]);
    assert_eq!((stage.state("app"), stage.note("app").as_str()), (WatcherState::Starting, "waits for web"));
    stage.spawned("web#1");
    stage.story();
    stage.process(ProcessId(stage.id("web#1")), ProcessEvent::Notified(Notification::Ready));
    assert!(stage.story().contains(&"spawn app#1".to_owned()));
}

#[test]
fn watchers_stop_in_the_reverse_order() {
    let mut stage = running(vec![after("app", "db"), watcher("db")]);
    stage.tell(Event::StopAsked { by: "test".into() });
    let story = stage.story();
    assert!(story.contains(&"signal app#1 15".to_owned()) && !story.contains(&"signal db#1 15".to_owned()));
    assert_eq!(stage.note("db"), "waits for app to stop");
    stage.ends("app#1", ENDED);
    assert!(stage.story().contains(&"signal db#1 15".to_owned()));
    stage.ends("db#1", ENDED);
    assert_eq!(stage.orders().last(), Some(&Action::Leave { code: 0 }));
}

#[test]
fn order_holds_against_priorities_when_stopping() {
    let db = watcher("db");
    let app = WatcherSpec { priority: 9, ..after("app", "db") };
    let mut stage = Stage::new(vec![app, db]);
    run_all(&mut stage);
    stage.tell(Event::StopAsked { by: "test".into() });
    assert!(stage.story().contains(&"signal app#1 15".to_owned()), "db is first, and comes after nobody but app");
    stage.ends("app#1", ENDED);
    assert!(stage.story().contains(&"signal db#1 15".to_owned()));
}

#[test]
fn one_that_gave_up_keeps_those_after_it_waiting_and_one_that_nobody_wants_does_not() {
    let mut stage = Stage::new(vec![after("app", "web"), hooked(&[HookPoint::BeforeStart])]);
    stage.story();
    stage.returns("web before_start", false);
    assert_eq!(stage.note("app"), "waits for web");
    stage.asks_for(stop("web"));
    assert!(stage.story().contains(&"spawn app#1".to_owned()));
}

#[test]
fn a_hurried_end_keeps_no_order() {
    let mut stage = running(vec![after("app", "db"), watcher("db")]);
    stage.tell(Event::StopAsked { by: "test".into() });
    stage.tell(Event::StopAsked { by: "test".into() });
    let story = stage.story();
    assert!(story.contains(&"kill app#1".to_owned()) && story.contains(&"kill db#1".to_owned()), "{story:?}");
}

// ---- the file ----

#[test]
fn a_file_that_says_the_same_changes_nothing() {
    let specs = || vec![many("web", 2), watcher("db")];
    let mut stage = running(specs());
    stage.tell(Event::ReloadAsked { by: "SIGHUP".into() });
    assert!(stage.orders().contains(&Action::ReadSpec { request: None }));
    file_says(&mut stage, None, specs());
    assert_eq!(stage.story(), Vec::<String>::new());
}

#[test]
fn only_what_changed_restarts_and_one_process_at_a_time() {
    let mut stage = running(vec![many("web", 2), watcher("db")]);
    let request = stage.asks_for(Command::ReloadConfig { patience: Patience::Settled });
    file_says(&mut stage, Some(request), vec![with_words(many("web", 2), &["web", "--new"]), watcher("db")]);
    let story = stage.story();
    assert_eq!(story.iter().filter(|line| line.starts_with("signal")).collect::<Vec<_>>(), ["signal web#1 15"]);
    stage.ends("web#1", ENDED);
    run_all(&mut stage);
    stage.wait(LIFE);
    stage.ends("web#2", ENDED);
    let spawn = stage.story();
    assert!(spawn.contains(&"spawn web#2".to_owned()), "{spawn:?}");
    stage.spawned("web#2");
    stage.wait(LIFE);
    let Some(Reply::Done(Answer::Plan(plan))) = reply(&mut stage, request) else { panic!("no plan") };
    assert_eq!((plan.changes.len(), plan.changes[0].effect, plan.unchanged), (1, Effect::Replaced { restarts: 2 }, 1));
    assert_eq!(plan.changes[0].keys[0].key, "cmd");
}

#[test]
fn what_no_process_notices_is_changed_in_place() {
    let mut stage = running(vec![watcher("web")]);
    file_says(&mut stage, None, vec![WatcherSpec { graceful_timeout: Duration::from_secs(1), ..watcher("web") }]);
    assert_eq!(stage.story(), Vec::<String>::new());
    stage.asks_for(stop("web"));
    stage.story();
    stage.wait(Duration::from_secs(1));
    assert!(stage.story().contains(&"kill web#1".to_owned()));
}

#[test]
fn added_watchers_start_by_priority_and_removed_ones_stop_and_go() {
    let mut stage = running(vec![watcher("old"), watcher("web")]);
    let request = stage.asks_for(Command::ReloadConfig { patience: Patience::Settled });
    let first = WatcherSpec { priority: 5, ..watcher("zebra") };
    file_says(&mut stage, Some(request), vec![watcher("ant"), watcher("web"), first]);
    let story = stage.story();
    let spawns: Vec<_> = story.iter().filter(|line| line.starts_with("spawn")).collect();
    assert_eq!(spawns, ["spawn zebra#1", "spawn ant#1"]);
    assert!(story.contains(&"signal old#1 15".to_owned()));
    stage.spawned("zebra#1");
    stage.spawned("ant#1");
    stage.story();
    stage.ends("old#1", ENDED);
    assert_eq!(stage.node.snapshot().watchers.len(), 3);
    let removed = stage.story();
    assert!(removed.contains(&"old remove".to_owned()), "{removed:?}");
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let mut stage = running(vec![watcher("web")]);
    let request = stage.asks_for(Command::ReloadConfig { patience: Patience::Admitted });
    assert_eq!(reply(&mut stage, request), None, "it answers when it knows, even if nobody waits");
    stage.tell(Event::SpecRead { request: Some(request), spec: Err("line 3: unknown key".into()) });
    let refusal = Refusal::BadConfig("line 3: unknown key".into());
    assert_eq!(reply(&mut stage, request), Some(Reply::Refused(refusal)));
    assert_eq!(stage.state("web"), WatcherState::Active);
}

#[test]
fn a_plan_shows_the_difference_and_changes_nothing() {
    let mut stage = running(vec![watcher("web")]);
    let request = stage.asks_for(Command::Plan);
    file_says(&mut stage, Some(request), vec![many("web", 3), watcher("new")]);
    let Some(Reply::Done(Answer::Plan(Plan { changes, .. }))) = reply(&mut stage, request) else { panic!("no plan") };
    let effects: Vec<_> = changes.iter().map(|change| (change.watcher.as_str(), change.effect)).collect();
    assert_eq!(effects, [("new", Effect::Added { starts: 1 }), ("web", Effect::Resized { from: 1, to: 3 })]);
    assert_eq!(stage.node.snapshot().watchers.len(), 1);
}

#[test]
fn what_commands_changed_stays_unless_the_file_says_something_new_of_it() {
    let mut stage = running(vec![watcher("web")]);
    stage.asks_for(Command::Resize { watcher: "web".into(), by: 2, patience: Patience::Admitted });
    run_all(&mut stage);
    file_says(&mut stage, None, vec![watcher("web")]);
    assert_eq!(stage.node.snapshot().watchers[0].numprocesses, 3);
    file_says(&mut stage, None, vec![many("web", 2)]);
    assert_eq!(stage.node.snapshot().watchers[0].numprocesses, 2);
}

#[test]
fn a_watcher_that_comes_back_before_it_has_gone_is_never_there_twice() {
    let mut stage = Stage::new(vec![singleton("web")]);
    stage.grant(1);
    run_all(&mut stage);
    file_says(&mut stage, None, vec![]);
    stage.story();
    file_says(&mut stage, None, vec![singleton("web")]);
    assert_eq!(stage.node.snapshot().watchers.len(), 1);
    stage.ends("web#1", ENDED);
    assert_eq!(stage.node.snapshot().watchers.len(), 1);
    assert_ne!(stage.state("web"), WatcherState::Stopped);
}

#[test]
fn a_watcher_that_comes_back_is_as_the_file_says_be_it_that_it_has_not_gone_yet() {
    let mut stage = running(vec![many("web", 2)]);
    stage.asks_for(Command::Resize { watcher: "web".into(), by: -1, patience: Patience::Admitted });
    file_says(&mut stage, None, vec![]);
    file_says(&mut stage, None, vec![many("web", 2)]);
    assert_eq!(stage.node.snapshot().watchers[0].numprocesses, 2);
}

#[test]
fn a_watcher_becomes_a_singleton_when_nothing_of_it_runs() {
    let mut stage = running(vec![watcher("web")]);
    file_says(&mut stage, None, vec![singleton("web")]);
    stage.story();
    stage.ends("web#1", ENDED);
    assert_eq!(stage.state("web"), WatcherState::Standby);
    stage.grant(7);
    assert_eq!(stage.story(), ["spawn web#1"]);
    // And back: the lease goes first.
    stage.spawned("web#1");
    file_says(&mut stage, None, vec![watcher("web")]);
    stage.story();
    stage.ends("web#1", ENDED);
    assert_eq!(crate::stage::releases(&stage.orders()), 1);
}

#[test]
fn what_changes_before_a_watcher_has_become_a_singleton_is_not_lost() {
    let mut stage = running(vec![watcher("web")]);
    let set = |stage: &mut Stage, spec: &WatcherSpec| {
        let changes = settings(&[("max_retry", "9")]);
        let request = stage.asks_for(Command::Set { watcher: "web".into(), changes, patience: Patience::Admitted });
        let base = stage.orders().into_iter().find_map(|action| match action {
            Action::Amend { base: AmendBase::Watcher(base), .. } => Some(*base),
            _ => None,
        });
        stage.tell(Event::Amended { request, spec: Ok(Box::new(spec.clone())) });
        base.expect("an order to work it out")
    };
    let told = singleton("web");
    set(&mut stage, &told);
    let more = WatcherSpec { max_retry: Some(9), ..told.clone() };
    assert_eq!(set(&mut stage, &more), told, "worked out from what it is to become");
    // Taken back, it never comes about.
    assert_eq!(set(&mut stage, &watcher("web")), more);
    stage.story();
    let old = stage.pid("web#1");
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story(), [format!("web reap {old}"), "web stop".into(), "spawn web#1".into()]);
}

// ---- set, add, rm, kill ----

#[test]
fn a_setting_is_worked_out_applied_and_told() {
    let mut stage = running(vec![watcher("web")]);
    let changes = settings(&[("cmd", "web --new")]);
    let request =
        stage.asks_for(Command::Set { watcher: "web".into(), changes: changes.clone(), patience: Patience::Settled });
    let base = AmendBase::Watcher(Box::new(watcher("web")));
    let watchers = BTreeMap::from([(WatcherName::parse("web").unwrap(), vec![])]);
    let defaults = Defaults { watchers, ..Defaults::default() };
    assert!(stage.orders().contains(&Action::Amend { request, base, changes, defaults }));
    let spec = Ok(Box::new(with_words(watcher("web"), &["web", "--new"])));
    stage.tell(Event::Amended { request, spec });
    let story = stage.story();
    assert!(story.contains(&"web updated".to_owned()) && story.contains(&"signal web#1 15".to_owned()), "{story:?}");
    stage.ends("web#1", ENDED);
    stage.story();
    stage.spawned("web#1");
    stage.wait(LIFE);
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Ok)));
}

#[test]
fn of_two_settings_at_once_none_is_lost() {
    let mut stage = running(vec![watcher("web")]);
    let ask = |stage: &mut Stage, key| {
        let changes = settings(&[(key, "1")]);
        stage.asks_for(Command::Set { watcher: "web".into(), changes, patience: Patience::Settled })
    };
    let (first, second) = (ask(&mut stage, "max_retry"), ask(&mut stage, "priority"));
    let one = WatcherSpec { max_retry: Some(1), ..watcher("web") };
    stage.tell(Event::Amended { request: first, spec: Ok(Box::new(one.clone())) });
    assert_eq!(reply(&mut stage, first), Some(Reply::Done(Answer::Ok)));
    // Worked out from what was before: it is worked out anew.
    stage.tell(Event::Amended { request: second, spec: Ok(Box::new(WatcherSpec { priority: 1, ..watcher("web") })) });
    let again = AmendBase::Watcher(Box::new(one.clone()));
    assert!(stage.orders().iter().any(|action| matches!(action, Action::Amend { base, .. } if *base == again)));
    stage.tell(Event::Amended { request: second, spec: Ok(Box::new(WatcherSpec { priority: 1, ..one })) });
    assert_eq!(reply(&mut stage, second), Some(Reply::Done(Answer::Ok)));
}

#[test]
fn a_setting_that_makes_a_watcher_wait_for_itself_is_refused() {
    let mut stage = running(vec![after("app", "web"), watcher("web")]);
    let changes = settings(&[("after", "app")]);
    let request = stage.asks_for(Command::Set { watcher: "web".into(), changes, patience: Patience::Settled });
    stage.tell(Event::Amended { request, spec: Ok(Box::new(after("web", "app"))) });
    let refusal = Refusal::BadMessage("after: web would wait for itself".into());
    assert_eq!(reply(&mut stage, request), Some(Reply::Refused(refusal)));
}

#[test]
fn what_comes_after_a_watcher_that_was_removed_can_still_be_changed() {
    let mut stage = running(vec![after("app", "db"), watcher("db")]);
    stage.asks_for(Command::Remove { watcher: "db".into(), leave: Leave::Nothing, patience: Patience::Admitted });
    stage.story();
    stage.ends("db#1", ENDED);
    let changes = settings(&[("priority", "4")]);
    let request = stage.asks_for(Command::Set { watcher: "app".into(), changes, patience: Patience::Settled });
    let known = |action: &Action| matches!(action, Action::Amend { defaults, .. } if defaults.watchers.len() == 2);
    assert!(stage.orders.iter().any(known), "what it comes after is no mistake");
    stage.tell(Event::Amended { request, spec: Ok(Box::new(WatcherSpec { priority: 4, ..after("app", "db") })) });
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Ok)));
}

#[test]
fn an_added_watcher_starts_when_it_is_asked_to_and_its_name_is_taken_then() {
    let mut stage = running(vec![watcher("web")]);
    let add = |name: &str| Command::Add {
        name: name.into(),
        changes: Changes::default(),
        start: true,
        patience: Patience::Settled,
    };
    let request = stage.asks_for(add("new"));
    stage.tell(Event::Amended { request, spec: Ok(Box::new(watcher("new"))) });
    assert_eq!(stage.story(), ["new add", "spawn new#1"]);
    stage.spawned("new#1");
    let pid = stage.pid("new#1");
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Added { started: vec![pid] })));
    let request = stage.asks_for(add("NEW"));
    let taken = Refusal::Exists(WatcherName::parse("new").unwrap());
    assert_eq!(reply(&mut stage, request), Some(Reply::Refused(taken)));
    // The file never had it, and so has nothing to say about it.
    file_says(&mut stage, None, vec![watcher("web")]);
    assert_eq!(stage.state("new"), WatcherState::Active);
}

#[test]
fn a_removed_watcher_is_gone_when_its_processes_are() {
    let mut stage = running(vec![watcher("old"), watcher("web")]);
    let remove = Command::Remove { watcher: "old".into(), leave: Leave::Nothing, patience: Patience::Settled };
    let request = stage.asks_for(remove.clone());
    stage.story();
    let again = stage.asks_for(remove);
    assert!(matches!(reply(&mut stage, again), Some(Reply::Refused(Refusal::NoSuchWatcher { .. }))));
    stage.ends("old#1", ENDED);
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Ok)));
    assert_eq!(stage.node.snapshot().watchers.len(), 1);
}

#[test]
fn a_watcher_can_leave_its_processes_behind_but_a_singleton_cannot() {
    let mut stage = running(vec![singleton("beat"), watcher("old")]);
    let remove =
        |name: &str| Command::Remove { watcher: name.into(), leave: Leave::Processes, patience: Patience::Settled };
    let request = stage.asks_for(remove("old"));
    assert_eq!(stage.story(), ["old remove"]);
    stage.asks_for(remove("beat"));
    assert_eq!(stage.node.snapshot().watchers.len(), 1);
    let _ = request;
    // Its end is nobody's business any more.
    stage.ends("old#1", ENDED);
    assert_eq!(stage.story(), Vec::<String>::new());
}

#[test]
fn a_killed_process_is_replaced_without_counting_as_a_failure() {
    let mut stage = running(vec![many("web", 2)]);
    let (pid, grace) = (stage.pid("web#2"), Some(Duration::from_secs(1)));
    let kill =
        Command::Kill { watcher: "web".into(), pid: Some(pid), signal: Some(2), grace, patience: Patience::Settled };
    let request = stage.asks_for(kill);
    assert_eq!(stage.story(), ["signal web#2 2".into(), format!("web kill {pid}")]);
    stage.wait(Duration::from_secs(1));
    assert!(stage.story().contains(&"kill web#2".to_owned()));
    stage.ends("web#2", KILLED);
    let orders = stage.orders();
    let answered = orders.iter().any(|action| matches!(action, Action::Reply { request: to, .. } if *to == request));
    let replaced = orders.iter().any(|action| matches!(action, Action::Spawn { launch, .. } if launch.wid == 2));
    assert!(answered && replaced, "{orders:?}");
    assert_eq!(stage.node.snapshot().watchers[0].restarts, 0);
}

#[test]
fn fewer_processes_are_wanted_and_the_oldest_go_first() {
    let mut stage = running(vec![many("web", 3)]);
    stage.asks_for(Command::Resize { watcher: "web".into(), by: -2, patience: Patience::Admitted });
    let story = stage.story();
    assert_eq!(
        story.iter().filter(|line| line.starts_with("signal")).collect::<Vec<_>>(),
        ["signal web#1 15", "signal web#2 15"]
    );
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story(), Vec::<String>::new(), "the end of one too many is no news");
}

#[test]
fn without_respawn_a_waiting_incr_and_a_waiting_reload_come_to_an_end() {
    let mut stage = running(vec![WatcherSpec { respawn: false, ..many("job", 2) }]);
    stage.ends("job#1", Exit::Code(0));
    let incr = stage.asks_for(Command::Resize { watcher: "job".into(), by: 1, patience: Patience::Settled });
    assert!(stage.story().contains(&"spawn job#3".to_owned()));
    stage.spawned("job#3");
    assert!(reply(&mut stage, incr).is_some(), "it waits for one that will never be");
    // As in Circus, a reload has all of them again.
    let reload = stage.asks_for(reload("job", ReloadWay::Rolling));
    for _ in 0..4 {
        run_all(&mut stage);
        stage.wait(LIFE);
    }
    stage.ends("job#2", ENDED);
    stage.ends("job#3", ENDED);
    assert!(reply(&mut stage, reload).is_some(), "it waits for one that is not there");
    assert_eq!(stage.node.snapshot().watchers[0].processes.len(), 3);
}

#[test]
fn without_respawn_a_reload_whose_new_process_ends_keeps_the_old_ones_and_says_so() {
    let mut stage = Stage::new(vec![WatcherSpec { respawn: false, ..ready_by(Check::Notify) }]);
    run_all(&mut stage);
    stage.process(ProcessId(stage.id("web#1")), ProcessEvent::Notified(Notification::Ready));
    let request = stage.asks_for(reload("web", ReloadWay::Rolling));
    stage.story();
    stage.spawned("web#2");
    stage.ends("web#2", Exit::Code(1));
    let stopped = |action: &Action| matches!(action, Action::Signal { .. });
    assert!(!stage.orders.iter().any(stopped), "the one that ended is not one too many");
    let Some(Reply::Refused(Refusal::Failed(why))) = reply(&mut stage, request) else { panic!("it waits for ever") };
    assert_eq!(why, "web keeps its old processes");
    assert_eq!(stage.pid("web#1"), stage.node.snapshot().watchers[0].processes[0].pid.unwrap());
}

#[test]
fn a_reload_beside_a_process_that_takes_its_time_to_stop_is_no_failure() {
    let mut stage = running(vec![many("web", 2)]);
    let pid = stage.pid("web#1");
    let (watcher, patience) = ("web".to_owned(), Patience::Admitted);
    stage.asks_for(Command::Kill { watcher, pid: Some(pid), signal: None, grace: None, patience });
    let request = stage.asks_for(reload("web", ReloadWay::Rolling));
    for _ in 0..4 {
        run_all(&mut stage);
        stage.wait(LIFE);
    }
    stage.ends("web#2", ENDED);
    assert_eq!(reply(&mut stage, request), None, "the first one is yet to end");
    stage.ends("web#1", ENDED);
    assert!(matches!(reply(&mut stage, request), Some(Reply::Done(Answer::Started { .. }))));
}

#[test]
fn a_process_is_replaced_at_its_age() {
    let max_age = Some(Duration::from_secs(100));
    let mut stage = running(vec![WatcherSpec { max_age, max_age_variance: Duration::from_secs(10), ..watcher("web") }]);
    stage.wait(Duration::from_secs(99));
    assert_eq!(stage.story(), Vec::<String>::new());
    stage.wait(Duration::from_secs(11));
    assert!(stage.story().contains(&"signal web#1 15".to_owned()));
    stage.ends("web#1", ENDED);
    assert_eq!(stage.story(), ["spawn web#1"]);
}

#[test]
fn a_long_stop_of_one_watcher_delays_no_other_and_refuses_no_command() {
    let mut stage = running(vec![watcher("slow"), watcher("web")]);
    stage.asks_for(stop("slow"));
    stage.story();
    stage.ends("web#1", Exit::Code(1));
    assert!(stage.story().contains(&"spawn web#1".to_owned()), "a crash is mended meanwhile");
    stage.spawned("web#1");
    stage.story();
    let request = stage.asks_for(restart("web"));
    stage.story();
    stage.ends("web#1", ENDED);
    stage.story();
    stage.spawned("web#1");
    assert!(matches!(reply(&mut stage, request), Some(Reply::Done(Answer::Started { .. }))));
    // And what is being stopped can be started again.
    let request = stage.asks_for(start("slow"));
    stage.ends("slow#1", ENDED);
    stage.story();
    stage.spawned("slow#1");
    assert!(matches!(reply(&mut stage, request), Some(Reply::Done(Answer::Started { .. }))));
}

#[test]
fn stop_children_reaches_them_before_their_parent() {
    let mut stage = running(vec![WatcherSpec { stop_children: true, ..watcher("web") }]);
    stage.asks_for(stop("web"));
    let reach = Reach::MainAndChildren;
    assert!(stage.orders().iter().any(|action| matches!(action, Action::Signal { reach: to, .. } if *to == reach)));
}

#[test]
fn a_start_of_a_singleton_is_waited_for_until_the_store_has_answered() {
    let mut stage = Stage::new(vec![WatcherSpec { autostart: false, ..singleton("beat") }]);
    let request = stage.asks_for(start("beat"));
    let answered = |stage: &Stage| stage.orders.iter().any(|action| matches!(action, Action::Reply { .. }));
    assert!(!answered(&stage), "nobody has said yet who has the lease");
    stage.grant(1);
    assert!(!answered(&stage));
    stage.story();
    stage.spawned("beat#1");
    let started = Answer::Started { started: vec![stage.pid("beat#1")], kept: vec![], stopped: vec![] };
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(started)));
}

#[test]
fn a_drain_stops_in_order_and_stays_and_an_undrain_starts_in_order() {
    let mut stage = running(vec![WatcherSpec { priority: 9, ..watcher("db") }, watcher("web")]);
    let drain = stage.asks_for(Command::Drain { patience: Patience::Settled });
    let first = stage.story();
    assert!(
        first.contains(&"signal web#1 15".into()) && !first.iter().any(|line| line.starts_with("signal db")),
        "{first:?}"
    );
    stage.ends("web#1", ENDED);
    assert!(stage.story().contains(&"signal db#1 15".into()));
    assert_eq!(stage.node.snapshot().phase, Phase::Draining);
    assert_eq!(stage.outcome(drain), None);
    stage.ends("db#1", ENDED);
    assert_eq!(stage.outcome(drain), Some(Outcome::Own(Reply::Done(Answer::Ok))));
    assert_eq!(stage.node.snapshot().phase, Phase::Drained);

    stage.story();
    let start = stage.asks_for(Command::Start { pattern: None, patience: Patience::Admitted });
    assert_eq!(stage.outcome(start), Some(Outcome::Own(Reply::Refused(Refusal::Drained(name("a"))))));
    stage.wait(Duration::from_secs(3600));
    assert!(stage.story().is_empty(), "something starts");

    let undrain = stage.asks_for(Command::Undrain { patience: Patience::Settled });
    assert_eq!(stage.story(), ["spawn db#1", "spawn web#1"]);
    stage.spawned("db#1");
    assert_eq!(stage.outcome(undrain), None);
    stage.spawned("web#1");
    assert_eq!(stage.outcome(undrain), Some(Outcome::Own(Reply::Done(Answer::Ok))));
    assert_eq!(stage.node.snapshot().phase, Phase::Running);
}

#[test]
fn a_drain_that_is_called_back_says_so() {
    let mut stage = running(vec![watcher("web")]);
    let drain = stage.asks_for(Command::Drain { patience: Patience::Settled });
    stage.asks_for(Command::Undrain { patience: Patience::Admitted });
    let called_back = Reply::Refused(Refusal::Failed("a was undrained meanwhile".into()));
    assert_eq!(stage.outcome(drain), Some(Outcome::Own(called_back)));
}
