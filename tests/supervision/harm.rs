//! Programs that do what they should not: the watcher says so in `status`, others do not notice, and nothing is left.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use super::agent::{Agent, PATIENCE, descendants, is_alive, wait_for};

/// Longer than any answer may take, whatever the others do; far longer than it takes when the machine is idle.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A watcher that minds its own business, and is asked all the time whether it still does.
struct Neighbour {
    config: String,
}

impl Neighbour {
    fn new(world: &World) -> Neighbour {
        Neighbour { config: format!("[watcher:neighbour]\ncmd = {}\n", world.teller("neighbour", "")) }
    }

    /// Does `look` until it finds something, and asks after the neighbour each time.
    #[track_caller]
    fn while_asked<T>(&self, agent: &Agent, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let pid = agent.pids("neighbour");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = Instant::now();
            let status = agent.ask(&json!({"command": "status", "properties": {"name": "neighbour"}}));
            assert!(asked.elapsed() < AT_ONCE, "the agent took {:?} to answer", asked.elapsed());
            let neighbour = &status["watchers"][0];
            assert_eq!((&neighbour["state"], &neighbour["restarts"]), (&json!("active"), &json!(0)), "{neighbour}");
            assert_eq!(agent.pids("neighbour"), pid, "the neighbour was restarted");
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        }
    }
}

