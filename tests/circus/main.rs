//! Circus's own clients at an agent's doors, and Circus itself beside it: both have the same file and hear the same, and what
//! they say is compared field by field. What differs on purpose stands on a page, and nothing else may.

#[path = "../support/agent.rs"]
mod agent;

mod answers;
mod circusd;
mod clients;
mod events;
mod page;
