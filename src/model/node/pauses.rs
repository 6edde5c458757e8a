//! Pauses: asked for on any node that knows the singleton, kept by the store, and waited for until nothing of it runs.

use std::time::Duration;

use super::waits::{Goal, Wait};
use super::{Node, log};
use crate::model::command::{Answer, Patience, Refusal, Reply, RequestId};
use crate::model::event::{Action, Level, News};
use crate::model::names::{LeaseName, Owner, WatcherName};
use crate::model::pause::{Pause, Told, Wish};
use crate::model::time::Time;

/// How often it is looked whether the holder has gone, where no news of that comes.
const LOOK: Duration = Duration::from_secs(1);
/// How long after its end a lease is surely over, in the store as well.
const A_MOMENT: Duration = Duration::from_millis(10);

/// A wish that was put to the store, and what has come of it.
#[derive(Debug, Clone)]
pub(super) struct Pausing {
    lease: LeaseName,
    wish: Wish,
    patience: Patience,
    /// What the store has said of it, once it has it.
    stands: Option<Standing>,
    /// When it is looked for the holder again; nothing: the store is being asked.
    pub(super) look: Option<Time>,
    /// News has come while it was being asked: what it answers may be older.
    stale: bool,
}

/// A pause that stands.
#[derive(Debug, Clone)]
struct Standing {
    pause: Pause,
    /// Whether that is this wish's doing.
    changed: bool,
    /// Who has the lease still, as the store has it.
    holder: Option<String>,
}

impl Node {
    /// Puts a wish to the store. The answer comes as soon as that has it, or also when the holder has gone.
    pub(super) fn ask_pause(
        &mut self,
        request: RequestId,
        watcher: &str,
        wish: Wish,
        patience: Patience,
        actions: &mut Vec<Action>,
    ) -> Result<(), Refusal> {
        let lease = self.lease_of(watcher)?;
        actions.push(Action::PauseLease { request, lease: lease.clone(), wish: wish.clone() });
        let pausing = Pausing { lease, wish, patience, stands: None, look: None, stale: false };
        self.waits.push(Wait { request, goal: Goal::Paused(Box::new(pausing)) });
        Ok(())
    }

    /// The store has heard a wish, or could not be asked.
    pub(super) fn lease_paused(&mut self, request: RequestId, result: Result<Told, String>, actions: &mut Vec<Action>) {
        let Some(Goal::Paused(pausing)) = self.take_wait(request, |goal| matches!(goal, Goal::Paused(_))) else {
            return;
        };
        let name = pausing.lease.watcher.clone();
        let (told, pause) = match (result, pausing.stands.clone()) {
            (Err(_), Some(_)) => return self.look_later(request, *pausing, LOOK),
            (Err(why), None) => {
                let why = format!("{}: {why}", self.store_name());
                return self.reply(request, Reply::Refused(Refusal::Unavailable(why)), actions);
            }
            (Ok(told), Some(Standing { pause, changed, .. })) => {
                let stands = told.pause.is_some().then_some(pause);
                (Told { changed, ..told }, stands)
            }
            (Ok(told), None) => {
                if told.changed {
                    self.tell_pause(request, &name, &pausing.wish, actions);
                }
                if pausing.wish == Wish::Resume {
                    let resumed = Answer::Resumed { watcher: name, pause: told.pause };
                    return self.reply(request, Reply::Done(resumed), actions);
                }
                let pause = told.pause.clone();
                (told, pause)
            }
        };
        let Some(pause) = pause else {
            let why = Refusal::Failed(format!("{name} was resumed meanwhile"));
            return self.reply(request, Reply::Refused(why), actions);
        };
        let Told { changed, holder, .. } = told;
        let left = holder.as_ref().map(|(_, left)| *left);
        let stands = Standing { pause, changed, holder: holder.map(|(holder, _)| holder) };
        // Nobody waits where one has it that is no agent, and does not hear of it.
        let waits = pausing.patience == Patience::Settled && stands.hears();
        let pausing = Pausing { stands: Some(stands), ..*pausing };
        match left.filter(|_| waits) {
            Some(left) => self.look_later(request, pausing, left.min(LOOK) + A_MOMENT),
            None => self.reply(request, pausing.reply(), actions),
        }
    }

    fn look_later(&mut self, request: RequestId, mut pausing: Pausing, pause: Duration) {
        pausing.look = Some(if std::mem::take(&mut pausing.stale) { self.now } else { self.now + pause });
        self.waits.push(Wait { request, goal: Goal::Paused(Box::new(pausing)) });
    }

    /// There is news of a lease: who waits for its holder to go looks at once.
    pub(super) fn look_for_holder(&mut self, watcher: &WatcherName) {
        let now = self.now;
        for pausing in self.pausings().filter(|pausing| pausing.lease.watcher == *watcher) {
            match &mut pausing.look {
                Some(look) => *look = (*look).min(now),
                None => pausing.stale = true,
            }
        }
    }

    /// Looks where that is due.
    pub(super) fn look_for_holders(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        for wait in &mut self.waits {
            if let Goal::Paused(pausing) = &mut wait.goal
                && pausing.look.is_some_and(|look| look <= now)
            {
                pausing.look = None;
                let (request, lease) = (wait.request, pausing.lease.clone());
                actions.push(Action::PauseLease { request, lease, wish: Wish::Look });
            }
        }
    }

    fn pausings(&mut self) -> impl Iterator<Item = &mut Pausing> {
        self.waits.iter_mut().filter_map(|wait| match &mut wait.goal {
            Goal::Paused(pausing) => Some(&mut **pausing),
            _ => None,
        })
    }

    /// What this node has brought about is told to whoever listens.
    fn tell_pause(&self, request: RequestId, name: &WatcherName, wish: &Wish, actions: &mut Vec<Action>) {
        let by = self.asker(request).unwrap_or_default();
        let (news, text) = match wish {
            Wish::Pause { by, why } => {
                let more = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
                let news = News::Paused { by: by.clone(), reason: why.clone() };
                (news, format!("{name}: paused in the whole cluster by {by}{more}"))
            }
            Wish::Resume => (News::Resumed { by: by.clone() }, format!("{name}: resumed by {by}")),
            Wish::Look => return,
        };
        log(actions, Level::Info, text);
        if let Some(watcher) = self.watchers.iter().find(|watcher| watcher.spec().name == *name) {
            watcher.publish(news, actions);
        }
    }
}

impl Standing {
    /// Whether one has the lease that stops because of this.
    fn hears(&self) -> bool {
        self.holder.as_deref().is_some_and(|holder| Owner::parse(holder).is_some())
    }
}

impl Pausing {
    /// What is told of it once the store has it: that stands, whatever becomes of this agent.
    pub(super) fn reply(&self) -> Reply {
        let Some(stands) = &self.stands else { return Reply::Refused(Refusal::Stopping) };
        let Standing { pause, changed, holder } = stands.clone();
        let (watcher, hears) = (self.lease.watcher.clone(), stands.hears());
        let holder = holder.as_deref().map(Owner::node_in);
        Reply::Done(Answer::Paused { watcher, pause, changed, holder, hears })
    }
}
