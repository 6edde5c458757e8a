//! circusctl: from words to a [`Call`], and from the reply to text and an exit code.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::RawFd;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use super::roll::Rolling;
use super::whom::{Global, node};
use super::words::{
    Add, AddSocket, Kill, Matching, Reload, Remove, RemoveSocket, Resize, Restart, Set, SetSocket, Signal,
};
use super::{colours, ctl_exit, drill, follow, init, interrupted, roll, shell, stopping};
use crate::client::{self, Call, ClientError};
use crate::model::command::{Command, Patience, Target};
use crate::model::names::NodeName;
use crate::view::{self, Style, Text};
use crate::wire;

/// circusctl's command line.
#[derive(Debug, Parser)]
#[command(
    name = "circusctl",
    version,
    about = "Commands one agent, several, or all of them",
    // A shell's own options stand before those of the command that it was given.
    args_override_self = true,
    after_help = "Without a command, commands are read from the terminal or from standard input.\n\
                  Without --endpoint and CIRCUSCTL_ENDPOINT the agent of this machine is asked.\n\
                  Exit codes: 0 ok, 1 the command failed, 2 usage, 3 not all is well (status), 4 some nodes did not \
                  answer, 5 no agent or Redis reached."
)]
pub struct CtlArgs {
    #[command(flatten, next_help_heading = "Options of all commands")]
    global: Global,
    #[command(subcommand)]
    command: Option<CtlWords>,
}

/// What can be asked for: one answer, or a stream.
#[derive(Debug, Subcommand)]
enum CtlWords {
    #[command(flatten)]
    Ask(Words),
    #[command(flatten)]
    Follow(follow::Words),
    /// Harm a singleton's holder on purpose, and tell whether the promise was kept
    Drill(drill::Drill),
    /// Print the file of another supervisor as one for the agent
    Init(init::Init),
}

