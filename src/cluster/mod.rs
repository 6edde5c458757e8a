//! How leases, the registry and the bus are done: over Redis, or on one machine alone.
//!
//! [`Redis`] is an agent's door to the shared world; [`client::BusClient`] is circusctl's. Neither decides anything:
//! they put questions, and every failure comes back as an event or a reason in words.
//!
//! ```text
//! shared        what the agent calls, and the tasks behind it
//!   scripts     Lua and what its answers mean      keys    every key and channel
//!   access      where Redis is, and how an agent is let in
//!   sentinel    where the master is, where sentinels know
//!   link        one connection for commands, remade when in doubt
//!   subscription  one connection for what is heard
//!   registry    heartbeats and the list of nodes    bus    questions and answers between nodes
//!   events      what happens, for whoever listens    history   what has been with leases
//!   reason      errors in words
//! client        the same registry and bus for one command of circusctl
//!
//! local         the same leases on one machine, by file locks
//! identity      who an agent is over its restarts
//! ```

pub mod scripts;

pub mod keys;

pub mod shared;

pub mod events;

mod access;
mod bus;
mod history;
mod link;
mod reason;
mod registry;
mod sentinel;
mod subscription;

pub mod client;

pub mod identity;
pub mod local;

pub use shared::{BusQuestion, Me, Redis, Standing};
