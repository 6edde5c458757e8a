//! Lines → sections, keys and values, each with the place where it stands.
//!
//! The dialect is that of Circus's own parser, not of any ini library: comments begin in column 0, an
//! indented line continues the value above, an inline comment is a `;` after a blank, and the first
//! definition wins, across repeated sections and included files too. The actions of a legion may stand several
//! times, and are lines of one value. The data model is rust-ini's, filled here line by line; its parser would
//! read another dialect and forget the places.
//!
//! `[uwsgi]` is in uWSGI's own dialect: no line continues another, nothing but a first `;` or `#` is a comment, and
//! every option may stand several times.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ini::{Ini, Properties};

use super::keys;
use super::problem::{Problems, Spot, code};
use super::uwsgi::{self, LEGION, UWSGI};

/// All files of one configuration, merged.
#[derive(Default)]
pub(super) struct Document {
    values: Ini,
    places: HashMap<(String, String), Place>,
    heads: Vec<Head>,
    /// The lines of `[uwsgi]`, in order.
    pub(super) uwsgi: Vec<Said>,
}

/// Where a section begins; repeated sections have several.
pub(super) struct Head {
    pub(super) section: String,
    pub(super) spot: Spot,
}

/// One key with its value.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) place: &'a Place,
}

/// One line of `[uwsgi]`.
pub(super) struct Said {
    pub(super) option: String,
    pub(super) value: String,
    line: Rc<Line>,
    /// Where the option and the value begin.
    at: (usize, usize),
}

impl Said {
    /// The option.
    pub(super) fn option_spot(&self) -> Spot {
        self.line.spot(&(self.at.0..self.at.0 + self.option.len()))
    }

    /// The bytes `part` of the value; the option where that is nothing.
    pub(super) fn spot(&self, part: &Range<usize>) -> Spot {
        if part.is_empty() { self.option_spot() } else { self.line.spot(&self.within(part)) }
    }

    fn within(&self, part: &Range<usize>) -> Range<usize> {
        self.at.1 + part.start..self.at.1 + part.end
    }
}

/// A key as it was written, apart from the document.
#[derive(Debug)]
pub(super) struct Taken {
    /// What it is called in the file.
    pub(super) written: String,
    /// What it is called by who reads it.
    pub(super) key: String,
    pub(super) value: String,
    place: Place,
}

impl Taken {
    fn entry(&self) -> Entry<'_> {
        Entry { key: &self.written, value: &self.value, place: &self.place }
    }

    /// The key.
    pub(super) fn key_spot(&self) -> Spot {
        self.entry().key_spot()
    }

    /// The value, or the key where that is empty.
    pub(super) fn spot(&self) -> Spot {
        self.entry().spot()
    }
}

/// Where a key and each line of its value stand.
#[derive(Debug, Clone)]
pub(super) struct Place {
    key: (Rc<Line>, Range<usize>),
    pieces: Vec<Piece>,
    /// What the value would be if its inline comment belonged to it.
    pub(super) uncut: Option<String>,
}

/// One line's part of a value.
#[derive(Debug, Clone)]
struct Piece {
    /// Where it begins in the value.
    start: usize,
    line: Rc<Line>,
    range: Range<usize>,
}

/// One line of a file.
#[derive(Debug)]
struct Line {
    file: Rc<PathBuf>,
    number: usize,
    text: String,
    /// What nobody may see.
    secrets: Vec<Range<usize>>,
}

impl Entry<'_> {
    /// The key.
    pub(super) fn key_spot(&self) -> Spot {
        self.place.key.0.spot(&self.place.key.1)
    }

    /// The first line of the value, or the key where the value is empty.
    pub(super) fn spot(&self) -> Spot {
        match self.place.pieces.iter().find(|piece| !piece.range.is_empty()) {
            Some(piece) => piece.line.spot(&piece.range),
            None => self.key_spot(),
        }
    }

    /// The bytes `part` of the value, as far as they stand on one line.
    pub(super) fn part(&self, part: &Range<usize>) -> Spot {
        match self.place.pieces.iter().rev().find(|piece| piece.start <= part.start) {
            None => self.spot(),
            Some(piece) => {
                let place = |at: usize| (piece.range.start + at.saturating_sub(piece.start)).min(piece.range.end);
                piece.line.spot(&(place(part.start)..place(part.end)))
            }
        }
    }
}

