//! [`Redis`]: all that an agent does in the shared world. Each call returns at once; what comes of it is an [`Event`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLock, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::bus::{self, Bus};
use super::events::Publisher;
use super::history::{self, Recorder};
use super::registry::{self, Called, Name};
use super::scripts;
use super::seal::Seal;
use super::servers::{Server, Servers};
use super::subscription::{self, Channels, Heard};
use super::tell::{self, Mouths};
use super::word::{Subject, Words};
use super::{claim, keys, muster, pause, watch as onlookers};
use crate::model::attendance::Attendance;
use crate::model::command::{NodeAbout, RequestId};
use crate::model::election::Word;
use crate::model::event::{Ask, Claim, Event, Schedule};
use crate::model::history::Fact;
use crate::model::names::{ClusterName, LeaseName, NodeName, WatcherName};
use crate::model::pattern::Pattern;
use crate::model::pause::Wish;
use crate::model::snapshot::LogLine;
use crate::model::spec::RedisSpec;
use crate::model::stats::Machine;

/// How long reading the registry, and declaring a lease free, may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How long leaving may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Who is to appear in the cluster.
#[derive(Debug, Clone)]
pub struct Me {
    /// Where Redis is.
    pub redis: RedisSpec,
    /// The cluster.
    pub cluster: ClusterName,
    /// This node's name in it.
    pub node: NodeName,
    /// What tells this agent from another with the same name. It survives a restart of the agent on its machine, so
    /// that a restarted agent need not wait for its own last beat to be forgotten.
    pub instance: u128,
    /// The leases whose releases are listened for; those that are asked for later are added.
    pub leases: Vec<LeaseName>,
    /// What the node says of itself, kept current by the agent.
    pub standing: watch::Receiver<Standing>,
    /// Measures the machine; it may block, and is asked once for each heartbeat.
    pub machine: fn() -> Machine,
}

/// What a node says of itself. How long it is up is counted here, from the first moment on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Standing {
    /// The row's contents.
    pub about: NodeAbout,
    /// Whether it is stopping, and takes nothing new.
    pub draining: bool,
}

/// What another node, or circusctl, asks of this one over the bus.
#[derive(Debug)]
pub struct BusQuestion {
    /// A Circus message, as it arrived: JSON or not.
    pub line: String,
    /// Who asks, by their own account: a node's name, or `circusctl on db-1`.
    pub from: String,
    /// Where the reply goes, as text. Dropping it tells the asker that the agent ended.
    pub answer: oneshot::Sender<String>,
}

/// The shared world through Redis: one server, or several. Dropping it ends all of it without a word; [`Redis::leave`] says good-bye.
pub struct Redis {
    spec: RedisSpec,
    cluster: ClusterName,
    /// What this node is called.
    name: watch::Sender<NodeName>,
    agent: registry::Agent,
    servers: Servers,
    bus: Bus,
    publisher: Publisher,
    /// The latest frame for those elsewhere who watch.
    frames: watch::Sender<String>,
    /// Whose output is told elsewhere, while somebody there follows it.
    told: Option<watch::Sender<Vec<Pattern>>>,
    recorder: Recorder,
    /// Of each lease for which this node contends, who else does.
    attendance: Arc<Mutex<BTreeMap<WatcherName, Attendance>>>,
    /// The channels that are listened on, those of leases with what is told there.
    channels: watch::Sender<Channels>,
    events: mpsc::Sender<Event>,
    /// The links, the subscriptions and the heartbeats. They end with this value.
    tasks: JoinSet<()>,
    heartbeats: Vec<tokio::task::AbortHandle>,
}

impl Redis {
    /// Joins the cluster, or goes on trying: a Redis that is not there is an [`Event::StoreDown`].
    ///
    /// Tells, unasked: `StoreUp`, `StoreDown`, `LeaseFreed`, `MembersChanged` and `NameTaken`. `questions` should have room for as many
    /// questions as the agent is willing to be behind with; beyond that askers are told to come back.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(me: Me, events: mpsc::Sender<Event>, questions: mpsc::Sender<BusQuestion>) -> Redis {
        let Me { redis, cluster, node, instance, leases, standing, machine } = me;
        let mut tasks = JoinSet::new();

