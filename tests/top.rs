//! circus-top: its screen as pictures, its keys, and the real program on a real terminal.

#[path = "support/frames.rs"]
mod frames;

#[path = "top/keys.rs"]
mod keys;
#[path = "top/pictures.rs"]
mod pictures;