#[derive(Debug, Subcommand)]
enum Words {
    /// List the watchers, or the pids of one
    List {
        /// A watcher
        name: Option<String>,
    },
    /// Show how the watchers are, or one of them in full
    Status {
        /// A watcher
        name: Option<String>,
    },
    /// Start the watchers that match, or all that start by themselves
    Start(Matching),
    /// Stop the watchers that match, or all
    Stop(Matching),
    /// Stop and start the watchers that match, or all
    Restart(Restart),
    /// Replace the processes of a watcher, or of all, one at a time
    Reload(Reload),
    /// Apply what has changed in the configuration file
    Reloadconfig {
        /// Reply when it is done
        #[arg(long)]
        waiting: bool,
    },
    /// Show what reloadconfig would do
    Plan,
    /// Run more processes of a watcher
    Incr(Resize),
    /// Run fewer processes of a watcher
    Decr(Resize),
    /// Change options of a watcher, until the agent ends
    Set(Set),
    /// Add a watcher, until the agent ends
    Add(Add),
    /// Stop and remove a watcher
    Rm(Remove),
    /// Send a signal to processes of a watcher
    Signal(Signal),
    /// Tell whoever follows events of something, in a watcher's name
    Publish {
        /// The watcher
        name: String,
        /// What it is called there
        topic: String,
    },
    /// Stop processes of a watcher, which are then replaced
    Kill(Kill),
    /// Count the processes, of all watchers or of one
    Numprocesses {
        /// A watcher
        name: Option<String>,
    },
    /// Count the watchers
    Numwatchers,
    /// Show what the processes use
    Stats {
        /// A watcher
        name: Option<String>,
        /// One of its processes
        pid: Option<u32>,
        /// With what the watcher's extended_stats hook adds
        #[arg(long)]
        extended: bool,
        /// Go on, each second
        #[arg(long, short, conflicts_with_all = ["pid", "extended"])]
        follow: bool,
    },
    /// Show what the agent itself uses
    Dstats,
    /// Show the options of a watcher
    Options {
        /// The watcher
        name: String,
    },
    /// Show some options of a watcher
    Get {
        /// The watcher
        name: String,
        /// The options
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Show the options of the agent
    Globaloptions {
        /// One of them
        option: Option<String>,
    },
    /// List the sockets that are shared
    Listsockets,
    /// Open a socket, until the agent ends
    Addsocket(AddSocket),
    /// Change options of a socket, until the agent ends
    Setsocket(SetSocket),
    /// Close and remove a socket
    Rmsocket(RemoveSocket),
    /// Stop all that runs on a node, and hand its singletons over
    Drain {
        /// Reply when nothing runs there any more
        #[arg(long, visible_alias = "wait")]
        waiting: bool,
    },
    /// Start again what was stopped to drain a node
    Undrain {
        /// Reply when it runs
        #[arg(long, visible_alias = "wait")]
        waiting: bool,
    },
    /// Call a node something else; nothing it runs is stopped for that
    Rename {
        /// Its new name
        #[arg(value_parser = node)]
        name: NodeName,
    },
    /// End the agent and all it runs
    Quit {
        /// Reply when all is stopped
        #[arg(long)]
        waiting: bool,
    },
    /// Show the agent's version
    Version,
    /// Show the nodes of the cluster
    Nodes,
    /// Show where each node's agent is asked (circusd-cluster's word)
    Nodelist,
    /// Tell whether a node is registered, as it does by itself (circusd-cluster's word)
    #[command(name = "register_node")]
    RegisterNode {
        /// The node
        #[arg(value_parser = node)]
        name: NodeName,
        /// Where its agent is asked
        #[arg(value_name = "ENDPOINT")]
        at: String,
        /// Of no use here
        #[arg(value_name = "STATS_ENDPOINT")]
        _stats_endpoint: Option<String>,
    },
    /// Tell whether a node is in the cluster, as it is by itself (circusd-cluster's word)
    #[command(name = "join_cluster")]
    JoinCluster {
        /// The node
        #[arg(value_parser = node)]
        name: NodeName,
        /// Of no use here: there is no master
        #[arg(value_name = "MASTER")]
        _master: String,
    },
    /// Show who holds which lease
    #[command(alias = "singletons")]
    Leases,
    /// Show the legions, or one of them in full: who leads, who lives, why nobody leads
    Legions {
        /// A legion
        #[arg(value_name = "NAME")]
        legion: Option<String>,
    },
    /// Ask whether the node leads a legion: exit code 0 if so, 1 if not
    Lord {
        /// The legion
        #[arg(value_name = "NAME")]
        legion: String,
    },
    /// Show what the members of a legion tell the others
    Scrolls {
        /// The legion
        #[arg(value_name = "NAME")]
        legion: String,
    },
    /// Show who had which lease, since when, and why, and what became of scheduled runs
    History {
        /// Its watcher; without it the latest of each
        name: Option<String>,
        /// How many tenures and runs, the latest first [default: 20, without a name 1]
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
    },
    /// Tell why a watcher runs, or does not, and what changes that
    Explain {
        /// The watcher
        name: String,
    },
    /// Print what the agent counts and measures, for Prometheus
    Metrics,
    /// Move a singleton to another node
    Failover {
        /// Its watcher
        name: String,
        /// The node to move it to
        #[arg(long, value_name = "NODE", value_parser = node)]
        to: Option<NodeName>,
        /// Reply when it is under way, not when it is done
        #[arg(long, conflicts_with = "waiting")]
        no_waiting: bool,
        /// Reply when it is done, which is the default
        #[arg(long, hide = true)]
        waiting: bool,
    },
    /// Have a singleton run nowhere in the cluster until it is resumed
    Pause {
        /// Its watcher
        name: String,
        /// Why, for others to read
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Reply when it is under way, not when nothing runs any more
        #[arg(long, conflicts_with = "waiting")]
        no_waiting: bool,
        /// Reply when nothing runs any more, which is the default
        #[arg(long, hide = true)]
        waiting: bool,
    },
    /// Let a paused singleton run again
    Resume {
        /// Its watcher
        name: String,
    },
    /// Act on a lease itself
    #[command(subcommand)]
    Lease(LeaseWords),
}

#[derive(Debug, Subcommand)]
enum LeaseWords {
    /// Say that a lease nobody ever held is free, so that its first taking need not wait
    Init {
        /// Its watcher
        name: String,
    },
    /// Ask whether a token is still that of the holder: exit code 0 if so, 1 if not, 5 where nobody knows
    Check {
        /// Its watcher
        name: String,
        /// The token, as a singleton finds it in CIRCUS_FENCING_TOKEN
        #[arg(long, value_name = "T", env = "CIRCUS_FENCING_TOKEN", hide_env_values = true)]
        token: u64,
    },
}

pub(super) fn patience(waiting: bool) -> Patience {
    if waiting { Patience::Settled } else { Patience::Admitted }
}

impl Words {
    /// How it is to go over the nodes, where it is to go from one to the next.
    fn rolling(&self) -> Option<Rolling> {
        match self {
            Words::Restart(Restart { rolling, .. }) | Words::Reload(Reload { rolling, .. }) => rolling.asked_for(),
            _ => None,
        }
    }

