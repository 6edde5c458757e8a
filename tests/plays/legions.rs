//! Legions: who leads, in which order it changes hands, and what follows the lord.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use circus_agent::model::command::{
    Answer, Command, NodeAbout, NodeRow, NodeState, Outcome, Patience, Refusal, Reply, RequestId,
};
use circus_agent::model::election::{Member, Membership, Muster};
use circus_agent::model::event::{
    Action, Ask, AskKind, Event, Exit, HookEnd, HookId, LeaseAnswer, Notification, ProcessEvent, ProcessId,
};
use circus_agent::model::explain::{Explanation, What as Condition};
use circus_agent::model::history::{Cause, Fact, What};
use circus_agent::model::names::{NodeName, WatcherName};
use circus_agent::model::pattern::Pattern;
use circus_agent::model::random::Random;
use circus_agent::model::snapshot::{LegionState, LegionView, Lordship, WatcherState};
use circus_agent::model::spec::{
    AgentSpec, Check, ElectionSpec, LeaseTimings, LegionAction, LegionEvent, LegionSpec, ReadySpec, WatcherSpec,
};

use crate::specs::{self, watcher};
use crate::stage::{Stage, TERM, name};

const KILL: i32 = 9;

const TTL: Duration = Duration::from_secs(15);

fn election(valor: u32, quorum: u32) -> ElectionSpec {
    let (preempt_delay, scroll) = (Duration::ZERO, "of a".to_owned());
    ElectionSpec { valor, quorum, expected: Some(3), preempt: true, preempt_delay, scroll }
}

/// The legion `ip`, which is ready when it says so, with an action for each of these events.
fn legion(valor: u32, quorum: u32, events: &[LegionEvent]) -> WatcherSpec {
    let action = |event: &LegionEvent| (*event, vec![LegionAction::Log(format!("{} happened", event.name()))]);
    WatcherSpec {
        singleton: Some(LeaseTimings::thirds(TTL)),
        election: Some(election(valor, quorum)),
        legion: Some(LegionSpec {
            actions: events.iter().map(action).collect(),
            action_timeout: Duration::from_secs(10),
            death_on_lord_error: Some(Duration::from_secs(60)),
        }),
        ready: Some(ReadySpec { check: Check::Notify, timeout: Duration::from_secs(10) }),
        max_retry: Some(5),
        ..watcher("ip")
    }
}

fn follower(text: &str) -> WatcherSpec {
    WatcherSpec { follows: Some(watcher("ip").name), ..watcher(text) }
}

/// Another member: its valor, and whether it stands.
type Other = (u32, bool);

/// The node `a` among others, and a store that answers at once. What is ordered is told as a line each; processes and
/// hooks do as the play says.
struct Scene {
    stage: Stage,
    /// Those that live elsewhere; nothing: the store does not answer.
    others: Option<BTreeMap<&'static str, Other>>,
    /// Who else has the lease.
    holder: Option<&'static str>,
    /// Which of the others says whom people have moved it to.
    appoints: Option<(&'static str, &'static str)>,
    /// Whether refreshes are confirmed, and the latest token.
    confirms: bool,
    token: u64,
    /// What this node last said of itself.
    said: Option<Membership>,
    names: BTreeMap<u64, String>,
    /// Those that were ordered and of which something is left.
    living: BTreeSet<ProcessId>,
    /// Those that were ordered under the lease.
    guarded: BTreeSet<ProcessId>,
    envs: BTreeMap<String, BTreeMap<String, String>>,
    hooks: VecDeque<(HookId, String)>,
    facts: Vec<Fact>,
    shown: Option<Box<Lordship>>,
    replies: BTreeMap<RequestId, Outcome>,
    /// To whom commands were passed on.
    relayed: Vec<NodeName>,
    lines: Vec<String>,
}

