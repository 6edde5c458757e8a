//! What will happen, and when: a queue of true time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use circus_agent::model::attendance::Register;
use circus_agent::model::event::{Ask, Claimed, Event, Exit, LeaseAnswer, ProcessId};
use circus_agent::model::pause::Told;

use crate::network::PutId;
use crate::store::Data;

/// True time, in nanoseconds.
pub(crate) type Instant = u64;

pub(crate) const MS: Instant = 1_000_000;
pub(crate) const SEC: Instant = 1_000 * MS;

/// One thing that happens.
#[derive(Debug)]
pub(crate) enum What {
    /// On a host, once it is not frozen.
    On(usize, OnHost),
    /// Questions of a host reach a server, in one message.
    Arrive {
        host: usize,
        server: usize,
        puts: Vec<(PutId, Ask)>,
    },
    /// What a node says of itself reaches a server; or that it takes it back.
    Said {
        word: usize,
        seat: usize,
        server: usize,
        taken_back: bool,
    },
    /// A claim of a slot reaches a server.
    ClaimArrives {
        asked: usize,
        seat: usize,
        server: usize,
    },
    /// A replica has it, where none has left its server since.
    ClaimAcknowledged {
        asked: usize,
        seat: usize,
        server: usize,
        links: u64,
    },
    /// Questions of a host that got lost arrive after all.
    ArriveLate(usize),
    /// A question is put once more, to whoever is master now.
    AskAnew(usize),
    /// Its replicas have what a server answered, where none has left it since.
    Acknowledged {
        host: usize,
        server: usize,
        links: u64,
        answers: Vec<(PutId, LeaseAnswer)>,
    },
    /// A frozen host runs on.
    HostThaws(usize),
    /// What the witness excused at a thaw is over.
    Look(usize),
    /// So many of a legion's members are cut off that the others are no quorum; and they are back.
    MostAreAway,
    MostAreBack,
    /// A host is cut off from all servers.
    Cut(usize),
    /// It reaches all of them again, and quickly.
    Heal(usize),
    /// It reaches this server again.
    Mend {
        host: usize,
        server: usize,
    },
    /// A server that was away is back, with this data.
    ServerBack {
        server: usize,
        data: Data,
    },
    /// A replica takes its master's place.
    Promote {
        group: usize,
    },
    /// A master that went on alone learns that it is none any more.
    Demote {
        server: usize,
    },
    /// Somebody pauses a lease, or resumes one.
    SomebodyPauses,
    /// A wish to pause or to resume reaches a server.
    WishArrives {
        asked: usize,
        seat: usize,
        server: usize,
    },
    /// A replica has what came of it, where none has left its server since.
    WishAcknowledged {
        asked: usize,
        seat: usize,
        server: usize,
        links: u64,
        answer: Result<Told, String>,
    },
    /// Something goes wrong.
    Fault,
}

/// What happens on a host. `life` tells what is meant for an agent that has gone.
#[derive(Debug)]
pub(crate) enum OnHost {
    /// The agent starts.
    Boot,
    /// The stopped agent goes on.
    Thaw,
    /// Its deadline has come.
    Wake { life: u64, due: Instant },
    /// Something is reported to it.
    Tell { life: u64, event: Event },
    /// The adapter sends what has come together.
    Send { server: usize },
    /// A server's answer is back.
    Return { put: PutId, answer: LeaseAnswer },
    /// The adapter's patience with a server ends.
    GiveUp { put: PutId },
    /// A server's answer to a word is back.
    Heard { word: usize, seat: usize, answer: Result<Register, String> },
    /// The adapter counts the answers to a word.
    Count { word: usize },
    /// A server's answer to a claim is back.
    ClaimAnswered { asked: usize, seat: usize, answer: Claimed },
    /// The adapter's patience with a claim ends.
    ClaimEnds { asked: usize },
    /// A server's answer to a wish to pause or to resume is back.
    WishAnswered { asked: usize, seat: usize, answer: Result<Told, String> },
    /// The adapter's patience with a wish ends.
    WishEnds { asked: usize },
    /// It hears which server is a group's master now.
    Learn { group: usize },
    /// A guard's timer rings.
    Deadline { id: ProcessId, serial: u64 },
    /// A child's main process ends.
    MainEnds { id: ProcessId, exit: Exit },
    /// A run is over, where its agent still lives: another's processes have the same numbers.
    RunEnds { life: u64, id: ProcessId, exit: Exit },
    /// The last of a child's tree ends.
    TreeGone { id: ProcessId },
}

/// What is still to come, in order; what is due at one time happens as it was planned.
#[derive(Default)]
pub(crate) struct Queue {
    due: BinaryHeap<Reverse<Due>>,
    planned: u64,
}

struct Due {
    at: Instant,
    serial: u64,
    what: What,
}

impl Queue {
    /// Plans something.
    pub(crate) fn push(&mut self, at: Instant, what: What) {
        self.planned += 1;
        self.due.push(Reverse(Due { at, serial: self.planned, what }));
    }

    /// What comes next, where it comes by `end`.
    pub(crate) fn pop_until(&mut self, end: Instant) -> Option<(Instant, What)> {
        self.due.peek().filter(|Reverse(due)| due.at <= end)?;
        self.due.pop().map(|Reverse(due)| (due.at, due.what))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}