    /// The command; the error is for words that fit no command together.
    fn command(self) -> Result<Command, ClientError> {
        Ok(match self {
            Words::List { name } => Command::List { watcher: name },
            Words::Status { name } => Command::Status { watcher: name },
            Words::Start(some) => Command::Start { patience: patience(some.waiting), pattern: some.pattern()? },
            Words::Stop(some) => Command::Stop { patience: patience(some.waiting), pattern: some.pattern()? },
            Words::Restart(Restart { some, .. }) => {
                Command::Restart { patience: patience(some.waiting), pattern: some.pattern()? }
            }
            Words::Reload(reload) => reload.command(),
            Words::Reloadconfig { waiting } => Command::ReloadConfig { patience: patience(waiting) },
            Words::Plan => Command::Plan,
            Words::Incr(resize) => resize.command(1),
            Words::Decr(resize) => resize.command(-1),
            Words::Set(set) => set.command()?,
            Words::Add(add) => add.command()?,
            Words::Rm(remove) => remove.command(),
            Words::Signal(signal) => signal.command()?,
            Words::Publish { name, topic } => Command::Publish { watcher: name, topic },
            Words::Kill(kill) => kill.command(),
            Words::Numprocesses { name } => Command::NumProcesses { watcher: name },
            Words::Numwatchers => Command::NumWatchers,
            Words::Stats { name, pid, extended, follow: _ } => Command::Stats { watcher: name, pid, extended },
            Words::Dstats => Command::AgentStats,
            Words::Options { name } => Command::Options { watcher: name, keys: None },
            Words::Get { name, keys } => Command::Options { watcher: name, keys: Some(keys) },
            Words::Globaloptions { option } => Command::GlobalOptions { option },
            Words::Listsockets => Command::ListSockets,
            Words::Addsocket(add) => add.command()?,
            Words::Setsocket(set) => set.command()?,
            Words::Rmsocket(remove) => remove.command(),
            Words::Drain { waiting } => Command::Drain { patience: patience(waiting) },
            Words::Undrain { waiting } => Command::Undrain { patience: patience(waiting) },
            Words::Rename { name } => Command::Rename { to: name },
            Words::Quit { waiting } => Command::Quit { patience: patience(waiting) },
            Words::Version => Command::Version,
            Words::Nodes => Command::Nodes,
            Words::Nodelist => Command::NodeList,
            Words::RegisterNode { name, at, .. } => Command::Registered { node: name, endpoint: Some(at) },
            Words::JoinCluster { name, .. } => Command::Registered { node: name, endpoint: None },
            Words::Leases => Command::Leases,
            Words::Legions { legion } => Command::Legions { legion },
            Words::Lord { legion } => Command::Lord { legion },
            Words::Scrolls { legion } => Command::Scrolls { legion },
            Words::Explain { name } => Command::Explain { watcher: name },
            Words::Metrics => Command::Metrics,
            Words::History { name, lines } => {
                let count = lines.unwrap_or(if name.is_some() { 20 } else { 1 });
                Command::History { watcher: name, count }
            }
            // Waited for by default: only then is there something to tell, and a move takes milliseconds and a stop.
            Words::Failover { name, to, no_waiting, .. } => {
                Command::Failover { watcher: name, to, patience: patience(!no_waiting) }
            }
            Words::Pause { name, reason, no_waiting, .. } => {
                Command::Pause { watcher: name, reason, patience: patience(!no_waiting) }
            }
            Words::Resume { name } => Command::Resume { watcher: name },
            Words::Lease(LeaseWords::Check { name, token }) => Command::LeaseCheck { watcher: name, token },
            Words::Lease(LeaseWords::Init { name }) => Command::LeaseInit { watcher: name },
        })
    }
}

/// Runs circusctl with these arguments, its own name first; gives back the exit code ([`ctl_exit`]).
pub fn circusctl(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    match CtlArgs::try_parse_from(&args) {
        Ok(CtlArgs { global, command: None }) => shell::run(&args, &global),
        Ok(words) => {
            let (text, code) = carry_out(words, Asker::Caller);
            finish(&text, code)
        }
        Err(error) => {
            let (text, code) = misunderstood(&error);
            finish(&text, code)
        }
    }
}

/// Who gives a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Whoever ran this program for it; ^C ends the program.
    Caller,
    /// Somebody at the shell's prompt: ^C calls the command off, and `quit` may be meant for the shell.
    Shell,
}

/// Does what one command line says; what is left to print of it, and its exit code.
pub(super) fn carry_out(args: CtlArgs, asker: Asker) -> (Text, u8) {
    let CtlArgs { global, command } = args;
    let done = match command {
        Some(CtlWords::Ask(Words::Stats { name, follow: true, .. })) => {
            follow::stats(&global, name).map(|code| (Text::default(), code))
        }
        Some(CtlWords::Ask(words)) => {
            let rolling = words.rolling();
            words.command().and_then(|command| match rolling {
                Some(rolling) => roll::run(&global, command, &rolling),
                None => run(&global, command, asker),
            })
        }
        Some(CtlWords::Follow(words)) => follow::run(&global, words).map(|code| (Text::default(), code)),
        Some(CtlWords::Drill(drill)) => drill::run(&global, &drill),
        Some(CtlWords::Init(init)) => init::run(&global, &init),
        None => Err(ClientError::Usage("options alone are no command".into())),
    };
    done.unwrap_or_else(|error| {
        let code = match error {
            ClientError::Unreached(_) => ctl_exit::UNREACHED,
            ClientError::Silent(_) => ctl_exit::PARTIAL,
            ClientError::Usage(_) => ctl_exit::USAGE,
            ClientError::Refused(_) => ctl_exit::FAILED,
        };
        let out = match global.json || global.prettify {
            true => format!("{}\n", json!({"status": "error", "reason": error.to_string()})),
            false => String::new(),
        };
        (Text { out, err: format!("error: {error}\n") }, code)
    })
}

/// What is said to words that are no command line. Help and the version come this way too.
pub(super) fn misunderstood(error: &clap::Error) -> (Text, u8) {
    let text = error.render();
    let text = |stream_is_terminal| match colours(stream_is_terminal) {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    match error.use_stderr() {
        true => (Text { out: String::new(), err: text(io::stderr().is_terminal()) }, ctl_exit::USAGE),
        false => (Text { out: text(io::stdout().is_terminal()), err: String::new() }, ctl_exit::OK),
    }
}

/// The event loop of one command.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ClientError::Unreached(format!("no event loop: {error}")))
}

