//! The sockets there are, and what a program is told of those it gets.

use std::collections::BTreeMap;

use super::event::{Address, Bound, SocketId, Whose};
use super::names::{SocketName, WatcherName};
use super::spec::{Convention, FIRST_FD, SocketSpec, SocketUse, Which};

/// All sockets of a node, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sockets(BTreeMap<SocketName, Socket>);

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Socket {
    /// Its opening.
    pub id: SocketId,
    /// What it should be.
    pub spec: SocketSpec,
    /// As the file has it, whatever was changed since; nothing for one that a command added.
    pub filed: Option<SocketSpec>,
    /// Where it is; nothing: it is being opened.
    pub bound: Option<Bound>,
}

impl Sockets {
    /// Adds one, or puts it in the place of another of its name.
    pub fn insert(&mut self, socket: Socket) {
        self.0.insert(socket.spec.name.clone(), socket);
    }

    /// Forgets one.
    pub fn remove(&mut self, name: &SocketName) -> Option<Socket> {
        self.0.remove(name)
    }

    /// The one of this name.
    pub fn get(&self, name: &SocketName) -> Option<&Socket> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Socket> + Clone {
        self.0.values()
    }

    /// Takes note of where sockets are.
    pub fn learn(&mut self, bound: Vec<(SocketId, Bound)>) {
        for (id, bound) in bound {
            if let Some(socket) = self.0.values_mut().find(|socket| socket.id == id) {
                socket.bound = Some(bound);
            }
        }
    }

    /// Whether this opening is one of theirs.
    pub fn has(&self, id: SocketId) -> bool {
        self.0.values().any(|socket| socket.id == id)
    }

    /// Those that a watcher's processes find from [`FIRST_FD`] on, in that order.
    pub fn numbered<'a>(&'a self, wanted: &'a SocketUse, watcher: &WatcherName) -> Vec<&'a Socket> {
        match &wanted.which {
            Which::All => self.iter().filter(|socket| socket.spec.admits(watcher)).collect(),
            Which::These(names) => names.iter().filter_map(|name| self.get(name)).collect(),
        }
    }

    /// Those and the one that is stdin, each once.
    pub fn all_of<'a>(&'a self, wanted: &'a SocketUse, watcher: &WatcherName) -> Vec<&'a Socket> {
        let mut all = self.numbered(wanted, watcher);
        let stdin = wanted.stdin.as_ref().and_then(|name| self.get(name));
        all.extend(stdin.filter(|stdin| !all.clone().iter().any(|socket| socket.id == stdin.id)));
        all
    }
}

/// What a program's environment says of its sockets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Telling {
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Variables that hold a pid.
    pub pids: Vec<(&'static str, Whose)>,
}

/// Tells a program in slot `wid` of these sockets, which it finds from [`FIRST_FD`] on, in each of the ways that it is to
/// be told in. `generation` grows with each start.
pub fn tell(wanted: &SocketUse, sockets: &[&Socket], wid: u32, generation: u64) -> Telling {
    let mut telling = Telling::default();
    if sockets.is_empty() {
        return telling;
    }
    let numbered: Vec<(u32, &Socket)> = (FIRST_FD..).zip(sockets.iter().copied()).collect();
    let listening: Vec<(u32, &Socket)> =
        numbered.iter().copied().filter(|(_, socket)| socket.spec.kind.listens()).collect();
    for convention in &wanted.conventions {
        let add = |name: &str, value: String| (name.to_owned(), value);
        match convention {
            Convention::Circus => {
                telling
                    .env
                    .push(add("CIRCUS_SOCKETS", joined(&numbered, ":", |_, socket| socket.spec.name.to_string())));
                let variables = numbered.iter().map(|(fd, socket)| (variable_of(&socket.spec.name), fd.to_string()));
                telling.env.extend(variables);
            }
            Convention::Listen => {
                let names = joined(&numbered, ":", |_, socket| socket.spec.name.to_string());
                telling.env.push(add("LISTEN_FDS", numbered.len().to_string()));
                telling.env.push(add("LISTEN_FDNAMES", names));
                telling.pids.push(("LISTEN_PID", Whose::Own));
            }
            Convention::Einhorn => {
                telling.env.push(add("EINHORN_FD_COUNT", numbered.len().to_string()));
                let each = numbered.iter().enumerate();
                telling.env.extend(each.map(|(index, (fd, _))| (format!("EINHORN_FD_{index}"), fd.to_string())));
                // What einhorn before 1.0 said, and some libraries still read.
                telling.env.push(add("EINHORN_FDS", joined(&numbered, " ", |fd, _| fd.to_string())));
                telling.env.push(add("EINHORN_CHILD_INDEX", wid.saturating_sub(1).to_string()));
                telling.pids.push(("EINHORN_MASTER_PID", Whose::Parent));
            }
            // Each number is followed by its semicolon, the last one too: nginx ignores it otherwise.
            Convention::Nginx => telling.env.push(add("NGINX", joined(&listening, "", |fd, _| format!("{fd};")))),
            Convention::ServerStarter => {
                let ports = joined(&listening, ";", |fd, socket| format!("{}={fd}", address(socket)));
                telling.env.push(add("SERVER_STARTER_PORT", ports));
                telling.env.push(add("SERVER_STARTER_GENERATION", generation.to_string()));
            }
            Convention::Unicorn => {
                telling.env.push(add("UNICORN_FD", joined(&listening, ",", |fd, _| fd.to_string())));
            }
            Convention::Puma => {
                let each = listening.iter().enumerate().map(|(index, (fd, socket))| {
                    let scheme = if is_unix(socket) { "unix" } else { "tcp" };
                    (format!("PUMA_INHERIT_{index}"), format!("{fd}:{scheme}://{}", address(socket)))
                });
                telling.env.extend(each);
            }
        }
    }
    telling
}

