//! circusctl's streams: `events`, `logs` and `stats -f`, shown as they come until nothing more is to come, or ^C.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use regex::Regex;
use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::ctl;
use super::whom::Global;
use super::{ctl_exit, interrupted};
use crate::client::follow::Stream;
use crate::client::{self, Call, ClientError, Endpoint};
use crate::model::command::{Command, Target};
use crate::model::names::NodeWord;
use crate::model::pattern::Pattern;
use crate::view::{FramesView, StreamView, Text};
use crate::wire::{Follow, Nodes, Subject};

/// How long beginning a stream may take, unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after a stream has broken off, or could not be taken up again, that is tried (again).
const PAUSE: Duration = Duration::from_millis(250);
/// How many lines are asked for, at most, where all that is kept is of interest.
const ALL_LINES: usize = 10_000;

/// What can be followed.
#[derive(Debug, Subcommand)]
pub(super) enum Words {
    /// Show what happened to watchers and their processes
    Events {
        /// Watchers: names, or patterns with * ? [ ]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Go on with what happens
        #[arg(long, short)]
        follow: bool,
        /// How many of the latest to show
        #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
        lines: usize,
    },
    /// Follow events as Circus has them: topics begin with these
    #[command(hide = true)]
    Listen {
        /// Beginnings of topics, as watcher.web.
        topics: Vec<String>,
    },
    /// Show what processes print
    Logs(Logs),
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Watchers: names, or patterns with * ? [ ]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Go on with what is printed
    #[arg(long, short)]
    follow: bool,
    /// How many of the latest lines to show [default: 100, with --grep all that are kept]
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<usize>,
    /// Show only lines that match this regular expression; (?i) ignores case
    #[arg(long, value_name = "RE")]
    grep: Option<Regex>,
}

/// What is shown of a stream, and how.
struct Show {
    view: StreamView,
    frames: FramesView,
    /// Whether a frame takes the place of the one before.
    redraws: bool,
    since: Instant,
    json: bool,
    grep: Option<Regex>,
    topics: Vec<String>,
}

/// Shows a stream to its end, or until ^C: the exit code.
///
/// # Errors
/// It could not be begun, or broke off and is not to be followed.
pub(super) fn run(global: &Global, words: Words) -> Result<u8, ClientError> {
    let (follow, grep, topics) = understand(words);
    show(global, follow, grep, topics)
}

/// Shows what the processes of these watchers use, each second, in the same way.
///
/// # Errors
/// As [`run`].
pub(super) fn stats(global: &Global, name: Option<String>) -> Result<u8, ClientError> {
    let names = name.into_iter().map(Pattern::Glob).collect();
    show(global, Follow { names, ..Follow::all(Subject::Stats) }, None, Vec::new())
}

fn show(global: &Global, mut follow: Follow, grep: Option<Regex>, topics: Vec<String>) -> Result<u8, ClientError> {
    let target = global.whom.target()?;
    if let Target::Any(..) = target {
        return Err(ClientError::Usage("a stream comes from all that are meant: leave --any out".into()));
    }
    if target != Target::Here && !follow.live {
        return Err(ClientError::Usage("of several nodes there is only what comes: follow it with -f".into()));
    }
    let mut show = Show {
        view: StreamView::new(ctl::style(), TimeZone::system()),
        frames: FramesView::new(ctl::style()),
        redraws: io::stdout().is_terminal(),
        since: Instant::now(),
        json: global.json || global.prettify,
        grep,
        topics,
    };
    ctl::runtime()?.block_on(async {
        let endpoint = global.place.endpoint()?;
        follow.nodes = nodes(global, &endpoint, target).await?;
        tokio::select! {
            ended = shown(global, &endpoint, follow, &mut show) => ended,
            () = interrupted() => Ok(ctl_exit::OK),
            () = reader_gone() => Ok(end_like_others()),
        }
    })
}

/// Whose stream is meant. Names and patterns are looked at as it goes on; who has a label, and who holds a singleton, is
/// asked when it begins.
async fn nodes(global: &Global, endpoint: &Endpoint, target: Target) -> Result<Nodes, ClientError> {
    let named = |word: &NodeWord| Pattern::Glob(word.to_string());
    match &target {
        Target::Here => return Ok(Nodes::Here),
        Target::All => return Ok(Nodes::All),
        Target::Nodes(selector) if selector.labels.is_empty() => {
            return Ok(Nodes::Named(selector.nodes.iter().map(named).collect()));
        }
        Target::Nodes(_) | Target::Holder(_) | Target::Any(..) => {}
    }
    // The least of questions: it is the names in the reply that count.
    let (command, cluster) = (Command::Version, global.place.cluster.clone());
    let call = Call { command, target, cluster, patience: global.timeout.unwrap_or(PATIENCE) };
    let reply = client::ask(endpoint, &call).await?;
    let why = |part: &Value| part["reason"].as_str().unwrap_or("it did not say why").to_owned();
    let Some(nodes) = reply["nodes"].as_object() else { return Err(ClientError::Refused(why(&reply))) };
    let (silent, told): (Vec<_>, Vec<_>) = nodes.iter().partition(|(_, part)| part["status"] == "error");
    for (node, part) in silent {
        eprintln!("note: {node}: {}", why(part));
    }
    match told.is_empty() {
        true => Err(ClientError::Silent("none of these nodes answers".into())),
        false => Ok(Nodes::Named(told.into_iter().map(|(node, _)| Pattern::Glob(node.clone())).collect())),
    }
}

