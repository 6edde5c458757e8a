//! circusctl without a command: a shell on a terminal, otherwise a reader of commands, one a line.
//!
//! Each line is what would follow `circusctl` and the options that the shell was started with. `exit`, `EOF` and ^D
//! leave; `quit` is the agent's command, as with Circus, so a terminal is asked back before it is put. What goes wrong
//! in one line ends neither the shell nor the lines after it.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use rustyline::completion::{Completer, Pair};
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use serde_json::Value;
use tokio::time::timeout;

use super::ctl::{self, Asker, CtlArgs};
use super::ctl_exit;
use super::whom::Global;
use crate::client::{self, Call};
use crate::model::command::{Command, Target};
use crate::view::Text;

const PROMPT: &str = "(circusctl) ";
/// How long a TAB may wait for the names of watchers.
const COMPLETION_TIME: Duration = Duration::from_millis(200);
/// How many lines are remembered.
const REMEMBERED: usize = 1000;

/// Reads and carries out commands until there are no more: the exit code. `args` are the words that circusctl was
/// started with: its name and `global` options.
pub(super) fn run(args: &[OsString], global: &Global) -> u8 {
    match io::stdin().is_terminal() {
        true => Shell { args, asker: Asker::Shell }.converse(global),
        false => Shell { args, asker: Asker::Caller }.read(io::stdin().lock()),
    }
}

struct Shell<'a> {
    args: &'a [OsString],
    asker: Asker,
}

/// What a line came to.
enum Obeyed {
    /// The exit code of its command; nothing for an empty line or a comment.
    Done(Option<u8>),
    /// It leaves the shell.
    Leave,
}

impl Shell<'_> {
    /// Commands from a file or a pipe: all of them, and then the exit code of the last that failed.
    fn read(&self, input: impl BufRead) -> u8 {
        let mut last = None;
        for line in input.lines() {
            let line = match line {
                Ok(line) => line,
                Err(error) => return ctl::print(&failure(format!("standard input: {error}")), ctl_exit::FAILED),
            };
            match self.obey(&line) {
                Obeyed::Done(None) => {}
                Obeyed::Done(Some(code)) if code == ctl_exit::OK => last = last.or(Some(code)),
                Obeyed::Done(failed) => last = failed,
                Obeyed::Leave => return last.unwrap_or(ctl_exit::OK),
            }
        }
        last.unwrap_or_else(|| {
            // Nobody types, and nothing was said: a command was forgotten.
            let help = CtlArgs::command().render_help().to_string();
            ctl::print(&Text { out: String::new(), err: help }, ctl_exit::USAGE)
        })
    }

    /// Commands from a person.
    fn converse(&self, global: &Global) -> u8 {
        // ^C ends what runs, and never the shell, also in the moment before a command listens for it.
        if let Err(error) = signal_hook::flag::register(libc::SIGINT, Arc::default()) {
            return ctl::print(&failure(format!("^C: {error}")), ctl_exit::FAILED);
        }
        let mut editor = match editor(global) {
            Ok(editor) => editor,
            Err(error) => return ctl::print(&failure(format!("this terminal: {error}")), ctl_exit::FAILED),
        };
        let history = history_file();
        if let Some(history) = &history {
            // There is none at first.
            let _ = editor.load_history(history);
        }
        let greeting = format!("circusctl {}\n", env!("CARGO_PKG_VERSION"));
        ctl::print(&Text { out: greeting, err: String::new() }, ctl_exit::OK);
        self.obey("status");
        loop {
            let line = match editor.readline(PROMPT) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return ctl_exit::OK,
                Err(error) => return ctl::print(&failure(format!("this terminal: {error}")), ctl_exit::FAILED),
            };
            if let Some(history) = &history {
                // At once, so that a shell that is killed forgets nothing. One that cannot write it forgets it all.
                let _ = editor.append_history(history);
            }
            if let Obeyed::Leave = self.obey(&line) {
                return ctl_exit::OK;
            }
        }
    }

    fn obey(&self, line: &str) -> Obeyed {
        let Some(words) = shlex::split(line) else {
            return Obeyed::Done(Some(ctl::print(&failure("a quote is not closed"), ctl_exit::USAGE)));
        };
        match words.first().map(String::as_str) {
            None => return Obeyed::Done(None),
            Some("exit" | "EOF") => return Obeyed::Leave,
            Some(_) => {}
        }
        let args = self.args.iter().cloned().chain(words.into_iter().map(OsString::from));
        let (text, code) = match CtlArgs::try_parse_from(args) {
            Ok(args) => ctl::carry_out(args, self.asker),
            Err(error) => ctl::misunderstood(&error),
        };
        Obeyed::Done(Some(ctl::print(&text, code)))
    }
}