impl Scene {
    fn new(watchers: Vec<WatcherSpec>, others: &[(&'static str, Other)]) -> Scene {
        let spec = AgentSpec { redis: specs::redis(), ..specs::agent(&name("a"), watchers) };
        let mut scene = Scene {
            stage: Stage::of(spec),
            others: Some(others.iter().copied().collect()),
            holder: None,
            appoints: None,
            confirms: true,
            token: 0,
            said: None,
            names: BTreeMap::new(),
            living: BTreeSet::new(),
            guarded: BTreeSet::new(),
            envs: BTreeMap::new(),
            hooks: VecDeque::new(),
            facts: Vec::new(),
            shown: None,
            replies: BTreeMap::new(),
            relayed: Vec::new(),
            lines: Vec::new(),
        };
        scene.play();
        scene
    }

    /// Carries out what was ordered, and what follows from that.
    fn play(&mut self) {
        let mut turns = 0..1_000;
        while !self.stage.orders.is_empty() {
            assert!(turns.next().is_some(), "it goes on and on: {:?}", self.stage.orders);
            for action in std::mem::take(&mut self.stage.orders) {
                self.carry_out(action);
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        let line = match action {
            Action::Spawn { process, launch } => {
                let name = launch.watcher.to_string();
                assert!(launch.guard.is_some() || !launch.env.iter().any(|(key, _)| key == "CIRCUS_FENCING_TOKEN"));
                self.names.insert(process.0, name.clone());
                self.living.insert(process);
                self.guarded.extend(launch.guard.map(|_| process));
                self.envs.insert(name.clone(), launch.env.into_iter().collect());
                format!("spawn {name}")
            }
            Action::Signal { process, signal, .. } => format!("signal {} {signal}", self.names[&process.0]),
            Action::Kill { process } => format!("kill {}", self.names[&process.0]),
            Action::Guard { process, .. } => format!("feed {}", self.names[&process.0]),
            Action::Hook { hook, call, .. } => {
                let name = call.point.name().to_owned();
                self.envs.insert(name.clone(), call.env.into_iter().collect());
                self.hooks.push_back((hook, name.clone()));
                format!("hook {name}")
            }
            Action::CallOff { .. } => "call off".to_owned(),
            Action::Muster { lease, word } => return self.muster(lease.watcher, word.sent, word.membership),
            Action::AskLease { lease, ask, .. } => return self.ask(lease.watcher, ask),
            Action::Record { fact, .. } => return self.facts.push(fact),
            Action::ShowLordship { lordship, .. } => return self.shown = lordship,
            Action::Reply { request, outcome } => return drop(self.replies.insert(request, outcome)),
            Action::Relay { to, .. } => return self.relayed.push(to),
            Action::Leave { .. } => "leave".to_owned(),
            _ => return,
        };
        self.lines.push(line);
    }

    fn muster(&mut self, watcher: WatcherName, sent: circus_agent::model::time::Time, word: Option<Membership>) {
        if word.is_none() {
            self.lines.push("farewell".into());
        } else if word.as_ref().map(|word| word.stands) != self.said.as_ref().map(|said| said.stands) {
            let stands = word.as_ref().is_some_and(|word| word.stands);
            self.lines.push(if stands { "stands" } else { "does not stand" }.into());
        }
        self.said = word;
        let member = |(node, (valor, stands)): (&&str, &Other)| Member {
            node: name(node),
            membership: Membership {
                valor: *valor,
                stands: *stands,
                appoints: self.appoints.filter(|(by, _)| by == node).map(|(_, whom)| name(whom)),
                scroll: format!("of {node}"),
                ttl: TTL,
            },
            left: TTL,
        };
        let holder = self.holder.map(|node| format!("{node}:{:032x}", 7));
        let result = match &self.others {
            Some(others) => Ok(Muster { holder, members: others.iter().map(member).collect() }),
            None => Err("no route".to_owned()),
        };
        self.stage.tell(Event::Mustered { watcher, sent, result });
    }

    fn ask(&mut self, watcher: WatcherName, ask: Ask) {
        let answer = match (&ask.kind, self.holder) {
            (AskKind::Take { .. }, Some(node)) => {
                LeaseAnswer::Held { by: format!("{node}:{:032x}", 7), left: TTL, ttl: TTL }
            }
            (AskKind::Take { .. }, None) => {
                self.token += 1;
                self.lines.push("take".into());
                LeaseAnswer::Granted { token: self.token }
            }
            (AskKind::Refresh { .. }, _) if !self.confirms => return,
            (AskKind::Refresh { token, .. }, _) => LeaseAnswer::Granted { token: *token },
            (AskKind::Release { to }, _) => {
                // Of what the lease was behind nothing is left.
                assert!(!self.guarded.iter().any(|id| self.living.contains(id)), "{:?}", self.lines);
                let to = to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
                self.lines.push(format!("release{to}"));
                LeaseAnswer::Released
            }
            (AskKind::Withdraw, _) => LeaseAnswer::Released,
        };
        self.stage.tell(Event::Lease { watcher, ask, answer });
    }

    /// What was ordered since the last look, without what goes to guards.
    fn story(&mut self) -> Vec<String> {
        self.play();
        std::mem::take(&mut self.lines).into_iter().filter(|line| !line.starts_with("feed")).collect()
    }

    #[track_caller]
    fn sees(&mut self, lines: &[&str]) {
        assert_eq!(self.story(), lines);
    }

    /// Another member comes, changes or goes, and says so.
    fn changes(&mut self, node: &'static str, other: Option<Other>) {
        let others = self.others.get_or_insert_default();
        match other {
            Some(other) => drop(others.insert(node, other)),
            None => drop(others.remove(node)),
        }
        self.stage.tell(Event::MembersChanged { watcher: watcher("ip").name });
        self.play();
    }

    /// Lets time pass.
    fn wait(&mut self, seconds: f64) {
        let end = self.stage.now + Duration::from_secs_f64(seconds);
        while let Some(due) = self.stage.node.next_wakeup().filter(|due| *due <= end) {
            self.stage.now = due;
            self.stage.tell(Event::Woke);
            self.play();
        }
        self.stage.now = end;
        self.stage.tell(Event::Woke);
        self.play();
    }

    fn id(&self, name: &str) -> ProcessId {
        let found = self.names.iter().rev().find(|(_, other)| *other == name);
        ProcessId(*found.unwrap_or_else(|| panic!("no {name} in {:?}", self.names)).0)
    }

    /// The latest process of this name runs; the lord process is not ready by that.
    fn runs(&mut self, name: &str) {
        let id = self.id(name);
        self.stage.process(id, ProcessEvent::Spawned { pid: 1_000 + id.0 as u32 });
        self.play();
    }

    fn is_ready(&mut self, name: &str) {
        let id = self.id(name);
        self.stage.process(id, ProcessEvent::Notified(Notification::Ready));
        self.play();
    }

    /// It runs and is ready.
    fn is_up(&mut self, name: &str) {
        self.runs(name);
        self.is_ready(name);
    }

    fn ends(&mut self, name: &str, exit: Exit) {
        let id = self.id(name);
        self.living.remove(&id);
        self.stage.end(id, exit);
        self.play();
    }

    /// What the oldest event asked for is done.
    fn is_done(&mut self, name: &str) {
        let (hook, called) = self.hooks.pop_front().expect("a hook");
        assert_eq!(called, name);
        self.stage.tell(Event::HookEnded { hook, end: HookEnd::Returned { truth: true, output: String::new() } });
        self.play();
    }

    fn asks(&mut self, command: Command) -> RequestId {
        let request = self.stage.asks_for(command);
        self.play();
        request
    }

    fn stops(&mut self, name: &str) -> RequestId {
        let pattern = Some(Pattern::Glob(name.into()));
        self.asks(Command::Stop { pattern, patience: Patience::Settled })
    }

    fn starts(&mut self, name: &str) -> RequestId {
        let pattern = Some(Pattern::Glob(name.into()));
        self.asks(Command::Start { pattern, patience: Patience::Settled })
    }

    fn amends(&mut self, watchers: Vec<WatcherSpec>) {
        let spec = AgentSpec { redis: specs::redis(), ..specs::agent(&name("a"), watchers) };
        self.stage.tell(Event::SpecRead { request: None, spec: Ok(Box::new(spec)) });
        self.play();
    }

    fn state(&self, name: &str) -> WatcherState {
        self.stage.state(name)
    }

    fn view(&self) -> LegionView {
        let watchers = self.stage.node.snapshot().watchers;
        *watchers.into_iter().find_map(|watcher| watcher.legion).expect("a legion")
    }

    fn leads(&self) -> bool {
        self.shown.as_ref().is_some_and(|shown| shown.mine.is_some())
    }

    fn ending(&self) -> Cause {
        let ending = self.facts.iter().rev().find_map(|fact| match &fact.what {
            What::Ended(ending) | What::Idle(ending) => Some(ending.cause),
            What::Started { .. } | What::Renamed { .. } | What::Run { .. } => None,
        });
        ending.expect("an ending")
    }

    #[track_caller]
    fn refused(&self, request: RequestId) -> &Refusal {
        match self.replies.get(&request) {
            Some(Outcome::Own(Reply::Refused(refusal))) => refusal,
            other => panic!("{other:?}"),
        }
    }
}

/// A legion that is led here, with `beat` behind it.
fn led(others: &[(&'static str, Other)]) -> Scene {
    let mut scene = Scene::new(vec![legion(5, 1, &[]), follower("beat")], others);
    scene.is_up("ip");
    scene.is_up("beat");
    scene.story();
    scene
}

#[test]
fn the_first_of_the_members_takes_the_lease_and_the_others_leave_it_alone() {
    let mut first = Scene::new(vec![legion(5, 2, &[])], &[("b", (5, true)), ("c", (4, true))]);
    first.sees(&["stands", "take", "spawn ip"]);
    let mut second = Scene::new(vec![legion(5, 2, &[])], &[("b", (6, true))]);
    second.sees(&["stands"]);
    assert_eq!(second.state("ip"), WatcherState::Standby);
    assert_eq!(second.stage.note("ip"), "b comes before it");
    second.wait(100.0);
    second.sees(&[]);
    second.changes("b", None);
    second.sees(&[]);
    assert_eq!(second.view().why, "no quorum: 1 of 2 members that have to live");
}

#[test]
fn an_arbiter_never_leads() {
    let mut scene = Scene::new(vec![legion(0, 1, &[])], &[]);
    scene.sees(&["does not stand"]);
    scene.wait(60.0);
    scene.sees(&[]);
    assert_eq!(scene.stage.note("ip"), "an arbiter (valor 0), which never leads");
}

#[test]
fn a_quorum_is_needed_to_take_the_lease_and_to_keep_it() {
    let mut scene = Scene::new(vec![legion(5, 2, &[]), follower("beat")], &[]);
    scene.sees(&["stands"]);
    scene.changes("b", Some((0, false)));
    scene.sees(&["take", "spawn ip"]);
    scene.is_up("ip");
    scene.is_up("beat");
    scene.sees(&["spawn beat"]);
    scene.changes("b", None);
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["signal ip 15"]);
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["release"]);
    assert_eq!(scene.ending(), Cause::NoQuorum);
    scene.wait(60.0);
    scene.sees(&[]);
    scene.changes("b", Some((1, true)));
    scene.sees(&["take", "spawn ip"]);
}

#[test]
fn a_better_member_gets_it_when_all_that_follows_is_gone_and_the_lord_process_too() {
    let mut scene = led(&[("b", (4, true))]);
    scene.changes("b", Some((9, true)));
    scene.sees(&["signal beat 15"]);
    assert!(!scene.leads(), "it is about to go");
    scene.wait(2.0);
    scene.sees(&[]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["signal ip 15"]);
    scene.wait(2.0);
    scene.sees(&[]);
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["release to b"]);
    assert_eq!(scene.ending(), Cause::Preempted);
    scene.holder = Some("b");
    scene.wait(30.0);
    scene.sees(&[]);
    assert_eq!((scene.state("ip"), scene.state("beat")), (WatcherState::Standby, WatcherState::Standby));
    assert_eq!(scene.stage.note("beat"), "b leads ip");
    assert_eq!(scene.view().lord.map(|lord| lord.node), Some("b".into()));
}

#[test]
fn a_better_member_that_goes_meanwhile_is_not_waited_for() {
    let mut scene = led(&[]);
    scene.changes("b", Some((9, true)));
    scene.changes("b", None);
    scene.ends("beat", Exit::Signal(TERM));
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["signal beat 15", "signal ip 15", "release", "take", "spawn ip"]);
}

#[test]
fn a_better_member_waits_for_the_delay_and_for_ever_without_preemption() {
    let mut late = legion(5, 1, &[]);
    late.election.as_mut().unwrap().preempt_delay = Duration::from_secs(10);
    let mut scene = Scene::new(vec![late], &[]);
    scene.is_up("ip");
    scene.changes("b", Some((9, true)));
    scene.wait(9.9);
    scene.sees(&["stands", "take", "spawn ip"]);
    scene.wait(0.2);
    scene.sees(&["signal ip 15"]);

    let mut never = legion(5, 1, &[]);
    never.election.as_mut().unwrap().preempt = false;
    let mut scene = Scene::new(vec![never], &[]);
    scene.is_up("ip");
    scene.changes("b", Some((9, true)));
    scene.wait(1_000.0);
    scene.sees(&["stands", "take", "spawn ip"]);
    assert!(scene.leads());
}

#[test]
fn a_failed_on_lord_stands_back_for_as_long_as_was_said() {
    let mut scene = Scene::new(vec![legion(5, 1, &[])], &[("b", (4, true))]);
    scene.runs("ip");
    scene.story();
    scene.ends("ip", Exit::Code(1));
    scene.sees(&["does not stand", "release"]);
    assert_eq!(scene.ending(), Cause::GaveUp);
    scene.wait(59.0);
    scene.sees(&[]);
    scene.wait(2.0);
    scene.sees(&["stands", "take", "spawn ip"]);
}

#[test]
fn a_store_that_does_not_answer_musters_moves_nothing() {
    let mut scene = led(&[("b", (4, true))]);
    scene.others = None;
    scene.wait(120.0);
    scene.sees(&[]);
    assert!(scene.leads());
    assert_eq!(scene.view().live, 1);

    let mut waiting = Scene::new(vec![legion(5, 1, &[])], &[("b", (9, true))]);
    waiting.others = None;
    waiting.wait(120.0);
    waiting.sees(&["stands"]);
    assert!(waiting.stage.note("ip").contains("no route"), "{}", waiting.stage.note("ip"));
}

#[test]
fn a_lord_that_died_is_waited_for_until_it_lapses_and_not_longer() {
    let mut scene = Scene::new(vec![legion(5, 1, &[])], &[("b", (9, true))]);
    scene.holder = Some("b");
    scene.sees(&["stands"]);
    // It dies right after this word; the store counts it for a ttl.
    let others = scene.others.take();
    scene.wait(TTL.as_secs_f64() - 0.1);
    scene.others = others.map(|_| BTreeMap::new());
    scene.holder = None;
    scene.wait(1.2);
    scene.sees(&["take", "spawn ip"]);
}

#[test]
fn a_stopped_member_counts_and_does_not_stand() {
    let mut scene = led(&[("b", (4, true))]);
    scene.stops("ip");
    scene.sees(&["does not stand", "signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["signal ip 15", "release"]);
    scene.wait(60.0);
    scene.sees(&[]);
    let said = scene.said.clone().expect("still a member");
    assert!(!said.stands && said.valor == 5);
    assert_eq!(scene.stage.note("beat"), "ip is stopped here");
    scene.starts("ip");
    scene.sees(&["stands", "take", "spawn ip"]);
}

#[test]
fn a_drained_node_stays_a_member() {
    let mut scene = led(&[("b", (4, true))]);
    scene.asks(Command::Drain { patience: Patience::Settled });
    scene.sees(&["does not stand", "signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["signal ip 15"]);
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["release"]);
    scene.wait(60.0);
    assert_eq!(scene.said.as_ref().map(|said| said.stands), Some(false));
    scene.asks(Command::Undrain { patience: Patience::Admitted });
    scene.sees(&["stands", "take", "spawn ip"]);
}

#[test]
fn an_agent_that_ends_does_on_death_and_leaves_after_its_release() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Death])], &[("b", (4, true))]);
    scene.is_up("ip");
    scene.story();
    scene.stage.tell(Event::StopAsked { by: "test".into() });
    scene.sees(&["does not stand", "signal ip 15"]);
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["release", "hook death"]);
    scene.wait(5.0);
    scene.sees(&[]);
    scene.is_done("death");
    scene.sees(&["farewell", "leave"]);
    assert_eq!(scene.said, None);
}

