//! Lease files on disk: their names, their locks, and how one takes the place of another. And the clocks they go by.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::statfs::statfs;
use nix::time::{ClockId, clock_gettime};

use super::record::{Found, Record, State};
use crate::model::names::WatcherName;
use crate::model::time::Time;

pub(super) const LEASE: &str = ".lease";
pub(super) const MEMBERS: &str = ".members";
pub(super) const PAUSED: &str = ".paused";

/// The files of one lease.
pub(super) struct Paths {
    pub(super) lease: PathBuf,
    /// A lease file to be; whoever has the mutex may write it.
    pub(super) new: PathBuf,
    pub(super) mutex: PathBuf,
    pub(super) history: PathBuf,
    pub(super) members: PathBuf,
    pub(super) slots: PathBuf,
    pub(super) paused: PathBuf,
    /// That file to be.
    pub(super) pausing: PathBuf,
    /// What stands before the name of a watcher's runs.
    runs: PathBuf,
}

impl Paths {
    pub(super) fn new(dir: &Path, watcher: &WatcherName) -> Paths {
        let name = file_name(watcher.as_str());
        let path = |suffix: &str| dir.join(format!("{name}{suffix}"));
        Paths {
            lease: path(LEASE),
            new: path(".new"),
            mutex: path(".mutex"),
            history: path(".history"),
            members: path(MEMBERS),
            slots: path(".slots"),
            paused: path(PAUSED),
            pausing: path(".pausing"),
            // No name of a lease's file has this sign.
            runs: path("@"),
        }
    }

    /// What became of the slots of a watcher under this lease.
    pub(super) fn runs(&self, watcher: &WatcherName) -> PathBuf {
        let mut path = self.runs.clone().into_os_string();
        path.push(file_name(watcher.as_str()));
        path.push(".runs");
        path.into()
    }
}

/// A text as a file's name: what is no letter, digit, `_`, `-` or inner dot becomes `%` and its hexadecimal number.
pub(in crate::cluster) fn file_name(text: &str) -> String {
    let mut name = String::new();
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            b'.' if i > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name
}

/// Reads what stands at the path, and probes its lock. `last` is the highest token known from elsewhere.
pub(super) fn find(paths: &Paths, last: u64) -> io::Result<Found> {
    // For reading only: closing a file that was open for writing would wake every waiting agent.
    let file = match private().read(true).open(&paths.lease) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && last == 0 => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found::Spoilt { locked: false, why: "its file was removed" });
        }
        Err(error) => return Err(at(&paths.lease)(error)),
    };
    let locked = match file.try_lock_shared() {
        Ok(()) => {
            // Not left to the closing: a child forked in this moment has the file open until it executes.
            let _ = file.unlock();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => return Err(at(&paths.lease)(error)),
    };
    let mut text = Vec::new();
    (&file).take(64 * 1024).read_to_end(&mut text).map_err(at(&paths.lease))?;
    let inode = file.metadata().map_err(at(&paths.lease))?.ino();
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let spoilt = |why| Found::Spoilt { locked, why };
    Ok(match serde_json::from_slice::<Record>(line) {
        Err(_) => spoilt("its file holds no record"),
        Ok(record) if record.state == State::Quarantine && !locked => Found::Quarantine(record),
        // A copy that took the place of the file which a holder may have locked.
        Ok(record) if record.inode != inode => spoilt("its file holds the record of another file"),
        Ok(record) if record.state == State::Held => Found::Held { record, locked },
        Ok(record) if !locked => Found::Free(record),
        Ok(_) => spoilt("its file is locked, and says that it is free"),
    })
}

#[derive(Clone, Copy)]
pub(super) enum Lock {
    Taken,
    Free,
}

