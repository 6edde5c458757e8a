//! Who is meant: from what an asker says and the rows of the registry to the nodes that are asked.
//!
//! An agent asked at its control socket decides it, and so does circusctl when it asks over Redis, where nobody is
//! "here". Both ask [`choose`].
//!
//! | target | at a control socket | over Redis |
//! |---|---|---|
//! | nobody named | this node | reading: all; a failover, a drill: the holder; other acting: refused |
//! | names | those; who is not there is told of | the same |
//! | patterns, labels | who fits and is not gone; nobody: refused | the same |
//! | all | who is not gone | the same |
//! | a singleton's holder | that one | the same |
//! | any | the one that [`place`] prefers | the same |

use std::collections::BTreeMap;

use super::command::{Answer, Command, NodeRow, NodeState, PROTOCOL, Refusal, Reply, Selector, Target};
use super::names::{Label, NodeName, NodeWord, is_called, nearest};
use super::placement::place;

/// The nodes that a command is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addressees {
    /// Those to ask, sorted, each once.
    pub ask: Vec<NodeName>,
    /// Those that were named and cannot be asked, each with the reason.
    pub absent: Vec<(NodeName, String)>,
    /// Why there may be more nodes than those.
    pub missing: Option<String>,
}

/// Why nobody is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nobody {
    /// Nobody is what was asked for.
    Refused(Refusal),
    /// The command acts, and was not told where.
    NotTold,
}

impl From<Refusal> for Nobody {
    fn from(refusal: Refusal) -> Nobody {
        Nobody::Refused(refusal)
    }
}

/// The nodes that `command` is for. `here` is the one that was asked, whose own row is among `rows`; nothing where Redis
/// was. `rows` is the registry, or why it cannot be read.
///
/// # Errors
/// Nobody is to be asked.
pub fn choose(
    target: &Target,
    command: &Command,
    here: Option<&NodeName>,
    rows: Result<&[NodeRow], &str>,
) -> Result<Addressees, Nobody> {
    let rows = match rows {
        Ok(rows) => rows,
        Err(why) => return blindly(target, here, why).map_err(Nobody::from),
    };
    let chosen = match (target, here) {
        (Target::Here, Some(here)) => only(here.clone()),
        (Target::Here, None) => from_nowhere(command, rows)?,
        (Target::All, _) => everybody(rows),
        (Target::Nodes(selector), _) => select(selector, here, rows)?,
        (Target::Holder(watcher), _) => holder(watcher, rows)?,
        (Target::Any(strategy, selector), _) => only(place(*strategy, selector, command, rows)?),
    };
    if matches!(command, Command::Rename { .. }) && chosen.ask.len() > 1 {
        let why = "several nodes cannot have one name: say which is meant with --node";
        return Err(Refusal::BadMessage(why.into()).into());
    }
    Ok(without_strangers(chosen, rows))
}

/// Whether the registry alone answers a command ([`from_registry`]), whoever reads it.
pub fn is_of_registry(command: &Command) -> bool {
    matches!(command, Command::Nodes | Command::NodeList | Command::Registered { .. })
}

/// What `rows`, the registry, tell of a command that [is of it](is_of_registry).
pub fn from_registry(command: &Command, rows: Vec<NodeRow>) -> Reply {
    match command {
        Command::NodeList => {
            let endpoint = |row: &NodeRow| (row.name.clone(), row.about.endpoint.clone());
            Reply::Done(Answer::NodeList(live(&rows).map(endpoint).collect()))
        }
        Command::Registered { node, endpoint } => {
            registered(node, endpoint.as_deref(), &rows).map_or_else(Reply::Refused, Reply::Done)
        }
        _ => Reply::Done(Answer::Nodes(rows)),
    }
}

