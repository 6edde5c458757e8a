//! Messages of nobody: what reaches an agent or circusctl by each door is changed at random, and none of it ends them,
//! makes them grow, or is carried out.
//!
//! `CIRCUS_SEED` plays a run again; the number of messages is fixed, so that a run takes some seconds.

#![allow(clippy::print_stdout)] // The seed is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use circus_agent::model::random::Random;
use circus_agent::zmq::zmtp::{self, Kind};
use serde_json::json;

use agent::{Agent, Home, PATIENCE, wait_for};
use redis_server::RedisServer;

/// How many messages each door gets.
const MESSAGES: usize = 20_000;
/// How many of them a process is started for.
const ANSWERS: usize = 60;
/// How much memory they may leave behind, in bytes: what an allocator keeps.
const MEMORY: u64 = 24 << 20;

/// Sound messages, to be changed. They are about a watcher that is not there, and no part of any
/// names the one that is: what comes out may be as sound as what went in.
const REQUESTS: [&str; 12] = [
    r#"{"command":"status","id":"1","properties":{"name":"nobody"}}"#,
    r#"{"command":"list","id":7,"properties":{"node":["a","b"],"timeout":0.01}}"#,
    r#"{"command":"options","properties":{"name":"nobody"},"msg_type":"cast"}"#,
    r#"{"command":"set","id":[1,{"a":null}],"properties":{"name":"nobody","options":{"numprocesses":2,"env":{"A":"b"}}}}"#,
    r#"{"command":"signal","properties":{"name":"nobody","signum":"SIGTERM","pid":1,"childpid":2}}"#,
    r#"{"command":"kill","properties":{"name":"nobody","graceful_timeout":"0.5","waiting":true}}"#,
    r#"{"command":"incr","properties":{"name":"nobody","nb":-3}}"#,
    r#"{"command":"addsocket","properties":{"name":"nobody","options":{"port":"x","host":"nowhere.invalid"}}}"#,
    r#"{"command":"events","properties":{"name":["nob*","[a"],"lines":3,"follow":false}}"#,
    r#"{"command":"history","properties":{"name":"nobody","n":18446744073709551615}}"#,
    r#"{"command":"failover","properties":{"name":"nobody","to":"b"}}"#,
    r#"{"command":"start","properties":{"name":"nob*","match":"regex"}}"#,
];

/// What parsers are known to stumble over.
const STUMBLES: [&str; 14] = [
    "\"",
    "{",
    "[[[[[[[[[[[[[[[[",
    "\\u0000",
    "\\ud800",
    "1e999",
    "-0",
    "18446744073709551616",
    "null",
    "\u{feff}",
    "\0",
    "\n",
    "{\"v\":2,",
    "\u{202e}",
];

struct Fuzz(Random);

impl Fuzz {
    fn new(what: &str) -> Fuzz {
        let seed = std::env::var("CIRCUS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("{what}: CIRCUS_SEED={seed}");
        Fuzz(Random::from_number(seed))
    }

    fn below(&mut self, end: usize) -> usize {
        (self.0.number() % end.max(1) as u64) as usize
    }

    /// One of `sound`, changed in one to four places.
    fn message<T: AsRef<[u8]>>(&mut self, sound: &[T]) -> Vec<u8> {
        let mut message = sound[self.below(sound.len())].as_ref().to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(message.len() + 1);
            let end = (at + self.below(20)).min(message.len());
            match self.below(6) {
                0 => message.truncate(at),
                1 => drop(message.drain(at..end)),
                2 => drop(message.splice(at..at, message[at..end].to_vec())),
                3 => drop(message.splice(at..end, STUMBLES[self.below(STUMBLES.len())].bytes())),
                4 => message
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte = byte.wrapping_add(1).rotate_left(at as u32 % 8)),
                _ => {
                    let other = sound[self.below(sound.len())].as_ref();
                    let from = self.below(other.len());
                    message.truncate(at);
                    message.extend_from_slice(&other[from..]);
                }
            }
        }
        message
    }
}

fn question(request: &str) -> Vec<u8> {
    let (id, reply_to) = ("5f5f", "circus:{default}:reply:0123");
    json!({"v": 1, "id": id, "from": "b", "reply_to": reply_to, "message": request}).to_string().into_bytes()
}

