//! The other way round: a command in the words of a circusd, and what its replies and events mean in ours.

use serde_json::{Value, json};

use crate::model::command::Command;
use crate::wire::{command_json, command_name};

/// A command as circusd takes it.
pub fn request(command: &Command) -> Value {
    let mut request = command_json(command);
    let properties = &mut request["properties"];
    // A name is a pattern here whenever it looks like one; there it has to be said.
    let is_pattern = properties["name"].as_str().is_some_and(|name| name.contains(['*', '?', '[']));
    let has_match = matches!(command, Command::Start { .. } | Command::Stop { .. } | Command::Restart { .. });
    if has_match && is_pattern && properties["match"].is_null() {
        properties["match"] = json!("glob");
    }
    if let Value::Object(properties) = properties {
        properties.retain(|_, value| !value.is_null());
    }
    request
}

/// A reply of a circusd, or of an agent that answers as one does, with the fields that ours have.
pub fn understood(command: &Command, mut reply: Value) -> Value {
    match command {
        Command::Status { watcher: None } if reply["watchers"].is_null() => {
            if let Some(statuses) = reply["statuses"].as_object() {
                let watchers = statuses.iter().map(|(name, state)| json!({"name": name, "state": state}));
                reply["watchers"] = watchers.collect();
            }
        }
        // There the watcher's state is the reply's own.
        Command::Status { watcher: Some(name) } if reply["status"] != "ok" && reply["reason"].is_null() => {
            let state = reply["status"].take();
            (reply["status"], reply["watchers"]) = (json!("ok"), json!([{"name": name, "state": state}]));
        }
        _ => {}
    }
    if reply["errno"] == 2 && reply["status"] == "error" {
        let name = command_name(command);
        let why = format!("'{name}' is a command of circus-agent, and a circusd answers there");
        (reply["reason"], reply["code"]) = (json!(why), json!("unknown-command"));
    }
    reply
}

/// What was published, as an event of ours; the watcher by the name that it has in topics. Nothing where it is none.
pub fn heard(topic: &[u8], body: &[u8]) -> Option<Value> {
    let topic = str::from_utf8(topic).ok()?;
    let (watcher, word) = topic.strip_prefix("watcher.")?.rsplit_once('.')?;
    let body: Value = serde_json::from_slice(body).ok()?;
    Some(json!({"topic": topic, "event": word, "watcher": watcher, "time": body["time"], "body": body}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Patience;
    use crate::model::pattern::Pattern;

    #[test]
    fn a_pattern_is_called_one_and_a_name_is_not() {
        let start = |pattern| {
            let command = Command::Start { pattern: Some(pattern), patience: Patience::Admitted };
            request(&command)["properties"].clone()
        };
        assert_eq!(start(Pattern::Glob("web*".into())), json!({"name": "web*", "match": "glob", "waiting": false}));
        assert_eq!(start(Pattern::Glob("web".into())), json!({"name": "web", "waiting": false}));
        assert_eq!(start(Pattern::Name("we[b".into())), json!({"name": "we[b", "match": "simple", "waiting": false}));
    }

    #[test]
    fn states_of_watchers_are_where_ours_are() {
        let all = Command::Status { watcher: None };
        let reply = understood(&all, json!({"status": "ok", "statuses": {"a": "active", "b": "stopped"}}));
        let watchers = json!([{"name": "a", "state": "active"}, {"name": "b", "state": "stopped"}]);
        assert_eq!(reply["watchers"], watchers);
        let one = Command::Status { watcher: Some("a".into()) };
        let reply = understood(&one, json!({"status": "stopping"}));
        assert_eq!(reply, json!({"status": "ok", "watchers": [{"name": "a", "state": "stopping"}]}));
        let error = json!({"status": "error", "reason": "program x not found", "errno": 3});
        assert_eq!(understood(&one, error.clone()), error);
    }

    #[test]
    fn what_circusd_does_not_know_is_told_to_be_ours() {
        let reply = json!({"status": "error", "reason": "unknown command: 'leases'", "errno": 2});
        let reply = understood(&Command::Leases, reply);
        assert_eq!(reply["code"], "unknown-command");
        assert!(reply["reason"].as_str().unwrap().contains("'leases' is a command of circus-agent"), "{reply}");
    }
}
