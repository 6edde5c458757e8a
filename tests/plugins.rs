//! Circus's plugins, end to end: real agents with real ini files, real processes, and what the plugins do about them.
//!
//! The names of these tests are the defects of Circus's plugins, mended.

#![allow(clippy::print_stdout)] // How an agent ended is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;

use agent::{Agent, Home, PATIENCE, is_alive, send, wait_for};
use redis_server::RedisServer;

/// The pids of a watcher's running processes.
fn pids(agent: &Agent, watcher: &str) -> Vec<u32> {
    let processes = agent.watcher(watcher)["processes"].clone();
    let running = processes.as_array().into_iter().flatten().filter(|process| process["state"] == "running");
    running.filter_map(|process| u32::try_from(process["pid"].as_u64()?).ok()).collect()
}

/// Waits until a watcher runs so many processes, all of them others than `old`.
#[track_caller]
fn new_pids(agent: &Agent, watcher: &str, count: usize, old: &[u32]) -> Vec<u32> {
    wait_for(&format!("{count} new processes of {watcher}"), || {
        let pids = pids(agent, watcher);
        (pids.len() == count && !pids.iter().any(|pid| old.contains(pid))).then_some(pids)
    })
}

/// A UDP socket of the test's own, and its port.
fn udp() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let port = socket.local_addr().expect("an address").port();
    (socket, port)
}

/// Reads datagrams until each of `wanted` has begun one.
#[track_caller]
fn receives(statsd: &UdpSocket, wanted: &[&str]) {
    let mut left = wanted.to_vec();
    let mut seen = Vec::new();
    let mut datagram = [0; 1000];
    while !left.is_empty() {
        let length = statsd.recv(&mut datagram).unwrap_or_else(|error| panic!("{error}: no {left:?} in {seen:?}"));
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        left.retain(|start| !text.starts_with(start));
        seen.push(text);
    }
}

/// Has `bad` flap until the plugin stops it, which thus has seen all that happened before.
#[track_caller]
fn flaps(agent: &Agent) {
    let seen = |agent: &Agent| agent.log().matches("bad: flapping").count();
    let before = seen(agent);
    agent.ask(&json!({"command": "start", "properties": {"name": "bad"}}));
    wait_for("flapping that is seen", || (seen(agent) > before).then_some(()));
    agent.comes_to("bad", "stopped");
}

const FLAPPING: &str = "\n[plugin:flapping]\nuse = circus.plugins.flapping.Flapping\n";
/// Ends at once, which is too soon.
const BAD: &str = "\n[watcher:bad]\ncmd = /bin/sh -c 'exit 3'\n";

#[test]
fn flapping_is_stopped_while_another_watcher_takes_its_time_to_stop() {
    let home = Home::new();
    let stubborn = home.script("stubborn", "trap '' TERM\necho > $1\nwhile :; do sleep 1; done\n");
    let deaf = home.file("deaf");
    let slow = format!("\n[watcher:slow]\ncmd = {stubborn} {}\ngraceful_timeout = 60\n", deaf.display());
    let bad = format!("{BAD}autostart = False\n");
    let agent = home.agent("a", &format!("{FLAPPING}retry_in = 0.1\nmax_retry = 1\n{slow}{bad}"));
    wait_for("a process that is deaf to SIGTERM", || deaf.exists().then_some(()));
    // From here on a stop is under way.
    agent.ask(&json!({"command": "stop", "properties": {"name": "slow"}}));
    agent.comes_to("plugin:flapping", "active");
    agent.ask(&json!({"command": "start", "properties": {"name": "bad"}}));
    agent.logs(
        "plugin:flapping: bad: flapping: slot 1 ended 2 times within 1 s of running; stopped, starts again in 0.1 s",
    );
    agent.logs("bad: has rested; starting it");
    agent.logs("max_retry = 1 is used up, so that it stays stopped");
    agent.comes_to("bad", "stopped");
    assert_eq!(agent.watcher("slow")["state"], "stopping");
}

