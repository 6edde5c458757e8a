//! Random commands, changed files and kills, against one real agent: in the end each watcher has what is wanted of it.
//!
//! A round is some hundred steps, drawn from a seed, at the pace of the same seed: the same seed gives the same steps.
//! Then all is settled, and looked at from outside. `CIRCUS_SEED` is the first round's seed, the next one has the next;
//! `CIRCUS_SOAK_SECONDS` is how long rounds are begun. A round that failed is repeated with its own seed and no seconds.

#![allow(clippy::print_stdout)] // What was done and measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/witness.rs"]
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use circus_agent::model::random::Random;
use serde_json::{Value, json};

use agent::{Agent, Home, is_alive, send, variable_of, wait_within};
use witness::Witness;

/// The steps of one round.
const STEPS: usize = 150;
/// The longest pause between two of them.
const PAUSE: Duration = Duration::from_millis(40);
/// How long the agent may take to settle: longer than any pause between two tries of what was tried that often.
const SETTLING: Duration = Duration::from_secs(60);
/// How much memory a round may leave behind, for what is kept of output and events, in bytes.
const MEMORY: u64 = 64 << 20;
/// The watchers of the file, and how many processes it wants of each.
const WATCHERS: [(&str, u64); 13] = [
    ("plain", 2),
    ("many", 4),
    ("crash", 1),
    ("ends", 1),
    ("deaf", 2),
    ("loud", 2),
    ("hooked", 1),
    ("beat", 1),
    ("db", 1),
    ("app", 2),
    ("family", 2),
    ("job", 2),
    ("changeling", 1),
];
/// Those that never stay up.
const FAILING: [&str; 2] = ["crash", "ends"];
/// Those that only commands add.
const EXTRA: [&str; 2] = ["extra-1", "extra-2"];
/// Why a command may be refused: for what it says, or for what its watcher does. Never because of another command.
const REFUSALS: [&str; 11] = [
    "not found",
    "already exist",
    "was removed meanwhile",
    "was started again meanwhile",
    "again in",
    "keeps its old processes",
    "times in a row",
    "and respawn is off",
    "the configuration cannot be applied",
    "is a singleton",
    "numprocesses",
];

/// What is done next.
#[derive(Debug, Clone)]
enum Step {
    /// A command over the control socket.
    Ask(Value),
    /// The file becomes this one, and is applied by a command.
    Reload { file: usize, waiting: bool },
    /// The same by SIGHUP.
    Hup { file: usize },
    /// SIGKILL for one of all that descend from the agent.
    Kill(u64),
}

/// The steps of a seed.
struct Schedule(Random);

impl Schedule {
    fn below(&mut self, end: u64) -> u64 {
        self.0.number() % end
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Mostly one of the file's.
    fn watcher(&mut self) -> &'static str {
        match self.below(15) {
            index @ 0..13 => WATCHERS[index as usize].0,
            index => EXTRA[(index - 13) as usize],
        }
    }

    fn next(&mut self) -> (Step, Duration) {
        let step = match self.below(24) {
            0..4 => Step::Kill(self.0.number()),
            4 => Step::Hup { file: self.below(3) as usize },
            5 | 6 => Step::Reload { file: self.below(3) as usize, waiting: self.below(2) == 0 },
            _ => Step::Ask(self.command()),
        };
        (step, self.0.below(PAUSE))
    }

    fn command(&mut self) -> Value {
        let name = self.watcher();
        let mut properties = json!({"name": name, "waiting": self.below(3) == 0});
        let command = match self.below(16) {
            0 | 1 => "start",
            2 => "stop",
            3 | 4 => self.one(&["restart", "start"]),
            5 | 6 => {
                properties["graceful"] = json!(self.below(4) > 0);
                properties["sequential"] = json!(self.below(2) == 0);
                "reload"
            }
            7 => "incr",
            8 => "decr",
            9 | 10 => {
                properties["options"] = self.options(name);
                "set"
            }
            11 => {
                let name = self.one(&EXTRA);
                properties =
                    json!({"name": name, "cmd": "sleep 1000", "start": true, "waiting": properties["waiting"]});
                "add"
            }
            12 => "rm",
            13 => {
                let signum = self.one(&["HUP", "USR1", "TERM", "STOP", "CONT", "KILL"]);
                properties = json!({"name": name, "signum": signum, "recursive": self.below(2) == 0});
                "signal"
            }
            14 => {
                properties["graceful_timeout"] = json!(self.one(&[0.0, 0.1, 1.0]));
                "kill"
            }
            _ => {
                properties = json!({});
                // All at once, and what only looks.
                self.one(&["restart", "reload", "stop", "start", "status", "stats", "list", "plan", "numprocesses"])
            }
        };
        json!({"command": command, "properties": properties})
    }

