//! `[uwsgi]`: what uWSGI's own file says of legions → sections of ours.
//!
//! A line that names a legion becomes a key of `[legion:NAME]`, or a watcher that runs under it; whatever is wrong with
//! it is shown where it stands in the file. Members meet in Redis: addresses, ciphers and clocks are not needed. All else
//! is uWSGI's own business, and it is said once that nothing is done about it.
//!
//! The same options are keys of a `[legion:NAME]`, too: `legion-lord = cmd:…`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Surroundings;
use super::keys::nearest;
use super::problem::{Problems, code};
use super::scan::{Document, Said};
use super::settings::parts;
use super::shell;
use crate::model::spec::LegionEvent;

/// The head of the section.
pub(super) const UWSGI: &str = "uwsgi";

/// What the head of a legion begins with.
pub(super) const LEGION: &str = "legion:";

/// What they all say of an address.
const MEET: &str = "members meet in the Redis of `[redis] url`";

/// Options that say something of one legion, or of all, and have no key of ours.
const OPTIONS: &[(&str, Role)] = &[
    ("attach-daemon2", Role::Keyed),
    ("cron-curl-legion", Role::Curl),
    ("cron-legion", Role::Cron),
    ("cron2", Role::Keyed),
    ("curl-cron-legion", Role::Curl),
    ("legion", Role::Join),
    ("legion-attach-daemon", Role::Daemon(None)),
    ("legion-cron", Role::Cron),
    ("legion-cron-curl", Role::Curl),
    ("legion-curl-cron", Role::Curl),
    ("legion-mcast", Role::Join),
    ("legion-node", Role::Address),
    ("legion-scroll-list-max-size", Role::Unneeded("scrolls need no room of their own")),
    ("legion-scroll-max-size", Role::Unneeded("scrolls need no room of their own")),
    ("legion-skew-tolerance", Role::Unneeded("no node's clock counts, only the server's")),
    ("legion-smart-attach-daemon", Role::Daemon(Some(Smart::Itself))),
    ("legion-smart-attach-daemon2", Role::Daemon(Some(Smart::Daemonised))),
    ("unique-cron-legion", Role::Cron),
    ("unique-legion-cron", Role::Cron),
];

/// What an option is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// `NAME ADDRESS VALOR ALGORITHM:SECRET`
    Join,
    /// `NAME ADDRESS`
    Address,
    /// `NAME VALUE`: a key of that legion.
    OfOne,
    /// `VALUE`: a key of each legion.
    OfAll,
    /// `NAME MINUTE HOUR DAY MONTH WEEKDAY COMMAND`
    Cron,
    /// The same with a URL in place of a command.
    Curl,
    /// `NAME COMMAND`, for smart ones `NAME PIDFILE COMMAND`.
    Daemon(Option<Smart>),
    /// `KEY=VALUE,KEY=VALUE`; uWSGI's own unless one of them is a legion.
    Keyed,
    /// Nothing comes of it, for this reason.
    Unneeded(&'static str),
}

/// Daemons that are known by their pid files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Smart {
    /// It sends itself into the background.
    Itself,
    /// uWSGI sends it there.
    Daemonised,
}

/// What an option is about; nothing where it is uWSGI's own.
fn role(option: &str) -> Option<Role> {
    if let Some((_, role)) = OPTIONS.iter().find(|(known, _)| *known == option) {
        return Some(*role);
    }
    let key = ours(option)?;
    Some(if matches!(&*key, "freq" | "tolerance" | "death_on_lord_error") { Role::OfAll } else { Role::OfOne })
}

/// The key of a legion that one of uWSGI's options is.
pub(super) fn ours(option: &str) -> Option<String> {
    let key = option.strip_prefix("legion-")?.replace('-', "_");
    match &*key {
        "quorum" | "scroll" | "freq" | "tolerance" | "death_on_lord_error" => Some(key),
        event => LegionEvent::parse(event).map(|event| format!("on_{}", event.name())),
    }
}

