//! What Circus's own clients hear, byte for byte: the doors that they know speak as circusd 0.19 does. And the other way
//! round: how a circusd is asked, and what it means.
//!
//! Requests are read by [`parse_request`](super::parse_request), whichever door they come through. What goes out is
//! ours, said again in circusd's words. Invariants:
//!
//! - To a command of Circus the reply has Circus's fields and no other, in its order, with its types. Commands that it does not
//!   have are answered as they are everywhere.
//! - A state that Circus has no word for is the one of its four that its users would act on in the same way.
//! - Every text is what Python's `json.dumps` would have made of the same value.
//! - Where an answer means something else than circusd's all the same, `docs/circus-compatibility.md` has a row for it.

mod ask;
mod discovery;
mod event;
mod python;
mod reply;
mod stats;

pub use ask::{heard, request, understood};
pub use discovery::{discovery_answer, is_discovery_answer};
pub use event::event;
pub use reply::{PROCESS, reply_text};
pub use stats::{Message, cluster_stats_messages, is_sum, no_processes, stats_messages};
