//! The file with the agent's pid.
//!
//! Whether the agent that it names still runs is told by a lock on it, which ends with its holder: a number alone may be
//! another's by now, and in a container that is started again it even is one's own.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How often the file may be gone by the time it is locked. Each time, an agent has left at that very moment.
const ATTEMPTS: u32 = 8;

/// Why the pidfile cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// Another agent has it.
    #[error("pidfile {}: circus-agent runs as pid {}; stop it, or name another pidfile", path.display(),
            pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    Taken {
        /// The file.
        path: PathBuf,
        /// Whom it names.
        pid: Option<u32>,
    },
    /// A call failed.
    #[error("cannot write the pidfile {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

/// The agent's own, locked; gone with the value, unless it is another's by then.
#[derive(Debug)]
pub(super) struct Pidfile {
    path: PathBuf,
    file: File,
}

impl Pidfile {
    /// Writes this process's pid, in the place of one that runs no more. Everybody may read it, whatever the umask.
    pub(super) fn take(path: &Path) -> Result<Pidfile, PidfileError> {
        let failed = |error| PidfileError::Io { path: path.to_owned(), error };
        for _ in 0..ATTEMPTS {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => {
                    write_pid(&file).map_err(failed)?;
                    return Ok(Pidfile { path: path.to_owned(), file });
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(PidfileError::Taken { path: path.to_owned(), pid: pid_in(&file) });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        Err(failed(io::Error::other("it is removed again and again")))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            // Already gone is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether this is the file of that name still.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |about: fs::Metadata| (about.dev(), about.ino());
    let (ours, named) = (file.metadata().map(id), fs::metadata(path).map(id));
    ours.is_ok_and(|ours| named.is_ok_and(|named| ours == named))
}

/// Whom a pidfile names.
fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &File) -> io::Result<()> {
    // Where it is another user's, its mode is theirs to choose.
    let _ = file.set_permissions(Permissions::from_mode(0o644));
    let text = format!("{}\n", std::process::id());
    // In this order it is never empty to one who reads it meanwhile.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_has_one_agent_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let ours = Pidfile::take(&path).unwrap();
        let me = std::process::id();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{me}\n"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        let refused = Pidfile::take(&path).unwrap_err().to_string();
        let expected = format!("pidfile {}: circus-agent runs as pid {me}", path.display());
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(path.exists(), "who was refused removed it");
        drop(ours);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_pidfile_is_overwritten_even_where_its_number_is_a_living_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for stale in ["1\n", "4194304 and much more\n", "", "no number"] {
            fs::write(&path, stale).unwrap();
            let _ours = Pidfile::take(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        }
    }

    #[test]
    fn a_pidfile_that_is_another_s_by_now_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let ours = Pidfile::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = Pidfile::take(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
        assert!(!path.exists());
    }
}
