//! The palette: circusctl's commands, as they are typed into the screen.

use crate::cli::ctl;
use crate::cli::shell::{Asked, Named, asked, quoted};
use crate::client::Call;
use crate::model::command::Command;
use crate::model::names::NodeName;
use crate::view::top::Names;
use crate::wire;
use clap::CommandFactory;

/// What a line comes to, and what has to be confirmed before; the error is a text for people. A `!` at the end of the
/// first word stands for `--yes`.
pub(super) fn meaning(line: &str) -> Result<(Call, Option<String>), String> {
    let mut words = shlex::split(line).ok_or("a quote is not closed")?;
    if let Some(first) = words.first_mut()
        && let Some(command) = first.strip_suffix('!')
    {
        *first = command.to_owned();
        words.push("--yes".into());
    }
    let elsewhere = |word: &String| word.starts_with("--endpoint") || word.starts_with("--cluster");
    if words.iter().any(elsewhere) {
        return Err("what is asked here is asked where circus-top looks: start another one with --endpoint".into());
    }
    ctl::question(words)
}

/// Where the last word of a line begins, and what it could become.
pub(super) fn completion(line: &str, names: &Names) -> (usize, Vec<String>) {
    let commands = ctl::CtlArgs::command();
    let (start, asked) = asked(&commands, line);
    let is_first = line[..start].trim().is_empty();
    let before = line[..start].split_whitespace().next_back();
    let names_of = |names: &mut dyn Iterator<Item = &&str>| names.map(|name| quoted(name)).collect();
    let words = match asked {
        _ if matches!(before, Some("--node" | "--to")) => names_of(&mut names.nodes.iter()),
        Asked::Names(Named::Watchers) => names_of(&mut names.watchers.iter()),
        // The screen knows none of these by name.
        Asked::Names(Named::Sockets | Named::Legions) => Vec::new(),
        Asked::Words(words) if is_first => words.into_iter().chain(names.own.iter().cloned()).collect(),
        Asked::Words(words) => words,
    };
    (start, words)
}

/// A question in circusctl's words.
pub(super) fn words(command: &Command, nodes: &[NodeName]) -> String {
    let mut words = vec![wire::command_name(command).to_owned()];
    match command {
        Command::Explain { watcher } | Command::Options { watcher, .. } => words.push(quoted(watcher)),
        Command::Status { watcher } | Command::History { watcher, .. } => words.extend(watcher.as_deref().map(quoted)),
        Command::Stats { watcher, pid, .. } => {
            words.extend(watcher.as_deref().map(quoted));
            words.extend(pid.map(|pid| pid.to_string()));
        }
        _ => {}
    }
    let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    words.extend(["--node".into(), nodes.join(",")]);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Patience, Target};
    use crate::model::pattern::Pattern;

    #[test]
    fn a_line_means_what_it_means_to_circusctl() {
        let (call, danger) = meaning("restart web --node web-1").unwrap();
        let pattern = Some(Pattern::Glob("web".into()));
        assert_eq!(call.command, Command::Restart { pattern, patience: Patience::Admitted });
        assert_eq!((call.target, danger), (Target::node(NodeName::parse("web-1").unwrap()), None));
        assert!(meaning("restart --all").unwrap().1.unwrap().contains("restarts every watcher of all nodes"));
        assert!(meaning("quit").unwrap().1.unwrap().contains("exit leaves"));
        for sure in ["restart! --all", "restart --all --yes", "quit!"] {
            assert_eq!(meaning(sure).unwrap().1, None, "{sure}");
        }
        for (bad, why) in [
            ("restart 'web", "quote"),
            ("statsu", "status"),
            ("status --endpoint unix:///x", "where circus-top looks"),
            ("logs -f web", "goes on and on"),
            ("drill beat --kind kill", "goes on and on"),
            ("restart web --rolling", "step by step"),
            ("incr web --any --all", "exclude each other"),
            ("help restart", "Usage"),
        ] {
            assert!(meaning(bad).unwrap_err().contains(why), "{bad}: {:?}", meaning(bad));
        }
    }

    #[test]
    fn tab_offers_commands_panels_watchers_and_nodes() {
        let names =
            Names { own: vec!["watchers".into()], watchers: ["web", "two words"].into(), nodes: ["web-1"].into() };
        let offered = |line: &str| completion(line, &names);
        let (start, words) = offered("re");
        assert!(start == 0 && ["restart", "reload", "watchers"].iter().all(|word| words.contains(&(*word).to_owned())));
        assert_eq!(offered("restart w"), (8, vec!["'two words'".into(), "web".into()]));
        assert_eq!(offered("restart web --node w"), (19, vec!["web-1".to_owned()]));
        assert!(offered("restart web --n").1.contains(&"--node".to_owned()));
    }
}
