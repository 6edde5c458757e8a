//! `CommandReloader`: restarts a watcher when the file of its program changes, or another one takes its place.
//!
//! The program is the first word of `cmd`, or `executable`. What a watcher runs is asked for when it may have changed;
//! its file is looked at in each round. Each watcher is looked after by itself: one whose program cannot be found is
//! told of once, and is looked for again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::options::Options;
use super::{
    Event, Failure, Input, Mark, Output, Plugin, Policy, Program, Rounds, ask_status, is_plugin, may_restart, restart,
};
use crate::model::command::Command;
use crate::model::event::Level;
use crate::model::names::is_called;
use crate::model::time::Time;

/// `circus.plugins.command_reloader.CommandReloader`
pub(super) fn plugin(options: &mut Options) -> Plugin {
    let rounds = Rounds::read(options, Duration::from_secs(1));
    let policy = CommandReloader { rounds, only: options.text("name"), watchers: BTreeMap::new() };
    Plugin { policy: Box::new(policy), statsd: None, heartbeats: None }
}

struct CommandReloader {
    rounds: Rounds,
    /// The watcher that is looked after; nothing: each of them.
    only: Option<String>,
    watchers: BTreeMap<String, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// What it runs; nothing: not yet known.
    program: Option<Program>,
    question: Question,
    /// Whether its file is being looked at: a file system that hangs is asked no more than once.
    looking: bool,
    /// The file that it was started from, as far as is known.
    mark: Option<Mark>,
    /// The other file that was found in its place, until the watcher is restarted.
    changed: Option<Mark>,
    /// Why its file cannot be looked at; told already.
    complaint: Option<String>,
}

/// Whether a watcher's options are being asked for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Question {
    #[default]
    Closed,
    Open,
    /// The answer may be outdated when it comes.
    OpenAndOld,
}

impl Policy for CommandReloader {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => {
                self.rounds.start(now);
                vec![Output::Ask(Command::Status { watcher: None })]
            }
            Input::Event(event) if self.looks_after(&event.watcher) => self.heard(&event),
            Input::Answered { command: Command::Status { watcher: None }, reply } => self.met(reply),
            Input::Answered { command: Command::Options { watcher, .. }, reply } => self.told(&watcher, reply),
            Input::Woke if self.rounds.come(now) => self.look(),
            Input::Looked { watcher, program, found } => self.looked(&watcher, &program, found),
            Input::Answered { command: Command::Status { watcher: Some(watcher) }, reply } => {
                self.may_restart(&watcher, reply)
            }
            Input::Answered { command: Command::Restart { pattern: Some(watcher), .. }, reply } => {
                self.restarted(watcher.text(), reply)
            }
            _ => Vec::new(),
        }
    }

    fn next_wakeup(&self) -> Option<Time> {
        self.rounds.due
    }
}

impl CommandReloader {
    fn looks_after(&self, watcher: &str) -> bool {
        !is_plugin(watcher) && self.only.as_ref().is_none_or(|only| is_called(watcher, only))
    }

    fn heard(&mut self, event: &Event) -> Vec<Output> {
        match event.word.as_str() {
            "remove" => {
                self.watchers.remove(&event.watcher);
                Vec::new()
            }
            // A process that was started may run another command than the one before: the configuration was reloaded.
            "add" | "updated" | "spawn" => self.ask(&event.watcher),
            _ => Vec::new(),
        }
    }

    /// Asks what a watcher runs, unless that is being asked already.
    fn ask(&mut self, watcher: &str) -> Vec<Output> {
        let watched = self.watchers.entry(watcher.to_owned()).or_default();
        if watched.question != Question::Closed {
            watched.question = Question::OpenAndOld;
            return Vec::new();
        }
        watched.question = Question::Open;
        vec![Output::Ask(Command::Options { watcher: watcher.to_owned(), keys: None })]
    }

    fn ask_unless_asked(&mut self, watcher: &str) -> Vec<Output> {
        match self.watchers.get(watcher) {
            Some(Watched { question: Question::Closed, .. }) => self.ask(watcher),
            _ => Vec::new(),
        }
    }