/// Whether `node` is there, and at `endpoint` where that can be compared with what it says of itself: an address of
/// another kind says nothing.
fn registered(node: &NodeName, endpoint: Option<&str>, rows: &[NodeRow]) -> Result<Answer, Refusal> {
    let Some(row) = live(rows).find(|row| row.name == *node && row.state != NodeState::Stale) else {
        return Err(Refusal::NoSuchNode(format!(
            "{node} is not registered: start circus-agent there with `node = {node}` and the `[redis] url` of this \
             cluster, and it registers by itself"
        )));
    };
    let kind = |endpoint: &str| endpoint.split_once("://").map(|(kind, _)| kind.to_owned());
    let own = &row.about.endpoint;
    match endpoint {
        Some(endpoint) if endpoint != own && kind(endpoint) == kind(own) => Err(Refusal::NodeExists(node.clone())),
        _ => Ok(Answer::Registered { node: node.clone(), host: row.about.host.clone(), endpoint: own.clone() }),
    }
}

/// Over Redis there is no "here": reading asks everybody, and what acts on processes has to be told where.
fn from_nowhere(command: &Command, rows: &[NodeRow]) -> Result<Addressees, Nobody> {
    match command {
        Command::Failover { watcher, .. } | Command::Drill { watcher, .. } => Ok(holder(watcher, rows)?),
        // They all ask the same store; but who does not have it, knows no such name.
        Command::History { watcher: Some(watcher), .. }
        | Command::LeaseCheck { watcher, .. }
        | Command::Pause { watcher, .. }
        | Command::Resume { watcher } => {
            let has = |row: &&NodeRow| row.about.watchers.iter().any(|own| is_called(own, watcher));
            let having = live(rows).filter(has).min_by_key(|row| row.state != NodeState::Up);
            Ok(having.map_or_else(|| anybody(rows), |row| only(row.name.clone())))
        }
        Command::LeaseInit { .. } => Ok(anybody(rows)),
        command if command.acts() => Err(Nobody::NotTold),
        _ => Ok(everybody(rows)),
    }
}

/// Those that are named or fit. A name is told of in any case; a pattern, or labels alone, that fit nobody are an
/// error, because what was to be done is done nowhere.
fn select(selector: &Selector, here: Option<&NodeName>, rows: &[NodeRow]) -> Result<Addressees, Refusal> {
    let lacks = |row: &NodeRow| selector.labels.iter().find(|label| !label.is_among(&row.about.labels)).cloned();
    let mut chosen = Addressees::default();
    let any_name = [NodeWord::Pattern("*".into())];
    for word in if selector.nodes.is_empty() { &any_name } else { &selector.nodes[..] } {
        match word {
            NodeWord::Name(name) => match rows.iter().find(|row| row.name == *name) {
                None => chosen.absent.push((name.clone(), no_such_node(name, rows))),
                Some(row) if row.state == NodeState::Gone && here != Some(name) => {
                    chosen.absent.push((name.clone(), format!("gone, last heard of {} s ago", row.seen.as_secs())));
                }
                Some(row) => match lacks(row) {
                    Some(label) => chosen.absent.push((name.clone(), format!("it has no label {label}"))),
                    None => chosen.ask.push(name.clone()),
                },
            },
            NodeWord::Pattern(_) => {
                let fitting = live(rows).filter(|row| word.fits(&row.name) && lacks(row).is_none());
                let before = chosen.ask.len();
                chosen.ask.extend(fitting.map(|row| row.name.clone()));
                if chosen.ask.len() == before {
                    return Err(Refusal::NoSuchNode(no_fit(word, selector, rows)));
                }
            }
        }
    }
    Ok(tidy(chosen))
}

/// Leaves out of those to ask who would not understand.
fn without_strangers(mut chosen: Addressees, rows: &[NodeRow]) -> Addressees {
    let strangers = rows.iter().filter(|row| row.about.is_strange());
    let strangers: BTreeMap<&NodeName, u32> = strangers.map(|row| (&row.name, row.about.protocol)).collect();
    for node in std::mem::take(&mut chosen.ask) {
        match strangers.get(&node) {
            Some(theirs) => {
                let why = format!("it speaks protocol {theirs}, and this side {PROTOCOL}: upgrade the older one first");
                chosen.absent.push((node, why));
            }
            None => chosen.ask.push(node),
        }
    }
    tidy(chosen)
}

