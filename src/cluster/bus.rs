//! Messages between nodes, and from circusctl to nodes, over Redis's channels.
//!
//! A question goes to the node's channel and names the asker's; the answer goes there and names the question:
//!
//! ```text
//! circus:{prod}:bus:web-2    {"v":1, "id":"5f…", "from":"web-1", "reply_to":"circus:{prod}:reply:9c…", "message":"{…}"}
//! circus:{prod}:reply:9c…    {"v":1, "re":"5f…", "from":"web-2", "message":"{…}"}    or "error" for "message"
//! ```
//!
//! Where messages are sealed a question names the challenge that the node gave last, and where it names none that counts
//! it is not carried out but answered with one ("challenge"), upon which it is put once more.
//!
//! Invariants:
//! - A question is carried out at most once: Redis delivers at most once, and an id seen before is not taken again
//!   ([`super::fresh`]).
//! - What is no message of ours, or not sealed as ours are, is dropped, counted and logged; it never stops what follows.
//! - Answers go only to channels for answers, whatever a question names.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::fresh::{Fresh, Old};
use super::registry::Name;
use super::seal::{self, Seal};
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
/// How many questions of others may be open at once.
const MAX_OPEN: usize = 1024;
/// How many of our own may be: one goes to each node of the largest cluster, and the dead are among them.
const MAX_ASKED: usize = 65_536;
/// How many of our own are put to Redis at once: with thousands together, the last would have no time left.
const AT_ONCE: usize = 256;
/// How many nodes' challenges are remembered.
const MAX_CHALLENGES: usize = 1024;

/// What is said of a node that wants to hear another challenge than the one it gave a moment ago.
pub(super) const STALE_TWICE: &str = "it took the question for an old one, twice";

