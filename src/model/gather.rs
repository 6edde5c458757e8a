//! Answers of several nodes to one question: who is awaited, who said what, who kept silent.

use std::collections::BTreeMap;

use super::names::NodeName;

/// One question to several nodes, until all have answered or the asker's patience ends.
///
/// The first answer of an awaited node counts. A second one, one of a node that was never asked, and one that comes
/// after the end change nothing: messages may be doubled, delayed and misdirected, and none of that is the asker's
/// fault to handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gather<T> {
    parts: BTreeMap<NodeName, Option<T>>,
    /// How many have not answered.
    awaited: usize,
}

impl<T> Gather<T> {
    /// Awaits each of `nodes` once, however often it is named.
    pub fn new(nodes: impl IntoIterator<Item = NodeName>) -> Gather<T> {
        let parts: BTreeMap<_, _> = nodes.into_iter().map(|node| (node, None)).collect();
        Gather { awaited: parts.len(), parts }
    }

    /// Takes `node`'s answer; whether it was awaited.
    pub fn answer(&mut self, node: &NodeName, answer: T) -> bool {
        match self.parts.get_mut(node) {
            Some(part @ None) => {
                *part = Some(answer);
                self.awaited -= 1;
                true
            }
            Some(Some(_)) | None => false,
        }
    }

    /// Whether nobody is awaited any more.
    pub fn is_complete(&self) -> bool {
        self.awaited == 0
    }

    /// Those who have not answered, sorted.
    pub fn silent(&self) -> impl Iterator<Item = &NodeName> {
        self.parts.iter().filter(|(_, part)| part.is_none()).map(|(node, _)| node)
    }

    /// Each node's answer, sorted by node; `reason` in place of those that never came.
    pub fn finish(self, reason: &str) -> Vec<(NodeName, Result<T, String>)> {
        self.parts.into_iter().map(|(node, part)| (node, part.ok_or_else(|| reason.to_owned()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    #[test]
    fn all_answers_make_it_complete_and_come_out_sorted() {
        let mut gather = Gather::new([node("b"), node("a"), node("b")]);
        assert!(!gather.is_complete());
        assert!(gather.answer(&node("b"), 2));
        assert_eq!(gather.silent().collect::<Vec<_>>(), [&node("a")]);
        assert!(gather.answer(&node("a"), 1));
        assert!(gather.is_complete());
        assert_eq!(gather.finish("late"), [(node("a"), Ok(1)), (node("b"), Ok(2))]);
    }

    #[test]
    fn the_first_answer_counts_and_strangers_do_not() {
        let mut gather = Gather::new([node("a")]);
        assert!(!gather.answer(&node("x"), 0));
        assert!(gather.answer(&node("a"), 1));
        assert!(!gather.answer(&node("a"), 2));
        assert_eq!(gather.finish("late"), [(node("a"), Ok(1))]);
    }

    #[test]
    fn the_silent_are_named_with_the_reason() {
        let mut gather = Gather::new([node("a"), node("b")]);
        gather.answer(&node("a"), 1);
        assert_eq!(
            gather.finish("no answer within 5 s"),
            [(node("a"), Ok(1)), (node("b"), Err("no answer within 5 s".to_owned()))]
        );
    }

    #[test]
    fn nobody_asked_is_complete_at_once() {
        assert!(Gather::<()>::new([]).is_complete());
    }
}