#[test]
fn an_agent_in_haste_waits_for_no_action() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Death])], &[("b", (4, true))]);
    scene.stage.tell(Event::StopAsked { by: "test".into() });
    scene.ends("ip", Exit::Code(0));
    scene.story();
    scene.stage.tell(Event::StopAsked { by: "test".into() });
    scene.sees(&["call off", "farewell", "leave"]);
}

#[test]
fn an_agent_without_its_store_leaves_all_the_same() {
    let mut scene = Scene::new(vec![legion(0, 1, &[])], &[]);
    scene.others = None;
    scene.stage.tell(Event::StopAsked { by: "test".into() });
    scene.wait(3.0);
    let story = scene.story();
    assert_eq!(story.last().map(String::as_str), Some("leave"), "{story:?}");
}

#[test]
fn on_setup_is_done_before_this_node_is_a_member() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Setup, LegionEvent::Join])], &[]);
    scene.sees(&["hook setup"]);
    scene.wait(5.0);
    scene.sees(&[]);
    assert_eq!(scene.said, None);
    scene.is_done("setup");
    scene.sees(&["stands", "take", "hook join", "spawn ip"]);
}

#[test]
fn events_are_done_one_after_the_other_and_say_what_happened() {
    let events = [LegionEvent::NodeJoined, LegionEvent::NodeLeft, LegionEvent::LordChanged, LegionEvent::Join];
    let mut scene = Scene::new(vec![legion(5, 2, &events)], &[]);
    scene.sees(&["stands"]);
    scene.holder = Some("b");
    scene.changes("b", Some((9, true)));
    scene.sees(&["hook node_joined"]);
    let env = &scene.envs["node_joined"];
    let told = |key: &str| env[key].as_str();
    assert_eq!((told("LEGION"), told("LEGION_EVENT"), told("LEGION_NODE")), ("ip", "node_joined", "b"));
    assert_eq!((told("LEGION_MEMBERS"), told("LEGION_REASON")), ("a,b", "b joined"));
    scene.is_done("node_joined");
    scene.sees(&["hook join"]);
    scene.is_done("join");
    scene.sees(&["hook lord_changed"]);
    let env = &scene.envs["lord_changed"];
    assert_eq!((env["LEGION_LORD"].as_str(), env["LEGION_SCROLL"].as_str()), ("b", "of b"));
    scene.is_done("lord_changed");
    scene.holder = None;
    scene.changes("b", None);
    scene.sees(&["hook node_left"]);
    scene.is_done("node_left");
    scene.is_done("lord_changed");
    assert_eq!(scene.envs["lord_changed"]["LEGION_REASON"], "nobody leads");
    // Once in a life.
    scene.changes("b", Some((9, true)));
    scene.is_done("node_joined");
    assert_eq!(scene.hooks.len(), 0);
    let changes: Vec<String> = scene.view().changes.into_iter().map(|change| change.text).collect();
    assert_eq!(changes[..3], ["a quorum: 2 live, 2 have to", "b joined", "nobody leads"]);
}

