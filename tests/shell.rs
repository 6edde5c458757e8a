//! circusctl without a command: on a real terminal with a real agent, and with commands from a pipe.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/pty.rs"]
mod pty;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use agent::{Agent, Home, is_alive};
use pty::OnTerminal;

const PROMPT: &str = "(circusctl) ";

fn circusctl(home: &Home, agent: &Agent) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circusctl"));
    command.arg("--endpoint").arg(&agent.socket).env_clear().env("HOME", home.path());
    command
}

/// A shell on a terminal, at its first prompt; what it showed until then.
fn shell(home: &Home, agent: &Agent) -> (OnTerminal, String) {
    let mut command = circusctl(home, agent);
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    let mut shell = OnTerminal::start(command);
    let shown = shell.shows(PROMPT);
    (shell, shown)
}

fn web(home: &Home) -> Agent {
    let agent = home.agent("web-1", "[watcher:web]\ncmd = sleep 1000\n[watcher:worker]\ncmd = sleep 1000\n");
    agent.comes_to("worker", "active");
    agent
}

#[test]
fn it_greets_completes_remembers_and_outlives_mistakes() {
    let home = Home::new();
    let agent = web(&home);
    let (mut shell, greeting) = shell(&home, &agent);
    assert!(greeting.contains(&format!("circusctl {}\r\n", env!("CARGO_PKG_VERSION"))), "{greeting}");
    assert!(greeting.contains("worker") && greeting.contains("active"), "the status: {greeting}");

    // TAB completes a command, then a live watcher's name.
    shell.types("numpr\twor\t\r");
    shell.shows("numprocesses worker");
    shell.shows("1\r\n");
    shell.shows(PROMPT);
    shell.types("statsu\r");
    shell.shows("unrecognized subcommand 'statsu'");
    shell.shows(PROMPT);
    shell.types("list 'web\r");
    shell.shows("error: a quote is not closed");
    shell.shows(PROMPT);
    shell.types("help numwatchers\r");
    shell.shows("Count the watchers");
    shell.shows(PROMPT);
    // ^C takes back what was typed.
    shell.types("quit\x03");
    shell.shows(PROMPT);
    shell.types("--json numwatchers\r");
    shell.shows("\"numwatchers\":2");
    shell.shows(PROMPT);
    shell.types("\x04");
    assert_eq!(shell.ends().code(), Some(0));

    let history = home.file(".local/state/circus/history");
    assert_eq!(fs::metadata(&history).expect("a history").permissions().mode() & 0o777, 0o600);
    let history = fs::read_to_string(history).expect("text");
    assert!(history.contains("numprocesses worker \nstatsu\n") && !history.contains("quit"), "{history}");

    let (mut again, _) = self::shell(&home, &agent);
    again.types("\x1b[A\r");
    again.shows("\"numwatchers\":2");
    again.shows(PROMPT);
    again.types("exit\r");
    assert_eq!(again.ends().code(), Some(0));
}

#[test]
fn control_c_ends_a_stream_and_not_the_shell_and_quit_is_the_agents() {
    let home = Home::new();
    let mut agent = web(&home);
    let (mut shell, _) = shell(&home, &agent);
    for _ in 0..2 {
        shell.types("events -f -n 0\r");
        shell.shows("-n 0");
        // One that comes before the stream does ends nothing.
        while !shell.shows_soon(PROMPT) {
            shell.types("\x03");
        }
    }
    shell.types("quit\r");
    shell.shows("exit leaves this shell. Go on? [y/N] ");
    shell.types("n\r");
    shell.shows("nothing was done");
    shell.shows(PROMPT);
    assert!(is_alive(agent.pid()));
    shell.types("quit\r");
    shell.shows("[y/N] ");
    shell.types("y\r");
    shell.shows("ok");
    agent.exits(0);
    // Without an agent the shell goes on, and says so.
    shell.shows(PROMPT);
    shell.types("list\r");
    shell.shows("error: no agent reached");
    shell.shows(PROMPT);
    shell.types("EOF\r");
    assert_eq!(shell.ends().code(), Some(0));
}

fn piped(home: &Home, agent: &Agent, input: &str) -> Output {
    let mut ctl = circusctl(home, agent);
    let mut ctl = ctl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("circusctl");
    ctl.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("room in a pipe");
    ctl.wait_with_output().expect("its end")
}

#[test]
fn commands_from_a_pipe_are_all_carried_out_and_the_last_failure_counts() {
    let home = Home::new();
    let agent = web(&home);
    let well = piped(&home, &agent, "# two questions\nnumwatchers\n\nlist\n");
    assert_eq!(well.status.code(), Some(0), "{well:?}");
    assert_eq!(well.stdout, b"2\nweb,worker\n");
    let ill = piped(&home, &agent, "bogus\nlist nobody\nnumwatchers\nexit\nlist\n");
    assert_eq!(ill.status.code(), Some(1), "{ill:?}");
    assert_eq!(ill.stdout, b"2\n");
    assert_eq!(piped(&home, &agent, "# nothing\n").status.code(), Some(2));
    // Where nobody can be asked, quit means what it says.
    assert_eq!(piped(&home, &agent, "quit --waiting\n").status.code(), Some(0));
}
