//! Sockets: opened before all else, changed in two steps, handed down, and watched for those who sleep.

use std::collections::BTreeMap;
use std::time::Duration;

use circus_agent::model::command::{Answer, Command, Leave, Outcome, Patience, Refusal, ReloadWay, Reply, RequestId};
use circus_agent::model::event::{
    Action, Address, AskKind, BindId, Bound, Changes, Event, Exit, Handed, LaneId, Launch, LeaseAnswer, Level,
    Notification, ProcessEvent, ProcessId, SocketId, Whose,
};
use circus_agent::model::names::{SocketName, WatcherName};
use circus_agent::model::pattern::Pattern;
use circus_agent::model::plan::{Effect, SocketEffect};
use circus_agent::model::snapshot::WatcherState;
use circus_agent::model::spec::{
    AgentSpec, Check, Convention, HookPoint, HookProgram, HookSpec, OnDemand, Place, ReadySpec, SocketSpec,
    WatcherSpec, Which,
};

use crate::specs::{self, serving, socket, watcher};
use crate::stage::{Stage, name, singleton};

const IDLE: Duration = Duration::from_secs(60);
const DONE: Exit = Exit::Code(0);
const CRASHED: Exit = Exit::Code(1);

fn agent(sockets: Vec<SocketSpec>, watchers: Vec<WatcherSpec>) -> AgentSpec {
    AgentSpec { sockets, ..specs::agent(&name("a"), watchers) }
}

/// The latest order to open sockets.
fn ordered(stage: &mut Stage) -> (BindId, Vec<(SocketId, SocketSpec)>) {
    let found = stage.orders.iter().rev().find_map(|action| match action {
        Action::Bind { bind, sockets, .. } => Some((*bind, sockets.clone())),
        _ => None,
    });
    found.expect("an order to open sockets")
}

/// All that was ordered is open, at the port that it is to have.
fn opens(stage: &mut Stage) -> Vec<SocketId> {
    let (bind, sockets) = ordered(stage);
    stage.orders.clear();
    let bound = sockets.iter().map(|(id, spec)| {
        let Place::Inet { port, .. } = spec.place else { panic!("no port") };
        (*id, Bound { fd: 9, address: Address::Inet(([127, 0, 0, 1], port).into()) })
    });
    stage.tell(Event::Bound { bind, result: Ok(bound.collect()) });
    sockets.into_iter().map(|(id, _)| id).collect()
}

fn fails_to_open(stage: &mut Stage, why: &str) {
    let (bind, _) = ordered(stage);
    stage.orders.clear();
    stage.tell(Event::Bound { bind, result: Err(why.into()) });
}

/// A node whose sockets are open.
fn open(sockets: Vec<SocketSpec>, watchers: Vec<WatcherSpec>) -> Stage {
    let mut stage = Stage::of(agent(sockets, watchers));
    opens(&mut stage);
    stage
}

/// And whose processes run.
fn running(sockets: Vec<SocketSpec>, watchers: Vec<WatcherSpec>) -> Stage {
    let mut stage = open(sockets, watchers);
    start_all(&mut stage);
    stage.story();
    stage
}

/// Whatever is ordered starts.
fn start_all(stage: &mut Stage) -> Vec<Launch> {
    let (mut launches, mut seen) = (Vec::new(), 0);
    while seen < stage.orders.len() {
        if let Action::Spawn { process, launch } = stage.orders[seen].clone() {
            stage.process(process, ProcessEvent::Spawned { pid: 1_000 + process.0 as u32 });
            launches.push(launch);
        }
        seen += 1;
    }
    launches
}

fn file_says(stage: &mut Stage, sockets: Vec<SocketSpec>, watchers: Vec<WatcherSpec>) -> RequestId {
    let request = stage.asks_for(Command::ReloadConfig { patience: Patience::Settled });
    stage.tell(Event::SpecRead { request: Some(request), spec: Ok(Box::new(agent(sockets, watchers))) });
    request
}