#[test]
fn followers_start_when_the_lord_process_is_ready_under_its_token() {
    let mut scene = Scene::new(vec![legion(5, 1, &[]), follower("beat")], &[("b", (4, true))]);
    scene.sees(&["stands", "take", "spawn ip"]);
    scene.runs("ip");
    scene.sees(&[]);
    assert_eq!(scene.state("beat"), WatcherState::Starting);
    scene.is_ready("ip");
    scene.sees(&["spawn beat"]);
    let env = &scene.envs["beat"];
    assert_eq!(
        (env["CIRCUS_FENCING_TOKEN"].as_str(), env["CIRCUS_LEASE_KEY"].as_str()),
        ("1", "circus:{test/ip}:lease")
    );
    assert_eq!(
        (env["LEGION"].as_str(), env["LEGION_LORD"].as_str(), env["LEGION_MEMBERS"].as_str()),
        ("ip", "a", "a,b")
    );
    assert_eq!(scene.envs["ip"]["LEGION_TOKEN"], "1");
    scene.is_up("beat");
    assert_eq!(scene.state("beat"), WatcherState::Active);
    // Their guards are fed with every refresh, too.
    scene.lines.clear();
    scene.wait(6.0);
    assert!(scene.lines.contains(&"feed beat".into()) && scene.lines.contains(&"feed ip".into()), "{:?}", scene.lines);
}

