//! `circus-agent` from its command line to its exit code.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use super::background::{self, Side};
use super::{AgentArgs, Destination, LogFormat, agent_exit, logging, print_error};
use crate::agent::{self, Overrides};
use crate::config::{self, Config, Surroundings};
use crate::model::spec::AgentSpec;

/// Runs `circus-agent` with these arguments, the program's name first: its exit code.
///
/// To be called on the main thread, before any other exists.
pub fn circus_agent(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let AgentArgs { config: path, check, daemon, log_format, pidfile, log_level, log_output, logger_config } =
        match AgentArgs::read(args) {
            Ok(args) => args,
            Err(code) => return code,
        };
    if let Some(file) = logger_config {
        let file = file.display();
        eprintln!("warning: --logger-config {file} has no effect: --log-level and --log-output say how the log is");
    }
    let Some(path) = path else {
        print_error("no configuration named; write one as in beatcop.ini.example, then: circus-agent FILE");
        return agent_exit::USAGE;
    };
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
        let _ = std::io::stdout().write_all(summary(&path, &config.spec).as_bytes());
        return agent_exit::OK;
    }
    let overrides = Overrides { pidfile, log_level, log_output };
    overrides.apply(&mut config.spec);
    if !daemon {
        return run(&path, log_format, overrides, config).unwrap_or_else(|(code, why)| {
            print_error(why);
            code
        });
    }
    // SAFETY: the caller's promise: this is the only thread.
    match unsafe { background::detach() } {
        Ok(Side::Parent(code)) => code,
        Ok(Side::Agent(starter)) => run(&path, log_format, overrides, config).unwrap_or_else(|(code, why)| {
            starter.give_up(code, &why);
            code
        }),
        Err(error) => {
            print_error(format!("cannot go into the background: {error}"));
            agent_exit::UNAVAILABLE
        }
    }
}

/// Runs the agent to its end: its exit code, or why it did not begin, with the code for that.
fn run(path: &Path, log_format: LogFormat, overrides: Overrides, config: Config) -> Result<u8, (u8, String)> {
    let unavailable = |why: String| (agent_exit::UNAVAILABLE, why);
    let log = Destination::open(&config.spec.log_output).map_err(unavailable)?;
    logging(log_format, config.spec.log_level, log.clone()).map_err(|why| (agent_exit::USAGE, why))?;
    let ended = agent::run(path, overrides, config);
    log.flush();
    match ended {
        Ok(code) => Ok(u8::try_from(code).unwrap_or(agent_exit::INTERNAL)),
        Err(error) => Err(unavailable(error.to_string())),
    }
}

/// What a sound file would run.
fn summary(path: &Path, spec: &AgentSpec) -> String {
    let mut text = format!("{}: no errors\n", path.display());
    let store = if spec.redis.is_some() { "Redis" } else { "file locks on this machine" };
    text += &format!("  node {} of cluster {}, leases by {store}\n", spec.node, spec.cluster);
    for watcher in &spec.watchers {
        let count = match (&watcher.singleton, watcher.numprocesses) {
            (Some(timings), _) => format!(
                "one in the cluster (ttl {} s, refresh {} s)",
                timings.ttl.as_secs_f64(),
                timings.refresh_interval.as_secs_f64()
            ),
            (None, 1) => "1 process".into(),
            (None, n) => format!("{n} processes"),
        };
        let start = if watcher.autostart { "" } else { ", not started by itself" };
        text += &format!("  watcher {}: {count}{start}\n", watcher.name);
    }
    text
}
