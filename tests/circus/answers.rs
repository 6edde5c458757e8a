//! Each command, good and bad, put to circusd and to an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::agent::Home;
use crate::circusd::{Circusd, Script};
use crate::page::{self, Place};

/// `DIR` is a directory of each one's own, `HERE` that of this test. It begins within `[circus]`.
const CONFIG: &str = "\
check_delay = 5
endpoint = ipc://DIR/endpoint
pubsub_endpoint = ipc://DIR/pubsub
multicast_endpoint =

[watcher:web]
cmd = sleep 1000
numprocesses = 2
flapping.window = 3
color of = the house

[watcher:Sleep Two]
cmd = sleep
args = 1001
stop_signal = INT
graceful_timeout = 2.5
priority = 5
max_age = 3600
max_retry = 3
rlimit_nofile = 500
hooks.before_start = hooks.yes
uid = root
gid = root
working_dir = /

[watcher:solo]
cmd = sleep 1002
singleton = True
working_dir = /

[watcher:idle]
cmd = sleep 1003
autostart = False
working_dir = /

[watcher:logs]
cmd = sleep 1004
stdout_stream.class = FileStream
stdout_stream.filename = DIR/logs.log
stdout_stream.max_bytes = 100
close_child_stderr = True
copy_env = True
use_sockets = True
stdin_socket = front
working_dir = /

[watcher:gone]
cmd = /nonexistent/program
max_retry = 1
working_dir = /

[socket:front]
host = 127.0.0.1
port = 0

[socket:back]
path = DIR/back.sock

[env:web]
A = 1

[env:Sleep Two]
PYTHONPATH = HERE
";