#[test]
fn flapping_leaves_alone_what_is_stopped_restarted_and_reloaded_by_hand() {
    let home = Home::new();
    let web = "\n[watcher:web]\ncmd = sleep 1000\nnumprocesses = 4\n";
    let bad = format!("{BAD}autostart = False\n");
    let agent = home.agent("a", &format!("{FLAPPING}retry_in = 0\nmax_retry = 0\n{web}{bad}"));
    flaps(&agent);
    for command in ["restart", "reload", "stop"] {
        let reply = agent.ask(&json!({"command": command, "properties": {"name": "web", "waiting": true}}));
        assert_eq!(reply["status"], "ok", "{reply}");
    }
    flaps(&agent);
    assert!(!agent.log().contains("web: flapping"), "{}", agent.log());
    assert_eq!(agent.watcher("web")["state"], "stopped");
}

#[test]
fn a_watcher_that_someone_starts_while_it_rests_is_theirs() {
    let home = Home::new();
    let agent = home.agent("a", &format!("{FLAPPING}retry_in = 3600\n{BAD}"));
    agent.logs("bad: flapping");
    agent.comes_to("bad", "stopped");
    // Whoever mends the cause starts it by hand.
    let set = json!({"name": "bad", "options": {"cmd": "sleep 1000"}, "waiting": true});
    agent.ask(&json!({"command": "set", "properties": set}));
    agent.ask(&json!({"command": "start", "properties": {"name": "bad", "waiting": true}}));
    agent.logs("bad: start by someone else");
    agent.comes_to("bad", "active");
}

#[test]
fn a_watcher_that_someone_stops_while_it_rests_is_not_started_again() {
    let home = Home::new();
    let agent = home.agent("a", &format!("{FLAPPING}retry_in = 3600\n{BAD}"));
    agent.logs("bad: flapping");
    agent.comes_to("bad", "stopped");
    agent.ask(&json!({"command": "stop", "properties": {"name": "bad", "waiting": true}}));
    agent.logs("bad: stop by someone else");
}

#[test]
fn flapping_counts_slots_and_not_their_healthy_siblings() {
    let home = Home::new();
    let web = "\n[watcher:web]\ncmd = sleep 1000\nnumprocesses = 5\n";
    let bad = format!("{BAD}autostart = False\n");
    let agent = home.agent("a", &format!("{FLAPPING}max_retry = 0\n{web}{bad}"));
    flaps(&agent);
    let old = new_pids(&agent, "web", 5, &[]);
    old.iter().for_each(|pid| send(*pid, libc::SIGKILL));
    new_pids(&agent, "web", 5, &old);
    flaps(&agent);
    assert!(!agent.log().contains("web: flapping"), "{}", agent.log());
}

#[test]
fn a_watchers_own_flapping_options_count() {
    let home = Home::new();
    let bad = format!("{BAD}flapping.attempts = 3\nflapping.max_retry = 0\n");
    let agent = home.agent("a", &format!("{FLAPPING}attempts = 900\n{bad}"));
    agent.logs(
        "bad: flapping: slot 1 ended 3 times within 1 s of running; max_retry = 0 is used up, so that it stays stopped",
    );
    agent.comes_to("bad", "stopped");
}

#[test]
fn resource_watcher_restarts_what_uses_too_much_and_says_how_much() {
    let home = Home::new();
    let plugin = "\n[plugin:mem]\nuse = circus.plugins.resource_watcher.ResourceWatcher\nwatcher = web\nmax_mem = 1K\n\
                  max_count = 1\nloop_rate = 0.1\n";
    let agent = home.agent("a", &format!("{plugin}\n[watcher:web]\ncmd = sleep 1000\n"));
    let old = new_pids(&agent, "web", 1, &[]);
    new_pids(&agent, "web", 1, &old);
    agent.logs(&format!("plugin:mem: web: over_memory: pid {} uses ", old[0]));
    agent.logs("max_mem is 0.0M, 2 times in a row; restarting it");
}