/// How many bytes of a value only repeat the name of the legion in whose section it stands.
pub(super) fn addressee(value: &str, legion: &str) -> usize {
    let rest = value.strip_prefix(legion).filter(|rest| rest.starts_with(char::is_whitespace));
    rest.map_or(0, |rest| value.len() - rest.trim_start().len())
}

/// Where the secret of a `legion` begins, also where the valor before it is missing.
pub(super) fn cipher(value: &str) -> Option<usize> {
    let words = parts(value, char::is_whitespace).enumerate().skip(2);
    let mut ciphers = words.filter(|(number, (_, word))| *number > 2 || word.contains(':'));
    let (_, (at, word)) = ciphers.next()?;
    Some(at + word.find(':').map_or(0, |colon| colon + 1))
}

/// Puts sections in the place of `[uwsgi]`. Gives the lines that are uWSGI's own.
pub(super) fn translate(doc: &mut Document, around: &Surroundings, problems: &mut Problems) -> Vec<usize> {
    let said = std::mem::take(&mut doc.uwsgi);
    // Backwards: of two the first counts. What stands for a value may hold variables, but nothing that stands for others.
    let plain = |said: &Said| expand(&said.value, &BTreeMap::new(), around);
    let values = said.iter().rev().map(|said| (said.option.as_str(), plain(said))).collect();
    let lines: Vec<Line<'_>> =
        said.iter().map(|said| Line { said, text: expand(&said.value, &values, around) }).collect();
    let own = doc.sections().into_iter().filter_map(|head| Some(head.strip_prefix(LEGION)?.trim().to_owned()));
    let joined = lines.iter().filter(|line| role(&line.said.option) == Some(Role::Join));
    let joined: Vec<String> = joined.filter_map(|line| Some(line.word(0)?.1.to_owned())).collect();
    let legions = own.chain(joined.iter().cloned()).collect();
    let mut translation = Translation { doc, problems, legions, joined, address_told: false, uwsgis: Vec::new() };
    lines.iter().for_each(|line| translation.line(line));
    translation.tell_of_others();
    translation.uwsgis.iter().map(|said| said.option_spot().line).collect()
}

/// A value with uWSGI's placeholders filled in: `%(OPTION)` and `$(VARIABLE)`, where there is one of that name.
fn expand(value: &str, values: &BTreeMap<&str, String>, around: &Surroundings) -> String {
    let mut text = String::new();
    let mut rest = value;
    while let Some(at) = rest.find(['%', '$']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let name = from[1..].strip_prefix('(').and_then(|from| Some(from.split_once(')')?.0));
        let known = name.and_then(|name| match from.starts_with('%') {
            true => values.get(name).map(|value| (name, value.as_str())),
            false => around.env.get(name).map(|value| (name, value.as_str())),
        });
        match known {
            Some((name, value)) => {
                text.push_str(value);
                rest = &from[name.len() + "%()".len()..];
            }
            None => {
                text.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    text + rest
}

/// One line, its placeholders filled in.
struct Line<'a> {
    said: &'a Said,
    text: String,
}

impl Line<'_> {
    /// The word with this number, and the byte at which it begins.
    fn word(&self, number: usize) -> Option<(usize, &str)> {
        parts(&self.text, char::is_whitespace).nth(number)
    }

    /// All from the word with this number on, and the byte at which it begins; may be empty.
    fn from(&self, number: usize) -> (usize, &str) {
        self.word(number).map_or((self.text.len(), ""), |(at, _)| (at, &self.text[at..]))
    }

    /// Where so many bytes stand that begin at this one: all of the value where placeholders have moved them.
    fn range(&self, at: usize, length: usize) -> Range<usize> {
        if self.text == self.said.value { at..at + length } else { 0..self.said.value.len() }
    }
}

struct Translation<'a> {
    doc: &'a mut Document,
    problems: &'a mut Problems,
    /// All legions, those of sections too.
    legions: BTreeSet<String>,
    /// Those of `[uwsgi]`.
    joined: Vec<String>,
    address_told: bool,
    /// uWSGI's own options.
    uwsgis: Vec<&'a Said>,
}

