//! The file that says that a lease is paused, and what is asked of it.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::files::{Paths, at, private, wall_clock_ms};
use crate::model::pause::{Pause, Wish};

/// The line in the file.
#[derive(Serialize, Deserialize)]
struct Record {
    since: u64,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The pause that stands. A file that holds no record of one is a pause, too.
pub(super) fn read(paths: &Paths) -> io::Result<Option<Pause>> {
    match std::fs::read(&paths.paused) {
        Ok(text) => Ok(Some(match serde_json::from_slice(&text) {
            Ok(Record { since, by, why }) => Pause { since, by, why },
            Err(_) => Pause::parse(""),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&paths.paused)(error)),
    }
}

/// Does what is wished for: the pause that stands then, or to a resume the one that stood, and whether this made it so.
pub(super) fn carry_out(paths: &Paths, wish: &Wish) -> io::Result<(Option<Pause>, bool)> {
    match (wish, read(paths)?) {
        (Wish::Pause { by, why }, None) => {
            let pause = Pause { since: wall_clock_ms(), by: by.clone(), why: why.clone() };
            write(paths, &pause)?;
            Ok((Some(pause), true))
        }
        (Wish::Resume, Some(stood)) => {
            std::fs::remove_file(&paths.paused).map_err(at(&paths.paused))?;
            Ok((Some(stood), true))
        }
        (Wish::Pause { .. } | Wish::Resume | Wish::Look, stands) => Ok((stands, false)),
    }
}

/// Written beside it and renamed: it is there whole, or not at all.
fn write(paths: &Paths, Pause { since, by, why }: &Pause) -> io::Result<()> {
    let named = at(&paths.pausing);
    let record = Record { since: *since, by: by.clone(), why: why.clone() };
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    let mut file = private().write(true).create(true).truncate(true).open(&paths.pausing).map_err(&named)?;
    file.write_all(&line).map_err(&named)?;
    // It outlives this boot, unlike all else that is kept here.
    file.sync_all().map_err(&named)?;
    drop(file);
    std::fs::rename(&paths.pausing, &paths.paused).map_err(at(&paths.paused))
}