        let servers = Servers::start(&redis, &node, &events, &mut tasks);
        let called = Arc::new(RwLock::new(Called { now: node.clone(), other: None }));
        let seal = Seal::new(redis.secret_file.clone());
        let begun = Instant::now();
        let agent = registry::Agent {
            cluster: cluster.clone(),
            instance,
            called,
            standing,
            machine,
            seal: seal.clone(),
            begun,
        };
        let (mut names, mut heartbeats) = (Vec::new(), Vec::new());
        for server in servers.iter() {
            let (name, named) = watch::channel(Name::Unknown);
            let beat = registry::beat(server.link.clone(), agent.clone(), name, events.clone());
            heartbeats.push(tasks.spawn(beat));
            names.push(named);
        }

        // Without random bits the node's own instance is the next best thing that no other node has.
        let reply_id = bus::new_id().unwrap_or(instance);
        let tell = (questions, events.clone());
        let name = watch::Sender::new(node);
        let bus = Bus::new((cluster.clone(), name.subscribe()), reply_id, servers.clone(), names, tell, seal);
        let plain = bus.channels().into_iter().chain([keys::watch(&cluster)]).map(|channel| (channel, None));
        let free = leases.into_iter().map(|lease| (lease.free_channel(), Some(Subject::Freed(lease.watcher))));
        let channels = watch::Sender::new(plain.chain(free).collect());
        let words = Words::new(servers.iter().count(), events.clone());
        for (index, server) in servers.iter().enumerate() {
            let names = (&cluster, name.subscribe());
            tasks.spawn(listen((index, server), names, channels.subscribe(), bus.clone(), words.clone(), &events));
        }

