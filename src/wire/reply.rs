//! Replies: from [`Outcome`] to JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::command::{Answer, NodeRow, Outcome, Part, Refusal, Reply, Sample, Usage};
use crate::model::names::{NodeName, WatcherName};
use crate::model::snapshot::{LeaseView, Phase, ProcessView, Snapshot, StoreView, WatcherView};
use crate::model::spec::{Output, Sink, StreamSpec, WID, WatcherSpec};

/// The reply to a request; `time` in seconds of the Unix epoch.
///
/// Every reply has `status`, `time` and `id`. What is there besides, by command (Circus's where Circus has it):
///
/// - `list`: `watchers` `[name, …]`, lower case, sorted; with a name `pids` `[pid, …]`
/// - `status`: `statuses` `{NAME: word}`, and of ours `node`, `cluster`, `phase` (`starting` `running` `stopping`),
///   `store` `{state: "up"|"down"|"unknown", reason?}` and `watchers` `[WATCHER, …]` in start order. With a name the
///   watcher's word stands in `status` itself, as Circus has it, and `watchers` holds that one.
///   - WATCHER: `name state note numprocesses processes restarts last_exit lease`; `processes` `[{wid, pid, state,
///     age}]`; `last_exit` `{text, ago}` or null; `lease` LEASE or null
///   - the words: `stopped starting active backoff standby stopping failed`
/// - `numwatchers`: `numwatchers`; `numprocesses`: `numprocesses`, with a name also `watcher_name`
/// - `stats`: `infos` `{NAME: {"PID": INFO}}`; with a name `name` and `info` `{"PID": INFO}`; with a pid also
///   `process`, and `info` INFO. INFO is Circus's object, or the text `No such process (stopped?)`.
/// - `options`: `options`, Circus's keys of a watcher
/// - `start` `restart`: `info` `{started, kept, stopped}`, lists of pids, where one watcher was waited for
/// - `incr` `decr`: `numprocesses`, and `singleton: true` where there is one at most
/// - `version`: `version`
/// - `nodes`: `roster` `[{name, state, seen, version, host, pid, up, config, watchers, holds, waits}]`, sorted by name
/// - `leases`: `leases` `[LEASE, …]`; LEASE: `name key role token ttl left holder latency held_for why`
/// - `failover`: `from`, `to` (or null), `token`
///
/// An error has `reason`, `code` ([`error_code`]), `errno` and `tb` (null), and where it is known `hint` (a name like
/// the one that is not there) or `holder` (the node to ask instead).
///
/// For several nodes: `nodes` `{NODE: reply without id}`; a node that did not answer has an error with `silent: true`.
/// `status` is then `error`, with a `reason` that names them, unless every node's is none. Where the nodes are not all
/// known, `missing` says why, and `status` is `error` too.
///
/// Ages, times and the like are seconds, with a fraction.
pub fn reply_json(outcome: &Outcome, id: &Value, time: f64) -> Value {
    let mut reply = match outcome {
        Outcome::Own(reply) => own(reply),
        Outcome::Relayed(text) => relayed(text),
        Outcome::Gathered { parts, missing } => gathered(parts, missing.as_deref(), time),
    };
    reply.entry("time").or_insert_with(|| json!(time));
    reply.insert("id".into(), id.clone());
    Value::Object(reply)
}

type Object = Map<String, Value>;

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn own(reply: &Reply) -> Object {
    match reply {
        Reply::Done(answer) => done(answer),
        Reply::Refused(refusal) => refused(refusal),
    }
}

/// Another node's reply. It was written by an agent like this one, but perhaps of another version, or by nobody we
/// know: what is no reply at all is an error, not silence.
fn relayed(text: &str) -> Object {
    match serde_json::from_str(text) {
        Ok(Value::Object(reply)) if reply.contains_key("status") => reply,
        _ => refused(&Refusal::Failed("the node's answer could not be read".into())),
    }
}

