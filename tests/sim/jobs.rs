//! Watchers that run at times in this world: their calendars, how claims of slots get to the servers and back, and the
//! book of who has run what.
//!
//! There are three of a kind: one alone in the cluster, one that follows a legion where there is one, and one that runs on
//! each host. A schedule is a number of seconds here: a slot comes with each that it divides. The adapter is as that of the
//! product: it puts `claim.lua`'s question to all servers and has the product's own [`claim::agreed`] count the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use circus_agent::cluster::claim;
use circus_agent::model::attendance::is_most;
use circus_agent::model::event::{Calendar, Claim, Claimed, Event, Exit, Launch, ProcessId};
use circus_agent::model::names::{NodeName, Owner, WatcherName};
use circus_agent::model::random::Random;
use circus_agent::model::spec::{CronSpec, OnFailure, Slot, WatcherSpec, Zone};

use crate::plants::{Field, Flaw, Plant};
use crate::queue::{Instant, MS, OnHost, SEC, What};
use crate::specs;
use crate::store::{Shape, State};
use crate::witness::Promise;
use crate::world::World;

/// The date at which a world begins, in seconds.
pub(crate) const EPOCH: u64 = 1_700_000_000;
/// What is further ahead of the truth than this no server believes, and no node remembers.
const FAR: u64 = 2 * 3_600;

/// The watchers that run at times.
pub(crate) struct Jobs {
    /// Once in the cluster, under a lease of its own.
    pub(crate) alone: WatcherName,
    /// Once in the cluster, where a legion is led.
    following: Option<WatcherName>,
    /// Once on each host.
    pub(crate) each: WatcherName,
    /// From slot to slot, in seconds; and how late a run may begin.
    period: u64,
    grace: Duration,
    /// Whether slots are so far apart that each has its run, where nothing lasts that goes wrong.
    spread: bool,
    /// Whether clocks are set ahead, so that slots are had before their time.
    run_ahead: bool,
    /// The latest slot that a node took for one that had come, long before it had.
    ahead: u64,
    runs: BTreeMap<(WatcherName, u64), Vec<Run>>,
    /// Of each claim that was granted the groups of servers that have it still.
    kept: BTreeMap<(WatcherName, u64, u64), BTreeSet<usize>>,
    /// What agents were told to be theirs: the host and its life, the watcher, the claim.
    told: BTreeSet<(usize, u64, WatcherName, u64, u64)>,
}

/// One run of one slot.
struct Run {
    at: Instant,
    host: usize,
    token: u64,
}

/// A claim on its way.
pub(crate) struct Asked {
    host: usize,
    life: u64,
    watcher: WatcherName,
    lease: WatcherName,
    claim: Claim,
    node: NodeName,
    /// Who holds the lease, as the host believes.
    owner: Option<Owner>,
    /// The groups of servers that are asked, and what each said.
    groups: Vec<usize>,
    said: Vec<Option<Claimed>>,
    /// How many have granted it while another had the lease there.
    strangers: usize,
    answered: bool,
}

/// What a host's agent goes by when it looks at the calendar.
#[derive(Default)]
pub(crate) struct Wall {
    /// By how much it is wrong, in ns.
    skew: i64,
    /// When it was set last, when it was set back last, and when what the agent knew of the past was lost last.
    set: Option<Instant>,
    set_back: Option<Instant>,
    pub(crate) forgot: Option<Instant>,
}

