//! One question about a lease, put to several independent servers, and what their answers mean together.
//!
//! A lease holds while most of the servers say so, as with Redlock, and each server keeps the rules of one alone: who
//! has its vote has it for a ttl, and one that lost its data gives it to nobody new for as long. So any minority may
//! die, hang or forget; for two holders at once it would take two majorities, and those share a server.
//!
//! - **Take**: most servers have to grant it. Each draws a token of its own. The greatest that a majority drew is the
//!   tenure's, and it is written back until most servers know it, before anybody hears of the grant: the next majority
//!   shares a server with those, so its token is greater. Where there is no majority the votes are given back.
//! - **Refresh**: most have to confirm it. A server whose vote nobody has (it came back, or somebody's attempt failed)
//!   is asked for it at once, by all the rules of a taking, and counts with the others: so a holder gathers all again.
//! - **Release**: most have to confirm it; votes of servers that did not hear of it end by themselves.
//! - **A pause** stands where most servers know of it: then those that do not cannot grant a take, and a holder is told to
//!   stop. Where that hangs on a server that has not answered yet, a refresh waits for it.
//!
//! One server is a majority of one: its answer is the verdict, at once and in one round.

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{Ask, AskKind, LeaseAnswer};
use super::names::Owner;

/// One question to one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// Which server, counted from 0.
    pub server: usize,
    /// What it is asked.
    pub ask: Ask,
}

/// One question put to all servers.
///
/// Every [`Put`] is answered with [`Vote::answered`], before the verdict or after it; where no answer came in time, with
/// [`LeaseAnswer::Failed`].
#[derive(Debug, Clone)]
pub struct Vote {
    ask: Ask,
    seats: Vec<Seat>,
    /// A tenure's token, once most servers have granted it.
    token: Option<u64>,
    verdict: Option<LeaseAnswer>,
}

/// One server's part.
#[derive(Debug, Clone)]
struct Seat {
    /// What it answered to the question itself.
    answer: Option<LeaseAnswer>,
    then: Then,
}

/// What followed its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// It was asked a second thing: by a take to know of a token greater than its own, by a refresh for its free vote.
    Asked,
    /// It agreed; or, of a take, it knows a token as great as the tenure's by itself.
    Agreed,
    /// It did not.
    Declined,
    /// Its vote was given back. What it says to that changes nothing here.
    Settled,
}

impl Vote {
    /// Puts `ask` to `servers` servers, at least one.
    pub fn new(ask: Ask, servers: usize) -> (Vote, Vec<Put>) {
        let puts = (0..servers).map(|server| Put { server, ask: ask.clone() }).collect();
        let seats = vec![Seat { answer: None, then: Then::Nothing }; servers];
        (Vote { ask, seats, token: None, verdict: None }, puts)
    }

    /// What the question came to, once that is known.
    pub fn verdict(&self) -> Option<&LeaseAnswer> {
        self.verdict.as_ref()
    }

    /// A server answered what it was asked. What it, or another, is to be asked next comes with `puts`.
    pub fn answered(&mut self, server: usize, asked: &AskKind, answer: LeaseAnswer, puts: &mut Vec<Put>) {
        let seat = &mut self.seats[server];
        match (&self.ask.kind, asked) {
            (AskKind::Take { .. }, AskKind::Refresh { .. }) | (AskKind::Refresh { .. }, AskKind::Take { .. })
                if seat.then == Then::Asked =>
            {
                let agreed = matches!(answer, LeaseAnswer::Granted { .. });
                seat.then = if agreed { Then::Agreed } else { Then::Declined };
            }
            (AskKind::Take { .. }, AskKind::Take { .. })
            | (AskKind::Refresh { .. }, AskKind::Refresh { .. })
            | (AskKind::Release { .. }, AskKind::Release { .. })
            | (AskKind::Withdraw, AskKind::Withdraw) => {
                // Given back before the vote was known to have come: again, or it would be nobody's for a ttl.
                seat.then = Then::Nothing;
                seat.answer = Some(answer);
            }
            _ => {}
        }
        self.go_on(puts);
    }

