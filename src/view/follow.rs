//! Lines of streams, as people read them.
//!
//! ```text
//! 10:00:01.234 web-1 web#2 reap pid 4711, killed by SIGKILL
//! web#1 | a line of its output
//! web#1 ! a line of its error output
//! web-1 web#1 | the same where lines of several nodes come together
//! ```

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::table::Paint;
use super::{Style, Text, word};
use crate::model::event::Exit;

/// Colours of processes, told apart on dark and on light ground. Red is for what is wrong.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];
/// Names longer than this push their own lines to the right, and nobody else's.
const WIDEST: usize = 24;

/// Turns the lines of one stream into text. It remembers how wide names were, so that what they say stands in one
/// column.
#[derive(Debug)]
pub struct StreamView {
    style: Style,
    zone: TimeZone,
    widest: usize,
}

impl StreamView {
    /// With times as they are in `zone`.
    pub fn new(style: Style, zone: TimeZone) -> StreamView {
        StreamView { style, zone, widest: 0 }
    }

    /// One line of a stream: an event or a line of output for standard output, what there is to say about the stream
    /// itself for standard error.
    pub fn text(&mut self, line: &Value) -> Text {
        let out = |text: String| Text { out: text + "\n", err: String::new() };
        let err = |text: String| Text { out: String::new(), err: text + "\n" };
        if line["event"].is_string() {
            out(self.event(line))
        } else if line["line"].is_string() {
            out(self.output(line))
        } else if let Some(note) = line["note"].as_str() {
            err(format!("note: {}", plain(note)))
        } else if let Some(dropped) = line["dropped"].as_u64() {
            let lines = if dropped == 1 { "1 line was" } else { &format!("{dropped} lines were") };
            match line["node"].as_str() {
                Some(node) => err(format!("note: {lines} dropped at {}: more than Redis takes", plain(node))),
                None => err(format!("note: {lines} dropped here: read more slowly than written")),
            }
        } else if line["status"] == "error" {
            err(format!("error: {}", plain(word(line, "reason"))))
        } else {
            Text::default()
        }
    }

    fn event(&self, event: &Value) -> String {
        let body = &event["body"];
        let (watcher, what) = (word(event, "watcher"), word(event, "event"));
        let mut text = match body["wid"].as_u64() {
            Some(wid) => format!("{watcher}#{wid}"),
            None => watcher.to_owned(),
        };
        let (mut about, mut paint) = (String::new(), Paint::None);
        if let Some(pid) = body["process_pid"].as_u64() {
            about.push_str(&format!(" pid {pid}"));
        }
        if what == "reap" {
            let exit = match body["exit_code"].as_i64().and_then(|code| i32::try_from(code).ok()) {
                Some(code) if code < 0 => Exit::Signal(-code),
                Some(code) => Exit::Code(code),
                None => Exit::Lost,
            };
            about.push_str(&format!(", {exit}"));
        }
        // A hook's, or what somebody chose.
        if let Some(name) = body["name"].as_str().or(body["topic"].as_str()) {
            about.push_str(&format!(" {name}"));
        }
        if let Some(error) = body["error"].as_str() {
            (about, paint) = (format!("{about}: {error}"), Paint::Bad);
        }
        text = plain(&format!("{} {text}", word(event, "node")));
        format!("{} {text} {}{}", self.time(event), paint.apply(&plain(what), self.style), plain(&about))
    }

    /// `10:00:01.234`
    fn time(&self, event: &Value) -> String {
        let time = event["time"].as_f64().map(|seconds| (seconds * 1_000.0).round() as i64);
        match time.and_then(|time| Timestamp::from_millisecond(time).ok()) {
            Some(time) => time.to_zoned(self.zone.clone()).strftime("%H:%M:%S%.3f").to_string(),
            None => "-".into(),
        }
    }

    fn output(&mut self, line: &Value) -> String {
        let of_node = line["node"].as_str().map(|node| format!("{node} ")).unwrap_or_default();
        let name = plain(&format!("{of_node}{}#{}", word(line, "watcher"), line["wid"]));
        let mark = if line["stream"] == "stderr" { '!' } else { '|' };
        let text = line["line"].as_str().unwrap_or_default();
        // Only people profit from columns; a program wants the same line each time.
        let Some(_) = self.style.width else { return format!("{name} {mark} {text}") };
        let width = name.chars().count();
        if width <= WIDEST {
            self.widest = self.widest.max(width);
        }
        let prefix = format!("{name:<width$} {mark}", width = self.widest);
        match self.style.colour {
            true => format!("\x1b[{}m{prefix}\x1b[0m {}", colour(&name), harmless(text)),
            false => format!("{prefix} {}", plain(text)),
        }
    }
}

/// A name's colour: the same each time and everywhere (FNV-1a).
fn colour(name: &str) -> u8 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    COLOURS[(hash % COLOURS.len() as u64) as usize]
}

