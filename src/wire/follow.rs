//! Requests that are answered with a stream: what happens on nodes, what their processes print, and what they use.

use serde_json::{Map, Value, json};

use super::request::{Properties, wrong};
use crate::model::command::Refusal;
use crate::model::names::WatcherName;
use crate::model::pattern::Pattern;

/// What there is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// News of watchers ([`super::notice_json`]).
    Events,
    /// Lines of output ([`super::log_line_json`]).
    Logs,
    /// What is used, each second ([`super::node_stats_json`]).
    Stats,
}

/// Of which nodes.
#[derive(Debug, Clone, PartialEq)]
pub enum Nodes {
    /// Of the one that is asked.
    Here,
    /// Of all.
    All,
    /// Of those that fit.
    Named(Vec<Pattern>),
}

/// A stream that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Follow {
    /// Of what.
    pub subject: Subject,
    /// Of which watchers; none: of all.
    pub names: Vec<Pattern>,
    /// How many of those that have been before come first, at most.
    pub lines: usize,
    /// Whether it goes on with what comes.
    pub live: bool,
    /// Of which nodes. Of others than the one that is asked there is only what comes.
    pub nodes: Nodes,
}

impl Follow {
    /// All of it from now on, of the node that is asked.
    pub fn all(subject: Subject) -> Follow {
        Follow { subject, names: Vec::new(), lines: 0, live: true, nodes: Nodes::Here }
    }

    /// Whether a watcher is among those that are followed.
    pub fn fits(&self, watcher: &WatcherName) -> bool {
        self.fits_name(watcher.as_str())
    }

    fn fits_name(&self, watcher: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name.fits(watcher))
    }

    /// Leaves of a line only what is followed; false where that is nothing. What is said about a stream itself stays.
    pub fn narrow(&self, line: &mut Value) -> bool {
        let fits_node = |node: &str| match &self.nodes {
            Nodes::Here | Nodes::All => true,
            Nodes::Named(nodes) => nodes.iter().any(|wanted| wanted.fits(node)),
        };
        for path in ["/watchers", "/history/watchers"] {
            if let Some(Value::Array(watchers)) = line.pointer_mut(path) {
                watchers.retain(|watcher| watcher["name"].as_str().is_some_and(|name| self.fits_name(name)));
            }
        }
        line["node"].as_str().is_none_or(fits_node) && line["watcher"].as_str().is_none_or(|name| self.fits_name(name))
    }
}

/// Reads a request for a stream; nothing where `text` is none.
///
/// `{"command": "events"|"logs"|"stats", "properties": {"name": text or list, "lines": number, "follow": flag, "node":
/// text or list, "all": flag}, "id": …}`
///
/// | command | `name` | `lines` | `follow` |
/// |---|---|---|---|
/// | `events` | a pattern, or several; without it all watchers | 0 | true |
/// | `logs` | the same | 100 | false |
/// | `stats` | the same | – | must be true: without it, it is the request with one reply |
///
/// `node` (patterns, in a list or with commas between them) or `all` has the streams of other nodes too, from now on:
/// `follow` must be true then, and `lines` is not looked at. The id comes back with each line of the stream. The error is for a property that is not what it should be.
pub fn parse_follow(text: &str) -> Option<(Value, Result<Follow, Refusal>)> {
    let mut message: Map<String, Value> = serde_json::from_str(text).ok()?;
    let subject = match message.get("command")?.as_str()?.to_lowercase().as_str() {
        "events" => Subject::Events,
        "logs" => Subject::Logs,
        "stats" if message.get("properties")?.get("follow")? == true => Subject::Stats,
        _ => return None,
    };
    let id = message.remove("id").unwrap_or(Value::Null);
    Some((id, understand(subject, &message)))
}

fn understand(subject: Subject, message: &Map<String, Value>) -> Result<Follow, Refusal> {
    let properties = Properties::of(message)?;
    let (lines, live) = match subject {
        Subject::Events | Subject::Stats => (0, true),
        Subject::Logs => (100, false),
    };
    let lines = properties.number("lines", lines)?;
    let follow = Follow {
        subject,
        names: properties.texts("name")?.into_iter().map(Pattern::Glob).collect(),
        lines: usize::try_from(lines).map_err(|_| wrong("lines", "a number of lines"))?,
        live: match properties.get("follow") {
            None => live,
            Some(_) => properties.flag("follow")?,
        },
        nodes: nodes(&properties)?,
    };
    match &follow.nodes {
        Nodes::All | Nodes::Named(_) if !follow.live => {
            let why = "of other nodes there is only what comes: ask for it with 'follow', or ask them one by one";
            Err(Refusal::BadMessage(why.into()))
        }
        _ => Ok(follow),
    }
}

fn nodes(properties: &Properties<'_>) -> Result<Nodes, Refusal> {
    let named: Vec<Pattern> = properties
        .texts("node")?
        .iter()
        .flat_map(|text| text.split(','))
        .map(|text| Pattern::Glob(text.trim().to_owned()))
        .collect();
    match (named.is_empty(), properties.flag("all")?) {
        (true, false) => Ok(Nodes::Here),
        (true, true) => Ok(Nodes::All),
        (false, false) => Ok(Nodes::Named(named)),
        (false, true) => Err(Refusal::BadMessage("'node' and 'all' exclude each other".into())),
    }
}

