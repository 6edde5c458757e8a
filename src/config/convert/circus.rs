//! circus.ini → ours: the same file, but for what would keep it from being read, does nothing, or means something else.

use super::Original;
use super::judge::{Judged, Rigour};
use crate::config::{Surroundings, value};

/// What a circus.ini says, in our dialect.
pub(super) fn convert(original: &Original<'_>, around: &Surroundings) -> String {
    let mut judged = Judged::new(original.text);
    for (line, head, key, value) in judged.keys().collect::<Vec<_>>() {
        let yes = || value::boolean(value.split(" ;").next().unwrap_or_default().trim()) == Ok(true);
        match key {
            _ if !head.starts_with("[watcher:") => {}
            "singleton" if yes() => judged.note(
                line,
                "with Circus one on each node; here one in the whole cluster. Without this line it is one on each node",
            ),
            "shell" if yes() => judged.note(
                line,
                "with Circus `;`, `|` and `$X` in cmd are plain text; here the shell reads the line as it stands",
            ),
            "executable" => {
                judged.take_out(line, "Circus ignores it; here it would be executed in place of cmd's first word");
            }
            _ => {}
        }
    }
    judged.judge(Rigour::Doubtful, around);
    judged.finish()
}
