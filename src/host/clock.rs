//! The clock that goes on while the machine sleeps, and an alarm on it.
//!
//! `Instant` and tokio's timers stop during suspend. A lease does not, so what a lease guards is timed here.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;
use tokio::io::unix::AsyncFd;

use super::sys;
use crate::model::time::Time;

/// The present on this machine's `CLOCK_BOOTTIME`.
pub fn now() -> Time {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
    let (seconds, nanos) = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
    Time::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// Rings once at the instant it is set to, also when that passed during a suspend.
#[derive(Debug)]
pub struct Alarm(AsyncFd<Timer>);

impl Alarm {
    /// An alarm that is not set. It rings within the tokio runtime in which it was made.
    pub fn new() -> io::Result<Alarm> {
        sys::watch(Timer::new()?).map(Alarm).map_err(|(_, error)| error)
    }

    /// Rings at `at` instead of when it was to, or never; at once where `at` has passed.
    pub fn set(&mut self, at: Option<Time>) -> io::Result<()> {
        self.0.get_ref().set(at)
    }

    /// Waits until it rings. Dropping the wait loses nothing.
    pub async fn rang(&mut self) {
        loop {
            // An alarm that cannot be watched is as good as one that is not set; the runtime is going down.
            let Ok(mut ready) = self.0.readable().await else { return pending().await };
            if ready.get_inner().take() {
                return;
            }
            // Set anew since it became readable.
            ready.clear_ready();
        }
    }
}

/// A timer of the kernel that becomes readable when it is due.
#[derive(Debug)]
pub(super) struct Timer(TimerFd);

impl Timer {
    pub(super) fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Timer(TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?))
    }

    pub(super) fn set(&self, at: Option<Time>) -> io::Result<()> {
        match at {
            // Zero would switch it off, where it means the distant past.
            Some(at) => self.0.set(
                Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(at.as_nanos().max(1)))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            )?,
            None => self.0.unset()?,
        }
        Ok(())
    }

    /// Whether it was due since it was last set or taken.
    pub(super) fn take(&self) -> bool {
        let mut expirations = [0; 8];
        loop {
            match read(&self.0, &mut expirations) {
                Err(Errno::EINTR) => {}
                taken => return taken.is_ok(),
            }
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl From<Timer> for OwnedFd {
    fn from(timer: Timer) -> OwnedFd {
        timer.0.into()
    }
}
