//! `ResourceWatcher`: restarts a watcher whose processes use too much, or too little, for too long.
//!
//! At each round the processes of one watcher are compared with its limits. A limit that was broken in more than
//! `max_count` rounds in a row restarts the watcher; with `process_children` each child of a process is judged by
//! itself, and is sent `child_signal`; with `whole_cluster` the processes of all nodes are judged by their sum.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::options::Options;
use super::statsd::{Statsd, bytes, part};
use super::{Input, Output, Plugin, Policy, Rounds, USUAL_ROUND, restart};
use crate::model::command::Command;
use crate::model::event::{Level, Reach, signal_name};
use crate::model::names::is_called;
use crate::model::random::Random;
use crate::model::time::Time;

/// `circus.plugins.resource_watcher.ResourceWatcher`
pub(super) fn plugin(options: &mut Options, seed: Random) -> Plugin {
    let (statsd, to) = Statsd::read(options, "app", seed);
    // `service` is the older name.
    let watcher = options.text("watcher").or_else(|| options.text("service"));
    if watcher.is_none() {
        options.wrong("watcher", "must name the watcher that is looked after");
    }
    let policy = ResourceWatcher {
        statsd,
        rounds: Rounds::read(options, USUAL_ROUND),
        limits: Limits::read(options),
        watcher: watcher.unwrap_or_default(),
        max_count: options.number("max_count", 3, 0, u32::MAX),
        child_signal: options.signal("child_signal").unwrap_or(libc::SIGTERM),
        process_children: options.flag("process_children", false),
        whole_cluster: options.flag("whole_cluster", false),
        counts: BTreeMap::new(),
        open: false,
    };
    if policy.process_children && policy.whole_cluster {
        options.wrong("whole_cluster", "judges a sum, and process_children each child: choose one");
    }
    Plugin { policy: Box::new(policy), statsd: Some(to), heartbeats: None }
}

struct ResourceWatcher {
    statsd: Statsd,
    rounds: Rounds,
    limits: Limits,
    watcher: String,
    max_count: u32,
    child_signal: i32,
    process_children: bool,
    whole_cluster: bool,
    counts: BTreeMap<Whose, BTreeMap<Kind, u32>>,
    /// Whether the agent has yet to answer.
    open: bool,
}

/// Whose use is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// The watcher's processes, each by itself, and the worst of them counts.
    Processes,
    /// A child of one of them.
    Child { pid: u32, parent: u32 },
}

/// What can be wrong, in the words of Circus's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    OverCpu,
    UnderCpu,
    OverMemory,
    UnderMemory,
    OverHealth,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::OverCpu => "over_cpu",
            Kind::UnderCpu => "under_cpu",
            Kind::OverMemory => "over_memory",
            Kind::UnderMemory => "under_memory",
            Kind::OverHealth => "over_health",
        }
    }
}

/// A limit of memory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Memory {
    /// Of the machine's.
    Percent(f64),
    Bytes(f64),
}

impl Memory {
    fn parse(text: &str) -> Option<Memory> {
        match text.parse::<f64>() {
            Ok(percent) => (percent >= 0.0).then_some(Memory::Percent(percent)),
            Err(_) => bytes(text).map(Memory::Bytes),
        }
    }

    /// What a process has of that which is limited.
    fn of(self, usage: &Usage) -> Option<f64> {
        match self {
            Memory::Percent(_) => usage.memory_percent,
            Memory::Bytes(_) => usage.memory,
        }
    }

    fn limit(self) -> f64 {
        match self {
            Memory::Percent(limit) | Memory::Bytes(limit) => limit,
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Memory::Percent(_) => percent(value),
            Memory::Bytes(_) => megabytes(value),
        }
    }
}

fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

fn megabytes(value: f64) -> String {
    format!("{:.1}M", value / 1024.0 / 1024.0)
}

