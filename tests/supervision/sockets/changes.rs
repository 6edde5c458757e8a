//! Sockets that come, move, change and go while processes run: by the file, and by commands.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::World;
use super::super::agent::{Agent, is_alive, wait_for};
use super::{Client, descriptors, is_closed, is_gone, names, only, own_address, shared, tcp, unix, who, who_at};

/// A watcher of the server that has the socket of its own name.
fn serves(world: &World, name: &str) -> String {
    format!("[watcher:{name}]\ncmd = {}\nsockets = {name}\n", world.server(""))
}

/// How many may wait at a socket, as the kernel has it.
#[track_caller]
fn backlog(at: SocketAddr) -> String {
    Client::connect(at).and_then(|mut client| client.ask("backlog")).expect("an answer")
}

/// Whether `accept` waits at a socket, as the kernel has it.
#[track_caller]
fn is_blocking(agent: &Agent, socket: &str) -> bool {
    let descriptor = descriptors(agent)[socket];
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{descriptor}", agent.pid())).expect("a descriptor");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags");
    i32::from_str_radix(flags.trim(), 8).expect("an octal number") & libc::O_NONBLOCK == 0
}

#[test]
fn a_changed_file_adds_moves_adjusts_and_removes_sockets_and_only_who_has_them_is_replaced() {
    let world = World::new();
    let host = own_address();
    let at = |port: u16| SocketAddr::from((host, port));
    let (before, after) = (world.file("before.unix"), world.file("after.unix"));
    let all = |names: &[&str]| names.iter().map(|name| serves(&world, name)).collect::<String>();
    let bystander = "[watcher:bystander]\ncmd = sleep 600\n";
    let kept = tcp("kept", at(1000));
    let first = [
        kept.clone(),
        tcp("moved", at(1001)),
        tcp("tuned", at(1002)) + "backlog = 64\n",
        unix("path", &before),
        tcp("old", at(1003)),
        all(&["kept", "moved", "tuned", "path", "old"]),
        bystander.into(),
    ];
    let agent = world.listening(&first.concat());
    let same = ["kept", "tuned", "bystander"];
    let replaced = ["moved", "path"];
    for watcher in same.iter().chain(&replaced).chain(&["old"]) {
        agent.comes_to(watcher, "active");
    }
    let pids = |watchers: &[&str]| watchers.iter().map(|watcher| only(&agent, watcher)).collect::<Vec<_>>();
    let (stay, go, there) = (pids(&same), pids(&replaced), shared(&agent));
    assert_eq!((backlog(at(1002)), is_blocking(&agent, "tuned")), ("64".into(), false));

    let second = [
        kept,
        tcp("moved", at(1011)),
        tcp("tuned", at(1002)) + "backlog = 99\nblocking = True\n",
        unix("path", &after),
        tcp("new", at(1004)),
        all(&["kept", "moved", "tuned", "path", "new"]),
        bystander.into(),
    ];
    world.configure("a", &second.concat());
    let plan = agent.ctl(&world, &["plan"]).expect(0).out;
    for line in [
        "~ socket moved   moves, and the processes that have it are replaced\n      port   1001 → 1011\n",
        "+ socket new     opens\n",
        "- socket old     closes, and the processes that have it are replaced\n",
        "~ socket path    moves, and the processes that have it are replaced\n",
        "~ socket tuned   no restart\n",
        "backlog    64 → 99\n",
        "blocking   (none) → True\n",
        "+ new            starts 1 process\n",
        "- old            stops 1 process\n",
    ] {
        assert!(plan.contains(line), "{line:?} is missing in:\n{plan}");
    }
    assert!(!plan.contains("kept") && !plan.contains("bystander"), "{plan}");
    assert_eq!((shared(&agent), pids(&same)), (there.clone(), stay.clone()), "a plan changes nothing");

    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    assert_eq!(pids(&same), stay);
    assert!(!go.iter().any(|pid| is_alive(*pid)), "{go:?}");
    for (watcher, port) in [("kept", 1000), ("moved", 1011), ("tuned", 1002), ("new", 1004)] {
        assert!(who(at(port)).starts_with(&format!("{watcher}#")), "{watcher}: {}", who(at(port)));
    }
    assert!(who_at(&after).starts_with("path#"));
    is_gone(&before);
    [1001, 1003].map(at).into_iter().for_each(is_closed);
    // The kernel has it, in the very socket that was there.
    assert_eq!((backlog(at(1002)), is_blocking(&agent, "tuned")), ("99".into(), true));
    let now = shared(&agent);
    assert_eq!((&now["kept"], &now["tuned"]), (&there["kept"], &there["tuned"]));
    assert_eq!(agent.ctl(&world, &["plan"]).expect(0).out, "nothing to do\n");
    world.end(agent);
    assert!(!after.exists());
}

