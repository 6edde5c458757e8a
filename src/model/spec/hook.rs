//! What runs at certain points of a watcher's life: Circus's hooks, and what is done when a legion changes.

use super::legion::LegionEvent;

/// A point in a watcher's or a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookPoint {
    /// Before a watcher's first process; a failure keeps it from starting.
    BeforeStart,
    /// When its processes are up; a failure stops it.
    AfterStart,
    /// Before each process; a failure stops the watcher.
    BeforeSpawn,
    /// After each process; a failure ends it and stops the watcher.
    AfterSpawn,
    /// Before its processes are asked to stop.
    BeforeStop,
    /// When nothing of it is left.
    AfterStop,
    /// Before a signal is sent; a failure keeps it from being sent, unless it is SIGKILL.
    BeforeSignal,
    /// After a signal was sent.
    AfterSignal,
    /// When a process has ended.
    BeforeReap,
    /// After its end was announced.
    AfterReap,
    /// When statistics are asked for with `extended`; may add to them.
    ExtendedStats,
    /// When the legion that it leads has changed: this very program does it, in the role that the first word names.
    Legion(LegionEvent),
}

impl HookPoint {
    /// Circus's, in the order of a life.
    pub const ALL: [HookPoint; 11] = [
        HookPoint::BeforeStart,
        HookPoint::AfterStart,
        HookPoint::BeforeSpawn,
        HookPoint::AfterSpawn,
        HookPoint::BeforeStop,
        HookPoint::AfterStop,
        HookPoint::BeforeSignal,
        HookPoint::AfterSignal,
        HookPoint::BeforeReap,
        HookPoint::AfterReap,
        HookPoint::ExtendedStats,
    ];

    /// Its name in files and events.
    pub fn name(self) -> &'static str {
        match self {
            HookPoint::BeforeStart => "before_start",
            HookPoint::AfterStart => "after_start",
            HookPoint::BeforeSpawn => "before_spawn",
            HookPoint::AfterSpawn => "after_spawn",
            HookPoint::BeforeStop => "before_stop",
            HookPoint::AfterStop => "after_stop",
            HookPoint::BeforeSignal => "before_signal",
            HookPoint::AfterSignal => "after_signal",
            HookPoint::BeforeReap => "before_reap",
            HookPoint::AfterReap => "after_reap",
            HookPoint::ExtendedStats => "extended_stats",
            HookPoint::Legion(event) => event.name(),
        }
    }

    /// Circus's point of this name.
    pub fn parse(name: &str) -> Option<HookPoint> {
        HookPoint::ALL.into_iter().find(|point| point.name() == name)
    }

    /// Whether a failure there counts at all; at the others it is only announced (Circus's rule, whatever the flag).
    pub fn can_fail(self) -> bool {
        matches!(self, HookPoint::BeforeStart | HookPoint::AfterStart | HookPoint::BeforeSpawn | HookPoint::AfterSpawn)
    }
}

/// A hook of a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookSpec {
    /// What runs.
    pub program: HookProgram,
    /// Whether an error (not a plain "false") counts as success.
    pub ignore_failure: bool,
}

/// What a hook runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookProgram {
    /// A command: exit 0 is true, another exit code false.
    Command(Vec<String>),
    /// A Python callable by its dotted name, called in the helper process: its truth counts, an exception is an error.
    Python(String),
}