fn editor(global: &Global) -> rustyline::Result<Editor<Completion<'_>, FileHistory>> {
    let config = Config::builder().auto_add_history(true).completion_type(CompletionType::List).build();
    let mut editor = Editor::with_config(config)?;
    editor.set_max_history_size(REMEMBERED)?;
    editor.set_helper(Some(Completion { global, commands: CtlArgs::command() }));
    Ok(editor)
}

fn failure(why: impl std::fmt::Display) -> Text {
    Text { out: String::new(), err: format!("error: {why}\n") }
}

/// `$XDG_STATE_HOME/circus/history`, in a directory that is there; the file is its owner's alone. Nothing where there is
/// no home.
fn history_file() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let dir = state.join("circus");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).ok()?;
    Some(Path::join(&dir, "history"))
}

/// What TAB offers: commands, their options, and the watchers and sockets there are.
struct Completion<'a> {
    global: &'a Global,
    commands: clap::Command,
}

impl Helper for Completion<'_> {}
impl Hinter for Completion<'_> {
    type Hint = String;
}
impl Highlighter for Completion<'_> {}
impl Validator for Completion<'_> {}

impl Completer for Completion<'_> {
    type Candidate = Pair;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, asked) = asked(&self.commands, &line[..position]);
        let mut offered = match asked {
            Asked::Words(words) => words,
            Asked::Names(of) => self.names(of),
        };
        offered.retain(|word| word.starts_with(&line[start..position]));
        offered.sort();
        // A word that is complete is followed by the next one.
        let pair = |word| Pair { replacement: format!("{word} "), display: word };
        Ok((start, offered.into_iter().map(pair).collect()))
    }
}

/// What could stand at the end of a line.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// One of these.
    Words(Vec<String>),
    /// A name of one of these.
    Names(Named),
}

/// What an agent knows by name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Named {
    Watchers,
    Sockets,
    Legions,
}

/// Where the last word of `line` begins, and what it could become.
pub(super) fn asked(commands: &clap::Command, line: &str) -> (usize, Asked) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    // Down to the command that the words before it name: `lease`, then `init`.
    let mut command = commands;
    let mut names = line[..start].split_whitespace().peekable();
    let is_help = names.next_if_eq(&"help").is_some();
    for name in names {
        command = command.find_subcommand(name).unwrap_or(command);
    }
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    let mut words: Vec<String> = shown.map(|command| command.get_name().to_owned()).collect();
    let takes = |ids: &[&str]| command.get_positionals().any(|word| ids.contains(&word.get_id().as_str()));
    let asked = if is_help {
        Asked::Words(words)
    } else if line[start..].starts_with('-') {
        let all = commands.get_arguments().chain(command.get_arguments());
        let longs = all.filter(|option| !option.is_hide_set()).filter_map(clap::Arg::get_long);
        let mut longs: Vec<String> = longs.map(|long| format!("--{long}")).collect();
        longs.dedup();
        Asked::Words(longs)
    } else if std::ptr::eq(command, commands) {
        words.extend(["help", "exit"].map(str::to_owned));
        Asked::Words(words)
    } else if takes(&["name", "names"]) {
        Asked::Names(Named::Watchers)
    } else if takes(&["socket"]) {
        Asked::Names(Named::Sockets)
    } else if takes(&["legion"]) {
        Asked::Names(Named::Legions)
    } else {
        Asked::Words(words)
    };
    (start, asked)
}

