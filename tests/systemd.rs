//! systemd's variables are the agent's own, and the sockets that they speak of are taken. In processes of their own,
//! because the environment is changed; systemd-socket-activate hands sockets over as systemd does.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use circus_agent::systemd::{Given, Notify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program of one thread, which a test among others is not: started by the test below.
#[test]
fn the_service_of_this_test() {
    if std::env::var_os("SYSTEMD_TEST").is_none() {
        return;
    }
    // SAFETY: the only other thread is the test harness's, which waits for this one.
    let notify = unsafe { Notify::from_env() }.unwrap();
    notify.ready();
    let interval = if std::env::var_os("SYSTEMD_TEST").is_some_and(|of| of == "another") {
        None
    } else {
        Some(Duration::from_secs(10))
    };
    assert_eq!(notify.watchdog_interval(), interval);
    let child = Command::new("env").output().unwrap();
    let environment = String::from_utf8(child.stdout).unwrap();
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!environment.contains(name), "a child would get {name}");
    }
}

#[test]
fn systemd_is_heard_of_by_the_agent_and_never_by_its_children() {
    for watchdog_of in ["this", "another"] {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut service = Command::new(std::env::current_exe().unwrap());
        service.args(["--exact", "the_service_of_this_test", "--nocapture"]);
        service.env("SYSTEMD_TEST", watchdog_of).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000000");
        // A watchdog that is meant for another process is none of ours.
        match watchdog_of {
            "another" => service.env("WATCHDOG_PID", "1"),
            _ => service.env_remove("WATCHDOG_PID"),
        };
        assert!(service.status().unwrap().success());
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1\n");
    }
}

/// Takes the sockets it is given, writes down what it has got, and answers who waits at the first; started by the tests
/// below.
#[test]
fn the_server_of_these_tests() {
    let Some(report) = std::env::var_os("SYSTEMD_TEST_REPORT") else { return };
    // SAFETY: the only other thread is the test harness's, which waits for this one.
    let given = unsafe { Given::from_env() };
    let mut said = String::new();
    for (name, socket) in &given.sockets {
        let listener = UnixListener::from(socket.try_clone().unwrap());
        let address = listener.local_addr().unwrap();
        said += &format!("{name} {}\n", address.as_pathname().unwrap().file_name().unwrap().display());
    }
    given.warnings.iter().for_each(|warning| said += &format!("warning: {warning}\n"));
    let environment = Command::new("env").output().unwrap();
    if String::from_utf8(environment.stdout).unwrap().contains("LISTEN_") {
        said += "a child would get the variables\n";
    }
    for (name, socket) in &given.sockets {
        let descriptor = format!("/proc/self/fd/{}", socket.as_raw_fd());
        if Command::new("readlink").arg(descriptor).output().unwrap().stdout.starts_with(b"socket:") {
            said += &format!("a child would get {name}\n");
        }
    }
    if let Some((_, socket)) = given.sockets.into_iter().next() {
        let (mut client, _) = UnixListener::from(socket).accept().unwrap();
        client.write_all(b"welcome").unwrap();
    }
    // Under another name first: who reads it finds all of it.
    let written = PathBuf::from(&report).with_extension("new");
    fs::write(&written, said).unwrap();
    fs::rename(written, report).unwrap();
}

/// How the server is started by something else.
const SERVER: [&str; 3] = ["--exact", "the_server_of_these_tests", "--nocapture"];

