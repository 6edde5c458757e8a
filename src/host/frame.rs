//! What agent and guard tell each other over their socket: a length of four bytes, then as much JSON.
//!
//! Both ends are the same binary, so there is no version, and whatever cannot be read is a fault.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spawn::Plan;
use crate::model::event::{Deadline, Exit, Reach, SpawnFailure};
use crate::model::time::Time;

/// From the agent to the guard.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start this; the first frame, and only it. So many descriptors of the guard's are for the program
    /// ([`PASSED_ON`](super::guard::PASSED_ON)). The one behind them is the program's cgroup, where it has one; and then,
    /// where it is a lord process, what hangs up when its followers are gone.
    Launch { plan: Box<Plan>, passed_on: usize, in_cgroup: bool, is_lord: bool, stop_signal: i32, until: Until },
    /// Let it run until then instead.
    Deadline(Until),
    /// Send whom `reach` means a signal.
    Signal {
        signal: i32,
        #[serde(with = "ReachFrame")]
        reach: Reach,
    },
    /// Kill the whole tree.
    Kill,
}

/// From the guard to the agent. There is no word for "gone": a guard ends when nothing is left, and not before.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The program runs.
    Spawned { pid: u32 },
    /// It never will.
    SpawnFailed { stage: String, error: String },
    /// The main process ended by itself.
    Code(i32),
    /// The main process was ended by a signal.
    Signal(i32),
    /// These will not die.
    Stuck(Vec<u32>),
    /// Since then nothing is left: nanoseconds of the machine's one clock.
    Empty { at: u64 },
}

/// A [`Deadline`] as it travels: both are nanoseconds of one machine's one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Until {
    stop: u64,
    kill: u64,
}

impl From<Deadline> for Until {
    fn from(deadline: Deadline) -> Until {
        Until { stop: deadline.stop.as_nanos(), kill: deadline.kill.as_nanos() }
    }
}

impl From<Until> for Deadline {
    fn from(until: Until) -> Deadline {
        Deadline { stop: Time::from_nanos(until.stop), kill: Time::from_nanos(until.kill) }
    }
}

/// [`Reach`] as it travels.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Reach")]
enum ReachFrame {
    Main,
    Children,
    MainAndChildren,
    Tree,
    Child(u32),
}

impl From<Exit> for Report {
    fn from(exit: Exit) -> Report {
        match exit {
            Exit::Code(code) => Report::Code(code),
            Exit::Signal(signal) => Report::Signal(signal),
            // Only somebody else's reaping loses a status, and a guard has nobody else.
            Exit::Lost => Report::Signal(libc::SIGKILL),
        }
    }
}

impl From<SpawnFailure> for Report {
    fn from(SpawnFailure { stage, error }: SpawnFailure) -> Report {
        Report::SpawnFailed { stage, error }
    }
}

/// What was received is no frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Garbage;

/// No frame is longer: the kernel takes a few megabytes of arguments and environment, written here as numbers.
const LONGEST: usize = 64 << 20;

/// A frame's bytes.
pub(super) fn encode(frame: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(frame).expect("frames hold nothing that JSON cannot");
    let length = u32::try_from(json.len()).expect("frames are shorter than 4 GB");
    [&length.to_be_bytes(), json.as_slice()].concat()
}

/// Bytes on their way to being frames.
#[derive(Debug, Default)]
pub(super) struct Inbox(Vec<u8>);

impl Inbox {
    /// Adds what has arrived.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes out the first frame that is complete.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Garbage> {
        let Some((&length, rest)) = self.0.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(Garbage);
        }
        let Some(json) = rest.get(..length) else { return Ok(None) };
        let frame = serde_json::from_slice(json).map_err(|_| Garbage)?;
        self.0.drain(..size_of::<u32>() + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_however_they_are_cut() {
        let signal = Order::Signal { signal: 15, reach: Reach::Child(7) };
        let frames = [signal, Order::Deadline(Until { stop: 1, kill: u64::MAX }), Order::Kill];
        let bytes: Vec<u8> = frames.iter().flat_map(encode).collect();
        for cut in 0..=bytes.len() {
            let mut inbox = Inbox::default();
            let mut read = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                inbox.extend(part);
                while let Some(frame) = inbox.next::<Order>().unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames);
        }
    }

    #[test]
    fn what_is_no_frame_is_garbage() {
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02{]", b"\0\0\0\0"] {
            let mut inbox = Inbox::default();
            inbox.extend(bytes);
            assert_eq!(inbox.next::<Order>(), Err(Garbage), "{bytes:?}");
        }
    }
}
