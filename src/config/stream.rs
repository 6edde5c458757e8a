//! `stdout_stream.*`, `stderr_stream.*` and `logoutput`: where output goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::build::Build;
use super::check::host_and_port;
use super::hook::is_dotted;
use super::keys::nearest;
use super::problem::{Spot, code};
use super::settings::{Set, Settings};
use super::value::{Value, Wrong, wrong};
use crate::model::names::WatcherName;
use crate::model::spec::{LogOutput, Output, Rollover, Rotation, Sink, StreamSpec, Syslog, SyslogAddress, WatcherSpec};

/// A class of streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    File,
    Timed,
    Watched,
    Stdout,
    Fancy,
    Queue,
    Syslog,
    Journal,
    /// One in Python, by its dotted name.
    Python(String),
}

/// The classes that need no Python, each with the options it knows.
const CLASSES: &[(&str, Class, &[&str])] = &[
    ("FileStream", Class::File, &["filename", "max_bytes", "backup_count", "time_format"]),
    (
        "TimedRotatingFileStream",
        Class::Timed,
        &["filename", "backup_count", "time_format", "rotate_when", "rotate_interval", "utc"],
    ),
    ("WatchedFileStream", Class::Watched, &["filename", "time_format"]),
    ("StdoutStream", Class::Stdout, &["time_format"]),
    ("FancyStdoutStream", Class::Fancy, &["color", "time_format"]),
    ("QueueStream", Class::Queue, &[]),
    ("SyslogStream", Class::Syslog, &["address", "ident"]),
    ("JournalStream", Class::Journal, &["ident"]),
];

