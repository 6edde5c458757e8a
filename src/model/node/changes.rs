//! Changes of what should be: the configuration file read again, settings changed, watchers added and removed.
//!
//! The file is compared with what it said before, not with what commands have made of it since: what `set`, `incr` or
//! `add` did stays, unless the file has something new to say about it.

use std::collections::{BTreeMap, BTreeSet};

use super::waits::Goal;
use super::watchers::Key;
use super::{Node, State, log};
use crate::model::command::{Answer, Command, Leave, Patience, Refusal, Reply, RequestId};
use crate::model::event::{Action, AmendBase, Changes, Event, Level, News, Notice};
use crate::model::history::{Cause, Ending};
use crate::model::names::{SocketName, WatcherName};
use crate::model::plan::{Change, Effect, KeyChange, Plan, SocketEffect};
use crate::model::sockets::Socket;
use crate::model::spec::{AgentSpec, Defaults, RedisSpec, WatcherSpec};
use crate::model::watcher::Watcher;

/// What the configuration is read for.
#[derive(Debug)]
pub(super) enum Reading {
    /// To say what would change.
    Plan,
    /// To change it.
    Apply { patience: Patience },
}

/// What a watcher is being worked out for.
#[derive(Debug)]
pub(super) enum Amendment {
    /// New settings.
    Set { key: Key, base: Box<WatcherSpec>, changes: Changes, patience: Patience },
    /// A new watcher.
    Add { name: String, start: bool, patience: Patience },
}

impl Node {
    // ---- the file ----

    /// Has the configuration read for a request.
    pub(super) fn read_spec(&mut self, request: RequestId, reading: Reading, actions: &mut Vec<Action>) {
        self.readings.insert(request, reading);
        actions.push(Action::ReadSpec { request: Some(request) });
    }

    /// The configuration was read, or cannot be.
    pub(super) fn spec_read(
        &mut self,
        request: Option<RequestId>,
        spec: Result<Box<AgentSpec>, String>,
        actions: &mut Vec<Action>,
    ) {
        if self.is_opening() {
            self.deferred.push_back(Event::SpecRead { request, spec });
            return;
        }
        let reading = match request {
            None => Reading::Apply { patience: Patience::Admitted },
            Some(request) => match self.readings.remove(&request) {
                Some(reading) => reading,
                None => return,
            },
        };
        let stopping = matches!(self.phase, State::Stopping { .. } | State::Left);
        let spec = spec.map(|mut spec| {
            spec.watchers.sort_by(WatcherSpec::start_order);
            spec
        });
        let reply = match (spec, reading) {
            (Err(problems), _) => {
                let refusal = Refusal::BadConfig(problems);
                log(actions, Level::Error, refusal.to_string());
                Some(Reply::Refused(refusal))
            }
            (Ok(spec), Reading::Plan) => Some(Reply::Done(Answer::Plan(self.plan(&spec)))),
            (Ok(_), Reading::Apply { .. }) if stopping => Some(Reply::Refused(Refusal::Stopping)),
            (Ok(spec), Reading::Apply { patience }) => {
                self.open_and_apply(request, *spec, patience, actions);
                None
            }
        };
        if let (Some(request), Some(reply)) = (request, reply) {
            self.reply(request, reply, actions);
        }
    }

    /// Applies a file whose sockets are open.
    pub(super) fn apply_file(
        &mut self,
        request: Option<RequestId>,
        spec: AgentSpec,
        opened: Vec<Socket>,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) {
        let plan = self.plan(&spec);
        log(actions, Level::Info, summary(&plan));
        let by = request.and_then(|request| self.asker(request));
        let (changed, gone) = self.apply(spec, opened, &plan, by.as_deref(), actions);
        let Some(request) = request else { return };
        if let Some(reply) = self.wait_or(patience, request, Goal::Applied { plan, changed, gone }) {
            self.reply(request, reply, actions);
        }
    }

