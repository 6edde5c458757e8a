//! Command lines into words, and names against patterns, both as Python does it.

use std::path::{Path, PathBuf};

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

/// Whether `name` fits a shell pattern of `*`, `?`, `[abc]`, `[a-z]` and `[!a]`; case counts.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to take up again when what follows the last `*` does not fit.
    let mut again = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                again = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => match class(&pattern, p, name[n]) {
                Some((end, inside)) => inside.then_some(end),
                None => (name[n] == '[').then_some(p + 1),
            },
            Some(&c) => (c == name[n]).then_some(p + 1),
            None => None,
        };
        match (step, again) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((after_star, from))) => {
                again = Some((after_star, from + 1));
                (p, n) = (after_star, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Reads the class that opens at `open`: where the pattern goes on, and whether `c` is in the class.
/// Nothing when it never closes; the bracket then stands for itself.
fn class(pattern: &[char], open: usize, c: char) -> Option<(usize, bool)> {
    let negated = pattern.get(open + 1) == Some(&'!');
    let first = open + 1 + usize::from(negated);
    // A `]` right after the opening is a member.
    let close = (first + 1..pattern.len()).find(|&at| pattern[at] == ']')?;
    let (mut at, mut inside) = (first, false);
    while at < close {
        if at + 2 < close && pattern[at + 1] == '-' {
            inside |= (pattern[at]..=pattern[at + 2]).contains(&c);
            at += 3;
        } else {
            inside |= pattern[at] == c;
            at += 1;
        }
    }
    Some((close + 1, inside != negated))
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

fn entries(base: &Path, pattern: &str) -> Vec<PathBuf> {
    let listed = if base.as_os_str().is_empty() { Path::new(".") } else { base };
    let Ok(entries) = std::fs::read_dir(listed) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| (!name.starts_with('.') || pattern.starts_with('.')) && fits(pattern, name))
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

    #[test]
    fn patterns_fit_as_pythons_fnmatch_does() {
        let table = [
            ("web*", "web-1", true),
            ("*", "", true),
            ("w?b", "wb", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[x", "[x", true),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
            ("Web", "web", false),
        ];
        for (pattern, name, fit) in table {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }
}
