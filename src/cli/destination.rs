//! Where the log goes where that is not standard error: to a file or a syslog server.
//!
//! A thread of its own writes it, so that a disk or a server that takes its time holds up nobody. Lines that it cannot
//! write, or that come faster than it writes, are lost; their number is told as soon as something can be written again.

use std::fs::File;
use std::io::{self, Write};
use std::net::{ToSocketAddrs, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Zoned;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::print_error;
use crate::model::spec::{LogOutput, Syslog, SyslogAddress};

/// How many lines may wait for the thread.
const LINES: usize = 4096;
/// How long the last lines may take to be written.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a server may take nothing before a line is lost.
const FULL: Duration = Duration::from_secs(1);

/// A way to where the log goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Standard error, at once.
    Stderr,
    /// A file or a server, by way of a thread.
    Elsewhere(Queue),
}

impl Destination {
    /// The way to `output`; the error, where a file cannot be opened, is for the operator.
    pub(super) fn open(output: &LogOutput) -> Result<Destination, String> {
        let place = match output {
            LogOutput::Stderr => return Ok(Destination::Stderr),
            LogOutput::File(path) => match LogFile::open(path.clone()) {
                Ok(file) => Place::File(file),
                Err(error) => return Err(format!("cannot write the log {}: {error}", path.display())),
            },
            LogOutput::Syslog(syslog) => Place::Syslog { syslog: syslog.clone(), socket: None },
        };
        Ok(Destination::Elsewhere(Queue(Arc::new(Shared {
            has_time: matches!(place, Place::Syslog { .. }),
            place: Mutex::new(Some(place)),
            lines: OnceLock::new(),
            lost: Arc::default(),
        }))))
    }

    /// Whether whoever reads the lines has their time from elsewhere.
    pub(super) fn has_time(&self) -> bool {
        matches!(self, Destination::Elsewhere(Queue(shared)) if shared.has_time)
    }

    /// Waits until what has been said is written; a second at most.
    pub(super) fn flush(&self) {
        let Destination::Elsewhere(Queue(shared)) = self else { return };
        let (done, written) = sync_channel(1);
        if shared.lines.get().is_some_and(|lines| lines.try_send(Message::Flush(done)).is_ok()) {
            // Nobody can be told any more that it took too long.
            let _ = written.recv_timeout(FAREWELL);
        }
    }
}

impl<'a> MakeWriter<'a> for Destination {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { to: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        Line { to: self, level: *about.level() }
    }
}

/// One line on its way.
#[derive(Debug)]
pub struct Line<'a> {
    to: &'a Destination,
    level: Level,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to {
            Destination::Stderr => io::stderr().write_all(bytes)?,
            Destination::Elsewhere(queue) => queue.put(self.level, bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that wait for the thread.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    has_time: bool,
    /// The thread takes it along when the first line comes: until then, the agent may have to be alone in its process.
    place: Mutex<Option<Place>>,
    lines: OnceLock<SyncSender<Message>>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Level, Vec<u8>),
    Flush(SyncSender<()>),
}

