//! Progress of what takes long, on standard error: on a terminal one line that is drawn over, and is gone in the end;
//! elsewhere a line for each change. Nothing of it with `--quiet` or where JSON is wanted.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::ctl;
use super::whom::Global;

/// How often the line on a terminal is drawn anew, for the time that it shows.
const TICK: Duration = Duration::from_secs(1);
/// How wide the bar is, in columns.
const BAR: usize = 20;

/// Where progress is shown. Shared by whoever makes it and by what redraws it.
pub(super) struct Progress(RefCell<Line>);

struct Line {
    form: Form,
    /// How much is done, of how much, and what is being done; nothing at first.
    state: Option<(usize, usize, String)>,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Nothing,
    Changes,
    Bar,
}

impl Progress {
    /// As these options and standard error have it.
    pub(super) fn new(global: &Global) -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let form = match io::stderr().is_terminal() {
            _ if global.quiet || global.json || global.prettify => Form::Nothing,
            true if !dumb => Form::Bar,
            _ => Form::Changes,
        };
        Progress(RefCell::new(Line { form, state: None, since: Instant::now() }))
    }

    /// Whether anybody sees it.
    pub(super) fn is_shown(&self) -> bool {
        self.0.borrow().form != Form::Nothing
    }

    /// Something changed: so many of `all` are `done`, and `now` is what is being done.
    pub(super) fn change(&self, change: &str, done: usize, all: usize, now: &str) {
        let mut line = self.0.borrow_mut();
        line.state = Some((done, all, now.to_owned()));
        line.since = Instant::now();
        match line.form {
            Form::Nothing => {}
            Form::Changes if change.is_empty() => {}
            Form::Changes => eprintln!("{change}"),
            Form::Bar => line.draw(),
        }
    }

    /// Draws the line anew, again and again: for as long as this is awaited.
    pub(super) async fn ticking(&self) -> Infallible {
        loop {
            sleep(TICK).await;
            let line = self.0.borrow();
            if line.form == Form::Bar {
                line.draw();
            }
        }
    }
}

impl Line {
    fn draw(&self) {
        let Some((done, all, now)) = &self.state else { return };
        let text = bar(*done, *all, now, self.since.elapsed());
        let width = ctl::columns(libc::STDERR_FILENO).unwrap_or(80).saturating_sub(1);
        let text: String = text.chars().take(width).collect();
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.form == Form::Bar && self.state.is_some() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K").and_then(|()| stderr.flush());
        }
    }
}

/// `[=======>            ] 1/3  web-2: coming up, 12 s`.
fn bar(done: usize, all: usize, now: &str, since: Duration) -> String {
    let full = (done * BAR).checked_div(all).unwrap_or(0).min(BAR);
    let head = if full < BAR { ">" } else { "" };
    let bar = format!("{}{head}", "=".repeat(full));
    match now.is_empty() {
        true => format!("[{bar:BAR$}] {done}/{all}"),
        false => format!("[{bar:BAR$}] {done}/{all}  {now}, {} s", since.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_what_is_done() {
        let text = |done, all, now| bar(done, all, now, Duration::from_millis(12_900));
        assert_eq!(text(0, 3, "web-1: asked"), "[>                   ] 0/3  web-1: asked, 12 s");
        assert_eq!(text(1, 2, "web-2: asked"), "[==========>         ] 1/2  web-2: asked, 12 s");
        assert_eq!(text(3, 3, ""), "[====================] 3/3");
        assert_eq!(text(0, 0, ""), "[>                   ] 0/0");
    }
}