    /// Decides what can be decided by now, and asks for what follows from it.
    fn go_on(&mut self, puts: &mut Vec<Put>) {
        match self.ask.kind.clone() {
            AskKind::Take { ttl, .. } => {
                self.token = self.token.or_else(|| self.drawn());
                if let Some(tenure) = self.token
                    && !self.is_denied()
                {
                    self.tell(ttl, tenure, puts);
                }
                self.verdict = self.verdict.take().or_else(|| self.count_take());
                if self.is_denied() {
                    self.give_back(puts);
                }
            }
            AskKind::Refresh { ttl, token } => {
                self.verdict = self.verdict.take().or_else(|| self.lost());
                // Only a holder gathers: one server at least says that this is one, and not most that it is not.
                if self.confirmed() > 0 && !self.is_denied() {
                    self.gather(ttl, puts);
                }
                self.verdict = self.verdict.take().or_else(|| self.count_refresh(token));
            }
            AskKind::Release { .. } | AskKind::Withdraw => {
                self.verdict = self.verdict.take().or_else(|| self.count_release());
            }
        }
    }

    fn majority(&self) -> usize {
        self.seats.len() / 2 + 1
    }

    fn unanswered(&self) -> usize {
        self.seats.iter().filter(|seat| seat.answer.is_none()).count()
    }

    fn count(&self, what: impl Fn(&LeaseAnswer) -> bool) -> usize {
        self.seats.iter().filter_map(|seat| seat.answer.as_ref()).filter(|answer| what(answer)).count()
    }

