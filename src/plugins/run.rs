//! Runs a plugin: waits for what happens, lets its policy decide, does what it says.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Event, Failure, Input, Output, Plugin, probe};
use crate::client::follow::Stream;
use crate::client::{self, Call, ClientError, Endpoint};
use crate::host::clock::{self, Alarm};
use crate::model::command::{Command, Target};
use crate::model::event::Level;
use crate::model::names::ClusterName;
use crate::wire::{Follow, Subject};

/// How many events wait for the policy before no more are read; the agent then drops some, and says so.
const MAX_EVENTS: usize = 256;
/// How many datagrams wait to be sent before further ones are lost.
const MAX_METRICS: usize = 1024;
/// The longest heartbeat, in bytes; what is longer is cut.
const MAX_HEARTBEAT: usize = 1024;
/// How long the agent may take to be reached, and to say that its events follow.
const CONNECT: Duration = Duration::from_secs(5);
/// The pauses between tries to reach it again double from the first to the longest …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// … until it has been away for so long that it is gone.
const GONE: Duration = Duration::from_secs(30);
/// How long the address of a host name is good for.
const NAME_TTL: Duration = Duration::from_secs(60);

/// Why a plugin ended without having been told to.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is nobody left to work for.
    #[error("the agent is gone: {0}")]
    Alone(ClientError),
    /// Its heartbeats cannot be listened to.
    #[error("cannot listen for heartbeats at UDP {address}: {error}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        error: io::Error,
    },
    /// The system gives it no timer, or a part of it broke.
    #[error("{0}")]
    Broken(String),
}

/// Runs a plugin until `end` comes, which is an orderly end, or until it cannot go on.
///
/// `name` is that of its section, for the log; `agent` is whom it works for. An agent that is away is waited for, half a
/// minute long. To be called within a tokio runtime.
pub async fn run(name: &str, agent: &Endpoint, plugin: Plugin, end: impl Future<Output = ()>) -> Result<(), Failed> {
    let Plugin { mut policy, statsd, heartbeats } = plugin;
    let socket = match heartbeats {
        Some(address) => Some(UdpSocket::bind(address).await.map_err(|error| Failed::Listen { address, error })?),
        None => None,
    };
    let mut alarm = Alarm::new().map_err(|error| Failed::Broken(format!("cannot have a timer: {error}")))?;
    let (sender, mut events) = mpsc::channel(MAX_EVENTS);
    let mut following = pin!(follow(agent, sender, GONE));
    let mut errands = Errands::new(name, agent, statsd);
    let mut end = pin!(end);
    let mut heartbeat = [0; MAX_HEARTBEAT];
    loop {
        alarm.set(policy.next_wakeup()).map_err(|error| Failed::Broken(format!("cannot set a timer: {error}")))?;
        let input = tokio::select! {
            () = &mut end => Input::Ending,
            why = &mut following => return Err(Failed::Alone(why)),
            Some(input) = events.recv() => input,
            input = errands.done() => input?,
            input = receive(socket.as_ref(), &mut heartbeat) => input,
            () = alarm.rang() => Input::Woke,
        };
        let ending = input == Input::Ending;
        for output in policy.step(clock::now(), input) {
            errands.run(output);
        }
        if ending {
            return Ok(());
        }
    }
}

/// What is under way on the policy's behalf.
struct Errands {
    name: String,
    agent: Endpoint,
    under_way: JoinSet<Input>,
    /// The agent is asked one thing after the other, so that a stop and the start after it stay in that order.
    asking: bool,
    questions: VecDeque<(Target, Command)>,
    metrics: Option<mpsc::Sender<String>>,
}

impl Errands {
    fn new(name: &str, agent: &Endpoint, statsd: Option<(String, u16)>) -> Errands {
        let metrics = statsd.map(|to| {
            let (sender, metrics) = mpsc::channel(MAX_METRICS);
            tokio::spawn(emit(to, metrics));
            sender
        });
        Errands {
            name: name.to_owned(),
            agent: agent.clone(),
            under_way: JoinSet::new(),
            asking: false,
            questions: VecDeque::new(),
            metrics,
        }
    }

