//! `circus-agent` from its command line to its exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use super::background::{self, Side};
use super::log::logging;
use super::{AgentArgs, LogFormat, agent_exit, print_error, print_warning};
use crate::agent::{self, Overrides};
use crate::config::{self, Config, Surroundings};
use crate::model::spec::{AgentSpec, LogOutput, WatcherSpec};
use crate::systemd::{Given, Notify};

/// Runs `circus-agent` with these arguments, the program's name first: its exit code.
///
/// To be called on the main thread, before any other exists.
pub fn circus_agent(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let AgentArgs { config: path, check, daemon, log_format, pidfile, log_level, log_output, logger_config } =
        match AgentArgs::read(args) {
            Ok(args) => args,
            Err(code) => return code,
        };
    let Some(path) = path else {
        print_error("no configuration named; write one as in beatcop.ini.example, then: circus-agent FILE");
        return agent_exit::USAGE;
    };
    // SAFETY: the caller's promise. It comes before a file is opened, the configuration's too, and before `--daemon` forks:
    // systemd means this process, and its descriptors go along to the one in the background.
    let given = unsafe { Given::from_env() };
    if logger_config.is_some_and(|file| file != Path::new("default")) {
        print_warning("--logger-config has no effect: files for Python's logging are not read; see --log-output");
    }
    let mut config = match config::read(&path, &Surroundings::of_this_process()) {
        Ok(config) => config,
        Err(problems) => {
            eprint!("{}", config::render(&problems, &path, "nothing was started"));
            return agent_exit::CONFIG;
        }
    };
    if !config.warnings.is_empty() {
        eprint!("{}", config::render(&config.warnings, &path, ""));
    }
    if check {
        // Told to nobody is as good as told.
        let _ = io::stdout().write_all(summary(&path, &config.spec).as_bytes());
        return agent_exit::OK;
    }
    let overrides = Overrides { pidfile, log_level, log_output };
    overrides.apply(&mut config.spec);
    let start = Start { path, log_format, overrides, config, given };
    // SAFETY: the caller's promise: this is the only thread.
    unsafe { if daemon { start.in_background() } else { start.here() } }
}

/// An agent that is about to run.
struct Start {
    path: PathBuf,
    log_format: LogFormat,
    overrides: Overrides,
    config: Config,
    given: Given,
}

impl Start {
    /// Runs it as this process: its exit code.
    ///
    /// # Safety
    ///
    /// No other thread may run yet: the environment is changed.
    unsafe fn here(self) -> u8 {
        // SAFETY: the caller's promise. It comes first, because the log has a thread.
        let notify = unsafe { Notify::from_env() };
        self.run(notify).unwrap_or_else(|(code, why)| {
            print_error(why);
            code
        })
    }

    /// Runs it in the background: the exit code of the process that was started, and of the one in the background.
    ///
    /// # Safety
    ///
    /// No other thread may run yet: this forks.
    unsafe fn in_background(self) -> u8 {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            // It would be told by a process that it did not start, and may not believe it.
            print_error(
                "--daemon hides the agent from the service manager that waits for it (NOTIFY_SOCKET is set); \
                 take --daemon out, in a unit with Type=notify",
            );
            return agent_exit::USAGE;
        }
        if self.config.spec.log_output == LogOutput::Stderr {
            print_warning("with --daemon the log goes nowhere; name a file: logoutput in [circus], or --log-output");
        }
        // SAFETY: the caller's promise.
        match unsafe { background::detach() } {
            Ok(Side::Parent(code)) => code,
            Ok(Side::Agent(starter, notify)) => self.run(Ok(notify)).unwrap_or_else(|(code, why)| {
                starter.give_up(code, &why);
                code
            }),
            Err(error) => {
                print_error(format_args!("cannot go into the background: {error}"));
                agent_exit::UNAVAILABLE
            }
        }
    }

    /// Runs it to its end: its exit code, or why it did not begin, with the code for that.
    fn run(self, notify: io::Result<Notify>) -> Result<u8, (u8, String)> {
        let Start { path, log_format, overrides, config, given } = self;
        if let Some(mask) = config.spec.umask {
            // Before there is a file of ours.
            umask(Mode::from_bits_truncate(mask));
        }
        let _log = logging(log_format, config.spec.log_level, &config.spec.log_output)?;
        let notify = notify.unwrap_or_else(|error| {
            tracing::warn!("the service manager is not told how this agent is: {error}");
            Notify::default()
        });
        given.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        given.sockets.iter().for_each(|(name, _)| tracing::info!("systemd hands over socket {name}"));
        match agent::run(&path, overrides, config, notify, given.sockets) {
            Ok(code) => Ok(u8::try_from(code).unwrap_or(agent_exit::INTERNAL)),
            Err(error) => Err((agent_exit::UNAVAILABLE, error.to_string())),
        }
    }
}

/// What a sound file would run.
fn summary(path: &Path, spec: &AgentSpec) -> String {
    let mut text = format!("{}: no errors\n", path.display());
    let store = if spec.redis.is_some() { "Redis" } else { "file locks on this machine" };
    text += &format!("  node {} of cluster {}, leases by {store}\n", spec.node, spec.cluster);
    spec.sockets.iter().for_each(|socket| text += &format!("  socket {}: {}\n", socket.name, socket.place));
    spec.watchers.iter().for_each(|watcher| text += &format!("  {}\n", watcher_line(watcher)));
    text
}

/// What a watcher would run: `watcher web: 2 processes, on demand; hooks before_start, after_stop`.
fn watcher_line(watcher: &WatcherSpec) -> String {
    let count = match (&watcher.singleton, watcher.numprocesses) {
        (Some(timings), _) => format!(
            "one in the cluster (ttl {} s, refresh {} s)",
            timings.ttl.as_secs_f64(),
            timings.refresh_interval.as_secs_f64()
        ),
        (None, 1) => "1 process".into(),
        (None, n) => format!("{n} processes"),
    };
    let start = match (watcher.autostart, watcher.on_demand) {
        (false, _) => ", not started by itself",
        (true, Some(_)) => ", on demand",
        (true, None) => "",
    };
    let hooks: Vec<&str> = watcher.hooks.keys().map(|point| point.name()).collect();
    let hooks = if hooks.is_empty() { String::new() } else { format!("; hooks {}", hooks.join(", ")) };
    format!("watcher {}: {count}{start}{hooks}", watcher.name)
}