/// The version of the envelope.
const VERSION: u32 = 1;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Question {
    v: u32,
    id: String,
    from: String,
    reply_to: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    challenge: Option<String>,
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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    /// What the agent answered.
    Message(String),
    /// Why it did not.
    Error(String),
    /// What the question has to name.
    Challenge(String),
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

/// A question in its envelope, naming a challenge where the asker knows one.
///
/// # Errors
/// It is too long.
pub(super) fn question_text(
    id: &str,
    from: &str,
    reply_to: &str,
    message: String,
    challenge: Option<String>,
) -> Result<String, String> {
    let (id, from, reply_to) = (id.to_owned(), from.to_owned(), reply_to.to_owned());
    let question = Question { v: VERSION, id, from, reply_to, message, challenge };
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
pub(super) fn parse_answer(payload: &[u8]) -> Result<(String, Said), String> {
    let answer: Answer = parse(payload)?;
    match answer {
        Answer { v, .. } if v != VERSION => Err(format!("its version is {v}, this agent's is {VERSION}")),
        Answer { re, said, .. } => Ok((re, said)),
    }
}

/// Opens what came on `channel`, unless it is longer than any message of ours.
///
/// # Errors
/// It is not to be taken, and why.
pub(super) fn opened<'a>(seal: &Seal, channel: &str, payload: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
    match payload.len() {
        long if long > MAX_MESSAGE + seal::OVERHEAD => Err(format!("it has {long} bytes, the most is {MAX_MESSAGE}")),
        _ => seal.open(channel, payload),
    }
}

/// A challenge that nobody can guess.
fn challenge() -> u128 {
    new_id().expect("the kernel has random bits for who waits for them")
}

/// A question to another node that waits for its answer.
#[derive(Debug, PartialEq)]
struct Asked {
    request: RequestId,
    node: NodeName,
    /// What was asked, where it can be asked once more.
    again: Option<String>,
}

/// Questions to other nodes that wait for their answers.
#[derive(Default)]
struct Open {
    /// The oldest first, and closed ones among them.
    order: VecDeque<String>,
    asked: HashMap<String, Asked>,
}

impl Open {
    fn add(&mut self, id: &str, asked: Asked) {
        while self.asked.len() >= MAX_ASKED
            && let Some(oldest) = self.order.pop_front()
        {
            // Its asker gave up long ago: silence is noticed by the model.
            self.asked.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.asked.insert(id.to_owned(), asked);
    }

    fn close(&mut self, id: &str) -> Option<Asked> {
        let closed = self.asked.remove(id)?;
        // Now and then, not each time: a question to all of a large cluster is thousands that are closed together.
        if self.order.len() > 2 * self.asked.len() {
            self.order.retain(|other| self.asked.contains_key(other));
        }
        Some(closed)
    }
}

/// This node's part in the bus.
#[derive(Clone)]
pub(super) struct Bus {
    cluster: ClusterName,
    /// What this node is called.
    node: watch::Receiver<NodeName>,
    servers: Servers,
    /// Where this node is answered.
    reply_to: Arc<str>,
    /// What each server says of this node's name.
    names: Vec<watch::Receiver<Name>>,
    questions: mpsc::Sender<BusQuestion>,
    events: mpsc::Sender<Event>,
    seal: Seal,
    open: Arc<Mutex<Open>>,
    fresh: Arc<Mutex<Fresh>>,
    /// What other nodes want to be named, as they said last.
    challenges: Arc<Mutex<HashMap<NodeName, String>>>,
    answering: Arc<Semaphore>,
    asking: Arc<Semaphore>,
    dropped: Arc<Mutex<u64>>,
}

impl Bus {
    pub(super) fn new(
        (cluster, node): (ClusterName, watch::Receiver<NodeName>),
        reply_id: u128,
        servers: Servers,
        names: Vec<watch::Receiver<Name>>,
        (questions, events): (mpsc::Sender<BusQuestion>, mpsc::Sender<Event>),
        seal: Seal,
    ) -> Bus {
        Bus {
            reply_to: keys::reply(&cluster, reply_id).into(),
            cluster,
            node,
            servers,
            names,
            questions,
            events,
            seal,
            open: Arc::default(),
            fresh: Arc::new(Mutex::new(Fresh::new(challenge))),
            challenges: Arc::default(),
            answering: Arc::new(Semaphore::new(MAX_OPEN)),
            asking: Arc::new(Semaphore::new(AT_ONCE)),
            dropped: Arc::default(),
        }
    }

    /// The channels this node listens on: where it is asked, and where it is answered.
    pub(super) fn channels(&self) -> [String; 2] {
        [self.questions(), self.answers().to_owned()]
    }

    /// Where it is asked, by the name that it has now.
    fn questions(&self) -> String {
        keys::bus(&self.cluster, &self.node.borrow())
    }

    /// Where it is answered.
    pub(super) fn answers(&self) -> &str {
        &self.reply_to
    }

    /// Waits until the answers that the agent gave are out. It should have dropped the questions it did not answer.
    pub(super) async fn settled(&self) {
        // An error is not possible: nobody closes the semaphore.
        let _ = self.answering.acquire_many(MAX_OPEN as u32).await;
    }

    /// Asks another node. `Unreachable` where that is known to be in vain, else its answer comes as `Replied`.
    pub(super) async fn relay(&self, request: RequestId, node: NodeName, message: String) -> Option<Event> {
        let again = self.seal.is_wanted().then(|| message.clone());
        self.put(request, node, message, again).await
    }

    async fn put(&self, request: RequestId, node: NodeName, message: String, again: Option<String>) -> Option<Event> {
        let unreachable = |reason| Some(Event::Unreachable { request, node: node.clone(), reason });
        let id = match new_id() {
            Ok(id) => format!("{id:032x}"),
            Err(reason) => return unreachable(reason),
        };
        let challenge = lock(&self.challenges).get(&node).cloned();
        let from = self.node.borrow().to_string();
        let text = match question_text(&id, &from, &self.reply_to, message, challenge) {
            Ok(text) => text,
            Err(reason) => return unreachable(reason),
        };
        // Whoever is before us has no more than its own time. An error is not possible: nobody closes the semaphore.
        let _turn = self.asking.acquire().await;
        // Before it is sent: the answer may come before Redis says that it was.
        lock(&self.open).add(&id, Asked { request, node: node.clone(), again });
        let reason = match self.servers.publish(&keys::bus(&self.cluster, &node), &text, PUBLISH_TIMEOUT).await {
            Ok(1..) => return None,
            Ok(0) => nobody(),
            Err(reason) => reason,
        };
        // Where an answer came all the same, that was the end of it.
        let Asked { request, node, .. } = lock(&self.open).close(&id)?;
        Some(Event::Unreachable { request, node, reason })
    }

    /// What came on a channel that all nodes hear, where it may be taken.
    pub(super) fn open<'a>(&self, channel: &str, payload: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        opened(&self.seal, channel, payload).inspect_err(|why| self.drop_message(why)).ok()
    }

    /// Takes what came on this node's channel for answers.
    pub(super) fn answered(&self, payload: &[u8]) -> Option<Event> {
        match opened(&self.seal, &self.reply_to, payload).and_then(|payload| parse_answer(&payload)) {
            Ok((re, said)) => {
                let Asked { request, node, again } = lock(&self.open).close(&re)?;
                match (said, again) {
                    (Said::Message(text), _) => Some(Event::Replied { request, node, text }),
                    (Said::Error(reason), _) => Some(Event::Unreachable { request, node, reason }),
                    (Said::Challenge(challenge), Some(message)) => {
                        self.meet(request, node, message, challenge);
                        None
                    }
                    (Said::Challenge(_), None) => {
                        Some(Event::Unreachable { request, node, reason: STALE_TWICE.into() })
                    }
                }
            }
            Err(why) => {
                self.drop_message(&why);
                None
            }
        }
    }

    /// Asks once more, in the words that the node wants to hear.
    fn meet(&self, request: RequestId, node: NodeName, message: String, challenge: String) {
        {
            let mut challenges = lock(&self.challenges);
            if challenges.len() >= MAX_CHALLENGES {
                challenges.clear();
            }
            challenges.insert(node.clone(), challenge);
        }
        let bus = self.clone();
        tokio::spawn(async move {
            if let Some(event) = bus.put(request, node, message, None).await {
                // An agent that ended wants no answers.
                let _ = bus.events.send(event).await;
            }
        });
    }

    /// Takes what came on a channel for questions, and sees to the answer, where the channel is this node's.
    pub(super) fn asked(&self, channel: &str, payload: &[u8]) {
        // That of a name which it does not have any more, or not yet: another agent may.
        if channel != self.questions() {
            return;
        }
        let read = opened(&self.seal, channel, payload)
            .and_then(|payload| parse_question(&payload, &keys::reply_prefix(&self.cluster)));
        let question = match read {
            Ok(question) => question,
            Err(why) => return self.drop_message(&why),
        };
        let stale = match self.is_new(&question) {
            Ok(()) => None,
            Err(Old::Known) => return self.drop_message("it was asked before"),
            Err(Old::Stale(challenge)) => {
                if question.challenge.is_some() {
                    self.drop_message("it names a challenge of long ago");
                }
                Some(Said::Challenge(format!("{challenge:032x}")))
            }
        };
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
            let said = match stale {
                Some(said) => said,
                None => bus.carried_out(message, from).await,
            };
            let node = bus.node.borrow().clone();
            bus.answer(&reply_to, &answer_text(&id, &node, said)).await;
            drop(open);
        });
    }

    /// Whether a question may be carried out.
    fn is_new(&self, Question { id, challenge, .. }: &Question) -> Result<(), Old> {
        let mut fresh = lock(&self.fresh);
        match self.seal.is_wanted() {
            false => fresh.take(Instant::now(), id),
            true => {
                let challenge = challenge.as_ref().and_then(|text| u128::from_str_radix(text, 16).ok());
                fresh.take_sealed(Instant::now(), id, challenge)
            }
        }
    }

    /// Has the agent answer.
    async fn carried_out(&self, message: String, from: String) -> Said {
        let (answer, answered) = oneshot::channel();
        match self.questions.try_send(BusQuestion { line: message, from, answer }) {
            Ok(()) => match timeout(LONGEST_ANSWER, answered).await {
                Ok(Ok(text)) => Said::Message(text),
                Ok(Err(_)) => Said::Error("the agent ended before it answered".into()),
                Err(_) => Said::Error("the agent took too long to answer".into()),
            },
            Err(mpsc::error::TrySendError::Full(_)) => Said::Error("the agent is asked too much at once".into()),
            Err(mpsc::error::TrySendError::Closed(_)) => Said::Error("the agent is ending".into()),
        }
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
        // Where the agent has too much to do for this one, the next one tells.
        let _ = self.events.try_send(Event::MessagesDropped(*dropped));
    }
}

