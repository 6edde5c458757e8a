//! The nodes of the cluster.

use std::collections::BTreeSet;

use serde_json::Value;

use super::table::Table;
use super::words::maybe_span;
use super::{Parts, Style, list, word};
use crate::model::command::PROTOCOL;

/// What is shown of a node, in order; and of what does not fit into a line, what is left out first.
const COLUMNS: [&str; 11] =
    ["NODE", "STATE", ">SEEN", "AGENT", "UP", "LOAD", "MEM", ">WATCHERS", "HOLDS", "LABELS", "CONFIG"];
const LEFT_OUT: [&str; 6] = ["LABELS", "UP", "AGENT", "MEM", "LOAD", ">WATCHERS"];
/// How wide a line may be where nobody says so.
const WIDTH: usize = 100;
/// How many characters of names fit into HOLDS; of the others, how many they are.
const HOLDS: usize = 24;

/// How many nodes are shown of which nothing was heard lately: those of long ago must not hide who is there.
const SILENT: usize = 20;

/// One line for each node of the registry, but [of the silent](SILENT) only the first. Several nodes read the same registry: the first one's answer is shown.
pub(super) fn table(parts: &Parts, own: Option<&str>, style: Style) -> String {
    let roster = list(parts.good[0].1, "roster");
    if roster.is_empty() {
        return "no nodes\n".into();
    }
    let mut silent = 0;
    let mut is_shown = |row: &&Value| {
        silent += usize::from(matches!(word(row, "state"), "stale" | "gone"));
        silent <= SILENT || !matches!(word(row, "state"), "stale" | "gone")
    };
    let cells: Vec<Vec<String>> = roster.iter().filter(|row| is_shown(row)).map(|row| cells(row, own)).collect();
    let shown = columns_that_fit(&cells, style.width.unwrap_or(WIDTH));
    let heads: Vec<&str> = shown.iter().map(|column| COLUMNS[*column]).collect();
    let mut table = Table::new(&heads);
    for row in cells {
        table.row(shown.iter().map(|column| row[*column].clone()).collect());
    }
    let mut text = table.text(style);
    if silent > SILENT {
        text.push_str(&format!("{} more are stale or gone; --json shows all\n", silent - SILENT));
    }
    if roster.iter().any(|row| own == Some(word(row, "name"))) {
        text.push_str("* this node\n");
    }
    text + &draining(roster) + &strangers(roster)
}

/// How much still runs on the nodes that are being drained, or stop.
fn draining(roster: &[Value]) -> String {
    let still = roster.iter().filter(|row| row["state"] == "draining");
    let still =
        still.filter_map(|row| Some((word(row, "name"), row["processes"].as_u64().filter(|count| *count > 0)?)));
    let line = |(name, count)| match count {
        1 => format!("{name}: draining, 1 process still runs\n"),
        count => format!("{name}: draining, {count} processes still run\n"),
    };
    still.map(line).collect()
}

/// A node's line, with all columns.
fn cells(row: &Value, own: Option<&str>) -> Vec<String> {
    let name = word(row, "name");
    // What a node said of itself lately; long after, it says nothing of now.
    let now = |text: String| if matches!(word(row, "state"), "up" | "draining") { text } else { "-".into() };
    let here = |text: String| if row["state"] != "gone" { text } else { "-".into() };
    let config = word(row, "config");
    vec![
        if own == Some(name) { format!("{name} *") } else { name.to_owned() },
        word(row, "state").to_owned(),
        maybe_span(&row["seen"]),
        word(row, "version").to_owned(),
        here(maybe_span(&row["up"])),
        now(load(row)),
        now(memory(row)),
        here(watchers(row)),
        here(holds(row)),
        labels(row),
        if row["differs"] == true && config != "-" { format!("{config} (differs)") } else { config.to_owned() },
    ]
}

/// `0.62/4c`: the load of the last minute, and how many processors there are for it.
fn load(row: &Value) -> String {
    match (row["load"].as_f64(), row["cores"].as_u64()) {
        (Some(load), Some(cores)) if cores > 0 => format!("{load:.2}/{cores}c"),
        _ => "-".into(),
    }
}

/// `3.1/7.8G`: what is used of the memory.
fn memory(row: &Value) -> String {
    match (row["memory_used"].as_u64(), row["memory"].as_u64()) {
        (Some(used), Some(all)) if all > 0 => {
            let (unit, name) = if all >= 1 << 30 { (1u64 << 30, "G") } else { (1 << 20, "M") };
            let of = |bytes: u64| bytes as f64 / unit as f64;
            format!("{:.1}/{:.1}{name}", of(used), of(all))
        }
        _ => "-".into(),
    }
}

/// `2/3`: how many are as they should be, and how many there are.
fn watchers(row: &Value) -> String {
    let all = list(row, "watchers").len();
    match (row["well"].as_u64(), row["protocol"].as_u64()) {
        (Some(well), Some(1..)) => format!("{well}/{all}"),
        // An agent of an earlier version does not say how many are well.
        _ => all.to_string(),
    }
}

fn holds(row: &Value) -> String {
    let names: Vec<&str> = list(row, "holds").iter().filter_map(Value::as_str).collect();
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        if at > 0 && text.chars().count() + 1 + name.chars().count() > HOLDS {
            return format!("{text} +{}", names.len() - at);
        }
        text.push_str(if at > 0 { " " } else { "" });
        text.push_str(name);
    }
    if text.is_empty() { "-".into() } else { text }
}

fn labels(row: &Value) -> String {
    let labels = row["labels"].as_object().into_iter().flatten();
    let labels: Vec<String> = labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    if labels.is_empty() { "-".into() } else { labels.join(",") }
}

/// The columns for which there is room.
fn columns_that_fit(cells: &[Vec<String>], room: usize) -> Vec<usize> {
    let width = |column: &usize| {
        let widest = cells.iter().map(|row| row[*column].chars().count()).max().unwrap_or(0);
        widest.max(COLUMNS[*column].trim_start_matches('>').len())
    };
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    // One in which nobody has anything to say is none.
    shown.retain(|column| COLUMNS[*column] != "LABELS" || cells.iter().any(|row| row[*column] != "-"));
    for least in LEFT_OUT {
        if shown.iter().map(|column| width(column) + 2).sum::<usize>() <= room + 2 {
            break;
        }
        shown.retain(|column| COLUMNS[*column] != least);
    }
    shown
}

/// What there is to say of nodes that speak another language than ours.
fn strangers(roster: &[Value]) -> String {
    let there = roster.iter().filter(|row| row["state"] != "gone");
    let protocols: BTreeSet<u64> = there.filter_map(|row| row["protocol"].as_u64()).collect();
    let apart = protocols.into_iter().filter(|protocol| protocol.abs_diff(u64::from(PROTOCOL)) > 1);
    apart
        .map(|protocol| format!("agents of protocol {protocol} cannot be asked from here, which is {PROTOCOL}\n"))
        .collect()
}
