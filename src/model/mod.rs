//! What is decided. Only `std`, no clock, no I/O; it cannot fail.
pub mod command;
pub mod event;
pub mod gather;
pub mod names;
pub mod snapshot;
pub mod spec;
pub mod time;
