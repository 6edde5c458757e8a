//! The guard: a small process that is the parent of one singleton's child and alone holds its deadline.
//!
//! The agent may be stopped, hang or be killed, and none of that may leave a child running under a lease that has
//! ended. So the agent starts the agent's own program under the name [`NAME`], which does nothing but this:
//!
//! ```text
//!             Launch                       main process ended
//! (start) ───────────▶ running ───────────────────────────────────▶ clearing ──▶ (end)
//!    │                    │  deadline.kill, Kill, agent gone, garbage  ▲          nothing is left
//!    │ deadline passed    └───────────────────────────────────────────┘
//!    ▼ or spawn failed
//!  (end)
//! ```
//!
//! A legion's lord process has something to undo, and is not killed when the agent is gone, but asked to stop: when
//! nothing of its followers is left, or at `deadline.stop` at the latest. `deadline.kill` stands.
//!
//! # Invariants
//!
//! - The deadline is armed before the child starts, and holds without a word from anybody.
//! - Once clearing, nothing turns it back: a deadline that arrives late changes nothing.
//! - The guard ends when no descendant is left, and the end of its process is the proof of that; since when it was so it
//!   says, for an agent that may have been stopped meanwhile. What it was given
//!   to keep, such as the lock on a lease's file, stays open until then.
//! - The child's sockets are the child's alone once it runs: a guard that held on to them would leave connections
//!   waiting where nobody accepts them any more.
//! - No signal but SIGKILL and SIGSTOP reaches it: what systemd or a terminal sends to all, the child is to hear from
//!   its agent. SIGKILL takes the child along (`PR_SET_PDEATHSIG`; a lord process is asked to stop by it instead);
//!   SIGSTOP is undone by the agent's next order, and by its end.
//! - What kills the agent's cgroup, as systemd and the agent's successor do, does not kill a lord process: it is in none
//!   below the agent's, where its guard may leave that.
//! - One thread: the end of the thread that spawned the child would end the child.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, send};

use super::cgroup;
use super::clock::{self, Timer};
use super::frame::{Garbage, Inbox, Order, Report, encode};
use super::plan::inherited;
use super::spawn::{Child, spawn};
use super::sys::{self, Waited, Whom};
use super::tree::{self, Patience, Scope};
use crate::model::event::{Deadline, Reach, SpawnFailure};

/// The name (`argv[0]`) under which the agent's program is a guard.
pub const NAME: &str = "circus-guard";

/// Where the guard finds its socket.
pub(super) const SOCKET: i32 = 3;

/// Where the descriptors begin that it passes on to its child, to be the child's from
/// [`FIRST_FD`](crate::model::spec::FIRST_FD) on. Behind them is the child's cgroup, where it has one, and then what is
/// for keeping.
pub(super) const PASSED_ON: i32 = SOCKET + 1;

/// Guards one child until nothing is left of it; then the process ends.
pub fn main() -> ! {
    // Whatever goes wrong before a child runs leaves none: the agent sees the end and says why.
    let _ = guard();
    process::exit(0)
}

fn guard() -> io::Result<()> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    prctl::set_name(c"circus-guard")?;
    prctl::set_child_subreaper(true)?;
    // SAFETY: the agent starts a guard with its socket under this number, and nobody here knows it but this line.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(SOCKET) });

    let mut inbox = Inbox::default();
    let Some(Order::Launch { plan, passed_on, in_cgroup, is_lord, stop_signal, until }) =
        first_order(&socket, &mut inbox)
    else {
        return Ok(());
    };
    // SAFETY: the agent has put as many descriptors there as it says, and nobody here knows them but this line.
    let mut given = (PASSED_ON..).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let passed_on: Vec<OwnedFd> = given.by_ref().take(passed_on).collect();
    let cgroup = given.by_ref().take(usize::from(in_cgroup)).next();
    let followers = given.by_ref().take(usize::from(is_lord)).next();
    if is_lord {
        leave_the_agents_cgroup();
    }
    let timer = Timer::new()?;
    let child_ended = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_NONBLOCK)?;
    let deadline = Deadline::from(until);
    timer.set(Some(deadline.stop))?;
    if clock::now() >= deadline.stop {
        let late = SpawnFailure { stage: "guard".into(), error: "ETIME: the lease ended before the start".into() };
        say(&socket, &late.into());
        return Ok(());
    }
    let fds: Vec<_> = inherited().into_iter().chain(passed_on.iter().map(AsFd::as_fd)).collect();
    let child = match spawn(&plan, &fds, cgroup.as_ref().map(AsFd::as_fd)) {
        Ok(child) => child,
        Err(failure) => {
            say(&socket, &failure.into());
            return Ok(());
        }
    };
    drop((plan, passed_on));
    say(&socket, &Report::Spawned { pid: child.pid });
    withdraw();
    Guard {
        socket,
        inbox,
        timer,
        child_ended,
        child,
        cgroup,
        followers,
        abandoned: false,
        ended: false,
        stop_signal,
        deadline,
        asked: false,
        clearing: None,
    }
    .run()
}

/// The first order; nothing where the agent went away or makes no sense.
fn first_order(mut socket: &UnixStream, inbox: &mut Inbox) -> Option<Order> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match inbox.next() {
            Ok(None) => {}
            Ok(order) => return order,
            Err(Garbage) => return None,
        }
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => inbox.extend(&buffer[..length]),
        }
    }
}

/// Lets go of all that the child had to inherit and the guard must not keep: a terminal or pipe that would stay open,
/// a directory that could not be unmounted. And asks the kernel to take others first when memory is short.
fn withdraw() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
    let _ = std::env::set_current_dir("/");
    // Not allowed to everybody, and not needed: the child would go along.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Before there is a child, which goes where its parent is. Only root may; for others all is killed with the agent.
