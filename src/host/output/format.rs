//! From lines to the bytes that a place takes.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::datagram::{self, frame};
use super::passage::{Passage, Source, Stream, body, lines};
use crate::model::spec::{Sink, StreamSpec, Syslog, SyslogAddress};

/// How times look where nothing is said, or nothing that can be understood.
const DEFAULT_TIME: &str = "%Y-%m-%d %H:%M:%S";

/// How the lines of one source look at one place.
#[derive(Debug)]
pub(super) struct Format {
    shape: Shape,
    /// strftime, where lines begin with their time.
    time: Option<String>,
    zone: TimeZone,
}

#[derive(Debug)]
enum Shape {
    /// As they came.
    Plain,
    /// In a colour: 1 to 7.
    Coloured(u8),
    /// Each a datagram of RFC 3164, with this severity.
    Syslog(SyslogLines, u8),
    /// Each a datagram of the journal's; these are its other fields.
    Journal { fields: Vec<u8> },
    /// As they came, in chunks for a Python class.
    Chunks,
}

impl Format {
    pub(super) fn new(spec: &StreamSpec, source: &Source, zone: TimeZone) -> Format {
        let mut time = spec.time_format.clone();
        let shape = match &spec.sink {
            Sink::File { .. } | Sink::Stdout | Sink::Memory => Shape::Plain,
            // Its time format is the class's own affair.
            Sink::Python { .. } => Shape::Chunks,
            Sink::Fancy { colour } => {
                time.get_or_insert_with(|| DEFAULT_TIME.into());
                Shape::Coloured(*colour)
            }
            Sink::Syslog(syslog) => {
                Shape::Syslog(SyslogLines::new(syslog, source.pid, zone.clone()), severity(source.stream))
            }
            Sink::Journal { ident } => {
                let mut fields = Vec::new();
                datagram::field("PRIORITY", severity(source.stream).to_string().as_bytes(), &mut fields);
                datagram::field("SYSLOG_IDENTIFIER", ident.as_bytes(), &mut fields);
                datagram::field("SYSLOG_PID", source.pid.to_string().as_bytes(), &mut fields);
                datagram::field("CIRCUS_WATCHER", source.watcher.to_string().as_bytes(), &mut fields);
                datagram::field("CIRCUS_WID", source.wid.to_string().as_bytes(), &mut fields);
                Shape::Journal { fields }
            }
        };
        Format { shape, time, zone }
    }

    /// Whether its bytes stand behind each other as text, so that a line begun by one is in the way of another.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.shape, Shape::Plain | Shape::Coloured(_))
    }

    /// Adds a passage to `to`; `within` says whether its first line was begun there, right before.
    pub(super) fn put(&self, passage: &Passage<'_>, within: bool, to: &mut Vec<u8>) {
        let begin = self.time.as_ref().map(|format| {
            let time = strftime(format, &passage.time.to_zoned(self.zone.clone()));
            format!("{time} [{}] | ", passage.source.pid).into_bytes()
        });
        let begin = begin.unwrap_or_default();
        match &self.shape {
            Shape::Plain if begin.is_empty() => to.extend_from_slice(passage.bytes),
            Shape::Plain => each_line(passage.bytes, within, &begin, |begin, line| {
                to.extend_from_slice(begin);
                to.extend_from_slice(line);
            }),
            Shape::Coloured(colour) => each_line(passage.bytes, within, &begin, |begin, line| {
                to.extend_from_slice(format!("\x1b[0;3{colour};40m").as_bytes());
                to.extend_from_slice(begin);
                to.extend_from_slice(body(line));
                to.extend_from_slice(b"\x1b[0m");
                to.extend_from_slice(&line[body(line).len()..]);
            }),
            Shape::Syslog(syslog, severity) => each_line(passage.visible(), within, &begin, |begin, line| {
                syslog.put(*severity, passage.time, begin, line, to);
            }),
            Shape::Chunks => frame(to, |to| {
                to.extend_from_slice(&passage.source.pid.to_ne_bytes());
                to.extend_from_slice(passage.bytes);
            }),
            Shape::Journal { fields } => each_line(passage.visible(), within, &begin, |begin, line| {
                frame(to, |to| {
                    to.extend_from_slice(fields);
                    datagram::field("MESSAGE", &[begin, body(line)].concat(), to);
                });
            }),
        }
    }
}

/// How one program's lines look to a syslog server: `<PRIORITY>TIME HOST IDENT[PID]: LINE` (RFC 3164).
#[derive(Debug)]
pub(super) struct SyslogLines {
    facility: u8,
    host: Option<String>,
    /// With the pid.
    ident: String,
    /// How many bytes a server takes.
    longest: usize,
    zone: TimeZone,
}

impl SyslogLines {
    pub(super) fn new(syslog: &Syslog, pid: u32, zone: TimeZone) -> SyslogLines {
        let (host, longest) = match syslog.address {
            // A server of this machine knows where it is.
            SyslogAddress::Unix(_) => (None, datagram::LONGEST_UNIX),
            SyslogAddress::Udp { .. } => (Some(hostname()), datagram::LONGEST_UDP),
        };
        let ident = format!("{}[{pid}]", one_word(&syslog.ident));
        SyslogLines { facility: syslog.facility, host, ident, longest, zone }
    }

    /// Adds a line, which begins with `begin`, in as many datagrams as it takes. `severity` is syslog's: 3 for an error.
    pub(super) fn put(&self, severity: u8, time: Timestamp, begin: &[u8], line: &[u8], to: &mut Vec<u8>) {
        let priority = self.facility * 8 + severity;
        let time = strftime("%b %e %H:%M:%S", &time.to_zoned(self.zone.clone()));
        let host = self.host.as_ref().map(|host| format!("{host} ")).unwrap_or_default();
        let head = [format!("<{priority}>{time} {host}{}: ", self.ident).as_bytes(), begin].concat();
        let room = self.longest.saturating_sub(head.len()).max(1);
        for part in body(line).chunks(room) {
            frame(to, |to| {
                to.extend_from_slice(&head);
                // A server may take it for the end.
                to.extend(part.iter().map(|&byte| if byte == 0 { b' ' } else { byte }));
            });
        }
    }
}

/// Gives each line with what it is to begin with: nothing where it was begun before.
fn each_line(bytes: &[u8], within: bool, begin: &[u8], mut give: impl FnMut(&[u8], &[u8])) {
    for (number, line) in lines(bytes).enumerate() {
        give(if within && number == 0 { b"" } else { begin }, line);
    }
}

/// The time as `format` has it. One that jiff does not understand gives the default, rather than no time at all.
fn strftime(format: &str, time: &Zoned) -> String {
    let written = strtime::format(format, time).or_else(|_| strtime::format(DEFAULT_TIME, time));
    written.unwrap_or_else(|_| time.timestamp().to_string())
}

/// Syslog's `info`, or `err` for stderr.
fn severity(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    }
}

/// A name as syslog can tell it from what follows.
fn one_word(name: &str) -> String {
    name.replace(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '[' | ']'), "_")
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "-".into(), |name| one_word(&name.to_string_lossy()))
}
