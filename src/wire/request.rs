//! Requests: from text to [`Request`], and a command back to JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::command::{Command, Patience, Refusal, Target};
use crate::model::names::NodeName;
use crate::model::pattern::Pattern;

/// A request that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What the asker calls it; `null` where it gave no name. The reply carries it.
    pub id: Value,
    /// The asker wants no answer, not even on an error.
    pub cast: bool,
    /// Which nodes it is for.
    pub target: Target,
    /// What is asked of each.
    pub command: Command,
    /// How long each of several nodes may take, where the asker says so.
    pub limit: Option<Duration>,
}

/// A request that was not.
#[derive(Debug, Clone, PartialEq)]
pub struct BadRequest {
    /// As in [`Request`]; `null` where the text was no JSON object.
    pub id: Value,
    /// As in [`Request`].
    pub cast: bool,
    /// Why it was not.
    pub refusal: Refusal,
}

/// Reads one request: a JSON object of `command`, `properties`, `id` and `msg_type`.
///
/// | command | properties (bold: needed) |
/// |---|---|
/// | `list` `status` `numprocesses` | `name` |
/// | `numwatchers` `version` `nodes` `leases` | – |
/// | `stats` | `name`, `process` (a pid; needs `name`) |
/// | `options` | **`name`** |
/// | `start` `stop` `restart` | `name`, `match` (`glob` or `simple`), `waiting` |
/// | `incr` `decr` | **`name`**, `nb` (1), `waiting` |
/// | `quit` | `waiting` |
/// | `failover` | **`name`**, `to` (a node), `waiting` |
/// | `lease-init` | **`name`** |
///
/// Every command takes `node` (a name, several with commas, or a list) or `all`, and then `timeout`, the seconds that
/// each node may take.
///
/// Command names ignore case. A property that is `null` counts as absent, an unknown one is ignored, and one of the
/// wrong type is refused by name.
pub fn parse_request(text: &str) -> Result<Request, BadRequest> {
    let refused = |id, cast, refusal| BadRequest { id, cast, refusal };
    let mut message = match serde_json::from_str(text) {
        Ok(Value::Object(message)) => message,
        Ok(_) => return Err(refused(Value::Null, false, Refusal::NotJson("not an object".into()))),
        Err(error) => return Err(refused(Value::Null, false, Refusal::NotJson(error.to_string()))),
    };
    let id = message.remove("id").unwrap_or(Value::Null);
    let cast = message.get("msg_type").and_then(Value::as_str) == Some("cast");
    match understand(&message) {
        Ok((target, command, limit)) => Ok(Request { id, cast, target, command, limit }),
        Err(refusal) => Err(refused(id, cast, refusal)),
    }
}

fn understand(message: &Map<String, Value>) -> Result<(Target, Command, Option<Duration>), Refusal> {
    let Some(name) = Properties(Some(message)).text("command")? else { return Err(missing("command")) };
    let properties = Properties::of(message)?;
    let command = properties.command(&name)?;
    Ok((properties.target()?, command, properties.limit()?))
}

fn missing(property: &str) -> Refusal {
    Refusal::BadMessage(format!("message invalid '{property}' is missing"))
}

pub(super) fn wrong(property: &str, kind: &str) -> Refusal {
    Refusal::BadMessage(format!("'{property}' isn't {kind}"))
}

/// The properties of a request, each read with its type.
pub(super) struct Properties<'a>(Option<&'a Map<String, Value>>);

