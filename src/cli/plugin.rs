//! `circus-plugin`: one of Circus's plugins, from its command line to its exit code.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use futures_util::StreamExt;
use nix::sys::prctl;
use signal_hook_tokio::Signals;

use super::log::logging;
use super::{LogFormat, agent_exit, print_error};
use crate::client::Endpoint;
use crate::config::{PLUGIN, PLUGIN_OPTIONS};
use crate::model::random::Random;
use crate::model::spec::{LogOutput, ZmqDoors};
use crate::plugins::{self, Plugin};

/// Runs `circus-plugin NAME USE` until SIGTERM or SIGINT: its exit code.
///
/// The agent starts it for a section `[plugin:NAME]` with `use = USE`: `CIRCUS_PLUGIN_OPTIONS` has the section's keys, as
/// a JSON object of texts, and `CIRCUSCTL_ENDPOINT` is the agent's control socket.
///
/// With an interpreter as a third word, `USE` is a class in Python, and this process becomes what circusd would have started
/// for it; `CIRCUS_ZMQ_ENDPOINT` and `CIRCUS_ZMQ_PUBSUB_ENDPOINT` are the agent's doors.
pub fn circus_plugin(args: impl IntoIterator<Item = impl Into<OsString>>) -> u8 {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let (name, uses) = match words[..] {
        [_, name, uses] => (name, uses),
        [_, name, class, python] => {
            let Err(problem) = become_python(python, class);
            print_error(format_args!("[plugin:{name}] {problem}"));
            return agent_exit::CONFIG;
        }
        _ => {
            print_error(format_args!("usage: {PLUGIN} NAME USE; the agent starts it, for a section [plugin:NAME]"));
            return agent_exit::USAGE;
        }
    };
    let prepared = plugin(uses).and_then(|plugin| Ok((plugin, endpoint()?)));
    let (plugin, agent) = match prepared {
        Ok(prepared) => prepared,
        Err(problems) => {
            problems.lines().for_each(|problem| print_error(format_args!("[plugin:{name}] {problem}")));
            return agent_exit::CONFIG;
        }
    };
    // Without it, `ps` and `top` show an agent.
    let _ = prctl::set_name(c"circus-plugin");
    let _log = match logging(LogFormat::Text, None, &LogOutput::Stderr) {
        Ok(log) => log,
        Err((code, why)) => {
            print_error(why);
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("[plugin:{name}] cannot start the asynchronous runtime: {error}"));
            return agent_exit::UNAVAILABLE;
        }
    };
    let ended = runtime.block_on(async {
        let signals = Signals::new([libc::SIGTERM, libc::SIGINT]).map_err(|error| error.to_string())?;
        plugins::run(name, &agent, plugin, told_to_end(signals)).await.map_err(|error| error.to_string())
    });
    // A name server or a file system that hangs keeps nobody here.
    runtime.shutdown_background();
    match ended {
        Ok(()) => agent_exit::OK,
        Err(why) => {
            tracing::error!("plugin:{name}: {why}");
            agent_exit::UNAVAILABLE
        }
    }
}

/// The command line that circusd gives a plugin (`circus.plugins.get_plugin_cmd`), but that its options may hold blanks.
fn become_python(python: &str, class: &str) -> Result<Infallible, String> {
    let door = |name: &str| {
        let unopened = || "a plugin in Python needs ZeroMQ doors, which an agent opens when it starts: restart it";
        std::env::var(name).map_err(|_| unopened().to_owned())
    };
    let (endpoint, pubsub) = (door(ZmqDoors::ENDPOINT_VARIABLE)?, door(ZmqDoors::PUBSUB_VARIABLE)?);
    let options: Vec<String> = options()?.into_iter().map(|(key, text)| format!("{key}:{text}")).collect();
    let error = Command::new(python)
        .args(["-c", "from circus import plugins;plugins.main()"])
        .args(["--endpoint", &endpoint, "--pubsub", &pubsub])
        .arg(format!("--config={}", options.join(":::")))
        .arg(class)
        .env_remove(PLUGIN_OPTIONS)
        .exec();
    Err(format!("{python} cannot be started: {error}"))
}

/// The section's keys.
fn options() -> Result<BTreeMap<String, String>, String> {
    let options = std::env::var(PLUGIN_OPTIONS).unwrap_or_else(|_| "{}".into());
    serde_json::from_str(&options).map_err(|error| format!("{PLUGIN_OPTIONS} is no JSON object of texts: {error}"))
}

fn plugin(uses: &str) -> Result<Plugin, String> {
    let options = options()?;
    let seed = getrandom::u64().map_err(|error| format!("no random numbers are to be had: {error}"))?;
    Plugin::new(uses, options, Random::from_number(seed))
}

fn endpoint() -> Result<Endpoint, String> {
    match std::env::var("CIRCUSCTL_ENDPOINT").ok().and_then(|text| Endpoint::parse(&text).ok()) {
        // Over Redis there is no agent of one's own.
        Some(agent @ Endpoint::Unix(_)) => Ok(agent),
        _ => Err("CIRCUSCTL_ENDPOINT must be the agent's control socket: unix:///path".into()),
    }
}

async fn told_to_end(mut signals: Signals) {
    signals.next().await;
}
