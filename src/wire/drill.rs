//! Drills as JSON: what of a history their verdict needs, and the verdict.

use serde_json::{Value, json};

use crate::model::drill::{Run, Verdict};
use crate::model::history::Gap;

/// What a reply to `history` tells of this watcher's tenures, as far as a drill's verdict needs it; nothing where it is no
/// such reply.
pub fn runs(reply: &Value, watcher: &str) -> Option<Vec<Run>> {
    let leases = reply["history"].as_array()?;
    let named = |lease: &&Value| lease["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(watcher));
    leases.iter().find(named)?["tenures"].as_array()?.iter().map(run).collect()
}

fn run(tenure: &Value) -> Option<Run> {
    // To the millisecond they were written, and to it they are read.
    let ms = |key: &str| tenure[key].as_f64().map(|seconds| (seconds * 1_000.0).round() as u64);
    Some(Run {
        token: tenure["token"].as_u64()?,
        node: tenure["to"].as_str()?.to_owned(),
        pid: tenure["pid"].as_u64().and_then(|pid| pid.try_into().ok()),
        start: ms("start"),
        end: ms("end"),
        gap: ms("gap").map(|ms| Gap { ms, at_most: tenure["gap_at_most"] == true }),
        overlap: ms("overlap"),
    })
}

/// What circusctl tells of a drill when it is over: the reply that began it, and `next gap gap_at_most overlap kept broken`,
/// of which `broken` is a list of texts.
pub fn verdict_json(begun: &Value, verdict: &Verdict) -> Value {
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let mut told = begun.clone();
    told["next"] = json!(verdict.next);
    told["gap"] = json!(verdict.gap.map(|gap| seconds(gap.ms)));
    told["gap_at_most"] = json!(verdict.gap.is_some_and(|gap| gap.at_most));
    told["overlap"] = json!(verdict.overlap.map(seconds));
    told["kept"] = json!(verdict.broken.is_empty());
    told["broken"] = verdict.broken.iter().map(ToString::to_string).collect();
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Answer, Outcome, Reply};
    use crate::model::history::{Cause, Ending, History, Tenure, Why};
    use crate::model::names::WatcherName;
    use crate::wire::reply_json;

    #[test]
    fn what_a_verdict_needs_is_read_as_it_was_written() {
        let tenure = |token, start, end, gap, overlap| Tenure {
            token,
            from: None,
            to: "web-1".into(),
            start,
            pid: Some(7),
            end,
            gap,
            overlap,
            why: Why::Ended(Ending::of(Cause::Drilled)),
        };
        let gap = Some(Gap { ms: 5_021, at_most: true });
        let history = History {
            tenures: vec![
                tenure(18, Some(1_795_345_205_021), None, gap, Some(0)),
                tenure(17, Some(1_795_345_100_003), Some(1_795_345_200_000), None, None),
            ],
            ..History::default()
        };
        let expected: Vec<Run> = history.tenures.iter().map(Run::from).collect();
        let answer = Answer::Histories(vec![(WatcherName::parse("Beat").unwrap(), history)]);
        let told = reply_json(&Outcome::Own(Reply::Done(answer)), &Value::Null, 1.0);
        assert_eq!(runs(&told, "beat"), Some(expected));
        assert_eq!(runs(&told, "web"), None);
        assert_eq!(runs(&json!({"status": "error"}), "beat"), None);
    }
}
