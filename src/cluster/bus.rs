//! Messages between nodes, and from circusctl to nodes, over Redis's channels.
//!
//! A question goes to the node's channel and names the asker's; the answer goes there and names the question:
//!
//! ```text
//! circus:{prod}:bus:web-2    {"v":1, "id":"5f…", "from":"web-1", "reply_to":"circus:{prod}:reply:9c…", "message":"{…}"}
//! circus:{prod}:reply:9c…    {"v":1, "re":"5f…", "from":"web-2", "message":"{…}"}    or "error" for "message"
//! ```
//!
//! Invariants:
//! - A question is carried out at most once: Redis delivers at most once, and an id seen before is not taken again.
//! - What is no message of ours is dropped, counted and logged; it never stops what follows.
//! - Answers go only to channels for answers, whatever a question names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::registry::Name;
use super::servers::Servers;
use super::{BusQuestion, keys};
use crate::model::command::RequestId;
use crate::model::event::Event;
use crate::model::names::{ClusterName, NodeName};

/// The longest message that is sent or taken, in bytes, with its envelope.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// How long publishing may take.
pub(super) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it is tried to get an answer out that is ready, over a link that comes and goes.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may take over one question: longer than any graceful time.
const LONGEST_ANSWER: Duration = Duration::from_secs(3600);
/// How many questions may be open at once, each way.
const MAX_OPEN: usize = 1024;
/// How many ids of questions are remembered.
const MAX_SEEN: usize = 4096;

/// The version of the envelope.
const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Question {
    v: u32,
    id: String,
    from: String,
    reply_to: String,
    message: String,
}

/// What a node said to one question.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    v: u32,
    re: String,
    from: String,
    #[serde(flatten)]
    said: Said,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    /// What the agent answered.
    Message(String),
    /// Why it did not.
    Error(String),
}

/// A new id: 128 random bits in hexadecimal.
///
/// # Errors
/// The system has no random bits.
pub(super) fn new_id() -> Result<u128, String> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| format!("no random bits: {error}"))?;
    Ok(u128::from_le_bytes(bits))
}

/// A question in its envelope.
///
/// # Errors
/// It is too long.
pub(super) fn question_text(id: &str, from: &str, reply_to: &str, message: String) -> Result<String, String> {
    let question =
        Question { v: VERSION, id: id.to_owned(), from: from.to_owned(), reply_to: reply_to.to_owned(), message };
    let text = serde_json::to_string(&question).expect("texts and numbers are JSON");
    match text.len() {
        ..=MAX_MESSAGE => Ok(text),
        long => Err(format!("the message has {long} bytes, the most is {MAX_MESSAGE}")),
    }
}

fn answer_text(re: &str, from: &NodeName, said: Said) -> String {
    let text = |said| {
        let answer = Answer { v: VERSION, re: re.to_owned(), from: from.to_string(), said };
        serde_json::to_string(&answer).expect("texts and numbers are JSON")
    };
    let answer = text(said);
    match answer.len() {
        ..=MAX_MESSAGE => answer,
        long => text(Said::Error(format!("the answer has {long} bytes, the most is {MAX_MESSAGE}"))),
    }
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    match payload.len() {
        ..=MAX_MESSAGE => serde_json::from_slice(payload).map_err(|error| error.to_string()),
        long => Err(format!("it has {long} bytes, the most is {MAX_MESSAGE}")),
    }
}

fn parse_question(payload: &[u8], reply_prefix: &str) -> Result<Question, String> {
    let question: Question = parse(payload)?;
    match &question {
        Question { v, .. } if *v != VERSION => Err(format!("its version is {v}, this agent's is {VERSION}")),
        Question { id, .. } if id.is_empty() || id.len() > 64 => Err("its id is empty or too long".into()),
        Question { from, .. } if from.len() > 256 => Err("its sender's name is too long".into()),
        Question { reply_to, .. } if !reply_to.starts_with(reply_prefix) || reply_to.len() > 256 => {
            Err("it wants its answer on a channel that is not for answers".into())
        }
        _ => Ok(question),
    }
}