#[test]
fn a_file_with_a_socket_that_cannot_be_had_changes_nothing_and_says_why() {
    let world = World::new();
    let host = own_address();
    let taken = SocketAddr::from((host, 1000));
    let other = TcpListener::bind(taken).unwrap();
    let at = SocketAddr::from((host, 1001));
    let web = serves(&world, "web");
    let agent = world.listening(&(tcp("web", at) + &web));
    agent.comes_to("web", "active");
    let (pid, there) = (only(&agent, "web"), shared(&agent));

    // What else is in the file is not applied either.
    let path = world.file("new.unix");
    let more = [tcp("web", taken), unix("new", &path), web, "[watcher:new]\ncmd = sleep 600\n".into()];
    world.configure("a", &more.concat());
    let said = agent.ctl(&world, &["reloadconfig"]).expect(1);
    let why = format!("socket web: cannot listen on {taken}: EADDRINUSE: ");
    assert!(said.err.contains(&why) && said.err.contains(&format!("(pid {}) listens there", std::process::id())));
    agent.signal(libc::SIGHUP);
    wait_for("the log to say it, too", || (agent.log().matches(&why).count() == 2).then_some(()));
    assert_eq!((only(&agent, "web"), shared(&agent)), (pid, there));
    assert_eq!((who(at), path.exists()), (format!("web#1 {pid}"), false));
    assert_eq!(agent.ctl(&world, &["list"]).expect(0).out, "web\n");

    // As soon as it can be had, the same file is good.
    drop(other);
    agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
    assert!(who(taken).starts_with("web#") && path.exists());
    world.end(agent);
}

#[test]
fn two_sockets_change_places_and_no_client_notices_but_by_the_answers() {
    let world = World::new();
    let host = own_address();
    let places = [1000, 1001].map(|port| SocketAddr::from((host, port)));
    let config = |one: usize, two: usize| {
        [tcp("one", places[one]), tcp("two", places[two]), serves(&world, "one"), serves(&world, "two")].concat()
    };
    let agent = world.listening(&config(0, 1));
    ["one", "two"].iter().zip(places).for_each(|(watcher, at)| assert!(who(at).starts_with(watcher)));
    let (over, all_ask) = (AtomicBool::new(false), Barrier::new(places.len() + 1));
    let answers = thread::scope(|scope| {
        let client = |at: SocketAddr| {
            let (over, all_ask) = (&over, &all_ask);
            scope.spawn(move || {
                let mut answers = vec![who(at)];
                all_ask.wait();
                while !over.load(Ordering::Relaxed) {
                    answers.push(who(at));
                }
                answers
            })
        };
        let clients = places.map(client);
        all_ask.wait();
        world.configure("a", &config(1, 0));
        agent.ctl(&world, &["reloadconfig", "--waiting"]).expect(0);
        over.store(true, Ordering::Relaxed);
        clients.map(|client| client.join().expect("an answer to each"))
    });
    for (answers, (before, after)) in answers.iter().zip([("one", "two"), ("two", "one")]) {
        let by: BTreeSet<&str> = answers.iter().filter_map(|answer| answer.split('#').next()).collect();
        assert!(by.contains(before), "{by:?}");
        assert!(answers.last().is_some_and(|answer| answer.starts_with(after)), "{answers:?}");
    }
    assert!(who(places[0]).starts_with("two#") && who(places[1]).starts_with("one#"));
    world.end(agent);
}

