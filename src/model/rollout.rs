//! A roll: a deed that takes watchers down for a while, done on one node after another, and never on the next before the
//! last has come up again.
//!
//! circusctl performs it, and asks [`Rollout::decide`] what to do:
//!
//! ```text
//!              ask                 came up, and stayed up
//!   Untouched ─────→ Asked ────────────────────────────────→ Done
//!                      │                                       │ seen down again
//!                      │ refused, did not come up              ▼
//!                      ├───────────────────────────────────→ Failed
//!                      │ did not answer
//!                      └───────────────────────────────────→ Lost
//! ```
//!
//! Invariants:
//!
//! - Never are more nodes down than may be, as far as that is the roll's to decide: who is asked counts as down, and so
//!   does who was found down, or was not heard of.
//! - After a failure nobody is asked any more.
//! - Who has nothing to restart is not asked: stopped, or a singleton that another node has.

use super::names::NodeName;

/// How many nodes may be down at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Nodes(usize),
    /// So many of a hundred, rounded down, and one at least.
    Percent(usize),
}

impl Share {
    /// Reads `2` or `25%`; the error says what it is to be.
    pub fn parse(text: &str) -> Result<Share, String> {
        let bad = || format!("'{text}' is neither a number of nodes, such as 2, nor a share of them, such as 25%");
        let number = |digits: &str| digits.trim().parse::<usize>().map_err(|_| bad());
        match text.trim().strip_suffix('%') {
            Some(digits) => match number(digits)? {
                percent @ 1..=100 => Ok(Share::Percent(percent)),
                _ => Err("it is from 1% to 100%".into()),
            },
            None => match number(text)? {
                0 => Err("with 0 nothing could be restarted".into()),
                nodes => Ok(Share::Nodes(nodes)),
            },
        }
    }

    fn of(self, all: usize) -> usize {
        match self {
            Share::Nodes(nodes) => nodes,
            Share::Percent(percent) => (all * percent / 100).max(1),
        }
    }
}

/// How the watchers that are meant are on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// All that is wanted of them runs and is ready; so many of their processes were replaced because they had died.
    Up {
        /// Since the watchers began.
        deaths: u64,
    },
    /// Something of them is not as it should be.
    Down(String),
    /// None of them is to run there.
    Idle(String),
    /// The node does not tell.
    Silent(String),
}

/// What came of asking a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It did as it was asked, and was looked at twice: at once, and a while later.
    Seen {
        /// At once.
        first: Sight,
        /// Later.
        later: Sight,
    },
    /// It did not do it, or that failed.
    Refused(String),
    /// It did not answer.
    Silent(String),
}

/// How far the roll is with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was asked of it.
    Untouched,
    /// It was asked, and its answer, or the proof of it, is waited for.
    Asked,
    /// It came up and stayed up.
    Done,
    /// It did not.
    Failed(String),
    /// It did not tell.
    Lost(String),
}

/// A node in a roll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeName,
    /// How it was when it was last looked at.
    pub sight: Sight,
    /// How far the roll is with it.
    pub stage: Stage,
}

impl Member {
    /// Whether it is still to be asked.
    fn waits(&self) -> bool {
        self.stage == Stage::Untouched && matches!(self.sight, Sight::Up { .. } | Sight::Down(_))
    }

    /// Whether it counts as down.
    fn is_down(&self) -> bool {
        self.stage == Stage::Asked || matches!(self.sight, Sight::Down(_) | Sight::Silent(_))
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask this node, which counts as asked from now on.
    Ask(NodeName),
    /// Wait for what those say that were asked.
    Wait,
    /// Nothing more.
    Over(Verdict),
}

/// How a roll ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All that could be asked were, and came up again.
    Done,
    /// There was nothing to do anywhere.
    Idle,
    /// A node failed or fell silent, and the others were left alone.
    Stopped,
    /// As many are down as may be, without the roll's doing.
    Held,
    /// Whoever asked for it called it off.
    CalledOff,
    /// It could not be seen any more how the nodes are: why.
    Blind(String),
}

/// A roll as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    members: Vec<Member>,
    most: usize,
}

impl Rollout {
    /// One over these nodes, in this order.
    pub fn new(nodes: impl IntoIterator<Item = (NodeName, Sight)>, most: Share) -> Rollout {
        let member = |(node, sight)| Member { node, sight, stage: Stage::Untouched };
        let members: Vec<Member> = nodes.into_iter().map(member).collect();
        let taking_part = members.iter().filter(|member| !matches!(member.sight, Sight::Idle(_))).count();
        Rollout { members, most: most.of(taking_part) }
    }

    /// The nodes, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many nodes may be down at once.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether a node will be asked yet, as far as one can tell.
    pub fn goes_on(&self) -> bool {
        !self.has_failed() && self.members.iter().any(Member::waits)
    }

