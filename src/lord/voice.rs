//! What a lord process says: lines, to somebody who may have stopped to listen.
//!
//! The other end of its output is the agent's. A frozen agent reads nothing, and a write would wait; a killed one is
//! gone, and a write would end a shell in the middle of `on_unlord`.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::process::Stdio;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// No more than a pipe takes at once when it says that it takes something.
const LONGEST: usize = libc::PIPE_BUF - 1;

/// The output of this process.
pub(super) struct Voice {
    /// Other ends of our own pipes, that nobody reads from: while we have them, whoever writes is not ended by the
    /// reader's end.
    _ears: Vec<File>,
}

impl Voice {
    /// Stdout and stderr as they are.
    pub(super) fn plain() -> Voice {
        let ear = |number: i32| {
            let path = format!("/proc/self/fd/{number}");
            let is_pipe = |about: &Metadata| about.file_type().is_fifo();
            std::fs::metadata(&path).ok().filter(is_pipe)?;
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
        };
        // Where that is not allowed, as to another user than the agent's, it is as it is.
        Voice { _ears: [1, 2].into_iter().filter_map(ear).collect() }
    }

    /// All on stderr, also what actions print on stdout.
    pub(super) fn aside() -> Voice {
        let _ = nix::unistd::dup2_stdout(stderr());
        Voice::plain()
    }

    /// Says a line, unless nobody takes it now.
    pub(super) fn say(&self, line: &str) {
        if takes(stdout()) {
            let mut bytes = line.as_bytes()[..line.len().min(LONGEST)].to_vec();
            bytes.push(b'\n');
            // Not through the standard library's own buffer: a line that was not taken is not to come later.
            // SAFETY: descriptor 1 is open for as long as this process lives, and this value does not close it.
            let mut stdout = ManuallyDrop::new(unsafe { File::from_raw_fd(1) });
            let _: io::Result<()> = stdout.write_all(&bytes);
        }
    }

    /// Where an action is to write: as we do, or nowhere while nobody takes anything.
    pub(super) fn for_action(&self) -> [Stdio; 2] {
        [stdout(), stderr()].map(|end| if takes(end) { Stdio::inherit() } else { Stdio::null() })
    }
}

fn stdout() -> BorrowedFd<'static> {
    // SAFETY: std sees to it that the first three are open, and nobody here closes them.
    unsafe { BorrowedFd::borrow_raw(1) }
}

fn stderr() -> BorrowedFd<'static> {
    // SAFETY: as above.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Whether a write would neither wait nor fail.
fn takes(end: BorrowedFd<'_>) -> bool {
    let mut ends = [PollFd::new(end.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut ends, PollTimeout::ZERO), Ok(1)) && ends[0].revents() == Some(PollFlags::POLLOUT)
}
