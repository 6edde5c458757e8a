//! What it costs that output goes through the agent: a child writes a gigabyte of lines straight into a file, and then
//! through a FileStream, with and without a time before each line. Prints MB/s, the ratio, and the agent's own
//! processor time for a gigabyte.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use circus_agent::host::Host;
use circus_agent::model::event::{Event, Launch, ProcessEvent, ProcessId, Signs};
use circus_agent::model::names::WatcherName;
use circus_agent::model::spec::{Output, ProgramSpec, Rotation, Sink, StreamSpec};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::sync::mpsc;

/// What the child writes: lines of a hundred bytes, forty at a time, as stdio's buffer does.
const LINE: usize = 100;
const AT_ONCE: usize = 40;
const BYTES: usize = 1_000_000_000;
const ROUNDS: usize = 3;

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "child") {
        return child();
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.split(' ').next().unwrap_or("?"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut bench = Bench::new();
        let file = bench.dir.path().join("log");
        let rotation = Rotation::Size { max_bytes: 100_000_000, backups: 2 };
        let through = |time_format: Option<&str>| {
            let sink = Sink::File { path: file.clone(), rotation: rotation.clone() };
            Output::Stream(StreamSpec { sink, time_format: time_format.map(String::from) })
        };
        // In turn, since a machine's disk and neighbours change with the time.
        for _ in 0..ROUNDS {
            let straight = bench.run("straight into a file", Some(&file), Output::Inherit).await;
            for (what, output) in [
                ("through the agent, rotated each 100 MB", through(None)),
                ("the same, a time before each line", through(Some("%Y-%m-%d %H:%M:%S"))),
            ] {
                let took = bench.run(what, None, output).await;
                println!("{:<42} ratio {:.2}", "", straight.as_secs_f64() / took.as_secs_f64());
            }
        }
    });
}

/// Writes to stdout, or to the file it is given.
fn child() {
    let mut to: Box<dyn Write> = match std::env::args().nth(2) {
        Some(file) => Box::new(std::fs::File::options().append(true).create(true).open(file).expect("the file")),
        None => Box::new(std::fs::File::from(nix::unistd::dup(std::io::stdout()).expect("stdout"))),
    };
    let line = [vec![b'x'; LINE - 1], vec![b'\n']].concat().repeat(AT_ONCE);
    for _ in 0..BYTES / line.len() {
        to.write_all(&line).expect("the output");
    }
}

struct Bench {
    host: Host,
    events: mpsc::Receiver<Event>,
    dir: tempfile::TempDir,
    spawned: u64,
}

impl Bench {
    fn new() -> Bench {
        let (sender, events) = mpsc::channel(64);
        let dir = tempfile::tempdir().expect("a directory");
        Bench {
            host: Host::new(sender, dir.path().join("notify"), &[]).expect("the main thread"),
            events,
            dir,
            spawned: 0,
        }
    }

    /// Runs the child to the end of its output, and says how long that took.
    async fn run(&mut self, what: &str, file: Option<&Path>, stdout: Output) -> Duration {
        self.spawned += 1;
        let used = cpu();
        let begun = Instant::now();
        self.host.spawn(ProcessId(self.spawned), &launch(file.map(PathBuf::from), stdout), None);
        loop {
            match self.events.recv().await.expect("events") {
                Event::Process(_, ProcessEvent::Gone) => break,
                Event::Process(_, ProcessEvent::Spawned { .. } | ProcessEvent::Exited(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        let (took, used) = (begun.elapsed(), cpu() - used);
        let speed = BYTES as f64 / 1e6 / took.as_secs_f64();
        println!("{what:<42} {speed:>6.0} MB/s   {:.2} s of the agent per GB", used.as_secs_f64());
        for entry in std::fs::read_dir(self.dir.path()).expect("the directory").flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        took
    }
}

/// What this process has used of the processors.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("its usage");
    let micros =
        |time: nix::sys::time::TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()) as u64);
    micros(usage.user_time()) + micros(usage.system_time())
}

fn launch(file: Option<PathBuf>, stdout: Output) -> Launch {
    let me = std::env::current_exe().expect("this program").display().to_string();
    let program = ProgramSpec { copy_env: true, stdout, ..ProgramSpec::of(Vec::new()) };
    Launch {
        watcher: WatcherName::parse("bench").expect("a name"),
        wid: 1,
        argv: [me, "child".into()].into_iter().chain(file.map(|file| file.display().to_string())).collect(),
        program: Arc::new(program),
        env: Vec::new(),
        socket_env: Vec::new(),
        pids: Vec::new(),
        sockets: Vec::new(),
        stdin: None,
        stop_signal: libc::SIGTERM,
        guard: None,
        legion: None,
        signs: Signs::default(),
    }
}
