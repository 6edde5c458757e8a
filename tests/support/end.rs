//! An agent's end of the shared world, driven by a test by hand.

#![allow(unreachable_pub, dead_code)] // Included by several test files, each a crate of its own, which use a part.

use std::time::{Duration, Instant};

use circus_agent::cluster::{BusQuestion, Me, Redis, Standing};
use circus_agent::model::command::{NodeAbout, NodeRow, RequestId};
use circus_agent::model::election::{Membership, Muster, Word};
use circus_agent::model::event::{
    Ask, AskKind, Claim, Claimed, Event, LeaseAnswer, Schedule, ScheduleRead, TokenState,
};
use circus_agent::model::history::Entry;
use circus_agent::model::names::{ClusterName, LeaseName, NodeName, Owner, WatcherName};
use circus_agent::model::pause::{Told, Wish};
use circus_agent::model::spec::{RedisSpec, Secret};
use circus_agent::model::stats::Machine;
use circus_agent::model::time::Time;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Longer than anything here takes, shorter than anybody's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const TTL: Duration = Duration::from_millis(600);
/// How long one ask may take.
pub const ASK: Duration = Duration::from_millis(500);

pub fn cluster() -> ClusterName {
    ClusterName::parse("prod").unwrap()
}

pub fn beat() -> WatcherName {
    WatcherName::parse("beat").unwrap()
}

/// What runs at times under the lease.
pub fn job() -> WatcherName {
    WatcherName::parse("job").unwrap()
}

pub fn lease() -> LeaseName {
    lease_of(&beat())
}

/// The lease of a watcher.
#[allow(dead_code, reason = "not every test has another")]
pub fn lease_of(watcher: &WatcherName) -> LeaseName {
    LeaseName { cluster: cluster(), watcher: watcher.clone(), key: None }
}

pub fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub fn owner(node: &str, nonce: u128) -> Owner {
    Owner { node: NodeName::parse(node).unwrap(), nonce }
}

pub fn ask(owner: &Owner, kind: AskKind) -> Ask {
    Ask { owner: owner.clone(), sent: Time::ZERO, kind }
}

pub fn take(owner: &Owner) -> Ask {
    ask(owner, AskKind::Take { ttl: TTL, longest: TTL, seen: None })
}

pub fn refresh(owner: &Owner, token: u64) -> Ask {
    ask(owner, AskKind::Refresh { ttl: TTL, token })
}

pub fn release(owner: &Owner) -> Ask {
    ask(owner, AskKind::Release { to: None })
}

/// A Redis of which the URL says everything.
pub fn at(url: &str) -> RedisSpec {
    RedisSpec::at(Secret::new(url.into()))
}

pub fn boottime() -> Time {
    Time::ZERO + Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap())
}

/// An agent's end of the shared world.
pub struct Agent {
    pub redis: Redis,
    pub events: mpsc::Receiver<Event>,
    pub questions: mpsc::Receiver<BusQuestion>,
    pub standing: watch::Sender<Standing>,
    node: NodeName,
}

impl Agent {
    pub fn start(url: &str, name: &str, instance: u128) -> Agent {
        Agent::start_at(at(url), name, instance)
    }

    pub fn start_at(redis: RedisSpec, name: &str, instance: u128) -> Agent {
        let (told, events) = mpsc::channel(256);
        let (asked, questions) = mpsc::channel(16);
        let about = NodeAbout { version: "0.1.0".into(), host: format!("host-{name}"), pid: 7, ..NodeAbout::default() };
        let (standing, stands) = watch::channel(Standing { about, draining: false });
        let (leases, machine) = (vec![lease()], Machine::default);
        let me = Me { redis, cluster: cluster(), node: node(name), instance, leases, standing: stands, machine };
        Agent { redis: Redis::start(me, told, asked), events, questions, standing, node: node(name) }
    }

    /// One that has reached Redis and hears it.
    pub async fn ready(url: &str, name: &str, instance: u128) -> Agent {
        let mut agent = Agent::start(url, name, instance);
        agent.up_and_heard().await;
        agent
    }

    /// Waits for the link and the subscription, whichever comes first.
    pub async fn up_and_heard(&mut self) {
        let (mut up, mut hears) = (false, false);
        while !(up && hears) {
            match self.event().await {
                Event::StoreUp => up = true,
                Event::LeaseFreed { .. } => hears = true,
                Event::StoreDown { .. } | Event::StoreSeen { .. } | Event::StoreMissed(_) | Event::Lease { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("an event")
    }

    /// The first event of the kind that `pick` wants; those before it are passed over.
    pub async fn next<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.event().await) {
                return picked;
            }
        }
    }

    pub async fn up(&mut self) {
        self.next(|event| (event == Event::StoreUp).then_some(())).await;
    }

    pub async fn down(&mut self) -> String {
        let down = |event| if let Event::StoreDown { reason } = event { Some(reason) } else { None };
        self.next(down).await
    }

    pub async fn freed(&mut self) {
        let freed = Event::LeaseFreed { watcher: beat() };
        self.next(|event| (event == freed).then_some(())).await;
    }

    pub async fn ask(&mut self, ask: &Ask) -> LeaseAnswer {
        self.ask_within(ask, ASK).await
    }

    pub async fn ask_within(&mut self, ask: &Ask, patience: Duration) -> LeaseAnswer {
        self.redis.ask(&lease(), ask.clone(), patience);
        self.answer(ask).await
    }

    pub async fn answer(&mut self, wanted: &Ask) -> LeaseAnswer {
        let answer = |event| match event {
            Event::Lease { watcher, ask, answer } if watcher == beat() && ask == *wanted => Some(answer),
            _ => None,
        };
        self.next(answer).await
    }

