//! Which sockets a process gets, where it finds them, and what it is told of them.

use std::fs;
use std::net::SocketAddr;

use super::super::World;
use super::super::agent::{is_alive, parent_of, variable_of, wait_for};
use super::{is_closed, only, own_address, shared, socket_of, sockets_of, tcp, unix, variable, who};

#[test]
fn a_process_gets_the_sockets_that_it_names_in_that_order_and_no_other() {
    let world = World::new();
    let host = own_address();
    let path = world.file("admin.unix");
    let sockets = tcp("web", (host, 8000).into()) + &unix("admin", &path) + &tcp("other", (host, 8001).into());
    let watcher = |name: &str, more: &str| format!("[watcher:{name}]\ncmd = sleep 600\n{more}\n");
    let agent = world.listening(
        &[
            sockets,
            watcher("two", "sockets = web, admin\nsocket_env = none"),
            watcher("all", "use_sockets = True\nsocket_env = circus"),
            watcher("none", ""),
            watcher("stdin", "stdin_socket = web"),
            watcher("both", "sockets = admin\nstdin_socket = web\nsocket_env = none"),
        ]
        .concat(),
    );
    ["two", "all", "none", "stdin", "both"].iter().for_each(|watcher| agent.comes_to(watcher, "active"));
    let (there, pid) = (shared(&agent), |watcher: &str| only(&agent, watcher));
    let expected = |sockets: &[(u32, &str)]| sockets.iter().map(|(fd, name)| (*fd, there[*name].clone())).collect();
    for (watcher, sockets) in [
        ("two", &[(3, "web"), (4, "admin")][..]),
        ("all", &[(3, "admin"), (4, "other"), (5, "web")]),
        ("none", &[]),
        ("stdin", &[(0, "web")]),
        ("both", &[(0, "web"), (3, "admin")]),
    ] {
        // Before the program is executed there are ours.
        wait_for(watcher, || {
            let own = fs::read_to_string(format!("/proc/{}/comm", pid(watcher))).ok()?;
            (own == "sleep\n").then_some(())
        });
        assert_eq!(sockets_of(pid(watcher)), expected(sockets), "{watcher}");
    }
    assert_eq!(variable(pid("all"), "CIRCUS_SOCKETS"), "admin:other:web");
    assert_eq!(variable(pid("two"), "CIRCUS_WATCHER"), "two");
    assert_eq!(variable_of(pid("two"), "CIRCUS_SOCKETS"), None);
    world.end(agent);
    assert!(!path.exists());
}

#[test]
fn both_spellings_are_the_number_in_any_case_and_nothing_names_the_sockets_twice() {
    let world = World::new();
    let host = own_address();
    let run = world.teller("run", "");
    let config = [
        tcp("web", (host, 8000).into()),
        tcp("adm", (host, 8001).into()),
        format!(
            "[watcher:web]\ncmd = {run} --fd $(circus.sockets.WEB) ((circus.sockets.adm))\nargs = $(CIRCUS.sockets.web)\n\
             sockets = web, adm\n"
        ),
    ];
    let agent = world.listening(&config.concat());
    world.tells("up web#1", 1);
    agent.comes_to("web", "active");
    let pid = only(&agent, "web");
    let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().replace('\0', " ");
    assert!(words.ends_with(" --fd 3 4 3 "), "{words}");
    // gunicorn, for one, would close what it finds in its command line and in LISTEN_FDS twice.
    assert_eq!(variable(pid, "CIRCUS_SOCKET_WEB_FD"), "3");
    assert_eq!(variable_of(pid, "LISTEN_FDS"), None);
    assert_eq!(variable(pid, "EINHORN_FD_COUNT"), "2");
    world.end(agent);
}

#[test]
fn each_convention_says_where_they_are_with_the_pids_that_programs_compare() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 8000));
    let path = world.file("adm.unix");
    let config = [
        tcp("web", at),
        unix("adm", &path),
        "[watcher:web]\ncmd = sleep 600\nsockets = web, adm\nnumprocesses = 2\n\
         socket_env = circus, listen, einhorn, nginx, server-starter, unicorn, puma\n"
            .into(),
    ];
    let agent = world.listening(&config.concat());
    agent.comes_to("web", "active");
    let pids = agent.pids("web");
    for (index, pid) in pids.iter().enumerate() {
        for (name, value) in [
            ("CIRCUS_SOCKETS", "web:adm".to_owned()),
            ("CIRCUS_SOCKET_WEB_FD", "3".into()),
            ("CIRCUS_SOCKET_ADM_FD", "4".into()),
            ("LISTEN_FDS", "2".into()),
            ("LISTEN_PID", pid.to_string()),
            ("LISTEN_FDNAMES", "web:adm".into()),
            ("EINHORN_FD_COUNT", "2".into()),
            ("EINHORN_FD_0", "3".into()),
            ("EINHORN_FD_1", "4".into()),
            ("EINHORN_FDS", "3 4".into()),
            ("EINHORN_CHILD_INDEX", index.to_string()),
            ("EINHORN_MASTER_PID", agent.pid().to_string()),
            ("NGINX", "3;4;".into()),
            ("SERVER_STARTER_PORT", format!("{at}=3;{}=4", path.display())),
            ("UNICORN_FD", "3,4".into()),
            ("PUMA_INHERIT_0", format!("3:tcp://{at}")),
            ("PUMA_INHERIT_1", format!("4:unix://{}", path.display())),
        ] {
            assert_eq!(variable(*pid, name), value, "{name} of {pid}");
        }
        let line: u32 = variable(*pid, "EINHORN_SOCK_FD").parse().expect("a number");
        assert!(line > 4 && socket_of(*pid, line).is_some(), "EINHORN_SOCK_FD is {line}");
    }
    world.end(agent);
}