    /// What to do next.
    pub fn decide(&mut self) -> Next {
        let asked = self.members.iter().filter(|member| member.stage == Stage::Asked).count();
        let over = |verdict| if asked > 0 { Next::Wait } else { Next::Over(verdict) };
        if self.has_failed() {
            return over(Verdict::Stopped);
        }
        if !self.goes_on() {
            let any = self.members.iter().any(|member| member.stage != Stage::Untouched);
            let silent = self.members.iter().any(|member| matches!(member.sight, Sight::Silent(_)));
            return over(if any || silent { Verdict::Done } else { Verdict::Idle });
        }
        if asked >= self.most {
            return Next::Wait;
        }
        let down = self.members.iter().filter(|member| member.is_down()).count();
        let is_up = |member: &Member| matches!(member.sight, Sight::Up { .. });
        // While there are some that are up, nobody is touched where others are down already: it may be for the same reason.
        if down >= self.most && self.members.iter().any(|member| member.waits() && is_up(member)) {
            return over(Verdict::Held);
        }
        let Some(next) = self.members.iter_mut().find(|member| member.waits()) else { return Next::Wait };
        next.stage = Stage::Asked;
        Next::Ask(next.node.clone())
    }

    /// A node was looked at. Who is being restarted is not judged by that.
    pub fn see(&mut self, node: &NodeName, sight: Sight) {
        let Some(member) = self.member(node) else { return };
        match (&member.stage, &sight) {
            (Stage::Asked, _) => return,
            (Stage::Done, Sight::Down(why)) => {
                member.stage = Stage::Failed(format!("it had come up again, and then: {why}"));
            }
            (Stage::Done, Sight::Silent(why)) => member.stage = Stage::Lost(why.clone()),
            // Somebody stopped it, or its singleton moved: that is no failure.
            (Stage::Done, Sight::Up { .. } | Sight::Idle(_)) => {}
            (Stage::Untouched | Stage::Failed(_) | Stage::Lost(_), _) => {}
        }
        member.sight = sight;
    }

    /// What came of asking a node.
    pub fn heard(&mut self, node: &NodeName, heard: Heard) {
        let Some(member) = self.member(node).filter(|member| member.stage == Stage::Asked) else { return };
        member.stage = match &heard {
            Heard::Refused(why) => Stage::Failed(why.clone()),
            Heard::Silent(why) => Stage::Lost(why.clone()),
            Heard::Seen { first, later } => judged(first, later),
        };
        if let Heard::Seen { later, .. } = heard {
            member.sight = later;
        }
    }

    fn has_failed(&self) -> bool {
        self.members.iter().any(|member| matches!(member.stage, Stage::Failed(_) | Stage::Lost(_)))
    }

    fn member(&mut self, node: &NodeName) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.node == *node)
    }
}

