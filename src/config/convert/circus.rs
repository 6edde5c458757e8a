//! circus.ini → ours: the same file, but for what would keep it from being read, or does nothing here.
//!
//! What that is, the reader says: it reads the text, and each of its problems becomes a note where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Original;
use super::page::Page;
use crate::config::problem::{Problem, Problems, Severity, code};
use crate::config::scan::Document;
use crate::config::{Surroundings, scan, understand};

/// What is wrong with a machine, not with a file: whoever converts it may sit elsewhere.
const OF_MACHINE: &[&str] = &[code::PROGRAM, code::DIRECTORY, code::USER, code::LOGIN, code::INCLUDE, code::FILE];

/// A line of the original.
struct Line<'a> {
    text: &'a str,
    /// The line on which its key or head stands: its own, unless it continues another.
    owner: usize,
    /// The head's line of its section.
    head: usize,
}

/// Writes what a circus.ini says.
///
/// # Errors
/// Its problems have no place in it.
pub(super) fn convert(original: &Original<'_>, around: &Surroundings, page: &mut Page) -> Result<(), String> {
    let lines = lines(original.text);
    // Lines that are left out, and what is said above a line.
    let mut out: BTreeSet<usize> = BTreeSet::new();
    let mut notes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    meanings(&lines, &mut out, &mut notes);
    loop {
        let text: String = lines
            .iter()
            .enumerate()
            .map(|(at, line)| {
                if out.contains(&line.owner) || out.contains(&at) {
                    "\n".to_owned()
                } else {
                    format!("{}\n", line.text)
                }
            })
            .collect();
        let before = out.len();
        for problem in problems(&text, around) {
            let Some(at) = problem.line.checked_sub(1).filter(|at| *at < lines.len()) else { continue };
            let owner = lines[at].owner;
            let leaves =
                problem.severity == Severity::Error || problem.code == code::NO_EFFECT || problem.code == code::TWICE;
            let told = notes.entry(owner).or_default();
            let said = said(&problem);
            if !told.contains(&said) {
                told.push(said);
            }
            // A section that is wrong as a whole goes with all its lines; one that stands twice stays.
            match (leaves, owner == lines[at].head) {
                (true, true) if problem.code != code::TWICE => {
                    out.extend((0..lines.len()).filter(|line| lines[*line].head == owner))
                }
                (true, false) => drop(out.insert(owner)),
                _ => {}
            }
        }
        if out.len() == before {
            break;
        }
    }
    page.apart(&[]);
    for (at, line) in lines.iter().enumerate() {
        let key = || line.text.split(['=', ':']).next().unwrap_or_default().trim().to_owned();
        for note in notes.get(&at).into_iter().flatten() {
            match out.contains(&at) {
                true => {}
                false if line.text.starts_with('[') => page.tell(format_args!("{}: {note}", line.text.trim())),
                false => page.tell(format_args!("{}: {note}", key())),
            }
        }
        if out.contains(&line.owner) {
            let value = line.text.split_once(['=', ':']).map_or("", |(_, value)| value.trim());
            match notes.get(&at) {
                Some(notes) if line.text.starts_with('[') => {
                    page.tell(format_args!("{}: {}", line.text.trim(), notes.join("; ")))
                }
                Some(notes) => page.note(&key(), value, notes.join("; ")),
                None if line.text.trim().is_empty() || line.text.starts_with([';', '#']) => {
                    page.comments(&[line.text.to_owned()])
                }
                None if line.owner != at => {
                    page.tell(format_args!("… {}", if scan::is_secret("", &key()) { "***" } else { line.text.trim() }))
                }
                None => page.note(&key(), value, "as above"),
            }
        } else {
            page.comments(&[line.text.to_owned()]);
        }
    }
    Ok(())
}

/// The lines of a text, each with the one it belongs to.
fn lines(text: &str) -> Vec<Line<'_>> {
    let (mut owner, mut head) = (0, 0);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    for (at, text) in text.lines().map(str::trim_end).enumerate() {
        if text.starts_with('[') {
            head = at;
        }
        let comment = text.is_empty() || text.starts_with([';', '#']);
        if !comment && !text.starts_with(char::is_whitespace) {
            owner = at;
        }
        lines.push(Line { text, owner: if comment { at } else { owner }, head });
    }
    lines
}

/// What the reader says of a text.
fn problems(text: &str, around: &Surroundings) -> Vec<Problem> {
    let (mut doc, mut problems) = (Document::default(), Problems::default());
    let name = PathBuf::from("circus.ini");
    doc.scan(&name, text, &mut problems);
    let around = Surroundings {
        env: around
            .env
            .iter()
            .filter(|(name, _)| !name.starts_with("CIRCUS_"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        hostname: around.hostname.clone(),
    };
    let problems = match understand(doc, vec![name], &around, problems) {
        Ok(config) => config.warnings,
        Err(problems) => problems,
    };
    let of_machine = |problem: &Problem| OF_MACHINE.contains(&problem.code) || problem.message.contains("circus.env.");
    problems.into_iter().filter(|problem| !of_machine(problem)).collect()
}

/// A problem in one line.
fn said(problem: &Problem) -> String {
    let mut said = problem.message.clone();
    for more in std::iter::once(&problem.label).chain(&problem.notes).filter(|more| !more.is_empty()) {
        said.push_str("; ");
        said.push_str(more.trim_start_matches("help: ").trim_start_matches("note: "));
    }
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What Circus means otherwise, and the reader takes as it stands.
fn meanings(lines: &[Line<'_>], out: &mut BTreeSet<usize>, notes: &mut BTreeMap<usize, Vec<String>>) {
    for (at, line) in lines.iter().enumerate().filter(|(at, line)| line.owner == *at) {
        let head = lines[line.head].text;
        let Some((key, value)) = line.text.split_once(['=', ':']).filter(|_| head.starts_with("[watcher:")) else {
            continue;
        };
        let yes = crate::config::value::boolean(value.split(" ;").next().unwrap_or_default().trim()) == Ok(true);
        let why = match key.trim() {
            "singleton" if yes => {
                "with Circus one on each node; here one in the whole cluster. Where one on each node is meant, `numprocesses = 1` says it"
            }
            "shell" if yes => {
                "Circus quotes each word, so that `;`, `|` and `$X` are plain text; here the shell reads the line as it stands"
            }
            "executable" => {
                out.insert(at);
                "Circus ignores it; here it would be executed in place of the first word of cmd"
            }
            _ => continue,
        };
        notes.entry(at).or_default().push(why.to_owned());
    }
}
