//! Messages under a seal, end to end: real agents, a real Redis, and a stranger who may read and write every channel.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/redis.rs"]
mod redis_server;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use agent::{Agent, Home, PATIENCE, Said, wait_for};
use redis_server::RedisServer;

const SECRET: &str = "6a09e667f3bcc908b2fb1366ea957d3e3adec17512775099da2f590b0667322a";
const OTHER: &str = "bb67ae8584caa73b25742d7078b83b8925d834cc53da4798c720a6486e45a6e9";

struct Stage {
    home: Home,
    redis: RedisServer,
    agents: [Agent; 2],
}

impl Stage {
    /// Two agents that share a secret.
    fn new() -> Stage {
        let (home, redis) = (Home::new(), RedisServer::start());
        let agents = ["a", "b"].map(|name| home.agent(name, &config(&home, &redis, "secret", SECRET)));
        let stage = Stage { home, redis, agents };
        wait_for("both to answer both", || (stage.through_redis("secret", &["version"]).code == 0).then_some(()));
        stage
    }

    /// What circusctl says that knows the secret in this file and asks straight through Redis.
    fn through_redis(&self, secret: &str, words: &[&str]) -> Said {
        let (url, file) = (self.redis.url(), self.home.file(secret).display().to_string());
        self.home.ctl(&[&["--endpoint", &url, "--all", "--timeout", "2", "--secret-file", &file], words].concat())
    }

    fn stopped(&self, node: usize) -> bool {
        self.agents[node].watcher("web")["state"] == "stopped"
    }

    /// Whether an agent has logged that it dropped a message, and why.
    fn dropped(&self, node: usize, why: &str) {
        self.agents[node].logs(why);
    }
}

/// A file for an agent, whose secret is in `file` of `home`.
fn config(home: &Home, redis: &RedisServer, file: &str, secret: &str) -> String {
    let file = home.file(file);
    fs::write(&file, secret).expect("a secret");
    let chatty = "sh -c 'while :; do echo tick; sleep 0.1; done'";
    let watcher = format!("[watcher:web]\ncmd = {chatty}\nstdout_stream.class = QueueStream\n");
    format!("cluster = default\nsecret_file = {}\n[redis]\nurl = {}\n{watcher}", file.display(), redis.url())
}

/// Hears what comes on a channel, as the bytes that Redis carries.
struct Ear(mpsc::Receiver<Vec<u8>>);

impl Ear {
    fn on(redis: &RedisServer, channel: &str) -> Ear {
        let (heard, ear) = mpsc::channel();
        let mut connection =
            redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("redis");
        let channel = channel.to_owned();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut ear = connection.as_pubsub();
            ear.psubscribe(&channel).expect("a subscription");
            ready.send(()).expect("the test waits");
            while let Ok(message) = ear.get_message() {
                if heard.send(message.get_payload_bytes().to_vec()).is_err() {
                    return;
                }
            }
        });
        is_ready.recv().expect("a subscription");
        Ear(ear)
    }

    fn next(&self) -> Vec<u8> {
        self.0.recv_timeout(PATIENCE).expect("a message")
    }
}

fn say(redis: &RedisServer, channel: &str, message: &[u8]) -> u64 {
    let mut connection = redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("redis");
    redis::cmd("PUBLISH").arg(channel).arg(message).query(&mut connection).expect("PUBLISH")
}

