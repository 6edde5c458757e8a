//! BeatCop's ini → sections of ours: `[beatcop]` is a singleton whose lease is its lock, under the same key, and what
//! `[redis]` says of the server is its URL.
//!
//! Both sections are read as Python 2's ConfigParser reads them: keys in any case, `[DEFAULT]` below them, `%(key)s` for the
//! value of another key and `%%` for a `%`. What is wrong is shown where it stands in the file. A section
//! `[watcher:LOCKNAME]` in the same file may say more of the singleton, in our words.

use std::fmt::Display;
use std::time::Duration;

use super::keys::nearest;
use super::percent;
use super::problem::{Problems, Spot, code};
use super::scan::{Document, Taken};
use super::shell;
use super::value::boolean;
use crate::model::names::{LeaseKey, WatcherName};
use crate::model::spec::LeaseTimings;

/// The head of the section.
pub(super) const BEATCOP: &str = "beatcop";

const KEYS: [&str; 4] = ["timeout", "lockname", "command", "shell"];

/// What BeatCop reads of `[redis]`; other keys there are ours.
const SERVER: [&str; 5] = ["host", "port", "database", "password", "startup_nodes"];

/// How far a value may stand for others, as in Python.
const DEPTH: usize = 10;

/// Puts a watcher in the place of `[beatcop]`, and a URL in that of BeatCop's server.
pub(super) fn translate(doc: &mut Document, problems: &mut Problems) {
    let Some(head) = doc.head(BEATCOP).cloned() else { return };
    let defaults = lower(doc.copied("DEFAULT"));
    let beatcop = Section { head, own: lower(doc.taken(BEATCOP)), defaults: &defaults };
    let head = doc.head("redis").unwrap_or(&beatcop.head).clone();
    let redis = Section { head, own: lower(doc.copied("redis")), defaults: &defaults };
    beatcop.check_keys(problems);
    for key in redis.own.iter().filter(|taken| SERVER.contains(&&*taken.key) || redis.refers_to(&taken.key)) {
        doc.forget("redis", &key.written);
    }
    server(&redis, doc, problems);
    singleton(&beatcop, doc, problems);
}

/// Keys as BeatCop knows them.
fn lower(mut section: Vec<Taken>) -> Vec<Taken> {
    section.iter_mut().for_each(|taken| taken.key = taken.written.to_lowercase());
    section
}

struct Section<'a> {
    head: Spot,
    own: Vec<Taken>,
    defaults: &'a [Taken],
}

impl Section<'_> {
    fn find(&self, key: &str) -> Option<&Taken> {
        self.own.iter().chain(self.defaults).find(|taken| taken.key == key)
    }

    /// Whether another value has `%(key)s` in it.
    fn refers_to(&self, key: &str) -> bool {
        let name = format!("%({key})s");
        self.own.iter().any(|taken| taken.value.to_lowercase().contains(&name))
    }

    /// A key with what its value stands for; nothing where it is absent or wrong, and then that is told.
    fn get(&self, key: &str, problems: &mut Problems) -> Option<(&Taken, String)> {
        let taken = self.find(key)?;
        match self.expand(&taken.value, DEPTH) {
            Ok(value) => Some((taken, value)),
            Err((message, help)) => {
                problems.error(code::VARIABLE, taken.spot(), message).help(help);
                None
            }
        }
    }

    /// A value with its `%(key)s` filled in.
    fn expand(&self, value: &str, depth: usize) -> Result<String, (String, &'static str)> {
        percent::filled(value, |reference| {
            let named = percent::text_key(reference);
            let (name, after) = named.ok_or(("a `%` stands alone here".to_owned(), "write `%%` for a `%`"))?;
            let known = self.find(&name.to_lowercase()).filter(|_| depth > 0);
            let known = known.ok_or_else(|| {
                (format!("`%({name})s` stands for nothing"), "`%(KEY)s` is the value of another key of the section")
            })?;
            Ok((self.expand(&known.value, depth - 1)?, after))
        })
    }

    /// Refuses what looks like a key misspelt, and says of others that nobody reads them.
    fn check_keys(&self, problems: &mut Problems) {
        for taken in &self.own {
            if KEYS.contains(&&*taken.key) || self.refers_to(&taken.key) {
                continue;
            }
            let written = &taken.written;
            match nearest(&taken.key, KEYS) {
                Some(known) => problems
                    .error(code::UNKNOWN_KEY, taken.key_spot(), format!("unknown key `{written}` in [{BEATCOP}]"))
                    .label(format!("did you mean `{known}`?")),
                None => problems
                    .warn(code::NO_EFFECT, taken.key_spot(), format!("BeatCop has no key `{written}`"))
                    .help("write keys of this agent into [watcher:LOCKNAME]"),
            };
        }
    }

    /// Says that a key is missing.
    fn lacks(&self, what: &str, help: &str, problems: &mut Problems) {
        problems.error(code::MISSING, self.head.clone(), what).help(help);
    }
}

