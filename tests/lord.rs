//! What a lord process promises, proven on the real one, without an agent; and the recipes of docs/legions.md for programs
//! that ask whether their node leads.

#[path = "support/agent.rs"]
mod agent;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use agent::{Home, PATIENCE, is_alive, send, wait_for};
use circus_agent::model::event::Deadline;
use circus_agent::model::names::WatcherName;
use circus_agent::model::snapshot::Lordship;
use circus_agent::model::time::Time;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A lord process and what it writes; gone with the value.
struct Lord {
    child: Child,
    home: Home,
    notify: UnixDatagram,
}

impl Lord {
    /// One whose actions may take a second, or what `timeout` says.
    fn command(home: &Home) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_circus-agent"));
        command.arg0("circus-lord").args(["--legion", "ip", "--timeout", "20"]);
        command.env("DIR", home.path()).env("CIRCUS_LEGIONS", home.path().join("legions"));
        command.env("NOTIFY_SOCKET", home.file("notify")).stdout(fs::File::create(home.file("out")).unwrap());
        command
    }

    fn start(words: &[&str]) -> Lord {
        Lord::start_as(words, |_| {})
    }

    fn start_as(words: &[&str], change: impl FnOnce(&mut Command)) -> Lord {
        let home = Home::new();
        let notify = UnixDatagram::bind(home.file("notify")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = Lord::command(&home);
        change(&mut command);
        let child = command.args(words).spawn().unwrap();
        Lord { child, home, notify }
    }

    /// Waits until it says that it leads.
    fn leads(&self) {
        let mut said = [0; 100];
        let length = self.notify.recv(&mut said).expect("it says READY=1");
        assert_eq!(&said[..length], b"READY=1");
    }

    fn has_said_nothing(&self) -> bool {
        self.notify.set_nonblocking(true).unwrap();
        let said = self.notify.recv(&mut [0; 100]);
        self.notify.set_nonblocking(false).unwrap();
        said.is_err()
    }

    fn tell(&self, signal: Signal) {
        send(self.child.id(), signal as i32);
    }

    /// Its exit code, when it has ended.
    fn ends(&mut self) -> i32 {
        wait_for("its end", || self.child.try_wait().unwrap()).code().expect("it ended by itself")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.file(name)
    }

    /// Waits until there is a line in a file.
    fn read(&self, name: &str) -> String {
        wait_for(name, || fs::read_to_string(self.file(name)).ok().filter(|text| text.ends_with('\n')))
    }

    fn out(&self) -> String {
        fs::read_to_string(self.file("out")).unwrap()
    }
}

impl Drop for Lord {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An action that appends a word to the file `done`.
fn note(word: &str) -> String {
    format!("cmd:echo {word} >>$DIR/done")
}

#[test]
fn what_it_does_it_does_in_order_and_undoes_when_it_is_told_to_stop() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(note);
    let mut lord = Lord::start(&["--lord", &a, &b, "--unlord", &c, &d]);
    lord.leads();
    assert_eq!(lord.read("done"), "a\nb\n");
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0);
    assert_eq!(lord.read("done"), "a\nb\nc\nd\n");
    assert_eq!(lord.out(), "");
}

#[test]
fn a_failure_is_told_and_the_rest_is_done_all_the_same() {
    let (a, z) = (note("a"), note("z"));
    let mut lord =
        Lord::start(&["--lord", "cmd:exit 3", &a, "--unlord", "cmd:kill -9 $$", "cmd:nosuch 2>/dev/null", &z]);
    lord.leads();
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0);
    assert_eq!(lord.read("done"), "a\nz\n");
    let told = "ip lord: cmd:exit 3: exit 3\nip unlord: cmd:kill -9 $$: killed by SIGKILL\n\
                ip unlord: cmd:nosuch 2>/dev/null: exit 127\n";
    assert_eq!(lord.out(), told);
}

#[test]
fn where_a_failure_matters_what_was_done_is_undone_and_it_never_leads() {
    let [a, b, c] = ["a", "b", "c"].map(note);
    let mut lord = Lord::start(&["--or-fail", "--lord", &a, "cmd:exit 1", &b, "--unlord", "cmd:exit 1", &c]);
    assert_eq!(lord.ends(), 1);
    assert_eq!(lord.read("done"), "a\nc\n");
    assert!(lord.has_said_nothing());
}

