//! `[socket:NAME]`: settings → [`SocketSpec`], and what must not be said together.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::build::Build;
use super::keys::{Section, nearest};
use super::problem::{Spot, code};
use super::settings::Settings;
use super::value::{Kind, Value, Wrong, wrong};
use super::vars::EnvVars;
use crate::model::names::SocketName;
use crate::model::spec::{Family, Place, SocketKind, SocketSpec};

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Domain {
    Inet(Family),
    Unix,
}

/// Who opens a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Agent,
    ServiceManager,
}

const FAMILIES: [(&str, Domain); 3] =
    [("AF_INET", Domain::Inet(Family::V4)), ("AF_INET6", Domain::Inet(Family::V6)), ("AF_UNIX", Domain::Unix)];

const KINDS: [SocketKind; 4] = [SocketKind::Stream, SocketKind::Datagram, SocketKind::SeqPacket, SocketKind::Raw];

/// IP protocols by name, with the types of socket that carry them. The system's own list is a file that small images
/// do not have.
const PROTOCOLS: &[(&str, i32, &[SocketKind])] = &[
    ("ip", 0, &[SocketKind::Stream, SocketKind::Datagram]),
    ("icmp", 1, &[SocketKind::Datagram, SocketKind::Raw]),
    ("tcp", 6, &[SocketKind::Stream, SocketKind::Raw]),
    ("udp", 17, &[SocketKind::Datagram, SocketKind::Raw]),
    ("ipv6-icmp", 58, &[SocketKind::Datagram, SocketKind::Raw]),
    ("sctp", 132, &[SocketKind::Stream, SocketKind::Raw]),
    ("udplite", 136, &[SocketKind::Datagram, SocketKind::Raw]),
    ("raw", 255, &[SocketKind::Raw]),
    ("mptcp", 262, &[SocketKind::Stream]),
];

/// The most bytes of a Unix socket's path: `sun_path` has 108, and the last is a NUL.
const LONGEST_PATH: usize = 107;

/// The most bytes of an interface's name: IFNAMSIZ without the NUL.
const LONGEST_INTERFACE: usize = 15;

/// `AF_INET`, in any case.
pub(super) fn domain(text: &str) -> Result<Domain, Wrong> {
    let upper = text.to_uppercase();
    let found = FAMILIES.iter().find(|(name, _)| *name == upper);
    found.map(|(_, domain)| *domain).ok_or_else(|| none_of("AF_INET, AF_INET6 or AF_UNIX", text, FAMILIES.map(|f| f.0)))
}

/// `SOCK_STREAM`, in any case.
pub(super) fn kind(text: &str) -> Result<SocketKind, Wrong> {
    let upper = text.to_uppercase();
    if upper == "SOCK_RDM" {
        return Err(wrong("cannot be SOCK_RDM")
            .label("neither IP nor Unix sockets have this type")
            .help("SOCK_SEQPACKET keeps messages whole and in order, over a Unix socket"));
    }
    let found = KINDS.into_iter().find(|kind| kind.word() == upper);
    found.ok_or_else(|| {
        none_of("SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET or SOCK_RAW", text, KINDS.map(SocketKind::word))
    })
}

/// An IP protocol by name or number.
pub(super) fn protocol(text: &str) -> Result<i32, Wrong> {
    let lower = text.to_lowercase();
    let named = PROTOCOLS.iter().find(|(name, ..)| *name == lower).map(|(_, number, _)| *number);
    let number = || text.parse::<i32>().ok().filter(|number| (0..=262).contains(number));
    named.or_else(number).ok_or_else(|| {
        let known: Vec<&str> = PROTOCOLS.iter().map(|(name, ..)| *name).collect();
        let must = format!("one of {}, or a number up to 262", known.join(", "));
        none_of(&must, text, PROTOCOLS.iter().map(|(name, ..)| *name))
    })
}

/// `bind`, or `systemd`.
pub(super) fn origin(text: &str) -> Result<Origin, Wrong> {
    match text {
        "bind" => Ok(Origin::Agent),
        "systemd" => Ok(Origin::ServiceManager),
        _ => Err(none_of("bind or systemd", text, ["bind", "systemd"])),
    }
}

