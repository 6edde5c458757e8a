//! ZMTP 3.1, the protocol of ZeroMQ sockets, with the NULL mechanism: bytes in, what they say out.
//!
//! ```text
//!   greeting (64 bytes) ──▶ READY (a command) ──▶ frames: of messages, or commands
//!
//!   frame:    flags, size (1 or 8 bytes), body       flags: 1 more follow, 2 size is long, 4 command
//!   command:  a byte with the name's length, the name, data
//! ```
//!
//! A [`Session`] reads one peer's side of a conversation; the functions below it write ours. Invariants:
//!
//! - No bytes make it panic, and none cost memory that was not sent: a size is judged before anything is made of it.
//! - It says the same whatever the pieces are that the bytes come in.
//! - Once something was wrong nothing more is heard.

/// The longest message taken from who is not trusted, and so the longest frame of one, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// The most frames of a message.
pub const MAX_FRAMES: usize = 64;
/// The longest command: more than any topic that somebody may subscribe to.
const MAX_COMMAND: usize = 4 << 10;
/// The longest identity that a peer may have.
const MAX_IDENTITY: usize = 255;
/// The longest context of a PING.
const MAX_CONTEXT: usize = 16;

/// How much room is kept for what comes next.
const KEPT: usize = 64 << 10;

const GREETING: usize = 64;
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What kind of socket one side of a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks.
    Dealer,
    /// Answers many who ask.
    Router,
    /// Tells all who have subscribed.
    Pub,
    /// Is told.
    Sub,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Dealer => "DEALER",
            Kind::Router => "ROUTER",
            Kind::Pub => "PUB",
            Kind::Sub => "SUB",
        }
    }

    /// The kinds that may talk to this one.
    fn peers(self) -> &'static [&'static str] {
        match self {
            Kind::Dealer => &["ROUTER", "DEALER", "REP"],
            Kind::Router => &["DEALER", "REQ", "ROUTER"],
            Kind::Pub => &["SUB", "XSUB"],
            Kind::Sub => &["PUB", "XPUB"],
        }
    }
}

/// What a peer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has introduced itself. Said once, before all else.
    Ready,
    /// A message: at least one frame.
    Message(Vec<Vec<u8>>),
    /// Wants what begins with this.
    Subscribe(Vec<u8>),
    /// Does not want it any more.
    Cancel(Vec<u8>),
    /// Wants to hear this back, to know that we are there.
    Ping(Vec<u8>),
}

/// Why a peer is not listened to any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Its first bytes are nobody's who speaks ZMTP.
    #[error("it does not speak ZMTP")]
    Stranger,
    /// It speaks an older one.
    #[error("it speaks ZMTP {0}, and not 3")]
    Version(u8),
    /// It wants to be known by more than its address.
    #[error("it wants the security mechanism {0}, and there is only NULL")]
    Mechanism(String),
    /// Its kind of socket has nothing to say to ours.
    #[error("it is a socket of type {0}")]
    Type(String),
    /// A message or command is longer than may be.
    #[error("a {what} of {bytes} bytes: there may be {most}")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How long it would be.
        bytes: u64,
        /// How long it may be.
        most: usize,
    },
    /// A message has more frames than may be.
    #[error("a message of more than {MAX_FRAMES} frames")]
    TooMany,
    /// The protocol has nothing like that.
    #[error("it breaks the protocol: {0}")]
    Malformed(&'static str),
    /// It says that we are.
    #[error("it refuses: {0}")]
    Refused(String),
}

/// One peer's side of a conversation.
#[derive(Debug)]
pub struct Session {
    own: Kind,
    stage: Stage,
    /// The longest message that is taken.
    longest: usize,
    /// What has come and is not understood yet begins at `at`.
    input: Vec<u8>,
    at: usize,
    /// The frames so far of a message that goes on, and their bytes.
    message: Vec<Vec<u8>>,
    bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Greeting,
    Introduction,
    Talk,
    Over(Wrong),
}

/// A frame as it stands in the input.
struct Frame {
    flags: u8,
    body: Vec<u8>,
}

impl Session {
    /// A conversation in which we are of this kind, before its first byte.
    pub fn new(own: Kind) -> Session {
        let (input, message) = (Vec::new(), Vec::new());
        Session { own, stage: Stage::Greeting, longest: MAX_MESSAGE, input, at: 0, message, bytes: 0 }
    }

