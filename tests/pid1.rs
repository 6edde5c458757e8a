//! circus-agent as the first process of a container: it reaps what others leave, and nothing but its signals ends it.

#[path = "support/agent.rs"]
mod agent;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};

use agent::{Home, Said, descendants, parent_of, send, wait_for};

/// An agent that is process 1 of a PID namespace; gone with the value, and all in it.
struct Container {
    /// `unshare`, which ends as the agent does.
    outside: Child,
    socket: PathBuf,
    log: PathBuf,
}

/// What makes a PID namespace, before the command in it.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

/// Where nobody may make a namespace, as in most containers, there is nothing to be proven.
fn there_are_namespaces() -> bool {
    let output = unshare().arg("true").output().expect("unshare, of util-linux");
    if !output.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}

impl Container {
    /// Starts one with these watchers, and waits until it answers.
    #[track_caller]
    fn start(home: &Home, watchers: &str) -> Container {
        home.configure("web", watchers);
        Container::prepared(home, "", home.file("web.sock"))
    }

    /// Starts one with the configuration that is there, after `first` was done in its namespaces.
    #[track_caller]
    fn prepared(home: &Home, first: &str, socket: PathBuf) -> Container {
        let (config, log) = (home.file("web.ini"), home.file("web.log"));
        let stderr = File::options().create(true).append(true).open(&log).expect("a log");
        let program = home.program(&[]);
        let mut command = unshare();
        command.args(["sh", "-c", &format!("{first}exec \"$@\""), "sh"]).arg(program.get_program()).arg(config);
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // SAFETY: between fork and exec only prctl is called, which is safe there.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let container = Container { outside: command.spawn().expect("unshare to start"), socket, log };
        wait_for("the agent answers", || (container.ctl(home, &["version"]).code == 0).then_some(()));
        container
    }

    /// The agent's pid as it is seen from outside.
    #[track_caller]
    fn pid(&self) -> u32 {
        let inside = descendants(self.outside.id()).into_iter();
        inside.filter(|pid| parent_of(*pid) == Some(self.outside.id())).min().expect("the agent")
    }

    /// All else in it that came to be the agent's or its children's, zombies included.
    fn others(&self) -> usize {
        descendants(self.pid()).len()
    }

    /// Runs a shell's line in it, as a neighbour of the agent and not its child.
    #[track_caller]
    fn inside(&self, line: &str) {
        let mut command = Command::new("nsenter");
        if !geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--pid", "--mount", "--target", &self.pid().to_string(), "--", "sh", "-c", line]);
        assert!(command.stdin(Stdio::null()).status().expect("nsenter, of util-linux").success(), "{line}");
    }

    fn ctl(&self, home: &Home, args: &[&str]) -> Said {
        let endpoint = format!("unix://{}", self.socket.display());
        home.ctl(&[&["--endpoint", &endpoint], args].concat())
    }

    /// How long the agent has run on a processor, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the agent");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    fn exits(mut self, code: i32) {
        let end = wait_for("the container ends", || self.outside.try_wait().expect("a child"));
        assert_eq!(end.code(), Some(code), "{end}\n{}", self.log());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What is in it goes with its first process, and that with unshare.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

#[test]
fn orphans_of_others_are_reaped_however_many_end_at_once() {
    if !there_are_namespaces() {
        return;
    }
    let home = Home::new();
    let fifo = home.file("hold");
    mkfifo(&fifo, Mode::S_IRWXU).expect("a fifo");
    let container = Container::start(&home, "[watcher:sleeper]\ncmd = sleep 1000\n");
    wait_for("the watcher's process", || (container.others() == 1).then_some(()));
    // A shell within the shell starts each, and ends before it.
    container.inside(&format!("for n in $(seq 100); do (sh -c 'exec cat <\"$0\"' {} &); done", fifo.display()));
    wait_for("the orphans are the agent's", || (container.others() == 101).then_some(()));
    // Read by all of them; with it they end.
    drop(File::options().write(true).open(&fifo).expect("a fifo"));
    wait_for("nothing is left of them", || {
        let left = container.others();
        assert!(left > 0, "the watcher's own process was taken for one of them");
        (left == 1).then_some(())
    });
    container.ctl(&home, &["status"]).expect(0);

    let before = container.ticks();
    container.inside("exec sleep 0.5");
    let spent = container.ticks() - before;
    assert!(spent < 25, "an idle agent ran for {spent}0 ms of 500");
    send(container.pid(), libc::SIGTERM);
    container.exits(0);
}

#[test]
fn its_own_signals_end_it_in_order_and_no_other_ends_it() {
    if !there_are_namespaces() {
        return;
    }
    let home = Home::new();
    let told = home.file("told");
    let child =
        home.script("child", &format!("trap 'echo HUP >>{0}; exit' HUP\n: >{0}\nsleep 1000 & wait", told.display()));
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let config = format!("[watcher:child]\ncmd = {child}\nstop_signal = HUP\n");
        let container = Container::start(&home, &config);
        wait_for("the child listens", || told.exists().then_some(()));
        // From within, and from outside, where signals to a first process are stronger.
        container.inside("for signal in USR2 ALRM WINCH IO TSTP VTALRM RTMIN+3; do kill -s $signal 1; done");
        for other in [libc::SIGUSR2, libc::SIGALRM, libc::SIGWINCH, libc::SIGIO, libc::SIGVTALRM] {
            send(container.pid(), other);
        }
        container.ctl(&home, &["status"]).expect(0);
        send(container.pid(), signal);
        container.exits(0);
        assert_eq!(fs::read_to_string(&told).expect("a file"), "HUP\n");
        fs::remove_file(&told).expect("a file");
    }
}

#[test]
fn it_needs_no_run_directory() {
    if !there_are_namespaces() {
        return;
    }
    let home = Home::new();
    let state = home.file("state");
    let text = format!("[circus]\nnode = web\nstate_dir = {}\n[watcher:a]\ncmd = sleep 1000\n", state.display());
    fs::write(home.file("web.ini"), text).expect("a configuration");
    let container = Container::prepared(&home, "mount -t tmpfs -o ro none /run && ", state.join("web.sock"));
    wait_for("all is well", || (container.ctl(&home, &["status"]).code == 0).then_some(()));
    send(container.pid(), libc::SIGTERM);
    container.exits(0);
}