fn reply(stage: &mut Stage, request: RequestId) -> Option<Reply> {
    match stage.outcome(request) {
        Some(Outcome::Own(reply)) => Some(reply),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn sockets_of(stage: &mut Stage) -> Vec<(String, Option<u16>, Vec<String>)> {
    let request = stage.asks_for(Command::ListSockets);
    let Some(Reply::Done(Answer::Sockets(views))) = reply(stage, request) else { panic!("no list") };
    let port = |bound: Bound| match bound.address {
        Address::Inet(address) => address.port(),
        Address::Unix(_) => 0,
    };
    let line = |view: circus_agent::model::snapshot::SocketView| {
        let users = view.watchers.iter().map(ToString::to_string).collect();
        (view.name.to_string(), view.bound.map(port), users)
    };
    views.into_iter().map(line).collect()
}

fn lane(launch: &Launch) -> u64 {
    launch.sockets[0].lane.expect("a lane").0
}

// ---- at the start ----

#[test]
fn nothing_starts_before_all_sockets_are_open() {
    let sockets = vec![socket("adm", 9000), socket("web", 8000)];
    let mut stage = Stage::of(agent(sockets, vec![serving("app", &["web"]), watcher("other")]));
    assert_eq!(stage.node.next_wakeup(), None, "only the sockets are waited for");
    stage.wait(Duration::from_secs(5));
    let (_, asked) = ordered(&mut stage);
    assert_eq!(asked.len(), 2);
    assert_eq!(stage.story(), ["bind adm web"]);
    stage.tell(Event::Bound { bind: BindId(99), result: Ok(Vec::new()) });
    assert!(stage.story().is_empty(), "an answer to nobody");
}

#[test]
fn who_is_told_to_start_meanwhile_waits_for_its_sockets() {
    let mut stage = Stage::of(agent(vec![socket("web", 8000)], vec![serving("app", &["web"])]));
    stage.asks_for(Command::Start { pattern: None, patience: Patience::Admitted });
    assert_eq!((stage.story(), stage.note("app")), (vec!["bind web".into()], "waits for its sockets".into()));
}

#[test]
fn a_socket_that_cannot_be_had_ends_the_agent_and_every_reason_is_told() {
    let mut stage = Stage::of(agent(vec![socket("web", 80)], vec![serving("app", &["web"]), watcher("other")]));
    fails_to_open(&mut stage, "socket web: EACCES\nsocket adm: EADDRINUSE\n");
    let errors: Vec<&str> = stage
        .orders
        .iter()
        .filter_map(|action| match action {
            Action::Log { level: Level::Error, text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(errors, ["socket web: EACCES", "socket adm: EADDRINUSE", "nothing was started"]);
    assert_eq!(stage.orders.last(), Some(&Action::Leave { code: 69 }));
    assert!(!stage.orders.iter().any(|action| matches!(action, Action::Spawn { .. })));
}

#[test]
fn who_is_asked_to_stop_while_sockets_are_opened_ends_well() {
    let mut stage = Stage::of(agent(vec![socket("web", 80)], vec![serving("app", &["web"])]));
    let (bind, _) = ordered(&mut stage);
    stage.tell(Event::StopAsked { by: "SIGTERM".into() });
    assert_eq!(stage.orders.last(), Some(&Action::Leave { code: 0 }));
    stage.tell(Event::Bound { bind, result: Err("too late".into()) });
}

// ---- handing over ----

#[test]
fn a_process_finds_its_sockets_in_their_order_and_is_told_of_them() {
    let mut app = serving("app", &["web", "adm"]);
    app.program.words = vec!["serve".into(), "--fd=$(circus.sockets.adm)".into(), "$(circus.wid)".into()];
    app.program.sockets.stdin = Some(SocketName::parse("log").unwrap());
    let mut stage = Stage::of(agent(vec![socket("adm", 1), socket("log", 2), socket("web", 3)], vec![app]));
    let ids = opens(&mut stage);
    let launch = start_all(&mut stage).remove(0);
    assert_eq!(launch.argv, ["serve", "--fd=4", "1"]);
    let hand = |id| Handed { socket: id, lane: None };
    assert_eq!((launch.sockets, launch.stdin), (vec![hand(ids[2]), hand(ids[0])], Some(hand(ids[1]))));
    assert!(launch.socket_env.contains(&("LISTEN_FDNAMES".into(), "web:adm".into())), "{:?}", launch.socket_env);
    assert_eq!(launch.pids, [("LISTEN_PID", Whose::Own)]);
}

#[test]
fn all_sockets_include_later_ones_for_those_who_start_later_and_touch_nobody_else() {
    let mut app = serving("app", &[]);
    app.program.sockets.which = Which::All;
    let both = || vec![app.clone(), serving("other", &["web"])];
    let mut stage = running(vec![socket("web", 8000)], both());
    let request = file_says(&mut stage, vec![socket("api", 7000), socket("web", 8000)], both());
    opens(&mut stage);
    let Some(Reply::Done(Answer::Plan(plan))) = reply(&mut stage, request) else { panic!("not at once") };
    assert_eq!((plan.changes.len(), plan.unchanged), (0, 2));
    assert_eq!((plan.sockets[0].socket.as_str(), plan.sockets[0].effect), ("api", SocketEffect::Added));
    stage.ends("app#1", CRASHED);
    stage.wait(Duration::from_secs(1));
    let launch = start_all(&mut stage).remove(0);
    assert!(launch.socket_env.contains(&("LISTEN_FDNAMES".into(), "api:web".into())), "{:?}", launch.socket_env);
}

#[test]
fn an_ack_makes_ready_and_whoever_waits_for_one_can_send_it() {
    let ready = ReadySpec { check: Check::Ack, timeout: Duration::from_secs(9) };
    let mut stage = Stage::new(vec![WatcherSpec { ready: Some(ready), ..watcher("app") }]);
    start_all(&mut stage);
    stage.story();
    assert_eq!(stage.state("app"), WatcherState::Starting);
    let id = ProcessId(stage.id("app#1"));
    stage.process(id, ProcessEvent::Notified(Notification::Ready));
    assert_eq!(stage.state("app"), WatcherState::Starting, "that is another language");
    stage.process(id, ProcessEvent::Notified(Notification::Ack));
    assert_eq!(stage.state("app"), WatcherState::Active);
    stage.asks_for(Command::Restart { pattern: None, patience: Patience::Admitted });
    stage.ends("app#1", DONE);
    let launch = start_all(&mut stage).remove(0);
    assert!(launch.signs.ack && launch.pids == [("EINHORN_MASTER_PID", Whose::Parent)], "{launch:?}");
}

#[test]
fn einhorns_socket_comes_with_einhorns_words() {
    let mut app = serving("app", &["web"]);
    let mut stage = open(vec![socket("web", 1)], vec![app.clone()]);
    assert!(!start_all(&mut stage)[0].signs.ack);
    app.program.sockets.conventions.insert(Convention::Einhorn);
    let mut stage = open(vec![socket("web", 1)], vec![app]);
    assert!(start_all(&mut stage)[0].signs.ack);
}

// ---- changes ----

#[test]
fn a_socket_that_moves_is_opened_first_and_only_its_users_are_replaced() {
    let both = || vec![serving("app", &["web"]), serving("other", &["adm"])];
    let mut stage = running(vec![socket("adm", 1), socket("web", 8000)], both());
    let request = file_says(&mut stage, vec![socket("adm", 1), socket("web", 8001)], both());
    assert!(!stage.orders.iter().any(|action| matches!(action, Action::Signal { .. })), "nothing else changes yet");
    assert_eq!(ordered(&mut stage).1.len(), 1);
    let id = opens(&mut stage)[0];
    let pid = stage.pid("app#1");
    assert_eq!(stage.story(), ["unbind 1".into(), "signal app#1 15".into(), format!("app kill {pid}")]);
    stage.ends("app#1", DONE);
    let launch = start_all(&mut stage).remove(0);
    assert_eq!(launch.sockets, [Handed { socket: id, lane: None }]);
    stage.wait(Duration::from_secs(1));
    let Some(Reply::Done(Answer::Plan(plan))) = reply(&mut stage, request) else { panic!("not done") };
    assert_eq!(plan.changes.len(), 1);
    assert_eq!((plan.changes[0].watcher.as_str(), plan.changes[0].effect), ("app", Effect::Replaced { restarts: 1 }));
    assert_eq!((plan.sockets[0].effect, plan.sockets[0].keys.len()), (SocketEffect::Moved, 1));
    let line = |name: &str, port, user: &str| (name.to_owned(), Some(port), vec![user.to_owned()]);
    assert_eq!(sockets_of(&mut stage), [line("adm", 1, "other"), line("web", 8001, "app")]);
}

#[test]
fn a_socket_that_cannot_be_opened_anew_leaves_all_as_it_was() {
    let mut stage = running(vec![socket("web", 8000)], vec![serving("app", &["web"])]);
    let changed = WatcherSpec { numprocesses: 3, ..serving("app", &["web"]) };
    let request = file_says(&mut stage, vec![socket("web", 80)], vec![changed]);
    fails_to_open(&mut stage, "socket web: EACCES");
    let refused = reply(&mut stage, request);
    assert!(matches!(&refused, Some(Reply::Refused(Refusal::BadConfig(why))) if why.contains("EACCES")), "{refused:?}");
    assert!(stage.story().is_empty());
    assert_eq!(sockets_of(&mut stage)[0].1, Some(8000));
    // The next file is compared with what is.
    let request = file_says(&mut stage, vec![socket("web", 8000)], vec![serving("app", &["web"])]);
    let done = reply(&mut stage, request);
    assert!(matches!(&done, Some(Reply::Done(Answer::Plan(plan))) if plan.sockets.is_empty()), "{done:?}");
}

#[test]
fn what_does_not_need_a_new_socket_changes_the_one_there_is() {
    let mut stage = Stage::of(agent(vec![socket("web", 8000)], vec![serving("app", &["web"])]));
    let first = opens(&mut stage);
    start_all(&mut stage);
    stage.story();
    let longer = SocketSpec { backlog: 7, settings: BTreeMap::new(), ..socket("web", 8000) };
    let request = file_says(&mut stage, vec![longer], vec![serving("app", &["web"])]);
    assert_eq!(opens(&mut stage), first);
    let done = reply(&mut stage, request);
    assert!(
        matches!(&done, Some(Reply::Done(Answer::Plan(plan)))
        if plan.sockets[0].effect == SocketEffect::Adjusted && plan.unchanged == 1),
        "{done:?}"
    );
    assert!(stage.story().is_empty());
}

#[test]
fn a_socket_that_goes_is_closed_and_who_had_it_among_all_is_replaced() {
    let mut app = serving("app", &[]);
    app.program.sockets.which = Which::All;
    let mut stage = running(vec![socket("adm", 1), socket("web", 2)], vec![app.clone()]);
    file_says(&mut stage, vec![socket("web", 2)], vec![app]);
    let pid = stage.pid("app#1");
    assert_eq!(stage.story(), ["unbind 1".into(), "signal app#1 15".into(), format!("app kill {pid}")]);
    stage.ends("app#1", DONE);
    let launch = start_all(&mut stage).remove(0);
    assert!(launch.socket_env.contains(&("LISTEN_FDNAMES".into(), "web".into())), "{:?}", launch.socket_env);
}

#[test]
fn one_change_of_sockets_waits_for_the_one_before() {
    let app = || vec![serving("app", &["web"])];
    let mut stage = running(vec![socket("web", 1)], app());
    let first = file_says(&mut stage, vec![socket("web", 2)], app());
    let (bind, asked) = ordered(&mut stage);
    stage.orders.clear();
    let second = file_says(&mut stage, vec![socket("web", 3)], app());
    assert!(stage.story().is_empty(), "the second waits");
    stage.tell(Event::Bound { bind, result: Err("no".into()) });
    assert!(stage.orders.iter().any(|a| matches!(a, Action::Reply { request, .. } if *request == first)));
    let (_, next) = ordered(&mut stage);
    assert_ne!(next[0].0, asked[0].0, "an opening is never used twice");
    opens(&mut stage);
    stage.ends("app#1", DONE);
    start_all(&mut stage);
    stage.wait(Duration::from_secs(1));
    assert!(matches!(reply(&mut stage, second), Some(Reply::Done(_))));
    assert_eq!(sockets_of(&mut stage)[0].1, Some(3));
}

#[test]
fn who_leaves_answers_those_whose_sockets_are_being_opened() {
    let app = || vec![serving("app", &["web"])];
    let mut stage = running(vec![socket("web", 1)], app());
    let first = file_says(&mut stage, vec![socket("web", 2)], app());
    let second = file_says(&mut stage, vec![socket("web", 3)], app());
    let third = stage.asks_for(Command::AddSocket {
        name: "new".into(),
        changes: Changes::default(),
        patience: Patience::Admitted,
    });
    stage.tell(Event::SocketAmended { request: third, spec: Ok(Box::new(socket("new", 5))) });
    stage.tell(Event::StopAsked { by: "SIGTERM".into() });
    stage.ends("app#1", DONE);
    for request in [first, second, third] {
        let replies = stage.orders.iter().filter(|a| matches!(a, Action::Reply { request: to, .. } if *to == request));
        assert_eq!(replies.count(), 1, "{request:?}");
    }
    assert_eq!(stage.orders.last(), Some(&Action::Leave { code: 0 }));
}

// ---- commands ----

#[test]
fn sockets_are_added_changed_and_removed_by_commands() {
    let mut stage = running(vec![socket("web", 8000)], vec![serving("app", &["web"])]);
    let changes = Changes { settings: vec![("port".into(), Some("9000".into()))], env: None };
    let patience = Patience::Settled;
    let add = Command::AddSocket { name: "Adm".into(), changes: changes.clone(), patience };
    let request = stage.asks_for(add.clone());
    stage.tell(Event::SocketAmended { request, spec: Ok(Box::new(socket("adm", 9000))) });
    opens(&mut stage);
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Ok)));
    assert_eq!(sockets_of(&mut stage).len(), 2);

    let request = stage.asks_for(add);
    assert!(matches!(reply(&mut stage, request), Some(Reply::Refused(Refusal::SocketExists(_)))));
    let request = stage.asks_for(Command::SetSocket { socket: "adn".into(), changes: changes.clone(), patience });
    let refused = reply(&mut stage, request);
    let hint = Some(SocketName::parse("adm").unwrap());
    assert_eq!(refused, Some(Reply::Refused(Refusal::NoSuchSocket { name: "adn".into(), hint })));

    // It moves, and who uses it is replaced before the reply.
    let request = stage.asks_for(Command::SetSocket { socket: "web".into(), changes, patience });
    stage.tell(Event::SocketAmended { request, spec: Ok(Box::new(socket("web", 8001))) });
    opens(&mut stage);
    assert_eq!(stage.outcome(request), None);
    stage.ends("app#1", DONE);
    start_all(&mut stage);
    stage.wait(Duration::from_secs(1));
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Ok)));

    let request = stage.asks_for(Command::RemoveSocket { socket: "web".into(), patience });
    let refused = reply(&mut stage, request);
    assert!(
        matches!(&refused, Some(Reply::Refused(Refusal::Failed(why))) if why.contains("used by app")),
        "{refused:?}"
    );
    let request = stage.asks_for(Command::RemoveSocket { socket: "ADM".into(), patience });
    assert!(stage.orders.iter().any(|action| matches!(action, Action::Unbind { sockets } if sockets.len() == 1)));
    assert_eq!(reply(&mut stage, request), Some(Reply::Done(Answer::Ok)));
    assert_eq!(sockets_of(&mut stage).len(), 1);
}

