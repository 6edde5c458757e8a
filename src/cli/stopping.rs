//! Progress of what waits until watchers have stopped: `drain --waiting`, and `stop --waiting` on several nodes.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::progress::Progress;
use super::whom::Global;
use crate::client::follow::Stream;
use crate::client::{self, Call, ClientError, Endpoint};
use crate::model::command::{Command, Patience, Target};
use crate::view::Stopping;
use crate::wire::{Follow, Nodes, Subject};

/// How long it may take to see what there is to stop. Later it stops without being shown.
const PATIENCE: Duration = Duration::from_secs(5);
/// When it is looked once more: a stream of several nodes begins a moment after it was asked for.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// How long it is listened on when the reply has come: news of the last that stopped may be later than that, and a
/// singleton starts elsewhere when it has stopped here.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Waits for what was `asked`, which begins only here, and shows how far it is.
///
/// # Errors
/// Those of what was asked: that nothing can be shown is none.
pub(super) async fn watched<T>(
    global: &Global,
    endpoint: &Endpoint,
    call: &Call,
    asked: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let progress = Progress::new(global);
    if !(progress.is_shown() && is_worth_it(call)) {
        return asked.await;
    }
    let Ok(Some(mut watch)) = timeout(PATIENCE, Watch::begin(endpoint, call)).await else { return asked.await };
    watch.show(&progress, "");
    let reply = tokio::select! {
        reply = asked => reply?,
        never = watch.follow(&progress) => match never {},
        never = progress.ticking() => match never {},
    };
    let _ = timeout(AFTERWARDS, watch.hear_out(&progress)).await;
    Ok(reply)
}

fn is_worth_it(call: &Call) -> bool {
    match &call.command {
        Command::Drain { patience: Patience::Settled } => true,
        Command::Stop { patience: Patience::Settled, .. } => match &call.target {
            Target::All => true,
            Target::Nodes(selector) => !selector.is_one(),
            Target::Here | Target::Holder(_) | Target::Any(..) => false,
        },
        _ => false,
    }
}

/// What is seen of the nodes meanwhile.
struct Watch<'a> {
    endpoint: &'a Endpoint,
    /// Asks those that stop how they are.
    look: Call,
    events: Stream,
    stopping: Stopping,
}

impl<'a> Watch<'a> {
    /// Listens first, and looks then, so that nothing is missed in between.
    async fn begin(endpoint: &'a Endpoint, call: &Call) -> Option<Watch<'a>> {
        let follow = |nodes| Follow { nodes, ..Follow::all(Subject::Events) };
        let open = async |nodes| Stream::open(endpoint, &call.cluster, &follow(nodes), PATIENCE).await;
        let events = match open(Nodes::All).await {
            Ok(events) => events,
            // Without a cluster there is this node alone.
            Err(ClientError::Refused(_)) => open(Nodes::Here).await.ok()?,
            Err(_) => return None,
        };
        let look = Call { command: Command::Status { watcher: None }, patience: PATIENCE, ..call.clone() };
        let reply = client::ask(endpoint, &look).await.ok()?;
        let stopping = Stopping::of(&reply, |watcher| match &call.command {
            Command::Stop { pattern: Some(pattern), .. } => pattern.fits(watcher),
            _ => true,
        });
        Some(Watch { endpoint, look, events, stopping })
    }

    fn show(&self, progress: &Progress, change: &str) {
        let (all, left) = (self.stopping.all(), self.stopping.left());
        progress.change(change, all - left, all, &self.stopping.now());
    }

    /// Shows what happens, until nobody wants to know any more.
    async fn follow(&mut self, progress: &Progress) -> std::convert::Infallible {
        let second_look = sleep(SECOND_LOOK);
        tokio::pin!(second_look);
        let mut looked = false;
        loop {
            let lines = tokio::select! {
                () = &mut second_look, if !looked => {
                    looked = true;
                    let reply = client::ask(self.endpoint, &self.look).await;
                    reply.map(|reply| self.stopping.look(&reply)).unwrap_or_default()
                }
                event = self.events.next() => match event {
                    Ok(Some(event)) => self.stopping.hear(&event).into_iter().collect(),
                    // It stops without being shown.
                    Ok(None) | Err(_) => std::future::pending().await,
                },
            };
            lines.iter().for_each(|line| self.show(progress, line));
        }
    }

    /// Shows what nobody has heard of yet.
    async fn hear_out(&mut self, progress: &Progress) {
        while (self.stopping.left() > 0 || self.stopping.is_moving())
            && let Ok(Some(event)) = self.events.next().await
        {
            if let Some(line) = self.stopping.hear(&event) {
                self.show(progress, &line);
            }
        }
    }
}
