//! Bringing the actual nearer to the wanted: up, down, and looking after what runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::hooks::{Facts, Next};
use super::roll::Roll;
use super::sockets::Equipment;
use super::{Goal, Parting, Said, Stage, Watcher};
use crate::model::checkup::Verdict;
use crate::model::event::{Action, Deadline, Launch, LegionPart, Level, News, ProcessId, Reach, Signs, signal_name};
use crate::model::lease::{After, Hold, Lease};
use crate::model::process::{Process, StopDue};
use crate::model::restart::Restart;
use crate::model::spec::{Check, HealthAction, HookPoint, Purpose};
use crate::model::time::Time;

impl Watcher {
    /// Learns how it stands with its lease, before anybody settles: who follows it has to know.
    pub fn consult(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.attend(now, actions);
        self.advance_lease(now, actions);
        self.yield_to_verdict(now, actions);
        self.yield_to_pause(now, actions);
    }

    /// Orders what brings the actual nearer to the wanted.
    pub fn settle(&mut self, now: Time, ids: &mut u64, actions: &mut Vec<Action>) {
        self.advance_lease(now, actions);
        let hold = self.hold(now);
        if let Some(Hold::Firm { deadline, .. }) = hold {
            self.feed(deadline, actions);
        }
        self.look_after(now, actions);
        self.fit_lanes(ids, actions);
        self.fit_demand(now, actions);
        self.keep_time(now, actions);
        match hold {
            Some(Hold::Losing { kill }) => self.wind_down(now, Some(kill), actions),
            _ if self.must_go() => self.wind_down(now, None, actions),
            Some(Hold::Firm { .. } | Hold::No) | None => {}
        }
        // What has just gone down may rise again at once, without its lease or under one it kept.
        if !self.must_go() {
            match self.hold(now) {
                None => self.rise(now, None, ids, actions),
                Some(Hold::Firm { token, deadline }) => self.rise(now, Some((token, deadline)), ids, actions),
                Some(Hold::Losing { .. } | Hold::No) => {}
            }
        }
        self.carry_out_stops(now, actions);
        self.look_out(now, actions);
        self.order_calls(now, ids, actions);
        self.attend(now, actions);
        self.advance_lease(now, actions);
        self.order_affairs(now, ids, actions);
        self.report_lease(now, actions);
    }

    /// Whether it is on its way down, or has to be.
    pub(super) fn must_go(&self) -> bool {
        self.has_to_part()
            || self.is_asleep()
            || self.is_between_slots()
            || matches!(self.stage, Stage::Parting | Stage::Draining | Stage::Leaving)
    }

    /// Whether it is to go down though there is something for it to do.
    pub(super) fn has_to_part(&self) -> bool {
        self.goal != Goal::Run || self.parting.is_some() || self.recycle || self.heir.is_some() || self.is_led_away()
    }

    fn advance_lease(&mut self, now: Time, actions: &mut Vec<Action>) {
        let mut questions = Vec::new();
        if let Some(lease) = &mut self.lease {
            lease.advance(now, &mut questions);
        }
        self.put(questions, actions);
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
                    let text = format!("{why}; sending {}", signal_name(signal));
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
        // What follows it goes before it, unless there is no time for that.
        if (self.stop_gate.is_some() || self.held_up_by.is_some()) && kill.is_none() && self.stage != Stage::Draining {
            return;
        }
        self.roll = None;
        if kill.is_some() {
            self.hurry_hooks(actions);
        }
        match self.stage {
            Stage::Leaving if kill.is_some() => self.stage = Stage::Closed,
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
            if self.processes.is_empty() && self.has_undone(now, kill, actions) {
                self.say(actions, Level::Info, None, "stopped");
                self.publish(News::Stop, actions);
                let asked = self.call(HookPoint::AfterStop, Facts::default(), Next::Close);
                self.stage = if asked { Stage::Leaving } else { Stage::Closed };
            }
        }
        // A hook that still runs is something left of it, and so is what follows it.
        let is_over = self.calls.is_empty() && self.held_up_by.is_none();
        if self.stage == Stage::Closed && (self.lease.is_none() || is_over) {
            self.part_from_lease(now, kill.is_some(), actions);
        }
    }

    /// Nothing of it is left: gives the lease away, unless it is to run again under it, and becomes what it is to be.
    fn part_from_lease(&mut self, now: Time, losing: bool, actions: &mut Vec<Action>) {
        self.tell_ending(now, losing, actions);
        let elected = self.legion.is_some();
        let to = self.parting.as_ref().and_then(|parting| self.heir_of(now, parting));
        if let Some(lease) = &mut self.lease {
            match (&self.goal, self.parting.take()) {
                (Goal::Rest(_), _) => lease.leave(now),
                (Goal::Run, Some(Parting { after, .. })) => lease.release(now, to, after),
                (Goal::Run, None) if self.heir.is_some() => lease.leave(now),
                (Goal::Run, None) if losing && elected => {
                    lease.release(now, None, After::Aside { why: String::new() });
                }
                (Goal::Run, None) if losing => lease.release(now, None, After::Stay),
                (Goal::Run, None) => {}
            }
            self.fed = None;
        }
        self.recycle = false;
        if self.lease.as_ref().is_none_or(Lease::is_clear)
            && let Some(heir) = self.heir.take()
        {
            // What it was told was of the leader before.
            self.led = None;
            self.become_spec(*heir);
            self.lease = self.new_lease();
            if let (Some(lease), Goal::Run, None) = (&mut self.lease, &self.goal, &self.legion) {
                lease.want(now);
            }
        }
    }

