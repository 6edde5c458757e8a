//! Whole trees, whatever they do, and each case both ways: by cgroup, and by looking.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::ice::Ice;
use super::*;

/// What must hold however trees are ended.
pub(crate) const BOTH_WAYS: &[Case] = both_ways![
    a_fork_bomb_is_killed,
    a_guarded_fork_bomb_ends_at_its_deadline_and_with_its_agent,
    a_tree_that_ignores_the_stop_signal_is_killed,
    a_process_that_waits_for_a_device_is_told_of_and_not_gone_before_it_is,
];

/// What only a cgroup makes possible.
pub(crate) const BY_CGROUP: &[Case] = cases![
    each_process_has_a_cgroup_of_its_own_while_it_lives,
    a_cgroup_that_somebody_else_has_killed_ends_no_start,
    who_is_killed_by_another_leaves_a_cgroup_of_use,
    a_cgroup_that_is_left_frozen_is_not_used_again,
    who_hides_from_looking_is_killed_with_its_cgroup,
    a_cgroup_that_a_process_made_below_its_own_goes_too,
    who_was_moved_out_of_its_cgroup_is_found_by_looking,
    a_new_agent_kills_what_a_killed_one_left_and_nothing_of_another,
    a_cgroup_that_is_gone_fails_no_start_but_the_next_one_has_one,
    where_no_cgroup_can_be_had_trees_are_ended_by_looking_and_the_log_says_so,
];

async fn each_process_has_a_cgroup_of_its_own_while_it_lives() {
    let mut world = World::new();
    let Some(home) = home(&world) else { return };
    let far = world.far();
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
    // More rounds than leaves, since each leaf is used again.
    for wrap in BOTH.repeat(3) {
        let (mark, other) = (mark(), world.spawn(wrap(launch(["sleep", "1000"]), far)));
        let process = world.spawn(wrap(sh(&brood(&mark, "wait")), far));
        let (pid, other_pid) = (world.spawned(process).await, world.spawned(other).await);
        eventually("all five sleep", || marked(&mark).len() == BROOD).await;
        let leaf = cgroup_of(pid);
        assert_ne!(leaf, cgroup_of(other_pid));
        assert_eq!(leaf.parent(), Some(&*home));
        assert!(leaf.file_name().unwrap().to_str().unwrap().starts_with("test-"), "{leaf:?} names its watcher");
        marked(&mark).iter().for_each(|&pid| assert_eq!(cgroup_of(pid), leaf));
        assert_eq!(fs::read_to_string(format!("/proc/{}/cgroup", parent_of(pid))).unwrap(), ours, "agent and guard");
        for process in [process, other] {
            world.host.kill(process);
            assert_eq!(world.ends(process).await, Exit::Signal(9));
        }
        assert!(subdirs(&home).iter().all(|leaf| fs::read_to_string(leaf.join("cgroup.procs")).unwrap().is_empty()));
        // Those that end by themselves use one after another; the next may begin before the last has given it back.
        for _ in 0..10 {
            world.runs(wrap(sh("true"), far)).await;
            world.fails(wrap(launch(["/bin/nosuch"]), far)).await;
        }
        assert!(subdirs(&home).len() <= 4, "{:?}", subdirs(&home));
    }
    drop(world);
    eventually("they go with the agent", || !home.exists()).await;
}

async fn a_cgroup_that_somebody_else_has_killed_ends_no_start() {
    let mut world = World::new();
    let Some(home) = home(&world) else { return };
    let spares = async |world: &mut World| {
        let both = [world.spawn(sh("exit 3")), world.spawn(sh("exit 3"))];
        for process in both {
            world.spawned(process).await;
            assert_eq!(world.ends(process).await, Exit::Code(3));
        }
    };
    spares(&mut world).await;
    let put_aside = subdirs(&home);
    assert!(!put_aside.is_empty());
    fs::write(home.join("cgroup.kill"), "1").unwrap();
    spares(&mut world).await;
    assert!(put_aside.iter().all(|leaf| !leaf.exists()), "they are of no use any more");
    // Removed by somebody, such as one who tidies up.
    subdirs(&home).iter().for_each(|leaf| fs::remove_dir(leaf).unwrap());
    spares(&mut world).await;
}

async fn who_is_killed_by_another_leaves_a_cgroup_of_use() {
    let mut world = World::new();
    if home(&world).is_none() {
        return;
    }
    let mut leaves = Vec::new();
    for _ in 0..2 {
        let process = world.spawn(launch(["sleep", "1000"]));
        let pid = world.spawned(process).await;
        leaves.push(cgroup_of(pid));
        send(pid, Signal::SIGKILL);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
    }
    assert_eq!(leaves[0], leaves[1]);
}

