//! `ready` and `health`: texts → checks.

use super::keys::nearest;
use super::value::{self, Kind, Value, Wrong, wrong};
use crate::model::spec::{Check, HealthAction, Url};

const WAYS: &str =
    "timer 1s, notify, ack, log REGEX, tcp PORT, tcp HOST:PORT, http URL, http PORT/PATH, cmd PROGRAM ARGS";

/// Where a port alone is: on this machine.
const HERE: &str = "127.0.0.1";

/// How a process shows that it is ready.
pub(super) fn ready(text: &str) -> Result<Check, Wrong> {
    let (way, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    if way == "notify" && !rest.is_empty() {
        return Err(wrong("takes nothing after `notify`").label("the process says so itself, over NOTIFY_SOCKET"));
    }
    if way == "ack" && !rest.is_empty() {
        return Err(wrong("takes nothing after `ack`").label("the process says so itself, as under einhorn"));
    }
    if matches!(way, "timer" | "log" | "tcp" | "http" | "cmd") && rest.is_empty() {
        return Err(wrong(format!("says nothing after `{way}`")).help(format!("the ways are {WAYS}")));
    }
    match way {
        "timer" => match Kind::Seconds.parse(rest)? {
            Value::Seconds(after) => Ok(Check::Timer(after)),
            _ => Err(wrong("must have a time after `timer`")),
        },
        "notify" => Ok(Check::Notify),
        "ack" => Ok(Check::Ack),
        "log" => value::regex(rest).map(|()| Check::Log(rest.to_owned())),
        "tcp" => host_and_port(rest, None).map(|(host, port)| Check::Tcp { host, port }),
        "http" => url(rest).map(Check::Http),
        "cmd" => value::program(rest).map(Check::Command),
        _ => {
            let wrong = wrong("must begin with timer, notify, ack, log, tcp, http or cmd");
            let known = ["timer", "notify", "ack", "log", "tcp", "http", "cmd"];
            Err(match nearest(way, known) {
                Some(known) => wrong.label(format!("did you mean `{known}`?")),
                None => wrong.label("this is none of them").help(format!("the ways are {WAYS}")),
            })
        }
    }
}

/// How a process shows that it is well.
pub(super) fn health(text: &str) -> Result<Check, Wrong> {
    match ready(text)? {
        Check::Timer(_) => Err(wrong("cannot be a timer").label("time alone tells nothing of a process's health")),
        Check::Ack => Err(wrong("cannot be an ack")
            .label("a process says it once")
            .help("`notify` wants WATCHDOG=1 time and again")),
        check => Ok(check),
    }
}

/// What is done about a process that is not well.
pub(super) fn action(text: &str) -> Result<HealthAction, Wrong> {
    match text.split_once(char::is_whitespace) {
        None if text == "restart" => Ok(HealthAction::Restart),
        None if text == "report" => Ok(HealthAction::Report),
        Some(("signal", name)) => match Kind::Signal.parse(name)? {
            Value::Number(signal) => i32::try_from(signal).map(HealthAction::Signal).map_err(|_| wrong("is no signal")),
            _ => Err(wrong("must name a signal")),
        },
        _ => Err(wrong("must be restart, signal NAME or report").label("this is none of them")),
    }
}

/// `HOST:PORT`, `[IPV6]:PORT`, and where there is a `usual` port, the host alone; where there is none, the port alone.
pub(super) fn host_and_port(text: &str, usual: Option<u16>) -> Result<(String, u16), Wrong> {
    let port_at = text.rfind(':').filter(|at| !text[*at..].contains(']'));
    let (host, port) = match (port_at, usual) {
        (Some(at), _) => (&text[..at], text[at + 1..].parse().ok()),
        (None, Some(port)) => (text, Some(port)),
        (None, None) => (HERE, text.parse().ok()),
    };
    let port = port.filter(|port| *port > 0).ok_or_else(|| {
        wrong("must have a port from 1 to 65535").label("there is none").help("8000, HOST:8000 or [IPV6]:8000")
    })?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |host: &str| !host.is_empty() && !host.contains([':', '[', ']', '/', '@']) && !blank(host);
    match bare {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => Ok((address.to_owned(), port)),
        None if is_name(host) => Ok((host.to_owned(), port)),
        _ => Err(wrong("must name a host or [IPV6]").label("this is neither")),
    }
}

/// `http://db:8080/health`, `8080/health`, `8080`.
fn url(text: &str) -> Result<Url, Wrong> {
    let place = text.split(['/', '?']).next().unwrap_or_default();
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false if place.chars().all(|c| c.is_ascii_digit()) => format!("http://127.0.0.1:{text}"),
        false if place.contains(':') => format!("http://{text}"),
        false => return Err(wrong("must be an http:// URL, or PORT/PATH")),
    };
    Url::parse(&whole).map_err(|why| match whole.starts_with("https://") {
        true => wrong("cannot be asked over https")
            .label("only http:// is")
            .help("let a program do it: `cmd curl -fsS https://…`"),
        false => wrong(&why),
    })
}

fn blank(text: &str) -> bool {
    text.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_read() {
        let table = [
            ("timer 500ms", "timer 0.5 s"),
            ("notify", "notify"),
            ("ack", "ack"),
            ("log (?i)listening on .*", "log (?i)listening on .*"),
            ("tcp 8000", "tcp 127.0.0.1:8000"),
            ("tcp db-1:5432", "tcp db-1:5432"),
            ("tcp [::1]:80", "tcp ::1:80"),
            ("http 8000", "http://127.0.0.1:8000/"),
            ("http 8000/health?full=1", "http://127.0.0.1:8000/health?full=1"),
            ("http db:81/x", "http://db:81/x"),
            ("http http://db", "http://db:80/"),
            ("http http://db:8080?x", "http://db:8080/?x"),
            ("http http://[::1]/x", "http://::1:80/x"),
            ("cmd  pg_isready -h \"a b\"", "cmd pg_isready -h a b"),
        ];
        for (text, check) in table {
            assert_eq!(ready(text).map(|check| check.to_string()).as_deref(), Ok(check), "{text}");
        }
    }

    #[test]
    fn what_no_check_can_be_made_of_is_refused() {
        for text in [
            "timer",
            "timer soon",
            "notify now",
            "ack now",
            "log",
            "log (",
            "tcp",
            "tcp web",
            "tcp web:0",
            "tcp 99999",
            "tcp a b:1",
            "tcp ::1:80",
            "tcp :80",
            "tcp:8000",
            "http web",
            "http https://web/",
            "http ftp://web/",
            "http http://u:p@web/",
            "http http:///x",
            "http 80/a b",
            "http 80/#a",
            "cmd",
            "cmd \"a",
            "cmd ''",
            "exec x",
        ] {
            assert!(ready(text).is_err(), "{text}: {:?}", ready(text));
        }
        assert_eq!(ready("notfy").unwrap_err().label, "did you mean `notify`?");
        assert!(health("timer 1s").is_err() && health("ack").is_err() && health("tcp 80").is_ok());
    }

    #[test]
    fn actions_are_three() {
        assert_eq!(action("restart"), Ok(HealthAction::Restart));
        assert_eq!(action("signal USR1"), Ok(HealthAction::Signal(10)));
        assert_eq!(action("report"), Ok(HealthAction::Report));
        for text in ["signal", "signal nothing", "kill", "restart now"] {
            assert!(action(text).is_err(), "{text}");
        }
    }
}
