//! What it takes to be spoken to by processes, in whatever protocol: a directory for their sockets, and a measure for
//! how much is heard at a time.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::time::Instant;

use super::spawn::failure;
use crate::model::event::SpawnFailure;

/// How many things one process says are heard within each [`WINDOW`].
const MOST: u32 = 16;

const WINDOW: Duration = Duration::from_millis(50);

/// A path of a socket is shorter than this (`sun_path`).
const PATH_SIZE: usize = 108;

/// The directory of all processes' sockets: made when the first is, removed in the end.
#[derive(Debug)]
pub(super) struct SocketDir {
    path: PathBuf,
    is_made: Mutex<bool>,
}

/// The file of a socket; it goes with the value.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Not removed before this file is.
    _dir: Arc<SocketDir>,
}

/// How much of what one process says is still heard in this window of time. Who says more waits.
#[derive(Debug)]
pub(super) struct Ration {
    left: u32,
    /// When the window began.
    begun: Instant,
}

impl SocketDir {
    /// `path` is for this host alone: what an earlier one left there is removed.
    pub(super) fn new(path: PathBuf) -> SocketDir {
        SocketDir { path, is_made: Mutex::new(false) }
    }

    /// Has `bind` make a socket of this name, for whoever knows the name. This is work with files, which may block. A
    /// failure says that it was about `what`.
    pub(super) fn bind<S>(
        self: &Arc<Self>,
        what: &str,
        name: &str,
        bind: impl FnOnce(&Path) -> io::Result<S>,
    ) -> Result<(S, SocketFile), SpawnFailure> {
        let path = self.path.join(name);
        let failed = |step: &str, error: &io::Error| failure(format!("{what} {step}({path:?})"), error);
        if path.as_os_str().len() >= PATH_SIZE {
            let error = format!("ENAMETOOLONG: a socket's path has less than {PATH_SIZE} bytes; give it a shorter one");
            return Err(SpawnFailure { stage: format!("{what} bind({path:?})"), error });
        }
        self.make().map_err(|error| failure(format!("{what} mkdir({:?})", self.path), &error))?;
        let socket = bind(&path).map_err(|error| failed("bind", &error))?;
        let file = SocketFile { path: path.clone(), _dir: Arc::clone(self) };
        // For children that are other users; the name of the socket is theirs alone to know.
        fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(|error| failed("chmod", &error))?;
        Ok((socket, file))
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

impl Drop for SocketDir {
    fn drop(&mut self) {
        if *self.is_made.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

impl SocketFile {
    /// How a process finds it.
    pub(super) fn address(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Ration {
    /// A whole one.
    pub(super) fn new() -> Ration {
        Ration { left: MOST, begun: Instant::now() }
    }

    /// Begins a new window where the last one is over.
    pub(super) fn renew(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.begun) >= WINDOW {
            *self = Ration { left: MOST, begun: now };
        }
    }

    /// Whether one thing more may be heard.
    pub(super) fn is_left(&self) -> bool {
        self.left > 0
    }

    /// Counts one thing.
    pub(super) fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Where nothing is left: when there will be more.
    pub(super) fn spent_until(&self) -> Option<Instant> {
        (!self.is_left()).then(|| self.begun + WINDOW)
    }
}