#[derive(Debug, Clone, PartialEq)]
struct Limits {
    /// Per cent of one core; 0: none.
    max_cpu: f64,
    min_cpu: Option<f64>,
    max_mem: Memory,
    min_mem: Option<Memory>,
    /// Mean of the per cents of one core and of the machine's memory; 0: none.
    health: f64,
}

impl Limits {
    fn read(options: &mut Options) -> Limits {
        const MEMORY: &str = "must be per cent, or bytes with a unit: 250M";
        Limits {
            max_cpu: options.number("max_cpu", 90.0, 0.0, f64::MAX),
            min_cpu: options.parsed("min_cpu", "must be a number", |text| text.parse().ok()),
            max_mem: options.parsed("max_mem", MEMORY, Memory::parse).unwrap_or(Memory::Percent(90.0)),
            min_mem: options.parsed("min_mem", MEMORY, Memory::parse),
            health: options.number("health_threshold", 75.0, 0.0, f64::MAX),
        }
    }

    /// What these processes break, with words for people. What could not be measured breaks nothing.
    fn broken(&self, processes: &[Usage]) -> BTreeMap<Kind, String> {
        let most = |value: &dyn Fn(&Usage) -> Option<f64>| {
            processes.iter().filter_map(|usage| Some((value(usage)?, usage.of))).max_by(|a, b| a.0.total_cmp(&b.0))
        };
        let least =
            |value: &dyn Fn(&Usage) -> Option<f64>| most(&|usage| value(usage).map(|it| -it)).map(|(v, p)| (-v, p));
        let mut broken = BTreeMap::new();
        let mut judge = |kind,
                         found: Option<(f64, Subject)>,
                         is_broken: &dyn Fn(f64) -> bool,
                         name,
                         show: &dyn Fn(f64) -> String,
                         limit| {
            if let Some((value, of)) = found.filter(|(value, _)| is_broken(*value)) {
                broken.insert(kind, format!("{of} uses {}, {name} is {}", show(value), show(limit)));
            }
        };
        let cpu = |usage: &Usage| usage.cpu;
        let health = |usage: &Usage| Some((usage.cpu? + usage.memory_percent?) / 2.0);
        if self.max_cpu > 0.0 {
            judge(Kind::OverCpu, most(&cpu), &|value| value > self.max_cpu, "max_cpu", &percent, self.max_cpu);
        }
        if let Some(min) = self.min_cpu {
            // A minimum of 0 is broken by a process that does nothing at all.
            judge(Kind::UnderCpu, least(&cpu), &|value| value <= min, "min_cpu", &percent, min);
        }
        let max = self.max_mem;
        judge(
            Kind::OverMemory,
            most(&|usage| max.of(usage)),
            &|value| value > max.limit(),
            "max_mem",
            &|v| max.show(v),
            max.limit(),
        );
        if let Some(min) = self.min_mem {
            judge(
                Kind::UnderMemory,
                least(&|usage| min.of(usage)),
                &|value| value < min.limit(),
                "min_mem",
                &|v| min.show(v),
                min.limit(),
            );
        }
        if self.health > 0.0 {
            judge(
                Kind::OverHealth,
                most(&health),
                &|value| value > self.health,
                "health_threshold",
                &percent,
                self.health,
            );
        }
        broken
    }
}

/// Whose use it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Process(u32),
    WholeCluster,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Process(pid) => write!(f, "pid {pid}"),
            Subject::WholeCluster => f.write_str("the whole cluster"),
        }
    }
}

/// What a process uses, or all of them together, as far as it could be measured.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    of: Subject,
    /// Per cent of one core.
    cpu: Option<f64>,
    /// Per cent of the machine's.
    memory_percent: Option<f64>,
    /// Bytes.
    memory: Option<f64>,
}

