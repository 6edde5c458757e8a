//! Random commands, changed files, kills and clients, against one real agent: in the end each watcher has what is wanted
//! of it, and whoever connects to a socket is served.
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
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use circus_agent::model::random::Random;
use serde_json::{Value, json};
use socket2::{SockAddr, Socket, Type};

use agent::{Agent, Home, PATIENCE, is_alive, is_stopped, send, variable_of, wait_for, wait_within};
use witness::Witness;

/// The steps of one round.
const STEPS: usize = 150;
/// The longest pause between two of them.
const PAUSE: Duration = Duration::from_millis(40);
/// The longest time that a client stays.
const STAY: Duration = Duration::from_millis(500);
/// How many connect to a socket that is to serve all, and where some could be lost in one of several queues.
const CLIENTS: (usize, usize) = (4, 24);
/// After so many steps it is looked whether all sockets are there.
const LOOKS: usize = 30;
/// How long the agent may take to settle: longer than any pause between two tries of what was tried that often.
const SETTLING: Duration = Duration::from_secs(60);
/// How much memory a round may leave behind, for what is kept of output and events, in bytes.
const MEMORY: u64 = 64 << 20;
/// The watchers of the file, and how many processes it wants of each.
const WATCHERS: [(&str, u64); 19] = [
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
    ("server", 2),
    ("spread", 3),
    ("all", 1),
    ("sleeper", 2),
    ("napper", 2),
    ("once", 1),
];
/// Those that have sockets.
const SERVERS: [&str; 6] = ["server", "spread", "all", "sleeper", "napper", "once"];
/// Those that sleep while nobody wants anything.
const SLEEPERS: [&str; 3] = ["sleeper", "napper", "once"];
/// The sockets of the files, and one that only commands add.
const SOCKETS: [&str; 9] = ["web", "unix", "lanes", "bed", "udp", "datagrams", "nap", "once", "spare"];
/// Those that never stay up.
const FAILING: [&str; 2] = ["crash", "ends"];
/// What those with sockets run. Without the site's packages it starts in a few milliseconds.
const GREETER: &str = concat!("/usr/bin/python3 -I -S ", env!("CARGO_MANIFEST_DIR"), "/tests/support/greeter.py");
/// Those that only commands add.
const EXTRA: [&str; 2] = ["extra-1", "extra-2"];
/// Why a command may be refused: for what it says, or for what its watcher does. Never because of another command.
const REFUSALS: [&str; 19] = [
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
    "is used by",
    "is there already",
    "there is no socket",
    "may not have socket",
    "nobody can want anything",
    "cannot sleep until it is wanted",
    "hands all sockets down",
    "EADDRINUSE",
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
    /// Somebody connects to one of the sockets that there are, and stays for so long.
    Visit { which: u64, stay: Duration },
    /// Somebody removes the path of one of them, as servers do that think it theirs.
    Unlink(u64),
}

/// The steps of a seed.
struct Schedule {
    random: Random,
    places: Places,
}

impl Schedule {
    fn below(&mut self, end: u64) -> u64 {
        self.random.number() % end
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Mostly one of the file's.
    fn watcher(&mut self) -> &'static str {
        let index = self.below((WATCHERS.len() + EXTRA.len()) as u64) as usize;
        WATCHERS.get(index).map_or_else(|| EXTRA[index - WATCHERS.len()], |(name, _)| *name)
    }

