//! Circus's defects, mended. Each test is named after what a user of Circus suffered from, turned round.
//!
//! docs/circus-compatibility.md lists all of them, with those that are proven elsewhere.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/specs.rs"]
mod specs;
#[allow(dead_code, reason = "one play needs little of the stage")]
#[path = "plays/stage.rs"]
mod stage;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use circus_agent::model::event::{Event, ProcessEvent, SpawnFailure};
use circus_agent::model::spec::WatcherSpec;
use serde_json::{Value, json};

use agent::{Agent, Home, is_alive, send, wait_for};
use stage::Stage;

/// Hears no SIGTERM, and says when that is so.
const DEAF: &str = "cmd = /bin/sh -c 'trap \"\" TERM; echo deaf; while :; do sleep 1; done'\n";
const SLEEPS: &str = "cmd = sleep 600\n";

/// Asks for a command; its reply, which is a good one.
#[track_caller]
fn done(agent: &Agent, command: &str, properties: &Value) -> Value {
    let reply = agent.ask(&json!({"command": command, "properties": properties}));
    assert_eq!(reply["status"], "ok", "{command} {properties}: {reply}");
    reply
}

/// Asks for a command; why it is refused.
#[track_caller]
fn refused(agent: &Agent, command: &str, properties: &Value) -> String {
    let reply = agent.ask(&json!({"command": command, "properties": properties}));
    assert_eq!(reply["status"], "error", "{command} {properties}: {reply}");
    reply["reason"].as_str().expect("a reason").to_owned()
}

/// The pids of a watcher's processes.
#[track_caller]
fn pids(agent: &Agent, watcher: &str) -> Vec<u32> {
    let pids = done(agent, "list", &json!({"name": watcher}))["pids"].clone();
    serde_json::from_value(pids).expect("pids")
}

/// Its only process.
#[track_caller]
fn pid(agent: &Agent, watcher: &str) -> u32 {
    let pids = pids(agent, watcher);
    assert_eq!(pids.len(), 1, "{watcher}: {pids:?}");
    pids[0]
}

#[track_caller]
fn option(agent: &Agent, watcher: &str, key: &str) -> Value {
    done(agent, "get", &json!({"name": watcher, "keys": [key]}))["options"][key].clone()
}

/// Something of a process in /proc.
#[track_caller]
fn proc(pid: u32, file: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| panic!("{file} of {pid}: {error}"));
    String::from_utf8_lossy(&bytes).replace('\0', "\n")
}

/// An agent of which one watcher, `slow`, takes for ever to stop and is at it.
fn in_a_long_stop(home: &Home, more: &str) -> Agent {
    let agent = home.agent("a", &format!("[watcher:slow]\n{DEAF}graceful_timeout = 600\n{more}"));
    agent.logs("deaf");
    done(&agent, "stop", &json!({"name": "slow"}));
    agent.comes_to("slow", "stopping");
    agent
}

// ------------------------------------------------------------------------------------------------- one at a time

#[test]
fn no_command_is_refused_because_another_is_under_way() {
    let home = Home::new();
    let agent = in_a_long_stop(&home, &format!("[watcher:web]\n{SLEEPS}"));
    agent.comes_to("web", "active");
    let web = json!({"name": "web", "waiting": true});
    for command in ["restart", "reload", "stop", "start", "incr", "decr", "kill"] {
        done(&agent, command, &web);
    }
    done(&agent, "set", &json!({"name": "web", "options": {"graceful_timeout": 3}, "waiting": true}));
    done(&agent, "add", &json!({"name": "new", "cmd": "sleep 600", "start": true, "waiting": true}));
    done(&agent, "rm", &json!({"name": "new", "waiting": true}));
    done(&agent, "reloadconfig", &json!({"waiting": true}));
    // Nor by the very watcher that stops.
    done(&agent, "incr", &json!({"name": "slow"}));
    done(&agent, "set", &json!({"name": "slow", "options": {"priority": 3}}));
    done(&agent, "start", &json!({"name": "slow"}));
    done(&agent, "stop", &json!({"name": "slow"}));
    assert_eq!(agent.watcher("slow")["state"], "stopping");
}

