//! What a reader passes on: whole lines where it can, a piece of one where it must.

use std::sync::Arc;

use jiff::Timestamp;
use memchr::{memchr, memrchr};

use crate::model::event::ProcessId;
use crate::model::names::WatcherName;

/// A line that is longer is passed on in parts.
pub(super) const LONGEST_LINE: usize = 64 * 1024;

/// Which of its two output descriptors a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One stream of one process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) process: ProcessId,
    pub(super) watcher: WatcherName,
    pub(super) wid: u32,
    pub(super) pid: u32,
    pub(super) stream: Stream,
}

/// What was read from a source at once: lines with their ends, or a piece of one line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passage<'a> {
    pub(super) source: &'a Arc<Source>,
    /// When it was read.
    pub(super) time: Timestamp,
    /// Never empty.
    pub(super) bytes: &'a [u8],
    /// Whether its first line was begun by the passage before.
    pub(super) continues: bool,
}

impl<'a> Passage<'a> {
    /// Whether its last line has come to its end.
    pub(super) fn is_finished(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }

    /// What it adds to the screen: the mere end of a line that was begun before is not another, empty line.
    pub(super) fn visible(&self) -> &'a [u8] {
        match self.bytes {
            [b'\n', rest @ ..] if self.continues => rest,
            bytes => bytes,
        }
    }
}

/// The lines of `bytes`, each with its end; the last may have none.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, after) = rest.split_at_checked(length).filter(|(line, _)| !line.is_empty())?;
        rest = after;
        Some(line)
    })
}

/// A line without its end.
pub(super) fn body(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// Cuts what comes in where lines end.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// The beginning of a line whose end has not come: less than [`LONGEST_LINE`].
    held: Vec<u8>,
    /// Whether the beginning of that line has already been passed on.
    continues: bool,
}

impl Cutter {
    /// What is held back: the next bytes to be cut begin with it.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Holds back what no line end follows. Gives the rest, and whether it continues a line.
    pub(super) fn cut<'b>(&mut self, bytes: &'b [u8]) -> Option<(&'b [u8], bool)> {
        let fresh = &bytes[self.held.len()..];
        let end = match memrchr(b'\n', fresh) {
            Some(at) => self.held.len() + at + 1,
            None if bytes.len() >= LONGEST_LINE => bytes.len(),
            None => 0,
        };
        let (cut, rest) = bytes.split_at(end);
        if rest.is_empty() {
            // A thousand idle processes are not to keep their longest lines.
            self.held = Vec::new();
        } else {
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
        (!cut.is_empty()).then(|| (cut, std::mem::replace(&mut self.continues, !cut.ends_with(b"\n"))))
    }

    /// Gives what is held back, without waiting for its end any more.
    pub(super) fn release(&mut self) -> Option<(Vec<u8>, bool)> {
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then(|| (held, std::mem::replace(&mut self.continues, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts what is read piece by piece; `None` stands for a pause.
    fn cut(pieces: &[Option<&[u8]>]) -> Vec<(String, bool)> {
        let mut cutter = Cutter::default();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut cuts = Vec::new();
        for piece in pieces {
            cuts.extend(match piece {
                Some(piece) => {
                    let bytes = [cutter.held(), piece].concat();
                    cutter.cut(&bytes).map(|(cut, continues)| (text(cut), continues))
                }
                None => cutter.release().map(|(cut, continues)| (text(&cut), continues)),
            });
        }
        cuts
    }

    #[test]
    fn lines_are_held_back_until_their_end() {
        let cuts = cut(&[Some(b"a"), Some(b"b\nc\nd"), Some(b"\n"), Some(b"e\n")]);
        assert_eq!(cuts, [("ab\nc\n".into(), false), ("d\n".into(), false), ("e\n".into(), false)]);
    }

    #[test]
    fn what_follows_a_pause_continues_the_line() {
        let cuts = cut(&[Some(b"name? "), None, None, Some(b"joe\nbye"), None]);
        assert_eq!(cuts, [("name? ".into(), false), ("joe\n".into(), true), ("bye".into(), false)]);
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_parts_and_nothing_of_it_is_lost() {
        let part = vec![b'x'; LONGEST_LINE - 1];
        let cuts = cut(&[Some(&part), Some(&part), Some(b"y\nz\n")]);
        assert_eq!(
            cuts.iter().map(|(cut, continues)| (cut.len(), *continues)).collect::<Vec<_>>(),
            [(2 * part.len(), false), (4, true)]
        );
    }

    #[test]
    fn lines_keep_their_ends_and_whatever_else_is_in_them() {
        let found: Vec<&[u8]> = lines(b"a\0\xff\n\n\r\nb").collect();
        assert_eq!(found, [b"a\0\xff\n" as &[u8], b"\n", b"\r\n", b"b"]);
        assert_eq!(lines(b"").count(), 0);
    }
}
