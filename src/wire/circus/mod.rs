//! What Circus's own clients are told, over ZeroMQ and UDP, and what a circusd is asked.

mod ask;
mod discovery;
mod event;
mod python;
mod stats;

pub use ask::{heard, request, understood};
pub use discovery::{discovery_answer, is_discovery_answer};
pub use event::event;
pub use stats::{Message, cluster_stats_messages, is_sum, no_processes, stats_messages};
