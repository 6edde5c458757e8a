//! What it costs that the agent has the sockets: a server that starts when somebody connects, beside the same server
//! started by hand; requests per second through a shared socket, beside a server that has bound its own; how long a
//! request takes while all processes are replaced, beside one in quiet times; how long a child that died is missing,
//! with no socket and with some; and a thousand watchers that sleep, beside a thousand that do not run at all.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

#[path = "../tests/support/load.rs"]
mod load;
mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use load::{Address, get};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::{Agent, PATIENCE, median, print, print_load, quantile};

/// The descriptor of the one socket that each server gets.
const FD: i32 = 3;
/// An even number: half of them begin with the one, half with the other.
const ROUNDS: usize = 20;
/// For how long clients ask in a round.
const ROUND: Duration = Duration::from_millis(500);
/// How many of them, so that a server always has something to do.
const CLIENTS: usize = 4;
const RELOADS: usize = 10;
const PROCESSES: usize = 50;
const SLEEPERS: usize = 1_000;
const IDLE: Duration = Duration::from_secs(10);

/// A server that answers with its pid.
struct Server {
    name: &'static str,
    /// Its command line; `{bind}` is where it listens.
    cmd: String,
    /// What its watcher says besides.
    settings: &'static str,
    /// How it writes a descriptor.
    at_fd: &'static str,
    /// Whether it can bind an address by itself, and its processes are its own affair.
    binds: bool,
    /// How often it is started.
    starts: usize,
}

fn main() {
    support::be_the_child_if_called_so();
    print_load();
    let python = installed("python").display().to_string();
    let servers = [
        Server {
            name: "quick.pl",
            cmd: "/usr/bin/perl quick.pl {bind}".into(),
            settings: "numprocesses = 2\n",
            at_fd: "",
            binds: false,
            starts: 100,
        },
        Server {
            name: "gunicorn",
            cmd: format!("{python}/gunicorn --workers 2 --bind {{bind}} wsgi"),
            settings: "ready = notify\nstop_preset = gunicorn\n",
            at_fd: "fd://",
            binds: true,
            starts: 30,
        },
    ];
    let dir = tempfile::tempdir().expect("a directory");
    servers.iter().for_each(|server| on_demand(dir.path(), server));
    servers.iter().for_each(|server| throughput(dir.path(), server));
    reload(dir.path(), &servers[1]);
    spawn(dir.path());
    asleep(dir.path());
    print_load();
}

// ---- the figures ----

/// From a connection to the first answer: of a sleeping watcher, and of a server started by hand at that moment.
fn on_demand(dir: &Path, server: &Server) {
    let settings = format!("{}on_demand = True\nidle_timeout = 20ms\n", server.settings);
    let (agent, address) = served(dir, "demand", server, &settings);
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    let asleep = || agent.ask("status", &json!({"name": "web"}))["status"] == "listening";
    for _ in 0..server.starts {
        // Nothing of the one before is in the way of either.
        wait_until("it sleeps", asleep);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = Address::Tcp(listener.local_addr().expect("an address"));
        let begun = Instant::now();
        let child = server.start(&listener);
        answer(&at);
        direct.push(begun.elapsed());
        end(vec![child]);

        let begun = Instant::now();
        answer(&address);
        through.push(begun.elapsed());
    }
    print(&format!("baseline: {}, fork and exec to first answer", server.name), &direct);
    print("on demand: connection to first answer", &through);
    let more = |part| (quantile(&through, part).as_secs_f64() - quantile(&direct, part).as_secs_f64()) * 1e3;
    println!(
        "{:<58} more: p50 {:.2} ms   p99 {:.2} ms; ratio of the medians {:.2}",
        "",
        more(0.5),
        more(0.99),
        ratio(&through, &direct)
    );
}

