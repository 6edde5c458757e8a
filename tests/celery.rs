//! A real Celery under the real agent: one beat in the cluster, whatever happens to the agents, and every tick executed.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;
#[path = "support/witness.rs"]
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::{Agent, Home, PATIENCE, is_alive, wait_for, wait_within};
use redis_server::RedisServer;
use witness::{Life, Witness, now};

const TTL: Duration = Duration::from_secs(3);
/// How many ticks of one beat are a steady run.
const STEADY: usize = 3;

/// One message of beat.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Tick {
    sent: u64,
    token: u64,
    node: String,
    pid: u32,
}

/// A cluster that runs Celery: a beat on one of three nodes, a worker on another one.
struct Celery {
    // Dropped in this order: the agents before what they need.
    nodes: BTreeMap<String, Agent>,
    worker: Agent,
    witness: Witness,
    redis: RedisServer,
    home: Home,
}

impl Celery {
    fn start() -> Celery {
        let celery = celery();
        let (home, redis) = (Home::new(), RedisServer::start());
        let witness = Witness::new(home.path());
        let section = |watcher: &str, command: &str| {
            let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
            let file = |name: &str| home.file(name).display().to_string();
            format!(
                "\n[redis]\nurl = {url}\n\n\
                 [watcher:{watcher}]\ncmd = {celery} -A proj {command}\ncopy_env = true\nworking_dir = {celery_dir}\n\n\
                 [env]\nBROKER = {url}/0\nSENT = {sent}\nEXECUTED = {executed}\nWITNESS = {witness}\n\
                 PYTHONPATH = {celery_dir}:{support_dir}\nPYTHONDONTWRITEBYTECODE = 1\n",
                url = redis.url(),
                celery = celery.display(),
                celery_dir = project.join("celery").display(),
                support_dir = project.join("support").display(),
                sent = file("sent"),
                executed = file("executed"),
                witness = file("witness"),
            )
        };
        let lone = "--without-gossip --without-mingle --without-heartbeat";
        let worker = section("worker", &format!("worker --pool solo --loglevel warning {lone}"));
        let worker = home.agent("worker", &worker);
        for name in ["a", "b", "c"] {
            let schedule = home.file(&format!("{name}-schedule"));
            let beat = section("beat", &format!("beat --loglevel info --schedule {}", schedule.display()));
            let lease = format!("\nsingleton = true\nlease_ttl = {}s\ngraceful_timeout = 5s\n", TTL.as_secs());
            home.configure(name, &beat.replace("\ncopy_env", &format!("{lease}copy_env")));
        }
        let mut cluster = Celery { nodes: BTreeMap::new(), worker, witness, redis, home };
        ["a", "b", "c"].into_iter().for_each(|name| cluster.join(name));
        cluster
    }

    /// Starts the agent of a node.
    fn join(&mut self, name: &str) {
        let mut agent = self.home.launch(name, &[]);
        agent.answers();
        self.nodes.insert(name.to_owned(), agent);
    }

    fn of(&mut self, beat: &Life) -> &mut Agent {
        self.nodes.get_mut(&beat.node).expect("the agent of a beat")
    }

    /// Waits until this beat has had some more ticks executed, and nobody else has.
    #[track_caller]
    fn is_steady(&self, beat: &Life) {
        let since = now();
        wait_for(&format!("{STEADY} ticks of the beat of {}", beat.node), || {
            let fresh: Vec<Tick> = self.executed().into_iter().filter(|tick| tick.sent > since).collect();
            assert!(fresh.iter().all(|tick| tick.token == beat.token), "not of token {}: {fresh:?}", beat.token);
            (fresh.len() >= STEADY).then_some(())
        });
        let running = self.witness.running();
        assert!(matches!(&running[..], [one] if one.pid == beat.pid), "{running:?}");
    }

    fn executed(&self) -> Vec<Tick> {
        read(&self.home.file("executed"))
    }

    fn sent(&self) -> Vec<Tick> {
        read(&self.home.file("sent"))
    }
}

/// The celery program that `make test` installs.
fn celery() -> PathBuf {
    let celery = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/celery");
    assert!(celery.exists(), "run `make test` once: it makes {}, which is missing", celery.display());
    celery
}

fn read(path: &Path) -> Vec<Tick> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let tick = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [sent, token, node, pid] = words[..] else { panic!("a torn line: {line:?}") };
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Tick { sent: number(sent), token: number(token), node: node.to_owned(), pid: number(pid) as u32 }
    };
    whole.map(tick).collect()
}

