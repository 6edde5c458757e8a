//! News as Circus publishes it.

use serde_json::Value;

use crate::model::event::Notice;
use crate::model::names::NodeName;
use crate::wire::notice_json;

/// One piece of news: its topic, `watcher.NAME.WORD`, and its body. `time` in seconds of the Unix epoch.
pub fn event(notice: &Notice, node: &NodeName, time: f64) -> (String, String) {
    let mut told = notice_json(notice, node, time);
    let mut body = told["body"].take();
    if let Value::Object(body) = &mut body {
        body.remove("wid");
    }
    (told["topic"].as_str().unwrap_or_default().to_owned(), body.to_string())
}
