//! `[plugin:NAME]`: Circus's own plugins, each of which is a watcher that runs this very program.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::build::Build;
use super::hook::is_dotted;
use super::keys::{Section, nearest};
use super::problem::code;
use super::settings::Settings;
use super::value::{Kind, Wrong, wrong};
use crate::model::names::WatcherName;

/// The plugins that are part of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Native {
    Flapping,
    ResourceWatcher,
    HttpObserver,
    StatsdEmitter,
    FullStats,
    RedisObserver,
    CommandReloader,
    WatchDog,
}

impl Native {
    /// All of them, in the order of their variants.
    pub(super) const ALL: &'static [Native] = &[
        Native::Flapping,
        Native::ResourceWatcher,
        Native::HttpObserver,
        Native::StatsdEmitter,
        Native::FullStats,
        Native::RedisObserver,
        Native::CommandReloader,
        Native::WatchDog,
    ];

    /// What `use` calls it.
    pub(super) fn class(self) -> &'static str {
        match self {
            Native::Flapping => "circus.plugins.flapping.Flapping",
            Native::ResourceWatcher => "circus.plugins.resource_watcher.ResourceWatcher",
            Native::HttpObserver => "circus.plugins.http_observer.HttpObserver",
            Native::StatsdEmitter => "circus.plugins.statsd.StatsdEmitter",
            Native::FullStats => "circus.plugins.statsd.FullStats",
            Native::RedisObserver => "circus.plugins.redis_observer.RedisObserver",
            Native::CommandReloader => "circus.plugins.command_reloader.CommandReloader",
            Native::WatchDog => "circus.plugins.watchdog.WatchDog",
        }
    }

    /// The plugin that `use` names.
    pub(super) fn parse(text: &str) -> Result<Native, Wrong> {
        if let Some(native) = Native::ALL.iter().find(|native| native.class() == text) {
            return Ok(*native);
        }
        let wrong = wrong("names no plugin of this agent");
        let ours = || format!("the native ones are {}", classes());
        match nearest(text, Native::ALL.iter().map(|native| native.class())) {
            Some(known) => Err(wrong.label(format!("did you mean `{known}`?"))),
            None if is_dotted(text) => Err(wrong
                .label("the agent runs Python plugins once there is a ZeroMQ door")
                .help(ours())
                .code(code::NOT_YET)),
            None => Err(wrong.label("this is no dotted name").help(ours())),
        }
    }

    /// The section of this plugin alone.
    fn section(self) -> Section {
        let at = self as usize;
        Section::Plugin(&Native::ALL[at..=at])
    }
}

fn classes() -> String {
    let classes: Vec<&str> = Native::ALL.iter().map(|native| native.class()).collect();
    classes.join(", ")
}

/// The variable in which a plugin finds its options: a JSON object of texts.
const OPTIONS: &str = "CIRCUS_PLUGIN_OPTIONS";

impl Build<'_> {
    /// Which keys the section with this head has.
    pub(super) fn section_of(&self, head: &str) -> Section {
        match (head.strip_prefix("plugin:"), self.doc.get(head, "use")) {
            (None, _) if Section::of(head) == Some(Section::Legion) => Section::Legion,
            (None, _) => Section::Watcher,
            // One without a `use`, or with a wrong one, may have the keys of any.
            (Some(_), None) => Section::Plugin(&[]),
            (Some(_), Some(entry)) => Native::parse(entry.value.trim()).map_or(Section::Plugin(&[]), Native::section),
        }
    }

    /// Words and executable of a plugin; its options go into `env`.
    pub(super) fn plugin_command(
        &mut self,
        name: &WatcherName,
        settings: &Settings<'_>,
        env: &mut BTreeMap<String, String>,
    ) -> Option<(Vec<String>, Option<PathBuf>)> {
        for set in ["cmd", "args", "shell", "shell_args", "executable"].iter().filter_map(|key| settings.get(key)) {
            let message = format!("`{}` has no place in [{}]", set.entry.key, settings.head);
            self.problems.error(code::CONFLICT, set.entry.key_spot(), message).label("`use` says what runs");
        }
        self.check_siblings(settings);
        let Section::Plugin([native]) = settings.section else {
            if self.is_absent(settings, "use") {
                self.missing(settings.head, format!("[{}] has no `use`", settings.head))
                    .help(format_args!("write `use = …`; the native plugins are {}", classes()));
            }
            return None;
        };
        if let (Native::ResourceWatcher, None, None) = (native, settings.get("watcher"), settings.get("service")) {
            self.missing(settings.head, format!("[{}] has no `watcher`", settings.head)).label("nothing to look after");
        }
        let own =
            settings.all().filter(|set| matches!(set.key.section, Section::Plugin(those) if those != Native::ALL));
        // Times become seconds, signals numbers: a plugin reads what Circus's did.
        let options: BTreeMap<&str, String> =
            own.filter_map(|set| Some((set.entry.key, settings.variable(set.entry.key)?))).collect();
        env.insert(OPTIONS.to_owned(), serde_json::json!(options).to_string());
        let short = name.as_str().strip_prefix("plugin:").unwrap_or(name.as_str());
        let words = ["circus-plugin", short, native.class()].map(str::to_owned);
        Some((words.to_vec(), Some("/proc/self/exe".into())))
    }

    /// Warns of options that name a watcher nobody knows; it may still be added while the agent runs.
    fn check_siblings(&mut self, settings: &Settings<'_>) {
        for set in settings.all().filter(|set| set.key.kind == Kind::Sibling) {
            let wanted = set.text.trim();
            if wanted.is_empty() || self.names.iter().any(|name| name.matches(wanted)) {
                continue;
            }
            let hint = nearest(wanted, self.names.iter().map(WatcherName::as_str));
            let problem =
                self.problems.warn(code::NO_EFFECT, set.entry.spot(), format!("there is no watcher `{wanted}` yet"));
            if let Some(known) = hint {
                problem.label(format!("did you mean `{known}`?"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plugin_is_found_by_its_class_and_has_a_section_of_its_own() {
        for native in Native::ALL {
            assert_eq!(Native::parse(native.class()), Ok(*native));
            assert!(matches!(native.section(), Section::Plugin([own]) if own == native));
        }
    }

    #[test]
    fn a_plugin_that_is_not_ours_is_told_why_it_cannot_run() {
        assert_eq!(Native::parse("my.plugins.Mail").unwrap_err().code, code::NOT_YET);
        assert_eq!(Native::parse("Mail it").unwrap_err().code, code::VALUE);
        let misspelt = Native::parse("circus.plugins.flapping.Flaping").unwrap_err();
        assert_eq!(misspelt.label, "did you mean `circus.plugins.flapping.Flapping`?");
    }
}
