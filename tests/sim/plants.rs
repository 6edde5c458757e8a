//! Defects that the checks must see.

use circus_agent::model::event::{AskKind, Event, LeaseAnswer};
use circus_agent::model::time::Time;

/// A defect of the world that the checks must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    /// None.
    Nothing,
    /// Validity counts from the answer, not from the question.
    CountFromAnswer,
    /// The tree is reported gone, and so the lease released, when only its main process is.
    ReleaseBeforeGone,
    /// An absent lease key is taken for permission.
    AbsentIsPermission,
    /// The guard does not know the deadline.
    NoDeadline,
    /// That a changed file's sockets cannot be opened is never told.
    LostFailure,
}

/// Takes an absent key for permission, as every other tool does.
pub(crate) fn plant_absence(script: &str) -> String {
    script.replace("if not holder then\n  if not state then", "if false then\n  if not state then")
}

/// Rewrites what reaches the model where the plant asks for it.
pub(crate) fn planted(plant: Plant, event: Event, now: Time) -> Event {
    match (plant, event) {
        (Plant::CountFromAnswer, Event::Lease { watcher, mut ask, answer: answer @ LeaseAnswer::Granted { .. } })
            if !matches!(ask.kind, AskKind::Release { .. }) =>
        {
            ask.sent = now;
            Event::Lease { watcher, ask, answer }
        }
        (_, event) => event,
    }
}