    fn run(&mut self, output: Output) {
        match output {
            Output::Ask(command) => self.ask(Target::Here, command),
            Output::AskAll(command) => self.ask(Target::All, command),
            Output::Metric(metric) => {
                // Statsd takes what it gets; a plugin that waited for it would miss what matters.
                if let Some(Err(_)) = self.metrics.as_ref().map(|metrics| metrics.try_send(metric)) {
                    tracing::debug!("plugin:{}: more metrics than can be sent; one is lost", self.name);
                }
            }
            Output::Fetch { url, timeout } => {
                self.under_way.spawn(async move { probe::fetch(&url, timeout).await });
            }
            Output::ReadInfo { url, timeout } => {
                self.under_way.spawn(async move { Input::InfoRead(probe::info(&url, timeout).await) });
            }
            Output::Look { watcher, program } => {
                // A file system that hangs must not keep the plugin from ending.
                self.under_way.spawn_blocking(move || {
                    let search = std::env::var("PATH").unwrap_or_default();
                    let found = probe::look(&program, &search);
                    Input::Looked { watcher, program, found }
                });
            }
            Output::Log(Level::Error, text) => tracing::error!("plugin:{}: {text}", self.name),
            Output::Log(Level::Warn, text) => tracing::warn!("plugin:{}: {text}", self.name),
            Output::Log(Level::Info, text) => tracing::info!("plugin:{}: {text}", self.name),
        }
    }

    fn ask(&mut self, target: Target, command: Command) {
        self.questions.push_back((target, command));
        self.ask_next();
    }

    fn ask_next(&mut self) {
        if !self.asking
            && let Some((target, command)) = self.questions.pop_front()
        {
            self.asking = true;
            let agent = self.agent.clone();
            self.under_way.spawn(async move { ask(&agent, target, command).await });
        }
    }

    /// Waits until something is done.
    async fn done(&mut self) -> Result<Input, Failed> {
        match self.under_way.join_next().await {
            Some(Ok(input)) => {
                if matches!(input, Input::Answered { .. }) {
                    self.asking = false;
                    self.ask_next();
                }
                Ok(input)
            }
            // The policy waits for an answer that cannot come any more.
            Some(Err(error)) => Err(Failed::Broken(error.to_string())),
            None => pending().await,
        }
    }
}

async fn ask(agent: &Endpoint, target: Target, command: Command) -> Input {
    let call = Call { patience: command.usual_time(), target, cluster: cluster(), command };
    let reply = match client::ask(agent, &call).await {
        Ok(reply) if reply["status"] == "error" => {
            let text = |key: &str| reply[key].as_str().map(ToOwned::to_owned);
            let reason = text("reason").unwrap_or_else(|| "it failed".into());
            Err(Failure { code: Some(text("code").unwrap_or_default()), reason })
        }
        Ok(reply) => Ok(reply),
        Err(error) => Err(Failure { code: None, reason: error.to_string() }),
    };
    Input::Answered { command: call.command, reply }
}

/// Only who asks over Redis has to name one.
fn cluster() -> ClusterName {
    ClusterName::parse("default").expect("a name")
}

/// Waits for a heartbeat.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Input {
    let Some(socket) = socket else { return pending().await };
    loop {
        match socket.recv(buffer).await {
            Ok(length) => return Input::Heartbeat(buffer[..length].to_vec()),
            Err(error) => {
                tracing::warn!("a heartbeat was not received: {error}");
                sleep(FIRST_PAUSE).await;
            }
        }
    }
}

/// Sends metrics until there are no more.
async fn emit(to: (String, u16), mut metrics: mpsc::Receiver<String>) {
    let mut route: Option<(UdpSocket, Instant)> = None;
    while let Some(metric) = metrics.recv().await {
        if route.as_ref().is_none_or(|(_, since)| since.elapsed() > NAME_TTL) {
            route = match timeout(CONNECT, connect(&to)).await {
                Ok(Ok(socket)) => Some((socket, Instant::now())),
                Ok(Err(error)) => {
                    tracing::debug!("statsd at {}:{} is not to be had: {error}", to.0, to.1);
                    None
                }
                Err(_) => None,
            };
        }
        if let Some((socket, _)) = &route {
            // Lost if nobody listens, and no harm done.
            let _ = socket.send(metric.as_bytes()).await;
        }
    }
}