fn gathered(parts: &[(NodeName, Part)], missing: Option<&str>, time: f64) -> Object {
    let mut nodes = Object::new();
    let mut failures = Vec::new();
    let mut errno = 0;
    for (node, part) in parts {
        let mut reply = match part {
            Part::Own(reply) => own(reply),
            Part::Relayed(text) => relayed(text),
            Part::Silent(reason) => {
                let mut silent = refused(&Refusal::Unavailable(reason.clone()));
                silent.insert("silent".into(), json!(true));
                silent
            }
        };
        reply.remove("id");
        reply.entry("time").or_insert_with(|| json!(time));
        if reply["status"] == "error" {
            let reason = reply.get("reason").and_then(Value::as_str).unwrap_or("it failed");
            failures.push(format!("{node}: {reason}"));
            if errno == 0 {
                errno = reply.get("errno").and_then(Value::as_i64).unwrap_or(0);
            }
        }
        nodes.insert(node.to_string(), Value::Object(reply));
    }
    if let Some(why) = missing {
        failures.push(format!("the other nodes are not known: {why}"));
    }
    let mut reply = match failures.is_empty() {
        true => object(json!({"status": "ok"})),
        false => object(json!({"status": "error", "reason": failures.join("; "), "tb": null, "errno": errno})),
    };
    reply.insert("nodes".into(), Value::Object(nodes));
    if let Some(why) = missing {
        reply.insert("missing".into(), json!(why));
    }
    reply
}

/// A word for each reason, for programs: it stays when the text is reworded.
pub fn error_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotJson(_) => "not-json",
        Refusal::UnknownCommand(_) => "unknown-command",
        Refusal::BadMessage(_) => "bad-message",
        Refusal::NoSuchWatcher { .. } => "no-such-watcher",
        Refusal::NotSingleton(_) => "not-singleton",
        Refusal::NoSuchProcess { .. } => "no-such-process",
        Refusal::NotHolder { .. } => "not-holder",
        Refusal::NoCandidate(_) => "no-candidate",
        Refusal::Stopping => "stopping",
        Refusal::NoCluster => "no-cluster",
        Refusal::Unavailable(_) => "unavailable",
        Refusal::Failed(_) => "failed",
        Refusal::Exists(_) => "exists",
        Refusal::BadConfig(_) => "bad-config",
    }
}

fn refused(refusal: &Refusal) -> Object {
    let mut reply = object(json!({
        "status": "error",
        "reason": refusal.to_string(),
        "code": error_code(refusal),
        "errno": refusal.errno(),
        "tb": null,
    }));
    match refusal {
        Refusal::NoSuchWatcher { hint: Some(hint), .. } => {
            reply.insert("hint".into(), json!(hint.as_str()));
        }
        Refusal::NotHolder { holder: Some(holder), .. } => {
            reply.insert("holder".into(), json!(holder));
        }
        Refusal::NotJson(detail) => {
            reply.insert("detail".into(), json!(detail));
        }
        _ => {}
    }
    reply
}

