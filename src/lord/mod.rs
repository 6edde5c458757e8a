//! The lord process: does what is to be done when this node comes to lead a legion, and when it ceases to.
//!
//! The agent runs its own program under the name [`NAME`], as the one process of a legion's watcher, and so under a
//! guard. An agent that is frozen, killed or cut off cannot take an address off its network card; this process can, and
//! its guard tells it when.
//!
//! ```text
//! (start) ── on_lord's actions ──▶ READY=1 ── waits ──▶ SIGTERM ── on_unlord's actions ──▶ (end, exit 0)
//!                  │      SIGTERM: the one under way is ended        ▲
//!                  ├─────────────────────────────────────────────────┤
//!                  └─ one failed, and that matters ──────────────────┘ (exit 1)
//! ```
//!
//! The same program does the actions of a legion's other events, once, for a process on the side.
//!
//! # Invariants
//!
//! - What `on_lord` has begun `on_unlord` ends: it is done exactly once, all of it, in order, whatever fails.
//! - Actions never overlap: the next begins when the process group of the one before has ended or was killed.
//! - Each ends within its time. Each is a process of its own, so that a name server that hangs can be killed too.
//! - No signal but SIGTERM, SIGINT, SIGKILL and SIGSTOP reaches it; what came before it listened is still there.
//! - Nobody who does not read its output holds it up.
//! - One thread, and no runtime: there is nothing here that waits for two things but one `poll`.

mod action;
mod orders;
mod voice;

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use self::action::{End, Hands};
use self::orders::{Orders, Task};
use self::voice::Voice;
use crate::model::spec::{LegionAction, LegionEvent};

/// The name (`argv[0]`) under which the agent's program is a lord process.
pub const NAME: &str = "circus-lord";

/// All went well, or what did not has been told.
const OK: u8 = 0;
/// An action failed that must not.
const FAILED: u8 = 1;
/// Started with words that make no sense.
const USAGE: u8 = 64;

/// Does what the words after the program's name say (see [`Orders`]): the exit code.
pub fn main(words: impl IntoIterator<Item = std::ffi::OsString>) -> u8 {
    let words: Vec<String> = words.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let done = Orders::parse(&words).map_err(|why| (USAGE, why)).and_then(|orders| {
        let legion = orders.legion.clone();
        carry_out(orders).map_err(|error| (FAILED, format!("{legion}: {error}")))
    });
    done.unwrap_or_else(|(code, why)| {
        Voice::aside().say(&format!("{NAME}: {why}"));
        code
    })
}

fn carry_out(orders: Orders) -> io::Result<u8> {
    // Before all else: a signal that comes from now on waits until it is asked for.
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let _ = prctl::set_name(c"circus-lord");
    let Orders { legion, timeout, or_fail, task } = orders;
    let voice = match &task {
        Task::Reign { .. } => Voice::plain(),
        // The stdout of a process on the side is for its answer, and only what is on stderr is told.
        Task::Once { .. } => Voice::aside(),
    };
    let hands = Hands::new(legion, timeout, voice)?;
    match task {
        Task::Reign { lord, unlord } => Ok(reign(hands, &lord, &unlord, or_fail)),
        Task::Once { event, actions } => Ok(once(hands, event, &actions, or_fail)),
    }
}

/// Leads until told to stop.
fn reign(mut hands: Hands, lord: &[LegionAction], unlord: &[LegionAction], or_fail: bool) -> u8 {
    let mut code = OK;
    for action in lord {
        match hands.carry_out(LegionEvent::Lord, action) {
            End::Failed if or_fail => {
                code = FAILED;
                break;
            }
            End::Well | End::Failed => {}
            End::CalledOff => break,
        }
    }
    if code == OK && !hands.is_called_off() {
        if let Err(error) = say_ready() {
            hands.say(LegionEvent::Lord, &format!("the agent could not be told: {error}"));
        }
        hands.wait_for_the_end();
    }
    hands.finish();
    for action in unlord {
        hands.carry_out(LegionEvent::Unlord, action);
    }
    code
}

/// Does what one event asks for.
fn once(mut hands: Hands, event: LegionEvent, actions: &[LegionAction], or_fail: bool) -> u8 {
    for action in actions {
        match hands.carry_out(event, action) {
            End::Failed if or_fail => return FAILED,
            End::Well | End::Failed => {}
            End::CalledOff => break,
        }
    }
    OK
}

/// Says over `NOTIFY_SOCKET` that this node leads; to nobody where there is none.
fn say_ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    // The agent may be frozen, and its socket full.
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
    socket.send_to(b"READY=1", path).map(drop)
}