struct Stage {
    home: Home,
    redis: RedisServer,
    agent: Agent,
}

impl Stage {
    fn new(circus: &str) -> Stage {
        let (home, redis) = (Home::new(), RedisServer::start());
        let config = format!("{circus}\n[redis]\nurl = {}\n[watcher:mine]\ncmd = sleep 1000\n", redis.url());
        let agent = home.agent("a", &config);
        let stage = Stage { home, redis, agent };
        stage.agent.comes_to("mine", "active");
        wait_for("the agent to hear questions", || (stage.heard("circus:{default}:bus:a") == 1).then_some(()));
        stage
    }

    fn heard(&self, channel: &str) -> u64 {
        let heard: (String, u64) = redis::from_redis_value(self.redis.command(&["PUBSUB", "NUMSUB", channel])).unwrap();
        heard.1
    }

    fn connection(&self) -> redis::Connection {
        redis::Client::open(self.redis.url()).and_then(|client| client.get_connection()).expect("redis")
    }

    /// Has the agent hear messages on a channel, and waits until it has.
    fn says(&self, channel: &str, messages: impl Iterator<Item = Vec<u8>>) {
        let mut connection = self.connection();
        let messages: Vec<Vec<u8>> = messages.collect();
        // No faster than it reads: Redis hangs up on those who fall behind.
        for some in messages.chunks(500) {
            let mut pipe = redis::pipe();
            for message in some {
                pipe.publish(channel, message).ignore();
            }
            pipe.query::<()>(&mut connection).expect("PUBLISH");
            self.agent.ask(&json!({"command": "version"}));
        }
    }

    /// Whether the agent is as it was: it answers through Redis too, what it runs is the same, and it has not grown.
    fn is_unharmed(&self, pids: &[u32], memory: u64) {
        wait_for("an answer through Redis", || {
            let said = self.home.ctl(&["--endpoint", &self.redis.url(), "--node", "a", "version"]);
            (said.code == 0).then_some(())
        });
        assert_eq!(self.agent.pids("mine"), pids);
        assert_eq!(self.agent.ask(&json!({"command": "numwatchers"}))["numwatchers"], 1);
        let grown = self.agent.memory().saturating_sub(memory);
        assert!(grown < MEMORY, "it has grown by {grown} bytes");
        assert!(!self.agent.log().contains("panicked"), "{}", self.agent.log());
    }
}

#[test]
fn what_comes_through_redis_harms_no_agent() {
    let mut fuzz = Fuzz::new("through Redis");
    let stage = Stage::new("");
    let (pids, memory) = (stage.agent.pids("mine"), stage.agent.memory());
    let questions: Vec<Vec<u8>> = REQUESTS.iter().map(|request| question(request)).collect();
    stage.says("circus:{default}:bus:a", (0..MESSAGES).map(|_| fuzz.message(&questions)));
    // Its own channel for answers is known to whoever looks.
    let channels: Vec<String> =
        redis::from_redis_value(stage.redis.command(&["PUBSUB", "CHANNELS", "circus:{default}:reply:*"])).unwrap();
    let answer = br#"{"v":1,"re":"5f","from":"b","message":"{\"status\":\"ok\"}"}"#.to_vec();
    stage.says(&channels[0], (0..MESSAGES).map(|_| fuzz.message(std::slice::from_ref(&answer))));
    // And what is longer than any message.
    stage.says("circus:{default}:bus:a", std::iter::once(vec![b'['; 32 << 20]));
    stage.is_unharmed(&pids, memory);
}

#[test]
fn what_is_sealed_by_nobody_harms_no_agent() {
    let mut fuzz = Fuzz::new("sealed");
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "0123456789abcdef0123456789abcdef").unwrap();
    let stage = Stage::new(&format!("secret_file = {}", secret.path().display()));
    let (pids, memory) = (stage.agent.pids("mine"), stage.agent.memory());
    let sealed = [&b"circus1"[..], &[7; 16], &[9; 200]].concat();
    stage.says("circus:{default}:bus:a", (0..MESSAGES).map(|_| fuzz.message(std::slice::from_ref(&sealed))));
    // An agent that had much to do was not told of each, and hears of all with the next one.
    wait_for("each to be counted", || {
        stage.says("circus:{default}:bus:a", std::iter::once(sealed.clone()));
        let said = stage.agent.ctl(&stage.home, &["metrics"]).out;
        let count = said.lines().find_map(|line| line.strip_prefix("circus_messages_dropped_total{node=\"a\"} "));
        (count?.parse::<usize>().ok()? > MESSAGES).then_some(())
    });
    assert_eq!(stage.agent.pids("mine"), pids);
    assert!(stage.agent.memory().saturating_sub(memory) < MEMORY);
}

