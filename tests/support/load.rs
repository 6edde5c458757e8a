//! Clients of a web server over TCP and Unix sockets, that count what they get: each answer, and each failure by its kind.
//!
//! A client never tries again by itself, as the failure that it would hide is what a test looks for. The one exception
//! is HTTP's own: a connection that is kept may be closed by the server while nothing is under way (RFC 9112, 9.3.1).

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.
#![allow(dead_code)] // Each of which uses a part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Who has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// There was no connection: why.
    Refused(String),
    /// There was one, and not the first byte of an answer: why.
    Dropped(String),
    /// There was not all of an answer: why.
    Cut(String),
    /// There was one, and it was another than 200.
    Status(String),
}

/// A connection to a server.
pub struct Connection {
    stream: BufReader<Stream>,
    /// Whether the server takes another request.
    open: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Opens one.
    pub fn open(address: &Address) -> Result<Connection, Failure> {
        let open = || match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Stream::Unix(stream))
            }
        };
        let stream = open().map_err(|error: io::Error| Failure::Refused(error.to_string()))?;
        Ok(Connection { stream: BufReader::new(stream), open: true })
    }

    /// Asks for a page: the pid of the process that answers. With `keep` the connection may be used again.
    pub fn get(&mut self, path: &str, keep: bool) -> Result<u32, Failure> {
        let connection = if keep { "keep-alive" } else { "close" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n");
        // Where the server is gone, reading tells it too, and whether there was an answer all the same.
        let _ = self.stream.get_mut().write_all(request.as_bytes());
        match self.stream.fill_buf() {
            Ok([]) => return Err(Failure::Dropped("closed".into())),
            Ok(_) => {}
            Err(error) => return Err(Failure::Dropped(error.to_string())),
        }
        let status = self.line()?;
        let mut length = None;
        loop {
            let header = self.line()?.to_ascii_lowercase();
            match header.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("connection", "close")) => self.open = false,
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length.ok_or_else(|| Failure::Cut(format!("{status}, of no length")))?];
        self.stream.read_exact(&mut body).map_err(|error| Failure::Cut(error.to_string()))?;
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        match body.parse() {
            Ok(pid) if status.split(' ').nth(1) == Some("200") => Ok(pid),
            _ => Err(Failure::Status(format!("{status}: {body}"))),
        }
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => Ok(line.trim_end().to_owned()),
            Ok(_) => Err(Failure::Cut("closed".into())),
            Err(error) => Err(Failure::Cut(error.to_string())),
        }
    }
}

/// Asks for a page over a connection of its own: the pid of the process that answers.
pub fn get(address: &Address, path: &str) -> Result<u32, Failure> {
    Connection::open(address)?.get(path, false)
}

/// How many clients do what.
#[derive(Debug, Clone, Copy)]
pub struct Clients {
    /// How many ask at the same time.
    pub number: usize,
    /// What they ask for, one after the other.
    pub paths: &'static [&'static str],
    /// For how long each rests after an answer, so that the servers and not the clients have the machine.
    pub pause: Duration,
    /// Whether a connection is used for more than one request.
    pub keep_alive: bool,
}

/// Clients that ask until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What clients got.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many answers.
    pub ok: u64,
    /// How many failures of each kind.
    pub failures: BTreeMap<Failure, u64>,
    /// How often a kept connection was found closed before a request.
    pub renewed: u64,
    /// Who answered.
    pub pids: BTreeSet<u32>,
    /// The longest time from the first byte sent, or the wish to, to the last one received.
    pub longest: Duration,
}

impl Load {
    /// Begins.
    pub fn start(address: &Address, clients: Clients) -> Load {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number| {
            let (address, stop, answers) = (address.clone(), Arc::clone(&stop), Arc::clone(&answers));
            thread::spawn(move || {
                let mut client = Client { address, clients, kept: None, tally: Tally::default() };
                // Each begins elsewhere, so that they do not all ask for the same at once.
                for path in clients.paths.iter().cycle().skip(number) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if client.ask(path) {
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(clients.pause);
                }
                client.tally
            })
        };
        let threads = (0..clients.number).map(client).collect();
        Load { stop, answers, clients: threads }
    }

    /// How many answers there are so far.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends when all requests that are under way have ended, and tells what there was.
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            all.add(client.join().expect("a client"));
        }
        all
    }
}

impl Tally {
    /// How many failures of one kind, as `Failure::Refused` is one.
    pub fn count(&self, kind: impl Fn(&Failure) -> bool) -> u64 {
        self.failures.iter().filter(|(failure, _)| kind(failure)).map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: Tally) {
        self.ok += other.ok;
        self.renewed += other.renewed;
        self.pids.extend(other.pids);
        self.longest = self.longest.max(other.longest);
        for (failure, count) in other.failures {
            *self.failures.entry(failure).or_default() += count;
        }
    }
}

struct Client {
    address: Address,
    clients: Clients,
    kept: Option<Connection>,
    tally: Tally,
}

impl Client {
    /// Whether there was an answer.
    fn ask(&mut self, path: &str) -> bool {
        let since = Instant::now();
        let answer = self
            .ask_over_kept(path)
            .unwrap_or_else(|| Connection::open(&self.address).and_then(|connection| self.ask_over(connection, path)));
        self.tally.longest = self.tally.longest.max(since.elapsed());
        match answer {
            Ok(pid) => {
                self.tally.ok += 1;
                self.tally.pids.insert(pid);
                true
            }
            Err(failure) => {
                *self.tally.failures.entry(failure).or_default() += 1;
                false
            }
        }
    }

    /// Nothing where there is no connection, or none any more.
    fn ask_over_kept(&mut self, path: &str) -> Option<Result<u32, Failure>> {
        let kept = self.kept.take()?;
        let answer = self.ask_over(kept, path);
        if matches!(answer, Err(Failure::Dropped(_))) {
            self.tally.renewed += 1;
            return None;
        }
        Some(answer)
    }

    fn ask_over(&mut self, mut connection: Connection, path: &str) -> Result<u32, Failure> {
        let pid = connection.get(path, self.clients.keep_alive)?;
        self.kept = (self.clients.keep_alive && connection.open).then_some(connection);
        Ok(pid)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