#[test]
fn a_stop_in_the_middle_ends_the_action_and_undoes_what_was_done() {
    let [a, b, c] = ["a", "b", "c"].map(note);
    let stuck = "cmd:sleep 1000 & echo $$ $! >$DIR/pids; wait";
    let mut lord = Lord::start(&["--or-fail", "--lord", &a, stuck, &b, "--unlord", &c]);
    let pids = lord.read("pids");
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0, "that is no failure");
    assert_eq!(lord.read("done"), "a\nc\n");
    assert!(lord.has_said_nothing());
    for pid in pids.split_whitespace().map(|pid| pid.parse().unwrap()) {
        wait_for("the action's end", || (!is_alive(pid)).then_some(()));
    }
}

#[test]
fn an_action_that_takes_too_long_is_killed_with_all_of_its_group() {
    let stuck = "cmd:trap '' TERM; sleep 1000 & echo $$ $! >$DIR/pids; while :; do wait; done";
    let z = note("z");
    let mut lord = Lord::start(&["--timeout", "0.3", "--lord", "--unlord", stuck, &z]);
    lord.leads();
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0);
    assert_eq!(lord.read("done"), "z\n");
    assert_eq!(lord.out(), format!("ip unlord: {stuck}: did not end within 0.3 s\n"));
    for pid in lord.read("pids").split_whitespace().map(|pid| pid.parse().unwrap()) {
        wait_for("the action's end", || (!is_alive(pid)).then_some(()));
    }
}

#[test]
fn more_signals_change_nothing() {
    let slow = "cmd:echo begun >$DIR/begun; while [ ! -e $DIR/go ]; do sleep 0.01; done; echo c >>$DIR/done";
    let d = note("d");
    let mut lord = Lord::start(&["--lord", "--unlord", slow, &d]);
    lord.leads();
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGQUIT, Signal::SIGPIPE, Signal::SIGALRM] {
        lord.tell(signal);
    }
    lord.tell(Signal::SIGINT);
    lord.read("begun");
    lord.tell(Signal::SIGTERM);
    lord.tell(Signal::SIGINT);
    fs::write(lord.file("go"), "").unwrap();
    assert_eq!(lord.ends(), 0);
    assert_eq!(lord.read("done"), "c\nd\n");
}

#[test]
fn a_stop_that_comes_at_any_moment_is_heard_once() {
    // Each a little later than the one before: in the start, in an action, between two, while it waits.
    for turn in 0..60 {
        let [a, c] = ["a", "c"].map(note);
        let mut lord = Lord::start(&["--lord", "cmd:true", &a, "cmd:true", "--unlord", &c]);
        let masked = || {
            let status = fs::read_to_string(format!("/proc/{}/status", lord.child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?;
            (u64::from_str_radix(line.trim(), 16).unwrap() & 1 << 14 != 0).then_some(())
        };
        // Before that a signal ends it, and nothing was done.
        wait_for("it hears signals", masked);
        (0..turn * 20_000).for_each(|_| std::hint::spin_loop());
        lord.tell(Signal::SIGTERM);
        assert_eq!(lord.ends(), 0);
        let done = lord.read("done");
        assert!(["c\n", "a\nc\n"].contains(&done.as_str()), "{turn}: {done:?}");
    }
}

#[test]
fn actions_are_told_how_the_legion_is_now() {
    let tell =
        "cmd:echo $LEGION $LEGION_EVENT $LEGION_LORD $LEGION_TOKEN $LEGION_MEMBERS \"$LEGION_REASON\" >>$DIR/done";
    let mut lord = Lord::start_as(
        &["--lord", tell, "log:$LEGION_EVENT: ${LEGION_LORD}s turn", "--unlord", tell, "log:$LEGION_REASON"],
        |command| {
            let known =
                [("LEGION_LORD", "web-1"), ("LEGION_TOKEN", "7"), ("LEGION_MEMBERS", "web-1"), ("LEGION_REASON", "")];
            command.envs(known);
        },
    );
    lord.leads();
    fs::create_dir(lord.file("legions")).unwrap();
    let state = "lord=web-2\nme=0\ntoken=8\nmembers=web-1,web-2\nreason=web-2 is preferred\n";
    fs::write(lord.file("legions/ip"), state).unwrap();
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0);
    assert_eq!(lord.read("done"), "ip lord web-1 7 web-1 \nip unlord web-2 7 web-1,web-2 web-2 is preferred\n");
    assert_eq!(lord.out(), "ip lord: lord: web-1s turn\nip unlord: web-2 is preferred\n");
}

#[test]
fn an_action_sees_neither_the_lords_own_socket_nor_its_signal_mask() {
    let look = "cmd:echo \"<$NOTIFY_SOCKET>\" $(grep ^SigBlk /proc/self/status) >$DIR/done";
    let mut lord = Lord::start(&["--lord", look, "--unlord"]);
    lord.leads();
    assert_eq!(lord.read("done"), "<> SigBlk: 0000000000000000\n");
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0);
}

