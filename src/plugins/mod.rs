//! Circus's plugins, as parts of this program: each runs as a child of the agent, under Circus's name and with its
//! options.
//!
//! What is decided is kept apart from what is done here too: a plugin is a [`Policy`], a pure machine that is told what
//! happened and says what to do; [`run()`] alone does it. A plugin has no more power than any other client: it listens to
//! the agent's events and sends it commands over the control socket.
//!
//! Invariants:
//!
//! - What an operator stopped by hand stays stopped: no plugin starts it again.
//! - No plugin touches another one: watchers named `plugin:…` are nobody's business here.
//! - Each [`Output`] that asks something comes back exactly once, as the [`Input`] that it names, in bounded time. A
//!   policy has at most one question open about each thing that it looks after, which bounds all queues.
//! - Absent on purpose: memory across restarts. A plugin that starts anew learns from the agent how things are.

mod command_reloader;
mod flapping;
mod http_observer;
mod options;
mod probe;
mod redis_observer;
mod rescue;
mod resource_watcher;
mod run;
mod statsd;
mod watchdog;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use self::options::Options;
use crate::model::command::{Command, Patience};
use crate::model::event::Level;
use crate::model::pattern::Pattern;
use crate::model::random::Random;
use crate::model::spec::{Secret, Url};
use crate::model::time::Time;

pub use run::{Failed, run};

/// One plugin, ready to run.
pub struct Plugin {
    /// What it decides.
    policy: Box<dyn Policy>,
    /// Where its [`Output::Metric`]s go: host and UDP port.
    statsd: Option<(String, u16)>,
    /// Where its [`Input::Heartbeat`]s arrive: a UDP port.
    heartbeats: Option<SocketAddr>,
}

impl Plugin {
    /// The plugin that Circus knows by the class `uses`, with the options of its section; `seed` is for chance.
    ///
    /// Options that are none of its own are left alone: `priority` and the like are its watcher's. The error names all
    /// that is wrong, a line each.
    pub fn new(uses: &str, options: BTreeMap<String, String>, seed: Random) -> Result<Plugin, String> {
        let mut options = Options::new(options);
        let active = options.flag("active", true);
        let made = match uses {
            "circus.plugins.flapping.Flapping" => flapping::plugin(&mut options),
            "circus.plugins.resource_watcher.ResourceWatcher" => resource_watcher::plugin(&mut options, seed),
            "circus.plugins.statsd.StatsdEmitter" => statsd::emitter(&mut options, seed),
            "circus.plugins.statsd.FullStats" => statsd::full_stats(&mut options, seed),
            "circus.plugins.redis_observer.RedisObserver" => redis_observer::plugin(&mut options, seed),
            "circus.plugins.http_observer.HttpObserver" => http_observer::plugin(&mut options, seed),
            "circus.plugins.watchdog.WatchDog" => watchdog::plugin(&mut options),
            "circus.plugins.command_reloader.CommandReloader" => command_reloader::plugin(&mut options),
            _ => return Err(format!("use: there is no plugin '{uses}' in this program")),
        };
        options.done()?;
        match active {
            true => Ok(made),
            false => Ok(Plugin { policy: Box::new(Inactive), statsd: None, heartbeats: None }),
        }
    }
}

/// What a plugin decides. Total: any input in any state, however late, is handled or ignored.
trait Policy {
    /// Takes what happened; gives what to do about it, in order.
    fn step(&mut self, now: Time, input: Input) -> Vec<Output>;

