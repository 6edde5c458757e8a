//! A legion's lord process under its guard: what it has set up is undone in time, once, after its followers, whatever
//! becomes of the agent. It is the real one.

use std::thread;

use super::*;
use circus_agent::model::event::LegionPart;

pub(crate) const BOTH_WAYS: &[Case] = both_ways![
    a_lord_undoes_what_it_did_when_its_agent_is_killed_and_after_its_followers,
    a_lord_undoes_what_it_did_at_its_deadline_though_its_agent_is_frozen,
    a_lord_that_does_not_come_to_an_end_is_killed_at_its_deadline_without_its_agent,
    a_lord_that_has_not_come_to_lead_undoes_what_it_began,
    a_lord_whose_guard_is_killed_undoes_what_it_did,
    a_lord_whose_guard_and_agent_are_killed_undoes_what_it_did,
    a_lord_whose_guard_is_killed_has_no_longer_than_its_deadline,
    a_lord_is_killed_when_it_is_to_be,
    who_follows_nobody_does_not_start,
];

async fn a_lord_undoes_what_it_did_when_its_agent_is_killed_and_after_its_followers() {
    let mut agent = Agent::start("agent-legion", Duration::from_secs(1000));
    eventually("it leads", || agent.said() == "lord\n").await;
    eventually("its follower's tree is there", || marked(&agent.mark).len() == BROOD).await;
    // Nothing is left of the followers' trees when their guards are gone; one seems to stay longer.
    let follower = agent.guards().into_iter().find(|guard| !Agent::is_lords(*guard)).unwrap();
    let last = follower_end(follower);
    agent.kill();
    eventually("its follower is gone", || marked(&agent.mark).is_empty() && !exists(follower)).await;
    // An agent that comes after it leaves it alone.
    let _successor = World::placed(&agent.mark);
    // Time enough for one that does not wait.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(agent.said(), "lord\n");
    drop(last);
    eventually("it is gone", || agent.is_gone()).await;
    assert_eq!(agent.said(), "lord\nunlord after nobody\n");
}

async fn a_lord_undoes_what_it_did_at_its_deadline_though_its_agent_is_frozen() {
    let mut agent = Agent::start("agent-legion", Duration::from_millis(1500));
    eventually("it leads", || agent.said() == "lord\n").await;
    send(agent.child.id(), Signal::SIGSTOP);
    let guards = agent.guards();
    eventually("its guards are gone", || guards.iter().all(|guard| !exists(*guard))).await;
    assert!(clock::now() >= agent.deadline().stop);
    assert!(agent.said().starts_with("lord\nunlord after ") && agent.said().lines().count() == 2, "{}", agent.said());
    // An agent that wakes, and dies, has nothing more done.
    agent.kill();
    assert_eq!(agent.said().lines().count(), 2);
}

async fn a_lord_that_does_not_come_to_an_end_is_killed_at_its_deadline_without_its_agent() {
    let mut agent = Agent::start("agent-hung-lord", Duration::from_millis(1500));
    eventually("it leads", || agent.said() == "lord\n").await;
    agent.kill();
    eventually("it is undoing what it did", || agent.said() == "lord\nunlord\n").await;
    eventually("its tree is gone", || agent.is_gone() && marked(&agent.mark).is_empty()).await;
    assert!(clock::now() >= agent.deadline().kill, "not before its deadline");
    assert_eq!(agent.said(), "lord\nunlord\n");
}

async fn a_lord_that_has_not_come_to_lead_undoes_what_it_began() {
    let mut agent = Agent::start("agent-slow-lord", Duration::from_secs(1000));
    eventually("it has begun", || agent.said() == "begun\n" && marked(&agent.mark).len() == 1).await;
    agent.kill();
    eventually("it is gone", || agent.is_gone() && marked(&agent.mark).is_empty()).await;
    assert_eq!(agent.said(), "begun\nunlord\n");
}

