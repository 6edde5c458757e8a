//! What is decided. Only `std`, no clock, no I/O; it cannot fail.
pub mod command;
pub mod event;
pub mod names;
pub mod snapshot;

pub mod lease;
pub mod spec;
pub mod time;
