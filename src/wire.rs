//! JSON promised to others ↔ model types. Pure: text in, values out, and no text makes it panic.
//!
//! The messages are Circus's, with its names, texts and error numbers, so that its clients are understood; what is
//! ours comes as further commands, properties and fields. Invariants:
//!
//! - A text is a request, or a [`BadRequest`] that still has the `id` wherever one could be read.
//! - What [`command_json`] writes, [`parse_request`] reads back as the same command.
//! - A field once promised keeps its name, type and unit: times are seconds, sizes bytes, unless Circus has a text.
//! - Absent on purpose: values of environment variables, which are secrets more often than not.
//!
//! # Requests
//!
//! ```json
//! {"command": "stop", "properties": {"name": "web*", "waiting": true, "node": "web-1,web-2"}, "id": "any JSON"}
//! ```
//!
//! `id` comes back as it was. `"msg_type": "cast"` asks for no answer at all. Any command takes `node` (a text with
//! commas, or a list) or `all: true`; without them it is for the node that was asked. See [`parse_request`].
//!
//! # Replies
//!
//! `{"status": "ok", "time": unix seconds, …, "id": …}`, or `{"status": "error", "reason": text, "code": word, "errno":
//! number, "tb": null, "time": …, "id": …}`. See [`reply_json`] for what each command adds.
//!
//! # Events
//!
//! Whoever follows an agent ([`parse_follow`]) gets one object for each piece of news ([`notice_json`]), each line of
//! output ([`log_line_json`]), or each second of what is used ([`node_stats_json`]).

pub mod circus;

mod about;
mod cluster;
mod command;
mod drill;
mod event;
mod follow;
mod frame;
mod history;
mod legions;
mod lordship;
mod options;
mod parts;
mod reply;
mod request;
mod rollout;
mod settings;
mod stats;

pub use about::{about_json, parse_about};
pub use cluster::{Form, reply_in};
pub use command::{address, command_json, command_name, relayed_json};
pub use drill::{runs, verdict_json};
pub use event::{log_line_json, notice_json};
pub use follow::{Follow, Nodes, Subject, follow_json, parse_follow};
pub use frame::{MAX_FRAME, node_stats, node_stats_json, parse_history, parse_node_stats, stats_history, untold_json};
pub use lordship::lordship_text;
pub use parts::{only_part, parts, said, why};
pub use reply::{error_code, reply_json};
pub use request::{BadRequest, Request, parse_request};
pub use rollout::{rollout_json, sight};
pub use stats::process as info_json;
