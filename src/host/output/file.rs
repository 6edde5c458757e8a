//! Files: appended to, rotated, opened anew.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use memchr::{memchr, memrchr};

use super::place::{Failure, Writer};
use super::rotation::Calendar;
use super::standard::write_all;
use crate::model::spec::Rotation;

/// How soon a rotation that failed is tried again. The file is written on until then.
const RETRY: Duration = Duration::from_secs(10);

/// Opens a file to be appended to, and makes it where it is missing. Waits for nobody: a FIFO that nobody reads from is
/// none yet.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Writes one file and those that came before it.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    zone: TimeZone,
    /// Opened when it is needed; opened anew after a failure.
    open: Option<Open>,
    /// Whether the last byte written ended a line.
    at_line_start: bool,
    /// When a rotation that failed is tried again.
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// When it gives way by time.
    due: Option<Timestamp>,
    /// Whether it is a file that can give way, and no FIFO or device.
    regular: bool,
}

impl LogFile {
    /// Writes to `path`, which may be open already.
    pub(super) fn new(path: PathBuf, file: Option<File>, zone: TimeZone) -> LogFile {
        let (rotation, at_line_start) = (Rotation::Never, true);
        let mut log = LogFile { path, rotation, zone, open: None, at_line_start, retry: None };
        // What cannot be looked at now is opened again, and fails there.
        log.open = file.and_then(|file| log.look_at(file).ok());
        log
    }

    /// The file, with its size and the time of its turn.
    fn opened(&mut self) -> Result<&mut Open, Failure> {
        if self.open.is_none() {
            let file = open(&self.path).and_then(|file| file.ok_or_else(|| io::Error::from_raw_os_error(libc::ENXIO)));
            let opened = file.and_then(|file| self.look_at(file));
            self.open = Some(opened.map_err(|error| self.failure("open", error))?);
        }
        Ok(self.open.as_mut().expect("opened above"))
    }

    fn look_at(&self, file: File) -> io::Result<Open> {
        let about = file.metadata()?;
        let mut open = Open { file, size: about.len(), due: None, regular: about.is_file() };
        let now = Timestamp::now();
        let begun = if open.size == 0 { now } else { Timestamp::from_second(about.mtime()).unwrap_or(now) };
        open.due = self.calendar().map(|calendar| calendar.next(begun));
        Ok(open)
    }

    fn calendar(&self) -> Option<Calendar> {
        match self.rotation {
            Rotation::Time { every, interval, utc, .. } => {
                Some(Calendar::new(every, interval, if utc { TimeZone::UTC } else { self.zone.clone() }))
            }
            Rotation::Never | Rotation::Size { .. } | Rotation::Watched => None,
        }
    }

