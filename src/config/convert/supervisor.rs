//! supervisord.conf → ours.
//!
//! A program becomes a watcher, a group the beginning of its watchers' names, a FastCGI program a watcher with a socket
//! as its stdin. supervisord's defaults are written out where ours are others, so that a program runs as it did. Keys
//! and values are those of supervisor 4.3.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::page::{Page, Reader};
use super::source::{Entry, Section, Source};
use super::{Included, Original};
use crate::config::keys::nearest;
use crate::config::{Surroundings, value, words};

/// What begins a comment after a blank.
const INLINE: &[char] = &[';', '#'];

/// What one program may become at most, where each of its processes has a number of its own.
const MOST: u32 = 500;

/// Keys of a program, in supervisord's order.
const PROGRAM: &[&str] = &[
    "command",
    "process_name",
    "numprocs",
    "numprocs_start",
    "priority",
    "autostart",
    "autorestart",
    "startsecs",
    "startretries",
    "exitcodes",
    "stopsignal",
    "stopwaitsecs",
    "stopasgroup",
    "killasgroup",
    "user",
    "redirect_stderr",
    "stdout_logfile",
    "stdout_logfile_maxbytes",
    "stdout_logfile_backups",
    "stdout_capture_maxbytes",
    "stdout_events_enabled",
    "stdout_syslog",
    "stderr_logfile",
    "stderr_logfile_maxbytes",
    "stderr_logfile_backups",
    "stderr_capture_maxbytes",
    "stderr_events_enabled",
    "stderr_syslog",
    "environment",
    "directory",
    "umask",
    "serverurl",
];

/// Keys that a FastCGI program has besides.
const FASTCGI: &[&str] = &["socket", "socket_backlog", "socket_owner", "socket_mode"];

/// Keys of `[supervisord]`.
const DAEMON: &[&str] = &[
    "logfile",
    "logfile_maxbytes",
    "logfile_backups",
    "loglevel",
    "pidfile",
    "umask",
    "nodaemon",
    "silent",
    "minfds",
    "minprocs",
    "nocleanup",
    "childlogdir",
    "user",
    "directory",
    "strip_ansi",
    "environment",
    "identifier",
];

