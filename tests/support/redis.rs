//! A real redis-server of a test's own: at an address of its own, in a directory of its own, gone with the value.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Value;

/// A running redis-server.
pub struct RedisServer {
    host: String,
    port: u16,
    password: Option<String>,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    dir: tempfile::TempDir,
    process: Option<Child>,
}

#[allow(dead_code)] // Each test file that includes this one uses a part of it.
impl RedisServer {
    /// Starts a server that keeps nothing on disk unless it is told to, and waits until it answers.
    pub fn start() -> RedisServer {
        RedisServer::start_with(None, &[])
    }

    /// Starts one that wants this password.
    pub fn start_with_password(password: &str) -> RedisServer {
        RedisServer::start_with(Some(password), &[])
    }

    /// Starts one with more arguments: `&["--maxmemory", "1mb"]`. `{free}` is a free port.
    pub fn start_with(password: Option<&str>, arguments: &[&str]) -> RedisServer {
        RedisServer::start_as("redis-server".into(), password, arguments)
    }

    /// Starts a relative of Redis, which understands Redis's arguments.
    pub fn start_of(program: PathBuf) -> RedisServer {
        RedisServer::start_as(program, None, &[])
    }

    fn start_as(program: PathBuf, password: Option<&str>, arguments: &[&str]) -> RedisServer {
        let mut server = RedisServer::new("127.0.0.1", 0, password, arguments);
        server.program = program;
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..10 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server did not start: {}", server.log());
    }

    /// Starts one at an address that nobody else uses, with this in its environment.
    pub fn start_at(host: &str, port: u16, environment: &[(String, String)], arguments: &[&str]) -> RedisServer {
        let mut server = RedisServer::new(host, port, None, arguments);
        server.environment = environment.to_vec();
        assert!(server.launch(), "redis-server did not start: {}", server.log());
        server
    }

    fn new(host: &str, port: u16, password: Option<&str>, arguments: &[&str]) -> RedisServer {
        let dir = tempfile::tempdir().expect("a directory for redis-server");
        // A cluster adds 10000 to it, for a second port.
        let free = || std::iter::repeat_with(free_port).find(|port| *port < 55_536).expect("a port").to_string();
        let argument = |text: &&str| if *text == "{free}" { free() } else { (*text).to_owned() };
        let arguments = arguments.iter().map(argument).collect();
        let (host, password, program) = (host.to_owned(), password.map(ToOwned::to_owned), "redis-server".into());
        RedisServer { host, port, password, program, arguments, environment: Vec::new(), dir, process: None }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://…`, with the password where there is one.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@{}:{}", self.host, self.port),
            None => format!("redis://{}:{}", self.host, self.port),
        }
    }

    /// Puts one command to it and gives the answer; panics on an error.
    pub fn command(&self, words: &[&str]) -> Value {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Puts one command to it. A frozen server gives an error after five seconds.
    pub fn try_command(&self, words: &[&str]) -> redis::RedisResult<Value> {
        self.try_within(Duration::from_secs(5), words)
    }

    /// Puts one command to it. A frozen server gives an error after so long.
    pub fn try_within(&self, patience: Duration, words: &[&str]) -> redis::RedisResult<Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection_with_timeout(patience)?;
        connection.set_read_timeout(Some(patience))?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    /// The answer to one command as text, nothing where it is nil.
    pub fn text(&self, words: &[&str]) -> Option<String> {
        redis::from_redis_value(self.command(words)).expect("a text")
    }

    /// What it is set to.
    pub fn text_of_config(&self, setting: &str) -> String {
        let said: Vec<String> = redis::from_redis_value(self.command(&["CONFIG", "GET", setting])).expect("a pair");
        said.into_iter().nth(1).expect("a setting")
    }

    /// The answer to one command as a number.
    pub fn number(&self, words: &[&str]) -> i64 {
        redis::from_redis_value(self.command(words)).expect("a number")
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("redis-server to be killed");
            process.wait().expect("redis-server to be reaped");
        }
    }

    /// Starts it again after [`RedisServer::kill`], with what it finds on disk.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "redis-server runs already");
        assert!(self.launch(), "redis-server did not start again: {}", self.log());
    }

    /// Kills it and starts it with nothing in it.
    pub fn restart_empty(&mut self) {
        self.kill();
        self.forget();
        self.restart();
    }

    /// Removes what it has on disk.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(self.dir.path().join("dump.rdb"));
    }

    /// Writes what it has to disk.
    pub fn save(&self) {
        self.command(&["SAVE"]);
    }

    /// Kills it and starts it with all that it had at the last [`RedisServer::save`].
    pub fn restart_with_saved(&mut self) {
        self.kill();
        self.restart();
    }

    /// Saves, kills it, and starts it with all that it had.
    pub fn restart_with_data(&mut self) {
        self.save();
        self.restart_with_saved();
    }

    /// SIGSTOP: it hangs, and its connections stay.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("redis-server runs").id()
    }

    fn signal(&self, signal: i32) {
        let pid = self.pid();
        // SAFETY: kill takes two numbers. The process is our child and not reaped, so the pid is still its own.
        let sent = unsafe { libc::kill(pid.cast_signed(), signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// Whether it answers in the end.
    fn launch(&mut self) -> bool {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"));
        let mut command = Command::new(&self.program);
        command
            .args(["--bind", &self.host, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"])
            .args(["--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.expect("a log for redis-server"))
            .stderr(Stdio::null());
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        // SAFETY: between fork and exec only prctl is called, which is safe there.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed drops nothing; its server must not stay behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        self.process = Some(command.spawn().expect("redis-server is installed"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|end| end.is_some())) {
                self.process = None;
                return false;
            }
            if self.try_command(&["PING"]).is_ok_and(|pong| pong == Value::SimpleString("PONG".into())) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of 127.0.0.1 on which nobody listens.
#[allow(dead_code)]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).expect("a free port").port()
}
