//! Everything that can go wrong.

use std::time::Duration;

use circus_agent::model::command::{Command, Leave, Patience, ReloadWay, RequestId, Target};
use circus_agent::model::event::{Event, Exit};
use circus_agent::model::names::{NodeName, WatcherName};

use crate::network::Link;
use crate::plants::Flaw;
use crate::queue::{OnHost, What};
use crate::store::{Data, Shape, State};
use crate::world::World;

/// One thing that goes wrong, or that people do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    AgentCrashes,
    AgentIsToldToStop,
    AgentIsStopped,
    HostFreezes,
    HostIsCutOff,
    HostIsCutOffFromSome,
    LinkIsSlow,
    OldQuestionArrives,
    ServerDies(Data),
    ServerFreezes,
    DataIsFlushed,
    KeyIsDeleted,
    ServerSavesData,
    MasterDies,
    MasterIsReplaced,
    MasterIsCutOff,
    SlotMoves,
    DateIsSetBack,
    ClockIsSet,
    ChildrenCrash,
    Move,
    MoveTo,
    Restart,
    Reload,
    Kill,
    Remove,
    FileIsRead,
    StopAndStart,
    Rename,
}

/// What may happen in a storm. What stands here twice happens twice as often.
const STORM: &[Fault] = &[
    Fault::AgentCrashes,
    Fault::AgentCrashes,
    Fault::AgentIsToldToStop,
    Fault::AgentIsStopped,
    Fault::AgentIsStopped,
    Fault::HostFreezes,
    Fault::HostFreezes,
    Fault::HostIsCutOff,
    Fault::HostIsCutOff,
    Fault::HostIsCutOffFromSome,
    Fault::LinkIsSlow,
    Fault::LinkIsSlow,
    Fault::OldQuestionArrives,
    Fault::OldQuestionArrives,
    Fault::ServerDies(Data::Kept),
    Fault::ServerDies(Data::Old),
    Fault::ServerDies(Data::Lost),
    Fault::ServerFreezes,
    Fault::ServerFreezes,
    Fault::DataIsFlushed,
    Fault::KeyIsDeleted,
    Fault::ServerSavesData,
    Fault::ServerSavesData,
    Fault::MasterDies,
    Fault::MasterIsReplaced,
    Fault::MasterIsCutOff,
    Fault::SlotMoves,
    Fault::DateIsSetBack,
    Fault::ChildrenCrash,
    Fault::Move,
    Fault::MoveTo,
    Fault::Restart,
    Fault::Reload,
    Fault::Kill,
    Fault::Remove,
    Fault::FileIsRead,
    Fault::StopAndStart,
    Fault::Rename,
];

/// What moves no child as long as it lasts less than a third of the ttl.
const RIPPLES: &[Fault] = &[
    Fault::HostIsCutOff,
    Fault::HostIsCutOffFromSome,
    Fault::OldQuestionArrives,
    Fault::ServerDies(Data::Kept),
    Fault::ServerDies(Data::Lost),
    Fault::ServerFreezes,
    Fault::DataIsFlushed,
    Fault::KeyIsDeleted,
    Fault::MasterIsReplaced,
    Fault::SlotMoves,
    Fault::DateIsSetBack,
    Fault::Rename,
];

impl World {
    /// Some part of so many ttls.
    pub(crate) fn pause(&mut self, ttls: f64) -> Duration {
        self.timings.ttl.mul_f64(ttls * self.random.fraction())
    }

    /// Whether all faults have ended.
    pub(crate) fn at_peace(&self) -> bool {
        self.now >= self.faults_end
    }

    /// Something goes wrong, and something else will, later.
    pub(crate) fn fault(&mut self) {
        if !self.at_peace() {
            let fault = match self.jobs.is_some() && self.random.fraction() < 0.1 {
                true => Fault::ClockIsSet,
                false => STORM[(self.random.number() % STORM.len() as u64) as usize],
            };
            self.goes_wrong(fault, 1.0);
            // Now and then one trouble comes right upon another.
            let pause = if self.random.fraction() < 0.3 { self.pause(0.2) } else { self.pause(2.5) };
            self.after(pause, What::Fault);
        }
    }