#[test]
fn a_watcher_whose_socket_the_file_has_taken_away_goes_on_and_nobody_waits_for_it() {
    let mut stage = running(vec![socket("web", 8000)], Vec::new());
    let add =
        Command::Add { name: "extra".into(), changes: Changes::default(), start: true, patience: Patience::Admitted };
    let request = stage.asks_for(add);
    stage.tell(Event::Amended { request, spec: Ok(Box::new(serving("extra", &["web"]))) });
    start_all(&mut stage);
    stage.story();
    let request = file_says(&mut stage, Vec::new(), Vec::new());
    let refused = reply(&mut stage, request);
    let why = Refusal::Failed("extra: there is no socket web".into());
    assert_eq!(refused, Some(Reply::Refused(why)));
    assert!(!stage.story().iter().any(|line| line.starts_with("signal")), "nothing could take its place");
    stage.ends("extra#1", CRASHED);
    stage.wait(Duration::from_secs(9));
    assert_eq!(
        (stage.state("extra"), stage.note("extra").as_str()),
        (WatcherState::Starting, "there is no socket web")
    );
}

#[test]
fn a_socket_can_be_changed_after_the_watcher_that_may_have_it_was_removed() {
    let only = SocketSpec { watchers: vec![app()], ..socket("web", 8000) };
    let mut stage = open(vec![only], vec![watcher("other")]);
    let (changes, patience) = (Changes::default(), Patience::Admitted);
    stage.asks_for(Command::SetSocket { socket: "web".into(), changes, patience });
    let Some(Action::AmendSocket { defaults, .. }) = stage.orders.last() else { panic!("{:?}", stage.orders) };
    assert!(defaults.watchers.contains_key(&app()), "{defaults:?}");
}

