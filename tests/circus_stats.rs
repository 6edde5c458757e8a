//! Statistics for Circus's own clients: its circus-top and its StatsClient, unchanged, look at real agents.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/pty.rs"]
mod pty;
#[path = "support/redis.rs"]
mod redis_server;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::num::NonZeroU16;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use agent::{Agent, Home, PATIENCE, wait_for};
use pty::OnTerminal;
use redis_server::{RedisServer, free_port};

/// Circus's own Python.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.servers/circus/bin/python");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/circus/stats_client.py");

// ------------------------------------------------------------------------------------------------- Circus's clients

/// Room for all its tables.
const ROWS: u16 = 50;
const COLUMNS: u16 = 100;

/// Circus's circus-top on a terminal, and what that shows.
struct Top {
    program: OnTerminal,
    screen: vt100::Parser,
}

impl Top {
    fn start(home: &Home, endpoint: &str) -> Top {
        let mut command = Command::new(PYTHON);
        command.args(["-m", "circus.stats.client", "--endpoint", endpoint]).env_clear();
        command.env("HOME", home.path()).env("TERM", "xterm").env("LANG", "C.UTF-8");
        let size = |count| NonZeroU16::new(count).expect("a size");
        Top {
            program: OnTerminal::start_on(command, ROWS, COLUMNS),
            screen: vt100::Parser::new(size(ROWS), size(COLUMNS), 0),
        }
    }

    /// Waits until the screen is like that, and gives its lines.
    #[track_caller]
    fn shows(&mut self, what: &str, like: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let written = self.program.writes();
            self.screen.process(&written);
            let screen = self.screen.screen().contents();
            let lines: Vec<String> = screen.lines().map(|line| line.trim_end().to_owned()).collect();
            if like(&lines) {
                return lines;
            }
            assert!(Instant::now() < deadline, "it does not show {what}:\n{screen}");
        }
    }
}

/// The table of a watcher: the first words of its rows, without what changes from second to second.
fn table(screen: &[String], name: &str) -> Option<Vec<String>> {
    let rows = screen.iter().skip_while(|line| *line != name).skip(1).take_while(|line| !line.is_empty());
    let rows: Vec<String> = rows
        .map(|row| match row.get(..27) {
            // Three figures, each with two decimals.
            Some(head) if row[27..].matches('.').count() == 3 => head.trim().to_owned(),
            _ => row.clone(),
        })
        .collect();
    (!rows.is_empty()).then_some(rows)
}

/// Such a table as it should be: its processes in any order, and what they are together.
fn is_table_of(screen: &[String], name: &str, processes: &[String]) -> bool {
    const HEAD: &str = "   PID                      CPU (%)             MEMORY (%)          AGE (s)";
    let Some(rows) = table(screen, name) else { return false };
    let Some(([head], rows)) = rows.split_first_chunk() else { return false };
    let Some((sum, rows)) = rows.split_last() else { return false };
    let mut rows = rows.to_vec();
    let mut processes = processes.to_vec();
    rows.sort();
    processes.sort();
    head == HEAD && rows == processes && sum.is_empty()
}

fn texts(pids: &[u32]) -> Vec<String> {
    pids.iter().map(ToString::to_string).collect()
}

/// Circus's StatsClient, and what it is told; it ends with the value.
struct Client {
    process: Child,
    told: mpsc::Receiver<Value>,
}

