//! The file that a conversion writes: sections, keys, and what is said of those that have no equal.
//!
//! Invariant: what is written reads back as what it was. What our dialect would cut short or change becomes a note.

use std::fmt::Display;

use crate::config::{scan, vars};

/// How a line begins that tells of what has no equal, or another meaning.
pub(super) const NOTE: &str = "; NOTE ";

/// A file in our dialect that is being written.
#[derive(Debug, Default)]
pub(super) struct Page {
    blocks: Vec<Block>,
    at: usize,
    /// Whether comments and notes are left out: of what is written several times, they are said once.
    muted: bool,
}

/// A section, or comments that belong to none.
#[derive(Debug, Default)]
struct Block {
    /// The comments above its head.
    above: Vec<String>,
    head: Option<String>,
    lines: Vec<String>,
}

impl Page {
    /// Begins with these comments.
    pub(super) fn new(lines: &[String]) -> Page {
        let lines = lines.iter().map(|line| format!("; {line}")).collect();
        Page { blocks: vec![Block { lines, ..Block::default() }], ..Page::default() }
    }

    // ---- where ----

    /// Goes on in this section, which begins here with these comments above it, unless there is one.
    pub(super) fn section(&mut self, head: &str, above: &[String]) {
        match self.blocks.iter().position(|block| block.head.as_deref() == Some(head)) {
            Some(at) => {
                self.at = at;
                self.comments(above);
            }
            None => self.block(Some(head), above),
        }
    }

    /// Goes on with comments that belong to no section, after all that there is.
    pub(super) fn apart(&mut self, above: &[String]) {
        self.block(None, above);
    }

    fn block(&mut self, head: Option<&str>, above: &[String]) {
        let above = if self.muted { Vec::new() } else { above.to_vec() };
        self.blocks.push(Block { above, head: head.map(str::to_owned), lines: Vec::new() });
        self.at = self.blocks.len() - 1;
    }

    /// Leaves comments and notes out from here on, or does so no longer.
    pub(super) fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    fn line(&mut self, line: String) {
        if let Some(block) = self.blocks.get_mut(self.at) {
            block.lines.push(line);
        }
    }

    /// A whole text, apart from all else.
    pub(super) fn text(&mut self, text: &str) {
        self.apart(&[]);
        text.trim_matches('\n').lines().for_each(|line| self.line(line.to_owned()));
    }