impl<'a> Translation<'a> {
    fn line(&mut self, line: &Line<'a>) {
        let option = line.said.option.as_str();
        if role(option).is_some() {
            self.check_expanded(line);
        }
        match role(option) {
            Some(Role::Join) => self.join(line),
            Some(Role::Address) => self.address(line),
            Some(Role::OfOne) => {
                if let (Some(key), Some(legion)) = (ours(option), self.legion(line)) {
                    self.of_one(line, &key, &legion);
                }
            }
            Some(Role::OfAll) => {
                let Some(key) = ours(option) else { return };
                for legion in self.joined.clone() {
                    self.say(&format!("{LEGION}{legion}"), &key, line, (0, &line.text));
                }
            }
            Some(Role::Cron | Role::Curl) => self.cron(line),
            Some(Role::Daemon(smart)) => self.daemon(line, smart),
            Some(Role::Keyed) => self.keyed(line),
            Some(Role::Unneeded(why)) => {
                let message = format!("`{option}` is not needed");
                self.problems.warn(code::NO_EFFECT, line.said.option_spot(), message).label(why);
            }
            None if option.starts_with("legion") => self.misspelt(line.said),
            None => self.uwsgis.push(line.said),
        }
    }

    /// Refuses a placeholder that stands for nothing.
    fn check_expanded(&mut self, line: &Line<'_>) {
        let Some(at) = line.text.find("%(") else { return };
        let length = line.text[at..].find(')').map_or(line.text.len() - at, |end| end + 1);
        let message = format!("`{}` stands for nothing", &line.text[at..at + length]);
        self.problems
            .error(code::VARIABLE, line.said.spot(&line.range(at, length)), message)
            .help("write `NAME = VALUE` into [uwsgi] for `%(NAME)`; one that holds another is not followed");
    }

    /// A key of a section, from the part of a line that begins at this byte.
    fn say(&mut self, section: &str, key: &str, line: &Line<'_>, (at, value): (usize, &str)) {
        let range = line.range(at, value.len());
        if !self.doc.say((section, key), value, line.said, &range) {
            self.problems
                .warn(
                    code::TWICE,
                    line.said.option_spot(),
                    format!("`{key}` of [{section}] is said before, and otherwise"),
                )
                .label("this one is ignored");
        }
    }

    // ---- legions ----

    fn join(&mut self, line: &Line<'_>) {
        let (Some((_, name)), Some(_), Some(valor)) = (line.word(0), line.word(1), line.word(2)) else {
            let message = format!("`{}` must be NAME ADDRESS VALOR ALGORITHM:SECRET", line.said.option);
            self.problems
                .error(code::VALUE, line.said.option_spot(), message)
                .help("`[legion:NAME]` needs no more than a name");
            return;
        };
        let section = format!("{LEGION}{name}");
        self.doc.begin(&section, line.said);
        self.say(&section, "valor", line, valor);
        self.tell_of_address(line.said);
    }

    fn address(&mut self, line: &Line<'_>) {
        self.tell_of_address(line.said);
        // Nothing is lost where nothing is needed: a wrong name there keeps nobody from starting.
        if let Some((at, name)) = line.word(0)
            && !self.legions.contains(name)
        {
            let spot = line.said.spot(&line.range(at, name.len()));
            let problem = self.problems.warn(code::LEGION, spot, format!("there is no legion `{name}`"));
            if let Some(known) = nearest(name, self.legions.iter().map(String::as_str)) {
                problem.label(format!("did you mean `{known}`?"));
            }
        }
    }

    fn tell_of_address(&mut self, said: &Said) {
        if !std::mem::replace(&mut self.address_told, true) {
            self.problems
                .warn(code::NO_EFFECT, said.option_spot(), "addresses, ciphers and secrets of legions are not needed")
                .label(MEET);
        }
    }

    /// The legion that a line begins with; says where there is none.
    fn legion(&mut self, line: &Line<'_>) -> Option<String> {
        let Some((at, name)) = line.word(0) else {
            let message = format!("`{}` must begin with the name of a legion", line.said.option);
            self.problems.error(code::VALUE, line.said.option_spot(), message);
            return None;
        };
        self.known(line, at, name)
    }