    /// The same, with messages of so many bytes.
    pub fn with_longest(self, longest: usize) -> Session {
        Session { longest, ..self }
    }

    /// Which kind we are.
    pub fn own(&self) -> Kind {
        self.own
    }

    /// Takes in what has come.
    pub fn add(&mut self, bytes: &[u8]) {
        if matches!(self.stage, Stage::Over(_)) {
            return;
        }
        self.input.drain(..self.at);
        self.at = 0;
        if self.input.len() < KEPT {
            // What one long message needed is not kept for the next.
            self.input.shrink_to(KEPT);
        }
        self.input.extend_from_slice(bytes);
    }

    /// How many bytes are held of what is not complete.
    pub fn held(&self) -> usize {
        self.input.len() - self.at + self.bytes
    }

    /// What is said next; nothing until more has come.
    ///
    /// # Errors
    /// Nothing more will be said: the connection is to be closed.
    pub fn hear(&mut self) -> Result<Option<Said>, Wrong> {
        if let Stage::Over(wrong) = &self.stage {
            return Err(wrong.clone());
        }
        let said = self.listen();
        if let Err(wrong) = &said {
            *self = Session { stage: Stage::Over(wrong.clone()), ..Session::new(self.own) };
        }
        said
    }

    fn listen(&mut self) -> Result<Option<Said>, Wrong> {
        loop {
            match self.stage {
                Stage::Greeting => match self.greeting()? {
                    true => self.stage = Stage::Introduction,
                    false => return Ok(None),
                },
                Stage::Introduction => {
                    let Some(frame) = self.frame()? else { return Ok(None) };
                    self.introduced(&frame)?;
                    self.stage = Stage::Talk;
                    return Ok(Some(Said::Ready));
                }
                Stage::Talk => {
                    let Some(frame) = self.frame()? else { return Ok(None) };
                    let said = match frame.flags & COMMAND {
                        0 => self.part(frame)?,
                        _ => command(&frame.body)?,
                    };
                    if said.is_some() {
                        return Ok(said);
                    }
                }
                Stage::Over(_) => return Ok(None),
            }
        }
    }

    /// Whether the whole greeting is there. What is wrong with it is said as soon as it can be known.
    fn greeting(&mut self) -> Result<bool, Wrong> {
        let input = &self.input[self.at..];
        let is = |at: usize, right: fn(u8) -> bool| input.get(at).is_none_or(|byte| right(*byte));
        if !is(0, |byte| byte == 0xff) || !is(9, |byte| byte == 0x7f) {
            return Err(Wrong::Stranger);
        }
        if let Some(major @ ..3) = input.get(10) {
            return Err(Wrong::Version(*major));
        }
        if input.len() < GREETING {
            return Ok(false);
        }
        let mechanism = &input[12..32];
        if mechanism.strip_prefix(b"NULL").is_none_or(|rest| rest.iter().any(|byte| *byte != 0)) {
            let name = mechanism.split(|byte| *byte == 0).next().unwrap_or_default();
            return Err(Wrong::Mechanism(printable(name)));
        }
        self.at += GREETING;
        Ok(true)
    }

