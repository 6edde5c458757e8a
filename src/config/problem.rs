//! What is wrong with a configuration, said so that one edit mends it.
//!
//! A [`Problem`] carries its file, line, column and the line itself, with secrets already blotted out:
//! problems go to logs and to the screens of other people.

use std::fmt;
use std::path::{Path, PathBuf};

/// Whether a problem keeps the agent from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// It starts, but perhaps not as meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// The kinds of problem. A code never changes its meaning, so that it can be searched for.
pub mod code {
    /// A file cannot be read, or is no text.
    pub const FILE: &str = "C0001";
    /// A line is neither a section, nor a key with a value, nor a comment.
    pub const LINE: &str = "C0002";
    /// A section's head is broken.
    pub const HEAD: &str = "C0003";
    /// An indented line continues the value above, and looks as if it should not.
    pub const CONTINUATION: &str = "C0004";
    /// An include leads nowhere.
    pub const INCLUDE: &str = "C0005";
    /// A section of no known type.
    pub const UNKNOWN_SECTION: &str = "C0101";
    /// A key that its section does not know.
    pub const UNKNOWN_KEY: &str = "C0102";
    /// A key or section that this version does not carry out.
    pub const NOT_YET: &str = "C0103";
    /// A section or key that stands twice.
    pub const TWICE: &str = "C0104";
    /// A key that does nothing.
    pub const NO_EFFECT: &str = "C0105";
    /// A watcher's key that nobody but its own scripts may know.
    pub const FREE_FORM: &str = "C0106";
    /// A value of the wrong type, or out of range.
    pub const VALUE: &str = "C0110";
    /// A key that must be there is not.
    pub const MISSING: &str = "C0111";
    /// Two settings that contradict each other.
    pub const CONFLICT: &str = "C0112";
    /// A value that means something else than in Circus.
    pub const MEANING: &str = "C0113";
    /// A variable that has no value.
    pub const VARIABLE: &str = "C0120";
    /// A command line whose quotes do not close.
    pub const QUOTES: &str = "C0121";
    /// A program that is not where it would be looked for.
    pub const PROGRAM: &str = "C0201";
    /// A directory that is not there.
    pub const DIRECTORY: &str = "C0202";
    /// A user or group that the system does not know.
    pub const USER: &str = "C0203";
    /// A file that is to let the agent into Redis cannot be read, or everybody can read its secret.
    pub const LOGIN: &str = "C0204";
    /// Lease timings that cannot keep the promise.
    pub const LEASE: &str = "C0301";
    /// Two watchers that write to one file.
    pub const SHARED_LOG: &str = "C0302";
    /// Watchers that start after one that is not there, or after each other.
    pub const ORDER: &str = "C0303";
    /// A socket that a watcher cannot have, or that would be of no use to it.
    pub const SOCKET: &str = "C0304";
    /// Two sockets at one address.
    pub const ADDRESS: &str = "C0305";
    /// A stop at which a server drops what it is at.
    pub const STOP: &str = "C0306";
    /// A legion that is not there, or an action that it cannot do.
    pub const LEGION: &str = "C0307";
    /// A door that other machines could come to.
    pub const PUBLIC: &str = "C0308";
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether the agent can start nevertheless.
    pub severity: Severity,
    /// What kind of problem it is, one of [`code`].
    pub code: &'static str,
    /// Where it is; `environment` for a variable of the agent's environment.
    pub file: PathBuf,
    /// The line, counted from 1; 0: the whole file, or the environment.
    pub line: usize,
    /// The column, counted from 1 in characters of `text`; 0: the whole file.
    pub column: usize,
    /// How many characters are meant.
    pub width: usize,
    /// The line itself, without its secrets and control characters.
    pub text: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What stands below the line, beside the mark; may be empty.
    pub label: String,
    /// Further lines, each beginning with `note: ` or `help: `.
    pub notes: Vec<String>,
}

impl Problem {
    /// Says what is wrong with the marked characters.
    pub(super) fn label(&mut self, label: impl Into<String>) -> &mut Problem {
        self.label = label.into();
        self
    }

    /// Adds the background.
    pub(super) fn note(&mut self, note: impl fmt::Display) -> &mut Problem {
        self.notes.push(format!("note: {note}"));
        self
    }

    /// Adds the way out.
    pub(super) fn help(&mut self, help: impl fmt::Display) -> &mut Problem {
        self.notes.push(format!("help: {help}"));
        self
    }

    /// One line, as editors jump to: `FILE:LINE:COLUMN: error[C0102]: …`.
    pub fn short(&self) -> String {
        let Problem { severity, code, message, .. } = self;
        let place = self.place();
        match self.label.as_str() {
            "" => format!("{place}: {severity}[{code}]: {message}"),
            label => format!("{place}: {severity}[{code}]: {message}: {label}"),
        }
    }

