//! Why a watcher runs here, or does not: its conditions one by one.

use super::{Cause, Goal, Stage, Watcher, secs};
use crate::model::explain::{Around, Condition, Explanation, Move, What, span};
use crate::model::lease::{Hold, Lease};
use crate::model::names::NodeName;
use crate::model::snapshot::{LeaseRole, LeaseView, StoreView, WatcherState};
use crate::model::spec::Which;
use crate::model::time::Time;

impl Watcher {
    /// Every condition for running here, and what comes next.
    pub fn explain(&self, now: Time, around: Around) -> Explanation {
        let lease = self.lease.as_ref().map(|lease| lease.view(now));
        let state = self.state(now);
        let runs = !self.pids().is_empty();
        let elsewhere = self.is_rightly_elsewhere(now);
        let right = match state {
            WatcherState::Active | WatcherState::Listening | WatcherState::Scheduled | WatcherState::Stopped => true,
            WatcherState::Standby => elsewhere,
            WatcherState::Starting
            | WatcherState::Unhealthy
            | WatcherState::Backoff
            | WatcherState::Stopping
            | WatcherState::Failed => false,
        };
        let asked = [
            Some(self.configured()),
            Some(agent(around, &self.me.1)),
            Some(self.wanted()),
            self.after(),
            self.socketed(),
            self.demanded_now(),
            self.timed(now),
            lease.as_ref().map(|lease| store(around, lease)),
            lease.as_ref().and_then(|lease| self.unpaused(lease)),
            self.elected(now),
            lease
                .as_ref()
                .filter(|lease| !self.is_deferred(now) && (lease.pause.is_none() || lease.token.is_some()))
                .map(|lease| self.leased(now, lease)),
            self.hooked(),
            Some(self.processed(now)),
        ];
        Explanation {
            state,
            singleton: lease.is_some(),
            clustered: around.clustered,
            runs,
            right,
            holder: lease.as_ref().and_then(|lease| lease.holder.clone()),
            conditions: asked.into_iter().flatten().collect(),
            outlook: lease.as_ref().and_then(|lease| self.outlook(lease)),
            moves: lease.as_ref().filter(|_| around.clustered).and_then(|lease| self.moves(lease)),
        }
    }

    /// A command about it, as it would be typed.
    fn command(&self, verb: &str) -> Option<String> {
        let name = self.spec.name.as_str();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        Some(if plain { format!("{verb} {name}") } else { format!("{verb} '{}'", name.replace('\'', r"'\''")) })
    }

    fn configured(&self) -> Condition {
        let text = match (&self.heir, &self.filed) {
            (Some(_), _) => "yes, and becomes what it was changed to when it is down",
            (None, Some(_)) => "in the file",
            (None, None) => "by a command, until the agent ends",
        };
        Condition::met(What::Configured, text)
    }

    fn wanted(&self) -> Condition {
        let start = self.command("start");
        let unmet = |text: String| Condition::unmet(What::Wanted, text, start.clone());
        match &self.goal {
            Goal::Run if self.numprocesses == 0 => {
                Condition::unmet(What::Wanted, "none of its processes is (numprocesses is 0)", self.command("incr"))
            }
            Goal::Run => Condition::met(
                What::Wanted,
                match (&self.lease, self.leader()) {
                    (Some(_), _) => "one in the cluster".into(),
                    (None, Some(leader)) => format!("{} where {leader} is led", self.numprocesses),
                    (None, None) => format!("{} here", self.numprocesses),
                },
            ),
            Goal::Rest(Cause::NotStarted) => unmet("nobody has started it yet".into()),
            Goal::Rest(Cause::Asked(ending)) => unmet(match &ending.by {
                Some(by) => format!("stopped by {by}"),
                None => "stopped".into(),
            }),
            Goal::Rest(Cause::Ended(why)) => unmet(format!("not any more: {why}")),
            Goal::Rest(Cause::Failed(why)) => unmet(format!("given up: {why}")),
        }
    }

    fn after(&self) -> Option<Condition> {
        let firsts: Vec<&str> = self.spec.after.iter().map(AsRef::as_ref).collect();
        match &self.start_gate {
            Some(gate) if self.stage == Stage::Closed => {
                Some(Condition::unmet(What::After, format!("waits for {gate}"), Some(format!("explain {gate}"))))
            }
            // What has started goes on, whatever becomes of those before it.
            _ => (!firsts.is_empty()).then(|| {
                let verb = if self.stage == Stage::Closed { "may start after" } else { "started after" };
                Condition::met(What::After, format!("{verb} {}", firsts.join(", ")))
            }),
        }
    }

