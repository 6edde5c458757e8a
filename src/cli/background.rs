//! `--daemon`: the agent goes into the background, and whoever started it is told the truth.
//!
//! ```text
//!   parent ── fork ─▶ leader of a session of its own ── fork ─▶ the agent
//!     ▲                    (ends at once)                          │
//!     └── a socket: READY=1 when each watcher has had its turn to start, or EXIT_STATUS=… and the reason why not
//! ```
//!
//! The parent waits for one of the two, or for the agent's end, and exits accordingly: a start that fails is seen. How
//! long a start takes is for the watchers to say. Who cannot wait may end the parent; the agent goes on.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::agent_exit;
use crate::systemd::Notify;

/// Who goes on after [`detach`].
pub(super) enum Side {
    /// The one that was started: it exits with this code.
    Parent(u8),
    /// The agent, in the background: it tells the second that it is ready, or the first why it never will be.
    Agent(Starter, Notify),
}

/// The line to whoever started the agent, until it is ready. It ends with the agent, however that ends.
pub(super) struct Starter(UnixDatagram);

impl Starter {
    /// Says why there will be no agent, and with which code that ends.
    pub(super) fn give_up(&self, code: u8, why: &str) {
        // Whoever listened may be gone.
        let _ = self.0.send(format!("{EXIT_STATUS}{code}\n{why}").as_bytes());
    }
}

/// What a message begins with that says why there is no agent.
const EXIT_STATUS: &str = "EXIT_STATUS=";
/// The longest reason that is read.
const LONGEST: usize = 64 * 1024;

/// Puts this process into the background. Its standard streams lead nowhere from then on, its directory and umask stay.
///
/// # Safety
///
/// No other thread may run yet: `fork` copies only the one that calls it.
pub(super) unsafe fn detach() -> io::Result<Side> {
    // Messages, as those of datagrams, and an end, as that of a stream.
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the caller's promise.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        drop(theirs);
        waitpid(child, None)?;
        return wait(&UnixDatagram::from(ours)).map(Side::Parent);
    }
    drop(ours);
    setsid()?;
    // SAFETY: the caller's promise. Not being the session's leader, the agent can never take on a terminal.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        std::process::exit(0);
    }
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&nowhere)?;
    dup2_stdout(&nowhere)?;
    dup2_stderr(&nowhere)?;
    let line = UnixDatagram::from(theirs);
    let notify = Notify::over(line.try_clone()?)?;
    Ok(Side::Agent(Starter(line), notify))
}

/// Waits until the agent is ready or gives up: the exit code.
fn wait(line: &UnixDatagram) -> io::Result<u8> {
    let mut message = vec![0; LONGEST];
    loop {
        let length = match line.recv(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        let text = String::from_utf8_lossy(&message[..length]);
        if text.is_empty() {
            super::print_error("the agent ended while it started");
            return Ok(agent_exit::INTERNAL);
        }
        if let Some((code, why)) = text.strip_prefix(EXIT_STATUS).and_then(|text| text.split_once('\n')) {
            super::print_error(why);
            return Ok(code.parse().unwrap_or(agent_exit::INTERNAL));
        }
        if text.lines().any(|line| line == "READY=1") {
            return Ok(agent_exit::OK);
        }
    }
}
