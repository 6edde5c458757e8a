//! What needs the real circusctl: exit codes as a shell sees them, pipes, the agent of this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

/// circusctl in a home of its own, with nobody's settings.
fn circusctl(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circusctl"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    circusctl(home.path(), args).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// An agent that says `reply` to everything, until the test ends.
fn agent(path: &Path, reply: &'static str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut line = String::new();
            BufReader::new(client.try_clone().unwrap()).read_line(&mut line).unwrap();
            let Some(at) = line.find("\"id\":") else { continue };
            let id: String = line[at + 5..].chars().take_while(char::is_ascii_digit).collect();
            let _ = client.write_all(reply.replace("ID", &id).as_bytes());
        }
    });
}

#[test]
fn help_lists_every_command_and_is_no_error() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for command in [
        "list",
        "status",
        "start",
        "stop",
        "restart",
        "reload",
        "reloadconfig",
        "plan",
        "incr",
        "decr",
        "set",
        "add",
        "rm",
        "signal",
        "kill",
        "numprocesses",
        "numwatchers",
        "stats",
        "dstats",
        "options",
        "get",
        "globaloptions",
        "listsockets",
        "addsocket",
        "setsocket",
        "rmsocket",
        "quit",
        "version",
        "nodes",
        "nodelist",
        "register_node",
        "join_cluster",
        "leases",
        "legions",
        "lord",
        "scrolls",
        "history",
        "explain",
        "metrics",
        "failover",
        "pause",
        "resume",
        "lease",
        "events",
        "logs",
        "init",
    ] {
        assert!(text(&help.stdout).contains(&format!("\n  {command} ")), "{command}");
    }
}

#[test]
fn no_command_prints_the_help_and_is_a_usage_error() {
    let nothing = run(&[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("Commands:"));
    assert!(nothing.stdout.is_empty());
}

#[test]
fn a_usage_error_is_exit_2_with_a_hint() {
    let typo = run(&["statsu"]);
    assert_eq!(typo.status.code(), Some(2));
    assert!(text(&typo.stderr).contains("status"), "{}", text(&typo.stderr));
    assert_eq!(run(&["--endpoint", "udp://127.0.0.1:5555", "list"]).status.code(), Some(2));
}

#[test]
fn no_agent_is_exit_5_with_json_too() {
    let endpoint = ["--endpoint", "unix:///nonexistent/a.sock", "status"];
    let nobody = run(&endpoint);
    assert_eq!(nobody.status.code(), Some(5));
    assert!(text(&nobody.stderr).contains("/nonexistent/a.sock"), "{}", text(&nobody.stderr));
    let json = run(&[&endpoint[..], &["--json"]].concat());
    assert_eq!(json.status.code(), Some(5));
    let reply: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(reply["status"], "error");
}

#[test]
fn what_hits_all_nodes_needs_yes_where_nobody_can_be_asked() {
    let quit = run(&["--endpoint", "unix:///nonexistent/a.sock", "quit", "--all"]);
    assert_eq!(quit.status.code(), Some(2));
    assert!(text(&quit.stderr).contains("--yes"), "{}", text(&quit.stderr));
    assert_eq!(run(&["--endpoint", "/nonexistent/a.sock", "quit", "--all", "--yes"]).status.code(), Some(5));
}

#[test]
fn the_endpoint_comes_from_the_environment_and_the_exit_code_from_the_reply() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.sock");
    agent(
        &path,
        "{\"id\":ID,\"status\":\"ok\",\"node\":\"a\",\"watchers\":[{\"name\":\"web\",\"state\":\"backoff\",\"note\":\"exit 1\"}]}\n",
    );
    for json in [&[][..], &["--json"]] {
        let status = circusctl(home.path(), &["status"])
            .args(json)
            .env("CIRCUSCTL_ENDPOINT", format!("unix://{}", path.display()))
            .output()
            .unwrap();
        assert_eq!(status.status.code(), Some(3), "{}", text(&status.stderr));
        assert!(text(&status.stdout).contains("exit 1"));
        assert!(!text(&status.stdout).contains('\x1b'), "no colours in a pipe");
    }
}

