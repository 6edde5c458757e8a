//! From a [`Plan`] to a running program.
//!
//! The child is made by `clone(CLONE_VM | CLONE_VFORK)`: it borrows our memory until it executes its program, so a
//! spawn costs the same at any size of ours, where `fork` copies the page tables first. Where it is to be in a cgroup it
//! is born there (`clone3`, CLONE_INTO_CGROUP): to move a process into one costs up to 20 ms, in which the kernel waits for
//! all of its processors.
//!
//! # Invariants
//!
//! - Between `clone` and `execve` the child makes raw system calls only. It allocates nothing, takes no lock and
//!   calls no wrapper that would speak to our other threads (glibc's `setuid` does): the memory is ours.
//! - Whatever can be prepared is prepared before, so that a failure in the child is a failed system call and has a
//!   step and an errno. Only pids are not known before: the child writes them, digit by digit, into room that was left
//!   for them.
//! - The program gets the descriptors it is given, under the numbers 0, 1, 2, …, and no other. The rest are closed
//!   before `execve` rather than by it: a program on a hung file system would otherwise hold on to our sockets.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use serde::{Deserialize, Serialize};

use super::sys::{self, Waited, Whom};
use crate::model::event::{Exit, SpawnFailure, Whose};

/// Everything about a program that is about to run, looked up and ready for the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Program and arguments.
    pub(super) argv: Vec<CString>,
    /// The whole environment, each as `NAME=value`.
    pub(super) env: Vec<CString>,
    /// Those variables of it that hold a pid; none of them is in `env`.
    pub(super) pids: Vec<PidVariable>,
    /// Where the program may be, in the order of trying.
    pub(super) candidates: Vec<CString>,
    /// Resource limits, in the order of setting.
    pub(super) limits: Vec<Limit>,
    /// The file mode mask; nothing: ours.
    pub(super) umask: Option<u32>,
    /// Supplementary groups; nothing: ours.
    pub(super) groups: Option<Vec<u32>>,
    /// The group; nothing: ours.
    pub(super) gid: Option<u32>,
    /// The user; nothing: ours.
    pub(super) uid: Option<u32>,
    /// The user as the operator wrote it, for messages.
    pub(super) user: String,
    /// The working directory; nothing: ours.
    pub(super) dir: Option<CString>,
    /// The signal the child gets when the thread that spawned it ends; 0: none.
    pub(super) death_signal: i32,
}

/// A variable whose value is a pid that nobody knows before the child is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PidVariable {
    /// As `NAME=`.
    pub(super) name: CString,
    #[serde(with = "WhoseFrame")]
    pub(super) whose: Whose,
}

