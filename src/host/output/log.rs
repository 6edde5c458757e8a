//! The agent's own log: to the places that output goes to, and written by the same means.
//!
//! It has a thread of its own, as there is something to log before there is a runtime, and after it. Who logs waits for
//! no disk, no server and no reader of a pipe: what is logged goes into a buffer, and while that is full, it is lost,
//! counted, and told of as soon as the place takes something again.

use std::io::{self, Write as _};
use std::mem;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::datagram::Datagrams;
use super::file::{self, LogFile};
use super::format::SyslogLines;
use super::passage::lines;
use super::place::{Place, Writer};
use super::sink::{BUFFER, PARTING, PAUSES};
use super::standard::Standard;
use crate::model::spec::{LogOutput, Rotation, SyslogAddress};

/// A log, for as many as want to write to it.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

impl Log {
    /// Begins to log to `output`. A file is appended to, and opened anew when it is no longer the one of its name.
    ///
    /// The error is that of a file that cannot be opened, or of a thread that cannot be started. A syslog server that is
    /// not there yet is tried again.
    pub fn start(output: &LogOutput) -> io::Result<Log> {
        let zone = TimeZone::system();
        let (place, syslog, mut writer): (_, _, Box<dyn Writer>) = match output {
            LogOutput::Stderr => (Standard::Err.to_string(), None, Box::new(Standard::Err)),
            LogOutput::File(path) => {
                // To see whether it can be; the first line opens it again.
                file::open(path)?;
                (Place::File(path.clone()).to_string(), None, Box::new(LogFile::new(path.clone(), None, zone)))
            }
            LogOutput::Syslog(syslog) => {
                let lines = SyslogLines::new(syslog, std::process::id(), zone);
                let (place, datagrams) = match syslog.address.clone() {
                    SyslogAddress::Unix(path) => (Place::Unix(path.clone()), Datagrams::unix(path)),
                    SyslogAddress::Udp { host, port } => (Place::Udp(host.clone(), port), Datagrams::udp(host, port)),
                };
                (place.to_string(), Some(lines), Box::new(datagrams))
            }
        };
        writer.rotate(Rotation::Watched);
        let is_stderr = *output == LogOutput::Stderr;
        let (backlog, news, end) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { place, is_stderr, syslog, backlog, news, end });
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("circus-log".into()).spawn(move || writing.drain(writer.as_mut()))?;
        Ok(Log(shared))
    }

    /// Adds a text of one line or several, each with its end. `severity` is syslog's: 3 for an error, 7 for what only
    /// helps to find one. Never waits.
    pub fn put(&self, severity: u8, text: &[u8]) {
        let shared = &self.0;
        let mut backlog = shared.backlog();
        if backlog.is_full() {
            backlog.lost += lines(text).count();
            return;
        }
        match &shared.syslog {
            None => backlog.bytes.extend_from_slice(text),
            Some(syslog) => {
                let now = Timestamp::now();
                lines(text).for_each(|line| syslog.put(severity, now, b"", line, &mut backlog.bytes));
            }
        }
        drop(backlog);
        shared.news.notify_one();
    }

    /// Waits until all of it is written, or [`PARTING`] has passed. What is put in later is not.
    pub fn finish(&self) {
        let shared = &self.0;
        let mut backlog = shared.backlog();
        backlog.ending = true;
        shared.news.notify_one();
        let waited = shared.end.wait_timeout_while(backlog, PARTING, |backlog| !backlog.ended);
        let (backlog, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !backlog.ended || backlog.in_hand > 0 {
            shared.tell_stderr("what was logged last is lost");
        }
    }
}

/// What those who log and the thread that writes have in common.
#[derive(Debug)]
struct Shared {
    place: String,
    is_stderr: bool,
    /// Where each line is a datagram.
    syslog: Option<SyslogLines>,
    backlog: Mutex<Backlog>,
    /// There is something to write, or the end has come.
    news: Condvar,
    end: Condvar,
}

#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    /// How much was taken out of `bytes` and is not yet written.
    in_hand: usize,
    /// Lines that there was no room for.
    lost: usize,
    ending: bool,
    ended: bool,
}

impl Backlog {
    fn is_full(&self) -> bool {
        self.bytes.len() + self.in_hand >= BUFFER
    }
}

