//! Cgroups of processes: a whole tree is ended by one write.
//!
//! ```text
//! the agent's own cgroup          the agent itself, its guards, hooks and checks
//!   └── circus-NODE-INSTANCE      the agent's home: locked for as long as the agent lives
//!         ├── beat-RUN-1          a leaf: a process and all that it starts
//!         └── web-RUN-2
//! ```
//!
//! A leaf that has become empty is the next process's of its watcher: a restart in one that is new takes up to a
//! millisecond longer than in one that was used just now. But not where it has ever been killed: Linux kills all that is
//! started in such a cgroup later, since it compares the count of kills with that of the parent's cgroup
//! (`cgroup_css_set_fork` of 6.18). Where somebody else has killed it, that is seen at the next start, which is then made
//! in another.
//!
//! # Invariants
//!
//! - A process is born in its leaf, and so is all that it starts: nothing has to be found before it can be killed, and
//!   who forks while it is killed is killed with what it forked (cgroups(7), `cgroup.kill`).
//! - A leaf counts as empty when the kernel says so: its `cgroup.events` says `populated 0`, or it is gone, which no other
//!   can be. Whoever waits for that is woken, and asks no clock.
//! - Only what is below a home that this agent has locked is ever killed. Homes that nobody has locked are removed where
//!   they are empty, which the kernel decides, and otherwise left alone.
//! - No more is needed than the right to make directories: no controller is enabled, so the agent may stay where it is.
//! - It comes on top of looking ([`tree`](super::tree)), which alone finds those who were moved out of their leaf.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::future::pending;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::select;
use tokio::time::sleep;

use super::spawn::{Child, EXEC, INTO_CGROUP, Plan, spawn};
use super::sys::{self, error_text};
use super::tree::{Patience, Stat};
use crate::model::event::SpawnFailure;

/// What the names of all homes begin with.
const PREFIX: &str = "circus-";

/// How often a leaf that does not become empty is killed again: somebody may have moved a process into it.
const AGAIN: Duration = Duration::from_secs(1);

/// How many empty leaves are kept.
const MOST_SPARE: usize = 64;

/// How long the start of an agent waits for what an earlier one left behind.
const EVICTION: Duration = Duration::from_secs(2);

/// How long it waits for a home that is locked: those who tidy up have it for a moment.
const CLAIM: Duration = Duration::from_secs(1);

/// Where an agent has the leaves of its processes.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    /// What tells this run's leaves from those of an earlier one.
    run: String,
    /// How many have been made.
    made: AtomicU64,
    /// Those that are empty.
    spare: Mutex<Vec<Arc<Place>>>,
    /// Whether it was told that a leaf could not be made.
    complained: AtomicBool,
    /// Open, and therefore locked.
    _lock: File,
}

impl Home {
    /// Makes the home called `name` in the agent's own cgroup, and kills what an earlier agent of that name left in it;
    /// or says why there can be none.
    pub(super) fn open(name: &str, run: &str) -> Result<Arc<Home>, String> {
        let read = |path: &str| fs::read(path).map_err(|error| named(Path::new(path), &error));
        let (mounts, membership) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
        let own = own_cgroup(&mounts, &membership).ok_or("there is no cgroup2 file system that shows the agent")?;
        tidy_up(&own);
        let path = own.join(format!("{PREFIX}{}", as_file_name(name)));
        let lock = claim(&path)?;
        evict(&path);
        let run = run.rsplit('/').next().unwrap_or_default().to_owned();
        let home = Home {
            path,
            run,
            made: AtomicU64::new(0),
            spare: Mutex::default(),
            complained: AtomicBool::new(false),
            _lock: lock,
        };
        let home = Arc::new(home);
        home.prove()?;
        Ok(home)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a program in a leaf for this watcher, or without one where none can be made, which is told once.
    pub(super) fn spawn(
        self: &Arc<Self>,
        watcher: &str,
        plan: &Plan,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Child, Option<Leaf>), SpawnFailure> {
        while let Some(leaf) = self.spare_leaf(watcher) {
            match spawn(plan, fds, Some(leaf.dir())) {
                // Somebody has killed it since it was put aside,
                Ok(child) if !child.lived => {
                    child.reap();
                    leaf.spend();
                }
                // or removed it.
                Err(failed) if failed.stage == INTO_CGROUP => leaf.spend(),
                started => return started.map(|child| (child, Some(leaf))),
            }
        }
        let leaf = self.new_leaf(watcher);
        let child = spawn(plan, fds, leaf.as_ref().map(Leaf::dir))?;
        Ok((child, leaf))
    }

    /// A leaf in which nothing was ever started; nothing where it cannot be made, which is told once.
    pub(super) fn new_leaf(self: &Arc<Self>, watcher: &str) -> Option<Leaf> {
        let told = |why: String| {
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::warn!("{watcher}: its tree will be ended by looking for it, as it has no cgroup: {why}");
            }
        };
        self.make(watcher).map_err(told).ok().map(|place| self.leaf(place))
    }

