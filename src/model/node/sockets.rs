//! The sockets that processes share: opened before the first of them starts, and added, moved and removed while they run.
//!
//! A change is made in two steps. All that has to be opened is ordered at once; when it is open, the rest of the change
//! follows, and when one of it cannot be opened, nothing has changed. One change is made after the other.

use std::sync::Arc;

use super::changes::key_changes;
use super::waits::Goal;
use super::watchers::Key;
use super::{Haste, Node, State, exit, log};
use crate::model::command::{Patience, Refusal, Reply, RequestId};
use crate::model::event::{Action, BindId, Bound, Changes, Event, Level, SocketBase, SocketId};
use crate::model::names::{SocketName, nearest};
use crate::model::plan::{SocketChange, SocketEffect};
use crate::model::snapshot::SocketView;
use crate::model::sockets::{Socket, Sockets};
use crate::model::spec::{AgentSpec, SocketSpec, Which};

/// Sockets that are being opened.
#[derive(Debug)]
pub(super) struct Binding {
    bind: BindId,
    opening: Vec<Socket>,
    /// Those that nothing happens to.
    staying: Vec<SocketId>,
    is_ordered: bool,
    then: Then,
}

/// What follows when they are open.
#[derive(Debug)]
enum Then {
    /// The watchers start.
    Start,
    /// The rest of a changed file is applied.
    Apply { request: Option<RequestId>, spec: Box<AgentSpec>, patience: Patience },
    /// A command is answered.
    Answer { request: RequestId, patience: Patience },
}

/// What a socket is being worked out for.
#[derive(Debug)]
pub(super) enum SocketAmendment {
    /// A new socket.
    Add { patience: Patience },
    /// New settings.
    Set { base: Box<SocketSpec>, changes: Changes, patience: Patience },
}

impl Node {
    // ---- opening ----

    /// Takes note of the sockets that are opened before anything starts.
    pub(super) fn open_first(&mut self, specs: Vec<SocketSpec>) {
        if specs.is_empty() {
            return;
        }
        let opening: Vec<Socket> = specs.into_iter().map(|spec| self.new_socket(spec, true)).collect();
        let mut sockets = Sockets::default();
        opening.iter().cloned().for_each(|socket| sockets.insert(socket));
        self.show_sockets(sockets);
        self.open(opening, Vec::new(), Then::Start);
    }

    fn new_socket(&mut self, spec: SocketSpec, filed: bool) -> Socket {
        self.last_id += 1;
        Socket { id: SocketId(self.last_id), filed: filed.then(|| spec.clone()), bound: None, spec }
    }

    fn open(&mut self, opening: Vec<Socket>, staying: Vec<SocketId>, then: Then) {
        self.last_id += 1;
        self.binding = Some(Binding { bind: BindId(self.last_id), opening, staying, is_ordered: false, then });
    }

    /// Whether nothing may start yet.
    pub(super) fn is_opening_first(&self) -> bool {
        matches!(&self.binding, Some(Binding { then: Then::Start, .. }))
    }

    /// Whether a change has to wait for the one before.
    pub(super) fn is_opening(&self) -> bool {
        self.binding.is_some()
    }

    /// Orders what is to be opened.
    pub(super) fn order_opening(&mut self, actions: &mut Vec<Action>) {
        let Some(binding) = self.binding.as_mut().filter(|binding| !binding.is_ordered) else { return };
        binding.is_ordered = true;
        let sockets = binding.opening.iter().map(|socket| (socket.id, socket.spec.clone())).collect();
        actions.push(Action::Bind { bind: binding.bind, sockets, staying: binding.staying.clone() });
    }

