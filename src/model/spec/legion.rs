//! How nodes choose who is to hold a lease, and what is done about it: uWSGI's legions.
//!
//! A legion is a lease with members, and a watcher that leads it: `[legion:NAME]` is read as a singleton watcher whose
//! one process does [`LegionEvent::Lord`]'s actions, and [`LegionEvent::Unlord`]'s when it is told to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::check::Url;
use crate::model::event::{signal_name, signal_number};
use crate::model::names::WatcherName;

/// What a node brings to the election of a lease's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionSpec {
    /// Of the members that live the one with the highest is to hold the lease; of equals the first by name. 0: an
    /// arbiter, that counts for the quorum and never holds it.
    pub valor: u32,
    /// So many members have to live for one to take the lease, and to keep it. At least 1.
    pub quorum: u32,
    /// How many members there should be, where that was said.
    pub expected: Option<u32>,
    /// Whether a higher valor takes over from a holder that lives.
    pub preempt: bool,
    /// And how long it has to have been there for that.
    pub preempt_delay: Duration,
    /// What this node tells the others of itself.
    pub scroll: String,
}

impl ElectionSpec {
    /// How many of `expected` are a majority.
    pub fn majority(expected: u32) -> u32 {
        expected / 2 + 1
    }
}

/// What is done when a legion changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LegionSpec {
    /// In the order in which they are done.
    pub actions: BTreeMap<LegionEvent, Vec<LegionAction>>,
    /// How long each of them may take.
    pub action_timeout: Duration,
    /// A node whose [`LegionEvent::Lord`] failed stands back for so long; nothing: the failure is told, and it leads.
    pub death_on_lord_error: Option<Duration>,
}

impl LegionSpec {
    /// Whether anything is done at this event.
    pub fn has_actions(&self, event: LegionEvent) -> bool {
        self.actions.get(&event).is_some_and(|actions| !actions.is_empty())
    }

    /// How long all that is done at this event may take.
    pub fn time_for(&self, event: LegionEvent) -> Duration {
        let many = self.actions.get(&event).map_or(0, Vec::len);
        self.action_timeout.saturating_mul(u32::try_from(many).unwrap_or(u32::MAX))
    }

    /// The command of the lord process of the legion `name`: this program, as `circus-lord`.
    pub fn lord_words(&self, name: &WatcherName) -> Vec<String> {
        let mut words = self.words(name);
        words.extend(self.death_on_lord_error.map(|_| "--or-fail".to_owned()));
        for (option, event) in [("--lord", LegionEvent::Lord), ("--unlord", LegionEvent::Unlord)] {
            words.push(option.to_owned());
            words.extend(self.action_words(event));
        }
        words
    }

    /// The command that does what is to be done at this event, and ends.
    pub fn event_words(&self, name: &WatcherName, event: LegionEvent) -> Vec<String> {
        let mut words = self.words(name);
        words.extend(["--event", event.name(), "--"].map(str::to_owned));
        words.extend(self.action_words(event));
        words
    }

    fn words(&self, name: &WatcherName) -> Vec<String> {
        let timeout = self.action_timeout.as_secs_f64().to_string();
        ["circus-lord", "--legion", name.as_str(), "--timeout", &timeout].map(str::to_owned).into()
    }

    fn action_words(&self, event: LegionEvent) -> impl Iterator<Item = String> {
        self.actions.get(&event).into_iter().flatten().map(ToString::to_string)
    }
}

/// What can happen to a legion, as one of its members sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LegionEvent {
    /// The agent starts, or has been told of the legion: before anything else.
    Setup,
    /// There is a quorum for the first time.
    Join,
    /// This node leads: it has the lease, and nothing of the lord before is left.
    Lord,
    /// It does not any more: the lease is still kept, for as long as this takes.
    Unlord,
    /// The agent ends, or forgets the legion.
    Death,
    /// Another member appeared.
    NodeJoined,
    /// Another member left or went silent.
    NodeLeft,
    /// Another node leads than before, or none.
    LordChanged,
}

impl LegionEvent {
    /// All of them, in the order of a life.
    pub const ALL: [LegionEvent; 8] = [
        LegionEvent::Setup,
        LegionEvent::Join,
        LegionEvent::Lord,
        LegionEvent::Unlord,
        LegionEvent::Death,
        LegionEvent::NodeJoined,
        LegionEvent::NodeLeft,
        LegionEvent::LordChanged,
    ];

    /// Its name in files, events and `LEGION_EVENT`: uWSGI's, where it has one.
    pub fn name(self) -> &'static str {
        match self {
            LegionEvent::Setup => "setup",
            LegionEvent::Join => "join",
            LegionEvent::Lord => "lord",
            LegionEvent::Unlord => "unlord",
            LegionEvent::Death => "death",
            LegionEvent::NodeJoined => "node_joined",
            LegionEvent::NodeLeft => "node_left",
            LegionEvent::LordChanged => "lord_changed",
        }
    }

    /// The event of this name.
    pub fn parse(name: &str) -> Option<LegionEvent> {
        LegionEvent::ALL.into_iter().find(|event| event.name() == name)
    }
}

/// One thing that is done. Written out it is as in the file: `cmd:ip addr add 10.0.0.9/24 dev eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegionAction {
    /// A line for `sh -c`; it succeeds with exit code 0.
    Command(String),
    /// A line for the log.
    Log(String),
    /// A signal, by number, for the processes of a watcher of this node.
    Signal {
        /// Whose processes.
        watcher: WatcherName,
        /// Which signal.
        signal: i32,
    },
    /// A GET of this URL; it succeeds with a status of 2xx.
    Http(Url),
    /// An event of this topic for whoever follows events.
    Publish(String),
}

