//! What processes use.

use serde_json::Value;

use super::table::Table;
use super::{Parts, Style, list, word};
use crate::wire::circus;

/// One line for each process, its children indented below it.
pub(super) fn table(parts: &Parts, style: Style) -> String {
    let mut heads = vec!["WATCHER", ">WID", ">PID", ">CPU", ">MEM", ">RSS", ">VIRT", ">TIME", "USER", "PROGRAM"];
    if parts.many {
        heads.insert(0, "NODE");
    }
    let mut table = Table::new(&heads);
    for (node, part) in &parts.good {
        for (watcher, pid, info) in processes(part) {
            let first = if parts.many { Some(node.as_str()) } else { None };
            add(&mut table, first, watcher, &pid, info, 0);
        }
    }
    if table.is_empty() { "no processes\n".into() } else { table.text(style) }
}

/// Watcher, pid and INFO of each process of one node's reply.
fn processes(part: &Value) -> Vec<(&str, String, &Value)> {
    match (part["infos"].as_object(), &part["process"]) {
        (Some(watchers), _) => watchers.iter().flat_map(|(watcher, infos)| of_one(watcher, infos)).collect(),
        (None, Value::Null) => of_one(word(part, "name"), &part["info"]),
        (None, pid) => vec![(word(part, "name"), pid.to_string(), &part["info"])],
    }
}

/// The processes of one watcher, by slot.
fn of_one<'a>(watcher: &'a str, infos: &'a Value) -> Vec<(&'a str, String, &'a Value)> {
    let mut infos: Vec<_> = infos.as_object().into_iter().flatten().collect();
    infos.sort_by_key(|(pid, info)| (info["wid"].as_u64(), pid.parse::<u64>().ok()));
    infos.into_iter().map(|(pid, info)| (watcher, pid.clone(), info)).collect()
}

/// A process, then its children, each three columns further in.
fn add(table: &mut Table, node: Option<&str>, watcher: &str, pid: &str, info: &Value, depth: usize) {
    let number = |key: &str| info[key].as_f64().map_or_else(|| "-".into(), |number| number.to_string());
    let share = |key: &str| info[key].as_f64().map_or_else(|| "-".into(), |share| format!("{share:.1}%"));
    let program = info.as_str().unwrap_or_else(|| word(info, "cmdline"));
    let mut cells = vec![
        if depth == 0 { watcher.to_owned() } else { String::new() },
        if depth == 0 { number("wid") } else { String::new() },
        pid.to_owned(),
        share("cpu"),
        share("mem"),
        word(info, "mem_info1").to_owned(),
        word(info, "mem_info2").to_owned(),
        word(info, "ctime").to_owned(),
        word(info, "username").to_owned(),
        format!("{}{program}{}", "   ".repeat(depth), added(info)),
    ];
    if let Some(node) = node {
        cells.insert(0, node.to_owned());
    }
    table.row(cells);
    for child in list(info, "children") {
        add(table, node, watcher, &child["pid"].to_string(), child, depth + 1);
    }
}

/// What a hook added: `  queue=3`.
fn added(info: &Value) -> String {
    let fields = info.as_object().into_iter().flatten().filter(|(key, _)| !circus::PROCESS.contains(&key.as_str()));
    fields
        .map(|(key, value)| format!("  {key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect()
}
