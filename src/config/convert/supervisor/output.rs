//! Where a program's output goes.

use super::super::page::Page;
use super::super::source::Entry;
use super::values::{bytes, home, is_true};
use super::{PROGRAM, Program, Supervisor, unknown};

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

impl Supervisor<'_> {
    /// A key of one of the two streams: the first of them says where it goes.
    pub(super) fn of_stream(
        &self,
        program: &Program<'_>,
        entry: &Entry,
        stream: &str,
        led: &mut bool,
        page: &mut Page,
    ) {
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
                page.remark(key, value, "kept in memory, and shown by `circusctl logs`");
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
    pub(super) fn stream(&self, program: &Program<'_>, stream: &str, led: &mut bool, page: &mut Page) {
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
                page.tell(format_args!("{stream} goes to the agent's stdout: to its stderr is not possible"));
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
}