    fn next(&mut self) -> (Step, Duration) {
        let step = match self.below(36) {
            0..4 => Step::Kill(self.random.number()),
            4 => Step::Hup { file: self.below(FILES) as usize },
            5 | 6 => Step::Reload { file: self.below(FILES) as usize, waiting: self.below(2) == 0 },
            7..13 => Step::Visit { which: self.random.number(), stay: self.random.below(STAY) },
            13 => Step::Unlink(self.random.number()),
            14..20 => Step::Ask(self.socket_command()),
            _ => Step::Ask(self.command()),
        };
        (step, self.random.below(PAUSE))
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
                let (name, waiting) = (self.one(&EXTRA), properties["waiting"].take());
                let sockets = self.one(&["web", "unix, lanes", "spare"]);
                properties = match self.below(3) {
                    0 => json!({"cmd": GREETER, "options": {"sockets": sockets}}),
                    1 => {
                        json!({"cmd": GREETER, "options": {"sockets": sockets, "on_demand": true, "idle_timeout": 0.1}})
                    }
                    _ => json!({"cmd": "sleep 1000"}),
                };
                properties["name"] = json!(name);
                properties["start"] = json!(true);
                properties["waiting"] = waiting;
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

    fn socket_command(&mut self) -> Value {
        let (socket, waiting) = (self.one(&SOCKETS), self.below(3) == 0);
        let (command, properties) = match self.below(8) {
            0 => ("addsocket", json!({"name": "spare", "options": self.place(false), "waiting": waiting})),
            1 | 2 => ("rmsocket", json!({"name": self.one(&[socket, "spare"]), "waiting": waiting})),
            3..6 => {
                let is_unix = matches!(socket, "unix" | "bed");
                let options = match self.below(5) {
                    0 => json!({"backlog": self.one(&[1, 16, 100])}),
                    1 => json!({"blocking": self.below(2) == 0}),
                    2 if is_unix => json!({"umask": self.one(&["0o077", "0o007"])}),
                    2 => json!({"so_reuseport": self.below(2) == 0}),
                    _ => self.place(is_unix),
                };
                ("setsocket", json!({"name": socket, "options": options, "waiting": waiting}))
            }
            6 => {
                let options = match self.below(3) {
                    0 => json!({"sockets": self.one(&["web", "lanes, unix", "spare", "bed", "udp"])}),
                    1 => json!({"on_demand": self.below(2) == 0}),
                    _ => json!({"idle_timeout": self.one(&[0.05, 0.2])}),
                };
                ("set", json!({"name": self.one(&SERVERS), "options": options, "waiting": waiting}))
            }
            _ => ("listsockets", json!({})),
        };
        json!({"command": command, "properties": properties})
    }

    /// Where else a socket may be.
    fn place(&mut self, is_unix: bool) -> Value {
        match (is_unix, self.below(4)) {
            (true, _) => {
                let name = self.one(&["unix", "bed", "other"]);
                json!({"path": self.places.path(name)})
            }
            (_, 1) => json!({"host": self.one(&["127.0.0.1", "127.0.0.2", "0.0.0.0"]), "port": 0}),
            (_, 2) => json!({"host": self.one(&["127.0.0.1", "127.0.0.2", "0.0.0.0"])}),
            _ => json!({"port": self.places.port + self.below(Places::PORTS.into()) as u16}),
        }
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

/// Where sockets may be.
#[derive(Debug, Clone)]
struct Places {
    /// The first of those ports that are this test's.
    port: u16,
    /// A directory in which there are only paths of sockets.
    dir: PathBuf,
    /// A port that somebody else has.
    taken: u16,
}

impl Places {
    /// How many ports.
    const PORTS: u16 = 8;

    fn new(home: &Home, taken: &TcpListener) -> Places {
        let dir = home.file("sockets");
        fs::create_dir(&dir).expect("a directory for sockets");
        // Below those that clients get, which would be in the way now and then; elsewhere for each test that runs.
        let is_free = |port: &u16| {
            let all = |port| (TcpListener::bind(("0.0.0.0", port)).is_ok(), UdpSocket::bind(("0.0.0.0", port)).is_ok());
            (*port..port + Places::PORTS).all(|port| all(port) == (true, true))
        };
        let first = 20_000 + (std::process::id() % 1_000) as u16 * Places::PORTS;
        let port = (first..30_000).step_by(Places::PORTS.into()).find(is_free).expect("free ports");
        Places { port, dir, taken: taken.local_addr().expect("an address").port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What is there, the hidden names beside paths included.
    fn paths(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).expect("the directory for sockets").flatten();
        entries.map(|entry| entry.path()).collect()
    }
}

/// How many files there are.
const FILES: u64 = 5;

/// The configuration as it is at first and in the end, two changed ones, one with a socket that cannot be had, and one
/// that is wrong.
fn files(home: &Home, witness: &Witness, places: &Places) -> [String; FILES as usize] {
    let dir = home.path().display();
    let greeter = GREETER;
    let path = |name: &str| places.path(name).display().to_string();
    let port = |number: u16| places.port + number;
    let [web, lanes, udp, nap, moved] = [0, 1, 2, 3, 4].map(port);
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
         [watcher:changeling]\ncmd = sleep 1000\nlease_ttl = 3\n\
         [socket:web]\nhost = 127.0.0.1\nport = {web}\n\
         [socket:unix]\npath = {unix}\n\
         [socket:lanes]\nhost = 127.0.0.1\nport = {lanes}\nso_reuseport = True\n\
         [socket:udp]\ntype = SOCK_DGRAM\nhost = 127.0.0.1\nport = {udp}\n\
         [socket:bed]\npath = {bed}\nwatchers = sleeper\n\
         [socket:nap]\nhost = 127.0.0.1\nport = {nap}\nso_reuseport = True\nwatchers = napper\n\
         [socket:once]\nhost = 127.0.0.1\nport = 0\nwatchers = once\n\
         [watcher:server]\ncmd = {greeter}\nnumprocesses = 2\nsockets = web, unix\n\
         [watcher:spread]\ncmd = {greeter}\nnumprocesses = 3\nsockets = lanes\nstdin_socket = web\n\
         [watcher:all]\ncmd = {greeter}\nuse_sockets = True\n\
         [watcher:sleeper]\ncmd = {greeter}\nnumprocesses = 2\nsockets = bed\non_demand = True\nidle_timeout = 0.2\n\
         [watcher:napper]\ncmd = {greeter}\nnumprocesses = 2\nsockets = nap\non_demand = True\nidle_timeout = 0.1\n\
         [watcher:once]\ncmd = {greeter} once\nsockets = once\non_demand = True\n",
        unix = path("unix"),
        bed = path("bed"),
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
        .replace("singleton = True\nlease_ttl = 3", "singleton = True\nlease_ttl = 4")
        .replace(&format!("port = {web}\n"), &format!("port = {moved}\n"))
        .replace(
            &format!("path = {}\n", path("unix")),
            &format!("path = {}\numask = 0o077\nbacklog = 3\n", path("unix")),
        )
        .replace(&format!("path = {}\n", path("bed")), &format!("path = {}\n", path("other")))
        .replace(&format!("port = {lanes}\nso_reuseport = True\n"), &format!("port = {lanes}\n"))
        .replace("[socket:udp]", "[socket:datagrams]")
        .replace("host = 127.0.0.1\nport = 0", "host = 127.0.0.2\nport = 0");
    // Two that change places, each with all that it is, and one that gets all addresses.
    let swapped = good
        .replace("[socket:web]", "[socket:LANES]")
        .replace("[socket:lanes]", "[socket:web]")
        .replace("[socket:LANES]", "[socket:lanes]")
        .replace(&path("unix"), &path("UNIX"))
        .replace(&path("bed"), &path("unix"))
        .replace(&path("UNIX"), &path("bed"))
        .replace(&format!("host = 127.0.0.1\nport = {nap}\n"), &format!("port = {nap}\n"));
    let unavailable = changed.replace(&format!("port = {moved}\n"), &format!("port = {}\n", places.taken));
    let bad = good.replace("numprocesses = 4", "numprocesses = four");
    [good, changed, swapped, unavailable, bad]
}

/// A socket that is open, as `listsockets` shows it.
#[derive(Debug, Clone, PartialEq)]
struct Open {
    name: String,
    fd: u64,
    kind: Type,
    place: SockAddr,
    shown: Value,
}

impl Open {
    /// Nothing while it is being opened.
    fn of(shown: &Value) -> Option<Open> {
        let kind = if shown["type"] == "SOCK_DGRAM" { Type::DGRAM } else { Type::STREAM };
        let place = match shown["path"].as_str() {
            Some(path) => SockAddr::unix(path).expect("a path"),
            None => {
                let ip: IpAddr = shown["host"].as_str()?.parse().expect("an address");
                let port = u16::try_from(shown["port"].as_u64()?).expect("a port");
                SockAddr::from(SocketAddr::new(ip, port))
            }
        };
        let name = shown["name"].as_str().expect("a name").to_owned();
        Some(Open { name, fd: shown["fd"].as_u64()?, kind, place, shown: shown.clone() })
    }

    /// The watchers that have it.
    fn users(&self) -> BTreeSet<&str> {
        self.shown["watchers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn has_lanes(&self) -> bool {
        self.shown["so_reuseport"] == true
    }

    /// Connects, or sends; who waits in a full queue for so long is given up.
    fn connect(&self, patience: Duration) -> io::Result<Socket> {
        let client = Socket::new(self.place.domain(), self.kind, None)?;
        client.set_read_timeout(Some(patience))?;
        // Of a connection, too.
        client.set_write_timeout(Some(patience))?;
        client.connect(&self.place)?;
        client.send(b"?")?;
        Ok(client)
    }

    /// The watcher that serves who connects now.
    fn greet(&self, patience: Duration) -> io::Result<String> {
        let client = self.connect(patience)?;
        let mut answer = vec![0; 100];
        let length = io::Read::read(&mut &client, &mut answer)?;
        answer.truncate(length);
        Ok(String::from_utf8(answer).expect("a name"))
    }
}

/// Somebody who connects to one of the sockets that there are. Whoever serves may be killed, so nothing is said of that.
fn visit(control: &Path, which: u64, stay: Duration) {
    let Ok(mut stream) = UnixStream::connect(control) else { return };
    let (mut line, asked) = (String::new(), json!({"command": "listsockets"}));
    if writeln!(stream, "{asked}").and_then(|()| BufReader::new(stream).read_line(&mut line)).is_err() {
        return;
    }
    let reply: Value = serde_json::from_str(&line).unwrap_or_default();
    let sockets: Vec<Open> = reply["sockets"].as_array().into_iter().flatten().filter_map(Open::of).collect();
    if let Some(socket) = sockets.get((which % sockets.len().max(1) as u64) as usize)
        && let Ok(client) = socket.connect(STAY)
    {
        let _ = io::Read::read(&mut &client, &mut [0; 100]);
        thread::sleep(stay);
    }
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
    places: Places,
    /// Has a port that the agent cannot have.
    _taken: TcpListener,
    files: [String; FILES as usize],
    doors: Vec<Door>,
    replies: Replies,
    asked: u64,
    visitors: Vec<JoinHandle<()>>,
}

impl Soak {
    fn begin() -> Soak {
        let home = Home::new();
        let witness = Witness::new(home.path());
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let places = Places::new(&home, &taken);
        let files = files(&home, &witness, &places);
        let agent = home.agent("a", &files[0]);
        let replies = Replies::default();
        let doors = (0..16).map(|_| Door::open(&agent, &replies)).collect();
        let (_taken, visitors) = (taken, Vec::new());
        Soak { agent, home, witness, places, _taken, files, doors, replies, asked: 0, visitors }
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
            Step::Visit { which, stay } => {
                let control = self.agent.socket.clone();
                self.visitors.push(thread::spawn(move || visit(&control, which, stay)));
            }
            Step::Unlink(which) => {
                let mut there = self.places.paths();
                // Not the second names, from which they are put back.
                there.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
                if let Some(path) = there.get((which % there.len().max(1) as u64) as usize) {
                    let _ = fs::remove_file(path);
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
        for socket in self.sockets() {
            let removed =
                self.ask(json!({"command": "rmsocket", "properties": {"name": socket.name, "waiting": true}}));
            self.replied(removed);
        }
        let left = || (self.sockets(), self.listeners(), self.places.paths());
        let deadline = Instant::now() + PATIENCE;
        while left() != Default::default() {
            assert!(Instant::now() < deadline, "sockets are left: {:?}", left());
            thread::sleep(Duration::from_millis(2));
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

    /// The sockets that are open.
    fn sockets(&self) -> Vec<Open> {
        let reply = self.agent.ask(&json!({"command": "listsockets"}));
        let shown = reply["sockets"].as_array().unwrap_or_else(|| panic!("no sockets: {reply}"));
        shown.iter().filter_map(Open::of).collect()
    }

    /// The ports of all TCP listeners that the agent has, each as often as it has one there.
    fn listeners(&self) -> Vec<u16> {
        let table = fs::read_to_string("/proc/net/tcp").expect("the system's connections");
        let listener = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = u16::from_str_radix(fields[1].rsplit_once(':')?.1, 16).ok()?;
            (fields[3] == "0A").then(|| (format!("socket:[{}]", fields[9]), port))
        };
        let all: BTreeMap<String, u16> = table.lines().skip(1).filter_map(listener).collect();
        let fds = fs::read_dir(format!("/proc/{}/fd", self.agent.pid())).expect("a running agent").flatten();
        let own: BTreeSet<String> =
            fds.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_str()?.to_owned())).collect();
        own.iter().filter_map(|link| all.get(link).copied()).collect()
    }

    /// Checks that each socket that is said to be open is, and that no two are in one place.
    #[track_caller]
    fn check_sockets(&self) {
        let sockets = self.sockets();
        for (at, socket) in sockets.iter().enumerate() {
            let place = |other: &&Open| (other.kind, &other.place) == (socket.kind, &socket.place);
            let other = sockets[..at].iter().find(place);
            assert!(other.is_none(), "one place of two: {socket:?}, {other:?}");
            let deadline = Instant::now() + PATIENCE;
            // Who waits in a full queue is not turned away.
            while let Err(error) = socket.connect(STAY)
                && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINPROGRESS))
            {
                // It may have moved since, or its path is about to be put back.
                if !self.sockets().contains(socket) {
                    break;
                }
                assert!(Instant::now() < deadline, "{error}: {socket:?}");
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Checks that whoever connects is served, by somebody who has that socket, wherever all that have it are up; that
    /// where each process has a queue of its own there is one for each; and that nobody is left frozen. A socket that was
    /// added since `all` was started it gets at its next start only: whether it has started since they were.
    #[track_caller]
    fn check_service(&self, has_all: bool) {
        // Of those that a command has stopped.
        self.home.left().into_keys().for_each(|pid| send(pid, libc::SIGCONT));
        let watchers = self.watchers();
        for socket in self.sockets() {
            let users = socket.users();
            let users = || users.iter().filter_map(|name| watchers.get(*name));
            let serves = |watcher: &Value| matches!(watcher["state"].as_str(), Some("active" | "listening"));
            let can = |watcher: &Value| watcher["numprocesses"] != 0 && (has_all || watcher["name"] != "all");
            if users().all(serves) && users().any(can) {
                for _ in 0..if socket.has_lanes() { CLIENTS.1 } else { CLIENTS.0 } {
                    let answer = socket.greet(PATIENCE);
                    let known = answer.as_ref().is_ok_and(|name| socket.users().contains(&**name));
                    assert!(known, "{answer:?} from {socket:?}; {:?}", users().collect::<Vec<_>>());
                }
            }
            if socket.has_lanes() && socket.kind == Type::STREAM {
                let wanted = users().filter_map(|watcher| watcher["numprocesses"].as_u64()).sum::<u64>().max(1);
                let port = socket.place.as_socket().map(|at| at.port());
                wait_for(&format!("no more than {wanted} listeners of {socket:?}"), || {
                    let there = self.listeners().into_iter().filter(|own| Some(*own) == port).count();
                    (there as u64 <= wanted).then_some(())
                });
            }
        }
        wait_for("nobody to be frozen", || (!self.home.left().into_keys().any(is_stopped)).then_some(()));
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

    /// Waits until the agent does little: one that is called again and again for something it cannot do takes all there is.
    #[track_caller]
    fn comes_to_rest(&self) {
        wait_within(SETTLING, "the agent to do little", || {
            let before = self.agent.cpu();
            thread::sleep(Duration::from_millis(200));
            (self.agent.cpu() - before < Duration::from_millis(20)).then_some(())
        });
    }

    /// How many descriptors the agent has open: the fewest seen in a while, as it may not have heard yet that the last
    /// one who asked has hung up.
    fn open_files(&self) -> usize {
        let look = |_| {
            thread::sleep(Duration::from_millis(10));
            let files = fs::read_dir(format!("/proc/{}/fd", self.agent.pid())).expect("a running agent").flatten();
            // Cgroups that wait for their watcher's next process are kept, a bounded number of them.
            let counts = |to: &PathBuf| !to.starts_with("/sys/fs/cgroup");
            files.filter_map(|file| fs::read_link(file.path()).ok()).filter(counts).count()
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
        Some("listening") => there == 0 && SLEEPERS.contains(&name),
        Some("active") => Some(there) == wanted && !SLEEPERS.contains(&name),
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
        Some("active") => watcher["numprocesses"].as_u64() == Some(there) || ended.contains(" ended, "),
        Some("stopped" | "failed" | "listening") => there == 0,
        Some("starting") => ended.starts_with("waits for ") || ended.starts_with("there is no socket "),
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
    soak.check_service(true);
    soak.settles(as_wanted);
    soak.rest();
    let (files, memory) = (soak.open_files(), soak.agent.memory());
    loop {
        println!("CIRCUS_SEED={seed}");
        let mut schedule = Schedule { random: Random::from_number(seed), places: soak.places.clone() };
        for number in 1..=STEPS {
            let (step, pause) = schedule.next();
            soak.take(step);
            thread::sleep(pause);
            if number % LOOKS == 0 {
                soak.check_sockets();
            }
        }
        soak.visitors.drain(..).for_each(|visitor| visitor.join().expect("a visitor"));
        soak.settles(settled);
        soak.comes_to_rest();
        soak.check_sockets();
        soak.check_service(false);
        soak.mend();
        soak.settles(as_wanted);
        soak.check_service(true);
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