#[test]
fn resource_watcher_signals_the_child_and_not_its_parents() {
    let home = Home::new();
    let plugin = "\n[plugin:mem]\nuse = circus.plugins.resource_watcher.ResourceWatcher\nwatcher = web\nmax_mem = 12M\n\
                  max_cpu = 0\nhealth_threshold = 0\nmax_count = 0\nloop_rate = 0.1\nprocess_children = 1\n\
                  child_signal = KILL\n";
    // tail keeps the last line, of which there is no end.
    let greedy = home.script(
        "greedy",
        "(head -c 30000000 /dev/zero; exec sleep 1000) | tail -n 1 & echo $! > tail\nwait\nexec sleep 1000\n",
    );
    let dir = home.path().display();
    let web = format!("\n[watcher:web]\ncmd = {greedy}\nnumprocesses = 2\nworking_dir = {dir}\n");
    let agent = home.agent("a", &format!("{plugin}{web}"));
    let parents = new_pids(&agent, "web", 2, &[]);
    agent.logs("web: over_memory: pid ");
    agent.logs("1 times in a row; sending SIGKILL to this child of ");
    wait_for("the child's end", || {
        let pid = fs::read_to_string(home.file("tail")).ok()?.trim().parse().ok()?;
        (!is_alive(pid)).then_some(())
    });
    assert_eq!(pids(&agent, "web"), parents);
}

#[test]
fn statsd_is_told_events_and_figures_under_circuss_names() {
    let home = Home::new();
    let (statsd, port) = udp();
    let to = format!("host = 127.0.0.1\nport = {port}\napplication_name = shop\n");
    let plugins = format!(
        "\n[plugin:events]\nuse = circus.plugins.statsd.StatsdEmitter\n{to}\
         \n[plugin:figures]\nuse = circus.plugins.statsd.FullStats\nloop_rate = 0.1\n{to}"
    );
    let watchers = "\n[watcher:web.1]\ncmd = sleep 1000\n\n[watcher:late]\ncmd = sleep 1000\nautostart = False\n";
    let agent = home.agent("a", &format!("{plugins}{watchers}"));
    agent.comes_to("plugin:events", "active");
    let figures = ["watchers_num:1|g", "cpu_max:", "mem_pct_sum:", "mem_max:", "mem_sum:"]
        .map(|name| format!("circus.shop.watcher._stats.web_1.{name}"));
    receives(&statsd, &figures.each_ref().map(String::as_str));
    agent.ask(&json!({"command": "start", "properties": {"name": "late"}}));
    receives(&statsd, &["circus.shop.watcher.late.spawn:1|c", "circus.shop.watcher.late.start:1|c"]);
}

/// A server that says this to everybody, for as long as the test lasts.
fn http(answer: &'static str) -> u16 {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = server.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut client in server.incoming().flatten() {
            let _ = client.read(&mut [0; 1000]);
            let _ = client.write_all(answer.as_bytes());
        }
    });
    port
}

#[test]
fn http_observer_times_a_page_and_restarts_what_does_not_serve_it() {
    let home = Home::new();
    let (statsd, port) = udp();
    let to = format!("host = 127.0.0.1\nport = {port}\nloop_rate = 0.1\n");
    let well = http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let ill = http("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let plugins = format!(
        "\n[plugin:well]\nuse = circus.plugins.http_observer.HttpObserver\ncheck_url = http://127.0.0.1:{well}/\n{to}\
         \n[plugin:ill]\nuse = circus.plugins.http_observer.HttpObserver\ncheck_url = http://127.0.0.1:{ill}/x\n\
         restart_on_error = web\n{to}"
    );
    let agent = home.agent("a", &format!("{plugins}\n[watcher:web]\ncmd = sleep 1000\n"));
    let old = new_pids(&agent, "web", 1, &[]);
    new_pids(&agent, "web", 1, &old);
    let told = ["request_time:", "error:1|c", "error.503:1|c", "restart_on_error:1|c"]
        .map(|name| format!("circus.http_observer.watcher.http_stats.{name}"));
    receives(&statsd, &told.each_ref().map(String::as_str));
    // What is stopped by hand is not the observer's to start.
    agent.ask(&json!({"command": "stop", "properties": {"name": "web", "waiting": true}}));
    agent.logs("plugin:ill: web: is stopped, and stays so");
    assert_eq!(agent.watcher("web")["state"], "stopped");
}

