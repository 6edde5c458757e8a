//! What becomes of children's output, proven with real ones.
//!
//! Each case runs in a process of its own: see `support/cases.rs`.

#[path = "support/cases.rs"]
mod cases;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cases::{Case, NEVER, cases, eventually, exists};
use circus_agent::host::clock;
use circus_agent::host::{Host, find_python};
use circus_agent::model::event::{Deadline, Event, Exit, Launch, ProcessEvent, ProcessId, Signs};
use circus_agent::model::names::WatcherName;
use circus_agent::model::spec::{Output, ProgramSpec, Purpose, Rotation, Sink, StreamSpec, Syslog, SyslogAddress};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tracing_subscriber::fmt::MakeWriter;

/// First what is read, then where it goes, then what can go wrong there.
const CASES: &[Case] = cases![
    output_comes_as_it_is_and_all_of_it_before_gone,
    a_prompt_shows_before_its_line_ends,
    recent_lines_are_kept_and_new_ones_followed,
    a_sign_in_the_output_is_told,
    a_child_may_close_its_output_and_live_on,
    who_escaped_and_holds_the_pipe_does_not_hold_up_gone,
    a_child_that_writes_without_end_leaves_the_loop_to_others,
    a_process_takes_two_descriptors_and_gives_them_back,
    each_line_begins_with_its_time_once_however_long_it_is,
    many_writers_of_one_file_tear_no_line_and_rotate_it_once,
    a_file_that_was_moved_is_opened_anew_when_that_is_told,
    stdout_and_fancy_stdout_are_the_agents_own,
    syslog_gets_each_line_as_a_datagram,
    a_python_class_gets_what_both_streams_write,
    a_stuck_place_holds_up_nobody_and_each_lost_line_is_counted,
    a_line_whose_middle_was_lost_is_cut_short_and_its_rest_is_no_line,
    a_full_disk_is_told_of_and_nothing_is_lost_that_fits_the_buffer,
    what_cannot_be_written_at_the_end_is_told_of,
];

// ---- what is read --------------------------------------------------------------------------------------------------

