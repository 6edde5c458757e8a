//! Unix sockets that an agent listens on, at paths of the file system.
//!
//! Invariants:
//!
//! - A socket file is 0600 from the moment that it can be connected to.
//! - At most one process listens on a path; a socket file that nobody listens on is replaced.
//! - The file goes with its [`UnixSocket`], unless somebody else's is in its place by then.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use tokio::net::{UnixListener, UnixStream};

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{}: another process listens there", .0.display())]
    InUse(PathBuf),
    /// The path is taken by something that is not ours to remove.
    #[error("{}: a file that is no socket is in the way", .0.display())]
    InTheWay(PathBuf),
    /// A step failed.
    #[error("{}: {step}: {error}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        error: io::Error,
    },
}

/// A bound stream socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is ever removed.
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens on `path`, making its directory where it is missing; the file belongs to the user `owner`, or to us. To be
    /// called within a tokio runtime.
    pub fn bind(path: &Path, owner: Option<u32>) -> Result<UnixSocket, BindError> {
        let failed = |step| move |error: io::Error| BindError::Failed { path: path.to_owned(), step, error };
        // Measured first: what nobody can connect to would be no use, and no trace of it should be left.
        UnixAddr::new(path).map_err(|errno| failed("name it (at most 107 bytes)")(errno.into()))?;
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        // Others may look in, and so be told "permission denied" rather than "no agent"; only the owner may write.
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed("make its directory"))?;
        let lock = lock_dir(dir).map_err(failed("lock its directory"))?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::InTheWay(path.to_owned())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("look at it")(error)),
            _ => {}
        }
        match probe(path) {
            Probe::Live => return Err(BindError::InUse(path.to_owned())),
            Probe::Failed(error) => return Err(failed("see whether anybody listens there")(error)),
            Probe::Dead => {}
        }
        // Made under another name, and moved once it is private and answers: at its own name it is never half-made.
        let temporary = dir.join(format!(".{:x}", std::process::id()));
        let listener = listen_privately(&temporary, path, owner).map_err(|(step, error)| {
            let _ = fs::remove_file(&temporary);
            failed(step)(error)
        })?;
        drop(lock);
        let file = fs::symlink_metadata(path).map_err(failed("look at it"))?;
        let listener = UnixListener::from_std(listener).map_err(failed("listen"))?;
        Ok(UnixSocket { listener, path: path.to_owned(), file: (file.dev(), file.ino()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is listened with.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who is at the other end, as the kernel knows them: the program's name and its user.
pub fn peer(client: &UnixStream) -> String {
    let Ok(peer) = client.peer_cred() else { return "somebody".into() };
    let name = peer.pid().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    let name = name.map(|name| name.trim_end().to_owned()).filter(|name| !name.is_empty());
    format!("{} (uid {})", name.as_deref().unwrap_or("a program that is gone"), peer.uid())
}

/// Keeps two agents from both finding a stale socket and both replacing it. The kernel frees the lock at the latest
/// when the process ends, so nothing is left behind.
fn lock_dir(dir: &Path) -> io::Result<Flock<File>> {
    let mut file = File::open(dir)?;
    for _ in 0..40 {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps it locked"))
}

fn listen_privately(
    temporary: &Path,
    path: &Path,
    owner: Option<u32>,
) -> Result<std::os::unix::net::UnixListener, (&'static str, io::Error)> {
    let errno = |step| move |errno: Errno| (step, io::Error::from(errno));
    let error = |step| move |error| (step, error);
    let _ = fs::remove_file(temporary);
    let fd = stream_socket().map_err(errno("make a socket"))?;
    let address = UnixAddr::new(temporary).map_err(errno("name it"))?;
    bind(fd.as_raw_fd(), &address).map_err(errno("bind"))?;
    // Before it listens nobody can connect, so the mode that bind gave it was never open to anyone.
    fs::set_permissions(temporary, fs::Permissions::from_mode(0o600)).map_err(error("make it private"))?;
    if let Some(uid) = owner {
        chown(temporary, Some(uid), None).map_err(error("give it to its owner"))?;
    }
    listen(&fd, Backlog::MAXCONN).map_err(errno("listen"))?;
    fs::rename(temporary, path).map_err(error("move it to its place"))?;
    Ok(fd.into())
}

fn stream_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

/// Whether somebody listens on a socket.
#[derive(Debug)]
pub enum Probe {
    /// Somebody does.
    Live,
    /// Nobody does, or there is no such file.
    Dead,
    /// It cannot be told.
    Failed(io::Error),
}

/// Tries to connect, without waiting and without a word.
pub fn probe(path: &Path) -> Probe {
    let connected = stream_socket().and_then(|fd| connect(fd.as_raw_fd(), &UnixAddr::new(path)?));
    match connected {
        // EAGAIN: somebody listens, and is too busy to accept at once.
        Ok(()) | Err(Errno::EAGAIN) => Probe::Live,
        Err(Errno::ECONNREFUSED | Errno::ENOENT | Errno::ENOTDIR) => Probe::Dead,
        Err(errno) => Probe::Failed(errno.into()),
    }
}
