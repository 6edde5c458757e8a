//! What it costs that each process has a cgroup of its own, and what is won: each figure beside the same of an agent that
//! looks for trees, since it sees no cgroups.

#![allow(clippy::print_stdout)]

mod support;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::null;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Agent, PATIENCE, child_command, gaps, median, now, print};

/// Each process is ended once: only the first end in a row is followed by a start at once.
const PROCESSES: usize = 100;
/// In turn, since a machine's neighbours change with the time.
const ROUNDS: usize = 3;
/// How many processes the tree has that is killed, and how often.
const TREE: usize = 200;
const KILLS: usize = 20;
/// How many are measured together, since one is less than what the kernel counts in.
const MEASURED: usize = 1000;

fn main() {
    support::be_the_child_if_called_so();
    support::print_load();
    let Some((mounted, own)) = cgroup() else {
        return println!("no cgroup can be made here: there is nothing to compare");
    };
    let dir = tempfile::tempdir().expect("a directory");
    restarts(dir.path(), &mounted);
    kills(dir.path(), &mounted);
    leaves(&own);
}

/// How long a child is missing that ended by itself, and one that was killed, whose cgroup may not be used again.
fn restarts(dir: &Path, mounted: &Path) {
    let bare: Vec<Duration> = (0..ROUNDS)
        .flat_map(|round| {
            let dir = dir.join(format!("bare{round}"));
            fs::create_dir(&dir).expect("a directory");
            support::gaps_without_agent(&dir, PROCESSES)
        })
        .collect();
    print("baseline: wait, fork and exec, no agent", &bare);
    for (how, signal) in [("ended by itself", Signal::SIGTERM), ("was killed", Signal::SIGKILL)] {
        let mut missing = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for (missing, way) in missing.iter_mut().zip([Way::Looking, Way::Cgroup]) {
                let name = format!("{way:?}{signal}{round}");
                let log = dir.join(format!("{name}.lives"));
                let ini = format!("[watcher:child]\ncmd = {}\nnumprocesses = {PROCESSES}\n", child_command(&log));
                let _agent = Agent::start_by(&mut way.agent(mounted), dir, &name, &ini);
                missing.extend(gaps(&log, PROCESSES, signal));
            }
        }
        let [looking, cgroup] = &missing;
        print(&format!("agent, without cgroups: a child that {how} is missing"), looking);
        print(&format!("agent, with cgroups: a child that {how} is missing"), cgroup);
        let times = |a, b| median(a).as_secs_f64() / median(b).as_secs_f64();
        println!(
            "{:<58} ratio of the medians {:.2}; to the baseline {:.2}",
            "",
            times(cgroup, looking),
            times(cgroup, &bare)
        );
    }
}

/// How long the kill of a large tree takes.
fn kills(dir: &Path, mounted: &Path) {
    let [looking, cgroup] = [Way::Looking, Way::Cgroup].map(|way| {
        let (name, count) = (format!("kill{way:?}"), dir.join(format!("{way:?}.count")));
        let script = format!("for i in $(seq {TREE}); do sleep 1000 & done; echo >>{}; wait", count.display());
        let file = dir.join(format!("{name}.sh"));
        fs::write(&file, script).expect("a script");
        let ini = format!("[watcher:tree]\ncmd = /bin/sh {}\nstop_signal = KILL\n", file.display());
        let agent = Agent::start_by(&mut way.agent(mounted), dir, &name, &ini);
        let mut times = Vec::new();
        for done in 1..=KILLS {
            let begun = now();
            while fs::read_to_string(&count).unwrap_or_default().len() < done {
                assert!(now() - begun < PATIENCE, "the tree does not grow");
                std::thread::sleep(Duration::from_millis(2));
            }
            let begun = now();
            agent.ask("stop", &json!({"name": "tree", "waiting": true}));
            times.push(now() - begun);
            agent.ask("start", &json!({"name": "tree"}));
        }
        times
    });
    print(&format!("without cgroups: kill of {TREE} processes, until all are gone"), &looking);
    print(&format!("with cgroups: kill of {TREE} processes, until all are gone"), &cgroup);
    println!("{:<58} ratio of the medians {:.2}", "", median(&cgroup).as_secs_f64() / median(&looking).as_secs_f64());
}

/// What a cgroup costs by itself, beside a process.
fn leaves(own: &Path) {
    let mut made = Vec::new();
    let home = own.join(format!("bench-{}", std::process::id()));
    fs::create_dir(&home).expect("a cgroup");
    let before = kernel_memory();
    for number in 0..MEASURED {
        let begun = now();
        fs::create_dir(home.join(number.to_string())).expect("a cgroup");
        made.push(now() - begun);
    }
    let of_cgroups = kernel_memory().saturating_sub(before);
    (0..MEASURED).for_each(|number| fs::remove_dir(home.join(number.to_string())).expect("an empty cgroup"));
    fs::remove_dir(home).expect("an empty cgroup");

    let mut started = Vec::new();
    let before = kernel_memory();
    let sleeping = (0..MEASURED).map(|_| {
        let begun = now();
        let child = Command::new("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
        started.push(now() - begun);
        child
    });
    let mut sleeping: Vec<_> = sleeping.collect();
    let of_processes = kernel_memory().saturating_sub(before);
    sleeping.iter_mut().for_each(|child| drop(child.kill()));
    sleeping.iter_mut().for_each(|child| drop(child.wait()));
    print("baseline: fork and exec of sleep", &started);
    print("making a cgroup", &made);
    println!("{:<58} ratio of the medians {:.2}", "", median(&made).as_secs_f64() / median(&started).as_secs_f64());
    let each = |bytes: u64| bytes as f64 / MEASURED as f64 / 1024.0;
    let (cgroup, process) = (each(of_cgroups), each(of_processes));
    println!("kernel memory of a process {process:.1} KB, of a cgroup {cgroup:.1} KB: ratio {:.2}", cgroup / process);
}

/// How an agent ends trees.
#[derive(Debug, Clone, Copy)]
enum Way {
    Cgroup,
    Looking,
}

impl Way {
    /// The agent's command: it looks where it has a view of its own of the file systems, in which cgroups are not mounted.
    fn agent(self, mounted: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_circus-agent"));
        let mounted = CString::new(mounted.as_os_str().as_bytes()).expect("a path");
        let hide = move || {
            // SAFETY: system calls on plain numbers and on texts that are there.
            let hidden = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null()) == 0
                    && libc::umount2(mounted.as_ptr(), libc::MNT_DETACH) == 0
            };
            if hidden { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        match self {
            Way::Cgroup => &mut command,
            // SAFETY: the closure makes system calls only.
            Way::Looking => unsafe { command.pre_exec(hide) },
        };
        command
    }
}

/// Where cgroup2 is mounted, and where this process's own cgroup is, if cgroups can be made there.
fn cgroup() -> Option<(PathBuf, PathBuf)> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounted: PathBuf = mounts.lines().find(|line| line.contains(" cgroup2 "))?.split(' ').nth(1)?.into();
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = mounted.join(groups.lines().find_map(|line| line.strip_prefix("0::/"))?);
    let trial = own.join(format!("bench-{}-trial", std::process::id()));
    fs::create_dir(&trial).ok()?;
    fs::remove_dir(trial).ok()?;
    Some((mounted, own))
}

/// What the kernel itself uses, in bytes.
fn kernel_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let of_kernel =
        |line: &&str| ["Slab:", "Percpu:", "KernelStack:", "PageTables:"].iter().any(|name| line.starts_with(name));
    let sizes =
        text.lines().filter(of_kernel).filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    sizes.sum::<u64>() * 1024
}
