//! `Flapping`: stops a watcher whose processes end again and again, and tries it anew later.
//!
//! ```text
//!              attempts ends of one slot within the window: stop
//!   Watching ──────────────────────────────────────────────────────▶ Resting{until}
//!      ▲  ▲                                                             │      │
//!      │  └──────────────── until has come: start ──────────────────────┘      │
//!      └──────── someone else started or stopped it: nothing more to do ───────┘
//! ```
//!
//! The tries of a watcher are counted until it proves steady; when they are used up, the stop is the last one.
//!
//! What counts is a slot's process that ended by itself. What was told to end (a stop, a restart, a reload) is
//! announced by the event `kill` and does not count, nor do the ends of a watcher that does not respawn. The window
//! measures how long the processes ran: the agent's pauses before it replaces a process are not its merit.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::options::Options;
use super::{Event, Failure, Input, Output, Plugin, Policy, is_plugin, only};
use crate::model::command::{Command, Patience};
use crate::model::event::Level;
use crate::model::time::Time;

/// The most `attempts` that can be asked for, and so the most ends of a slot that are remembered.
const MOST_ATTEMPTS: usize = 1000;
/// After a start that came to nothing, because the agent was not reached, how long until the next.
const START_AGAIN: Duration = Duration::from_secs(5);

/// `circus.plugins.flapping.Flapping`
pub(super) fn plugin(options: &mut Options) -> Plugin {
    let usual = Limits::read(options, &Limits::default());
    let policy = Flapping { usual, following: Time::ZERO, watchers: BTreeMap::new() };
    Plugin { policy: Box::new(policy), statsd: None, heartbeats: None }
}

/// From when on a watcher flaps, and what then. A watcher's own `flapping.*` options come before the plugin's.
#[derive(Debug, Clone, PartialEq)]
struct Limits {
    /// Whether it is looked after at all.
    active: bool,
    /// So many ends of one slot …
    attempts: usize,
    /// … within this time are too many.
    window: Duration,
    /// How long it then rests.
    retry_in: Duration,
    /// How often it may; nothing: without end.
    max_retry: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            active: true,
            attempts: 2,
            window: Duration::from_secs(1),
            retry_in: Duration::from_secs(7),
            max_retry: Some(5),
        }
    }
}

impl Limits {
    fn read(options: &mut Options, usual: &Limits) -> Limits {
        let max_retry = options.parsed("max_retry", "must be a number from 0, or -1 for no end", |text| match text {
            "-1" => Some(None),
            _ => text.parse::<u32>().ok().map(Some),
        });
        Limits {
            active: options.flag("active", usual.active),
            attempts: options.number("attempts", usual.attempts, 1, MOST_ATTEMPTS),
            window: options.time("window").unwrap_or(usual.window),
            retry_in: options.time("retry_in").unwrap_or(usual.retry_in),
            max_retry: max_retry.unwrap_or(usual.max_retry),
        }
    }

    /// Those of a watcher, from the reply to `options`; nothing where its processes are not replaced. The error says
    /// which are wrong; the plugin's then hold instead of these.
    fn of(reply: &Value, usual: &Limits) -> (Option<Limits>, Result<(), String>) {
        let options = reply["options"].as_object();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let own = options.into_iter().flatten().filter_map(|(key, value)| {
            let key = key.strip_prefix("flapping.")?;
            Some((key.to_owned(), text(value)))
        });
        let mut own = Options::new(own.collect());
        let limits = Limits::read(&mut own, usual);
        let respawns = reply["options"]["respawn"] != Value::Bool(false);
        (respawns.then_some(limits), own.done())
    }
}

struct Flapping {
    usual: Limits,
    /// Since when no event was missed.
    following: Time,
    watchers: BTreeMap<String, Watched>,
}

/// A watcher of which something was heard.
#[derive(Debug, Default)]
struct Watched {
    slots: BTreeMap<u32, Slot>,
    /// How often it was stopped for flapping since it was last steady.
    tries: u32,
    state: State,
    /// Whether its options are being asked for.
    asking: bool,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Watching,
    /// It was stopped and starts again at `until`; `stopped`: the event that says so was seen.
    Resting { until: Time, stopped: bool },
}