async fn a_cgroup_that_is_left_frozen_is_not_used_again() {
    let mut world = World::new();
    if home(&world).is_none() {
        return;
    }
    let process = world.spawn(launch(["sleep", "1000"]));
    let leaf = cgroup_of(world.spawned(process).await);
    fs::write(leaf.join("cgroup.freeze"), "1").unwrap();
    world.host.kill(process);
    assert_eq!(world.ends(process).await, Exit::Signal(9));
    eventually("it is removed", || !leaf.exists()).await;
    assert_eq!(world.runs(sh("exit 3")).await, Exit::Code(3));
}

/// An orphan in a session of its own, with nothing in its environment: of an unguarded process, looking cannot know it.
fn hidden(mark: &str, then: &str) -> String {
    format!("env -i setsid sh -c 'sleep 1000 {mark} & sleep 1000 {mark} &'; {then}")
}

async fn who_hides_from_looking_is_killed_with_its_cgroup() {
    let mut world = World::new();
    if home(&world).is_none() {
        return;
    }
    for (then, exit) in [("exit 3", Exit::Code(3)), ("wait; exec sleep 1000", Exit::Signal(9))] {
        let mark = mark();
        let process = world.spawn(sh(&hidden(&mark, then)));
        world.spawned(process).await;
        if exit == Exit::Signal(9) {
            eventually("it is there", || marked(&mark).len() == 2).await;
            world.host.kill(process);
        }
        assert_eq!(world.ends(process).await, exit);
        assert_eq!(marked(&mark), [0; 0]);
    }
}

async fn a_cgroup_that_a_process_made_below_its_own_goes_too() {
    let mut world = World::new();
    if home(&world).is_none() {
        return;
    }
    for wrap in BOTH {
        let mark = mark();
        let process = world.spawn(wrap(launch(["sleep", "1000"]), world.far()));
        let leaf = cgroup_of(world.spawned(process).await);
        let below = leaf.join("a/b");
        fs::create_dir_all(&below).unwrap();
        let script = format!("sleep 1000 {mark} &");
        let mut stranger = Command::new("setsid").args(["-f", "sh", "-c", &script]).spawn().unwrap();
        // The host reaps all that its main thread has started, and may have been quicker.
        let _ = stranger.wait();
        eventually("the stranger sleeps", || marked(&mark).len() == 1).await;
        fs::write(below.join("cgroup.procs"), marked(&mark)[0].to_string()).unwrap();
        world.host.kill(process);
        world.ends(process).await;
        assert_eq!(marked(&mark), [0; 0]);
        eventually("what was made below is removed", || subdirs(&leaf).is_empty()).await;
    }
}

async fn who_was_moved_out_of_its_cgroup_is_found_by_looking() {
    let mut world = World::new();
    let Some(home) = home(&world) else { return };
    for wrap in BOTH {
        let mark = mark();
        let process = world.spawn(wrap(sh(&brood(&mark, "wait")), world.far()));
        let pid = world.spawned(process).await;
        eventually("all five sleep", || marked(&mark).len() == BROOD).await;
        for pid in marked(&mark).into_iter().chain([pid]) {
            fs::write(home.parent().unwrap().join("cgroup.procs"), pid.to_string()).unwrap();
        }
        world.host.kill(process);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
        assert_eq!(marked(&mark), [0; 0]);
    }
}

async fn a_new_agent_kills_what_a_killed_one_left_and_nothing_of_another() {
    let world = World::new();
    let Some(home) = home(&world) else { return };
    let places = ["one", "two"].map(|name| home.with_file_name(format!("circus-{name}-{}", std::process::id())));
    let (mark, other_mark) = (mark(), self::mark());
    let mut agents = Vec::new();
    for (place, mark) in places.iter().zip([&mark, &other_mark]) {
        let agent = Command::new(std::env::current_exe().unwrap())
            .args([ROLE, "agent-hidden"])
            .env("MARK", mark)
            .env("PLACE", place.file_name().unwrap().to_str().unwrap().strip_prefix("circus-").unwrap())
            .env("TMPDIR", world.dir.path())
            .spawn()
            .unwrap();
        eventually("its child's orphans are there", || marked(mark).len() == 2).await;
        agents.push(agent);
    }
    agents[0].kill().unwrap();
    eventually("it is gone", || !exists(agents[0].id())).await;
    let _ = agents[0].wait();
    assert_eq!(marked(&mark).len(), 2, "orphans that hide survive their agent");

    // Of the same name as the living one: it leaves that in peace, and has none.
    let name = |place: &Path| place.file_name().unwrap().to_str().unwrap().strip_prefix("circus-").unwrap().to_owned();
    assert!(!world.another_host(&name(&places[1])).has_cgroups());
    assert_eq!((marked(&mark).len(), marked(&other_mark).len()), (2, 2));
    // Of the same name as the killed one: it cleans up before it is there.
    let successor = world.another_host(&name(&places[0]));
    assert!(successor.has_cgroups());
    assert_eq!((marked(&mark).len(), marked(&other_mark).len()), (0, 2));
    assert!(subdirs(&places[0]).is_empty());
    drop(successor);

    // Of another name altogether: it sweeps away what is empty.
    agents[1].kill().unwrap();
    eventually("it is gone", || !exists(agents[1].id())).await;
    let _ = agents[1].wait();
    assert_eq!(marked(&other_mark).len(), 2);
    drop(world.another_host("three"));
    assert_eq!(marked(&other_mark).len(), 2, "what lives is its own agent's to kill");
    drop(world.another_host(&name(&places[1])));
    assert_eq!(marked(&other_mark), [0; 0]);
    assert!(!places[1].exists());
}

