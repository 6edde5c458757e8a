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

/// What keeps an agent from making processes and threads.
enum Shortage {
    /// Its user has all that a user may have: whose, and the agent's pid.
    OfUser(u32, u32),
    /// Its cgroup has; the directory of that.
    OfCgroup(PathBuf),
}

impl Shortage {
    fn begin(&self) {
        match self {
            Shortage::OfUser(user, pid) => limit_processes(*user, *pid, 0),
            Shortage::OfCgroup(dir) => fs::write(dir.join("pids.max"), "0").unwrap(),
        }
    }

    fn end(&self) {
        match self {
            Shortage::OfUser(user, pid) => limit_processes(*user, *pid, 4096),
            Shortage::OfCgroup(dir) => fs::write(dir.join("pids.max"), "max").unwrap(),
        }
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        if let Shortage::OfCgroup(dir) = self {
            wait_for("the cgroup to be left", || fs::remove_dir(&*dir).ok());
        }
    }
}

/// As that user, since not every root may do it to others.
fn limit_processes(user: u32, pid: u32, most: u32) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string(), &format!("--nproc={most}:")]).uid(user).gid(user);
    assert!(prlimit.status().unwrap().success());
}

/// A cgroup whose processes can be limited, where the first version has that or the second is set up for it.
fn limiting_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" cgroup ") || line.contains(" cgroup2 "));
    let dirs = points.filter_map(|line| line.split(' ').nth(1));
    dirs.map(|point| Path::new(point).join(format!("circus-test-{}", std::process::id()))).find(|dir| {
        let fits = fs::create_dir(dir).is_ok() && dir.join("pids.max").exists();
        if !fits {
            let _ = fs::remove_dir(dir);
        }
        fits
    })
}

#[test]
fn where_no_process_can_be_made_the_agent_says_so_and_goes_on_when_there_is_room() {
    if !geteuid().is_root() {
        return println!("needs root");
    }
    for by_cgroup in [false, true] {
        let world = World::new();
        let witness = Witness::new(world.path());
        let config = format!("{}[watcher:web]\ncmd = {}\n", beat(&witness), world.teller("web", ""));
        world.configure("a", &config);
        let (mut agent, shortage) = if by_cgroup {
            let Some(dir) = limiting_cgroup() else { return println!("pids cannot be limited by cgroup here") };
            let agent = world.launch("a", &[]);
            fs::write(dir.join("cgroup.procs"), agent.pid().to_string()).unwrap();
            (agent, Shortage::OfCgroup(dir))
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
        fs::write(world.file("a.ini"), fs::read_to_string(world.file("a.ini")).unwrap() + "max_retry = -1\n").unwrap();
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
