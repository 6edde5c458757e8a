//! circus-top: its screen as pictures, its keys, and the real program on a real terminal.

#![allow(clippy::print_stdout)] // What was measured is told.

#[path = "support/agent.rs"]
mod agent;
#[path = "support/frames.rs"]
mod frames;
#[path = "support/pty.rs"]
mod pty;
#[path = "support/redis.rs"]
mod redis_server;

#[path = "top/keys.rs"]
mod keys;
#[path = "top/pictures.rs"]
mod pictures;
#[path = "top/terminal.rs"]
mod terminal;
