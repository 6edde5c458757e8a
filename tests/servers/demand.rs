//! Watchers that sleep until somebody connects, and sleep again when nobody does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::load::{Address, Connection, Failure};
use super::{Site, programs, times};

/// Who has not gone to sleep by then never will.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A client whose requests come when a watcher is about to sleep: it finds out by itself when that is.
struct Client {
    address: Address,
    /// For how long it waits between two answers: shorter after one that found the server asleep, and longer after one
    /// that did not. So it stays where that changes.
    pause: Duration,
    random: u64,
    /// All that have answered.
    pids: BTreeSet<u32>,
}

impl Client {
    fn new(address: Address, seed: u64) -> Client {
        Client { address, pause: Duration::from_millis(20), random: seed, pids: BTreeSet::new() }
    }

    /// Some connections at once, around the moment: whether a process answered that was not there before.
    fn ask(&mut self) -> Result<bool, Failure> {
        thread::sleep(self.pause.mul_f64(0.5 + self.number(1000) as f64 / 1000.0));
        let together = 1 + self.number(3);
        let mut connections = Vec::new();
        for _ in 0..together {
            connections.push(Connection::open(&self.address)?);
        }
        // Some are slow to say what they want: they are connected, and nothing is under way.
        if self.number(4) == 0 {
            thread::sleep(Duration::from_millis(self.number(10)));
        }
        let mut is_new = false;
        for mut connection in connections {
            is_new |= self.pids.insert(connection.get("/slow?ms=1", false)?);
        }
        self.pause = self.pause.mul_f64(if is_new { 0.9 } else { 1.2 }).min(LONGEST_PAUSE);
        Ok(is_new)
    }

    /// Below this bound (xorshift64*).
    fn number(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Watchers of the same server, each with a client of its own, until they have been woken so often all together.
fn wake(watchers: usize, cmd: &str, settings: &str, cycles: usize) {
    let mut config = String::new();
    for number in 0..watchers {
        // Half of them on Unix sockets.
        let place = if number % 2 == 0 {
            "host = 127.0.0.1\nport = 0".into()
        } else {
            format!("path = {{home}}/{number}.unix")
        };
        config += &format!(
            "\n[socket:s{number}]\n{place}\n\n[watcher:s{number}]\ncmd = {cmd}\nsockets = s{number}\non_demand = True\n\
             working_dir = {programs}\ngraceful_timeout = 20\n{settings}\n",
            cmd = cmd.replace("{fd}", &format!("$(circus.sockets.s{number})")),
            programs = programs().display()
        );
    }
    let site = Site::start(&config);
    let addresses = site.addresses();
    let woken = AtomicUsize::new(0);
    let answers = thread::scope(|scope| {
        let client = |number: usize| {
            let (name, woken) = (format!("s{number}"), &woken);
            let mut client = Client::new(addresses[&name].clone(), 0x9e37_79b9 + number as u64);
            move || {
                let mut answers = 0;
                while woken.load(Ordering::Relaxed) < cycles {
                    let is_new = client.ask().unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
                    woken.fetch_add(usize::from(is_new), Ordering::Relaxed);
                    answers += 1;
                }
                answers
            }
        };
        let clients: Vec<_> = (0..watchers).map(|number| scope.spawn(client(number))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum::<usize>()
    });
    println!("woken {} times in {answers} rounds", woken.into_inner());
    for number in 0..watchers {
        site.agent.comes_to(&format!("s{number}"), "listening");
    }
    assert!(site.agent.descendants().is_empty(), "somebody does not sleep");
    site.end();
}

#[test]
fn a_watcher_that_sleeps_and_wakes_a_thousand_times_loses_no_connection() {
    let quick = "{perl} quick.pl {fd}";
    wake(8, quick, "idle_timeout = 20ms", times("CIRCUS_CYCLES", 1000));
}

#[test]
fn gunicorn_that_sleeps_and_wakes_loses_no_connection() {
    // By LISTEN_FDS, as it otherwise takes the path of a Unix socket along when it stops.
    wake(2, "{python}/gunicorn wsgi", "idle_timeout = 50ms\nstop_preset = gunicorn", 20);
}
