//! Short-lived processes on the side: hook commands, check commands, helpers behind pipes.
//!
//! A job is started like any process (same threads, same `Plan`, a session and a tag of its own), because this program
//! has one reaper. Each has a task that waits for its end; whoever asked for it holds its [`Leash`]:
//!
//! ```text
//! start ─▶ running ─▶ (ends) ─▶ reaped; what it left behind in the background goes on, unless it is to leave nothing
//!             └─────▶ (leash dropped: time-out, or nobody asks any more) ─▶ its whole tree is killed
//! ```
//!
//! # Invariants
//!
//! - Nobody has to remember to end a job: a dropped [`Job::run`], [`Running`] or [`Leash`] ends all of its tree, also
//!   while it is only being started.
//! - A job that wrote into its pipes and ended is heard to the last byte; one whose children keep a pipe open does not
//!   make anybody wait.
//! - Jobs do not outlive the agent: the kernel kills them with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::unistd::read;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio::{join, select};

use super::plan::Surroundings;
use super::process::{self, Watched};
use super::spawn::{Plan, failure, spawn};
use super::spawner::Spawner;
use super::sys;
use crate::model::event::{Exit, Launch, Signs, SpawnFailure};
use crate::model::names::WatcherName;
use crate::model::spec::{Output, ProgramSpec};

/// How much of what a job prints is kept, of stdout and stderr each. The rest is read and forgotten.
pub(super) const KEPT: usize = 64 * 1024;

/// Lines are logged in pieces of at most this length.
const LONGEST_LINE: usize = 4096;

/// Where jobs are started from. Cheap to clone: all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Jobs {
    spawner: Arc<Spawner>,
    /// What the tags of all our processes begin with.
    run: Arc<str>,
    around: Surroundings,
    started: Arc<AtomicU64>,
}

impl Jobs {
    pub(super) fn new(spawner: Arc<Spawner>, run: &str, around: Surroundings) -> Jobs {
        Jobs { spawner, run: run.into(), around, started: Arc::default() }
    }

    fn surroundings(&self) -> Surroundings {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        self.around.with_tag(format!("{}job{number}", self.run))
    }
}

/// As whom a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunAs {
    /// As the agent itself, without the watcher's limits and mask: hooks.
    Agent,
    /// As the watcher's processes, with their user, groups, limits and mask: checks.
    Process,
}

/// What is to run.
#[derive(Debug)]
pub(super) struct Job {
    launch: Launch,
    /// Under which name its lines on stderr are logged; nothing: they are not.
    logged_as: Option<String>,
    /// Whether what it leaves behind is killed.
    leaves_nothing: bool,
}

/// How a job ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) exit: Exit,
    /// The first [`KEPT`] bytes of what it printed.
    pub(super) stdout: Vec<u8>,
    /// The same of stderr.
    pub(super) stderr: Vec<u8>,
}

/// A job that runs: its pipes, and its leash.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) leash: Leash,
}

/// Holds a running job. Dropped before the job has ended, it ends the job and all of its tree.
#[derive(Debug)]
pub(super) struct Leash {
    pid: u32,
    exit: watch::Receiver<Option<Exit>>,
}

impl Job {
    /// `argv` in the environment and directory of `around`.
    pub(super) fn new(watcher: &WatcherName, argv: Vec<String>, around: &ProgramSpec, run_as: RunAs) -> Job {
        let mut program = ProgramSpec {
            words: Vec::new(),
            executable: None,
            close_stdin: true,
            stdout: Output::Null,
            stderr: Output::Null,
            ..around.clone()
        };
        if run_as == RunAs::Agent {
            program = ProgramSpec { user: None, gid: None, umask: None, rlimits: Vec::new(), ..program };
        }
        let launch = Launch {
            watcher: watcher.clone(),
            wid: 0,
            argv,
            program: Arc::new(program),
            env: Vec::new(),
            socket_env: Vec::new(),
            pids: Vec::new(),
            sockets: Vec::new(),
            stdin: None,
            stop_signal: libc::SIGKILL,
            guard: None,
            legion: None,
            signs: Signs::default(),
        };
        Job { launch, logged_as: None, leaves_nothing: false }
    }

    /// Adds a variable, above those of the surroundings.
    pub(super) fn env(mut self, name: &str, value: impl Into<String>) -> Job {
        self.launch.env.push((name.into(), value.into()));
        self
    }