#[test]
fn redis_observer_tells_of_redis_and_restarts_what_is_silent() {
    let home = Home::new();
    let redis = RedisServer::start();
    let (statsd, port) = udp();
    // Connections are made, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent.local_addr().expect("an address").port();
    let to = format!("host = 127.0.0.1\nport = {port}\nloop_rate = 0.1\ntimeout = 0.1\n");
    let plugins = format!(
        "\n[plugin:well]\nuse = circus.plugins.redis_observer.RedisObserver\nredis_url = redis://127.0.0.1:{}/0\n{to}\
         \n[plugin:ill]\nuse = circus.plugins.redis_observer.RedisObserver\nredis_url = redis://127.0.0.1:{silent_port}/0\n\
         restart_on_timeout = web\n{to}",
        redis.port()
    );
    let agent = home.agent("a", &format!("{plugins}\n[watcher:web]\ncmd = sleep 1000\n"));
    let old = new_pids(&agent, "web", 1, &[]);
    new_pids(&agent, "web", 1, &old);
    let told = ["connected_clients:", "used_memory:", "uptime_in_seconds:", "error:1|c", "restart_on_error:1|c"]
        .map(|name| format!("circus.redis_observer.watcher.redis_stats.{name}"));
    receives(&statsd, &told.each_ref().map(String::as_str));
}

#[test]
fn command_reloader_understands_commands_with_arguments_and_survives_a_bad_one() {
    let home = Home::new();
    let tool = home.file("my tool");
    let replace = || {
        let new = home.file("new");
        fs::copy("/bin/sleep", &new).expect("a program");
        fs::rename(&new, &tool).expect("a program in its place");
    };
    replace();
    let watchers = format!(
        "\n[watcher:web]\ncmd = '{}' 1000\n\n[watcher:other]\ncmd = sleep 1000\n\n[watcher:bad]\ncmd = no-such-program -x\n\
         autostart = False\n",
        tool.display()
    );
    let plugin = "\n[plugin:reload]\nuse = circus.plugins.command_reloader.CommandReloader\nloop_rate = 0.1\n";
    let agent = home.agent("a", &format!("{plugin}{watchers}"));
    let (web, other) = (new_pids(&agent, "web", 1, &[]), new_pids(&agent, "other", 1, &[]));
    // It has looked at all of them.
    agent.logs("plugin:reload: bad: its program cannot be looked at: no-such-program: not found");
    replace();
    new_pids(&agent, "web", 1, &web);
    agent.logs("my tool was modified; restarting it");
    assert_eq!(pids(&agent, "other"), other);
}

#[test]
fn watchdog_kills_each_silent_process_and_no_other() {
    let home = Home::new();
    // Taken only for a moment: nobody else in this test wants one.
    let port = udp().1;
    let plugin = format!(
        "\n[plugin:dog]\nuse = circus.plugins.watchdog.WatchDog\nloop_rate = 0.2\nmax_count = 3\nport = {port}\n\
         watchers_regex = w\nmsg_regex = ^alive ::: (?P<pid>[0-9]+) of (?P<what>.*)$\nwatchers_stop_signal = KILL\n"
    );
    let watchers = "\n[watcher:web]\ncmd = sleep 1000\nnumprocesses = 3\n\n[watcher:other]\ncmd = sleep 1000\n";
    let agent = home.agent("a", &format!("{plugin}{watchers}"));
    let (web, other) = (new_pids(&agent, "web", 3, &[]), new_pids(&agent, "other", 1, &[]));
    let heart = UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
    wait_for("the two silent ones to be replaced", || {
        // Refused until the watchdog listens.
        let _ = heart.send_to(format!("alive ::: {} of web\n", web[0]).as_bytes(), ("127.0.0.1", port));
        let now = pids(&agent, "web");
        (now.len() == 3 && !now.contains(&web[1]) && !now.contains(&web[2])).then_some(())
    });
    for silent in &web[1..] {
        agent.logs(&format!("plugin:dog: web: {silent} was silent for "));
    }
    assert!(pids(&agent, "web").contains(&web[0]), "{}", agent.log());
    assert_eq!(pids(&agent, "other"), other);
}