    /// Releases the lease, and waits for the answer and, for as long as `patience`, for its announcement, whichever comes
    /// first: what is left of the two where it does not.
    pub async fn release(&mut self, ask: &Ask, patience: Duration) -> Vec<Event> {
        let answered = Event::Lease { watcher: beat(), ask: ask.clone(), answer: LeaseAnswer::Released };
        let mut missing = vec![answered, Event::LeaseFreed { watcher: beat() }];
        self.redis.ask(&lease(), ask.clone(), ASK);
        let both = async {
            while !missing.is_empty() {
                let event = self.event().await;
                missing.retain(|other| *other != event);
            }
        };
        let _ = timeout(patience, both).await;
        missing
    }

    pub async fn granted(&mut self, ask: &Ask) -> u64 {
        match self.ask(ask).await {
            LeaseAnswer::Granted { token } => token,
            other => panic!("{other:?}"),
        }
    }

    pub async fn failed(&mut self, ask: &Ask) -> String {
        match self.ask(ask).await {
            LeaseAnswer::Failed { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    pub async fn init(&mut self) -> Result<(), String> {
        self.redis.init_lease(RequestId(1), &lease());
        self.next(|event| match event {
            Event::LeaseInitialised { request: RequestId(1), result } => Some(result),
            _ => None,
        })
        .await
    }

    /// Pauses the lease, lets it be taken again, or tells how that stands.
    pub async fn pause(&mut self, wish: Wish) -> Result<Told, String> {
        self.redis.pause_lease(RequestId(7), &lease(), wish);
        self.next(|event| match event {
            Event::LeasePaused { request: RequestId(7), result } => Some(result),
            _ => None,
        })
        .await
    }

    /// Tells what this node says of itself, and gives who contends for the lease.
    pub async fn muster(&mut self, membership: Option<Membership>) -> Result<Muster, String> {
        let now = boottime();
        self.says(now, membership);
        self.mustered(now).await
    }

    /// The same under another name of this agent.
    pub async fn muster_as(&mut self, name: &str, membership: Option<Membership>) -> Result<Muster, String> {
        let now = boottime();
        self.redis.muster(&lease(), Word { sent: now, node: node(name), membership, timeout: PATIENCE });
        self.mustered(now).await
    }

    /// The same at a time of its own; [`Agent::mustered`] waits for the answer.
    pub fn says(&self, sent: Time, membership: Option<Membership>) {
        self.redis.muster(&lease(), Word { sent, node: self.node.clone(), membership, timeout: PATIENCE });
    }

    /// The answer to the question sent at `at`.
    pub async fn mustered(&mut self, at: Time) -> Result<Muster, String> {
        self.next(|event| match event {
            Event::Mustered { watcher, sent, result } if watcher == beat() && sent == at => Some(result),
            _ => None,
        })
        .await
    }

    /// Claims a slot of this watcher under the lease.
    pub async fn claim(&mut self, watcher: &WatcherName, claim: Claim) -> Claimed {
        self.redis.claim(watcher.clone(), &lease(), claim, PATIENCE);
        self.next(|event| match event {
            Event::SlotClaimed { watcher: of, claim: asked, answer } if of == *watcher && asked == claim => {
                Some(answer)
            }
            _ => None,
        })
        .await
    }

    /// The server's clock, and what it keeps of the lease.
    pub async fn history(&mut self) -> Result<(u64, Vec<Entry>), String> {
        self.redis.read_history(RequestId(4), &[lease()], vec![]);
        self.next(|event| match event {
            Event::HistoryRead { request: RequestId(4), read } => {
                Some(read.map(|mut read| (read.now, read.leases.remove(0).1)))
            }
            _ => None,
        })
        .await
    }

    /// What it keeps, the latest first, once there is so much of it.
    pub async fn facts(&mut self, count: usize) -> Vec<Entry> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let read = self.history().await;
            match read {
                Ok((_, entries)) if entries.len() >= count => return entries,
                read => assert!(Instant::now() < deadline, "{read:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the store keeps of its schedule.
    pub async fn runs(&mut self) -> ScheduleRead {
        let schedules = vec![Schedule { watcher: job(), lease: lease() }];
        self.redis.read_history(RequestId(6), &[], schedules);
        self.next(|event| match event {
            Event::HistoryRead { request: RequestId(6), read } => Some(read.unwrap().schedules.remove(0)),
            _ => None,
        })
        .await
    }

    /// How a token stands.
    pub async fn check(&mut self, token: u64) -> Result<TokenState, String> {
        self.redis.check_lease(RequestId(5), &lease(), token);
        self.next(|event| match event {
            Event::LeaseChecked { request: RequestId(5), result } => Some(result),
            _ => None,
        })
        .await
    }

    /// The registry.
    pub async fn roster(&mut self) -> Vec<NodeRow> {
        self.redis.read_roster(RequestId(2));
        self.next(|event| match event {
            Event::RosterRead { request: RequestId(2), rows } => Some(rows.unwrap()),
            _ => None,
        })
        .await
    }

    /// The registry, once it looks as wanted.
    pub async fn roster_until(&mut self, wanted: impl Fn(&[NodeRow]) -> bool) -> Vec<NodeRow> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.roster().await;
            if wanted(&rows) {
                return rows;
            }
            assert!(Instant::now() < deadline, "{rows:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Answers one question.
    pub async fn reply(&mut self, text: &str) -> BusQuestionSeen {
        let question = timeout(PATIENCE, self.questions.recv()).await.expect("a question in time").unwrap();
        let BusQuestion { line, from, answer } = question;
        answer.send(text.to_owned()).unwrap();
        BusQuestionSeen { line, from }
    }
}

#[derive(Debug, PartialEq)]
pub struct BusQuestionSeen {
    pub line: String,
    pub from: String,
}
