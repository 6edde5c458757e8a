//! Recorded conversations: what Circus's own clients send and read, byte for byte, and what ours adds.
//!
//! The other side is not rebuilt with us: a change that breaks one of these breaks somebody's script.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use circus_agent::model::command::{
    Answer, Command, Leave, NodeRow, NodeState, Outcome, Patience, Refusal, ReloadWay, Reply, Sample, Usage,
};
use circus_agent::model::drill::{Drill, Kind};
use circus_agent::model::event::{Address, Bound, Changes, Deadline, Exit, Reach, TokenState};
use circus_agent::model::history::{self, Before, Cause, Ending, Entry, History, Left, What};
use circus_agent::model::names::{ClusterName, LeaseName, NodeName, SocketName, WatcherName};
use circus_agent::model::pattern::Pattern;
use circus_agent::model::pause::Pause;
use circus_agent::model::plan::{Change, Effect, KeyChange, Plan, SocketChange, SocketEffect};
use circus_agent::model::runs::{self, How, Turn};
use circus_agent::model::snapshot::{
    CronCounts, CronView, LeaseCounts, LeaseRole, LeaseView, LegionChange, LegionState, LegionView, LordView, Lordship,
    MemberView, Phase, ProcessView, Snapshot, SocketView, StoreView, WatcherState, WatcherView,
};
use circus_agent::model::spec::{
    HookPoint, HookProgram, HookSpec, OnDemand, Output, ProgramSpec, Slot, SocketKind, SocketUse, UserSpec,
    WatcherSpec, Which,
};
use circus_agent::model::store::Missed;
use circus_agent::model::time::Time;
use circus_agent::wire::{lordship_text, parse_request, reply_json};
use serde_json::{Value, json};

const TIME: f64 = 1_795_298_080.94;

fn name(text: &str) -> WatcherName {
    WatcherName::parse(text).unwrap()
}

/// One exchange: the client's bytes, what they ask, what the agent has to tell, and the bytes' meaning that come back.
fn exchange(request: &str, asks: &Command, answer: Answer, mut reply: Value) {
    let request = parse_request(request).unwrap_or_else(|bad| panic!("{request}: {bad:?}"));
    assert_eq!(request.command, *asks);
    reply["time"] = json!(TIME);
    reply["id"] = request.id.clone();
    assert_eq!(reply_json(&Outcome::Own(Reply::Done(answer)), &request.id, TIME), reply);
}

fn refused(request: &str, refusal: Option<Refusal>, errno: i64, reason: &str, id: &Value) {
    let (found, refusal) = match parse_request(request) {
        Ok(request) => (request.id, refusal.expect("the request is good")),
        Err(bad) => (bad.id, bad.refusal),
    };
    let reply = reply_json(&Outcome::Own(Reply::Refused(refusal)), &found, TIME);
    assert_eq!(reply["status"], "error");
    assert_eq!((&reply["errno"], &reply["reason"]), (&json!(errno), &json!(reason)), "{request}");
    assert_eq!((&reply["tb"], &reply["time"], &reply["id"]), (&Value::Null, &json!(TIME), id));
}

fn socket_name(text: &str) -> SocketName {
    SocketName::parse(text).unwrap()
}

fn snapshot(watchers: Vec<WatcherView>) -> Box<Snapshot> {
    Box::new(Snapshot {
        messages_dropped: 0,
        config: "7f3a2c".into(),
        node: NodeName::parse("web-1").unwrap(),
        cluster: ClusterName::parse("prod").unwrap(),
        phase: Phase::Running,
        store: StoreView::Down { reason: "connection refused".into() },
        missed: Missed { of: 3, servers: BTreeMap::from([("r-2:6379".into(), "refused".into())]) },
        watchers,
    })
}

fn sleeper() -> WatcherView {
    let counts = CronCounts { done: 2, failed: 1, skipped: 0, last_done: Some(Slot(60)) };
    WatcherView {
        name: name("Sleep Two"),
        state: WatcherState::Backoff,
        note: Some("exit 1, again in 4 s".into()),
        numprocesses: 2,
        processes: vec![ProcessView {
            wid: 1,
            pid: Some(20755),
            state: "running",
            age: Duration::from_millis(1_500),
            status: Some("serving".into()),
        }],
        restarts: 3,
        last_exit: Some((Exit::Code(1), Duration::from_secs(2))),
        next_try: Some(Duration::from_secs(4)),
        lease: None,
        legion: None,
        cron: Some(CronView { next: Some(Slot(120)), running: None, counts }),
    }
}

#[test]
fn circuss_circusctl_lists_and_asks_for_status() {
    exchange(
        r#"{"command": "list", "properties": {}, "id": "5a2fa2f4b0d04ed7b4a0a1c5b8a8f0ee"}"#,
        &Command::List { watcher: None },
        Answer::Watchers(vec![name("Sleep Two"), name("dummy")]),
        json!({"status": "ok", "watchers": ["dummy", "sleep two"]}),
    );
    exchange(
        r#"{"command": "list", "properties": {"name": "dummy"}, "id": 1}"#,
        &Command::List { watcher: Some("dummy".into()) },
        Answer::Pids(vec![7, 8]),
        json!({"status": "ok", "pids": [7, 8]}),
    );
    let watchers = json!([{
        "name": "Sleep Two", "state": "backoff", "note": "exit 1, again in 4 s", "numprocesses": 2,
        "processes": [{"wid": 1, "pid": 20755, "state": "running", "age": 1.5, "status": "serving"}],
        "restarts": 3, "last_exit": {"text": "exit 1", "ago": 2.0}, "next_try": 4.0, "lease": null,
        "cron": {"next": 120, "running": null, "done": 2, "failed": 1, "skipped": 0, "last_done": 60},
    }]);
    let missed = json!({"r-2:6379": "refused"});
    let store = json!({"state": "down", "reason": "connection refused", "servers": 3, "missed": missed});
    exchange(
        r#"{"command": "status", "properties": {}, "id": 2}"#,
        &Command::Status { watcher: None },
        Answer::Status(snapshot(vec![sleeper()])),
        json!({
            "status": "ok", "statuses": {"Sleep Two": "backoff"}, "node": "web-1", "cluster": "prod",
            "phase": "running", "store": store, "watchers": watchers,
        }),
    );
    // Circus puts the word where "ok" would be.
    exchange(
        r#"{"command": "status", "properties": {"name": "sleep two"}, "id": 3}"#,
        &Command::Status { watcher: Some("sleep two".into()) },
        Answer::WatcherStatus(snapshot(vec![sleeper()])),
        json!({
            "status": "backoff", "node": "web-1", "cluster": "prod", "phase": "running", "store": store,
            "watchers": watchers,
        }),
    );
}

