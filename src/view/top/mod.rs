//! The screen of circus-top. Pure: frames of nodes, events and keys in, a picture out; time is an argument.
//!
//! ```text
//!   frames, events, the registry → known ─┐
//!                                         ├→ tree ──→ draw, panels → pen → a buffer of cells, or lines of text
//!   keys ────────────────→ screen, over ──┘
//!                            └─────→ act → wishes: what is to be done about a key
//! ```
//!
//! Invariants: what is old is never shown as live; only rows that show are drawn; what others wrote moves no cursor;
//! nothing is done that was not confirmed.

mod act;
mod curve;
mod draw;
mod filter;
mod holders;
mod known;
mod over;
mod panels;
mod pen;
mod screen;
mod tree;

pub use draw::{draw, lines};
pub use known::Listed;
pub use screen::{Key, Link, Names, Now, Screen, Settings, Wish};