    /// The next frame, once it is whole.
    fn frame(&mut self) -> Result<Option<Frame>, Wrong> {
        let input = &self.input[self.at..];
        let Some((&flags, rest)) = input.split_first() else { return Ok(None) };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(Wrong::Malformed("flags that mean nothing"));
        }
        let (size, head) = match flags & LONG {
            0 => match rest.first() {
                Some(size) => (u64::from(*size), 2),
                None => return Ok(None),
            },
            _ => match rest.first_chunk() {
                Some(size) => (u64::from_be_bytes(*size), 9),
                None => return Ok(None),
            },
        };
        let (what, most) = match flags & COMMAND {
            0 => ("message", self.longest - self.bytes),
            _ => ("command", MAX_COMMAND),
        };
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= most) else {
            let before = if what == "message" { self.bytes } else { 0 };
            return Err(Wrong::TooLong { what, bytes: size.saturating_add(before as u64), most: most + before });
        };
        let Some(body) = input.get(head..head + size) else { return Ok(None) };
        let frame = Frame { flags, body: body.to_vec() };
        self.at += head + size;
        Ok(Some(frame))
    }

    /// Whether a peer that introduces itself may talk to us.
    fn introduced(&self, frame: &Frame) -> Result<(), Wrong> {
        if frame.flags & COMMAND == 0 {
            return Err(Wrong::Malformed("it does not introduce itself"));
        }
        let (name, mut data) = named(&frame.body)?;
        match name {
            b"READY" => {}
            b"ERROR" => return Err(refusal(data)),
            _ => return Err(Wrong::Malformed("it does not introduce itself")),
        }
        let mut kind: Option<&[u8]> = None;
        while !data.is_empty() {
            let (property, value, rest) = property(data).ok_or(Wrong::Malformed("a property that is cut off"))?;
            data = rest;
            if property.eq_ignore_ascii_case(b"Socket-Type") {
                kind = Some(value);
            }
            if property.eq_ignore_ascii_case(b"Identity") && value.len() > MAX_IDENTITY {
                return Err(Wrong::Malformed("an identity of more than 255 bytes"));
            }
        }
        let kind = kind.ok_or(Wrong::Malformed("it does not say what kind of socket it is"))?;
        match self.own.peers().iter().any(|peer| peer.as_bytes() == kind) {
            true => Ok(()),
            false => Err(Wrong::Type(printable(kind))),
        }
    }

    /// A frame of a message: the message, where it is the last.
    fn part(&mut self, Frame { flags, body }: Frame) -> Result<Option<Said>, Wrong> {
        if self.message.len() == MAX_FRAMES {
            return Err(Wrong::TooMany);
        }
        self.bytes += body.len();
        self.message.push(body);
        if flags & MORE != 0 {
            return Ok(None);
        }
        self.bytes = 0;
        let message = std::mem::take(&mut self.message);
        // Until 3.1 a subscription was a message.
        Ok(Some(match (self.own, &message[..]) {
            (Kind::Pub, [frame]) if frame.first() == Some(&1) => Said::Subscribe(frame[1..].to_vec()),
            (Kind::Pub, [frame]) if frame.first() == Some(&0) => Said::Cancel(frame[1..].to_vec()),
            _ => Said::Message(message),
        }))
    }
}

/// What a command says; nothing where it is none that concerns us.
fn command(body: &[u8]) -> Result<Option<Said>, Wrong> {
    let (name, data) = named(body)?;
    Ok(match name {
        b"SUBSCRIBE" => Some(Said::Subscribe(data.to_vec())),
        b"CANCEL" => Some(Said::Cancel(data.to_vec())),
        b"PING" => match data.split_at_checked(2) {
            Some((_ttl, context)) if context.len() <= MAX_CONTEXT => Some(Said::Ping(context.to_vec())),
            _ => return Err(Wrong::Malformed("a PING that is none")),
        },
        b"ERROR" => return Err(refusal(data)),
        _ => None,
    })
}

/// A command's name and its data.
fn named(body: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    let (size, rest) = body.split_first().ok_or(Wrong::Malformed("a command without a name"))?;
    match *size {
        0 => Err(Wrong::Malformed("a command without a name")),
        size => rest.split_at_checked(size.into()).ok_or(Wrong::Malformed("a command's name that is cut off")),
    }
}

/// The first property of some: its name, its value, and the rest.
fn property(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (size, rest) = data.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*size))?;
    let (size, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    Some((name, value, rest))
}

fn refusal(data: &[u8]) -> Wrong {
    let reason = data.split_first().map_or(&[][..], |(size, rest)| &rest[..rest.len().min((*size).into())]);
    Wrong::Refused(printable(reason))
}

/// A stranger's text as it may stand in a log.
fn printable(text: &[u8]) -> String {
    text.escape_ascii().take(64).map(char::from).collect()
}

// ---- our side ----

/// The first bytes of our side: the greeting and the introduction. They may be sent before anything was heard.
pub fn opening(own: Kind) -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 1];
    bytes.extend_from_slice(b"NULL");
    bytes.resize(GREETING, 0);
    let kind = own.name();
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend_from_slice(&[0, 0, 0, kind.len() as u8]);
    ready.extend_from_slice(kind.as_bytes());
    if own == Kind::Dealer {
        // An empty one: the other side is to think of one.
        ready.extend_from_slice(b"\x08Identity\0\0\0\0");
    }
    frame(COMMAND, &ready, &mut bytes);
    bytes
}

/// A message of these frames.
pub fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
    for (at, body) in frames.iter().enumerate() {
        let more = if at + 1 < frames.len() { MORE } else { 0 };
        frame(more, body, &mut bytes);
    }
    bytes
}

/// The answer to a PING.
pub fn pong(context: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(COMMAND, &[b"\x04PONG", context].concat(), &mut bytes);
    bytes
}

