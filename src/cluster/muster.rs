//! Who contends for a lease: `muster.lua`'s questions, and what its answers mean. Pure: texts in, values out.
//!
//! What the answers of several servers come to is [`Attendance`](crate::model::attendance::Attendance)'s.

use std::time::Duration;

use super::reason;
use super::scripts::{Call, MUSTER, millis};
use crate::model::attendance::{Entry, Register};
use crate::model::election::{Member, Membership};
use crate::model::names::{LeaseName, NodeName};
use crate::model::time::Time;

/// How many texts an answer has before its members, and for each of them.
const HEAD: usize = 3;
const EACH: usize = 9;

/// The call that tells what an agent says of itself under the name of `node`, or with nothing that it leaves, at `sent` by its
/// own clock: which of its words is the latest is told by that.
pub fn call(
    lease: &LeaseName,
    (node, instance): (&NodeName, u128),
    sent: Time,
    membership: Option<&Membership>,
) -> Call {
    let word = Duration::from_nanos(sent.as_nanos());
    let mut args = vec![lease.changed_channel(), node.to_string(), format!("{instance:032x}"), millis(word)];
    args.extend(match membership {
        Some(Membership { valor, stands, appoints, scroll, ttl }) => {
            let appoints = appoints.as_ref().map(ToString::to_string).unwrap_or_default();
            [millis(*ttl), valor.to_string(), u8::from(*stands).to_string(), appoints, scroll.clone()]
        }
        None => [const { String::new() }; 5],
    });
    Call { script: MUSTER, keys: vec![lease.lease_key(), lease.members_key()], args }
}

/// What [`call`]'s answer means.
///
/// # Errors
/// The server cannot say: why.
pub fn answer(words: &[String]) -> Result<Register, String> {
    let read = || {
        let (head, members) = words.split_at_checked(HEAD)?;
        let holder = Some(head[1].clone()).filter(|holder| !holder.is_empty());
        let entries = members.chunks(EACH).map(entry).collect::<Option<Vec<_>>>()?;
        Some(Register { holder, kept: time(&head[2])?, entries: entries.into_iter().flatten().collect() })
    };
    match words.first().map(String::as_str) {
        Some("mustered") => read().ok_or_else(|| reason::nonsense(words)),
        Some("failed") => Err(words.get(1).cloned().unwrap_or_default()),
        _ => Err(reason::nonsense(words)),
    }
}

/// Whether a word on a lease's [`changed_channel`](LeaseName::changed_channel) is about this node itself.
pub(super) fn is_own(node: &NodeName, text: &[u8]) -> bool {
    text.strip_prefix(node.as_str().as_bytes()).is_some_and(|rest| rest.starts_with(b" "))
}

/// A member, or nothing where somebody wrote there who is no node; nothing at all where it is not what the script gives.
fn entry(words: &[String]) -> Option<Option<Entry>> {
    let [node, valor, stand, word, instance, appoints, ttl, left, scroll] = words else { return None };
    let (stands, gone) = match stand.as_str() {
        "1" => (true, false),
        "0" => (false, false),
        "x" => (false, true),
        _ => return Some(None),
    };
    let (Ok(valor), Ok(word), Ok(instance)) = (valor.parse(), word.parse(), u128::from_str_radix(instance, 16)) else {
        return Some(None);
    };
    let appoints = NodeName::parse(appoints).ok();
    let membership = Membership { valor, stands, appoints, scroll: scroll.clone(), ttl: time(ttl)? };
    let member = |node| Member { node, membership, left: time(left).unwrap_or_default() };
    Some(NodeName::parse(node).ok().map(|node| Entry { member: member(node), left: gone, word, instance }))
}

fn time(ms: &str) -> Option<Duration> {
    ms.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_answer_reads_back() {
        let said = words(&[
            "mustered",
            "",
            "70",
            "a",
            "9",
            "1",
            "17",
            "000000000000000000000000000000ff",
            "b",
            "600",
            "599",
            "role=web 1",
            "b",
            "0",
            "x",
            "18",
            "ffffffffffffffffffffffffffffffff",
            "",
            "300",
            "1",
            "",
        ]);
        let member = |node: &str, membership, left| Member {
            node: NodeName::parse(node).unwrap(),
            membership,
            left: Duration::from_millis(left),
        };
        let millis = Duration::from_millis;
        let a = Membership {
            valor: 9,
            stands: true,
            appoints: NodeName::parse("b").ok(),
            scroll: "role=web 1".into(),
            ttl: millis(600),
        };
        let b = Membership { valor: 0, stands: false, appoints: None, scroll: String::new(), ttl: millis(300) };
        let entries = vec![
            Entry { member: member("a", a, 599), left: false, word: 17, instance: 0xff },
            Entry { member: member("b", b, 1), left: true, word: 18, instance: u128::MAX },
        ];
        assert_eq!(answer(&said), Ok(Register { holder: None, kept: millis(70), entries }));
    }

    #[test]
    fn what_somebody_wrote_there_is_no_member_and_what_no_script_gives_is_nonsense() {
        let said = words(&[
            "mustered",
            "me",
            "0",
            "no name",
            "9",
            "1",
            "5",
            "ff",
            "",
            "600",
            "599",
            "",
            "b",
            "99999999999",
            "1",
            "5",
            "ff",
            "",
            "1",
            "1",
            "",
            "c",
            "1",
            "1",
            "5",
            "123456789012345678901234567890123",
            "",
            "1",
            "1",
            "",
        ]);
        assert_eq!(answer(&said), Ok(Register { holder: Some("me".into()), ..Register::default() }));
        for nonsense in [&[][..], &["mustered"], &["mustered", "", "x"], &["mustered", "", "0", "a"], &["what"]] {
            assert!(answer(&words(nonsense)).unwrap_err().contains("nonsense"), "{nonsense:?}");
        }
        assert_eq!(answer(&words(&["failed", "key: wrong"])), Err("key: wrong".into()));
    }

    #[test]
    fn a_nodes_own_change_is_no_news_to_it() {
        let web = NodeName::parse("web").unwrap();
        assert!(is_own(&web, b"web 17") && !is_own(&web, b"web-1 17") && !is_own(&web, b"db 17"));
    }
}
