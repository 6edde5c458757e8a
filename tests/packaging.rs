//! What operators install: the units, the images' description, the scripts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make setup` installs what is missing"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Puts a unit into `dir` as `name`, with the binary's path in place.
fn install(dir: &Path, unit: &str, name: &str) -> PathBuf {
    let text = std::fs::read_to_string(root().join("packaging/systemd").join(unit)).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/circus-agent "), "{unit}");
    let path = dir.join(name);
    std::fs::write(&path, text.replace("/usr/bin/circus-agent", env!("CARGO_BIN_EXE_circus-agent"))).unwrap();
    path
}

fn verify(units: &[&Path]) {
    let verified = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units));
    // A line that it does not understand is ignored with a warning, and the unit counts as good.
    assert!(verified.status.success() && text(&verified).trim().is_empty(), "{}", text(&verified));
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let dir = tempfile::TempDir::new().unwrap();
    verify(&[&install(dir.path(), "circus-agent.service", "circus-agent.service")]);
    verify(&[&install(dir.path(), "circus-agent@.service", "circus-agent@beat.service")]);
}

#[test]
fn systemd_finds_no_fault_with_the_example_of_a_socket_for_the_service() {
    let dir = tempfile::TempDir::new().unwrap();
    let service = install(dir.path(), "circus-agent.service", "circus-agent.service");
    let socket = dir.path().join("circus-agent.socket");
    std::fs::copy(root().join("packaging/systemd/circus-agent.socket"), &socket).unwrap();
    verify(&[&socket, &service]);
    assert!(settings("circus-agent.socket").contains(&"FileDescriptorName=web".to_owned()));
}

#[test]
fn systemd_finds_no_fault_with_the_hardened_unit_and_calls_it_ok() {
    let dir = tempfile::TempDir::new().unwrap();
    let unit = install(dir.path(), "circus-agent.service", "circus-agent.service");
    // `verify` reads no drop-ins beside a unit outside systemd's own directories; a unit may repeat a section.
    let hardened = std::fs::read_to_string(root().join("packaging/systemd/hardened.conf")).unwrap();
    std::fs::write(&unit, std::fs::read_to_string(&unit).unwrap() + "\n" + &hardened).unwrap();
    verify(&[&unit]);
    let limit = ["security", "--offline=true", "--no-pager", "--threshold=30"];
    let exposed = run(Command::new("systemd-analyze").args(limit).arg(&unit));
    assert!(exposed.status.success(), "{}", text(&exposed));
}

/// The lines of a unit that do something.
fn settings(unit: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("packaging/systemd").join(unit)).unwrap();
    text.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(ToOwned::to_owned).collect()
}

#[test]
fn the_template_differs_from_the_unit_only_in_its_file_and_its_description() {
    let of_instance = |line: &String| line.starts_with("Description=") || line.starts_with("ExecStart=");
    let (mut unit, mut template) = (settings("circus-agent.service"), settings("circus-agent@.service"));
    unit.retain(|line| !of_instance(line));
    template.retain(|line| !of_instance(line));
    assert_eq!(unit, template);
}

/// Ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn logrotate_and_the_agent_understand_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = format!(
        "[circus]\nstate_dir = {0}\ncontrol_socket = {0}/a.sock\nlogoutput = {0}/agent.log\n",
        dir.path().display()
    );
    std::fs::write(path("a.ini"), config).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_circus-agent"));
    let agent = Agent(agent.arg(path("a.ini")).stdin(Stdio::null()).spawn().unwrap());
    let until_logged = |text: &str| {
        let begun = Instant::now();
        while !std::fs::read_to_string(path("agent.log")).is_ok_and(|log| log.contains(text)) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{text} is not logged");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    until_logged("control socket");

    let shipped = std::fs::read_to_string(root().join("packaging/logrotate/circus-agent")).unwrap();
    let signal = "systemctl kill --kill-whom=main --signal=USR1 'circus-agent*' || true";
    assert!(shipped.contains(signal) && shipped.contains("\n/var/log/circus/*.log {"));
    let here = shipped.replace("/var/log/circus", &dir.path().display().to_string());
    std::fs::write(path("rotate"), here.replace(signal, &format!("kill -USR1 {}", agent.0.id()))).unwrap();
    let mut logrotate = Command::new("/usr/sbin/logrotate");
    let rotated = run(logrotate.args(["--force", "--state", &path("state"), &path("rotate")]));
    assert!(rotated.status.success() && text(&rotated).is_empty(), "{}", text(&rotated));
    until_logged("opening log files anew");
    let before = std::fs::read_to_string(path("agent.log.1")).unwrap();
    assert!(before.contains("control socket") && !before.contains("anew"), "{before}");
}

/// The Python that `make setup` puts the tests' packages into.
fn python() -> Command {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "there is no .venv: `make setup` makes it");
    Command::new(python)
}

#[test]
fn the_compose_file_describes_redis_and_three_agents_that_differ_in_their_names() {
    let script = r#"
import sys, yaml
services = yaml.safe_load(open(sys.argv[1]))["services"]
assert sorted(services) == ["redis", "web-1", "web-2", "web-3"], services
for name, service in services.items():
    if name == "redis":
        continue
    assert service["hostname"] == name, service
    assert service["environment"]["CIRCUS_NODE"] == name, service
    assert service["build"]["target"] == "demo", service
    assert service["depends_on"]["redis"]["condition"] == "service_healthy", service
"#;
    let checked = run(python().args(["-c", script]).arg(root().join("docker-compose.yml")));
    assert!(checked.status.success(), "{}", text(&checked));
}

#[test]
fn the_image_is_built_from_files_that_are_there_and_that_the_build_may_see() {
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let seen = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    let seen: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copied =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    let mut files = 0;
    for line in copied {
        let words: Vec<&str> = line.split_whitespace().collect();
        for file in &words[..words.len() - 1] {
            assert!(root().join(file).exists(), "{file}");
            assert!(seen.iter().any(|seen| Path::new(file).starts_with(seen)), ".dockerignore hides {file}");
            files += 1;
        }
    }
    assert!(files >= 7);
    let stages: Vec<&str> =
        dockerfile.lines().filter_map(|line| line.split_once(" AS ")).map(|(_, name)| name).collect();
    assert_eq!(stages, ["build", "base", "demo", "agent"]);
}

#[test]
fn cargo_finds_its_way_among_the_files_that_the_image_is_built_from() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["Cargo.toml", "Cargo.lock", "src", "lua"] {
        let copied = run(Command::new("cp").arg("-r").arg(root().join(part)).arg(dir.path()));
        assert!(copied.status.success(), "{}", text(&copied));
    }
    // Without their paths, cargo looks for tests and benches that are not there, and builds nothing.
    let read = run(Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(dir.path()));
    assert!(read.status.success(), "{}", text(&read));
}

#[test]
fn the_demos_celery_application_is_one() {
    let mut celery = python();
    celery.args(["-m", "celery", "--app", "tasks", "report"]).current_dir(root().join("packaging/docker"));
    let report = run(celery.env("PYTHONDONTWRITEBYTECODE", "1").env("CIRCUS_NODE", "web-1"));
    assert!(report.status.success() && text(&report).contains("web-1"), "{}", text(&report));
}

#[test]
fn the_scripts_are_good_bash() {
    for script in ["scripts/setup", "scripts/demo", ".ci/run"] {
        let checked = run(Command::new("bash").arg("-n").arg(root().join(script)));
        assert!(checked.status.success(), "{script}: {}", text(&checked));
    }
}
