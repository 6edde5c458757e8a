//! What the benches share: a child that records when it runs, agents, and figures.

#![allow(dead_code, unreachable_pub)] // Included by each bench, which uses a part of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long to wait for what takes milliseconds before the bench gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// CLOCK_MONOTONIC, the same in every process of this machine.
pub fn now() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"))
}

/// Where the program was called as the recording child, it is that and nothing else.
pub fn be_the_child_if_called_so() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, path] = &words[..]
        && word == "child"
    {
        child(Path::new(path));
    }
}

/// The command line of the recording child.
pub fn child_command(log: &Path) -> String {
    format!("{} child {}", std::env::current_exe().expect("this program").display(), log.display())
}

/// Records its start, waits for SIGTERM, records its end.
fn child(path: &Path) -> ! {
    let term = SigSet::from(Signal::SIGTERM);
    term.thread_block().expect("a mask");
    let mut log = OpenOptions::new().append(true).create(true).open(path).expect("the record");
    let variable = |name| std::env::var(name).unwrap_or("-".into());
    let (node, watcher, pid) = (variable("CIRCUS_NODE"), variable("CIRCUS_WATCHER"), std::process::id());
    let mut record = |what: &str| {
        let line = format!("{what} {node} {watcher} {pid} {}\n", now().as_nanos());
        log.write_all(line.as_bytes()).expect("the record");
    };
    record("start");
    let _ = term.wait();
    record("end");
    std::process::exit(0)
}

/// A line of the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub start: bool,
    pub node: String,
    pub watcher: String,
    pub pid: i32,
    pub at: Duration,
}

/// The record so far.
pub fn lines(log: &Path) -> Vec<Line> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, node, watcher, pid, at] = words[..] else { panic!("{line}") };
        let at = Duration::from_nanos(at.parse().expect("a time"));
        let (node, watcher, pid) = (node.into(), watcher.into(), pid.parse().expect("a pid"));
        Line { start: what == "start", node, watcher, pid, at }
    };
    text.lines().map(line).collect()
}

/// Waits until the record has something.
pub fn wait_for<T>(log: &Path, what: &str, find: impl Fn(&[Line]) -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = find(&lines(log)) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {:?}", lines(log));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a process has ended, whoever its parent is, and says when that was seen.
pub fn death_of(pid: i32) -> Duration {
    // SAFETY: a system call without pointers; what it gives is a descriptor of ours alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    if fd < 0 {
        return now();
    }
    // SAFETY: as above.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::from(60_000_u16)).expect("poll");
    assert!(ready == 1, "process {pid} does not end");
    now()
}

