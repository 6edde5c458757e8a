//! Real servers, unchanged, on the agent's sockets: which of them run how, and that nobody is turned away while their
//! processes are replaced, killed or put to sleep.
//!
//! `make setup` installs them. Programs for them to run, and workers where no server is to be had, are beside this file.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/load.rs"]
mod load;

mod demand;
mod matrix;
mod replace;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use agent::{Agent, Home, Said, descendants, wait_for};
use load::Address;

/// An agent whose watchers are servers.
struct Site {
    agent: Agent,
    home: Home,
}

impl Site {
    /// Starts an agent with this configuration, in which `{home}` is its directory, and `{python}`, `{debian}`, `{node}`
    /// and `{perl}` are where those programs are.
    fn start(config: &str) -> Site {
        let home = Home::new();
        let config = config
            .replace("{home}", &home.path().display().to_string())
            .replace("{python}", &installed("python").display().to_string())
            .replace("{debian}", &installed("debian").display().to_string())
            .replace("{node}", &found("node").display().to_string())
            .replace("{perl}", &found("perl").display().to_string());
        // Programs are looked for here, and nothing is left here.
        let env = format!(
            "\n[env]\nHOME = {home}\nPYTHONPATH = {programs}\nPYTHONDONTWRITEBYTECODE = 1\nRACK_ENV = production\n",
            home = home.path().display(),
            programs = programs().display()
        );
        let agent = home.agent("web", &(config + &env));
        Site { agent, home }
    }

    /// Where the sockets are, by name, when all are open.
    #[track_caller]
    fn addresses(&self) -> BTreeMap<String, Address> {
        wait_for("all sockets to be open", || {
            let reply = self.agent.ask(&json!({"command": "listsockets"}));
            let sockets = reply["sockets"].as_array().unwrap_or_else(|| panic!("no sockets: {reply}"));
            let named = |socket: &Value| Some((socket["name"].as_str()?.to_owned(), address_of(socket)?));
            sockets.iter().map(named).collect()
        })
    }

    /// Where one is.
    #[track_caller]
    fn address(&self, socket: &str) -> Address {
        self.addresses().remove(socket).unwrap_or_else(|| panic!("there is no socket {socket}"))
    }

    /// Whether this is one of the watcher's processes, or descends from one.
    fn runs(&self, watcher: &str, pid: u32) -> bool {
        self.agent.pids(watcher).into_iter().any(|own| own == pid || descendants(own).contains(&pid))
    }

    /// Runs circusctl.
    fn ctl(&self, args: &[&str]) -> Said {
        self.agent.ctl(&self.home, args)
    }

    /// Replaces all processes of a watcher, one after the other.
    #[track_caller]
    fn reload(&self, watcher: &str) {
        let old = self.agent.pids(watcher);
        self.ctl(&["reload", watcher, "--waiting"]).expect(0);
        let new = self.agent.pids(watcher);
        assert!(new.len() == old.len() && !new.iter().any(|pid| old.contains(pid)), "{old:?}, {new:?}");
    }

    /// Ends the agent in order: nothing of what it ran is left but its files.
    #[track_caller]
    fn end(mut self) -> Home {
        self.agent.signal(libc::SIGTERM);
        self.agent.exits(0);
        self.home.is_clean();
        self.home
    }
}

/// Where a socket is; nothing while it is being opened.
fn address_of(socket: &Value) -> Option<Address> {
    if let Some(path) = socket["path"].as_str() {
        return Some(Address::Unix(path.into()));
    }
    let ip: IpAddr = socket["host"].as_str()?.parse().ok()?;
    Some(Address::Tcp(SocketAddr::new(ip, u16::try_from(socket["port"].as_u64()?).ok()?)))
}

/// The programs that the servers run.
fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers")
}

/// Where `make setup` has put servers.
fn installed(kind: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(".servers").join(kind).join("bin");
    assert!(directory.exists(), "run `make setup` once: it makes {}, which is missing", directory.display());
    directory
}

/// A program of the machine.
fn found(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("run `make setup` once: it installs {program}, which is missing"))
}

/// How often something is done, unless this variable says otherwise.
fn times(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(value) => value.parse().unwrap_or_else(|error| panic!("{variable} = {value}: {error}")),
        Err(_) => default,
    }
}