/// Requests per second, in turn, since a machine's neighbours change with the time.
fn throughput(dir: &Path, server: &Server) {
    let (_agent, shared) = served(dir, "shared", server, server.settings);
    let (children, own, _listener) = by_itself(server);
    let (mut direct, mut through) = (0, 0);
    for round in 0..ROUNDS {
        let mut turns = [(&mut direct, &own), (&mut through, &shared)];
        turns.rotate_left(round % 2);
        turns.into_iter().for_each(|(count, address)| *count += ask_for(ROUND, address).len());
    }
    end(children);
    let second = (ROUND * ROUNDS as u32).as_secs_f64();
    println!(
        "{:<58} {:.0} requests each second",
        format!("baseline: {}, bound by itself", server.name),
        direct as f64 / second
    );
    println!(
        "through the agent's socket {:<31} {:.0} requests each second; ratio {:.3}",
        "",
        through as f64 / second,
        through as f64 / direct as f64
    );
}

/// How long requests take while all processes are replaced over and over, and while none is.
fn reload(dir: &Path, server: &Server) {
    let settings = server.settings.to_owned() + "numprocesses = 2\n";
    let (agent, address) = served(dir, "reload", server, &settings);
    let (mut calm, mut during) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    for _ in 0..RELOADS {
        let mut took = ROUND;
        during.extend(ask_while(&address, || {
            let begun = Instant::now();
            let reply = agent.ask("reload", &json!({"name": "web", "waiting": true}));
            assert_eq!(reply["status"], "ok", "{reply}");
            took = begun.elapsed();
        }));
        calm.extend(ask_for(took, &address));
    }
    println!(
        "{RELOADS} rolling reloads of 2 × {}, and quiet times as long: {:.0} s",
        server.name,
        begun.elapsed().as_secs_f64()
    );
    print("baseline: a request in quiet times", &calm);
    print("a request during a rolling reload", &during);
    let p99 = |times| quantile(times, 0.99).as_secs_f64();
    println!("{:<58} ratio of the p99s {:.2}", "", p99(&during) / p99(&calm));
}

/// How long a child that died is missing.
fn spawn(dir: &Path) {
    let bare = support::gaps_without_agent(dir, PROCESSES);
    print("baseline: wait, fork and exec, no agent", &bare);
    for sockets in [0, 1, 8] {
        let names: Vec<String> = (0..sockets).map(|number| format!("s{number}")).collect();
        let sections: String = names.iter().map(|name| format!("[socket:{name}]\nport = 0\n")).collect();
        let wanted = if names.is_empty() { String::new() } else { format!("sockets = {}\n", names.join(", ")) };
        let name = format!("spawn{sockets}");
        let gaps = support::gaps_with_agent(dir, &name, PROCESSES, &sections, &wanted);
        print(&format!("agent: a death to the next start, {sockets} sockets"), &gaps);
        println!("{:<58} ratio of the medians {:.2}", "", ratio(&gaps, &bare));
    }
}

/// A thousand watchers that sleep, beside a thousand that are stopped and have no sockets.
fn asleep(dir: &Path) {
    let sleeper = |number| {
        format!(
            "[socket:w{number}]\nport = 0\n[watcher:w{number}]\ncmd = /bin/sleep 1000\nsockets = w{number}\n\
             on_demand = True\nidle_timeout = 60\n"
        )
    };
    let stopped = |number| format!("[watcher:w{number}]\ncmd = /bin/sleep 1000\nautostart = False\n");
    let all = |what: &dyn Fn(usize) -> String| (0..SLEEPERS).map(what).collect::<String>();
    for (what, state, ini, one) in [
        ("baseline: 1000 stopped watchers", "stopped", all(&stopped), stopped(0)),
        ("1000 sleeping watchers", "listening", all(&sleeper), sleeper(0)),
    ] {
        let memory_of_one = agent_at_rest(dir, "one", &one, state).memory();
        let agent = agent_at_rest(dir, "asleep", &ini, state);
        let before = agent.usage();
        thread::sleep(IDLE);
        let (cpu, wakes) = agent.usage().since(&before);
        println!(
            "{what:<58} {:.3} ms of a processor and {:.2} wake-ups each second; {:.0} bytes each",
            cpu.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
            wakes as f64 / IDLE.as_secs_f64(),
            (agent.memory() - memory_of_one) as f64 / (SLEEPERS - 1) as f64
        );
    }
}

// ---- servers ----

impl Server {
    fn at(&self, place: &str) -> String {
        self.cmd.replace("{bind}", place)
    }

