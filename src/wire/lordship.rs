//! Whether this node leads a legion, as lines for a program in any language.

use std::fmt::Write;

use crate::model::snapshot::Lordship;
use crate::model::time::Time;

/// Lines `name=value`, each once, in this order; more may come in between. A value has no line end.
///
/// ```text
/// legion=clusterip
/// node=web-1
/// me=1                       0: this node does not lead, and the next three are empty
/// token=7                    the fencing token; the next lord's is greater
/// deadline_boottime_ns=…     it leads until then unless that is put off: CLOCK_BOOTTIME, nanoseconds
/// deadline_unix_ms=…         the same on the machine's clock, milliseconds
/// lord=web-1                 empty: nobody, or nobody knows
/// members=web-1,web-2        those that live, by name
/// quorum=2
/// scroll=role=web            the lord's
/// reason=…                   why this node leads, or does not
/// ```
///
/// `now` and `unix_ms` are the present on the two clocks. The deadline is that at which what leads here is asked to stop:
/// what was begun before has a little time left to end, as long as nobody else leads.
pub fn lordship_text(lordship: &Lordship, now: Time, unix_ms: u64) -> String {
    let Lordship { legion, node, mine, lord, members, quorum, scroll, reason } = lordship;
    let (mut token, mut boottime, mut unix) = (String::new(), String::new(), String::new());
    if let Some((number, deadline)) = mine {
        let left = u64::try_from(deadline.stop.since(now).as_millis()).unwrap_or(u64::MAX);
        token = number.to_string();
        boottime = deadline.stop.as_nanos().to_string();
        unix = unix_ms.saturating_add(left).to_string();
    }
    let members: Vec<&str> = members.iter().map(AsRef::as_ref).collect();
    let lines = [
        ("legion", legion.as_str()),
        ("node", node.as_str()),
        ("me", if mine.is_some() { "1" } else { "0" }),
        ("token", &token),
        ("deadline_boottime_ns", &boottime),
        ("deadline_unix_ms", &unix),
        ("lord", lord.as_deref().unwrap_or_default()),
        ("members", &members.join(",")),
        ("quorum", &quorum.to_string()),
        ("scroll", scroll),
        ("reason", reason),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(text, "{name}={value}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::event::Deadline;
    use crate::model::names::{NodeName, WatcherName};

    fn lordship(mine: Option<(u64, Deadline)>) -> Lordship {
        let node = |text| NodeName::parse(text).unwrap();
        Lordship {
            legion: WatcherName::parse("clusterip").unwrap(),
            node: node("web-1"),
            mine,
            lord: mine.map(|_| "web-1".into()),
            members: vec![node("web-1"), node("web-2")],
            quorum: 2,
            scroll: "role=web\nme=1".into(),
            reason: "it is the first".into(),
        }
    }

    #[test]
    fn who_leads_says_until_when_and_who_does_not_says_no_time() {
        let now = Time::from_nanos(5_000_000_000);
        let stop = now + Duration::from_millis(1500);
        let mine = Some((7, Deadline { stop, kill: stop + Duration::from_secs(1) }));
        let leads = "legion=clusterip\nnode=web-1\nme=1\ntoken=7\ndeadline_boottime_ns=6500000000\n\
                     deadline_unix_ms=1001500\nlord=web-1\nmembers=web-1,web-2\nquorum=2\n\
                     scroll=role=web me=1\nreason=it is the first\n";
        assert_eq!(lordship_text(&lordship(mine), now, 1_000_000), leads);
        let not = "legion=clusterip\nnode=web-1\nme=0\ntoken=\ndeadline_boottime_ns=\ndeadline_unix_ms=\nlord=\n\
                   members=web-1,web-2\nquorum=2\nscroll=role=web me=1\nreason=it is the first\n";
        assert_eq!(lordship_text(&lordship(None), now, 1_000_000), not);
    }

    #[test]
    fn a_deadline_that_has_passed_is_the_present() {
        let (now, past) = (Time::from_nanos(5_000_000_000), Time::from_nanos(1));
        let text = lordship_text(&lordship(Some((7, Deadline { stop: past, kill: past }))), now, 1_000_000);
        assert!(text.contains("\ndeadline_boottime_ns=1\ndeadline_unix_ms=1000000\n"), "{text}");
    }
}