async fn a_lord_whose_guard_is_killed_undoes_what_it_did() {
    let mut world = World::new();
    let process = world.spawn(lord(&world.path("said"), &["cmd:echo lord >>$SAID"], &[SLOWLY], world.far()));
    let pid = world.spawned(process).await;
    eventually("it leads", || said(&world) == "lord\n").await;
    send(parent_of(pid), Signal::SIGKILL);
    assert_eq!(world.ends(process).await, Exit::Lost);
    assert_eq!(said(&world), "lord\nunlord\n");
    assert!(!exists(pid));
}

async fn a_lord_whose_guard_and_agent_are_killed_undoes_what_it_did() {
    let mut agent = Agent::start("agent-lord", Duration::from_secs(1000));
    eventually("it leads", || agent.said() == "lord\n").await;
    let guards = agent.guards();
    send(agent.child.id(), Signal::SIGSTOP);
    guards.iter().for_each(|guard| send(*guard, Signal::SIGKILL));
    agent.kill();
    eventually("it has undone it", || agent.said().lines().count() == 2).await;
}

async fn a_lord_whose_guard_is_killed_has_no_longer_than_its_deadline() {
    let mut world = World::new();
    for told in [false, true] {
        let mark = mark();
        let until = clock::now() + Duration::from_millis(if told { 1_000_000 } else { 1200 });
        let hung = format!("cmd:echo unlord >>$SAID; sleep 1000 {mark}");
        let file = world.path("said");
        let _ = fs::remove_file(&file);
        let process =
            world.spawn(lord(&file, &["cmd:echo lord >>$SAID"], &[&hung], Deadline { stop: until, kill: until }));
        let pid = world.spawned(process).await;
        eventually("it leads", || said(&world) == "lord\n").await;
        send(parent_of(pid), Signal::SIGKILL);
        eventually("it is undoing what it did", || marked(&mark).len() == 1).await;
        if told {
            world.host.kill(process);
        }
        assert_eq!(world.ends(process).await, Exit::Lost);
        assert!(told || clock::now() >= until);
        assert_eq!(marked(&mark), [0; 0]);
    }
}

async fn a_lord_is_killed_when_it_is_to_be() {
    let mut world = World::new();
    let mark = mark();
    let hung = format!("cmd:sleep 1000 {mark}");
    let process = world.spawn(lord(&world.path("said"), &["cmd:echo lord >>$SAID"], &[&hung], world.far()));
    world.spawned(process).await;
    eventually("it leads", || said(&world) == "lord\n").await;
    world.host.signal(process, libc::SIGTERM, Reach::Main);
    eventually("it is undoing what it did", || marked(&mark).len() == 1).await;
    world.host.kill(process);
    assert_eq!(world.ends(process).await, Exit::Signal(9));
    assert_eq!(marked(&mark), [0; 0]);
}

async fn who_follows_nobody_does_not_start() {
    let mut world = World::new();
    let failed = world.fails(follower(sh("true"), world.far())).await;
    assert_eq!(failed.to_string(), "spawn failed at guard pipe: nobody has led clusterip here");
}

// ---- the stage -------------------------------------------------------------------------------------------------------

/// What takes a moment to be undone.
const SLOWLY: &str = "cmd:sleep 0.1; echo unlord >>$SAID";

/// A real lord process that does these.
fn lord(said: &Path, on_lord: &[&str], on_unlord: &[&str], until: Deadline) -> Launch {
    let words = ["circus-lord", "--legion", "clusterip", "--timeout", "1000", "--lord"];
    let argv = words.iter().chain(on_lord).chain(&["--unlord"]).chain(on_unlord).map(|word| (*word).to_owned());
    let mut launch = guarded(Launch { argv: argv.collect(), ..launch(["circus-lord"]) }, until);
    with(&mut launch, |program| program.executable = Some(env!("CARGO_BIN_EXE_circus-agent").into()));
    launch.watcher = WatcherName::parse("clusterip").unwrap();
    launch.env.push(("SAID".into(), said.display().to_string()));
    launch.legion = Some(LegionPart::Lord);
    launch
}