#[test]
fn programs_that_cannot_run_here_say_at_which_step_and_why() {
    let world = World::new();
    let (neighbour, plain) = (Neighbour::new(&world), world.teller("plain", ""));
    let not_executable = world.file("plain");
    let no_interpreter = world.file("no-interpreter");
    fs::write(&no_interpreter, "#!/nonexistent/interpreter\n").unwrap();
    fs::set_permissions(&no_interpreter, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let gone = world.file("gone");
    fs::create_dir(&gone).unwrap();
    let watcher = |name: &str, text: String| format!("[watcher:{name}]\n{text}\nmax_retry = 2\n");
    let config = [
        neighbour.config.clone(),
        watcher("missing", "cmd = /nonexistent/program".into()),
        watcher("text", format!("cmd = {}", not_executable.display())),
        watcher("script", format!("cmd = {}", no_interpreter.display())),
        watcher("nowhere", format!("cmd = {plain}\nworking_dir = {}", gone.display())),
        watcher("small", format!("cmd = {plain}\nrlimit_as = 4096")),
    ];
    world.configure("a", &config.concat());
    fs::remove_dir(&gone).unwrap();
    let mut agent = world.launch("a", &[]);
    agent.answers();
    agent.comes_to("neighbour", "active");
    for (name, words) in [
        ("missing", &["exec(\"/nonexistent/program\")", "ENOENT"][..]),
        ("text", &["exec(", "EACCES"]),
        ("script", &["exec(", "ENOENT"]),
        ("nowhere", &["chdir(", "ENOENT"]),
    ] {
        neighbour.while_asked(&agent, name, || (agent.watcher(name)["state"] == "failed").then_some(()));
        let status = agent.ctl(&world, &["status", name]).expect(3).out;
        assert!(words.iter().all(|word| status.contains(word)), "{name}: {words:?} are missing in {status}");
    }
    // The limit comes about only when the program uses what it may not: it is killed, or ends by itself.
    neighbour.while_asked(&agent, "small", || {
        let note = agent.note("small");
        (note.contains("killed by SIG") || note.contains("exit ") || note.contains("ENOMEM")).then_some(())
    });
    agent.ctl(&world, &["status", "small"]).expect(3);
    world.end(agent);
}

#[test]
fn users_and_groups_that_are_not_there_are_refused_and_nothing_changes() {
    let world = World::new();
    let neighbour = Neighbour::new(&world);
    let agent = world.agent("a", &neighbour.config);
    agent.comes_to("neighbour", "active");
    let pids = agent.pids("neighbour");
    for (key, value, why) in [
        ("uid", "nosuchuser", "a user that this machine does not have"),
        ("gid", "nosuchgroup", "a group that this machine does not have"),
        ("gid", "4294967296", "`gid`"),
    ] {
        world.configure("a", &format!("{}[watcher:bad]\ncmd = sleep 1000\n{key} = {value}\n", neighbour.config));
        let said = agent.ctl(&world, &["reloadconfig"]).expect(1);
        assert!(said.err.contains(why) && said.err.contains(value) && said.err.contains("a.ini:"), "{said:?}");
        let said = agent.ctl(&world, &["add", "bad", "sleep 1000", "--option", &format!("{key}={value}")]).expect(1);
        assert!(said.err.contains(why), "{said:?}");
        let said = agent.ctl(&world, &["set", "neighbour", key, value]).expect(1);
        assert!(said.err.contains(why), "{said:?}");
    }
    assert_eq!(agent.ctl(&world, &["list"]).expect(0).out, "neighbour\n");
    assert_eq!(agent.pids("neighbour"), pids);
    world.end(agent);
}

#[test]
fn a_flood_of_output_into_a_full_or_stuck_place_costs_lines_and_nobody_elses_time() {
    let world = World::new();
    let neighbour = Neighbour::new(&world);
    // Each of them writes as fast as it can, for as long as it lives.
    let flood = world.script("flood", "exec yes 'a line that is written over and over again'");
    let pipe = world.file("stuck");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let _reader = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let watcher =
        |name: &str, stream: &str| format!("[watcher:{name}]\ncmd = {flood}\nstdout_stream.class = {stream}\n");
    let config = [
        neighbour.config.clone(),
        watcher("kept", "QueueStream"),
        watcher("full", "FileStream\nstdout_stream.filename = /dev/full"),
        watcher("stuck", &format!("FileStream\nstdout_stream.filename = {}", pipe.display())),
        watcher(
            "rotated",
            &format!(
                "FileStream\nstdout_stream.filename = {}\nstdout_stream.max_bytes = 100000\nstdout_stream.backup_count = 2",
                world.file("log").display()
            ),
        ),
    ];
    let agent = world.agent("a", &config.concat());
    for name in ["neighbour", "kept", "full", "stuck", "rotated"] {
        agent.comes_to(name, "active");
    }
    let pids = ["kept", "full", "stuck", "rotated"].map(|name| agent.pids(name));
    let until = Instant::now() + Duration::from_secs(1);
    neighbour.while_asked(&agent, "a second of it", || (Instant::now() > until).then_some(()));
    neighbour.while_asked(&agent, "a word of what is lost", || {
        (agent.log().contains("/dev/full") && agent.log().contains("ENOSPC")).then_some(())
    });
    assert_eq!(["kept", "full", "stuck", "rotated"].map(|name| agent.pids(name)), pids, "a writer was stopped");
    let megabytes = agent.memory() / 1_000_000;
    assert!(megabytes < 200, "the agent has grown to {megabytes} MB");
    let logs = fs::read_dir(world.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log"));
    assert!(logs.map(|entry| entry.metadata().map_or(0, |file| file.len())).sum::<u64>() < 1_000_000);
    // And their end is as quick as anybody's.
    agent.ctl(&world, &["stop", "--waiting"]).expect(0);
    assert_eq!(world.left(), [].into());
    world.end(agent);
}

#[test]
fn what_forks_detaches_or_closes_its_streams_is_gone_when_its_watcher_stops() {
    let world = World::new();
    let neighbour = Neighbour::new(&world);
    // Two hundred that are deaf to all but SIGKILL, each in a session of its own; then it goes on forking, ten at a time.
    let forks = world.script(
        "forks",
        "i=0; while [ $i -lt 200 ]; do i=$((i+1)); setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000' & done\n\
         trap 'exit 0' TERM\n\
         while :; do for i in 1 2 3 4 5 6 7 8 9 10; do setsid sleep 0.05 & done; wait $!; done",
    );
    // A classic daemon: two forks, a session, and the first process ends at once.
    let daemon = world.file("daemon.py");
    fs::write(
        &daemon,
        format!(
            "import os, signal, time\n\
             if os.fork(): os._exit(0)\n\
             os.setsid()\n\
             if os.fork(): os._exit(0)\n\
             signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
             os.closerange(0, 100)\n\
             open({:?}, 'a').write(str(os.getpid()) + '\\n')\n\
             time.sleep(1000)\n",
            world.file("daemons")
        ),
    )
    .unwrap();
    let streams = world.teller("streams", "exec <&- >&- 2>&-");
    let config = [
        neighbour.config.clone(),
        format!("[watcher:forks]\ncmd = {forks}\n"),
        format!("[watcher:daemon]\ncmd = python3 -I -S {}\ncopy_env = True\n", daemon.display()),
        format!(
            "[watcher:streams]\ncmd = {streams}\nstdout_stream.class = QueueStream\nstderr_stream.class = QueueStream\n"
        ),
    ];
    let agent = world.agent("a", &config.concat());
    agent.comes_to("neighbour", "active");
    let of = |words: &str| world.left().values().filter(|line| line.contains(words)).count();
    neighbour.while_asked(&agent, "all the forks", || (of("sleep 1000") >= 200).then_some(()));
    // What has detached itself does not count as running, and is gone before the next one starts.
    neighbour.while_asked(&agent, "a daemon that is tried again", || {
        (agent.watcher("daemon")["restarts"].as_u64()? >= 3).then_some(())
    });
    agent.notes("daemon", "exit 0, again in");
    agent.ctl(&world, &["status", "daemon"]).expect(3);
    let daemons = || fs::read_to_string(world.file("daemons")).unwrap_or_default();
    let alive = || daemons().lines().filter_map(|pid| pid.parse().ok()).filter(|pid| is_alive(*pid)).count();
    assert!(alive() <= 1, "daemons pile up: {}", alive());
    agent.comes_to("streams", "active");
    assert_eq!(agent.watcher("streams")["restarts"], 0);

    for name in ["forks", "daemon", "streams"] {
        let asked = Instant::now();
        agent.ctl(&world, &["stop", name, "--waiting"]).expect(0);
        println!("{name} is down after {:?}", asked.elapsed());
    }
    assert_eq!(alive(), 0);
    let mut kept = descendants(agent.pids("neighbour")[0]);
    kept.extend(agent.pids("neighbour"));
    let left = world.left();
    assert!(left.keys().eq(&kept), "this outlived its watcher, the neighbour's {kept:?} aside: {left:?}");
    neighbour.while_asked(&agent, "the neighbour", || Some(()));
    world.end(agent);
}

#[test]
fn a_killed_agent_leaves_no_process_of_its_own_and_nothing_at_all_of_a_singleton() {
    let world = World::new();
    let (plain, family) = (world.teller("plain", "exec sleep 1000"), world.teller("family", "setsid sleep 1000 &"));
    let config = format!(
        "[watcher:plain]\ncmd = {plain}\nnumprocesses = 3\n\
         [watcher:guarded]\ncmd = {family}\nsingleton = True\nlease_ttl = 3\n\
         [watcher:logged]\ncmd = {plain}\nstdout_stream.class = QueueStream\n"
    );
    let mut agent = world.agent("a", &config);
    wait_for("five of them", || (world.told().len() == 5).then_some(()));
    agent.kill();
    world.is_clean();
}
