//! The real circus-agent as a process of a test's own, asked with the real circusctl, gone with the value.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.
#![allow(dead_code)] // Each of which uses a part of it.
#![allow(clippy::print_stdout)] // What was seen is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longer than anything here takes on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something; after [`PATIENCE`] the test has failed, as `what` was not seen.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Waits until `look` finds something, for so long at most.
#[track_caller]
pub fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        // Looked at once more after the deadline: the wait may have been a scheduler's.
        let late = Instant::now() >= deadline;
        if let Some(found) = look() {
            return found;
        }
        assert!(!late, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A directory with the configurations, sockets, logs and the state of a test's agents.
pub struct Home(tempfile::TempDir);

impl Home {
    /// An empty one.
    pub fn new() -> Home {
        Home(tempfile::Builder::new().prefix("circus").tempdir().expect("a directory for agents"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a shell script, and gives the command line that runs it.
    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        fs::write(&path, text).expect("a script");
        format!("/bin/sh {}", path.display())
    }

    /// Writes the configuration of node `name`: `config` begins within `[circus]`.
    pub fn configure(&self, name: &str, config: &str) -> PathBuf {
        let path = self.file(&format!("{name}.ini"));
        let dir = self.path().display();
        // First definition wins, so what the test says comes first.
        let (circus, rest) = match config.find("\n[") {
            _ if config.starts_with('[') => ("", config),
            Some(at) => config.split_at(at),
            None => (config, ""),
        };
        let text = format!(
            "[circus]\n{circus}\nnode = {name}\nstate_dir = {dir}/state\ncontrol_socket = {dir}/{name}.sock\n\n{rest}\n"
        );
        fs::write(&path, text).expect("a configuration");
        path
    }

    /// The program itself, with nobody's settings in its environment.
    pub fn program(&self, args: &[&str]) -> Command {
        self.clean(env!("CARGO_BIN_EXE_circus-agent"), args)
    }

    pub fn clean(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().env("HOME", self.path()).env("LANG", "C.UTF-8").stdin(Stdio::null());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        // An agent puts its own mark behind this one, and its processes carry both.
        command.env("CIRCUS_PROCESS", self.mark());
        command
    }

    /// What `CIRCUS_PROCESS` is in its agents' environment, so that what they start can be told from all else.
    pub fn mark(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What its agents started and is still there, guards, hooks and daemons included, whoever its parent is by now:
    /// pid and command line.
    pub fn left(&self) -> BTreeMap<u32, String> {
        let mark = self.mark() + "/";
        let marked = |pid: &u32| variable_of(*pid, "CIRCUS_PROCESS").is_some_and(|value| value.starts_with(&mark));
        let words = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = |pid: u32| String::from_utf8_lossy(&words(pid)).replace('\0', " ");
        all_pids().filter(marked).map(|pid| (pid, words(pid))).collect()
    }

    /// Waits until nothing is left of what its agents started.
    #[track_caller]
    pub fn is_clean(&self) {
        let mut left = self.left();
        let deadline = Instant::now() + PATIENCE;
        while !left.is_empty() {
            assert!(Instant::now() < deadline, "this is left behind: {left:?}");
            thread::sleep(Duration::from_millis(2));
            left = self.left();
        }
    }

    /// Runs the real circusctl.
    pub fn ctl(&self, args: &[&str]) -> Said {
        let output = self.clean(env!("CARGO_BIN_EXE_circusctl"), args).output().expect("circusctl to run");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Starts node `name` and waits until its control socket answers.
    pub fn agent(&self, name: &str, config: &str) -> Agent {
        self.agent_with(name, config, &[])
    }

    /// Starts it with more in its environment.
    pub fn agent_with(&self, name: &str, config: &str, env: &[(&str, &str)]) -> Agent {
        self.configure(name, config);
        let mut agent = self.launch(name, env);
        agent.answers();
        agent
    }

    /// Starts it with the configuration that is there already, and waits for nothing.
    pub fn launch(&self, name: &str, env: &[(&str, &str)]) -> Agent {
        self.launch_with(name, &[], env)
    }

    /// And with more arguments.
    pub fn launch_with(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Agent {
        let config = self.file(&format!("{name}.ini"));
        let mut command = self.program(&[&config.display().to_string()]);
        command.args(args).envs(env.iter().copied());
        self.start(name, command)
    }

    /// Starts it through another program, which becomes the agent: its words come first.
    pub fn launch_by(&self, name: &str, launcher: &[&str]) -> Agent {
        let mut command = self.clean(launcher[0], &launcher[1..]);
        command.arg(env!("CARGO_BIN_EXE_circus-agent")).arg(self.file(&format!("{name}.ini")));
        self.start(name, command)
    }

    fn start(&self, name: &str, mut command: Command) -> Agent {
        let log = self.file(&format!("{name}.log"));
        let out = || File::options().create(true).append(true).open(&log).expect("a log");
        command.stdout(out()).stderr(out());
        // SAFETY: between fork and exec only prctl is called, which is safe there.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed drops nothing; its agents must not stay behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("circus-agent to start");
        Agent { name: name.to_owned(), socket: self.file(&format!("{name}.sock")), log, process: Some(child) }
    }
}

/// What circusctl said, and its exit code.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Itself, where the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Said {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

/// A running agent.
pub struct Agent {
    pub name: String,
    pub socket: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Agent {
    /// Its pid.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the agent runs").id()
    }

    /// Waits until the control socket answers.
    #[track_caller]
    pub fn answers(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask(&json!({"command": "version"})).is_none() {
            let end = self.process.as_mut().and_then(|process| process.try_wait().expect("a child"));
            assert!(end.is_none(), "{} ended with {end:?}:\n{}", self.name, self.log());
            assert!(Instant::now() < deadline, "{} does not answer:\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Puts one request to the control socket.
    #[track_caller]
    pub fn ask(&self, request: &Value) -> Value {
        self.try_ask(request).unwrap_or_else(|| panic!("{} does not answer {request}", self.name))
    }

    fn try_ask(&self, request: &Value) -> Option<Value> {
        let mut line = Line::connect(&self.socket)?;
        line.ask(&request.to_string())
    }

    /// A connection to its control socket.
    #[track_caller]
    pub fn connect(&self) -> Line {
        Line::connect(&self.socket).expect("the control socket")
    }

    /// One watcher, as `status` shows it.
    #[track_caller]
    pub fn watcher(&self, name: &str) -> Value {
        let status = self.ask(&json!({"command": "status", "properties": {"name": name}}));
        status["watchers"][0].clone()
    }

    /// The pids of a watcher's processes, by slot.
    #[track_caller]
    pub fn pids(&self, watcher: &str) -> Vec<u32> {
        let processes = self.watcher(watcher)["processes"].clone();
        let pids = processes.as_array().into_iter().flatten().filter_map(|process| process["pid"].as_u64());
        pids.filter_map(|pid| u32::try_from(pid).ok()).collect()
    }

    /// Why a watcher is as it is; empty where that is no question.
    #[track_caller]
    pub fn note(&self, watcher: &str) -> String {
        self.watcher(watcher)["note"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a watcher's note has these words.
    #[track_caller]
    pub fn notes(&self, watcher: &str, words: &str) {
        let mut last = self.note(watcher);
        let deadline = Instant::now() + PATIENCE;
        while !last.contains(words) {
            assert!(Instant::now() < deadline, "{watcher} of {} does not note {words:?}: {last}", self.name);
            thread::sleep(Duration::from_millis(2));
            last = self.note(watcher);
        }
    }

    /// The events of a watcher from now on, in order.
    #[track_caller]
    pub fn events(&self, watcher: &str) -> Line {
        let mut line = self.connect();
        let began = line.ask(&json!({"command": "events", "properties": {"name": watcher}}).to_string());
        assert_eq!(began.expect("a stream")["status"], "ok");
        line
    }

    /// The lease of one watcher as this agent sees it.
    #[track_caller]
    pub fn lease(&self, name: &str) -> Value {
        self.watcher(name)["lease"].clone()
    }

    /// Waits until a watcher is in this state.
    #[track_caller]
    pub fn comes_to(&self, watcher: &str, state: &str) {
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        while last["state"] != state {
            assert!(Instant::now() < deadline, "{watcher} of {} does not come to {state}: {last}", self.name);
            last = self.watcher(watcher);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs circusctl against this agent.
    pub fn ctl(&self, home: &Home, args: &[&str]) -> Said {
        let endpoint = format!("unix://{}", self.socket.display());
        home.ctl(&[&["--endpoint", &endpoint], args].concat())
    }

    /// What it logged, and what its children printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has a line with `text`.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        wait_for(&format!("{} logs: {text}", self.name), || self.log().contains(text).then_some(()));
    }

    /// Sends a signal to the agent alone.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
        if signal == libc::SIGSTOP {
            let pid = self.pid();
            wait_for("a stopped agent", || (state_of(pid) == Some('T')).then_some(()));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let mut process = self.process.take().expect("the agent runs");
        let end = wait_for(&format!("{name} ends"), || process.try_wait().expect("a child"));
        println!("{name} ended: {end}");
        end
    }

    /// Waits for its end, which is an exit with this code.
    #[track_caller]
    pub fn exits(&mut self, code: i32) {
        let end = self.ends();
        assert_eq!(end.code(), Some(code), "{}: {end}\n{}", self.name, self.log());
    }

    /// SIGKILL, and nothing that it guarded may stay.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        assert_eq!(self.ends().signal(), Some(libc::SIGKILL));
    }

    /// How many descriptors it has open.
    #[track_caller]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running agent").count()
    }

    /// Its resident memory, in bytes.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running agent");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// What its threads have used of the processors.
    #[track_caller]
    pub fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a running agent").flatten();
        let nanos = tasks.filter_map(|task| {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            schedstat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Its descendants, guards included.
    pub fn descendants(&self) -> BTreeSet<u32> {
        self.process.as_ref().map(|process| descendants(process.id())).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.name, self.log());
        }
        let Some(mut process) = self.process.take() else { return };
        let left = descendants(process.id());
        let _ = process.kill();
        let _ = process.wait();
        // Guards take theirs along; what ran without one may take its time to stop, which it does not get.
        let deadline = Instant::now() + Duration::from_millis(500);
        while left.iter().any(|pid| is_alive(*pid)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        left.into_iter().filter(|pid| is_alive(*pid)).for_each(|pid| send(pid, libc::SIGKILL));
    }
}

/// One connection to a control socket.
pub struct Line(BufReader<UnixStream>);

impl Line {
    fn connect(socket: &Path) -> Option<Line> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Line(BufReader::new(stream)))
    }

    /// Sends one line as it is, and reads one.
    pub fn ask(&mut self, line: &str) -> Option<Value> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).ok()?;
        self.read()
    }

    /// Reads one line more: of a stream.
    pub fn read(&mut self) -> Option<Value> {
        let mut reply = String::new();
        self.0.read_line(&mut reply).ok()?;
        serde_json::from_str(&reply).ok()
    }
}

/// Sends a signal; who is gone needs none.
pub fn send(pid: u32, signal: i32) {
    // SAFETY: kill takes two numbers.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// The letter of `ps` for a process's state, and its parent.
fn stat_of(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// A variable of the environment with which a process was started; nothing for one that has ended.
pub fn variable_of(pid: u32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variables = environment.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    variables
        .filter_map(|variable| variable.split_once('='))
        .find(|(own, _)| *own == name)
        .map(|(_, value)| value.into())
}

/// The parent of a process.
pub fn parent_of(pid: u32) -> Option<u32> {
    stat_of(pid).map(|(_, parent)| parent)
}

fn state_of(pid: u32) -> Option<char> {
    stat_of(pid).map(|(state, _)| state)
}

/// Whether it can still do anything: a zombie cannot.
pub fn is_alive(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether it was stopped, and not let go on since.
pub fn is_stopped(pid: u32) -> bool {
    state_of(pid) == Some('T')
}

/// All processes of this machine.
fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// All that descends from a process.
pub fn descendants(pid: u32) -> BTreeSet<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all_pids() {
        if let Some((_, parent)) = stat_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.insert(child);
            next.push(child);
        }
    }
    found
}