    /// What applying `spec` would do.
    fn plan(&self, spec: &AgentSpec) -> Plan {
        let sockets = self.socket_changes(&spec.sockets);
        let staying = self.sockets_without(&sockets);
        let (needs_restart, config) = (needs_restart(&self.agent, spec), spec.hash.clone());
        let mut plan = Plan { needs_restart, sockets, config, ..Plan::default() };
        let named = |name: &WatcherName| spec.watchers.iter().any(|watcher| watcher.name == *name);
        for watcher in self.watchers.iter().rev().filter(|watcher| watcher.filed().is_some()) {
            let name = &watcher.spec().name;
            if !named(name) {
                let effect = Effect::Removed { stops: count(watcher.pids().len()) };
                plan.changes.push(Change { watcher: name.clone(), effect, keys: Vec::new() });
            }
        }
        for new in &spec.watchers {
            let there = self.position_of(&new.name).map(|key| &self.watchers[key]);
            match there.map(|watcher| (watcher, watcher.filed())) {
                None => {
                    let starts = if new.autostart { new.numprocesses } else { 0 };
                    let change =
                        Change { watcher: new.name.clone(), effect: Effect::Added { starts }, keys: Vec::new() };
                    plan.changes.push(change);
                }
                Some((watcher, Some(old))) if old == new && watcher.holds_other_than(&staying) => {
                    let effect = Effect::Replaced { restarts: count(watcher.pids().len()) };
                    plan.changes.push(Change { watcher: new.name.clone(), effect, keys: Vec::new() });
                }
                Some((_, Some(old))) if old == new => plan.unchanged += 1,
                Some((watcher, old)) => {
                    let keys = watcher_changes(old.unwrap_or(watcher.spec()), new);
                    plan.changes.push(Change { watcher: new.name.clone(), effect: effect(watcher, new), keys });
                }
            }
        }
        plan
    }

    /// Makes of the watchers what the file says: those that changed or came, and those that go.
    fn apply(
        &mut self,
        mut spec: AgentSpec,
        opened: Vec<Socket>,
        plan: &Plan,
        by: Option<&str>,
        actions: &mut Vec<Action>,
    ) -> (Vec<Key>, Vec<Key>) {
        let closed = plan.sockets.iter().filter(|change| change.effect == SocketEffect::Removed);
        let closed: Vec<SocketName> = closed.map(|change| change.socket.clone()).collect();
        let (mut changed, mut gone) = (self.install(opened, &closed, actions), Vec::new());
        let mut watchers: BTreeMap<WatcherName, WatcherSpec> =
            std::mem::take(&mut spec.watchers).into_iter().map(|watcher| (watcher.name.clone(), watcher)).collect();
        for change in &plan.changes {
            let there = self.position_of(&change.watcher);
            match (change.effect, there, watchers.remove(&change.watcher)) {
                (Effect::Removed { .. }, Some(key), _) => {
                    self.dismiss_watcher(key, by.map(str::to_owned));
                    gone.push(key);
                }
                (_, Some(key), Some(new)) => {
                    self.watchers.stir(key).amend(new, true);
                    changed.push(key);
                }
                (_, None, Some(new)) => {
                    let autostart = new.autostart;
                    let key = match self.watchers.named(&new.name) {
                        // It comes back before it has gone; there is never a second one of its name.
                        Some(key) => {
                            self.leaving.remove(&key);
                            self.watchers.stir(key).come_back(new);
                            key
                        }
                        None => self.add_watcher(new, true, actions),
                    };
                    match &mut self.drained {
                        _ if !autostart => {}
                        Some(drained) => {
                            drained.wanted.insert(key);
                        }
                        None => self.queue.push_back(key),
                    }
                    changed.push(key);
                }
                (_, _, None) => {}
            }
        }
        // What the running agent cannot change stays as it is, and stays different until it is started again.
        self.agent.warmup_delay = spec.warmup_delay;
        self.agent.allow_drills = spec.allow_drills;
        self.agent.labels = spec.labels;
        self.agent.global_options = spec.global_options;
        self.agent.lease_settings = spec.lease_settings;
        self.agent.hash = spec.hash;
        self.watchers.sort();
        self.learn_order();
        (changed, gone)
    }

    // ---- set, add, rm ----

