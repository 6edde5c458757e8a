//! How a process says over einhorn's sockets that it is up: a line in a connection to `EINHORN_SOCK_PATH`, or in the one
//! that is open already, `EINHORN_SOCK_FD`. The first by a library, the second by whoever has none.
//!
//! A line is YAML, of which JSON is a part, and `%` and line ends in it are escaped:
//!
//! ```text
//! {"command":"worker:ack","pid":7}
//! ---%0Acommand: worker:ack%0Apid: 7%0A
//! ```
//!
//! # Invariants
//!
//! - Each process has sockets of its own, so whoever speaks there is of its tree, or may read its environment. The pid
//!   has to be there and is not compared: a shell's child may speak for its script, from a namespace of its own too.
//! - Nobody is answered. After an ACK or a ping the connection is closed, as einhorn closes it for those who forget to.
//! - Only so much is read at a time, of all connections together, and only so much is kept of each: who says too much in
//!   one loses it. Who connects and is silent costs a descriptor, and makes room for those who come later.
//! - The ACK is told once. Later ones find somebody who listens nevertheless, until the process ends.

use std::future::poll_fn;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep_until;

use super::contact::{Ration, SocketDir, SocketFile};
use super::spawn::failure;
use super::sys::watch;
use crate::model::event::{Notification, ProcessId, SpawnFailure};

/// How many connections may be open at once.
const MOST_CONNECTIONS: usize = 16;

/// How many bytes are heard in one connection.
const LONGEST: usize = 4096;

/// Both ways to reach us, for one process.
#[derive(Debug)]
pub(super) struct AckSocket {
    listener: UnixListener,
    /// Our end of the connection that is open already.
    line: UnixStream,
    file: SocketFile,
}

impl AckSocket {
    /// Makes both, the second with the process's end. This is work with files, which may block.
    pub(super) fn open(dir: &Arc<SocketDir>, process: ProcessId) -> Result<(AckSocket, OwnedFd), SpawnFailure> {
        let (listener, file) = dir.bind("ack", &format!("{}.ack", process.0), |path| {
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let pair = || {
            let (line, theirs) = UnixStream::pair()?;
            line.set_nonblocking(true)?;
            Ok((line, theirs.into()))
        };
        let (line, theirs) = pair().map_err(|error| failure("ack socketpair", &error))?;
        Ok((AckSocket { listener, line, file }, theirs))
    }

    /// What the process finds in `EINHORN_SOCK_PATH`.
    pub(super) fn address(&self) -> String {
        self.file.address()
    }

    /// Begins to listen, within the runtime.
    pub(super) fn listen(self) -> io::Result<Acks> {
        Ok(Acks {
            listener: watch(self.listener).map_err(|(_, error)| error)?,
            line: Some(Connection::new(self.line)?),
            connections: Vec::new(),
            ration: Ration::new(),
            told: false,
            _file: self.file,
        })
    }
}

/// What one process says.
#[derive(Debug)]
pub(super) struct Acks {
    listener: AsyncFd<UnixListener>,
    line: Option<Connection>,
    /// Those who have not said all they may; the latest is the last.
    connections: Vec<Connection>,
    ration: Ration,
    told: bool,
    _file: SocketFile,
}

impl Acks {
    /// Waits until the process says that it is up, for the first time. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> Notification {
        loop {
            // What was left unread for want of a ration wakes nobody again.
            match self.ration.spent_until() {
                Some(over) => sleep_until(over).await,
                None => poll_fn(|context| self.poll_news(context)).await,
            }
            if let Some(ack) = self.read() {
                return ack;
            }
        }
    }

    /// What the process said last and nobody has read yet.
    pub(super) fn last_words(mut self) -> Option<Notification> {
        self.ration = Ration::new();
        self.read()
    }

    /// Whether there may be something to read. Once told, it is told again only after all has been read.
    fn poll_news(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut is_news = has_news(&self.listener, context);
        for connection in self.line.iter().chain(&self.connections) {
            is_news |= has_news(&connection.stream, context);
        }
        if is_news { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads until there is nothing, or no ration, left. The kernel itself is asked, since the runtime may not have heard
    /// of the last words yet.
    fn read(&mut self) -> Option<Notification> {
        self.ration.renew();
        let heard = self.line.as_mut().map_or(Heard::Nothing, |line| line.hear(&mut self.ration));
        self.line.take_if(|_| heard != Heard::Nothing);
        let mut acked = heard == Heard::Ack;
        // Those who come are heard before those who have come and said nothing, however many these are.
        while self.ration.is_left() {
            match self.listener.get_ref().accept() {
                Ok((stream, _)) => {
                    self.ration.spend();
                    acked |= Connection::new(stream).is_ok_and(|connection| self.attend(connection));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Such as a lack of descriptors. It counts, so that it is tried again but not for ever at once.
                Err(_) => self.ration.spend(),
            }
        }
        for connection in mem::take(&mut self.connections) {
            acked |= self.attend(connection);
        }
        let is_first = acked && !self.told;
        self.told |= acked;
        is_first.then_some(Notification::Ack)
    }

    /// Hears what there is in a connection, and keeps it if there may be more; whether that was an ACK.
    fn attend(&mut self, mut connection: Connection) -> bool {
        match connection.hear(&mut self.ration) {
            Heard::Nothing => {
                if self.connections.len() >= MOST_CONNECTIONS {
                    self.connections.remove(0);
                }
                self.connections.push(connection);
                false
            }
            Heard::Ack => true,
            Heard::End => false,
        }
    }
}

/// One who speaks.
#[derive(Debug)]
struct Connection {
    stream: AsyncFd<UnixStream>,
    /// How many bytes may still come.
    left: usize,
    /// The line whose end has not come.
    begun: Vec<u8>,
}

/// What was heard in a connection.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// Nothing, so far.
    Nothing,
    /// An ACK. The connection is done with.
    Ack,
    /// Nothing, and the connection is done with.
    End,
}

impl Connection {
    fn new(stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection { stream: watch(stream).map_err(|(_, error)| error)?, left: LONGEST, begun: Vec::new() })
    }

    fn hear(&mut self, ration: &mut Ration) -> Heard {
        let mut buffer = [0; LONGEST];
        while ration.is_left() {
            let length = match self.stream.get_ref().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(0) | Err(_) => return Heard::End,
                Ok(length) => length,
            };
            ration.spend();
            for piece in buffer[..length].split_inclusive(|&byte| byte == b'\n') {
                self.begun.extend_from_slice(piece);
                if piece.ends_with(b"\n") {
                    match Word::parse(&mem::take(&mut self.begun)) {
                        Some(Word::Ack) => return Heard::Ack,
                        Some(Word::Ping) => return Heard::End,
                        None => {}
                    }
                }
            }
            self.left = self.left.saturating_sub(length);
            if self.left == 0 {
                return Heard::End;
            }
        }
        Heard::Nothing
    }
}

/// Whether something has come since the last time, as far as the runtime knows.
fn has_news<T: AsRawFd>(socket: &AsyncFd<T>, context: &mut Context<'_>) -> bool {
    match socket.poll_read_ready(context) {
        Poll::Ready(Ok(mut ready)) => {
            ready.clear_ready();
            true
        }
        // A runtime that is going down wakes nobody; it does not matter any more.
        Poll::Ready(Err(_)) | Poll::Pending => false,
    }
}

/// What a line of einhorn's protocol can say to us.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    Ack,
    Ping,
}