    fn socketed(&self) -> Option<Condition> {
        let wanted = &self.spec.program.sockets;
        if wanted.is_empty() {
            return None;
        }
        let add = |name| Some(format!("addsocket {name} …"));
        let missing = self.missing_socket().map(|name| (format!("there is no socket {name}"), add(name)));
        let unbound = || (!self.has_its_sockets()).then(|| ("not open yet".to_owned(), Some("listsockets".to_owned())));
        Some(match missing.or_else(unbound) {
            Some((text, remedy)) => Condition::unmet(What::Sockets, text, remedy),
            None => Condition::met(
                What::Sockets,
                match &wanted.which {
                    Which::All => "all are open".to_owned(),
                    Which::These(names) => {
                        let names: Vec<&str> = names.iter().chain(&wanted.stdin).map(AsRef::as_ref).collect();
                        format!("{} open", names.join(", "))
                    }
                },
            ),
        })
    }

    fn timed(&self, now: Time) -> Option<Condition> {
        let text = self.timetable(now)?;
        Some(match self.is_between_slots() {
            true => Condition::unmet(What::Time, text, None),
            false => Condition::met(What::Time, text),
        })
    }

    fn demanded_now(&self) -> Option<Condition> {
        self.spec.on_demand.as_ref()?;
        Some(match self.is_asleep() {
            true => Condition::unmet(What::Demand, "starts at the first connection", None),
            false => Condition::met(What::Demand, "somebody has connected"),
        })
    }

    /// What its members say, or its leader.
    fn elected(&self, now: Time) -> Option<Condition> {
        if let Some(leader) = self.leader() {
            return Some(match self.hold(now) {
                Some(Hold::Firm { .. }) => Condition::met(What::Legion, format!("{leader} is led here")),
                _ => {
                    let why = self.standby_because().unwrap_or_default();
                    Condition::unmet(What::Legion, why, Some(format!("explain {leader}")))
                }
            });
        }
        let legion = self.legion_view(now)?;
        let there = format!("valor {}, {} live, {} have to", legion.valor, legion.live, legion.quorum);
        let words = format!("{}; {there}", legion.why);
        Some(match self.is_first(now) {
            true => Condition::met(What::Legion, words),
            false => Condition::unmet(What::Legion, words, None),
        })
    }

    /// What the store says of a pause, where it has been asked.
    fn unpaused(&self, lease: &LeaseView) -> Option<Condition> {
        match (&lease.pause, lease.role) {
            (Some(pause), _) => {
                let text = format!("{pause}; it runs nowhere until it is resumed");
                Some(Condition::unmet(What::Pause, text, self.command("resume")))
            }
            (None, LeaseRole::Holder) => Some(Condition::met(What::Pause, "not paused")),
            (None, LeaseRole::Standby | LeaseRole::Losing | LeaseRole::Aside) => None,
        }
    }

    fn leased(&self, now: Time, lease: &LeaseView) -> Condition {
        let left = lease.left.map_or_else(String::new, |left| format!(", {} of {} left", span(left), span(lease.ttl)));
        let next =
            lease.left.map_or_else(String::new, |left| format!(", asked for again in {} at the latest", span(left)));
        let why = lease.why.clone();
        match (lease.role, lease.token) {
            (LeaseRole::Holder, Some(token)) => {
                let since = lease.held_for.map_or_else(String::new, |held| format!(", for {}", span(held)));
                Condition::met(What::Lease, format!("held here{since}, token {token}{left}"))
            }
            (LeaseRole::Holder | LeaseRole::Losing, _) => {
                let why = why.unwrap_or_else(|| "it is being given back".into());
                Condition::unmet(What::Lease, why, None)
            }
            (LeaseRole::Standby, _) => {
                let why = why.unwrap_or_else(|| "not asked for yet".into());
                let quarantined = self.lease.as_ref().is_some_and(Lease::is_quarantined);
                // Harmless where it is not the very first: then it is refused.
                let remedy = quarantined.then(|| self.command("lease init")).flatten();
                Condition::unmet(What::Lease, format!("{why}{next}"), remedy)
            }
            (LeaseRole::Aside, _) if matches!(self.hold(now), Some(Hold::No)) && self.goal == Goal::Run => {
                let why = why.unwrap_or_else(|| "stands back".into());
                let left = lease.left.map_or_else(String::new, |left| format!(", for {} more", span(left)));
                Condition::unmet(What::Lease, format!("{why}{left}"), self.command("start"))
            }
            (LeaseRole::Aside, _) => Condition::unmet(What::Lease, "not asked for, as nobody wants it here", None),
        }
    }

    fn hooked(&self) -> Option<Condition> {
        if self.spec.hooks.is_empty() {
            return None;
        }
        let running = match self.stage {
            Stage::Opening => Some("before_start"),
            Stage::Confirming => Some("after_start"),
            Stage::Parting => Some("before_stop"),
            Stage::Leaving => Some("after_stop"),
            Stage::Closed | Stage::Open | Stage::Settled | Stage::Draining => None,
        };
        Some(match running {
            Some(hook) => {
                let most = secs(self.spec.hook_timeout);
                Condition::unmet(What::Hooks, format!("{hook} runs, for {most} at most"), None)
            }
            None => Condition::met(What::Hooks, "none is waited for"),
        })
    }

