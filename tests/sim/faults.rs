//! Everything that can go wrong.

use std::time::Duration;

use circus_agent::model::command::{Command, Leave, Patience, ReloadWay, RequestId, Target};
use circus_agent::model::event::{Event, Exit};

use crate::network::Link;
use crate::queue::What;
use crate::store::{Data, Server};
use crate::world::World;

impl World {
    pub(crate) fn pause(&mut self, ttls: f64) -> Duration {
        self.timings.ttl.mul_f64(ttls * self.random.fraction())
    }

    pub(crate) fn at_peace(&self) -> bool {
        self.now >= self.faults_end
    }

    pub(crate) fn fault(&mut self) {
        if self.now >= self.faults_end {
            return;
        }
        let host = (self.random.number() % self.hosts.len() as u64) as usize;
        let fault = self.random.number() % 22;
        self.trace(host, || format!("FAULT {fault}"));
        match fault {
            0 | 1 => self.crash_agent(host),
            2 => {
                let times = if self.random.fraction() < 0.2 { 2 } else { 1 };
                (0..times).for_each(|_| self.report(host, Event::StopAsked { by: "SIGTERM".into() }));
            }
            3 | 4 => {
                if let Some(agent) = &mut self.hosts[host].agent {
                    agent.frozen = true;
                    let pause = self.pause(4.0);
                    self.after(pause, What::Thaw { host });
                }
            }
            5 | 6 => self.happen(What::Cut { host }),
            7 => {
                // Slow one way or both, up to beyond what the adapter waits for; often followed by nothing at all.
                let mut slow = || self.timings.ttl.mul_f64(0.13 * self.random.fraction());
                let (there, back) = (slow(), slow());
                let loss = if self.random.fraction() < 0.5 { 0.0 } else { 0.5 * self.random.fraction() };
                let there = if self.random.fraction() < 0.5 { Link::GOOD.there } else { there };
                self.hosts[host].link = Link { there, back, loss };
                let pause = self.pause(6.0);
                let next = if self.random.fraction() < 0.5 { What::Cut { host } } else { What::Heal { host } };
                self.after(pause, next);
            }
            8 => {
                let data = [Data::Kept, Data::Lost][(self.random.number() % 2) as usize];
                self.stop_server(Server::Down, data);
            }
            9 => self.stop_server(Server::Down, Data::Old),
            10 => self.stop_server(Server::Frozen, Data::Untouched),
            11 => self.redis.flush(),
            12 => self.redis.delete("circus:{test/beat}:lease"),
            13 => {
                self.crashes = true;
                let children: Vec<_> = self.hosts[host].children.keys().copied().collect();
                children.into_iter().for_each(|id| self.main_ends(host, id, Exit::Signal(11)));
            }
            14 => self.command(host, |patience| Command::Failover { watcher: "beat".into(), to: None, patience }),
            15 => {
                let to = (self.random.number() % self.hosts.len() as u64) as usize;
                let to = Some(self.hosts[to].name.clone());
                self.command(host, |patience| Command::Failover { watcher: "beat".into(), to, patience });
            }
            16 => self.command(host, |patience| Command::Restart { pattern: None, patience }),
            17 => {
                let ways = [ReloadWay::Rolling, ReloadWay::Sequential, ReloadWay::Restart];
                let way = ways[(self.random.number() % 3) as usize];
                self.command(host, |patience| Command::Reload { watcher: None, way, patience });
            }
            18 => {
                let grace = Some(self.graceful.mul_f64(self.random.fraction()));
                let (watcher, pid, signal) = ("beat".into(), None, Some(9));
                self.command(host, |patience| Command::Kill { watcher, pid, signal, grace, patience });
            }
            19 => {
                let (watcher, leave) = ("beat".into(), Leave::Nothing);
                self.command(host, |patience| Command::Remove { watcher, leave, patience });
            }
            20 => self.command(host, |patience| Command::ReloadConfig { patience }),
            _ => {
                self.command(host, |patience| Command::Stop { pattern: None, patience });
                self.command(host, |patience| Command::Start { pattern: None, patience });
            }
        }
        if self.random.fraction() < 0.3 {
            self.snapshot = self.redis.snapshot();
        }
        let pause = self.pause(2.0);
        self.after(pause, What::Fault);
    }

    pub(crate) fn crash_agent(&mut self, host: usize) {
        if self.hosts[host].agent.take().is_none() {
            return;
        }
        self.hosts[host].life += 1;
        // Its guards notice and kill.
        for id in self.hosts[host].children.keys().copied().collect::<Vec<_>>() {
            self.kill(host, id);
        }
        // Sometimes it is back at once, and finds its own old lease.
        let pause = if self.random.number().is_multiple_of(2) { Duration::from_millis(20) } else { self.pause(3.0) };
        self.after(pause.max(Duration::from_millis(10)), What::Boot { host });
    }

    pub(crate) fn stop_server(&mut self, state: Server, data: Data) {
        if self.server == Server::Up {
            self.server = state;
            let long = if self.random.number().is_multiple_of(2) { 0.3 } else { 3.0 };
            let pause = self.pause(long);
            self.after(pause, What::ServerBack { data });
        }
    }

    pub(crate) fn command(&mut self, host: usize, command: impl FnOnce(Patience) -> Command) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let patience = if self.random.number().is_multiple_of(2) { Patience::Settled } else { Patience::Admitted };
        self.report(host, Event::Asked { request, target: Target::Here, command: command(patience), limit: None });
    }

    /// Ends all faults: what is broken is whole, who is away is back.
    pub(crate) fn make_peace(&mut self) {
        if self.server != Server::Up {
            let data = if self.server == Server::Frozen { Data::Untouched } else { Data::Kept };
            self.happen(What::ServerBack { data });
        }
        for host in 0..self.hosts.len() {
            self.happen(What::Heal { host });
            self.happen(What::Thaw { host });
            self.happen(What::Boot { host });
            self.command(host, |patience| Command::ReloadConfig { patience });
            self.command(host, |patience| Command::Start { pattern: None, patience });
        }
    }
}
