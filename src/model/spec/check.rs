//! How it is known that a process is ready, and that it is well.

use std::fmt;
use std::time::Duration;

use super::in_slot;

/// One way to tell. The same ways serve `ready` and `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// So long after its start (`ready` only).
    Timer(Duration),
    /// It says so over `NOTIFY_SOCKET`: `READY=1`; for health, `WATCHDOG=1`.
    Notify,
    /// It says so over `EINHORN_SOCK_PATH` or `EINHORN_SOCK_FD`, as under einhorn: `worker:ack` (`ready` only).
    Ack,
    /// A line of its output matches this regular expression (syntax checked when the file was read).
    Log(String),
    /// Something accepts connections there.
    Tcp { host: String, port: u16 },
    /// A GET is answered with 200 to 399.
    Http(Url),
    /// A command exits with 0. It runs as the process's user, in its directory and environment.
    Command(Vec<String>),
}

/// An `http://` address, taken apart. Written out it is one again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, with the leading slash.
    pub path: String,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH]`; the error says what is wrong, as in "it must …".
    pub fn parse(text: &str) -> Result<Url, String> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err("cannot be asked over https: let a program do it, as in curl -fsS".into()),
            _ => return Err("must be an http:// URL".into()),
        };
        let strange = |c: char| c.is_whitespace() || c.is_control() || c == '#';
        if rest.contains(strange) {
            return Err("must have neither blanks nor `#`".into());
        }
        let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok().filter(|port| *port > 0)),
            _ => (place, Some(80)),
        };
        let port = port.ok_or("must have a port from 1 to 65535")?;
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match address {
            Some(address) if address.parse::<core::net::Ipv6Addr>().is_ok() => {
                Ok(Url { host: address.into(), port, path })
            }
            None if !host.is_empty() && !host.contains([':', '[', ']', '@']) => {
                Ok(Url { host: host.into(), port, path })
            }
            _ => Err("must name a host or [IPV6]".into()),
        }
    }

    /// Its host and port; without the port where that is the usual one: some servers know themselves by no other name.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }

    /// What a client says to get it, on a connection of its own.
    pub fn request(&self) -> String {
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: circus-agent/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.path,
            self.authority(),
            env!("CARGO_PKG_VERSION"),
        )
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

impl Check {
    /// The same for the process in slot `wid`: a command may name it.
    pub fn in_slot(&self, wid: u32) -> Check {
        match self {
            Check::Command(words) => Check::Command(words.iter().map(|word| in_slot(word, wid)).collect()),
            Check::Timer(_) | Check::Notify | Check::Ack | Check::Log(_) | Check::Tcp { .. } | Check::Http(_) => {
                self.clone()
            }
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::Timer(after) => write!(f, "timer {} s", after.as_secs_f64()),
            Check::Notify => f.write_str("notify"),
            Check::Ack => f.write_str("ack"),
            Check::Log(pattern) => write!(f, "log {pattern}"),
            Check::Tcp { host, port } => write!(f, "tcp {host}:{port}"),
            Check::Http(url) => write!(f, "http://{}:{}{}", url.host, url.port, url.path),
            Check::Command(words) => write!(f, "cmd {}", words.join(" ")),
        }
    }
}

/// When a process that runs counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadySpec {
    /// How that is told.
    pub check: Check,
    /// One that is not ready so long after its start is stopped, as if it had died.
    pub timeout: Duration,
}

/// Whether a ready process stays well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSpec {
    /// How that is told. `Notify` and `Log` want one sign of life per interval.
    pub check: Check,
    /// From one check to the next.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// How many in a row must fail before something is done.
    pub retries: u32,
    /// What is done then.
    pub action: HealthAction,
}

/// What is done about an unhealthy process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthAction {
    /// It is stopped and replaced.
    Restart,
    /// It is sent a signal, once until it is well again.
    Signal(i32),
    /// It shows, and nothing else.
    Report,
}

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// [`ReadySpec`]
    Ready,
    /// [`HealthSpec`]
    Health,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written() {
        for text in ["http://web/", "http://web:8080/x?y", "http://[::1]:81/", "http://10.0.0.1/a/b"] {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Url::parse("http://web?a").unwrap().to_string(), "http://web/?a");
        let request = Url::parse("http://[::1]:81/x").unwrap().request();
        assert!(request.starts_with("GET /x HTTP/1.1\r\nHost: [::1]:81\r\n") && request.ends_with("\r\n\r\n"));
    }

    #[test]
    fn what_is_no_url_is_told() {
        for (text, why) in [
            ("https://web/", "over https"),
            ("ftp://web/", "an http:// URL"),
            ("web", "an http:// URL"),
            ("http:///x", "name a host"),
            ("http://::1/", "name a host"),
            ("http://[web]/", "name a host"),
            ("http://me@web/", "name a host"),
            ("http://web:0/", "a port"),
            ("http://web:x/", "a port"),
            ("http://web/a b", "blanks"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
