//! Sections and keys → [`AgentSpec`]: defaults, variables, and what must not be said together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Surroundings;
use super::keys::{self, KEYS, Key, Section, Status};
use super::problem::{Problems, Spot, code};
use super::scan::{Document, Entry};
use super::value::{Kind, RLIMITS, Value};
use super::vars::{self, EnvVars};
use super::words;
use crate::model::names::{ClusterName, NodeName, WatcherName};
use crate::model::pattern;
use crate::model::spec::{
    AgentSpec, LeaseTimings, LogLevel, LogOutput, Output, ProgramSpec, RedisSpec, Rlimit, Secret, UserSpec, WID,
    WatcherSpec,
};

/// What to search for programs where a process has no `PATH`, as Circus's children do.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Reads the merged files; what is wrong goes to `problems`, and the spec is then good for nothing.
pub(super) fn build(doc: &Document, around: &Surroundings, problems: &mut Problems) -> Option<AgentSpec> {
    let mut agent_env = EnvVars::default();
    agent_env.add(&around.env);
    let mut build = Build { doc, around, problems, free_forms: BTreeSet::new() };
    build.check_sections();
    let global = build.env_section("env", Some(&agent_env));
    let mut vars = agent_env;
    vars.add(&global);

    let circus = build.settings("circus", Section::Circus, &vars);
    let redis = build.settings("redis", Section::Redis, &vars);
    let url = build.redis_url(&redis);
    build.check_lease_defaults(&redis);
    let watchers = build.watchers(&global, &vars, &redis);

    Some(AgentSpec {
        node: match circus.text("node") {
            Some(name) => NodeName::parse(&name).ok()?,
            None => node_name(&around.hostname)?,
        },
        cluster: ClusterName::parse(&circus.text("cluster")?).ok()?,
        control_socket: circus.path("control_socket"),
        state_dir: circus.path("state_dir"),
        pidfile: circus.path("pidfile"),
        umask: circus.number("umask"),
        log_level: circus.level("loglevel"),
        log_output: LogOutput::Stderr,
        python: None,
        global_options: BTreeMap::new(),
        redis: url.map(|url| RedisSpec { url: Secret::new(url) }),
        warmup_delay: circus.seconds("warmup_delay"),
        watchers,
    })
}

/// A host's name as a node's: what keys and channels cannot hold becomes `-`.
fn node_name(hostname: &str) -> Option<NodeName> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = hostname.chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect();
    NodeName::parse(if name.is_empty() { "localhost" } else { &name }).ok()
}

struct Build<'a> {
    doc: &'a Document,
    around: &'a Surroundings,
    problems: &'a mut Problems,
    /// Free-form keys already warned about.
    free_forms: BTreeSet<&'a str>,
}

/// The section types that wait for a later version, by their exact head or the beginning of it.
const LATER: &[&str] = &["socket:", "plugin:", "legion:", "beatcop", "circus-cluster", "node:"];
const TYPES: &[&str] =
    &["circus", "redis", "watcher", "env", "socket", "plugin", "legion", "beatcop", "circus-cluster", "node"];

impl<'a> Build<'a> {
    fn check_sections(&mut self) {
        for head in self.doc.sections() {
            let Some(spot) = self.doc.head(head).cloned() else { continue };
            let later = |kind: &str| if kind.ends_with(':') { head.starts_with(kind) } else { head == kind };
            if Section::of(head).is_some() || head == "env" || head.starts_with("env:") || head == "DEFAULT" {
                if head.starts_with("watcher:") && self.entries(head, Section::Watcher).is_empty() {
                    self.problems
                        .warn(code::NO_EFFECT, spot, format!("[{head}] is empty, and therefore no watcher"))
                        .help("give it a `cmd`");
                }
            } else if LATER.iter().any(|kind| later(kind)) {
                let kind = head.split(':').next().unwrap_or(head);
                self.problems
                    .error(code::NOT_YET, spot, format!("[{head}] is not supported yet"))
                    .label(format!("sections of the type `{kind}` come with a later version"));
            } else {
                let (kind, name) = head.split_once(':').map_or((head, None), |(kind, name)| (kind, Some(name)));
                let problem = self.problems.error(code::UNKNOWN_SECTION, spot, format!("unknown section [{head}]"));
                match (keys::nearest(kind.trim(), TYPES.iter().copied()), name) {
                    (Some(known), Some(name)) => problem.label(format!("did you mean `[{known}:{}]`?", name.trim())),
                    (Some(known), None) if matches!(&*known, "watcher" | "socket" | "plugin" | "legion" | "node") => {
                        problem.label(format!("did you mean `[{known}:NAME]`?"))
                    }
                    (Some(known), None) => problem.label(format!("did you mean `[{known}]`?")),
                    (None, _) => problem.help("sections are [circus], [redis], [watcher:NAME], [env] and [env:NAMES]"),
                };
            }
        }
    }