/// The id of the question that `payload` answers, and what was said.
///
/// # Errors
/// It is no answer.
pub(super) fn parse_answer(payload: &[u8]) -> Result<(String, Result<String, String>), String> {
    let answer: Answer = parse(payload)?;
    match answer {
        Answer { v, .. } if v != VERSION => Err(format!("its version is {v}, this agent's is {VERSION}")),
        Answer { re, said: Said::Message(text), .. } => Ok((re, Ok(text))),
        Answer { re, said: Said::Error(why), .. } => Ok((re, Err(why))),
    }
}

/// The ids of the latest questions.
#[derive(Default)]
struct Seen {
    order: VecDeque<String>,
    ids: HashSet<String>,
}

impl Seen {
    /// Remembers `id`; false where it was known.
    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// Questions to other nodes that wait for their answers.
#[derive(Default)]
struct Open {
    order: VecDeque<String>,
    asked: HashMap<String, (RequestId, NodeName)>,
}

impl Open {
    fn add(&mut self, id: &str, request: RequestId, node: NodeName) {
        if self.order.len() >= MAX_OPEN
            && let Some(oldest) = self.order.pop_front()
        {
            // Its asker gave up long ago: silence is noticed by the model.
            self.asked.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.asked.insert(id.to_owned(), (request, node));
    }

    fn close(&mut self, id: &str) -> Option<(RequestId, NodeName)> {
        let closed = self.asked.remove(id)?;
        self.order.retain(|other| other != id);
        Some(closed)
    }
}

/// This node's part in the bus.
#[derive(Clone)]
pub(super) struct Bus {
    cluster: ClusterName,
    node: NodeName,
    servers: Servers,
    /// Where this node is answered.
    reply_to: Arc<str>,
    /// What each server says of this node's name.
    names: Vec<watch::Receiver<Name>>,
    questions: mpsc::Sender<BusQuestion>,
    open: Arc<Mutex<Open>>,
    seen: Arc<Mutex<Seen>>,
    answering: Arc<Semaphore>,
    dropped: Arc<Mutex<u64>>,
}

impl Bus {
    pub(super) fn new(
        (cluster, node): (ClusterName, NodeName),
        reply_id: u128,
        servers: Servers,
        names: Vec<watch::Receiver<Name>>,
        questions: mpsc::Sender<BusQuestion>,
    ) -> Bus {
        Bus {
            reply_to: keys::reply(&cluster, reply_id).into(),
            cluster,
            node,
            servers,
            names,
            questions,
            open: Arc::default(),
            seen: Arc::default(),
            answering: Arc::new(Semaphore::new(MAX_OPEN)),
            dropped: Arc::default(),
        }
    }

    /// The channels this node listens on: where it is asked, and where it is answered.
    pub(super) fn channels(&self) -> [String; 2] {
        [keys::bus(&self.cluster, &self.node), self.reply_to.to_string()]
    }

    /// Waits until the answers that the agent gave are out. It should have dropped the questions it did not answer.
    pub(super) async fn settled(&self) {
        // An error is not possible: nobody closes the semaphore.
        let _ = self.answering.acquire_many(MAX_OPEN as u32).await;
    }

    /// Asks another node. `Unreachable` where that is known to be in vain, else its answer comes as `Replied`.
    pub(super) async fn relay(&self, request: RequestId, node: NodeName, message: String) -> Option<Event> {
        let unreachable = |reason| Some(Event::Unreachable { request, node: node.clone(), reason });
        let id = match new_id() {
            Ok(id) => format!("{id:032x}"),
            Err(reason) => return unreachable(reason),
        };
        let text = match question_text(&id, self.node.as_str(), &self.reply_to, message) {
            Ok(text) => text,
            Err(reason) => return unreachable(reason),
        };
        // Before it is sent: the answer may come before Redis says that it was.
        lock(&self.open).add(&id, request, node.clone());
        let reason = match self.servers.publish(&keys::bus(&self.cluster, &node), &text, PUBLISH_TIMEOUT).await {
            Ok(1..) => return None,
            Ok(0) => nobody(&node),
            Err(reason) => reason,
        };
        // Where an answer came all the same, that was the end of it.
        let (request, node) = lock(&self.open).close(&id)?;
        Some(Event::Unreachable { request, node, reason })
    }

