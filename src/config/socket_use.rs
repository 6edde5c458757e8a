//! `use_sockets`, `sockets`, `stdin_socket`, `socket_env`, `on_demand`: which of the agent's sockets a watcher gets, and
//! how its program learns of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::build::Build;
use super::keys::nearest;
use super::problem::{Spot, code};
use super::settings::{Set, Settings};
use super::shell::{self, Line};
use super::value::{Value, Wrong, wrong};
use super::vars;
use crate::model::names::{SocketName, WatcherName};
use crate::model::spec::{Check, Convention, Family, OnDemand, Place, SocketKind, SocketUse, Which};

/// The sockets of one watcher, as far as its keys say so.
pub(super) struct Handed<'a> {
    watcher: &'a WatcherName,
    pub(super) sockets: SocketUse,
    /// Whether `sockets` could be read whole: what is missing may otherwise be what was misspelt.
    whole: bool,
}

/// `socket_env`: nothing inside for `auto`.
pub(super) fn conventions(text: &str) -> Result<Option<BTreeSet<Convention>>, Wrong> {
    let words: Vec<String> = words(text).map(|(_, word)| word.to_lowercase()).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => return Err(wrong("names no convention").help("write `none` for none of them")),
        ["auto"] => return Ok(None),
        ["none"] => return Ok(Some(BTreeSet::new())),
        _ => {}
    }
    let mut found = BTreeSet::new();
    for word in &words {
        let known = || Convention::ALL.map(Convention::word);
        let Some(convention) = Convention::ALL.into_iter().find(|convention| convention.word() == word) else {
            let wrong = wrong(format!("must be auto, none or some of {}", known().join(", ")));
            return Err(match nearest(word, known().into_iter().chain(["auto", "none"])) {
                _ if word == "auto" || word == "none" => wrong.label(format!("`{word}` stands alone")),
                Some(known) => wrong.label(format!("did you mean `{known}`?")),
                None => wrong.label("one of these is none of them"),
            });
        };
        found.insert(convention);
    }
    Ok(Some(found))
}

/// The words of a list with commas or blanks, each with the byte where it begins.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    super::settings::parts(text, |c| c == ',' || c.is_whitespace())
}

