//! What the benches share: a child that records when it runs, agents, and figures.

#![allow(dead_code, unreachable_pub)] // Included by each bench, which uses a part of it.

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
    let (node, pid) = (std::env::var("CIRCUS_NODE").unwrap_or("-".into()), std::process::id());
    let mut record = |what: &str| {
        let line = format!("{what} {node} {pid} {}\n", now().as_nanos());
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
    pub pid: i32,
    pub at: Duration,
}

/// The record so far.
pub fn lines(log: &Path) -> Vec<Line> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, node, pid, at] = words[..] else { panic!("{line}") };
        let at = Duration::from_nanos(at.parse().expect("a time"));
        Line { start: what == "start", node: node.into(), pid: pid.parse().expect("a pid"), at }
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
    let ms = |part: f64| {
        let mut sorted = times.to_vec();
        sorted.sort();
        let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len()) - 1;
        sorted[at].as_secs_f64() * 1e3
    };
    println!(
        "{what:<58} n={:<4} p50 {:>8.2} ms   p99 {:>8.2} ms   max {:>8.2} ms",
        times.len(),
        ms(0.5),
        ms(0.99),
        ms(1.0)
    );
}

/// The one in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}
