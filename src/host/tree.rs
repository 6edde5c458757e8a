//! What a process started, and how nothing of it is left.
//!
//! The agent and each guard are *child subreapers*: a descendant whose parent ends becomes their child, however often
//! it forked and whatever session it made its own. So the tree of a process is always found from above:
//!
//! ```text
//! agent ── main ── descendants …          by descent
//!   └───── orphan ── descendants …        adopted: by its session, or by the tag in its environment
//!
//! agent ── guard ── main ── …             to a guard, all of its descendants are the tree
//!            └───── orphan ── …
//! ```
//!
//! # Invariants
//!
//! - Orphans are adopted by the *main thread* of the subreaper, while main processes are children of the threads
//!   that spawned them. `waitid(__WNOTHREAD)` on the main thread therefore sees orphans only: it reaps them without
//!   ever taking an exit status that somebody waits for, and one call tells that there are none.
//! - A signal goes to a process that was looked at *after* a pidfd held it: never to a later one of its number.
//! - Each is stopped before its children are listed, and killed after: a tree that forks cannot outrun it for long.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use super::sys::{self, Waited, Whom};
use crate::model::event::Reach;

/// The variable that marks a process of an agent and all it starts: `RUN-PROCESS`, where RUN is drawn by each agent
/// anew. An agent that is itself such a process puts its own tag behind the outer one: `RUN-PROCESS/RUN-PROCESS`.
pub(super) const TAG: &str = "CIRCUS_PROCESS";

/// Whose tree is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All descendants of this process: a guard has no others.
    Descendants,
    /// The process that was started as `pid`, and what carries its session, its group or its tag.
    Process { pid: Option<u32>, main: Main, tag: &'a str },
}

/// Whether a main process is still there to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Main {
    /// It is our child and not yet reaped.
    Running,
    /// It is reaped, and its number may be another's.
    Reaped,
}

/// What one look at a tree found alive.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Members; they have been sent SIGKILL.
    pub(super) members: Vec<Stat>,
    /// Children of ours that belong to others.
    pub(super) foreign: usize,
    /// Orphans caught in the middle of `execve`, when they have no environment to be known by.
    pub(super) unclear: usize,
    /// Processes that ended between being listed and being looked at. Each may have left a child that was not there
    /// to be listed, so a look that met one proves nothing.
    pub(super) ended: usize,
}

impl Left {
    /// Whether nobody was there.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Members that not even SIGKILL ends before the system call they are in does.
    pub(super) fn stuck(&self) -> Vec<u32> {
        self.members.iter().filter(|stat| stat.state == b'D').map(|stat| stat.pid).collect()
    }
}

/// Reaps the orphans that have ended, and says whether there are others. Must be called on the main thread.
pub(super) fn reap_orphans() -> bool {
    loop {
        match sys::wait(Whom::OfThisThread) {
            Ok(Waited::Ended { .. }) => {}
            Ok(Waited::Alive) => return true,
            Ok(Waited::Nobody) => return false,
            // Nothing is known, so there may be some.
            Err(_) => return true,
        }
    }
}

/// Sends SIGKILL to all that is found of a tree in one look.
pub(super) fn strike(scope: Scope<'_>) -> Left {
    let me = std::process::id();
    let mut left = Left::default();
    let mut found = Vec::new();
    let mut ahead: Vec<(u32, u32)> = children(me).into_iter().map(|pid| (pid, me)).collect();
    if let Scope::Process { pid: Some(pid), main: Main::Running, .. } = scope {
        ahead.push((pid, me));
    }
    while let Some((pid, parent)) = ahead.pop() {
        let held = Member::hold(pid).filter(|member| member.stat.parent == parent && !member.stat.is_dead());
        let Some(member) = held else {
            left.ended += 1;
            continue;
        };
        match if parent == me { kinship(&member.stat, scope) } else { Kin::Ours } {
            Kin::Foreign => {
                left.foreign += 1;
                continue;
            }
            Kin::Ended => {
                left.ended += 1;
                continue;
            }
            Kin::Unclear => {
                left.unclear += 1;
                continue;
            }
            Kin::Ours => {}
        }
        member.signal(libc::SIGSTOP);
        ahead.extend(children(pid).into_iter().map(|child| (child, pid)));
        found.push(member);
    }
    for member in &found {
        member.signal(libc::SIGKILL);
    }
    left.members = found.into_iter().map(|member| member.stat).collect();
    left
}

