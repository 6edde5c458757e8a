//! A lease that nobody is to take until somebody says so: since when, who wants it so, and why.
//!
//! A pause stands in the store, beside the lease, and belongs to no node: those that come later find it there, and so do all
//! of them after a restart. It ends no tenure by itself. Whoever has the lease goes on getting it while its child ends in
//! good order, and gives it back then; nobody gets it after that.

use std::fmt;
use std::time::Duration;

/// How many characters of a name and of a reason are kept.
const MAX_TEXT: usize = 200;

/// That a lease is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Since when, by the store's clock: milliseconds of the Unix epoch.
    pub since: u64,
    /// Who wants it so.
    pub by: String,
    /// Why, where they have said so.
    pub why: Option<String>,
}

impl Pause {
    /// What stands in the store, as [`Pause::text`] makes it. Total: what a hand has written there is a pause, too.
    pub fn parse(text: &str) -> Pause {
        let mut lines = text.splitn(3, '\n');
        let since = lines.next().and_then(|since| since.parse().ok()).unwrap_or_default();
        let mut line = || lines.next().filter(|line| !line.is_empty()).map(ToOwned::to_owned);
        let (by, why) = (line().unwrap_or_else(|| "somebody".into()), line());
        Pause { since, by, why }
    }

    /// It as the store keeps it: since when, who and why, a line each.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}", self.since, self.by, self.why.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Pause {
    /// `paused by amy: migration`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "paused by {}", self.by)?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// What somebody wants of the pause of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// It is to be paused. One that stands stays what it is.
    Pause { by: String, why: Option<String> },
    /// It is to be so no longer.
    Resume,
    /// Nothing: how it stands is asked.
    Look,
}

impl Wish {
    /// A wish to pause; of long texts and of several lines so much is kept as fits one.
    pub fn pause(by: &str, why: Option<&str>) -> Wish {
        let line = |text: &str| {
            let words: Vec<&str> =
                text.split(char::is_control).map(str::trim).filter(|part| !part.is_empty()).collect();
            words.join(" ").chars().take(MAX_TEXT).collect::<String>()
        };
        Wish::Pause { by: line(by), why: why.map(line).filter(|why| !why.is_empty()) }
    }

    /// The word for the store.
    pub fn word(&self) -> &'static str {
        match self {
            Wish::Pause { .. } => "pause",
            Wish::Resume => "resume",
            Wish::Look => "look",
        }
    }
}

/// What the store says to a [`Wish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The pause that stands now; to a resume, the one that stood.
    pub pause: Option<Pause>,
    /// Whether this wish has made it so.
    pub changed: bool,
    /// Who has the lease still, and for how long unless it is refreshed.
    pub holder: Option<(String, Duration)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_as_it_was_written_and_whatever_a_hand_wrote_is_one() {
        let pause = |why: Option<&str>| Pause { since: 7, by: "amy on db-1".into(), why: why.map(Into::into) };
        for pause in [pause(None), pause(Some("migration: step 2"))] {
            assert_eq!(Pause::parse(&pause.text()), pause);
        }
        assert_eq!(pause(Some("x")).to_string(), "paused by amy on db-1: x");
        for text in ["", "yes", "\n\n", "7"] {
            assert_eq!(Pause::parse(text).to_string(), "paused by somebody", "{text:?}");
        }
    }

    #[test]
    fn a_wish_is_kept_to_one_line_that_ends() {
        let wish = Wish::pause("amy\n", Some("a\nlong\u{1b}story "));
        assert_eq!(wish, Wish::Pause { by: "amy".into(), why: Some("a long story".into()) });
        let Wish::Pause { why: Some(why), .. } = Wish::pause("a", Some(&"ä".repeat(1_000))) else { panic!() };
        assert_eq!(why.chars().count(), MAX_TEXT);
        assert_eq!(Wish::pause("a", Some("\n")), Wish::Pause { by: "a".into(), why: None });
    }
}
