//! Streams end to end: the real circusctl on a real control socket, and over a real Redis.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "follow/all_nodes.rs"]
mod all_nodes;
#[path = "support/redis.rs"]
mod redis_server;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use circus_agent::agent::follow::{Followers, Output};
use circus_agent::cluster::{Me, Redis, Standing};
use circus_agent::control::ControlSocket;
use circus_agent::model::event::{Ask, AskKind, Event, Exit, LeaseAnswer, News, Notice};
use circus_agent::model::names::{ClusterName, LeaseName, NodeName, Owner, WatcherName};
use circus_agent::model::snapshot::LogLine;
use circus_agent::model::spec::{RedisSpec, Secret};
use circus_agent::model::time::Time;
use circus_agent::wire;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use agent::{Home, PATIENCE, send, wait_for, wait_within};
use redis_server::RedisServer;

fn watcher(name: &str) -> WatcherName {
    WatcherName::parse(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn unix_time() -> f64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

// ------------------------------------------------------------------------------------------------- one agent's streams

#[derive(Debug)]
enum Happens {
    News(&'static str, News),
    Line(&'static str, String),
}

/// The doors of an agent, and what they are told of; it leaves with the value.
struct Station {
    happens: Option<mpsc::UnboundedSender<Happens>>,
    thread: Option<JoinHandle<Vec<Arc<LogLine>>>>,
}

impl Station {
    fn open(socket: &Path) -> Station {
        Station::open_with(socket, Vec::new())
    }

    /// Opens one that has these lines from before.
    fn open_with(socket: &Path, mut kept: Vec<Arc<LogLine>>) -> Station {
        let (happens, mut happening) = mpsc::unbounded_channel();
        let (ready, is_ready) = std_mpsc::channel();
        let socket = socket.to_owned();
        let work = async move {
            let door = ControlSocket::bind(&socket).unwrap();
            let (sender, mut questions) = mpsc::channel(8);
            let door = tokio::spawn(door.serve(sender));
            ready.send(()).unwrap();
            let mut followers = Followers::default();
            let live = broadcast::Sender::new(1024);
            loop {
                tokio::select! {
                    Some(question) = questions.recv() => {
                        let (id, follow) = wire::parse_follow(&question.line).expect("a stream is asked for");
                        let output = |follow: &wire::Follow| {
                            let mut recent = kept.clone();
                            recent.retain(|line| follow.fits(&line.watcher));
                            recent.drain(..recent.len().saturating_sub(follow.lines));
                            Output { recent, live: live.subscribe(), unseen: vec![watcher("mute")] }
                        };
                        followers.answer(id, follow.unwrap(), output, question.answer);
                    }
                    happened = happening.recv() => match happened {
                        Some(Happens::News(name, news)) => {
                            let notice = Notice { watcher: watcher(name), news };
                            let event = wire::notice_json(&notice, &node("web-1"), unix_time());
                            followers.publish(notice.watcher, event);
                        }
                        Some(Happens::Line(name, text)) => {
                            let bytes = text.into_bytes();
                            let line = LogLine {
                                watcher: watcher(name), wid: 1, pid: 7, stream: "stdout", time: unix_time(), bytes
                            };
                            kept.push(Arc::new(line));
                            let _ = live.send(Arc::clone(kept.last().unwrap()));
                        }
                        None => break,
                    }
                }
            }
            drop((questions, followers));
            door.await.unwrap();
            kept
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work)
        });
        is_ready.recv().expect("the door opens");
        Station { happens: Some(happens), thread: Some(thread) }
    }

    fn news(&self, watcher: &'static str, news: News) {
        self.happens.as_ref().unwrap().send(Happens::News(watcher, news)).expect("the station is there");
    }

    fn line(&self, watcher: &'static str, text: &str) {
        self.happens.as_ref().unwrap().send(Happens::Line(watcher, text.into())).expect("the station is there");
    }

    /// Closes it: the lines it kept.
    fn close(mut self) -> Vec<Arc<LogLine>> {
        drop(self.happens.take());
        self.thread.take().unwrap().join().expect("the station stands")
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        drop(self.happens.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || thread::panicking(), "the station fell over");
    }
}

/// A running circusctl, whose lines are read as they come.
struct Ctl {
    process: Child,
    out: std_mpsc::Receiver<String>,
    err: std_mpsc::Receiver<String>,
}

fn lines(stream: impl Read + Send + 'static) -> std_mpsc::Receiver<String> {
    let (sender, lines) = std_mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn circusctl(endpoint: &str, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circusctl"));
    command
        .args(["--endpoint", endpoint, "--cluster", "prod"])
        .args(words.split(' '))
        .env_clear()
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Ctl {
    fn start(endpoint: &str, words: &str) -> Ctl {
        let mut process = circusctl(endpoint, words).spawn().expect("circusctl");
        let (out, err) = (lines(process.stdout.take().unwrap()), lines(process.stderr.take().unwrap()));
        Ctl { process, out, err }
    }

    #[track_caller]
    fn says(&self) -> String {
        self.out.recv_timeout(PATIENCE).expect("a line on standard output")
    }

    #[track_caller]
    fn says_json(&self) -> Value {
        serde_json::from_str(&self.says()).expect("JSON")
    }

    #[track_caller]
    fn warns(&self) -> String {
        self.err.recv_timeout(PATIENCE).expect("a line on standard error")
    }

    #[track_caller]
    fn ends(mut self) -> ExitStatus {
        let end = wait_for("circusctl ends", || self.process.try_wait().expect("a child"));
        assert_eq!(self.out.iter().collect::<Vec<_>>(), [""; 0], "said at last");
        assert_eq!(self.err.iter().collect::<Vec<_>>(), [""; 0], "warned at last");
        end
    }

    #[track_caller]
    fn interrupt(self) -> Option<i32> {
        send(self.process.id(), libc::SIGINT);
        self.ends().code()
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A directory, a socket in it, and its endpoint.
fn place() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("web-1.sock");
    let endpoint = format!("unix://{}", socket.display());
    (dir, socket, endpoint)
}

#[test]
fn events_are_shown_as_they_come_until_control_c() {
    let (_dir, socket, endpoint) = place();
    let station = Station::open(&socket);
    station.news("web", News::Spawn { wid: 2, pid: 4711 });
    station.news("beat", News::Start);
    let all = Ctl::start(&endpoint, "events -f");
    let some = Ctl::start(&endpoint, "--json events --follow -n 1 web*");
    assert_eq!(all.says().split_once(' ').unwrap().1, "web-1 web#2 spawn pid 4711");
    assert_eq!(all.says().split_once(' ').unwrap().1, "web-1 beat start");
    assert_eq!(some.says_json()["body"]["process_pid"], 4711);
    station.news("beat", News::Stop);
    station.news("web", News::Reap { wid: 2, pid: 4711, exit: Exit::Signal(9) });
    assert!(all.says().ends_with(" web-1 beat stop"));
    assert!(all.says().ends_with(" web-1 web#2 reap pid 4711, killed by SIGKILL"));
    let reaped = some.says_json();
    assert_eq!((&reaped["event"], &reaped["id"]), (&json!("reap"), &Value::Null), "{reaped}");
    assert_eq!(all.interrupt(), Some(0));
    assert_eq!(some.interrupt(), Some(0));
}

#[test]
fn what_has_been_is_shown_and_that_is_the_end() {
    let (_dir, socket, endpoint) = place();
    let station = Station::open(&socket);
    station.news("web", News::Start);
    for number in 1..=3 {
        station.line("web", &format!("line {number}"));
        station.line("beat", "tick");
    }
    let output = |words: &str| {
        let output = circusctl(&endpoint, words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}: {output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(output("events").0.ends_with(" web-1 web start\n"));
    let (out, err) = output("logs -n 2 web");
    assert_eq!(out, "web#1 | line 2\nweb#1 | line 3\n");
    assert!(err.starts_with("note: mute writes to the agent's own output"), "{err}");
    assert_eq!(output("logs we* nobody").0, "web#1 | line 1\nweb#1 | line 2\nweb#1 | line 3\n");
    assert_eq!(output("logs --grep [13]$|ick").0.lines().count(), 5);
    assert_eq!(output("--json logs -n 1 web").0.lines().count(), 2, "the note and the line");
}

#[test]
fn lines_go_on_when_the_connection_was_lost_and_none_comes_twice() {
    let (_dir, socket, endpoint) = place();
    let station = Station::open(&socket);
    station.line("web", "one");
    let ctl = Ctl::start(&endpoint, "logs -f");
    assert!(ctl.warns().starts_with("note: mute"));
    assert_eq!(ctl.says(), "web#1 | one");
    station.line("web", "two");
    assert_eq!(ctl.says(), "web#1 | two");
    let kept = station.close();
    assert!(ctl.warns().ends_with("hung up; waiting for its return"));
    let station = Station::open_with(&socket, kept);
    station.line("web", "three");
    assert_eq!(ctl.warns(), format!("note: {endpoint} is back"));
    assert!(ctl.warns().starts_with("note: mute"));
    station.line("web", "four");
    assert_eq!(ctl.says(), "web#1 | three");
    assert_eq!(ctl.says(), "web#1 | four");
    assert_eq!(ctl.interrupt(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_at_once_and_quietly() {
    let (_dir, socket, endpoint) = place();
    let station = Station::open(&socket);
    station.news("web", News::Start);
    let mut ctl = circusctl(&endpoint, "events -f").spawn().unwrap();
    let mut first = String::new();
    BufReader::new(ctl.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.ends_with(" web start\n"), "{first}");
    // Nothing more happens, and it is not waited for.
    let end = wait_for("circusctl ends", || ctl.try_wait().unwrap());
    let mut err = String::new();
    ctl.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((end.signal(), err.as_str()), (Some(libc::SIGPIPE), ""));
}

#[test]
fn who_stops_reading_is_told_what_was_dropped() {
    let (_dir, socket, endpoint) = place();
    let station = Station::open(&socket);
    let mut ctl = Ctl::start(&endpoint, "--json logs -f");
    assert!(ctl.says_json()["note"].is_string());
    send(ctl.process.id(), libc::SIGSTOP);
    const LINES: usize = 4_000;
    // More than sockets and queues take.
    let long = "x".repeat(1_000);
    (0..LINES).for_each(|_| station.line("web", &long));
    // The next line follows only after all of them were offered.
    station.line("beat", "last");
    send(ctl.process.id(), libc::SIGCONT);
    let (mut seen, mut dropped) = (0, 0);
    while seen + dropped < LINES as u64 {
        let line = ctl.says_json();
        match line["dropped"].as_u64() {
            Some(count) => dropped += count,
            None => seen += u64::from(line["watcher"] == "web"),
        }
    }
    assert!(dropped > 0 && seen > 0, "{seen} lines were seen, {dropped} dropped");
    let _ = ctl.process.kill();
}

#[test]
fn nobody_there_is_exit_5_and_a_stream_of_many_nodes_is_a_usage_error() {
    let (_dir, socket, endpoint) = place();
    let code = |words: &str| circusctl(&endpoint, words).output().unwrap().status.code();
    assert_eq!(code("logs -f"), Some(5), "the first time there is nothing to come back");
    assert_eq!(code("events --node web-2"), Some(2));
    let _station = Station::open(&socket);
    assert_eq!(code("logs --all"), Some(2));
    assert_eq!(code("logs --grep ("), Some(2));
    for words in ["events", "logs"] {
        let output = circusctl("redis://127.0.0.1:1", words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words} over Redis: {output:?}");
    }
}

// ------------------------------------------------------------------------------------------------- a whole agent

#[test]
fn a_real_agents_output_and_events_are_followed_through_restarts_to_its_end() {
    let home = Home::new();
    let print = home.script("print", "echo ready $$; echo trouble >&2; exec sleep 1000");
    let config = format!(
        "[watcher:web]\ncmd = {print}\nstdout_stream.class = QueueStream\nstderr_stream.class = QueueStream\n\
         [watcher:mute]\ncmd = sleep 1000\n"
    );
    let mut agent = home.agent("web-1", &config);
    let endpoint = format!("unix://{}", agent.socket.display());
    let logs = Ctl::start(&endpoint, "logs -f");
    let events = Ctl::start(&endpoint, "events -f web");
    assert!(logs.warns().starts_with("note: mute writes"));
    let pid = |logs: &Ctl| {
        let mut lines = [logs.says(), logs.says()];
        lines.sort();
        assert_eq!(lines[0], "web#1 ! trouble");
        lines[1].strip_prefix("web#1 | ready ").expect("its pid").to_owned()
    };
    let says = |text: &str| {
        let line = events.says();
        assert!(line.ends_with(text), "{line}, not {text}");
    };
    let first = pid(&logs);
    says(&format!(" web-1 web#1 spawn pid {first}"));
    says(" web-1 web start");
    send(first.parse().unwrap(), libc::SIGKILL);
    let second = pid(&logs);
    assert_ne!(first, second);
    says(&format!(" web-1 web#1 reap pid {first}, killed by SIGKILL"));
    says(&format!(" web-1 web#1 spawn pid {second}"));
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    says(&format!(" web-1 web#1 kill pid {second}"));
    says(&format!(" web-1 web#1 reap pid {second}, killed by SIGTERM"));
    says(" web-1 web stop");
    let _agent = home.agent("web-1", &config);
    let third = pid(&logs);
    says(&format!(" web-1 web#1 spawn pid {third}"));
}

// ------------------------------------------------------------------------------------------------- a cluster's events

/// A node's end of the shared world.
struct Member {
    redis: Redis,
    events: mpsc::Receiver<Event>,
    _standing: watch::Sender<Standing>,
}

fn beat() -> LeaseName {
    LeaseName { cluster: ClusterName::parse("prod").unwrap(), watcher: watcher("beat"), key: None }
}

impl Member {
    fn join(url: &str, name: &str) -> Member {
        let (told, events) = mpsc::channel(256);
        let (asked, _) = mpsc::channel(1);
        let (standing, stands) = watch::channel(Standing::default());
        let me = Me {
            redis: RedisSpec::at(Secret::new(url.into())),
            cluster: ClusterName::parse("prod").unwrap(),
            node: node(name),
            instance: 1,
            leases: vec![beat()],
            standing: stands,
            machine: Default::default,
        };
        Member { redis: Redis::start(me, told, asked), events, _standing: standing }
    }

    fn publish(&mut self, name: &str, news: News) {
        let notice = Notice { watcher: watcher("web"), news };
        self.redis.publish_event(wire::notice_json(&notice, &node(name), unix_time()).to_string());
    }
}

/// Runs `test` beside a runtime that is driven all the while.
fn with_runtime(test: impl FnOnce(&tokio::runtime::Handle)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let (done, is_done) = oneshot::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || runtime.block_on(async { drop(is_done.await) }));
        // Also when the test fails: then it ends too.
        let _done = done;
        let _inside = handle.enter();
        test(&handle);
    });
}

/// How many hear the cluster's events.
fn listeners(redis: &RedisServer) -> i64 {
    let counted = redis.command(&["PUBSUB", "NUMSUB", "circus:{prod}:events"]);
    redis::from_redis_value::<(String, i64)>(counted).expect("a channel and a number").1
}

#[test]
fn events_of_all_nodes_are_heard_over_redis_also_after_its_restart() {
    let mut redis = RedisServer::start();
    with_runtime(|_| {
        let mut a = Member::join(&redis.url(), "a");
        let mut b = Member::join(&redis.url(), "b");
        let all = Ctl::start(&redis.url(), "events -f");
        wait_for("circusctl to listen", || (listeners(&redis) == 1).then_some(()));
        a.publish("a", News::Start);
        assert!(all.says().ends_with(" a web start"));
        b.publish("b", News::Stop);
        assert!(all.says().ends_with(" b web stop"));
        redis.command(&["PUBLISH", "circus:{prod}:events", "anybody can say anything"]);
        redis.restart_empty();
        assert!(all.warns().ends_with("; waiting for its return"));
        assert!(all.warns().ends_with(" is back; what happened meanwhile is not known"));
        // Until the node is back too, what it says is dropped.
        let one = Ctl::start(&redis.url(), "--node b --json events -f");
        wait_for("both to listen", || (listeners(&redis) == 2).then_some(()));
        wait_for("an event of each", || {
            a.publish("a", News::Add);
            b.publish("b", News::Remove);
            let heard = one.out.recv_timeout(Duration::from_millis(50)).ok()?;
            assert_eq!(serde_json::from_str::<Value>(&heard).unwrap()["node"], "b");
            Some(())
        });
        wait_for("a's too", || all.says().ends_with(" a web add").then_some(()));
    });
}

#[test]
fn leases_do_not_wait_for_events_and_the_last_event_is_published_before_the_node_leaves() {
    let redis = RedisServer::start();
    with_runtime(|handle| {
        let mut member = Member::join(&redis.url(), "a");
        while !matches!(member.events.blocking_recv(), Some(Event::StoreUp)) {}
        let listener = Ctl::start(&redis.url(), "--json events -f");
        wait_for("circusctl to listen", || (listeners(&redis) == 1).then_some(()));
        // Far more than can be published at once.
        (0..20_000).for_each(|_| member.publish("a", News::Updated));
        let begun = Instant::now();
        let ttl = Duration::from_secs(1);
        let ask = Ask {
            owner: Owner { node: node("a"), nonce: 1 },
            sent: Time::ZERO,
            kind: AskKind::Take { ttl, longest: ttl, seen: None },
        };
        member.redis.ask(&beat(), ask, Duration::from_millis(500));
        loop {
            if let Some(Event::Lease { answer, .. }) = member.events.blocking_recv() {
                assert!(!matches!(answer, LeaseAnswer::Failed { .. }), "{answer:?} after {:?}", begun.elapsed());
                break;
            }
        }
        // A full queue has no room for one more.
        while listener.out.recv_timeout(Duration::from_millis(300)).is_ok() {}
        // On the runtime's own thread, where nothing can be published in between.
        let leaving = handle.spawn(async move {
            member.publish("a", News::Stop);
            member.redis.leave().await;
        });
        let last = std::iter::repeat_with(|| listener.says_json()["event"].clone()).find(|event| event != "updated");
        assert_eq!(last, Some("stop".into()));
        handle.block_on(leaving).unwrap();
    });
}
