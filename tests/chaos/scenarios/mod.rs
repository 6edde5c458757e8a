//! The faults, each a function: what is done, and what must hold then.

pub mod agents;
pub mod children;
pub mod clock;
pub mod failover;
pub mod majority;
pub mod network;
pub mod random;
pub mod redis;
