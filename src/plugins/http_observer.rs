//! `HttpObserver`: fetches a page at each round, tells statsd how long it took, and restarts a watcher where it fails.

use std::time::Duration;

use super::options::Options;
use super::rescue::Rescue;
use super::statsd::Statsd;
use super::{Fetched, Input, Output, Plugin, Policy, Rounds, USUAL_ROUND};
use crate::model::event::Level;
use crate::model::random::Random;
use crate::model::spec::Url;
use crate::model::time::Time;

/// What Circus has in place of a status where there was no answer.
const NO_ANSWER: u16 = 599;

/// `circus.plugins.http_observer.HttpObserver`
pub(super) fn plugin(options: &mut Options, seed: Random) -> Plugin {
    let (statsd, to) = Statsd::read(options, "http_observer", seed);
    let must = "must be http://HOST[:PORT][/PATH]; what speaks https only is out of reach";
    let url = options.parsed("check_url", must, url);
    let policy = HttpObserver {
        statsd,
        rounds: Rounds::read(options, USUAL_ROUND),
        url: url.unwrap_or(Url { host: "localhost".into(), port: 80, path: "/".into() }),
        timeout: options.interval("timeout", Duration::from_secs(10)),
        rescue: Rescue { watcher: options.text("restart_on_error"), counter: "http_stats.restart_on_error" },
        open: false,
    };
    Plugin { policy: Box::new(policy), statsd: Some(to), heartbeats: None }
}

/// Takes an address apart.
fn url(text: &str) -> Option<Url> {
    let rest = text.strip_prefix("http://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("80"))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "80")),
    };
    // What would end the request's line, or begin a password, is no part of an address.
    let plain = |text: &str| text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '@');
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && plain(host) && plain(&path)).then(|| Url { host: host.to_owned(), port, path })
}

struct HttpObserver {
    statsd: Statsd,
    rounds: Rounds,
    url: Url,
    timeout: Duration,
    rescue: Rescue,
    /// Whether the page has yet to come.
    open: bool,
}

impl Policy for HttpObserver {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => self.rounds.start(now),
            Input::Woke if self.rounds.come(now) && !self.open => {
                self.open = true;
                return vec![Output::Fetch { url: self.url.clone(), timeout: self.timeout }];
            }
            Input::Fetched { result, took } => {
                self.open = false;
                return match result {
                    Fetched::Status(200..=399) => {
                        vec![self.statsd.timing("http_stats.request_time", took.as_millis())]
                    }
                    Fetched::Status(status) => self.failed(status, &format!("answers {status}")),
                    Fetched::Failed(why) => self.failed(NO_ANSWER, &why),
                };
            }
            Input::Answered { command, reply } => return self.rescue.go_on(&mut self.statsd, &command, reply),
            _ => {}
        }
        Vec::new()
    }

    fn next_wakeup(&self) -> Option<Time> {
        self.rounds.due
    }
}

impl HttpObserver {
    fn failed(&mut self, status: u16, why: &str) -> Vec<Output> {
        let Url { host, port, path } = &self.url;
        let mut outputs = vec![Output::Log(Level::Warn, format!("http://{host}:{port}{path}: {why}"))];
        outputs.extend(self.statsd.count("http_stats.error"));
        outputs.extend(self.statsd.count(format_args!("http_stats.error.{status}")));
        outputs.extend(self.rescue.begin());
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::super::restart;
    use super::super::tests::{answered, asked, at, logged, metrics, plugin, step};
    use super::*;
    use serde_json::json;

    /// An observer of which a round has come.
    fn observer(options: &[(&str, &str)]) -> (Plugin, Vec<Output>) {
        let options = [&[("check_url", "http://web:8080/ok?deep=1")], options].concat();
        let mut plugin = plugin("http_observer.HttpObserver", &options).unwrap();
        step(&mut plugin, 0.0, Input::Following);
        let outputs = step(&mut plugin, 60.0, Input::Woke);
        (plugin, outputs)
    }

    fn fetched(result: Fetched) -> Input {
        Input::Fetched { result, took: Duration::from_micros(12_900) }
    }

    #[test]
    fn each_round_fetches_the_page_once_and_times_it() {
        let (mut plugin, outputs) = observer(&[("timeout", "3")]);
        let url = Url { host: "web".into(), port: 8080, path: "/ok?deep=1".into() };
        assert_eq!(outputs, [Output::Fetch { url, timeout: Duration::from_secs(3) }]);
        // A page that is still under way is not fetched a second time.
        assert_eq!(step(&mut plugin, 120.0, Input::Woke), []);
        let told = metrics(&step(&mut plugin, 121.0, fetched(Fetched::Status(204))));
        assert_eq!(told, ["circus.http_observer.watcher.http_stats.request_time:12|ms"]);
        assert_eq!(plugin.policy.next_wakeup(), Some(at(180.0)));
        assert_eq!(step(&mut plugin, 180.0, Input::Woke).len(), 1);
    }

    #[test]
    fn a_page_that_fails_restarts_the_watcher() {
        let (mut plugin, _) = observer(&[("restart_on_error", "web")]);
        let outputs = step(&mut plugin, 61.0, fetched(Fetched::Status(503)));
        let counted = ["error", "error.503"].map(|it| format!("circus.http_observer.watcher.http_stats.{it}:1|c"));
        assert_eq!(metrics(&outputs), counted);
        assert!(logged(&outputs).contains("Warn http://web:8080/ok?deep=1: answers 503"));
        let question = asked(&outputs).remove(0);
        let outputs = step(&mut plugin, 61.1, answered(question, json!({"status": "active"})));
        assert_eq!(metrics(&outputs), ["circus.http_observer.watcher.http_stats.restart_on_error:1|c"]);
        assert_eq!(outputs.last(), Some(&restart("web")));
    }

    #[test]
    fn no_answer_counts_as_599() {
        let (mut plugin, _) = observer(&[]);
        let outputs = step(&mut plugin, 61.0, fetched(Fetched::Failed("connection refused".into())));
        assert_eq!(metrics(&outputs)[1], "circus.http_observer.watcher.http_stats.error.599:1|c");
        assert_eq!(asked(&outputs), []);
    }

    #[test]
    fn addresses_are_taken_apart() {
        let parts = |text: &str| url(text).map(|url| (url.host, url.port, url.path));
        let is = |host: &str, port, path: &str| Some((host.to_owned(), port, path.to_owned()));
        assert_eq!(parts("http://localhost/"), is("localhost", 80, "/"));
        assert_eq!(parts("http://h?q#top"), is("h", 80, "/?q"));
        assert_eq!(parts("http://[::1]:81/x"), is("::1", 81, "/x"));
        assert_eq!(parts("http://[::1]"), is("::1", 80, "/"));
        for wrong in
            ["https://h/", "h", "http://", "http://:80", "http://h:0", "http://h:x", "http://u:p@h/", "http://h/a b"]
        {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
        let why = super::super::tests::plugin("http_observer.HttpObserver", &[("check_url", "https://h/")]);
        assert!(why.err().unwrap().contains("https"));
    }
}
