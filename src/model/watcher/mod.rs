//! A wanted number of children, kept true.
//!
//! Wanted and actual stand apart: commands and events change what is wanted or what is known, and
//! [`Watcher::settle`] then orders what brings the two together. It may be called at any time; called twice it
//! orders nothing twice.
//!
//! ```text
//!            may run                                              all up
//!   Closed ─────────▶ Opening ───────▶ Open ─────────────────────────────▶ Confirming ───────▶ Settled
//!     ▲              (before_start)      │                                (after_start)           │
//!     │                                  └───────────────┬────────────────────────────────────────┘
//!     │                                                  │ must go
//!     └──── Leaving ◀──── Draining ◀──── Parting ◀───────┘
//!         (after_stop)  nothing left   (before_stop)
//! ```
//!
//! The stages in brackets last as long as their hook, and are skipped without one.
//!
//! Reading order: this file (what is wanted, what happened), `settle` (up, down, and between), `roll` (one process at a
//! time), `sockets`, `demand` (asleep until somebody connects), `cron` (between two times), `hooks`, `tenure` (what is kept of it), `legion` (where
//! its holder is elected), `follow` (under another's lease), `seen`, `explain`.
//!
//! A singleton adds one condition, its [`Lease`]: children start only under a firm hold, all of them end when it is
//! being lost, and the lease goes only when nothing of them is left. What follows a legion has the same condition, of its
//! leader's lease.

mod cron;
mod demand;
mod explain;
mod follow;
mod hooks;
mod legion;
mod roll;
mod seen;
mod settle;
mod sockets;
mod tenure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::cron::Cron;
pub use self::cron::{Runs, Yield};
use self::demand::Demand;
pub use self::follow::Lead;
use self::hooks::{Calls, Facts, Next};
use self::legion::Legion;
use self::roll::{Roll, Way};
use self::tenure::Tenure;
use super::command::{Refusal, ReloadWay};
use super::event::{
    Action, Ask, Deadline, Exit, LaneId, LeaseAnswer, Level, News, Notice, ProcessEvent, ProcessId, Reach,
};
use super::history::{self, Ending};
use super::lease::{After, Lease, RESERVATION};
use super::names::{ClusterName, NodeName, WatcherName};
use super::process::Process;
use super::random::Random;
use super::restart::Restart;
use super::sockets::Sockets;
use super::spec::{HookPoint, ProgramSpec, WatcherSpec};
use super::time::Time;

/// How long, in ttls, a node stands back from a lease whose child does not run there.
const STAND_BACK_TTLS: u32 = 2;
/// And at least and at most.
const STAND_BACK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// What a reload sends where `send_hup` asks for it.
const SIGHUP: i32 = 1;

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    spec: WatcherSpec,
    /// As the file has it, whatever was changed since; nothing for one that a command added.
    filed: Option<Box<WatcherSpec>>,
    program: Arc<ProgramSpec>,
    settings: Arc<BTreeMap<String, String>>,
    me: (ClusterName, NodeName),
    random: Random,
    goal: Goal,
    stage: Stage,
    numprocesses: u32,
    /// Oldest first.
    processes: Vec<Process>,
    slots: BTreeMap<u32, Restart>,
    /// Slots whose process ended and, with `respawn` off, is not replaced.
    retired: BTreeSet<u32>,
    /// No process starts before this: the watcher's warm-up pause.
    pace: Time,
    roll: Option<Roll>,
    calls: Calls,
    /// It goes down once although it is wanted: a restart.
    recycle: bool,
    /// What it becomes once it is down.
    heir: Option<Box<WatcherSpec>>,
    /// Who has to be up before it starts.
    start_gate: Option<WatcherName>,
    /// Who has to be down before it stops.
    stop_gate: Option<WatcherName>,
    /// Those that there are.
    sockets: Arc<Sockets>,
    /// One for each process that is wanted, where its sockets have `so_reuseport`.
    lanes: Vec<LaneId>,
    /// Whether anybody wants something, where that counts.
    demand: Option<Demand>,
    /// Where it runs at times.
    cron: Option<Cron>,
    /// Those that were stopped until it is decided about them.
    frozen: Vec<ProcessId>,
    lease: Option<Lease>,
    /// Where its holder is elected.
    legion: Option<Legion>,
    /// It goes for good once it is down.
    retired_for_good: bool,
    /// How it stands with the leader that it follows.
    led: Option<Lead>,
    /// What follows it and is not gone: its lease stays so long.
    held_up_by: Option<WatcherName>,
    /// The lease is being given away once nothing runs.
    parting: Option<Parting>,
    /// What was told of the tenure in which its processes run.
    tenure: Option<Tenure>,
    /// What the guards were last told.
    fed: Option<Deadline>,
    /// What the log last said of the lease, so that it says each thing once.
    said: Option<Said>,
    restarts: u64,
    last_end: Option<(End, Time)>,
}

