//! Wall clocks that can be stepped: of Redis's servers, or of agents, and never of the machine.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// The clock of all processes that are started with its environment.
pub struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    /// One that goes with the machine's.
    pub fn new() -> Clock {
        let dir = tempfile::tempdir().expect("a directory for a clock");
        let clock = Clock { dir };
        fs::write(clock.step_file(), 0i64.to_ne_bytes()).expect("a clock");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/stepped_clock.c");
        let compiled =
            Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(clock.library()).arg(source).output();
        let compiled = compiled.expect("a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        clock
    }

    /// Steps it to so many seconds ahead of the machine's.
    pub fn step_to(&self, seconds: i64) {
        let file = fs::File::options().write(true).open(self.step_file()).expect("a clock");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("a clock");
    }

    /// What a process needs in its environment to go by it.
    pub fn environment(&self) -> [(String, String); 2] {
        let text = |path: PathBuf| path.display().to_string();
        [("LD_PRELOAD".into(), text(self.library())), ("STEPPED_CLOCK".into(), text(self.step_file()))]
    }

    fn step_file(&self) -> PathBuf {
        self.dir.path().join("step")
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("stepped_clock.so")
    }
}
