//! `WatchDog`: kills processes that no longer send heartbeats; the agent replaces them.
//!
//! Processes send UDP datagrams that name their pid. One that is silent for `loop_rate` × `max_count` is killed, and it
//! alone. A process gets that time anew when it starts, and when the watchdog does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use super::options::Options;
use super::{Event, Failure, Input, Output, Plugin, Policy, Rounds, USUAL_ROUND, is_plugin};
use crate::model::command::{Command, Patience};
use crate::model::event::Level;
use crate::model::pattern::Pattern;
use crate::model::time::Time;

/// `circus.plugins.watchdog.WatchDog`
pub(super) fn plugin(options: &mut Options) -> Plugin {
    let watchers = options.parsed("watchers_regex", "must be a regular expression", |text| Pattern::regex(text).ok());
    let message = options.parsed("msg_regex", "must be a regular expression with a group named pid", message);
    let address = options.parsed("ip", "must be an IP address", |text| text.parse().ok());
    let port = options.number("port", 1664, 1, u16::MAX);
    let policy = WatchDog {
        rounds: Rounds::read(options, USUAL_ROUND),
        max_count: options.number("max_count", 3, 1, u32::MAX),
        watchers,
        message: message.unwrap_or_else(|| Regex::new(USUAL_MESSAGE).expect("a regular expression")),
        signal: options.signal("watchers_stop_signal"),
        grace: options.time("watchers_graceful_timeout"),
        pids: BTreeMap::new(),
        asked: Time::ZERO,
        unheard: Unheard::default(),
    };
    let address = address.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    Plugin { policy: Box::new(policy), statsd: None, heartbeats: Some(SocketAddr::new(address, port)) }
}

const USUAL_MESSAGE: &str = "^(?P<pid>.*);(?P<timestamp>.*)$";

/// As with Python's `re.match`, a message begins with its match.
fn message(text: &str) -> Option<Regex> {
    let regex = Regex::new(&format!("^(?:{text})")).ok()?;
    let names_pid = regex.capture_names().flatten().any(|name| name == "pid");
    names_pid.then_some(regex)
}

struct WatchDog {
    rounds: Rounds,
    max_count: u32,
    /// Whose processes are looked after; nothing: all watchers'.
    watchers: Option<Pattern>,
    message: Regex,
    /// How they are killed; nothing: as their watcher says.
    signal: Option<i32>,
    grace: Option<Duration>,
    pids: BTreeMap<u32, Life>,
    /// When all processes were last asked for.
    asked: Time,
    unheard: Unheard,
}

/// A process that is looked after.
#[derive(Debug)]
struct Life {
    watcher: String,
    /// Since when it is.
    since: Time,
    /// When it last gave a sign.
    sign: Time,
}

/// Datagrams of the last round that said nothing: counted, so that a flood of them is one line of the log.
#[derive(Debug, Default)]
struct Unheard {
    count: u64,
    last: String,
}

impl Policy for WatchDog {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => {
                self.rounds.start(now);
                self.ask(now)
            }
            Input::Event(event) => {
                self.heard(now, event);
                Vec::new()
            }
            Input::Answered { command: Command::Status { .. }, reply } => self.met(now, reply),
            Input::Heartbeat(bytes) => {
                self.sign(now, &bytes);
                Vec::new()
            }
            Input::Woke if self.rounds.come(now) => self.round(now),
            Input::Answered { command: Command::Kill { watcher, pid: Some(pid), .. }, reply: Err(failure) }
                if !failure.is_gone() =>
            {
                let text = format!("{watcher}: {pid} was not killed: {}", failure.reason);
                // It may live, and is to be heard of again.
                [vec![Output::Log(Level::Error, text)], self.ask(now)].concat()
            }
            _ => Vec::new(),
        }
    }

    fn next_wakeup(&self) -> Option<Time> {
        self.rounds.due
    }
}

impl WatchDog {
    fn looks_after(&self, watcher: &str) -> bool {
        // Plugins send no heartbeats, this one least of all.
        !is_plugin(watcher) && self.watchers.as_ref().is_none_or(|pattern| pattern.fits(watcher))
    }

    fn ask(&mut self, now: Time) -> Vec<Output> {
        self.asked = now;
        vec![Output::Ask(Command::Status { watcher: None })]
    }

    fn heard(&mut self, now: Time, event: Event) {
        let Some((_, pid)) = event.process else { return };
        match event.word.as_str() {
            "spawn" if self.looks_after(&event.watcher) => {
                self.pids.insert(pid, Life { watcher: event.watcher, since: now, sign: now });
            }
            // What was told to end need not say that it lives: the agent sees to its end.
            "reap" | "kill" => drop(self.pids.remove(&pid)),
            _ => {}
        }
    }

