//! Replies that need no table: the lines that Circus's own circusctl prints, with more where there is more to say.

use serde_json::Value;

use super::words::{date, maybe_span, printable};
use super::{Parts, list, word};
use crate::model::command::Command;

/// Each node's lines; where there are several nodes, each line with its node's name.
pub(super) fn lines(command: &Command, parts: &Parts) -> String {
    let mut text = String::new();
    for (node, part) in &parts.good {
        for line in of_one(command, part) {
            match parts.many {
                true => text.push_str(&format!("{node}: {line}\n")),
                false => text.push_str(&format!("{line}\n")),
            }
        }
    }
    text
}

fn of_one(command: &Command, part: &Value) -> Vec<String> {
    match command {
        Command::List { .. } => {
            let key = if part["pids"].is_array() { "pids" } else { "watchers" };
            vec![list(part, key).iter().map(python).collect::<Vec<_>>().join(",")]
        }
        Command::NumWatchers => vec![python(&part["numwatchers"])],
        Command::NumProcesses { .. } => vec![python(&part["numprocesses"])],
        Command::Resize { .. } if part["singleton"] == true => {
            vec!["This watcher is a Singleton - not changing the number of processes".into()]
        }
        Command::Resize { .. } if part["numprocesses"].is_u64() => vec![python(&part["numprocesses"])],
        Command::Options { .. } | Command::GlobalOptions { .. } => {
            part["options"].as_object().map_or_else(Vec::new, |options| {
                options.iter().map(|(key, value)| format!("{key}: {}", python(value))).collect()
            })
        }
        Command::NodeList => part["nodelist"].as_object().map_or_else(Vec::new, |list| {
            list.keys().map(|node| format!("{node}: {}", printable(word(&part["nodelist"], node)))).collect()
        }),
        Command::Registered { .. } => vec![format!("ok, {}", printable(word(part, "note")))],
        Command::AgentStats => {
            let mut lines = vec!["Main Process:".to_owned(), format!("    {}", info_line(&part["info"]))];
            let children = list(&part["info"], "children");
            if !children.is_empty() {
                lines.push("Children:".to_owned());
                lines.extend(children.iter().map(|child| format!("    {}", info_line(child))));
            }
            lines
        }
        Command::ListSockets => list(part, "sockets").iter().map(socket_line).collect(),
        Command::Version => vec![word(part, "version").to_owned()],
        Command::Failover { watcher, .. } if part["from"].is_string() => {
            let to = part["to"].as_str().map_or_else(|| "whoever takes it".to_owned(), str::to_owned);
            let mut line =
                format!("ok, {watcher} moved from {} to {to} (it was token {})", word(part, "from"), part["token"]);
            if part["stays"] == true {
                line.push_str(&format!("; it stays until {to} ceases to lead"));
            }
            vec![line]
        }
        Command::Pause { watcher, .. } if part["pause"].is_object() => paused_lines(watcher, part),
        Command::Resume { watcher } => vec![match part["pause"].is_object() {
            true => format!("ok, {watcher} may run again; it was paused {}", by_whom(&part["pause"])),
            false => format!("ok, {watcher} is not paused"),
        }],
        Command::Rename { to } if part["from"].is_string() => vec![format!(
            "ok, {} is {to} now; to keep that over a restart write node = {to} in [circus] of {}",
            word(part, "from"),
            word(part, "file")
        )],
        Command::Lord { legion } => vec![lord_line(legion, part)],
        Command::LeaseCheck { watcher, token } if part["holds"] == true => {
            vec![format!("token {token} holds {watcher}, for {} unless it is refreshed", maybe_span(&part["left"]))]
        }
        Command::LeaseCheck { watcher, token } => {
            let who = match (part["holder"].as_str(), part["latest"].as_u64()) {
                (Some(holder), Some(latest)) => format!("{} holds it with token {latest}", printable(holder)),
                (Some(holder), None) => format!("{} holds it", printable(holder)),
                (None, Some(latest)) => format!("nobody does; the last token was {latest}"),
                (None, None) => "nobody does".to_owned(),
            };
            vec![format!("token {token} does not hold {watcher}: {who}")]
        }
        // Circus has the pids of an added watcher elsewhere than all others.
        Command::Add { .. } => vec![done(part)],
        _ => vec![done(&part["info"])],
    }
}