    /// All watchers there are.
    fn met(&mut self, reply: Result<Value, Failure>) -> Vec<Output> {
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                let text = format!("which watchers there are could not be had: {}", failure.reason);
                return vec![Output::Log(Level::Warn, text)];
            }
        };
        let all = reply["statuses"].as_object().into_iter().flat_map(|all| all.keys());
        let names: Vec<&String> = all.filter(|name| self.looks_after(name)).collect();
        self.watchers.retain(|name, _| names.contains(&name));
        names.into_iter().flat_map(|name| self.ask(name)).collect()
    }

    /// What a watcher runs.
    fn told(&mut self, watcher: &str, reply: Result<Value, Failure>) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        let question = std::mem::take(&mut watched.question);
        match reply {
            Err(failure) if failure.is_gone() => {
                self.watchers.remove(watcher);
                Vec::new()
            }
            // The next round asks again.
            Err(_) => Vec::new(),
            Ok(_) if question == Question::OpenAndOld => self.ask(watcher),
            Ok(reply) => {
                let program = program(&reply["options"]);
                if watched.program != program {
                    *watched = Watched { program, ..Watched::default() };
                }
                Vec::new()
            }
        }
    }

    fn look(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut unknown = Vec::new();
        for (name, watched) in &mut self.watchers {
            match &watched.program {
                None => unknown.push(name.clone()),
                Some(program) if !watched.looking && watched.changed.is_none() => {
                    watched.looking = true;
                    outputs.push(Output::Look { watcher: name.clone(), program: program.clone() });
                }
                Some(_) => {}
            }
        }
        outputs.extend(unknown.iter().flat_map(|name| self.ask_unless_asked(name)));
        outputs
    }

    fn looked(&mut self, watcher: &str, program: &Program, found: Result<Mark, String>) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        if watched.program.as_ref() != Some(program) {
            return Vec::new();
        }
        watched.looking = false;
        let found = match found {
            Ok(found) => found,
            // It may be on its way to be replaced: the next round looks again.
            Err(why) if watched.complaint.as_ref() == Some(&why) => return Vec::new(),
            Err(why) => {
                let text = format!("{watcher}: its program cannot be looked at: {why}");
                watched.complaint = Some(why);
                return vec![Output::Log(Level::Warn, text)];
            }
        };
        watched.complaint = None;
        match &watched.mark {
            None => {
                watched.mark = Some(found);
                Vec::new()
            }
            Some(mark) if *mark == found => Vec::new(),
            Some(_) => {
                watched.changed = Some(found);
                vec![ask_status(watcher)]
            }
        }
    }

    fn may_restart(&mut self, watcher: &str, reply: Result<Value, Failure>) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        let Some(changed) = &watched.changed else { return Vec::new() };
        let path = changed.path.display();
        match reply {
            Ok(status) if may_restart(&status) => {
                let text = format!("{watcher}: {path} was modified; restarting it");
                vec![Output::Log(Level::Info, text), restart(watcher)]
            }
            // Whoever starts it starts the new program.
            Ok(_) => {
                let text = format!("{watcher}: {path} was modified; it is stopped, and stays so");
                watched.mark = watched.changed.take();
                vec![Output::Log(Level::Info, text)]
            }
            Err(failure) => self.not_restarted(watcher, &failure),
        }
    }

    fn restarted(&mut self, watcher: &str, reply: Result<Value, Failure>) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        match reply {
            Ok(_) => {
                if let Some(changed) = watched.changed.take() {
                    watched.mark = Some(changed);
                }
                Vec::new()
            }
            Err(failure) => self.not_restarted(watcher, &failure),
        }
    }

    /// The next round finds the change again.
    fn not_restarted(&mut self, watcher: &str, failure: &Failure) -> Vec<Output> {
        match self.watchers.get_mut(watcher) {
            Some(_) if failure.is_gone() => drop(self.watchers.remove(watcher)),
            Some(watched) => watched.changed = None,
            None => {}
        }
        vec![Output::Log(Level::Error, format!("{watcher}: was modified, but not restarted: {}", failure.reason))]
    }
}