#[test]
fn a_dead_process_is_replaced_while_another_watcher_takes_long_to_stop() {
    let home = Home::new();
    let agent = in_a_long_stop(&home, &format!("[watcher:web]\n{SLEEPS}"));
    agent.comes_to("web", "active");
    let killed = pid(&agent, "web");
    send(killed, libc::SIGKILL);
    wait_for("another process", || pids(&agent, "web").iter().any(|pid| *pid != killed).then_some(()));
    assert_eq!(agent.watcher("slow")["state"], "stopping");
}

// ------------------------------------------------------------------------------------------------- signals

#[test]
fn a_stop_signal_is_obeyed_during_start_up() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        let home = Home::new();
        let mut agent = home.agent("a", &format!("warmup_delay = 60\n[watcher:one]\n{SLEEPS}[watcher:two]\n{SLEEPS}"));
        agent.comes_to("one", "active");
        assert_eq!(agent.ask(&json!({"command": "status"}))["phase"], "starting");
        let children = agent.descendants();
        agent.signal(signal);
        agent.exits(0);
        assert!(!children.into_iter().any(is_alive));
    }
}

#[test]
fn a_stop_signal_is_obeyed_while_a_command_is_under_way() {
    let home = Home::new();
    let slow = format!("[watcher:slow]\n{DEAF}graceful_timeout = 0.3\n");
    let mut agent = home.agent("a", &format!("{slow}[watcher:web]\n{SLEEPS}"));
    agent.logs("deaf");
    let children = agent.descendants();
    done(&agent, "restart", &json!({}));
    agent.comes_to("slow", "stopping");
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    assert!(!children.into_iter().any(is_alive));
}

// ------------------------------------------------------------------------------------------------- messages

