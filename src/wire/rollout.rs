//! Rolls as JSON: how a node's watchers are, read from its status, and what became of a roll.

use serde_json::{Map, Value, json};

use super::parts::why;
use crate::model::rollout::{Member, Rollout, Sight, Stage, Verdict};

/// How those of a node's watchers are that are `meant`, from its part of a reply to `status`, and the names of those that
/// are to run there. Nothing where it has none that is meant.
pub fn sight(part: &Value, meant: impl Fn(&str) -> bool) -> Option<(Sight, Vec<String>)> {
    if part["status"] == "error" {
        return Some((Sight::Silent(why(part).to_owned()), Vec::new()));
    }
    let (mut names, mut idle, mut down, mut deaths, mut any) = (Vec::new(), Vec::new(), Vec::new(), 0, false);
    for watcher in part["watchers"].as_array().into_iter().flatten() {
        let Some(name) = watcher["name"].as_str().filter(|name| meant(name)) else { continue };
        any = true;
        let state = watcher["state"].as_str().unwrap_or("in a state that is not known");
        let note = watcher["note"].as_str();
        match state {
            "stopped" => idle.push(format!("{name} is stopped there")),
            "standby" => idle.push(match watcher["lease"]["holder"].as_str() {
                Some(holder) => format!("{name} runs on {holder}"),
                None => format!("{name} stands by there"),
            }),
            "active" | "listening" => names.push(name.to_owned()),
            _ => {
                down.push(
                    note.map_or_else(|| format!("{name} is {state}"), |note| format!("{name} is {state}: {note}")),
                );
                names.push(name.to_owned());
            }
        }
        deaths += watcher["restarts"].as_u64().unwrap_or(0);
    }
    let sight = match (any, down.is_empty(), names.is_empty()) {
        (false, ..) => return None,
        (true, false, _) => Sight::Down(down.join("; ")),
        (true, true, false) => Sight::Up { deaths },
        (true, true, true) => Sight::Idle(idle.join("; ")),
    };
    Some((sight, names))
}

/// What became of a roll: `status` (`ok` or `error`), `verdict` (`done idle stopped held called-off blind`),
/// `max_unavailable`, and `nodes` `{NODE: {step, why}}` with the steps `done skipped failed silent asked untouched`.
pub fn rollout_json(roll: &Rollout, verdict: &Verdict) -> Value {
    let nodes: Map<String, Value> =
        roll.members().iter().map(|member| (member.node.to_string(), step(member))).collect();
    let all_well = |step: &Value| matches!(step["step"].as_str(), Some("done" | "skipped"));
    let (word, why) = match verdict {
        Verdict::Done => ("done", None),
        Verdict::Idle => ("idle", None),
        Verdict::Stopped => ("stopped", None),
        Verdict::Held => ("held", None),
        Verdict::CalledOff => ("called-off", None),
        Verdict::Blind(why) => ("blind", Some(why)),
    };
    let well = matches!(verdict, Verdict::Done | Verdict::Idle) && nodes.values().all(all_well);
    let mut told = json!({"status": if well { "ok" } else { "error" }, "verdict": word});
    if let Some(why) = why {
        told["reason"] = json!(why);
    }
    told["max_unavailable"] = json!(roll.most());
    told["nodes"] = Value::Object(nodes);
    told
}

fn step(member: &Member) -> Value {
    let (word, why) = match (&member.stage, &member.sight) {
        (Stage::Done, _) => ("done", None),
        (Stage::Asked, _) => ("asked", None),
        (Stage::Failed(why), _) => ("failed", Some(why)),
        (Stage::Lost(why), _) | (Stage::Untouched, Sight::Silent(why)) => ("silent", Some(why)),
        (Stage::Untouched, Sight::Idle(why)) => ("skipped", Some(why)),
        (Stage::Untouched, Sight::Down(why)) => ("untouched", Some(why)),
        (Stage::Untouched, Sight::Up { .. }) => ("untouched", None),
    };
    json!({"step": word, "why": why})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::NodeName;
    use crate::model::rollout::{Heard, Next, Share};

    #[test]
    fn a_nodes_watchers_are_seen_together() {
        let watcher = |name: &str, state: &str| json!({"name": name, "state": state, "restarts": 1});
        let see =
            |watchers: &[Value]| sight(&json!({"status": "ok", "watchers": watchers}), |name| name.starts_with("web"));
        let mut ill = watcher("web-3", "backoff");
        ill["note"] = json!("exit 1, again in 4.0 s");
        let mut elsewhere = watcher("web-beat", "standby");
        elsewhere["lease"] = json!({"holder": "b"});
        let (stopped, up) = (watcher("web-1", "stopped"), watcher("web-2", "active"));
        assert_eq!(see(&[]), None);
        assert_eq!(see(&[watcher("beat", "backoff")]), None);
        assert_eq!(see(&[stopped.clone(), up.clone()]), Some((Sight::Up { deaths: 2 }, vec!["web-2".into()])));
        let idle = "web-1 is stopped there; web-beat runs on b".to_owned();
        assert_eq!(see(&[stopped, elsewhere]), Some((Sight::Idle(idle), vec![])));
        let down = "web-3 is backoff: exit 1, again in 4.0 s".to_owned();
        assert_eq!(see(&[up, ill]), Some((Sight::Down(down), vec!["web-2".into(), "web-3".into()])));
        let silent = json!({"status": "error", "reason": "no answer within 5 s", "silent": true});
        assert_eq!(sight(&silent, |_| true), Some((Sight::Silent("no answer within 5 s".into()), vec![])));
        assert_eq!(sight(&Value::Null, |_| true), None);
    }

    #[test]
    fn each_node_has_its_step_and_the_whole_its_verdict() {
        let name = |text: &str| NodeName::parse(text).unwrap();
        let up = || Sight::Up { deaths: 0 };
        let nodes = [("a", up()), ("b", Sight::Idle("web is stopped there".into())), ("c", up()), ("d", up())];
        let mut roll = Rollout::new(nodes.map(|(node, sight)| (name(node), sight)), Share::Nodes(1));
        assert_eq!(roll.decide(), Next::Ask(name("a")));
        roll.heard(&name("a"), Heard::Seen { first: up(), later: up() });
        assert_eq!(roll.decide(), Next::Ask(name("c")));
        roll.heard(&name("c"), Heard::Refused("web: exit 1".into()));
        let Next::Over(verdict) = roll.decide() else { panic!("{roll:?}") };
        assert_eq!(
            rollout_json(&roll, &verdict),
            json!({"status": "error", "verdict": "stopped", "max_unavailable": 1, "nodes": {
                "a": {"step": "done", "why": null},
                "b": {"step": "skipped", "why": "web is stopped there"},
                "c": {"step": "failed", "why": "web: exit 1"},
                "d": {"step": "untouched", "why": null},
            }})
        );
    }
}
