//! Sections and keys → [`AgentSpec`]: defaults, variables, and what must not be said together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::command::runs;
use super::keys::{self, Key, Section, Status};
use super::problem::{Problem, Problems, Spot, code};
use super::scan::{Document, Entry};
use super::settings::{self, Set, Settings};
use super::stream::Class;
use super::uwsgi::UWSGI;
use super::value::{Kind, RLIMITS, Value};
use super::vars::{self, EnvVars};
use super::watcher::{Environment, lease_texts};
use super::{Surroundings, python};
use crate::model::names::{ClusterName, LeaseKey, NodeName, SocketName, WatcherName};
use crate::model::pattern;
use crate::model::spec::{AgentSpec, Defaults, LogOutput, SocketSpec, WatcherSpec};

/// Reads the merged files; what is wrong goes to `problems`, and the result is then good for nothing.
pub(super) fn build(doc: &Document, around: &Surroundings, problems: &mut Problems) -> Option<AgentSpec> {
    let mut agent_env = EnvVars::default();
    agent_env.add(&around.env);
    let mut build = Build::new(doc, around, problems);
    build.check_sections();
    let global = build.env_section("env", Some(&agent_env));
    let mut vars = agent_env;
    vars.add(&global);

    let circus = build.settings("circus", Section::Circus, &vars);
    let redis = build.settings("redis", Section::Redis, &vars);
    let place = build.redis(&redis, &circus);
    build.check_lease_defaults(&redis);
    let circus_cluster = build.check_cluster_words(&circus, place.as_ref(), &vars);
    let mut zmq = build.zmq_doors(&circus, circus_cluster.as_ref());
    let log_output = build.log_output(&circus);
    build.python = build.interpreter(&circus);
    let heads = build.heads();
    build.names = heads.iter().map(|(_, name)| name.clone()).collect();
    let legions = heads.iter().filter(|(head, _)| Section::of(head) == Some(Section::Legion));
    build.legions = legions.map(|(_, name)| name.clone()).collect();
    if place.is_none() {
        build.check_alone(&heads);
    }
    build.read_sockets(&vars);
    let watchers = build.watchers(&heads, (&global, &vars), &redis);
    build.check_lease_keys(place.as_ref());
    build.check_order(&BTreeMap::new());
    build.check_unused();
    zmq.for_plugins = build.has_python_plugins;

    Some(AgentSpec {
        sockets: build.opened,
        node: match circus.text("node") {
            Some(name) => NodeName::parse(&name).ok()?,
            None => node_name(&around.hostname)?,
        },
        cluster: ClusterName::parse(&circus.text("cluster")?).ok()?,
        labels: circus.labels("labels"),
        control_socket: circus.path("control_socket"),
        zmq,
        state_dir: circus.path("state_dir"),
        allow_drills: circus.bool("allow_drills"),
        pidfile: circus.path("pidfile"),
        umask: circus.number("umask"),
        log_level: circus.level("loglevel"),
        log_output,
        python: build.python,
        global_options: global_options(&circus),
        redis: place,
        lease_settings: lease_texts(&redis),
        hash: String::new(),
        warmup_delay: circus.seconds("warmup_delay"),
        watchers,
    })
}

/// Reads the one watcher of a document, beside those that `defaults` has; its environment is `env`.
pub(super) fn build_one(
    doc: &Document,
    (head, name): (&str, &WatcherName),
    env: Environment,
    defaults: &Defaults,
    around: &Surroundings,
    problems: &mut Problems,
) -> Option<WatcherSpec> {
    let mut build = Build::new(doc, around, problems);
    build.python.clone_from(&defaults.python);
    build.names = defaults.watchers.keys().filter(|known| *known != name).chain([name]).cloned().collect();
    build.legions.clone_from(&defaults.legions);
    build.sockets.clone_from(&defaults.sockets);
    let (Environment::Plain(own) | Environment::Complete(own)) = &env;
    let mut vars = EnvVars::default();
    vars.add(&around.env);
    vars.add(own);
    let redis = build.settings("redis", Section::Redis, &vars);
    let settings = build.settings(head, build.section_of(head), &vars);
    let watcher = build.watcher(name, env, &settings, &redis);
    if let Some(watcher) = &watcher {
        build.check_logs(watcher, &settings, &mut BTreeMap::new());
    }
    build.check_order(&defaults.watchers);
    watcher
}

/// Reads the one socket of a document, beside the watchers that `defaults` has.
pub(super) fn build_socket(
    doc: &Document,
    (head, name): (&str, &SocketName),
    defaults: &Defaults,
    around: &Surroundings,
    problems: &mut Problems,
) -> Option<SocketSpec> {
    let mut build = Build::new(doc, around, problems);
    build.names = defaults.watchers.keys().cloned().collect();
    let mut vars = EnvVars::default();
    vars.add(&around.env);
    let settings = build.settings(head, Section::Socket, &vars);
    build.socket(name, &settings)
}

