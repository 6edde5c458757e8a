//! One process, from its spawn to the end of its tree: each is a task that reads like its life.
//!
//! ```text
//! alone:    spawn ─▶ Spawned ─▶ (pidfd readable) ─▶ Exited ─▶ sweep ─▶ last words ─▶ Gone
//! guarded:  spawn guard ─▶ Launch ─▶ Spawned ─▶ Exited ─▶ (guard ended) ─▶ sweep ─▶ last words ─▶ Gone
//!                                        └──── (guard killed) ─▶ sweep ─▶ last words ─▶ Exited(Lost) ─▶ Gone
//! ```
//!
//! A lord process whose guard is killed has been asked to stop by that, and has until its deadline before it is swept.
//!
//! The sweep ends both, and is the proof for `Gone`: the agent looks for itself, whatever a guard has done. Where the
//! process has a cgroup that must be empty first; where no orphans are adopted the rest is one system call. After it
//! nothing can write any more, so what is read then is all.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Socket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::select;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::ack::{AckSocket, Acks};
use super::cgroup::{Home, Leaf, warn_of_stuck};
use super::check::{CheckOrder, Checks};
use super::clock::Alarm;
use super::contact::SocketDir;
use super::frame::{Garbage, Inbox, Order, Report, encode};
use super::job::Jobs;
use super::legion::Legions;
use super::notify::{Notices, NotifySocket};
use super::output::{Intake, Outputs, Reading};
use super::plan::{Descriptors, Surroundings};
use super::socket::Sockets;
use super::spawn::{Child, Plan, failure, spawn};
use super::spawner::Spawner;
use super::tree::{self, Left, Main, Patience, Scope};
use super::{GuardProgram, guard, sys};
use crate::model::event::{Deadline, Event, Exit, Launch, LegionPart, ProcessEvent, ProcessId, Reach, SpawnFailure};
use crate::model::spec::{Check, FIRST_FD, Purpose};
use crate::model::time::Time;

/// What a process is yet to be sent. It stays small however long nobody fetches it: a signal that is there twice is
/// there once (as in the kernel), a deadline replaces the one before, and a kill is a kill.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    orders: Mutex<Orders>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Orders {
    /// Each once, in the order in which they were given.
    signals: Vec<(i32, Reach)>,
    /// After how many of them the tree is to be frozen.
    freeze: Option<usize>,
    deadline: Option<Deadline>,
    kill: bool,
    /// One for each purpose.
    checks: Vec<CheckOrder>,
}

/// How many signals may wait in all before more of those to single children are forgotten: there are some hundred
/// others at most.
const MOST_SIGNALS: usize = 1000;

/// How often it is tried to freeze a tree: one that waits for a device cannot be.
const FREEZE: u32 = 100;
/// And how soon again.
const FREEZE_PAUSE: Duration = Duration::from_millis(1);

impl Mailbox {
    /// Adds a signal; one that cannot exist is none.
    pub(super) fn signal(&self, signal: i32, reach: Reach) {
        if (1..=64).contains(&signal) {
            self.orders().add_signal(signal, reach);
            self.news.notify_one();
        }
    }

    /// Adds a freeze: what is ordered later comes after it.
    pub(super) fn freeze(&self) {
        let mut orders = self.orders();
        orders.freeze = Some(orders.signals.len());
        self.news.notify_one();
    }

    /// Adds a check; one that waits already for the same purpose is made in its stead.
    pub(super) fn check(&self, purpose: Purpose, check: Check, limit: Duration) {
        let checks = &mut self.orders().checks;
        if checks.iter().all(|waiting| waiting.purpose != purpose) {
            checks.push(CheckOrder { purpose, check, limit });
            self.news.notify_one();
        }
    }

    pub(super) fn deadline(&self, deadline: Deadline) {
        self.orders().deadline = Some(deadline);
        self.news.notify_one();
    }

    pub(super) fn kill(&self) {
        self.orders().kill = true;
        self.news.notify_one();
    }

