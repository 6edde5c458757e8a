//! uWSGI's ini → ours: what is about legions becomes sections, as our reader would take it; all else goes to uWSGI, which
//! is a watcher.
//!
//! Its own options stand in that watcher's command line, each on a line of its own as `--set OPTION=VALUE`, which is what
//! a line of an ini file is to uWSGI. So the one file holds all, and no uWSGI contends for a legion beside the agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Original;
use super::judge::said;
use super::page::{Page, Reader};
use crate::config::Surroundings;
use crate::config::keys;
use crate::config::problem::{Problem, Problems};
use crate::config::scan::Document;
use crate::config::uwsgi::{LEGION, UWSGI, translate};
use crate::config::value;

/// The section of the watcher that runs uWSGI.
const SERVER: &str = "watcher:uwsgi";

/// What is in the names of options that give uWSGI something to do; without any, and without legions, it ends at once.
const WORK: &[&str] = &["socket", "http", "router", "emperor", "cron", "daemon", "spool", "zerg", "udp", "-server"];

/// Lets TERM end uWSGI when its requests are done.
const GRACE: &str = "gracefully_kill_them_all";

/// Writes what uWSGI's ini says.
///
/// # Errors
/// There is nothing in it.
pub(super) fn convert(original: &Original<'_>, around: &Surroundings, page: &mut Page) -> Result<(), String> {
    let text = original.text.strip_prefix('\u{feff}').unwrap_or(original.text);
    let (own, others) = sections(text);
    let (mut doc, mut problems) = (Document::default(), Problems::default());
    doc.scan(&PathBuf::from(original.name), &own, &mut problems);
    let shown: BTreeMap<usize, String> =
        doc.uwsgi.iter().map(|said| said.option_spot()).map(|spot| (spot.line, spot.text)).collect();
    if shown.is_empty() {
        return Err("[uwsgi] is empty".into());
    }
    let servers = translate(&mut doc, around, &mut problems);
    let option = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let own_options =
        (1..).zip(own.lines()).filter(|(number, _)| servers.contains(number)).map(|(_, line)| option(line));
    let legions = doc.sections().iter().any(|head| head.starts_with(LEGION));
    let runs = !servers.is_empty()
        && (!legions || own_options.into_iter().any(|option| WORK.iter().any(|work| option.contains(work))));
    let file = File { doc: &doc, problems: &problems.0, servers: &servers, runs, magic: Magic::of(original, around) };
    if legions {
        page.tell(
            "members of legions meet in Redis: write a section [redis] with `url = redis://HOST:6379/0`. Without one they \
             are the agents of this machine",
        );
    }
    let mut above = Vec::new();
    for (number, line) in (1..).zip(own.lines()) {
        let bare = line.trim();
        if bare.starts_with([';', '#']) {
            above.push(bare.to_owned());
        } else if let Some(shown) = shown.get(&number) {
            file.line((number, bare, shown), &std::mem::take(&mut above), page);
        }
    }
    if runs {
        file.server(&own, page);
    }
    page.apart(&above);
    for line in others {
        page.tell(format_args!("{line}: only the section [uwsgi] is read; `uwsgi --ini FILE:NAME` reads another"));
    }
    Ok(())
}

/// The text with nothing but [uwsgi] in it, each line where it was, and the lines of other sections.
fn sections(text: &str) -> (String, Vec<&str>) {
    let (mut own, mut others) = (String::new(), Vec::new());
    let mut inside = false;
    for line in text.lines() {
        if let Some(head) = line.trim_end().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = head == UWSGI;
        }
        if inside {
            own.push_str(line);
        } else if !line.trim().is_empty() && !line.trim_start().starts_with([';', '#']) {
            others.push(line.trim());
        }
        own.push('\n');
    }
    (own, others)
}

/// What is known of the file.
struct File<'a> {
    doc: &'a Document,
    problems: &'a [Problem],
    /// The lines that are uWSGI's own.
    servers: &'a [usize],
    /// Whether uWSGI has anything to do besides its legions.
    runs: bool,
    magic: Magic,
}

