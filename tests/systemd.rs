//! systemd's variables are the agent's own. In a process of its own, because it changes the environment.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use circus_agent::systemd::Notify;

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