#[test]
fn a_message_that_is_none_deafens_nobody() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    let (mut earlier, mut rude) = (agent.connect(), agent.connect());
    for (message, errno) in [
        ("", 1),
        ("  ", 1),
        ("[1]", 1),
        ("5", 1),
        ("\"x\"", 1),
        ("null", 1),
        ("{}", 3),
        (r#"{"command": null}"#, 3),
        (r#"{"command": 5}"#, 3),
        (r#"{"command": "list", "properties": 5}"#, 3),
    ] {
        let reply = rude.ask(message).unwrap_or_else(|| panic!("no reply to {message:?}"));
        assert_eq!((&reply["status"], &reply["errno"]), (&json!("error"), &json!(errno)), "{message:?}: {reply}");
        let reply = earlier.ask(r#"{"command": "list"}"#).expect("a reply");
        assert_eq!(reply["watchers"], json!(["web"]), "after {message:?}");
    }
}

#[test]
fn a_number_that_is_none_is_answered_also_when_the_asker_waits() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    let reason = refused(&agent, "incr", &json!({"name": "web", "nb": "x", "waiting": true}));
    assert_eq!(reason, "'nb' isn't an integer");
}

#[test]
fn nobody_on_the_network_can_ask_or_find_an_agent() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    let own: BTreeSet<String> = fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .expect("its descriptors")
        .filter_map(|fd| {
            fs::read_link(fd.ok()?.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect();
    assert!(!own.is_empty(), "not even a control socket");
    for protocol in ["tcp", "tcp6", "udp", "udp6", "raw"] {
        // A machine without IPv6 has no such file.
        let table = fs::read_to_string(format!("/proc/{}/net/{protocol}", agent.pid())).unwrap_or_default();
        let inodes = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9));
        let open: Vec<&str> = inodes.filter(|inode| own.contains(*inode)).collect();
        assert!(open.is_empty(), "{protocol} {open:?}");
    }
}

// ------------------------------------------------------------------------------------------------- starting

#[test]
fn a_limit_that_cannot_be_set_keeps_no_other_watcher_from_starting() {
    let home = Home::new();
    // More than any kernel grants, even to root.
    let bad = format!("[watcher:bad]\n{SLEEPS}priority = 9\nrlimit_nofile = 9000000000000\nmax_retry = 2\n");
    let agent = home.agent("a", &format!("{bad}[watcher:web]\n{SLEEPS}"));
    agent.comes_to("web", "active");
    agent.comes_to("bad", "failed");
    let note = agent.watcher("bad")["note"].clone();
    assert!(note.as_str().is_some_and(|note| note.contains("nofile")), "{note}");
}

#[test]
fn to_try_without_end_is_no_busy_loop() {
    let mut stage = Stage::new(vec![WatcherSpec { max_retry: None, ..specs::watcher("web") }]);
    let mut tries = 0;
    for _ in 0..3600 {
        for (process, _) in stage.spawns() {
            tries += 1;
            let failure = SpawnFailure { stage: "exec(\"/no\")".into(), error: "ENOENT".into() };
            stage.tell(Event::Process(process, ProcessEvent::SpawnFailed(failure)));
        }
        stage.wait(Duration::from_secs(1));
    }
    assert!((100..200).contains(&tries), "{tries} tries in an hour");
}

#[test]
fn an_agent_that_cannot_have_its_socket_says_so_and_exits_with_an_error() {
    let home = Home::new();
    let taken = home.file("taken");
    fs::write(&taken, "a file of somebody's").expect("a file");
    let mark = home.file("mark");
    let touch = home.script("touch", &format!("touch {}", mark.display()));
    home.configure("a", &format!("control_socket = {}\n[watcher:web]\ncmd = {touch}", taken.display()));
    let mut agent = home.launch("a", &[]);
    agent.exits(69);
    assert!(agent.log().contains("error: ") && agent.log().contains("taken"), "{}", agent.log());
    assert!(!mark.exists(), "something was started");
}

#[test]
fn a_restart_of_everything_leaves_the_agent_itself_alone() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:one]\n{SLEEPS}[watcher:two]\n{SLEEPS}"));
    agent.comes_to("two", "active");
    let before = [pid(&agent, "one"), pid(&agent, "two")];
    let mut held = agent.connect();
    let reply = held.ask(r#"{"command": "restart", "properties": {"waiting": true}}"#).expect("a reply");
    assert_eq!(reply["status"], "ok", "{reply}");
    let after = [pid(&agent, "one"), pid(&agent, "two")];
    assert!(!after.iter().any(|pid| before.contains(pid)), "{before:?} {after:?}");
}

// ------------------------------------------------------------------------------------------------- sockets

/// A port of 127.0.0.1 that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

#[test]
fn any_watcher_on_demand_is_woken_and_by_its_own_socket_alone() {
    let home = Home::new();
    let (one, two) = (home.file("one.unix"), home.file("two.unix"));
    let sleeper = |name: &str, socket: &str| {
        format!("[socket:{name}]\n{socket}\n[watcher:{name}]\n{SLEEPS}sockets = {name}\non_demand = True\n")
    };
    // In Circus one with so_reuseport wakes all at once, and only the first of all is ever woken.
    let config = [
        sleeper("first", "port = 0\nso_reuseport = True"),
        sleeper("one", &format!("path = {}", one.display())),
        sleeper("two", &format!("path = {}", two.display())),
    ];
    let agent = home.agent("a", &config.concat());
    ["first", "one", "two"].iter().for_each(|watcher| agent.comes_to(watcher, "listening"));
    let _client = UnixStream::connect(&two).expect("a socket");
    agent.comes_to("two", "active");
    for watcher in ["first", "one"] {
        assert_eq!((agent.watcher(watcher)["state"].clone(), pids(&agent, watcher)), (json!("listening"), vec![]));
    }
    let _client = UnixStream::connect(&one).expect("a socket");
    agent.comes_to("one", "active");
}

#[test]
fn a_sockets_umask_is_octal() {
    let home = Home::new();
    let path = home.file("web.unix");
    let mode = || Some(fs::metadata(&path).ok()?.permissions().mode() & 0o777);
    for (umask, expected) in [("umask = 077\n", 0o700), ("umask = 0\n", 0o777), ("umask = 022\n", 0o755), ("", 0o777)] {
        let config = format!("[socket:web]\npath = {}\n{umask}[watcher:web]\n{SLEEPS}sockets = web", path.display());
        let mut agent = home.agent("a", &config);
        agent.comes_to("web", "active");
        assert_eq!(mode(), Some(expected), "{umask}");
        agent.signal(libc::SIGTERM);
        agent.exits(0);
    }
    // Where it is another one than in Circus, a warning tells both.
    let checked = home.program(&["--check", &home.file("a.ini").display().to_string()]).output().expect("the agent");
    assert!(checked.stderr.is_empty() && checked.status.success());
    home.configure("b", &format!("[socket:web]\npath = {}\numask = 077\n", path.display()));
    let checked = home.program(&["--check", &home.file("b.ini").display().to_string()]).output().expect("the agent");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(said.contains("0700") && said.contains("0662"), "{said}");
}

#[test]
fn a_port_that_is_taken_ends_the_agent_with_an_error() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    home.configure("a", &format!("[socket:web]\nport = {}\n[watcher:web]\n{SLEEPS}sockets = web", address.port()));
    let mut agent = home.launch("a", &[]);
    agent.exits(69);
    assert!(agent.log().contains(&format!("socket web: cannot listen on {address}: EADDRINUSE: ")), "{}", agent.log());
    assert!(!agent.log().contains("started, pid"), "{}", agent.log());
}

