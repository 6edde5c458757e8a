//! Two nodes under one fault, whoever it is that keeps the child alone.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use super::agent::{self, Home, is_alive, parent_of, wait_for};
use super::net::{Host, Net};
use super::redis_server::RedisServer;
use super::verdict;
use super::witness::{Life, Witness, now};

/// A child that was silent for so long runs no more.
const SILENCE: u64 = 500_000_000;

/// Who keeps a process alone. Each with a ttl of five seconds, which is what the others come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    Agent,
    BeatCop,
    SingleBeat,
}

pub const RIVALS: [Rival; 3] = [Rival::Agent, Rival::BeatCop, Rival::SingleBeat];

impl Rival {
    pub fn name(self) -> &'static str {
        match self {
            Rival::Agent => "circus-agent",
            Rival::BeatCop => "BeatCop 1.0",
            Rival::SingleBeat => "single-beat 0.6.3",
        }
    }

    /// Where its lock stands in Redis.
    pub fn key(self) -> &'static str {
        match self {
            Rival::Agent => "circus:{rivals/beat}:lease",
            Rival::BeatCop => "beatcop:beat",
            Rival::SingleBeat => "SINGLE_BEAT_beat",
        }
    }

    /// The command that keeps `child` alone, on the node of this name.
    fn command(self, home: &Home, node: &str, redis: &Host, child: &str) -> Command {
        let at = redis.address;
        match self {
            Rival::Agent => {
                let file = home.configure(
                    node,
                    &format!(
                        "cluster = rivals\nstate_dir = {}\n\n[redis]\nurl = redis://{at}:6379\nlease_ttl = 5\n\n\
                         [watcher:beat]\ncmd = {child}\nsingleton = true\ngraceful_timeout = 2s\n",
                        home.file(&format!("{node}.state")).display()
                    ),
                );
                home.program(&[&file.display().to_string()])
            }
            Rival::BeatCop => {
                let file = home.file(&format!("{node}.ini"));
                let config = format!(
                    "[redis]\nhost = {at}\nport = 6379\n\n\
                     [beatcop]\ntimeout = 5000\nshell = no\nlockname = {}\ncommand = {child}\n",
                    self.key()
                );
                std::fs::write(&file, config).expect("a configuration");
                let mut command = Command::new(installed(".servers/beatcop/bin/beatcop"));
                command.arg(file);
                command
            }
            Rival::SingleBeat => {
                let mut command = Command::new(installed(".rivals/bin/single-beat"));
                command.args(child.split_whitespace());
                command.env("SINGLE_BEAT_REDIS_SERVER", format!("redis://{at}:6379"));
                command.env("SINGLE_BEAT_IDENTIFIER", "beat");
                command
            }
        }
    }
}

fn installed(name: &str) -> std::path::PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    assert!(program.exists(), "`make rivals` installs {name}, which is missing");
    program
}

/// A node: a host, and whoever keeps the child there.
struct Node {
    host: Host,
    keeper: Child,
    /// Whether it was ended by the scenario, and not by itself.
    ended: bool,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Two nodes, one of which runs the child.
pub struct Stage {
    pub rival: Rival,
    nodes: Vec<Node>,
    holder: usize,
    pub redis: RedisServer,
    store: Host,
    witness: Witness,
    _home: Home,
    pub net: Net,
}

impl Stage {
    /// Starts one node, waits until it runs the child, and then the other one, which by and by waits for its turn.
    pub fn start(rival: Rival, child: &str) -> Stage {
        let (mut net, home) = (Net::new(), Home::new());
        let store = net.host();
        let redis =
            store.run(|| RedisServer::start_at(&store.address.to_string(), 6379, &[], &["--protected-mode", "no"]));
        let witness = Witness::new(home.path());
        let child = witness.command(&format!("unlocked {child}"));
        let mut nodes = Vec::new();
        for name in ["a", "b"] {
            // The first one has it. When the other one comes to look for it is chance.
            thread::sleep(chance(Duration::from_secs(2)));
            let host = net.host();
            let log = || File::options().create(true).append(true).open(home.file(&format!("{name}.log")));
            let mut command = rival.command(&home, name, &store, child.trim_end());
            command.env("CIRCUS_NODE", name).stdin(Stdio::null());
            command.stdout(log().expect("a log")).stderr(log().expect("a log"));
            // SAFETY: between fork and exec only prctl is called, which is safe there.
            unsafe {
                command.pre_exec(|| {
                    // Who measures and is killed drops nothing.
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    Ok(())
                });
            }
            let keeper = host.run(|| command.spawn().expect("it starts"));
            nodes.push(Node { host, keeper, ended: false });
            let first = witness.first();
            assert_eq!(first.node, "a");
        }
        // Until it has looked, and then until the fault comes at any moment of their ttl.
        thread::sleep(Duration::from_secs(3) + chance(Duration::from_secs(5)));
        Stage { rival, nodes, holder: 0, redis, store, witness, _home: home, net }
    }

    /// Sends a signal to who keeps the child, and not to the child.
    pub fn signal_holder(&mut self, signal: i32) {
        agent::send(self.nodes[self.holder].keeper.id(), signal);
    }

    /// Sends it a signal that is to end it.
    pub fn end_holder(&mut self, signal: i32) {
        self.nodes[self.holder].ended = true;
        self.signal_holder(signal);
    }

    pub fn cut_off_holder(&mut self) {
        self.net.isolate(&self.nodes[self.holder].host);
    }

    /// Starts Redis again, with nothing in it.
    pub fn restart_redis(&mut self) {
        let (store, redis) = (self.store.clone(), &mut self.redis);
        store.run(|| redis.restart());
    }

