//! Wires: builds the adapters, waits in one loop, decides in [`Node::step`], and carries out what it ordered.
//!
//! This is the only place that sees both sides. It holds no policy: an `if` about a watcher here is a line that
//! belongs to the model. The loop never waits inside [`Agent::perform`]; whatever takes time answers with an event.

pub mod drill;
pub mod follow;

mod circus_stats;
mod lordship;
mod pidfile;
mod zmq;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use serde_json::Value;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Origin;
use signal_hook_tokio::SignalsInfo;
use tokio::sync::{mpsc, oneshot, watch};

use self::circus_stats::CircusStats;
use self::follow::{AllNodes, Followers, Output};
use self::lordship::Lordships;
use self::pidfile::{Pidfile, PidfileError};
use self::zmq::Zmq;
use crate::cluster::identity::{Identity, IdentityError, default_state_dir, identity};
use crate::cluster::local::{self, Local};
use crate::cluster::{self, BusQuestion, Redis, Standing};
use crate::config::{self, Config, Severity, Surroundings};
use crate::control::{self, ControlSocket, Question};
use crate::discovery;
use crate::host::calendar;
use crate::host::clock::{self, Alarm};
use crate::host::{FOR_EVER, Host, machine};
use crate::model::command::{Command, NodeAbout, Outcome, PROTOCOL, Refusal, Reply, RequestId};
use crate::model::election::Word;
use crate::model::event::{Action, Ask, Claim, Event, Level, News, Notice, Onlooker, Schedule};
use crate::model::history::Fact;
use crate::model::names::{ClusterName, LeaseName, NodeName, WatcherName};
use crate::model::node::Node;
use crate::model::pause::Wish;
use crate::model::random::Random;
use crate::model::snapshot::Phase;
use crate::model::spec::{self, AgentSpec, LogLevel, LogOutput, ZmqDoors};
use crate::model::stats::{History, NodeStats};
use crate::model::time::Time;
use crate::systemd::Notify;
use crate::wire::{Follow, Nodes, Subject};
use crate::zmq as doors;
use crate::{view, wire};

/// How many events may wait for the loop. Who has more to tell waits, and nobody waits for them.
const EVENTS: usize = 1024;
/// How many requests may wait for the loop, of each door.
const QUESTIONS: usize = 256;
/// How often it is looked whether there is something new to show of all watchers, at most: that costs more the more
/// watchers there are, and a thousand that start at once would be looked at a thousand times.
const SHOW_EVERY: Duration = Duration::from_millis(50);

/// How long an ending agent waits for who leads to be written down.
const FLUSHING: Duration = Duration::from_secs(1);

/// What the service manager grants an ending agent beyond the next thing that is due in it.
const STOPPING_MARGIN: Duration = Duration::from_secs(10);

/// The signals that mean something to an agent, and those that would end a program that has not heard of them.
const SIGNALS: [i32; 8] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// What the command line says, and the file therefore does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Where the agent's pid is written.
    pub pidfile: Option<PathBuf>,
    /// How much is logged.
    pub log_level: Option<LogLevel>,
    /// Where to.
    pub log_output: Option<LogOutput>,
}

impl Overrides {
    /// Has them win over what the file says.
    pub fn apply(&self, spec: &mut AgentSpec) {
        let Overrides { pidfile, log_level, log_output } = self.clone();
        spec.pidfile = pidfile.or(spec.pidfile.take());
        spec.log_level = log_level.or(spec.log_level);
        if let Some(log_output) = log_output {
            spec.log_output = log_output;
        }
    }
}