    fn options(&mut self, name: &str) -> Value {
        match self.below(6) {
            0 => json!({"numprocesses": self.below(4)}),
            1 => json!({"graceful_timeout": self.one(&[0.1, 0.5])}),
            2 => json!({"env": {"VERSION": self.below(9).to_string()}, "copy_env": true}),
            3 => json!({"priority": self.below(5)}),
            4 if name == "changeling" => json!({"singleton": self.below(2) == 0}),
            4 => json!({"respawn": self.below(3) > 0}),
            _ => json!({"max_retry": self.below(9), "warmup_delay": self.one(&[0.0, 0.02])}),
        }
    }
}

/// The configuration as it is at first and in the end, a changed one, and one that is wrong.
fn files(home: &Home, witness: &Witness) -> [String; 3] {
    let dir = home.path().display();
    let deaf = home.script("deaf", "trap '' TERM; while :; do sleep 0.5; done");
    let loud = home.script("loud", "while :; do echo 'a line that is written over and over again'; sleep 0.01; done");
    let family = home.script(
        "family",
        "sleep 1000 & (setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & wait; sleep 1000' &); setsid sleep 1000 & wait",
    );
    // The grace is short for all: whoever was sent SIGSTOP needs all of it.
    let good = format!(
        "[watcher:plain]\ncmd = sleep 1000\nnumprocesses = 2\n\
         [watcher:many]\ncmd = sleep 1000\nnumprocesses = 4\nstdout_stream.class = QueueStream\n\
         [watcher:crash]\ncmd = {crash}\n\
         [watcher:ends]\ncmd = /bin/false\nmax_retry = 3\n\
         [watcher:deaf]\ncmd = {deaf}\nnumprocesses = 2\n\
         [watcher:loud]\ncmd = {loud}\nnumprocesses = 2\nstop_children = True\n\
         stdout_stream.class = FileStream\nstdout_stream.filename = {dir}/loud.out\n\
         stdout_stream.max_bytes = 10000\nstdout_stream.backup_count = 2\n\
         [watcher:hooked]\ncmd = sleep 1000\nhooks.before_start = /bin/true\nhooks.after_stop = /bin/true\n\
         hooks.before_signal = /bin/true\nhooks.after_reap = /bin/true\nhooks.before_spawn = /bin/true\n\
         [watcher:beat]\ncmd = {beat}\nsingleton = True\nlease_ttl = 3\n\
         [watcher:db]\ncmd = sleep 1000\nready = timer 0.1\n\
         [watcher:app]\ncmd = {app}\nnumprocesses = 2\nafter = db\nready = log up\nready_timeout = 5\n\
         stdout_stream.class = QueueStream\n\
         [watcher:family]\ncmd = {family}\nnumprocesses = 2\n\
         [watcher:job]\ncmd = sleep 1000\nnumprocesses = 2\nrespawn = False\n\
         [watcher:changeling]\ncmd = sleep 1000\nlease_ttl = 3\n",
        crash = home.script("crash", "sleep 0.1; exit 3"),
        app = home.script("app", "echo up; exec sleep 1000"),
        beat = witness.command("grace=0.05"),
    );
    let good = good.replace("]\ncmd", "]\ngraceful_timeout = 0.4\ncmd");
    let changed = good
        .replace(
            "[watcher:plain]\ncmd = sleep 1000\nnumprocesses = 2",
            "[watcher:plain]\ncmd = sleep 2000\nnumprocesses = 3",
        )
        .replace("[watcher:family]", "[watcher:new]")
        .replace("after = db", "after = db, plain")
        .replace("singleton = True\nlease_ttl = 3", "singleton = True\nlease_ttl = 4");
    let bad = good.replace("numprocesses = 4", "numprocesses = four");
    [good, changed, bad]
}

/// A connection to the agent; its replies are collected as they come.
struct Door(UnixStream);

/// Each command, and the replies to it.
type Replies = Arc<Mutex<BTreeMap<u64, (Value, Vec<Value>)>>>;

impl Door {
    fn open(agent: &Agent, replies: &Replies) -> Door {
        let stream = UnixStream::connect(&agent.socket).expect("the control socket");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let replies = Arc::clone(replies);
        thread::spawn(move || {
            for line in reader.lines() {
                let Ok(line) = line else { break };
                let reply: Value = serde_json::from_str(&line).expect("JSON");
                let id = reply["id"].as_u64().expect("an id of ours");
                replies.lock().expect("the replies").get_mut(&id).expect("a command of ours").1.push(reply);
            }
        });
        Door(stream)
    }
}

