//! docs/circus-compatibility.md against the program: every name of Circus has its row, every test that a row names is
//! there; and real agents for what no other test shows.

#[path = "support/agent.rs"]
mod agent;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use circus_agent::config;
use circus_agent::model::command::Refusal;
use circus_agent::model::event::{Exit, News};
use circus_agent::model::spec::HookPoint;
use circus_agent::wire;
use serde_json::json;

use agent::{Agent, Home, wait_for};

// ------------------------------------------------------------------------------------------------- the page

/// What a row may say of a thing.
const VERDICTS: [&str; 5] = ["same", "better", "differs", "later", "no effect"];

/// Keys that Circus does not have, by section. A key stands here or on the page.
const OURS: [(&str, &[&str]); 4] = [
    (
        "circus",
        &[
            "node",
            "cluster",
            "labels",
            "control_socket",
            "state_dir",
            "allow_drills",
            "python",
            "secret_file",
            "master",
            "endpoint_public",
        ],
    ),
    (
        "watcher:NAME",
        &[
            "umask",
            "max_per_node",
            "cron_timezone",
            "misfire_grace",
            "cron_on_failure",
            "after",
            "ready",
            "ready_timeout",
            "health",
            "health_interval",
            "health_timeout",
            "health_retries",
            "health_action",
            "hook_timeout",
            "lease_ttl",
            "lease_key",
            "refresh_interval",
            "refresh_timeout",
            "sockets",
            "socket_env",
            "idle_timeout",
            "stop_preset",
            "valor",
            "quorum",
            "expected",
            "preempt",
            "preempt_delay",
            "scroll",
            "legion",
            "cron",
        ],
    ),
    ("socket:NAME", &["owner", "watchers", "from"]),
    ("plugin:NAME", &[]),
];

/// Commands that Circus does not have; three of them had a branch of it.
const OUR_COMMANDS: [&str; 28] = [
    "plan",
    "version",
    "nodes",
    "nodelist",
    "register_node",
    "join_cluster",
    "leases",
    "legions",
    "lord",
    "scrolls",
    "history",
    "explain",
    "metrics",
    "failover",
    "pause",
    "resume",
    "drill",
    "drain",
    "undrain",
    "rename",
    "lease",
    "events",
    "logs",
    "addsocket",
    "setsocket",
    "rmsocket",
    "publish",
    "init",
];

