//! `hooks.POINT`: texts → hooks.

use super::value::{Wrong, boolean, program, wrong};
use crate::model::spec::{HookProgram, HookSpec};

const WAYS: &str = "a Python function is `package.module.function`; a command has a `/` in its first word, or begins \
                    with `cmd:`, as in `cmd: touch started`";

/// `TARGET[, true|false]`; the flag says whether errors count as success, as Circus has it.
pub(super) fn parse(text: &str) -> Result<HookSpec, Wrong> {
    let flagged = text.rsplit_once(',').and_then(|(target, flag)| Some((target, boolean(flag.trim()).ok()?)));
    let (target, ignore_failure) = flagged.unwrap_or((text, false));
    let target = target.trim();
    let command = |line: &str| program(line).map_err(|wrong| wrong.help(WAYS));
    let program = match target.strip_prefix("cmd:") {
        Some(line) => HookProgram::Command(command(line)?),
        None if is_dotted(target) => HookProgram::Python(target.to_owned()),
        None => match command(target)? {
            words if words[0].contains('/') => HookProgram::Command(words),
            _ => {
                return Err(wrong("is neither a Python function nor a command")
                    .label("no dotted name, and no path to a program")
                    .help(WAYS));
            }
        },
    };
    Ok(HookSpec { program, ignore_failure })
}

/// Whether a text is a name within a Python module: `a.b.c` or `a.b:c`.
pub(super) fn is_dotted(target: &str) -> bool {
    let word = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
    };
    let (module, function) = target.split_once(':').or_else(|| target.rsplit_once('.')).unwrap_or(("", target));
    module.split('.').chain(function.split('.')).all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_word_is_python_and_a_path_is_a_command() {
        let command = |words: &[&str]| HookProgram::Command(words.iter().map(|word| (*word).to_owned()).collect());
        let table = [
            ("a.b.c", HookProgram::Python("a.b.c".into()), false),
            ("a.b:c, True", HookProgram::Python("a.b:c".into()), true),
            ("m:f,no", HookProgram::Python("m:f".into()), false),
            ("/bin/x a,b", command(&["/bin/x", "a,b"]), false),
            ("./x 'a b',true", command(&["./x", "a b"]), true),
            ("cmd:touch x", command(&["touch", "x"]), false),
            ("cmd: a.b", command(&["a.b"]), false),
        ];
        for (text, program, ignore_failure) in table {
            assert_eq!(parse(text), Ok(HookSpec { program, ignore_failure }), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_and_both_ways_are_told() {
        for text in ["hook", "touch x", "a.b c", "a.b.c, maybe", "1.2", "a..b", ".a", ",true", "cmd:", "cmd: ,true"] {
            let wrong = parse(text).expect_err(text);
            assert!(wrong.help.is_some_and(|help| help.contains("package.module") && help.contains("cmd:")), "{text}");
        }
        assert!(parse("/bin/x \"a").is_err());
    }
}
