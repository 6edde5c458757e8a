//! What processes say of themselves over their `NOTIFY_SOCKET` (sd_notify(3)).
//!
//! Each process has a socket of its own. So whoever writes there is of its tree (or may read its environment), and
//! nobody has to be asked who they are: a shell's `systemd-notify` speaks for its script, as it would not with systemd.
//!
//! # Invariants
//!
//! - No descriptor that comes with a message is ever ours: we make no room for any, and the kernel then closes them as
//!   we read. To `BARRIER=1` that is the answer, and it comes after all that was said before; `FDSTORE=1` stores
//!   nothing.
//! - Who says too much waits, and nobody else does: only so much is read at a time, a message that is there twice
//!   counts once, and what is not read yet stays with the sender.
//! - A socket goes with its process, and the directory with the host.

use std::fs::{self, DirBuilder, Permissions};
use std::future::pending;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram as Socket;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::net::UnixDatagram;
use tokio::time::{Instant, sleep_until};

use super::harmless;
use super::spawn::failure;
use crate::model::event::{Notification, ProcessId, SpawnFailure};

/// How many messages of one process are read within each [`WINDOW`].
const MOST: u32 = 16;

const WINDOW: Duration = Duration::from_millis(50);

/// A longer message is not read, as systemd does not (`PIPE_BUF`).
const LONGEST: usize = 4096;

/// How many characters of a status are kept.
const LONGEST_STATUS: usize = 200;

/// A path of a socket is shorter than this (`sun_path`).
const PATH_SIZE: usize = 108;

/// The directory of all processes' sockets: made when the first is, removed in the end.
#[derive(Debug)]
pub(super) struct NotifyDir {
    path: PathBuf,
    is_made: Mutex<bool>,
}

impl NotifyDir {
    /// `path` is for this host alone: what an earlier one left there is removed.
    pub(super) fn new(path: PathBuf) -> NotifyDir {
        NotifyDir { path, is_made: Mutex::new(false) }
    }

    /// Makes the socket of a process. This is work with files, which may block.
    pub(super) fn open(self: &Arc<Self>, process: ProcessId) -> Result<NotifySocket, SpawnFailure> {
        let path = self.path.join(process.0.to_string());
        let failed = |step: &str, error: &io::Error| failure(format!("notify {step}({path:?})"), error);
        if path.as_os_str().len() >= PATH_SIZE {
            let error = format!("ENAMETOOLONG: a socket's path has less than {PATH_SIZE} bytes; give it a shorter one");
            return Err(SpawnFailure { stage: format!("notify bind({path:?})"), error });
        }
        self.make().map_err(|error| failure(format!("notify mkdir({:?})", self.path), &error))?;
        let socket = Socket::bind(&path).map_err(|error| failed("bind", &error))?;
        let socket = NotifySocket { socket, file: SocketFile { path: path.clone(), _dir: Arc::clone(self) } };
        // For children that are other users; the name of the socket is theirs alone to know.
        fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(|error| failed("chmod", &error))?;
        socket.socket.set_nonblocking(true).map_err(|error| failed("fcntl", &error))?;
        Ok(socket)
    }

    /// Makes the directory, or makes one that was left behind ours: everybody may pass through, and only we may look.
    fn make(&self) -> io::Result<()> {
        let mut is_made = self.is_made.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_made {
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Another owner could put sockets of their own in the place of ours.
                let found = fs::symlink_metadata(&self.path)?;
                if !found.is_dir() || found.uid() != geteuid().as_raw() {
                    return Err(io::Error::other(
                        "EEXIST: it is there and no directory of this agent's user; remove it",
                    ));
                }
                for left in fs::read_dir(&self.path)? {
                    fs::remove_file(left?.path())?;
                }
            }
            made => made?,
        }
        fs::set_permissions(&self.path, Permissions::from_mode(0o711))?;
        *is_made = true;
        Ok(())
    }
}

impl Drop for NotifyDir {
    fn drop(&mut self) {
        if *self.is_made.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// A socket for one process to write to; its file goes with it.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: Socket,
    file: SocketFile,
}

impl NotifySocket {
    /// What the process finds in `NOTIFY_SOCKET`.
    pub(super) fn address(&self) -> String {
        self.file.path.to_string_lossy().into_owned()
    }