/// Says that a node has no ears.
pub(super) fn nobody() -> String {
    "nobody listens on the bus under its name".into()
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
        question_text("5f", "web-1", "circus:{prod}:reply:9c", r#"{"command":"status"}"#.into(), None).unwrap()
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
        let text = question_text("5f", "x", "circus:{prod/beat}:free", String::new(), None).unwrap();
        assert!(parse_question(text.as_bytes(), PREFIX).is_err());
    }

    #[test]
    fn a_message_over_one_mebibyte_is_neither_sent_nor_taken() {
        let long = "x".repeat(MAX_MESSAGE);
        assert!(question_text("5f", "x", "circus:{prod}:reply:9c", long.clone(), None).is_err());
        assert!(parse_answer(&vec![b' '; MAX_MESSAGE + 1]).unwrap_err().contains("1048577 bytes"));
        let node = NodeName::parse("web-2").unwrap();
        let (re, said) = parse_answer(answer_text("5f", &node, Said::Message(long)).as_bytes()).unwrap();
        assert!(matches!(&said, Said::Error(why) if why.contains("the answer has")), "{re}: {said:?}");
    }

    #[test]
    fn an_answer_is_a_message_or_an_error() {
        let node = NodeName::parse("web-2").unwrap();
        let text = answer_text("5f", &node, Said::Message("{}".into()));
        assert_eq!(text, r#"{"v":1,"re":"5f","from":"web-2","message":"{}"}"#);
        assert_eq!(parse_answer(text.as_bytes()), Ok(("5f".into(), Said::Message("{}".into()))));
        let text = answer_text("5f", &node, Said::Error("busy".into()));
        assert_eq!(parse_answer(text.as_bytes()), Ok(("5f".into(), Said::Error("busy".into()))));
        assert!(parse_answer(br#"{"v":1,"re":"5f","from":"web-2"}"#).is_err());
    }

    #[test]
    fn open_questions_are_remembered_in_bounds() {
        let node = NodeName::parse("web-2").unwrap();
        let asked = |i: usize| Asked { request: RequestId(i as u64), node: node.clone(), again: None };
        let mut open = Open::default();
        for i in 0..=MAX_ASKED {
            open.add(&i.to_string(), asked(i));
        }
        assert_eq!((open.asked.len(), open.order.len()), (MAX_ASKED, MAX_ASKED));
        assert_eq!(open.close("0"), None, "the oldest one is forgotten");
        for i in 1..=MAX_ASKED {
            assert_eq!(open.close(&i.to_string()), Some(asked(i)));
            assert!(open.order.len() <= 2 * open.asked.len().max(MAX_ASKED / 2));
        }
        assert_eq!((open.asked.len(), open.order.len()), (0, 0));
    }
}