    /// Asks all processes to stop; each is killed at `kill`.
    pub(super) fn stop_all(&mut self, kill: Time) {
        let (signal, reach) = (self.spec.stop_signal, self.stop_reach());
        for process in &mut self.processes {
            process.stop(signal, reach, kill, false);
        }
    }

    /// Asks one process to stop; `quiet`: its end is no news.
    pub(super) fn stop_one(&mut self, id: ProcessId, now: Time, quiet: bool) {
        let (signal, reach, kill) = (self.spec.stop_signal, self.stop_reach(), now + self.spec.graceful_timeout);
        self.with_process(id, |process| process.stop(signal, reach, kill, quiet));
    }

    pub(super) fn stop_reach(&self) -> Reach {
        if self.spec.stop_children { Reach::MainAndChildren } else { Reach::Main }
    }

    pub(super) fn with_process(&mut self, id: ProcessId, then: impl FnOnce(&mut Process)) {
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
    pub(super) fn send_unless_vetoed(&mut self, id: ProcessId, signal: i32, reach: Reach, actions: &mut Vec<Action>) {
        let facts = self.signal_facts(id, signal);
        if !self.call(HookPoint::BeforeSignal, facts, Next::Send { process: id, signal, reach }) {
            self.send(id, signal, reach, actions);
        }
    }

    pub(super) fn send(&mut self, id: ProcessId, signal: i32, reach: Reach, actions: &mut Vec<Action>) {
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
        // What runs goes on where a socket was taken from it: nothing could take its place.
        let may_start = self.has_its_sockets();
        if self.stage == Stage::Closed && self.start_gate.is_none() && may_start {
            let asked = self.call(HookPoint::BeforeStart, Facts::default(), Next::Open);
            self.stage = if asked { Stage::Opening } else { Stage::Open };
        }
        if !matches!(self.stage, Stage::Open | Stage::Confirming | Stage::Settled) {
            return;
        }
        if may_start {
            self.advance_roll(now, actions);
        }
        self.shrink(now);
        self.fit_lanes(ids, actions);
        if may_start {
            self.grow(now, hold, ids, actions);
        }
        if self.stage == Stage::Open && self.all_up() {
            match self.call(HookPoint::AfterStart, Facts::default(), Next::Settle) {
                true => self.stage = Stage::Confirming,
                false => self.settle_in(actions),
            }
        }
    }

    /// It has come up.
    pub(super) fn settle_in(&mut self, actions: &mut Vec<Action>) {
        self.stage = Stage::Settled;
        self.say(actions, Level::Info, None, "started");
        self.publish(News::Start, actions);
    }

    /// Whether all are up that are to be: of those that ended and are not replaced nothing more is expected.
    pub(super) fn all_up(&self) -> bool {
        self.up() + self.retired.len() >= self.numprocesses as usize
    }

    /// How many are.
    pub(super) fn up(&self) -> usize {
        self.processes.iter().filter(|process| process.is_up()).count()
    }

    /// How many processes there may be now.
    pub(super) fn allowed(&self) -> usize {
        self.numprocesses as usize + self.roll.as_ref().map_or(0, |roll| roll.surplus(&self.processes))
    }

    /// Stops the oldest of too many.
    fn shrink(&mut self, now: Time) {
        let staying = self.processes.iter().filter(|process| process.is_staying());
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
                let launch = self.launch(now, process, wid, hold);
                actions.push(Action::Spawn { process, launch });
            }
        }
    }

    /// The free slots to fill. Those whose process failed come first, each with its own pause, then the lowest. A retired
    /// one counts as filled.
    pub(super) fn open_slots(&self) -> Vec<u32> {
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
    pub(super) fn start_due(&self, wid: u32) -> Time {
        self.slots.get(&wid).map_or(Time::ZERO, Restart::next).max(self.pace)
    }

    fn launch(&mut self, now: Time, process: ProcessId, wid: u32, hold: Option<(u64, Deadline)>) -> Launch {
        let Equipment { argv, telling, sockets, stdin, ack } = self.equip(process, wid);
        let (cluster, node) = &self.me;
        let mut env = vec![
            ("CIRCUS_CLUSTER".to_owned(), cluster.to_string()),
            ("CIRCUS_NODE".to_owned(), node.to_string()),
            ("CIRCUS_WATCHER".to_owned(), self.spec.name.to_string()),
            ("CIRCUS_WID".to_owned(), wid.to_string()),
        ];
        env.extend(self.run_env());
        if let Some((token, _)) = hold {
            let (key, legion) = self.lease_env(now);
            env.push(("CIRCUS_FENCING_TOKEN".to_owned(), token.to_string()));
            env.extend(key.map(|key| ("CIRCUS_LEASE_KEY".to_owned(), key)));
            env.extend(legion);
        }
        Launch {
            watcher: self.spec.name.clone(),
            wid,
            argv,
            program: Arc::clone(&self.program),
            env,
            socket_env: telling.env,
            pids: telling.pids,
            sockets,
            stdin,
            stop_signal: self.spec.stop_signal,
            guard: hold.map(|(_, deadline)| deadline),
            legion: self.legion_part(),
            signs: Signs { ack, ..self.signs() },
        }
    }

    /// What its processes are in a legion.
    fn legion_part(&self) -> Option<LegionPart> {
        let follows = self.spec.follows.clone().map(|of| LegionPart::Follower { of });
        if self.spec.legion.is_some() { Some(LegionPart::Lord) } else { follows }
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
            ack: false,
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
}
