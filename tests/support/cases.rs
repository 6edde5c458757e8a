//! Cases that each get a process of their own.
//!
//! A supervisor owns its whole process: it adopts orphans, reaps them on its main thread and raises limits. So the
//! program that holds the cases runs itself for each of them, and checks after each that nothing is left behind.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.
#![allow(dead_code)] // Each of which uses a part of it.

use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A name, which is the sentence it proves, and what proves it.
pub type Case = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// A list of [`Case`]s from the names of async functions.
macro_rules! cases {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), || Box::pin($name()))),*] };
}
pub(crate) use cases;

/// How long anything may take before it counts as never happening.
pub const NEVER: Duration = Duration::from_secs(20);

/// Says that the arguments are not a filter but a part to play.
pub const ROLE: &str = "--role";

/// Runs the cases as cargo and nextest ask for them; a role beside `case` is `play_role`'s.
pub fn main(cases: &'static [Case], play_role: impl FnOnce(&str) -> ExitCode) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [ROLE, "case", name] => {
            let (_, case) = cases.iter().find(|(known, _)| *known == name).expect("a case of that name");
            play(async { tokio::time::timeout(NEVER * 3, case()).await.expect("it never ended") });
            ExitCode::SUCCESS
        }
        [ROLE, role] => play_role(role),
        // No case is an ignored one.
        _ if args.iter().any(|arg| arg == "--ignored") => ExitCode::SUCCESS,
        _ if args.iter().any(|arg| arg == "--list") => {
            cases.iter().for_each(|(name, _)| say(&format!("{name}: test\n")));
            ExitCode::SUCCESS
        }
        _ => run(cases, &args),
    }
}

/// On the main thread, as the agent does.
pub fn play<T>(part: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(part)
}

/// Runs the cases whose names hold one of the words given, each in a process of its own.
fn run(cases: &'static [Case], args: &[String]) -> ExitCode {
    let words: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let talkative = args.iter().any(|arg| arg == "--nocapture");
    let exact = args.iter().any(|arg| arg == "--exact");
    let meant = |name: &str| words.iter().any(|word| if exact { name == *word } else { name.contains(*word) });
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let dir = TempDir::new().unwrap();
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, _) in cases.iter().filter(|(name, _)| words.is_empty() || meant(name)) {
        let said = dir.path().join(name);
        let mut case = Command::new(std::env::current_exe().unwrap());
        // Into a file: what is left behind would keep a pipe open.
        let output = || File::options().create(true).append(true).open(&said).unwrap();
        let case = case.args([ROLE, "case", name]).stdin(Stdio::null()).stdout(output()).stderr(output());
        let start = Instant::now();
        let done = case.status().unwrap();
        let left = left_behind();
        let well = done.success() && left.is_empty();
        say(&format!("test {name} ... {} ({:?})\n", if well { "ok" } else { "FAILED" }, start.elapsed()));
        if !well || talkative {
            say(&fs::read_to_string(&said).unwrap_or_default());
        }
        if !left.is_empty() {
            say(&format!("left behind: {left:?}\n"));
        }
        if well {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    say(&format!("\n{passed} passed, {} failed\n{failed:?}\n", failed.len()));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the last case started and did not end: it is ours by now. Ended here, so that the next case is alone.
fn left_behind() -> Vec<String> {
    let mut left = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return left,
            Ok(WaitStatus::StillAlive) => {
                for pid in children_of(std::process::id()) {
                    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    left.push(line.replace('\0', " ").chars().take(100).collect());
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                }
                let _ = waitpid(None, None);
            }
            _ => {}
        }
    }
}

/// A field of `/proc/PID/stat`, by its number in the manual, from 3 on.
pub fn stat(pid: u32, field: usize) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    line.rsplit_once(')')?.1.split_whitespace().nth(field - 3).map(String::from)
}

/// The children of a process, of all its threads.
pub fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// Whether there is such a process, and it has not ended.
pub fn exists(pid: u32) -> bool {
    stat(pid, 3).is_some_and(|state| state != "Z")
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < NEVER, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn say(text: &str) {
    use std::io::stdout;
    stdout().write_all(text.as_bytes()).unwrap();
}
