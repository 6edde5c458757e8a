//! Leases over several independent servers, of which most decide: a minority may die, hang or forget.

#[path = "support/end.rs"]
mod end;
#[macro_use]
#[path = "support/lease_cases.rs"]
mod lease_cases;
#[path = "support/real_store.rs"]
mod real_store;
#[path = "support/redis.rs"]
mod redis_server;

use std::time::{Duration, Instant};

use circus_agent::cluster::client::BusClient;
use circus_agent::cluster::watch::ClusterStream;
use circus_agent::model::election::Membership;
use circus_agent::model::event::{AskKind, Event, LeaseAnswer};
use circus_agent::model::history::{Fact, What};
use circus_agent::model::names::Owner;
use circus_agent::model::spec::RedisSpec;
use circus_agent::model::time::Time;
use circus_agent::wire::{Follow, Subject};
use serde_json::json;

use end::{Agent, PATIENCE, TTL, ask, at, beat, cluster, lease, node, owner, refresh, release, take};
use real_store::RealStore;
use redis_server::RedisServer;

/// Three servers that know nothing of each other.
struct Three(Vec<RedisServer>);

impl Three {
    fn start() -> Three {
        Three((0..3).map(|_| RedisServer::start()).collect())
    }

    fn spec(&self) -> RedisSpec {
        let hosts: Vec<String> = self.0.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        at(&format!("redis+majority://{}/0", hosts.join(",")))
    }

    async fn agent(&self, name: &str, instance: u128) -> Agent {
        let mut agent = Agent::start_at(self.spec(), name, instance);
        // Up when two are reached; the third is on its way.
        agent.up_and_heard().await;
        agent
    }

    /// What each server has in a field of the lease's record.
    fn meta(&self, field: &str) -> Vec<Option<String>> {
        self.0.iter().map(|server| server.text(&["HGET", &lease().meta_key(), field])).collect()
    }

    /// Which servers have their vote given to this owner.
    fn votes(&self, owner: &Owner) -> Vec<usize> {
        let has = |server: &RedisServer| server.text(&["GET", &lease().lease_key()]) == Some(owner.to_string());
        (0..3).filter(|at| has(&self.0[*at])).collect()
    }