#[test]
fn a_plugin_counts_and_casts() {
    exchange(
        r#"{"command": "numwatchers", "properties": {}}"#,
        &Command::NumWatchers,
        Answer::NumWatchers(5),
        json!({"status": "ok", "numwatchers": 5}),
    );
    exchange(
        r#"{"command": "numprocesses", "properties": {"name": "dummy"}}"#,
        &Command::NumProcesses { watcher: Some("dummy".into()) },
        Answer::NumProcesses { watcher: Some(name("dummy")), count: 2 },
        json!({"status": "ok", "numprocesses": 2, "watcher_name": "dummy"}),
    );
    let cast = parse_request(r#"{"command": "stop", "msg_type": "cast", "properties": {"name": "dummy"}}"#).unwrap();
    assert!(cast.cast);
}

#[test]
fn a_start_that_waits_says_which_processes() {
    exchange(
        r#"{"command": "start", "properties": {"name": "dummy", "waiting": true, "match": "glob"}, "id": 4}"#,
        &Command::Start { pattern: Some(Pattern::Glob("dummy".into())), patience: Patience::Settled },
        Answer::Started { started: vec![9], kept: vec![7], stopped: vec![] },
        json!({"status": "ok", "info": {"started": [9], "kept": [7], "stopped": []}}),
    );
    exchange(
        r#"{"command": "incr", "properties": {"name": "beat", "nb": 2, "waiting": true}, "id": 5}"#,
        &Command::Resize { watcher: "beat".into(), by: 2, patience: Patience::Settled },
        Answer::Resized { numprocesses: 1, singleton: true },
        json!({"status": "ok", "numprocesses": 1, "singleton": true}),
    );
}

fn usage() -> Usage {
    Usage {
        program: "python".into(),
        user: "root".into(),
        nice: 0,
        resident: 8_912_896,
        virtual_size: 12_813_599,
        memory_percent: 0.034_96,
        cpu_percent: 0.0,
        cpu_time: Duration::from_millis(105),
        age: Duration::from_millis(64_123),
        started: 1_795_298_081.579,
    }
}

#[test]
fn stats_have_circuss_units() {
    let sample = |pid, usage| Sample { watcher: name("dummy"), wid: 1, pid, usage, children: vec![], extra: None };
    let info = json!({
        "mem_info1": "8.50M", "mem_info2": "12.22M", "cpu": 0.0, "mem": 0.035, "ctime": "0:00.10", "pid": 20755,
        "username": "root", "nice": 0, "create_time": 1_795_298_081.58, "age": 64.12, "cmdline": "python",
        "children": [], "started": 1_795_298_081.58, "wid": 1,
    });
    let vanished = json!("No such process (stopped?)");
    let samples = vec![sample(20755, Some(usage())), sample(20756, None)];
    let both = json!({"20755": info, "20756": vanished});
    let stats =
        |watcher: Option<&str>, pid, extended| Command::Stats { watcher: watcher.map(str::to_owned), pid, extended };
    exchange(
        r#"{"command": "stats", "properties": {}, "id": 6}"#,
        &stats(None, None, false),
        Answer::Stats { watcher: None, pid: None, samples: samples.clone(), idle: vec![name("idle")] },
        json!({"status": "ok", "infos": {"dummy": both, "idle": {}}}),
    );
    exchange(
        r#"{"command": "stats", "properties": {"name": "dummy", "extended": true}, "id": 7}"#,
        &stats(Some("dummy"), None, true),
        Answer::Stats { watcher: Some(name("dummy")), pid: None, samples: samples.clone(), idle: vec![] },
        json!({"status": "ok", "name": "dummy", "info": both}),
    );
    exchange(
        r#"{"command": "stats", "properties": {"name": "dummy", "process": 20755}, "id": 8}"#,
        &stats(Some("dummy"), Some(20755), false),
        Answer::Stats { watcher: Some(name("dummy")), pid: Some(20755), samples, idle: vec![] },
        json!({"status": "ok", "name": "dummy", "process": 20755, "info": info}),
    );
}

/// A watcher of which nothing is said but what it runs.
fn plain_watcher() -> WatcherSpec {
    WatcherSpec {
        name: name("dummy"),
        program: ProgramSpec::of(vec!["/bin/sh".into(), "-c".into(), "sleep 10".into()]),
        numprocesses: 1,
        max_per_node: None,
        warmup_delay: Duration::ZERO,
        priority: 0,
        autostart: true,
        respawn: true,
        max_retry: None,
        graceful_timeout: Duration::from_secs(30),
        stop_signal: 15,
        stop_children: false,
        send_hup: false,
        max_age: None,
        max_age_variance: Duration::from_secs(30),
        ready: None,
        health: None,
        after: Vec::new(),
        hooks: BTreeMap::new(),
        hook_timeout: Duration::from_secs(30),
        on_demand: None,
        cron: None,
        singleton: None,
        lease_key: None,
        election: None,
        legion: None,
        follows: None,
        settings: BTreeMap::new(),
    }
}

#[test]
fn options_have_circuss_keys_and_types_and_no_secrets() {
    let spec = WatcherSpec {
        program: ProgramSpec {
            env: BTreeMap::from([("PASSWORD".to_owned(), "hunter2".to_owned())]),
            copy_env: true,
            working_dir: Some(PathBuf::from("/srv")),
            user: Some(UserSpec { uid: 33, gid: 33, name: Some("www-data".into()) }),
            stdout: Output::file("/var/log/dummy.log"),
            stderr: Output::Null,
            ..plain_watcher().program
        },
        priority: 3,
        graceful_timeout: Duration::from_millis(2_500),
        hooks: BTreeMap::from([(
            HookPoint::BeforeStart,
            HookSpec { program: HookProgram::Python("mod.hook".into()), ignore_failure: true },
        )]),
        settings: [
            ("cmd", "sleep"),
            ("args", "10"),
            ("shell", "true"),
            ("stdout_stream.class", "FileStream"),
            ("stdout_stream.filename", "/var/log/dummy.log"),
            ("hooks.before_start", "mod.hook,true"),
            ("virtualenv", "/srv/venv"),
            ("stats_base_port", "9000"),
        ]
        .map(|(key, text)| (key.to_owned(), text.to_owned()))
        .into(),
        ..plain_watcher()
    };
    let mut options = json!({
        "__name__": "dummy", "args": "10", "autostart": true, "close_child_stderr": true, "close_child_stdin": true,
        "close_child_stdout": false, "cmd": "sleep", "copy_env": true, "env": {"PASSWORD": "********"},
        "executable": null, "gid": null, "graceful_timeout": 2.5, "max_age": 0, "max_age_variance": 30,
        "max_per_node": null, "max_retry": -1, "numprocesses": 4, "on_demand": false, "priority": 3, "respawn": true, "send_hup": false,
        "shell": true, "shell_args": null, "singleton": false, "stderr_stream_conf": {},
        "stdout_stream_conf": {"filename": "/var/log/dummy.log"}, "stop_children": false, "stop_signal": 15,
        "uid": "www-data", "use_sockets": false, "warmup_delay": 0, "working_dir": "/srv",
    });
    let ours_and_the_files = json!({
        "after": null, "health": null, "hook_timeout": 30, "hooks": {"before_start": "mod.hook,true"},
        "idle_timeout": null, "ready": null, "socket_env": null, "sockets": null, "stdin_socket": null,
        "stop_preset": null, "umask": null, "virtualenv": "/srv/venv", "stats_base_port": "9000",
        "cron": null, "expected": null, "legion": null, "preempt": null, "preempt_delay": null, "quorum": null,
        "scroll": null, "valor": null,
    });
    options.as_object_mut().unwrap().extend(ours_and_the_files.as_object().unwrap().clone());
    let spec = Box::new(spec);
    let answer = |keys| Answer::Options { spec: spec.clone(), numprocesses: 4, keys };
    exchange(
        r#"{"command": "options", "properties": {"name": "dummy"}, "id": 9}"#,
        &Command::Options { watcher: "dummy".into(), keys: None },
        answer(None),
        json!({"status": "ok", "options": options}),
    );
    let keys = Some(vec!["cmd".to_owned(), "stats_base_port".to_owned(), "numprocesses".to_owned()]);
    exchange(
        r#"{"command": "get", "properties": {"name": "dummy", "keys": ["cmd", "stats_base_port", "numprocesses"]}}"#,
        &Command::Options { watcher: "dummy".into(), keys: keys.clone() },
        answer(keys),
        json!({"status": "ok", "options": {"cmd": "sleep", "stats_base_port": "9000", "numprocesses": 4}}),
    );
    let reply = reply_json(&Outcome::Own(Reply::Done(answer(Some(vec!["nokey".into()])))), &Value::Null, TIME);
    assert_eq!((&reply["errno"], &reply["reason"]), (&json!(3), &json!("'nokey' option not found")));
}

#[test]
fn options_about_sockets_have_their_types() {
    let texts = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, text)| (key.to_string(), text.to_string())).collect();
    let mut spec = plain_watcher();
    spec.program.sockets =
        SocketUse { which: Which::All, stdin: Some(socket_name("fcgi")), conventions: BTreeSet::new() };
    spec.on_demand = Some(OnDemand { idle_timeout: Some(Duration::from_secs(600)) });
    spec.settings = texts(&[
        ("use_sockets", "true"),
        ("stdin_socket", "fcgi"),
        ("on_demand", "yes"),
        ("idle_timeout", "10m"),
        ("socket_env", "listen, einhorn"),
        ("stop_preset", "gunicorn"),
    ]);
    let keys = ["use_sockets", "sockets", "stdin_socket", "on_demand", "idle_timeout", "socket_env", "stop_preset"];
    let options = |spec: &WatcherSpec| {
        let keys = Some(keys.map(str::to_owned).to_vec());
        let answer = Answer::Options { spec: Box::new(spec.clone()), numprocesses: 1, keys };
        reply_json(&Outcome::Own(Reply::Done(answer)), &Value::Null, TIME)["options"].clone()
    };
    assert_eq!(
        options(&spec),
        json!({
            "use_sockets": true, "sockets": null, "stdin_socket": "fcgi", "on_demand": true, "idle_timeout": 600,
            "socket_env": "listen, einhorn", "stop_preset": "gunicorn",
        })
    );
    spec.program.sockets = SocketUse { which: Which::These(vec![socket_name("web")]), ..SocketUse::default() };
    spec.on_demand = None;
    spec.settings = texts(&[("sockets", "web")]);
    assert_eq!(
        options(&spec),
        json!({
            "use_sockets": false, "sockets": "web", "stdin_socket": null, "on_demand": false, "idle_timeout": null,
            "socket_env": null, "stop_preset": null,
        })
    );
}

