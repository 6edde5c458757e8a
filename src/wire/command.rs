//! Commands back to JSON, for the agent that they are sent to.

use serde_json::{Value, json};

use super::settings::{self, Of};
use crate::model::command::{Command, Leave, Patience, ReloadWay, Selector, Target};
use crate::model::event::Reach;
use crate::model::names::{Label, NodeName, NodeWord};
use crate::model::pattern::Pattern;

/// What a command is called in a message.
pub fn command_name(command: &Command) -> &'static str {
    match command {
        Command::List { .. } => "list",
        Command::Status { .. } => "status",
        Command::NumWatchers => "numwatchers",
        Command::NumProcesses { .. } => "numprocesses",
        Command::Stats { .. } => "stats",
        Command::AgentStats => "dstats",
        Command::Options { keys: None, .. } => "options",
        Command::Options { keys: Some(_), .. } => "get",
        Command::GlobalOptions { .. } => "globaloptions",
        Command::ListSockets => "listsockets",
        Command::AddSocket { .. } => "addsocket",
        Command::SetSocket { .. } => "setsocket",
        Command::RemoveSocket { .. } => "rmsocket",
        Command::Start { .. } => "start",
        Command::Stop { .. } => "stop",
        Command::Restart { .. } => "restart",
        Command::Reload { .. } => "reload",
        Command::ReloadConfig { .. } => "reloadconfig",
        Command::Plan => "plan",
        // The lowest number has no opposite; `incr` takes it as it is.
        Command::Resize { by, .. } if *by < 0 && *by != i64::MIN => "decr",
        Command::Resize { .. } => "incr",
        Command::Set { .. } => "set",
        Command::Add { .. } => "add",
        Command::Remove { .. } => "rm",
        Command::Signal { .. } => "signal",
        Command::Publish { .. } => "publish",
        Command::Kill { .. } => "kill",
        Command::Drain { .. } => "drain",
        Command::Undrain { .. } => "undrain",
        Command::Rename { .. } => "rename",
        Command::Quit { .. } => "quit",
        Command::Version => "version",
        Command::Nodes => "nodes",
        Command::NodeList => "nodelist",
        Command::Registered { endpoint: Some(_), .. } => "register_node",
        Command::Registered { endpoint: None, .. } => "join_cluster",
        Command::Leases => "leases",
        Command::Legions { .. } => "legions",
        Command::Lord { .. } => "lord",
        Command::Scrolls { .. } => "scrolls",
        Command::Explain { .. } => "explain",
        Command::Metrics => "metrics",
        Command::History { .. } => "history",
        Command::Failover { .. } => "failover",
        Command::Pause { .. } => "pause",
        Command::Resume { .. } => "resume",
        Command::Drill { .. } => "drill",
        Command::LeaseCheck { .. } => "lease-check",
        Command::LeaseInit { .. } => "lease-init",
    }
}

/// Says in a request who is to be asked.
pub fn address(request: &mut Value, target: &Target) {
    let properties = &mut request["properties"];
    match target {
        Target::Here => {}
        Target::All => properties["all"] = json!(true),
        Target::Holder(watcher) => properties["holder"] = json!(watcher),
        Target::Nodes(selector) => describe(properties, selector),
        Target::Any(strategy, selector) => {
            properties["any"] = json!(strategy.word());
            describe(properties, selector);
        }
    }
}

fn describe(properties: &mut Value, Selector { nodes, labels }: &Selector) {
    if !nodes.is_empty() {
        properties["node"] = nodes.iter().map(NodeWord::to_string).collect();
    }
    if !labels.is_empty() {
        properties["label"] = labels.iter().map(Label::to_string).collect();
    }
}

