//! One action after the other, each as a process of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2, setpgid};
use serde_json::{Value, json};

use super::voice::Voice;
use crate::model::command::Command;
use crate::model::event::{Exit, Reach};
use crate::model::spec::{LegionAction, LegionEvent, Url, legion_file};
use crate::wire;

/// How long a killed action may take to end. One that waits for a device may never, and is left to the guard.
const DYING: Duration = Duration::from_secs(1);

/// How an action came out. What failed has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Well,
    Failed,
    /// This process was told to stop meanwhile.
    CalledOff,
}

/// Does actions.
pub(super) struct Hands {
    legion: String,
    timeout: Duration,
    voice: Voice,
    /// SIGCHLD, and what tells this process to stop.
    signals: SignalFd,
    /// Whether it was told so.
    called_off: bool,
    /// Whether that is what it is doing.
    finishing: bool,
}

impl Hands {
    /// All signals must be blocked.
    pub(super) fn new(legion: String, timeout: Duration, voice: Voice) -> io::Result<Hands> {
        let mut heard = SigSet::empty();
        [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().for_each(|signal| heard.add(signal));
        let signals = SignalFd::with_flags(&heard, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Hands { legion, timeout, voice, signals, called_off: false, finishing: false })
    }

    /// Says a line about an event.
    pub(super) fn say(&self, event: LegionEvent, line: &str) {
        self.voice.say(&format!("{} {}: {line}", self.legion, event.name()));
    }

    /// Whether this process was told to stop.
    pub(super) fn is_called_off(&mut self) -> bool {
        self.hear();
        self.called_off
    }

    /// Waits until it is.
    pub(super) fn wait_for_the_end(&mut self) {
        while !self.is_called_off() {
            self.sleep(PollTimeout::NONE);
        }
    }

    /// From here on nothing calls anything off.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    /// Does an action, unless it is too late to begin one.
    pub(super) fn carry_out(&mut self, event: LegionEvent, action: &LegionAction) -> End {
        if self.is_called_off() && !self.finishing {
            return End::CalledOff;
        }
        let words = Words::now(&self.legion, event);
        if let LegionAction::Log(text) = action {
            self.say(event, &words.fill_in(text));
            return End::Well;
        }
        match self.run(action, &words) {
            Ok(end) => end,
            Err(why) => {
                self.say(event, &format!("{action}: {why}"));
                End::Failed
            }
        }
    }

    /// Does an action as a process of its own, and waits for its end.
    fn run(&mut self, action: &LegionAction, words: &Words) -> Result<End, String> {
        let began = Instant::now();
        let (reason, tell) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|errno| failed("pipe", errno))?;
        let outputs = self.voice.for_action();
        let pid = apart(tell, || act(action, words, outputs)).map_err(|errno| failed("fork", errno))?;
        let until = began + self.timeout;
        let exit = loop {
            if let Some(exit) = ended(pid) {
                break exit;
            }
            if self.called_off && !self.finishing {
                self.end(pid)?;
                return Ok(End::CalledOff);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.end(pid)?;
                return Err(format!("did not end within {} s", self.timeout.as_secs_f64()));
            }
            self.sleep_at_most(left);
        };
        let mut why = String::new();
        let _ = File::from(reason).take(1000).read_to_string(&mut why);
        match exit {
            Exit::Code(0) => Ok(End::Well),
            _ if !why.is_empty() => Err(why),
            exit => Err(exit.to_string()),
        }
    }

    /// Ends an action and its whole process group.
    fn end(&mut self, pid: Pid) -> Result<(), String> {
        let until = Instant::now() + DYING;
        loop {
            // Not reaped yet, so the number is still its group's.
            let _ = killpg(pid, Signal::SIGKILL);
            if ended(pid).is_some() {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("process {pid} was killed and does not end"));
            }
            self.sleep_at_most(left);
        }
    }

    /// Sleeps until a signal comes, and hears it.
    fn sleep_at_most(&mut self, left: Duration) {
        // Rounded up: a time-out of zero would not sleep at all.
        let left = left + Duration::from_millis(1);
        self.sleep(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        self.hear();
    }

    fn sleep(&self, timeout: PollTimeout) {
        let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
    }

    fn hear(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            self.called_off |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
    }
}

/// Runs `work` in a process and process group of its own; what it fails with goes to `tell`.
fn apart(tell: OwnedFd, work: impl FnOnce() -> Result<(), String>) -> Result<Pid, Errno> {
    // SAFETY: this process has one thread, so the child finds no lock taken and may do all that we may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // The child does it too: whoever is first, it is so before we go on.
            let _ = setpgid(child, child);
            Ok(child)
        }
        ForkResult::Child => {
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
            let code = match work() {
                Ok(()) => 0,
                Err(why) => {
                    let _ = File::from(tell).write_all(why.as_bytes());
                    1
                }
            };
            // SAFETY: ends this process and nothing else; what the parent wants done at its end is the parent's.
            unsafe { libc::_exit(code) }
        }
    }
}

/// How the process ended, reaping it; nothing while it runs.
fn ended(pid: Pid) -> Option<Exit> {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal as i32)),
        Ok(_) | Err(Errno::EINTR) => None,
        Err(_) => Some(Exit::Lost),
    }
}

fn failed(what: &str, errno: Errno) -> String {
    format!("{what}: {}", errno.desc())
}

// ---- what is done, in its own process -------------------------------------------------------------------------------