/// What a command line comes to: whom to ask, and what has to be confirmed before.
pub(super) fn meant(global: &Global, command: Command, asker: Asker) -> Result<(Call, Option<String>), ClientError> {
    let target = target(global, &command)?;
    let mistakable = asker == Asker::Shell && matches!(command, Command::Quit { .. });
    let what = mistakable.then(|| "quit ends the agent and all it runs, while exit leaves this shell".to_owned());
    let what = danger(&command, &target).or(what).filter(|_| !global.yes);
    let patience = global.timeout.unwrap_or(command.usual_time());
    Ok((Call { command, target, cluster: global.place.cluster.clone(), patience }, what))
}

/// As [`meant`], of the words that would follow `circusctl` at the shell's prompt, where they ask for one answer. The
/// error is a text for people: help comes this way, too.
pub(super) fn question(words: Vec<String>) -> Result<(Call, Option<String>), String> {
    let args = CtlArgs::try_parse_from(std::iter::once("circusctl".to_owned()).chain(words));
    let CtlArgs { global, command } = args.map_err(|error| error.render().to_string())?;
    let call = match command {
        Some(CtlWords::Ask(Words::Stats { follow: true, .. }) | CtlWords::Follow(_) | CtlWords::Drill(_)) => {
            return Err("what goes on and on is for circusctl itself".into());
        }
        Some(CtlWords::Init(_)) => return Err("files are for circusctl itself".into()),
        Some(CtlWords::Ask(words)) if words.rolling().is_some() => {
            return Err("going over nodes step by step is for circusctl itself".into());
        }
        Some(CtlWords::Ask(words)) => words.command().and_then(|command| meant(&global, command, Asker::Shell)),
        None => Err(ClientError::Usage("options alone are no command".into())),
    };
    call.map_err(|error| error.to_string())
}

fn run(global: &Global, command: Command, asker: Asker) -> Result<(Text, u8), ClientError> {
    let (call, danger) = meant(global, command, asker)?;
    if let Some(what) = danger {
        confirm(&what)?;
    }
    let conversation = async {
        let endpoint = global.place.endpoint()?;
        let reply = stopping::watched(global, &endpoint, &call, client::ask(&endpoint, &call)).await?;
        // These name the node that was asked, and their replies do not say which it is.
        let nameless = reply["nodes"].is_null() && matches!(call.command, Command::Nodes | Command::Leases);
        let own =
            if nameless && !(global.json || global.prettify) { client::own_name(&endpoint, &call).await } else { None };
        Ok((reply, own))
    };
    let (reply, own) = runtime()?.block_on(async {
        tokio::select! {
            replied = conversation => replied,
            () = interrupted(), if asker == Asker::Shell => {
                Err(ClientError::Silent("called off; what was asked may still be done".into()))
            }
        }
    })?;
    let code = exit_code(&call.command, &reply);
    let json = |out: String| Text { out: out + "\n", err: String::new() };
    let text = match (global.json, global.prettify) {
        (_, true) => json(format!("{reply:#}")),
        (true, false) => json(reply.to_string()),
        (false, false) => view::text(&call.command, &reply, own.as_deref(), style()),
    };
    Ok((text, code))
}

pub(super) fn target(global: &Global, command: &Command) -> Result<Target, ClientError> {
    Ok(match global.whom.target()? {
        // One node's view of a lease is half the story; put together, all nodes' views are the whole.
        Target::Here if *command == Command::Leases => Target::All,
        target => target,
    })
}

/// What a command does that nobody should do to many nodes by accident; nothing where it is harmless.
pub(super) fn danger(command: &Command, target: &Target) -> Option<String> {
    let where_ = match target {
        Target::Here | Target::Holder(_) | Target::Any(..) => return None,
        Target::Nodes(selector) if selector.is_one() => return None,
        Target::Nodes(selector) => format!("all nodes that fit {selector}"),
        Target::All => "all nodes".into(),
    };
    match command {
        Command::Quit { .. } => Some(format!("quit ends the agents of {where_} and all they run")),
        Command::Drain { .. } => Some(format!("drain stops every watcher of {where_}")),
        Command::Stop { pattern: None, .. } => Some(format!("stop without a name stops every watcher of {where_}")),
        Command::Restart { pattern: None, .. } => {
            Some(format!("restart without a name restarts every watcher of {where_}"))
        }
        Command::Reload { watcher: None, .. } => {
            Some(format!("reload without a name replaces every process of {where_}"))
        }
        _ => None,
    }
}

pub(super) fn confirm(what: &str) -> Result<(), ClientError> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(ClientError::Usage(format!("{what}; add --yes if that is meant")));
    }
    eprint!("{what}. Go on? [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(ClientError::Usage("nothing was done".into())),
    }
}

pub(super) fn style() -> Style {
    let is_terminal = std::io::stdout().is_terminal();
    Style { colour: colours(is_terminal), width: is_terminal.then(terminal_width) }
}

/// At most a hundred columns: longer lines are hard to follow.
fn terminal_width() -> usize {
    let from_env = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    from_env
        .or_else(|| columns(libc::STDOUT_FILENO))
        .filter(|width| *width > 0)
        .map_or(100, |width| width.clamp(40, 100))
}

