//! A shell's command line, looked at just closely enough to know which process will be the server.
//!
//! A convention that names the process by its pid (`LISTEN_PID`) fits nobody where a shell stays between the agent and
//! the server. A line that is one plain command needs no shell once it is read: `exec` before it takes that out.

use super::vars::{self, Reference};

/// What becomes of the shell that runs a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// One command, which begins at this byte: with `exec ` there, it takes the shell's place.
    Simple(usize),
    /// It holds an `exec`, which does the same.
    Exec,
    /// It stays, and what it starts is its child; or nobody can tell.
    Other,
}

/// Words that are no programs: the shell carries them out itself.
const BUILTINS: &[&str] = &[
    "!", ".", ":", "[", "[[", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "echo",
    "elif", "else", "esac", "eval", "exit", "export", "false", "fc", "fg", "fi", "for", "function", "getopts", "hash",
    "if", "in", "jobs", "kill", "local", "printf", "pwd", "read", "readonly", "return", "select", "set", "shift",
    "source", "test", "then", "time", "times", "trap", "true", "type", "ulimit", "umask", "unalias", "unset", "until",
    "wait", "while", "{", "}",
];

/// What becomes of the shell that runs `line`.
pub(super) fn look(line: &str) -> Line {
    let Some(tokens) = tokens(line) else { return Line::Other };
    // What stands where a command begins: after an operator, and after what only leads up to a command.
    let mut commands = Vec::new();
    let mut begins = true;
    for token in &tokens {
        match token {
            Token::Operator(_) => begins = true,
            Token::Redirection => {}
            Token::Word(at, word) if begins && !is_assignment(word) => {
                begins = matches!(*word, "then" | "do" | "else" | "{");
                commands.push((*at, *word));
            }
            Token::Word(..) => {}
        }
    }
    let operators = || tokens.iter().filter_map(|token| if let Token::Operator(it) = token { Some(*it) } else { None });
    // In a pipe, in the background or in brackets, an `exec` takes the place of another shell than this one.
    let forks = operators().any(|operator| matches!(operator, "|" | "&" | "(" | ")"));
    match commands.as_slice() {
        _ if !forks && commands.iter().any(|(_, word)| *word == "exec") => Line::Exec,
        [(at, word)] if operators().next().is_none() && !word.contains('$') && !BUILTINS.contains(word) => {
            Line::Simple(*at)
        }
        _ => Line::Other,
    }
}

/// The line with an `exec` before its command, which begins at this byte.
pub(super) fn with_exec(line: &str, at: usize) -> String {
    format!("{}exec {}", &line[..at], &line[at..])
}

enum Token<'a> {
    /// Where it begins, and its text as it stands.
    Word(usize, &'a str),
    Operator(&'a str),
    /// With the file that it is about.
    Redirection,
}

/// The parts of a line; nothing where a part cannot be followed: substitutions, here-documents, open quotes.
fn tokens(line: &str) -> Option<Vec<Token<'_>>> {
    let variables = vars::references(line);
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += blanks(&line[at..]);
        let rest = &line[at..];
        let Some(first) = rest.chars().next().filter(|first| *first != '#') else { return Some(tokens) };
        let redirection = ["<>", ">>", ">|", ">&", "<&", "<", ">"].into_iter().find(|it| rest.starts_with(it));
        if let Some(operator) = redirection {
            let target = at + operator.len() + blanks(&rest[operator.len()..]);
            // Nothing: a here-document, a process substitution, the end.
            at = word_end(line, target, &variables).filter(|end| *end > target)?;
            tokens.push(Token::Redirection);
        } else if let Some(operator) =
            ["&&", "||", ";;", ";", "&", "|", "(", ")", "\n"].into_iter().find(|it| rest.starts_with(it))
        {
            at += operator.len();
            tokens.push(Token::Operator(operator));
        } else {
            let end = word_end(line, at, &variables)?;
            // A number right before a redirection is part of that.
            let number = first.is_ascii_digit() && line[at..end].bytes().all(|digit| digit.is_ascii_digit());
            if !(number && line[end..].starts_with(['<', '>'])) {
                tokens.push(Token::Word(at, &line[at..end]));
            }
            at = end;
        }
    }
}

/// How many bytes of blanks a text begins with.
fn blanks(text: &str) -> usize {
    text.len() - text.trim_start_matches([' ', '\t']).len()
}