impl<'a> Properties<'a> {
    /// Those of `message`.
    pub(super) fn of(message: &'a Map<String, Value>) -> Result<Properties<'a>, Refusal> {
        match message.get("properties") {
            Some(Value::Object(properties)) => Ok(Properties(Some(properties))),
            None | Some(Value::Null) => Ok(Properties(None)),
            // Python's clients may send an empty list for "none", and Circus takes it.
            Some(Value::Array(none)) if none.is_empty() => Ok(Properties(None)),
            Some(_) => Err(wrong("properties", "an object")),
        }
    }

    fn command(&self, name: &str) -> Result<Command, Refusal> {
        let watcher = || self.text("name");
        let needed = || self.text("name")?.ok_or_else(|| missing("name"));
        Ok(match name.to_lowercase().as_str() {
            "list" => Command::List { watcher: watcher()? },
            "status" => Command::Status { watcher: watcher()? },
            "numwatchers" => Command::NumWatchers,
            "numprocesses" => Command::NumProcesses { watcher: watcher()? },
            "stats" => self.stats()?,
            "options" => Command::Options { watcher: needed()?, keys: None },
            "start" => Command::Start { pattern: self.pattern()?, patience: self.patience()? },
            "stop" => Command::Stop { pattern: self.pattern()?, patience: self.patience()? },
            "restart" => Command::Restart { pattern: self.pattern()?, patience: self.patience()? },
            "incr" => Command::Resize { watcher: needed()?, by: self.number("nb", 1)?, patience: self.patience()? },
            "decr" => Command::Resize {
                watcher: needed()?,
                by: self.number("nb", 1)?.saturating_neg(),
                patience: self.patience()?,
            },
            "quit" => Command::Quit { patience: self.patience()? },
            "version" => Command::Version,
            "nodes" => Command::Nodes,
            "leases" => Command::Leases,
            "failover" => Command::Failover { watcher: needed()?, to: self.node("to")?, patience: self.patience()? },
            "lease-init" => Command::LeaseInit { watcher: needed()? },
            _ => return Err(Refusal::UnknownCommand(name.to_owned())),
        })
    }

    fn stats(&self) -> Result<Command, Refusal> {
        let watcher = self.text("name")?;
        let pid = match self.get("process") {
            None => None,
            Some(value) => match value.as_u64().map(u32::try_from) {
                Some(Ok(pid)) => Some(pid),
                _ => return Err(wrong("process", "an integer")),
            },
        };
        if pid.is_some() && watcher.is_none() {
            return Err(missing("name"));
        }
        Ok(Command::Stats { watcher, pid, extended: false })
    }

    fn target(&self) -> Result<Target, Refusal> {
        let names: Option<Vec<&str>> = match self.get("node") {
            None => None,
            Some(Value::String(names)) => Some(names.split(',').map(str::trim).collect()),
            Some(Value::Array(names)) => {
                let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
                Some(names.ok_or_else(|| wrong("node", "a string or a list of strings"))?)
            }
            Some(_) => return Err(wrong("node", "a string or a list of strings")),
        };
        match (names, self.flag("all")?) {
            (None, false) => Ok(Target::Here),
            (None, true) => Ok(Target::All),
            (Some(_), true) => Err(Refusal::BadMessage("'node' and 'all' exclude each other".into())),
            (Some(names), false) => {
                let mut nodes = Vec::new();
                for name in names {
                    let node = NodeName::parse(name).map_err(|bad| Refusal::BadMessage(format!("'node': {bad}")))?;
                    // Named twice is still one node, with one answer.
                    if !nodes.contains(&node) {
                        nodes.push(node);
                    }
                }
                match nodes.is_empty() {
                    true => Err(Refusal::BadMessage("'node' names no node".into())),
                    false => Ok(Target::Nodes(nodes)),
                }
            }
        }
    }

    fn limit(&self) -> Result<Option<Duration>, Refusal> {
        let Some(value) = self.get("timeout") else { return Ok(None) };
        let limit = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        limit.map(Some).ok_or_else(|| wrong("timeout", "a number of seconds"))
    }

    fn pattern(&self) -> Result<Option<Pattern>, Refusal> {
        let Some(name) = self.text("name")? else { return Ok(None) };
        match self.text("match")?.as_deref() {
            None | Some("glob") => Ok(Some(Pattern::Glob(name))),
            Some("simple") => Ok(Some(Pattern::Name(name))),
            Some("regex") => Pattern::regex(&name)
                .map(Some)
                .map_err(|why| Refusal::BadMessage(format!("'name' is no regular expression: {why}"))),
            Some(other) => Err(Refusal::BadMessage(format!("'match' is glob, simple or regex, not '{other}'"))),
        }
    }

    fn patience(&self) -> Result<Patience, Refusal> {
        Ok(if self.flag("waiting")? { Patience::Settled } else { Patience::Admitted })
    }

    fn node(&self, property: &str) -> Result<Option<NodeName>, Refusal> {
        self.text(property)?
            .map(|name| NodeName::parse(&name).map_err(|bad| Refusal::BadMessage(format!("'{property}': {bad}"))))
            .transpose()
    }

    pub(super) fn get(&self, property: &str) -> Option<&Value> {
        self.0?.get(property).filter(|value| !value.is_null())
    }

    fn text(&self, property: &str) -> Result<Option<String>, Refusal> {
        match self.get(property) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong(property, "a string")),
        }
    }

    /// Texts in a list, or a single one; none where it is absent.
    pub(super) fn texts(&self, property: &str) -> Result<Vec<String>, Refusal> {
        let texts = match self.get(property) {
            None => Some(Vec::new()),
            Some(Value::String(text)) => Some(vec![text.clone()]),
            Some(Value::Array(texts)) => texts.iter().map(|text| text.as_str().map(ToOwned::to_owned)).collect(),
            Some(_) => None,
        };
        texts.ok_or_else(|| wrong(property, "a string or a list of strings"))
    }

    pub(super) fn flag(&self, property: &str) -> Result<bool, Refusal> {
        match self.get(property) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(wrong(property, "a boolean")),
        }
    }

    pub(super) fn number(&self, property: &str, default: i64) -> Result<i64, Refusal> {
        match self.get(property) {
            None => Ok(default),
            Some(value) => value.as_i64().ok_or_else(|| wrong(property, "an integer")),
        }
    }
}

