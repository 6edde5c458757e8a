//! Programs, and what they are beside: FastCGI programs with their sockets.

use super::super::page::{Page, Reader};
use super::super::source::{Entry, Section};
use super::values::{boolean, home, is_true};
use super::{FASTCGI, Group, MOST, Numbers, PROGRAM, Program, Supervisor, passed_over, unknown, without_equal};
use crate::config::words;

const ANY_CODE: &str = "here a process that ends is started again whatever its exit code; for one that is done when it ends, `respawn = False`";
const CRASHES: &str = "it counts starts that fail; one that runs and ends is tried on, ever more slowly";

impl<'a> Supervisor<'a> {
    pub(super) fn program(&self, section: &'a Section, name: &'a str, page: &mut Page) -> Result<(), String> {
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
                    page.remark(key, value, "each process has a number of its own, and is a watcher");
                }
                "numprocs" => page.set("numprocesses", text),
                "numprocs_start" if single || *numbers == Numbers::Slot => {
                    page.remark(key, value, "the number is written where it is used");
                }
                "numprocs_start" => {
                    page.note(key, value, "processes are counted from 1, and nothing here asks for their number");
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
                    page.note(key, value, "whether a process is started again does not depend on its exit code");
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
                        page.set_because("max_retry", retries.max(0) + 1, format_args!("{retries} retries; {CRASHES}"));
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

    // ---- sockets ----

    pub(super) fn socket(&self, section: &Section, name: &str, page: &mut Page) {
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
}

/// A socket's name for a program's.
fn socket_name(program: &str) -> String {
    let plain =
        |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c.to_ascii_lowercase() } else { '-' };
    program.chars().map(plain).take(64).collect()
}
