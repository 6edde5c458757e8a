//! SQL: on SQLite, and on a PostgreSQL where writers wait for each other's rows.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::agent::{Home, wait_for};
use super::recipes;

/// One connection to a database: a line in, what it did out.
struct Session {
    client: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Session {
    fn start(mut client: Command) -> Session {
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let ask = client.stdin.take().expect("a pipe");
        let answers = BufReader::new(client.stdout.take().expect("a pipe"));
        Session { client, ask, answers }
    }

    /// What these statements did, one after another: `UPDATE 1`.
    #[track_caller]
    fn does(&mut self, statements: &str) -> Vec<String> {
        self.begins(statements);
        self.has_done()
    }

    /// Asks, and waits for no answer.
    fn begins(&mut self, statements: &str) {
        // Comments end with their line, statements with ours.
        let lines: Vec<&str> = statements.lines().filter(|line| !line.starts_with("--")).collect();
        let statements = lines.join(" ");
        for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            writeln!(self.ask, "{statement};").expect("a client that listens");
        }
        writeln!(self.ask, "\\echo done").expect("a client that listens");
    }

    #[track_caller]
    fn has_done(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).expect("text") > 0, "the client ended after {said:?}");
            match line.trim_end() {
                "done" => return said,
                answer => said.push(answer.to_owned()),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// Whoever opens a session: with its token, and the value that it writes.
trait Database {
    fn open(&self, token: u64, body: &str) -> Session;
}

struct Sqlite(Home);

impl Database for Sqlite {
    fn open(&self, token: u64, body: &str) -> Session {
        let mut python = Command::new("python3");
        python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fencing/sqlite.py")).arg(self.0.file("db"));
        python.args([format!("token={token}"), format!("body={body}"), "day=20261122".into()]);
        Session::start(python)
    }
}

/// A PostgreSQL of a test's own, reached by a socket in its directory, gone with the value.
struct Postgres {
    server: Child,
    home: Home,
}

impl Postgres {
    fn start() -> Postgres {
        let home = Home::new();
        let data = home.file("data").display().to_string();
        // It refuses to be root. By another name root still gets at all that is root's own, this tree among it.
        let is_root = nix::unistd::geteuid().is_root();
        let disguise = ["unshare", "--user", "--map-user=65534", "--map-group=65534"];
        let command = |name: &str| {
            let mut command = Command::new("env");
            command.args(disguise.iter().filter(|_| is_root)).args(["setpriv", "--pdeathsig", "QUIT", "--"]);
            command.arg(installed(name)).args(["-D", &data]).stdin(Stdio::null()).current_dir(home.path());
            command
        };
        let made = command("initdb").args(["--username", "test", "--auth", "trust", "--no-sync"]).output();
        let made = made.expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(home.file("log")).expect("a log");
        let mut command = command("postgres");
        command.args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(home.path()).stderr(log);
        let server = command.spawn().expect("postgres");
        let postgres = Postgres { server, home };
        wait_for("postgres to answer", || {
            let asked = postgres.psql().args(["-c", "SELECT 1"]).output().expect("psql");
            asked.status.success().then_some(())
        });
        postgres
    }

    fn psql(&self) -> Command {
        let mut psql = Command::new(installed("psql"));
        psql.args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--username",
            "test",
            "--dbname",
            "postgres",
            "--host",
        ]);
        psql.arg(self.home.path());
        psql
    }
}

impl Database for Postgres {
    fn open(&self, token: u64, body: &str) -> Session {
        let mut psql = self.psql();
        for value in [format!("token={token}"), format!("body='{body}'"), "day=20261122".into()] {
            psql.args(["--set", &value]);
        }
        Session::start(psql)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // What it has in shared memory goes with it only if it is asked to.
        super::agent::send(self.server.id(), libc::SIGQUIT);
        let _ = self.server.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.home.file("log")).unwrap_or_default());
        }
    }
}

fn installed(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".servers/debian/bin").join(name);
    assert!(program.exists(), "`make setup` found no {name}; remove .servers and run it again");
    program
}

/// The recipes: what makes the fence, what begins a transaction, what writes a row with a fence of its own.
fn statements() -> [&'static str; 3] {
    recipes("SQL", "sql").try_into().expect("three blocks")
}

const REPORT: &str = "CREATE TABLE report (day BIGINT PRIMARY KEY, body TEXT, fence BIGINT NOT NULL)";

fn a_stale_one_writes_nothing(database: &impl Database) {
    let [create, begin, row] = statements();
    let mut first = database.open(5, "first");
    first.does(create);
    first.does(&format!("{REPORT}; INSERT INTO report (day, body, fence) VALUES (20261122, '', 0)"));
    let write = "UPDATE report SET body = :body WHERE day = :day";
    let body = "SELECT body FROM report";

    assert_eq!(first.does(begin), ["BEGIN", "UPDATE 1"]);
    first.does(&format!("{write}; COMMIT"));
    // The same one goes on.
    assert_eq!(first.does(begin), ["BEGIN", "UPDATE 1"]);
    first.does("COMMIT");
    // The next one is let in, though the first has begun meanwhile.
    let mut next = database.open(7, "next");
    first.does("BEGIN");
    assert_eq!(next.does(begin), ["BEGIN", "UPDATE 1"]);
    next.does(&format!("{write}; COMMIT"));
    let (_, fence) = begin.split_once("BEGIN;").expect("it begins");
    assert_eq!(first.does(fence), ["UPDATE 0"]);
    first.does("ROLLBACK");
    assert_eq!(first.does(begin), ["BEGIN", "UPDATE 0"]);
    first.does("ROLLBACK");
    assert_eq!(next.does(begin), ["BEGIN", "UPDATE 1"]);
    next.does("COMMIT");
    assert!(next.does(body).contains(&"next".to_owned()));

    assert_eq!(next.does(row), ["UPDATE 1"]);
    assert_eq!(first.does(row), ["UPDATE 0"]);
    assert_eq!(next.does(row), ["UPDATE 1"]);
    assert!(first.does(body).contains(&"next".to_owned()));
}

#[test]
fn in_sqlite_a_stale_one_writes_nothing() {
    a_stale_one_writes_nothing(&Sqlite(Home::new()));
}

#[test]
fn in_postgresql_a_stale_one_writes_nothing() {
    a_stale_one_writes_nothing(&Postgres::start());
}

#[test]
fn in_postgresql_a_stale_one_that_waited_for_a_newer_one_writes_nothing() {
    let postgres = Postgres::start();
    let [create, begin, _] = statements();
    let (mut stale, mut newer, mut onlooker) = (postgres.open(5, ""), postgres.open(7, ""), postgres.open(0, ""));
    newer.does(create);
    assert_eq!(newer.does(begin), ["BEGIN", "UPDATE 1"]);
    stale.begins(begin);
    wait_for("the stale one to wait", || {
        let waiting = onlooker.does("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
        (waiting == ["1"]).then_some(())
    });
    newer.does("COMMIT");
    assert_eq!(stale.has_done(), ["BEGIN", "UPDATE 0"]);
}