    /// Waits for orders and takes them out.
    async fn fetch(&self) -> Orders {
        self.news.notified().await;
        std::mem::take(&mut *self.orders())
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Orders {
    fn add_signal(&mut self, signal: i32, reach: Reach) {
        let too_many = matches!(reach, Reach::Child(_)) && self.signals.len() >= MOST_SIGNALS;
        // What was to be sent before a freeze is no reason not to send it after.
        let alike = &self.signals[self.freeze.unwrap_or(0)..];
        if !too_many && !alike.contains(&(signal, reach)) {
            self.signals.push((signal, reach));
        }
    }

    /// Adds what a guard is to carry out later; the checks are not among it.
    fn add(&mut self, later: Orders) {
        later.signals.into_iter().for_each(|(signal, reach)| self.add_signal(signal, reach));
        self.deadline = later.deadline.or(self.deadline);
        self.kill |= later.kill;
    }
}

/// A process's task.
pub(super) struct Life {
    pub(super) process: ProcessId,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) spawner: Arc<Spawner>,
    pub(super) outputs: Arc<Outputs>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) around: Surroundings,
    /// For the process to keep open until its tree is gone.
    pub(super) hold: Option<OwnedFd>,
    /// Where check commands are started from.
    pub(super) jobs: Jobs,
    pub(super) notify_dir: Arc<SocketDir>,
    /// Where processes have their cgroups, if that is possible.
    pub(super) cgroups: Option<Arc<Home>>,
    pub(super) legions: Arc<Legions>,
}

/// What a running process is known by, besides its end.
#[derive(Default)]
struct SignsOfLife {
    notices: Option<Notices>,
    acks: Option<Acks>,
    checks: Checks,
}

impl SignsOfLife {
    /// Waits for the next. Dropping the wait loses nothing.
    async fn next(&mut self) -> Vec<ProcessEvent> {
        let notice = async {
            match &mut self.notices {
                Some(notices) => notices.next().await,
                None => pending().await,
            }
        };
        let ack = async {
            match &mut self.acks {
                Some(acks) => acks.next().await,
                None => pending().await,
            }
        };
        select! {
            said = notice => said.into_iter().map(ProcessEvent::Notified).collect(),
            said = ack => vec![ProcessEvent::Notified(said)],
            (purpose, result) = self.checks.next() => vec![ProcessEvent::Checked { purpose, result }],
        }
    }

    /// What the process said before its end. The checks under way are given up.
    fn last_words(self) -> impl Iterator<Item = ProcessEvent> {
        let ack = self.acks.and_then(Acks::last_words);
        let notices = self.notices.into_iter().flat_map(Notices::last_words);
        ack.into_iter().chain(notices).map(ProcessEvent::Notified)
    }
}

impl Life {
    /// A child of the agent itself.
    pub(super) async fn alone(mut self, launch: Launch) {
        let name = launch.watcher.to_string();
        let (child, leaf, intake, mut signs) = match self.start(&launch).await {
            Ok(started) => started,
            Err(failure) => return self.end([ProcessEvent::SpawnFailed(failure)]).await,
        };
        self.report(ProcessEvent::Spawned { pid: child.pid() }).await;
        let mut reading = self.read(intake, child.pid());
        let exit = self.follow(&child, leaf.as_ref(), &launch, &mut signs).await;
        self.exited(exit, signs, Some(&mut reading)).await;
        self.clear(Some(child.pid()), leaf, &name).await;
        reading.finish().await;
        self.end([ProcessEvent::Gone]).await;
    }