/// Where the word that begins at this byte ends; nothing where it cannot be followed.
fn word_end(line: &str, start: usize, variables: &[Reference]) -> Option<usize> {
    let mut quoted = false;
    let mut at = start;
    while let Some(c) = line[at..].chars().next() {
        // The agent's own variables only look like substitutions.
        if let Some(variable) = variables.iter().find(|variable| variable.range.start == at) {
            at = variable.range.end;
            continue;
        }
        let after = at + c.len_utf8();
        let rest = &line[after..];
        at = match c {
            ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' if !quoted => return Some(at),
            '`' => return None,
            '$' if rest.starts_with('(') => return None,
            '$' if rest.starts_with('{') => {
                let inside = &rest[..rest.find('}')?];
                if inside.contains(['`', '"', '\'']) || inside.contains("$(") {
                    return None;
                }
                after + inside.len()
            }
            '\\' => after + rest.chars().next()?.len_utf8(),
            '\'' if !quoted => after + rest.find('\'')? + 1,
            '"' => {
                quoted = !quoted;
                after
            }
            _ => after,
        };
    }
    (!quoted).then_some(at)
}

/// Whether a word before a command sets a variable: `A=b`.
fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name).unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn exec_goes_before_the_one_command_of_a_line() {
        let table = [
            ("gunicorn app", "exec gunicorn app"),
            ("  ./run 'a;b' \"c | d\" \\; x # why", "  exec ./run 'a;b' \"c | d\" \\; x # why"),
            ("A=b B='c d' server", "A=b B='c d' exec server"),
            (">log 2>&1 server <in", ">log 2>&1 exec server <in"),
            ("server >>/var/log/x.log 2>& 1", "exec server >>/var/log/x.log 2>& 1"),
            ("server >|log", "exec server >|log"),
            (
                "server --fd $(circus.sockets.web) -n $(circus.wid)",
                "exec server --fd $(circus.sockets.web) -n $(circus.wid)",
            ),
            ("server -p $PORT ${HOST:-localhost}", "exec server -p $PORT ${HOST:-localhost}"),
            ("\"/srv/my app/run\" x=y", "exec \"/srv/my app/run\" x=y"),
        ];
        for (line, expected) in table {
            let Line::Simple(at) = look(line) else { panic!("{line}: {:?}", look(line)) };
            assert_eq!(with_exec(line, at), expected);
        }
    }

    #[test]
    fn a_line_with_an_exec_of_its_own_needs_none() {
        for line in [
            "exec server",
            "A=b exec server",
            "cd /srv && exec server",
            "ulimit -n 9; exec server >log",
            "if x; then exec y; fi",
        ] {
            assert_eq!(look(line), Line::Exec, "{line}");
        }
    }

    #[test]
    fn whatever_else_a_shell_may_do_keeps_it_in_between() {
        for line in [
            "cd /srv && server",
            "server | tee log",
            "exec server | tee log",
            "server &",
            "(exec server)",
            "a; b",
            "cd /srv",
            "$RUN x",
            "server `id`",
            "server $(id)",
            "server <<END",
            "diff <(a) b",
            "! server",
            "'open",
            "\"open",
            "server \\",
            "{ server; }",
            "",
            "A=b",
            ">log",
            "server &>log",
            "server \"$(id)\"",
            "x() { exec y; }",
            "${A:-`id`} x",
        ] {
            assert_eq!(look(line), Line::Other, "{line}");
        }
    }

    #[test]
    fn a_real_shell_gives_its_place_and_its_environment_to_the_command() {
        for line in ["sh -c 'echo $$ $A'", "A=b sh -c 'echo $$ $A'", "2>&1 A=b sh -c 'echo $$ $A'"] {
            let Line::Simple(at) = look(line) else { panic!("{line}") };
            let script = format!("echo $$; {}", with_exec(line, at));
            let output = Command::new("/bin/sh").args(["-c", &script]).env_remove("A").output().expect("a shell");
            let output = String::from_utf8(output.stdout).expect("text");
            let [shell, command] = output.lines().collect::<Vec<_>>()[..] else { panic!("{line}: {output}") };
            let (pid, variable) = command.split_once(' ').unwrap_or((command, ""));
            assert_eq!((pid, variable == "b"), (shell, line.contains("A=b")), "{line}");
        }
    }
}