    fn processed(&self, now: Time) -> Condition {
        let failures = self.slots.values().map(crate::model::restart::Restart::failures).max().unwrap_or(0);
        let last = self.last_end.as_ref().map(|(end, at)| format!("{end}, {} ago", span(now.since(*at))));
        let unmet = |text: String, verb: &str| Condition::unmet(What::Process, text, self.command(verb));
        let complaint = self.processes.iter().find_map(|process| Some((process.wid, process.complaint()?)));
        if let Some(pause) = self.pausing(now) {
            let last = last.unwrap_or_else(|| "it failed".into());
            let most = match (self.lease.is_some(), self.spec.max_retry) {
                (true, Some(most)) => format!("; after {most} in a row another node may try"),
                _ => String::new(),
            };
            return unmet(
                format!("{last}; failed {failures} times in a row, next try in {}{most}", span(pause)),
                "start",
            );
        }
        if let Some((wid, why)) = complaint {
            return unmet(format!("#{wid}: {why}"), "logs");
        }
        let (up, there) = (self.up(), self.pids());
        let record = match (failures, last) {
            (_, None) => "none has ended".to_owned(),
            (0, Some(last)) => format!("the last ended with {last}"),
            (times, Some(last)) => format!("{times} failures in a row, the last with {last}"),
        };
        if there.is_empty() {
            return match self.goal == Goal::Run && self.stage != Stage::Closed && self.must_go() {
                true => unmet("what ran is being ended".into(), "status"),
                false => Condition::met(What::Process, format!("none here; {record}")),
            };
        }
        let pids: Vec<String> = there.iter().map(|(_, pid)| pid.to_string()).collect();
        let pids = format!("pid {}", pids.join(" "));
        match (self.must_go(), up >= self.numprocesses as usize || self.all_up()) {
            (true, _) => unmet(format!("{pids}, being stopped"), "status"),
            (false, true) => Condition::met(What::Process, format!("{pids}; {record}")),
            (false, false) => unmet(format!("{pids}; {up} of {} ready", self.numprocesses), "logs"),
        }
    }

    fn outlook(&self, lease: &LeaseView) -> Option<String> {
        let me = &self.me.1;
        if self.goal != Goal::Run {
            return None;
        }
        let ttl = span(lease.ttl);
        if lease.pause.is_some() && lease.role == LeaseRole::Standby {
            return Some(format!("{me}, or another node that waits for it, gets it at once when it is resumed."));
        }
        Some(match (lease.role, &lease.holder, lease.left) {
            (LeaseRole::Holder, ..) => {
                format!(
                    "Another node gets it within {ttl} after {me} falls silent, and at once when {me} gives it back."
                )
            }
            (LeaseRole::Losing, ..) => "Another node may get it as soon as nothing of it is left here.".to_owned(),
            (LeaseRole::Standby, Some(holder), _) if self.is_held_by_no_agent() => {
                format!(
                    "{me} may get it within {ttl} after {holder} falls silent, which is no agent and takes no commands."
                )
            }
            (LeaseRole::Standby, Some(holder), _) => {
                format!(
                    "{me} may get it within {ttl} after {holder} falls silent, and at once when {holder} gives it back."
                )
            }
            (LeaseRole::Standby, None, Some(left)) => {
                format!("{me} asks for it again in {} at the latest, and at once when it is given back.", span(left))
            }
            (LeaseRole::Aside, _, Some(left)) => format!("{me} asks for it again in {}.", span(left)),
            (LeaseRole::Standby | LeaseRole::Aside, ..) => return None,
        })
    }

    fn is_held_by_no_agent(&self) -> bool {
        self.lease.as_ref().and_then(Lease::other_holder).is_some()
    }

    fn moves(&self, lease: &LeaseView) -> Option<Move> {
        let command = self.command("failover")?;
        match (lease.role, &lease.holder) {
            (LeaseRole::Holder, _) => Some(Move { here: false, command }),
            (LeaseRole::Standby, Some(_)) if !self.is_held_by_no_agent() => {
                Some(Move { here: true, command: format!("{command} --to {}", self.me.1) })
            }
            _ => None,
        }
    }
}

fn agent(around: Around, me: &NodeName) -> Condition {
    match (around.stopping, around.drained) {
        (true, _) => Condition::unmet(What::Agent, "it is stopping", None),
        (false, true) => {
            let undrain = format!("undrain --node {me}");
            Condition::unmet(What::Agent, "it is drained, and starts nothing", Some(undrain))
        }
        (false, false) => Condition::met(What::Agent, "runs, and is not stopping"),
    }
}

fn store(around: Around, lease: &LeaseView) -> Condition {
    let name = around.store_name;
    match around.store {
        StoreView::Up => {
            let took = lease.latency.map(|took| format!(", answered in {:.1} ms", took.as_secs_f64() * 1_000.0));
            Condition::met(What::Store, format!("{name}{}", took.unwrap_or_default()))
        }
        StoreView::Unknown => Condition::unmet(What::Store, format!("{name}: not heard of yet"), None),
        StoreView::Down { reason } => Condition::unmet(What::Store, reason.clone(), None),
    }
}
