//! Replies: from [`Outcome`] to JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{history, legions, options, stats};
use crate::model::command::{Answer, NodeRow, NodeState, Outcome, Part, Refusal, Reply};
use crate::model::event::Address;
use crate::model::explain::{Condition, Explanation};
use crate::model::names::{NodeName, WatcherName};
use crate::model::pause::Pause;
use crate::model::plan::{Change, Effect, KeyChange, Plan, SocketChange, SocketEffect};
use crate::model::snapshot::{
    CronCounts, CronView, LeaseCounts, LeaseView, ProcessView, Snapshot, SocketView, StoreView, WatcherView,
};
use crate::model::spec::Slot;

/// The reply to a request; `time` in seconds of the Unix epoch.
///
/// Every reply has `status`, `time` and `id`. What is there besides, by command (Circus's where Circus has it):
///
/// - `list`: `watchers` `[name, …]`, lower case, sorted; with a name `pids` `[pid, …]`
/// - `status`: `statuses` `{NAME: word}`, and of ours `node`, `cluster`, `phase` (`starting` `running` `draining`
///   `drained` `stopping`),
///   `store` `{state: "up"|"down"|"unknown", reason?, servers?, missed?}` (of several servers how many there are, and
///   which of them cannot be used and why, `{SERVER: TEXT}`) and `watchers` `[WATCHER, …]` in start order. With a name the
///   watcher's word stands in `status` itself, as Circus has it, and `watchers` holds that one.
///   - WATCHER: `name state note numprocesses processes restarts last_exit next_try lease cron`; `processes` `[{wid, pid,
///     state, age, status}]`, of which `status` is what it last said of itself, or null; `last_exit` `{text, ago}` or
///     null; `next_try` in so many seconds, or null; `lease` LEASE or null; `cron` null, or `{next, running,
///     done, failed, skipped, last_done}`: times of the schedule in seconds of the Unix epoch, or null, and how many runs on
///     this node ended how
///   - the words: `stopped starting active unhealthy backoff listening scheduled standby stopping failed`
/// - `numwatchers`: `numwatchers`; `numprocesses`: `numprocesses`, with a name also `watcher_name`
/// - `stats`: `infos` `{NAME: {"PID": INFO}}`, of each watcher; with a name `name` and `info` `{"PID": INFO}`; with a pid also
///   `process`, and `info` INFO. INFO is Circus's object, with its children in it and what a hook adds, or the text
///   `No such process (stopped?)`.
/// - `dstats`: `info` INFO, of the agent
/// - `options`: `options`, Circus's keys of a watcher, ours and the free-form ones; `get`: those that were asked for.
///   `globaloptions`: `options`, the agent's
/// - `listsockets`: `sockets` `[{fd, name, backlog, host, port | path}]`, sorted by `fd`, and of ours `type`
///   (`SOCK_STREAM`), `so_reuseport` and `watchers`, the names of those that use it. One that is not open yet has a null
///   `fd` and no place, and comes last
/// - `start` `restart` `reload`: `info` `{started, kept, stopped}`, lists of pids, where one watcher was waited for
/// - `add`: `started` and `kept`, lists of pids, where its start was waited for
/// - `incr` `decr`: `numprocesses`, and `singleton: true` where there is one at most
/// - `plan` and `reloadconfig`: `plan` `{sockets: [SOCKET, …], changes: [CHANGE, …], unchanged, needs_restart}`, of
///   which `unchanged` is a number of watchers and `needs_restart` a list of keys; and `config`, a hash of the file
///   without what each node says of itself
///   - CHANGE: `watcher`, `keys` `[{key, from, to}]` (null: not there), and `effect`: `added` with `starts`, `removed`
///     with `stops`, `in-place`, `resized` with `from` and `to`, `replaced` with `restarts`, all numbers of processes
///   - SOCKET: `socket`, `keys`, and `effect`: `added`, `removed`, `moved` or `adjusted`
/// - `version`: `version`
/// - `nodes`: `roster` `[{name, state, seen, version, host, pid, endpoint, up, config, differs, formerly, labels, watchers, well, holds,
///   waits, processes, wanted, most, load, cores, memory, memory_used, protocol}]`, sorted by name: `labels` is `{KEY: VALUE}`,
///   `wanted` `{WATCHER: processes wanted there}`, `most` their `max_per_node`, `well` a number of watchers; `differs` is true where most nodes are told
///   something else by their files
/// - `nodelist`: `nodelist` `{NODE: endpoint}`, of those that are not gone; `register_node`, `join_cluster`: `note`
/// - `leases`: `leases` `[LEASE, …]`, and `advice` `[TEXT, …]` where something is amiss with the store; LEASE: `name key role token ttl left holder latency held_for why
///   pause counts`; `pause` is PAUSE or null, and PAUSE `since by reason`, since when in seconds of the Unix epoch; `counts` are this agent's since it began: `taken released lost refreshes refreshes_failed late_grants
///   greatest_latency`, of which `lost` is `{taken, unconfirmed, expired}`
/// - `legions`: `legions` `[LEGION, …]`. Of uWSGI's stats server are `legion addr uuid valor quorum i_am_the_lord lord_valor
///   lord_uuid nodes members`: `addr` is where the members meet, a `uuid` the node's name, `i_am_the_lord` since when this
///   node leads, or 0, `nodes` the names of the others, and of a member `name uuid valor last_seen`. Of ours are `state`
///   (`lord losing candidate standby no-quorum arbiter aside unknown`), `reason`, `token` and `lease_until` where this
///   node leads, `lord_node`, `lord_since`, `votes` (how many live), `expected`, `preempt`, `scroll`, `joined`, `seen` (when
///   the store last said who is there), `changes` `[{at, text}]`, the latest first, and that one as `last_change`; of a
///   member, of which this node is one, `stands live scroll`. Times are seconds of the Unix epoch
/// - `lord`: the names of [`lordship_text`](super::lordship_text): `legion node me token deadline_boottime_ns
///   deadline_unix_ms lord members quorum scroll reason`, with null for what is not, and `left`
/// - `scrolls`: `legion node lord lord_scroll`, `scrolls` `[TEXT, …]`, this node's first, and `members` `[{name, scroll}]`
/// - `metrics`: the fields of `status`, and `version`
/// - `explain`: `node name state singleton clustered runs right holder outlook`, `conditions` `[{what, met, text,
///   remedy}]` and `move` `{here, command}` or null; `what` is `configured agent wanted after sockets demand store pause
///   legion lease hooks process`, a remedy and a command are what follows `circusctl`
/// - `history`: `history` `[{name, tenures: [TENURE, …], worst_gap, worst_gap_at_most, moves, overlaps, runs: [RUN, …]}]`,
///   the latest tenure and the latest run first; `moves` within seven days; `runs` is null where there is no schedule
///   - TENURE: `token from to start end pid gap gap_at_most overlap cause detail by last_seen`; `start`, `end` and
///     `last_seen` are seconds of the Unix epoch by the store's clock; a null `gap` or `overlap` could not be measured;
///     why it came here is `cause` (`first moved stopped agent-stopping removed changed taken unconfirmed expired gave-up
///     finished preempted no-quorum paused drilled released died unknown`), `detail` and `by`
///   - RUN: `slot node token pid began ended outcome exit_code why`; `slot`, `began` and `ended` are seconds of the Unix epoch;
///     `outcome` is `running done failed stopped unfinished no-run`; `exit_code` as in the event `reap`
/// - `lease-check`: `name`, `token`, `holds`; where it does `left`, else `holder` and `latest`, the last token drawn
/// - `failover`: `from`, `to` (or null), `token`
/// - `pause`: `name`, `pause` (PAUSE), `changed`, `holder` (who has the lease still, or null) and `hears`, whether that one stops
///   because of it; `resume`: `name`, and `pause`, the one that it ended, or null
/// - `rename`: `from`, `to`, and `file`, the configuration that has the old name; nothing where it has that name already
/// - `drill`: `node name token pid ttl kind lasting`: it begins in a moment; `lasting` is null where it does not pass
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
        Outcome::Own(reply) => own(reply, time),
        Outcome::Relayed(text) => relayed(text),
        Outcome::Gathered { parts, missing } => gathered(parts, missing.as_deref(), time),
    };
    reply.entry("time").or_insert_with(|| json!(time));
    reply.insert("id".into(), id.clone());
    Value::Object(reply)
}