impl Client {
    fn start(endpoint: &str) -> Client {
        let mut process = Command::new(PYTHON)
            .args([CLIENT, endpoint])
            .stdout(Stdio::piped())
            .spawn()
            .expect("Circus's Python: run `make setup`");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let (sender, told) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let message = serde_json::from_str(&line).expect("JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Client { process, told }
    }

    /// The next message: of which watcher, of what of it, and what.
    #[track_caller]
    fn next(&self) -> (String, Option<String>, Value) {
        let message = self.told.recv_timeout(PATIENCE).expect("a message");
        serde_json::from_value(message).expect("three of them")
    }

    /// The next message of this.
    #[track_caller]
    fn next_of(&self, watcher: &str, subtopic: Option<&str>) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (of, part, stat) = self.next();
            if of == watcher && part.as_deref() == subtopic {
                return stat;
            }
            assert!(Instant::now() < deadline, "nothing of {watcher} {subtopic:?}");
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ------------------------------------------------------------------------------------------------- one agent

/// The file of which a second of circusd-stats is recorded in `tests/circus/stats.txt`.
fn recorded_file(home: &Home, endpoint: &str) -> String {
    let port = free_port();
    let path = home.file("ctl").display().to_string();
    format!(
        "stats_endpoint = {endpoint}\n\
         [watcher:dummy]\ncmd = sleep 1000\nnumprocesses = 2\n\
         [watcher:Sleep Two]\ncmd = sh -c \"sleep 1000 & wait\"\n\
         [watcher:c.d]\ncmd = sleep 1001\n\
         [watcher:empty]\ncmd = sleep 1\nautostart = False\n\
         [socket:web]\nhost = 127.0.0.1\nport = {port}\n[socket:ctl]\npath = {path}\n"
    )
}

#[test]
fn circuss_own_circus_top_shows_an_agent() {
    let home = Home::new();
    let endpoint = format!("tcp://127.0.0.1:{}", free_port());
    let agent = home.agent("a", &recorded_file(&home, &endpoint));
    for watcher in ["dummy", "Sleep Two", "c.d"] {
        agent.comes_to(watcher, "active");
    }
    let mut top = Top::start(&home, &endpoint);
    let pids = agent.pids("dummy");
    let is_whole = |screen: &[String]| {
        is_table_of(screen, "dummy", &texts(&pids))
            && is_table_of(screen, "sleep_two", &texts(&agent.pids("Sleep Two")))
            && is_table_of(screen, "c.d", &texts(&agent.pids("c.d")))
            && is_table_of(screen, "circus", &[format!("{} (circusd)", agent.pid())])
            && table(screen, "sockets").is_some_and(|rows| rows.len() == 4 && rows[3].trim() == "0 (sum)")
            && table(screen, "empty").is_none()
    };
    let screen = top.shows("all watchers", is_whole);
    assert_eq!(screen[0], "Circus Top");
    let sum = screen.iter().find(|line| line.contains("(avg)")).expect("a sum");
    assert!(sum.contains("(sum)") && sum.contains("(older)"), "{sum}");

    // What happens is seen.
    agent.ctl(&home, &["incr", "dummy"]).expect(0);
    wait_for("one more", || (agent.pids("dummy").len() == 3).then_some(()));
    top.shows("one more", |screen| is_table_of(screen, "dummy", &texts(&agent.pids("dummy"))));
    agent.ctl(&home, &["stop", "dummy"]).expect(0);
    let is_empty = |screen: &[String]| {
        let row =
            |row: &String| row.contains("0.00 (avg)") && row.contains("0.00 (sum)") && row.contains("N/A (older)");
        table(screen, "dummy").is_some_and(|rows| rows.len() == 2 && row(&rows[1]))
    };
    top.shows("that nothing is left of it", is_empty);
}

#[test]
fn circuss_stats_client_is_told_what_circusd_stats_would_tell_it() {
    let home = Home::new();
    let endpoint = format!("ipc://{}", home.file("stats").display());
    let agent = home.agent("a", &recorded_file(&home, &endpoint));
    for watcher in ["dummy", "Sleep Two", "c.d"] {
        agent.comes_to(watcher, "active");
    }
    let client = Client::start(&endpoint);
    // One second and the beginning of the next.
    client.next_of("circus", None);
    let mut told = BTreeMap::new();
    while !told.contains_key(&("circus".to_owned(), None)) {
        let (watcher, subtopic, stat) = client.next();
        told.insert((watcher, subtopic), stat);
    }
    let of = |watcher: &str| -> Vec<String> {
        told.keys().filter(|(of, _)| of == watcher).filter_map(|(_, part)| part.clone()).collect()
    };
    let mut pids = texts(&agent.pids("dummy"));
    pids.sort();
    assert_eq!(of("dummy"), pids);
    assert_eq!((of("sleep_two"), of("c-d")), (texts(&agent.pids("Sleep Two")), texts(&agent.pids("c.d"))));
    assert_eq!(of("circus"), texts(&[agent.pid()]));

    // Field by field what the recording has, of the same type.
    let recording = fs::read_to_string("tests/circus/stats.txt").expect("a recording");
    let recorded = |topic: &str| -> Value {
        let line = recording.lines().find(|line| line.starts_with(topic)).expect("a line");
        serde_json::from_str(&line[line.find('{').expect("a body")..]).expect("JSON")
    };
    let same_kind = |ours: &Value, theirs: &Value| std::mem::discriminant(ours) == std::mem::discriminant(theirs);
    let same = |ours: &Value, theirs: &Value| {
        let (ours, theirs) = (ours.as_object().expect("an object"), theirs.as_object().expect("an object"));
        assert!(ours.keys().eq(theirs.keys()), "{ours:?}, {theirs:?}");
        assert!(ours.iter().all(|(key, value)| same_kind(value, &theirs[key])), "{ours:?}, {theirs:?}");
    };
    let process = &told[&("dummy".to_owned(), Some(pids[0].clone()))];
    same(process, &recorded("stat.dummy."));
    assert_eq!((&process["cmdline"], &process["children"]), (&json!("sleep"), &json!([])));
    same(&told[&("dummy".to_owned(), None)], &recorded("stat.dummy {"));
    let own = &told[&("circus".to_owned(), Some(agent.pid().to_string()))];
    same(own, &recorded("stat.circus."));
    assert_eq!((&own["name"], &own["cmdline"]), (&json!("circusd"), &json!("circus-agent")));

    // Nobody accepts here.
    let sockets = agent.ask(&json!({"command": "listsockets"}));
    let web = sockets["sockets"].as_array().expect("sockets").iter().find(|socket| socket["name"] == "web");
    let (fd, port) = (web.expect("web")["fd"].to_string(), web.expect("web")["port"].as_u64().expect("a port"));
    let quiet = client.next_of("sockets", Some(&fd));
    same(&quiet, &recorded("stat.sockets."));
    assert_eq!((&quiet["reads"], &quiet["address"]), (&json!(0), &json!(format!("127.0.0.1:{port}"))));
    let _waits = std::net::TcpStream::connect(("127.0.0.1", port as u16)).expect("a connection");
    wait_for("somebody who waits", || (client.next_of("sockets", Some(&fd))["reads"] == 1).then_some(()));
    let sum = client.next_of("sockets", None);
    same(&sum, &recorded("stat.sockets {"));
    assert_eq!((&sum["reads"], sum["addresses"].as_array().map(Vec::len)), (&json!(1), Some(2)), "{sum}");
}

#[test]
fn while_nobody_has_subscribed_nothing_is_measured() {
    let home = Home::new();
    let endpoint = format!("ipc://{}", home.file("stats").display());
    let agent = home.agent("a", &format!("stats_endpoint = {endpoint}\n[watcher:web]\ncmd = sleep 1000\n"));
    agent.comes_to("web", "active");
    // Each measurement reads files of each process.
    let reads = |agent: &Agent| -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", agent.pid())).expect("what it reads");
        io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("a number").parse().expect("a number")
    };
    let is_quiet = |agent: &Agent| {
        let before = reads(agent);
        thread::sleep(Duration::from_millis(2_500));
        // But for what this very test and its runtime cause.
        (reads(agent) - before < 5).then_some(())
    };
    wait_for("nothing to be measured", || is_quiet(&agent));
    let client = Client::start(&endpoint);
    let age = || client.next_of("web", None)["age"].as_f64().expect("a number");
    // Longer than anybody is believed to watch who does not say so again.
    let first = age();
    wait_for("it to go on", || (age() > first + 14.0).then_some(()));
    assert!(is_quiet(&agent).is_none(), "it is not seen by this test");
    drop(client);
    wait_for("nothing to be measured again", || is_quiet(&agent));
}

// ------------------------------------------------------------------------------------------------- a cluster

#[test]
fn circuss_own_circus_top_shows_a_cluster_at_one_agent() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let endpoint = format!("tcp://127.0.0.1:{}", free_port());
    let redis_section = format!("[redis]\nurl = {}\n", redis.url());
    let dummy = "[watcher:dummy]\ncmd = sleep 600\nnumprocesses = 3\n";
    let first = home.agent("first", &format!("[circus-cluster]\nstats_endpoint = {endpoint}\n{dummy}{redis_section}"));
    let mut second = home.agent("second", &format!("[watcher:dummy2]\ncmd = sleep 600\n{redis_section}"));
    first.comes_to("dummy", "active");
    second.comes_to("dummy2", "active");
    let mut top = Top::start(&home, &endpoint);
    let screen = top.shows("both nodes", |screen| {
        is_table_of(screen, "first.circus", &[format!("{} (circusd)", first.pid())])
            && is_table_of(screen, "first.dummy", &texts(&first.pids("dummy")))
            && is_table_of(screen, "second.circus", &[format!("{} (circusd)", second.pid())])
            && is_table_of(screen, "second.dummy2", &texts(&second.pids("dummy2")))
    });
    let names: Vec<_> = screen.iter().filter(|line| line.starts_with(['f', 's'])).collect();
    assert_eq!(names, ["first.circus", "first.dummy", "second.circus", "second.dummy2"]);