#[test]
fn one_whose_listener_is_gone_does_all_it_has_to() {
    let chatty = "cmd:echo removing; echo done >>$DIR/done";
    for reads in [true, false] {
        let mut lord = Lord::start_as(&["--lord", "--unlord", "log:a", chatty, chatty], |command| {
            command.stdout(Stdio::piped());
        });
        lord.leads();
        let stdout = lord.child.stdout.take().unwrap();
        // Gone, or there and frozen: the pipe is full.
        let kept = if reads {
            let mut inside = fs::File::options().write(true).open(format!("/proc/{}/fd/1", lord.child.id())).unwrap();
            inside.set_len(0).ok();
            nix::fcntl::fcntl(&inside, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
            while inside.write(&[b'x'; 4096]).is_ok() {}
            Some(stdout)
        } else {
            drop(stdout);
            None
        };
        lord.tell(Signal::SIGTERM);
        assert_eq!(lord.ends(), 0);
        assert_eq!(lord.read("done"), "done\ndone\n");
        drop(kept);
    }
}

#[test]
fn a_listener_that_goes_in_the_middle_of_an_action_does_not_end_it() {
    let chatty =
        "cmd:echo >$DIR/begun; while [ ! -e $DIR/go ]; do sleep 0.01; done; echo removing; echo done >$DIR/done";
    let mut lord = Lord::start_as(&["--lord", "--unlord", chatty], |command| {
        command.stdout(Stdio::piped());
    });
    lord.leads();
    lord.tell(Signal::SIGTERM);
    lord.read("begun");
    drop(lord.child.stdout.take());
    fs::write(lord.file("go"), "").unwrap();
    assert_eq!(lord.ends(), 0);
    assert_eq!(lord.read("done"), "done\n");
}

#[test]
fn a_url_is_asked_for_and_goes_by_its_status() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    let serving = thread::spawn(move || {
        ["204 No Content", "301 Moved", "503 Busy"].map(|status| {
            let (client, _) = server.accept().unwrap();
            let mut lines = BufReader::new(&client).lines();
            let request = lines.next().unwrap().unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            (&client).write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).unwrap();
            request
        })
    });
    let url = |path: &str| format!("http:http://{at}{path}");
    let mut lord = Lord::start(&["--lord", &url("/a?b"), &url("/c"), &url("/d"), "--unlord", "http://127.0.0.1:1/"]);
    lord.leads();
    assert_eq!(serving.join().unwrap()[0], "GET /a?b HTTP/1.1");
    lord.tell(Signal::SIGTERM);
    assert_eq!(lord.ends(), 0);
    let told = format!(
        "ip lord: http://{at}/c: 301 Moved\nip lord: http://{at}/d: 503 Busy\n\
         ip unlord: http://127.0.0.1:1/: connect: Connection refused (os error 111)\n"
    );
    assert_eq!(lord.out(), told);
}

#[test]
fn the_agent_is_asked_to_signal_and_to_publish_and_a_silent_or_absent_one_is_told() {
    let dir = Home::new();
    let path = dir.file("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = thread::spawn(move || {
        let replies = [json!({"status": "ok"}), json!({"status": "error", "reason": "program x not found"})];
        let asked = replies.map(|reply| {
            let (client, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&client).read_line(&mut line).unwrap();
            (&client).write_all(format!("{reply}\n").as_bytes()).unwrap();
            serde_json::from_str::<Value>(&line).unwrap()
        });
        // The third is heard, and has no answer until the client has given up.
        let (mut client, _) = listener.accept().unwrap();
        client.read_to_string(&mut String::new()).unwrap();
        asked
    });
    let words =
        ["--timeout", "1", "--lord", "publish:ip.up", "signal:x:HUP", "--unlord", "publish:ip.down", "publish:z"];
    let endpoint = format!("unix://{}", path.display());
    let mut lord = Lord::start_as(&words, |command| {
        command.env("CIRCUSCTL_ENDPOINT", &endpoint);
    });
    lord.leads();
    lord.tell(Signal::SIGTERM);
    let [publish, signal] = agent.join().unwrap();
    assert_eq!(
        (&publish["command"], &publish["properties"]),
        (&json!("publish"), &json!({"name": "ip", "topic": "ip.up"}))
    );
    assert_eq!((&signal["command"], &signal["properties"]["name"]), (&json!("signal"), &json!("x")));
    assert_eq!(lord.ends(), 0);
    let told = "ip lord: signal:x:SIGHUP: program x not found\nip unlord: publish:ip.down: did not end within 1 s\n\
                ip unlord: publish:z: the agent does not answer: Connection refused (os error 111)\n";
    assert_eq!(lord.out(), told);
}

