//! What has been with leases, as JSON.

use serde_json::{Value, json};

use super::event::exit_code;
use super::reply::seconds;
use crate::model::event::{Exit, TokenState};
use crate::model::history::{Gap, History, Tenure, Why};
use crate::model::names::WatcherName;
use crate::model::runs::{How, Outcome, Run};

/// The fields of a reply to `history`: of each lease its tenures, and of each schedule its runs, the latest first.
pub(super) fn histories(told: &[(WatcherName, History)]) -> Value {
    let one = |(watcher, history): &(WatcherName, History)| {
        json!({
            "name": watcher.as_str(),
            "tenures": history.tenures.iter().map(tenure).collect::<Vec<_>>(),
            "worst_gap": history.worst_gap.map(|gap| epoch(gap.ms)),
            "worst_gap_at_most": history.worst_gap.is_some_and(|gap| gap.at_most),
            "moves": history.moves,
            "overlaps": history.overlaps,
            "runs": history.runs.as_ref().map(|runs| runs.iter().map(run).collect::<Vec<_>>()),
        })
    };
    json!({"history": told.iter().map(one).collect::<Vec<_>>()})
}

fn tenure(tenure: &Tenure) -> Value {
    let (cause, detail, by, seen) = match &tenure.why {
        Why::First => ("first", None, None, None),
        Why::Ended(ending) => (ending.cause.word(), ending.detail.as_deref(), ending.by.as_deref(), None),
        Why::Over(before) => (before.left.word(), None, None, before.seen),
        Why::Unknown => ("unknown", None, None, None),
    };
    json!({
        "token": tenure.token,
        "from": tenure.from,
        "to": tenure.to,
        "start": tenure.start.map(epoch),
        "end": tenure.end.map(epoch),
        "pid": tenure.pid,
        "gap": tenure.gap.map(|Gap { ms, .. }| epoch(ms)),
        "gap_at_most": tenure.gap.is_some_and(|gap| gap.at_most),
        "overlap": tenure.overlap.map(epoch),
        "cause": cause,
        "detail": detail,
        "by": by,
        "last_seen": seen.map(epoch),
    })
}

fn run(run: &Run) -> Value {
    let how = match &run.outcome {
        Outcome::Failed(how) | Outcome::Stopped(how) => Some(how.to_string()),
        Outcome::NoRun(why) => Some(why.clone()),
        Outcome::Running | Outcome::Done | Outcome::Unfinished => None,
    };
    let exit = match &run.outcome {
        Outcome::Done => Some(Exit::Code(0)),
        Outcome::Failed(How::Exit(exit)) | Outcome::Stopped(How::Exit(exit)) => Some(*exit),
        _ => None,
    };
    json!({
        "slot": run.slot.0,
        "node": run.node,
        "token": run.token,
        "pid": run.pid,
        "began": run.began.map(epoch),
        "ended": run.ended.map(epoch),
        "outcome": run.outcome.word(),
        "exit_code": exit.and_then(exit_code),
        "why": how,
    })
}

/// Milliseconds as seconds.
fn epoch(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// The fields of a reply to `lease-check`.
pub(super) fn token_state(watcher: &WatcherName, token: u64, state: &TokenState) -> Value {
    match state {
        TokenState::Holds { left } => {
            json!({"name": watcher.as_str(), "token": token, "holds": true, "left": seconds(*left)})
        }
        TokenState::Over { holder, token: latest } => {
            json!({"name": watcher.as_str(), "token": token, "holds": false, "holder": holder, "latest": latest})
        }
    }
}