    async fn start(&self, launch: &Launch) -> Result<(Watched, Option<Leaf>, Intake, SignsOfLife), SpawnFailure> {
        let (launch, signs, ack_line) = self.listen(launch).await?;
        let (around, sockets) = (self.around.clone(), Arc::clone(&self.sockets));
        let cgroups = self.cgroups.clone();
        let start = move || {
            let plan = Plan::of(&launch, &around, launch.stop_signal)?;
            let (descriptors, intake) = Descriptors::open(&launch, &sockets, ack_line)?;
            let fds: Vec<_> = descriptors.standard().into_iter().chain(descriptors.further()).collect();
            let (child, leaf) = match cgroups {
                Some(cgroups) => cgroups.spawn(launch.watcher.as_str(), &plan, &fds)?,
                None => (spawn(&plan, &fds, None)?, None),
            };
            Ok((child, (leaf, intake)))
        };
        let (child, (leaf, intake)) = start_with(&self.spawner, &self.around.tag, start).await?;
        Ok((child, leaf, intake, signs))
    }

    /// Carries out orders until the child has ended.
    async fn follow(&self, child: &Watched, leaf: Option<&Leaf>, launch: &Launch, signs: &mut SignsOfLife) -> Exit {
        let name = launch.watcher.as_str();
        let scope = Scope::Process { pid: Some(child.pid()), main: Main::Running, tag: &self.around.tag };
        let mut killing: Option<Patience> = None;
        let mut freezing: Option<u32> = None;
        loop {
            let pause = killing.as_mut().map(Patience::pause);
            select! {
                biased;
                exit = child.ended() => return exit,
                orders = self.mailbox.fetch() => {
                    let send = |signals: &[(i32, Reach)]| for &(signal, reach) in signals {
                        tree::signal_below(child.pid(), signal, reach);
                        if tree::reaches_main(reach) {
                            child.signal(signal);
                        }
                    };
                    let (before, after) = orders.signals.split_at(orders.freeze.unwrap_or(0));
                    send(before);
                    if orders.freeze.is_some() {
                        freezing = Some(FREEZE);
                    }
                    if after.iter().any(|(signal, _)| *signal == libc::SIGCONT) {
                        freezing = None;
                    }
                    send(after);
                    orders.checks.into_iter().for_each(|check| signs.checks.begin(check, launch, &self.jobs));
                    if orders.kill {
                        killing.get_or_insert_default();
                        // What is not in the cgroup any more is looked for when those who are have had time to die.
                        if leaf.is_none_or(|leaf| leaf.kill().is_err()) {
                            tree::strike(scope);
                        }
                    }
                }
                () = after(freezing.map(|_| FREEZE_PAUSE)) => {
                    freezing = freezing.map(|left| left - 1);
                    if tree::freeze(child.pid()) || freezing == Some(0) {
                        freezing = None;
                        self.report(ProcessEvent::Frozen).await;
                    }
                }
                () = after(pause) => complain(name, killing.as_ref(), &tree::strike(scope)),
                seen = signs.next() => {
                    for sign in seen {
                        self.report(sign).await;
                    }
                }
            }
        }
    }

