//! What the `/` key takes: which rows are shown.
//!
//! Terms are joined by `and`. `cpu>50`, `mem>100M`, `up<1h` and `state=backoff` compare; anything else is a regular
//! expression that is looked for in a row's watcher, node, pid and program. A `!` before a term turns it round.

use std::time::Duration;

use regex::{Regex, RegexBuilder};

/// A filter that was understood.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    text: String,
    terms: Vec<Term>,
}

/// What a row has that a filter can ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts<'a> {
    /// Watcher, node, pid and program, as far as the row has them.
    pub(super) words: &'a str,
    pub(super) state: &'a str,
    pub(super) cpu: f64,
    pub(super) resident: u64,
    pub(super) age: Duration,
}

#[derive(Debug, Clone)]
struct Term {
    turned: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Words(Regex),
    State(String),
    Number { of: Of, more: bool, than: f64 },
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Cpu,
    Memory,
    Uptime,
}

impl Filter {
    /// Reads what was typed: nothing where that asks for nothing; the error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Option<Filter>, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let terms = words.split(|word| word.eq_ignore_ascii_case("and")).filter(|words| !words.is_empty());
        let terms: Vec<Term> = terms.map(|words| Term::parse(&words.join(" "))).collect::<Result<_, _>>()?;
        Ok((!terms.is_empty()).then(|| Filter { text: text.trim().to_owned(), terms }))
    }

    /// As it was typed.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a row passes.
    pub(super) fn fits(&self, facts: Facts) -> bool {
        self.terms.iter().all(|term| term.test.fits(facts) != term.turned)
    }
}

impl Term {
    fn parse(text: &str) -> Result<Term, String> {
        let (turned, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let comparison = text.find(['<', '>', '=']).map(|at| {
            let (name, rest) = text.split_at(at);
            (name.trim().to_lowercase(), &rest[..1], rest[1..].trim())
        });
        let bad = |unit: &str| format!("'{text}' compares with no {unit}");
        let number = |of, sign: &str, than: Option<f64>, unit| match (sign, than) {
            (">" | "<", Some(than)) => Ok(Test::Number { of, more: sign == ">", than }),
            ("=", _) => Err(format!("'{text}': that takes > or <")),
            _ => Err(bad(unit)),
        };
        let test = match &comparison {
            Some((name, "=", state)) if name == "state" => Test::State(state.to_lowercase()),
            Some((name, sign, than)) if name == "cpu" => {
                number(Of::Cpu, sign, scaled(than.trim_end_matches('%'), &[]), "per cent, as in cpu>50")?
            }
            Some((name, sign, than)) if name == "mem" => {
                const UNITS: &[(&str, f64)] = &[("k", 1024.0), ("m", 1048576.0), ("g", 1073741824.0)];
                number(Of::Memory, sign, scaled(than, UNITS), "size, as in mem>100M")?
            }
            Some((name, sign, than)) if name == "up" => {
                const UNITS: &[(&str, f64)] = &[("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];
                number(Of::Uptime, sign, scaled(than, UNITS), "time, as in up<1h")?
            }
            _ => {
                let regex = RegexBuilder::new(text).case_insensitive(true).size_limit(1 << 20).build();
                Test::Words(regex.map_err(|_| format!("'{text}' is no regular expression"))?)
            }
        };
        Ok(Term { turned, test })
    }
}

impl Test {
    fn fits(&self, facts: Facts) -> bool {
        match self {
            Test::Words(regex) => regex.is_match(facts.words),
            Test::State(state) => facts.state == state,
            Test::Number { of, more, than } => {
                let value = match of {
                    Of::Cpu => facts.cpu,
                    Of::Memory => facts.resident as f64,
                    Of::Uptime => facts.age.as_secs_f64(),
                };
                if *more { value > *than } else { value < *than }
            }
        }
    }
}

/// `100`, `1.5g`: a number, and perhaps one of the units.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.to_lowercase();
    let unit = units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)));
    let (number, scale) = unit.unwrap_or((&text, &1.0));
    number.trim().parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Facts = Facts {
        words: "worker web-3 4711 celery",
        state: "backoff",
        cpu: 60.0,
        resident: 200 << 20,
        age: Duration::from_secs(600),
    };

    #[test]
    fn a_row_passes_when_it_fits_every_term() {
        for (text, passes) in [
            ("work", true),
            ("WORK.*celery", true),
            ("beat", false),
            ("!beat", true),
            ("! work", false),
            ("cpu>50", true),
            ("cpu > 50%", true),
            ("cpu<50", false),
            ("!cpu<50", true),
            ("mem>100M", true),
            ("mem>1g", false),
            ("mem > 209715199", true),
            ("up<1h", true),
            ("up>11m", false),
            ("state=backoff", true),
            ("state=Active", false),
            ("cpu>50 and state=backoff", true),
            ("cpu>50 AND state=active", false),
            ("worker and !web-2", true),
            ("x=y", false),
        ] {
            let filter = Filter::parse(text).unwrap().unwrap();
            assert_eq!(filter.fits(ROW), passes, "{text}");
            assert_eq!(filter.text(), text);
        }
    }

    #[test]
    fn what_says_nothing_filters_nothing_and_what_is_wrong_is_told() {
        for nothing in ["", "  ", "and", " and and "] {
            assert!(Filter::parse(nothing).unwrap().is_none(), "{nothing:?}");
        }
        for (text, hint) in [
            ("cpu>much", "cpu>50"),
            ("mem>1x", "mem>100M"),
            ("up<", "up<1h"),
            ("cpu=5", "> or <"),
            ("(", "regular expression"),
            ("a{9999}{9999}", "regular expression"),
        ] {
            let why = Filter::parse(text).unwrap_err();
            assert!(why.contains(hint), "{text}: {why}");
        }
    }
}
