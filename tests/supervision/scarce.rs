//! A machine that gives no more: no pids, no memory, a device that does not answer. The agent says so, lets go of nothing
//! that lives, and goes on when there is room again.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde_json::json;

use super::World;
use super::agent::{self, Agent, PATIENCE, is_alive, wait_for};
use super::ice::Ice;
use super::redis_server::RedisServer;
use super::witness::Witness;

const TTL: Duration = Duration::from_secs(3);

fn beat(witness: &Witness) -> String {
    let ttl = TTL.as_secs();
    format!(
        "[watcher:beat]\ncmd = {}\nsingleton = True\ngraceful_timeout = 1\nlease_ttl = {ttl}\n",
        witness.command("kid")
    )
}

/// A cgroup with a limit, where the first version has that or the second is set up for it.
struct Limited {
    dir: PathBuf,
    limit: PathBuf,
}

impl Limited {
    /// One whose limit is one of these files.
    fn by(files: &[&str]) -> Option<Limited> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let points = mounts.lines().filter(|line| line.contains(" cgroup ") || line.contains(" cgroup2 "));
        let dirs = points.filter_map(|line| line.split(' ').nth(1));
        let mut dirs = dirs.map(|point| Path::new(point).join(format!("circus-test-{}", std::process::id())));
        dirs.find_map(|dir| {
            fs::create_dir(&dir).ok()?;
            let limit = files.iter().map(|file| dir.join(file)).find(|file| file.exists());
            if limit.is_none() {
                fs::remove_dir(&dir).unwrap();
            }
            Some(Limited { limit: limit?, dir })
        })
    }

    /// What it is for, and all that it starts from now on.
    fn add(&self, agent: &Agent) {
        fs::write(self.dir.join("cgroup.procs"), agent.pid().to_string()).unwrap();
    }

    fn set(&self, limit: &str) {
        fs::write(&self.limit, limit).unwrap();
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        wait_for("the cgroup to be left", || fs::remove_dir(&self.dir).ok());
    }
}

/// What keeps an agent from making processes and threads.
enum Shortage {
    /// Its user has all that a user may have: whose, and the agent's pid.
    OfUser(u32, u32),
    /// Its cgroup has.
    OfCgroup(Limited),
}

impl Shortage {
    fn begin(&self) {
        match self {
            Shortage::OfUser(user, pid) => limit_processes(*user, *pid, 0),
            Shortage::OfCgroup(cgroup) => cgroup.set("0"),
        }
    }

    fn end(&self) {
        match self {
            Shortage::OfUser(user, pid) => limit_processes(*user, *pid, 4096),
            Shortage::OfCgroup(cgroup) => cgroup.set("max"),
        }
    }
}

/// As that user, since not every root may do it to others.
fn limit_processes(user: u32, pid: u32, most: u32) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string(), &format!("--nproc={most}:")]).uid(user).gid(user);
    assert!(prlimit.status().unwrap().success());
}

#[test]
fn where_no_process_can_be_made_the_agent_says_so_and_goes_on_when_there_is_room() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    for by_cgroup in [false, true] {
        let world = World::new();
        let witness = Witness::new(world.path());
        let web = format!("[watcher:web]\ncmd = {}\nmax_retry = -1\n", world.teller("web", ""));
        let config = format!("{}max_retry = -1\n{web}", beat(&witness));
        world.configure("a", &config);
        let (mut agent, shortage) = if by_cgroup {
            let Some(cgroup) = Limited::by(&["pids.max"]) else { return println!("no cgroup limits pids here") };
            let agent = world.launch("a", &[]);
            cgroup.add(&agent);
            (agent, Shortage::OfCgroup(cgroup))
        } else {
            // Of nobody else's, since the limit is on the processes of a user; root has none.
            let user = 61_000 + std::process::id() % 4000;
            chown(world.path(), Some(user), Some(user)).unwrap();
            let id = user.to_string();
            let launcher = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL"];
            let agent = world.launch_by("a", &launcher);
            let pid = agent.pid();
            (agent, Shortage::OfUser(user, pid))
        };
        agent.answers();
        let first = witness.first();
        witness.ticks(&first);
        agent.comes_to("web", "active");
        let web = agent.pids("web");

        shortage.begin();
        agent::send(web[0], libc::SIGKILL);
        agent::send(first.pid, libc::SIGKILL);
        for (name, stage) in [("web", "clone"), ("beat", "guard clone")] {
            agent.notes(name, &format!("spawn failed at {stage}"));
            agent.notes(name, "EAGAIN");
        }
        assert_eq!(agent.lease("beat")["role"], "holder", "nothing is a reason to let go of it");
        // What is asked of it needs other threads, or other programs.
        let stats = agent.ask(&json!({"command": "stats", "properties": {}}));
        assert_eq!(stats["status"], "ok", "{stats}");
        world.configure("a", &(config + "graceful_timeout = 2\n"));
        agent.ctl(&world, &["reloadconfig"]).expect(0);
        witness.check();

        shortage.end();
        let second = witness.after(&first, PATIENCE);
        witness.ticks(&second);
        agent.comes_to("web", "active");
        world.end(agent);
        witness.check_over();
    }
}

