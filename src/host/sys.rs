//! System calls that neither std nor nix has in the form needed here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::event::Exit;

/// The symbolic name and the text of a system error: `ENOENT: No such file or directory`.
pub(super) fn error_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let errno = Errno::from_raw(number);
            format!("{errno:?}: {}", errno.desc())
        }
        None => error.to_string(),
    }
}

/// A file descriptor that stands for process `pid`, and for no later one of that number.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).expect("a descriptor is an int");
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process that `pidfd` stands for.
pub(super) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed and means "as kill(2) would"; the rest are plain numbers.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to whatever process has this number now.
pub(super) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes plain numbers.
    let sent = unsafe { libc::kill(pid.cast_signed(), signal) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whose end is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whom<'a> {
    /// The child this pidfd stands for.
    Child(BorrowedFd<'a>),
    /// Any child of the calling *thread*.
    OfThisThread,
}

/// How things are with the children asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// One ended, and is reaped by this call.
    Ended { pid: u32, exit: Exit },
    /// There are some, and none has ended.
    Alive,
    /// There are none.
    Nobody,
}

/// Reaps one ended child, without waiting.
pub(super) fn wait(whom: Whom<'_>) -> io::Result<Waited> {
    let (kind, id, flags) = match whom {
        Whom::Child(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs(), 0),
        Whom::OfThisThread => (libc::P_ALL, 0, libc::__WNOTHREAD),
    };
    // SAFETY: siginfo_t is plain data, for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a siginfo_t that outlives the call.
    let waited = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG | flags) };
    if waited != 0 {
        return match Errno::last() {
            Errno::ECHILD => Ok(Waited::Nobody),
            errno => Err(errno.into()),
        };
    }
    // SAFETY: after a successful waitid these fields are set, or zero when no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => Waited::Alive,
        (pid, libc::CLD_EXITED) => Waited::Ended { pid: pid.unsigned_abs(), exit: Exit::Code(status) },
        (pid, _) => Waited::Ended { pid: pid.unsigned_abs(), exit: Exit::Signal(status) },
    })
}

/// Has the runtime notice when `owner`'s descriptor becomes readable; gives it back where that cannot be.
pub(super) fn watch<T: AsRawFd + Into<OwnedFd>>(owner: T) -> Result<AsyncFd<T>, (T, io::Error)> {
    watch_for(Interest::READABLE, owner)
}

/// The same with what else may become of a descriptor.
pub(super) fn watch_for<T: AsRawFd + Into<OwnedFd>>(
    interest: Interest,
    owner: T,
) -> Result<AsyncFd<T>, (T, io::Error)> {
    // SAFETY: `owner` owns its descriptor, as it can be turned into an OwnedFd, and AsyncFd owns `owner`: the
    // descriptor stays open and the same until it is taken off the runtime.
    let watched = unsafe { AsyncFd::register_with_interest(owner, interest) };
    watched.map_err(|error| error.into_parts())
}

/// Keeps every descriptor from `first` on out of the programs that are executed from here on.
pub(super) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the call takes plain numbers; it closes nothing, so no descriptor loses its owner.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
