//! The real circus-top on a real terminal, with real agents, and with a real Redis that goes and comes back.

use std::num::NonZeroU16;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::{Agent, Home, PATIENCE, is_alive, send};
use crate::pty::OnTerminal;
use crate::redis_server::RedisServer;

/// circus-top on a terminal, and what that shows.
struct Top {
    program: OnTerminal,
    screen: vt100::Parser,
}

fn program(home: &Home, endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circus-top"));
    command.args(["--endpoint", endpoint]).args(args).env_clear();
    command.env("HOME", home.path()).env("TERM", "xterm").env("LANG", "C.UTF-8").env("TZ", "UTC");
    command
}

impl Top {
    fn start(home: &Home, endpoint: &str, args: &[&str]) -> Top {
        let size = |count| NonZeroU16::new(count).expect("a size");
        let screen = vt100::Parser::new(size(24), size(80), 0);
        Top { program: OnTerminal::start(program(home, endpoint, args)), screen }
    }

    fn look(&mut self) -> String {
        let written = self.program.writes();
        self.screen.process(&written);
        self.screen.screen().contents()
    }

    /// Waits until the screen is like that, and gives it.
    #[track_caller]
    fn shows(&mut self, what: &str, like: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.look();
            if like(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "it does not show {what}:\n{screen}");
        }
    }

    #[track_caller]
    fn says(&mut self, text: &str) -> String {
        self.shows(text, |screen| screen.contains(text))
    }

    /// Waits for its end; the terminal is then as `before`, without a trace of the picture.
    #[track_caller]
    fn ends(&mut self, code: i32, before: [libc::tcflag_t; 4]) {
        // What it writes is read all along, since it waits for nobody who does not.
        let status = self.program.ends();
        self.shows("the screen that was before", |screen| screen.trim().is_empty());
        assert_eq!(status.code(), Some(code));
        assert_eq!(self.program.settings(), before, "raw mode is left");
        let screen = self.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor());
    }
}

/// Where the row of a watcher stands.
fn row(screen: &str, name: &str) -> Option<usize> {
    screen.lines().position(|line| line.contains(&format!("▸{name} ")))
}

#[test]
fn it_shows_what_runs_takes_keys_and_leaves_the_terminal_as_it_was() {
    let home = Home::new();
    let agent =
        home.agent("web-1", "[watcher:web]\ncmd = sleep 1000\n[watcher:worker]\ncmd = sleep 1000\nnumprocesses = 2\n");
    agent.comes_to("worker", "active");
    let before = agent.pids("web");
    let mut top = Top::start(&home, &agent.socket.to_string_lossy(), &[]);
    let settings = OnTerminal::start(Command::new("true")).settings();
    let screen = top.says(" live ");
    assert!(screen.contains("circus-top ─ web-1 ─ 1 node"), "{screen}");
    top.shows("its watchers", |screen| row(screen, "web").is_some() && screen.contains("2/2"));
    assert_ne!(top.program.settings(), settings, "keys come one by one");

    // A process appears.
    agent.ctl(&home, &["incr", "web"]).expect(0);
    top.shows("two of web", |screen| screen.lines().any(|line| line.contains("▸web ") && line.contains("2/2")));
    let above = |screen: &str, one: &str, other: &str| matches!((row(screen, one), row(screen, other)), (Some(a), Some(b)) if a < b);
    top.program.types("n");
    top.shows("the names in order", |screen| above(screen, "web", "worker"));
    top.program.types("I");
    top.shows("them the other way round", |screen| above(screen, "worker", "web"));

    // An action, which is asked about before.
    top.program.types("IggR");
    top.program.types("r");
    top.says("Restart web on web-1: 2 processes stop, and start again.");
    top.program.types("n");
    top.shows("no dialog", |screen| !screen.contains("Sure?"));
    assert!(before.iter().all(|pid| is_alive(*pid)));
    top.program.types("r");
    top.says("Sure?");
    top.program.types("y");
    top.says("Restart web on web-1: ");
    let deadline = Instant::now() + PATIENCE;
    while before.iter().any(|pid| is_alive(*pid)) {
        assert!(Instant::now() < deadline, "it was not restarted: {}", top.look());
        thread::sleep(Duration::from_millis(5));
    }
    // Pages: why it is so, and all about it, which goes on further down.
    top.program.types("x");
    top.says("explain web");
    top.says("web runs on web-1.");
    top.program.types("q");
    top.shows("the panels", |screen| row(screen, "web").is_some());
    top.program.types("d");
    top.says("circusctl explain web --node web-1");
    top.program.types("G");
    top.shows("its options", |screen| screen.contains("warmup_delay"));
    top.program.types("\x1b");
    top.shows("the panels", |screen| row(screen, "web").is_some());

    // The palette: a word is completed, a mistake told, an answer read, a command done.
    top.program.types(":opt\tw\t");
    top.shows("the words", |screen| screen.contains(":options w") && screen.contains("web  worker"));
    top.program.types("ork\t\r");
    top.shows("the answer", |screen| screen.contains("options worker") && screen.contains("cmd: sleep 1000"));
    top.program.types("q:incr web 2 --nonsense\r");
    top.says("unexpected argument '--nonsense'");
    top.program.types(":incr web 2\r");
    top.shows("four of web", |screen| screen.lines().any(|line| line.contains("▸web ") && line.contains("4/4")));
    // What circusctl asks about is asked about here.
    top.program.types(":quit\r");
    top.says("quit ends the agent and all it runs");
    top.program.types("n:watchers\r");
    top.shows("the panels", |screen| row(screen, "web").is_some());
    top.program.types("q");
    top.ends(0, settings);
}

