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
//! A singleton adds one condition, its [`Lease`]: children start only under a firm hold, all of them end when it is
//! being lost, and the lease goes only when nothing of them is left.

mod hooks;
mod roll;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use self::hooks::{Calls, Facts, Next};
use self::roll::{Roll, Way};
use super::checkup::Verdict;
use super::command::ReloadWay;
use super::event::{
    Action, Ask, Deadline, Exit, Launch, LeaseAnswer, Level, News, Notice, ProcessEvent, ProcessId, Reach, Signs,
};
use super::lease::{After, Hold, Lease, RESERVATION};
use super::names::{ClusterName, LeaseName, NodeName, WatcherName};
use super::process::{Process, StopDue};
use super::random::Random;
use super::restart::Restart;
use super::snapshot::{ProcessView, WatcherState, WatcherView};
use super::spec::{Check, HealthAction, HookPoint, ProgramSpec, Purpose, WatcherSpec};
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
    lease: Option<Lease>,
    /// The lease is being given away once nothing runs: to whom, and what comes after.
    parting: Option<(Option<NodeName>, After)>,
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
    Asked,
    Ended(String),
    Failed(String),
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
            lease: None,
            parting: None,
            fed: None,
            said: None,
            restarts: 0,
            last_end: None,
            spec,
        };
        watcher.lease = watcher.new_lease();
        watcher
    }

    fn new_lease(&mut self) -> Option<Lease> {
        let (cluster, node) = &self.me;
        let name = LeaseName { cluster: cluster.clone(), watcher: self.spec.name.clone() };
        self.spec.singleton.map(|timings| Lease::new(name, node.clone(), timings, self.random.branch()))
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
        if let Some(lease) = &mut self.lease {
            lease.want(now);
        }
    }

    /// Wants it not to run.
    pub fn stop(&mut self) {
        self.goal = Goal::Rest(Cause::Asked);
    }

    /// Kills what runs, without grace and without asking a hook.
    pub fn kill(&mut self, now: Time) {
        self.calls.clear();
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
        // Of a singleton there is never one more.
        let one_up = way == ReloadWay::Rolling && self.lease.is_none();
        self.begin_roll(if one_up { Way::OneUp } else { Way::OneDown });
        Reloading::Replaced
    }

    /// Wants `by` more or fewer processes, never below none. A singleton's number stays.
    pub fn resize(&mut self, by: i64) -> u32 {
        if self.lease.is_none() {
            let wanted = i64::from(self.numprocesses).saturating_add(by).max(0);
            self.numprocesses = u32::try_from(wanted).unwrap_or(u32::MAX);
        }
        self.numprocesses
    }

    /// Makes it what `spec` says. Processes that were started differently are replaced, one at a time; a singleton
    /// becomes another kind of watcher, and the reverse, when it is down.
    pub fn amend(&mut self, spec: WatcherSpec, from_file: bool) {
        if from_file {
            self.filed = Some(Box::new(spec.clone()));
        }
        if spec.singleton != self.spec.singleton {
            self.heir = Some(Box::new(spec));
            return;
        }
        // Whatever it was to become was changed back before it came about.
        self.heir = None;
        let replaced = spec.program != self.spec.program;
        self.become_spec(spec);
        if replaced && !self.processes.is_empty() {
            self.begin_roll(Way::OneDown);
        }
    }

    fn become_spec(&mut self, spec: WatcherSpec) {
        if spec.numprocesses != self.spec.numprocesses {
            self.numprocesses = spec.numprocesses;
        }
        if spec.program != self.spec.program {
            self.program = Arc::new(spec.program.clone());
        }
        self.settings = Arc::new(spec.settings.clone());
        self.spec = spec;
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

    /// Gives the lease away once nothing runs: an orderly move, to `to` where it is named.
    pub fn part(&mut self, to: Option<NodeName>) {
        let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
        self.parting = Some((to, After::StandBack { pause: RESERVATION, why: format!("stood back for {whom}") }));
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
                self.ended(now, wid, &end, ran, expected, actions);
            }
            ProcessEvent::Gone => {
                self.processes.remove(index);
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
        if !self.spec.respawn && !never_began {
            self.say(actions, Level::Info, Some(wid), &format!("ended: {end}; it is not replaced (respawn is off)"));
            self.retired.insert(wid);
            if self.retired.len() >= self.numprocesses as usize {
                self.goal = Goal::Rest(Cause::Ended(format!("{end}, and respawn is off")));
            }
        } else if spent {
            self.give_up(format!("{end}, {failures} times in a row"), actions);
        } else {
            let next =
                if pause.is_zero() { "starting again".into() } else { format!("trying again in {}", secs(pause)) };
            self.say(actions, Level::Warn, Some(wid), &format!("{end}; {next}"));
            self.restarts += u64::from(!never_began);
        }
    }

    /// It does not run here: a singleton is left to another node for a while, anything else rests until somebody starts
    /// it again.
    fn give_up(&mut self, why: String, actions: &mut Vec<Action>) {
        if self.goal != Goal::Run {
            return;
        }
        match self.lease {
            Some(_) => {
                let why = format!("{why}: stood back for another node");
                self.say(actions, Level::Error, None, &why);
                self.slots.clear();
                self.parting = Some((None, After::StandBack { pause: self.stand_back(), why }));
            }
            None => {
                self.say(actions, Level::Error, None, &format!("given up: {why}"));
                self.goal = Goal::Rest(Cause::Failed(why));
            }
        }
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

    fn put(&self, questions: Vec<(Ask, Duration)>, actions: &mut Vec<Action>) {
        for (ask, timeout) in questions {
            actions.push(Action::AskLease { watcher: self.spec.name.clone(), ask, timeout });
        }
    }

    // ---- settling ----

    /// Orders what brings the actual nearer to the wanted.
    pub fn settle(&mut self, now: Time, ids: &mut u64, actions: &mut Vec<Action>) {
        self.advance_lease(now, actions);
        let hold = self.hold(now);
        if let Some(Hold::Firm { deadline, .. }) = hold {
            self.feed(deadline, actions);
        }
        self.look_after(now, actions);
        match hold {
            Some(Hold::Losing { kill }) => self.wind_down(now, Some(kill), actions),
            _ if self.must_go() => self.wind_down(now, None, actions),
            None => self.rise(now, None, ids, actions),
            Some(Hold::Firm { token, deadline }) => self.rise(now, Some((token, deadline)), ids, actions),
            Some(Hold::No) => {}
        }
        // What has just gone down may rise again at once, without its lease or under one it kept.
        if self.stage == Stage::Closed && !self.must_go() {
            match self.hold(now) {
                None => self.rise(now, None, ids, actions),
                Some(Hold::Firm { token, deadline }) => self.rise(now, Some((token, deadline)), ids, actions),
                Some(Hold::Losing { .. } | Hold::No) => {}
            }
        }
        self.carry_out_stops(now, actions);
        self.order_calls(now, ids, actions);
        self.advance_lease(now, actions);
        self.report_lease(now, actions);
    }

    /// Whether it is on its way down, or has to be.
    fn must_go(&self) -> bool {
        self.goal != Goal::Run
            || self.parting.is_some()
            || self.recycle
            || self.heir.is_some()
            || matches!(self.stage, Stage::Parting | Stage::Draining | Stage::Leaving)
    }

    fn advance_lease(&mut self, now: Time, actions: &mut Vec<Action>) {
        let mut questions = Vec::new();
        if let Some(lease) = &mut self.lease {
            lease.advance(now, &mut questions);
        }
        self.put(questions, actions);
    }

    fn hold(&self, now: Time) -> Option<Hold> {
        self.lease.as_ref().map(|lease| lease.hold(now))
    }

    /// Passes a confirmed lease on to the guards.
    fn feed(&mut self, deadline: Deadline, actions: &mut Vec<Action>) {
        if self.fed.replace(deadline) != Some(deadline) {
            for process in &self.processes {
                process.guard(deadline, actions);
            }
        }
    }

    /// Asks for the checks that are due and draws their consequences; ends what has reached its `max_age`.
    fn look_after(&mut self, now: Time, actions: &mut Vec<Action>) {
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            let (id, wid) = (process.id, process.wid);
            if process.is_expired(now) {
                self.say(actions, Level::Info, Some(wid), "has reached its max_age");
                self.stop_one(id, now, true);
                continue;
            }
            let Some(verdict) = process.check(now, actions) else { continue };
            match verdict {
                Verdict::NotReady(why) | Verdict::Unwell(why, HealthAction::Restart) => {
                    self.say(actions, Level::Warn, Some(wid), &format!("{why}; stopping it"));
                    self.with_process(id, |process| process.fail(why));
                    self.stop_one(id, now, false);
                }
                Verdict::Unwell(why, HealthAction::Signal(signal)) => {
                    let text = format!("{why}; sending {}", super::event::signal_name(signal));
                    self.say(actions, Level::Warn, Some(wid), &text);
                    self.send_unless_vetoed(id, signal, Reach::Main, actions);
                }
                Verdict::Unwell(why, HealthAction::Report) => self.say(actions, Level::Warn, Some(wid), &why),
                Verdict::Recovered => self.say(actions, Level::Info, Some(wid), "well again"),
            }
        }
    }

    /// Takes the next steps down; `kill` is when all is to be over where the lease is being lost, and then nothing is
    /// waited for.
    fn wind_down(&mut self, now: Time, kill: Option<Time>, actions: &mut Vec<Action>) {
        if self.stop_gate.is_some() && kill.is_none() {
            return;
        }
        self.roll = None;
        match self.stage {
            Stage::Closed | Stage::Draining | Stage::Leaving => {}
            // Its end leads nowhere any more, but it is waited for: its opposite may be the next.
            Stage::Opening if kill.is_none() => return,
            Stage::Opening => self.stage = Stage::Closed,
            Stage::Open | Stage::Confirming | Stage::Settled => {
                let asked = kill.is_none() && self.call(HookPoint::BeforeStop, Facts::default(), Next::Drain);
                self.stage = if asked { Stage::Parting } else { Stage::Draining };
            }
            Stage::Parting if kill.is_some() => self.stage = Stage::Draining,
            Stage::Parting => {}
        }
        if self.stage == Stage::Draining {
            self.processes.retain(|process| !process.has_not_begun());
            self.stop_all(kill.unwrap_or(now + self.spec.graceful_timeout).min(now + self.spec.graceful_timeout));
            if self.processes.is_empty() {
                self.say(actions, Level::Info, None, "stopped");
                self.publish(News::Stop, actions);
                let asked = self.call(HookPoint::AfterStop, Facts::default(), Next::Close);
                self.stage = if asked { Stage::Leaving } else { Stage::Closed };
            }
        }
        if self.stage == Stage::Closed {
            self.part_from_lease(now, kill.is_some());
        }
    }

    /// Nothing of it is left: gives the lease away, unless it is to run again under it, and becomes what it is to be.
    fn part_from_lease(&mut self, now: Time, losing: bool) {
        if let Some(lease) = &mut self.lease {
            match (&self.goal, self.parting.take()) {
                (Goal::Rest(_), _) => lease.leave(now),
                (Goal::Run, Some((to, after))) => lease.release(now, to, after),
                (Goal::Run, None) if self.heir.is_some() => lease.leave(now),
                (Goal::Run, None) if losing => lease.release(now, None, After::Stay),
                (Goal::Run, None) => {}
            }
            self.fed = None;
        }
        self.recycle = false;
        if self.lease.as_ref().is_none_or(Lease::is_clear)
            && let Some(heir) = self.heir.take()
        {
            self.become_spec(*heir);
            self.lease = self.new_lease();
            if let (Some(lease), Goal::Run) = (&mut self.lease, &self.goal) {
                lease.want(now);
            }
        }
    }

    /// Asks all processes to stop; each is killed at `kill`.
    fn stop_all(&mut self, kill: Time) {
        let (signal, reach) = (self.spec.stop_signal, self.stop_reach());
        for process in &mut self.processes {
            process.stop(signal, reach, kill, false);
        }
    }

    /// Asks one process to stop; `quiet`: its end is no news.
    fn stop_one(&mut self, id: ProcessId, now: Time, quiet: bool) {
        let (signal, reach, kill) = (self.spec.stop_signal, self.stop_reach(), now + self.spec.graceful_timeout);
        self.with_process(id, |process| process.stop(signal, reach, kill, quiet));
    }

    fn stop_reach(&self) -> Reach {
        if self.spec.stop_children { Reach::MainAndChildren } else { Reach::Main }
    }

    fn with_process(&mut self, id: ProcessId, then: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.iter_mut().find(|process| process.id == id) {
            then(process);
        }
    }

    /// Sends the signals that are due of stops, and SIGKILL.
    fn carry_out_stops(&mut self, now: Time, actions: &mut Vec<Action>) {
        let losing = matches!(self.hold(now), Some(Hold::Losing { .. }));
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            let (id, wid, pid) = (process.id, process.wid, process.pid());
            let due = process.stop_due(now);
            match due {
                Some(StopDue::Kill) => actions.push(Action::Kill { process: id }),
                Some(StopDue::Signal { signal, reach }) if losing => self.send(id, signal, reach, actions),
                Some(StopDue::Signal { signal, reach }) => self.send_unless_vetoed(id, signal, reach, actions),
                None => continue,
            }
            if let Some(pid) = pid {
                self.publish(News::Kill { wid, pid }, actions);
            }
        }
    }

    /// Sends a signal once the hook before it agrees.
    fn send_unless_vetoed(&mut self, id: ProcessId, signal: i32, reach: Reach, actions: &mut Vec<Action>) {
        let facts = self.signal_facts(id, signal);
        if !self.call(HookPoint::BeforeSignal, facts, Next::Send { process: id, signal, reach }) {
            self.send(id, signal, reach, actions);
        }
    }

    fn send(&mut self, id: ProcessId, signal: i32, reach: Reach, actions: &mut Vec<Action>) {
        let facts = self.signal_facts(id, signal);
        if facts.pid.is_some() {
            actions.push(Action::Signal { process: id, signal, reach });
            self.call(HookPoint::AfterSignal, facts, Next::Nothing);
        }
    }

    fn signal_facts(&self, id: ProcessId, signal: i32) -> Facts {
        let process = self.processes.iter().find(|process| process.id == id);
        let (pid, wid) = (process.and_then(Process::pid), process.map(|process| process.wid));
        Facts { pid, wid, signal: Some(signal), exit: None }
    }

    /// Takes the next steps up.
    fn rise(&mut self, now: Time, hold: Option<(u64, Deadline)>, ids: &mut u64, actions: &mut Vec<Action>) {
        if self.stage == Stage::Closed && self.start_gate.is_none() {
            let asked = self.call(HookPoint::BeforeStart, Facts::default(), Next::Open);
            self.stage = if asked { Stage::Opening } else { Stage::Open };
        }
        if !matches!(self.stage, Stage::Open | Stage::Confirming | Stage::Settled) {
            return;
        }
        self.advance_roll(now, actions);
        self.shrink(now);
        self.grow(now, hold, ids, actions);
        if self.stage == Stage::Open && self.all_up() {
            match self.call(HookPoint::AfterStart, Facts::default(), Next::Settle) {
                true => self.stage = Stage::Confirming,
                false => self.settle_in(actions),
            }
        }
    }

    /// It has come up.
    fn settle_in(&mut self, actions: &mut Vec<Action>) {
        self.stage = Stage::Settled;
        self.say(actions, Level::Info, None, "started");
        self.publish(News::Start, actions);
    }

    /// Whether all are up that are to be: of those that ended and are not replaced nothing more is expected.
    fn all_up(&self) -> bool {
        let up = self.processes.iter().filter(|process| process.is_up()).count();
        up + self.retired.len() >= self.numprocesses as usize
    }

    /// How many processes there may be now.
    fn allowed(&self) -> usize {
        self.numprocesses as usize + self.roll.as_ref().map_or(0, |roll| roll.surplus(&self.processes))
    }

    /// Stops the oldest of too many.
    fn shrink(&mut self, now: Time) {
        let staying = self.processes.iter().filter(|process| !process.is_stopping());
        let surplus = staying.clone().count().saturating_sub(self.allowed());
        for id in staying.take(surplus).map(|process| process.id).collect::<Vec<_>>() {
            self.stop_one(id, now, true);
        }
        self.processes.retain(|process| !(process.is_stopping() && process.has_not_begun()));
    }

    /// Starts what is missing and due, one per warm-up pause.
    fn grow(&mut self, now: Time, hold: Option<(u64, Deadline)>, ids: &mut u64, actions: &mut Vec<Action>) {
        for wid in self.open_slots() {
            if self.start_due(wid) > now {
                continue;
            }
            *ids += 1;
            let id = ProcessId(*ids);
            self.processes.push(Process::planned(id, wid));
            let facts = Facts { wid: Some(wid), ..Facts::default() };
            if !self.call(HookPoint::BeforeSpawn, facts, Next::Spawn(id)) {
                self.with_process(id, Process::allow);
            }
            self.pace = now + self.spec.warmup_delay;
        }
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            if process.order(now) {
                let (process, wid) = (process.id, process.wid);
                let launch = self.launch(wid, hold);
                actions.push(Action::Spawn { process, launch });
            }
        }
    }

    /// The free slots to fill. Those whose process failed come first, each with its own pause, then the lowest. A retired
    /// one counts as filled.
    fn open_slots(&self) -> Vec<u32> {
        let overlaps = self.roll.as_ref().is_some_and(Roll::overlaps);
        let in_the_way = |process: &&Process| !(overlaps && process.is_stopping());
        let filled = self.processes.iter().filter(in_the_way).count() + self.retired.len();
        let missing = self.allowed().saturating_sub(filled);
        if missing == 0 {
            return Vec::new();
        }
        let taken: BTreeSet<u32> =
            self.processes.iter().map(|process| process.wid).chain(self.retired.iter().copied()).collect();
        let reserved = |wid: u32| self.roll.as_ref().is_some_and(|roll| roll.reserves(wid));
        let free = |wid: &u32| !taken.contains(wid);
        let failed = self.slots.iter().filter(|(_, slot)| slot.failures() > 0).map(|(wid, _)| *wid);
        let failed: Vec<u32> = failed.filter(free).take(missing).collect();
        let fresh = (1..).filter(free).filter(|wid| !reserved(*wid) && !failed.contains(wid));
        let more = missing - failed.len();
        failed.iter().copied().chain(fresh.take(more)).collect()
    }

    /// When an open slot's process may start.
    fn start_due(&self, wid: u32) -> Time {
        self.slots.get(&wid).map_or(Time::ZERO, Restart::next).max(self.pace)
    }

    fn launch(&self, wid: u32, hold: Option<(u64, Deadline)>) -> Launch {
        let (cluster, node) = &self.me;
        let mut env = vec![
            ("CIRCUS_CLUSTER", cluster.to_string()),
            ("CIRCUS_NODE", node.to_string()),
            ("CIRCUS_WATCHER", self.spec.name.to_string()),
            ("CIRCUS_WID", wid.to_string()),
        ];
        if let (Some(lease), Some((token, _))) = (&self.lease, hold) {
            env.push(("CIRCUS_FENCING_TOKEN", token.to_string()));
            env.push(("CIRCUS_LEASE_KEY", lease.name().lease_key()));
        }
        Launch {
            watcher: self.spec.name.clone(),
            wid,
            argv: self.program.argv(wid),
            program: Arc::clone(&self.program),
            env,
            stop_signal: self.spec.stop_signal,
            guard: hold.map(|(_, deadline)| deadline),
            signs: self.signs(),
        }
    }

    /// What its processes are listened to for.
    fn signs(&self) -> Signs {
        let ready = self.spec.ready.as_ref().map(|ready| &ready.check);
        let health = self.spec.health.as_ref();
        let log = |purpose, check: Option<&Check>| match check {
            Some(Check::Log(pattern)) => Some((purpose, pattern.clone())),
            _ => None,
        };
        let watchdog = health.filter(|health| health.check == Check::Notify).map(|health| health.interval);
        Signs {
            notify: ready == Some(&Check::Notify) || watchdog.is_some(),
            watchdog,
            log: [log(Purpose::Ready, ready), log(Purpose::Health, health.map(|health| &health.check))]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// Says in the log what became of the lease, each thing once.
    fn report_lease(&mut self, now: Time, actions: &mut Vec<Action>) {
        let Some(lease) = &self.lease else { return };
        let had = matches!(self.said, Some(Said::Held { .. } | Said::Losing { .. }));
        let said = match lease.hold(now) {
            Hold::Firm { token, .. } => Said::Held { token },
            Hold::Losing { .. } => Said::Losing { why: lease.why().unwrap_or_default() },
            Hold::No if !lease.is_clear() => return,
            Hold::No => match (self.goal == Goal::Run, lease.waits_because()) {
                (true, Some(why)) => Said::Standby { why },
                (false, _) if had => Said::Released,
                _ => return,
            },
        };
        if self.said.as_ref() == Some(&said) {
            return;
        }
        let (level, text) = match &said {
            Said::Held { token } => (Level::Info, format!("lease held, token {token}")),
            Said::Losing { why } => (Level::Warn, format!("{why}; stopping")),
            Said::Standby { why } => (Level::Info, format!("standby: {why}")),
            Said::Released => (Level::Info, "lease released".into()),
        };
        self.say(actions, level, None, &text);
        self.said = Some(said);
    }

    fn say(&self, actions: &mut Vec<Action>, level: Level, wid: Option<u32>, text: &str) {
        let name = &self.spec.name;
        let text = wid.map_or_else(|| format!("{name}: {text}"), |wid| format!("{name}#{wid}: {text}"));
        actions.push(Action::Log { level, text });
    }

    fn stand_back(&self) -> Duration {
        let ttl = self.lease.as_ref().map_or(Duration::ZERO, Lease::ttl);
        (ttl * STAND_BACK_TTLS).clamp(STAND_BACK.0, STAND_BACK.1)
    }

    pub(super) fn publish(&self, news: News, actions: &mut Vec<Action>) {
        actions.push(Action::Publish(Notice { watcher: self.spec.name.clone(), news }));
    }

    // ---- what others see ----

    /// The next deadline of anything inside.
    pub fn next_wakeup(&self, now: Time) -> Option<Time> {
        let processes = self.processes.iter().filter_map(Process::next_wakeup).min();
        let lease = self.lease.as_ref().and_then(Lease::next_wakeup);
        let may_run = matches!(self.hold(now), None | Some(Hold::Firm { .. }));
        let open = matches!(self.stage, Stage::Open | Stage::Confirming | Stage::Settled);
        let growing = open && may_run && !self.must_go();
        let start = growing.then(|| self.open_slots().into_iter().map(|wid| self.start_due(wid)).min()).flatten();
        [processes, lease, start].into_iter().flatten().min()
    }

    /// Whether nothing of it runs and no lease is held: what a stop comes to.
    pub fn is_down(&self) -> bool {
        self.is_empty() && self.lease.as_ref().is_none_or(Lease::is_clear)
    }

    /// Whether nothing of it runs, and no hook of its start or stop is out.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.stage == Stage::Closed
    }

    /// Whether all that runs of it is being killed.
    pub fn is_being_killed(&self) -> bool {
        self.stage == Stage::Draining && self.processes.iter().all(Process::is_being_killed)
    }

    /// Whether the lease is being given away, in an orderly move or after failures.
    pub fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// Whether nothing of it is wanted.
    pub fn is_at_rest(&self) -> bool {
        self.goal != Goal::Run
    }

    /// Whether it gave up.
    pub fn has_failed(&self) -> bool {
        matches!(self.goal, Goal::Rest(Cause::Failed(_)))
    }

    /// Whether what waits for it may go on: it is up, or another node has it up.
    pub fn is_up(&self, now: Time) -> bool {
        matches!(self.state(now), WatcherState::Active | WatcherState::Unhealthy | WatcherState::Standby)
    }

    /// Whether its processes are all as it says they should be: none is being replaced, and it is to become nothing else.
    pub fn is_as_told(&self) -> bool {
        self.roll.is_none() && self.heir.is_none() && !self.recycle
    }

    /// Whether it has as many processes as are wanted, counting those that ended and are not replaced.
    pub fn is_full(&self) -> bool {
        let (there, wanted) = (self.processes.len(), self.numprocesses as usize);
        there <= wanted && there + self.retired.len() >= wanted
    }

    /// Whether nothing of it runs, and since when only the store is waited for.
    pub fn releasing_since(&self) -> Option<Time> {
        self.lease.as_ref().filter(|_| self.is_empty()).and_then(Lease::releasing_since)
    }

    /// Pids of its live main processes, by slot.
    pub fn pids(&self) -> Vec<(u32, u32)> {
        let mut pids: Vec<_> = self.processes.iter().filter_map(|p| Some((p.wid, p.pid()?))).collect();
        pids.sort_unstable();
        pids
    }

    /// Ids of its processes, those included whose tree is being ended.
    pub fn ids(&self) -> Vec<ProcessId> {
        self.processes.iter().map(|process| process.id).collect()
    }

    /// How it is.
    pub fn state(&self, now: Time) -> WatcherState {
        match &self.goal {
            Goal::Rest(_) if !self.is_empty() => WatcherState::Stopping,
            Goal::Rest(Cause::Failed(_)) => WatcherState::Failed,
            Goal::Rest(_) => WatcherState::Stopped,
            Goal::Run => match self.hold(now) {
                Some(Hold::No) => WatcherState::Standby,
                Some(Hold::Losing { .. }) => WatcherState::Stopping,
                Some(Hold::Firm { .. }) | None if self.must_go() => WatcherState::Stopping,
                Some(Hold::Firm { .. }) | None if self.pausing(now).is_some() => WatcherState::Backoff,
                Some(Hold::Firm { .. }) | None => {
                    let up = self.stage == Stage::Settled && self.all_up();
                    match self.processes.iter().any(Process::is_unwell) {
                        _ if !up => WatcherState::Starting,
                        true => WatcherState::Unhealthy,
                        false => WatcherState::Active,
                    }
                }
            },
        }
    }

    /// How long the next start of an open slot is put off because of failures.
    fn pausing(&self, now: Time) -> Option<Duration> {
        let open = self.open_slots();
        let paused = open.iter().filter_map(|wid| self.slots.get(wid));
        paused.filter(|slot| slot.failures() > 0 && slot.next() > now).map(|slot| now.until(slot.next())).min()
    }

    /// Why it is as it is, where that is a question.
    pub fn note(&self, now: Time) -> Option<String> {
        if let (Some(gate), true) = (&self.stop_gate, self.must_go()) {
            return Some(format!("waits for {gate} to stop"));
        }
        match &self.goal {
            Goal::Rest(Cause::NotStarted) => Some("not started".into()),
            Goal::Rest(Cause::Asked) => None,
            Goal::Rest(Cause::Ended(why) | Cause::Failed(why)) => Some(why.clone()),
            Goal::Run => {
                let lease = || self.lease.as_ref().and_then(Lease::why);
                let gate = || {
                    let gate = self.start_gate.as_ref().filter(|_| self.stage == Stage::Closed);
                    gate.map(|gate| format!("waits for {gate}"))
                };
                let pause = || {
                    let end = self.last_end.as_ref().map_or_else(String::new, |(end, _)| format!("{end}, "));
                    self.pausing(now).map(|pause| format!("{end}again in {}", secs(pause)))
                };
                let hook = || match self.stage {
                    Stage::Opening => Some("hook before_start runs".into()),
                    Stage::Confirming => Some("hook after_start runs".into()),
                    Stage::Parting => Some("hook before_stop runs".into()),
                    Stage::Leaving => Some("hook after_stop runs".into()),
                    Stage::Closed | Stage::Open | Stage::Settled | Stage::Draining => None,
                };
                let retired = || match self.retired.len() {
                    0 => None,
                    ended => Some(format!("{ended} of {} ended, and respawn is off", self.numprocesses)),
                };
                let complaint = || {
                    let found = self.processes.iter().find_map(|process| Some((process.wid, process.complaint()?)));
                    found.map(|(wid, why)| format!("#{wid}: {why}"))
                };
                lease().or_else(gate).or_else(pause).or_else(hook).or_else(complaint).or_else(retired)
            }
        }
    }

    fn process_views(&self, now: Time) -> Vec<ProcessView> {
        let mut processes: Vec<_> = self.processes.iter().map(|process| process.view(now)).collect();
        processes.sort_by_key(|process| process.wid);
        processes
    }

    /// What others may see of it.
    pub fn view(&self, now: Time) -> WatcherView {
        let last_exit = self.last_end.as_ref().and_then(|(end, at)| match end {
            End::Exit(exit) => Some((*exit, now.since(*at))),
            End::NoStart(_) | End::Fault(_) => None,
        });
        WatcherView {
            name: self.spec.name.clone(),
            state: self.state(now),
            note: self.note(now),
            numprocesses: self.numprocesses,
            processes: self.process_views(now),
            restarts: self.restarts,
            last_exit,
            next_try: self.pausing(now),
            lease: self.lease.as_ref().map(|lease| lease.view(now)),
        }
    }
}

/// Seconds for people: `0.1 s`, `4 s`.
fn secs(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 10.0 { format!("{secs:.1} s") } else { format!("{secs:.0} s") }
}
