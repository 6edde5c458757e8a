//! Hooks: what runs at points of a watcher's life, a command or a Python callable.
//!
//! A command gets what it may want to know as variables, `CIRCUS_…`; a callable as arguments, those of Circus. Both
//! have the watcher's environment and directory, and run as the agent.
//!
//! What a hook leaves running in the background goes on after it: people detach things from hooks, and once their
//! parents have ended the agent reaps them like any orphan. Only when a hook does not end in time, all of its tree is
//! killed.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::job::{Finished, Job, Jobs, RunAs, with_last_line};
use super::python::{Python, Request};
use crate::model::event::{Exit, HookCall, HookEnd, signal_name};
use crate::model::spec::{HookPoint, HookProgram};
use crate::wire::info_json;

/// This program's file, wherever it is by now.
const OWN: &str = "/proc/self/exe";

/// Where hooks are called from.
#[derive(Debug)]
pub(super) struct Hooks {
    jobs: Jobs,
    python: Python,
}

impl Hooks {
    pub(super) fn new(jobs: Jobs, interpreter: Option<PathBuf>) -> Hooks {
        Hooks { python: Python::new(jobs.clone(), interpreter), jobs }
    }

    /// Calls a hook. What comes back ends within `limit` from now, and says how the hook did.
    pub(super) fn call(
        &mut self,
        call: Box<HookCall>,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = HookEnd> + Send>> {
        match &call.program {
            HookProgram::Command(words) => Box::pin(command(words.clone(), call, self.jobs.clone(), limit)),
            HookProgram::Python(dotted) => {
                let request = Request {
                    callable: dotted.clone(),
                    hook: call.point.name(),
                    watcher: about(&call),
                    arguments: arguments(&call).into(),
                };
                Box::pin(self.python.call(&call.about.watcher, call.surroundings, request, limit))
            }
        }
    }
}

// ---- commands ------------------------------------------------------------------------------------------------------

async fn command(words: Vec<String>, call: Box<HookCall>, jobs: Jobs, limit: Duration) -> HookEnd {
    let about = &call.about;
    let job = Job::new(&about.watcher, words, &call.surroundings, RunAs::Agent).logged_as(format!(
        "{}: {}",
        about.watcher,
        call.point.name()
    ));
    let job = if let HookPoint::Legion(_) = call.point { job.executing(OWN.into()) } else { job };
    let job = variables(&call).into_iter().fold(job, |job, (name, value)| job.env(name, value));
    let job = call.env.iter().fold(job, |job, (name, value)| job.env(name, value));
    let extends = call.point == HookPoint::ExtendedStats;
    let input = if extends { Value::from(statistics(&call)).to_string() } else { String::new() };
    match job.run(&jobs, input.into_bytes(), limit).await {
        Ok(finished) => verdict(&finished, extends),
        Err(why) => HookEnd::Failed(why),
    }
}

/// What a command may want to know.
fn variables(call: &HookCall) -> Vec<(&'static str, String)> {
    let about = &call.about;
    let always = [
        ("CIRCUS_CLUSTER", about.cluster.to_string()),
        ("CIRCUS_NODE", about.node.to_string()),
        ("CIRCUS_WATCHER", about.watcher.to_string()),
        ("CIRCUS_HOOK", call.point.name().to_owned()),
    ];
    let sometimes = [
        ("CIRCUS_PID", call.pid.map(|pid| pid.to_string())),
        ("CIRCUS_WID", call.wid.map(|wid| wid.to_string())),
        ("CIRCUS_SIGNAL", call.signal.map(signal_name)),
        ("CIRCUS_EXIT_CODE", exit_code(call).map(|code| code.to_string())),
        ("CIRCUS_FENCING_TOKEN", call.token.map(|token| token.to_string())),
    ];
    let known = sometimes.into_iter().filter_map(|(name, value)| Some((name, value?)));
    always.into_iter().chain(known).collect()
}

/// The exit code, or minus the signal, as Circus has it.
fn exit_code(call: &HookCall) -> Option<i32> {
    match call.exit? {
        Exit::Code(code) => Some(code),
        Exit::Signal(signal) => Some(-signal),
        Exit::Lost => None,
    }
}

fn verdict(finished: &Finished, extends: bool) -> HookEnd {
    let output = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
    match finished.exit {
        Exit::Code(0) if extends => match serde_json::from_str::<Map<String, Value>>(&output) {
            Ok(_) => HookEnd::Returned { truth: true, output },
            Err(error) => HookEnd::Failed(format!("printed no JSON object: {error}")),
        },
        Exit::Code(_) if extends => HookEnd::Returned { truth: false, output: "{}".into() },
        Exit::Code(code) => HookEnd::Returned { truth: code == 0, output },
        exit => HookEnd::Failed(with_last_line(&exit.to_string(), &finished.stderr)),
    }
}

// ---- callables -----------------------------------------------------------------------------------------------------

/// What Circus passes at each point beside watcher, arbiter and the hook's name.
fn arguments(call: &HookCall) -> Map<String, Value> {
    /// Circus's number for a process that is not there any more.
    const UNEXISTING: u8 = 2;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let pid = call.pid;
    let arguments = match call.point {
        HookPoint::BeforeStart
        | HookPoint::AfterStart
        | HookPoint::BeforeSpawn
        | HookPoint::BeforeStop
        | HookPoint::AfterStop
        | HookPoint::Legion(_) => json!({}),
        HookPoint::AfterSpawn => json!({"pid": pid}),
        HookPoint::BeforeSignal | HookPoint::AfterSignal => json!({"pid": pid, "signum": call.signal}),
        HookPoint::BeforeReap => json!({"process_pid": pid, "time": now}),
        HookPoint::AfterReap => {
            json!({"process_pid": pid, "time": now, "exit_code": exit_code(call), "process_status": UNEXISTING})
        }
        HookPoint::ExtendedStats => json!({"pid": pid, "stats": statistics(call)}),
    };
    object(arguments)
}

/// Circus's INFO object of the process; an empty one where nothing could be measured.
fn statistics(call: &HookCall) -> Map<String, Value> {
    call.stats.as_ref().map(info_json).map(object).unwrap_or_default()
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { Map::new() }
}

/// What the helper makes the hook's `watcher` of.
fn about(call: &HookCall) -> Value {
    let (about, program) = (&call.about, &call.surroundings);
    let processes = about
        .processes
        .iter()
        .map(|process| json!({"wid": process.wid, "pid": process.pid, "age": process.age.as_secs_f64()}));
    json!({
        "name": about.watcher.as_str(),
        "status": about.status,
        "numprocesses": about.numprocesses,
        "words": program.words,
        "working_dir": program.working_dir,
        "uid": program.user.as_ref().map(|user| user.uid),
        "gid": program.gid.or(program.user.as_ref().map(|user| user.gid)),
        "processes": processes.collect::<Value>(),
        "settings": *about.settings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(exit: Exit, stdout: &str) -> Finished {
        Finished { exit, stdout: stdout.into(), stderr: b"first\nlast\n\n".to_vec() }
    }

    #[test]
    fn a_commands_truth_is_its_exit_code_and_a_signal_is_an_error() {
        let returned = |truth, output: &str| HookEnd::Returned { truth, output: output.into() };
        assert_eq!(verdict(&finished(Exit::Code(0), "well\n"), false), returned(true, "well"));
        assert_eq!(verdict(&finished(Exit::Code(3), ""), false), returned(false, ""));
        assert_eq!(verdict(&finished(Exit::Signal(9), ""), false), HookEnd::Failed("killed by SIGKILL: last".into()));
    }

    #[test]
    fn statistics_are_extended_by_a_json_object_or_not_at_all() {
        let output = |exit, stdout| verdict(&finished(exit, stdout), true);
        let added = HookEnd::Returned { truth: true, output: r#"{"queue": 7}"#.into() };
        assert_eq!(output(Exit::Code(0), "{\"queue\": 7}\n"), added);
        assert_eq!(output(Exit::Code(1), "{"), HookEnd::Returned { truth: false, output: "{}".into() });
        assert!(matches!(output(Exit::Code(0), "[7]"), HookEnd::Failed(why) if why.contains("no JSON object")));
    }
}