/// How many nodes' failures are told together.
const FAILURES: usize = 20;

pub(super) type Object = Map<String, Value>;

/// The fields of a value that was written as an object.
pub(super) fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn own(reply: &Reply, time: f64) -> Object {
    match reply {
        Reply::Done(answer) => done(answer, time),
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

/// One node's part, without an id.
pub(super) fn part_json(part: &Part, time: f64) -> Object {
    let mut reply = match part {
        Part::Own(reply) => own(reply, time),
        Part::Relayed(text) => relayed(text),
        Part::Silent(reason) | Part::Absent(reason) => {
            let mut silent = refused(&Refusal::Unavailable(reason.clone()));
            silent.insert("silent".into(), json!(true));
            silent
        }
    };
    reply.remove("id");
    reply.entry("time").or_insert_with(|| json!(time));
    reply
}

fn gathered(parts: &[(NodeName, Part)], missing: Option<&str>, time: f64) -> Object {
    let mut nodes = Object::new();
    let mut failures = Vec::new();
    let mut errno = 0;
    for (node, part) in parts {
        let reply = part_json(part, time);
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
        false => object(json!({"status": "error", "reason": listed(&failures), "tb": null, "errno": errno})),
    };
    reply.insert("nodes".into(), Value::Object(nodes));
    if let Some(why) = missing {
        reply.insert("missing".into(), json!(why));
    }
    reply
}

/// The first few failures, and how many more there are: each stands with its node, too.
fn listed(failures: &[String]) -> String {
    let (first, more) = failures.split_at(failures.len().min(FAILURES));
    let text = first.join("; ");
    if more.is_empty() { text } else { format!("{text}; and {} more", more.len()) }
}

/// A word for each reason, for programs: it stays when the text is reworded.
pub fn error_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotJson(_) => "not-json",
        Refusal::UnknownCommand(_) => "unknown-command",
        Refusal::BadMessage(_) => "bad-message",
        Refusal::NoSuchWatcher { .. } => "no-such-watcher",
        Refusal::NoSuchLegion { .. } => "no-such-legion",
        Refusal::NoSuchSocket { .. } => "no-such-socket",
        Refusal::SocketExists(_) => "socket-exists",
        Refusal::NotSingleton(_) => "not-singleton",
        Refusal::NoSuchProcess { .. } => "no-such-process",
        Refusal::NotHolder { .. } => "not-holder",
        Refusal::Paused { .. } => "paused",
        Refusal::NoCandidate(_) => "no-candidate",
        Refusal::NoSuchNode(_) => "no-such-node",
        Refusal::NodeExists(_) => "node-exists",
        Refusal::TooMany { .. } => "too-many",
        Refusal::NoDrills(_) => "no-drills",
        Refusal::Stopping => "stopping",
        Refusal::Drained(_) => "drained",
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
        Refusal::NoSuchWatcher { hint: Some(hint), .. } | Refusal::NoSuchLegion { hint: Some(hint), .. } => {
            reply.insert("hint".into(), json!(hint.as_str()));
        }
        Refusal::NoSuchSocket { hint: Some(hint), .. } => {
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

fn done(answer: &Answer, time: f64) -> Object {
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
        Answer::Stats { watcher, pid, samples, idle } => ok(stats::stats(watcher.as_ref(), *pid, samples, idle)),
        Answer::AgentStats(sample) => ok(json!({"info": stats::agent(sample)})),
        Answer::Options { spec, numprocesses, keys } => match options::chosen(spec, *numprocesses, keys.as_deref()) {
            Ok(options) => ok(json!({"options": options})),
            Err(refusal) => refused(&refusal),
        },
        Answer::GlobalOptions(options) => ok(json!({"options": options.iter().map(global_option).collect::<Object>()})),
        Answer::Sockets(views) => ok(json!({"sockets": sockets(views)})),
        Answer::Plan(changes) => ok(json!({"plan": plan(changes), "config": changes.config})),
        // At the top level, as Circus has it here and nowhere else.
        Answer::Added { started } => ok(json!({"started": started, "kept": []})),
        // Circus's `null`: there is nothing to tell of a stop.
        Answer::Stopped => ok(json!({"info": null})),
        Answer::Started { started, kept, stopped } => {
            ok(json!({"info": {"started": started, "kept": kept, "stopped": stopped}}))
        }
        Answer::Resized { numprocesses, singleton: false } => ok(json!({"numprocesses": numprocesses})),
        Answer::Resized { numprocesses, singleton: true } => {
            ok(json!({"numprocesses": numprocesses, "singleton": true}))
        }
        Answer::Version(version) => ok(json!({"version": version})),
        Answer::Nodes(rows) => {
            let usual = usual_config(rows);
            ok(json!({"roster": rows.iter().map(|node| row(node, usual)).collect::<Vec<_>>()}))
        }
        Answer::NodeList(list) => {
            let list: Object = list.iter().map(|(node, endpoint)| (node.to_string(), json!(endpoint))).collect();
            ok(json!({"nodelist": list}))
        }
        Answer::Registered { node, host, endpoint } => {
            let note = format!("{node} registered by itself, from {host} ({endpoint}): nothing was to be done");
            ok(json!({"note": note}))
        }
        Answer::Leases { leases, advice } => {
            let mut reply = json!({"leases": leases.iter().map(lease).collect::<Vec<_>>()});
            if !advice.is_empty() {
                reply["advice"] = json!(advice);
            }
            ok(reply)
        }
        Answer::Legions { store, legions } => ok(legions::legions(store, legions, time)),
        Answer::Lord { lordship, left } => ok(legions::lord(lordship, *left, time)),
        Answer::Scrolls(legion) => ok(legions::scrolls(legion)),
        Answer::Explained { node, watcher, explanation } => ok(explained(node, watcher, explanation)),
        Answer::Metrics(node) => {
            let mut reply = ok(snapshot(node));
            reply.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
            reply.insert("messages_dropped".into(), json!(node.messages_dropped));
            reply
        }
        Answer::Histories(told) => ok(history::histories(told)),
        Answer::LeaseChecked { watcher, token, state } => ok(history::token_state(watcher, *token, state)),
        Answer::Paused { watcher, pause: stands, changed, holder, hears } => ok(json!({
            "name": watcher.as_str(),
            "pause": pause(stands),
            "changed": changed,
            "holder": holder,
            "hears": hears,
        })),
        Answer::Resumed { watcher, pause: stood } => {
            ok(json!({"name": watcher.as_str(), "pause": stood.as_ref().map(pause)}))
        }
        Answer::Drilling { node, drill } => ok(json!({
            "node": node.as_str(),
            "name": drill.lease.watcher.as_str(),
            "token": drill.token,
            "pid": drill.pid,
            "ttl": seconds(drill.ttl),
            "kind": drill.kind.word(),
            "lasting": drill.lasting.map(seconds),
        })),
        Answer::Renamed { from, to, file } => ok(json!({"from": from.as_str(), "to": to.as_str(), "file": file})),
        Answer::Moved { from, to, token, stays } => ok(json!({
            "from": from.as_str(),
            "to": to.as_ref().map(|to| to.as_str()),
            "token": token,
            "stays": stays,
        })),
    }
}

/// Seconds, to the millisecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// Seconds, to the microsecond: answers of Redis take less than a millisecond.
fn fine_seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

fn snapshot(node: &Snapshot) -> Value {
    let mut store = match &node.store {
        StoreView::Unknown => json!({"state": "unknown"}),
        StoreView::Up => json!({"state": "up"}),
        StoreView::Down { reason } => json!({"state": "down", "reason": reason}),
    };
    if node.missed.of > 0 {
        (store["servers"], store["missed"]) = (node.missed.of.into(), json!(node.missed.servers));
    }
    json!({
        "node": node.node.as_str(),
        "cluster": node.cluster.as_str(),
        "phase": node.phase.word(),
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
        "next_try": view.next_try.map(seconds),
        "lease": view.lease.as_ref().map(lease),
        "cron": view.cron.as_ref().map(cron),
    })
}

fn cron(view: &CronView) -> Value {
    let slot = |slot: Option<Slot>| slot.map(|slot| slot.0);
    let CronCounts { done, failed, skipped, last_done } = view.counts;
    json!({
        "next": slot(view.next),
        "running": slot(view.running),
        "done": done,
        "failed": failed,
        "skipped": skipped,
        "last_done": slot(last_done),
    })
}

fn process(view: &ProcessView) -> Value {
    json!({"wid": view.wid, "pid": view.pid, "state": view.state, "age": seconds(view.age), "status": view.status})
}

/// By the agent's descriptors, as Circus has them; those that have none yet come last.
fn sockets(views: &[SocketView]) -> Vec<Value> {
    let mut views: Vec<&SocketView> = views.iter().collect();
    views.sort_by_key(|view| view.bound.as_ref().map_or(i64::MAX, |bound| bound.fd.into()));
    views.into_iter().map(socket).collect()
}

fn socket(view: &SocketView) -> Value {
    let mut fields = object(json!({
        "fd": view.bound.as_ref().map(|bound| bound.fd),
        "name": view.name.as_str(),
        "backlog": view.backlog,
        "type": view.kind.word(),
        "so_reuseport": view.reuse_port,
        "watchers": view.watchers.iter().map(WatcherName::as_str).collect::<Vec<_>>(),
    }));
    match view.bound.as_ref().map(|bound| &bound.address) {
        Some(Address::Inet(address)) => {
            fields.insert("host".into(), json!(address.ip().to_string()));
            fields.insert("port".into(), json!(address.port()));
        }
        Some(Address::Unix(path)) => {
            fields.insert("path".into(), json!(path.to_string_lossy()));
        }
        None => {}
    }
    Value::Object(fields)
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
        "pause": view.pause.as_ref().map(pause),
        "counts": counts(&view.counts),
    })
}

