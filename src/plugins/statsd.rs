//! `StatsdEmitter` and `FullStats`: what happens and what is used, as statsd's counters and gauges.
//!
//! The names are Circus's: `circus.APPLICATION.watcher.` and then `WATCHER.EVENT`, or `_stats.WATCHER.…`. A watcher's
//! name is one part of such a name, so that what would end the part, or the name, becomes `_`.

use std::fmt::Display;

use serde_json::Value;

use super::options::Options;
use super::{Input, Output, Plugin, Policy, Rounds, USUAL_ROUND, is_plugin};
use crate::model::command::Command;
use crate::model::random::Random;
use crate::model::time::Time;

/// `circus.plugins.statsd.StatsdEmitter`: counts the agent's events.
pub(super) fn emitter(options: &mut Options, seed: Random) -> Plugin {
    let (statsd, to) = Statsd::read(options, "app", seed);
    Plugin { policy: Box::new(Emitter(statsd)), statsd: Some(to), heartbeats: None }
}

/// `circus.plugins.statsd.FullStats`: says at each round what each watcher uses.
pub(super) fn full_stats(options: &mut Options, seed: Random) -> Plugin {
    let (statsd, to) = Statsd::read(options, "app", seed);
    let rounds = Rounds::read(options, USUAL_ROUND);
    Plugin { policy: Box::new(FullStats { statsd, rounds, open: false }), statsd: Some(to), heartbeats: None }
}

/// Makes statsd's datagrams.
#[derive(Debug)]
pub(super) struct Statsd {
    prefix: String,
    sample_rate: f64,
    chance: Random,
}

impl Statsd {
    /// From the options that all have that send to statsd: what makes the datagrams, and host and port they go to.
    pub(super) fn read(options: &mut Options, application: &str, chance: Random) -> (Statsd, (String, u16)) {
        let to = (options.text_or("host", "localhost"), options.number("port", 8125, 1, u16::MAX));
        let prefix = format!("circus.{}.watcher", options.text_or("application_name", application));
        let sample_rate = options.number("sample_rate", 1.0, 0.0, 1.0);
        (Statsd { prefix, sample_rate, chance }, to)
    }

    /// Adds one to a counter; below a `sample_rate` of 1 only so often, and statsd is told to multiply.
    pub(super) fn count(&mut self, bucket: impl Display) -> Option<Output> {
        if self.sample_rate >= 1.0 {
            return Some(Output::Metric(format!("{}.{bucket}:1|c", self.prefix)));
        }
        let chosen = self.chance.fraction() < self.sample_rate;
        chosen.then(|| Output::Metric(format!("{}.{bucket}:1|c|@{}", self.prefix, self.sample_rate)))
    }

    /// Sets a gauge. Never sampled: statsd could not make up for it.
    pub(super) fn gauge(&self, bucket: impl Display, value: impl Display) -> Output {
        Output::Metric(format!("{}.{bucket}:{value}|g", self.prefix))
    }

    /// Notes how many milliseconds something took. Never sampled.
    pub(super) fn timing(&self, bucket: impl Display, ms: u128) -> Output {
        Output::Metric(format!("{}.{bucket}:{ms}|ms", self.prefix))
    }
}

/// A watcher's name as one part of a bucket's.
pub(super) fn part(watcher: &str) -> String {
    let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | ':' | '|' | '@' | '#' | '/');
    watcher.chars().map(|c| if ends(c) { '_' } else { c }).collect()
}

/// The bytes that a text such as `8.50M` or `250MB` stands for: a number and a unit of 1024, or of 1.
pub(super) fn bytes(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        _ => 1 + ["K", "M", "G", "T", "P", "E", "Z", "Y"].iter().position(|known| *known == unit)?,
    };
    Some(number.parse::<f64>().ok()? * 1024f64.powi(i32::try_from(power).ok()?))
}

struct Emitter(Statsd);

impl Policy for Emitter {
    fn step(&mut self, _now: Time, input: Input) -> Vec<Output> {
        let Input::Event(event) = input else { return Vec::new() };
        // As in the topics of Circus's events, where names are lower case.
        let watcher = part(&event.watcher.to_lowercase());
        self.0.count(format_args!("{watcher}.{}", event.word)).into_iter().collect()
    }
}

struct FullStats {
    statsd: Statsd,
    rounds: Rounds,
    /// Whether the agent has yet to answer.
    open: bool,
}

impl Policy for FullStats {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => self.rounds.start(now),
            Input::Woke if self.rounds.come(now) && !self.open => {
                self.open = true;
                return vec![Output::Ask(Command::Stats { watcher: None, pid: None, extended: false })];
            }
            Input::Answered { command: Command::Stats { .. }, reply } => {
                self.open = false;
                return match reply {
                    Ok(reply) => self.gauges(&reply),
                    Err(_) => self.statsd.count("_stats.error").into_iter().collect(),
                };
            }
            _ => {}
        }
        Vec::new()
    }

    fn next_wakeup(&self) -> Option<Time> {
        self.rounds.due
    }
}