impl Jobs {
    /// Some in four of ten seeds. Drawn by themselves, so that the others are what they are without.
    pub(crate) fn of(seed: u64, plant: Option<&Plant>, legion: bool, ttl: Duration) -> Option<Jobs> {
        let mut random = Random::from_number(seed ^ 0x10b5_0000_0000);
        let wanted = random.fraction() < 0.4;
        if !plant.map_or(wanted, |plant| plant.field == Field::Jobs) {
            return None;
        }
        let name = |name| WatcherName::parse(name).unwrap();
        let spread = random.fraction() < 0.6;
        let period = match spread {
            true => ttl.mul_f64(1.0 + 4.0 * random.fraction()) + Duration::from_secs(4),
            false => ttl.mul_f64(2.0 * random.fraction()),
        };
        let grace = ttl.mul_f64(1.0 + 2.0 * random.fraction()) + Duration::from_secs(3);
        Some(Jobs {
            alone: name("nightly"),
            following: legion.then(|| name("behind")),
            each: name("rotate"),
            period: period.as_secs() + 1,
            grace,
            spread,
            run_ahead: random.fraction() < 0.5,
            ahead: 0,
            runs: BTreeMap::new(),
            kept: BTreeMap::new(),
            told: BTreeSet::new(),
        })
    }

    fn cron(&self) -> CronSpec {
        CronSpec {
            schedule: self.period.to_string(),
            zone: Zone::Local,
            misfire_grace: self.grace,
            on_failure: OnFailure::Report,
        }
    }

    /// Makes one of the singletons the job that it is to be.
    pub(crate) fn schedule(&self, spec: &mut WatcherSpec) {
        if spec.name == self.alone {
            (spec.cron, spec.ready) = (Some(self.cron()), None);
        }
    }

    /// Those that are no singletons, made of the settings of one.
    pub(crate) fn others(&self, leader: &WatcherName, of: &WatcherSpec) -> impl Iterator<Item = WatcherSpec> {
        let plain = |name: &WatcherName| WatcherSpec {
            cron: Some(self.cron()),
            graceful_timeout: of.graceful_timeout,
            hooks: of.hooks.clone(),
            hook_timeout: of.hook_timeout,
            ..specs::watcher(name.as_str())
        };
        let behind = self.following.as_ref().map(|name| WatcherSpec { follows: Some(leader.clone()), ..plain(name) });
        behind.into_iter().chain([plain(&self.each)])
    }

    /// Another schedule for one of them, of which each slot is one of the usual schedule's, too.
    pub(crate) fn reschedule(spec: &mut WatcherSpec) {
        if let Some(cron) = &mut spec.cron {
            cron.schedule = (2 * period_of(cron)).to_string();
        }
    }

    fn is_one(&self, watcher: &WatcherName) -> bool {
        *watcher == self.alone || *watcher == self.each || self.follows(watcher)
    }

    pub(crate) fn follows(&self, watcher: &WatcherName) -> bool {
        self.following.as_ref() == Some(watcher)
    }

    /// How long it takes after times of trouble until each slot has its run, and until some have had theirs.
    pub(crate) fn ending(&self) -> (Duration, Duration) {
        let settles = self.period() + self.grace;
        (settles, if self.spread { settles + 4 * self.period() } else { Duration::ZERO })
    }

    fn period(&self) -> Duration {
        Duration::from_secs(self.period)
    }
}

fn period_of(cron: &CronSpec) -> u64 {
    cron.schedule.parse().expect("a number of seconds")
}

// ---- calendars ----

impl World {
    /// What a host's clock on the wall shows, in ns of the Unix epoch.
    fn wall(&self, host: usize) -> u64 {
        (EPOCH * SEC + self.now).saturating_add_signed(self.hosts[host].wall.skew)
    }

    /// An agent's adapter looks at the calendar.
    pub(crate) fn read_calendar(&mut self, host: usize, watcher: WatcherName, cron: &CronSpec) {
        let (wall, period) = (self.wall(host), period_of(cron));
        let second = wall / SEC;
        let mut past = second / period * period;
        let (mut late, next) = (Duration::from_nanos(wall - past * SEC), past + period);
        let left = Duration::from_nanos(next * SEC - wall);
        match self.flaw {
            Some(Flaw::SlotFromNow) => past = second,
            Some(Flaw::NeverLate) => late = Duration::ZERO,
            _ => {}
        }
        let truth = EPOCH + self.now / SEC;
        if let Some(jobs) = self.jobs.as_mut().filter(|_| past > truth + 1 && past < truth + FAR) {
            jobs.ahead = jobs.ahead.max(past);
        }
        let calendar = Calendar { now: Slot(second), past: Some((Slot(past), late)), next: Some((Slot(next), left)) };
        self.report(host, Event::CalendarRead { watcher, calendar: Some(calendar) });
    }