fn act(action: &LegionAction, words: &Words, outputs: [Stdio; 2]) -> Result<(), String> {
    match action {
        LegionAction::Command(line) => Err(become_shell(line, words, outputs)),
        LegionAction::Log(_) => Ok(()),
        LegionAction::Signal { watcher, signal } => {
            ask(&Command::Signal { watcher: watcher.to_string(), pid: None, signal: *signal, reach: Reach::Main })
        }
        LegionAction::Http(url) => get(url),
        LegionAction::Publish(topic) => ask(&Command::Publish { watcher: words.legion.clone(), topic: topic.clone() }),
    }
}

/// Comes back only where that cannot be.
fn become_shell(line: &str, words: &Words, [stdout, stderr]: [Stdio; 2]) -> String {
    let mut shell = Program::new("/bin/sh");
    shell.arg("-c").arg(line).envs(&words.about).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // What this process says of itself it says itself.
    shell.env_remove("NOTIFY_SOCKET");
    format!("/bin/sh: {}", shell.exec())
}

fn get(url: &Url) -> Result<(), String> {
    let step = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    let mut server = TcpStream::connect((url.host.as_str(), url.port)).map_err(step("connect"))?;
    server.write_all(url.request().as_bytes()).map_err(step("write"))?;
    let mut line = Vec::new();
    BufReader::new(server.take(512)).read_until(b'\n', &mut line).map_err(step("read"))?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.split_ascii_whitespace();
    if !words.next().is_some_and(|version| version.starts_with("HTTP/")) {
        return Err("what answers speaks no HTTP".into());
    }
    match words.next().and_then(|code| code.parse::<u16>().ok()) {
        Some(200..=299) => Ok(()),
        _ => Err(line.split_once(' ').map_or("", |(_, status)| status).trim_end().to_owned()),
    }
}

/// Asks the agent for something, over its control socket.
fn ask(command: &Command) -> Result<(), String> {
    let endpoint = std::env::var("CIRCUSCTL_ENDPOINT").unwrap_or_default();
    let path = endpoint.strip_prefix("unix://").ok_or("CIRCUSCTL_ENDPOINT names no control socket")?;
    let gone = |error: io::Error| format!("the agent does not answer: {error}");
    let mut agent = UnixStream::connect(path).map_err(gone)?;
    let mut message = wire::command_json(command);
    message["id"] = json!(std::process::id());
    agent.write_all(format!("{message}\n").as_bytes()).map_err(gone)?;
    let mut line = String::new();
    BufReader::new(agent).read_line(&mut line).map_err(gone)?;
    let reply: Value = serde_json::from_str(&line).map_err(|_| "the agent hung up")?;
    match reply["status"].as_str() {
        Some("ok") => Ok(()),
        _ => Err(reply["reason"].as_str().unwrap_or("refused").to_owned()),
    }
}

// ---- what actions are told -------------------------------------------------------------------------------------------

/// The variables of an action beyond those that this process has itself.
struct Words {
    legion: String,
    about: BTreeMap<&'static str, String>,
}

impl Words {
    /// As things are now: what the agent has last written down, where it has, since much may have happened since this
    /// process was started. The token stays that of this very lordship.
    fn now(legion: &str, event: LegionEvent) -> Words {
        let mut about = BTreeMap::from([("LEGION", legion.to_owned()), ("LEGION_EVENT", event.name().to_owned())]);
        if event == LegionEvent::Unlord {
            let text = state_file(legion).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
            let known = [
                ("lord", "LEGION_LORD"),
                ("members", "LEGION_MEMBERS"),
                ("scroll", "LEGION_SCROLL"),
                ("reason", "LEGION_REASON"),
            ];
            for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
                if let Some((_, name)) = known.iter().find(|(known, _)| *known == key) {
                    about.insert(name, value.to_owned());
                }
            }
        }
        Words { legion: legion.to_owned(), about }
    }

    fn value(&self, name: &str) -> Option<String> {
        self.about.get(name).cloned().or_else(|| std::env::var(name).ok())
    }

    /// A text with `$LEGION_…` and `${LEGION_…}` filled in. What is no such variable stays as it is; one that is not set
    /// is nothing.
    fn fill_in(&self, text: &str) -> String {
        let mut parts = text.split('$');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = match part.strip_prefix('{').and_then(|part| part.split_once('}')) {
                Some(braced) => braced,
                None => {
                    let end = part.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(part.len());
                    part.split_at(end)
                }
            };
            if name == "LEGION" || name.starts_with("LEGION_") {
                filled.push_str(&self.value(name).unwrap_or_default());
                filled.push_str(rest);
            } else {
                filled.push('$');
                filled.push_str(part);
            }
        }
        filled
    }
}

/// Where the agent writes down how a legion is.
fn state_file(legion: &str) -> Option<PathBuf> {
    std::env::var_os("CIRCUS_LEGIONS").map(|dir| PathBuf::from(dir).join(legion_file(legion)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_filled_in_with_what_is_known_of_the_legion() {
        let words = Words::now("ip", LegionEvent::Lord);
        assert_eq!(words.fill_in("$LEGION: $LEGION_EVENT, ${LEGION_EVENT}s"), "ip: lord, lords");
        assert_eq!(words.fill_in("$LEGION_EVENT$LEGION."), "lordip.");
        assert_eq!(words.fill_in("<$LEGION_NOTHING>"), "<>");
        assert_eq!(words.fill_in("$HOME ${HOME} $ $$ ${LEGION $5"), "$HOME ${HOME} $ $$ ${LEGION $5");
    }
}
