//! The tree shows the architecture: this draws its arrows and fails on a wrong one.

use std::fs;
use std::path::{Path, PathBuf};

/// What may use what: a module uses only those of lower layers; those of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["model"],
    &["unix", "wire"],
    &["cluster", "config", "control", "discovery", "host", "systemd", "view", "zmq"],
    &["agent", "client"],
    &["lord", "plugins"],
    &["cli"],
];

/// Whose types stop where: a foreign crate is named only in these modules.
const EDGES: &[(&str, &[&str])] = &[
    ("redis", &["cluster", "config", "plugins"]),
    ("ini", &["config"]),
    ("clap", &["cli"]),
    (
        "serde_json",
        &["agent", "client", "cli", "cluster", "config", "control", "host", "lord", "plugins", "view", "wire"],
    ),
    ("sd_notify", &["systemd"]),
    ("jiff", &["cli", "config", "host", "view"]),
    ("croner", &["config", "host"]),
    ("ratatui", &["cli", "view"]),
    ("regex", &["cli", "config", "host", "model", "plugins", "view"]),
    ("libc", &["agent", "cli", "cluster", "config", "control", "host", "lord", "plugins"]),
    ("tokio", &["agent", "client", "cli", "cluster", "control", "discovery", "host", "plugins", "unix", "zmq"]),
];

fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => dirs.push(entry),
                false if entry.extension().is_some_and(|found| found == ending) => found.push(entry),
                false => {}
            }
        }
    }
    assert!(!found.is_empty(), "no .{ending} files in {dir}");
    found
}

/// The top module that a file belongs to: `src/model/lease.rs` and `src/model/mod.rs` to `model`.
fn module(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("src/{module} has no layer: give it one in tests/tidy.rs and src/lib.rs"))
}

/// Words that stand before `::`, each once a line: the beginnings of paths.
fn roots(line: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("::").filter_map(move |(at, _)| {
        let before = &line[..at];
        let start = before.rfind(|c| !word(c)).map_or(0, |i| i + 1);
        (!before[..start].ends_with("::")).then_some(&before[start..])
    })
}

fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let user = module(&path);
        if matches!(user.as_str(), "lib" | "bin") {
            continue;
        }
        for (number, line) in code(&fs::read_to_string(&path).unwrap()) {
            for (at, _) in line.match_indices("crate::") {
                let used: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !used.is_empty() && used != user && layer(&used) >= layer(&user) {
                    wrong.push(format!("{}:{number}: {user} must not know {used}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn foreign_types_stop_at_the_edge() {
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let user = module(&path);
        for (number, line) in code(&fs::read_to_string(&path).unwrap()) {
            for root in roots(line) {
                let edge = EDGES.iter().find(|(name, _)| *name == root);
                if edge.is_some_and(|(_, modules)| !modules.contains(&user.as_str())) {
                    wrong.push(format!("{}:{number}: {user} must not name {root}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_model_has_no_clock_no_files_and_nothing_but_std() {
    const FOREIGN: &[&str] = &[
        "tokio",
        "serde",
        "serde_json",
        "nix",
        "libc",
        "redis",
        "tracing",
        "getrandom",
        "thiserror",
        "strsim",
        "shlex",
    ];
    const STD: &[&str] = &["std::fs", "std::io", "std::net", "std::process", "std::thread", "Instant", "SystemTime"];
    for path in files("src/model", "rs") {
        for (number, line) in code(&fs::read_to_string(&path).unwrap()) {
            let foreign = roots(line).find(|root| FOREIGN.contains(root));
            let forbidden = foreign.or_else(|| STD.iter().copied().find(|word| line.contains(word)));
            assert!(forbidden.is_none(), "{}:{number}: {}", path.display(), forbidden.unwrap());
        }
    }
}

#[test]
fn programs_are_thin() {
    for path in files("src/bin", "rs") {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 40, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_script_says_what_it_takes_gives_and_keeps_true() {
    for path in files("lua", "lua") {
        let text = fs::read_to_string(&path).unwrap();
        let head: String = text.lines().take_while(|line| line.starts_with("--")).collect();
        let parts: &[&str] = if path.ends_with("prelude.lua") {
            &["Gives", "Returns"]
        } else {
            &["KEYS[1]", "ARGV[1]", "Returns", "Invariant"]
        };
        for part in parts {
            assert!(head.contains(part), "{}: its head says nothing of {part}", path.display());
        }
    }
}

#[test]
fn the_map_names_every_module() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let map: String = map.lines().filter(|line| line.starts_with("//!")).collect();
    for name in LAYERS.iter().copied().flatten() {
        assert!(map.contains(&format!("[`{name}`]")), "the map in src/lib.rs does not name {name}");
    }
}