const SECTIONS: &[&str] = &[
    "program",
    "group",
    "fcgi-program",
    "eventlistener",
    "supervisord",
    "supervisorctl",
    "unix_http_server",
    "inet_http_server",
    "include",
    "rpcinterface",
    "ctlplugin",
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

/// Where output goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// To a file that supervisord chooses, and removes.
    Auto,
    Nowhere,
    Syslog,
    /// Where the agent's own goes.
    Agents,
    /// To the agent's other output.
    AgentsOther,
    File(String),
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
                let why = match listener(section.get("command").unwrap_or_default()) {
                    Some(instead) => instead,
                    None => {
                        "it speaks supervisord's protocol for events. Here `circusctl events -f --json` tells of them, \
                             a hook runs at one, and a [plugin:NAME] watches"
                    }
                };
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
                without_equal(section, "there is no XML-RPC, and nothing to add to it", page)
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
                        page.set_because("logoutput", "-", "standard error")
                    }
                    "syslog" => page.set("logoutput", "syslog:///dev/log?user"),
                    "none" | "off" | "/dev/null" => {
                        page.note(key, value, "the log goes to standard error unless `logoutput` says otherwise")
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
                    page.remark(key, value, "the agent stays in the foreground, unless it is started with --daemon")
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
                    page.note(key, value, "where AUTO is said, output is kept in memory, and not in files")
                }
                "nocleanup" => page.note(key, value, "there are no files for AUTO that would be removed"),
                "silent" => {
                    page.note(key, value, "in the foreground the log goes to standard error, or where `logoutput` says")
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

    fn program(&self, section: &'a Section, name: &'a str, page: &mut Page) -> Result<(), String> {
        let group = self.groups.iter().find(|group| group.programs.contains(&name));
        let group_name = group.map_or(name, |group| group.name);
        if let Err(why) = self.command(&Program { section, name, group, numbers: Numbers::This(0) }) {
            without_equal(section, &why, page);
            return Ok(());
        }
        let one = group.map_or_else(|| name.to_owned(), |group| format!("{}:{name}", group.name));
        let first: u32 = section.get("numprocs_start").and_then(|text| text.parse().ok()).unwrap_or(0);
        let count: Option<u32> = section.get("numprocs").map_or(Some(1), |text| text.parse().ok());
        let asked = |key: &&str| section.get(key).is_some_and(|value| value.contains("%(process_num)"));
        let asking: Vec<&str> = PROGRAM.iter().copied().filter(|key| *key != "process_name").filter(asked).collect();
        let plain = section.get("command").is_some_and(|command| {
            let all = command.matches("%(process_num)").count();
            all == command.matches("%(process_num)d").count() + command.matches("%(process_num)s").count()
        });
        let numbers = match count {
            Some(1) => Numbers::This(first),
            _ if asking.is_empty() => Numbers::Unasked,
            _ if asking == ["command"] && plain && first == 1 => Numbers::Slot,
            Some(count) if count <= MOST => {
                for number in first..first + count {
                    let program = Program { section, name, group, numbers: Numbers::This(number) };
                    let process = section.get("process_name").unwrap_or("%(program_name)s_%(process_num)02d");
                    let process = self.expand(process, &program).unwrap_or_else(|_| format!("{name}_{number:02}"));
                    page.mute(number > first);
                    self.watcher(&program, &format!("{group_name}:{process}"), page);
                }
                page.mute(false);
                return Ok(());
            }
            Some(count) => {
                return Err(format!(
                    "[{}] has {count} processes, each with a number of its own: more than {MOST} watchers",
                    section.head
                ));
            }
            None => Numbers::Unasked,
        };
        self.watcher(&Program { section, name, group, numbers }, &one, page);
        Ok(())
    }

    /// Whether there is something to run; the error says why not.
    fn command(&self, program: &Program<'_>) -> Result<(), String> {
        let command = program.section.get("command").ok_or("it has no command, and supervisord refuses the file")?;
        match words::split(&self.expand(command, program)?) {
            Ok(words) if words.is_empty() => Err("its command is empty".to_owned()),
            Ok(_) => Ok(()),
            Err(_) => Err("the quotes of its command do not close, and supervisord cannot start it".to_owned()),
        }
    }

    fn watcher(&self, program: &Program<'_>, name: &str, page: &mut Page) {
        let Program { section, group, numbers, .. } = program;
        let single = matches!(numbers, Numbers::This(_));
        let redirected = section.get("redirect_stderr").is_some_and(is_true);
        let unexpected = section.get("autorestart").is_none_or(|said| said.eq_ignore_ascii_case("unexpected"));
        page.section(&format!("watcher:{name}"), &section.above);
        let mut led = [false; 2];
        for entry in &section.entries {
            let Entry { key, value, .. } = entry;
            if passed_over(entry, page) {
                continue;
            }
            if let Some((stream, at)) =
                [("stdout", 0), ("stderr", 1)].into_iter().find(|(stream, _)| key.starts_with(&format!("{stream}_")))
            {
                self.of_stream(program, entry, stream, &mut led[at], page);
                continue;
            }
            let text = match self.expand(value, program) {
                Ok(text) => text,
                Err(_) if matches!(key.as_str(), "environment" | "process_name") => value.clone(),
                Err(why) => {
                    page.note(key, value, why);
                    continue;
                }
            };
            let number: Option<i64> = text.parse().ok();
            let counted = number.is_some() || text.starts_with("$(");
            match key.as_str() {
                "numprocs" | "startsecs" | "startretries" | "stopwaitsecs" | "priority" | "numprocs_start"
                    if !counted =>
                {
                    page.note(key, value, "this is no whole number, and supervisord refuses it");
                }
                "command" => {
                    page.command("cmd", &text, Reader::Words);
                    if text.contains("SUPERVISOR_") {
                        page.tell(
                            "SUPERVISOR_PROCESS_NAME and the like are not there; CIRCUS_WATCHER and CIRCUS_WID are",
                        );
                    }
                }
                "process_name" if single && section.get("numprocs").is_none_or(|count| count.trim() == "1") => {
                    page.note(
                        key,
                        value,
                        format_args!("the watcher is called `{name}`, as it was told to supervisorctl by its program"),
                    );
                }
                "process_name" => page.remark(
                    key,
                    value,
                    "processes are told by their watcher and their number, `circusctl list NAME`",
                ),
                "numprocs" if single && number != Some(1) => {
                    page.remark(key, value, "each process has a number of its own, and is a watcher")
                }
                "numprocs" => page.set("numprocesses", text),
                "numprocs_start" if single || *numbers == Numbers::Slot => {
                    page.remark(key, value, "the number is written where it is used")
                }
                "numprocs_start" => {
                    page.note(key, value, "processes are counted from 1, and nothing here asks for their number")
                }
                "priority" => self.priority(*group, key, value, number, page),
                "autostart" => boolean(key, "autostart", &text, page),
                "autorestart" => match text.to_lowercase().as_str() {
                    "unexpected" => {
                        page.set("respawn", "True");
                        page.note(key, value, ANY_CODE);
                    }
                    _ => boolean(key, "respawn", &text, page),
                },
                "exitcodes" if !unexpected => page.remark(key, value, "of no use with this autorestart"),
                "exitcodes" => {
                    page.note(key, value, "whether a process is started again does not depend on its exit code")
                }
                "startsecs" if number == Some(0) => page.remark(key, value, "ready as soon as it runs"),
                "startsecs" => {
                    page.set("ready", format_args!("timer {text}"));
                    if number.is_some_and(|seconds| seconds >= 60) {
                        page.set("ready_timeout", number.unwrap_or(0) * 2);
                    }
                }
                "startretries" => match number {
                    Some(retries) => {
                        page.set_because("max_retry", retries.max(0) + 1, format_args!("{retries} retries; {CRASHES}"))
                    }
                    None => page.note(key, value, "`max_retry` counts the first start, too"),
                },
                "stopsignal" => page.say("stop_signal", &text),
                "stopwaitsecs" => page.set("graceful_timeout", text),
                "stopasgroup" => boolean(key, "stop_children", &text, page),
                "killasgroup" => page.remark(key, value, "whatever a process leaves behind is killed, always"),
                "user" => page.say("uid", &text),
                "redirect_stderr" if redirected => {
                    page.remark(key, value, "stderr goes where stdout goes");
                    self.stream(program, "stderr", &mut led[1], page);
                }
                "redirect_stderr" => page.remark(key, value, "stderr goes its own way"),
                "environment" => page.remark(key, value, format_args!("see [env:{name}]")),
                "directory" => page.say("working_dir", &text),
                "umask" => page.say("umask", &text),
                "serverurl" => page.note(
                    key,
                    value,
                    "SUPERVISOR_SERVER_URL is not there; CIRCUSCTL_ENDPOINT tells circusctl its agent",
                ),
                _ if FASTCGI.contains(&key.as_str()) && section.head.starts_with("fcgi-") => {
                    page.remark(key, value, format_args!("see [socket:{}]", socket_name(program.name)));
                }
                _ if section.head.starts_with("fcgi-") => unknown(key, value, &[PROGRAM, FASTCGI].concat(), page),
                _ => unknown(key, value, PROGRAM, page),
            }
        }
        self.defaults(program, led, page);
        if let Some(environment) = section.get("environment") {
            page.section(&format!("env:{name}"), &[]);
            self.variables(environment, Some(program), page);
        }
    }

    /// What supervisord does unless told otherwise, and we would not.
    fn defaults(&self, program: &Program<'_>, led: [bool; 2], page: &mut Page) {
        let Program { section, group, .. } = program;
        page.comments(&["; supervisord's defaults".to_owned()]);
        page.set("copy_env", "True");
        if section.head.starts_with("fcgi-") {
            page.set("stdin_socket", socket_name(program.name));
        }
        if let (None, Some(directory)) = (section.get("directory"), self.directory) {
            match self.common(directory) {
                Ok(directory) => page.say("working_dir", &home(&directory)),
                Err(why) => page.note("directory", directory, why),
            }
        }
        if let (None, Some(user)) = (section.get("user"), self.user) {
            match self.common(user) {
                Ok(user) => page.say("uid", &user),
                Err(why) => page.note("user", user, why),
            }
        }
        if let (None, Some(Group { name, priority, .. })) =
            (section.get("priority"), group.filter(|group| group.priority != 999))
        {
            page.set_because("priority", 999 - priority, format_args!("{priority} in [group:{name}]"));
        }
        if section.get("autorestart").is_none() {
            page.tell(format_args!("autorestart is `unexpected` by default: {ANY_CODE}"));
        }
        if section.get("startsecs").is_none() {
            page.set("ready", "timer 1");
        }
        if section.get("startretries").is_none() {
            page.set("max_retry", 4);
        }
        if section.get("stopwaitsecs").is_none() {
            page.set("graceful_timeout", 10);
        }
        for (stream, mut led) in ["stdout", "stderr"].into_iter().zip(led) {
            self.stream(program, stream, &mut led, page);
        }
    }

    fn priority(&self, group: Option<&Group<'_>>, key: &str, value: &str, number: Option<i64>, page: &mut Page) {
        let Some(group) = group else {
            match number {
                Some(number) => page.set_because(
                    "priority",
                    999_i64.saturating_sub(number),
                    format_args!("{value} in supervisord, where the lowest starts first"),
                ),
                None => page.note(key, value, "here the highest starts first"),
            }
            return;
        };
        let of = |program: &&str| {
            let kinds = ["program", "fcgi-program"].map(|kind| self.source.get(&format!("{kind}:{program}")));
            kinds.into_iter().flatten().next().and_then(|section| section.get("priority")).unwrap_or("999").to_owned()
        };
        page.set_because(
            "priority",
            999 - group.priority,
            format_args!("{} in [group:{}]", group.priority, group.name),
        );
        let why = "supervisord orders by groups, and by this within them";
        match group.programs.iter().all(|program| of(program) == value) {
            true => page.remark(key, value, why),
            false => page.note(key, value, format_args!("{why}; write numbers that differ, or `after = NAME`")),
        }
    }

    // ---- output ----

    /// A key of one of the two streams: the first of them says where it goes.
    fn of_stream(&self, program: &Program<'_>, entry: &Entry, stream: &str, led: &mut bool, page: &mut Page) {
        let Entry { key, value, .. } = entry;
        let redirected = stream == "stderr" && program.section.get("redirect_stderr").is_some_and(is_true);
        let option = key[stream.len() + 1..].to_owned();
        match option.as_str() {
            "capture_maxbytes" => {
                return page.note(
                    key,
                    value,
                    "nothing is cut out of output; a process tells of itself with `circusctl publish NAME TOPIC`",
                );
            }
            "events_enabled" => return page.note(key, value, "`circusctl logs -f --json` follows output"),
            "logfile" | "logfile_maxbytes" | "logfile_backups" | "syslog" if redirected => {
                return page.remark(key, value, "of no effect with redirect_stderr, there as here");
            }
            "logfile" | "logfile_maxbytes" | "logfile_backups" | "syslog" => {}
            _ => return unknown(key, value, PROGRAM, page),
        }
        self.stream(program, stream, led, page);
        let place = self.place(program, stream);
        match option.as_str() {
            "logfile" if place == Ok(Place::Auto) => {
                page.remark(key, value, "kept in memory, and shown by `circusctl logs`")
            }
            "logfile" if place == Ok(Place::Agents) => page.remark(key, value, "the agent's own"),
            "logfile" if place == Ok(Place::Syslog) && !value.eq_ignore_ascii_case("syslog") => {
                page.note(key, value, "supervisord writes to both; here it goes to syslog alone");
            }
            "logfile" if place == Ok(Place::Syslog) => page.remark(key, value, "to syslog"),
            "syslog" if place != Ok(Place::Syslog) => page.remark(key, value, "not to syslog"),
            "logfile_maxbytes" | "logfile_backups" => {
                let grows = program.section.get(&format!("{stream}_logfile_maxbytes")).and_then(bytes) == Some(0);
                if !matches!(place, Ok(Place::File(_))) || (grows && option == "logfile_backups") {
                    page.remark(key, value, "of no use there, nor here");
                }
            }
            _ => {}
        }
    }

    /// Where a stream goes.
    fn place(&self, program: &Program<'_>, stream: &str) -> Result<Place, String> {
        let section = program.section;
        let redirected = stream == "stderr" && section.get("redirect_stderr").is_some_and(is_true);
        let of = if redirected { "stdout" } else { stream };
        let Some(logfile) = section.get(&format!("{of}_logfile")) else {
            let syslog = section.get(&format!("{of}_syslog")).is_some_and(is_true);
            return Ok(if syslog { Place::Syslog } else { Place::Auto });
        };
        if section.get(&format!("{of}_syslog")).is_some_and(is_true) {
            return Ok(Place::Syslog);
        }
        let path = home(&self.expand(logfile, program)?);
        Ok(match (path.to_lowercase().as_str(), stream) {
            ("none" | "off" | "/dev/null", _) => Place::Nowhere,
            ("auto", _) => Place::Auto,
            ("syslog", _) => Place::Syslog,
            ("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1", "stdout") => Place::Agents,
            ("/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2", "stderr") => Place::Agents,
            ("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" | "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2", _) => {
                Place::AgentsOther
            }
            _ => Place::File(path),
        })
    }

    /// Says where a stream goes, once.
    fn stream(&self, program: &Program<'_>, stream: &str, led: &mut bool, page: &mut Page) {
        if std::mem::replace(led, true) {
            return;
        }
        let class = format!("{stream}_stream.class");
        let section = program.section;
        match self.place(program, stream) {
            Err(why) => page.note(
                &format!("{stream}_logfile"),
                section.get(&format!("{stream}_logfile")).unwrap_or_default(),
                why,
            ),
            Ok(Place::Auto) => page.set(&class, "QueueStream"),
            Ok(Place::Nowhere) => page.set(&format!("close_child_{stream}"), "True"),
            Ok(Place::Syslog) => page.set(&class, "SyslogStream"),
            Ok(Place::Agents) => {}
            Ok(Place::AgentsOther) if stream == "stderr" => page.set(&class, "StdoutStream"),
            Ok(Place::AgentsOther) => {
                page.tell(format_args!("{stream} goes to the agent's stdout: to its stderr is not possible"))
            }
            Ok(Place::File(path)) => {
                page.say(&format!("{stream}_stream.filename"), &path);
                let redirected = stream == "stderr" && section.get("redirect_stderr").is_some_and(is_true);
                let of = if redirected { "stdout" } else { stream };
                let said = |option: &str, default| section.get(&format!("{of}_logfile_{option}")).unwrap_or(default);
                let most = said("maxbytes", "50MB");
                match bytes(most) {
                    Some(0) => page.set(&format!("{stream}_stream.max_bytes"), 0),
                    Some(_) => {
                        page.set(&format!("{stream}_stream.max_bytes"), most);
                        page.set(&format!("{stream}_stream.backup_count"), said("backups", "10"));
                    }
                    None => page.note(
                        &format!("{stream}_logfile_maxbytes"),
                        most,
                        "this is no number of bytes, and supervisord refuses it",
                    ),
                }
            }
        }
    }

    // ---- sockets ----

    fn socket(&self, section: &Section, name: &str, page: &mut Page) {
        let program = Program { section, name, group: None, numbers: Numbers::Unasked };
        page.section(&format!("socket:{}", socket_name(name)), &[]);
        let place = self.expand(section.get("socket").unwrap_or_default(), &program).unwrap_or_default();
        if let Some(path) = place.strip_prefix("unix://") {
            page.say("path", path);
            let mode =
                section.get("socket_mode").and_then(|mode| u32::from_str_radix(mode.trim_start_matches("0o"), 8).ok());
            page.set_because(
                "umask",
                format_args!("0o{:03o}", !mode.unwrap_or(0o700) & 0o777),
                format_args!("mode {:04o}", mode.unwrap_or(0o700)),
            );
            if let Some(owner) = section.get("socket_owner").or(section.get("user")) {
                page.say("owner", owner);
            }
        } else if let Some((host, port)) = place.strip_prefix("tcp://").and_then(|place| place.rsplit_once(':')) {
            page.say("host", host);
            page.say("port", port);
        } else {
            page.note("socket", &place, "supervisord takes unix:///PATH or tcp://HOST:PORT");
        }
        if let Some(backlog) = section.get("socket_backlog") {
            page.say("backlog", backlog);
        }
        page.set_because("blocking", "True", "as FastCGI programs expect it");
    }

    // ---- values ----

    /// The variables of an `environment`.
    fn variables(&self, text: &str, program: Option<&Program<'_>>, page: &mut Page) {
        let pairs = match pairs(text) {
            Ok(pairs) => pairs,
            Err(why) => return page.note("environment", text, why),
        };
        for (name, value) in pairs {
            let fixed = |name: &str, form: &str| match program {
                Some(program) => self.stand(name, form, program),
                None => self.stand_common(name),
            };
            // In [env] our own variables are replaced, in [env:NAME] only `$NAME` is.
            let meant = expand(&value, &|name, form| {
                fixed(name, form).or_else(|_| match program {
                    None => Ok(format!("$(circus.env.{})", from_env(name)?)),
                    Some(_) => self.in_env(from_env(name)?, &value),
                })
            });
            let literal =
                expand(&value, &|name, form| fixed(name, form).or_else(|_| from_env(name).map(str::to_lowercase)));
            match (meant, literal) {
                (Ok(meant), Ok(literal)) if crate::config::vars::dollars(&literal).is_empty() => {
                    page.variable_of_agent(&name, &meant)
                }
                (Ok(meant), Ok(_)) => page.variable(&name, &meant),
                (Err(why), _) | (_, Err(why)) => page.note(&name, "***", why),
            }
        }
    }

    /// What stands for `%(ENV_NAME)s` in a value of `[env:…]`: what is known of it, or `$NAME`.
    fn in_env(&self, name: &str, value: &str) -> Result<String, String> {
        if let Some(known) = self.env.get(name) {
            return Ok(known.clone());
        }
        let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        // What follows must not go on with the name.
        let glued = value.split(&format!("%(ENV_{name})s")).skip(1).any(|rest| rest.starts_with(capital));
        match name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(capital) && !glued {
            true => Ok(format!("${name}")),
            false => {
                Err(format!("`%(ENV_{name})s` cannot stand in an [env:NAME] section; [env] takes $(circus.env.{name})"))
            }
        }
    }

    /// A value with all of `%(…)s` filled in. Nothing of it is a process's number.
    fn common(&self, text: &str) -> Result<String, String> {
        expand(text, &|name, _| self.stand_common(name).or_else(|_| Ok(format!("$(circus.env.{})", from_env(name)?))))
    }

    fn expand(&self, text: &str, program: &Program<'_>) -> Result<String, String> {
        expand(text, &|name, form| {
            self.stand(name, form, program).or_else(|why| match from_env(name) {
                Ok(name) => Ok(format!("$(circus.env.{name})")),
                Err(_) => Err(why),
            })
        })
    }

    fn stand_common(&self, name: &str) -> Result<String, String> {
        match name {
            "here" => Ok(self.here.clone()),
            "host_node_name" => Ok(self.host.to_owned()),
            _ => Err(format!("`%({name})s` stands for nothing")),
        }
    }

    /// What `%(NAME)s` stands for, the environment left out.
    fn stand(&self, name: &str, form: &str, program: &Program<'_>) -> Result<String, String> {
        match (name, program.numbers) {
            ("program_name", _) => Ok(program.name.to_owned()),
            ("group_name", _) => Ok(program.group.map_or(program.name, |group| group.name).to_owned()),
            ("numprocs", _) => Ok(program.section.get("numprocs").unwrap_or("1").to_owned()),
            ("process_num", Numbers::This(number)) => {
                let width = form.trim_end_matches(['d', 's']);
                Ok(match width.strip_prefix('0').unwrap_or(width).parse::<usize>() {
                    Ok(wide) if width.starts_with('0') => format!("{number:0wide$}"),
                    Ok(wide) => format!("{number:wide$}"),
                    Err(_) => number.to_string(),
                })
            }
            ("process_num", Numbers::Slot) => Ok("$(circus.wid)".to_owned()),
            ("process_num", Numbers::Unasked) => {
                Err("how many processes there are is not known here, nor which number each has".to_owned())
            }
            _ => self.stand_common(name),
        }
    }
}