/// Requests as people would note them: a command, and its properties as JSON, or as they are where that is a text.
const REQUESTS: &[&str] = &[
    // What there is.
    "list",
    "LIST",
    "list name=WEB",
    "list name=nope",
    "list name=null",
    "list name=5",
    "status",
    "status name=WEB",
    "status name=gone",
    "status name=idle",
    "status name=nope",
    "numwatchers",
    "numprocesses",
    "numprocesses name=WEB",
    "numprocesses name=nöpe",
    "stats",
    "stats name=WEB extended=true",
    "stats name=web process=\"<pid of web>\"",
    "stats name=web process=1",
    "stats name=web process=x",
    "stats process=1",
    "stats name=gone",
    "stats name=nope",
    "dstats",
    "options name=web",
    "options name=\"sleep TWO\"",
    "options name=solo",
    "options name=logs",
    "options name=nope",
    "options",
    "get name=web keys=[\"numprocesses\",\"cmd\",\"stop_signal\",\"numprocesses\"]",
    "get name=web keys=[\"nokey\"]",
    "get name=web keys=[\"flapping.window\"]",
    "get name=web keys=[]",
    "get name=web keys=cmd",
    "get name=web",
    "get keys=[\"cmd\"]",
    "globaloptions",
    "globaloptions option=check_delay",
    "globaloptions option=zz",
    "globaloptions option=5",
    "globaloptions keys=[\"check_delay\"]",
    "listsockets",
    "listen",
    "ipython",
    "frob",
    // What starts and stops.
    "start name=idle waiting=true",
    "start name=idle waiting=true",
    "start name=idle",
    "start name=web match=glob waiting=true",
    "start name=nope waiting=true",
    "start name=nope",
    "start name=web match=odd",
    "start name=[ match=regex",
    "start name=s* waiting=true",
    "stop name=idle waiting=true",
    "stop name=idle waiting=true",
    "stop name=nope",
    "stop name=s.*o match=regex waiting=true",
    "start name=SOLO match=simple waiting=true",
    "start name=s* waiting=true",
    "restart name=web waiting=true",
    "restart name=idle waiting=true",
    "restart name=s* waiting=true",
    "restart name=web",
    "reload name=web waiting=true",
    "reload name=web sequential=true waiting=true",
    "reload name=web graceful=false waiting=true",
    "reload name=web",
    "reload name=nope waiting=true",
    "stop name=idle waiting=true",
    "reload name=idle waiting=true",
    "start name=gone waiting=true",
    // How many.
    "incr name=web",
    "incr name=web nb=2 waiting=true",
    "decr name=web nb=3 waiting=true",
    "incr name=web nb=-1 waiting=true",
    "incr name=web nb=1 waiting=true",
    "decr name=web nb=99 waiting=true",
    "decr name=web",
    "incr name=web nb=2 waiting=true",
    "incr name=solo waiting=true",
    "decr name=solo",
    "incr name=nope",
    "incr",
    "incr name=web nb=x",
    // Settings.
    "set name=web options={\"numprocesses\":2} waiting=true",
    "set name=web options={\"stop_signal\":2,\"graceful_timeout\":2.5,\"warmup_delay\":0.1,\"send_hup\":false} waiting=true",
    "get name=web keys=[\"numprocesses\",\"stop_signal\",\"graceful_timeout\",\"warmup_delay\",\"send_hup\"]",
    "set name=web options={\"warmup_delay\":0} waiting=true",
    "set name=web options={\"stop_signal\":\"INT\"}",
    "set name=web options={\"numprocesses\":\"2\"}",
    "set name=web options={\"graceful_timeout\":\"x\"}",
    "set name=web options={\"respawn\":\"True\"}",
    "set name=web options={\"uid\":[1]}",
    "set name=web options={\"env\":\"A=1\"}",
    "set name=web options={\"env\":{\"A\":1}}",
    "set name=web options={\"hooks\":[\"x\"]}",
    "set name=web options={\"hooks\":{\"before_lunch\":\"x\"}}",
    "set name=web options={\"stdout_stream\":{\"filename\":\"x\"}}",
    "set name=web options={\"stdout_stream\":3}",
    "set name=web options={\"rlimit_nofile\":\"x\"}",
    "set name=web options={\"rlimit_foo\":1}",
    "set name=web options={\"rlimit_nofile\":100} waiting=true",
    "set name=web options={\"foo\":1}",
    "set name=web options={\"priority\":1}",
    "set name=web options={\"max_age\":\"x\"}",
    "set name=web options={\"max_retry\":3,\"respawn\":true} waiting=true",
    "set name=web options={\"retry_in\":3}",
    "set name=solo options={\"numprocesses\":2} waiting=true",
    "set name=web options=[1]",
    "set name=web",
    "set name=nope options={}",
    "set name=web options={}",
    "set name=web options={} waiting=true",
    // Watchers that come and go.
    "add name=New cmd=\"sleep 2000\"",
    "status name=new",
    "options name=new",
    "add name=NEW cmd=\"sleep 2000\"",
    "add name=two cmd=sleep args=[\"2001\"] start=true waiting=true options={\"numprocesses\":2,\"copy_env\":true}",
    "add name=three cmd=sleep args=\"2002\" start=true",
    "add name=four cmd=\"sleep 3\" options={\"autostart\":false}",
    "add name=five cmd=\"sleep 3\" options={\"numprocesses\":\"2\"}",
    "add name=five cmd=\"sleep 3\" options=[1]",
    "add name=\"\" cmd=\"sleep 3\"",
    "add name=five",
    "add cmd=\"sleep 3\"",
    "add name=bad cmd=/nonexistent start=true waiting=true options={\"max_retry\":1}",
    "rm name=bad waiting=true",
    "rm name=new",
    "rm name=nope",
    "rm name=two nostop=true waiting=true",
    "rm",
    // Signals.
    "signal name=web signum=0",
    "signal name=web signum=cont",
    "signal name=web signum=cont pid=\"<pid of web>\"",
    "signal name=web signum=cont pid=1",
    "signal name=web signum=FOO",
    "signal name=web signum=999",
    "signal name=web",
    "signal name=nope signum=9",
    "signal name=web signum=cont children=true",
    "signal name=web signum=cont recursive=true",
    "signal name=web signum=cont childpid=1",
    "signal name=web signum=cont childpid=1 pid=1",
    "signal name=web signum=cont childpid=1 pid=\"<pid of web>\"",
    "kill name=web signum=FOO",
    "kill name=web pid=1 waiting=true",
    "kill name=web pid=x",
    "kill name=nope",
    "kill name=nope waiting=true",
    "kill",
    "kill name=web signum=9 graceful_timeout=1 waiting=true",
    // All of it.
    "reloadconfig waiting=true",
    "reloadconfig",
    "reload waiting=true",
    "stop waiting=true",
    "numprocesses",
    "start waiting=true",
];