#[test]
fn what_comes_to_the_control_socket_harms_no_agent() {
    let mut fuzz = Fuzz::new("control socket");
    let stage = Stage::new("");
    let (pids, memory) = (stage.agent.pids("mine"), stage.agent.memory());
    for _ in 0..MESSAGES / 100 {
        let mut client = UnixStream::connect(&stage.agent.socket).expect("the control socket");
        client.set_nonblocking(true).expect("a client that waits for nothing");
        for _ in 0..100 {
            let line = [&fuzz.message(&REQUESTS)[..], b"\n"].concat();
            // An agent that hangs up on such a client is right.
            let _ = client.write_all(&line);
        }
        stage.agent.ask(&json!({"command": "version"}));
    }
    stage.is_unharmed(&pids, memory);
}

/// What a client of ZeroMQ says after its greeting, to be changed.
fn conversations(own: Kind) -> Vec<Vec<u8>> {
    let opening = zmtp::opening(own);
    let ask = |request: &str| [&opening[..], &zmtp::message(&[request.as_bytes()])].concat();
    let mut all: Vec<Vec<u8>> = REQUESTS.iter().map(|request| ask(request)).collect();
    for more in [
        &zmtp::subscribe(b"watcher.")[..],
        &zmtp::message(&[b"", b"{}"]),
        b"\x04\x0aSUBSCRIBEw",
        b"\x04\x0e\x04PING\x00\x0acontext",
        b"\x02\x00\x00\x00\x00\x00\x00\x00\x03abc",
        b"\x04\x08\x05ERROR\x01x",
    ] {
        all.push([&opening[..], more, more].concat());
    }
    all
}

#[test]
fn what_comes_over_zeromq_harms_no_agent() {
    let mut fuzz = Fuzz::new("ZeroMQ");
    let ports = [(); 2].map(|()| {
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
    });
    let [endpoint, pubsub] = ports.map(|port| format!("tcp://127.0.0.1:{port}"));
    let stage = Stage::new(&format!("endpoint = {endpoint}\npubsub_endpoint = {pubsub}"));
    let (pids, memory) = (stage.agent.pids("mine"), stage.agent.memory());
    let files = stage.agent.open_files();
    for (port, own) in ports.into_iter().zip([Kind::Dealer, Kind::Sub]) {
        let sound = conversations(own);
        for at in 0..MESSAGES / 4 {
            let mut client = TcpStream::connect(("127.0.0.1", port)).expect("the door");
            // An agent that hangs up on such a client is right.
            let _ = client.write_all(&fuzz.message(&sound));
            if at % 100 == 0 {
                stage.agent.ask(&json!({"command": "version"}));
            }
        }
    }
    wait_for("their connections to be closed", || (stage.agent.open_files() <= files).then_some(()));
    stage.is_unharmed(&pids, memory);
    let said = stage.home.ctl(&["--endpoint", &endpoint, "numwatchers"]);
    assert_eq!((said.code, said.out.as_str()), (0, "1\n"), "{said:?}");
}