#[test]
fn a_socket_added_by_a_command_stays_when_the_file_is_read_and_none_takes_anothers_place() {
    let app = || vec![serving("app", &["web"])];
    let mut stage = Stage::of(agent(vec![socket("web", 8000)], app()));
    let web = opens(&mut stage)[0];
    start_all(&mut stage);
    let add = |stage: &mut Stage, spec: SocketSpec| {
        let name = spec.name.to_string();
        let command = Command::AddSocket { name, changes: Changes::default(), patience: Patience::Admitted };
        let request = stage.asks_for(command);
        stage.tell(Event::SocketAmended { request, spec: Ok(Box::new(spec)) });
        request
    };
    add(&mut stage, socket("adm", 9000));
    opens(&mut stage);
    let twin = add(&mut stage, socket("twin", 8000));
    let Some(Action::Bind { staying, .. }) = stage.orders.last() else { panic!("no order: {:?}", stage.orders) };
    assert!(staying.contains(&web), "nothing may take its place");
    fails_to_open(&mut stage, "socket twin: EADDRINUSE");
    let refused = reply(&mut stage, twin);
    assert!(matches!(&refused, Some(Reply::Refused(Refusal::Failed(why))) if why.contains("twin")), "{refused:?}");
    let request = file_says(&mut stage, vec![socket("web", 8000)], app());
    assert!(matches!(reply(&mut stage, request), Some(Reply::Done(_))));
    assert_eq!(sockets_of(&mut stage).len(), 2);
}