    /// Takes what came on this node's channel for answers.
    pub(super) fn answered(&self, payload: &[u8]) -> Option<Event> {
        match parse_answer(payload) {
            Ok((re, said)) => {
                let (request, node) = lock(&self.open).close(&re)?;
                Some(match said {
                    Ok(text) => Event::Replied { request, node, text },
                    Err(reason) => Event::Unreachable { request, node, reason },
                })
            }
            Err(why) => {
                self.drop_message(&why);
                None
            }
        }
    }

    /// Takes what came on this node's channel for questions, and sees to the answer.
    pub(super) fn asked(&self, payload: &[u8]) {
        let question = match parse_question(payload, &keys::reply_prefix(&self.cluster)) {
            Ok(question) => question,
            Err(why) => return self.drop_message(&why),
        };
        if !lock(&self.seen).is_new(&question.id) {
            return self.drop_message("it was asked before");
        }
        // Beyond the bound not even a refusal is sent: that, too, would take a task.
        let Ok(open) = Arc::clone(&self.answering).try_acquire_owned() else {
            return self.drop_message("too many questions are open");
        };
        let mut bus = self.clone();
        tokio::spawn(async move {
            if !bus.has_name().await {
                return bus.drop_message("it is for another agent with this node's name");
            }
            let Question { id, from, reply_to, message, .. } = question;
            let (answer, answered) = oneshot::channel();
            let said = match bus.questions.try_send(BusQuestion { line: message, from, answer }) {
                Ok(()) => match timeout(LONGEST_ANSWER, answered).await {
                    Ok(Ok(text)) => Said::Message(text),
                    Ok(Err(_)) => Said::Error("the agent ended before it answered".into()),
                    Err(_) => Said::Error("the agent took too long to answer".into()),
                },
                Err(mpsc::error::TrySendError::Full(_)) => Said::Error("the agent is asked too much at once".into()),
                Err(mpsc::error::TrySendError::Closed(_)) => Said::Error("the agent is ending".into()),
            };
            bus.answer(&reply_to, &answer_text(&id, &bus.node, said)).await;
            drop(open);
        });
    }

    /// Whether this agent may act under its node's name. Right after the start that is not known for a moment.
    async fn has_name(&mut self) -> bool {
        let known = self.names.iter_mut().map(|name| Box::pin(name.wait_for(|name| *name != Name::Unknown)));
        // One server that knows is enough to act: those that are away cannot say.
        let _ = timeout(PUBLISH_TIMEOUT, select_all(known)).await;
        self.names.iter().all(|name| *name.borrow() != Name::Taken)
    }