    /// Has new settings of a watcher worked out.
    pub(super) fn set(
        &mut self,
        request: RequestId,
        watcher: &str,
        changes: Changes,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let key = self.find(watcher)?;
        let base = Box::new(self.watchers[key].spec().clone());
        let (of, asked, mut defaults) = (AmendBase::Watcher(base.clone()), changes.clone(), self.defaults());
        // What it comes after may have been removed since: that keeps nobody waiting, and other settings may change.
        for first in &base.after {
            defaults.watchers.entry(first.clone()).or_default();
        }
        actions.push(Action::Amend { request, base: of, changes: asked, defaults });
        self.amendments.insert(request, Amendment::Set { key, base, changes, patience });
        Ok(())
    }

    /// Has a new watcher worked out.
    pub(super) fn add(
        &mut self,
        request: RequestId,
        command: Command,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let Command::Add { name, changes, start, patience } = command else { return Ok(()) };
        self.check_new(&name)?;
        let (base, defaults) = (AmendBase::New(name.clone()), self.defaults());
        actions.push(Action::Amend { request, base, changes, defaults });
        self.amendments.insert(request, Amendment::Add { name, start, patience });
        Ok(())
    }

    /// What a changed or new watcher takes from what is around it.
    pub(super) fn defaults(&self) -> Defaults {
        let order = |watcher: &Watcher| (watcher.spec().name.clone(), watcher.spec().firsts().cloned().collect());
        let access = |socket: &Socket| (socket.spec.name.clone(), socket.spec.watchers.clone());
        let legions = self.watchers.iter().map(Watcher::spec).filter(|spec| spec.legion.is_some());
        Defaults {
            watchers: self.watchers.iter().map(order).collect(),
            legions: legions.map(|spec| spec.name.clone()).collect(),
            sockets: self.sockets.iter().map(access).collect(),
            ..self.agent.defaults()
        }
    }

    fn check_new(&self, name: &str) -> Result<(), Refusal> {
        match self.watchers.iter().find(|watcher| watcher.spec().name.matches(name)) {
            Some(watcher) => Err(Refusal::Exists(watcher.spec().name.clone())),
            None => Ok(()),
        }
    }

    /// A watcher was worked out for a request, or cannot be.
    pub(super) fn amended(
        &mut self,
        request: RequestId,
        spec: Result<Box<WatcherSpec>, String>,
        actions: &mut Vec<Action>,
    ) {
        let Some(amendment) = self.amendments.remove(&request) else { return };
        let reply = match (spec, amendment) {
            (Err(problems), _) => Some(Reply::Refused(Refusal::BadMessage(problems))),
            (Ok(_), _) if matches!(self.phase, State::Stopping { .. } | State::Left) => {
                Some(Reply::Refused(Refusal::Stopping))
            }
            (Ok(spec), Amendment::Set { key, base, changes, patience }) => {
                self.settings_ready(request, key, (base, *spec), changes, patience, actions)
            }
            (Ok(spec), Amendment::Add { name, start, patience }) => {
                let checked =
                    self.check_new(&name).and_then(|()| self.check_firsts(&spec, &[]).map_err(Refusal::BadMessage));
                match checked {
                    Err(refusal) => Some(Reply::Refused(refusal)),
                    Ok(()) => {
                        let key = self.add_watcher(*spec, false, actions);
                        self.learn_order();
                        if start {
                            self.watchers.stir(key).start(self.now);
                            self.wait_or(patience, request, Goal::Added { key })
                        } else {
                            Some(Reply::Done(Answer::Ok))
                        }
                    }
                }
            }
        };
        if let Some(reply) = reply {
            self.reply(request, reply, actions);
        }
    }