/// How long recording children are missing that are killed, and started again by who has waited for that alone.
pub fn gaps_without_agent(dir: &Path, processes: usize) -> Vec<Duration> {
    let log = dir.join("bare");
    let command = child_command(&log);
    let words: Vec<&str> = command.split(' ').collect();
    let mut gaps = Vec::new();
    let mut child = Command::new(words[0]).args(&words[1..]).spawn().expect("the child");
    for done in 0..processes {
        wait_for(&log, "the child starts", |lines| lines.get(done).cloned());
        let pid = child.id() as i32;
        let dead = std::thread::spawn(move || death_of(pid));
        std::thread::sleep(Duration::from_millis(5));
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("SIGKILL");
        child.wait().expect("the child");
        child = Command::new(words[0]).args(&words[1..]).spawn().expect("the child");
        let next = wait_for(&log, "the next one starts", |lines| lines.get(done + 1).cloned());
        gaps.push(next.at.saturating_sub(dead.join().expect("its death")));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("the child");
    gaps
}

/// The same of an agent's children. Its file has `sections` besides, and `settings` in the watcher.
pub fn gaps_with_agent(dir: &Path, name: &str, processes: usize, sections: &str, settings: &str) -> Vec<Duration> {
    let log = dir.join(format!("{name}.lives"));
    let watcher = format!("[watcher:child]\ncmd = {}\nnumprocesses = {processes}\n{settings}", child_command(&log));
    let _agent = Agent::start(dir, name, &(sections.to_owned() + &watcher));
    wait_for(&log, "all start", |lines| (lines.len() == processes).then_some(()));
    let mut gaps = Vec::new();
    for (done, child) in lines(&log).into_iter().enumerate() {
        let dead = std::thread::spawn(move || death_of(child.pid));
        std::thread::sleep(Duration::from_millis(5));
        let killed = now();
        kill(Pid::from_raw(child.pid), Signal::SIGKILL).expect("SIGKILL");
        let next = wait_for(&log, "the next one starts", |lines| lines.get(processes + done).cloned());
        gaps.push(next.at.saturating_sub(dead.join().expect("its death").max(killed)));
    }
    gaps
}

/// An agent of this build. Ended with the value.
pub struct Agent {
    pub name: String,
    socket: PathBuf,
    process: Child,
}

impl Agent {
    /// Starts an agent; `ini` is its file without `[circus]`.
    pub fn start(dir: &Path, name: &str, ini: &str) -> Agent {
        let (file, socket) = (dir.join(format!("{name}.ini")), dir.join(format!("{name}.sock")));
        let own =
            format!("[circus]\nnode = {name}\nstate_dir = {}\ncontrol_socket = {}\n", dir.display(), socket.display());
        fs::write(&file, own + ini).expect("a file");
        let log = fs::File::create(dir.join(format!("{name}.log"))).expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_circus-agent"))
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("circus-agent");
        let agent = Agent { name: name.into(), socket, process };
        let begun = Instant::now();
        while UnixStream::connect(&agent.socket).is_err() {
            assert!(begun.elapsed() < PATIENCE, "{name} has no control socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        agent
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where circusctl finds it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Puts a command to it and gives the reply.
    pub fn ask(&self, command: &str, properties: &Value) -> Value {
        let mut stream = UnixStream::connect(&self.socket).expect("the control socket");
        let request = json!({"id": "1", "command": command, "properties": properties});
        writeln!(stream, "{request}").expect("the control socket");
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).expect("a reply");
        serde_json::from_str(&reply).expect("a reply")
    }

    /// Its resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running agent");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a running agent").flatten();
        let of_thread = |task: fs::DirEntry| {
            let read = |file| fs::read_to_string(task.path().join(file)).ok();
            let cpu = read("schedstat")?.split(' ').next()?.parse().ok()?;
            let waited = |line: &str| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok();
            Some((task.file_name(), (cpu, read("status")?.lines().find_map(waited)?)))
        };
        Usage(tasks.filter_map(of_thread).collect())
    }

    /// Sends SIGKILL, and says when.
    pub fn kill(&mut self) -> Duration {
        let at = now();
        self.process.kill().expect("SIGKILL");
        let _ = self.process.wait();
        at
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
            let _ = self.process.wait();
        }
    }
}

/// What each thread has used of the processors, in nanoseconds, and how often it has waited for something.
pub struct Usage(BTreeMap<OsString, (u64, u64)>);

impl Usage {
    /// Both of all threads together, from `before` until this. What ended meanwhile does not count.
    pub fn since(&self, before: &Usage) -> (Duration, u64) {
        let (mut cpu, mut waits) = (0, 0);
        for (thread, now) in &self.0 {
            let then = before.0.get(thread).copied().unwrap_or_default();
            cpu += now.0 - then.0;
            waits += now.1 - then.1;
        }
        (Duration::from_nanos(cpu), waits)
    }
}

/// Prints how busy the machine is: figures of a busy one say little.
#[allow(clippy::print_stdout)]
pub fn print_load() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("load before: {} on {cores} cores", load.split(' ').next().unwrap_or("?"));
}

/// Prints a line of figures.
#[allow(clippy::print_stdout)]
pub fn print(what: &str, times: &[Duration]) {
    let ms = |part| quantile(times, part).as_secs_f64() * 1e3;
    println!(
        "{what:<58} n={:<4} p50 {:>8.2} ms   p99 {:>8.2} ms   max {:>8.2} ms",
        times.len(),
        ms(0.5),
        ms(0.99),
        ms(1.0)
    );
}

/// The smallest that this part of them do not exceed.
pub fn quantile(times: &[Duration], part: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len()) - 1]
}

/// The one in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}