/// [`Whose`] as a guard is told it.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Whose")]
enum WhoseFrame {
    Own,
    Parent,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limit {
    /// Its name, for messages.
    pub(super) name: String,
    /// The number the kernel knows it by.
    pub(super) resource: u32,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// A child of ours, not yet reaped.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: u32,
    /// Stands for this very child, whatever becomes of its number.
    pub(super) pidfd: OwnedFd,
    /// Whether it has lived at all. In a cgroup that was once killed it does not.
    pub(super) lived: bool,
}

impl Child {
    /// Sends it a signal. One that has ended needs none.
    pub(super) fn signal(&self, signal: i32) {
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), signal);
    }

    /// Reaps one that has nothing left to do but end.
    pub(super) fn reap(&self) {
        while self.try_reap().is_none() {
            std::thread::yield_now();
        }
    }

    /// How it ended, reaping it; nothing while it runs.
    pub(super) fn try_reap(&self) -> Option<Exit> {
        match sys::wait(Whom::Child(self.pidfd.as_fd())) {
            Ok(Waited::Ended { exit, .. }) => Some(exit),
            Ok(Waited::Alive) => None,
            Ok(Waited::Nobody) | Err(_) => Some(Exit::Lost),
        }
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl From<Child> for OwnedFd {
    fn from(child: Child) -> OwnedFd {
        child.pidfd
    }
}

/// What the stages begin with that have come as far as executing the program.
pub(super) const EXEC: &str = "exec(";

/// The stage of a child that could not be made in the cgroup it was to be in.
pub(super) const INTO_CGROUP: &str = "clone into a cgroup";

/// A failure of `stage`, which is also told what it was given.
pub(super) fn failure(stage: impl Into<String>, error: &io::Error) -> SpawnFailure {
    SpawnFailure { stage: stage.into(), error: sys::error_text(error) }
}

/// Starts the program, with `fds[0]` as its descriptor 0, `fds[1]` as 1, and so on; in the cgroup whose directory is
/// `cgroup`, else in our own. Returns once the program runs, or has been found not to; a program on a hung file system
/// can make that long.
pub(super) fn spawn(
    plan: &Plan,
    fds: &[BorrowedFd<'_>],
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child, SpawnFailure> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let pids: Vec<PidText> = plan.pids.iter().map(PidText::new).collect();
    let launch = Launchpad {
        plan,
        argv: pointers(plan.argv.iter().map(|word| word.as_ptr())),
        env: pointers(plan.env.iter().map(|text| text.as_ptr()).chain(pids.iter().map(PidText::as_ptr))),
        pids: &pids,
        moved: fds.iter().map(|_| Cell::new(-1)).collect(),
        fds,
        parent: nix::unistd::getpid().as_raw(),
        alive: Cell::new(false),
        fault: Cell::new(None),
    };
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    let mut pidfd: RawFd = -1;

    // A signal handled in the child would run our handler on our memory.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before)).expect("a valid mask");
    // SAFETY: the stack is unused memory of STACK bytes that outlives the child's use of it, because CLONE_VFORK
    // holds this thread until the child has executed or ended; its end is 16-byte aligned, as the type says. The
    // child reads `launch` in that time only. `pidfd` is where CLONE_PIDFD stores the descriptor.
    let cloned = unsafe {
        let stack = stack.spare_capacity_mut().as_mut_ptr_range();
        let launch = (&raw const launch).cast_mut().cast::<c_void>();
        match cgroup {
            None => libc::clone(child_main, stack.end.cast(), FLAGS | libc::SIGCHLD, launch, &raw mut pidfd),
            Some(cgroup) => clone_into(cgroup, stack.start.cast(), STACK, launch, &raw mut pidfd),
        }
    };
    let error = io::Error::last_os_error();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).expect("a valid mask");
    if cloned < 0 {
        return Err(failure(if cgroup.is_some() { INTO_CGROUP } else { "clone" }, &error));
    }
    // SAFETY: clone has made this descriptor for us; nobody else knows its number.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let child = Child { pid: cloned.unsigned_abs(), pidfd, lived: launch.alive.get() };
    match launch.fault.get() {
        None => Ok(child),
        Some((step, errno)) => {
            child.reap();
            Err(failure(plan.stage(step), &io::Error::from_raw_os_error(errno)))
        }
    }
}

/// How a child is made, in a cgroup or not.
const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;

/// As `libc::clone` with [`FLAGS`] and [`child_main`], but into a cgroup, for which libc has no function: the child must
/// come to life on a stack of its own, and only machine code can see to that. Gives -1 and sets errno where it fails.
///
/// # Safety
///
/// From `stack` on, `size` bytes must be unused, their end aligned to 16, until the child has executed or ended; `launch`
/// is what [`child_main`] asks for; `pidfd` can be written.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_into(
    cgroup: BorrowedFd<'_>,
    stack: *mut c_void,
    size: usize,
    launch: *mut c_void,
    pidfd: *mut RawFd,
) -> libc::pid_t {
    // The number is too large for the type that libc has for it.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    // SAFETY: plain numbers, for all of which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = FLAGS as u64 | CLONE_INTO_CGROUP;
    args.pidfd = pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack as u64;
    args.stack_size = size as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    let result: i64;
    // SAFETY: the kernel reads `args`, whose parts are the caller's promise. In the child it returns 0 with an empty stack,
    // all registers but these three kept; the child then calls `child_main` as the C ABI has it, and ends itself with
    // what comes back, without ever leaving these lines. In the parent, nothing has happened but a system call.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const args,
            in("rsi") size_of_val(&args),
            in("r12") child_main as extern "C" fn(*mut c_void) -> c_int,
            in("r13") launch,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    libc::pid_t::try_from(result).ok().filter(|pid| *pid > 0).unwrap_or_else(|| {
        nix::errno::Errno::from_raw(result.unsigned_abs() as i32).set();
        -1
    })
}

/// Not on this kind of processor yet.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone_into(_: BorrowedFd<'_>, _: *mut c_void, _: usize, _: *mut c_void, _: *mut RawFd) -> libc::pid_t {
    nix::errno::Errno::ENOSYS.set();
    -1
}

