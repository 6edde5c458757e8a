//! Who holds what, put together from every node's view.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::table::Table;
use super::words::{date, latency, left, printable};
use super::{Parts, Style, list, word};

/// A node with its reply and its view of a lease.
type View<'a> = (&'a str, &'a Value, &'a Value);

/// One line for each lease.
pub(super) fn table(parts: &Parts, style: Style) -> String {
    let mut leases: BTreeMap<&str, Vec<View>> = BTreeMap::new();
    for (node, part) in &parts.good {
        for lease in list(part, "leases") {
            leases.entry(word(lease, "name")).or_default().push((node, part, lease));
        }
    }
    if leases.is_empty() {
        return "no leases: no watcher here has singleton = true\n".into();
    }
    let mut table = Table::new(&["NAME", "HOLDER", ">TOKEN", ">LEASE", ">REFRESH", "SINCE", "WAITING", "NOTE"]);
    let mut vacant = Vec::new();
    for (name, views) in &leases {
        let row = row(name, views);
        if row[1] == "vacant" {
            vacant.push(*name);
        }
        table.row(row);
    }
    let mut text = table.text(style);
    if let Some(name) = vacant.first() {
        let count = vacant.len();
        let name = shlex::try_quote(name).map_or_else(|_| (*name).to_owned(), |quoted| quoted.into_owned());
        text.push_str(&format!("{count} vacant: nobody is known to hold it.   circusctl status {name} --all\n"));
    }
    // Nodes that see the same servers say the same.
    let advice: BTreeSet<&str> =
        parts.good.iter().flat_map(|(_, part)| list(part, "advice")).filter_map(Value::as_str).collect();
    for sentence in advice {
        text.push_str(&format!("note: {sentence}\n"));
    }
    text
}

fn row(name: &str, views: &[View]) -> Vec<String> {
    let token = |lease: &Value| lease["token"].as_u64().unwrap_or(0);
    let mut holders: Vec<&View> =
        views.iter().filter(|(_, _, lease)| matches!(lease["role"].as_str(), Some("holder" | "losing"))).collect();
    // Tokens only grow, so the highest is the newest.
    holders.sort_by_key(|(_, _, lease)| std::cmp::Reverse(token(lease)));
    let mut notes = Vec::new();
    let mut cells = vec![name.to_owned()];
    let pause = views.iter().map(|(_, _, lease)| &lease["pause"]).find(|pause| pause.is_object());
    match (holders.first(), pause) {
        (Some((node, part, lease)), _) => {
            let since = match (part["time"].as_f64(), lease["held_for"].as_f64()) {
                (Some(now), Some(held)) => date(now - held),
                _ => "-".into(),
            };
            let token = lease["token"].as_u64().map_or_else(|| "-".into(), |token| token.to_string());
            cells.extend([(*node).to_owned(), token, left(lease), latency(&lease["latency"]), since]);
            notes.extend(lease["why"].as_str().map(str::to_owned));
        }
        (None, Some(pause)) => {
            let since = pause["since"].as_f64().map_or_else(|| "-".into(), date);
            cells.extend(["paused", "-", "-", "-"].map(str::to_owned));
            cells.push(since);
            notes.push(by_whom(pause));
        }
        (None, None) => {
            // The holder did not answer, or is no node of ours; the others know it by name only.
            let known = views.iter().find_map(|(_, _, lease)| lease["holder"].as_str());
            cells.push(known.unwrap_or("vacant").to_owned());
            cells.extend(std::iter::repeat_n("-".to_owned(), 4));
            if known.is_none() {
                notes.extend(views.iter().find_map(|(_, _, lease)| lease["why"].as_str()).map(str::to_owned));
            }
        }
    }
    for (node, _, lease) in holders.iter().skip(1) {
        notes.push(format!("{node} said it held it too, with token {}", token(lease)));
    }
    for (node, _, lease) in views.iter().filter(|(_, _, lease)| lease["role"] == "aside") {
        match lease["why"].as_str() {
            Some(why) => notes.push(format!("{node} stands aside: {why}")),
            None => notes.push(format!("{node} stands aside")),
        }
    }
    let waiting: Vec<&str> =
        views.iter().filter(|(_, _, lease)| lease["role"] == "standby").map(|(node, _, _)| *node).collect();
    cells.push(if waiting.is_empty() { "-".into() } else { waiting.join(" ") });
    cells.push(notes.join("; "));
    cells
}

/// `by amy: migration`
fn by_whom(pause: &Value) -> String {
    let why = pause["reason"].as_str().map_or_else(String::new, |why| format!(": {why}"));
    printable(&format!("by {}{why}", word(pause, "by")))
}