const ANY_CODE: &str = "here a process that ends is started again whatever its exit code; for one that is done when it ends, `respawn = False`";
const CRASHES: &str = "it counts starts that fail; one that runs and ends is tried on, ever more slowly";

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

fn is_true(text: &str) -> bool {
    value::boolean(text.trim()) == Ok(true)
}

/// A yes or no under another name.
fn boolean(key: &str, ours: &str, text: &str, page: &mut Page) {
    match value::boolean(text) {
        Ok(true) => page.set(ours, "True"),
        Ok(false) => page.set(ours, "False"),
        Err(_) if text.starts_with("$(") => page.set(ours, text),
        Err(_) => page.note(key, text, "this is neither yes nor no, and supervisord refuses it"),
    }
}

/// `~` is the home of whoever starts it.
fn home(path: &str) -> String {
    match path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(rest) => format!("$(circus.env.HOME){rest}"),
        None => path.to_owned(),
    }
}

/// A socket's name for a program's.
fn socket_name(program: &str) -> String {
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c.to_ascii_lowercase() } else { '-' };
    program.chars().map(plain).take(64).collect()
}

/// `50MB` and the like, in bytes.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let unit = [("kb", 10), ("mb", 20), ("gb", 30)]
        .into_iter()
        .find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = unit.unwrap_or((&text, 0));
    number.trim().parse::<u64>().ok()?.checked_mul(1 << bits)
}