/// Sends a signal to those that `reach` means below the main process `pid`, the deepest first: to signal the main
/// process comes after, or its end would take from them the parent by which they are found.
///
/// `pid` must be a child of ours that is not reaped yet: its number cannot be another's then.
pub(super) fn signal_below(pid: u32, signal: i32, reach: Reach) {
    let below = match reach {
        Reach::Main => Vec::new(),
        Reach::Children | Reach::MainAndChildren => Member::hold_children(pid),
        Reach::Tree => Member::hold_descendants(pid),
        Reach::Child(child) => Member::hold_child(child, pid).into_iter().collect(),
    };
    below.iter().rev().for_each(|member| member.signal(signal));
}

/// Stops the main process `pid` and all below it (SIGSTOP); whether nothing of them runs any more. A system call that is
/// under way is finished first, and a child may be made by it: so it is asked again until it is true.
///
/// `pid` must be a child of ours that is not reaped yet.
pub(super) fn freeze(pid: u32) -> bool {
    let mut still = true;
    let mut ahead: Vec<Member> = Member::hold(pid).into_iter().collect();
    while let Some(member) = ahead.pop() {
        let pid = member.stat.pid;
        member.signal(libc::SIGSTOP);
        // Only when it rests there can be no children that are not listed.
        still &= rests(pid);
        ahead.extend(Member::hold_children(pid));
    }
    still
}

/// Whether no thread of a process runs: each is stopped, or dead.
fn rests(pid: u32) -> bool {
    let tasks = format!("/proc/{pid}/task");
    let state = |thread: String| fs::read(format!("{tasks}/{thread}/stat")).ok().and_then(|bytes| Stat::parse(&bytes));
    names(Path::new(&tasks)).filter_map(state).all(|stat| matches!(stat.state, b'T' | b't' | b'Z' | b'X'))
}

/// Whether the main process is among those that `reach` means.
pub(super) fn reaches_main(reach: Reach) -> bool {
    match reach {
        Reach::Main | Reach::MainAndChildren | Reach::Tree => true,
        Reach::Children | Reach::Child(_) => false,
    }
}

/// Pauses between looks at a tree that is being killed: short, since a killed process is gone within a millisecond or
/// two, and growing, since one that is not may take for ever.
#[derive(Debug, Default)]
pub(super) struct Patience {
    looks: usize,
}

impl Patience {
    /// The pause before the next look.
    pub(super) fn pause(&mut self) -> Duration {
        const PAUSES: [u64; 6] = [1, 2, 5, 10, 20, 50];
        let pause = PAUSES[self.looks.min(PAUSES.len() - 1)];
        self.looks += 1;
        Duration::from_millis(pause)
    }

    /// Whether what was found is all gone, though orphans are known to be there. An orphan that stays unclear has no
    /// environment at all, rather than none yet, and is not ours. A look that met no orphan at all has missed one: the
    /// kernel's list of children skips some while others end.
    pub(super) fn accepts(&self, left: &Left) -> bool {
        let explained = left.foreign > 0 || left.unclear > 0;
        left.members.is_empty() && left.ended == 0 && explained && (left.unclear == 0 || self.looks > 6)
    }

    /// Whether this takes so long (a second) that the operator should know; true once.
    pub(super) fn is_exhausted(&self) -> bool {
        self.looks == 24
    }
}