    /// Somebody sets a host's clock: by a little where `scale` is small.
    pub(crate) fn set_clock(&mut self, host: usize, scale: f64) {
        let Some(jobs) = &self.jobs else { return };
        let little =
            (2 * (jobs.period() + jobs.grace)).mul_f64(scale.min(1.0) * self.random.fraction()).as_nanos() as i64;
        let little = if scale < 1.0 { little.min(300 * MS as i64) } else { little };
        let hours = (3.0 + 7.0 * self.random.fraction()) * 3_600.0 * SEC as f64;
        let by = match self.random.number() % 8 {
            0 | 1 if scale >= 1.0 => hours as i64 * if self.random.fraction() < 0.5 { 1 } else { -1 },
            2..5 if jobs.run_ahead || scale < 1.0 => little,
            _ => -little,
        };
        // Somebody who sets it again began with looking at another clock.
        self.clock_shows(host, by);
    }

    /// A host's clock is wrong by so much from now on.
    pub(crate) fn clock_shows(&mut self, host: usize, skew: i64) {
        let now = self.now;
        let Some(wall) = self.jobs.is_some().then_some(&mut self.hosts[host].wall) else { return };
        let by = skew - std::mem::replace(&mut wall.skew, skew);
        wall.set = Some(now);
        if by < 0 {
            wall.set_back = Some(now);
        }
        // What has come by a clock that was further ahead than this, the agent does not believe any more.
        if by < -3_600 * SEC as i64 {
            wall.forgot = Some(now);
        }
    }
}

// ---- claims ----

impl World {
    /// An agent claims a slot: it is told whose it is within `timeout`.
    pub(crate) fn claim(
        &mut self,
        host: usize,
        watcher: WatcherName,
        lease: WatcherName,
        claim: Claim,
        timeout: Duration,
    ) {
        let groups: Vec<usize> = match self.store.shape {
            Shape::Majority => (0..self.store.groups.len()).collect(),
            Shape::Standalone | Shape::Cluster => vec![self.hosts[host].homes[&lease]],
        };
        let (life, node) = (self.hosts[host].life, self.hosts[host].name.clone());
        let owner = self.hosts[host].owners.get(&lease).cloned();
        let (said, asked) = (vec![None; groups.len()], self.claims.len());
        let (strangers, answered) = (0, false);
        self.claims.push(Asked { host, life, watcher, lease, claim, node, owner, groups, said, strangers, answered });
        for seat in 0..self.claims[asked].groups.len() {
            let server = self.hosts[host].masters[self.claims[asked].groups[seat]];
            self.send_claim(asked, seat, server);
        }
        if self.flaw == Some(Flaw::RunsBeforeClaim) {
            return self.tell_claim(asked, Claimed::Ours);
        }
        self.after(timeout, What::On(host, OnHost::ClaimEnds { asked }));
    }

    fn send_claim(&mut self, asked: usize, seat: usize, server: usize) {
        let host = self.claims[asked].host;
        let arrives = What::ClaimArrives { asked, seat, server };
        self.set_out(host, server, arrives);
    }

