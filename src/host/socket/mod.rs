//! The sockets that the agent opens and processes share.
//!
//! Reading order: this file (which are open, under which id, and who gets what), `place` (where a socket is to be),
//! `listener` (one open socket), `file` (the path of a Unix socket), `kernel` (what others have); `demand` (who comes,
//! while nobody serves and since), `arrival` (how that is seen).
//!
//! # Invariants
//!
//! - An order to open sockets is carried out in full, or what it did is taken back.
//! - Nobody here accepts a connection or reads a datagram: they are the processes'.
//! - Where each process has a lane of its own, no listener is without one, as long as there is any lane: the kernel
//!   would give it connections that nobody accepts. The last lane's listener stays open when its lane goes, so that
//!   connections wait for the next.
//! - Nothing that may block is done while `open` is locked: processes are started meanwhile.

mod arrival;
mod demand;
mod file;
mod kernel;
mod listener;
mod place;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(super) use self::demand::Demand;
use self::file::Keeper;
use self::listener::Listener;
use self::place::{Given, Target};
use crate::model::event::{Bound, Handed, LaneId, SocketId, SpawnFailure};
use crate::model::spec::SocketSpec;
use crate::model::stats::SocketStats;

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// What the service manager has handed over.
    given: Vec<Given>,
    open: Mutex<BTreeMap<SocketId, Open>>,
    /// Held while sockets are opened and closed, which may take long: one order is carried out after the other.
    orders: Mutex<()>,
    keeper: Keeper,
}

/// An opening of a socket.
#[derive(Debug)]
struct Open {
    spec: SocketSpec,
    /// The one that processes share; of lanes: the one that the next lane takes.
    shared: Option<Arc<Listener>>,
    lanes: BTreeMap<LaneId, Arc<Listener>>,
    /// Listeners of an earlier id of this very socket: new lanes take them over, with what waits in them.
    heirlooms: Vec<Weak<Listener>>,
}

/// What is wrong: `cannot {step}: {error}`.
#[derive(Debug, Clone)]
struct Refusal {
    /// `listen on 127.0.0.1:8080`
    step: String,
    /// `EADDRINUSE: nginx (pid 812) listens there; stop it or choose another port`
    error: String,
}

/// What was done of an order, to be taken back should the rest fail.
#[derive(Debug)]
enum Done {
    /// A new opening.
    Opened(SocketId, Open),
    /// Listeners that were as `from` says are as `to` says.
    Adjusted { listeners: Vec<Arc<Listener>>, from: SocketSpec, to: SocketSpec },
    /// An opening's spec is to be this one.
    Respecified(SocketId, SocketSpec),
}

impl Sockets {
    /// Uses these sockets, each for the one of its name, in the place of sockets of our own.
    pub(super) fn with_given(given: Vec<(String, OwnedFd)>) -> Sockets {
        Sockets { given: given.into_iter().map(|(name, fd)| Given::new(name, fd)).collect(), ..Sockets::default() }
    }