/// Text from elsewhere: it may not move the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

/// As [`plain`], but its colours stay, and end with the line.
fn harmless(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    let mut coloured = false;
    while let Some(at) = rest.find('\x1b') {
        kept.push_str(&plain(&rest[..at]));
        let sequence = &rest[at..];
        let length = sequence.strip_prefix("\x1b[").and_then(|codes| {
            let end = codes.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
            codes[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
        });
        let taken = length.unwrap_or(1);
        kept.push_str(if length.is_some() { &sequence[..taken] } else { " " });
        coloured |= length.is_some();
        rest = &sequence[taken..];
    }
    kept.push_str(&plain(rest));
    if coloured {
        kept.push_str("\x1b[0m");
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(colour: bool, width: Option<usize>) -> StreamView {
        StreamView::new(Style { colour, width }, TimeZone::UTC)
    }

    fn event(what: &str, body: &Value) -> String {
        let event = json!({"event": what, "watcher": "web", "node": "web-1", "time": 36_001.234, "body": body});
        view(false, None).text(&event).out
    }

    #[test]
    fn an_event_says_when_where_what_and_of_whom() {
        for (what, body, said) in [
            ("spawn", json!({"process_pid": 4711, "wid": 2}), "web#2 spawn pid 4711"),
            ("reap", json!({"process_pid": 4711, "wid": 2, "exit_code": -9}), "web#2 reap pid 4711, killed by SIGKILL"),
            ("reap", json!({"process_pid": 4711, "wid": 2, "exit_code": 3}), "web#2 reap pid 4711, exit 3"),
            (
                "reap",
                json!({"process_pid": 4711, "wid": 2, "exit_code": null}),
                "web#2 reap pid 4711, ended with its guard",
            ),
            ("start", json!({}), "web start"),
            ("published", json!({"topic": "web.warm"}), "web published web.warm"),
            ("hook_success", json!({"name": "before_start"}), "web hook_success before_start"),
            ("hook_failure", json!({"name": "x", "error": "a\x1b[2J"}), "web hook_failure x: a [2J"),
        ] {
            assert_eq!(event(what, &body), format!("10:00:01.234 web-1 {said}\n"));
        }
        assert_eq!(view(false, None).text(&json!({"event": "later"})).out, "- - - later\n", "of another version");
    }

    fn line(wid: u32, stream: &str, text: &str) -> Value {
        json!({"watcher": "web", "wid": wid, "pid": 7, "stream": stream, "time": 1.0, "line": text})
    }

    #[test]
    fn a_line_of_output_says_whose_it_is() {
        let mut view = view(false, None);
        assert_eq!(view.text(&line(1, "stdout", "a\x1b[1mb")).out, "web#1 | a\x1b[1mb\n");
        assert_eq!(view.text(&line(1, "stderr", "")).out, "web#1 ! \n");
        let mut elsewhere = line(1, "stdout", "x");
        elsewhere["node"] = json!("web-2");
        assert_eq!(view.text(&elsewhere).out, "web-2 web#1 | x\n");
    }

    #[test]
    fn on_a_terminal_lines_stand_in_columns_and_in_a_stable_colour() {
        let mut plain = view(false, Some(80));
        plain.text(&line(10, "stdout", "x"));
        assert_eq!(plain.text(&line(1, "stdout", "x\x1b[1m")).out, "web#1  | x [1m\n");
        let mut coloured = view(true, Some(80));
        let text = coloured.text(&line(1, "stdout", "\x1b[1;31mred\x1b[2Jx\r\x1b")).out;
        let own = format!("\x1b[{}mweb#1 |\x1b[0m ", colour("web#1"));
        assert_eq!(text, own + "\x1b[1;31mred [2Jx  \x1b[0m\n");
        assert_eq!(colour("web#1"), colour("web#1"));
        assert_ne!(colour("web#1"), colour("web#2"));
    }

    #[test]
    fn what_is_said_about_the_stream_goes_to_standard_error() {
        let mut view = view(false, None);
        let mut said = |line: Value| {
            let Text { out, err } = view.text(&line);
            assert_eq!(out, "", "{line}");
            err
        };
        assert_eq!(said(json!({"dropped": 12})), "note: 12 lines were dropped here: read more slowly than written\n");
        let elsewhere = json!({"dropped": 1, "node": "web-2"});
        assert_eq!(said(elsewhere), "note: 1 line was dropped at web-2: more than Redis takes\n");
        assert_eq!(said(json!({"note": "web writes"})), "note: web writes\n");
        assert_eq!(said(json!({"status": "error", "reason": "too many"})), "error: too many\n");
        assert_eq!(said(json!({"status": "ok"})), "");
        assert_eq!(said(json!({"end": true})), "");
        assert_eq!(said(json!([])), "");
    }
}
