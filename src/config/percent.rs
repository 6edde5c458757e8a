//! `%` in the values of Python's programs: BeatCop's ini, supervisord's.

/// A value with what its references stand for. `%%` is a `%`; what follows any other is given to `stands`, which says what
/// is to stand there, and where the text goes on.
///
/// # Errors
/// Those of `stands`.
pub(super) fn filled<'a, E>(
    text: &'a str,
    mut stands: impl FnMut(&'a str) -> Result<(String, &'a str), E>,
) -> Result<String, E> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, reference)) = rest.split_once('%') {
        out.push_str(before);
        rest = match reference.strip_prefix('%') {
            Some(after) => {
                out.push('%');
                after
            }
            None => {
                let (value, after) = stands(reference)?;
                out.push_str(&value);
                after
            }
        };
    }
    Ok(out + rest)
}

/// The name in what follows a `%`, where that is `(NAME)s`, and what comes after it.
pub(super) fn text_key(reference: &str) -> Option<(&str, &str)> {
    reference.strip_prefix('(')?.split_once(")s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_filled_in_and_a_doubled_sign_is_one() {
        let stands = |reference| match text_key(reference) {
            Some((name, after)) => Ok((format!("<{name}>"), after)),
            None => Err(reference.to_owned()),
        };
        for (text, expected) in [
            ("plain", Ok("plain")),
            ("100%%", Ok("100%")),
            ("%(a)s%%%(b c)s", Ok("<a>%<b c>")),
            ("%%(a)s", Ok("%(a)s")),
            ("50%", Err("")),
            ("%(a)d", Err("(a)d")),
            ("%(a", Err("(a")),
        ] {
            assert_eq!(filled(text, stands), expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }
}
