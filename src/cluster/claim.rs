//! Who runs a slot of a schedule: `claim.lua`'s question, and what the answers to it mean. Pure: texts in, values out.

use super::reason;
use super::scripts::{CLAIM, Call};
use crate::model::attendance::is_most;
use crate::model::event::{Claim, Claimed};
use crate::model::names::{LeaseName, NodeName, WatcherName};
use crate::model::runs::KEPT;

/// The call that claims a slot of `watcher` for `node`, under `lease`.
pub fn call(lease: &LeaseName, watcher: &WatcherName, node: &NodeName, claim: Claim) -> Call {
    let Claim { slot, token } = claim;
    Call {
        script: CLAIM,
        keys: vec![lease.lease_key(), lease.meta_key(), lease.slots_key(), lease.runs_key(watcher)],
        args: vec![token.to_string(), watcher.to_string(), slot.0.to_string(), node.to_string(), KEPT.to_string()],
    }
}

/// What [`call`]'s answer means.
pub fn answer(words: &[String]) -> Claimed {
    let said = words.get(1).cloned().unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("claimed") => Claimed::Ours,
        Some("taken") => Claimed::Taken { by: said },
        Some("over") => Claimed::Unknown("the lease is another tenure's".into()),
        Some("unsure") => Claimed::Unknown(said),
        _ => Claimed::Unknown(reason::nonsense(words)),
    }
}

/// What several servers come to: a slot is ours where most say so, and another's where most cannot any more.
pub fn agreed(answers: &[Claimed]) -> Claimed {
    let servers = answers.len();
    let ours = answers.iter().filter(|said| **said == Claimed::Ours).count();
    let taken: Vec<&Claimed> = answers.iter().filter(|said| matches!(said, Claimed::Taken { .. })).collect();
    if is_most(ours, servers) {
        return Claimed::Ours;
    }
    if !is_most(servers - taken.len(), servers) {
        return taken[0].clone();
    }
    let why = answers.iter().find_map(|said| match said {
        Claimed::Unknown(why) => Some(why.clone()),
        Claimed::Ours | Claimed::Taken { .. } => None,
    });
    Claimed::Unknown(why.unwrap_or_else(|| "no majority of servers".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_servers_most_decide() {
        let (ours, taken) = (Claimed::Ours, Claimed::Taken { by: "b".into() });
        let unknown = Claimed::Unknown("down".into());
        let table: [(&[&Claimed], &Claimed); 8] = [
            (&[&ours], &ours),
            (&[&taken], &taken),
            (&[&unknown], &unknown),
            (&[&ours, &unknown, &ours], &ours),
            (&[&ours, &taken, &ours], &ours),
            (&[&ours, &unknown, &taken], &unknown),
            (&[&taken, &unknown, &taken], &taken),
            (&[&taken, &ours, &taken], &taken),
        ];
        for (answers, expected) in table {
            assert_eq!(agreed(&answers.iter().copied().cloned().collect::<Vec<_>>()), *expected, "{answers:?}");
        }
    }

    #[test]
    fn what_no_script_says_is_no_permission() {
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for nonsense in [&[][..], &["granted", "7"], &["unsure"]] {
            assert!(matches!(answer(&words(nonsense)), Claimed::Unknown(_)), "{nonsense:?}");
        }
        assert_eq!(answer(&words(&["taken", "b"])), Claimed::Taken { by: "b".into() });
    }
}
