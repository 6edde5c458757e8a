//! An ini file → [`AgentSpec`], or everything that is wrong with it.
//!
//! The dialect is Circus's, with sections and keys of our own ([`reference()`] lists them all). A file that
//! Circus reads in silence although it cannot mean what it says is refused here, or warned about; all
//! [`Problem`]s of all files are reported in one run, each with its line.
//!
//! ```text
//!   files, environment ──scan──► sections, keys, places ──keys, value, vars──► settings ──build──► AgentSpec
//!     settings of a watcher or socket, changed ──amend──┘                         └──watcher──► WatcherSpec
//!                                                                                 └──socket───► SocketSpec
//!                                                      problem ◄── whatever is wrong at any step
//!
//!   files of other supervisors ──convert──► a file in this dialect
//! ```
//!
//! Invariants: reading never panics, and touches the machine only to look: at files, directories and the user
//! database. It starts nothing but the Python interpreter, where `copy_path` needs its module path, and waits
//! no longer than ten seconds for that. No problem quotes a secret.

mod keys;
mod problem;

mod beatcop;
mod percent;
mod scan;
mod uwsgi;
mod vars;
mod words;

mod check;
mod hook;
mod value;

mod build;
mod cluster_words;
mod command;
mod cron;
mod doors;
mod legion;
mod plugin;
mod preset;
mod python;
mod redis;
mod settings;
mod shell;
mod socket;
mod socket_use;
mod stream;
mod watcher;

mod amend;

mod convert;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use amend::{amend, amend_socket};
pub use convert::{Converted, Format, Included, Original, convert, included};
pub use keys::{reference, reference_tables};
pub use plugin::{PLUGIN, PLUGIN_OPTIONS};
pub use problem::{Problem, Severity, code, render};

use crate::model::spec::{AgentSpec, LogLevel, LogOutput};
use keys::KEYS;
use problem::{Problems, Spot};
use scan::Document;
use vars::EnvVars;

/// A configuration that can be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What should be.
    pub spec: AgentSpec,
    /// What may not be as it was meant, in the order of files and lines.
    pub warnings: Vec<Problem>,
    /// The files it was read from: the main one first, then its includes.
    pub files: Vec<PathBuf>,
}

/// What a file's meaning depends on besides its text.
///
/// It has no `Debug`: environments hold secrets.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// The agent's environment: `CIRCUS_…`, `$(circus.env.…)`, `PATH`.
    pub env: BTreeMap<String, String>,
    /// The host's name, from which the node takes its own unless it is given one.
    pub hostname: String,
}

impl Surroundings {
    /// Those of the running process. Variables that are no UTF-8 are left out.
    pub fn of_this_process() -> Surroundings {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        Surroundings {
            env: std::env::vars_os().filter_map(text).collect(),
            hostname: hostname.to_string_lossy().into_owned(),
        }
    }
}

/// Reads a configuration file and what it includes.
///
/// Fails with every problem that could be found, warnings among them, when at least one is an error.
pub fn read(path: &Path, around: &Surroundings) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut doc = Document::default();
    let mut files = Vec::new();
    if load(path, &mut doc, &mut problems) {
        files.push(path.to_owned());
        include(&mut doc, around, &mut files, &mut problems);
    } else {
        // Nothing more can be said of a file that cannot be read.
        return Err(problems.0);
    }
    understand(doc, files, around, problems)
}

/// What `loglevel` may say, for the command line: the error is for its user.
pub fn log_level(text: &str) -> Result<LogLevel, String> {
    value::level(text).map_err(|wrong| wrong.message)
}

/// What `logoutput` may say, for the command line.
pub fn log_output(text: &str) -> Result<LogOutput, String> {
    stream::log_output(text).map_err(|wrong| wrong.message)
}

