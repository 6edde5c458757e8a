//! A stream class written in Python, called in a helper process.
//!
//! In a sink's buffer each chunk stands as a frame whose first four bytes are the pid, in this machine's order.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::timeout;

use super::datagram::unframe;
use super::passage::Stream;
use super::place::Failure;
use super::sink::PARTING;
use crate::host::job::Jobs;
use crate::host::python::{StreamHelper, stream_helper};
use crate::model::names::WatcherName;
use crate::model::spec::ProgramSpec;

/// One object of a stream class, made when it is first called, and made anew when its helper has ended.
#[derive(Debug)]
pub(super) struct PythonStream {
    pub(super) jobs: Jobs,
    pub(super) interpreter: Option<PathBuf>,
    pub(super) watcher: WatcherName,
    pub(super) stream: Stream,
    /// Whose environment and directory the helper has.
    pub(super) around: Arc<ProgramSpec>,
    pub(super) class: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) helper: Option<StreamHelper>,
}

impl PythonStream {
    /// Passes on the chunks in `bytes`, and moves it past those that the helper has got. Waits while the class is busy
    /// with those before.
    pub(super) async fn write(&mut self, bytes: &mut &[u8]) -> Result<(), Failure> {
        while let Some((frame, rest)) = unframe(bytes) {
            let Some((pid, chunk)) = frame.split_first_chunk() else { break };
            let helper = match &mut self.helper {
                Some(helper) => helper,
                None => {
                    let PythonStream { jobs, interpreter, watcher, around, class, options, .. } = &*self;
                    let started = stream_helper(jobs, interpreter.as_deref(), watcher, around, class, options).await;
                    let failed = |why: String| Failure { step: "start".into(), error: io::Error::other(why) };
                    self.helper.insert(started.map_err(failed)?)
                }
            };
            if let Err(error) = helper.write(u32::from_ne_bytes(*pid), self.stream.name(), chunk).await {
                self.helper = None;
                return Err(Failure { step: format!("call {}", self.class), error });
            }
            *bytes = rest;
        }
        Ok(())
    }

    /// Waits for the class to take in what it got, and to be closed: not for long, but it may take longer.
    pub(super) async fn close(self) {
        if let Some(helper) = self.helper {
            let _ = timeout(PARTING, helper.finish()).await;
        }
    }
}
