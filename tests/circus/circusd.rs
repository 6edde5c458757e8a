//! The real circusd 0.19 as a process of a test's own, and programs of its Python.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

use crate::agent::{Home, PATIENCE, descendants, is_alive, send, wait_for};

/// The interpreter that has Circus.
fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".servers/circus/bin/python")
}

/// Python with these words, with nobody's settings in its environment; it ends with the test.
pub(crate) fn python_with(home: &Home, args: &[&str]) -> Command {
    let mut command = home.clean(&python().display().to_string(), args);
    command.env("PYTHONUNBUFFERED", "1").env("CIRCUS_PROCESS", format!("{}/python", home.mark()));
    // SAFETY: between fork and exec only prctl is called, which is safe there.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// A running circusd.
pub(crate) struct Circusd {
    process: Child,
    log: PathBuf,
}

impl Circusd {
    /// Starts it with this file, and waits until it is up.
    pub(crate) fn start(home: &Home, config: &str) -> Circusd {
        let (file, log) = (home.file("circusd.ini"), home.file("circusd.log"));
        fs::write(&file, config).expect("a configuration");
        let out = || File::options().create(true).append(true).open(&log).expect("a log");
        let main = "from circus.circusd import main; main()";
        let mut command = python_with(home, &["-c", main, &file.display().to_string()]);
        let mut process = command.stdout(out()).stderr(out()).spawn().expect("circusd to start");
        wait_for("circusd is up", || {
            let end = process.try_wait().expect("a child");
            let log = fs::read_to_string(&log).unwrap_or_default();
            assert!(end.is_none(), "circusd ended: {end:?}\n{log}");
            log.contains("Arbiter now waiting for commands").then_some(())
        });
        Circusd { process, log }
    }
}

impl Drop for Circusd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- log of circusd ----\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
        let left = descendants(self.process.id());
        let _ = self.process.kill();
        let _ = self.process.wait();
        left.into_iter().filter(|pid| is_alive(*pid)).for_each(|pid| send(pid, libc::SIGKILL));
    }
}

/// One of the scripts of this directory, which says a line of JSON at a time.
pub(crate) struct Script {
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Script {
    /// Starts it.
    pub(crate) fn start(home: &Home, name: &str, args: &[&str]) -> Script {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/circus").join(name).display().to_string();
        let mut command = python_with(home, &[&[&*path], args].concat());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a script to start");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let (said, lines) = channel();
        thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            // Whoever has heard enough drops the other end.
            let _ = lines.map(|line| serde_json::from_str(&line).expect("JSON")).try_for_each(|line| said.send(line));
        });
        Script { input: process.stdin.take(), process, lines }
    }

    /// Puts a line, and gives the one that it says to it.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> Value {
        writeln!(self.input.as_mut().expect("its input"), "{line}").expect("a script that listens");
        self.lines.recv_timeout(PATIENCE * 3).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line, where there is one already.
    pub(crate) fn heard(&mut self) -> Option<Value> {
        self.lines.try_recv().ok()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