impl Document {
    /// The sections in the order of their first heads.
    pub(super) fn sections(&self) -> Vec<&str> {
        self.values.sections().flatten().collect()
    }

    /// The keys of a section in order; none when there is no such section.
    pub(super) fn entries<'a>(&'a self, section: &'a str) -> impl Iterator<Item = Entry<'a>> {
        let entries = self.values.section(Some(section)).into_iter().flat_map(Properties::iter);
        entries.filter_map(move |(key, value)| self.entry(section, key, value))
    }

    /// One key of a section.
    pub(super) fn get<'a>(&'a self, section: &str, key: &'a str) -> Option<Entry<'a>> {
        self.entry(section, key, self.values.get_from(Some(section), key)?)
    }

    fn entry<'a>(&'a self, section: &str, key: &'a str, value: &'a str) -> Option<Entry<'a>> {
        let place = self.places.get(&(section.to_owned(), key.to_owned()))?;
        Some(Entry { key, value, place })
    }

    /// Where a section begins for the first time.
    pub(super) fn head(&self, section: &str) -> Option<&Spot> {
        self.heads.iter().find(|head| head.section == section).map(|head| &head.spot)
    }

    /// Sets a key from the agent's environment, over whatever the files say.
    pub(super) fn set_from_env(&mut self, section: &str, key: &str, variable: &str, value: &str) {
        self.set(section, key, ("environment", variable), value);
    }

    /// Sets a key from a place that has no lines, where it is called `name`.
    pub(super) fn set(&mut self, section: &str, key: &str, (place, name): (&str, &str), value: &str) {
        let start = name.len() + 1;
        let text = format!("{name}={value}");
        let secrets = secrets(&text, section, key, start);
        let line = Rc::new(Line { file: Rc::new(place.into()), number: 0, text, secrets });
        let range = start..start + value.len();
        let pieces = vec![Piece { start: 0, line: Rc::clone(&line), range }];
        let place = Place { key: (line, 0..name.len()), pieces, uncut: None };
        self.section_mut(section).insert(key, value);
        self.places.insert((section.to_owned(), key.to_owned()), place);
    }

    /// Begins a section that stands for a line of `[uwsgi]`, unless there is one of that name.
    pub(super) fn begin(&mut self, section: &str, said: &Said) {
        if self.head(section).is_none() {
            self.section_mut(section);
            self.heads.push(Head { section: section.to_owned(), spot: said.option_spot() });
        }
    }

    /// Sets a key for a line of `[uwsgi]`, of whose value it is the bytes `part`. False where it is set otherwise.
    pub(super) fn say(&mut self, (section, key): (&str, &str), value: &str, said: &Said, part: &Range<usize>) -> bool {
        let piece = (&said.line, said.within(part));
        match self.get(section, key).map(|first| first.value == value) {
            Some(_) if keys::is_list(section, key) => self.extend(section, key, value, piece),
            Some(same) => return same,
            None => {
                let option = said.at.0..said.at.0 + said.option.len();
                self.define(section, key, value, (Rc::clone(&said.line), option), piece.1, None);
            }
        }
        true
    }

    /// The keys of a section, apart from it.
    pub(super) fn copied(&self, section: &str) -> Vec<Taken> {
        let taken = |entry: Entry<'_>| Taken {
            written: entry.key.to_owned(),
            key: entry.key.to_owned(),
            value: entry.value.to_owned(),
            place: entry.place.clone(),
        };
        self.entries(section).map(taken).collect()
    }

    /// The keys of a section, which then is none any more.
    pub(super) fn taken(&mut self, section: &str) -> Vec<Taken> {
        let taken = self.copied(section);
        self.values.delete(Some(section));
        taken
    }

    /// Leaves a key out.
    pub(super) fn forget(&mut self, section: &str, key: &str) {
        self.section_mut(section).remove(key);
    }

    /// Begins a section that stands for another, unless there is one of that name.
    pub(super) fn begin_at(&mut self, section: &str, spot: &Spot) {
        if self.head(section).is_none() {
            self.section_mut(section);
            self.heads.push(Head { section: section.to_owned(), spot: spot.clone() });
        }
    }

    /// Sets a key for another one, unless it is set.
    pub(super) fn derive(&mut self, (section, key): (&str, &str), value: &str, from: &Taken) {
        if self.get(section, key).is_none() {
            self.section_mut(section).append(key, value);
            self.places.insert((section.to_owned(), key.to_owned()), from.place.clone());
        }
    }

    fn define(
        &mut self,
        section: &str,
        key: &str,
        value: &str,
        (line, name): (Rc<Line>, Range<usize>),
        range: Range<usize>,
        uncut: Option<String>,
    ) {
        let pieces = vec![Piece { start: 0, line: Rc::clone(&line), range }];
        let place = Place { key: (line, name), pieces, uncut };
        self.section_mut(section).append(key, value);
        self.places.insert((section.to_owned(), key.to_owned()), place);
    }

    /// Adds a line to a key's value.
    fn extend(&mut self, section: &str, key: &str, piece: &str, (line, range): (&Rc<Line>, Range<usize>)) {
        let mut values = self.section_mut(section).iter_mut();
        let Some((_, value)) = values.find(|(name, _)| *name == key) else { return };
        value.push('\n');
        let start = value.len();
        value.push_str(piece);
        if let Some(place) = self.places.get_mut(&(section.to_owned(), key.to_owned())) {
            place.pieces.push(Piece { start, line: Rc::clone(line), range });
        }
    }

    fn section_mut(&mut self, section: &str) -> &mut Properties {
        self.values.entry(Some(section.to_owned())).or_insert_with(Properties::new)
    }

    /// Adds a file's sections and keys below what is already there.
    pub(super) fn scan(&mut self, file: &Path, text: &str, problems: &mut Problems) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut scan =
            Scan { doc: self, file: Rc::new(file.to_owned()), problems, section: None, key: Open::None, number: 0 };
        for line in lines(text) {
            scan.number += 1;
            scan.line(line);
        }
    }
}

