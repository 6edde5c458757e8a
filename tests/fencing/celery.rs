//! Celery: real beats and real workers, of both kinds of pool.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::agent::{Home, is_alive, is_stopped, parent_of, send, wait_for};
use super::recipes;
use super::redis_server::RedisServer;

const LONE: [&str; 3] = ["--without-gossip", "--without-mingle", "--without-heartbeat"];

/// What one message came to: that it was sent, or that a worker of a pool executed it.
#[derive(Debug, Clone, PartialEq)]
struct Note {
    kind: String,
    /// When that was, on CLOCK_MONOTONIC.
    at: u64,
    /// And when the message was made.
    sent: u64,
    task: String,
    token: u64,
    retries: u32,
    pid: u32,
}

/// A project made of the page's recipe.
struct Project {
    home: Home,
    redis: RedisServer,
}

impl Project {
    fn new() -> Project {
        let (home, redis) = (Home::new(), RedisServer::start());
        let [fencing, app] = recipes("Celery", "python")[..] else { panic!("two blocks") };
        let example = "redis://redis-1:6379/0";
        assert!(app.contains(example), "{app}");
        let app = app.replace(example, &format!("{}/0", redis.url()));
        std::fs::write(home.file("fencing.py"), fencing).expect("a file");
        std::fs::write(home.file("app.py"), format!("from celery import Celery\n{app}\n")).expect("a file");
        Project { home, redis }
    }

    /// The variables that a process of it needs.
    fn env(&self, pool: &str) -> Vec<(&'static str, String)> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fencing");
        vec![
            ("PYTHONPATH", format!("{}:{}", self.home.path().display(), tests.display())),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("NOTES", self.home.file("notes").display().to_string()),
            ("POOL", pool.into()),
        ]
    }

    /// A worker that nobody supervises.
    fn worker(&self, pool: &str) -> Worker {
        let mut celery = Command::new(installed("celery"));
        celery
            .args(["-A", "tasks", "worker", "--pool", pool, "--concurrency", "2", "--loglevel", "warning"])
            .args(LONE);
        let log = std::fs::File::options().create(true).append(true).open(self.home.file("log")).expect("a log");
        celery.envs(self.env(pool)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Worker(celery.spawn().expect("celery"))
    }

    /// Sends a task as a beat with this lease and token would, or with `-` for both as anybody else.
    fn send(&self, task: &str, lease: &str, token: &str) {
        let mut python = Command::new(installed("python"));
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fencing/tasks.py")).args([task, lease, token]);
        let sent = python.envs(self.env("-")).output().expect("python");
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }

    fn notes(&self, matches: impl Fn(&Note) -> bool) -> Vec<Note> {
        let text = std::fs::read_to_string(self.home.file("notes")).unwrap_or_default();
        let note = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, at, sent, task, token, retries, pid] = words[..] else { panic!("a torn line: {line:?}") };
            let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{error}: {line:?}"));
            let (kind, task, retries, pid) = (kind.into(), task.into(), number(retries) as u32, number(pid) as u32);
            Note { kind, at: number(at), sent: number(sent), task, token: number(token), retries, pid }
        };
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(note).filter(|note| matches(note)).collect()
    }

    fn sent(&self, token: u64) -> Vec<Note> {
        self.notes(|note| note.kind == "sent" && note.token == token)
    }

    fn executed(&self, token: u64) -> Vec<Note> {
        self.notes(|note| note.kind != "sent" && note.token == token)
    }

    /// Waits until so many tasks with this token have been executed.
    #[track_caller]
    fn executes(&self, token: u64, count: usize) {
        wait_for(&format!("{count} tasks of token {token}, executed"), || {
            (self.executed(token).len() >= count).then_some(())
        });
    }

    /// How many tasks of a lease the workers say that they have dropped.
    fn dropped(&self, lease: &str) -> usize {
        let count = self.redis.text(&["HGET", "fences:dropped", lease]);
        count.map_or(0, |count| count.parse().expect("a number"))
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.home.file("log")).unwrap_or_default());
        }
    }
}

/// A program of the Celery that `make test` installs.
fn installed(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin").join(name);
    assert!(program.exists(), "run `make test` once: it makes {}, which is missing", program.display());
    program
}

/// Ends with the test, its pool with it.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let pool = super::agent::descendants(self.0.id());
        let _ = self.0.kill();
        let _ = self.0.wait();
        pool.into_iter().for_each(|pid| send(pid, libc::SIGKILL));
    }
}

