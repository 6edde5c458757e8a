//! Names that cannot be wrong: parsed once, at the edge, and trusted ever after.

use std::collections::BTreeMap;
use std::fmt;

use super::pattern;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadName(pub String);

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadName {}

/// Letters, digits, `.`, `_` and `-`, at most 64 of them: what stands in keys and channels unquoted.
fn plain(what: &str, text: &str) -> Result<String, BadName> {
    match text {
        "" => Err(BadName(format!("{what} cannot be empty"))),
        _ if text.len() > 64 => Err(BadName(format!("{what} has at most 64 characters, this has {}", text.len()))),
        _ => match text.chars().find(|&c| !is_plain(c)) {
            Some(c) => Err(BadName(format!("{what} holds letters, digits, '.', '_' and '-' only, not {c:?}"))),
            None => Ok(text.to_owned()),
        },
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name, if `text` is one.
            pub fn parse(text: &str) -> Result<$name, BadName> {
                $parse(text).map($name)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// One machine's agent in its cluster.
    NodeName, |text| plain("a node name", text)
);
name!(
    /// The agents that share a Redis and this name are one cluster.
    ClusterName, |text| plain("a cluster name", text)
);
name!(
    /// What stands after `watcher:` in a section's head. Case is kept; look-ups ignore it, as Circus's do.
    WatcherName, |text: &str| match text {
        "" => Err(BadName("a watcher name cannot be empty".into())),
        _ if text.chars().any(char::is_control) =>
            Err(BadName("a watcher name holds no control characters".into())),
        _ => Ok(text.to_owned()),
    }
);

name!(
    /// What stands after `socket:` in a section's head: lower case, as in Circus.
    SocketName, |text: &str| plain("a socket name", &text.to_lowercase())
);

impl WatcherName {
    /// Whether a user who wrote `text` means this watcher.
    pub fn matches(&self, text: &str) -> bool {
        is_called(&self.0, text)
    }
}

/// Whether a user who wrote `text` means the watcher `name`: watchers are called the same in any case.
pub fn is_called(name: &str, text: &str) -> bool {
    name.to_lowercase() == text.to_lowercase()
}

/// What a node is called besides its name, such as where it stands: key and value.
pub type Labels = BTreeMap<String, String>;

/// A label as it is written: `zone=a`; or `zone` alone, which is asked for with any value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// What it tells of.
    pub key: String,
    /// What it says of that.
    pub value: Option<String>,
}

impl Label {
    /// The label, if `text` is one.
    pub fn parse(text: &str) -> Result<Label, BadName> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.trim(), Some(plain("a label's value", value.trim())?)),
            None => (text.trim(), None),
        };
        Ok(Label { key: plain("a label's key", key)?, value })
    }

    /// Whether `labels` have it.
    pub fn is_among(&self, labels: &Labels) -> bool {
        labels.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// One word of those that say which nodes are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeWord {
    /// The one of this name.
    Name(NodeName),
    /// Those whose name fits a shell pattern ([`pattern::fits`]).
    Pattern(String),
}

impl NodeWord {
    /// A node's name, or a pattern for some, if `text` is one.
    pub fn parse(text: &str) -> Result<NodeWord, BadName> {
        if !text.contains(['*', '?', '[']) {
            return NodeName::parse(text).map(NodeWord::Name);
        }
        match text.chars().find(|&c| !is_plain(c) && !"*?[]!".contains(c)) {
            Some(c) => Err(BadName(format!("a pattern for nodes cannot hold {c:?}: no node's name does"))),
            None => Ok(NodeWord::Pattern(text.to_owned())),
        }
    }

    /// Whether this node is meant.
    pub fn fits(&self, node: &NodeName) -> bool {
        match self {
            NodeWord::Name(name) => name == node,
            NodeWord::Pattern(pattern) => pattern::fits(pattern, node.as_str()),
        }
    }
}

impl fmt::Display for NodeWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeWord::Name(name) => name.fmt(f),
            NodeWord::Pattern(pattern) => f.write_str(pattern),
        }
    }
}

name!(
    /// The Redis key of a lease that others take, too, who are no agents: it is what they agree on, whatever it holds.
    LeaseKey, |text: &str| match text {
        "" => Err(BadName("a lease's key cannot be empty".into())),
        _ => Ok(text.to_owned()),
    }
);

impl LeaseKey {
    /// What Redis Cluster tells the slot by, where other keys can share it: what the first braces hold, or all of it.
    pub fn tag(&self) -> Option<&str> {
        let braced = self.0.split_once('{').and_then(|(_, from)| Some(from.split_once('}')?.0));
        match braced.filter(|tag| !tag.is_empty()) {
            Some(tag) => Some(tag),
            // Put between braces, it would end at its own.
            None => Some(self.as_str()).filter(|all| !all.contains('}')),
        }
    }