impl FullStats {
    fn gauges(&self, reply: &Value) -> Vec<Output> {
        let mut outputs = Vec::new();
        for (watcher, processes) in reply["infos"].as_object().into_iter().flatten() {
            if is_plugin(watcher) {
                continue;
            }
            // What ended meanwhile is a text, not an object.
            let processes: Vec<&Value> = processes
                .as_object()
                .into_iter()
                .flat_map(|all| all.values())
                .filter(|info| info.is_object())
                .collect();
            let watcher = part(watcher);
            outputs.push(self.statsd.gauge(format_args!("_stats.{watcher}.watchers_num"), processes.len()));
            let numbers = |key: &str| processes.iter().filter_map(|info| info[key].as_f64()).collect::<Vec<_>>();
            let resident = processes.iter().filter_map(|info| bytes(info["mem_info1"].as_str()?)).collect();
            for (name, values) in [("cpu", numbers("cpu")), ("mem_pct", numbers("mem")), ("mem", resident)] {
                if let Some(most) = values.iter().copied().reduce(f64::max) {
                    outputs.push(self.statsd.gauge(format_args!("_stats.{watcher}.{name}_max"), rounded(most)));
                    let sum = values.iter().sum();
                    outputs.push(self.statsd.gauge(format_args!("_stats.{watcher}.{name}_sum"), rounded(sum)));
                }
            }
        }
        outputs
    }
}

/// Without the noise that sums of fractions have.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, asked, at, event, failed, metrics, plugin, step};
    use super::*;
    use serde_json::json;

    #[test]
    fn each_event_is_counted_under_circuss_name() {
        let mut emitter = plugin("statsd.StatsdEmitter", &[("application_name", "shop")]).unwrap();
        assert_eq!(emitter.statsd, Some(("localhost".into(), 8125)));
        let counted = step(&mut emitter, 0.0, event("Sleep Two", "reap", Some((1, 7))));
        assert_eq!(metrics(&counted), ["circus.shop.watcher.sleep_two.reap:1|c"]);
    }

    #[test]
    fn a_dot_in_a_watchers_name_is_not_one_in_the_buckets() {
        let mut emitter = plugin("statsd.StatsdEmitter", &[]).unwrap();
        let counted = step(&mut emitter, 0.0, event("c.d:e|f", "spawn", None));
        assert_eq!(metrics(&counted), ["circus.app.watcher.c_d_e_f.spawn:1|c"]);
    }

    #[test]
    fn a_sample_rate_sends_fewer_datagrams_and_says_so() {
        let mut emitter = plugin("statsd.StatsdEmitter", &[("sample_rate", "0.1")]).unwrap();
        let sent: Vec<String> =
            (0..1000).flat_map(|_| metrics(&step(&mut emitter, 0.0, event("web", "spawn", None)))).collect();
        assert!((50..200).contains(&sent.len()), "{}", sent.len());
        assert_eq!(sent[0], "circus.app.watcher.web.spawn:1|c|@0.1");
    }

    #[test]
    fn bytes_are_read_as_circus_writes_them() {
        assert_eq!(bytes("123B"), Some(123.0));
        assert_eq!(bytes("8.50M"), Some(8_912_896.0));
        for same in ["250M", "250 m", "250MB", "250MiB"] {
            assert_eq!(bytes(same), Some(250.0 * 1024.0 * 1024.0), "{same}");
        }
        assert_eq!((bytes("M"), bytes("1X"), bytes("-1M"), bytes("N/A")), (None, None, None, None));
    }

    const STATS: Command = Command::Stats { watcher: None, pid: None, extended: false };

    #[test]
    fn each_round_tells_what_each_watcher_uses() {
        let mut stats = plugin("statsd.FullStats", &[("loop_rate", "10")]).unwrap();
        step(&mut stats, 0.0, Input::Following);
        assert_eq!(stats.policy.next_wakeup(), Some(at(10.0)));
        assert_eq!(step(&mut stats, 9.0, Input::Woke), []);
        assert_eq!(asked(&step(&mut stats, 10.0, Input::Woke)), [STATS]);
        let infos = json!({
            "Web.1": {
                "7": {"cpu": 10.5, "mem": 0.1, "mem_info1": "1.00K"},
                "8": {"cpu": 5.0, "mem": 0.2, "mem_info1": "512B"},
                "9": "No such process (stopped?)",
            },
            "idle": {},
            "plugin:stats": {"10": {"cpu": 1.0}},
        });
        let gauges = metrics(&step(&mut stats, 10.1, answered(STATS, json!({"infos": infos}))));
        let expected = [
            "Web_1.watchers_num:2|g",
            "Web_1.cpu_max:10.5|g",
            "Web_1.cpu_sum:15.5|g",
            "Web_1.mem_pct_max:0.2|g",
            "Web_1.mem_pct_sum:0.3|g",
            "Web_1.mem_max:1024|g",
            "Web_1.mem_sum:1536|g",
            "idle.watchers_num:0|g",
        ];
        assert_eq!(gauges, expected.map(|gauge| format!("circus.app.watcher._stats.{gauge}")));
    }

    #[test]
    fn a_slow_agent_is_not_asked_again_before_it_answered() {
        let mut stats = plugin("statsd.FullStats", &[("loop_rate", "1")]).unwrap();
        step(&mut stats, 0.0, Input::Following);
        assert_eq!(asked(&step(&mut stats, 1.0, Input::Woke)), [STATS]);
        assert_eq!(asked(&step(&mut stats, 2.0, Input::Woke)), []);
        let error = step(&mut stats, 2.5, failed(STATS, None));
        assert_eq!(metrics(&error), ["circus.app.watcher._stats.error:1|c"]);
        assert_eq!(asked(&step(&mut stats, 3.0, Input::Woke)), [STATS]);
    }
}