/// An address or a host's name, without brackets; empty: all addresses.
pub(super) fn host(text: &str) -> Result<String, Wrong> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let strange = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '[' | ']' | '@' | ',');
    match bare {
        "" | "*" => Ok(String::new()),
        _ if literal(bare) == Some(Family::V6) => Ok(bare.to_owned()),
        _ if bare.len() < text.len() || bare.contains(strange) => {
            let wrong = wrong("must be an address or the name of a host").label("this is neither");
            let port = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
            Err(match port {
                Some((host, port)) => wrong.help(format!("write `host = {host}` and `port = {port}`")),
                None => wrong.help("an IPv6 address may have brackets around it; empty or `*` are all addresses"),
            })
        }
        _ => Ok(bare.to_owned()),
    }
}

/// The absolute path of a Unix socket.
pub(super) fn path(text: &str) -> Result<String, Wrong> {
    if !text.starts_with('/') {
        return Err(wrong("must be an absolute path").label("this does not begin with `/`"));
    }
    if text.len() > LONGEST_PATH {
        return Err(wrong("is too long for a Unix socket")
            .label(format!("{} bytes, where the system takes {LONGEST_PATH}", text.len()))
            .help("put it into a directory nearer to `/`, such as /run/circus"));
    }
    Ok(text.to_owned())
}

/// The name of a network interface; whether there is one shows when the socket is opened.
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    if text.len() > LONGEST_INTERFACE {
        return Err(wrong("is too long for a network interface")
            .label(format!("{} bytes, where the system takes {LONGEST_INTERFACE}", text.len())));
    }
    if text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':')) {
        return Err(wrong("must name a network interface")
            .label("this cannot be one")
            .help("ip(8) lists them: `ip link`"));
    }
    Ok(text.to_owned())
}

/// `USER`, `USER:GROUP` or `:GROUP`, by name or number.
pub(super) fn owner(text: &str) -> Result<(Option<u32>, Option<u32>), Wrong> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if group == Some("") {
        return Err(wrong("must be USER, USER:GROUP or :GROUP").label("nothing follows the `:`"));
    }
    let user = match Kind::User.parse(user)? {
        Value::User(user) => Some(user.uid),
        _ => None,
    };
    let group = match group.map(|group| Kind::Group.parse(group)).transpose()? {
        Some(Value::Number(gid)) => u32::try_from(gid).ok(),
        _ => None,
    };
    Ok((user, group))
}

fn none_of<'a>(must: &str, text: &str, known: impl IntoIterator<Item = &'a str>) -> Wrong {
    let wrong = wrong(format!("must be {must}"));
    match nearest(text, known) {
        Some(known) => wrong.label(format!("did you mean `{known}`?")),
        None => wrong.label("this is none of them"),
    }
}

/// The IP version of an address; none where it is a name. `fe80::1%eth0` is an address on one interface.
fn literal(host: &str) -> Option<Family> {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    let v4 = host.parse::<Ipv4Addr>().ok().map(|_| Family::V4);
    v4.or_else(|| address.parse::<Ipv6Addr>().ok().map(|_| Family::V6))
}

impl<'a> Build<'a> {
    /// The sockets of the file, by name. Those with a mistake are known to watchers nevertheless.
    pub(super) fn read_sockets(&mut self, vars: &EnvVars) {
        let mut sockets: Vec<(SocketSpec, Spot)> = Vec::new();
        for (head, name) in self.socket_heads() {
            let settings = self.settings(head, Section::Socket, vars);
            let socket = self.socket(&name, &settings);
            let watchers = socket.as_ref().map(|socket| socket.watchers.clone()).unwrap_or_default();
            self.sockets.insert(name, watchers);
            let spot = ["path", "port", "host"].iter().find_map(|key| settings.get(key)).map(|set| set.entry.spot());
            let spot = spot.or_else(|| self.doc.head(head).cloned());
            sockets.extend(socket.zip(spot));
        }
        sockets.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        self.check_addresses(&sockets);
        self.opened = sockets.into_iter().map(|(socket, _)| socket).collect();
    }