#[test]
fn a_lease_that_is_lost_ends_followers_and_lord_at_once_and_is_given_up_when_both_are_gone() {
    let mut scene = led(&[("b", (4, true))]);
    let (_, deadline) = scene.shown.as_ref().unwrap().mine.unwrap();
    scene.confirms = false;
    let left = scene.stage.now.until(deadline.stop).as_secs_f64();
    scene.wait(left - 0.01);
    scene.sees(&[]);
    scene.wait(0.02);
    let mut story = scene.story();
    story.sort();
    assert_eq!(story, ["signal beat 15", "signal ip 15"], "nobody waits for the other");
    scene.ends("ip", Exit::Code(0));
    scene.sees(&[]);
    let left = scene.stage.now.until(deadline.kill).as_secs_f64();
    scene.wait(left + 0.01);
    scene.sees(&["kill beat"]);
    scene.ends("beat", Exit::Signal(9));
    let story = scene.story();
    assert_eq!(story.first().map(String::as_str), Some("release"), "{story:?}");
    assert_eq!(scene.ending(), Cause::Expired);
}

#[test]
fn a_follower_may_have_several_processes_and_be_stopped_alone() {
    let mut scene = led(&[("b", (4, true))]);
    scene.asks(Command::Resize { watcher: "beat".into(), by: 1, patience: Patience::Admitted });
    scene.sees(&["spawn beat"]);
    scene.is_up("beat");
    scene.stops("beat");
    scene.sees(&["signal beat 15", "signal beat 15"]);
    assert!(scene.leads());
    for id in scene.names.clone().into_iter().filter(|(_, name)| name == "beat").map(|(id, _)| id) {
        scene.living.remove(&ProcessId(id));
        scene.stage.end(ProcessId(id), Exit::Signal(TERM));
    }
    scene.sees(&[]);
    scene.starts("beat");
    scene.sees(&["spawn beat", "spawn beat"]);
}

#[test]
fn what_is_asked_of_a_follower_that_is_its_legions_is_refused_with_its_name() {
    let mut scene = led(&[]);
    let drill = circus_agent::model::drill::Kind::ALL[0];
    for command in [
        Command::Failover { watcher: "beat".into(), to: None, patience: Patience::Settled },
        Command::LeaseInit { watcher: "beat".into() },
        Command::History { watcher: Some("beat".into()), count: 1 },
        Command::Drill { watcher: "beat".into(), kind: drill, lasting: None },
    ] {
        let request = scene.asks(command);
        assert_eq!(scene.refused(request).to_string(), "beat runs where the legion ip is led: ask for ip");
    }
    let leave = circus_agent::model::command::Leave::Processes;
    let request = scene.asks(Command::Remove { watcher: "beat".into(), leave, patience: Patience::Settled });
    assert!(scene.refused(request).to_string().contains("follows the legion ip"));
    scene.sees(&[]);
}

#[test]
fn a_legion_that_is_removed_goes_after_its_followers_which_stand_by() {
    let mut scene = led(&[("b", (4, true))]);
    scene.amends(vec![follower("beat")]);
    scene.sees(&["does not stand", "signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["signal ip 15", "release", "farewell"]);
    assert_eq!(
        (scene.state("beat"), scene.stage.note("beat").as_str()),
        (WatcherState::Standby, "there is no legion ip")
    );
    assert!(!scene.leads());
    scene.amends(vec![legion(5, 1, &[]), follower("beat")]);
    scene.sees(&["stands", "take", "spawn ip"]);
    scene.is_up("ip");
    scene.sees(&["spawn beat"]);
}

#[test]
fn a_legion_that_comes_back_before_it_has_gone_is_a_member_again() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Death])], &[]);
    scene.is_up("ip");
    scene.amends(vec![]);
    scene.ends("ip", Exit::Code(0));
    scene.story();
    scene.amends(vec![legion(5, 1, &[LegionEvent::Death])]);
    scene.wait(0.1);
    scene.sees(&["stands", "take", "spawn ip"]);
}

#[test]
fn a_watcher_that_comes_to_follow_goes_down_first_and_one_that_ceases_to_is_free() {
    let mut scene = Scene::new(vec![legion(5, 1, &[]), watcher("beat")], &[]);
    scene.is_up("ip");
    scene.is_up("beat");
    scene.story();
    scene.amends(vec![legion(5, 1, &[]), follower("beat")]);
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["spawn beat"]);
    assert!(scene.envs["beat"].contains_key("CIRCUS_FENCING_TOKEN"));
    scene.is_up("beat");
    scene.amends(vec![legion(5, 1, &[]), watcher("beat")]);
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["spawn beat"]);
    assert!(!scene.envs["beat"].contains_key("CIRCUS_FENCING_TOKEN"));
    scene.is_up("beat");
    scene.stops("ip");
    scene.sees(&["does not stand", "signal ip 15"]);
}

