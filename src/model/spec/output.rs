//! Where a process's output goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where one of a process's two output descriptors leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Wherever the agent's own goes: the process writes there itself, and the agent does not see it.
    Inherit,
    /// /dev/null.
    Null,
    /// Through the agent, which passes it on.
    Stream(StreamSpec),
}

impl Output {
    /// Appended to a file that never rotates.
    pub fn file(path: impl Into<PathBuf>) -> Output {
        let sink = Sink::File { path: path.into(), rotation: Rotation::Never };
        Output::Stream(StreamSpec { sink, time_format: None })
    }
}

/// What the agent does with output that goes through it. `circusctl logs` sees all of it besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSpec {
    /// Where it ends.
    pub sink: Sink,
    /// strftime(3): each line begins with that time and the pid, `2026-11-22 10:00:00 [4711] | `.
    pub time_format: Option<String>,
}

/// Where output ends. The names are Circus's stream classes where it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// `FileStream`, `TimedRotatingFileStream`, `WatchedFileStream`: appended to a file.
    File {
        /// The file; made when missing, its directory is not.
        path: PathBuf,
        /// When it gives way to a new one.
        rotation: Rotation,
    },
    /// `StdoutStream`: the agent's own stdout.
    Stdout,
    /// `FancyStdoutStream`: the same, each line coloured and with time (`time_format`) and pid.
    Fancy {
        /// The colour's place in red, green, yellow, blue, magenta, cyan, white: 1 to 7.
        colour: u8,
    },
    /// `syslog://host:port?facility` or `syslog:///dev/log?facility`.
    Syslog(Syslog),
    /// systemd's journal.
    Journal {
        /// `SYSLOG_IDENTIFIER`.
        ident: String,
    },
    /// `QueueStream`: kept for `circusctl logs`, and nowhere else.
    Memory,
    /// A Python class by its dotted name, called in the helper process with each chunk.
    Python {
        /// `package.module.Class`.
        class: String,
        /// Its keyword arguments.
        options: BTreeMap<String, String>,
    },
}

/// When a file gives way to a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// Never.
    Never,
    /// When it would reach `max_bytes`: it becomes `.1`, `.1` becomes `.2`, up to `backups`; with none it begins anew.
    Size { max_bytes: u64, backups: u32 },
    /// Every so often: it becomes `NAME.<time>`, of which the newest `backups` stay (0: all).
    Time { every: Rollover, interval: u32, utc: bool, backups: u32 },
    /// When somebody else moved or removed it.
    Watched,
}

/// The unit of a rotation by time, as in Python's `TimedRotatingFileHandler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollover {
    /// `S`
    Seconds,
    /// `M`
    Minutes,
    /// `H`
    Hours,
    /// `D`
    Days,
    /// `midnight`
    Midnight,
    /// `W0` (Monday) to `W6`
    Weekday(u8),
}

/// A syslog server and how lines are marked there (RFC 3164).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// Where it listens.
    pub address: SyslogAddress,
    /// Facility number, 0 (kern) to 23 (local7).
    pub facility: u8,
    /// The program's name in each line.
    pub ident: String,
}

/// Where a syslog server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A datagram socket of this machine, usually /dev/log.
    Unix(PathBuf),
    /// UDP.
    Udp { host: String, port: u16 },
}
