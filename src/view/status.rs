//! How the watchers are: of one node, of several, and one watcher in full.

use serde_json::Value;

use super::table::{Paint, Table};
use super::words::{latency, left, maybe_span, printable, span};
use super::{Parts, Style, list, word};

/// More nodes than this do not get a column each.
const MAX_COLUMNS: usize = 6;

/// Watchers that are wanted and are neither active, listening, scheduled nor standby, or stand by for a lease that they cannot even ask for,
/// as `NODE/WATCHER`; and singletons that several nodes stand by for and none has. Sorted as the reply has them. For a
/// status reply of one node or several.
pub fn problems(reply: &Value) -> Vec<String> {
    let name = |(node, watcher): (&str, &str)| match node {
        "" => watcher.to_owned(),
        node => format!("{node}/{watcher}"),
    };
    let parts = Parts::of(reply, None);
    unwell(&parts).into_iter().map(name).collect()
}

/// The same as pairs of node and watcher; a singleton that nobody has is no node's.
fn unwell<'a>(parts: &'a Parts) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (node, part) in &parts.good {
        let store = if part["store"]["state"] == "down" { Store::Down } else { Store::Up };
        let watchers = list(part, "watchers").iter().filter(|watcher| !is_well(watcher, store));
        found.extend(watchers.map(|watcher| (node.as_str(), word(watcher, "name"))));
    }
    // Only the whole cluster can tell: a node that is silent, or was not asked, may be the holder.
    if parts.many && parts.is_whole() {
        found.extend(unheld(parts).into_iter().filter(|(_, state)| *state == VACANT).map(|(name, _)| ("", name)));
    }
    found
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Up,
    Down,
}

/// Whether a watcher is as it should be. Who cannot reach the store cannot know that another node has the lease.
fn is_well(watcher: &Value, store: Store) -> bool {
    match watcher["state"].as_str() {
        Some("active" | "listening" | "scheduled" | "stopped") => true,
        Some("standby") => store == Store::Up,
        _ => false,
    }
}

/// The state of a singleton that nobody is known to hold.
const VACANT: &str = "vacant";

/// Singletons that every node stands by for, and of whose holder no node knows, each with its state: nobody is to have
/// those that are paused.
fn unheld<'a>(parts: &'a Parts) -> Vec<(&'a str, &'static str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (_, watcher) in watchers(parts) {
        let name = word(watcher, "name");
        let views = || watchers(parts).filter(|(_, other)| other["name"] == watcher["name"]);
        if watcher["state"] == "standby"
            && watcher["lease"].is_object()
            && views().all(|(_, other)| {
                matches!(other["state"].as_str(), Some("standby" | "stopped")) && other["lease"]["holder"].is_null()
            })
            && found.iter().all(|(known, _)| *known != name)
        {
            let paused = views().any(|(_, other)| other["lease"]["pause"].is_object());
            found.push((name, if paused { "paused" } else { VACANT }));
        }
    }
    found
}

fn watchers<'a>(parts: &'a Parts) -> impl Iterator<Item = (&'a str, &'a Value)> {
    parts
        .good
        .iter()
        .flat_map(|(node, part)| list(part, "watchers").iter().map(move |watcher| (node.as_str(), watcher)))
}

/// All watchers of the nodes.
pub(super) fn overview(parts: &Parts, style: Style) -> String {
    let mut text = match parts.many {
        true => cluster_line(parts),
        false => node_line(parts.good[0].1, style),
    };
    let bad = unwell(parts);
    for table in [singletons(parts), if parts.many { shared(parts) } else { own(parts.good[0].1) }] {
        if !table.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&table.text(style));
        }
    }
    text.push('\n');
    let problems = bad.len();
    match bad.first() {
        None if watchers(parts).next().is_none() => {
            text.push_str("no watchers; add a [watcher:NAME] to the configuration\n");
        }
        None if parts.is_whole() => text.push_str("all is well\n"),
        None => text.push_str("all who answered are well\n"),
        Some((node, name)) => {
            let s = if problems == 1 { "" } else { "s" };
            text.push_str(&format!("{problems} problem{s}.   circusctl status {}", quoted(name)));
            match parts.many {
                true if node.is_empty() => text.push_str(" --all   ·   circusctl leases"),
                true => text.push_str(&format!(" --node {node}")),
                false => {}
            }
            text.push('\n');
        }
    }
    text
}

