//! Who is there, from what one server says or several do, and from what was known before. Pure: answers in, members out.
//!
//! A server counts those whose latest word it heard less than their ttl ago. That is true of each server for itself, but
//! it may not have heard what others did, and one that lost its data has heard nobody yet. So:
//!
//! - Fewer answers than those of most servers say nothing. A word that most did not hear is taken back where it was
//!   heard: a node that cannot ask most servers could not take the lease either, and is not to be waited for.
//! - A server that does not know a node says that it is silent only where its [`Register`] has been kept for that node's
//!   ttl. Until then it has no say about it.
//! - A node lives while not fewer servers say that it does than that it does not. One that says otherwise than all the
//!   others may be the one that missed it, or the one that did not hear it leave; and with a server away, two that
//!   contradict each other are more likely to have missed its words than to have invented them.
//! - Where no server has a say about a node that was there before, it is there until it would have lapsed.
//! - An agent that is renamed says that it is there under its new name before it leaves under the old one, and one server may
//!   have heard this, another that. However many of its names live it is one member: by the one of its latest word.
//!
//! None of this decides who has the lease, but whom it is asked for by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::election::{Member, Muster};
use super::names::NodeName;
use super::time::Time;

/// What one server says of a lease's members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Register {
    /// Who has the lease there.
    pub holder: Option<String>,
    /// For how long it has been kept without a break.
    pub kept: Duration,
    /// Those who spoke less than their ttl ago.
    pub entries: Vec<Entry>,
}

/// A node in a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its latest word.
    pub member: Member,
    /// Whether that was that it leaves.
    pub left: bool,
    /// The number of that word: of one agent's words a later one has a greater number, whatever its name is.
    pub word: u64,
    /// The agent that said it, the same over restarts and renames: the name is for people.
    pub instance: u128,
}

/// The members of one lease, as a node knows them.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    /// When the latest of the questions was sent that were answered.
    asked: Option<Time>,
    /// Those of the latest answer, and when they lapse if nothing more is heard of them.
    known: BTreeMap<NodeName, (Entry, Time)>,
}

impl Attendance {
    /// What all servers' answers to a question sent at `sent` come to.
    ///
    /// # Errors
    /// Fewer than most have answered: why.
    pub fn call(&mut self, sent: Time, said: Vec<Result<Register, String>>) -> Result<Muster, String> {
        let servers = said.len();
        let (registers, reasons): (Vec<_>, Vec<_>) = said.into_iter().partition(Result::is_ok);
        let registers: Vec<Register> = registers.into_iter().flatten().collect();
        if !is_most(registers.len(), servers) {
            let reasons: Vec<String> = reasons.into_iter().filter_map(Result::err).collect();
            return Err(match servers {
                1 => reasons.concat(),
                _ => format!("{} of {servers} servers answered: {}", registers.len(), reasons.join("; ")),
            });
        }
        let named = registers.iter().flat_map(|register| &register.entries).map(|entry| &entry.member.node);
        let names: BTreeSet<&NodeName> = named.chain(self.known.keys()).collect();
        let mut agents: BTreeMap<u128, Entry> = BTreeMap::new();
        for entry in names.into_iter().filter_map(|node| self.count(node, sent, &registers)) {
            if agents.get(&entry.instance).is_none_or(|other| other.word < entry.word) {
                agents.insert(entry.instance, entry);
            }
        }
        let members: BTreeMap<NodeName, Entry> =
            agents.into_values().map(|entry| (entry.member.node.clone(), entry)).collect();
        // An answer that was overtaken by a later one's says nothing new.
        if Some(sent) >= self.asked {
            self.asked = Some(sent);
            let until = |entry: &Entry| (entry.clone(), sent + entry.member.left);
            self.known = members.iter().map(|(node, entry)| (node.clone(), until(entry))).collect();
        }
        let members = members.into_values().map(|entry| entry.member).collect();
        Ok(Muster { holder: holder(&registers), members })
    }