    /// A claim has reached a server.
    pub(crate) fn claim_arrives(&mut self, asked: usize, seat: usize, server: usize) {
        let Asked { host, watcher, lease, claim, node, owner, answered, .. } = &self.claims[asked];
        let (host, watcher, lease, claim, answered) = (*host, watcher.clone(), lease.clone(), *claim, *answered);
        let group = self.store.servers[server].group;
        match self.store.servers[server].state {
            State::Frozen => {
                let later = self.timings.ttl / 10;
                return self.after(later, What::ClaimArrives { asked, seat, server });
            }
            State::Down => return self.claim_returns(asked, seat, server, Claimed::Unknown("refused".into())),
            State::Up => {}
        }
        if self.has_moved(&lease, server) {
            if !answered {
                let master = self.follows_move(host, &lease);
                self.send_claim(asked, seat, master);
            }
            return;
        }
        let (name, date) = (self.lease(&lease), self.store.date(server, self.now));
        let holder = self.store.servers[server].redis.text(&name.lease_key());
        let holds = owner.as_ref().is_some_and(|owner| {
            let holder = holder.as_deref().and_then(Owner::parse);
            holder.is_some_and(|holder| holder.nonce == owner.nonce)
        });
        let words = self.store.servers[server].redis.eval(date, &claim::call(&name, &watcher, node, claim));
        let answer = match words {
            Ok(words) => claim::answer(&words),
            Err(reason) => {
                let expected = reason.starts_with("REPLICA") || reason.contains("READONLY");
                assert!(expected, "the script failed: {reason}");
                Claimed::Unknown(reason)
            }
        };
        self.trace(host, || format!("server {server} answers {watcher} {claim:?} with {answer:?}"));
        let is_ours = answer == Claimed::Ours;
        self.claims[asked].strangers += usize::from(is_ours && !holds);
        // One of several servers may have given who did not win the very token that the others drew; it decides nothing.
        if is_ours && !holds && is_most(self.claims[asked].strangers, self.claims[asked].groups.len()) {
            let how = format!("server {server} gives {watcher} {} to host {host}, while {holder:?} holds", claim.slot);
            self.witness.holds_against(self.now, Promise::ByHolder, &how);
        }
        if let Some(jobs) = self.jobs.as_mut().filter(|_| is_ours) {
            jobs.kept.entry((watcher, claim.slot.0, claim.token)).or_default().insert(group);
        }
        self.store.changed(server, self.now, self.timings.ttl);
        if !is_ours || !self.store.needs_ack {
            return self.claim_returns(asked, seat, server, answer);
        }
        if let Some(lag) = self.store.follower_lag(server) {
            let links = self.store.servers[server].links;
            self.after(lag, What::ClaimAcknowledged { asked, seat, server, links });
        }
    }

    /// A replica has a claim, if none was taken from its server in between.
    pub(crate) fn claim_acknowledged(&mut self, asked: usize, seat: usize, server: usize, links: u64) {
        if self.store.servers[server].links == links {
            self.claim_returns(asked, seat, server, Claimed::Ours);
        }
    }

    fn claim_returns(&mut self, asked: usize, seat: usize, server: usize, answer: Claimed) {
        let host = self.claims[asked].host;
        if self.reaches(host, server) {
            let delay = self.wander(self.hosts[host].link.back);
            self.after(delay, What::On(host, OnHost::ClaimAnswered { asked, seat, answer }));
        }
    }

    /// A server's answer to a claim is back.
    pub(crate) fn claim_answered(&mut self, asked: usize, seat: usize, answer: Claimed) {
        self.claims[asked].said[seat].get_or_insert(answer);
        if self.claims[asked].said.iter().all(Option::is_some) {
            self.claim_ends(asked);
        }
    }

    /// The adapter counts what has come back.
    pub(crate) fn claim_ends(&mut self, asked: usize) {
        let silent = || Claimed::Unknown("no answer in time".to_owned());
        let said: Vec<Claimed> =
            self.claims[asked].said.iter().map(|said| said.clone().unwrap_or_else(silent)).collect();
        let answer = match (self.flaw, claim::agreed(&said)) {
            (Some(Flaw::SilenceIsOurs), Claimed::Unknown(_)) => Claimed::Ours,
            (Some(Flaw::SilenceIsTaken), Claimed::Unknown(_)) => Claimed::Taken { by: "nobody".into() },
            (Some(Flaw::OneClaimIsEnough), _) if said.contains(&Claimed::Ours) => Claimed::Ours,
            (_, agreed) => agreed,
        };
        self.tell_claim(asked, answer);
    }