/// A slot and its latest processes.
#[derive(Debug)]
struct Slot {
    /// The process that runs there, or ran there last.
    pid: u32,
    /// Since when, as far as is known.
    since: Time,
    /// Whether it was told to end.
    told: bool,
    /// How long each process ran that ended by itself, one right after the other; the latest is last.
    ran: VecDeque<Duration>,
}

impl Policy for Flapping {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => {
                self.following = now;
                // What was missed may have been a stop: nothing that was counted can be trusted.
                self.watchers.values_mut().for_each(|watched| watched.slots.clear());
                Vec::new()
            }
            Input::Event(event) if is_plugin(&event.watcher) => Vec::new(),
            Input::Event(event) => self.heard(now, &event),
            Input::Answered { command: Command::Options { watcher, .. }, reply } => self.told(now, &watcher, reply),
            Input::Answered { command: Command::Start { pattern: Some(watcher), .. }, reply: Err(failure) } => {
                self.start_failed(now, watcher.text(), &failure)
            }
            Input::Answered { command: Command::Stop { pattern: Some(watcher), .. }, reply: Err(failure) } => {
                self.stop_failed(watcher.text(), &failure)
            }
            Input::Woke => self.start_rested(now),
            Input::Ending => self.say_who_rests(now),
            _ => Vec::new(),
        }
    }

    fn next_wakeup(&self) -> Option<Time> {
        let until = |watched: &Watched| match watched.state {
            State::Resting { until, .. } => Some(until),
            State::Watching => None,
        };
        self.watchers.values().filter_map(until).min()
    }
}

impl Flapping {
    fn heard(&mut self, now: Time, event: &Event) -> Vec<Output> {
        let watcher = &event.watcher;
        if event.word == "remove" {
            self.watchers.remove(watcher);
            return Vec::new();
        }
        let watched = self.watchers.entry(watcher.clone()).or_default();
        if let Some((wid, pid)) = event.process {
            let slot = watched.slots.entry(wid).or_insert_with(|| Slot::new(pid, self.following));
            match event.word.as_str() {
                "spawn" => slot.spawned(pid, now),
                "kill" => slot.told |= slot.pid == pid,
                "reap" if slot.ended_by_itself(pid, now) && watched.state == State::Watching && !watched.asking => {
                    // Asked for each time, so that changed options hold at once. Processes rarely end by themselves.
                    watched.asking = true;
                    return vec![Output::Ask(Command::Options { watcher: watcher.clone(), keys: None })];
                }
                _ => {}
            }
            return Vec::new();
        }
        match (event.word.as_str(), &mut watched.state) {
            ("stop", State::Resting { stopped, .. }) if !*stopped => *stopped = true,
            // The first stop was ours. A further one, or a start, is someone else's, who has taken over.
            ("stop" | "start", State::Resting { stopped: true, .. }) => {
                *watched = Watched::default();
                let text = format!("{watcher}: {} by someone else; what is to become of it is theirs", event.word);
                return vec![Output::Log(Level::Info, text)];
            }
            // So that ends from before a stop are not counted after it.
            ("stop", State::Watching) => watched.slots.clear(),
            _ => {}
        }
        Vec::new()
    }