/// How wide a terminal is that knows it.
pub(super) fn columns(terminal: RawFd) -> Option<usize> {
    // SAFETY: a winsize of zeroes is one, and the kernel writes one or nothing.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        libc::ioctl(terminal, libc::TIOCGWINSZ, &raw mut size);
        size
    };
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// What a reply means for the exit code. A failure weighs most, then silence, then a watcher that is not well.
fn exit_code(command: &Command, reply: &Value) -> u8 {
    let failed = |part: &Value| part["status"] == "error" && part["silent"] != true;
    let silent = |part: &Value| part["status"] == "error" && part["silent"] == true;
    let parts: Vec<&Value> = wire::said(reply).collect();
    if matches!(command, Command::Lord { .. }) {
        return lord_code(reply, &parts);
    }
    let unknown = |part: &Value| failed(part) && part["code"] == "unavailable";
    if matches!(command, Command::LeaseCheck { .. }) && parts.iter().any(|part| unknown(part)) {
        // Whoever asks decides by the code: not to know is another thing than no.
        ctl_exit::UNREACHED
    } else if parts.iter().any(|part| failed(part)) {
        ctl_exit::FAILED
    } else if parts.iter().any(|part| silent(part)) || reply["missing"].is_string() {
        ctl_exit::PARTIAL
    } else if !is_well(command, reply, &parts) {
        ctl_exit::NOT_WELL
    } else if parts.iter().any(|part| part["holds"] == false) {
        ctl_exit::FAILED
    } else {
        ctl_exit::OK
    }
}

/// Whether one of those that were asked leads. A script goes by it: a legion that is not there, and a node that did not
/// answer, are other things than no.
fn lord_code(reply: &Value, parts: &[&Value]) -> u8 {
    let failed = |part: &&Value| part["status"] == "error";
    if parts.iter().any(|part| part["me"] == true) {
        ctl_exit::OK
    } else if parts.iter().any(|part| failed(part) && part["silent"] != true) {
        ctl_exit::USAGE
    } else if parts.iter().any(failed) || reply["missing"].is_string() {
        ctl_exit::PARTIAL
    } else {
        ctl_exit::FAILED
    }
}

/// Whether what `status` or `explain` told of is as it should be.
fn is_well(command: &Command, reply: &Value, parts: &[&Value]) -> bool {
    match command {
        Command::Status { .. } => view::problems(reply).is_empty(),
        Command::Explain { .. } => is_right(parts),
        _ => true,
    }
}

/// Whether what was explained is as it should be: a singleton where it runs, anything else on each node.
fn is_right(parts: &[&Value]) -> bool {
    let right = |part: &&Value| part["right"] == true;
    let runs = |part: &&Value| right(part) && part["singleton"] == true && part["runs"] == true;
    parts.iter().any(runs) || parts.iter().all(right)
}

/// Writes the last words and passes the exit code on.
fn finish(text: &Text, code: u8) -> u8 {
    default_sigpipe();
    print(text, code)
}

/// Lets writing into a pipe that nobody reads end this program. To be called only when nothing is left but to print:
/// `circusctl … | head` is to end as other programs do, while a broken connection to an agent is an error to report.
pub(super) fn default_sigpipe() {
    // SAFETY: the default action is no code of ours that could be called at a bad moment.
    unsafe {
        let _ = nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl);
    }
}