    /// What was ordered is open, or none of it is.
    pub(super) fn bound(
        &mut self,
        bind: BindId,
        result: Result<Vec<(SocketId, Bound)>, String>,
        actions: &mut Vec<Action>,
    ) {
        let Some(binding) = self.binding.take_if(|binding| binding.bind == bind) else { return };
        let ending = matches!(self.phase, State::Stopping { .. } | State::Left);
        let result = match result {
            Ok(_) if ending => Err(Refusal::Stopping),
            Ok(bound) => Ok(bound),
            Err(problems) => {
                problems.lines().for_each(|problem| log(actions, Level::Error, problem.to_owned()));
                Err(Refusal::BadConfig(problems))
            }
        };
        let mut opened = binding.opening;
        match (result, binding.then) {
            (Ok(bound), then) => {
                for socket in &mut opened {
                    socket.bound = bound.iter().find(|(id, _)| *id == socket.id).map(|(_, bound)| bound.clone());
                }
                self.opened(opened, then, actions);
            }
            (Err(Refusal::Stopping), Then::Start) => {}
            (Err(_), Then::Start) => {
                log(actions, Level::Error, "nothing was started".into());
                self.end(Haste::Fast, exit::CANNOT_LISTEN, "a socket that cannot be had");
            }
            (Err(refusal), Then::Apply { request, .. }) => {
                if let Some(request) = request {
                    self.reply(request, Reply::Refused(refusal), actions);
                }
            }
            (Err(refusal), Then::Answer { request, .. }) => {
                let refusal = match refusal {
                    Refusal::BadConfig(problems) => Refusal::Failed(problems.trim_end().to_owned()),
                    refusal => refusal,
                };
                self.reply(request, Reply::Refused(refusal), actions);
            }
        }
        while !self.is_opening()
            && let Some(event) = self.deferred.pop_front()
        {
            self.handle(event, actions);
        }
    }

    fn opened(&mut self, opened: Vec<Socket>, then: Then, actions: &mut Vec<Action>) {
        for socket in &opened {
            if let Some(bound) = &socket.bound {
                let text = format!("socket {}: {} ({})", socket.spec.name, bound.address, socket.spec.kind.word());
                log(actions, Level::Info, text);
            }
        }
        match then {
            Then::Start => drop(self.install(opened, &[], actions)),
            Then::Apply { request, spec, patience } => self.apply_file(request, *spec, opened, patience, actions),
            Then::Answer { request, patience } => {
                let keys = self.install(opened, &[], actions);
                if let Some(reply) = self.wait_or(patience, request, Goal::AsTold { keys }) {
                    self.reply(request, reply, actions);
                }
            }
        }
    }

    /// Puts opened sockets in their place, and closes those that have no place any more. The watchers whose sockets are
    /// others now.
    pub(super) fn install(
        &mut self,
        opened: Vec<Socket>,
        removed: &[SocketName],
        actions: &mut Vec<Action>,
    ) -> Vec<Key> {
        let mut sockets = (*self.sockets).clone();
        removed.iter().for_each(|name| drop(sockets.remove(name)));
        opened.into_iter().for_each(|socket| sockets.insert(socket));
        let closed: Vec<SocketId> =
            self.sockets.iter().map(|socket| socket.id).filter(|id| !sockets.has(*id)).collect();
        let touched = self.show_sockets(sockets);
        if !closed.is_empty() {
            actions.push(Action::Unbind { sockets: closed });
        }
        touched
    }

    fn show_sockets(&mut self, sockets: Sockets) -> Vec<Key> {
        self.sockets = Arc::new(sockets);
        let mut touched = self.watchers.keys();
        touched.retain(|key| self.watchers.peek(*key).see_sockets(&self.sockets));
        for key in &touched {
            self.watchers.stir(*key);
        }
        touched
    }

    // ---- the file ----

    /// What a file changes about sockets.
    pub(super) fn socket_changes(&self, specs: &[SocketSpec]) -> Vec<SocketChange> {
        let gone = self
            .sockets
            .iter()
            .filter(|socket| socket.filed.is_some() && !specs.iter().any(|spec| spec.name == socket.spec.name));
        let gone = gone.map(|socket| SocketChange {
            socket: socket.spec.name.clone(),
            effect: SocketEffect::Removed,
            keys: Vec::new(),
        });
        let changed = specs.iter().filter_map(|new| {
            let change = |effect, keys| Some(SocketChange { socket: new.name.clone(), effect, keys });
            let Some(there) = self.sockets.get(&new.name) else { return change(SocketEffect::Added, Vec::new()) };
            let old = there.filed.as_ref().unwrap_or(&there.spec);
            match old == new && there.filed.is_some() {
                true => None,
                false => change(effect(&there.spec, new), key_changes(&old.settings, &new.settings)),
            }
        });
        let mut changes: Vec<SocketChange> = gone.chain(changed).collect();
        changes.sort_by(|a, b| a.socket.cmp(&b.socket));
        changes
    }