    fn tell_claim(&mut self, asked: usize, answer: Claimed) {
        let Asked { host, life, watcher, claim, answered, .. } = &mut self.claims[asked];
        let (host, life, watcher, claim) = (*host, *life, watcher.clone(), *claim);
        if std::mem::replace(answered, true) || self.hosts[host].life != life {
            return;
        }
        if let Some(jobs) = self.jobs.as_mut().filter(|_| answer == Claimed::Ours) {
            jobs.told.insert((host, life, watcher.clone(), claim.slot.0, claim.token));
        }
        self.report(host, Event::SlotClaimed { watcher, claim, answer });
    }

    /// A lease goes to another group, with all that was claimed under it.
    pub(crate) fn claims_move(&mut self, lease: &WatcherName, from: usize, to: usize) {
        let Some(mut jobs) = self.jobs.take() else { return };
        let follows = |job: &WatcherName| jobs.following.as_ref() == Some(job) && *lease == self.watchers[0];
        for ((job, ..), groups) in &mut jobs.kept {
            if (job == lease || follows(job)) && groups.remove(&from) {
                groups.insert(to);
            }
        }
        self.jobs = Some(jobs);
    }

    /// A group's data may have become less: which claims it has lost.
    pub(crate) fn recount_claims(&mut self, group: usize) {
        let Some(jobs) = &self.jobs else { return };
        let master = &self.store.servers[self.store.groups[group].master].redis;
        let has = |(job, slot, _): &(WatcherName, u64, u64)| {
            let key = self.lease(&self.lease_of(job)).slots_key();
            let latest = master.field(&key, job.as_str());
            latest.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).is_some_and(|latest| latest >= *slot)
        };
        let kept = jobs.kept.iter().filter(|(_, groups)| groups.contains(&group));
        let lost: Vec<_> = kept.map(|(key, _)| key.clone()).filter(|key| !has(key)).collect();
        for key in lost {
            self.trace(0, || format!("group {group} has lost the claim {key:?}"));
            if let Some(groups) = self.jobs.as_mut().and_then(|jobs| jobs.kept.get_mut(&key)) {
                groups.remove(&group);
            }
        }
    }
}

// ---- the book ----