async fn output_comes_as_it_is_and_all_of_it_before_gone() {
    let mut world = World::new();
    let file = world.path("log");
    for guard in [None, Some(far())] {
        let script = "printf 'a\\0b\\377\\r\\n\\n'; printf err >&2; yes 'a line of some length' | head -c 3000001";
        let mut launch = writes(sh(script), Output::file(file.clone()));
        launch.guard = guard;
        let err = world.path("err");
        with(&mut launch, |program| program.stderr = Output::file(err.clone()));
        assert_eq!(world.runs(launch).await, Exit::Code(0));
        let written = fs::read(&file).unwrap();
        assert_eq!(written.len(), 3_000_001 + 7);
        assert!(written.starts_with(b"a\0b\xff\r\n\na line of some length\n"), "{:?}", &written[..20]);
        assert_eq!(fs::read_to_string(&err).unwrap(), "err");
        [file.clone(), err].iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

async fn a_prompt_shows_before_its_line_ends() {
    let mut world = World::new();
    let file = world.path("log");
    let process = world.spawn(writes(sh("printf 'name? '; sleep 1000"), Output::file(file.clone())));
    world.spawned(process).await;
    eventually("the prompt is written", || fs::read(&file).unwrap() == b"name? ").await;
    assert_eq!(world.recent(), ["name? "]);
    world.host.kill(process);
    world.ends(process).await;
}

async fn recent_lines_are_kept_and_new_ones_followed() {
    let mut world = World::new();
    let mut follower = world.host.output().subscribe();
    let mut launch =
        writes(sh("echo one; echo two >&2; sleep 0.3; printf thr; sleep 0.3; echo ee"), stream(Sink::Memory));
    with(&mut launch, |program| program.stderr = stream(Sink::Memory));
    let process = world.spawn(launch);
    let pid = world.spawned(process).await;
    world.ends(process).await;
    let mut recent = world.recent();
    recent[..2].sort();
    assert_eq!(recent, ["one", "two", "thr", "ee"]);
    for _ in 0..4 {
        let line = follower.try_recv().unwrap();
        assert_eq!((line.watcher.as_str(), line.wid, line.pid), ("test", 1, pid));
        assert_eq!(line.stream, if line.bytes == b"two" { "stderr" } else { "stdout" });
        assert!(line.time > 1e9);
    }
    assert!(follower.try_recv().is_err());
    assert!(world.host.output().recent(|watcher| watcher.as_str() == "other", 10).is_empty());
}

async fn a_sign_in_the_output_is_told() {
    let mut world = World::new();
    for guard in [None, Some(far())] {
        let mut launch = writes(
            sh("echo starting; printf 'now re'; sleep 0.3; echo ady >&2; echo ady; sleep 1000"),
            stream(Sink::Memory),
        );
        launch.signs.log = vec![(Purpose::Ready, "^now ready$".into()), (Purpose::Health, "st.rt".into())];
        launch.guard = guard;
        let process = world.spawn(launch);
        world.spawned(process).await;
        assert_eq!(world.next_of(process).await, ProcessEvent::Matched(Purpose::Health));
        assert_eq!(world.next_of(process).await, ProcessEvent::Matched(Purpose::Ready));
        world.host.kill(process);
        world.ends(process).await;
    }
    // What a process has said is told before its end.
    for guard in [None, Some(far())] {
        let mut launch = writes(sh("printf done"), stream(Sink::Memory));
        launch.signs.log = vec![(Purpose::Ready, "^done$".into())];
        launch.guard = guard;
        let process = world.spawn(launch);
        world.spawned(process).await;
        assert_eq!(world.next_of(process).await, ProcessEvent::Matched(Purpose::Ready));
        assert_eq!(world.ends(process).await, Exit::Code(0));
    }
    let mut launch = sh("true");
    launch.signs.log = vec![(Purpose::Ready, "(".into())];
    let process = world.spawn(launch);
    match world.next_of(process).await {
        ProcessEvent::SpawnFailed(failed) => assert_eq!(failed.stage, r#"log("(")"#),
        other => panic!("{other:?}"),
    }
}

async fn a_child_may_close_its_output_and_live_on() {
    let mut world = World::new();
    let mark = world.path("mark");
    let script = format!("echo bye; exec >&- 2>&-; touch {}; sleep 1000", mark.display());
    let mut launch = writes(sh(&script), stream(Sink::Memory));
    with(&mut launch, |program| program.stderr = stream(Sink::Memory));
    let process = world.spawn(launch);
    let pid = world.spawned(process).await;
    eventually("it has closed them", || mark.exists()).await;
    eventually("the pipes are given back", || world.pipes().is_empty()).await;
    assert!(exists(pid));
    assert_eq!(world.recent(), ["bye"]);
    world.host.kill(process);
    assert_eq!(world.ends(process).await, Exit::Signal(9));
}

async fn who_escaped_and_holds_the_pipe_does_not_hold_up_gone() {
    let mut world = World::new();
    let (file, pid) = (world.path("log"), world.path("pid"));
    // Without the tag, in a session of its own, and its parent gone: nobody can tell whose it was.
    let escape = format!("env -i sh -c 'setsid sh -c \"echo \\$\\$ >{}; exec sleep 1000\" &'", pid.display());
    let script = format!("echo first; {escape}; while [ ! -s {} ]; do sleep 0.01; done; printf last", pid.display());
    let process = world.spawn(writes(sh(&script), Output::file(file.clone())));
    world.spawned(process).await;
    assert_eq!(world.next_of(process).await, ProcessEvent::Exited(Exit::Code(0)));
    let exited = Instant::now();
    assert_eq!(world.next_of(process).await, ProcessEvent::Gone);
    assert!(exited.elapsed() < Duration::from_secs(3), "{:?}", exited.elapsed());
    assert_eq!(fs::read_to_string(&file).unwrap(), "first\nlast");
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    assert!(exists(pid.unsigned_abs()), "it has not escaped, so this proves nothing");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("it is reaped", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

async fn a_child_that_writes_without_end_leaves_the_loop_to_others() {
    let mut world = World::new();
    let process = world.spawn(writes(launch(["yes"]), stream(Sink::Memory)));
    world.spawned(process).await;
    eventually("it writes", || !world.recent().is_empty()).await;
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let asked = Instant::now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_millis(500), "the loop was held up for {longest:?}");
    world.host.kill(process);
    world.ends(process).await;
}

async fn a_process_takes_two_descriptors_and_gives_them_back() {
    let mut world = World::new();
    for guard in [None, Some(far())] {
        let mut launch = writes(sh("echo out; echo err >&2; sleep 1000"), stream(Sink::Memory));
        with(&mut launch, |program| program.stderr = stream(Sink::Memory));
        launch.guard = guard;
        let process = world.spawn(launch);
        world.spawned(process).await;
        eventually("both are read", || world.recent().len() >= 2).await;
        assert_eq!(world.pipes().len(), 2);
        for fd in world.pipes() {
            let about = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert!(flags & libc::O_CLOEXEC != 0, "{about}");
        }
        world.host.kill(process);
        world.ends(process).await;
        assert_eq!(world.pipes().len(), 0);
        world.host.output().forget(&WatcherName::parse("test").unwrap());
    }
}

// ---- where it goes -------------------------------------------------------------------------------------------------

async fn each_line_begins_with_its_time_once_however_long_it_is() {
    let mut world = World::new();
    let file = world.path("log");
    let sink = Sink::File { path: file.clone(), rotation: Rotation::Never };
    let script =
        "echo short; head -c 300000 /dev/zero | tr '\\0' x; echo; echo; printf pau; sleep 0.3; echo se; printf end";
    let launch = writes(sh(script), timed(sink, "%Y %Z"));
    let process = world.spawn(launch);
    let pid = world.spawned(process).await;
    world.ends(process).await;
    let written = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = written.split('\n').collect();
    let bodies = ["short", &"x".repeat(300_000), "", "pause", "end"];
    assert_eq!(lines.len(), bodies.len());
    for (line, expected) in lines.iter().zip(bodies) {
        let (head, body) = line.split_once(" | ").unwrap();
        assert!(head.starts_with("20") && head.ends_with(&format!(" [{pid}]")), "{head}");
        assert_eq!(body, expected);
    }
}

async fn many_writers_of_one_file_tear_no_line_and_rotate_it_once() {
    const EACH: usize = 20_000;
    let mut world = World::new();
    let file = world.path("log");
    let rotation = Rotation::Size { max_bytes: 100_000, backups: 1000 };
    let sink = Sink::File { path: file.clone(), rotation };
    let mut processes = Vec::new();
    for _ in 0..3 {
        // The last one has no end, and is nobody else's beginning.
        let script =
            format!("seq -f 'a whole line %06g' {EACH} & seq -f 'a whole line %06g' {EACH} >&2; wait; printf tail");
        let mut launch = writes(sh(&script), stream(sink.clone()));
        with(&mut launch, |program| program.stderr = program.stdout.clone());
        processes.push(world.spawn(launch));
    }
    for process in processes {
        world.spawned(process).await;
        assert_eq!(world.ends(process).await, Exit::Code(0));
    }
    let mut whole = 0;
    let mut tails = 0;
    for entry in fs::read_dir(world.dir.path()).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(text.len() < 100_000);
        for line in text.lines() {
            match line {
                "tail" => tails += 1,
                line => {
                    assert!(line.len() == 19 && line.starts_with("a whole line "), "{line:?}");
                    whole += 1;
                }
            }
        }
    }
    assert_eq!((whole, tails), (6 * EACH, 3));
}

async fn a_file_that_was_moved_is_opened_anew_when_that_is_told() {
    let mut world = World::new();
    let (file, moved, go) = (world.path("log"), world.path("moved"), world.path("go"));
    let script = format!("echo one; while [ ! -e {0} ]; do sleep 0.01; done; echo two", go.display());
    let process = world.spawn(writes(sh(&script), Output::file(file.clone())));
    world.spawned(process).await;
    eventually("it is written", || fs::read(&file).unwrap() == b"one\n").await;
    fs::rename(&file, &moved).unwrap();
    world.host.reopen_output();
    File::create(go).unwrap();
    world.ends(process).await;
    assert_eq!(fs::read_to_string(file).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(moved).unwrap(), "one\n");
}

async fn stdout_and_fancy_stdout_are_the_agents_own() {
    let mut world = World::new();
    let file = world.path("stdout");
    nix::unistd::dup2_stdout(File::create(&file).unwrap()).unwrap();
    world.runs(writes(sh("echo plain"), stream(Sink::Stdout))).await;
    let process = world.spawn(writes(sh("echo red"), timed(Sink::Fancy { colour: 1 }, "%Y")));
    let pid = world.spawned(process).await;
    world.ends(process).await;
    let written = fs::read_to_string(file).unwrap();
    let (plain, fancy) = written.split_once('\n').unwrap();
    assert_eq!(plain, "plain");
    let (escape, rest) = fancy.split_at(10);
    assert_eq!(escape, "\x1b[0;31;40m");
    assert!(rest.starts_with("20") && rest.ends_with(&format!(" [{pid}] | red\x1b[0m\n")), "{rest:?}");
}

async fn syslog_gets_each_line_as_a_datagram() {
    let mut world = World::new();
    let path = world.path("log.sock");
    let local = UnixDatagram::bind(&path).unwrap();
    let remote = UdpSocket::bind("127.0.0.1:0").unwrap();
    local.set_read_timeout(Some(NEVER)).unwrap();
    remote.set_read_timeout(Some(NEVER)).unwrap();
    let port = remote.local_addr().unwrap().port();
    let syslog = |address| stream(Sink::Syslog(Syslog { address, facility: 3, ident: "my app".into() }));
    let script = "echo one; echo; echo two; echo bad >&2; head -c 1500 /dev/zero | tr '\\0' x >&2";
    let mut launch = writes(sh(script), syslog(SyslogAddress::Unix(path)));
    with(&mut launch, |program| program.stderr = syslog(SyslogAddress::Udp { host: "127.0.0.1".into(), port }));
    let process = world.spawn(launch);
    let pid = world.spawned(process).await;
    world.ends(process).await;
    let mut buffer = [0; 4096];
    for expected in ["one", "two"] {
        let length = local.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        // <30> is daemon.info; `Nov  2 10:00:00` has no host behind it.
        assert!(text.starts_with("<30>") && &text[19..20] == " ", "{text}");
        assert_eq!(&text[20..], format!("my_app[{pid}]: {expected}"));
    }
    let mut long = 0;
    for number in 0..3 {
        let length = remote.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("<27>") && length <= 1024, "{text}");
        let (_, said) = text.split_once(&format!(" my_app[{pid}]: ")).unwrap();
        match number {
            0 => assert_eq!(said, "bad"),
            _ => long += said.len(),
        }
    }
    assert_eq!(long, 1500);
}

async fn a_python_class_gets_what_both_streams_write() {
    const CLASS: &str = "class Stream:\n    \
             def __init__(self, path): self.file = open(path, 'ab', 0)\n    \
             def __call__(self, data): self.file.write(b'%s: %s' % (data['name'].encode(), data['data']))\n    \
             def close(self): self.file.write(b'closed\\n')\n";
    let mut world = World::new();
    world.host = world.host.with_python(find_python());
    fs::write(world.path("own.py"), CLASS).unwrap();
    let out = world.path("out");
    let options = BTreeMap::from([("path".to_owned(), out.display().to_string())]);
    let python = stream(Sink::Python { class: "own.Stream".into(), options });
    let mut launch = writes(sh("echo one; sleep 0.1; echo two >&2"), python.clone());
    let dir = world.dir.path().to_owned();
    with(&mut launch, |program| (program.stderr, program.working_dir) = (python, Some(dir)));
    world.runs(launch).await;
    // Two objects, one for each stream; which one is made first is chance.
    let is_all = |text: &String| text.lines().collect::<Vec<_>>().len() == 4;
    eventually("both are closed", || fs::read_to_string(&out).is_ok_and(|text| is_all(&text))).await;
    let mut lines: Vec<String> = fs::read_to_string(out).unwrap().lines().map(String::from).collect();
    lines.sort();
    assert_eq!(lines, ["closed", "closed", "stderr: two", "stdout: one"]);
}

// ---- what can go wrong there ---------------------------------------------------------------------------------------

async fn a_stuck_place_holds_up_nobody_and_each_lost_line_is_counted() {
    const LINES: usize = 1_000_000;
    let mut stuck = Stuck::new().await;
    let started = Instant::now();
    let writer = launch(["seq", "-w", &LINES.to_string()]);
    assert_eq!(stuck.world.runs(writes(writer, Output::file(stuck.fifo.clone()))).await, Exit::Code(0));
    assert!(started.elapsed() < NEVER / 2, "it was held up: {:?}", started.elapsed());
    eventually("losses are told", || stuck.log.lost() > 0).await;
    let mut text = String::new();
    eventually("each line is read or told of", || {
        text += &stuck.read();
        text.lines().count() + stuck.log.lost() == LINES
    })
    .await;
    assert!(stuck.log.has("takes output again"));
    assert!(text.len() > 1 << 20, "only {} bytes were kept", text.len());
    assert!(text.lines().all(|line| line.len() == 7) && text.lines().is_sorted(), "torn lines");
    stuck.leave().await;
}

async fn a_line_whose_middle_was_lost_is_cut_short_and_its_rest_is_no_line() {
    let mut stuck = Stuck::new().await;
    let go = stuck.world.path("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let script = format!("head -c 3000000 /dev/zero | tr '\\0' x; {wait}; echo rest; echo next");
    let process = stuck.world.spawn(writes(sh(&script), Output::file(stuck.fifo.clone())));
    stuck.world.spawned(process).await;
    eventually("losses are told", || stuck.log.lost() > 0).await;
    let mut text = String::new();
    eventually("it takes output again", || {
        text += &stuck.read();
        stuck.log.has("takes output again")
    })
    .await;
    File::create(go).unwrap();
    eventually("the next line comes", || {
        text += &stuck.read();
        text.ends_with("t\n")
    })
    .await;
    stuck.world.ends(process).await;
    let (cut, next) = text.split_once('\n').unwrap();
    assert!(cut.len() > 1 << 20 && cut.len() < 3_000_000 && cut.bytes().all(|byte| byte == b'x'));
    assert_eq!(next, "next\n");
    stuck.leave().await;
}

async fn a_full_disk_is_told_of_and_nothing_is_lost_that_fits_the_buffer() {
    let log = Log::listen();
    let mut world = World::new();
    let (file, go) = (world.path("log"), world.path("go"));
    symlink("/dev/full", &file).unwrap();
    let script = format!("seq 1000; while [ ! -e {0} ]; do sleep 0.01; done; echo end", go.display());
    let process = world.spawn(writes(sh(&script), Output::file(file.clone())));
    world.spawned(process).await;
    eventually("it is told", || log.has("No space left on device; its output is kept")).await;
    fs::remove_file(&file).unwrap();
    eventually("it goes on", || log.has("takes output again")).await;
    File::create(go).unwrap();
    world.ends(process).await;
    let expected: Vec<String> = (1..=1000).map(|number| number.to_string()).chain(["end".into()]).collect();
    assert_eq!(fs::read_to_string(file).unwrap().lines().collect::<Vec<_>>(), expected);
    assert_eq!(log.lost(), 0);
}

async fn what_cannot_be_written_at_the_end_is_told_of() {
    let log = Log::listen();
    let mut world = World::new();
    let file = world.path("log");
    symlink("/dev/full", &file).unwrap();
    assert_eq!(world.runs(writes(sh("echo last words"), Output::file(file))).await, Exit::Code(0));
    assert!(log.has("the last 11 bytes for "), "{}", log.text());
}

// ---- what the cases are told with ----------------------------------------------------------------------------------

/// A host, what it has told, and a directory for files.
struct World {
    host: Host,
    events: mpsc::Receiver<Event>,
    /// Told, but not yet asked about.
    told: VecDeque<(ProcessId, ProcessEvent)>,
    dir: TempDir,
    spawned: u64,
    /// The pipes there were at the beginning: whoever runs us may have left some.
    inherited: Vec<u32>,
}

impl World {
    fn new() -> World {
        let inherited = pipes();
        let (sender, events) = mpsc::channel(64);
        let guard = env!("CARGO_BIN_EXE_circus-agent");
        let dir = TempDir::new().unwrap();
        let host = Host::new(sender, dir.path().join("notify"), &[]).unwrap();
        let host = host.with_guard_program(guard.as_ref()).unwrap();
        World { host, events, told: VecDeque::new(), dir, spawned: 0, inherited }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[expect(clippy::needless_pass_by_value, reason = "most are made in the call")]
    fn spawn(&mut self, launch: Launch) -> ProcessId {
        self.spawned += 1;
        self.host.spawn(ProcessId(self.spawned), &launch, None);
        ProcessId(self.spawned)
    }

    /// What happens next to this process.
    async fn next_of(&mut self, process: ProcessId) -> ProcessEvent {
        if let Some(at) = self.told.iter().position(|(of, _)| *of == process) {
            return self.told.remove(at).unwrap().1;
        }
        loop {
            match self.events.recv().await {
                // A guard's word on when that was says nothing of output.
                Some(Event::Process(_, ProcessEvent::Empty { .. })) => {}
                Some(Event::Process(of, event)) if of == process => return event,
                Some(Event::Process(of, event)) => self.told.push_back((of, event)),
                other => panic!("not of a process: {other:?}"),
            }
        }
    }

    async fn spawned(&mut self, process: ProcessId) -> u32 {
        match self.next_of(process).await {
            ProcessEvent::Spawned { pid } => pid,
            other => panic!("not spawned: {other:?}"),
        }
    }

    /// Waits for the end of the main process and then of its tree.
    async fn ends(&mut self, process: ProcessId) -> Exit {
        match (self.next_of(process).await, self.next_of(process).await) {
            (ProcessEvent::Exited(exit), ProcessEvent::Gone) => exit,
            other => panic!("not the end of a process: {other:?}"),
        }
    }

    async fn runs(&mut self, launch: Launch) -> Exit {
        let process = self.spawn(launch);
        self.spawned(process).await;
        self.ends(process).await
    }

    /// The descriptors that have become pipes since the beginning.
    fn pipes(&self) -> Vec<u32> {
        pipes().into_iter().filter(|fd| !self.inherited.contains(fd)).collect()
    }

    fn recent(&self) -> Vec<String> {
        let recent = self.host.output().recent(|_| true, 100);
        recent.iter().map(|line| String::from_utf8(line.bytes.clone()).unwrap()).collect()
    }
}

/// A world with a FIFO that somebody has open for reading, and does not read from yet.
struct Stuck {
    world: World,
    log: Log,
    fifo: PathBuf,
    reader: File,
    /// As long as this process lives, what is buffered is kept.
    other: ProcessId,
}

impl Stuck {
    async fn new() -> Stuck {
        let log = Log::listen();
        let mut world = World::new();
        let fifo = world.path("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let reader = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        let other = world.spawn(writes(launch(["sleep", "1000"]), Output::file(fifo.clone())));
        world.spawned(other).await;
        Stuck { world, log, fifo, reader, other }
    }

    /// Reads what is there.
    fn read(&mut self) -> String {
        let mut read = Vec::new();
        // The end is an error here: nothing more for now.
        let _ = self.reader.read_to_end(&mut read);
        String::from_utf8(read).unwrap()
    }

    async fn leave(mut self) {
        self.world.host.kill(self.other);
        self.world.ends(self.other).await;
    }
}

/// A deadline that does not matter.
fn far() -> Deadline {
    let far = clock::now() + Duration::from_secs(1000);
    Deadline { stop: far, kill: far }
}

fn sh(script: &str) -> Launch {
    launch(["sh", "-c", script])
}

fn launch<const N: usize>(argv: [&str; N]) -> Launch {
    let program = ProgramSpec { copy_env: true, ..ProgramSpec::of(Vec::new()) };
    Launch {
        watcher: WatcherName::parse("test").unwrap(),
        wid: 1,
        argv: argv.map(String::from).into(),
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

fn with(launch: &mut Launch, change: impl FnOnce(&mut ProgramSpec)) {
    change(Arc::make_mut(&mut launch.program));
}

fn writes(mut launch: Launch, stdout: Output) -> Launch {
    with(&mut launch, |program| program.stdout = stdout);
    launch
}

fn stream(sink: Sink) -> Output {
    Output::Stream(StreamSpec { sink, time_format: None })
}

fn timed(sink: Sink, format: &str) -> Output {
    Output::Stream(StreamSpec { sink, time_format: Some(format.into()) })
}

/// Our descriptors that are pipes.
fn pipes() -> Vec<u32> {
    let fds = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok());
    let is_pipe = |path: PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"));
    fds.filter(|fd| is_pipe(fd.path())).filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect()
}

/// What this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// From here on.
    fn listen() -> Log {
        let log = Log::default();
        tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// How many lines it says were lost.
    fn lost(&self) -> usize {
        let text = self.text();
        let counts =
            text.lines().filter_map(|line| line.split_once(" lines of its output were lost: ")?.0.rsplit_once(' '));
        counts.map(|(_, count)| count.parse::<usize>().unwrap()).sum()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

fn main() -> ExitCode {
    cases::main(CASES, |role| panic!("there is no role {role}"))
}