/// Messages that are no such requests, as they are.
const MESSAGES: &[&str] = &[
    r#"{"command": "list"}"#,
    r#"{"command": "list", "id": [1, {"a": null}]}"#,
    r#"{"command": "list", "id": 1.50}"#,
    r#"{"command": "list", "id": "caf\u00e9 \ud83d\ude00 \" \\ \u007f"}"#,
    r#"{"command": "list", "id": 1, "msg_type": "dealer"}"#,
    r#"{"command": "list", "id": 1, "msg_type": "cast"}"#,
    r#"{"command": "frob", "id": 1, "msg_type": "cast"}"#,
    r#"{"command": "Frob\u00e9'", "id": 1}"#,
    r#"{"command": "list", "properties": null, "id": 1}"#,
    r#"{"command": "list", "properties": [], "id": 1}"#,
    r#"{"command": "list", "properties": [1], "id": 1}"#,
    r#"{"command": "list", "properties": "x", "id": 1}"#,
    r#"{"command": 5, "id": 1}"#,
    r#"{"command": null, "id": 1}"#,
    r#"{"id": 1}"#,
    "{}",
    "[1]",
    "5",
    "\"x\"",
    "null",
    "not json",
    "{\"command\": \"list\"",
    " ",
];

/// The message that a note stands for.
pub(crate) fn message(note: &str) -> String {
    let mut words = shell_words(note).into_iter();
    let command = words.next().expect("a command");
    let property = |word: String| {
        let (key, text) = word.split_once('=').expect("a property");
        (key.to_owned(), serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
    };
    let properties: Map<String, Value> = words.map(property).collect();
    // As clients write it: the command first.
    let id = json!("x");
    format!(
        "{{\"command\": {}, \"properties\": {}, \"id\": {id}}}",
        json!(command),
        spaced(&Value::Object(properties).to_string())
    )
}

/// Words are parted by blanks that do not stand within quotes.
fn shell_words(note: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in note.chars() {
        quoted ^= c == '"';
        match c {
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().expect("a word").push(c),
        }
    }
    words
}

/// `"waiting":true` as Python writes it: whoever waits for a reply looks for it.
fn spaced(json: &str) -> String {
    json.replace("\":", "\": ")
}

/// What a reply has, each field with its values in their order; nothing where there is none.
type Told = Option<Vec<(String, String)>>;

/// A field's value as both may have it: of what nobody can know beforehand only the type.
fn normal(path: &str, value: &Value, dir: &str) -> String {
    const UNKNOWN: &[&str] = &[
        "time",
        "pids[]",
        "started[]",
        "kept[]",
        "stopped[]",
        "mem_info1",
        "mem_info2",
        "cpu",
        "mem",
        "ctime",
        "pid",
        "process",
        "create_time",
        "age",
        "started",
        "fd",
        "port",
    ];
    let field = path.rsplit('.').next().unwrap_or(path);
    let kind = match value {
        Value::Number(number) if number.is_f64() => "a float",
        Value::Number(_) => "an int",
        Value::String(_) => "a text",
        _ => return value.to_string(),
    };
    if UNKNOWN.contains(&field) { kind.to_owned() } else { value.to_string().replace(dir, "DIR") }
}

fn told(reply: &Value, note: &str, dir: &str) -> Told {
    assert_eq!(reply["is_python"], true, "no text of Python's: {note}: {reply}");
    let fields = reply["fields"].as_array()?;
    let field = |field: &Value| {
        let path = field[0].as_str().expect("a path");
        (path.to_owned(), normal(path, &field[1], dir))
    };
    Some(fields.iter().map(field).collect())
}

fn value_of<'a>(fields: &'a [(String, String)], path: &str) -> Option<&'a str> {
    fields.iter().find(|(own, _)| own == path).map(|(_, value)| value.as_str())
}

