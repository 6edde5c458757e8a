//! The manual against the program: what it shows is read, compared and tried.

#[path = "support/redis.rs"]
mod redis_server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use circus_agent::config::{self, Surroundings};
use redis_server::RedisServer;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and all pages of docs/.
fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("docs")).expect("docs");
    let mut pages: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.push(root().join("README.md"));
    pages.sort();
    assert!(pages.len() >= 6, "{pages:?}");
    pages
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// The fenced blocks of one language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn the_table_of_keys_is_that_of_the_program() {
    let page = root().join("docs/configuration.md");
    let text = read(&page);
    let (own, mark) = (text.find("<!-- from here on generated"), " -->\n");
    let end = own.and_then(|at| text[at..].find(mark).map(|end| at + end + mark.len())).expect("the mark");
    let expected = format!("{}{}", &text[..end], config::reference_tables());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&page, &expected).expect("the page");
    } else {
        assert!(text == expected, "docs/configuration.md is out of date: UPDATE_GOLDEN=1 cargo test --test docs");
    }
}

#[test]
fn every_configuration_shown_or_shipped_is_accepted() {
    let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
    let around = Surroundings { env, hostname: "web-1".into() };
    let dir = tempfile::tempdir().expect("a directory");
    let mut tried = 0;
    let mut accept = |path: &Path, from: &Path| {
        if let Err(problems) = config::read(path, &around) {
            panic!("{}: {}", from.display(), config::render(&problems, path, ""));
        }
        tried += 1;
    };
    for page in pages() {
        for block in blocks(&read(&page), "ini") {
            let path = dir.path().join("shown.ini");
            fs::write(&path, block).expect("a file");
            accept(&path, &page);
        }
    }
    for shipped in ["packaging/docker/circus.ini", "beatcop.ini.example"] {
        accept(&root().join(shipped), Path::new(shipped));
    }
    assert!(tried >= 4);
}

#[test]
fn every_link_within_the_manual_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().expect("a folder").join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let anchor = |line: &str| {
                let title = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
                let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                Some(kept.collect::<String>().replace(' ', "-"))
            };
            let found = heading.is_empty() || read(&target).lines().filter_map(anchor).any(|title| title == heading);
            assert!(found, "{}: {link}", page.display());
        }
    }
}

#[test]
fn every_command_shown_is_one_of_circusctl_and_every_one_of_them_is_shown() {
    let help = Command::new(env!("CARGO_BIN_EXE_circusctl")).arg("--help").output().expect("circusctl");
    let help = String::from_utf8(help.stdout).expect("text");
    let listed = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the commands");
    let known: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(known.contains(&"leases"), "{known:?}");
    for page in pages() {
        let text = read(&page);
        // In code: after a prompt, in backquotes, or as a container's command.
        for start in ["`circusctl ", "$ circusctl ", "web-1 circusctl "] {
            for rest in text.split(start).skip(1) {
                let word: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
                assert!(word.is_empty() || known.contains(&&*word), "{}: circusctl {word}", page.display());
            }
        }
    }
    let manual = read(&root().join("docs/circusctl.md"));
    for command in known.iter().filter(|command| **command != "help") {
        assert!(manual.contains(&format!("`{command}")), "docs/circusctl.md does not tell of {command}");
    }
}

#[test]
fn every_script_has_its_place_in_the_page_on_redis() {
    let page = read(&root().join("docs/redis.md"));
    for script in fs::read_dir(root().join("lua")).expect("lua") {
        let name = script.expect("a script").file_name().into_string().expect("a name");
        assert!(page.contains(&format!("`{name}`")), "docs/redis.md does not tell of {name}");
    }
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
fn the_rights_in_the_manual_are_enough() {
    let page = read(&root().join("docs/redis.md"));
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER circus ")).expect("the line");
    let redis = RedisServer::start();
    redis.command(&line.split(' ').collect::<Vec<_>>());
    let dir = tempfile::tempdir().expect("a directory");
    let socket = |node: &str| format!("unix://{}", dir.path().join(format!("{node}.sock")).display());
    let start = |node: &str| {
        let file = dir.path().join(format!("{node}.ini"));
        let text = format!(
            "[circus]\nnode = {node}\ncluster = prod\nstate_dir = {dir}\ncontrol_socket = {dir}/{node}.sock\n[redis]\n\
             url = redis://circus:CHANGE-ME@127.0.0.1:{port}\nlease_ttl = 3\n\
             [watcher:beat]\ncmd = sleep 1000\nsingleton = true\n",
            dir = dir.path().display(),
            port = redis.port()
        );
        fs::write(&file, text).expect("a file");
        let mut agent = Command::new(env!("CARGO_BIN_EXE_circus-agent"));
        Agent(agent.arg(&file).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("circus-agent"))
    };
    let _agents = [start("a"), start("b")];
    let ctl = |node: &str, words: &[&str]| {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_circusctl"));
        ctl.args(["--json", "--endpoint", &socket(node)]).args(words).output().expect("circusctl")
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}; {:?}", redis.command(&["ACL", "LOG"]));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let says = |node: &str, words: &[&str], text: &str| {
        let answer = ctl(node, words);
        answer.status.success() && String::from_utf8_lossy(&answer.stdout).contains(text)
    };
    until("both are listed", &|| says("a", &["nodes"], r#""name":"b""#));
    let _ = ctl("a", &["lease", "init", "beat"]);
    until("one of them holds", &|| says("a", &["leases"], r#""role":"holder""#));
    until("it moves", &|| ctl("a", &["failover", "beat"]).status.success());
    until("the other one holds", &|| says("b", &["leases"], r#""role":"holder""#));
    let redis::Value::Array(refused) = redis.command(&["ACL", "LOG"]) else { panic!("no log") };
    // Naming a connection is no need, and what the client library tells of itself even less.
    let refused: Vec<String> = refused.iter().map(|entry| format!("{entry:?}")).collect();
    assert!(refused.iter().all(|entry| entry.contains("client|")), "{refused:#?}");
}
