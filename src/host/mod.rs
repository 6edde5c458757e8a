//! How things are done on this machine: sockets opened; programs started and ended, their trees cleared, their use
//! measured.
//!
//! The folder obeys and reports, and decides nothing: when a process is to start, stop or start again is the model's.
//!
//! Reading order: `process` (one task per process, reads like its life), [`guard`] (the parent of a singleton's
//! child) and `legion` (what ends before what without the agent), `tree` (what a process left behind) and `cgroup` (where it cannot hide), `plan` and `spawn` (from a `Launch` to a running program),
//! `spawner` (the threads that do it), [`output`] (what processes write), `job` (processes on the side), `hook` and
//! `python` (what runs at points of a watcher's life), `contact` with `notify` and `ack` (what a process says of itself),
//! `check` (what is seen of it), `socket` (what processes share, and who wants something of it), `sample`, [`machine`],
//! [`clock`], [`calendar`] (when a schedule has its slots), `frame`, `sys`.
//!
//! # Invariants
//!
//! - Each spawn ends in exactly one `SpawnFailed` or `Gone`, and after `Gone` nothing of its tree is alive.
//! - What a process says of itself, and how checks of it come out, is told after its `Spawned` and before its `Exited`.
//! - A process is meant by its pidfd, never by a number that may have become another's.
//! - An exit status is fetched by the one task that waits for it; adopted orphans are reaped apart from them.
//! - An agent that is killed leaves no child behind: the kernel sends its children their stop signal, and guards kill
//!   theirs. Nothing here needs the agent to leave in good order.
//! - Nothing blocks the loop: what may (`execve`, files and their names, /proc of many, a place where output ends) has
//!   other threads.
//! - Where no process and no thread can be made, starts fail and all else goes on.
//!
//! Needs Linux 5.11 (`close_range`, `pidfd`, `waitid` on it), and 5.14 for cgroups.

pub mod calendar;
pub mod clock;
pub mod guard;
pub mod machine;
pub mod output;
pub mod witness;

mod ack;
mod cgroup;
mod check;
mod contact;
mod frame;
mod hook;
mod job;
mod legion;
mod notify;
mod plan;
mod process;
mod python;
mod sample;
mod socket;
mod spawn;
mod spawner;
mod sys;
mod tree;

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{getpid, gettid};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use self::cgroup::Home;
use self::contact::SocketDir;
use self::hook::Hooks;
use self::job::Jobs;
use self::legion::Legions;
use self::output::{Hub, Outputs};
use self::plan::Surroundings;
use self::process::{Life, Mailbox};
pub use self::python::find_python;
use self::sample::Sampler;
use self::socket::{Demand, Sockets};
use self::spawn::{Limit, Plan};
use self::spawner::Spawner;
use crate::model::command::RequestId;
use crate::model::event::{
    BindId, Deadline, Event, Handed, HookCall, HookId, LaneId, Launch, ProcessId, Reach, SocketId,
};
use crate::model::names::WatcherName;
use crate::model::spec::{Check, Purpose, SocketSpec};
use crate::model::stats::Detail;

/// How long a thread for what may block is kept, so that there is always one: where the machine is out of pids or of memory
/// no other can be made, and without any the runtime gives up (it panics).
pub const FOR_EVER: Duration = Duration::MAX;

/// This machine's processes. One per agent, on the runtime of its main thread.
#[derive(Debug)]
pub struct Host {
    events: mpsc::Sender<Event>,
    spawner: Arc<Spawner>,
    /// Where orders for a process go while it lives.
    mailboxes: HashMap<ProcessId, Weak<Mailbox>>,
    /// What the tags of all our processes begin with.
    run: String,
    /// What is the same for all of them.
    around: Surroundings,
    guard_program: GuardProgram,
    notify_dir: Arc<SocketDir>,
    /// Where processes have their cgroups, if that is possible and wanted.
    cgroups: Option<Arc<Home>>,
    legions: Arc<Legions>,
    sampler: Arc<Mutex<Sampler>>,
    outputs: Arc<Outputs>,
    sockets: Arc<Sockets>,
    demand: Demand,
    /// Where hooks and checks are started from.
    jobs: Jobs,
    hooks: Hooks,
    /// The tasks that wait for hooks.
    called: HashMap<HookId, AbortHandle>,
}

