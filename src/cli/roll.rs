//! `circusctl restart --rolling` and `reload --rolling`: told step by step, and where it stands when it stops.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::ctl;
use super::progress::Progress;
use super::whom::{self, Global};
use super::{ctl_exit, interrupted};
use crate::client::roll::{Plan, Roll, Step};
use crate::client::{Call, ClientError};
use crate::model::command::{Command, Target};
use crate::model::rollout::{Member, Rollout, Share, Sight, Stage, Verdict};
use crate::view::{self, Text};
use crate::wire;

/// How long a node must stay up before the next is asked, unless `--min-ready` says otherwise.
const MIN_READY: Duration = Duration::from_secs(1);
/// How long each node may take, unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a deed goes over the nodes.
#[derive(Debug, Clone, Args)]
pub(super) struct Rolling {
    /// One node after another, the next when all is up again; the first that does not come up ends it
    #[arg(long)]
    rolling: bool,
    /// How many nodes may be down at once, those included that are so already: 2, 25% [default: 1]
    #[arg(long, value_name = "N|P%", requires = "rolling", value_parser = Share::parse)]
    max_unavailable: Option<Share>,
    /// How long a node must stay up before it counts: 0, 500ms, 10s [default: 1s]
    #[arg(long, value_name = "SECONDS", requires = "rolling", value_parser = whom::time)]
    min_ready: Option<Duration>,
}

impl Rolling {
    /// These words, where it is to roll.
    pub(super) fn asked_for(&self) -> Option<Rolling> {
        self.rolling.then(|| self.clone())
    }
}

/// Rolls; what is left to print of it, and the exit code.
///
/// # Errors
/// It did not begin: the nodes are not known, or none has what is meant.
pub(super) fn run(global: &Global, deed: Command, how: &Rolling) -> Result<(Text, u8), ClientError> {
    let target = ctl::target(global, &deed)?;
    if let Target::Any(..) = target {
        return Err(ClientError::Usage("--rolling goes over all the nodes that are meant: leave --any out".into()));
    }
    if let Some(what) = ctl::danger(&deed, &target)
        && !global.yes
    {
        ctl::confirm(&what)?;
    }
    let most = how.max_unavailable.unwrap_or(Share::Nodes(1));
    let plan = Plan { deed, most, min_ready: how.min_ready.unwrap_or(MIN_READY) };
    let patience = global.timeout.unwrap_or(PATIENCE);
    let command = Command::Status { watcher: None };
    let call = Call { command, target, cluster: global.place.cluster.clone(), patience };
    let endpoint = global.place.endpoint()?;
    let (rollout, verdict) = ctl::runtime()?.block_on(async {
        let mut roll = Roll::look(&endpoint, &call, &plan).await?;
        let progress = Progress::new(global);
        let verdict = tokio::select! {
            verdict = roll.run(|rollout, step| tell(&progress, rollout, step)) => verdict,
            () = interrupted() => Verdict::CalledOff,
            never = progress.ticking() => match never {},
        };
        Ok((roll.rollout, verdict))
    })?;
    let told = wire::rollout_json(&rollout, &verdict);
    let text = match (global.prettify, global.json) {
        (true, _) => Text { out: format!("{told:#}\n"), err: String::new() },
        (false, true) => Text { out: format!("{told}\n"), err: String::new() },
        (false, false) => view::roll_result(&told, &again(&plan, how)),
    };
    Ok((text, exit_code(&told)))
}

/// The words that would do it again, but for the nodes.
fn again(plan: &Plan, how: &Rolling) -> String {
    let mut words = format!("circusctl {}", wire::command_name(&plan.deed));
    if let Some(name) = plan.watchers() {
        let quoted = shlex::try_quote(name).map_or_else(|_| name.to_owned(), |quoted| quoted.into_owned());
        words.push_str(&format!(" {quoted}"));
    }
    words.push_str(" --rolling");
    match how.max_unavailable {
        Some(Share::Nodes(nodes)) => words.push_str(&format!(" --max-unavailable {nodes}")),
        Some(Share::Percent(percent)) => words.push_str(&format!(" --max-unavailable {percent}%")),
        None => {}
    }
    words
}

