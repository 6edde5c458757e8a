//! Clients: one that says whatever bytes a test wants, and Python's own, with Circus and pyzmq.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use circus_agent::zmq::zmtp::{self, Kind, Said, Session};
use serde_json::Value;

use crate::agent::PATIENCE;

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// A connection that says what it is told to.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    session: Session,
}

impl Peer {
    /// Connected, and silent.
    pub(crate) fn connect(port: u16) -> Peer {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the door");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Peer { stream, session: Session::new(Kind::Dealer) }
    }

    /// Connected, and introduced as a DEALER.
    pub(crate) fn dealer(port: u16) -> Peer {
        let mut peer = Peer::connect(port);
        peer.says(&zmtp::opening(Kind::Dealer));
        assert_eq!(peer.hears(), Some(Said::Ready));
        peer
    }

    pub(crate) fn says(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the door to listen");
    }

    pub(crate) fn asks(&mut self, request: &str) {
        self.says(&zmtp::message(&[request.as_bytes()]));
    }

    /// What is said next; nothing where the connection was closed.
    pub(crate) fn hears(&mut self) -> Option<Said> {
        let mut chunk = vec![0; 64 << 10];
        loop {
            if let Some(said) = self.session.hear().expect("ZMTP") {
                return Some(said);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.session.add(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The answer that comes next.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Value {
        match self.hears() {
            Some(Said::Message(frames)) if frames.len() == 1 => serde_json::from_slice(&frames[0]).expect("JSON"),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// Waits until the other side has closed the connection.
    #[track_caller]
    pub(crate) fn ends_closed(mut self) {
        let mut chunk = vec![0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Ok(_) => {}
                Err(error) => panic!("it is still open: {error}"),
            }
        }
    }
}

/// The interpreter that has Circus and pyzmq.
fn interpreter() -> String {
    format!("{}/.servers/circus/bin/python", env!("CARGO_MANIFEST_DIR"))
}

/// A program in Python, ended with the value.
pub(crate) struct Python(Child);

impl Python {
    /// Begins `script` with these arguments; what all of them need is imported.
    pub(crate) fn start(script: &str, args: &[&str]) -> Python {
        let head = "import json, sys, time, zmq\nfrom circus.client import CircusClient\n\
                    context = zmq.Context()\ndef say(*words): print(*words, flush=True)\n";
        let mut command = Command::new(interpreter());
        command.arg("-c").arg(format!("{head}{script}")).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: between fork and exec only prctl is called, which is safe there.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Python(command.spawn().expect("Python (make setup)"))
    }

    /// A real circusd with this file, until it is dropped.
    pub(crate) fn circusd(file: &Path) -> Python {
        let mut command = Command::new(interpreter());
        command.args(["-m", "circus.circusd"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: as above.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Python(command.spawn().expect("circusd (make setup)"))
    }

    /// The next line that it prints.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let out = self.0.stdout.as_mut().expect("its output");
        let mut byte = [0];
        while out.read(&mut byte).expect("its output") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }

    /// Goes on past an `input()`.
    pub(crate) fn go_on(&mut self) {
        self.0.stdin.as_mut().expect("its input").write_all(b"\n").expect("its input");
    }

    /// All that it prints until its good end.
    #[track_caller]
    pub(crate) fn said(mut self) -> String {
        let mut said = String::new();
        self.0.stdout.take().expect("its output").read_to_string(&mut said).expect("text");
        let end = self.0.wait().expect("its end");
        assert!(end.success(), "{end}: {said}");
        said
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        // SAFETY: kill has no memory to harm.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for its end.
    pub(crate) fn ends(&mut self) {
        self.0.wait().expect("its end");
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