// ---- the server ----

/// What the keys of `[redis]` say of the server, as `url`.
fn server(redis: &Section<'_>, doc: &mut Document, problems: &mut Problems) {
    let mut said = SERVER.map(|key| redis.get(key, problems).filter(|(_, value)| !value.is_empty())).into_iter();
    let mut next = || said.next().flatten();
    let (host, port, database, password, nodes) = (next(), next(), next(), next(), next());
    let place = match (&host, &nodes) {
        (Some((host, _)), Some(_)) => {
            problems
                .error(code::CONFLICT, host.key_spot(), "`host` and `startup_nodes` stand in [redis] both")
                .help("`host` is one server; `startup_nodes` are some of a Redis Cluster");
            return;
        }
        (Some((place, _)), None) | (None, Some((place, _))) => place,
        (None, None) => {
            let tried = ["host", "startup_nodes"].iter().filter_map(|key| redis.find(key));
            // With a URL of ours, or of the agent's environment, it needs none.
            if doc.get("redis", "url").is_none() && tried.filter(|taken| !taken.value.is_empty()).count() == 0 {
                redis.lacks(
                    "BeatCop's file does not say where Redis is",
                    "write `host = localhost` below [redis], or `startup_nodes` of a Redis Cluster",
                    problems,
                );
            }
            return;
        }
    };
    if let Some(url) = doc.get("redis", "url") {
        let (spot, from_file) = (url.key_spot(), url.spot().line > 0);
        if from_file {
            problems
                .error(code::CONFLICT, spot, format!("`url` and `{}` stand in [redis] both", place.written))
                .help("leave one of them out");
        }
        return;
    }
    let mut number = |said: &Option<(&Taken, String)>, default| match said {
        Some((place, text)) => text.parse::<u16>().unwrap_or_else(|_| {
            let message = format!("`{}` must be a whole number from 0 to 65535", place.key);
            problems.error(code::VALUE, place.spot(), message);
            default
        }),
        None => default,
    };
    let (port, db) = (number(&port, 6379), number(&database, 0));
    if let (Some((place, _)), None) = (database.filter(|_| db != 0), &host) {
        problems.warn(code::NO_EFFECT, place.spot(), "a Redis Cluster has no database but 0");
    }
    let at = match (&host, &nodes) {
        (Some((_, host)), _) => At::Host { host, port: &port, database: &db },
        (None, nodes) => At::Nodes(nodes.as_ref().map_or("", |(_, nodes)| nodes)),
    };
    let url = url(&at, password.as_ref().map(|(_, password)| password.as_str()));
    doc.derive(("redis", "url"), &url, place);
}