#[test]
fn circuss_circusctl_reads_the_agent_itself() {
    exchange(
        r#"{"command": "globaloptions", "properties": {"option": "endpoint"}, "id": 1}"#,
        &Command::GlobalOptions { option: Some("endpoint".into()) },
        Answer::GlobalOptions(BTreeMap::from([("endpoint".to_owned(), "tcp://127.0.0.1:5555".to_owned())])),
        json!({"status": "ok", "options": {"endpoint": "tcp://127.0.0.1:5555"}}),
    );
    exchange(
        r#"{"command": "globaloptions", "properties": {}, "id": 1}"#,
        &Command::GlobalOptions { option: None },
        Answer::GlobalOptions(BTreeMap::from([("check_delay".to_owned(), "5".to_owned())])),
        json!({"status": "ok", "options": {"check_delay": 5.0}}),
    );
    exchange(
        r#"{"command": "listsockets", "properties": {}, "id": 1}"#,
        &Command::ListSockets,
        Answer::Sockets(Vec::new()),
        json!({"status": "ok", "sockets": []}),
    );
    let agent = Sample {
        watcher: name("agent"),
        wid: 0,
        pid: 7,
        usage: Some(Usage { program: "circus-agent".into(), ..usage() }),
        children: vec![],
        extra: None,
    };
    exchange(
        r#"{"command": "dstats", "properties": {}, "id": 1}"#,
        &Command::AgentStats,
        Answer::AgentStats(agent),
        json!({"status": "ok", "info": {
            "mem_info1": "8.50M", "mem_info2": "12.22M", "cpu": 0.0, "mem": 0.035, "ctime": "0:00.10", "pid": 7,
            "username": "root", "nice": 0, "create_time": 1_795_298_081.58, "age": 64.12, "cmdline": "circus-agent",
            "children": [],
        }}),
    );
}

