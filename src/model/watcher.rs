//! A wanted number of children, kept true.
//!
//! Wanted and actual stand apart: commands and events change what is wanted or what is known, and
//! [`Watcher::settle`] then orders what brings the two together. It may be called at any time; called twice it
//! orders nothing twice.
//!
//! A singleton adds one condition, its [`Lease`]: children start only under a firm hold, all of them end when it is
//! being lost, and the lease goes only when nothing of them is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::event::{Action, Ask, Deadline, Exit, Launch, LeaseAnswer, Level, ProcessEvent, ProcessId, Signs};
use super::lease::{After, Hold, Lease, RESERVATION};
use super::names::{ClusterName, LeaseName, NodeName};
use super::process::Process;
use super::random::Random;
use super::restart::Restart;
use super::snapshot::{WatcherState, WatcherView};
use super::spec::{ProgramSpec, WatcherSpec};
use super::time::Time;

/// How long, in ttls, a node stands back from a lease whose child does not run there.
const STAND_BACK_TTLS: u32 = 2;
/// And at least and at most.
const STAND_BACK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    spec: WatcherSpec,
    program: Arc<ProgramSpec>,
    me: (ClusterName, NodeName),
    random: Random,
    goal: Goal,
    numprocesses: u32,
    processes: Vec<Process>,
    slots: BTreeMap<u32, Restart>,
    /// Slots whose process ended and, with `respawn` off, is not replaced.
    retired: BTreeSet<u32>,
    /// No process starts before this: the watcher's warm-up pause.
    pace: Time,
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
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(exit) => exit.fmt(f),
            End::NoStart(why) => f.write_str(why),
        }
    }
}

impl Watcher {
    /// A watcher that nobody has started.
    pub fn new(spec: WatcherSpec, cluster: &ClusterName, node: &NodeName, mut random: Random) -> Watcher {
        let lease = spec.singleton.map(|timings| {
            let name = LeaseName { cluster: cluster.clone(), watcher: spec.name.clone() };
            Lease::new(name, node.clone(), timings, random.branch())
        });
        Watcher {
            program: Arc::new(spec.program.clone()),
            me: (cluster.clone(), node.clone()),
            random,
            goal: Goal::Rest(Cause::NotStarted),
            numprocesses: spec.numprocesses,
            processes: Vec::new(),
            slots: BTreeMap::new(),
            retired: BTreeSet::new(),
            pace: Time::ZERO,
            lease,
            parting: None,
            fed: None,
            said: None,
            restarts: 0,
            last_end: None,
            spec,
        }
    }

    /// Its configuration.
    pub fn spec(&self) -> &WatcherSpec {
        &self.spec
    }

    /// How many processes are wanted.
    pub fn numprocesses(&self) -> u32 {
        self.numprocesses
    }

    /// Its lease, where it is a singleton.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

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

    /// Kills what runs, without grace.
    pub fn kill(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.stop_all(now, now, actions);
    }

    /// Replaces the processes there are: each stops, and its slot starts anew.
    pub fn restart(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.start(now);
        self.stop_all(now, now + self.spec.graceful_timeout, actions);
    }

    /// Wants `by` more or fewer processes, never below none. A singleton's number stays.
    pub fn resize(&mut self, by: i64) -> u32 {
        if self.lease.is_none() {
            let wanted = i64::from(self.numprocesses).saturating_add(by).max(0);
            self.numprocesses = u32::try_from(wanted).unwrap_or(u32::MAX);
        }
        self.numprocesses
    }

    /// Gives the lease away once nothing runs: an orderly move, to `to` where it is named.
    pub fn part(&mut self, to: Option<NodeName>) {
        let whom = to.as_ref().map_or_else(|| "another node".into(), ToString::to_string);
        self.parting = Some((to, After::StandBack { pause: RESERVATION, why: format!("stood back for {whom}") }));
    }

    /// One of its processes changed. Says nothing of processes it does not have.
    pub fn process_changed(&mut self, now: Time, id: ProcessId, event: ProcessEvent, actions: &mut Vec<Action>) {
        let Some(index) = self.processes.iter().position(|process| process.id == id) else { return };
        let wid = self.processes[index].wid;
        let expected = self.processes[index].is_stopping();
        match event {
            ProcessEvent::Spawned { pid } => {
                self.say(actions, Level::Info, Some(wid), &format!("started, pid {pid}"));
                self.processes[index].spawned(now, pid, actions);
            }
            ProcessEvent::SpawnFailed(failure) => {
                self.processes.remove(index);
                self.ended(now, wid, &End::NoStart(failure.to_string()), Duration::ZERO, expected, actions);
            }
            ProcessEvent::Checked { .. } | ProcessEvent::Matched(_) | ProcessEvent::Notified(_) => {}
            ProcessEvent::Exited(exit) => {
                let ran = self.processes[index].exited(now, exit);
                self.ended(now, wid, &End::Exit(exit), ran, expected, actions);
            }
            ProcessEvent::Gone => {
                self.processes.remove(index);
            }
        }
    }