    /// Applies new settings, unless others came in between: then they are worked out anew.
    fn settings_ready(
        &mut self,
        request: RequestId,
        key: Key,
        (base, spec): (Box<WatcherSpec>, WatcherSpec),
        changes: Changes,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Option<Reply> {
        let Some(watcher) = self.watchers.get(key).filter(|_| !self.leaving.contains(&key)) else {
            let refusal = Refusal::Failed(format!("{} was removed meanwhile", base.name));
            return Some(Reply::Refused(refusal));
        };
        if *watcher.spec() != *base {
            let name = base.name.to_string();
            return self.set(request, &name, changes, patience, actions).err().map(Reply::Refused);
        }
        let before: Vec<WatcherName> = base.firsts().cloned().collect();
        if let Err(why) = self.check_firsts(&spec, &before) {
            return Some(Reply::Refused(Refusal::BadMessage(why)));
        }
        let updated = changes.settings.len() + usize::from(changes.env.is_some());
        for _ in 0..updated {
            actions.push(Action::Publish(Notice { watcher: spec.name.clone(), news: News::Updated }));
        }
        self.watchers.stir(key).amend(spec, false);
        self.watchers.sort();
        self.learn_order();
        self.wait_or(patience, request, Goal::AsTold { keys: vec![key] })
    }

    fn add_watcher(&mut self, spec: WatcherSpec, filed: bool, actions: &mut Vec<Action>) -> Key {
        let name = spec.name.clone();
        let watcher = Watcher::new(spec, filed, &self.cluster, &self.name, self.random.branch());
        let key = self.watchers.add(watcher);
        self.watchers.peek(key).see_sockets(&self.sockets);
        log(actions, Level::Info, format!("{name}: added"));
        actions.push(Action::Publish(Notice { watcher: name, news: News::Add }));
        key
    }

    /// Removes a watcher: at once with what it runs left alone, or when it is down.
    pub(super) fn remove_watcher(
        &mut self,
        request: RequestId,
        watcher: &str,
        leave: Leave,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Refusal> {
        let key = self.find(watcher)?;
        let name = &self.watchers[key].spec().name;
        if leave == Leave::Processes {
            if self.watchers[key].is_guarded() {
                let what = match self.watchers[key].leader() {
                    Some(legion) => format!("follows the legion {legion}"),
                    None => "is a singleton".to_owned(),
                };
                return Err(Refusal::BadMessage(format!("{name} {what}: nothing of it may run unguarded")));
            }
            self.remove(key, actions);
            return Ok(Some(Reply::Done(Answer::Ok)));
        }
        let by = self.asker(request);
        self.dismiss_watcher(key, by);
        Ok(self.wait_or(patience, request, Goal::Removed { keys: vec![key] }))
    }

    /// Stops a watcher for good.
    fn dismiss_watcher(&mut self, key: Key, by: Option<String>) {
        self.queue.retain(|queued| *queued != key);
        let watcher = self.watchers.stir(key);
        watcher.stop(Ending { by, ..Ending::of(Cause::Removed) });
        watcher.retire();
        self.leaving.insert(key);
    }

    /// Forgets a watcher.
    pub(super) fn remove(&mut self, key: Key, actions: &mut Vec<Action>) {
        self.leaving.remove(&key);
        self.queue.retain(|queued| *queued != key);
        if let Some(mut watcher) = self.watchers.remove(key) {
            watcher.give_up_sockets(actions);
            let name = watcher.spec().name.clone();
            log(actions, Level::Info, format!("{name}: removed"));
            actions.push(Action::Publish(Notice { watcher: name, news: News::Remove }));
        }
        self.learn_order();
    }

    /// The watcher of that very name, unless it is on its way out.
    fn position_of(&self, name: &WatcherName) -> Option<Key> {
        self.watchers.named(name).filter(|key| !self.leaving.contains(key))
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What becomes of a running watcher when it is made what `new` says.
fn effect(watcher: &Watcher, new: &WatcherSpec) -> Effect {
    let now = watcher.spec();
    let running = count(watcher.pids().len());
    let differs = now.program != new.program || !new.has_lease_of(now) || now.follows != new.follows;
    if running > 0 && differs {
        Effect::Replaced { restarts: running }
    } else if now.numprocesses != new.numprocesses && watcher.numprocesses() != new.numprocesses {
        Effect::Resized { from: watcher.numprocesses(), to: new.numprocesses }
    } else {
        Effect::InPlace
    }
}

/// The settings that differ.
pub(super) fn key_changes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<KeyChange> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let change = |key: &String| KeyChange { key: key.clone(), from: old.get(key).cloned(), to: new.get(key).cloned() };
    keys.into_iter().map(change).filter(|change| change.from != change.to).collect()
}

/// The settings that differ, and the variables.
fn watcher_changes(old: &WatcherSpec, new: &WatcherSpec) -> Vec<KeyChange> {
    let mut changes = key_changes(&old.settings, &new.settings);
    let (old, new) = (&old.program.env, &new.program.env);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    // Values may be secrets: that they differ is enough.
    let masked = |env: &BTreeMap<String, String>, name: &String| env.get(name).map(|_| "********".to_owned());
    let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changes.extend(differ.map(|name| KeyChange {
        key: format!("env {name}"),
        from: masked(old, name),
        to: masked(new, name),
    }));
    changes
}

/// The keys outside of watchers that a running agent cannot change.
fn needs_restart(old: &AgentSpec, new: &AgentSpec) -> Vec<String> {
    // With or without Redis at all: then it is its URL that came or went.
    let redis = |differ: fn(&RedisSpec, &RedisSpec) -> bool| {
        old.redis.as_ref().zip(new.redis.as_ref()).is_some_and(|(old, new)| differ(old, new))
    };
    let keys = [
        ("[circus] node", old.node != new.node),
        ("[circus] cluster", old.cluster != new.cluster),
        ("[circus] control_socket", old.control_socket != new.control_socket),
        ("[circus] endpoint", old.zmq.endpoint != new.zmq.endpoint),
        ("[circus] pubsub_endpoint", old.zmq.pubsub != new.zmq.pubsub),
        ("[circus] stats_endpoint", old.zmq.stats != new.zmq.stats),
        ("the ZeroMQ doors of plugins in Python", !old.zmq.has_unnamed() && new.zmq.has_unnamed()),
        ("[circus] multicast_endpoint", old.zmq.discovery != new.zmq.discovery),
        ("[circus] endpoint_owner", old.zmq.owner != new.zmq.owner),
        ("[circus] endpoint_public", old.zmq.public != new.zmq.public),
        ("[circus-cluster] endpoint", old.zmq.cluster_endpoint != new.zmq.cluster_endpoint),
        ("[circus-cluster] stats_endpoint", old.zmq.cluster_stats != new.zmq.cluster_stats),
        ("[circus] state_dir", old.state_dir != new.state_dir),
        ("[circus] pidfile", old.pidfile != new.pidfile),
        ("[circus] umask", old.umask != new.umask),
        ("[circus] loglevel", old.log_level != new.log_level),
        ("[circus] logoutput", old.log_output != new.log_output),
        ("[circus] python", old.python != new.python),
        ("[circus] secret_file", redis(|old, new| old.secret_file != new.secret_file)),
        ("[redis] url", old.redis.is_some() != new.redis.is_some() || redis(|old, new| old.url != new.url)),
        ("[redis] username", redis(|old, new| old.username != new.username)),
        ("[redis] password_file", redis(|old, new| old.password_file != new.password_file)),
        ("[redis] sentinel_username", redis(|old, new| old.sentinel_username != new.sentinel_username)),
        ("[redis] sentinel_password_file", redis(|old, new| old.sentinel_password_file != new.sentinel_password_file)),
        ("[redis] require_replica_ack", redis(|old, new| old.require_replica_ack != new.require_replica_ack)),
        ("[redis] tls_ca", redis(|old, new| old.tls.ca != new.tls.ca)),
        ("[redis] tls_cert", redis(|old, new| old.tls.cert != new.tls.cert)),
        ("[redis] tls_key", redis(|old, new| old.tls.key != new.tls.key)),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()).collect()
}

/// A plan in a line.
fn summary(plan: &Plan) -> String {
    let count = |is: fn(&Effect) -> bool| plan.changes.iter().filter(|change| is(&change.effect)).count();
    let added = count(|effect| matches!(effect, Effect::Added { .. }));
    let removed = count(|effect| matches!(effect, Effect::Removed { .. }));
    let changed = plan.changes.len() - added - removed;
    let mut text = format!(
        "configuration read: {added} added, {changed} changed, {removed} removed, {} unchanged",
        plan.unchanged
    );
    match plan.sockets.len() {
        0 => {}
        1 => text += "; 1 socket changed",
        many => text += &format!("; {many} sockets changed"),
    }
    if !plan.needs_restart.is_empty() {
        text += &format!("; only a restart of the agent changes {}", plan.needs_restart.join(", "));
    }
    text
}