impl LegionAction {
    /// Reads `cmd:LINE`, `log:TEXT`, `signal:WATCHER:SIGNAL`, `http://HOST/PATH` or `publish:TOPIC`. The error says what
    /// is wrong, as in "it …".
    pub fn parse(text: &str) -> Result<LegionAction, String> {
        const KINDS: &str = "it is one of cmd:LINE, log:TEXT, signal:WATCHER:SIGNAL, http:URL and publish:TOPIC";
        let text = text.trim();
        let Some((kind, rest)) = text.split_once(':') else { return Err(format!("names no action: {KINDS}")) };
        let rest = rest.trim();
        let missing = |what: &str| Err(format!("lacks {what}"));
        match kind {
            _ if rest.contains('\0') => Err("has a NUL byte".into()),
            "cmd" | "exec" if rest.is_empty() => missing("a command line, as in cmd:ip addr add 10.0.0.9/24 dev eth0"),
            "cmd" | "exec" => Ok(LegionAction::Command(rest.into())),
            "log" if rest.is_empty() => missing("a text, as in log:$LEGION_NODE leads"),
            "log" if rest.contains(['\n', '\r']) => Err("must be one line".into()),
            "log" => Ok(LegionAction::Log(rest.into())),
            "signal" => LegionAction::parse_signal(rest),
            "http" => {
                let url = if rest.starts_with("//") { text } else { rest };
                Url::parse(url).map(LegionAction::Http)
            }
            "https" => Url::parse(text).map(LegionAction::Http),
            "publish" if rest.is_empty() => missing("a topic, as in publish:clusterip"),
            "publish" if !is_topic(rest) => Err(format!("publishes no topic: '{rest}' has blanks, or is too long")),
            "publish" => Ok(LegionAction::Publish(rest.into())),
            "alarm" => Err("has no alarms to raise: let a program do it, as in cmd:LINE".into()),
            other => Err(format!("does not know the action '{other}:': {KINDS}")),
        }
    }

    /// `WATCHER:SIGNAL`. A watcher's name may have colons of its own.
    fn parse_signal(text: &str) -> Result<LegionAction, String> {
        let Some((watcher, signal)) = text.rsplit_once(':') else {
            return Err("signals somebody: it is signal:WATCHER:SIGNAL, as in signal:web:HUP".into());
        };
        let watcher = WatcherName::parse(watcher).map_err(|error| format!("signals nobody: {error}"))?;
        let signal = signal_number(signal).filter(|signal| *signal > 0);
        let signal = signal.ok_or("sends no signal: that is a name or number, as in signal:web:HUP")?;
        Ok(LegionAction::Signal { watcher, signal })
    }
}

/// Whether a text can be the topic of an event.
pub fn is_topic(text: &str) -> bool {
    (1..=200).contains(&text.len()) && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

impl fmt::Display for LegionAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LegionAction::Command(line) => write!(f, "cmd:{line}"),
            LegionAction::Log(text) => write!(f, "log:{text}"),
            // Those without a name are numbers.
            LegionAction::Signal { watcher, signal } => {
                write!(f, "signal:{watcher}:{}", signal_name(*signal).trim_start_matches("signal "))
            }
            LegionAction::Http(url) => write!(f, "{url}"),
            LegionAction::Publish(topic) => write!(f, "publish:{topic}"),
        }
    }
}

/// The name of the file that tells how the legion of this name is: what a file name cannot hold is written as in URLs.
pub fn legion_file(legion: &str) -> String {
    let plain = |at: usize, byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || (byte == b'.' && at > 0);
    let written = |(at, byte)| if plain(at, byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    legion.bytes().enumerate().map(written).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_written_as_it_is_read() {
        for text in [
            "cmd:ip addr add 10.0.0.9/24 dev eth0 && arping -U 10.0.0.9",
            "log:$LEGION_NODE leads: ${LEGION_MEMBERS}",
            "signal:web:SIGHUP",
            "signal:plugin:flapping:40",
            "http://web:8080/lord?node=1",
            "publish:clusterip.lord",
        ] {
            assert_eq!(LegionAction::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        for (one, other) in [
            ("exec:true", "cmd:true"),
            (" cmd: true ", "cmd:true"),
            ("http:http://web/", "http://web/"),
            ("signal:web:1", "signal:web:SIGHUP"),
            ("signal:web:hup", "signal:web:SIGHUP"),
        ] {
            assert_eq!(LegionAction::parse(one), LegionAction::parse(other), "{one}");
            assert!(LegionAction::parse(one).is_ok(), "{one}");
        }
    }

    #[test]
    fn a_legions_file_is_in_its_directory_whatever_its_name() {
        let names = ["clusterip", "a b", "..", "../x", "a.b", "%2E."];
        let files = ["clusterip", "a%20b", "%2E.", "%2E.%2Fx", "a.b", "%252E."];
        assert_eq!(names.map(legion_file), files);
    }

    #[test]
    fn what_is_no_action_is_told() {
        for (text, why) in [
            ("", "names no action"),
            ("ip addr add", "names no action"),
            ("run:x", "'run:'"),
            ("cmd:", "lacks a command line"),
            ("cmd:a\0b", "NUL"),
            ("log: ", "lacks a text"),
            ("log:a\nb", "one line"),
            ("signal:17", "signal:WATCHER:SIGNAL"),
            ("signal::HUP", "signals nobody"),
            ("signal:web:0", "sends no signal"),
            ("signal:web:NOPE", "sends no signal"),
            ("http:web", "http:// URL"),
            ("https://web/", "https"),
            ("publish:", "lacks a topic"),
            ("publish:a b", "no topic"),
            ("alarm:x y", "alarms"),
        ] {
            let error = LegionAction::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
