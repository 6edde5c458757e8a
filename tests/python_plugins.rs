//! Plugins of one's own, in Python: real agents, and the real package circus, which knows nothing of them.

#![allow(clippy::print_stdout)] // How an agent ended is told.

#[path = "support/agent.rs"]
mod agent;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use agent::{Agent, Home, is_alive, send, wait_for};

/// Writes down all that is done to it, and asks the agent of whose process each spawn was.
const PLUGIN: &str = r#"
import json
from circus.plugins import CircusPlugin

class Diary(CircusPlugin):
    name = 'diary'

    def __init__(self, *args, **config):
        super().__init__(*args, **config)
        self.diary = open(config['diary'], 'a', buffering=1)
        self.write('made', endpoint=self.endpoint, pubsub=self.pubsub_endpoint, config=config)

    def write(self, what, **more):
        print(json.dumps(dict(more, what=what)), file=self.diary)

    def handle_init(self):
        self.write('init')

    def handle_recv(self, data):
        watcher, event, message = self.split_data(data)
        if watcher != 'web':
            return
        message = self.load_message(message)
        self.write(event, message=message)
        if event == 'reap':
            self.cast('set', name='web', options={'numprocesses': 2}, waiting=False)
        if event == 'spawn':
            self.write('asked', reply=self.call('list', name='web'))

    def handle_stop(self):
        self.write('stopped')
"#;

/// A home with the plugin's module in it.
fn home() -> Home {
    let home = Home::new();
    fs::write(home.file("mine.py"), PLUGIN).expect("a module");
    home
}

/// An interpreter that has the package circus.
fn python() -> PathBuf {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".servers/circus/bin/python");
    assert!(python.exists(), "there is no {}: `make setup` makes it", python.display());
    python
}

/// A configuration with the plugin; `doors` are lines of [circus].
fn config(home: &Home, doors: &str) -> String {
    format!(
        "python = {}\n{doors}\n[env:plugin:mine]\nPYTHONPATH = {}\n[watcher:web]\ncmd = sleep 1000\n\
         [plugin:mine]\nuse = mine.Diary\ndiary = {}\nport = not a number: words, and more\n",
        python().display(),
        home.path().display(),
        home.file("diary").display(),
    )
}

