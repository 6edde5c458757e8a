//! The configuration reader against files: each bug report about a file becomes a file here.
//!
//! `tests/config/good/*.ini` must be accepted and `tests/config/bad/*.ini` refused, each with what the `.txt`
//! beside it says; `UPDATE_GOLDEN=1` writes those anew. A line `; env: NAME=VALUE` in a file adds to the
//! environment it is read in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use circus_agent::config::{self, Config, Problem, Severity, Surroundings, code};
use circus_agent::model::spec::{AgentSpec, ProgramSpec, WatcherSpec};

fn around(text: &str) -> Surroundings {
    let base = [("PATH", "/usr/bin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")];
    let mut env: BTreeMap<String, String> = base.map(|(name, value)| (name.into(), value.into())).into();
    let added = text.lines().filter_map(|line| line.strip_prefix("; env: ")?.split_once('='));
    env.extend(added.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Surroundings { env, hostname: "testhost".into() }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("tests/config").join(folder)).expect("the folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ini"));
    files.sort();
    assert!(!files.is_empty());
    files
}

fn read(path: &Path) -> Result<Config, Vec<Problem>> {
    config::read(path, &around(&String::from_utf8_lossy(&fs::read(path).expect("the file"))))
}

fn compare(path: &Path, found: &str) {
    let golden = path.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, found).expect("the golden file");
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(found == expected, "{} is not as in {}:\n{found}", path.display(), golden.display());
}

/// All facts of a configuration, a line for each watcher and for each thing that is not as usual.
fn describe(config: &Config) -> String {
    let AgentSpec {
        node,
        cluster,
        control_socket,
        state_dir,
        pidfile,
        umask,
        log_level,
        redis,
        warmup_delay,
        watchers,
        ..
    } = &config.spec;
    let mut out = format!("node {node}, cluster {cluster}\n");
    let mut fact = |text: String| writeln!(out, "{text}").expect("a line");
    for (name, path) in [("control_socket", control_socket), ("state_dir", state_dir), ("pidfile", pidfile)] {
        path.iter().for_each(|path| fact(format!("{name} {}", path.display())));
    }
    umask.iter().for_each(|umask| fact(format!("umask {umask:03o}")));
    log_level.iter().for_each(|level| fact(format!("loglevel {level:?}")));
    redis.iter().for_each(|redis| fact(format!("redis {}", redis.url.reveal())));
    if !warmup_delay.is_zero() {
        fact(format!("warmup_delay {warmup_delay:?}"));
    }
    for watcher in watchers {
        let WatcherSpec { name, program, numprocesses, warmup_delay, priority, autostart, respawn, max_retry, .. } =
            watcher;
        let ProgramSpec {
            words,
            executable: _,
            env,
            copy_env,
            working_dir,
            user,
            gid,
            umask,
            rlimits,
            close_stdin,
            stdout,
            stderr,
        } = program;
        fact(format!("\n{name}: {numprocesses} of {words:?}"));
        fact(format!("  priority {priority}, autostart {autostart}, respawn {respawn}, max_retry {max_retry:?}"));
        let (signal, grace) = (watcher.stop_signal, watcher.graceful_timeout);
        fact(format!("  stop signal {signal}, grace {grace:?}, warmup_delay {warmup_delay:?}"));
        fact(format!("  copy_env {copy_env}, close_stdin {close_stdin}, stdout {stdout:?}, stderr {stderr:?}"));
        env.iter().for_each(|(name, value)| fact(format!("  {name}={value}")));
        working_dir.iter().for_each(|path| fact(format!("  working_dir {}", path.display())));
        user.iter().for_each(|user| fact(format!("  {user:?}")));
        gid.iter().for_each(|gid| fact(format!("  gid {gid}")));
        umask.iter().for_each(|umask| fact(format!("  umask {umask:03o}")));
        rlimits.iter().for_each(|limit| fact(format!("  limit {} {:?}", limit.name, limit.limit)));
        watcher.singleton.iter().for_each(|timings| fact(format!("  {timings:?}")));
    }
    out
}

#[test]
fn good_files_mean_what_their_texts_say() {
    for path in files("good") {
        let config = read(&path).unwrap_or_else(|problems| panic!("{}", config::render(&problems, &path)));
        let mut found = describe(&config);
        if !config.warnings.is_empty() {
            found.push_str(&format!("\n{}", config::render(&config.warnings, &path)));
        }
        compare(&path, &found);
    }
}

