//! The options that all of circusctl's commands share: where to ask, whom, and how long.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::client::{self, ClientError, Endpoint};
use crate::control::Places;
use crate::model::command::{Selector, Strategy, Target};
use crate::model::names::{ClusterName, Label, NodeName, NodeWord};
use crate::model::spec::{RedisSpec, TlsFiles};

#[derive(Debug, Args)]
pub(super) struct Global {
    #[command(flatten)]
    pub(super) place: Place,
    /// How long to wait for each node: 5, 500ms, 2m [default: 5s, with --waiting 60s]
    #[arg(long, alias = "cluster_timeout", global = true, value_name = "SECONDS", value_parser = span)]
    pub(super) timeout: Option<Duration>,
    /// Print the reply as one line of JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) whom: Whom,
    /// Do not ask back
    #[arg(long, short, global = true)]
    pub(super) yes: bool,
    /// Print the reply as JSON over several lines
    #[arg(long, global = true)]
    pub(super) prettify: bool,
    /// Do not show how far it is
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

/// Who is asked.
#[derive(Debug, Args)]
pub(super) struct Whom {
    /// Ask these nodes, separated by commas; patterns such as 'web-*' are meant, too
    #[arg(long, global = true, value_name = "NODES", value_delimiter = ',', value_parser = node_word)]
    pub(super) node: Vec<NodeWord>,
    /// Ask the nodes that have all these labels, separated by commas: zone=a, or zone for any
    #[arg(long, short, global = true, value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    pub(super) label: Vec<Label>,
    /// Ask the node that holds this singleton
    #[arg(long, global = true, value_name = "WATCHER")]
    pub(super) holder: Option<String>,
    /// Ask all nodes of the cluster
    #[arg(long, alias = "broadcast", global = true)]
    pub(super) all: bool,
    /// Let one node do it, which has the least to do, or as STRATEGY says: least-loaded, spread, pack
    #[arg(
        long,
        global = true,
        value_name = "STRATEGY",
        num_args = 0..=1,
        default_missing_value = "least-loaded",
        value_parser = Strategy::parse
    )]
    pub(super) any: Option<Strategy>,
}

impl Whom {
    /// Whether it is left open.
    pub(super) fn is_open(&self) -> bool {
        let Whom { node, label, holder, all, any } = self;
        node.is_empty() && label.is_empty() && holder.is_none() && !all && any.is_none()
    }

    /// Which nodes are meant.
    ///
    /// # Errors
    /// They are said in ways that exclude each other.
    pub(super) fn target(&self) -> Result<Target, ClientError> {
        let ways = [
            ("--all", self.all),
            ("--node", !self.node.is_empty() && self.any.is_none()),
            ("--holder", self.holder.is_some()),
            ("--any", self.any.is_some()),
        ];
        let mut taken = ways.iter().filter(|(_, is)| *is).map(|(way, _)| way);
        let exclude = |one, other| Err(ClientError::Usage(format!("{one} and {other} exclude each other")));
        match (taken.next(), taken.next()) {
            (Some(one), Some(other)) => return exclude(one, other),
            (Some(one), None) if self.holder.is_some() && !self.label.is_empty() => return exclude(one, &"--label"),
            _ => {}
        }
        if let Some(strategy) = self.any {
            return Ok(Target::Any(strategy, Selector { nodes: self.node.clone(), labels: self.label.clone() }));
        }
        Ok(match &self.holder {
            Some(watcher) => Target::Holder(watcher.clone()),
            None if !self.node.is_empty() || !self.label.is_empty() => {
                Target::Nodes(Selector { nodes: self.node.clone(), labels: self.label.clone() })
            }
            None if self.all => Target::All,
            None => Target::Here,
        })
    }
}

/// Where an agent or Redis is asked.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Where to ask: unix:///run/circus/web-1.sock, redis://host:6379/0, or tcp://host:5555, which may be a circusd
    #[arg(long, global = true, env = "CIRCUSCTL_ENDPOINT", hide_env_values = true, value_parser = Endpoint::parse)]
    pub(super) endpoint: Option<Endpoint>,
    /// The cluster, where Redis is asked
    #[arg(long, global = true, env = "CIRCUS_CLUSTER", hide_env_values = true, default_value = "default", value_parser = cluster)]
    pub(super) cluster: ClusterName,
    #[command(flatten)]
    login: Login,
}

