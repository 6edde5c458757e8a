//! What is measured and told, for whom and for how long.

use std::time::Duration;

use circus_agent::model::event::{Action, Address, Event, Onlooker};
use circus_agent::model::pattern::Pattern;
use circus_agent::model::snapshot::LeaseRole;
use circus_agent::model::stats::{Detail, History, Measure, Measures, NodeStats, ProcessStats, SocketStats, Used};

use crate::specs::watcher;
use crate::stage::{Stage, singleton};

const SECOND: Duration = Duration::from_secs(1);

fn watches(stage: &mut Stage, by: Onlooker, begun: bool) {
    stage.tell(Event::Watched { by, begun });
}

/// The pids that were to be measured since the last look, each time.
fn measured(stage: &mut Stage) -> Vec<Vec<u32>> {
    let measured = |action| match action {
        Action::Measure { pids, .. } => Some(pids),
        _ => None,
    };
    stage.orders().into_iter().filter_map(measured).collect()
}

/// Brings what was measured: of these processes, each with this share of a processor.
fn bring(stage: &mut Stage, processes: &[(u32, f64)]) -> (NodeStats, Option<History>, bool) {
    let measure = |&(pid, cpu): &(u32, f64)| {
        (pid, Measure { program: "x".into(), used: Used { cpu, ..Used::default() }, children: 2, own: None })
    };
    let processes = processes.iter().map(measure).collect();
    stage.tell(Event::Measured(Box::new(Measures { at: 12.5, processes, ..Measures::default() })));
    let shown = stage.orders().into_iter().find_map(|action| match action {
        Action::Show { stats, history, elsewhere, circus: false } => {
            Some((*stats, history.map(|history| *history), elsewhere))
        }
        _ => None,
    });
    shown.expect("a frame")
}

#[test]
fn nobody_watching_nothing_is_measured() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    stage.wait(Duration::from_secs(3600));
    assert_eq!(measured(&mut stage), Vec::<Vec<u32>>::new());
    assert_eq!(stage.node.next_wakeup(), None);
}

#[test]
fn however_many_watch_it_is_measured_once_a_second_and_never_twice_at_once() {
    let mut stage = Stage::new(vec![watcher("web"), watcher("aux")]);
    stage.start();
    stage.orders();
    (0..50).for_each(|_| watches(&mut stage, Onlooker::Here, true));
    (0..50).for_each(|_| watches(&mut stage, Onlooker::Elsewhere, true));
    let pids = [stage.pids("aux"), stage.pids("web")].concat();
    assert_eq!(measured(&mut stage), [pids]);
    stage.wait(3 * SECOND);
    assert_eq!(measured(&mut stage).len(), 0, "the first is still under way");
    stage.tell(Event::Measured(Box::default()));
    assert_eq!(measured(&mut stage).len(), 1, "the next is due");
    stage.wait(SECOND / 2);
    stage.tell(Event::Measured(Box::default()));
    stage.wait(SECOND / 4);
    assert_eq!(measured(&mut stage).len(), 0, "the second was ordered less than a second ago");
    stage.wait(SECOND / 4);
    assert_eq!(measured(&mut stage).len(), 1);
}

#[test]
fn who_falls_silent_watches_no_more() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    stage.orders();
    watches(&mut stage, Onlooker::Elsewhere, true);
    let mut frames = 0;
    for _ in 0..60 {
        frames += measured(&mut stage).len();
        stage.tell(Event::Measured(Box::default()));
        stage.wait(SECOND);
    }
    assert_eq!(frames, 12);
    assert_eq!(stage.node.next_wakeup(), None);
}

#[test]
fn a_frame_goes_to_the_cluster_only_while_somebody_there_watches() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    watches(&mut stage, Onlooker::Here, true);
    assert!(!bring(&mut stage, &[]).2);
    watches(&mut stage, Onlooker::Elsewhere, true);
    assert!(bring(&mut stage, &[]).2);
    stage.wait(10 * SECOND);
    watches(&mut stage, Onlooker::Here, false);
    stage.wait(3 * SECOND);
    assert!(!bring(&mut stage, &[]).2, "the last word from there is more than 12 s old");
}

#[test]
fn a_frame_has_all_watchers_and_what_was_measured_of_their_processes() {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web")]);
    stage.grant(7);
    // What was ordered besides the question was taken with it: the processes are known to the node alone.
    let stage = &mut stage;
    stage.wait(SECOND);
    stage.start();
    let beat = stage.pids("beat")[0];
    watches(stage, Onlooker::Here, true);
    let (stats, _, _) = bring(stage, &[(beat, 1.5), (4_000_000, 9.0)]);
    assert_eq!((stats.node.as_str(), stats.at), ("a", 12.5));
    let names: Vec<_> = stats.watchers.iter().map(|watcher| watcher.name.as_str()).collect();
    assert_eq!(names, ["beat", "web"]);
    let lease = stats.watchers[0].lease.as_ref().unwrap();
    assert_eq!((lease.role, lease.token), (LeaseRole::Holder, Some(7)));
    assert!(lease.left.is_some_and(|left| left <= lease.ttl));
    let [measured] = &stats.watchers[0].processes[..] else { panic!("{stats:?}") };
    assert_eq!((measured.pid, measured.used.cpu, measured.children), (beat, 1.5, 2));
    assert_eq!(stats.watchers[1].lease, None);
    let (stats, _, _) = bring(stage, &[]);
    let [unmeasured] = &stats.watchers[0].processes[..] else { panic!("{stats:?}") };
    assert_eq!((unmeasured.pid, unmeasured.used), (beat, Used::default()), "it began after the measurement");
}