fn pause(Pause { since, by, why }: &Pause) -> Value {
    json!({"since": *since as f64 / 1_000.0, "by": by, "reason": why})
}

fn counts(counts: &LeaseCounts) -> Value {
    json!({
        "taken": counts.taken,
        "released": counts.released,
        "lost": {
            "taken": counts.lost_taken,
            "unconfirmed": counts.lost_unconfirmed,
            "expired": counts.lost_expired,
        },
        "refreshes": counts.refreshes,
        "refreshes_failed": counts.refreshes_failed,
        "late_grants": counts.late_grants,
        "greatest_latency": counts.greatest_latency.map(fine_seconds),
    })
}

fn explained(node: &NodeName, watcher: &WatcherName, explanation: &Explanation) -> Value {
    let condition = |condition: &Condition| {
        let Condition { what, met, text, remedy } = condition;
        json!({"what": what.word(), "met": met, "text": text, "remedy": remedy})
    };
    json!({
        "node": node.as_str(),
        "name": watcher.as_str(),
        "state": explanation.state.word(),
        "singleton": explanation.singleton,
        "clustered": explanation.clustered,
        "runs": explanation.runs,
        "right": explanation.right,
        "holder": explanation.holder,
        "conditions": explanation.conditions.iter().map(condition).collect::<Vec<_>>(),
        "outlook": explanation.outlook,
        "move": explanation.moves.as_ref().map(|moves| json!({"here": moves.here, "command": moves.command})),
    })
}

