//! What plugins look at beside the agent: a page, a Redis, a program's file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Fetched, Input, Mark, Program, RedisFailure};
use crate::model::spec::{Secret, Url};

/// The longest head of a page that is read, in bytes.
const MAX_HEAD: u64 = 64 << 10;

/// Gets a page's status. Its body is left unread; redirections are a status like others.
pub(super) async fn fetch(url: &Url, patience: Duration) -> Input {
    let began = Instant::now();
    let result = match timeout(patience, get(url)).await {
        Ok(Ok(status)) => Fetched::Status(status),
        Ok(Err(error)) => Fetched::Failed(error.to_string()),
        Err(_) => Fetched::Failed(format!("no answer within {} s", patience.as_secs_f64())),
    };
    Input::Fetched { result, took: began.elapsed() }
}

async fn get(url: &Url) -> io::Result<u16> {
    let Url { host, port, path } = url;
    let mut server = TcpStream::connect((host.as_str(), *port)).await?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let host = if *port == 80 { host } else { format!("{host}:{port}") };
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: circus-agent\r\nConnection: close\r\n\r\n");
    server.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut server = server.take(MAX_HEAD);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && server.read_buf(&mut head).await? > 0 {}
    status(&head).ok_or_else(|| io::Error::other("what answers speaks no HTTP"))
}

/// The status in the first line of an answer: `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/"))?;
    words.next()?.parse().ok().filter(|status| (100..1000).contains(status))
}

/// What is wrong with the address of a Redis.
pub(super) fn redis_url(text: &str) -> Result<(), String> {
    redis::Client::open(text).map(drop).map_err(|error| error.to_string())
}

/// Asks Redis for its INFO, over a connection of its own: whether one is to be had is the question.
pub(super) async fn info(url: &Secret, patience: Duration) -> Result<String, RedisFailure> {
    let asked = async {
        let mut redis = redis::Client::open(url.reveal())?.get_multiplexed_async_connection().await?;
        redis::cmd("INFO").query_async::<String>(&mut redis).await
    };
    match timeout(patience, asked).await {
        Ok(Ok(info)) => Ok(info),
        Ok(Err(error)) if is_silence(&error) => Err(RedisFailure::Silent(error.to_string())),
        Ok(Err(error)) => Err(RedisFailure::Refused(error.to_string())),
        Err(_) => Err(RedisFailure::Silent(format!("no answer within {} s", patience.as_secs_f64()))),
    }
}

fn is_silence(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_refusal() || error.is_connection_dropped()
}

/// Looks at the file of a program, which is sought as a shell with this `PATH` would.
pub(super) fn look(program: &Program, search: &str) -> Result<Mark, String> {
    let Program { name, dir } = program;
    let from_dir = |path: &Path| dir.as_ref().map_or_else(|| path.to_owned(), |dir| dir.join(path));
    let file = match name.contains('/') {
        true => from_dir(Path::new(name)),
        false => std::env::split_paths(search)
            .map(|place| from_dir(&place).join(name))
            .find(|file| file.is_file())
            .ok_or_else(|| format!("{name}: not found in PATH={search}"))?,
    };
    let seen = |error: io::Error| format!("{}: {error}", file.display());
    let path: PathBuf = file.canonicalize().map_err(seen)?;
    let written = path.metadata().and_then(|about| about.modified()).map_err(seen)?;
    Ok(Mark { path, written })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::net::TcpListener;

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { timeout(Duration::from_secs(20), test).await.expect("the test hangs") })
    }

    /// Fetches from a server that says this and then keeps the connection.
    fn fetched(answer: &'static [u8], patience: Duration) -> (Fetched, String) {
        run(async {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = Url { host: "127.0.0.1".into(), port: server.local_addr().unwrap().port(), path: "/x?y".into() };
            let serve = async {
                let (mut client, _) = server.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    client.read_buf(&mut request).await.unwrap();
                }
                client.write_all(answer).await.unwrap();
                (String::from_utf8(request).unwrap(), client)
            };
            let ((request, _client), input) = tokio::join!(serve, fetch(&url, patience));
            let Input::Fetched { result, .. } = input else { panic!("{input:?}") };
            (result, request)
        })
    }

    #[test]
    fn a_page_is_known_by_its_head_even_where_the_connection_stays() {
        let long = Duration::from_secs(20);
        let (result, request) = fetched(b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n", long);
        assert_eq!(result, Fetched::Status(204));
        assert!(request.starts_with("GET /x?y HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert_eq!(fetched(b"HTTP/1.0 500 Oh\r\n\r\n", long).0, Fetched::Status(500));
    }

    #[test]
    fn a_page_that_does_not_come_has_a_reason() {
        let Fetched::Failed(why) = fetched(b"HTTP/1.1 200", Duration::from_millis(50)).0 else { panic!("it came") };
        assert_eq!(why, "no answer within 0.05 s");
        let Fetched::Failed(why) = fetched(b"SSH-2.0-x\r\n\r\n", Duration::from_secs(20)).0 else { panic!("it came") };
        assert_eq!(why, "what answers speaks no HTTP");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = Url { host: "127.0.0.1".into(), port: free, path: "/".into() };
        let input = run(fetch(&url, Duration::from_secs(20)));
        assert!(matches!(&input, Input::Fetched { result: Fetched::Failed(why), .. } if why.contains("refused")));
    }

    #[test]
    fn a_redis_that_is_not_there_is_silent_and_one_that_says_no_is_not() {
        let url = |port: u16| Secret::new(format!("redis://127.0.0.1:{port}/0"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let silent = run(info(&url(free), Duration::from_secs(20)));
        assert!(matches!(silent, Err(RedisFailure::Silent(_))), "{silent:?}");
        let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = run(info(&url(hung.local_addr().unwrap().port()), Duration::from_millis(50)));
        assert_eq!(silent, Err(RedisFailure::Silent("no answer within 0.05 s".into())));
        let refused = run(async {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = server.local_addr().unwrap().port();
            let refuse = async {
                let (mut client, _) = server.accept().await.unwrap();
                let mut request = Vec::new();
                while client.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                    let _ = client.write_all(b"-NOAUTH Authentication required.\r\n".repeat(2).as_slice()).await;
                }
            };
            tokio::select! {
                () = refuse => unreachable!("the client hangs up last"),
                refused = async { info(&url(port), Duration::from_secs(20)).await } => refused,
            }
        });
        assert!(matches!(&refused, Err(RedisFailure::Refused(why)) if why.contains("Authentication")), "{refused:?}");
    }

    #[test]
    fn a_program_is_sought_as_a_shell_would() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        fs::create_dir(home.join("bin")).unwrap();
        fs::write(home.join("bin/tool"), "1").unwrap();
        std::os::unix::fs::symlink("tool", home.join("bin/link")).unwrap();
        let look = |name: &str, dir: Option<&Path>, search: &str| {
            look(&Program { name: name.into(), dir: dir.map(Into::into) }, search)
        };
        let path = |found: Result<Mark, String>| found.unwrap().path;
        let tool = home.join("bin/tool");
        assert_eq!(path(look("tool", None, &format!("/nonexistent:{}/bin", home.display()))), tool);
        assert_eq!(path(look("link", Some(&home), "bin")), tool);
        assert_eq!(path(look("bin/tool", Some(&home), "")), tool);
        assert_eq!(path(look(tool.to_str().unwrap(), Some(Path::new("/")), "")), tool);
        assert!(look("tool", None, "/nonexistent").unwrap_err().contains("not found in PATH=/nonexistent"));
        assert!(look("./tool", Some(&home), "bin").unwrap_err().contains("No such file"));
    }
}
