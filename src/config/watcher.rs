//! One `[watcher:NAME]` or `[plugin:NAME]`: settings → [`WatcherSpec`], and what must not be said together.

use std::collections::BTreeMap;

use super::build::Build;
use super::command::runs;
use super::keys::{self, Section};
use super::problem::code;
use super::settings::{Set, Settings, parts};
use super::socket_use::Handed;
use super::value::Value;
use super::vars;
use crate::model::names::{LeaseKey, WatcherName};
use crate::model::spec::{
    Check, HealthAction, HealthSpec, HookPoint, HookProgram, HookSpec, LeaseTimings, Output, ProgramSpec, ReadySpec,
    RedisSpec, Seeds, Sink, StreamSpec, WatcherSpec,
};

/// What a watcher's processes find as environment, before the keys of the watcher add to it.
pub(super) enum Environment {
    /// The variables of `[env]` and `[env:…]`.
    Plain(BTreeMap<String, String>),
    /// What was made of them for a watcher that there is.
    Complete(BTreeMap<String, String>),
}

impl Build<'_> {
    /// The watcher, unless something keeps it from being one.
    pub(super) fn watcher(
        &mut self,
        name: &WatcherName,
        env: Environment,
        settings: &Settings<'_>,
        redis: &Settings<'_>,
    ) -> Option<WatcherSpec> {
        let mut env = match env {
            Environment::Complete(env) => env,
            Environment::Plain(mut env) => {
                self.python_paths(settings, &mut env);
                env
            }
        };
        let handed = self.handed(name, settings);
        let lord = self.lord(settings);
        let command = match (settings.section, &lord) {
            (_, Some(lord)) => Some((lord.words(name), Some("/proc/self/exe".into()))),
            (Section::Plugin(_) | Section::PythonPlugin, None) => self.plugin_command(name, settings, &mut env),
            (_, None) => self.words(settings, &handed).map(|words| (words, settings.path("executable"))),
        };
        let working_dir = settings.path("working_dir");
        if let (Some(directory), Some(set)) = (&working_dir, settings.get("working_dir"))
            && vars::references(&set.text).is_empty()
            && !directory.is_dir()
        {
            let message = format!("there is no directory {} on this machine", directory.display());
            self.problems
                .warn(code::DIRECTORY, set.entry.spot(), message)
                .label("processes will not start until there is");
        }
        if let (Some((words, executable)), Section::Watcher) = (&command, settings.section) {
            self.check_program(words, executable.as_deref(), &env, settings);
        }
        let singleton = settings.bool("singleton").then(|| self.timings(settings, redis));
        let numprocesses = settings.number("numprocesses").unwrap_or(1);
        self.check_number(name, settings, numprocesses, singleton.is_some());
        if singleton.is_none() {
            let keys = ["lease_ttl", "refresh_interval", "refresh_timeout", "lease_key"];
            self.no_effect(settings, &keys, "only singletons have a lease");
        }
        let lease_key = self.lease_key(name, settings).filter(|_| singleton.is_some());
        let mut stdout = self.output(name, settings, "stdout");
        let mut stderr = self.output(name, settings, "stderr");
        let election = self.election(settings, singleton.is_some() || lord.is_some());
        let follows = self.follows(name, settings, singleton.is_some());
        let (ready, health) = (self.ready(settings, &handed), self.health(settings, &handed));
        self.show_output(settings, &mut stdout, &mut stderr);
        let hooks = self.hooks(settings);
        let after = self.after(name, settings, follows.as_ref());
        let cron = self.cron(name, settings, numprocesses, singleton.is_some() || follows.is_some());
        let on_demand = self.on_demand(settings, &handed, singleton.is_some());
        let stop_signal = self.stop_signal(settings);
        let (words, executable) = command?;
        let program = ProgramSpec {
            executable,
            words,
            env,
            copy_env: settings.bool("copy_env"),
            working_dir,
            user: settings.user("uid"),
            gid: settings.number("gid"),
            umask: settings.number("umask"),
            rlimits: settings.rlimits(),
            close_stdin: settings.bool("close_child_stdin"),
            stdout,
            stderr,
            sockets: handed.sockets,
        };
        let mut watcher = WatcherSpec {
            name: name.clone(),
            program,
            numprocesses,
            max_per_node: settings.number("max_per_node"),
            warmup_delay: settings.seconds("warmup_delay"),
            priority: settings.number("priority").unwrap_or(0),
            autostart: settings.bool("autostart"),
            respawn: settings.bool("respawn"),
            // -1 fits no count: it stands for giving up never.
            max_retry: settings.number("max_retry"),
            graceful_timeout: settings.seconds("graceful_timeout"),
            stop_signal,
            stop_children: settings.bool("stop_children"),
            send_hup: settings.bool("send_hup"),
            max_age: settings.optional_seconds("max_age").filter(|age| !age.is_zero()),
            max_age_variance: settings.seconds("max_age_variance"),
            ready,
            health,
            after,
            hooks,
            hook_timeout: settings.seconds("hook_timeout"),
            on_demand,
            cron,
            singleton,
            lease_key,
            election,
            legion: None,
            follows,
            settings: kept(settings, redis, singleton.is_some()),
        };
        if let Some(lord) = lord {
            lord.leads(&mut watcher);
        }
        Some(watcher)
    }

    // ---- numbers ----

    fn check_number(&mut self, name: &WatcherName, settings: &Settings<'_>, numprocesses: u32, singleton: bool) {
        if let (Some(most), Some(set)) = (settings.number::<u32>("max_per_node"), settings.get("max_per_node"))
            && numprocesses > most
        {
            let message = format!("`{name}` cannot have {numprocesses} processes and {most} at most");
            self.problems
                .error(code::CONFLICT, set.entry.spot(), message)
                .help("`numprocesses` is above `max_per_node`");
        }
        let Some(set) = settings.get("numprocesses") else { return };
        if numprocesses == 0 {
            let message = format!("`{name}` has no processes, and starts none");
            self.problems.warn(code::NO_EFFECT, set.entry.spot(), message);
        } else if singleton && numprocesses > 1 {
            let message = format!("`{name}` is a singleton and cannot have {numprocesses} processes");
            self.problems
                .error(code::CONFLICT, set.entry.spot(), message)
                .help("a singleton is one process in the whole cluster: take `numprocesses` or `singleton` out");
        }
    }

    // ---- leases ----

    pub(super) fn check_lease_defaults(&mut self, redis: &Settings<'_>) {
        let timings = default_timings(redis);
        self.check_timings(&timings, &[redis]);
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

    /// The key of its lease, where it is not the lease's own.
    fn lease_key(&mut self, name: &WatcherName, settings: &Settings<'_>) -> Option<LeaseKey> {
        let key = LeaseKey::parse(&settings.text("lease_key")?).ok()?;
        self.lease_keys.push((name.clone(), key.clone(), settings.get("lease_key")?.entry.spot()));
        Some(key)
    }

    /// Refuses keys that two leases would share, and those that have no company in a Redis Cluster.
    pub(super) fn check_lease_keys(&mut self, redis: Option<&RedisSpec>) {
        let is_cluster = redis.is_some_and(|redis| matches!(Seeds::parse(redis.url.reveal()), Ok(Some(_))));
        for (at, (name, key, spot)) in self.lease_keys.iter().enumerate() {
            if let Some((other, ..)) = self.lease_keys[..at].iter().find(|(_, other, _)| other == key) {
                self.problems
                    .error(code::CONFLICT, spot.clone(), format!("`{name}` and `{other}` have one lease"))
                    .label("one of them would wait for ever");
            }
            if redis.is_none() && self.doc.head("redis").is_none() {
                self.problems
                    .warn(code::NO_EFFECT, spot.clone(), "`lease_key` has no effect")
                    .label("there is no [redis], where another program could have it");
            } else if is_cluster && key.tag().is_none() {
                self.problems
                    .error(code::LEASE, spot.clone(), "no other key shares the slot of this one in a Redis Cluster")
                    .label("it holds a `}`, and no braces with something in between")
                    .help("what stands in braces says which slot it is: `{beat}:lock`");
            }
        }
    }

    // ---- ready and health ----

    fn ready(&mut self, settings: &Settings<'_>, handed: &Handed<'_>) -> Option<ReadySpec> {
        let Some(Value::Check(check)) = settings.value("ready") else {
            if self.is_absent(settings, "ready") {
                self.no_effect(settings, &["ready_timeout"], "there is no `ready`");
            }
            return None;
        };
        if let Some(set) = settings.get("ready") {
            self.check_own_socket(set, &check, handed);
        }
        Some(ReadySpec { check, timeout: settings.seconds("ready_timeout") })
    }

    fn health(&mut self, settings: &Settings<'_>, handed: &Handed<'_>) -> Option<HealthSpec> {
        let Some(Value::Check(check)) = settings.value("health") else {
            if self.is_absent(settings, "health") {
                let keys = ["health_interval", "health_timeout", "health_retries", "health_action"];
                self.no_effect(settings, &keys, "there is no `health`");
            }
            return None;
        };
        if let Some(set) = settings.get("health") {
            self.check_own_socket(set, &check, handed);
        }
        let action = match settings.value("health_action") {
            Some(Value::Action(action)) => action,
            _ => HealthAction::Restart,
        };
        Some(HealthSpec {
            check,
            interval: settings.seconds("health_interval"),
            timeout: settings.seconds("health_timeout"),
            retries: settings.number("health_retries").unwrap_or(1),
            action,
        })
    }

    /// Leads output that a check reads through the agent.
    fn show_output(&mut self, settings: &Settings<'_>, stdout: &mut Output, stderr: &mut Output) {
        let reads = |set: &&Set<'_>| matches!(set.value, Value::Check(Check::Log(_)));
        let Some(set) = ["ready", "health"].iter().filter_map(|key| settings.get(key)).find(reads) else { return };
        if (&*stdout, &*stderr) == (&Output::Null, &Output::Null) {
            self.problems
                .error(code::CONFLICT, set.entry.spot(), "this check reads output, and there is none")
                .label("stdout and stderr both go to /dev/null")
                .help("take `close_child_stdout` or `close_child_stderr` out");
        }
        for output in [stdout, stderr].into_iter().filter(|output| **output == Output::Inherit) {
            *output = Output::Stream(StreamSpec { sink: Sink::Stdout, time_format: None });
        }
    }

    // ---- hooks ----

    fn hooks(&mut self, settings: &Settings<'_>) -> BTreeMap<HookPoint, HookSpec> {
        let mut hooks = BTreeMap::new();
        for set in settings.all() {
            let Some(name) = set.entry.key.strip_prefix("hooks.") else { continue };
            let Some(point) = HookPoint::parse(name) else {
                let message = format!("there is no point `{name}` for a hook");
                let problem = self.problems.error(code::UNKNOWN_KEY, set.entry.key_spot(), message);
                let known = HookPoint::ALL.map(HookPoint::name);
                match keys::nearest(name, known) {
                    Some(known) => problem.label(format!("did you mean `hooks.{known}`?")),
                    None => problem.help(format_args!("the points are {}", known.join(", "))),
                };
                continue;
            };
            let Value::Hook(hook) = &set.value else { continue };
            match &hook.program {
                HookProgram::Python(_) => self.need_python(set, "a hook in Python"),
                HookProgram::Command(words) => self.check_hook_program(settings, set, words),
            }
            hooks.insert(point, hook.clone());
        }
        // A legion's actions take it, too.
        if hooks.is_empty() && settings.section != Section::Legion {
            self.no_effect(settings, &["hook_timeout"], "there is no hook");
        }
        hooks
    }

    /// Warns of a hook that is not there. It is looked for in the watcher's directory, where hooks run.
    fn check_hook_program(&mut self, settings: &Settings<'_>, set: &Set<'_>, words: &[String]) {
        let Some(program) = words.first().filter(|program| program.contains('/')) else { return };
        let path = settings.path("working_dir").unwrap_or_default().join(program);
        if path.is_absolute() && !runs(&path) {
            self.problems
                .warn(code::PROGRAM, set.entry.spot(), format!("command not found: `{program}`"))
                .label("no program on this machine");
        }
    }

    // ---- order ----

    /// The watchers it starts after, under their own names. It waits for the legion that it follows, too.
    fn after(
        &mut self,
        name: &WatcherName,
        settings: &Settings<'_>,
        follows: Option<&WatcherName>,
    ) -> Vec<WatcherName> {
        let set = settings.get("after");
        let after = set.map(|set| self.watchers_in(set, code::ORDER, &format!("`{name}` would wait for ever")));
        let after = after.unwrap_or_default();
        if let Some(place) = set.or(settings.get("legion")) {
            let firsts = after.iter().chain(follows).cloned().collect();
            self.order.push((name.clone(), firsts, place.entry.spot()));
        }
        after
    }

    /// The watchers of a list, each once, under their own names. `otherwise` tells what would come of one that is not there.
    pub(super) fn watchers_in(&mut self, set: &Set<'_>, code: &'static str, otherwise: &str) -> Vec<WatcherName> {
        let mut found: Vec<WatcherName> = Vec::new();
        for (at, wanted) in parts(&set.text, |c| c == ',') {
            match self.names.iter().find(|known| known.matches(wanted)) {
                Some(known) if found.contains(known) => {}
                Some(known) => found.push(known.clone()),
                None => {
                    let hint = keys::nearest(wanted, self.names.iter().map(WatcherName::as_str));
                    let spot = set.part(at..at + wanted.len());
                    let problem = self.problems.error(code, spot, format!("there is no watcher `{wanted}`"));
                    match hint {
                        Some(known) => problem.label(format!("did you mean `{known}`?")),
                        None => problem.label(otherwise),
                    };
                }
            }
        }
        found
    }

    /// Refuses watchers that wait for each other. `others` are those that were read before.
    pub(super) fn check_order(&mut self, others: &BTreeMap<WatcherName, Vec<WatcherName>>) {
        let mut edges: BTreeMap<&WatcherName, &[WatcherName]> =
            others.iter().map(|(name, after)| (name, after.as_slice())).collect();
        edges.extend(self.order.iter().map(|(name, after, _)| (name, after.as_slice())));
        for (name, _, spot) in &self.order {
            let Some(cycle) = cycle(name, &edges) else { continue };
            // Told once, at its first watcher.
            let first = self.order.iter().map(|(name, ..)| name).filter(|name| cycle.contains(name)).min();
            if first != Some(name) {
                continue;
            }
            let names: Vec<&str> = cycle.iter().map(|name| name.as_str()).collect();
            let message = match names.as_slice() {
                [_, _] => format!("`{name}` waits for itself"),
                _ => format!("these watchers wait for each other: {}", names.join(" → ")),
            };
            self.problems.error(code::ORDER, spot.clone(), message).label("none of them would ever start");
        }
    }
}