impl Host {
    /// Takes charge of this machine's processes and reports what happens to them to `events`.
    ///
    /// Makes this process adopt orphaned descendants, keeps the descriptors it was started with to itself, and raises
    /// its soft limit on open files; its children start with the limit there was.
    ///
    /// `notify_dir` is made when the first process is to have a `NOTIFY_SOCKET` or an `EINHORN_SOCK_PATH`, in a
    /// directory that there is, and removed with the host; what an earlier host left in it is removed too. The users of
    /// all such processes must be able to reach it, and a socket's path may not be longer than 107 bytes: up to 25 are a
    /// slash, a number and `.ack`.
    ///
    /// `env` is for all that is started, below what a program's own environment says.
    ///
    /// Must be called on the *main thread*, within a `current_thread` runtime: the kernel gives orphans to that
    /// thread, and only it can tell them from other children. Anywhere else it is an error.
    pub fn new(events: mpsc::Sender<Event>, notify_dir: PathBuf, env: &[(&str, &str)]) -> io::Result<Host> {
        if gettid() != getpid() {
            return Err(io::Error::other("the host belongs on the main thread"));
        }
        prctl::set_child_subreaper(true)?;
        sys::close_on_exec_from(3)?;
        tokio::spawn(reap_orphans(Signals::new([libc::SIGCHLD])?));
        let (spawner, run) = (Arc::new(Spawner::new()?), draw_run()?);
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // The limit as it was before we raised ours.
        let around = Surroundings { tag: run.clone(), env, open_files: raise_open_files() };
        let jobs = Jobs::new(Arc::clone(&spawner), &run, around.clone());
        Ok(Host {
            demand: Demand::new(events.clone()),
            events,
            hooks: Hooks::new(jobs.clone(), None),
            called: HashMap::new(),
            outputs: Arc::new(Outputs::new(jobs.clone())?),
            sockets: Arc::default(),
            jobs,
            spawner,
            mailboxes: HashMap::new(),
            run,
            around,
            guard_program: GuardProgram(c"/proc/self/exe".to_owned()),
            notify_dir: Arc::new(SocketDir::new(notify_dir)),
            cgroups: None,
            legions: Arc::default(),
            sampler: Arc::default(),
        })
    }

    /// Has guards run `program` instead of this very program: for a test, which is not the agent itself.
    pub fn with_guard_program(mut self, program: &Path) -> io::Result<Host> {
        self.guard_program = GuardProgram(CString::new(program.as_os_str().as_bytes())?);
        Ok(self)
    }

    /// Has hooks and streams written in Python run by this interpreter; without one they fail. See [`find_python`].
    pub fn with_python(mut self, interpreter: Option<PathBuf>) -> Host {
        self.outputs.set_python(interpreter.clone());
        self.hooks = Hooks::new(self.jobs.clone(), interpreter);
        self
    }

    /// Uses sockets that the service manager has handed over, each for the socket of its name.
    pub fn with_given_sockets(mut self, given: Vec<(String, OwnedFd)>) -> Host {
        self.sockets = Arc::new(Sockets::with_given(given));
        self
    }

    /// Gives each process a cgroup of its own where one can be had, and tells in the log whether that is so. `name` must be
    /// this agent's over its restarts and no other's: what an earlier one left in cgroups of that name is killed, here
    /// and now.
    pub fn with_cgroups(mut self, name: &str) -> Host {
        match Home::open(name, &self.run) {
            Ok(home) => {
                tracing::info!("trees of processes are ended by cgroup, in {}", home.path().display());
                self.cgroups = Some(home);
            }
            Err(why) => {
                tracing::info!("trees of processes are ended by looking for them, as no cgroup can be had here: {why}");
            }
        }
        self
    }

    /// Whether each process has a cgroup of its own.
    pub fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    /// Starts a process. Comes back at once; what follows are events: `SpawnFailed`, or `Spawned`, `Exited` and `Gone`.
    /// `hold` is kept open, by the guard too where there is one, until nothing of the process is left.
    pub fn spawn(&mut self, process: ProcessId, launch: &Launch, hold: Option<OwnedFd>) {
        let mailbox = Arc::new(Mailbox::default());
        self.mailboxes.retain(|_, mailbox| mailbox.strong_count() > 0);
        self.mailboxes.insert(process, Arc::downgrade(&mailbox));
        let around = self.around.with_tag(format!("{}{}", self.run, process.0));
        let life = Life {
            process,
            events: self.events.clone(),
            mailbox,
            spawner: Arc::clone(&self.spawner),
            outputs: Arc::clone(&self.outputs),
            sockets: Arc::clone(&self.sockets),
            around,
            hold,
            jobs: self.jobs.clone(),
            notify_dir: Arc::clone(&self.notify_dir),
            cgroups: self.cgroups.clone(),
            legions: Arc::clone(&self.legions),
        };
        match launch.guard {
            None => tokio::spawn(life.alone(launch.clone())),
            Some(until) => tokio::spawn(life.guarded(launch.clone(), until, self.guard_program.clone())),
        };
    }