    /// A watcher's options are known, or cannot be.
    fn told(&mut self, now: Time, watcher: &str, reply: Result<Value, Failure>) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        watched.asking = false;
        match reply {
            Ok(reply) => {
                let (limits, sound) = Limits::of(&reply, &self.usual);
                let mut outputs = Vec::new();
                if let Err(wrong) = sound {
                    let wrong = wrong.replace('\n', ", flapping.");
                    let text = format!("{watcher}: the plugin's own options hold, as flapping.{wrong}");
                    outputs.push(Output::Log(Level::Warn, text));
                }
                match limits {
                    Some(limits) if limits.active => outputs.extend(watched.judge(now, watcher, &limits)),
                    _ => *watched = Watched::default(),
                }
                outputs
            }
            Err(failure) if failure.is_gone() => {
                self.watchers.remove(watcher);
                Vec::new()
            }
            Err(failure) => {
                let text = format!("{watcher}: its options could not be had: {}", failure.reason);
                vec![Output::Log(Level::Warn, text)]
            }
        }
    }

    fn start_rested(&mut self, now: Time) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (watcher, watched) in &mut self.watchers {
            if matches!(watched.state, State::Resting { until, .. } if until <= now) {
                watched.state = State::Watching;
                watched.slots.clear();
                outputs.push(Output::Log(Level::Info, format!("{watcher}: has rested; starting it")));
                outputs.push(Output::Ask(Command::Start { pattern: only(watcher), patience: Patience::Admitted }));
            }
        }
        outputs
    }

    fn start_failed(&mut self, now: Time, watcher: &str, failure: &Failure) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        match failure.code {
            // Nobody was reached: it must not stay down for that.
            None => {
                watched.state = State::Resting { until: now + START_AGAIN, stopped: true };
                let text = format!("{watcher}: not started: {}; again in {} s", failure.reason, START_AGAIN.as_secs());
                vec![Output::Log(Level::Warn, text)]
            }
            Some(_) => {
                self.watchers.remove(watcher);
                vec![Output::Log(Level::Warn, format!("{watcher}: not started: {}", failure.reason))]
            }
        }
    }

    fn stop_failed(&mut self, watcher: &str, failure: &Failure) -> Vec<Output> {
        let Some(watched) = self.watchers.get_mut(watcher) else { return Vec::new() };
        watched.state = State::Watching;
        if failure.is_gone() {
            self.watchers.remove(watcher);
        }
        vec![Output::Log(Level::Error, format!("{watcher}: flaps, but was not stopped: {}", failure.reason))]
    }

    /// Nobody else would start them.
    fn say_who_rests(&self, now: Time) -> Vec<Output> {
        let rests = |(watcher, watched): (&String, &Watched)| match watched.state {
            State::Resting { until, .. } => {
                let left = now.until(until).as_secs_f64();
                let text = format!("{watcher}: was to start again in {left:.0} s, and stays stopped now");
                Some(Output::Log(Level::Warn, text))
            }
            State::Watching => None,
        };
        self.watchers.iter().filter_map(rests).collect()
    }
}

impl Watched {
    /// Whether the watcher flaps, and what follows.
    fn judge(&mut self, now: Time, watcher: &str, limits: &Limits) -> Vec<Output> {
        if self.state != State::Watching {
            return Vec::new();
        }
        let Some(slot) = self.flaps(limits) else { return Vec::new() };
        let Limits { attempts, window, retry_in, max_retry, .. } = limits;
        let seconds = |time: &Duration| time.as_secs_f64();
        let what =
            format!("{watcher}: flapping: slot {slot} ended {attempts} times within {} s of running", seconds(window));
        let (level, text) = match max_retry {
            Some(most) if self.tries >= *most => {
                self.tries = 0;
                let again = format!("once its cause is mended: circusctl start '{watcher}'");
                (Level::Error, format!("{what}; max_retry = {most} is used up, so that it stays stopped; {again}"))
            }
            most => {
                self.tries = self.tries.saturating_add(1);
                self.state = State::Resting { until: now + *retry_in, stopped: false };
                let of = most.map(|most| format!(" of {most}")).unwrap_or_default();
                let again = format!("starts again in {} s (try {}{of})", seconds(retry_in), self.tries);
                (Level::Warn, format!("{what}; stopped, {again}"))
            }
        };
        self.slots.clear();
        let stop = Command::Stop { pattern: only(watcher), patience: Patience::Admitted };
        vec![Output::Log(level, text), Output::Ask(stop)]
    }

    /// A slot that ended too often, if one did. What proves that the watcher is steady makes its tries forgotten.
    fn flaps(&mut self, limits: &Limits) -> Option<u32> {
        let (mut steady, mut brisk) = (false, false);
        for (wid, slot) in &mut self.slots {
            // The first end begins the window: it counts, but not how long its process ran.
            let long = slot.ran.iter().rposition(|ran| *ran > limits.window);
            slot.ran.drain(..long.unwrap_or(0));
            if slot.ran.len() < limits.attempts {
                steady |= long.is_some() && slot.ran.len() == 1;
                brisk |= slot.ran.len() > 1;
                continue;
            }
            slot.ran.drain(..slot.ran.len() - limits.attempts);
            if slot.ran.iter().skip(1).sum::<Duration>() <= limits.window {
                return Some(*wid);
            }
            steady = true;
        }
        // One slot's long life excuses no other one's short lives.
        if steady && !brisk {
            self.tries = 0;
        }
        None
    }
}

