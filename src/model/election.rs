//! Who of several nodes is to hold a lease: the first of those that live, if enough of them do.
//!
//! Members tell the store every [`LeaseTimings::refresh_interval`](super::spec::LeaseTimings) that they live, and hear
//! who else does. The store keeps time; what it says decides who *asks* for the lease, and nothing else: who *has* it is
//! decided by the lease alone, so that a wrong view of the members costs time and never makes two.

use std::time::Duration;

use super::names::NodeName;

/// What a node tells the others of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its valor, see [`ElectionSpec::valor`](super::spec::ElectionSpec).
    pub valor: u32,
    /// Whether it would hold the lease: not an arbiter, not standing back, not drained.
    pub stands: bool,
    /// Its scroll.
    pub scroll: String,
    /// It counts as dead when it has said nothing for so long.
    pub ttl: Duration,
}

/// A member that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub node: NodeName,
    /// What it said of itself.
    pub membership: Membership,
    /// How long it lives on without another word.
    pub left: Duration,
}

/// Who is there, as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Muster {
    /// Who has the lease, as it stands there ([`Owner`](super::names::Owner)); nothing: nobody.
    pub holder: Option<String>,
    /// Those that live, by name; the one that asks among them.
    pub members: Vec<Member>,
}