    /// Starts it by hand, with this listener.
    fn start(&self, listener: &TcpListener) -> Child {
        // Elsewhere than where it is to be: there it would be closed by exec.
        let elsewhere = fcntl(listener, FcntlArg::F_DUPFD_CLOEXEC(FD + 1)).expect("a descriptor");
        // SAFETY: it was just made, and nobody else has it.
        let elsewhere = unsafe { OwnedFd::from_raw_fd(elsewhere) };
        let from = elsewhere.as_raw_fd();
        let mut command = words(&self.at(&format!("{}{FD}", self.at_fd)));
        // SAFETY: between fork and exec only dup2 is called, which is safe there.
        unsafe {
            command.pre_exec(move || Errno::result(libc::dup2(from, FD)).map(drop).map_err(Into::into));
        }
        command.spawn().expect("a server")
    }
}

/// An agent with this server as its watcher `web`, and where that listens.
fn served(dir: &Path, name: &str, server: &Server, settings: &str) -> (Agent, Address) {
    let name = format!("{name}-{}", server.name);
    let ini = format!(
        "[socket:web]\nhost = 127.0.0.1\nport = 0\n[watcher:web]\ncmd = {}\nworking_dir = {}\nsockets = web\n{settings}",
        server.at(&format!("{}$(circus.sockets.web)", server.at_fd)),
        programs().display()
    );
    let agent = Agent::start(dir, &name, &ini);
    let port = wait_until_some("its socket", || agent.ask("listsockets", &json!({}))["sockets"][0]["port"].as_u64());
    let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).expect("a port"))));
    answer(&address);
    (agent, address)
}

/// The same server without an agent, as many processes as its watcher has.
fn by_itself(server: &Server) -> (Vec<Child>, Address, Option<TcpListener>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let place = listener.local_addr().expect("an address");
    let address = Address::Tcp(place);
    let (children, listener) = match server.binds {
        true => {
            drop(listener);
            (vec![words(&server.at(&place.to_string())).spawn().expect("a server")], None)
        }
        false => ((0..2).map(|_| server.start(&listener)).collect(), Some(listener)),
    };
    wait_until("it answers", || get(&address, "/").is_ok());
    (children, address, listener)
}

fn words(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).current_dir(programs()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // As an agent's: sessions share the processors among them (sched_autogroup_enabled).
    // SAFETY: between fork and exec only setsid is called, which is safe there.
    unsafe {
        command.pre_exec(|| Errno::result(libc::setsid()).map(drop).map_err(Into::into));
    }
    command
}

fn end(children: Vec<Child>) {
    for child in &children {
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("SIGTERM");
    }
    for mut child in children {
        child.wait().expect("a child");
    }
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers")
}

/// Where `make setup` has put servers.
fn installed(kind: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(".servers").join(kind).join("bin");
    assert!(dir.exists(), "run `make setup` once: it makes {}, which is missing", dir.display());
    dir
}

// ---- clients ----

/// Asks once; whoever asked before it is up waits.
fn answer(address: &Address) -> u32 {
    get(address, "/").unwrap_or_else(|failure| panic!("{address}: {failure:?}"))
}

/// How long each request took of clients that ask for so long.
fn ask_for(time: Duration, address: &Address) -> Vec<Duration> {
    ask_while(address, || thread::sleep(time))
}

fn ask_while(address: &Address, then: impl FnOnce()) -> Vec<Duration> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = || {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                answer(address);
                times.push(begun.elapsed());
            }
            times
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        then();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    })
}

// ---- agents ----

/// An agent whose watchers are all in this state.
fn agent_at_rest(dir: &Path, name: &str, ini: &str, state: &str) -> Agent {
    let agent = Agent::start(dir, name, ini);
    wait_until(state, || {
        let status = agent.ask("status", &json!({}));
        status["statuses"]
            .as_object()
            .is_some_and(|states| !states.is_empty() && states.values().all(|own| own == state))
    });
    agent
}

fn wait_until(what: &str, look: impl Fn() -> bool) {
    wait_until_some(what, || look().then_some(()));
}

fn wait_until_some<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not seen: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn ratio(times: &[Duration], baseline: &[Duration]) -> f64 {
    median(times).as_secs_f64() / median(baseline).as_secs_f64()
}
