//! One story, and what the PUB sockets of circusd and of an agent tell of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::agent::{Home, wait_for};
use crate::answers::message;
use crate::circusd::{Circusd, Script};
use crate::page::{self, Place};

/// `DIR` is a directory of each one's own, `HERE` that of this test. It begins within `[circus]`.
const CONFIG: &str = "\
check_delay = 0.3
endpoint = ipc://DIR/endpoint
pubsub_endpoint = ipc://DIR/pubsub
multicast_endpoint =

[watcher:Story Teller]
cmd = sleep 999
autostart = False

[watcher:pair]
cmd = sleep 1000
numprocesses = 2
autostart = False

[watcher:hooked]
cmd = sleep 1001
autostart = False
hooks.before_start = hooks.yes
hooks.after_start = hooks.yes
hooks.before_spawn = hooks.yes
hooks.after_spawn = hooks.yes
hooks.before_signal = hooks.yes
hooks.after_signal = hooks.yes
hooks.before_reap = hooks.yes
hooks.after_reap = hooks.yes
hooks.before_stop = hooks.yes
hooks.after_stop = hooks.breaks, true

[watcher:once]
cmd = sleep 1002
respawn = False
autostart = False

[watcher:short]
cmd = sh -c \"sleep 0.3; exit 3\"
respawn = False
autostart = False

[watcher:gone]
cmd = /nonexistent/program
max_retry = 1
autostart = False

[watcher:fence]
cmd = sleep 1003
autostart = False

[env:hooked]
PYTHONPATH = HERE
";

/// An event, and what its body has.
type Event = (&'static str, &'static str);

/// What is done: its name, the requests, and events that may come after the last reply.
const STORY: &[(&str, &[&str], &[Event])] = &[
    ("start", &["start name=\"Story Teller\" waiting=true", "start name=pair waiting=true"], &[]),
    ("exit", &["start name=short"], &[("watcher.short.stop", "")]),
    ("SIGKILL", &["signal name=\"Story Teller\" signum=kill"], &[("watcher.story_teller.spawn", "")]),
    ("restart", &["restart name=\"Story Teller\" waiting=true"], &[]),
    ("reload", &["reload name=\"Story Teller\" waiting=true"], &[]),
    ("reload of two", &["reload name=pair waiting=true"], &[]),
    (
        "reload, sequential",
        &["reload name=\"Story Teller\" sequential=true waiting=true"],
        &[("watcher.story_teller.reload", "")],
    ),
    ("reload, terminate", &["reload name=\"Story Teller\" graceful=false waiting=true"], &[]),
    ("incr", &["incr name=\"Story Teller\" waiting=true"], &[]),
    ("decr", &["decr name=\"Story Teller\" waiting=true"], &[]),
    ("set", &["set name=pair options={\"send_hup\":false,\"warmup_delay\":0} waiting=true"], &[]),
    ("set numprocesses", &["set name=pair options={\"numprocesses\":3} waiting=true"], &[]),
    ("kill", &["kill name=\"Story Teller\" waiting=true"], &[("watcher.story_teller.spawn", "")]),
    ("stop", &["stop name=pair waiting=true", "stop name=\"Story Teller\" waiting=true"], &[]),
    ("stop again", &["stop name=pair waiting=true"], &[]),
    ("add", &["add name=\"New One\" cmd=\"sleep 5\" waiting=true"], &[]),
    ("add and start", &["add name=other cmd=\"sleep 1004\" start=true waiting=true"], &[]),
    ("rm", &["rm name=other waiting=true", "rm name=\"new one\" waiting=true"], &[]),
    ("a start with hooks", &["start name=hooked waiting=true"], &[]),
    (
        "a stop with hooks",
        &["stop name=hooked waiting=true"],
        &[("watcher.hooked.hook_success", "after_reap"), ("watcher.hooked.hook_failure", "after_stop")],
    ),
    (
        "an end without respawn",
        &["start name=once waiting=true", "signal name=once signum=kill"],
        &[("watcher.once.stop", "")],
    ),
    ("no such program", &["start name=gone waiting=true"], &[]),
];

/// What circusd tells or does not, as the time of its look at the processes falls: in which part, and how its topic ends.
const BY_CHANCE: (&str, &str) = ("kill", ".reap");

/// One of the two, who is asked and listened to.
struct Teller {
    asking: Script,
    hearing: Script,
    heard: Vec<(String, String)>,
}

impl Teller {
    fn new(home: &Home, dir: &str) -> Teller {
        let asking = Script::start(home, "ask.py", &[&format!("ipc://{dir}/endpoint")]);
        let hearing = Script::start(home, "hear.py", &[&format!("ipc://{dir}/pubsub")]);
        let mut teller = Teller { asking, hearing, heard: Vec::new() };
        wait_for("events are heard", || {
            teller.fence();
            teller.listen();
            (!teller.heard.is_empty()).then_some(())
        });
        teller.told();
        teller
    }