// ---- so_reuseport ----

fn spread(port: u16) -> SocketSpec {
    SocketSpec { reuse_port: true, ..socket("web", port) }
}

fn many(numprocesses: u32) -> WatcherSpec {
    WatcherSpec { numprocesses, ..serving("app", &["web"]) }
}

#[test]
fn a_lane_goes_from_each_process_to_the_one_that_replaces_it() {
    let mut stage = open(vec![spread(1)], vec![many(2)]);
    let [first, second] = [0, 1].map(|at| lane(&start_all(&mut stage)[at]));
    assert_ne!(first, second);
    stage.story();
    // One that crashes.
    stage.ends("app#2", CRASHED);
    stage.wait(Duration::from_secs(1));
    let launches = start_all(&mut stage);
    assert_eq!(launches.iter().map(lane).collect::<Vec<_>>(), [second]);
    stage.story();
    // A rolling reload: the new one shares the lane of the old one that goes next.
    let reload = Command::Reload { watcher: Some("app".into()), way: ReloadWay::Rolling, patience: Patience::Admitted };
    stage.asks_for(reload);
    let launches = start_all(&mut stage);
    assert_eq!(launches.iter().map(lane).collect::<Vec<_>>(), [first]);
    stage.story();
    stage.wait(Duration::from_secs(1));
    assert!(stage.story().contains(&"signal app#1 15".to_owned()));
    stage.ends("app#1", DONE);
    stage.wait(Duration::from_secs(1));
    let launches = start_all(&mut stage);
    assert!(launches.iter().map(lane).all(|lane| lane == second), "{launches:?}");
}

#[test]
fn a_lane_closes_only_when_fewer_processes_are_wanted() {
    let mut stage = open(vec![spread(1)], vec![many(2)]);
    let oldest = lane(&start_all(&mut stage)[0]);
    stage.story();
    let resize = |by| Command::Resize { watcher: "app".into(), by, patience: Patience::Admitted };
    stage.asks_for(resize(-1));
    assert!(stage.orders.contains(&Action::CloseLanes { lanes: vec![LaneId(oldest)] }));
    let story = stage.story();
    assert!(story.contains(&"signal app#1 15".to_owned()) && story.contains(&"close 1 lanes".to_owned()), "{story:?}");
    stage.ends("app#1", DONE);
    let stop = Command::Stop { pattern: Some(Pattern::Name("app".into())), patience: Patience::Admitted };
    stage.asks_for(stop);
    stage.ends("app#2", DONE);
    assert!(!stage.story().contains(&"close 1 lanes".to_owned()), "what waits there is served after the next start");
    stage.asks_for(resize(-1));
    assert_eq!(stage.story(), ["close 1 lanes"]);
}

#[test]
fn only_sockets_that_are_spread_have_lanes() {
    let mut stage = open(vec![socket("adm", 2), spread(1)], vec![serving("app", &["adm", "web"])]);
    let launch = start_all(&mut stage).remove(0);
    let lanes: Vec<bool> = launch.sockets.iter().map(|handed| handed.lane.is_some()).collect();
    assert_eq!(lanes, [false, true]);
}

#[test]
fn a_removed_watchers_lanes_are_closed() {
    let mut stage = running(vec![spread(1)], vec![many(2)]);
    let remove = circus_agent::model::command::Leave::Nothing;
    stage.asks_for(Command::Remove { watcher: "app".into(), leave: remove, patience: Patience::Admitted });
    stage.ends("app#1", DONE);
    stage.ends("app#2", DONE);
    assert!(stage.story().contains(&"close 2 lanes".to_owned()));
}