/// What was to be measured since the last look, each time.
fn details(stage: &mut Stage) -> Vec<Detail> {
    let detail = |action| match action {
        Action::Measure { detail, .. } => Some(detail),
        _ => None,
    };
    stage.orders().into_iter().filter_map(detail).collect()
}

/// Whether Circus's clients are shown what was measured now.
fn is_for_circus(stage: &mut Stage) -> bool {
    let agent = Box::new(ProcessStats {
        wid: 0,
        pid: 4700,
        state: "running".into(),
        program: "circus-agent".into(),
        age: SECOND,
        used: Used::default(),
        children: 0,
        own: None,
    });
    let socket = SocketStats { fd: 7, address: Address::Unix("/run/web".into()), waiting: true };
    let measures = Measures { agent: Some(agent.clone()), sockets: vec![socket.clone()], ..Measures::default() };
    stage.tell(Event::Measured(Box::new(measures)));
    let shown = stage.orders().into_iter().find_map(|action| match action {
        Action::Show { stats, circus, .. } => Some((stats, circus)),
        _ => None,
    });
    let (stats, circus) = shown.expect("a frame");
    assert_eq!((stats.agent, stats.sockets), (Some(agent), vec![socket]), "what was measured of them is passed on");
    circus
}

#[test]
fn circuss_clients_have_each_process_measured_by_itself_while_they_watch() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    stage.orders();
    watches(&mut stage, Onlooker::Here, true);
    assert_eq!(details(&mut stage), [Detail::Frame]);
    watches(&mut stage, Onlooker::Circus, false);
    assert!(!is_for_circus(&mut stage), "it was ordered before they came");
    for _ in 0..11 {
        stage.wait(SECOND);
        assert_eq!(details(&mut stage), [Detail::Circus]);
        watches(&mut stage, Onlooker::Here, false);
        assert!(is_for_circus(&mut stage));
    }
    stage.wait(SECOND);
    assert_eq!(details(&mut stage), [Detail::Frame], "their last word is 12 s old");
    assert!(!is_for_circus(&mut stage));
}

#[test]
fn a_measurement_that_comes_after_they_fell_silent_is_not_for_circuss_clients() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    watches(&mut stage, Onlooker::Circus, false);
    assert_eq!(details(&mut stage), [Detail::Circus]);
    stage.wait(13 * SECOND);
    assert!(!is_for_circus(&mut stage));
    assert_eq!(stage.node.next_wakeup(), None, "nobody watches");
}

#[test]
fn who_begins_to_watch_gets_the_past_once() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.start();
    stage.orders();
    let pid = stage.pids("web")[0];
    watches(&mut stage, Onlooker::Here, true);
    // To the beginning of a step, and three of them.
    stage.wait(9 * SECOND);
    for _ in 0..31 {
        bring(&mut stage, &[(pid, 5.0)]);
        watches(&mut stage, Onlooker::Here, false);
        stage.wait(SECOND);
    }
    assert_eq!(bring(&mut stage, &[(pid, 5.0)]).1, None);
    watches(&mut stage, Onlooker::Elsewhere, true);
    let history = bring(&mut stage, &[(pid, 5.0)]).1.expect("the past");
    let (name, past) = &history.watchers[0];
    assert_eq!((name.as_str(), history.step), ("web", 10 * SECOND));
    let shares: Vec<_> = past.iter().map(|point| point.map(|point| point.cpu)).collect();
    assert_eq!(shares, [Some(5.0); 3]);
    assert_eq!(bring(&mut stage, &[(pid, 5.0)]).1, None);
}

fn follows(stage: &mut Stage, by: &str, names: &[&str]) {
    let names = names.iter().map(|name| Pattern::Glob((*name).into())).collect();
    stage.tell(Event::OutputWatched { by: by.into(), names });
}

/// The watchers whose output is told, each time that this changed since the last look.
fn told(stage: &mut Stage) -> Vec<String> {
    let told = |action| match action {
        Action::TellOutput { of } => Some(of.iter().map(Pattern::text).collect::<Vec<_>>().join(" ")),
        _ => None,
    };
    stage.orders().into_iter().filter_map(told).collect()
}

#[test]
fn output_is_told_of_the_watchers_that_somebody_follows_and_as_long_as_somebody_does() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.orders();
    follows(&mut stage, "amy", &["web*", "beat"]);
    assert_eq!(told(&mut stage), ["web* beat"]);
    stage.wait(5 * SECOND);
    follows(&mut stage, "amy", &["web*", "beat"]);
    follows(&mut stage, "bob", &["web*"]);
    assert_eq!(told(&mut stage), [""; 0], "that is told already");
    follows(&mut stage, "bob", &["*"]);
    assert_eq!(told(&mut stage), ["web* beat *"]);
    stage.wait(10 * SECOND);
    follows(&mut stage, "bob", &["*"]);
    stage.wait(10 * SECOND);
    assert_eq!(told(&mut stage), ["*"], "amy has gone");
    stage.wait(2 * SECOND);
    assert_eq!(told(&mut stage), [""], "so has bob");
}

#[test]
fn a_crowd_of_readers_costs_no_more_than_a_bounded_list() {
    let mut stage = Stage::new(vec![watcher("web")]);
    stage.orders();
    for number in 0..200 {
        stage.wait(SECOND / 100);
        follows(&mut stage, &number.to_string(), &[&format!("w{number}")]);
    }
    let last = told(&mut stage).pop().unwrap();
    let names: Vec<&str> = last.split(' ').collect();
    assert_eq!((names.len(), names.contains(&"w199"), names.contains(&"w135")), (64, true, false), "{last}");
}
