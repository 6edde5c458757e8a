//! Messages through Redis under a seal: whoever has no share in the cluster's secret can read none, and write none.
//!
//! A sealed message is bytes: `circus1`, 16 random bytes, and the text encrypted and authenticated by ChaCha20-Poly1305
//! (RFC 8439). Its key is drawn from the secret by HKDF-SHA256 (RFC 5869), with the random bytes and the name of the channel
//! as its info. So each message has a key of its own, which needs no nonce, and opens on its own channel alone: since a
//! node's channel bears its name, a message cannot be led to another node.
//!
//! That nobody says again what was said once is not the seal's business: see [`super::fresh`].

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use tokio::time::Instant;

use crate::model::spec;

/// What a sealed message begins with; no JSON does.
const MARK: &[u8; 7] = b"circus1";
/// How many random bytes follow.
const RANDOM: usize = 16;
/// What makes our keys others than those that anybody else draws from the same secret.
const PURPOSE: &[u8] = b"circus-agent messages";
/// How many bytes longer a message is with its seal.
pub(super) const OVERHEAD: usize = MARK.len() + RANDOM + 16;
/// What a secret's mark is drawn with; no message's key is, because that begins with random bytes and a channel's name.
const MARKING: &[u8] = b"mark of a secret";
/// How many bytes a mark has: enough to tell secrets apart.
const MARK_LEN: usize = 8;
/// How often the file is looked at, at most.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The seal of a cluster; clones share what was read. Without a file nothing is sealed, and nothing sealed is taken.
#[derive(Clone, Default)]
pub(super) struct Seal(Option<Arc<Shared>>);

struct Shared {
    file: PathBuf,
    kept: Mutex<Option<Kept>>,
}

/// What was read, and when.
struct Kept {
    at: Instant,
    secrets: Result<Vec<Prk>, String>,
}

impl Seal {
    /// The seal whose secrets are the lines of `file`. It is read when it is needed, so that they can be changed while
    /// agents run: the first line seals, and all of them open.
    pub(super) fn new(file: Option<PathBuf>) -> Seal {
        Seal(file.map(|file| Arc::new(Shared { file, kept: Mutex::new(None) })))
    }

    /// Whether messages are sealed.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// What the secrets are told apart by, the one that seals first; none where nothing is sealed, or the secret cannot
    /// be had. A mark says no more about a secret than any message that is sealed with it.
    pub(super) fn marks(&self) -> Vec<String> {
        let Some(shared) = &self.0 else { return Vec::new() };
        shared.with(|secrets| secrets.iter().map(mark).collect()).unwrap_or_default()
    }

    /// What is sent on `channel` for `text`.
    ///
    /// # Errors
    /// The secret cannot be had, in words.
    pub(super) fn close<'a>(&self, channel: &str, text: &'a str) -> Result<Cow<'a, [u8]>, String> {
        let Some(shared) = &self.0 else { return Ok(Cow::Borrowed(text.as_bytes())) };
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random).map_err(|error| format!("no random bits: {error}"))?;
        let key = shared.with(|secrets| key(&secrets[0], &random, channel))?;
        let mut sealed = text.as_bytes().to_vec();
        let (nonce, aad) = once();
        key.seal_in_place_append_tag(nonce, aad, &mut sealed).map_err(|_| "it is too long to be sealed")?;
        Ok(Cow::Owned([&MARK[..], &random, &sealed].concat()))
    }

    /// The text that came on `channel` as `payload`.
    ///
    /// # Errors
    /// It is not to be taken, and why.
    pub(super) fn open<'a>(&self, channel: &str, payload: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let sealed = payload.strip_prefix(MARK).and_then(<[u8]>::split_first_chunk::<RANDOM>);
        match (&self.0, sealed) {
            (None, None) => Ok(Cow::Borrowed(payload)),
            (None, Some(_)) => Err("it is sealed, and there is no secret_file here".into()),
            (Some(_), None) => Err("it is not sealed".into()),
            (Some(shared), Some((random, sealed))) => {
                let keys: Vec<LessSafeKey> =
                    shared.with(|secrets| secrets.iter().map(|secret| key(secret, random, channel)).collect())?;
                let opened = keys.iter().find_map(|key| {
                    let (nonce, aad) = once();
                    let mut text = sealed.to_vec();
                    let length = key.open_in_place(nonce, aad, &mut text).ok()?.len();
                    text.truncate(length);
                    Some(text)
                });
                opened.map(Cow::Owned).ok_or_else(|| "its seal is of another secret, or for another channel".into())
            }
        }
    }
}

impl Shared {
    /// Does something with the secrets, of which there is one at least.
    fn with<T>(&self, use_them: impl FnOnce(&[Prk]) -> T) -> Result<T, String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|kept| kept.at.elapsed() >= READ_EVERY) {
            *kept = Some(Kept { at: Instant::now(), secrets: read(&self.file) });
        }
        let secrets = &kept.as_ref().expect("it has just been read").secrets;
        secrets.as_ref().map(|secrets| use_them(secrets)).map_err(Clone::clone)
    }
}

fn read(file: &Path) -> Result<Vec<Prk>, String> {
    let shown = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("secret_file {shown}: {error}"))?;
    let secrets = spec::secrets(&text).map_err(|why| format!("secret_file {shown}: {why}"))?;
    let salt = Salt::new(HKDF_SHA256, PURPOSE);
    Ok(secrets.into_iter().map(|secret| salt.extract(secret.as_bytes())).collect())
}