#[test]
fn rows_and_answers_of_nobody_harm_no_circusctl() {
    let mut fuzz = Fuzz::new("rows and answers");
    let stage = Stage::new("");
    let about =
        r#"{"version":"0.1.0","host":"h","pid":7,"up":1.5,"config":"0","watchers":["web"],"holds":["x"],"waits":[]}"#;
    let mut connection = stage.connection();
    let now = || wait_for("the agent's own beat", || stage.redis.text(&["HGET", "circus:{default}:node:a", "seen"]));
    for row in 0..500 {
        let (name, said) = (format!("n{row}"), fuzz.message(&[about]));
        let key = format!("circus:{{default}}:node:{name}");
        let state = if row % 3 == 0 { fuzz.message(&["up"]) } else { b"up".to_vec() };
        redis::cmd("HSET")
            .arg(&key)
            .arg("seen")
            .arg(now())
            .arg("state")
            .arg(state)
            .arg("about")
            .arg(said)
            .query::<()>(&mut connection)
            .expect("HSET");
        redis::cmd("ZADD")
            .arg("circus:{default}:nodes")
            .arg(now())
            .arg(name)
            .query::<()>(&mut connection)
            .expect("ZADD");
    }
    let url = stage.redis.url();
    for door in [vec!["--endpoint", &url, "nodes"], vec!["--endpoint", &url, "--json", "nodes"]] {
        let said = stage.home.ctl(&door);
        assert_eq!(said.code, 0, "{said:?}");
    }
    assert_eq!(stage.agent.ctl(&stage.home, &["nodes"]).code, 0);

    // One of them answers, after its fashion.
    let reply = json!({"status": "ok", "time": 1.0, "watchers": [{"name": "web", "state": "active", "processes": []}]});
    let mut ears = stage.connection();
    let (url, home) = (stage.redis.url(), &stage.home);
    for _ in 0..ANSWERS {
        let mut ear = ears.as_pubsub();
        ear.subscribe("circus:{default}:bus:n1").expect("a subscription");
        let words = ["--endpoint", &url, "--node", "n1", "--timeout", "0.2", "status"];
        let asker =
            home.clean(env!("CARGO_BIN_EXE_circusctl"), &words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        ear.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let asked: serde_json::Value =
            serde_json::from_slice(ear.get_message().expect("a question").get_payload_bytes()).unwrap();
        let message = String::from_utf8_lossy(&fuzz.message(&[reply.to_string()])).into_owned();
        let answer = json!({"v": 1, "re": asked["id"], "from": "n1", "message": message}).to_string();
        let answer = if fuzz.below(2) == 0 { answer.into_bytes() } else { fuzz.message(&[answer]) };
        drop(ear);
        redis::cmd("PUBLISH")
            .arg(asked["reply_to"].as_str())
            .arg(&answer)
            .query::<()>(&mut connection)
            .expect("PUBLISH");
        let said = asker.and_then(std::process::Child::wait_with_output).expect("circusctl");
        let shown = String::from_utf8_lossy(&said.stderr).into_owned();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(said.status.code().is_some_and(|code| code <= 5) && !shown.contains("panicked"), "{answer}: {shown}");
    }
}

#[test]
fn events_of_nobody_harm_no_circusctl() {
    let mut fuzz = Fuzz::new("events");
    let stage = Stage::new("");
    let url = stage.redis.url();
    let words = ["--endpoint", &url, "events", "-f"];
    let mut command = stage.home.clean(env!("CARGO_BIN_EXE_circusctl"), &words);
    let out = stage.home.file("shown");
    let file = std::fs::File::create(&out).expect("a file");
    let mut follower = command.stdout(file.try_clone().expect("a file")).stderr(file).spawn().expect("circusctl");
    wait_for("circusctl to listen", || (stage.heard("circus:{default}:events") == 1).then_some(()));
    let mut ears = stage.connection();
    let mut ear = ears.as_pubsub();
    ear.subscribe("circus:{default}:events").expect("a subscription");
    ear.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let restarted = || drop(stage.agent.ctl(&stage.home, &["restart", "mine", "--waiting"]).expect(0));
    restarted();
    let events: Vec<Vec<u8>> =
        (0..4).map(|_| ear.get_message().expect("an event").get_payload_bytes().to_vec()).collect();
    drop(ear);
    stage.says("circus:{default}:events", (0..MESSAGES / 4).map(|_| fuzz.message(&events)));
    let shown = || String::from_utf8_lossy(&std::fs::read(&out).unwrap_or_default()).into_owned();
    wait_for("what really happens to be shown after all that", || {
        assert!(follower.try_wait().expect("a child").is_none(), "{}", shown());
        restarted();
        let pid = stage.agent.pids("mine")[0].to_string();
        shown().contains(&pid).then_some(())
    });
    assert!(!shown().contains("panicked"));
    follower.kill().and_then(|()| follower.wait()).expect("its end");
}
