//! Replies as text for people. Pure: a reply's JSON in, lines out.
//!
//! The rules behind every view: a hundred columns at most; words before colours; a line that tells of a problem tells
//! its reason; the last line says what to type next. What is missing in a reply, or is not what it should be, shows as
//! `-`: agents of other versions are worth showing too.

mod drill;
mod explain;
mod follow;
mod frames;
mod history;
mod leases;
mod legions;
mod metrics;
mod nodes;
mod plain;
mod plan;
mod roll;
mod stats;
mod status;
mod stopping;
mod summary;
mod table;
pub mod top;
mod words;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::command::Command;

pub use drill::{drill_begun, drill_ended, drill_started, drill_verdict};
pub use follow::StreamView;
pub use frames::FramesView;
pub use roll::roll_result;
pub use status::problems;
pub use stopping::Stopping;
pub use summary::status_line;

/// How text may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether states may be coloured.
    pub colour: bool,
    /// Where the last column of a table is wrapped, in columns; nothing: nowhere, so that a line stays a line for grep.
    pub width: Option<usize>,
}

/// What goes to the terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// For standard output: whole lines.
    pub out: String,
    /// For standard error: whole lines.
    pub err: String,
}

/// A reply as people read it; `own` is the name of the node that was asked, where it is known.
pub fn text(command: &Command, reply: &Value, own: Option<&str>, style: Style) -> Text {
    let parts = Parts::of(reply, own);
    let out = match command {
        _ if parts.good.is_empty() => String::new(),
        Command::Status { watcher: None } => status::overview(&parts, style),
        Command::Status { watcher: Some(_) } => status::pages(&parts, style),
        Command::Stats { .. } => stats::table(&parts, style),
        Command::Plan | Command::ReloadConfig { .. } => plan::text(&parts, style),
        Command::Nodes => nodes::table(&parts, own, style),
        Command::Leases => leases::table(&parts, style),
        Command::Legions { legion: None } => legions::table(&parts, style),
        Command::Legions { legion: Some(_) } => legions::page(&parts, style),
        Command::Scrolls { .. } => legions::scrolls(&parts, style),
        Command::Explain { .. } => explain::text(&parts, style),
        Command::Metrics => metrics::text(&parts),
        Command::History { watcher, .. } => history::table(watcher.as_deref(), &parts, style),
        other => plain::lines(other, &parts),
    };
    let mut err = String::new();
    let crowds = crowds(&parts);
    for (reason, nodes) in &crowds {
        let (named, more) = nodes.split_at(NAMED);
        err.push_str(&format!("error: {} and {} more: {reason}\n", named.join(", "), more.len()));
    }
    for (node, failure) in &parts.bad {
        if failure["reason"].as_str().is_some_and(|reason| node.is_some() && crowds.contains_key(reason)) {
            continue;
        }
        let reason = failure["reason"].as_str().unwrap_or("failed, and did not say why");
        match node {
            Some(node) => err.push_str(&format!("error: {node}: {reason}\n")),
            None => err.push_str(&format!("error: {reason}\n")),
        }
        if failure["code"] == "not-json"
            && let Some(detail) = failure["detail"].as_str()
        {
            err.push_str(&format!("  {detail}\n"));
        }
    }
    if let Some(why) = parts.missing {
        err.push_str(&format!("error: the other nodes are not known: {why}\n"));
    }
    Text { out, err }
}

/// How many nodes are named that failed for one reason; of more, how many they are.
const NAMED: usize = 10;

/// The reasons that more nodes have in common than are named, each with those.
fn crowds<'a>(parts: &Parts<'a>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut crowds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, failure) in &parts.bad {
        if let (Some(node), Some(reason)) = (node, failure["reason"].as_str()) {
            crowds.entry(reason).or_default().push(node);
        }
    }
    crowds.retain(|_, nodes| nodes.len() > NAMED);
    crowds
}

/// The nodes' parts of a reply: those that have something to tell, and those that failed or kept silent.
struct Parts<'a> {
    /// Whether the reply was gathered, so that each line has to say whose it is.
    many: bool,
    good: Vec<(String, &'a Value)>,
    bad: Vec<(Option<&'a str>, &'a Value)>,
    /// Why there may be more nodes than those.
    missing: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(reply: &'a Value, own: Option<&str>) -> Parts<'a> {
        let missing = reply["missing"].as_str();
        let mut parts = Parts { many: false, good: Vec::new(), bad: Vec::new(), missing };
        match reply["nodes"].as_object() {
            Some(nodes) => {
                parts.many = true;
                for (node, part) in nodes {
                    match part["status"] == "error" {
                        true => parts.bad.push((Some(node), part)),
                        false => parts.good.push((node.clone(), part)),
                    }
                }
            }
            None if reply["status"] == "error" => parts.bad.push((None, reply)),
            None => {
                let name = reply["node"].as_str().or(own).unwrap_or("this node");
                parts.good.push((name.to_owned(), reply));
            }
        }
        parts
    }
}

impl Parts<'_> {
    /// Whether all nodes that there are have told something.
    fn is_whole(&self) -> bool {
        self.bad.is_empty() && self.missing.is_none()
    }
}

/// The list under `key`, or an empty one.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The text under `key`, or `-`.
fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().filter(|text| !text.is_empty()).unwrap_or("-")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that begin in March, so that the leap day is the last one, and in eras of 400 years, after which
/// the calendar repeats.
pub fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

#[cfg(test)]
mod tests;
