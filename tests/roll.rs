//! Rolls over the nodes of a cluster: real agents, a real Redis, and a watcher whose processes write down when each of them
//! came up and went down.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/pty.rs"]
mod pty;
#[path = "support/redis.rs"]
mod redis_server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use agent::{Agent, Home, Said, wait_for};
use pty::OnTerminal;
use redis_server::RedisServer;

/// What `web` runs. It writes down when it is up and when it goes, comes up only while no file `hold.NODE` is there,
/// fails to start where there is `broken.NODE`, dies a moment after it has come up where there is `frail.NODE`, and stays
/// when it is to go while there is `keep.NODE`.
const WEB: &str = "\
    trap 'while [ -e keep.$CIRCUS_NODE ]; do sleep 0.02; done; echo $CIRCUS_NODE down >>log; exit 0' TERM\n\
    while [ -e hold.$CIRCUS_NODE ]; do sleep 0.02; done\n\
    if [ -e broken.$CIRCUS_NODE ]; then exit 3; fi\n\
    echo $CIRCUS_NODE up >>log\n\
    echo ready\n\
    if [ -e frail.$CIRCUS_NODE ]; then sleep 0.3; echo $CIRCUS_NODE down >>log; exit 4; fi\n\
    sleep 1000 & wait\n";

/// Three nodes with `web`, a singleton `beat`, and the singleton's lease taken.
struct Stage {
    home: Home,
    redis: RedisServer,
    agents: Vec<Agent>,
}

impl Stage {
    #[track_caller]
    fn set() -> Stage {
        let (home, redis) = (Home::new(), RedisServer::start());
        let web = home.script("web.sh", WEB);
        let config = format!(
            "\n[redis]\nurl = {}\nlease_ttl = 2s\n[watcher:web]\ncmd = {web}\nworking_dir = {}\nready = log ready\n\
             stdout_stream.class = QueueStream\n[watcher:beat]\ncmd = sleep 1000\nsingleton = true\n",
            redis.url(),
            home.path().display()
        );
        let agents = ["a", "b", "c"].map(|name| home.agent(name, &config));
        let stage = Stage { home, redis, agents: agents.into() };
        stage.agents.iter().for_each(|agent| agent.comes_to("web", "active"));
        wait_for("the lease to be initialised", || (stage.at("a", &["lease", "init", "beat"]).code == 0).then_some(()));
        wait_for("all nodes to be registered", || {
            let nodes = stage.over_redis(&["nodes", "--json"]).json();
            let rows = nodes["roster"].as_array()?;
            let holds = |row: &Value| row["holds"].as_array().is_some_and(|holds| !holds.is_empty());
            (rows.len() == 3 && rows.iter().any(holds)).then_some(())
        });
        stage
    }

    fn agent(&self, name: &str) -> &Agent {
        self.agents.iter().find(|agent| agent.name == name).expect("an agent")
    }

    fn at(&self, node: &str, words: &[&str]) -> Said {
        self.agent(node).ctl(&self.home, words)
    }

    fn over_redis(&self, words: &[&str]) -> Said {
        self.home.ctl(&[&["--endpoint", &self.redis.url()], words].concat())
    }

    fn circusctl(&self, node: &str, words: &[&str]) -> Command {
        let endpoint = format!("unix://{}", self.agent(node).socket.display());
        self.home.clean(env!("CARGO_BIN_EXE_circusctl"), &[&["--endpoint", &endpoint], words].concat())
    }