/// A new file with this record, locked or not, that does not have the lease's path yet.
pub(super) fn draft(paths: &Paths, record: Record, lock: Lock) -> io::Result<File> {
    let named = at(&paths.new);
    // One that an agent left behind when it was killed may be open in its guard: never write into it.
    match std::fs::remove_file(&paths.new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let file = private().read(true).write(true).create_new(true).open(&paths.new).map_err(&named)?;
    match lock {
        Lock::Taken => file.try_lock().map_err(|error| named(error.into()))?,
        Lock::Free => {}
    }
    write_record(&file, record).map_err(&named)?;
    Ok(file)
}

/// Puts the draft in the lease's place.
pub(super) fn publish(paths: &Paths) -> io::Result<()> {
    std::fs::rename(&paths.new, &paths.lease).map_err(at(&paths.lease))
}

/// Puts a record in the lease's place that nobody's lock is on.
pub(super) fn publish_free(paths: &Paths, record: Record) -> io::Result<()> {
    // Closed before it has the lease's name, so that waiting agents hear of it once: of the rename.
    drop(draft(paths, record, Lock::Free)?);
    publish(paths)
}

/// Writes the record's line over the one before. Readers take the first line only, so that a longer one that an agent
/// did not live to cut off does not matter.
pub(super) fn write_record(file: &File, mut record: Record) -> io::Result<()> {
    record.inode = file.metadata()?.ino();
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    file.write_all_at(&line, 0)?;
    file.set_len(line.len() as u64)
}

/// Whether `file` is what stands at `path`.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

/// Files for this user only: whoever can open one can lock it.
pub(in crate::cluster) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

/// The lock that makes one question of several file operations.
pub(super) struct LeaseMutex {
    file: File,
    path: PathBuf,
}

impl LeaseMutex {
    /// Together long beside a question's microseconds, and short beside a third of the shortest ttl, after which the
    /// other leases that this thread keeps would fail.
    const TRIES: u32 = 40;
    const PAUSE: Duration = Duration::from_millis(1);

    pub(super) fn lock(path: &Path) -> io::Result<LeaseMutex> {
        for _ in 0..LeaseMutex::TRIES {
            let file = private().read(true).write(true).create(true).truncate(false).open(path).map_err(at(path))?;
            match file.try_lock() {
                // Somebody may have removed the file between our opening and our locking it.
                Ok(()) if is_at(&file, path) => return Ok(LeaseMutex { file, path: path.to_owned() }),
                Ok(()) | Err(TryLockError::WouldBlock) => std::thread::sleep(LeaseMutex::PAUSE),
                Err(TryLockError::Error(error)) => return Err(at(path)(error)),
            }
        }
        Err(at(path)(io::Error::new(io::ErrorKind::TimedOut, "another agent keeps it locked; is one of them stopped?")))
    }

    /// The last token given; 0 where none was.
    pub(super) fn token(&self) -> u64 {
        let mut text = [0; 32];
        let read = self.file.read_at(&mut text, 0).unwrap_or(0);
        let text = std::str::from_utf8(&text[..read]).unwrap_or_default();
        // Text that is no number is the trace of a token all the same.
        if text.is_empty() { 0 } else { text.trim().parse().unwrap_or(1) }
    }

    pub(super) fn remember(&self, token: u64) -> io::Result<()> {
        // Tokens have the clock's thirteen digits for some centuries: each covers the one before.
        self.file.write_all_at(format!("{token}\n").as_bytes(), 0).map_err(at(&self.path))
    }
}

impl Drop for LeaseMutex {
    fn drop(&mut self) {
        // Not left to the closing: a child forked in this moment has the file open until it executes.
        let _ = self.file.unlock();
    }
}

/// Adds the path to an error.
pub(in crate::cluster) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Refuses file systems that other machines write as well: the lock of one that lost its connection is given away
/// while its child runs on, and a record's end means nothing on another machine's clock.
pub(super) fn refuse_network(dir: &Path) -> io::Result<()> {
    const SHARED: [(u32, &str); 9] = [
        (0x0000_6969, "NFS"),
        (0x0000_517B, "SMB"),
        (0xFE53_4D42, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
        (0x0116_1970, "GFS2"),
        (0x7461_636F, "OCFS2"),
        (0x0BD0_0BD0, "Lustre"),
    ];
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the kernel's numbers have 32 bits")]
    let kind = statfs(dir)?.filesystem_type().0 as u32;
    match SHARED.iter().find(|(number, _)| *number == kind) {
        Some((_, name)) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "is on {name}, but file locks keep leases on one machine only: set state_dir to a local disk, or use [redis]"
            ),
        )),
        None => Ok(()),
    }
}

pub(super) fn boottime() -> Time {
    // The clock is there since Linux 2.6.39, and the argument is a constant: it cannot fail.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Time::ZERO + now
}

/// What `CLOCK_BOOTTIME` counts from: this boot, as seen in this time namespace.
pub(super) fn clock_name() -> io::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = std::fs::read_to_string(path).map_err(at(path))?;
    // Absent before Linux 5.6, where there is only one.
    let space = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    Ok(format!("{} {}", boot.trim(), space.display()))
}

pub(super) fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_are_different_files_of_one_directory() {
        let names = ["a", "A", "a.b", "..", ".", "a/b", "a%2Fb", "%", "ä", "a b", "a_b"];
        let files: std::collections::HashSet<String> = names.iter().map(|name| file_name(name)).collect();
        assert_eq!(files.len(), names.len());
        assert!(files.iter().all(|file| !file.contains('/') && !file.starts_with('.')), "{files:?}");
    }
}