const COLOURS: [&str; 7] = ["red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/// What Circus's FancyStdoutStream writes unless told otherwise.
const FANCY_TIME: &str = "%Y-%m-%d %H:%M:%S";

/// By their numbers, from 0.
const FACILITIES: &str = "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp security console \
                          solaris-cron local0 local1 local2 local3 local4 local5 local6 local7";

impl Class {
    /// The class of this name, with or without `circus.stream.` before it.
    pub(super) fn parse(text: &str) -> Result<Class, Wrong> {
        let ours = text.strip_prefix("circus.stream.").map(|rest| rest.rsplit('.').next().unwrap_or(rest));
        let short = ours.unwrap_or(text);
        if let Some((_, class, _)) = CLASSES.iter().find(|(name, ..)| *name == short) {
            return Ok(class.clone());
        }
        if ours.is_none() && is_dotted(text) && text.contains(['.', ':']) {
            return Ok(Class::Python(text.to_owned()));
        }
        let wrong = wrong("is no class of streams");
        match nearest(short, CLASSES.iter().map(|(name, ..)| *name)) {
            Some(known) => Err(wrong.label(format!("did you mean `{known}`?"))),
            None => {
                let known: Vec<&str> = CLASSES.iter().map(|(name, ..)| *name).collect();
                Err(wrong
                    .label("neither one of ours, nor a dotted name in Python")
                    .help(format!("ours are {}", known.join(", "))))
            }
        }
    }

    /// Its name and the options it knows; nothing where any may be.
    fn row(&self) -> Option<(&'static str, &'static [&'static str])> {
        CLASSES.iter().find(|(_, class, _)| class == self).map(|(name, _, options)| (*name, *options))
    }
}

/// `red` to `white`: 1 to 7.
pub(super) fn colour(text: &str) -> Result<u8, Wrong> {
    let text = text.to_lowercase();
    match (1..).zip(COLOURS).find(|(_, name)| *name == text) {
        Some((number, _)) => Ok(number),
        None => Err(wrong(format!("must be one of {}", COLOURS.join(", "))).label("this is none of them")),
    }
}

/// `S`, `M`, `H`, `D`, `midnight`, `W0` to `W6`, in any case.
pub(super) fn rollover(text: &str) -> Result<Rollover, Wrong> {
    match text.to_uppercase().as_str() {
        "S" => Ok(Rollover::Seconds),
        "M" => Ok(Rollover::Minutes),
        "H" => Ok(Rollover::Hours),
        "D" => Ok(Rollover::Days),
        "MIDNIGHT" => Ok(Rollover::Midnight),
        upper => match upper.strip_prefix('W').and_then(|day| day.parse().ok()) {
            Some(day @ 0..=6) => Ok(Rollover::Weekday(day)),
            _ => Err(wrong("must be S, M, H, D, midnight or W0 (Monday) to W6").label("this is none of them")),
        },
    }
}

/// `syslog://host[:port]?facility` or `syslog:///dev/log?facility`.
pub(super) fn syslog(text: &str) -> Result<(SyslogAddress, u8), Wrong> {
    let form = "syslog://HOST:PORT?FACILITY or syslog:///dev/log?FACILITY";
    let Some(rest) = text.strip_prefix("syslog://") else {
        return Err(wrong(format!("must be {form}")).label("this is neither"));
    };
    let (place, facility) = rest.split_once('?').unwrap_or((rest, "user"));
    let number =
        (0..).zip(FACILITIES.split(' ')).find(|(_, name)| *name == facility.to_lowercase()).map(|(number, _)| number);
    let Some(number) = number else {
        let wrong = wrong("must end in a facility of syslog");
        return Err(match nearest(facility, FACILITIES.split(' ')) {
            Some(known) => wrong.label(format!("did you mean `{known}`?")),
            None => wrong.label("this is none").help("user, daemon and local0 to local7 are some; without one: user"),
        });
    };
    let address = match place.starts_with('/') {
        true => SyslogAddress::Unix(place.into()),
        false => host_and_port(place, Some(514)).map(|(host, port)| SyslogAddress::Udp { host, port })?,
    };
    Ok((address, number))
}

/// `logoutput`: `-` and `stdout` are both stderr, as in Circus.
pub(super) fn log_output(text: &str) -> Result<LogOutput, Wrong> {
    match text {
        "-" | "stdout" => Ok(LogOutput::Stderr),
        _ if text.contains("://") => {
            let (address, facility) = syslog(text)?;
            Ok(LogOutput::Syslog(Syslog { address, facility, ident: "circus-agent".into() }))
        }
        path => Ok(LogOutput::File(path.into())),
    }
}

impl Build<'_> {
    /// Where one of a watcher's two outputs goes.
    pub(super) fn output(&mut self, name: &WatcherName, settings: &Settings<'_>, stream: &str) -> Output {
        let close = format!("close_child_{stream}");
        let prefix = format!("{stream}_stream.");
        let options: Vec<&Set<'_>> = settings.all().filter(|set| set.entry.key.starts_with(&prefix)).collect();
        let filename = settings.get(&format!("{prefix}filename")).filter(|set| set.value != Value::Unset);
        let class = settings.get(&format!("{prefix}class")).and_then(|set| match &set.value {
            Value::Class(class) => Some(class.clone()),
            _ => None,
        });
        let Some(class) = class.or(filename.map(|_| Class::File)) else {
            self.refuse_loose_options(settings, stream, &options);
            return if settings.bool(&close) { Output::Null } else { Output::Inherit };
        };
        if let Some(set) = settings.get(&close).filter(|set| set.value == Value::Bool(true)) {
            self.problems
                .error(code::CONFLICT, set.entry.spot(), format!("{stream} cannot go to a stream and to /dev/null"))
                .help(format_args!("take `{close}` or the keys of `{stream}_stream` out"));
        }
        self.check_options(&class, &prefix, &options);
        match self.sink(name, settings, &prefix, class) {
            Some(stream) => Output::Stream(stream),
            None => Output::Inherit,
        }
    }

    /// Options without a class and without a file: nothing would come of them.
    fn refuse_loose_options(&mut self, settings: &Settings<'_>, stream: &str, options: &[&Set<'_>]) {
        let wrong_class = self.doc.get(settings.head, &format!("{stream}_stream.class")).is_some_and(|class| {
            // It has its own problem.
            !class.value.is_empty() && settings.get(class.key).is_none()
        });
        let loose = options.iter().find(|set| !set.is_default() && set.value != Value::Unset && set.works());
        if let (Some(set), false) = (loose, wrong_class) {
            let key = set.entry.key;
            self.problems
                .error(code::MISSING, set.entry.key_spot(), format!("`{key}` belongs to no stream"))
                .help(format_args!("write `{stream}_stream.filename = /path/to/file`, or a `{stream}_stream.class`"));
        }
    }

    /// Says which options the class does not know.
    fn check_options(&mut self, class: &Class, prefix: &str, options: &[&Set<'_>]) {
        let Some((class, known)) = class.row() else { return };
        for set in options {
            let key = set.entry.key;
            let option = key.strip_prefix(prefix).unwrap_or(key);
            if option == "class" || known.contains(&option) || !set.works() {
                continue;
            }
            if set.key.name.ends_with('*') {
                let problem =
                    self.problems.error(code::UNKNOWN_KEY, set.entry.key_spot(), format!("unknown key `{key}`"));
                match nearest(option, known.iter().copied()) {
                    Some(meant) => problem.label(format!("did you mean `{prefix}{meant}`?")),
                    None => problem.label(format!("{class} has no such option")),
                };
            } else if !set.is_default() && set.value != Value::Unset {
                self.problems
                    .warn(code::NO_EFFECT, set.entry.key_spot(), format!("`{key}` has no effect here"))
                    .label(format!("{class} has no such option"));
            }
        }
    }

    fn sink(&mut self, name: &WatcherName, settings: &Settings<'_>, prefix: &str, class: Class) -> Option<StreamSpec> {
        let key = |option: &str| format!("{prefix}{option}");
        let set = settings.get(&key("class")).or_else(|| settings.get(&key("filename")))?;
        let ident = || settings.text(&key("ident")).unwrap_or_else(|| name.to_string());
        let mut time_format = settings.text(&key("time_format"));
        let rotation = match class {
            Class::File => match settings.number(&key("max_bytes")).unwrap_or(0) {
                0 => Rotation::Never,
                max_bytes => {
                    let backups = settings.number(&key("backup_count")).unwrap_or(0);
                    self.warn_of_loss(settings, prefix, backups);
                    Rotation::Size { max_bytes, backups }
                }
            },
            Class::Timed => Rotation::Time {
                every: self.rollover(settings, prefix, set)?,
                interval: settings.number(&key("rotate_interval")).unwrap_or(1),
                utc: settings.bool(&key("utc")),
                backups: settings.number(&key("backup_count")).unwrap_or(0),
            },
            _ => Rotation::Watched,
        };
        let sink = match class {
            Class::File | Class::Timed | Class::Watched => {
                let Some(path) = settings.path(&key("filename")) else {
                    self.problems
                        .error(code::MISSING, set.entry.spot(), "this stream needs a file")
                        .help(format_args!("write `{prefix}filename = /path/to/file`"));
                    return None;
                };
                Sink::File { path, rotation }
            }
            Class::Stdout => Sink::Stdout,
            Class::Fancy => {
                time_format.get_or_insert_with(|| FANCY_TIME.to_owned());
                Sink::Fancy { colour: settings.number(&key("color")).unwrap_or_else(|| usual_colour(name)) }
            }
            Class::Queue => Sink::Memory,
            Class::Syslog => {
                let Some(Value::Syslog(address, facility)) = settings.value(&key("address")) else { return None };
                Sink::Syslog(Syslog { address, facility, ident: ident() })
            }
            Class::Journal => Sink::Journal { ident: ident() },
            Class::Python(class) => {
                self.need_python(set, "a stream in Python");
                time_format = None;
                let own = settings.all().filter(|set| set.entry.key != key("class"));
                let option = |set: &Set<'_>| Some((set.entry.key.strip_prefix(prefix)?.to_owned(), set.text.clone()));
                Sink::Python { class, options: own.filter_map(option).collect() }
            }
        };
        Some(StreamSpec { sink, time_format })
    }

    /// Circus went on writing to the same file, beyond every limit.
    fn warn_of_loss(&mut self, settings: &Settings<'_>, prefix: &str, backups: u32) {
        if let (0, Some(set)) = (backups, settings.get(&format!("{prefix}max_bytes"))) {
            self.problems
                .warn(code::NO_EFFECT, set.entry.spot(), "at this size, the file begins anew")
                .label("what it held is gone")
                .help(format_args!("`{prefix}backup_count = 3` keeps three old ones"));
        }
    }

    fn rollover(&mut self, settings: &Settings<'_>, prefix: &str, set: &Set<'_>) -> Option<Rollover> {
        let key = format!("{prefix}rotate_when");
        if let Some(Value::Rollover(every)) = settings.value(&key) {
            return Some(every);
        }
        // One that is there and wrong has its own problem.
        if self.doc.get(settings.head, &key).is_none_or(|entry| entry.value.is_empty()) {
            self.problems
                .error(code::MISSING, set.entry.spot(), "this stream needs to know when a new file begins")
                .help(format_args!("write `{key} = midnight`, for instance"));
        }
        None
    }

    /// Warns where two watchers write to one file, and refuses a file whose directory is not there.
    pub(super) fn check_logs(
        &mut self,
        watcher: &WatcherSpec,
        settings: &Settings<'_>,
        logs: &mut BTreeMap<PathBuf, (WatcherName, Spot)>,
    ) {
        for (key, output) in
            [("stdout_stream.filename", &watcher.program.stdout), ("stderr_stream.filename", &watcher.program.stderr)]
        {
            let (Some(set), Some(path)) = (settings.get(key), file_of(output)) else { continue };
            let spot = set.entry.spot();
            match logs.get(path) {
                Some((other, first)) if *other != watcher.name => {
                    let message = format!("`{}` and `{other}` write to one file", watcher.name);
                    self.problems
                        .warn(code::SHARED_LOG, spot, message)
                        .label("their lines will mix")
                        .note(format_args!("the other is at {}", first.short()));
                }
                Some(_) => {}
                None => {
                    self.check_directory(path, set);
                    logs.insert(path.to_owned(), (watcher.name.clone(), spot));
                }
            }
        }
    }

    /// Says that a file's directory is not there: no process would start.
    pub(super) fn check_directory(&mut self, path: &Path, set: &Set<'_>) {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            let message = format!("there is no directory {} on this machine", directory.display());
            self.problems
                .error(code::DIRECTORY, set.entry.spot(), message)
                .label("so there can be no such file")
                .help(format_args!("mkdir -p {}", directory.display()));
        }
    }
}

