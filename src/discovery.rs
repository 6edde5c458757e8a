//! Discovery over UDP, as Circus has it: who sends anything to a multicast group is told where an agent takes commands.
//!
//! Nobody needs it in a cluster, whose nodes Redis knows; it is for old tools that look for agents, and off unless a file
//! asks for it: whoever can send a datagram here learns where the agent is, and can have its answers sent to others.
//!
//! Invariants:
//!
//! - What a datagram says does not matter, except that an answer is never answered: two agents would go on for ever.
//! - At most a hundred are answered in a second, whoever they are. Others wait in the kernel, which drops them when it has
//!   no room.
//! - The agent never waits for it. A group that cannot be joined is tried again and again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::wire::circus;

/// What lies between two answers, at least.
const PAUSE: Duration = Duration::from_millis(10);
/// After what time it is tried again to join the group.
const RETRY: Duration = Duration::from_secs(5);

/// How much of a question is looked at.
const LONGEST: usize = 64;

/// Tells all who ask in `group` of `endpoint`, for ever.
pub async fn serve(group: SocketAddrV4, endpoint: &str) {
    let socket = join_in_time(group).await;
    tracing::info!("multicast_endpoint udp://{group}: who asks there is told of {endpoint}");
    let answer = circus::discovery_answer(endpoint);
    let mut turns = interval(PAUSE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut question = [0; LONGEST];
    loop {
        turns.tick().await;
        match socket.recv_from(&mut question).await {
            Ok((count, _)) if circus::is_discovery_answer(&question[..count]) => {}
            Ok((_, sender)) => reply(&socket, &answer, sender),
            Err(error) => tracing::debug!("multicast_endpoint udp://{group}: {error}"),
        }
    }
}

fn reply(socket: &UdpSocket, answer: &str, to: SocketAddr) {
    // One that cannot be sent at once is lost, as datagrams are.
    if let Err(error) = socket.try_send_to(answer.as_bytes(), to) {
        tracing::debug!("no answer to {to}: {error}");
    }
}

/// Joins the group as soon as that can be done: a machine may have no network yet.
async fn join_in_time(group: SocketAddrV4) -> UdpSocket {
    let mut failed = false;
    loop {
        match join(group) {
            Ok(socket) => return socket,
            Err((step, error)) if !failed => {
                tracing::warn!(
                    "multicast_endpoint udp://{group}: cannot {step}: {error}; \
                     this agent is not discovered over UDP, trying again every {} s",
                    RETRY.as_secs()
                );
                failed = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

/// A socket that hears what is sent to the group, and to this machine at its port. Several agents of one user may be in it.
fn join(group: SocketAddrV4) -> Result<UdpSocket, (&'static str, io::Error)> {
    let failed = |step| move |error| (step, error);
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP));
    let socket = socket.map_err(failed("make a socket"))?;
    let shared = socket.set_reuse_address(true).and_then(|()| socket.set_reuse_port(true));
    shared.map_err(failed("share the port"))?;
    let port = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port());
    socket.bind(&port.into()).map_err(failed("bind the port"))?;
    socket.join_multicast_v4(group.ip(), &Ipv4Addr::UNSPECIFIED).map_err(failed("join the group"))?;
    UdpSocket::from_std(socket.into()).map_err(failed("wait for datagrams"))
}
