//! A legion's best-known use, for real: an address that moves between three hosts, and a client that uses it.
//!
//! ```text
//!               ┌── web-1 ──┐
//!   Redis ── router  web-2  lan ── client, and who looks at all hosts for the address
//!               └── web-3 ──┘
//! ```
//!
//! A host that is cut off from the router still has the lan: there it would go on to answer for the address.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::agent::{Agent, Home, wait_for};
use super::net::{Host, Net};
use super::stage::ONE_SECOND;
use super::store::{Kind, Store};

const ADDRESS: &str = "10.8.0.111";
const TOLERANCE: Duration = Duration::from_secs(3);

#[test]
fn an_address_moves_between_hosts_and_is_never_on_two() {
    let (mut net, home) = (Net::new(), Home::new());
    let store = Store::start(Kind::Standalone, &mut net, &[]);
    let nodes = ["web-1", "web-2", "web-3"];
    let hosts: BTreeMap<&str, Host> = nodes.into_iter().map(|name| (name, net.host())).collect();
    let client = net.host();
    net.lan(&[hosts.values().cloned().collect(), vec![client.clone()]].concat());
    let eye = Eye::open(&hosts, &client);
    for (name, valor) in nodes.into_iter().zip([30, 20, 10]) {
        home.configure(name, &config(&store, valor));
    }
    let launch = |name: &str| {
        let state = home.file(&format!("{name}.state")).display().to_string();
        let mut agent = hosts[name].run(|| home.launch(name, &[("CIRCUS_STATE_DIR", &state)]));
        agent.answers();
        agent
    };
    let mut agents: BTreeMap<&str, Agent> = nodes.into_iter().map(|name| (name, launch(name))).collect();
    eye.sees("web-1", 1);
    eye.is_answered();
    says(&home, "web-1", &["me=1", "lord=web-1", "members=web-1,web-2,web-3"]);
    says(&home, "web-3", &["me=0", "lord=web-1"]);

    // A killed lord.
    let killed = Instant::now();
    agents.get_mut("web-1").expect("it runs").kill();
    let taken = eye.sees("web-2", 2).duration_since(killed);
    let silence = eye.is_answered();
    println!("killed: on the next host {taken:?} after, {silence:?} without an answer");
    assert!(taken <= TOLERANCE + ONE_SECOND, "{taken:?}");

    // A planned move.
    let asked = Instant::now();
    agents["web-2"].ctl(&home, &["failover", "clusterip", "--to", "web-3"]).expect(0);
    let taken = eye.sees("web-3", 3).duration_since(asked);
    let silence = eye.is_answered();
    println!("moved: on the next host {taken:?} after, {silence:?} without an answer");

    // A lord that is cut off from Redis, and not from its clients.
    agents.insert("web-1", launch("web-1"));
    says(&home, "web-2", &["me=0", "lord=web-3", "members=web-1,web-2,web-3"]);
    let cut = Instant::now();
    net.isolate(&hosts["web-3"]);
    let taken = eye.sees("web-1", 4).duration_since(cut);
    let silence = eye.is_answered();
    println!("cut off: on the next host {taken:?} after, {silence:?} without an answer");
    assert!(taken <= TOLERANCE + ONE_SECOND, "{taken:?}");
    says(&home, "web-3", &["me=0"]);
    net.mend();
    says(&home, "web-3", &["me=0", "lord=web-1", "members=web-1,web-2,web-3"]);

    // All end, and take it along.
    for name in ["web-2", "web-3", "web-1"] {
        let mut agent = agents.remove(name).expect("it runs");
        agent.signal(libc::SIGTERM);
        agent.exits(0);
        let failed: Vec<String> =
            agent.log().lines().filter(|line| line.contains(": cmd:")).map(str::to_owned).collect();
        assert_eq!(failed, [""; 0], "{name}: an action failed");
    }
    home.is_clean();
    let visits = eye.close();
    assert_eq!(
        visits,
        ["web-1", "web-2", "web-3", "web-1"],
        "it came and went in this order, and was on one at a time"
    );
    assert!(hosts.values().all(|host| !host.run(has_it)), "it is on none any more");
}