impl Place {
    /// The agent or Redis that is meant: without a word of one, this machine's agent.
    ///
    /// # Errors
    /// No agent of this machine is found, or more than one.
    pub(super) fn endpoint(&self) -> Result<Endpoint, ClientError> {
        match &self.endpoint {
            Some(Endpoint::Redis(spec)) => Ok(Endpoint::Redis(self.login.to(spec))),
            Some(endpoint) => Ok(endpoint.clone()),
            None => client::find_local(&Places::from_env(), &host_name()),
        }
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// How Redis lets us in, in the words of `[redis]`, and from the environment as an agent takes it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Redis")]
struct Login {
    /// The ACL user, where the URL names none
    #[arg(long, global = true, value_name = "USER", env = "CIRCUS_REDIS_USERNAME", hide_env_values = true)]
    redis_username: Option<String>,
    /// Holds the password, where the URL has none
    #[arg(long, global = true, value_name = "FILE", env = "CIRCUS_REDIS_PASSWORD_FILE", hide_env_values = true)]
    redis_password_file: Option<PathBuf>,
    /// Certificates that rediss:// trusts, instead of the machine's
    #[arg(long, global = true, value_name = "FILE", env = "CIRCUS_REDIS_TLS_CA", hide_env_values = true)]
    redis_tls_ca: Option<PathBuf>,
    /// Our certificate, where rediss:// wants one
    #[arg(long, global = true, value_name = "FILE", env = "CIRCUS_REDIS_TLS_CERT", hide_env_values = true)]
    redis_tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, global = true, value_name = "FILE", env = "CIRCUS_REDIS_TLS_KEY", hide_env_values = true)]
    redis_tls_key: Option<PathBuf>,
    /// The ACL user at the sentinels
    #[arg(long, global = true, value_name = "USER", env = "CIRCUS_REDIS_SENTINEL_USERNAME", hide_env_values = true)]
    redis_sentinel_username: Option<String>,
    /// Holds the password for the sentinels
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CIRCUS_REDIS_SENTINEL_PASSWORD_FILE",
        hide_env_values = true
    )]
    redis_sentinel_password_file: Option<PathBuf>,
    /// Holds the secret under which the cluster's messages are sealed
    #[arg(long, global = true, value_name = "FILE", env = "CIRCUS_SECRET_FILE", hide_env_values = true)]
    secret_file: Option<PathBuf>,
}

impl Login {
    /// `spec`, and how it lets us in.
    fn to(&self, spec: &RedisSpec) -> RedisSpec {
        let Login { redis_tls_ca: ca, redis_tls_cert: cert, redis_tls_key: key, .. } = self;
        RedisSpec {
            username: self.redis_username.clone(),
            password_file: self.redis_password_file.clone(),
            tls: TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() },
            sentinel_username: self.redis_sentinel_username.clone(),
            sentinel_password_file: self.redis_sentinel_password_file.clone(),
            url: spec.url.clone(),
            // It takes no lease.
            require_replica_ack: 0,
            secret_file: self.secret_file.clone(),
        }
    }
}

pub(super) fn node(text: &str) -> Result<NodeName, String> {
    NodeName::parse(text.trim()).map_err(|bad| bad.to_string())
}

fn node_word(text: &str) -> Result<NodeWord, String> {
    NodeWord::parse(text.trim()).map_err(|bad| bad.to_string())
}

fn label(text: &str) -> Result<Label, String> {
    Label::parse(text).map_err(|bad| bad.to_string())
}

fn cluster(text: &str) -> Result<ClusterName, String> {
    ClusterName::parse(text).map_err(|bad| bad.to_string())
}

/// A [`time`] above zero, at most a day.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    match time(text)? {
        span if span.is_zero() => Err("it must be above zero".into()),
        span if span > Duration::from_secs(86_400) => Err("it can be a day at most".into()),
        span => Ok(span),
    }
}

/// `5`, `0.5`, `500ms`, `15s`, `5m`, `1h`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is no time: 5, 0.5, 500ms, 15s or 5m");
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: f64 = number.trim().parse().map_err(|_| bad())?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(span("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "-1", "0", "inf", "1e9", "5x", "ms", "1d"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
