//! Every key there is: its type, its default, whether it works, and a line that explains it.
//!
//! Reading, "did you mean", the variables of the agent's environment and the reference part of
//! `beatcop.ini.example` all follow this one table: a new key is a new row.

use super::value::{Kind, RLIMITS};

/// The sections whose keys are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Section {
    Circus,
    Redis,
    Watcher,
}

impl Section {
    /// The type of a section by its head, nothing where its keys are free or unknown.
    pub(super) fn of(head: &str) -> Option<Section> {
        match head {
            "circus" => Some(Section::Circus),
            "redis" => Some(Section::Redis),
            _ if head.starts_with("watcher:") => Some(Section::Watcher),
            _ => None,
        }
    }
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It is carried out.
    Works,
    /// It is checked, and there is nothing to carry out.
    Idle,
    /// It does nothing, for this reason; a warning unless it has its default.
    Dead(&'static str),
    /// It is checked, and refused unless it has its default.
    NotYet,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) section: Section,
    /// The key, or its beginning and a `*`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What holds when the key is not there; empty: nothing does.
    pub(super) default: &'static str,
    /// A value to show where there is no default.
    pub(super) example: &'static str,
    pub(super) status: Status,
    /// What it is for, in a line.
    pub(super) doc: &'static str,
}

const fn key(
    section: Section,
    name: &'static str,
    kind: Kind,
    (default, example): (&'static str, &'static str),
    status: Status,
    doc: &'static str,
) -> Key {
    Key { section, name, kind, default, example, status, doc }
}

/// A default.
const fn is(default: &'static str) -> (&'static str, &'static str) {
    (default, default)
}

/// No default, but an example.
const fn eg(example: &'static str) -> (&'static str, &'static str) {
    ("", example)
}

use Kind::{
    Bool, Cluster, Command, Count, Group, Level, Limit, LogOutput, Node, Number, Octal, Path, Port, Retries, Seconds,
    Signal, Stream, Text, Url, User,
};
use Section::{Circus, Redis, Watcher};
use Status::{Dead, Idle, NotYet, Works};

const INTERNAL: Status = Dead("there are no internal watchers here; see loglevel");
const NEVER: Status = Dead("Circus never read it from a file either");