        let publisher = Publisher::start(&cluster, servers.clone());
        let recorder = Recorder::start(&name.subscribe(), &servers);
        let (frames, latest) = watch::channel(String::new());
        tasks.spawn(tell::tell_frames(keys::stats(&cluster), Mouths::new(&servers), latest));
        Redis {
            spec: redis,
            cluster,
            name,
            agent,
            servers,
            bus,
            publisher,
            frames,
            told: None,
            recorder,
            attendance: Arc::default(),
            channels,
            events,
            tasks,
            heartbeats,
        }
    }

    /// Puts `ask` to Redis. Exactly one [`Event::Lease`] answers it, within `timeout`, and at once while the link is
    /// down. After [`LeaseAnswer::Failed`] it may still be carried out, now or later.
    pub fn ask(&self, lease: &LeaseName, ask: Ask, timeout: Duration) {
        let watcher = lease.watcher.clone();
        self.listen_on(lease.free_channel(), Subject::Freed(watcher.clone()));
        let answer = self.servers.ask(lease.clone(), ask.clone(), timeout);
        self.tell(async move { Some(Event::Lease { watcher, ask, answer: answer.await }) });
    }

    /// Tells that a node is one of those that contend for a lease, or with nothing that it is none any more, and asks who
    /// is. Exactly one [`Event::Mustered`] answers it, within its `timeout` or little more.
    pub fn muster(&self, lease: &LeaseName, word: Word) {
        let (watcher, sent, attendance) = (lease.watcher.clone(), word.sent, Arc::clone(&self.attendance));
        self.listen_on(lease.changed_channel(), Subject::Members(watcher.clone()));
        let answers = self.servers.clone().muster(lease.clone(), self.agent.instance, word);
        self.tell(async move {
            let said = answers.await;
            // Held for a line that cannot panic half-way.
            let mut attendance = attendance.lock().unwrap_or_else(PoisonError::into_inner);
            let result = attendance.entry(watcher.clone()).or_default().call(sent, said);
            Some(Event::Mustered { watcher, sent, result })
        });
    }

    /// Claims a slot of a watcher under a lease. Exactly one [`Event::SlotClaimed`] answers it, within `timeout` or little
    /// more.
    pub fn claim(&self, watcher: WatcherName, lease: &LeaseName, claim: Claim, timeout: Duration) {
        let call = claim::call(lease, &watcher, &self.name.borrow(), claim);
        let answer = self.servers.clone().claim(call, timeout);
        self.tell(async move { Some(Event::SlotClaimed { watcher, claim, answer: answer.await }) });
    }

    fn listen_on(&self, channel: String, subject: Subject) {
        let news = Some(subject);
        self.channels.send_if_modified(|channels| channels.insert(channel, news.clone()) != Some(news));
    }

    /// Declares a lease free that nobody ever held; [`Event::LeaseInitialised`] says how that went.
    pub fn init_lease(&self, request: RequestId, lease: &LeaseName) {
        let (lease, servers) = (lease.clone(), self.servers.clone());
        self.tell(async move {
            let answers = servers.call(&scripts::init_call(&lease), READ_TIMEOUT).await;
            // That one of several has a past is a past.
            let result = answers.into_iter().try_for_each(|answer| scripts::init_answer(&lease, &answer?));
            Some(Event::LeaseInitialised { request, result })
        });
    }

    /// Pauses a lease, lets it be taken again, or asks how that stands; [`Event::LeasePaused`] says so.
    pub fn pause_lease(&self, request: RequestId, lease: &LeaseName, wish: Wish) {
        self.listen_on(lease.free_channel(), Subject::Freed(lease.watcher.clone()));
        let told = self.servers.clone().pause(lease.clone(), wish, READ_TIMEOUT);
        self.tell(async move { Some(Event::LeasePaused { request, result: told.await }) });
    }

    /// Asks whether the tenure under `token` holds the lease; [`Event::LeaseChecked`] says so.
    pub fn check_lease(&self, request: RequestId, lease: &LeaseName, token: u64) {
        let call = history::check_call(lease, token);
        let servers = self.servers.clone();
        self.tell(async move {
            let answers = servers.call(&call, READ_TIMEOUT).await.into_iter();
            let result = history::agreed(answers.map(|answer| history::token_state(&answer?)).collect());
            Some(Event::LeaseChecked { request, result })
        });
    }

    /// Keeps a fact about a tenure with its lease, now or when Redis is back.
    pub fn record(&mut self, lease: &LeaseName, fact: &Fact) {
        self.recorder.record(lease, fact);
    }

    /// Reads what is kept of these leases and schedules; [`Event::HistoryRead`] brings it.
    pub fn read_history(&self, request: RequestId, leases: &[LeaseName], schedules: Vec<Schedule>) {
        let schedules = schedules.into_iter().map(|one| (one.lease, one.watcher)).collect();
        let read = history::read(self.servers.clone(), leases.to_vec(), schedules, READ_TIMEOUT);
        self.tell(async move { Some(Event::HistoryRead { request, read: read.await }) });
    }

    /// What cuts this agent off from Redis, for as long as it is told: for a drill.
    pub fn cutter(&self) -> impl FnOnce(Duration) + Send + use<> {
        let servers = self.servers.clone();
        move |time| servers.cut_off(time)
    }

    /// Gets this node another name. It is asked by that one from then on, and by the old one no more; what was asked
    /// before is answered.
    ///
    /// # Errors
    /// The name cannot be had, for this reason in words, and all is as it was.
    pub fn rename(&self, to: NodeName) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (agent, servers) = (self.agent.clone(), self.servers.clone());
        let (name, channels, cluster) = (self.name.clone(), self.channels.clone(), self.cluster.clone());
        async move {
            let channel = |name: &NodeName| keys::bus(&cluster, name);
            // Heard before anybody can know of it. What comes meanwhile may be for another agent, and is not taken.
            channels.send_if_modified(|channels| channels.insert(channel(&to), None).is_none());
            let renamed = agent.rename(&servers, &to).await;
            let idle = if renamed.is_ok() { name.send_replace(to) } else { to };
            channels.send_if_modified(|channels| channels.remove(&channel(&idle)).is_some());
            renamed
        }
    }

    /// Where Redis is.
    pub fn spec(&self) -> &RedisSpec {
        &self.spec
    }

    /// Lists the nodes of the cluster; [`Event::RosterRead`] brings them, sorted by name.
    pub fn read_roster(&self, request: RequestId) {
        let call = registry::roster_call(&self.cluster);
        let servers = self.servers.clone();
        self.tell(async move {
            let rows = registry::merged(servers.call(&call, READ_TIMEOUT).await);
            Some(Event::RosterRead { request, rows })
        });
    }

    /// Puts `message`, a Circus message, to another node. At most one event answers: [`Event::Replied`] with what it
    /// said, or [`Event::Unreachable`] as soon as it is known that it will say nothing. Silence has no event.
    pub fn relay(&self, request: RequestId, to: &NodeName, message: String) {
        let (bus, to) = (self.bus.clone(), to.clone());
        self.tell(async move { bus.relay(request, to, message).await });
    }

    /// Tells whoever listens of something that happened here: `event` as [`crate::wire::notice_json`] has it. Dropped and
    /// counted while Redis is away, and where events come faster than they can be published.
    pub fn publish_event(&mut self, event: String) {
        self.publisher.publish(event);
    }

    /// Tells those elsewhere who watch what is used: `frame` as [`crate::wire::node_stats_json`] has it. The latest one
    /// counts; what Redis does not take in time is never told.
    pub fn publish_frame(&self, frame: String) {
        self.frames.send_replace(frame);
    }

    /// From now on tells those elsewhere who follow them the lines of the watchers that fit one of `of`, and of no
    /// others. `lines` gives those of all watchers, where they are not told already.
    pub fn tell_output(&mut self, of: Vec<Pattern>, lines: impl FnOnce() -> broadcast::Receiver<Arc<LogLine>>) {
        self.told = match self.told.take() {
            // Its task ends with it.
            _ if of.is_empty() => None,
            Some(told) => {
                told.send_replace(of);
                Some(told)
            }
            None => {
                let (told, wanted) = watch::channel(of);
                let channel = keys::output(&self.cluster);
                let mouths = Mouths::new(&self.servers);
                self.tasks.spawn(tell::tell_output(channel, self.name.subscribe(), mouths, lines(), wanted));
                while self.tasks.try_join_next().is_some() {}
                Some(told)
            }
        };
    }

    /// Gets out what was answered to others and published last, says in the registry that this node is gone, and ends. Takes a second
    /// at most; whether it could be said makes no difference to who calls: the row tells by its age.
    pub async fn leave(self) {
        // No beat may follow.
        self.heartbeats.iter().for_each(tokio::task::AbortHandle::abort);
        let name = self.name.borrow().clone();
        let call = registry::leave_call(&self.cluster, &name, self.agent.instance);
        let (left, answered, _published, recorded) = tokio::join!(
            self.servers.call(&call, LEAVE_TIMEOUT),
            timeout(LEAVE_TIMEOUT, self.bus.settled()),
            timeout(LEAVE_TIMEOUT, self.publisher.settled()),
            timeout(LEAVE_TIMEOUT, self.recorder.settled()),
        );
        for reason in left.into_iter().filter_map(Result::err) {
            tracing::debug!(%reason, "could not say in the registry that this node leaves");
        }
        if recorded.is_err() {
            tracing::warn!("left before the history of leases could be told the last of it");
        }
        if answered.is_err() {
            tracing::warn!("left before all questions of other nodes were answered");
        }
    }

    /// Does something bounded in the background and tells the agent what came of it. There are as many at once as the
    /// agent has questions open, and its questions are bounded.
    fn tell(&self, work: impl Future<Output = Option<Event>> + Send + 'static) {
        let events = self.events.clone();
        tokio::spawn(async move {
            if let Some(event) = work.await {
                // An agent that ended wants no answers.
                let _ = events.send(event).await;
            }
        });
    }
}

