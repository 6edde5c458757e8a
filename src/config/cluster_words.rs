//! circusd-cluster's words: read and checked like all others, and not needed but for its endpoints. There is no master
//! here; nodes register by themselves.

use super::build::Build;
use super::keys::Section;
use super::problem::{Spot, code};
use super::settings::{Set, Settings};
use super::value::Value;
use super::vars::EnvVars;
use crate::model::names::NodeName;
use crate::model::spec::RedisSpec;

const PREFIX: &str = "node:";

impl<'a> Build<'a> {
    /// Says of `[circus-cluster]` and each `[node:NAME]` what is wrong with it, and that it is not needed; and of a file
    /// that means a cluster in these words what it lacks to be of one. What `[circus-cluster]` says comes back.
    pub(super) fn check_cluster_words(
        &mut self,
        circus: &Settings<'_>,
        redis: Option<&RedisSpec>,
        vars: &EnvVars,
    ) -> Option<Settings<'a>> {
        let doc = self.doc;
        let master = circus.get("master").filter(|set| set.value != Value::Unset);
        let mut first = master.map(|set| set.entry.key_spot());
        let mut names: Vec<(NodeName, Spot)> = Vec::new();
        let mut cluster = None;
        for head in doc.sections() {
            let Some(section @ (Section::CircusCluster | Section::Node)) = Section::of(head) else { continue };
            let Some(spot) = doc.head(head).cloned() else { continue };
            first = first.or_else(|| Some(spot.clone()));
            let settings = self.settings(head, section, vars);
            if let Some(name) = head.strip_prefix(PREFIX) {
                self.check_node(name, &spot, &mut names);
            }
            let opens = |set: &Set<'_>| matches!(set.value, Value::Endpoint(_));
            if section == Section::Node || !settings.all().any(opens) {
                self.problems
                    .warn(code::NO_EFFECT, spot, format!("[{head}] is not needed"))
                    .label("nodes register by themselves, in the Redis of `[redis] url`");
            }
            if section == Section::CircusCluster {
                cluster = Some(settings);
            }
        }
        // A section without its URL is told of already.
        if let (Some(spot), None, None) = (first, redis, doc.head("redis")) {
            self.problems
                .warn(code::MISSING, spot, "this file means a cluster, and has no [redis]")
                .label("without it, each node is alone")
                .help("write `[redis]` and below it `url = redis://HOST:6379/0`, the same on all nodes");
        }
        cluster
    }

    /// Whether the name of a `[node:NAME]` is one, and no other section's.
    fn check_node(&mut self, name: &str, spot: &Spot, names: &mut Vec<(NodeName, Spot)>) {
        match NodeName::parse(name.trim()) {
            Err(why) => {
                self.problems.error(code::HEAD, spot.clone(), why.0);
            }
            Ok(name) => {
                if let Some((_, first)) = names.iter().find(|(other, _)| *other == name) {
                    self.problems
                        .error(code::CONFLICT, spot.clone(), format!("the node {name} has two sections"))
                        .label("blanks around a name do not count")
                        .note(format_args!("the other is at {}", first.short()));
                }
                names.push((name, spot.clone()));
            }
        }
    }
}
