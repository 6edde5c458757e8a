//! Real sentinels of a test's own, beside the servers that they watch.

#![allow(unreachable_pub, dead_code)] // Included by several test files, each a crate of its own, which use a part.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::redis_server::{RedisServer, free_port};

/// What the sentinels call the master.
pub const MASTER: &str = "mymaster";
/// What the sentinels want to be told.
pub const PASSWORD: &str = "sentinels-own";

/// The rights that an agent has at the sentinels, as user `circus` with that password.
pub const RIGHTS: &str = "-@all +ping +sentinel|master +subscribe &+switch-master";

/// A master, its replicas, and sentinels that watch them.
pub struct Watched {
    /// The first is the master at the start, the others are its replicas.
    pub servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
    password: tempfile::NamedTempFile,
}

/// One sentinel.
pub struct Sentinel {
    host: String,
    port: u16,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Watched {
    /// Starts them, and waits until all know of each other and the replicas have all of the master's data. The master
    /// counts as down when it has not answered for `down_after`.
    pub fn start(replicas: usize, sentinels: usize, down_after: Duration) -> Watched {
        let master = RedisServer::start();
        let port = master.port().to_string();
        let of_master = ["--replicaof", "127.0.0.1", &port];
        let mut servers = vec![master];
        servers.extend((0..replicas).map(|_| RedisServer::start_with(None, &of_master)));
        for replica in &servers[1..] {
            until("a replica to be in step", || replication(replica).contains("master_link_status:up"));
        }
        let sentinels: Vec<Sentinel> =
            (0..sentinels).map(|_| Sentinel::start(&port, sentinels / 2 + 1, down_after)).collect();
        let password = tempfile::NamedTempFile::new().expect("a file for a password");
        std::fs::write(password.path(), PASSWORD).expect("a password");
        let watched = Watched { servers, sentinels, password };
        let (others, replicas) = ((watched.sentinels.len() - 1).to_string(), replicas.to_string());
        for sentinel in &watched.sentinels {
            until("the sentinels to know of all", || {
                sentinel.knows("num-other-sentinels") == Some(others.clone())
                    && sentinel.knows("num-slaves") == Some(replicas.clone())
            });
        }
        watched
    }

    /// `redis+sentinel://…` of all sentinels.
    pub fn url(&self) -> String {
        let at: Vec<String> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        format!("redis+sentinel://{}/{MASTER}/0", at.join(","))
    }

    /// Holds what the sentinels want to be told.
    pub fn password_file(&self) -> PathBuf {
        self.password.path().to_owned()
    }

    /// Waits until another server than the first is master, and says so of itself.
    pub fn promoted(&self) -> &RedisServer {
        let is_master = |server: &&RedisServer| replication(server).contains("role:master");
        until("a replica to be promoted", || self.servers[1..].iter().any(|server| is_master(&server)));
        self.servers[1..].iter().find(is_master).expect("it is promoted")
    }

    /// Moves the master to a replica while all is well.
    pub fn fail_over(&self) {
        let failed_over: redis::Value = self.sentinels[0].ask(&["FAILOVER", MASTER]).expect("a failover");
        assert_eq!(failed_over, redis::Value::Okay);
    }

    /// Ends one of the sentinels.
    pub fn end_sentinel(&mut self, which: usize) {
        drop(self.sentinels.remove(which));
    }
}

fn replication(server: &RedisServer) -> String {
    server
        .try_command(&["INFO", "replication"])
        .ok()
        .and_then(|it| redis::from_redis_value(it).ok())
        .unwrap_or_default()
}

impl Sentinel {
    fn start(master: &str, quorum: usize, down_after: Duration) -> Sentinel {
        Sentinel::start_at("127.0.0.1", free_port(), &format!("127.0.0.1 {master}"), quorum, down_after)
    }

    /// Starts one at this address, which watches the master at that one: `host port`.
    pub fn start_at(host: &str, port: u16, master: &str, quorum: usize, down_after: Duration) -> Sentinel {
        let dir = tempfile::tempdir().expect("a directory for a sentinel");
        let settings = format!(
            "port {port}\nbind {host}\ndir {dir}\nlogfile {dir}/log\nrequirepass {PASSWORD}\n\
             user circus on >{PASSWORD} resetkeys resetchannels {RIGHTS}\n\
             sentinel sentinel-pass {PASSWORD}\nsentinel monitor {MASTER} {master} {quorum}\n\
             sentinel down-after-milliseconds {MASTER} {down_after}\nsentinel failover-timeout {MASTER} 3000\n",
            dir = dir.path().display(),
            down_after = down_after.as_millis(),
        );
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, settings).expect("settings for a sentinel");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only prctl is called, which is safe there.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed drops nothing; its sentinels must not stay behind.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let sentinel = Sentinel {
            host: host.to_owned(),
            port,
            process: command.spawn().expect("redis-server is installed"),
            _dir: dir,
        };
        until("a sentinel to answer", || sentinel.knows("name").is_some());
        sentinel
    }

    /// Puts `SENTINEL …` to it.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://:{PASSWORD}@{}:{}", self.host, self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        redis::cmd("SENTINEL").arg(words).query(&mut connection)
    }

    /// What it says of the master.
    pub fn knows(&self, field: &str) -> Option<String> {
        let about: Vec<String> = self.ask(&["MASTER", MASTER]).ok()?;
        about.chunks(2).find(|pair| pair[0] == field).map(|pair| pair[1].clone())
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
