//! What nodes use, drawn anew with each frame.
//!
//! ```text
//! NODE   WATCHER    PID   CPU    RSS  FDS  READ/s  WRITTEN/s       AGE  PROGRAM
//! web-1  web       4711  12.5%  8.5M   12       0       4.0K    1m 01s  python +3
//! web-1: 1 process, 12.5% of 4 cores, 8.5M; load 0.25, memory 3.0G of 8.0G
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::table::Table;
use super::words::{maybe_span, printable, size, span};
use super::{Style, list, word};

/// A node that was silent for longer than this is marked.
const STALE: Duration = Duration::from_secs(5);
/// And after this it is forgotten.
const GONE: Duration = Duration::from_secs(60);

/// The latest frame of each node.
#[derive(Debug)]
pub struct FramesView {
    style: Style,
    nodes: BTreeMap<String, (Duration, Value)>,
}

impl FramesView {
    /// Of no node yet.
    pub fn new(style: Style) -> FramesView {
        FramesView { style, nodes: BTreeMap::new() }
    }

    /// Takes in a frame; `now` is how long this has been going on. The text of all nodes: whole lines.
    pub fn text(&mut self, frame: &Value, now: Duration) -> String {
        self.nodes.insert(word(frame, "node").to_owned(), (now, frame.clone()));
        self.nodes.retain(|_, (heard, _)| now.saturating_sub(*heard) < GONE);
        let many = self.nodes.len() > 1;
        let mut heads = vec!["WATCHER", ">PID", ">CPU", ">RSS", ">FDS", ">READ/s", ">WRITTEN/s", ">AGE", "PROGRAM"];
        if many {
            heads.insert(0, "NODE");
        }
        let (mut table, mut sums) = (Table::new(&heads), String::new());
        for (node, (heard, frame)) in &self.nodes {
            for (watcher, process) in processes(frame) {
                let mut row = cells(watcher, process);
                if many {
                    row.insert(0, node.clone());
                }
                table.row(row);
            }
            sums.push_str(&summary(node, frame));
            let silent = now.saturating_sub(*heard);
            if silent > STALE {
                sums.push_str(&format!("; STALE: silent for {}", span(silent.as_secs_f64())));
            }
            sums.push('\n');
        }
        if table.is_empty() { sums } else { table.text(self.style) + &sums }
    }
}

fn processes(frame: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let of = |watcher| list(watcher, "processes").iter().map(move |process| (word(watcher, "name"), process));
    list(frame, "watchers").iter().flat_map(of)
}

fn cells(watcher: &str, process: &Value) -> Vec<String> {
    let program = match process["children"].as_u64() {
        None | Some(0) => word(process, "program").to_owned(),
        Some(below) => format!("{} +{below}", word(process, "program")),
    };
    vec![
        watcher.to_owned(),
        process["pid"].to_string(),
        process["cpu"].as_f64().map_or_else(|| "-".into(), |cpu| format!("{cpu:.1}%")),
        maybe_size(&process["resident"]),
        process["descriptors"].as_u64().map_or_else(|| "-".into(), |count| count.to_string()),
        maybe_size(&process["read"]),
        maybe_size(&process["written"]),
        maybe_span(&process["age"]),
        program,
    ]
}

fn summary(node: &str, frame: &Value) -> String {
    let (mut count, mut cpu, mut resident) = (0, 0.0, 0.0);
    for (_, process) in processes(frame) {
        count += 1;
        cpu += process["cpu"].as_f64().unwrap_or(0.0);
        resident += process["resident"].as_f64().unwrap_or(0.0);
    }
    let machine = &frame["machine"];
    let number = |key: &str| machine[key].as_f64().map_or_else(|| "-".into(), |number| number.to_string());
    format!(
        "{}: {count} {}, {cpu:.1}% of {} cores, {}; load {}, memory {} of {}",
        printable(node),
        if count == 1 { "process" } else { "processes" },
        number("cores"),
        size(resident),
        number("load"),
        maybe_size(&machine["memory_used"]),
        maybe_size(&machine["memory"]),
    )
}

fn maybe_size(bytes: &Value) -> String {
    bytes.as_f64().map_or_else(|| "-".into(), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn frame(node: &str, pid: u32) -> Value {
        json!({
            "node": node, "at": 1.0,
            "machine": {"cores": 4, "load": 0.25, "memory": 8_u64 << 30, "memory_used": 3_u64 << 30},
            "watchers": [{"name": "web", "processes": [{
                "wid": 1, "pid": pid, "program": "python", "age": 61.0, "children": 3, "cpu": 12.5,
                "resident": 8_912_896, "descriptors": 12, "read": 0.0, "written": null,
            }]}, {"name": "idle"}],
        })
    }

    #[test]
    fn the_processes_of_a_node_and_their_sum() {
        let text = FramesView::new(Style::default()).text(&frame("web-1", 4711), Duration::ZERO);
        let wanted = "\
WATCHER   PID    CPU   RSS  FDS  READ/s  WRITTEN/s     AGE  PROGRAM
web      4711  12.5%  8.5M   12       0          -  1m 01s  python +3
web-1: 1 process, 12.5% of 4 cores, 8.5M; load 0.25, memory 3.0G of 8.0G
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn of_several_nodes_each_line_says_whose_it_is_and_who_is_silent_is_marked_and_then_gone() {
        let mut view = FramesView::new(Style::default());
        view.text(&frame("b", 7), Duration::ZERO);
        let text = view.text(&frame("a", 8), Duration::from_secs(12));
        let wanted = "\
NODE  WATCHER  PID    CPU   RSS  FDS  READ/s  WRITTEN/s     AGE  PROGRAM
a     web        8  12.5%  8.5M   12       0          -  1m 01s  python +3
b     web        7  12.5%  8.5M   12       0          -  1m 01s  python +3
a: 1 process, 12.5% of 4 cores, 8.5M; load 0.25, memory 3.0G of 8.0G
b: 1 process, 12.5% of 4 cores, 8.5M; load 0.25, memory 3.0G of 8.0G; STALE: silent for 12 s
";
        assert_eq!(text, wanted);
        let text = view.text(&frame("a", 8), Duration::from_secs(72));
        assert!(!text.contains("b:"), "{text}");
    }

    #[test]
    fn what_is_missing_is_a_dash_and_nothing_is_no_table() {
        let text = FramesView::new(Style::default()).text(&json!({"node": "a\x1b"}), Duration::ZERO);
        assert_eq!(text, "a : 0 processes, 0.0% of - cores, 0; load -, memory - of -\n");
    }
}