/// Where it is between being down and being up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Opening,
    Open,
    Confirming,
    Settled,
    Parting,
    Draining,
    Leaving,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
enum Goal {
    Run,
    Rest(Cause),
}

/// Why nothing is wanted.
#[derive(Debug, Clone, PartialEq)]
enum Cause {
    NotStarted,
    Asked(Ending),
    Ended(String),
    Failed(String),
}

/// How a lease is given away.
#[derive(Debug, Clone, PartialEq)]
struct Parting {
    to: Option<NodeName>,
    after: After,
    ending: Ending,
}

/// What the log said of the lease.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Held { token: u64 },
    Losing { why: String },
    Standby { why: String },
    Released,
}

/// How a process ended, or why it never began.
#[derive(Debug, Clone, PartialEq)]
enum End {
    Exit(Exit),
    NoStart(String),
    /// It was ended: it was not ready in time, or unwell.
    Fault(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(exit) => exit.fmt(f),
            End::NoStart(why) | End::Fault(why) => f.write_str(why),
        }
    }
}

/// What a reload comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloading {
    /// All processes are kept.
    Kept,
    /// They are replaced.
    Replaced,
}

impl Watcher {
    /// A watcher that nobody has started; `filed` where it comes from the configuration file.
    pub fn new(spec: WatcherSpec, filed: bool, cluster: &ClusterName, node: &NodeName, random: Random) -> Watcher {
        let mut watcher = Watcher {
            filed: filed.then(|| Box::new(spec.clone())),
            program: Arc::new(spec.program.clone()),
            settings: Arc::new(spec.settings.clone()),
            me: (cluster.clone(), node.clone()),
            random,
            goal: Goal::Rest(Cause::NotStarted),
            stage: Stage::Closed,
            numprocesses: spec.numprocesses,
            processes: Vec::new(),
            slots: BTreeMap::new(),
            retired: BTreeSet::new(),
            pace: Time::ZERO,
            roll: None,
            calls: Calls::default(),
            recycle: false,
            heir: None,
            start_gate: None,
            stop_gate: None,
            sockets: Arc::default(),
            lanes: Vec::new(),
            demand: None,
            cron: None,
            frozen: Vec::new(),
            lease: None,
            legion: None,
            retired_for_good: false,
            led: None,
            held_up_by: None,
            parting: None,
            tenure: None,
            fed: None,
            said: None,
            restarts: 0,
            last_end: None,
            spec,
        };
        watcher.lease = watcher.new_lease();
        watcher.fit_schedule();
        watcher.fit_legion();
        watcher
    }

    fn new_lease(&mut self) -> Option<Lease> {
        let own = self.spec.singleton.filter(|_| self.spec.follows.is_none());
        let (cluster, node) = &self.me;
        let name = self.spec.lease_name(cluster);
        own.map(|timings| Lease::new(name, node.clone(), timings, self.random.branch()))
    }

    /// Its configuration, with what commands have changed: what it is to become, where that waits until it is down.
    pub fn spec(&self) -> &WatcherSpec {
        self.heir.as_deref().unwrap_or(&self.spec)
    }

    /// What the file said of it when it was last read; nothing for one that a command added.
    pub fn filed(&self) -> Option<&WatcherSpec> {
        self.filed.as_deref()
    }

    /// How many processes are wanted.
    pub fn numprocesses(&self) -> u32 {
        self.numprocesses
    }

    /// Its lease, where it is a singleton.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    // ---- what is wanted ----

