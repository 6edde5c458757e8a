//! Why Redis could not be reached or would not do a thing, in words for people. Pure: errors in, texts out.
//!
//! No text holds a password: they are made of addresses, times, and what the server itself says.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{ErrorKind, RedisError};

use crate::model::spec::TlsFiles;

/// What a connection says that reached a replica.
pub(super) const REPLICA: &str = "the server is a replica";

/// Nothing was heard for `waited`.
pub(super) fn no_answer(waited: Duration) -> String {
    format!("no answer within {}", seconds(waited))
}

/// An answer that Redis does not give.
pub(super) fn nonsense(what: impl std::fmt::Debug) -> String {
    let mut shown = format!("{what:?}");
    if let Some((cut, _)) = shown.char_indices().nth(100) {
        shown.truncate(cut);
        shown.push('…');
    }
    format!("Redis answered nonsense: {shown}")
}

/// What went wrong with the server at `address` (host and port, or a path).
pub(super) fn of(error: &RedisError, address: &str) -> String {
    if let Some(code) = error.code() {
        return of_server(code, error.detail().unwrap_or_default());
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => "wrong password (WRONGPASS)".into(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => format!("{address} does not speak Redis's protocol"),
        ErrorKind::Io => of_io(io_error(error), error, address),
        _ => error.to_string(),
    }
}

/// [`of`], over TLS with `files`: what is wrong with a certificate, and where the right one would stand.
pub(super) fn of_tls(error: &RedisError, address: &str, files: &TlsFiles) -> String {
    if error.kind() == ErrorKind::InvalidClientConfig {
        let detail = error.detail().unwrap_or_default();
        return format!("tls_cert and tls_key cannot be used together: {detail}");
    }
    let io = io_error(error);
    let tls = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    match tls {
        Some(tls) => of_handshake(tls, address, files),
        // A server that misses our certificate may hang up before it can be heard saying so.
        None if error.is_io_error() && hung_up(io) && files.cert.is_none() => {
            format!(
                "{address} closed the connection; if it wants a certificate of us, name it with tls_cert and tls_key"
            )
        }
        None => of(error, address),
    }
}

fn of_handshake(error: &rustls::Error, address: &str, files: &TlsFiles) -> String {
    use rustls::{AlertDescription, CertificateError, Error};

    let trusted = match &files.ca {
        Some(ca) => format!("{} (tls_ca)", ca.display()),
        None => "what this machine trusts; name its CA with tls_ca".into(),
    };
    match error {
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!("the certificate of {address} is not signed by {trusted}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of {address} has expired: renew it, or set this machine's clock")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the certificate of {address} is not valid yet: this machine's clock may be wrong")
            }
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "the certificate of {address} is not for {}, but for {}: correct the host in the URL",
                expected.to_str(),
                presented.join(", ")
            ),
            CertificateError::NotValidForName => {
                format!("the certificate of {address} is for another host: correct the host in the URL")
            }
            other => format!("the certificate of {address} cannot be trusted: {other}"),
        },
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure)
            if files.cert.is_none() =>
        {
            format!("{address} wants a certificate of us: name it with tls_cert and tls_key")
        }
        Error::AlertReceived(alert) => match &files.cert {
            Some(cert) => format!("{address} refuses our certificate {} (tls_cert): {alert:?}", cert.display()),
            None => format!("{address} refuses us: {alert:?}"),
        },
        Error::InvalidMessage(_) => format!("{address} does not speak TLS; redis:// goes without"),
        other => format!("TLS with {address} failed: {other}"),
    }
}

/// Whether the error says that this connection is of no more use: it broke, or leads to the wrong server.
pub(super) fn is_fatal(error: &RedisError) -> bool {
    let wrong_server = matches!(error.code(), Some("READONLY" | "REPLICA" | "MASTERDOWN" | "LOADING" | "NOAUTH"));
    wrong_server || error.is_io_error() || error.is_unrecoverable_error()
}

fn of_server(code: &str, detail: &str) -> String {
    // Redis adds where in a script an error came from: `… script: 5f0d…, on @user_script:12.`
    let detail = detail.split(" script: ").next().unwrap_or_default().trim_end_matches('.');
    match code {
        "NOAUTH" => "the server wants a password, and the URL has none (NOAUTH)".into(),
        "REPLICA" => REPLICA.into(),
        _ if detail.is_empty() => code.into(),
        _ => format!("{code} {detail}"),
    }
}

fn of_io(io: Option<&io::Error>, error: &RedisError, address: &str) -> String {
    let Some(io) = io else {
        return format!("{address} closed the connection");
    };
    match io.kind() {
        io::ErrorKind::ConnectionRefused => format!("connection refused by {address}"),
        io::ErrorKind::NotFound => format!("no socket at {address}"),
        io::ErrorKind::PermissionDenied => format!("no permission to connect to {address}"),
        io::ErrorKind::TimedOut => format!("{address} does not answer"),
        _ if hung_up(Some(io)) => format!("{address} closed the connection"),
        _ => format!("{address}: {error}"),
    }
}

/// Whether the other end closed the connection; an error without the system's is one of those.
fn hung_up(io: Option<&io::Error>) -> bool {
    io.is_none_or(|io| {
        matches!(
            io.kind(),
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::NotConnected
        )
    })
}

/// The system's error behind one of redis-rs, which keeps it in an `Arc`.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    let source = error.source()?;
    source
        .downcast_ref::<io::Error>()
        .or_else(|| source.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?.downcast_ref::<io::Error>())
}

/// `1.67 s`, `1 s`, `33 ms`.
fn seconds(time: Duration) -> String {
    if time < Duration::from_millis(100) {
        return format!("{} ms", time.as_millis());
    }
    let text = format!("{:.2}", time.as_secs_f64());
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (ms, text) in [(1_667, "1.67 s"), (1_000, "1 s"), (10_000, "10 s"), (500, "0.5 s"), (33, "33 ms")] {
            assert_eq!(no_answer(Duration::from_millis(ms)), format!("no answer within {text}"));
        }
    }

    #[test]
    fn system_errors_name_the_address() {
        let refused = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(of(&refused, "127.0.0.1:6379"), "connection refused by 127.0.0.1:6379");
        let eof = RedisError::from(io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!(of(&eof, "db:6379"), "db:6379 closed the connection");
        assert!(is_fatal(&refused) && is_fatal(&eof));
    }

    #[test]
    fn a_script_error_is_told_without_its_line_number() {
        let detail = "Operation against a key holding the wrong kind of value script: 5f0d, on @user_script:12.";
        assert_eq!(of_server("WRONGTYPE", detail), "WRONGTYPE Operation against a key holding the wrong kind of value");
    }

    #[test]
    fn nonsense_is_shown_in_part() {
        let shown = nonsense("x".repeat(5_000));
        assert!(shown.chars().count() < 150, "{shown}");
    }
}
