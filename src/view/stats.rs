//! What processes use.

use serde_json::Value;

use super::table::Table;
use super::{Parts, Style, word};

/// One line for each process.
pub(super) fn table(parts: &Parts, style: Style) -> String {
    let mut heads = vec!["WATCHER", ">WID", ">PID", ">CPU", ">MEM", ">RSS", ">VIRT", ">TIME", "USER", "PROGRAM"];
    if parts.many {
        heads.insert(0, "NODE");
    }
    let mut table = Table::new(&heads);
    for (node, part) in &parts.good {
        let mut add = |watcher: &str, pid: &str, info: &Value| {
            let number = |key: &str| info[key].as_f64().map_or_else(|| "-".into(), |number| number.to_string());
            let share = |key: &str| info[key].as_f64().map_or_else(|| "-".into(), |share| format!("{share:.1}%"));
            let program = info.as_str().unwrap_or_else(|| word(info, "cmdline"));
            let mut cells: Vec<String> = vec![
                watcher.to_owned(),
                number("wid"),
                pid.to_owned(),
                share("cpu"),
                share("mem"),
                word(info, "mem_info1").to_owned(),
                word(info, "mem_info2").to_owned(),
                word(info, "ctime").to_owned(),
                word(info, "username").to_owned(),
                program.to_owned(),
            ];
            if parts.many {
                cells.insert(0, node.clone());
            }
            table.row(cells);
        };
        let of_one = |infos: &Value, watcher: &str, add: &mut dyn FnMut(&str, &str, &Value)| {
            let Some(infos) = infos.as_object() else { return };
            let mut infos: Vec<_> = infos.iter().collect();
            infos.sort_by_key(|(pid, info)| (info["wid"].as_u64(), pid.parse::<u64>().ok()));
            for (pid, info) in infos {
                add(watcher, pid, info);
            }
        };
        if let Some(watchers) = part["infos"].as_object() {
            for (watcher, infos) in watchers {
                of_one(infos, watcher, &mut add);
            }
        } else if !part["process"].is_null() {
            add("-", &part["process"].to_string(), &part["info"]);
        } else {
            of_one(&part["info"], word(part, "name"), &mut add);
        }
    }
    if table.is_empty() { "no processes\n".into() } else { table.text(style) }
}