    /// Executes this file, whatever its first word says.
    pub(super) fn executing(mut self, file: PathBuf) -> Job {
        Arc::make_mut(&mut self.launch.program).executable = Some(file);
        self
    }

    /// Has what is left of its tree killed when it has ended by itself.
    pub(super) fn leaving_nothing(mut self) -> Job {
        self.leaves_nothing = true;
        self
    }

    /// Has [`Job::run`] log each line on stderr as it comes: `NAME: LINE`.
    pub(super) fn logged_as(mut self, name: String) -> Job {
        self.logged_as = Some(name);
        self
    }

    /// Runs it to its end, with `input` on its stdin, within `limit` from now on.
    ///
    /// The error says why it did not end by itself: `spawn failed at exec("/x"): ENOENT: …`, `did not end within 30 s`,
    /// then with the last line it wrote to stderr. After `limit`, all of its tree is killed; after an end within it,
    /// what the job left behind stays, but for [`Job::leaving_nothing`].
    pub(super) async fn run(mut self, jobs: &Jobs, input: Vec<u8>, limit: Duration) -> Result<Finished, String> {
        let mut stdout = Capture::default();
        let mut stderr = Capture { log: self.logged_as.take().map(LineLog::new), ..Capture::default() };
        let end = timeout(limit, self.converse(jobs, &input, &mut stdout, &mut stderr)).await;
        match end {
            Ok(Ok(exit)) => Ok(Finished { exit, stdout: stdout.kept, stderr: stderr.kept }),
            Ok(Err(failed)) => Err(failed.to_string()),
            Err(_) => Err(with_last_line(&late(limit), &stderr.kept)),
        }
    }

    async fn converse(
        self,
        jobs: &Jobs,
        input: &[u8],
        out: &mut Capture,
        err: &mut Capture,
    ) -> Result<Exit, SpawnFailure> {
        let Running { mut stdin, mut stdout, mut stderr, mut leash } = self.start(jobs).await?;
        let feed = async {
            // A job need not read what it is given.
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let talk = async { join!(feed, out.listen(&mut stdout), err.listen(&mut stderr)) };
        let exit = select! {
            biased;
            exit = leash.ended() => exit,
            _ = talk => leash.ended().await,
        };
        out.take_rest(&stdout);
        err.take_rest(&stderr);
        keep_open(stdout);
        keep_open(stderr);
        Ok(exit)
    }

    /// Starts it, and leaves pipes and leash to the caller.
    pub(super) async fn start(self, jobs: &Jobs) -> Result<Running, SpawnFailure> {
        let (answer, started) = oneshot::channel();
        // A task of its own, since a spawn that is given up half-way would leave a child that nobody reaps.
        tokio::spawn(live(self, jobs.clone(), answer));
        let leaving = || SpawnFailure { stage: "spawner".into(), error: "the agent is leaving".into() };
        started.await.unwrap_or_else(|_| Err(leaving()))
    }
}

impl Leash {
    /// Waits for the job's end. Dropping the wait loses nothing; once over, it is over at once.
    pub(super) async fn ended(&mut self) -> Exit {
        // The task says how the job ended before it ends itself, unless the runtime goes down.
        self.exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(Exit::Lost)
    }

    /// Whether the job has ended already.
    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Lets it end by itself for so long, then kills its main process, and leaves alone what else it has started.
    pub(super) async fn part(mut self, patience: Duration) {
        if timeout(patience, self.ended()).await.is_ok() {
            return;
        }
        // Reaping and telling of it are one step of the task, so the number is still the job's.
        if !self.has_ended() {
            let _ = sys::kill(self.pid, libc::SIGKILL);
        }
        self.ended().await;
    }
}

/// Logs what is written to a pipe, line by line, until nobody holds its other end.
pub(super) async fn log_lines(name: String, mut pipe: pipe::Receiver) {
    let mut log = Capture { log: Some(LineLog::new(name)), bound: 0, ..Capture::default() };
    log.listen(&mut pipe).await;
}

/// What is said of a job, or a hook, that takes too long.
pub(super) fn late(limit: Duration) -> String {
    format!("did not end within {} s", limit.as_secs_f64())
}

/// `what`, and behind it the last line of `stderr`, where there is one.
pub(super) fn with_last_line(what: &str, stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("{what}: {line}"),
        None => what.to_owned(),
    }
}