impl Slot {
    fn new(pid: u32, since: Time) -> Slot {
        Slot { pid, since, told: false, ran: VecDeque::new() }
    }

    fn spawned(&mut self, pid: u32, now: Time) {
        // A process that was told to end and of which no end was heard, as in a reload: the new one is a new beginning.
        if self.told {
            self.ran.clear();
        }
        (self.pid, self.since, self.told) = (pid, now, false);
    }

    /// Notes an end; whether it was the process's own.
    fn ended_by_itself(&mut self, pid: u32, now: Time) -> bool {
        if self.pid != pid {
            return false;
        }
        if self.told {
            self.ran.clear();
            return false;
        }
        if self.ran.len() == MOST_ATTEMPTS {
            self.ran.pop_front();
        }
        self.ran.push_back(now.since(self.since));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, asked, at, event, failed, logged, plugin, step};
    use super::*;
    use serde_json::json;

    /// A flapping plugin in a play that goes on by itself: options are answered at once.
    struct Play {
        plugin: Plugin,
        options: Value,
        now: f64,
        pid: u32,
        said: String,
    }

    impl Play {
        fn new(options: &[(&str, &str)]) -> Play {
            let mut plugin = plugin("flapping.Flapping", options).unwrap();
            step(&mut plugin, 0.0, Input::Following);
            Play { plugin, options: json!({"respawn": true}), now: 0.0, pid: 100, said: String::new() }
        }

        fn take(&mut self, input: Input) -> Vec<Command> {
            let outputs = step(&mut self.plugin, self.now, input);
            self.said += &logged(&outputs);
            let mut commands = Vec::new();
            for command in asked(&outputs) {
                match &command {
                    Command::Options { .. } => {
                        commands.extend(self.take(answered(command, json!({"options": self.options}))));
                    }
                    _ => commands.push(command),
                }
            }
            commands
        }

        fn event(&mut self, word: &str) -> Vec<Command> {
            self.take(event("web", word, None))
        }

        fn process(&mut self, word: &str, wid: u32) -> Vec<Command> {
            self.take(event("web", word, Some((wid, self.pid))))
        }

        /// A process of this slot runs so long and ends by itself.
        fn crash(&mut self, wid: u32, ran: f64) -> Vec<Command> {
            self.pid += 1;
            self.process("spawn", wid);
            self.now += ran;
            self.process("reap", wid)
        }

        fn wake(&mut self, now: f64) -> Vec<Command> {
            self.now = now;
            self.take(Input::Woke)
        }

        fn next(&self) -> Option<Time> {
            self.plugin.policy.next_wakeup()
        }
    }

    fn stop() -> [Command; 1] {
        [Command::Stop { pattern: only("web"), patience: Patience::Admitted }]
    }

    fn start() -> [Command; 1] {
        [Command::Start { pattern: only("web"), patience: Patience::Admitted }]
    }

    #[test]
    fn a_flapping_watcher_is_stopped_and_started_again_until_it_is_given_up() {
        let mut play = Play::new(&[("max_retry", "2")]);
        for tries in 1..=2 {
            assert_eq!(play.crash(1, 0.1), []);
            assert_eq!(play.crash(1, 0.1), stop());
            assert!(play.said.contains("slot 1 ended 2 times within 1 s of running; stopped, starts again in 7 s"));
            assert!(play.said.contains(&format!("(try {tries} of 2)")), "{}", play.said);
            let until = play.now + 7.0;
            assert_eq!(play.next(), Some(at(until)));
            play.event("stop");
            assert_eq!(play.wake(until), start());
            play.event("start");
        }
        play.crash(1, 0.1);
        assert_eq!(play.crash(1, 0.1), stop());
        assert!(play.said.ends_with("once its cause is mended: circusctl start 'web'\n"), "{}", play.said);
        assert!(play.said.contains("Error web: flapping"), "{}", play.said);
        assert_eq!(play.next(), None);
    }