#[test]
fn a_changed_valor_is_told_at_once_and_moves_nothing_by_itself() {
    let mut scene = led(&[("b", (4, true))]);
    scene.amends(vec![legion(6, 1, &[]), follower("beat")]);
    scene.sees(&[]);
    assert_eq!(scene.said.as_ref().map(|said| said.valor), Some(6));
    scene.amends(vec![legion(3, 1, &[]), follower("beat")]);
    scene.sees(&["signal beat 15"]);
}

#[test]
fn changed_actions_restart_the_lord_process_after_its_followers_and_under_the_same_lease() {
    let mut scene = led(&[]);
    let mut other = legion(5, 1, &[]);
    other.program.words.push("--other".into());
    scene.amends(vec![other, follower("beat")]);
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["signal ip 15"]);
    scene.ends("ip", Exit::Code(0));
    scene.sees(&["spawn ip"]);
    scene.is_up("ip");
    scene.sees(&["spawn beat"]);
}

#[test]
fn a_lease_without_a_legion_is_contended_for_as_before_when_its_election_goes() {
    let plain = WatcherSpec { singleton: Some(LeaseTimings::thirds(TTL)), ..watcher("ip") };
    let elected = WatcherSpec { election: Some(election(1, 1)), ..plain.clone() };
    let mut scene = Scene::new(vec![elected.clone()], &[("b", (9, true))]);
    scene.sees(&["stands"]);
    scene.amends(vec![plain]);
    scene.sees(&["farewell", "take", "spawn ip"]);
    scene.is_up("ip");
    scene.amends(vec![elected]);
    scene.sees(&["stands", "signal ip 15"]);
}

#[test]
fn what_a_killed_lord_process_has_left_is_undone_after_its_followers_and_before_the_next() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Unlord]), follower("beat")], &[]);
    scene.is_up("ip");
    scene.is_up("beat");
    scene.story();
    scene.ends("ip", Exit::Signal(KILL));
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["hook unlord"]);
    assert_eq!(scene.envs["unlord"]["LEGION_REASON"], "the lord process was killed");
    scene.wait(1.0);
    scene.sees(&[]);
    scene.is_done("unlord");
    scene.wait(1.0);
    scene.sees(&["spawn ip"]);
    scene.is_up("ip");
    scene.sees(&["spawn beat"]);
}

#[test]
fn one_that_undid_what_it_did_is_followed_by_another_when_its_followers_are_gone() {
    for exit in [Exit::Code(0), Exit::Lost] {
        let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Unlord]), follower("beat")], &[]);
        scene.is_up("ip");
        scene.is_up("beat");
        scene.story();
        scene.ends("ip", exit);
        scene.sees(&["signal beat 15"]);
        scene.ends("beat", Exit::Signal(TERM));
        scene.wait(1.0);
        scene.sees(&["spawn ip"]);
    }
}

#[test]
fn a_lease_goes_only_when_what_a_killed_lord_process_has_left_is_undone() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Unlord])], &[("b", (4, true))]);
    scene.is_up("ip");
    scene.stops("ip");
    assert_eq!(scene.story().last().unwrap(), "signal ip 15");
    // Stopped by somebody, say, and killed when it has had its time.
    scene.ends("ip", Exit::Signal(KILL));
    scene.sees(&["hook unlord"]);
    scene.is_done("unlord");
    scene.sees(&["release"]);
}

#[test]
fn when_the_lease_ends_nothing_is_undone_any_more() {
    let mut scene = Scene::new(vec![legion(5, 1, &[LegionEvent::Unlord])], &[("b", (4, true))]);
    scene.is_up("ip");
    scene.confirms = false;
    scene.wait(9.0);
    scene.story();
    scene.wait(1.5);
    assert_eq!(scene.story(), ["signal ip 15"]);
    scene.ends("ip", Exit::Signal(KILL));
    scene.sees(&["hook unlord"]);
    scene.wait(10.0);
    assert_eq!(scene.story()[..2], ["call off", "release"]);
}

#[test]
fn a_lord_process_that_others_end_is_no_failed_on_lord() {
    let mut scene = Scene::new(vec![legion(5, 1, &[])], &[("b", (4, true))]);
    for _ in 0..4 {
        scene.is_up("ip");
        scene.ends("ip", Exit::Signal(KILL));
        scene.wait(10.0);
        assert_eq!(scene.story().last().unwrap(), "spawn ip");
    }
    // One that failed is, at once.
    scene.is_up("ip");
    scene.ends("ip", Exit::Code(1));
    assert_eq!(scene.story(), ["does not stand", "release"]);
}

/// Asks for a move of `ip` at a registry that knows these.
fn moves(scene: &mut Scene, to: Option<&str>, known: &[(&str, NodeState)]) -> RequestId {
    let failover = Command::Failover { watcher: "ip".into(), to: to.map(name), patience: Patience::Settled };
    let request = scene.asks(failover);
    let row = |(node, state): &(&str, NodeState)| NodeRow {
        name: name(node),
        state: *state,
        seen: Duration::ZERO,
        about: NodeAbout::default(),
    };
    scene.stage.tell(Event::RosterRead { request, rows: Ok(known.iter().map(row).collect()) });
    scene.play();
    request
}

