//! Processes that not even SIGKILL ends.

#![allow(unreachable_pub)] // Included by several test files, each a crate of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A freezer of cgroups' first version: it puts a process to a sleep that SIGKILL does not end, as a disk that does not
/// answer does.
#[derive(Debug)]
pub struct Ice(PathBuf);

impl Ice {
    /// One of its own for this test; nothing where it takes rights that the test has not, or another kernel.
    pub fn make() -> Option<Ice> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let freezer = mounts.lines().find(|line| line.contains(" cgroup ") && line.contains("freezer"))?;
        let dir = Path::new(freezer.split(' ').nth(1)?).join(format!("circus-test-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        Some(Ice(dir))
    }

    /// Puts a process to sleep, until all are woken.
    pub fn freeze(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
    }

    /// Wakes all.
    pub fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Ice {
    fn drop(&mut self) {
        // A case that has failed may have left somebody there.
        self.thaw();
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