/// Writes what a command has to say and passes its exit code on.
pub(super) fn print(text: &Text, code: u8) -> u8 {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.out.as_bytes()).and_then(|()| stdout.flush());
    eprint!("{}", text.err);
    match written {
        // A full disk must not look like success.
        Err(error) if code == ctl_exit::OK => {
            eprintln!("error: standard output: {error}");
            ctl_exit::FAILED
        }
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Leave, ReloadWay, Selector, Strategy};
    use crate::model::event::{Changes, Reach};
    use crate::model::names::{Label, NodeWord};
    use crate::model::pattern::Pattern;
    use clap::CommandFactory;
    use std::time::Duration;

    fn parse(words: &str) -> Result<(Global, Command), String> {
        let args = CtlArgs::try_parse_from(std::iter::once("circusctl").chain(words.split(' ')));
        let args = args.map_err(|error| error.to_string())?;
        match args.command.expect("a command") {
            CtlWords::Ask(words) => Ok((args.global, words.command().map_err(|error| error.to_string())?)),
            CtlWords::Follow(words) => panic!("a stream: {words:?}"),
            CtlWords::Drill(drill) => panic!("a drill: {drill:?}"),
            CtlWords::Init(init) => panic!("a conversion: {init:?}"),
        }
    }

    fn command(words: &str) -> Command {
        parse(words).unwrap_or_else(|error| panic!("{error}")).1
    }

    #[test]
    fn the_command_line_is_sound() {
        CtlArgs::command().debug_assert();
    }

    #[test]
    fn words_become_commands() {
        use Patience::{Admitted, Settled};
        let web = || Some("web".to_owned());
        let set = |key: &str, text: &str| (key.to_owned(), Some(text.to_owned()));
        let cases = [
            ("list", Command::List { watcher: None }),
            ("status web", Command::Status { watcher: web() }),
            ("start", Command::Start { pattern: None, patience: Admitted }),
            ("stop web* --waiting", Command::Stop { pattern: Some(Pattern::Glob("web*".into())), patience: Settled }),
            (
                "restart a*b --match simple",
                Command::Restart { pattern: Some(Pattern::Name("a*b".into())), patience: Admitted },
            ),
            ("incr web", Command::Resize { watcher: "web".into(), by: 1, patience: Admitted }),
            ("incr web 3", Command::Resize { watcher: "web".into(), by: 3, patience: Admitted }),
            ("decr --waiting --nb 2 web", Command::Resize { watcher: "web".into(), by: -2, patience: Settled }),
            ("stop --match=regex w.b", Command::Stop { pattern: Pattern::regex("w.b").ok(), patience: Admitted }),
            ("reload", Command::Reload { watcher: None, way: ReloadWay::Rolling, patience: Admitted }),
            (
                "reload web --terminate --waiting",
                Command::Reload { watcher: web(), way: ReloadWay::Restart, patience: Settled },
            ),
            (
                "reload --sequential web",
                Command::Reload { watcher: web(), way: ReloadWay::Sequential, patience: Admitted },
            ),
            ("reloadconfig --waiting", Command::ReloadConfig { patience: Settled }),
            ("plan", Command::Plan),
            ("rm web", Command::Remove { watcher: "web".into(), leave: Leave::Nothing, patience: Admitted }),
            (
                "rm --nostop web --waiting",
                Command::Remove { watcher: "web".into(), leave: Leave::Processes, patience: Settled },
            ),
            ("signal web HUP", Command::Signal { watcher: "web".into(), pid: None, signal: 1, reach: Reach::Main }),
            ("publish web web.warm", Command::Publish { watcher: "web".into(), topic: "web.warm".into() }),
            ("signal web 9", Command::Signal { watcher: "web".into(), pid: None, signal: 9, reach: Reach::Main }),
            (
                "signal web 12 SIGRTMIN+1 --recursive",
                Command::Signal { watcher: "web".into(), pid: Some(12), signal: 35, reach: Reach::Tree },
            ),
            (
                "signal --children web cont",
                Command::Signal { watcher: "web".into(), pid: None, signal: 18, reach: Reach::Children },
            ),
            (
                "signal web 12 --childpid 13 0",
                Command::Signal { watcher: "web".into(), pid: Some(12), signal: 0, reach: Reach::Child(13) },
            ),
            (
                "kill web",
                Command::Kill { watcher: "web".into(), pid: None, signal: None, grace: None, patience: Admitted },
            ),
            (
                "kill web 12 --signum int --graceful_timeout 0.5 --waiting",
                Command::Kill {
                    watcher: "web".into(),
                    pid: Some(12),
                    signal: Some(2),
                    grace: Some(Duration::from_millis(500)),
                    patience: Settled,
                },
            ),
            (
                "get web cmd env",
                Command::Options { watcher: "web".into(), keys: Some(vec!["cmd".into(), "env".into()]) },
            ),
            (
                "set web max_retry -1 env A=1,B=2 hooks before_start:a.b --waiting",
                Command::Set {
                    watcher: "web".into(),
                    changes: Changes {
                        settings: vec![set("max_retry", "-1"), set("hooks.before_start", "a.b")],
                        env: Some(vec![("A".into(), "1".into()), ("B".into(), "2".into())]),
                    },
                    patience: Settled,
                },
            ),
            (
                "add web sleep 10 --start --option numprocesses=2 --option env=A=1",
                Command::Add {
                    name: "web".into(),
                    changes: Changes {
                        settings: vec![set("cmd", "sleep"), set("args", "10"), set("numprocesses", "2")],
                        env: Some(vec![("A".into(), "1".into())]),
                    },
                    start: true,
                    patience: Admitted,
                },
            ),
            (
                "add --waiting web celery -- -A proj",
                Command::Add {
                    name: "web".into(),
                    changes: Changes { settings: vec![set("cmd", "celery"), set("args", "-A proj")], env: None },
                    start: false,
                    patience: Settled,
                },
            ),
            ("dstats", Command::AgentStats),
            ("globaloptions", Command::GlobalOptions { option: None }),
            ("globaloptions endpoint", Command::GlobalOptions { option: Some("endpoint".into()) }),
            ("listsockets", Command::ListSockets),
            (
                "addsocket Web host :: port 8080 --waiting",
                Command::AddSocket {
                    name: "web".into(),
                    changes: Changes { settings: vec![set("host", "::"), set("port", "8080")], env: None },
                    patience: Settled,
                },
            ),
            (
                "setsocket web backlog -1 env A=1",
                Command::SetSocket {
                    socket: "web".into(),
                    changes: Changes { settings: vec![set("backlog", "-1"), set("env", "A=1")], env: None },
                    patience: Admitted,
                },
            ),
            ("rmsocket web", Command::RemoveSocket { socket: "web".into(), patience: Admitted }),
            ("rmsocket --waiting web", Command::RemoveSocket { socket: "web".into(), patience: Settled }),
            ("stats --extended web", Command::Stats { watcher: web(), pid: None, extended: true }),
            ("numprocesses web", Command::NumProcesses { watcher: web() }),
            ("numwatchers", Command::NumWatchers),
            ("stats web 12", Command::Stats { watcher: web(), pid: Some(12), extended: false }),
            ("options web", Command::Options { watcher: "web".into(), keys: None }),
            ("drain --wait", Command::Drain { patience: Settled }),
            ("undrain", Command::Undrain { patience: Admitted }),
            ("rename web-9", Command::Rename { to: node("web-9").unwrap() }),
            ("quit --waiting", Command::Quit { patience: Settled }),
            ("version", Command::Version),
            ("nodes", Command::Nodes),
            ("nodelist", Command::NodeList),
            (
                "register_node b tcp://127.0.0.1:6555 tcp://127.0.0.1:6557",
                Command::Registered { node: node("b").unwrap(), endpoint: Some("tcp://127.0.0.1:6555".into()) },
            ),
            ("join_cluster b tcp://127.0.0.1:5558", Command::Registered { node: node("b").unwrap(), endpoint: None }),
            ("leases", Command::Leases),
            ("singletons", Command::Leases),
            ("legions", Command::Legions { legion: None }),
            ("legions clusterip", Command::Legions { legion: Some("clusterip".into()) }),
            ("lord clusterip", Command::Lord { legion: "clusterip".into() }),
            ("scrolls clusterip", Command::Scrolls { legion: "clusterip".into() }),
            ("failover web", Command::Failover { watcher: "web".into(), to: None, patience: Settled }),
            ("failover web --no-waiting", Command::Failover { watcher: "web".into(), to: None, patience: Admitted }),
            (
                "failover web --to b --waiting",
                Command::Failover { watcher: "web".into(), to: Some(node("b").unwrap()), patience: Settled },
            ),
            ("explain web", Command::Explain { watcher: "web".into() }),
            ("metrics", Command::Metrics),
            ("history", Command::History { watcher: None, count: 1 }),
            ("history web", Command::History { watcher: web(), count: 20 }),
            ("history -n 3 web", Command::History { watcher: web(), count: 3 }),
            ("pause web", Command::Pause { watcher: "web".into(), reason: None, patience: Settled }),
            (
                "pause web --reason migration --no-waiting",
                Command::Pause { watcher: "web".into(), reason: Some("migration".into()), patience: Admitted },
            ),
            ("resume web", Command::Resume { watcher: "web".into() }),
            ("lease check web --token 17", Command::LeaseCheck { watcher: "web".into(), token: 17 }),
            ("lease init web", Command::LeaseInit { watcher: "web".into() }),
        ];
        for (words, expected) in cases {
            assert_eq!(command(words), expected, "{words}");
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for words in ["--json --node a,b --timeout 2m status web", "status --json web --timeout 120 --node a --node b"]
        {
            let (global, _) = parse(words).unwrap();
            assert!(global.json);
            assert_eq!(global.timeout, Some(Duration::from_secs(120)));
            assert_eq!(global.whom.node, [NodeWord::parse("a").unwrap(), NodeWord::parse("b").unwrap()]);
        }
    }

    #[test]
    fn circusd_clusters_options_are_ours() {
        let (global, _) = parse("incr web --broadcast --cluster_timeout 4").unwrap();
        assert_eq!((global.whom.target(), global.timeout), (Ok(Target::All), Some(Duration::from_secs(4))));
    }

    #[test]
    fn mistakes_are_refused_with_a_hint() {
        assert!(parse("statsu").unwrap_err().contains("status"));
        for words in [
            "incr",
            "incr web x",
            "incr web 1 --nb 2",
            "options",
            "stop --match regex (",
            "stop --match globb web",
            "set web",
            "set web numprocesses",
            "set web numprocesses 3 respawn",
            "set web env A",
            "set web hooks before_lunch:a",
            "get web",
            "add web",
            "add web sleep --option numprocesses",
            "signal web",
            "signal web FOO",
            "signal web x HUP",
            "signal web 1 2 HUP",
            "signal web HUP --childpid 7",
            "kill web --signum FOO",
            "kill web --graceful_timeout -1",
            "rm",
            "addsocket web",
            "addsocket web port",
            "addsocket web/1 port 80",
            "setsocket web port 80 host",
            "rmsocket",
            "status --node web/1",
            "status --label zone=",
            "incr web --any best",
            "status --timeout 0",
            "status --timeout nan",
            "status --endpoint tcp://127.0.0.1",
            "lord",
            "scrolls",
            "lease",
            "lease check web",
            "lease check web --token x",
            "register_node b",
            "register_node b/1 tcp://127.0.0.1:6555",
            "join_cluster b",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
        for words in [
            "incr web --any --all",
            "status --all --node a",
            "status --holder beat --all",
            "status --holder beat -l zone=a",
        ] {
            let (global, status) = parse(words).unwrap();
            assert!(matches!(target(&global, &status), Err(ClientError::Usage(_))), "{words}");
        }
    }

    #[test]
    fn leases_are_asked_of_all_nodes_and_status_of_this_one() {
        let target = |words: &str| {
            let (global, command) = parse(words).unwrap();
            target(&global, &command).unwrap()
        };
        assert_eq!(target("leases"), Target::All);
        assert_eq!(target("leases --node a"), Target::node(node("a").unwrap()));
        let zone = Selector { nodes: vec![], labels: vec![Label::parse("zone=a").unwrap()] };
        assert_eq!(target("incr web --any"), Target::Any(Strategy::LeastLoaded, Selector::default()));
        assert_eq!(target("incr web --any spread -l zone=a"), Target::Any(Strategy::Spread, zone));
        assert_eq!(target("status --holder beat"), Target::Holder("beat".into()));
        let (nodes, labels) = (
            vec![NodeWord::parse("web-*").unwrap()],
            vec![Label::parse("zone=a").unwrap(), Label::parse("x").unwrap()],
        );
        assert_eq!(target("status --node web-* -l zone=a,x"), Target::Nodes(Selector { nodes, labels }));
        assert_eq!(target("status"), Target::Here);
        assert_eq!(target("status --all"), Target::All);
    }

    #[test]
    fn only_what_hits_many_nodes_at_once_asks_back() {
        let asks = |words: &str| {
            let (global, command) = parse(words).unwrap();
            danger(&command, &target(&global, &command).unwrap()).is_some()
        };
        for words in [
            "drain --all",
            "quit --all",
            "quit --node a,b",
            "quit --node a*",
            "quit -l zone=a",
            "stop --all",
            "restart --all",
            "reload --all",
        ] {
            assert!(asks(words), "{words}");
        }
        for words in [
            "drain --node a",
            "quit",
            "quit --node a",
            "stop",
            "stop web --all",
            "start --all",
            "status --all",
            "plan --all",
        ] {
            assert!(!asks(words), "{words}");
        }
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        let status = Command::Status { watcher: None };
        let well = json!({"status": "ok", "watchers": [
            {"name": "a", "state": "standby"}, {"name": "b", "state": "listening"},
        ]});
        let ill = json!({"status": "ok", "watchers": [{"name": "a", "state": "backoff"}]});
        let silent = json!({"status": "error", "silent": true});
        let failed = json!({"status": "error"});
        let nodes = |parts: &[&Value]| {
            let nodes: serde_json::Map<String, Value> =
                parts.iter().enumerate().map(|(at, part)| (at.to_string(), (*part).clone())).collect();
            json!({"status": "ok", "nodes": nodes})
        };
        assert_eq!(exit_code(&status, &well), 0);
        assert_eq!(exit_code(&status, &ill), 3);
        assert_eq!(exit_code(&Command::Leases, &ill), 0);
        assert_eq!(exit_code(&status, &failed), 1);
        assert_eq!(exit_code(&status, &nodes(&[&well, &well])), 0);
        assert_eq!(exit_code(&status, &nodes(&[&well, &ill])), 3);
        assert_eq!(exit_code(&status, &nodes(&[&ill, &silent])), 4);
        assert_eq!(exit_code(&status, &nodes(&[&silent, &failed])), 1);
        let explain = Command::Explain { watcher: "a".into() };
        let view = |runs, right| json!({"status": "ok", "singleton": true, "runs": runs, "right": right});
        assert_eq!(exit_code(&explain, &view(true, true)), 0);
        assert_eq!(exit_code(&explain, &view(false, true)), 0);
        assert_eq!(exit_code(&explain, &view(false, false)), 3);
        assert_eq!(exit_code(&explain, &nodes(&[&view(true, true), &view(false, false)])), 0);
        assert_eq!(exit_code(&explain, &nodes(&[&view(false, true), &view(false, false)])), 3);
        let check = Command::LeaseCheck { watcher: "a".into(), token: 1 };
        assert_eq!(exit_code(&check, &json!({"status": "ok", "holds": true})), 0);
        assert_eq!(exit_code(&check, &json!({"status": "ok", "holds": false})), 1);
        assert_eq!(exit_code(&check, &json!({"status": "error", "code": "unavailable"})), 5);
        assert_eq!(exit_code(&check, &json!({"status": "error", "code": "no-such-watcher"})), 1);
        let lord = Command::Lord { legion: "a".into() };
        let (leads, follows) = (json!({"status": "ok", "me": true}), json!({"status": "ok", "me": false}));
        let strange = json!({"status": "error", "code": "no-such-legion"});
        assert_eq!(exit_code(&lord, &leads), 0);
        assert_eq!(exit_code(&lord, &follows), 1);
        assert_eq!(exit_code(&lord, &strange), 2);
        assert_eq!(exit_code(&lord, &nodes(&[&follows, &leads, &silent])), 0);
        assert_eq!(exit_code(&lord, &nodes(&[&follows, &silent])), 4);
        assert_eq!(exit_code(&lord, &nodes(&[&follows, &follows])), 1);
        let mut alone = nodes(&[&well]);
        alone["missing"] = json!("Redis: connection refused");
        assert_eq!(exit_code(&status, &alone), 4);
        let mut cut_off = well.clone();
        cut_off["store"] = json!({"state": "down", "reason": "connection refused"});
        assert_eq!(exit_code(&status, &cut_off), 3);
        let one = json!({"status": "backoff", "watchers": [{"name": "a", "state": "backoff"}]});
        assert_eq!(exit_code(&Command::Status { watcher: Some("a".into()) }, &one), 3);
    }
}
