//! Places where output ends, and the hand that writes there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::tz::TimeZone;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;

use super::datagram::{Datagrams, JOURNAL};
use super::file::LogFile;
use super::passage::{Source, Stream};
use super::python::PythonStream;
use super::standard::Standard;
use crate::host::FOR_EVER;
use crate::host::job::Jobs;
use crate::host::sys::error_text;
use crate::model::names::WatcherName;
use crate::model::spec::{ProgramSpec, Rotation, Sink, SyslogAddress};

/// How many places may hang at once before the others wait for them. The threads are there only while they are needed.
const MOST_THREADS: usize = 256;

/// Where output ends, so that whoever writes to the same place shares its writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    File(PathBuf),
    Stdout,
    Unix(PathBuf),
    Udp(String, u16),
    /// A Python class: as in Circus, one of its objects for each stream of a watcher.
    Python {
        watcher: WatcherName,
        stream: Stream,
        class: String,
        options: BTreeMap<String, String>,
    },
}

impl Place {
    /// Where output of `source` ends; nowhere where it is only kept in memory.
    pub(super) fn of(sink: &Sink, source: &Source) -> Option<Place> {
        Some(match sink {
            Sink::File { path, .. } => Place::File(path.clone()),
            Sink::Stdout | Sink::Fancy { .. } => Place::Stdout,
            Sink::Syslog(syslog) => match &syslog.address {
                SyslogAddress::Unix(path) => Place::Unix(path.clone()),
                SyslogAddress::Udp { host, port } => Place::Udp(host.clone(), *port),
            },
            Sink::Journal { .. } => Place::Unix(JOURNAL.into()),
            Sink::Memory => return None,
            Sink::Python { class, options } => Place::Python {
                watcher: source.watcher.clone(),
                stream: source.stream,
                class: class.clone(),
                options: options.clone(),
            },
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) | Place::Unix(path) => write!(f, "{path:?}"),
            Place::Stdout => Standard::Out.fmt(f),
            Place::Udp(host, port) => write!(f, "udp://{host}:{port}"),
            Place::Python { class, .. } => f.write_str(class),
        }
    }
}

/// Why a place takes nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// What was tried, and with what: `write "/var/log/web"`.
    pub(super) step: String,
    pub(super) error: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, error_text(&self.error))
    }
}

/// Writes to one place with calls that may block.
pub(super) trait Writer: Send {
    /// Writes `bytes`, and moves it past what is written, also where it fails. It may take as long as the system does.
    fn write(&mut self, bytes: &mut &[u8]) -> Result<(), Failure>;

    /// Has a file opened anew before the next write.
    fn reopen(&mut self) {}

    /// Has a file rotated like this from now on.
    fn rotate(&mut self, _rotation: Rotation) {}
}

/// What writes to one place: one write at a time, as it goes along with each.
pub(super) enum Hand {
    Blocking(Box<dyn Writer>),
    Python(Box<PythonStream>),
}

impl Hand {
    /// What writes to `place`. `file` is that place where it is a file that is already open; `around` is the program in
    /// whose surroundings a class is called.
    pub(super) fn new(place: &Place, file: Option<File>, around: &Arc<ProgramSpec>, means: &Means) -> Hand {
        match place.clone() {
            Place::File(path) => Hand::Blocking(Box::new(LogFile::new(path, file, means.zone()))),
            Place::Stdout => Hand::Blocking(Box::new(Standard::Out)),
            Place::Unix(path) => Hand::Blocking(Box::new(Datagrams::unix(path))),
            Place::Udp(host, port) => Hand::Blocking(Box::new(Datagrams::udp(host, port))),
            Place::Python { watcher, stream, class, options } => Hand::Python(Box::new(PythonStream {
                jobs: means.jobs.clone(),
                interpreter: means.python.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                around: Arc::clone(around),
                watcher,
                stream,
                class,
                options,
                helper: None,
            })),
        }
    }

    /// Writes, where it holds up nobody. Gives back the hand, and the work as far as it is done.
    pub(super) fn write(self, mut work: Work, means: &Means) -> JoinHandle<(Hand, Work, Result<(), Failure>)> {
        match self {
            Hand::Blocking(mut writer) => means.threads.run(move || {
                let result = work.pass_to(writer.as_mut());
                (Hand::Blocking(writer), work, result)
            }),
            Hand::Python(mut stream) => tokio::spawn(async move {
                let mut left = &work.bytes[work.at..];
                let result = stream.write(&mut left).await;
                work.at = work.bytes.len() - left.len();
                (Hand::Python(stream), work, result)
            }),
        }
    }

    /// Has a file opened anew before the next write.
    pub(super) fn reopen(&mut self) {
        if let Hand::Blocking(writer) = self {
            writer.reopen();
        }
    }

    /// Has a file rotated like this from now on.
    pub(super) fn rotate(&mut self, rotation: Rotation) {
        if let Hand::Blocking(writer) = self {
            writer.rotate(rotation);
        }
    }

    /// Ends in good order, after the last write.
    pub(super) async fn close(self) {
        if let Hand::Python(stream) = self {
            stream.close().await;
        }
    }
}

/// Bytes on their way, written up to `at`.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
}

impl Work {
    fn pass_to(&mut self, writer: &mut dyn Writer) -> Result<(), Failure> {
        let mut left = &self.bytes[self.at..];
        let result = catch_unwind(AssertUnwindSafe(|| writer.write(&mut left)));
        self.at = self.bytes.len() - left.len();
        result.unwrap_or_else(|_| {
            let error = io::Error::other("a fault of circus-agent's own; see its log");
            Err(Failure { step: "write".into(), error })
        })
    }
}

/// What it takes to write.
#[derive(Debug)]
pub(super) struct Means {
    zone: TimeZone,
    threads: Threads,
    /// Where helpers for Python are started from, and by which interpreter.
    jobs: Jobs,
    python: Mutex<Option<PathBuf>>,
}

impl Means {
    pub(super) fn new(jobs: Jobs) -> io::Result<Means> {
        // Asked for once: later it would be read from a disk, on the loop.
        Ok(Means { zone: TimeZone::system(), threads: Threads::new()?, jobs, python: Mutex::default() })
    }

    /// This machine's time zone.
    pub(super) fn zone(&self) -> TimeZone {
        self.zone.clone()
    }

    /// Has classes in Python called by this interpreter, from the next one on.
    pub(super) fn set_python(&self, interpreter: Option<PathBuf>) {
        *self.python.lock().unwrap_or_else(PoisonError::into_inner) = interpreter;
    }
}

/// Threads of our own for writes that may hang: the runtime's are for what must go on, and are waited for at the end.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Threads {
    fn new() -> io::Result<Threads> {
        let mut threads = runtime::Builder::new_current_thread();
        threads.thread_name("circus-output").max_blocking_threads(MOST_THREADS).thread_keep_alive(FOR_EVER);
        let threads = Threads(Some(threads.build()?));
        threads.run(|| ());
        Ok(threads)
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("there until it is dropped").spawn_blocking(job)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.take().expect("it is dropped once").shutdown_background();
    }
}
