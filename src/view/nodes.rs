//! The nodes of the cluster.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table::Table;
use super::words::maybe_span;
use super::{Parts, Style, list, word};

/// One line for each node of the registry. Several nodes read the same registry: the first one's answer is shown.
pub(super) fn table(parts: &Parts, own: Option<&str>, style: Style) -> String {
    let roster = list(parts.good[0].1, "roster");
    let usual = usual_config(roster);
    let mut table = Table::new(&["NODE", "STATE", ">SEEN", "AGENT", "UP", ">WATCHERS", "HOLDS", "CONFIG"]);
    let mut seen_own = false;
    for row in roster {
        let name = word(row, "name");
        let is_own = own == Some(name);
        seen_own |= is_own;
        let holds: Vec<&str> = list(row, "holds").iter().filter_map(Value::as_str).collect();
        let config = word(row, "config");
        let here = row["state"] != "gone";
        table.row(vec![
            if is_own { format!("{name} *") } else { name.to_owned() },
            word(row, "state").to_owned(),
            maybe_span(&row["seen"]),
            word(row, "version").to_owned(),
            if here { maybe_span(&row["up"]) } else { "-".into() },
            if here { list(row, "watchers").len().to_string() } else { "-".into() },
            if holds.is_empty() || !here { "-".into() } else { holds.join(" ") },
            if usual.is_some_and(|usual| usual != config && config != "-") {
                format!("{config} (differs)")
            } else {
                config.to_owned()
            },
        ]);
    }
    if table.is_empty() {
        return "no nodes\n".into();
    }
    let mut text = table.text(style);
    if seen_own {
        text.push_str("* this node\n");
    }
    text
}

/// The configuration that most nodes have; nothing where there is no majority to differ from.
fn usual_config(roster: &[Value]) -> Option<&str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in roster.iter().filter(|row| row["state"] != "gone") {
        *counts.entry(word(row, "config")).or_default() += 1;
    }
    let (config, count) = counts.iter().max_by_key(|(_, count)| **count)?;
    (count * 2 > counts.values().sum()).then_some(*config)
}
