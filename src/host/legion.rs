//! What holds the processes of a legion together when the agent is gone: nobody undoes what the lord has set up while a
//! follower still uses it.
//!
//! A lord process comes with a pipe. Its guard has the end that is read, and the guards of its followers, like the agent,
//! have the one that is written to. Nothing is ever written: it hangs up when the last of those who could is gone, and
//! each of them stays for as long as anything of its child's tree is there.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::model::event::LegionPart;
use crate::model::names::WatcherName;

/// The pipes of the legions that have had a lord process here; of each the last one's.
#[derive(Debug, Default)]
pub(super) struct Legions(Mutex<HashMap<WatcherName, OwnedFd>>);

impl Legions {
    /// The end that the guard of a process is to keep which has this part: of a lord process called `name` a new one.
    pub(super) fn end_for(&self, part: &LegionPart, name: &WatcherName) -> io::Result<OwnedFd> {
        let mut legions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match part {
            LegionPart::Lord => {
                let (hangs_up, holds) = pipe2(OFlag::O_CLOEXEC)?;
                legions.insert(name.clone(), holds);
                Ok(hangs_up)
            }
            LegionPart::Follower { of } => match legions.get(of) {
                Some(holds) => holds.try_clone(),
                None => Err(io::Error::other(format!("nobody has led {of} here"))),
            },
        }
    }
}
