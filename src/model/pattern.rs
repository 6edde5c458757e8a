//! Shell patterns: `*`, `?`, `[abc]`, `[a-z]` and `[!a]`, as Python's `fnmatch` has them.
//!
//! There is no escape but a class of one, `[*]`, and a `[` that never closes is just a character.

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