fn config(store: &Store, valor: u32) -> String {
    let arping = Path::new(env!("CARGO_MANIFEST_DIR")).join(".servers/debian/bin/arping");
    assert!(arping.exists(), "`make setup` found no arping; remove .servers and run it again");
    format!(
        "cluster = chaos\n\n{}\n[legion:clusterip]\nvalor = {valor}\nquorum = 2\ntolerance = {}\nfreq = 1\n\
         preempt = false\non_lord = cmd:ip addr add {ADDRESS}/24 dev lan0\n\
         on_lord = cmd:{} -q -U -c 1 -w 1 -I lan0 {ADDRESS}\n\
         on_unlord = cmd:ip addr del {ADDRESS}/24 dev lan0\n",
        store.section(),
        TOLERANCE.as_secs(),
        arping.display(),
    )
}

/// Waits until the file of a node's agent has these lines.
fn says(home: &Home, node: &str, lines: &[&str]) {
    let file = home.file(&format!("{node}.sock.legions/clusterip"));
    wait_for(&format!("{lines:?} in {}", file.display()), || {
        let text = fs::read_to_string(&file).ok()?;
        lines.iter().all(|line| text.lines().any(|there| there == *line)).then_some(())
    });
}

/// Whether the address is on the host on which this thread is.
fn has_it() -> bool {
    fs::read_to_string("/proc/thread-self/net/fib_trie").expect("the kernel's own addresses").contains(ADDRESS)
}

/// Sees where the address is, and whether the client is answered there.
struct Eye {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// On which hosts, one after the other, and since when.
    visits: Vec<(String, Instant)>,
    /// When the client was answered.
    answers: Vec<Instant>,
}

impl Eye {
    fn open(hosts: &BTreeMap<&str, Host>, client: &Host) -> Eye {
        let over = Arc::<AtomicBool>::default();
        let seen = Arc::<Mutex<Seen>>::default();
        let hosts: Vec<(String, Host)> = hosts.iter().map(|(name, host)| ((*name).to_owned(), host.clone())).collect();
        let (ends, notes) = (Arc::clone(&over), Arc::clone(&seen));
        // Were it on two at a time, it would be seen on one, on the other, and on the one again.
        let looks = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                for (name, host) in &hosts {
                    let visits = &mut notes.lock().expect("notes").visits;
                    if host.run(has_it) && visits.last().is_none_or(|(last, _)| last != name) {
                        visits.push((name.clone(), Instant::now()));
                    }
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        let (ends, notes, client) = (Arc::clone(&over), Arc::clone(&seen), client.clone());
        let asks = thread::spawn(move || {
            client.run(|| {
                while !ends.load(Ordering::Relaxed) {
                    // Nobody listens at this port, so that a host with the address says just that.
                    let to = SocketAddr::new(ADDRESS.parse().expect("an address"), 9);
                    let answer = TcpStream::connect_timeout(&to, Duration::from_millis(100));
                    if answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                        notes.lock().expect("notes").answers.push(Instant::now());
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            });
        });
        Eye { over, seen, threads: vec![looks, asks] }
    }

    /// Waits until the address is on this host, which is to be its `count`th visit; since when.
    #[track_caller]
    fn sees(&self, name: &str, count: usize) -> Instant {
        let found = wait_for(&format!("{ADDRESS} on {name}"), || {
            self.seen.lock().expect("notes").visits.get(count - 1).cloned()
        });
        assert_eq!(found.0, name);
        found.1
    }

    /// Waits until the client is answered since the address is where it is; how long it was not before.
    #[track_caller]
    fn is_answered(&self) -> Duration {
        wait_for("an answer", || {
            let seen = self.seen.lock().expect("notes");
            let (_, since) = seen.visits.last()?;
            let first = seen.answers.iter().position(|at| at > since)?;
            Some(first.checked_sub(1).map_or(Duration::ZERO, |last| seen.answers[first] - seen.answers[last]))
        })
    }

    /// On which hosts it was.
    fn close(self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
        let seen = self.seen.lock().expect("notes");
        seen.visits.iter().map(|(name, _)| name.clone()).collect()
    }
}