#[test]
fn commands_add_change_and_remove_sockets_under_those_who_use_them() {
    let world = World::new();
    let host = own_address();
    let at = |port: u16| SocketAddr::from((host, port));
    let server = world.server("");
    let config = [
        tcp("web", at(1000)),
        format!("[watcher:all]\ncmd = {server}\nuse_sockets = True\nnumprocesses = 2\n"),
        serves(&world, "web"),
    ];
    let agent = world.listening(&config.concat());
    ["all", "web"].iter().for_each(|watcher| agent.comes_to(watcher, "active"));
    let (web, before) = (only(&agent, "web"), agent.pids("all"));
    let ctl = |code: i32, words: &str| agent.ctl(&world, &words.split(' ').collect::<Vec<_>>()).expect(code);
    let text = host.to_string();

    // Added: nobody is replaced; who uses all sockets has it from the next process on, and who connects earlier waits.
    ctl(0, &format!("addsocket adm host {text} port 1001 --waiting"));
    assert_eq!(agent.pids("all"), before);
    let mut early = Client::connect(at(1001)).expect("a socket that is open");
    early.send("who").expect("it is open");
    ctl(0, "reload all --waiting");
    let with_it = agent.pids("all");
    assert!(early.receive().is_ok_and(|answer| answer.starts_with("all#")));
    assert!(names(&agent, "all").contains(&who(at(1001))));
    let sockets = ctl(0, "listsockets").out;
    for line in [format!("socket 'web' at {}\n", at(1000)), format!("socket 'adm' at {}\n", at(1001))] {
        assert!(sockets.contains(&line), "{line:?} is missing in:\n{sockets}");
    }

    // Adjusted: nobody is replaced. Moved: they are.
    ctl(0, "setsocket adm backlog 77 --waiting");
    assert_eq!((backlog(at(1001)), agent.pids("all")), ("77".into(), with_it.clone()));
    ctl(0, "setsocket adm port 1002 --waiting");
    let moved = agent.pids("all");
    assert!(!moved.iter().any(|pid| with_it.contains(pid)), "{with_it:?} {moved:?}");
    assert!(who(at(1002)).starts_with("all#"));
    is_closed(at(1001));

    // What cannot be is said.
    let taken = TcpListener::bind(at(1003)).unwrap();
    for (words, why) in [
        (format!("addsocket adm host {text} port 1009"), "socket 'adm' already exist"),
        (
            format!("addsocket new host {text} port 1000"),
            "EADDRINUSE: socket web is there; give each a place of its own",
        ),
        (format!("addsocket new host {text} port 1003"), "EADDRINUSE"),
        (format!("addsocket new host {text} prot 1003"), "port"),
        ("setsocket adm port 1003".into(), "EADDRINUSE"),
        ("setsocket amd port 1004".into(), "adm"),
        ("rmsocket amd".into(), "adm"),
        ("rmsocket web".into(), "socket web is used by web; take it from there first"),
    ] {
        let said = ctl(1, &words);
        assert!(said.err.contains(why), "{words}: {}", said.err);
    }
    drop(taken);
    assert_eq!(agent.pids("all"), moved);

    // What a command has added stays where the file has nothing to say about it.
    ctl(0, "reloadconfig --waiting");
    assert_eq!((agent.pids("all"), only(&agent, "web")), (moved.clone(), web));
    ctl(0, "rmsocket adm --waiting");
    let last = agent.pids("all");
    assert!(!last.iter().any(|pid| moved.contains(pid)), "{moved:?} {last:?}");
    is_closed(at(1002));
    assert_eq!(only(&agent, "web"), web);

    // One that nobody has yet, for a watcher that comes later.
    ctl(0, &format!("addsocket late path {}", world.file("late.unix").display()));
    ctl(0, &format!("add late --option sockets=late --start --waiting -- {server}"));
    assert_eq!(who_at(&world.file("late.unix")), format!("late#1 {}", only(&agent, "late")));
    ctl(0, "rm late --waiting");
    ctl(0, "rmsocket late --waiting");
    is_gone(&world.file("late.unix"));
    world.end(agent);
}
