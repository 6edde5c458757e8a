//! `RedisObserver`: passes Redis's INFO on to statsd at each round, and restarts a watcher where Redis is silent.

use std::time::Duration;

use super::options::Options;
use super::rescue::Rescue;
use super::statsd::Statsd;
use super::{Input, Output, Plugin, Policy, RedisFailure, Rounds, USUAL_ROUND, probe};
use crate::model::event::Level;
use crate::model::random::Random;
use crate::model::spec::Secret;
use crate::model::time::Time;

/// What is passed on. What a Redis does not tell, because it is older or newer, is left out.
const OBSERVED: &[&str] = &[
    "pubsub_channels",
    "connected_slaves",
    "lru_clock",
    "connected_clients",
    "keyspace_misses",
    "used_memory",
    "used_memory_peak",
    "total_commands_processed",
    "used_memory_rss",
    "total_connections_received",
    "pubsub_patterns",
    "used_cpu_sys",
    "used_cpu_sys_children",
    "blocked_clients",
    "used_cpu_user",
    "client_biggest_input_buf",
    "mem_fragmentation_ratio",
    "expired_keys",
    "evicted_keys",
    "client_longest_output_list",
    "uptime_in_seconds",
    "keyspace_hits",
];

/// `circus.plugins.redis_observer.RedisObserver`
pub(super) fn plugin(options: &mut Options, seed: Random) -> Plugin {
    let (statsd, to) = Statsd::read(options, "redis_observer", seed);
    let url = options.text_or("redis_url", "redis://localhost:6379/0");
    if let Err(why) = probe::redis_url(&url) {
        options.wrong("redis_url", format_args!("must be the address of a Redis: {why}"));
    }
    let policy = RedisObserver {
        statsd,
        rounds: Rounds::read(options, USUAL_ROUND),
        url: Secret::new(url),
        timeout: options.interval("timeout", Duration::from_secs(5)),
        rescue: Rescue { watcher: options.text("restart_on_timeout"), counter: "redis_stats.restart_on_error" },
        open: false,
    };
    Plugin { policy: Box::new(policy), statsd: Some(to), heartbeats: None }
}

struct RedisObserver {
    statsd: Statsd,
    rounds: Rounds,
    url: Secret,
    timeout: Duration,
    rescue: Rescue,
    /// Whether Redis has yet to answer.
    open: bool,
}

impl Policy for RedisObserver {
    fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Following => self.rounds.start(now),
            Input::Woke if self.rounds.come(now) && !self.open => {
                self.open = true;
                return vec![Output::ReadInfo { url: self.url.clone(), timeout: self.timeout }];
            }
            Input::InfoRead(result) => {
                self.open = false;
                return match result {
                    Ok(info) => self.gauges(&info),
                    Err(RedisFailure::Silent(why)) => {
                        let mut outputs = self.failed(&why);
                        outputs.extend(self.rescue.begin());
                        outputs
                    }
                    // It is loading, or wants a password: a restart would only make that worse.
                    Err(RedisFailure::Refused(why)) => self.failed(&why),
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

impl RedisObserver {
    fn gauges(&self, info: &str) -> Vec<Output> {
        let told = info.lines().filter_map(|line| line.split_once(':'));
        // What is no number is no gauge.
        let numbers = told.filter(|(key, value)| OBSERVED.contains(key) && value.trim().parse::<f64>().is_ok());
        numbers.map(|(key, value)| self.statsd.gauge(format_args!("redis_stats.{key}"), value.trim())).collect()
    }

    fn failed(&mut self, why: &str) -> Vec<Output> {
        let mut outputs = vec![Output::Log(Level::Warn, format!("Redis: {why}"))];
        outputs.extend(self.statsd.count("redis_stats.error"));
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::super::restart;
    use super::super::tests::{answered, asked, logged, metrics, plugin, step};
    use super::*;
    use serde_json::json;

    /// An observer that has asked Redis.
    fn observer(options: &[(&str, &str)]) -> Plugin {
        let mut plugin = plugin("redis_observer.RedisObserver", options).unwrap();
        step(&mut plugin, 0.0, Input::Following);
        let outputs = step(&mut plugin, 60.0, Input::Woke);
        let url = Secret::new("redis://localhost:6379/0".into());
        assert_eq!(outputs, [Output::ReadInfo { url, timeout: Duration::from_secs(5) }]);
        plugin
    }

    #[test]
    fn what_redis_tells_of_itself_becomes_gauges() {
        let info = "# Clients\r\nconnected_clients:3\r\nmem_fragmentation_ratio:1.25\r\nused_memory_human:1.00M\r\n\
                    redis_version:8.0\r\nexpired_keys:many\r\n";
        let gauges = metrics(&step(&mut observer(&[]), 60.1, Input::InfoRead(Ok(info.into()))));
        let expected = ["connected_clients:3|g", "mem_fragmentation_ratio:1.25|g"];
        assert_eq!(gauges, expected.map(|it| format!("circus.redis_observer.watcher.redis_stats.{it}")));
    }

    #[test]
    fn a_silent_redis_is_counted_and_its_watcher_restarted() {
        let mut plugin = observer(&[("restart_on_timeout", "cache")]);
        let outputs = step(&mut plugin, 65.0, Input::InfoRead(Err(RedisFailure::Silent("timed out".into()))));
        assert_eq!(metrics(&outputs), ["circus.redis_observer.watcher.redis_stats.error:1|c"]);
        assert_eq!(logged(&outputs), "Warn Redis: timed out\n");
        let question = asked(&outputs).remove(0);
        let outputs = step(&mut plugin, 65.1, answered(question, json!({"status": "active"})));
        assert_eq!(metrics(&outputs), ["circus.redis_observer.watcher.redis_stats.restart_on_error:1|c"]);
        assert_eq!(outputs.last(), Some(&restart("cache")));
    }

    #[test]
    fn a_redis_that_refuses_lives_and_is_not_restarted() {
        let mut plugin = observer(&[("restart_on_timeout", "cache")]);
        let refused = RedisFailure::Refused("LOADING Redis is loading the dataset in memory".into());
        let outputs = step(&mut plugin, 61.0, Input::InfoRead(Err(refused)));
        assert_eq!((asked(&outputs), metrics(&outputs).len()), (vec![], 1));
    }

    #[test]
    fn a_wrong_address_is_refused_and_not_shown() {
        let why = plugin("redis_observer.RedisObserver", &[("redis_url", "http://:secret@cache")]).err().unwrap();
        assert!(why.starts_with("redis_url must be") && !why.contains("secret"), "{why}");
    }
}