    /// A child of a guard of its own.
    pub(super) async fn guarded(mut self, launch: Launch, until: Deadline, program: GuardProgram) {
        let name = launch.watcher.to_string();
        let (guard, leaf, intake, mut line, order, mut signs) = match self.start_guard(&launch, until, program).await {
            Ok(started) => started,
            Err(failure) => return self.end([ProcessEvent::SpawnFailed(failure)]).await,
        };
        line.send(&order);
        drop(order);
        let mut pid = None;
        let mut intake = Some(intake);
        let mut reading = None;
        let mut end = GuardedEnd::NotStarted(None);
        let mut empty = None;
        let mut waiting = Orders::default();
        let mut until = until;
        let mut lord = None;
        loop {
            // One batch at a time: while the guard does not read, orders pile up where they cannot grow.
            if !line.has_unsent() {
                line.send_all(&std::mem::take(&mut waiting));
            }
            select! {
                biased;
                report = line.receive() => match report {
                    Ok(None) => {}
                    Ok(Some(Report::Spawned { pid: spawned })) => {
                        pid = Some(spawned);
                        end = GuardedEnd::Running;
                        if launch.legion == Some(LegionPart::Lord) {
                            lord = sys::pidfd_open(spawned).ok();
                        }
                        self.report(ProcessEvent::Spawned { pid: spawned }).await;
                        reading = intake.take().map(|intake| self.read(intake, spawned));
                    }
                    Ok(Some(Report::SpawnFailed { stage, error })) => {
                        end = GuardedEnd::NotStarted(Some(SpawnFailure { stage, error }));
                    }
                    Ok(Some(Report::Code(code))) => {
                        end = GuardedEnd::Exited;
                        self.exited(Exit::Code(code), std::mem::take(&mut signs), reading.as_mut()).await;
                    }
                    Ok(Some(Report::Signal(signal))) => {
                        end = GuardedEnd::Exited;
                        self.exited(Exit::Signal(signal), std::mem::take(&mut signs), reading.as_mut()).await;
                    }
                    Ok(Some(Report::Stuck(pids))) => warn_of_stuck(&name, &pids),
                    Ok(Some(Report::Empty { at })) => empty = Some(Time::from_nanos(at)),
                    // It has ended, or is not what we think it is.
                    Err(Hangup) => break,
                },
                mut orders = self.mailbox.fetch() => {
                    if orders.kill || !orders.signals.is_empty() {
                        // Should somebody have stopped the guard.
                        guard.signal(libc::SIGCONT);
                    }
                    if let Some(leaf) = leaf.as_ref().filter(|_| orders.kill) {
                        // Whatever the guard is doing. It kills too, and what is not there any more.
                        let _ = leaf.kill();
                    }
                    let checks = std::mem::take(&mut orders.checks).into_iter();
                    checks.for_each(|check| signs.checks.begin(check, &launch, &self.jobs));
                    until = orders.deadline.unwrap_or(until);
                    waiting.add(orders);
                }
                // The program may be quicker than the guard's word that it runs, which comes first.
                seen = signs.next(), if matches!(end, GuardedEnd::Running) => {
                    for sign in seen {
                        self.report(sign).await;
                    }
                }
            }
        }
        drop(signs);
        guard.signal(libc::SIGKILL);
        let exit = guard.ended().await;
        if let (GuardedEnd::Running, Some(lord)) = (&end, lord) {
            self.let_undo(lord, until).await;
        }
        let was_empty = self.clear(pid, leaf, &name).await;
        if let Some(reading) = reading {
            reading.finish().await;
        }
        if let Some(since) = empty.filter(|_| was_empty) {
            self.report(ProcessEvent::Empty { since }).await;
        }
        match end {
            GuardedEnd::Exited => self.end([ProcessEvent::Gone]).await,
            GuardedEnd::Running => self.end([ProcessEvent::Exited(Exit::Lost), ProcessEvent::Gone]).await,
            GuardedEnd::NotStarted(failure) => {
                let ended_early = || SpawnFailure {
                    stage: "guard".into(),
                    error: format!("ECHILD: the guard ended before it started the program ({exit})"),
                };
                self.end([ProcessEvent::SpawnFailed(failure.unwrap_or_else(ended_early))]).await;
            }
        }
    }

    /// Waits for the end of a lord process whose guard was killed, until `until` as it was then, or until it is to be
    /// killed.
    async fn let_undo(&self, lord: OwnedFd, until: Deadline) {
        let (Ok(lord), Ok(mut alarm)) = (sys::watch(lord), Alarm::new()) else { return };
        if alarm.set(Some(until.kill)).is_err() {
            return;
        }
        let killed = async { while !self.mailbox.fetch().await.kill {} };
        select! {
            _ = lord.readable() => {}
            () = alarm.rang() => {}
            () = killed => {}
        }
    }

