//! Hooks and output streams written in Python: called in helper processes, because this program has no interpreter.
//!
//! A watcher's hooks have one helper, which calls them one after another, as Circus does; different watchers do not
//! wait for each other. Its task starts it when the first hook comes:
//!
//! ```text
//!                  call ┌────┐ answer
//! (no helper) ─ call ─▶ calling ─────▶ idle ─ a minute, or another environment ─▶ told to end by EOF
//!      ▲                 │               └──── ended by itself ─▶ (no helper)
//!      └── killed, with its tree: the asker gave up (time-out), it ended, it makes no sense
//! ```
//!
//! A helper that ends in good order takes nothing along: what a hook left running in the background goes on, and a
//! thread that is no daemon gets [`PARTING`] to finish. What it prints, its tracebacks too, is logged.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::job::{Job, Jobs, Leash, RunAs, Running, late, log_lines};
use crate::model::event::HookEnd;
use crate::model::names::WatcherName;
use crate::model::spec::ProgramSpec;

/// What runs in a helper. It comes with the program, so that nothing needs to be installed for it.
const SCRIPT: &str = include_str!("helper.py");

/// A helper that has had no hook to call for so long ends.
const IDLE: Duration = Duration::from_secs(60);

/// How long a helper that was told to end may take.
const PARTING: Duration = Duration::from_secs(60);

/// How long a stream's class may take to be imported and made.
const STREAM_START: Duration = Duration::from_secs(30);

/// No more hooks of one watcher wait for their turn.
const MOST_WAITING: usize = 64;

/// No answer is longer, in bytes.
const LONGEST_ANSWER: u64 = 1 << 20;

/// The interpreter to use where none is configured: that of the virtual environment the agent was started in, else
/// `python3`, else `python` of its search path. Nothing where there is none.
pub fn find_python() -> Option<PathBuf> {
    let venv = env::var_os("VIRTUAL_ENV").map(|venv| Path::new(&venv).join("bin/python"));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = ["python3", "python"].map(|name| env::split_paths(&path).map(|dir| dir.join(name)).collect::<Vec<_>>());
    let runs = |file: &PathBuf| file.is_file() && access(file, AccessFlags::X_OK).is_ok();
    venv.into_iter().chain(found.into_iter().flatten()).find(runs)
}

/// The helpers of all watchers.
#[derive(Debug)]
pub(super) struct Python {
    jobs: Jobs,
    interpreter: Option<PathBuf>,
    /// The way to each watcher's task; closed where that has ended.
    helpers: HashMap<WatcherName, mpsc::Sender<Call>>,
}

/// What a helper is told to call.
#[derive(Debug, Serialize)]
pub(super) struct Request {
    /// The dotted name.
    pub(super) callable: String,
    /// At which point, as Circus calls it.
    pub(super) hook: &'static str,
    /// What the hook's `watcher` is made of.
    pub(super) watcher: serde_json::Value,
    /// The hook's further arguments, by name.
    pub(super) arguments: serde_json::Value,
}

/// A request on its way, and whom to answer.
#[derive(Debug)]
struct Call {
    request: Request,
    around: Arc<ProgramSpec>,
    /// Set when its turn has come.
    begun: Arc<AtomicBool>,
    /// Closed by an asker who has given up.
    answer: oneshot::Sender<HookEnd>,
}

impl Python {
    /// No helper yet, and no interpreter unless one is given.
    pub(super) fn new(jobs: Jobs, interpreter: Option<PathBuf>) -> Python {
        Python { jobs, interpreter, helpers: HashMap::new() }
    }

    /// Calls a hook of `watcher` in `around` when its turn comes. The wait ends within `limit` from now, with what
    /// became of the hook; if it has not ended by then, its helper is killed with all it started.
    pub(super) fn call(
        &mut self,
        watcher: &WatcherName,
        around: Arc<ProgramSpec>,
        request: Request,
        limit: Duration,
    ) -> impl Future<Output = HookEnd> + use<> {
        let (answer, answered) = oneshot::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let refused = self.submit(watcher, Call { request, around, begun: Arc::clone(&begun), answer }).err();
        // Counted from now, not from when somebody first waits.
        let answered = timeout(limit, answered);
        async move {
            match refused {
                Some(why) => HookEnd::Failed(why),
                None => match answered.await {
                    Ok(Ok(end)) => end,
                    Ok(Err(_)) => HookEnd::Failed("the agent is leaving".into()),
                    Err(_) if begun.load(Ordering::Relaxed) => HookEnd::Failed(late(limit)),
                    Err(_) => HookEnd::Failed(format!(
                        "did not get its turn within {} s: the watcher's hooks before it took too long",
                        limit.as_secs_f64()
                    )),
                },
            }
        }
    }

