//! One server's desk: what is asked about leases at one moment is put to it together.
//!
//! Invariants:
//! - Refreshes that come in one go cost one round trip, and no script has more than [`CHUNK`] of them: the server does
//!   for others in between. In a cluster they go out together, each to its slot.
//! - Each question has its own answer, within its own patience.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::link::{Link, Needs};
use super::{reason, scripts};
use crate::model::event::{Ask, AskKind, LeaseAnswer};
use crate::model::names::LeaseName;

/// How many leases one script refreshes: well below 2 ms of the server's time.
const CHUNK: usize = 100;
/// How many questions may wait to be put together, which takes no time.
const QUEUE: usize = 16_384;

/// Handle on a desk; clones share it.
#[derive(Clone)]
pub(super) struct Desk(mpsc::Sender<Question>);

struct Question {
    lease: LeaseName,
    ask: Ask,
    patience: Duration,
    answer: oneshot::Sender<LeaseAnswer>,
}

impl Desk {
    /// A desk before `link`, and the task that serves it.
    pub(super) fn new(link: Link) -> (Desk, impl Future<Output = ()>) {
        let (questions, asked) = mpsc::channel(QUEUE);
        (Desk(questions), serve(link, asked))
    }

    /// Puts `ask` to the server, and gives what it answers within `patience`.
    pub(super) async fn ask(&self, lease: LeaseName, ask: Ask, patience: Duration) -> LeaseAnswer {
        let (answer, answered) = oneshot::channel();
        let full = || LeaseAnswer::Failed { reason: "too many questions about leases at once".into() };
        if self.0.try_send(Question { lease, ask, patience, answer }).is_err() {
            return full();
        }
        match timeout(patience, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| full()),
            // It went with others that have more time.
            Err(_) => LeaseAnswer::Failed { reason: reason::no_answer(patience) },
        }
    }
}

async fn serve(link: Link, mut asked: mpsc::Receiver<Question>) {
    // In a cluster each lease has a slot of its own, and so perhaps a server.
    let chunk = if link.is_one_server() { CHUNK } else { 1 };
    let mut questions = Vec::new();
    while asked.recv_many(&mut questions, QUEUE).await > 0 {
        let is_refresh = |question: &Question| matches!(question.ask.kind, AskKind::Refresh { .. });
        let (mut refreshes, others): (Vec<_>, Vec<_>) = questions.drain(..).partition(is_refresh);
        others.into_iter().for_each(|question| put(&link, vec![question]));
        // So that those which go together have about the same time.
        refreshes.sort_by_key(|question| question.patience);
        while !refreshes.is_empty() {
            let rest = refreshes.split_off(refreshes.len().min(chunk));
            put(&link, std::mem::replace(&mut refreshes, rest));
        }
    }
}

/// Puts one question, or several refreshes, to the server. It takes them in the order in which they are put.
fn put(link: &Link, questions: Vec<Question>) {
    let link = link.clone();
    tokio::spawn(async move {
        let together = scripts::refresh_call(questions.iter().map(|question| (&question.lease, &question.ask)));
        let call = together.unwrap_or_else(|| scripts::call(&questions[0].lease, &questions[0].ask));
        let patience = questions.iter().map(|question| question.patience).max().unwrap_or_default();
        let needs = match questions[0].ask.kind {
            AskKind::Take { .. } | AskKind::Refresh { .. } => Needs::Acks,
            AskKind::Release { .. } | AskKind::Withdraw => Needs::Nothing,
        };
        let answer = link.call_for_leases(&call, needs, patience).await;
        for (index, question) in questions.into_iter().enumerate() {
            let its = |words: &Vec<String>| match question.ask.kind {
                AskKind::Refresh { .. } => {
                    let words = words.chunks(scripts::ANSWER_LEN).nth(index).unwrap_or_default();
                    scripts::answer(words)
                }
                _ => scripts::answer(words),
            };
            let answer = match &answer {
                Ok((words, acks)) => acks.clone().judge(its(words)),
                Err(reason) => LeaseAnswer::Failed { reason: reason.clone() },
            };
            // Who asked may have ended.
            let _ = question.answer.send(answer);
        }
    });
}
