//! The faults, each a function: what is done, and what must hold then.

pub mod agents;
pub mod children;
pub mod network;
pub mod redis;
