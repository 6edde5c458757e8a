//! What became of a roll over the nodes.

use serde_json::Value;

use super::words::printable;
use super::{Text, word};

/// The nodes that came to the same, in a line; those that failed, each with its reason; and what to type next. `again`
/// are the words that would do it again, but for the nodes.
pub fn roll_result(told: &Value, again: &str) -> Text {
    let nodes = told["nodes"].as_object();
    let at = |step: &'static str| {
        nodes
            .into_iter()
            .flatten()
            .filter(move |(_, member)| member["step"] == step)
            .map(|(node, member)| (node.as_str(), member))
    };
    let names = |step| at(step).map(|(node, _)| node).collect::<Vec<_>>();
    let (mut out, mut err) = (String::new(), String::new());
    let (done, asked, untouched) = (names("done"), names("asked"), names("untouched"));
    for (label, nodes) in [("done", &done), ("asked, and may still do it", &asked), ("not touched", &untouched)] {
        if !nodes.is_empty() {
            out.push_str(&format!("{label}: {}\n", nodes.join(", ")));
        }
    }
    for (node, member) in at("skipped") {
        out.push_str(&printable(&format!("skipped: {node} ({})", word(member, "why"))));
        out.push('\n');
    }
    for (node, member) in at("failed").chain(at("silent")) {
        err.push_str(&printable(&format!("error: {node}: {}", word(member, "why"))));
        err.push('\n');
    }
    let left: Vec<&str> = names("failed").into_iter().chain(asked).chain(untouched.iter().copied()).collect();
    let go_on = |nodes: &[&str]| match nodes {
        [] => String::new(),
        nodes => format!(":  {again} --node {}", nodes.join(",")),
    };
    let last = match told["verdict"].as_str() {
        Some("idle") => "nothing to do on these nodes\n".to_owned(),
        Some("stopped") => format!("stopped there; to go on when that is healed{}\n", go_on(&left)),
        Some("called-off") => format!("called off; to go on{}\n", go_on(&left)),
        Some("blind") => format!("error: {}; stopped there\n", printable(word(told, "reason"))),
        Some("held") => {
            let down = at("untouched").chain(at("silent")).filter(|(_, member)| member["why"].is_string());
            let down: Vec<(&str, &str)> = down.map(|(node, member)| (node, word(member, "why"))).collect();
            let why: Vec<String> = down.iter().map(|(node, why)| format!("{node} ({why})")).collect();
            let others: Vec<&str> =
                untouched.iter().copied().filter(|node| !down.iter().any(|(other, _)| other == node)).collect();
            let begun = if done.is_empty() { "nothing was begun" } else { "stopped there" };
            let most = &told["max_unavailable"];
            format!(
                "error: down already: {}; {most} may be at once, so {begun}. Heal that, allow more, or leave it out{}\n",
                printable(&why.join(", ")),
                go_on(&others)
            )
        }
        _ => String::new(),
    };
    match last.starts_with("error") || matches!(told["verdict"].as_str(), Some("stopped" | "called-off")) {
        true => err.push_str(&last),
        false => out.push_str(&last),
    }
    Text { out, err }
}
