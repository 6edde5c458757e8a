//! The agent, or, when it is called by that name, a guard.

use circus_agent::host::guard;

fn main() {
    if std::env::args_os().next().is_some_and(|name| name == guard::NAME) {
        guard::main();
    }
}
