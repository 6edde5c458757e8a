//! The path of a Unix socket.
//!
//! The file is born with the mode it is to have, or a stricter one: Linux takes the mode of the socket itself (`fchmod`
//! before `bind`), less our own umask. umask(2) would be every thread's. What our umask took away is given back, and the
//! owner set, before `listen`: until then nobody can connect.
//!
//! Some servers remove the path of a socket that they were given when they stop (gunicorn with `-b fd://3`, and
//! Python's asyncio from 3.13 on). So the file has a second, hidden name, and is linked to its path again as soon as
//! inotify tells that it is gone.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{Gid, Uid, fchownat};
use socket2::{Domain, SockAddr, Socket};
use tokio::io::unix::AsyncFd;
use tokio::task::{AbortHandle, spawn_blocking};

use super::kernel;
use super::listener::type_of;
use crate::host::sys::{self, error_text};
use crate::model::names::SocketName;
use crate::model::spec::{SocketKind, SocketSpec};

/// The longest path of a socket, in bytes (`sun_path` without the NUL at its end).
const LONGEST: usize = 107;

/// A path that a socket of ours is bound at. It is removed with this, as long as it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    name: SocketName,
    path: PathBuf,
    identity: (u64, u64),
    /// Whether the file has its second name: then it can be put back.
    is_held: AtomicBool,
    /// Whether somebody was told that it was put back.
    is_told: AtomicBool,
    /// What was there before, until it is certain that it is not needed: else it is put back.
    before: Mutex<Option<Before>>,
}

/// What was at a path before.
#[derive(Debug)]
struct Before {
    /// Where it is now.
    aside: PathBuf,
    /// Where it was a socket of ours, that one.
    file: Option<Arc<SocketFile>>,
}

/// Who is at a path.
#[derive(Debug)]
pub(super) enum Occupant {
    Nobody,
    /// A socket that nobody has open.
    Stale,
    /// A socket of this agent.
    Ours(Arc<SocketFile>),
    /// One of another program.
    Live,
}

impl Occupant {
    /// Finds out who is at `path`. What is no socket is an error.
    pub(super) fn of(path: &Path, kind: SocketKind) -> Result<Occupant, String> {
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
}

impl SocketFile {
    /// Binds `socket` at a path where `occupant` was found.
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
                tracing::info!("socket {}: removing {place}, a socket that nobody has open", spec.name);
                fs::remove_file(path).map_err(failed)?;
                None
            }
            Occupant::Ours(file) => {
                file.let_go();
                Some(Before { aside: set_aside(path).map_err(failed)?, file: Some(file) })
            }
            Occupant::Live => {
                let who = kernel::holder_of_path(path).unwrap_or_else(|| "another program".into());
                if !spec.replace {
                    let way_out = "stop it, choose another path, or set replace = true";
                    return Err(format!("EADDRINUSE: {who} has it; {way_out}"));
                }
                tracing::warn!("socket {}: taking {place} from {who}", spec.name);
                // Were it another agent's, that one would put it back at once.
                let _ = fs::remove_file(second_name(path));
                Some(Before { aside: set_aside(path).map_err(failed)?, file: None })
            }
        };
        let mut file = SocketFile {
            name: spec.name.clone(),
            path: path.to_owned(),
            identity: (0, 0),
            is_held: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            before: Mutex::new(before),
        };
        let mode = Mode::from_bits_truncate(0o777 & !spec.umask);
        fchmod(socket.as_fd(), mode).map_err(|error| failed(error.into()))?;
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        file.identity = fs::symlink_metadata(path).map(|found| identity(&found)).map_err(failed)?;
        // Before it is another user's, whose file may not be linked without a privilege.
        file.hold();
        file.dress(spec.umask, spec.owner)?;
        Ok(file)
    }

    /// Gives it this mode and owner.
    pub(super) fn dress(&self, umask: u32, (user, group): (Option<u32>, Option<u32>)) -> Result<(), String> {
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        if user.is_some() || group.is_some() {
            let owned = fchownat(AT_FDCWD, &self.path, user, group, AtFlags::AT_SYMLINK_NOFOLLOW);
            owned.map_err(|error| {
                let way_out = "to give a file away takes a privilege: run the agent with CAP_CHOWN, or take owner out";
                format!("{}; {way_out}", error_text(&error.into()))
            })?;
        }
        let mode = Mode::from_bits_truncate(0o777 & !umask);
        let set = fchmodat(AT_FDCWD, &self.path, mode, FchmodatFlags::NoFollowSymlink);
        set.map_err(|error| explain(&error.into(), &self.path))
    }

    /// Whether this is the file at that path.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        if self.path != path {
            return false;
        }
        // It may have been removed at this moment.
        self.put_back();
        fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == self.identity)
    }

    /// What was there before is not needed any more.
    pub(super) fn keep(&self) {
        if let Some(before) = self.before.lock().unwrap_or_else(PoisonError::into_inner).take()
            && let Err(error) = fs::remove_file(&before.aside)
        {
            tracing::warn!("socket {}: cannot remove {}: {}", self.name, before.aside.display(), error_text(&error));
        }
    }

    /// Gives it its second name. One of an agent that was killed may be left.
    fn hold(&self) {
        let second = second_name(&self.path);
        let _ = fs::remove_file(&second);
        match fs::hard_link(&self.path, &second) {
            Ok(()) => self.is_held.store(true, Ordering::Relaxed),
            Err(error) => tracing::info!(
                "socket {}: cannot link {} to {} ({}); should a process remove the socket's path, it stays removed",
                self.name,
                self.path.display(),
                second.display(),
                error_text(&error)
            ),
        }
    }

    /// Takes its second name away.
    fn let_go(&self) {
        if self.is_held.swap(false, Ordering::Relaxed) {
            let _ = fs::remove_file(second_name(&self.path));
        }
    }

    /// Puts the file back where it was, if nothing else is there.
    pub(super) fn put_back(&self) {
        if !self.is_held.load(Ordering::Relaxed) {
            return;
        }
        match fs::hard_link(second_name(&self.path), &self.path) {
            Ok(()) if self.is_told.swap(true, Ordering::Relaxed) => {}
            Ok(()) => tracing::warn!(
                "socket {}: {} was removed, by a process that had it or by somebody else; it is put back each time",
                self.name,
                self.path.display()
            ),
            // It is there, or somebody else's is, who has meant it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                self.is_held.store(false, Ordering::Relaxed);
                tracing::warn!(
                    "socket {}: {} was removed and cannot be put back: {}; choose another path, or restart the agent",
                    self.name,
                    self.path.display(),
                    error_text(&error)
                );
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // First, or it would be put back.
        self.let_go();
        if self.is_at(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(before) = self.before.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = fs::rename(&before.aside, &self.path);
            if let Some(file) = before.file {
                file.hold();
            }
        }
    }
}