    /// The sections that are sockets, with their names.
    fn socket_heads(&mut self) -> Vec<(&'a str, SocketName)> {
        let doc = self.doc;
        let mut heads: Vec<(&'a str, SocketName)> = Vec::new();
        for head in doc.sections().into_iter().filter(|head| head.starts_with("socket:")) {
            let Some(spot) = doc.head(head).cloned() else { continue };
            if self.entries(head, Section::Socket).is_empty() {
                continue;
            }
            match socket_name_of(head) {
                Err(why) => {
                    self.problems.error(code::HEAD, spot, why);
                }
                Ok(name) => match heads.iter().find(|(_, other)| *other == name) {
                    None => heads.push((head, name)),
                    Some((other, _)) => {
                        let first = doc.head(other).map(Spot::short).unwrap_or_default();
                        self.problems
                            .error(code::CONFLICT, spot, format!("[{head}] and [{other}] are one name"))
                            .label("case and blanks around a name do not count")
                            .note(format_args!("the other is at {first}"));
                    }
                },
            }
        }
        heads
    }

    /// The socket, unless something keeps it from being one.
    pub(super) fn socket(&mut self, name: &SocketName, settings: &Settings<'_>) -> Option<SocketSpec> {
        let watchers = match settings.get("watchers") {
            Some(set) => self.watchers_in(set, code::SOCKET, "nobody could have the socket"),
            None => Vec::new(),
        };
        // What follows weighs keys against each other: one that is wrong weighs nothing, and has its own problem.
        let sound = |key: &str| settings.get(key).is_some() || self.is_absent(settings, key);
        if !["host", "port", "path", "family", "type", "proto", "from"].into_iter().all(sound) {
            return None;
        }
        let Some(Value::SocketKind(kind)) = settings.value("type") else { return None };
        let place = match settings.value("from") {
            Some(Value::Origin(Origin::ServiceManager)) => self.given(settings),
            _ => self.place(settings, kind)?,
        };
        let (inet, unix) = (matches!(place, Place::Inet { .. }), matches!(place, Place::Unix(_)));
        let protocol = if inet { self.protocol(settings, kind)? } else { 0 };
        self.check_backlog(settings, kind);
        if unix {
            self.warn_of_decimal(settings);
        }
        let owner = match settings.value("owner") {
            Some(Value::Owner(user, group)) if unix => (user, group),
            _ => (None, None),
        };
        Some(SocketSpec {
            name: name.clone(),
            kind,
            protocol: Some(protocol).filter(|protocol| *protocol != 0),
            backlog: settings.number("backlog")?,
            blocking: settings.bool("blocking"),
            reuse_port: inet && kind != SocketKind::Raw && settings.bool("so_reuseport"),
            replace: unix && settings.bool("replace"),
            umask: settings.number("umask").filter(|_| unix).unwrap_or(0),
            owner,
            interface: settings.text("interface").filter(|_| inet),
            watchers,
            settings: settings.all().map(|set| (set.entry.key.to_owned(), set.text.clone())).collect(),
            place,
        })
    }

    // ---- addresses ----

    /// The place of a socket that the service manager has opened: it alone says where.
    fn given(&mut self, settings: &Settings<'_>) -> Place {
        // Not `type`, by which a reader of this file knows what comes; nor `blocking`, which can be changed.
        let keys = [
            "host",
            "port",
            "path",
            "family",
            "proto",
            "interface",
            "backlog",
            "so_reuseport",
            "umask",
            "owner",
            "replace",
        ];
        self.no_effect(settings, &keys, "the service manager opens this socket: its unit says how");
        Place::Given
    }

    fn place(&mut self, settings: &Settings<'_>, kind: SocketKind) -> Option<Place> {
        match self.domain(settings)? {
            Domain::Unix => {
                let keys = ["host", "port", "interface", "proto", "so_reuseport"];
                self.no_effect(settings, &keys, "this is a Unix socket: it has a `path`, and nothing of IP");
                if kind == SocketKind::Raw {
                    self.wrong_kind(settings, "a Unix socket", "SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET");
                    return None;
                }
                settings.path("path").map(Place::Unix)
            }
            Domain::Inet(family) => {
                self.no_effect(
                    settings,
                    &["umask", "owner", "replace"],
                    "only a Unix socket, one with a `path`, is a file",
                );
                match kind {
                    SocketKind::SeqPacket => {
                        self.wrong_kind(settings, "an IP socket", "SOCK_STREAM, SOCK_DGRAM or SOCK_RAW");
                        return None;
                    }
                    SocketKind::Raw => self.no_effect(settings, &["port", "so_reuseport"], "SOCK_RAW knows no ports"),
                    SocketKind::Stream | SocketKind::Datagram => {}
                }
                let port = if kind == SocketKind::Raw { 0 } else { settings.number("port")? };
                Some(Place::Inet { host: settings.text("host")?, port, family })
            }
        }
    }

    /// What `family` says, or what follows from `path` and `host`.
    fn domain(&mut self, settings: &Settings<'_>) -> Option<Domain> {
        let said = match settings.get("family").map(|set| &set.value) {
            Some(Value::Domain(domain)) => Some(*domain),
            _ => None,
        };
        if settings.path("path").is_some() {
            if said != Some(Domain::Unix) {
                self.no_effect(settings, &["family"], "`path` makes it AF_UNIX, as in Circus");
            }
            return Some(Domain::Unix);
        }
        let host = settings.get("host").zip(settings.text("host").as_deref().and_then(literal));
        match (said, host) {
            (Some(Domain::Unix), _) => {
                let spot = settings.get("family").map(|set| set.entry.spot())?;
                self.problems
                    .error(code::MISSING, spot, format!("[{}] has no `path`", settings.head))
                    .label("an AF_UNIX socket is at one")
                    .help("write `path = /run/circus/NAME.sock`");
                None
            }
            (Some(Domain::Inet(family)), Some((set, literal))) if family != literal => {
                let word = |family| if family == Family::V4 { ("IPv4", "AF_INET") } else { ("IPv6", "AF_INET6") };
                let message = format!("`host` is an {} address, and `family` is {}", word(literal).0, word(family).1);
                self.problems
                    .error(code::CONFLICT, set.entry.spot(), message)
                    .help(format_args!("take `family` out, or write `family = {}`", word(literal).1));
                None
            }
            (Some(domain), _) => Some(domain),
            (None, Some((_, literal))) => Some(Domain::Inet(literal)),
            (None, None) => Some(Domain::Inet(Family::V4)),
        }
    }

    fn wrong_kind(&mut self, settings: &Settings<'_>, what: &str, may: &str) {
        let Some((set, Value::SocketKind(kind))) = settings.get("type").map(|set| (set, &set.value)) else { return };
        self.problems
            .error(code::CONFLICT, set.entry.spot(), format!("{what} cannot be {}", kind.word()))
            .help(format_args!("it can be {may}"));
    }

    /// The protocol of an IP socket, 0 for the usual one; nothing where it cannot be.
    fn protocol(&mut self, settings: &Settings<'_>, kind: SocketKind) -> Option<i32> {
        let number: i32 = settings.number("proto").unwrap_or(0);
        if kind == SocketKind::Raw && number == 0 {
            let spot = ["proto", "type"].iter().find_map(|key| settings.get(key))?.entry.spot();
            self.problems
                .error(code::MISSING, spot, format!("[{}] does not say which packets it gets", settings.head))
                .label("SOCK_RAW has no usual protocol")
                .help("write `proto = icmp`, for instance");
            return None;
        }
        let row = PROTOCOLS.iter().find(|(_, known, kinds)| *known == number && !kinds.contains(&kind));
        if let (Some((name, _, kinds)), Some(set)) = (row, settings.get("proto")) {
            let kinds: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
            self.problems
                .error(code::CONFLICT, set.entry.spot(), format!("{name} does not go through {}", kind.word()))
                .help(format_args!("write `type = {}`", kinds.join("` or `type = ")));
            return None;
        }
        Some(number)
    }

    /// Refuses two sockets at one address: the second could not be opened.
    fn check_addresses(&mut self, sockets: &[(SocketSpec, Spot)]) {
        for (at, (socket, spot)) in sockets.iter().enumerate() {
            let Some((first, other)) = sockets[..at].iter().find(|(first, _)| collide(first, socket)) else { continue };
            let message = format!("sockets `{}` and `{}` have one address", first.name, socket.name);
            self.problems
                .error(code::ADDRESS, spot.clone(), message)
                .label("only one of them can be opened")
                .note(format_args!("the other is at {}", other.short()))
                .help("several watchers may use one socket: name it in `sockets` of each");
        }
    }

    // ---- the rest ----

    /// Warns where more connections are to wait than the system lets.
    fn check_backlog(&mut self, settings: &Settings<'_>, kind: SocketKind) {
        if !kind.listens() {
            self.no_effect(settings, &["backlog"], "no connections wait at a socket of this type");
            return;
        }
        let (Some(set), Some(backlog)) = (settings.get("backlog"), settings.number::<u32>("backlog")) else { return };
        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
        if let Some(most) = most.filter(|most| backlog > *most) {
            let message = format!("no {backlog} connections can wait here, only {most}");
            self.problems
                .warn(code::NO_EFFECT, set.entry.spot(), message)
                .label("the system caps it")
                .help(format_args!("`sysctl net.core.somaxconn={backlog}`, or `backlog = {most}`"));
        }
    }

    /// Warns of a mask that would be another one in Circus, which reads it as a decimal number.
    fn warn_of_decimal(&mut self, settings: &Settings<'_>) {
        let (Some(set), Some(mask)) = (settings.get("umask"), settings.number::<u32>("umask")) else { return };
        let Some(decimal) = set.text.trim().parse::<u32>().ok().filter(|decimal| decimal & 0o777 != mask) else {
            return;
        };
        let mode = |mask: u32| format!("{:04o}", 0o777 & !mask);
        let message = format!("this mask is octal: the socket's mode is {}", mode(mask));
        self.problems
            .warn(code::MEANING, set.entry.spot(), message)
            .label(format!("Circus reads it as a decimal number, and its mode there is {}", mode(decimal)))
            .help(format_args!("`umask = 0o{mask:03o}` says that octal is meant"));
    }

    /// Warns of sockets that nobody uses.
    pub(super) fn check_unused(&mut self) {
        let sections = self.doc.sections();
        for name in self.opened.iter().map(|socket| &socket.name).filter(|name| !self.used.contains(name)) {
            let head = sections.iter().find(|head| socket_name_of(head).as_ref() == Ok(name));
            let Some(spot) = head.and_then(|head| self.doc.head(head)).cloned() else { continue };
            self.problems
                .warn(code::NO_EFFECT, spot, format!("no watcher uses socket `{name}`"))
                .label("what comes to it would wait for ever")
                .help(format_args!("`sockets = {name}` in a watcher hands it down"));
        }
    }
}

/// The name of a socket's section.
fn socket_name_of(head: &str) -> Result<SocketName, String> {
    SocketName::parse(head.strip_prefix("socket:").unwrap_or_default().trim()).map_err(|why| why.0)
}

/// Whether one of two sockets keeps the other from being opened.
fn collide(one: &SocketSpec, other: &SocketSpec) -> bool {
    match (&one.place, &other.place) {
        (Place::Unix(one), Place::Unix(other)) => one == other,
        (Place::Inet { host, port, family }, Place::Inet { host: its_host, port: its_port, family: its_family }) => {
            let ports = |spec: &SocketSpec| match (spec.kind, spec.protocol) {
                (SocketKind::Stream, None | Some(262)) => 6,
                (SocketKind::Datagram, None) => 17,
                (_, protocol) => protocol.unwrap_or(0),
            };
            let apart = one.interface != other.interface || one.kind == SocketKind::Raw;
            let here = (one.kind, ports(one), port, family) == (other.kind, ports(other), its_port, its_family);
            here && *port != 0 && !apart && is_one_host(host, its_host)
        }
        _ => false,
    }
}

/// Whether two texts name one host, as far as that shows without asking.
fn is_one_host(one: &str, other: &str) -> bool {
    let address = |host: &str| match host {
        "" => None,
        _ => host.parse::<Ipv4Addr>().ok().map(|address| address.to_ipv6_mapped()).or_else(|| host.parse().ok()),
    };
    one.eq_ignore_ascii_case(other) || address(one).is_some_and(|one| address(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_with_a_port() {
        let table = [
            ("localhost", "localhost", None),
            ("web-1.example.com", "web-1.example.com", None),
            ("10.0.0.1", "10.0.0.1", Some(Family::V4)),
            ("::", "::", Some(Family::V6)),
            ("[2001:db8::1]", "2001:db8::1", Some(Family::V6)),
            ("fe80::1%eth0", "fe80::1%eth0", Some(Family::V6)),
            ("*", "", None),
            ("", "", None),
        ];
        for (text, bare, family) in table {
            assert_eq!((host(text).as_deref(), literal(bare)), (Ok(bare), family), "{text}");
        }
        for text in ["[localhost]", "[10.0.0.1]", "h/x", "a b", "http://h", "::1::2", "a,b", "[::1"] {
            assert!(host(text).is_err(), "{text}");
        }
        let help = host("10.0.0.1:8080").unwrap_err().help;
        assert_eq!(help.as_deref(), Some("write `host = 10.0.0.1` and `port = 8080`"));
    }

    #[test]
    fn families_types_and_protocols_come_in_any_case() {
        assert_eq!(domain("af_inet6"), Ok(Domain::Inet(Family::V6)));
        assert_eq!(kind("sock_seqpacket"), Ok(SocketKind::SeqPacket));
        assert_eq!((protocol("UDPLite"), protocol("132"), protocol("0")), (Ok(136), Ok(132), Ok(0)));
        assert_eq!(domain("AF_IENT6").unwrap_err().label, "did you mean `AF_INET6`?");
        assert_eq!(kind("SOCK_STRAM").unwrap_err().label, "did you mean `SOCK_STREAM`?");
        assert_eq!(protocol("udplit").unwrap_err().label, "did you mean `udplite`?");
        assert!(kind("SOCK_RDM").unwrap_err().message.contains("SOCK_RDM"));
        for text in ["-1", "263", "1.5", "nothing"] {
            assert!(protocol(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_fits_into_an_address() {
        let longest = format!("/{}", "x".repeat(LONGEST_PATH - 1));
        assert_eq!(path(&longest), Ok(longest.clone()));
        assert_eq!(path(&(longest + "x")).unwrap_err().label, "108 bytes, where the system takes 107");
        assert!(path("run/x.sock").is_err() && path("@abstract").is_err());
    }

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        let table = [
            ("root", (Some(0), None)),
            ("0:0", (Some(0), Some(0))),
            (":root", (None, Some(0))),
            ("12345678:87654321", (Some(12_345_678), Some(87_654_321))),
        ];
        for (text, owner_of_it) in table {
            assert_eq!(owner(text), Ok(owner_of_it), "{text}");
        }
        for text in ["root:", ":", "no such user", "root:no such group", "root:root:root"] {
            assert!(owner(text).is_err(), "{text}");
        }
    }

    fn inet(host: &str, port: u16) -> SocketSpec {
        SocketSpec::at(
            SocketName::parse("s").expect("a name"),
            Place::Inet { host: host.into(), port, family: Family::V4 },
        )
    }

    #[test]
    fn only_what_cannot_be_opened_side_by_side_collides() {
        let one = inet("localhost", 80);
        assert!(collide(&one, &inet("LOCALHOST", 80)));
        assert!(collide(&inet("::1", 80), &inet("0:0::1", 80)));
        assert!(collide(&one, &SocketSpec { protocol: Some(262), ..one.clone() }), "mptcp has the ports of tcp");
        let shared = SocketSpec { reuse_port: true, ..one.clone() };
        assert!(collide(&one, &shared) && collide(&shared, &shared), "one socket spreads over processes, not two");
        let unix = |path: &str| SocketSpec { place: Place::Unix(PathBuf::from(path)), ..one.clone() };
        assert!(collide(&unix("/run/a"), &unix("/run//a")));

        let apart = [
            inet("localhost", 81),
            inet("10.0.0.1", 80),
            SocketSpec { kind: SocketKind::Datagram, ..one.clone() },
            SocketSpec { protocol: Some(132), ..one.clone() },
            SocketSpec { interface: Some("lo".into()), ..one.clone() },
            unix("/localhost"),
        ];
        for other in apart {
            assert!(!collide(&one, &other), "{other:?}");
        }
        assert!(!collide(&inet("h", 0), &inet("h", 0)));
    }
}