    /// Waits until these have.
    async fn voted(&self, owner: &Owner, wanted: &[usize]) {
        let deadline = Instant::now() + PATIENCE;
        while self.votes(owner) != wanted {
            assert!(Instant::now() < deadline, "{:?}", self.votes(owner));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Asks for the lease as an agent does, until it is granted: as a new owner where the answer was no.
async fn in_the_end(agent: &mut Agent, name: &str) -> (Owner, u64) {
    let deadline = Instant::now() + PATIENCE;
    // No two nodes draw the same.
    let drawn = name.bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte)) << 64;
    for nonce in 1_u128.. {
        assert!(Instant::now() < deadline, "{name} is never granted the lease");
        let owner = owner(name, drawn + nonce);
        match agent.ask(&take(&owner)).await {
            LeaseAnswer::Granted { token } => return (owner, token),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    unreachable!()
}

fn run_lease_case(case: lease_cases::Case) {
    let three = Three::start();
    case(&mut RealStore::new(three.spec(), three.0), TTL);
}

lease_case_tests!();

#[tokio::test]
async fn one_server_may_die_and_come_back_with_nothing() {
    let mut three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.init().await.unwrap();
    let (a, token) = in_the_end(&mut agent, "a").await;
    three.0[0].kill();
    assert_eq!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::Granted { token });
    three.0[0].restart();
    let deadline = Instant::now() + PATIENCE;
    while three.votes(&a).len() < 3 {
        assert!(Instant::now() < deadline, "its vote is not gathered");
        assert_eq!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::Granted { token });
    }
    // Its vote was drawn with a token of its own, which is as great at least.
    assert!(three.meta("tok").iter().flatten().all(|tok| tok.parse::<u64>().unwrap() >= token));
    // The next tenure's token is greater, whichever of them is missing now.
    three.0[2].kill();
    assert_eq!(agent.ask(&release(&a)).await, LeaseAnswer::Released);
    let (_, next) = in_the_end(&mut agent, "b").await;
    assert!(next > token);
}

#[tokio::test]
async fn a_server_that_is_missed_is_told_of_though_most_go_on() {
    let mut three = Three::start();
    let mut agent = three.agent("a", 1).await;
    let missed = |event| if let Event::StoreMissed(missed) = event { Some(missed.servers) } else { None };
    three.0[1].kill();
    let told = agent.next(missed).await;
    assert_eq!(told.keys().collect::<Vec<_>>(), [&format!("127.0.0.1:{}", three.0[1].port())]);
    three.0[1].restart();
    assert!(agent.next(missed).await.is_empty());
}

#[tokio::test]
async fn nothing_goes_on_after_an_agent_has_left_though_a_server_was_away() {
    let mut three = Three::start();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut agent = three.agent("a", 1).await;
    three.0[2].kill();
    agent.redis.record(&lease(), &Fact { token: 1, at: Time::ZERO, what: What::Started { pid: 1 } });
    agent.facts(1).await;
    agent.redis.leave().await;
    let deadline = Instant::now() + PATIENCE;
    while tasks() > before {
        assert!(Instant::now() < deadline, "{} tasks are left", tasks() - before);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_a_majority_nobody_has_it_and_with_one_it_goes_on() {
    let mut three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.init().await.unwrap();
    let (a, token) = in_the_end(&mut agent, "a").await;
    three.0[0].kill();
    three.0[1].kill();
    agent.redis.ask(&lease(), refresh(&a, token), end::ASK);
    // The answer and the news of the loss come in any order.
    let (mut failed, mut down) = (false, false);
    while !(failed && down) {
        match agent.event().await {
            Event::Lease { answer: LeaseAnswer::Failed { reason }, .. } => {
                failed = reason.starts_with("no majority of 3 servers: ");
                assert!(failed, "{reason}");
            }
            Event::Lease { answer, .. } => panic!("two of three are dead: {answer:?}"),
            Event::StoreDown { reason } => down = reason.starts_with("2 of 3 servers cannot be used ("),
            _ => {}
        }
    }
    assert!(matches!(agent.ask(&take(&owner("b", 2))).await, LeaseAnswer::Split { .. }));
    three.0[1].restart();
    agent.up().await;
    assert_eq!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::Granted { token });
}

#[tokio::test]
async fn a_server_that_hangs_holds_up_nothing() {
    let three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.init().await.unwrap();
    three.0[1].freeze();
    let (a, token) = in_the_end(&mut agent, "a").await;
    for _ in 0..20 {
        assert_eq!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::Granted { token });
    }
    assert_eq!(agent.ask(&release(&a)).await, LeaseAnswer::Released);
    three.0[1].thaw();
    let (a, next) = in_the_end(&mut agent, "a").await;
    assert!(next > token);
    three.voted(&a, &[0, 1, 2]).await;
}

#[tokio::test]
async fn a_vote_that_led_to_nothing_is_given_back() {
    let three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.init().await.unwrap();
    let (a, token) = in_the_end(&mut agent, "a").await;
    // As after a partition: one server has not heard of the holder for a ttl, and grants its vote to who asks.
    three.0[0].command(&["DEL", &lease().lease_key()]);
    three.0[0].command(&["HSET", &lease().meta_key(), "state", "free", "until", "0"]);
    let b = owner("b", 2);
    assert!(matches!(agent.ask(&take(&b)).await, LeaseAnswer::Held { .. }));
    three.voted(&b, &[]).await;
    // Its record has a greater token than the holder's now, and the holder gathers the vote all the same.
    while three.votes(&a).len() < 3 {
        assert_eq!(agent.ask(&refresh(&a, token)).await, LeaseAnswer::Granted { token });
    }
    let greatest = three.meta("tok").into_iter().flatten().filter_map(|tok| tok.parse::<u64>().ok()).max().unwrap();
    assert_eq!(agent.ask(&release(&a)).await, LeaseAnswer::Released);
    let (_, next) = in_the_end(&mut agent, "c").await;
    assert!(next > greatest && greatest > token);
}

#[tokio::test]
async fn a_vote_that_led_to_nothing_is_no_tenure_in_the_history() {
    let mut three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.init().await.unwrap();
    let (a, _) = in_the_end(&mut agent, "a").await;
    three.voted(&a, &[0, 1, 2]).await;
    assert_eq!(agent.ask(&release(&a)).await, LeaseAnswer::Released);
    three.voted(&a, &[]).await;
    for away in [1, 2] {
        three.0[away].save();
        three.0[away].kill();
    }
    for nonce in 1..3 {
        assert!(matches!(agent.ask(&take(&owner("b", nonce))).await, LeaseAnswer::Split { .. }));
        let deadline = Instant::now() + PATIENCE;
        while three.0[0].text(&["GET", &lease().lease_key()]).is_some() {
            assert!(Instant::now() < deadline, "its vote is not given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    [1, 2].iter().for_each(|away| three.0[*away].restart());
    agent.up().await;
    let (c, token) = in_the_end(&mut agent, "c").await;
    let deadline = Instant::now() + PATIENCE;
    while three.votes(&c).len() < 3 {
        assert!(Instant::now() < deadline, "its votes are not gathered");
        assert_eq!(agent.ask(&refresh(&c, token)).await, LeaseAnswer::Granted { token });
    }
    // Who came by a vote on the way knows nothing of the tenure before.
    let said = three.meta("was_id");
    assert_eq!(said[0], Some(a.to_string()));
    assert!(said.iter().flatten().all(|was| *was == a.to_string()), "{said:?}");
}

#[tokio::test]
async fn the_tokens_of_servers_whose_clocks_differ_only_grow() {
    let mut three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.init().await.unwrap();
    let mut last = 0;
    for round in 0..9 {
        let ahead = round % 3;
        // One server's clock is a day ahead, as far as its tokens tell; another is away.
        let (a, token) = in_the_end(&mut agent, "a").await;
        assert!(token > last, "{token} after {last}");
        last = token + 86_400_000;
        three.0[ahead].command(&["HSET", &lease().meta_key(), "tok", &last.to_string()]);
        assert_eq!(agent.ask(&refresh(&a, last)).await, LeaseAnswer::Granted { token: last });
        let away = (round + 1) % 3;
        three.0[away].save();
        three.0[away].kill();
        assert_eq!(agent.ask(&release(&a)).await, LeaseAnswer::Released);
        let (b, next) = in_the_end(&mut agent, "b").await;
        assert!(next > last);
        last = next;
        three.0[away].restart();
        // Until all three know each other's words again.
        while three.votes(&b).len() < 3 {
            assert_eq!(agent.ask(&refresh(&b, next)).await, LeaseAnswer::Granted { token: next });
        }
        assert_eq!(agent.ask(&release(&b)).await, LeaseAnswer::Released);
    }
}

#[tokio::test]
async fn of_many_that_want_it_at_once_one_has_it_and_soon() {
    let three = Three::start();
    let mut agents = Vec::new();
    for at in 0..5 {
        agents.push(three.agent(&format!("n{at}"), at).await);
    }
    agents[0].init().await.unwrap();
    let mut last = 0;
    for round in 0..10 {
        let all = agents.iter_mut().enumerate().map(|(at, agent)| {
            let owner = owner(&format!("n{at}"), 5 * round + at as u128);
            async move {
                let answer = agent.ask(&take(&owner)).await;
                (owner, answer, agent)
            }
        });
        let granted: Vec<_> = futures_util::future::join_all(all)
            .await
            .into_iter()
            .filter_map(|(owner, answer, agent)| match answer {
                LeaseAnswer::Granted { token } => Some((owner, token, agent)),
                _ => None,
            })
            .collect();
        assert!(granted.len() <= 1, "{} have it", granted.len());
        for (owner, token, agent) in granted {
            assert!(token > last);
            last = token;
            assert_eq!(agent.ask(&release(&owner)).await, LeaseAnswer::Released);
        }
    }
    let (_, token) = in_the_end(&mut agents[1], "n1").await;
    assert!(token > last);
}

#[tokio::test]
async fn a_release_wakes_who_waits_whichever_server_is_missing() {
    for missing in 0..3 {
        let mut three = Three::start();
        let mut holder = three.agent("a", 1).await;
        let mut waiter = three.agent("b", 2).await;
        holder.init().await.unwrap();
        let (a, _) = in_the_end(&mut holder, "a").await;
        three.0[missing].kill();
        // What was told of the connections is past.
        while waiter.events.try_recv().is_ok() {}
        holder.redis.ask(&lease(), ask(&a, AskKind::Release { to: None }), end::ASK);
        waiter.next(|event| matches!(event, Event::LeaseFreed { .. }).then_some(())).await;
        in_the_end(&mut waiter, "b").await;
    }
}

#[tokio::test]
async fn nodes_see_and_ask_each_other_whichever_server_is_missing() {
    for missing in 0..3 {
        let mut three = Three::start();
        let mut a = three.agent("a", 1).await;
        let mut b = three.agent("b", 2).await;
        three.0[missing].kill();
        a.roster_until(|rows| rows.len() == 2).await;
        a.redis.relay(circus_agent::model::command::RequestId(9), &node("b"), "{}".into());
        b.reply("yes").await;
        let replied = a.next(|event| if let Event::Replied { text, .. } = event { Some(text) } else { None }).await;
        assert_eq!(replied, "yes");

        let mut client = BusClient::connect(&three.spec(), &cluster(), PATIENCE).await.unwrap();
        assert_eq!(client.roster().await.unwrap().len(), 2);
        let asked = [node("b")];
        let (said, _) = tokio::join!(client.ask(&asked, "{}", PATIENCE), b.reply("again"));
        assert_eq!(said.unwrap()[&node("b")], Ok("again".into()));

        let mut events =
            ClusterStream::connect(&three.spec(), &cluster(), &Follow::all(Subject::Events), PATIENCE).await.unwrap();
        a.redis.publish_event("{\"what\":1}".into());
        assert_eq!(events.next().await.unwrap(), json!({"what": 1}));
    }
}

// ---- Those that contend for a lease ----

fn member(ttl: Duration) -> Membership {
    Membership { valor: 1, stands: true, appoints: None, scroll: String::new(), ttl }
}

impl Agent {
    /// Who lives; at once where it is `wanted`, or when it comes to that.
    async fn sees(&mut self, wanted: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.muster(Some(member(LIFE))).await.unwrap();
            let names: Vec<&str> = all.members.iter().map(|member| member.node.as_str()).collect();
            if names == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{all:?}");
        }
    }
}

/// So long that no member lapses.
const LIFE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn members_live_on_though_a_server_dies_hangs_or_comes_back_with_nothing() {
    let mut three = Three::start();
    let (mut a, mut b) = (three.agent("a", 1).await, three.agent("b", 2).await);
    a.sees(&["a"]).await;
    b.sees(&["a", "b"]).await;
    a.sees(&["a", "b"]).await;
    let both = async |agent: &mut Agent| {
        let all = agent.muster(Some(member(LIFE))).await.unwrap();
        assert_eq!(all.members.len(), 2, "{all:?}");
    };
    // Each time b alone speaks again, and must not take a for dead.
    three.0[0].kill();
    both(&mut b).await;
    three.0[0].restart_empty();
    let deadline = Instant::now() + PATIENCE;
    while three.0[0].number(&["HEXISTS", &lease().members_key(), "b"]) == 0 {
        assert!(Instant::now() < deadline, "it is not told again");
        both(&mut b).await;
    }
    three.0[1].freeze();
    both(&mut b).await;
    three.0[1].thaw();
    for server in &three.0 {
        server.command(&["FLUSHALL"]);
        both(&mut b).await;
    }
}

#[tokio::test]
async fn who_leaves_is_gone_though_a_server_did_not_hear_it() {
    let mut three = Three::start();
    let (mut a, mut b) = (three.agent("a", 1).await, three.agent("b", 2).await);
    a.sees(&["a"]).await;
    b.sees(&["a", "b"]).await;
    three.0[2].kill();
    a.muster(None).await.unwrap();
    three.0[2].restart();
    b.sees(&["b"]).await;
}

#[tokio::test]
async fn without_a_majority_nobody_knows_who_lives_and_what_was_said_is_taken_back() {
    let mut three = Three::start();
    let mut agent = three.agent("a", 1).await;
    agent.sees(&["a"]).await;
    three.0[0].kill();
    three.0[1].kill();
    let at = end::boottime();
    agent.says(at, Some(member(LIFE)));
    let why = agent.mustered(at).await.unwrap_err();
    assert!(why.starts_with("1 of 3 servers answered: "), "{why}");
    // Whoever reaches that server and another one is not to wait for a node that reaches none but that one.
    let deadline = Instant::now() + PATIENCE;
    while !three.0[2].text(&["HGET", &lease().members_key(), "a"]).unwrap().contains(" 1 x ") {
        assert!(Instant::now() < deadline, "{:?}", three.0[2].text(&["HGET", &lease().members_key(), "a"]));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_change_of_members_is_told_when_all_servers_know_of_it() {
    let three = Three::start();
    let (mut a, mut b) = (three.agent("a", 1).await, three.agent("b", 2).await);
    a.sees(&["a"]).await;
    b.sees(&["a", "b"]).await;
    for left in [true, false, true] {
        a.muster((!left).then(|| member(LIFE))).await.unwrap();
        b.next(|event| (event == Event::MembersChanged { watcher: beat() }).then_some(())).await;
        b.sees(if left { &["b"] } else { &["a", "b"] }).await;
    }
}
