//! The control socket: the door for tools on this machine.
//!
//! A unix stream socket. Each line in is one request, each line out one reply, or one line of a stream that was asked
//! for; they come as they are ready, so that a request that waits, or a stream that goes on, does not hold up the next
//! one, and each carries its request's `id`. This is transport only: lines go up as a [`Question`] and come back by its
//! `answer`; what they mean is not known here.
//!
//! Invariants:
//!
//! - Who may write to the socket file may command the agent; it is 0600 from the moment that it can be connected to.
//! - At most one agent listens on a path; a socket file that nobody listens on is replaced.
//! - Everything is bounded: connections, the length of a line, requests and replies in hand of each connection. Who
//!   sends faster than is answered, or does not read, waits, and nobody waits with them.
//! - A question whose `answer` is dropped has no reply (a cast).
//! - A stream ends with the client's connection, whether the client says so or not, or when its sender is dropped.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered, SelectAll};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{AccessFlags, access};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::model::command::{Outcome, Refusal, Reply};
use crate::model::names::NodeName;
use crate::unix::{self, Probe, UnixSocket};
use crate::wire;

/// The longest request, in bytes, without its end of line.
pub const MAX_LINE: usize = 1 << 20;
/// How many connections are served at once; one more is told so and closed.
pub const MAX_CONNECTIONS: usize = 256;
/// How many requests of one connection may be in hand; the next ones wait in the socket.
pub const MAX_PENDING: usize = 64;

/// How many bytes of replies wait for a client to read before no more of its requests are taken.
const MAX_UNREAD: usize = 1 << 20;
/// How many bytes wait before no more of its streams is taken: little, since who sends a stream drops what is not taken.
const MAX_AHEAD: usize = 64 << 10;
/// How often it is looked whether a client that sends no more still listens to its streams.
const LISTENING_CHECK: Duration = Duration::from_secs(1);
/// How long a client may leave a reply unread.
const STALL: Duration = Duration::from_secs(30);
/// How long the last replies may take to be written once the agent is done.
const FAREWELL: Duration = Duration::from_secs(1);

/// One request of one client.
#[derive(Debug)]
pub struct Question {
    /// The request: one line without its end.
    pub line: String,
    /// Who asks, as the kernel knows them: `circusctl (uid 0)`.
    pub from: String,
    /// Takes the answer. Dropped unused, the client gets none.
    pub answer: oneshot::Sender<Answer>,
}

/// What a question comes to.
#[derive(Debug)]
pub struct Answer {
    /// The reply: one line without its end.
    pub line: String,
    /// The lines that follow it, where a stream was asked for. The queue's bound says how far they may be ahead of the
    /// client.
    pub more: Option<mpsc::Receiver<String>>,
}

impl From<String> for Answer {
    fn from(line: String) -> Answer {
        Answer { line, more: None }
    }
}

/// Why the control socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent listens there.
    #[error("control socket {}: another agent listens there; stop it, or set another control_socket", .0.display())]
    InUse(PathBuf),
    /// Anything else.
    #[error("control socket {0}")]
    Failed(unix::BindError),
}

/// A bound control socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket(UnixSocket);