impl Completion<'_> {
    /// Their names, as far as they can be had at once.
    fn names(&self, of: Named) -> Vec<String> {
        let command = match of {
            Named::Watchers => Command::List { watcher: None },
            Named::Sockets => Command::ListSockets,
            Named::Legions => Command::Legions { legion: None },
        };
        let names = async {
            let endpoint = self.global.place.endpoint().ok()?;
            let call = Call {
                command,
                target: Target::Here,
                cluster: self.global.place.cluster.clone(),
                patience: COMPLETION_TIME,
            };
            let reply = timeout(COMPLETION_TIME, client::ask(&endpoint, &call)).await.ok()?.ok()?;
            let parts = reply["nodes"].as_object().map(|nodes| nodes.values().collect()).unwrap_or(vec![&reply]);
            let mut names: Vec<String> = parts.into_iter().flat_map(|part| told(of, part)).collect();
            names.sort();
            names.dedup();
            Some(names)
        };
        ctl::runtime().ok().and_then(|runtime| runtime.block_on(names)).unwrap_or_default()
    }
}

/// The names in one node's reply, each as one word.
fn told(of: Named, part: &Value) -> Vec<String> {
    let (list, name): (_, fn(&Value) -> Option<&str>) = match of {
        Named::Watchers => (&part["watchers"], Value::as_str),
        Named::Sockets => (&part["sockets"], |socket| socket["name"].as_str()),
        Named::Legions => (&part["legions"], |legion| legion["legion"].as_str()),
    };
    list.as_array().into_iter().flatten().filter_map(name).map(quoted).collect()
}

/// A name as one word.
pub(super) fn quoted(name: &str) -> String {
    // Only a NUL cannot be quoted, and no name has one.
    shlex::try_quote(name).map_or_else(|_| name.to_owned(), |name| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tab_offers_what_can_stand_there() {
        let commands = CtlArgs::command();
        let words = |line: &str| match asked(&commands, line).1 {
            Asked::Words(words) => words,
            Asked::Names(of) => panic!("{of:?} after {line}"),
        };
        assert!(["status", "events", "help", "exit"].iter().all(|name| words("st").iter().any(|word| word == name)));
        assert!(!words("").iter().any(|word| word == "listen"), "what is hidden is not offered");
        assert_eq!(words("lease "), ["init", "check"]);
        assert!(words("help ").iter().any(|word| word == "status"));
        assert!(words("stop --").iter().any(|word| word == "--waiting"));
        assert!(words("stop --").iter().any(|word| word == "--json"));
        assert_eq!(words("version "), [""; 0]);
        for line in ["stop ", "--json status we", "logs web ", "lease init ", "lease check ", "history "] {
            assert_eq!(asked(&commands, line).1, Asked::Names(Named::Watchers), "{line}");
        }
        for line in ["setsocket ", "rmsocket we", "--json setsocket w"] {
            assert_eq!(asked(&commands, line).1, Asked::Names(Named::Sockets), "{line}");
        }
        for line in ["legions ", "lord cl", "--all scrolls "] {
            assert_eq!(asked(&commands, line).1, Asked::Names(Named::Legions), "{line}");
        }
        // One that is to be has no name yet.
        assert_eq!(words("addsocket "), [""; 0]);
        assert_eq!(asked(&commands, "stop we").0, 5);
    }

    #[test]
    fn names_are_found_in_replies_and_quoted() {
        let watchers = serde_json::json!({"watchers": ["web", "sleep two"]});
        assert_eq!(told(Named::Watchers, &watchers), ["web", "'sleep two'"]);
        let sockets = serde_json::json!({"sockets": [{"fd": 3, "name": "web"}, {"fd": null, "name": "ux"}, 5]});
        assert_eq!(told(Named::Sockets, &sockets), ["web", "ux"]);
        assert_eq!(told(Named::Sockets, &watchers), [""; 0]);
        let legions = serde_json::json!({"legions": [{"legion": "clusterip"}, {}]});
        assert_eq!(told(Named::Legions, &legions), ["clusterip"]);
    }
}
