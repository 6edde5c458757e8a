//! `circusctl drill`: asked twice before it harms, told step by step, and judged.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;

use super::ctl;
use super::whom::{self, Global};
use super::{ctl_exit, interrupted};
use crate::client::drill::{self, Plan, Scene, Step};
use crate::client::{Call, ClientError};
use crate::model::command::{Command, Target};
use crate::model::drill::Kind;
use crate::view::{self, Text};

/// Its words.
#[derive(Debug, Args)]
pub(super) struct Drill {
    /// The singleton's watcher
    name: String,
    /// What is done to the agent that holds it: kill (SIGKILL), freeze (SIGSTOP, then SIGCONT), redis-loss (its connections
    /// to Redis are cut, then made again)
    #[arg(long, value_parser = kind)]
    kind: Kind,
    /// For how long, unless it is killed: 30, 500ms, 2m [default: 1.5 times the ttl of the lease]
    #[arg(long = "for", value_name = "SECONDS", value_parser = whom::span)]
    lasting: Option<Duration>,
}

fn kind(word: &str) -> Result<Kind, String> {
    Kind::parse(word).ok_or_else(|| format!("it is one of {}", Kind::ALL.map(Kind::word).join(", ")))
}

/// Holds a drill; what is left to print of it, and the exit code.
///
/// # Errors
/// It did not begin, or nobody could tell how it went.
pub(super) fn run(global: &Global, words: &Drill) -> Result<(Text, u8), ClientError> {
    if !global.whom.is_open() {
        return Err(ClientError::Usage("a drill finds the holder by itself: leave --node and --all out".into()));
    }
    if words.lasting.is_some() && !words.kind.passes() {
        return Err(ClientError::Usage("a kill is for good: leave --for out".into()));
    }
    let Drill { name, kind, lasting } = words;
    let plan = Plan { watcher: name.clone(), kind: *kind, lasting: *lasting };
    let json = global.json || global.prettify;
    let command = Command::Drill { watcher: name.clone(), kind: *kind, lasting: *lasting };
    let patience = global.timeout.unwrap_or(command.usual_time());
    let call = Call { command, target: Target::Here, cluster: global.place.cluster.clone(), patience };
    let runtime = ctl::runtime()?;
    let endpoint = global.place.endpoint()?;
    let scene = runtime.block_on(drill::look(&endpoint, &call, name))?;
    if !global.yes {
        ctl::confirm(&harm(&plan, &scene))?;
    }
    let told = runtime.block_on(async {
        let told = drill::run(&endpoint, &call, &scene, &plan, |step| {
            if !json {
                print(&step);
            }
        });
        tokio::select! {
            told = told => told,
            () = interrupted() => Err(ClientError::Silent("not watched to its end; the drill goes on without".into())),
        }
    })?;
    let code = if told["kept"] == true { ctl_exit::OK } else { ctl_exit::FAILED };
    let out = match (global.prettify, global.json) {
        (true, _) => format!("{told:#}\n"),
        (false, true) => format!("{told}\n"),
        (false, false) => view::drill_verdict(&told),
    };
    Ok((Text { out, err: String::new() }, code))
}

/// What is done, and to whom else.
fn harm(plan: &Plan, scene: &Scene) -> String {
    let Scene { holder, others, watchers, .. } = scene;
    let deed = match plan.kind {
        Kind::Kill => format!(
            "this kills the agent of {holder}: its {watchers} {} end with it, and its service manager has to start it again",
            if *watchers == 1 { "watcher" } else { "watchers" }
        ),
        Kind::Freeze => format!("this freezes the agent of {holder}, which supervises nothing meanwhile"),
        Kind::RedisLoss => format!("this cuts the agent of {holder} off from Redis"),
    };
    let others = match others[..] {
        [] => String::new(),
        _ => format!(", and so do its other singletons ({})", others.join(", ")),
    };
    format!("{deed}; {} moves{others}", plan.watcher)
}

/// A step, at once.
fn print(step: &Step) {
    let line = match step {
        Step::Begun(begun) => Some(view::drill_begun(begun)),
        Step::Ended(run) => view::drill_ended(run),
        Step::Started(run) => view::drill_started(run),
    };
    // Whoever stopped reading still wants the drill to be watched for its exit code.
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(line.unwrap_or_default().as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::ctl::CtlArgs;

    #[test]
    fn words_are_understood_or_refused() {
        let parse = |words: &str| CtlArgs::try_parse_from(words.split(' '));
        for words in ["drill beat --kind kill", "drill beat --kind redis-loss --for 500ms --yes --json"] {
            assert!(parse(&format!("circusctl {words}")).is_ok(), "{words}");
        }
        for words in ["drill", "drill beat", "drill beat --kind flood", "drill beat --kind freeze --for 0"] {
            assert!(parse(&format!("circusctl {words}")).is_err(), "{words}");
        }
    }
}
