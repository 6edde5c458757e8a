//! A watcher's options as Circus names them, with Python's types: what it has as `int`, `float`, `bool`, `str` or `None`
//! is that.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::command::Refusal;
use crate::model::names::SocketName;
use crate::model::spec::{ElectionSpec, HookProgram, HookSpec, Output, WID, WatcherSpec, Which};

/// Keys of ours that are there even where they are not set, so that they can be asked for.
const OURS: &[&str] = &[
    "after",
    "cron",
    "expected",
    "health",
    "legion",
    "preempt",
    "preempt_delay",
    "quorum",
    "ready",
    "scroll",
    "socket_env",
    "sockets",
    "stop_preset",
    "umask",
    "valor",
    "virtualenv",
];

/// The options in `keys`, or all of them; refused where one is not there.
pub(super) fn chosen(spec: &WatcherSpec, numprocesses: u32, keys: Option<&[String]>) -> Result<Value, Refusal> {
    let mut options = all(spec, numprocesses);
    let Some(keys) = keys else { return Ok(Value::Object(options)) };
    let mut found = Map::new();
    for key in keys {
        let value = options.remove(key).or_else(|| found.get(key).cloned());
        let value = value.ok_or_else(|| Refusal::BadMessage(format!("'{key}' option not found")))?;
        found.insert(key.clone(), value);
    }
    Ok(Value::Object(found))
}

/// All of them: what the file has, free-form keys too, and over it what is made of it.
fn all(spec: &WatcherSpec, numprocesses: u32) -> Map<String, Value> {
    let program = &spec.program;
    let setting = |key: &str| spec.settings.get(key).map_or(Value::Null, |text| json!(text));
    let env: Map<_, _> = program.env.keys().map(|name| (name.clone(), json!("********"))).collect();
    let hooks: Map<_, _> = spec.hooks.iter().map(|(point, hook)| (point.name().to_owned(), hook_text(hook))).collect();
    let uid = program.user.as_ref().map(|user| user.name.as_ref().map_or_else(|| json!(user.uid), |name| json!(name)));
    let (cmd, args) = match spec.settings.get("cmd") {
        Some(cmd) => (cmd.clone(), spec.settings.get("args").cloned().unwrap_or_default()),
        None => (command_line(&program.words), String::new()),
    };
    let made = json!({
        "__name__": spec.name.as_str(),
        "args": args,
        "autostart": spec.autostart,
        "close_child_stderr": program.stderr == Output::Null,
        "close_child_stdin": program.close_stdin,
        "close_child_stdout": program.stdout == Output::Null,
        "cmd": cmd,
        "copy_env": program.copy_env,
        "env": env,
        "executable": program.executable.as_ref().map(|file| file.to_string_lossy()),
        "gid": setting("gid"),
        "graceful_timeout": seconds(spec.graceful_timeout),
        "hook_timeout": seconds(spec.hook_timeout),
        "hooks": hooks,
        "idle_timeout": spec.on_demand.and_then(|demand| demand.idle_timeout).map(seconds),
        "max_age": seconds(spec.max_age.unwrap_or_default()),
        "max_age_variance": seconds(spec.max_age_variance),
        "max_per_node": spec.max_per_node,
        "max_retry": spec.max_retry.map_or(-1, i64::from),
        "numprocesses": numprocesses,
        "on_demand": spec.on_demand.is_some(),
        "priority": spec.priority,
        "respawn": spec.respawn,
        "send_hup": spec.send_hup,
        "shell": flag(spec, "shell"),
        "shell_args": setting("shell_args"),
        "singleton": spec.singleton.is_some(),
        "stderr_stream_conf": stream(spec, "stderr_stream."),
        "stdout_stream_conf": stream(spec, "stdout_stream."),
        "stdin_socket": program.sockets.stdin.as_ref().map(SocketName::as_str),
        "stop_children": spec.stop_children,
        "stop_signal": spec.stop_signal,
        "uid": uid,
        "use_sockets": program.sockets.which == Which::All,
        "warmup_delay": seconds(spec.warmup_delay),
        "working_dir": program.working_dir.as_ref().map(|dir| dir.to_string_lossy()),
    });
    let elsewhere = ["stdout_stream.", "stderr_stream.", "hooks."];
    let given = spec.settings.iter().filter(|(key, _)| !elsewhere.iter().any(|family| key.starts_with(family)));
    let mut options: Map<String, Value> = OURS.iter().map(|key| ((*key).to_owned(), Value::Null)).collect();
    options.extend(given.map(|(key, text)| (key.clone(), json!(text))));
    options.extend(super::reply::object(made));
    options.extend(super::reply::object(of_legion(spec)));
    options
}

/// What chooses its holder, and what makes it a legion, also where that is not set.
fn of_legion(spec: &WatcherSpec) -> Value {
    let mut options = json!({});
    if let Some(ElectionSpec { valor, quorum, expected, preempt, preempt_delay, scroll }) = &spec.election {
        options = json!({
            "valor": valor,
            "quorum": quorum,
            "expected": expected,
            "preempt": preempt,
            "preempt_delay": seconds(*preempt_delay),
            "scroll": scroll,
        });
    }
    if let (Some(legion), Some(timings)) = (&spec.legion, &spec.singleton) {
        options["tolerance"] = seconds(timings.ttl);
        options["freq"] = seconds(timings.refresh_interval);
        options["action_timeout"] = seconds(legion.action_timeout);
        options["death_on_lord_error"] = seconds(legion.death_on_lord_error.unwrap_or_default());
    }
    options
}

/// A whole number stays one: Python's clients print what they get.
fn seconds(duration: Duration) -> Value {
    match duration.subsec_nanos() {
        0 => json!(duration.as_secs()),
        _ => json!(super::reply::seconds(duration)),
    }
}

/// A setting that was found to be a boolean when the file was read.
fn flag(spec: &WatcherSpec, key: &str) -> bool {
    let text = spec.settings.get(key).map(|text| text.trim().to_lowercase());
    matches!(text.as_deref(), Some("yes" | "true" | "on" | "1"))
}

/// The keyword arguments of a stream's class, without the class: Circus takes it out.
fn stream(spec: &WatcherSpec, family: &str) -> Map<String, Value> {
    let keys = spec.settings.iter().filter_map(|(key, text)| Some((key.strip_prefix(family)?, text)));
    keys.filter(|(key, _)| *key != "class").map(|(key, text)| (key.to_owned(), json!(text))).collect()
}

/// A hook as a file has it.
fn hook_text(hook: &HookSpec) -> Value {
    let program = match &hook.program {
        HookProgram::Command(words) => command_line(words),
        HookProgram::Python(path) => path.clone(),
    };
    json!(if hook.ignore_failure { format!("{program},true") } else { program })
}

/// The words as a shell would need them, but with the slot's variable as people write it.
fn command_line(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    let quoted = words.iter().map(|word| match word.replace(WID, "").chars().all(plain) && !word.is_empty() {
        true => word.clone(),
        // What holds a zero byte cannot be quoted, and no program was ever started with it either.
        false => shlex::try_quote(word).map_or_else(|_| word.clone(), |quoted| quoted.into_owned()),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_only_where_it_must_be() {
        let words = |words: &[&str]| command_line(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(words(&["sleep", "10"]), "sleep 10");
        assert_eq!(words(&["sh", "-c", "a; b"]), "sh -c 'a; b'");
        assert_eq!(words(&["run", "--fd=$(circus.wid)"]), "run --fd=$(circus.wid)");
        assert_eq!(words(&["run", ""]), "run ''");
    }
}