/// The configuration that more nodes have than any other; nothing where there is none.
fn usual_config(rows: &[NodeRow]) -> Option<&str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.state != NodeState::Gone) {
        *counts.entry(&row.about.config).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    let mut usual = counts.into_iter().filter(|(_, count)| *count == most);
    let (config, _) = usual.next()?;
    usual.next().is_none().then_some(config)
}

fn row(row: &NodeRow, usual_config: Option<&str>) -> Value {
    let machine = &row.about.machine;
    json!({
        "differs": usual_config.is_some_and(|usual| usual != row.about.config),
        "well": row.about.well,
        "processes": row.about.processes,
        "wanted": row.about.wanted,
        "most": row.about.most,
        "load": machine.load,
        "cores": machine.cores,
        "memory": machine.memory,
        "memory_used": machine.memory_used,
        "protocol": row.about.protocol,
        "name": row.name.as_str(),
        "state": row.state.word(),
        "seen": seconds(row.seen),
        "version": row.about.version,
        "host": row.about.host,
        "pid": row.about.pid,
        "endpoint": row.about.endpoint,
        "up": seconds(row.about.up),
        "config": row.about.config,
        "watchers": row.about.watchers,
        "formerly": row.about.formerly.iter().map(NodeName::as_str).collect::<Vec<_>>(),
        "labels": row.about.labels,
        "holds": row.about.holds,
        "waits": row.about.waits,
    })
}

