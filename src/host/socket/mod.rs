//! The sockets that the agent opens and processes share.

use std::os::fd::OwnedFd;

use crate::model::event::{Bound, Handed, LaneId, SocketId, SpawnFailure};
use crate::model::spec::SocketSpec;

/// All that are open.
#[derive(Debug, Default)]
pub(super) struct Sockets {}

impl Sockets {
    /// Opens these, or none of them: then all that went wrong, a line each. Blocks.
    pub(super) fn bind(&self, _sockets: &[(SocketId, SocketSpec)]) -> Result<Vec<(SocketId, Bound)>, String> {
        Ok(Vec::new())
    }

    /// Closes these.
    pub(super) fn unbind(&self, _sockets: &[SocketId]) {}

    /// Closes the listeners of lanes.
    pub(super) fn close_lanes(&self, _lanes: &[LaneId]) {}

    /// Descriptors of these for a process, in their order. Opens the listeners of a lane that has none yet.
    #[allow(dead_code)]
    pub(super) fn hand(&self, _handed: &[Handed]) -> Result<Vec<OwnedFd>, SpawnFailure> {
        Ok(Vec::new())
    }
}