    /// Sends a signal to whom `reach` means, as soon as the main process is there. Those below it get theirs first, the
    /// deepest before all. Who has ended needs none, and a signal that is not from 1 to 64 is none.
    pub fn signal(&mut self, process: ProcessId, signal: i32, reach: Reach) {
        self.order(process, |mailbox| mailbox.signal(signal, reach));
    }

    /// Stops the whole tree of a process that nobody guards (SIGSTOP); ends in
    /// [`ProcessEvent::Frozen`](crate::model::event::ProcessEvent::Frozen) when nothing of it runs any more. SIGCONT to the
    /// tree lets it go on.
    pub fn freeze(&mut self, process: ProcessId) {
        self.order(process, Mailbox::freeze);
    }

    /// Sends SIGKILL to the whole tree until nothing of it is left.
    pub fn kill(&mut self, process: ProcessId) {
        self.order(process, Mailbox::kill);
    }

    /// Moves the deadline of a guarded process.
    pub fn guard(&mut self, process: ProcessId, deadline: Deadline) {
        self.order(process, |mailbox| mailbox.deadline(deadline));
    }

    /// Makes a check of a running process: `Tcp`, `Http` or `Command`; the others are not made from here, and fail.
    /// Ends in [`ProcessEvent::Checked`](crate::model::event::ProcessEvent::Checked) within `timeout`, or with the
    /// process. A check ordered while one for the same purpose is under way has the same answer.
    pub fn check(&mut self, process: ProcessId, purpose: Purpose, check: Check, timeout: Duration) {
        self.order(process, |mailbox| mailbox.check(purpose, check, timeout));
    }

    /// Measures processes (watcher, slot and pid of each), and all that is below them, on another thread; ends in
    /// [`Event::Sampled`].
    pub fn sample(&self, request: RequestId, processes: Vec<(WatcherName, u32, u32)>) {
        let (sampler, events) = (Arc::clone(&self.sampler), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let samples = sampler.lock().unwrap_or_else(PoisonError::into_inner).sample(processes);
            // Nobody listens to an agent that is leaving.
            let _ = events.blocking_send(Event::Sampled { request, samples });
        });
    }

    /// Measures processes for those who watch, each with all below it, the agent and the machine, on another thread; ends
    /// in [`Event::Measured`].
    pub fn measure(&self, pids: Vec<u32>, detail: Detail) {
        let (sampler, events) = (Arc::clone(&self.sampler), self.events.clone());
        let sockets = Arc::clone(&self.sockets);
        tokio::task::spawn_blocking(move || {
            let mut measures = sampler.lock().unwrap_or_else(PoisonError::into_inner).measure(pids, detail);
            if detail == Detail::Circus {
                measures.sockets = sockets.measure();
            }
            // Whoever drops the host after this has dropped them all, with their paths.
            drop(sockets);
            // Nobody listens to an agent that is leaving.
            let _ = events.blocking_send(Event::Measured(Box::new(measures)));
        });
    }

    /// Measures this very program and all that is below it, in the same way: as slot 0 of a watcher `circus`.
    pub fn sample_agent(&self, request: RequestId) {
        let name = WatcherName::parse("circus").expect("a name");
        self.sample(request, vec![(name, 0, std::process::id())]);
    }

    /// The lines that processes wrote lately, and those they will.
    pub fn output(&self) -> &Hub {
        self.outputs.hub()
    }

    /// Has each log file opened anew before the next write to it: it may have been moved.
    pub fn reopen_output(&self) {
        self.outputs.reopen();
    }

    /// Calls a hook; ends in exactly one [`Event::HookEnded`] within `timeout`, unless it is [called
    /// off](Host::call_off).
    ///
    /// One that takes longer has failed, and all it started is killed. One that ends in time may leave things running
    /// in the background; they go on, and are reaped as orphans.
    pub fn hook(&mut self, hook: HookId, call: Box<HookCall>, timeout: Duration) {
        let (events, end) = (self.events.clone(), self.hooks.call(call, timeout));
        let task = tokio::spawn(async move {
            let end = end.await;
            // Nobody listens to an agent that is leaving.
            let _ = events.send(Event::HookEnded { hook, end }).await;
        });
        self.called.retain(|_, task| !task.is_finished());
        self.called.insert(hook, task.abort_handle());
    }

    /// Ends a hook that has not ended, and all that it started.
    pub fn call_off(&mut self, hook: HookId) {
        // Whoever waits for a hook holds it: dropped, it is killed.
        if let Some(task) = self.called.remove(&hook) {
            task.abort();
        }
    }

    // ---- sockets ----

    /// Opens these sockets, or none of them, on another thread; ends in [`Event::Bound`]. One that is open under its id is
    /// adjusted to its spec. One at the address of an open one is that very socket under another id, unless that is one of
    /// those staying: then it cannot be opened.
    pub fn bind(&mut self, bind: BindId, sockets: Vec<(SocketId, SocketSpec)>, staying: Vec<SocketId>) {
        let (open, events) = (Arc::clone(&self.sockets), self.events.clone());
        tokio::task::spawn_blocking(move || {
            let result = open.bind(&sockets, &staying);
            // Whoever drops the host after this has dropped them all, with their paths.
            drop(open);
            // Nobody listens to an agent that is leaving.
            let _ = events.blocking_send(Event::Bound { bind, result });
        });
    }

    /// Closes sockets. Processes that have them keep them.
    pub fn unbind(&mut self, sockets: &[SocketId]) {
        let (open, sockets) = (Arc::clone(&self.sockets), sockets.to_vec());
        tokio::task::spawn_blocking(move || open.unbind(&sockets));
    }

    /// Closes the listeners of lanes.
    pub fn close_lanes(&mut self, lanes: &[LaneId]) {
        self.sockets.close_lanes(lanes);
    }

    /// Watches a sleeping watcher's sockets, in place of those that were watched for it; ends in [`Event::Demanded`] as
    /// soon as a connection or a datagram waits in one of them, unless it is [called off](Host::ignore_demand).
    pub fn await_demand(&mut self, watcher: WatcherName, sockets: &[Handed]) {
        self.demand.wait(&self.sockets, watcher, sockets);
    }

    /// Stops to watch for a watcher.
    pub fn ignore_demand(&mut self, watcher: &WatcherName) {
        self.demand.ignore(watcher);
    }

    /// Looks whether anybody has wanted something of a watcher's sockets since it was last asked, or still does; ends in
    /// [`Event::Counted`].
    pub fn count_demand(&mut self, watcher: WatcherName, sockets: &[Handed]) {
        self.demand.count(&self.sockets, watcher, sockets);
    }

    fn order(&self, process: ProcessId, give: impl FnOnce(&Mailbox)) {
        if let Some(mailbox) = self.mailboxes.get(&process).and_then(Weak::upgrade) {
            give(&mailbox);
        }
    }
}