/// What `globaloptions` answers: Circus's keys as the file has them, or Circus's defaults.
fn global_options(circus: &Settings<'_>) -> BTreeMap<String, String> {
    let asked = [
        ("check_delay", "5.0"),
        ("endpoint", "tcp://127.0.0.1:5555"),
        ("multicast_endpoint", "udp://237.219.251.97:12027"),
        ("pubsub_endpoint", "tcp://127.0.0.1:5556"),
        ("stats_endpoint", "tcp://127.0.0.1:5557"),
    ];
    let text = |name, usual| circus.get(name).map_or(usual, |set| set.text.trim()).to_owned();
    asked.into_iter().map(|(name, usual)| (name.to_owned(), text(name, usual))).collect()
}

/// A host's name as a node's: what keys and channels cannot hold becomes `-`.
fn node_name(hostname: &str) -> Option<NodeName> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = hostname.chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect();
    NodeName::parse(if name.is_empty() { "localhost" } else { &name }).ok()
}

/// What is read, and what is known while it is read.
pub(super) struct Build<'a> {
    pub(super) doc: &'a Document,
    pub(super) around: &'a Surroundings,
    pub(super) problems: &'a mut Problems,
    /// The interpreter, where there is one.
    pub(super) python: Option<PathBuf>,
    /// Its module path once it was asked for, or why it did not tell.
    pub(super) module_path: Option<Result<String, String>>,
    /// Whether a plugin in Python was read.
    pub(super) has_python_plugins: bool,
    /// All watchers.
    pub(super) names: Vec<WatcherName>,
    /// Those of them that are legions.
    pub(super) legions: BTreeSet<WatcherName>,
    /// Those that start after others, with the place where that is said.
    pub(super) order: Vec<(WatcherName, Vec<WatcherName>, Spot)>,
    /// All sockets, each with the only watchers that may have it.
    pub(super) sockets: BTreeMap<SocketName, Vec<WatcherName>>,
    /// Those of the file, as far as they are sound.
    pub(super) opened: Vec<SocketSpec>,
    /// Those that some watcher names.
    pub(super) used: BTreeSet<SocketName>,
    /// The keys of leases that others take, too.
    pub(super) lease_keys: Vec<(WatcherName, LeaseKey, Spot)>,
    /// Free-form keys already warned about.
    free_forms: BTreeSet<&'a str>,
}

const TYPES: &[&str] =
    &["circus", "redis", "watcher", "env", "socket", "plugin", "legion", "uwsgi", "beatcop", "circus-cluster", "node"];