/// A command as a request without `id`, for the node that it is sent to: `{"command": …, "properties": {…}}`.
pub fn command_json(command: &Command) -> Value {
    let waiting = |patience: &Patience| *patience == Patience::Settled;
    let mut properties = match command {
        Command::NumWatchers
        | Command::AgentStats
        | Command::ListSockets
        | Command::Plan
        | Command::Version
        | Command::Nodes
        | Command::NodeList
        | Command::Leases
        | Command::Metrics => json!({}),
        Command::List { watcher } | Command::Status { watcher } | Command::NumProcesses { watcher } => {
            json!({"name": watcher})
        }
        Command::Legions { legion } => json!({"name": legion}),
        Command::Lord { legion } | Command::Scrolls { legion } => json!({"name": legion}),
        Command::Stats { watcher, pid, extended } => {
            json!({"name": watcher, "process": pid, "extended": extended.then_some(true)})
        }
        Command::Options { watcher, keys } => json!({"name": watcher, "keys": keys}),
        Command::GlobalOptions { option } => json!({"option": option}),
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
        Command::Reload { watcher, way, patience } => json!({
            "name": watcher,
            "graceful": *way != ReloadWay::Restart,
            "sequential": *way == ReloadWay::Sequential,
            "waiting": waiting(patience),
        }),
        Command::ReloadConfig { patience }
        | Command::Drain { patience }
        | Command::Undrain { patience }
        | Command::Quit { patience } => json!({"waiting": waiting(patience)}),
        Command::Rename { to } => json!({"to": to.as_str()}),
        Command::Resize { watcher, by, patience } => {
            let nb = if command_name(command) == "decr" { -by } else { *by };
            json!({"name": watcher, "nb": nb, "waiting": waiting(patience)})
        }
        Command::Set { watcher, changes, patience } => {
            json!({"name": watcher, "options": settings::write(Of::Watcher, changes), "waiting": waiting(patience)})
        }
        Command::Add { name, changes, start, patience } => {
            let mut options = settings::write(Of::Watcher, changes);
            let (cmd, args) = (options.remove("cmd"), options.remove("args"));
            json!({
                "name": name, "cmd": cmd, "args": args, "options": options, "start": start,
                "waiting": waiting(patience),
            })
        }
        Command::AddSocket { name, changes, patience } | Command::SetSocket { socket: name, changes, patience } => {
            json!({"name": name, "options": settings::write(Of::Socket, changes), "waiting": waiting(patience)})
        }
        Command::RemoveSocket { socket, patience } => json!({"name": socket, "waiting": waiting(patience)}),
        Command::Remove { watcher, leave, patience } => {
            json!({"name": watcher, "nostop": *leave == Leave::Processes, "waiting": waiting(patience)})
        }
        Command::Signal { watcher, pid, signal, reach } => {
            let child = if let Reach::Child(child) = reach { Some(child) } else { None };
            // Children without their descendants, but with the process, is what a stop wants and nobody can ask for.
            let recursive = matches!(reach, Reach::Tree | Reach::MainAndChildren);
            json!({
                "name": watcher, "signum": signal, "pid": pid, "childpid": child,
                "children": (*reach == Reach::Children).then_some(true), "recursive": recursive.then_some(true),
            })
        }
        Command::Kill { watcher, pid, signal, grace, patience } => json!({
            "name": watcher, "pid": pid, "signum": signal, "graceful_timeout": grace.map(|grace| grace.as_secs_f64()),
            "waiting": waiting(patience),
        }),
        Command::Failover { watcher, to, patience } => {
            json!({"name": watcher, "to": to.as_ref().map(NodeName::as_str), "waiting": waiting(patience)})
        }
        Command::Pause { watcher, reason, patience } => {
            json!({"name": watcher, "reason": reason, "waiting": waiting(patience)})
        }
        Command::Registered { node, endpoint } => json!({"node_name": node.as_str(), "node_endpoint": endpoint}),
        Command::History { watcher, count } => {
            json!({"name": watcher, "count": (*count != usize::MAX).then_some(count)})
        }
        Command::Drill { watcher, kind, lasting } => {
            json!({"name": watcher, "kind": kind.word(), "lasting": lasting.map(|lasting| lasting.as_secs_f64())})
        }
        Command::LeaseCheck { watcher, token } => json!({"name": watcher, "token": token}),
        Command::Publish { watcher, topic } => json!({"name": watcher, "topic": topic}),
        Command::LeaseInit { watcher } | Command::Resume { watcher } | Command::Explain { watcher } => {
            json!({"name": watcher})
        }
    };
    if let Value::Object(properties) = &mut properties {
        properties.retain(|_, value| !value.is_null());
    }
    json!({"command": command_name(command), "properties": properties})
}

