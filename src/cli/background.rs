//! `--daemon`: the agent goes into the background, and whoever started it is told the truth.
//!
//! ```text
//!   parent ── fork ─▶ leader of a session of its own ── fork ─▶ the agent
//!     ▲                                                            │
//!     └──── a socket: READY=1 when all there is to start has been started, or the reason why not
//! ```
//!
//! The parent waits for one of the two, or for the agent's end, and exits accordingly: a start that fails is seen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::agent_exit;

/// Who goes on after [`detach`].
pub(super) enum Side {
    /// The one that was started: it exits with this code.
    Parent(u8),
    /// The agent, in the background.
    Agent(Starter),
}

/// The line to whoever started the agent, until it is ready.
pub(super) struct Starter(UnixStream);

impl Starter {
    /// Says why there will be no agent, and with which code that ends.
    pub(super) fn give_up(mut self, code: u8, why: &str) {
        // Whoever listened may be gone.
        let _ = self.0.write_all(&[&[code], why.as_bytes()].concat());
    }
}

/// Puts this process into the background. Its standard streams lead nowhere from then on, its directory and umask stay.
///
/// # Safety
///
/// No other thread may run yet: `fork` copies only the one that calls it, and the environment is changed.
pub(super) unsafe fn detach() -> io::Result<Side> {
    let (ours, theirs) = UnixStream::pair()?;
    // An abstract name goes away with the socket, whatever happens to us.
    let name = format!("circus-agent-{}", std::process::id());
    let ready = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    // SAFETY: the caller's promise.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        drop(theirs);
        return wait(&ready, ours).map(Side::Parent);
    }
    drop((ours, ready));
    setsid()?;
    // SAFETY: the caller's promise. Not being the session's leader, the agent can never take on a terminal.
    if let ForkResult::Parent { .. } = unsafe { fork() }? {
        std::process::exit(0);
    }
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&nowhere)?;
    dup2_stdout(&nowhere)?;
    dup2_stderr(&nowhere)?;
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        // SAFETY: the caller's promise.
        unsafe { std::env::set_var("NOTIFY_SOCKET", format!("@{name}")) };
    }
    Ok(Side::Agent(Starter(theirs)))
}

/// Waits until the agent is ready or gives up: the exit code.
fn wait(ready: &UnixDatagram, mut line: UnixStream) -> io::Result<u8> {
    loop {
        let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN), PollFd::new(line.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result?,
        };
        if fds[0].any().unwrap_or_default() {
            let mut message = [0; 4096];
            let length = ready.recv(&mut message)?;
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(agent_exit::OK);
            }
        } else if fds[1].any().unwrap_or_default() {
            let mut last = Vec::new();
            line.read_to_end(&mut last)?;
            let (code, why) = last.split_first().map_or((agent_exit::INTERNAL, &b""[..]), |(code, why)| (*code, why));
            match why {
                [] => super::print_error("the agent ended while it started"),
                why => super::print_error(String::from_utf8_lossy(why)),
            }
            return Ok(code);
        }
    }
}