/// Classes of streams, and their options, that Circus does not have.
const OUR_STREAMS: [&str; 2] = ["SyslogStream", "JournalStream"];
const OUR_STREAM_OPTIONS: [&str; 2] = ["address", "ident"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    let path = root().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A row of a table, cell by cell.
type Row = Vec<String>;

/// What stands in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The rows of all tables in a section of a page, without their heads.
fn tables(page: &str, heading: &str) -> Vec<Row> {
    let mut lines = page.lines();
    assert!(lines.any(|line| line == heading), "there is no section {heading}");
    let level = heading.split(' ').next().unwrap_or_default();
    let ends =
        |line: &&str| line.split(' ').next().is_some_and(|marks| marks.starts_with('#') && marks.len() <= level.len());
    let lines: Vec<&str> = lines.take_while(|line| !ends(line)).collect();
    let head = |at: usize| lines.get(at + 1).is_some_and(|line| line.starts_with("|---"));
    let row = |(at, line): (usize, &&str)| {
        let row = line.strip_prefix("| ")?.strip_suffix(" |")?;
        (!head(at)).then(|| row.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    lines.iter().enumerate().filter(|(_, line)| !line.starts_with("|---")).filter_map(row).collect()
}

fn page() -> String {
    read("docs/circus-compatibility.md")
}

/// What the first cells of a section's rows name.
fn named(heading: &str) -> BTreeSet<String> {
    tables(&page(), heading).iter().flat_map(|row| quoted(&row[0])).map(str::to_owned).collect()
}

/// The program's own keys, by section; those of a plugin by its class.
fn keys() -> BTreeMap<String, BTreeSet<String>> {
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in config::reference_tables().lines() {
        if let Some(head) = line.strip_prefix("### `[") {
            section = head.split('`').next().unwrap_or_default().replace(']', "");
        } else if let Some(key) = line.strip_prefix("| `").and_then(|row| row.split('`').next()) {
            keys.entry(section.clone()).or_default().insert(key.to_owned());
        }
    }
    assert!(keys.len() >= 11, "{keys:?}");
    keys
}

#[test]
fn every_row_says_what_is_here_and_names_a_test_that_is_there() {
    let page = page();
    let mut sources: BTreeMap<String, String> = BTreeMap::new();
    let mut rows = 0;
    // Before it, words are explained; what is said to old clients is held against circusd row by row, in tests/circus.
    let (_, tables) = page.split_once("## The file").expect("the section");
    let (tables, _) = tables.split_once("### Answers that differ").expect("the section");
    for line in tables.lines().filter(|line| line.starts_with("| ") && line.contains(": ")) {
        rows += 1;
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (proof, before) = cells.split_last().expect("cells");
        let proofs: Vec<&str> = quoted(proof).collect();
        assert!(!proofs.is_empty(), "nothing proves: {line}");
        for proof in proofs {
            let (file, test) = proof.split_once(": ").unwrap_or_else(|| panic!("{proof} is no file and test: {line}"));
            let source = sources.entry(file.to_owned()).or_insert_with(|| read(file));
            assert!(is_test(source, test), "{file} has no test {test}: {line}");
        }
        let verdict = before.last().and_then(|cell| cell.strip_prefix("**")?.split("**").next());
        let defect = before.len() == 1;
        assert!(defect || verdict.is_some_and(|verdict| VERDICTS.contains(&verdict)), "what of it? {line}");
    }
    assert!(rows > 180, "{rows} rows");
}

/// Whether a source has this test, by attribute or in a list of cases.
fn is_test(source: &str, name: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {name}(")) else { return false };
    let above = before.trim_end().trim_end_matches("async").trim_end();
    let mut attributes = above.lines().rev().map(str::trim).take_while(|line| line.starts_with("#["));
    attributes.any(|line| line.contains("test")) || before.contains(&format!("    {name},\n"))
}

#[test]
fn every_option_of_circus_has_its_row_and_is_known() {
    let keys = keys();
    for (section, ours) in OURS {
        let rows = named(&format!("## `[{section}]`"));
        let known = &keys[section];
        for key in known {
            let ours = ours.contains(&key.as_str());
            // A family has one row.
            let family = |row: &String| row.strip_suffix('*').is_some_and(|family| key.starts_with(family));
            let row = rows.contains(key) || rows.iter().any(family);
            assert!(ours != row, "[{section}] {key}: {}", if ours { "is not Circus's" } else { "has no row" });
        }
        for row in &rows {
            let member = |key: &String| row.strip_suffix('*').is_some_and(|family| key.starts_with(family));
            // What is told of values and names is told in backquotes, too.
            let told = row.contains([':', ' ']);
            assert!(told || known.contains(row) || known.iter().any(member), "[{section}] does not know {row}");
        }
        let gone: Vec<&&str> = ours.iter().filter(|key| !known.contains(**key)).collect();
        assert!(gone.is_empty(), "[{section}] has no {gone:?} any more");
    }
}

#[test]
fn every_command_of_circus_has_its_row_and_is_understood() {
    let rows = named("## Commands");
    let help = Command::new(env!("CARGO_BIN_EXE_circusctl")).arg("--help").output().expect("circusctl").stdout;
    let help = String::from_utf8(help).expect("text");
    let listed = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the commands");
    let commands: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(OUR_COMMANDS.contains(command) != rows.contains(*command), "{command}");
    }
    for row in tables(&page(), "## Commands").iter().filter(|row| row.len() == 4) {
        let command = quoted(&row[0]).next().expect("a command");
        // Whatever they need is there, and what they do not know is ignored.
        let all = json!({
            "name": "web", "keys": [], "options": {}, "cmd": "sleep 1", "signum": 1, "match": "glob", "nb": 1,
        });
        let asked = wire::parse_request(&json!({"command": command, "properties": all}).to_string());
        match asked.map_err(|bad| bad.refusal) {
            Ok(_) => {}
            Err(Refusal::BadMessage(why)) if matches!(command, "listen" | "ipython") => assert!(!why.is_empty()),
            Err(refusal) => panic!("{command}: {refusal}"),
        }
    }
}

#[test]
fn every_property_of_a_command_is_read() {
    for row in tables(&page(), "## Commands").iter().filter(|row| row.len() == 4) {
        let command = quoted(&row[0]).next().expect("a command");
        for property in quoted(&row[1]) {
            let needs = json!({"name": "web", "keys": ["cmd"], "options": {}, "cmd": "sleep 1", "signum": 1, "pid": 7});
            let mut properties = needs.as_object().expect("an object").clone();
            // No property is a list of lists.
            properties.insert(property.to_owned(), json!([[]]));
            let text = json!({"command": command, "properties": properties}).to_string();
            assert!(wire::parse_request(&text).is_err(), "{command} does not look at {property}");
        }
    }
}

#[test]
fn every_event_of_circus_has_its_row() {
    let hook = HookPoint::BeforeStart;
    let news = [
        News::Spawn { wid: 1, pid: 1 },
        News::Reap { wid: 1, pid: 1, exit: Exit::Code(0) },
        News::Kill { wid: 1, pid: 1 },
        News::Start,
        News::Stop,
        News::Reload,
        News::Updated,
        News::Add,
        News::Remove,
        News::HookSuccess { hook },
        News::HookFailure { hook, error: String::new() },
    ];
    let words = news.each_ref().map(|news| match news {
        // One more kind of news is one more line above.
        News::Spawn { .. } | News::Reap { .. } | News::Kill { .. } => news.word(),
        News::Start | News::Stop | News::Reload | News::Updated | News::Add | News::Remove => news.word(),
        News::HookSuccess { .. } | News::HookFailure { .. } => news.word(),
        // Ours alone.
        News::CronFailure { .. } | News::CronSkipped { .. } | News::Published { .. } => news.word(),
        News::Paused { .. } | News::Resumed { .. } => news.word(),
    });
    assert_eq!(named("## Events"), words.map(str::to_owned).into());
}

#[test]
fn every_hook_of_circus_has_its_row() {
    let rows: BTreeSet<String> =
        named("## Hooks").into_iter().filter(|name| HookPoint::parse(name).is_some()).collect();
    assert_eq!(rows, HookPoint::ALL.map(|point| point.name().to_owned()).into());
}

#[test]
fn every_stream_of_circus_has_its_row_with_its_options() {
    let manual = tables(&read("docs/configuration.md"), "## Output");
    assert!(manual.len() >= 9, "{manual:?}");
    let own = tables(&page(), "## Streams");
    let keys = &keys()["watcher:NAME"];
    for row in &manual {
        let class = row[0].trim_matches('`');
        let found = own.iter().find(|own| own[0].trim_matches('`') == class);
        assert!(OUR_STREAMS.contains(&class) != found.is_some(), "{class}");
        let options =
            |row: &Row| quoted(&row[1]).flat_map(|cell| cell.split(' ')).map(str::to_owned).collect::<BTreeSet<_>>();
        if let Some(found) = found {
            assert_eq!(options(found), options(row), "{class}");
        }
    }
    let told: BTreeSet<&str> = own.iter().flat_map(|row| quoted(&row[0]).chain(quoted(&row[1]))).collect();
    for option in keys.iter().filter_map(|key| key.strip_prefix("stdout_stream.")) {
        let known = told.contains(option) || OUR_STREAM_OPTIONS.contains(&option) || ["class", "*"].contains(&option);
        assert!(known, "{option}");
    }
}

#[test]
fn every_plugin_of_circus_has_its_row_with_its_options() {
    let rows: BTreeMap<String, BTreeSet<String>> = tables(&page(), "## Plugins")
        .iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), quoted(&row[1]).map(str::to_owned).collect()))
        .collect();
    let own = |(head, keys): (String, BTreeSet<String>)| Some((head.split_once("with use = ")?.1.to_owned(), keys));
    assert_eq!(rows, keys().into_iter().filter_map(own).collect());
}