impl Usage {
    /// From Circus's INFO; nothing where the process is no more.
    fn of(info: &Value) -> Option<Usage> {
        Some(Usage {
            of: Subject::Process(pid_of(info)?),
            cpu: info["cpu"].as_f64(),
            memory_percent: info["mem"].as_f64(),
            memory: info["mem_info1"].as_str().and_then(bytes),
        })
    }

    /// All together; nothing where there are none. What of one is not known is not known of the sum.
    fn sum(all: &[Usage]) -> Option<Usage> {
        let add = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
        let sum = all.iter().copied().reduce(|sum, one| Usage {
            of: sum.of,
            cpu: add(sum.cpu, one.cpu),
            memory_percent: add(sum.memory_percent, one.memory_percent),
            memory: add(sum.memory, one.memory),
        })?;
        Some(Usage { of: Subject::WholeCluster, ..sum })
    }
}

fn pid_of(info: &Value) -> Option<u32> {
    u32::try_from(info["pid"].as_u64()?).ok()
}

impl Policy for ResourceWatcher {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => self.rounds.start(now),
            Input::Woke if self.rounds.come(now) && !self.open => {
                self.open = true;
                // Of all nodes for all their watchers: some may not have this one, which is no failure.
                let watcher = Some(self.watcher.clone()).filter(|_| !self.whole_cluster);
                let stats = Command::Stats { watcher, pid: None, extended: false };
                return vec![if self.whole_cluster { Output::AskAll(stats) } else { Output::Ask(stats) }];
            }
            Input::Answered { command: Command::Stats { .. }, reply } => {
                self.open = false;
                match reply {
                    Ok(reply) if self.whole_cluster => return self.judge_sum(&reply["nodes"]),
                    Ok(reply) => return self.judge(&reply["info"]),
                    Err(failure) => {
                        let mut outputs = Vec::from_iter(self.count("error"));
                        let text = format!("{}: could not be measured: {}", self.watcher, failure.reason);
                        outputs.push(Output::Log(Level::Warn, text));
                        return outputs;
                    }
                }
            }
            Input::Answered { command: Command::Restart { .. } | Command::Signal { .. }, reply: Err(failure) }
                if !failure.is_gone() =>
            {
                let text = format!("{}: was not restarted: {}", self.watcher, failure.reason);
                return vec![Output::Log(Level::Error, text)];
            }
            _ => {}
        }
        Vec::new()
    }

    fn next_wakeup(&self) -> Option<Time> {
        self.rounds.due
    }
}

impl ResourceWatcher {
    fn count(&mut self, what: impl fmt::Display) -> Option<Output> {
        self.statsd.count(format_args!("_resource_watcher.{}.{what}", part(&self.watcher)))
    }

    /// Judges one round: `info` is Circus's, INFO by pid.
    fn judge(&mut self, info: &Value) -> Vec<Output> {
        let infos: Vec<&Value> = info.as_object().into_iter().flat_map(|all| all.values()).collect();
        let processes: Vec<Usage> = infos.iter().filter_map(|info| Usage::of(info)).collect();
        // A watcher without processes breaks no limit: it was stopped, or is about to start.
        let mut whose = Vec::new();
        if !processes.is_empty() {
            whose.push((Whose::Processes, processes));
        }
        if self.process_children {
            for info in infos {
                let Some(parent) = pid_of(info) else { continue };
                let children = info["children"].as_array().into_iter().flatten();
                let child = |info| Some((Whose::Child { pid: pid_of(info)?, parent }, vec![Usage::of(info)?]));
                whose.extend(children.filter_map(child));
            }
        }
        self.judge_each(whose)
    }

    /// Judges the sum of one round: `nodes` are the replies of all of them, `infos` by watcher in each.
    fn judge_sum(&mut self, nodes: &Value) -> Vec<Output> {
        let infos =
            nodes.as_object().into_iter().flatten().filter_map(|(_, reply)| reply["infos"].as_object()).flatten();
        let own = infos.filter(|(name, _)| is_called(name, &self.watcher));
        let processes = own.filter_map(|(_, info)| info.as_object()).flatten();
        let processes: Vec<Usage> = processes.filter_map(|(_, info)| Usage::of(info)).collect();
        self.judge_each(Usage::sum(&processes).map(|sum| (Whose::Processes, vec![sum])).into_iter().collect())
    }

