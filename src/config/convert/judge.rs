//! The reader as the judge of a text in our dialect: what it refuses becomes a note, until it refuses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::page::{NOTE, shown};
use crate::config::problem::{Problem, Problems, Severity, code};
use crate::config::scan::Document;
use crate::config::{Surroundings, understand};

/// What is wrong with a machine, not with a file: whoever converts it may sit at another one.
const OF_MACHINE: &[&str] = &[code::PROGRAM, code::DIRECTORY, code::USER, code::LOGIN, code::INCLUDE, code::FILE];

/// What is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rigour {
    /// What keeps the file from being read.
    Refused,
    /// What does nothing as well; what is warned of otherwise gets a note, and stays.
    Doubtful,
}

/// A text, and what is said of its lines.
pub(super) struct Judged<'a> {
    lines: Vec<Line<'a>>,
    out: BTreeSet<usize>,
    notes: BTreeMap<usize, Vec<String>>,
}

/// A line of it; lines are counted from 0.
struct Line<'a> {
    text: &'a str,
    /// The line on which its key or head stands: its own, unless it continues another.
    owner: usize,
    /// That of the head of its section.
    head: usize,
}

impl<'a> Judged<'a> {
    /// A text of which nothing is said yet.
    pub(super) fn new(text: &'a str) -> Judged<'a> {
        let (mut owner, mut head) = (0, 0);
        let mut lines = Vec::new();
        for (at, text) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(str::trim_end).enumerate() {
            if text.starts_with('[') {
                head = at;
            }
            let comment = text.is_empty() || text.starts_with([';', '#']);
            if !comment && !text.starts_with(char::is_whitespace) {
                owner = at;
            }
            lines.push(Line { text, owner: if comment { at } else { owner }, head });
        }
        Judged { lines, out: BTreeSet::new(), notes: BTreeMap::new() }
    }

    /// All `KEY = VALUE` that begin a line, each with its number and the head of its section.
    pub(super) fn keys(&self) -> impl Iterator<Item = (usize, &'a str, &'a str, &'a str)> {
        let own = |(at, line): &(usize, &Line<'a>)| line.owner == *at && line.head != *at && !is_comment(line.text);
        self.lines.iter().enumerate().filter(own).filter_map(|(at, line)| {
            let (key, value) = line.text.split_once(['=', ':'])?;
            Some((at, self.lines[line.head].text, key.trim(), value.trim()))
        })
    }

    /// Says something of a line, which stays.
    pub(super) fn note(&mut self, line: usize, why: &str) {
        let told = self.notes.entry(line).or_default();
        if !told.iter().any(|told| told == why) {
            told.push(why.to_owned());
        }
    }

    /// Takes a line out, with those that continue it.
    pub(super) fn take_out(&mut self, line: usize, why: &str) {
        self.note(line, why);
        self.out.insert(line);
    }

    /// Has the reader look at what is left, until it finds nothing more.
    pub(super) fn judge(&mut self, rigour: Rigour, around: &Surroundings) {
        loop {
            let before = self.out.len();
            for problem in problems(&self.left(), around) {
                let Some(line) = problem.line.checked_sub(1).and_then(|at| self.lines.get(at)) else { continue };
                let (owner, head) = (line.owner, line.head);
                let idle = problem.code == code::TWICE || problem.message.contains("has no effect");
                match (problem.severity, owner == head) {
                    (Severity::Error, true) => {
                        self.note(owner, &said(&problem));
                        self.out.extend((0..self.lines.len()).filter(|at| self.lines[*at].head == head));
                    }
                    (Severity::Error, false) => self.take_out(owner, &said(&problem)),
                    (Severity::Warning, false) if rigour == Rigour::Doubtful && idle => {
                        self.take_out(owner, &said(&problem));
                    }
                    (Severity::Warning, _) if rigour == Rigour::Doubtful => self.note(owner, &said(&problem)),
                    (Severity::Warning, _) => {}
                }
            }
            // Each round takes out a line at least, or is the last.
            if self.out.len() == before {
                return;
            }
        }
    }

    fn is_out(&self, at: usize) -> bool {
        self.out.contains(&at) || self.out.contains(&self.lines[at].owner)
    }

    /// The text without what is taken out, each line where it was.
    fn left(&self) -> String {
        let line = |at: usize| if self.is_out(at) { "\n".to_owned() } else { format!("{}\n", self.lines[at].text) };
        (0..self.lines.len()).map(line).collect()
    }

    /// The text with its notes.
    pub(super) fn finish(&self) -> String {
        let mut text = String::new();
        for (at, line) in self.lines.iter().enumerate() {
            let why = self.notes.get(&at).map(|notes| notes.join("; "));
            let setting = || match line.text.split_once(['=', ':']) {
                Some((key, value)) if !line.text.starts_with('[') => shown(key.trim(), value),
                _ => line.text.to_owned(),
            };
            match (self.is_out(at) && !is_comment(line.text), why) {
                (true, Some(why)) => text.push_str(&format!("{NOTE}{}: {why}\n", setting())),
                (true, None) if line.owner != at => text.push_str(&format!("{NOTE}… {}\n", line.text.trim())),
                (true, None) => text.push_str(&format!("{NOTE}{}: as above\n", setting())),
                (false, Some(why)) => text.push_str(&format!("{NOTE}{}: {why}\n{}\n", setting(), line.text)),
                (false, None) => text.push_str(&format!("{}\n", line.text)),
            }
        }
        text
    }
}

fn is_comment(line: &str) -> bool {
    line.is_empty() || line.starts_with([';', '#'])
}

/// What the reader says of a text. The agent's own variables would win over the text's keys, and are left aside.
fn problems(text: &str, around: &Surroundings) -> Vec<Problem> {
    let (mut doc, mut problems) = (Document::default(), Problems::default());
    let name = PathBuf::from("converted.ini");
    doc.scan(&name, text, &mut problems);
    let mut around = around.clone();
    around.env.retain(|name, _| !name.starts_with("CIRCUS_"));
    let problems = match understand(doc, vec![name], &around, problems) {
        Ok(config) => config.warnings,
        Err(problems) => problems,
    };
    let of_machine = |problem: &Problem| OF_MACHINE.contains(&problem.code) || problem.message.contains("circus.env.");
    problems.into_iter().filter(|problem| !of_machine(problem)).collect()
}

/// A problem in one line.
pub(super) fn said(problem: &Problem) -> String {
    let more = std::iter::once(&problem.label).chain(&problem.notes).filter(|more| !more.is_empty());
    let more = more.map(|more| format!("; {}", more.trim_start_matches("help: ").trim_start_matches("note: ")));
    let said = problem.message.clone() + &more.collect::<String>();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, rigour: Rigour) -> String {
        let mut judged = Judged::new(text);
        judged.judge(rigour, &Surroundings::default());
        judged.finish()
    }

    #[test]
    fn what_is_sound_stays_as_it_is() {
        let text = "; a\n[watcher:w]\n# b\ncmd = /bin/sleep\n  1\n\n[env]\nA = b\n";
        assert_eq!(judged(text, Rigour::Doubtful), text);
    }

    #[test]
    fn a_refused_line_is_a_note_with_all_that_continues_it() {
        let text = "[watcher:w]\ncmd = /bin/sleep 1\nnumproceses = 1\n  2\nstop_signal = NO\n";
        let found = judged(text, Rigour::Refused);
        let [_, _, count, more, signal] = found.lines().collect::<Vec<_>>()[..] else { panic!("{found}") };
        assert!(
            count.starts_with("; NOTE numproceses = 1: ") && count.contains("did you mean `numprocesses`?"),
            "{count}"
        );
        assert_eq!(more, "; NOTE … 2");
        assert!(signal.starts_with("; NOTE stop_signal = NO: "), "{signal}");
    }

    #[test]
    fn a_section_that_cannot_be_goes_as_a_whole_and_no_secret_with_it() {
        let found =
            judged("[watcher:w]\ncmd = 'x\napi_token = hunter2\n; why\n[watcher:v]\ncmd = y\n", Rigour::Refused);
        assert!(
            found.contains("; NOTE [watcher:w]: ") && found.contains("; NOTE api_token = ***: as above\n; why\n"),
            "{found}"
        );
        assert!(found.ends_with("[watcher:v]\ncmd = y\n"), "{found}");
    }
}
