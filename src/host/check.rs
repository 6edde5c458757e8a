//! Checks of a running process, from outside: something listens, a web page is there, a command succeeds.
//!
//! Each is made at the process's own task, so its end is the end of its checks, and nothing is heard of them after.

use std::future::{poll_fn, ready};
use std::io;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::errno::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::harmless;
use super::job::{Finished, Job, Jobs, RunAs, with_last_line};
use crate::model::event::{Exit, Launch};
use crate::model::spec::{Check, Purpose, Url};

/// How many characters of what a server or a command says are shown.
const LONGEST_REASON: usize = 200;

/// How a check came out; or why it failed, in a line.
type Verdict = Result<(), String>;

/// A check to be made within `limit`.
#[derive(Debug)]
pub(super) struct CheckOrder {
    pub(super) purpose: Purpose,
    pub(super) check: Check,
    pub(super) limit: Duration,
}

/// The checks of one process that are under way: one for each purpose at most.
#[derive(Default)]
pub(super) struct Checks(Vec<(Purpose, BoxFuture<'static, Verdict>)>);

impl Checks {
    /// Begins a check of the process started by `launch`. While one for the same purpose is under way, that one is the
    /// answer to both.
    pub(super) fn begin(&mut self, order: CheckOrder, launch: &Launch, jobs: &Jobs) {
        let CheckOrder { purpose, check, limit } = order;
        if self.0.iter().any(|(other, _)| *other == purpose) {
            return;
        }
        let job = |argv| {
            let job = Job::new(&launch.watcher, argv, &launch.program, RunAs::Process).leaving_nothing();
            launch.env.iter().fold(job, |job, (name, value)| job.env(name, value.as_str()))
        };
        let check: BoxFuture<'static, Verdict> = match check {
            Check::Tcp { host, port } => Box::pin(tcp(host, port, limit)),
            Check::Http(url) => Box::pin(http(url, limit)),
            Check::Command(argv) => Box::pin(command(job(argv), jobs.clone(), limit)),
            Check::Timer(_) | Check::Notify | Check::Ack | Check::Log(_) => {
                Box::pin(ready(Err(format!("{check} is not checked from outside"))))
            }
        };
        self.0.push((purpose, check));
    }

    /// Waits until one is made. Dropping the wait loses nothing.
    pub(super) async fn next(&mut self) -> (Purpose, Verdict) {
        poll_fn(|context| {
            for (at, (purpose, check)) in self.0.iter_mut().enumerate() {
                if let Poll::Ready(verdict) = check.as_mut().poll(context) {
                    let purpose = *purpose;
                    drop(self.0.swap_remove(at));
                    return Poll::Ready((purpose, verdict));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether something accepts connections there.
async fn tcp(host: String, port: u16, limit: Duration) -> Verdict {
    let what = || format!("connect {}", authority(&host, port));
    match timeout(limit, TcpStream::connect((host.as_str(), port))).await {
        // Where nobody listens, the kernel may pick the very port as the one to come from: then we meet ourselves.
        Ok(Ok(met)) if met.local_addr().ok() == met.peer_addr().ok() => Err(format!("{}: nobody listens", what())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{}: {}", what(), cause(&error))),
        Err(_) => Err(format!("{}: no answer within {limit:?}", what())),
    }
}

/// Whether a GET is answered with 200 to 399. Of the answer only the first line is read.
async fn http(url: Url, limit: Duration) -> Verdict {
    let answer = timeout(limit, get(&url)).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
    answer.and_then(|line| judge(&line)).map_err(|why| format!("GET {url}: {why}"))
}

/// Whether a command succeeds.
async fn command(job: Job, jobs: Jobs, limit: Duration) -> Verdict {
    let why = match job.run(&jobs, Vec::new(), limit).await {
        Ok(Finished { exit: Exit::Code(0), .. }) => return Ok(()),
        Ok(Finished { exit, stderr, .. }) => with_last_line(&exit.to_string(), &stderr),
        Err(why) => why,
    };
    Err(harmless(why.as_bytes(), LONGEST_REASON))
}

/// The first line of the answer, or what there is of it.
async fn get(url: &Url) -> Result<Vec<u8>, String> {
    let failed = |step: &'static str| move |error: io::Error| format!("{step}: {}", cause(&error));
    let mut server = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(failed("connect"))?;
    server.write_all(url.request().as_bytes()).await.map_err(failed("write"))?;
    let mut answer = [0; 512];
    let mut length = 0;
    loop {
        let read = server.read(&mut answer[length..]).await.map_err(failed("read"))?;
        length += read;
        let end = answer[..length].iter().position(|&byte| byte == b'\n');
        // A full buffer reads nothing more, as a closed connection does: what is there must do.
        if read == 0 || end.is_some() {
            return Ok(answer[..end.unwrap_or(length)].to_vec());
        }
    }
}

/// Judges an answer by its first line: `HTTP/1.1 200 OK`.
fn judge(line: &[u8]) -> Verdict {
    if line.is_empty() {
        return Err("closed without an answer".into());
    }
    let line = harmless(line.trim_ascii_end(), LONGEST_REASON);
    let Some((_, status)) = line.split_once(' ').filter(|(version, _)| version.starts_with("HTTP/")) else {
        return Err(format!("this is not HTTP: {line:?}"));
    };
    match status.split(' ').next().and_then(|code| code.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        _ => Err(status.trim_end().to_owned()),
    }
}

/// Host and port as a URL has them.
fn authority(host: &str, port: u16) -> String {
    format!("{}:{port}", bracketed(host))
}

/// A host as a URL has it: an IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// What went wrong, without a number.
fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_code() {
        for line in ["HTTP/1.1 200 OK\r", "HTTP/1.0 399 x", "HTTP/1.1 204", "HTTP/2 301 Moved"] {
            assert_eq!(judge(line.as_bytes()), Ok(()), "{line}");
        }
        let bad = |line: &[u8]| judge(line).unwrap_err();
        assert_eq!(bad(b"HTTP/1.1 503 Service Unavailable\r"), "503 Service Unavailable");
        assert_eq!(bad(b"HTTP/1.1 404"), "404");
        assert_eq!(bad(b"HTTP/1.1 \r"), r#"this is not HTTP: "HTTP/1.1""#);
        assert_eq!(bad(b"HTTP/1.1 0200000 OK"), "0200000 OK");
        assert_eq!(bad(b"SSH-2.0-OpenSSH_9.2\r"), r#"this is not HTTP: "SSH-2.0-OpenSSH_9.2""#);
        assert_eq!(bad(b"\xff\x00"), "this is not HTTP: \"\u{fffd} \"");
        assert_eq!(bad(b""), "closed without an answer");
    }

    #[test]
    fn an_ipv6_address_is_bracketed() {
        assert_eq!(authority("::1", 80), "[::1]:80");
        assert_eq!(authority("web", 8000), "web:8000");
    }
}