impl<'a> Build<'a> {
    fn new(doc: &'a Document, around: &'a Surroundings, problems: &'a mut Problems) -> Build<'a> {
        Build {
            doc,
            around,
            problems,
            python: None,
            has_python_plugins: false,
            module_path: None,
            names: Vec::new(),
            legions: BTreeSet::new(),
            order: Vec::new(),
            sockets: BTreeMap::new(),
            opened: Vec::new(),
            used: BTreeSet::new(),
            lease_keys: Vec::new(),
            free_forms: BTreeSet::new(),
        }
    }

    fn check_sections(&mut self) {
        for head in self.doc.sections() {
            let Some(spot) = self.doc.head(head).cloned() else { continue };
            if Section::of(head).is_some()
                || head == "env"
                || head.starts_with("env:")
                || matches!(head, "DEFAULT" | UWSGI)
            {
                let (kind, section, key) = match head.split(':').next() {
                    Some(kind @ "watcher") => (kind, Section::Watcher, "cmd"),
                    Some(kind @ "plugin") => (kind, self.section_of(head), "use"),
                    Some(kind @ "socket") => (kind, Section::Socket, "port"),
                    _ => continue,
                };
                if self.entries(head, section).is_empty() {
                    self.problems
                        .warn(code::NO_EFFECT, spot, format!("[{head}] is empty, and therefore no {kind}"))
                        .help(format_args!("give it a `{key}`"));
                }
            } else {
                let (kind, name) = head.split_once(':').map_or((head, None), |(kind, name)| (kind, Some(name)));
                let problem = self.problems.error(code::UNKNOWN_SECTION, spot, format!("unknown section [{head}]"));
                match (keys::nearest(kind.trim(), TYPES.iter().copied()), name) {
                    (Some(known), Some(name)) => problem.label(format!("did you mean `[{known}:{}]`?", name.trim())),
                    (Some(known), None) if matches!(&*known, "watcher" | "socket" | "plugin" | "legion" | "node") => {
                        problem.label(format!("did you mean `[{known}:NAME]`?"))
                    }
                    (Some(known), None) => problem.label(format!("did you mean `[{known}]`?")),
                    (None, _) => problem.help(
                        "sections are [circus], [redis], [watcher:NAME], [legion:NAME], [socket:NAME], [plugin:NAME], \
                         [env] and [env:NAMES]",
                    ),
                };
            }
        }
    }

    /// A section's keys, and below them those of `[DEFAULT]` that it knows.
    pub(super) fn entries(&self, head: &'a str, section: Section) -> Vec<Entry<'a>> {
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
            let settings = [Section::Circus, Section::Redis, Section::Socket, Section::Plugin(&[])];
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

    pub(super) fn settings(&mut self, head: &'a str, section: Section, vars: &EnvVars) -> Settings<'a> {
        let mut settings = Settings { head, section, set: Vec::new(), free: Vec::new() };
        for entry in self.entries(head, section) {
            let Some(key) = self.row(head, section, entry.key) else {
                if self.is_free(head, section, entry) {
                    settings.free.push((entry.key, vars.substitute(entry.value)));
                }
                continue;
            };
            let family = key.family(entry.key);
            if let Some(limit) = family.filter(|_| key.kind == Kind::Limit)
                && settings::rlimit(limit).is_none()
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
                    let set = Set { key, entry, text, value };
                    if self.allowed(&set) {
                        settings.set.push(set);
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

    /// A key's row. The options of a stream in Python are that stream's own, whatever ours of that name are.
    fn row(&self, head: &str, section: Section, name: &str) -> Option<&'static Key> {
        let stream = name.split_once("_stream.").filter(|(_, option)| *option != "class").map(|(stream, _)| stream);
        if let Some(stream) = stream
            && let Some(class) = self.doc.get(head, &format!("{stream}_stream.class"))
            && let Ok(Class::Python(_)) = Class::parse(class.value.trim())
        {
            return keys::find(section, &format!("{stream}_stream.*"));
        }
        keys::find(section, name)
    }

    /// Whether a key may be used; says why not, or why it has no effect.
    fn allowed(&mut self, set: &Set<'_>) -> bool {
        let Set { key, entry, .. } = set;
        match key.status {
            Status::Dead(why) if !set.is_default() => self.warn_of_dead(entry, why),
            _ => {}
        }
        true
    }

    fn warn_of_dead(&mut self, entry: &Entry<'_>, why: &str) {
        let message = format!("`{}` has no effect", entry.key);
        self.problems.warn(code::NO_EFFECT, entry.key_spot(), message).label(why);
    }

    /// Whether an unknown key of a watcher may stay, for hooks and plugins; says what is wrong with others.
    fn is_free(&mut self, head: &str, section: Section, entry: Entry<'a>) -> bool {
        let key = entry.key;
        let meant = keys::meant(section, key);
        // What it reads only its author knows.
        if section == Section::PythonPlugin {
            return true;
        }
        if section == Section::Watcher && meant.is_none() && !key.starts_with("flapping.") {
            if self.free_forms.insert(key) {
                let problem = self
                    .problems
                    .warn(code::FREE_FORM, entry.key_spot(), format!("`{key}` is no key of a watcher"))
                    .label("kept for hooks and plugins; nothing else reads it");
                if let Some(ours) = keys::elsewhere(key) {
                    problem.help(format_args!("did you mean `{ours}`?"));
                }
            }
            return true;
        }
        let problem =
            self.problems.error(code::UNKNOWN_KEY, entry.key_spot(), format!("unknown key `{key}` in [{head}]"));
        let others = [
            (Section::Circus, "[circus]"),
            (Section::Redis, "[redis]"),
            (Section::Watcher, "[watcher:NAME]"),
            (Section::Legion, "[legion:NAME]"),
            (Section::Socket, "[socket:NAME]"),
            (Section::Plugin(&[]), "another plugin's section"),
            (Section::CircusCluster, "[circus-cluster]"),
            (Section::Node, "[node:NAME]"),
        ];
        let at_home = others.iter().find(|(other, _)| keys::find(*other, key).is_some()).map(|(_, home)| home);
        match (at_home, meant) {
            (Some(home), _) => problem.label(format!("it belongs in {home}")),
            (None, Some(meant)) => problem.label(format!("did you mean `{meant}`?")),
            (None, None) => problem.help("take it out, or begin the line with `;`"),
        };
        false
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

    /// Warns of keys that nothing comes of here, and why.
    pub(super) fn no_effect(&mut self, settings: &Settings<'_>, keys: &[&str], why: &str) {
        for set in keys.iter().filter_map(|key| settings.get(key)).filter(|set| !set.is_default()) {
            let message = format!("`{}` has no effect here", set.entry.key);
            self.problems.warn(code::NO_EFFECT, set.entry.key_spot(), message).label(why);
        }
    }

    /// Whether a key is not there. One that is there and wrong has its own problem.
    pub(super) fn is_absent(&self, settings: &Settings<'_>, key: &str) -> bool {
        self.doc.get(settings.head, key).is_none_or(|entry| entry.value.trim().is_empty())
    }

    /// Begins to say that a section lacks a key.
    pub(super) fn missing(&mut self, head: &str, message: String) -> &mut Problem {
        let spot = self.doc.head(head).cloned().unwrap_or_else(|| Spot::file(Path::new(head)));
        self.problems.error(code::MISSING, spot, message)
    }

    // ---- [circus] ----

    fn log_output(&mut self, circus: &Settings<'_>) -> LogOutput {
        let Some(set) = circus.get("logoutput") else { return LogOutput::Stderr };
        let Value::LogOutput(output) = &set.value else { return LogOutput::Stderr };
        if let LogOutput::File(path) = output {
            self.check_directory(path, set);
        }
        output.clone()
    }

    /// The interpreter that the file names, or the first that is found.
    fn interpreter(&mut self, circus: &Settings<'_>) -> Option<PathBuf> {
        let (Some(set), Some(path)) = (circus.get("python"), circus.path("python")) else {
            return python::find(&self.around.env);
        };
        if !runs(&path) {
            let message = format!("there is no program {} on this machine", path.display());
            self.problems
                .error(code::PROGRAM, set.entry.spot(), message)
                .help("without this key, $VIRTUAL_ENV and the agent's PATH lead to python3");
        }
        Some(path)
    }

    // ---- [watcher:NAME], [legion:NAME] and [plugin:NAME] ----

    fn watchers(
        &mut self,
        heads: &[(&'a str, WatcherName)],
        (global, vars): (&BTreeMap<String, String>, &EnvVars),
        redis: &Settings<'_>,
    ) -> Vec<WatcherSpec> {
        let names: Vec<&str> = heads.iter().map(|(_, name)| name.as_str()).collect();
        let envs = self.env_sections(&names);
        let mut logs = BTreeMap::new();
        let mut watchers = Vec::new();
        for (head, name) in heads {
            let mut env = global.clone();
            for (_, section) in envs.iter().filter(|(patterns, _)| covers(patterns, name.as_str())) {
                env.extend(section.clone());
            }
            let mut vars = vars.clone();
            vars.add(&env);
            let settings = self.settings(head, self.section_of(head), &vars);
            if let Some(watcher) = self.watcher(name, Environment::Plain(env), &settings, redis) {
                self.check_logs(&watcher, &settings, &mut logs);
                watchers.push(watcher);
            }
        }
        watchers.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
        watchers
    }

    /// The sections that are watchers, with their names; a plugin's is that of its section.
    fn heads(&mut self) -> Vec<(&'a str, WatcherName)> {
        let doc = self.doc;
        let mut heads: Vec<(&'a str, WatcherName)> = Vec::new();
        for head in doc.sections().into_iter().filter(|head| is_watcher(head)) {
            // A legion without a word is one whose watchers say all.
            let section = self.section_of(head);
            if self.entries(head, section).is_empty() && section != Section::Legion {
                continue;
            }
            let Some(spot) = doc.head(head).cloned() else { continue };
            match name_of(head) {
                Err(why) => {
                    self.problems.error(code::HEAD, spot, why);
                }
                Ok(name) => {
                    if let Some((other, _)) = heads.iter().find(|(_, other)| other.matches(name.as_str())) {
                        let first = doc.head(other).map(Spot::short).unwrap_or_default();
                        let message = format!("[{head}] and [{other}] are one name to every command");
                        self.problems
                            .error(code::CONFLICT, spot, message)
                            .label("case and blanks around a name do not count")
                            .note(format_args!("the other is at {first}"));
                    }
                    heads.push((head, name));
                }
            }
        }
        heads
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
}

fn is_watcher(head: &str) -> bool {
    matches!(Section::of(head), Some(Section::Watcher | Section::Legion | Section::Plugin(_)))
}

/// The name of a watcher's, legion's or plugin's section. A plugin's begins with `plugin:`, as in Circus.
pub(super) fn name_of(head: &str) -> Result<WatcherName, String> {
    let (kind, name) = head.split_once(':').unwrap_or(("watcher", head));
    let name = WatcherName::parse(name.trim()).map_err(|why| why.0.replace("watcher", kind))?;
    match kind {
        "plugin" => WatcherName::parse(&format!("plugin:{name}")).map_err(|why| why.0),
        _ => Ok(name),
    }
}

/// Whether one of an `[env:NAMES]` section's patterns fits a watcher.
fn covers(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern::fits(pattern, name))
}
