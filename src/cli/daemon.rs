//! `circus-agent` from its command line to its exit code.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use super::{AgentArgs, agent_exit, logging, print_error};
use crate::agent;
use crate::config::{self, Config, Surroundings};
use crate::model::spec::AgentSpec;

/// Runs `circus-agent` with these arguments, the program's name first: its exit code.
///
/// To be called on the main thread, before any other exists.
pub fn circus_agent(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let AgentArgs { config: path, check, log_format } = match AgentArgs::read(args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let Some(path) = path else {
        print_error("no configuration named; write one as in beatcop.ini.example, then: circus-agent FILE");
        return agent_exit::USAGE;
    };
    let config = match config::read(&path, &Surroundings::of_this_process()) {
        Ok(config) => config,
        Err(problems) => {
            eprint!("{}", config::render(&problems, &path));
            return agent_exit::CONFIG;
        }
    };
    if !config.warnings.is_empty() {
        eprint!("{}", config::render(&config.warnings, &path));
    }
    if check {
        // Told to nobody is as good as told.
        let _ = std::io::stdout().write_all(summary(&path, &config.spec).as_bytes());
        return agent_exit::OK;
    }
    run(&path, log_format, config)
}

fn run(path: &Path, log_format: super::LogFormat, config: Config) -> u8 {
    if let Err(error) = logging(log_format, config.spec.log_level) {
        print_error(error);
        return agent_exit::USAGE;
    }
    match agent::run(path, config) {
        Ok(code) => u8::try_from(code).unwrap_or(agent_exit::INTERNAL),
        Err(error) => {
            print_error(&error);
            agent_exit::UNAVAILABLE
        }
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