#[test]
fn a_failover_goes_to_whom_it_names_and_otherwise_to_the_next_by_valor() {
    for (to, heir) in [(None, "c"), (Some("b"), "b")] {
        let mut scene = Scene::new(vec![legion(9, 1, &[])], &[("b", (4, true)), ("c", (5, true))]);
        scene.is_up("ip");
        scene.story();
        let request = moves(&mut scene, to, &[("b", NodeState::Up), ("c", NodeState::Up)]);
        scene.sees(&["does not stand", "signal ip 15"]);
        assert_eq!(scene.said.clone().unwrap().appoints, Some(name(heir)), "all are told to whom");
        scene.ends("ip", Exit::Code(0));
        scene.sees(&[&format!("release to {heir}")]);
        assert_eq!(scene.ending(), Cause::Moved);
        let moved = Answer::Moved { from: name("a"), to: Some(name(heir)), token: 1, stays: true };
        assert_eq!(scene.replies.remove(&request), Some(Outcome::Own(Reply::Done(moved))));
        // Of all that would lead it has the highest valor, and leaves it there until that one ceases to lead.
        (scene.holder, scene.appoints) = (Some(heir), Some((heir, heir)));
        let valor = if heir == "b" { 4 } else { 5 };
        scene.changes(heir, Some((valor, true)));
        scene.wait(3.0);
        scene.sees(&["stands"]);
        assert_eq!(scene.said.clone().unwrap().appoints, None);
        let text = format!("it was moved to {heir}, and stays until that one ceases to lead");
        assert_eq!((scene.view().why, scene.view().state), (text, LegionState::Standby));
        (scene.holder, scene.appoints) = (None, None);
        scene.changes(heir, None);
        scene.sees(&["take", "spawn ip"]);
    }
}

#[test]
fn who_was_appointed_takes_the_lease_and_keeps_it_as_long_as_it_can() {
    let mut scene = Scene::new(vec![legion(5, 1, &[])], &[("b", (9, true)), ("c", (7, true))]);
    scene.holder = Some("b");
    scene.appoints = Some(("b", "a"));
    scene.changes("b", Some((9, false)));
    scene.story();
    scene.holder = None;
    scene.stage.tell(Event::LeaseFreed { watcher: watcher("ip").name });
    scene.sees(&["take", "spawn ip"]);
    scene.is_up("ip");
    assert_eq!(scene.said.clone().unwrap().appoints, Some(name("a")));
    assert_eq!(scene.view().why, "it was moved here, and stays until this node ceases to lead");
    // The one that it came from stands again, and says nothing more of it.
    scene.appoints = None;
    scene.changes("b", Some((9, true)));
    scene.wait(60.0);
    scene.sees(&[]);
    // Its end is the end of that.
    scene.stops("ip");
    scene.ends("ip", Exit::Code(0));
    assert_eq!(scene.said.clone().unwrap().appoints, None);
    scene.starts("ip");
    assert_eq!(scene.story(), ["does not stand", "signal ip 15", "release", "stands"]);
    assert_eq!(scene.view().why, "b comes before it");
}

#[test]
fn an_appointed_lord_is_called_otherwise_and_stays() {
    let mut scene = Scene::new(vec![legion(5, 1, &[])], &[("b", (9, false))]);
    scene.is_up("ip");
    scene.appoints = Some(("b", "a"));
    scene.changes("b", Some((9, false)));
    let request = scene.asks(Command::Rename { to: name("z") });
    scene.stage.tell(Event::Renamed { request, to: name("z"), file: Ok("node".into()) });
    scene.play();
    scene.appoints = None;
    scene.changes("b", Some((9, true)));
    assert_eq!(scene.said.clone().unwrap().appoints, Some(name("z")));
    assert!(!scene.story().contains(&"signal ip 15".to_owned()));
}

#[test]
fn a_failover_to_a_node_that_cannot_lead_touches_nothing_and_says_why() {
    let others = [("arbiter", (0, false)), ("aside", (4, false)), ("web-2", (5, true)), ("web-3", (4, true))];
    let known: Vec<(&str, NodeState)> =
        ["arbiter", "aside", "web-2", "web-3", "stranger"].map(|node| (node, NodeState::Up)).into();
    let mut scene = Scene::new(vec![legion(9, 1, &[])], &others);
    scene.is_up("ip");
    scene.story();
    for (to, state, why) in [
        ("web-33", None, "no such node is registered, did you mean web-3?; candidates: web-2, web-3"),
        ("mars", None, "no such node is registered; candidates: web-2, web-3"),
        ("stranger", None, "it is no member of ip; candidates: web-2, web-3"),
        ("arbiter", None, "it is an arbiter (valor 0); candidates: web-2, web-3"),
        ("aside", None, "it stands back; candidates: web-2, web-3"),
        // As its agent says before the members hear of it.
        ("web-3", Some(NodeState::Draining), "it is draining (last seen 0 s ago); candidates: web-2"),
    ] {
        let mut known = known.clone();
        if let (Some(state), Some(row)) = (state, known.iter_mut().find(|(node, _)| *node == to)) {
            row.1 = state;
        }
        let request = moves(&mut scene, Some(to), &known);
        assert_eq!(scene.refused(request).to_string(), format!("{to} cannot take ip: {why}"));
        scene.sees(&[]);
    }
    for node in ["web-2", "web-3"] {
        scene.changes(node, Some((5, false)));
    }
    let request = moves(&mut scene, Some("web-2"), &known);
    assert_eq!(scene.refused(request).to_string(), "web-2 cannot take ip: it stands back; nobody else would lead");
    let request = moves(&mut scene, None, &known);
    assert_eq!(scene.refused(request).to_string(), "ip stays: no other member would lead");
    scene.sees(&[]);
}

#[test]
fn programs_are_told_whether_this_node_leads_until_when_and_why_not() {
    let mut scene = led(&[("b", (4, true))]);
    let shown = scene.shown.clone().unwrap();
    let (token, deadline) = shown.mine.expect("it leads");
    assert_eq!((token, shown.lord.as_deref(), shown.quorum, shown.scroll.as_str()), (1, Some("a"), 1, "of a"));
    assert_eq!(shown.members, [name("a"), name("b")]);
    scene.wait(6.0);
    let (_, later) = scene.shown.as_ref().unwrap().mine.unwrap();
    assert!(later.kill > deadline.kill, "each refresh puts it off");
    scene.changes("b", Some((9, true)));
    let shown = scene.shown.clone().unwrap();
    assert_eq!((shown.mine, shown.reason.as_str()), (None, "b comes before it"));
    assert_eq!(shown.lord.as_deref(), Some("a"), "it has not gone yet");
}