#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    key(Circus, "node", Node, eg("web-1"), Works, "this node's name; default: the host name"),
    key(Circus, "cluster", Cluster, is("default"), Works,
        "agents with the same Redis and cluster name are one cluster"),
    key(Circus, "control_socket", Path, eg("/run/circus/web-1.sock"), Works, "where circusctl finds this agent"),
    key(Circus, "state_dir", Path, eg("/var/lib/circus"), Works, "where the agent keeps what outlives it"),
    key(Circus, "pidfile", Path, eg("/run/circus/circus.pid"), Works, "where the agent writes its pid"),
    key(Circus, "umask", Octal, eg("022"), Works, "file mode mask, octal; its children inherit it"),
    key(Circus, "loglevel", Level, is("info"), Works, "critical, error, warning, info or debug"),
    key(Circus, "warmup_delay", Seconds, is("0"), Works, "pause between the starts of two watchers"),
    key(Circus, "include", Text, eg("conf.d/*.ini"), Works, "more files, relative to this one, which wins"),
    key(Circus, "include_dir", Text, eg("conf.d"), Works, "directories whose *.ini files are included"),
    key(Circus, "check_delay", Seconds, is("5"), Idle, "Circus's polling interval; nothing is polled here"),
    key(Circus, "debug", Bool, is("False"), INTERNAL, "no effect: there are no internal watchers here; see loglevel"),
    key(Circus, "debug_gc", Bool, is("False"), Dead("it debugs Python's memory, and there is no Python here"),
        "no effect: there is no Python here"),
    key(Circus, "fqdn_prefix", Text, eg("web"), Dead("Circus never used it either; see node"),
        "no effect, as in Circus; see node"),
    key(Circus, "stream_backend", Text, eg("thread"), NEVER, "no effect, as in Circus"),
    key(Circus, "statsd_close_outputs", Bool, is("False"), NEVER, "no effect, as in Circus"),
    key(Circus, "httpd_close_outputs", Bool, is("False"), NEVER, "no effect, as in Circus"),
    key(Circus, "papa_endpoint", Text, eg("tcp://127.0.0.1:5557"), Dead("Circus dropped papa in 0.18"),
        "no effect: Circus dropped papa in 0.18"),
    key(Circus, "secret_file", Path, eg("/etc/circus/secret"), NotYet, "seals every message through Redis"),
    key(Circus, "endpoint", Text, eg("tcp://127.0.0.1:5555"), NotYet,
        "ZeroMQ door for Circus's own clients; off unless set"),
    key(Circus, "endpoint_public", Bool, is("False"), NotYet, "allows endpoints beyond this machine"),
    key(Circus, "endpoint_owner", User, eg("root"), NotYet, "owner of an ipc:// endpoint"),
    key(Circus, "pubsub_endpoint", Text, eg("tcp://127.0.0.1:5556"), NotYet, "ZeroMQ door for events; off unless set"),
    key(Circus, "stats_endpoint", Text, eg("tcp://127.0.0.1:5557"), NotYet,
        "ZeroMQ door for statistics; off unless set"),
    key(Circus, "multicast_endpoint", Text, eg("udp://237.219.251.97:12027"), NotYet,
        "discovery over UDP; off unless set"),
    key(Circus, "statsd", Bool, is("False"), NotYet, "publishes statistics every second"),
    key(Circus, "httpd", Bool, is("False"), NotYet, "dashboard, metrics and JSON over HTTP"),
    key(Circus, "httpd_host", Text, is("localhost"), NotYet, "where httpd listens"),
    key(Circus, "httpd_port", Port, is("8080"), NotYet, "on which port"),
    key(Circus, "logoutput", LogOutput, is("-"), NotYet, "the agent logs to stderr; let its service manager keep it"),
    key(Circus, "loggerconfig", Text, is("default"), NotYet, "Python's logging configuration"),
    key(Circus, "master", Text, eg("web-1"), NotYet, "circusd-cluster's node to register at"),

    key(Redis, "url", Url, eg("redis://localhost:6379/0"), Works, "redis://:PASSWORD@HOST:PORT/DB or unix:///PATH"),
    key(Redis, "lease_ttl", Seconds, is("15"), Works, "how long a lease lasts when its holder falls silent"),
    key(Redis, "refresh_interval", Seconds, eg("5"), Works, "pause between refreshes; default lease_ttl / 3"),
    key(Redis, "refresh_timeout", Seconds, eg("5"), Works,
        "unconfirmed by then, it failed; default lease_ttl / 3"),

    key(Watcher, "cmd", Command, eg("celery -A proj worker"), Works, "the program and its arguments"),
    key(Watcher, "args", Command, eg("--loglevel info"), Works, "more arguments, after those of cmd"),
    key(Watcher, "shell", Bool, is("False"), Works, "runs the command line with /bin/sh -c"),
    key(Watcher, "shell_args", Command, eg("name first second"), Works, "with shell: $0, $1, … of the command line"),
    key(Watcher, "numprocesses", Count, is("1"), Works, "how many processes"),
    key(Watcher, "warmup_delay", Seconds, is("0"), Works, "pause after each process's start"),
    key(Watcher, "working_dir", Path, eg("/srv/app"), Works, "where it runs; default: where the agent does"),
    key(Watcher, "uid", User, eg("root"), Works, "as which user, by name or number"),
    key(Watcher, "gid", Group, eg("root"), Works, "as which group; default: the user's own"),
    key(Watcher, "umask", Octal, eg("027"), Works, "file mode mask, octal; default: the agent's"),
    key(Watcher, "copy_env", Bool, is("False"), Works, "gives it the agent's environment too, not only [env]"),
    key(Watcher, "rlimit_*", Limit, eg("1024"), Works,
        "any limit of setrlimit(2); empty: infinite"),
    key(Watcher, "stop_signal", Signal, is("TERM"), Works, "asks a process to stop: TERM, SIGINT, 2, SIGRTMIN+1"),
    key(Watcher, "graceful_timeout", Seconds, is("30"), Works, "how long it may take to stop before SIGKILL"),
    key(Watcher, "autostart", Bool, is("True"), Works, "starts with the agent"),
    key(Watcher, "respawn", Bool, is("True"), Works, "replaces a process that ends"),
    key(Watcher, "max_retry", Retries, is("5"), Works, "failed starts in a row before it gives up; -1: it never does"),
    key(Watcher, "priority", Number, is("0"), Works, "higher starts first and stops last"),
    key(Watcher, "close_child_stdin", Bool, is("True"), Works, "stdin is /dev/null, not the agent's"),
    key(Watcher, "close_child_stdout", Bool, is("False"), Works, "stdout is /dev/null"),
    key(Watcher, "close_child_stderr", Bool, is("False"), Works, "stderr is /dev/null"),
    key(Watcher, "stdout_stream.class", Stream, is("FileStream"), Works, "how output is kept: FileStream only, so far"),
    key(Watcher, "stdout_stream.filename", Path, eg("/var/log/app.log"), Works, "the file that stdout is appended to"),
    key(Watcher, "stderr_stream.class", Stream, is("FileStream"), Works, "the same for stderr"),
    key(Watcher, "stderr_stream.filename", Path, eg("/var/log/app.log"), Works, "the file that stderr is appended to"),
    key(Watcher, "singleton", Bool, is("False"), Works, "one process in the whole cluster, under a lease"),
    key(Watcher, "lease_ttl", Seconds, eg("15"), Works, "this singleton's own; default: that of [redis]"),
    key(Watcher, "refresh_interval", Seconds, eg("5"), Works, "this singleton's own"),
    key(Watcher, "refresh_timeout", Seconds, eg("5"), Works, "this singleton's own"),
    key(Watcher, "check_flapping", Bool, is("True"), Dead("Circus has ignored it since flapping became a plugin"),
        "no effect, as in Circus"),
    key(Watcher, "executable", Path, eg("/usr/bin/python3"), Dead("Circus ignores it too; cmd names the program"),
        "no effect, as in Circus; cmd names the program"),
    key(Watcher, "use_papa", Bool, is("False"), Dead("Circus dropped papa in 0.18"),
        "no effect: Circus dropped papa in 0.18"),
    key(Watcher, "env", Text, eg("A=1"), Dead("Circus ignores it too; write a section [env:NAME]"),
        "no effect, as in Circus; write a section [env:NAME]"),
    key(Watcher, "stdout_stream.max_bytes", Count, is("0"), NotYet, "rotates the file at this size"),
    key(Watcher, "stdout_stream.backup_count", Count, is("0"), NotYet, "how many rotated files are kept"),
    key(Watcher, "stdout_stream.*", Text, eg("%Y-%m-%d"), NotYet,
        "options of other streams"),
    key(Watcher, "stderr_stream.max_bytes", Count, is("0"), NotYet, "the same for stderr"),
    key(Watcher, "stderr_stream.backup_count", Count, is("0"), NotYet, "the same for stderr"),
    key(Watcher, "stderr_stream.*", Text, eg("%Y-%m-%d"), NotYet, "the same for stderr"),
    key(Watcher, "stop_children", Bool, is("False"), NotYet,
        "sends the stop signal to the children of the process too"),
    key(Watcher, "send_hup", Bool, is("False"), NotYet, "reload sends SIGHUP"),
    key(Watcher, "max_age", Seconds, is("0"), NotYet, "replaces a process of this age; 0: never"),
    key(Watcher, "max_age_variance", Seconds, is("30"), NotYet, "and up to so much older"),
    key(Watcher, "copy_path", Bool, is("False"), NotYet, "gives a Python child the agent's module path"),
    key(Watcher, "virtualenv", Path, eg("/srv/app/venv"), NotYet, "a Python virtual environment to run in"),
    key(Watcher, "virtualenv_py_ver", Text, eg("3.12"), NotYet, "its Python version"),
    key(Watcher, "use_sockets", Bool, is("False"), NotYet, "hands the agent's sockets down"),
    key(Watcher, "sockets", Text, eg("web"), NotYet, "which sockets are handed down"),
    key(Watcher, "stdin_socket", Text, eg("web"), NotYet, "the socket that becomes stdin"),
    key(Watcher, "on_demand", Bool, is("False"), NotYet, "starts at the first connection"),
    key(Watcher, "hooks.*", Text, eg("/path/to/hook arg,true"), NotYet,
        "commands run at points of its life"),
    key(Watcher, "flapping.*", Text, eg("3"), NotYet, "options of the flapping plugin"),
    key(Watcher, "valor", Number, eg("98"), NotYet, "who is preferred as holder of the lease"),
    key(Watcher, "quorum", Text, is("1"), NotYet, "how many live nodes it takes to hold the lease"),
    key(Watcher, "expected", Count, eg("3"), NotYet, "with quorum = majority: of how many"),
    key(Watcher, "preempt", Bool, is("False"), NotYet, "a higher valor takes the lease over"),
    key(Watcher, "preempt_delay", Seconds, is("0"), NotYet, "after so long"),
    key(Watcher, "legion", Text, eg("clusterip"), NotYet, "runs on this legion's lord only"),
    key(Watcher, "cron", Text, eg("*/5 * * * *"), NotYet, "runs at these times"),
    key(Watcher, "ready", Text, eg("tcp:8000"), NotYet, "how it is known to be ready"),
    key(Watcher, "after", Text, eg("db"), NotYet, "starts once these watchers are ready"),
    key(Watcher, "requires", Text, eg("db"), NotYet, "and stops with them"),
];

