//! `circusctl init`: reads the file of another supervisor, and writes one for the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::ctl_exit;
use super::whom::Global;
use crate::client::ClientError;
use crate::config::{self, Converted, Format, Included, Original, Surroundings};
use crate::view::Text;

/// More than any such file needs.
const LARGEST: u64 = 16 << 20;

/// Its words.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The file: a supervisord.conf, Procfile, circus.ini, BeatCop's ini or uWSGI's; - for standard input
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Whose file it is, where that is not seen in it: supervisord, procfile, circus, beatcop, uwsgi
    #[arg(long, value_name = "FORMAT", value_parser = Format::parse)]
    format: Option<Format>,
    /// Where it is written to; without this, it is printed
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write over a file that is there
    #[arg(long, requires = "output")]
    force: bool,
}

/// Converts; what is left to print, and the exit code.
///
/// # Errors
/// The file cannot be read, is nobody's, or the new one cannot be written.
pub(super) fn run(global: &Global, words: &Init) -> Result<(Text, u8), ClientError> {
    let name = words.from.display().to_string();
    let refused = |why: String| ClientError::Refused(format!("{name}: {why}"));
    let text = read(&words.from).map_err(refused)?;
    let here = match name.as_str() {
        "-" => None,
        _ => std::path::absolute(&words.from).ok().and_then(|path| Some(path.parent()?.to_owned())),
    };
    let env_file = here.as_ref().and_then(|here| read(&here.join(".env")).ok());
    let around = Surroundings::of_this_process();
    let alone =
        Original { name: &name, text: &text, here: here.as_deref(), env_file: env_file.as_deref(), included: &[] };
    let mut included = Vec::new();
    for path in config::included(&alone, words.format, &around) {
        let text = read(&path).map_err(|why| ClientError::Refused(format!("{}: {why}", path.display())))?;
        included.push(Included { path, text });
    }
    let original = Original { included: &included, ..alone };
    let converted = config::convert(&original, words.format, &around).map_err(refused)?;
    let Converted { format, text, notes } = &converted;
    if let Some(output) = &words.output {
        write(output, text, words.force).map_err(ClientError::Refused)?;
    }
    let place = words.output.as_ref().map_or_else(|| "FILE".to_owned(), |output| output.display().to_string());
    let told = match notes.len() {
        0 => format!("all of it has an equal; `circus-agent --check {place}` looks at it\n"),
        1 => format!("1 note, in the line that begins with `; NOTE`; then `circus-agent --check {place}`\n"),
        count => format!("{count} notes, in the lines that begin with `; NOTE`; then `circus-agent --check {place}`\n"),
    };
    let reply = json!({"status": "ok", "format": format.name(), "notes": notes, "text": text});
    let text = match (global.json, global.prettify) {
        (_, true) => Text { out: format!("{reply:#}\n"), err: String::new() },
        (true, false) => Text { out: format!("{reply}\n"), err: String::new() },
        (false, false) => {
            let out = if words.output.is_some() { String::new() } else { text.clone() };
            Text { out, err: if global.quiet { String::new() } else { told } }
        }
    };
    Ok((text, ctl_exit::OK))
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = match path == Path::new("-") {
        true => io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes),
        false => File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err("it is larger than 16 MiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text; iconv(1) makes it one".into())
}

/// Writes a file whole or not at all. It may hold passwords, as its original may: it is its owner's alone, unless it is there.
fn write(path: &Path, text: &str, force: bool) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    let name = path.display();
    let failed = |error: io::Error| format!("{name} cannot be written: {error}");
    if !force {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => format!("{name} is there already; --force writes over it"),
            _ => failed(error),
        })?;
        return file.write_all(text.as_bytes()).map_err(|error| {
            // Half a configuration is worse than none.
            let _ = fs::remove_file(path);
            failed(error)
        });
    }
    fs::write(path, text).map_err(failed)
}
