//! The words that a lord process is started with.

use std::time::Duration;

use crate::model::spec::{LegionAction, LegionEvent};

/// What is to be done.
///
/// ```text
/// circus-lord --legion NAME --timeout SECONDS [--or-fail] --lord ACTION... --unlord ACTION...
/// circus-lord --legion NAME --timeout SECONDS [--or-fail] --event EVENT -- ACTION...
/// ```
#[derive(Debug, PartialEq)]
pub(super) struct Orders {
    pub(super) legion: String,
    /// How long each action may take.
    pub(super) timeout: Duration,
    /// Whether an action that fails ends it.
    pub(super) or_fail: bool,
    pub(super) task: Task,
}

#[derive(Debug, PartialEq)]
pub(super) enum Task {
    /// To lead until told to stop.
    Reign { lord: Vec<LegionAction>, unlord: Vec<LegionAction> },
    /// What one event asks for.
    Once { event: LegionEvent, actions: Vec<LegionAction> },
}

impl Orders {
    /// Reads the words after the program's name. No action begins with `--`, so none is taken for an option.
    pub(super) fn parse(words: &[String]) -> Result<Orders, String> {
        let (mut legion, mut timeout, mut or_fail, mut event) = (None, None, false, None);
        let mut words = words.iter().map(String::as_str);
        let task = loop {
            let word = words.next().ok_or("neither --lord nor --event: the agent starts this, for [legion:NAME]")?;
            let mut value = || words.next().ok_or_else(|| format!("{word} lacks its value"));
            match word {
                "--legion" => legion = Some(value()?.to_owned()),
                "--timeout" => timeout = Some(seconds(value()?)?),
                "--or-fail" => or_fail = true,
                "--event" => {
                    let name = value()?;
                    event = Some(LegionEvent::parse(name).ok_or_else(|| format!("no event is called '{name}'"))?);
                }
                "--" => {
                    let event = event.ok_or("-- without --event")?;
                    break Task::Once { event, actions: actions(words)? };
                }
                "--lord" => {
                    let lord = actions(words.by_ref().take_while(|word| *word != "--unlord"))?;
                    break Task::Reign { lord, unlord: actions(words)? };
                }
                other => return Err(format!("'{other}' is no option")),
            }
        };
        let legion = legion.ok_or("--legion is missing")?;
        Ok(Orders { legion, timeout: timeout.ok_or("--timeout is missing")?, or_fail, task })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let read = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    read.filter(|time| !time.is_zero()).ok_or_else(|| format!("'{text}' is no time in seconds"))
}

fn actions<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<LegionAction>, String> {
    words.map(|word| LegionAction::parse(word).map_err(|why| format!("'{word}' {why}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Orders, String> {
        Orders::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn log(text: &str) -> LegionAction {
        LegionAction::Log(text.into())
    }

    #[test]
    fn both_tasks_are_read() {
        let reign = parse(&["--legion", "ip", "--timeout", "0.5", "--lord", "log:a", "log:b", "--unlord", "log:c"]);
        let task = Task::Reign { lord: vec![log("a"), log("b")], unlord: vec![log("c")] };
        let timeout = Duration::from_millis(500);
        assert_eq!(reign, Ok(Orders { legion: "ip".into(), timeout, or_fail: false, task }));
        let nothing = parse(&["--legion", "ip", "--timeout", "0.5", "--or-fail", "--lord", "--unlord"]);
        let task = Task::Reign { lord: Vec::new(), unlord: Vec::new() };
        assert_eq!(nothing, Ok(Orders { legion: "ip".into(), timeout, or_fail: true, task }));
        let once = parse(&["--event", "join", "--legion", "ip", "--timeout", "0.5", "--", "log:--unlord"]);
        let task = Task::Once { event: LegionEvent::Join, actions: vec![log("--unlord")] };
        assert_eq!(once, Ok(Orders { legion: "ip".into(), timeout, or_fail: false, task }));
    }

    #[test]
    fn words_that_make_no_sense_are_told() {
        for (words, why) in [
            (&[][..], "neither"),
            (&["--legion"], "lacks its value"),
            (&["--timeout", "0"], "no time"),
            (&["--timeout", "inf"], "no time"),
            (&["--event", "nope"], "no event"),
            (&["--", "log:x"], "without --event"),
            (&["--lord", "log:x", "--unlord"], "--legion is missing"),
            (&["--legion", "ip", "--lord", "--unlord"], "--timeout is missing"),
            (&["--legion", "ip", "--timeout", "1", "--lord", "rm -rf"], "'rm -rf' names no action"),
            (&["help"], "no option"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(why), "{words:?}: {error}");
        }
    }
}
