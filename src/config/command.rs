//! `cmd`, `args` and `shell_args`: command lines → words.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::build::Build;
use super::keys::{self, KEYS, Section};
use super::problem::code;
use super::settings::{Set, Settings};
use super::socket_use::Handed;
use super::value::Value;
use super::{vars, words};
use crate::model::spec::WID;

/// What to search for programs where a process has no `PATH`, as Circus's children do.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

impl Build<'_> {
    /// A watcher's command line as words; nothing where it has none, which is then said.
    pub(super) fn words(&mut self, settings: &Settings<'_>, handed: &Handed<'_>) -> Option<Vec<String>> {
        let Some(cmd) = settings.get("cmd").filter(|set| set.value != Value::Unset) else {
            if self.is_absent(settings, "cmd") {
                self.missing(settings.head, format!("[{}] has no `cmd`", settings.head)).label("nothing to run");
            }
            return None;
        };
        let shell = settings.bool("shell");
        for set in [Some(cmd), settings.get("args")].into_iter().flatten().filter(|_| shell) {
            self.warn_of_cut(set);
        }
        let cmd_line = self.fill(cmd, settings, handed);
        let cmd_words = self.split(cmd, &cmd_line);
        let args = settings.get("args").map(|set| (set, self.fill(set, settings, handed)));
        let args_words = args.as_ref().map(|(set, line)| self.split(set, line));
        let shell_args = settings.get("shell_args").map(|set| {
            if !shell {
                self.problems
                    .warn(code::NO_EFFECT, set.entry.key_spot(), "`shell_args` has no effect here")
                    .label("only with `shell = True`");
            }
            let line = self.fill(set, settings, handed);
            self.split(set, &line)
        });
        let (args_words, shell_args) =
            (args_words.unwrap_or(Some(Vec::new()))?, shell_args.unwrap_or(Some(Vec::new()))?);
        let mut words = cmd_words?;
        if words.first().is_none_or(String::is_empty) {
            self.problems.error(code::MISSING, cmd.entry.spot(), "`cmd` names no program");
            return None;
        }
        self.warn_of_gunicorn(settings, handed);
        if !shell {
            words.extend(args_words);
            self.check_shell(&words, cmd, handed);
            return Some(words);
        }
        // The line is the shell's, as Circus's documentation says; Circus itself quotes each word, which makes
        // `;` and `|` literal. Line ends are those of the file, not of the script.
        let line = [cmd_line, args.map_or(String::new(), |(_, line)| line)].join(" ").replace('\n', " ");
        let sh = settings.text("executable").unwrap_or_else(|| "/bin/sh".to_owned());
        let line = self.without_shell(line.trim().to_owned(), cmd, handed);
        let sh = [sh, "-c".to_owned(), line];
        Some(sh.into_iter().chain(shell_args).collect())
    }

    /// Warns of a shell's line that ends at a `;` which was perhaps meant for the shell.
    fn warn_of_cut(&mut self, set: &Set<'_>) {
        let Set { entry, .. } = set;
        let quoted = words::split(entry.value).is_err();
        if let (Some(uncut), false) = (&entry.place.uncut, quoted) {
            let comment = uncut[entry.value.len().min(uncut.len())..].trim();
            if !comment.trim_start_matches(';').trim().is_empty() {
                self.problems
                    .warn(code::QUOTES, entry.spot(), format!("the shell sees `{}` only up to its ` ;`", entry.key))
                    .note("after a blank, the first `;` of a value begins a comment, as in Circus")
                    .help("if it is the shell's, write it right after the word before it: `a; b`");
            }
        }
    }

    /// A command line with all its variables filled in but the numbers of the slot and of sockets.
    fn fill(&mut self, set: &Set<'_>, settings: &Settings<'_>, handed: &Handed<'_>) -> String {
        for reference in vars::references(set.entry.value) {
            let name = reference.name.as_str();
            let spot = set.entry.part(&reference.range);
            if let Some(socket) = name.strip_prefix("sockets.") {
                self.check_socket_variable(socket, spot, handed);
                continue;
            }
            if name.starts_with("env.") || settings.variable(name).is_some() {
                continue;
            }
            let problem = self.problems.error(code::VARIABLE, spot, format!("`$(circus.{name})` has no value"));
            if keys::find(Section::Watcher, name).is_some() {
                problem.label(format!("this watcher sets no `{name}`"));
                continue;
            }
            let known = KEYS.iter().filter(|key| key.section == Section::Watcher).map(|key| key.name);
            match keys::nearest(name, known.chain(["wid"])) {
                Some(known) => problem.label(format!("did you mean `$(circus.{known})`?")),
                None => problem
                    .label("no such variable")
                    .help("there are wid, env.NAME, sockets.NAME, rlimits.NAME and the keys of the watcher"),
            };
        }
        vars::substitute(&set.text, |name| settings.variable(name))
    }

    fn split(&mut self, set: &Set<'_>, line: &str) -> Option<Vec<String>> {
        let unclosed = match words::split(line) {
            Ok(words) => return Some(words),
            Err(unclosed) => unclosed,
        };
        let entry = &set.entry;
        // Variables shift what follows them: the place is known only where the file itself has the quote open.
        let spot = match words::split(entry.value) {
            Err(raw) => entry.part(&(raw.at..raw.at + raw.quote.len_utf8())),
            Ok(_) => entry.spot(),
        };
        let cut = entry.place.uncut.as_ref().is_some_and(|uncut| words::split(uncut).is_ok());
        let key = entry.key;
        if cut {
            self.problems
                .error(code::QUOTES, spot, format!("`{key}` ends inside quotes, at a `;` that begins a comment"))
                .label("opens here")
                .note("after a blank, the first `;` of a value begins a comment, inside quotes too, as in Circus")
                .help("write the `;` right after the word before it: `a; b`");
        } else if unclosed.quote == '\\' {
            self.problems.error(code::QUOTES, spot, format!("`{key}` ends in a backslash"));
        } else {
            self.problems
                .error(code::QUOTES, spot, format!("the quotes of `{key}` do not close"))
                .label(format!("no second {} follows", unclosed.quote));
        }
        None
    }

    /// Warns where the program is not on this machine; another may have it, or a later deployment bring it.
    pub(super) fn check_program(
        &mut self,
        words: &[String],
        executable: Option<&Path>,
        env: &BTreeMap<String, String>,
        settings: &Settings<'_>,
    ) {
        let base = settings.path("working_dir").unwrap_or_default();
        if let (Some(set), Some(executable)) = (settings.get("executable"), executable) {
            if !executable.to_string_lossy().contains('/') {
                self.problems
                    .error(code::VALUE, set.entry.spot(), "`executable` must be a path")
                    .label("this has no `/`")
                    .help("it is not looked for in PATH; a program that is may stand in `cmd`");
            } else if !runs(&base.join(executable)) {
                self.problems
                    .warn(code::PROGRAM, set.entry.spot(), format!("command not found: `{}`", executable.display()))
                    .label("no program on this machine");
            }
            return;
        }
        let (Some(program), Some(cmd)) = (words.first(), settings.get("cmd").map(|set| &set.entry)) else { return };
        if program.contains(WID) || settings.bool("shell") {
            return;
        }
        let word = cmd.value.split_whitespace().next().unwrap_or_default();
        let spot = cmd.part(&Range { start: 0, end: word.len() });
        if program.contains('/') {
            if !runs(&base.join(program)) {
                self.problems
                    .warn(code::PROGRAM, spot, format!("command not found: `{program}`"))
                    .label("no program on this machine");
            }
            return;
        }
        let inherited = if settings.bool("copy_env") { self.around.env.get("PATH") } else { None };
        let path = env.get("PATH").or(inherited).map_or(DEFAULT_PATH, String::as_str);
        let absolute = |directory: &&str| directory.starts_with('/') || base.is_absolute();
        if path.split(':').any(|directory| runs(&base.join(directory).join(program))) {
            return;
        }
        // Where the path leads depends on where the agent will run.
        if !path.split(':').all(|directory| absolute(&directory)) && base.as_os_str().is_empty() {
            return;
        }
        let problem = self.problems.warn(code::PROGRAM, spot, format!("command not found: `{program}`")).label(
            if env.contains_key("PATH") { "not in the PATH of [env]".to_owned() } else { format!("not in {path}") },
        );
        let elsewhere = self.around.env.get("PATH").map(String::as_str).unwrap_or_default();
        match elsewhere.split(':').map(|directory| Path::new(directory).join(program)).find(|path| runs(path)) {
            Some(found) => problem.help(format_args!(
                "there is {}; write that, or give the watcher the agent's PATH: `copy_env = True`, or \
                 `PATH = $PATH` in [env]",
                found.display()
            )),
            None => problem.help("write the full path, or set PATH in an [env] section"),
        };
    }
}

/// Whether a path leads to a program.
pub(super) fn runs(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