    /// Has the sockets opened that a changed file needs, and the file applied then; at once where it needs none.
    pub(super) fn open_and_apply(
        &mut self,
        request: Option<RequestId>,
        spec: AgentSpec,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) {
        let changes = self.socket_changes(&spec.sockets);
        let mut opening = Vec::new();
        for new in &spec.sockets {
            let effect = changes.iter().find(|change| change.socket == new.name).map(|change| change.effect);
            match (effect, self.sockets.get(&new.name).map(|there| there.id)) {
                (Some(SocketEffect::Adjusted), Some(id)) => {
                    opening.push(Socket { id, spec: new.clone(), filed: Some(new.clone()), bound: None });
                }
                (Some(SocketEffect::Added | SocketEffect::Moved), _) => {
                    opening.push(self.new_socket(new.clone(), true));
                }
                (Some(SocketEffect::Adjusted | SocketEffect::Removed) | None, _) => {}
            }
        }
        match opening.is_empty() {
            true => self.apply_file(request, spec, opening, patience, actions),
            false => {
                let staying = self.sockets_without(&changes).iter().map(|socket| socket.id).collect();
                self.open(opening, staying, Then::Apply { request, spec: Box::new(spec), patience });
            }
        }
    }

    /// The sockets without those whose opening a file puts an end to.
    pub(super) fn sockets_without(&self, changes: &[SocketChange]) -> Sockets {
        let mut sockets = (*self.sockets).clone();
        for change in changes {
            if matches!(change.effect, SocketEffect::Removed | SocketEffect::Moved) {
                sockets.remove(&change.socket);
            }
        }
        sockets
    }

    // ---- commands ----

    /// The sockets, and who uses them.
    pub(super) fn socket_views(&self) -> Vec<SocketView> {
        let users = |socket: &Socket| {
            let users = self.watchers.iter().filter(|watcher| watcher.uses(socket));
            users.map(|watcher| watcher.spec().name.clone()).collect()
        };
        let view = |socket: &Socket| SocketView {
            name: socket.spec.name.clone(),
            bound: socket.bound.clone(),
            kind: socket.spec.kind,
            backlog: socket.spec.backlog,
            reuse_port: socket.spec.reuse_port,
            watchers: users(socket),
        };
        self.sockets.iter().map(view).collect()
    }

    /// Has a new socket worked out.
    pub(super) fn add_socket(
        &mut self,
        request: RequestId,
        name: &str,
        changes: Changes,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let wanted = SocketName::parse(name).map_err(|wrong| Refusal::BadMessage(wrong.to_string()))?;
        if self.sockets.get(&wanted).is_some() {
            return Err(Refusal::SocketExists(wanted));
        }
        let (base, defaults) = (SocketBase::New(name.to_owned()), self.defaults());
        actions.push(Action::AmendSocket { request, base, changes, defaults });
        self.socket_amendments.insert(request, SocketAmendment::Add { patience });
        Ok(())
    }

    /// Has new settings of a socket worked out.
    pub(super) fn set_socket(
        &mut self,
        request: RequestId,
        name: &str,
        changes: Changes,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let base = Box::new(self.find_socket(name)?.spec.clone());
        let (of, asked, mut defaults) = (SocketBase::Socket(base.clone()), changes.clone(), self.defaults());
        // Who alone may have it may have been removed since: other settings may change.
        for admitted in &base.watchers {
            defaults.watchers.entry(admitted.clone()).or_default();
        }
        actions.push(Action::AmendSocket { request, base: of, changes: asked, defaults });
        self.socket_amendments.insert(request, SocketAmendment::Set { base, changes, patience });
        Ok(())
    }

