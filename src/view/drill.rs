//! A drill as it goes, and what came of it.

use serde_json::Value;

use super::words::{date_and_second, measured, printable};
use super::{list, word};
use crate::model::drill::{ALLOWANCE, Kind, Run};

/// The line that says what is about to be done, from the reply that began it.
pub fn drill_begun(begun: &Value) -> String {
    let node = word(begun, "node");
    let time = begun["lasting"].as_f64().map_or_else(|| "-".into(), measured);
    let deed = match Kind::parse(word(begun, "kind")) {
        Some(Kind::Kill) => format!("the agent of {node} is killed"),
        Some(Kind::Freeze) => format!("the agent of {node} is frozen for {time}"),
        Some(Kind::RedisLoss) => format!("the agent of {node} is cut off from Redis for {time}"),
        None => "something is done to it".to_owned(),
    };
    let (name, token, pid) = (word(begun, "name"), &begun["token"], &begun["pid"]);
    printable(&format!("{name} runs on {node} (token {token}, pid {pid}): {deed}")) + "\n"
}

/// The line about the end of a child, if that was measured.
pub fn drill_ended(run: &Run) -> Option<String> {
    Some(printable(&format!("{}  nothing is left of it on {}", clock(run.end?), run.node)) + "\n")
}

/// The line about the start of a child, if there was one.
pub fn drill_started(run: &Run) -> Option<String> {
    let pid = run.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
    let text = format!("{}  it runs on {} (token {}, pid {pid})", clock(run.start?), run.node, run.token);
    Some(printable(&text) + "\n")
}

/// Hours, minutes and seconds of a moment, ms: `17:40:02Z`.
fn clock(at: u64) -> String {
    date_and_second(at as f64 / 1_000.0)[11..].to_owned()
}

/// The last line: `gap 5.02 s (promised: ttl 15.00 s + 1 s), overlap none, token 17 → 18: the promise was kept`.
pub fn drill_verdict(told: &Value) -> String {
    let ttl = told["ttl"].as_f64().map_or_else(|| "-".into(), |ttl| ttl.to_string());
    let promised = format!("promised: ttl {ttl} s + {} s", ALLOWANCE.as_secs());
    let sign = if told["gap_at_most"] == true { "≤ " } else { "" };
    let gap = match (told["gap"].as_f64(), told["next"].is_null(), told["overlap"].as_f64()) {
        (Some(gap), ..) => format!("gap {sign}{} ({promised})", measured(gap)),
        (None, true, Some(_)) => "no gap, as it ran through".to_owned(),
        (None, ..) => format!("gap not known ({promised})"),
    };
    let overlap = match told["overlap"].as_f64() {
        None => "overlap not known".to_owned(),
        Some(0.0) => "overlap none".to_owned(),
        Some(overlap) => format!("overlap {} !", measured(overlap)),
    };
    let token = match told["next"].as_u64() {
        Some(next) => format!("token {} → {next}", told["token"]),
        None => format!("token {}", told["token"]),
    };
    let broken: Vec<&str> = list(told, "broken").iter().filter_map(Value::as_str).collect();
    let verdict = match broken[..] {
        [] => "the promise was kept".to_owned(),
        _ => format!("the promise was NOT kept: {}", broken.join("; ")),
    };
    printable(&format!("{gap}, {overlap}, {token}: {verdict}")) + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn begun(kind: &str, lasting: Option<f64>) -> Value {
        json!({"node": "web-1", "name": "beat", "token": 17, "pid": 4711, "ttl": 15.0, "kind": kind, "lasting": lasting})
    }

    #[test]
    fn what_is_about_to_be_done_is_said() {
        let text = |kind, lasting| drill_begun(&begun(kind, lasting));
        assert_eq!(text("kill", None), "beat runs on web-1 (token 17, pid 4711): the agent of web-1 is killed\n");
        assert!(text("freeze", Some(22.5)).ends_with("the agent of web-1 is frozen for 22.50 s\n"));
        assert!(text("redis-loss", Some(22.5)).ends_with("the agent of web-1 is cut off from Redis for 22.50 s\n"));
    }

    #[test]
    fn a_step_is_told_by_the_stores_clock() {
        let at = Some(1_795_345_205_021);
        let run = Run { token: 18, node: "web-2".into(), pid: Some(9), start: at, end: at, gap: None, overlap: None };
        assert_eq!(drill_ended(&run).unwrap(), "11:00:05Z  nothing is left of it on web-2\n");
        assert_eq!(drill_started(&run).unwrap(), "11:00:05Z  it runs on web-2 (token 18, pid 9)\n");
        let idle = Run { start: None, end: None, ..run };
        assert_eq!((drill_ended(&idle), drill_started(&idle)), (None, None));
    }

    #[test]
    fn the_verdict_is_one_line() {
        let told = |fields: Value| {
            let mut told = begun("kill", None);
            for (key, value) in fields.as_object().unwrap() {
                told[key] = value.clone();
            }
            drill_verdict(&told)
        };
        assert_eq!(
            told(json!({"next": 18, "gap": 5.021, "overlap": 0.0, "kept": true, "broken": []})),
            "gap 5.02 s (promised: ttl 15 s + 1 s), overlap none, token 17 → 18: the promise was kept\n"
        );
        assert_eq!(
            told(json!({"next": null, "gap": null, "overlap": 0.0, "kept": true, "broken": []})),
            "no gap, as it ran through, overlap none, token 17: the promise was kept\n"
        );
        assert_eq!(
            told(
                json!({"next": 18, "gap": 0.0, "overlap": 0.1, "kept": false, "broken": ["two ran at once for 0.1 s"]})
            ),
            "gap 0 ms (promised: ttl 15 s + 1 s), overlap 0.10 s !, token 17 → 18: the promise was NOT kept: two ran at \
             once for 0.1 s\n"
        );
        assert_eq!(
            told(json!({"next": 18, "gap": 15.0, "gap_at_most": true, "overlap": null, "broken": ["nobody knows"]})),
            "gap ≤ 15.00 s (promised: ttl 15 s + 1 s), overlap not known, token 17 → 18: the promise was NOT kept: nobody \
             knows\n"
        );
        assert_eq!(
            told(json!({"next": null, "gap": null, "overlap": null, "broken": ["nothing runs in its place"]})),
            "gap not known (promised: ttl 15 s + 1 s), overlap not known, token 17: the promise was NOT kept: nothing runs \
             in its place\n"
        );
    }
}