/// Whether it was paused before, and what runs of it still.
fn paused_lines(watcher: &str, part: &Value) -> Vec<String> {
    let line = match part["changed"] == true {
        true => format!("ok, {watcher} is paused: it runs nowhere until circusctl resume {watcher}"),
        false => format!("ok, {watcher} was paused before, {}", by_whom(&part["pause"])),
    };
    let still = part["holder"].as_str().map(|holder| {
        let what = match part["hears"] == true {
            true => "has it still, and stops it",
            false => "has it, is no agent and does not hear of this: end it there",
        };
        format!("{} {what}", printable(holder))
    });
    [Some(line), still].into_iter().flatten().collect()
}

/// `by amy since 2026-11-21 20:10Z: migration`
fn by_whom(pause: &Value) -> String {
    let why = pause["reason"].as_str().map_or_else(String::new, |why| format!(": {why}"));
    let since = pause["since"].as_f64().map_or_else(String::new, |since| format!(" since {}", date(since)));
    printable(&format!("by {}{since}{why}", word(pause, "by")))
}

/// Who leads: the node that was asked, until when; or why it does not, and who does.
fn lord_line(legion: &str, part: &Value) -> String {
    let node = word(part, "node");
    if part["me"] == true {
        let left = maybe_span(&part["left"]);
        return format!("{node} leads {legion}, under token {}, for {left} unless that is put off", part["token"]);
    }
    let reason = printable(word(part, "reason"));
    match part["lord"].as_str() {
        Some(lord) if lord == node => format!("{node} leads {legion} no more: {reason}"),
        Some(lord) => format!("{} leads {legion}, not {node}", printable(lord)),
        None => format!("nobody is known to lead {legion}: {reason}"),
    }
}

/// `ok`, and which pids were stopped, started and kept, where that is told.
fn done(pids: &Value) -> String {
    let mut line = "ok".to_owned();
    for what in ["stopped", "started", "kept"] {
        let pids: Vec<String> = list(pids, what).iter().map(python).collect();
        if !pids.is_empty() {
            line.push_str(&format!(", {what} {}", pids.join(" ")));
        }
    }
    line
}

/// What one process uses, as Circus's circusctl has it.
fn info_line(info: &Value) -> String {
    if let Some(why) = info.as_str() {
        return why.to_owned();
    }
    let keys = ["cmdline", "username", "nice", "mem_info1", "mem_info2", "cpu", "mem", "ctime"];
    let rest: Vec<String> = keys.iter().map(|key| python(&info[*key])).collect();
    format!("{}  {}", python(&info["pid"]), rest.join(" "))
}

/// `6:socket 'web' at 127.0.0.1:8080`; an IPv6 address stands in brackets.
fn socket_line(socket: &Value) -> String {
    let name = word(socket, "name");
    let place = match (socket["path"].as_str(), socket["host"].as_str()) {
        (Some(path), _) => printable(path),
        (None, Some(host)) if host.contains(':') => format!("[{host}]:{}", socket["port"]),
        (None, Some(host)) => format!("{host}:{}", socket["port"]),
        (None, None) => return format!("-:socket '{name}' is not open yet"),
    };
    format!("{}:socket '{name}' at {place}", socket["fd"])
}

/// A value as Python's `str` shows it; nothing for `None`, and `KEY=VALUE,…` for an object, as circusctl does.
fn python(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::String(text) => text.clone(),
        Value::Object(map) if map.is_empty() => "{}".into(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", python(value))).collect::<Vec<_>>().join(",")
        }
        Value::Number(_) | Value::Array(_) => value.to_string(),
    }
}
