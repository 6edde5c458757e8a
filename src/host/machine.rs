//! What the machine as a whole has and does, read from /proc.

use std::fs;
use std::thread;

use crate::model::stats::Machine;

/// The machine now; what cannot be read is 0. Takes some 50 µs, and belongs on no event loop.
pub fn machine() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (memory, memory_used) = parse_meminfo(&read("/proc/meminfo")).unwrap_or_default();
    Machine {
        cores: thread::available_parallelism().map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
        load: parse_load(&read("/proc/loadavg")).unwrap_or_default(),
        memory,
        memory_used,
    }
}

/// The first of the averages.
fn parse_load(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Bytes in all, and of them those that could not be had at once.
fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let kilobytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let (all, free) = (kilobytes("MemTotal")?, kilobytes("MemAvailable")?);
    Some((all * 1024, all.saturating_sub(free) * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_understood() {
        assert_eq!(parse_load("0.62 0.48 0.44 1/503 12345\n"), Some(0.62));
        let text = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    5000000 kB\n";
        assert_eq!(parse_meminfo(text), Some((8_000_000 << 10, 3_000_000 << 10)));
        assert_eq!((parse_load(""), parse_meminfo("MemTotal: x kB")), (None, None));
    }

    #[test]
    fn this_machine_has_processors_and_memory_in_use() {
        let machine = machine();
        assert!(machine.cores > 0 && machine.memory_used > 0 && machine.memory_used < machine.memory, "{machine:?}");
    }
}