#[test]
fn a_plan_is_shown_and_prettify_prints_json_over_lines() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.sock");
    agent(&path, "{\"id\":ID,\"status\":\"ok\",\"plan\":{\"changes\":[],\"unchanged\":2,\"needs_restart\":[]}}\n");
    let ask = |words: &[&str]| {
        let plan = circusctl(home.path(), words).args(["--endpoint", path.to_str().unwrap()]).output().unwrap();
        assert_eq!(plan.status.code(), Some(0), "{}", text(&plan.stderr));
        text(&plan.stdout).to_owned()
    };
    assert_eq!(ask(&["plan"]), "nothing to do\n");
    for words in [["plan", "--prettify"], ["--prettify", "plan"]] {
        let reply = ask(&words);
        assert!(reply.lines().count() > 5, "{reply}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&reply).unwrap()["plan"]["unchanged"], 2);
    }
}

#[test]
fn sockets_are_listed_as_circus_lists_them_and_what_is_wrong_with_one_is_said() {
    let home = tempfile::tempdir().unwrap();
    let listing = home.path().join("listing.sock");
    agent(
        &listing,
        "{\"id\":ID,\"status\":\"ok\",\"sockets\":[{\"fd\":6,\"name\":\"web\",\"backlog\":9,\"host\":\"127.0.0.1\",\"port\":80}]}\n",
    );
    let refusing = home.path().join("refusing.sock");
    agent(
        &refusing,
        "{\"id\":ID,\"status\":\"error\",\"reason\":\"socket wbe not found; did you mean web?\",\"code\":\"no-such-socket\",\"errno\":3}\n",
    );
    let ask = |words: &[&str], path: &Path| {
        circusctl(home.path(), words).args(["--endpoint", path.to_str().unwrap()]).output().unwrap()
    };
    assert_eq!(text(&ask(&["listsockets"], &listing).stdout), "6:socket 'web' at 127.0.0.1:80\n");
    assert_eq!(text(&ask(&["addsocket", "web", "port", "80"], &listing).stdout), "ok\n");
    let refused = ask(&["rmsocket", "wbe"], &refusing);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stderr), "error: socket wbe not found; did you mean web?\n");
}

#[test]
fn words_that_fit_no_command_together_are_exit_2_with_a_way_out() {
    for (words, hint) in [
        (&["set", "web", "numprocesses", "3", "respawn"][..], "set NAME KEY VALUE"),
        (&["setsocket", "web", "port", "80", "host"], "'host' has no value: setsocket NAME KEY VALUE"),
        (&["addsocket", "web/1", "port", "80"], "a socket name holds letters"),
        (&["signal", "web", "x", "HUP"], "signal NAME [PID] SIGNAL"),
        (&["stop", "--match", "regex", "("], "regular expression"),
    ] {
        let refused = run(words);
        assert_eq!(refused.status.code(), Some(2), "{words:?}");
        assert!(text(&refused.stderr).contains(hint), "{}", text(&refused.stderr));
    }
}

#[test]
fn the_agent_of_this_machine_is_found() {
    let home = tempfile::tempdir().unwrap();
    agent(&home.path().join("run/circus/only.sock"), "{\"id\":ID,\"status\":\"ok\",\"numwatchers\":3}\n");
    let count = circusctl(home.path(), &["numwatchers"]).output().unwrap();
    // Another agent may run on the machine that tests this; then they are all named.
    match count.status.code() {
        Some(0) => assert_eq!(text(&count.stdout), "3\n"),
        Some(2) => assert!(text(&count.stderr).contains("only.sock"), "{}", text(&count.stderr)),
        other => panic!("{other:?}: {}", text(&count.stderr)),
    }
}

#[test]
fn a_node_that_is_silent_is_named_and_is_exit_4() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.sock");
    agent(
        &path,
        "{\"id\":ID,\"status\":\"error\",\"nodes\":{\"a\":{\"status\":\"ok\"},\"b\":{\"status\":\"error\",\"reason\":\"no answer within 5 s\",\"silent\":true}}}\n",
    );
    let start =
        circusctl(home.path(), &["start", "web", "--all", "--endpoint", path.to_str().unwrap()]).output().unwrap();
    assert_eq!(start.status.code(), Some(4));
    assert_eq!(text(&start.stdout), "a: ok\n");
    assert_eq!(text(&start.stderr), "error: b: no answer within 5 s\n");
}