/// Why an agent could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another agent has its name or its place.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The control socket cannot be had.
    #[error(transparent)]
    Control(#[from] control::BindError),
    /// The pidfile is another agent's, or cannot be written.
    #[error(transparent)]
    Pidfile(#[from] PidfileError),
    /// A ZeroMQ door cannot be had.
    #[error("{key} {error}")]
    Zmq {
        /// The key that names it.
        key: &'static str,
        /// Why.
        error: doors::BindError,
    },
    /// A step failed.
    #[error("{step}: {error}")]
    Step {
        /// What was tried, and with what.
        step: String,
        /// The system's answer.
        error: io::Error,
    },
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let step = step.into();
    move |error| StartError::Step { step, error }
}

/// Runs an agent to its end: its exit code.
///
/// `path` is the file that `config` was read from, to be read again when it has changed; `overrides` have been
/// applied to it, and will be then. `notify` is who is told how the agent is; `given` are sockets that the service manager
/// handed over, with their names. To be called on the main thread.
pub fn run(
    path: &Path,
    overrides: Overrides,
    config: Config,
    notify: Notify,
    given: Vec<(String, OwnedFd)>,
) -> Result<i32, StartError> {
    let state_dir = config.spec.state_dir.clone().unwrap_or_else(default_state_dir);
    let identity = Arc::new(identity(&state_dir, &config.spec.node)?);
    let _pidfile = config.spec.pidfile.as_deref().map(Pidfile::take).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(FOR_EVER)
        .build()
        .map_err(step("cannot start the asynchronous runtime"))?;
    runtime.spawn_blocking(|| ());
    runtime.block_on(async {
        let (agent, doors) = Agent::new(path, overrides, config, &state_dir, &identity, (notify, given))?;
        Ok(agent.live(doors).await)
    })
}

/// What the loop listens to.
struct Doors {
    events: mpsc::Receiver<Event>,
    control: mpsc::Receiver<Question>,
    bus: mpsc::Receiver<BusQuestion>,
    zmq: mpsc::Receiver<doors::Question>,
    signals: SignalsInfo<WithOrigin>,
    alarm: Alarm,
    /// The control socket's task: ends once `control` is dropped and the last replies are written.
    listening: tokio::task::JoinHandle<()>,
}

struct Agent {
    name: NodeName,
    cluster: ClusterName,
    identity: Arc<Identity>,
    node: Node,
    host: Host,
    store: Store,
    events: mpsc::Sender<Event>,
    requests: HashMap<RequestId, Pending>,
    followers: Followers,
    zmq: Zmq,
    circus_stats: CircusStats,
    /// Whether it was said that frames are too long.
    is_untold: bool,
    lordships: Lordships,
    last_request: u64,
    standing: watch::Sender<Standing>,
    notify: Notify,
    ready: bool,
    /// When to show what may be new, where anything may be; and when that was done last.
    show_at: Option<Time>,
    shown: Time,
    path: PathBuf,
    overrides: Overrides,
    leaving: Option<i32>,
}

/// Where leases are kept.
enum Store {
    Redis(Box<Redis>),
    Local(Local),
}

/// A request whose reply is awaited at a door.
struct Pending {
    id: Value,
    cast: bool,
    form: wire::Form,
    door: Door,
    /// What is asked, at a door where the reply is said in Circus's words: they depend on it.
    asked: Option<Command>,
}

/// The door at which something was asked, and where it is answered.
enum Door {
    Control(oneshot::Sender<control::Answer>),
    Bus(oneshot::Sender<String>),
    Zmq(oneshot::Sender<String>),
}

impl Door {
    fn say(self, line: String) {
        // Who asked may have hung up.
        let _ = match self {
            Door::Control(answer) => answer.send(line.into()).is_ok(),
            Door::Bus(answer) | Door::Zmq(answer) => answer.send(line).is_ok(),
        };
    }
}

impl Agent {
    fn new(
        path: &Path,
        overrides: Overrides,
        config: Config,
        state_dir: &Path,
        identity: &Arc<Identity>,
        (notify, given): (Notify, Vec<(String, OwnedFd)>),
    ) -> Result<(Agent, Doors), StartError> {
        let Config { spec, warnings: _, files: _ } = config;
        // Before anybody is told that there is an agent: some of them end a program that has not heard of them.
        let signals = SignalsInfo::<WithOrigin>::new(SIGNALS).map_err(step("cannot listen for signals"))?;
        let socket = spec.control_socket.clone().unwrap_or_else(|| control::default_path(&spec.node, state_dir));
        let socket = ControlSocket::bind(&socket)?;
        tracing::info!("circus-agent {} as node {} of cluster {}", env!("CARGO_PKG_VERSION"), spec.node, spec.cluster);
        tracing::info!("control socket {}", socket.path().display());
        let (asked_over_zmq, over_zmq) = mpsc::channel(QUESTIONS);
        let at = spec.zmq.beside(socket.path());
        let mut zmq = Zmq::open(&at, &asked_over_zmq)?;

        let (events, event_queue) = mpsc::channel(EVENTS);
        let (asked_here, control) = mpsc::channel(QUESTIONS);
        let (asked_there, bus) = mpsc::channel(QUESTIONS);
        // Two agents never have one control socket, so each has a place of its own beside it.
        let mut notify_dir = socket.path().as_os_str().to_owned();
        notify_dir.push(".notify");
        let endpoint = format!("unix://{}", socket.path().display());
        // The same place twice: one for circusctl, one for who talks to the socket itself.
        let stats_socket = socket.path().display().to_string();
        let mut legions_dir = socket.path().as_os_str().to_owned();
        legions_dir.push(".legions");
        let legions = legions_dir.to_string_lossy();
        let zmq_doors = [(ZmqDoors::ENDPOINT_VARIABLE, at.endpoint), (ZmqDoors::PUBSUB_VARIABLE, at.pubsub)];
        let zmq_doors = zmq_doors.map(|(name, address)| Some((name, address?.from_here().to_string())));
        let mut env = vec![
            ("CIRCUSCTL_ENDPOINT", &*endpoint),
            ("CIRCUS_STATS_SOCKET", &*stats_socket),
            ("CIRCUS_LEGIONS", &*legions),
        ];
        env.extend(zmq_doors.iter().flatten().map(|(name, address)| (*name, address.as_str())));
        let host = Host::new(events.clone(), notify_dir.into(), &env)
            .map_err(step("cannot take charge of this machine's processes"))?
            .with_python(spec.python.clone())
            .with_given_sockets(given)
            .with_cgroups(&format!("{}-{:032x}", spec.node, identity.instance));
        let now = clock::now();
        let node = Node::new(spec.clone(), seed()?, now);
        let standing = Standing { about: node.about(about(endpoint)), draining: false };
        let (standing, standing_seen) = watch::channel(standing);
        let store = Store::start(&spec, state_dir, identity, &events, asked_there, standing_seen)?;
        let all = spec.redis.clone().map(|redis| AllNodes { redis, cluster: spec.cluster.clone() });
        let circus_stats = CircusStats::open(zmq.stats.take(), zmq.cluster_stats.take(), all, &events);
        if let (Some(group), Some(endpoint)) = (spec.zmq.discovery, spec.zmq.endpoint.clone()) {
            tokio::spawn(async move { discovery::serve(group, &endpoint.to_string()).await });
        }
        let doors = Doors {
            events: event_queue,
            control,
            bus,
            zmq: over_zmq,
            signals,
            alarm: Alarm::new().map_err(step("cannot make a timer"))?,
            listening: tokio::spawn(socket.serve(asked_here)),
        };
        let agent = Agent {
            name: spec.node.clone(),
            cluster: spec.cluster.clone(),
            identity: Arc::clone(identity),
            node,
            host,
            store,
            events,
            requests: HashMap::new(),
            followers: Followers::default(),
            zmq,
            circus_stats,
            is_untold: false,
            lordships: Lordships::new(legions_dir.into()),
            last_request: 0,
            standing,
            notify,
            ready: false,
            show_at: Some(now),
            shown: now,
            path: path.to_owned(),
            overrides,
            leaving: None,
        };
        Ok((agent, doors))
    }

    /// The loop: wait, decide, act.
    async fn live(mut self, mut doors: Doors) -> i32 {
        let mut watchdog = self.notify.watchdog_interval().map(tokio::time::interval);
        self.take(Event::Woke);
        let code = loop {
            let now = clock::now();
            if self.show_at.take_if(|at| self.leaving.is_some() || *at <= now).is_some() {
                self.shown = now;
                self.show();
            }
            if let Some(code) = self.leaving {
                break code;
            }
            // A time that has passed rings at once.
            if let Err(error) = doors.alarm.set(self.node.next_wakeup().into_iter().chain(self.show_at).min()) {
                tracing::error!("cannot set the timer: {error}");
            }
            tokio::select! {
                () = doors.alarm.rang() => {
                    if self.node.next_wakeup().is_some_and(|at| at <= clock::now()) {
                        self.take(Event::Woke);
                    }
                }
                Some(event) = doors.events.recv() => {
                    self.take(event);
                    // What came together is shown together; no more than a queue of it, for the sake of the doors.
                    let together = std::iter::from_fn(|| doors.events.try_recv().ok());
                    together.take(EVENTS).for_each(|event| self.take(event));
                }
                Some(question) = doors.control.recv() => {
                    self.ask(&question.line, question.from, Door::Control(question.answer));
                }
                Some(question) = doors.bus.recv() => self.ask(&question.line, question.from, Door::Bus(question.answer)),
                Some(question) = doors.zmq.recv() => self.ask_in_bytes(question),
                Some(signal) = doors.signals.next() => self.signalled(&signal),
                // From this very loop: a loop that hangs is one that systemd should end.
                () = tick(&mut watchdog) => self.notify.alive(),
            }
        };
        // Each reply has been given to its door; now the doors close.
        drop((doors.control, doors.bus, doors.zmq, doors.events));
        self.requests.clear();
        let zmq = [tokio::spawn(self.zmq.close()), tokio::spawn(self.circus_stats.close())];
        drop(self.followers);
        if let Store::Redis(redis) = self.store {
            redis.leave().await;
        }
        self.lordships.flush(FLUSHING);
        if doors.listening.await.is_err() {
            tracing::warn!("the control socket ended by a panic");
        }
        for closed in zmq {
            let _ = closed.await;
        }
        code
    }

    /// One step of the model, and all that it orders.
    fn take(&mut self, event: Event) {
        let mut actions = Vec::new();
        let reloaded = matches!(event, Event::SpecRead { .. });
        self.node.step(clock::now(), event, &mut actions);
        if *self.node.name() != self.name {
            self.name = self.node.name().clone();
            self.store.rename(&self.name);
        }
        if !actions.is_empty() || !self.ready {
            self.show_at = self.show_at.or(Some(self.shown + SHOW_EVERY));
        }
        for action in actions {
            self.perform(action);
        }
        if reloaded && self.ready {
            self.notify.ready();
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { process, launch } => {
                let hold = launch.guard.and_then(|_| self.store.hold(&launch.watcher));
                self.host.spawn(process, &launch, hold);
            }
            Action::Signal { process, signal, reach } => self.host.signal(process, signal, reach),
            Action::Freeze { process } => self.host.freeze(process),
            Action::Kill { process } => self.host.kill(process),
            Action::Guard { process, deadline } => self.host.guard(process, deadline),
            Action::AskLease { lease, ask, timeout } => self.store.ask(lease, ask, timeout),
            Action::Rename { request, to } => self.rename(request, to),
            Action::Muster { lease, word } => self.store.muster(lease, word),
            Action::ShowLordship { legion, lordship } => {
                let text = lordship.map(|lordship| wire::lordship_text(&lordship, clock::now(), unix_ms()));
                self.lordships.show(&legion, text);
            }
            Action::InitLease { request, lease } => self.store.init_lease(request, lease),
            Action::CheckLease { request, lease, token } => self.store.check_lease(request, lease, token),
            Action::PauseLease { request, lease, wish } => self.store.pause_lease(request, lease, wish),
            Action::Record { lease, fact } => self.store.record(lease, fact),
            Action::Drill { request, drill } => match &self.store {
                Store::Redis(redis) => {
                    drill::begin(request, *drill, &self.name, redis.spec(), redis.cutter(), self.events.clone());
                }
                Store::Local(_) => {
                    self.tell(Event::DrillWatched { request, result: Err("there is no Redis".into()) });
                }
            },
            Action::ReadHistory { request, leases, schedules } => self.store.read_history(request, leases, schedules),
            Action::Sample { request, processes } => self.host.sample(request, processes),
            Action::Measure { pids, detail } => self.host.measure(pids, detail),
            Action::Show { stats, history, elsewhere, circus } => {
                self.show_stats(&stats, history.as_deref(), elsewhere);
                self.circus_stats.show(stats, circus);
            }
            Action::TellOutput { of } => {
                if let Store::Redis(redis) = &mut self.store {
                    redis.tell_output(of, || self.host.output().subscribe());
                }
            }
            Action::ReadRoster { request } => match &self.store {
                Store::Redis(redis) => redis.read_roster(request),
                Store::Local(_) => self.tell(Event::RosterRead { request, rows: Err("there is none".into()) }),
            },
            Action::Relay { request, to, command, by } => match &self.store {
                Store::Redis(redis) => redis.relay(request, &to, wire::relayed_json(&command, &by).to_string()),
                Store::Local(_) => {
                    let reason = "this agent has no [redis] section".into();
                    self.tell(Event::Unreachable { request, node: to, reason });
                }
            },
            Action::Reply { request, outcome } => self.reply(request, &outcome),
            Action::Log { level, text } => match level {
                Level::Error => tracing::error!("{text}"),
                Level::Warn => tracing::warn!("{text}"),
                Level::Info => tracing::info!("{text}"),
            },
            Action::SampleAgent { request } => self.host.sample_agent(request),
            Action::Check { process, purpose, check, timeout } => self.host.check(process, purpose, check, timeout),
            Action::Hook { hook, call, timeout } => self.host.hook(hook, call, timeout),
            Action::CallOff { hook } => self.host.call_off(hook),
            Action::ReadSpec { request } => self.read_spec(request),
            Action::Amend { request, base, changes, defaults } => self.elsewhere(move || {
                let spec = config::amend(&base, &changes, &defaults, &Surroundings::of_this_process());
                Event::Amended { request, spec: spec.map(Box::new) }
            }),
            Action::AmendSocket { request, base, changes, defaults } => self.elsewhere(move || {
                let spec = config::amend_socket(&base, &changes, &defaults, &Surroundings::of_this_process());
                Event::SocketAmended { request, spec: spec.map(Box::new) }
            }),
            Action::Bind { bind, sockets, staying } => self.host.bind(bind, sockets, staying),
            Action::Unbind { sockets } => self.host.unbind(&sockets),
            Action::CloseLanes { lanes } => self.host.close_lanes(&lanes),
            Action::AwaitDemand { watcher, sockets } => self.host.await_demand(watcher, &sockets),
            Action::IgnoreDemand { watcher } => self.host.ignore_demand(&watcher),
            Action::CountDemand { watcher, sockets } => self.host.count_demand(watcher, &sockets),
            Action::ReadCalendar { watcher, cron } => self.elsewhere(move || {
                let calendar = calendar::read(&cron, SystemTime::now());
                Event::CalendarRead { watcher, calendar }
            }),
            Action::ClaimSlot { watcher, lease, claim, timeout } => self.store.claim(watcher, lease, claim, timeout),
            Action::Publish(notice) => self.publish(notice),
            Action::Leave { code } => self.leaving = Some(code),
        }
    }

    /// Gets this node another name: on this machine, where no other agent may have it, and in the cluster.
    fn rename(&self, request: RequestId, to: NodeName) {
        let (identity, events) = (Arc::clone(&self.identity), self.events.clone());
        let registry = match &self.store {
            Store::Redis(redis) => Some(redis.rename(to.clone())),
            Store::Local(_) => None,
        };
        let file = self.path.display().to_string();
        tokio::spawn(async move {
            let renamed = async {
                let claim = identity.claim(&to).map_err(|error| error.to_string())?;
                if let Some(registry) = registry {
                    registry.await?;
                }
                if let Err(error) = claim.keep() {
                    tracing::warn!("this node's new name is not written down in the state directory: {error}");
                }
                Ok(file)
            };
            let renamed = Event::Renamed { request, file: renamed.await, to };
            // An agent that ended wants no answers.
            let _ = events.send(renamed).await;
        });
    }

    /// Reads the configuration again, as it was read at the start.
    fn read_spec(&mut self, request: Option<RequestId>) {
        self.notify.reloading();
        let (path, overrides) = (self.path.clone(), self.overrides.clone());
        self.elsewhere(move || {
            let spec = match config::read(&path, &Surroundings::of_this_process()) {
                Ok(Config { mut spec, warnings, .. }) => {
                    if !warnings.is_empty() {
                        tracing::warn!("\n{}", config::render(&warnings, &path, ""));
                    }
                    overrides.apply(&mut spec);
                    Ok(Box::new(spec))
                }
                Err(mut problems) => {
                    // The warnings were told when it was last applied, most of them.
                    problems.retain(|problem| problem.severity == Severity::Error);
                    Err(config::render(&problems, &path, "nothing is changed"))
                }
            };
            Event::SpecRead { request, spec }
        });
    }

    /// Does what may block on another thread, and takes in what it led to.
    fn elsewhere(&self, work: impl FnOnce() -> Event + Send + 'static) {
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody listens to an agent that is leaving.
            let _ = events.blocking_send(work());
        });
    }

    /// Puts an event of our own into the queue, behind what is there.
    fn tell(&self, event: Event) {
        let events = self.events.clone();
        tokio::spawn(async move { events.send(event).await });
    }

    /// A door was asked something that should be text.
    fn ask_in_bytes(&mut self, doors::Question { text, from, answer }: doors::Question) {
        match String::from_utf8(text) {
            Ok(line) => self.ask(&line, from, Door::Zmq(answer)),
            Err(_) => {
                let refusal = Refusal::NotJson("not UTF-8".into());
                let (id, form, door) = (Value::Null, wire::Form::Ours, Door::Zmq(answer));
                let pending = Pending { id, cast: false, form, door, asked: None };
                answer_with(pending, &Outcome::Own(Reply::Refused(refusal)));
            }
        }
    }

    /// A door was asked something, and knows by whom.
    fn ask(&mut self, line: &str, from: String, door: Door) {
        match wire::parse_request(line) {
            Ok(wire::Request { id, cast, target, command, limit, by, form }) => {
                self.last_request += 1;
                let request = RequestId(self.last_request);
                let by = match door {
                    // The kernel knows better than the client.
                    Door::Control(_) | Door::Zmq(_) => format!("{from} on {}", self.name),
                    Door::Bus(_) => by.unwrap_or(from),
                };
                let asked = matches!(door, Door::Zmq(_)).then(|| command.clone());
                self.requests.insert(request, Pending { id, cast, form, door, asked });
                self.take(Event::Asked { request, by, target, command, limit });
            }
            Err(wire::BadRequest { id, cast, refusal }) => match (wire::parse_follow(line), door) {
                (Some((id, Ok(follow))), Door::Control(answer)) => self.follow(id, follow, answer),
                (follow, door) => {
                    let refusal = match follow {
                        Some((_, Err(refusal))) => refusal,
                        Some((_, Ok(_))) => Refusal::BadMessage("a stream comes from a control socket only".into()),
                        None => refusal,
                    };
                    let pending = Pending { id, cast, form: wire::Form::Ours, door, asked: None };
                    answer_with(pending, &Outcome::Own(Reply::Refused(refusal)));
                }
            },
        }
    }

    /// Somebody at the door wants to follow something.
    fn follow(&mut self, id: Value, follow: Follow, answer: oneshot::Sender<control::Answer>) {
        match (&self.store, &follow.nodes) {
            (Store::Redis(redis), Nodes::All | Nodes::Named(_)) => {
                let all = AllNodes { redis: redis.spec().clone(), cluster: self.cluster.clone() };
                self.followers.answer_from_all(id, follow, all, answer);
            }
            // Without Redis this node is all there is.
            _ => {
                let watches = follow.subject == Subject::Stats;
                self.followers.answer(id, follow, |follow| self.output(follow), answer);
                if watches {
                    self.take(Event::Watched { by: Onlooker::Here, begun: true });
                }
            }
        }
    }

    /// Shows what is used to those who watch.
    fn show_stats(&mut self, stats: &NodeStats, history: Option<&History>, elsewhere: bool) {
        let frame = wire::node_stats_json(stats, history);
        if let (Store::Redis(redis), true) = (&self.store, elsewhere) {
            let text = frame.to_string();
            let text = match text.len() {
                ..=wire::MAX_FRAME => text,
                // The past is no part of what must be seen.
                _ => wire::node_stats_json(stats, None).to_string(),
            };
            let is_told = text.len() <= wire::MAX_FRAME;
            if !is_told && !std::mem::replace(&mut self.is_untold, true) {
                let (bytes, most) = (text.len(), wire::MAX_FRAME);
                tracing::warn!(bytes, most, "what is used here is too much to be told to other nodes");
            }
            redis.publish_frame(if is_told { text } else { wire::untold_json(&stats.node, text.len()).to_string() });
        }
        if self.followers.show(frame) {
            self.tell(Event::Watched { by: Onlooker::Here, begun: false });
        }
    }

    /// The output that somebody wants to follow.
    fn output(&self, follow: &Follow) -> Output {
        let hidden = |output: &spec::Output| !matches!(output, spec::Output::Stream(_));
        let unseen = self.node.specs().filter(|spec| hidden(&spec.program.stdout) && hidden(&spec.program.stderr));
        Output {
            recent: self.host.output().recent(|watcher| follow.fits(watcher), follow.lines),
            live: self.host.output().subscribe(),
            unseen: unseen.map(|spec| spec.name.clone()).filter(|watcher| follow.fits(watcher)).collect(),
        }
    }

    /// Tells whoever follows, here and over Redis.
    fn publish(&mut self, notice: Notice) {
        let now = unix_time();
        if let Some(events) = &self.zmq.events {
            let (topic, body) = wire::circus::event(&notice, now);
            events.publish(&topic, &body);
        }
        let event = wire::notice_json(&notice, &self.name, now);
        if let Store::Redis(redis) = &mut self.store {
            redis.publish_event(event.to_string());
        }
        if notice.news == News::Remove {
            self.host.output().forget(&notice.watcher);
        }
        self.followers.publish(notice.watcher, event);
    }

    fn reply(&mut self, request: RequestId, outcome: &Outcome) {
        if let Some(pending) = self.requests.remove(&request) {
            answer_with(pending, outcome);
        }
    }

    fn signalled(&mut self, origin: &Origin) {
        let name = signal_hook::low_level::signal_name(origin.signal).unwrap_or("a signal");
        let by = match &origin.process {
            Some(process) if process.pid != 0 => format!("{name} from pid {} (uid {})", process.pid, process.uid),
            _ => name.to_owned(),
        };
        match origin.signal {
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => {
                self.take(Event::StopAsked { by });
            }
            libc::SIGHUP => self.take(Event::ReloadAsked { by }),
            libc::SIGUSR1 => {
                tracing::info!("{by}: opening log files anew");
                self.host.reopen_output();
            }
            _ => tracing::debug!("{by}: means nothing here"),
        }
    }

    /// Shows others what the node has come to: the registry and systemd.
    fn show(&mut self) {
        let snapshot = self.node.snapshot();
        if !matches!(snapshot.phase, Phase::Starting | Phase::Stopping) && !self.ready {
            self.ready = true;
            self.notify.ready();
        }
        self.notify.status(&view::status_line(&snapshot));
        let draining = snapshot.phase.takes_nothing();
        if snapshot.phase == Phase::Stopping {
            // Each watcher has its time to stop, one after another: the service manager cannot know how long that is.
            let next = self.node.next_wakeup().map_or(Duration::ZERO, |at| at.since(clock::now()));
            self.notify.stopping(next + STOPPING_MARGIN);
        }
        self.standing.send_if_modified(|standing| {
            let about = self.node.about(standing.about.clone());
            let news = (&standing.about, standing.draining) != (&about, draining);
            if news {
                *standing = Standing { about, draining };
            }
            news
        });
    }
}