async fn connect(to: &(String, u16)) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((to.0.as_str(), to.1)).await? {
        let any: &str = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Follows the agent's events, again and again, until it is gone: then why.
async fn follow(agent: &Endpoint, events: mpsc::Sender<Input>, gone: Duration) -> ClientError {
    let all = Follow::all(Subject::Events);
    let (mut pause, mut away) = (FIRST_PAUSE, Instant::now());
    loop {
        let why = match Stream::open(agent, &cluster(), &all, CONNECT).await {
            Ok(stream) => {
                let why = pass_on(stream, &events).await;
                (pause, away) = (FIRST_PAUSE, Instant::now());
                why
            }
            Err(error) => error,
        };
        if away.elapsed() > gone {
            return why;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Passes events on until the stream breaks off: why.
async fn pass_on(mut stream: Stream, events: &mpsc::Sender<Input>) -> ClientError {
    let mut next = Some(Input::Following);
    loop {
        if let Some(input) = next {
            // Its receiver lives as long as this does.
            let _ = events.send(input).await;
        }
        next = match stream.next().await {
            Ok(Some(line)) => heard(&line),
            Ok(None) => return ClientError::Silent("it tells no more events".into()),
            Err(error) => return error,
        };
    }
}

/// What a line of the agent tells ([`crate::wire::notice_json`]); nothing where it is not understood.
fn heard(line: &Value) -> Option<Input> {
    if line.get("dropped").is_some() {
        return Some(Input::Following);
    }
    let number = |key: &str| line["body"][key].as_u64().and_then(|number| u32::try_from(number).ok());
    Some(Input::Event(Event {
        watcher: line["watcher"].as_str()?.to_owned(),
        word: line["event"].as_str()?.to_owned(),
        process: number("wid").zip(number("process_pid")),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::plugin;
    use super::*;
    use crate::control::{Answer, ControlSocket, Question};
    use crate::model::command::Patience;
    use crate::plugins::only;
    use crate::wire::command_json;
    use serde_json::json;
    use std::path::Path;
    use tokio::sync::oneshot;

    /// An agent's control socket and nothing behind it but the test.
    struct Agent {
        questions: mpsc::Receiver<Question>,
        door: tokio::task::JoinHandle<()>,
    }

    impl Agent {
        fn start(path: &Path) -> Agent {
            let (sender, questions) = mpsc::channel(4);
            let door = tokio::spawn(ControlSocket::bind(path).unwrap().serve(sender));
            Agent { questions, door }
        }

        /// Waits until it is asked for events, and gives what they are sent with.
        async fn followed(&mut self) -> mpsc::Sender<String> {
            let question = self.asked("events").await;
            let (sender, more) = mpsc::channel(16);
            let line = json!({"status": "ok", "id": question.0["id"]}).to_string();
            question.1.send(Answer { line, more: Some(more) }).unwrap();
            sender
        }

        /// Waits until it is asked this.
        async fn asked(&mut self, command: &str) -> (Value, oneshot::Sender<Answer>) {
            let Question { line, answer, .. } = self.questions.recv().await.expect("a question");
            let question: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(question["command"], command, "{question}");
            (question, answer)
        }

        /// Waits until it is asked this, and answers with `reply`.
        async fn answers(&mut self, command: &Command, mut reply: Value) {
            let json = command_json(command);
            let (question, answer) = self.asked(json["command"].as_str().unwrap()).await;
            assert_eq!(question["properties"], json["properties"]);
            reply["id"] = question["id"].clone();
            answer.send(reply.to_string().into()).unwrap();
        }

        async fn goes_away(self) {
            drop(self.questions);
            self.door.await.unwrap();
        }
    }

    fn tells(word: &str, pid: u32) -> String {
        json!({"watcher": "web", "event": word, "body": {"process_pid": pid, "wid": 1}}).to_string()
    }

    /// Runs a plugin until the test has seen enough; the plugin then ends in order.
    fn run_with<F: Future<Output = ()>>(plugin: Plugin, test: impl FnOnce(std::path::PathBuf) -> F) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let agent = Endpoint::Unix(path.clone());
        let ended = runtime.block_on(async {
            timeout(Duration::from_secs(20), run("test", &agent, plugin, test(path))).await.expect("the test hangs")
        });
        ended.unwrap();
    }

    #[test]
    fn events_come_in_and_commands_go_out_in_order() {
        let flapping = plugin("flapping.Flapping", &[("attempts", "1"), ("retry_in", "0")]).unwrap();
        run_with(flapping, |path| async move {
            let mut agent = Agent::start(&path);
            let events = agent.followed().await;
            events.send(tells("spawn", 7)).await.unwrap();
            events.send("{\"moon\": \"full\"}".into()).await.unwrap();
            events.send(tells("reap", 7)).await.unwrap();
            let options = Command::Options { watcher: "web".into(), keys: None };
            agent.answers(&options, json!({"status": "ok", "options": {"respawn": true}})).await;
            let (pattern, patience) = (only("web"), Patience::Admitted);
            let (question, answer) = agent.asked("stop").await;
            assert_eq!(question["properties"]["name"], "web");
            // The start is due at once, and yet it waits for its turn.
            assert!(timeout(Duration::from_millis(50), agent.questions.recv()).await.is_err());
            answer.send(json!({"status": "ok", "id": question["id"]}).to_string().into()).unwrap();
            agent.answers(&Command::Start { pattern, patience }, json!({"status": "ok"})).await;
        });
    }

    #[test]
    fn a_plugin_waits_for_an_agent_that_is_away_and_follows_it_again() {
        let reloader = plugin("command_reloader.CommandReloader", &[]).unwrap();
        run_with(reloader, |path| async move {
            let all = Command::Status { watcher: None };
            let nobody = json!({"status": "ok", "statuses": {}});
            for _ in 0..2 {
                let mut agent = Agent::start(&path);
                let events = agent.followed().await;
                agent.answers(&all, nobody.clone()).await;
                // Some events were lost: what there is must be learnt anew.
                events.send(json!({"dropped": 3}).to_string()).await.unwrap();
                agent.answers(&all, nobody.clone()).await;
                drop(events);
                agent.goes_away().await;
            }
        });
    }

    #[test]
    fn an_agent_that_stays_away_is_gone() {
        let agent = Endpoint::Unix("/nonexistent/a.sock".into());
        let (sender, _events) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let why = runtime.block_on(follow(&agent, sender, Duration::from_millis(150)));
        assert!(matches!(&why, ClientError::Unreached(why) if why.contains("/nonexistent/a.sock")), "{why}");
    }

    #[test]
    fn a_refusal_has_its_code_and_silence_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let agent = Endpoint::Unix(path.clone());
            let status = Command::Status { watcher: Some("web".into()) };
            let Input::Answered { reply: Err(failure), .. } = ask(&agent, Target::Here, status.clone()).await else {
                panic!()
            };
            assert_eq!((failure.code.as_deref(), failure.is_gone()), (None, false));
            let mut door = Agent::start(&path);
            let refusal = json!({"status": "error", "reason": "program web not found", "code": "no-such-watcher"});
            let (input, ()) = tokio::join!(ask(&agent, Target::Here, status.clone()), door.answers(&status, refusal));
            let Input::Answered { reply: Err(failure), .. } = input else { panic!() };
            assert_eq!((failure.reason.as_str(), failure.is_gone()), ("program web not found", true));
        });
    }

    #[test]
    fn metrics_reach_statsd() {
        let statsd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        statsd.set_nonblocking(true).unwrap();
        let port = statsd.local_addr().unwrap().port().to_string();
        let emitter = plugin("statsd.StatsdEmitter", &[("host", "127.0.0.1"), ("port", &port)]).unwrap();
        run_with(emitter, |path| async move {
            let statsd = UdpSocket::from_std(statsd).unwrap();
            let mut agent = Agent::start(&path);
            let events = agent.followed().await;
            events.send(tells("spawn", 7)).await.unwrap();
            let mut datagram = [0; 100];
            let length = statsd.recv(&mut datagram).await.unwrap();
            assert_eq!(&datagram[..length], b"circus.app.watcher.web.spawn:1|c");
        });
    }

    #[test]
    fn a_port_that_is_taken_is_said() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let watchdog = plugin("watchdog.WatchDog", &[("port", &port.to_string())]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let agent = Endpoint::Unix("/nonexistent/a.sock".into());
        let failed = runtime.block_on(run("test", &agent, watchdog, pending())).unwrap_err();
        assert!(failed.to_string().starts_with(&format!("cannot listen for heartbeats at UDP 127.0.0.1:{port}: ")));
    }
}