impl ControlSocket {
    /// Listens on `path`, making its directory where it is missing. To be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<ControlSocket, BindError> {
        match UnixSocket::bind(path, None) {
            Ok(socket) => Ok(ControlSocket(socket)),
            Err(unix::BindError::InUse(path)) => Err(BindError::InUse(path)),
            Err(error) => Err(BindError::Failed(error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Hands every client's requests to `questions`, until their receiver is dropped.
    ///
    /// After that nothing is read any more, but replies already given are still written, for a second at most: the
    /// agent drops the receiver, awaits this, and then ends. The socket file is gone when this returns.
    pub async fn serve(self, questions: mpsc::Sender<Question>) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.0.listener().accept() => match accepted {
                    Ok((client, _)) => match room.clone().try_acquire_owned() {
                        Ok(permit) => {
                            let questions = questions.clone();
                            connections.spawn(async move {
                                converse(client, questions).await;
                                drop(permit);
                            });
                        }
                        Err(_) => turn_away(&client),
                    },
                    // Out of descriptors, most likely. The backlog waits; trying at once again would only spin.
                    Err(error) => {
                        tracing::warn!("control socket: accept failed: {error}; trying again in 0.1 s");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                // A connection's end; a panic in one ends that one.
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = questions.closed() => break,
            }
        }
        // Nobody new, while those who are there get their last replies.
        drop(self);
        let _ = timeout(2 * FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
    }
}

fn turn_away(client: &UnixStream) {
    let refusal = Refusal::Unavailable(format!("{MAX_CONNECTIONS} clients are connected already"));
    let mut line = refused(refusal).into_bytes();
    line.push(b'\n');
    // A new socket's buffer has room for a line; if not, the end of the connection says as much.
    let _ = client.try_write(&line);
}

/// The reply to what never became a question.
fn refused(refusal: Refusal) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    wire::reply_json(&Outcome::Own(Reply::Refused(refusal)), &Value::Null, now.as_secs_f64()).to_string()
}

/// One client, from its first byte to its last reply.
async fn converse(mut client: UnixStream, questions: mpsc::Sender<Question>) {
    let from = unix::peer(&client);
    let (mut reader, mut writer) = client.split();
    let mut chunk = vec![0; 16 << 10];
    let mut input = Lines::default();
    let mut output: Vec<u8> = Vec::new();
    let mut asked = FuturesUnordered::new();
    let mut streams = SelectAll::new();
    let mut next: Option<String> = None;
    let mut reading = true;
    let mut overlong = false;
    let mut ended = false;
    // Until when the client may take its time to read; once the agent has ended, until when the last word may take.
    let mut deadline = Instant::now();

    loop {
        let room = asked.len() < MAX_PENDING && output.len() < MAX_UNREAD;
        if next.is_none() && room && !overlong && !ended {
            match input.take(!reading) {
                Some(Ok(line)) => next = Some(line),
                Some(Err(BadLine::NotText)) => {
                    say(&mut output, &mut deadline, ended, &refused(Refusal::NotJson("not UTF-8".into())));
                    continue;
                }
                Some(Err(BadLine::TooLong)) => {
                    let why = format!("a request has at most {MAX_LINE} bytes");
                    say(&mut output, &mut deadline, ended, &refused(Refusal::BadMessage(why)));
                    (reading, overlong) = (false, true);
                    streams.clear();
                    continue;
                }
                None => {}
            }
        }
        if !reading
            && next.is_none()
            && asked.is_empty()
            && streams.is_empty()
            && output.is_empty()
            && (overlong || ended || input.is_empty())
        {
            break;
        }
        tokio::select! {
            read = reader.read(&mut chunk), if reading && next.is_none() && room => match read {
                Ok(0) => reading = false,
                Ok(count) => input.add(&chunk[..count]),
                Err(_) => return,
            },
            permit = questions.reserve(), if next.is_some() => {
                if let (Ok(permit), Some(line)) = (permit, next.take()) {
                    let (answer, reply) = oneshot::channel();
                    permit.send(Question { line, from: from.clone(), answer });
                    asked.push(reply);
                }
            }
            Some(answer) = asked.next(), if !asked.is_empty() => {
                // A dropped sender is a cast, or an agent that has ended: either way there is nothing to say.
                if let Ok(Answer { line, more }) = answer {
                    say(&mut output, &mut deadline, ended, &line);
                    streams.extend(more.map(|mut more| stream::poll_fn(move |context| more.poll_recv(context))));
                }
            }
            line = streams.next(), if !streams.is_empty() && output.len() < MAX_AHEAD => {
                // None: the last of them has ended, which may be the end of this conversation.
                if let Some(line) = line {
                    say(&mut output, &mut deadline, ended, &line);
                }
            }
            () = sleep(LISTENING_CHECK), if !reading && !streams.is_empty() => {
                if has_hung_up(writer.as_ref()) {
                    return;
                }
            }
            written = writer.write(&output), if !output.is_empty() => match written {
                Ok(count) if count > 0 => {
                    output.drain(..count);
                    if !ended {
                        deadline = Instant::now() + STALL;
                    }
                }
                _ => return,
            },
            () = questions.closed(), if !ended => {
                (reading, ended, next) = (false, true, None);
                deadline = Instant::now() + FAREWELL;
            }
            () = sleep_until(deadline), if ended || !output.is_empty() => return,
        }
    }
    if overlong && writer.shutdown().await.is_ok() {
        // Closed with bytes unread, the connection would break under a client that is still writing, and it would
        // see a broken pipe instead of the reason.
        let discard = async { while reader.read(&mut chunk).await.is_ok_and(|count| count > 0) {} };
        let _ = timeout(FAREWELL, discard).await;
    }
}

/// Whether a client whose end has been read is gone altogether: it may have said all it has to say and still listen.
fn has_hung_up(client: &UnixStream) -> bool {
    let mut looked = [PollFd::new(client.as_fd(), PollFlags::empty())];
    let found = poll(&mut looked, PollTimeout::ZERO);
    found.is_ok_and(|count| count > 0) && looked[0].any() == Some(true)
}

/// Puts a line out. The client's patience is counted from the first byte that waits for it.
fn say(output: &mut Vec<u8>, deadline: &mut Instant, ended: bool, line: &str) {
    if output.is_empty() && !ended {
        *deadline = Instant::now() + STALL;
    }
    output.extend_from_slice(line.as_bytes());
    output.push(b'\n');
}

/// Bytes on their way to become lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// No end of line stands before this.
    scanned: usize,
}

enum BadLine {
    TooLong,
    NotText,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next line, if it is there; at the end of all input also one without an end.
    fn take(&mut self, at_end: bool) -> Option<Result<String, BadLine>> {
        let line: Vec<u8> = match self.bytes[self.scanned..].iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                let line = self.bytes.drain(..=self.scanned + at).collect();
                self.scanned = 0;
                line
            }
            None if self.bytes.len() > MAX_LINE => return Some(Err(BadLine::TooLong)),
            None if at_end && !self.bytes.is_empty() => {
                self.scanned = 0;
                std::mem::take(&mut self.bytes)
            }
            None => {
                self.scanned = self.bytes.len();
                return None;
            }
        };
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > MAX_LINE {
            return Some(Err(BadLine::TooLong));
        }
        Some(String::from_utf8(line.to_vec()).map_err(|_| BadLine::NotText))
    }
}

