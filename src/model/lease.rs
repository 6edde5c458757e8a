//! One cluster-wide promise (being built).
use std::time::Duration;

/// How long a released lease is kept for the node it was moved to.
pub const RESERVATION: Duration = Duration::from_secs(2);