/// All that a watcher was told, as text: what `set` changes one of, and what hooks and plugins may look into.
fn kept(settings: &Settings<'_>, redis: &Settings<'_>, singleton: bool) -> BTreeMap<String, String> {
    let known = settings.all().map(|set| (set.entry.key.to_owned(), set.text.trim().to_owned()));
    let free = settings.free.iter().map(|(key, text)| ((*key).to_owned(), text.clone()));
    let mut kept: BTreeMap<String, String> = known.chain(free).collect();
    // As text, and only as far as [redis] says: thirds follow from the ttl, here as there.
    if singleton && settings.get("lease_ttl").is_none() {
        for (key, text) in lease_texts(redis) {
            kept.entry(key.to_owned()).or_insert(text);
        }
    }
    kept
}

/// The lease timings of `[redis]`, as far as they are said.
pub(super) fn lease_texts(redis: &Settings<'_>) -> BTreeMap<String, String> {
    let ttl = redis.variable("lease_ttl").map(|ttl| ("lease_ttl", ttl));
    let said = ["refresh_interval", "refresh_timeout"];
    let said = said.into_iter().filter_map(|key| Some((key, redis.get(key)?.text.trim().to_owned())));
    ttl.into_iter().chain(said).map(|(key, text)| (key.to_owned(), text)).collect()
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

/// The shortest way from a watcher back to itself, both ends included.
fn cycle<'a>(
    from: &'a WatcherName,
    edges: &BTreeMap<&'a WatcherName, &'a [WatcherName]>,
) -> Option<Vec<&'a WatcherName>> {
    let mut came_from: BTreeMap<&WatcherName, &WatcherName> = BTreeMap::new();
    let mut reached = vec![from];
    let mut at = 0;
    while let Some(name) = reached.get(at).copied() {
        at += 1;
        for next in edges.get(name).copied().unwrap_or_default() {
            if next == from {
                let back = std::iter::successors(Some(name), |name| came_from.get(name).copied());
                let mut way: Vec<&WatcherName> = std::iter::once(from).chain(back).collect();
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, name);
                reached.push(next);
            }
        }
    }
    None
}