    /// Wants it to run, and forgets past failures.
    pub fn start(&mut self, now: Time) {
        self.goal = Goal::Run;
        self.slots.clear();
        self.retired.clear();
        self.parting = None;
        match (&mut self.lease, &self.legion) {
            (Some(lease), Some(_)) => lease.end_stand_back(),
            (Some(lease), None) => lease.want(now),
            (None, _) => {}
        }
    }

    /// Wants it not to run, for this reason.
    pub fn stop(&mut self, ending: Ending) {
        self.goal = Goal::Rest(Cause::Asked(ending));
    }

    /// Kills what runs, without grace and without asking a hook.
    pub fn kill(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.call_off_hooks(actions);
        self.waive_debt(actions);
        self.stop_gate = None;
        self.stage = if self.processes.is_empty() { Stage::Closed } else { Stage::Draining };
        self.stop_all(now);
    }

    /// Replaces the processes there are: all stop, then all start.
    pub fn restart(&mut self, now: Time) {
        let up = self.goal == Goal::Run && self.stage != Stage::Closed;
        self.start(now);
        self.recycle = up;
    }

    /// Replaces its processes one at a time, or tells them to reload by themselves. One that is at rest starts.
    pub fn reload(&mut self, now: Time, way: ReloadWay, actions: &mut Vec<Action>) -> Reloading {
        if self.goal != Goal::Run || way == ReloadWay::Restart {
            self.restart(now);
            return Reloading::Replaced;
        }
        if self.spec.send_hup {
            self.signal(None, SIGHUP, Reach::Main, actions);
            self.publish(News::Reload, actions);
            return Reloading::Kept;
        }
        // The next run is another process anyway.
        if self.spec.cron.is_some() {
            return Reloading::Kept;
        }
        // What follows a leader goes before it.
        if self.spec.legion.is_some() {
            self.restart(now);
            return Reloading::Replaced;
        }
        // Of what runs once in the cluster there is never one more, nor of what has as many as a node may have.
        let is_full = self.spec.max_per_node.is_some_and(|most| self.numprocesses >= most);
        let one_up = way == ReloadWay::Rolling && !self.is_guarded() && !is_full;
        self.begin_roll(if one_up { Way::OneUp } else { Way::OneDown });
        Reloading::Replaced
    }

    /// Wants `by` more or fewer processes, never below none. A singleton's number stays, and so does that of one that runs at times.
    pub fn resize(&mut self, by: i64) -> u32 {
        if self.lease.is_none() && self.spec.cron.is_none() {
            let wanted = i64::from(self.numprocesses).saturating_add(by).max(0);
            self.numprocesses = u32::try_from(wanted).unwrap_or(u32::MAX);
        }
        self.numprocesses
    }

    /// Whether `by` more are not too many for one node.
    pub fn room_for(&self, by: i64) -> Result<(), Refusal> {
        let wanted = i64::from(self.numprocesses).saturating_add(by);
        match self.spec().max_per_node {
            Some(most) if by > 0 && self.lease.is_none() && wanted > i64::from(most) => Err(Refusal::TooMany {
                watcher: self.spec().name.clone(),
                wanted: u32::try_from(wanted).unwrap_or(u32::MAX),
                most,
            }),
            _ => Ok(()),
        }
    }

    /// Makes it what `spec` says. Processes that were started differently are replaced, one at a time; a singleton
    /// becomes another kind of watcher, and the reverse, when it is down.
    pub fn amend(&mut self, spec: WatcherSpec, from_file: bool) {
        if from_file {
            self.filed = Some(Box::new(spec.clone()));
        }
        // The latest word counts, also against one that waits.
        self.heir = None;
        let (other_kind, other_lease) = (spec.follows != self.spec.follows, !spec.has_lease_of(&self.spec));
        if other_kind || other_lease || spec.cron.is_some() != self.spec.cron.is_some() {
            self.heir = Some(Box::new(spec));
            return;
        }
        // A run at a time goes on as it began.
        let replaced = spec.program != self.spec.program && !self.processes.is_empty() && spec.cron.is_none();
        let leads = self.spec.legion.is_some();
        self.become_spec(spec);
        match replaced {
            // What follows it goes before it.
            true if leads => self.recycle = self.goal == Goal::Run,
            true => self.begin_roll(Way::OneDown),
            false => {}
        }
    }

