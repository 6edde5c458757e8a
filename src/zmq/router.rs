//! A ROUTER: answers who ask.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::MAX_PENDING;
use super::connection::{Connection, End, FAREWELL};
use super::listener::Listener;
use super::zmtp::{self, Kind, Said};

/// How many bytes of answers wait for a client to read before no more of its requests are taken.
const MAX_UNREAD: usize = 1 << 20;

/// One request of one client.
#[derive(Debug)]
pub struct Question {
    /// The request: a frame, JSON if all is well.
    pub text: Vec<u8>,
    /// Who asks: `tcp://127.0.0.1:50122`, or `circusctl (uid 0)` where the kernel knows.
    pub from: String,
    /// Takes the answer. Dropped unused, the client gets none.
    pub answer: oneshot::Sender<String>,
}

/// Hands every client's requests to `questions`, until their receiver is dropped.
///
/// After that nothing is read any more, but answers already given are still written, for a second at most.
pub async fn serve(listener: Listener, questions: mpsc::Sender<Question>) {
    let door = listener.name().to_owned();
    let over = questions.clone();
    let converse = |connection, from| converse(connection, door.clone(), from, questions.clone());
    listener.serve(Kind::Router, over.closed(), converse).await;
}

async fn converse(
    mut peer: Connection,
    door: String,
    from: String,
    questions: mpsc::Sender<Question>,
) -> Result<(), End> {
    peer.meet().await?;
    let mut asked = FuturesUnordered::new();
    let mut next: Option<Vec<u8>> = None;
    let mut is_odd = false;
    loop {
        while next.is_none() && asked.len() < MAX_PENDING && peer.unread() < MAX_UNREAD {
            match peer.hear()? {
                None => break,
                Some(Said::Message(mut frames)) if frames.len() == 1 => next = frames.pop(),
                // A REQ's, for one: its requests have an empty frame before them. circusd answers none of those either.
                Some(Said::Message(frames)) => {
                    if !std::mem::replace(&mut is_odd, true) {
                        let count = frames.len();
                        tracing::warn!(
                            "{door}: got unexpected message of {count} frames from {from}: one is a request"
                        );
                    }
                }
                Some(Said::Ping(context)) => peer.say(&zmtp::pong(&context))?,
                Some(Said::Ready | Said::Subscribe(_) | Said::Cancel(_)) => {}
            }
        }
        let reading = next.is_none() && asked.len() < MAX_PENDING && peer.unread() < MAX_UNREAD;
        tokio::select! {
            moved = peer.go_on(reading) => moved?,
            permit = questions.reserve(), if next.is_some() => {
                if let (Ok(permit), Some(text)) = (permit, next.take()) {
                    let (answer, reply) = oneshot::channel();
                    permit.send(Question { text, from: from.clone(), answer });
                    asked.push(reply);
                }
            }
            // A dropped sender is a cast: there is nothing to say.
            Some(answer) = asked.next(), if !asked.is_empty() => {
                if let Ok(text) = answer {
                    peer.say(&zmtp::message(&[text.as_bytes()]))?;
                }
            }
            () = questions.closed() => break,
        }
    }
    // The agent has ended: what it has still answered, `quit` for one, is told.
    let last = async {
        while let Some(answer) = asked.next().await {
            if let Ok(text) = answer {
                peer.say(&zmtp::message(&[text.as_bytes()]))?;
            }
        }
        Ok::<(), End>(())
    };
    timeout(FAREWELL, last).await.unwrap_or(Ok(()))?;
    peer.part().await;
    Ok(())
}