impl Build<'_> {
    /// The sockets that a watcher's processes get.
    pub(super) fn handed<'n>(&mut self, watcher: &'n WatcherName, settings: &Settings<'_>) -> Handed<'n> {
        let (which, whole) = self.which(watcher, settings);
        let stdin = settings.get("stdin_socket").filter(|set| set.value != Value::Unset);
        let stdin = stdin.and_then(|set| self.socket_for(watcher, set.text.trim(), set.entry.spot()));
        if stdin.is_some() {
            self.no_effect(settings, &["close_child_stdin"], "stdin is the socket");
        }
        let conventions = self.conventions_for(settings, which != Which::default());
        Handed { watcher, sockets: SocketUse { which, stdin, conventions }, whole }
    }

    fn which(&mut self, watcher: &WatcherName, settings: &Settings<'_>) -> (Which, bool) {
        let list = settings.get("sockets").filter(|set| set.value != Value::Unset);
        if settings.bool("use_sockets") {
            if let Some(set) = list {
                self.problems
                    .error(
                        code::CONFLICT,
                        set.entry.key_spot(),
                        "`use_sockets` hands all sockets down, `sockets` only some",
                    )
                    .help("take one of the two out");
            }
            let admitted = self.sockets.iter().filter(|(_, only)| only.is_empty() || only.contains(watcher));
            self.used.extend(admitted.map(|(name, _)| name.clone()));
            return (Which::All, true);
        }
        let Some(set) = list else { return (Which::default(), true) };
        let (mut names, mut whole) = (Vec::new(), true);
        for (at, word) in words(&set.text) {
            let spot = set.part(at..at + word.len());
            match self.socket_for(watcher, word, spot.clone()) {
                None => whole = false,
                Some(name) if names.contains(&name) => {
                    self.problems
                        .warn(code::TWICE, spot, format!("`{name}` stands twice in `sockets`"))
                        .label("one descriptor is enough: this one is ignored");
                }
                Some(name) => names.push(name),
            }
        }
        (Which::These(names), whole)
    }

    /// The socket that a watcher calls by this name; says why it cannot have it.
    fn socket_for(&mut self, watcher: &WatcherName, text: &str, spot: Spot) -> Option<SocketName> {
        let Some((name, only)) = self.sockets.iter().find(|(name, _)| name.as_str() == text.to_lowercase()) else {
            let hint = nearest(text, self.sockets.keys().map(SocketName::as_str));
            let problem = self.problems.error(code::SOCKET, spot, format!("there is no socket `{text}`"));
            match hint {
                Some(known) => problem.label(format!("did you mean `{known}`?")),
                None => problem.label(format!("no section [socket:{text}]")),
            };
            return None;
        };
        if !only.is_empty() && !only.contains(watcher) {
            let names: Vec<String> = only.iter().map(|name| format!("`{name}`")).collect();
            self.problems
                .error(code::SOCKET, spot, format!("`{watcher}` may not have socket `{name}`"))
                .label(format!("it is for {} alone", names.join(" and ")))
                .help(format_args!("`watchers` in [socket:{name}] says who may have it"));
        }
        let name = name.clone();
        self.used.insert(name.clone());
        Some(name)
    }

    // ---- how a program learns of them ----

    fn conventions_for(&mut self, settings: &Settings<'_>, gets_some: bool) -> BTreeSet<Convention> {
        let said = settings.get("socket_env").filter(|set| set.value != Value::Unset);
        let forced = said.and_then(|set| match &set.value {
            Value::Conventions(forced) => forced.clone().map(|forced| (set, forced)),
            _ => None,
        });
        let acks = settings.get("ready").filter(|set| set.value == Value::Check(Check::Ack));
        if let (Some(ready), Some((set, forced))) = (acks, &forced)
            && !forced.contains(&Convention::Einhorn)
        {
            self.problems
                .error(code::CONFLICT, ready.entry.spot(), "`ready = ack` needs einhorn's variables")
                .label("without them no process knows where to say so")
                .note(format_args!("`socket_env` at {} leaves them out", set.entry.spot().short()))
                .help("add `einhorn` to `socket_env`");
        }
        match forced {
            _ if !gets_some => {
                if acks.is_none() {
                    self.no_effect(settings, &["socket_env"], "this watcher gets no sockets");
                }
                acks.map(|_| Convention::Einhorn).into_iter().collect()
            }
            Some((_, forced)) => forced,
            None => {
                let mut auto = BTreeSet::from([Convention::Circus, Convention::Listen, Convention::Einhorn]);
                // Who is told the number needs no LISTEN_FDS, and gunicorn closes a descriptor twice that it finds in both.
                if lines(settings).any(refers) {
                    auto.remove(&Convention::Listen);
                }
                auto
            }
        }
    }

    /// Warns where gunicorn would find one descriptor in its command line and in `LISTEN_FDS`.
    pub(super) fn warn_of_gunicorn(&mut self, settings: &Settings<'_>, handed: &Handed<'_>) {
        let told = |word: &str| lines(settings).any(|set| set.text.contains(word));
        if !handed.sockets.conventions.contains(&Convention::Listen) || !told("gunicorn") || !told("fd://") {
            return;
        }
        let Some(set) = settings.get("socket_env").or_else(|| lines(settings).find(|set| set.text.contains("fd://")))
        else {
            return;
        };
        self.problems
            .warn(code::SOCKET, set.entry.spot(), "gunicorn would close one socket twice, and end")
            .label("LISTEN_FDS names the descriptor that `fd://` names too")
            .help("with `fd://$(circus.sockets.NAME)` and `socket_env = auto`, LISTEN_FDS is left out")
            .help("or take the `-b fd://…` out: gunicorn finds its sockets by LISTEN_FDS alone");
    }

    /// A shell's line, so that the server will be the process that the agent has started, where that counts.
    pub(super) fn without_shell(&mut self, line: String, cmd: &Set<'_>, handed: &Handed<'_>) -> String {
        // Each of these holds a pid, which is to be the server's own, or its parent's.
        let named = [Convention::Listen, Convention::Einhorn];
        if named.iter().all(|named| !handed.sockets.conventions.contains(named)) {
            return line;
        }
        match shell::look(&line) {
            Line::Exec => line,
            Line::Simple(at) => shell::with_exec(&line, at),
            Line::Other => {
                self.warn_of_shell(cmd, handed);
                line
            }
        }
    }

    /// Warns where a command line starts a shell by itself, which then starts the server.
    pub(super) fn check_shell(&mut self, words: &[String], cmd: &Set<'_>, handed: &Handed<'_>) {
        let [program, option, line, ..] = words else { return };
        let program = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let runs_line = option.starts_with('-') && !option.starts_with("--") && option.ends_with('c');
        // These run the last command of a line in their own place.
        let leaves = matches!(program, "bash" | "zsh" | "ksh");
        if !runs_line || !(leaves || matches!(program, "sh" | "dash" | "ash")) {
            return;
        }
        match shell::look(line) {
            Line::Exec => {}
            Line::Simple(_) if leaves => {}
            Line::Simple(_) | Line::Other => self.warn_of_shell(cmd, handed),
        }
    }

    fn warn_of_shell(&mut self, cmd: &Set<'_>, handed: &Handed<'_>) {
        if handed.sockets.conventions.contains(&Convention::Listen) {
            self.problems
                .warn(code::SOCKET, cmd.entry.spot(), "LISTEN_PID does not fit what this shell starts")
                .label("it names the shell, so that a server would take its sockets for another's")
                .help("write `exec` before the server: `cd /srv/app && exec gunicorn app`")
                .help("a server that is told its number by `$(circus.sockets.NAME)` does not need it");
        }
    }

    // ---- in a command line ----

    /// Checks `$(circus.sockets.…)` in a command line.
    pub(super) fn check_socket_variable(&mut self, text: &str, spot: Spot, handed: &Handed<'_>) {
        let known = self.sockets.keys().find(|name| name.as_str() == text).cloned();
        let gets = |name: &SocketName| match &handed.sockets.which {
            Which::All => true,
            Which::These(names) => names.contains(name) || !handed.whole,
        };
        match known {
            Some(name) if !gets(&name) && self.admits(&name, handed.watcher) => {
                self.used.insert(name.clone());
                let Which::These(mut names) = handed.sockets.which.clone() else { return };
                let label = match names.as_slice() {
                    [] => "this watcher gets no sockets".to_owned(),
                    _ => format!("`sockets` of this watcher does not name `{name}`"),
                };
                names.push(name.clone());
                let names: Vec<&str> = names.iter().map(SocketName::as_str).collect();
                self.problems
                    .error(code::SOCKET, spot, format!("socket `{name}` would be closed there"))
                    .label(label)
                    .help(format_args!("write `sockets = {}`", names.join(", ")));
            }
            _ => drop(self.socket_for(handed.watcher, text, spot)),
        }
    }

    fn admits(&self, name: &SocketName, watcher: &WatcherName) -> bool {
        self.sockets.get(name).is_some_and(|only| only.is_empty() || only.contains(watcher))
    }

    // ---- what depends on them ----

    pub(super) fn on_demand(
        &mut self,
        settings: &Settings<'_>,
        handed: &Handed<'_>,
        is_singleton: bool,
    ) -> Option<OnDemand> {
        let Some(set) = settings.get("on_demand").filter(|set| set.value == Value::Bool(true)) else {
            if self.is_absent(settings, "on_demand") {
                self.no_effect(settings, &["idle_timeout"], "there is no `on_demand`");
            }
            return None;
        };
        let any = match &handed.sockets.which {
            Which::All => self.sockets.keys().any(|name| self.admits(name, handed.watcher)),
            Which::These(names) => !names.is_empty() || !handed.whole,
        };
        if !any && self.is_absent(settings, "stdin_socket") {
            self.problems
                .error(code::CONFLICT, set.entry.spot(), format!("nobody can want anything of `{}`", handed.watcher))
                .label("it gets no socket, and would sleep for ever")
                .help("`sockets = NAME` gives it one, `use_sockets = True` all");
        }
        if is_singleton {
            self.problems
                .error(code::CONFLICT, set.entry.spot(), "a singleton cannot sleep until it is wanted")
                .label("it would hold its lease, and no other node could answer")
                .help("take `on_demand` or `singleton` out");
        }
        Some(OnDemand { idle_timeout: settings.optional_seconds("idle_timeout") })
    }

    /// Warns of a check that asks the agent's own socket, which accepts connections whatever the process does.
    pub(super) fn check_own_socket(&mut self, set: &Set<'_>, check: &Check, handed: &Handed<'_>) {
        let Check::Tcp { host, port } = check else { return };
        let answers = |place: &Place| match place {
            Place::Inet { host: own, port: own_port, family } => own_port == port && meets((own, *family), host),
            Place::Unix(_) | Place::Given => false,
        };
        let gets = |name: &SocketName| match &handed.sockets.which {
            Which::All => self.admits(name, handed.watcher),
            Which::These(names) => names.contains(name) || handed.sockets.stdin.as_ref() == Some(name),
        };
        let own = self
            .opened
            .iter()
            .find(|socket| socket.kind == SocketKind::Stream && answers(&socket.place) && gets(&socket.name));
        if let Some(name) = own.map(|socket| socket.name.clone()) {
            let key = set.entry.key;
            self.problems
                .warn(
                    code::SOCKET,
                    set.entry.spot(),
                    format!("this says nothing of a process: socket `{name}` is open anyway"),
                )
                .label("the agent listens there, and the connection waits")
                .help(format_args!(
                    "`{key} = http {port}/PATH` waits for an answer, `{key} = notify` for the process's own word"
                ));
        }
    }
}

