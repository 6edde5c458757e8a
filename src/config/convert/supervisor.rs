//! supervisord.conf → ours.
//!
//! A program becomes a watcher, a group the beginning of its watchers' names, a FastCGI program a watcher with a socket
//! as its stdin. supervisord's defaults are written out where ours are others, so that a program runs as it did. Keys
//! and values are those of supervisor 4.3.

mod output;
mod program;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::page::Page;
use super::source::{Entry, Section, Source};
use super::{Included, Original};
use crate::config::keys::nearest;
use crate::config::{Surroundings, words};
use values::{home, is_true, pairs};

/// What begins a comment after a blank.
const INLINE: &[char] = &[';', '#'];

/// What one program may become at most, where each of its processes has a number of its own.
const MOST: u32 = 500;

/// Keys of a program, in supervisord's order.
#[rustfmt::skip]
const PROGRAM: &[&str] = &[
    "command", "process_name", "numprocs", "numprocs_start", "priority", "autostart", "autorestart",
    "startsecs", "startretries", "exitcodes", "stopsignal", "stopwaitsecs", "stopasgroup", "killasgroup",
    "user", "redirect_stderr", "stdout_logfile", "stdout_logfile_maxbytes", "stdout_logfile_backups",
    "stdout_capture_maxbytes", "stdout_events_enabled", "stdout_syslog", "stderr_logfile",
    "stderr_logfile_maxbytes", "stderr_logfile_backups", "stderr_capture_maxbytes", "stderr_events_enabled",
    "stderr_syslog", "environment", "directory", "umask", "serverurl",
];

/// Keys that a FastCGI program has besides.
const FASTCGI: &[&str] = &["socket", "socket_backlog", "socket_owner", "socket_mode"];

/// Keys of `[supervisord]`.
#[rustfmt::skip]
const DAEMON: &[&str] = &[
    "logfile", "logfile_maxbytes", "logfile_backups", "loglevel", "pidfile", "umask", "nodaemon", "silent",
    "minfds", "minprocs", "nocleanup", "childlogdir", "user", "directory", "strip_ansi", "environment",
    "identifier",
];

#[rustfmt::skip]
const SECTIONS: &[&str] = &[
    "program", "group", "fcgi-program", "eventlistener", "supervisord", "supervisorctl", "unix_http_server",
    "inet_http_server", "include", "rpcinterface", "ctlplugin",
];

/// Writes what a supervisord.conf says.
///
/// # Errors
/// supervisord could not read the file either.
pub(super) fn convert(original: &Original<'_>, around: &Surroundings, page: &mut Page) -> Result<(), String> {
    let mut source = Source::read(original.text, INLINE)?;
    for Included { path, text } in original.included {
        let name = path.display();
        let here = path.parent().unwrap_or(Path::new("")).display().to_string();
        let included =
            Source::read(&text.replace("%(here)s", &here), INLINE).map_err(|why| format!("{name}: {why}"))?;
        source.absorb(included, &name.to_string());
    }
    let supervisor = Supervisor::new(&source, original, around);
    for section in &source.sections {
        supervisor.section(section, page)?;
    }
    page.apart(&source.end);
    Ok(())
}

/// The files that `[include]` leads to.
pub(super) fn included(original: &Original<'_>, around: &Surroundings) -> Vec<PathBuf> {
    let (Ok(source), Some(here)) = (Source::read(original.text, INLINE), original.here) else { return Vec::new() };
    let supervisor = Supervisor::new(&source, original, around);
    let files = source.get("include").and_then(|section| section.get("files")).unwrap_or_default();
    let files = supervisor.common(files).unwrap_or_default();
    let mut found = Vec::new();
    for path in files.split_whitespace().flat_map(|pattern| words::glob(&here.join(pattern))) {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// What holds for the whole file.
struct Supervisor<'a> {
    source: &'a Source,
    here: String,
    host: &'a str,
    groups: Vec<Group<'a>>,
    /// The variables that all programs get.
    env: BTreeMap<String, String>,
    /// Where programs run that say nothing of it.
    directory: Option<&'a str>,
    /// Whether the files that it includes are part of it.
    whole: bool,
    /// As whom they run then.
    user: Option<&'a str>,
}

/// A `[group:NAME]`.
struct Group<'a> {
    name: &'a str,
    priority: i64,
    programs: Vec<&'a str>,
}

