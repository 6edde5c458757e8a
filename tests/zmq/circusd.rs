//! circusctl over ZeroMQ: at an agent, and at a real circusd.

use std::fs;

use serde_json::json;

use super::Stage;
use crate::agent::{Home, Said, wait_for};
use crate::peer::{Python, free_port};

/// A real circusd with a watcher `web`, which says where it is asked.
struct Circusd {
    home: Home,
    endpoint: String,
    process: Python,
}

impl Circusd {
    fn new() -> Circusd {
        let home = Home::new();
        let endpoint = format!("tcp://127.0.0.1:{}", free_port());
        let pubsub = format!("tcp://127.0.0.1:{}", free_port());
        let file = home.file("circus.ini");
        let config = format!(
            "[circus]\nendpoint = {endpoint}\npubsub_endpoint = {pubsub}\nstatsd = False\ncheck_delay = 1\n\
             [watcher:web]\ncmd = sleep 1000\ngraceful_timeout = 1\n[watcher:other]\ncmd = sleep 1000\nautostart = False\n"
        );
        fs::write(&file, config).expect("a configuration");
        let process = Python::circusd(&file);
        let circusd = Circusd { home, endpoint, process };
        wait_for("circusd to have started web", || {
            (circusd.ctl(&["status", "web"]).out.contains("active")).then_some(())
        });
        circusd
    }

    fn ctl(&self, words: &[&str]) -> Said {
        self.home.ctl(&[&["--endpoint", &self.endpoint], words].concat())
    }

    fn pids(&self) -> Vec<String> {
        let pids = self.ctl(&["list", "web"]).expect(0).out;
        pids.trim().split(',').filter(|pid| !pid.is_empty()).map(str::to_owned).collect()
    }

    /// Until a change is over: circusd refuses another one meanwhile.
    fn does(&self, words: &[&str]) -> Said {
        wait_for("circusd to have time", || {
            let said = self.ctl(words);
            (!said.err.contains("already running")).then_some(said)
        })
    }
}

