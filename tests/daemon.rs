//! circus-agent as what an init script starts: in the background, with a pidfile, and a log of its own.

#[path = "support/agent.rs"]
mod agent;

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getsid, mkfifo};

use agent::{Home, PATIENCE, Said, descendants, is_alive, send, wait_for};

const SLEEPER: &str = "[watcher:sleeper]\ncmd = sleep 1000\n";

// -------------------------------------------------------------------------------------------------- the background

/// An agent in the background. It is this process's child by adoption, so its end can be waited for; gone with the value.
struct Daemon {
    pid: u32,
    socket: PathBuf,
}

impl Daemon {
    /// The one that this pidfile names.
    #[track_caller]
    fn of(home: &Home, name: &str) -> Daemon {
        let pid = pid_in(&home.file(&format!("{name}.pid"))).expect("a pid");
        Daemon { pid, socket: home.file(&format!("{name}.sock")) }
    }

    fn ctl(&self, home: &Home, args: &[&str]) -> Said {
        let endpoint = format!("unix://{}", self.socket.display());
        home.ctl(&[&["--endpoint", &endpoint], args].concat())
    }

    /// Waits for its end: how it ended.
    #[track_caller]
    fn ends(&self) -> WaitStatus {
        let pid = Pid::from_raw(self.pid.cast_signed());
        wait_for("the daemon ends", || match waitpid(pid, Some(WaitPidFlag::WNOHANG)).expect("a child") {
            WaitStatus::StillAlive => None,
            ended => Some(ended),
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let left = descendants(self.pid);
        if is_alive(self.pid) {
            send(self.pid, libc::SIGKILL);
            // Reaped elsewhere it is gone as well.
            let _ = waitpid(Pid::from_raw(self.pid.cast_signed()), None);
        }
        left.into_iter().filter(|pid| is_alive(*pid)).for_each(|pid| send(pid, libc::SIGKILL));
    }
}

fn pid_in(pidfile: &Path) -> Option<u32> {
    fs::read_to_string(pidfile).ok()?.strip_suffix('\n')?.parse().ok()
}

/// `circus-agent --daemon` for node `name`, with a pidfile beside its configuration, and more arguments.
fn in_background(home: &Home, name: &str, more: &[&str]) -> Command {
    // Else somebody else would be its parent, and know how it ends.
    prctl::set_child_subreaper(true).expect("orphans");
    let (config, pidfile) = (home.file(&format!("{name}.ini")), home.file(&format!("{name}.pid")));
    let mut command = home.program(&["--daemon", &config.display().to_string()]);
    command.arg("--pidfile").arg(pidfile).args(more).current_dir(home.path());
    command
}

/// The process in front, while it waits.
struct Front {
    process: Child,
    said: [File; 2],
}

impl Front {
    /// It speaks to files: of pipes it would not be known who keeps them open.
    fn start(mut command: Command) -> Front {
        let said = [tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file")];
        let [out, err] = said.each_ref().map(|file| file.try_clone().expect("a file"));
        Front { process: command.stdout(out).stderr(err).spawn().expect("circus-agent to start"), said }
    }

    #[track_caller]
    fn ends(mut self) -> Said {
        let code = ends(&mut self.process).expect("a code");
        let [out, err] = self.said.map(|mut file| {
            let mut text = String::new();
            file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("text");
            text
        });
        Said { code, out, err }
    }
}

#[track_caller]
fn ends(child: &mut Child) -> Option<i32> {
    wait_for("the process in front ends", || child.try_wait().expect("a child")).code()
}

#[track_caller]
fn run(command: Command) -> Said {
    Front::start(command).ends()
}

#[test]
fn a_daemon_leaves_its_terminal_and_nothing_else_behind() {
    let home = Home::new();
    home.configure("web", SLEEPER);
    let log = home.file("web.log");
    let mut command = in_background(&home, "web", &["--log-output", &log.display().to_string()]);
    // SAFETY: umask is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::sys::stat::umask(Mode::from_bits_truncate(0o026));
            Ok(())
        });
    }
    assert_eq!(run(command).expect(0).err, "");