    fn submit(&mut self, watcher: &WatcherName, call: Call) -> Result<(), String> {
        let interpreter = known(self.interpreter.as_deref(), &call.request.callable)?;
        self.helpers.retain(|_, helper| !helper.is_closed());
        let helper = self.helpers.entry(watcher.clone()).or_insert_with(|| {
            let (calls, to_make) = mpsc::channel(MOST_WAITING);
            tokio::spawn(serve(watcher.clone(), interpreter.to_owned(), self.jobs.clone(), to_make, IDLE));
            calls
        });
        helper.try_send(call).map_err(|_| format!("{MOST_WAITING} hooks of this watcher wait for their turn already"))
    }
}

fn known<'a>(interpreter: Option<&'a Path>, dotted: &str) -> Result<&'a Path, String> {
    interpreter.ok_or_else(|| format!("{dotted} needs Python, and none was found; set `python =` in [circus]"))
}

/// The task of one watcher's helper, until no hook has come for `idle`, or the host is gone.
async fn serve(
    watcher: WatcherName,
    interpreter: PathBuf,
    jobs: Jobs,
    mut calls: mpsc::Receiver<Call>,
    idle: Duration,
) {
    let mut helper: Option<Helper> = None;
    loop {
        let Call { request, around, begun, mut answer } = match timeout(idle, calls.recv()).await {
            Ok(Some(call)) => call,
            Ok(None) => break,
            Err(_) => {
                // From here on there comes no other, and the next round takes what has just come.
                calls.close();
                continue;
            }
        };
        if answer.is_closed() {
            continue;
        }
        begun.store(true, Ordering::Relaxed);
        let fit = helper.take().and_then(|helper| helper.kept_for(&around));
        let attempt = async {
            let mut helper = match fit {
                Some(helper) => helper,
                None => Helper::start(&watcher, &interpreter, &jobs, around).await?,
            };
            let answer = helper.call(&request).await?;
            Ok::<_, String>((helper, answer))
        };
        select! {
            biased;
            made = attempt => {
                let end = match made {
                    Ok((used, end)) => {
                        helper = Some(used);
                        end
                    }
                    Err(why) => HookEnd::Failed(why),
                };
                // The asker may have given up just now.
                let _ = answer.send(end);
            }
            // What hangs is dropped, and so killed.
            () = answer.closed() => {}
        }
    }
    if let Some(helper) = helper {
        helper.part();
    }
}

/// A process that calls hooks.
struct Helper {
    line: Line,
    around: Arc<ProgramSpec>,
}

impl Helper {
    async fn start(
        watcher: &WatcherName,
        interpreter: &Path,
        jobs: &Jobs,
        around: Arc<ProgramSpec>,
    ) -> Result<Helper, String> {
        let line = Line::open(watcher, interpreter, jobs, &around, &["hooks"], "hook").await?;
        Ok(Helper { line, around })
    }

    /// This helper, if it still runs and has the environment and directory of `around`.
    fn kept_for(self, around: &ProgramSpec) -> Option<Helper> {
        let same = |a: &ProgramSpec, b: &ProgramSpec| {
            (&a.env, a.copy_env, &a.working_dir) == (&b.env, b.copy_env, &b.working_dir)
        };
        if self.line.leash.has_ended() {
            return None;
        }
        if same(&self.around, around) {
            return Some(self);
        }
        self.part();
        None
    }

    /// Calls a hook; the error says why nothing can be expected of this helper any more.
    async fn call(&mut self, request: &Request) -> Result<HookEnd, String> {
        let mut text = serde_json::to_vec(request).map_err(|error| format!("cannot be called: {error}"))?;
        text.push(b'\n');
        self.line.ask(&text).await.map(|answer| match answer {
            Answer { error: Some(error), .. } => HookEnd::Failed(error),
            Answer { truth, output, .. } => HookEnd::Returned { truth, output },
        })
    }

    /// Has it end in good order, without waiting for that.
    fn part(self) {
        self.line.part(PARTING);
    }
}

/// A process that calls a Python stream class with output. Dropped, it is killed; see [`StreamHelper::finish`].
#[derive(Debug)]
pub(in crate::host) struct StreamHelper(Line);

