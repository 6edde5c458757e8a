//! What processes use, in Circus's units.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::model::command::{ChildSample, Sample, Usage};
use crate::model::names::WatcherName;

/// The fields of a reply to `stats`: of all watchers, of one, or of one process of it.
pub(super) fn stats(
    watcher: Option<&WatcherName>,
    pid: Option<u32>,
    samples: &[Sample],
    idle: &[WatcherName],
) -> Value {
    match (watcher, pid) {
        (None, _) => {
            let mut infos: Map<String, Value> = idle.iter().map(|name| (name.to_string(), json!({}))).collect();
            for sample in samples {
                let of_watcher = infos.entry(sample.watcher.as_str()).or_insert_with(|| json!({}));
                of_watcher[sample.pid.to_string()] = process(sample);
            }
            json!({"infos": infos})
        }
        (Some(name), None) => {
            let info: Map<_, _> = samples.iter().map(|sample| (sample.pid.to_string(), process(sample))).collect();
            json!({"name": name.as_str(), "info": info})
        }
        (Some(name), Some(pid)) => {
            let info = samples.iter().find(|sample| sample.pid == pid).map_or_else(vanished, process);
            json!({"name": name.as_str(), "process": pid, "info": info})
        }
    }
}

/// What the agent itself uses: INFO of a process that is no watcher's.
pub(super) fn agent(sample: &Sample) -> Value {
    sample.usage.as_ref().map_or_else(vanished, |usage| Value::Object(info(sample.pid, usage, &sample.children)))
}

/// INFO of a watcher's process, Circus's object. What a hook has to say comes last, since it may correct what was measured.
pub fn process(sample: &Sample) -> Value {
    let Some(usage) = &sample.usage else { return vanished() };
    let mut info = info(sample.pid, usage, &sample.children);
    info.insert("started".into(), json!(round(usage.started, 2)));
    info.insert("wid".into(), json!(sample.wid));
    if let Some(Ok(Value::Object(extra))) = sample.extra.as_deref().map(serde_json::from_str) {
        info.extend(extra);
    }
    Value::Object(info)
}

fn vanished() -> Value {
    json!("No such process (stopped?)")
}

/// Circus's INFO object, as children have it.
fn info(pid: u32, usage: &Usage, children: &[ChildSample]) -> Map<String, Value> {
    let children: Vec<_> = children.iter().map(|child| info(child.pid, &child.usage, &child.children)).collect();
    let fields = json!({
        "mem_info1": bytes(usage.resident),
        "mem_info2": bytes(usage.virtual_size),
        "cpu": round(usage.cpu_percent, 1),
        "mem": round(usage.memory_percent, 3),
        "ctime": processor_time(usage.cpu_time),
        "pid": pid,
        "username": usage.user,
        "nice": usage.nice,
        "create_time": round(usage.started, 2),
        "age": round(usage.age.as_secs_f64(), 2),
        "cmdline": usage.program,
        "children": children,
    });
    super::reply::object(fields)
}

pub(super) fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

/// `123B`, `8.50M`: powers of 1024, two digits.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 8] = ["K", "M", "G", "T", "P", "E", "Z", "Y"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.2}{}", UNITS[unit])
}

/// `M:SS.cc`. Circus drops whole hours here; these minutes go on counting, as top's do.
pub(super) fn processor_time(time: Duration) -> String {
    format!("{}:{:02}.{:02}", time.as_secs() / 60, time.as_secs() % 60, time.subsec_millis() / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(resident: u64) -> Usage {
        Usage {
            program: "python".into(),
            user: "root".into(),
            nice: 0,
            resident,
            virtual_size: resident,
            memory_percent: 0.5,
            cpu_percent: 1.25,
            cpu_time: Duration::from_secs(1),
            age: Duration::from_secs(9),
            started: 100.0,
        }
    }

    #[test]
    fn sizes_and_times_read_as_circus_writes_them() {
        assert_eq!(bytes(0), "0B");
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(8_912_896), "8.50M");
        assert_eq!(bytes(u64::MAX), "16.00E");
        assert_eq!(processor_time(Duration::from_millis(109)), "0:00.10");
        assert_eq!(processor_time(Duration::from_secs(3_725)), "62:05.00");
    }

    #[test]
    fn children_stand_within_their_parent_and_belong_to_no_slot() {
        let grandchild = ChildSample { pid: 9, usage: usage(1), children: vec![] };
        let child = ChildSample { pid: 8, usage: usage(2048), children: vec![grandchild] };
        let mut sample = Sample {
            watcher: WatcherName::parse("web").unwrap(),
            wid: 3,
            pid: 7,
            usage: Some(usage(0)),
            children: vec![child],
            extra: None,
        };
        let own = process(&sample);
        assert_eq!((&own["pid"], &own["wid"], &own["started"]), (&json!(7), &json!(3), &json!(100.0)));
        let child = &own["children"][0];
        assert_eq!((&child["pid"], &child["mem_info1"]), (&json!(8), &json!("2.00K")));
        assert_eq!(child["children"][0]["pid"], 9);
        for no_slot in [child, &agent(&sample)] {
            assert!(no_slot.get("wid").is_none() && no_slot.get("started").is_none(), "{no_slot}");
        }
        sample.usage = None;
        assert_eq!(agent(&sample), "No such process (stopped?)");
    }

    #[test]
    fn what_a_hook_adds_is_merged_and_what_is_no_object_is_not() {
        let with = |extra: &str| {
            process(&Sample {
                watcher: WatcherName::parse("web").unwrap(),
                wid: 1,
                pid: 7,
                usage: Some(usage(0)),
                children: vec![],
                extra: Some(extra.into()),
            })
        };
        let more = with(r#"{"queue": 3, "cpu": 50.0}"#);
        assert_eq!((&more["queue"], &more["cpu"], &more["pid"]), (&json!(3), &json!(50.0), &json!(7)));
        for nothing in ["", "[1]", "{"] {
            assert_eq!(with(nothing)["cpu"], 1.3);
        }
    }
}