/// Lines that are read → what they mean.
fn understand(
    mut doc: Document,
    files: Vec<PathBuf>,
    around: &Surroundings,
    mut problems: Problems,
) -> Result<Config, Vec<Problem>> {
    take_environment(&mut doc, around, &mut problems);
    uwsgi::translate(&mut doc, around, &mut problems);
    beatcop::translate(&mut doc, &mut problems);
    let built = build::build(&doc, around, &mut problems);

    let mut problems = problems.0;
    let file = |problem: &Problem| files.iter().position(|file| *file == problem.file).unwrap_or(files.len());
    problems.sort_by_key(|problem| (file(problem), problem.line, problem.column));
    // One line of [uwsgi] may say a thing of several legions.
    problems.dedup();
    match built {
        Some(spec) if problems.iter().all(|problem| problem.severity == Severity::Warning) => {
            Ok(Config { spec: AgentSpec { hash: hash(&doc), ..spec }, warnings: problems, files })
        }
        _ => Err(problems),
    }
}

/// More than any configuration needs, and little enough to end at, where the path is a device's.
const LARGEST: u64 = 16 << 20;

/// Scans a file into `doc`; false when it cannot be read.
fn load(path: &Path, doc: &mut Document, problems: &mut Problems) -> bool {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    let name = path.display();
    if let Err(error) = read {
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("{name} does not exist"),
            io::ErrorKind::IsADirectory => format!("{name} is a directory"),
            io::ErrorKind::PermissionDenied => format!("{name} may not be read"),
            _ => format!("{name} cannot be read: {error}"),
        };
        problems.error(code::FILE, Spot::file(path), message);
        return false;
    }
    if bytes.len() as u64 > LARGEST {
        problems.error(code::FILE, Spot::file(path), format!("{name} is larger than 16 MiB"));
        return false;
    }
    match String::from_utf8(bytes) {
        Ok(text) => doc.scan(path, &text, problems),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
            let spot = Spot { line, ..Spot::file(path) };
            problems.error(code::FILE, spot, format!("{name} is no UTF-8 text")).help("convert it with iconv(1)");
            return false;
        }
    }
    true
}

/// Reads what `include` and `include_dir` of `[circus]` lead to. An included file's own are not followed.
fn include(doc: &mut Document, around: &Surroundings, files: &mut Vec<PathBuf>, problems: &mut Problems) {
    let main = files[0].clone();
    let base = main.parent().unwrap_or(Path::new("")).to_owned();
    let mut vars = EnvVars::default();
    vars.add(&around.env);
    let mut wanted: Vec<(PathBuf, Spot)> = Vec::new();
    for (key, rest) in [("include", ""), ("include_dir", "*.ini")] {
        let variable = format!("CIRCUS_{}", key.to_uppercase());
        if let Some(value) = around.env.get(&variable).filter(|value| !value.is_empty()) {
            doc.set_from_env("circus", key, &variable, value);
        }
        let Some(entry) = doc.get("circus", key) else { continue };
        for word in vars.substitute(entry.value).split_whitespace() {
            let at = entry.value.find(word).map(|at| at..at + word.len());
            wanted.push((base.join(word).join(rest), at.map_or_else(|| entry.spot(), |at| entry.part(&at))));
        }
    }
    let own: Vec<bool> = ["include", "include_dir"].iter().map(|key| doc.get("circus", key).is_some()).collect();
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut seen = vec![real(&main)];
    for (pattern, spot) in wanted {
        // `join("")` leaves a slash at the end, which would ask for a directory.
        let pattern: PathBuf = pattern.components().collect();
        let found = words::glob(&pattern);
        if found.is_empty() {
            problems
                .warn(code::INCLUDE, spot, format!("{} leads to no file", pattern.display()))
                .note("paths are relative to the directory of the main file");
            continue;
        }
        let exact = !words::is_pattern(&pattern.to_string_lossy());
        for path in found {
            if seen.contains(&real(&path)) {
                if exact {
                    problems.warn(code::INCLUDE, spot.clone(), format!("{} is read already", path.display()));
                }
                continue;
            }
            seen.push(real(&path));
            if load(&path, doc, problems) {
                files.push(path);
            }
        }
    }
    for (key, own) in ["include", "include_dir"].into_iter().zip(own) {
        if let (false, Some(entry)) = (own, doc.get("circus", key)) {
            problems
                .warn(code::INCLUDE, entry.key_spot(), format!("`{key}` in an included file is not followed"))
                .help("include all files from the main one");
        }
    }
}

