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

use std::future::pending;
use std::io;
use std::os::unix::net::UnixDatagram as Socket;
use std::sync::Arc;

use tokio::net::UnixDatagram;
use tokio::time::sleep_until;

use super::contact::{Ration, SocketDir, SocketFile};
use super::harmless;
use crate::model::event::{Notification, ProcessId, SpawnFailure};

/// A longer message is not read, as systemd does not (`PIPE_BUF`).
const LONGEST: usize = 4096;

/// How many characters of a status are kept.
const LONGEST_STATUS: usize = 200;

/// A socket for one process to write to; its file goes with it.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: Socket,
    file: SocketFile,
}

impl NotifySocket {
    /// Makes the socket of a process. This is work with files, which may block.
    pub(super) fn open(dir: &Arc<SocketDir>, process: ProcessId) -> Result<NotifySocket, SpawnFailure> {
        let (socket, file) = dir.bind("notify", &process.0.to_string(), |path| {
            let socket = Socket::bind(path)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        Ok(NotifySocket { socket, file })
    }

    /// What the process finds in `NOTIFY_SOCKET`.
    pub(super) fn address(&self) -> String {
        self.file.address()
    }

    /// Begins to listen, within the runtime.
    pub(super) fn listen(self) -> io::Result<Notices> {
        let socket = UnixDatagram::from_std(self.socket)?;
        Ok(Notices { socket, ration: Ration::new(), _file: self.file })
    }
}

/// What one process says.
#[derive(Debug)]
pub(super) struct Notices {
    socket: UnixDatagram,
    ration: Ration,
    _file: SocketFile,
}

impl Notices {
    /// Waits until the process says something: different things, in their order. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> Vec<Notification> {
        loop {
            if let Some(over) = self.ration.spent_until() {
                sleep_until(over).await;
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
        self.ration = Ration::new();
        self.read()
    }

    fn read(&mut self) -> Vec<Notification> {
        self.ration.renew();
        let mut said = Vec::new();
        let mut buffer = [0; LONGEST + 1];
        while self.ration.is_left() {
            match self.socket.try_recv(&mut buffer) {
                Ok(length) if length > LONGEST => {}
                Ok(length) => parse(&buffer[..length], &mut said),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Such as a lack of memory. It counts, so that it is tried again but not for ever at once.
                Err(_) => {}
            }
            self.ration.spend();
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