/// Lines as Python counts them: ended by `\n`, `\r\n` or a lone `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// What an indented line would continue.
enum Open {
    /// Nothing.
    None,
    /// A key's value.
    Key(String),
    /// A key that was defined before: what continues it goes with it.
    Repeated,
}

struct Scan<'a> {
    doc: &'a mut Document,
    file: Rc<PathBuf>,
    problems: &'a mut Problems,
    section: Option<String>,
    key: Open,
    number: usize,
}

impl Scan<'_> {
    fn line(&mut self, text: &str) {
        let first = text.chars().next();
        if self.section.as_deref() == Some(UWSGI) && first != Some('[') {
            return self.uwsgi(text);
        }
        let rem = text.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("rem"));
        let starts_rem = rem && matches!(first, Some('r' | 'R'));
        if text.trim().is_empty() || matches!(first, Some('#' | ';')) || starts_rem {
            return;
        }
        if let Some(at) = text.find('\0') {
            let spot = self.plain(text, &[]).spot(&(at..at + 1));
            self.problems.error(code::LINE, spot, "a NUL character stands in this line");
            return;
        }
        if first.is_some_and(char::is_whitespace) {
            self.continuation(text);
        } else if first == Some('[') {
            self.head(text);
        } else {
            self.option(text);
        }
    }

    fn head(&mut self, text: &str) {
        // Whatever follows belongs to a section of its own, even where its head is broken.
        self.key = Open::None;
        let line = self.plain(text, &userinfos(text));
        let close = text.rfind(']').filter(|&close| close > 1);
        let Some(close) = close else {
            let spot = line.spot(&(0..text.trim_end().len()));
            self.problems
                .error(code::HEAD, spot, "this section's head is broken")
                .label("`[`, a name and `]` make a head");
            // Its name is good enough to know what may be shown of its lines.
            self.section = Some(text[1..].split([';', ']']).next().unwrap_or_default().trim().to_owned());
            return;
        };
        let after = text[close + 1..].trim();
        if !(after.is_empty() || after.starts_with([';', '#'])) {
            let spot = line.spot(&(close + 1..text.trim_end().len()));
            self.problems.warn(code::HEAD, spot, "what follows a section's head is ignored");
        }
        let name = text[1..close].to_owned();
        let spot = line.spot(&(0..close + 1));
        let same = |head: &&Head| head.section == name && head.spot.file == *self.file;
        if let Some(first) = self.doc.heads.iter().find(same).map(|head| head.spot.short()) {
            self.problems
                .warn(code::TWICE, spot.clone(), format!("[{name}] stands twice"))
                .note(format_args!("it continues the one at {first}; of two equal keys, the first counts"));
        }
        self.doc.section_mut(&name);
        self.doc.heads.push(Head { section: name.clone(), spot });
        self.section = Some(name);
    }

    fn option(&mut self, text: &str) {
        let Some(section) = self.section.clone() else {
            let spot = self.plain(text, &loose_secrets("", text)).spot(&(0..text.trim_end().len()));
            self.problems
                .error(code::LINE, spot, "this line stands before the first section")
                .help("begin with `[circus]`");
            return;
        };
        let delimiter = text.find(['=', ':']).filter(|&at| at > 0);
        let Some(delimiter) = delimiter else {
            self.key = Open::None;
            let spot = self.plain(text, &loose_secrets(&section, text)).spot(&(0..text.trim_end().len()));
            self.problems
                .error(code::LINE, spot, "this line is no `key = value`")
                .help("indent it if it continues the line above; begin it with `;` if it is a comment");
            return;
        };
        let name = text[..delimiter].trim_end();
        let rest = &text[delimiter + 1..];
        let mut start = delimiter + 1 + (rest.len() - rest.trim_start().len());
        let mut key = name.to_owned();
        if let Some((ours, legion)) = uwsgi::ours(name).zip(section.strip_prefix(LEGION)) {
            key = ours;
            start += uwsgi::addressee(&text[start..], legion.trim());
        }
        let name = 0..name.len();
        let whole_value = text[start..].trim_end();
        // Only the first `;` counts, and only after a blank.
        let before = |at: usize| text[..start + at].chars().next_back();
        let cut = whole_value.find(';').filter(|&at| before(at).is_some_and(char::is_whitespace));
        let value = cut.map_or(whole_value, |at| whole_value[..at].trim_end());
        let uncut = cut.map(|_| whole_value.to_owned());

        let secrets = secrets(text, &section, &key, start);
        let line = Rc::new(Line { file: Rc::clone(&self.file), number: self.number, text: text.to_owned(), secrets });
        let range = start..start + value.len();
        let value = if value == "\"\"" { "" } else { value };
        let list = keys::is_list(&section, &key);
        if let (true, Some(uncut)) = (list && value.starts_with("cmd:"), &uncut) {
            self.warn_of_cut(&key, &uncut[value.len()..], line.spot(&range));
        }
        match self.doc.get(&section, &key) {
            None => {
                self.doc.define(&section, &key, value, (line, name), range, uncut);
                self.key = Open::Key(key);
            }
            Some(first) if list && first.place.key.0.file == self.file => {
                self.doc.extend(&section, &key, value, (&line, range));
                self.key = Open::Key(key);
            }
            Some(first) => {
                // The same value again hurts nobody.
                if first.value != value {
                    let short = first.key_spot().short();
                    self.problems
                        .warn(code::TWICE, line.spot(&name), format!("`{key}` stands twice in [{section}]"))
                        .label("this one is ignored")
                        .note(format_args!("the first definition counts: {short}"));
                }
                self.key = Open::Repeated;
            }
        }
    }

    /// Warns of a shell's line that ends at a `;` which was perhaps meant for the shell.
    fn warn_of_cut(&mut self, key: &str, comment: &str, spot: Spot) {
        if !comment.trim().trim_start_matches(';').trim().is_empty() {
            self.problems
                .warn(code::QUOTES, spot, format!("the shell sees `{key}` only up to its ` ;`"))
                .note("after a blank, the first `;` of a value begins a comment, as in Circus")
                .help("if it is the shell's, write it right after the word before it: `a; b`");
        }
    }

    /// A line of `[uwsgi]`.
    fn uwsgi(&mut self, text: &str) {
        let bare = text.trim();
        if bare.is_empty() || bare.starts_with([';', '#']) {
            return;
        }
        let (option, rest) = bare.split_once('=').unwrap_or((bare, ""));
        let (option, value) = (option.trim_end().to_owned(), rest.trim().to_owned());
        let begin = text.len() - text.trim_start().len();
        let start = text.find('=').map_or(text.len(), |at| at + 1);
        let start = start + (text[start..].len() - text[start..].trim_start().len());
        let secrets = secrets(text, UWSGI, &option, start);
        let line = Rc::new(self.plain(text, &secrets));
        self.doc.uwsgi.push(Said { option, value, line, at: (begin, start) });
    }

    fn continuation(&mut self, text: &str) {
        let piece = text.trim();
        let start = text.len() - text.trim_start().len();
        let range = start..start + piece.len();
        let (section, key) = match (&self.section, &self.key) {
            (_, Open::Repeated) => return,
            (Some(section), Open::Key(key)) => (section.clone(), key.clone()),
            _ => {
                let section = self.section.as_deref().unwrap_or_default();
                let spot = self.plain(text, &loose_secrets(section, text)).spot(&range);
                self.problems
                    .error(code::LINE, spot, "this line is indented, and there is no value above that it continues")
                    .help("begin keys, sections and comments in the first column");
                return;
            }
        };
        let secret = secrets(text, &section, &key, start);
        let line = Rc::new(self.plain(text, &secret));
        self.doubt(&section, &key, piece, line.spot(&range));
        self.doc.extend(&section, &key, piece, (&line, range));
    }

    /// Warns where a continuation looks like something else.
    fn doubt(&mut self, section: &str, key: &str, piece: &str, spot: Spot) {
        let name = piece.split(['=', ':']).next().unwrap_or_default().trim_end();
        let what = if piece.starts_with([';', '#']) {
            "a comment"
        } else if piece.starts_with('[') && piece.ends_with(']') {
            "a section"
        } else if name.len() < piece.len() && keys::knows(section, name) {
            "a key of its own"
        } else {
            return;
        };
        self.problems
            .warn(code::CONTINUATION, spot, format!("this line is part of `{key}`, because it is indented"))
            .help(format_args!("begin it in the first column if it is meant to be {what}"));
    }

    fn plain(&self, text: &str, secrets: &[Range<usize>]) -> Line {
        Line { file: Rc::clone(&self.file), number: self.number, text: text.to_owned(), secrets: secrets.to_vec() }
    }
}