/// The key of one message.
fn key(secret: &Prk, random: &[u8; RANDOM], channel: &str) -> LessSafeKey {
    let info = [random, channel.as_bytes()];
    let key = secret.expand(&info, &CHACHA20_POLY1305).expect("a key is no longer than HKDF gives");
    LessSafeKey::new(UnboundKey::from(key))
}

/// The length of a mark, as HKDF wants to be told it.
struct Mark;

impl KeyType for Mark {
    fn len(&self) -> usize {
        MARK_LEN
    }
}

/// What a secret is told by, in hexadecimal.
fn mark(secret: &Prk) -> String {
    let mut mark = [0; MARK_LEN];
    let drawn = secret.expand(&[MARKING], Mark).and_then(|drawn| drawn.fill(&mut mark));
    drawn.expect("a mark is no longer than HKDF gives");
    format!("{:016x}", u64::from_be_bytes(mark))
}

/// The nonce of a key that is used once, and no more to authenticate: the key knows the channel.
fn once() -> (Nonce, Aad<[u8; 0]>) {
    (Nonce::assume_unique_for_key([0; NONCE_LEN]), Aad::empty())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TEXT: &str = r#"{"v":1}"#;
    const CHANNEL: &str = "circus:{prod}:bus:web-1";

    fn sealing(lines: &[&str]) -> (Seal, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{}", lines.join("\n")).unwrap();
        (Seal::new(Some(file.path().to_owned())), file)
    }

    fn secret(letter: char) -> String {
        std::iter::repeat_n(letter, 32).collect()
    }

    fn why(opened: Result<Cow<'_, [u8]>, String>) -> String {
        opened.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_err()
    }

    #[test]
    fn what_was_sealed_opens_on_its_channel_under_its_secret_alone() {
        let (ours, _file) = sealing(&[&secret('a')]);
        let sealed = ours.close(CHANNEL, TEXT).unwrap();
        assert_eq!(ours.open(CHANNEL, &sealed).unwrap(), TEXT.as_bytes());
        assert_ne!(sealed, ours.close(CHANNEL, TEXT).unwrap(), "no two messages look the same");
        let shown = String::from_utf8_lossy(&sealed).into_owned();
        assert!(!shown.contains("\"v\""), "{shown}");
        let other = "its seal is of another secret, or for another channel";
        assert_eq!(why(ours.open("circus:{prod}:bus:web-2", &sealed)), other);
        let (theirs, _file) = sealing(&[&secret('b')]);
        assert_eq!(why(theirs.open(CHANNEL, &sealed)), other);
        assert_eq!(why(Seal::default().open(CHANNEL, &sealed)), "it is sealed, and there is no secret_file here");
        assert_eq!(why(ours.open(CHANNEL, TEXT.as_bytes())), "it is not sealed");
        assert_eq!(Seal::default().open(CHANNEL, TEXT.as_bytes()).unwrap(), TEXT.as_bytes());
        assert_eq!(Seal::default().close(CHANNEL, TEXT).unwrap(), TEXT.as_bytes());
    }

    #[test]
    fn secrets_are_told_apart_by_marks_that_say_nothing_of_them() {
        let (a, b) = (secret('a'), secret('b'));
        let (both, _file) = sealing(&[&b, &a]);
        let (one, _file_2) = sealing(&[&a]);
        let marks = both.marks();
        assert_eq!((marks.len(), &marks[1..]), (2, &one.marks()[..]));
        assert_ne!(marks[0], marks[1]);
        assert!(marks.iter().all(|mark| mark.len() == 16));
        assert_eq!(Seal::default().marks(), [""; 0]);
        let missing = Seal::new(Some("/nowhere/secret".into()));
        assert_eq!(missing.marks(), [""; 0]);
    }

    #[test]
    fn a_message_with_a_bit_changed_or_an_end_missing_opens_nowhere() {
        let (ours, _file) = sealing(&[&secret('a')]);
        let sealed = ours.close(CHANNEL, TEXT).unwrap();
        for end in 0..sealed.len() {
            assert!(ours.open(CHANNEL, &sealed[..end]).is_err(), "{end} bytes");
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ours.open(CHANNEL, &changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_secret_is_changed_line_by_line() {
        let (old, new) = (secret('a'), secret('b'));
        let (before, _file) = sealing(&[&old]);
        let (between, _file_2) = sealing(&["", &new, &format!("  {old} ")]);
        let (after, _file_3) = sealing(&[&new]);
        let opens = |from: &Seal, to: &Seal| to.open(CHANNEL, &from.close(CHANNEL, TEXT).unwrap()).is_ok();
        assert!(opens(&before, &between) && opens(&between, &after) && !opens(&between, &before));
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_told_with_the_way_out() {
        let (short, _file) = sealing(&["hunter2"]);
        let (empty, _file_2) = sealing(&[""]);
        let missing = Seal::new(Some("/nowhere/secret".into()));
        for (seal, says) in
            [(short, "7 bytes is too short"), (empty, "it is empty"), (missing, "/nowhere/secret: No such")]
        {
            let error = seal.close(CHANNEL, TEXT).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
    }
}
