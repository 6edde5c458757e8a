//! Values: what Python and supervisord put into them, and how they are taken apart.

use super::super::page::Page;
use super::{Numbers, Program, Supervisor};
use crate::config::{percent, value, vars};

impl Supervisor<'_> {
    /// The variables of an `environment`.
    pub(super) fn variables(&self, text: &str, program: Option<&Program<'_>>, page: &mut Page) {
        let pairs = match pairs(text) {
            Ok(pairs) => pairs,
            Err(why) => return page.note("environment", text, why),
        };
        for (name, value) in pairs {
            let fixed = |name: &str, form: &str| match program {
                Some(program) => self.stand(name, form, program),
                None => self.stand_common(name),
            };
            // In [env] our own variables are replaced, in [env:NAME] only `$NAME` is.
            let meant = expand(&value, &|name, form| {
                fixed(name, form).or_else(|_| match program {
                    None => Ok(format!("$(circus.env.{})", from_env(name)?)),
                    Some(_) => self.in_env(from_env(name)?, &value),
                })
            });
            let literal =
                expand(&value, &|name, form| fixed(name, form).or_else(|_| from_env(name).map(str::to_lowercase)));
            match (meant, literal) {
                (Ok(meant), Ok(literal)) if vars::dollars(&literal).is_empty() => {
                    page.variable_of_agent(&name, &meant);
                }
                (Ok(meant), Ok(_)) => page.variable(&name, &meant),
                (Err(why), _) | (_, Err(why)) => page.note(&name, "***", why),
            }
        }
    }

    /// What stands for `%(ENV_NAME)s` in a value of `[env:…]`: what is known of it, or `$NAME`.
    fn in_env(&self, name: &str, value: &str) -> Result<String, String> {
        if let Some(known) = self.env.get(name) {
            return Ok(known.clone());
        }
        let capital = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        // What follows must not go on with the name.
        let glued = value.split(&format!("%(ENV_{name})s")).skip(1).any(|rest| rest.starts_with(capital));
        match name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(capital) && !glued {
            true => Ok(format!("${name}")),
            false => {
                Err(format!("`%(ENV_{name})s` cannot stand in an [env:NAME] section; [env] takes $(circus.env.{name})"))
            }
        }
    }

    /// A value with all of `%(…)s` filled in. Nothing of it is a process's number.
    pub(super) fn common(&self, text: &str) -> Result<String, String> {
        expand(text, &|name, _| self.stand_common(name).or_else(|_| Ok(format!("$(circus.env.{})", from_env(name)?))))
    }

    pub(super) fn expand(&self, text: &str, program: &Program<'_>) -> Result<String, String> {
        expand(text, &|name, form| {
            self.stand(name, form, program).or_else(|why| match from_env(name) {
                Ok(name) => Ok(format!("$(circus.env.{name})")),
                Err(_) => Err(why),
            })
        })
    }

    fn stand_common(&self, name: &str) -> Result<String, String> {
        match name {
            "here" => Ok(self.here.clone()),
            "host_node_name" => Ok(self.host.to_owned()),
            _ => Err(format!("`%({name})s` stands for nothing")),
        }
    }

    /// What `%(NAME)s` stands for, the environment left out.
    fn stand(&self, name: &str, form: &str, program: &Program<'_>) -> Result<String, String> {
        match (name, program.numbers) {
            ("program_name", _) => Ok(program.name.to_owned()),
            ("group_name", _) => Ok(program.group.map_or(program.name, |group| group.name).to_owned()),
            ("numprocs", _) => Ok(program.section.get("numprocs").unwrap_or("1").to_owned()),
            ("process_num", Numbers::This(number)) => {
                let width = form.trim_end_matches(['d', 's']);
                Ok(match width.strip_prefix('0').unwrap_or(width).parse::<usize>() {
                    Ok(wide) if width.starts_with('0') => format!("{number:0wide$}"),
                    Ok(wide) => format!("{number:wide$}"),
                    Err(_) => number.to_string(),
                })
            }
            ("process_num", Numbers::Slot) => Ok("$(circus.wid)".to_owned()),
            ("process_num", Numbers::Unasked) => {
                Err("how many processes there are is not known here, nor which number each has".to_owned())
            }
            _ => self.stand_common(name),
        }
    }
}