fn leave_the_agents_cgroup() {
    let _ = fs::write("/sys/fs/cgroup/cgroup.procs", "0");
}

/// Tells the agent, unless it does not listen: a guard waits for nobody.
fn say(socket: &UnixStream, report: &Report) {
    use std::os::fd::AsRawFd;
    let _ = send(socket.as_raw_fd(), &encode(report), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

struct Guard {
    socket: UnixStream,
    inbox: Inbox,
    timer: Timer,
    child_ended: SignalFd,
    child: Child,
    /// The child's cgroup, where it has one. The guard itself is not in it.
    cgroup: Option<OwnedFd>,
    /// Where the child is a lord process: what hangs up when its followers are gone.
    followers: Option<OwnedFd>,
    /// Whether the agent is gone, and the child has still something to do.
    abandoned: bool,
    /// Whether the child has ended.
    ended: bool,
    stop_signal: i32,
    deadline: Deadline,
    /// Whether the child was asked to stop, by the agent or the deadline; once is enough.
    asked: bool,
    /// Since when, so to speak, the tree is being killed.
    clearing: Option<Patience>,
}

impl Guard {
    fn run(mut self) -> io::Result<()> {
        // What came together with the launch.
        self.obey();
        while self.reap()? {
            self.keep_time()?;
            let pause = self.strike();
            self.wait(pause)?;
        }
        say(&self.socket, &Report::Empty { at: clock::now().as_nanos() });
        Ok(())
    }

    /// Reaps what has ended; false when nothing is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match sys::wait(Whom::OfThisThread)? {
                // Once only: afterwards its number may be that of a descendant.
                Waited::Ended { pid, exit } if pid == self.child.pid && !self.ended => {
                    self.ended = true;
                    say(&self.socket, &exit.into());
                    self.clear();
                }
                Waited::Ended { .. } => {}
                Waited::Alive => return Ok(true),
                Waited::Nobody => return Ok(false),
            }
        }
    }

    /// Begins to kill, with what is in the child's cgroup: all at once, however fast it forks.
    fn clear(&mut self) {
        if self.clearing.is_none() {
            // What it does not reach, or where it fails, is found by looking.
            let _ = self.cgroup.as_ref().map(|cgroup| cgroup::kill(cgroup.as_fd()));
            self.clearing = Some(Patience::default());
        }
    }

    fn keep_time(&mut self) -> io::Result<()> {
        let now = clock::now();
        if now >= self.deadline.kill {
            self.clear();
        }
        if self.clearing.is_some() {
            return self.timer.set(None);
        }
        if now >= self.deadline.stop {
            self.ask_to_stop();
        }
        self.timer.set(Some(if self.asked { self.deadline.kill } else { self.deadline.stop.min(self.deadline.kill) }))
    }

    fn ask_to_stop(&mut self) {
        if !self.asked {
            self.asked = true;
            self.child.signal(self.stop_signal);
        }
    }

    /// Sends the child and its own what the agent wants them to have. The child must not be reaped yet; afterwards
    /// nobody listens for orders.
    fn signal(&mut self, signal: i32, reach: Reach) {
        tree::signal_below(self.child.pid, signal, reach);
        match signal {
            _ if !tree::reaches_main(reach) => {}
            // The deadline's own signal and the agent's are one: to many programs a second one means "at once".
            _ if signal == self.stop_signal => self.ask_to_stop(),
            _ => self.child.signal(signal),
        }
    }

    /// While clearing, kills all there is, and says how soon to look again.
    fn strike(&mut self) -> Option<Duration> {
        let patience = self.clearing.as_mut()?;
        let left = tree::strike(Scope::Descendants);
        if patience.is_exhausted() {
            say(&self.socket, &Report::Stuck(left.stuck()));
        }
        Some(patience.pause())
    }

    /// Sleeps until something happens, and takes in what the agent has to say.
    fn wait(&mut self, pause: Option<Duration>) -> io::Result<()> {
        let timeout = pause.map_or(PollTimeout::NONE, |pause| PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX));
        let readable = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(self.child_ended.as_fd(), readable)];
        // While clearing, the agent has nothing more to say; its end would only wake us for nothing.
        if self.clearing.is_none() {
            fds.push(PollFd::new(self.timer.as_fd(), readable));
            match &self.followers {
                Some(followers) if self.abandoned && !self.asked => fds.push(PollFd::new(followers.as_fd(), readable)),
                _ if self.abandoned => {}
                _ => fds.push(PollFd::new(self.socket.as_fd(), readable)),
            }
        }
        match poll(&mut fds, timeout) {
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            polled => polled?,
        };
        let spoken = fds.get(2).is_some_and(|fd| fd.any().unwrap_or(true));
        while let Ok(Some(_)) = self.child_ended.read_signal() {}
        match spoken {
            // The followers are gone.
            true if self.abandoned => self.ask_to_stop(),
            true => self.listen(),
            false => {}
        }
        Ok(())
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            // The agent is gone.
            Ok(0) | Err(_) if self.followers.is_some() => {
                self.abandoned = true;
                return;
            }
            Ok(0) | Err(_) => return self.clear(),
            Ok(length) => self.inbox.extend(&buffer[..length]),
        }
        self.obey();
    }

    fn obey(&mut self) {
        loop {
            match self.inbox.next() {
                Ok(None) => return,
                Ok(Some(Order::Deadline(until))) => self.deadline = until.into(),
                Ok(Some(Order::Signal { signal, reach })) => self.signal(signal, reach),
                Ok(Some(Order::Kill)) => self.clear(),
                // A second launch, or no frame at all: this is not the agent as we know it.
                Ok(Some(Order::Launch { .. })) | Err(Garbage) => return self.clear(),
            }
        }
    }
}