    /// Starts the guard, and prepares what it is to be told.
    async fn start_guard(
        &self,
        launch: &Launch,
        until: Deadline,
        program: GuardProgram,
    ) -> Result<(Watched, Option<Leaf>, Intake, Line, Order, SignsOfLife), SpawnFailure> {
        let (launch, signs, ack_line) = self.listen(launch).await?;
        let (ours, theirs) = Socket::pair().map_err(|error| failure("guard socketpair", &error))?;
        let line = Line::new(ours).map_err(|error| failure("guard socketpair", &error))?;
        let hold = self.hold.as_ref().map(|hold| hold.try_clone()).transpose();
        let hold = hold.map_err(|error| failure("guard dup", &error))?;
        let is_lord = launch.legion == Some(LegionPart::Lord);
        let end = launch.legion.as_ref().map(|part| self.legions.end_for(part, &launch.watcher)).transpose();
        let end = end.map_err(|error| failure("guard pipe", &error))?;
        let (around, sockets) = (self.around.clone(), Arc::clone(&self.sockets));
        let cgroups = self.cgroups.clone();
        let start = move || {
            let plan = Plan::of(&launch, &around, if is_lord { launch.stop_signal } else { libc::SIGKILL })?;
            let (descriptors, intake) = Descriptors::open(&launch, &sockets, ack_line)?;
            let mut fds = descriptors.standard().to_vec();
            debug_assert_eq!(fds.len() as i32, guard::SOCKET);
            fds.push(theirs.as_fd());
            debug_assert_eq!(fds.len() as i32, guard::PASSED_ON);
            fds.extend(descriptors.further());
            let leaf = cgroups.filter(|_| !is_lord).and_then(|cgroups| cgroups.new_leaf(launch.watcher.as_str()));
            fds.extend(leaf.as_ref().map(Leaf::dir));
            // The guard kills it in the end, however that comes.
            leaf.iter().for_each(Leaf::spend);
            fds.extend(end.as_ref().map(AsFd::as_fd));
            fds.extend(hold.as_ref().map(AsFd::as_fd));
            let started = spawn(&program.plan(&launch, &around), &fds, None);
            let child =
                started.map_err(|failed| SpawnFailure { stage: format!("guard {}", failed.stage), ..failed })?;
            let (plan, passed_on, in_cgroup) = (Box::new(plan), descriptors.further().len(), leaf.is_some());
            let (stop_signal, until) = (launch.stop_signal, until.into());
            let order = Order::Launch { plan, passed_on, in_cgroup, is_lord, stop_signal, until };
            Ok((child, (leaf, intake, order)))
        };
        let (guard, (leaf, intake, order)) = start_with(&self.spawner, &self.around.tag, start).await?;
        Ok((guard, leaf, intake, line, order, signs))
    }

    /// Begins to listen to a process that is to say how it is; and how to start it so that it can, with its end of a
    /// connection that it is to find behind its sockets.
    async fn listen(&self, launch: &Launch) -> Result<(Launch, SignsOfLife, Option<OwnedFd>), SpawnFailure> {
        let (mut launch, mut signs, mut ack_line) = (launch.clone(), SignsOfLife::default(), None);
        if launch.signs.notify || launch.signs.watchdog.is_some() {
            let (dir, process) = (Arc::clone(&self.notify_dir), self.process);
            let socket = on_spawner(&self.spawner, move || NotifySocket::open(&dir, process)).await?;
            launch.env.push(("NOTIFY_SOCKET".into(), socket.address()));
            signs.notices = Some(socket.listen().map_err(|error| failure("notify epoll", &error))?);
        }
        // Without WATCHDOG_PID, which nobody knows before it runs: whoever reads this is meant then.
        if let Some(interval) = launch.signs.watchdog {
            launch.env.push(("WATCHDOG_USEC".into(), interval.as_micros().to_string()));
        }
        if launch.signs.ack {
            let (dir, process) = (Arc::clone(&self.notify_dir), self.process);
            let (socket, theirs) = on_spawner(&self.spawner, move || AckSocket::open(&dir, process)).await?;
            let fd = FIRST_FD as usize + launch.sockets.len();
            launch.socket_env.push(("EINHORN_SOCK_PATH".into(), socket.address()));
            launch.socket_env.push(("EINHORN_SOCK_FD".into(), fd.to_string()));
            signs.acks = Some(socket.listen().map_err(|error| failure("ack epoll", &error))?);
            ack_line = Some(theirs);
        }
        Ok((launch, signs, ack_line))
    }

