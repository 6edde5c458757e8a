//! Names that are meant by a pattern: Circus's `match`.
//!
//! Shell patterns are `*`, `?`, `[abc]`, `[a-z]` and `[!a]`, as Python's `fnmatch` has them. There is no escape but a
//! class of one, `[*]`, and a `[` that never closes is just a character. Regular expressions are the one thing in the
//! model that is not std's: the crate is as pure as the model itself.

use std::fmt;

use super::names::is_called;

/// Which watchers are meant. Case never counts.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// Those that fit a shell pattern.
    Glob(String),
    /// The one of this name.
    Name(String),
    /// Those whose name begins with a match, as with Python's `re.match`.
    Regex(regex::Regex),
}

impl Pattern {
    /// A regular expression, or what is wrong with it.
    pub fn regex(text: &str) -> Result<Pattern, String> {
        regex::Regex::new(&format!("^(?i:{text})")).map(Pattern::Regex).map_err(|error| error.to_string())
    }

    /// Whether `name` is meant.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Pattern::Glob(glob) => fits(&glob.to_lowercase(), &name.to_lowercase()),
            Pattern::Name(only) => is_called(name, only),
            Pattern::Regex(regex) => regex.is_match(name),
        }
    }

    /// What the user wrote.
    pub fn text(&self) -> &str {
        match self {
            Pattern::Glob(text) | Pattern::Name(text) => text,
            Pattern::Regex(regex) => {
                let text = regex.as_str();
                text.strip_prefix("^(?i:").and_then(|text| text.strip_suffix(')')).unwrap_or(text)
            }
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.text() == other.text()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Whether `name` fits `pattern`; case counts.
pub fn fits(pattern: &str, name: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_meant_by_glob_name_or_regular_expression_in_any_case() {
        let regex = |text| Pattern::regex(text).unwrap();
        for (pattern, fit) in [
            (Pattern::Glob("WEB*".into()), true),
            (Pattern::Name("web*".into()), false),
            (Pattern::Name("Web-1".into()), true),
            (regex("w.b-\\d"), true),
            (regex("eb"), false),
        ] {
            assert_eq!(pattern.fits("web-1"), fit, "{pattern}");
        }
        assert!(Pattern::regex("(").is_err());
        assert_eq!(regex("a|b").text(), "a|b");
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
