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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::super::datagram::unframe;
    use super::*;
    use crate::model::event::ProcessId;
    use crate::model::names::WatcherName;

    fn source() -> Arc<Source> {
        let watcher = WatcherName::parse("web").unwrap();
        Arc::new(Source { process: ProcessId(1), watcher, wid: 2, pid: 47, stream: Stream::Stderr })
    }

    fn format(sink: Sink, time_format: Option<&str>, bytes: &[u8], within: bool) -> Vec<u8> {
        let source = source();
        let spec = StreamSpec { sink, time_format: time_format.map(String::from) };
        let passage = Passage { source: &source, time: Timestamp::UNIX_EPOCH, bytes, continues: within };
        let mut to = Vec::new();
        Format::new(&spec, &source, TimeZone::UTC).put(&passage, within, &mut to);
        to
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_that_goes_on_has_no_second_time_but_its_colour() {
        let stamped = format(Sink::Stdout, Some("%H:%M"), b"a\nb", true);
        assert_eq!(text(stamped), "a\n00:00 [47] | b");
        let fancy = format(Sink::Fancy { colour: 3 }, None, b"a\nb", true);
        let expected = "\x1b[0;33;40ma\x1b[0m\n\x1b[0;33;40m1970-01-01 00:00:00 [47] | b\x1b[0m";
        assert_eq!(text(fancy), expected);
    }

    #[test]
    fn a_time_format_that_means_nothing_gives_the_default() {
        assert_eq!(text(format(Sink::Stdout, Some("%!"), b"a\n", false)), "1970-01-01 00:00:00 [47] | a\n");
    }

    #[test]
    fn the_journal_gets_each_line_with_its_fields_whatever_bytes_are_in_it() {
        let buffer = format(Sink::Journal { ident: "app\nFAKE=1".into() }, None, b"one\nb\0\xff=\r\n", false);
        let mut rest = buffer.as_slice();
        for line in [b"one" as &[u8], b"b\0\xff=\r"] {
            let (mut entry, behind) = unframe(rest).unwrap();
            let mut fields = Vec::new();
            // As the journal reads it: a name, a length, so many bytes.
            while let Some(at) = entry.iter().position(|&byte| byte == b'\n') {
                let (length, value) = entry[at + 1..].split_first_chunk().unwrap();
                let length = u64::from_le_bytes(*length) as usize;
                fields.push((std::str::from_utf8(&entry[..at]).unwrap(), &value[..length]));
                entry = &value[length + 1..];
            }
            let expected: [(&str, &[u8]); 6] = [
                ("PRIORITY", b"3"),
                ("SYSLOG_IDENTIFIER", b"app\nFAKE=1"),
                ("SYSLOG_PID", b"47"),
                ("CIRCUS_WATCHER", b"web"),
                ("CIRCUS_WID", b"2"),
                ("MESSAGE", line),
            ];
            assert_eq!(fields, expected);
            rest = behind;
        }
        assert!(rest.is_empty());
    }
}