#[test]
fn a_reader_that_stops_early_ends_it_quietly() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.sock");
    // Much more than a pipe holds.
    let pids = (0..200_000).map(|pid: u32| pid.to_string()).collect::<Vec<_>>().join(",");
    agent(&path, format!("{{\"id\":ID,\"status\":\"ok\",\"pids\":[{pids}]}}\n").leak());
    let mut list = circusctl(home.path(), &["list", "web", "--endpoint", path.to_str().unwrap()]).spawn().unwrap();
    let mut first = [0; 4];
    list.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = list.wait_with_output().unwrap();
    assert_eq!(ended.status.signal(), Some(13), "{}", text(&ended.stderr));
    assert!(ended.stderr.is_empty(), "{}", text(&ended.stderr));
}

#[test]
fn a_file_of_supervisord_is_printed_as_one_that_the_agent_takes() {
    let home = tempfile::tempdir().unwrap();
    let conf = home.path().join("supervisord.conf");
    std::fs::write(&conf, "[supervisord]\nuser = nobody\n[include]\nfiles = conf.d/*.conf\n").unwrap();
    std::fs::create_dir(home.path().join("conf.d")).unwrap();
    let web = "[program:web]\ncommand = /bin/sleep 9\nautorestrat = true\n";
    std::fs::write(home.path().join("conf.d/web.conf"), web).unwrap();
    let conf = conf.to_str().unwrap();
    let printed = circusctl(home.path(), &["init", "--from", conf]).output().unwrap();
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    assert!(
        text(&printed.stdout).contains("web.conf\n[watcher:web]\ncmd = /bin/sleep 9\n"),
        "{}",
        text(&printed.stdout)
    );
    assert!(text(&printed.stdout).contains("Did you mean `autorestart`?"), "{}", text(&printed.stdout));
    assert!(text(&printed.stderr).starts_with("3 notes, "), "{}", text(&printed.stderr));
    let made = home.path().join("agent.ini");
    std::fs::write(&made, &printed.stdout).unwrap();
    let check = Command::new(env!("CARGO_BIN_EXE_circus-agent")).arg("--check").arg(&made).output().unwrap();
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("watcher web: 1 process"), "{}", text(&check.stdout));
}

#[test]
fn a_converted_file_overwrites_nothing_unless_told_to() {
    let home = tempfile::tempdir().unwrap();
    let made = home.path().join("agent.ini");
    let init = |more: &[&str]| {
        let words = [&["init", "--from", "-", "--output", made.to_str().unwrap()], more].concat();
        let mut child = circusctl(home.path(), &words).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"web: python app.py\n").unwrap();
        child.wait_with_output().unwrap()
    };
    std::fs::write(&made, "mine").unwrap();
    let refused = init(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is there already; --force"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "mine");
    let written = init(&["--force"]);
    assert_eq!((written.status.code(), text(&written.stdout)), (Some(0), ""), "{}", text(&written.stderr));
    assert!(std::fs::read_to_string(&made).unwrap().contains("[watcher:web]"));
    std::fs::remove_file(&made).unwrap();
    assert_eq!(init(&["--quiet"]).stderr, b"");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&made).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it may hold passwords");
}

#[test]
fn a_file_of_nobody_or_of_another_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("x.conf");
    std::fs::write(&file, "[program:web]\ncommand = x\n").unwrap();
    let file = file.to_str().unwrap();
    for (words, code, why) in [
        (&["init"][..], 2, "--from"),
        (&["init", "--from", file, "--format", "supervisor"], 2, "did you mean supervisord?"),
        (&["init", "--from", file, "--force"], 2, "--output"),
        (
            &["init", "--from", file, "--format", "uwsgi"],
            1,
            "x.conf: it is no file of uwsgi: [program:web] is supervisord's",
        ),
        (&["init", "--from", "/nonexistent"], 1, "/nonexistent: it cannot be read"),
    ] {
        let refused = circusctl(home.path(), words).output().unwrap();
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(why) && refused.stdout.is_empty(), "{}", text(&refused.stderr));
    }
    let json = circusctl(home.path(), &["init", "--from", file, "--json"]).output().unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&reply["status"], &reply["format"]), (&"ok".into(), &"supervisord".into()));
}
