//! `[legion:NAME]` → a watcher that leads; and what other watchers say of legions and of elections.
//!
//! A legion's one process is this very program: it does the actions of `on_lord`, says that it is ready, and at its stop
//! those of `on_unlord`. So whatever makes a singleton safe makes a lord safe.

use std::collections::BTreeMap;
use std::time::Duration;

use super::build::Build;
use super::keys::{Section, nearest};
use super::problem::code;
use super::settings::{Set, Settings, parts};
use super::value::Value;
use crate::model::names::WatcherName;
use crate::model::spec::{
    Check, ElectionSpec, LeaseTimings, LegionAction, LegionEvent, LegionSpec, ReadySpec, WatcherSpec,
};

/// What an action begins with.
const ACTIONS: [&str; 5] = ["cmd", "log", "signal", "http", "publish"];

/// The keys that say how a lease's holder is chosen.
const ELECTION: [&str; 6] = ["valor", "quorum", "expected", "preempt", "preempt_delay", "scroll"];

/// So long a lord's process may take for all but its actions.
const SLACK: Duration = Duration::from_secs(5);

/// How often in a row a lord's process may end by itself before the node stands back.
const MAX_RETRY: u32 = 5;

/// What makes a watcher the leader of a legion.
pub(super) struct Lord {
    legion: LegionSpec,
    timings: LeaseTimings,
}

impl Lord {
    /// The words of its process.
    pub(super) fn words(&self, name: &WatcherName) -> Vec<String> {
        self.legion.lord_words(name)
    }

    /// Gives a watcher what follows from its being one.
    pub(super) fn leads(self, watcher: &mut WatcherSpec) {
        watcher.respawn = true;
        watcher.max_retry = Some(MAX_RETRY);
        watcher.ready =
            Some(ReadySpec { check: Check::Notify, timeout: self.legion.time_for(LegionEvent::Lord) + SLACK });
        watcher.graceful_timeout = self.legion.time_for(LegionEvent::Unlord) + SLACK;
        watcher.singleton = Some(self.timings);
        watcher.legion = Some(self.legion);
    }
}

