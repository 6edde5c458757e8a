//! `ready`, `after` and `health`: when a process counts, and what happens when it does not any more.

use std::fs;
use std::net::TcpListener;

use super::agent::{is_alive, wait_for};
use super::{World, words};

/// A port of 127.0.0.1 that nobody listens to just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

#[test]
fn what_comes_after_waits_for_each_kind_of_readiness() {
    let world = World::new();
    let (tcp, http) = (free_port(), free_port());
    let first = [
        ("timer", "ready = timer 0.3".to_owned(), ":".to_owned()),
        ("notify", "ready = notify".into(), "gate go; systemd-notify --ready --status=steaming".into()),
        (
            "log",
            "ready = log listening on \\d+\nstdout_stream.class = QueueStream".into(),
            "gate go; echo listening on 80".into(),
        ),
        (
            "tcp",
            format!("ready = tcp {tcp}"),
            format!("gate go; exec python3 -I -S -m http.server --bind 127.0.0.1 {tcp}"),
        ),
        (
            "http",
            format!("ready = http {http}/"),
            format!("gate go; exec python3 -I -S -m http.server --bind 127.0.0.1 {http}"),
        ),
        ("cmd", format!("ready = cmd test -e {}", world.file("gate.go").display()), ":".into()),
    ];
    let plain = world.teller("plain", "");
    let mut config = String::new();
    for (name, ready, program) in &first {
        let command = world.teller(name, program);
        config += &format!(
            "[watcher:{name}]\ncmd = {command}\n{ready}\ncopy_env = True\nworking_dir = {}\n",
            world.path().display()
        );
        config += &format!("[watcher:after-{name}]\ncmd = {plain}\nafter = {name}\n");
    }
    let agent = world.agent("a", &config);
    for (name, ..) in &first {
        world.tells(&format!("up {name}#1"), 1);
    }
    for (name, ..) in &first[1..] {
        assert_eq!(agent.watcher(name)["state"], "starting", "{name}");
        assert_eq!(agent.watcher(name)["processes"][0]["state"], "starting", "{name}");
        assert_eq!(agent.note(&format!("after-{name}")), format!("waits for {name}"));
        assert!(!world.told().contains(&format!("up after-{name}#1")), "{name}");
    }
    agent.ctl(&world, &["status"]).expect(3);
    world.open("go");
    for (name, ..) in &first {
        agent.comes_to(name, "active");
        agent.comes_to(&format!("after-{name}"), "active");
        world.tells(&format!("up after-{name}#1"), 1);
    }
    assert_eq!(agent.watcher("notify")["processes"][0]["status"], "steaming");
    agent.ctl(&world, &["status"]).expect(0);

    // They stop in the reverse order.
    world.end(agent);
    let told = world.told();
    let at = |line: &str| told.iter().position(|told| told == line).unwrap_or_else(|| panic!("no {line} in {told:?}"));
    for name in ["timer", "notify", "log", "cmd"] {
        assert!(at(&format!("down after-{name}#1")) < at(&format!("down {name}#1")), "{name}: {told:?}");
    }
}

#[test]
fn who_is_not_ready_in_time_is_replaced_and_the_last_reason_shows() {
    let world = World::new();
    let command = world.teller("web", "");
    let port = free_port();
    let agent = world.agent("a", &format!("[watcher:web]\ncmd = {command}\nready = tcp {port}\nready_timeout = 0.2\n"));
    world.tells("up web#1", 2);
    agent.notes("web", &format!("not ready within 0.2 s (tcp 127.0.0.1:{port}): "));
    agent.ctl(&world, &["status", "web"]).expect(3);
    // Somebody who listens there makes it ready, be it who it may.
    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    agent.comes_to("web", "active");
    world.end(agent);
}

#[test]
fn an_unwell_process_is_replaced_or_signalled_or_only_reported_as_its_settings_say() {
    let world = World::new();
    let command = world.teller("run", "");
    let well = world.file("well");
    fs::write(&well, "").unwrap();
    let check = format!("health = cmd test -e {}\nhealth_interval = 0.05\nhealth_retries = 2\n", well.display());
    let config = ["restart", "signal HUP", "report"].map(|action| {
        let name = action.split(' ').next().unwrap();
        format!("[watcher:{name}]\ncmd = {command}\n{check}health_action = {action}\n")
    });
    let agent = world.agent("a", &config.concat());
    for name in ["restart", "signal", "report"] {
        world.tells(&format!("up {name}#1"), 1);
        agent.comes_to(name, "active");
    }
    let (kept, replaced) = ([agent.pids("signal"), agent.pids("report")], agent.pids("restart"));
    let mut events = agent.events("restart");
    fs::remove_file(&well).unwrap();
    agent.comes_to("report", "unhealthy");
    agent.notes("report", "#1: exit 1");
    agent.ctl(&world, &["status"]).expect(3);
    world.tells("hup signal#1", 1);
    world.tells("up restart#1", 2);
    assert_eq!(words(&mut events, "spawn"), ["kill", "reap", "spawn"]);
    agent.logs("unwell: exit 1");
    assert!(!is_alive(replaced[0]));
    fs::write(&well, "").unwrap();
    for name in ["restart", "signal", "report"] {
        agent.comes_to(name, "active");
    }
    assert_eq!([agent.pids("signal"), agent.pids("report")], kept);
    assert_eq!(world.told().iter().filter(|line| *line == "hup signal#1").count(), 1, "once, until it is well again");
    assert!(agent.watcher("restart")["restarts"].as_u64().unwrap() >= 1);
    world.end(agent);
}

#[test]
fn who_stops_to_feed_its_watchdog_is_replaced() {
    let world = World::new();
    let fed = world.file("fed");
    fs::write(&fed, "").unwrap();
    // In one process: each systemd-notify would take longer than the interval on a busy machine.
    let program = format!(
        "exec python3 -I -S -c 'import os, socket, time\n\
         line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         line.connect(os.environ[\"NOTIFY_SOCKET\"])\n\
         line.send(b\"READY=1\")\n\
         while True:\n\
         \x20   if os.path.exists(\"{}\"): line.send(b\"WATCHDOG=1\")\n\
         \x20   time.sleep(0.02)'",
        fed.display()
    );
    let command =
        world.teller("dog", &format!("echo interval $WATCHDOG_USEC >>{}; {program}", world.journal().display()));
    let config = format!(
        "[watcher:dog]\ncmd = {command}\ncopy_env = True\nready = notify\nhealth = notify\nhealth_interval = 0.5\nhealth_retries = 1\n"
    );
    let agent = world.agent("a", &config);
    world.tells("interval 500000", 1);
    agent.comes_to("dog", "active");
    let first = agent.pids("dog");
    fs::remove_file(&fed).unwrap();
    agent.logs("no sign of life (notify) for 0.5 s");
    wait_for("its end", || (!is_alive(first[0])).then_some(()));
    fs::write(&fed, "").unwrap();
    wait_for("another one that is well", || {
        (agent.watcher("dog")["state"] == "active" && agent.pids("dog") != first).then_some(())
    });
    world.end(agent);
}