#[test]
fn every_option_of_circusd_is_one_of_circus_agent() {
    let help = Command::new(env!("CARGO_BIN_EXE_circus-agent")).arg("--help").output().expect("circus-agent").stdout;
    let help = String::from_utf8(help).expect("text");
    let rows = named("## circusd");
    assert!(rows.len() >= 7, "{rows:?}");
    for option in rows {
        assert!(help.contains(&option), "circus-agent has no {option}");
    }
}

// ------------------------------------------------------------------------------------------------- real agents

const SLEEPS: &str = "cmd = sleep 600\n";

/// An agent that a test started in its own way; killed when the test is over.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first word of a file that is written by and by.
#[track_caller]
fn written(path: &Path) -> String {
    wait_for(&path.display().to_string(), || fs::read_to_string(path).ok().filter(|text| text.ends_with('\n')))
}

fn said(agent: &Agent, command: &str, name: &str) {
    let reply = agent.ask(&json!({"command": command, "properties": {"name": name, "waiting": true}}));
    assert_eq!(reply["status"], "ok", "{reply}");
}

#[test]
fn mask_and_log_level_are_as_told_and_the_command_line_wins() {
    let home = Home::new();
    let mask = home.file("mask");
    let command = home.script("run", &format!("umask >{}; exec sleep 600", mask.display()));
    let mut agent = home.agent("a", &format!("umask = 027\nloglevel = error\n[watcher:web]\ncmd = {command}"));
    assert_eq!(written(&mask), "0027\n");
    agent.comes_to("web", "active");
    assert!(!agent.log().contains("web: started"), "{}", agent.log());
    agent.signal(libc::SIGTERM);
    agent.exits(0);

    let (log, pidfile) = (home.file("by-hand.log"), home.file("pid"));
    let path = home.file("a.ini").display().to_string();
    let args = ["--log-level", "info", "--pidfile", &pidfile.display().to_string(), &path];
    let out = File::create(&log).expect("a log");
    let by_hand = Started(home.program(&args).stderr(out).spawn().expect("circus-agent"));
    wait_for("its log", || fs::read_to_string(&log).ok()?.contains("web: started").then_some(()));
    assert_eq!(written(&pidfile), format!("{}\n", by_hand.0.id()));
}