    fn spare_leaf(self: &Arc<Self>, watcher: &str) -> Option<Leaf> {
        let mut spare = self.spare();
        let at = spare.iter().position(|place| place.watcher == watcher)?;
        Some(self.leaf(spare.swap_remove(at)))
    }

    fn leaf(self: &Arc<Self>, place: Arc<Place>) -> Leaf {
        Leaf { place, home: Arc::clone(self), spent: AtomicBool::new(false) }
    }

    fn make(&self, watcher: &str) -> Result<Arc<Place>, String> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(as_file_name(&format!("{watcher}-{}{number}", self.run)));
        let made = fs::create_dir(&path).and_then(|()| File::open(&path));
        let dir = made.map_err(|error| named(&path, &error))?;
        Ok(Arc::new(Place { watcher: watcher.to_owned(), path, dir }))
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out whether a process can be started in a leaf, and killed with it.
    fn prove(&self) -> Result<(), String> {
        let trial = self.make("trial")?;
        if !trial.path.join("cgroup.kill").exists() {
            return Err("the kernel has no cgroup.kill (it came with Linux 5.14)".into());
        }
        // A program that is nowhere: only the way there is tried.
        let proven = match spawn(&Plan::nowhere(), &[], Some(trial.dir.as_fd())) {
            Err(failed) if failed.stage.starts_with(EXEC) => Ok(()),
            Err(failed) => Err(format!("{}: {}", failed.stage, failed.error)),
            // It did not live to find nothing.
            Ok(child) => {
                child.reap();
                Err("the agent's own cgroup was killed once, and Linux kills what is started below it".into())
            }
        };
        let _ = remove(&trial.path);
        proven
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Where processes are left, the next agent of this name finds them.
        let _ = remove(&self.path);
    }
}

/// The directory of a leaf.
#[derive(Debug)]
struct Place {
    watcher: String,
    path: PathBuf,
    dir: File,
}

impl Place {
    /// Whether nothing lives in it, or was made below it, and nobody has left it frozen.
    fn is_as_new(&self) -> bool {
        const OF_AN_EMPTY_DIRECTORY: u64 = 2;
        let lone = self.dir.metadata().is_ok_and(|dir| dir.nlink() == OF_AN_EMPTY_DIRECTORY);
        lone && Events::of(&self.path).is_ok_and(|events| events.say("populated 0") && events.say("frozen 0"))
    }
}

/// The cgroup of one process and all that it starts. Dropped, it is another one's if it is empty.
#[derive(Debug)]
pub(super) struct Leaf {
    place: Arc<Place>,
    home: Arc<Home>,
    /// Whether it is, or may have been, killed.
    spent: AtomicBool,
}

impl Leaf {
    /// What stands for it where a process is started in it.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.place.dir.as_fd()
    }

    /// Sends SIGKILL to all that is in it, and to all that is being forked there.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.spend();
        kill(self.dir())
    }

    /// Says that somebody else kills it, or seems to have.
    pub(super) fn spend(&self) {
        self.spent.store(true, Ordering::Relaxed);
    }

    /// Kills what is in it until nothing is. `name` is for the operator, who is told of processes that do not die.
    pub(super) async fn clear(&self, name: &str) -> bool {
        // The common end: nothing was left.
        if is_empty(&self.place.path) {
            return true;
        }
        let events = Events::of(&self.place.path).ok();
        let watched = events.and_then(|events| sys::watch_for(Interest::PRIORITY, events).ok());
        let mut patience = Patience::default();
        let mut told = false;
        loop {
            // Where it fails, looking is left.
            let _ = self.kill();
            select! {
                () = emptied(watched.as_ref()) => return false,
                // Without a descriptor to wait on there is no way but to ask again and again.
                () = sleep(if watched.is_some() { AGAIN } else { patience.pause() }) => {}
            }
            if is_empty(&self.place.path) {
                return false;
            }
            if !told && (watched.is_some() || patience.is_exhausted()) {
                told = true;
                warn_of_stuck(name, &stuck(&self.place.path));
            }
        }
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let usable = !self.spent.load(Ordering::Relaxed) && self.place.is_as_new();
        let mut spare = self.home.spare();
        if usable && spare.len() < MOST_SPARE {
            spare.push(Arc::clone(&self.place));
        } else {
            drop(spare);
            let _ = remove(&self.place.path);
        }
    }
}