/// The agent, what was asked of it, and what it runs.
struct Soak {
    agent: Agent,
    home: Home,
    witness: Witness,
    files: [String; 3],
    doors: Vec<Door>,
    replies: Replies,
    asked: u64,
}

impl Soak {
    fn begin() -> Soak {
        let home = Home::new();
        let witness = Witness::new(home.path());
        let files = files(&home, &witness);
        let agent = home.agent("a", &files[0]);
        let replies = Replies::default();
        let doors = (0..16).map(|_| Door::open(&agent, &replies)).collect();
        Soak { agent, home, witness, files, doors, replies, asked: 0 }
    }

    /// Puts a command to the agent, and waits for nothing.
    fn ask(&mut self, mut command: Value) -> u64 {
        self.asked += 1;
        command["id"] = json!(self.asked);
        self.replies.lock().expect("the replies").insert(self.asked, (command.clone(), Vec::new()));
        let door = &mut self.doors[(self.asked % 16) as usize];
        writeln!(door.0, "{command}").expect("the control socket");
        self.asked
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask(command) => drop(self.ask(command)),
            Step::Reload { file, waiting } => {
                self.home.configure("a", &self.files[file]);
                self.ask(json!({"command": "reloadconfig", "properties": {"waiting": waiting}}));
            }
            Step::Hup { file } => {
                self.home.configure("a", &self.files[file]);
                self.agent.signal(libc::SIGHUP);
            }
            Step::Kill(which) => {
                let there: Vec<u32> = self.agent.descendants().into_iter().collect();
                if let Some(pid) = there.get((which % there.len().max(1) as u64) as usize) {
                    send(*pid, libc::SIGKILL);
                }
            }
        }
    }

    /// Removes all that is there, and has the first file applied: what comes of that is known.
    fn mend(&mut self) {
        self.home.configure("a", "");
        let empty = self.ask(json!({"command": "reloadconfig", "properties": {"waiting": true}}));
        self.replied(empty);
        let names: Vec<String> = self.watchers().into_keys().collect();
        for name in names {
            let removed = self.ask(json!({"command": "rm", "properties": {"name": name, "waiting": true}}));
            self.replied(removed);
        }
        self.home.configure("a", &self.files[0]);
        let again = self.ask(json!({"command": "reloadconfig"}));
        self.replied(again);
    }

    /// Waits for the reply to a command.
    fn replied(&self, id: u64) {
        wait_within(SETTLING, &format!("a reply to command {id}"), || {
            (!self.replies.lock().expect("the replies")[&id].1.is_empty()).then_some(())
        });
    }

    /// The watchers as `status` shows them.
    fn watchers(&self) -> BTreeMap<String, Value> {
        let status = self.agent.ask(&json!({"command": "status"}));
        let watchers = status["watchers"].as_array().cloned().unwrap_or_default();
        watchers.into_iter().map(|watcher| (watcher["name"].as_str().unwrap_or_default().to_owned(), watcher)).collect()
    }

    /// Waits until what `status` says is what there is, and each watcher is as `judge` wants it.
    #[track_caller]
    fn settles(&self, judge: impl Fn(&str, &Value) -> Result<(), String>) {
        let deadline = Instant::now() + SETTLING;
        loop {
            let watchers = self.watchers();
            let judged = watchers.iter().try_for_each(|(name, watcher)| judge(name, watcher));
            match judged.and_then(|()| self.compare(&watchers)) {
                Ok(()) => return,
                Err(why) => assert!(Instant::now() < deadline, "it does not settle: {why}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether exactly those processes are there that `status` shows, each with nothing but its own.
    fn compare(&self, watchers: &BTreeMap<String, Value>) -> Result<(), String> {
        let mut families: BTreeSet<String> = BTreeSet::new();
        for (name, watcher) in watchers {
            let processes = watcher["processes"].as_array().into_iter().flatten();
            for pid in processes.filter_map(|process| process["pid"].as_u64()) {
                let pid = pid as u32;
                let of = variable_of(pid, "CIRCUS_WATCHER");
                if !is_alive(pid) || of.as_deref() != Some(name) {
                    return Err(format!("{pid} should be {name}'s, and is {of:?}'s: {watcher}"));
                }
                families.extend(variable_of(pid, "CIRCUS_PROCESS"));
            }
        }
        for (pid, words) in self.home.left() {
            let family = variable_of(pid, "CIRCUS_PROCESS").unwrap_or_default();
            if !families.contains(&family) {
                return Err(format!("{pid} belongs to no process that runs: {words}, {family}"));
            }
        }
        match self.agent.descendants().into_iter().find(|pid| !is_alive(*pid)) {
            Some(pid) => Err(format!("{pid} is a zombie")),
            None => Ok(()),
        }
    }

    /// Judges the replies so far: one to each, and none refused for what another command does.
    #[track_caller]
    fn check_replies(&self) {
        wait_within(SETTLING, "a reply to each command", || {
            self.replies.lock().expect("the replies").values().all(|(_, replies)| !replies.is_empty()).then_some(())
        });
        for (command, replies) in self.replies.lock().expect("the replies").values() {
            let [reply] = &replies[..] else { panic!("{command} was answered with {replies:?}") };
            let reason = reply["reason"].as_str().unwrap_or_default();
            let known = reply["status"] == "ok" || REFUSALS.iter().any(|known| reason.contains(known));
            assert!(known, "{command} was refused: {reply}");
        }
    }

    /// Stops all.
    fn rest(&mut self) {
        let stopped = self.ask(json!({"command": "stop", "properties": {"waiting": true}}));
        self.replied(stopped);
        self.settles(|name, watcher| match watcher["state"].as_str() {
            Some("stopped" | "failed") => Ok(()),
            state => Err(format!("{name} is {state:?}")),
        });
        assert_eq!(self.home.left(), [].into());
    }

    /// How many descriptors the agent has open: the fewest seen in a while, as it may not have heard yet that the last
    /// one who asked has hung up.
    fn open_files(&self) -> usize {
        let look = |_| {
            thread::sleep(Duration::from_millis(10));
            self.agent.open_files()
        };
        (0..20).map(look).min().unwrap_or_default()
    }
}

/// Whether a watcher is as the first file wants it.
fn as_wanted(name: &str, watcher: &Value) -> Result<(), String> {
    let wanted = WATCHERS.iter().find(|(own, _)| *own == name).map(|(_, wanted)| *wanted);
    let there = watcher["processes"].as_array().map_or(0, Vec::len) as u64;
    let as_it_should = match watcher["state"].as_str() {
        _ if watcher["numprocesses"].as_u64() != wanted => false,
        Some("active") => Some(there) == wanted,
        Some(_) => FAILING.contains(&name),
        None => false,
    };
    if as_it_should { Ok(()) } else { Err(format!("{wanted:?} processes of {name} are wanted: {watcher}")) }
}

/// Whether a watcher has come to rest, whatever was done to it; what waits for another waits.
fn settled(name: &str, watcher: &Value) -> Result<(), String> {
    let there = watcher["processes"].as_array().map_or(0, Vec::len) as u64;
    let ended = watcher["note"].as_str().unwrap_or_default();
    let rests = match watcher["state"].as_str() {
        Some("active") => watcher["numprocesses"].as_u64() == Some(there) || ended.contains("respawn is off"),
        Some("stopped" | "failed") => there == 0,
        Some("starting") => ended.starts_with("waits for "),
        Some("backoff") => true,
        _ => false,
    };
    if rests { Ok(()) } else { Err(format!("{name} does not come to rest: {watcher}")) }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn random_commands_kills_and_files_end_with_what_is_wanted() {
    let lasts = Duration::from_secs(number("CIRCUS_SOAK_SECONDS").unwrap_or(15));
    // The same for everybody, so that a failure is a change's and not chance's; longer runs draw others.
    let mut seed = number("CIRCUS_SEED").unwrap_or(1);
    let began = Instant::now();
    let mut soak = Soak::begin();
    soak.settles(as_wanted);
    soak.rest();
    let (files, memory) = (soak.open_files(), soak.agent.memory());
    loop {
        println!("CIRCUS_SEED={seed}");
        let mut schedule = Schedule(Random::from_number(seed));
        for _ in 0..STEPS {
            let (step, pause) = schedule.next();
            soak.take(step);
            thread::sleep(pause);
        }
        soak.settles(settled);
        soak.mend();
        soak.settles(as_wanted);
        assert_eq!(soak.watchers().len(), WATCHERS.len());
        soak.check_replies();
        soak.witness.check();
        soak.rest();
        let (files_now, memory_now) = (soak.open_files(), soak.agent.memory());
        println!(
            "{} commands; descriptors: {files}, now {files_now}; memory: {} MB, now {} MB",
            soak.asked,
            memory >> 20,
            memory_now >> 20
        );
        assert!(files_now <= files, "{files} descriptors became {files_now}");
        assert!(memory_now < memory + MEMORY, "{memory} bytes of memory became {memory_now}");
        seed += 1;
        if began.elapsed() >= lasts {
            break;
        }
        let started = soak.ask(json!({"command": "start"}));
        soak.replied(started);
    }
    assert!(!soak.agent.log().contains("panicked"), "{}", soak.agent.log());
    soak.agent.signal(libc::SIGTERM);
    soak.agent.exits(0);
    soak.home.is_clean();
    soak.witness.check();
    fs::metadata(soak.home.file("a.sock")).expect_err("the control socket is left behind");
}
