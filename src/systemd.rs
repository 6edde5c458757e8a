//! What systemd is told: that we are ready, how we are, that we live. And what it hands over: sockets.
//!
//! The agent answers for itself only, so it takes systemd's variables out of its environment: a child that found them
//! there could declare us ready, keep our watchdog fed while we hang, or take descriptors for sockets that are none.
//!
//! Nothing here waits or fails: a service manager that does not listen must not hold up a supervisor.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use sd_notify::NotifyState;

use crate::model::names::SocketName;

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

    /// The end has begun, and goes on: within `more` there will be something new to tell.
    pub fn stopping(&self, more: Duration) {
        let more = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(more)]);
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

/// The sockets that systemd has opened and hands over (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Given {
    /// Each with its name, of which no two are the same. They end with an `exec`.
    pub sockets: Vec<(String, OwnedFd)>,
    /// What is wrong with them, for the log.
    pub warnings: Vec<String>,
}

impl Given {
    /// Those that the environment names. Takes `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_PIDFDID` and `LISTEN_FDNAMES` out of
    /// it.
    ///
    /// A socket has its `FileDescriptorName=`, in lower case; the second one of a name is `NAME-2`, and one that has
    /// none, or none that a socket can have, is `systemd-N`, of which N is its place among all.
    ///
    /// To be called before anything is opened, because whatever has these numbers is taken for a socket of systemd's; and
    /// before a fork, because they are meant for the process that systemd has started.
    ///
    /// # Safety
    ///
    /// As for [`std::env::remove_var`]: no other thread may run yet.
    pub unsafe fn from_env() -> Given {
        let meant_for = std::env::var("LISTEN_PID").ok();
        let listed = sd_notify::listen_fds_with_names().map(Iterator::unzip::<_, _, Vec<_>, Vec<_>>);
        for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"] {
            // SAFETY: the caller's promise.
            unsafe { std::env::remove_var(name) };
        }
        let own = std::process::id();
        let (numbers, names) = match (meant_for, listed) {
            (None, _) => return Given::default(),
            (Some(pid), _) if pid != own.to_string() => {
                return Given::nothing(format!(
                    "the sockets of systemd are not taken: they are meant for process {pid} (LISTEN_PID), and this is \
                     process {own}; where a script starts it, write: exec circus-agent …"
                ));
            }
            (Some(_), Ok(listed)) => listed,
            (Some(_), Err(error)) => {
                return Given::nothing(format!("the sockets of systemd cannot be taken: {error}"));
            }
        };
        let (names, mut warnings) = distinct(&names);
        let mut sockets = Vec::new();
        for (number, name) in numbers.into_iter().zip(names) {
            // SAFETY: it is open, as it was just marked close-on-exec, and it was given to this process, in which nobody
            // has opened anything yet.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            match getsockopt(&descriptor, sockopt::SockType) {
                Ok(_) => sockets.push((name, descriptor)),
                Err(error) => warnings.push(format!("{name}, descriptor {number} of systemd's, is no socket: {error}")),
            }
        }
        Given { sockets, warnings }
    }

    fn nothing(why: String) -> Given {
        Given { sockets: Vec::new(), warnings: vec![why] }
    }
}

/// The names under which sockets are known that systemd calls so, and what there is to say of those that were changed.
fn distinct(given: &[String]) -> (Vec<String>, Vec<String>) {
    let mut warnings = Vec::new();
    let chosen: Vec<Option<String>> = given
        .iter()
        .map(|name| match (name.as_str(), SocketName::parse(name)) {
            // What systemd says where nobody has chosen one.
            ("" | "unknown", _) => None,
            (_, Ok(name)) => Some(name.to_string()),
            (_, Err(bad)) => {
                warnings.push(format!("a socket that systemd hands over cannot be named '{name}': {bad}"));
                None
            }
        })
        .collect();
    // Beforehand, so that a name which somebody has chosen is not taken by one that is made up.
    let mut taken: BTreeSet<String> = chosen.iter().flatten().cloned().collect();
    let mut made_up = |stem: &str, first: usize| {
        let mut number = first;
        while !taken.insert(format!("{stem}-{number}")) {
            number += 1;
        }
        format!("{stem}-{number}")
    };
    let mut met = BTreeSet::new();
    let mut names = Vec::new();
    for (place, chosen) in (1..).zip(chosen) {
        names.push(match chosen {
            None => made_up("systemd", place),
            Some(name) if met.insert(name.clone()) => name,
            Some(name) => {
                let other = made_up(&name, 2);
                warnings.push(format!(
                    "systemd hands over another socket named {name}: it is {other} here; a unit of its own gives it a \
                     FileDescriptorName= of its own"
                ));
                other
            }
        });
    }
    (names, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn each_socket_has_a_name_of_its_own() {
        let names = |given: &[&str]| distinct(&given.iter().map(ToString::to_string).collect::<Vec<_>>());
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&["Web", "admin.socket"]), (owned(&["web", "admin.socket"]), vec![]));
        assert_eq!(names(&["unknown", "web", ""]), (owned(&["systemd-1", "web", "systemd-3"]), vec![]));
        assert_eq!(names(&["systemd-2", "unknown"]).0, ["systemd-2", "systemd-3"]);
        // Who was named so keeps the name.
        let (repeated, warnings) = names(&["web", "web", "WEB", "web-2"]);
        assert_eq!(repeated, ["web", "web-3", "web-4", "web-2"]);
        assert!(warnings.len() == 2 && warnings[0].contains("web-3 here"), "{warnings:?}");
        let (unfit, warnings) = names(&["my web"]);
        assert_eq!(unfit, ["systemd-1"]);
        assert!(warnings.len() == 1 && warnings[0].contains("'my web'"), "{warnings:?}");
        assert_eq!(names(&[]), (vec![], vec![]));
    }

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
            notify.stopping(Duration::from_millis(1500));
            assert_eq!(manager.heard().unwrap(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000\n");
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
