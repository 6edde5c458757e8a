//! The agent of one node: see `circus-agent --help`. Called `circus-guard`, it is the guard of one singleton's child.

use std::process::ExitCode;

use circus_agent::{cli, host::guard};

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == guard::NAME) {
        guard::main();
    }
    ExitCode::from(cli::circus_agent(std::env::args_os()))
}