    /// A socket was worked out for a request, or cannot be.
    pub(super) fn socket_amended(
        &mut self,
        request: RequestId,
        spec: Result<Box<SocketSpec>, String>,
        actions: &mut Vec<Action>,
    ) {
        if self.is_opening() {
            self.deferred.push_back(Event::SocketAmended { request, spec });
            return;
        }
        let Some(amendment) = self.socket_amendments.remove(&request) else { return };
        let stopping = matches!(self.phase, State::Stopping { .. } | State::Left);
        let ready = match (spec, amendment) {
            (_, _) if stopping => Err(Refusal::Stopping),
            (Err(problems), _) => Err(Refusal::BadMessage(problems)),
            (Ok(spec), SocketAmendment::Add { .. }) if self.sockets.get(&spec.name).is_some() => {
                Err(Refusal::SocketExists(spec.name))
            }
            (Ok(spec), SocketAmendment::Add { patience }) => Ok((*spec, patience)),
            (Ok(spec), SocketAmendment::Set { base, changes, patience }) => {
                match self.find_socket(base.name.as_str()).map(|there| there.spec == *base) {
                    Err(gone) => Err(gone),
                    Ok(true) => Ok((*spec, patience)),
                    // Others were quicker: it is worked out anew from what they made of it.
                    Ok(false) => match self.set_socket(request, base.name.as_str(), changes, patience, actions) {
                        Ok(()) => return,
                        Err(refusal) => Err(refusal),
                    },
                }
            }
        };
        match ready {
            Err(refusal) => self.reply(request, Reply::Refused(refusal), actions),
            Ok((spec, patience)) => {
                let there = self.sockets.get(&spec.name).cloned();
                let opening = match there {
                    Some(there) if effect(&there.spec, &spec) == SocketEffect::Adjusted => {
                        Socket { spec, bound: None, ..there }
                    }
                    Some(there) => Socket { filed: there.filed, ..self.new_socket(spec, false) },
                    None => self.new_socket(spec, false),
                };
                let others = self.sockets.iter().filter(|other| other.spec.name != opening.spec.name);
                let staying = others.map(|other| other.id).collect();
                self.open(vec![opening], staying, Then::Answer { request, patience });
            }
        }
    }

    /// Closes a socket that no watcher names.
    pub(super) fn remove_socket(
        &mut self,
        request: RequestId,
        name: &str,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Refusal> {
        let name = self.find_socket(name)?.spec.name.clone();
        let users: Vec<&str> = self
            .watchers
            .iter()
            .map(|watcher| watcher.spec())
            .filter(|spec| {
                let wanted = &spec.program.sockets;
                let named = matches!(&wanted.which, Which::These(names) if names.contains(&name));
                named || wanted.stdin.as_ref() == Some(&name)
            })
            .map(|spec| spec.name.as_str())
            .collect();
        if !users.is_empty() {
            let users = users.join(", ");
            return Err(Refusal::Failed(format!("socket {name} is used by {users}; take it from there first")));
        }
        let keys = self.install(Vec::new(), std::slice::from_ref(&name), actions);
        log(actions, Level::Info, format!("socket {name}: closed"));
        Ok(self.wait_or(patience, request, Goal::AsTold { keys }))
    }

    fn find_socket(&self, text: &str) -> Result<&Socket, Refusal> {
        let found = SocketName::parse(text).ok().and_then(|name| self.sockets.get(&name));
        found.ok_or_else(|| {
            let names = self.sockets.iter().map(|socket| &socket.spec.name);
            Refusal::NoSuchSocket { name: text.to_owned(), hint: nearest(text, names).cloned() }
        })
    }

    /// Forgets what was to be opened for requests: the agent leaves. Those requests.
    pub(super) fn forget_openings(&mut self) -> Vec<RequestId> {
        let mut requests: Vec<RequestId> = std::mem::take(&mut self.socket_amendments).into_keys().collect();
        requests.extend(self.binding.take().and_then(|binding| match binding.then {
            Then::Start => None,
            Then::Apply { request, .. } => request,
            Then::Answer { request, .. } => Some(request),
        }));
        requests.extend(self.deferred.drain(..).filter_map(|event| match event {
            Event::SpecRead { request, .. } => request,
            _ => None,
        }));
        requests
    }
}

/// What a change of a socket that there is comes to.
fn effect(old: &SocketSpec, new: &SocketSpec) -> SocketEffect {
    if old.is_bound_like(new) { SocketEffect::Adjusted } else { SocketEffect::Moved }
}
