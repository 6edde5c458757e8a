//! What a changed configuration changes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use super::table::Paint;
use super::words::printable;
use super::{Parts, Style, list, word};

/// A plan for each node; nodes with the same plan share one. In the end who has another file than the others.
pub(super) fn text(parts: &Parts, style: Style) -> String {
    let mut groups: Vec<(Vec<&str>, &Value)> = Vec::new();
    for (node, part) in &parts.good {
        let plan = &part["plan"];
        match groups.iter_mut().find(|(_, other)| *other == plan) {
            Some((nodes, _)) => nodes.push(node),
            None => groups.push((vec![node], plan)),
        }
    }
    let mut text = String::new();
    for (nodes, plan) in groups {
        if parts.many {
            let same = if nodes.len() > 1 { "  (the same)" } else { "" };
            text.push_str(&format!("{}{same}\n", nodes.join(", ")));
        }
        // A circusd does not tell what it has changed.
        text.push_str(&if plan.is_null() { "ok\n".into() } else { of_one(plan, style) });
    }
    text + &drift(parts)
}

/// `the files differ: 7f3a2c on web-1, web-2; 6b11e0 on web-3`, where they do: those that most have first.
fn drift(parts: &Parts) -> String {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, part) in &parts.good {
        // Agents from before it do not tell.
        if let Some(config) = part["config"].as_str() {
            files.entry(config).or_default().push(node);
        }
    }
    let mut files: Vec<(&str, Vec<&str>)> = files.into_iter().collect();
    files.sort_by_key(|(_, nodes)| Reverse(nodes.len()));
    let on = |(config, nodes): &(&str, Vec<&str>)| format!("{config} on {}", nodes.join(", "));
    match files.len() {
        0 | 1 => String::new(),
        _ => printable(&format!("the files differ: {}", files.iter().map(on).collect::<Vec<_>>().join("; "))) + "\n",
    }
}

fn of_one(plan: &Value, style: Style) -> String {
    let (sockets, changes, needs_restart) = (list(plan, "sockets"), list(plan, "changes"), list(plan, "needs_restart"));
    if sockets.is_empty() && changes.is_empty() && needs_restart.is_empty() {
        return "nothing to do\n".into();
    }
    // Sockets first: what runs is started with them.
    let of_sockets =
        sockets.iter().map(|socket| (format!("socket {}", word(socket, "socket")), becomes(socket), socket));
    let of_watchers = changes.iter().map(|change| (word(change, "watcher").to_owned(), effect(change), change));
    let lines: Vec<(String, String, &Value)> = of_sockets.chain(of_watchers).collect();
    let mut text = String::new();
    let width = lines.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    for (name, effect, change) in lines {
        let (sign, paint) = match change["effect"].as_str() {
            Some("added") => ("+", Paint::Good),
            Some("removed") => ("-", Paint::Bad),
            _ => ("~", Paint::Warn),
        };
        text.push_str(&format!("  {} {name:width$}   {effect}\n", paint.apply(sign, style)));
        let keys = list(change, "keys");
        let width = keys.iter().map(|key| word(key, "key").chars().count()).max().unwrap_or(0);
        for key in keys {
            text.push_str(&format!(
                "      {:width$}   {} → {}\n",
                word(key, "key"),
                side(key, "from"),
                side(key, "to")
            ));
        }
    }
    if let Some(unchanged @ 1..) = plan["unchanged"].as_u64() {
        text.push_str(&format!("  = {} unchanged\n", count(unchanged, "watcher", "watchers")));
    }
    for key in needs_restart {
        text.push_str(&format!("  ! {}   changes with a restart of the agent only\n", key.as_str().unwrap_or("-")));
    }
    text.push_str(&format!("{}\n", summary(sockets, changes)));
    text
}

/// What becomes of the watcher's processes.
fn effect(change: &Value) -> String {
    let number = |key: &str| change[key].as_u64().unwrap_or(0);
    let processes = |key: &str| count(number(key), "process", "processes");
    match change["effect"].as_str() {
        Some("added") => format!("starts {}", processes("starts")),
        Some("removed") => format!("stops {}", processes("stops")),
        Some("in-place") => "no restart".into(),
        Some("resized") => format!("{} → {}", number("from"), processes("to")),
        Some("replaced") => match number("restarts") {
            0 | 1 => format!("restarts {}", processes("restarts")),
            _ => format!("restarts {}, one at a time", processes("restarts")),
        },
        // An agent of a later version may know more.
        Some(other) => other.to_owned(),
        None => "-".into(),
    }
}

/// What becomes of the socket, and of those who have it.
fn becomes(change: &Value) -> String {
    match change["effect"].as_str() {
        Some("added") => "opens".into(),
        Some("removed") => "closes, and the processes that have it are replaced".into(),
        Some("moved") => "moves, and the processes that have it are replaced".into(),
        Some("adjusted") => "no restart".into(),
        Some(other) => other.to_owned(),
        None => "-".into(),
    }
}

/// `plan: 1 added, 2 changed, 1 removed, 12 restarts`.
fn summary(sockets: &[Value], changes: &[Value]) -> String {
    let all = || sockets.iter().chain(changes);
    let of = |effect: &str| all().filter(|change| change["effect"] == effect).count() as u64;
    let (added, removed) = (of("added"), of("removed"));
    let restarts: u64 = changes.iter().filter_map(|change| change["restarts"].as_u64()).sum();
    let mut facts = Vec::new();
    for (number, what) in [(added, "added"), (all().count() as u64 - added - removed, "changed"), (removed, "removed")]
    {
        if number > 0 {
            facts.push(format!("{number} {what}"));
        }
    }
    let replaces = |socket: &Value| matches!(socket["effect"].as_str(), Some("moved" | "removed"));
    match restarts {
        // Whoever has these sockets is replaced, and how many that are is not told.
        0 if sockets.iter().any(replaces) => {}
        0 => facts.push("no restart".into()),
        _ => facts.push(count(restarts, "restart", "restarts")),
    }
    format!("plan: {}", facts.join(", "))
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A value as it was or will be.
fn side(key: &Value, side: &str) -> String {
    printable(key[side].as_str().unwrap_or("(none)"))
}
