//! ZeroMQ: the doors that Circus's own clients come to, and how circusctl comes to a circusd.
//!
//! Circus's tools ask on a ROUTER socket, one frame of JSON each, and listen to PUB sockets for `[topic, JSON]`. This is
//! transport only: what is asked goes up as a [`Question`] and comes back by its `answer`, what is published is text; what
//! they mean is not known here.
//!
//! ```text
//!   zmtp         bytes ↔ messages, commands: pure
//!   listener     a place that is listened at, and who comes there
//!   connection   one peer: what it says, what it is told, and what both may cost
//!   router       answers who ask          publisher   tells who have subscribed
//!   client       asks a ROUTER, listens to a PUB
//! ```
//!
//! Invariants:
//!
//! - There is no authentication: who can connect can command. Who that is the configuration says, and nobody but this
//!   machine unless it says so.
//! - Everything is bounded: connections, the time of a handshake, a message, requests in hand, what waits for a peer to
//!   read, and all of that together. Who exceeds it pays alone.
//! - A peer that breaks the protocol is closed, and nobody else hears of it; a log has at most a line a second about such.
//! - Whoever publishes never waits. A subscriber that reads too slowly loses messages; one that does not read is closed.
//! - A peer's identity routes nothing: answers go back the way that the question came, so that two clients with one
//!   identity are both served.
//!
//! The protocol is our own, and small, because no crate does this in a process that must not fall: `zeromq` 0.7 aborts the
//! process for a frame header that announces a tebibyte, and one client that does not read stops its ROUTER for good;
//! `zmq` wraps a C++ library, and spins a core where descriptors give out; the queues of both are bounded in messages,
//! not in bytes. `rzmq` 0.5 bounds the same way, and is MPL-2.0.

mod connection;
mod listener;
pub mod zmtp;

mod client;
mod publisher;
mod router;

pub use client::{Broken, Dealer, Subscriber};
pub use connection::End;
pub use listener::{BindError, Listener};
pub use publisher::Publisher;
pub use router::{Question, serve};

/// How many connections a door has at once; who comes then waits until there is a place.
pub const MAX_CONNECTIONS: usize = 2000;
/// How many requests of one connection may be in hand; the next ones wait in the socket.
pub const MAX_PENDING: usize = 64;
/// How many messages wait for one subscriber, and how many bytes.
pub const MAX_QUEUE: usize = 10_000;
/// See [`MAX_QUEUE`].
pub const MAX_QUEUED: usize = 4 << 20;
/// What one subscriber may subscribe to, in bytes of topics.
pub const MAX_TOPICS: usize = 64 << 10;
/// What all peers of a door may have us keep, in bytes, beyond a little for each.
pub const MAX_KEPT: usize = 32 << 20;