#[test]
fn a_server_behind_a_shell_finds_its_own_pid() {
    let world = World::new();
    let places = [8000, 8001].map(|port| SocketAddr::from((own_address(), port)));
    let server = world.server("");
    let config = [
        tcp("plain", places[0]),
        tcp("exec", places[1]),
        format!("[watcher:plain]\ncmd = {server} 2>&1\nshell = True\nsockets = plain\n"),
        format!("[watcher:exec]\ncmd = cd / && exec {server}\nshell = True\nsockets = exec\n"),
    ];
    let agent = world.listening(&config.concat());
    for (watcher, at) in ["plain", "exec"].iter().zip(places) {
        // The server compares LISTEN_PID before it listens.
        assert_eq!(who(at), format!("{watcher}#1 {}", only(&agent, watcher)));
    }
    assert!(!agent.log().contains("LISTEN_PID"), "{}", agent.log());
    world.end(agent);
}

#[test]
fn a_singleton_serves_on_a_socket_that_its_guard_does_not_keep() {
    let world = World::new();
    let at = SocketAddr::from((own_address(), 8000));
    let config = tcp("web", at)
        + &format!(
            "[watcher:web]\ncmd = {}\nsingleton = True\nlease_ttl = 3\nsockets = web\ncopy_env = True\n",
            world.server("")
        );
    let mut agent = world.listening(&config);
    agent.comes_to("web", "active");
    let pid = only(&agent, "web");
    assert_eq!(who(at), format!("web#1 {pid}"));
    let guard = parent_of(pid).expect("a guard");
    assert_ne!(guard, agent.pid());
    // The library of einhorn's compares this one with its parent.
    assert_eq!(variable(pid, "EINHORN_MASTER_PID"), guard.to_string());
    let socket = shared(&agent)["web"].clone();
    assert!(sockets_of(pid).values().any(|own| *own == socket));
    assert!(!sockets_of(guard).values().any(|own| *own == socket), "{:?}", sockets_of(guard));
    // With the agent goes the child; nobody listens any more.
    agent.kill();
    wait_for("the child's end", || (!is_alive(pid)).then_some(()));
    is_closed(at);
    world.is_clean();
}

#[test]
fn what_the_agent_was_told_of_sockets_reaches_no_process() {
    let world = World::new();
    let others = [
        ("LISTEN_FDS", "2"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDNAMES", "a:b"),
        ("EINHORN_FD_COUNT", "1"),
        ("EINHORN_FD_0", "7"),
        ("EINHORN_MASTER_PID", "1"),
        ("EINHORN_SOCK_PATH", "/nowhere"),
        ("GUNICORN_FD", "3"),
        ("GUNICORN_PID", "1"),
        ("SERVER_STARTER_PORT", "80=3"),
        ("NGINX", "3;"),
        ("UNICORN_FD", "3"),
        ("PUMA_INHERIT_0", "3:tcp://0.0.0.0:80"),
    ];
    let with_more: Vec<(&str, &str)> = others.iter().copied().chain([("CANARY", "sings")]).collect();
    let config = tcp("web", (own_address(), 8000).into())
        + "[watcher:plain]\ncmd = sleep 600\ncopy_env = True\n\
           [watcher:web]\ncmd = sleep 600\ncopy_env = True\nsockets = web\nsocket_env = circus\n";
    let agent = world.agent_with("a", &config, &with_more);
    for watcher in ["plain", "web"] {
        agent.comes_to(watcher, "active");
        let pid = only(&agent, watcher);
        assert_eq!(variable(pid, "CANARY"), "sings");
        for (name, _) in others {
            assert_eq!(variable_of(pid, name), None, "{name} of {watcher}");
        }
    }
    world.end(agent);
}