/// Where two replies to the same differ.
fn differences(note: &str, circusd: &Told, agent: &Told) -> Vec<(Place, String)> {
    let place = |field: &str| (note.to_owned(), field.to_owned());
    let (theirs, ours) = match (circusd, agent) {
        (None, None) => return Vec::new(),
        (None, Some(ours)) => return vec![(place("no reply"), format!("only the agent says {ours:?}"))],
        (Some(theirs), None) => return vec![(place("no reply"), format!("only circusd says {theirs:?}"))],
        (Some(theirs), Some(ours)) => (theirs, ours),
    };
    let (said, own) = (|path| value_of(theirs, path), |path| value_of(ours, path));
    if said("status") != own("status") {
        return vec![(place("status"), format!("circusd says {theirs:?}, the agent {ours:?}"))];
    }
    if said("tb").is_some_and(|tb| tb != "null") {
        // It stumbled, and says over what.
        let whys = (said("reason"), own("errno"), own("reason"));
        return vec![(place("tb"), format!("circusd says {:?}, the agent {:?} {:?}", whys.0, whys.1, whys.2))];
    }
    let mut found: Vec<(Place, String)> = Vec::new();
    let by_field = |fields: &[(String, String)]| {
        let mut by_field: BTreeMap<String, Vec<String>> = BTreeMap::new();
        fields.iter().for_each(|(path, value)| by_field.entry(path.clone()).or_default().push(value.clone()));
        by_field
    };
    let (values, own) = (by_field(theirs), by_field(ours));
    let all: BTreeSet<&String> = values.keys().chain(own.keys()).collect();
    for path in all.into_iter().filter(|path| values.get(*path) != own.get(*path)) {
        found.push((place(path), format!("circusd has {:?}, the agent {:?}", values.get(path), own.get(path))));
    }
    let order = |fields: &[(String, String)]| {
        let both = fields.iter().filter(|(path, _)| values.contains_key(path) && values.get(path) == own.get(path));
        both.map(|(path, _)| path.clone()).collect::<Vec<_>>()
    };
    if order(theirs) != order(ours) {
        found.push((place("order"), format!("circusd has {:?}, the agent {:?}", order(theirs), order(ours))));
    }
    found
}

#[test]
fn each_request_is_answered_as_circusd_answers_it_but_for_what_the_page_names() {
    let home = Home::new();
    let dirs = ["circusd", "agent"].map(|name| home.file(&format!("{name}.dir")).display().to_string());
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).expect("a directory"));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/circus").display().to_string();
    let file = |dir: &str| CONFIG.replace("DIR", dir).replace("HERE", &here);
    let _circusd = Circusd::start(&home, &format!("[circus]\n{}", file(&dirs[0])));
    let agent = home.agent("web-1", &file(&dirs[1]));
    agent.comes_to("gone", "failed");
    let mut asking = dirs.each_ref().map(|dir| Script::start(&home, "ask.py", &[&format!("ipc://{dir}/endpoint")]));

    let notes = REQUESTS.iter().map(|note| (*note, message(note)));
    let messages = MESSAGES.iter().map(|message| (*message, (*message).to_owned()));
    let last = [("quit waiting=true", message("quit waiting=true"))];
    let mut found: Vec<(Place, String)> = Vec::new();
    for (note, message) in messages.chain(notes).chain(last) {
        let replies: Vec<Told> =
            asking.iter_mut().zip(&dirs).map(|(asking, dir)| told(&asking.ask(&message), note, dir)).collect();
        found.extend(differences(note, &replies[0], &replies[1]));
    }
    page::are_those_of("### Answers that differ", &found);
}