/// The row of a section's key.
pub(super) fn find(section: Section, name: &str) -> Option<&'static Key> {
    let rows = || KEYS.iter().filter(|key| key.section == section);
    rows().find(|key| key.name == name).or_else(|| rows().find(|key| key.family(name).is_some()))
}

/// Whether the section with this head knows this key by its exact name.
pub(super) fn knows(head: &str, name: &str) -> bool {
    Section::of(head).is_some_and(|section| KEYS.iter().any(|key| key.section == section && key.name == name))
}

impl Key {
    /// What stands for the `*` of this row in `name`.
    pub(super) fn family<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.name.strip_suffix('*')?).filter(|rest| !rest.is_empty())
    }

    /// The variable of the agent's environment that sets this key; watchers have none.
    pub(super) fn variable(&self) -> Option<String> {
        match self.section {
            Circus => Some(format!("CIRCUS_{}", self.name.to_uppercase())),
            Redis => Some(format!("CIRCUS_REDIS_{}", self.name.to_uppercase())),
            Watcher => None,
        }
    }

    /// Whether nodes of one cluster differ in it on purpose, so that it says nothing about drift.
    pub(super) fn is_per_node(&self) -> bool {
        matches!(
            (self.section, self.name),
            (Circus, "node" | "control_socket" | "state_dir" | "pidfile") | (Redis, "url")
        )
    }
}