    #[test]
    fn without_a_limit_it_is_tried_for_ever() {
        let mut play = Play::new(&[("max_retry", "-1"), ("attempts", "1")]);
        for _ in 0..50 {
            assert_eq!(play.crash(1, 0.1), stop());
            assert_eq!(play.wake(play.now + 7.0), start());
        }
    }

    #[test]
    fn the_agents_pauses_between_tries_do_not_hide_flapping() {
        let mut play = Play::new(&[("attempts", "5")]);
        for pause in [0.0, 0.1, 30.0, 30.0] {
            play.now += pause;
            assert_eq!(play.crash(1, 0.1), []);
        }
        play.now += 30.0;
        assert_eq!(play.crash(1, 0.1), stop());
    }

    #[test]
    fn ends_that_are_far_apart_are_no_flapping() {
        let mut play = Play::new(&[("attempts", "3")]);
        for _ in 0..20 {
            assert_eq!(play.crash(1, 0.6), []);
        }
    }

    #[test]
    fn a_steady_run_makes_tries_forgotten() {
        let mut play = Play::new(&[("max_retry", "1")]);
        play.crash(1, 0.1);
        assert_eq!(play.crash(1, 0.1), stop());
        play.wake(100.0);
        assert_eq!(play.crash(1, 60.0), []);
        assert_eq!(play.crash(1, 0.1), stop());
        assert!(!play.said.contains("Error"), "{}", play.said);
    }

    #[test]
    fn one_slots_long_life_does_not_excuse_anothers_short_ones() {
        let mut play = Play::new(&[("max_retry", "1"), ("attempts", "3")]);
        for _ in 0..2 {
            play.crash(1, 0.1);
            play.crash(1, 0.1);
            play.take(event("web", "spawn", Some((2, 7))));
            play.now += 5.0;
            play.take(event("web", "reap", Some((2, 7))));
            assert_eq!(play.crash(1, 0.1), stop());
            play.wake(play.now + 7.0);
        }
        assert!(play.said.contains("Error"));
    }

    #[test]
    fn a_stop_by_hand_is_no_flapping() {
        let mut play = Play::new(&[("attempts", "1")]);
        for wid in 1..=4 {
            play.pid += 1;
            play.process("spawn", wid);
            play.process("kill", wid);
            assert_eq!(play.process("reap", wid), []);
        }
        play.event("stop");
        assert_eq!((play.next(), play.said.as_str()), (None, ""));
    }

    #[test]
    fn a_restart_by_hand_right_after_a_crash_is_no_flapping() {
        let mut play = Play::new(&[]);
        play.crash(1, 0.1);
        play.pid += 1;
        play.process("spawn", 1);
        play.process("kill", 1);
        assert_eq!(play.process("reap", 1), []);
        play.event("stop");
        assert_eq!(play.crash(1, 0.1), []);
    }

    #[test]
    fn processes_that_a_reload_replaced_do_not_count() {
        let mut play = Play::new(&[]);
        play.crash(1, 0.1);
        play.pid += 1;
        play.process("spawn", 1);
        // A graceful reload tells of no reap.
        play.process("kill", 1);
        assert_eq!(play.crash(1, 0.1), []);
    }

    #[test]
    fn a_stop_by_hand_while_it_rests_is_the_last_word() {
        let mut play = Play::new(&[]);
        play.crash(1, 0.1);
        play.crash(1, 0.1);
        play.event("stop");
        play.event("stop");
        assert!(play.said.contains("stop by someone else"), "{}", play.said);
        assert_eq!((play.next(), play.wake(100.0)), (None, vec![]));
    }

    #[test]
    fn a_start_by_hand_while_it_rests_makes_ours_needless() {
        let mut play = Play::new(&[]);
        play.crash(1, 0.1);
        play.crash(1, 0.1);
        play.event("stop");
        play.event("start");
        assert_eq!((play.next(), play.wake(100.0)), (None, vec![]));
    }

