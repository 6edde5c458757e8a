//! A signal for who comes to a socket, whoever serves them.
//!
//! That somebody came and was served is to be seen nowhere else: epoll looks at the accept queue again when it delivers,
//! and finds it empty once a process has accepted; the kernel counts no connections of a listener; what a connection
//! leaves behind (TIME_WAIT) is there on one side only, and on Unix sockets not at all. But a socket with `O_ASYNC`
//! sends a signal for each arrival, be it that a process waits in `accept` already.
//!
//! The flag and its owner are the socket's, and all who share it share those: the signal goes to one thread of ours
//! (`F_OWNER_TID`), and to no child. Only that thread blocks it; so it does not matter which threads there are.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::gettid;
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use crate::host::sys;

/// fcntl(2): who is signalled. libc has none of these three for every C library.
const F_SETOWN_EX: libc::c_int = 15;
/// By which signal, which then tells the descriptor.
const F_SETSIG: libc::c_int = 10;
/// A thread.
const F_OWNER_TID: libc::c_int = 0;

/// The argument of `F_SETOWN_EX`.
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

/// Where arrivals are heard of.
#[derive(Debug)]
pub(super) struct Arrivals {
    signals: AsyncFd<SignalFd>,
}

/// Who has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Somebody, to the socket that was armed by this descriptor.
    At(RawFd),
    /// Too many signals waited: it may be any.
    Anywhere,
}

impl Arrivals {
    /// Has this thread hear of arrivals, within the runtime: only here they can be waited for. Gives its id with it.
    pub(super) fn new() -> io::Result<(Arrivals, i32)> {
        let signals = signals();
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let signals = sys::watch(signals).map_err(|(_, error)| error)?;
        Ok((Arrivals { signals }, gettid().as_raw()))
    }

    /// Waits until there are some.
    pub(super) async fn come(&self) -> io::Result<()> {
        self.signals.readable().await?.clear_ready();
        Ok(())
    }

    /// Those that nobody has taken yet.
    pub(super) fn take(&self) -> io::Result<Vec<Arrival>> {
        let signals = std::iter::from_fn(|| self.signals.get_ref().read_signal().transpose());
        let arrivals = signals.map(|signal| {
            let signal = signal?;
            let overflown = signal.ssi_signo == Signal::SIGIO as u32;
            Ok(if overflown { Arrival::Anywhere } else { Arrival::At(signal.ssi_fd) })
        });
        arrivals.collect()
    }
}

/// Has a thread signalled for each arrival at a socket from here on.
pub(super) fn arm(socket: &Socket, tid: i32) -> io::Result<()> {
    let owner = Owner { kind: F_OWNER_TID, id: tid };
    // SAFETY: `owner` is what F_SETOWN_EX reads, and outlives the call.
    Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), F_SETOWN_EX, &raw const owner) })?;
    // SAFETY: the call takes plain numbers.
    Errno::result(unsafe { libc::fcntl(socket.as_raw_fd(), F_SETSIG, signal()) })?;
    set(socket, true)
}

/// Ends that.
pub(super) fn disarm(socket: &Socket) {
    // It cannot fail on a socket.
    let _ = set(socket, false);
}

/// Whether that is so.
pub(super) fn is_armed(socket: &Socket) -> io::Result<bool> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    Ok(flags.contains(OFlag::O_ASYNC))
}

/// Sets `O_ASYNC` alone, where `F_SETFL` could undo what a process does to the other flags at that moment.
fn set(socket: &Socket, armed: bool) -> io::Result<()> {
    let armed = libc::c_int::from(armed);
    // SAFETY: `armed` is the int that FIOASYNC reads, and outlives the call.
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIOASYNC, &raw const armed) })?;
    Ok(())
}

/// A real-time signal: each arrival is told with its descriptor, where ordinary ones that are equal become one.
fn signal() -> libc::c_int {
    libc::SIGRTMAX() - 2
}

/// That signal, and the one that comes in its place when too many wait.
fn signals() -> SigSet {
    let mut signals = *SigSet::from(Signal::SIGIO).as_ref();
    // SAFETY: `signals` is a set of signals, and outlives the call.
    unsafe { libc::sigaddset(&raw mut signals, signal()) };
    // SAFETY: it is a set that the C library has made.
    unsafe { SigSet::from_sigset_t_unchecked(signals) }
}