/// Sends SIGKILL to all that is in the cgroup whose directory is `dir`, and to all that is being forked there.
pub(super) fn kill(dir: BorrowedFd<'_>) -> io::Result<()> {
    kill_at(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())))
}

/// Tells the operator of processes that not even SIGKILL ends.
pub(super) fn warn_of_stuck(name: &str, pids: &[u32]) {
    match pids {
        [] => tracing::warn!("{name}: its processes take long to die; still killing them"),
        pids => {
            tracing::warn!("{name}: processes {pids:?} wait for a device (state D) and cannot be killed until then");
        }
    }
}

fn kill_at(cgroup: &Path) -> io::Result<()> {
    File::options().write(true).open(cgroup.join("cgroup.kill"))?.write_all(b"1")
}

/// Waits until the cgroup is empty; for ever where there is nothing to wait on. Dropping the wait loses nothing.
async fn emptied(watched: Option<&AsyncFd<Events>>) {
    let Some(watched) = watched else { return pending().await };
    loop {
        // Asked after the descriptor is watched: what happens from here on wakes us.
        if watched.get_ref().say_empty() {
            return;
        }
        let Ok(mut ready) = watched.ready(Interest::PRIORITY).await else { return pending().await };
        ready.clear_ready();
    }
}

/// The `cgroup.events` of a cgroup. Each change after the last look makes it ready with POLLPRI.
#[derive(Debug)]
struct Events(File);

impl Events {
    fn of(cgroup: &Path) -> io::Result<Events> {
        File::open(cgroup.join("cgroup.events")).map(Events)
    }

    /// Whether no process is left in the cgroup or below it. One that has ended and is not reaped does not count.
    fn say_empty(&self) -> bool {
        self.say("populated 0")
    }

    /// Whether this is a line of it. Of a cgroup that is gone all is said, as only an empty one can be removed.
    fn say(&self, state: &str) -> bool {
        match self.read() {
            Ok(text) => text.lines().any(|line| line == state),
            Err(error) => error.raw_os_error() == Some(libc::ENODEV),
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut text = [0; 256];
        let length = self.0.read_at(&mut text, 0)?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    }
}

impl From<Events> for OwnedFd {
    fn from(events: Events) -> OwnedFd {
        events.0.into()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Whether nothing is left in a cgroup, or of it. Where that cannot be known it is not so.
fn is_empty(cgroup: &Path) -> bool {
    match Events::of(cgroup) {
        Ok(events) => events.say_empty(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The processes of a cgroup that wait for a device.
fn stuck(cgroup: &Path) -> Vec<u32> {
    members(cgroup).into_iter().filter(|&pid| Stat::read(pid).is_some_and(|stat| stat.state == b'D')).collect()
}

fn members(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// Removes a cgroup and those that were made below it. The kernel refuses while anything lives in it.
fn remove(cgroup: &Path) -> io::Result<()> {
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            below(cgroup).try_for_each(|child| remove(&child))?;
            fs::remove_dir(cgroup)
        }
        removed => removed,
    }
}

/// The cgroups in a cgroup.
fn below(cgroup: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// Removes what agents that are no more have left behind empty. They may have had other names, or the last of their
/// state been deleted, so that none of their name comes after them.
fn tidy_up(own: &Path) {
    let is_home = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    for home in below(own).filter(is_home) {
        // Held until it is removed: an agent that is about to move in finds it locked, or gone.
        if let Ok(lock) = File::open(&home)
            && lock.try_lock().is_ok()
        {
            let _ = remove(&home);
        }
    }
}

/// Makes a home, or takes over the one there is, and locks it.
fn claim(home: &Path) -> Result<File, String> {
    let end = Instant::now() + CLAIM;
    loop {
        match fs::create_dir(home) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(home, &error)),
            _ => {}
        }
        let lock = match File::open(home) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|error| named(home, &error))?,
        };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(TryLockError::WouldBlock) => return Err(format!("{} is in use by another agent", home.display())),
            Err(TryLockError::Error(error)) => return Err(named(home, &error)),
            Ok(()) => {}
        }
        // It may have been removed before it was locked, and be another's by now.
        let same = |opened: &File| Ok::<_, io::Error>(opened.metadata()?.ino() == fs::metadata(home)?.ino());
        if same(&lock).unwrap_or(false) {
            return Ok(lock);
        }
    }
}

/// Kills what an agent that was killed has left in its leaves: what its main processes had started, and nobody guarded.
fn evict(home: &Path) {
    let leaves: Vec<PathBuf> = below(home).filter(|leaf| remove(leaf).is_err()).collect();
    for leaf in &leaves {
        let name = leaf.file_name().unwrap_or_default().to_string_lossy();
        tracing::warn!("killing processes {:?}, which an earlier run left behind in {name}", members(leaf));
        if let Err(error) = kill_at(leaf) {
            tracing::warn!("{}", named(leaf, &error));
        }
    }
    let end = Instant::now() + EVICTION;
    for leaf in &leaves {
        while !waits_until_empty(leaf, end.saturating_duration_since(Instant::now())) {
            if Instant::now() >= end {
                warn_of_stuck("left behind by an earlier run", &stuck(leaf));
                break;
            }
        }
        let _ = remove(leaf);
    }
}

/// Whether a cgroup is empty, or becomes so before something else happens to it.
fn waits_until_empty(cgroup: &Path, limit: Duration) -> bool {
    let Ok(events) = Events::of(cgroup) else { return is_empty(cgroup) };
    if events.say_empty() {
        return true;
    }
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut [PollFd::new(events.0.as_fd(), PollFlags::POLLPRI)], limit);
    events.say_empty()
}

