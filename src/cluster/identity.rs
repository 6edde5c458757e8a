//! Who an agent is over its restarts, and where it keeps that.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::unistd::{AccessFlags, access};

use super::local::files::{at, file_name, private};
use crate::model::names::NodeName;

/// What makes an agent itself over its restarts.
#[derive(Debug)]
pub struct Identity {
    /// Drawn at the node's first start with this state directory.
    pub instance: u128,
    dir: PathBuf,
    /// Locked for as long as it is open: for the agent's life.
    file: Mutex<File>,
}

/// Another name's place, which nobody else of this machine has until this is dropped, or for good once it is kept.
#[derive(Debug)]
pub struct Claim<'a> {
    identity: &'a Identity,
    file: File,
}

impl Identity {
    /// The place of another name for the same agent.
    ///
    /// # Errors
    /// Another agent of this machine has it.
    pub fn claim(&self, node: &NodeName) -> Result<Claim<'_>, IdentityError> {
        let (file, _) = locked(&self.dir, node)?;
        Ok(Claim { identity: self, file })
    }
}

impl Claim<'_> {
    /// Moves there. Who comes to the old place is another agent.
    ///
    /// # Errors
    /// It cannot be written down; then the agent is another one to the registry when it is started again.
    pub fn keep(self) -> io::Result<()> {
        let written = write(&self.file, self.identity.instance);
        let mut file = self.identity.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Emptied before its lock goes with it: whoever read it would be this very agent.
        let emptied = std::mem::replace(&mut *file, self.file).set_len(0);
        written.and(emptied)
    }
}

/// Why an agent has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another agent runs under this name.
    #[error("another agent named {node} runs on this machine ({}), with the same state directory {}; \
             give one of them another name (node = …) or another state_dir",
            pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}")), dir.display())]
    Taken {
        /// The name.
        node: NodeName,
        /// The state directory.
        dir: PathBuf,
        /// Its process, where its file says.
        pid: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error("cannot keep this node's identity: {0}")]
    Io(#[from] io::Error),
}

/// This node's identity, from `STATE_DIR/NODE.id` or new; refused while another agent has it.
///
/// The instance tells a restarted agent from another one with the same name: the first is recognised in the
/// registry, the second refused.
pub fn identity(state_dir: &Path, node: &NodeName) -> Result<Identity, IdentityError> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(at(state_dir))?;
    let (file, known) = locked(state_dir, node)?;
    let instance = match known {
        Some(instance) => instance,
        None => {
            let mut bits = [0; 16];
            getrandom::fill(&mut bits).map_err(|error| io::Error::other(error.to_string()))?;
            u128::from_ne_bytes(bits)
        }
    };
    write(&file, instance).map_err(at(&path_of(state_dir, node)))?;
    Ok(Identity { instance, dir: state_dir.to_owned(), file: Mutex::new(file) })
}

fn path_of(state_dir: &Path, node: &NodeName) -> PathBuf {
    state_dir.join(format!("{}.id", file_name(node.as_str())))
}

/// The file of a name, locked, and the instance that stands in it.
fn locked(state_dir: &Path, node: &NodeName) -> Result<(File, Option<u128>), IdentityError> {
    let path = path_of(state_dir, node);
    let named = at(&path);
    let file = private().read(true).write(true).create(true).truncate(false).open(&path).map_err(&named)?;
    let locked = file.try_lock();
    let mut text = Vec::new();
    (&file).take(4096).read_to_end(&mut text).map_err(&named)?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let (instance, pid) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = pid.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
            return Err(IdentityError::Taken { node: node.clone(), dir: state_dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(named(error).into()),
    }
    let known = (instance.len() == 32).then(|| u128::from_str_radix(instance, 16).ok()).flatten();
    Ok((file, known))
}

fn write(file: &File, instance: u128) -> io::Result<()> {
    // Same length up to the pid: an agent killed in the middle of this keeps its instance.
    let text = format!("{instance:032x}\npid {}\n", std::process::id());
    file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64))
}

/// Where state is kept when nothing is configured: `/var/lib/circus` if it can be written, else
/// `$XDG_STATE_HOME/circus`, else `~/.local/state/circus`.
pub fn default_state_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    choose_state_dir(Path::new("/var/lib/circus"), var("XDG_STATE_HOME"), var("HOME"))
}

fn choose_state_dir(system: &Path, xdg: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(system);
    if made.is_ok() && access(system, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
        return system.to_owned();
    }
    // A relative path is to be ignored, says the XDG specification; it would follow the working directory.
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = xdg.filter(absolute).or_else(|| home.filter(absolute).map(|home| home.join(".local/state")));
    // Without a home there is nowhere else: what then fails names this path.
    state.map_or_else(|| system.to_owned(), |state| state.join("circus"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_to_the_first_place_that_can_be_written() {
        let dir = tempfile::TempDir::new().unwrap();
        let good = dir.path().join("var");
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(choose_state_dir(&good, path("/xdg"), path("/home/me")), good);
        assert!(good.is_dir());
        let bad = Path::new("/proc/circus");
        assert_eq!(choose_state_dir(bad, path("/xdg"), path("/home/me")), Path::new("/xdg/circus"));
        assert_eq!(choose_state_dir(bad, path("xdg"), path("/home/me")), Path::new("/home/me/.local/state/circus"));
        assert_eq!(choose_state_dir(bad, None, path("")), bad);
    }
}
