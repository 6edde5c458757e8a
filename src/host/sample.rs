//! What processes use, read from /proc.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, Uid, User, sysconf};

use super::clock;
use super::machine::machine;
use super::tree::{self, Stat};
use crate::model::command::{ChildSample, Sample, Usage};
use crate::model::names::WatcherName;
use crate::model::stats::{Detail, Measure, Measures, ProcessStats, Used};
use crate::model::time::Time;

/// Closer together than this, two measurements say more of the clock's ticks (10 ms) than of the process: the one
/// before is given again.
const SHORTEST: Duration = Duration::from_millis(100);

/// How long what was measured of a process is remembered.
const MEMORY: Duration = Duration::from_secs(600);

/// What was measured for a frame longer ago than this says nothing of what is used now.
const FRESH: Duration = Duration::from_secs(5);

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
    /// What those of the latest frame had used until then, and when that was.
    counted: HashMap<(u32, u64), Counters>,
    framed: Option<Time>,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    ticks: u64,
    /// Bytes read from storage and written to it; nothing where that may not be known.
    io: Option<(u64, u64)>,
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
            memory: machine().memory,
            users: HashMap::new(),
            before: HashMap::new(),
            counted: HashMap::new(),
            framed: None,
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

    /// Measures each process together with all below it, this very program alone, and the machine. What is used in a second
    /// is counted from the frame before; one that begins anew knows nothing of that. The sockets are left to others.
    pub(super) fn measure(&mut self, pids: Vec<u32>, detail: Detail) -> Measures {
        let now = clock::now();
        let since = self.framed.replace(now).map(|before| now.since(before)).filter(|since| *since < FRESH);
        let before = std::mem::take(&mut self.counted);
        let families = families();
        let mut processes = BTreeMap::new();
        for pid in pids {
            let Some(stat) = Stat::read(pid) else { continue };
            let own = self.own(&stat, detail, now);
            let mut measure = Measure { program: program(&stat), own, ..Measure::default() };
            let mut ahead = vec![(&stat, DEEPEST)];
            while let Some((stat, levels)) = ahead.pop() {
                measure.used = measure.used.plus(self.used(stat, &before, since));
                measure.children += 1;
                let below = families.get(&stat.pid).filter(|_| levels > 0).into_iter().flatten();
                ahead.extend(below.map(|stat| (stat, levels - 1)));
            }
            // The process itself is none of them.
            measure.children -= 1;
            processes.insert(pid, measure);
        }
        let agent = Stat::read(std::process::id()).map(|stat| {
            Box::new(ProcessStats {
                wid: 0,
                pid: stat.pid,
                state: "running".into(),
                program: program(&stat),
                age: now.since(Time::ZERO).saturating_sub(self.time(stat.started)),
                used: self.used(&stat, &before, since),
                children: 0,
                own: self.own(&stat, detail, now),
            })
        });
        Measures { at: unix_time().as_secs_f64(), machine: machine(), agent, processes, sockets: Vec::new() }
    }

    /// What a process uses by itself, where that is wanted.
    fn own(&mut self, stat: &Stat, detail: Detail, now: Time) -> Option<Box<Usage>> {
        match detail {
            Detail::Frame => None,
            Detail::Circus => self.usage(stat, now).map(Box::new),
        }
    }

    /// What one process uses, and notes what it has used so far.
    fn used(&mut self, stat: &Stat, before: &HashMap<(u32, u64), Counters>, since: Option<Duration>) -> Used {
        let key = (stat.pid, stat.started);
        let counters = Counters { ticks: stat.ticks, io: io(stat.pid) };
        self.counted.insert(key, counters);
        // One that was not there before has used all of it since.
        let rates = since.map(|since| (since.as_secs_f64(), before.get(&key).copied().unwrap_or_default()));
        let rate = |now: u64, before: u64, seconds: f64| now.saturating_sub(before) as f64 / seconds;
        let io = |of: fn((u64, u64)) -> u64| {
            let (seconds, before) = rates?;
            Some(rate(of(counters.io?), of(before.io.unwrap_or_default()), seconds))
        };
        Used {
            cpu: rates.map_or(0.0, |(seconds, before)| {
                rate(counters.ticks, before.ticks, seconds) * 100.0 / self.ticks_per_second
            }),
            resident: stat.resident * self.page,
            descriptors: descriptors(stat.pid),
            read: io(|(read, _)| read),
            written: io(|(_, written)| written),
        }
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
        let since_boot = now.since(Time::ZERO);
        let started = self.time(stat.started).min(since_boot);
        Some(Usage {
            program: program(stat),
            user: self.user(uid),
            nice: stat.nice,
            resident,
            virtual_size,
            memory_percent: if self.memory == 0 { 0.0 } else { resident as f64 * 100.0 / self.memory as f64 },
            cpu_percent: self.cpu_percent(stat, now),
            cpu_time: self.time(stat.ticks),
            age: since_boot.saturating_sub(started),
            started: (unix_time().saturating_sub(since_boot) + started).as_secs_f64(),
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

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Basename of what a process runs.
fn program(stat: &Stat) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", stat.pid)).ok();
    line.and_then(|line| basename(&line)).unwrap_or_else(|| stat.command.clone())
}

/// How many descriptors a process has open; nothing where that may not be known.
fn descriptors(pid: u32) -> Option<u32> {
    let dir = format!("/proc/{pid}/fd");
    // From Linux 6.2 on the directory's size is their number.
    let count = match fs::metadata(&dir).ok()?.len() {
        0 => fs::read_dir(&dir).ok()?.count() as u64,
        count => count,
    };
    u32::try_from(count).ok()
}

/// Bytes that a process has read from storage and written to it.
fn io(pid: u32) -> Option<(u64, u64)> {
    parse_io(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?)
}

fn parse_io(text: &str) -> Option<(u64, u64)> {
    let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some((number("read_bytes:")?, number("write_bytes:")?))
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
        assert_eq!(parse_io("rchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\n"), Some((4096, 8192)));
        assert_eq!(parse_io("rchar: 9\nread_bytes: x\n"), None);
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
    fn a_frame_counts_from_the_one_before_and_with_all_below() {
        let pid = std::process::id();
        let mut sampler = Sampler::default();
        // Its pipe keeps it alive as long as this test does.
        let child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let first = sampler.measure(vec![pid, u32::MAX], Detail::Frame);
        assert_eq!(first.processes.len(), 1, "of one that is not there nothing is known");
        let own = &first.processes[&pid];
        assert!(own.children >= 1 && own.used.resident > 0 && own.used.descriptors.is_some(), "{own:?}");
        assert_eq!((own.used.cpu, own.used.read), (0.0, None), "nobody knows what it used before");
        assert!(first.machine.cores > 0 && first.machine.memory > first.machine.memory_used, "{:?}", first.machine);

        let busy = Stat::read(pid).unwrap().ticks + 5;
        while Stat::read(pid).unwrap().ticks < busy {}
        let own = sampler.measure(vec![pid], Detail::Frame).processes.remove(&pid).unwrap();
        assert!(own.used.cpu > 0.0 && own.used.written.is_some(), "{own:?}");
        assert!(sampler.counted.len() <= own.children as usize + 1, "who is not looked at is forgotten");
        sampler.framed = sampler.framed.map(|framed| framed - FRESH);
        let own = sampler.measure(vec![pid], Detail::Frame).processes.remove(&pid).unwrap();
        assert_eq!((own.used.cpu, own.used.read), (0.0, None), "what was long ago says nothing of now");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn each_process_by_itself_and_the_agent_are_measured_where_that_is_wanted() {
        let pid = std::process::id();
        let mut sampler = Sampler::default();
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("a child");
        let sums = sampler.measure(vec![pid], Detail::Frame);
        assert_eq!(sums.processes[&pid].own, None);
        let Measures { agent, processes, .. } = sampler.measure(vec![pid], Detail::Circus);
        let (agent, with_children) = (agent.expect("itself"), &processes[&pid]);
        let own = with_children.own.as_deref().expect("that is wanted");
        assert!(own.virtual_size > own.resident && own.resident > 0, "{own:?}");
        assert!(own.resident < with_children.used.resident, "its child is counted elsewhere");
        assert_eq!((agent.pid, agent.children), (pid, 0));
        assert!(agent.used.resident < with_children.used.resident, "what an agent runs is not its own");
        let alone = agent.own.expect("of it, too");
        assert!(alone.age.abs_diff(agent.age) < Duration::from_secs(1), "{alone:?}, {:?}", agent.age);
        child.kill().unwrap();
        child.wait().unwrap();
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