#[test]
fn signals_that_mean_nothing_end_nobody() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    for signal in [libc::SIGWINCH, libc::SIGUSR2, libc::SIGALRM, libc::SIGUSR1] {
        agent.signal(signal);
    }
    agent.logs("SIGUSR1");
    agent.comes_to("web", "active");
}

#[test]
fn what_does_not_start_by_itself_starts_when_it_alone_is_named() {
    let home = Home::new();
    let idle = format!("{SLEEPS}autostart = False\n");
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}[watcher:idle]\n{idle}[watcher:idler]\n{idle}"));
    agent.comes_to("web", "active");
    let idle = || ["idle", "idler"].map(|watcher| agent.watcher(watcher)["state"].clone());
    for (command, properties) in [
        ("start", json!({"waiting": true})),
        ("start", json!({"waiting": true, "name": "idl*"})),
        ("restart", json!({"waiting": true})),
        ("reload", json!({"waiting": true})),
        ("reloadconfig", json!({"waiting": true})),
    ] {
        let reply = agent.ask(&json!({"command": command, "properties": properties}));
        assert_eq!((&reply["status"], idle()), (&json!("ok"), [json!("stopped"), json!("stopped")]), "{command}");
    }
    said(&agent, "start", "idle");
    said(&agent, "reload", "idler");
    assert_eq!(idle(), ["active", "active"]);
}

