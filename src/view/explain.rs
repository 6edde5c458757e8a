//! Why a watcher runs, or does not: ticks and crosses, and the command that changes each.

use serde_json::Value;

use super::table::Paint;
use super::words::printable;
use super::{Parts, Style, list, word};

/// The node that runs it, or would, in full; the others in a line each.
pub(super) fn text(parts: &Parts, style: Style) -> String {
    let views: Vec<&Value> = parts.good.iter().map(|(_, part)| *part).collect();
    let holds = |part: &&&Value| part["holder"].is_string() && part["holder"] == part["node"];
    let Some(main) = views.iter().find(|part| part["runs"] == true).or(views.iter().find(holds)).or(views.first())
    else {
        return String::new();
    };
    let mut text = page(main, style);
    for other in views.iter().filter(|part| part["node"] != main["node"]) {
        text.push_str(&line(other, style));
    }
    text
}

fn headline(part: &Value) -> String {
    let (name, node) = (word(part, "name"), word(part, "node"));
    match (part["runs"] == true, part["right"] == true) {
        (true, true) => format!("{name} runs on {node}."),
        (true, false) => format!("{name} runs on {node}, and is {}.", word(part, "state")),
        (false, true) => format!("{name} is not running on {node}, and that is right."),
        (false, false) => format!("{name} is not running on {node}, and should be: it is {}.", word(part, "state")),
    }
}

fn mark(met: bool, style: Style) -> String {
    match met {
        true => Paint::Good.apply("✔", style),
        false => Paint::Bad.apply("✘", style),
    }
}

fn page(part: &Value, style: Style) -> String {
    let mut text = format!("{}\n", headline(part));
    for condition in list(part, "conditions") {
        let mark = mark(condition["met"] == true, style);
        let text_of = printable(word(condition, "text"));
        text.push_str(&format!("  {mark} {:<12}{text_of}\n", word(condition, "what")));
        if let Some(remedy) = condition["remedy"].as_str() {
            text.push_str(&format!("{:16}circusctl {}\n", "", printable(remedy)));
        }
    }
    if let Some(outlook) = part["outlook"].as_str() {
        text.push_str(&format!("{}\n", printable(outlook)));
    }
    if let Some(command) = part["move"]["command"].as_str() {
        let whither = if part["move"]["here"] == true { "here" } else { "away" };
        text.push_str(&format!("To move it {whither}:  circusctl {}\n", printable(command)));
    }
    text
}

/// A node in a line: what keeps it from running there.
fn line(part: &Value, style: Style) -> String {
    let unmet = list(part, "conditions").iter().find(|condition| condition["met"] == false);
    let why = match unmet {
        Some(condition) => format!("{}: {}", word(condition, "what"), printable(word(condition, "text"))),
        None => word(part, "state").to_owned(),
    };
    format!("  {} {:<12}{why}\n", mark(unmet.is_none(), style), word(part, "node"))
}
