//! Watchers that run where a legion is led, and nowhere else: they follow its leader, under that one's lease.
//!
//! ```text
//!   leader   ── takes ── on_lord ── up ────────────────────── waits ─── on_unlord ── released
//!   follower                         └─ starts … runs … stops ──┘
//! ```
//!
//! A follower has no lease of its own. What it is told by its node, before each step, is how the leader's stands: under
//! a firm one it may run, and its guards are fed with that deadline; when the leader is on its way down in good order
//! it stops first; and where the lease is being lost both end at once, by the same deadline. The leader gives its lease
//! up only when nothing of any follower is left.

use super::{Goal, Watcher};
use crate::model::event::Deadline;
use crate::model::lease::{Hold, Lease};
use crate::model::names::WatcherName;
use crate::model::time::Time;

/// How it stands with the leader.
#[derive(Debug, Clone, PartialEq)]
pub struct Lead {
    hold: Hold,
    /// Those that follow are to stop, and then the leader does.
    parts: bool,
    lease_key: Option<String>,
    env: Vec<(String, String)>,
    /// Why nobody may follow here.
    why: String,
    /// Whether another node is known to lead, or nobody wants it to be led here.
    settled: bool,
    /// Whether that is as it should be.
    right: bool,
}

impl Lead {
    /// That of a leader that there is not.
    pub fn nobody(legion: &WatcherName) -> Lead {
        Lead {
            hold: Hold::No,
            parts: true,
            lease_key: None,
            env: Vec::new(),
            why: format!("there is no legion {legion}"),
            settled: true,
            right: false,
        }
    }

    /// Whether a follower may run now, though nothing more is heard of the leader.
    fn hold(&self, now: Time) -> Hold {
        match self.hold {
            Hold::Firm { deadline: Deadline { stop, kill }, .. } if stop <= now => Hold::Losing { kill },
            hold => hold,
        }
    }
}

impl Watcher {
    /// Whom it follows.
    pub fn leader(&self) -> Option<&WatcherName> {
        self.spec.follows.as_ref()
    }

    /// Whether nothing of it may run without a lease, its own or its leader's.
    pub fn is_guarded(&self) -> bool {
        self.lease.is_some() || self.spec.follows.is_some()
    }

    /// What those that follow it are told; nothing where there is no lease to follow under.
    pub fn lead(&self, now: Time) -> Option<Lead> {
        let lease = self.lease.as_ref()?;
        let name = &self.spec.name;
        let hold = lease.hold(now);
        // Whoever comes first in an election need not lead.
        let lord = if self.is_elected() { self.lord().map(str::to_owned) } else { lease.holder() };
        let why = match (&self.goal, lord.filter(|lord| *lord != self.me.1.as_str())) {
            (Goal::Rest(_), _) => format!("{name} is stopped here"),
            (Goal::Run, Some(holder)) => format!("{holder} leads {name}"),
            (Goal::Run, None) => match lease.why() {
                Some(why) => format!("{name}: {why}"),
                None => format!("nobody leads {name}"),
            },
        };
        let standing = self.standing(now).unwrap_or_default();
        Some(Lead {
            hold,
            parts: self.must_go() || hold == Hold::No,
            lease_key: Some(lease.name().lease_key()),
            env: self.legion_env(now, None, None, &standing),
            why,
            settled: self.goal != Goal::Run || lease.waits_because().is_some(),
            right: self.goal != Goal::Run || self.is_left_to_another(now),
        })
    }

    /// Learns how it stands with its leader; whether that is news.
    pub fn follow(&mut self, lead: Option<Lead>) -> bool {
        std::mem::replace(&mut self.led, lead) != self.led
    }

    /// Keeps its lease for as long as something of this follower is left; nothing: of none. Whether that is news.
    pub fn wait_for_follower(&mut self, follower: Option<WatcherName>) -> bool {
        std::mem::replace(&mut self.held_up_by, follower) != self.held_up_by
    }

    /// Whether a child may run now; nothing where that hangs on no lease.
    pub(super) fn hold(&self, now: Time) -> Option<Hold> {
        match &self.spec.follows {
            Some(_) => Some(self.led.as_ref().map_or(Hold::No, |lead| lead.hold(now))),
            None => self.lease.as_ref().map(|lease| lease.hold(now)),
        }
    }

    /// Whether its leader has it stop.
    pub fn is_led_away(&self) -> bool {
        self.spec.follows.is_some() && self.led.as_ref().is_none_or(|lead| lead.parts)
    }

    /// Whether nothing of it is left, no hook either.
    pub fn is_over(&self) -> bool {
        self.is_empty() && self.calls.is_empty()
    }

    /// When the leader's lease is no longer firm, unless it is heard of again.
    pub(super) fn next_doubt(&self, now: Time) -> Option<Time> {
        match self.led.as_ref().map(|lead| lead.hold) {
            Some(Hold::Firm { deadline, .. }) => Some(deadline.stop).filter(|stop| *stop > now),
            Some(Hold::Losing { .. } | Hold::No) | None => None,
        }
    }

    /// What its processes are told of the lease that is behind them: its key, and the legion.
    pub(super) fn lease_env(&self, now: Time) -> (Option<String>, Vec<(String, String)>) {
        match (&self.spec.follows, &self.led, &self.lease) {
            (Some(_), Some(lead), _) => (lead.lease_key.clone(), lead.env.clone()),
            (None, _, Some(lease)) => (Some(lease.name().lease_key()), self.own_legion_env(now)),
            (Some(_), None, _) | (None, _, None) => (None, Vec::new()),
        }
    }

    fn own_legion_env(&self, now: Time) -> Vec<(String, String)> {
        self.standing(now).map(|why| self.legion_env(now, None, None, &why)).unwrap_or_default()
    }

    /// Why it is a standby: what is known of its lease, or of its leader's.
    pub(super) fn standby_because(&self) -> Option<String> {
        match (&self.spec.follows, &self.led) {
            (Some(_), Some(lead)) => Some(lead.why.clone()),
            (Some(leader), None) => Some(format!("{leader} has not been heard of")),
            (None, _) => self.lease.as_ref().and_then(Lease::why),
        }
    }

    /// Whether it is as it should be that it runs elsewhere.
    pub(super) fn is_rightly_elsewhere(&self, now: Time) -> bool {
        match &self.spec.follows {
            Some(_) => self.led.as_ref().is_some_and(|lead| lead.right),
            None => self.is_left_to_another(now),
        }
    }

    /// Whether it is known that another node has it, or has not, rather than still being asked.
    pub fn is_known_standby(&self) -> bool {
        match &self.spec.follows {
            Some(_) => self.led.as_ref().is_some_and(|lead| lead.settled),
            None => self.lease.as_ref().is_some_and(|lease| lease.waits_because().is_some()),
        }
    }
}