#[test]
fn a_plugin_that_is_stopped_ends_in_order() {
    let home = Home::new();
    let agent = home.agent("a", &format!("{FLAPPING}retry_in = 3600\n{BAD}"));
    agent.comes_to("bad", "stopped");
    agent.ask(&json!({"command": "stop", "properties": {"name": "plugin:flapping", "waiting": true}}));
    agent.logs("plugin:flapping: bad: was to start again in ");
    assert_eq!(agent.watcher("plugin:flapping")["last_exit"]["text"], "exit 0");
}

#[test]
fn an_inactive_plugin_stays_and_does_nothing() {
    let home = Home::new();
    let agent = home.agent("a", &format!("{FLAPPING}active = False\n{BAD}"));
    agent.logs("plugin:flapping: inactive, as its section says");
    wait_for("a process that ends and ends", || (agent.watcher("bad")["restarts"].as_u64()? > 3).then_some(()));
    assert!(!agent.log().contains("bad: flapping"), "{}", agent.log());
    assert_eq!(agent.watcher("plugin:flapping")["restarts"], 0);
}

/// The program itself as a plugin, of an agent that is not there.
fn alone(home: &Home, args: &[&str], options: &str) -> Command {
    let mut plugin = home.program(args);
    plugin.arg0("circus-plugin").env("CIRCUS_PLUGIN_OPTIONS", options);
    plugin.env("CIRCUSCTL_ENDPOINT", format!("unix://{}", home.file("none.sock").display()));
    plugin.stdout(Stdio::piped()).stderr(Stdio::piped());
    plugin
}

#[test]
fn options_that_make_no_sense_are_a_configuration_error() {
    let home = Home::new();
    let said = |args: &[&str], options: &str| {
        let output = alone(&home, args, options).output().expect("a plugin");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let flapping = ["fl", "circus.plugins.flapping.Flapping"];
    let (code, text) = said(&flapping, r#"{"window": "soon", "attempts": "-1"}"#);
    assert_eq!(code, Some(78), "{text}");
    assert_eq!(
        text,
        "error: [plugin:fl] attempts must be a number from 1 to 1000\nerror: [plugin:fl] window must be a time: \
         seconds, or a number with ms, s, m or h\n"
    );
    assert_eq!(said(&flapping, "[]").0, Some(78));
    assert_eq!(said(&["fl", "my.Plugin"], "{}").0, Some(78));
    assert_eq!(said(&["fl"], "{}").0, Some(64));
}

#[test]
fn a_plugin_whose_agent_is_away_waits_and_ends_when_it_is_told_to() {
    let home = Home::new();
    let mut plugin = alone(&home, &["fl", "circus.plugins.flapping.Flapping"], "{}").spawn().expect("a plugin");
    wait_for("a plugin that listens to SIGTERM", || {
        let status = fs::read_to_string(format!("/proc/{}/status", plugin.id())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & (1 << (libc::SIGTERM - 1)) != 0).then_some(())
    });
    send(plugin.id(), libc::SIGTERM);
    let end = wait_for("its end", || plugin.try_wait().expect("a child"));
    assert_eq!(end.code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_said_with_its_number() {
    let home = Home::new();
    let (_taken, port) = udp();
    let options = json!({"port": port.to_string()}).to_string();
    let output = alone(&home, &["dog", "circus.plugins.watchdog.WatchDog"], &options).output().expect("a plugin");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains(&format!("cannot listen for heartbeats at UDP 127.0.0.1:{port}: ")), "{text}");
}
