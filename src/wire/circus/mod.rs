//! What Circus's own programs put on their sockets, for clients that were written for those.

pub(super) mod discovery;
mod python;
pub(super) mod stats;
