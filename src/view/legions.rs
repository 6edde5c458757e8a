//! Legions: who leads, who lives, and why nobody leads.

use std::collections::BTreeMap;

use serde_json::Value;

use super::table::{Paint, Table};
use super::words::{date, printable, span};
use super::{Parts, Style, list, word};

/// A node with its reply and its view of a legion.
type View<'a> = (&'a str, &'a Value, &'a Value);

/// Each legion with every node's view of it, by name.
fn by_name<'a>(parts: &'a Parts) -> BTreeMap<&'a str, Vec<View<'a>>> {
    let mut legions: BTreeMap<&str, Vec<View>> = BTreeMap::new();
    for (node, part) in &parts.good {
        for legion in list(part, "legions") {
            legions.entry(word(legion, "legion")).or_default().push((node, part, legion));
        }
    }
    legions
}

/// The view that tells most: the lord's, or else that of a node which knows who leads.
fn telling<'a>(views: &[View<'a>]) -> View<'a> {
    let rank = |(_, _, legion): &&View| match legion["state"].as_str() {
        Some("lord") => 0,
        Some("losing") => 1,
        Some("unknown") => 4,
        _ if legion["lord_node"].is_string() => 2,
        _ => 3,
    };
    *views.iter().min_by_key(rank).expect("a name has at least the view that it was found in")
}

/// One line for each legion.
pub(super) fn table(parts: &Parts, style: Style) -> String {
    let legions = by_name(parts);
    if legions.is_empty() {
        return "no legions: there is no [legion:NAME] here, and no singleton with a valor or a quorum\n".into();
    }
    let mut heads = vec!["LEGION", "LORD", ">TOKEN", "QUORUM", "SINCE"];
    if !parts.many {
        heads.push("THIS NODE");
    }
    heads.push("NOTE");
    let mut table = Table::new(&heads);
    let mut vacant = None;
    for (name, views) in &legions {
        let (_, _, legion) = telling(views);
        let lord = legion["lord_node"].as_str();
        if lord.is_none() {
            vacant = vacant.or(Some(*name));
        }
        let mut cells = vec![
            (*name).to_owned(),
            lord.unwrap_or("vacant").to_owned(),
            legion["token"].as_u64().map_or_else(|| "-".into(), |token| token.to_string()),
            quorum(legion),
            legion["lord_since"].as_f64().map_or_else(|| "-".into(), date),
        ];
        if parts.many {
            cells.push(notes(views, lord));
        } else {
            cells.push(word(legion, "state").to_owned());
            let quiet = legion["state"] == "lord" || legion["state"] == "arbiter";
            cells.push(if quiet && lord.is_some() { String::new() } else { word(legion, "reason").to_owned() });
        }
        table.row(cells);
    }
    let mut text = table.text(style);
    if let Some(name) = vacant {
        let name = shlex::try_quote(name).map_or_else(|_| name.to_owned(), |quoted| quoted.into_owned());
        text.push_str(&format!("nobody is known to lead {name}.   circusctl legions {name} --all\n"));
    }
    text
}

/// `2 of 3 live, needs 2`
fn quorum(legion: &Value) -> String {
    let known = list(legion, "members").len() as u64;
    let votes = legion["votes"].as_u64().unwrap_or(0);
    let all = legion["expected"].as_u64().unwrap_or(known).max(votes);
    format!("{votes} of {all} live, needs {}", legion["quorum"].as_u64().unwrap_or(0))
}

/// What several nodes have to say: where one leads, those that could not; where none does, each why not.
fn notes(views: &[View], lord: Option<&str>) -> String {
    let mut notes: Vec<(Vec<&str>, &str)> = Vec::new();
    for (node, _, legion) in views {
        let tells = match legion["state"].as_str() {
            Some("lord" | "standby" | "arbiter" | "candidate") => lord.is_none(),
            _ => true,
        };
        let reason = word(legion, "reason");
        match notes.iter_mut().find(|(_, told)| *told == reason) {
            _ if !tells => {}
            Some((nodes, _)) => nodes.push(node),
            None => notes.push((vec![node], reason)),
        }
    }
    let notes: Vec<String> = notes.iter().map(|(nodes, reason)| format!("{}: {reason}", nodes.join(" "))).collect();
    notes.join("; ")
}

