//! Files that tell programs whether this node leads: one for each legion, beside the control socket.
//!
//! There they are this agent's alone, may be read by whoever may reach it, and do not outlive the machine's last start.
//! What a killed agent leaves says until when it was so.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::model::names::WatcherName;
use crate::model::spec::legion_file;

/// Writes the files on a thread of its own: a disk that hangs holds up no lease. What was not written before the next
/// change of a legion never is.
#[derive(Debug)]
pub(super) struct Lordships {
    dir: PathBuf,
    desk: Option<Arc<Desk>>,
}

#[derive(Debug, Default)]
struct Desk {
    papers: Mutex<Papers>,
    news: Condvar,
}

/// What is to be written; nothing: the file is to go.
#[derive(Debug, Default)]
struct Papers {
    waiting: BTreeMap<String, Option<String>>,
    busy: bool,
}

impl Lordships {
    /// Files in `dir`, which is made with the first. What an earlier agent left there is removed.
    pub(super) fn new(dir: PathBuf) -> Lordships {
        let _ = fs::remove_dir_all(&dir);
        Lordships { dir, desk: None }
    }

    /// Writes how a legion is; with nothing, removes its file.
    pub(super) fn show(&mut self, legion: &WatcherName, text: Option<String>) {
        let desk = match &self.desk {
            Some(desk) => desk,
            None if text.is_none() => return,
            None => {
                let desk = Arc::<Desk>::default();
                let (dir, theirs) = (self.dir.clone(), Arc::clone(&desk));
                let thread = thread::Builder::new().name("circus-legions".into());
                if let Err(error) = thread.spawn(move || theirs.work(&dir)) {
                    tracing::error!("{legion}: no thread to write down who leads: {error}");
                    return;
                }
                self.desk.insert(desk)
            }
        };
        desk.papers().waiting.insert(legion_file(legion.as_str()), text);
        desk.news.notify_all();
    }

    /// Waits until all is written, for so long at most.
    pub(super) fn flush(&self, patience: Duration) {
        let Some(desk) = &self.desk else { return };
        let waits = |papers: &mut Papers| papers.busy || !papers.waiting.is_empty();
        drop(desk.news.wait_timeout_while(desk.papers(), patience, waits));
    }
}

impl Desk {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, dir: &Path) -> ! {
        let mut failing = false;
        loop {
            let (name, text) = self.next();
            match write(dir, &name, text.as_deref()) {
                Ok(()) => failing = false,
                // Once, until it works again.
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!("cannot write down who leads in {}: {error}", dir.join(name).display());
                }
                Err(_) => {}
            }
        }
    }

    fn next(&self) -> (String, Option<String>) {
        let mut papers = self.papers();
        papers.busy = false;
        self.news.notify_all();
        let mut papers =
            self.news.wait_while(papers, |papers| papers.waiting.is_empty()).unwrap_or_else(PoisonError::into_inner);
        papers.busy = true;
        papers.waiting.pop_first().expect("there is one")
    }
}

/// Whoever reads finds the old text or the new one.
fn write(dir: &Path, name: &str, text: Option<&str>) -> io::Result<()> {
    let path = dir.join(name);
    let Some(text) = text else {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // With the last.
        let _ = fs::remove_dir(dir);
        return Ok(());
    };
    if !dir.is_dir() {
        fs::create_dir(dir)?;
        // Everybody may read them, whatever the umask.
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    // No legion's file begins with a dot.
    let new = dir.join(".new");
    let mut file = File::create(&new)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn the_latest_is_there_and_what_is_over_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a.sock.legions");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("stale"), "me=1\n").unwrap();
        let mut lordships = Lordships::new(dir.clone());
        assert!(!dir.exists());
        let name = |text| WatcherName::parse(text).unwrap();
        lordships.show(&name("none"), None);
        assert!(!dir.exists());
        for turn in 0..100 {
            lordships.show(&name("ip"), Some(format!("turn={turn}\n")));
        }
        lordships.show(&name("../b"), Some("b\n".into()));
        lordships.flush(LONG);
        assert_eq!(fs::read_to_string(dir.join("ip")).unwrap(), "turn=99\n");
        assert_eq!(fs::read_to_string(dir.join("%2E.%2Fb")).unwrap(), "b\n");
        assert_eq!(fs::metadata(dir.join("ip")).unwrap().permissions().mode() & 0o777, 0o644);
        lordships.show(&name("ip"), None);
        lordships.flush(LONG);
        assert!(dir.exists() && !dir.join("ip").exists());
        lordships.show(&name("../b"), None);
        lordships.flush(LONG);
        assert!(!dir.exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_holds_up_nobody() {
        let home = tempfile::tempdir().unwrap();
        let mut lordships = Lordships::new(home.path().join("no/such"));
        lordships.show(&WatcherName::parse("ip").unwrap(), Some("x".into()));
        lordships.flush(LONG);
    }
}
