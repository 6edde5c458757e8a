//! A program on a terminal of its own.

#![allow(unreachable_pub)] // Included by test files, each a crate of its own.
#![allow(dead_code)] // Each of which uses a part of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that runs on a terminal; it is killed with the value.
pub struct OnTerminal {
    process: Child,
    keys: File,
    screen: mpsc::Receiver<Vec<u8>>,
    /// What it wrote and nobody has waited for yet.
    unread: String,
}

impl OnTerminal {
    /// Starts `command` with a new terminal for its three standard descriptors.
    pub fn start(command: Command) -> OnTerminal {
        OnTerminal::start_on(command, 24, 80)
    }

    /// Starts it on a terminal of this size.
    pub fn start_on(mut command: Command, rows: u16, columns: u16) -> OnTerminal {
        let (keys, terminal) = open(rows, columns);
        let stdio = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: between fork and exec only system calls are made, which is safe there.
        unsafe {
            command.pre_exec(|| {
                // A session with this terminal in charge: only then does ^C become a signal.
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let process = command.spawn().expect("the program to start");
        let (sender, screen) = mpsc::channel();
        let mut written = keys.try_clone().expect("a descriptor");
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // EIO: the program has ended and nobody has the terminal open.
            while let Ok(count @ 1..) = written.read(&mut chunk) {
                if sender.send(chunk[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        OnTerminal { process, keys, screen, unread: String::new() }
    }

    /// Presses keys.
    pub fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Waits until `text` is on the screen, and gives what came up to its end.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unread.find(text) {
                let rest = self.unread.split_off(at + text.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.unread.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("{text:?} is not shown ({error}): {:?}", self.unread),
            }
        }
    }

    /// Waits a moment for `text`, and says whether it came.
    pub fn shows_soon(&mut self, text: &str) -> bool {
        let deadline = Instant::now() + Duration::from_millis(100);
        while !self.unread.contains(text) {
            let Ok(bytes) = self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                return false;
            };
            self.unread.push_str(&String::from_utf8_lossy(&bytes));
        }
        self.shows(text);
        true
    }

    /// What it wrote since somebody looked last, within a moment.
    pub fn writes(&mut self) -> Vec<u8> {
        self.screen.recv_timeout(Duration::from_millis(20)).unwrap_or_default()
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How the terminal is set: its flags for input, output, control and lines.
    pub fn settings(&self) -> [libc::tcflag_t; 4] {
        // SAFETY: the kernel fills in a termios, of which zeroes are one.
        let set = unsafe {
            let mut set: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.keys.as_raw_fd(), &raw mut set), 0);
            set
        };
        [set.c_iflag, set.c_oflag, set.c_cflag, set.c_lflag]
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.process.try_wait().expect("a child") {
                return end;
            }
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.unread);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A new terminal: the side of its keys and screen, and that of the program.
fn open(rows: u16, columns: u16) -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let mut size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills two descriptors in, which are then owned here and nowhere else.
    unsafe {
        let made =
            libc::openpty(&raw mut master, &raw mut slave, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut size);
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        // What else is started meanwhile must not keep the terminal open.
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}