fn done(answer: &Answer) -> Object {
    let ok = |fields: Value| {
        let mut reply = object(fields);
        reply.insert("status".into(), json!("ok"));
        reply
    };
    match answer {
        Answer::Ok => ok(json!({})),
        Answer::Watchers(names) => {
            // Circus lists them lower-cased, and people's scripts compare with that.
            let mut names: Vec<String> = names.iter().map(|name| name.as_str().to_lowercase()).collect();
            names.sort();
            ok(json!({"watchers": names}))
        }
        Answer::Pids(pids) => ok(json!({"pids": pids})),
        Answer::Status(node) => {
            let statuses: Object =
                node.watchers.iter().map(|watcher| (watcher.name.to_string(), json!(watcher.state.word()))).collect();
            let mut reply = ok(snapshot(node));
            reply.insert("statuses".into(), Value::Object(statuses));
            reply
        }
        Answer::WatcherStatus(node) => {
            let mut reply = object(snapshot(node));
            let word = node.watchers.first().map_or("stopped", |watcher| watcher.state.word());
            reply.insert("status".into(), json!(word));
            reply
        }
        Answer::NumWatchers(count) => ok(json!({"numwatchers": count})),
        Answer::NumProcesses { watcher: None, count } => ok(json!({"numprocesses": count})),
        Answer::NumProcesses { watcher: Some(watcher), count } => {
            ok(json!({"numprocesses": count, "watcher_name": watcher.as_str()}))
        }
        Answer::Stats { watcher, pid, samples } => ok(stats(watcher.as_ref(), *pid, samples)),
        Answer::AgentStats(_) | Answer::GlobalOptions(_) | Answer::Sockets | Answer::Plan(_) | Answer::Added { .. } => {
            ok(json!({}))
        }
        Answer::Options { spec, numprocesses, .. } => ok(json!({"options": options(spec, *numprocesses)})),
        Answer::Started { started, kept, stopped } => {
            ok(json!({"info": {"started": started, "kept": kept, "stopped": stopped}}))
        }
        Answer::Resized { numprocesses, singleton: false } => ok(json!({"numprocesses": numprocesses})),
        Answer::Resized { numprocesses, singleton: true } => {
            ok(json!({"numprocesses": numprocesses, "singleton": true}))
        }
        Answer::Version(version) => ok(json!({"version": version})),
        Answer::Nodes(rows) => ok(json!({"roster": rows.iter().map(row).collect::<Vec<_>>()})),
        Answer::Leases(views) => ok(json!({"leases": views.iter().map(lease).collect::<Vec<_>>()})),
        Answer::Moved { from, to, token } => {
            ok(json!({"from": from.as_str(), "to": to.as_ref().map(|to| to.as_str()), "token": token}))
        }
    }
}

/// Seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// Seconds, to the microsecond: answers of Redis take less than a millisecond.
fn fine_seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

fn snapshot(node: &Snapshot) -> Value {
    let phase = match node.phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
    };
    let store = match &node.store {
        StoreView::Unknown => json!({"state": "unknown"}),
        StoreView::Up => json!({"state": "up"}),
        StoreView::Down { reason } => json!({"state": "down", "reason": reason}),
    };
    json!({
        "node": node.node.as_str(),
        "cluster": node.cluster.as_str(),
        "phase": phase,
        "store": store,
        "watchers": node.watchers.iter().map(watcher).collect::<Vec<_>>(),
    })
}

fn watcher(view: &WatcherView) -> Value {
    json!({
        "name": view.name.as_str(),
        "state": view.state.word(),
        "note": view.note,
        "numprocesses": view.numprocesses,
        "processes": view.processes.iter().map(process).collect::<Vec<_>>(),
        "restarts": view.restarts,
        "last_exit": view.last_exit.map(|(exit, ago)| json!({"text": exit.to_string(), "ago": seconds(ago)})),
        "lease": view.lease.as_ref().map(lease),
    })
}

fn process(view: &ProcessView) -> Value {
    json!({"wid": view.wid, "pid": view.pid, "state": view.state, "age": seconds(view.age)})
}

fn lease(view: &LeaseView) -> Value {
    json!({
        "name": view.watcher.as_str(),
        "key": view.key,
        "role": view.role.word(),
        "token": view.token,
        "ttl": seconds(view.ttl),
        "left": view.left.map(seconds),
        "holder": view.holder,
        "latency": view.latency.map(fine_seconds),
        "held_for": view.held_for.map(seconds),
        "why": view.why,
    })
}

fn row(row: &NodeRow) -> Value {
    json!({
        "name": row.name.as_str(),
        "state": row.state.word(),
        "seen": seconds(row.seen),
        "version": row.about.version,
        "host": row.about.host,
        "pid": row.about.pid,
        "up": seconds(row.about.up),
        "config": row.about.config,
        "watchers": row.about.watchers,
        "holds": row.about.holds,
        "waits": row.about.waits,
    })
}

