//! Requests that are answered with a stream: what happens on an agent, and what its processes print.

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
}

impl Follow {
    /// Whether a watcher is among those that are followed.
    pub fn fits(&self, watcher: &WatcherName) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name.fits(watcher.as_str()))
    }
}

/// Reads a request for a stream; nothing where `text` is none.
///
/// `{"command": "events"|"logs", "properties": {"name": text or list, "lines": number, "follow": flag}, "id": …}`
///
/// | command | `name` | `lines` | `follow` |
/// |---|---|---|---|
/// | `events` | a pattern, or several; without it all watchers | 0 | true |
/// | `logs` | the same | 100 | false |
///
/// The id comes back with each line of the stream. The error is for a property that is not what it should be.
pub fn parse_follow(text: &str) -> Option<(Value, Result<Follow, Refusal>)> {
    let mut message: Map<String, Value> = serde_json::from_str(text).ok()?;
    let subject = match message.get("command")?.as_str()?.to_lowercase().as_str() {
        "events" => Subject::Events,
        "logs" => Subject::Logs,
        _ => return None,
    };
    let id = message.remove("id").unwrap_or(Value::Null);
    Some((id, understand(subject, &message)))
}

fn understand(subject: Subject, message: &Map<String, Value>) -> Result<Follow, Refusal> {
    let properties = Properties::of(message)?;
    if properties.get("node").is_some() || properties.flag("all")? {
        let why = "a stream comes from the node that is asked; ask the others at their own control sockets";
        return Err(Refusal::BadMessage(why.into()));
    }
    let (lines, live) = match subject {
        Subject::Events => (0, true),
        Subject::Logs => (100, false),
    };
    let lines = properties.number("lines", lines)?;
    Ok(Follow {
        subject,
        names: properties.texts("name")?.into_iter().map(Pattern::Glob).collect(),
        lines: usize::try_from(lines).map_err(|_| wrong("lines", "a number of lines"))?,
        live: match properties.get("follow") {
            None => live,
            Some(_) => properties.flag("follow")?,
        },
    })
}

/// A request for a stream, without an id.
pub fn follow_json(follow: &Follow) -> Value {
    let command = match follow.subject {
        Subject::Events => "events",
        Subject::Logs => "logs",
    };
    let mut properties = json!({"lines": follow.lines, "follow": follow.live});
    if !follow.names.is_empty() {
        properties["name"] = follow.names.iter().map(Pattern::text).collect();
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
        let events = Follow { subject: Subject::Events, names: vec![], lines: 0, live: true };
        assert_eq!(
            parse_follow(r#"{"command": "Events", "id": [7]}"#),
            Some((json!([7]), Ok(events.clone()))),
            "and a command's case does not count"
        );
        assert_eq!(read(r#"{"command": "events", "properties": []}"#), Ok(events));
        let logs = Follow { subject: Subject::Logs, names: vec![glob("web*")], lines: 100, live: false };
        assert_eq!(read(r#"{"command": "logs", "properties": {"name": "web*", "lines": null}}"#), Ok(logs));
    }

    #[test]
    fn a_request_that_is_written_reads_back() {
        for subject in [Subject::Events, Subject::Logs] {
            for (names, lines, live) in [(vec![], 0, true), (vec![glob("a"), glob("b,c*")], 10_000, false)] {
                let follow = Follow { subject, names, lines, live };
                assert_eq!(read(&follow_json(&follow).to_string()), Ok(follow));
            }
        }
    }

    #[test]
    fn other_requests_are_none_and_wrong_ones_are_told_so() {
        for text in ["", "[]", "{}", r#"{"command": 1}"#, r#"{"command": "status"}"#, r#"{"command": "events""#] {
            assert_eq!(parse_follow(text), None, "{text}");
        }
        for (property, hint) in [
            (r#"{"lines": -1}"#, "'lines'"),
            (r#"{"lines": "x"}"#, "'lines'"),
            (r#"{"follow": 1}"#, "'follow'"),
            (r#"{"name": 1}"#, "'name'"),
            (r#"{"name": [1]}"#, "'name'"),
            (r#"{"node": "web-2"}"#, "their own"),
            (r#"{"all": true}"#, "their own"),
            ("7", "'properties'"),
        ] {
            let why = read(&format!(r#"{{"command": "logs", "properties": {property}}}"#)).unwrap_err().to_string();
            assert!(why.contains(hint), "{property}: {why}");
        }
    }

    #[test]
    fn a_watcher_is_followed_that_any_of_the_patterns_fits() {
        let watcher = WatcherName::parse("Web-1").unwrap();
        let mut follow = Follow { subject: Subject::Logs, names: vec![], lines: 0, live: true };
        assert!(follow.fits(&watcher));
        follow.names = vec![glob("beat"), glob("web*")];
        assert!(follow.fits(&watcher));
        follow.names.pop();
        assert!(!follow.fits(&watcher));
    }
}