#[test]
fn who_knows_the_secret_commands_all_and_nobody_else_does() {
    let stage = Stage::new();
    // From an agent's own door to the other one, too.
    let said = stage.agents[0].ctl(&stage.home, &["stop", "web", "--node", "b", "--waiting"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(stage.stopped(1) && !stage.stopped(0));
    // A stranger writes what agents without a secret say.
    let forged =
        r#"{"v":1,"id":"1","from":"a","reply_to":"circus:{default}:reply:1","message":"{\"command\":\"quit\"}"}"#;
    assert_eq!(say(&stage.redis, "circus:{default}:bus:a", forged.as_bytes()), 1);
    stage.dropped(0, "it is not sealed");
    // Another secret is none.
    fs::write(stage.home.file("other"), OTHER).expect("a secret");
    let said = stage.through_redis("other", &["stop", "web"]);
    assert_eq!(said.code, 4, "{said:?}");
    stage.dropped(1, "its seal is of another secret");
    assert!(!stage.stopped(0), "and nobody was stopped");
    let metrics = stage.agents[0].ctl(&stage.home, &["metrics"]).out;
    assert!(metrics.contains("circus_messages_dropped_total{node=\"a\"} 2"), "{metrics}");
    assert_eq!(stage.through_redis("secret", &["start", "web", "--waiting"]).code, 0);
}

#[test]
fn what_was_overheard_is_not_to_be_read_and_does_nothing_a_second_time_or_elsewhere() {
    let stage = Stage::new();
    let ear = Ear::on(&stage.redis, "circus:{default}:bus:a");
    assert_eq!(stage.agents[1].ctl(&stage.home, &["stop", "web", "--node", "a", "--waiting"]).code, 0);
    // A challenge is asked for, or known from before; the last message is what stopped the watcher.
    let overheard: Vec<Vec<u8>> = std::iter::once(ear.next()).chain(ear.0.try_iter()).collect();
    for message in &overheard {
        assert!(!String::from_utf8_lossy(message).contains("stop"), "it can be read");
    }
    assert_eq!(stage.agents[0].ctl(&stage.home, &["start", "web", "--waiting"]).code, 0);
    for message in &overheard {
        say(&stage.redis, "circus:{default}:bus:a", message);
        say(&stage.redis, "circus:{default}:bus:b", message);
    }
    stage.dropped(0, "it was asked before");
    stage.dropped(1, "its seal is of another secret, or for another channel");
    // What comes later is taken: nothing of the above is still on its way.
    assert_eq!(stage.through_redis("secret", &["version"]).code, 0);
    assert!(!stage.stopped(0) && !stage.stopped(1));
}

#[test]
fn a_restarted_agent_takes_nothing_of_its_earlier_life() {
    let mut stage = Stage::new();
    let ear = Ear::on(&stage.redis, "circus:{default}:bus:a");
    assert_eq!(stage.agents[1].ctl(&stage.home, &["stop", "web", "--node", "a", "--waiting"]).code, 0);
    let overheard: Vec<Vec<u8>> = std::iter::once(ear.next()).chain(ear.0.try_iter()).collect();
    stage.agents[0].kill();
    stage.agents[0] = stage.home.launch("a", &[]);
    stage.agents[0].answers();
    wait_for("it to be back", || (stage.through_redis("secret", &["version"]).code == 0).then_some(()));
    for message in &overheard {
        say(&stage.redis, "circus:{default}:bus:a", message);
    }
    stage.dropped(0, "it names a challenge of long ago");
    assert_eq!(stage.through_redis("secret", &["version"]).code, 0);
    assert!(!stage.stopped(0));
}

#[test]
fn a_secret_is_changed_while_agents_run() {
    let stage = Stage::new();
    let file = stage.home.file("secret");
    // First all open it, then all seal with it, then nobody knows the old one any more.
    for lines in [format!("{SECRET}\n{OTHER}\n"), format!("{OTHER}\n{SECRET}\n"), format!("{OTHER}\n")] {
        fs::write(&file, lines).expect("secrets");
        wait_for("all to answer", || (stage.through_redis("secret", &["version"]).code == 0).then_some(()));
    }
    fs::write(stage.home.file("old"), SECRET).expect("a secret");
    wait_for("the old one to be forgotten", || (stage.through_redis("old", &["version"]).code == 4).then_some(()));
}

#[test]
fn events_are_sealed_too() {
    let stage = Stage::new();
    let ear = Ear::on(&stage.redis, "circus:{default}:events");
    let (url, secret) = (stage.redis.url(), stage.home.file("secret").display().to_string());
    let words = ["--endpoint", &url, "--secret-file", &secret, "--json", "events", "-f", "web"];
    let mut command = stage.home.clean(env!("CARGO_BIN_EXE_circusctl"), &words);
    let mut follower = command.stdout(Stdio::piped()).spawn().expect("circusctl");
    let (shown, lines) = mpsc::channel();
    let out = BufReader::new(follower.stdout.take().expect("its output"));
    std::thread::spawn(move || out.lines().map_while(Result::ok).all(|line| shown.send(line).is_ok()));
    // Whether it listens already is not known: it is told until it hears.
    let line = wait_for("an event to be shown", || {
        let forged = br#"{"topic":"watcher.web.forged","watcher":"web","node":"a","time":1.0,"text":"forged"}"#;
        say(&stage.redis, "circus:{default}:events", forged);
        assert_eq!(stage.agents[0].ctl(&stage.home, &["restart", "web", "--waiting"]).code, 0);
        lines.recv_timeout(Duration::from_millis(100)).ok()
    });
    assert!(!line.contains("forged"), "{line}");
    follower.kill().and_then(|()| follower.wait()).expect("its end");
    let ours: Vec<Vec<u8>> = ear.0.try_iter().filter(|message| !message.starts_with(b"{")).collect();
    assert!(!ours.is_empty());
    assert!(ours.iter().all(|message| !String::from_utf8_lossy(message).contains("web")), "an event can be read");
}

#[test]
fn statistics_and_output_are_sealed_too_and_so_is_the_word_that_somebody_follows_them() {
    let stage = Stage::new();
    let ear = Ear::on(&stage.redis, "circus:{default}:*");
    let (url, secret) = (stage.redis.url(), stage.home.file("secret").display().to_string());
    for words in [&["stats", "-f", "--all"][..], &["logs", "-f", "--all"]] {
        let words = [&["--endpoint", &url, "--secret-file", &secret, "--json"], words].concat();
        let mut command = stage.home.clean(env!("CARGO_BIN_EXE_circusctl"), &words);
        let mut follower = command.stdout(Stdio::piped()).spawn().expect("circusctl");
        let mut line = String::new();
        BufReader::new(follower.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        assert!(line.contains("\"web\""), "{line}");
        follower.kill().and_then(|()| follower.wait()).expect("its end");
    }
    let heard: Vec<Vec<u8>> = ear.0.try_iter().collect();
    assert!(heard.len() >= 4, "who follows says so, and is told");
    for message in heard {
        assert!(message.starts_with(b"circus1"), "{}", String::from_utf8_lossy(&message));
    }
    // A stranger cannot have nodes tell.
    say(&stage.redis, "circus:{default}:watch", br#"{"v":1,"by":"5f","topic":"stats","begun":true}"#);
    stage.dropped(0, "it is not sealed");
}

#[test]
fn who_lacks_the_secret_or_has_another_is_told_so() {
    let stage = Stage::new();
    fs::write(stage.home.file("other"), OTHER).expect("a secret");
    let url = stage.redis.url();
    let bare = |words: &[&str]| stage.home.ctl(&[&["--endpoint", &url], words].concat());
    let way_out =
        "messages are sealed there: --secret-file FILE, or CIRCUS_SECRET_FILE, names the file with the secret";
    // What nodes write into the registry is no secret.
    wait_for("both to say it in the registry", || {
        let row = |name: &str| stage.redis.text(&["HGET", &format!("circus:{{default}}:node:{name}"), "about"]);
        ["a", "b"].iter().all(|name| row(name).is_some_and(|row| row.contains("seals"))).then_some(())
    });
    assert!(bare(&["nodes"]).expect(0).out.contains("up"));
    // At once, and nobody is bothered.
    for words in [
        &["status"][..],
        &["stop", "web", "--all"],
        &["version", "--node", "a"],
        &["events", "-f"],
        &["logs", "-f", "--all"],
        &["stats", "-f", "--all"],
    ] {
        let said = bare(words).expect(2);
        assert_eq!(said.err, format!("error: {way_out}\n"), "{words:?}");
    }
    let said = stage.through_redis("other", &["version"]).expect(4);
    assert!(said.err.contains("a: no answer within 2 s; messages are sealed with another secret there"), "{said:?}");
    // Nor does what a stranger writes keep out who knows the secret.
    let unsealed = stage.redis.text(&["HGET", "circus:{default}:node:a", "about"]).expect("a row");
    let mut forged: serde_json::Value = serde_json::from_str(&unsealed).expect("JSON");
    for seals in [serde_json::json!([]), serde_json::json!(["0123456789abcdef"])] {
        forged["seals"] = seals;
        stage.redis.command(&["HSET", "circus:{default}:node:a", "about", &forged.to_string()]);
        stage.through_redis("secret", &["version"]).expect(0);
    }
    // Nor does it have who knows it say anything that is not sealed.
    let ear = Ear::on(&stage.redis, "circus:{default}:bus:a");
    forged["seals"] = serde_json::json!([]);
    stage.redis.command(&["HSET", "circus:{default}:node:a", "about", &forged.to_string()]);
    stage.through_redis("secret", &["version"]).expect(0);
    assert!(ear.next().starts_with(b"circus1"));
}

#[test]
fn a_stream_under_another_secret_says_why_it_is_silent() {
    let stage = Stage::new();
    fs::write(stage.home.file("other"), OTHER).expect("a secret");
    let (url, secret) = (stage.redis.url(), stage.home.file("other").display().to_string());
    let words = ["--endpoint", &url, "--secret-file", &secret, "events", "-f"];
    let mut command = stage.home.clean(env!("CARGO_BIN_EXE_circusctl"), &words);
    let mut follower = command.stderr(Stdio::piped()).spawn().expect("circusctl");
    let mut line = String::new();
    BufReader::new(follower.stderr.take().expect("its notes")).read_line(&mut line).expect("a note");
    follower.kill().and_then(|()| follower.wait()).expect("its end");
    assert!(line.starts_with("note: messages are sealed with another secret there"), "{line}");
}

#[test]
fn a_secret_that_is_none_stops_the_start_and_is_not_shown() {
    let (home, redis) = (Home::new(), RedisServer::start());
    let path = home.configure("a", &config(&home, &redis, "secret", "hunter2"));
    let check = ["--check", &path.display().to_string()];
    let said = home.program(&check).output().expect("circus-agent");
    assert_eq!(said.status.code(), Some(78), "{said:?}");
    let shown = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(shown.contains("a line of 7 bytes is too short, it takes 32") && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("openssl rand -hex 32"), "{shown}");
}