/// Asks for what begins with `topic`.
pub fn subscribe(topic: &[u8]) -> Vec<u8> {
    // In the old way, which every version understands.
    message(&[&[b"\x01", topic].concat()])
}

fn frame(flags: u8, body: &[u8], bytes: &mut Vec<u8>) {
    match u8::try_from(body.len()) {
        Ok(size) => bytes.extend_from_slice(&[flags, size]),
        Err(_) => {
            bytes.push(flags | LONG);
            bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said when the bytes come in pieces of this size; the error that ended it, if one did.
    fn hear(own: Kind, bytes: &[u8], piece: usize) -> (Vec<Said>, Option<Wrong>) {
        let mut session = Session::new(own);
        let mut said = Vec::new();
        for piece in bytes.chunks(piece) {
            session.add(piece);
            loop {
                match session.hear() {
                    Ok(Some(next)) => said.push(next),
                    Ok(None) => break,
                    Err(wrong) => return (said, Some(wrong)),
                }
            }
        }
        (said, None)
    }

    fn command(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(COMMAND, body, &mut bytes);
        bytes
    }

    /// A conversation with all that there is in one.
    fn conversation() -> Vec<u8> {
        [
            opening(Kind::Dealer),
            message(&[b"{}"]),
            message(&[b"", &[7; 300]]),
            command(b"\x04PING\0\x0acontext"),
            command(b"\x09SUBSCRIBEwatcher."),
            command(b"\x06CANCELwatcher."),
            command(b"\x05OTHERxyz"),
            message(&[b"last"]),
        ]
        .concat()
    }

    fn all() -> Vec<Said> {
        vec![
            Said::Ready,
            Said::Message(vec![b"{}".to_vec()]),
            Said::Message(vec![Vec::new(), vec![7; 300]]),
            Said::Ping(b"context".to_vec()),
            Said::Subscribe(b"watcher.".to_vec()),
            Said::Cancel(b"watcher.".to_vec()),
            Said::Message(vec![b"last".to_vec()]),
        ]
    }

    #[test]
    fn a_conversation_is_the_same_in_whatever_pieces_it_comes() {
        let bytes = conversation();
        for piece in 1..=bytes.len() {
            assert_eq!(hear(Kind::Router, &bytes, piece), (all(), None), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_cut_off_says_what_was_whole_and_nothing_else() {
        let bytes = conversation();
        let mut last = 0;
        for end in 0..=bytes.len() {
            let (said, wrong) = hear(Kind::Router, &bytes[..end], 7);
            assert_eq!((&said[..], wrong), (&all()[..said.len()], None), "cut off at {end}");
            assert!(said.len() >= last);
            last = said.len();
        }
        assert_eq!(last, all().len());
    }

    #[test]
    fn a_corrupted_byte_harms_nothing_and_what_stood_before_it_is_heard() {
        let bytes = conversation();
        for at in 0..bytes.len() {
            let (before, _) = hear(Kind::Router, &bytes[..at], bytes.len());
            for byte in [0, 1, 2, 4, 7, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x80] {
                let mut bytes = bytes.clone();
                bytes[at] = byte;
                let whole = hear(Kind::Router, &bytes, bytes.len());
                assert_eq!(whole, hear(Kind::Router, &bytes, 3), "byte {at} is {byte}");
                assert_eq!(whole.0[..before.len()], before[..], "byte {at} is {byte}");
            }
        }
    }

    #[test]
    fn each_kind_takes_those_that_it_can_talk_to() {
        let all = [Kind::Dealer, Kind::Router, Kind::Pub, Kind::Sub];
        for own in all {
            for peer in all {
                let fits = matches!(
                    (own, peer),
                    (Kind::Router, Kind::Dealer | Kind::Router)
                        | (Kind::Dealer, Kind::Router | Kind::Dealer)
                        | (Kind::Pub, Kind::Sub)
                        | (Kind::Sub, Kind::Pub)
                );
                let expected =
                    if fits { (vec![Said::Ready], None) } else { (vec![], Some(Wrong::Type(peer.name().into()))) };
                assert_eq!(hear(own, &opening(peer), 1000), expected, "{own:?} and {peer:?}");
            }
        }
    }

    #[test]
    fn a_size_is_judged_before_its_bytes_have_come() {
        let after = |bytes: &[u8]| hear(Kind::Router, &[&opening(Kind::Dealer), bytes].concat(), 1 << 20).1;
        let long = |flags: u8, size: u64| [&[flags | LONG][..], &size.to_be_bytes()].concat();
        for size in [1 << 40, 1 << 62, u64::MAX, MAX_MESSAGE as u64 + 1] {
            for flags in [0, MORE] {
                let what = Wrong::TooLong { what: "message", bytes: size, most: MAX_MESSAGE };
                assert_eq!(after(&long(flags, size)), Some(what));
            }
            let what = Wrong::TooLong { what: "command", bytes: size, most: MAX_COMMAND };
            assert_eq!(after(&long(COMMAND, size)), Some(what));
        }
        assert_eq!(after(&long(0, MAX_MESSAGE as u64)), None);
        // Together with what came before it.
        let half = [long(MORE, MAX_MESSAGE as u64 / 2), vec![0; MAX_MESSAGE / 2]].concat();
        assert_eq!(after(&[&half[..], &long(0, MAX_MESSAGE as u64 / 2)].concat()), None);
        let both = [&half[..], &long(0, MAX_MESSAGE as u64 / 2 + 1)].concat();
        let sum = MAX_MESSAGE as u64 + 1;
        assert_eq!(after(&both), Some(Wrong::TooLong { what: "message", bytes: sum, most: MAX_MESSAGE }));
    }

    #[test]
    fn a_message_of_the_greatest_size_is_taken_and_its_room_given_back() {
        let mut session = Session::new(Kind::Router);
        session.add(&opening(Kind::Dealer));
        assert_eq!(session.hear(), Ok(Some(Said::Ready)));
        let sent = vec![1; MAX_MESSAGE];
        session.add(&message(&[&sent]));
        assert_eq!(session.held(), MAX_MESSAGE + 9);
        assert_eq!(session.hear(), Ok(Some(Said::Message(vec![sent]))));
        assert_eq!(session.held(), 0);
        session.add(b"\0");
        assert!(session.input.capacity() <= KEPT, "{} bytes are kept for one", session.input.capacity());
    }

    #[test]
    fn a_message_has_so_many_frames_and_no_more() {
        let frames = |count: usize| [opening(Kind::Dealer), message(&vec![&b"x"[..]; count])].concat();
        assert_eq!(hear(Kind::Router, &frames(MAX_FRAMES), 1000).0.len(), 2);
        assert_eq!(hear(Kind::Router, &frames(MAX_FRAMES + 1), 1000).1, Some(Wrong::TooMany));
    }

    #[test]
    fn strangers_are_told_from_their_first_bytes() {
        let mut old = opening(Kind::Dealer);
        old[10] = 1;
        let mut curve = opening(Kind::Dealer);
        curve[12..17].copy_from_slice(b"CURVE");
        let table: [(&[u8], Wrong); 5] = [
            (b"G", Wrong::Stranger),
            (b"GET / HTTP/1.1\r\n\r\n", Wrong::Stranger),
            (b"\xff\0\0\0\0\0\0\0\0\x00", Wrong::Stranger),
            (&old[..11], Wrong::Version(1)),
            (&curve, Wrong::Mechanism("CURVE".into())),
        ];
        for (bytes, wrong) in table {
            assert_eq!(hear(Kind::Router, bytes, 1), (vec![], Some(wrong)));
        }
    }

    #[test]
    fn subscriptions_of_before_3_1_are_messages_to_a_pub_alone() {
        let bytes = [opening(Kind::Sub), message(&[b"\x01a"]), message(&[b"\x00a"]), message(&[b"b"])].concat();
        let said = [
            Said::Ready,
            Said::Subscribe(b"a".to_vec()),
            Said::Cancel(b"a".to_vec()),
            Said::Message(vec![b"b".to_vec()]),
        ];
        assert_eq!(hear(Kind::Pub, &bytes, 1000), (said.to_vec(), None));
        let bytes = [opening(Kind::Dealer), message(&[b"\x01a"])].concat();
        assert_eq!(hear(Kind::Router, &bytes, 1000).0[1], Said::Message(vec![b"\x01a".to_vec()]));
    }

    #[test]
    fn after_an_error_nothing_is_heard() {
        let mut session = Session::new(Kind::Router);
        session.add(b"rubbish");
        assert_eq!(session.hear(), Err(Wrong::Stranger));
        session.add(&conversation());
        assert_eq!((session.hear(), session.held()), (Err(Wrong::Stranger), 0));
    }
}
