//! The log: one line for each event, in the form that its reader wants.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::agent_exit;
use crate::host::output::Log;
use crate::model::spec::{LogLevel, LogOutput};

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people: with priorities for the journal, short times on a terminal, RFC 3339 otherwise.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sets the log up, once for the whole process, and starts the thread that writes it. `CIRCUS_LOG` is a filter that
/// overrides `level`.
///
/// The error is for the operator, with the exit code that it ends in: a filter that cannot be read, a file that cannot
/// be opened.
pub(super) fn logging(format: LogFormat, level: Option<LogLevel>, output: &LogOutput) -> Result<Logging, (u8, String)> {
    let usual = match level {
        Some(LogLevel::Error) => "error",
        Some(LogLevel::Warning) => "warn",
        Some(LogLevel::Info) | None => "info",
        Some(LogLevel::Debug) => "debug",
    };
    let filter = match std::env::var("CIRCUS_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(&filter).map_err(|error| (agent_exit::USAGE, format!("CIRCUS_LOG={filter}: {error}")))?
        }
        _ => EnvFilter::new(usual),
    };
    let log = Log::start(output).map_err(|error| {
        let place = match output {
            LogOutput::File(path) => path.display().to_string(),
            LogOutput::Stderr | LogOutput::Syslog(_) => "its thread".into(),
        };
        (agent_exit::UNAVAILABLE, format!("cannot begin to log: {place}: {error}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Door(log.clone()));
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_timer(Utc).try_init(),
        LogFormat::Text => {
            let style = LineStyle::of(output);
            let colour = matches!(style, LineStyle::Terminal { colour: true });
            builder.with_ansi(colour).event_format(Lines(style)).try_init()
        }
    }
    .map_err(|error| (agent_exit::INTERNAL, error.to_string()))?;
    if *output != LogOutput::Stderr {
        // Where stderr is, nobody may look.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    Ok(Logging(log))
}

/// The log that was set up. To be kept to the end: what is left to be written then is, for as long as a second.
#[derive(Debug)]
#[must_use]
pub(super) struct Logging(Log);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// Where each event goes in, with its severity.
struct Door(Log);

impl<'a> MakeWriter<'a> for Door {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry { log: &self.0, severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Entry<'a> {
        Entry { log: &self.0, severity: severity(*about.level()) }
    }
}

/// Takes the text of one event, which comes in one piece.
struct Entry<'a> {
    log: &'a Log,
    severity: u8,
}

impl io::Write for Entry<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.log.put(self.severity, text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Syslog's number for a level, which is the journal's too.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Who reads the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineStyle {
    /// systemd's journal: it has the time, and takes the priority from `<3>` to `<7>` at the line's start.
    Journal,
    /// A person: the time of day, and colours where they are welcome.
    Terminal { colour: bool },
    /// A file or a pipe: the full time, in UTC.
    Plain,
    /// A syslog server: it is given the time and the priority beside the line.
    Bare,
}

impl LineStyle {
    fn of(output: &LogOutput) -> LineStyle {
        match output {
            LogOutput::File(_) => LineStyle::Plain,
            LogOutput::Syslog(_) => LineStyle::Bare,
            LogOutput::Stderr if is_journal() => LineStyle::Journal,
            LogOutput::Stderr if io::stderr().is_terminal() => LineStyle::Terminal { colour: super::colours(true) },
            LogOutput::Stderr => LineStyle::Plain,
        }
    }
}

/// Whether standard error is the stream that `JOURNAL_STREAM` names. The variable alone is no proof: whoever started
/// us may have pointed our output elsewhere.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(found) = nix::sys::stat::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", found.st_dev, found.st_ino)
}

struct Lines(LineStyle);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        line.write_str(&head(self.0, *event.metadata().level(), now))?;
        context.format_fields(line.by_ref(), event)?;
        line.write_char('\n')
    }
}

/// What stands before the message; `now` since the Unix epoch.
fn head(style: LineStyle, level: Level, now: Duration) -> String {
    let (word, colour) = match level {
        Level::ERROR => ("error", 31),
        Level::WARN => ("warning", 33),
        Level::INFO => ("info", 0),
        Level::DEBUG | Level::TRACE => ("debug", 2),
    };
    match style {
        LineStyle::Bare => String::new(),
        LineStyle::Journal => format!("<{}>", severity(level)),
        LineStyle::Plain => format!("{} {word:<7} ", rfc3339(now)),
        LineStyle::Terminal { colour: with_colour } => {
            let time = time_of_day(now);
            match level {
                // What merely happened needs no word.
                Level::INFO => format!("{time} "),
                _ if with_colour => format!("{time} \x1b[{colour}m{word}:\x1b[0m "),
                _ => format!("{time} {word}: "),
            }
        }
    }
}

/// `2026-11-21T22:08:54.123Z`.
fn rfc3339(now: Duration) -> String {
    let seconds = now.as_secs();
    let (year, month, day) = crate::view::civil((seconds / 86_400) as i64);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", now.subsec_millis())
}

/// `22:08:54` where this machine is.
fn time_of_day(now: Duration) -> String {
    let seconds = now.as_secs() as libc::time_t;
    // SAFETY: a tm of zeroes is one, and localtime_r writes to nothing else. It reads TZ, which no thread of ours sets.
    let local = unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut local);
        local
    };
    format!("{:02}:{:02}:{:02}", local.tm_hour, local.tm_min, local.tm_sec)
}

/// RFC 3339 for the JSON log.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, line: &mut Writer<'_>) -> fmt::Result {
        line.write_str(&rfc3339(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_as_its_reader_wants() {
        let now = Duration::from_millis(1_795_298_934_123);
        assert_eq!(head(LineStyle::Journal, Level::ERROR, now), "<3>");
        assert_eq!(head(LineStyle::Journal, Level::DEBUG, now), "<7>");
        assert_eq!(head(LineStyle::Plain, Level::WARN, now), "2026-11-21T22:08:54.123Z warning ");
        assert_eq!(head(LineStyle::Plain, Level::INFO, now), "2026-11-21T22:08:54.123Z info    ");
        let terminal = |colour| head(LineStyle::Terminal { colour }, Level::ERROR, now);
        assert_eq!(terminal(false).len(), "22:08:54 error: ".len());
        assert!(terminal(true).contains("\x1b[31merror:\x1b[0m"));
        assert_eq!(head(LineStyle::Terminal { colour: true }, Level::INFO, now).len(), "22:08:54 ".len());
    }
}
