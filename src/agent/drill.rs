//! Drills: a bad thing that is done to this very agent, and a witness that outlives it.
//!
//! The agent cannot measure when its own child ended: it is dead then, or frozen, or cut off from where that is kept. So
//! it starts its own program under the name [`NAME`], which holds the child, does the bad thing, sees the end, and keeps
//! it in the history of the lease:
//!
//! ```text
//! agent                       witness                                      Redis
//!   ├── order (a pipe) ────────▶ holds child, guard and agent
//!   │◀───────── "watching" ──────┤◀──────── connects ───────────────────────▶│
//!   │ replies to who asked       │ a moment later:
//!   │◀── SIGKILL, SIGSTOP, or "strike", and the agent cuts itself off        │
//!   ✗                            │ sees that nothing is left of the child    │
//!                                ├──────── `ended`, drilled ────────────────▶│
//!   ◀─────────────────── SIGCONT ┘ at the end of a freeze
//! ```
//!
//! # Invariants
//!
//! - Nothing is done before the witness watches and can reach Redis.
//! - What the witness tells is the end of the guard, which is there for as long as anything of the child's tree is.
//! - It tells of ends only for as long as the agent cannot: afterwards the agent measures its own.
//! - Secrets come through the pipe, never as an argument or in the environment.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{self, ChildStdout};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::cluster::client::HistoryKeeper;
use crate::host::witness::{Watched, apart, stand_apart};
use crate::model::command::RequestId;
use crate::model::drill::{Drill, Kind};
use crate::model::event::Event;
use crate::model::history::{Cause, Ending, Fact, What};
use crate::model::names::{ClusterName, LeaseKey, LeaseName, NodeName, WatcherName};
use crate::model::spec::{RedisSpec, Secret, TlsFiles};

/// The name (`argv[0]`) under which the agent's program is a drill's witness.
pub const NAME: &str = "circus-witness";

/// What the witness says when it watches.
const WATCHING: &str = "watching";
/// What it says when the agent is to cut itself off.
const STRIKE: &str = "strike";

/// Between the reply to who asked and the bad thing: a dead agent gets no reply out.
const LEAD: Duration = Duration::from_millis(500);
/// How long the witness may take to reach Redis.
const REACHING: Duration = Duration::from_secs(3);
/// How long it waits for the end of a killed agent's child: a guard needs milliseconds, unless the kernel holds the child.
const LONGEST_END: Duration = Duration::from_secs(60);
/// How long it goes on trying to keep what it saw.
const KEEPING: Duration = Duration::from_secs(60);

/// What the witness is told.
#[derive(Serialize, Deserialize)]
struct Order {
    agent: u32,
    pid: u32,
    cluster: String,
    node: String,
    watcher: String,
    lease_key: Option<String>,
    token: u64,
    kind: String,
    lasting: Option<Duration>,
    by: Option<String>,
    redis: Access,
}

/// A [`RedisSpec`].
#[derive(Serialize, Deserialize)]
struct Access {
    url: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    tls: [Option<PathBuf>; 3],
    sentinel_username: Option<String>,
    sentinel_password_file: Option<PathBuf>,
}

impl Access {
    fn of(spec: &RedisSpec) -> Access {
        let RedisSpec { url, username, password_file, tls, sentinel_username, sentinel_password_file, .. } =
            spec.clone();
        let (url, tls) = (url.reveal().to_owned(), [tls.ca, tls.cert, tls.key]);
        Access { url, username, password_file, tls, sentinel_username, sentinel_password_file }
    }

    fn spec(self) -> RedisSpec {
        let Access { url, username, password_file, tls: [ca, cert, key], sentinel_username, sentinel_password_file } =
            self;
        RedisSpec {
            url: Secret::new(url),
            username,
            password_file,
            tls: TlsFiles { ca, cert, key },
            sentinel_username,
            sentinel_password_file,
            // It takes no lease, and sends no message.
            require_replica_ack: 0,
            secret_file: None,
        }
    }
}