/// Starts one: imports `class`, a dotted name, and makes one with `options` as keyword arguments, in the environment
/// and directory of `around`. What the class prints is logged. The error is for people, and names the class.
pub(in crate::host) async fn stream_helper(
    jobs: &Jobs,
    interpreter: Option<&Path>,
    watcher: &WatcherName,
    around: &ProgramSpec,
    class: &str,
    options: &BTreeMap<String, String>,
) -> Result<StreamHelper, String> {
    let interpreter = known(interpreter, class)?;
    let options = serde_json::to_string(options).map_err(|error| format!("{class}: its options: {error}"))?;
    let start = async {
        let mut line = Line::open(watcher, interpreter, jobs, around, &["stream", class, &options], "stream").await?;
        match line.ask(b"").await?.error {
            Some(error) => Err(error),
            None => Ok(StreamHelper(line)),
        }
    };
    let started = timeout(STREAM_START, start).await;
    started.unwrap_or_else(|_| Err(format!("{class}: {}", late(STREAM_START))))
}

impl StreamHelper {
    /// Has the class called with one chunk of what process `pid` wrote to `name`, `stdout` or `stderr`. Waits while the
    /// class is busy with earlier ones; a wait that is given up may have sent half a chunk, so the helper is of no
    /// use any more. An error means that it has ended.
    pub(in crate::host) async fn write(&mut self, pid: u32, name: &'static str, data: &[u8]) -> std::io::Result<()> {
        #[derive(Serialize)]
        struct Head {
            pid: u32,
            name: &'static str,
            len: usize,
        }
        let mut frame = serde_json::to_vec(&Head { pid, name, len: data.len() })?;
        frame.push(b'\n');
        frame.extend_from_slice(data);
        self.0.stdin.write_all(&frame).await
    }

    /// Has it take in what it was sent, and end; after [`PARTING`] it is killed. That goes on without being waited for.
    pub(in crate::host) fn finish(self) -> JoinHandle<()> {
        self.0.part(PARTING)
    }
}

/// What a helper says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    truth: bool,
    output: String,
    error: Option<String>,
}

/// A running helper and the pipes to it.
#[derive(Debug)]
struct Line {
    stdin: pipe::Sender,
    stdout: BufReader<pipe::Receiver>,
    leash: Leash,
}

impl Line {
    /// Starts the script as `python -c SCRIPT ARGUMENTS`, its lines on stderr logged as `WATCHER: WHAT: LINE`.
    async fn open(
        watcher: &WatcherName,
        interpreter: &Path,
        jobs: &Jobs,
        around: &ProgramSpec,
        arguments: &[&str],
        what: &str,
    ) -> Result<Line, String> {
        let interpreter = interpreter.to_string_lossy().into_owned();
        let argv =
            [interpreter, "-c".into(), SCRIPT.into()].into_iter().chain(arguments.iter().map(|&word| word.into()));
        let job = Job::new(watcher, argv.collect(), around, RunAs::Agent).env("CIRCUS_WATCHER", watcher.as_str());
        let Running { stdin, stdout, stderr, leash } = job.start(jobs).await.map_err(|failed| failed.to_string())?;
        tokio::spawn(log_lines(format!("{watcher}: {what}"), stderr));
        Ok(Line { stdin, stdout: BufReader::new(stdout), leash })
    }

    /// Sends `text` and waits for an answer; the error says why none will come.
    async fn ask(&mut self, text: &[u8]) -> Result<Answer, String> {
        let Line { stdin, stdout, leash } = self;
        let converse = async {
            stdin.write_all(text).await?;
            let mut line = Vec::new();
            stdout.take(LONGEST_ANSWER).read_until(b'\n', &mut line).await?;
            Ok::<_, std::io::Error>(line)
        };
        let line = select! {
            biased;
            line = converse => line.unwrap_or_default(),
            _ = leash.ended() => Vec::new(),
        };
        if let Ok(answer) = serde_json::from_slice(&line) {
            return Ok(answer);
        }
        // Its pipes close a moment before its end is known.
        Err(match timeout(Duration::from_secs(1), leash.ended()).await {
            Ok(exit) => format!("its Python helper ended meanwhile ({exit})"),
            Err(_) => "its Python helper answered what makes no sense".into(),
        })
    }

