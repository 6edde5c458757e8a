//! What processes use, read from /proc.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, Uid, User, sysconf};

use super::clock;
use super::tree::{self, Stat};
use crate::model::command::{ChildSample, Sample, Usage};
use crate::model::names::WatcherName;
use crate::model::time::Time;

/// Closer together than this, two measurements say more of the clock's ticks (10 ms) than of the process: the one
/// before is given again.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long what was measured of a process is remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// So many levels below a process are shown. A tree may be deeper than a stack, and the look at all processes takes
/// time, in which a number can pass to one further up: then there seems to be no end.
const DEEPEST: u32 = 50;

/// Measures processes, and remembers for each how much processor time it had used.
#[derive(Debug)]
pub(super) struct Sampler {
    ticks_per_second: f64,
    page: u64,
    /// The machine's memory in bytes; 0 where it cannot be read.
    memory: u64,
    users: HashMap<u32, String>,
    /// By pid and start: a pid alone may have become another's.
    before: HashMap<(u32, u64), Measured>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    at: Time,
    ticks: u64,
    percent: f64,
}

impl Default for Sampler {
    fn default() -> Sampler {
        let setting = |name| sysconf(name).ok().flatten().map(i64::unsigned_abs);
        Sampler {
            ticks_per_second: setting(SysconfVar::CLK_TCK).unwrap_or(100) as f64,
            page: setting(SysconfVar::PAGE_SIZE).unwrap_or(4096),
            memory: fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text)).unwrap_or(0),
            users: HashMap::new(),
            before: HashMap::new(),
        }
    }
}

impl Sampler {
    /// Measures each process and all below it; one that is not there any more has no usage.
    pub(super) fn sample(&mut self, processes: Vec<(WatcherName, u32, u32)>) -> Vec<Sample> {
        let now = clock::now();
        self.before.retain(|_, measured| now.since(measured.at) < MEMORY);
        let families = families();
        let measure = |(watcher, wid, pid)| Sample {
            watcher,
            wid,
            pid,
            usage: Stat::read(pid).and_then(|stat| self.usage(&stat, now)),
            children: self.children(pid, &families, DEEPEST, now),
            extra: None,
        };
        processes.into_iter().map(measure).collect()
    }

    fn children(&mut self, parent: u32, families: &Families, levels: u32, now: Time) -> Vec<ChildSample> {
        let children = families.get(&parent).filter(|_| levels > 0).into_iter().flatten();
        let measure = |stat: &Stat| {
            let usage = self.usage(stat, now)?;
            Some(ChildSample { pid: stat.pid, usage, children: self.children(stat.pid, families, levels - 1, now) })
        };
        children.filter_map(measure).collect()
    }

    fn usage(&mut self, stat: &Stat, now: Time) -> Option<Usage> {
        let pid = stat.pid;
        let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let (virtual_size, resident) = parse_statm(&fs::read_to_string(format!("/proc/{pid}/statm")).ok()?, self.page)?;
        let program = fs::read(format!("/proc/{pid}/cmdline")).ok().and_then(|line| basename(&line));
        let since_boot = now.since(Time::ZERO);
        let started = self.time(stat.started).min(since_boot);
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Usage {
            program: program.unwrap_or_else(|| stat.command.clone()),
            user: self.user(uid),
            nice: stat.nice,
            resident,
            virtual_size,
            memory_percent: if self.memory == 0 { 0.0 } else { resident as f64 * 100.0 / self.memory as f64 },
            cpu_percent: self.cpu_percent(stat, now),
            cpu_time: self.time(stat.ticks),
            age: since_boot.saturating_sub(started),
            started: (epoch.saturating_sub(since_boot) + started).as_secs_f64(),
        })
    }

    fn time(&self, ticks: u64) -> Duration {
        Duration::from_secs_f64(ticks as f64 / self.ticks_per_second)
    }

    fn cpu_percent(&mut self, stat: &Stat, now: Time) -> f64 {
        let key = (stat.pid, stat.started);
        let percent = match self.before.get(&key) {
            None => 0.0,
            Some(before) if now.since(before.at) < SHORTEST => return before.percent,
            Some(before) => {
                let used = stat.ticks.saturating_sub(before.ticks) as f64 / self.ticks_per_second;
                used * 100.0 / now.since(before.at).as_secs_f64()
            }
        };
        self.before.insert(key, Measured { at: now, ticks: stat.ticks, percent });
        percent
    }

    fn user(&mut self, uid: u32) -> String {
        let look_up = || {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name)
        };
        self.users.entry(uid).or_insert_with(look_up).clone()
    }
}

/// Who has which children.
type Families = HashMap<u32, Vec<Stat>>;

/// All processes of this machine, in one look.
fn families() -> Families {
    let mut families = Families::new();
    tree::every_process().for_each(|stat| families.entry(stat.parent).or_default().push(stat));
    families
}

/// Bytes of memory in all, from /proc/meminfo.
fn total_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Virtual and resident bytes, from `/proc/PID/statm`.
fn parse_statm(text: &str, page: u64) -> Option<(u64, u64)> {
    let mut pages = text.split_ascii_whitespace().map(|field| field.parse::<u64>().ok());
    Some((pages.next()?? * page, pages.next()?? * page))
}

/// The last part of the program's name in a command line; nothing where that line is empty, as a zombie's is.
fn basename(line: &[u8]) -> Option<String> {
    let word = line.split(|&byte| byte == 0 || byte == b' ').next()?;
    let name = word.rsplit(|&byte| byte == b'/').next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read_and_others_are_nothing() {
        assert_eq!(total_memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        assert_eq!(parse_statm("10 3 2 1 0 4 0\n", 4096), Some((40960, 12288)));
        assert_eq!(parse_statm("10\n", 4096), None);
        assert_eq!(basename(b"/usr/bin/python3\0-m\0celery\0").as_deref(), Some("python3"));
        assert_eq!(basename(b"nginx: worker process\0").as_deref(), Some("nginx:"));
        assert_eq!(basename(b""), None);
    }

    #[test]
    fn this_very_process_is_measured() {
        let mut sampler = Sampler::default();
        let usage = sampler.usage(&Stat::read(std::process::id()).unwrap(), clock::now()).unwrap();
        assert!(usage.resident > 0 && usage.virtual_size > usage.resident);
        assert!(usage.memory_percent > 0.0 && usage.memory_percent < 100.0);
        assert_eq!(usage.cpu_percent, 0.0);
        assert!(usage.age < Duration::from_secs(3600));
    }

    #[test]
    fn the_processor_share_counts_from_the_measurement_before() {
        let mut sampler = Sampler { ticks_per_second: 100.0, ..Sampler::default() };
        let mut stat = Stat::read(std::process::id()).unwrap();
        let start = Time::from_nanos(1);
        stat.ticks = 1000;
        assert_eq!(sampler.cpu_percent(&stat, start), 0.0);
        stat.ticks = 1050;
        assert_eq!(sampler.cpu_percent(&stat, start + Duration::from_secs(1)), 50.0);
        stat.ticks = 1051;
        assert_eq!(sampler.cpu_percent(&stat, start + Duration::from_millis(1001)), 50.0, "too soon for a new one");
        stat.started += 1;
        assert_eq!(sampler.cpu_percent(&stat, start + Duration::from_secs(2)), 0.0, "another of the same pid");
    }
}