#[test]
fn bad_files_are_refused_with_every_problem_and_its_place() {
    for path in files("bad") {
        let problems = read(&path).expect_err(&path.display().to_string());
        assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
        compare(&path, &config::render(&problems, &path));
    }
}

#[test]
fn what_cannot_be_read_is_one_clear_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = dir.path().join("binary.ini");
    fs::write(&binary, b"[circus]\nnode = \xff\xfe\n").expect("a file");
    let message = |path: &Path| {
        let problems = config::read(path, &around("")).expect_err("no configuration");
        assert_eq!(problems.len(), 1);
        (problems[0].line, problems[0].message.replace(&dir.path().display().to_string(), "DIR"))
    };
    assert_eq!(message(&dir.path().join("none.ini")), (0, "DIR/none.ini does not exist".into()));
    assert_eq!(message(dir.path()), (0, "DIR is a directory".into()));
    assert_eq!(message(&binary), (2, "DIR/binary.ini is no UTF-8 text".into()));
    assert_eq!(message(Path::new("/dev/zero")), (0, "/dev/zero is larger than 16 MiB".into()));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let [unix, windows] = ["unix.ini", "windows.ini"].map(|name| dir.path().join(name));
    let text = "[watcher:w]\ncmd = sleep\nargs = 1\n  2\n";
    fs::write(&unix, text).expect("a file");
    fs::write(&windows, format!("\u{feff}{}", text.replace('\n', "\r\n"))).expect("a file");
    let [unix, windows] = [unix, windows].map(|path| config::read(&path, &around("")).expect("good"));
    assert_eq!((unix.spec, unix.hash), (windows.spec, windows.hash));
}

const EXAMPLE: &str = "beatcop.ini.example";

#[test]
fn the_example_is_valid_and_runs_one_singleton() {
    let config = config::read(Path::new(EXAMPLE), &around("")).unwrap_or_else(|problems| {
        panic!("{}", config::render(&problems, Path::new(EXAMPLE)));
    });
    // Whether celery is installed is the machine's affair.
    assert!(config.warnings.iter().all(|problem| problem.code == code::PROGRAM), "{:?}", config.warnings);
    let [beat] = &config.spec.watchers[..] else { panic!("one watcher") };
    assert!(beat.singleton.is_some() && config.spec.redis.is_some());
}

#[test]
fn the_example_ends_with_every_key_there_is() {
    let text = fs::read_to_string(EXAMPLE).expect("the example");
    let own = text.split("\n;;; [circus]\n").next().expect("a beginning");
    let expected = format!("{own}{}", config::reference());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(EXAMPLE, &expected).expect("the example");
    } else {
        assert!(text == expected, "{EXAMPLE} is out of date: UPDATE_GOLDEN=1 writes it anew");
    }
}

#[test]
fn each_documented_key_is_known_and_says_truly_whether_it_works() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("one.ini");
    let reference = config::reference();
    let (mut section, mut later, mut keys) = (String::new(), false, 0);
    for line in reference.lines() {
        if let Some(head) = line.strip_prefix(";;; [") {
            section = head.split(']').next().expect("a head").to_owned();
            later = head.contains("not supported yet");
        }
        let Some(setting) = line.strip_prefix("; ") else { continue };
        keys += 1;
        let base = if section.starts_with("watcher") { "cmd = sleep 1\n" } else { "" };
        let base = if setting.starts_with("cmd =") { "" } else { base };
        let url = if section == "redis" && !setting.starts_with("url") { "url = redis://h\n" } else { "" };
        let file = match setting.split_once(".class") {
            Some((stream, _)) => format!("{stream}.filename = /tmp/x\n"),
            None => String::new(),
        };
        fs::write(&path, format!("[{section}]\n{base}{url}{file}{setting}\n")).expect("a file");
        let problems = match config::read(&path, &around("")) {
            Ok(config) => config.warnings,
            Err(problems) => problems,
        };
        let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
        let unsupported = errors.iter().all(|problem| later && problem.code == code::NOT_YET);
        assert!(unsupported, "{setting}\n{}", config::render(&problems, &path));
        assert!(problems.iter().all(|problem| problem.code != code::FREE_FORM), "{setting}");
    }
    assert!(keys > 80, "{keys}");
}