fn this_program() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// systemd-socket-activate and what it becomes; ends with the test.
struct Activated(Child);

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Listens at these names in `dir`, and becomes `command` at the first connection to one of them.
fn activate(dir: &Path, names: &[&str], options: &[&str], env: &[(&str, &Path)], command: &[&str]) -> Activated {
    let mut activate = Command::new("systemd-socket-activate");
    for name in names {
        activate.arg("--listen").arg(dir.join(name));
    }
    for (name, value) in env {
        activate.arg(format!("--setenv={name}={}", value.display()));
    }
    activate.args(options).args(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Activated(activate.spawn().expect("`make setup` installs systemd"))
}

#[test]
fn sockets_of_systemd_are_taken_by_name_and_served_and_no_child_gets_them() {
    for (options, expected) in [
        (&["--fdname=Web:admin"][..], "web a\nadmin b\n"),
        (&[], "systemd-1 a\nsystemd-2 b\n"),
        (&["--fdname=web:web"], "web a\nweb-2 b\nwarning: systemd hands over another socket named web"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report");
        let program = this_program();
        let command = [&[program.to_str().unwrap()][..], &SERVER].concat();
        let _server = activate(dir.path(), &["a", "b"], options, &[("SYSTEMD_TEST_REPORT", &report)], &command);
        // Both, because the last one is there when all are.
        let _b = until("nobody listens", || {
            dir.path().join("b").exists().then(|| UnixStream::connect(dir.path().join("b")).ok())?
        });
        let mut client = UnixStream::connect(dir.path().join("a")).unwrap();
        let mut heard = String::new();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "welcome");
        let said = until("no report", || fs::read_to_string(&report).ok());
        assert!(said.starts_with(expected), "{options:?}: {said}");
        assert!(!said.contains("a child"), "{said}");
    }
}

#[test]
fn what_is_not_meant_for_us_or_is_no_socket_is_left_with_a_warning() {
    let of_this_process = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    for (script, fds, expected) in [
        // A shell in between, as where a script lacks its exec.
        ("export LISTEN_PID=$$; \"$0\" \"$@\"; exit $?", "1", "this is process"),
        (of_this_process, "many", "warning: the sockets of systemd cannot be taken: invalid LISTEN_FDS"),
        (of_this_process, "900", "warning: the sockets of systemd cannot be taken: "),
        ("exec 3</dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"", "1", "warning: file, descriptor 3 of systemd's"),
        ("unset LISTEN_FDS; exec \"$0\" \"$@\"", "", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("report");
        let mut server = Command::new("sh");
        server.arg("-c").arg(script).arg(this_program()).args(SERVER).env("SYSTEMD_TEST_REPORT", &report);
        server.env("LISTEN_FDS", fds).env("LISTEN_FDNAMES", "file");
        if fds == "900" {
            server.env_remove("LISTEN_FDNAMES");
        }
        assert!(server.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success(), "{script}");
        let said = fs::read_to_string(&report).unwrap();
        assert!(
            said.contains(expected) && said.lines().count() == usize::from(!expected.is_empty()),
            "{script}: {said}"
        );
    }
}

/// An agent in the background, with its file; ends with the test.
struct InBackground(Pid, String);

impl InBackground {
    /// Whether it is still the one that has this number.
    fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/cmdline", self.0)).is_ok_and(|words| words.contains(&self.1))
    }
}

impl Drop for InBackground {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

#[test]
fn an_agent_that_goes_into_the_background_takes_its_sockets_along() {
    let dir = tempfile::tempdir().unwrap();
    let here = |name: &str| dir.path().join(name);
    let config = "[circus]\nstate_dir = D\ncontrol_socket = D/a.sock\nlogoutput = D/agent.log\npidfile = D/pid\n";
    fs::write(here("a.ini"), config.replace('D', &dir.path().display().to_string())).unwrap();
    let file = here("a.ini").display().to_string();
    let command = [env!("CARGO_BIN_EXE_circus-agent"), "--daemon", &file];
    let mut activated = activate(dir.path(), &["web.sock"], &["--fdname=web"], &[], &command);
    let _client = until("nobody listens", || UnixStream::connect(here("web.sock")).ok());
    let ended = until("the command does not return", || activated.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    let pid = fs::read_to_string(here("pid")).unwrap().trim().parse().unwrap();
    let agent = InBackground(Pid::from_raw(pid), file.clone());
    let log = fs::read_to_string(here("agent.log")).unwrap();
    assert!(log.contains("systemd hands over socket web") && !log.contains("not taken"), "{log}");
    // Who connects is not refused: the one that listens is the agent now.
    assert!(UnixStream::connect(here("web.sock")).is_ok());
    kill(agent.0, Signal::SIGTERM).unwrap();
    until("the agent does not end", || (!agent.is_alive()).then_some(()));
    assert!(UnixStream::connect(here("web.sock")).is_err());
}
