//! Legions as JSON: in the words of uWSGI's stats server, and in ours where it has none.

use std::time::Duration;

use serde_json::{Value, json};

use super::reply::seconds;
use crate::model::names::NodeName;
use crate::model::snapshot::{LegionChange, LegionState, LegionView, Lordship, MemberView};

/// The fields of `legions`; `time` is the present, in seconds of the Unix epoch.
pub(super) fn legions(store: &str, legions: &[LegionView], time: f64) -> Value {
    json!({"legions": legions.iter().map(|view| legion(store, view, time)).collect::<Vec<_>>()})
}

fn legion(store: &str, view: &LegionView, time: f64) -> Value {
    let moment = |ago: Duration| moment(time, ago);
    let lord = view.lord.as_ref();
    let lord_node = lord.map(|lord| lord.node.as_str());
    let lord_is = view.members.iter().find(|member| Some(member.node.as_str()) == lord_node);
    let mine = lord.filter(|_| view.state == LegionState::Lord);
    let others = view.members.iter().map(|member| &member.node).filter(|node| **node != view.node);
    let change = |change: &LegionChange| json!({"at": moment(change.ago), "text": change.text});
    let changes: Vec<Value> = view.changes.iter().map(change).collect();
    // uWSGI's, whose values say the same of another way to agree.
    let mut fields = json!({
        "legion": view.name.as_str(),
        "addr": store,
        "uuid": view.node.as_str(),
        "valor": view.valor,
        "quorum": view.quorum,
        "i_am_the_lord": mine.map_or(0.0, |lord| moment(lord.held_for)),
        "lord_valor": lord_is.map(|member| member.valor),
        "lord_uuid": lord_node,
        "nodes": others.map(NodeName::as_str).collect::<Vec<_>>(),
        "members": view.members.iter().map(|view| member(view, time)).collect::<Vec<_>>(),
    });
    let ours = json!({
        "node": view.node.as_str(),
        "state": view.state.word(),
        "reason": view.why,
        "lord_node": lord_node,
        "lord_since": lord.map(|lord| moment(lord.held_for)),
        "token": mine.and_then(|lord| lord.token),
        "lease_until": mine.and_then(|lord| lord.left).map(|left| to_the_millisecond(time + left.as_secs_f64())),
        "votes": view.live,
        "expected": view.expected,
        "preempt": view.preempt,
        "scroll": view.scroll,
        "joined": view.joined,
        "seen": view.seen.map(moment),
        "last_change": changes.first(),
        "changes": changes,
    });
    if let (Value::Object(fields), Value::Object(ours)) = (&mut fields, ours) {
        fields.extend(ours);
    }
    fields
}

fn member(view: &MemberView, time: f64) -> Value {
    json!({
        "name": view.node.as_str(),
        "uuid": view.node.as_str(),
        "valor": view.valor,
        "last_seen": moment(time, view.heard),
        "stands": view.stands,
        "live": !view.left.is_zero(),
        "scroll": view.scroll,
    })
}

/// The fields of `lord`, with the names of [`lordship_text`](super::lordship_text).
pub(super) fn lord(lordship: &Lordship, left: Option<Duration>, time: f64) -> Value {
    let Lordship { legion, node, mine, lord, members, quorum, scroll, reason } = lordship;
    json!({
        "legion": legion.as_str(),
        "node": node.as_str(),
        "me": mine.is_some(),
        "token": mine.map(|(token, _)| token),
        "left": left.map(seconds),
        "deadline_boottime_ns": mine.map(|(_, deadline)| deadline.stop.as_nanos()),
        "deadline_unix_ms": left.map(|left| ((time + left.as_secs_f64()) * 1_000.0) as u64),
        "lord": lord,
        "members": members.iter().map(NodeName::as_str).collect::<Vec<_>>(),
        "quorum": quorum,
        "scroll": scroll,
        "reason": reason,
    })
}

/// The fields of `scrolls`.
pub(super) fn scrolls(view: &LegionView) -> Value {
    let lord = view.lord.as_ref().map(|lord| lord.node.as_str());
    let lord_scroll =
        view.members.iter().find(|member| Some(member.node.as_str()) == lord).map(|member| &member.scroll);
    let live = || view.members.iter().filter(|member| member.node == view.node || !member.left.is_zero());
    let others = live().filter(|member| member.node != view.node).map(|member| &member.scroll);
    let entry = |member: &MemberView| json!({"name": member.node.as_str(), "scroll": member.scroll});
    let members: Vec<Value> = live().map(entry).collect();
    json!({
        "legion": view.name.as_str(),
        "node": view.node.as_str(),
        "lord": lord,
        "lord_scroll": lord_scroll,
        // In the order of uWSGI's API.
        "scrolls": std::iter::once(&view.scroll).chain(others).collect::<Vec<_>>(),
        "members": members,
    })
}

/// So long ago, in seconds of the Unix epoch.
fn moment(time: f64, ago: Duration) -> f64 {
    to_the_millisecond(time - ago.as_secs_f64())
}

fn to_the_millisecond(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}
