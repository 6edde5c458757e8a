//! BeatCop's ini → ours: a watcher that is a singleton.

use super::Original;
use super::page::{Page, Reader};
use super::source::{Entry, Section, Source};
use crate::config::beatcop::{At, url};
use crate::config::keys::nearest;
use crate::config::percent;
use crate::config::shell::{self, Line};
use crate::config::value;

/// The name of the watcher.
const NAME: &str = "beatcop";

const REDIS: &[&str] = &["host", "port", "database", "password", "startup_nodes"];
const BEATCOP: &[&str] = &["timeout", "command", "shell", "lockname"];

/// Writes what BeatCop's ini says.
///
/// # Errors
/// BeatCop could not read the file either.
pub(super) fn convert(original: &Original<'_>, page: &mut Page) -> Result<(), String> {
    let source = Source::read(original.text, &[';'])?;
    for section in &source.sections {
        match section.head.as_str() {
            "redis" => redis(section, page),
            "beatcop" => beatcop(section, page)?,
            head => {
                page.apart(&section.above);
                page.tell(format_args!("[{head}]: BeatCop knows no such section, and passes over it"));
                for Entry { key, value, above, .. } in &section.entries {
                    page.comments(above);
                    page.note(key, value, "as above");
                }
            }
        }
    }
    page.apart(&source.end);
    Ok(())
}

/// A value with Python's `%%` and `%(KEY)s` filled in.
fn filled(section: &Section, value: &str, depth: u8) -> Result<String, String> {
    percent::filled(value, |reference| {
        let broken = || "a `%` alone is written `%%` there, and BeatCop refuses the file".to_owned();
        let (name, after) = percent::text_key(reference).ok_or_else(broken)?;
        let value = section.get(&name.to_lowercase()).filter(|_| depth < 10).ok_or_else(broken)?;
        Ok((filled(section, value, depth + 1)?, after))
    })
}

/// Whether a key is done with: its comments are written, and what is wrong with it.
fn told(entry: &Entry, known: &[&str], page: &mut Page) -> bool {
    let Entry { key, value, above, overridden } = entry;
    page.comments(above);
    if *overridden {
        page.note(key, value, "it is said again below, which counts");
    } else if !known.contains(&key.as_str()) {
        match nearest(key, known.iter().copied()) {
            Some(meant) => page.note(
                key,
                value,
                format_args!("BeatCop knows no such key, and passes over it. Did you mean `{meant}`?"),
            ),
            None => page.note(key, value, "BeatCop knows no such key, and passes over it"),
        }
    } else {
        return false;
    }
    true
}

// ---- [redis] ----

fn redis(section: &Section, page: &mut Page) {
    page.section("redis", &section.above);
    let said = |key: &str| {
        section.get(key).map(|value| filled(section, value, 0).unwrap_or_default()).filter(|value| !value.is_empty())
    };
    let (nodes, host) = (said("startup_nodes"), said("host"));
    let port = said("port").unwrap_or_else(|| "6379".to_owned());
    let database = said("database").unwrap_or_else(|| "0".to_owned());
    let at = match (&nodes, &host) {
        (Some(nodes), None) => Some(At::Nodes(nodes)),
        (None, Some(host)) => Some(At::Host { host, port: &port, database: &database }),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let url = at.map(|at| url(&at, said("password").as_deref()));
    let (cluster, socket) = (nodes.is_some(), host.is_some_and(|host| host.contains('/')));
    let mut led = false;
    for entry in &section.entries {
        let Entry { key, value, .. } = entry;
        if told(entry, REDIS, page) {
            continue;
        }
        match key.as_str() {
            "host" | "startup_nodes" if url.is_none() => page.note(
                key,
                value,
                "BeatCop wants either `host` or `startup_nodes`, and ends where both or none are there",
            ),
            "host" | "startup_nodes" if !std::mem::replace(&mut led, true) => {
                page.say("url", url.as_deref().unwrap_or_default());
            }
            "port" if socket || cluster => page.remark(key, value, "of no use there, nor here"),
            "database" if cluster => page.note(key, value, "a Redis Cluster has one database only"),
            "password" => page.remark(key, value, "part of the url; `password_file` keeps it out of this file"),
            _ => page.remark(key, value, "part of the url"),
        }
    }
    if url.is_none() {
        page.set_because("url", "redis://localhost:6379/0", "write where it is");
    }
}

// ---- [beatcop] ----

fn beatcop(section: &Section, page: &mut Page) -> Result<(), String> {
    page.section(&format!("watcher:{NAME}"), &section.above);
    let command = section.get("command").ok_or("[beatcop] has no `command`, and BeatCop ends without one")?;
    let command = filled(section, command, 0)?;
    let shell = section.get("shell").is_some_and(|text| value::boolean(text.trim()) == Ok(true));
    for entry in &section.entries {
        let Entry { key, value, .. } = entry;
        if told(entry, BEATCOP, page) {
            continue;
        }
        let text = match filled(section, value, 0) {
            Ok(text) => text,
            Err(why) => {
                page.note(key, value, why);
                continue;
            }
        };
        match key.as_str() {
            "command" if shell => match shell::look(&text) {
                Line::Simple(at) => page.command("cmd", &shell::with_exec(&text, at), Reader::Shell),
                Line::Exec | Line::Other => page.command("cmd", &text, Reader::Shell),
            },
            "command" => page.command("cmd", &text, Reader::Words),
            "shell" if shell => page.set("shell", "True"),
            "shell" => page.remark(key, value, "without a shell"),
            "timeout" => match text.parse::<u64>() {
                Ok(time) => page.set_because(
                    "lease_ttl",
                    format_args!("{time}ms"),
                    "refreshed each third of it, as BeatCop does",
                ),
                Err(_) => page.note(key, value, "this is no whole number of milliseconds, and BeatCop refuses it"),
            },
            _ => {
                if text.is_empty() {
                    page.remark(key, "", "empty, and so BeatCop makes one");
                }
                lock(&text, &command, page);
            }
        }
    }
    if section.get("lockname").is_none() {
        lock("", &command, page);
    }
    page.set("singleton", "True");
    page.set("copy_env", "True");
    page.tell("BeatCop ends when its child does; here the child is started again, and another node tries when it will not run");
    Ok(())
}

/// The lock: the lease is that very key, so that agents and BeatCops take it in turn.
fn lock(name: &str, command: &str, page: &mut Page) {
    let name = if name.is_empty() { format!("{NAME}:{command}") } else { name.to_owned() };
    page.say("lease_key", &name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_interpolation_is_filled_in() {
        let source = Source::read("[beatcop]\na = 50%%\nb = %(A)s x\nc = %\nd = %(d)s\n", &[';']).expect("a file");
        let section = &source.sections[0];
        assert_eq!(filled(section, "%(b)s", 0).as_deref(), Ok("50% x"));
        for broken in ["c", "d"] {
            assert!(filled(section, section.get(broken).expect("it"), 0).is_err(), "{broken}");
        }
    }
}