impl Plan {
    /// A program that is nowhere: all of the way to it is gone, and then found to lead nowhere.
    pub(super) fn nowhere() -> Plan {
        Plan {
            argv: Vec::new(),
            env: Vec::new(),
            pids: Vec::new(),
            candidates: Vec::new(),
            limits: Vec::new(),
            umask: None,
            groups: None,
            gid: None,
            uid: None,
            user: String::new(),
            dir: None,
            death_signal: libc::SIGKILL,
        }
    }

    /// What failed, with what it was given.
    fn stage(&self, step: Step) -> String {
        let text = |text: Option<&CString>| text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
        match step {
            Step::Session => "setsid".into(),
            Step::Descriptor(number) => format!("dup2({number})"),
            Step::Close => "close_range".into(),
            Step::Limit(index) => format!("rlimit({})", self.limits[index].name),
            Step::Groups => format!("setgroups({:?})", self.user),
            Step::Gid => format!("setgid({})", self.gid.unwrap_or_default()),
            Step::Uid => format!("setuid({:?})", self.user),
            Step::Dir => format!("chdir({:?})", text(self.dir.as_ref())),
            Step::Parent => "prctl(PR_SET_PDEATHSIG)".into(),
            // Looked for in many places it has the name it was looked for by; in one, that is the place.
            Step::Exec => format!(
                "{EXEC}{:?})",
                text(if let [only] = &self.candidates[..] { Some(only) } else { self.argv.first() })
            ),
        }
    }
}

/// What a child can fail at, in its order.
#[derive(Debug, Clone, Copy)]
enum Step {
    Session,
    Descriptor(usize),
    Close,
    Limit(usize),
    Groups,
    Gid,
    Uid,
    Dir,
    Parent,
    Exec,
}

/// Ample for a function that calls nothing but the kernel.
const STACK: usize = 64 * 1024;

/// What the child works from. It lives in the parent's frame, which waits.
struct Launchpad<'a> {
    plan: &'a Plan,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// Those of `env` that the child completes.
    pids: &'a [PidText],
    fds: Vec<RawFd>,
    /// Where each of `fds` has been put out of the way of the numbers to be filled.
    moved: Vec<Cell<RawFd>>,
    parent: libc::pid_t,
    /// Whether the child has lived to do anything.
    alive: Cell<bool>,
    /// Left behind by a child that could not go on.
    fault: Cell<Option<(Step, c_int)>>,
}

/// A list as `execve` wants it, ended by null.
fn pointers(texts: impl Iterator<Item = *const c_char>) -> Vec<*const c_char> {
    texts.chain([ptr::null()]).collect()
}

/// The text `NAME=PID`, whose pid is yet to be written.
struct PidText {
    /// The name, and after it nothing but zeroes: room for the digits, and the text's end.
    text: Vec<Cell<u8>>,
    name_length: usize,
    whose: Whose,
}

impl PidText {
    fn new(variable: &PidVariable) -> PidText {
        const ROOM: usize = u32::MAX.ilog10() as usize + 2;
        let name = variable.name.as_bytes();
        let text = name.iter().copied().chain([0; ROOM]).map(Cell::new).collect();
        PidText { text, name_length: name.len(), whose: variable.whose }
    }

    fn as_ptr(&self) -> *const c_char {
        self.text.as_ptr().cast()
    }

    /// Writes the pid; once only. The child calls this, so there is nothing in it that could panic.
    fn write(&self, pid: u32) {
        let digits = pid.checked_ilog10().unwrap_or_default() as usize + 1;
        let mut rest = pid;
        for digit in self.text.iter().skip(self.name_length).take(digits).rev() {
            digit.set(b'0' + (rest % 10) as u8);
            rest /= 10;
        }
    }
}