fn follower(launch: Launch, until: Deadline) -> Launch {
    let of = WatcherName::parse("clusterip").unwrap();
    Launch { legion: Some(LegionPart::Follower { of }), ..guarded(launch, until) }
}

fn said(world: &World) -> String {
    fs::read_to_string(world.path("said")).unwrap_or_default()
}

/// What a follower's guard keeps for as long as it is there: the only pipe that it has.
fn follower_end(guard: u32) -> File {
    let fds = fs::read_dir(format!("/proc/{guard}/fd")).unwrap().map(|fd| fd.unwrap().path());
    let pipes = fds.filter(|fd| fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:")));
    let pipes: Vec<PathBuf> = pipes.collect();
    assert_eq!(pipes.len(), 1);
    File::options().write(true).open(&pipes[0]).unwrap()
}

/// An agent in a process of its own, to be harmed.
struct Agent {
    child: std::process::Child,
    dir: TempDir,
    mark: String,
    guards: Vec<u32>,
}

impl Agent {
    /// One that plays this part, with `time` until the deadline of what it starts.
    fn start(role: &str, time: Duration) -> Agent {
        let (dir, mark) = (TempDir::new().unwrap(), mark());
        let until = (clock::now() + time).as_nanos();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([ROLE, role])
            .envs([("MARK", mark.as_str()), ("UNTIL", &until.to_string())])
            .env("SAID", dir.path().join("said"))
            .env("TMPDIR", dir.path())
            .spawn()
            .unwrap();
        fs::write(dir.path().join("until"), until.to_string()).unwrap();
        Agent { child, dir, mark, guards: Vec::new() }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }

    /// The guards of its processes.
    fn guards(&mut self) -> Vec<u32> {
        self.guards = children_of(self.child.id());
        self.guards.clone()
    }

    fn is_lords(guard: u32) -> bool {
        let line = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        children_of(guard).iter().any(|child| line(child).starts_with(b"circus-lord\0"))
    }

    fn kill(&mut self) {
        if self.guards.is_empty() {
            self.guards();
        }
        self.child.kill().unwrap();
        let _ = self.child.wait();
    }

    /// Whether all its guards are.
    fn is_gone(&self) -> bool {
        self.guards.iter().all(|guard| !exists(*guard))
    }

    fn deadline(&self) -> Deadline {
        deadline(&fs::read_to_string(self.dir.path().join("until")).unwrap())
    }
}

/// The stop is at half the time, so to speak: a third of a second before the kill.
fn deadline(until: &str) -> Deadline {
    let kill = Time::from_nanos(until.parse().unwrap());
    Deadline { stop: Time::from_nanos(kill.as_nanos() - 300_000_000), kill }
}

/// What a part of these cases does; see `main`.
pub(crate) async fn play_agent(role: &str) {
    let mark = given_mark();
    let mut world = World::placed(&mark);
    let (until, said) = (deadline(&std::env::var("UNTIL").unwrap()), PathBuf::from(std::env::var("SAID").unwrap()));
    let hung = format!("cmd:echo unlord >>$SAID; sleep 1000 {mark}");
    let slow = format!("cmd:echo begun >>$SAID; sleep 1000 {mark}");
    let seen = format!(
        "cmd:pgrep -f '[s]leep 1000 {mark}' >/dev/null && who=follower; echo unlord after ${{who:-nobody}} >>$SAID"
    );
    match role {
        "agent-legion" => {
            world.spawn(lord(&said, &["cmd:echo lord >>$SAID"], &[&seen], until));
            world.spawn(follower(sh(&brood(&mark, "wait")), until))
        }
        "agent-lord" => world.spawn(lord(&said, &["cmd:echo lord >>$SAID"], &[&seen], until)),
        "agent-hung-lord" => world.spawn(lord(&said, &["cmd:echo lord >>$SAID"], &[&hung], until)),
        "agent-slow-lord" => world.spawn(lord(&said, &[&slow], &["cmd:echo unlord >>$SAID"], until)),
        other => panic!("no role {other}"),
    };
    while world.events.recv().await.is_some() {}
}