#[test]
fn circuss_circusctl_lists_sockets() {
    let socket = |name: &str, fd, address| SocketView {
        name: socket_name(name),
        bound: Some(Bound { fd, address }),
        kind: SocketKind::Stream,
        backlog: 2048,
        reuse_port: false,
        watchers: vec![],
    };
    let inet = |text: &str| Address::Inet(text.parse().unwrap());
    let being_opened = SocketView { bound: None, reuse_port: true, ..socket("new", 0, inet("127.0.0.1:0")) };
    let datagrams = SocketView {
        kind: SocketKind::Datagram,
        watchers: vec![name("web"), name("Sleep Two")],
        ..socket("ux", 8, Address::Unix(PathBuf::from("/x")))
    };
    exchange(
        r#"{"command": "listsockets", "properties": {}, "id": 1}"#,
        &Command::ListSockets,
        Answer::Sockets(vec![
            being_opened,
            socket("six", 11, inet("[::1]:8080")),
            socket("web", 9, inet("127.0.0.1:44347")),
            datagrams,
        ]),
        json!({"status": "ok", "sockets": [
            {"fd": 8, "name": "ux", "backlog": 2048, "path": "/x",
             "type": "SOCK_DGRAM", "so_reuseport": false, "watchers": ["web", "Sleep Two"]},
            {"fd": 9, "name": "web", "backlog": 2048, "host": "127.0.0.1", "port": 44347,
             "type": "SOCK_STREAM", "so_reuseport": false, "watchers": []},
            {"fd": 11, "name": "six", "backlog": 2048, "host": "::1", "port": 8080,
             "type": "SOCK_STREAM", "so_reuseport": false, "watchers": []},
            {"fd": null, "name": "new", "backlog": 2048,
             "type": "SOCK_STREAM", "so_reuseport": true, "watchers": []},
        ]}),
    );
}