    let daemon = Daemon::of(&home, "web");
    let proc = |name: &str| fs::read_link(format!("/proc/{}/{name}", daemon.pid)).expect("a link");
    assert_eq!(proc("cwd"), home.path().canonicalize().expect("a path"));
    for number in 0..=2 {
        assert_eq!(proc(&format!("fd/{number}")), Path::new("/dev/null"));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid)).expect("its status");
    assert!(status.contains("Umask:\t0026\n"), "{status}");
    let session = getsid(Some(Pid::from_raw(daemon.pid.cast_signed()))).expect("a session");
    assert_ne!(session, getsid(None).expect("a session"));
    assert_ne!(session.as_raw().cast_unsigned(), daemon.pid, "it could take on a terminal");
    assert!(!Path::new(&format!("/proc/{session}")).exists(), "the process between is left");
    assert_eq!(fs::metadata(home.file("web.pid")).expect("a pidfile").mode() & 0o777, 0o644);

    wait_for("all is well", || (daemon.ctl(&home, &["status"]).code == 0).then_some(()));
    let children = descendants(daemon.pid);
    assert_eq!(children.len(), 1);
    daemon.ctl(&home, &["quit"]).expect(0);
    assert_eq!(daemon.ends(), WaitStatus::Exited(Pid::from_raw(daemon.pid.cast_signed()), 0));
    assert!(!home.file("web.pid").exists() && !daemon.socket.exists());
    assert!(!children.into_iter().any(is_alive));
    let logged = fs::read_to_string(log).expect("a log");
    assert!(logged.contains("sleeper: started\n") && logged.ends_with("leaving\n"), "{logged}");
}

#[test]
fn whoever_starts_a_daemon_waits_for_the_last_watcher_or_the_agent_s_end() {
    let home = Home::new();
    home.configure("web", &format!("warmup_delay = 1000\n{SLEEPER}"));
    let mut front = Front::start(in_background(&home, "web", &[]));
    let daemon = wait_for("a pidfile", || pid_in(&home.file("web.pid")).map(|_| Daemon::of(&home, "web")));
    wait_for("the watcher's process", || (!descendants(daemon.pid).is_empty()).then_some(()));
    daemon.ctl(&home, &["version"]).expect(0);
    assert_eq!(front.process.try_wait().expect("a child"), None, "it did not wait");
    send(daemon.pid, libc::SIGKILL);
    let said = front.ends().expect(70).err;
    let [warning, error] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert!(warning.starts_with("warning: with --daemon the log goes nowhere"), "{said}");
    assert_eq!(error, "error: the agent ended while it started");
}

#[test]
fn a_daemon_that_cannot_start_says_why_to_whoever_started_it() {
    let home = Home::new();
    home.configure("web", SLEEPER);
    run(in_background(&home, "web", &["--log-output", "log"])).expect(0);
    let first = Daemon::of(&home, "web");
    let text = fs::read_to_string(home.file("web.ini")).expect("a configuration");
    let socket = format!("unix://{}", first.socket.display());

    // The same name, and then one after the other of what no two can have.
    let refused = |name: &str, more: &[&str], code: i32, why: &str| {
        let said = run(in_background(&home, name, more)).expect(code);
        assert!(said.err.contains(why), "{why} is missing in: {}", said.err);
    };
    let taken = format!("another agent named web runs on this machine (pid {})", first.pid);
    refused("web", &["--log-output", "log"], 69, &taken);
    fs::write(home.file("api.ini"), text.replace("node = web", "node = api")).expect("a configuration");
    refused("api", &["--log-output", "log"], 69, "web.sock");
    home.configure("api", "");
    let pidfile = home.file("web.pid").display().to_string();
    let runs = format!("pidfile {pidfile}: circus-agent runs as pid {}", first.pid);
    let mut again = home.program(&["--daemon", &home.file("api.ini").display().to_string(), "--pidfile", &pidfile]);
    again.args(["--log-output", "log"]).current_dir(home.path());
    assert!(run(again).expect(69).err.contains(&runs));
    refused("api", &["--log-output", "/proc/no/log"], 69, "/proc/no/log");
    home.configure("bad", "[watcher:a]\ncmd = sleep 1000\nnumproceses = 2\n");
    refused("bad", &[], 78, "numproceses");
    let mut notified = in_background(&home, "api", &[]);
    notified.env("NOTIFY_SOCKET", home.file("notify"));
    assert!(run(notified).expect(64).err.contains("Type=notify"));

    assert!(!home.file("api.pid").exists(), "one that did not start left a pidfile");
    assert_eq!(pid_in(&home.file("web.pid")), Some(first.pid));
    home.ctl(&["--endpoint", &socket, "quit"]).expect(0);
    first.ends();
}

#[test]
fn circus_s_other_words_are_taken() {
    let home = Home::new();
    let path =
        home.configure("web", "[watcher:a]\ncmd = sleep 1\nhooks.after_stop = cmd: true\n").display().to_string();
    let check = |more: &[&str]| run(home.program(&[&["--check", &path], more].concat())).expect(0);
    let said = check(&["--logger-config", "logging.yaml"]);
    assert!(said.err.starts_with("warning: --logger-config has no effect"), "{}", said.err);
    assert!(said.out.ends_with("  watcher a: 1 process; hooks after_stop\n"), "{}", said.out);
    assert_eq!(check(&["--logger-config", "default"]).err, "");
}