// ---- on demand ----

fn on_demand() -> WatcherSpec {
    WatcherSpec { on_demand: Some(OnDemand { idle_timeout: Some(IDLE) }), ..serving("app", &["web"]) }
}

fn app() -> WatcherName {
    WatcherName::parse("app").unwrap()
}

fn demanded(stage: &mut Stage) {
    stage.tell(Event::Demanded { watcher: app() });
}

fn counted(stage: &mut Stage, busy: bool) {
    stage.tell(Event::Counted { watcher: app(), busy });
}

/// One that somebody has connected to, and that is up.
fn awake(spec: WatcherSpec) -> Stage {
    let mut stage = open(vec![socket("web", 1)], vec![spec]);
    demanded(&mut stage);
    start_all(&mut stage);
    stage.story();
    stage
}

/// Lets nobody want anything until the processes are frozen.
fn quiet(stage: &mut Stage) {
    counted(stage, true);
    for _ in 0..4 {
        stage.wait(IDLE / 4);
        counted(stage, false);
    }
}

#[test]
fn it_sleeps_until_somebody_connects_to_its_own_sockets() {
    let others = serving("other", &["web"]);
    let mut stage = open(vec![socket("adm", 2), socket("web", 1)], vec![on_demand(), others]);
    let Some(Action::AwaitDemand { sockets, .. }) =
        stage.orders.iter().find(|action| matches!(action, Action::AwaitDemand { .. })).cloned()
    else {
        panic!("not watched")
    };
    assert_eq!(sockets.len(), 1, "only its own");
    assert_eq!(stage.story(), ["await app", "spawn other#1"]);
    assert_eq!(
        (stage.state("app"), stage.note("app").as_str()),
        (WatcherState::Listening, "starts at the first connection")
    );
    demanded(&mut stage);
    assert_eq!(stage.story(), ["spawn app#1"]);
    demanded(&mut stage);
    assert!(stage.story().is_empty(), "once is enough");
}

#[test]
fn a_start_is_done_when_it_listens_and_what_comes_after_goes_on() {
    let later = WatcherSpec { after: vec![app()], ..watcher("later") };
    let mut stage = open(vec![socket("web", 1)], vec![on_demand(), later]);
    assert_eq!(stage.story(), ["await app", "spawn later#1"]);
    let start = Command::Start { pattern: Some(Pattern::Name("app".into())), patience: Patience::Settled };
    let request = stage.asks_for(start);
    assert!(matches!(reply(&mut stage, request), Some(Reply::Done(_))));
    let reload = Command::Reload { watcher: Some("app".into()), way: ReloadWay::Rolling, patience: Patience::Settled };
    let request = stage.asks_for(reload);
    assert!(matches!(reply(&mut stage, request), Some(Reply::Done(_))), "there is nothing to replace");
}

#[test]
fn a_stop_ends_the_watch_and_a_late_connection_starts_nothing() {
    let mut stage = open(vec![socket("web", 1)], vec![on_demand()]);
    stage.story();
    stage.asks_for(Command::Stop { pattern: None, patience: Patience::Admitted });
    assert_eq!(stage.story(), ["app stop", "ignore app"]);
    demanded(&mut stage);
    assert!(stage.story().is_empty());
    stage.asks_for(Command::Start { pattern: None, patience: Patience::Admitted });
    assert_eq!(stage.story(), ["await app"]);
}

/// Answers for the store: this node has the lease of `ip`, or another one.
fn lease(stage: &mut Stage, is_ours: bool) {
    while let Some(at) = stage.orders.iter().position(|order| matches!(order, Action::AskLease { .. })) {
        let Action::AskLease { lease, ask, .. } = stage.orders.remove(at) else { unreachable!() };
        let answer = match (&ask.kind, is_ours) {
            (AskKind::Release { .. } | AskKind::Withdraw, _) => LeaseAnswer::Released,
            (AskKind::Refresh { .. }, false) => LeaseAnswer::Lost { by: Some("b".into()) },
            (AskKind::Take { .. }, false) => {
                LeaseAnswer::Held { by: "b".into(), left: Duration::from_secs(1), ttl: Duration::from_secs(15) }
            }
            (AskKind::Take { .. } | AskKind::Refresh { .. }, true) => LeaseAnswer::Granted { token: 7 },
        };
        stage.tell(Event::Lease { watcher: lease.watcher, ask, answer });
    }
}

