//! The path of a Unix socket.
//!
//! The file is born with the mode it is to have, or a stricter one: Linux takes the mode of the socket itself (`fchmod`
//! before `bind`), less our own umask. umask(2) would be every thread's. What our umask took away is given back, and the
//! owner set, before `listen`: until then nobody can connect.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{Gid, Uid, fchownat};
use socket2::{Domain, SockAddr, Socket};

use super::listener::type_of;
use crate::host::sys::error_text;
use crate::model::spec::{SocketKind, SocketSpec};

/// A path that a socket of ours is bound at. It is removed with this, as long as it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// What was there before, until it is certain that it is not needed: it is put back then.
    before: Mutex<Option<PathBuf>>,
}

/// Who is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupant {
    Nobody,
    /// A socket that nobody has open.
    Stale,
    /// A socket of this agent.
    Ours,
    /// One of another program.
    Live,
}

/// Finds out who is at `path`. What is no socket is an error.
pub(super) fn occupant(path: &Path, kind: SocketKind) -> Result<Occupant, String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Occupant::Nobody),
        Err(error) => Err(explain(&error, path)),
        Ok(found) if !found.file_type().is_socket() => {
            let what = if found.is_dir() { "a directory" } else { "a file" };
            Err(format!("EADDRINUSE: {what} that is no socket is there; remove it or choose another path"))
        }
        Ok(_) => knock(path, kind),
    }
}

/// Whether somebody has the socket at `path` open.
fn knock(path: &Path, kind: SocketKind) -> Result<Occupant, String> {
    let failed = |error: io::Error| explain(&error, path);
    let socket = Socket::new(Domain::UNIX, type_of(kind), None).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    match socket.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Occupant::Stale),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Occupant::Nobody),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(format!(
            "{}; a socket is there that this agent may not connect to, so nobody knows whether it is in use; remove it",
            error_text(&error)
        )),
        // Connected, or too many wait already, or it is one of another type.
        _ => Ok(Occupant::Live),
    }
}

impl SocketFile {
    /// Binds `socket` at a path that `occupant` is found at.
    pub(super) fn bind(
        socket: &Socket,
        path: &Path,
        spec: &SocketSpec,
        occupant: Occupant,
    ) -> Result<SocketFile, String> {
        let failed = |error: io::Error| explain(&error, path);
        let place = path.display();
        let before = match occupant {
            Occupant::Nobody => None,
            Occupant::Stale => {
                tracing::info!("socket {}: removing {place}, which nobody listens on", spec.name);
                fs::remove_file(path).map_err(failed)?;
                None
            }
            Occupant::Live if !spec.replace => {
                return Err("EADDRINUSE: another program is there; stop it, choose another path, or set replace".into());
            }
            Occupant::Live => {
                tracing::warn!("socket {}: taking {place} from a program that listens on it", spec.name);
                Some(set_aside(path).map_err(failed)?)
            }
            Occupant::Ours => Some(set_aside(path).map_err(failed)?),
        };
        let mut file = SocketFile { path: path.to_owned(), identity: (0, 0), before: Mutex::new(before) };
        let mode = Mode::from_bits_truncate(0o777 & !spec.umask);
        fchmod(socket.as_fd(), mode).map_err(|error| failed(error.into()))?;
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        file.identity = fs::symlink_metadata(path).map(|found| identity(&found)).map_err(failed)?;
        file.dress(spec.umask, spec.owner)?;
        Ok(file)
    }

    /// Gives it this mode and owner.
    pub(super) fn dress(&self, umask: u32, (user, group): (Option<u32>, Option<u32>)) -> Result<(), String> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        if user.is_some() || group.is_some() {
            let owned = fchownat(AT_FDCWD, &self.path, user, group, AtFlags::AT_SYMLINK_NOFOLLOW);
            owned.map_err(|error| {
                let way_out = "to give a file away takes a privilege; run the agent with CAP_CHOWN, or unset owner";
                format!("{}; {way_out}", error_text(&error.into()))
            })?;
        }
        let mode = Mode::from_bits_truncate(0o777 & !umask);
        let set = fchmodat(AT_FDCWD, &self.path, mode, FchmodatFlags::NoFollowSymlink);
        set.map_err(|error| explain(&error.into(), &self.path))
    }

    /// Whether this is the file at that path.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.path == path && fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == self.identity)
    }

    /// What was there before is not needed any more.
    pub(super) fn keep(&self) {
        if let Some(before) = self.before.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = fs::remove_file(&before)
        {
            tracing::warn!("cannot remove {}: {}", before.display(), error_text(&error));
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_at(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(before) = self.before.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = fs::rename(before, &self.path);
        }
    }
}

/// Moves what is at `path` to another name beside it.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, "before");
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// A hidden name beside `path`: `.web.sock.circus-{what}`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.circus-{what}"))
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn explain(error: &io::Error, path: &Path) -> String {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match error.kind() {
        io::ErrorKind::NotFound => format!("ENOENT: there is no directory {}; make it", dir.display()),
        io::ErrorKind::PermissionDenied => {
            format!("EACCES: this agent's user may not make a file in {}; change the directory's rights", dir.display())
        }
        io::ErrorKind::NotADirectory => format!("ENOTDIR: {} is no directory; choose another path", dir.display()),
        _ => error_text(error),
    }
}
