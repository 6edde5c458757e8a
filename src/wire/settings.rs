//! Settings of a watcher, the `options` of `set` and `add`: JSON with Circus's types ↔ the texts that a file would have.
//!
//! | key | JSON | text |
//! |---|---|---|
//! | `numprocesses` `max_retry` | whole number | `3` |
//! | `max_age` `max_age_variance` `warmup_delay` `graceful_timeout` `retry_in` `idle_timeout` | number, or a text with a unit | `2.5`, `5m` |
//! | `send_hup` `stop_children` `shell` `copy_env` `respawn` `singleton` `use_sockets` `on_demand` `close_child_…` | true or false | `True` |
//! | `stop_signal` | number or name | `15`, `SIGINT` |
//! | `uid` `gid` | number or text | `www-data` |
//! | `rlimit_…` | whole number; null is infinite, an empty text takes the key away | `1024`, empty |
//! | `args` | text, or a list of words, which are quoted | `-c 'a b'` |
//! | `stdout_stream` `stderr_stream` | object with `class` | one `stdout_stream.KEY` each |
//! | `hooks` | object of hook points | one `hooks.POINT` each |
//! | `env` | object of texts: all of the environment | – |
//! | any other | text, number, true or false | as it is |
//!
//! Of a socket, the `options` of `addsocket` and `setsocket`, `port` and `backlog` are whole numbers, `replace`,
//! `so_reuseport` and `blocking` true or false, and all others texts: a `umask` written as a number would be taken for
//! octal by some and for decimal by others.
//!
//! Null takes a key away. Whether there is such a key is for those to say who read files.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::request::wrong;
use crate::model::command::Refusal;
use crate::model::event::{Changes, signal_number};
use crate::model::spec::HookPoint;

/// What the settings are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Watcher,
    Socket,
}

/// Reads `options`; the error names the key that is not what it should be, in Circus's words.
pub(super) fn read(of: Of, options: &Map<String, Value>) -> Result<Changes, Refusal> {
    let mut settings = BTreeMap::new();
    let mut env = None;
    for (key, value) in options {
        match (key.as_str(), value) {
            _ if of == Of::Socket => {
                settings.insert(key.clone(), text(of, key, value)?);
            }
            ("env", Value::Null) => env = Some(Vec::new()),
            ("env", Value::Object(variables)) => env = Some(variables.iter().map(variable).collect::<Result<_, _>>()?),
            ("env", _) => return Err(wrong(key, "a valid object")),
            ("stdout_stream" | "stderr_stream", Value::Object(stream)) => {
                if !stream.contains_key("class") {
                    return Err(Refusal::BadMessage(format!("'{key}' must have a 'class' key")));
                }
                for (part, value) in stream {
                    let part = format!("{key}.{part}");
                    let text = text(of, &part, value)?;
                    settings.insert(part, text);
                }
            }
            ("stdout_stream" | "stderr_stream", _) => return Err(wrong(key, "a valid object")),
            ("hooks", Value::Object(hooks)) => {
                for (point, value) in hooks {
                    let key = format!("hooks.{point}");
                    let text = text(of, &key, value)?;
                    settings.insert(key, text);
                }
            }
            ("hooks", _) => return Err(wrong(key, "a valid hook dict")),
            _ => {
                settings.insert(key.clone(), text(of, key, value)?);
            }
        }
    }
    Ok(Changes { settings: settings.into_iter().collect(), env })
}

/// Writes them as [`read`] reads them. A text that is not of its key's type stays a text, for the reader to refuse.
pub(super) fn write(of: Of, changes: &Changes) -> Map<String, Value> {
    let mut options: Map<String, Value> =
        changes.settings.iter().map(|(key, text)| (key.clone(), value(of, key, text.as_deref()))).collect();
    if let Some(env) = &changes.env {
        options.insert("env".into(), env.iter().map(|(name, value)| (name.clone(), json!(value))).collect());
    }
    options
}

/// The types that Circus insists on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    Seconds,
    WholeSeconds,
    Flag,
    Signal,
    Owner,
    Limit,
    Words,
    Hook,
    Text,
    Any,
}

impl Kind {
    fn of(of: Of, key: &str) -> Kind {
        match of {
            Of::Watcher => Kind::of_watchers(key),
            Of::Socket => Kind::of_sockets(key),
        }
    }

    fn of_sockets(key: &str) -> Kind {
        match key {
            "port" | "backlog" => Kind::Integer,
            "replace" | "so_reuseport" | "blocking" => Kind::Flag,
            _ => Kind::Text,
        }
    }

