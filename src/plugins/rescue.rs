//! What the observers of pages and of Redis do about a fault: they restart a watcher.

use serde_json::Value;

use super::statsd::Statsd;
use super::{Failure, Output, ask_status, may_restart, restart};
use crate::model::command::Command;
use crate::model::event::Level;

/// Restarts a watcher, unless it was stopped: whoever did that knows why nobody answers.
#[derive(Debug)]
pub(super) struct Rescue {
    /// The watcher; nothing: there is none to be restarted.
    pub(super) watcher: Option<String>,
    /// What counts the restarts.
    pub(super) counter: &'static str,
}

impl Rescue {
    /// The first step: how the watcher is.
    pub(super) fn begin(&self) -> Option<Output> {
        self.watcher.as_deref().map(ask_status)
    }

    /// The further ones, as the agent answers.
    pub(super) fn go_on(&self, statsd: &mut Statsd, command: &Command, reply: Result<Value, Failure>) -> Vec<Output> {
        let Some(watcher) = &self.watcher else { return Vec::new() };
        match (command, reply) {
            (Command::Status { .. }, Ok(status)) if may_restart(&status) => {
                let mut outputs = Vec::from_iter(statsd.count(self.counter));
                outputs.push(Output::Log(Level::Warn, format!("{watcher}: restarting it")));
                outputs.push(restart(watcher));
                outputs
            }
            (Command::Status { .. }, Ok(_)) => {
                vec![Output::Log(Level::Info, format!("{watcher}: is stopped, and stays so"))]
            }
            (_, Ok(_)) => Vec::new(),
            (_, Err(failure)) => {
                vec![Output::Log(Level::Error, format!("{watcher}: was not restarted: {}", failure.reason))]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::Random;
    use crate::plugins::options::Options;
    use crate::plugins::tests::{asked, logged, metrics};
    use serde_json::json;

    #[test]
    fn what_runs_is_restarted_and_what_was_stopped_is_not() {
        let rescue = Rescue { watcher: Some("web".into()), counter: "http_stats.restart_on_error" };
        let (mut statsd, _) = Statsd::read(&mut Options::new([].into()), "app", Random::from_number(1));
        let Some(Output::Ask(question)) = rescue.begin() else { panic!("it asks first") };
        let mut go_on = |reply| rescue.go_on(&mut statsd, &question, reply);
        for word in ["active", "backoff", "failed"] {
            let outputs = go_on(Ok(json!({"status": word})));
            assert_eq!(metrics(&outputs), ["circus.app.watcher.http_stats.restart_on_error:1|c"]);
            assert_eq!(outputs.last(), Some(&restart("web")));
        }
        for word in ["stopped", "stopping"] {
            let outputs = go_on(Ok(json!({"status": word})));
            assert_eq!((asked(&outputs), logged(&outputs).as_str()), (vec![], "Info web: is stopped, and stays so\n"));
        }
        let outputs = go_on(Err(Failure { code: None, reason: "no agent".into() }));
        assert_eq!(logged(&outputs), "Error web: was not restarted: no agent\n");
        let nobody = Rescue { watcher: None, counter: "" };
        assert_eq!(nobody.begin(), None);
    }
}
