//! A Procfile → ours: a watcher for each line, as foreman and honcho would start them.

use super::Original;
use super::page::{Page, Reader};
use crate::config::shell::{self, Line};
use crate::config::words;

/// foreman's and honcho's first port; each process type begins a hundred further on.
const FIRST_PORT: u32 = 5000;
const PORTS: u32 = 100;

/// Whether a text can be one: nothing but `NAME: COMMAND` and comments.
pub(super) fn is_one(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    lines.peek().is_some() && lines.all(|line| process(line).is_some())
}

/// The name and the command of a line.
fn process(line: &str) -> Option<(&str, &str)> {
    let (name, command) = line.split_once(':')?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let command = command.trim();
    (!name.is_empty() && name.chars().all(fits) && !command.is_empty()).then_some((name, command))
}

/// Writes what a Procfile says.
///
/// # Errors
/// There is no process in it.
pub(super) fn convert(original: &Original<'_>, page: &mut Page) -> Result<(), String> {
    if !original.text.lines().any(|line| process(line.trim()).is_some()) {
        return Err("there is no `NAME: COMMAND` in it".into());
    }
    page.tell("foreman ends all processes when one ends; here one that ends is started again");
    let variables = env_file(original.env_file, page);
    let base = variables
        .iter()
        .rfind(|(name, _)| name == "PORT")
        .and_then(|(_, port)| port.parse().ok())
        .unwrap_or(FIRST_PORT);
    let mut above = Vec::new();
    let mut index = 0;
    for (number, line) in (1..).zip(original.text.lines()) {
        let line = line.trim();
        match process(line) {
            _ if line.is_empty() => {}
            _ if line.starts_with('#') => above.push(line.to_owned()),
            None => {
                above.push(format!("; NOTE {line}: line {number} is no `NAME: COMMAND`, and foreman passes over it"));
            }
            Some((name, command)) => {
                watcher(original, (name, command), base + PORTS * index, &std::mem::take(&mut above), page);
                index += 1;
            }
        }
    }
    page.apart(&above);
    Ok(())
}

fn watcher(original: &Original<'_>, (name, command): (&str, &str), port: u32, above: &[String], page: &mut Page) {
    page.section(&format!("watcher:{name}"), above);
    let look = shell::look(command);
    if needs_shell(command) {
        let line = match look {
            Line::Simple(at) => shell::with_exec(command, at),
            Line::Exec | Line::Other => command.to_owned(),
        };
        page.command("cmd", &line, Reader::Shell);
        page.set("shell", "True");
        if look == Line::Other {
            page.set_because("stop_children", "True", "foreman asks all that the shell started to stop");
        }
    } else {
        page.command("cmd", command, Reader::Words);
    }
    page.set("copy_env", "True");
    if let Some(here) = original.here {
        page.say("working_dir", &here.display().to_string());
    }
    page.set_because("graceful_timeout", 5, "foreman's time-out");
    if name == "release" {
        page.set("autostart", "False");
        page.set("respawn", "False");
        page.tell("release: Heroku runs it once at each deployment; `circusctl start release` does");
    }
    page.section(&format!("env:{name}"), &[]);
    page.set("PORT", port);
    if command.contains("$PS") {
        page.set("PS", format_args!("{name}.1"));
    }
}

/// Whether more than words stands in a line: what only a shell understands.
fn needs_shell(command: &str) -> bool {
    let first = command.split_whitespace().next().unwrap_or_default();
    command.contains(|c: char| "$`*?[]{}<>|&;()#!~\\".contains(c))
        || first.contains('=')
        || words::split(command).is_err()
        || (matches!(shell::look(command), Line::Other | Line::Exec))
}

/// The variables of `.env`, which all processes get.
fn env_file(text: Option<&str>, page: &mut Page) -> Vec<(String, String)> {
    let Some(text) = text else { return Vec::new() };
    page.section("env", &["; from .env, which foreman reads and the agent does not".to_owned()]);
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        if line.starts_with('#') {
            page.comments(&[line.to_owned()]);
            continue;
        }
        let bare = line.strip_prefix("export ").unwrap_or(line);
        let name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        match bare.split_once('=').map(|(name, value)| (name.trim(), value.trim())).filter(|(key, _)| name(key)) {
            None => page.tell(format_args!("line {number} of .env is no `NAME=VALUE`, and foreman passes over it")),
            Some(("PORT", value)) => {
                page.remark("PORT", value, "the first port, see the [env:NAME] sections");
                variables.push(("PORT".to_owned(), value.to_owned()));
            }
            Some((name, value)) => {
                let value = unquoted(value);
                page.variable(name, &value);
                variables.push((name.to_owned(), value));
            }
        }
    }
    variables
}

/// A value of `.env`: in single quotes as it is, in double quotes with `\n` and the like.
fn unquoted(value: &str) -> String {
    let inside = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(plain) = inside('\'') {
        return plain.to_owned();
    }
    match inside('"') {
        Some(escaped) => {
            let mut out = String::new();
            let mut chars = escaped.chars();
            while let Some(c) = chars.next() {
                match (c, c == '\\') {
                    (_, true) => match chars.next() {
                        Some('n') => out.push('\n'),
                        other => out.extend(other),
                    },
                    (c, _) => out.push(c),
                }
            }
            out
        }
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_shell_must_read_gets_one() {
        for line in ["bundle exec puma -C config/puma.rb", "python 'my app.py' -x=1", "./run"] {
            assert!(!needs_shell(line), "{line}");
        }
        for line in ["puma -p $PORT", "A=b run", "cd x && run", "echo hello", "exec run", "run 2>&1", "ls *"] {
            assert!(needs_shell(line), "{line}");
        }
    }

    #[test]
    fn values_of_env_files_lose_their_quotes() {
        for (value, expected) in [("a b", "a b"), ("'a\\n$b'", "a\\n$b"), ("\"a\\\"b\\nc\"", "a\"b\nc"), ("\"", "\"")] {
            assert_eq!(unquoted(value), expected, "{value}");
        }
    }
}