/// A program, or one process of it.
struct Program<'a> {
    section: &'a Section,
    name: &'a str,
    group: Option<&'a Group<'a>>,
    numbers: Numbers,
}

/// What `%(process_num)` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Of one process.
    This(u32),
    /// Of processes that are all the same but for this number, counted from 1: the slot's.
    Slot,
    /// Nobody asks.
    Unasked,
}

impl<'a> Supervisor<'a> {
    fn new(source: &'a Source, original: &Original<'_>, around: &'a Surroundings) -> Supervisor<'a> {
        let here = original.here.map(|here| here.display().to_string()).unwrap_or_else(|| ".".to_owned());
        let daemon = source.get("supervisord");
        let said = |key| daemon.and_then(|daemon| daemon.get(key));
        let groups = source.sections.iter().filter_map(|section| {
            let programs = section.get("programs").unwrap_or_default().split(',').map(str::trim);
            Some(Group {
                name: section.head.strip_prefix("group:")?.trim(),
                priority: section.get("priority").and_then(|text| text.parse().ok()).unwrap_or(999),
                programs: programs.filter(|name| !name.is_empty()).collect(),
            })
        });
        let groups = groups.collect();
        let directory = said("directory").filter(|_| !said("nodaemon").is_some_and(is_true));
        let user = said("user").filter(|user| !matches!(*user, "root" | "0"));
        let mut supervisor = Supervisor {
            source,
            here,
            host: &around.hostname,
            groups,
            env: BTreeMap::new(),
            directory,
            user,
            whole: !original.included.is_empty(),
        };
        if let Some(Ok(env)) = said("environment").map(pairs) {
            let expanded = env.into_iter().filter_map(|(name, value)| Some((name, supervisor.common(&value).ok()?)));
            let expanded = expanded.collect();
            supervisor.env = expanded;
        }
        supervisor
    }

    fn section(&self, section: &Section, page: &mut Page) -> Result<(), String> {
        let (kind, name) =
            section.head.split_once(':').map_or((&*section.head, ""), |(kind, name)| (kind, name.trim()));
        match kind {
            "supervisord" => self.daemon(section, page),
            "program" => self.program(section, name, page)?,
            "fcgi-program" => {
                self.socket(section, name, page);
                self.program(section, name, page)?;
            }
            "group" => self.group(section, name, page),
            "include" => self.include(section, page),
            "eventlistener" => {
                let why = listener(section.get("command").unwrap_or_default()).unwrap_or(
                    "it speaks supervisord's protocol for events. Here `circusctl events -f --json` tells of them, \
                a hook runs at one, and a [plugin:NAME] watches",
                );
                without_equal(section, why, page);
            }
            "unix_http_server" => without_equal(
                section,
                "there is no XML-RPC. circusctl finds the agent's own control socket, which is its user's alone; \
                 `control_socket` in [circus] says where it is",
                page,
            ),
            "inet_http_server" => {
                let why = "there is no XML-RPC and no page over HTTP. `circusctl --endpoint redis://…` asks from other machines";
                without_equal(section, why, page);
            }
            "supervisorctl" => without_equal(
                section,
                "circusctl finds the agent of its machine, or the one that CIRCUSCTL_ENDPOINT names; without a command it is a shell",
                page,
            ),
            "rpcinterface" | "ctlplugin" => {
                without_equal(section, "there is no XML-RPC, and nothing to add to it", page);
            }
            _ => {
                let why = match nearest(kind, SECTIONS.iter().copied()) {
                    Some(meant) => {
                        format!("supervisord knows no such section, and passes over it. Did you mean [{meant}…]?")
                    }
                    None => "supervisord knows no such section, and passes over it".to_owned(),
                };
                without_equal(section, &why, page);
            }
        }
        Ok(())
    }

    // ---- [supervisord] ----

    fn daemon(&self, section: &Section, page: &mut Page) {
        page.section("circus", &section.above);
        for entry in &section.entries {
            let Entry { key, value, .. } = entry;
            if passed_over(entry, page) {
                continue;
            }
            let text = match self.common(value) {
                Ok(text) => text,
                Err(why) => {
                    page.note(key, value, why);
                    continue;
                }
            };
            match key.as_str() {
                "logfile" => match text.to_lowercase().as_str() {
                    "/dev/stdout" | "/dev/stderr" | "/dev/fd/1" | "/dev/fd/2" => {
                        page.set_because("logoutput", "-", "standard error");
                    }
                    "syslog" => page.set("logoutput", "syslog:///dev/log?user"),
                    "none" | "off" | "/dev/null" => {
                        page.note(key, value, "the log goes to standard error unless `logoutput` says otherwise");
                    }
                    _ => page.say("logoutput", &home(&text)),
                },
                "logfile_maxbytes" | "logfile_backups" => {
                    page.note(
                        key,
                        value,
                        "the agent's log is not rotated by itself; let logrotate(8) do it, with USR1 after it",
                    );
                }
                "loglevel" => {
                    let level = match text.to_lowercase().as_str() {
                        "critical" | "crit" => "critical",
                        "error" | "erro" => "error",
                        "warn" | "warning" => "warning",
                        "trace" | "trac" | "blather" | "blat" | "debug" | "debg" => "debug",
                        _ => "info",
                    };
                    page.set("loglevel", level);
                }
                "pidfile" => page.say("pidfile", &home(&text)),
                "umask" => page.say("umask", &text),
                "directory" if self.directory.is_some() => {
                    page.remark(key, value, "each watcher without a directory of its own has it as its working_dir");
                }
                "directory" => page.note(key, value, "with `nodaemon`, supervisord does not go there either"),
                "environment" => page.remark(key, value, "see [env]"),
                "nodaemon" => {
                    page.remark(key, value, "the agent stays in the foreground, unless it is started with --daemon");
                }
                "minfds" | "minprocs" => {
                    let limit = if key == "minfds" { "nofile" } else { "nproc" };
                    page.note(key, value, format_args!("no limit is raised by itself; `rlimit_{limit} = {text}` in a watcher sets that of its processes"));
                }
                "user" if self.user.is_some() => {
                    page.note(key, value, "the agent stays the user that starts it, see `User=` of a systemd unit; watchers run as this one, by their `uid`");
                }
                "user" => page.remark(key, value, "the agent stays the user that starts it"),
                "identifier" => page.note(key, value, "an agent is called by its `node` and `cluster` in [circus]"),
                "childlogdir" => {
                    page.note(key, value, "where AUTO is said, output is kept in memory, and not in files");
                }
                "nocleanup" => page.note(key, value, "there are no files for AUTO that would be removed"),
                "silent" => {
                    page.note(
                        key,
                        value,
                        "in the foreground the log goes to standard error, or where `logoutput` says",
                    );
                }
                "strip_ansi" => page.note(key, value, "output is kept as it is"),
                _ => unknown(key, value, DAEMON, page),
            }
        }
        let said = |key| section.get(key);
        if said("umask").is_none() && !said("nodaemon").is_some_and(is_true) {
            page.set_because("umask", "022", "supervisord's own");
        }
        if let Some(environment) = said("environment") {
            page.section("env", &[]);
            self.variables(environment, None, page);
        }
    }

    fn include(&self, section: &Section, page: &mut Page) {
        page.section("circus", &section.above);
        for entry in &section.entries {
            if passed_over(entry, page) {
                continue;
            }
            match self.common(&entry.value) {
                Ok(_) if entry.key == "files" && self.whole => {
                    page.remark(&entry.key, &entry.value, "what stands in these files stands here");
                }
                Ok(text) if entry.key == "files" => {
                    let ours = |word: &str| {
                        word.strip_suffix(".conf").map_or_else(|| word.to_owned(), |stem| format!("{stem}.ini"))
                    };
                    let files: Vec<String> = text.split_whitespace().map(ours).collect();
                    page.note(
                        &entry.key,
                        &entry.value,
                        "convert each of these files as well, into the name that is included here",
                    );
                    page.say("include", &files.join(" "));
                }
                _ => unknown(&entry.key, &entry.value, &["files"], page),
            }
        }
    }

    // ---- programs ----

    fn group(&self, section: &Section, name: &str, page: &mut Page) {
        page.apart(&section.above);
        let all = format!("[group:{name}] is a name here: `circusctl stop '{name}:*'` means all of it");
        page.comments(&[format!("; {all}")]);
        for entry in &section.entries {
            if passed_over(entry, page) {
                continue;
            }
            match entry.key.as_str() {
                "programs" => {
                    let programs =
                        self.groups.iter().filter(|group| group.name == name).flat_map(|group| &group.programs);
                    let missing = |name: &&&str| {
                        ["program", "fcgi-program"]
                            .iter()
                            .all(|kind| self.source.get(&format!("{kind}:{name}")).is_none())
                    };
                    page.remark(&entry.key, &entry.value, format_args!("watchers that begin with `{name}:`"));
                    for program in programs.filter(missing) {
                        page.tell(format_args!("there is no program `{program}` in this file"));
                    }
                }
                "priority" => page.remark(&entry.key, &entry.value, "the `priority` of each of them"),
                _ => unknown(&entry.key, &entry.value, &["programs", "priority"], page),
            }
        }
    }
}

/// What the parts of superlance are replaced with.
fn listener(command: &str) -> Option<&'static str> {
    let program = command.split_whitespace().find(|word| !word.contains("python"))?.rsplit('/').next()?;
    match program {
        "httpok" => Some("`health = http URL` in the watcher asks that URL, and restarts its process"),
        "memmon" => {
            Some("[plugin:NAME] with `use = circus.plugins.resource_watcher.ResourceWatcher` and max_mem does that")
        }
        "crashmail" | "crashmailbatch" | "fatalmailbatch" | "crashsms" => {
            Some("`hooks.after_stop` in the watcher runs a command of yours; `circusctl events -f --json` tells of all")
        }
        _ => None,
    }
}

/// Notes for all keys of a section of which nothing comes.
fn without_equal(section: &Section, why: &str, page: &mut Page) {
    page.apart(&section.above);
    page.tell(format_args!("[{}]: {why}", section.head));
    for entry in &section.entries {
        if !passed_over(entry, page) {
            page.note(&entry.key, &entry.value, "as above");
        }
    }
}

/// The comments above a key; whether another of its name counts, which is then said.
fn passed_over(entry: &Entry, page: &mut Page) -> bool {
    page.comments(&entry.above);
    if entry.overridden {
        page.note(&entry.key, &entry.value, "it is said again below, which counts");
    }
    entry.overridden
}

fn unknown(key: &str, value: &str, known: &[&str], page: &mut Page) {
    match nearest(key, known.iter().copied()) {
        Some(meant) => page.note(
            key,
            value,
            format_args!("supervisord knows no such key, and passes over it. Did you mean `{meant}`?"),
        ),
        None => page.note(key, value, "supervisord knows no such key, and passes over it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_supervisord_knows_stand_once() {
        for keys in [PROGRAM, FASTCGI, DAEMON] {
            assert!(keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key)));
        }
    }
}
