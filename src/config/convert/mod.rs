//! Files of other supervisors → ours, with a note for all that has no equal.
//!
//! ```text
//!   text ──Format::of──► which program's it is ──supervisor, procfile, beatcop, circus, uwsgi──► Page ──judge──► text, notes
//! ```
//!
//! Sections, keys and comments keep their order. A key is written as one of ours, as a remark where it needs none, or as
//! a note at its place; there is no fourth way, for keys that nobody knows either. In the end the reader itself looks at it:
//! what it refuses is a note, too.
//!
//! Invariants: what is written can be read, but for what a machine lacks, and means what it did, as far as no note says
//! otherwise. No note repeats a secret.

mod judge;
mod page;
mod source;

mod beatcop;
mod circus;
mod procfile;
mod supervisor;
mod uwsgi;

use std::path::{Path, PathBuf};

use super::Surroundings;
use super::keys::nearest;
use judge::{Judged, Rigour};
use page::{NOTE, Page};

/// What is converted.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// What it is called, for people: a path, or `-`.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// The directory it is in, where that is known.
    pub here: Option<&'a Path>,
    /// The text of the `.env` beside a Procfile.
    pub env_file: Option<&'a str>,
    /// The files that it [includes](included).
    pub included: &'a [Included],
}

/// A file that another one includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// What the original was.
    pub format: Format,
    /// The file.
    pub text: String,
    /// Its notes, which stand in it as comments, too.
    pub notes: Vec<String>,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// supervisord.conf
    Supervisor,
    /// A Procfile, of foreman, honcho or Heroku.
    Procfile,
    /// circus.ini
    Circus,
    /// BeatCop's ini.
    BeatCop,
    /// uWSGI's ini.
    Uwsgi,
}

/// Sections by which a file is known: their head, or the beginning of it.
const SIGNS: &[(&str, Format)] = &[
    ("supervisord", Format::Supervisor),
    ("supervisorctl", Format::Supervisor),
    ("unix_http_server", Format::Supervisor),
    ("inet_http_server", Format::Supervisor),
    ("program:", Format::Supervisor),
    ("group:", Format::Supervisor),
    ("fcgi-program:", Format::Supervisor),
    ("eventlistener:", Format::Supervisor),
    ("beatcop", Format::BeatCop),
    ("uwsgi", Format::Uwsgi),
    ("circus", Format::Circus),
    ("watcher:", Format::Circus),
    ("socket:", Format::Circus),
    ("plugin:", Format::Circus),
];

impl Format {
    /// All of them.
    pub const ALL: [Format; 5] = [Format::Supervisor, Format::Procfile, Format::Circus, Format::BeatCop, Format::Uwsgi];

    /// Its name in a command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Supervisor => "supervisord",
            Format::Procfile => "procfile",
            Format::Circus => "circus",
            Format::BeatCop => "beatcop",
            Format::Uwsgi => "uwsgi",
        }
    }

    /// The format of this name.
    ///
    /// # Errors
    /// There is none, and which was probably meant.
    pub fn parse(name: &str) -> Result<Format, String> {
        let names = || Format::ALL.map(Format::name);
        let wanted = name.to_lowercase();
        Format::ALL.into_iter().find(|format| format.name() == wanted).ok_or_else(|| {
            let hint = nearest(&wanted, names()).map(|meant| format!("; did you mean {meant}?"));
            format!("it is one of {}{}", names().join(", "), hint.unwrap_or_default())
        })
    }

    /// Whose file usually has such a name.
    fn of_name(name: &str) -> Option<Format> {
        let name = name.rsplit('/').next().unwrap_or_default().to_lowercase();
        let usual = [
            ("supervisor", Format::Supervisor),
            ("procfile", Format::Procfile),
            ("circus", Format::Circus),
            ("beatcop", Format::BeatCop),
            ("uwsgi", Format::Uwsgi),
        ];
        usual.into_iter().find(|(start, _)| name.starts_with(start)).map(|(_, format)| format)
    }

    /// Whose file a text is, by its sections, or its lines where it has none; where that leaves it open, by its name.
    fn of(name: &str, text: &str) -> Result<Format, String> {
        let (signs, heads) = signs(text);
        let mut kinds: Vec<Format> = signs.iter().map(|(_, format)| *format).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let fits = |named: &Format| match kinds.is_empty() {
            true => heads.is_empty() == (*named == Format::Procfile) && !text.trim().is_empty(),
            false => kinds.contains(named),
        };
        let named = Format::of_name(name).filter(fits);
        match (&kinds[..], named) {
            ([one], _) => Ok(*one),
            (_, Some(named)) => Ok(named),
            ([], None) if heads.is_empty() && procfile::is_one(text) => Ok(Format::Procfile),
            ([], None) => {
                let hint = heads.first().map(|head| format!(" (its first section is [{head}])")).unwrap_or_default();
                Err(format!(
                    "nobody's file is recognised{hint}; --format says whose it is: {}",
                    Format::ALL.map(Format::name).join(", ")
                ))
            }
            (_, None) => {
                let first = |format: &Format| signs.iter().find(|(_, of)| of == format).map_or("", |(head, _)| head);
                let told: Vec<String> =
                    kinds.iter().map(|kind| format!("{} by [{}]", kind.name(), first(kind))).collect();
                Err(format!("it may be the file of several: {}; --format says whose it is", told.join(", ")))
            }
        }
    }
}