#[test]
fn an_interface_can_be_named() {
    let home = Home::new();
    let port = free_port();
    let config = format!("[socket:web]\nport = {port}\ninterface = lo\n[watcher:web]\n{SLEEPS}sockets = web");
    let agent = home.agent("a", &config);
    agent.comes_to("web", "active");
    TcpStream::connect(("127.0.0.1", port)).expect("it comes in through lo");
}

#[test]
fn a_socket_that_a_watcher_does_not_get_is_no_number_in_its_command_line() {
    let home = Home::new();
    home.configure("a", "[socket:web]\nport = 0\n[watcher:web]\ncmd = sleep $(circus.sockets.web)\n");
    let mut agent = home.launch("a", &[]);
    agent.exits(78);
    assert!(agent.log().contains("write `sockets = web`"), "{}", agent.log());
}

// ------------------------------------------------------------------------------------------------- ending

#[test]
fn what_a_polite_parent_leaves_behind_ends_with_it() {
    for options in ["", "stop_children = True\n"] {
        let home = Home::new();
        let parent = home.script("parent", "sleep 600 & trap 'exit 0' TERM; echo listening; wait");
        let agent = home.agent("a", &format!("[watcher:web]\ncmd = {parent}\n{options}"));
        agent.logs("listening");
        let family = agent.descendants();
        assert!(family.len() >= 2, "{family:?}");
        done(&agent, "stop", &json!({"name": "web", "waiting": true}));
        let left: Vec<u32> = family.into_iter().filter(|pid| is_alive(*pid)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_crash_is_told_in_the_log() {
    let home = Home::new();
    let agent = home.agent("a", "[watcher:bad]\ncmd = /bin/sh -c 'exit 3'\n");
    wait_for("a line of the log", || {
        agent.log().lines().any(|line| line.contains("warning") && line.contains("bad#1: exit 3; ")).then_some(())
    });
}

// ------------------------------------------------------------------------------------------------- changes

#[test]
fn reloadconfig_sees_keys_that_come_and_go_and_bounces_nobody() {
    let home = Home::new();
    let flapping = "[plugin:flapping]\nuse = circus.plugins.flapping.Flapping\n";
    let config = |circus: &str, web: &str| {
        format!("loglevel = info\n{circus}{flapping}[watcher:other]\n{SLEEPS}[watcher:web]\n{SLEEPS}{web}")
    };
    let agent = home.agent("a", &config("", ""));
    let all = ["plugin:flapping", "other", "web"];
    all.iter().for_each(|watcher| agent.comes_to(watcher, "active"));
    done(&agent, "add", &json!({"name": "added", "cmd": "sleep 600", "start": true, "waiting": true}));
    let before: Vec<u32> = all.iter().chain(&["added"]).map(|watcher| pid(&agent, watcher)).collect();
    let keys = [("max_age", json!(3600)), ("flapping.attempts", json!("9")), ("stats_base_port", json!("8100"))];
    let web = "max_age = 3600\nflapping.attempts = 9\nstats_base_port = 8100\n";
    for (web, circus, come) in [(web, "check_delay = 1\nwarmup_delay = 0.1\n", true), ("", "", false)] {
        home.configure("a", &config(circus, web));
        let plan = done(&agent, "reloadconfig", &json!({"waiting": true}))["plan"].clone();
        let changed: Vec<&str> = plan["changes"][0]["keys"]
            .as_array()
            .expect("keys")
            .iter()
            .filter_map(|change| change["key"].as_str())
            .collect();
        assert_eq!(changed, ["flapping.attempts", "max_age", "stats_base_port"], "{plan}");
        let options = done(&agent, "options", &json!({"name": "web"}))["options"].clone();
        for (key, value) in &keys {
            assert_eq!(options.get(key) == Some(value), come, "{key}: {options}");
        }
    }
    let after: Vec<u32> = all.iter().chain(&["added"]).map(|watcher| pid(&agent, watcher)).collect();
    assert_eq!(before, after, "of {all:?} and what was added by a command");
}

#[test]
fn reloadconfig_of_a_broken_file_says_so_and_changes_nothing() {
    let home = Home::new();
    let mut agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    agent.comes_to("web", "active");
    let before = pid(&agent, "web");
    home.configure("a", &format!("[watcher:web]\n{SLEEPS}numprocesses = many\n[watcher:new]\n{SLEEPS}"));
    // Nobody waits, and is told all the same.
    let reason = refused(&agent, "reloadconfig", &json!({}));
    assert!(reason.contains("many") && reason.contains("a.ini:"), "{reason}");
    agent.signal(libc::SIGHUP);
    wait_for("the log to say it, too", || (agent.log().matches("nothing is changed").count() == 2).then_some(()));
    assert_eq!(pid(&agent, "web"), before);
    assert_eq!(done(&agent, "list", &json!({}))["watchers"], json!(["web"]));
    agent.signal(libc::SIGTERM);
    agent.exits(0);
}

#[test]
fn set_applies_what_it_accepts() {
    let home = Home::new();
    let agent = home.agent_with("a", &format!("[watcher:web]\n{SLEEPS}\n[env:web]\nA = 1"), &[("CANARY", "sings")]);
    agent.comes_to("web", "active");
    assert!(!proc(pid(&agent, "web"), "environ").contains("CANARY"));
    let set = |options: Value| done(&agent, "set", &json!({"name": "web", "options": options, "waiting": true}));
    let options = json!({
        "max_retry": 9, "copy_env": true, "flapping.retry_in": 3, "close_child_stdin": false, "close_child_stdout": true,
        "close_child_stderr": true, "rlimit_nofile": 99, "rlimit_core": null,
    });
    set(options.clone());
    for (key, value) in options.as_object().expect("an object").iter().filter(|(key, _)| !key.starts_with("rlimit")) {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(text(&option(&agent, "web", key)), text(value), "{key}");
    }
    // What nothing would come of is refused.
    let reason = refused(&agent, "set", &json!({"name": "web", "options": {"retry_in": 3}}));
    assert_eq!(reason, "unknown key 'retry_in'");
    let now = pid(&agent, "web");
    assert!(proc(now, "environ").contains("\nCANARY=sings\n"), "{}", proc(now, "environ"));
    let limits = proc(now, "limits");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
        line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        (limit("Max open files"), limit("Max core file size")),
        (vec!["99".into(); 2], vec!["unlimited".into(); 2])
    );
    for fd in [1, 2] {
        assert_eq!(fs::read_link(format!("/proc/{now}/fd/{fd}")).expect("a descriptor").to_str(), Some("/dev/null"));
    }
    set(json!({"respawn": false}));
    send(pid(&agent, "web"), libc::SIGKILL);
    agent.comes_to("web", "stopped");
    set(json!({"singleton": true}));
    done(&agent, "start", &json!({"name": "web"}));
    agent.comes_to("web", "active");
    assert_eq!(agent.lease("web")["role"], "holder");
}

#[test]
fn add_takes_what_a_file_takes_and_no_empty_name() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}"));
    for name in ["", "  "] {
        refused(&agent, "add", &json!({"name": name, "cmd": "sleep 600"}));
    }
    let options = json!({
        "autostart": false, "priority": 7, "rlimit_nofile": 99, "shell": true, "shell_args": "zero one",
        "executable": "/bin/sh", "max_age": 3600, "after": "web",
    });
    let add = json!({"name": "new", "cmd": "sleep 600", "options": options, "start": true, "waiting": true});
    let started = done(&agent, "add", &add)["started"].clone();
    assert_eq!(started, json!([pid(&agent, "new")]));
    assert!(proc(pid(&agent, "new"), "limits").contains("Max open files            99 "));
    assert_eq!((option(&agent, "new", "autostart"), option(&agent, "new", "priority")), (json!(false), json!(7)));
}

