//! The Lua scripts and what their answers mean. Pure: texts in, values out.
//!
//! The files under `lua/` are the only code that writes a lease; each says its invariant in its head. They answer
//! with a flat list of texts, so that one function reads them wherever they ran.

use std::time::Duration;

use crate::model::event::{Ask, AskKind, LeaseAnswer};
use crate::model::lease::RESERVATION;
use crate::model::names::LeaseName;
use crate::model::pause::Pause;

macro_rules! script {
    ($file:literal) => {
        concat!(include_str!("../../lua/prelude.lua"), "\n", include_str!(concat!("../../lua/", $file)))
    };
}

/// Takes a lease.
pub const TAKE: &str = script!("take.lua");
/// Refreshes leases, any number of them.
pub const REFRESH: &str = script!("refresh.lua");
/// Releases a lease.
pub const RELEASE: &str = script!("release.lua");
/// Declares a lease free that nobody ever held.
pub const INIT: &str = script!("init.lua");

/// Says who contends for a lease.
pub const MUSTER: &str = script!("muster.lua");
/// Claims a slot of a schedule.
pub const CLAIM: &str = script!("claim.lua");
/// Pauses a lease, or lets it be taken again.
pub const PAUSE: &str = script!("pause.lua");
/// Says how a token stands.
pub const CHECK: &str = script!("check.lua");
/// Keeps a fact about a tenure, or about a slot of a schedule.
pub const RECORD: &str = script!("record.lua");
/// Reads what is kept of a lease's tenures, or of a schedule's slots.
pub const HISTORY: &str = script!("history.lua");

/// Says that a node is there.
pub const BEAT: &str = include_str!("../../lua/beat.lua");
/// Says that a node has left.
pub const LEAVE: &str = include_str!("../../lua/leave.lua");
/// Lists the nodes.
pub const ROSTER: &str = include_str!("../../lua/roster.lua");
/// All of them.
pub const ALL: [&str; 13] =
    [TAKE, REFRESH, RELEASE, INIT, MUSTER, CLAIM, PAUSE, CHECK, RECORD, HISTORY, BEAT, LEAVE, ROSTER];

/// One call of a script: its text, `KEYS` and `ARGV`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The script's whole text.
    pub script: &'static str,
    /// `KEYS`, all in one slot.
    pub keys: Vec<String>,
    /// `ARGV`.
    pub args: Vec<String>,
}

/// The call that puts `ask` to Redis.
pub fn call(lease: &LeaseName, ask: &Ask) -> Call {
    let owner = ask.owner.to_string();
    let (script, args) = match &ask.kind {
        AskKind::Take { ttl, longest, seen } => {
            let seen = seen.map(millis).unwrap_or_default();
            (TAKE, vec![owner, millis(*ttl), millis(*longest), ask.owner.node.to_string(), seen])
        }
        AskKind::Refresh { ttl, token } => (REFRESH, refresh_args(owner, *ttl, *token)),
        AskKind::Release { to } => {
            let to = to.as_ref().map(ToString::to_string).unwrap_or_default();
            (RELEASE, vec![owner, to, millis(RESERVATION), lease.free_channel()])
        }
        AskKind::Withdraw => (RELEASE, vec![owner, String::new(), millis(Duration::ZERO), String::new()]),
    };
    Call { script, keys: vec![lease.lease_key(), lease.meta_key()], args }
}

/// The call that puts all of these to Redis, where they are refreshes: its answer has [`ANSWER_LEN`] words for each. Nothing
/// where one of them is something else, or there is none.
pub fn refresh_call<'a>(questions: impl IntoIterator<Item = (&'a LeaseName, &'a Ask)>) -> Option<Call> {
    let mut refresh = Call { script: REFRESH, keys: Vec::new(), args: Vec::new() };
    for (lease, ask) in questions {
        let AskKind::Refresh { ttl, token } = ask.kind else { return None };
        refresh.keys.extend([lease.lease_key(), lease.meta_key()]);
        refresh.args.extend(refresh_args(ask.owner.to_string(), ttl, token));
    }
    (!refresh.keys.is_empty()).then_some(refresh)
}

/// How many words answer each lease of [`refresh_call`].
pub const ANSWER_LEN: usize = 3;

fn refresh_args(owner: String, ttl: Duration, token: u64) -> Vec<String> {
    vec![owner, millis(ttl), token.to_string()]
}

/// The call that declares `lease` free.
pub fn init_call(lease: &LeaseName) -> Call {
    Call { script: INIT, keys: vec![lease.lease_key(), lease.meta_key()], args: vec![lease.free_channel()] }
}

/// What [`init_call`]'s answer means.
///
/// # Errors
/// The lease has a past, told in words.
pub fn init_answer(lease: &LeaseName, words: &[String]) -> Result<(), String> {
    match words.first().map(String::as_str) {
        Some("free") => Ok(()),
        Some("known") => {
            let state = words.get(1).map_or("known", String::as_str);
            Err(format!("{lease} has been held before (its record says {state}): it needs no init, and gets none"))
        }
        _ => Err(format!("Redis answered nonsense: {words:?}")),
    }
}

pub(super) fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// What a lease script's answer means. One that no script of ours gives is a failure like any other: nothing is known.
pub fn answer(words: &[String]) -> LeaseAnswer {
    let word = |i: usize| words.get(i).map_or("", String::as_str);
    let number = |i: usize| word(i).parse::<u64>().ok();
    let time = |i: usize| number(i).map(Duration::from_millis);
    let read = match word(0) {
        "granted" => number(1).map(|token| match word(2) {
            "" => LeaseAnswer::Granted { token },
            pause => LeaseAnswer::GrantedToStop { token, pause: Pause::parse(pause) },
        }),
        "paused" => Some(LeaseAnswer::Paused(Pause::parse(word(1)))),
        "held" => time(2).zip(time(3)).map(|(left, ttl)| LeaseAnswer::Held { by: word(1).to_owned(), left, ttl }),
        "quarantined" => time(1).map(|left| LeaseAnswer::Quarantined { left }),
        "reserved" => time(2).map(|left| LeaseAnswer::Reserved { node: word(1).to_owned(), left }),
        "lost" => Some(LeaseAnswer::Lost { by: (!word(1).is_empty()).then(|| word(1).to_owned()) }),
        "released" => Some(LeaseAnswer::Released),
        // Redis adds where in a script an error came from.
        "failed" => {
            Some(LeaseAnswer::Failed { reason: word(1).split(" script: ").next().unwrap_or_default().to_owned() })
        }
        _ => None,
    };
    read.unwrap_or_else(|| LeaseAnswer::Failed { reason: format!("Redis answered nonsense: {words:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_answer_that_no_script_gives_is_a_failure() {
        for nonsense in [&[][..], &["granted"], &["granted", "-1"], &["held", "x"], &["what"]] {
            assert!(matches!(answer(&words(nonsense)), LeaseAnswer::Failed { .. }), "{nonsense:?}");
        }
    }

    #[test]
    fn a_token_keeps_all_its_digits() {
        let token = 9_007_199_254_740_991;
        assert_eq!(answer(&words(&["granted", "9007199254740991"])), LeaseAnswer::Granted { token });
    }

    #[test]
    fn a_lost_lease_may_have_nobody() {
        assert_eq!(answer(&words(&["lost", ""])), LeaseAnswer::Lost { by: None });
    }
}