/// Where BeatCop's keys say that Redis is.
pub(super) enum At<'a> {
    /// `host`, which is a path where it has a `/`.
    Host { host: &'a str, port: &'a dyn Display, database: &'a dyn Display },
    /// `startup_nodes`, one in a line.
    Nodes(&'a str),
}

/// The same as our URL.
pub(super) fn url(at: &At<'_>, password: Option<&str>) -> String {
    let password = password.map(encoded);
    let login = password.as_ref().map_or_else(String::new, |password| format!(":{password}@"));
    match at {
        At::Host { host: path, database, .. } if path.contains('/') => {
            let password = password.map_or_else(String::new, |password| format!("&pass={password}"));
            format!("unix://{}?db={database}{password}", path.split('/').map(encoded).collect::<Vec<_>>().join("/"))
        }
        At::Host { host, port, database } if host.contains(':') && !host.starts_with('[') => {
            format!("redis://{login}[{host}]:{port}/{database}")
        }
        At::Host { host, port, database } => format!("redis://{login}{host}:{port}/{database}"),
        At::Nodes(nodes) => {
            let nodes: Vec<&str> = nodes.lines().map(str::trim).filter(|node| !node.is_empty()).collect();
            format!("redis+cluster://{login}{}", nodes.join(","))
        }
    }
}

/// As a part of a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

// ---- the singleton ----

fn singleton(beatcop: &Section<'_>, doc: &mut Document, problems: &mut Problems) {
    for (key, help) in [("timeout", "write `timeout = 5000`: milliseconds"), ("command", "write `command = PROGRAM …`")]
    {
        if beatcop.find(key).is_none_or(|taken| taken.value.is_empty()) {
            beatcop.lacks(&format!("[{BEATCOP}] has no `{key}`"), help, problems);
        }
    }
    let lockname = beatcop.get("lockname", problems).filter(|(_, name)| !name.is_empty());
    let command = beatcop.get("command", problems).filter(|(_, command)| !command.is_empty());
    let ttl = beatcop.get("timeout", problems).filter(|(_, text)| !text.is_empty());
    let ttl = ttl.and_then(|(place, text)| lease_ttl(place, &text, problems));
    let in_shell = beatcop.get("shell", problems).is_some_and(|(place, text)| match boolean(&text) {
        Ok(shell) => shell,
        Err(wrong) => {
            problems.error(wrong.code, place.spot(), format!("`shell` {}", wrong.message)).label(wrong.label);
            false
        }
    });
    let (Some((command_place, command)), Some((ttl_place, ttl))) = (command, ttl) else { return };
    let (lock_place, lock) = lockname.unwrap_or_else(|| (command_place, format!("beatcop:{command}")));
    let head = format!("watcher:{}", name(&lock, &command));
    doc.begin_at(&head, &beatcop.head);
    // A shell between would be all that is asked to stop.
    let (text, stop_children) = match shell::look(&command) {
        shell::Line::Simple(at) if in_shell => (shell::with_exec(&command, at), false),
        shell::Line::Other if in_shell => (command.clone(), true),
        _ => (command.clone(), false),
    };
    doc.derive((&head, "cmd"), &text, command_place);
    doc.derive((&head, "lease_key"), &lock, lock_place);
    doc.derive((&head, "lease_ttl"), &format!("{}ms", ttl.as_millis()), ttl_place);
    let flags = [("singleton", true), ("copy_env", true), ("shell", in_shell), ("stop_children", stop_children)];
    for (key, _) in flags.iter().filter(|(_, set)| *set) {
        doc.derive((&head, key), "True", command_place);
    }
    if let Err(why) = LeaseKey::parse(&lock) {
        problems.error(code::VALUE, lock_place.spot(), why.0);
    }
}

/// What the watcher is called: as its lock, where that was given and may be one's name, else as its program.
fn name(lock: &str, command: &str) -> String {
    let own = lock != format!("beatcop:{command}") && WatcherName::parse(lock).is_ok();
    let program = command.split_whitespace().next().unwrap_or(BEATCOP).trim_matches(['"', '\'']);
    if own { lock.to_owned() } else { program.rsplit('/').next().unwrap_or(program).to_owned() }
}

/// The lock's time-out, in milliseconds, as a lease's ttl.
fn lease_ttl<'a>(place: &'a Taken, text: &str, problems: &mut Problems) -> Option<(&'a Taken, Duration)> {
    let Some(ttl) = text.trim().parse::<u64>().ok().filter(|ttl| *ttl > 0).map(Duration::from_millis) else {
        problems
            .error(code::VALUE, place.spot(), "`timeout` must be a whole number from 1")
            .label("milliseconds")
            .help("`timeout = 5000` is five seconds");
        return None;
    };
    let least = LeaseTimings::MIN_TTL;
    if ttl < least {
        problems
            .warn(code::LEASE, place.spot(), format!("this node's lease lasts {} ms", least.as_millis()))
            .label("less is too little to try, and to stop, in");
    }
    Some((place, ttl.max(least)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_holds_what_would_end_its_parts() {
        assert_eq!(encoded("a/b c@é:%"), "a%2Fb%20c%40%C3%A9%3A%25");
    }

    #[test]
    fn a_watcher_is_called_as_its_lock_or_as_its_program() {
        for (lock, command, expected) in [
            ("celerybeat", "celery beat", "celerybeat"),
            ("beatcop:/srv/bin/celery beat", "/srv/bin/celery beat", "celery"),
            ("beatcop:'x' y", "'x' y", "x"),
        ] {
            assert_eq!(name(lock, command), expected);
        }
    }
}