async fn a_cgroup_that_is_gone_fails_no_start_but_the_next_one_has_one() {
    let mut world = World::new();
    let Some(home) = home(&world) else { return };
    // As when the bound on cgroups is reached: a start without is better than none.
    fs::write(home.join("cgroup.max.descendants"), "0").unwrap();
    let mark = mark();
    let process = world.spawn(sh(&brood(&mark, "wait")));
    let pid = world.spawned(process).await;
    assert_eq!(cgroup_of(pid), home.parent().unwrap());
    eventually("all five sleep", || marked(&mark).len() == BROOD).await;
    world.host.kill(process);
    world.ends(process).await;
    assert_eq!(marked(&mark), [0; 0]);
    fs::write(home.join("cgroup.max.descendants"), "max").unwrap();
    let process = world.spawn(launch(["sleep", "1000"]));
    assert_eq!(cgroup_of(world.spawned(process).await).parent(), Some(&*home));
    world.host.kill(process);
    world.ends(process).await;
}

async fn where_no_cgroup_can_be_had_trees_are_ended_by_looking_and_the_log_says_so() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    let log = Lines::begin();
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(65534.into()).unwrap();
    nix::unistd::setuid(65534.into()).unwrap();
    let mut world = World::new();
    assert!(!world.host.has_cgroups());
    let said = log.text();
    let expected = "trees of processes are ended by looking for them, as no cgroup can be had here: /";
    assert!(said.contains(expected) && said.contains("EACCES") && said.contains("Delegate=yes"), "{said}");
    let mark = mark();
    let process = world.spawn(sh(&brood(&mark, "exit 4")));
    world.spawned(process).await;
    assert_eq!(world.ends(process).await, Exit::Code(4));
    assert_eq!(marked(&mark), [0; 0]);
}

// ---- both ways -----------------------------------------------------------------------------------------------------

/// Forks as fast as it can, each in a session of its own, up to a limit that only its user knows.
fn bomb(mark: &str) -> Launch {
    let script = "
import os, time
while True:
    try:
        if not os.fork(): os.setsid()
    except OSError: time.sleep(0.01)";
    let mut bomb = launch(["python3", "-c", script, mark]);
    with(&mut bomb, |program| {
        // Of nobody else's, since the limit is on the processes of a user.
        program.user = Some(user(61_000 + std::process::id() % 4000, 65534, None));
        program.rlimits = vec![Rlimit { name: "nproc".into(), resource: libc::RLIMIT_NPROC, limit: Some(BOMB as u64) }];
    });
    bomb
}

const BOMB: usize = 200;

async fn a_fork_bomb_is_killed() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    let mut world = World::new();
    for wrap in BOTH {
        let mark = mark();
        let process = world.spawn(wrap(bomb(&mark), world.far()));
        world.spawned(process).await;
        eventually("it has forked all it may", || marked(&mark).len() == BOMB).await;
        let killed = Instant::now();
        world.host.kill(process);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
        println!("{BOMB} processes that fork were gone {:?} after the kill", killed.elapsed());
        assert_eq!(marked(&mark), [0; 0], "Gone came before the tree was gone");
    }
}

