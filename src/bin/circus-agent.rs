//! The agent of one node: see `circus-agent --help`. Called `circus-guard`, it is the guard of one singleton's child;
//! called `circus-witness`, what sees a drill from outside of the agent; called `circus-lord`, what a legion's lord does;
//! called `circus-plugin`, one of Circus's plugins.

use std::process::ExitCode;

use circus_agent::agent::drill;
use circus_agent::config::PLUGIN;
use circus_agent::{cli, host::guard, lord};

fn main() -> ExitCode {
    let mut args = std::env::args_os().peekable();
    let code = match args.peek() {
        Some(name) if name == guard::NAME => guard::main(),
        Some(name) if name == drill::NAME => drill::main(),
        Some(name) if name == lord::NAME => lord::main(args),
        Some(name) if name == PLUGIN => cli::circus_plugin(args),
        _ => cli::circus_agent(args),
    };
    ExitCode::from(code)
}