impl World {
    pub(crate) fn is_job(&self, watcher: &WatcherName) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.is_one(watcher))
    }

    /// A run begins: how it ends is drawn, and whether it may begin is looked up.
    pub(crate) fn run_begins(&mut self, host: usize, id: ProcessId, launch: &Launch) {
        let value = |name: &str| launch.env.iter().find(|(key, _)| *key == name)?.1.parse::<u64>().ok();
        let (slot, token) = (value("CIRCUS_SLOT"), value("CIRCUS_FENCING_TOKEN"));
        let slot = slot.expect("a run knows its slot");
        let (watcher, now) = (&launch.watcher, self.now);
        self.witness.runs += 1;
        let longest = if self.at_peace() { 0.3 } else { 1.3 };
        let Some(jobs) = &self.jobs else { return };
        let lasts = jobs.period().mul_f64(longest * self.random.fraction());
        let exit = Exit::Code(i32::from(self.random.fraction() < 0.25));
        let life = self.hosts[host].life;
        self.after(lasts, What::On(host, OnHost::RunEnds { life, id, exit }));

        let Some(jobs) = &self.jobs else { return };
        let shown = self.wall(host);
        let tolerance = jobs.grace.mul_f64(0.01) + Duration::from_millis(10);
        let latest = slot * SEC + (jobs.grace + tolerance).as_nanos() as u64;
        let set_since = |at: Instant| at + (jobs.grace + tolerance).as_nanos() as u64 >= now;
        let mut broken = None;
        if !slot.is_multiple_of(jobs.period) {
            broken = Some((Promise::OfSchedule, "of which there is none".to_owned()));
        }
        // What a hook takes is part of the run; and a clock that was just set says nothing of how long ago something came.
        if latest < shown && !self.hooked && !self.hosts[host].wall.set.is_some_and(set_since) {
            broken = Some((Promise::InTime, format!("{} ms after it", (shown - slot * SEC) / MS)));
        }
        if let Some(token) = token {
            let life = self.hosts[host].life;
            let deadline = launch.guard.expect("a guard").kill;
            if deadline <= self.local(host) {
                broken = Some((Promise::UnderLease, "after its lease".to_owned()));
            }
            if !jobs.told.contains(&(host, life, watcher.clone(), slot, token)) {
                broken = Some((Promise::UnderLease, format!("with token {token}, with which nobody claimed it")));
            }
        }
        if let Some(how) = jobs.before(self, host, watcher, slot, token) {
            broken = Some((Promise::OncePerSlot, how));
        }
        if let Some((promise, how)) = broken {
            let how = format!("host {host} runs {watcher} for {}, {how}", Slot(slot));
            self.witness.holds_against(now, promise, &how);
        }
        let run = Run { at: now, host, token: token.unwrap_or_default() };
        if let Some(jobs) = &mut self.jobs {
            jobs.runs.entry((watcher.clone(), slot)).or_default().push(run);
        }
    }

    /// From then on each slot has had its run.
    pub(crate) fn expect_each_slot(&mut self, from: Instant) {
        let Some(jobs) = &self.jobs else { return };
        // A server of which the date is wrong takes no claim.
        if !jobs.spread || self.store.dates_jump {
            return;
        }
        let end = self.now.saturating_sub((jobs.grace + Duration::from_secs(1)).as_nanos() as u64);
        let slots = (EPOCH + from / SEC + 1..EPOCH + end / SEC).filter(|slot| slot.is_multiple_of(jobs.period));
        let mut missed = None;
        for slot in slots.filter(|slot| *slot > jobs.ahead) {
            let runs = |watcher: &WatcherName| jobs.runs.get(&(watcher.clone(), slot)).map_or(&[][..], Vec::as_slice);
            for watcher in [Some(&jobs.alone), jobs.following.as_ref()].into_iter().flatten() {
                if runs(watcher).is_empty() {
                    missed = Some(format!("nobody runs {watcher} for {}", Slot(slot)));
                }
            }
            let by_each = |host: usize| runs(&jobs.each).iter().any(|run| run.host == host);
            if let Some(host) = (0..self.hosts.len()).find(|host| !by_each(*host)) {
                missed = Some(format!("host {host} does not run {} for {}", jobs.each, Slot(slot)));
            }
        }
        if let Some(how) = missed {
            self.witness.holds_against(self.now, Promise::EachSlot, &how);
        }
    }
}

impl Jobs {
    /// The run of that slot that there was before, where it is none that may be repeated.
    fn before(
        &self,
        world: &World,
        host: usize,
        watcher: &WatcherName,
        slot: u64,
        token: Option<u64>,
    ) -> Option<String> {
        let runs = self.runs.get(&(watcher.clone(), slot))?;
        let how = |run: &Run| format!("which host {} has run before, {} ms ago", run.host, (world.now - run.at) / MS);
        match token {
            // A claim that the servers have lost is none; but no tenure runs a slot twice.
            Some(token) => {
                let servers = if world.store.shape == Shape::Majority { world.store.groups.len() } else { 1 };
                let kept = |run: &Run| self.kept.get(&(watcher.clone(), slot, run.token)).map_or(0, BTreeSet::len);
                let counts = |run: &&Run| run.token == token || is_most(kept(run), servers);
                runs.iter().find(counts).map(how)
            }
            // Nobody but the agent keeps a record of it: who has forgotten does not know a time that comes again.
            None => {
                let Wall { set_back, forgot, .. } = world.hosts[host].wall;
                // It had come before the hooks that come before its process.
                let hooks = if world.hooked { 2 * world.hook_timeout().as_nanos() as u64 } else { 0 };
                let since = |run: &Run| run.at.saturating_sub(hooks);
                let again =
                    |run: &Run| set_back.is_some_and(|at| at > since(run)) && forgot.is_some_and(|at| at > run.at);
                runs.iter().find(|run| run.host == host && !again(run)).map(how)
            }
        }
    }
}