    /// Kills what a process left behind, until nothing is left: all in its cgroup, then whoever was moved out of it.
    /// Whether there was nothing to kill.
    async fn clear(&self, pid: Option<u32>, leaf: Option<Leaf>, name: &str) -> bool {
        let was_empty = match leaf {
            Some(leaf) => leaf.clear(name).await,
            None => true,
        };
        sweep(pid, &self.around.tag, name).await && was_empty
    }

    /// Tells of the end of the main process, after all that it has said.
    async fn exited(&self, exit: Exit, signs: SignsOfLife, reading: Option<&mut Reading>) {
        if let Some(reading) = reading {
            reading.catch_up().await;
        }
        for word in signs.last_words() {
            self.report(word).await;
        }
        self.report(ProcessEvent::Exited(exit)).await;
    }

    /// Reads what the process writes, now that `Spawned` is told.
    fn read(&self, intake: Intake, pid: u32) -> Reading {
        self.outputs.read(intake, self.process, pid, &self.events)
    }

    async fn report(&self, event: ProcessEvent) {
        // Nobody listens to an agent that is leaving.
        let _ = self.events.send(Event::Process(self.process, event)).await;
    }

    /// Lets go of what was held, then says the last words: whoever hears them may count on it.
    async fn end<const N: usize>(&mut self, events: [ProcessEvent; N]) {
        drop(self.hold.take());
        for event in events {
            self.report(event).await;
        }
    }
}

/// How a guarded process would end if its guard ended now.
enum GuardedEnd {
    NotStarted(Option<SpawnFailure>),
    Running,
    Exited,
}

/// Starts a child on a spawner's thread, and has its end noticed.
pub(super) async fn start(
    spawner: &Spawner,
    tag: &str,
    start: impl FnOnce() -> Result<Child, SpawnFailure> + Send + 'static,
) -> Result<Watched, SpawnFailure> {
    let (child, ()) = start_with(spawner, tag, || start().map(|child| (child, ()))).await?;
    Ok(child)
}

/// The same, with what else comes of the start.
async fn start_with<T: Send + 'static>(
    spawner: &Spawner,
    tag: &str,
    start: impl FnOnce() -> Result<(Child, T), SpawnFailure> + Send + 'static,
) -> Result<(Watched, T), SpawnFailure> {
    let (child, beside) = on_spawner(spawner, start).await?;
    Ok((watch(child, tag).await?, beside))
}

async fn on_spawner<T: Send + 'static>(
    spawner: &Spawner,
    job: impl FnOnce() -> Result<T, SpawnFailure> + Send + 'static,
) -> Result<T, SpawnFailure> {
    spawner.run(job).await.unwrap_or_else(|| {
        Err(SpawnFailure { stage: "spawner".into(), error: "a fault of circus-agent's own; see its log".into() })
    })
}

async fn watch(child: Child, tag: &str) -> Result<Watched, SpawnFailure> {
    let pid = child.pid;
    match sys::watch(child) {
        Ok(watched) => Ok(Watched(watched)),
        // A child whose end we would not notice must not be.
        Err((child, error)) => {
            child.signal(libc::SIGKILL);
            let mut patience = Patience::default();
            while child.try_reap().is_none() {
                sleep(patience.pause()).await;
            }
            sweep(Some(pid), tag, "a process that could not be watched").await;
            Err(failure("epoll", &error))
        }
    }
}