    /// A legion by its name, which stands at this byte of a line.
    fn known(&mut self, line: &Line<'_>, at: usize, name: &str) -> Option<String> {
        if self.legions.contains(name) {
            return Some(name.to_owned());
        }
        let spot = line.said.spot(&line.range(at, name.len()));
        let problem = self.problems.error(code::LEGION, spot, format!("there is no legion `{name}`"));
        match nearest(name, self.legions.iter().map(String::as_str)) {
            Some(known) => problem.label(format!("did you mean `{known}`?")),
            None => problem.help(format_args!("`legion = {name} …` or a section [legion:{name}] makes one")),
        };
        None
    }

    fn of_one(&mut self, line: &Line<'_>, key: &str, legion: &str) {
        let (at, value) = line.from(1);
        // A quorum of nobody: alone it is lord, which is what one means.
        if (key, value) != ("quorum", "0") {
            self.say(&format!("{LEGION}{legion}"), key, line, (at, value));
        }
    }

    // ---- watchers ----

    /// A watcher that runs a command under a legion. Gives the head of its section.
    fn watcher(&mut self, legion: &str, line: &Line<'_>, command: (usize, &str)) -> String {
        let program = command.1.split_whitespace().find(|word| !word.contains('=')).unwrap_or("command");
        let program = program.trim_matches(['"', '\'']).rsplit('/').next().unwrap_or(program);
        let name = format!("watcher:{legion}.{program}");
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let free = |head: &String| self.doc.head(head).is_none();
        let head = std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or_default();
        self.doc.begin(&head, line.said);
        // A shell between would be all that is asked to stop.
        let (text, alone) = match shell::look(command.1) {
            shell::Line::Simple(at) => (shell::with_exec(command.1, at), true),
            shell::Line::Exec => (command.1.to_owned(), true),
            shell::Line::Other => (command.1.to_owned(), false),
        };
        self.say(&head, "cmd", line, (command.0, &text));
        let children = (!alone).then_some(("stop_children", "True"));
        for (key, value) in [("shell", "True"), ("copy_env", "True"), ("legion", legion)].into_iter().chain(children) {
            self.doc.say((&head, key), value, line.said, &(0..0));
        }
        head
    }

    fn cron(&mut self, line: &Line<'_>) {
        let Some(legion) = self.legion(line) else { return };
        let fields: Vec<&str> = (1..=5).filter_map(|number| Some(line.word(number)?.1)).collect();
        let command = line.from(6);
        if command.1.is_empty() {
            let message = format!("`{}` must be NAME MINUTE HOUR DAY MONTH WEEKDAY and what is done", line.said.option);
            self.problems.error(code::VALUE, line.said.option_spot(), message);
            return;
        }
        let url = role(&line.said.option) == Some(Role::Curl);
        let quoted = shlex::try_quote(command.1).map_or_else(|_| command.1.to_owned(), |quoted| quoted.into_owned());
        let fetch = format!("curl -fsS {quoted}");
        let head = self.watcher(&legion, line, if url { (command.0, &fetch) } else { command });
        self.schedule(&head, line, &fields);
    }

    /// The five fields, in the words of cron.
    fn schedule(&mut self, head: &str, line: &Line<'_>, fields: &[&str]) {
        let begins = [0, 0, 1, 1, 0];
        let ends = [59, 23, 31, 12, 6];
        let field = |(at, text): (usize, &&str)| match text.strip_prefix(['-', '/']) {
            Some("1") => "*".to_owned(),
            // uWSGI's every second day is an even one, cron's an odd one.
            Some(step) if begins[at] == 1 => format!("{step}-{}/{step}", ends[at]),
            Some(step) => format!("*/{step}"),
            None => (*text).to_owned(),
        };
        let schedule = fields.iter().enumerate().map(field).collect::<Vec<_>>().join(" ");
        self.doc.say((head, "cron"), &schedule, line.said, &(0..0));
    }