impl File<'_> {
    fn line(&self, (number, line, shown): (usize, &str, &str), above: &[String], page: &mut Page) {
        if self.servers.contains(&number) {
            return self.option(line, above, page);
        }
        let problems: Vec<&Problem> = self.problems.iter().filter(|problem| problem.line == number).collect();
        let mut found = false;
        for head in self.doc.sections() {
            if self.doc.head(head).is_some_and(|spot| spot.line == number) {
                page.section(head, if found { &[] } else { above });
                found = true;
            }
            for entry in self.doc.entries(head).filter(|entry| entry.key_spot().line == number) {
                page.section(head, if found { &[] } else { above });
                found = true;
                match keys::is_list(head, entry.key) {
                    true => entry.value.lines().for_each(|action| page.command(entry.key, action, Reader::Shell)),
                    false if entry.key == "cmd" => page.command("cmd", entry.value, Reader::Shell),
                    false => page.say(entry.key, entry.value),
                }
            }
        }
        if !found {
            page.comments(above);
        }
        match problems.is_empty() {
            true if !found => page.comments(&[format!("; {shown}: told with what stands above")]),
            true => {}
            false => problems.iter().for_each(|problem| page.tell(format_args!("{shown}: {}", said(problem)))),
        }
    }

    // ---- uWSGI itself ----

    /// An option of uWSGI's own.
    fn option(&self, line: &str, above: &[String], page: &mut Page) {
        let (option, value) = line.split_once('=').map_or((line, ""), |(option, value)| (option.trim(), value.trim()));
        if !self.runs {
            page.comments(above);
            return page.note(
                option,
                value,
                "uWSGI has nothing to do but its legions, which are ours now, and is not run",
            );
        }
        page.section(SERVER, &[]);
        if page.is_empty() {
            page.comments(&[
                "; uWSGI itself: `--set OPTION=VALUE` is what a line of its file is to it".to_owned(),
                "cmd = uwsgi".to_owned(),
            ]);
        }
        page.comments(above);
        if matches!(option, "daemonize" | "daemonize2") {
            return page.note(
                option,
                value,
                "the agent needs it in the foreground; its output goes to that file all the same",
            );
        }
        let value = match self.magic.filled(value) {
            Ok(value) => value,
            Err(variable) => {
                page.tell(format_args!(
                    "{option} = {value}: uWSGI fills in `{variable}` in its own files only; write what it stands for"
                ));
                value.to_owned()
            }
        };
        page.comments(&[format!("  --set {}", quoted(&format!("{option}={value}")))]);
    }

    /// The rest of its watcher.
    fn server(&self, text: &str, page: &mut Page) {
        page.section(SERVER, &[]);
        let said = |wanted: &str| {
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with([';', '#']));
            lines
                .filter_map(|line| line.split_once('='))
                .filter(|(option, _)| option.trim() == wanted)
                .map(|(_, value)| value.trim().to_owned())
                .next_back()
        };
        let master = said("master").is_some_and(|value| value::boolean(&value) != Ok(false));
        if master && !text.contains(GRACE) {
            page.comments(&[format!("  --hook-master-start 'unix_signal:15 {GRACE}'")]);
        }
        match master {
            true => page.set_because("stop_preset", "uwsgi", "it ends when its requests are done"),
            false => page.set_because("stop_signal", "INT", "without a master, it drops them"),
        }
        page.set("copy_env", "True");
        if let Some(here) = &self.magic.here {
            page.say("working_dir", here);
        }
        if let Some(log) = said("daemonize").or(said("daemonize2")) {
            for stream in ["stdout", "stderr"] {
                page.say(&format!("{stream}_stream.filename"), &log);
            }
        }
    }
}

/// What uWSGI fills in while it reads a file, and not in a command line.
struct Magic {
    here: Option<String>,
    name: String,
    host: String,
}

impl Magic {
    fn of(original: &Original<'_>, around: &Surroundings) -> Magic {
        Magic {
            here: original.here.map(|here| here.display().to_string()),
            name: original.name.rsplit('/').next().unwrap_or_default().to_owned(),
            host: around.hostname.clone(),
        }
    }

    /// The value, or the first variable in it that is not known here.
    fn filled(&self, value: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match (chars.next(), &self.here) {
                (Some('%'), _) => out.push('%'),
                (Some('d'), Some(here)) => out.push_str(&format!("{here}/")),
                (Some('p'), Some(here)) => out.push_str(&format!("{here}/{}", self.name)),
                (Some('c'), Some(here)) => out.push_str(here.rsplit('/').next().unwrap_or_default()),
                (Some('s'), Some(_)) => out.push_str(&self.name),
                (Some('n'), Some(_)) => out.push_str(self.name.rsplit_once('.').map_or(&self.name, |(stem, _)| stem)),
                (Some('h'), _) => out.push_str(&self.host),
                (Some(other), _) if other.is_ascii_alphanumeric() => return Err(format!("%{other}")),
                (other, _) => out.extend(['%'].into_iter().chain(other)),
            }
        }
        Ok(out)
    }
}

/// One word of a command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "=/.:,-_+@%()$&?!*[]{}<>~^|#".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::words;

    #[test]
    fn what_uwsgi_fills_in_while_it_reads_a_file_is_filled_in() {
        let magic = Magic { here: Some("/srv/app".into()), name: "prod.ini".into(), host: "web-1".into() };
        let table = [
            ("%d%n.sock", Ok("/srv/app/prod.sock")),
            ("%(port) 5% %%Y", Ok("%(port) 5% %Y")),
            ("%c %s %p %h", Ok("app prod.ini /srv/app/prod.ini web-1")),
            ("%k", Err("%k")),
        ];
        for (value, expected) in table {
            assert_eq!(magic.filled(value).as_deref().map_err(String::as_str), expected, "{value}");
        }
    }

    #[test]
    fn each_option_is_one_word() {
        for word in ["a=b", "a=it's; $(X) \"y\"", "cron=0 -1 -1 -1 -1 x", "route=^/a(.*)$ log:x"] {
            assert_eq!(words::split(&quoted(word)).as_deref(), Ok(&[word.to_owned()][..]), "{word}");
        }
    }
}
