//! `[plugin:NAME]`: Circus's own plugins, each of which is a watcher that runs this very program, and those of others, each of
//! which is one that runs Python.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::build::Build;
use super::hook::is_dotted;
use super::keys::{Section, nearest};
use super::problem::code;
use super::python;
use super::settings::{Set, Settings};
use super::value::{Kind, Value, Wrong, wrong};
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

    /// The section of this plugin alone.
    fn section(self) -> Section {
        let at = self as usize;
        Section::Plugin(&Native::ALL[at..=at])
    }
}

/// What `use` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Uses {
    /// A plugin that is part of the agent.
    Native(Native),
    /// A class in Python, by its dotted name.
    Python(String),
}

impl Uses {
    pub(super) fn parse(text: &str) -> Result<Uses, Wrong> {
        if let Some(native) = Native::ALL.iter().find(|native| native.class() == text) {
            return Ok(Uses::Native(*native));
        }
        let wrong = wrong("names no plugin");
        // Of Circus's own package there are no others.
        if text.starts_with("circus.plugins.") {
            return Err(match nearest(text, Native::ALL.iter().map(|native| native.class())) {
                Some(known) => wrong.label(format!("did you mean `{known}`?")),
                None => wrong.label("Circus has no such one").help(format!("it has {}", classes())),
            });
        }
        match is_dotted(text) {
            true => Ok(Uses::Python(text.to_owned())),
            false => Err(wrong
                .label("this is no dotted name")
                .help(format!("it is a class in Python, my.module.Class, or one of {}", classes()))),
        }
    }

    fn section(&self) -> Section {
        match self {
            Uses::Native(native) => native.section(),
            Uses::Python(_) => Section::PythonPlugin,
        }
    }
}

fn classes() -> String {
    let classes: Vec<&str> = Native::ALL.iter().map(|native| native.class()).collect();
    classes.join(", ")
}

/// The variable in which a plugin finds its options: a JSON object of texts.
pub const PLUGIN_OPTIONS: &str = "CIRCUS_PLUGIN_OPTIONS";
/// Under this name (`argv[0]`) this program is a plugin.
pub const PLUGIN: &str = "circus-plugin";
/// Where it is.
const OURS: &str = "/proc/self/exe";

impl Build<'_> {
    /// Which keys the section with this head has.
    pub(super) fn section_of(&self, head: &str) -> Section {
        match (head.strip_prefix("plugin:"), self.doc.get(head, "use")) {
            (None, _) if Section::of(head) == Some(Section::Legion) => Section::Legion,
            (None, _) => Section::Watcher,
            // One without a `use`, or with a wrong one, may have the keys of any.
            (Some(_), None) => Section::Plugin(&[]),
            (Some(_), Some(entry)) => {
                Uses::parse(entry.value.trim()).map_or(Section::Plugin(&[]), |uses| uses.section())
            }
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
        let short = name.as_str().strip_prefix("plugin:").unwrap_or(name.as_str()).to_owned();
        if let Some(set) = settings.get("use")
            && let Value::Use(Uses::Python(class)) = &set.value
        {
            return self.python_plugin((name, short), (set, class), settings, env);
        }
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
        env.insert(PLUGIN_OPTIONS.to_owned(), serde_json::json!(options).to_string());
        Some((vec![PLUGIN.to_owned(), short, native.class().to_owned()], Some(OURS.into())))
    }

    /// Those of a class in Python: this program becomes its interpreter, once it knows where the agent's doors are.
    fn python_plugin(
        &mut self,
        (name, short): (&WatcherName, String),
        (set, class): (&Set<'_>, &str),
        settings: &Settings<'_>,
        env: &mut BTreeMap<String, String>,
    ) -> Option<(Vec<String>, Option<PathBuf>)> {
        let own = settings.all().filter(|other| other.entry.key != "use").map(|other| (other.entry.key, &*other.text));
        let free = settings.free.iter().map(|(key, text)| (*key, text.as_str()));
        let mut options: BTreeMap<&str, &str> = own.chain(free).collect();
        for (key, _) in options.iter().filter(|(key, text)| key.contains(':') || text.contains(":::")) {
            let Some(entry) = self.doc.get(settings.head, key) else { continue };
            let message = format!("`{key}` cannot be given to a plugin in Python");
            self.problems
                .error(code::VALUE, entry.spot(), message)
                .label("Circus's plugins get their options as KEY:VALUE:::KEY:VALUE");
        }
        // As circusd's.
        options.extend([("name", name.as_str()), ("__name__", name.as_str())]);
        env.insert(PLUGIN_OPTIONS.to_owned(), serde_json::json!(options).to_string());
        let mut around = if settings.bool("copy_env") { self.around.env.clone() } else { BTreeMap::new() };
        around.extend(env.clone());
        let directory = settings.path("working_dir").filter(|directory| directory.is_dir());
        self.has_python_plugins = true;
        match python::plugin_interpreter(self.python.as_deref(), class, &around, directory.as_deref()) {
            Ok(python) => {
                let python = python.to_string_lossy().into_owned();
                Some((vec![PLUGIN.to_owned(), short, class.to_owned(), python], Some(OURS.into())))
            }
            Err(why) => {
                self.problems
                    .error(code::PROGRAM, set.entry.spot(), format!("`{class}` cannot be loaded"))
                    .label(why)
                    .help("`python` in [circus] names an interpreter that has the package circus; PYTHONPATH in [env] leads to yours");
                None
            }
        }
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
            assert_eq!(Uses::parse(native.class()), Ok(Uses::Native(*native)));
            assert!(matches!(native.section(), Section::Plugin([own]) if own == native));
        }
    }

    #[test]
    fn a_class_of_ones_own_is_python_and_a_misspelt_one_of_circus_is_told() {
        assert_eq!(Uses::parse("my.plugins.Mail"), Ok(Uses::Python("my.plugins.Mail".into())));
        assert_eq!(Uses::parse("Mail it").unwrap_err().code, code::VALUE);
        let misspelt = Uses::parse("circus.plugins.flapping.Flaping").unwrap_err();
        assert_eq!(misspelt.label, "did you mean `circus.plugins.flapping.Flapping`?");
        assert_eq!(Uses::parse("circus.plugins.mail.Mail").unwrap_err().label, "Circus has no such one");
    }
}