/// A step, at once.
fn tell(progress: &Progress, rollout: &Rollout, step: &Step) {
    let (Step::Asked(node) | Step::Heard(node)) = step;
    let members = rollout.members();
    let stage = members.iter().find(|member| member.node == *node).map(|member| &member.stage);
    let change = match stage {
        Some(Stage::Asked) => format!("{node}: asked"),
        Some(Stage::Done) => format!("{node}: up again"),
        Some(Stage::Failed(_)) => format!("{node}: did not come up"),
        Some(Stage::Lost(_)) => format!("{node}: did not answer"),
        Some(Stage::Untouched) | None => String::new(),
    };
    let takes_part = |member: &&Member| {
        member.stage != Stage::Untouched || matches!(member.sight, Sight::Up { .. } | Sight::Down(_))
    };
    let (all, done) = (
        members.iter().filter(takes_part).count(),
        members.iter().filter(|member| member.stage == Stage::Done).count(),
    );
    let asked: Vec<&str> =
        members.iter().filter(|member| member.stage == Stage::Asked).map(|member| member.node.as_str()).collect();
    let now = if asked.is_empty() { String::new() } else { format!("waiting for {}", asked.join(", ")) };
    progress.change(&change, done, all, &now);
}

/// A failure weighs most, then a node of which nothing is known.
fn exit_code(told: &Value) -> u8 {
    let steps = told["nodes"].as_object().into_iter().flatten();
    let steps: Vec<&str> = steps.filter_map(|(_, member)| member["step"].as_str()).collect();
    match told["verdict"].as_str() {
        _ if steps.contains(&"failed") => ctl_exit::FAILED,
        Some("blind") => ctl_exit::PARTIAL,
        _ if steps.contains(&"silent") || steps.contains(&"asked") => ctl_exit::PARTIAL,
        Some("done" | "idle") => ctl_exit::OK,
        _ => ctl_exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use serde_json::json;

    use super::exit_code;
    use crate::cli::ctl::CtlArgs;

    #[test]
    fn words_are_understood_or_refused() {
        let parse = |words: &str| CtlArgs::try_parse_from(words.split(' '));
        for words in [
            "restart web --rolling --all",
            "restart --rolling --all --max-unavailable 25%",
            "reload web --rolling -l zone=a --max-unavailable 2 --min-ready 0",
        ] {
            assert!(parse(&format!("circusctl {words}")).is_ok(), "{words}");
        }
        for words in [
            "restart web --max-unavailable 1",
            "reload web --min-ready 1",
            "restart web --rolling --max-unavailable 0",
            "restart web --rolling --max-unavailable 1.5",
            "stop web --rolling",
        ] {
            assert!(parse(&format!("circusctl {words}")).is_err(), "{words}");
        }
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        for (verdict, steps, code) in [
            ("done", &["done", "skipped"][..], 0),
            ("idle", &["skipped"], 0),
            ("done", &["done", "silent"], 4),
            ("stopped", &["done", "failed", "untouched"], 1),
            ("stopped", &["failed", "silent"], 1),
            ("stopped", &["silent", "untouched"], 4),
            ("held", &["untouched", "untouched"], 1),
            ("held", &["untouched", "silent"], 4),
            ("called-off", &["done", "untouched"], 1),
            ("called-off", &["asked", "untouched"], 4),
            ("blind", &["done", "untouched"], 4),
        ] {
            let nodes: serde_json::Map<_, _> =
                steps.iter().enumerate().map(|(at, step)| (at.to_string(), json!({"step": step}))).collect();
            assert_eq!(exit_code(&json!({"verdict": verdict, "nodes": nodes})), code, "{verdict} {steps:?}");
        }
    }
}