    /// Does this, watches, and ends all.
    pub fn play(mut self, fault: fn(&mut Stage), watched: Duration) -> Outcome {
        let before = self.witness.children();
        assert!(matches!(&before[..], [one] if is_alive(one.pid)), "{:?} before the fault: {before:?}", self.rival);
        let began = now();
        fault(&mut self);
        let ends = began + watched.as_nanos() as u64;
        thread::sleep(Duration::from_nanos(ends.saturating_sub(now())));
        let lives = self.witness.lives();
        let left: Vec<String> =
            lives.iter().filter(|life| self.is_orphan(life, &lives)).map(|life| life.pid.to_string()).collect();
        let two_now = lives.iter().filter(|life| life.parent.is_none() && is_alive(life.pid)).count() > 1;
        let gave_up = self
            .nodes
            .iter_mut()
            .filter_map(|node| node.keeper.try_wait().expect("a child").filter(|_| !node.ended))
            .count();
        let verdict = verdict::judge(&lives, &[], &[], &left);
        let outcome = Outcome {
            two: verdict.overlap,
            two_now,
            nobody: longest_pause(&lives, began, ends),
            nobody_now: !lives.iter().any(|life| life.parent.is_none() && is_alive(life.pid)),
            orphans: left.len(),
            gave_up,
        };
        self.end();
        outcome
    }

    /// Whether something runs that nobody keeps, and that is no part of a child which somebody keeps.
    fn is_orphan(&self, life: &Life, lives: &[Life]) -> bool {
        let kept = |pid: u32| {
            let mut above = std::iter::successors(Some(pid), |pid| parent_of(*pid).filter(|parent| *parent > 1));
            above.any(|pid| self.nodes.iter().any(|node| node.keeper.id() == pid && is_alive(pid)))
        };
        let of_one_that_is_kept =
            lives.iter().any(|one| Some(one.pid) == life.parent && is_alive(one.pid) && kept(one.pid));
        is_alive(life.pid) && !kept(life.pid) && !of_one_that_is_kept
    }

    /// Ends who keeps the child, and whatever that left behind.
    fn end(mut self) {
        self.nodes.clear();
        wait_for("the last child to end", || {
            let running = self.witness.running();
            running.iter().for_each(|life| agent::send(life.pid, libc::SIGKILL));
            running.is_empty().then_some(())
        });
    }
}

/// Any time up to this one.
fn chance(limit: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    limit.mul_f64(f64::from(now.subsec_micros() % 1_000) / 1_000.0)
}

/// The longest time without a sign of life of any child.
fn longest_pause(lives: &[Life], from: u64, until: u64) -> Duration {
    let (mut covered, mut longest) = (from, 0);
    // Those without a parent, in the order of their beginnings.
    for life in lives.iter().filter(|life| life.parent.is_none() && life.last >= from) {
        longest = longest.max(life.start.saturating_sub(covered));
        covered = covered.max(life.last);
    }
    let rest = until.saturating_sub(covered);
    Duration::from_nanos(longest.max(if rest > SILENCE { rest } else { 0 }))
}

/// What one fault came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// For how long two ran at once, and whether they did when it ended.
    two: Duration,
    two_now: bool,
    /// For how long no child ran, and whether none did when it ended.
    nobody: Duration,
    nobody_now: bool,
    /// What ran in the end, and was nobody's.
    orphans: usize,
    /// How many of the two had ended of themselves.
    gave_up: usize,
}

impl Outcome {
    /// Never two, nothing left behind, and one runs.
    pub fn is_good(&self) -> bool {
        self.two.is_zero() && self.orphans == 0 && self.gave_up == 0 && !self.nobody_now
    }
}

/// Several outcomes of one fault, in a cell of a table.
pub fn tell(outcomes: &[Outcome]) -> String {
    let runs = outcomes.len();
    let times = |is: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|one| is(one)).count();
    let often = |count: usize| if count == runs { String::new() } else { format!(" ({count} of {runs})") };
    let mut cell = Vec::new();
    let two = times(&|one| !one.two.is_zero());
    if two > 0 {
        let longest = outcomes.iter().map(|one| one.two).max().unwrap_or_default();
        let on = if times(&|one| one.two_now) > 0 { " and on" } else { "" };
        cell.push(format!("**two** for {}{on}{}", seconds(longest), often(two)));
    }
    let left = times(&|one| one.orphans > 0);
    if left > 0 {
        cell.push(format!("**left behind**{}", often(left)));
    }
    let gone = times(&|one| one.nobody_now);
    if gone > 0 {
        cell.push(format!("**nobody** in the end{}", often(gone)));
    } else {
        let gaps = || outcomes.iter().map(|one| one.nobody);
        let (least, most) = (gaps().min().unwrap_or_default(), gaps().max().unwrap_or_default());
        match (seconds(least), seconds(most)) {
            // Where two run, or one that nobody keeps, this is no merit.
            (_, most) if most == "0 s" && !cell.is_empty() => {}
            (_, most) if most == "0 s" => cell.push("no gap".into()),
            (least, most) if least == most => cell.push(format!("gap {most}")),
            (least, most) => cell.push(format!("gap {} to {most}", least.trim_end_matches(" s"))),
        }
    }
    let both = times(&|one| one.gave_up > 0);
    if both > 0 {
        let most = outcomes.iter().map(|one| one.gave_up).max().unwrap_or_default();
        cell.push(format!("{most} of 2 ended{}", often(both)));
    }
    cell.join(", ")
}

/// Hundredths below a tenth of a second, tenths above.
fn seconds(time: Duration) -> String {
    let time = time.as_secs_f64();
    match time {
        _ if time < 0.005 => "0 s".into(),
        _ if time < 0.1 => format!("{time:.2} s"),
        _ => format!("{time:.1} s"),
    }
}