/// The keys that make a command line.
fn lines<'s>(settings: &'s Settings<'_>) -> impl Iterator<Item = &'s Set<'s>> {
    ["cmd", "args", "shell_args"].into_iter().filter_map(|key| settings.get(key))
}

/// Whether a text has the number of a socket filled in.
fn refers(set: &Set<'_>) -> bool {
    vars::references(&set.text).iter().any(|reference| reference.name.starts_with("sockets."))
}

/// Whether a socket of this host and IP version is where `asked` leads.
fn meets((own, family): (&str, Family), asked: &str) -> bool {
    let address = |host: &str| host.parse::<IpAddr>().ok();
    let here = |host: &str| host.eq_ignore_ascii_case("localhost") || address(host).is_some_and(|it| it.is_loopback());
    let all = own.is_empty() || address(own).is_some_and(|own| own.is_unspecified());
    let reached = address(asked).is_none_or(|asked| asked.is_ipv4() == (family == Family::V4));
    reached && (all || own.eq_ignore_ascii_case(asked) || (here(own) && here(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conventions_are_a_list_or_one_word() {
        let some = |conventions: &[Convention]| Ok(Some(conventions.iter().copied().collect::<BTreeSet<_>>()));
        assert_eq!(conventions("auto"), Ok(None));
        assert_eq!(conventions("NONE"), some(&[]));
        assert_eq!(conventions("listen,  Server-Starter"), some(&[Convention::Listen, Convention::ServerStarter]));
        assert_eq!(conventions("einhron").unwrap_err().label, "did you mean `einhorn`?");
        assert_eq!(conventions("listen auto").unwrap_err().label, "`auto` stands alone");
        assert!(conventions("systemd").is_err() && conventions(",").is_err());
    }

    #[test]
    fn a_check_meets_a_socket_by_address_and_version() {
        for (own, family, asked) in [
            ("localhost", Family::V4, "127.0.0.1"),
            ("::1", Family::V6, "LOCALHOST"),
            ("", Family::V4, "10.0.0.1"),
            ("::", Family::V6, "::1"),
            ("web-1", Family::V4, "Web-1"),
        ] {
            assert!(meets((own, family), asked), "{own} {asked}");
        }
        for (own, family, asked) in [
            ("localhost", Family::V4, "::1"),
            ("::1", Family::V6, "127.0.0.1"),
            ("0.0.0.0", Family::V4, "::1"),
            ("10.0.0.1", Family::V4, "127.0.0.1"),
            ("web-1", Family::V4, "web-2"),
        ] {
            assert!(!meets((own, family), asked), "{own} {asked}");
        }
    }
}
