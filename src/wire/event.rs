//! News and lines of output, as JSON for whoever follows an agent.

use serde_json::{Value, json};

use crate::model::event::{Exit, News, Notice};
use crate::model::names::{NodeName, WatcherName};
use crate::model::snapshot::LogLine;

/// One piece of news, of a watcher on `node`; `time` in seconds of the Unix epoch.
///
/// `{"topic": "watcher.NAME.WORD", "event": WORD, "watcher": name, "node": node, "time": time, "body": {…}}`.
/// `topic` and `body` are what Circus publishes: the topic's name is lower case with `_` for a space, and the body has
/// `time`, and besides
///
/// - `spawn` `kill`: `process_pid`, and of ours `wid`
/// - `reap`: the same and `exit_code`: the exit status, or the signal as a negative number, or null where it is unknown
/// - `hook_success`: `name`, the hook's; `hook_failure`: the same and `error`
/// - `cron_failure`: `slot`, the time of the schedule in seconds of the Unix epoch, and `error`; `cron_skipped`: `slot` and
///   `reason`
/// - `paused`: `by` and `reason`, or null; `resumed`: `by`
/// - `published`: `topic`, whoever asked for it has chosen it
/// - `start` `stop` `reload` `updated` `add` `remove`: nothing
pub fn notice_json(notice: &Notice, node: &NodeName, time: f64) -> Value {
    json!({
        "topic": topic_of(notice),
        "event": notice.news.word(),
        "watcher": notice.watcher.as_str(),
        "node": node.as_str(),
        "time": time,
        "body": body(&notice.news, time),
    })
}

/// `watcher.NAME.WORD`.
pub(super) fn topic_of(notice: &Notice) -> String {
    format!("watcher.{}.{}", topic_name(&notice.watcher), notice.news.word())
}

/// What Circus publishes of it, and of ours what a process is in its watcher.
pub(super) fn body(news: &News, time: f64) -> Value {
    match news {
        News::Spawn { wid, pid } | News::Kill { wid, pid } => json!({"process_pid": pid, "time": time, "wid": wid}),
        News::Reap { wid, pid, exit } => {
            json!({"process_pid": pid, "time": time, "exit_code": exit_code(*exit), "wid": wid})
        }
        News::Start | News::Stop | News::Reload | News::Updated | News::Add | News::Remove => json!({"time": time}),
        News::HookSuccess { hook } => json!({"name": hook.name(), "time": time}),
        News::CronFailure { slot, error } => json!({"slot": slot.0, "time": time, "error": error}),
        News::CronSkipped { slot, reason } => json!({"slot": slot.0, "time": time, "reason": reason}),
        News::Paused { by, reason } => json!({"by": by, "reason": reason, "time": time}),
        News::Resumed { by } => json!({"by": by, "time": time}),
        News::Published { topic } => json!({"topic": topic, "time": time}),
        News::HookFailure { hook, error } => json!({"name": hook.name(), "time": time, "error": error}),
    }
}

/// How a process ended, as a number: its exit status, or the signal as a negative one; nothing where it is unknown.
pub(super) fn exit_code(exit: Exit) -> Option<i32> {
    match exit {
        Exit::Code(code) => Some(code),
        Exit::Signal(signal) => Some(-signal),
        Exit::Lost => None,
    }
}

/// A line of output: `{"watcher", "wid", "pid", "stream": "stdout"|"stderr", "time", "line"}`. What is no UTF-8 in it
/// becomes U+FFFD.
pub fn log_line_json(line: &LogLine) -> Value {
    json!({
        "watcher": line.watcher.as_str(),
        "wid": line.wid,
        "pid": line.pid,
        "stream": line.stream,
        "time": line.time,
        "line": String::from_utf8_lossy(&line.bytes),
    })
}

/// A watcher's name as it stands in topics, where consumers split at spaces.
fn topic_name(watcher: &WatcherName) -> String {
    watcher.as_str().to_lowercase().replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::HookPoint;

    fn news(news: News) -> Value {
        let notice = Notice { watcher: WatcherName::parse("Sleep Two").unwrap(), news };
        notice_json(&notice, &NodeName::parse("web-1").unwrap(), 12.5)
    }

    #[test]
    fn news_have_circuss_topic_and_body_and_our_names() {
        assert_eq!(
            news(News::Reap { wid: 2, pid: 7, exit: Exit::Signal(9) }),
            json!({
                "topic": "watcher.sleep_two.reap", "event": "reap", "watcher": "Sleep Two", "node": "web-1",
                "time": 12.5, "body": {"process_pid": 7, "time": 12.5, "exit_code": -9, "wid": 2},
            })
        );
    }

    #[test]
    fn each_body_has_what_circus_promises() {
        let process = json!({"process_pid": 7, "time": 12.5, "wid": 2});
        let reaped = |code: Value| json!({"process_pid": 7, "time": 12.5, "wid": 2, "exit_code": code});
        let time = json!({"time": 12.5});
        let hook = HookPoint::AfterStart;
        let cases = [
            (News::Spawn { wid: 2, pid: 7 }, process.clone()),
            (News::Kill { wid: 2, pid: 7 }, process),
            (News::Reap { wid: 2, pid: 7, exit: Exit::Code(3) }, reaped(json!(3))),
            (News::Reap { wid: 2, pid: 7, exit: Exit::Lost }, reaped(Value::Null)),
            (News::Start, time.clone()),
            (News::Stop, time.clone()),
            (News::Reload, time.clone()),
            (News::Updated, time.clone()),
            (News::Add, time.clone()),
            (News::Remove, time),
            (News::HookSuccess { hook }, json!({"name": "after_start", "time": 12.5})),
            (
                News::HookFailure { hook, error: "boom".into() },
                json!({"name": "after_start", "time": 12.5, "error": "boom"}),
            ),
        ];
        for (what, body) in cases {
            let word = what.word();
            assert_eq!(news(what)["body"], body, "{word}");
        }
    }

    #[test]
    fn a_line_of_output_is_text_whatever_its_bytes() {
        let line = LogLine {
            watcher: WatcherName::parse("web").unwrap(),
            wid: 1,
            pid: 7,
            stream: "stderr",
            time: 1.5,
            bytes: b"caf\xc3\xa9 \xff \"x\"".to_vec(),
        };
        assert_eq!(
            log_line_json(&line),
            json!({"watcher": "web", "wid": 1, "pid": 7, "stream": "stderr", "time": 1.5, "line": "café \u{fffd} \"x\""})
        );
    }
}