#[test]
fn what_follows_a_legion_wakes_for_nobody_where_another_node_leads() {
    let ip = singleton("ip");
    let follower = WatcherSpec { follows: Some(ip.name.clone()), ..on_demand() };
    let spec = AgentSpec { redis: specs::redis(), ..agent(vec![socket("web", 1)], vec![ip, follower]) };
    let mut stage = Stage::of(spec);
    opens(&mut stage);
    lease(&mut stage, false);
    stage.wait(Duration::from_secs(1));
    lease(&mut stage, false);
    demanded(&mut stage);
    assert!(stage.story().is_empty(), "it is another's to serve");
    assert_eq!(stage.state("app"), WatcherState::Standby);

    stage.wait(Duration::from_secs(1));
    lease(&mut stage, true);
    start_all(&mut stage);
    assert!(stage.story().contains(&"await app".to_owned()));
    demanded(&mut stage);
    let story = stage.story();
    assert!(story.contains(&"spawn app#1".to_owned()), "{story:?}");
    stage.spawned("app#1");

    // It is led elsewhere: it ends, and who comes now wakes nobody.
    stage.wait(Duration::from_secs(6));
    lease(&mut stage, false);
    let story = stage.story();
    assert!(story.iter().any(|line| line.starts_with("signal app#1") || line == "kill app#1"), "{story:?}");
    stage.ends("app#1", DONE);
    stage.ends("ip#1", DONE);
    stage.story();
    demanded(&mut stage);
    assert!(stage.story().is_empty());
    // And led here again it sleeps first.
    lease(&mut stage, true);
    stage.wait(Duration::from_secs(20));
    lease(&mut stage, true);
    start_all(&mut stage);
    let story = stage.story();
    assert!(story.contains(&"await app".to_owned()) && !story.contains(&"spawn app#1".to_owned()), "{story:?}");
}

#[test]
fn what_is_closed_is_not_watched_any_more() {
    // A file that takes both away.
    let mut stage = open(vec![socket("web", 1)], vec![on_demand()]);
    stage.story();
    file_says(&mut stage, Vec::new(), Vec::new());
    assert!(stage.story().contains(&"ignore app".to_owned()));
    // One that takes the socket from who is to go on.
    let mut stage = open(vec![socket("web", 1)], vec![on_demand()]);
    stage.story();
    file_says(&mut stage, Vec::new(), vec![on_demand()]);
    assert!(stage.story().contains(&"ignore app".to_owned()));
    assert_eq!(stage.note("app"), "there is no socket web");
    demanded(&mut stage);
    assert!(stage.story().is_empty());
    // A lane that is one too many: what comes to it would wait for ever.
    let mut stage = open(vec![spread(1)], vec![WatcherSpec { numprocesses: 2, ..on_demand() }]);
    stage.story();
    stage.asks_for(Command::Resize { watcher: "app".into(), by: -1, patience: Patience::Admitted });
    let story = stage.story();
    assert_eq!(story, ["close 1 lanes", "await app"]);
}

#[test]
fn who_is_removed_and_left_alone_is_neither_watched_nor_left_frozen() {
    let remove = || Command::Remove { watcher: "app".into(), leave: Leave::Processes, patience: Patience::Admitted };
    let mut stage = open(vec![socket("web", 1)], vec![on_demand()]);
    stage.story();
    stage.asks_for(remove());
    assert!(stage.story().contains(&"ignore app".to_owned()));
    let mut stage = awake(on_demand());
    quiet(&mut stage);
    assert_eq!(stage.story().last().map(String::as_str), Some("freeze app#1"));
    stage.asks_for(remove());
    assert!(stage.story().contains(&"signal app#1 18".to_owned()));
}

#[test]
fn when_nobody_wants_anything_it_is_frozen_looked_at_once_more_and_stopped() {
    let mut stage = awake(on_demand());
    stage.wait(Duration::from_secs(1));
    quiet(&mut stage);
    let story = stage.story();
    assert_eq!(story.last().map(String::as_str), Some("freeze app#1"), "{story:?}");
    assert!(story.iter().all(|line| *line == "count app" || *line == "freeze app#1"), "{story:?}");
    let id = ProcessId(stage.id("app#1"));
    stage.process(id, ProcessEvent::Frozen);
    assert_eq!(stage.story(), ["count app"]);
    counted(&mut stage, false);
    let pid = stage.pid("app#1");
    // It is let go on only after it was told to stop.
    assert_eq!(stage.story(), ["signal app#1 15".into(), format!("app kill {pid}"), "signal app#1 18".into()]);
    stage.ends("app#1", DONE);
    assert_eq!(stage.story(), [format!("app reap {pid}"), "app stop".into(), "await app".into()]);
    assert_eq!(stage.state("app"), WatcherState::Listening);
}

#[test]
fn who_connects_at_the_last_moment_keeps_it_up() {
    let mut stage = awake(on_demand());
    quiet(&mut stage);
    let id = ProcessId(stage.id("app#1"));
    stage.process(id, ProcessEvent::Frozen);
    stage.story();
    counted(&mut stage, true);
    assert_eq!(stage.story(), ["count app", "signal app#1 18"]);
    counted(&mut stage, true);
    stage.wait(IDLE - Duration::from_secs(1));
    assert!(!stage.story().contains(&"freeze app#1".to_owned()), "the time begins anew");
}

#[test]
fn traffic_keeps_it_up_and_it_is_looked_at_four_times_in_its_time() {
    let mut stage = awake(on_demand());
    for _ in 0..12 {
        counted(&mut stage, true);
        stage.wait(IDLE / 4);
    }
    assert_eq!(stage.story(), vec!["count app"; 12]);
    let patient = WatcherSpec { on_demand: Some(OnDemand { idle_timeout: None }), ..serving("app", &["web"]) };
    let mut stage = awake(patient);
    stage.wait(IDLE * 10);
    assert!(stage.story().is_empty(), "nobody asks");
}