    /// Something small goes wrong; what it was.
    pub(crate) fn ripple(&mut self) -> String {
        let fault = match self.jobs.is_some() && self.random.fraction() < 0.1 {
            true => Fault::ClockIsSet,
            false => RIPPLES[(self.random.number() % RIPPLES.len() as u64) as usize],
        };
        self.goes_wrong(fault, 0.05);
        format!("{fault:?}")
    }

    /// `scale` is 1 in a storm: then most of what lasts does so for up to four ttls.
    fn goes_wrong(&mut self, fault: Fault, scale: f64) {
        let host = (self.random.number() % self.hosts.len() as u64) as usize;
        let watcher = self.any_watcher();
        let server = (self.random.number() % self.store.servers.len() as u64) as usize;
        let (group, jumps) = (self.store.servers[server].group, self.store.dates_jump);
        let master = self.store.groups[group].master;
        let pause = self.pause(4.0 * scale);
        self.trace(host, || format!("FAULT {fault:?}, {watcher}, server {server}"));
        // It hears of nothing else before it goes on.
        if self.hosts[host].frozen.is_some() {
            return;
        }
        let named = watcher.to_string();
        match fault {
            Fault::AgentCrashes => self.crash_agent(host),
            Fault::AgentIsToldToStop => {
                let times = if self.random.fraction() < 0.2 { 2 } else { 1 };
                (0..times).for_each(|_| self.report(host, Event::StopAsked { by: "SIGTERM".into() }));
            }
            Fault::AgentIsStopped => {
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.stopped = true;
                    self.after(pause, What::On(host, OnHost::Thaw));
                }
            }
            Fault::HostFreezes => {
                self.freeze(host);
                self.after(pause, What::HostThaws(host));
            }
            Fault::HostIsCutOff => {
                self.hosts[host].cut = true;
                self.after(pause, What::Heal(host));
            }
            Fault::HostIsCutOffFromSome => {
                // From this one; or, in a storm, from all but this one.
                let but_one = scale >= 1.0 && self.random.fraction() < 0.5;
                for one in (0..self.store.servers.len()).filter(|one| (*one == server) != but_one) {
                    self.hosts[host].cut_from.insert(one);
                    self.after(pause, What::Mend { host, server: one });
                }
            }
            Fault::LinkIsSlow => self.slow_down(host),
            Fault::OldQuestionArrives => self.arrive_late(host),
            Fault::ServerDies(data) => {
                let data = if jumps { Data::Kept } else { data };
                let pause = if self.random.number().is_multiple_of(2) { pause / 10 } else { pause };
                self.stop_server(server, State::Down, data, pause);
            }
            Fault::ServerFreezes => self.stop_server(server, State::Frozen, Data::Untouched, pause),
            Fault::DataIsFlushed if jumps => {}
            Fault::DataIsFlushed => {
                self.store.servers[master].redis.flush();
                self.store.changed(master, self.now, self.timings.ttl);
                self.recount_claims(group);
                self.recount_pauses();
            }
            Fault::KeyIsDeleted => {
                let (key, master) = (self.lease(&watcher).lease_key(), self.store.master_of(&watcher));
                self.store.servers[master].redis.delete(&key);
                if self.legion.is_some() {
                    let members = self.lease(&watcher).members_key();
                    self.store.servers[master].redis.delete(&members);
                }
                self.store.changed(master, self.now, self.timings.ttl);
                let pause = self.pause(0.2);
                self.after(pause, What::ArriveLate(host));
            }
            Fault::ServerSavesData => {
                let server = &mut self.store.servers[server];
                server.saved = server.redis.snapshot();
            }
            Fault::MasterDies => {
                self.stop_server(master, State::Down, Data::Kept, pause);
                let noticed = self.pause(1.0);
                self.after(noticed, What::Promote { group });
            }
            Fault::MasterIsReplaced => self.replace_master(group),
            Fault::MasterIsCutOff => self.cut_off_master(group),
            Fault::SlotMoves => {
                if self.store.shape == Shape::Cluster {
                    self.move_slot(&watcher, group);
                }
            }
            Fault::DateIsSetBack => {
                if jumps {
                    self.store.servers[server].ahead -= (self.random.number() % 10_000_000) as i64;
                }
            }
            Fault::ClockIsSet => self.set_clock(host, scale),
            Fault::ChildrenCrash => {
                self.crashes = true;
                let children: Vec<_> = self.hosts[host].children.keys().copied().collect();
                children.into_iter().for_each(|id| self.main_ends(host, id, Exit::Signal(11)));
            }
            Fault::Move => {
                self.moved = true;
                self.command(host, |patience| Command::Failover { watcher: named, to: None, patience });
            }
            Fault::MoveTo => {
                self.moved = true;
                let to = (self.random.number() % self.hosts.len() as u64) as usize;
                let to = Some(self.hosts[to].name.clone());
                self.command(host, |patience| Command::Failover { watcher: named, to, patience });
            }
            Fault::Restart => self.command(host, |patience| Command::Restart { pattern: None, patience }),
            Fault::Reload => {
                let ways = [ReloadWay::Rolling, ReloadWay::Sequential, ReloadWay::Restart];
                let way = ways[(self.random.number() % 3) as usize];
                self.command(host, |patience| Command::Reload { watcher: None, way, patience });
            }
            Fault::Kill => {
                let grace = Some(self.graceful.mul_f64(self.random.fraction()));
                let (pid, signal) = (None, Some(9));
                self.command(host, |patience| Command::Kill { watcher: named, pid, signal, grace, patience });
            }
            Fault::Remove => {
                self.hosts[host].wall.forgot = Some(self.now);
                let leave = Leave::Nothing;
                self.command(host, |patience| Command::Remove { watcher: named, leave, patience });
                self.has_it_again(host);
            }
            Fault::Rename => {
                let to = self.free_name();
                self.command(host, |_| Command::Rename { to });
            }
            Fault::FileIsRead => {
                self.command(host, |patience| Command::ReloadConfig { patience });
                self.has_it_again(host);
            }
            Fault::StopAndStart => {
                self.command(host, |patience| Command::Stop { pattern: None, patience });
                self.command(host, |patience| Command::Start { pattern: None, patience });
            }
        }
    }

    fn any_watcher(&mut self) -> WatcherName {
        self.watchers[(self.random.number() % self.watchers.len() as u64) as usize].clone()
    }

    /// A name that nobody has, as likely as not one that somebody had.
    fn free_name(&mut self) -> NodeName {
        let name = |number| NodeName::parse(&format!("host-{number}")).unwrap();
        let names = (0..2 * self.hosts.len()).map(name);
        let free: Vec<NodeName> = names.filter(|name| self.hosts.iter().all(|host| host.name != *name)).collect();
        free[(self.random.number() % free.len() as u64) as usize].clone()
    }

    fn crash_agent(&mut self, host: usize) {
        if self.hosts[host].agent.take().is_none() {
            return;
        }
        self.hosts[host].life += 1;
        for id in self.hosts[host].children.keys().copied().collect::<Vec<_>>() {
            // Its guards notice and kill, unless they are gone with it.
            match self.flaw {
                Some(Flaw::Orphans) => self.disarm(host, id),
                _ => self.kill(host, id),
            }
        }
        // Sometimes it is back at once, and finds its own old lease.
        let pause = if self.random.number().is_multiple_of(2) { Duration::from_millis(20) } else { self.pause(3.0) };
        self.after(pause.max(Duration::from_millis(10)), What::On(host, OnHost::Boot));
    }

    /// Slow one way or both, up to beyond what the adapter waits for; often followed by nothing at all.
    fn slow_down(&mut self, host: usize) {
        let (there, back) = (self.pause(0.13), self.pause(0.13));
        let loss = if self.random.fraction() < 0.5 { 0.0 } else { 0.5 * self.random.fraction() };
        let there = if self.random.fraction() < 0.5 { Link::GOOD.there } else { there };
        self.hosts[host].link = Link { there, back, loss };
        let pause = self.pause(6.0);
        let next = if self.random.fraction() < 0.5 { What::Cut(host) } else { What::Heal(host) };
        self.after(pause, next);
    }

    /// By hand: the old master follows the new one at once. What had not got there is lost all the same.
    fn replace_master(&mut self, group: usize) {
        let old = self.store.groups[group].master;
        self.fail_over(group);
        self.store.follow(old);
    }

    /// That a master is gone was noticed. It may be back by now: where nobody is asked for acknowledgements it hears at once
    /// that it is none any more, or it would go on granting beside the other.
    pub(crate) fn promote_one(&mut self, group: usize) {
        if self.store.needs_ack {
            self.fail_over(group);
        } else {
            self.replace_master(group);
        }
    }

    /// A master goes on alone, without its replicas, of which one takes its place. Without acknowledgements it would
    /// go on granting: that this may give two is [documented](../../docs/guarantees.md).
    fn cut_off_master(&mut self, group: usize) {
        let old = self.store.groups[group].master;
        if self.store.needs_ack && self.store.servers[old].state == State::Up {
            self.store.part(old, self.now);
            let noticed = self.pause(1.0);
            self.after(noticed, What::Promote { group });
        }
    }

    /// People move the first singleton away from its host.
    pub(crate) fn move_away_from(&mut self, host: usize) {
        let watcher = self.watchers[0].to_string();
        self.command(host, |patience| Command::Failover { watcher, to: None, patience });
    }

    /// What was taken out is put back, so soon that what runs at times might run for the same time again.
    fn has_it_again(&mut self, host: usize) {
        if self.jobs.is_some() && !self.at_peace() {
            let asked = self.asks(Command::ReloadConfig { patience: Patience::Admitted });
            let (life, soon) = (self.hosts[host].life, self.pause(0.5));
            self.after(soon, What::On(host, OnHost::Tell { life, event: asked }));
        }
    }

    fn asks(&mut self, command: Command) -> Event {
        self.asks_as("the simulation".into(), command)
    }

    pub(crate) fn asks_as(&mut self, by: String, command: Command) -> Event {
        self.requests += 1;
        let (request, target) = (RequestId(self.requests), Target::Here);
        Event::Asked { request, by, target, command, limit: None }
    }

    pub(crate) fn command(&mut self, host: usize, command: impl FnOnce(Patience) -> Command) {
        let patience = if self.random.number().is_multiple_of(2) { Patience::Settled } else { Patience::Admitted };
        let asked = self.asks(command(patience));
        self.report(host, asked);
    }

    /// Ends all faults: what is broken is whole, who is away is back.
    pub(crate) fn make_peace(&mut self) {
        for server in 0..self.store.servers.len() {
            let frozen = self.store.servers[server].state == State::Frozen;
            self.server_back(server, if frozen { Data::Untouched } else { Data::Kept });
        }
        (0..self.store.groups.len()).for_each(|group| self.store.reunite(group));
        (0..self.store.servers.len()).for_each(|server| self.store.follow(server));
        self.resume_all();
        for host in 0..self.hosts.len() {
            self.thaw(host);
            self.hosts[host].cut_from.clear();
            self.hosts[host].away = false;
            self.clock_shows(host, 0);
            for group in 0..self.store.groups.len() {
                self.after(Duration::ZERO, What::On(host, OnHost::Learn { group }));
            }
            self.happen(What::Heal(host));
            self.after(Duration::ZERO, What::On(host, OnHost::Thaw));
            self.after(Duration::from_millis(1), What::On(host, OnHost::Boot));
            // Behind what its agent hears when it goes on.
            self.command(host, |patience| Command::ReloadConfig { patience });
            self.command(host, |patience| Command::Start { pattern: None, patience });
        }
    }
}