fn stats(watcher: Option<&WatcherName>, pid: Option<u32>, samples: &[Sample]) -> Value {
    match (watcher, pid) {
        (None, _) => {
            let mut infos = Object::new();
            for sample in samples {
                let of_watcher = infos.entry(sample.watcher.as_str()).or_insert_with(|| json!({}));
                of_watcher[sample.pid.to_string()] = info(sample);
            }
            json!({"infos": infos})
        }
        (Some(name), None) => {
            let info: Object = samples.iter().map(|sample| (sample.pid.to_string(), info(sample))).collect();
            json!({"name": name.as_str(), "info": info})
        }
        (Some(name), Some(pid)) => {
            let info = samples.iter().find(|sample| sample.pid == pid).map_or_else(vanished, info);
            json!({"name": name.as_str(), "process": pid, "info": info})
        }
    }
}

fn vanished() -> Value {
    json!("No such process (stopped?)")
}

/// Circus's INFO object of one process.
pub(crate) fn info(sample: &Sample) -> Value {
    let Some(usage) = &sample.usage else { return vanished() };
    let Usage { program, user, nice, resident, virtual_size, .. } = usage;
    json!({
        "mem_info1": bytes(*resident),
        "mem_info2": bytes(*virtual_size),
        "cpu": round(usage.cpu_percent, 1),
        "mem": round(usage.memory_percent, 3),
        "ctime": processor_time(usage.cpu_time),
        "pid": sample.pid,
        "username": user,
        "nice": nice,
        "create_time": round(usage.started, 2),
        "age": round(usage.age.as_secs_f64(), 2),
        "cmdline": program,
        "children": [],
        "started": round(usage.started, 2),
        "wid": sample.wid,
    })
}

fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

/// `123B`, `8.50M`: powers of 1024, two digits.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 8] = ["K", "M", "G", "T", "P", "E", "Z", "Y"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2}{}", UNITS[unit])
}

/// `M:SS.cc`. Circus drops whole hours here; these minutes go on counting, as top's do.
fn processor_time(time: Duration) -> String {
    format!("{}:{:02}.{:02}", time.as_secs() / 60, time.as_secs() % 60, time.subsec_millis() / 10)
}

/// Circus's options of a watcher, with Python's types: what it has as `int`, `float`, `bool`, `str` or `None` is that.
fn options(spec: &WatcherSpec, numprocesses: u32) -> Value {
    let program = &spec.program;
    // A whole number stays one: Python's clients print what they get.
    let number = |duration: Duration| match duration.subsec_nanos() {
        0 => json!(duration.as_secs()),
        _ => json!(seconds(duration)),
    };
    let stream = |output: &Output| match output {
        Output::Stream(StreamSpec { sink: Sink::File { path, .. }, .. }) => json!({"filename": path.to_string_lossy()}),
        Output::Stream(_) | Output::Inherit | Output::Null => json!({}),
    };
    let env: Object = program.env.keys().map(|name| (name.clone(), json!("********"))).collect();
    let uid = program.user.as_ref().map(|user| user.name.as_ref().map_or_else(|| json!(user.uid), |name| json!(name)));
    json!({
        "__name__": spec.name.as_str(),
        "args": "",
        "close_child_stderr": program.stderr == Output::Null,
        "close_child_stdin": program.close_stdin,
        "close_child_stdout": program.stdout == Output::Null,
        "cmd": command_line(&program.words),
        "copy_env": program.copy_env,
        "env": env,
        "executable": null,
        "gid": program.gid,
        "graceful_timeout": number(spec.graceful_timeout),
        "max_age": 0,
        "max_age_variance": 30,
        "max_retry": spec.max_retry.map_or(-1, i64::from),
        "numprocesses": numprocesses,
        "on_demand": false,
        "priority": spec.priority,
        "respawn": spec.respawn,
        "send_hup": false,
        "shell": false,
        "shell_args": null,
        "singleton": spec.singleton.is_some(),
        "stderr_stream_conf": stream(&program.stderr),
        "stdout_stream_conf": stream(&program.stdout),
        "stop_children": false,
        "stop_signal": spec.stop_signal,
        "uid": uid,
        "use_sockets": false,
        "warmup_delay": number(spec.warmup_delay),
        "working_dir": program.working_dir.as_ref().map(|dir| dir.to_string_lossy()),
    })
}