/// The program of a watcher with these options.
fn program(options: &Value) -> Option<Program> {
    let executable = options["executable"].as_str().map(ToOwned::to_owned);
    // A command line that no shell could split is its own first word: it is then not found, and told of.
    let first = |cmd: &str| match shlex::split(cmd) {
        Some(words) => words.into_iter().next(),
        None => Some(cmd.to_owned()),
    };
    let name = executable.or_else(|| options["cmd"].as_str().and_then(first))?;
    Some(Program { name, dir: options["working_dir"].as_str().map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, asked, event, failed, logged, plugin, step};
    use super::*;
    use serde_json::json;
    use std::time::SystemTime;

    fn mark(path: &str, written: u64) -> Mark {
        Mark { path: path.into(), written: SystemTime::UNIX_EPOCH + Duration::from_secs(written) }
    }

    fn options(watcher: &str) -> Command {
        Command::Options { watcher: watcher.into(), keys: None }
    }

    /// A reloader that knows two watchers, and what the first round looked at.
    fn reloader() -> (Plugin, Vec<Output>) {
        let mut plugin = plugin("command_reloader.CommandReloader", &[]).unwrap();
        let question = asked(&step(&mut plugin, 0.0, Input::Following)).remove(0);
        let statuses = json!({"statuses": {"Web": "active", "job": "active", "plugin:me": "active"}});
        let questions = asked(&step(&mut plugin, 0.1, answered(question, statuses)));
        assert_eq!(questions, [options("Web"), options("job")]);
        let web = json!({"options": {"cmd": "/srv/web --port '80 81'", "executable": null, "working_dir": "/srv"}});
        step(&mut plugin, 0.1, answered(options("Web"), web));
        step(&mut plugin, 0.1, answered(options("job"), json!({"options": {"cmd": "python job.py"}})));
        let outputs = step(&mut plugin, 1.0, Input::Woke);
        (plugin, outputs)
    }

    fn runs(watcher: &str) -> Program {
        match watcher {
            "Web" => Program { name: "/srv/web".into(), dir: Some("/srv".into()) },
            _ => Program { name: "python".into(), dir: None },
        }
    }

    fn looked(watcher: &str, found: Result<Mark, String>) -> Input {
        Input::Looked { watcher: watcher.into(), program: runs(watcher), found }
    }

    #[test]
    fn commands_with_arguments_are_looked_at_by_their_program() {
        let (_, outputs) = reloader();
        let look = |watcher: &str| Output::Look { watcher: watcher.into(), program: runs(watcher) };
        assert_eq!(outputs, [look("Web"), look("job")]);
    }

    #[test]
    fn a_file_system_that_hangs_is_asked_no_more_than_once() {
        let (mut plugin, _) = reloader();
        assert_eq!(step(&mut plugin, 2.0, Input::Woke), []);
        step(&mut plugin, 2.5, looked("job", Err("gone".into())));
        assert_eq!(step(&mut plugin, 3.0, Input::Woke).len(), 1);
    }

    #[test]
    fn a_modified_program_restarts_its_watcher_and_no_other() {
        let (mut plugin, _) = reloader();
        for watcher in ["Web", "job"] {
            assert_eq!(step(&mut plugin, 1.0, looked(watcher, Ok(mark("/srv/web", 1)))), []);
        }
        assert_eq!(step(&mut plugin, 2.0, looked("job", Ok(mark("/srv/web", 1)))), []);
        let question = step(&mut plugin, 2.0, looked("Web", Ok(mark("/srv/web", 2))));
        assert_eq!(question, [ask_status("Web")]);
        // Meanwhile it is not looked at: one change is one restart.
        assert_eq!(step(&mut plugin, 3.0, Input::Woke).len(), 1);
        let outputs = step(&mut plugin, 3.1, answered(asked(&question).remove(0), json!({"status": "active"})));
        assert_eq!(outputs[1..], [restart("Web")]);
        assert_eq!(logged(&outputs), "Info Web: /srv/web was modified; restarting it\n");
        step(&mut plugin, 3.2, answered(asked(&outputs).remove(0), json!({"status": "ok"})));
        assert_eq!(step(&mut plugin, 4.0, looked("Web", Ok(mark("/srv/web", 2)))), []);
        // A link that leads elsewhere is another program too.
        assert_eq!(step(&mut plugin, 5.0, looked("Web", Ok(mark("/srv/web-2", 2)))), [ask_status("Web")]);
    }

    #[test]
    fn one_watcher_whose_program_cannot_be_found_does_not_stop_the_others() {
        let (mut plugin, _) = reloader();
        step(&mut plugin, 1.0, looked("Web", Ok(mark("/srv/web", 1))));
        let outputs = step(&mut plugin, 1.0, looked("job", Err("python: not found".into())));
        assert_eq!(logged(&outputs), "Warn job: its program cannot be looked at: python: not found\n");
        // Told once.
        assert_eq!(step(&mut plugin, 2.0, looked("job", Err("python: not found".into()))), []);
        assert_eq!(step(&mut plugin, 2.0, looked("Web", Ok(mark("/srv/web", 2)))), [ask_status("Web")]);
    }

    #[test]
    fn a_program_that_is_gone_for_a_moment_is_compared_with_what_it_was() {
        let (mut plugin, _) = reloader();
        step(&mut plugin, 1.0, looked("Web", Ok(mark("/srv/web", 1))));
        step(&mut plugin, 2.0, looked("Web", Err("gone".into())));
        assert_eq!(step(&mut plugin, 3.0, looked("Web", Ok(mark("/srv/web", 3)))), [ask_status("Web")]);
    }

    #[test]
    fn a_stopped_watcher_stays_stopped() {
        let (mut plugin, _) = reloader();
        step(&mut plugin, 1.0, looked("Web", Ok(mark("/srv/web", 1))));
        let question = asked(&step(&mut plugin, 2.0, looked("Web", Ok(mark("/srv/web", 2))))).remove(0);
        let outputs = step(&mut plugin, 2.1, answered(question, json!({"status": "stopped"})));
        assert_eq!((asked(&outputs), outputs.len()), (vec![], 1));
        assert_eq!(step(&mut plugin, 3.0, looked("Web", Ok(mark("/srv/web", 2)))), []);
    }

    #[test]
    fn a_restart_that_reached_nobody_is_tried_again() {
        let (mut plugin, _) = reloader();
        step(&mut plugin, 1.0, looked("Web", Ok(mark("/srv/web", 1))));
        for _ in 0..2 {
            let question = asked(&step(&mut plugin, 2.0, looked("Web", Ok(mark("/srv/web", 2))))).remove(0);
            let outputs = step(&mut plugin, 2.1, failed(question, None));
            assert!(logged(&outputs).contains("was modified, but not restarted: because"));
        }
    }

    #[test]
    fn another_command_is_another_beginning() {
        let (mut plugin, _) = reloader();
        step(&mut plugin, 1.0, looked("Web", Ok(mark("/srv/web", 1))));
        assert_eq!(asked(&step(&mut plugin, 1.1, event("Web", "updated", None))), [options("Web")]);
        // Changed again before the answer: that may be of before.
        assert_eq!(step(&mut plugin, 1.1, event("Web", "spawn", Some((1, 7)))), []);
        let old = answered(options("Web"), json!({"options": {"cmd": "/srv/old"}}));
        assert_eq!(asked(&step(&mut plugin, 1.2, old)), [options("Web")]);
        step(&mut plugin, 1.3, answered(options("Web"), json!({"options": {"cmd": "a b", "executable": "/srv/new"}})));
        let outputs = step(&mut plugin, 2.0, Input::Woke);
        let program = Program { name: "/srv/new".into(), dir: None };
        assert_eq!(outputs, [Output::Look { watcher: "Web".into(), program: program.clone() }]);
        // The look at the one before comes late, and says nothing of this one.
        assert_eq!(step(&mut plugin, 2.0, looked("Web", Ok(mark("/srv/web", 9)))), []);
        let new = |found| Input::Looked { watcher: "Web".into(), program: program.clone(), found };
        assert_eq!(step(&mut plugin, 2.0, new(Ok(mark("/srv/new", 9)))), []);
        assert_eq!(step(&mut plugin, 3.0, new(Ok(mark("/srv/new", 9)))), []);
    }

    #[test]
    fn one_watcher_alone_may_be_named() {
        let mut plugin = plugin("command_reloader.CommandReloader", &[("name", "web")]).unwrap();
        let question = asked(&step(&mut plugin, 0.0, Input::Following)).remove(0);
        let statuses = json!({"statuses": {"Web": "active", "job": "active"}});
        assert_eq!(asked(&step(&mut plugin, 0.1, answered(question, statuses))), [options("Web")]);
        assert_eq!(step(&mut plugin, 0.2, event("job", "spawn", Some((1, 7)))), []);
    }

    #[test]
    fn a_watcher_that_is_gone_is_forgotten() {
        let (mut plugin, _) = reloader();
        step(&mut plugin, 1.1, event("Web", "remove", None));
        assert_eq!(step(&mut plugin, 2.0, Input::Woke), []);
        assert_eq!(step(&mut plugin, 2.0, looked("Web", Ok(mark("/srv/web", 1)))), []);
    }
}