/// A job's task, from its start to its end.
async fn live(job: Job, jobs: Jobs, answer: oneshot::Sender<Result<Running, SpawnFailure>>) {
    let Job { launch, leaves_nothing, .. } = job;
    let name = launch.watcher.to_string();
    let around = jobs.surroundings();
    let tag = around.tag.clone();
    let (child, pipes) = match start(launch, &jobs.spawner, around).await {
        Ok(started) => started,
        Err(failed) => {
            // Nobody waits for it any more, perhaps.
            let _ = answer.send(Err(failed));
            return;
        }
    };
    let Pipes { stdin, stdout, stderr } = pipes;
    let (ended, exit) = watch::channel(None);
    let leash = Leash { pid: child.pid(), exit };
    // Where nobody waits any more, the leash is dropped with the rest, and the job is killed as soon as it runs.
    drop(answer.send(Ok(Running { stdin, stdout, stderr, leash })));
    let exit = select! {
        biased;
        exit = child.ended() => exit,
        () = ended.closed() => process::kill(&child, &tag, &name).await,
    };
    ended.send_replace(Some(exit));
    if leaves_nothing {
        process::sweep(Some(child.pid()), &tag, &name).await;
    }
}

/// Our ends of a job's pipes.
struct Pipes {
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

async fn start(launch: Launch, spawner: &Spawner, around: Surroundings) -> Result<(Watched, Pipes), SpawnFailure> {
    let tag = around.tag.clone();
    let (pipes, theirs) = open_pipes().map_err(|error| failure("pipe", &error))?;
    let start = move || {
        let plan = Plan::of(&launch, &around, libc::SIGKILL)?;
        spawn(&plan, &theirs.each_ref().map(AsFd::as_fd), None)
    };
    Ok((process::start(spawner, &tag, start).await?, pipes))
}

/// Our ends, which do not block, and the job's three, which do.
fn open_pipes() -> io::Result<(Pipes, [OwnedFd; 3])> {
    let (stdin, their_stdin) = pipe::pipe()?;
    let (their_stdout, stdout) = pipe::pipe()?;
    let (their_stderr, stderr) = pipe::pipe()?;
    let theirs = [their_stdin.into_blocking_fd()?, their_stdout.into_blocking_fd()?, their_stderr.into_blocking_fd()?];
    Ok((Pipes { stdin, stdout, stderr }, theirs))
}

/// Reads on for what the job left behind: a pipe that nobody reads from would kill it at its next word.
fn keep_open(mut pipe: pipe::Receiver) {
    tokio::spawn(async move { tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await });
}

/// What comes out of a pipe: the beginning is kept, the lines are logged where that is wanted.
struct Capture {
    kept: Vec<u8>,
    bound: usize,
    log: Option<LineLog>,
}

impl Default for Capture {
    fn default() -> Capture {
        Capture { kept: Vec::new(), bound: KEPT, log: None }
    }
}

impl Capture {
    /// Takes in what comes until nobody holds the other end. Dropping the wait loses nothing.
    async fn listen(&mut self, pipe: &mut pipe::Receiver) {
        let mut buffer = vec![0; 8 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
            self.take(&buffer[..length]);
        }
    }

    /// Takes in what is there now. Asks the kernel itself, since the runtime may not have heard of the last bytes yet.
    /// No more than a pipe holds: children that write on would otherwise keep us here.
    fn take_rest(&mut self, pipe: &pipe::Receiver) {
        let mut buffer = vec![0; 64 * 1024];
        if let Ok(length) = read(pipe, &mut buffer) {
            self.take(&buffer[..length]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = self.bound.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(log) = &mut self.log {
            log.take(bytes);
        }
    }
}

/// Logs bytes as lines.
struct LineLog {
    name: String,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

impl LineLog {
    fn new(name: String) -> LineLog {
        LineLog { name, begun: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.begun.len() > LONGEST_LINE {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let line = String::from_utf8_lossy(&self.begun);
        let line = line.trim_end();
        if !line.is_empty() {
            tracing::info!("{}: {line}", self.name);
        }
        self.begun.clear();
    }
}

impl Drop for LineLog {
    fn drop(&mut self) {
        self.flush();
    }
}