/// What two looks at a node say that did as it was asked.
fn judged(first: &Sight, later: &Sight) -> Stage {
    match (first, later) {
        (Sight::Up { deaths: before }, Sight::Up { deaths }) if deaths > before => {
            Stage::Failed("it came up, and a process died again at once".into())
        }
        (Sight::Up { .. }, Sight::Up { .. }) => Stage::Done,
        (Sight::Up { .. }, Sight::Down(why)) => Stage::Failed(format!("it came up, and then: {why}")),
        (Sight::Silent(why), _) | (_, Sight::Silent(why)) => Stage::Lost(why.clone()),
        (_, Sight::Down(why) | Sight::Idle(why)) | (Sight::Down(why) | Sight::Idle(why), Sight::Up { .. }) => {
            Stage::Failed(why.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Sight = Sight::Up { deaths: 0 };

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn down() -> Sight {
        Sight::Down("backoff".into())
    }

    fn idle() -> Sight {
        Sight::Idle("stopped".into())
    }

    fn silent() -> Sight {
        Sight::Silent("no answer".into())
    }

    fn came_up() -> Heard {
        Heard::Seen { first: UP, later: UP }
    }

    /// One over a, b, c, … that are like this.
    fn roll(most: Share, sights: &[Sight]) -> Rollout {
        let names = ('a'..).map(|letter| name(&letter.to_string()));
        Rollout::new(names.zip(sights.iter().cloned()), most)
    }

    fn ask(node: &str) -> Next {
        Next::Ask(name(node))
    }

    fn stages(roll: &Rollout) -> Vec<&'static str> {
        let word = |member: &Member| match member.stage {
            Stage::Untouched => "untouched",
            Stage::Asked => "asked",
            Stage::Done => "done",
            Stage::Failed(_) => "failed",
            Stage::Lost(_) => "lost",
        };
        roll.members().iter().map(word).collect()
    }

    #[test]
    fn one_after_another_each_when_the_one_before_is_up() {
        let mut roll = roll(Share::Nodes(1), &[UP, UP, UP]);
        for node in ["a", "b", "c"] {
            assert_eq!(roll.decide(), ask(node));
            assert_eq!(roll.decide(), Next::Wait);
            roll.heard(&name(node), came_up());
        }
        assert_eq!(roll.decide(), Next::Over(Verdict::Done));
        assert_eq!(roll.decide(), Next::Over(Verdict::Done));
    }

    #[test]
    fn several_at_once_where_so_many_may_be_down() {
        let mut roll = roll(Share::Percent(50), &[UP, UP, UP, UP, UP]);
        assert_eq!(roll.most(), 2);
        assert_eq!((roll.decide(), roll.decide(), roll.decide()), (ask("a"), ask("b"), Next::Wait));
        roll.heard(&name("b"), came_up());
        assert_eq!((roll.decide(), roll.decide()), (ask("c"), Next::Wait));
    }

    #[test]
    fn after_a_failure_nobody_is_asked_and_those_under_way_are_waited_for() {
        let refused = || Heard::Refused("no".into());
        let silent_later = Heard::Seen { first: UP, later: silent() };
        for (heard, stage) in [
            (refused(), "failed"),
            (Heard::Silent("gone".into()), "lost"),
            (Heard::Seen { first: UP, later: down() }, "failed"),
            (Heard::Seen { first: UP, later: Sight::Up { deaths: 1 } }, "failed"),
            (Heard::Seen { first: down(), later: UP }, "failed"),
            (Heard::Seen { first: idle(), later: idle() }, "failed"),
            (silent_later, "lost"),
        ] {
            let mut roll = roll(Share::Nodes(2), &[UP, UP, UP]);
            assert_eq!((roll.decide(), roll.decide()), (ask("a"), ask("b")));
            roll.heard(&name("a"), heard.clone());
            assert_eq!(roll.decide(), Next::Wait, "{heard:?}");
            roll.heard(&name("b"), came_up());
            assert_eq!(roll.decide(), Next::Over(Verdict::Stopped), "{heard:?}");
            assert_eq!(stages(&roll), [stage, "done", "untouched"], "{heard:?}");
        }
    }

    #[test]
    fn who_is_down_already_counts() {
        for sight in [down(), silent()] {
            let mut held = roll(Share::Nodes(1), &[UP, sight.clone(), UP]);
            assert_eq!(held.decide(), Next::Over(Verdict::Held));
            assert_eq!(stages(&held), ["untouched"; 3]);
            // One more may be: one at a time then.
            let mut roll = roll(Share::Nodes(2), &[UP, sight, UP]);
            assert_eq!((roll.decide(), roll.decide()), (ask("a"), Next::Wait));
        }
    }

    #[test]
    fn who_is_down_is_restarted_too_and_at_once_where_nobody_is_up() {
        let mut roll = roll(Share::Nodes(1), &[down(), down()]);
        for node in ["a", "b"] {
            assert_eq!((roll.decide(), roll.decide()), (ask(node), Next::Wait));
            roll.heard(&name(node), came_up());
        }
        assert_eq!(roll.decide(), Next::Over(Verdict::Done));
    }

    #[test]
    fn who_has_nothing_to_restart_is_left_out() {
        let mut roll = roll(Share::Nodes(1), &[idle(), UP, idle()]);
        assert_eq!(roll.decide(), ask("b"));
        roll.heard(&name("b"), came_up());
        assert_eq!(roll.decide(), Next::Over(Verdict::Done));
        let mut none = self::roll(Share::Nodes(1), &[idle(), idle()]);
        assert_eq!(none.decide(), Next::Over(Verdict::Idle));
        // Somebody stops it meanwhile.
        let mut roll = self::roll(Share::Nodes(1), &[UP, UP]);
        assert_eq!(roll.decide(), ask("a"));
        roll.see(&name("b"), idle());
        roll.heard(&name("a"), came_up());
        assert_eq!(roll.decide(), Next::Over(Verdict::Done));
    }

    #[test]
    fn who_goes_down_on_the_way_holds_the_roll_or_ends_it() {
        let mut held = roll(Share::Nodes(1), &[UP, UP, UP]);
        assert_eq!(held.decide(), ask("a"));
        held.heard(&name("a"), came_up());
        held.see(&name("c"), down());
        assert_eq!(held.decide(), Next::Over(Verdict::Held));
        let mut ended = roll(Share::Nodes(2), &[UP, UP, UP]);
        assert_eq!(ended.decide(), ask("a"));
        ended.heard(&name("a"), came_up());
        ended.see(&name("a"), down());
        assert_eq!(ended.decide(), Next::Over(Verdict::Stopped));
        assert_eq!(stages(&ended), ["failed", "untouched", "untouched"]);
    }

    #[test]
    fn a_look_at_who_is_being_restarted_says_nothing() {
        let mut roll = roll(Share::Nodes(1), &[UP, UP]);
        assert_eq!(roll.decide(), ask("a"));
        roll.see(&name("a"), down());
        assert_eq!(roll.decide(), Next::Wait);
        roll.heard(&name("a"), came_up());
        roll.heard(&name("a"), Heard::Refused("late".into()));
        assert_eq!(roll.decide(), ask("b"));
    }

    #[test]
    fn a_share_is_a_number_or_a_percentage() {
        assert_eq!((Share::parse("2"), Share::parse("25%")), (Ok(Share::Nodes(2)), Ok(Share::Percent(25))));
        assert_eq!((Share::Percent(25).of(3), Share::Percent(100).of(3), Share::Percent(34).of(6)), (1, 3, 2));
        for bad in ["", "0", "x", "-1", "0%", "101%", "%", "2.5"] {
            assert!(Share::parse(bad).is_err(), "{bad}");
        }
    }
}