    fn of_watchers(key: &str) -> Kind {
        match key {
            "numprocesses" | "max_retry" | "max_per_node" => Kind::Integer,
            "max_age" | "max_age_variance" => Kind::WholeSeconds,
            "warmup_delay" | "graceful_timeout" | "retry_in" | "idle_timeout" => Kind::Seconds,
            "send_hup" | "stop_children" | "shell" | "copy_env" | "respawn" | "singleton" | "use_sockets"
            | "on_demand" | "close_child_stdin" | "close_child_stdout" | "close_child_stderr" => Kind::Flag,
            "stop_signal" => Kind::Signal,
            "uid" | "gid" => Kind::Owner,
            "args" => Kind::Words,
            _ if key.starts_with("rlimit_") => Kind::Limit,
            _ if key.starts_with("hooks.") => Kind::Hook,
            _ => Kind::Any,
        }
    }
}

/// The text that a file would have for this value; nothing where the key goes.
fn text(of: Of, key: &str, value: &Value) -> Result<Option<String>, Refusal> {
    // Neither an empty name nor one that no line of a file could begin with.
    if key.is_empty() || key.chars().any(|c| c.is_control() || c.is_whitespace() || "=:[]#;".contains(c)) {
        return Err(Refusal::BadMessage(format!("unknown key '{key}'")));
    }
    let kind = Kind::of(of, key);
    if kind == Kind::Hook
        && let Some(point) = key.strip_prefix("hooks.")
        && HookPoint::parse(point).is_none()
    {
        return Err(Refusal::BadMessage(format!("Unknown hook '{point}'")));
    }
    let whole = |value: &Value| value.is_i64() || value.is_u64();
    // Files know units, and people who set one thing after the other use them here too.
    let with_unit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let text = match (kind, value) {
        (Kind::Limit, Value::Null) => return Ok(Some(String::new())),
        (Kind::Limit, Value::String(empty)) if empty.is_empty() => return Ok(None),
        (_, Value::Null) => return Ok(None),
        (Kind::Integer | Kind::Limit, Value::Number(number)) if whole(value) => number.to_string(),
        (Kind::Integer | Kind::Limit, _) => return Err(wrong(key, "an integer")),
        (Kind::Seconds | Kind::WholeSeconds, Value::Number(number)) => number.to_string(),
        (Kind::Seconds | Kind::WholeSeconds, Value::String(text)) if with_unit(text) => text.clone(),
        (Kind::Seconds, _) => return Err(wrong(key, "a number")),
        (Kind::WholeSeconds, _) => return Err(wrong(key, "an integer")),
        (Kind::Flag, Value::Bool(flag)) => python_bool(*flag),
        (Kind::Flag, _) => return Err(wrong(key, "a valid boolean")),
        (Kind::Signal, Value::Number(number)) if whole(value) => number.to_string(),
        (Kind::Signal, Value::String(name)) if signal_number(name).is_some() => name.clone(),
        (Kind::Signal, _) => return Err(wrong(key, "an integer or the name of a signal")),
        (Kind::Owner, Value::Number(number)) if whole(value) => number.to_string(),
        (Kind::Owner, Value::String(name)) => name.clone(),
        (Kind::Owner, _) => return Err(wrong(key, "an integer or string")),
        (Kind::Words, Value::Array(words)) => quoted(words).ok_or_else(|| wrong(key, "a list of strings"))?,
        (Kind::Any | Kind::Words | Kind::Hook | Kind::Text, Value::String(text)) => text.clone(),
        (Kind::Any, Value::Number(number)) => number.to_string(),
        (Kind::Any, Value::Bool(flag)) => python_bool(*flag),
        (Kind::Any | Kind::Words | Kind::Hook | Kind::Text, _) => return Err(wrong(key, "a string")),
    };
    Ok(Some(text))
}

/// What [`text`] reads as this text.
fn value(of: Of, key: &str, text: Option<&str>) -> Value {
    let kind = Kind::of(of, key);
    let Some(text) = text else {
        return if kind == Kind::Limit { json!("") } else { Value::Null };
    };
    let whole = || text.parse::<i64>().ok().map(|number| json!(number));
    let long = || text.parse::<u64>().ok().map(|number| json!(number));
    let broken = || text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| json!(number));
    let typed = match kind {
        Kind::Integer | Kind::Signal => whole(),
        Kind::Limit if text.is_empty() => Some(Value::Null),
        Kind::Limit => whole().or_else(long),
        Kind::Seconds | Kind::WholeSeconds => whole().or_else(broken),
        Kind::Flag => match text.to_lowercase().as_str() {
            "yes" | "true" | "on" | "1" => Some(json!(true)),
            "no" | "false" | "off" | "0" => Some(json!(false)),
            _ => None,
        },
        Kind::Owner | Kind::Words | Kind::Hook | Kind::Text | Kind::Any => None,
    };
    typed.unwrap_or_else(|| json!(text))
}

