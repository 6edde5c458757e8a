//! Faults mixed at random, two at a time: the schedule is a function of its seed and nothing else.
//!
//! `CIRCUS_SEED=N` plays that schedule again; without it each run draws a new one, and prints it.

use std::fmt;
use std::time::Duration;

use circus_agent::model::random::Random;

use crate::agent::send;
use crate::stage::{Setup, Stage};
use crate::store::LEASE;
use crate::verdict::Moment;
use crate::witness::now;

/// How many pairs of faults one run plays.
const ROUNDS: usize = 6;

/// Whom a fault befalls: who that is shows when it is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Whom {
    Holder,
    Waiter,
}

/// What can happen while anything else does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    AgentKilled(Whom),
    AgentEnded(Whom),
    AgentStopped(Whom),
    HostFrozen(Whom),
    CutOff(Whom),
    ChildKilled,
    Moved,
    RedisCutOff,
    RedisFrozen,
    RedisRestarted {
        empty: bool,
    },
    DataFlushed,
    LeaseDeleted,
    ScriptsFlushed,
    ClientsKilled,
    PacketsLost,
    /// The wall clocks of all agents step by so many hours. Those of servers do not: H2 of docs/guarantees.md is
    /// what an agent that is new would make of that.
    ClocksStep(i64),
}

/// One round: a fault, and before it is over another one. Times are in hundredths of a ttl.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    pause: u32,
    faults: [Fault; 2],
    between: u32,
    lasts: u32,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round { pause, faults: [one, other], between, lasts } = self;
        let ttl = |hundredths: &u32| f64::from(*hundredths) / 100.0;
        let (pause, between, lasts) = (ttl(pause), ttl(between), ttl(lasts));
        write!(f, "after {pause} ttl {one:?}, {between} ttl later {other:?}; all is mended {lasts} ttl after that")
    }
}

/// The schedule of a seed.
pub fn schedule(seed: u64) -> Vec<Round> {
    let mut random = Random::from_number(seed);
    let mut below = |end: u32| (random.number() % u64::from(end)) as u32;
    (0..ROUNDS)
        .map(|_| Round {
            pause: below(100),
            faults: [fault(&mut below), fault(&mut below)],
            between: below(150),
            lasts: below(200),
        })
        .collect()
}

fn fault(below: &mut impl FnMut(u32) -> u32) -> Fault {
    let kind = below(16);
    // The holder more often than not: to others little can happen that anybody notices.
    let whom = if below(3) < 2 { Whom::Holder } else { Whom::Waiter };
    match kind {
        0 => Fault::AgentKilled(whom),
        1 => Fault::AgentEnded(whom),
        2 => Fault::AgentStopped(whom),
        3 => Fault::CutOff(whom),
        4 => Fault::ChildKilled,
        5 => Fault::Moved,
        6 => Fault::RedisCutOff,
        7 => Fault::RedisFrozen,
        8 => Fault::RedisRestarted { empty: whom == Whom::Holder },
        9 => Fault::DataFlushed,
        10 => Fault::LeaseDeleted,
        11 => Fault::ScriptsFlushed,
        12 => Fault::ClientsKilled,
        13 => Fault::PacketsLost,
        14 => Fault::HostFrozen(whom),
        _ => Fault::ClocksStep(if whom == Whom::Holder { 5 } else { -5 }),
    }
}

/// Plays the schedule of one seed; after each round all is mended, and one runs soon.
pub fn faults_mixed_at_random(setup: Setup) -> Stage {
    let seed = std::env::var("CIRCUS_SEED").ok().map(|seed| seed.parse().expect("CIRCUS_SEED is a number"));
    let seed = seed.unwrap_or_else(|| now() % 1_000_000);
    // What is frozen keeps the lock, and would tell of two where one of them can do nothing.
    let mut stage = setup.agents(4).child("unlocked").with_clocks().start();
    stage.note(&format!("CIRCUS_SEED={seed}"));
    for round in schedule(seed) {
        println!("{round}");
        let mut broken = Broken::default();
        let part = |hundredths: u32| stage.ttl * hundredths / 100;
        let (pause, between, lasts) = (part(round.pause), part(round.between), part(round.lasts));
        stage.lasts(pause);
        broken.by(&mut stage, round.faults[0]);
        stage.lasts(between);
        broken.by(&mut stage, round.faults[1]);
        stage.lasts(lasts);
        broken.mend(&mut stage);
        stage.serves_again();
    }
    stage
}