/// The node that holds the singleton of a watcher.
fn holder(watcher: &str, rows: &[NodeRow]) -> Result<Addressees, Refusal> {
    let holds = |row: &&NodeRow| row.about.holds.iter().any(|held| is_called(held, watcher));
    match live(rows).find(holds) {
        Some(row) => Ok(only(row.name.clone())),
        None => {
            let held = live(rows).flat_map(|row| &row.about.holds);
            let hint = nearest(watcher, held).map(|held| format!("; did you mean {held}?")).unwrap_or_default();
            Err(Refusal::NoCandidate(format!("no node is known to hold {watcher}{hint}")))
        }
    }
}

/// What can be done without the registry: who is named is told of, and this node knows itself.
fn blindly(target: &Target, here: Option<&NodeName>, why: &str) -> Result<Addressees, Refusal> {
    let unread = || Refusal::Unavailable(why.to_owned());
    match (target, here) {
        (Target::Here, Some(here)) => Ok(only(here.clone())),
        (Target::All, Some(here)) => Ok(Addressees { missing: Some(why.to_owned()), ..only(here.clone()) }),
        (Target::Nodes(selector), _) if selector.labels.is_empty() => {
            let mut chosen = Addressees::default();
            for word in &selector.nodes {
                match word {
                    NodeWord::Name(name) if here == Some(name) => chosen.ask.push(name.clone()),
                    NodeWord::Name(name) => chosen.absent.push((name.clone(), why.to_owned())),
                    NodeWord::Pattern(_) => return Err(unread()),
                }
            }
            Ok(tidy(chosen))
        }
        (Target::Here | Target::All | Target::Nodes(_) | Target::Holder(_) | Target::Any(..), _) => Err(unread()),
    }
}

fn live(rows: &[NodeRow]) -> impl Iterator<Item = &NodeRow> {
    rows.iter().filter(|row| row.state != NodeState::Gone)
}

fn only(node: NodeName) -> Addressees {
    Addressees { ask: vec![node], ..Addressees::default() }
}

fn everybody(rows: &[NodeRow]) -> Addressees {
    tidy(Addressees { ask: live(rows).map(|row| row.name.clone()).collect(), ..Addressees::default() })
}

/// One that is up, or else one that may be.
fn anybody(rows: &[NodeRow]) -> Addressees {
    let any = live(rows).min_by_key(|row| row.state != NodeState::Up);
    Addressees { ask: any.map(|row| row.name.clone()).into_iter().collect(), ..Addressees::default() }
}

/// Each once: named twice is still one node, with one answer.
fn tidy(mut chosen: Addressees) -> Addressees {
    chosen.ask.sort();
    chosen.ask.dedup();
    chosen.absent.sort();
    chosen.absent.dedup();
    chosen
}

fn no_such_node(name: &NodeName, rows: &[NodeRow]) -> String {
    if let Some(row) = live(rows).find(|row| row.about.formerly.contains(name)) {
        return format!("no such node: {name} is {} now", row.name);
    }
    match nearest(name.as_str(), rows.iter().map(|row| &row.name)) {
        Some(alike) => format!("no such node; did you mean {alike}?"),
        None => "no such node".into(),
    }
}