#[test]
fn whatever_else_happens_lets_a_frozen_process_go_on() {
    type Happens = fn(&mut Stage);
    let happens: [(&str, Happens); 4] = [
        ("stop", |stage| {
            stage.asks_for(Command::Stop { pattern: None, patience: Patience::Admitted });
        }),
        ("restart", |stage| {
            stage.asks_for(Command::Restart { pattern: None, patience: Patience::Admitted });
        }),
        ("reload", |stage| {
            let way = ReloadWay::Rolling;
            stage.asks_for(Command::Reload { watcher: None, way, patience: Patience::Admitted });
        }),
        ("quit", |stage| stage.tell(Event::StopAsked { by: "SIGTERM".into() })),
    ];
    for (what, happen) in happens {
        let mut stage = awake(on_demand());
        quiet(&mut stage);
        stage.story();
        happen(&mut stage);
        let story = stage.story();
        assert!(story.contains(&"signal app#1 18".to_owned()), "{what}: {story:?}");
    }
}

#[test]
fn one_that_does_not_freeze_or_is_not_counted_in_time_goes_on() {
    let mut stage = awake(on_demand());
    quiet(&mut stage);
    stage.story();
    stage.wait(Duration::from_secs(5));
    assert_eq!(stage.story(), ["count app", "signal app#1 18"], "the time begins anew");
    stage.wait(Duration::from_secs(5));
    assert_eq!(stage.story(), ["count app"], "nobody answered");
}

#[test]
fn a_hook_before_the_stop_does_not_run_beside_a_frozen_process() {
    let program = HookProgram::Command(vec!["hook".into()]);
    let hooks = BTreeMap::from([(HookPoint::BeforeStop, HookSpec { program, ignore_failure: false })]);
    let mut stage = awake(WatcherSpec { hooks, ..on_demand() });
    quiet(&mut stage);
    let id = ProcessId(stage.id("app#1"));
    stage.process(id, ProcessEvent::Frozen);
    stage.story();
    counted(&mut stage, false);
    assert_eq!(stage.story(), ["signal app#1 18", "hook app before_stop"]);
}

#[test]
fn one_that_has_nothing_more_to_do_sleeps_and_one_that_crashes_is_started_again() {
    let mut stage = awake(on_demand());
    let pid = stage.pid("app#1");
    stage.ends("app#1", DONE);
    assert_eq!(stage.story(), [format!("app reap {pid}"), "app stop".into(), "await app".into()]);
    demanded(&mut stage);
    stage.wait(Duration::from_secs(5));
    start_all(&mut stage);
    stage.story();
    stage.ends("app#1", CRASHED);
    stage.wait(Duration::from_secs(5));
    assert!(stage.story().contains(&"spawn app#1".to_owned()));
}

#[test]
fn one_that_ends_at_once_whenever_it_is_woken_is_woken_ever_more_slowly() {
    let mut stage = awake(on_demand());
    let mut starts = 0;
    let end = stage.now + Duration::from_secs(30);
    stage.ends("app#1", DONE);
    while stage.now < end {
        demanded(&mut stage);
        let started = start_all(&mut stage).len();
        if started > 0 {
            starts += 1;
            stage.ends("app#1", DONE);
        }
        stage.story();
        stage.wait(Duration::from_millis(10));
    }
    assert!((1..60).contains(&starts), "{starts} starts in 30 s");
}

#[test]
fn one_with_a_listener_of_its_own_that_has_nothing_more_to_do_is_woken_again() {
    let mut stage = open(vec![spread(1)], vec![on_demand()]);
    demanded(&mut stage);
    let first = lane(&start_all(&mut stage)[0]);
    stage.story();
    stage.ends("app#1", DONE);
    let watched = stage.orders.iter().find_map(|action| match action {
        Action::AwaitDemand { sockets, .. } => Some(sockets.iter().map(|handed| handed.lane).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(watched, Some(vec![Some(LaneId(first))]));
}

#[test]
fn a_sleeper_watches_where_its_socket_is_now() {
    let mut stage = open(vec![socket("web", 1)], vec![on_demand()]);
    stage.story();
    file_says(&mut stage, vec![socket("web", 2)], vec![on_demand()]);
    opens(&mut stage);
    assert_eq!(stage.story(), ["unbind 1", "await app"]);
}

#[test]
fn a_watcher_becomes_one_on_demand_and_the_reverse() {
    let mut stage = open(vec![socket("web", 1)], vec![on_demand()]);
    stage.story();
    file_says(&mut stage, vec![socket("web", 1)], vec![serving("app", &["web"])]);
    assert_eq!(stage.story(), ["ignore app", "spawn app#1"]);
    start_all(&mut stage);
    stage.spawned("app#1");
    stage.story();
    file_says(&mut stage, vec![socket("web", 1)], vec![on_demand()]);
    assert_eq!(stage.story(), ["count app"], "it is up, and goes on until nobody wants it");
}

#[test]
fn all_ways_in_are_watched_where_each_process_has_its_own() {
    let mut stage = Stage::of(agent(vec![spread(1)], vec![WatcherSpec { numprocesses: 2, ..on_demand() }]));
    opens(&mut stage);
    let watched = stage.orders.iter().find_map(|action| match action {
        Action::AwaitDemand { sockets, .. } => Some(sockets.iter().filter(|handed| handed.lane.is_some()).count()),
        _ => None,
    });
    assert_eq!(watched, Some(2));
}