/// The next tick of a watchdog; never where nobody watches.
async fn tick(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

impl Store {
    fn start(
        spec: &AgentSpec,
        state_dir: &Path,
        identity: &Identity,
        events: &mpsc::Sender<Event>,
        questions: mpsc::Sender<BusQuestion>,
        standing: watch::Receiver<Standing>,
    ) -> Result<Store, StartError> {
        let leases = spec.watchers.iter().filter(|watcher| watcher.singleton.is_some());
        let (cluster, node, instance) = (spec.cluster.clone(), spec.node.clone(), identity.instance);
        let leases = leases.map(|watcher| watcher.lease_name(&cluster));
        match &spec.redis {
            Some(redis) => {
                let redis = redis.clone();
                let machine = machine::machine;
                let leases = leases.collect();
                let me = cluster::Me { redis, cluster: cluster.clone(), node, instance, leases, standing, machine };
                Ok(Store::Redis(Box::new(Redis::start(me, events.clone(), questions))))
            }
            None => {
                let leases = leases.map(|lease| lease.watcher).collect();
                let me = local::Me { dir: state_dir.to_owned(), cluster: cluster.clone(), node, instance, leases };
                let failed = step(format!("cannot keep leases in {}", state_dir.display()));
                Local::start(me, events.clone()).map(Store::Local).map_err(failed)
            }
        }
    }

    fn ask(&mut self, lease: LeaseName, ask: Ask, timeout: Duration) {
        match self {
            Store::Redis(redis) => redis.ask(&lease, ask, timeout),
            Store::Local(local) => local.ask(lease.watcher, ask, timeout),
        }
    }

    /// The node has another name. Redis has given it, and knows.
    fn rename(&mut self, node: &NodeName) {
        match self {
            Store::Redis(_) => {}
            Store::Local(local) => local.rename(node),
        }
    }

    fn muster(&mut self, lease: LeaseName, word: Word) {
        match self {
            Store::Redis(redis) => redis.muster(&lease, word),
            Store::Local(local) => local.muster(lease.watcher, word),
        }
    }

    fn claim(&mut self, watcher: WatcherName, lease: LeaseName, claim: Claim, timeout: Duration) {
        match self {
            Store::Redis(redis) => redis.claim(watcher, &lease, claim, timeout),
            Store::Local(local) => local.claim(watcher, lease.watcher, claim),
        }
    }

    fn init_lease(&mut self, request: RequestId, lease: LeaseName) {
        match self {
            Store::Redis(redis) => redis.init_lease(request, &lease),
            Store::Local(local) => local.init_lease(request, lease.watcher),
        }
    }

    fn check_lease(&mut self, request: RequestId, lease: LeaseName, token: u64) {
        match self {
            Store::Redis(redis) => redis.check_lease(request, &lease, token),
            Store::Local(local) => local.check_lease(request, lease.watcher, token),
        }
    }

    fn pause_lease(&mut self, request: RequestId, lease: LeaseName, wish: Wish) {
        match self {
            Store::Redis(redis) => redis.pause_lease(request, &lease, wish),
            Store::Local(local) => local.pause_lease(request, lease.watcher, wish),
        }
    }

    fn record(&mut self, lease: LeaseName, fact: Fact) {
        match self {
            Store::Redis(redis) => redis.record(&lease, &fact),
            Store::Local(local) => local.record(lease.watcher, fact),
        }
    }

    fn read_history(&mut self, request: RequestId, leases: Vec<LeaseName>, schedules: Vec<Schedule>) {
        match self {
            Store::Redis(redis) => redis.read_history(request, &leases, schedules),
            Store::Local(local) => {
                local.read_history(request, leases.into_iter().map(|lease| lease.watcher).collect(), schedules);
            }
        }
    }

    /// What a child's guard has to keep open so that the lease lasts as long as the child.
    fn hold(&self, watcher: &WatcherName) -> Option<OwnedFd> {
        match self {
            Store::Redis(_) => None,
            Store::Local(local) => local.hold(watcher),
        }
    }
}

fn answer_with(pending: Pending, outcome: &Outcome) {
    let Pending { id, cast, form, door, asked } = pending;
    if cast {
        return;
    }
    let now = unix_time();
    let line = match &door {
        Door::Zmq(_) => wire::circus::reply_text(asked.as_ref(), form, outcome, &id, now),
        Door::Control(_) | Door::Bus(_) => wire::reply_in(form, outcome, &id, now).to_string(),
    };
    door.say(line);
}

/// Seconds of the Unix epoch.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The same in milliseconds.
fn unix_ms() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is said of the program and the machine: the rest is the node's to say.
fn about(endpoint: String) -> NodeAbout {
    NodeAbout {
        version: env!("CARGO_PKG_VERSION").into(),
        host: nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
        pid: std::process::id(),
        endpoint,
        protocol: PROTOCOL,
        ..NodeAbout::default()
    }
}

fn seed() -> Result<Random, StartError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| step("cannot draw random bits")(io::Error::other(error.to_string())))?;
    let (words, _) = bytes.as_chunks::<8>();
    let mut seed = [0; 4];
    for (word, bytes) in seed.iter_mut().zip(words) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok(Random::new(seed))
}