/// A glob that matches `name` and nothing else: each `*`, `?` and `[` stands in brackets.
pub fn escape_glob(name: &str) -> String {
    let mut glob = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => glob.extend(['[', c, ']']),
            _ => glob.push(c),
        }
    }
    glob
}

/// What a command is called in a message.
pub fn command_name(command: &Command) -> &'static str {
    match command {
        Command::List { .. } => "list",
        Command::Status { .. } => "status",
        Command::NumWatchers => "numwatchers",
        Command::NumProcesses { .. } => "numprocesses",
        Command::Stats { .. } => "stats",
        Command::Options { .. } => "options",
        Command::Start { .. } => "start",
        Command::Stop { .. } => "stop",
        Command::Restart { .. } => "restart",
        // The lowest number has no opposite; `incr` takes it as it is.
        Command::Resize { by, .. } if *by < 0 && *by != i64::MIN => "decr",
        Command::Resize { .. } => "incr",
        Command::Quit { .. } => "quit",
        Command::Version => "version",
        Command::Nodes => "nodes",
        Command::Leases => "leases",
        Command::Failover { .. } => "failover",
        Command::LeaseInit { .. } => "lease-init",
        Command::AgentStats => "dstats",
        Command::GlobalOptions { .. } => "globaloptions",
        Command::ListSockets => "listsockets",
        Command::Reload { .. } => "reload",
        Command::ReloadConfig { .. } => "reloadconfig",
        Command::Plan => "plan",
        Command::Set { .. } => "set",
        Command::Add { .. } => "add",
        Command::Remove { .. } => "rm",
        Command::Signal { .. } => "signal",
        Command::Kill { .. } => "kill",
    }
}