    /// Begins to listen, within the runtime.
    pub(super) fn listen(self) -> io::Result<Notices> {
        let socket = UnixDatagram::from_std(self.socket)?;
        Ok(Notices { socket, left: MOST, refilled: Instant::now(), _file: self.file })
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Not removed before this file is.
    _dir: Arc<NotifyDir>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What one process says.
#[derive(Debug)]
pub(super) struct Notices {
    socket: UnixDatagram,
    /// How many messages may still be read in this window.
    left: u32,
    /// When the window began.
    refilled: Instant,
    _file: SocketFile,
}

impl Notices {
    /// Waits until the process says something: different things, in their order. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> Vec<Notification> {
        loop {
            if self.left == 0 {
                sleep_until(self.refilled + WINDOW).await;
            }
            // A runtime that is going down wakes nobody; it does not matter any more.
            if self.socket.readable().await.is_err() {
                return pending().await;
            }
            let said = self.read();
            if !said.is_empty() {
                return said;
            }
        }
    }

    /// What the process said last and nobody has read yet.
    pub(super) fn last_words(mut self) -> Vec<Notification> {
        self.left = MOST;
        self.read()
    }

    fn read(&mut self) -> Vec<Notification> {
        let now = Instant::now();
        if now.duration_since(self.refilled) >= WINDOW {
            (self.left, self.refilled) = (MOST, now);
        }
        let mut said = Vec::new();
        let mut buffer = [0; LONGEST + 1];
        while self.left > 0 {
            match self.socket.try_recv(&mut buffer) {
                Ok(length) if length > LONGEST => {}
                Ok(length) => parse(&buffer[..length], &mut said),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Such as a lack of memory. It counts, so that it is tried again but not for ever at once.
                Err(_) => {}
            }
            self.left -= 1;
        }
        said
    }
}

/// Adds what a message says that is not yet among what was `said`; of statuses the last counts.
fn parse(message: &[u8], said: &mut Vec<Notification>) {
    for line in message.split(|&byte| byte == b'\n') {
        let notification = match line {
            b"READY=1" => Notification::Ready,
            b"STOPPING=1" => Notification::Stopping,
            b"WATCHDOG=1" => Notification::Alive,
            b"WATCHDOG=trigger" => Notification::Trigger,
            _ => match line.strip_prefix(b"STATUS=") {
                Some(text) => Notification::Status(harmless(text, LONGEST_STATUS)),
                // Of no concern to us, or nothing at all.
                None => continue,
            },
        };
        if let Notification::Status(_) = notification {
            said.retain(|earlier| !matches!(earlier, Notification::Status(_)));
        }
        if !said.contains(&notification) {
            said.push(notification);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(messages: &[&[u8]]) -> Vec<Notification> {
        let mut said = Vec::new();
        messages.iter().for_each(|message| parse(message, &mut said));
        said
    }

    #[test]
    fn a_message_says_each_line_of_it_that_is_known() {
        let message =
            b"READY=1\nFDSTORE=1\nSTATUS=up\nMAINPID=7\nBARRIER=1\nWATCHDOG=1\nWATCHDOG=trigger\nSTOPPING=1\n";
        let status = Notification::Status("up".into());
        let all = [Notification::Ready, status, Notification::Alive, Notification::Trigger, Notification::Stopping];
        assert_eq!(said(&[message]), all);
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        for message in [&b""[..], b"\n\n", b"READY", b"READY=", b"READY=11", b"ready=1", b"=", b"\xff\xfe", b" READY=1"]
        {
            assert_eq!(said(&[message]), [], "{message:?}");
        }
    }

    #[test]
    fn repetitions_are_one_and_of_statuses_the_last_counts() {
        let messages: &[&[u8]] = &[b"WATCHDOG=1", b"STATUS=1", b"WATCHDOG=1\nWATCHDOG=1", b"STATUS=2"];
        assert_eq!(said(messages), [Notification::Alive, Notification::Status("2".into())]);
    }

    #[test]
    fn a_status_is_short_and_plain() {
        let status = |text: &str| said(&[[b"STATUS=", text.as_bytes()].concat().as_slice()]);
        assert_eq!(status("a\x1b[31mb\tc\r"), [Notification::Status("a [31mb c ".into())]);
        assert_eq!(status(&"é".repeat(300)), [Notification::Status("é".repeat(200))]);
        assert_eq!(said(&[b"STATUS=\xff"]), [Notification::Status("\u{fffd}".into())]);
    }
}
