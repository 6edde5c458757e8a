//! What Circus's own clients are told over ZeroMQ, and what a circusd is asked.

mod ask;
mod event;

pub use ask::{heard, request, understood};
pub use event::event;