/// Kills a child and all it started, until nothing is left.
pub(super) async fn kill(child: &Watched, tag: &str, name: &str) -> Exit {
    let scope = Scope::Process { pid: Some(child.pid()), main: Main::Running, tag };
    let mut patience = Patience::default();
    let exit = loop {
        complain(name, Some(&patience), &tree::strike(scope));
        select! {
            biased;
            exit = child.ended() => break exit,
            () = sleep(patience.pause()) => {}
        }
    };
    sweep(Some(child.pid()), tag, name).await;
    exit
}

/// Kills what a process left behind, until nothing is left. Whether there was nothing to kill.
pub(super) async fn sweep(pid: Option<u32>, tag: &str, name: &str) -> bool {
    let scope = Scope::Process { pid, main: Main::Reaped, tag };
    let mut patience = Patience::default();
    let mut was_empty = true;
    while tree::reap_orphans() {
        let left = tree::strike(scope);
        was_empty &= left.is_empty();
        if patience.accepts(&left) {
            break;
        }
        complain(name, Some(&patience), &left);
        sleep(patience.pause()).await;
    }
    was_empty
}

/// Waits for `pause`, or for ever.
async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => pending().await,
    }
}

/// Tells the operator, once, of a tree that does not die.
fn complain(name: &str, patience: Option<&Patience>, left: &Left) {
    if patience.is_some_and(Patience::is_exhausted) {
        warn_of_stuck(name, &left.stuck());
    }
}

/// A child whose end wakes us.
pub(super) struct Watched(AsyncFd<Child>);

impl Watched {
    pub(super) fn pid(&self) -> u32 {
        self.0.get_ref().pid
    }

    fn signal(&self, signal: i32) {
        self.0.get_ref().signal(signal);
    }

    /// Waits for its end and reaps it. Dropping the wait loses nothing.
    pub(super) async fn ended(&self) -> Exit {
        loop {
            // A runtime that is going down wakes nobody; it does not matter any more.
            let Ok(mut ready) = self.0.readable().await else { return pending().await };
            if let Some(exit) = ready.get_inner().try_reap() {
                return exit;
            }
            ready.clear_ready();
        }
    }
}

/// The agent's end of a guard's socket. Neither direction ever blocks.
struct Line {
    socket: UnixStream,
    inbox: Inbox,
    unsent: Vec<u8>,
}

/// The guard has ended, or speaks no language of ours.
struct Hangup;

impl Line {
    fn new(socket: Socket) -> io::Result<Line> {
        socket.set_nonblocking(true)?;
        Ok(Line { socket: UnixStream::from_std(socket)?, inbox: Inbox::default(), unsent: Vec::new() })
    }

    fn send(&mut self, order: &Order) {
        self.unsent.extend(encode(order));
    }

    fn send_all(&mut self, orders: &Orders) {
        orders.deadline.iter().for_each(|&deadline| self.send(&Order::Deadline(deadline.into())));
        orders.signals.iter().for_each(|&(signal, reach)| self.send(&Order::Signal { signal, reach }));
        if orders.kill {
            self.send(&Order::Kill);
        }
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Waits for a report while sending what is unsent; gives none when the last of it is sent. Dropping the wait
    /// loses nothing.
    async fn receive(&mut self) -> Result<Option<Report>, Hangup> {
        loop {
            if let Some(report) = self.inbox.next().map_err(|Garbage| Hangup)? {
                return Ok(Some(report));
            }
            let sending = self.has_unsent();
            let interest = if sending { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.socket.ready(interest).await.map_err(|_| Hangup)?;
            if sending && self.flush() {
                return Ok(None);
            }
            let mut buffer = [0; 512];
            match self.socket.try_read(&mut buffer) {
                Ok(0) => return Err(Hangup),
                Ok(length) => self.inbox.extend(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Hangup),
            }
        }
    }

    /// Writes what the socket takes; whether that was all.
    fn flush(&mut self) -> bool {
        match self.socket.try_write(&self.unsent) {
            Ok(written) => drop(self.unsent.drain(..written)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The guard has ended: what it last said is still to be read.
            Err(_) => self.unsent.clear(),
        }
        self.unsent.is_empty()
    }
}