    /// A node, if it lives: the latest of its words by which it does, with the time that it has left.
    fn count(&self, node: &NodeName, sent: Time, registers: &[Register]) -> Option<Entry> {
        let entry = |register: &Register| register.entries.iter().find(|entry| entry.member.node == *node).cloned();
        let entries: Vec<Option<Entry>> = registers.iter().map(entry).collect();
        let words = || entries.iter().flatten();
        let Some(latest) = words().min_by_key(|entry| (entry.silence(), entry.left)) else {
            let (entry, until) = self.known.get(node)?;
            let no_say = registers.iter().all(|register| register.kept < entry.member.membership.ttl);
            let left = sent.until(*until);
            return (no_say && !left.is_zero()).then(|| entry.with(left));
        };
        let ttl = latest.member.membership.ttl;
        let silent = |(register, entry): (&Register, &Option<Entry>)| match entry {
            Some(entry) => entry.left,
            None => register.kept >= ttl,
        };
        let no = registers.iter().zip(&entries).filter(|pair| silent(*pair)).count();
        let mut left: Vec<Duration> = words().filter(|entry| !entry.left).map(|entry| entry.member.left).collect();
        left.sort_unstable_by(|a, b| b.cmp(a));
        // It lapses when fewer are left than half of those who have a say.
        let needed = (left.len() + no).div_ceil(2);
        let left = *left.get(needed - 1)?;
        // What it said last, where it did not say that it leaves.
        let said = words().filter(|entry| !entry.left).min_by_key(|entry| entry.silence())?;
        Some(said.with(left))
    }
}

impl Entry {
    /// The same with so much time left.
    fn with(&self, left: Duration) -> Entry {
        let mut entry = self.clone();
        entry.member.left = left;
        entry
    }

    /// How long ago it spoke there.
    fn silence(&self) -> Duration {
        self.member.membership.ttl.saturating_sub(self.member.left)
    }
}

/// Whether so many of `servers` are most of them.
pub fn is_most(count: usize, servers: usize) -> bool {
    count > servers / 2
}

