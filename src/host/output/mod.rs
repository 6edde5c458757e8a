//! Children's output: read from pipes, kept for whoever asks, and written where the watcher says.
//!
//! ```text
//!                          ┌─▶ hub: a ring for each watcher, and whoever follows
//! child ─▶ pipe ─▶ reader ─┼─▶ ear: `Matched`
//!                          └─▶ tap ─▶ sink: 1 MiB ─▶ hand ─▶ file, stdout, datagrams, Python
//!                               │      │              └─ one write at a time, where it holds up nobody
//!                               │      └─ one for each place
//!                               └─ one for each stream of each process
//! ```
//!
//! Reading order: `reader` (one for each pipe), `passage` (what it passes on), [`Hub`], `signs`, `sink` (the buffer, and
//! what is lost), `format` (from lines to bytes), `place`, and what writes there: `file` with `rotation`,
//! `standard`, `datagram`, `python`. Beside them, [`Log`]: what the agent has to say itself.
//!
//! # Invariants
//!
//! - No child and no loop waits for a place that takes nothing. One that is slow is waited for while it gets on, for
//!   `sink::SLOW` at the most; then lines are lost: whole ones, counted, and told.
//! - Bytes are passed on as they came. A line begins with its time once, however long it is, and however often its
//!   program paused within it.
//! - A place has one writer, whoever writes there: its lines are whole, and it rotates once.
//! - What a process wrote is passed on before its `Gone`, and written too where that takes no longer than
//!   `sink::PARTING`.

mod datagram;
mod file;
mod format;
mod hub;
mod log;
mod passage;
mod place;
mod python;
mod reader;
mod rotation;
mod signs;
mod sink;
mod standard;

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::hub::Hub;
pub use self::log::Log;
use self::passage::{Source, Stream};
use self::place::Means;
use self::reader::{BUFFER, Outlets, Reader};
use self::signs::{Ear, Signs};
use self::sink::Sinks;
use super::job::Jobs;
use super::spawn::failure;
use crate::model::event::{Event, Launch, ProcessId, SpawnFailure};
use crate::model::names::WatcherName;
use crate::model::spec::{ProgramSpec, Sink, StreamSpec};

/// How long after the end of a process's tree somebody else may hold its pipes. What is in them by then is still read.
const LINGER: Duration = Duration::from_millis(100);

/// All output of this machine's children.
#[derive(Debug)]
pub(super) struct Outputs {
    hub: Hub,
    sinks: Arc<Sinks>,
    /// What readers read into, one at a time: none waits with it in hand.
    buffer: Mutex<Box<[u8]>>,
}

impl Outputs {
    /// None yet. `jobs` starts helpers for classes in Python.
    pub(super) fn new(jobs: Jobs) -> io::Result<Outputs> {
        let sinks = Arc::new(Sinks::new(Means::new(jobs)?));
        Ok(Outputs { hub: Hub::new(), sinks, buffer: Mutex::new(vec![0; BUFFER].into()) })
    }

    /// Has classes in Python called by this interpreter, from the next one on.
    pub(super) fn set_python(&self, interpreter: Option<PathBuf>) {
        self.sinks.set_python(interpreter);
    }

    /// What was read lately, and what will be.
    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Has each file opened anew before the next write to it.
    pub(super) fn reopen(&self) {
        self.sinks.reopen();
    }

    /// Reads what a process writes, now that it runs as `pid`.
    pub(super) fn read(
        self: &Arc<Self>,
        intake: Intake,
        process: ProcessId,
        pid: u32,
        events: &mpsc::Sender<Event>,
    ) -> Reading {
        let Intake { watcher, wid, program, stdout, stderr, signs } = intake;
        let signs = Arc::new(signs);
        let (stage, stages) = watch::channel(Stage::Running);
        let (catching_up, caught_up) = mpsc::channel(1);
        let reader = |pipe: Option<Pipe>, stream| {
            let Pipe { end, spec, file } = pipe?;
            let source = Arc::new(Source { process, watcher: watcher.clone(), wid, pid, stream });
            let tap = self.sinks.tap(&spec, &source, &program, file);
            let ear = Ear::new(Arc::clone(&signs));
            let (hub, events) = (self.hub.clone(), events.clone());
            let outlets = Outlets { hub, ear, tap, events, heard: Vec::new() };
            let reader = Reader::new(Arc::clone(self), source, end, outlets);
            let told = |error| tracing::error!("{watcher}: its {} cannot be read: {error}", stream.name());
            reader.map_err(told).ok().map(|reader| reader.run(stages.clone(), catching_up.clone()))
        };
        let readers = [reader(stdout, Stream::Stdout), reader(stderr, Stream::Stderr)];
        let task = tokio::spawn(async {
            futures_util::future::join_all(readers.into_iter().flatten()).await;
        });
        Reading { stage, caught_up, signs, task }
    }
}

/// Readers of a process's pipes.
#[derive(Debug)]
pub(super) struct Reading {
    stage: watch::Sender<Stage>,
    /// Closed when each of them has read what was there at the end of the main process.
    caught_up: mpsc::Receiver<Infallible>,
    signs: Arc<Signs>,
    task: JoinHandle<()>,
}

/// What readers know of the process they read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It may run.
    Running,
    /// Its main process has ended.
    Ended,
    /// Nothing of it is left.
    Gone,
}

impl Reading {
    /// Waits until what the main process wrote is read, now that it has ended. Signs in what others write after it are
    /// none of its life.
    pub(super) async fn catch_up(&mut self) {
        self.stage.send_replace(Stage::Ended);
        let _ = timeout(LINGER, self.caught_up.recv()).await;
        self.signs.forget();
    }

    /// Waits until all that a process wrote is passed on, now that nothing of its tree is left. Somebody who escaped
    /// from the tree and holds a pipe is not waited for.
    pub(super) async fn finish(mut self) {
        if timeout(LINGER, &mut self.task).await.is_err() {
            self.stage.send_replace(Stage::Gone);
            // It is not worth more words than the panic itself.
            let _ = self.task.await;
        }
    }
}

/// Our ends of a process's pipes, made before it starts, and what it is listened to for.
#[derive(Debug)]
pub(super) struct Intake {
    watcher: WatcherName,
    wid: u32,
    program: Arc<ProgramSpec>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    signs: Signs,
}

impl Intake {
    /// What comes through `stdout` and `stderr`. An error names the sign that is no regular expression.
    pub(super) fn new(launch: &Launch, [stdout, stderr]: [Option<Pipe>; 2]) -> Result<Intake, SpawnFailure> {
        let signs = Signs::compile(&launch.signs.log)?;
        let (watcher, program) = (launch.watcher.clone(), Arc::clone(&launch.program));
        Ok(Intake { watcher, wid: launch.wid, program, stdout, stderr, signs })
    }
}

/// Our end of a pipe, and where what comes out of it goes.
#[derive(Debug)]
pub(super) struct Pipe {
    end: OwnedFd,
    spec: StreamSpec,
    /// The file named there, where it could be opened without waiting.
    file: Option<File>,
}

impl Pipe {
    /// The process's end and ours. A file that cannot be opened is a failed start, as no log of it would tell.
    pub(super) fn open(spec: &StreamSpec) -> Result<(OwnedFd, Pipe), SpawnFailure> {
        let file = match &spec.sink {
            Sink::File { path, .. } => file::open(path).map_err(|error| failure(format!("open({path:?})"), &error))?,
            _ => None,
        };
        let (ours, theirs) = io::pipe().map_err(|error| failure("pipe", &error))?;
        Ok((theirs.into(), Pipe { end: ours.into(), spec: spec.clone(), file }))
    }
}