#[test]
fn what_another_event_asks_for_is_done_once_and_told_on_stderr() {
    let (a, b) = (note("a"), note("b"));
    let once = |words: &[&str]| {
        let home = Home::new();
        let mut command = Lord::command(&home);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).args(words);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        let done = fs::read_to_string(home.file("done")).unwrap_or_default();
        (output.status.code().unwrap(), done, String::from_utf8(output.stderr).unwrap())
    };
    let told = "ip join: hello\nsaid\nip join: cmd:exit 2: exit 2\n".to_owned();
    let words = ["--", &a, "log:hello", "cmd:echo said", "cmd:exit 2", &b];
    assert_eq!(once(&[&["--event", "join"][..], &words].concat()), (0, "a\nb\n".into(), told.clone()));
    assert_eq!(once(&[&["--or-fail", "--event", "join"][..], &words].concat()), (1, "a\n".into(), told));
    let (code, done, told) = once(&["--event", "nope"]);
    assert_eq!((code, done.as_str(), told.as_str()), (64, "", "circus-lord: no event is called 'nope'\n"));
}

// ---- the recipes -----------------------------------------------------------------------------------------------------

/// The recipe of the manual in this language.
fn recipe(language: &str) -> &'static str {
    let page = include_str!("../docs/legions.md");
    let (_, below) = page.split_once(&format!("\n```{language}\n")).expect("a recipe");
    below.split_once("\n```").expect("its end").0
}

/// A program of the machine, or where `make setup` has put it.
fn program(name: &str) -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".servers/debian/bin").join(name);
    if ours.exists() { ours } else { name.into() }
}

/// Asks a program in each state that the file can be in; it is to exit with 0 where it is the lord, and with 1 where not.
fn answers(program: &Path, words: &[&str]) {
    let home = Home::new();
    let legions = home.file("legions");
    fs::create_dir(&legions).unwrap();
    let asks = |legion: &str| {
        let mut asking = Command::new(program);
        asking.args(words).arg(legion).env("CIRCUS_LEGIONS", &legions).stderr(Stdio::piped());
        let output = asking.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let name = |text| circus_agent::model::names::NodeName::parse(text).unwrap();
    let now = circus_agent::host::clock::now();
    let second = Duration::from_secs(1);
    for (mine, expected) in [(Some(now + second * 1000), 0), (Some(Time::from_nanos(1_000_000_000)), 1), (None, 1)] {
        let lordship = Lordship {
            legion: WatcherName::parse("ip").unwrap(),
            node: name("web-1"),
            mine: mine.map(|stop| (7, Deadline { stop, kill: stop + second })),
            lord: Some("web-1".into()),
            members: vec![name("web-1")],
            quorum: 1,
            scroll: "me=1=x".into(),
            reason: String::new(),
        };
        fs::write(legions.join("ip"), circus_agent::wire::lordship_text(&lordship, now, 1_000_000)).unwrap();
        assert_eq!(asks("ip"), (Some(expected), String::new()), "{mine:?}");
    }
    assert_eq!(asks("other"), (Some(1), String::new()), "there is no such file");
}

#[test]
fn python_perl_and_the_shell_know_whether_they_lead() {
    let script = |language: &str, end: &str| format!("{}\n{end}\n", recipe(language));
    let python = script("python", "import sys; sys.exit(not am_i_the_lord(sys.argv[1]))");
    answers(Path::new("python3"), &["-c", &python]);
    answers(Path::new("perl"), &["-we", &script("perl", "exit !am_i_the_lord($ARGV[0])")]);
    answers(Path::new("/bin/sh"), &["-uc", &script("sh", "am_i_the_lord \"$1\""), "sh"]);
}

#[test]
fn ruby_knows_whether_it_leads() {
    let ruby = program("ruby");
    let here = Command::new(&ruby).arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(here, "`make setup` found no ruby; remove .servers and run it again");
    let script = format!("{}\nexit am_i_the_lord(ARGV[0])\n", recipe("ruby"));
    answers(&ruby, &["-we", &script]);
}

#[test]
fn rust_knows_whether_it_leads() {
    let home = Home::new();
    let main = "fn main() {\n    let legion = std::env::args().nth(1).unwrap();\n    \
                std::process::exit(if am_i_the_lord(&legion) == Some(true) { 0 } else { 1 })\n}\n";
    fs::write(home.file("lord.rs"), format!("{}\n{main}", recipe("rust"))).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-D", "warnings", "-o"]).arg(home.file("lord")).arg(home.file("lord.rs"));
    assert!(rustc.status().expect("rustc").success());
    answers(&home.file("lord"), &[]);
}
