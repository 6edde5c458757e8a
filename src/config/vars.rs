//! `$(circus.NAME)` and `((circus.NAME))`: where they stand, and what takes their place.

use std::collections::BTreeMap;
use std::ops::Range;

/// One variable in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// The bytes it takes, brackets included.
    pub(super) range: Range<usize>,
    /// What stands after `circus.`, lower case: `wid`, `env.home`. Case never counts, as in Circus.
    pub(super) name: String,
}

/// The variables in `text`, from left to right.
pub(super) fn references(text: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find('(').map(|at| from + at) {
        match reference(text, open) {
            Some(reference) => {
                from = reference.range.end;
                found.push(reference);
            }
            None => from = open + 1,
        }
    }
    found
}

/// The variable whose name would begin right after the `(` at `open`.
fn reference(text: &str, open: usize) -> Option<Reference> {
    const PREFIX: &str = "circus.";
    let name_at = open + 1 + PREFIX.len();
    text.get(open + 1..name_at).filter(|prefix| prefix.eq_ignore_ascii_case(PREFIX))?;
    let rest = &text[name_at..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))).unwrap_or(rest.len());
    let name = rest[..end].to_lowercase();
    let after = &rest[end..];
    let close = name_at + end;
    let range = match text[..open].chars().next_back() {
        _ if name.is_empty() => return None,
        Some('$') if after.starts_with(')') => open - 1..close + 1,
        Some('(') if after.starts_with("))") => open - 1..close + 2,
        _ => return None,
    };
    Some(Reference { range, name })
}

/// `text` with each variable replaced by what `value` has for its name; others stay as they are.
pub(super) fn substitute(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for Reference { range, name } in references(text) {
        out.push_str(&text[done..range.start]);
        match value(&name) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&text[range.clone()]),
        }
        done = range.end;
    }
    out.push_str(&text[done..]);
    out
}

/// The variables of `$(circus.env.…)`: names lower case, because case never counts there.
#[derive(Debug, Clone, Default)]
pub(super) struct EnvVars(BTreeMap<String, String>);

impl EnvVars {
    /// Adds variables over those already there.
    pub(super) fn add<'a>(&mut self, env: impl IntoIterator<Item = (&'a String, &'a String)>) {
        self.0.extend(env.into_iter().map(|(name, value)| (name.to_lowercase(), value.clone())));
    }

    /// The value for a variable's name, `env.NAME`.
    pub(super) fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name.strip_prefix("env.")?)
    }

    /// `text` with its `$(circus.env.…)` replaced.
    pub(super) fn substitute(&self, text: &str) -> String {
        substitute(text, |name| self.get(name).cloned())
    }

    /// All names, lower case.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The `$NAME` in a value of an `[env]` section: capitals, digits and `_` only, as Circus has it.
pub(super) fn dollars(text: &str) -> Vec<(Range<usize>, &str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('$') {
        let rest = &text[at + 1..];
        let end =
            rest.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_ascii_uppercase()) {
            found.push((at..at + 1 + end, &rest[..end]));
        }
    }
    found
}

/// An `[env]` value with its `$NAME` taken from the agent's environment, missing ones empty, and trimmed.
pub(super) fn expand_dollars(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut done = 0;
    for (range, name) in dollars(text) {
        out.push_str(&text[done..range.start]);
        out.push_str(env.get(name).map_or("", String::as_str));
        done = range.end;
    }
    out.push_str(&text[done..]);
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<(&str, String)> {
        references(text).into_iter().map(|r| (&text[r.range.clone()], r.name)).collect()
    }

    #[test]
    fn both_spellings_are_found_in_any_case() {
        let text = "a $(circus.wid) ((CIRCUS.Env.X-1)) b";
        assert_eq!(names(text), [("$(circus.wid)", "wid".into()), ("((CIRCUS.Env.X-1))", "env.x-1".into())]);
    }

    #[test]
    fn what_only_resembles_a_variable_is_none() {
        for text in
            ["(circus.wid)", "$(circus.wid", "$(circus.)", "${circus.wid}", "((circus.wid)", "$((circus.x)", "("]
        {
            assert_eq!(names(text), [], "{text}");
        }
        assert_eq!(names("$((circus.x))"), [("((circus.x))", "x".into())]);
        assert_eq!(names("é(circus.é)((circus.é))"), [("((circus.é))", "é".into())]);
    }

    #[test]
    fn unknown_variables_stay() {
        assert_eq!(substitute("$(circus.a)-$(circus.b)", |n| (n == "a").then(|| "1".into())), "1-$(circus.b)");
    }

    #[test]
    fn only_capitals_are_taken_from_the_environment() {
        let env = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
        assert_eq!(expand_dollars(" $GLOBAL and $HOME, $home ${HOME} $_X $", &env), "and /root, $home ${HOME} $_X $");
    }
}