fn python_bool(flag: bool) -> String {
    if flag { "True".into() } else { "False".into() }
}

fn variable((name, value): (&String, &Value)) -> Result<(String, String), Refusal> {
    match value {
        Value::String(value) => Ok((name.clone(), value.clone())),
        _ => Err(wrong(name, "a string")),
    }
}

/// The words as one line that splits into them again.
fn quoted(words: &[Value]) -> Option<String> {
    let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
    shlex::try_join(words?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(options: Value) -> Result<Changes, String> {
        understood_of(Of::Watcher, options)
    }

    fn understood_of(of: Of, options: Value) -> Result<Changes, String> {
        let Value::Object(options) = options else { panic!("an object") };
        read(of, &options).map_err(|refusal| refusal.to_string())
    }

    fn settings(options: Value) -> Vec<(String, Option<String>)> {
        understood(options).unwrap().settings
    }

    #[test]
    fn each_type_becomes_the_text_of_a_file_and_comes_back() {
        let cases = [
            ("numprocesses", json!(3), Some("3")),
            ("max_retry", json!(-1), Some("-1")),
            ("graceful_timeout", json!(2.5), Some("2.5")),
            ("graceful_timeout", json!("5m"), Some("5m")),
            ("warmup_delay", json!(0), Some("0")),
            ("max_age", json!(3600), Some("3600")),
            ("respawn", json!(false), Some("False")),
            ("singleton", json!(true), Some("True")),
            ("stop_signal", json!(15), Some("15")),
            ("stop_signal", json!("SIGRTMIN+1"), Some("SIGRTMIN+1")),
            ("uid", json!("www-data"), Some("www-data")),
            ("rlimit_nofile", json!(1024), Some("1024")),
            ("rlimit_as", json!(u64::MAX), Some("18446744073709551615")),
            // Circus's null, and a file's empty value: infinite.
            ("rlimit_core", json!(null), Some("")),
            ("rlimit_core", json!(""), None),
            ("max_age", json!(null), None),
            ("cmd", json!("sleep 1"), Some("sleep 1")),
            ("stdout_stream.filename", json!("/var/log/x"), Some("/var/log/x")),
            ("hooks.before_start", json!("mod.hook,true"), Some("mod.hook,true")),
            ("priority", json!("7"), Some("7")),
            ("use_sockets", json!(true), Some("True")),
            ("on_demand", json!(false), Some("False")),
            ("idle_timeout", json!(600), Some("600")),
            ("sockets", json!("web, admin"), Some("web, admin")),
            // A socket's key, and of a watcher one that is free to use.
            ("port", json!("auto"), Some("auto")),
        ];
        for (key, json, text) in cases {
            let changes = understood(json!({key: json})).unwrap();
            assert_eq!(changes.settings, [(key.to_owned(), text.map(str::to_owned))], "{key}");
            assert_eq!(Value::Object(write(Of::Watcher, &changes)), json!({key: json}), "{key}");
        }
    }

    #[test]
    fn other_shapes_of_the_same_are_understood() {
        let some = |key: &str, text: &str| (key.to_owned(), Some(text.to_owned()));
        assert_eq!(settings(json!({"args": ["-c", "a b", ""]})), [some("args", "-c 'a b' ''")]);
        assert_eq!(
            settings(json!({"uid": 33, "priority": 7, "autostart": false})),
            [some("autostart", "False"), some("priority", "7"), some("uid", "33"),]
        );
        let stream = json!({"class": "FileStream", "filename": "/x", "max_bytes": 10});
        assert_eq!(
            settings(json!({"stdout_stream": stream})),
            [
                some("stdout_stream.class", "FileStream"),
                some("stdout_stream.filename", "/x"),
                some("stdout_stream.max_bytes", "10"),
            ]
        );
        assert_eq!(
            settings(json!({"hooks": {"after_stop": "b.c", "before_start": null}})),
            [some("hooks.after_stop", "b.c"), ("hooks.before_start".into(), None),]
        );
        let env = |json: Value| understood(json!({"env": json})).unwrap().env;
        assert_eq!(env(json!({"B": "2", "A": "1"})), Some(vec![("A".into(), "1".into()), ("B".into(), "2".into())]));
        assert_eq!(env(json!(null)), Some(vec![]));
        assert_eq!(understood(json!({})).unwrap(), Changes::default());
    }

    #[test]
    fn what_a_person_typed_gets_its_keys_type() {
        let typed = |key: &str, text: &str| {
            let settings = vec![(key.to_owned(), Some(text.to_owned()))];
            write(Of::Watcher, &Changes { settings, env: None })[key].clone()
        };
        assert_eq!(typed("respawn", "no"), json!(false));
        assert_eq!(typed("numprocesses", "03"), json!(3));
        assert_eq!(typed("graceful_timeout", "1e1"), json!(10.0));
        assert_eq!(typed("graceful_timeout", "nan"), json!("nan"));
        // The reader then says what is wrong with it.
        assert_eq!(typed("numprocesses", "many"), json!("many"));
        assert_eq!(typed("working_dir", "1"), json!("1"));
    }

    #[test]
    fn a_wrong_type_is_refused_in_circuss_words() {
        let cases = [
            (json!({"numprocesses": "3"}), "'numprocesses' isn't an integer"),
            (json!({"numprocesses": 1.5}), "'numprocesses' isn't an integer"),
            (json!({"max_age": "x"}), "'max_age' isn't an integer"),
            (json!({"graceful_timeout": "x"}), "'graceful_timeout' isn't a number"),
            (json!({"warmup_delay": true}), "'warmup_delay' isn't a number"),
            (json!({"respawn": "True"}), "'respawn' isn't a valid boolean"),
            (json!({"shell": 1}), "'shell' isn't a valid boolean"),
            (json!({"use_sockets": "True"}), "'use_sockets' isn't a valid boolean"),
            (json!({"on_demand": 1}), "'on_demand' isn't a valid boolean"),
            (json!({"idle_timeout": "soon"}), "'idle_timeout' isn't a number"),
            (json!({"stop_signal": "FOO"}), "'stop_signal' isn't an integer or the name of a signal"),
            (json!({"uid": [1]}), "'uid' isn't an integer or string"),
            (json!({"rlimit_nofile": "x"}), "'rlimit_nofile' isn't an integer"),
            (json!({"env": "A=1"}), "'env' isn't a valid object"),
            (json!({"env": {"A": 1}}), "'A' isn't a string"),
            (json!({"stdout_stream": "x"}), "'stdout_stream' isn't a valid object"),
            (json!({"stderr_stream": {"filename": "x"}}), "'stderr_stream' must have a 'class' key"),
            (json!({"hooks": ["x"]}), "'hooks' isn't a valid hook dict"),
            (json!({"hooks": {"before_lunch": "x"}}), "Unknown hook 'before_lunch'"),
            (json!({"hooks.before_lunch": "x"}), "Unknown hook 'before_lunch'"),
            (json!({"hooks.before_start": 1}), "'hooks.before_start' isn't a string"),
            (json!({"args": [1]}), "'args' isn't a list of strings"),
            (json!({"args": ["\0"]}), "'args' isn't a list of strings"),
            (json!({"priority": [1]}), "'priority' isn't a string"),
            (json!({"": 1}), "unknown key ''"),
            (json!({"a\n[circus]": 1}), "unknown key 'a\n[circus]'"),
        ];
        for (options, why) in cases {
            assert_eq!(understood(options.clone()), Err(why.into()), "{options}");
        }
    }

    #[test]
    fn a_sockets_settings_have_types_of_their_own() {
        let cases = [
            ("port", json!(8080), Some("8080")),
            ("backlog", json!(128), Some("128")),
            ("replace", json!(true), Some("True")),
            ("so_reuseport", json!(false), Some("False")),
            ("blocking", json!(true), Some("True")),
            ("host", json!("::1"), Some("::1")),
            ("umask", json!("077"), Some("077")),
            ("path", json!(null), None),
            // Words that mean something in a watcher.
            ("env", json!("A=1"), Some("A=1")),
            ("hooks.x", json!("y"), Some("y")),
        ];
        for (key, json, text) in cases {
            let changes = understood_of(Of::Socket, json!({key: json})).unwrap();
            assert_eq!(changes, Changes { settings: vec![(key.into(), text.map(str::to_owned))], env: None });
            assert_eq!(Value::Object(write(Of::Socket, &changes)), json!({key: json}), "{key}");
        }
        let typed = Changes { settings: vec![("replace".into(), Some("yes".into()))], env: None };
        assert_eq!(write(Of::Socket, &typed)["replace"], json!(true));
        for (options, why) in [
            (json!({"port": "8080"}), "'port' isn't an integer"),
            (json!({"port": 80.5}), "'port' isn't an integer"),
            (json!({"backlog": true}), "'backlog' isn't an integer"),
            (json!({"replace": 1}), "'replace' isn't a valid boolean"),
            (json!({"blocking": "no"}), "'blocking' isn't a valid boolean"),
            (json!({"umask": 77}), "'umask' isn't a string"),
            (json!({"host": ["a"]}), "'host' isn't a string"),
            (json!({"env": {"A": "1"}}), "'env' isn't a string"),
            (json!({"a b": 1}), "unknown key 'a b'"),
        ] {
            assert_eq!(understood_of(Of::Socket, options.clone()), Err(why.into()), "{options}");
        }
    }
}
