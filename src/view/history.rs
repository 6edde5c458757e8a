//! Who had a lease, from when on, and why, and what became of the times of a schedule: what the store keeps, the same on
//! every node, or an agent of its own runs.

use serde_json::Value;

use super::table::Table;
use super::words::{date_and_second, measured, printable};
use super::{Parts, Style, list, word};

/// One line for each run of a schedule, and one for each tenure of a lease: of the named one, or the latest of each.
pub(super) fn table(name: Option<&str>, parts: &Parts, style: Style) -> String {
    let mut leases: Vec<&Value> = Vec::new();
    let mut schedules: Vec<(&Value, Vec<&Value>)> = Vec::new();
    for known in parts.good.iter().flat_map(|(_, part)| list(part, "history")) {
        if known["runs"].is_array() {
            add_runs(&mut schedules, known);
        }
        // Several nodes read the same store: of each lease the first one's answer is shown. A schedule may have none.
        let is_lease = known["runs"].is_null() || !list(known, "tenures").is_empty();
        if is_lease && !leases.iter().any(|shown| shown["name"] == known["name"]) {
            leases.push(known);
        }
    }
    if leases.is_empty() && schedules.is_empty() {
        return "no leases: no watcher here has singleton = true\n".into();
    }
    let texts = [runs(name, &schedules, style), tenures(name, &leases, style)];
    texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What one node tells of a schedule beside what others did: what they keep in common they tell alike, and what each keeps
/// by itself is of its own runs.
fn add_runs<'a>(schedules: &mut Vec<(&'a Value, Vec<&'a Value>)>, told: &'a Value) {
    let at = schedules.iter().position(|(name, _)| **name == told["name"]).unwrap_or_else(|| {
        schedules.push((&told["name"], Vec::new()));
        schedules.len() - 1
    });
    let known = &mut schedules[at].1;
    for run in list(told, "runs") {
        let is_same = |other: &&Value| ["slot", "node", "token"].iter().all(|key| other[*key] == run[*key]);
        if !known.iter().any(is_same) {
            known.push(run);
        }
    }
    known.sort_by_key(|run| std::cmp::Reverse(run["slot"].as_u64()));
}

fn runs(name: Option<&str>, schedules: &[(&Value, Vec<&Value>)], style: Style) -> String {
    if schedules.is_empty() {
        return String::new();
    }
    let own: &[&str] = if name.is_some() { &[] } else { &["NAME"] };
    let mut table = Table::new(&[own, &["SLOT", "NODE", ">TOKEN", ">LATE", ">TOOK", "RUN"]].concat());
    for (of, runs) in schedules {
        for run in runs {
            let name = name.is_none().then(|| of.as_str().unwrap_or_default().to_owned());
            table.row(name.into_iter().chain(run_row(run)).collect());
        }
    }
    if table.is_empty() { "no run is known to have been yet\n".to_owned() } else { table.text(style) }
}

fn run_row(run: &Value) -> Vec<String> {
    let (slot, began, ended) = (run["slot"].as_f64(), run["began"].as_f64(), run["ended"].as_f64());
    let between = |from: Option<f64>, to: Option<f64>| {
        from.zip(to).map_or_else(|| "-".into(), |(from, to)| measured((to - from).max(0.0)))
    };
    let outcome = word(run, "outcome");
    vec![
        slot.map_or_else(|| "-".into(), date_and_second),
        word(run, "node").to_owned(),
        run["token"].as_u64().map_or_else(|| "-".into(), |token| token.to_string()),
        between(slot, began),
        between(began, ended),
        match (outcome, run["why"].as_str()) {
            ("no-run", why) => printable(&format!("none: {}", why.unwrap_or("-"))),
            ("unfinished", _) if began.is_none() => "unfinished: claimed, and nothing was heard of it".to_owned(),
            ("unfinished", _) => "unfinished: nothing was heard of its end".to_owned(),
            (_, Some(why)) => printable(&format!("{outcome}: {why}")),
            (_, None) => outcome.to_owned(),
        },
    ]
}