#[test]
fn circusctl_speaks_to_a_circusd() {
    let mut circusd = Circusd::new();
    assert_eq!(circusd.ctl(&["numwatchers"]).expect(0).out, "2\n");
    assert_eq!(circusd.ctl(&["list"]).expect(0).out, "other,web\n");
    assert_eq!(circusd.ctl(&["numprocesses", "web"]).expect(0).out, "1\n");
    let status = circusd.ctl(&["status"]).expect(0).out;
    for words in [["web", "active"], ["other", "stopped"]] {
        assert!(status.lines().any(|line| words.iter().all(|word| line.contains(word))), "{status}");
    }
    let [pid] = &circusd.pids()[..] else { panic!() };
    let stats = circusd.ctl(&["stats"]).expect(0).out;
    assert!(stats.lines().any(|line| line.contains("web") && line.contains(pid) && line.contains("sleep")), "{stats}");
    assert!(circusd.ctl(&["dstats"]).expect(0).out.starts_with("Main Process:"));
    assert!(circusd.ctl(&["options", "web"]).expect(0).out.contains("graceful_timeout: 1"));
    assert_eq!(circusd.ctl(&["get", "web", "numprocesses"]).expect(0).out, "numprocesses: 1\n");
    let options = circusd.ctl(&["globaloptions"]).expect(0).out;
    assert!(options.contains(&format!("endpoint: {}", circusd.endpoint)), "{options}");
    assert_eq!(circusd.ctl(&["listsockets"]).expect(0).out, "");

    // What changes something, in Circus's types.
    assert_eq!(circusd.does(&["incr", "web", "--waiting"]).expect(0).out, "2\n");
    assert_eq!(circusd.pids().len(), 2);
    assert_eq!(circusd.does(&["decr", "web", "--waiting"]).expect(0).out, "1\n");
    circusd.does(&["set", "web", "graceful_timeout", "2", "numprocesses", "2", "--waiting"]).expect(0);
    assert_eq!(circusd.ctl(&["get", "web", "numprocesses"]).expect(0).out, "numprocesses: 2\n");
    let before = circusd.pids();
    let restarted = circusd.does(&["restart", "web", "--waiting"]).expect(0).out;
    assert!(restarted.starts_with("ok, stopped "), "{restarted}");
    assert!(circusd.pids().iter().all(|pid| !before.contains(pid)));
    circusd.does(&["stop", "w*", "--waiting"]).expect(0);
    let status = circusd.ctl(&["status", "web"]);
    assert!(status.out.contains("stopped"), "{status:?}");
    circusd.does(&["start", "web", "--waiting"]).expect(0);
    circusd.does(&["add", "more", "sleep", "60", "--start", "--waiting"]).expect(0);
    assert_eq!(circusd.ctl(&["numwatchers"]).expect(0).out, "3\n");
    circusd.does(&["signal", "more", "SIGHUP"]).expect(0);
    circusd.does(&["rm", "more", "--waiting"]).expect(0);
    assert_eq!(circusd.does(&["reloadconfig", "--waiting"]).expect(0).out, "ok\n");

    // What is wrong is told as it says it; what it does not know, as ours.
    let wrong = circusd.ctl(&["status", "nobody"]).expect(1);
    assert!(wrong.err.contains("program nobody not found"), "{wrong:?}");
    let ours = circusd.ctl(&["leases", "--node", "x"]).expect(2);
    assert!(ours.err.contains("a circusd answers at tcp://127.0.0.1:"), "{ours:?}");
    let ours = circusd.ctl(&["version"]).expect(1);
    assert!(ours.err.contains("'version' is a command of circus-agent"), "{ours:?}");
    let ours = circusd.ctl(&["stop", "--all", "--yes"]).expect(2);
    assert!(ours.err.contains("one node"), "{ours:?}");
    assert!(circusd.ctl(&["status", "web"]).out.contains("active"), "nothing was done");
    let ours = circusd.ctl(&["logs", "web"]).expect(2);
    assert!(ours.err.contains("over ZeroMQ events are followed, and nothing else"), "{ours:?}");

    circusd.does(&["quit", "--waiting"]).expect(0);
    circusd.process.ends();
    let gone = circusd.ctl(&["list"]).expect(5);
    assert!(gone.err.contains("nobody reached at tcp://127.0.0.1:"), "{gone:?}");
}

#[test]
fn events_of_a_circusd_are_followed() {
    let circusd = Circusd::new();
    let out = circusd.home.file("events");
    let mut command =
        circusd.home.clean(env!("CARGO_BIN_EXE_circusctl"), &["--endpoint", &circusd.endpoint, "events", "-f", "web"]);
    let mut follower = command.stdout(fs::File::create(&out).expect("a file")).spawn().expect("circusctl");
    wait_for("an event to be shown", || {
        circusd.does(&["restart", "web", "--waiting"]);
        let shown = fs::read_to_string(&out).expect("a file");
        (shown.contains("web") && shown.contains("spawn")).then_some(())
    });
    follower.kill().and_then(|()| follower.wait()).expect("its end");
}

#[test]
fn circusctl_speaks_to_an_agent_over_zeromq() {
    let stage = Stage::new("");
    let endpoint = stage.endpoint();
    let ctl = |words: &[&str]| stage.home.ctl(&[&["--endpoint", &endpoint], words].concat());
    assert!(ctl(&["status"]).expect(0).out.contains("active"));
    assert!(ctl(&["status", "web"]).expect(0).out.contains("active"));
    assert_eq!(ctl(&["--json", "numwatchers"]).expect(0).json()["numwatchers"], json!(1));
    ctl(&["restart", "web"]).expect(0);
    ctl(&["version"]).expect(0);
    let wrong = ctl(&["incr", "nobody"]).expect(1);
    assert!(wrong.err.contains("nobody"), "{wrong:?}");
}

#[test]
fn who_never_answers_is_given_up_on_in_time() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("tcp://{}", listener.local_addr().expect("its address"));
    let said = home.ctl(&["--endpoint", &endpoint, "--timeout", "0.3", "list"]).expect(4);
    assert!(said.err.contains("within 0.3 s"), "{said:?}");
}