    /// Has something told that is not part of the story: what was told before is heard before.
    fn fence(&mut self) {
        self.ask("set name=fence options={\"send_hup\":false} waiting=true");
    }

    fn ask(&mut self, note: &str) {
        let reply = self.asking.ask(&message(note));
        let status = reply["fields"][0].clone();
        // What cannot be started is told of all the same.
        assert!(status == json!(["status", "ok"]) || note.contains("gone"), "{note}: {reply}");
    }

    fn listen(&mut self) {
        while let Some(event) = self.hearing.heard() {
            assert_eq!(event["is_python"], true, "no text of Python's: {event}");
            let fields = event["fields"].as_array().expect("fields").iter().map(|field| {
                let value = match (field[0].as_str(), &field[1]) {
                    (Some("process_pid"), Value::Number(_)) => "a pid".to_owned(),
                    (Some("time"), time) if time.is_f64() => "a float".to_owned(),
                    (_, value) => value.to_string(),
                };
                format!("{}: {value}", field[0])
            });
            let body = fields.collect::<Vec<_>>().join(", ");
            self.heard.push((event["topic"].as_str().expect("a topic").to_owned(), body));
        }
    }

    /// Waits for an event.
    fn hears(&mut self, (topic, part): Event) {
        wait_for(topic, || {
            self.listen();
            self.heard.iter().any(|(heard, body)| heard == topic && body.contains(part)).then_some(())
        });
    }

    /// All that was told until now.
    fn told(&mut self) -> Vec<(String, String)> {
        let fences =
            |heard: &[(String, String)]| heard.iter().filter(|(topic, _)| topic == "watcher.fence.updated").count();
        let before = fences(&self.heard);
        self.fence();
        wait_for("the fence", || {
            self.listen();
            (fences(&self.heard) > before).then_some(())
        });
        let heard = std::mem::take(&mut self.heard);
        heard.into_iter().filter(|(topic, _)| !topic.starts_with("watcher.fence.")).collect()
    }

    /// What is told of one part of the story.
    fn tells(&mut self, requests: &[&str], until: &[Event]) -> Vec<(String, String)> {
        requests.iter().for_each(|request| self.ask(request));
        until.iter().for_each(|event| self.hears(*event));
        self.told()
    }
}

/// Where the two differ in what they tell of the same.
fn differences(part: &str, circusd: &[(String, String)], agent: &[(String, String)]) -> Vec<(Place, String)> {
    if circusd == agent {
        return Vec::new();
    }
    let how = format!("\n  circusd: {circusd:?}\n  agent:   {agent:?}");
    let counts = |told: &[(String, String)]| {
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        told.iter().for_each(|event| *counts.entry(event.clone()).or_default() += 1);
        counts
    };
    let (theirs, ours) = (counts(circusd), counts(agent));
    let mut words: Vec<&str> = theirs
        .keys()
        .chain(ours.keys())
        .filter(|event| theirs.get(*event) != ours.get(*event))
        .filter_map(|(topic, _)| topic.rsplit('.').next())
        .collect();
    words.sort_unstable();
    words.dedup();
    let others = |told: &[(String, String)]| {
        let is_other = |topic: &str| topic.rsplit('.').next().is_none_or(|word| !words.contains(&word));
        told.iter().filter(|(topic, _)| is_other(topic)).cloned().collect::<Vec<_>>()
    };
    if others(circusd) != others(agent) {
        words.push("order");
    }
    words.into_iter().map(|word| ((part.to_owned(), word.to_owned()), how.clone())).collect()
}

#[test]
fn one_story_is_told_as_circusd_tells_it_but_for_what_the_page_names() {
    let home = Home::new();
    let dirs = ["circusd", "agent"].map(|name| home.file(&format!("{name}.dir")).display().to_string());
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).expect("a directory"));
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/circus").display().to_string();
    let file = |dir: &str| CONFIG.replace("DIR", dir).replace("HERE", &here);
    let _circusd = Circusd::start(&home, &format!("[circus]\n{}", file(&dirs[0])));
    let _agent = home.agent("web-1", &file(&dirs[1]));
    let mut tellers = dirs.each_ref().map(|dir| Teller::new(&home, dir));
    let mut found: Vec<(Place, String)> = Vec::new();
    for (part, requests, until) in STORY {
        let mut told = tellers.each_mut().map(|teller| teller.tells(requests, until));
        told[0].retain(|(topic, _)| !(*part == BY_CHANCE.0 && topic.ends_with(BY_CHANCE.1)));
        found.extend(differences(part, &told[0], &told[1]));
    }
    page::are_those_of("### Events that differ", &found);
}