fn explain(scene: &mut Scene, watcher: &str) -> Explanation {
    let request = scene.asks(Command::Explain { watcher: watcher.into() });
    match scene.replies.remove(&request) {
        Some(Outcome::Own(Reply::Done(Answer::Explained { explanation, .. }))) => *explanation,
        other => panic!("{other:?}"),
    }
}

/// The only thing that stands against it, and whether that is right.
#[track_caller]
fn cross(scene: &mut Scene, watcher: &str) -> (String, bool) {
    let explanation = explain(scene, watcher);
    let crosses: Vec<_> = explanation.conditions.iter().filter(|condition| !condition.met).collect();
    let [cross] = crosses[..] else { panic!("{crosses:?}") };
    assert_eq!(cross.what, Condition::Legion);
    (cross.text.clone(), explanation.right)
}

#[test]
fn each_side_says_why_it_leads_or_does_not() {
    let mut scene = led(&[("b", (4, true))]);
    scene.stage.tell(Event::StoreUp);
    scene.play();
    for name in ["ip", "beat"] {
        let told = explain(&mut scene, name);
        assert!(told.right && told.conditions.iter().all(|condition| condition.met), "{told:?}");
    }

    let mut behind = Scene::new(vec![legion(5, 2, &[]), follower("beat")], &[("b", (9, true))]);
    behind.stage.tell(Event::StoreUp);
    behind.play();
    let text = "b comes before it; valor 5, 2 live, 2 have to".to_owned();
    assert_eq!(cross(&mut behind, "ip"), (text, true));
    assert_eq!(cross(&mut behind, "beat"), ("ip: b comes before it".into(), true), "and does not lead yet");
    behind.holder = Some("b");
    behind.wait(10.0);
    assert_eq!(cross(&mut behind, "beat"), ("b leads ip".into(), true));
    behind.changes("b", None);
    let text = "no quorum: 1 of 2 members that have to live; valor 5, 1 live, 2 have to".to_owned();
    assert_eq!(cross(&mut behind, "ip"), (text, false));
    assert!(!cross(&mut behind, "beat").1);

    let mut arbiter = Scene::new(vec![legion(0, 1, &[])], &[]);
    arbiter.stage.tell(Event::StoreUp);
    arbiter.play();
    assert!(cross(&mut arbiter, "ip").1, "it wants nothing else");
}

/// Whatever comes in whichever order, nothing panics, no deadline lies in the past, and the lease is given up only when
/// nothing of a follower is left.
#[test]
fn any_order_of_events_keeps_the_promise() {
    for seed in 0..300 {
        let mut random = Random::from_number(seed);
        let spec = |valor: u32| vec![legion(valor, 1, &LegionEvent::ALL), follower("beat"), follower("mail")];
        let mut scene = Scene::new(spec(5), &[]);
        for _ in 0..60 {
            let pick = random.number() % 20;
            let live: Vec<ProcessId> = scene.living.iter().copied().collect();
            let one = live.get(random.number() as usize % live.len().max(1)).copied();
            match (pick, one) {
                (0..=3, Some(id)) => scene.stage.process(id, ProcessEvent::Spawned { pid: 1_000 + id.0 as u32 }),
                (4..=6, Some(id)) => scene.stage.process(id, ProcessEvent::Notified(Notification::Ready)),
                (7, Some(id)) => scene.stage.process(id, ProcessEvent::Exited(Exit::Code(1))),
                (8..=9, Some(id)) => {
                    scene.living.remove(&id);
                    scene.stage.end(id, Exit::Code(0));
                }
                (10, _) => scene.changes("b", Some((9, true))),
                (11, _) => scene.changes("b", None),
                (12, _) => scene.wait(7.0),
                (13, _) => drop(scene.stops("*")),
                (14, _) => drop(scene.starts("*")),
                (15, _) => scene.confirms = !scene.confirms,
                (16, _) => scene.amends(spec(random.number() as u32 % 8)),
                (17, _) => scene.amends(vec![follower("beat"), watcher("mail")]),
                (18, _) => scene.others = if scene.others.is_some() { None } else { Some(BTreeMap::new()) },
                (19, _) => {
                    if let Some((hook, _)) = scene.hooks.pop_front() {
                        scene.stage.tell(Event::HookEnded { hook, end: HookEnd::Failed("it broke".into()) });
                    }
                }
                (_, None) => {}
                _ => unreachable!(),
            }
            scene.play();
        }
    }
}

#[test]
fn a_follower_of_another_legion_than_before_waits_for_that_one() {
    let other = || {
        let mut other = legion(1, 1, &[]);
        other.name = watcher("web").name;
        other
    };
    let moved = WatcherSpec { follows: Some(watcher("web").name), ..follower("beat") };
    let mut scene = Scene::new(vec![legion(5, 1, &[]), other(), follower("beat")], &[("b", (4, true))]);
    scene.is_up("ip");
    scene.is_up("beat");
    scene.story();
    scene.amends(vec![legion(5, 1, &[]), other(), moved]);
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&[]);
    assert_eq!(
        (scene.state("beat"), scene.stage.note("beat").as_str()),
        (WatcherState::Standby, "web: b comes before it")
    );
}

#[test]
fn a_rolling_reload_of_a_follower_has_never_one_more() {
    let mut scene = led(&[]);
    let way = circus_agent::model::command::ReloadWay::Rolling;
    scene.asks(Command::Reload { watcher: Some("beat".into()), way, patience: Patience::Settled });
    scene.sees(&["signal beat 15"]);
    scene.ends("beat", Exit::Signal(TERM));
    scene.sees(&["spawn beat"]);
}

#[test]
fn who_comes_next_is_not_yet_who_leads() {
    let mut scene = Scene::new(vec![legion(5, 1, &[])], &[("b", (9, true)), ("c", (1, true))]);
    scene.holder = Some("c");
    scene.changes("b", Some((9, true)));
    assert_eq!(scene.stage.note("ip"), "b comes before it");
    // Whoever asks for a move is sent to the one that has the lease.
    scene.asks(Command::Failover { watcher: "ip".into(), to: None, patience: Patience::Settled });
    assert_eq!(scene.relayed, [name("c")]);
}