/// The words that other supervisors use, and ours.
const ELSEWHERE: &[(&str, &str)] = &[
    ("autorestart", "respawn"),
    ("command", "cmd"),
    ("cwd", "working_dir"),
    ("directory", "working_dir"),
    ("environment", "[env:NAME]"),
    ("group", "gid"),
    ("nprocs", "numprocesses"),
    ("numprocs", "numprocesses"),
    ("startretries", "max_retry"),
    ("stdout_logfile", "stdout_stream.filename"),
    ("stderr_logfile", "stderr_stream.filename"),
    ("stopsignal", "stop_signal"),
    ("stopwaitsecs", "graceful_timeout"),
    ("user", "uid"),
];

/// What `word` was probably meant to be: the nearest of `known`, if near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let reach = match word.chars().count() {
        0..=2 => 0,
        3..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    let near = known.into_iter().map(|known| (strsim::osa_distance(&word, &plain(known)), known));
    near.filter(|(distance, _)| *distance <= reach).min().map(|(_, known)| known.to_owned())
}

/// The key that a misspelt one meant.
pub(super) fn meant(section: Section, name: &str) -> Option<String> {
    let rows = KEYS.iter().filter(|key| key.section == section && !key.name.ends_with('*'));
    let limits = RLIMITS.iter().filter(|_| section == Watcher).map(|(limit, _)| format!("rlimit_{limit}"));
    let known: Vec<String> = rows.map(|key| key.name.to_owned()).chain(limits).collect();
    nearest(name, known.iter().map(String::as_str))
}

/// Our word for another supervisor's.
pub(super) fn elsewhere(name: &str) -> Option<&'static str> {
    ELSEWHERE.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}

