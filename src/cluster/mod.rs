//! How leases, the registry and the bus are done: over Redis, or on one machine alone.

pub mod local;
pub mod scripts;