/// What is in the diary.
fn diary(home: &Home) -> Vec<Value> {
    let text = fs::read_to_string(home.file("diary")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until something has been done to it.
#[track_caller]
fn has_written(home: &Home, agent: &Agent, what: &str) -> Value {
    let found = || diary(home).into_iter().find(|entry| entry["what"] == what);
    wait_for(&format!("a plugin that writes: {what}\n{}", agent.log()), found)
}

/// Has a process die once the plugin listens: it may have subscribed a moment after it said that it is there.
#[track_caller]
fn sees_a_death(home: &Home, agent: &Agent) -> Value {
    wait_for("a plugin that hears of a death", || {
        let pids = agent.pids("web");
        pids.iter().for_each(|pid| send(*pid, libc::SIGKILL));
        wait_for("other processes", || {
            (!agent.pids("web").is_empty() && !agent.pids("web").iter().any(|pid| pids.contains(pid))).then_some(())
        });
        diary(home).into_iter().find(|entry| entry["what"] == "reap")
    })
}

#[test]
fn a_plugin_is_run_as_circusd_runs_it_and_hears_asks_and_commands() {
    let home = home();
    let agent = home.agent("a", &config(&home, ""));
    let made = has_written(&home, &agent, "made");
    let door = |suffix: &str| format!("{}{suffix}", home.file("a.sock").display());
    assert_eq!(made["endpoint"], format!("ipc://{}", door(".endpoint")));
    assert_eq!(made["pubsub"], format!("ipc://{}", door(".pubsub")));
    let options = json!({
        "__name__": "plugin:mine", "name": "plugin:mine", "diary": home.file("diary"),
        "port": "not a number: words, and more",
    });
    assert_eq!(made["config"], options);
    for suffix in [".endpoint", ".pubsub"] {
        let mode = fs::metadata(door(suffix)).expect("a door").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }

    let reap = sees_a_death(&home, &agent);
    assert_eq!(reap["message"]["exit_code"], -9, "{reap}");
    let asked = has_written(&home, &agent, "asked");
    assert_eq!(asked["reply"]["status"], "ok", "{asked}");
    wait_for("the second process that it has cast for", || (agent.pids("web").len() == 2).then_some(()));

    agent.ask(&json!({"command": "stop", "properties": {"name": "plugin:mine", "waiting": true}}));
    let last = diary(&home).pop().expect("an entry");
    assert_eq!(last["what"], "stopped", "{}", agent.log());
    assert_eq!(agent.watcher("plugin:mine")["last_exit"]["text"], "exit 0");
}

#[test]
fn its_doors_are_those_that_the_file_names_and_are_gone_at_the_end() {
    let home = home();
    let doors = |name: &str| home.file(name).display().to_string();
    let named = format!("endpoint = ipc://{}\npubsub_endpoint = ipc://{}", doors("commands"), doors("events"));
    let mut agent = home.agent("a", &config(&home, &named));
    let made = has_written(&home, &agent, "made");
    assert_eq!(made["endpoint"], format!("ipc://{}", doors("commands")));
    assert_eq!(made["pubsub"], format!("ipc://{}", doors("events")));
    sees_a_death(&home, &agent);
    let [plugin] = agent.pids("plugin:mine")[..] else { panic!("one process") };
    agent.signal(libc::SIGTERM);
    agent.exits(0);
    assert_eq!(diary(&home).pop().expect("an entry")["what"], "stopped");
    assert!(!is_alive(plugin) && !home.file("commands").exists() && !home.file("events").exists());
}

#[test]
fn a_plugin_that_comes_with_a_reload_says_that_its_doors_need_a_restart() {
    let home = home();
    let agent = home.agent("a", &format!("python = {}\n[watcher:web]\ncmd = sleep 1000\n", python().display()));
    home.configure("a", &config(&home, ""));
    let said = agent.ctl(&home, &["reloadconfig"]);
    assert!(said.out.contains("the ZeroMQ doors of plugins in Python"), "{said:?}");
    agent.logs("[plugin:mine] a plugin in Python needs ZeroMQ doors, which an agent opens when it starts: restart it");
}

#[test]
fn a_class_that_cannot_be_loaded_is_an_error_of_its_line_and_says_in_which_python() {
    let home = home();
    fs::write(home.file("broken.py"), "import mime_types_of_the_past\n").expect("a module");
    let python = python();
    for (class, why) in [
        ("mine.Dairy", "No module named 'mine.Dairy'"),
        ("my.own.Plugin", "No module named 'my'"),
        ("broken.Plugin", "No module named 'mime_types_of_the_past'"),
    ] {
        let text = config(&home, "").replace("mine.Diary", class);
        let file = home.configure("a", &text);
        let output = home.program(&["--check", &file.display().to_string()]).output().expect("circus-agent to run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for part in [&format!("`{class}` cannot be loaded"), why, &python.display().to_string()] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

#[test]
fn where_the_python_found_has_no_circus_the_one_of_its_own_program_has() {
    let home = home();
    let python = python();
    let bin = home.file("bin");
    fs::create_dir(&bin).expect("a directory");
    let script = bin.join("circus-plugin");
    fs::write(&script, format!("#!{}\nfrom circus.plugins import main\n", python.display())).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let text = config(&home, "").replace(&format!("python = {}\n", python.display()), "");
    let agent = home.agent_with("a", &text, &[("PATH", &path)]);
    has_written(&home, &agent, "init");

    let file = home.file("a.ini").display().to_string();
    let output = home.program(&["--check", &file]).env("PATH", "/usr/bin:/bin").output().expect("circus-agent to run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("No module named 'circus'") && said.contains("`python` in [circus]"), "{said}");
}