fn tenures(name: Option<&str>, leases: &[&Value], style: Style) -> String {
    if leases.is_empty() {
        return String::new();
    }
    let own: &[&str] = if name.is_some() { &[] } else { &["NAME"] };
    let mut table = Table::new(&[own, &[">TOKEN", "FROM", "TO", "WHEN", ">GAP", ">OVERLAP", "WHY"]].concat());
    for lease in leases {
        for tenure in list(lease, "tenures") {
            let name = name.is_none().then(|| word(lease, "name").to_owned());
            table.row(name.into_iter().chain(row(tenure)).collect());
        }
    }
    let mut text = if table.is_empty() { "nothing is known to have been yet\n".to_owned() } else { table.text(style) };
    for lease in leases {
        let name = if name.is_some() { String::new() } else { format!("{}: ", word(lease, "name")) };
        text.push_str(&format!("{name}{}\n", summary(lease)));
    }
    text
}

fn row(tenure: &Value) -> Vec<String> {
    vec![
        tenure["token"].to_string(),
        word(tenure, "from").to_owned(),
        word(tenure, "to").to_owned(),
        tenure["start"].as_f64().map_or_else(|| "-".into(), date_and_second),
        gap(&tenure["gap"], &tenure["gap_at_most"]).unwrap_or_else(|| "-".into()),
        match tenure["overlap"].as_f64() {
            None => "-".into(),
            Some(0.0) => "none".into(),
            Some(overlap) => format!("{} !", measured(overlap)),
        },
        why(tenure),
    ]
}

fn gap(gap: &Value, at_most: &Value) -> Option<String> {
    let sign = if at_most == true { "≤ " } else { "" };
    gap.as_f64().map(|gap| format!("{sign}{}", measured(gap)))
}

/// Why a tenure began: how the one before ended.
fn why(tenure: &Value) -> String {
    let (detail, from) = (tenure["detail"].as_str(), word(tenure, "from"));
    let with = |what: &str| detail.map_or_else(|| what.to_owned(), |detail| format!("{what}: {detail}"));
    let seen = || match tenure["last_seen"].as_f64() {
        // The day stands beside it; the second is what counts.
        Some(seen) => format!(", {from} last seen {}", &date_and_second(seen)[11..]),
        None => String::new(),
    };
    let what = match word(tenure, "cause") {
        "first" => "first start".to_owned(),
        "moved" => "planned move".to_owned(),
        "stopped" => format!("stopped on {from}"),
        "agent-stopping" => format!("the agent of {from} was stopped"),
        "removed" => format!("removed from {from}"),
        "changed" => format!("no singleton any more on {from}"),
        "taken" => format!("lease lost to {}", detail.unwrap_or("another tenure")),
        "unconfirmed" => with("refresh not confirmed in time"),
        "expired" => format!("{}{}", with("lease expired"), seen()),
        "gave-up" => with(&format!("given up on {from}")),
        "finished" => with(&format!("ended on {from}")),
        "preempted" => format!("{from} made way for a better member"),
        "no-quorum" => with(&format!("no quorum on {from}")),
        "paused" => with(&format!("paused on {from}")),
        "drilled" => with(&format!("drill on {from}")),
        "released" => format!("released by {from}"),
        "died" => format!("the agent of {from} died{}", seen()),
        _ => "-".to_owned(),
    };
    let by = tenure["by"].as_str().map_or_else(String::new, |by| format!(", by {by}"));
    printable(&format!("{what}{by}"))
}

/// `worst gap 5.30 s, 2 moves in 7 days, no overlap`
fn summary(lease: &Value) -> String {
    let worst = gap(&lease["worst_gap"], &lease["worst_gap_at_most"]).unwrap_or_else(|| "-".into());
    let moves = match lease["moves"].as_u64() {
        Some(1) => "1 move".to_owned(),
        moves => format!("{} moves", moves.unwrap_or(0)),
    };
    let overlaps = match lease["overlaps"].as_u64() {
        Some(0) => "no overlap".to_owned(),
        Some(1) => "1 OVERLAP: two have run at once".to_owned(),
        overlaps => format!("{} OVERLAPS: two have run at once", overlaps.unwrap_or(0)),
    };
    format!("worst gap {worst}, {moves} in 7 days, {overlaps}")
}
