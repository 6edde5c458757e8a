//! circusd-cluster's messages: a request wrapped for one node or for all, and the replies that its clients understand.
//!
//! ```json
//! {"node": "second", "broadcast": false, "cmd": {"command": "incr", "properties": {"name": "dummy"}}, "cluster_timeout": 4}
//! ```

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::reply::{Object, object, part_json, reply_json};
use super::request::Properties;
use crate::model::command::{Outcome, Part, Refusal, Target};
use crate::model::names::NodeName;

/// In which form an asker wants its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As [`reply_json`] promises it.
    Ours,
    /// circusd-cluster's of one node: its reply, with its name as `node`.
    OfNode,
    /// circusd-cluster's of all: a list of such replies.
    OfEach,
}

/// What stood around a request.
pub(super) struct Wrapping(Map<String, Value>);

impl Wrapping {
    /// Unwraps `message`, where it is wrapped.
    pub(super) fn take(message: &mut Map<String, Value>) -> Option<Wrapping> {
        if message.contains_key("command") || !message.get("cmd")?.is_object() {
            return None;
        }
        let inner = object(message.remove("cmd")?);
        let outer = std::mem::replace(message, inner);
        for key in ["id", "msg_type"] {
            if let (None, Some(value)) = (message.get(key), outer.get(key)) {
                message.insert(key.into(), value.clone());
            }
        }
        Some(Wrapping(outer))
    }

    /// Whom it is for, and what the reply looks like then; nothing where it does not say.
    pub(super) fn target(&self) -> Result<Option<(Target, Form)>, Refusal> {
        let said = Properties(Some(&self.0));
        match (said.node("node")?, said.flag("broadcast")?) {
            (Some(_), true) => Err(Refusal::BadMessage("'node' and 'broadcast' exclude each other".into())),
            (Some(node), false) => Ok(Some((Target::node(node), Form::OfNode))),
            (None, true) => Ok(Some((Target::All, Form::OfEach))),
            (None, false) => Ok(None),
        }
    }

    /// How long each node may take.
    pub(super) fn limit(&self) -> Result<Option<Duration>, Refusal> {
        Properties(Some(&self.0)).seconds("cluster_timeout")
    }
}

/// The reply to a request, in the form that its asker wants; `time` in seconds of the Unix epoch.
///
/// In circusd-cluster's forms a node that was asked and did not answer, or that is not there, has `err` in its own
/// words, and why as `reason`. An error that is of no node at all is one reply as usual, in a list where one is wanted.
pub fn reply_in(form: Form, outcome: &Outcome, id: &Value, time: f64) -> Value {
    let finished = |mut reply: Object| {
        reply.insert("id".into(), id.clone());
        Value::Object(reply)
    };
    let reply_of = |(node, part): &(NodeName, Part)| finished(of_node(node, part, time));
    match (form, outcome) {
        (Form::OfNode, Outcome::Gathered { parts, missing: None }) if parts.len() == 1 => reply_of(&parts[0]),
        (Form::OfEach, Outcome::Gathered { parts, missing }) => {
            let unknown = |why| finished(object(json!({"err": "No matching node", "reason": why})));
            parts.iter().map(reply_of).chain(missing.iter().map(unknown)).collect()
        }
        (Form::OfEach, _) => json!([reply_json(outcome, id, time)]),
        (Form::Ours | Form::OfNode, _) => reply_json(outcome, id, time),
    }
}

/// One node's reply.
fn of_node(node: &NodeName, part: &Part, time: f64) -> Object {
    let mut reply = match part {
        Part::Silent(why) => object(json!({"err": "Timed out. Try to raise the --timeout value", "reason": why})),
        Part::Absent(why) => object(json!({"err": "No matching node", "reason": why})),
        Part::Own(_) | Part::Relayed(_) => part_json(part, time),
    };
    reply.insert("node".into(), json!(node.as_str()));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Answer, Command, Reply};
    use crate::wire::parse_request;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn a_wrapped_request_is_for_one_node_for_all_or_for_who_was_asked() {
        let wrapped = |node: Value, broadcast: bool| {
            let cmd = json!({"command": "numwatchers", "properties": {}, "id": "x", "msg_type": "cast"});
            json!({"node": node, "broadcast": broadcast, "cmd": cmd, "cluster_timeout": 4}).to_string()
        };
        for (text, target, form) in [
            (wrapped(json!("second"), false), Target::node(node("second")), Form::OfNode),
            (wrapped(Value::Null, true), Target::All, Form::OfEach),
            (wrapped(Value::Null, false), Target::Here, Form::Ours),
        ] {
            let request = parse_request(&text).unwrap();
            assert_eq!((request.target, request.form), (target, form), "{text}");
            assert_eq!((request.command, request.limit), (Command::NumWatchers, Some(Duration::from_secs(4))));
            assert_eq!((request.id, request.cast), (json!("x"), true));
        }
        for bad in [
            wrapped(json!("second"), true),
            wrapped(json!("two words"), false),
            json!({"cmd": "numwatchers"}).to_string(),
            json!({"cmd": {}}).to_string(),
        ] {
            assert_eq!(parse_request(&bad).unwrap_err().refusal.errno(), 3, "{bad}");
        }
        // The envelope has the id where the request has none.
        let text = json!({"cmd": {"command": "version"}, "id": 7}).to_string();
        assert_eq!(parse_request(&text).unwrap().id, json!(7));
    }

    #[test]
    fn replies_are_one_object_or_a_list_of_them_and_name_the_silent_and_the_absent() {
        let part = |name: &str, part: Part| (node(name), part);
        let well = part("a", Part::Own(Reply::Done(Answer::NumWatchers(3))));
        let one =
            |part| reply_in(Form::OfNode, &Outcome::Gathered { parts: vec![part], missing: None }, &json!(1), 2.0);
        let told = json!({"node": "a", "status": "ok", "numwatchers": 3, "time": 2.0, "id": 1});
        assert_eq!(one(well.clone()), told);
        let silent = part("b", Part::Silent("no answer within 4 s".into()));
        let timed_out = json!({
            "node": "b", "err": "Timed out. Try to raise the --timeout value", "reason": "no answer within 4 s", "id": 1,
        });
        assert_eq!(one(silent.clone()), timed_out);
        let absent = part("c", Part::Absent("no such node".into()));
        assert_eq!(one(absent), json!({"node": "c", "err": "No matching node", "reason": "no such node", "id": 1}));
        let parts = vec![well, silent];
        let all = |missing| Outcome::Gathered { parts: parts.clone(), missing };
        assert_eq!(reply_in(Form::OfEach, &all(None), &json!(1), 2.0), json!([told, timed_out]));
        let unknown = json!({"err": "No matching node", "reason": "no Redis", "id": 1});
        let missing = Some("no Redis".to_owned());
        assert_eq!(reply_in(Form::OfEach, &all(missing), &json!(1), 2.0), json!([told, timed_out, unknown]));
        let refused = Outcome::Own(Reply::Refused(Refusal::NoCluster));
        assert_eq!(reply_in(Form::OfEach, &refused, &json!(1), 2.0)[0]["code"], "no-cluster");
        assert_eq!(reply_in(Form::OfNode, &refused, &json!(1), 2.0)["code"], "no-cluster");
    }
}