impl Line {
    /// The bytes `range` of this line, with secrets blotted out and columns counted in what is shown.
    fn spot(&self, range: &Range<usize>) -> Spot {
        let mut shown = String::new();
        let mut columns = 0_usize;
        let (mut first, mut end) = (None, None);
        let mut blotted = false;
        for (at, c) in self.text.char_indices() {
            if at >= range.start {
                first.get_or_insert(columns);
            }
            if at >= range.end {
                end.get_or_insert(columns);
            }
            let secret = self.secrets.iter().any(|secret| secret.contains(&at));
            if secret && !blotted {
                shown.push_str("***");
                columns += 3;
            } else if !secret {
                shown.push(match c {
                    '\t' => ' ',
                    // Control characters would act on the reader's terminal.
                    c if c.is_control() => '\u{b7}',
                    c => c,
                });
                columns += 1;
            }
            blotted = secret;
        }
        let first = first.unwrap_or(columns);
        let width = end.unwrap_or(columns).saturating_sub(first).max(1);
        let text = shown.trim_end().to_owned();
        Spot { file: self.file.to_path_buf(), line: self.number, column: first + 1, width, text }
    }
}

/// One secret, unless there is nothing in it.
fn blot(secret: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(secret).filter(|secret| !secret.is_empty()).collect()
}

