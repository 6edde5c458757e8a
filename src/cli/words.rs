//! What stands behind circusctl's words, and the commands that they come to.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::ctl::patience;
use super::roll::Rolling;
use super::whom::time;
use crate::client::ClientError;
use crate::model::command::{Command, Leave, ReloadWay};
use crate::model::event::{Changes, Reach, signal_number};
use crate::model::names::SocketName;
use crate::model::pattern::Pattern;
use crate::model::spec::HookPoint;

/// Watchers by name or pattern.
#[derive(Debug, Args)]
pub(super) struct Matching {
    /// A watcher's name, or a pattern with * ? [ ]
    name: Option<String>,
    /// What the name is
    #[arg(long = "match", value_enum, default_value_t)]
    how: Match,
    /// Reply when it is done
    #[arg(long)]
    pub(super) waiting: bool,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Match {
    /// A pattern
    #[default]
    Glob,
    /// A name, whatever characters it has
    Simple,
    /// A regular expression that the name begins with
    Regex,
}

impl Matching {
    pub(super) fn pattern(self) -> Result<Option<Pattern>, ClientError> {
        let Some(name) = self.name else { return Ok(None) };
        Ok(Some(match self.how {
            Match::Glob => Pattern::Glob(name),
            Match::Simple => Pattern::Name(name),
            Match::Regex => Pattern::regex(&name)
                .map_err(|why| ClientError::Usage(format!("'{name}' is no regular expression: {why}")))?,
        }))
    }
}

/// Watchers that are stopped and started.
#[derive(Debug, Args)]
pub(super) struct Restart {
    #[command(flatten)]
    pub(super) some: Matching,
    #[command(flatten)]
    pub(super) rolling: Rolling,
}

/// More processes of a watcher, or fewer.
#[derive(Debug, Args)]
pub(super) struct Resize {
    /// The watcher
    name: String,
    /// How many processes
    #[arg(value_name = "N", conflicts_with = "nb")]
    count: Option<u32>,
    /// The same as N
    #[arg(long, value_name = "N")]
    nb: Option<u32>,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl Resize {
    pub(super) fn command(self, sign: i64) -> Command {
        let count = self.count.or(self.nb).unwrap_or(1);
        Command::Resize { watcher: self.name, by: sign * i64::from(count), patience: patience(self.waiting) }
    }
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    /// A watcher
    name: Option<String>,
    /// Stop all its processes before the first new one starts
    #[arg(long)]
    terminate: bool,
    /// Stop each process before its successor starts, not after
    #[arg(long)]
    sequential: bool,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
    #[command(flatten)]
    pub(super) rolling: Rolling,
}

impl Reload {
    pub(super) fn command(self) -> Command {
        let way = match (self.terminate, self.sequential) {
            (true, _) => ReloadWay::Restart,
            (false, true) => ReloadWay::Sequential,
            (false, false) => ReloadWay::Rolling,
        };
        Command::Reload { watcher: self.name, way, patience: patience(self.waiting) }
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "circusctl signal [OPTIONS] <NAME> [PID] <SIGNAL>")]
pub(super) struct Signal {
    /// The watcher
    name: String,
    /// The signal: HUP, SIGHUP, 1, RTMIN+1; before it the pid, where it is for one process only
    // One argument for both: which is which shows only when all are there, and options may stand between them.
    #[arg(value_name = "SIGNAL", num_args = 1..=2, required = true)]
    words: Vec<String>,
    /// To the children of the processes, and not to themselves
    #[arg(long)]
    children: bool,
    /// To the processes and all their descendants
    #[arg(long)]
    recursive: bool,
    /// To this child of the process PID
    #[arg(long, value_name = "CHILD")]
    childpid: Option<u32>,
}

impl Signal {
    pub(super) fn command(self) -> Result<Command, ClientError> {
        let number = |text: &str| signal(text).map_err(|why| ClientError::Usage(format!("'{text}': {why}")));
        let (pid, signal) = match &self.words[..] {
            [name] => (None, number(name)?),
            [pid, name] => match pid.parse() {
                Ok(pid) => (Some(pid), number(name)?),
                Err(_) => return Err(ClientError::Usage(format!("'{pid}' is no pid: signal NAME [PID] SIGNAL"))),
            },
            _ => return Err(ClientError::Usage("one signal at a time: signal NAME [PID] SIGNAL".into())),
        };
        let reach = match (self.childpid, self.children, self.recursive) {
            (Some(_), ..) if pid.is_none() => {
                return Err(ClientError::Usage(
                    "--childpid needs the PID of its parent: signal NAME PID SIGNAL".into(),
                ));
            }
            (Some(child), ..) => Reach::Child(child),
            (None, true, _) => Reach::Children,
            (None, false, true) => Reach::Tree,
            (None, false, false) => Reach::Main,
        };
        Ok(Command::Signal { watcher: self.name, pid, signal, reach })
    }
}

fn signal(text: &str) -> Result<i32, String> {
    signal_number(text).ok_or_else(|| "it is no signal; HUP, SIGHUP, 1 and RTMIN+1 are".into())
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    /// The watcher
    name: String,
    /// One of its processes; all of them without it
    pid: Option<u32>,
    /// The signal that asks them to stop [default: the watcher's stop_signal]
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    signum: Option<i32>,
    /// How long they may take before SIGKILL [default: the watcher's graceful_timeout]
    #[arg(long = "graceful_timeout", alias = "graceful-timeout", value_name = "SECONDS", value_parser = time)]
    grace: Option<Duration>,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl Kill {
    pub(super) fn command(self) -> Command {
        let Kill { name, pid, signum, grace, waiting } = self;
        Command::Kill { watcher: name, pid, signal: signum, grace, patience: patience(waiting) }
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "circusctl set [OPTIONS] <NAME> <KEY> <VALUE> [<KEY> <VALUE>]...")]
pub(super) struct Set {
    /// The watcher
    name: String,
    /// Options and their values: numprocesses 3 env A=1,B=2 hooks before_start:mod.hook
    #[arg(value_names = ["KEY", "VALUE"], num_args = 2.., required = true, allow_negative_numbers = true)]
    pairs: Vec<String>,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl Set {
    pub(super) fn command(self) -> Result<Command, ClientError> {
        let mut changes = Changes::default();
        for (key, value) in pairs(&self.pairs, "set")? {
            change(&mut changes, key, value)?;
        }
        Ok(Command::Set { watcher: self.name, changes, patience: patience(self.waiting) })
    }
}

/// `KEY VALUE KEY VALUE …`, as the command `usage` has them.
fn pairs<'a>(words: &'a [String], usage: &str) -> Result<Vec<(&'a str, &'a str)>, ClientError> {
    let pair = |pair: &'a [String]| match pair {
        [key, value] => Ok((key.as_str(), value.as_str())),
        odd => Err(ClientError::Usage(format!("'{}' has no value: {usage} NAME KEY VALUE …", odd.join(" ")))),
    };
    words.chunks(2).map(pair).collect()
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The watcher's name
    name: String,
    /// What it runs, quoted as in a shell: 'celery -A proj worker'
    cmd: String,
    /// More arguments, each as it is; after -- where they begin with a dash
    args: Vec<String>,
    /// Start it at once
    #[arg(long)]
    start: bool,
    /// An option of it: numprocesses=3
    #[arg(long = "option", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl Add {
    pub(super) fn command(self) -> Result<Command, ClientError> {
        let mut changes = Changes::default();
        changes.settings.push(("cmd".into(), Some(self.cmd)));
        if !self.args.is_empty() {
            let args = shlex::try_join(self.args.iter().map(String::as_str))
                .map_err(|why| ClientError::Usage(format!("the arguments cannot be quoted: {why}")))?;
            changes.settings.push(("args".into(), Some(args)));
        }
        for option in &self.options {
            let (key, value) = option
                .split_once('=')
                .ok_or_else(|| ClientError::Usage(format!("'{option}' is no option: --option KEY=VALUE")))?;
            change(&mut changes, key, value)?;
        }
        Ok(Command::Add { name: self.name, changes, start: self.start, patience: patience(self.waiting) })
    }
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// The watcher
    name: String,
    /// Let its processes run on, supervised by nobody
    #[arg(long)]
    nostop: bool,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl Remove {
    pub(super) fn command(self) -> Command {
        let leave = if self.nostop { Leave::Processes } else { Leave::Nothing };
        Command::Remove { watcher: self.name, leave, patience: patience(self.waiting) }
    }
}

#[derive(Debug, Args)]
#[command(override_usage = "circusctl addsocket [OPTIONS] <NAME> <KEY> <VALUE> [<KEY> <VALUE>]...")]
pub(super) struct AddSocket {
    /// The socket's name
    #[arg(value_name = "NAME", value_parser = socket_name)]
    new: SocketName,
    #[command(flatten)]
    settings: SocketSettings,
}

#[derive(Debug, Args)]
#[command(override_usage = "circusctl setsocket [OPTIONS] <NAME> <KEY> <VALUE> [<KEY> <VALUE>]...")]
pub(super) struct SetSocket {
    /// The socket
    #[arg(value_name = "NAME")]
    socket: String,
    #[command(flatten)]
    settings: SocketSettings,
}

#[derive(Debug, Args)]
struct SocketSettings {
    /// Options and their values: host 127.0.0.1 port 8080, or path /run/web.sock
    #[arg(value_names = ["KEY", "VALUE"], num_args = 2.., required = true, allow_negative_numbers = true)]
    pairs: Vec<String>,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl SocketSettings {
    fn changes(&self, usage: &str) -> Result<Changes, ClientError> {
        let settings = pairs(&self.pairs, usage)?;
        let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
        Ok(Changes { settings: settings.collect(), env: None })
    }
}

impl AddSocket {
    pub(super) fn command(self) -> Result<Command, ClientError> {
        let (changes, patience) = (self.settings.changes("addsocket")?, patience(self.settings.waiting));
        Ok(Command::AddSocket { name: self.new.to_string(), changes, patience })
    }
}

impl SetSocket {
    pub(super) fn command(self) -> Result<Command, ClientError> {
        let (changes, patience) = (self.settings.changes("setsocket")?, patience(self.settings.waiting));
        Ok(Command::SetSocket { socket: self.socket, changes, patience })
    }
}

fn socket_name(text: &str) -> Result<SocketName, String> {
    SocketName::parse(text).map_err(|bad| bad.to_string())
}

#[derive(Debug, Args)]
pub(super) struct RemoveSocket {
    /// The socket
    #[arg(value_name = "NAME")]
    socket: String,
    /// Reply when it is done
    #[arg(long)]
    waiting: bool,
}

impl RemoveSocket {
    pub(super) fn command(self) -> Command {
        Command::RemoveSocket { socket: self.socket, patience: patience(self.waiting) }
    }
}

/// Adds what the user wants of one key. Two keys hold many things: `env` `A=1,B=2`, `hooks` `before_start:a.b,…`.
fn change(changes: &mut Changes, key: &str, value: &str) -> Result<(), ClientError> {
    match key {
        "env" => {
            changes.env = Some(several(value, '=', |_| true).ok_or_else(|| {
                ClientError::Usage(format!("'{value}' is no environment: it is NAME=VALUE,NAME=VALUE"))
            })?);
        }
        "hooks" => {
            let hooks = several(value, ':', |name| HookPoint::parse(name).is_some()).ok_or_else(|| {
                let known: Vec<&str> = HookPoint::ALL.iter().map(|point| point.name()).collect();
                ClientError::Usage(format!(
                    "'{value}' is no list of hooks: it is POINT:HOOK, and a point one of {}",
                    known.join(", ")
                ))
            })?;
            changes.settings.extend(hooks.into_iter().map(|(point, hook)| (format!("hooks.{point}"), Some(hook))));
        }
        _ => changes.settings.push((key.to_owned(), Some(value.to_owned()))),
    }
    Ok(())
}

/// Splits `a=1,b=2` into pairs. What does not begin with a name belongs, comma and all, to the value before it; nothing
/// where there is none before it.
fn several(text: &str, separator: char, is_name: impl Fn(&str) -> bool) -> Option<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    if text.is_empty() {
        return Some(pairs);
    }
    for part in text.split(',') {
        match part.split_once(separator) {
            Some((name, value)) if !name.is_empty() && is_name(name) => pairs.push((name.into(), value.into())),
            _ => {
                let (_, value) = pairs.last_mut()?;
                value.push(',');
                value.push_str(part);
            }
        }
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_commas_stay_whole() {
        let owned = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>())
        };
        let env = |text| several(text, '=', |_| true);
        assert_eq!(env("A=1,B=x=y"), owned(&[("A", "1"), ("B", "x=y")]));
        assert_eq!(env("HOSTS=a,b,C="), owned(&[("HOSTS", "a,b"), ("C", "")]));
        assert_eq!(env(""), owned(&[]));
        assert_eq!(env("A"), None);
        assert_eq!(env("=1"), None);
        let hooks = |text| several(text, ':', |name| HookPoint::parse(name).is_some());
        assert_eq!(
            hooks("before_start:a.b,true,after_stop:/bin/log http://x"),
            owned(&[("before_start", "a.b,true"), ("after_stop", "/bin/log http://x")])
        );
        assert_eq!(hooks("before_lunch:a.b"), None);
    }
}