/// The file that an output goes to.
fn file_of(output: &Output) -> Option<&Path> {
    match output {
        Output::Stream(StreamSpec { sink: Sink::File { path, .. }, .. }) => Some(path),
        _ => None,
    }
}

/// A colour by the watcher's name: Circus draws one at each start, and a reload would then see a change.
fn usual_colour(name: &WatcherName) -> u8 {
    let sum = name.as_str().bytes().fold(0_usize, |sum, byte| sum + usize::from(byte));
    (1..).zip(COLOURS).nth(sum % COLOURS.len()).map_or(1, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_known_by_both_their_names() {
        for (name, class, _) in CLASSES {
            assert_eq!(Class::parse(name).as_ref(), Ok(class));
            assert_eq!(Class::parse(&format!("circus.stream.{name}")).as_ref(), Ok(class));
        }
        assert_eq!(Class::parse("circus.stream.file_stream.FileStream"), Ok(Class::File));
        assert_eq!(Class::parse("my.module.Stream"), Ok(Class::Python("my.module.Stream".into())));
        assert_eq!(Class::parse("StdOutStream").unwrap_err().label, "did you mean `StdoutStream`?");
        for text in ["Logger", "circus.stream.Nothing", "a b.C", "my/stream"] {
            assert!(Class::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn units_of_time_come_in_any_case() {
        let table = [("s", Rollover::Seconds), ("Midnight", Rollover::Midnight), ("w0", Rollover::Weekday(0))];
        for (text, unit) in table {
            assert_eq!(rollover(text), Ok(unit), "{text}");
        }
        for text in ["W7", "W", "W-1", "year"] {
            assert!(rollover(text).is_err(), "{text}");
        }
    }

    #[test]
    fn syslog_has_a_usual_port_and_facility() {
        let udp = |host: &str, port| SyslogAddress::Udp { host: host.into(), port };
        let table = [
            ("syslog://loghost", (udp("loghost", 514), 1)),
            ("syslog://loghost:5140?local7", (udp("loghost", 5140), 23)),
            ("syslog://[::1]?daemon", (udp("::1", 514), 3)),
            ("syslog:///dev/log?LOCAL0", (SyslogAddress::Unix("/dev/log".into()), 16)),
        ];
        for (text, found) in table {
            assert_eq!(syslog(text), Ok(found), "{text}");
        }
        for text in ["syslog://", "syslog://h:x", "syslog://h?nothing", "udp://h", "syslog://?user"] {
            assert!(syslog(text).is_err(), "{text}");
        }
    }
}