    /// Whether the question is decided, and not as was hoped.
    fn is_denied(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.granted().is_none())
    }

    /// The greatest token of those that granted the lease, once they are most.
    fn drawn(&self) -> Option<u64> {
        let tokens = self.seats.iter().filter_map(Seat::granted);
        if tokens.clone().count() < self.majority() { None } else { tokens.max() }
    }

    /// Sees to it that all that granted the lease know its token.
    fn tell(&mut self, ttl: Duration, tenure: u64, puts: &mut Vec<Put>) {
        for (server, seat) in self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.then == Then::Nothing) {
            match seat.granted() {
                Some(token) if token >= tenure => seat.then = Then::Agreed,
                Some(_) => {
                    seat.then = Then::Asked;
                    puts.push(put(server, &self.ask, AskKind::Refresh { ttl, token: tenure }));
                }
                None => {}
            }
        }
    }

    /// Gives back what votes there are, or may be: that one was given may not have been heard.
    fn give_back(&mut self, puts: &mut Vec<Put>) {
        // Of one server: nothing was granted, and a question that failed is asked again by the same owner.
        if self.seats.len() == 1 {
            return;
        }
        for (server, seat) in self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.then != Then::Settled) {
            seat.then = Then::Settled;
            if matches!(seat.answer, None | Some(LeaseAnswer::Granted { .. } | LeaseAnswer::Failed { .. })) {
                puts.push(put(server, &self.ask, AskKind::Withdraw));
            }
        }
    }

    /// Asks for the votes that nobody has.
    fn gather(&mut self, ttl: Duration, puts: &mut Vec<Put>) {
        for (server, seat) in self.seats.iter_mut().enumerate().filter(|(_, seat)| seat.then == Then::Nothing) {
            if seat.answer == Some(LeaseAnswer::Lost { by: None }) {
                seat.then = Then::Asked;
                puts.push(put(server, &self.ask, AskKind::Take { ttl, longest: ttl, seen: None }));
            }
        }
    }

    fn count_take(&self) -> Option<LeaseAnswer> {
        let Some(token) = self.token else {
            let granted = self.count(|answer| matches!(answer, LeaseAnswer::Granted { .. }));
            return if granted + self.unanswered() < self.majority() { self.denial() } else { None };
        };
        if self.are(Then::Agreed) >= self.majority() {
            return Some(LeaseAnswer::Granted { token });
        }
        let may_agree = self.are(Then::Agreed) + self.are(Then::Asked) + self.unanswered();
        (may_agree < self.majority()).then(|| self.split())
    }

    /// Why most servers do not grant the lease, and how long until they may, as soon as that is known.
    fn denial(&self) -> Option<LeaseAnswer> {
        if let [Seat { answer, .. }] = self.seats.as_slice() {
            return answer.clone();
        }
        let mut holders: BTreeMap<&str, usize> = BTreeMap::new();
        self.seats.iter().filter_map(Seat::holder).for_each(|holder| *holders.entry(holder).or_default() += 1);
        let mut denials: Vec<(Duration, &LeaseAnswer)> = self.seats.iter().filter_map(Seat::denied_for).collect();
        // Where none of several has most servers they are in each other's way, and it is over in a moment. Where one
        // has, the others are what attempts have left behind.
        if let Some(most) = holders.values().max().filter(|most| holders.len() > 1 && **most < self.majority()) {
            return (most + self.unanswered() < self.majority()).then(|| self.split());
        }
        if denials.len() < self.majority() {
            return (self.unanswered() == 0).then(|| self.split());
        }
        denials.sort_by_key(|(left, _)| *left);
        let granted = self.count(|answer| matches!(answer, LeaseAnswer::Granted { .. }));
        let paused = self.count(|answer| matches!(answer, LeaseAnswer::Paused(_)));
        // With those that grant it now, these make a majority.
        match denials[self.majority() - granted - 1].1 {
            // One that only a few know of does not stand; the others are asked again in their time.
            LeaseAnswer::Paused(_) if paused < self.majority() => {
                let mut answers = denials.iter().map(|(_, answer)| *answer);
                let last = answers.rfind(|answer| !matches!(answer, LeaseAnswer::Paused(_)));
                (self.unanswered() == 0).then(|| last.cloned().unwrap_or_else(|| self.split()))
            }
            denial => Some(denial.clone()),
        }
    }

    fn split(&self) -> LeaseAnswer {
        LeaseAnswer::Split { reason: self.tally() }
    }

    fn count_refresh(&self, token: u64) -> Option<LeaseAnswer> {
        if self.confirmed() < self.majority() {
            return self.failure();
        }
        let paused = self.count(|answer| matches!(answer, LeaseAnswer::GrantedToStop { .. }));
        let pause = self.seats.iter().find_map(|seat| match &seat.answer {
            Some(LeaseAnswer::GrantedToStop { pause, .. }) => Some(pause.clone()),
            _ => None,
        });
        match pause {
            Some(pause) if paused >= self.majority() => Some(LeaseAnswer::GrantedToStop { token, pause }),
            Some(_) if paused + self.unanswered() >= self.majority() => None,
            Some(_) | None => Some(LeaseAnswer::Granted { token }),
        }
    }

    fn confirmed(&self) -> usize {
        self.count(|answer| answer.granted().is_some()) + self.are(Then::Agreed)
    }

    /// That so many say that the lease is another's that most cannot confirm it any more.
    fn lost(&self) -> Option<LeaseAnswer> {
        let lost = self.count(|answer| matches!(answer, LeaseAnswer::Lost { .. })) - self.are(Then::Agreed);
        let by = || self.seats.iter().filter_map(Seat::holder).next().map(ToOwned::to_owned);
        (self.seats.len() - lost < self.majority()).then(|| LeaseAnswer::Lost { by: by() })
    }

    fn are(&self, then: Then) -> usize {
        self.seats.iter().filter(|seat| seat.then == then).count()
    }

    fn count_release(&self) -> Option<LeaseAnswer> {
        if self.count(|answer| *answer == LeaseAnswer::Released) >= self.majority() {
            return Some(LeaseAnswer::Released);
        }
        self.failure()
    }

    /// That nothing was decided, when nothing can be any more.
    fn failure(&self) -> Option<LeaseAnswer> {
        match self.seats.as_slice() {
            _ if self.unanswered() + self.are(Then::Asked) > 0 => None,
            [Seat { answer, .. }] => answer.clone(),
            _ => Some(LeaseAnswer::Failed { reason: self.tally() }),
        }
    }

    /// What each server said, in words: `no majority of 3 servers: 1 granted it, 1 no answer in time, …`.
    fn tally(&self) -> String {
        let mut said: Vec<(String, usize)> = Vec::new();
        for seat in &self.seats {
            let word = match &seat.answer {
                Some(LeaseAnswer::Granted { .. } | LeaseAnswer::GrantedToStop { .. }) => "yes".into(),
                Some(LeaseAnswer::Paused(pause)) => pause.to_string(),
                Some(LeaseAnswer::Failed { reason } | LeaseAnswer::Split { reason }) => reason.clone(),
                Some(LeaseAnswer::Released) => "released".into(),
                Some(LeaseAnswer::Quarantined { .. }) => "a holder may still live".into(),
                Some(LeaseAnswer::Reserved { node, .. }) => format!("kept for {node}"),
                Some(answer) => match answer.holder() {
                    Some(holder) => format!("held by {}", Owner::node_in(holder)),
                    None => "no".into(),
                },
                None => "no answer yet".into(),
            };
            match said.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += 1,
                None => said.push((word, 1)),
            }
        }
        let said: Vec<String> = said.into_iter().map(|(word, count)| format!("{count} × {word}")).collect();
        format!("no majority of {} servers: {}", self.seats.len(), said.join(", "))
    }
}

