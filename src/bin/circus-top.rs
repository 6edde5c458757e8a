//! What happens in a cluster, live: see `circus-top --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(circus_agent::cli::circus_top(std::env::args_os()))
}
