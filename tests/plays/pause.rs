//! Singletons that are paused, as one node lives through it and as it is asked for.

use std::time::Duration;

use circus_agent::model::command::{Answer, Command, Outcome, Patience, Refusal, Reply, RequestId};
use circus_agent::model::event::{Action, Ask, AskKind, Event, Exit, LeaseAnswer, News, ProcessId};
use circus_agent::model::history::{Cause, Ending, What};
use circus_agent::model::names::WatcherName;
use circus_agent::model::pattern::Pattern;
use circus_agent::model::pause::{Pause, Told, Wish};
use circus_agent::model::snapshot::WatcherState;

use crate::specs::watcher;
use crate::stage::{Stage, TERM, killed, releases, signalled, singleton};

fn beat() -> WatcherName {
    WatcherName::parse("beat").unwrap()
}

fn pause() -> Pause {
    Pause { since: 1_700_000_000_000, by: "bob".into(), why: Some("migration".into()) }
}

/// A question about the lease among the orders.
fn asked(orders: &[Action], is: impl Fn(&AskKind) -> bool) -> Option<Ask> {
    orders.iter().find_map(|action| match action {
        Action::AskLease { ask, .. } if is(&ask.kind) => Some(ask.clone()),
        _ => None,
    })
}

fn takes(kind: &AskKind) -> bool {
    matches!(kind, AskKind::Take { .. })
}

fn refreshes(kind: &AskKind) -> bool {
    matches!(kind, AskKind::Refresh { .. })
}

impl Stage {
    /// The store answers this question.
    fn answers(&mut self, ask: Ask, answer: LeaseAnswer) {
        self.tell(Event::Lease { watcher: beat(), ask, answer });
    }

    /// News of the lease comes, and the question that follows from it.
    fn hears(&mut self, is: impl Fn(&AskKind) -> bool) -> Ask {
        self.tell(Event::PauseChanged { watcher: beat() });
        asked(&self.orders(), is).expect("a question")
    }

    /// A node whose child runs and is told of a pause.
    fn holder_is_told() -> (Stage, ProcessId) {
        let mut stage = Stage::new(vec![singleton("beat")]);
        stage.grant(7);
        let child = stage.start()[0];
        stage.wait(Duration::from_millis(100));
        stage.orders();
        let refresh = stage.hears(refreshes);
        stage.answers(refresh, LeaseAnswer::GrantedToStop { token: 7, pause: pause() });
        (stage, child)
    }

    fn wish(&mut self, command: Command) -> (RequestId, Wish) {
        let request = self.asks_for(command);
        (request, self.wished(request).expect("a wish"))
    }

    /// The wish that was put to the store for a request since the last look.
    fn wished(&mut self, request: RequestId) -> Option<Wish> {
        self.orders().into_iter().find_map(|action| match action {
            Action::PauseLease { request: of, lease, wish } if of == request => {
                assert_eq!(lease.watcher, beat());
                Some(wish)
            }
            _ => None,
        })
    }

    fn told(&mut self, request: RequestId, changed: bool, pause: Option<Pause>, holder: Option<(&str, u64)>) {
        let holder = holder.map(|(by, secs)| (by.to_owned(), Duration::from_secs(secs)));
        self.tell(Event::LeasePaused { request, result: Ok(Told { pause, changed, holder }) });
    }
}

fn asks(patience: Patience) -> Command {
    Command::Pause { watcher: "beat".into(), reason: Some("migration".into()), patience }
}

fn holder() -> String {
    format!("b:{:032x}", 7)
}

fn done(answer: Answer) -> Option<Outcome> {
    Some(Outcome::Own(Reply::Done(answer)))
}

#[test]
fn who_holds_stops_in_good_order_gives_back_and_takes_again_when_it_is_resumed() {
    let (mut stage, child) = Stage::holder_is_told();
    let orders = stage.orders();
    assert!(signalled(&orders, child) && !killed(&orders, child) && releases(&orders) == 0, "{orders:?}");
    // It takes its time under the lease, which is refreshed meanwhile.
    stage.wait(Duration::from_secs(8));
    let orders = stage.orders();
    let refresh = asked(&orders, refreshes).expect("a refresh");
    assert!(!killed(&orders, child));
    stage.answers(refresh, LeaseAnswer::GrantedToStop { token: 7, pause: pause() });
    stage.end(child, Exit::Signal(TERM));
    let ended = stage.facts();
    let why = Ending { cause: Cause::Paused, detail: Some("migration".into()), by: Some("bob".into()) };
    assert!(matches!(&ended[..], [.., fact] if fact.what == What::Ended(why.clone())), "{ended:?}");

    let (mut stage, child) = Stage::holder_is_told();
    stage.orders();
    stage.end(child, Exit::Code(0));
    let release = asked(&stage.orders(), |kind| matches!(kind, AskKind::Release { to: None })).expect("a release");
    stage.answers(release, LeaseAnswer::Released);
    let take = asked(&stage.orders(), takes).expect("it asks again, so as to hear of the end");
    stage.answers(take, LeaseAnswer::Paused(pause()));
    assert_eq!((stage.state("beat"), stage.note("beat").as_str()), (WatcherState::Standby, "paused by bob: migration"));
    // Nothing but a look once a ttl.
    stage.wait(Duration::from_secs(14));
    assert_eq!(asked(&stage.orders(), takes), None);
    let take = stage.hears(takes);
    stage.answers(take, LeaseAnswer::Granted { token: 8 });
    assert_eq!(stage.spawns().len(), 1);
}

