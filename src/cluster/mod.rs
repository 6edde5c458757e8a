//! How leases, the registry and the bus are done: over Redis, or on one machine alone.
//!
//! [`Redis`] is an agent's door to the shared world; [`client::BusClient`] is circusctl's. Neither decides anything:
//! they put questions, and every failure comes back as an event or a reason in words.
//!
//! ```text
//! shared        what the agent calls, and the tasks behind it
//!   scripts     Lua and what its answers mean      keys    every key and channel
//!   access      where Redis is, and how an agent is let in
//!   sentinel    where the master is, where sentinels know    cut    when nobody is to be reached, on purpose
//!   servers     one server or cluster, or several servers of which most decide
//!   muster      who contends for a lease
//!   claim       who runs a slot of a schedule
//!   pause       leases that nobody is to take
//!   desk        one server's questions about leases, put to it together
//!   survey      who is in a Redis Cluster          slots   and has which keys
//!   link        all commands: to one server, or to that of a cluster which has the key
//!     line      one connection to one server, remade when in doubt
//!     nodes     a line to each master of a cluster
//!     acks      calls that count only when replicas have what they wrote
//!     facts     what a server says of itself
//!   subscription  one connection for what is heard
//!   word        when a word about a lease is one that all servers have spread
//!   registry    heartbeats and the list of nodes    bus    questions and answers between nodes
//!     fresh     which questions are new               seal   what keeps strangers out of all messages
//!   events      what happens, for whoever listens    history   what has been with leases
//!   tell        what is used and printed, for whoever watches
//!   reason      errors in words
//! watch         whoever watches all nodes, and what a node hears of them
//! client        the same registry and bus for one command of circusctl; the same history for a drill's witness
//!
//! local         the same leases on one machine, by file locks
//! identity      who an agent is over its restarts
//! ```

pub mod scripts;

pub mod keys;

pub mod claim;
pub mod muster;
pub mod pause;

pub mod shared;

pub mod watch;

mod events;

mod access;
mod acks;
mod bus;
mod cut;
mod desk;
mod facts;
mod fresh;
mod history;
mod line;
mod link;
mod nodes;
mod reason;
mod registry;
mod seal;
mod sentinel;
mod servers;
mod slots;
mod subscription;
mod survey;
mod tell;
mod word;

pub mod client;

pub mod identity;
pub mod local;

pub use shared::{BusQuestion, Me, Redis, Standing};
