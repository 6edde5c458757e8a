//! The threads that spawn.
//!
//! A spawn waits until the program runs, and on a hung file system that is long: the loop must not wait with it. And
//! the kernel ends a child with `PR_SET_PDEATHSIG` when the *thread* that spawned it ends, so these threads never do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{io, mem};

use tokio::sync::oneshot;
use tokio::time::sleep;

/// How long a job waits for its turn before it calls for another thread.
const PATIENCE: Duration = Duration::from_millis(500);

/// No more than this many programs may hang at once before spawning stops altogether.
const MOST_THREADS: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

/// A queue of spawns and the threads that carry them out: one, and more only while programs hang.
#[derive(Debug)]
pub(super) struct Spawner {
    /// Holds at most one job for each process that is starting.
    queue: Sender<Job>,
    shared: Arc<Shared>,
    threads: AtomicUsize,
    /// When a thread was last added: many jobs lose their patience at once, and one thread may be enough for all.
    added: Mutex<Instant>,
}

#[derive(Debug)]
struct Shared {
    jobs: Mutex<Receiver<Job>>,
    /// Jobs that no thread has taken up yet.
    waiting: AtomicUsize,
}

impl Spawner {
    pub(super) fn new() -> io::Result<Spawner> {
        let (queue, jobs) = channel();
        let shared = Arc::new(Shared { jobs: Mutex::new(jobs), waiting: AtomicUsize::new(0) });
        let spawner = Spawner { queue, shared, threads: AtomicUsize::new(0), added: Mutex::new(Instant::now()) };
        spawner.add_thread()?;
        Ok(spawner)
    }

    /// Has `job` done on a thread that never ends. Nothing comes back from a job that panicked.
    pub(super) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, mut result) = oneshot::channel();
        let job = move || {
            let _ = done.send(job());
        };
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.send(Box::new(job)).expect("the threads never end");
        loop {
            tokio::select! {
                result = &mut result => return result.ok(),
                () = sleep(PATIENCE) => self.help(),
            }
        }
    }

    /// Adds a thread where jobs wait for one, because those there are hang.
    fn help(&self) {
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        if added.elapsed() < PATIENCE {
            return;
        }
        if self.shared.waiting.load(Ordering::Relaxed) > 0 && self.threads.load(Ordering::Relaxed) < MOST_THREADS {
            *added = Instant::now();
            match self.add_thread() {
                Ok(()) => tracing::warn!("starting programs takes long, is a file system hanging? Adding a thread"),
                Err(error) => tracing::warn!("starting programs takes long, and no thread can be added: {error}"),
            }
        }
    }

    fn add_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name("circus-spawn".into()).spawn(move || shared.work())?;
        self.threads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    fn work(&self) -> ! {
        loop {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else {
                // Nobody will ask again, but children of this thread may still run.
                thread::park();
                continue;
            };
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            mem::drop(catch_unwind(AssertUnwindSafe(job)));
        }
    }
}