// --------------------------------------------------------------------------------------------------------- the log

#[test]
fn a_log_that_was_moved_is_opened_anew() {
    let home = Home::new();
    let log = home.file("agent.log");
    fs::write(&log, "of yesterday\n").expect("a file");
    let mut agent = home.agent("web", &format!("logoutput = {}\n[watcher:a]\ncmd = sleep 1000\n", log.display()));
    let holds = |text: &str| fs::read_to_string(&log).is_ok_and(|logged| logged.contains(text));
    wait_for("a log", || holds("a: started").then_some(()));
    assert!(fs::read_to_string(&log).expect("a log").starts_with("of yesterday\n20"));
    fs::rename(&log, home.file("agent.log.1")).expect("a rename");
    agent.signal(libc::SIGUSR1);
    wait_for("a new log", || holds("opening log files anew").then_some(()));
    fs::remove_file(&log).expect("a log");
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    assert!(holds("SIGTERM") && holds("leaving") && !holds("anew"));
    assert_eq!(agent.log(), "", "it wrote to stderr as well");
}

#[test]
fn a_syslog_server_is_told_each_line_with_its_severity() {
    let home = Home::new();
    let path = home.file("syslog");
    let server = UnixDatagram::bind(&path).expect("a server");
    server.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let to = format!("logoutput = syslog://{}?local0", path.display());
    let mut agent = home.agent("web", &format!("{to}\n[watcher:a]\ncmd = /bin/false\nmax_retry = 0\n"));
    let pid = agent.pid();
    let hear = |priority: &str, text: &str| {
        let end = format!(" circus-agent[{pid}]: {text}");
        wait_for(&end, || {
            let mut buffer = [0; 1024];
            let length = server.recv(&mut buffer).expect("a line");
            let heard = String::from_utf8_lossy(&buffer[..length]);
            (heard.starts_with(priority) && heard.contains(&end)).then_some(())
        });
    };
    hear("<134>", "circus-agent ");
    fs::write(home.file("web.ini"), "[watcher:a]\ncmd = \n").expect("a configuration");
    agent.signal(libc::SIGHUP);
    hear("<132>", "");
    agent.signal(libc::SIGTERM);
    hear("<134>", "all watchers are stopped");
    agent.exits(0);
}

/// Has the agent read a file `times` times in which so much is wrong that what it logs of it fills a pipe.
fn rattle(home: &Home, socket: &Path, times: usize) {
    home.configure("web", &format!("fqdn_prefix = {}\n{SLEEPER}", "x".repeat(100_000)));
    let endpoint = format!("unix://{}", socket.display());
    for _ in 0..times {
        home.ctl(&["--endpoint", &endpoint, "reloadconfig"]).expect(0);
    }
}

#[test]
fn a_log_that_nobody_takes_costs_lines_and_says_so() {
    let home = Home::new();
    let fifo = home.file("log");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a fifo");
    home.configure("web", SLEEPER);
    let logoutput = fifo.display().to_string();
    let mut agent = home.launch_with("web", &["--log-output", &logoutput], &[]);
    agent.answers();
    rattle(&home, &agent.socket, 12);
    agent.logs("ENXIO: No such device or address; the log is kept, up to 1 MiB");
    let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).expect("a fifo");
    let (mut heard, mut buffer) = (Vec::new(), [0; 65536]);
    wait_for("the loss is told", || {
        // Nothing yet is no failure.
        let length = reader.read(&mut buffer).unwrap_or_default();
        heard.extend_from_slice(&buffer[..length]);
        let end = String::from_utf8_lossy(&heard[heard.len().saturating_sub(1000)..]);
        end.contains(" lines of this log were lost: open ").then_some(())
    });
    assert!(heard.starts_with(b"20") && heard.len() > 1 << 20, "{} bytes", heard.len());
    agent.signal(libc::SIGTERM);
    agent.exits(0);
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_nothing() {
    let home = Home::new();
    let config = home.configure("web", SLEEPER).display().to_string();
    let socket = home.file("web.sock");
    let mut agent = home.program(&[&config]);
    let mut agent = Ours(agent.stderr(Stdio::piped()).spawn().expect("circus-agent to start"));
    wait_for("the control socket", || socket.exists().then_some(()));
    rattle(&home, &socket, 3);
    home.ctl(&["--endpoint", &format!("unix://{}", socket.display()), "quit"]).expect(0);
    assert_eq!(ends(&mut agent.0), Some(0));
}

/// Gone with the value.
struct Ours(Child);

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