    #[test]
    fn a_stop_that_comes_while_options_are_asked_for_wins() {
        let mut flapping = plugin("flapping.Flapping", &[("attempts", "1")]).unwrap();
        step(&mut flapping, 0.0, Input::Following);
        step(&mut flapping, 0.0, event("web", "spawn", Some((1, 7))));
        let question = asked(&step(&mut flapping, 0.1, event("web", "reap", Some((1, 7))))).remove(0);
        step(&mut flapping, 0.1, event("web", "stop", None));
        assert_eq!(step(&mut flapping, 0.2, answered(question, json!({"options": {}}))), []);
    }

    #[test]
    fn ends_of_several_healthy_siblings_do_not_add_up() {
        let mut play = Play::new(&[]);
        for wid in 1..=10 {
            assert_eq!(play.crash(wid, 0.01), []);
        }
    }

    #[test]
    fn a_watchers_own_options_come_before_the_plugins() {
        let mut play = Play::new(&[("attempts", "2")]);
        play.options = json!({"flapping.attempts": "4", "flapping.retry_in": 3, "flapping.max_retry": "-1"});
        for _ in 0..3 {
            assert_eq!(play.crash(1, 0.1), []);
        }
        assert_eq!(play.crash(1, 0.1), stop());
        assert!(play.said.contains("again in 3 s (try 1)"), "{}", play.said);
        let mut off = Play::new(&[]);
        off.options = json!({"flapping.active": "False"});
        assert!((0..5).all(|_| off.crash(1, 0.1).is_empty()));
    }

    #[test]
    fn a_wrong_option_of_a_watcher_is_told_and_the_plugins_holds() {
        let mut play = Play::new(&[]);
        play.options = json!({"flapping.window": "soon"});
        play.crash(1, 0.1);
        assert_eq!(play.crash(1, 0.1), stop());
        assert!(play.said.contains("window must be a time"), "{}", play.said);
    }

    #[test]
    fn a_watcher_that_does_not_respawn_never_flaps() {
        let mut play = Play::new(&[("attempts", "1")]);
        play.options = json!({"respawn": false});
        assert_eq!(play.crash(1, 0.1), []);
    }

    #[test]
    fn plugins_are_left_alone() {
        let mut flapping = plugin("flapping.Flapping", &[("attempts", "1")]).unwrap();
        step(&mut flapping, 0.0, Input::Following);
        step(&mut flapping, 0.0, event("plugin:x", "spawn", Some((1, 7))));
        assert_eq!(step(&mut flapping, 0.1, event("plugin:x", "reap", Some((1, 7)))), []);
    }

    #[test]
    fn what_was_counted_before_a_gap_in_the_events_is_not_trusted() {
        let mut play = Play::new(&[]);
        play.crash(1, 0.1);
        play.take(Input::Following);
        assert_eq!(play.crash(1, 0.1), []);
        assert_eq!(play.crash(1, 0.1), stop());
    }

    #[test]
    fn a_start_that_reached_nobody_is_tried_again() {
        let mut play = Play::new(&[("attempts", "1")]);
        play.crash(1, 0.1);
        play.event("stop");
        let [command] = start();
        assert_eq!(play.wake(8.0), std::slice::from_ref(&command));
        play.take(failed(command.clone(), None));
        assert_eq!(play.wake(13.0), std::slice::from_ref(&command));
        play.take(failed(command, Some("stopping")));
        assert_eq!(play.next(), None);
    }

    #[test]
    fn a_watcher_that_is_gone_is_forgotten() {
        let mut play = Play::new(&[("attempts", "1")]);
        play.crash(1, 0.1);
        assert!(play.next().is_some());
        play.event("remove");
        assert_eq!(play.next(), None);
    }

    #[test]
    fn at_the_end_it_says_what_will_stay_stopped() {
        let mut play = Play::new(&[("attempts", "1")]);
        play.crash(1, 0.1);
        play.take(Input::Ending);
        assert!(play.said.contains("web: was to start again in 7 s, and stays stopped now"), "{}", play.said);
    }
}