#[test]
fn circuss_circusctl_changes_watchers() {
    let set = |key: &str, text: &str| (key.to_owned(), Some(text.to_owned()));
    exchange(
        r#"{"command": "set", "properties": {"name": "dummy", "waiting": true, "options": {"numprocesses": 3, "shell": false, "graceful_timeout": 2.0}}, "id": 1}"#,
        &Command::Set {
            watcher: "dummy".into(),
            changes: Changes {
                settings: vec![set("graceful_timeout", "2.0"), set("numprocesses", "3"), set("shell", "False")],
                env: None,
            },
            patience: Patience::Settled,
        },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    exchange(
        r#"{"command": "add", "properties": {"name": "NEW", "cmd": "sleep 10", "start": true, "waiting": true}, "id": 1}"#,
        &Command::Add {
            name: "NEW".into(),
            changes: Changes { settings: vec![set("cmd", "sleep 10")], env: None },
            start: true,
            patience: Patience::Settled,
        },
        Answer::Added { started: vec![7] },
        json!({"status": "ok", "started": [7], "kept": []}),
    );
    exchange(
        r#"{"command": "rm", "properties": {"name": "NEW", "nostop": true}, "id": 1}"#,
        &Command::Remove { watcher: "NEW".into(), leave: Leave::Processes, patience: Patience::Admitted },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    exchange(
        r#"{"command": "signal", "properties": {"name": "dummy", "children": false, "recursive": true, "signum": "hup", "pid": 7}, "id": 1}"#,
        &Command::Signal { watcher: "dummy".into(), pid: Some(7), signal: 1, reach: Reach::Tree },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    exchange(
        r#"{"command": "reload", "properties": {"name": "dummy", "graceful": true, "waiting": true, "sequential": false}, "id": 1}"#,
        &Command::Reload { watcher: Some("dummy".into()), way: ReloadWay::Rolling, patience: Patience::Settled },
        Answer::Started { started: vec![9], kept: vec![], stopped: vec![7] },
        json!({"status": "ok", "info": {"started": [9], "kept": [], "stopped": [7]}}),
    );
}

#[test]
fn our_own_commands() {
    exchange(
        r#"{"command": "version", "id": 10}"#,
        &Command::Version,
        Answer::Version("0.1.0"),
        json!({"status": "ok", "version": "0.1.0"}),
    );
    let lease = LeaseView {
        watcher: name("beat"),
        key: "circus:{prod/beat}:lease".into(),
        role: LeaseRole::Holder,
        token: Some(17),
        ttl: Duration::from_secs(15),
        left: Some(Duration::from_millis(12_345)),
        holder: Some("web-1".into()),
        latency: Some(Duration::from_micros(2_130)),
        held_for: Some(Duration::from_secs(60)),
        why: None,
        pause: Some(Pause { since: 1_795_291_800_500, by: "amy".into(), why: Some("migration".into()) }),
        counts: LeaseCounts {
            taken: 2,
            lost_unconfirmed: 1,
            greatest_latency: Some(Duration::from_millis(3)),
            ..LeaseCounts::default()
        },
    };
    exchange(
        r#"{"command": "leases", "properties": {"all": true}, "id": 11}"#,
        &Command::Leases,
        Answer::Leases { leases: vec![lease], advice: vec!["db:6379 forgets keys".into()] },
        json!({"status": "ok", "leases": [{
            "name": "beat", "key": "circus:{prod/beat}:lease", "role": "holder", "token": 17, "ttl": 15.0,
            "left": 12.345, "holder": "web-1", "latency": 0.00213, "held_for": 60.0, "why": null,
            "pause": {"since": 1_795_291_800.5, "by": "amy", "reason": "migration"}, "counts": {
                "taken": 2, "released": 0, "lost": {"taken": 0, "unconfirmed": 1, "expired": 0}, "refreshes": 0,
                "refreshes_failed": 0, "late_grants": 0, "greatest_latency": 0.003,
            },
        }], "advice": ["db:6379 forgets keys"]}),
    );
    let pause = Pause { since: 1_795_291_800_500, by: "amy".into(), why: None };
    exchange(
        r#"{"command": "pause", "properties": {"name": "beat", "reason": "migration", "waiting": true}, "id": 20}"#,
        &Command::Pause { watcher: "beat".into(), reason: Some("migration".into()), patience: Patience::Settled },
        Answer::Paused {
            watcher: name("beat"),
            pause: pause.clone(),
            changed: true,
            holder: Some("web-1".into()),
            hears: true,
        },
        json!({
            "status": "ok", "name": "beat", "pause": {"since": 1_795_291_800.5, "by": "amy", "reason": null},
            "changed": true, "holder": "web-1", "hears": true,
        }),
    );
    exchange(
        r#"{"command": "resume", "properties": {"name": "beat"}, "id": 21}"#,
        &Command::Resume { watcher: "beat".into() },
        Answer::Resumed { watcher: name("beat"), pause: Some(pause) },
        json!({
            "status": "ok", "name": "beat", "pause": {"since": 1_795_291_800.5, "by": "amy", "reason": null},
        }),
    );
    let ending = Ending { cause: Cause::Moved, detail: Some("web-2".into()), by: Some("amy".into()) };
    let at = |token, node: &str, at, what, before| Entry { token, node: node.into(), at, slack: 0, what, before };
    let before = Before { token: 17, node: "web-2".into(), seen: Some(9_500), left: Left::Expired };
    let entries = [
        at(16, "web-1", 1_000, What::Started { pid: 7 }, None),
        at(16, "web-1", 5_000, What::Ended(ending), None),
        at(17, "web-2", 5_021, What::Started { pid: 8 }, None),
        at(18, "web-1", 12_000, What::Started { pid: 9 }, Some(before)),
    ];
    exchange(
        r#"{"command": "history", "properties": {"name": "beat", "count": 3}, "id": 13}"#,
        &Command::History { watcher: Some("beat".into()), count: 3 },
        Answer::Histories(vec![(name("beat"), history::fold(&entries, 12_000))]),
        json!({"status": "ok", "history": [{
            "name": "beat", "worst_gap": 2.5, "worst_gap_at_most": true, "moves": 2, "overlaps": 0, "runs": null, "tenures": [
                {"token": 18, "from": "web-2", "to": "web-1", "start": 12.0, "end": null, "pid": 9, "gap": 2.5,
                 "gap_at_most": true, "overlap": null, "cause": "expired", "detail": null, "by": null, "last_seen": 9.5},
                {"token": 17, "from": "web-1", "to": "web-2", "start": 5.021, "end": null, "pid": 8, "gap": 0.021,
                 "gap_at_most": false, "overlap": 0.0, "cause": "moved", "detail": "web-2", "by": "amy",
                 "last_seen": null},
                {"token": 16, "from": null, "to": "web-1", "start": 1.0, "end": 5.0, "pid": 7, "gap": null,
                 "gap_at_most": false, "overlap": null, "cause": "first", "detail": null, "by": null,
                 "last_seen": null},
            ],
        }]}),
    );
    let told = |slot, token: u64, at, turn| {
        let what = What::Run { watcher: name("job"), slot: Slot(slot), turn };
        Entry { token, node: "web-1".into(), at, slack: 0, what, before: None }
    };
    let killed = Turn::Ended { how: How::Exit(Exit::Signal(9)), told: false };
    let entries = [
        told(60, 18, 60_012, Turn::Began { pid: 7 }),
        told(60, 18, 61_000, killed),
        told(120, 18, 120_000, Turn::PassedOver { why: "no time".into() }),
    ];
    let history = History { runs: Some(runs::fold(&entries, None)), ..History::default() };
    exchange(
        r#"{"command": "history", "properties": {"name": "job", "count": 3}, "id": 13}"#,
        &Command::History { watcher: Some("job".into()), count: 3 },
        Answer::Histories(vec![(name("job"), history)]),
        json!({"status": "ok", "history": [{
            "name": "job", "worst_gap": null, "worst_gap_at_most": false, "moves": 0, "overlaps": 0, "tenures": [],
            "runs": [
                {"slot": 120, "node": "web-1", "token": 18, "pid": null, "began": null, "ended": null,
                 "outcome": "no-run", "exit_code": null, "why": "no time"},
                {"slot": 60, "node": "web-1", "token": 18, "pid": 7, "began": 60.012, "ended": 61.0,
                 "outcome": "failed", "exit_code": -9, "why": "killed by SIGKILL"},
            ],
        }]}),
    );
    let check = |state, fields: Value| {
        exchange(
            r#"{"command": "lease-check", "properties": {"name": "beat", "token": 17}, "id": 14}"#,
            &Command::LeaseCheck { watcher: "beat".into(), token: 17 },
            Answer::LeaseChecked { watcher: name("beat"), token: 17, state },
            fields,
        );
    };
    check(
        TokenState::Holds { left: Duration::from_millis(1_500) },
        json!({"status": "ok", "name": "beat", "token": 17, "holds": true, "left": 1.5}),
    );
    check(
        TokenState::Over { holder: Some("web-2".into()), token: Some(18) },
        json!({"status": "ok", "name": "beat", "token": 17, "holds": false, "holder": "web-2", "latest": 18}),
    );
    let row = NodeRow {
        name: NodeName::parse("web-2").unwrap(),
        state: NodeState::Draining,
        seen: Duration::from_millis(400),
        about: circus_agent::wire::parse_about(r#"{"version": "0.1.0", "up": 3.5, "holds": ["beat"]}"#).unwrap(),
    };
    exchange(
        r#"{"command": "nodes", "id": 12}"#,
        &Command::Nodes,
        Answer::Nodes(vec![row]),
        json!({"status": "ok", "roster": [{
            "name": "web-2", "state": "draining", "seen": 0.4, "version": "0.1.0", "host": "", "pid": 0, "endpoint": "", "up": 3.5,
            "config": "", "differs": false, "formerly": [], "labels": {}, "watchers": [], "well": 0,
            "processes": 0, "wanted": {}, "most": {}, "load": 0.0, "cores": 0, "memory": 0, "memory_used": 0, "protocol": 0, "holds": ["beat"], "waits": [],
        }]}),
    );
    let second = || NodeName::parse("second").unwrap();
    exchange(
        r#"{"command": "nodelist", "properties": {}, "id": 16}"#,
        &Command::NodeList,
        Answer::NodeList(vec![(second(), "unix:///run/second.sock".into())]),
        json!({"status": "ok", "nodelist": {"second": "unix:///run/second.sock"}}),
    );
    exchange(
        r#"{"command": "register_node", "properties": {"node_name": "second", "node_endpoint": "tcp://127.0.0.1:6555",
            "node_stats_endpoint": "tcp://127.0.0.1:6557"}, "id": 17}"#,
        &Command::Registered { node: second(), endpoint: Some("tcp://127.0.0.1:6555".into()) },
        Answer::Registered { node: second(), host: "db-2".into(), endpoint: "unix:///run/second.sock".into() },
        json!({
            "status": "ok",
            "note": "second registered by itself, from db-2 (unix:///run/second.sock): nothing was to be done",
        }),
    );
    exchange(
        r#"{"command": "join_cluster", "properties": {"node_name": "second", "master_endpoint": "tcp://h:5558"}, "id": 18}"#,
        &Command::Registered { node: second(), endpoint: None },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    exchange(
        r#"{"command": "failover", "properties": {"name": "beat", "to": "web-2", "waiting": true}, "id": 13}"#,
        &Command::Failover {
            watcher: "beat".into(),
            to: Some(NodeName::parse("web-2").unwrap()),
            patience: Patience::Settled,
        },
        Answer::Moved { from: NodeName::parse("web-1").unwrap(), to: None, token: 17, stays: true },
        json!({"status": "ok", "from": "web-1", "to": null, "token": 17, "stays": true}),
    );
    let drill = Drill {
        lease: LeaseName { cluster: ClusterName::parse("c").unwrap(), watcher: name("beat"), key: None },
        token: 17,
        pid: 7,
        ttl: Duration::from_secs(15),
        kind: Kind::Freeze,
        lasting: Some(Duration::from_millis(22_500)),
        by: Some("amy".into()),
    };
    exchange(
        r#"{"command": "drill", "properties": {"name": "beat", "kind": "freeze", "lasting": 22.5}, "id": 15}"#,
        &Command::Drill { watcher: "beat".into(), kind: Kind::Freeze, lasting: drill.lasting },
        Answer::Drilling { node: NodeName::parse("web-1").unwrap(), drill: Box::new(drill) },
        json!({
            "status": "ok", "node": "web-1", "name": "beat", "token": 17, "pid": 7, "ttl": 15.0, "kind": "freeze",
            "lasting": 22.5,
        }),
    );
    refused(
        r#"{"command": "drill", "properties": {"name": "beat", "kind": "kill"}, "id": 16}"#,
        Some(Refusal::NoDrills(NodeName::parse("web-1").unwrap())),
        5,
        "web-1 allows no drills: put allow_drills = true into the [circus] section of its file, then circusctl \
         reloadconfig --node web-1",
        &json!(16),
    );
    refused(
        r#"{"command": "drill", "properties": {"name": "beat", "kind": "flood"}, "id": 17}"#,
        None,
        3,
        "'kind' is one of kill, freeze, redis-loss, not 'flood'",
        &json!(17),
    );
}

#[test]
fn sockets_are_added_changed_and_removed() {
    let set = |key: &str, text: &str| (key.to_owned(), Some(text.to_owned()));
    exchange(
        r#"{"command": "addsocket", "properties": {"name": "Web", "options": {"port": 8080, "host": "::", "so_reuseport": true}, "waiting": true}, "id": 1}"#,
        &Command::AddSocket {
            name: "Web".into(),
            changes: Changes {
                settings: vec![set("host", "::"), set("port", "8080"), set("so_reuseport", "True")],
                env: None,
            },
            patience: Patience::Settled,
        },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    exchange(
        r#"{"command": "setsocket", "properties": {"name": "web", "options": {"backlog": 128, "interface": null}}, "id": 2}"#,
        &Command::SetSocket {
            socket: "web".into(),
            changes: Changes { settings: vec![set("backlog", "128"), ("interface".into(), None)], env: None },
            patience: Patience::Admitted,
        },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    exchange(
        r#"{"command": "rmsocket", "properties": {"name": "web"}, "id": 3}"#,
        &Command::RemoveSocket { socket: "web".into(), patience: Patience::Admitted },
        Answer::Ok,
        json!({"status": "ok"}),
    );
    refused(
        r#"{"command": "rmsocket", "properties": {"name": "wbe"}, "id": 4}"#,
        Some(Refusal::NoSuchSocket { name: "wbe".into(), hint: Some(socket_name("web")) }),
        3,
        "socket wbe not found; did you mean web?",
        &json!(4),
    );
    refused(
        r#"{"command": "addsocket", "properties": {"name": "web", "options": {}}}"#,
        Some(Refusal::SocketExists(socket_name("web"))),
        5,
        "socket 'web' already exist",
        &Value::Null,
    );
    let bad = r#"{"command": "addsocket", "properties": {"name": "a/b", "options": {}}}"#;
    let why = "'name': a socket name holds letters, digits, '.', '_' and '-' only, not '/'";
    refused(bad, None, 3, why, &Value::Null);
}

#[test]
fn a_plan_tells_what_becomes_of_each_watcher_and_socket() {
    let change = |watcher: &str, effect, keys| Change { watcher: name(watcher), effect, keys };
    let key = |key: &str, from: Option<&str>, to: Option<&str>| KeyChange {
        key: key.into(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    let socket = |socket: &str, effect, keys| SocketChange { socket: socket_name(socket), effect, keys };
    let plan = Plan {
        sockets: vec![
            socket("admin", SocketEffect::Added, vec![]),
            socket("stats", SocketEffect::Removed, vec![]),
            socket("ux", SocketEffect::Adjusted, vec![key("backlog", None, Some("128"))]),
            socket("web", SocketEffect::Moved, vec![key("port", Some("80"), Some("8080"))]),
        ],
        changes: vec![
            change("old", Effect::Removed { stops: 2 }, vec![]),
            change("new", Effect::Added { starts: 1 }, vec![]),
            change("web", Effect::Replaced { restarts: 4 }, vec![key("env SECRET", None, Some("********"))]),
            change("api", Effect::InPlace, vec![key("graceful_timeout", Some("30"), Some("300"))]),
            change("job", Effect::Resized { from: 1, to: 3 }, vec![]),
        ],
        unchanged: 3,
        needs_restart: vec!["[circus] node".into()],
        config: "7f3a2c".into(),
    };
    exchange(
        r#"{"command": "plan", "id": 1}"#,
        &Command::Plan,
        Answer::Plan(plan),
        json!({"status": "ok", "config": "7f3a2c", "plan": {
            "sockets": [
                {"socket": "admin", "effect": "added", "keys": []},
                {"socket": "stats", "effect": "removed", "keys": []},
                {"socket": "ux", "effect": "adjusted", "keys": [{"key": "backlog", "from": null, "to": "128"}]},
                {"socket": "web", "effect": "moved", "keys": [{"key": "port", "from": "80", "to": "8080"}]},
            ],
            "changes": [
                {"watcher": "old", "effect": "removed", "stops": 2, "keys": []},
                {"watcher": "new", "effect": "added", "starts": 1, "keys": []},
                {"watcher": "web", "effect": "replaced", "restarts": 4,
                 "keys": [{"key": "env SECRET", "from": null, "to": "********"}]},
                {"watcher": "api", "effect": "in-place",
                 "keys": [{"key": "graceful_timeout", "from": "30", "to": "300"}]},
                {"watcher": "job", "effect": "resized", "from": 1, "to": 3, "keys": []},
            ],
            "unchanged": 3,
            "needs_restart": ["[circus] node"],
        }}),
    );
}

#[test]
fn mistakes_are_answered_in_circuss_words() {
    refused("", None, 1, "json invalid", &Value::Null);
    refused("[1]", None, 1, "json invalid", &Value::Null);
    refused(r#"{"command": "frob", "id": "x"}"#, None, 2, "unknown command: 'frob'", &json!("x"));
    refused(r#"{"command": "incr", "id": 1}"#, None, 3, "message invalid 'name' is missing", &json!(1));
    refused(
        r#"{"command": "stats", "properties": {"name": "nope"}}"#,
        Some(Refusal::NoSuchWatcher { name: "nope".into(), hint: None }),
        3,
        "program nope not found",
        &Value::Null,
    );
    refused(
        r#"{"command": "stats", "properties": {"name": "dummy", "process": 1}, "id": [1]}"#,
        Some(Refusal::NoSuchProcess { watcher: name("dummy"), pid: 1 }),
        3,
        "process 1 not found in 'dummy'",
        &json!([1]),
    );
}

/// The lord `web-1` as it sees itself and `web-2`, which has fallen silent.
fn legion_view() -> LegionView {
    let node = |name| NodeName::parse(name).unwrap();
    let member = |name, valor, scroll: &str, heard, left| MemberView {
        node: node(name),
        valor,
        stands: true,
        scroll: scroll.into(),
        heard: Duration::from_secs(heard),
        left: Duration::from_secs(left),
    };
    let lord = LordView {
        node: "web-1".into(),
        token: Some(17),
        left: Some(Duration::from_millis(1_500)),
        held_for: Duration::from_secs(60),
    };
    LegionView {
        name: WatcherName::parse("clusterip").unwrap(),
        node: node("web-1"),
        valor: 98,
        preempt: true,
        quorum: 2,
        expected: Some(3),
        scroll: "role=web".into(),
        joined: true,
        live: 2,
        members: vec![
            member("web-0", 7, "role=db", 1, 14),
            member("web-1", 98, "role=web", 1, 14),
            member("web-2", 5, "", 15, 0),
        ],
        seen: Some(Duration::from_secs(1)),
        lord: Some(lord),
        state: LegionState::Lord,
        why: "it is the first".into(),
        changes: vec![LegionChange { ago: Duration::from_secs(60), text: "web-1 leads".into() }],
    }
}

#[test]
fn legions_are_told_in_uwsgis_words_and_in_ours() {
    let store = "Redis at db:6379/0".to_owned();
    let member = |name, valor, seen: f64, live, scroll| {
        json!({
            "name": name, "uuid": name, "valor": valor, "last_seen": TIME - seen, "stands": true, "live": live,
            "scroll": scroll,
        })
    };
    let change = json!({"at": TIME - 60.0, "text": "web-1 leads"});
    let mut told = json!({
        "legion": "clusterip", "addr": store, "uuid": "web-1", "valor": 98, "quorum": 2, "i_am_the_lord": TIME - 60.0,
        "lord_valor": 98, "lord_uuid": "web-1", "nodes": ["web-0", "web-2"],
        "members": [
            member("web-0", 7, 1.0, true, "role=db"),
            member("web-1", 98, 1.0, true, "role=web"),
            member("web-2", 5, 15.0, false, ""),
        ],
        "node": "web-1", "state": "lord", "reason": "it is the first", "lord_node": "web-1", "lord_since": TIME - 60.0,
        "token": 17, "lease_until": TIME + 1.5, "votes": 2, "expected": 3, "preempt": true, "scroll": "role=web",
        "joined": true, "seen": TIME - 1.0, "last_change": change, "changes": [change],
    });
    exchange(
        r#"{"command": "legions", "properties": {"name": "clusterip"}, "id": 1}"#,
        &Command::Legions { legion: Some("clusterip".into()) },
        Answer::Legions { store: store.clone(), legions: vec![legion_view()] },
        json!({"status": "ok", "legions": [told]}),
    );
    // One that is about to lose it leads no more, though the token is still its own.
    (told["state"], told["i_am_the_lord"]) = ("losing".into(), 0.0.into());
    (told["token"], told["lease_until"]) = (Value::Null, Value::Null);
    exchange(
        r#"{"command": "legions", "id": 2}"#,
        &Command::Legions { legion: None },
        Answer::Legions { store, legions: vec![LegionView { state: LegionState::Losing, ..legion_view() }] },
        json!({"status": "ok", "legions": [told]}),
    );
    exchange(
        r#"{"command": "scrolls", "properties": {"name": "clusterip"}, "id": 3}"#,
        &Command::Scrolls { legion: "clusterip".into() },
        Answer::Scrolls(Box::new(legion_view())),
        json!({
            "status": "ok", "legion": "clusterip", "node": "web-1", "lord": "web-1", "lord_scroll": "role=web",
            "scrolls": ["role=web", "role=db"],
            "members": [{"name": "web-0", "scroll": "role=db"}, {"name": "web-1", "scroll": "role=web"}],
        }),
    );
}

#[test]
fn who_leads_is_told_with_the_names_of_the_file() {
    let node = |name| NodeName::parse(name).unwrap();
    let stop = Time::from_nanos(7_000_000_000);
    let lordship = Lordship {
        legion: WatcherName::parse("clusterip").unwrap(),
        node: node("web-1"),
        mine: Some((17, Deadline { stop, kill: stop })),
        lord: Some("web-1".into()),
        members: vec![node("web-1"), node("web-2")],
        quorum: 2,
        scroll: "role=web".into(),
        reason: "it is the first".into(),
    };
    let text = lordship_text(&lordship, stop, 0);
    let mut told = json!({
        "status": "ok", "legion": "clusterip", "node": "web-1", "me": true, "token": 17, "left": 1.5,
        "deadline_boottime_ns": 7_000_000_000_u64, "deadline_unix_ms": ((TIME + 1.5) * 1_000.0) as u64, "lord": "web-1",
        "members": ["web-1", "web-2"], "quorum": 2, "scroll": "role=web", "reason": "it is the first",
    });
    for line in text.lines() {
        let name = line.split('=').next().unwrap();
        assert!(told.get(name).is_some(), "the file has {name}");
    }
    let request = r#"{"command": "lord", "properties": {"name": "clusterip"}, "id": 1}"#;
    let asks = Command::Lord { legion: "clusterip".into() };
    let left = Some(Duration::from_millis(1_500));
    let answer = |lordship, left| Answer::Lord { lordship: Box::new(lordship), left };
    exchange(request, &asks, answer(lordship.clone(), left), told.clone());
    told["me"] = json!(false);
    for absent in ["token", "left", "deadline_boottime_ns", "deadline_unix_ms", "lord"] {
        told[absent] = Value::Null;
    }
    exchange(request, &asks, answer(Lordship { mine: None, lord: None, ..lordship }, None), told);
}

#[test]
fn a_legion_that_is_not_there_has_a_hint() {
    let hint = Some(WatcherName::parse("clusterip").unwrap());
    refused(
        r#"{"command": "lord", "properties": {"name": "clusterp"}, "id": 1}"#,
        Some(Refusal::NoSuchLegion { name: "clusterp".into(), hint }),
        3,
        "legion clusterp not found; did you mean clusterip?",
        &json!(1),
    );
    refused(r#"{"command": "scrolls", "id": 2}"#, None, 3, "message invalid 'name' is missing", &json!(2));
}