#[test]
fn a_signal_ends_it_and_gives_the_terminal_back() {
    let home = Home::new();
    let agent = home.agent("web-1", "[watcher:web]\ncmd = sleep 1000\n");
    let settings = OnTerminal::start(Command::new("true")).settings();
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let mut top = Top::start(&home, &agent.socket.to_string_lossy(), &["--ascii"]);
        let screen = top.says(" live ");
        assert!(screen.is_ascii(), "{screen}");
        send(top.program.pid(), signal);
        top.ends(code, settings);
    }
    // ^C, which is no signal there.
    let mut top = Top::start(&home, &agent.socket.to_string_lossy(), &[]);
    top.says(" live ");
    top.program.types("\x03");
    top.ends(0, settings);
}

#[test]
fn an_agent_that_goes_and_comes_back_is_stale_and_then_live() {
    let home = Home::new();
    let mut agent = home.agent("web-1", "[watcher:web]\ncmd = sleep 1000\n");
    let mut top = Top::start(&home, &agent.socket.to_string_lossy(), &["--read-only"]);
    top.says(" live ");
    agent.kill();
    top.shows("that it is lost", |screen| screen.contains(" STALE ") && screen.contains("trying again"));
    let _agent = home.launch("web-1", &[]);
    top.says(" live ");
    top.program.types("r");
    top.says("read only");
    top.program.types("j");
    top.shows("no word of that", |screen| !screen.contains("read only: "));
    top.program.types(":restart! --all\r");
    top.says("read only: nothing can be changed from here");
    top.program.types(":numwatchers\r");
    top.shows("an answer", |screen| screen.lines().any(|line| line.contains("│ 1 ")));
}

#[test]
fn a_cluster_is_shown_whole_and_never_as_live_while_redis_is_away() {
    let mut redis = RedisServer::start();
    let home = Home::new();
    let agents = pair(&home, &redis, "");
    let local = agents[0].socket.to_string_lossy().into_owned();
    for (endpoint, is_local) in [(redis.url(), false), (local, true)] {
        let mut top = Top::start(&home, &endpoint, &[]);
        top.says(" 2/2 nodes ");
        top.shows("a holder", |screen| {
            screen.lines().any(|line| line.contains("beat  ") && line.contains("active    web-"))
        });
        top.shows("both nodes' processes", |screen| {
            screen.lines().any(|line| line.contains("▸web ") && line.contains("2/2"))
        });
        redis.kill();
        match is_local {
            false => drop(
                top.shows("old figures as such", |screen| screen.contains(" STALE ") && !screen.contains(" live ")),
            ),
            // The agent's own need no Redis; the other's are old.
            true => {
                let screen = top.says(" OWN NODE ONLY ");
                assert!(!screen.contains(" live "), "{screen}");
                top.shows("one node of two", |screen| screen.contains(" 1/2 nodes ") && !screen.contains(" live "));
                top.shows("what runs here", |screen| {
                    screen
                        .lines()
                        .any(|line| line.contains("▸web ") && line.contains("1/2") && line.contains("degraded"))
                });
                let once = once(&home, &endpoint, &[]);
                let text = String::from_utf8_lossy(&once.stdout).into_owned();
                assert_eq!(once.status.code(), Some(0), "{once:?}");
                assert!(text.contains("OWN NODE ONLY") && text.contains("▸web "), "{text}");
            }
        }
        redis.restart();
        top.says(" live ");
        top.says(" 2/2 nodes ");
    }
}

/// Two agents of one cluster, with a singleton and one process of `web` each.
fn pair(home: &Home, redis: &RedisServer, more: &str) -> [Agent; 2] {
    let config = format!(
        "[watcher:beat]\ncmd = sleep 1000\nsingleton = true\n[watcher:web]\ncmd = sleep 1000\n{more}\n[redis]\nurl = {}\nlease_ttl = 2\n",
        redis.url()
    );
    let agents = ["web-1", "web-2"].map(|name| home.agent(name, &config));
    for agent in &agents {
        agent.comes_to("web", "active");
    }
    agents
}

