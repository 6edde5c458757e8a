//! What Circus's own clients are told, over ZeroMQ.

mod event;

pub use event::event;