/// The variable that `ENV_NAME` names.
fn from_env(name: &str) -> Result<&str, String> {
    name.strip_prefix("ENV_").ok_or_else(|| format!("`%({name})s` stands for nothing"))
}

/// Fills in `%(NAME)s` as Python does; `stand` gets the name, and the form that follows it: `s`, `d`, `02d`.
fn expand(text: &str, stand: &dyn Fn(&str, &str) -> Result<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let broken = || "a `%` alone is written `%%` there, and supervisord refuses the file".to_owned();
        let (name, after) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(broken)?;
        let end = after.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(broken)? + 1;
        out.push_str(&stand(name, &after[..end])?);
        rest = &after[end..];
    }
    Ok(out + rest)
}

/// `KEY=value,KEY2="a, b"` as Python's shlex and supervisord take it apart.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let word =
        |c: char| c.is_ascii_alphanumeric() || "_/.+-():%".contains(c) || matches!(c, '\'' | '"') || !c.is_ascii();
    let mut tokens: Vec<&str> = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
                continue;
            }
            '\'' | '"' => {
                rest[1..].find(first).map(|at| at + 2).ok_or("a quote does not close, and supervisord refuses it")?
            }
            c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
        .chunks(4)
        .map(|chunk| match chunk {
            [key, "=", value, ..] => Ok(((*key).to_owned(), value.trim_matches(['\'', '"']).to_owned())),
            _ => Err("these are no pairs of KEY=\"value\", and supervisord refuses them".to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_taken_apart_as_supervisord_does() {
        let read = |text: &str| {
            pairs(text).map(|pairs| {
                pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("|")
            })
        };
        let table = [
            ("A=1,B=\"x, y\"", Ok("A=1|B=x, y")),
            ("A='it',\n  B=/a/b:c,", Ok("A=it|B=/a/b:c")),
            ("", Ok("")),
            ("A=%(ENV_X)s", Ok("A=%(ENV_X)s")),
        ];
        for (text, expected) in table {
            assert_eq!(read(text).as_deref(), expected.map_err(|why: &str| why), "{text}");
        }
        assert!(read("A").is_err() && read("A=\"x").is_err());
    }

    #[test]
    fn pythons_forms_are_filled_in() {
        let stand = |name: &str, form: &str| if name == "n" { Ok(format!("<{form}>")) } else { Err(name.to_owned()) };
        assert_eq!(expand("a%%%(n)02d-%(n)s", &stand), Ok("a%<02d>-<s>".into()));
        assert_eq!(expand("%(x)s", &stand), Err("x".into()));
        assert!(expand("50%", &stand).is_err() && expand("%(n", &stand).is_err());
    }

    #[test]
    fn keys_that_supervisord_knows_stand_once() {
        for keys in [PROGRAM, FASTCGI, DAEMON] {
            assert!(keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key)));
        }
        assert_eq!(
            [bytes("50MB"), bytes("1k"), bytes("0"), bytes("2gb")],
            [Some(50 << 20), None, Some(0), Some(2 << 30)]
        );
    }
}