/// Where this process's own cgroup is found, as /proc/self/mountinfo and /proc/self/cgroup have it. Of several mounts one
/// that can be written.
fn own_cgroup(mounts: &[u8], membership: &[u8]) -> Option<PathBuf> {
    // The others are hierarchies of the first version.
    let own = membership.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    let own = PathBuf::from(OsString::from_vec(own.to_vec()));
    let places = mounts.split(|&byte| byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let kind = fields.iter().position(|&field| field == b"-")? + 1;
        let ([_, _, _, root, point, options, ..], b"cgroup2") = (&fields[..], *fields.get(kind)?) else { return None };
        let below = own.strip_prefix(unescape(root)).ok()?;
        let writable = options.split(|&byte| byte == b',').any(|option| option == b"rw");
        // Joined to nothing, a path would get a slash at its end.
        let place = unescape(point);
        Some((writable, if below.as_os_str().is_empty() { place } else { place.join(below) }))
    });
    let places: Vec<(bool, PathBuf)> = places.collect();
    places.iter().find(|(writable, _)| *writable).or(places.first()).map(|(_, place)| place.clone())
}

/// Blanks and the like stand in mountinfo as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut text = Vec::new();
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        rest = match digits {
            Some(digits) => {
                text.push(digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                &after[3..]
            }
            None => {
                text.push(first);
                after
            }
        };
    }
    OsString::from_vec(text).into()
}

/// A name as a directory can have it. A long one loses its beginning, since what tells it from others is at its end.
fn as_file_name(name: &str) -> String {
    const MOST: usize = 120;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_@:".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    name[name.len().saturating_sub(MOST)..].to_owned()
}

fn named(path: &Path, error: &io::Error) -> String {
    let hint = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => " (systemd gives the right to it with Delegate=yes)",
        _ => "",
    };
    format!("{}: {}{hint}", path.display(), error_text(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw\n";

    fn found(mounts: &[u8], membership: &[u8]) -> Option<String> {
        own_cgroup(mounts, membership).map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_agents_own_cgroup_is_found_wherever_it_is_mounted() {
        let service = b"4:memory:/else\n0::/system.slice/circus-agent.service\n";
        let expected = "/sys/fs/cgroup/unified/system.slice/circus-agent.service";
        assert_eq!(found(HYBRID, service).as_deref(), Some(expected));
        assert_eq!(found(HYBRID, b"0::/\n").as_deref(), Some("/sys/fs/cgroup/unified"));
        // A container that sees its own part only, under a path with a blank; and one that sees less than itself.
        let part = b"41 31 0:38 /docker/ab /c\\040g rw - cgroup2 none rw\n";
        assert_eq!(found(part, b"0::/docker/ab/x\n").as_deref(), Some("/c g/x"));
        assert_eq!(found(part, b"0::/docker/abc\n"), None);
        assert_eq!(found(part, b"1:name=systemd:/\n"), None);
    }

    #[test]
    fn of_two_mounts_the_writable_one_is_taken() {
        let both = b"1 0 0:1 / /ro ro,nosuid - cgroup2 cgroup2 rw\n2 0 0:1 / /rw rw - cgroup2 cgroup2 rw\n";
        assert_eq!(found(both, b"0::/a\n").as_deref(), Some("/rw/a"));
        assert_eq!(found(&both[..45], b"0::/a\n").as_deref(), Some("/ro/a"));
    }

    #[test]
    fn any_name_becomes_one_directory_and_keeps_what_tells_it_from_others() {
        assert_eq!(as_file_name("../a b.ü-12"), "___a_b__-12");
        let long = as_file_name(&format!("{}-77", "w".repeat(300)));
        assert!(long.len() == 120 && long.ends_with("w-77"));
    }
}