    /// A section's keys, and below them those of `[DEFAULT]` that it knows.
    fn entries(&self, head: &'a str, section: Section) -> Vec<Entry<'a>> {
        let doc = self.doc;
        let own = doc.entries(head);
        let defaults = doc.entries("DEFAULT").filter(|entry| keys::find(section, entry.key).is_some());
        own.chain(defaults.filter(|entry| doc.get(head, entry.key).is_none())).collect()
    }

    // ---- [env] ----

    /// The variables of an `[env…]` section. With `vars`, its `$(circus.env.…)` are replaced from there.
    fn env_section(&mut self, head: &'a str, vars: Option<&EnvVars>) -> BTreeMap<String, String> {
        let doc = self.doc;
        // Keys of [DEFAULT] belong to every section: those that are no setting are variables.
        let defaults = doc.entries("DEFAULT").filter(|entry| {
            let settings = [Section::Circus, Section::Redis, Section::Watcher];
            doc.head(head).is_some() && settings.iter().all(|section| keys::find(*section, entry.key).is_none())
        });
        let entries = doc.entries(head).chain(defaults.filter(|entry| doc.get(head, entry.key).is_none()));
        let mut env = BTreeMap::new();
        for entry in entries.collect::<Vec<_>>() {
            let value = match vars {
                Some(vars) => self.env_vars(&entry, Kind::Text, vars),
                None => entry.value.to_owned(),
            };
            if vars.is_none() && !vars::references(entry.value).is_empty() {
                self.problems
                    .warn(code::VARIABLE, entry.key_spot(), format!("[{head}] does not replace $(circus.…)"))
                    .label("the process gets it as it stands")
                    .help("[env] does replace $(circus.env.…); here, `$NAME` is replaced from the agent's environment");
            }
            for (_, name) in vars::dollars(&value) {
                if !self.around.env.contains_key(name) {
                    self.problems
                        .warn(
                            code::VARIABLE,
                            entry.key_spot(),
                            format!("`${name}` is not set in the agent's environment"),
                        )
                        .label("nothing stands in its place")
                        .note("variables of other [env] lines are not seen here, as in Circus");
                }
            }
            env.insert(entry.key.to_owned(), vars::expand_dollars(&value, &self.around.env));
        }
        env
    }

    // ---- keys of one section ----

    fn settings(&mut self, head: &'a str, section: Section, vars: &EnvVars) -> Settings<'a> {
        let mut settings = Settings { section, set: Vec::new() };
        for entry in self.entries(head, section) {
            let Some(key) = keys::find(section, entry.key) else {
                self.unknown_key(head, section, entry);
                continue;
            };
            let family = key.family(entry.key);
            if let Some(limit) = family.filter(|_| key.kind == Kind::Limit)
                && rlimit(limit).is_none()
            {
                let problem = self.problems.error(
                    code::UNKNOWN_KEY,
                    entry.key_spot(),
                    format!("unknown resource limit `{}`", entry.key),
                );
                match keys::nearest(limit, RLIMITS.iter().map(|(name, _)| *name)) {
                    Some(known) => problem.label(format!("did you mean `rlimit_{known}`?")),
                    None => problem.help("setrlimit(2) lists them: rlimit_nofile, rlimit_core, rlimit_as, …"),
                };
                continue;
            }
            let text = self.env_vars(&entry, key.kind, vars);
            match key.kind.parse(&text) {
                Ok(value) => {
                    if self.allowed(key, &entry, &value) {
                        settings.set.push(Set { key, entry, text, value });
                    }
                }
                Err(wrong) => {
                    let message = format!("`{}` {}", entry.key, wrong.message);
                    let problem = self.problems.error(wrong.code, entry.spot(), message).label(wrong.label);
                    if let Some(help) = wrong.help {
                        problem.help(help);
                    }
                    for reference in vars::references(entry.value) {
                        problem.note(format_args!("part of it comes from $(circus.{})", reference.name));
                    }
                }
            }
        }
        settings
    }

    /// Whether a key may be used; says why not, or why it has no effect.
    fn allowed(&mut self, key: &Key, entry: &Entry<'_>, value: &Value) -> bool {
        let is_default = match key.default {
            "" => *value == Value::Unset,
            default => key.kind.parse(default).as_ref() == Ok(value),
        };
        match key.status {
            Status::NotYet if !is_default => {
                let problem = self
                    .problems
                    .error(code::NOT_YET, entry.key_spot(), format!("`{}` is not supported yet", entry.key))
                    .label("comes with a later version");
                match key.default {
                    "" => problem.help("take this line out"),
                    default => problem.help(format_args!("until then, only `{} = {default}` is", entry.key)),
                };
                false
            }
            Status::Dead(why) if !is_default => {
                self.problems
                    .warn(code::NO_EFFECT, entry.key_spot(), format!("`{}` has no effect", entry.key))
                    .label(why);
                true
            }
            _ => true,
        }
    }

    fn unknown_key(&mut self, head: &str, section: Section, entry: Entry<'a>) {
        let key = entry.key;
        let meant = keys::meant(section, key);
        let ours = keys::elsewhere(key);
        if section == Section::Watcher && meant.is_none() {
            if self.free_forms.insert(key) {
                let problem = self
                    .problems
                    .warn(code::FREE_FORM, entry.key_spot(), format!("`{key}` is no key of a watcher"))
                    .label("nothing here reads it");
                if let Some(ours) = ours {
                    problem.help(format_args!("did you mean `{ours}`?"));
                }
            }
            return;
        }
        let problem =
            self.problems.error(code::UNKNOWN_KEY, entry.key_spot(), format!("unknown key `{key}` in [{head}]"));
        let others = [(Section::Circus, "[circus]"), (Section::Redis, "[redis]"), (Section::Watcher, "[watcher:NAME]")];
        let at_home = others.iter().find(|(other, _)| keys::find(*other, key).is_some()).map(|(_, home)| home);
        match (at_home, meant) {
            (Some(home), _) => problem.label(format!("it belongs in {home}")),
            (None, Some(meant)) => problem.label(format!("did you mean `{meant}`?")),
            (None, None) => problem.help("take it out, or begin the line with `;`"),
        };
    }

    /// An entry's value with its `$(circus.env.…)` replaced; other variables are for command lines only.
    fn env_vars(&mut self, entry: &Entry<'_>, kind: Kind, vars: &EnvVars) -> String {
        for reference in vars::references(entry.value) {
            let spot = entry.part(&reference.range);
            let name = &reference.name;
            if let Some(variable) = name.strip_prefix("env.") {
                if vars.get(name).is_none() {
                    let problem = self.problems.error(code::VARIABLE, spot, format!("`$(circus.{name})` has no value"));
                    match keys::nearest(variable, vars.names()) {
                        Some(known) => problem.label(format!("did you mean `$(circus.env.{known})`?")),
                        None => problem.label("no such variable in the agent's environment or [env]"),
                    };
                }
            } else if kind != Kind::Command {
                self.problems
                    .error(code::VARIABLE, spot, format!("`$(circus.{name})` cannot be used in `{}`", entry.key))
                    .label("cmd, args and shell_args know it; elsewhere there is $(circus.env.NAME)");
            }
        }
        if let Some(at) = entry.value.find("${circus.") {
            let end = entry.value[at..].find('}').map_or(entry.value.len(), |end| at + end + 1);
            self.problems
                .warn(code::VARIABLE, entry.part(&(at..end)), "this is no variable, and is left as it stands")
                .help("write `$(circus.NAME)`, in round brackets");
        }
        vars.substitute(entry.value)
    }

    // ---- [redis] ----

    fn redis_url(&mut self, redis: &Settings<'_>) -> Option<String> {
        let url = redis.text("url");
        let wrong = self.doc.get("redis", "url").is_some_and(|entry| !entry.value.is_empty());
        // Timings alone may come from the environment; a section in a file means Redis.
        if let (None, false, Some(head)) = (&url, wrong, self.doc.head("redis")) {
            self.problems
                .error(code::MISSING, head.clone(), "[redis] has no `url`")
                .help("write `url = redis://localhost:6379/0`, or set CIRCUS_REDIS_URL")
                .help("without this section, agents of one machine share leases and need no Redis");
        }
        url
    }

    fn check_lease_defaults(&mut self, redis: &Settings<'_>) {
        let timings = default_timings(redis);
        self.check_timings(&timings, &[redis]);
    }

    /// Refuses timings that cannot work, at the first of `levels` that sets one.
    fn check_timings(&mut self, timings: &LeaseTimings, levels: &[&Settings<'_>]) {
        let Err(why) = timings.check() else { return };
        let interval_is_worse = timings.refresh_interval > timings.refresh_timeout;
        let order = match (timings.ttl < LeaseTimings::MIN_TTL, interval_is_worse) {
            (true, _) => ["lease_ttl", "refresh_interval", "refresh_timeout"],
            (false, true) => ["refresh_interval", "refresh_timeout", "lease_ttl"],
            (false, false) => ["refresh_timeout", "refresh_interval", "lease_ttl"],
        };
        let spot =
            levels.iter().find_map(|level| order.iter().find_map(|key| level.get(key))).map(|set| set.entry.spot());
        if let Some(spot) = spot {
            self.problems
                .error(code::LEASE, spot, "with these timings, a lost lease could outlive its end")
                .note(why)
                .help("with `lease_ttl` alone, each of the others is a third of it");
        }
    }

    // ---- [watcher:NAME] ----

    fn watchers(
        &mut self,
        global: &BTreeMap<String, String>,
        vars: &EnvVars,
        redis: &Settings<'_>,
    ) -> Vec<WatcherSpec> {
        let doc = self.doc;
        let mut heads: Vec<(&'a str, WatcherName)> = Vec::new();
        for head in doc.sections() {
            let Some(name) = head.strip_prefix("watcher:") else { continue };
            if self.entries(head, Section::Watcher).is_empty() {
                continue;
            }
            let Some(spot) = doc.head(head).cloned() else { continue };
            match WatcherName::parse(name.trim()) {
                Err(why) => {
                    self.problems.error(code::HEAD, spot, why.0);
                }
                Ok(name) => {
                    if let Some((other, _)) = heads.iter().find(|(_, other)| other.matches(name.as_str())) {
                        let first = doc.head(other).map(Spot::short).unwrap_or_default();
                        self.problems
                            .error(
                                code::CONFLICT,
                                spot,
                                format!("[{head}] and [{other}] are one name to every command"),
                            )
                            .label("case and blanks around a name do not count")
                            .note(format_args!("the other is at {first}"));
                    }
                    heads.push((head, name));
                }
            }
        }
        let names: Vec<&str> = heads.iter().map(|(_, name)| name.as_str()).collect();
        let envs = self.env_sections(&names);
        let mut logs = BTreeMap::new();
        let mut watchers = Vec::new();
        for (head, name) in &heads {
            let mut env = global.clone();
            for (_, section) in envs.iter().filter(|(patterns, _)| covers(patterns, name.as_str())) {
                env.extend(section.clone());
            }
            let mut vars = vars.clone();
            vars.add(&env);
            let settings = self.settings(head, Section::Watcher, &vars);
            self.check_logs(name, &settings, &mut logs);
            watchers.extend(self.watcher(head, name, env, &settings, redis));
        }
        watchers.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
        watchers
    }

    /// The `[env:NAMES]` sections in file order, each with its patterns.
    fn env_sections(&mut self, watchers: &[&str]) -> Vec<(Vec<&'a str>, BTreeMap<String, String>)> {
        let mut sections = Vec::new();
        for head in self.doc.sections() {
            let Some(names) = head.strip_prefix("env:") else { continue };
            let patterns: Vec<&str> = names.split(',').map(str::trim).collect();
            for pattern in &patterns {
                if !watchers.iter().any(|name| pattern::fits(pattern, name))
                    && let Some(spot) = self.doc.head(head).cloned()
                {
                    let problem =
                        self.problems.warn(code::NO_EFFECT, spot, format!("no watcher is called `{pattern}`"));
                    if let Some(known) = keys::nearest(pattern, watchers.iter().copied()) {
                        problem.label(format!("did you mean `{known}`?"));
                    }
                }
            }
            sections.push((patterns, self.env_section(head, None)));
        }
        sections
    }

    fn check_logs(
        &mut self,
        name: &WatcherName,
        settings: &Settings<'_>,
        logs: &mut BTreeMap<PathBuf, (String, Spot)>,
    ) {
        for key in ["stdout_stream.filename", "stderr_stream.filename"] {
            let (Some(set), Some(path)) = (settings.get(key), settings.path(key)) else { continue };
            let spot = set.entry.spot();
            match logs.get(&path) {
                Some((other, first)) if other != name.as_str() => {
                    self.problems
                        .warn(code::SHARED_LOG, spot, format!("`{name}` and `{other}` write to one file"))
                        .label("their lines will mix")
                        .note(format_args!("the other is at {}", first.short()));
                }
                Some(_) => {}
                None => {
                    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
                        && !directory.is_dir()
                    {
                        self.missing_directory(spot.clone(), directory);
                    }
                    logs.insert(path, (name.to_string(), spot));
                }
            }
        }
    }

    fn missing_directory(&mut self, spot: Spot, directory: &Path) {
        self.problems
            .warn(code::DIRECTORY, spot, format!("there is no directory {} on this machine", directory.display()))
            .label("processes will not start until there is");
    }

    fn watcher(
        &mut self,
        head: &str,
        name: &WatcherName,
        env: BTreeMap<String, String>,
        settings: &Settings<'_>,
        redis: &Settings<'_>,
    ) -> Option<WatcherSpec> {
        let words = self.words(head, settings);
        let working_dir = settings.path("working_dir");
        if let (Some(directory), Some(set)) = (&working_dir, settings.get("working_dir"))
            && vars::references(&set.text).is_empty()
            && !directory.is_dir()
        {
            self.missing_directory(set.entry.spot(), directory);
        }
        if let (Some(words), Some(cmd)) = (&words, settings.get("cmd"))
            && !settings.bool("shell")
        {
            self.check_program(words, &env, settings, &cmd.entry);
        }
        let singleton = settings.bool("singleton").then(|| self.timings(settings, redis));
        let numprocesses = settings.number("numprocesses").unwrap_or(1);
        if let (Some(_), true, Some(set)) = (singleton, numprocesses > 1, settings.get("numprocesses")) {
            self.problems
                .error(
                    code::CONFLICT,
                    set.entry.spot(),
                    format!("`{name}` is a singleton and cannot have {numprocesses} processes"),
                )
                .help("a singleton is one process in the whole cluster: take `numprocesses` or `singleton` out");
        }
        if singleton.is_none() {
            for key in ["lease_ttl", "refresh_interval", "refresh_timeout"] {
                if let Some(set) = settings.get(key) {
                    self.problems
                        .warn(code::NO_EFFECT, set.entry.key_spot(), format!("`{key}` has no effect here"))
                        .label("only singletons have a lease");
                }
            }
        }
        if let (0, Some(set)) = (numprocesses, settings.get("numprocesses")) {
            self.problems.warn(
                code::NO_EFFECT,
                set.entry.spot(),
                format!("`{name}` has no processes, and starts none"),
            );
        }
        let program = ProgramSpec {
            executable: None,
            words: words?,
            env,
            copy_env: settings.bool("copy_env"),
            working_dir,
            user: settings.user("uid"),
            gid: settings.number("gid"),
            umask: settings.number("umask"),
            rlimits: settings.rlimits(),
            close_stdin: settings.bool("close_child_stdin"),
            stdout: self.output(settings, "stdout"),
            stderr: self.output(settings, "stderr"),
        };
        Some(WatcherSpec {
            name: name.clone(),
            program,
            numprocesses,
            warmup_delay: settings.seconds("warmup_delay"),
            priority: settings.number("priority").unwrap_or(0),
            autostart: settings.bool("autostart"),
            respawn: settings.bool("respawn"),
            // -1 fits no count: it stands for giving up never.
            max_retry: settings.number("max_retry"),
            graceful_timeout: settings.seconds("graceful_timeout"),
            stop_signal: settings.number("stop_signal").unwrap_or(libc::SIGTERM),
            stop_children: false,
            send_hup: false,
            max_age: None,
            max_age_variance: Duration::from_secs(30),
            ready: None,
            health: None,
            after: Vec::new(),
            hooks: BTreeMap::new(),
            hook_timeout: Duration::from_secs(30),
            singleton,
            settings: BTreeMap::new(),
        })
    }

    fn output(&mut self, settings: &Settings<'_>, stream: &str) -> Output {
        let close = settings.bool(&format!("close_child_{stream}"));
        let file = settings.path(&format!("{stream}_stream.filename"));
        let class = settings.get(&format!("{stream}_stream.class"));
        match (close, file) {
            (true, Some(_)) => {
                if let Some(set) = settings.get(&format!("close_child_{stream}")) {
                    self.problems
                        .error(
                            code::CONFLICT,
                            set.entry.spot(),
                            format!("{stream} cannot go to a file and to /dev/null"),
                        )
                        .help(format_args!("take `close_child_{stream}` or `{stream}_stream.filename` out"));
                }
                Output::Null
            }
            (true, None) => Output::Null,
            (false, Some(path)) => Output::file(path),
            (false, None) => {
                if let Some(set) = class.filter(|set| set.value != Value::Unset) {
                    self.problems
                        .error(code::MISSING, set.entry.spot(), "a FileStream needs a file")
                        .help(format_args!("write `{stream}_stream.filename = /path/to/file`"));
                }
                Output::Inherit
            }
        }
    }

    fn timings(&mut self, own: &Settings<'_>, redis: &Settings<'_>) -> LeaseTimings {
        let mut timings = match own.optional_seconds("lease_ttl") {
            // Another ttl takes its own thirds: those of [redis] belong to that of [redis].
            Some(ttl) => LeaseTimings::thirds(ttl),
            None => default_timings(redis),
        };
        timings.refresh_interval = own.optional_seconds("refresh_interval").unwrap_or(timings.refresh_interval);
        timings.refresh_timeout = own.optional_seconds("refresh_timeout").unwrap_or(timings.refresh_timeout);
        self.check_timings(&timings, &[own]);
        timings
    }

    // ---- command lines ----

    fn words(&mut self, head: &str, settings: &Settings<'_>) -> Option<Vec<String>> {
        let Some(cmd) = settings.get("cmd").filter(|set| set.value != Value::Unset) else {
            // A cmd that is there and wrong has its own problem.
            let empty = self.doc.get(head, "cmd").is_none_or(|entry| entry.value.trim().is_empty());
            if let (true, Some(spot)) = (empty, self.doc.head(head).cloned()) {
                self.problems.error(code::MISSING, spot, format!("[{head}] has no `cmd`")).label("nothing to run");
            }
            return None;
        };
        let shell = settings.bool("shell");
        for set in [Some(cmd), settings.get("args")].into_iter().flatten().filter(|_| shell) {
            self.warn_of_cut(set);
        }
        let cmd_line = self.fill(cmd, settings);
        let cmd_words = self.split(cmd, &cmd_line);
        let args = settings.get("args").map(|set| (set, self.fill(set, settings)));
        let args_words = args.as_ref().map(|(set, line)| self.split(set, line));
        let shell_args = settings.get("shell_args").map(|set| {
            if !shell {
                self.problems
                    .warn(code::NO_EFFECT, set.entry.key_spot(), "`shell_args` has no effect here")
                    .label("only with `shell = True`");
            }
            let line = self.fill(set, settings);
            self.split(set, &line)
        });
        let (args_words, shell_args) =
            (args_words.unwrap_or(Some(Vec::new()))?, shell_args.unwrap_or(Some(Vec::new()))?);
        let mut words = cmd_words?;
        if words.first().is_none_or(String::is_empty) {
            self.problems.error(code::MISSING, cmd.entry.spot(), "`cmd` names no program");
            return None;
        }
        if !shell {
            words.extend(args_words);
            return Some(words);
        }
        // The line is the shell's, as Circus's documentation says; Circus itself quotes each word, which makes
        // `;` and `|` literal. Line ends are those of the file, not of the script.
        let line = [cmd_line, args.map_or(String::new(), |(_, line)| line)].join(" ").replace('\n', " ");
        let sh = ["/bin/sh".to_owned(), "-c".to_owned(), line.trim().to_owned()];
        Some(sh.into_iter().chain(shell_args).collect())
    }

    /// Warns of a shell's line that ends at a `;` which was perhaps meant for the shell.
    fn warn_of_cut(&mut self, set: &Set<'_>) {
        let Set { entry, .. } = set;
        let quoted = words::split(entry.value).is_err();
        if let (Some(uncut), false) = (&entry.place.uncut, quoted) {
            let comment = uncut[entry.value.len().min(uncut.len())..].trim();
            if !comment.trim_start_matches(';').trim().is_empty() {
                self.problems
                    .warn(code::QUOTES, entry.spot(), format!("the shell sees `{}` only up to its ` ;`", entry.key))
                    .note("after a blank, the first `;` of a value begins a comment, as in Circus")
                    .help("if it is the shell's, write it right after the word before it: `a; b`");
            }
        }
    }

    /// A command line with all its variables filled in but the slot number.
    fn fill(&mut self, set: &Set<'_>, settings: &Settings<'_>) -> String {
        for reference in vars::references(set.entry.value) {
            let name = reference.name.as_str();
            if name.starts_with("env.") || settings.variable(name).is_some() {
                continue;
            }
            let spot = set.entry.part(&reference.range);
            if let Some(socket) = name.strip_prefix("sockets.") {
                let sections = self.doc.sections();
                if !sections.iter().any(|head| head.to_lowercase() == format!("socket:{socket}")) {
                    self.problems
                        .error(code::VARIABLE, spot, format!("there is no socket `{socket}`"))
                        .label(format!("no section [socket:{socket}]"));
                }
                continue;
            }
            let problem = self.problems.error(code::VARIABLE, spot, format!("`$(circus.{name})` has no value"));
            if keys::find(Section::Watcher, name).is_some() {
                problem.label(format!("this watcher sets no `{name}`"));
                continue;
            }
            let known = KEYS.iter().filter(|key| key.section == Section::Watcher).map(|key| key.name);
            match keys::nearest(name, known.chain(["wid"])) {
                Some(known) => problem.label(format!("did you mean `$(circus.{known})`?")),
                None => problem
                    .label("no such variable")
                    .help("there are wid, env.NAME, rlimits.NAME and the keys of the watcher"),
            };
        }
        vars::substitute(&set.text, |name| settings.variable(name))
    }

    fn split(&mut self, set: &Set<'_>, line: &str) -> Option<Vec<String>> {
        let unclosed = match words::split(line) {
            Ok(words) => return Some(words),
            Err(unclosed) => unclosed,
        };
        let entry = &set.entry;
        // Variables shift what follows them: the place is known only where the file itself has the quote open.
        let spot = match words::split(entry.value) {
            Err(raw) => entry.part(&(raw.at..raw.at + raw.quote.len_utf8())),
            Ok(_) => entry.spot(),
        };
        let cut = entry.place.uncut.as_ref().is_some_and(|uncut| words::split(uncut).is_ok());
        let key = entry.key;
        if cut {
            self.problems
                .error(code::QUOTES, spot, format!("`{key}` ends inside quotes, at a `;` that begins a comment"))
                .label("opens here")
                .note("after a blank, the first `;` of a value begins a comment, inside quotes too, as in Circus")
                .help("write the `;` right after the word before it: `a; b`");
        } else if unclosed.quote == '\\' {
            self.problems.error(code::QUOTES, spot, format!("`{key}` ends in a backslash"));
        } else {
            self.problems
                .error(code::QUOTES, spot, format!("the quotes of `{key}` do not close"))
                .label(format!("no second {} follows", unclosed.quote));
        }
        None
    }

    /// Warns where the program is not on this machine; another may have it, or a later deployment bring it.
    fn check_program(
        &mut self,
        words: &[String],
        env: &BTreeMap<String, String>,
        settings: &Settings<'_>,
        cmd: &Entry<'_>,
    ) {
        let Some(program) = words.first().filter(|word| !word.contains(WID)) else { return };
        let runs =
            |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        let base = settings.path("working_dir").unwrap_or_default();
        let word = cmd.value.split_whitespace().next().unwrap_or_default();
        let spot = cmd.part(&Range { start: 0, end: word.len() });
        if program.contains('/') {
            if !runs(&base.join(program)) {
                self.problems
                    .warn(code::PROGRAM, spot, format!("command not found: `{program}`"))
                    .label("no program on this machine");
            }
            return;
        }
        let inherited = if settings.bool("copy_env") { self.around.env.get("PATH") } else { None };
        let path = env.get("PATH").or(inherited).map_or(DEFAULT_PATH, String::as_str);
        let absolute = |directory: &&str| directory.starts_with('/') || base.is_absolute();
        if path.split(':').any(|directory| runs(&base.join(directory).join(program))) {
            return;
        }
        // Where the path leads depends on where the agent will run.
        if !path.split(':').all(|directory| absolute(&directory)) && base.as_os_str().is_empty() {
            return;
        }
        let problem = self.problems.warn(code::PROGRAM, spot, format!("command not found: `{program}`")).label(
            if env.contains_key("PATH") { "not in the PATH of [env]".to_owned() } else { format!("not in {path}") },
        );
        let elsewhere = self.around.env.get("PATH").map(String::as_str).unwrap_or_default();
        match elsewhere.split(':').map(|directory| Path::new(directory).join(program)).find(|path| runs(path)) {
            Some(found) => problem.help(format_args!(
                "there is {}; write that, or give the watcher the agent's PATH: `copy_env = True`, or \
                 `PATH = $PATH` in [env]",
                found.display()
            )),
            None => problem.help("write the full path, or set PATH in an [env] section"),
        };
    }
}

/// Whether one of an `[env:NAMES]` section's patterns fits a watcher.
fn covers(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern::fits(pattern, name))
}

fn default_timings(redis: &Settings<'_>) -> LeaseTimings {
    let ttl = redis.seconds("lease_ttl");
    let thirds = LeaseTimings::thirds(ttl);
    LeaseTimings {
        ttl,
        refresh_interval: redis.optional_seconds("refresh_interval").unwrap_or(thirds.refresh_interval),
        refresh_timeout: redis.optional_seconds("refresh_timeout").unwrap_or(thirds.refresh_timeout),
    }
}

fn rlimit(name: &str) -> Option<Rlimit> {
    let name = name.to_lowercase();
    let resource = RLIMITS.iter().find(|(known, _)| *known == name)?.1;
    Some(Rlimit { name, resource, limit: None })
}

/// One section's keys with their values, each over its default.
struct Settings<'a> {
    section: Section,
    set: Vec<Set<'a>>,
}

/// A key that is set.
struct Set<'a> {
    key: &'static Key,
    entry: Entry<'a>,
    /// The text with its `$(circus.env.…)` replaced.
    text: String,
    value: Value,
}

impl<'a> Settings<'a> {
    fn get(&self, name: &str) -> Option<&Set<'a>> {
        self.set.iter().find(|set| set.entry.key == name)
    }

