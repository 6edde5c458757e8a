//! A place that is listened at, and who comes there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, End, FAREWELL};
use super::{MAX_CONNECTIONS, MAX_KEPT};
use crate::model::spec::ZmqAddress;
use crate::unix::{self, UnixSocket};
use crate::zmq::connection::Budget;
use crate::zmq::zmtp::Kind;

/// How long nobody is taken in after that has failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the log has a line about peers that were closed, at most.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Why a place cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{0}: another process listens there; stop it, or set another address")]
    InUse(ZmqAddress),
    /// It is for this machine alone, and the name means an address that is not.
    #[error("{0}: its name means {1}, which other machines may reach; endpoint_public = true allows that")]
    Public(ZmqAddress, IpAddr),
    /// A socket of the file system cannot be had.
    #[error("ipc://{0}")]
    Ipc(unix::BindError),
    /// A step failed.
    #[error("{address}: {step}: {error}")]
    Failed {
        /// Where.
        address: ZmqAddress,
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        error: io::Error,
    },
}

/// A place that is listened at. The file of an `ipc://` socket is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    bound: Bound,
    /// What it is called in the log.
    name: String,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Ipc(UnixSocket),
}

/// What bytes go through.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Listener {
    /// Listens at `address`; a name in it is looked up, which may take its time. `public`: whether other machines may come.
    /// `owner`: the uid that the file of an `ipc://` socket belongs to, where not ours. `key` names it in the log. To be
    /// called within a tokio runtime.
    pub fn bind(key: &str, address: &ZmqAddress, public: bool, owner: Option<u32>) -> Result<Listener, BindError> {
        let bound = match address {
            ZmqAddress::Tcp { host, port } => Bound::Tcp(bind_tcp(address, (host, *port), public)?),
            ZmqAddress::Ipc(path) => Bound::Ipc(UnixSocket::bind(path, owner).map_err(|error| match error {
                unix::BindError::InUse(_) => BindError::InUse(address.clone()),
                error => BindError::Ipc(error),
            })?),
        };
        Ok(Listener { bound, name: format!("{key} {address}") })
    }

    /// What it is called in the log.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    async fn accept(&self) -> io::Result<(Box<dyn Duplex>, String)> {
        match &self.bound {
            Bound::Tcp(listener) => {
                let (client, from) = listener.accept().await?;
                prepare(&client);
                Ok((Box::new(client), format!("tcp://{from}")))
            }
            Bound::Ipc(socket) => {
                let (client, _) = socket.listener().accept().await?;
                let from = unix::peer(&client);
                Ok((Box::new(client), from))
            }
        }
    }

    /// Takes in who comes, and has each spoken with by `converse`, until `over`; then those who are there have a second
    /// for their last words. The file of an `ipc://` socket is gone when this returns.
    pub(super) async fn serve<C>(
        self,
        own: Kind,
        over: impl Future<Output = ()>,
        converse: impl Fn(Connection, String) -> C,
    ) where
        C: Future<Output = Result<(), End>> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(places()));
        let budget = Budget::new(MAX_KEPT);
        let complaints = Arc::new(Complaints::new(&self.name));
        let mut connections = JoinSet::new();
        let mut over = pin!(over);
        let mut failing = false;
        loop {
            let next = async {
                let place = match Arc::clone(&room).try_acquire_owned() {
                    Ok(place) => place,
                    Err(_) => {
                        complaints.tell(&format_args!("{} clients are connected; the next ones wait", places()));
                        Arc::clone(&room).acquire_owned().await.expect("the door's room is never closed")
                    }
                };
                (self.accept().await, place)
            };
            tokio::select! {
                (accepted, place) = next => match accepted {
                    Ok((stream, from)) => {
                        failing = false;
                        let conversation = converse(Connection::new(stream, own, &budget), from.clone());
                        let complaints = Arc::clone(&complaints);
                        connections.spawn(async move {
                            match conversation.await {
                                Ok(()) | Err(End::HungUp) => {}
                                Err(end) => complaints.tell(&format_args!("{from} is closed: {end}")),
                            }
                            drop(place);
                        });
                    }
                    // Out of descriptors, most likely. The backlog waits; trying at once again would only spin.
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!("{}: accept failed: {error}; trying again every 0.1 s", self.name);
                        }
                        sleep(PAUSE).await;
                    }
                },
                // A connection's end; a panic in one ends that one.
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = &mut over => break,
            }
        }
        // Nobody new, while those who are there get their last words.
        drop(self);
        let _ = timeout(2 * FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
    }
}

fn bind_tcp(address: &ZmqAddress, (host, port): (&str, u16), public: bool) -> Result<TcpListener, BindError> {
    let failed = |step| {
        move |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address.clone()),
            _ => BindError::Failed { address: address.clone(), step, error },
        }
    };
    let at = resolve(host, port).map_err(failed("look its name up"))?;
    if !public && !at.ip().is_loopback() {
        return Err(BindError::Public(address.clone(), at.ip()));
    }
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(failed("make a socket"))?;
    // Connections of an agent that ended a moment ago are no reason not to start.
    socket.set_reuseaddr(true).map_err(failed("make its address one to be had again"))?;
    socket.bind(at).map_err(failed("bind"))?;
    socket.listen(1024).map_err(failed("listen"))
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    if host == "*" {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    let mut found = (host, port).to_socket_addrs()?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Answers are short and waited for; and a peer whose machine is gone is found out.
pub(super) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(3));
}

/// How many clients there may be at once: never so many that none of the agent's descriptors are left for its processes.
fn places() -> usize {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(limit / 4).unwrap_or(usize::MAX).clamp(16, MAX_CONNECTIONS)
}

/// What there is to say in the log of peers that were closed: a line a second, however many there are.
#[derive(Debug)]
pub(super) struct Complaints {
    door: String,
    began: tokio::time::Instant,
    /// When a line may be written again, in milliseconds since then; and how many were not.
    next_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Complaints {
    fn new(door: &str) -> Complaints {
        let began = tokio::time::Instant::now();
        Complaints { door: door.into(), began, next_ms: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    fn tell(&self, what: &std::fmt::Arguments<'_>) {
        let now = self.began.elapsed();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if ms(now) < self.next_ms.load(Ordering::Relaxed) {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.next_ms.store(ms(now + COMPLAINT), Ordering::Relaxed);
        match self.unsaid.swap(0, Ordering::Relaxed) {
            0 => tracing::warn!("{}: {what}", self.door),
            more => tracing::warn!("{}: {what}; and {more} more like it", self.door),
        }
    }
}
