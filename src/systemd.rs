//! What systemd is told: that we are ready, how we are, that we live.
//!
//! The agent answers for itself only, so it takes systemd's variables out of its environment: a child that found them
//! there could declare us ready, or keep our watchdog fed while we hang.
//!
//! Nothing here waits or fails: a service manager that does not listen must not hold up a supervisor.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// The line to the service manager; where there is none, all of it does nothing.
#[derive(Debug, Default)]
pub struct Notify {
    line: Option<(UnixDatagram, Option<SocketAddr>)>,
    watchdog: Option<Duration>,
    status: String,
}

impl Notify {
    /// The line that the environment names. Takes `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` out of it. An
    /// address that cannot be used is an error, after which they are gone as well.
    ///
    /// # Safety
    ///
    /// As for [`std::env::remove_var`]: no other thread may run yet.
    pub unsafe fn from_env() -> io::Result<Notify> {
        let address = std::env::var_os("NOTIFY_SOCKET");
        // SAFETY: the caller's promise.
        let watchdog = unsafe { sd_notify::watchdog_enabled_and_unset_env() };
        // SAFETY: the caller's promise.
        unsafe { std::env::remove_var("NOTIFY_SOCKET") };
        match address {
            Some(address) if !address.is_empty() => Notify::to(&address, watchdog),
            _ => Ok(Notify::default()),
        }
    }

    /// The line to `address`: a path, or `@` and an abstract name. `watchdog` is the time after which a service that
    /// has not said that it lives is ended.
    pub fn to(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Notify> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => {
                let text = format!("NOTIFY_SOCKET={} is neither a path nor @ and a name", address.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Notify { line: Some((socket, Some(address))), watchdog, status: String::new() })
    }

    /// A line that is connected already, to somebody who listens as a service manager does.
    pub fn over(socket: UnixDatagram) -> io::Result<Notify> {
        socket.set_nonblocking(true)?;
        Ok(Notify { line: Some((socket, None)), watchdog: None, status: String::new() })
    }

    /// All there is to start has been started; also ends what [`Notify::reloading`] began.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// How things are, for `systemctl status`. Sent when it changed.
    pub fn status(&mut self, text: &str) {
        if self.status == text {
            return;
        }
        self.status = text.to_owned();
        // A line's end would begin another message.
        let line = text.replace(['\n', '\r'], " ");
        self.send(&[NotifyState::Status(&line)]);
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            // Together: a reload without its time is a failed one to systemd 253 and later.
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// How often to say [`Notify::alive`], if at all: twice in the time that systemd gives.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.line.as_ref().and(self.watchdog).map(|time| time / 2)
    }

    /// The agent's loop goes round.
    pub fn alive(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some((socket, address)) = &self.line else { return };
        let mut message = String::new();
        for state in states {
            let _ = writeln!(message, "{state}");
        }
        // Nobody could be told of a failure, and the next message may get through.
        let _ = match address {
            Some(address) => socket.send_to_addr(message.as_bytes(), address),
            None => socket.send(message.as_bytes()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    /// Stands in for systemd.
    struct Manager(UnixDatagram, OsString);

    impl Manager {
        fn at(address: &OsStr) -> Manager {
            let bound = match address.as_bytes() {
                [b'@', name @ ..] => UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()),
                _ => UnixDatagram::bind(address),
            };
            let socket = bound.unwrap();
            socket.set_nonblocking(true).unwrap();
            Manager(socket, address.to_owned())
        }

        fn heard(&self) -> Option<String> {
            let mut bytes = [0; 4096];
            let length = self.0.recv(&mut bytes).ok()?;
            Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
        }
    }

    fn path(dir: &tempfile::TempDir) -> OsString {
        dir.path().join("notify").into_os_string()
    }

    #[test]
    fn systemd_hears_each_word_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::TempDir::new().unwrap();
        let abstract_name = format!("@circus-agent-test-{}", std::process::id());
        for manager in [Manager::at(&path(&dir)), Manager::at(abstract_name.as_ref())] {
            let mut notify = Notify::to(&manager.1, Some(Duration::from_secs(20))).unwrap();
            notify.ready();
            assert_eq!(manager.heard().unwrap(), "READY=1\n");
            notify.stopping();
            assert_eq!(manager.heard().unwrap(), "STOPPING=1\n");
            notify.alive();
            assert_eq!(manager.heard().unwrap(), "WATCHDOG=1\n");
            notify.status("beat: holder\nREADY=1");
            assert_eq!(manager.heard().unwrap(), "STATUS=beat: holder READY=1\n");
            assert_eq!(notify.watchdog_interval(), Some(Duration::from_secs(10)));
        }
    }

    #[test]
    fn a_reload_says_in_one_message_when_it_began() {
        let dir = tempfile::TempDir::new().unwrap();
        let manager = Manager::at(&path(&dir));
        Notify::to(&manager.1, None).unwrap().reloading();
        let heard = manager.heard().unwrap();
        let micros = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.trim_end().parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn a_status_is_sent_when_it_changes() {
        let dir = tempfile::TempDir::new().unwrap();
        let manager = Manager::at(&path(&dir));
        let mut notify = Notify::to(&manager.1, None).unwrap();
        notify.status("2 watchers active");
        notify.status("2 watchers active");
        notify.status("1 watcher active");
        assert_eq!(manager.heard().unwrap(), "STATUS=2 watchers active\n");
        assert_eq!(manager.heard().unwrap(), "STATUS=1 watcher active\n");
        assert_eq!(manager.heard(), None);
    }

    #[test]
    fn a_manager_that_went_away_or_does_not_read_holds_nothing_up() {
        let dir = tempfile::TempDir::new().unwrap();
        let manager = Manager::at(&path(&dir));
        let notify = Notify::to(&manager.1, None).unwrap();
        for _ in 0..10_000 {
            notify.alive();
        }
        drop(manager);
        std::fs::remove_file(path(&dir)).unwrap();
        notify.ready();
        // One that comes back is heard of again.
        let manager = Manager::at(&path(&dir));
        notify.ready();
        assert_eq!(manager.heard().unwrap(), "READY=1\n");
    }

    #[test]
    fn without_systemd_nothing_happens() {
        let mut notify = Notify::default();
        notify.ready();
        notify.status("nobody reads this");
        notify.reloading();
        assert_eq!(notify.watchdog_interval(), None);
    }

    #[test]
    fn an_address_that_is_none_is_refused_by_name() {
        let refused = Notify::to(OsStr::new("run/notify"), None).unwrap_err();
        assert!(refused.to_string().contains("run/notify"), "{refused}");
    }
}
