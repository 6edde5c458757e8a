//! Command lines, exit codes, the log's set-up, and how errors are printed.
//!
//! Invariants: an exit code tells the truth, whatever the output's form; errors go to standard error; what goes to
//! standard output can be piped anywhere, `head` included.

mod background;
mod ctl;
mod daemon;
mod drill;
mod follow;
mod init;
mod log;
mod plugin;
mod progress;
mod roll;
mod shell;
mod stopping;
mod top;
mod whom;
mod words;

use std::fmt::Display;
use std::path::PathBuf;

use clap::Parser;
use futures_util::StreamExt;
use signal_hook_tokio::Signals;

use crate::config;
use crate::model::spec::{LogLevel, LogOutput};

pub use ctl::{CtlArgs, circusctl};
pub use daemon::circus_agent;
pub use log::LogFormat;
pub use plugin::circus_plugin;
pub use top::{TopArgs, circus_top};

/// What circusctl's exit code says.
pub mod ctl_exit {
    /// Done; for `status`: all is well.
    pub const OK: u8 = 0;
    /// The command failed.
    pub const FAILED: u8 = 1;
    /// It cannot be asked like this.
    pub const USAGE: u8 = 2;
    /// `status`: something wanted is neither active nor listening nor scheduled nor standby.
    pub const NOT_WELL: u8 = 3;
    /// Some nodes did not answer.
    pub const PARTIAL: u8 = 4;
    /// No agent or no Redis was reached.
    pub const UNREACHED: u8 = 5;
}

/// What circus-agent's exit code says: the codes of sysexits.h.
pub mod agent_exit {
    /// Stopped on request; with `--check`: the configuration is good.
    pub const OK: u8 = 0;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// Something it needs cannot be had: the control socket, the node's name in the cluster.
    pub const UNAVAILABLE: u8 = 69;
    /// A fault of its own.
    pub const INTERNAL: u8 = 70;
    /// The configuration has problems.
    pub const CONFIG: u8 = 78;
}

/// circus-agent's command line.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "circus-agent",
    version,
    about = "Supervises processes, and keeps what must be alone in the cluster alone, over Redis",
    after_help = "Signals: TERM, INT and QUIT stop, and kill what still runs when they come again; HUP applies what has \
                  changed in the configuration; USR1 opens log files anew.\n\
                  Exit codes: 0 stopped on request, 64 usage, 69 something needed is not available, 70 internal \
                  error, 78 problems in the configuration.\n\
                  Environment: CIRCUS_CONFIG; CIRCUS_NODE, CIRCUS_REDIS_URL and the like win over the keys of \
                  [circus] and [redis]; CIRCUS_LOG (a filter such as info or circus_agent=debug); NO_COLOR."
)]
pub struct AgentArgs {
    /// The configuration, an ini file
    #[arg(env = "CIRCUS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print every problem of the configuration and exit: 0 where there is none, 78 otherwise
    #[arg(long)]
    pub check: bool,
    /// Run in the background; ends when each watcher has had its turn to start, or with the reason why none will
    #[arg(long)]
    pub daemon: bool,
    /// Where the agent's pid is written; wins over the file's `pidfile`
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// How much is logged: critical, error, warning, info or debug; wins over the file's `loglevel`
    #[arg(long, value_name = "LEVEL", value_parser = config::log_level)]
    pub log_level: Option<LogLevel>,
    /// Where to: a file, - for standard error, or syslog://…; wins over the file's `logoutput`
    #[arg(long, value_name = "WHERE", value_parser = config::log_output)]
    pub log_output: Option<LogOutput>,
    /// Has no effect, as with `loggerconfig`: it names a file for Python's logging, and there is no Python here
    #[arg(long, value_name = "FILE")]
    pub logger_config: Option<PathBuf>,
    /// How the log is written; text suits itself to a terminal, the journal or a file
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl AgentArgs {
    /// Reads the command line. Help, the version and mistakes are printed here; the error is then the exit code.
    pub fn read(args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>) -> Result<AgentArgs, u8> {
        AgentArgs::try_parse_from(args).map_err(|error| {
            let _ = error.print();
            exit_code(&error)
        })
    }
}

/// Help and the version come as errors too, but asking for them is none.
fn exit_code(error: &clap::Error) -> u8 {
    if error.use_stderr() { agent_exit::USAGE } else { agent_exit::OK }
}

/// Prints `error: …` to standard error.
pub fn print_error(error: impl Display) {
    eprintln!("error: {error}");
}

/// Prints `warning: …` to standard error.
fn print_warning(warning: impl Display) {
    eprintln!("warning: {warning}");
}

/// Waits for ^C. From the first call on ^C does nothing else.
async fn interrupted() {
    match Signals::new([libc::SIGINT]) {
        Ok(mut signals) => drop(signals.next().await),
        // Then ^C goes on to end the program.
        Err(_) => std::future::pending().await,
    }
}

/// Whether colours are wanted on a stream that is, or is not, a terminal: `NO_COLOR` forbids them, `CLICOLOR_FORCE`
/// wants them in pipes too, and a dumb terminal has none.
fn colours(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") {
        return false;
    }
    let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    forced || (is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_command_line_is_sound() {
        use clap::CommandFactory;
        AgentArgs::command().debug_assert();
        let line = "circus-agent a.ini --check --log-format json --daemon --pidfile p --log-level debug --log-output l \
                    --logger-config c";
        let args = AgentArgs::read(line.split(' ')).unwrap();
        assert_eq!((args.config, args.pidfile), (Some("a.ini".into()), Some("p".into())));
        assert_eq!((args.check, args.daemon, args.log_format), (true, true, LogFormat::Json));
        assert_eq!(args.logger_config, Some("c".into()));
        assert_eq!((args.log_level, args.log_output), (Some(LogLevel::Debug), Some(LogOutput::File("l".into()))));
        let code = |word| exit_code(&AgentArgs::try_parse_from(["circus-agent", word]).unwrap_err());
        assert_eq!((code("--chekc"), code("--help"), code("--version")), (64, 0, 0));
    }
}