    // A node that is gone has nothing any more.
    second.kill();
    top.shows("that it is gone", |screen| {
        let is_empty =
            |name| table(screen, name).is_some_and(|rows| rows.len() == 2 && rows[1].contains("N/A (older)"));
        is_empty("second.circus") && is_empty("second.dummy2")
    });
    top.shows("the other", |screen| is_table_of(screen, "first.dummy", &texts(&first.pids("dummy"))));
}

#[test]
fn a_cluster_without_redis_is_this_node_alone() {
    let home = Home::new();
    let endpoint = format!("ipc://{}", home.file("all").display());
    let file = format!("[circus-cluster]\nstats_endpoint = {endpoint}\n[watcher:web.site]\ncmd = sleep 600\n");
    let agent = home.agent("web.1", &file);
    agent.comes_to("web.site", "active");
    let client = Client::start(&endpoint);
    let pid = agent.pids("web.site")[0];
    let process = client.next_of("web-1-web-site", Some(&pid.to_string()));
    assert_eq!((&process["cmdline"], &process["username"]), (&json!("sleep"), &json!("N/A")), "{process}");
    assert!(process["age"].is_f64() && process["mem_info1"].as_str().is_some_and(|text| text.ends_with(['K', 'M'])));
    let sum = client.next_of("web-1-web-site", None);
    assert_eq!(sum["pid"], json!([pid]));
    client.next_of("web-1-circus", None);
}

#[test]
fn figures_of_the_cluster_stop_and_go_on_with_redis() {
    let (home, mut redis) = (Home::new(), RedisServer::start());
    let endpoint = format!("ipc://{}", home.file("all").display());
    let agent = home.agent(
        "a",
        &format!(
            "[circus-cluster]\nstats_endpoint = {endpoint}\n[watcher:web]\ncmd = sleep 600\n[redis]\nurl = {}\n",
            redis.url()
        ),
    );
    agent.comes_to("web", "active");
    let client = Client::start(&endpoint);
    let pid = json!([agent.pids("web")[0]]);
    let comes_to =
        |pids: &Value| wait_for("these processes", || (client.next_of("a-web", None)["pid"] == *pids).then_some(()));
    comes_to(&pid);
    redis.kill();
    agent.logs("[circus-cluster] stats_endpoint: Redis: ");
    comes_to(&json!([]));
    redis.restart();
    agent.logs("[circus-cluster] stats_endpoint: Redis is reached again");
    comes_to(&pid);
}