    /// Makes it what a file says that has it again, before it has gone: what commands did to it is over.
    pub fn come_back(&mut self, spec: WatcherSpec) {
        self.unretire();
        self.numprocesses = spec.numprocesses;
        self.amend(spec, true);
    }

    fn become_spec(&mut self, spec: WatcherSpec) {
        if spec.numprocesses != self.spec.numprocesses {
            self.numprocesses = spec.numprocesses;
        }
        self.numprocesses = self.numprocesses.min(spec.max_per_node.unwrap_or(u32::MAX));
        if spec.program != self.spec.program {
            self.program = Arc::new(spec.program.clone());
        }
        self.settings = Arc::new(spec.settings.clone());
        self.spec = spec;
        self.fit_schedule();
        self.fit_legion();
    }

    /// Sends a signal to its processes, or to the one with this pid.
    pub fn signal(&mut self, pid: Option<u32>, signal: i32, reach: Reach, actions: &mut Vec<Action>) {
        let meant = |process: &&Process| process.pid().is_some_and(|own| pid.is_none_or(|pid| pid == own));
        for id in self.processes.iter().filter(meant).map(|process| process.id).collect::<Vec<_>>() {
            self.send_unless_vetoed(id, signal, reach, actions);
        }
    }

    /// Stops its processes, or the one with this pid; others take their place. The ids of those meant.
    pub fn kill_some(
        &mut self,
        now: Time,
        pid: Option<u32>,
        signal: Option<i32>,
        grace: Option<Duration>,
    ) -> Vec<ProcessId> {
        let (signal, reach) = (signal.unwrap_or(self.spec.stop_signal), self.stop_reach());
        let kill_at = now + grace.unwrap_or(self.spec.graceful_timeout);
        let meant = |process: &&mut Process| pid.is_none_or(|pid| process.pid() == Some(pid));
        let meant = self.processes.iter_mut().filter(meant);
        meant
            .map(|process| {
                process.stop(signal, reach, kill_at, true);
                process.id
            })
            .collect()
    }

    /// Gives the lease away once nothing runs: an orderly move that somebody asked for, to `to` where it is named.
    pub fn part(&mut self, to: Option<NodeName>, by: Option<String>) {
        let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
        let after = After::StandBack { pause: RESERVATION, why: format!("stood back for {whom}") };
        let detail = to.as_ref().map(ToString::to_string);
        self.parting = Some(Parting { to, after, ending: Ending { cause: history::Cause::Moved, detail, by } });
    }

    /// Does not start before `watcher` is up; nothing: it may. Whether that is news.
    pub fn wait_to_start(&mut self, watcher: Option<WatcherName>) -> bool {
        std::mem::replace(&mut self.start_gate, watcher) != self.start_gate
    }

    /// Does not stop before `watcher` is down; nothing: it may. Whether that is news.
    pub fn wait_to_stop(&mut self, watcher: Option<WatcherName>) -> bool {
        std::mem::replace(&mut self.stop_gate, watcher) != self.stop_gate
    }

    // ---- what happened ----

