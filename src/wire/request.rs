//! Requests: from text to [`Request`].

use std::time::Duration;

use serde_json::{Map, Value};

use super::cluster::{Form, Wrapping};
use super::settings::{self, Of};
use crate::model::command::{Command, Leave, Patience, Refusal, ReloadWay, Selector, Strategy, Target};
use crate::model::drill::Kind;
use crate::model::event::{Changes, Reach, signal_number};
use crate::model::names::{BadName, Label, NodeName, NodeWord, SocketName, WatcherName};
use crate::model::pattern::Pattern;
use crate::model::spec::is_topic;

/// How many characters it may take to say who asks.
const MAX_BY: usize = 256;

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
    /// On whose behalf a node passes it on, in words.
    pub by: Option<String>,
    /// In which form the asker wants its reply.
    pub form: Form,
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
/// | `list` `status` `numprocesses` `legions` | `name` |
/// | `numwatchers` `dstats` `listsockets` `plan` `version` `nodes` `nodelist` `leases` `metrics` | – |
/// | `stats` | `name`, `process` (a pid; needs `name`), `extended` |
/// | `options` | **`name`** |
/// | `get` | **`name`**, **`keys`** (a list) |
/// | `globaloptions` | `option` |
/// | `start` `stop` `restart` | `name`, `match` (`glob`, `simple` or `regex`), `waiting` |
/// | `reload` | `name`, `graceful` (true), `sequential`, `waiting` |
/// | `incr` `decr` | **`name`**, `nb` (1), `waiting` |
/// | `set` | **`name`**, **`options`** (an object: key and value), `waiting` |
/// | `add` | **`name`**, **`cmd`**, `args` (a text, or a list of words), `options`, `start`, `waiting` |
/// | `rm` | **`name`**, `nostop`, `waiting` |
/// | `addsocket` `setsocket` | **`name`**, **`options`**, `waiting` |
/// | `rmsocket` | **`name`**, `waiting` |
/// | `signal` | **`name`**, **`signum`** (number or name), `pid`, `childpid` (needs `pid`), `children`, `recursive` |
/// | `kill` | **`name`**, `pid`, `signum`, `graceful_timeout` (seconds), `waiting` |
/// | `reloadconfig` `drain` `undrain` `quit` | `waiting` |
/// | `history` | `name`, `count` |
/// | `failover` | **`name`**, `to` (a node), `waiting` |
/// | `pause` | **`name`**, `reason`, `waiting` |
/// | `resume` `lease-init` `explain` `lord` `scrolls` | **`name`** |
/// | `lease-check` | **`name`**, **`token`** |
/// | `register_node` | **`node_name`**, **`node_endpoint`**, `node_stats_endpoint` |
/// | `join_cluster` | **`node_name`**, `master_endpoint` |
///
/// `signal` reaches the main process, or with `children` its children alone, with `recursive` all its descendants too,
/// with `childpid` one of its children. In `options`, null takes a key away; the types are Circus's.
///
/// Every command takes `node` (a name or a shell pattern, several with commas, or a list), `label` (`KEY=VALUE` or `KEY`,
/// in the same way: who has all of them), `holder` (who holds the singleton of this watcher) or `all`, and then `timeout`,
/// the seconds that each node may take. `incr`, `start` and `add` take `any` (`true`, or `least-loaded`, `spread`, `pack`):
/// one node, of those that `node` and `label` mean.
///
/// A message of circusd-cluster is taken, too: `{"node": NAME, "broadcast": BOOLEAN, "cmd": {…}, "cluster_timeout": 4}`
/// around such a request, for one node, for all, or with neither for the node that was asked.
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
    let wrapping = Wrapping::take(&mut message);
    let id = message.remove("id").unwrap_or(Value::Null);
    let by = message.get("by").and_then(Value::as_str).map(|by| by.chars().take(MAX_BY).collect());
    let cast = message.get("msg_type").and_then(Value::as_str) == Some("cast");
    match understand(&message, wrapping.as_ref()) {
        Ok(Understood { target, command, limit, form }) => Ok(Request { id, cast, target, command, limit, by, form }),
        Err(refusal) => Err(refused(id, cast, refusal)),
    }
}

