//! What is decided. Only `std`, and `regex` for patterns: no clock, no I/O, nothing that can fail.
//!
//! Invariants:
//!
//! - [`node::Node::step`] is total: any event in any state, however late or doubled, is handled or changes nothing.
//! - Time only grows. After a step, `next_wakeup` lies ahead or there is none.
//! - A singleton's child is started only under a lease that is valid *now*, is asked to stop a grace before its end,
//!   and is killed, tree and all, at its end. Validity counts from when the lease was *asked for*, less a margin.
//! - A lease is released only after the last of its child's tree is gone.
//! - Each `Spawn` has exactly one end, each `Asked` exactly one `Reply`.
//! - Nothing here can be serialised: what others are promised is the business of [`crate::wire`].

pub mod names;
pub mod pattern;
pub mod time;

pub mod spec;

pub mod pause;

pub mod command;
pub mod event;
pub mod plan;
pub mod snapshot;
pub mod stats;

pub mod explain;

pub mod random;
pub mod restart;

pub mod history;
pub mod runs;

pub mod drill;

mod ticks;

pub mod attendance;
pub mod election;

pub mod checkup;
pub mod process;

pub mod lease;
pub mod sockets;
pub mod store;
pub mod vote;

pub mod watcher;

pub mod gather;
pub mod node;
pub mod placement;
pub mod rollout;
pub mod roster;
