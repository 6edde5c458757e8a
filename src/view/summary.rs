//! A node in one line, as `systemctl status` shows it.

use crate::model::snapshot::{LeaseRole, Snapshot, StoreView, WatcherState};

/// `running: 2 of 4 watchers active, 1 listening, 1 scheduled; beat: holder, token 18; Redis: connection refused`.
pub fn status_line(snapshot: &Snapshot) -> String {
    let phase = snapshot.phase.word();
    let plain = || snapshot.watchers.iter().filter(|watcher| watcher.lease.is_none());
    let in_state = |state| plain().filter(|watcher| watcher.state == state).count();
    let mut parts = Vec::new();
    if plain().next().is_some() {
        let mut watchers = format!("{} of {} watchers active", in_state(WatcherState::Active), plain().count());
        for state in [WatcherState::Listening, WatcherState::Scheduled] {
            match in_state(state) {
                0 => {}
                asleep => watchers.push_str(&format!(", {asleep} {}", state.word())),
            }
        }
        parts.push(watchers);
    }
    for lease in snapshot.watchers.iter().filter_map(|watcher| watcher.lease.as_ref()) {
        let name = &lease.watcher;
        parts.push(match (lease.role, lease.token, &lease.why) {
            (LeaseRole::Holder, Some(token), _) => format!("{name}: holder, token {token}"),
            (role, _, Some(why)) => format!("{name}: {} ({why})", role.word()),
            (role, _, None) => format!("{name}: {}", role.word()),
        });
    }
    if let StoreView::Down { reason } = &snapshot.store {
        parts.push(reason.clone());
    }
    if parts.is_empty() { phase.to_owned() } else { format!("{phase}: {}", parts.join("; ")) }
}