/// A command as one node passes it on to another, on behalf of whoever asked it.
pub fn relayed_json(command: &Command, by: &str) -> Value {
    let mut message = command_json(command);
    message["by"] = json!(by);
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::drill::Kind;
    use crate::model::event::Changes;
    use crate::wire::parse_request;

    /// Each command in all its forms.
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
            Command::Stats { watcher: name(), pid: None, extended: true },
            Command::AgentStats,
            Command::Options { watcher: "web".into(), keys: None },
            Command::Options { watcher: "web".into(), keys: Some(vec![]) },
            Command::Options { watcher: "web".into(), keys: Some(vec!["cmd".into(), "hooks.before_start".into()]) },
            Command::GlobalOptions { option: None },
            Command::GlobalOptions { option: Some("endpoint".into()) },
            Command::ListSockets,
            Command::Plan,
            Command::Version,
            Command::Nodes,
            Command::NodeList,
            Command::Registered { node: NodeName::parse("web-2").unwrap(), endpoint: None },
            Command::Registered {
                node: NodeName::parse("web-2").unwrap(),
                endpoint: Some("tcp://127.0.0.1:5555".into()),
            },
            Command::Leases,
            Command::Legions { legion: None },
            Command::Legions { legion: Some("clusterip".into()) },
            Command::Lord { legion: "clusterip".into() },
            Command::Scrolls { legion: "clusterip".into() },
            Command::Explain { watcher: "beat".into() },
            Command::Metrics,
            Command::History { watcher: None, count: 1 },
            Command::History { watcher: name(), count: usize::MAX },
            Command::LeaseCheck { watcher: "beat".into(), token: u64::MAX },
            Command::LeaseInit { watcher: "beat".into() },
            Command::Resume { watcher: "beat".into() },
            Command::Rename { to: NodeName::parse("web-9").unwrap() },
            Command::Publish { watcher: "beat".into(), topic: "beat.done".into() },
            Command::Drill { watcher: "beat".into(), kind: Kind::Kill, lasting: None },
            Command::Drill { watcher: "beat".into(), kind: Kind::RedisLoss, lasting: Some(Duration::from_millis(500)) },
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
            for way in [ReloadWay::Rolling, ReloadWay::Sequential, ReloadWay::Restart] {
                commands.push(Command::Reload { watcher: None, way, patience });
                commands.push(Command::Reload { watcher: name(), way, patience });
            }
            commands.push(Command::ReloadConfig { patience });
            for changes in [Changes::default(), changes()] {
                commands.push(Command::Set { watcher: "web".into(), changes, patience });
            }
            for start in [false, true] {
                commands.push(Command::Add { name: "web".into(), changes: changes(), start, patience });
            }
            for leave in [Leave::Nothing, Leave::Processes] {
                commands.push(Command::Remove { watcher: "web".into(), leave, patience });
            }
            for changes in [Changes::default(), socket_changes()] {
                commands.push(Command::AddSocket { name: "web".into(), changes: changes.clone(), patience });
                commands.push(Command::SetSocket { socket: "Web".into(), changes, patience });
            }
            commands.push(Command::RemoveSocket { socket: "web".into(), patience });
            for (pid, signal, grace) in [(None, None, None), (Some(7), Some(9), Some(Duration::from_millis(2_500)))] {
                commands.push(Command::Kill { watcher: "web".into(), pid, signal, grace, patience });
            }
            commands.push(Command::Drain { patience });
            commands.push(Command::Undrain { patience });
            commands.push(Command::Quit { patience });
            for reason in [None, Some("migration".to_owned())] {
                commands.push(Command::Pause { watcher: "beat".into(), reason, patience });
            }
            for to in [None, Some(NodeName::parse("web-2").unwrap())] {
                commands.push(Command::Failover { watcher: "beat".into(), to, patience });
            }
        }
        for (pid, reach) in
            [(None, Reach::Main), (None, Reach::Children), (Some(7), Reach::Tree), (Some(7), Reach::Child(8))]
        {
            commands.push(Command::Signal { watcher: "web".into(), pid, signal: 64, reach });
        }
        commands
    }

    /// Of every type one, with a key that goes.
    fn changes() -> Changes {
        let mut settings = vec![("max_age".to_owned(), None)];
        for (key, text) in [
            ("args", "-c 'a b'"),
            ("cmd", "sh"),
            ("graceful_timeout", "2.5"),
            ("hooks.before_start", "mod.hook,true"),
            ("numprocesses", "3"),
            ("respawn", "False"),
            ("rlimit_core", ""),
            ("stdout_stream.class", "FileStream"),
            ("stop_signal", "15"),
            ("warmup_delay", "1m"),
        ] {
            settings.push((key.into(), Some(text.into())));
        }
        settings.sort();
        Changes { settings, env: Some(vec![("A".into(), "1".into()), ("B".into(), String::new())]) }
    }

    /// The same of a socket.
    fn socket_changes() -> Changes {
        let settings = [
            ("backlog", Some("128")),
            ("blocking", Some("False")),
            ("host", None),
            ("path", Some("/run/web.sock")),
            ("port", Some("8080")),
            ("umask", Some("077")),
        ];
        let owned = |(key, text): (&str, Option<&str>)| (key.to_owned(), text.map(str::to_owned));
        Changes { settings: settings.map(owned).into(), env: None }
    }

    #[test]
    fn every_command_reads_back_as_itself() {
        for command in every_command() {
            let request = parse_request(&command_json(&command).to_string()).unwrap();
            assert_eq!(request.command, command);
            assert_eq!((request.id, request.cast, request.target), (Value::Null, false, Target::Here));
        }
    }

    use crate::model::command::Strategy;

    #[test]
    fn every_target_reads_back_as_itself() {
        let nodes = || vec![NodeWord::parse("web-1").unwrap(), NodeWord::parse("db-*").unwrap()];
        let labels = || vec![Label::parse("zone=a").unwrap(), Label::parse("web").unwrap()];
        let some = |nodes, labels| Target::Nodes(Selector { nodes, labels });
        for target in [
            Target::Here,
            Target::All,
            Target::Holder("Beat, \"x\"".into()),
            some(nodes(), vec![]),
            some(vec![], labels()),
            some(nodes(), labels()),
            Target::Any(Strategy::Spread, Selector::default()),
            Target::Any(Strategy::Pack, Selector { nodes: nodes(), labels: labels() }),
        ] {
            let mut message = command_json(&Command::Version);
            address(&mut message, &target);
            assert_eq!(parse_request(&message.to_string()).unwrap().target, target);
        }
    }

    #[test]
    fn what_is_passed_on_says_on_whose_behalf() {
        let message = relayed_json(&Command::Version, "amy").to_string();
        assert_eq!(parse_request(&message).unwrap().by.as_deref(), Some("amy"));
        let endless = relayed_json(&Command::Version, &"é".repeat(10_000)).to_string();
        assert_eq!(parse_request(&endless).unwrap().by.unwrap().chars().count(), 256);
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
}
