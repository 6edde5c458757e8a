//! Statistics as circusd-stats publishes them: a topic and a JSON text each.
//!
//! ```text
//!   stat.web.4711        a process of the watcher
//!   stat.web             all of them together: mean, sum, oldest
//!   stat.circus.4700     the agent, by circusd's name; stat.circus: the same once more
//!   stat.sockets.7       a socket by the agent's descriptor; stat.sockets: all of them
//!   stat.web-1-web.4711  the same processes in the statistics of a cluster, with the node before the watcher
//! ```
//!
//! Clients split a topic at its dots and know nothing of more than three parts, so no name has one. What a cluster's are
//! made of is a frame, which says less: there a process counts with all below it, what is not known is `N/A`, Circus's own
//! word for that, and there are no sockets.

use serde::Serialize;
use serde_json::{Value, json};

use super::python::dumps;
use crate::model::command::Usage;
use crate::model::stats::{NodeStats, ProcessStats, SocketStats};
use crate::wire::stats::{bytes, processor_time, round};

/// What Circus says of what it does not know.
const UNKNOWN: &str = "N/A";
/// The topic of all sockets together.
const SOCKETS: &str = "stat.sockets";
/// Under these names clients find something else than a watcher.
const RESERVED: [&str; 2] = ["circus", "sockets"];

/// Something published: its topic and its body.
pub type Message = (String, String);

/// What a process uses; the fields and their order are Circus's.
#[derive(Serialize)]
struct Info<'a> {
    mem_info1: String,
    mem_info2: Value,
    cpu: f64,
    mem: f64,
    ctime: Value,
    pid: u32,
    username: Value,
    nice: Value,
    create_time: f64,
    age: f64,
    cmdline: &'a str,
    /// Circus has a place for them, and publishes none.
    children: [(); 0],
    subtopic: u32,
    name: Option<&'a str>,
}

/// All processes of a watcher together.
#[derive(Serialize)]
struct Sum {
    pid: Vec<u32>,
    cpu: f64,
    mem: Value,
    age: Value,
}

#[derive(Serialize)]
struct SocketInfo {
    fd: i32,
    subtopic: i32,
    reads: u32,
    address: String,
}

#[derive(Serialize)]
struct SocketSum {
    addresses: Vec<String>,
    reads: u32,
}

/// What an agent publishes of itself, from statistics that were measured for that.
pub fn stats_messages(stats: &NodeStats) -> Vec<Message> {
    let mut messages = Vec::new();
    for watcher in &stats.watchers {
        // One without figures of its own began or ended around the measurement.
        let processes = watcher.processes.iter().filter(|process| process.own.is_some());
        add(&mut messages, &watcher_part(watcher.name.as_str()), None, processes, stats);
    }
    add(&mut messages, "circus", Some("circusd"), stats.agent.as_deref(), stats);
    add_sockets(&mut messages, &stats.sockets);
    messages
}

/// What is published of a node in the statistics of its cluster.
pub fn cluster_stats_messages(stats: &NodeStats) -> Vec<Message> {
    let mut messages = Vec::new();
    let part = |name: &str| format!("{}-{name}", stats.node.as_str().replace('.', "-"));
    for watcher in &stats.watchers {
        add(&mut messages, &part(&watcher_part(watcher.name.as_str())), None, &watcher.processes, stats);
    }
    add(&mut messages, &part("circus"), Some("circusd"), stats.agent.as_deref(), stats);
    messages
}

/// Whether a topic is of all processes of one name together.
pub fn is_sum(topic: &str) -> bool {
    topic.split('.').count() == 2 && topic != SOCKETS
}

/// What is said of one that has no processes any more.
pub fn no_processes() -> String {
    dumps(&sum(&[]))
}

/// A watcher's name as a part of a topic, as Circus has it in those of events. circus-top shows a hyphen as a dot.
fn watcher_part(name: &str) -> String {
    let name = name.to_lowercase().replace(' ', "_").replace('.', "-");
    if RESERVED.contains(&&*name) { name + "_" } else { name }
}