/// Whether a child of ours belongs to the tree.
enum Kin {
    Ours,
    Foreign,
    Unclear,
    Ended,
}

fn kinship(stat: &Stat, scope: Scope<'_>) -> Kin {
    let Scope::Process { pid, tag, .. } = scope else { return Kin::Ours };
    // These numbers are not given to others while one process carries them.
    if pid.is_some_and(|pid| stat.session == pid || stat.group == pid) {
        return Kin::Ours;
    }
    let environ = fs::read(format!("/proc/{}/environ", stat.pid));
    if environ.as_ref().is_ok_and(|environ| is_tagged(environ, tag)) {
        return Kin::Ours;
    }
    // One that is ending shows less and less of it, and may just have left a child.
    let lives = Stat::read(stat.pid).is_some_and(|now| !now.is_dead() && !now.exiting);
    match environ {
        _ if !lives => Kin::Ended,
        Ok(environ) if environ.is_empty() => Kin::Unclear,
        Ok(_) | Err(_) => Kin::Foreign,
    }
}

/// Whether an environment, as /proc shows it, carries `tag` or one behind it.
fn is_tagged(environ: &[u8], tag: &str) -> bool {
    let value = environ
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(TAG.as_bytes())?.strip_prefix(b"="))
        .and_then(|value| value.strip_prefix(tag.as_bytes()));
    matches!(value, Some([] | [b'/', ..]))
}

/// A process, held so that its number cannot come to mean another.
struct Member {
    /// Nothing where we are out of descriptors: a small doubt about whom we hit is then better than to miss it.
    pidfd: Option<OwnedFd>,
    stat: Stat,
}

impl Member {
    fn hold(pid: u32) -> Option<Member> {
        let pidfd = match sys::pidfd_open(pid) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return None,
            Err(_) => None,
        };
        // Read after it is held: if the number has changed hands in between, the signal finds nobody.
        Some(Member { pidfd, stat: Stat::read(pid)? })
    }

    /// Holds a process if it is a child of `parent`, who has this number now. To signal the wrong one would be worse
    /// than none, unlike in a kill: so only what a pidfd holds counts.
    fn hold_child(pid: u32, parent: u32) -> Option<Member> {
        Member::hold(pid).filter(|member| member.pidfd.is_some() && member.stat.parent == parent)
    }

    fn hold_children(parent: u32) -> Vec<Member> {
        children(parent).into_iter().filter_map(|pid| Member::hold_child(pid, parent)).collect()
    }

    /// All below `pid`, parents before their children.
    fn hold_descendants(pid: u32) -> Vec<Member> {
        let mut found = Member::hold_children(pid);
        let mut looked_at = 0;
        while let Some(parent) = found.get(looked_at) {
            let children = Member::hold_children(parent.stat.pid);
            // One that is still there has had its number all the while, so these are its children and no other's.
            if parent.is_there() {
                found.extend(children);
            }
            looked_at += 1;
        }
        found
    }

    /// Whether it is not reaped yet.
    fn is_there(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| match sys::pidfd_signal(pidfd.as_fd(), 0) {
            Ok(()) => true,
            Err(error) => error.raw_os_error() != Some(libc::ESRCH),
        })
    }

    fn signal(&self, signal: i32) {
        let _ = match &self.pidfd {
            Some(pidfd) => sys::pidfd_signal(pidfd.as_fd(), signal),
            None => sys::kill(self.stat.pid, signal),
        };
    }
}