    /// When it wants an [`Input::Woke`]: the earliest of its deadlines.
    fn next_wakeup(&self) -> Option<Time> {
        None
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
enum Input {
    /// From here on the agent's events come as they happen. Told at the start, and again whenever some were missed.
    Following,
    /// The agent told this event.
    Event(Event),
    /// The agent answered, or did not. `command` is what it was asked.
    Answered { command: Command, reply: Result<Value, Failure> },
    /// The deadline came, or nothing did.
    Woke,
    /// A process sent this: a UDP datagram.
    Heartbeat(Vec<u8>),
    /// A GET came back after `took`.
    Fetched { result: Fetched, took: Duration },
    /// Redis was asked for its INFO.
    InfoRead(Result<String, RedisFailure>),
    /// A watcher's program was looked at, or why it cannot be.
    Looked { watcher: String, program: Program, found: Result<Mark, String> },
    /// The plugin is told to end. Nothing comes after it.
    Ending,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
enum Output {
    /// Ask the agent; ends in `Answered` within [`Command::usual_time`].
    Ask(Command),
    /// Ask all nodes of the cluster, through the agent; ends in `Answered`, which has failed where a node has.
    AskAll(Command),
    /// Send a datagram to statsd. May get lost.
    Metric(String),
    /// Fetch a page; ends in `Fetched` within `timeout`.
    Fetch { url: Url, timeout: Duration },
    /// Ask Redis for its INFO; ends in `InfoRead` within `timeout`.
    ReadInfo { url: Secret, timeout: Duration },
    /// Look at the file of a watcher's program; ends in `Looked`.
    Look { watcher: String, program: Program },
    /// Write a line to the log.
    Log(Level, String),
}

/// One of the agent's events.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    /// Of which watcher, as its section names it.
    watcher: String,
    /// What happened, in Circus's words: `spawn`, `reap`, `kill`, `start`, ….
    word: String,
    /// Slot and pid, where it happened to a process.
    process: Option<(u32, u32)>,
}

/// Why the agent did not do, or say, what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// The agent's word for the reason ([`crate::wire::error_code`]); nothing where it was not reached.
    code: Option<String>,
    /// The reason.
    reason: String,
}

impl Failure {
    /// Whether what was asked about is no more, so that there is nothing left to ask.
    fn is_gone(&self) -> bool {
        matches!(self.code.as_deref(), Some("no-such-watcher" | "no-such-process"))
    }
}

/// How a GET ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fetched {
    /// With this status.
    Status(u16),
    /// Without an answer: why.
    Failed(String),
}

/// Why there is no INFO.
#[derive(Debug, Clone, PartialEq, Eq)]
enum RedisFailure {
    /// Redis was not reached, or said nothing in time.
    Silent(String),
    /// Redis said this instead: it lives.
    Refused(String),
}

/// How a program's file is found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Program {
    /// Its path; without a slash, it is sought in `PATH`.
    name: String,
    /// Where relative paths begin; nothing: where the plugin runs.
    dir: Option<PathBuf>,
}

/// By what a program's file is known to be another one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    /// Where it is once all links are followed.
    path: PathBuf,
    /// When it was last written.
    written: SystemTime,
}

/// A plugin whose section says `active = False`: it stays, so that nobody starts it over and over, and does nothing.
struct Inactive;

impl Policy for Inactive {
    fn step(&mut self, _now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => vec![Output::Log(Level::Info, "inactive, as its section says".into())],
            _ => Vec::new(),
        }
    }
}

/// Something to be done at each `loop_rate`, as Circus calls the time between two rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rounds {
    every: Duration,
    due: Option<Time>,
}

/// How often a round comes unless `loop_rate` says otherwise.
const USUAL_ROUND: Duration = Duration::from_secs(60);

impl Rounds {
    fn read(options: &mut Options, default: Duration) -> Rounds {
        Rounds { every: options.interval("loop_rate", default), due: None }
    }

    /// The first round comes one `loop_rate` after the start.
    fn start(&mut self, now: Time) {
        self.due.get_or_insert(now + self.every);
    }

    /// Whether a round is due. What was missed is not made up for.
    fn come(&mut self, now: Time) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = Some(now + self.every);
        }
        due
    }
}

/// Whether the events of this watcher are another plugin's.
fn is_plugin(watcher: &str) -> bool {
    watcher.starts_with("plugin:")
}

/// This watcher and no other.
fn only(watcher: &str) -> Option<Pattern> {
    Some(Pattern::Name(watcher.to_owned()))
}

fn restart(watcher: &str) -> Output {
    Output::Ask(Command::Restart { pattern: only(watcher), patience: Patience::Admitted })
}

/// Asks how a watcher is, before it is restarted: see [`may_restart`].
fn ask_status(watcher: &str) -> Output {
    Output::Ask(Command::Status { watcher: Some(watcher.to_owned()) })
}

