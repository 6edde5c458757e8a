//! Replies of one node or of several, read: who said what, and why not.

use serde_json::Value;

/// What each node said that a reply is from, and its name: of several, each one's part; of one that names itself, all of
/// it. One that does not is nobody's.
pub fn parts(reply: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let own = reply["node"].as_str().map(|node| (node, reply));
    let nodes = reply["nodes"].as_object().into_iter().flatten();
    nodes.map(|(node, part)| (node.as_str(), part)).chain(own)
}

/// What each node said that a reply is from, whether it names itself or not.
pub fn said(reply: &Value) -> impl Iterator<Item = &Value> {
    let nodes = reply["nodes"].as_object();
    let own = nodes.is_none().then_some(reply);
    nodes.into_iter().flat_map(|nodes| nodes.values()).chain(own)
}

/// What the one node said that was asked, by itself or through another; null where none did.
pub fn only_part(mut reply: Value) -> Value {
    match reply.get_mut("nodes").and_then(Value::as_object_mut) {
        Some(nodes) => nodes.values_mut().next().map_or(Value::Null, Value::take),
        None => reply,
    }
}

/// Why a part is an error.
pub fn why(part: &Value) -> &str {
    part["reason"].as_str().unwrap_or("it failed, and did not say why")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_said_is_found_whoever_said_it() {
        let (a, b) = (json!({"status": "ok", "node": "a"}), json!({"status": "error", "reason": "no"}));
        let both = json!({"status": "error", "nodes": {"a": a, "b": b}});
        assert_eq!(parts(&both).collect::<Vec<_>>(), [("a", &a), ("b", &b)]);
        assert_eq!(parts(&a).collect::<Vec<_>>(), [("a", &a)]);
        assert_eq!(parts(&b).count(), 0);
        assert_eq!(only_part(json!({"nodes": {"b": b}})), b);
        assert_eq!((only_part(a.clone()), only_part(json!({"nodes": {}}))), (a.clone(), Value::Null));
        assert_eq!((why(&b), why(&a)), ("no", "it failed, and did not say why"));
    }
}