/// The children of a process; of ourselves, those of the main thread.
fn children(pid: u32) -> Vec<u32> {
    static LISTED: OnceLock<bool> = OnceLock::new();
    let me = std::process::id();
    let list = |pid: u32, thread: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"));
    // Kernels without CONFIG_PROC_CHILDREN leave no way but to look at every process there is.
    if !LISTED.get_or_init(|| list(me, &me.to_string()).is_ok()) {
        return every_process().filter(|stat| stat.parent == pid).map(|stat| stat.pid).collect();
    }
    let threads = if pid == me { vec![pid.to_string()] } else { names(format!("/proc/{pid}/task").as_ref()).collect() };
    let lists: Vec<String> = threads.iter().filter_map(|thread| list(pid, thread).ok()).collect();
    lists.iter().flat_map(|list| list.split_ascii_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// Every process of this machine, by pid.
pub(super) fn every_process() -> impl Iterator<Item = Stat> {
    names(Path::new("/proc")).filter_map(|name| name.parse().ok()).filter_map(Stat::read)
}

fn names(dir: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// A process as `/proc/PID/stat` has it (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) state: u8,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    /// Whether it is on its way out, its memory perhaps gone already.
    pub(super) exiting: bool,
    /// Processor time in ticks, user and system.
    pub(super) ticks: u64,
    pub(super) nice: i64,
    pub(super) threads: u32,
    /// When it started, in ticks since boot.
    pub(super) started: u64,
    /// Resident pages.
    pub(super) resident: u64,
}

/// The kernel's flag of a task in `do_exit` (include/linux/sched.h).
const PF_EXITING: u64 = 4;

impl Stat {
    /// Reads what the kernel has of `pid`; nothing where there is no such process.
    pub(super) fn read(pid: u32) -> Option<Stat> {
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Stat> {
        // The command may hold anything, blanks and parentheses included: it ends with the last parenthesis.
        let open = bytes.iter().position(|&byte| byte == b'(')?;
        let close = bytes.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
        let command = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The manual counts from 1, and the state is its field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |at: usize| field(at)?.parse::<u64>().ok();
        // Kernel threads and processes of other namespaces have a session of -1 or 0.
        let id = |at: usize| Some(field(at)?.parse::<u32>().unwrap_or(0));
        Some(Stat {
            pid,
            command,
            state: *field(3)?.as_bytes().first()?,
            parent: id(4)?,
            group: id(5)?,
            session: id(6)?,
            exiting: number(9)? & PF_EXITING != 0,
            ticks: number(14)? + number(15)?,
            nice: field(19)?.parse().ok()?,
            threads: id(20)?,
            started: number(22)?,
            resident: number(24)?,
        })
    }

    /// Whether it has ended and only waits to be reaped. A leading thread that ended before the others looks the
    /// same, but those go on.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"77 (a) b (c) S 5 77 70 0 -1 4194560 9 0 0 0 30 12 0 0 20 -5 3 0 4711 1000 200 1844";

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat = Stat::parse(LINE).unwrap();
        assert_eq!(stat.command, "a) b (c");
        assert_eq!((stat.pid, stat.state, stat.parent, stat.group, stat.session), (77, b'S', 5, 77, 70));
        assert_eq!((stat.ticks, stat.nice, stat.threads, stat.started), (42, -5, 3, 4711));
    }

    #[test]
    fn a_line_cut_anywhere_is_nothing_or_a_process_but_no_panic() {
        for end in 0..LINE.len() {
            let _ = Stat::parse(&LINE[..end]);
        }
    }

    #[test]
    fn a_leader_that_ended_before_its_threads_is_alive() {
        let mut stat = Stat { state: b'Z', ..Stat::parse(LINE).unwrap() };
        assert!(!stat.is_dead());
        stat.threads = 1;
        assert!(stat.is_dead());
    }

    #[test]
    fn a_tag_is_not_taken_for_a_longer_one() {
        assert!(is_tagged(b"A=1\0CIRCUS_PROCESS=ab-1\0B=2\0", "ab-1"));
        assert!(is_tagged(b"CIRCUS_PROCESS=ab-1/cd-9\0", "ab-1"));
        assert!(!is_tagged(b"CIRCUS_PROCESS=ab-12\0", "ab-1"));
        assert!(!is_tagged(b"XCIRCUS_PROCESS=ab-1\0", "ab-1"));
        assert!(!is_tagged(b"", "ab-1"));
    }
}
