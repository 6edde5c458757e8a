//! Replies, as circusd has them.

use serde_json::{Map, Value, json};

use super::python::{Json, dumps, repr};
use crate::model::command::{Command, Outcome, Patience, Refusal, Reply};
use crate::wire::{Form, reply_in};

/// The fields of what a process uses, as Circus has them; what a hook adds is called something else.
pub const PROCESS: &[&str] = &[
    "mem_info1",
    "mem_info2",
    "cpu",
    "mem",
    "ctime",
    "pid",
    "username",
    "nice",
    "create_time",
    "age",
    "cmdline",
    "children",
    "started",
    "wid",
];
/// The fields of a socket; of the last three it has one or two.
const SOCKET: &[&str] = &["fd", "name", "backlog", "host", "port", "path"];
/// The agent's options.
const GLOBAL_OPTIONS: &[&str] = &["endpoint", "stats_endpoint", "pubsub_endpoint", "check_delay", "multicast_endpoint"];
/// Options that every watcher has and that Circus does not tell of: ours, and those of its own that it takes out.
const UNTOLD_OPTIONS: &[&str] = &[
    "autostart",
    "copy_path",
    "hook_timeout",
    "hooks",
    "idle_timeout",
    "lease_ttl",
    "max_per_node",
    "stdin_socket",
    "virtualenv",
    "virtualenv_py_ver",
];
/// Options that it tells of even where they are not set.
const UNSET_OPTIONS: &[&str] = &["executable", "gid", "shell_args", "uid", "working_dir"];

/// The text of a reply to a request; `asked` is what it asks, where it was understood, and `time` in seconds of the Unix
/// epoch.
///
/// It begins with `status` and `time`, or where it failed with `status reason tb time errno`, and ends with `id`. In
/// between are the fields of Circus's command; none for one that takes its time and is not waited for. A watcher is called
/// what the asker calls it, in whatever case. Of several nodes there are `nodes`, or one of circusd-cluster's
/// [forms](Form).
pub fn reply_text(asked: Option<&Command>, form: Form, outcome: &Outcome, id: &Value, time: f64) -> String {
    let mut ours = reply_in(form, outcome, id, time);
    if let Outcome::Own(Reply::Refused(Refusal::UnknownCommand(name))) = outcome
        && ours.is_object()
    {
        ours["reason"] = json!(format!("unknown command: {}", repr(name)));
    }
    dumps(&match ours {
        Value::Array(each) => Json::List(each.into_iter().map(|one| restated(asked, one, true)).collect()),
        one => restated(asked, one, form != Form::Ours),
    })
}

/// One node's reply, or the one around several; `named`: with the node that it is of.
fn restated(asked: Option<&Command>, ours: Value, named: bool) -> Json {
    let Value::Object(mut ours) = ours else { return ours.into() };
    let id = ours.remove("id");
    let failed = ours.get("status") == Some(&json!("error"));
    let mut said = if failed { error(&mut ours) } else { head(asked, &mut ours) };
    if let Some(Value::Object(nodes)) = ours.remove("nodes") {
        let nodes = nodes.into_iter().map(|(node, part)| (node, restated(asked, part, false)));
        said.push(("nodes".into(), Json::Fields(nodes.collect())));
        said.extend(picked(&mut ours, &["missing"]));
    } else if let (Some(asked), false) = (asked, failed) {
        said.extend(body(asked, &mut ours));
    }
    said.extend(picked(&mut ours, if named { &["err", "node"] } else { &[] }));
    said.extend(id.map(|id| ("id".to_owned(), id.into())));
    Json::Fields(said)
}

/// All that is said of a failure: the reason without our suggestion.
fn error(ours: &mut Map<String, Value>) -> Vec<(String, Json)> {
    let hint = ours.get("hint").and_then(Value::as_str).map(|hint| format!("; did you mean {hint}?"));
    if let (Some(hint), Some(Value::String(reason))) = (hint, ours.get_mut("reason"))
        && reason.ends_with(&hint)
    {
        reason.truncate(reason.len() - hint.len());
    }
    picked(ours, &["status", "reason", "tb", "time", "errno"])
}

/// What a reply begins with. A watcher that was asked for has its own status in place of the request's.
fn head(asked: Option<&Command>, ours: &mut Map<String, Value>) -> Vec<(String, Json)> {
    if let (Some(Command::Status { watcher: Some(_) }), Some(word)) = (asked, ours.get_mut("status")) {
        *word = status(word);
    }
    picked(ours, &["status", "time"])
}