/// A command as a request without `id`, for the node that it is sent to: `{"command": …, "properties": {…}}`.
pub fn command_json(command: &Command) -> Value {
    let waiting = |patience: &Patience| *patience == Patience::Settled;
    let mut properties = match command {
        Command::NumWatchers | Command::Version | Command::Nodes | Command::Leases => json!({}),
        Command::AgentStats
        | Command::GlobalOptions { .. }
        | Command::ListSockets
        | Command::Reload { .. }
        | Command::ReloadConfig { .. }
        | Command::Plan
        | Command::Set { .. }
        | Command::Add { .. }
        | Command::Remove { .. }
        | Command::Signal { .. }
        | Command::Kill { .. } => json!({}),
        Command::List { watcher } | Command::Status { watcher } | Command::NumProcesses { watcher } => {
            json!({"name": watcher})
        }
        Command::Stats { watcher, pid, .. } => json!({"name": watcher, "process": pid}),
        Command::Options { watcher, .. } | Command::LeaseInit { watcher } => json!({"name": watcher}),
        Command::Start { pattern, patience }
        | Command::Stop { pattern, patience }
        | Command::Restart { pattern, patience } => {
            let (name, kind) = match pattern {
                None => (None, None),
                Some(Pattern::Glob(text)) => (Some(text.as_str()), None),
                Some(Pattern::Name(text)) => (Some(text.as_str()), Some("simple")),
                Some(regex @ Pattern::Regex(_)) => (Some(regex.text()), Some("regex")),
            };
            json!({"name": name, "match": kind, "waiting": waiting(patience)})
        }
        Command::Resize { watcher, by, patience } => {
            let nb = if command_name(command) == "decr" { -by } else { *by };
            json!({"name": watcher, "nb": nb, "waiting": waiting(patience)})
        }
        Command::Quit { patience } => json!({"waiting": waiting(patience)}),
        Command::Failover { watcher, to, patience } => {
            json!({"name": watcher, "to": to.as_ref().map(NodeName::as_str), "waiting": waiting(patience)})
        }
    };
    if let Value::Object(properties) = &mut properties {
        properties.retain(|_, value| !value.is_null());
    }
    json!({"command": command_name(command), "properties": properties})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &Value) -> Result<Request, BadRequest> {
        parse_request(&message.to_string())
    }

    fn why(message: &Value) -> String {
        parse(message).unwrap_err().refusal.to_string()
    }

    fn every_command() -> Vec<Command> {
        let name = || Some("Web *".to_owned());
        let mut commands = vec![
            Command::List { watcher: None },
            Command::List { watcher: name() },
            Command::Status { watcher: None },
            Command::Status { watcher: name() },
            Command::NumWatchers,
            Command::NumProcesses { watcher: None },
            Command::NumProcesses { watcher: name() },
            Command::Stats { watcher: None, pid: None, extended: false },
            Command::Stats { watcher: name(), pid: Some(7), extended: false },
            Command::Options { watcher: "web".into(), keys: None },
            Command::Version,
            Command::Nodes,
            Command::Leases,
            Command::LeaseInit { watcher: "beat".into() },
        ];
        for patience in [Patience::Admitted, Patience::Settled] {
            for pattern in [None, name().map(Pattern::Glob), name().map(Pattern::Name), Pattern::regex("w.b").ok()] {
                commands.push(Command::Start { pattern: pattern.clone(), patience });
                commands.push(Command::Stop { pattern: pattern.clone(), patience });
                commands.push(Command::Restart { pattern, patience });
            }
            for by in [0, 1, -1, 5, -5, i64::MAX, i64::MIN, i64::MIN + 1] {
                commands.push(Command::Resize { watcher: "web".into(), by, patience });
            }
            commands.push(Command::Quit { patience });
            for to in [None, Some(NodeName::parse("web-2").unwrap())] {
                commands.push(Command::Failover { watcher: "beat".into(), to, patience });
            }
        }
        commands
    }

    #[test]
    fn the_time_for_each_node_is_any_number_of_seconds() {
        let limit = |timeout: Value| parse(&json!({"command": "version", "properties": {"timeout": timeout}}));
        assert_eq!(limit(json!(0.5)).unwrap().limit, Some(Duration::from_millis(500)));
        assert_eq!(limit(json!(7)).unwrap().limit, Some(Duration::from_secs(7)));
        assert_eq!(limit(Value::Null).unwrap().limit, None);
        for bad in [json!(-1), json!("5"), json!(1e300)] {
            assert!(limit(bad.clone()).unwrap_err().refusal.to_string().contains("'timeout'"), "{bad}");
        }
    }

    #[test]
    fn every_command_reads_back_as_itself() {
        for command in every_command() {
            let request = parse(&command_json(&command)).unwrap();
            assert_eq!(request.command, command);
            assert_eq!((request.id, request.cast, request.target), (Value::Null, false, Target::Here));
        }
    }

    #[test]
    fn the_id_comes_back_whatever_it_is() {
        for id in [json!(null), json!(7), json!("x"), json!([1, {"a": 2}]), json!(1.5)] {
            assert_eq!(parse(&json!({"command": "list", "id": id})).unwrap().id, id);
            assert_eq!(parse(&json!({"command": "frob", "id": id})).unwrap_err().id, id);
        }
    }

    #[test]
    fn a_text_that_is_no_object_is_not_json_to_circus() {
        for text in ["", " ", "[1]", "5", "\"x\"", "null", "{", "\u{feff}{}", "{}{}"] {
            let bad = parse_request(text).unwrap_err();
            if text != "{}{}" {
                assert_eq!(bad.id, Value::Null);
            }
            assert_eq!((bad.refusal.errno(), bad.refusal.to_string().as_str()), (1, "json invalid"), "{text:?}");
        }
    }

    #[test]
    fn a_command_is_needed_and_known() {
        assert_eq!(why(&json!({})), "message invalid 'command' is missing");
        assert_eq!(why(&json!({"command": null})), "message invalid 'command' is missing");
        assert_eq!(why(&json!({"command": 5})), "'command' isn't a string");
        let unknown = parse(&json!({"command": "frob"})).unwrap_err().refusal;
        assert_eq!((unknown.errno(), unknown.to_string().as_str()), (2, "unknown command: 'frob'"));
    }

    #[test]
    fn command_names_ignore_case_and_unknown_properties_are_ignored() {
        let request = parse(&json!({"command": "LIST", "properties": {"frob": [], "name": "Web"}})).unwrap();
        assert_eq!(request.command, Command::List { watcher: Some("Web".into()) });
        for none in [json!(null), json!([]), json!({})] {
            assert!(parse(&json!({"command": "list", "properties": none})).is_ok());
        }
        assert_eq!(why(&json!({"command": "list", "properties": [1]})), "'properties' isn't an object");
    }

    #[test]
    fn a_wrong_type_is_refused_by_name() {
        let cases = [
            ("list", json!({"name": 5}), "'name' isn't a string"),
            ("stop", json!({"waiting": "yes"}), "'waiting' isn't a boolean"),
            ("stop", json!({"match": 1}), "'match' isn't a string"),
            ("incr", json!({"name": "web", "nb": "x"}), "'nb' isn't an integer"),
            ("incr", json!({"name": "web", "nb": 1.5}), "'nb' isn't an integer"),
            ("incr", json!({}), "message invalid 'name' is missing"),
            ("options", json!({"name": null}), "message invalid 'name' is missing"),
            ("stats", json!({"name": "web", "process": -1}), "'process' isn't an integer"),
            ("stats", json!({"process": 1}), "message invalid 'name' is missing"),
            ("list", json!({"node": 5}), "'node' isn't a string or a list of strings"),
            ("list", json!({"node": [5]}), "'node' isn't a string or a list of strings"),
            ("list", json!({"node": []}), "'node' names no node"),
            ("list", json!({"node": ""}), "'node': a node name cannot be empty"),
            ("list", json!({"all": 1}), "'all' isn't a boolean"),
            ("list", json!({"all": true, "node": "a"}), "'node' and 'all' exclude each other"),
            ("stop", json!({"match": "regex"}), "'match': regex is not supported yet; use glob or simple"),
            ("stop", json!({"match": "globb"}), "'match' is glob or simple, not 'globb'"),
        ];
        for (command, properties, expected) in cases {
            let bad = parse(&json!({"command": command, "properties": properties})).unwrap_err();
            assert_eq!((bad.refusal.errno(), bad.refusal.to_string().as_str()), (3, expected));
        }
        assert!(why(&json!({"command": "failover", "properties": {"name": "b", "to": "web 1"}})).starts_with("'to': "));
    }

    #[test]
    fn nodes_come_as_a_text_or_a_list() {
        let target = |properties: Value| parse(&json!({"command": "list", "properties": properties})).unwrap().target;
        let nodes = Target::Nodes(vec![NodeName::parse("b").unwrap(), NodeName::parse("a").unwrap()]);
        assert_eq!(target(json!({"node": "b, a,b"})), nodes);
        assert_eq!(target(json!({"node": ["b", "a"]})), nodes);
        assert_eq!(target(json!({"all": true})), Target::All);
        assert_eq!(target(json!({"all": false})), Target::Here);
    }

    #[test]
    fn a_simple_match_means_its_characters() {
        let request = parse(&json!({"command": "stop", "properties": {"name": "a*b?[c]", "match": "simple"}})).unwrap();
        assert_eq!(
            request.command,
            Command::Stop { pattern: Some(Pattern::Name("a*b?[c]".into())), patience: Patience::Admitted }
        );
    }

    #[test]
    fn a_cast_is_told_apart_even_when_it_is_wrong() {
        assert!(parse(&json!({"command": "list", "msg_type": "cast"})).unwrap().cast);
        assert!(parse(&json!({"command": "frob", "msg_type": "cast"})).unwrap_err().cast);
    }

    #[test]
    fn prefixes_and_corrupted_bytes_are_answered_and_never_panic() {
        for command in every_command() {
            let mut message = command_json(&command);
            message["id"] = json!("é7");
            let good = message.to_string();
            for end in 0..good.len() {
                if let Some(prefix) = good.get(..end) {
                    assert_eq!(parse_request(prefix).unwrap_err().refusal.errno(), 1);
                }
            }
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bytes = good.clone().into_bytes();
                    bytes[at] ^= 1 << bit;
                    let _ = parse_request(&String::from_utf8_lossy(&bytes));
                }
            }
        }
    }

    #[test]
    fn a_very_deep_text_is_refused() {
        assert_eq!(parse_request(&"{\"a\":".repeat(100_000)).unwrap_err().refusal.errno(), 1);
    }
}