impl Shared {
    /// Writes what comes in, until the end.
    fn drain(&self, writer: &mut dyn Writer) {
        let (mut bytes, mut trouble) = (Vec::new(), None);
        while self.take(&mut bytes) {
            match self.write(&bytes, writer) {
                Some(new) => trouble = new.or(trouble),
                None => break,
            }
            let lost = self.written();
            if lost > 0 {
                let slow = || format!("{} is slower than what is logged", self.place);
                tracing::error!("{lost} lines of this log were lost: {}", trouble.take().unwrap_or_else(slow));
            }
        }
        self.backlog().ended = true;
        self.end.notify_all();
    }

    /// Takes note that all that was in hand is written: how many lines were lost, once there is room to tell.
    fn written(&self) -> usize {
        let mut backlog = self.backlog();
        backlog.in_hand = 0;
        if backlog.is_full() { 0 } else { mem::take(&mut backlog.lost) }
    }

    /// Waits for what is to be written next; false when there is nothing more.
    fn take(&self, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let waiting = |backlog: &mut Backlog| backlog.bytes.is_empty() && !backlog.ending;
        let mut backlog = self.news.wait_while(self.backlog(), waiting).unwrap_or_else(PoisonError::into_inner);
        mem::swap(bytes, &mut backlog.bytes);
        backlog.in_hand = bytes.len();
        !bytes.is_empty()
    }

    /// Writes until all is written, and gives what was last in the way of that; nothing where it is given up.
    fn write(&self, mut bytes: &[u8], writer: &mut dyn Writer) -> Option<Option<String>> {
        let (mut trouble, mut pause, mut last_chance) = (None, PAUSES.0, false);
        while let Err(failure) = writer.write(&mut bytes) {
            if last_chance {
                return None;
            }
            if trouble.replace(failure.to_string()).is_none() {
                self.tell_stderr(&format!("{failure}; the log is kept, up to 1 MiB"));
            }
            let going_on = |backlog: &mut Backlog| !backlog.ending;
            let waited = self.news.wait_timeout_while(self.backlog(), pause, going_on);
            last_chance = waited.unwrap_or_else(PoisonError::into_inner).0.ending;
            pause = (pause * 2).min(PAUSES.1);
        }
        Some(trouble)
    }

    /// Says what cannot be logged where it may be seen, if that holds up nobody: such a pipe has room for a page.
    fn tell_stderr(&self, what: &str) {
        let stderr = io::stderr();
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if !self.is_stderr && poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            let _ = writeln!(&stderr, "circus-agent: {what}");
        }
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixDatagram;
    use std::time::{Duration, Instant};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::model::spec::Syslog;

    #[test]
    fn a_file_that_was_moved_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "before\n").unwrap();
        let log = Log::start(&LogOutput::File(path.clone())).unwrap();
        log.put(6, b"a\n");
        while fs::read_to_string(&path).unwrap() != "before\na\n" {
            thread::yield_now();
        }
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        log.put(6, b"b\n");
        log.finish();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(fs::read_to_string(dir.path().join("log.1")).unwrap(), "before\na\n");
    }

    #[test]
    fn a_syslog_server_gets_each_line_with_its_severity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server");
        let server = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog { address: SyslogAddress::Unix(path), facility: 3, ident: "circus-agent".into() };
        let log = Log::start(&LogOutput::Syslog(syslog)).unwrap();
        log.put(3, b"it broke\n  here\n");
        log.finish();
        let mut buffer = [0; 256];
        for text in ["it broke", "  here"] {
            let length = server.recv(&mut buffer).unwrap();
            let heard = std::str::from_utf8(&buffer[..length]).unwrap();
            let end = format!(" circus-agent[{}]: {text}", std::process::id());
            assert!(heard.starts_with("<27>") && heard.ends_with(&end), "{heard}");
        }
    }

    #[test]
    fn a_place_that_takes_nothing_costs_lines_and_no_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let log = Log::start(&LogOutput::File(path)).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let begun = Instant::now();
        (0..2048).for_each(|_| log.put(6, &line));
        assert!(log.0.backlog().lost >= 1024, "{}", log.0.backlog().lost);
        log.finish();
        assert!(begun.elapsed() < PARTING + Duration::from_secs(5));
    }
}
