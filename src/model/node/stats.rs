//! What processes use, with what hooks add to it.

use super::Node;
use super::waits::{Goal, Wait};
use super::watchers::Key;
use crate::model::command::{Refusal, RequestId, Sample};
use crate::model::event::{Action, HookEnd, HookId};
use crate::model::names::WatcherName;
use crate::model::spec::HookPoint;

/// A hook that adds to one sample of a request.
#[derive(Debug)]
pub(super) struct StatsCall {
    request: RequestId,
    watcher: Key,
    sample: usize,
}

impl Node {
    /// The processes that are meant: watcher, slot and pid of each.
    pub(super) fn processes_of(
        &self,
        watcher: Option<&str>,
        pid: Option<u32>,
    ) -> Result<Vec<(WatcherName, u32, u32)>, Refusal> {
        let found = match watcher {
            Some(text) => vec![self.find(text)?],
            None => self.watchers.keys(),
        };
        let of = |key: &Key| {
            let watcher = &self.watchers[*key];
            watcher.pids().into_iter().map(|(wid, pid)| (watcher.spec().name.clone(), wid, pid)).collect::<Vec<_>>()
        };
        let mut processes: Vec<_> = found.iter().flat_map(of).collect();
        if let (Some(pid), Some(key)) = (pid, found.first()) {
            processes.retain(|(_, _, other)| *other == pid);
            if processes.is_empty() {
                let watcher = self.watchers[*key].spec().name.clone();
                return Err(Refusal::NoSuchProcess { watcher, pid });
            }
        }
        Ok(processes)
    }

    // ---- statistics ----

    /// Processes were sampled for a request.
    pub(super) fn sampled(&mut self, request: RequestId, samples: Vec<Sample>, actions: &mut Vec<Action>) {
        let sampling = |wait: &Wait| wait.request == request && matches!(wait.goal, Goal::Sampled { .. });
        let Some(index) = self.waits.iter().position(sampling) else { return };
        let Goal::Sampled { watcher, pid, extended } = self.waits.remove(index).goal else { return };
        let calls =
            watcher.filter(|_| extended).map_or(0, |key| self.call_stats_hooks(request, key, &samples, actions));
        self.waits.push(Wait { request, goal: Goal::Extended { watcher, pid, samples, calls } });
    }

    /// Has a watcher's hook add to the statistics of each process: how many calls that takes.
    fn call_stats_hooks(
        &mut self,
        request: RequestId,
        watcher: Key,
        samples: &[Sample],
        actions: &mut Vec<Action>,
    ) -> usize {
        let Some(found) = self.watchers.get(watcher) else { return 0 };
        let calls = samples.iter().enumerate().filter(|(_, sample)| sample.usage.is_some());
        let calls: Vec<_> =
            calls.filter_map(|(index, sample)| Some((index, found.stats_call(self.now, sample)?))).collect();
        let count = calls.len();
        for (sample, (call, timeout)) in calls {
            self.last_id += 1;
            let hook = HookId(self.last_id);
            self.stats_calls.insert(hook, StatsCall { request, watcher, sample });
            actions.push(Action::Hook { hook, call: Box::new(call), timeout });
        }
        count
    }

    /// A hook that adds to statistics came back.
    pub(super) fn stats_hook_ended(&mut self, hook: HookId, end: &HookEnd, actions: &mut Vec<Action>) {
        let Some(StatsCall { request, watcher, sample }) = self.stats_calls.remove(&hook) else { return };
        if let Some(watcher) = self.watchers.get(watcher) {
            watcher.tell_hook(HookPoint::ExtendedStats, end, actions);
        }
        for wait in self.waits.iter_mut().filter(|wait| wait.request == request) {
            if let Goal::Extended { samples, calls, .. } = &mut wait.goal {
                *calls = calls.saturating_sub(1);
                if let (Some(sample), HookEnd::Returned { output, .. }) = (samples.get_mut(sample), end) {
                    sample.extra = Some(output.clone()).filter(|output| !output.is_empty());
                }
            }
        }
    }
}