#[test]
fn a_holder_that_is_started_again_while_it_stops_for_a_pause_stops() {
    let (mut stage, child) = Stage::holder_is_told();
    stage.orders();
    let start = |patience| Command::Start { pattern: Some(Pattern::Glob("beat".into())), patience };
    let request = stage.asks_for(start(Patience::Settled));
    let refusal = Refusal::Paused { watcher: beat(), pause: pause() };
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refusal))));
    stage.end(child, Exit::Code(0));
    assert_eq!(releases(&stage.orders()), 1);
}

#[test]
fn a_pause_is_answered_when_nobody_has_the_lease_any_more() {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web")]);
    let (request, wish) = stage.wish(asks(Patience::Settled));
    assert_eq!(wish, Wish::Pause { by: "amy".into(), why: Some("migration".into()) });
    stage.told(request, true, Some(pause()), Some((&holder(), 9)));
    let orders = std::mem::take(&mut stage.orders);
    let told =
        |action: &Action| matches!(action, Action::Publish(notice) if matches!(notice.news, News::Paused { .. }));
    assert!(orders.iter().any(told) && !orders.iter().any(|action| matches!(action, Action::Reply { .. })));

    // Looked for at the news of the lease, and where none comes all the same.
    stage.tell(Event::LeaseFreed { watcher: beat() });
    assert_eq!(stage.wished(request), Some(Wish::Look));
    stage.told(request, false, Some(pause()), Some((&holder(), 9)));
    assert_eq!(stage.wished(request), None);
    stage.wait(Duration::from_secs(2));
    assert_eq!(stage.wished(request), Some(Wish::Look));
    // That the store is away for a moment ends nothing.
    stage.tell(Event::LeasePaused { request, result: Err("no Redis".into()) });
    stage.wait(Duration::from_secs(2));
    assert_eq!(stage.wished(request), Some(Wish::Look));
    stage.told(request, false, Some(pause()), None);
    let answer = Answer::Paused { watcher: beat(), pause: pause(), changed: true, holder: None, hears: false };
    assert_eq!(stage.outcome(request), done(answer));
}

#[test]
fn a_pause_is_answered_at_once_where_nobody_waits_or_who_has_it_does_not_hear() {
    for (patience, by, hears) in
        [(Patience::Admitted, holder(), true), (Patience::Settled, "web-9.example.com-77".into(), false)]
    {
        let mut stage = Stage::new(vec![singleton("beat")]);
        let (request, _) = stage.wish(asks(patience));
        stage.told(request, true, Some(pause()), Some((&by, 9)));
        let holder = Some(if hears { "b".to_owned() } else { by });
        let answer = Answer::Paused { watcher: beat(), pause: pause(), changed: true, holder, hears };
        assert_eq!(stage.outcome(request), done(answer));
    }
}

#[test]
fn who_waits_for_a_pause_hears_that_it_was_resumed_or_that_the_agent_ends_and_it_stands() {
    let waiting = || {
        let mut stage = Stage::new(vec![singleton("beat")]);
        let (request, _) = stage.wish(asks(Patience::Settled));
        stage.told(request, true, Some(pause()), Some((&holder(), 9)));
        stage.orders();
        (stage, request)
    };
    let (mut stage, request) = waiting();
    stage.tell(Event::LeaseFreed { watcher: beat() });
    stage.told(request, false, None, None);
    let refusal = Refusal::Failed("beat was resumed meanwhile".into());
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refusal))));

    let (mut stage, request) = waiting();
    stage.tell(Event::StopAsked { by: "test".into() });
    // It waits for its own question to be taken back, for a moment.
    stage.wait(Duration::from_secs(2));
    let holder = Some("b".to_owned());
    let answer = Answer::Paused { watcher: beat(), pause: pause(), changed: true, holder, hears: true };
    assert_eq!(stage.outcome(request), done(answer));
}

#[test]
fn what_is_no_singleton_is_not_paused_and_a_store_that_is_away_is_told() {
    let mut stage = Stage::new(vec![singleton("beat"), watcher("web")]);
    stage.orders();
    let web = Command::Pause { watcher: "web".into(), reason: None, patience: Patience::Settled };
    let request = stage.asks_for(web);
    let refusal = Refusal::NotSingleton(WatcherName::parse("web").unwrap());
    assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refusal))));

    for command in [asks(Patience::Settled), Command::Resume { watcher: "beat".into() }] {
        let (request, _) = stage.wish(command);
        stage.tell(Event::LeasePaused { request, result: Err("no answer".into()) });
        let refusal = Refusal::Unavailable("Redis: no answer".into());
        assert_eq!(stage.outcome(request), Some(Outcome::Own(Reply::Refused(refusal))));
    }
}

#[test]
fn a_resume_is_told_with_the_pause_that_it_ended() {
    let mut stage = Stage::new(vec![singleton("beat")]);
    for (changed, stood) in [(true, Some(pause())), (false, None)] {
        let (request, wish) = stage.wish(Command::Resume { watcher: "beat".into() });
        assert_eq!(wish, Wish::Resume);
        stage.told(request, changed, stood.clone(), None);
        let told = stage
            .orders
            .iter()
            .any(|action| matches!(action, Action::Publish(notice) if matches!(notice.news, News::Resumed { .. })));
        assert_eq!(told, changed);
        assert_eq!(stage.outcome(request), done(Answer::Resumed { watcher: beat(), pause: stood }));
    }
}