/// The directories in which control sockets are, best first. An agent takes the first that it may write to; a tool
/// looks in all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places(Vec<PathBuf>);

impl Places {
    /// `/run/circus`, `$XDG_RUNTIME_DIR/circus`, and then the directories of state: `/var/lib/circus`,
    /// `$XDG_STATE_HOME/circus` (`~/.local/state/circus`).
    pub fn from_env() -> Places {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        let mut places = vec![PathBuf::from("/run/circus")];
        places.extend(absolute("XDG_RUNTIME_DIR").map(|dir| dir.join("circus")));
        places.push("/var/lib/circus".into());
        places.extend(state.map(|dir| dir.join("circus")));
        Places(places)
    }

    /// These directories.
    pub fn new(dirs: Vec<PathBuf>) -> Places {
        Places(dirs)
    }

    /// The directories.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.0
    }

    /// All `*.sock` there are, with what became of a try to connect, best directory first, then by name.
    pub fn sockets(&self) -> Vec<(PathBuf, Probe)> {
        let mut found: Vec<PathBuf> = Vec::new();
        for dir in &self.0 {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            let mut here: Vec<PathBuf> = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "sock") && !found.contains(path))
                .collect();
            here.sort();
            found.extend(here);
        }
        found
            .into_iter()
            .map(|path| {
                let probed = unix::probe(&path);
                (path, probed)
            })
            .collect()
    }
}

