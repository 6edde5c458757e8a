//! A watcher or a socket with changed settings, and a new one: what `set`, `add`, `setsocket` and `addsocket` lead to.
//!
//! The settings of one are a small configuration of their own. They are read by the same code as a file, so
//! that whatever a file may say, a command may say too, and is refused for the same reasons.

use std::collections::BTreeMap;

use super::Surroundings;
use super::build::{build_one, build_socket, name_of};
use super::problem::{Problem, Problems, Severity, code};
use super::scan::Document;
use super::watcher::Environment;
use crate::model::event::{AmendBase, Changes, SocketBase};
use crate::model::names::SocketName;
use crate::model::spec::{Defaults, SocketSpec, WatcherSpec};

/// The keys whose effect on an environment cannot be taken back, as it is not kept what there was before.
const FIXED: [&str; 3] = ["virtualenv", "virtualenv_py_ver", "copy_path"];

/// Works out a watcher with changed settings, or a new one.
///
/// A value may hold `$(circus.env.NAME)`, from the agent's environment or the watcher's own. Fails with all that is
/// wrong, in one text. It looks at files and the user database, as reading a file does, and may therefore block.
pub fn amend(
    base: &AmendBase,
    changes: &Changes,
    defaults: &Defaults,
    around: &Surroundings,
) -> Result<WatcherSpec, String> {
    let (name, before) = match base {
        AmendBase::Watcher(spec) => (spec.name.to_string(), Some(spec)),
        AmendBase::New(name) => (name.trim().to_owned(), None),
    };
    let head = match before {
        Some(spec) if spec.legion.is_some() => format!("legion:{name}"),
        _ if name.starts_with("plugin:") => name,
        _ => format!("watcher:{name}"),
    };
    let name = name_of(&head)?;
    let mut settings = before.map(|spec| spec.settings.clone()).unwrap_or_default();
    change(&mut settings, changes);
    let env = match (&changes.env, before) {
        (Some(env), _) => Environment::Plain(env.iter().cloned().collect()),
        (None, None) => Environment::Plain(BTreeMap::new()),
        (None, Some(spec)) => {
            if let Some(key) = FIXED.iter().find(|key| settings.get(**key) != spec.settings.get(**key)) {
                return Err(format!("`{key}` cannot change without `env`: change it in the file, and reload that"));
            }
            Environment::Complete(spec.program.env.clone())
        }
    };

    let mut doc = Document::default();
    for (key, value) in &defaults.lease {
        doc.set("redis", key, (head.as_str(), key), value);
    }
    for (key, value) in &settings {
        doc.set(&head, key, (head.as_str(), key), value.trim());
    }
    let mut problems = Problems::default();
    let watcher = build_one(&doc, (&head, &name), env, defaults, around, &mut problems);
    let mut errors = errors(&problems);
    // A file may hold keys that nobody knows, for hooks and plugins; who types a new one has mistaken it.
    let had = |key: &str| before.is_some_and(|spec| spec.settings.contains_key(key));
    let free = |key: &str| {
        let named = |problem: &Problem| problem.message.starts_with(&format!("`{key}` "));
        problems.0.iter().any(|problem| problem.code == code::FREE_FORM && named(problem))
    };
    let mistaken = changes.settings.iter().filter(|(key, _)| !had(key) && free(key));
    errors.extend(mistaken.map(|(key, _)| format!("unknown key '{key}'")));
    match watcher {
        Some(watcher) if errors.is_empty() => Ok(watcher),
        _ => Err(errors.join("; ")),
    }
}

/// Works out a socket with changed settings, or a new one.
///
/// As for a watcher, a value may hold `$(circus.env.NAME)`, from the agent's environment, and it may block. Whether the
/// socket can be opened shows when it is.
pub fn amend_socket(
    base: &SocketBase,
    changes: &Changes,
    defaults: &Defaults,
    around: &Surroundings,
) -> Result<SocketSpec, String> {
    let (name, mut settings) = match base {
        SocketBase::Socket(spec) => (spec.name.clone(), spec.settings.clone()),
        SocketBase::New(name) => (SocketName::parse(name.trim()).map_err(|why| why.0)?, BTreeMap::new()),
    };
    change(&mut settings, changes);
    let head = format!("socket:{name}");
    let mut doc = Document::default();
    for (key, value) in &settings {
        doc.set(&head, key, (head.as_str(), key), value.trim());
    }
    let mut problems = Problems::default();
    let socket = build_socket(&doc, (&head, &name), defaults, around, &mut problems);
    let errors = errors(&problems);
    match socket {
        Some(socket) if errors.is_empty() => Ok(socket),
        _ => Err(errors.join("; ")),
    }
}

fn change(settings: &mut BTreeMap<String, String>, changes: &Changes) {
    for (key, value) in &changes.settings {
        match value {
            Some(value) => settings.insert(key.clone(), value.clone()),
            None => settings.remove(key),
        };
    }
}

fn errors(problems: &Problems) -> Vec<String> {
    problems.0.iter().filter(|problem| problem.severity == Severity::Error).map(told).collect()
}

/// A problem without its place.
fn told(problem: &Problem) -> String {
    let notes = problem.notes.iter().map(|note| note.strip_prefix("help: ").unwrap_or(note));
    let label = Some(problem.label.as_str()).filter(|label| !label.is_empty());
    let more: Vec<&str> = label.into_iter().chain(notes).collect();
    match more.as_slice() {
        [] => problem.message.clone(),
        more => format!("{} ({})", problem.message, more.join("; ")),
    }
}