    /// Gets an answer out, also over links that just come back.
    async fn answer(&self, reply_to: &str, text: &str) {
        let deadline = Instant::now() + ANSWER_PATIENCE;
        loop {
            match self.servers.publish(reply_to, text, PUBLISH_TIMEOUT).await {
                Ok(_) => return,
                Err(reason) if Instant::now() >= deadline => {
                    return tracing::warn!(%reason, "an answer could not be sent");
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// Counts a message that is not taken. Logged at powers of two: who floods the bus must not flood the log.
    fn drop_message(&self, why: &str) {
        let mut dropped = lock(&self.dropped);
        *dropped += 1;
        if dropped.is_power_of_two() {
            tracing::warn!(%why, dropped = *dropped, "a message on the bus was dropped");
        }
    }
}

/// Says that a node has no ears.
pub(super) fn nobody(node: &NodeName) -> String {
    format!("nobody listens on the bus under the name {node}")
}

/// Locks are held for a few lines that cannot panic half-way; what they guard is whole in any case.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "circus:{prod}:reply:";

    fn question() -> String {
        question_text("5f", "web-1", "circus:{prod}:reply:9c", r#"{"command":"status"}"#.into()).unwrap()
    }

    #[test]
    fn a_question_reads_back_and_each_part_of_one_is_refused() {
        let text = question();
        let read = parse_question(text.as_bytes(), PREFIX).unwrap();
        assert_eq!((read.id.as_str(), read.message.as_str()), ("5f", r#"{"command":"status"}"#));
        for end in 0..text.len() {
            assert!(parse_question(&text.as_bytes()[..end], PREFIX).is_err(), "{end} bytes of it");
        }
    }

    #[test]
    fn a_question_may_gain_fields_but_not_another_version() {
        let later = question().replacen("{\"v\":1", "{\"priority\":9,\"v\":1", 1);
        assert!(parse_question(later.as_bytes(), PREFIX).is_ok(), "{later}");
        let other = question().replacen("\"v\":1", "\"v\":2", 1);
        assert!(parse_question(other.as_bytes(), PREFIX).unwrap_err().contains("version is 2"));
    }

    #[test]
    fn nobody_can_have_an_answer_published_on_a_channel_of_another_kind() {
        let text = question_text("5f", "x", "circus:{prod/beat}:free", String::new()).unwrap();
        assert!(parse_question(text.as_bytes(), PREFIX).is_err());
    }

    #[test]
    fn a_message_over_one_mebibyte_is_neither_sent_nor_taken() {
        let long = "x".repeat(MAX_MESSAGE);
        assert!(question_text("5f", "x", "circus:{prod}:reply:9c", long.clone()).is_err());
        assert!(parse_answer(&vec![b' '; MAX_MESSAGE + 1]).unwrap_err().contains("1048577 bytes"));
        let node = NodeName::parse("web-2").unwrap();
        let (re, said) = parse_answer(answer_text("5f", &node, Said::Message(long)).as_bytes()).unwrap();
        assert!(re == "5f" && said.unwrap_err().contains("the answer has"), "too long an answer is said to be so");
    }

    #[test]
    fn an_answer_is_a_message_or_an_error() {
        let node = NodeName::parse("web-2").unwrap();
        let text = answer_text("5f", &node, Said::Message("{}".into()));
        assert_eq!(text, r#"{"v":1,"re":"5f","from":"web-2","message":"{}"}"#);
        assert_eq!(parse_answer(text.as_bytes()), Ok(("5f".into(), Ok("{}".into()))));
        let text = answer_text("5f", &node, Said::Error("busy".into()));
        assert_eq!(parse_answer(text.as_bytes()), Ok(("5f".into(), Err("busy".into()))));
        assert!(parse_answer(br#"{"v":1,"re":"5f","from":"web-2"}"#).is_err());
    }

    #[test]
    fn ids_are_remembered_in_bounds() {
        let mut seen = Seen::default();
        assert!(seen.is_new("a") && !seen.is_new("a"));
        for i in 0..MAX_SEEN {
            assert!(seen.is_new(&i.to_string()));
        }
        assert_eq!((seen.ids.len(), seen.order.len()), (MAX_SEEN, MAX_SEEN));
        assert!(seen.is_new("a"), "the oldest is forgotten");
    }

    #[test]
    fn open_questions_are_remembered_in_bounds() {
        let node = NodeName::parse("web-2").unwrap();
        let mut open = Open::default();
        for i in 0..=MAX_OPEN {
            open.add(&i.to_string(), RequestId(i as u64), node.clone());
        }
        assert_eq!((open.asked.len(), open.order.len()), (MAX_OPEN, MAX_OPEN));
        assert_eq!(open.close("0"), None);
        assert_eq!(open.close("1"), Some((RequestId(1), node)));
        assert_eq!((open.asked.len(), open.order.len()), (MAX_OPEN - 1, MAX_OPEN - 1));
    }
}