/// The words as a shell would need them, but with the slot's variable as people write it.
fn command_line(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    let quoted = words.iter().map(|word| match word.replace(WID, "").chars().all(plain) && !word.is_empty() {
        true => word.clone(),
        // What holds a zero byte cannot be quoted, and no program was ever started with it either.
        false => shlex::try_quote(word).map_or_else(|_| word.clone(), |quoted| quoted.into_owned()),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_circus_writes_them() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(8_912_896), "8.50M");
        assert_eq!(bytes(u64::MAX), "16.00E");
        assert_eq!(processor_time(Duration::from_millis(109)), "0:00.10");
        assert_eq!(processor_time(Duration::from_secs(3_725)), "62:05.00");
    }

    #[test]
    fn a_command_line_is_quoted_only_where_it_must_be() {
        let words = |words: &[&str]| command_line(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(words(&["sleep", "10"]), "sleep 10");
        assert_eq!(words(&["sh", "-c", "a; b"]), "sh -c 'a; b'");
        assert_eq!(words(&["run", "--fd=$(circus.wid)"]), "run --fd=$(circus.wid)");
        assert_eq!(words(&["run", ""]), "run ''");
    }

    #[test]
    fn an_error_has_all_that_circus_promises_and_a_code() {
        let refusal = Refusal::NoSuchWatcher { name: "wbe".into(), hint: Some(WatcherName::parse("web").unwrap()) };
        assert_eq!(
            reply_json(&Outcome::Own(Reply::Refused(refusal)), &json!(3), 1.5),
            json!({
                "status": "error", "reason": "program wbe not found; did you mean web?", "code": "no-such-watcher",
                "hint": "web", "errno": 3, "tb": null, "time": 1.5, "id": 3,
            })
        );
    }

    #[test]
    fn a_relayed_reply_gets_the_askers_id_and_rubbish_is_an_error() {
        let relayed = |text: &str| reply_json(&Outcome::Relayed(text.into()), &json!("mine"), 9.0);
        assert_eq!(
            relayed(r#"{"status": "ok", "time": 1.0, "id": "theirs"}"#),
            json!({"status": "ok", "time": 1.0, "id": "mine"})
        );
        for rubbish in ["", "[]", "{}", "{\"status\":"] {
            assert_eq!(relayed(rubbish)["status"], "error");
        }
    }

    #[test]
    fn a_gathered_reply_says_that_there_may_be_more_nodes() {
        let parts = vec![(NodeName::parse("a").unwrap(), Part::Own(Reply::Done(Answer::Ok)))];
        let missing = Some("Redis: connection refused".into());
        let reply = reply_json(&Outcome::Gathered { parts, missing }, &Value::Null, 1.0);
        assert_eq!(reply["status"], "error");
        assert_eq!(reply["reason"], "the other nodes are not known: Redis: connection refused");
        assert_eq!(reply["missing"], "Redis: connection refused");
        assert_eq!(reply["nodes"]["a"]["status"], "ok");
    }

    #[test]
    fn a_gathered_reply_names_the_silent_and_the_failed() {
        let node = |name: &str| NodeName::parse(name).unwrap();
        let parts = vec![
            (node("a"), Part::Own(Reply::Done(Answer::Ok))),
            (node("b"), Part::Relayed(r#"{"status": "active", "time": 2.0, "id": 5}"#.into())),
        ];
        assert_eq!(
            reply_json(&Outcome::Gathered { parts: parts.clone(), missing: None }, &Value::Null, 1.0),
            json!({
                "status": "ok", "time": 1.0, "id": null,
                "nodes": {"a": {"status": "ok", "time": 1.0}, "b": {"status": "active", "time": 2.0}},
            })
        );
        let parts = [parts, vec![(node("c"), Part::Silent("no answer within 5 s".into()))]].concat();
        let reply = reply_json(&Outcome::Gathered { parts, missing: None }, &Value::Null, 1.0);
        assert_eq!(reply["status"], "error");
        assert_eq!(reply["reason"], "c: no answer within 5 s");
        assert_eq!(reply["nodes"]["c"]["silent"], true);
        assert_eq!(reply["nodes"]["c"]["reason"], "no answer within 5 s");
    }
}
