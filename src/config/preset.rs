//! `stop_preset`: the signal at which a server finishes its requests and ends.

use super::build::Build;
use super::keys::nearest;
use super::problem::code;
use super::settings::Settings;
use super::value::{Value, Wrong, wrong};
use crate::model::event::SIGNALS;

/// How a server is asked to end in good order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Preset {
    name: &'static str,
    signal: i32,
    doubt: Option<Doubt>,
}

/// Why the signal is not enough.
#[derive(Debug, PartialEq, Eq)]
struct Doubt {
    /// What in the command line makes it enough; nothing does.
    unless: Option<&'static str>,
    why: &'static str,
    help: &'static str,
}

const fn at(name: &'static str, signal: i32) -> Preset {
    Preset { name, signal, doubt: None }
}

/// Measured with a request under way; those of apache, caddy, haproxy, nginx and php-fpm are from their manuals.
const PRESETS: &[Preset] = &[
    at("apache", libc::SIGWINCH),
    at("caddy", libc::SIGTERM),
    Preset {
        name: "chaussette",
        signal: libc::SIGTERM,
        doubt: Some(Doubt {
            unless: Some("meinheld"),
            why: "chaussette's wsgiref drops the request it is at, whatever the signal",
            help: "`--backend meinheld` finishes it",
        }),
    },
    Preset {
        name: "daphne",
        signal: libc::SIGTERM,
        doubt: Some(Doubt {
            unless: None,
            why: "daphne drops open requests, whatever the signal",
            help: "uvicorn and hypercorn run the same applications, and finish them",
        }),
    },
    at("gunicorn", libc::SIGTERM),
    at("haproxy", libc::SIGUSR1),
    at("hypercorn", libc::SIGTERM),
    at("nginx", libc::SIGQUIT),
    // With a handler that calls `server.close()`; whether there is one, nobody can see from here.
    at("node", libc::SIGTERM),
    at("php-fpm", libc::SIGQUIT),
    at("puma", libc::SIGTERM),
    at("unicorn", libc::SIGQUIT),
    at("uvicorn", libc::SIGTERM),
    Preset {
        name: "uwsgi",
        signal: libc::SIGTERM,
        doubt: Some(Doubt {
            unless: Some("gracefully_kill_them_all"),
            why: "unless told otherwise, uWSGI drops open requests at TERM, and a master reloads",
            help: "add `--hook-master-start \"unix_signal:15 gracefully_kill_them_all\"` to the command line",
        }),
    },
    at("waitress", libc::SIGINT),
];

/// The preset of this name.
pub(super) fn parse(text: &str) -> Result<&'static Preset, Wrong> {
    let lower = text.to_lowercase();
    PRESETS.iter().find(|preset| preset.name == lower).ok_or_else(|| {
        let wrong = wrong("must be a server whose signals are known");
        let known = || PRESETS.iter().map(|preset| preset.name);
        match nearest(text, known()) {
            Some(known) => wrong.label(format!("did you mean `{known}`?")),
            None => wrong.label("this one is not").help(format!(
                "known are {}; `stop_signal` sets a signal for any other",
                known().collect::<Vec<_>>().join(", ")
            )),
        }
    })
}

impl Build<'_> {
    /// The signal, by number, that asks a watcher's processes to stop.
    pub(super) fn stop_signal(&mut self, settings: &Settings<'_>) -> i32 {
        let signal = settings.number("stop_signal").unwrap_or(libc::SIGTERM);
        let Some((set, Value::Preset(preset))) = settings.get("stop_preset").map(|set| (set, &set.value)) else {
            return signal;
        };
        if let Some(said) = settings.get("stop_signal").filter(|_| signal != preset.signal) {
            let message = format!("`stop_preset = {}` stops with another signal than `stop_signal`", preset.name);
            self.problems
                .error(code::CONFLICT, said.entry.spot(), message)
                .label(format!("the preset's is {}", name_of(preset.signal)))
                .help("take one of them out");
        }
        let texts = ["cmd", "args"].iter().filter_map(|key| settings.get(key));
        let told = |word: &str| texts.clone().any(|set| set.text.contains(word));
        if let Some(Doubt { why, help, .. }) = preset.doubt.as_ref().filter(|doubt| !doubt.unless.is_some_and(told)) {
            self.problems.warn(code::STOP, set.entry.spot(), *why).help(help);
        }
        preset.signal
    }
}

fn name_of(signal: i32) -> &'static str {
    SIGNALS.iter().find(|(_, number)| *number == signal).map_or("another", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_found_in_any_case_and_stand_in_order() {
        assert_eq!(parse("uWSGI").map(|preset| preset.signal), Ok(libc::SIGTERM));
        assert_eq!(parse("waitress").map(|preset| preset.signal), Ok(libc::SIGINT));
        assert_eq!(parse("unicron").unwrap_err().label, "did you mean `unicorn`?");
        assert!(parse("mine").unwrap_err().help.is_some_and(|help| help.contains("gunicorn")));
        assert!(PRESETS.is_sorted_by_key(|preset| preset.name));
    }
}
