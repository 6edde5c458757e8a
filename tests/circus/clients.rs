//! Circus's own clients and plugins, unchanged, and an agent.

use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::{Agent, Home, send, wait_for};
use crate::circusd::{Circusd, Script, python_with};

/// `DIR` is a directory of each one's own. It begins within `[circus]`.
const CONFIG: &str = "\
check_delay = 5
endpoint = ipc://DIR/endpoint
pubsub_endpoint = ipc://DIR/pubsub
multicast_endpoint =

[watcher:web]
cmd = sleep 1000
numprocesses = 2
working_dir = /

[watcher:Sleep Two]
cmd = sleep
args = 1001
working_dir = /
uid = root

[watcher:solo]
cmd = sleep 1002
singleton = True
working_dir = /

[socket:front]
path = DIR/front.sock
";

/// Command lines of Circus's circusctl: all of its commands, of those answers that do not differ on purpose.
const LINES: &[&str] = &[
    "list",
    "list web",
    "list nope",
    "status",
    "status web",
    "status nope",
    "numwatchers",
    "numprocesses",
    "numprocesses web",
    "stats",
    "stats web",
    "stats 'sleep two'",
    "stats web 1",
    "options 'sleep two'",
    "options web",
    "get web cmd numprocesses graceful_timeout uid",
    "get web nokey",
    "globaloptions",
    "globaloptions check_delay",
    "globaloptions zz",
    "listsockets",
    "--json status",
    "--json list web",
    "--json status nope",
    "--json --prettify stats web",
    "--json listsockets",
    "stop web --waiting",
    "status web",
    "start web --waiting",
    "start",
    "stop 's*' --waiting --match glob",
    "status",
    "start 's.*' --waiting --match regex",
    "restart web --waiting",
    "restart solo",
    "reload web --waiting",
    "reload web --waiting --sequential",
    "reload web --waiting --terminate",
    "reload --waiting",
    "incr web",
    "incr web 2 --waiting",
    "decr web 3 --waiting",
    "incr solo",
    "set web numprocesses 3 --waiting",
    "set web stop_signal INT graceful_timeout 3",
    "get web stop_signal graceful_timeout numprocesses",
    "set web numprocesses x",
    "set web frob 1",
    "add new 'sleep 5'",
    "status new",
    "start new --waiting",
    "rm new",
    "signal web cont",
    "signal web 0",
    "signal --recursive web cont",
    "signal --children web cont",
    "signal web",
    "kill web",
    "reloadconfig --waiting",
    "frob",
    "quit --waiting",
];

/// A home in which an agent has doors.
fn config_for(dir: &Path) -> String {
    CONFIG.replace("DIR", &dir.display().to_string())
}

/// The words of one or the other, without what each has of its own.
fn normal(text: &str, dir: &str) -> String {
    let mut normal = String::new();
    let mut in_number = false;
    // Each message has an id of its own, 32 characters.
    let (before, id) = text.split_once("\"id\": \"").unwrap_or((text, ""));
    let text = format!("{before}{}", id.get(32..).unwrap_or(id));
    for c in text.replace(dir, "DIR").chars() {
        let number = c.is_ascii_digit() || (in_number && c == '.');
        if number && !in_number {
            normal.push('N');
        }
        if !number {
            normal.push(c);
        }
        in_number = number;
    }
    normal
}