    /// What stands before what is remembered of it, in the same slot.
    fn prefix(&self) -> String {
        match self.tag() {
            Some(tag) if tag != self.0 => format!("circus:lock:{self}:"),
            _ => format!("circus:lock:{{{self}}}:"),
        }
    }
}

/// A promise of the whole cluster, named after the watcher it guards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName {
    /// Whose agents it binds.
    pub cluster: ClusterName,
    /// What it keeps alone.
    pub watcher: WatcherName,
    /// The key that names the holder, where it is not the lease's own. Whatever the lease is called, it is the same one.
    pub key: Option<LeaseKey>,
}

impl LeaseName {
    /// The Redis key that names the holder: `circus:{CLUSTER/NAME}:lease`, or the one that others take, too.
    pub fn lease_key(&self) -> String {
        self.key.as_ref().map_or_else(|| self.beside("lease"), ToString::to_string)
    }

    /// The Redis hash that remembers the lease beyond its end: `circus:{CLUSTER/NAME}:meta`.
    pub fn meta_key(&self) -> String {
        self.beside("meta")
    }

    /// The Redis stream of what has been with the lease: `circus:{CLUSTER/NAME}:history`.
    pub fn history_key(&self) -> String {
        self.beside("history")
    }

    /// The channel on which a release announces itself: `circus:{CLUSTER/NAME}:free`.
    pub fn free_channel(&self) -> String {
        self.beside("free")
    }

    /// The Redis hash of those that contend for the lease: `circus:{CLUSTER/NAME}:members`.
    pub fn members_key(&self) -> String {
        self.beside("members")
    }

    /// The Redis hash of the slots that were claimed under the lease: `circus:{CLUSTER/NAME}:slots`.
    pub fn slots_key(&self) -> String {
        self.beside("slots")
    }

    /// The Redis stream of what became of the slots of a watcher under the lease: `circus:{CLUSTER/NAME}:runs:WATCHER`.
    pub fn runs_key(&self, watcher: &WatcherName) -> String {
        format!("circus:{{{self}}}:runs:{watcher}")
    }

    /// The channel on which it is told that one of them came, left or changed: `circus:{CLUSTER/NAME}:changed`.
    pub fn changed_channel(&self) -> String {
        self.beside("changed")
    }

    /// What belongs to the lease, in the slot of its key. With a key that others take it is named after that key alone.
    fn beside(&self, what: &str) -> String {
        match &self.key {
            Some(key) => key.prefix() + what,
            None => format!("circus:{{{self}}}:{what}"),
        }
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.watcher)
    }
}

/// Who holds a lease: the node, and 128 bits drawn anew at each taking.
///
/// Never host and pid: in containers those are the same on every node, and a stale holder would then
/// refresh the new holder's lease. The bits alone are who it is: a node that is renamed goes on as the same owner.
#[derive(Debug, Clone)]
pub struct Owner {
    /// What the holder's node is called.
    pub node: NodeName,
    /// What tells this taking from every other.
    pub nonce: u128,
}

impl PartialEq for Owner {
    fn eq(&self, other: &Owner) -> bool {
        self.nonce == other.nonce
    }
}

impl Eq for Owner {}

impl Owner {
    /// The owner that a lease key's value names, or nothing when no agent wrote that value.
    pub fn parse(text: &str) -> Option<Owner> {
        let (node, nonce) = text.rsplit_once(':')?;
        let nonce = (nonce.len() == 32).then(|| u128::from_str_radix(nonce, 16).ok()).flatten()?;
        Some(Owner { node: NodeName::parse(node).ok()?, nonce })
    }

    /// The node in a lease's value, or the whole value where no agent wrote it.
    pub fn node_in(text: &str) -> String {
        Owner::parse(text).map_or_else(|| text.to_owned(), |owner| owner.node.to_string())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}", self.node, self.nonce)
    }
}

/// Of these names the one that a misspelt `text` probably meant.
pub fn nearest<'a, N: AsRef<str> + Ord>(text: &str, names: impl IntoIterator<Item = &'a N>) -> Option<&'a N> {
    let steps = |name: &N| distance(&name.as_ref().to_lowercase(), &text.to_lowercase());
    let near = names.into_iter().map(|name| (steps(name), name)).min();
    // A name of which nothing is as it was written is no misspelling.
    near.filter(|(steps, _)| *steps <= 2.max(text.len() / 4) && *steps < text.chars().count()).map(|(_, name)| name)
}

