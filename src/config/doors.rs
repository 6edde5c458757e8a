//! `endpoint`, `pubsub_endpoint`, `stats_endpoint` and what goes with them: the ZeroMQ doors.

use super::build::Build;
use super::problem::code;
use super::settings::{Set, Settings};
use super::value::Value;
use crate::model::spec::{ZmqAddress, ZmqDoors};

/// Where Circus publishes statistics unless it is told where.
fn usual_stats() -> ZmqAddress {
    ZmqAddress::Tcp { host: "127.0.0.1".into(), port: 5557 }
}

impl Build<'_> {
    /// The doors that are named. One that other machines could come to is an error, unless `endpoint_public` says so: there
    /// is no authentication, so that whoever comes can run anything.
    pub(super) fn zmq_doors(&mut self, circus: &Settings<'_>, cluster: Option<&Settings<'_>>) -> ZmqDoors {
        let public = circus.bool("endpoint_public");
        let mut taken: Vec<(ZmqAddress, String)> = Vec::new();
        let mut door = |settings: Option<&Settings<'_>>, name| {
            let settings = settings?;
            let set = settings.get(name)?;
            let Value::Endpoint(address) = &set.value else { return None };
            if !public && !address.is_local() {
                self.is_public(set, address);
            }
            match taken.iter().find(|(other, _)| other == address) {
                Some((_, first)) => {
                    self.problems
                        .error(code::ADDRESS, set.entry.spot(), format!("{address} is taken already"))
                        .label("each endpoint needs an address of its own")
                        .note(format_args!("{first} has it"));
                }
                None => taken.push((address.clone(), format!("[{}] {name}", settings.head))),
            }
            Some(address.clone())
        };
        let mut doors = ZmqDoors {
            endpoint: door(Some(circus), "endpoint"),
            pubsub: door(Some(circus), "pubsub_endpoint"),
            stats: door(Some(circus), "stats_endpoint").or_else(|| circus.bool("statsd").then(usual_stats)),
            cluster_endpoint: door(cluster, "endpoint"),
            cluster_stats: door(cluster, "stats_endpoint"),
            discovery: None,
            owner: circus.user("endpoint_owner").map(|user| user.uid),
            public,
            for_plugins: false,
        };
        if let Some(set) = circus.get("multicast_endpoint")
            && let Value::Group(group) = set.value
        {
            match doors.endpoint {
                Some(_) => doors.discovery = Some(group),
                None => {
                    self.problems
                        .warn(
                            code::NO_EFFECT,
                            set.entry.spot(),
                            "`multicast_endpoint` has no effect without `endpoint`",
                        )
                        .label("who looks for this agent is told where that is");
                }
            }
        }
        doors
    }

    fn is_public(&mut self, set: &Set<'_>, address: &ZmqAddress) {
        let key = set.entry.key;
        let problem = self
            .problems
            .error(code::PUBLIC, set.entry.spot(), format!("`{key}` could be reached from other machines"))
            .label(match key {
                "endpoint" => "whoever reaches it can run any program here: nobody is asked who he is",
                _ => "whoever reaches it can listen: nobody is asked who he is",
            })
            .help("ipc:///run/circus/endpoint is for who may write to the file, and 127.0.0.1 for this machine");
        if let ZmqAddress::Tcp { port, .. } = address {
            problem.help(format!(
                "`{key} = tcp://127.0.0.1:{port}` is for this machine; `endpoint_public = true` in [circus] allows it as it is"
            ));
        }
    }
}
