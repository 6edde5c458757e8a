//! The sockets that its processes get.
//!
//! Of a socket with `so_reuseport` each wanted process has a listener of its own, and the kernel spreads connections over
//! all of them. A listener that is closed drops the connections that wait there, and one that nobody accepts from lets
//! them hang. So there is one *lane* of listeners for each wanted process: they stay open while processes come and go, and
//! a new process takes the lane of the one that it replaces; for a while both accept from it.

use std::sync::Arc;

use super::Watcher;
use super::roll::Way;
use crate::model::event::{Action, Handed, LaneId, ProcessId, SocketId, Whose};
use crate::model::names::SocketName;
use crate::model::process::Process;
use crate::model::sockets::{Socket, Sockets, Telling, tell};
use crate::model::spec::{Check, Convention, Which};

/// What a process gets of sockets.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Equipment {
    /// Program and arguments, with the numbers in it.
    pub(super) argv: Vec<String>,
    pub(super) telling: Telling,
    pub(super) sockets: Vec<Handed>,
    pub(super) stdin: Option<Handed>,
    /// Whether it gets einhorn's socket.
    pub(super) ack: bool,
}

impl Watcher {
    /// Learns which sockets there are now; whether its own are others than before, or elsewhere. Processes that have one
    /// which is there no more are replaced.
    pub fn see_sockets(&mut self, sockets: &Arc<Sockets>) -> bool {
        let own = |watcher: &Watcher| -> Vec<_> {
            watcher.own_sockets().into_iter().map(|socket| (socket.id, socket.bound.clone())).collect()
        };
        let before = own(self);
        self.sockets = Arc::clone(sockets);
        let stale = self.holds_other_than(sockets);
        if stale {
            self.begin_roll(Way::OneDown);
        }
        let differs = own(self) != before;
        if differs {
            self.forget_watch();
        }
        stale || differs
    }

    /// Whether one of its processes that are to go on has a socket that is not among these.
    pub fn holds_other_than(&self, sockets: &Sockets) -> bool {
        let staying = self.processes.iter().filter(|process| process.is_staying());
        staying.flat_map(Process::sockets).any(|id| !sockets.has(*id))
    }

    /// Whether its processes get this socket.
    pub fn uses(&self, socket: &Socket) -> bool {
        self.own_sockets().iter().any(|own| own.id == socket.id)
    }

    /// Whether the sockets it needs are all open.
    pub(super) fn has_its_sockets(&self) -> bool {
        self.spec.program.sockets.is_empty()
            || (self.missing_socket().is_none() && self.own_sockets().iter().all(|socket| socket.bound.is_some()))
    }

    /// One that it needs and that there is not. The file knows nothing of who needs one because a command said so.
    pub fn missing_socket(&self) -> Option<&SocketName> {
        let wanted = &self.spec.program.sockets;
        let named = match &wanted.which {
            Which::All => &[],
            Which::These(names) => names.as_slice(),
        };
        named.iter().chain(&wanted.stdin).find(|name| self.sockets.get(name).is_none())
    }

    fn own_sockets(&self) -> Vec<&Socket> {
        self.sockets.all_of(&self.spec.program.sockets, &self.spec.name)
    }

    /// Opens a lane for each process that is wanted, and closes those too many once nobody who stays is in them.
    pub(super) fn fit_lanes(&mut self, ids: &mut u64, actions: &mut Vec<Action>) {
        let shared = self.spec.program.sockets.is_empty() || !self.own_sockets().iter().any(|own| own.spec.reuse_port);
        // Those that ended and are not replaced come back with the next who wakes a sleeper.
        let missing = if self.is_asleep() { 0 } else { self.retired.len() };
        let wanted = if shared { 0 } else { (self.numprocesses as usize).saturating_sub(missing) };
        while self.lanes.len() < wanted {
            *ids += 1;
            self.lanes.push(LaneId(*ids));
        }
        let mut closed = Vec::new();
        while self.lanes.len() > wanted {
            let Some(at) = self.lanes.iter().rposition(|lane| self.staying_in(*lane).next().is_none()) else { break };
            closed.push(self.lanes.remove(at));
        }
        if !closed.is_empty() {
            self.forget_watch();
            actions.push(Action::CloseLanes { lanes: closed });
        }
    }

    /// It goes for good, be it that its processes stay.
    pub fn give_up_sockets(&mut self, actions: &mut Vec<Action>) {
        self.end_watch(actions);
        let lanes = std::mem::take(&mut self.lanes);
        if !lanes.is_empty() {
            actions.push(Action::CloseLanes { lanes });
        }
    }

    fn staying_in(&self, lane: LaneId) -> impl Iterator<Item = &Process> + Clone {
        self.processes.iter().filter(move |process| process.is_staying() && process.lane() == Some(lane))
    }

    /// The lane of a new process: the emptiest, and of those the one whose process has been there longest, because that is
    /// the one that goes next.
    fn lane_for(&self, new: ProcessId) -> Option<LaneId> {
        let crowd = |lane: &LaneId| {
            let others = self.staying_in(*lane).filter(|process| process.id != new);
            let oldest = others.clone().map(|process| process.id).min();
            (others.count(), oldest)
        };
        self.lanes.iter().copied().min_by_key(crowd)
    }

    /// What the process `id` in slot `wid` gets; it is counted as having that from now on.
    pub(super) fn equip(&mut self, id: ProcessId, wid: u32) -> Equipment {
        let wanted = &self.program.sockets;
        let numbered = self.sockets.numbered(wanted, &self.spec.name);
        let names: Vec<_> = numbered.iter().map(|socket| socket.spec.name.clone()).collect();
        let lane = self.lane_for(id);
        let hand = |socket: &Socket| Handed { socket: socket.id, lane: lane.filter(|_| socket.spec.reuse_port) };
        let stdin = wanted.stdin.as_ref().and_then(|name| self.sockets.get(name));
        let mut telling = tell(wanted, &numbered, wid, id.0);
        let einhorn = wanted.conventions.contains(&Convention::Einhorn) && !numbered.is_empty();
        let waits = self.spec.ready.as_ref().is_some_and(|ready| ready.check == Check::Ack);
        if waits && !einhorn {
            // Whoever sends an ACK makes sure of its parent first.
            telling.pids.push(("EINHORN_MASTER_PID", Whose::Parent));
        }
        let equipment = Equipment {
            argv: self.program.argv(wid, &names),
            telling,
            sockets: numbered.into_iter().map(hand).collect(),
            stdin: stdin.map(hand),
            ack: einhorn || waits,
        };
        let had: Vec<SocketId> = equipment.sockets.iter().chain(&equipment.stdin).map(|handed| handed.socket).collect();
        self.with_process(id, |process| process.equip(had, lane));
        equipment
    }

    /// All that a connection to it may come in by.
    pub(super) fn doors(&self) -> Vec<Handed> {
        let mut doors = Vec::new();
        for socket in self.own_sockets() {
            let door = |lane| Handed { socket: socket.id, lane };
            match socket.spec.reuse_port {
                true => doors.extend(self.lanes.iter().map(|lane| door(Some(*lane)))),
                false => doors.push(door(None)),
            }
        }
        doors
    }
}