fn plan(plan: &Plan) -> Value {
    json!({
        "sockets": plan.sockets.iter().map(socket_change).collect::<Vec<_>>(),
        "changes": plan.changes.iter().map(change).collect::<Vec<_>>(),
        "unchanged": plan.unchanged,
        "needs_restart": plan.needs_restart,
    })
}

fn change(change: &Change) -> Value {
    let mut fields = object(match change.effect {
        Effect::Added { starts } => json!({"effect": "added", "starts": starts}),
        Effect::Removed { stops } => json!({"effect": "removed", "stops": stops}),
        Effect::InPlace => json!({"effect": "in-place"}),
        Effect::Resized { from, to } => json!({"effect": "resized", "from": from, "to": to}),
        Effect::Replaced { restarts } => json!({"effect": "replaced", "restarts": restarts}),
    });
    fields.insert("watcher".into(), json!(change.watcher.as_str()));
    fields.insert("keys".into(), keys(&change.keys));
    Value::Object(fields)
}

fn socket_change(change: &SocketChange) -> Value {
    let effect = match change.effect {
        SocketEffect::Added => "added",
        SocketEffect::Removed => "removed",
        SocketEffect::Moved => "moved",
        SocketEffect::Adjusted => "adjusted",
    };
    json!({"socket": change.socket.as_str(), "effect": effect, "keys": keys(&change.keys)})
}

fn keys(changes: &[KeyChange]) -> Value {
    changes.iter().map(|key| json!({"key": key.key, "from": key.from, "to": key.to})).collect()
}

/// The agent's options are texts, but Circus's interval is a `float`.
fn global_option((name, text): (&String, &String)) -> (String, Value) {
    let number = if name == "check_delay" { text.parse::<f64>().ok() } else { None };
    (name.clone(), number.map_or_else(|| json!(text), |number| json!(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::SocketName;

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
    fn a_socket_that_is_not_there_has_a_hint_and_one_that_is_there_a_code() {
        let web = SocketName::parse("web").unwrap();
        let refused = |refusal| reply_json(&Outcome::Own(Reply::Refused(refusal)), &Value::Null, 1.5);
        assert_eq!(
            refused(Refusal::NoSuchSocket { name: "wbe".into(), hint: Some(web.clone()) }),
            json!({
                "status": "error", "reason": "socket wbe not found; did you mean web?", "code": "no-such-socket",
                "hint": "web", "errno": 3, "tb": null, "time": 1.5, "id": null,
            })
        );
        let exists = refused(Refusal::SocketExists(web));
        assert_eq!((&exists["code"], &exists["errno"]), (&json!("socket-exists"), &json!(5)));
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