/// Sets the keys of `[circus]` and `[redis]` that the agent's environment has: it wins over every file.
fn take_environment(doc: &mut Document, around: &Surroundings, problems: &mut Problems) {
    let keys: Vec<(String, &str, &str)> = KEYS
        .iter()
        .filter_map(|key| {
            let head = if key.section == keys::Section::Circus { "circus" } else { "redis" };
            Some((key.variable()?, head, key.name))
        })
        .collect();
    for (name, value) in around.env.iter().filter(|(name, value)| name.starts_with("CIRCUS_") && !value.is_empty()) {
        if let Some((variable, head, key)) = keys.iter().find(|(variable, ..)| variable == name) {
            doc.set_from_env(head, key, variable, value);
        } else if let Some(meant) = nearest_variable(name, &keys) {
            let (file, text) = ("environment".into(), name.clone());
            let spot = Spot { file, line: 0, column: 1, width: name.chars().count(), text };
            problems
                .warn(code::UNKNOWN_KEY, spot, format!("{name} sets no key"))
                .label(format!("did you mean {meant}?"));
        }
    }
}

/// The variable that a misspelt one meant. Its prefix is no part of the comparison: everybody gets that right.
fn nearest_variable(name: &str, keys: &[(String, &str, &str)]) -> Option<String> {
    let prefix = if name.starts_with("CIRCUS_REDIS_") { "CIRCUS_REDIS_" } else { "CIRCUS_" };
    let section = if prefix == "CIRCUS_" { "circus" } else { "redis" };
    let known = keys.iter().filter(|(_, head, _)| *head == section).map(|(_, _, key)| *key);
    let key = keys::nearest(name.strip_prefix(prefix)?, known)?;
    Some(format!("{prefix}{}", key.to_uppercase()))
}

/// [`AgentSpec::hash`]: FNV-1a, because it must be the same in every version of the agent.
fn hash(doc: &Document) -> String {
    let mut sections = doc.sections();
    sections.sort_unstable();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |text: &str| {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for section in sections {
        let kind = keys::Section::of(section);
        let mut entries: Vec<_> = doc.entries(section).map(|entry| (entry.key, entry.value)).collect();
        entries.retain(|(key, _)| {
            let row = kind.and_then(|kind| keys::find(kind, key));
            !row.is_some_and(keys::Key::is_per_node)
        });
        entries.sort_unstable();
        if !entries.is_empty() {
            add(section);
        }
        for (key, value) in entries {
            add(key);
            add(value);
        }
    }
    // Folded, so that every bit of it counts.
    format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0x00ff_ffff)
}

#[cfg(test)]
mod tests {
    use super::keys::{Section, Status};
    use super::value::Kind;
    use super::*;

    const EXAMPLE: &str = include_str!("../../beatcop.ini.example");