    /// Whether nothing stands in this section yet.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.get(self.at).is_none_or(|block| block.lines.is_empty())
    }

    // ---- keys ----

    /// A key with a value of ours.
    pub(super) fn set(&mut self, key: &str, value: impl Display) {
        self.line(format!("{key} = {value}"));
    }

    /// The same, and why.
    pub(super) fn set_because(&mut self, key: &str, value: impl Display, why: impl Display) {
        self.line(format!("{:<32} ; {why}", format!("{key} = {value}")));
    }

    /// A key with a value of the original's.
    pub(super) fn say(&mut self, key: &str, value: &str) {
        match writable(value) {
            Ok(()) => self.set(key, value.replace('\n', "\n  ")),
            Err(why) => self.note(key, value, why),
        }
    }

    /// A command line, in which a `;` after a blank is to begin no comment.
    pub(super) fn command(&mut self, key: &str, line: &str, read_by: Reader) {
        self.say(key, &sheltered(line, read_by));
    }

    /// A variable in an `[env…]` section, where values are trimmed and `$NAME` is replaced.
    pub(super) fn variable(&mut self, name: &str, value: &str) {
        match vars::dollars(value).is_empty() {
            true => self.variable_of_agent(name, value),
            false => self.no_variable(name),
        }
    }

    /// The same, with `$NAME` for variables of the agent's environment.
    pub(super) fn variable_of_agent(&mut self, name: &str, value: &str) {
        let odd = name.is_empty() || name.contains(['=', ':']) || name.starts_with(['[', ';', '#']);
        match writable(value) {
            Ok(()) if !odd && value.trim() == value && !value.contains('\n') => {
                self.set(name, if value.is_empty() { "\"\"" } else { value });
            }
            _ => self.no_variable(name),
        }
    }

    fn no_variable(&mut self, name: &str) {
        let why = "an [env] section cannot hold this value as it is; let cmd begin with `env 'NAME=VALUE'`";
        self.note(name, "***", why);
    }

    // ---- comments ----

    /// A key that has no equal, or not the same meaning, and what there is instead. No secret is repeated.
    pub(super) fn note(&mut self, key: &str, value: &str, why: impl Display) {
        self.tell(format_args!("{}: {why}", shown(key, value)));
    }

    /// A note on what is no key.
    pub(super) fn tell(&mut self, text: impl Display) {
        if !self.muted {
            self.line(format!("{NOTE}{text}"));
        }
    }

    /// A key that needs no equal.
    pub(super) fn remark(&mut self, key: &str, value: &str, why: impl Display) {
        self.comments(&[format!("; {}: {why}", shown(key, value))]);
    }

    /// Lines of comments as they are.
    pub(super) fn comments(&mut self, comments: &[String]) {
        if !self.muted {
            comments.iter().for_each(|comment| self.line(comment.clone()));
        }
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        let mut text = String::new();
        for Block { above, head, lines } in self.blocks {
            if head.is_none() && above.is_empty() && lines.is_empty() {
                continue;
            }
            if !text.is_empty() {
                text.push('\n');
            }
            let head = head.map(|head| format!("[{head}]"));
            for line in above.into_iter().chain(head).chain(lines) {
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

/// `KEY = VALUE` on one line, for a comment.
pub(super) fn shown(key: &str, value: &str) -> String {
    let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    match value.as_str() {
        "" => key.to_owned(),
        _ if scan::is_secret("", key) || key == "environment" => format!("{key} = ***"),
        value => format!("{key} = {value}"),
    }
}

/// Whether a value can stand after `KEY = ` and reads back as it is.
pub(super) fn writable(value: &str) -> Result<(), &'static str> {
    let first = value.lines().next().unwrap_or_default();
    let cut = first.find(';').is_some_and(|at| at == 0 || first[..at].ends_with(char::is_whitespace));
    let blank = |line: &str| line.trim().is_empty() || line.trim() != line;
    if cut {
        Err("after a blank, `;` begins a comment here")
    } else if value == "\"\"" || value.chars().any(|c| c.is_control() && c != '\n') {
        Err("our dialect cannot hold this value")
    } else if value.lines().count() > 1 && value.lines().any(blank) {
        Err("it has an empty line, which would be lost here")
    } else {
        Ok(())
    }
}

/// Who splits a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// /bin/sh.
    Shell,
    /// Our words, which are those of Python's shlex.
    Words,
}

/// The same command line, written so that its first `;` does not follow a blank: only that one begins a comment.
fn sheltered(line: &str, read_by: Reader) -> String {
    let Some(at) = line.find(';').filter(|at| *at > 0 && line[..*at].ends_with(char::is_whitespace)) else {
        return line.to_owned();
    };
    let (before, after) = line.split_at(at);
    match open_quote(before) {
        // A quote that ends and begins again is no gap in the word.
        Some(quote) => format!("{before}{quote}{quote}{after}"),
        None if read_by == Reader::Shell && !before.trim_end().ends_with('\\') => {
            format!("{}{after}", before.trim_end())
        }
        None => format!("{before}''{after}"),
    }
}

/// The quote that is open at the end of a beginning of a command line.
fn open_quote(text: &str) -> Option<char> {
    let mut open = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, open) {
            ('\\', None | Some('"')) => drop(chars.next()),
            ('\'' | '"', None) => open = Some(c),
            (c, Some(quote)) if c == quote => open = None,
            _ => {}
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::words;

    #[test]
    fn a_semicolon_of_a_command_begins_no_comment_and_changes_no_word() {
        for line in ["sh -c 'a ; b'", "sh -c \"a ; b ; c\"", "a ; b", "a\\ ;b", "echo ';' ;x", "find . -exec rm {} \\;"]
        {
            let written = sheltered(line, Reader::Words);
            assert_eq!(words::split(&written), words::split(line), "{written}");
            assert_eq!(writable(&written), Ok(()), "{written}");
        }
        let shell = |line| sheltered(line, Reader::Shell);
        assert_eq!(shell("cd /srv ; ./run"), "cd /srv; ./run");
        assert_eq!(shell("echo 'a ; b'"), "echo 'a ''; b'");
    }

    #[test]
    fn what_would_be_cut_or_changed_is_a_note() {
        let mut page = Page::new(&[]);
        page.say("working_dir", "/srv ; no");
        page.variable("A", "$HOME/x");
        page.variable("B", " x");
        page.variable("C", "");
        page.note("password", "hunter2", "there is none");
        let text = page.finish();
        assert_eq!(text.matches(NOTE).count(), 4, "{text}");
        assert!(text.contains("\nC = \"\"\n"), "{text}");
        assert!(!text.contains("HOME") && !text.contains("hunter2"), "{text}");
    }
}