/// What a command that was done has to tell.
fn body(asked: &Command, ours: &mut Map<String, Value>) -> Vec<(String, Json)> {
    let waited = |patience: &Patience| *patience == Patience::Settled;
    let field = |key: &str, value: Json| vec![(key.to_owned(), value)];
    let mut taken = |key: &str| ours.remove(key).unwrap_or_default();
    match asked {
        Command::List { watcher: None } => picked(ours, &["watchers"]),
        Command::List { watcher: Some(_) } => picked(ours, &["pids"]),
        Command::Status { watcher: None } => {
            let words = object(taken("statuses")).into_iter().map(|(name, word)| (name, status(&word)));
            field("statuses", Value::Object(words.collect()).into())
        }
        // It has its word already.
        Command::Status { watcher: Some(_) } => Vec::new(),
        Command::NumWatchers => picked(ours, &["numwatchers"]),
        Command::NumProcesses { watcher: None } => picked(ours, &["numprocesses"]),
        Command::NumProcesses { watcher: Some(name) } => {
            let count = picked(ours, &["numprocesses"]);
            [count, field("watcher_name", json!(name).into())].concat()
        }
        Command::Stats { watcher: None, .. } => {
            let infos = object(taken("infos")).into_iter().map(|(watcher, info)| (watcher, processes(info)));
            field("infos", Json::Fields(infos.collect()))
        }
        Command::Stats { watcher: Some(name), pid: None, .. } => {
            let info = processes(taken("info"));
            [field("name", json!(name).into()), field("info", info)].concat()
        }
        Command::Stats { watcher: Some(_), pid: Some(pid), .. } => {
            let info = process(taken("info"));
            [field("process", json!(pid).into()), field("info", info)].concat()
        }
        Command::AgentStats => field("info", process(taken("info"))),
        Command::Options { keys, .. } => field("options", options(keys.as_deref(), object(taken("options")))),
        Command::GlobalOptions { .. } => {
            let options = picked(&mut object(taken("options")), GLOBAL_OPTIONS);
            field("options", Json::Fields(options))
        }
        Command::ListSockets => {
            let Value::Array(sockets) = taken("sockets") else { return Vec::new() };
            // One that is not open yet has no descriptor, and clients want a number.
            let open = sockets.into_iter().map(object).filter(|socket| !socket["fd"].is_null());
            let told = open.map(|mut socket| Json::Fields(picked(&mut socket, SOCKET)));
            field("sockets", Json::List(told.collect()))
        }
        Command::Start { pattern: Some(_), patience } if waited(patience) => info(ours, &["started", "kept"]),
        Command::Stop { pattern: Some(_), patience } if waited(patience) => info(ours, &[]),
        Command::Restart { pattern: Some(_), patience } | Command::Reload { watcher: Some(_), patience, .. }
            if waited(patience) =>
        {
            info(ours, &["stopped", "started", "kept"])
        }
        Command::Resize { patience, .. } if waited(patience) || ours.contains_key("singleton") => {
            picked(ours, &["numprocesses", "singleton"])
        }
        Command::Add { start: true, patience, .. } if waited(patience) => picked(ours, &["started", "kept"]),
        Command::Start { .. }
        | Command::Stop { .. }
        | Command::Restart { .. }
        | Command::Reload { .. }
        | Command::ReloadConfig { .. }
        | Command::Resize { .. }
        | Command::Set { .. }
        | Command::Add { .. }
        | Command::Remove { .. }
        | Command::Signal { .. }
        | Command::Kill { .. }
        | Command::Quit { .. } => Vec::new(),
        // Circus does not have it: whoever asks knows our words.
        _ => std::mem::take(ours).into_iter().map(|(key, value)| (key, value.into())).collect(),
    }
}

/// Fields in this order, those that are there.
fn picked(fields: &mut Map<String, Value>, keys: &[&str]) -> Vec<(String, Json)> {
    let field = |key: &&str| Some(((*key).to_owned(), fields.remove(*key)?.into()));
    keys.iter().filter_map(field).collect()
}

/// What became of the processes of the one watcher that was waited for; of several nothing is said.
fn info(ours: &mut Map<String, Value>, keys: &[&str]) -> Vec<(String, Json)> {
    let info = match ours.remove("info") {
        None => return Vec::new(),
        Some(Value::Object(mut pids)) => Json::Fields(picked(&mut pids, keys)),
        Some(nothing) => nothing.into(),
    };
    vec![("info".into(), info)]
}