/// A name as the shell takes it.
fn quoted(name: &str) -> String {
    shlex::try_quote(name).map_or_else(|_| name.to_owned(), |quoted| quoted.into_owned())
}

fn node_line(part: &Value, style: Style) -> String {
    if part["node"].is_null() {
        return String::new();
    }
    let mut line = format!("{}   cluster {}   {}", word(part, "node"), word(part, "cluster"), word(part, "phase"));
    match part["store"]["state"].as_str() {
        Some("up") => {
            line.push_str("   lease store up");
            let missed = part["store"]["missed"].as_object().into_iter().flatten();
            let missed: Vec<&str> = missed.map(|(server, _)| server.as_str()).collect();
            if !missed.is_empty() {
                line.push_str(&format!(" without {}", missed.join(", ")));
            }
        }
        Some("down") => {
            let why = format!("lease store down: {}", word(&part["store"], "reason"));
            line.push_str("   ");
            line.push_str(&Paint::Bad.apply(&why, style));
        }
        _ => {}
    }
    line.push('\n');
    line
}

fn cluster_line(parts: &Parts) -> String {
    let cluster = parts.good.first().map_or("-", |(_, part)| word(part, "cluster"));
    let all = parts.good.len() + parts.bad.len();
    let mut line = match parts.missing {
        None => format!("{cluster}   {} of {all} nodes answered", parts.good.len()),
        Some(_) => format!("{cluster}   {} of an unknown number of nodes answered", parts.good.len()),
    };
    for (node, part) in &parts.good {
        if part["store"]["state"] == "down" {
            line.push_str(&format!("   {node}: lease store down"));
        }
        if let Some(phase @ ("draining" | "drained")) = part["phase"].as_str() {
            line.push_str(&format!("   {node}: {phase}"));
        }
    }
    line.push('\n');
    line
}

fn running(watcher: &Value) -> Vec<&Value> {
    list(watcher, "processes").iter().filter(|process| process["state"] == "running").collect()
}

fn ready(watcher: &Value) -> String {
    if watcher["state"] == "standby" {
        return "-".into();
    }
    format!("{}/{}", running(watcher).len(), watcher["numprocesses"].as_u64().unwrap_or(0))
}

/// The first pids, and how many more there are.
fn pids(watcher: &Value) -> String {
    let pids: Vec<String> = list(watcher, "processes")
        .iter()
        .filter_map(|process| process["pid"].as_u64())
        .map(|pid| pid.to_string())
        .collect();
    match pids.len() {
        0 => "-".into(),
        1..=3 => pids.join(" "),
        more => format!("{} +{}", pids[..2].join(" "), more - 2),
    }
}

/// How long its youngest process has been up, well or not: since then nothing happened.
fn up(watcher: &Value) -> String {
    list(watcher, "processes")
        .iter()
        .filter(|process| matches!(process["state"].as_str(), Some("running" | "unhealthy")))
        .filter_map(|process| process["age"].as_f64())
        .min_by(f64::total_cmp)
        .map_or_else(|| "-".into(), span)
}

/// Its note, or else how its last process ended, if one was replaced.
fn note(watcher: &Value) -> String {
    match watcher["note"].as_str() {
        Some(note) => note.to_owned(),
        None if watcher["restarts"].as_u64().unwrap_or(0) > 0 => last_exit(watcher).unwrap_or_default(),
        None => String::new(),
    }
}

fn last_exit(watcher: &Value) -> Option<String> {
    let exit = &watcher["last_exit"];
    Some(format!("last: {}, {} ago", exit["text"].as_str()?, maybe_span(&exit["ago"])))
}

/// Of several nodes' views of one singleton, the one that tells most: the holder's, or else one with a problem.
fn telling<'a>(views: &[(&'a str, &'a Value)]) -> (&'a str, &'a Value) {
    let rank = |watcher: &Value| match watcher["lease"]["role"].as_str() {
        Some("holder") => 0,
        Some("losing") => 1,
        _ if !is_well(watcher, Store::Up) => 2,
        _ if watcher["state"] == "standby" => 3,
        _ => 4,
    };
    *views.iter().min_by_key(|(_, watcher)| rank(watcher)).expect("a name has at least the view that it was found in")
}