#[test]
fn where_memory_runs_out_the_one_that_took_it_is_killed_and_nothing_else() {
    let Some(memory) = Limited::by(&["memory.limit_in_bytes", "memory.max"]) else {
        return println!("no cgroup limits memory here");
    };
    let world = World::new();
    let witness = Witness::new(world.path());
    let full = world.file("full");
    let hog = format!("import time; held = bytearray(400 << 20); open('{}', 'w'); time.sleep(1000)", full.display());
    let script = world.file("hog.py");
    fs::write(&script, hog).unwrap();
    let config = beat(&witness)
        + &format!("[watcher:hog]\ncmd = python3 {}\nautostart = False\nmax_retry = -1\n", script.display());
    world.configure("a", &config);
    let mut agent = world.launch("a", &[]);
    memory.add(&agent);
    agent.answers();
    let first = witness.first();
    witness.ticks(&first);

    memory.set(&(200 << 20).to_string());
    agent.ctl(&world, &["start", "hog"]).expect(0);
    agent.notes("hog", "killed by SIGKILL");
    assert!(!full.exists());
    witness.ticks(&first);
    assert_eq!(agent.lease("beat")["role"], "holder");

    memory.set(&(1_u64 << 40).to_string());
    wait_for("the memory to be had", || full.exists().then_some(()));
    agent.comes_to("hog", "active");
    witness.ticks(&first);
    assert_eq!(witness.children().len(), 1, "nothing else was killed");
    world.end(agent);
    witness.check_over();
}

#[test]
fn a_lease_is_kept_for_as_long_as_a_process_waits_for_a_device_and_the_log_names_it() {
    for with_redis in [false, true] {
        let Some(ice) = Ice::make() else { return println!("needs root and the freezer of cgroup v1") };
        let world = World::new();
        let witness = Witness::new(world.path());
        let redis = with_redis.then(RedisServer::start);
        let section = redis.as_ref().map_or_else(String::new, |redis| format!("[redis]\nurl = {}\n", redis.url()));
        let config = section + &beat(&witness);
        let agents = ["a", "b"].map(|name| world.agent(name, &config));
        let first = witness.first();
        witness.ticks(&first);
        let (here, there): (Vec<&Agent>, Vec<&Agent>) = agents.iter().partition(|agent| agent.name == first.node);
        let (here, there) = (here[0], there[0]);

        ice.freeze(first.pid);
        here.ctl(&world, &["stop", "beat"]).expect(0);
        here.logs(&format!("beat: processes [{}] wait for a device (state D)", first.pid));
        // Longer than any lease lasts that nobody keeps.
        let told = Instant::now();
        while told.elapsed() < TTL + Duration::from_secs(1) {
            assert!(is_alive(first.pid));
            assert_eq!(here.watcher("beat")["state"], "stopping");
            assert_eq!((&there.watcher("beat")["state"], witness.children().len()), (&json!("standby"), 1));
        }
        ice.thaw();
        let second = witness.after(&first, PATIENCE);
        witness.ticks(&second);
        assert_eq!(second.node, there.name);
        assert!(!is_alive(first.pid));
        agents.into_iter().for_each(|agent| world.end_one(agent));
        witness.check_over();
    }
}
