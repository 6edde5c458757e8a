//! Connections cut off on purpose, for a while: what a drill does to its own agent.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What is said of a connection that is cut off.
const REASON: &str = "cut off by a drill";

/// Whether connections are cut off, and until when; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Cut(watch::Sender<Option<Instant>>);

impl Cut {
    /// They are not.
    pub(super) fn none() -> Cut {
        Cut(watch::Sender::new(None))
    }

    /// Cuts them off for so long from now.
    pub(super) fn last(&self, time: Duration) {
        self.0.send_replace(Some(Instant::now() + time));
    }

    /// # Errors
    /// They are cut off now.
    pub(super) fn check(&self) -> Result<(), String> {
        if is_now(&self.0.borrow()) { Err(REASON.into()) } else { Ok(()) }
    }

    /// Waits until they are cut off, and says so.
    pub(super) async fn fell(&self) -> String {
        // Its sender is ours, so the wait ends by a cut only.
        let _ = self.0.subscribe().wait_for(is_now).await;
        REASON.into()
    }
}

fn is_now(until: &Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}