/// What has to be mended at the end of a round.
#[derive(Default)]
struct Broken {
    gone: Vec<String>,
    stopped: Vec<String>,
    cold: Vec<(String, Moment, Vec<u32>)>,
    frozen: bool,
}

impl Broken {
    fn by(&mut self, stage: &mut Stage, fault: Fault) {
        match fault {
            Fault::AgentKilled(whom) => {
                if let Some(node) = self.find(stage, whom) {
                    stage.kill_agent(&node);
                    self.gone.push(node);
                }
            }
            Fault::AgentEnded(whom) => {
                if let Some(node) = self.find(stage, whom) {
                    stage.end_agent(&node);
                    self.gone.push(node);
                }
            }
            Fault::AgentStopped(whom) => {
                if let Some(node) = self.find(stage, whom) {
                    stage.agent(&node).signal(libc::SIGSTOP);
                    self.stopped.push(node);
                }
            }
            Fault::HostFrozen(whom) => {
                if let Some(node) = self.find(stage, whom) {
                    let (moment, all) = stage.freeze_host(&node);
                    self.cold.push((node, moment, all));
                }
            }
            Fault::ClocksStep(hours) => stage.clocks().1.step_to(hours * 3600),
            Fault::CutOff(whom) => {
                if let Some(node) = self.find(stage, whom) {
                    stage.net.isolate(stage.host(&node));
                }
            }
            Fault::ChildKilled => stage.witness.running().iter().for_each(|life| send(life.pid, libc::SIGKILL)),
            Fault::Moved => {
                if let Some(node) = self.find(stage, Whom::Holder) {
                    // Refused where nobody could take it.
                    stage.ctl(&node, &["failover", "beat", "--timeout", "1"]);
                }
            }
            Fault::RedisCutOff => stage.store.servers.iter().for_each(|seat| stage.net.isolate(&seat.host)),
            Fault::RedisFrozen => {
                stage.store.freeze_all();
                self.frozen = true;
            }
            // A frozen server hears nothing more.
            _ if self.frozen => {}
            Fault::RedisRestarted { empty } => {
                if !empty {
                    stage.store.tell_all(&["SAVE"]);
                }
                stage.store.kill_all();
                if empty {
                    stage.store.forget_all();
                }
                stage.store.restart_all();
            }
            Fault::DataFlushed => stage.store.tell_keepers(&["FLUSHALL"]),
            Fault::LeaseDeleted => stage.store.tell_keepers(&["DEL", LEASE]),
            Fault::ScriptsFlushed => stage.store.tell_keepers(&["SCRIPT", "FLUSH"]),
            Fault::ClientsKilled => stage.store.tell_keepers(&["CLIENT", "KILL", "TYPE", "normal"]),
            Fault::PacketsLost => stage.net.lose(0.3),
        }
    }

    /// A node whose agent can still be harmed; where nobody holds the lease, or nobody waits, it is any.
    fn find(&self, stage: &Stage, whom: Whom) -> Option<String> {
        let running = stage.witness.running();
        let holds = |node: &&String| running.iter().any(|life| life.node == **node);
        let nodes: Vec<String> = stage.nodes();
        let cold = |node: &String| self.cold.iter().any(|(cold, ..)| cold == node);
        let harmed = |node: &String| self.gone.contains(node) || self.stopped.contains(node) || cold(node);
        let mut whole: Vec<&String> = nodes.iter().filter(|node| !harmed(node)).collect();
        whole.sort_by_key(|node| holds(node) != (whom == Whom::Holder));
        whole.first().map(|node| (*node).clone())
    }

    fn mend(self, stage: &mut Stage) {
        stage.net.mend();
        if self.frozen {
            stage.store.thaw_all();
        }
        self.stopped.iter().for_each(|node| stage.agent(node).signal(libc::SIGCONT));
        for (_, since, all) in &self.cold {
            stage.thaw_host(*since, all);
        }
        self.gone.iter().for_each(|node| stage.start_agent(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_gives_the_same_schedule_each_time_and_another_gives_another() {
        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
        let kinds: BTreeSet<String> = (0..100)
            .flat_map(schedule)
            .flat_map(|round| round.faults)
            .map(|fault| format!("{fault:?}").split(['(', ' ']).next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(kinds.len(), 16, "{kinds:?}");
        assert!(
            (0..100)
                .flat_map(schedule)
                .all(|round| Duration::from_secs(3) * round.lasts / 100 < Duration::from_secs(6))
        );
    }
}