    /// Lets go of a file that is no longer the one of that name.
    fn notice_a_move(&mut self) {
        let same = |open: &Open| {
            let (ours, named) = (open.file.metadata().ok()?, fs::metadata(&self.path).ok()?);
            Some((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
        };
        if self.rotation == Rotation::Watched && !self.open.as_ref().and_then(same).unwrap_or(false) {
            self.open = None;
        }
    }

    /// How much of `bytes` the file takes before it is its turn; nothing where it is now.
    fn portion(&mut self, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        let patient = self.retry.is_some_and(|retry| Instant::now() < retry);
        let (rotation, at_line_start) = (self.rotation.clone(), self.at_line_start);
        let open = self.opened()?;
        if !open.regular || patient {
            return Ok(Some(bytes.len()));
        }
        Ok(match rotation {
            Rotation::Size { max_bytes: max @ 1.., .. } => portion_by_size(bytes, open.size, max, at_line_start),
            Rotation::Time { .. } if open.due.is_some_and(|due| due <= Timestamp::now()) => None,
            _ => Some(bytes.len()),
        })
    }

    /// Lets the file give way to a new one.
    fn give_way(&mut self) {
        let done = match (self.rotation.clone(), self.calendar()) {
            (Rotation::Size { backups, .. }, _) => self.shift(backups),
            (Rotation::Time { backups, .. }, Some(calendar)) => self.date(&calendar, backups),
            _ => Ok(()),
        };
        match done {
            Ok(()) => self.retry = None,
            Err(error) => {
                tracing::warn!("{}; it is written on, and rotated later", self.failure("rotate", error));
                self.retry = Some(Instant::now() + RETRY);
            }
        }
    }

    /// `NAME` becomes `NAME.1`, that `NAME.2`, and so on; where none is kept, the file begins anew.
    fn shift(&mut self, backups: u32) -> io::Result<()> {
        if backups == 0 {
            if let Some(open) = &mut self.open {
                open.file.set_len(0)?;
                open.size = 0;
            }
            return Ok(());
        }
        // Only those that there are: `backups` may be any number.
        let there = (1..backups).take_while(|number| self.named(&number.to_string()).exists()).count() as u32;
        for number in (1..=there).rev() {
            fs::rename(self.named(&number.to_string()), self.named(&(number + 1).to_string()))?;
        }
        self.set_aside(&self.named("1"))
    }

    /// `NAME` becomes `NAME.<time>`, and the oldest go.
    fn date(&mut self, calendar: &Calendar, backups: u32) -> io::Result<()> {
        let Some((due, size)) = self.open.as_ref().and_then(|open| Some((open.due?, open.size))) else { return Ok(()) };
        let named = self.named(&calendar.suffix(due));
        if let Some(open) = &mut self.open
            && (size == 0 || named.exists())
        {
            // There is nothing to keep, or it would take the place of what is kept: the hour that clocks repeat.
            open.due = Some(calendar.next(Timestamp::now()));
            return Ok(());
        }
        self.set_aside(&named)?;
        self.prune(calendar, backups)
    }

    /// Gives the file another name. Who took it away has done our work.
    fn set_aside(&mut self, name: &Path) -> io::Result<()> {
        self.open = None;
        match fs::rename(&self.path, name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes all but the newest `backups` files that were named by time; 0 keeps all.
    fn prune(&self, calendar: &Calendar, backups: u32) -> io::Result<()> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        if backups == 0 {
            return Ok(());
        }
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let start = format!("{}.", name.to_string_lossy());
        let mut ours: Vec<OsString> = fs::read_dir(dir)?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|found| found.to_str().and_then(|f| f.strip_prefix(&start)).is_some_and(|s| calendar.is_suffix(s)))
            .collect();
        // Such names sort by time.
        ours.sort();
        let old = ours.len().saturating_sub(backups as usize);
        ours[..old].iter().try_for_each(|name| fs::remove_file(dir.join(name)))
    }

    /// The file's name with something behind it.
    fn named(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(suffix);
        name.into()
    }

    fn failure(&self, verb: &str, error: io::Error) -> Failure {
        Failure { step: format!("{verb} {:?}", self.path), error }
    }
}

impl Writer for LogFile {
    fn write(&mut self, bytes: &mut &[u8]) -> Result<(), Failure> {
        self.notice_a_move();
        while !bytes.is_empty() {
            let Some(length) = self.portion(bytes)? else {
                self.give_way();
                continue;
            };
            let portion = &bytes[..length];
            let open = self.opened()?;
            let mut left = portion;
            let result = write_all(&open.file, &mut left);
            let written = length - left.len();
            open.size += written as u64;
            if let Some(last) = portion[..written].last() {
                self.at_line_start = *last == b'\n';
            }
            *bytes = &bytes[written..];
            if let Err(error) = result {
                self.open = None;
                return Err(self.failure("write", error));
            }
        }
        Ok(())
    }

    fn reopen(&mut self) {
        self.open = None;
    }

    fn rotate(&mut self, rotation: Rotation) {
        if rotation != self.rotation {
            self.rotation = rotation;
            // A new calendar begins with the file as it is found.
            self.open = None;
        }
    }
}

/// How much of `bytes` a file of `size` takes so that it stays below `max`; nothing where it must give way first. Cuts
/// between lines; a line too long for any file is written whole, and one that came in parts may be cut between them.
fn portion_by_size(bytes: &[u8], size: u64, max: u64, at_line_start: bool) -> Option<usize> {
    let room = usize::try_from((max - 1).saturating_sub(size)).unwrap_or(usize::MAX);
    if bytes.len() <= room {
        return Some(bytes.len());
    }
    let whole_lines = memrchr(b'\n', &bytes[..room]).map(|at| at + 1);
    let one_line = memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
    match whole_lines {
        Some(length) => Some(length),
        None if size > 0 && (at_line_start || size >= max) => None,
        None => Some(one_line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Rollover;

    fn log(path: &Path, rotation: Rotation) -> LogFile {
        let mut log = LogFile::new(path.into(), None, TimeZone::UTC);
        log.rotate(rotation);
        log
    }

    fn write(log: &mut LogFile, text: &str) {
        let mut bytes = text.as_bytes();
        log.write(&mut bytes).unwrap();
        assert_eq!(bytes, b"");
    }

    /// The files of a directory, by name, with what is in them.
    fn files(dir: &Path) -> Vec<(String, String)> {
        let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        found.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(name, text)| (name.into(), text.into())).into()
    }

    #[test]
    fn a_file_that_would_reach_its_size_gives_way_between_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&path, Rotation::Size { max_bytes: 10, backups: 2 });
        write(&mut log, "aaa\nbbb\nccc\ndd");
        write(&mut log, "d\neee\nfff\nggg\n");
        assert_eq!(files(dir.path()), pairs([("log", "ggg\n"), ("log.1", "eee\nfff\n"), ("log.2", "ccc\nddd\n")]));
        // Too long for any file.
        write(&mut log, "hhhhhhhhhhhhhhhhhhhh\ni\n");
        let long = "hhhhhhhhhhhhhhhhhhhh\n";
        assert_eq!(files(dir.path()), pairs([("log", "i\n"), ("log.1", long), ("log.2", "ggg\n")]));
    }

    #[test]
    fn output_without_line_ends_gives_way_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&path, Rotation::Size { max_bytes: 10, backups: 1 });
        for _ in 0..4 {
            write(&mut log, "xxxxxx");
        }
        assert_eq!(files(dir.path()), pairs([("log", "xxxxxxxxxxxx"), ("log.1", "xxxxxxxxxxxx")]));
    }

    #[test]
    fn a_file_without_backups_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&path, Rotation::Size { max_bytes: 10, backups: 0 });
        write(&mut log, "aaa\nbbb\nccc\n");
        assert_eq!(files(dir.path()), pairs([("log", "ccc\n")]));
    }

    #[test]
    fn a_rotation_that_fails_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::create_dir_all(dir.path().join("log.1/in the way")).unwrap();
        let mut log = log(&path, Rotation::Size { max_bytes: 10, backups: 1 });
        write(&mut log, "aaa\nbbb\nccc\nddd\n");
        write(&mut log, "eee\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "aaa\nbbb\nccc\nddd\neee\n");
    }

    #[test]
    fn a_file_gives_way_by_time_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for name in ["log.2020-01-01_00", "log.2020-01-01_01.gz", "log.2020-01-01", "log.1", "other.2020-01-01_00"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::write(&path, "old\n").unwrap();
        let begun = std::time::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(begun).unwrap();
        let every = Rotation::Time { every: Rollover::Hours, interval: 1, utc: true, backups: 2 };
        let mut log = log(&path, every);
        write(&mut log, "new\n");
        write(&mut log, "newer\n");
        let names: Vec<_> = files(dir.path()).into_iter().map(|(name, _)| name).collect();
        let kept =
            ["log", "log.1", "log.2020-01-01", "log.2020-01-01_01.gz", "log.2020-09-13_12", "other.2020-01-01_00"];
        assert_eq!(names, kept);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\nnewer\n");
        assert_eq!(fs::read_to_string(dir.path().join("log.2020-09-13_12")).unwrap(), "old\n");
    }

    #[test]
    fn a_file_that_was_moved_is_left_where_it_is_when_watched_or_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let move_away = |name: &str| fs::rename(&path, dir.path().join(name)).unwrap();
        let mut log = log(&path, Rotation::Watched);
        write(&mut log, "a\n");
        move_away("log.a");
        write(&mut log, "b\n");
        log.rotate(Rotation::Never);
        write(&mut log, "c\n");
        move_away("log.bc");
        write(&mut log, "d\n");
        log.reopen();
        write(&mut log, "e\n");
        assert_eq!(files(dir.path()), pairs([("log", "e\n"), ("log.a", "a\n"), ("log.bc", "b\nc\nd\n")]));
    }
}