pub(super) fn is_true(text: &str) -> bool {
    value::boolean(text.trim()) == Ok(true)
}

/// A yes or no under another name.
pub(super) fn boolean(key: &str, ours: &str, text: &str, page: &mut Page) {
    match value::boolean(text) {
        Ok(true) => page.set(ours, "True"),
        Ok(false) => page.set(ours, "False"),
        Err(_) if text.starts_with("$(") => page.set(ours, text),
        Err(_) => page.note(key, text, "this is neither yes nor no, and supervisord refuses it"),
    }
}

/// `~` is the home of whoever starts it.
pub(super) fn home(path: &str) -> String {
    match path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(rest) => format!("$(circus.env.HOME){rest}"),
        None => path.to_owned(),
    }
}

/// `50MB` and the like, in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let unit = [("kb", 10), ("mb", 20), ("gb", 30)]
        .into_iter()
        .find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = unit.unwrap_or((&text, 0));
    number.trim().parse::<u64>().ok()?.checked_mul(1 << bits)
}

/// The variable that `ENV_NAME` names.
fn from_env(name: &str) -> Result<&str, String> {
    name.strip_prefix("ENV_").ok_or_else(|| format!("`%({name})s` stands for nothing"))
}

/// Fills in `%(NAME)s` as Python does; `stand` gets the name, and the form that follows it: `s`, `d`, `02d`.
fn expand(text: &str, stand: &dyn Fn(&str, &str) -> Result<String, String>) -> Result<String, String> {
    percent::filled(text, |reference| {
        let broken = || "a `%` alone is written `%%` there, and supervisord refuses the file".to_owned();
        let (name, after) = reference.strip_prefix('(').and_then(|rest| rest.split_once(')')).ok_or_else(broken)?;
        let end = after.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(broken)? + 1;
        Ok((stand(name, &after[..end])?, &after[end..]))
    })
}

/// `KEY=value,KEY2="a, b"` as Python's shlex and supervisord take it apart.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let word =
        |c: char| c.is_ascii_alphanumeric() || "_/.+-():%".contains(c) || matches!(c, '\'' | '"') || !c.is_ascii();
    let mut tokens: Vec<&str> = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
                continue;
            }
            '\'' | '"' => {
                rest[1..].find(first).map(|at| at + 2).ok_or("a quote does not close, and supervisord refuses it")?
            }
            c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
        .chunks(4)
        .map(|chunk| match chunk {
            [key, "=", value, ..] => Ok(((*key).to_owned(), value.trim_matches(['\'', '"']).to_owned())),
            _ => Err("these are no pairs of KEY=\"value\", and supervisord refuses them".to_owned()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_taken_apart_as_supervisord_does() {
        let read = |text: &str| {
            pairs(text).map(|pairs| {
                pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("|")
            })
        };
        let table = [
            ("A=1,B=\"x, y\"", "A=1|B=x, y"),
            ("A='it',\n  B=/a/b:c,", "A=it|B=/a/b:c"),
            ("", ""),
            ("A=%(ENV_X)s", "A=%(ENV_X)s"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), Ok(expected.to_owned()), "{text}");
        }
        assert!(read("A").is_err() && read("A=\"x").is_err());
    }

    #[test]
    fn pythons_forms_are_filled_in() {
        let stand = |name: &str, form: &str| if name == "n" { Ok(format!("<{form}>")) } else { Err(name.to_owned()) };
        assert_eq!(expand("a%%%(n)02d-%(n)s", &stand), Ok("a%<02d>-<s>".into()));
        assert_eq!(expand("%(x)s", &stand), Err("x".into()));
        assert!(expand("50%", &stand).is_err() && expand("%(n", &stand).is_err());
    }

    #[test]
    fn sizes_are_in_supervisords_units() {
        assert_eq!(
            [bytes("50MB"), bytes("1k"), bytes("0"), bytes("2gb")],
            [Some(50 << 20), None, Some(0), Some(2 << 30)]
        );
    }
}