impl Build<'_> {
    // ---- [legion:NAME] ----

    /// What `[legion:NAME]` says; nothing where the section is none.
    pub(super) fn lord(&mut self, settings: &Settings<'_>) -> Option<Lord> {
        if settings.section != Section::Legion {
            return None;
        }
        let action_timeout = settings.optional_seconds("action_timeout");
        let legion = LegionSpec {
            actions: self.actions(settings),
            action_timeout: action_timeout.unwrap_or(settings.seconds("hook_timeout")),
            death_on_lord_error: settings.optional_seconds("death_on_lord_error").filter(|time| !time.is_zero()),
        };
        let lord = Lord { legion, timings: self.tolerance(settings) };
        self.check_unlord(&lord, settings);
        Some(lord)
    }

    fn tolerance(&mut self, settings: &Settings<'_>) -> LeaseTimings {
        let mut timings = LeaseTimings::thirds(settings.seconds("tolerance"));
        timings.refresh_interval = settings.optional_seconds("freq").unwrap_or(timings.refresh_interval);
        let wrong = timings.check_as(["tolerance", "freq", "a third of the tolerance for the answer"]);
        let place = ["freq", "tolerance"].iter().find_map(|key| settings.get(key));
        if let (Err(why), Some(set)) = (wrong, place) {
            self.problems
                .error(
                    code::LEASE,
                    set.entry.spot(),
                    "with these timings, a lord that fell silent could outlive its time",
                )
                .note(why)
                .help("without `freq` it is a third of the tolerance");
        }
        timings
    }

    fn actions(&mut self, settings: &Settings<'_>) -> BTreeMap<LegionEvent, Vec<LegionAction>> {
        let mut actions = BTreeMap::new();
        for event in LegionEvent::ALL {
            let Some(set) = settings.get(&format!("on_{}", event.name())) else { continue };
            let lines = parts(&set.text, |c| c == '\n');
            let found: Vec<LegionAction> = lines.filter_map(|(at, line)| self.action(set, at, line)).collect();
            if !found.is_empty() {
                actions.insert(event, found);
            }
        }
        actions
    }

    /// The action in one line of a key, which begins at this byte.
    fn action(&mut self, set: &Set<'_>, at: usize, text: &str) -> Option<LegionAction> {
        let key = set.entry.key;
        let spot = set.part(at..at + text.len());
        let why = match LegionAction::parse(text) {
            Ok(LegionAction::Signal { watcher, signal }) => {
                let known = self.names.iter().find(|known| known.matches(watcher.as_str())).cloned();
                if known.is_none() {
                    let hint = nearest(watcher.as_str(), self.names.iter().map(WatcherName::as_str));
                    let problem = self.problems.error(code::LEGION, spot, format!("there is no watcher `{watcher}`"));
                    match hint {
                        Some(known) => problem.label(format!("did you mean `{known}`?")),
                        None => problem.label("it could not be signalled"),
                    };
                }
                return known.map(|watcher| LegionAction::Signal { watcher, signal });
            }
            Ok(action) => return Some(action),
            Err(why) => why,
        };
        let word = text.split(':').next().unwrap_or_default().trim();
        let known = word == "https" || ACTIONS.contains(&word);
        let hint = nearest(word, ACTIONS).filter(|_| text.contains(':') && !known);
        let problem = self.problems.error(code::LEGION, spot, format!("`{key}` {why}"));
        if let Some(known) = hint {
            problem.label(format!("did you mean `{known}:`?"));
        }
        if !known {
            problem.help(format_args!("`{key} = cmd:LINE` runs a line of the shell"));
        }
        None
    }

    /// Warns where actions are given more time than there is when it counts.
    fn check_unlord(&mut self, lord: &Lord, settings: &Settings<'_>) {
        let Some(set) = ["action_timeout", "hook_timeout"].iter().find_map(|key| settings.get(key)) else { return };
        let number = lord.legion.actions.get(&LegionEvent::Unlord).map_or(0, Vec::len);
        let (all, spare) = (lord.legion.time_for(LegionEvent::Unlord), lord.timings.to_stop());
        if number > 0 && all > spare {
            let actions = if number == 1 { "1 action".to_owned() } else { format!("{number} actions") };
            let message = format!("`on_unlord` may take {} s for {actions}", all.as_secs_f64());
            self.problems
                .warn(code::LEASE, set.entry.spot(), message)
                .label(format!("when the lease is being lost it has {:.1} s", spare.as_secs_f64()))
                .note("what is not done by then is killed: another node may become lord")
                .help("a longer `tolerance` leaves more time");
        }
    }

    /// Warns of legions that nobody else can join.
    pub(super) fn check_alone(&mut self, heads: &[(&str, WatcherName)]) {
        let legion = heads.iter().find(|(head, _)| Section::of(head) == Some(Section::Legion));
        if let Some((head, spot)) = legion.and_then(|(head, _)| Some((head, self.doc.head(head)?.clone()))) {
            self.problems
                .warn(code::NO_EFFECT, spot, format!("there is no [redis]: [{head}] has members on this machine only"))
                .help("write `[redis]` and below it `url = redis://HOST:6379/0`, the same on all nodes");
        }
    }

    // ---- watchers ----

    /// How it is chosen who holds a watcher's lease. `leased`: whether it has one of its own.
    pub(super) fn election(&mut self, settings: &Settings<'_>, leased: bool) -> Option<ElectionSpec> {
        let said = || ELECTION.iter().filter_map(|key| settings.get(key)).filter(|set| set.value != Value::Unset);
        if !leased {
            for set in said() {
                let message = format!("`{}` is for singletons and legions", set.entry.key);
                let problem = self.problems.error(code::CONFLICT, set.entry.key_spot(), message);
                match settings.text("legion") {
                    Some(legion) => problem.help(format_args!("write it into [legion:{}]", legion.trim())),
                    None => problem.help("write `singleton = True`, or take this line out"),
                };
            }
            return None;
        }
        if settings.section != Section::Legion && said().next().is_none() {
            return None;
        }
        if !settings.bool("preempt") {
            self.no_effect(settings, &["preempt_delay"], "with `preempt = False` nobody takes over");
        }
        let expected = settings.number("expected");
        Some(ElectionSpec {
            valor: settings.number("valor").unwrap_or(1),
            quorum: self.quorum(settings, expected),
            expected,
            preempt: settings.bool("preempt"),
            preempt_delay: settings.seconds("preempt_delay"),
            scroll: settings.text("scroll").unwrap_or_default(),
        })
    }

    fn quorum(&mut self, settings: &Settings<'_>, expected: Option<u32>) -> u32 {
        let Some(set) = settings.get("quorum") else { return 1 };
        match (&set.value, expected) {
            (Value::Text(_), Some(expected)) => return ElectionSpec::majority(expected),
            (Value::Text(_), None) if self.is_absent(settings, "expected") => {
                self.problems
                    .error(code::MISSING, set.entry.spot(), "a majority of how many?")
                    .help("write `expected = N`, the number of nodes that there should be");
            }
            (Value::Number(number), Some(expected)) if *number > i64::from(expected) => {
                let message = format!("a quorum of {number} is never reached by {expected} nodes");
                self.problems.error(code::CONFLICT, set.entry.spot(), message).help("`expected` is below `quorum`");
            }
            _ => {}
        }
        settings.number("quorum").unwrap_or(1)
    }

    /// The legion that a watcher runs under, by its own name.
    pub(super) fn follows(
        &mut self,
        name: &WatcherName,
        settings: &Settings<'_>,
        singleton: bool,
    ) -> Option<WatcherName> {
        let set = settings.get("legion").filter(|set| set.value != Value::Unset)?;
        if singleton {
            self.problems
                .error(code::CONFLICT, set.entry.spot(), format!("`{name}` cannot be a singleton and have a legion"))
                .help("take `singleton` out: with a legion it runs on one node at a time, too");
        }
        let wanted = set.text.trim();
        let known = self.legions.iter().find(|legion| legion.matches(wanted)).cloned();
        if known.is_none() {
            let hint = nearest(wanted, self.legions.iter().map(WatcherName::as_str));
            let problem = self.problems.error(code::LEGION, set.entry.spot(), format!("there is no legion `{wanted}`"));
            match hint {
                Some(known) => problem.label(format!("did you mean `{known}`?")),
                None => problem
                    .label(format!("`{name}` would never run"))
                    .help(format_args!("a section [legion:{wanted}] makes one")),
            };
        }
        known
    }
}