    /// One of its processes changed. Says nothing of processes it does not have.
    pub fn process_changed(&mut self, now: Time, id: ProcessId, event: ProcessEvent, actions: &mut Vec<Action>) {
        let Some(index) = self.processes.iter().position(|process| process.id == id) else { return };
        let process = &mut self.processes[index];
        let wid = process.wid;
        match event {
            ProcessEvent::Spawned { pid } => {
                let variance = self.random.below(self.spec.max_age_variance.max(Duration::from_nanos(1)));
                let expires = self.spec.max_age.map(|age| now + age + variance);
                process.spawned(now, pid, &self.spec, expires);
                self.has_started(now, pid, actions);
                self.run_began(now, pid, actions);
                self.say(actions, Level::Info, Some(wid), &format!("started, pid {pid}"));
                let facts = Facts { pid: Some(pid), wid: Some(wid), ..Facts::default() };
                if !self.call(HookPoint::AfterSpawn, facts, Next::Announce(id)) {
                    self.announce(id, actions);
                }
            }
            ProcessEvent::SpawnFailed(failure) => {
                let expected = process.is_stopping();
                self.processes.remove(index);
                self.ended(now, wid, &End::NoStart(failure.to_string()), Duration::ZERO, expected, actions);
            }
            ProcessEvent::Checked { purpose, result } => process.checked(now, purpose, result),
            ProcessEvent::Matched(purpose) => process.matched(now, purpose),
            ProcessEvent::Notified(notification) => process.notified(now, notification),
            ProcessEvent::Frozen => self.is_frozen(id),
            ProcessEvent::Exited(exit) => {
                let expected = process.is_stopping() && process.fault().is_none();
                let end = process.fault().map_or(End::Exit(exit), |why| End::Fault(why.to_owned()));
                let (pid, quiet) = (process.pid(), process.is_quiet());
                let ran = process.exited(now, exit);
                if let (Some(pid), false) = (pid, quiet) {
                    let facts = Facts { pid: Some(pid), wid: Some(wid), exit: Some(exit), signal: None };
                    if !self.call(HookPoint::BeforeReap, facts, Next::TellEnd { wid, pid, exit }) {
                        self.tell_end(wid, pid, exit, actions);
                    }
                }
                // Where its guard was killed it does what is to be done by itself.
                self.lord_ended(matches!(exit, Exit::Signal(_)));
                self.ended(now, wid, &end, ran, expected, actions);
            }
            ProcessEvent::Empty { since } => process.is_empty_since(since),
            ProcessEvent::Gone => {
                let process = self.processes.remove(index);
                self.has_gone(process.empty_since().unwrap_or(now).min(now));
            }
        }
    }

    /// Its start is told, once.
    fn announce(&mut self, id: ProcessId, actions: &mut Vec<Action>) {
        let Some(process) = self.processes.iter_mut().find(|process| process.id == id) else { return };
        if process.announce()
            && let Some(pid) = process.pid()
        {
            let wid = process.wid;
            self.publish(News::Spawn { wid, pid }, actions);
        }
    }

    fn tell_end(&mut self, wid: u32, pid: u32, exit: Exit, actions: &mut Vec<Action>) {
        self.publish(News::Reap { wid, pid, exit }, actions);
        let facts = Facts { pid: Some(pid), wid: Some(wid), exit: Some(exit), signal: None };
        self.call(HookPoint::AfterReap, facts, Next::Nothing);
    }

    /// A process ended or never began: decides what comes next for its slot.
    fn ended(&mut self, now: Time, wid: u32, end: &End, ran: Duration, expected: bool, actions: &mut Vec<Action>) {
        self.last_end = Some((end.clone(), now));
        if self.spec.cron.is_some() {
            return self.run_ended(now, end, expected, actions);
        }
        if expected || self.must_go() {
            self.say(actions, Level::Info, Some(wid), &format!("ended: {end}"));
            return;
        }
        let slot = self.slots.entry(wid).or_insert_with(Restart::fresh);
        slot.ended(now, ran, &mut self.random);
        let (failures, pause) = (slot.failures(), now.until(slot.next()));
        let never_began = matches!(end, End::NoStart(_));
        // A plain watcher's crashing program is tried for ever, ever more slowly. One that cannot even be started
        // is given up, and a singleton that cannot run here, for whichever reason, is left to another node.
        let spent = self.spec.max_retry.is_some_and(|most| failures >= most) && (never_began || self.lease.is_some());
        let spent = spent || self.has_failed_to_lead(end);
        // What follows a lord process starts after `on_lord`, and ends before `on_unlord` where that can be.
        self.recycle |= self.spec.legion.is_some();
        if self.spec.on_demand.is_some() && *end == End::Exit(Exit::Code(0)) {
            self.say(actions, Level::Info, Some(wid), "ended: exit 0; it waits for the next connection");
            self.retired.insert(wid);
            if self.retired.len() >= self.numprocesses as usize {
                self.go_to_sleep();
            }
        } else if !self.spec.respawn && !never_began {
            self.say(actions, Level::Info, Some(wid), &format!("ended: {end}; it is not replaced (respawn is off)"));
            // Of a reload: what does not stay takes nothing's place, and is not missed.
            if self.roll.take().is_some() && self.up() >= self.numprocesses as usize {
                return;
            }
            self.retired.insert(wid);
            if self.retired.len() >= self.numprocesses as usize {
                self.goal = Goal::Rest(Cause::Ended(format!("{end}, and respawn is off")));
            }
        } else if spent {
            self.give_up(now, format!("{end}, {failures} times in a row"), actions);
        } else {
            let next =
                if pause.is_zero() { "starting again".into() } else { format!("trying again in {}", secs(pause)) };
            self.say(actions, Level::Warn, Some(wid), &format!("{end}; {next}"));
            self.restarts += u64::from(!never_began);
        }
    }