/// Adds what is said of some processes, one by one and together; of none, as in Circus, nothing.
fn add<'a>(
    messages: &mut Vec<Message>,
    part: &str,
    name: Option<&str>,
    processes: impl IntoIterator<Item = &'a ProcessStats>,
    stats: &NodeStats,
) {
    let mut infos = Vec::new();
    for process in processes {
        let info = info(process, name, stats);
        messages.push((format!("stat.{part}.{}", process.pid), dumps(&info)));
        infos.push(info);
    }
    if !infos.is_empty() {
        messages.push((format!("stat.{part}"), dumps(&sum(&infos))));
    }
}

fn info<'a>(process: &'a ProcessStats, name: Option<&'a str>, stats: &NodeStats) -> Info<'a> {
    let shell = |mem_info1, mem_info2, cpu, mem, ctime| Info {
        mem_info1,
        mem_info2,
        cpu: number(cpu, 1),
        mem: number(mem, 3),
        ctime,
        pid: process.pid,
        username: json!(UNKNOWN),
        nice: json!(UNKNOWN),
        create_time: number(stats.at - process.age.as_secs_f64(), 2),
        age: process.age.as_secs_f64(),
        cmdline: if process.program.is_empty() { UNKNOWN } else { &process.program },
        children: [],
        subtopic: process.pid,
        name,
    };
    match process.own.as_deref() {
        Some(Usage {
            program: _,
            user,
            nice,
            resident,
            virtual_size,
            memory_percent,
            cpu_percent,
            cpu_time,
            age,
            started,
        }) => {
            let (virtual_size, cpu_time) = (json!(bytes(*virtual_size)), json!(processor_time(*cpu_time)));
            Info {
                username: json!(user),
                nice: json!(nice),
                create_time: number(*started, 2),
                age: age.as_secs_f64(),
                ..shell(bytes(*resident), virtual_size, *cpu_percent, *memory_percent, cpu_time)
            }
        }
        None => {
            let used = process.used;
            let memory = stats.machine.memory;
            let percent = if memory == 0 { 0.0 } else { used.resident as f64 * 100.0 / memory as f64 };
            shell(bytes(used.resident), json!(UNKNOWN), used.cpu, percent, json!(UNKNOWN))
        }
    }
}

/// Another node's frame may say anything; a client that expects a number gets one.
fn number(number: f64, digits: i32) -> f64 {
    Some(round(number, digits)).filter(|number| number.is_finite()).unwrap_or_default()
}