fn put(server: usize, ask: &Ask, kind: AskKind) -> Put {
    Put { server, ask: Ask { owner: ask.owner.clone(), sent: ask.sent, kind } }
}

impl Seat {
    fn granted(&self) -> Option<u64> {
        match self.answer {
            Some(LeaseAnswer::Granted { token }) => Some(token),
            _ => None,
        }
    }

    fn holder(&self) -> Option<&str> {
        self.answer.as_ref().and_then(LeaseAnswer::holder)
    }

    fn denied_for(&self) -> Option<(Duration, &LeaseAnswer)> {
        let answer = self.answer.as_ref()?;
        Some((answer.left()?, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::NodeName;
    use crate::model::pause::Pause;
    use crate::model::time::Time;

    const TTL: Duration = Duration::from_secs(15);

    /// A vote, with what it asked that is not answered yet.
    struct Play {
        vote: Vote,
        puts: Vec<Put>,
    }

    impl Play {
        fn new(servers: usize, kind: AskKind) -> Play {
            let owner = Owner { node: NodeName::parse("a").unwrap(), nonce: 1 };
            let (vote, puts) = Vote::new(Ask { owner, sent: Time::ZERO, kind }, servers);
            Play { vote, puts }
        }

        fn take(servers: usize) -> Play {
            Play::new(servers, AskKind::Take { ttl: TTL, longest: TTL, seen: None })
        }

        fn refresh() -> Play {
            Play::new(3, AskKind::Refresh { ttl: TTL, token: 7 })
        }

        /// The first thing that this server was asked and has not answered.
        #[track_caller]
        fn answer(&mut self, server: usize, answer: LeaseAnswer) -> &mut Play {
            let at = self.puts.iter().position(|put| put.server == server).expect("a question to that server");
            let put = self.puts.remove(at);
            self.vote.answered(server, &put.ask.kind, answer, &mut self.puts);
            self
        }

        /// What each server is asked besides, in short.
        fn asks(&self) -> Vec<String> {
            let word = |kind: &AskKind| match kind {
                AskKind::Take { .. } => "take".to_owned(),
                AskKind::Refresh { token, .. } => format!("know {token}"),
                AskKind::Release { .. } => "release".to_owned(),
                AskKind::Withdraw => "withdraw".to_owned(),
            };
            self.puts.iter().map(|put| format!("{} {}", put.server, word(&put.ask.kind))).collect()
        }

        fn verdict(&self) -> Option<LeaseAnswer> {
            self.vote.verdict().cloned()
        }
    }

    fn granted(token: u64) -> LeaseAnswer {
        LeaseAnswer::Granted { token }
    }

    fn held(by: &str, left: u64) -> LeaseAnswer {
        LeaseAnswer::Held { by: by.into(), left: Duration::from_secs(left), ttl: TTL }
    }

    fn failed() -> LeaseAnswer {
        LeaseAnswer::Failed { reason: "refused".into() }
    }

    #[test]
    fn one_server_decides_at_once_whatever_it_says() {
        for answer in [granted(7), held("b", 3), failed(), LeaseAnswer::Quarantined { left: TTL }] {
            let mut play = Play::take(1);
            play.answer(0, answer.clone());
            assert_eq!((play.verdict(), play.asks()), (Some(answer), vec![]));
        }
    }

    #[test]
    fn a_take_is_granted_when_most_know_the_greatest_token_of_a_majority() {
        let mut play = Play::take(3);
        play.answer(0, granted(7));
        assert_eq!(play.verdict(), None);
        play.answer(2, granted(9));
        assert_eq!((play.verdict(), play.asks()), (None, vec!["1 take".into(), "0 know 9".into()]));
        play.answer(0, granted(9));
        assert_eq!(play.verdict(), Some(granted(9)));
    }

    #[test]
    fn who_grants_late_is_told_the_token_and_a_greater_one_of_its_own_is_as_good() {
        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, granted(9)).answer(2, granted(8));
        assert_eq!(play.asks(), ["0 know 9", "2 know 9"]);
        play.answer(0, failed());
        assert_eq!(play.verdict(), None, "two of three have to know");
        play.answer(2, granted(9));
        assert_eq!(play.verdict(), Some(granted(9)));

        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, granted(9)).answer(2, granted(11));
        assert_eq!(play.verdict(), Some(granted(9)), "the third may know a greater one");
    }

    #[test]
    fn where_most_do_not_come_to_know_the_token_all_votes_are_given_back() {
        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, granted(9)).answer(2, failed()).answer(0, failed());
        assert!(matches!(play.verdict(), Some(LeaseAnswer::Split { .. })), "{:?}", play.verdict());
        assert_eq!(play.asks(), ["0 withdraw", "1 withdraw", "2 withdraw"]);
    }