#[test]
fn a_process_is_asked_to_stop_by_the_signal_of_its_choice() {
    let home = Home::new();
    let heard = home.file("heard");
    let command = home.script(
        "run",
        &format!("trap 'echo two >{}; exit' USR2; echo listening; while :; do sleep 0.02; done", heard.display()),
    );
    let agent = home.agent("a", &format!("[watcher:web]\ncmd = {command}\nstop_signal = usr2\n"));
    agent.logs("listening");
    said(&agent, "stop", "web");
    assert_eq!(written(&heard), "two\n");
}

#[test]
fn stdin_is_the_agents_where_that_is_asked_for() {
    let home = Home::new();
    let input = home.file("input");
    fs::write(&input, "from the agent\n").expect("a file");
    let script = |name: &str| {
        home.script(
            name,
            &format!("cat >{0}.new; mv {0}.new {0}; exec sleep 600", home.file(name).with_extension("out").display()),
        )
    };
    let config = format!(
        "[watcher:own]\ncmd = {}\n[watcher:ours]\ncmd = {}\nclose_child_stdin = False",
        script("own"),
        script("ours")
    );
    let path = home.configure("a", &config).display().to_string();
    let stdin = File::open(&input).expect("a file");
    let _agent = Started(home.program(&[&path]).stdin(stdin).stderr(Stdio::null()).spawn().expect("circus-agent"));
    assert_eq!(written(&home.file("ours.out")), "from the agent\n");
    let own: PathBuf = home.file("own.out");
    wait_for("an empty file", || (fs::read_to_string(&own).ok()?.is_empty()).then_some(()));
}

#[test]
fn a_cast_is_carried_out_and_never_answered() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    agent.comes_to("web", "active");
    let mut line = agent.connect();
    // Plugins take the next line that comes for the answer to what they asked.
    let casts = [
        r#"{"command": "frob", "msg_type": "cast"}"#,
        r#"{"command": "stop", "msg_type": "cast", "properties": {"name": "nobody"}}"#,
        r#"{"command": "incr", "msg_type": "cast", "properties": {"name": "web"}}"#,
        r#"{"command": "numwatchers", "properties": {}}"#,
    ];
    let reply = line.ask(&casts.join("\n")).expect("a reply");
    assert_eq!(reply["numwatchers"], 1, "{reply}");
    wait_for("one more process", || (agent.watcher("web")["numprocesses"] == 2).then_some(()));
}

#[test]
fn listen_follows_events_by_their_topics() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}[watcher:other]\n{SLEEPS}"));
    agent.comes_to("web", "active");
    agent.comes_to("other", "active");
    let endpoint = format!("unix://{}", agent.socket.display());
    let mut listen = Command::new(env!("CARGO_BIN_EXE_circusctl"));
    let listen = listen.args(["--endpoint", &endpoint, "--json", "listen", "watcher.web."]).stdin(Stdio::null());
    let mut listen = Started(listen.stdout(Stdio::piped()).spawn().expect("circusctl"));
    let mut lines = BufReader::new(listen.0.stdout.take().expect("its output")).lines();
    // Both of another watcher and of this one, until it is heard; what comes is of this one.
    let asking = std::thread::scope(|scope| {
        let heard = scope.spawn(|| lines.next().expect("a line").expect("text"));
        while !heard.is_finished() {
            said(&agent, "restart", "other");
            said(&agent, "restart", "web");
        }
        heard.join().expect("a line")
    });
    assert!(asking.contains("\"watcher.web."), "{asking}");
}