/// The word for how a watcher is, of the four that Circus has.
fn status(ours: &Value) -> Value {
    match ours.as_str() {
        // All of it runs.
        Some("unhealthy") => json!("active"),
        // Some of it is yet to run, and will be.
        Some("backoff") => json!("starting"),
        // Nothing of it runs here, whatever has it run one day.
        Some("listening" | "scheduled" | "standby" | "failed") => json!("stopped"),
        _ => ours.clone(),
    }
}

/// What each process of a watcher uses, by pid: in the order of their numbers, as far as those are their age.
fn processes(infos: Value) -> Json {
    let mut infos: Vec<(String, Value)> = object(infos).into_iter().collect();
    infos.sort_by_key(|(pid, _)| pid.parse().unwrap_or(u64::MAX));
    Json::Fields(infos.into_iter().map(|(pid, info)| (pid, process(info))).collect())
}

/// What one uses, or that there is none.
fn process(info: Value) -> Json {
    let Value::Object(mut info) = info else { return info.into() };
    let mut fields = picked(&mut info, PROCESS);
    for (key, value) in &mut fields {
        if let ("children", Json::Value(Value::Array(children))) = (key.as_str(), &mut *value) {
            *value = Json::List(std::mem::take(children).into_iter().map(process).collect());
        }
    }
    // What a hook has added.
    fields.extend(info.into_iter().map(|(key, value)| (key, value.into())));
    Json::Fields(fields)
}