fn sum(infos: &[Info<'_>]) -> Sum {
    let pid = infos.iter().map(|info| info.pid).collect();
    let oldest = infos.iter().map(|info| info.age).reduce(f64::max);
    let Some(oldest) = oldest else { return Sum { pid, cpu: 0.0, mem: json!(0), age: json!(UNKNOWN) } };
    let cpu: f64 = infos.iter().map(|info| info.cpu).sum();
    let mem: f64 = infos.iter().map(|info| info.mem).sum();
    Sum { pid, cpu: cpu / infos.len() as f64, mem: json!(mem), age: json!(oldest) }
}

/// Circus looks at each socket a hundred times a second, and counts how often somebody waited; here it is once.
fn add_sockets(messages: &mut Vec<Message>, sockets: &[SocketStats]) {
    if sockets.is_empty() {
        return;
    }
    let mut sum = SocketSum { addresses: Vec::new(), reads: 0 };
    for SocketStats { fd, address, waiting } in sockets {
        let (fd, reads) = (*fd, u32::from(*waiting));
        let address = address.to_string();
        sum.addresses.push(address.clone());
        sum.reads += reads;
        messages.push((format!("stat.sockets.{fd}"), dumps(&SocketInfo { fd, subtopic: fd, reads, address })));
    }
    messages.push((SOCKETS.into(), dumps(&sum)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Address;
    use crate::model::names::{NodeName, WatcherName};
    use crate::model::snapshot::WatcherState;
    use crate::model::stats::{Machine, Used, WatcherStats};
    use std::time::Duration;

    /// A second of circusd-stats 0.19.0: a line for each message. Its file has the watchers `c.d` (one process), `dummy` (two),
    /// `Sleep Two` (one), and the sockets `ctl` and `web`.
    const RECORDED: &str = include_str!("../../../tests/circus/stats.txt");

    fn watcher(name: &str, processes: Vec<ProcessStats>) -> WatcherStats {
        WatcherStats {
            name: WatcherName::parse(name).unwrap(),
            state: WatcherState::Active,
            note: None,
            wanted: 1,
            restarts: 0,
            lease: None,
            processes,
        }
    }

    fn process(pid: u32, own: Option<Usage>) -> ProcessStats {
        ProcessStats {
            wid: 1,
            pid,
            state: "running".into(),
            program: "sleep".into(),
            age: Duration::from_millis(61_500),
            used: Used { cpu: 12.5, resident: 2 << 20, ..Used::default() },
            children: 1,
            own: own.map(Box::new),
        }
    }

    fn node(name: &str, watchers: Vec<WatcherStats>) -> NodeStats {
        let machine = Machine { memory: 8 << 30, ..Machine::default() };
        let node = NodeName::parse(name).unwrap();
        NodeStats { node, at: 1_000.25, machine, agent: None, watchers, sockets: Vec::new() }
    }

    /// The processes of a recorded topic, as the agent would have measured them.
    fn measured(topic: &str) -> Vec<ProcessStats> {
        let head = format!("stat.{topic}.");
        let measured = |line: &str| {
            let (pid, body) = line.strip_prefix(&head)?.split_once(" {")?;
            let info: Value = serde_json::from_str(&format!("{{{body}")).ok()?;
            let number = |field: &str| info[field].as_f64().unwrap();
            let size = |field: &str| {
                let text = info[field].as_str().unwrap().strip_suffix('M').unwrap();
                (text.parse::<f64>().unwrap() * f64::from(1 << 20)) as u64
            };
            let (_, hundredths) = info["ctime"].as_str()?.split_once('.')?;
            let usage = Usage {
                program: info["cmdline"].as_str()?.into(),
                user: info["username"].as_str()?.into(),
                nice: info["nice"].as_i64()?,
                resident: size("mem_info1"),
                virtual_size: size("mem_info2"),
                memory_percent: number("mem"),
                cpu_percent: number("cpu"),
                cpu_time: Duration::from_millis(10 * hundredths.parse::<u64>().ok()?),
                age: Duration::from_secs_f64(number("age")),
                started: number("create_time"),
            };
            let program = usage.program.clone();
            Some(ProcessStats { program, ..process(pid.parse().ok()?, Some(usage)) })
        };
        RECORDED.lines().filter_map(measured).collect()
    }

    /// A line with no more than six decimals.
    fn rounded(line: &str) -> String {
        let mut decimals = None;
        let keep = |c: &char| {
            decimals = match (*c, decimals) {
                ('.', _) => Some(0),
                ('0'..='9', Some(count)) => Some(count + 1),
                _ => None,
            };
            decimals.is_none_or(|count| count <= 6)
        };
        line.chars().filter(keep).collect()
    }

    #[test]
    fn an_agent_publishes_what_circusd_stats_publishes_of_the_same_file() {
        let sockets = [
            (7, Address::Unix("/tmp/rec/ctl.sock".into())),
            (8, "127.0.0.1:27558".parse().map(Address::Inet).unwrap()),
        ];
        let watchers = [("c.d", "c.d"), ("dummy", "dummy"), ("Sleep Two", "sleep two")];
        let stats = NodeStats {
            agent: measured("circus").into_iter().find(|process| process.pid == 23203).map(Box::new),
            sockets: sockets.map(|(fd, address)| SocketStats { fd, address, waiting: false }).into(),
            ..node("a", watchers.map(|(name, topic)| watcher(name, measured(topic))).into())
        };
        // What differs: a name is one part of the topic; there is one process of Circus's own; hundredths have two digits.
        let expected = RECORDED.replace("stat.c.d", "stat.c-d").replace("stat.sleep two", "stat.sleep_two");
        let expected = expected.replace(r#""0:00.0""#, r#""0:00.00""#);
        let expected =
            expected.lines().filter(|line| !line.contains("circusd-stats") && !line.starts_with("stat.circus {"));
        let expected: Vec<_> = expected.map(rounded).collect();
        let (sums, others): (Vec<_>, Vec<_>) =
            stats_messages(&stats).into_iter().partition(|(topic, _)| topic == "stat.circus");
        let others: Vec<_> = others.iter().map(|(topic, body)| rounded(&format!("{topic} {body}"))).collect();
        assert_eq!(others, expected);
        assert_eq!(rounded(&sums[0].1), r#"{"pid": [23203], "cpu": 0.0, "mem": 0.129, "age": 6.394336}"#);
    }

    #[test]
    fn of_a_node_in_the_cluster_what_its_frame_tells_is_published_and_the_rest_is_not_known() {
        let agent = ProcessStats { program: "circus-agent".into(), ..process(4700, None) };
        let web = watcher("Web.Site", vec![process(7, None), process(8, None)]);
        let stats = NodeStats { agent: Some(Box::new(agent)), ..node("web.1", vec![web]) };
        let messages = cluster_stats_messages(&stats);
        let topics: Vec<_> = messages.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            topics,
            [
                "stat.web-1-web-site.7",
                "stat.web-1-web-site.8",
                "stat.web-1-web-site",
                "stat.web-1-circus.4700",
                "stat.web-1-circus"
            ]
        );
        assert_eq!(
            messages[0].1,
            r#"{"mem_info1": "2.00M", "mem_info2": "N/A", "cpu": 12.5, "mem": 0.024, "ctime": "N/A", "pid": 7, "username": "N/A", "nice": "N/A", "create_time": 938.75, "age": 61.5, "cmdline": "sleep", "children": [], "subtopic": 7, "name": null}"#
        );
        assert_eq!(messages[2].1, r#"{"pid": [7, 8], "cpu": 12.5, "mem": 0.048, "age": 61.5}"#);
        assert!(
            messages[3]
                .1
                .ends_with(r#""cmdline": "circus-agent", "children": [], "subtopic": 4700, "name": "circusd"}"#)
        );
    }

    #[test]
    fn no_name_adds_a_part_to_a_topic_or_is_taken_for_something_else() {
        let names = ["a.b.c", "Two Words", "sockets", "Circus", "é"];
        let stats = node("n", names.map(|name| watcher(name, vec![process(7, None)])).into());
        let topics: Vec<_> = cluster_stats_messages(&stats).into_iter().map(|(topic, _)| topic).collect();
        let sums: Vec<_> = topics.iter().filter(|topic| is_sum(topic)).map(String::as_str).collect();
        assert_eq!(sums, ["stat.n-a-b-c", "stat.n-two_words", "stat.n-sockets_", "stat.n-circus_", "stat.n-é"]);
        assert!(topics.iter().all(|topic| topic.split('.').count() <= 3), "{topics:?}");
        assert!(!is_sum(SOCKETS), "its body is another");
    }

    #[test]
    fn a_watcher_of_whose_processes_nothing_was_measured_is_not_there() {
        let stats = node("n", vec![watcher("web", vec![process(7, None)]), watcher("empty", vec![])]);
        assert_eq!(stats_messages(&stats), []);
        assert_eq!(no_processes(), r#"{"pid": [], "cpu": 0.0, "mem": 0, "age": "N/A"}"#);
    }

    #[test]
    fn whatever_another_node_says_a_number_is_one() {
        let mut wild = process(7, None);
        wild.used = Used { cpu: f64::MAX, resident: u64::MAX, ..Used::default() };
        wild.program = String::new();
        let stats = NodeStats { at: f64::MAX, ..node("n", vec![watcher("web", vec![wild])]) };
        let (_, body) = &cluster_stats_messages(&stats)[0];
        assert!(body.contains(r#""cpu": 0.0"#) && body.contains(r#""create_time": 0.0"#), "{body}");
        assert!(body.contains(r#""cmdline": "N/A""#), "{body}");
    }

    #[test]
    fn who_waits_in_a_socket_is_a_hit() {
        let socket = |fd, waiting| SocketStats { fd, address: Address::Unix(format!("/run/{fd}").into()), waiting };
        let stats = NodeStats { sockets: vec![socket(4, true), socket(5, false)], ..node("n", vec![]) };
        let messages = stats_messages(&stats);
        assert_eq!(messages[0].1, r#"{"fd": 4, "subtopic": 4, "reads": 1, "address": "/run/4"}"#);
        assert_eq!(messages[2], ("stat.sockets".into(), r#"{"addresses": ["/run/4", "/run/5"], "reads": 1}"#.into()));
    }
}