    /// Has it end by closing its stdin; after `patience` it is killed, and nothing but it.
    fn part(self, patience: Duration) -> JoinHandle<()> {
        drop(self.stdin);
        tokio::spawn(self.leash.part(patience))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::spawner::Spawner;
    use super::*;
    use crate::host::plan::Surroundings;

    fn jobs() -> Jobs {
        Jobs::new(Arc::new(Spawner::new().unwrap()), "test-", Surroundings::default())
    }

    fn web() -> WatcherName {
        WatcherName::parse("web").unwrap()
    }

    fn around(dir: &Path) -> ProgramSpec {
        ProgramSpec { copy_env: true, working_dir: Some(dir.to_owned()), ..ProgramSpec::of(Vec::new()) }
    }

    /// Waits for a file to hold this.
    async fn holds(file: &Path, bytes: &[u8]) {
        let is_so = async {
            while fs::read(file).unwrap_or_default() != bytes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(Duration::from_secs(20), is_so).await.is_ok();
        assert!(in_time, "{:?}", fs::read(file));
    }

    #[tokio::test]
    async fn a_stream_class_gets_each_chunk_survives_its_errors_and_is_closed() {
        const CLASS: &str = "class Stream:\n    \
                 def __init__(self, path, mark): self.file, self.mark = open(path, 'ab', 0), mark.encode()\n    \
                 def __call__(self, data):\n        \
                     print('not for the file')\n        \
                     if data['data'] == b'bad': raise ValueError('bad')\n        \
                     self.file.write(b'%d %s %s%s' % (data['pid'], data['name'].encode(), data['data'], self.mark))\n    \
                 def close(self): self.file.write(b'closed')\n";
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("own.py"), CLASS).unwrap();
        let out = dir.path().join("out");
        let options = [("path", out.to_str().unwrap()), ("mark", ";")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (jobs, python) = (jobs(), find_python());
        let (web, around) = (web(), around(dir.path()));
        let stream = stream_helper(&jobs, python.as_deref(), &web, &around, "own.Stream", &options).await;
        let mut stream = stream.unwrap();
        for (name, data) in [("stdout", &b"{one}\n"[..]), ("stdout", b"bad"), ("stderr", b""), ("stderr", &[255, 0])] {
            stream.write(7, name, data).await.unwrap();
        }
        stream.finish().await.unwrap();
        holds(&out, b"7 stdout {one}\n;7 stderr ;7 stderr \xff\0;closed").await;
    }

    #[tokio::test]
    async fn a_stream_class_that_cannot_be_made_says_why() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("own.py"), "class Stream:\n    def __init__(self): raise OSError(28, 'full')\n")
            .unwrap();
        let (jobs, python, around) = (jobs(), find_python(), around(dir.path()));
        let (web, options) = (web(), BTreeMap::new());
        let start = |python, class| stream_helper(&jobs, python, &web, &around, class, &options);
        let why = start(python.as_deref(), "own.Stream").await.unwrap_err();
        assert!(
            why.starts_with("cannot set up own.Stream with /") && why.ends_with("OSError: [Errno 28] full"),
            "{why}"
        );
        let why = start(python.as_deref(), "own.Nothing").await.unwrap_err();
        assert!(why.ends_with("AttributeError: own has no 'Nothing'"), "{why}");
        let why = start(None, "own.Stream").await.unwrap_err();
        assert_eq!(why, "own.Stream needs Python, and none was found; set `python =` in [circus]");
    }

    #[tokio::test]
    async fn an_idle_helper_ends_by_itself_once_its_threads_have() {
        const HOOK: &str = "import atexit, threading, time\n\
             def late():\n    time.sleep(0.2)\n    open('said', 'a').write('thread ')\n\
             def hook(*args):\n    threading.Thread(target=late).start()\n    \
                 atexit.register(lambda: open('said', 'a').write('end'))\n    return True\n";
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("own.py"), HOOK).unwrap();
        let (calls, to_make) = mpsc::channel(MOST_WAITING);
        let serving = serve(web(), find_python().unwrap(), jobs(), to_make, Duration::from_millis(20));
        let (answer, answered) = oneshot::channel();
        let watcher = serde_json::json!({"name": "web", "status": "active", "numprocesses": 1, "words": [],
            "working_dir": null, "uid": null, "gid": null, "processes": [], "settings": {}});
        let request =
            Request { callable: "own.hook".into(), hook: "before_start", watcher, arguments: serde_json::json!({}) };
        let call = Call { request, around: Arc::new(around(dir.path())), begun: Arc::default(), answer };
        calls.try_send(call).unwrap();
        serving.await;
        assert_eq!(answered.await, Ok(HookEnd::Returned { truth: true, output: "{}".into() }));
        assert!(calls.is_closed(), "the next hook gets a task of its own");
        holds(&dir.path().join("said"), b"thread end").await;
    }
}