/// The distinct names of those that `keep` keeps, with every node's view of each.
fn by_name<'a>(parts: &'a Parts, keep: impl Fn(&Value) -> bool) -> Vec<Vec<(&'a str, &'a Value)>> {
    let mut groups: Vec<Vec<(&str, &Value)>> = Vec::new();
    for (node, watcher) in watchers(parts).filter(|(_, watcher)| keep(watcher)) {
        match groups.iter_mut().find(|group| group[0].1["name"] == watcher["name"]) {
            Some(group) => group.push((node, watcher)),
            None => groups.push(vec![(node, watcher)]),
        }
    }
    groups
}

fn singletons(parts: &Parts) -> Table {
    let mut heads = vec!["SINGLETON", "STATE"];
    if parts.many {
        heads.push("NODE");
    }
    heads.extend(["PID", "UP", ">LEASE", ">TOKEN", ">RESTARTS", "NOTE"]);
    let mut table = Table::new(&heads);
    let unheld = if parts.many && parts.is_whole() { unheld(parts) } else { Vec::new() };
    for views in by_name(parts, |watcher| watcher["lease"].is_object()) {
        let (node, watcher) = telling(&views);
        let lease = &watcher["lease"];
        let here = matches!(lease["role"].as_str(), Some("holder" | "losing"));
        let unheld = unheld.iter().find(|(name, _)| *name == word(watcher, "name"));
        let state = unheld.map_or(word(watcher, "state"), |(_, state)| state);
        let mut cells = vec![word(watcher, "name").to_owned(), state.to_owned()];
        if parts.many {
            cells.push(if unheld.is_some() {
                "-".into()
            } else if here {
                node.to_owned()
            } else {
                word(lease, "holder").to_owned()
            });
        }
        let token = lease["token"].as_u64().map_or_else(|| "-".into(), |token| token.to_string());
        cells.extend([
            pids(watcher),
            up(watcher),
            if here { left(lease) } else { "-".into() },
            token,
            watcher["restarts"].as_u64().unwrap_or(0).to_string(),
            note(watcher),
        ]);
        table.row(cells);
    }
    table
}

/// One node's watchers.
fn own(part: &Value) -> Table {
    let watchers = list(part, "watchers");
    // A circusd tells nothing but the state, and has no name.
    if part["node"].is_null() {
        let mut table = Table::new(&["WATCHER", "STATE"]);
        for watcher in watchers {
            table.row(vec![word(watcher, "name").to_owned(), word(watcher, "state").to_owned()]);
        }
        return table;
    }
    let mut table = Table::new(&["WATCHER", "STATE", ">READY", "PID", "UP", ">RESTARTS", "NOTE"]);
    for watcher in watchers.iter().filter(|watcher| !watcher["lease"].is_object()) {
        table.row(vec![
            word(watcher, "name").to_owned(),
            word(watcher, "state").to_owned(),
            ready(watcher),
            pids(watcher),
            up(watcher),
            watcher["restarts"].as_u64().unwrap_or(0).to_string(),
            note(watcher),
        ]);
    }
    table
}