fn joined(sockets: &[(u32, &Socket)], between: &str, say: impl Fn(u32, &Socket) -> String) -> String {
    sockets.iter().map(|(fd, socket)| say(*fd, socket)).collect::<Vec<_>>().join(between)
}

/// `CIRCUS_SOCKET_WEB_FD`: what cannot stand in a variable's name is an underscore.
fn variable_of(name: &SocketName) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("CIRCUS_SOCKET_{}_FD", name.as_str().chars().map(plain).collect::<String>())
}

fn is_unix(socket: &Socket) -> bool {
    matches!(&socket.bound, Some(Bound { address: Address::Unix(_), .. }))
}

fn address(socket: &Socket) -> String {
    socket.bound.as_ref().map(|bound| bound.address.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;
    use crate::model::spec::{Family, Place, SocketKind};

    fn socket(id: u64, name: &str, address: Address, kind: SocketKind) -> Socket {
        let spec = SocketSpec {
            kind,
            ..SocketSpec::at(
                SocketName::parse(name).unwrap(),
                Place::Inet { host: "localhost".into(), port: 0, family: Family::V4 },
            )
        };
        Socket { id: SocketId(id), filed: None, bound: Some(Bound { fd: 7, address }), spec }
    }

    fn sockets() -> [Socket; 3] {
        [
            socket(1, "web-1", Address::Inet("127.0.0.1:8000".parse().unwrap()), SocketKind::Stream),
            socket(2, "log", Address::Inet("[::1]:514".parse().unwrap()), SocketKind::Datagram),
            socket(3, "adm", Address::Unix(PathBuf::from("/run/adm.sock")), SocketKind::Stream),
        ]
    }

    fn told(convention: Convention) -> Vec<String> {
        let wanted = SocketUse { conventions: BTreeSet::from([convention]), ..SocketUse::default() };
        let sockets = sockets();
        let telling = tell(&wanted, &sockets.iter().collect::<Vec<_>>(), 2, 9);
        let pids = telling.pids.into_iter().map(|(name, whose)| format!("{name}={whose:?}"));
        telling.env.into_iter().map(|(name, value)| format!("{name}={value}")).chain(pids).collect()
    }

    #[test]
    fn each_convention_has_its_own_words() {
        let table: [(Convention, &[&str]); 7] = [
            (
                Convention::Circus,
                &[
                    "CIRCUS_SOCKETS=web-1:log:adm",
                    "CIRCUS_SOCKET_WEB_1_FD=3",
                    "CIRCUS_SOCKET_LOG_FD=4",
                    "CIRCUS_SOCKET_ADM_FD=5",
                ],
            ),
            (Convention::Listen, &["LISTEN_FDS=3", "LISTEN_FDNAMES=web-1:log:adm", "LISTEN_PID=Own"]),
            (
                Convention::Einhorn,
                &[
                    "EINHORN_FD_COUNT=3",
                    "EINHORN_FD_0=3",
                    "EINHORN_FD_1=4",
                    "EINHORN_FD_2=5",
                    "EINHORN_FDS=3 4 5",
                    "EINHORN_CHILD_INDEX=1",
                    "EINHORN_MASTER_PID=Parent",
                ],
            ),
            (Convention::Nginx, &["NGINX=3;5;"]),
            (
                Convention::ServerStarter,
                &["SERVER_STARTER_PORT=127.0.0.1:8000=3;/run/adm.sock=5", "SERVER_STARTER_GENERATION=9"],
            ),
            (Convention::Unicorn, &["UNICORN_FD=3,5"]),
            (Convention::Puma, &["PUMA_INHERIT_0=3:tcp://127.0.0.1:8000", "PUMA_INHERIT_1=5:unix:///run/adm.sock"]),
        ];
        for (convention, words) in table {
            assert_eq!(told(convention), words, "{convention:?}");
        }
    }

    #[test]
    fn who_gets_no_socket_is_told_of_none() {
        let wanted = SocketUse { conventions: Convention::ALL.into(), ..SocketUse::default() };
        assert_eq!(tell(&wanted, &[], 1, 1), Telling::default());
    }

    #[test]
    fn all_are_those_that_admit_the_watcher_and_a_stdin_among_them_counts_once() {
        let (web, other) = (WatcherName::parse("web").unwrap(), WatcherName::parse("other").unwrap());
        let mut table = Sockets::default();
        let [first, second, mut third] = sockets();
        third.spec.watchers = vec![other.clone()];
        [first, second, third].into_iter().for_each(|socket| table.insert(socket));
        let stdin = Some(SocketName::parse("log").unwrap());
        let wanted = SocketUse { which: Which::All, stdin, conventions: BTreeSet::new() };
        let names = |found: Vec<&Socket>| found.iter().map(|socket| socket.spec.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(table.all_of(&wanted, &web)), ["log", "web-1"]);
        assert_eq!(names(table.numbered(&wanted, &other)), ["adm", "log", "web-1"]);
    }
}