    #[test]
    fn a_denial_is_decided_early_and_lasts_until_a_majority_may_be_had() {
        let mut play = Play::take(5);
        play.answer(0, granted(7)).answer(1, held("b", 9)).answer(2, held("b", 4));
        assert_eq!(play.verdict(), None);
        play.answer(3, LeaseAnswer::Quarantined { left: Duration::from_secs(6) });
        assert_eq!(play.verdict(), Some(LeaseAnswer::Quarantined { left: Duration::from_secs(6) }));
        assert_eq!(play.asks(), ["4 take", "0 withdraw", "4 withdraw"]);
        // And what was on its way when it was given back is given back again.
        play.answer(4, granted(8));
        assert_eq!(play.asks(), ["0 withdraw", "4 withdraw", "4 withdraw"]);
    }

    #[test]
    fn a_server_that_is_away_does_not_make_a_clear_denial_a_split_one() {
        let mut play = Play::take(3);
        play.answer(0, LeaseAnswer::Quarantined { left: TTL }).answer(1, failed());
        assert_eq!(play.verdict(), None);
        play.answer(2, LeaseAnswer::Quarantined { left: TTL });
        assert_eq!(play.verdict(), Some(LeaseAnswer::Quarantined { left: TTL }));
    }

    #[test]
    fn two_that_are_in_each_others_way_part_at_once() {
        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, held("b", 15)).answer(2, held("c", 15));
        let Some(LeaseAnswer::Split { reason }) = play.verdict() else { panic!("{:?}", play.verdict()) };
        assert_eq!(reason, "no majority of 3 servers: 1 × yes, 1 × held by b, 1 × held by c");
        assert_eq!(play.asks(), ["0 withdraw"]);
    }

    #[test]
    fn what_an_attempt_left_behind_does_not_hide_who_has_most_servers() {
        let mut play = Play::take(3);
        play.answer(0, held("b", 9)).answer(1, held("c", 15));
        assert_eq!(play.verdict(), None, "the third may be b's");
        play.answer(2, held("b", 8));
        assert_eq!(play.verdict(), Some(held("b", 9)), "until two of the three may be had");

        let mut play = Play::take(5);
        play.answer(0, held("b", 9)).answer(1, held("c", 3)).answer(2, held("c", 15)).answer(3, held("b", 8));
        assert_eq!(play.verdict(), None);
        play.answer(4, failed());
        assert!(matches!(play.verdict(), Some(LeaseAnswer::Split { .. })));
    }

    #[test]
    fn a_holder_keeps_the_lease_while_most_confirm_it_and_gathers_what_nobody_has() {
        let mut play = Play::refresh();
        play.answer(0, granted(7)).answer(1, LeaseAnswer::Lost { by: None });
        assert_eq!((play.verdict(), play.asks()), (None, vec!["2 know 7".into(), "1 take".into()]));
        play.answer(2, granted(7));
        assert_eq!(play.verdict(), Some(granted(7)));
        play.answer(1, granted(12));
        assert_eq!((play.verdict(), play.asks()), (Some(granted(7)), vec![]), "the tenure's token stays");
    }

    #[test]
    fn a_vote_that_nobody_has_counts_once_it_is_had() {
        let mut play = Play::refresh();
        play.answer(0, granted(7)).answer(1, failed()).answer(2, LeaseAnswer::Lost { by: None });
        assert_eq!((play.verdict(), play.asks()), (None, vec!["2 take".into()]));
        play.answer(2, granted(12));
        assert_eq!(play.verdict(), Some(granted(7)));

        let mut play = Play::refresh();
        play.answer(0, granted(7)).answer(1, failed()).answer(2, LeaseAnswer::Lost { by: None });
        play.answer(2, held("b", 9));
        assert!(matches!(play.verdict(), Some(LeaseAnswer::Failed { .. })), "{:?}", play.verdict());
    }

    #[test]
    fn where_most_know_of_another_tenure_nothing_is_gathered() {
        let mut play = Play::refresh();
        play.answer(0, LeaseAnswer::Lost { by: None }).answer(1, LeaseAnswer::Lost { by: None });
        assert_eq!(play.verdict(), Some(LeaseAnswer::Lost { by: None }));
        assert_eq!(play.asks(), ["2 know 7"]);
    }

    #[test]
    fn a_vote_that_somebody_else_has_is_left_alone() {
        let mut play = Play::refresh();
        play.answer(0, granted(7)).answer(2, granted(7)).answer(1, LeaseAnswer::Lost { by: Some("b".into()) });
        assert_eq!(play.asks(), Vec::<String>::new());
    }

    #[test]
    fn a_lease_is_lost_when_most_say_so_and_only_then() {
        let lost = LeaseAnswer::Lost { by: Some("b".into()) };
        let mut play = Play::refresh();
        play.answer(0, lost.clone()).answer(1, failed());
        assert_eq!(play.verdict(), None);
        play.answer(2, granted(7));
        assert!(matches!(play.verdict(), Some(LeaseAnswer::Failed { .. })));

        let mut play = Play::refresh();
        play.answer(0, lost.clone()).answer(1, LeaseAnswer::Lost { by: None });
        assert_eq!(play.verdict(), Some(lost));
    }

    fn pause() -> Pause {
        Pause { since: 7, by: "amy".into(), why: None }
    }

    fn to_stop() -> LeaseAnswer {
        LeaseAnswer::GrantedToStop { token: 7, pause: pause() }
    }

    #[test]
    fn a_pause_that_most_know_of_is_granted_to_nobody() {
        let paused = LeaseAnswer::Paused(pause());
        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, paused.clone());
        assert_eq!(play.verdict(), None);
        play.answer(2, paused.clone());
        assert_eq!(play.verdict(), Some(paused.clone()));
        assert_eq!(play.asks(), ["0 withdraw"]);

        // One that only one of them was told of does not stand.
        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, paused.clone()).answer(2, granted(7));
        assert_eq!(play.verdict(), Some(granted(7)));

        // Where somebody has it, that is what is waited for first.
        let mut play = Play::take(3);
        play.answer(0, held("b", 9)).answer(1, paused).answer(2, held("b", 8));
        assert_eq!(play.verdict(), Some(held("b", 9)));
    }

    #[test]
    fn a_pause_that_comes_before_most_know_the_token_makes_the_take_none() {
        let mut play = Play::take(3);
        play.answer(0, granted(7)).answer(1, granted(9)).answer(2, LeaseAnswer::Paused(pause()));
        play.answer(0, to_stop());
        assert!(matches!(play.verdict(), Some(LeaseAnswer::Split { .. })), "{:?}", play.verdict());
        assert_eq!(play.asks(), ["0 withdraw", "1 withdraw"]);
    }

    #[test]
    fn a_holder_is_told_of_a_pause_that_most_know_of_and_of_no_other() {
        let mut play = Play::refresh();
        play.answer(0, to_stop()).answer(1, to_stop());
        assert_eq!(play.verdict(), Some(to_stop()));

        // It hangs on the third.
        let mut play = Play::refresh();
        play.answer(0, to_stop()).answer(1, granted(7));
        assert_eq!(play.verdict(), None);
        play.answer(2, to_stop());
        assert_eq!(play.verdict(), Some(to_stop()));
        for third in [granted(7), failed(), LeaseAnswer::Lost { by: Some("b".into()) }] {
            let mut play = Play::refresh();
            play.answer(0, granted(7)).answer(1, to_stop()).answer(2, third);
            assert_eq!(play.verdict(), Some(granted(7)));
        }
        let mut play = Play::refresh();
        play.answer(0, granted(7)).answer(1, granted(7));
        assert_eq!(play.verdict(), Some(granted(7)), "one alone can pause nothing");
    }

    #[test]
    fn a_release_counts_when_most_have_heard_it() {
        let mut play = Play::new(3, AskKind::Release { to: None });
        play.answer(0, LeaseAnswer::Released).answer(1, failed());
        assert_eq!(play.verdict(), None);
        play.answer(2, LeaseAnswer::Released);
        assert_eq!(play.verdict(), Some(LeaseAnswer::Released));

        let mut play = Play::new(3, AskKind::Release { to: None });
        play.answer(0, LeaseAnswer::Released).answer(1, failed()).answer(2, failed());
        let Some(LeaseAnswer::Failed { reason }) = play.verdict() else { panic!("{:?}", play.verdict()) };
        assert_eq!(reason, "no majority of 3 servers: 1 × released, 2 × refused");
    }
}