/// A watcher's options: Circus's and those that the file has, or in the order of their `keys` those that are asked for.
fn options(keys: Option<&[String]>, mut ours: Map<String, Value>) -> Json {
    if let Some(Value::String(name)) = ours.get_mut("__name__")
        && !name.starts_with("plugin:")
    {
        // The section in which it stands.
        name.insert_str(0, "watcher:");
    }
    if let Some(grace) = ours.get_mut("graceful_timeout")
        && let Some(seconds) = grace.as_f64()
    {
        *grace = json!(seconds);
    }
    if let Some(keys) = keys {
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        keys.dedup();
        return Json::Fields(picked(&mut ours, &keys));
    }
    let untold = |key: &str| UNTOLD_OPTIONS.contains(&key) || key.starts_with("rlimit_");
    ours.retain(|key, value| !untold(key) && (!value.is_null() || UNSET_OPTIONS.contains(&key.as_str())));
    Value::Object(ours).into()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Answer, Part, Sample, Usage};
    use crate::model::event::{Address, Bound};
    use crate::model::names::{NodeName, SocketName, WatcherName};
    use crate::model::snapshot::{SocketView, WatcherState};
    use crate::model::spec::SocketKind;
    use crate::wire::parse_request;
    use std::time::Duration;

    fn name(text: &str) -> WatcherName {
        WatcherName::parse(text).unwrap()
    }

    /// What is said to a request, where this is what it comes to.
    fn said(request: &str, outcome: &Outcome) -> String {
        match parse_request(request) {
            Ok(request) => reply_text(Some(&request.command), request.form, outcome, &request.id, 12.5),
            Err(bad) => reply_text(None, Form::Ours, &Outcome::Own(Reply::Refused(bad.refusal)), &bad.id, 12.5),
        }
    }

    fn done(request: &str, answer: Answer) -> String {
        said(request, &Outcome::Own(Reply::Done(answer)))
    }

    fn refused(request: &str, refusal: Refusal) -> String {
        said(request, &Outcome::Own(Reply::Refused(refusal)))
    }

    fn usage(program: &str) -> Usage {
        Usage {
            program: program.into(),
            user: "root".into(),
            nice: 0,
            resident: 1_542_464,
            virtual_size: 2_560_000,
            memory_percent: 0.006,
            cpu_percent: 0.0,
            cpu_time: Duration::ZERO,
            age: Duration::from_millis(2_810),
            started: 1_795_376_167.42,
        }
    }

    /// Recorded from circusd 0.19.0, but for the numbers of processes and times.
    #[test]
    fn replies_are_circuss_to_the_byte() {
        let sample = |pid, watcher: &str| Sample {
            watcher: name(watcher),
            wid: 1,
            pid,
            usage: Some(usage("sleep")),
            children: vec![],
            extra: None,
        };
        let info = |pid: u32| {
            format!(
                r#"{{"mem_info1": "1.47M", "mem_info2": "2.44M", "cpu": 0.0, "mem": 0.006, "ctime": "0:00.00", "pid": {pid}, "username": "root", "nice": 0, "create_time": 1795376167.42, "age": 2.81, "cmdline": "sleep", "children": [], "started": 1795376167.42, "wid": 1}}"#
            )
        };
        let started = Answer::Started { started: vec![3], kept: vec![1, 2], stopped: vec![4] };
        for (request, answer, reply) in [
            (
                r#"{"command": "list", "properties": {}, "id": [1, {"a": null}]}"#,
                Answer::Watchers(vec![name("Sleep Two"), name("web")]),
                r#"{"status": "ok", "time": 12.5, "watchers": ["sleep two", "web"], "id": [1, {"a": null}]}"#.into(),
            ),
            (
                r#"{"command": "numprocesses", "properties": {"name": "WEB"}}"#,
                Answer::NumProcesses { watcher: Some(name("web")), count: 2 },
                r#"{"status": "ok", "time": 12.5, "numprocesses": 2, "watcher_name": "WEB", "id": null}"#.into(),
            ),
            (
                r#"{"command": "stats", "properties": {"name": "WEB"}}"#,
                Answer::Stats { watcher: Some(name("web")), pid: None, samples: vec![sample(10_000, "web"), sample(9_999, "web")], idle: vec![] },
                format!(
                    r#"{{"status": "ok", "time": 12.5, "name": "WEB", "info": {{"9999": {}, "10000": {}}}, "id": null}}"#,
                    info(9_999),
                    info(10_000)
                ),
            ),
            (
                r#"{"command": "stats", "properties": {"name": "web", "process": 7}}"#,
                Answer::Stats { watcher: Some(name("web")), pid: Some(7), samples: vec![sample(7, "web")], idle: vec![] },
                format!(r#"{{"status": "ok", "time": 12.5, "process": 7, "info": {}, "id": null}}"#, info(7)),
            ),
            (
                r#"{"command": "start", "properties": {"name": "web", "waiting": true}}"#,
                started.clone(),
                r#"{"status": "ok", "time": 12.5, "info": {"started": [3], "kept": [1, 2]}, "id": null}"#.into(),
            ),
            (
                r#"{"command": "restart", "properties": {"name": "web", "waiting": true}}"#,
                started.clone(),
                r#"{"status": "ok", "time": 12.5, "info": {"stopped": [4], "started": [3], "kept": [1, 2]}, "id": null}"#.into(),
            ),
            (
                r#"{"command": "stop", "properties": {"name": "web", "waiting": true}}"#,
                Answer::Stopped,
                r#"{"status": "ok", "time": 12.5, "info": null, "id": null}"#.into(),
            ),
            (
                r#"{"command": "reload", "properties": {"waiting": true}}"#,
                started,
                r#"{"status": "ok", "time": 12.5, "id": null}"#.into(),
            ),
            (
                r#"{"command": "incr", "properties": {"name": "web"}}"#,
                Answer::Resized { numprocesses: 3, singleton: false },
                r#"{"status": "ok", "time": 12.5, "id": null}"#.into(),
            ),
            (
                r#"{"command": "decr", "properties": {"name": "solo"}}"#,
                Answer::Resized { numprocesses: 1, singleton: true },
                r#"{"status": "ok", "time": 12.5, "numprocesses": 1, "singleton": true, "id": null}"#.into(),
            ),
            (
                r#"{"command": "add", "properties": {"name": "a", "cmd": "b", "start": true, "waiting": true}}"#,
                Answer::Added { started: vec![5] },
                r#"{"status": "ok", "time": 12.5, "started": [5], "kept": [], "id": null}"#.into(),
            ),
        ] {
            assert_eq!(done(request, answer), reply, "{request}");
        }
    }

    #[test]
    fn failures_are_circuss_to_the_byte() {
        let hint = Some(name("web"));
        for (request, refusal, reply) in [
            (
                r#"{"command": "list", "properties": {"name": "wbe"}, "id": 1.50}"#,
                Some(Refusal::NoSuchWatcher { name: "wbe".into(), hint }),
                r#"{"status": "error", "reason": "program wbe not found", "tb": null, "time": 12.5, "errno": 3, "id": 1.5}"#,
            ),
            (
                "not json",
                None,
                r#"{"status": "error", "reason": "json invalid", "tb": null, "time": 12.5, "errno": 1, "id": null}"#,
            ),
            (
                r#"{"command": "Frob\u00e9'", "id": 3}"#,
                None,
                r#"{"status": "error", "reason": "unknown command: \"Frob\u00e9'\"", "tb": null, "time": 12.5, "errno": 2, "id": 3}"#,
            ),
            (
                r#"{"command": "get", "properties": {"name": "web"}}"#,
                None,
                r#"{"status": "error", "reason": "message invalid 'keys' is missing", "tb": null, "time": 12.5, "errno": 3, "id": null}"#,
            ),
        ] {
            let said = match refusal {
                Some(refusal) => refused(request, refusal),
                None => said(request, &Outcome::Own(Reply::Done(Answer::Ok))),
            };
            assert_eq!(said, reply, "{request}");
        }
    }

    #[test]
    fn each_state_is_one_of_circuss_four() {
        for (state, word) in [
            (WatcherState::Stopped, "stopped"),
            (WatcherState::Starting, "starting"),
            (WatcherState::Active, "active"),
            (WatcherState::Unhealthy, "active"),
            (WatcherState::Backoff, "starting"),
            (WatcherState::Listening, "stopped"),
            (WatcherState::Scheduled, "stopped"),
            (WatcherState::Standby, "stopped"),
            (WatcherState::Stopping, "stopping"),
            (WatcherState::Failed, "stopped"),
        ] {
            assert_eq!(status(&json!(state.word())), word);
        }
    }

    #[test]
    fn a_socket_that_is_not_open_yet_is_not_told_of() {
        let view = |name: &str, bound| SocketView {
            name: SocketName::parse(name).unwrap(),
            kind: SocketKind::Stream,
            backlog: 2048,
            reuse_port: false,
            bound,
            watchers: vec![],
        };
        let bound = |fd, address| Some(Bound { fd, address });
        let front = view("front", bound(8, Address::Inet("127.0.0.1:43383".parse().unwrap())));
        let back = view("back", bound(7, Address::Unix("/run/back.sock".into())));
        assert_eq!(
            done(r#"{"command": "listsockets"}"#, Answer::Sockets(vec![view("new", None), front, back])),
            r#"{"status": "ok", "time": 12.5, "sockets": [{"fd": 7, "name": "back", "backlog": 2048, "path": "/run/back.sock"}, {"fd": 8, "name": "front", "backlog": 2048, "host": "127.0.0.1", "port": 43383}], "id": null}"#
        );
    }

    #[test]
    fn several_nodes_answer_each_for_itself_and_commands_of_ours_as_everywhere() {
        let node = |name: &str| NodeName::parse(name).unwrap();
        let count = |count| Part::Own(Reply::Done(Answer::NumWatchers(count)));
        let relayed = json!({"status": "ok", "time": 2.0, "numwatchers": 4, "more": true, "id": 9}).to_string();
        let parts = vec![(node("a"), count(3)), (node("b"), Part::Relayed(relayed))];
        let all = |missing| Outcome::Gathered { parts: parts.clone(), missing };
        assert_eq!(
            said(r#"{"command": "numwatchers", "properties": {"all": true}, "id": 1}"#, &all(None)),
            r#"{"status": "ok", "time": 12.5, "nodes": {"a": {"status": "ok", "time": 12.5, "numwatchers": 3}, "b": {"status": "ok", "time": 2.0, "numwatchers": 4}}, "id": 1}"#
        );
        let missing = said(r#"{"command": "numwatchers", "properties": {"all": true}}"#, &all(Some("no Redis".into())));
        assert!(missing.starts_with(r#"{"status": "error", "reason": "the other nodes are not known: no Redis", "tb": null, "time": 12.5, "errno": 0, "nodes": {"a""#), "{missing}");
        let wrapped = r#"{"node": null, "broadcast": true, "cmd": {"command": "numwatchers", "properties": {}, "id": "x"}, "cluster_timeout": 4}"#;
        assert_eq!(
            said(wrapped, &all(Some("no Redis".into()))),
            r#"[{"status": "ok", "time": 12.5, "numwatchers": 3, "node": "a", "id": "x"}, {"status": "ok", "time": 2.0, "numwatchers": 4, "node": "b", "id": "x"}, {"err": "No matching node", "id": "x"}]"#
        );
        assert_eq!(
            done(r#"{"command": "version", "id": 1}"#, Answer::Version("0.1.0")),
            r#"{"status": "ok", "time": 12.5, "version": "0.1.0", "id": 1}"#
        );
    }
}