/// Legions in full: the view that tells most, and what keeps each other node from leading.
pub(super) fn page(parts: &Parts, style: Style) -> String {
    let pages: Vec<String> = by_name(parts).values().map(|views| one(views, style)).collect();
    pages.join("\n")
}

fn one(views: &[View], style: Style) -> String {
    let main = telling(views);
    let (node, part, legion) = main;
    let now = part["time"].as_f64().unwrap_or(0.0);
    let ago = |moment: &Value| moment.as_f64().map_or_else(|| "-".into(), |moment| span(now - moment));
    let state = word(legion, "state");
    let state = Paint::of_state(state).apply(state, style);
    let mut text = format!("{}   legion, {state} on {}\n", word(legion, "legion"), word(legion, "node"));
    let mut line = |head: &str, tail: &str| text.push_str(&format!("  {head:<10} {}\n", printable(tail)));
    line("lord", &lord_line(legion, ago));
    line("why", word(legion, "reason"));
    let preempt = if legion["preempt"] == true { "a higher valor takes over" } else { "the lord stays while it lives" };
    line("quorum", &format!("{}; {preempt}", quorum(legion)));
    if !legion["seen"].is_number() {
        line("members", "not known yet");
    }
    for (other, _, legion) in views.iter().filter(|(other, ..)| *other != node) {
        line(other, &format!("{}: {}", word(legion, "state"), word(legion, "reason")));
    }
    let mut members = Table::new(&["MEMBER", ">VALOR", "PART", "HEARD OF", "SCROLL"]);
    for member in list(legion, "members") {
        let heard = match member["live"] == true {
            true => format!("{} ago", ago(&member["last_seen"])),
            false => "silent".into(),
        };
        members.row(vec![
            word(member, "name").to_owned(),
            member["valor"].as_u64().map_or_else(|| "-".into(), |valor| valor.to_string()),
            part_of(member, legion).to_owned(),
            heard,
            word(member, "scroll").to_owned(),
        ]);
    }
    let mut changes = Table::new(&[">CHANGED", ""]);
    for change in list(legion, "changes") {
        changes.row(vec![format!("{} ago", ago(&change["at"])), word(change, "text").to_owned()]);
    }
    for table in [members, changes].iter().filter(|table| !table.is_empty()) {
        text.push('\n');
        text.push_str(&table.text(style));
    }
    text
}

fn lord_line(legion: &Value, ago: impl Fn(&Value) -> String) -> String {
    let Some(lord) = legion["lord_node"].as_str() else { return "nobody is known to lead".into() };
    let mut line = format!("{lord}, for {}", ago(&legion["lord_since"]));
    if let Some(token) = legion["token"].as_u64() {
        line.push_str(&format!(", token {token}"));
    }
    line
}

/// A member's part, as it says itself.
fn part_of(member: &Value, legion: &Value) -> &'static str {
    match (member["stands"] == true, member["valor"].as_u64()) {
        _ if legion["lord_node"].is_string() && member["name"] == legion["lord_node"] => "lord",
        (_, Some(0)) => "arbiter",
        (true, _) => "would lead",
        (false, _) => "stands back",
    }
}

/// What each member tells, by name.
pub(super) fn scrolls(parts: &Parts, style: Style) -> String {
    let mut heads = vec!["MEMBER", "SCROLL"];
    if parts.many {
        heads.insert(0, "SEEN BY");
    }
    let mut table = Table::new(&heads);
    for (node, part) in &parts.good {
        for member in list(part, "members") {
            let seen_by = parts.many.then(|| node.clone());
            let cells = [word(member, "name"), word(member, "scroll")].map(str::to_owned);
            table.row(seen_by.into_iter().chain(cells).collect());
        }
    }
    table.text(style)
}