    fn daemon(&mut self, line: &Line<'_>, smart: Option<Smart>) {
        let Some(legion) = self.legion(line) else { return };
        let command = line.from(if smart.is_some() { 2 } else { 1 });
        if command.1.is_empty() {
            let message = format!("`{}` has no command", line.said.option);
            self.problems.error(code::VALUE, line.said.option_spot(), message);
            return;
        }
        self.watcher(&legion, line, command);
        if let (Some(smart), Some((at, pidfile))) = (smart, line.word(1)) {
            self.tell_of_pidfile(line, line.range(at, pidfile.len()), smart);
        }
    }

    fn tell_of_pidfile(&mut self, line: &Line<'_>, range: Range<usize>, smart: Smart) {
        let problem = self
            .problems
            .warn(code::NO_EFFECT, line.said.spot(&range), "a pid file is not needed")
            .label("the agent knows what it started");
        if smart == Smart::Itself {
            problem.help("the command must stay in the foreground: take out an option that sends it to the background");
        }
    }

    /// `cron2` and `attach-daemon2`, whose parts have names.
    fn keyed(&mut self, line: &Line<'a>) {
        let cron = line.said.option == "cron2";
        let (keyed, rest) = match line.text.find(char::is_whitespace).filter(|_| cron) {
            Some(at) => (&line.text[..at], line.from(1)),
            None => (line.text.as_str(), (0, "")),
        };
        let named: BTreeMap<&str, (usize, &str)> = parts(keyed, |c| c == ',')
            .filter_map(|(at, part)| part.split_once('=').map(|(key, value)| (key.trim(), (at + key.len() + 1, value))))
            .collect();
        let Some((at, legion)) = named.get("legion").copied() else {
            self.uwsgis.push(line.said);
            return;
        };
        let Some(legion) = self.known(line, at, legion.trim()) else { return };
        let command =
            if cron { Some(rest) } else { ["cmd", "command", "exec"].iter().find_map(|key| named.get(key).copied()) };
        let Some(command) = command.filter(|(_, command)| !command.trim().is_empty()) else {
            let message = format!("`{}` has no command", line.said.option);
            self.problems.error(code::VALUE, line.said.option_spot(), message);
            return;
        };
        let head = self.watcher(&legion, line, command);
        if cron {
            let field = |key: &&str| named.get(*key).map_or("-1", |(_, value)| value.trim());
            let fields: Vec<&str> = ["minute", "hour", "day", "month", "week"].iter().map(field).collect();
            self.schedule(&head, line, &fields);
        } else {
            self.problems
                .warn(code::MEANING, line.said.spot(&line.range(at, legion.len())), "this daemon runs on the lord only")
                .note("uWSGI ignores `legion=` here, and runs it on every node");
        }
        for (key, (at, value)) in named {
            let part = (at, value);
            match key {
                "stopsignal" => self.say(&head, "stop_signal", line, part),
                "uid" | "gid" => self.say(&head, key, line, part),
                "chdir" => self.say(&head, "working_dir", line, part),
                "pidfile" => {
                    let away = named_true(&line.text, "daemonize") || named_true(&line.text, "daemon");
                    let smart = if away { Smart::Daemonised } else { Smart::Itself };
                    self.tell_of_pidfile(line, line.range(at, value.len()), smart);
                }
                "cmd" | "command" | "exec" | "legion" | "unique" | "minute" | "hour" | "day" | "month" | "week"
                | "daemonize" | "daemon" | "freq" => {}
                _ => {
                    let spot = line.said.spot(&line.range(at - key.len() - 1, key.len()));
                    self.problems
                        .warn(code::NO_EFFECT, spot, format!("`{key}` has no effect here"))
                        .help("a section [watcher:NAME] with `legion = …` says more than this option can");
                }
            }
        }
    }

    // ---- what is left ----

