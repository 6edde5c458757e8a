//! Replies that need no table: the lines that Circus's own circusctl prints, with more where there is more to say.

use serde_json::Value;

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
        Command::Options { .. } => part["options"].as_object().map_or_else(Vec::new, |options| {
            options.iter().map(|(key, value)| format!("{key}: {}", python(value))).collect()
        }),
        Command::Version => vec![word(part, "version").to_owned()],
        Command::Failover { watcher, .. } if part["from"].is_string() => {
            let to = part["to"].as_str().map_or_else(|| "whoever takes it".to_owned(), str::to_owned);
            vec![format!("ok, {watcher} moved from {} to {to} (it was token {})", word(part, "from"), part["token"])]
        }
        _ => {
            let mut line = "ok".to_owned();
            for what in ["stopped", "started", "kept"] {
                let pids: Vec<String> = list(&part["info"], what).iter().map(python).collect();
                if !pids.is_empty() {
                    line.push_str(&format!(", {what} {}", pids.join(" ")));
                }
            }
            vec![line]
        }
    }
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
