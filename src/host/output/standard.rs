//! The agent's own stdout and stderr, and writing to what may be a pipe.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::place::{Failure, Writer};
use crate::host::plan::inherited;

/// How long a pipe may stay full before that is a failure.
const FULL_MS: u16 = 1000;

/// Writes to a descriptor that this program was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standard {
    Out = 1,
    Err = 2,
}

impl Writer for Standard {
    fn write(&mut self, bytes: &mut &[u8]) -> Result<(), Failure> {
        let failed = |error| Failure { step: format!("write to {self}"), error };
        // A descriptor of its own for each write, so that none is kept; the file behind it is the same.
        let file = File::from(inherited()[*self as usize].try_clone_to_owned().map_err(failed)?);
        write_all(&file, bytes).map_err(failed)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standard::Out => "the agent's stdout",
            Standard::Err => "the agent's stderr",
        })
    }
}

/// Writes all of `bytes`, and moves it past what is written, also where it fails. A pipe that does not block is
/// waited for while somebody reads from it.
pub(super) fn write_all(mut file: &File, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut fds, PollTimeout::from(FULL_MS)) {
                    Ok(0) => return Err(io::Error::other("full, and nobody reads from it")),
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