    fn misspelt(&mut self, said: &Said) {
        let problem = self.problems.error(
            code::UNKNOWN_KEY,
            said.option_spot(),
            format!("uWSGI has no option `{}`", said.option),
        );
        let events = LegionEvent::ALL.iter().filter(|event| **event != LegionEvent::LordChanged);
        let events = events.map(|event| format!("legion-{}", event.name().replace('_', "-")));
        let keys = ["quorum", "scroll", "freq", "tolerance", "death-on-lord-error"].map(|key| format!("legion-{key}"));
        let known: Vec<String> =
            events.chain(keys).chain(OPTIONS.iter().map(|(option, _)| (*option).to_owned())).collect();
        match nearest(&said.option, known.iter().map(String::as_str)) {
            Some(known) => problem.label(format!("did you mean `{known}`?")),
            None => problem.help("take it out, or begin the line with `;`"),
        };
    }

    /// Says once that uWSGI is no part of the agent.
    fn tell_of_others(&mut self) {
        let Some(first) = self.uwsgis.first() else { return };
        let mut names: Vec<String> = Vec::new();
        for said in &self.uwsgis {
            let name = format!("`{}`", said.option);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        self.problems
            .warn(code::NO_EFFECT, first.option_spot(), "the agent takes legions from [uwsgi], and nothing else")
            .label("an option of uWSGI's own")
            .note(format_args!("uWSGI's own are here: {}", names.join(", ")))
            .help("give uWSGI a file of its own with them, and run it: `[watcher:uwsgi]`, `cmd = uwsgi --ini FILE`");
    }
}

/// Whether one of the named parts of a line says yes.
fn named_true(text: &str, key: &str) -> bool {
    let said = text.split(',').filter_map(|part| part.split_once('=')).find(|(name, _)| name.trim() == key);
    said.is_some_and(|(_, value)| !matches!(value.trim(), "" | "0" | "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_stand_for_options_and_variables_that_there_are() {
        let values = BTreeMap::from([("ip", "10.0.0.9".to_owned())]);
        let around = Surroundings { env: BTreeMap::from([("DEV".into(), "eth0".into())]), ..Surroundings::default() };
        let table = [
            ("add %(ip) dev $(DEV)", "add 10.0.0.9 dev eth0"),
            ("%(ip)%(ip)", "10.0.0.910.0.0.9"),
            ("$(hostname) %(port) %d $X 5%", "$(hostname) %(port) %d $X 5%"),
            ("$(ip) %(DEV) %(ip $(", "$(ip) %(DEV) %(ip $("),
        ];
        for (text, expected) in table {
            assert_eq!(expand(text, &values, &around), expected, "{text}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_found() {
        for (value, shown) in [
            ("ip 225.1.1.1:4242 98 bf-cbc:pw iv", "ip 225.1.1.1:4242 98 bf-cbc:"),
            ("ip 225.1.1.1:4242 98 pw", "ip 225.1.1.1:4242 98 "),
            ("ip 225.1.1.1:4242 bf-cbc:pw", "ip 225.1.1.1:4242 bf-cbc:"),
            ("ip 225.1.1.1:4242 98", "ip 225.1.1.1:4242 98"),
        ] {
            assert_eq!(&value[..cipher(value).unwrap_or(value.len())], shown);
        }
    }

    #[test]
    fn every_event_that_uwsgi_has_is_a_key_of_ours() {
        for event in ["setup", "join", "lord", "unlord", "death", "node-joined", "node-left"] {
            let key = ours(&format!("legion-{event}"));
            assert_eq!(key, Some(format!("on_{}", event.replace('-', "_"))));
        }
        assert_eq!(ours("legion-node"), None);
        assert_eq!(role("legion-tolerance"), Some(Role::OfAll));
        assert_eq!(role("legion-quorum"), Some(Role::OfOne));
        assert!(OPTIONS.is_sorted_by_key(|(option, _)| *option));
    }

    #[test]
    fn an_own_name_before_a_value_is_left_out() {
        assert_eq!(addressee("ip cmd:true", "ip"), 3);
        assert_eq!(addressee("ipp cmd:true", "ip"), 0);
        assert_eq!(addressee("cmd:ip true", "ip"), 0);
    }
}