/// A line, as far as it matters.
#[derive(Deserialize)]
struct Message {
    command: String,
    #[serde(rename = "pid")]
    _pid: u32,
}

impl Word {
    /// Nothing where the line says anything else, or makes no sense.
    fn parse(line: &[u8]) -> Option<Word> {
        let text = str::from_utf8(line).ok()?.replace("%0A", "\n").replace("%25", "%");
        let message = serde_json::from_str(&text).ok().or_else(|| flat_mapping(text.trim()))?;
        match message.command.as_str() {
            "worker:ack" => Some(Word::Ack),
            "worker:ping" => Some(Word::Ping),
            _ => None,
        }
    }
}

/// Reads as much of YAML as a message takes: one mapping of words to words, by lines or in braces. More of it would be
/// more than a stranger's line deserves; by its aliases alone a short one becomes an endless one.
fn flat_mapping(text: &str) -> Option<Message> {
    let text = text.strip_prefix("---").unwrap_or(text).trim();
    let in_braces = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let (entries, between) = in_braces.map_or((text, '\n'), |entries| (entries, ','));
    let entry = |name: &str| {
        let mut entries = entries.split(between).filter_map(|entry| entry.split_once(':'));
        entries.find(|(key, _)| unquoted(key) == name).map(|(_, value)| unquoted(value))
    };
    Some(Message { command: entry("command")?.to_owned(), _pid: entry("pid")?.parse().ok()? })
}

fn unquoted(word: &str) -> &str {
    let word = word.trim();
    let inner = |quote| word.strip_prefix(quote).and_then(|word| word.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_is_understood_in_json_and_in_yaml() {
        for line in [
            // As einhorn's own library for Ruby writes it.
            "---%0Acommand: worker:ack%0Apid: 1234%0A\n",
            "{\"command\":\"worker:ack\",\"pid\":1234}\n",
            " { \"pid\" : 1234, \"command\" : \"worker:ack\", \"more\": [{}, \"%25\"] } \r\n",
            "{command: worker:ack, pid: 1234}\n",
            "--- {command: 'worker:ack', \"pid\": 1234}\n",
            "command: \"worker:ack\"%0Apid: 1234\n",
        ] {
            assert_eq!(Word::parse(line.as_bytes()), Some(Word::Ack), "{line:?}");
        }
        let ping = "---%0Acommand: worker:ping%0Apid: 1234%0Arequest_id: |-%0A  r%251%0A  x%0A\n";
        assert_eq!(Word::parse(ping.as_bytes()), Some(Word::Ping));
    }

    #[test]
    fn everything_else_says_nothing() {
        for line in [
            &b"\n"[..],
            b"worker:ack\n",
            b"{\"command\":\"worker:ack\"}\n",
            b"{\"command\":\"worker:ack\",\"pid\":\"seven\"}\n",
            b"{\"command\":[\"worker:ack\"],\"pid\":7}\n",
            b"---%0A:command: worker:ack%0Apid: 7%0A\n",
            b"{\"command\":\"die\",\"pid\":7}\n",
            b"{\"args\":{\"command\":\"worker:ack\"},\"pid\":7}\n",
            b"%0A%25%\n",
            b"{\xff}\n",
            b"{{{{,,,,::::\n",
            b"}{\n",
        ] {
            assert_eq!(Word::parse(line), None, "{:?}", String::from_utf8_lossy(line));
        }
    }
}
