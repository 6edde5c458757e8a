//! Leases that nobody is to take: `pause.lua`'s question, and what the answers to it mean. Pure: texts in, values out.

use std::time::Duration;

use super::reason;
use super::scripts::{Call, PAUSE};
use crate::model::attendance::is_most;
use crate::model::names::LeaseName;
use crate::model::pause::{Pause, Told, Wish};

/// The call that puts `wish` to Redis.
pub fn call(lease: &LeaseName, wish: &Wish) -> Call {
    let (by, why) = match wish {
        Wish::Pause { by, why } => (by.clone(), why.clone().unwrap_or_default()),
        Wish::Resume | Wish::Look => (String::new(), String::new()),
    };
    Call {
        script: PAUSE,
        keys: vec![lease.lease_key(), lease.meta_key()],
        args: vec![wish.word().to_owned(), by, why, lease.free_channel()],
    }
}

/// Whether a word about a lease says that it was paused or resumed: what else is told on its channel is an owner, or nothing.
pub fn is_news(payload: &[u8]) -> bool {
    payload == b"pause" || payload == b"resume"
}

/// What [`call`]'s answer means.
///
/// # Errors
/// No script of ours says so.
pub fn answer(words: &[String]) -> Result<Told, String> {
    let [told, pause, changed, holder, left] = words else { return Err(reason::nonsense(words)) };
    let (true, Ok(left)) = (told == "told", left.parse()) else { return Err(reason::nonsense(words)) };
    let left = Duration::from_millis(left);
    Ok(Told {
        pause: (!pause.is_empty()).then(|| Pause::parse(pause)),
        changed: changed == "1",
        holder: (!holder.is_empty()).then(|| (holder.clone(), left)),
    })
}

/// What several servers come to: most have to have heard the wish. A pause stands where most know of one, and nobody holds
/// the lease where most say so.
///
/// # Errors
/// Too few have heard it: what one of the others said.
pub fn agreed(wish: &Wish, answers: Vec<Result<Told, String>>) -> Result<Told, String> {
    let servers = answers.len();
    let (told, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let told: Vec<Told> = told.into_iter().flatten().collect();
    if !is_most(told.len(), servers) {
        let why = failed.into_iter().find_map(Result::err).unwrap_or_else(|| "there is no server".into());
        return Err(if servers == 1 { why } else { format!("{} of {servers} servers: {why}", servers - told.len()) });
    }
    let pauses = || told.iter().filter(|told| told.pause.is_some());
    let stood = pauses().filter(|told| !told.changed).count();
    let changed = match wish {
        // On some of them it may have stood before, of an attempt that most did not hear of.
        Wish::Pause { .. } => !is_most(stood, servers),
        Wish::Resume | Wish::Look => told.iter().any(|told| told.changed),
    };
    let counts = *wish == Wish::Resume || is_most(pauses().count(), servers);
    // Its own, where it is new; else the one that it found.
    let pause = pauses().find(|told| told.changed == changed).or_else(|| pauses().next());
    let free = told.iter().filter(|told| told.holder.is_none()).count();
    let holder = told.iter().filter_map(|told| told.holder.clone()).max_by_key(|(_, left)| *left);
    Ok(Told {
        pause: pause.and_then(|told| told.pause.clone()).filter(|_| counts),
        changed,
        holder: holder.filter(|_| !is_most(free, servers)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(by: &str) -> Pause {
        Pause { since: 7, by: by.into(), why: None }
    }

    fn told(by: Option<&str>, changed: bool, holder: Option<&str>) -> Result<Told, String> {
        let holder = holder.map(|holder| (holder.to_owned(), Duration::from_secs(9)));
        Ok(Told { pause: by.map(pause), changed, holder })
    }

    fn down() -> Result<Told, String> {
        Err("down".into())
    }

    #[test]
    fn of_several_servers_most_have_to_hear_of_it() {
        let wish = Wish::pause("amy", None);
        let new = || told(Some("amy"), true, None);
        assert_eq!(agreed(&wish, vec![new()]), new());
        assert_eq!(agreed(&wish, vec![down()]), down());
        assert_eq!(agreed(&wish, vec![new(), down(), new()]), new());
        assert_eq!(agreed(&wish, vec![new(), down(), down()]), Err("2 of 3 servers: down".into()));
    }

    #[test]
    fn a_pause_that_stands_stays_what_it_is_and_one_that_most_did_not_know_of_is_new() {
        let wish = Wish::pause("amy", None);
        let (new, old) = (|| told(Some("amy"), true, None), || told(Some("bob"), false, None));
        assert_eq!(agreed(&wish, vec![new(), old(), old()]), old());
        assert_eq!(agreed(&wish, vec![new(), old(), new()]), new());
        assert_eq!(agreed(&Wish::Look, vec![old(), told(None, false, None), down()]), told(None, false, None));
        assert_eq!(agreed(&Wish::Look, vec![old(), told(None, false, None), old()]), old());
        assert_eq!(agreed(&Wish::Resume, vec![new(), told(None, false, None), down()]), new(), "it stood somewhere");
        let nothing = || told(None, false, None);
        assert_eq!(agreed(&Wish::Resume, vec![nothing(), nothing(), nothing()]), nothing());
    }

    #[test]
    fn nobody_holds_it_where_most_say_so() {
        let (held, free) = (|| told(None, false, Some("b:1")), || told(None, false, None));
        assert_eq!(agreed(&Wish::Look, vec![held(), free(), held()]), held());
        assert_eq!(agreed(&Wish::Look, vec![free(), held(), free()]), free());
        assert_eq!(agreed(&Wish::Look, vec![free(), held(), down()]), held());
    }

    #[test]
    fn what_no_script_says_is_no_answer() {
        let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        for nonsense in [&[][..], &["told"], &["told", "", "0", "", "x"], &["free", "", "0", "", "0"]] {
            assert!(answer(&words(nonsense)).is_err(), "{nonsense:?}");
        }
        assert_eq!(answer(&words(&["told", "7\namy\n", "1", "", "0"])), told(Some("amy"), true, None));
    }
}