impl Queue {
    fn put(&self, level: Level, bytes: &[u8]) {
        let Queue(shared) = self;
        let lines = shared.lines.get_or_init(|| {
            let (lines, queue) = sync_channel(LINES);
            let place = shared.place.lock().unwrap_or_else(PoisonError::into_inner).take();
            let lost = Arc::clone(&shared.lost);
            let started = thread::Builder::new().name("log".into()).spawn(move || {
                if let Some(mut place) = place {
                    place.write_all(&queue, &lost);
                }
            });
            if let Err(error) = started {
                print_error(format_args!("there is no log: its thread cannot start: {error}"));
            }
            lines
        });
        if lines.try_send(Message::Line(level, bytes.to_vec())).is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Where lines end.
#[derive(Debug)]
enum Place {
    File(LogFile),
    Syslog { syslog: Syslog, socket: Option<Socket> },
}

impl Place {
    /// Writes lines until nobody sends any more.
    fn write_all(&mut self, lines: &Receiver<Message>, lost: &AtomicU64) {
        let mut well = true;
        for message in lines {
            let (level, line) = match message {
                Message::Line(level, line) => (level, line),
                Message::Flush(done) => {
                    let _ = done.try_send(());
                    continue;
                }
            };
            let missing = lost.swap(0, Ordering::Relaxed);
            let note = format!("note: {missing} lines of the log were lost here\n");
            let written = match missing {
                0 => Ok(()),
                _ => self.write(Level::WARN, note.as_bytes()),
            };
            match written.and_then(|()| self.write(level, &line)) {
                Ok(()) => well = true,
                Err(error) => {
                    lost.fetch_add(missing + 1, Ordering::Relaxed);
                    // Once, and not for every line.
                    if std::mem::take(&mut well) {
                        print_error(format_args!("cannot write the log: {error}"));
                    }
                }
            }
        }
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Place::File(file) => file.write(line),
            Place::Syslog { syslog, socket } => {
                let sent = match socket {
                    Some(socket) => socket,
                    None => socket.insert(Socket::connect(&syslog.address)?),
                }
                .send(&datagram(syslog, level, line));
                if sent.is_err() {
                    // The server may have been started anew.
                    *socket = None;
                }
                sent
            }
        }
    }
}

/// A file that somebody may move: the next line then begins a new one.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<LogFile> {
        let file = File::options().create(true).append(true).open(&path)?;
        Ok(LogFile { path, file })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let there = std::fs::metadata(&self.path).map(|found| (found.dev(), found.ino())).ok();
        let ours = self.file.metadata().map(|found| (found.dev(), found.ino())).ok();
        if there != ours {
            *self = LogFile::open(self.path.clone())?;
        }
        self.file.write_all(line)
    }
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Socket {
    fn connect(address: &SyslogAddress) -> io::Result<Socket> {
        match address {
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(FULL))?;
                Ok(Socket::Unix(socket))
            }
            SyslogAddress::Udp { host, port } => {
                let address = (host.as_str(), *port).to_socket_addrs()?.next();
                let address = address.ok_or_else(|| io::Error::other(format!("{host} has no address")))?;
                let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(address)?;
                socket.set_write_timeout(Some(FULL))?;
                Ok(Socket::Udp(socket))
            }
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self {
            Socket::Unix(socket) => socket.send(datagram),
            Socket::Udp(socket) => socket.send(datagram),
        }
        .map(drop)
    }
}

/// A line as syslog has it (RFC 3164): `<30>Nov 22 10:00:00 circus-agent[4711]: web: started`.
fn datagram(syslog: &Syslog, level: Level, line: &[u8]) -> Vec<u8> {
    let severity = super::log::severity(level);
    let time = Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    let host = match &syslog.address {
        SyslogAddress::Unix(_) => String::new(),
        SyslogAddress::Udp { .. } => format!("{} ", nix::unistd::gethostname().unwrap_or_default().to_string_lossy()),
    };
    let (priority, ident, pid) = (syslog.facility * 8 + severity, &syslog.ident, std::process::id());
    let mut datagram = format!("<{priority}>{time} {host}{ident}[{pid}]: ").into_bytes();
    datagram.extend_from_slice(line.trim_ascii_end());
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syslog(path: PathBuf) -> LogOutput {
        LogOutput::Syslog(Syslog { address: SyslogAddress::Unix(path), facility: 3, ident: "circus-agent".into() })
    }

    fn say(to: &Destination, level: Level, text: &str) {
        Line { to, level }.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_server_gets_each_line_with_its_severity() {
        let dir = tempfile::tempdir().unwrap();
        let server = UnixDatagram::bind(dir.path().join("log")).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let to = Destination::open(&syslog(dir.path().join("log"))).unwrap();
        assert!(to.has_time());
        say(&to, Level::ERROR, "web: given up\n");
        let mut datagram = [0; 200];
        let length = server.recv(&mut datagram).unwrap();
        let text = String::from_utf8_lossy(&datagram[..length]);
        let end = format!(" circus-agent[{}]: web: given up", std::process::id());
        assert!(text.starts_with("<27>") && text.ends_with(&end), "{text}");
    }

    #[test]
    fn lost_lines_are_counted_and_told_when_it_can_be_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let to = Destination::open(&LogOutput::File(place.join("log"))).unwrap();
        // Nothing can be opened where nothing is.
        std::fs::remove_dir_all(&place).unwrap();
        say(&to, Level::INFO, "one\n");
        say(&to, Level::INFO, "two\n");
        to.flush();
        std::fs::create_dir(&place).unwrap();
        say(&to, Level::INFO, "three\n");
        to.flush();
        let log = std::fs::read_to_string(place.join("log")).unwrap();
        assert_eq!(log, "note: 2 lines of the log were lost here\nthree\n");
    }
}
