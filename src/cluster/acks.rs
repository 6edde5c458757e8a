//! Calls that count only when replicas have what they wrote (`require_replica_ack`).
//!
//! Invariants:
//! - `WAIT` blocks its connection until the replicas have all that was written on it, or until its time is over. So
//!   these calls have a line of their own, and nothing else waits on it.
//! - One `WAIT` follows a whole batch, in the same round trip; what comes meanwhile makes the next batch. A dead
//!   replica thus costs each question one `WAIT`'s time, and not one for each question before it.

use std::time::Duration;

use redis::{RedisError, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::line::{Line, Patience, Trouble};
use super::link::{By, Way, command, is_unknown};
use super::reason;
use super::scripts::Call;
use crate::model::event::LeaseAnswer;

/// How many calls are put at once: few enough that the server is nobody's for no longer than a moment.
const BATCH: usize = 64;
/// How many may wait for the batch before theirs; more wait their turn inside their own time-outs.
const QUEUE: usize = 1024;

/// Whether what was written is where it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Acks {
    /// It is, or nobody asked for it.
    Enough,
    /// It is not known to be, for this reason.
    Missing(String),
}

impl Acks {
    /// What an answer means: a grant that not enough replicas have is none. A refusal needs nobody's consent.
    pub(super) fn judge(self, answer: LeaseAnswer) -> LeaseAnswer {
        match (self, answer) {
            (Acks::Missing(reason), LeaseAnswer::Granted { .. } | LeaseAnswer::GrantedToStop { .. }) => {
                LeaseAnswer::Failed { reason }
            }
            (_, answer) => answer,
        }
    }
}

/// Handle on the calls to one server that count only with acks; clones share it.
#[derive(Clone)]
pub(super) struct Counted {
    queue: mpsc::Sender<Question>,
}

struct Question {
    call: Call,
    way: Way,
    end: Instant,
    answer: oneshot::Sender<Result<(Value, Acks), Trouble>>,
}

impl Counted {
    /// Calls over `line`, which is nobody else's, and the task that puts them. `wanted` replicas must have each.
    pub(super) fn new(line: Line, wanted: u32) -> (Counted, impl Future<Output = ()>) {
        let (queue, queued) = mpsc::channel(QUEUE);
        (Counted { queue }, put_all(line, wanted, queued))
    }

    /// Calls a script within `patience`, and gives its answer, and whether enough replicas have what it wrote.
    ///
    /// # Errors
    /// As [`Line::ask`].
    pub(super) async fn call(&self, call: &Call, way: Way, patience: Patience) -> Result<(Value, Acks), Trouble> {
        let end = patience.end;
        let begun = Instant::now();
        let (answer, answered) = oneshot::channel();
        let question = Question { call: call.clone(), way, end, answer };
        let asked = async {
            self.queue.send(question).await.ok()?;
            answered.await.ok()
        };
        match timeout_at(end, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Trouble::Lost("the agent is ending".into())),
            Err(_) => Err(Trouble::Lost(reason::no_answer(end - begun))),
        }
    }
}

async fn put_all(line: Line, wanted: u32, mut queued: mpsc::Receiver<Question>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        // Whoever gave up will ask again.
        batch.retain(|question| !question.answer.is_closed());
        let (Some(first), Some(last)) = (batch.iter().map(|it| it.end).min(), batch.iter().map(|it| it.end).max())
        else {
            continue;
        };
        // So short that the answer is there before silence casts doubt on the connection.
        let patience = first.saturating_duration_since(Instant::now()) / 4;
        let answers = line
            .ask(Patience::in_thirds(last), async |mut connection| {
                let all: Vec<&Question> = batch.iter().collect();
                let (mut answers, mut acks) = put(&mut connection, &all, By::Hash, wanted, patience).await?;
                let unknown: Vec<usize> = (0..answers.len()).filter(|i| is_unknown(&answers[*i])).collect();
                if !unknown.is_empty() {
                    let again: Vec<&Question> = unknown.iter().map(|i| all[*i]).collect();
                    let (texts, later) = put(&mut connection, &again, By::Text, wanted, patience).await?;
                    unknown.into_iter().zip(texts).for_each(|(i, answer)| answers[i] = answer);
                    acks = later;
                }
                Ok((answers, acks))
            })
            .await;
        match answers {
            Ok((answers, acks)) => {
                for (question, answer) in batch.drain(..).zip(answers) {
                    let answer = answer.map(|value| (value, acks.clone())).map_err(Trouble::Said);
                    // Who gave up meanwhile hears nothing.
                    let _ = question.answer.send(answer);
                }
            }
            Err(trouble) => {
                let reason = trouble.reason();
                for question in batch.drain(..) {
                    let _ = question.answer.send(Err(Trouble::Lost(reason.clone())));
                }
            }
        }
    }
}

/// Each question's answer, and whether `wanted` replicas had all of it within `patience`.
async fn put(
    connection: &mut redis::aio::MultiplexedConnection,
    questions: &[&Question],
    by: By,
    wanted: u32,
    patience: Duration,
) -> RedisResult<(Vec<RedisResult<Value>>, Acks)> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    for question in questions {
        if question.way == Way::Asking {
            pipe.cmd("ASKING");
        }
        pipe.add_command(command(by, &question.call));
    }
    // 0 would be for ever.
    pipe.cmd("WAIT").arg(wanted).arg(patience.as_millis().max(1));
    let said: Vec<RedisResult<Value>> = pipe.query_async(connection).await?;
    let mut said = said.into_iter();
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let asking = if question.way == Way::Asking { said.next() } else { None };
        let answer = said.next().unwrap_or_else(|| Err(closed()));
        answers.push(match asking {
            Some(Err(error)) => Err(error),
            _ => answer,
        });
    }
    // Such an error is no answer to one question: it says that this server answers none.
    if let Some(error) = answers.iter().filter_map(|answer| answer.as_ref().err()).find(|it| reason::is_fatal(it)) {
        return Err(error.clone());
    }
    let count =
        said.next().unwrap_or_else(|| Err(closed())).and_then(|count| Ok(redis::from_redis_value::<u32>(count)?));
    let acks = match count {
        Ok(count) if count >= wanted => Acks::Enough,
        Ok(count) => Acks::Missing(format!("only {count} of {wanted} replicas have it (WAIT)")),
        Err(error) => Acks::Missing(reason::of(&error, "the server")),
    };
    Ok((answers, acks))
}

/// Fewer answers than questions.
fn closed() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_grant_needs_acks() {
        let missing = || Acks::Missing("only 0 of 1 replicas have it (WAIT)".into());
        let failed = LeaseAnswer::Failed { reason: "only 0 of 1 replicas have it (WAIT)".into() };
        assert_eq!(missing().judge(LeaseAnswer::Granted { token: 1 }), failed);
        assert_eq!(Acks::Enough.judge(LeaseAnswer::Granted { token: 1 }), LeaseAnswer::Granted { token: 1 });
        let lost = LeaseAnswer::Lost { by: None };
        assert_eq!(missing().judge(lost.clone()), lost, "who has lost it stops, whoever knows");
    }
}