    /// Starts circusctl at a node's control socket, and leaves it running.
    fn begin(&self, node: &str, words: &[&str]) -> Child {
        let mut command = self.circusctl(node, words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("circusctl")
    }

    /// The same on a terminal.
    fn show(&self, node: &str, words: &[&str]) -> OnTerminal {
        let mut command = self.circusctl(node, words);
        command.env("TERM", "xterm");
        OnTerminal::start(command)
    }

    fn mark(&self, what: &str) {
        fs::write(self.home.file(what), "").expect("a file");
    }

    fn unmark(&self, what: &str) {
        fs::remove_file(self.home.file(what)).expect("a file");
    }

    fn pids(&self) -> [Vec<u32>; 3] {
        ["a", "b", "c"].map(|node| self.agent(node).pids("web"))
    }

    /// What the processes wrote down since `from`: lines of `NODE up` and `NODE down`.
    fn log(&self, from: usize) -> Vec<String> {
        let log = fs::read_to_string(self.home.file("log")).expect("what the processes wrote");
        log.lines().skip(from).map(str::to_owned).collect()
    }
}

/// How many nodes of three had nothing up at the worst moment.
fn worst(log: &[String]) -> usize {
    let mut up: BTreeMap<&str, i32> = ["a", "b", "c"].map(|node| (node, 1)).into();
    let down = |up: &BTreeMap<&str, i32>| up.values().filter(|count| **count < 1).count();
    let mut worst = 0;
    for line in log {
        let (node, news) = line.split_once(' ').expect("a node and its news");
        *up.get_mut(node).expect("a node") += if news == "up" { 1 } else { -1 };
        worst = worst.max(down(&up));
    }
    assert_eq!(down(&up), 0, "at the end all are up: {log:?}");
    worst
}

fn steps(told: &Value) -> Vec<(&str, &str)> {
    let nodes = told["nodes"].as_object().expect("nodes");
    nodes.iter().map(|(node, step)| (node.as_str(), step["step"].as_str().expect("a step"))).collect()
}

#[track_caller]
fn end(child: Child) -> Said {
    let output = child.wait_with_output().expect("its end");
    Said {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

#[test]
fn one_node_after_another_is_restarted_and_never_more_are_down_than_may_be() {
    let stage = Stage::set();
    let roll = ["restart", "web", "--rolling", "--all", "--json"];
    let here = |words: &[&str]| stage.at("b", words);
    let over_redis = |words: &[&str]| stage.over_redis(words);
    for ask in [&here as &dyn Fn(&[&str]) -> Said, &over_redis] {
        let (before, from) = (stage.pids(), stage.log(0).len());
        let told = ask(&roll).expect(0).json();
        assert_eq!(told["verdict"], "done", "{told}");
        assert_eq!(steps(&told), [("a", "done"), ("b", "done"), ("c", "done")]);
        let log = stage.log(from);
        assert_eq!(log, ["a down", "a up", "b down", "b up", "c down", "c up"]);
        assert_eq!(worst(&log), 1);
        for (before, after) in before.iter().zip(stage.pids()) {
            assert!(before[0] != after[0], "each is a new one");
        }
    }
    // Two at once where that may be, and never three.
    let from = stage.log(0).len();
    stage.at("a", &["restart", "web", "--rolling", "--all", "--max-unavailable", "67%"]).expect(0);
    assert!((1..=2).contains(&worst(&stage.log(from))), "{:?}", stage.log(from));
    // A reload takes nobody down.
    let from = stage.log(0).len();
    let said = stage.at("a", &["reload", "web", "--rolling", "--all", "--min-ready", "0"]).expect(0);
    assert_eq!((said.out.as_str(), worst(&stage.log(from))), ("done: a, b, c\n", 0));
    assert_eq!(stage.log(from).len(), 6);
}

#[test]
fn who_does_not_run_it_is_left_alone_and_a_singleton_is_restarted_where_it_is() {
    let stage = Stage::set();
    stage.at("b", &["stop", "web", "--waiting"]).expect(0);
    let said = stage.at("a", &["restart", "web", "--rolling", "--all"]).expect(0);
    assert_eq!(said.out, "done: a, c\nskipped: b (web is stopped there)\n");
    assert_eq!(stage.agent("b").watcher("web")["state"], "stopped");
    let idle = stage.at("b", &["restart", "web", "--rolling"]).expect(0);
    assert_eq!(idle.out, "skipped: b (web is stopped there)\nnothing to do on these nodes\n");

    let holder = |stage: &Stage| {
        let leases = stage.over_redis(&["leases", "--json"]).json();
        let nodes = leases["nodes"].as_object().expect("nodes").clone();
        let held = |(_, part): &(String, Value)| part["leases"][0]["role"] == "holder";
        nodes.into_iter().find(held).expect("a holder").0
    };
    let before = (holder(&stage), stage.agent(&holder(&stage)).pids("beat"));
    let told = stage.at("a", &["restart", "beat", "--rolling", "--all", "--json"]).expect(0).json();
    let expected = ["a", "b", "c"].map(|node| (node, if node == before.0 { "done" } else { "skipped" }));
    assert_eq!(steps(&told), expected);
    assert_eq!(holder(&stage), before.0);
    assert!(stage.agent(&before.0).pids("beat") != before.1);

    for (words, code, why) in [
        (&["restart", "wbe", "--rolling", "--all"][..], 1, "no node that was asked has a watcher wbe"),
        (&["restart", "web", "--rolling"], 2, "over Redis, say where to restart"),
        (&["restart", "web", "--rolling", "--any"], 2, "leave --any out"),
        (&["restart", "--rolling", "--all"], 2, "add --yes"),
    ] {
        let said = stage.over_redis(words).expect(code);
        assert!(said.err.contains(why), "{words:?}: {said:?}");
    }
}

#[test]
fn the_first_that_does_not_come_up_ends_it_and_holds_the_next() {
    let stage = Stage::set();
    let before = stage.pids();
    stage.mark("broken.b");
    let said = stage.at("a", &["restart", "web", "--rolling", "--all"]).expect(1);
    assert_eq!(said.out, "done: a\nnot touched: c\n");
    assert!(said.err.contains("error: b: web: exit 3"), "{said:?}");
    assert!(
        said.err.contains("to go on when that is healed:  circusctl restart web --rolling --node b,c\n"),
        "{said:?}"
    );
    let after = stage.pids();
    assert!(after[0] != before[0] && after[2] == before[2], "{before:?} {after:?}");

    // One is down now, and one may be: nothing begins, until that one is left out.
    let held = stage.over_redis(&["restart", "web", "--rolling", "--all"]).expect(1);
    assert!(held.err.contains("error: down already: b (web is "), "{held:?}");
    assert!(held.err.contains("nothing was begun"), "{held:?}");
    assert!(held.err.ends_with("circusctl restart web --rolling --node a,c\n"), "{held:?}");
    assert_eq!((stage.pids()[0].clone(), stage.pids()[2].clone()), (after[0].clone(), after[2].clone()));
    stage.over_redis(&["restart", "web", "--rolling", "--node", "a,c"]).expect(0);
    stage.unmark("broken.b");
    stage.at("b", &["restart", "web", "--rolling"]).expect(0);

    // One that comes up and dies again did not come up.
    stage.mark("frail.a");
    let (before, told) =
        (stage.pids(), stage.at("c", &["restart", "web", "--rolling", "--all", "--json"]).expect(1).json());
    assert_eq!(steps(&told), [("a", "failed"), ("b", "untouched"), ("c", "untouched")]);
    assert_eq!((&told["status"], &told["verdict"]), (&json!("error"), &json!("stopped")));
    assert_eq!(stage.pids()[1..], before[1..]);
}

#[test]
fn a_node_that_is_killed_in_its_turn_is_named_and_the_rest_is_left_alone() {
    for door in ["a", "b"] {
        let mut stage = Stage::set();
        let before = stage.pids();
        stage.mark("hold.b");
        let roll = stage.begin(door, &["restart", "web", "--rolling", "--all", "--json"]);
        let old: BTreeSet<u32> = before[1].iter().copied().collect();
        wait_for("b in its turn", || {
            let pids = stage.agent("b").pids("web");
            (!pids.is_empty() && pids.iter().all(|pid| !old.contains(pid))).then_some(())
        });
        stage.agents[1].kill();
        let said = end(roll).expect(4);
        let told = said.json();
        assert_eq!(steps(&told), [("a", "done"), ("b", "silent"), ("c", "untouched")], "{told}");
        let why = told["nodes"]["b"]["why"].as_str().expect("a reason");
        let expected = if door == "b" { "hung up" } else { "it has not been heard of for" };
        assert!(why.contains(expected), "{why}");
        assert_eq!(stage.agent("c").pids("web"), before[2]);
        stage.unmark("hold.b");
    }
}

#[test]
fn called_off_it_says_where_it_stands() {
    let stage = Stage::set();
    stage.mark("hold.b");
    let roll = stage.begin("a", &["restart", "web", "--rolling", "--all"]);
    wait_for("b in its turn", || (stage.agent("b").watcher("web")["state"] == "starting").then_some(()));
    kill(Pid::from_raw(roll.id().try_into().unwrap()), Signal::SIGINT).expect("a running circusctl");
    let said = end(roll).expect(4);
    assert_eq!(said.out, "done: a\nasked, and may still do it: b\nnot touched: c\n");
    assert!(said.err.ends_with("called off; to go on:  circusctl restart web --rolling --node b,c\n"), "{said:?}");
}

#[test]
fn an_agent_alone_rolls_over_itself() {
    let home = Home::new();
    let agent = home.agent(
        "solo",
        "\n[watcher:web]\ncmd = sleep 1000\nnumprocesses = 2\n[watcher:off]\ncmd = sleep 1000\nautostart = false\n",
    );
    agent.comes_to("web", "active");
    let before = agent.pids("web");
    let said = agent.ctl(&home, &["restart", "*", "--rolling"]).expect(0);
    assert_eq!(said.out, "done: solo\n");
    assert!(agent.pids("web").iter().all(|pid| !before.contains(pid)));
    assert_eq!(agent.watcher("off")["state"], "stopped", "what is stopped stays so");
    agent.ctl(&home, &["reload", "web", "--rolling", "--all", "--min-ready", "0"]).expect(0);
}

#[test]
fn a_roll_shows_how_far_it_is_on_a_terminal_in_one_line_and_elsewhere_in_lines() {
    let stage = Stage::set();
    let roll = ["restart", "web", "--rolling", "--all", "--min-ready", "0"];
    let said = stage.at("a", &roll).expect(0);
    assert_eq!(said.err, "a: asked\na: up again\nb: asked\nb: up again\nc: asked\nc: up again\n");
    for quiet in ["--quiet", "--json"] {
        assert_eq!(stage.at("a", &[&roll[..], &[quiet]].concat()).expect(0).err, "", "{quiet}");
    }
    stage.mark("hold.b");
    let mut terminal = stage.show("a", &roll);
    terminal.shows("\r\u{1b}[K[>                   ] 0/3  waiting for a, 0 s");
    terminal.shows("\r\u{1b}[K[======>             ] 1/3  waiting for b, ");
    // It shows that it is not stuck.
    terminal.shows("1/3  waiting for b, 1 s");
    stage.unmark("hold.b");
    terminal.shows("[====================] 3/3");
    terminal.shows("\r\u{1b}[Kdone: a, b, c\r\n");
    assert!(terminal.ends().success());
    let mut dumb = stage.circusctl("a", &roll);
    dumb.env("TERM", "dumb");
    let mut terminal = OnTerminal::start(dumb);
    assert!(!terminal.shows("done: a, b, c").contains('\u{1b}'));
}

#[test]
fn a_drain_shows_what_still_stops_and_where_each_singleton_went() {
    let stage = Stage::set();
    let beat = ["a", "b", "c"].into_iter().find(|node| !stage.agent(node).pids("beat").is_empty()).expect("a holder");
    let door = if beat == "a" { "b" } else { "a" };
    stage.mark(&format!("keep.{beat}"));
    let mut terminal = stage.show(door, &["drain", "--node", beat, "--waiting"]);
    terminal.shows(&format!("[==========>         ] 1/2  {beat}: web stops, "));
    let mut elsewhere = stage.begin(door, &["drain", "--node", beat, "--wait"]);
    // Others see it too.
    wait_for("the registry to know", || {
        let nodes = stage.at(door, &["nodes"]).expect(0).out;
        nodes.contains(&format!("{beat}: draining, 1 process still runs\n")).then_some(())
    });
    let status = stage.at(door, &["status", "--all"]).out;
    assert!(status.contains(&format!("{beat}: draining")), "{status}");
    // Long enough for the second one to have begun, too.
    terminal.shows(&format!("{beat}: web stops, 2 s"));
    assert!(elsewhere.try_wait().expect("a child").is_none());
    stage.unmark(&format!("keep.{beat}"));
    terminal.shows(&format!("\r\u{1b}[K{beat}: ok\r\n"));
    assert!(terminal.ends().success());
    let said = end(elsewhere);
    assert_eq!(said.err, format!("{beat}: web stopped, 0 of 1 still to stop\n"));

    // From the beginning, and over Redis.
    stage.at(beat, &["undrain", "--waiting"]).expect(0);
    let holder = ["a", "b", "c"].into_iter().find(|node| !stage.agent(node).pids("beat").is_empty()).expect("a holder");
    let said = stage.over_redis(&["drain", "--node", holder, "--waiting"]).expect(0);
    let to = wait_for("the next holder", || {
        ["a", "b", "c"].into_iter().find(|node| *node != holder && !stage.agent(node).pids("beat").is_empty())
    });
    let mut lines: Vec<&str> = said.err.lines().collect();
    lines.sort_unstable();
    assert!(lines.contains(&format!("beat went from {holder} to {to}").as_str()), "{said:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("still to stop")).count(), 2, "{said:?}");
    let quiet = stage.at(to, &["drain", "--waiting", "--quiet"]).expect(0);
    assert_eq!(quiet.err, "");
}
