//! Commands one agent, several, or all of them: see `circusctl --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(circus_agent::cli::circusctl(std::env::args_os()))
}