#[test]
fn one_beat_of_three_ticks_on_through_a_crash_a_shutdown_and_a_hang_and_no_tick_is_lost_or_doubled() {
    let mut celery = Celery::start();
    let first_node = &celery.nodes["a"];
    wait_for("the lease to be initialised", || {
        (first_node.ctl(&celery.home, &["lease", "init", "beat"]).code == 0).then_some(())
    });
    let first = celery.witness.first();
    celery.is_steady(&first);

    // A crash.
    let moment = now();
    celery.of(&first).signal(libc::SIGKILL);
    wait_within(Duration::from_millis(500), "the beat to die with its agent", || (!is_alive(first.pid)).then_some(()));
    celery.of(&first).ends();
    let second = celery.witness.after(&first, PATIENCE);
    println!("SIGKILL: the next beat starts after {:?}", second.started_after(moment));
    assert!(second.started_after(moment) < TTL + Duration::from_secs(1));
    celery.is_steady(&second);
    celery.join(&first.node);

    // A shutdown.
    let moment = now();
    celery.of(&second).signal(libc::SIGTERM);
    let third = celery.witness.after(&second, PATIENCE);
    celery.of(&second).exits(0);
    let end = celery.witness.children()[1].clone();
    println!(
        "SIGTERM: the next beat starts after {:?}, {:?} after the last word of the one before",
        third.started_after(moment),
        end.gap_to(&third)
    );
    assert!(end.exit.is_some(), "not stopped in order: {end:?}");
    celery.is_steady(&third);
    celery.join(&second.node);

    // A hang, from which the agent wakes when another one has taken over.
    let moment = now();
    celery.of(&third).signal(libc::SIGSTOP);
    let fourth = celery.witness.after(&third, PATIENCE);
    println!("SIGSTOP: the next beat starts after {:?}", fourth.started_after(moment));
    assert!(fourth.started_after(moment) < TTL + Duration::from_secs(1));
    celery.is_steady(&fourth);
    celery.of(&third).signal(libc::SIGCONT);
    celery.of(&third).comes_to("beat", "standby");
    celery.is_steady(&fourth);

    // The end: all beats stop, and the worker executes what is left.
    for agent in celery.nodes.values_mut().rev() {
        agent.signal(libc::SIGTERM);
        agent.exits(0);
    }
    celery.witness.check_over();
    let lives = celery.witness.children();
    wait_for("all that was sent to be executed", || {
        let executed: BTreeSet<Tick> = celery.executed().into_iter().collect();
        (celery.sent().iter().all(|tick| executed.contains(tick)) && celery.redis.number(&["LLEN", "celery"]) == 0)
            .then_some(())
    });
    celery.worker.signal(libc::SIGTERM);
    celery.worker.exits(0);
    judge(&lives, &celery.sent(), &celery.executed());
}

/// What has to be true of every run.
fn judge(lives: &[Life], sent: &[Tick], executed: &[Tick]) {
    println!("{} beats sent {} ticks, {} were executed", lives.len(), sent.len(), executed.len());
    let unique: BTreeSet<&Tick> = executed.iter().collect();
    assert_eq!(unique.len(), executed.len(), "a tick was executed twice: {executed:#?}");
    // A beat that is killed in the middle may have sent one more than it knew.
    let unknown = executed.iter().filter(|tick| !sent.contains(tick)).count();
    assert!(unknown <= 2, "executed, and never sent: {executed:#?} of {sent:#?}");
    assert!(sent.iter().all(|tick| unique.contains(tick)), "sent, and never executed: {sent:#?}, {executed:#?}");

    // Once a token was seen, no lower one is: not when sending, and not when executing.
    for ticks in [&mut sent.to_vec()[..], &mut executed.to_vec()[..]] {
        assert!(ticks.is_sorted_by_key(|tick| tick.token), "tokens are mixed: {ticks:#?}");
    }
    for tick in executed {
        let life = lives.iter().find(|life| (life.pid, life.token) == (tick.pid, tick.token));
        let life = life.unwrap_or_else(|| panic!("{tick:?} was sent by nobody of {lives:#?}"));
        assert_eq!(life.node, tick.node);
    }
    // Every second in which a beat ran has its tick, but for the time it takes to begin.
    for life in lives {
        let mut times: Vec<u64> =
            executed.iter().filter(|tick| tick.token == life.token).map(|tick| tick.sent).collect();
        times.sort_unstable();
        // A beat that was asked to stop while it began never ticked.
        let Some(first) = times.first() else { continue };
        println!(
            "the beat of {}: {} ticks, the first after {:?}",
            life.node,
            times.len(),
            Duration::from_nanos(first - life.start)
        );
        times.push(life.last);
        for pair in times.windows(2) {
            let pause = Duration::from_nanos(pair[1].saturating_sub(pair[0]));
            assert!(pause < Duration::from_secs(2), "{pause:?} without a tick: {life:?}, {times:?}");
        }
    }
}