#[test]
fn a_singleton_moves_and_processes_come_and_go_where_the_screen_says() {
    let redis = RedisServer::start();
    let home = Home::new();
    let agents = pair(&home, &redis, "");
    let local = agents[0].socket.to_string_lossy().into_owned();
    let count = || agents.each_ref().map(|agent| agent.pids("web").len());
    for endpoint in [redis.url(), local] {
        let mut top = Top::start(&home, &endpoint, &[]);
        top.says(" 2/2 nodes ");
        // Who has it is told by the row; from there it moves to the other one.
        let held = |screen: &str| {
            let row = screen.lines().find(|line| line.contains("beat  ") && line.contains(" active "))?.to_owned();
            ["web-1", "web-2"].into_iter().find(|node| row.contains(node))
        };
        let screen = top.shows("a holder", |screen| held(screen).is_some());
        let from = held(&screen).expect("a holder");
        top.program.types("1F");
        top.says(&format!("Move beat away from {from}"));
        top.program.types("y");
        top.shows("the other holder", |screen| held(screen).is_some_and(|to| to != from));
        top.says(&format!("Move beat away from {from}: "));

        // Of both nodes one gets a process more, and the one with the most has it taken away.
        let web = |screen: &str, ready: &str| screen.lines().any(|line| line.contains("▸web ") && line.contains(ready));
        top.program.types("2/^web$\r+");
        top.says("Add a process to web on the node that has the least to do");
        top.program.types("y");
        top.shows("three of web", |screen| web(screen, "3/3"));
        let more = count();
        assert!(more == [2, 1] || more == [1, 2], "{more:?}");
        top.program.types("-");
        let most = if more == [2, 1] { "web-1" } else { "web-2" };
        top.says(&format!("Take a process from web on {most}, which has the most of them."));
        top.program.types("y");
        top.shows("two of web", |screen| web(screen, "2/2"));
        assert_eq!(count(), [1, 1]);
        // As circusctl does it, from the palette.
        top.program.types(":incr web --node web-2\r");
        top.shows("three of web", |screen| web(screen, "3/3"));
        assert_eq!(count(), [1, 2]);
        top.program.types(":decr web --node web-2\r");
        top.shows("two of web", |screen| web(screen, "2/2"));
    }
}

#[test]
fn a_node_that_drains_shows_how_far_it_is() {
    let redis = RedisServer::start();
    let home = Home::new();
    let go = home.file("go");
    let stays = home.script("stays", &format!("trap '' TERM\nwhile [ ! -e {} ]; do sleep 0.05; done\n", go.display()));
    let _agents = pair(&home, &redis, &format!("[watcher:stays]\ncmd = {stays}\ngraceful_timeout = 600\n"));
    let mut top = Top::start(&home, &redis.url(), &[]);
    top.says(" 2/2 nodes ");
    top.program.types(":drain --node web-2\r");
    top.says("drain --node web-2: ");
    top.says(": ok");
    top.program.types(":nodes\rj");
    top.shows("what is left", |screen| screen.contains("web-2 drains: 2/3 down, 1 process left"));
    std::fs::write(go, "").expect("a file");
    top.says("web-2 drains: all is down");
}

fn once(home: &Home, endpoint: &str, args: &[&str]) -> Output {
    let mut command = program(home, endpoint, &["--once"]);
    command.args(args).output().expect("circus-top to run")
}

#[test]
fn once_prints_a_picture_and_its_code_says_whether_anybody_was_reached() {
    let home = Home::new();
    let mut agent = home.agent("web-1", "[watcher:web]\ncmd = sleep 1000\n");
    agent.comes_to("web", "active");
    let socket = agent.socket.to_string_lossy().into_owned();
    let seen = once(&home, &socket, &[]);
    let text = String::from_utf8(seen.stdout).expect("text");
    assert_eq!((seen.status.code(), seen.stderr.as_slice()), (Some(0), &b""[..]), "{text}");
    assert!(text.contains("▸web ") && text.contains(" 1/1 ") && !text.contains('\x1b'), "{text}");
    assert!(once(&home, &socket, &["--ascii"]).stdout.is_ascii());
    let no_terminal = program(&home, &socket, &[]).output().expect("circus-top to run");
    assert_eq!(no_terminal.status.code(), Some(2), "{no_terminal:?}");
    agent.kill();
    let nobody = once(&home, &socket, &[]);
    let why = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(5));
    assert!(why.starts_with("error: no agent reached at ") && nobody.stdout.is_empty(), "{why}");
}