    fn place(&self) -> String {
        match self.line {
            0 => self.file.display().to_string(),
            line => format!("{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// The problem with its line marked, over several lines and without a line end after the last.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = if self.line == 0 { String::new() } else { self.line.to_string() };
        let margin = " ".repeat(number.len().max(2));
        write!(f, "{}[{}]: {}", self.severity, self.code, self.message)?;
        write!(f, "\n{margin}┌─ {}", self.place())?;
        if self.column > 0 {
            let before = " ".repeat(self.column - 1);
            let mark = match self.severity {
                Severity::Error => "^",
                Severity::Warning => "-",
            };
            let marks = mark.repeat(self.width.max(1));
            let marked = format!("{before}{marks} {}", self.label);
            let numbered = format!("{number:>width$}", width = margin.len());
            write!(f, "\n{margin}│\n{numbered}│ {}\n{margin}│ {}", self.text, marked.trim_end())?;
        }
        if !self.notes.is_empty() {
            write!(f, "\n{margin}│")?;
        }
        for note in &self.notes {
            write!(f, "\n{margin}= {}", note.replace('\n', &format!("\n{margin}        ")))?;
        }
        Ok(())
    }
}

/// All problems, a blank line after each, and a last line that counts them:
/// `3 errors, 1 warning in FILE; nothing was started`. What comes of errors, `outcome`, is told where there are some.
/// Empty when there are no problems at all.
pub fn render(problems: &[Problem], file: &Path, outcome: &str) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let count = |severity, word: &str| match problems.iter().filter(|p| p.severity == severity).count() {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let errors = count(Severity::Error, "error");
    let end = if errors.is_some() { format!("; {outcome}") } else { String::new() };
    let counts: Vec<String> = errors.into_iter().chain(count(Severity::Warning, "warning")).collect();
    let mut text: String = problems.iter().map(|problem| format!("{problem}\n\n")).collect();
    text.push_str(&format!("{} in {}{end}\n", counts.join(", "), file.display()));
    text
}

/// Where something stands: what a [`Problem`] needs to show it.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) width: usize,
    pub(super) text: String,
}

impl Spot {
    /// A whole file.
    pub(super) fn file(file: &Path) -> Spot {
        Spot { file: file.to_owned(), line: 0, column: 0, width: 0, text: String::new() }
    }

    /// `FILE:LINE`, for notes that point elsewhere.
    pub(super) fn short(&self) -> String {
        match self.line {
            0 => self.file.display().to_string(),
            line => format!("{}:{line}", self.file.display()),
        }
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// Adds an error; its label and notes may follow.
    pub(super) fn error(&mut self, code: &'static str, spot: Spot, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, code, spot, message.into())
    }

    /// Adds a warning; its label and notes may follow.
    pub(super) fn warn(&mut self, code: &'static str, spot: Spot, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, code, spot, message.into())
    }

    fn add(&mut self, severity: Severity, code: &'static str, spot: Spot, message: String) -> &mut Problem {
        let Spot { file, line, column, width, text } = spot;
        let (label, notes) = (String::new(), Vec::new());
        let at = self.0.len();
        self.0.push(Problem { severity, code, file, line, column, width, text, message, label, notes });
        &mut self.0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(severity: Severity) -> Problem {
        Problem {
            severity,
            code: code::UNKNOWN_KEY,
            file: "/etc/circus.ini".into(),
            line: 11,
            column: 3,
            width: 4,
            text: "a lock = 1".into(),
            message: "unknown key `lock`".into(),
            label: "did you mean `clock`?".into(),
            notes: vec!["note: one\ntwo".into()],
        }
    }

    #[test]
    fn a_problem_shows_its_line_and_marks_the_place() {
        let shown = problem(Severity::Error).to_string();
        let expected = "error[C0102]: unknown key `lock`\n  ┌─ /etc/circus.ini:11:3\n  │\n11│ a lock = 1\n  │   ^^^^ \
                        did you mean `clock`?\n  │\n  = note: one\n          two";
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_last_line_counts_and_claims_a_refusal_only_where_there_was_one() {
        let both = [problem(Severity::Error), problem(Severity::Error), problem(Severity::Warning)];
        assert!(
            render(&both, Path::new("x"), "nothing was started")
                .ends_with("\n2 errors, 1 warning in x; nothing was started\n")
        );
        assert!(render(&both[2..], Path::new("x"), "nothing was started").ends_with("\n1 warning in x\n"));
        assert_eq!(render(&[], Path::new("x"), ""), "");
    }
}