/// Hears words about leases, questions and answers at one server.
fn listen(
    (index, server): (usize, &Server),
    (cluster, node): (&ClusterName, watch::Receiver<NodeName>),
    channels: watch::Receiver<Channels>,
    bus: Bus,
    words: Words,
    events: &mpsc::Sender<Event>,
) -> impl Future<Output = ()> + use<> {
    let (questions, answers) = (keys::bus_prefix(cluster), bus.answers().to_owned());
    let onlookers = keys::watch(cluster);
    let wanted = channels.clone();
    let take = move |heard: Heard<'_>| match heard {
        // What was announced meanwhile nobody heard.
        Heard::Anew => wanted.borrow().values().flatten().cloned().map(Subject::event).collect(),
        Heard::Message { channel, payload } if channel.starts_with(&questions) => {
            bus.asked(channel, payload);
            Vec::new()
        }
        Heard::Message { channel, payload } if channel == onlookers => {
            bus.open(channel, payload).and_then(|payload| onlookers::heard(&payload)).into_iter().collect()
        }
        Heard::Message { channel, payload } if channel == answers => bus.answered(payload).into_iter().collect(),
        Heard::Message { channel, payload } => {
            // A node's own change is no news to it.
            let subject = match wanted.borrow().get(channel).cloned().flatten() {
                Some(Subject::Freed(watcher)) if pause::is_news(payload) => Some(Subject::Pause(watcher)),
                subject => subject,
            };
            let subject = subject
                .filter(|subject| !matches!(subject, Subject::Members(_) if muster::is_own(&node.borrow(), payload)));
            subject.and_then(|subject| words.spread(index, subject, payload)).into_iter().collect()
        }
    };
    subscription::listen(server.spec.clone(), server.whereabouts.clone(), channels, take, events.clone())
}
