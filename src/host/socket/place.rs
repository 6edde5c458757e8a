//! Where a socket is to be: names looked up, and what the service manager has handed over found.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use socket2::{Domain, SockRef, Type};

use super::Refusal;
use super::listener::{address_of, type_of};
use crate::model::event::Address;
use crate::model::spec::{Family, Place, SocketKind, SocketSpec};

/// A socket that the service manager has handed over.
#[derive(Debug)]
pub(super) struct Given {
    name: String,
    fd: OwnedFd,
}

/// Where a socket is to be, as the system takes it.
#[derive(Debug)]
pub(super) enum Target {
    Inet(SocketAddr),
    Unix(PathBuf),
    /// At this address, where this very socket is already.
    Given(OwnedFd, Address),
}

impl Given {
    pub(super) fn new(name: String, fd: OwnedFd) -> Given {
        Given { name, fd }
    }
}

impl Target {
    /// What is done there, for messages.
    pub(super) fn step(&self, kind: SocketKind) -> String {
        match self {
            Target::Inet(address) => step(kind, address),
            Target::Unix(path) => step(kind, path.display()),
            Target::Given(_, address) => step(kind, address),
        }
    }
}

/// Finds out where `spec` is to be. Blocks where a name has to be looked up.
pub(super) fn find(spec: &SocketSpec, given: &[Given]) -> Result<Target, Refusal> {
    if let Some(target) = find_given(spec, given)? {
        return Ok(target);
    }
    match &spec.place {
        Place::Unix(path) => Ok(Target::Unix(path.clone())),
        Place::Inet { host, port, family } => look_up(host, *port, *family)
            .map_err(|error| Refusal { step: step(spec.kind, format_args!("{host}:{port}")), error }),
        Place::Given => Err(Refusal {
            step: "take over what the service manager has opened".into(),
            error: format!(
                "none of that name was handed over; start the agent by a systemd unit whose .socket has \
                 FileDescriptorName={}, or give it a port or a path",
                spec.name
            ),
        }),
    }
}

fn look_up(host: &str, port: u16, family: Family) -> Result<Target, String> {
    let (any, fits, name): (&str, fn(&SocketAddr) -> bool, &str) = match family {
        Family::V4 => ("0.0.0.0", SocketAddr::is_ipv4, "AF_INET"),
        Family::V6 => ("::", SocketAddr::is_ipv6, "AF_INET6"),
    };
    let host = if host.is_empty() { any } else { host };
    let found = (host, port).to_socket_addrs().map_err(|error| {
        format!("no host {host:?} is known ({error}); correct the name, or give an address in its place")
    })?;
    let found: Vec<SocketAddr> = found.collect();
    match found.iter().find(|address| fits(address)) {
        Some(address) => Ok(Target::Inet(*address)),
        None => Err(format!("{host:?} has no address of family {name}; set another family, or give an address")),
    }
}

/// What was handed over under the name of `spec`: of several the first that fits.
fn find_given(spec: &SocketSpec, given: &[Given]) -> Result<Option<Target>, Refusal> {
    let mut named = given.iter().filter(|given| given.name.to_lowercase() == spec.name.as_str()).peekable();
    if named.peek().is_none() {
        return Ok(None);
    }
    let refused = |error: String| Refusal { step: "use what the service manager has handed over".into(), error };
    let mut wrong = String::new();
    for given in named {
        let socket = SockRef::from(&given.fd);
        let failed = |error: io::Error| refused(super::super::sys::error_text(&error));
        let (domain, kind) = (socket.domain().map_err(failed)?, socket.r#type().map_err(failed)?);
        if fits(spec, domain, kind) {
            let address = address_of(&socket).map_err(failed)?;
            let fd = given.fd.as_fd().try_clone_to_owned().map_err(failed)?;
            return Ok(Some(Target::Given(fd, address)));
        }
        wrong = format!(
            "it is a {} of {}, which does not fit; correct the .socket unit",
            type_name(kind),
            domain_name(domain)
        );
    }
    Err(refused(wrong))
}

fn fits(spec: &SocketSpec, domain: Domain, kind: Type) -> bool {
    let family = match &spec.place {
        Place::Inet { family: Family::V4, .. } => domain == Domain::IPV4,
        Place::Inet { family: Family::V6, .. } => domain == Domain::IPV6,
        Place::Unix(_) => domain == Domain::UNIX,
        Place::Given => [Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain),
    };
    family && kind == type_of(spec.kind)
}

/// `listen on 127.0.0.1:8080`
fn step(kind: SocketKind, place: impl std::fmt::Display) -> String {
    format!("{} {place}", if kind.listens() { "listen on" } else { "bind to" })
}

fn domain_name(domain: Domain) -> String {
    match domain {
        Domain::IPV4 => "AF_INET".into(),
        Domain::IPV6 => "AF_INET6".into(),
        Domain::UNIX => "AF_UNIX".into(),
        other => format!("family {}", i32::from(other)),
    }
}

fn type_name(kind: Type) -> String {
    let kinds = [SocketKind::Stream, SocketKind::Datagram, SocketKind::SeqPacket, SocketKind::Raw];
    let known = kinds.into_iter().find(|known| type_of(*known) == kind);
    known.map_or_else(|| format!("type {}", i32::from(kind)), |known| known.word().into())
}
