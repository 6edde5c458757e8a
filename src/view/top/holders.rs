//! Who has had a singleton over the last day, hour by hour, as a band of marks.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::view::{list, word};
use crate::wire;

/// How many hours a band has.
pub(super) const HOURS: usize = 24;
const HOUR: f64 = 3_600.0;

/// One time that a node had it, in seconds of the Unix epoch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tenure {
    holder: String,
    start: f64,
    /// Nothing: it goes on.
    end: Option<f64>,
    /// Whether it came about by a failure, or two ran at once.
    ill: bool,
}

/// The tenures of each singleton that a reply to `history` tells of.
pub(super) fn tenures(reply: &Value) -> Vec<(String, Vec<Tenure>)> {
    let leases = wire::said(reply).flat_map(|part| list(part, "history"));
    leases
        .map(|lease| (word(lease, "name").to_owned(), list(lease, "tenures").iter().filter_map(tenure).collect()))
        .collect()
}

fn tenure(told: &Value) -> Option<Tenure> {
    let planned = ["first", "moved", "stopped", "agent-stopping", "removed", "changed", "finished", "released"];
    Some(Tenure {
        holder: told["to"].as_str()?.to_owned(),
        start: told["start"].as_f64()?,
        end: told["end"].as_f64(),
        ill: !planned.contains(&word(told, "cause")) || told["overlap"].as_f64().is_some_and(|overlap| overlap > 0.0),
    })
}

/// The last hours up to `now`, the latest at the right: the mark of the node that had it for most of each, `!` where it
/// fell to another by a failure, `.` where nobody is known to have had it.
pub(super) fn band(tenures: &[Tenure], now: f64) -> String {
    let marks = marks(tenures);
    let hour = |back: usize| {
        let to = now - back as f64 * HOUR;
        let from = to - HOUR;
        if tenures.iter().any(|tenure| tenure.ill && (from..to).contains(&tenure.start)) {
            return '!';
        }
        let within = |tenure: &Tenure| tenure.end.unwrap_or(now).min(to) - tenure.start.max(from);
        let most = tenures.iter().max_by(|a, b| within(a).total_cmp(&within(b))).filter(|most| within(most) > 0.0);
        most.map_or('.', |most| marks.iter().find(|(holder, _)| *holder == most.holder).map_or('?', |(_, mark)| *mark))
    };
    (0..HOURS).rev().map(hour).collect()
}

/// A mark for each holder: the last character of its name where that tells them apart, or a letter.
fn marks(tenures: &[Tenure]) -> Vec<(&str, char)> {
    let holders: BTreeSet<&str> = tenures.iter().map(|tenure| tenure.holder.as_str()).collect();
    let last = |holder: &str| holder.chars().next_back().filter(char::is_ascii_alphanumeric);
    let distinct: BTreeSet<char> = holders.iter().filter_map(|holder| last(holder)).collect();
    let letters = ('a'..='z').chain('A'..='Z').chain(std::iter::repeat('?'));
    let marked = holders.iter().zip(letters);
    marked
        .map(|(holder, letter)| match last(holder) {
            Some(last) if distinct.len() == holders.len() => (*holder, last),
            _ => (*holder, letter),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: f64 = 1_000_000.0;

    fn told(rows: &[(&str, f64, Option<f64>, &str)]) -> Vec<Tenure> {
        let epoch = |hours_ago: f64| NOW - hours_ago * HOUR;
        let tenure = |(to, start, end, cause): &(&str, f64, Option<f64>, &str)| json!({"to": to, "start": epoch(*start), "end": end.map(epoch), "cause": cause, "overlap": 0.0});
        let rows: Vec<Value> = rows.iter().map(tenure).collect();
        let reply = json!({"nodes": {"web-1": {"history": [{"name": "beat", "tenures": rows}]}}});
        tenures(&reply).remove(0).1
    }

    #[test]
    fn each_hour_has_the_mark_of_who_had_it_longest() {
        let moved = told(&[("web-2", 2.4, None, "moved"), ("web-1", 5.0, Some(2.5), "first")]);
        assert_eq!(band(&moved, NOW), "...................11122");
        let for_ever = told(&[("web-7", 700.0, None, "first")]);
        assert_eq!(band(&for_ever, NOW), "7".repeat(HOURS));
        assert_eq!(band(&[], NOW), ".".repeat(HOURS));
    }

    #[test]
    fn failures_and_two_at_once_are_alarms() {
        let died = told(&[("b-1", 1.5, None, "died"), ("a-1", 30.0, Some(1.6), "first")]);
        assert_eq!(band(&died, NOW), "aaaaaaaaaaaaaaaaaaaaaa!b", "the last characters do not tell them apart");
        let mut twice = told(&[("web-1", 3.5, None, "moved")]);
        assert!(!band(&twice, NOW).contains('!'));
        twice[0].ill = tenure(&json!({"to": "a", "start": 1.0, "cause": "moved", "overlap": 0.2})).unwrap().ill;
        assert!(band(&twice, NOW).contains('!'));
    }

    #[test]
    fn what_is_no_history_has_no_tenures() {
        for reply in
            [json!({"status": "error"}), json!(7), json!({"history": [{"name": "beat", "tenures": [{"to": 1}]}]})]
        {
            assert!(tenures(&reply).iter().all(|(_, tenures)| tenures.is_empty()), "{reply}");
        }
    }
}