/// The watchers of several nodes: a line for each name.
fn shared(parts: &Parts) -> Table {
    let columns: Vec<&str> = match parts.good.len() {
        0..=MAX_COLUMNS => parts.good.iter().map(|(node, _)| node.as_str()).collect(),
        _ => Vec::new(),
    };
    let node_heads: Vec<String> = columns.iter().map(|node| format!(">{node}")).collect();
    let mut heads = vec!["WATCHER", ">READY"];
    heads.extend(node_heads.iter().map(String::as_str));
    heads.extend([">RESTARTS", "NOTE"]);
    let mut table = Table::new(&heads);
    for views in by_name(parts, |watcher| !watcher["lease"].is_object()) {
        let sum = |count: &dyn Fn(&Value) -> u64| views.iter().map(|(_, watcher)| count(watcher)).sum::<u64>();
        let ready_of_all = sum(&|watcher| running(watcher).len() as u64);
        // Where its legion is not led nothing of it is wanted.
        let led = |watcher: &Value| watcher["state"] != "standby";
        let wanted = sum(&|watcher| watcher["numprocesses"].as_u64().filter(|_| led(watcher)).unwrap_or(0));
        let led_somewhere = views.iter().any(|(_, watcher)| led(watcher));
        let mut cells = vec![word(views[0].1, "name").to_owned(), format!("{ready_of_all}/{wanted}")];
        for column in &columns {
            cells.push(views.iter().find(|(node, _)| node == column).map_or_else(|| "-".into(), |(_, w)| ready(w)));
        }
        cells.push(sum(&|watcher| watcher["restarts"].as_u64().unwrap_or(0)).to_string());
        let notes = views
            .iter()
            .filter(|(_, watcher)| watcher["state"] != "active" && (led(watcher) || !led_somewhere))
            .map(|(node, watcher)| match note(watcher) {
                note if note.is_empty() => format!("{node} {}", word(watcher, "state")),
                note => format!("{node} {}: {note}", word(watcher, "state")),
            });
        cells.push(notes.collect::<Vec<_>>().join("; "));
        table.row(cells);
    }
    table
}

/// One watcher on each node, in full.
pub(super) fn pages(parts: &Parts, style: Style) -> String {
    let pages: Vec<String> = watchers(parts).map(|(node, watcher)| page(node, watcher, style)).collect();
    pages.join("\n")
}

fn page(node: &str, watcher: &Value, style: Style) -> String {
    let state = word(watcher, "state");
    let state = Paint::of_state(state).apply(state, style);
    let lease = watcher["lease"].as_object().map(|_| &watcher["lease"]);
    let kind = if lease.is_some() { "singleton" } else { "watcher" };
    let mut text = format!("{}   {kind}, {state} on {node}\n", word(watcher, "name"));
    let mut line = |head: &str, tail: &str| text.push_str(&format!("  {head:<10} {tail}\n"));
    if let Some(note) = watcher["note"].as_str() {
        line("why", note);
    }
    if watcher["state"] != "standby" {
        line("ready", &ready(watcher));
    }
    for process in list(watcher, "processes") {
        let pid = process["pid"].as_u64().map_or_else(|| "no pid yet".into(), |pid| format!("pid {pid}"));
        let wid = process["wid"].as_u64().unwrap_or(0);
        let says =
            process["status"].as_str().map_or_else(String::new, |status| format!(", says: {}", printable(status)));
        line("process", &format!("#{wid} {pid}, {}, {}{says}", word(process, "state"), maybe_span(&process["age"])));
    }
    if let Some(lease) = lease {
        line("lease", &lease_line(lease));
        line("key", word(lease, "key"));
    }
    line("restarts", &watcher["restarts"].as_u64().unwrap_or(0).to_string());
    if let Some(text) = watcher["last_exit"]["text"].as_str() {
        line("last exit", &format!("{text}, {} ago", maybe_span(&watcher["last_exit"]["ago"])));
    }
    if let Some(seconds) = watcher["next_try"].as_f64() {
        line("next try", &format!("in {}", span(seconds)));
    }
    text
}

fn lease_line(lease: &Value) -> String {
    let mut facts = vec![word(lease, "role").to_owned()];
    if let Some(token) = lease["token"].as_u64() {
        facts.push(format!("token {token}"));
    }
    match lease["role"].as_str() {
        Some("holder" | "losing") => {
            facts.push(format!("{} left", left(lease)));
            if !lease["latency"].is_null() {
                facts.push(format!("refreshed in {}", latency(&lease["latency"])));
            }
            if !lease["held_for"].is_null() {
                facts.push(format!("held for {}", maybe_span(&lease["held_for"])));
            }
        }
        _ => {
            if let Some(holder) = lease["holder"].as_str() {
                facts.push(format!("held by {holder}"));
            }
            if let Some(left) = lease["left"].as_f64() {
                facts.push(format!("next try in {}", span(left)));
            }
        }
    }
    if let Some(why) = lease["why"].as_str()
        && !facts.iter().any(|fact| fact == why)
    {
        facts.push(why.to_owned());
    }
    facts.join(", ")
}
