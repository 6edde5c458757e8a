//! What Circus's own clients are told, over ZeroMQ and UDP.

mod discovery;
mod event;
mod python;
mod stats;

pub use discovery::{discovery_answer, is_discovery_answer};
pub use event::event;
pub use stats::{Message, cluster_stats_messages, is_sum, no_processes, stats_messages};