/// A request for a stream, without an id.
pub fn follow_json(follow: &Follow) -> Value {
    let command = match follow.subject {
        Subject::Events => "events",
        Subject::Logs => "logs",
        Subject::Stats => "stats",
    };
    let mut properties = json!({"lines": follow.lines, "follow": follow.live});
    if !follow.names.is_empty() {
        properties["name"] = follow.names.iter().map(Pattern::text).collect();
    }
    match &follow.nodes {
        Nodes::Here => {}
        Nodes::All => properties["all"] = json!(true),
        Nodes::Named(nodes) => properties["node"] = nodes.iter().map(Pattern::text).collect(),
    }
    json!({"command": command, "properties": properties})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Pattern {
        Pattern::Glob(text.into())
    }

    fn read(text: &str) -> Result<Follow, Refusal> {
        parse_follow(text).expect("a request for a stream").1
    }

    #[test]
    fn what_is_left_out_has_a_usual_value() {
        let events = Follow::all(Subject::Events);
        assert_eq!(
            parse_follow(r#"{"command": "Events", "id": [7]}"#),
            Some((json!([7]), Ok(events.clone()))),
            "and a command's case does not count"
        );
        assert_eq!(read(r#"{"command": "events", "properties": []}"#), Ok(events));
        let names = vec![glob("web*")];
        let logs = Follow { subject: Subject::Logs, names, lines: 100, live: false, nodes: Nodes::Here };
        assert_eq!(read(r#"{"command": "logs", "properties": {"name": "web*", "lines": null}}"#), Ok(logs));
    }

    #[test]
    fn a_request_that_is_written_reads_back() {
        for subject in [Subject::Events, Subject::Logs, Subject::Stats] {
            for (names, lines, live, nodes) in [
                (vec![], 0, true, Nodes::Here),
                (vec![glob("a"), glob("b,c*")], 10_000, subject == Subject::Stats, Nodes::Here),
                (vec![], 0, true, Nodes::All),
                (vec![], 0, true, Nodes::Named(vec![glob("a"), glob("web-*")])),
            ] {
                let follow = Follow { subject, names, lines, live, nodes };
                assert_eq!(read(&follow_json(&follow).to_string()), Ok(follow));
            }
        }
    }

    #[test]
    fn other_requests_are_none_and_wrong_ones_are_told_so() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"command": 1}"#,
            r#"{"command": "status"}"#,
            r#"{"command": "events""#,
            r#"{"command": "stats"}"#,
            r#"{"command": "stats", "properties": {"follow": false}}"#,
        ] {
            assert_eq!(parse_follow(text), None, "{text}");
        }
        for (property, hint) in [
            (r#"{"lines": -1}"#, "'lines'"),
            (r#"{"lines": "x"}"#, "'lines'"),
            (r#"{"follow": 1}"#, "'follow'"),
            (r#"{"name": 1}"#, "'name'"),
            (r#"{"name": [1]}"#, "'name'"),
            (r#"{"node": "web-2"}"#, "only what comes"),
            (r#"{"all": true}"#, "only what comes"),
            (r#"{"all": true, "node": "a", "follow": true}"#, "exclude each other"),
            ("7", "'properties'"),
        ] {
            let why = read(&format!(r#"{{"command": "logs", "properties": {property}}}"#)).unwrap_err().to_string();
            assert!(why.contains(hint), "{property}: {why}");
        }
    }

    fn all_logs() -> Follow {
        Follow { nodes: Nodes::All, ..Follow::all(Subject::Logs) }
    }

    #[test]
    fn of_a_line_that_any_node_sent_only_what_is_followed_stays() {
        let nodes = Nodes::Named(vec![glob("web-*"), glob("db")]);
        let follow = Follow { names: vec![glob("b*")], nodes, ..all_logs() };
        let frame = |node: &str| json!({"node": node, "watchers": [{"name": "web"}, {"name": "Beat"}, 7], "history": {"watchers": [{"name": "web"}]}});
        let mut narrowed = frame("WEB-1");
        assert!(follow.narrow(&mut narrowed));
        let left = json!({"node": "WEB-1", "watchers": [{"name": "Beat"}], "history": {"watchers": []}});
        assert_eq!(narrowed, left);
        assert!(!follow.narrow(&mut frame("cache")));
        let fits = |mut line: Value| follow.narrow(&mut line);
        assert!(fits(json!({"node": "db", "watcher": "beat"})) && fits(json!({"dropped": 7, "node": "db"})));
        assert!(!fits(json!({"node": "db", "watcher": "web"})) && !fits(json!({"dropped": 7, "node": "x"})));
        assert!(fits(json!({"note": "nobody's"})) && fits(json!([])), "what is of no node is for everybody");
    }

    #[test]
    fn a_watcher_is_followed_that_any_of_the_patterns_fits() {
        let watcher = WatcherName::parse("Web-1").unwrap();
        let mut follow = all_logs();
        assert!(follow.fits(&watcher));
        follow.names = vec![glob("beat"), glob("web*")];
        assert!(follow.fits(&watcher));
        follow.names.pop();
        assert!(!follow.fits(&watcher));
    }
}