#[test]
fn with_celery_all_that_a_stale_beat_sends_beside_its_successor_is_dropped() {
    let project = Project::new();
    let section = |name: &str, env: &str, command: &str, options: &str| {
        let env: String = project.env(env).iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let celery = installed("celery").display().to_string();
        format!(
            "\n[watcher:{name}]\ncmd = {celery} -A tasks {command}\ncopy_env = true\n{options}\n[env:{name}]\n{env}\n"
        )
    };
    let worker = |pool: &str| {
        let lone = LONE.join(" ");
        let command = format!("worker --pool {pool} --concurrency 2 --loglevel warning -n {pool}@%%h {lone}");
        section(pool, pool, &command, "")
    };
    let redis = format!("[redis]\nurl = {}\nlease_ttl = 3\n", project.redis.url());
    let mut beats = ["a", "b"].map(|node| {
        let schedule = project.home.file(&format!("{node}-schedule"));
        let command = format!("beat --loglevel warning --schedule {}", schedule.display());
        let config = format!("{redis}{}", section("beat", "-", &command, "singleton = true"));
        project.home.agent(node, &config)
    });
    let workers = project.home.agent("workers", &format!("{redis}{}{}", worker("solo"), worker("prefork")));
    wait_for("the lease to be initialised", || {
        (beats[0].ctl(&project.home, &["lease", "init", "beat"]).code == 0).then_some(())
    });

    // All is in order, and both workers have their part of it.
    let old = wait_for("a first tick", || project.notes(|note| note.kind == "sent").into_iter().next());
    for pool in ["solo", "prefork"] {
        wait_for(&format!("a tick that {pool} executes"), || {
            project.notes(|note| note.kind == pool).into_iter().next()
        });
    }
    let lease = super::agent::variable_of(old.pid, "CIRCUS_LEASE_KEY").expect("the beat's lease");
    assert_eq!(project.dropped(&lease), 0);

    // Agent and guard of the one that runs are stopped, so that nobody ends the beat when its time has come.
    let guard = parent_of(old.pid).expect("a guard");
    let holder = beats.iter().position(|agent| agent.descendants().contains(&guard)).expect("its agent");
    beats[holder].signal(libc::SIGSTOP);
    send(guard, libc::SIGSTOP);
    wait_for("a stopped guard", || is_stopped(guard).then_some(()));
    let new = wait_for("the successor's first tick", || {
        project.notes(|note| note.kind != "sent" && note.token > old.token).into_iter().next()
    });

    // Two beats run now. What the old one sends from here on comes behind a tick of the new one that was let in.
    let late = |note: &Note| note.token == old.token && note.sent > new.at;
    wait_for("both of them to have sent ten ticks more", || {
        let stale = project.notes(|note| note.kind == "sent" && late(note)).len();
        (stale >= 10 && project.sent(new.token).len() >= 10).then_some(())
    });
    assert!(is_alive(old.pid) && is_alive(new.pid));
    project.send("tick", "-", "-");
    project.executes(0, 1);
    wait_for("ten tasks dropped", || (project.dropped(&lease) >= 10).then_some(()));

    // The old one wakes, and ends.
    send(guard, libc::SIGCONT);
    beats[holder].signal(libc::SIGCONT);
    wait_for("the old beat's end", || (!is_alive(old.pid)).then_some(()));
    for agent in &mut beats {
        agent.signal(libc::SIGTERM);
        agent.exits(0);
    }

    // Every message was either executed or dropped, and only the old one's were dropped.
    project.executes(new.token, project.sent(new.token).len());
    wait_for("the account of the old one's tasks", || {
        let account = project.executed(old.token).len() + project.dropped(&lease);
        (account >= project.sent(old.token).len()).then_some(())
    });
    let (sent, executed, dropped) =
        (project.sent(old.token).len(), project.executed(old.token).len(), project.dropped(&lease));
    // The beat may have been killed before it noted what it had sent.
    assert!((sent..=sent + 1).contains(&(executed + dropped)), "{sent} sent, {executed} executed, {dropped} dropped");
    let two = project.notes(|note| note.kind != "sent" && late(note));
    assert_eq!(two, [], "executed, though one of {} had been before them at {}", new.token, new.at);
    assert!(workers.log().contains("dropped tick of a stale beat"), "{}", workers.log());
}

#[test]
fn with_celery_a_worker_that_starts_anew_knows_the_largest_token() {
    for pool in ["solo", "prefork"] {
        let project = Project::new();
        let worker = project.worker(pool);
        project.send("tick", "beat", "10");
        project.executes(10, 1);
        drop(worker);

        let _worker = project.worker(pool);
        project.send("tick", "beat", "9");
        wait_for(&format!("a task that {pool} drops"), || (project.dropped("beat") == 1).then_some(()));
        // Whoever has a lease of its own, or none, is nobody's predecessor.
        project.send("tick", "reports", "8");
        project.send("tick", "-", "-");
        project.send("tick", "beat", "11");
        [8, 0, 11].into_iter().for_each(|token| project.executes(token, 1));
        assert_eq!(project.executed(9), []);
        assert_eq!((project.dropped("beat"), project.dropped("reports")), (1, 0));
    }
}

#[test]
fn with_celery_a_retry_of_what_was_let_in_is_let_in() {
    for pool in ["solo", "prefork"] {
        let project = Project::new();
        let _worker = project.worker(pool);
        project.send("again", "beat", "10");
        project.executes(10, 2);
        let runs: Vec<u32> = project.executed(10).iter().map(|run| run.retries).collect();
        assert_eq!(runs, [0, 1], "Celery has given the retry the header");
        // A larger token was seen between the two.
        project.send("tick", "beat", "10");
        wait_for(&format!("a task that {pool} drops"), || (project.dropped("beat") == 1).then_some(()));
        assert_eq!(project.executed(10).len(), 2);
    }
}