fn whole(text: &str) -> Vec<Range<usize>> {
    let start = text.len() - text.trim_start().len();
    blot(start..text.trim_end().len())
}

/// What nobody may see of a line that is no `key = value`.
fn loose_secrets(section: &str, text: &str) -> Vec<Range<usize>> {
    if is_secret(section, text) { whole(text) } else { any_userinfo(text, 0) }
}

fn is_env(section: &str) -> bool {
    section == "env" || section.starts_with("env:")
}

/// Whether a key's whole value is nobody's business.
pub(super) fn is_secret(section: &str, key: &str) -> bool {
    let key = key.to_lowercase();
    let word = ["pass", "secret", "token"].iter().any(|word| key.contains(word));
    is_env(section) || (word && !key.ends_with("_file"))
}

/// What nobody may see of the line `text`, whose value begins at `start`.
fn secrets(text: &str, section: &str, key: &str, start: usize) -> Vec<Range<usize>> {
    if is_secret(section, key) {
        return blot(start..text.trim_end().len());
    }
    if section == UWSGI && matches!(key, "legion" | "legion-mcast") {
        return blot(uwsgi::cipher(&text[start..]).map_or(0..0, |at| start + at..text.trim_end().len()));
    }
    if section == "redis" || key == "redis_url" { any_userinfo(text, start) } else { userinfos(text) }
}