/// Who has at least half of these votes, and more than anybody else.
fn holder(registers: &[Register]) -> Option<String> {
    let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
    registers.iter().filter_map(|register| register.holder.as_ref()).for_each(|it| *votes.entry(it).or_default() += 1);
    let (first, most) = votes.iter().max_by_key(|(_, count)| **count)?;
    let alone = votes.values().filter(|count| *count == most).count() == 1;
    (alone && 2 * most >= registers.len()).then(|| (*first).clone())
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::model::election::Membership;

    const TTL: Duration = Duration::from_secs(15);
    const OLD: u64 = 1_000;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn entry(name: &str, left: u64) -> Entry {
        let membership =
            Membership { valor: 1, stands: true, appoints: None, scroll: format!("with {left} left"), ttl: TTL };
        let member = Member { node: node(name), membership, left: Duration::from_secs(left) };
        let instance = name.bytes().map(u128::from).sum();
        Entry { member, left: false, word: 1, instance }
    }

    fn gone(name: &str, left: u64) -> Entry {
        Entry { left: true, ..entry(name, left) }
    }

    /// The same as a word of this number of the agent that was called `b` first.
    fn of_b(word: u64, entry: Entry) -> Entry {
        Entry { word, instance: self::entry("b", 0).instance, ..entry }
    }

    /// A register that has been kept for so many seconds.
    fn kept(seconds: u64, entries: &[Entry]) -> Result<Register, String> {
        Ok(Register { holder: None, kept: Duration::from_secs(seconds), entries: entries.to_vec() })
    }

    fn refused() -> Result<Register, String> {
        Err("refused".into())
    }

    fn at(second: u64) -> Time {
        Time::ZERO + Duration::from_secs(second)
    }

    /// Names and the seconds they have left.
    fn live(muster: &Muster) -> Vec<(String, u64)> {
        muster.members.iter().map(|member| (member.node.to_string(), member.left.as_secs())).collect()
    }

    #[track_caller]
    fn called(attendance: &mut Attendance, second: u64, said: &[Result<Register, String>]) -> Vec<(String, u64)> {
        live(&attendance.call(at(second), said.to_vec()).unwrap())
    }

    fn fresh(said: &[Result<Register, String>]) -> Vec<(String, u64)> {
        called(&mut Attendance::default(), 0, said)
    }

    fn is(name: &str, left: u64) -> Vec<(String, u64)> {
        vec![(name.into(), left)]
    }

    #[test]
    fn one_server_is_taken_at_its_word() {
        assert_eq!(
            fresh(&[kept(OLD, &[entry("b", 9), entry("a", 3), gone("c", 5)])]),
            [("a".into(), 3), ("b".into(), 9)]
        );
        assert_eq!(Attendance::default().call(at(0), vec![refused()]), Err("refused".into()));
    }

    #[test]
    fn fewer_answers_than_those_of_most_servers_say_nothing() {
        let one = kept(OLD, &[entry("a", 9)]);
        let why = Attendance::default().call(at(0), vec![one.clone(), refused(), refused()]).unwrap_err();
        assert_eq!(why, "1 of 3 servers answered: refused; refused");
        assert!(Attendance::default().call(at(0), vec![one.clone(), one, refused(), refused()]).is_err());
    }

    #[test]
    fn a_server_that_came_back_empty_makes_nobody_silent() {
        let a = || kept(OLD, &[entry("a", 9)]);
        for said in [[a(), a(), kept(0, &[])], [a(), refused(), kept(0, &[])], [a(), a(), kept(OLD, &[])]] {
            assert_eq!(fresh(&said), is("a", 9), "{said:?}");
        }
    }

    #[test]
    fn who_is_heard_by_a_minority_only_does_not_live() {
        let (a, none) = (kept(OLD, &[entry("a", 9)]), kept(OLD, &[]));
        assert_eq!(fresh(&[a.clone(), none.clone(), none.clone()]), []);
        assert_eq!(fresh(&[a.clone(), a.clone(), none.clone(), none.clone(), none.clone()]), []);
        // It says that it leaves, where it is heard by fewer than most.
        assert_eq!(fresh(&[kept(OLD, &[gone("a", 9)]), none, refused()]), []);
    }

    #[test]
    fn two_nodes_cut_off_from_different_servers_see_each_other() {
        assert_eq!(fresh(&[refused(), kept(OLD, &[entry("a", 9)]), kept(OLD, &[])]), is("a", 9));
    }

    #[test]
    fn a_node_lapses_when_it_does_on_half_of_the_servers() {
        let of = |left| kept(OLD, &[entry("a", left)]);
        assert_eq!(fresh(&[of(9), of(4), of(2)]), is("a", 4));
        assert_eq!(fresh(&[of(9), of(4), kept(OLD, &[])]), is("a", 4));
        assert_eq!(fresh(&[of(9), of(4), kept(0, &[])]), is("a", 9));
        assert_eq!(fresh(&[of(9), of(4), refused()]), is("a", 9));
    }

    #[test]
    fn its_latest_word_counts() {
        let muster =
            Attendance::default().call(at(0), vec![kept(OLD, &[entry("a", 4)]), kept(OLD, &[entry("a", 9)])]).unwrap();
        assert_eq!(muster.members[0].membership.scroll, "with 9 left");
    }

    #[test]
    fn who_left_has_left_though_one_server_did_not_hear_it() {
        let gone = kept(OLD, &[gone("a", 9)]);
        assert_eq!(fresh(&[gone.clone(), kept(OLD, &[entry("a", 8)]), gone]), []);
    }

    #[test]
    fn where_everything_was_lost_those_that_were_there_are_until_they_lapse() {
        let mut attendance = Attendance::default();
        called(&mut attendance, 100, &[kept(OLD, &[entry("a", 15), entry("b", 10)])]);
        let both = |a, b| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        assert_eq!(called(&mut attendance, 103, &[kept(0, &[entry("a", 15)])]), both(15, 7));
        assert_eq!(
            called(&mut attendance, 105, &[kept(2, &[entry("a", 15)])]),
            both(15, 5),
            "and not longer with each question"
        );
        assert_eq!(called(&mut attendance, 110, &[kept(7, &[entry("a", 15)])]), is("a", 15));

        let mut attendance = Attendance::default();
        called(&mut attendance, 100, &[kept(OLD, &[entry("b", 10)])]);
        assert_eq!(called(&mut attendance, 101, &[kept(1, &[gone("b", 14)])]), [], "it left since");
        let mut attendance = Attendance::default();
        called(&mut attendance, 100, &[kept(OLD, &[entry("b", 10)])]);
        assert_eq!(called(&mut attendance, 101, &[kept(OLD, &[])]), [], "it was forgotten, but nothing was lost");
    }

    #[test]
    fn an_agent_with_two_names_is_one_member_by_its_latest_word() {
        for new in ["a", "z"] {
            let (old, new) = (of_b(1, entry("b", 14)), of_b(2, entry(new, 15)));
            let latest = |said: &[Entry]| fresh(&[kept(OLD, said)]).pop();
            let is_called = |entry: &Entry, left| Some((entry.member.node.to_string(), left));
            assert_eq!(fresh(&[kept(OLD, &[old.clone(), new.clone()])]).len(), 1);
            assert_eq!(latest(&[old.clone(), new.clone()]), is_called(&new, 15));
            assert_eq!(latest(&[of_b(3, gone("b", 15)), new.clone()]), is_called(&new, 15));
            // It has its old name again.
            assert_eq!(latest(&[of_b(3, old.clone()), new.clone()]), is_called(&old, 14));
        }
    }

    #[test]
    fn an_agent_with_two_names_is_one_member_whichever_server_heard_of_which() {
        for new in ["a", "z"] {
            let (old, new) = (of_b(1, entry("b", 12)), of_b(2, entry(new, 15)));
            let (before, both) = (kept(OLD, slice::from_ref(&old)), kept(OLD, &[old, new.clone()]));
            let after = kept(OLD, &[of_b(3, gone("b", 15)), new.clone()]);
            let empty = || kept(0, &[]);
            for said in [
                [both.clone(), before.clone(), refused()],
                [both.clone(), both.clone(), refused()],
                [after.clone(), before.clone(), refused()],
                [after.clone(), both.clone(), refused()],
                [after.clone(), after.clone(), refused()],
                [both.clone(), empty(), refused()],
                [both.clone(), both.clone(), before.clone()],
                [after.clone(), after.clone(), before.clone()],
                [after.clone(), both.clone(), before.clone()],
            ] {
                let names: Vec<String> = fresh(&said).into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, [new.member.node.as_str()], "{said:?}");
            }
            // Most have not heard the new name.
            for said in [[both.clone(), before.clone(), before.clone()], [before.clone(), before.clone(), refused()]] {
                assert_eq!(fresh(&said), is("b", 12), "{said:?}");
            }
        }
    }

    #[test]
    fn where_everything_was_lost_an_old_name_that_is_remembered_is_no_other_member() {
        for new in ["a", "z"] {
            let (old, new) = (of_b(1, entry("b", 10)), of_b(2, entry(new, 15)));
            let mut attendance = Attendance::default();
            called(&mut attendance, 100, &[kept(OLD, slice::from_ref(&old))]);
            let name = new.member.node.as_str();
            assert_eq!(called(&mut attendance, 101, &[kept(1, slice::from_ref(&new))]), is(name, 15));
            assert_eq!(called(&mut attendance, 102, &[kept(0, &[])]), is(name, 14), "and is remembered by that");
            // It is heard late, by its old name.
            assert_eq!(called(&mut attendance, 103, &[kept(1, &[old])]), is(name, 13));
        }
    }

    #[test]
    fn two_agents_are_two_members_also_where_one_has_the_others_old_name() {
        let two = |said: &[Result<Register, String>]| assert_eq!(fresh(said).len(), 2, "{said:?}");
        // Their clocks have nothing to do with each other.
        for word in [1, 2, 3] {
            two(&[kept(OLD, &[entry("a", 15), Entry { word, ..entry("c", 15) }])]);
            let (before, renamed) = (of_b(1, entry("b", 10)), of_b(2, entry("a", 15)));
            let other = Entry { word, ..entry("b", 14) };
            let other = Entry { instance: other.instance + 1, ..other };
            two(&[kept(OLD, &[renamed.clone(), other.clone()])]);
            // One server has not heard yet that another has its name now.
            two(&[kept(OLD, &[renamed.clone(), other]), kept(OLD, &[before, renamed]), refused()]);
        }
    }

    #[test]
    fn an_answer_that_comes_late_makes_nobody_live_longer() {
        let mut attendance = Attendance::default();
        called(&mut attendance, 100, &[kept(OLD, &[entry("b", 5)])]);
        called(&mut attendance, 90, &[kept(OLD, &[entry("b", 5), entry("c", 15)])]);
        assert_eq!(called(&mut attendance, 101, &[kept(0, &[])]), is("b", 4));
    }

    #[test]
    fn the_holder_is_who_has_half_of_the_votes_that_are_known() {
        let held = |by: &[&str]| {
            let register = |by: &&str| Ok(Register { holder: Some((*by).into()), ..Register::default() });
            let muster = Attendance::default().call(at(0), by.iter().map(register).collect()).unwrap();
            muster.holder
        };
        assert_eq!(held(&["a"]), Some("a".into()));
        assert_eq!(held(&["a", "b", "a"]), Some("a".into()));
        assert_eq!(held(&["a", "b", "c"]), None);
        assert_eq!(held(&["a", "b"]), None);
    }
}