/// Where a node's control socket is unless its configuration says so: `/run/circus/NODE.sock` if that may be written,
/// else the same under `$XDG_RUNTIME_DIR/circus`, else in its state directory.
pub fn default_path(node: &NodeName, state_dir: &Path) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("circus"));
    let dirs = std::iter::once(PathBuf::from("/run/circus")).chain(runtime.filter(|dir| dir.is_absolute()));
    first_writable(dirs, state_dir).join(format!("{node}.sock"))
}

fn first_writable(dirs: impl IntoIterator<Item = PathBuf>, last: &Path) -> PathBuf {
    let may = AccessFlags::W_OK | AccessFlags::X_OK;
    let writable = |dir: &PathBuf| match access(dir, may) {
        Err(Errno::ENOENT) => dir.parent().is_some_and(|above| access(above, may).is_ok()),
        answer => answer.is_ok(),
    };
    dirs.into_iter().find(writable).unwrap_or_else(|| last.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncBufReadExt, BufReader};

    /// Runs `test` with a socket that answers each line with `answer`.
    fn with_door<F: Future<Output = ()>>(answer: impl Fn(Question) + 'static, test: impl FnOnce(PathBuf) -> F) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/web-1.sock");
        run(async {
            let door = ControlSocket::bind(&path).unwrap();
            let (sender, mut questions) = mpsc::channel(4);
            let door = tokio::spawn(door.serve(sender));
            let answering = async {
                while let Some(question) = questions.recv().await {
                    answer(question);
                }
            };
            tokio::select! {
                () = answering => unreachable!("the door serves until the questions are dropped"),
                () = test(path.clone()) => {}
            }
            drop(questions);
            timeout(Duration::from_secs(5), door).await.unwrap().unwrap();
            assert!(!path.exists(), "the socket file goes with the door");
        });
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(Duration::from_secs(20), test).await.expect("the test hangs") });
    }

    fn echo(question: Question) {
        let _ = question.answer.send(format!("<{}>", question.line).into());
    }

    async fn connect(path: &Path) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(path).await.unwrap())
    }

    async fn line(client: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        line
    }

    #[test]
    fn several_clients_ask_and_each_gets_its_own_answers() {
        with_door(echo, |path| async move {
            let mut a = connect(&path).await;
            let mut b = connect(&path).await;
            a.write_all(b"a1\na2\r\n").await.unwrap();
            b.write_all(b"b1\n").await.unwrap();
            assert_eq!(line(&mut b).await, "<b1>\n");
            assert_eq!(line(&mut a).await, "<a1>\n");
            assert_eq!(line(&mut a).await, "<a2>\n");
        });
    }

    #[test]
    fn the_last_line_needs_no_end_and_pending_answers_follow_a_half_close() {
        with_door(echo, |path| async move {
            let mut client = connect(&path).await;
            client.write_all(b"a\nb").await.unwrap();
            client.shutdown().await.unwrap();
            let mut all = String::new();
            client.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, "<a>\n<b>\n");
        });
    }

    #[test]
    fn a_request_that_waits_holds_up_no_other() {
        let slow = std::cell::RefCell::new(None);
        with_door(
            move |question| match question.line.as_str() {
                "slow" => *slow.borrow_mut() = Some(question.answer),
                "now" => {
                    let _ = slow.borrow_mut().take().unwrap().send("at last".to_owned().into());
                }
                "cast" => {}
                _ => echo(question),
            },
            |path| async move {
                let mut client = connect(&path).await;
                client.write_all(b"slow\ncast\nquick\nnow\n").await.unwrap();
                assert_eq!(line(&mut client).await, "<quick>\n");
                assert_eq!(line(&mut client).await, "at last\n");
            },
        );
    }

    /// Answers "stream" with a stream, whose sender goes into `streams`, and echoes the rest.
    fn streaming(streams: &mpsc::UnboundedSender<mpsc::Sender<String>>, question: Question) {
        if question.line != "stream" {
            return echo(question);
        }
        let (sender, more) = mpsc::channel(4);
        streams.send(sender).unwrap();
        question.answer.send(Answer { line: "here it comes".into(), more: Some(more) }).unwrap();
    }

    #[test]
    fn a_stream_follows_its_reply_and_holds_up_no_other_request() {
        let (streams, mut started) = mpsc::unbounded_channel();
        with_door(
            move |question| streaming(&streams, question),
            |path| async move {
                let mut client = connect(&path).await;
                client.write_all(b"stream\n").await.unwrap();
                assert_eq!(line(&mut client).await, "here it comes\n");
                let stream = started.recv().await.unwrap();
                stream.send("1".into()).await.unwrap();
                assert_eq!(line(&mut client).await, "1\n");
                client.write_all(b"a\n").await.unwrap();
                assert_eq!(line(&mut client).await, "<a>\n");
                // Who has said all may still listen.
                client.shutdown().await.unwrap();
                stream.send("2".into()).await.unwrap();
                assert_eq!(line(&mut client).await, "2\n");
                sleep(LISTENING_CHECK + Duration::from_millis(200)).await;
                stream.send("3".into()).await.unwrap();
                assert_eq!(line(&mut client).await, "3\n");
                drop(stream);
                assert_eq!(line(&mut client).await, "", "the end of a stream is the end of a client that only listens");
            },
        );
    }

    #[test]
    fn a_stream_on_which_nothing_comes_ends_with_its_client() {
        let (streams, mut started) = mpsc::unbounded_channel();
        with_door(
            move |question| streaming(&streams, question),
            |path| async move {
                let mut client = connect(&path).await;
                client.write_all(b"stream\n").await.unwrap();
                assert_eq!(line(&mut client).await, "here it comes\n");
                let stream = started.recv().await.unwrap();
                drop(client);
                stream.closed().await;
            },
        );
    }

    #[test]
    fn who_does_not_read_a_stream_costs_a_bounded_queue() {
        let (streams, mut started) = mpsc::unbounded_channel();
        with_door(
            move |question| streaming(&streams, question),
            |path| async move {
                let mut idle = connect(&path).await;
                idle.write_all(b"stream\n").await.unwrap();
                let stream = started.recv().await.unwrap();
                let long = "x".repeat(16 << 10);
                // What the kernel and the connection hold; then the queue is full and stays so.
                let mut taken = 0;
                while timeout(Duration::from_millis(200), stream.send(long.clone())).await.is_ok() {
                    taken += long.len();
                }
                assert!(taken < 1 << 20, "{taken} bytes wait for a client that does not read");
                let mut other = connect(&path).await;
                other.write_all(b"a\n").await.unwrap();
                assert_eq!(line(&mut other).await, "<a>\n");
            },
        );
    }

    #[test]
    fn a_line_that_is_no_text_gets_an_error_and_the_connection_stays() {
        with_door(echo, |path| async move {
            let mut client = connect(&path).await;
            client.write_all(b"\xff\xfe\nnext\n").await.unwrap();
            assert!(line(&mut client).await.contains("\"json invalid\""));
            assert_eq!(line(&mut client).await, "<next>\n");
        });
    }

    #[test]
    fn an_endless_line_gets_an_error_and_then_the_end() {
        with_door(echo, |path| async move {
            let mut client = connect(&path).await;
            client.write_all(&vec![b'x'; MAX_LINE]).await.unwrap();
            client.write_all(b"\n").await.unwrap();
            assert_eq!(line(&mut client).await.len(), MAX_LINE + 3);
            // Much more than was ever read: the reason must arrive all the same.
            let (reader, mut writer) = client.into_inner().into_split();
            let flood = tokio::spawn(async move {
                let _ = writer.write_all(&vec![b'x'; 4 * MAX_LINE]).await;
                writer
            });
            let mut all = String::new();
            BufReader::new(reader).read_line(&mut all).await.unwrap();
            assert!(all.contains("at most 1048576 bytes"), "{all}");
            flood.abort();
        });
    }

    #[test]
    fn who_does_not_read_costs_nobody_else() {
        with_door(
            |question| {
                let _ = question.answer.send("x".repeat(1 << 16).into());
            },
            |path| async move {
                let greedy = UnixStream::connect(&path).await.unwrap();
                let (_reader, mut writer) = greedy.into_split();
                let flood = tokio::spawn(async move { while writer.write_all(b"more\n").await.is_ok() {} });
                sleep(Duration::from_millis(100)).await;
                for _ in 0..10 {
                    let mut client = connect(&path).await;
                    client.write_all(b"one\n").await.unwrap();
                    assert_eq!(line(&mut client).await.len(), (1 << 16) + 1);
                }
                assert!(!flood.is_finished());
                flood.abort();
            },
        );
    }

    #[test]
    fn one_client_too_many_is_told_so_and_the_others_stay() {
        with_door(echo, |path| async move {
            let mut clients = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                let mut client = connect(&path).await;
                client.write_all(b"a\n").await.unwrap();
                assert_eq!(line(&mut client).await, "<a>\n");
                clients.push(client);
            }
            let mut late = connect(&path).await;
            assert!(line(&mut late).await.contains("connected already"));
            assert_eq!(line(&mut late).await, "");
            clients[0].write_all(b"b\n").await.unwrap();
            assert_eq!(line(&mut clients[0]).await, "<b>\n");
            drop(clients.pop());
            // The place is free once the door has noticed.
            loop {
                let mut next = connect(&path).await;
                next.write_all(b"c\n").await.unwrap();
                if line(&mut next).await == "<c>\n" {
                    break;
                }
            }
        });
    }

    #[test]
    fn the_last_reply_is_written_before_the_door_closes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        run(async {
            let (sender, mut questions) = mpsc::channel(4);
            let door = tokio::spawn(ControlSocket::bind(&path).unwrap().serve(sender));
            let mut client = connect(&path).await;
            client.write_all(b"quit\n").await.unwrap();
            let question = questions.recv().await.unwrap();
            let _ = question.answer.send("bye".to_owned().into());
            drop(questions);
            door.await.unwrap();
            assert_eq!(line(&mut client).await, "bye\n");
            assert_eq!(line(&mut client).await, "");
        });
    }

    #[test]
    fn the_socket_is_its_owners_alone() {
        with_door(echo, |path| async move {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        });
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        run(async {
            let first = ControlSocket::bind(&path).unwrap();
            let refused = ControlSocket::bind(&path).unwrap_err();
            assert!(matches!(refused, BindError::InUse(_)), "{refused}");
            drop(first);
            assert!(!path.exists());
        });
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        run(async {
            assert!(matches!(ControlSocket::bind(&path), Err(BindError::Failed(unix::BindError::InTheWay(_)))));
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_someone_else_put_in_our_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        run(async {
            let ours = ControlSocket::bind(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let theirs = ControlSocket::bind(&path).unwrap();
            drop(ours);
            assert!(path.exists());
            drop(theirs);
        });
    }

    #[test]
    fn a_path_too_long_says_so_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        run(async {
            let error = ControlSocket::bind(&dir.path().join(format!("{}.sock", "x".repeat(120)))).unwrap_err();
            assert!(error.to_string().contains("at most 107 bytes"), "{error}");
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn sockets_are_found_live_and_dead() {
        let dir = tempfile::tempdir().unwrap();
        let live = std::os::unix::net::UnixListener::bind(dir.path().join("b.sock")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("a.sock")).unwrap());
        fs::write(dir.path().join("c.sock"), "").unwrap();
        let found = Places::new(vec![dir.path().into(), "/nonexistent".into(), dir.path().into()]).sockets();
        assert!(
            matches!(&found[..], [(a, Probe::Dead), (b, Probe::Live)] if a.ends_with("a.sock") && b.ends_with("b.sock")),
            "{found:?}"
        );
        drop(live);
    }

    #[test]
    fn the_first_directory_that_may_be_written_or_made_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = |names: &[&str]| names.iter().map(|name| dir.path().join(name)).collect::<Vec<_>>();
        let last = Path::new("/last");
        assert_eq!(first_writable(dirs(&["no/such", "new"]), last), dir.path().join("new"));
        assert_eq!(first_writable(dirs(&["no/such"]), last), last);
        assert_eq!(first_writable(dirs(&["", "new"]), last), dir.path().join(""));
    }
}