    /// The value of a key: as set, else its default, else nothing.
    fn value(&self, name: &str) -> Option<Value> {
        let set = self.get(name).map(|set| set.value.clone()).filter(|value| *value != Value::Unset);
        set.or_else(|| {
            let key = keys::find(self.section, name)?;
            key.kind.parse(key.default).ok().filter(|value| *value != Value::Unset && !key.default.is_empty())
        })
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn bool(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Bool(true))
    }

    fn number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        match self.value(name) {
            Some(Value::Number(number)) => T::try_from(number).ok(),
            _ => None,
        }
    }

    fn optional_seconds(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Some(Value::Seconds(seconds)) => Some(seconds),
            _ => None,
        }
    }

    fn seconds(&self, name: &str) -> Duration {
        self.optional_seconds(name).unwrap_or_default()
    }

    fn user(&self, name: &str) -> Option<UserSpec> {
        match self.value(name) {
            Some(Value::User(user)) => Some(user),
            _ => None,
        }
    }

    fn level(&self, name: &str) -> Option<LogLevel> {
        match self.get(name)?.value {
            Value::Level(level) => Some(level),
            _ => None,
        }
    }

    fn rlimits(&self) -> Vec<Rlimit> {
        let set = |set: &Set<'_>| match set.value {
            Value::Limit(limit) => Some(Rlimit { limit, ..rlimit(set.key.family(set.entry.key)?)? }),
            _ => None,
        };
        self.set.iter().filter_map(set).collect()
    }

    /// What a variable of a command line stands for, without `circus.` and in lower case.
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "wid" => return Some(WID.to_owned()),
            // Circus's inner name.
            "use_fds" => return self.variable("use_sockets"),
            _ => {}
        }
        if let Some(limit) = name.strip_prefix("rlimits.") {
            let limit = format!("rlimit_{limit}");
            return self.set.iter().find(|set| set.entry.key.to_lowercase() == limit).map(|set| set.text.clone());
        }
        let key = keys::find(self.section, name)?;
        let text = self.get(name).map_or(key.default, |set| &set.text);
        match self.value(name)? {
            Value::Bool(true) => Some("True".into()),
            Value::Bool(false) => Some("False".into()),
            Value::Number(number) if key.kind == Kind::Signal => Some(number.to_string()),
            Value::Seconds(seconds) => Some(seconds.as_secs_f64().to_string()),
            _ => Some(text.trim().to_owned()),
        }
    }
}