/// Has `drill` begin, on a thread of its own; ends in [`Event::DrillWatched`]. `cut` cuts this agent off from Redis.
pub(super) fn begin(
    request: RequestId,
    drill: Drill,
    node: &NodeName,
    redis: &RedisSpec,
    cut: impl FnOnce(Duration) + Send + 'static,
    events: mpsc::Sender<Event>,
) {
    let order = Order {
        agent: process::id(),
        pid: drill.pid,
        cluster: drill.lease.cluster.to_string(),
        node: node.to_string(),
        watcher: drill.lease.watcher.to_string(),
        lease_key: drill.lease.key.as_ref().map(ToString::to_string),
        token: drill.token,
        kind: drill.kind.word().into(),
        lasting: drill.lasting,
        by: drill.by,
        redis: Access::of(redis),
    };
    let told = events.clone();
    // No thread of the runtime: an agent that ends does not wait for a drill.
    let thread = std::thread::Builder::new().name("drill".into()).spawn(move || {
        let tell = |result| drop(told.blocking_send(Event::DrillWatched { request, result }));
        match start(&order) {
            Ok((mut witness, said)) => {
                attend(said, || cut(order.lasting.unwrap_or_default()), tell);
                // It has closed its output, so it is ending.
                let _ = witness.wait();
            }
            Err(error) => tell(Err(format!("no witness could be started: {error}"))),
        }
    });
    if let Err(error) = thread {
        let result = Err(format!("no thread for the drill: {error}"));
        tokio::spawn(async move { events.send(Event::DrillWatched { request, result }).await });
    }
}

fn start(order: &Order) -> io::Result<(process::Child, ChildStdout)> {
    let mut witness = apart(NAME).spawn()?;
    let (Some(mut stdin), Some(stdout)) = (witness.stdin.take(), witness.stdout.take()) else {
        return Err(io::Error::other("it has no pipes"));
    };
    // Closed by its drop, which ends the order.
    stdin.write_all(serde_json::to_string(order).map_err(io::Error::other)?.as_bytes())?;
    Ok((witness, stdout))
}

/// Hears the witness to its end.
fn attend(said: impl Read, cut: impl FnOnce(), tell: impl Fn(Result<(), String>)) {
    let (mut cut, mut heard) = (Some(cut), false);
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        match line.as_str() {
            STRIKE => {
                if let Some(cut) = cut.take() {
                    cut();
                }
            }
            _ if heard => {}
            WATCHING => {
                heard = true;
                tell(Ok(()));
            }
            why => {
                heard = true;
                tell(Err(why.to_owned()));
            }
        }
    }
    if !heard {
        tell(Err("its witness ended before it watched".into()));
    }
}

// ---- the witness ----

/// Bears witness of one drill; then the process ends.
pub fn main() -> ! {
    if let Err(why) = witness() {
        say(&why);
    }
    process::exit(0)
}

/// Tells the agent, where it still listens.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn witness() -> Result<(), String> {
    stand_apart().map_err(|error| error.to_string())?;
    let mut order = String::new();
    io::stdin().read_to_string(&mut order).map_err(|error| error.to_string())?;
    let order: Order = serde_json::from_str(&order).map_err(|error| format!("its witness got no order: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("no event loop: {error}"))?.block_on(bear_witness(order))
}

async fn bear_witness(order: Order) -> Result<(), String> {
    let Order { agent, pid, cluster, node, watcher, lease_key, token, kind, lasting, by, redis } = order;
    let kind = Kind::parse(&kind).ok_or("no such drill")?;
    let node = NodeName::parse(&node).map_err(|bad| bad.to_string())?;
    let lease = LeaseName {
        cluster: ClusterName::parse(&cluster).map_err(|bad| bad.to_string())?,
        watcher: WatcherName::parse(&watcher).map_err(|bad| bad.to_string())?,
        key: lease_key.and_then(|key| LeaseKey::parse(&key).ok()),
    };
    let watched = Watched::hold(agent, pid).map_err(|error| error.to_string())?;
    let mut keeper = HistoryKeeper::connect(&redis.spec(), &node, REACHING).await?;
    say(WATCHING);
    if timeout(LEAD, watched.gone()).await.is_ok() {
        // It ended by itself. What there is to tell its agent tells.
        return Ok(());
    }
    match kind {
        Kind::Kill => drop(watched.signal_agent(libc::SIGKILL)),
        Kind::Freeze => drop(watched.signal_agent(libc::SIGSTOP)),
        Kind::RedisLoss => say(STRIKE),
    }
    let see = async {
        if let Ok(at) = timeout(lasting.unwrap_or(LONGEST_END), watched.gone()).await {
            let ending = Ending { cause: Cause::Drilled, detail: Some(kind.word().into()), by };
            keeper.record(&lease, &Fact { token, at, what: What::Ended(ending) });
        }
    };
    let thaw = async {
        if let (Kind::Freeze, Some(lasting)) = (kind, lasting) {
            sleep(lasting).await;
            let _ = watched.signal_agent(libc::SIGCONT);
        }
    };
    tokio::join!(see, thaw);
    keeper.close(KEEPING).await;
    Ok(())
}
