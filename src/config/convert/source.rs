//! The ini files of Python's programs, with their comments: supervisord's and BeatCop's.
//!
//! They are not in our dialect: keys have no case, of two equal ones the last counts, a line continues another only
//! where it is indented deeper, and inline comments begin with `#` too.

/// A file.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) sections: Vec<Section>,
    /// The comments at its end.
    pub(super) end: Vec<String>,
}

/// A section; what stands in several of its name is together.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) head: String,
    /// The comments above it.
    pub(super) above: Vec<String>,
    pub(super) entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    /// Lower case.
    pub(super) key: String,
    pub(super) value: String,
    /// The comments above and behind it.
    pub(super) above: Vec<String>,
    /// Whether another of this name follows, which counts.
    pub(super) overridden: bool,
}

impl Source {
    /// Reads a text in which these characters begin a comment after a blank.
    ///
    /// # Errors
    /// A line that keeps its own program from reading the file, with its number.
    pub(super) fn read(text: &str, inline: &[char]) -> Result<Source, String> {
        let mut source = Source::default();
        let mut comments = Vec::new();
        let mut section: Option<usize> = None;
        // How far the latest key is indented, while its value may go on.
        let mut open: Option<usize> = None;
        for (number, line) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
            let bare = line.trim();
            if bare.is_empty() {
                // An empty line between comments keeps them apart; one after a key is ours to write.
                if !comments.is_empty() {
                    comments.push(String::new());
                }
                continue;
            }
            if bare.starts_with(['#', ';']) {
                if !is_commented_out(bare) {
                    comments.push(bare.to_owned());
                }
                continue;
            }
            let (bare, comment) = without_comment(bare, inline);
            let indent = line.len() - line.trim_start().len();
            let entries = section.and_then(|at| source.sections.get_mut(at)).map(|section| &mut section.entries);
            if let (Some(entry), true) =
                (entries.and_then(|entries| entries.last_mut()), open.is_some_and(|at| indent > at))
            {
                entry.value = format!("{}\n{bare}", entry.value).trim().to_owned();
                continue;
            }
            if let Some(head) = bare.strip_prefix('[').and_then(|rest| Some(rest.split_once(']')?.0)) {
                section = Some(source.section(head, std::mem::take(&mut comments)));
                open = None;
                continue;
            }
            let Some((key, value)) = bare.find(['=', ':']).map(|at| (bare[..at].trim(), bare[at + 1..].trim())) else {
                return Err(format!(
                    "line {number} is neither a section nor `key = value`, and keeps the file from being read"
                ));
            };
            let Some(section) = section.and_then(|at| source.sections.get_mut(at)) else {
                return Err(format!(
                    "line {number} stands before the first section, and keeps the file from being read"
                ));
            };
            let key = key.to_lowercase();
            section.entries.iter_mut().filter(|entry| entry.key == key).for_each(|entry| entry.overridden = true);
            comments.extend(comment.map(|comment| format!("; {comment}")));
            let above = trimmed(std::mem::take(&mut comments));
            section.entries.push(Entry { key, value: value.to_owned(), above, overridden: false });
            open = Some(indent);
        }
        source.end = trimmed(comments);
        Ok(source)
    }

    /// Adds what stands in a file that this one includes; `whence` is said above each of its sections.
    pub(super) fn absorb(&mut self, other: Source, whence: &str) {
        for Section { head, above, entries } in other.sections {
            let at = self.section(&head, std::iter::once(format!("; from {whence}")).chain(above).collect());
            let own = &mut self.sections[at].entries;
            for entry in entries {
                own.iter_mut().filter(|own| own.key == entry.key).for_each(|own| own.overridden = true);
                own.push(entry);
            }
        }
        self.end.extend(other.end);
    }

    /// Where the section of this name is.
    fn section(&mut self, head: &str, above: Vec<String>) -> usize {
        let above = trimmed(above);
        match self.sections.iter_mut().position(|section| section.head == head) {
            Some(at) => at,
            None => {
                self.sections.push(Section { head: head.to_owned(), above, entries: Vec::new() });
                self.sections.len() - 1
            }
        }
    }

    /// The section of this name.
    pub(super) fn get(&self, head: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.head == head)
    }
}

impl Section {
    /// What a key says in the end.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().rfind(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Comments without empty lines at their ends.
fn trimmed(mut comments: Vec<String>) -> Vec<String> {
    while comments.last().is_some_and(String::is_empty) {
        comments.pop();
    }
    comments
}

/// Whether a comment is a line of the old dialect that was taken out: it would be wrong in ours.
fn is_commented_out(comment: &str) -> bool {
    let text = comment.trim_start_matches(['#', ';']).trim_start();
    let key = text.split(['=', ':']).next().unwrap_or_default().trim_end();
    let setting = key.len() < text.len() && text[key.len()..].trim_start().starts_with('=');
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
    text.starts_with('[') || (setting && !key.is_empty() && key.chars().all(word))
}

/// A line up to its inline comment, and that.
fn without_comment<'a>(line: &'a str, inline: &[char]) -> (&'a str, Option<&'a str>) {
    let begins = |(at, _): &(usize, &str)| line[..*at].ends_with(char::is_whitespace);
    match line.match_indices(inline).find(begins) {
        Some((at, _)) => (line[..at].trim_end(), Some(line[at + 1..].trim()).filter(|comment| !comment.is_empty())),
        None => (line, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_python_reads_them() {
        let text = "; a\n[s] ; why\n; b\nKey = x;y ; c\nlist =\n  one\n  two # d\n\nkey: z\n[t]\n[s]\nmore = 1\n";
        let source = Source::read(text, &[';', '#']).expect("a file");
        let [s, _] = &source.sections[..] else { panic!("{source:?}") };
        assert_eq!(
            (s.above.as_slice(), s.get("key"), s.get("list")),
            (&["; a".to_owned()][..], Some("z"), Some("one\ntwo"))
        );
        assert_eq!((s.entries[0].value.as_str(), s.entries[0].overridden), ("x;y", true));
        assert_eq!(s.entries[0].above, ["; b", "; c"]);
        assert_eq!(s.get("more"), Some("1"));
    }

    #[test]
    fn lines_that_are_commented_out_are_left_out() {
        let table =
            [(";command = x", true), ("# [program:x]", true), ("; key: a word", false), ("; Note that x = y", false)];
        for (line, out) in table {
            assert_eq!(is_commented_out(line), out, "{line}");
        }
    }
}