    /// All processes there are.
    fn met(&mut self, now: Time, reply: Result<Value, Failure>) -> Vec<Output> {
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                let text = format!("which processes there are could not be had: {}", failure.reason);
                return vec![Output::Log(Level::Warn, text)];
            }
        };
        let mut there = BTreeMap::new();
        for watcher in reply["watchers"].as_array().into_iter().flatten() {
            let Some(name) = watcher["name"].as_str().filter(|name| self.looks_after(name)) else { continue };
            let running = watcher["processes"].as_array().into_iter().flatten().filter(|it| it["state"] != "stopping");
            let pids = running.filter_map(|it| u32::try_from(it["pid"].as_u64()?).ok());
            there.extend(pids.map(|pid| (pid, name.to_owned())));
        }
        // What was spawned since the question may not be in the answer.
        self.pids.retain(|pid, life| life.since >= self.asked || there.contains_key(pid));
        for (pid, watcher) in there {
            self.pids.entry(pid).or_insert(Life { watcher, since: now, sign: now });
        }
        Vec::new()
    }

    fn sign(&mut self, now: Time, bytes: &[u8]) {
        let pid = std::str::from_utf8(bytes).ok().and_then(|text| {
            // A line sent with its end is as good.
            let found = self.message.captures(text.trim_end())?;
            found.name("pid")?.as_str().trim().parse::<u32>().ok()
        });
        match pid.and_then(|pid| self.pids.get_mut(&pid)) {
            Some(life) => life.sign = now,
            None => {
                self.unheard.count += 1;
                self.unheard.last = String::from_utf8_lossy(bytes).chars().take(80).collect();
            }
        }
    }

    fn round(&mut self, now: Time) -> Vec<Output> {
        let mut outputs = Vec::new();
        let unheard = std::mem::take(&mut self.unheard);
        if unheard.count > 0 {
            let Unheard { count, last } = unheard;
            let text =
                format!("{count} messages were no heartbeat of a process that is looked after, such as {last:?}");
            outputs.push(Output::Log(Level::Warn, text));
        }
        let patience = self.rounds.every.saturating_mul(self.max_count);
        let silent = |life: &Life| now.since(life.sign) > patience;
        for (pid, life) in self.pids.extract_if(.., |_, life| silent(life)) {
            let Life { watcher, sign, .. } = life;
            let text = format!("{watcher}: {pid} was silent for {:.1} s; killing it", now.since(sign).as_secs_f64());
            outputs.push(Output::Log(Level::Warn, text));
            let (signal, grace, patience) = (self.signal, self.grace, Patience::Admitted);
            outputs.push(Output::Ask(Command::Kill { watcher, pid: Some(pid), signal, grace, patience }));
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, asked, event, failed, logged, plugin, step};
    use super::*;
    use serde_json::json;

    const STATUS: Command = Command::Status { watcher: None };

    /// A watchdog with rounds of a second, three of which may pass in silence.
    fn watchdog(options: &[(&str, &str)]) -> Plugin {
        let mut plugin = plugin("watchdog.WatchDog", &[&[("loop_rate", "1")], options].concat()).unwrap();
        assert_eq!(asked(&step(&mut plugin, 0.0, Input::Following)), [STATUS]);
        plugin
    }

    fn spawn(plugin: &mut Plugin, seconds: f64, watcher: &str, pid: u32) {
        step(plugin, seconds, event(watcher, "spawn", Some((1, pid))));
    }

    fn beat(plugin: &mut Plugin, seconds: f64, text: &str) {
        assert_eq!(step(plugin, seconds, Input::Heartbeat(text.as_bytes().to_vec())), []);
    }

    fn kill(watcher: &str, pid: u32) -> Command {
        Command::Kill {
            watcher: watcher.into(),
            pid: Some(pid),
            signal: None,
            grace: None,
            patience: Patience::Admitted,
        }
    }

    #[test]
    fn only_the_silent_process_is_killed_and_once() {
        let mut plugin = watchdog(&[]);
        spawn(&mut plugin, 0.0, "web", 7);
        spawn(&mut plugin, 0.0, "web", 8);
        beat(&mut plugin, 2.0, "7;1795298080");
        beat(&mut plugin, 2.5, "7;1795298080\n");
        assert_eq!(asked(&step(&mut plugin, 3.0, Input::Woke)), []);
        let outputs = step(&mut plugin, 4.0, Input::Woke);
        assert_eq!(asked(&outputs), [kill("web", 8)]);
        assert_eq!(logged(&outputs), "Warn web: 8 was silent for 4.0 s; killing it\n");
        assert_eq!(step(&mut plugin, 5.0, Input::Woke), []);
    }

    #[test]
    fn several_silent_processes_are_killed_in_one_round() {
        let mut plugin = watchdog(&[("watchers_stop_signal", "KILL"), ("watchers_graceful_timeout", "2")]);
        (1..=5).for_each(|pid| spawn(&mut plugin, 0.0, "web", pid));
        let killed = asked(&step(&mut plugin, 4.0, Input::Woke));
        assert_eq!(killed.len(), 5);
        let grace = Some(Duration::from_secs(2));
        assert!(killed.iter().all(|it| matches!(it, Command::Kill { signal: Some(9), grace: g, .. } if *g == grace)));
    }

    #[test]
    fn a_new_process_gets_its_full_time() {
        let mut plugin = watchdog(&[]);
        spawn(&mut plugin, 3.5, "web", 7);
        for second in [4.0, 5.0, 6.0] {
            assert_eq!(step(&mut plugin, second, Input::Woke), []);
        }
        assert_eq!(asked(&step(&mut plugin, 7.0, Input::Woke)), [kill("web", 7)]);
    }

    #[test]
    fn what_ended_or_was_told_to_is_not_killed() {
        let mut plugin = watchdog(&[]);
        spawn(&mut plugin, 0.0, "web", 7);
        spawn(&mut plugin, 0.0, "web", 8);
        step(&mut plugin, 1.0, event("web", "reap", Some((1, 7))));
        step(&mut plugin, 1.0, event("web", "kill", Some((2, 8))));
        assert_eq!(step(&mut plugin, 9.0, Input::Woke), []);
    }

    #[test]
    fn processes_that_ran_before_are_met_at_the_start_and_after_a_gap() {
        let mut plugin = watchdog(&[("watchers_regex", "WEB")]);
        let process = |pid: u32, state: &str| json!({"wid": 1, "pid": pid, "state": state, "age": 9.0});
        let status = json!({"watchers": [
            {"name": "Web-1", "processes": [process(7, "running"), process(8, "stopping")]},
            {"name": "job", "processes": [process(9, "running")]},
            {"name": "plugin:web", "processes": [process(10, "running")]},
            {"name": "websocket", "processes": [{"wid": 1, "pid": null, "state": "starting"}]},
        ]});
        step(&mut plugin, 0.5, answered(STATUS, status));
        spawn(&mut plugin, 1.0, "websocket", 11);
        // Events were missed: 7 ended meanwhile, 12 came, and 13 comes after the question.
        step(&mut plugin, 2.0, Input::Following);
        spawn(&mut plugin, 2.1, "web", 13);
        let status =
            json!({"watchers": [{"name": "web", "processes": [process(11, "running"), process(12, "running")]}]});
        step(&mut plugin, 2.2, answered(STATUS, status));
        assert_eq!(asked(&step(&mut plugin, 4.1, Input::Woke)), [kill("websocket", 11)]);
        assert_eq!(asked(&step(&mut plugin, 9.0, Input::Woke)), [kill("web", 12), kill("web", 13)]);
    }

    #[test]
    fn messages_that_are_no_heartbeats_are_counted_and_told_once_a_round() {
        let mut plugin = watchdog(&[]);
        for text in ["", "7;now", "frob", "x;y"] {
            beat(&mut plugin, 0.5, text);
        }
        step(&mut plugin, 0.6, Input::Heartbeat(vec![0xff; 2000]));
        let told = logged(&step(&mut plugin, 1.0, Input::Woke));
        assert!(told.starts_with("Warn 5 messages were no heartbeat") && told.len() < 500, "{told}");
        assert_eq!(step(&mut plugin, 2.0, Input::Woke), []);
    }

    #[test]
    fn a_process_that_could_not_be_killed_is_looked_after_again() {
        let mut plugin = watchdog(&[]);
        spawn(&mut plugin, 0.0, "web", 7);
        let question = asked(&step(&mut plugin, 4.0, Input::Woke)).remove(0);
        assert_eq!(step(&mut plugin, 4.1, failed(question.clone(), Some("no-such-process"))), []);
        let outputs = step(&mut plugin, 4.1, failed(question, None));
        assert!(logged(&outputs).contains("web: 7 was not killed: because"));
        assert_eq!(asked(&outputs), [STATUS]);
    }

    #[test]
    fn expressions_and_addresses_are_checked_before_it_runs() {
        let options = [("msg_regex", "^(?P<time>.*)$"), ("watchers_regex", "("), ("ip", "here"), ("max_count", "0")];
        let why = plugin("watchdog.WatchDog", &options).err().unwrap();
        for (key, _) in options {
            assert!(why.contains(&format!("{key} must be")), "{key} in {why}");
        }
        let made = plugin("watchdog.WatchDog", &[("ip", "::1"), ("port", "1665")]).unwrap();
        assert_eq!(made.heartbeats, Some("[::1]:1665".parse().unwrap()));
    }
}
