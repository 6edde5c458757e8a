//! What the kernel knows of sockets that others have (sock_diag(7)), and which processes those are.
//!
//! Asked of the kernel rather than read from `/proc/net`, which lists all of the machine's: of TCP it gives only those
//! of one port. Of Unix sockets it gives all, with their names; there are few.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_ESTABLISHED, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{self, ExtensionFlags, InetRequest, InetResponseHeader, SocketId};
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName, Vfs};
use netlink_packet_sock_diag::unix::{self, ShowFlags, UnixRequest, UnixResponse};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use nix::sys::stat::fstat;
use nix::unistd::User;

use crate::host::harmless;
use crate::model::spec::SocketKind;

/// The kernel sends no more at once (`NLMSG_GOODSIZE` and some).
const ANSWER: usize = 64 * 1024;

/// How many characters of a program's name are shown.
const LONGEST_NAME: usize = 30;

/// Who has the socket that keeps an address from being bound: `nginx (pid 812)`; nothing where that cannot be seen.
pub(super) fn holder(address: SocketAddr, kind: SocketKind) -> Option<String> {
    let (protocol, states) = match kind {
        SocketKind::Stream => (IPPROTO_TCP, inet::StateFlags::LISTEN),
        SocketKind::Datagram => (IPPROTO_UDP, inet::StateFlags::all()),
        SocketKind::SeqPacket | SocketKind::Raw => return None,
    };
    // A socket of the other family may have all addresses of both.
    let seen = [AF_INET, AF_INET6]
        .iter()
        .flat_map(|family| ip_sockets(*family, protocol, states.clone(), address.port()).unwrap_or_default());
    let is_in_the_way = |seen: &InetResponseHeader| {
        let theirs = plain(seen.socket_id.source_address);
        theirs == plain(address.ip()) || theirs.is_unspecified() || address.ip().is_unspecified()
    };
    let mut seen: Vec<_> = seen.filter(is_in_the_way).collect();
    seen.sort_by_key(|seen| plain(seen.socket_id.source_address) != plain(address.ip()));
    let seen = seen.first()?;
    Some(process_with(seen.inode).unwrap_or_else(|| format!("a process of user {}", user_name(seen.uid))))
}

/// Who has the Unix socket at `path`.
pub(super) fn holder_of_path(path: &Path) -> Option<String> {
    let seen = unix_sockets().ok()?;
    let is_it = |seen: &&UnixResponse| matches!(seen.name(), Some(UnixDiagName::Pathname(name)) if name.as_bytes() == path.as_os_str().as_bytes());
    // A listener has the connections that it accepted bear its name.
    let (listening, others): (Vec<_>, Vec<_>) =
        seen.iter().filter(is_it).partition(|seen| seen.header.state == TCP_LISTEN);
    listening.iter().chain(&others).find_map(|seen| process_with(seen.header.inode))
}

/// Whether a process has a connection that came through the TCP listener at this address.
pub(super) fn has_tcp_connection(address: SocketAddr) -> io::Result<bool> {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    let states = inet::StateFlags::all() - inet::StateFlags::LISTEN - inet::StateFlags::TIME_WAIT;
    let seen = ip_sockets(family, IPPROTO_TCP, states, address.port())?;
    // What its process has closed, and what none has accepted yet, is of no inode.
    let is_of_it = |seen: &InetResponseHeader| {
        seen.inode != 0 && (address.ip().is_unspecified() || seen.socket_id.source_address == address.ip())
    };
    Ok(seen.iter().any(is_of_it))
}

/// Whether a process has a connection that came through this Unix listener.
pub(super) fn has_unix_connection(listener: impl AsFd) -> io::Result<bool> {
    let inode = fstat(listener)?.st_ino;
    let seen = unix_sockets()?;
    // What is accepted is bound to the file of its listener, however often another socket takes over the path.
    let file = |seen: &UnixResponse| -> Option<Vfs> {
        seen.nlas.iter().find_map(|nla| if let Nla::Vfs(file) = nla { Some(file.clone()) } else { None })
    };
    let listener = seen.iter().find(|seen| u64::from(seen.header.inode) == inode);
    let Some(listener_file) = listener.and_then(file) else {
        return Err(io::Error::other("the socket is not among those that the kernel lists"));
    };
    let is_of_it = |seen: &UnixResponse| {
        seen.header.state == TCP_ESTABLISHED && seen.header.inode != 0 && file(seen).as_ref() == Some(&listener_file)
    };
    Ok(seen.iter().any(is_of_it))
}

/// The sockets of one port, in these states.
fn ip_sockets(family: u8, protocol: u8, states: inet::StateFlags, port: u16) -> io::Result<Vec<InetResponseHeader>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let socket_id = SocketId { source_port: port, ..any };
    let request = InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id };
    let answers = ask(SockDiagMessage::InetRequest(request))?.into_iter();
    let mine = |answer| match answer {
        SockDiagMessage::InetResponse(seen) if seen.header.socket_id.source_port == port => Some(seen.header),
        _ => None,
    };
    Ok(answers.filter_map(mine).collect())
}

/// All Unix sockets.
fn unix_sockets() -> io::Result<Vec<UnixResponse>> {
    let request = UnixRequest {
        state_flags: unix::StateFlags::from_bits_retain(u32::MAX),
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::VFS,
        cookie: [0xff; 8],
    };
    let answers = ask(SockDiagMessage::UnixRequest(request))?.into_iter();
    Ok(answers
        .filter_map(|answer| if let SockDiagMessage::UnixResponse(seen) = answer { Some(*seen) } else { None })
        .collect())
}

/// Has the kernel list sockets.
fn ask(request: SockDiagMessage) -> io::Result<Vec<SockDiagMessage>> {
    let line: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    send(line.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let (mut answers, mut buffer) = (Vec::new(), vec![0; ANSWER]);
    loop {
        let length = recv(line.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let answer = answer.map_err(|error| io::Error::other(format!("an answer that makes no sense: {error}")))?;
            // Each begins at a multiple of four.
            let length = (answer.header.length as usize).next_multiple_of(4).min(rest.len());
            rest = &rest[length..];
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(seen) => answers.push(seen),
                _ => {}
            }
        }
    }
}

/// The process that has a socket, of several the first: `nginx (pid 812)`.
fn process_with(inode: u32) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    let has_it = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
    };
    let pid = pids.into_iter().find(has_it)?;
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", harmless(name.trim_ascii_end(), LONGEST_NAME)))
}

/// An IPv4 address in the clothes of IPv6 without them.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