#[test]
fn circuss_circusctl_says_of_an_agent_what_it_says_of_circusd() {
    let home = Home::new();
    let dirs = ["circusd", "agent"].map(|name| home.file(&format!("{name}.dir")));
    dirs.iter().for_each(|dir| fs::create_dir(dir).expect("a directory"));
    let _circusd = Circusd::start(&home, &format!("[circus]\n{}", config_for(&dirs[0])));
    let _agent = home.agent("web-1", &config_for(&dirs[1]));
    let dirs = dirs.map(|dir| dir.display().to_string());
    let mut ctl = dirs.each_ref().map(|dir| Script::start(&home, "ctl.py", &[&format!("ipc://{dir}/endpoint")]));
    let mut wrong = Vec::new();
    for line in LINES {
        let said: Vec<Value> = ctl.iter_mut().map(|ctl| ctl.ask(line)).collect();
        let text = |of: usize| {
            let text = |field: &str| normal(said[of][field].as_str().expect("text"), &dirs[of]);
            (said[of]["code"].clone(), text("out"), text("err"))
        };
        if text(0) != text(1) {
            wrong.push(format!("{line}:\n  circusd: {:?}\n  agent:   {:?}", text(0), text(1)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One agent with Circus's doors.
struct Served {
    home: Home,
    agent: Agent,
}

impl Served {
    /// Starts it with these watchers.
    fn new(watchers: &str) -> Served {
        let home = Home::new();
        let dir = home.path().display();
        let doors = format!("endpoint = ipc://{dir}/endpoint\npubsub_endpoint = ipc://{dir}/pubsub\n\n{watchers}");
        let agent = home.agent("web-1", &doors);
        Served { home, agent }
    }

    fn door(&self, name: &str) -> String {
        format!("ipc://{}", self.home.file(name).display())
    }

    /// Starts one of Circus's plugins, or of ours, as circusd does, and waits until it hears events.
    fn plugin(&self, class: &str, config: &[(&str, &str)]) -> Plugin {
        let config: Vec<String> = config.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        let (endpoint, pubsub) = (self.door("endpoint"), self.door("pubsub"));
        let main = "from circus import plugins;plugins.main()";
        let words = ["-c", main, "--endpoint", &endpoint, "--pubsub", &pubsub, "--config", &config.join(":::"), class];
        let mut command = python_with(&self.home, &words);
        let log = self.home.file(&format!("{class}.log"));
        let out = || File::options().create(true).append(true).open(&log).expect("a log");
        command.env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/circus"));
        let process = command.stdin(Stdio::null()).stdout(out()).stderr(out()).spawn().expect("a plugin");
        let plugin = Plugin { process, log };
        plugin.logs("Starting");
        plugin
    }

    fn status(&self, watcher: &str) -> String {
        let status = self.agent.ask(&json!({"command": "status", "properties": {"name": watcher}}));
        status["status"].as_str().expect("a word").to_owned()
    }
}

/// A running plugin.
struct Plugin {
    process: Child,
    log: std::path::PathBuf,
}

impl Plugin {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn logs(&self, text: &str) {
        wait_for(&format!("the plugin logs: {text}"), || self.log().contains(text).then_some(()));
    }

    /// Ends it as an agent ends plugins, by which Python's say good-bye.
    fn ends(mut self) {
        send(self.process.id(), libc::SIGINT);
        let end = wait_for("the plugin's end", || self.process.try_wait().expect("a child"));
        assert!(end.success(), "{end}:\n{}", self.log());
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the plugin ----\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn circuss_clients_ask_and_its_shell_too() {
    let served = Served::new("[watcher:web]\ncmd = sleep 1000\nworking_dir = /\n");
    let endpoint = served.door("endpoint");
    let mut clients = Script::start(&served.home, "clients.py", &[&endpoint]);
    let mut said = || wait_for("a reply", || clients.heard());
    assert_eq!(said()["watchers"], json!(["web"]));
    assert_eq!(said()["numprocesses"], 2);
    assert_eq!(said()["options"]["numprocesses"], 2);
    assert_eq!(said()["reason"], "program nope not found");
    let count = said();
    assert_eq!((&count["numprocesses"], &count["watcher_name"]), (&json!(2), &json!("web")));
    assert_eq!(said()["numprocesses"], 1);
    assert_eq!(said(), "Timed out.");

    let main = "from circus.circusctl import main; main()";
    let mut shell = python_with(&served.home, &["-c", main, "--endpoint", &endpoint]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let typed = "help\nhelp list\nlist\nnumprocesses web\nbogus\nincr web --waiting\n";
    shell.stdin.take().expect("its input").write_all(typed.as_bytes()).expect("a shell that reads");
    let said = String::from_utf8(shell.wait_with_output().expect("its output").stdout).expect("text");
    for text in [
        "circusctl 0.19.0\nweb: active\n",
        "reloadconfig",
        "Get list of watchers or processes in a watcher",
        "(circusctl) web\n",
        "(circusctl) 1\n",
        "*** Unknown syntax: bogus",
        "(circusctl) 2\n",
    ] {
        assert!(said.contains(text), "the shell does not say {text:?}:\n{said}");
    }
}

#[test]
fn circuss_circusctl_listens() {
    let served = Served::new("[watcher:web]\ncmd = sleep 1000\n\n[watcher:other]\ncmd = sleep 1001\n");
    let main = "from circus.circusctl import main; main()";
    let words = ["-c", main, "--endpoint", &served.door("pubsub"), "listen", "watcher.web."];
    let mut listener = python_with(&served.home, &words);
    let out = served.home.file("heard");
    let mut listener = listener.stdout(File::create(&out).expect("a file")).spawn().expect("circusctl to run");
    let heard = || fs::read_to_string(&out).unwrap_or_default();
    wait_for("events are heard", || {
        for name in ["other", "web"] {
            served.agent.ask(&json!({"command": "restart", "properties": {"name": name, "waiting": true}}));
        }
        heard().contains("b'watcher.web.spawn': b'{\"process_pid\": ").then_some(())
    });
    let _ = listener.kill();
    let _ = listener.wait();
    assert!(!heard().contains("other"), "{}", heard());
}

#[test]
fn circuss_flapping_stops_what_flaps_and_nothing_else() {
    let served = Served::new(
        "[watcher:flaps]\ncmd = sh -c \"exit 1\"\nflapping.retry_in = 0.5\nautostart = False\n\n[watcher:web]\ncmd = sleep 1000\n",
    );
    let plugin =
        served.plugin("circus.plugins.flapping.Flapping", &[("attempts", "2"), ("max_retry", "1"), ("retry_in", "60")]);
    // Who has subscribed a moment ago may have missed the first events: the watcher goes on until it is heard.
    served.agent.ask(&json!({"command": "start", "properties": {"name": "flaps"}}));
    plugin.logs("flaps: flapping detected: retry in");
    plugin.logs("flaps: flapping detected: reached max retry limit");
    wait_for("it is stopped for good", || (served.status("flaps") == "stopped").then_some(()));
    assert_eq!(served.status("web"), "active");
    plugin.ends();
}

#[test]
fn circuss_resource_watcher_restarts_what_grows() {
    let grows = "python3 -c \"import time; kept = bytearray(100 << 20); time.sleep(1000)\"";
    let served =
        Served::new(&format!("[watcher:grows]\ncmd = {grows}\ncopy_env = True\n\n[watcher:web]\ncmd = sleep 1000\n"));
    ["grows", "web"].iter().for_each(|watcher| served.agent.comes_to(watcher, "active"));
    let (before, others) = (served.agent.pids("grows"), served.agent.pids("web"));
    let plugin = served.plugin(
        "circus.plugins.resource_watcher.ResourceWatcher",
        &[
            ("watcher", "grows"),
            ("loop_rate", "0.1"),
            ("max_mem", "50M"),
            ("max_cpu", "1000"),
            ("health_threshold", "0"),
            ("max_count", "2"),
        ],
    );
    wait_for("another process", || {
        let pids = served.agent.pids("grows");
        (!pids.is_empty() && pids != before).then_some(())
    });
    assert_eq!(served.agent.pids("web"), others);
    plugin.ends();
}

/// Waits until all of this has arrived at a statsd server, of which `more` brings more.
fn receives(server: &UdpSocket, wanted: &[&str], mut more: impl FnMut()) {
    server.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
    let mut lines: Vec<String> = Vec::new();
    let mut packet = [0; 2048];
    wait_for(&format!("{wanted:?}"), || {
        more();
        while let Ok(length) = server.recv(&mut packet) {
            lines.push(String::from_utf8_lossy(&packet[..length]).into_owned());
        }
        wanted.iter().all(|wanted| lines.iter().any(|line| line.starts_with(wanted))).then_some(())
    });
}

#[test]
fn circuss_statsd_plugins_send_events_and_gauges() {
    let served = Served::new(
        "[watcher:web]\ncmd = sleep 1000\nnumprocesses = 2\n\n[watcher:idle]\ncmd = sleep 5\nautostart = False\n",
    );
    let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("its address").port().to_string();
    let config = [("host", "127.0.0.1"), ("port", &*port), ("application_name", "shop"), ("loop_rate", "0.1")];
    let full = served.plugin("circus.plugins.statsd.FullStats", &config);
    receives(
        &server,
        &[
            "circus.shop.watcher._stats.web.watchers_num:2|g",
            "circus.shop.watcher._stats.web.cpu_max:",
            "circus.shop.watcher._stats.web.mem_sum:",
            "circus.shop.watcher._stats.idle.watchers_num:0|g",
        ],
        || (),
    );
    full.ends();
    let emitter = served.plugin("circus.plugins.statsd.StatsdEmitter", &config);
    let restart =
        || drop(served.agent.ask(&json!({"command": "restart", "properties": {"name": "web", "waiting": true}})));
    receives(
        &server,
        &["circus.shop.watcher.web.reap:1|c", "circus.shop.watcher.web.spawn:1|c", "circus.shop.watcher.web.start:1|c"],
        restart,
    );
    emitter.ends();
}

#[test]
fn circuss_command_reloader_restarts_what_has_changed() {
    let home = Home::new();
    let program = home.file("program");
    // In one go: what is being written cannot be started.
    let write = |text: &str| {
        let new = home.file("program.new");
        fs::write(&new, text).expect("a program");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::rename(&new, &program).expect("a place for it");
    };
    write("#!/bin/sh\nexec sleep 1000\n");
    let served = Served::new(&format!("[watcher:web]\ncmd = {}\n", program.display()));
    served.agent.comes_to("web", "active");
    let before = served.agent.pids("web");
    let plugin =
        served.plugin("circus.plugins.command_reloader.CommandReloader", &[("loop_rate", "1"), ("name", "reloader")]);
    // What it has not seen before it cannot find changed: it is changed until that is seen.
    let mut lines = 0;
    wait_for("a restart", || {
        lines += 1;
        write(&format!("#!/bin/sh\n# {lines}\nexec sleep 1000\n"));
        let pids = served.agent.pids("web");
        (!pids.is_empty() && pids != before).then_some(())
    });
    assert!(plugin.log().contains("modified. Restarting."), "{}", plugin.log());
    plugin.ends();
}

#[test]
fn a_plugin_of_ones_own_calls_casts_and_says_good_bye() {
    let served = Served::new("[watcher:web]\ncmd = sleep 1000\n\n[watcher:other]\ncmd = sleep 1001\n");
    let journal = served.home.file("journal");
    let config = [("journal", &*journal.display().to_string()), ("motto", "two words")];
    let plugin = served.plugin("custom.Custom", &config);
    let said = || fs::read_to_string(&journal).unwrap_or_default().replace("hears\n", "");
    let ask = |command: &str, more: &Value| {
        served.agent.ask(&json!({"command": command, "properties": {"name": "web", "waiting": true, "options": more}}))
    };
    wait_for("events are heard", || {
        ask("set", &json!({"send_hup": false}));
        fs::read_to_string(&journal).is_ok_and(|said| said.contains("hears")).then_some(())
    });
    ask("restart", &Value::Null);
    wait_for("an answer after the casts", || said().contains("status ").then_some(()));
    let words = said().replace("status starting", "status active");
    assert_eq!(words, "init two words\nspawn True 1\nstatus active\n");
    wait_for("the cast is carried out", || (served.agent.pids("other").len() == 2).then_some(()));
    plugin.ends();
    assert!(said().ends_with("stop\n"), "{}", said());
}