    /// Opens these, or none of them: then all that went wrong, a line each. None takes the place of one staying. Blocks.
    pub(super) fn bind(
        &self,
        sockets: &[(SocketId, SocketSpec)],
        staying: &[SocketId],
    ) -> Result<Vec<(SocketId, Bound)>, String> {
        let targets: Vec<_> = sockets.iter().map(|(_, spec)| place::find(spec, &self.given)).collect();
        let _order = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut done, mut wrong) = (Vec::new(), Vec::new());
        for ((id, spec), target) in sockets.iter().zip(targets) {
            match target.and_then(|target| self.carry_out((*id, spec), &target, &done, staying)) {
                Ok(step) => done.extend(step),
                Err(Refusal { step, error }) => wrong.push(format!("socket {}: cannot {step}: {error}", spec.name)),
            }
        }
        if !wrong.is_empty() {
            done.into_iter().rev().for_each(Sockets::take_back);
            return Err(wrong.join("\n"));
        }
        for step in done {
            self.keep(step);
        }
        let open = self.open();
        let bound = |id: &SocketId| open.get(id).map(|open| (*id, open.listeners()[0].bound()));
        Ok(sockets.iter().filter_map(|(id, _)| bound(id)).collect())
    }

    /// Closes these.
    pub(super) fn unbind(&self, sockets: &[SocketId]) {
        let _order = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone: Vec<Open> = Vec::new();
        {
            let mut open = self.open();
            gone.extend(sockets.iter().filter_map(|id| open.remove(id)));
            for listener in gone.iter().flat_map(Open::listeners) {
                let has = |open: &&Open| open.listeners().iter().any(|other| Arc::ptr_eq(other, &listener));
                let mut heirs = open.values().filter(has).peekable();
                // What had lanes beside it is now one socket like any other.
                if heirs.peek().is_some() && heirs.all(|heir| !heir.spec.reuse_port) {
                    listener.share_address(false);
                }
            }
        }
        // Here, after the lock: their paths go with them.
        drop(gone);
    }

    /// Closes the listeners of lanes.
    pub(super) fn close_lanes(&self, lanes: &[LaneId]) {
        for open in self.open().values_mut() {
            for lane in lanes {
                let listener = open.lanes.remove(lane);
                if open.lanes.is_empty() && open.shared.is_none() {
                    open.shared = listener;
                }
            }
        }
    }

    /// Descriptors of these for a process, in their order. Opens the listeners of a lane that has none yet.
    pub(super) fn hand(&self, handed: &[Handed]) -> Result<Vec<OwnedFd>, SpawnFailure> {
        let mut open = self.open();
        let hand = |Handed { socket, lane }: &Handed| {
            let closed = || SpawnFailure { stage: "socket".into(), error: "it has been closed".into() };
            let open = open.get_mut(socket).ok_or_else(closed)?;
            let listener = open.listener_of(*lane).and_then(|listener| listener.duplicate());
            listener.map_err(|refusal| SpawnFailure {
                stage: format!("socket {}: {}", open.spec.name, refusal.step),
                error: refusal.error,
            })
        };
        handed.iter().map(hand).collect()
    }

    /// Where somebody may wait for a process that has these: in its lane's listener, or while that has none in any.
    fn listeners(&self, handed: &[Handed]) -> Vec<Arc<Listener>> {
        let open = self.open();
        let of_one = |Handed { socket, lane }: &Handed| {
            let open = open.get(socket)?;
            let own = lane.and_then(|lane| open.lanes.get(&lane));
            Some(own.map_or_else(|| open.listeners(), |own| vec![Arc::clone(own)]))
        };
        handed.iter().filter_map(of_one).flatten().collect()
    }

    /// Looks whether somebody waits in each of them, in any of its lanes.
    pub(super) fn measure(&self) -> Vec<SocketStats> {
        let listeners: Vec<_> = self.open().values().map(Open::listeners).collect();
        let measure = |listeners: Vec<Arc<Listener>>| {
            let Bound { fd, address } = listeners[0].bound();
            SocketStats { fd, address, waiting: listeners.iter().any(|listener| listener.has_waiting()) }
        };
        listeners.into_iter().map(measure).collect()
    }

    fn all_listeners(&self) -> Vec<Arc<Listener>> {
        self.open().values().flat_map(Open::listeners).collect()
    }

    /// One part of an order. Where it fails, nothing of it is left to be taken back.
    fn carry_out(
        &self,
        (id, spec): (SocketId, &SocketSpec),
        target: &Target,
        done: &[Done],
        staying: &[SocketId],
    ) -> Result<Vec<Done>, Refusal> {
        // While `orders` is held nobody else opens or closes any. The newest come first: of several ids of one socket the
        // last knows how it is.
        let known: Vec<_> =
            self.open().iter().rev().map(|(id, open)| (*id, open.spec.clone(), open.listeners())).collect();
        if let Some((_, from, listeners)) = known.iter().find(|(known, ..)| *known == id) {
            let adjusted = adjust(listeners, from, spec)?;
            return Ok(vec![adjusted, Done::Respecified(id, spec.clone())]);
        }
        let keeps = |(known, _, listeners): &&(_, _, Vec<Arc<Listener>>)| {
            staying.contains(known) && listeners[0].is_in_the_way(target, spec)
        };
        if let Some((_, other, _)) = known.iter().find(keeps) {
            let error = format!("EADDRINUSE: socket {} is there; give each a place of its own", other.name);
            return Err(Refusal { step: target.step(spec.kind), error });
        }
        let is_there = |(.., listeners): &&(_, _, Vec<Arc<Listener>>)| listeners[0].is_at(target, spec);
        if let Some((_, from, listeners)) = known.iter().find(is_there) {
            let adjusted = adjust(listeners, from, spec)?;
            let heirlooms = listeners.iter().map(Arc::downgrade).collect();
            let shared = Some(Arc::clone(&listeners[0]));
            let opened = Open { spec: spec.clone(), shared, lanes: BTreeMap::new(), heirlooms };
            return Ok(vec![adjusted, Done::Opened(id, opened)]);
        }
        let new = done.iter().filter_map(|step| if let Done::Opened(_, opened) = step { Some(opened) } else { None });
        let new: Vec<_> = new.map(|opened| (opened.spec.clone(), opened.listeners())).collect();
        if let Some((other, _)) = new.iter().find(|(_, listeners)| listeners[0].is_at(target, spec)) {
            let error = format!("EADDRINUSE: socket {} is to be there; give each a place of its own", other.name);
            return Err(Refusal { step: target.step(spec.kind), error });
        }
        let known = known.iter().map(|(_, spec, listeners)| (spec, listeners));
        let ours = known.chain(new.iter().map(|(spec, listeners)| (spec, listeners)));
        let ours: Vec<_> = ours.flat_map(|(spec, listeners)| listeners.iter().map(move |one| (spec, &**one))).collect();
        let shared = Some(Arc::new(Listener::open(target, spec, &ours)?));
        let opened = Open { spec: spec.clone(), shared, lanes: BTreeMap::new(), heirlooms: Vec::new() };
        Ok(vec![Done::Opened(id, opened)])
    }

    /// Makes it as if this had not been done. What was opened goes by being dropped.
    fn take_back(step: Done) {
        if let Done::Adjusted { listeners, from, to } = step {
            if let Err(Refusal { step, error }) = adjust(&listeners, &to, &from) {
                tracing::warn!("socket {}: cannot {step} again: {error}", from.name);
            }
            if to.reuse_port && !from.reuse_port {
                listeners.iter().for_each(|listener| listener.share_address(false));
            }
        }
    }

    /// Makes it last.
    fn keep(&self, step: Done) {
        match step {
            Done::Opened(id, opened) => {
                opened.listeners().iter().for_each(|listener| listener.keep(&self.keeper));
                self.open().insert(id, opened);
            }
            Done::Adjusted { .. } => {}
            Done::Respecified(id, spec) => {
                if let Some(open) = self.open().get_mut(&id) {
                    open.spec = spec;
                }
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<SocketId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// All of its listeners; there is always one.
    fn listeners(&self) -> Vec<Arc<Listener>> {
        self.shared.iter().chain(self.lanes.values()).map(Arc::clone).collect()
    }

    /// The one for a process of this lane.
    fn listener_of(&mut self, lane: Option<LaneId>) -> Result<Arc<Listener>, Refusal> {
        let first = Arc::clone(&self.listeners()[0]);
        let Some(lane) = lane.filter(|_| self.spec.reuse_port) else {
            return Ok(first);
        };
        if let Some(listener) = self.lanes.get(&lane) {
            return Ok(Arc::clone(listener));
        }
        let is_free = |heirloom: &Arc<Listener>| !self.lanes.values().any(|taken| Arc::ptr_eq(taken, heirloom));
        let heirloom = self.heirlooms.iter().filter_map(Weak::upgrade).find(is_free);
        let listener = match self.shared.take().or(heirloom) {
            Some(listener) => listener,
            None => Arc::new(first.beside(&self.spec)?),
        };
        self.lanes.insert(lane, Arc::clone(&listener));
        Ok(listener)
    }
}

/// Makes listeners that are as `from` says as `to` says, all of them or none.
fn adjust(listeners: &[Arc<Listener>], from: &SocketSpec, to: &SocketSpec) -> Result<Done, Refusal> {
    for (at, listener) in listeners.iter().enumerate() {
        if let Err(refusal) = listener.adjust(from, to) {
            // As far as it has come.
            listeners[..=at].iter().for_each(|listener| drop(listener.adjust(to, from)));
            return Err(refusal);
        }
    }
    Ok(Done::Adjusted { listeners: listeners.to_vec(), from: from.clone(), to: to.clone() })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::event::Address;
    use crate::model::names::SocketName;
    use crate::model::spec::{Family, Place};

    const SOCKET: SocketId = SocketId(1);

    fn spec(port: u16) -> SocketSpec {
        SocketSpec {
            reuse_port: true,
            ..SocketSpec::at(
                SocketName::parse("web").unwrap(),
                Place::Inet { host: "127.0.0.1".into(), port, family: Family::V4 },
            )
        }
    }

    fn bind(sockets: &Sockets, id: SocketId, port: u16) -> SocketAddr {
        match &sockets.bind(&[(id, spec(port))], &[]).unwrap()[0].1.address {
            Address::Inet(address) => *address,
            Address::Unix(path) => panic!("it is at {path:?}"),
        }
    }

    fn lane(socket: SocketId, lane: u64) -> Handed {
        Handed { socket, lane: Some(LaneId(lane)) }
    }

    /// What a process of this lane has.
    fn hand(sockets: &Sockets, socket: SocketId, number: u64) -> TcpListener {
        TcpListener::from(sockets.hand(&[lane(socket, number)]).unwrap().remove(0))
    }

    fn accepts(listener: &TcpListener) -> bool {
        match listener.accept() {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Accepts `count` connections from these, as they come: how many each had.
    fn accept_all(listeners: &[&TcpListener], count: usize) -> Vec<usize> {
        let (mut had, start) = (vec![0; listeners.len()], Instant::now());
        while had.iter().sum::<usize>() < count {
            assert!(start.elapsed() < Duration::from_secs(20), "never: only {had:?} of {count}");
            listeners.iter().zip(&mut had).for_each(|(listener, had)| *had += usize::from(accepts(listener)));
        }
        had
    }

    fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
    }

    #[test]
    fn lanes_share_what_comes_and_none_of_it_waits_where_no_lane_is() {
        let sockets = Sockets::default();
        let address = bind(&sockets, SOCKET, 0);
        // Before there is any lane.
        let _early = connect(address, 3);
        let (one, two) = (hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2));
        assert_eq!(accept_all(&[&one, &two], 3), [3, 0]);
        let _clients = connect(address, 64);
        let had = accept_all(&[&one, &two], 64);
        assert!(had.iter().all(|had| *had > 8), "the kernel spreads them: {had:?}");
    }

    #[test]
    fn what_waits_in_a_lane_waits_for_its_next_process() {
        let sockets = Sockets::default();
        let address = bind(&sockets, SOCKET, 0);
        let (one, two) = (hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2));
        let _clients = connect(address, 32);
        drop((one, two));
        let (one, two) = (hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2));
        accept_all(&[&one, &two], 32);
    }

    #[test]
    fn the_last_lanes_listener_waits_for_the_next_lane() {
        let sockets = Sockets::default();
        let address = bind(&sockets, SOCKET, 0);
        drop((hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2)));
        sockets.close_lanes(&[LaneId(1), LaneId(2)]);
        let _clients = connect(address, 8);
        assert_eq!(sockets.listeners(&[Handed { socket: SOCKET, lane: None }]).len(), 1);
        accept_all(&[&hand(&sockets, SOCKET, 3)], 8);
    }

    #[test]
    fn a_closed_lane_gets_no_more() {
        let sockets = Sockets::default();
        let address = bind(&sockets, SOCKET, 0);
        let (one, two) = (hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2));
        drop(one);
        sockets.close_lanes(&[LaneId(1)]);
        let _clients = connect(address, 32);
        accept_all(&[&two], 32);
    }

    #[test]
    fn lanes_of_a_new_id_take_over_what_waits_in_those_of_the_old_one() {
        let sockets = Sockets::default();
        let address = bind(&sockets, SOCKET, 0);
        let old = (hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2));
        let _clients = connect(address, 32);
        let renamed = SocketId(2);
        assert_eq!(bind(&sockets, renamed, address.port()), address);
        let (one, two) = (hand(&sockets, renamed, 11), hand(&sockets, renamed, 12));
        sockets.unbind(&[SOCKET]);
        drop(old);
        accept_all(&[&one, &two], 32);
        // One more than there were.
        let three = hand(&sockets, renamed, 13);
        let _clients = connect(address, 32);
        accept_all(&[&one, &two, &three], 32);
    }

    #[test]
    fn demand_is_looked_for_where_a_lane_is_or_while_there_is_none_where_all_waits() {
        let sockets = Sockets::default();
        bind(&sockets, SOCKET, 0);
        let fds = |handed: &[Handed]| {
            let listeners = sockets.listeners(handed);
            listeners.iter().map(|listener| listener.bound().fd).collect::<Vec<_>>()
        };
        let first = fds(&[lane(SOCKET, 1)]);
        assert_eq!(first, fds(&[Handed { socket: SOCKET, lane: None }]));
        hand(&sockets, SOCKET, 1);
        hand(&sockets, SOCKET, 2);
        assert_eq!(fds(&[lane(SOCKET, 1)]), first);
        let second = fds(&[lane(SOCKET, 2)]);
        assert_ne!(second, first);
        assert_eq!(fds(&[Handed { socket: SOCKET, lane: None }]), [first, second].concat());
    }

    #[test]
    fn a_lane_has_all_options_of_its_socket() {
        let sockets = Sockets::default();
        let spec = SocketSpec { blocking: true, interface: Some("lo".into()), backlog: 3, ..spec(0) };
        sockets.bind(&[(SOCKET, spec)], &[]).unwrap();
        hand(&sockets, SOCKET, 1);
        let two = socket2::Socket::from(sockets.hand(&[lane(SOCKET, 2)]).unwrap().remove(0));
        assert!(!two.nonblocking().unwrap() && two.reuse_port().unwrap() && two.is_listener().unwrap());
        assert_eq!(two.device().unwrap().as_deref(), Some(&b"lo"[..]));
    }

    #[test]
    fn what_is_handed_is_in_order_and_a_closed_socket_is_a_failure() {
        let sockets = Sockets::default();
        let (a, b) = (bind(&sockets, SOCKET, 0), bind(&sockets, SocketId(2), 0));
        let both = [SocketId(2), SOCKET].map(|socket| Handed { socket, lane: None });
        let handed: Vec<_> = sockets.hand(&both).unwrap().into_iter().map(TcpListener::from).collect();
        assert_eq!(handed.iter().map(|one| one.local_addr().unwrap()).collect::<Vec<_>>(), [b, a]);
        assert_ne!(handed[0].as_raw_fd(), handed[1].as_raw_fd());
        sockets.unbind(&[SOCKET]);
        let failure = sockets.hand(&both).unwrap_err();
        assert_eq!(failure.to_string(), "spawn failed at socket: it has been closed");
    }

    #[test]
    fn what_the_service_manager_has_opened_can_have_lanes() {
        let given = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = Sockets::with_given(vec![("web".into(), given.into())]);
        let address = bind(&sockets, SOCKET, 0);
        let (one, two) = (hand(&sockets, SOCKET, 1), hand(&sockets, SOCKET, 2));
        let _clients = connect(address, 64);
        let had = accept_all(&[&one, &two], 64);
        assert!(had.iter().all(|had| *had > 8), "the kernel spreads them: {had:?}");
    }

    #[test]
    fn a_lane_that_cannot_be_opened_is_a_failure_that_names_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        let given = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let sockets = Sockets::with_given(vec![("web".into(), given.into())]);
        sockets.bind(&[(SOCKET, SocketSpec { place: Place::Given, ..spec(0) })], &[]).unwrap();
        sockets.hand(&[lane(SOCKET, 1)]).unwrap();
        let failure = sockets.hand(&[lane(SOCKET, 2)]).unwrap_err();
        assert_eq!(failure.stage, format!("socket web: have one more at {}", path.display()));
        assert_eq!(failure.error, "there is one Unix socket at a path; take so_reuseport out");
    }
}