    /// A process ended or never began: decides what comes next for its slot.
    fn ended(&mut self, now: Time, wid: u32, end: &End, ran: Duration, expected: bool, actions: &mut Vec<Action>) {
        self.last_end = Some((end.clone(), now));
        if expected || self.goal != Goal::Run {
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
        } else if spent && self.lease.is_some() {
            let pause = self.stand_back();
            let why = format!("{end}, {failures} times in a row: stood back for another node");
            self.say(actions, Level::Error, Some(wid), &why);
            self.slots.clear();
            self.parting = Some((None, After::StandBack { pause, why }));
        } else if spent {
            self.say(actions, Level::Error, Some(wid), &format!("{end}; given up after {failures} tries"));
            self.goal = Goal::Rest(Cause::Failed(format!("{end}, {failures} times in a row")));
        } else {
            let next =
                if pause.is_zero() { "starting again".into() } else { format!("trying again in {}", secs(pause)) };
            self.say(actions, Level::Warn, Some(wid), &format!("{end}; {next}"));
            self.restarts += u64::from(!never_began);
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

    /// Orders what brings the actual nearer to the wanted.
    pub fn settle(&mut self, now: Time, ids: &mut u64, actions: &mut Vec<Action>) {
        self.advance_lease(now, actions);
        let hold = self.hold(now);
        if let Some(Hold::Firm { deadline, .. }) = hold {
            self.feed(deadline, actions);
        }
        match hold {
            Some(Hold::Losing { kill }) => self.wind_down(now, kill, actions),
            _ if self.goal != Goal::Run || self.parting.is_some() => {
                self.wind_down(now, now + self.spec.graceful_timeout, actions);
            }
            None => self.fill(now, None, ids, actions),
            Some(Hold::Firm { token, deadline }) => self.fill(now, Some((token, deadline)), ids, actions),
            Some(Hold::No) => {}
        }
        for process in &mut self.processes {
            process.wake(now, actions);
        }
        self.advance_lease(now, actions);
        self.report_lease(now, actions);
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

    /// Stops everything in good order, but by `kill` at the latest, and gives the lease away when nothing is left.
    fn wind_down(&mut self, now: Time, kill: Time, actions: &mut Vec<Action>) {
        self.stop_all(now, kill.min(now + self.spec.graceful_timeout), actions);
        if self.processes.is_empty()
            && let Some(lease) = &mut self.lease
        {
            self.fed = None;
            match (&self.goal, self.parting.take()) {
                (Goal::Rest(_), _) => lease.leave(now),
                (Goal::Run, Some((to, after))) => lease.release(now, to, after),
                (Goal::Run, None) => lease.release(now, None, After::Stay),
            }
        }
    }

    fn stop_all(&mut self, now: Time, kill: Time, actions: &mut Vec<Action>) {
        for process in &mut self.processes {
            process.stop(now, self.spec.stop_signal, kill, actions);
        }
    }

    /// Brings the number of processes to what is wanted.
    fn fill(&mut self, now: Time, hold: Option<(u64, Deadline)>, ids: &mut u64, actions: &mut Vec<Action>) {
        self.shrink(now, actions);
        self.grow(now, hold, ids, actions);
    }

    /// Stops the oldest of too many.
    fn shrink(&mut self, now: Time, actions: &mut Vec<Action>) {
        let staying = self.processes.iter().filter(|process| !process.is_stopping()).count();
        let surplus = staying.saturating_sub(self.numprocesses as usize);
        for process in self.processes.iter_mut().filter(|process| !process.is_stopping()).take(surplus) {
            process.stop(now, self.spec.stop_signal, now + self.spec.graceful_timeout, actions);
        }
    }

    /// Starts what is missing and due, one per warm-up pause.
    fn grow(&mut self, now: Time, hold: Option<(u64, Deadline)>, ids: &mut u64, actions: &mut Vec<Action>) {
        for wid in self.open_slots() {
            if self.start_due(wid) > now {
                continue;
            }
            *ids += 1;
            let id = ProcessId(*ids);
            let launch = self.launch(wid, hold);
            actions.push(Action::Spawn { process: id, launch });
            self.processes.push(Process::new(id, wid, now));
            self.pace = now + self.spec.warmup_delay;
        }
    }

    /// The free slots to fill, lowest first. A retired one counts as filled.
    fn open_slots(&self) -> Vec<u32> {
        let filled = self.processes.len() + self.retired.len();
        let missing = (self.numprocesses as usize).saturating_sub(filled);
        let taken = |wid: u32| self.retired.contains(&wid) || self.processes.iter().any(|process| process.wid == wid);
        (1..).filter(|wid| !taken(*wid)).take(missing).collect()
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
            signs: Signs::default(),
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

    /// The next deadline of anything inside.
    pub fn next_wakeup(&self, now: Time) -> Option<Time> {
        let processes = self.processes.iter().filter_map(Process::next_wakeup).min();
        let lease = self.lease.as_ref().and_then(Lease::next_wakeup);
        let may_run = matches!(self.hold(now), None | Some(Hold::Firm { .. }));
        let growing = self.goal == Goal::Run && self.parting.is_none() && may_run;
        let start = growing.then(|| self.open_slots().into_iter().map(|wid| self.start_due(wid)).min()).flatten();
        [processes, lease, start].into_iter().flatten().min()
    }

    /// Whether nothing of it runs and no lease is held: what a stop comes to.
    pub fn is_down(&self) -> bool {
        self.processes.is_empty() && self.lease.as_ref().is_none_or(Lease::is_clear)
    }

    /// Whether the lease is being given away, in an orderly move or after failures.
    pub fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// Whether nothing of it is wanted.
    pub fn is_at_rest(&self) -> bool {
        self.goal != Goal::Run
    }

    /// Whether nothing of it runs, and since when only the store is waited for.
    pub fn releasing_since(&self) -> Option<Time> {
        self.lease.as_ref().filter(|_| self.processes.is_empty()).and_then(Lease::releasing_since)
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
            Goal::Rest(_) if !self.processes.is_empty() => WatcherState::Stopping,
            Goal::Rest(Cause::Failed(_)) => WatcherState::Failed,
            Goal::Rest(_) => WatcherState::Stopped,
            Goal::Run => match self.hold(now) {
                Some(Hold::No) => WatcherState::Standby,
                Some(Hold::Losing { .. }) => WatcherState::Stopping,
                Some(Hold::Firm { .. }) | None => {
                    let running = self.processes.iter().filter(|process| process.is_running()).count();
                    let waiting = self.open_slots().iter().any(|wid| self.pausing(*wid, now).is_some());
                    match running.cmp(&(self.numprocesses as usize)) {
                        _ if self.parting.is_some() => WatcherState::Stopping,
                        std::cmp::Ordering::Less if waiting => WatcherState::Backoff,
                        std::cmp::Ordering::Less => WatcherState::Starting,
                        _ => WatcherState::Active,
                    }
                }
            },
        }
    }

    /// How long a slot's next start is put off because of failures.
    fn pausing(&self, wid: u32, now: Time) -> Option<Duration> {
        self.slots.get(&wid).filter(|slot| slot.failures() > 0 && slot.next() > now).map(|slot| now.until(slot.next()))
    }

    /// Why it is as it is, where that is a question.
    pub fn note(&self, now: Time) -> Option<String> {
        match &self.goal {
            Goal::Rest(Cause::NotStarted) => Some("not started".into()),
            Goal::Rest(Cause::Asked) => None,
            Goal::Rest(Cause::Ended(why) | Cause::Failed(why)) => Some(why.clone()),
            Goal::Run => {
                let lease = self.lease.as_ref().and_then(Lease::why);
                let pause = self.open_slots().iter().filter_map(|wid| self.pausing(*wid, now)).min();
                let end = self.last_end.as_ref().map_or_else(String::new, |(end, _)| format!("{end}, "));
                lease.or_else(|| pause.map(|pause| format!("{end}again in {}", secs(pause))))
            }
        }
    }

    /// What others may see of it.
    pub fn view(&self, now: Time) -> WatcherView {
        let mut processes: Vec<_> = self.processes.iter().map(|process| process.view(now)).collect();
        processes.sort_by_key(|process| process.wid);
        let last_exit = self.last_end.as_ref().and_then(|(end, at)| match end {
            End::Exit(exit) => Some((*exit, now.since(*at))),
            End::NoStart(_) => None,
        });
        WatcherView {
            name: self.spec.name.clone(),
            state: self.state(now),
            note: self.note(now),
            numprocesses: self.numprocesses,
            processes,
            restarts: self.restarts,
            last_exit,
            lease: self.lease.as_ref().map(|lease| lease.view(now)),
        }
    }
}

/// Seconds for people: `0.1 s`, `4 s`.
fn secs(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 10.0 { format!("{secs:.1} s") } else { format!("{secs:.0} s") }
}