    /// It does not run here: a singleton is left to another node for a while, anything else rests until somebody starts
    /// it again.
    fn give_up(&mut self, now: Time, why: String, actions: &mut Vec<Action>) {
        if self.goal != Goal::Run {
            return;
        }
        // The next slot is another try.
        if self.spec.cron.is_some() {
            return self.run_ended(now, &End::NoStart(why), false, actions);
        }
        match self.lease {
            Some(_) => {
                self.slots.clear();
                self.stand_aside(self.stand_back(), why, actions);
            }
            None => {
                self.say(actions, Level::Error, None, &format!("given up: {why}"));
                self.goal = Goal::Rest(Cause::Failed(why));
            }
        }
    }

    /// Gives the lease away in good order, and does not want it for so long.
    fn stand_aside(&mut self, pause: Duration, why: String, actions: &mut Vec<Action>) {
        let text = format!("{why}: stood back for another node");
        self.say(actions, Level::Error, None, &text);
        let ending = Ending { detail: Some(why), ..Ending::of(history::Cause::GaveUp) };
        self.parting = Some(Parting { to: None, after: After::StandBack { pause, why: text }, ending });
    }

    /// Who it comes after, and whom it follows: also in what it is to become.
    pub fn firsts(&self) -> impl Iterator<Item = &WatcherName> {
        self.spec().firsts().chain(self.leader())
    }

    /// The lease store answered.
    pub fn lease_answered(&mut self, now: Time, ask: &Ask, answer: LeaseAnswer, actions: &mut Vec<Action>) {
        let Some(lease) = &mut self.lease else { return };
        let mut questions = Vec::new();
        lease.answered(now, ask, answer, &mut questions);
        self.put(questions, actions);
    }

    /// The lease may be free.
    pub fn lease_freed(&mut self, now: Time) {
        if let Some(lease) = &mut self.lease {
            lease.freed(now);
        }
    }

    /// The lease was paused or resumed.
    pub fn pause_changed(&mut self, now: Time) {
        if let Some(lease) = &mut self.lease {
            lease.pause_changed(now);
        }
    }

    /// Its node is called `node` from now on. Processes that run keep what they were told.
    pub fn rename(&mut self, now: Time, node: &NodeName) {
        self.rename_member(node);
        self.me.1 = node.clone();
        if let Some(lease) = &mut self.lease {
            lease.rename(now, node);
        }
    }

    fn put(&self, questions: Vec<(Ask, Duration)>, actions: &mut Vec<Action>) {
        for (ask, timeout) in questions {
            actions.push(Action::AskLease { lease: self.spec.lease_name(&self.me.0), ask, timeout });
        }
    }

    // ---- small things ----

    fn say(&self, actions: &mut Vec<Action>, level: Level, wid: Option<u32>, text: &str) {
        let name = &self.spec.name;
        let text = wid.map_or_else(|| format!("{name}: {text}"), |wid| format!("{name}#{wid}: {text}"));
        actions.push(Action::Log { level, text });
    }

    fn stand_back(&self) -> Duration {
        if let Some(told) = self.spec.legion.as_ref().and_then(|legion| legion.death_on_lord_error) {
            return told;
        }
        let ttl = self.lease.as_ref().map_or(Duration::ZERO, Lease::ttl);
        (ttl * STAND_BACK_TTLS).clamp(STAND_BACK.0, STAND_BACK.1)
    }

    pub(super) fn publish(&self, news: News, actions: &mut Vec<Action>) {
        actions.push(Action::Publish(Notice { watcher: self.spec.name.clone(), news }));
    }
}

/// Seconds for people: `0.1 s`, `4 s`.
fn secs(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 10.0 { format!("{secs:.1} s") } else { format!("{secs:.0} s") }
}