/// The heads by which a text is known, and all it has.
fn signs(text: &str) -> (Vec<(&str, Format)>, Vec<&str>) {
    let heads = text.lines().filter_map(|line| Some(line.trim_end().strip_prefix('[')?.split_once(']')?.0));
    let heads: Vec<&str> = heads.collect();
    let sign = |head: &&&str| {
        let fits = |sign: &str| if sign.ends_with(':') { head.starts_with(sign) } else { **head == sign };
        SIGNS.iter().find(|(sign, _)| fits(sign))
    };
    (heads.iter().filter_map(|head| Some((*head, sign(&head)?.1))).collect(), heads)
}

/// The files that belong to a supervisord.conf, in the order in which they are read. Other files have none, or keep those
/// they name, as a circus.ini does.
pub fn included(original: &Original<'_>, format: Option<Format>, around: &Surroundings) -> Vec<PathBuf> {
    match format.map_or_else(|| Format::of(original.name, original.text), Ok) {
        Ok(Format::Supervisor) => supervisor::included(original, around),
        _ => Vec::new(),
    }
}

/// The same in our dialect. Whose file it is shows in its text, unless `format` says so.
///
/// # Errors
/// It is nobody's, several programs', not the one's it is said to be; or that program could not read it either.
pub fn convert(original: &Original<'_>, format: Option<Format>, around: &Surroundings) -> Result<Converted, String> {
    let (signs, heads) = signs(original.text);
    let format = match format {
        None => Format::of(original.name, original.text)?,
        Some(said) => {
            let own = signs.iter().any(|(_, format)| *format == said);
            let other = signs.iter().find(|(_, format)| *format != said);
            match (own, other) {
                (false, Some((head, other))) => {
                    return Err(format!("it is no file of {}: [{head}] is {}'s", said.name(), other.name()));
                }
                (false, None) if said == Format::Procfile && !heads.is_empty() => {
                    return Err(format!("it is no Procfile: it has sections, [{}] is the first", heads[0]));
                }
                (false, None) if said != Format::Procfile && heads.is_empty() => {
                    return Err(format!("it is no file of {}: it has no section", said.name()));
                }
                _ => said,
            }
        }
    };
    let name = match original.name {
        "-" => "standard input",
        name => name.rsplit('/').next().unwrap_or(name),
    };
    let mut page = Page::new(&[
        format!("Made by `circusctl init` from {name} ({}).", format.name()),
        format!(
            "What has no equal, or another meaning, stands at its place, in a line that begins with `{}`.",
            NOTE.trim_end()
        ),
    ]);
    match format {
        Format::Supervisor => supervisor::convert(original, around, &mut page)?,
        Format::Procfile => procfile::convert(original, &mut page)?,
        Format::Circus => page.text(&circus::convert(original, around)),
        Format::BeatCop => beatcop::convert(original, &mut page)?,
        Format::Uwsgi => uwsgi::convert(original, around, &mut page)?,
    }
    let text = page.finish();
    let mut judged = Judged::new(&text);
    judged.judge(Rigour::Refused, around);
    let text = judged.finish();
    let notes = text.lines().filter_map(|line| line.strip_prefix(NOTE)).map(str::to_owned).collect();
    Ok(Converted { format, text, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_a_file_is_shows_in_its_sections() {
        let of = |text: &str| Format::of("x", text).map_err(|why| why.split(';').next().unwrap_or_default().to_owned());
        assert_eq!(of("; x\n[include]\nfiles = a\n[program:x] ; y\n"), Ok(Format::Supervisor));
        assert_eq!(of("[redis]\nhost = h\n[beatcop]\n"), Ok(Format::BeatCop));
        assert_eq!(of("[uwsgi]\nmaster = true\n"), Ok(Format::Uwsgi));
        assert_eq!(of("[watcher:x]\n"), Ok(Format::Circus));
        assert_eq!(of("# x\nweb: run\n"), Ok(Format::Procfile));
        assert_eq!(of("[redis]\nhost = h\n"), Err("nobody's file is recognised (its first section is [redis])".into()));
        assert_eq!(
            of("[program:x]\n[watcher:y]\n"),
            Err("it may be the file of several: supervisord by [program:x], circus by [watcher:y]".into())
        );
        assert_eq!(Format::of("/etc/Procfile.dev", "web: x\nnot a process\n"), Ok(Format::Procfile));
        assert_eq!(Format::of("circus.ini", "[program:x]\n[watcher:y]\n"), Ok(Format::Circus));
        assert_eq!(Format::of("uwsgi.ini", "[watcher:y]\n"), Ok(Format::Circus));
        assert_eq!(Format::of("supervisord.conf", "[include]\nfiles = x\n"), Ok(Format::Supervisor));
        assert!(of("").is_err() && of("<uwsgi>\n</uwsgi>\n").is_err() && of("a = b\n").is_err());
    }

    #[test]
    fn a_format_that_the_text_belies_is_refused() {
        let as_ = |text, format| {
            let original = Original { name: "x", text, here: None, env_file: None, included: &[] };
            convert(&original, Some(format), &Surroundings::default()).map(|converted| converted.format)
        };
        assert_eq!(
            as_("[program:x]\ncommand = y\n", Format::Circus),
            Err("it is no file of circus: [program:x] is supervisord's".into())
        );
        assert_eq!(as_("[x]\n", Format::Procfile), Err("it is no Procfile: it has sections, [x] is the first".into()));
        assert_eq!(as_("web: x\n", Format::Supervisor), Err("it is no file of supervisord: it has no section".into()));
        // Of two that it may be, it is the one that was said.
        assert_eq!(as_("[program:x]\ncommand = y\n[watcher:y]\n", Format::Supervisor), Ok(Format::Supervisor));
        assert_eq!(Format::parse("supervisor").unwrap_err().split("; ").nth(1), Some("did you mean supervisord?"));
    }
}
