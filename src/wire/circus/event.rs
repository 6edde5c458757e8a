//! Events, as Circus's PUB socket has them: a topic and a body.

use super::python::{Json, dumps};
use crate::model::event::{News, Notice};
use crate::wire::event::{body, topic_of};

/// One piece of news as two frames: the topic `watcher.NAME.EVENT`, which clients split at the dots, and an object. Those that
/// Circus does not have go out too: its plugins count them, or do not care.
pub fn event(notice: &Notice, time: f64) -> (String, String) {
    let mut all = body(&notice.news, time);
    let fields: &[&str] = match notice.news {
        News::Spawn { .. } | News::Kill { .. } => &["process_pid", "time"],
        News::Reap { .. } => &["process_pid", "time", "exit_code"],
        News::Start | News::Stop | News::Reload | News::Updated | News::Add | News::Remove => &["time"],
        News::HookSuccess { .. } => &["name", "time"],
        News::HookFailure { .. } => &["name", "time", "error"],
        News::Published { .. } => &["topic", "time"],
        News::Paused { .. } => &["by", "reason", "time"],
        News::Resumed { .. } => &["by", "time"],
        News::CronFailure { .. } => &["slot", "time", "error"],
        News::CronSkipped { .. } => &["slot", "time", "reason"],
    };
    let field = |key: &&str| ((*key).to_owned(), Json::from(all[*key].take()));
    (topic_of(notice), dumps(&Json::Fields(fields.iter().map(field).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Exit;
    use crate::model::names::WatcherName;
    use crate::model::spec::HookPoint;

    /// Recorded from circusd 0.19.0.
    #[test]
    fn each_event_is_circuss_to_the_byte() {
        let (wid, pid, hook) = (1, 29404, HookPoint::BeforeStart);
        for (news, topic, body) in [
            (News::Spawn { wid, pid }, "spawn", r#"{"process_pid": 29404, "time": 12.5}"#),
            (News::Kill { wid, pid }, "kill", r#"{"process_pid": 29404, "time": 12.5}"#),
            (
                News::Reap { wid, pid, exit: Exit::Code(3) },
                "reap",
                r#"{"process_pid": 29404, "time": 12.5, "exit_code": 3}"#,
            ),
            (
                News::Reap { wid, pid, exit: Exit::Signal(15) },
                "reap",
                r#"{"process_pid": 29404, "time": 12.5, "exit_code": -15}"#,
            ),
            (
                News::Reap { wid, pid, exit: Exit::Lost },
                "reap",
                r#"{"process_pid": 29404, "time": 12.5, "exit_code": null}"#,
            ),
            (News::Start, "start", r#"{"time": 12.5}"#),
            (News::Stop, "stop", r#"{"time": 12.5}"#),
            (News::Reload, "reload", r#"{"time": 12.5}"#),
            (News::Updated, "updated", r#"{"time": 12.5}"#),
            (News::Add, "add", r#"{"time": 12.5}"#),
            (News::Remove, "remove", r#"{"time": 12.5}"#),
            (News::HookSuccess { hook }, "hook_success", r#"{"name": "before_start", "time": 12.5}"#),
            (
                News::HookFailure { hook, error: "caf\u{e9}".into() },
                "hook_failure",
                r#"{"name": "before_start", "time": 12.5, "error": "caf\u00e9"}"#,
            ),
            (News::Published { topic: "lord".into() }, "published", r#"{"topic": "lord", "time": 12.5}"#),
        ] {
            let notice = Notice { watcher: WatcherName::parse("Sleep Two").unwrap(), news };
            assert_eq!(event(&notice, 12.5), (format!("watcher.sleep_two.{topic}"), body.to_owned()));
        }
    }
}