    fn judge_each(&mut self, whose: Vec<(Whose, Vec<Usage>)>) -> Vec<Output> {
        // Who is gone takes its count along.
        self.counts.retain(|counted, _| whose.iter().any(|(there, _)| there == counted));
        let mut outputs = Vec::new();
        for (whose, processes) in whose {
            let broken = self.limits.broken(&processes);
            let counts = self.counts.entry(whose).or_default();
            // In a row: a limit that was kept this time starts anew.
            counts.retain(|kind, _| broken.contains_key(kind));
            let mut worst: Option<(Kind, u32)> = None;
            for kind in broken.keys() {
                let count = counts.entry(*kind).or_default();
                *count += 1;
                if *count > self.max_count && worst.is_none_or(|(_, most)| *count > most) {
                    worst = Some((*kind, *count));
                }
            }
            for kind in broken.keys() {
                outputs.extend(self.count(kind.word()));
            }
            let Some((kind, count)) = worst else { continue };
            self.counts.remove(&whose);
            outputs.extend(self.count("restarting"));
            let (deed, command) = match whose {
                Whose::Processes => ("restarting it".to_owned(), restart(&self.watcher)),
                Whose::Child { pid, parent } => (
                    format!("sending {} to this child of {parent}", signal_name(self.child_signal)),
                    Output::Ask(Command::Signal {
                        watcher: self.watcher.clone(),
                        pid: Some(parent),
                        signal: self.child_signal,
                        reach: Reach::Child(pid),
                    }),
                ),
            };
            let text = format!("{}: {}: {}, {count} times in a row; {deed}", self.watcher, kind.word(), broken[&kind]);
            outputs.extend([Output::Log(Level::Warn, text), command]);
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answered, asked, failed, logged, metrics, plugin, step};
    use super::*;
    use serde_json::json;

    /// A ResourceWatcher of `web` with rounds of a second.
    struct Play(Plugin, f64);

    impl Play {
        fn new(options: &[(&str, &str)]) -> Play {
            let options = [&[("watcher", "web"), ("loop_rate", "1")], options].concat();
            let mut plugin = plugin("resource_watcher.ResourceWatcher", &options).unwrap();
            step(&mut plugin, 0.0, Input::Following);
            Play(plugin, 0.0)
        }

        /// One round in which the agent answers this.
        fn round(&mut self, info: &Value) -> Vec<Output> {
            self.1 += 1.0;
            let question = asked(&step(&mut self.0, self.1, Input::Woke)).remove(0);
            step(&mut self.0, self.1, answered(question, json!({"name": "web", "info": info})))
        }
    }

    fn uses(pid: u32, cpu: f64, mem: f64, resident: &str) -> Value {
        json!({"pid": pid, "cpu": cpu, "mem": mem, "mem_info1": resident, "children": []})
    }

    fn one(cpu: f64, mem: f64, resident: &str) -> Value {
        json!({"7": uses(7, cpu, mem, resident)})
    }

    fn restarts() -> [Command; 1] {
        match restart("web") {
            Output::Ask(command) => [command],
            _ => unreachable!(),
        }
    }

    #[test]
    fn a_limit_broken_more_than_max_count_times_in_a_row_restarts_the_watcher() {
        let mut play = Play::new(&[("max_count", "2")]);
        let (busy, calm) = (one(99.5, 1.0, "1M"), one(5.0, 1.0, "1M"));
        for info in [&busy, &busy, &calm, &busy, &busy] {
            assert_eq!(asked(&play.round(info)), []);
        }
        let outputs = play.round(&busy);
        assert_eq!(asked(&outputs), restarts());
        let expected = "Warn web: over_cpu: pid 7 uses 99.5 %, max_cpu is 90.0 %, 3 times in a row; restarting it\n";
        assert_eq!(logged(&outputs), expected);
        let counted = ["over_cpu", "restarting"].map(|it| format!("circus.app.watcher._resource_watcher.web.{it}:1|c"));
        assert_eq!(metrics(&outputs), counted);
        // It begins anew.
        assert_eq!(asked(&play.round(&busy)), []);
    }

    #[test]
    fn the_worst_of_several_processes_counts() {
        let mut play = Play::new(&[("max_count", "0"), ("health_threshold", "0")]);
        let info =
            json!({"7": uses(7, 1.0, 1.0, "1M"), "8": uses(8, 1.0, 95.0, "9G"), "9": "No such process (stopped?)"});
        assert!(logged(&play.round(&info)).contains("over_memory: pid 8 uses 95.0 %, max_mem is 90.0 %"));
    }

    #[test]
    fn min_mem_with_a_unit_is_bytes_and_not_per_cent() {
        let mut play = Play::new(&[("max_count", "0"), ("min_mem", "250M")]);
        // A large share of a small machine, and yet too little.
        let outputs = play.round(&one(1.0, 80.0, "249.00M"));
        assert!(logged(&outputs).contains("pid 7 uses 249.0M, min_mem is 250.0M"), "{}", logged(&outputs));
        assert_eq!(asked(&play.round(&one(1.0, 0.1, "251.00M"))), []);
        let mut percent = Play::new(&[("max_count", "0"), ("min_mem", "20")]);
        assert_eq!(asked(&percent.round(&one(1.0, 19.9, "900G"))), restarts());
        assert_eq!(asked(&percent.round(&one(1.0, 20.0, "1K"))), []);
    }

    #[test]
    fn max_mem_with_a_unit_is_bytes() {
        let mut play = Play::new(&[("max_count", "0"), ("max_mem", "250M")]);
        assert_eq!(asked(&play.round(&one(1.0, 99.0, "250.00M"))), []);
        assert_eq!(asked(&play.round(&one(1.0, 0.1, "250.01M"))), restarts());
    }

    #[test]
    fn a_minimum_of_no_cpu_is_broken_by_idling() {
        let mut play = Play::new(&[("max_count", "0"), ("min_cpu", "0")]);
        assert_eq!(asked(&play.round(&one(0.1, 1.0, "1M"))), []);
        assert_eq!(asked(&play.round(&one(0.0, 1.0, "1M"))), restarts());
    }

    #[test]
    fn health_is_the_mean_of_cpu_and_memory() {
        let mut play = Play::new(&[("max_count", "0"), ("health_threshold", "40")]);
        assert_eq!(asked(&play.round(&one(60.0, 20.0, "1M"))), []);
        let outputs = play.round(&one(60.0, 21.0, "1M"));
        assert!(logged(&outputs).contains("over_health: pid 7 uses 40.5 %, health_threshold is 40.0 %"));
    }

    #[test]
    fn the_sum_of_the_whole_cluster_is_judged_where_that_is_wanted() {
        let limits = [("whole_cluster", "1"), ("max_cpu", "150"), ("max_mem", "1G"), ("health_threshold", "0")];
        let mut play = Play::new(&[&limits[..], &[("max_count", "0")]].concat());
        let mut round = |web: &Value| {
            play.1 += 1.0;
            let question = step(&mut play.0, play.1, Input::Woke);
            let all = Command::Stats { watcher: None, pid: None, extended: false };
            assert_eq!(question, [Output::AskAll(all.clone())]);
            let nodes = json!({
                "a": {"infos": {"WEB": web, "other": one(500.0, 1.0, "1M")}},
                "b": {"infos": {"web": one(80.0, 1.0, "1M")}},
                "c": {"infos": {}},
            });
            step(&mut play.0, play.1, answered(all, json!({"nodes": nodes})))
        };
        assert_eq!(asked(&round(&one(70.0, 1.0, "1M"))), []);
        let outputs = round(&one(71.0, 1.0, "1M"));
        assert_eq!(asked(&outputs), restarts());
        assert!(logged(&outputs).contains("over_cpu: the whole cluster uses 151.0 %, max_cpu is 150.0 %"));
        assert!(logged(&round(&one(1.0, 1.0, "1023.01M"))).contains("over_memory: the whole cluster uses 1024.0M"));
        let both = [("watcher", "web"), ("whole_cluster", "1"), ("process_children", "1")];
        let why = plugin("resource_watcher.ResourceWatcher", &both).err().unwrap();
        assert!(why.starts_with("whole_cluster judges a sum"), "{why}");
    }

    #[test]
    fn a_round_in_which_a_node_was_silent_is_not_judged() {
        let mut play = Play::new(&[("max_count", "0"), ("whole_cluster", "1"), ("min_cpu", "50")]);
        let question = asked(&step(&mut play.0, 1.0, Input::Woke)).remove(0);
        let outputs = step(&mut play.0, 1.1, failed(question, Some("")));
        assert_eq!(asked(&outputs), []);
        assert!(logged(&outputs).contains("could not be measured: because"));
    }

    #[test]
    fn a_watcher_without_processes_is_left_alone() {
        let mut play = Play::new(&[("max_count", "0"), ("min_cpu", "0"), ("min_mem", "10")]);
        assert_eq!(play.round(&json!({})), []);
        assert_eq!(play.round(&json!({"7": "No such process (stopped?)"})), []);
    }

    #[test]
    fn only_the_child_that_breaks_a_limit_is_signalled() {
        let mut play = Play::new(&[("max_count", "1"), ("process_children", "1"), ("child_signal", "SIGKILL")]);
        let mut parent = uses(7, 1.0, 1.0, "1M");
        parent["children"] = json!([uses(8, 99.0, 1.0, "1M"), uses(9, 1.0, 1.0, "1M")]);
        let info = json!({"7": parent});
        assert_eq!(asked(&play.round(&info)), []);
        let outputs = play.round(&info);
        let signal = Command::Signal { watcher: "web".into(), pid: Some(7), signal: 9, reach: Reach::Child(8) };
        assert_eq!(asked(&outputs), [signal]);
        assert!(logged(&outputs).ends_with("2 times in a row; sending SIGKILL to this child of 7\n"));
        // Another child of the same pid would start from nothing.
        play.round(&json!({"7": uses(7, 1.0, 1.0, "1M")}));
        assert_eq!(asked(&play.round(&info)), []);
    }

    #[test]
    fn what_cannot_be_measured_breaks_nothing() {
        let mut play = Play::new(&[("max_count", "0")]);
        let unknown = json!({"7": {"pid": 7, "cpu": "N/A", "mem": "N/A", "mem_info1": "N/A", "children": []}});
        assert_eq!(play.round(&unknown), []);
    }

    #[test]
    fn a_watcher_that_is_not_there_is_told_and_counted() {
        let mut play = Play::new(&[]);
        let question = asked(&step(&mut play.0, 1.0, Input::Woke)).remove(0);
        let outputs = step(&mut play.0, 1.1, failed(question, Some("no-such-watcher")));
        assert_eq!(metrics(&outputs), ["circus.app.watcher._resource_watcher.web.error:1|c"]);
        assert!(logged(&outputs).contains("could not be measured: because"));
    }

    #[test]
    fn a_watcher_must_be_named() {
        let why = plugin("resource_watcher.ResourceWatcher", &[("max_mem", "much")]).err().unwrap();
        assert!(why.contains("watcher must name") && why.contains("max_mem must be per cent"), "{why}");
        assert!(plugin("resource_watcher.ResourceWatcher", &[("service", "web")]).is_ok());
    }
}