// ------------------------------------------------------------------------------------------------- what a child sees

#[test]
fn a_shell_command_is_read_by_a_shell() {
    let home = Home::new();
    let out = home.file("out");
    let cmd = format!("echo one | tr a-z A-Z > {0}; echo $WORD >> {0}; exec sleep 600", out.display());
    let config = format!("[watcher:web]\ncmd = {cmd}\nshell = True\n[env:web]\nWORD = two");
    let agent = home.agent("a", &config);
    wait_for("both words", || (fs::read_to_string(&out).ok()? == "ONE\ntwo\n").then_some(()));
    assert_eq!(agent.watcher("web")["restarts"], 0);
}

#[test]
fn executable_is_executed() {
    let home = Home::new();
    let agent = home.agent("a", "[watcher:web]\ncmd = called-so 600\nexecutable = /bin/sleep\n");
    agent.comes_to("web", "active");
    wait_for("the program", || (proc(pid(&agent, "web"), "cmdline") == "called-so\n600\n").then_some(()));
}

#[test]
fn nothing_of_the_file_itself_is_in_a_childs_environment() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:web]\n{SLEEPS}stats_base_port = 8100\n[env:w*]\nA = 1"));
    agent.comes_to("web", "active");
    let environ = proc(pid(&agent, "web"), "environ");
    let names: BTreeSet<&str> = environ.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let given: Vec<&str> = names.into_iter().filter(|name| !name.starts_with("CIRCUS")).collect();
    assert_eq!(given, ["A"]);
    // A free-form key can be asked for, where Circus's `get` of one crashes.
    assert_eq!(option(&agent, "web", "stats_base_port"), "8100");
}