struct Understood {
    target: Target,
    command: Command,
    limit: Option<Duration>,
    form: Form,
}

fn understand(message: &Map<String, Value>, wrapping: Option<&Wrapping>) -> Result<Understood, Refusal> {
    let Some(name) = Properties(Some(message)).text("command")? else { return Err(missing("command")) };
    let properties = Properties::of(message)?;
    let command = properties.command(&name)?;
    let (target, limit) = (properties.target()?, properties.limit()?);
    let Some(wrapping) = wrapping else { return Ok(Understood { target, command, limit, form: Form::Ours }) };
    let (target, form) = wrapping.target()?.unwrap_or((target, Form::Ours));
    Ok(Understood { target, command, limit: wrapping.limit()?.or(limit), form })
}

fn missing(property: &str) -> Refusal {
    Refusal::BadMessage(format!("message invalid '{property}' is missing"))
}

/// What is said of a property, or of a key of `options`, that is not what it should be.
pub(super) fn wrong(property: &str, kind: &str) -> Refusal {
    Refusal::BadMessage(format!("'{property}' isn't {kind}"))
}

/// The properties of a request, each read with its type.
pub(super) struct Properties<'a>(pub(super) Option<&'a Map<String, Value>>);

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
        let needed = || self.needed("name");
        Ok(match name.to_lowercase().as_str() {
            "list" => Command::List { watcher: watcher()? },
            "status" => Command::Status { watcher: watcher()? },
            "numwatchers" => Command::NumWatchers,
            "numprocesses" => Command::NumProcesses { watcher: watcher()? },
            "stats" => self.stats()?,
            "dstats" => Command::AgentStats,
            "options" => Command::Options { watcher: needed()?, keys: None },
            "get" => Command::Options { watcher: needed()?, keys: Some(self.keys()?) },
            "globaloptions" => Command::GlobalOptions { option: self.text("option")? },
            "listsockets" => Command::ListSockets,
            "start" => Command::Start { pattern: self.pattern()?, patience: self.patience()? },
            "stop" => Command::Stop { pattern: self.pattern()?, patience: self.patience()? },
            "restart" => Command::Restart { pattern: self.pattern()?, patience: self.patience()? },
            "reload" => Command::Reload { watcher: watcher()?, way: self.reload_way()?, patience: self.patience()? },
            "reloadconfig" => Command::ReloadConfig { patience: self.patience()? },
            "plan" => Command::Plan,
            "incr" => Command::Resize { watcher: needed()?, by: self.number("nb", 1)?, patience: self.patience()? },
            "decr" => Command::Resize {
                watcher: needed()?,
                by: self.number("nb", 1)?.saturating_neg(),
                patience: self.patience()?,
            },
            "set" => {
                Command::Set { watcher: needed()?, changes: self.changes(Of::Watcher)?, patience: self.patience()? }
            }
            "add" => self.add()?,
            "rm" => {
                let leave = if self.flag("nostop")? { Leave::Processes } else { Leave::Nothing };
                Command::Remove { watcher: needed()?, leave, patience: self.patience()? }
            }
            "addsocket" => {
                let name = needed()?;
                SocketName::parse(&name).map_err(|bad| Refusal::BadMessage(format!("'name': {bad}")))?;
                Command::AddSocket { name, changes: self.changes(Of::Socket)?, patience: self.patience()? }
            }
            "setsocket" => {
                Command::SetSocket { socket: needed()?, changes: self.changes(Of::Socket)?, patience: self.patience()? }
            }
            "rmsocket" => Command::RemoveSocket { socket: needed()?, patience: self.patience()? },
            "signal" => self.signal()?,
            "publish" => {
                let topic = self.needed("topic")?;
                if !is_topic(&topic) {
                    return Err(wrong("topic", "a text without blanks, of at most 200 characters"));
                }
                Command::Publish { watcher: needed()?, topic }
            }
            "kill" => Command::Kill {
                watcher: needed()?,
                pid: self.pid("pid")?,
                signal: self.signum()?,
                grace: self.seconds("graceful_timeout")?,
                patience: self.patience()?,
            },
            "drain" => Command::Drain { patience: self.patience()? },
            "undrain" => Command::Undrain { patience: self.patience()? },
            "rename" => Command::Rename { to: self.node("to")?.ok_or_else(|| missing("to"))? },
            "quit" => Command::Quit { patience: self.patience()? },
            "version" => Command::Version,
            "nodes" => Command::Nodes,
            "nodelist" => Command::NodeList,
            "register_node" => {
                Command::Registered { node: self.node_name()?, endpoint: Some(self.needed("node_endpoint")?) }
            }
            "join_cluster" => Command::Registered { node: self.node_name()?, endpoint: None },
            "leases" => Command::Leases,
            "legions" => Command::Legions { legion: watcher()? },
            "lord" => Command::Lord { legion: needed()? },
            "scrolls" => Command::Scrolls { legion: needed()? },
            "explain" => Command::Explain { watcher: needed()? },
            "metrics" => Command::Metrics,
            "history" => Command::History { watcher: watcher()?, count: self.count("count")?.unwrap_or(usize::MAX) },
            "failover" => Command::Failover { watcher: needed()?, to: self.node("to")?, patience: self.patience()? },
            "pause" => {
                let (reason, patience) = (self.text("reason")?, self.patience()?);
                Command::Pause { watcher: needed()?, reason, patience }
            }
            "resume" => Command::Resume { watcher: needed()? },
            "drill" => self.drill()?,
            "lease-check" => {
                Command::LeaseCheck { watcher: needed()?, token: self.token()?.ok_or_else(|| missing("token"))? }
            }
            "lease-init" => Command::LeaseInit { watcher: needed()? },
            "listen" => return Err(Refusal::BadMessage("invalid message. use a pub/sub socket".into())),
            "ipython" => {
                let why = "there is no Python in this agent, and so no shell in it; circusctl has one of its own";
                return Err(Refusal::BadMessage(why.into()));
            }
            _ => return Err(Refusal::UnknownCommand(name.to_owned())),
        })
    }

    fn node_name(&self) -> Result<NodeName, Refusal> {
        self.node("node_name")?.ok_or_else(|| missing("node_name"))
    }

    fn count(&self, property: &str) -> Result<Option<usize>, Refusal> {
        let Some(value) = self.get(property) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| wrong(property, "a whole number"))
    }

    fn token(&self) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get("token") else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| wrong("token", "a whole number"))
    }

    fn drill(&self) -> Result<Command, Refusal> {
        let watcher = self.needed("name")?;
        let kind = self.needed("kind")?;
        let kind = Kind::parse(&kind).ok_or_else(|| {
            let kinds = Kind::ALL.map(Kind::word).join(", ");
            Refusal::BadMessage(format!("'kind' is one of {kinds}, not '{kind}'"))
        })?;
        Ok(Command::Drill { watcher, kind, lasting: self.seconds("lasting")? })
    }

    fn stats(&self) -> Result<Command, Refusal> {
        if self.flag("follow")? {
            return Err(Refusal::BadMessage(
                "'follow' asks for a stream, which other requests cannot be part of".into(),
            ));
        }
        let watcher = self.text("name")?;
        let pid = self.pid("process")?;
        if pid.is_some() && watcher.is_none() {
            return Err(missing("name"));
        }
        // Of all watchers at once nobody is asked for more, as in Circus: each hook may take its time.
        let extended = self.flag("extended")? && watcher.is_some();
        Ok(Command::Stats { watcher, pid, extended })
    }

    fn keys(&self) -> Result<Vec<String>, Refusal> {
        self.get("keys").ok_or_else(|| missing("keys"))?;
        self.texts("keys")
    }

    fn reload_way(&self) -> Result<ReloadWay, Refusal> {
        let graceful = self.get("graceful").is_none() || self.flag("graceful")?;
        Ok(match (graceful, self.flag("sequential")?) {
            (false, _) => ReloadWay::Restart,
            (true, true) => ReloadWay::Sequential,
            (true, false) => ReloadWay::Rolling,
        })
    }

    fn changes(&self, of: Of) -> Result<Changes, Refusal> {
        settings::read(of, self.options()?.ok_or_else(|| missing("options"))?)
    }

    fn options(&self) -> Result<Option<&'a Map<String, Value>>, Refusal> {
        match self.get("options") {
            None => Ok(None),
            Some(Value::Object(options)) => Ok(Some(options)),
            Some(_) => Err(Refusal::BadMessage("'options' property should be an object".into())),
        }
    }

    fn add(&self) -> Result<Command, Refusal> {
        let name = self.needed("name")?;
        WatcherName::parse(&name).map_err(|bad| Refusal::BadMessage(format!("'name': {bad}")))?;
        let mut options = self.options()?.cloned().unwrap_or_default();
        options.insert("cmd".into(), Value::String(self.needed("cmd")?));
        if let Some(args) = self.get("args") {
            options.insert("args".into(), args.clone());
        }
        let (changes, start) = (settings::read(Of::Watcher, &options)?, self.flag("start")?);
        Ok(Command::Add { name, changes, start, patience: self.patience()? })
    }

    fn signal(&self) -> Result<Command, Refusal> {
        let watcher = self.needed("name")?;
        let signal = self.signum()?.ok_or_else(|| missing("signum"))?;
        let pid = self.pid("pid")?;
        // Circus's manual has the second name, its code the first.
        let child = match self.pid("childpid")? {
            None => self.pid("child_pid")?,
            child => child,
        };
        let reach = match (child, self.flag("children")?, self.flag("recursive")?) {
            (Some(_), ..) if pid.is_none() => {
                return Err(Refusal::BadMessage("cannot specify childpid without pid".into()));
            }
            (Some(child), ..) => Reach::Child(child),
            (None, true, _) => Reach::Children,
            (None, false, true) => Reach::Tree,
            (None, false, false) => Reach::Main,
        };
        Ok(Command::Signal { watcher, pid, signal, reach })
    }

    fn signum(&self) -> Result<Option<i32>, Refusal> {
        let number = match self.get("signum") {
            None => return Ok(None),
            Some(Value::Number(number)) => signal_number(&number.to_string()),
            Some(Value::String(name)) => signal_number(name),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| Refusal::BadMessage("signal invalid".into()))
    }

    fn target(&self) -> Result<Target, Refusal> {
        let nodes = self.several("node", NodeWord::parse)?;
        let labels = self.several("label", Label::parse)?.unwrap_or_default();
        let any = self.strategy()?;
        let named = nodes.is_some() && any.is_none();
        let ways = [
            ("node", named),
            ("all", self.flag("all")?),
            ("holder", self.get("holder").is_some()),
            ("any", any.is_some()),
        ];
        let mut taken = ways.iter().filter(|(_, is)| *is).map(|(way, _)| way);
        if let (Some(one), Some(other)) = (taken.next(), taken.next()) {
            return Err(Refusal::BadMessage(format!("'{one}' and '{other}' exclude each other")));
        }
        if let Some(strategy) = any {
            return Ok(Target::Any(strategy, Selector { nodes: nodes.unwrap_or_default(), labels }));
        }
        match (nodes, self.text("holder")?, self.flag("all")?) {
            (_, Some(_), _) if !labels.is_empty() => {
                Err(Refusal::BadMessage("'holder' and 'label' exclude each other".into()))
            }
            (_, Some(watcher), _) => Ok(Target::Holder(watcher)),
            (Some(nodes), None, _) => Ok(Target::Nodes(Selector { nodes, labels })),
            (None, None, _) if !labels.is_empty() => Ok(Target::Nodes(Selector { nodes: Vec::new(), labels })),
            (None, None, true) => Ok(Target::All),
            (None, None, false) => Ok(Target::Here),
        }
    }

    /// Which node is preferred, where it is left open which one is asked.
    fn strategy(&self) -> Result<Option<Strategy>, Refusal> {
        match self.get("any") {
            Some(Value::Bool(true)) => Ok(Some(Strategy::default())),
            None | Some(Value::Bool(false)) => Ok(None),
            Some(Value::String(word)) => {
                Strategy::parse(word).map(Some).map_err(|why| Refusal::BadMessage(format!("'any': {why}")))
            }
            Some(_) => Err(wrong("any", "a boolean or a string")),
        }
    }

    /// Words in one text with commas, or in a list; nothing where it is absent.
    fn several<T>(
        &self,
        property: &str,
        parse: impl Fn(&str) -> Result<T, BadName>,
    ) -> Result<Option<Vec<T>>, Refusal> {
        let words: Vec<&str> = match self.get(property) {
            None => return Ok(None),
            Some(Value::String(words)) => words.split(',').map(str::trim).collect(),
            Some(Value::Array(words)) => {
                let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
                words.ok_or_else(|| wrong(property, "a string or a list of strings"))?
            }
            Some(_) => return Err(wrong(property, "a string or a list of strings")),
        };
        if words.is_empty() {
            return Err(Refusal::BadMessage(format!("'{property}' names no {property}")));
        }
        let bad = |bad: BadName| Refusal::BadMessage(format!("'{property}': {bad}"));
        words.into_iter().map(parse).collect::<Result<_, _>>().map(Some).map_err(bad)
    }

    fn limit(&self) -> Result<Option<Duration>, Refusal> {
        self.seconds("timeout")
    }

    fn pattern(&self) -> Result<Option<Pattern>, Refusal> {
        let (name, kind) = (self.text("name")?, self.text("match")?);
        let Some(name) = name else { return Ok(None) };
        match kind.as_deref() {
            None | Some("glob") => Ok(Some(Pattern::Glob(name))),
            Some("simple") => Ok(Some(Pattern::Name(name))),
            Some("regex") => Pattern::regex(&name)
                .map(Some)
                .map_err(|why| Refusal::BadMessage(format!("'name' is no regular expression: {why}"))),
            Some(other) => Err(Refusal::BadMessage(format!("unknown match method {other}"))),
        }
    }

    fn patience(&self) -> Result<Patience, Refusal> {
        Ok(if self.flag("waiting")? { Patience::Settled } else { Patience::Admitted })
    }

    pub(super) fn node(&self, property: &str) -> Result<Option<NodeName>, Refusal> {
        self.text(property)?
            .map(|name| NodeName::parse(&name).map_err(|bad| Refusal::BadMessage(format!("'{property}': {bad}"))))
            .transpose()
    }

    pub(super) fn get(&self, property: &str) -> Option<&'a Value> {
        self.0?.get(property).filter(|value| !value.is_null())
    }

    fn needed(&self, property: &str) -> Result<String, Refusal> {
        self.text(property)?.ok_or_else(|| missing(property))
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

    /// A pid: a number, or its digits, which is what Circus's circusctl sends.
    fn pid(&self, property: &str) -> Result<Option<u32>, Refusal> {
        let pid = match self.get(property) {
            None => return Ok(None),
            Some(Value::String(digits)) => digits.parse().ok(),
            Some(value) => value.as_u64().and_then(|pid| pid.try_into().ok()),
        };
        pid.map(Some).ok_or_else(|| wrong(property, "an integer"))
    }

    /// Seconds: a number, or its digits, for the same reason.
    pub(super) fn seconds(&self, property: &str) -> Result<Option<Duration>, Refusal> {
        let seconds = match self.get(property) {
            None => return Ok(None),
            Some(Value::String(digits)) => digits.parse().ok(),
            Some(value) => value.as_f64(),
        };
        let span = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        span.map(Some).ok_or_else(|| wrong(property, "a number of seconds"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(message: &Value) -> Result<Request, BadRequest> {
        parse_request(&message.to_string())
    }

    fn why(message: &Value) -> String {
        parse(message).unwrap_err().refusal.to_string()
    }

    #[test]
    fn the_time_for_each_node_is_any_number_of_seconds() {
        let limit = |timeout: Value| parse(&json!({"command": "version", "properties": {"timeout": timeout}}));
        assert_eq!(limit(json!(0.5)).unwrap().limit, Some(Duration::from_millis(500)));
        assert_eq!(limit(json!(7)).unwrap().limit, Some(Duration::from_secs(7)));
        assert_eq!(limit(Value::Null).unwrap().limit, None);
        for bad in [json!(-1), json!("soon"), json!(1e300)] {
            assert!(limit(bad.clone()).unwrap_err().refusal.to_string().contains("'timeout'"), "{bad}");
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
            ("list", json!({"label": "zone="}), "'label': a label's value cannot be empty"),
            ("list", json!({"holder": "beat", "all": true}), "'all' and 'holder' exclude each other"),
            ("incr", json!({"name": "web", "any": "best"}), "'any': it is one of least-loaded, spread, pack"),
            ("incr", json!({"name": "web", "any": 1}), "'any' isn't a boolean or a string"),
            ("incr", json!({"name": "web", "any": true, "all": true}), "'all' and 'any' exclude each other"),
            ("list", json!({"holder": "beat", "label": "zone"}), "'holder' and 'label' exclude each other"),
            ("list", json!({"all": true, "node": "a"}), "'node' and 'all' exclude each other"),
            ("stop", json!({"name": "w", "match": "globb"}), "unknown match method globb"),
            ("get", json!({"name": "web"}), "message invalid 'keys' is missing"),
            ("get", json!({"name": "web", "keys": [1]}), "'keys' isn't a string or a list of strings"),
            ("set", json!({"name": "web"}), "message invalid 'options' is missing"),
            ("set", json!({"name": "web", "options": [1]}), "'options' property should be an object"),
            ("set", json!({"name": "web", "options": {"numprocesses": "x"}}), "'numprocesses' isn't an integer"),
            ("add", json!({"name": "web"}), "message invalid 'cmd' is missing"),
            ("add", json!({"cmd": "sleep 1"}), "message invalid 'name' is missing"),
            ("add", json!({"name": "", "cmd": "sleep 1"}), "'name': a watcher name cannot be empty"),
            ("add", json!({"name": "a", "cmd": "b", "args": 5}), "'args' isn't a string"),
            ("addsocket", json!({"options": {"port": 1}}), "message invalid 'name' is missing"),
            ("addsocket", json!({"name": "web"}), "message invalid 'options' is missing"),
            ("addsocket", json!({"name": "", "options": {}}), "'name': a socket name cannot be empty"),
            ("addsocket", json!({"name": "web", "options": []}), "'options' property should be an object"),
            ("addsocket", json!({"name": "web", "options": {"port": "x"}}), "'port' isn't an integer"),
            ("setsocket", json!({"name": "web"}), "message invalid 'options' is missing"),
            ("setsocket", json!({"name": "web", "options": {"umask": 63}}), "'umask' isn't a string"),
            ("setsocket", json!({"name": "web", "options": {}, "waiting": 1}), "'waiting' isn't a boolean"),
            ("rmsocket", json!({}), "message invalid 'name' is missing"),
            ("rmsocket", json!({"name": ["web"]}), "'name' isn't a string"),
            ("signal", json!({"name": "web"}), "message invalid 'signum' is missing"),
            ("signal", json!({"name": "web", "signum": "FOO"}), "signal invalid"),
            ("signal", json!({"name": "web", "signum": 9.5}), "signal invalid"),
            ("signal", json!({"name": "web", "signum": 9, "childpid": 7}), "cannot specify childpid without pid"),
            ("kill", json!({"name": "web", "pid": "x"}), "'pid' isn't an integer"),
            ("kill", json!({"name": "web", "graceful_timeout": -1}), "'graceful_timeout' isn't a number of seconds"),
            ("listen", json!({}), "invalid message. use a pub/sub socket"),
        ];
        for (command, properties, expected) in cases {
            let bad = parse(&json!({"command": command, "properties": properties})).unwrap_err();
            assert_eq!((bad.refusal.errno(), bad.refusal.to_string().as_str()), (3, expected));
        }
        let spaced = json!({"command": "addsocket", "properties": {"name": "web 1", "options": {}}});
        assert!(why(&spaced).starts_with("'name': a socket name holds"), "{}", why(&spaced));
        assert!(why(&json!({"command": "failover", "properties": {"name": "b", "to": "web 1"}})).starts_with("'to': "));
    }

    #[test]
    fn nodes_come_as_a_text_or_a_list() {
        let target = |properties: Value| parse(&json!({"command": "list", "properties": properties})).unwrap().target;
        let selector = |nodes: &[&str], labels: &[&str]| {
            Target::Nodes(Selector {
                nodes: nodes.iter().map(|word| NodeWord::parse(word).unwrap()).collect(),
                labels: labels.iter().map(|label| Label::parse(label).unwrap()).collect(),
            })
        };
        assert_eq!(target(json!({"node": "b, a-*"})), selector(&["b", "a-*"], &[]));
        assert_eq!(target(json!({"node": ["b", "a"]})), selector(&["b", "a"], &[]));
        assert_eq!(target(json!({"node": "a", "label": "zone=a,web"})), selector(&["a"], &["zone=a", "web"]));
        assert_eq!(target(json!({"label": ["zone=a"], "all": true})), selector(&[], &["zone=a"]));
        assert_eq!(target(json!({"holder": "beat"})), Target::Holder("beat".into()));
        let any = target(json!({"any": true, "node": "a-*"}));
        assert_eq!(
            any,
            Target::Any(
                Strategy::LeastLoaded,
                Selector { labels: vec![], nodes: vec![NodeWord::parse("a-*").unwrap()] }
            )
        );
        assert_eq!(target(json!({"all": true})), Target::All);
        assert_eq!(target(json!({"all": false})), Target::Here);
    }

    #[test]
    fn a_signal_is_a_number_or_a_name_and_reaches_as_far_as_it_is_told() {
        let signal = |properties: Value| {
            let mut properties = properties;
            properties["name"] = json!("web");
            match parse(&json!({"command": "signal", "properties": properties})).unwrap().command {
                Command::Signal { pid, signal, reach, .. } => (pid, signal, reach),
                other => panic!("{other:?}"),
            }
        };
        for nine in [json!(9), json!("9"), json!("kill"), json!("SIGKILL")] {
            assert_eq!(signal(json!({"signum": nine})), (None, 9, Reach::Main));
        }
        assert_eq!(signal(json!({"signum": "SIGRTMIN+1"})).1, 35);
        assert_eq!(signal(json!({"signum": 0, "pid": 7, "recursive": true})), (Some(7), 0, Reach::Tree));
        assert_eq!(signal(json!({"signum": 1, "children": true})), (None, 1, Reach::Children));
        // As in Circus, whose `children` asks no further.
        assert_eq!(signal(json!({"signum": 1, "children": true, "recursive": true})).2, Reach::Children);
        assert_eq!(signal(json!({"signum": 1, "pid": 7, "childpid": 8})).2, Reach::Child(8));
        assert_eq!(signal(json!({"signum": 1, "pid": 7, "child_pid": 8})).2, Reach::Child(8));
    }

    #[test]
    fn circuss_circusctl_kills_with_texts_where_numbers_are_meant() {
        let properties = json!({"name": "web", "pid": "7", "signum": "INT", "graceful_timeout": "2.5"});
        assert_eq!(
            parse(&json!({"command": "kill", "properties": properties})).unwrap().command,
            Command::Kill {
                watcher: "web".into(),
                pid: Some(7),
                signal: Some(2),
                grace: Some(Duration::from_millis(2_500)),
                patience: Patience::Admitted,
            }
        );
    }

    #[test]
    fn an_added_watcher_has_its_command_among_its_settings() {
        let properties = json!({
            "name": "web", "cmd": "python", "args": ["-c", "a b"], "start": true,
            "options": {"numprocesses": 2, "cmd": "other", "env": {"A": "1"}},
        });
        let Command::Add { name, changes, start, .. } =
            parse(&json!({"command": "add", "properties": properties})).unwrap().command
        else {
            panic!("it is an add");
        };
        assert_eq!((name.as_str(), start), ("web", true));
        let some = |key: &str, text: &str| (key.to_owned(), Some(text.to_owned()));
        assert_eq!(changes.settings, [some("args", "-c 'a b'"), some("cmd", "python"), some("numprocesses", "2")]);
        assert_eq!(changes.env, Some(vec![("A".into(), "1".into())]));
    }

    #[test]
    fn a_reload_goes_one_by_one_unless_told_otherwise() {
        let way = |properties: Value| match parse(&json!({"command": "reload", "properties": properties})) {
            Ok(Request { command: Command::Reload { way, .. }, .. }) => way,
            other => panic!("{other:?}"),
        };
        assert_eq!(way(json!({})), ReloadWay::Rolling);
        assert_eq!(way(json!({"graceful": true, "sequential": true})), ReloadWay::Sequential);
        assert_eq!(way(json!({"graceful": false, "sequential": true})), ReloadWay::Restart);
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
    fn a_very_deep_text_is_refused() {
        assert_eq!(parse_request(&"{\"a\":".repeat(100_000)).unwrap_err().refusal.errno(), 1);
    }
}