/// How many characters to change, add, drop, or swap with their neighbour. The model has only std, so it is spelled out
/// here.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Of the characters of `a` up to the one before the last, the last, and this one.
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let change = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        (before, last) = (last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_that_would_break_a_key_is_refused_with_the_character() {
        let refused = NodeName::parse("web 1").unwrap_err();
        assert!(refused.0.contains("' '"), "{refused}");
        assert!(NodeName::parse("").is_err());
        assert!(NodeName::parse(&"x".repeat(65)).is_err());
        assert_eq!(NodeName::parse("web-1.example_a").unwrap().as_str(), "web-1.example_a");
    }

    #[test]
    fn a_misspelt_name_is_nearest_to_the_one_that_was_meant() {
        let names = ["db-1", "web-1", "worker"];
        for (text, meant) in [("wbe-1", Some("web-1")), ("Web1", Some("web-1")), ("wrkr", Some("worker")), ("x", None)]
        {
            assert_eq!(nearest(text, &names).copied(), meant, "{text}");
        }
        for (a, b, steps) in [("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3), ("ca", "abc", 3)] {
            assert_eq!((distance(a, b), distance(b, a)), (steps, steps), "{a} {b}");
        }
    }

    #[test]
    fn a_label_is_asked_for_with_its_value_or_with_any() {
        let labels = Labels::from([("zone".into(), "a".into())]);
        for (text, among) in [("zone=a", true), ("zone", true), (" zone = a ", true), ("zone=b", false), ("a", false)] {
            assert_eq!(Label::parse(text).unwrap().is_among(&labels), among, "{text}");
        }
        for bad in ["", "=a", "zone=", "zo ne", "zone=a=b", "zone=a,b"] {
            assert!(Label::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_word_for_nodes_is_a_name_or_a_pattern_of_what_names_hold() {
        let node = NodeName::parse("web-1").unwrap();
        for (text, fits) in [("web-1", true), ("web-*", true), ("web-[!2]", true), ("Web-1", false), ("db*", false)] {
            assert_eq!(NodeWord::parse(text).unwrap().fits(&node), fits, "{text}");
        }
        for bad in ["", "web 1", "web/*", "web-]"] {
            assert!(NodeWord::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_owner_reads_back_and_foreign_values_are_nobody() {
        let owner = Owner { node: NodeName::parse("web-1").unwrap(), nonce: 7 };
        let read = Owner::parse(&owner.to_string());
        assert_eq!(read.as_ref().map(|read| read.node.as_str()), Some("web-1"));
        assert_eq!(read, Some(owner));
        assert_eq!(Owner::parse("localhost-1"), None);
        assert_eq!(Owner::parse("web-1:7"), None);
    }

    #[test]
    fn an_owner_whose_node_is_renamed_is_the_same_one() {
        let owner = |node, nonce| Owner { node: NodeName::parse(node).unwrap(), nonce };
        assert_eq!(owner("web-1", 7), owner("web-9", 7));
        assert_ne!(owner("web-1", 7), owner("web-1", 8));
    }

    #[test]
    fn all_keys_of_a_lease_share_one_slot() {
        let cluster = ClusterName::parse("prod").unwrap();
        let mut name = LeaseName { cluster, watcher: WatcherName::parse("beat").unwrap(), key: None };
        assert_eq!(name.lease_key(), "circus:{prod/beat}:lease");
        assert_eq!(name.meta_key(), "circus:{prod/beat}:meta");
        assert_eq!(name.history_key(), "circus:{prod/beat}:history");
        assert_eq!(name.members_key(), "circus:{prod/beat}:members");
        assert_eq!(name.slots_key(), "circus:{prod/beat}:slots");
        name.key = LeaseKey::parse("beatcop:{prod}:beat").ok();
        assert_eq!(name.lease_key(), "beatcop:{prod}:beat");
        assert_eq!(name.meta_key(), "circus:lock:beatcop:{prod}:beat:meta");
        name.key = LeaseKey::parse("beatcop:celery beat").ok();
        assert_eq!(name.meta_key(), "circus:lock:{beatcop:celery beat}:meta");
        assert_eq!(name.free_channel(), "circus:lock:{beatcop:celery beat}:free");
    }

    #[test]
    fn the_tag_of_a_key_is_what_redis_cluster_takes_it_for() {
        let tag = |key: &str| LeaseKey::parse(key).unwrap().tag().map(ToOwned::to_owned);
        for (key, expected) in [("a", Some("a")), ("a{b}c{d}", Some("b")), ("{{a}", Some("{a")), ("a{b", Some("a{b"))] {
            assert_eq!(tag(key).as_deref(), expected, "{key}");
        }
        for key in ["a}b", "{}a", "}a{"] {
            assert_eq!(tag(key), None, "{key}");
        }
    }
}
