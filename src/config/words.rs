//! Command lines into words, and paths with patterns into files, both as Python does it.

use std::path::{Path, PathBuf};

use crate::model::pattern;

/// A quote, or a backslash at the very end, that nothing closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclosed {
    /// The byte at which it stands.
    pub(super) at: usize,
    /// The character itself.
    pub(super) quote: char,
}

/// Splits a command line as Python's `shlex.split` does, which is what Circus's files were written for.
///
/// It differs from a POSIX shell, and from the crates that imitate one, in that `#` begins no comment and
/// that a backslash between double quotes escapes only `"` and itself.
pub(super) fn split(line: &str) -> Result<Vec<String>, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => {
                let (_, escaped) = chars.next().ok_or(Unclosed { at, quote: c })?;
                word.get_or_insert_default().push(escaped);
            }
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(Unclosed { at, quote: c })?.1 {
                        end if end == c => break,
                        '\\' if c == '"' => match chars.next().ok_or(Unclosed { at, quote: c })?.1 {
                            escaped @ ('"' | '\\') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        inside => word.push(inside),
                    }
                }
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Whether `text` is a pattern rather than a plain name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The files that a path with patterns in it leads to, sorted; hidden ones only where the pattern says so.
pub(super) fn glob(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in path.components() {
        let part = component.as_os_str();
        let pattern = part.to_str().filter(|text| is_pattern(text));
        found = match pattern {
            None => found.into_iter().map(|base| base.join(part)).collect(),
            Some(pattern) => found.iter().flat_map(|base| entries(base, pattern)).collect(),
        };
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

fn entries(base: &Path, wanted: &str) -> Vec<PathBuf> {
    let listed = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    let Ok(entries) = std::fs::read_dir(listed) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| (!name.starts_with('.') || wanted.starts_with('.')) && pattern::fits(wanted, name))
        .map(|name| base.join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_pythons_shlex_splits_them() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  \n ", &[]),
            ("a b\tc\nd", &["a", "b", "c", "d"]),
            ("-q # x", &["-q", "#", "x"]),
            (r#"sh -c "a; b" '' x"y"'z'"#, &["sh", "-c", "a; b", "", "xyz"]),
            (r#"a\ b \# "\$x \" \\ \n""#, &["a b", "#", "\\$x \" \\ \\n"]),
            (r"'\'", &["\\"]),
        ];
        for (line, words) in table {
            assert_eq!(split(line).unwrap(), *words, "{line}");
        }
    }

    #[test]
    fn an_open_quote_is_found_where_it_opens() {
        assert_eq!(split("sh -c \"a ").unwrap_err(), Unclosed { at: 6, quote: '"' });
        assert_eq!(split("it's").unwrap_err(), Unclosed { at: 2, quote: '\'' });
        assert_eq!(split("a \\").unwrap_err(), Unclosed { at: 2, quote: '\\' });
    }
}