/// [`userinfos`], and where none is found, all that stands before the last `@`: a URL so broken that its
/// parts cannot be told apart may still hold a password.
fn any_userinfo(text: &str, start: usize) -> Vec<Range<usize>> {
    let found = userinfos(text);
    match text[start..].rfind('@') {
        Some(at) if found.is_empty() => blot(start..start + at),
        _ => found,
    }
}

/// The passwords in the URLs of a line: `://user:THIS@`, `://THIS@` and `pass=THIS`.
fn userinfos(text: &str) -> Vec<Range<usize>> {
    let end_of = |from: usize, ends: &[char]| text[from..].find(ends).map_or(text.len(), |at| from + at);
    let mut found = Vec::new();
    for (at, scheme) in text.match_indices("://") {
        let from = at + scheme.len();
        let end = end_of(from, &[' ', '\t', '"', '\'']);
        let Some(userinfo) = text[from..end].rfind('@').map(|at| from..from + at) else { continue };
        let secret = text[userinfo.clone()].find(':').map_or(userinfo.start, |colon| userinfo.start + colon + 1);
        found.push(secret..userinfo.end);
    }
    for (at, word) in text.match_indices("pass=").chain(text.match_indices("password=")) {
        let from = at + word.len();
        found.push(from..end_of(from, &['&', ' ', '\t', '"', '\'']));
    }
    found.retain(|range| !range.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str) -> (Document, Problems) {
        let (mut doc, mut problems) = (Document::default(), Problems::default());
        doc.scan(Path::new("t.ini"), text, &mut problems);
        (doc, problems)
    }

    fn value(text: &str) -> String {
        let (doc, problems) = scanned(&format!("[s]\n{text}"));
        assert_eq!(problems.0, []);
        doc.get("s", "k").expect("k").value.to_owned()
    }

    #[test]
    fn values_are_read_as_circus_reads_them() {
        let table = [
            ("k = v", "v"),
            ("k: v = w", "v = w"),
            ("k=", ""),
            ("k = \"\"", ""),
            ("k = \"a b\"", "\"a b\""),
            ("k = a ; b", "a"),
            ("k = a; b ; c", "a; b ; c"),
            ("k = a # b", "a # b"),
            ("k = ; b", ""),
            ("k = 100%", "100%"),
            ("k = a\n  b\n; comment\n\n# comment\nrem comment\n\tc ; d", "a\nb\nc ; d"),
            ("k =\n a", "\na"),
            ("k = a\r\n  b\r\n", "a\nb"),
            ("k = a\rx = b", "a"),
            ("k = a\nremark = b", "a"),
        ];
        for (text, expected) in table {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_first_definition_wins_and_the_loser_takes_its_continuation_along() {
        let (doc, problems) = scanned("[s]\nk = a\nk = b\n  c\n[t]\n[s]\nk = d\nj = e\n");
        assert_eq!(doc.get("s", "k").map(|e| e.value), Some("a"));
        assert_eq!(doc.get("s", "j").map(|e| e.value), Some("e"));
        let found: Vec<_> = problems.0.iter().map(|p| (p.line, p.code)).collect();
        assert_eq!(found, [(3, code::TWICE), (6, code::TWICE), (7, code::TWICE)]);
    }

    #[test]
    fn keys_keep_their_case_and_a_byte_order_mark_is_no_key() {
        let (doc, problems) = scanned("\u{feff}[s]\nK = a\nk = b");
        assert_eq!(problems.0, []);
        assert_eq!(doc.get("s", "K").map(|e| e.value), Some("a"));
        assert_eq!(doc.get("s", "k").map(|e| e.value), Some("b"));
    }

    #[test]
    fn each_part_of_a_value_knows_its_own_line() {
        let (doc, _) = scanned("[s]\nk = ab\n    cd\n");
        let entry = doc.get("s", "k").expect("k");
        let spot = entry.part(&(3..5));
        assert_eq!((spot.line, spot.column, spot.width), (3, 5, 2));
        let spot = entry.part(&(1..2));
        assert_eq!((spot.line, spot.column, spot.width), (2, 6, 1));
    }

    #[test]
    fn secrets_are_blotted_out_and_columns_follow() {
        let shown = |section: &str, text: &str| {
            let (doc, _) = scanned(&format!("[{section}]\n{text}"));
            let section = doc.sections()[0].to_owned();
            let entry = doc.entries(&section).next().expect("an entry");
            (entry.spot().text, entry.spot().width)
        };
        assert_eq!(shown("redis", "url = redis://u:pw@h/0"), ("url = redis://u:***@h/0".into(), 17));
        assert_eq!(shown("redis", "url = redis://p:w@x@h"), ("url = redis://p:***@h".into(), 15));
        assert_eq!(shown("redis", "url = redis:pw@h"), ("url = ***@h".into(), 5));
        assert_eq!(shown("redis", "url = unix:///s?pass=pw&db=1").0, "url = unix:///s?pass=***&db=1");
        assert_eq!(shown("redis", "password = pw").0, "password = ***");
        assert_eq!(shown("env", "KEY = value").0, "KEY = ***");
        assert_eq!(shown("watcher:w", "cmd = a -b amqp://pw@h x").0, "cmd = a -b amqp://***@h x");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let (doc, _) = scanned("[s]\nk = a\x1b[31m\n");
        assert_eq!(doc.get("s", "k").expect("k").spot().text, "k = a·[31m");
    }
}