/// Whether a watcher of this `status` may be restarted. One that was stopped may not: a restart would start it.
fn may_restart(status: &Value) -> bool {
    !matches!(status["status"].as_str(), Some("stopped" | "stopping"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `seconds` after the play begins.
    pub(super) fn at(seconds: f64) -> Time {
        Time::from_nanos(1_000_000_000_000) + Duration::from_secs_f64(seconds)
    }

    pub(super) fn event(watcher: &str, word: &str, process: Option<(u32, u32)>) -> Input {
        Input::Event(Event { watcher: watcher.into(), word: word.into(), process })
    }

    pub(super) fn answered(command: Command, reply: Value) -> Input {
        Input::Answered { command, reply: Ok(reply) }
    }

    pub(super) fn failed(command: Command, code: Option<&str>) -> Input {
        Input::Answered { command, reply: Err(Failure { code: code.map(Into::into), reason: "because".into() }) }
    }

    /// The plugin that these options make.
    pub(super) fn plugin(uses: &str, options: &[(&str, &str)]) -> Result<Plugin, String> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Plugin::new(&format!("circus.plugins.{uses}"), options, Random::from_number(1))
    }

    /// What it does about this.
    pub(super) fn step(plugin: &mut Plugin, seconds: f64, input: Input) -> Vec<Output> {
        plugin.policy.step(at(seconds), input)
    }

    /// The questions among outputs.
    pub(super) fn asked(outputs: &[Output]) -> Vec<Command> {
        let command = |output: &Output| match output {
            Output::Ask(command) | Output::AskAll(command) => Some(command.clone()),
            _ => None,
        };
        outputs.iter().filter_map(command).collect()
    }

    /// The log among outputs, each line with its level.
    pub(super) fn logged(outputs: &[Output]) -> String {
        let line = |output: &Output| match output {
            Output::Log(level, text) => Some(format!("{level:?} {text}\n")),
            _ => None,
        };
        outputs.iter().filter_map(line).collect()
    }

    /// The datagrams among outputs.
    pub(super) fn metrics(outputs: &[Output]) -> Vec<String> {
        let metric = |output: &Output| match output {
            Output::Metric(text) => Some(text.clone()),
            _ => None,
        };
        outputs.iter().filter_map(metric).collect()
    }

    #[test]
    fn every_plugin_of_circus_is_there_with_its_defaults() {
        for uses in [
            "flapping.Flapping",
            "statsd.StatsdEmitter",
            "statsd.FullStats",
            "redis_observer.RedisObserver",
            "http_observer.HttpObserver",
            "watchdog.WatchDog",
            "command_reloader.CommandReloader",
        ] {
            // What else stands in a section is its watcher's.
            let made = plugin(uses, &[("priority", "1"), ("copy_env", "True"), ("use", uses)]);
            assert!(made.is_ok(), "{uses}: {}", made.err().unwrap());
        }
        assert!(plugin("resource_watcher.ResourceWatcher", &[("watcher", "web")]).is_ok());
        assert!(plugin("nothing.Nothing", &[]).err().unwrap().contains("no plugin 'circus.plugins.nothing.Nothing'"));
    }

    #[test]
    fn all_that_is_wrong_with_the_options_is_said_at_once() {
        let options = [("attempts", "0"), ("window", "soon"), ("max_retry", "-2"), ("active", "perhaps")];
        let why = plugin("flapping.Flapping", &options).err().unwrap();
        for (key, _) in options {
            assert!(why.lines().any(|line| line.starts_with(key)), "{key} in {why}");
        }
    }

    #[test]
    fn values_with_spaces_and_colons_arrive_whole() {
        let msg_regex = "^beat :::(?P<pid>[0-9]+) of (?P<what>.*)$";
        let mut watchdog = plugin("watchdog.WatchDog", &[("msg_regex", msg_regex), ("loop_rate", "1")]).unwrap();
        step(&mut watchdog, 0.0, Input::Following);
        step(&mut watchdog, 0.0, event("web", "spawn", Some((1, 7))));
        step(&mut watchdog, 2.5, Input::Heartbeat(b"beat :::7 of the first web".to_vec()));
        assert_eq!(asked(&step(&mut watchdog, 4.0, Input::Woke)), []);
    }

    #[test]
    fn an_inactive_plugin_says_so_and_does_nothing() {
        let mut idle = plugin("statsd.StatsdEmitter", &[("active", "False")]).unwrap();
        assert!(logged(&step(&mut idle, 0.0, Input::Following)).contains("inactive"));
        assert_eq!(step(&mut idle, 1.0, event("web", "spawn", Some((1, 7)))), []);
        assert_eq!((idle.policy.next_wakeup(), idle.statsd), (None, None));
    }
}