/// Why a pattern fits nobody, or labels do.
fn no_fit(word: &NodeWord, selector: &Selector, rows: &[NodeRow]) -> String {
    let labels = selector.labels.iter().map(Label::to_string).collect::<Vec<_>>().join(",");
    let meant = match (selector.nodes.is_empty(), labels.is_empty()) {
        (true, _) => format!("has {labels}"),
        (false, true) => format!("fits {word}"),
        (false, false) => format!("fits {word} and has {labels}"),
    };
    let lacks = |row: &NodeRow| selector.labels.iter().any(|label| !label.is_among(&row.about.labels));
    let gone = rows.iter().filter(|row| row.state == NodeState::Gone && word.fits(&row.name) && !lacks(row));
    let gone: Vec<&str> = gone.map(|row| row.name.as_str()).collect();
    let hint = match gone.is_empty() {
        false => format!(" but {}, which is gone", gone.join(", ")),
        true => selector.labels.iter().find_map(|label| like(label, rows)).unwrap_or_default(),
    };
    format!("no node {meant}{hint}")
}

/// A label that some node has and that a misspelt one may have meant.
fn like(label: &Label, rows: &[NodeRow]) -> Option<String> {
    if live(rows).any(|row| label.is_among(&row.about.labels)) {
        return None;
    }
    let pair = |(key, value): (&String, &String)| match label.value {
        Some(_) => format!("{key}={value}"),
        None => key.clone(),
    };
    let known: Vec<String> = live(rows).flat_map(|row| row.about.labels.iter().map(pair)).collect();
    nearest(&label.to_string(), &known).map(|alike| format!("; did you mean {alike}?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Leave, NodeAbout, Patience};
    use std::time::Duration;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn row(name: &str, state: NodeState, holds: &[&str], labels: &[(&str, &str)]) -> NodeRow {
        let about = NodeAbout {
            holds: holds.iter().map(ToString::to_string).collect(),
            watchers: holds.iter().map(ToString::to_string).collect(),
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ..NodeAbout::default()
        };
        NodeRow { name: node(name), state, seen: Duration::from_secs(9), about }
    }

    fn rows() -> Vec<NodeRow> {
        vec![
            row("db-1", NodeState::Stale, &["Beat"], &[("zone", "a")]),
            row("web-1", NodeState::Up, &[], &[("zone", "a"), ("role", "web")]),
            row("web-2", NodeState::Draining, &[], &[("zone", "b"), ("role", "web")]),
            row("web-9", NodeState::Gone, &[], &[("zone", "c")]),
        ]
    }

    fn nodes(words: &[&str], labels: &[&str]) -> Target {
        Target::Nodes(Selector {
            nodes: words.iter().map(|word| NodeWord::parse(word).unwrap()).collect(),
            labels: labels.iter().map(|label| Label::parse(label).unwrap()).collect(),
        })
    }

    /// Who is asked, or why nobody is; those who cannot be asked follow in brackets.
    fn told(target: &Target, command: &Command, here: Option<&str>) -> String {
        match choose(target, command, here.map(node).as_ref(), Ok(&rows())) {
            Ok(Addressees { ask, absent, missing: None }) => {
                let ask = ask.iter().map(ToString::to_string);
                let absent = absent.iter().map(|(node, why)| format!("({node}: {why})"));
                ask.chain(absent).collect::<Vec<_>>().join(" ")
            }
            Ok(Addressees { missing: Some(why), .. }) => panic!("{why}"),
            Err(Nobody::Refused(refusal)) => format!("refused: {refusal}"),
            Err(Nobody::NotTold) => "not told where".into(),
        }
    }

    #[test]
    fn names_patterns_and_labels_mean_who_fits() {
        let table = [
            (nodes(&["web-1"], &[]), "web-1"),
            (nodes(&["web-*"], &[]), "web-1 web-2"),
            (nodes(&["web-*", "db-1", "web-1"], &[]), "db-1 web-1 web-2"),
            (nodes(&["web-[!1]"], &[]), "web-2"),
            (nodes(&["*"], &["zone=a"]), "db-1 web-1"),
            (nodes(&[], &["zone=a"]), "db-1 web-1"),
            (nodes(&[], &["zone=a", "role"]), "web-1"),
            (nodes(&["web-1", "web-2"], &["zone=a"]), "web-1 (web-2: it has no label zone=a)"),
            (nodes(&["wbe-1", "web-1"], &[]), "web-1 (wbe-1: no such node; did you mean web-1?)"),
            (nodes(&["mail"], &[]), "(mail: no such node)"),
            (nodes(&["web-9"], &[]), "(web-9: gone, last heard of 9 s ago)"),
            (nodes(&["web-9*"], &[]), "refused: no node fits web-9* but web-9, which is gone"),
            (nodes(&["mail-*", "web-1"], &[]), "refused: no node fits mail-*"),
            (nodes(&["db-*"], &["role=web"]), "refused: no node fits db-* and has role=web"),
            (nodes(&[], &["zone=d"]), "refused: no node has zone=d; did you mean zone=a?"),
            (nodes(&[], &["zones"]), "refused: no node has zones; did you mean zone?"),
            (Target::All, "db-1 web-1 web-2"),
            (Target::Holder("beat".into()), "db-1"),
            (Target::Holder("bet".into()), "refused: no node is known to hold bet; did you mean Beat?"),
        ];
        for (target, expected) in table {
            for here in [Some("web-1"), None] {
                assert_eq!(told(&target, &Command::Version, here), expected, "{target:?} {here:?}");
            }
        }
        assert_eq!(told(&Target::Here, &Command::Version, Some("web-1")), "web-1");
    }

    #[test]
    fn who_asks_for_a_renamed_node_is_told_its_name_and_several_nodes_cannot_have_one() {
        let mut rows = rows();
        rows[1].about.formerly = vec![node("web-0"), node("mail")];
        let told = |name: &str| choose(&Target::node(node(name)), &Command::Version, None, Ok(&rows)).unwrap().absent;
        assert_eq!(told("mail"), [(node("mail"), "no such node: mail is web-1 now".into())]);
        // Another node may have the name by now.
        rows[2].about.formerly = vec![node("web-1")];
        let asked = choose(&Target::node(node("web-1")), &Command::Version, None, Ok(&rows)).unwrap();
        assert_eq!((asked.ask, asked.absent), (vec![node("web-1")], vec![]));

        let rename = Command::Rename { to: node("x") };
        let to = |target: &Target| choose(target, &rename, Some(&node("web-1")), Ok(&rows));
        for several in [Target::All, nodes(&["web-*"], &[])] {
            assert!(matches!(to(&several), Err(Nobody::Refused(Refusal::BadMessage(_)))), "{several:?}");
        }
        assert_eq!(to(&nodes(&["web-[1]"], &[])).unwrap().ask, [node("web-1")]);
        assert_eq!(choose(&Target::Here, &rename, None, Ok(&rows)), Err(Nobody::NotTold));
    }

    #[test]
    fn protocols_one_apart_work_and_two_apart_say_so() {
        let mut rows = rows();
        rows.iter_mut().zip([0, 1, 2, 3]).for_each(|(row, protocol)| row.about.protocol = protocol);
        rows[3].state = NodeState::Up;
        let Addressees { ask, absent, .. } = choose(&Target::All, &Command::Version, None, Ok(&rows)).unwrap();
        assert_eq!(ask, [node("db-1"), node("web-1"), node("web-2")]);
        let why = "it speaks protocol 3, and this side 1: upgrade the older one first";
        assert_eq!(absent, [(node("web-9"), why.into())]);
    }

    #[test]
    fn a_node_is_registered_by_itself_or_not_at_all() {
        let mut rows = rows();
        rows[1].about.endpoint = "unix:///run/web-1.sock".into();
        rows[1].about.host = "h".into();
        let told = |name: &str, endpoint: Option<&str>| {
            let command = Command::Registered { node: node(name), endpoint: endpoint.map(str::to_owned) };
            match from_registry(&command, rows.clone()) {
                Reply::Done(Answer::Registered { node, host, endpoint }) => format!("{node} on {host} at {endpoint}"),
                Reply::Done(other) => panic!("{other:?}"),
                Reply::Refused(refusal) => refusal.to_string(),
            }
        };
        for endpoint in [None, Some("unix:///run/web-1.sock"), Some("tcp://127.0.0.1:5555")] {
            assert_eq!(told("web-1", endpoint), "web-1 on h at unix:///run/web-1.sock", "{endpoint:?}");
        }
        assert_eq!(told("web-1", Some("unix:///run/x.sock")), "node name 'web-1' is already registered");
        assert_eq!(told("web-2", None), "web-2 on  at ", "one that is draining is there");
        for absent in ["db-1", "web-9", "mail"] {
            let why = format!("{absent} is not registered: start circus-agent there with `node = {absent}`");
            assert!(told(absent, None).starts_with(&why), "{absent}: stale, gone or never seen");
        }
    }

    #[test]
    fn the_list_of_nodes_is_of_those_that_are_not_gone() {
        let Reply::Done(Answer::NodeList(list)) = from_registry(&Command::NodeList, rows()) else { panic!("no list") };
        let names: Vec<&str> = list.iter().map(|(node, _)| node.as_str()).collect();
        assert_eq!(names, ["db-1", "web-1", "web-2"]);
    }

    #[test]
    fn over_redis_reading_asks_all_and_acting_must_be_told_where() {
        let patience = Patience::Admitted;
        let stop = || Command::Stop { pattern: None, patience };
        let failover = |watcher: &str| Command::Failover { watcher: watcher.into(), to: None, patience };
        let table = [
            (Command::Status { watcher: None }, "db-1 web-1 web-2"),
            (Command::ListSockets, "db-1 web-1 web-2"),
            (Command::Plan, "db-1 web-1 web-2"),
            (stop(), "not told where"),
            (Command::Remove { watcher: "web".into(), leave: Leave::Nothing, patience }, "not told where"),
            (Command::RemoveSocket { socket: "web".into(), patience }, "not told where"),
            (Command::Quit { patience }, "not told where"),
            (failover("beat"), "db-1"),
            (failover("x"), "refused: no node is known to hold x"),
            (Command::LeaseInit { watcher: "beat".into() }, "web-1"),
            (Command::History { watcher: Some("beat".into()), count: 1 }, "db-1"),
            (Command::LeaseCheck { watcher: "other".into(), token: 1 }, "web-1"),
            (Command::Pause { watcher: "beat".into(), reason: None, patience }, "db-1"),
            (Command::Resume { watcher: "beat".into() }, "db-1"),
        ];
        for (command, expected) in table {
            assert_eq!(told(&Target::Here, &command, None), expected, "{command:?}");
        }
        assert_eq!(told(&Target::All, &stop(), None), "db-1 web-1 web-2");
        assert_eq!(told(&Target::Here, &stop(), Some("web-1")), "web-1");
    }

    #[test]
    fn without_the_registry_names_are_told_of_and_a_node_knows_itself() {
        let here = node("web-1");
        let blind = |target: &Target| choose(target, &Command::Version, Some(&here), Err("no Redis"));
        let all = blind(&Target::All).unwrap();
        assert_eq!((&all.ask[..], all.missing.as_deref()), (&[here.clone()][..], Some("no Redis")));
        let named = blind(&nodes(&["web-1", "db-1"], &[])).unwrap();
        assert_eq!(
            (&named.ask[..], &named.absent[..]),
            (&[here.clone()][..], &[(node("db-1"), "no Redis".into())][..])
        );
        let unread = Err(Nobody::Refused(Refusal::Unavailable("no Redis".into())));
        for target in [nodes(&["web-*"], &[]), nodes(&["web-1"], &["zone"]), Target::Holder("beat".into())] {
            assert_eq!(blind(&target), unread, "{target:?}");
        }
    }
}