/// Puts paths back that vanish.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// From the first on.
    watch: Mutex<Option<Watch>>,
}

#[derive(Debug)]
struct Watch {
    inotify: Arc<Inotify>,
    files: Files,
    task: AbortHandle,
}

type Files = Arc<Mutex<Vec<Weak<SocketFile>>>>;

impl Keeper {
    /// Keeps this one, too. To be called within the runtime, by one thread at a time.
    pub(super) fn add(&self, file: &Arc<SocketFile>) {
        if let Err(error) = self.try_add(file) {
            let error = error_text(&error);
            tracing::warn!(
                "socket {}: its path cannot be watched: should it be removed, it stays so: {error}",
                file.name
            );
        }
    }

    fn try_add(&self, file: &Arc<SocketFile>) -> io::Result<()> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = match &mut *watch {
            Some(watch) => watch,
            none => none.insert(Watch::new()?),
        };
        let what = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_ONLYDIR;
        // A directory that is watched already is watched once.
        watch.inotify.add_watch(directory(&file.path), what)?;
        let mut files = watch.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(file));
        drop(files);
        // It may have vanished before.
        file.put_back();
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get_mut().unwrap_or_else(PoisonError::into_inner) {
            watch.task.abort();
        }
    }
}

impl Watch {
    fn new() -> io::Result<Watch> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?);
        let bell = sys::watch(inotify.as_fd().try_clone_to_owned()?).map_err(|(_, error)| error)?;
        let files = Files::default();
        let task = tokio::spawn(put_back_all(bell, Arc::clone(&inotify), Arc::clone(&files))).abort_handle();
        Ok(Watch { inotify, files, task })
    }
}

async fn put_back_all(bell: AsyncFd<OwnedFd>, inotify: Arc<Inotify>, files: Files) {
    while let Ok(mut rung) = bell.readable().await {
        let Ok(events) = rung.try_io(|_| Ok(inotify.read_events()?)) else {
            continue;
        };
        let Ok(events) = events else {
            return tracing::warn!("inotify has failed: paths of sockets that are removed stay removed");
        };
        // An event without a name tells that some were lost.
        let names: Option<Vec<_>> = events.into_iter().map(|event| event.name).collect();
        let is_meant = |file: &Arc<SocketFile>| {
            names.as_ref().is_none_or(|names| names.iter().any(|name| file.path.file_name() == Some(name)))
        };
        let all = files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let meant: Vec<_> = all.iter().filter_map(Weak::upgrade).filter(is_meant).collect();
        if !meant.is_empty() {
            // Dropped there, too: the last of its owners removes a file.
            let _ = spawn_blocking(move || meant.iter().for_each(|file| file.put_back())).await;
        }
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
            "{}; this agent's user may not connect to the socket that is there, to see whether it is in use; \
             remove it or choose another path",
            error_text(&error)
        )),
        // Connected, or too many wait already, or it is one of another type.
        _ => Ok(Occupant::Live),
    }
}

/// Checks what the system would only call invalid.
pub(super) fn check_length(path: &Path) -> Result<(), String> {
    match path.as_os_str().len() {
        0..=LONGEST => Ok(()),
        length => Err(format!(
            "ENAMETOOLONG: a socket's path has at most {LONGEST} bytes, and this one {length}; choose a shorter one"
        )),
    }
}

/// Moves what is at `path` to another name beside it.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, "before");
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn second_name(path: &Path) -> PathBuf {
    beside(path, "second")
}

/// A hidden name beside `path`: `.web.sock.circus-{what}`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.circus-{what}"))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn explain(error: &io::Error, path: &Path) -> String {
    let dir = directory(path).display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("ENOENT: there is no directory {dir}; make it, or choose another path"),
        io::ErrorKind::PermissionDenied => {
            format!("EACCES: this agent's user may not make a file in {dir}; let it, or choose another path")
        }
        io::ErrorKind::NotADirectory => format!("ENOTDIR: {dir} is no directory; choose another path"),
        _ => error_text(error),
    }
}
