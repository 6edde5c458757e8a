//! What a drill's witness needs of this machine: to outlive the agent, and to see a singleton's end from outside of it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use tokio::io::unix::AsyncFd;

use super::clock;
use super::sys;
use super::tree::{self, Stat};
use crate::model::time::Time;

/// How to start this very program under another name, as a process that nothing which ends the agent ends: in a session
/// of its own, without the mark by which the tree of an agent within an agent is known. Its input and output are pipes.
pub fn apart(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).env_remove(tree::TAG).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // SAFETY: between fork and exec only setsid is called, which is safe there and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    command
}

/// What a process started by [`apart`] does first: no signal that a service manager sends to all of an agent ends it.
pub fn stand_apart() -> io::Result<()> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    prctl::set_name(c"circus-witness")?;
    // Nor SIGKILL to all of the agent's cgroup, which is what systemd's KillMode=mixed comes to when the agent is killed.
    // Only root may leave it. Where that fails, the witness may end with the agent, and the end stays untold.
    let _ = fs::write("/sys/fs/cgroup/cgroup.procs", "0");
    Ok(())
}

/// An agent and one child that it has guarded, each held so that its number cannot come to mean another.
#[derive(Debug)]
pub struct Watched {
    agent: OwnedFd,
    guard: AsyncFd<OwnedFd>,
    main: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Holds the child `main` of agent `agent`, within a tokio runtime.
    ///
    /// # Errors
    /// They are not, or not any more, what they are taken for.
    pub fn hold(agent: u32, main: u32) -> io::Result<Watched> {
        let strange = || io::Error::other(format!("process {main} is no child that agent {agent} has guarded"));
        let held = sys::pidfd_open(agent)?;
        let main_fd = sys::pidfd_open(main)?;
        let guard = Stat::read(main).ok_or_else(strange)?.parent;
        let guard_fd = sys::pidfd_open(guard)?;
        // Looked at only after all are held: now each number still means what it did.
        let is_child =
            |child: u32, parent: u32| Stat::read(child).is_some_and(|stat| stat.parent == parent && !stat.is_dead());
        if !(is_child(main, guard) && is_child(guard, agent)) {
            return Err(strange());
        }
        let watch = |fd| sys::watch(fd).map_err(|(_, error)| error);
        Ok(Watched { agent: held, guard: watch(guard_fd)?, main: watch(main_fd)? })
    }

    /// Sends a signal to the agent alone.
    pub fn signal_agent(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_signal(self.agent.as_fd(), signal)
    }

    /// Waits until nothing is left of the child, and says since when. Its guard is the last to go: it stays for as long
    /// as anything of the tree is there.
    pub async fn gone(&self) -> Time {
        // A pidfd that cannot be watched tells nothing; the runtime is going down.
        let ended = async |fd: &AsyncFd<OwnedFd>| match fd.readable().await {
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        };
        ended(&self.main).await;
        ended(&self.guard).await;
        clock::now()
    }
}