    fn around() -> Surroundings {
        Surroundings { env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]), hostname: "testhost".into() }
    }

    fn parse_around(text: &str, around: &Surroundings) -> Result<Config, Vec<Problem>> {
        let (mut doc, mut problems) = (Document::default(), Problems::default());
        doc.scan(Path::new("t.ini"), text, &mut problems);
        understand(doc, vec!["t.ini".into()], around, problems)
    }

    fn parse(text: &str) -> Result<Config, Vec<Problem>> {
        parse_around(text, &around())
    }

    /// The example with all its keys in force, and without what explains them.
    fn uncommented() -> String {
        let bare = |line: &str| {
            let line = line.strip_prefix("; ").filter(|line| line.contains(" = ")).unwrap_or(line);
            line.split(" ; ").next().unwrap_or_default().trim_end().replace(";;; [", "[")
        };
        let lines = EXAMPLE.lines().map(bare).filter(|line| !line.is_empty() && !line.starts_with(';'));
        lines.map(|line| line + "\n").collect()
    }

    /// A value that says something else than the default.
    fn sample(key: &keys::Key) -> &'static str {
        match (key.name, key.kind) {
            ("priority", _) => "7",
            ("umask", _) if key.section == Section::Socket => "0o77",
            ("watchers", _) => "db",
            ("numprocesses", _) => "0",
            ("python" | "password_file" | "sentinel_password_file" | "tls_ca" | "tls_cert" | "tls_key", _) => "/bin/sh",
            ("singleton" | "shell", _) => "no",
            (_, Kind::Bool) if key.default == "True" => "no",
            (_, Kind::Bool) => "yes",
            (_, Kind::Count | Kind::Retries | Kind::Number) => "3",
            (_, Kind::Seconds | Kind::Positive | Kind::Times | Kind::Amount | Kind::Size | Kind::Memory) => "4",
            (_, Kind::Port) => "81",
            (_, Kind::Signal) => "INT",
            (_, Kind::Level) => "debug",
            (_, Kind::Cluster) => "other",
            ("url", Kind::Url) => "rediss+sentinel://other/m",
            (_, Kind::Url) => "redis://other",
            (_, Kind::Cron) => "*/5 * * * *",
            (_, Kind::TimeZone) => "UTC",
            (_, Kind::OnFailure) => "stand_back 4",
            (_, Kind::Class) => "WatchedFileStream",
            (_, Kind::Rollover) => "W6",
            (_, Kind::Colour) => "white",
            (_, Kind::Syslog | Kind::LogOutput) => "syslog://h",
            (_, Kind::Action) => "report",
            (_, Kind::Use) => "circus.plugins.watchdog.WatchDog",
            (_, Kind::Regex) => "x",
            (_, Kind::HttpUrl) => "http://h/",
            (_, Kind::Family) => "AF_INET6",
            (_, Kind::SocketType) => "SOCK_DGRAM",
            (_, Kind::Host) => "*",
            (_, Kind::From) => "systemd",
            (_, Kind::Socket | Kind::Sockets) => "s",
            (_, Kind::SocketEnv) => "nginx",
            (_, Kind::StopPreset) => "nginx",
            (_, Kind::Labels) => "zone=b",
            (_, Kind::Valor | Kind::Quorum) => "3",
            (_, Kind::Text) if !key.default.is_empty() => "other",
            _ => key.example,
        }
    }

    /// The lines without which a key means nothing. They win over those of the base.
    fn beside(name: &str) -> Vec<String> {
        let lines: &[&str] = match name.split_once("_stream.") {
            None if name == "ready_timeout" => &["ready = notify"],
            None if name.starts_with("health_") => &["health = notify"],
            None if name == "legion" => &["singleton = off"],
            None if name == "expected" => &["quorum = majority", "expected = 9"],
            None if name == "socket_env" => &["sockets = s"],
            None if ["cron_timezone", "misfire_grace", "cron_on_failure"].contains(&name) => &["cron = @daily"],
            // Whoever sleeps has no lease.
            None if name == "on_demand" => &["sockets = s", "singleton = off"],
            None if name == "idle_timeout" => &["sockets = s", "singleton = off", "on_demand = on"],
            None if ["umask", "owner", "replace"].contains(&name) => &["path = /x"],
            None => &[],
            Some((_, "class" | "max_bytes" | "time_format")) => &["filename = /x"],
            Some((_, "backup_count")) => &["filename = /x", "max_bytes = 1"],
            Some((_, "rotate_when" | "rotate_interval" | "utc")) => {
                &["filename = /x", "class = TimedRotatingFileStream", "rotate_when = S"]
            }
            Some((_, "color")) => &["class = FancyStdoutStream"],
            Some((_, "address" | "ident")) => &["class = SyslogStream"],
            Some((_, "option")) => &["class = my.Stream"],
            Some(_) => &[],
        };
        let prefix = name.split_once("_stream.").map(|(stream, _)| format!("{stream}_stream.")).unwrap_or_default();
        lines.iter().map(|line| format!("{prefix}{line}")).collect()
    }

    #[test]
    fn every_key_that_works_changes_the_spec() {
        // Those that need more of a machine have tests of their own.
        const ELSEWHERE: [&str; 5] = ["include", "include_dir", "copy_path", "virtualenv", "virtualenv_py_ver"];
        let spec = |text: &str| {
            let read =
                parse(text).unwrap_or_else(|problems| panic!("{text}{}", render(&problems, Path::new("t.ini"), "no")));
            let mut spec = read.spec;
            // These hold the text of every key, whatever comes of it.
            spec.watchers.iter_mut().for_each(|watcher| watcher.settings.clear());
            spec.sockets.iter_mut().for_each(|socket| socket.settings.clear());
            spec.hash.clear();
            spec
        };
        for key in KEYS.iter().filter(|key| key.status == Status::Works && !ELSEWHERE.contains(&key.name)) {
            let name = match key.name {
                "rlimit_*" => "rlimit_nofile".to_owned(),
                "hooks.*" => "hooks.before_start".to_owned(),
                name => name.replace('*', "option"),
            };
            let natives = match key.section {
                Section::Plugin(natives) if key.name == "use" => &natives[..1],
                Section::Plugin(natives) => natives,
                Section::Circus
                | Section::Redis
                | Section::Watcher
                | Section::Legion
                | Section::Socket
                | Section::CircusCluster
                | Section::Node => &plugin::Native::ALL[..1],
                // Its class is loaded when the file is read.
                Section::PythonPlugin => &[],
            };
            let head = match key.section {
                Section::Circus => "[circus]",
                Section::Redis => "[redis]",
                Section::Watcher => "[watcher:w]",
                Section::Legion => "[legion:clusterip]",
                Section::Socket => "[socket:s]",
                Section::CircusCluster => "[circus-cluster]",
                Section::Node => "[node:n]",
                Section::Plugin(_) | Section::PythonPlugin => "[plugin:p]",
            };
            for native in natives {
                let lines = beside(&name).join("\n");
                let of = |section: &str| if head == section { lines.as_str() } else { "" };
                let (of_watcher, of_socket, of_legion) =
                    (of("[watcher:w]"), of("[socket:s]"), of("[legion:clusterip]"));
                let of_circus = if name == "multicast_endpoint" { "endpoint = ipc:///x" } else { "" };
                let base = format!(
                    "[circus]\n{of_circus}\nnode = n\npython = /bin/true\n[circus-cluster]\n[redis]\nurl = rediss+sentinel://h/m\n\
                     tls_cert = /bin/true\ntls_key = /bin/true\n[watcher:w]\n{of_watcher}\ncmd = sleep 1\nsingleton = on\nshell = on\n\
                     [socket:s]\n{of_socket}\nblocking = off\n\
                     [watcher:db]\ncmd = x\n[watcher:cache]\ncmd = x\n[watcher:web]\ncmd = x\n\
                     [legion:clusterip]\n{of_legion}\non_unlord = log:x\n[plugin:p]\nuse = {}\n{}\n",
                    native.class(),
                    if *native == plugin::Native::ResourceWatcher { "watcher = w" } else { "" },
                );
                let setting = format!("{name} = {}", sample(key));
                let after = base.replace(head, &format!("{head}\n{setting}"));
                assert_ne!(spec(&base), spec(&after), "{head} {setting}");
            }
        }
    }

    #[test]
    fn every_key_of_circus_and_redis_can_come_from_the_environment_and_wins() {
        let set = |name: &str, value: &str| {
            let mut around = around();
            around.env.insert(name.into(), value.into());
            parse_around("[circus]\nnode = file\n", &around)
        };
        assert_eq!(set("CIRCUS_NODE", "env").expect("a name").spec.node.as_str(), "env");
        assert_eq!(set("CIRCUS_NODE", "").expect("unset").spec.node.as_str(), "file");
        let redis = set("CIRCUS_REDIS_URL", "redis://:pw@h").expect("a url").spec.redis.expect("redis");
        assert_eq!(redis.url.reveal(), "redis://:pw@h");
        assert_eq!(set("CIRCUS_REDIS_URL", "").expect("unset").spec.redis, None);
        let problems = set("CIRCUS_REDIS_LEASE_TTL", "soon").expect_err("no time");
        assert_eq!((problems[0].file.to_str(), problems[0].line), (Some("environment"), 0));
        assert_eq!(problems[0].text, "CIRCUS_REDIS_LEASE_TTL=soon");
        assert_eq!(set("CIRCUS_NOED", "x").expect("a warning").warnings[0].label, "did you mean CIRCUS_NODE?");
        for ours in [
            "CIRCUS_WATCHER",
            "CIRCUS_WID",
            "CIRCUS_FENCING_TOKEN",
            "CIRCUS_LEASE_KEY",
            "CIRCUSCTL_ENDPOINT",
            "CIRCUS_STATS_SOCKET",
        ] {
            assert_eq!(set(ours, "x").expect("no matter").warnings, [], "{ours}");
        }
    }

    #[test]
    fn no_password_is_ever_shown() {
        let urls = [
            "redis://u:hunter2@h:x",
            "redis://hunter2@h/x",
            "http://:hunter2@h",
            "redis:hunter2@h",
            "redis://:hun#hunter2@h",
            "rediss://:hunter2@h#insecure",
            "unix:///s?pass=hunter2&db=x",
            "redis://:a b hunter2@h:x",
            "redis://:\"hunter2@h:x",
            "//:hunter2@h",
        ];
        for url in urls {
            for text in [
                format!("[redis]\nurl = {url}\n"),
                format!("[redis]\nurll = {url}\n"),
                format!("[redis]\nurl {url}\n"),
                format!("url = {url}\n"),
                format!("[redis]\nurl =\n  {url}\n"),
            ] {
                let problems = parse(&text).expect_err(&text);
                assert!(
                    !render(&problems, Path::new("t.ini"), "no").contains("hunter2"),
                    "{}",
                    render(&problems, Path::new("t.ini"), "no")
                );
            }
            let mut around = around();
            around.env.insert("CIRCUS_REDIS_URL".into(), url.into());
            let problems = parse_around("", &around).expect_err(url);
            assert!(!format!("{problems:?}").contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn the_hash_follows_what_is_meant_for_all_nodes_and_nothing_else() {
        let hash = |text: &str| parse(text).expect(text).spec.hash;
        let base = hash("[circus]\nnode = a\n[watcher:w]\ncmd = sleep 1\n");
        assert_eq!(base.len(), 6);
        assert_eq!(base, hash("; moved\n[watcher:w]\ncmd: sleep 1 ; why\n[circus]\nnode = b\nstate_dir = /s\n"));
        assert_ne!(base, hash("[circus]\nnode = a\n[watcher:w]\ncmd = sleep 2\n"));
        let legion = hash("[legion:l]\nvalor = 3\nscroll = a\non_lord = log:x\n");
        assert_eq!(legion, hash("[legion:l]\nvalor = 4\nscroll = b\non_lord = log:x\n"));
        assert_ne!(legion, hash("[legion:l]\nvalor = 3\nscroll = a\non_lord = log:y\n"));
        let uwsgi = |valor, more| format!("[uwsgi]\nlegion = l h:1 {valor} x:y\nlegion-scroll = l {valor}\n{more}");
        assert_eq!(hash(&uwsgi(3, "legion-lord = l log:x\n")), legion);
        assert_eq!(hash(&uwsgi(4, "legion-lord = l log:x\nmaster = true\n")), legion);
    }

    #[test]
    fn a_host_name_that_is_no_node_name_is_made_one() {
        for (hostname, node) in [("web 1_é", "web-1_-"), ("", "localhost"), (&"x".repeat(99), &"x".repeat(64))] {
            let around = Surroundings { hostname: hostname.into(), ..around() };
            assert_eq!(parse_around("", &around).expect("fine").spec.node.as_str(), node);
        }
    }

    #[test]
    fn no_input_makes_the_reader_panic() {
        let text = uncommented();
        // A prime: the cuts fall into every part of a line.
        for end in (0..text.len()).step_by(53).filter(|end| text.is_char_boundary(*end)) {
            let _ = parse(&text[..end]);
        }
        // A fixed xorshift: the same inputs on every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        const NASTY: &[u8] = b"[]=:;#\"'\\$() \n\r\t\0-.*?@/%\x80\xff";
        for _ in 0..100 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=random(12) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = NASTY[random(NASTY.len())],
                    1 => bytes.insert(at, NASTY[random(NASTY.len())]),
                    _ => drop(bytes.drain(at..(at + random(40)).min(text.len() / 2).max(at))),
                }
            }
            if let Err(problems) = parse(&String::from_utf8_lossy(&bytes)) {
                let _ = render(&problems, Path::new("t.ini"), "no");
            }
        }
    }
}
