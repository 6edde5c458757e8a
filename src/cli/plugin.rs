//! `circus-plugin`: one of Circus's plugins, from its command line to its exit code.

use std::collections::BTreeMap;
use std::ffi::OsString;

use futures_util::StreamExt;
use nix::sys::prctl;
use signal_hook_tokio::Signals;

use super::log::logging;
use super::{LogFormat, agent_exit, print_error};
use crate::client::Endpoint;
use crate::model::random::Random;
use crate::model::spec::LogOutput;
use crate::plugins::{self, Plugin};

/// The name (`argv[0]`) under which the agent's program is a plugin.
pub const PLUGIN: &str = "circus-plugin";

/// Runs `circus-plugin NAME USE` until SIGTERM or SIGINT: its exit code.
///
/// The agent starts it for a section `[plugin:NAME]` with `use = USE`: `CIRCUS_PLUGIN_OPTIONS` has the section's keys, as
/// a JSON object of texts, and `CIRCUSCTL_ENDPOINT` is the agent's control socket.
pub fn circus_plugin(args: impl IntoIterator<Item = impl Into<OsString>>) -> u8 {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let [_, name, uses] = words[..] else {
        print_error(format_args!("usage: {PLUGIN} NAME USE; the agent starts it, for a section [plugin:NAME]"));
        return agent_exit::USAGE;
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

fn plugin(uses: &str) -> Result<Plugin, String> {
    let options = std::env::var("CIRCUS_PLUGIN_OPTIONS").unwrap_or_else(|_| "{}".into());
    let options: BTreeMap<String, String> = serde_json::from_str(&options)
        .map_err(|error| format!("CIRCUS_PLUGIN_OPTIONS is no JSON object of texts: {error}"))?;
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