// ------------------------------------------------------------------------------------------------- statistics

#[test]
fn a_name_with_a_blank_and_a_dot_is_one_watcher() {
    let home = Home::new();
    let agent = home.agent("a", &format!("[watcher:Sleep 2.5]\n{SLEEPS}"));
    agent.comes_to("sleep 2.5", "active");
    done(&agent, "incr", &json!({"name": "SLEEP 2.5", "waiting": true}));
    let infos = done(&agent, "stats", &json!({}))["infos"].clone();
    let watchers: Vec<(&String, usize)> = infos
        .as_object()
        .expect("watchers")
        .iter()
        .map(|(watcher, infos)| (watcher, infos.as_object().map_or(0, serde_json::Map::len)))
        .collect();
    assert_eq!(watchers, [(&"Sleep 2.5".to_owned(), 2)]);
    let events = agent.ctl(&home, &["events", "--json"]).expect(0).out;
    let topics: BTreeSet<String> = events
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("an event")["topic"].as_str().expect("a topic").to_owned()
        })
        .collect();
    assert_eq!(topics, ["watcher.sleep_2.5.spawn", "watcher.sleep_2.5.start"].map(str::to_owned).into());
}

#[test]
fn a_process_that_outlives_its_signal_stays_in_the_statistics() {
    let home = Home::new();
    let agent = in_a_long_stop(&home, "");
    wait_for("the event of the signal", || {
        agent.ctl(&home, &["events", "--json"]).out.contains("watcher.slow.kill").then_some(())
    });
    let slow = pid(&agent, "slow");
    let info = done(&agent, "stats", &json!({"name": "slow"}))["info"].clone();
    assert_eq!(info[slow.to_string()]["pid"], slow);
}