/// Reaps orphans that end while nobody sweeps, for as long as the runtime lives.
async fn reap_orphans(mut child_ended: Signals) {
    while child_ended.next().await.is_some() {
        tree::reap_orphans();
    }
}

/// What a stranger wrote, as it may be shown anywhere: at most `most` characters, none of them a control character.
fn harmless(text: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

/// What marks the processes of this agent's run, and no other's, as its own.
fn draw_run() -> io::Result<String> {
    let run = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let outer = std::env::var(tree::TAG).map(|outer| outer + "/").unwrap_or_default();
    Ok(format!("{outer}{run:016x}-"))
}

/// Raises the soft limit on open files to the hard one, since each child takes a few; gives back what it was. Where
/// it cannot be raised the agent carries on with what there is.
fn raise_open_files() -> Option<Limit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(Limit { name: "nofile".into(), resource: Resource::RLIMIT_NOFILE as u32, soft, hard })
}

/// The program that guards: the agent's own, called by another name.
#[derive(Debug, Clone)]
struct GuardProgram(CString);

impl GuardProgram {
    /// How to start a guard of `launch`. Nothing of the child's environment is for the guard (think of LD_PRELOAD)
    /// but its tag, so that its tree is known even without it.
    fn plan(&self, launch: &Launch, around: &Surroundings) -> Plan {
        let text = |text: String| CString::new(text.replace('\0', "?")).expect("no NUL is left");
        Plan {
            argv: vec![text(guard::NAME.into()), text(launch.watcher.to_string())],
            env: vec![text(format!("{}={}", tree::TAG, around.tag))],
            pids: Vec::new(),
            candidates: vec![self.0.clone()],
            limits: Vec::new(),
            umask: None,
            groups: None,
            gid: None,
            uid: None,
            user: String::new(),
            dir: None,
            // Should somebody have stopped the guard, it wakes to see that the agent is gone; else this does nothing.
            death_signal: libc::SIGCONT,
        }
    }
}