/// Every key as a comment that becomes valid by taking the leading `; ` away, grouped by section:
/// `; key = default  ; what it is for`. The end of `beatcop.ini.example` is this text.
pub fn reference() -> String {
    let mut text = String::new();
    for (section, head) in [(Circus, "[circus]"), (Redis, "[redis]"), (Watcher, "[watcher:NAME]")] {
        for (title, wanted) in [("", false), (", not supported yet: an error unless it has its default", true)] {
            let rows = KEYS.iter().filter(|key| key.section == section && (key.status == NotYet) == wanted);
            let rows: Vec<String> = rows.map(Key::line).collect();
            if !rows.is_empty() {
                text.push_str(&format!("\n;;; {head}{title}\n;;;\n{}", rows.concat()));
            }
        }
    }
    text
}

/// Every key as tables in Markdown: `docs/configuration.md` ends with this text.
pub fn reference_tables() -> String {
    let mut text = String::new();
    type Wanted = fn(Status) -> bool;
    let groups: [(&str, Wanted); 3] = [
        ("", |status| matches!(status, Works | Idle)),
        (": not supported yet", |status| status == NotYet),
        (": accepted, without effect", |status| matches!(status, Dead(_))),
    ];
    for (section, head) in [(Circus, "[circus]"), (Redis, "[redis]"), (Watcher, "[watcher:NAME]")] {
        for (title, wanted) in groups {
            let rows = KEYS.iter().filter(|key| key.section == section && wanted(key.status));
            let rows: Vec<String> = rows.map(Key::row).collect();
            if !rows.is_empty() {
                let rows = rows.concat();
                text.push_str(&format!(
                    "\n### `{head}`{title}\n\n| key | type | default | |\n|---|---|---|---|\n{rows}"
                ));
            }
        }
    }
    text
}

impl Key {
    /// This key's row of [`reference_tables()`].
    fn row(&self) -> String {
        let default = match (self.default, self.example) {
            ("", example) => format!("none (e.g. `{example}`)"),
            (default, _) => format!("`{default}`"),
        };
        format!("| `{}` | {} | {default} | {} |\n", self.name, self.kind.word(), self.doc.replace('|', "\\|"))
    }

    /// This key's line of [`reference()`].
    fn line(&self) -> String {
        let name = match self.name {
            "rlimit_*" => "rlimit_nofile".to_owned(),
            "hooks.*" => "hooks.before_start".to_owned(),
            "flapping.*" => "flapping.attempts".to_owned(),
            name => name.replace('*', "time_format"),
        };
        let setting = format!("{name} = {}", self.example);
        let example = if self.default.is_empty() { " (example)" } else { "" };
        let doc = self.doc;
        format!("; {setting:<48} ; {doc}{example}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_and_example_is_of_its_keys_own_type() {
        for key in KEYS {
            for text in [key.default, key.example].iter().filter(|text| !text.is_empty()) {
                assert!(key.kind.parse(text).is_ok(), "{} = {text}", key.name);
            }
            assert!(!key.example.is_empty() && !key.doc.is_empty(), "{}", key.name);
        }
    }

    #[test]
    fn no_key_stands_twice() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(!KEYS[..at].iter().any(|k| (k.section, k.name) == (key.section, key.name)), "{}", key.name);
        }
    }

    #[test]
    fn misspelt_keys_find_what_they_meant() {
        let table = [
            ("numproceses", Some("numprocesses")),
            ("Cmd", Some("cmd")),
            ("gracefull-timeout", Some("graceful_timeout")),
            ("rlimit_nofiles", Some("rlimit_nofile")),
            ("stats_base_port", None),
            ("port", None),
        ];
        for (word, key) in table {
            assert_eq!(meant(Watcher, word).as_deref(), key, "{word}");
        }
        assert_eq!(meant(Redis, "lease_tll").as_deref(), Some("lease_ttl"));
        assert_eq!(elsewhere("user"), Some("uid"));
    }

    #[test]
    fn a_family_takes_any_name_but_the_empty_one() {
        assert_eq!(find(Watcher, "rlimit_nofile").map(|key| key.name), Some("rlimit_*"));
        assert_eq!(find(Watcher, "stdout_stream.filename").map(|key| key.name), Some("stdout_stream.filename"));
        assert!(find(Watcher, "rlimit_").is_none());
        assert!(find(Circus, "rlimit_nofile").is_none());
    }
}
