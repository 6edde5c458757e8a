//! Sockets that the agent opens and its processes share: handed over, changed, woken by, replaced behind.

mod changes;
mod demand;
mod handing;
mod lanes;
mod mistakes;
mod systemd;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};

use super::World;
use super::agent::{Agent, PATIENCE, variable_of, wait_for};

/// Another address of this machine for each test: all of 127.0.0.0/8 are, so that no test needs another's port.
fn own_address() -> Ipv4Addr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + LAST.fetch_add(1, Ordering::Relaxed), high, low)
}

impl World {
    /// Starts an agent, and waits until its sockets are open: it can be asked before they are.
    fn listening(&self, config: &str) -> Agent {
        let agent = self.agent("a", config);
        wait_for("its sockets to be open", || {
            let sockets = agent.ask(&json!({"command": "listsockets"}))["sockets"].clone();
            sockets.as_array()?.iter().all(|socket| socket["fd"].is_u64()).then_some(())
        });
        agent
    }

    /// The command line of the server in `sockets/server.py`, for these words: descriptors, and how it says that it is up.
    fn server(&self, words: &str) -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/supervision/sockets/server.py");
        format!("python3 -I -S {file} {} {words}", self.path().display()).trim_end().to_owned()
    }
}

/// A section for a TCP socket at this place.
fn tcp(name: &str, at: SocketAddr) -> String {
    format!("[socket:{name}]\nhost = {}\nport = {}\n", at.ip(), at.port())
}

/// One for a Unix socket.
fn unix(name: &str, path: &Path) -> String {
    format!("[socket:{name}]\npath = {}\n", path.display())
}

/// A connection to a server: those of TCP and of a path are asked alike.
struct Client<T>(BufReader<T>);

impl Client<TcpStream> {
    fn connect(at: SocketAddr) -> io::Result<Client<TcpStream>> {
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(BufReader::new(stream)))
    }
}

impl Client<UnixStream> {
    fn connect_to(path: &Path) -> io::Result<Client<UnixStream>> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(BufReader::new(stream)))
    }
}

impl<T: Read + Write> Client<T> {
    /// The answer to a line.
    fn ask(&mut self, question: &str) -> io::Result<String> {
        self.send(question)?;
        self.receive()
    }

    fn send(&mut self, question: &str) -> io::Result<()> {
        self.0.get_mut().write_all(format!("{question}\n").as_bytes())
    }

    fn receive(&mut self) -> io::Result<String> {
        let mut answer = String::new();
        match self.0.read_line(&mut answer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}

/// Who serves there: `web#1 4711`.
#[track_caller]
fn who(at: SocketAddr) -> String {
    let answer = Client::connect(at).and_then(|mut client| client.ask("who"));
    answer.unwrap_or_else(|error| panic!("{at}: {error}"))
}

/// Who serves at a path.
#[track_caller]
fn who_at(path: &Path) -> String {
    let answer = Client::connect_to(path).and_then(|mut client| client.ask("who"));
    answer.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Waits until nobody listens there any more.
#[track_caller]
fn is_closed(at: SocketAddr) {
    wait_for(&format!("{at} to be closed"), || Client::connect(at).is_err().then_some(()));
}

/// The same of a path, which is gone with its socket.
#[track_caller]
fn is_gone(path: &Path) {
    wait_for(&format!("{} to be gone", path.display()), || (!path.exists()).then_some(()));
}

/// Which socket a descriptor of a process is, if it is one: `socket:[4711]`.
fn socket_of(pid: u32, descriptor: u32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).ok()?;
    link.to_str().filter(|link| link.starts_with("socket:")).map(str::to_owned)
}

/// All sockets of a process, by descriptor.
fn sockets_of(pid: u32) -> BTreeMap<u32, String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(|number| Some((number, socket_of(pid, number)?))).collect()
}

/// The agent's own sockets that are shared, by name.
fn shared(agent: &Agent) -> BTreeMap<String, String> {
    let named = |(name, descriptor)| Some((name, socket_of(agent.pid(), descriptor)?));
    descriptors(agent).into_iter().filter_map(named).collect()
}

/// The agent's descriptors of them.
fn descriptors(agent: &Agent) -> BTreeMap<String, u32> {
    let sockets = agent.ask(&json!({"command": "listsockets"}))["sockets"].clone();
    let named = |socket: &Value| {
        let descriptor = u32::try_from(socket["fd"].as_u64()?).ok()?;
        Some((socket["name"].as_str()?.to_owned(), descriptor))
    };
    sockets.as_array().into_iter().flatten().filter_map(named).collect()
}

/// A variable of a process's environment, which the kernel shows a moment after the program has begun.
#[track_caller]
fn variable(pid: u32, name: &str) -> String {
    wait_for(&format!("{name} of {pid}"), || variable_of(pid, name))
}

/// The only process of a watcher.
#[track_caller]
fn only(agent: &Agent, watcher: &str) -> u32 {
    let pids = agent.pids(watcher);
    assert_eq!(pids.len(), 1, "{watcher}: {pids:?}");
    pids[0]
}

/// The processes of a watcher as its answers name them.
fn names(agent: &Agent, watcher: &str) -> Vec<String> {
    let processes = agent.watcher(watcher)["processes"].clone();
    let name = |process: &Value| Some(format!("{watcher}#{} {}", process["wid"], process["pid"].as_u64()?));
    processes.as_array().into_iter().flatten().filter_map(name).collect()
}