fn understand(words: Words) -> (Follow, Option<Regex>, Vec<String>) {
    let globs = |names: Vec<String>| names.into_iter().map(Pattern::Glob).collect();
    match words {
        Words::Events { names, follow, lines } => {
            (Follow { names: globs(names), lines, live: follow, ..Follow::all(Subject::Events) }, None, Vec::new())
        }
        Words::Listen { topics } => (Follow::all(Subject::Events), None, topics),
        Words::Logs(Logs { names, follow, lines, grep }) => {
            let lines = lines.unwrap_or(if grep.is_some() { ALL_LINES } else { 100 });
            (Follow { names: globs(names), lines, live: follow, ..Follow::all(Subject::Logs) }, grep, Vec::new())
        }
    }
}

async fn shown(global: &Global, endpoint: &Endpoint, mut follow: Follow, show: &mut Show) -> Result<u8, ClientError> {
    let patience = global.timeout.unwrap_or(PATIENCE);
    let mut stream = Stream::open(endpoint, &global.place.cluster, &follow, patience).await?;
    // What is older than this has been shown, or was not asked for.
    let mut seen = unix_time();
    let mut catching_up = false;
    loop {
        match stream.next().await {
            Ok(Some(line)) => {
                let time = line["time"].as_f64();
                if catching_up && time.is_some_and(|time| time <= seen) {
                    continue;
                }
                // From the first new line on all are, even if the clock is set back.
                catching_up &= time.is_none();
                seen = time.map_or(seen, |time| seen.max(time));
                if let Err(error) = show.print(&line) {
                    return Ok(match error.kind() {
                        io::ErrorKind::BrokenPipe => end_like_others(),
                        _ => {
                            eprintln!("error: standard output: {error}");
                            ctl_exit::FAILED
                        }
                    });
                }
            }
            Ok(None) => return Ok(ctl_exit::OK),
            Err(error) if !follow.live => return Err(error),
            Err(error) => {
                eprintln!("note: {error}; waiting for its return");
                follow.lines = ALL_LINES;
                stream = reopened(global, endpoint, &follow, patience).await?;
                // Only an agent knows what has been, and only of its own node.
                catching_up = matches!(endpoint, Endpoint::Unix(_)) && follow.nodes == Nodes::Here;
                match catching_up {
                    true => eprintln!("note: {endpoint} is back"),
                    false => eprintln!("note: {endpoint} is back; what happened meanwhile is not known"),
                }
            }
        }
    }
}

async fn reopened(
    global: &Global,
    endpoint: &Endpoint,
    follow: &Follow,
    patience: Duration,
) -> Result<Stream, ClientError> {
    loop {
        sleep(PAUSE).await;
        match Stream::open(endpoint, &global.place.cluster, follow, patience).await {
            Err(ClientError::Unreached(_) | ClientError::Silent(_)) => {}
            opened => return opened,
        }
    }
}

impl Show {
    fn print(&mut self, line: &Value) -> io::Result<()> {
        if !self.wants(line) {
            return Ok(());
        }
        let text = match self.json {
            false if line["machine"].is_object() => {
                let text = self.frames.text(line, self.since.elapsed());
                // From the top, over what was there.
                let out = if self.redraws { format!("\x1b[H\x1b[J{text}") } else { text + "\n" };
                Text { out, err: String::new() }
            }
            false => self.view.text(line),
            true => {
                let mut line = line.clone();
                line.as_object_mut().map(|line| line.remove("id"));
                Text { out: format!("{line}\n"), err: String::new() }
            }
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.out.as_bytes())?;
        stdout.flush()?;
        eprint!("{}", text.err);
        Ok(())
    }

    fn wants(&self, line: &Value) -> bool {
        let greps = |text: &str| self.grep.as_ref().is_none_or(|grep| grep.is_match(text));
        let begins = |topic: &str| self.topics.is_empty() || self.topics.iter().any(|wanted| topic.starts_with(wanted));
        line["line"].as_str().is_none_or(greps) && line["topic"].as_str().is_none_or(begins)
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Waits until nobody reads standard output any more: `circusctl logs -f | grep -m1 ready` is to end when it was found
/// and not only when there is one more line to write.
async fn reader_gone() {
    // SAFETY: nothing in this program closes or replaces standard output.
    let watched = unsafe { AsyncFd::register_with_interest(io::stdout(), Interest::ERROR) };
    match watched {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        // A file: it has no reader.
        Err(_) => std::future::pending().await,
    }
}

/// Ends this program as others end whose output nobody reads: by SIGPIPE. Where that is blocked, an exit code is left.
fn end_like_others() -> u8 {
    ctl::default_sigpipe();
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGPIPE);
    ctl_exit::FAILED
}