async fn a_guarded_fork_bomb_ends_at_its_deadline_and_with_its_agent() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    let mut world = World::new();
    let mark = mark();
    let process = world.spawn(guarded(bomb(&mark), world.far()));
    let pid = world.spawned(process).await;
    eventually("it has forked all it may", || marked(&mark).len() == BOMB).await;
    let guard = parent_of(pid);
    // Nobody orders a kill, so it is the guard's own.
    let end = clock::now() + Duration::from_millis(50);
    world.host.guard(process, Deadline { stop: end, kill: end });
    eventually("the guard's work is done", || !exists(guard)).await;
    assert_eq!(marked(&mark), [0; 0]);
    assert_eq!(world.ends(process).await, Exit::Signal(9));

    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args([ROLE, "agent-bomb"])
        .env("MARK", &mark)
        .env("TMPDIR", world.dir.path())
        .spawn()
        .unwrap();
    eventually("it has forked all it may", || marked(&mark).len() == BOMB).await;
    let guard = children_of(agent.id());
    assert_eq!(guard.len(), 1);
    agent.kill().unwrap();
    let killed = Instant::now();
    eventually("all are gone", || marked(&mark).is_empty()).await;
    println!("{BOMB} processes that fork were gone {:?} after their agent was killed", killed.elapsed());
    let _ = agent.wait();
    eventually("and so is the guard", || !exists(guard[0])).await;
}

async fn a_tree_that_ignores_the_stop_signal_is_killed() {
    let mut world = World::new();
    for wrap in BOTH {
        let mark = mark();
        let script = format!("trap '' TERM; {}", brood(&mark, "wait; exec sleep 1000"));
        let process = world.spawn(wrap(sh(&script), world.far()));
        let pid = world.spawned(process).await;
        eventually("all five sleep", || marked(&mark).len() == BROOD).await;
        world.host.signal(process, libc::SIGTERM, Reach::Tree);
        // Signals are sent in their order: when a later one has come, so has the first.
        world.host.signal(process, libc::SIGSTOP, Reach::Main);
        eventually("the main process is stopped", || stat(pid, 3).as_deref() == Some("T")).await;
        assert_eq!(marked(&mark).len(), BROOD);
        world.host.kill(process);
        assert_eq!(world.ends(process).await, Exit::Signal(9));
        assert_eq!(marked(&mark), [0; 0]);
    }
}

async fn a_process_that_waits_for_a_device_is_told_of_and_not_gone_before_it_is() {
    let Some(ice) = Ice::make() else { return println!("needs root and the freezer of cgroup v1") };
    let log = Lines::begin();
    let mut world = World::new();
    for (round, (kill_guard, wrap)) in [(false, BOTH[0]), (false, BOTH[1]), (true, BOTH[1])].into_iter().enumerate() {
        let mark = mark();
        let process = world.spawn(wrap(sh(&format!("setsid sleep 1000 {mark} & wait")), world.far()));
        let pid = world.spawned(process).await;
        let mut child = 0;
        eventually("its child sleeps", || {
            child = marked(&mark).first().copied().unwrap_or_default();
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "sleep\n")
        })
        .await;
        ice.freeze(child);
        match kill_guard {
            false => world.host.kill(process),
            true => send(parent_of(pid), Signal::SIGKILL),
        }
        let told = format!("test: processes [{child}] wait for a device (state D)");
        eventually("the log tells of it", || log.text().matches("(state D)").count() > round).await;
        assert!(log.text().contains(&told), "{}", log.text());
        assert!(exists(child));
        let told = world.all_told();
        assert!(!told.contains(&(process, ProcessEvent::Gone)), "{told:?}");
        ice.thaw();
        assert_eq!(world.ends(process).await, if kill_guard { Exit::Lost } else { Exit::Signal(9) });
        assert!(!exists(child));
    }
}

// ---- what they are told with ---------------------------------------------------------------------------------------

/// Where the world's processes have their cgroups; nothing, and a word about it, where they have none.
fn home(world: &World) -> Option<PathBuf> {
    if !world.host.has_cgroups() {
        println!("no cgroup can be had here");
        return None;
    }
    Some(own_cgroup().join(format!("circus-{}", world.place)))
}

fn own_cgroup() -> PathBuf {
    cgroup_of(std::process::id())
}

/// The directory of a process's cgroup.
fn cgroup_of(pid: u32) -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let point = mounts.lines().find(|line| line.contains(" cgroup2 ")).unwrap().split(' ').nth(1).unwrap();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new(point).join(path).components().collect()
}

fn subdirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

/// The log, from its beginning on.
#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn begin() -> Lines {
        let log = Lines(Arc::default());
        tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// Has hosts from here on look for trees, here and in processes that this one starts.
pub(crate) fn look() {
    // SAFETY: a case begins before anything else runs in its process.
    unsafe { std::env::set_var(LOOK, "1") };
}

/// What a part of these cases does; see `main`.
pub(crate) async fn play_agent(role: &str) {
    let mut world = match role {
        "agent-hidden" => World::placed(&std::env::var("PLACE").unwrap()),
        _ => World::new(),
    };
    match role {
        "agent-hidden" => world.spawn(sh(&hidden(&given_mark(), "exec sleep 1000"))),
        "agent-bomb" => world.spawn(guarded(bomb(&given_mark()), world.far())),
        other => panic!("no role {other}"),
    };
    while world.events.recv().await.is_some() {}
}