/// The child. It returns only when it could not become the program.
extern "C" fn child_main(launch: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a Launchpad that lives until this child has executed or ended.
    let launch = unsafe { &*launch.cast_const().cast::<Launchpad<'_>>() };
    launch.alive.set(true);
    let Err(fault) = launch.become_program();
    launch.fault.set(Some(fault));
    127
}

impl Launchpad<'_> {
    fn become_program(&self) -> Result<std::convert::Infallible, (Step, c_int)> {
        let plan = self.plan;
        reset_signals();
        // SAFETY: system calls on plain numbers, and on arrays and texts of `plan` and `self`, which outlive them. The
        // child's table of descriptors is its own copy. Ids and groups are set by raw calls, since libc's wrappers
        // would change them in all of our threads.
        unsafe {
            check(libc::setsid(), Step::Session)?;

            // First out of the way, then into place: so that no descriptor is overwritten before its turn.
            let count = self.fds.len() as RawFd;
            for (number, (&fd, moved)) in self.fds.iter().zip(&self.moved).enumerate() {
                let fd = check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, count), Step::Descriptor(number))?;
                moved.set(fd);
            }
            for (number, moved) in self.moved.iter().enumerate() {
                check(libc::dup2(moved.get(), number as RawFd), Step::Descriptor(number))?;
            }
            check_long(libc::syscall(libc::SYS_close_range, count, libc::c_uint::MAX, 0), Step::Close)?;

            for (index, limit) in plan.limits.iter().enumerate() {
                let value = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
                let old = ptr::null_mut::<libc::rlimit64>();
                let set = libc::syscall(libc::SYS_prlimit64, 0, limit.resource, &raw const value, old);
                check_long(set, Step::Limit(index))?;
            }
            if let Some(umask) = plan.umask {
                libc::umask(umask);
            }
            if let Some(groups) = &plan.groups {
                check_long(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), Step::Groups)?;
            }
            if let Some(gid) = plan.gid {
                check_long(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Step::Gid)?;
            }
            if let Some(uid) = plan.uid {
                check_long(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Step::Uid)?;
            }
            if let Some(dir) = &plan.dir {
                check(libc::chdir(dir.as_ptr()), Step::Dir)?;
            }

            // After the change of credentials, which clears it.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, plan.death_signal as libc::c_ulong), Step::Parent)?;
            if libc::getppid() != self.parent {
                // The parent died before the line above took effect, so nothing would end this child.
                return Err((Step::Parent, libc::ESRCH));
            }
            for text in self.pids {
                text.write(match text.whose {
                    Whose::Own => libc::getpid().unsigned_abs(),
                    Whose::Parent => self.parent.unsigned_abs(),
                });
            }
            Err((Step::Exec, self.execute(&plan.candidates)))
        }
    }

    /// Tries one place after the other, and answers with the most telling error: not "there is nothing" while
    /// somewhere there was a program that could not be run.
    ///
    /// # Safety
    ///
    /// `argv` and `env` must be lists that end with null, of texts that are alive.
    unsafe fn execute(&self, candidates: &[CString]) -> c_int {
        let mut telling = None;
        let mut last = libc::ENOENT;
        for program in candidates {
            // SAFETY: the caller's promise; `program` is a C string.
            unsafe { libc::execve(CStr::as_ptr(program), self.argv.as_ptr(), self.env.as_ptr()) };
            last = errno();
            if !matches!(last, libc::ENOENT | libc::ENOTDIR) {
                telling = telling.or(Some(last));
            }
        }
        telling.unwrap_or(last)
    }
}

/// Lets every signal do what it does by default. An ignored signal stays ignored over `execve` (std ignores
/// SIGPIPE), and so does a blocked one.
fn reset_signals() {
    // Larger than any architecture's `struct sigaction` of the kernel: SIG_DFL, no flags, empty mask. And an empty set.
    let default = [0_u64; 8];
    let none = 0_u64;
    let (no_old, size) = (ptr::null_mut::<c_void>(), size_of_val(&none));
    // SAFETY: the child's table of handlers is its own copy, and the kernel only reads from the two given. Raw calls,
    // because libc's refuse the signals it uses itself, which may have been inherited as ignored. SIGKILL and SIGSTOP
    // cannot be set, and need not be.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, size);
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, no_old, size);
    }
}

fn errno() -> c_int {
    nix::errno::Errno::last_raw()
}

fn check(result: c_int, step: Step) -> Result<c_int, (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(result) }
}

fn check_long(result: libc::c_long, step: Step) -> Result<(), (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_written_as_it_is_with_nothing_around_it() {
        for pid in [0, 1, 9, 10, 4_194_304, u32::MAX] {
            let text = PidText::new(&PidVariable { name: c"LISTEN_PID=".to_owned(), whose: Whose::Own });
            text.write(pid);
            let bytes: Vec<u8> = text.text.iter().map(Cell::get).collect();
            let text = CStr::from_bytes_until_nul(&bytes).unwrap().to_str().unwrap();
            assert_eq!(text, format!("LISTEN_PID={pid}"));
        }
    }
}
