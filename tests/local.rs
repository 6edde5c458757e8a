//! Leases without Redis: real locks, between this process and real other ones.

#[path = "support/lease_cases.rs"]
#[allow(unused_macros, dead_code, reason = "what is made for servers")]
mod lease_cases;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use circus_agent::cluster::identity::{IdentityError, identity};
use circus_agent::cluster::local::{Local, Me};
use circus_agent::model::command::RequestId;
use circus_agent::model::election::{Membership, Muster, Word};
use circus_agent::model::event::{Ask, AskKind, Claim, Claimed, Event, LeaseAnswer, TokenState};
use circus_agent::model::history::{Entry, Fact, KEPT, What};
use circus_agent::model::names::{ClusterName, LeaseName, NodeName, Owner, WatcherName};
use circus_agent::model::pause::{Told, Wish};
use circus_agent::model::time::Time;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);
/// Long enough for an answer on a slow machine, and far below `LONG`: what comes within it did not wait for a ttl.
const SOON: Duration = Duration::from_secs(20);

fn now() -> Time {
    Time::ZERO + Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap())
}

fn beat() -> WatcherName {
    WatcherName::parse("beat").unwrap()
}

fn owner(node: &str, nonce: u128) -> Owner {
    Owner { node: NodeName::parse(node).unwrap(), nonce }
}

/// An agent's lease store in this process.
struct Agent {
    local: Local,
    events: Receiver<Event>,
    owner: Owner,
}

impl Agent {
    fn start(dir: &Path, node: &str) -> Agent {
        let (sender, events) = tokio::sync::mpsc::channel(64);
        let me = Me {
            dir: dir.to_owned(),
            cluster: ClusterName::parse("default").unwrap(),
            node: NodeName::parse(node).unwrap(),
            instance: lease_cases::instance(node),
            leases: vec![beat()],
        };
        Agent { local: Local::start(me, sender).unwrap(), events, owner: owner(node, 7) }
    }

    async fn history(&mut self) -> Vec<Entry> {
        self.local.read_history(RequestId(3), vec![beat()], vec![]);
        match self.next().await {
            Event::HistoryRead { request: RequestId(3), read } => read.unwrap().leases.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    /// How a token stands, without the time that is left.
    async fn checked(&mut self, token: u64) -> Result<TokenState, String> {
        self.local.check_lease(RequestId(4), beat(), token);
        match self.next().await {
            Event::LeaseChecked { request: RequestId(4), result: Ok(TokenState::Holds { left }) } => {
                assert!(!left.is_zero() && left <= LONG, "{left:?}");
                Ok(TokenState::Holds { left: Duration::ZERO })
            }
            Event::LeaseChecked { request: RequestId(4), result } => result,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, watcher: WatcherName, kind: AskKind) -> LeaseAnswer {
        let ask = Ask { owner: self.owner.clone(), sent: now(), kind };
        self.local.ask(watcher.clone(), ask.clone(), SOON);
        loop {
            match self.next().await {
                Event::Lease { watcher: of, ask: brought_back, answer } => {
                    assert_eq!((of, brought_back), (watcher, ask));
                    return answer;
                }
                Event::StoreUp | Event::StoreDown { .. } | Event::LeaseFreed { .. } | Event::PauseChanged { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn take(&mut self, ttl: Duration) -> LeaseAnswer {
        self.ask(beat(), AskKind::Take { ttl, longest: ttl, seen: None }).await
    }

    async fn refresh(&mut self, ttl: Duration, token: u64) -> LeaseAnswer {
        self.ask(beat(), AskKind::Refresh { ttl, token }).await
    }

    async fn release(&mut self, to: Option<&str>) -> LeaseAnswer {
        let to = to.map(|node| NodeName::parse(node).unwrap());
        self.ask(beat(), AskKind::Release { to }).await
    }

    /// Tells what this agent says of itself, and gives who contends for the lease.
    async fn muster(&mut self, membership: Option<Membership>) -> Result<Muster, String> {
        self.muster_as(self.owner.node.clone(), membership).await
    }

    /// The same under another name of this agent.
    async fn muster_as(&mut self, node: NodeName, membership: Option<Membership>) -> Result<Muster, String> {
        let at = now();
        self.local.muster(beat(), Word { sent: at, node, membership, timeout: LONG });
        loop {
            if let Event::Mustered { watcher, sent, result } = self.next().await {
                assert_eq!((watcher, sent), (beat(), at));
                return result;
            }
        }
    }

    /// Waits for the news that its members have changed.
    async fn members_changed(&mut self) {
        while self.next().await != (Event::MembersChanged { watcher: beat() }) {}
    }

    async fn next(&mut self) -> Event {
        timeout(SOON, self.events.recv()).await.expect("no event").expect("the store ended")
    }

    /// Waits for the news that the lease may be free.
    async fn freed(&mut self) {
        while self.next().await != (Event::LeaseFreed { watcher: beat() }) {}
    }

    /// No news within a while in which a wrong one would have come.
    async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_millis(700), async {
            while self.next().await != (Event::LeaseFreed { watcher: beat() }) {}
        });
        assert!(heard.await.is_err(), "was told that a lease is free");
    }
}

fn token(answer: LeaseAnswer) -> u64 {
    match answer {
        LeaseAnswer::Granted { token } => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// A member of this valor.
fn member(valor: u32, ttl: Duration) -> Membership {
    Membership { valor, stands: valor > 0, appoints: None, scroll: "role=web".into(), ttl }
}

/// Who lives, and by which valor.
fn live(muster: &Muster) -> Vec<(&str, u32)> {
    muster.members.iter().map(|member| (member.node.as_str(), member.membership.valor)).collect()
}

fn members_file(dir: &Path) -> PathBuf {
    dir.join("leases/default/beat.members")
}

fn lease_file(dir: &Path) -> PathBuf {
    dir.join("leases/default/beat.lease")
}

// ---------------------------------------------------------------------------------------------- the other process

/// An agent's lease store in a process of its own: this very test program, told by its environment to be one.
struct Other {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Other {
    fn start(dir: &Path, node: &str, ttl: Duration) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process_of_these_tests", "--nocapture"])
            .env("LOCAL_TEST_DIR", dir)
            .env("LOCAL_TEST_NODE", node)
            .env("LOCAL_TEST_TTL_MS", ttl.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test harness has its own lines, and starts one that ours is then the rest of.
                if let Some((_, line)) = line.split_once("@ ") {
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        Other { child, stdin, lines }
    }

    /// Tells it to do something; returns what it says.
    fn tell(&mut self, what: &str) -> String {
        writeln!(self.stdin, "{what}").unwrap();
        self.lines.recv_timeout(SOON).expect("the other process says nothing")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test of its own: what `Other` runs.
#[tokio::test]
async fn the_other_process_of_these_tests() {
    let Ok(dir) = std::env::var("LOCAL_TEST_DIR") else { return };
    let node = std::env::var("LOCAL_TEST_NODE").unwrap();
    let ttl = Duration::from_millis(std::env::var("LOCAL_TEST_TTL_MS").unwrap().parse().unwrap());
    let mut agent = Agent::start(Path::new(&dir), &node);
    let mut granted = 0;
    let mut lines = std::io::stdin().lines();
    while let Some(Ok(line)) = lines.next() {
        let said = match line.as_str() {
            "take" => match agent.take(ttl).await {
                LeaseAnswer::Granted { token } => {
                    granted = token;
                    format!("granted {token}")
                }
                other => format!("{other:?}"),
            },
            "refresh" => format!("{:?}", agent.refresh(ttl, granted).await),
            "identity" => {
                let mine = identity(Path::new(&dir), &agent.owner.node).unwrap();
                let said = format!("{:032x}", mine.instance);
                std::mem::forget(mine);
                said
            }
            // The stand-in for the guard: a process that has the lease's file open, as its standard input.
            "guard" => {
                let hold = agent.local.hold(&beat()).expect("no hold");
                Command::new("sleep").arg("600").stdin(hold).stdout(Stdio::null()).spawn().unwrap().id().to_string()
            }
            other => panic!("{other}"),
        };
        // Not `println!`, which goes to the harness.
        writeln!(std::io::stdout(), "\n@ {said}").unwrap();
    }
}

/// Ends with the test, however that ends.
struct Guard(Pid);

impl Guard {
    fn of(other: &mut Other) -> Guard {
        Guard(Pid::from_raw(other.tell("guard").parse().unwrap()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

// ----------------------------------------------------------------------------------------------- those that contend

#[tokio::test]
async fn members_of_one_machine_hear_of_each_other_at_once() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let alone = amy.muster(Some(member(9, LONG))).await.unwrap();
    assert_eq!((live(&alone), &alone.holder), (vec![("amy", 9)], &None));
    let both = ben.muster(Some(member(0, LONG))).await.unwrap();
    assert_eq!(live(&both), [("amy", 9), ("ben", 0)]);
    assert!(both.members[0].membership == member(9, LONG) && both.members[0].left > LONG / 2, "{both:?}");
    amy.members_changed().await;
    token(amy.take(LONG).await);
    let held = amy.muster(Some(member(9, LONG))).await.unwrap();
    assert_eq!((live(&held), &held.holder), (vec![("amy", 9), ("ben", 0)], &Some(owner("amy", 7).to_string())));
    for changed in [member(3, LONG), Membership { scroll: "two\nlines".into(), ..member(3, LONG) }] {
        amy.muster(Some(changed.clone())).await.unwrap();
        ben.members_changed().await;
        assert_eq!(ben.muster(Some(member(0, LONG))).await.unwrap().members[0].membership, changed);
    }
    assert_eq!(live(&amy.muster(None).await.unwrap()), [("ben", 0)]);
    ben.members_changed().await;
    assert_eq!(live(&ben.muster(Some(member(0, LONG))).await.unwrap()), [("ben", 0)]);
}

#[tokio::test]
async fn a_word_that_changes_nothing_is_no_news_nor_is_ones_own() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    amy.muster(Some(member(9, LONG))).await.unwrap();
    ben.muster(Some(member(1, LONG))).await.unwrap();
    amy.members_changed().await;
    ben.muster(Some(member(1, LONG))).await.unwrap();
    amy.muster(Some(member(8, LONG))).await.unwrap();
    // Both have by now heard all that they will: what else was put in the file's place came before it.
    ben.members_changed().await;
    for agent in [&mut amy, &mut ben] {
        agent.local.check_lease(RequestId(9), beat(), 1);
        let mut news = Vec::new();
        loop {
            match agent.next().await {
                Event::LeaseChecked { .. } => break,
                event @ Event::MembersChanged { .. } => news.push(event),
                _ => {}
            }
        }
        assert_eq!(news, []);
    }
}

#[tokio::test]
async fn a_member_of_one_machine_that_is_killed_lapses_and_where_its_trace_is_gone_it_counts_until_then() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let ttl = Duration::from_secs(3);
    amy.muster(Some(member(9, ttl))).await.unwrap();
    let left = ben.muster(Some(member(1, LONG))).await.unwrap().members[0].left;
    drop(amy);
    let until = tokio::time::Instant::now() + left;
    std::fs::remove_file(members_file(dir.path())).unwrap();
    let seen = ben.muster(Some(member(1, LONG))).await.unwrap();
    assert!(live(&seen) == [("amy", 9), ("ben", 1)] || tokio::time::Instant::now() >= until, "{seen:?}");
    tokio::time::sleep_until(until).await;
    assert_eq!(live(&ben.muster(Some(member(1, LONG))).await.unwrap()), [("ben", 1)]);
}

#[tokio::test]
async fn a_file_of_members_that_nobody_wrote_is_named_and_one_of_another_boot_has_nobody_who_lives() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    amy.muster(Some(member(9, LONG))).await.unwrap();
    let file = members_file(dir.path());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "me").unwrap();
    let why = amy.muster(Some(member(9, LONG))).await.unwrap_err();
    assert!(why.contains("beat.members: it holds no record of members"), "{why}");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&file, text.replace(boot.trim(), "another")).unwrap();
    let mut ben = Agent::start(dir.path(), "ben");
    assert_eq!(live(&ben.muster(Some(member(1, LONG))).await.unwrap()), [("ben", 1)]);
}

#[tokio::test]
async fn of_many_agents_of_one_machine_none_is_forgotten() {
    let dir = TempDir::new().unwrap();
    let mut agents: Vec<Agent> = (0..20).map(|i| Agent::start(dir.path(), &format!("node-{i:02}"))).collect();
    for _ in 0..3 {
        futures_util::future::join_all(agents.iter_mut().map(|agent| agent.muster(Some(member(1, LONG))))).await;
    }
    let all = agents[7].muster(Some(member(1, LONG))).await.unwrap();
    assert_eq!(all.members.len(), 20, "{all:?}");
}

// ------------------------------------------------------------------------------------------------------- the tests

#[tokio::test]
async fn a_free_lease_is_granted_at_once_and_a_second_asker_hears_who_has_it() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    token(amy.take(LONG).await);
    match ben.take(LONG).await {
        LeaseAnswer::Held { by, left, ttl } => {
            assert_eq!(by, amy.owner.to_string());
            assert!(left > LONG / 2 && left <= LONG, "{left:?}");
            assert_eq!(ttl, LONG);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_store_says_that_it_is_there() {
    let dir = TempDir::new().unwrap();
    assert_eq!(Agent::start(dir.path(), "amy").next().await, Event::StoreUp);
}

#[tokio::test]
async fn the_same_question_asked_again_is_granted_under_the_same_token() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    let first = token(amy.take(LONG).await);
    assert_eq!(token(amy.take(LONG).await), first);
    assert_eq!(token(amy.refresh(LONG, first).await), first);
}

#[tokio::test]
async fn a_release_wakes_the_waiter() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let first = token(amy.take(LONG).await);
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Held { .. }));
    assert_eq!(amy.release(None).await, LeaseAnswer::Released);
    ben.freed().await;
    // Once: each piece of news is a question of every agent that waits.
    ben.hears_nothing().await;
    assert!(token(ben.take(LONG).await) > first);
    assert_eq!(amy.refresh(LONG, first).await, LeaseAnswer::Lost { by: Some(ben.owner.to_string()) });
    assert_eq!(amy.release(None).await, LeaseAnswer::Released, "also where there is nothing to release");
    assert!(matches!(amy.take(LONG).await, LeaseAnswer::Held { .. }));
}

#[tokio::test]
async fn a_waiter_is_not_woken_by_what_the_holder_and_others_do() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let mut eve = Agent::start(dir.path(), "eve");
    let first = token(amy.take(LONG).await);
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Held { .. }));
    token(amy.refresh(LONG, first).await);
    assert!(matches!(eve.take(LONG).await, LeaseAnswer::Held { .. }));
    ben.hears_nothing().await;
}

#[tokio::test]
async fn the_kernel_frees_the_lease_of_a_killed_holder_and_wakes_the_waiter() {
    let dir = TempDir::new().unwrap();
    let mut other = Other::start(dir.path(), "amy", LONG);
    assert!(other.tell("take").starts_with("granted"));
    let mut ben = Agent::start(dir.path(), "ben");
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Held { .. }));
    other.signal(Signal::SIGKILL);
    ben.freed().await;
    token(ben.take(LONG).await);
}

#[tokio::test]
async fn a_lease_stays_held_while_the_guard_of_a_killed_holder_lives() {
    let dir = TempDir::new().unwrap();
    let mut other = Other::start(dir.path(), "amy", LONG);
    assert!(other.tell("take").starts_with("granted"));
    let guard = Guard::of(&mut other);
    let mut ben = Agent::start(dir.path(), "ben");
    drop(other);
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Held { .. }));
    ben.hears_nothing().await;
    drop(guard);
    ben.freed().await;
    token(ben.take(LONG).await);
}

#[tokio::test]
async fn a_stopped_holder_is_replaced_when_its_time_is_over_and_hears_that_it_lost() {
    let dir = TempDir::new().unwrap();
    let ttl = Duration::from_millis(600);
    let mut other = Other::start(dir.path(), "amy", ttl);
    let first = other.tell("take");
    let first: u64 = first.strip_prefix("granted ").unwrap().parse().unwrap();
    let granted = now();
    other.signal(Signal::SIGSTOP);
    let mut ben = Agent::start(dir.path(), "ben");
    let second = loop {
        match ben.take(ttl).await {
            LeaseAnswer::Held { left, .. } => tokio::time::sleep(left).await,
            answer => break token(answer),
        }
    };
    // The grant was asked for before we heard of it, so a little less than a ttl ago at the least.
    assert!(now().since(granted) > ttl / 2);
    assert!(second > first);
    other.signal(Signal::SIGCONT);
    let lost = other.tell("refresh");
    assert!(lost.starts_with("Lost") && lost.contains("ben"), "{lost}");
    token(ben.refresh(ttl, second).await);
}

#[tokio::test]
async fn a_lease_released_to_a_node_is_kept_for_it_for_a_moment() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let mut eve = Agent::start(dir.path(), "eve");
    token(amy.take(LONG).await);
    amy.release(Some("ben")).await;
    match eve.take(LONG).await {
        LeaseAnswer::Reserved { node, left } => {
            assert_eq!(node, "ben");
            assert!(left <= circus_agent::model::lease::RESERVATION);
        }
        other => panic!("{other:?}"),
    }
    token(ben.take(LONG).await);
    ben.release(Some("amy")).await;
    // amy does not come for it.
    let eves = loop {
        match eve.take(LONG).await {
            LeaseAnswer::Reserved { left, .. } => tokio::time::sleep(left).await,
            answer => break token(answer),
        }
    };
    assert!(eves > 0);
}

#[tokio::test]
async fn tokens_grow_over_restarts_and_over_the_removal_of_all_files() {
    let dir = TempDir::new().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let mut amy = Agent::start(dir.path(), "amy");
        let next = token(amy.take(LONG).await);
        assert!(next > last, "{next} after {last}");
        last = next;
        amy.release(None).await;
    }
    std::fs::remove_dir_all(dir.path().join("leases")).unwrap();
    assert!(token(Agent::start(dir.path(), "amy").take(LONG).await) > last);
}

#[tokio::test]
async fn a_token_grows_although_the_clock_was_set_back() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    token(amy.take(LONG).await);
    amy.release(None).await;
    let future = 9_000_000_000_000_u64;
    std::fs::write(dir.path().join("leases/default/beat.mutex"), format!("{future}\n")).unwrap();
    assert_eq!(token(amy.take(LONG).await), future + 1);
}

#[tokio::test]
async fn a_lease_whose_file_was_removed_is_lost_to_its_holder_before_anybody_else_gets_it() {
    let dir = TempDir::new().unwrap();
    let ttl = Duration::from_millis(600);
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let first = token(amy.take(ttl).await);
    assert!(matches!(ben.take(ttl).await, LeaseAnswer::Held { .. }));
    std::fs::remove_file(lease_file(dir.path())).unwrap();
    ben.freed().await;
    let LeaseAnswer::Quarantined { left } = ben.take(ttl).await else { panic!("two could run") };
    assert_eq!(amy.refresh(ttl, first).await, LeaseAnswer::Lost { by: None });
    tokio::time::sleep(left).await;
    assert!(token(ben.take(ttl).await) > first);
}

#[tokio::test]
async fn a_removed_directory_is_made_anew_and_listened_to() {
    let dir = TempDir::new().unwrap();
    let ttl = Duration::from_millis(300);
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let first = token(amy.take(ttl).await);
    assert!(matches!(ben.take(ttl).await, LeaseAnswer::Held { .. }));
    std::fs::remove_dir_all(dir.path().join("leases")).unwrap();
    ben.freed().await;
    let second = loop {
        match ben.take(ttl).await {
            LeaseAnswer::Quarantined { left } => tokio::time::sleep(left).await,
            // It may be asked before it has noticed that the directory is another one.
            LeaseAnswer::Failed { .. } => {}
            answer => break token(answer),
        }
    };
    assert!(second > first);
    assert!(matches!(amy.refresh(ttl, first).await, LeaseAnswer::Lost { .. }));
    while !matches!(amy.take(LONG).await, LeaseAnswer::Held { .. }) {}
    ben.release(None).await;
    amy.freed().await;
}

#[tokio::test]
async fn garbage_in_the_file_costs_one_ttl_and_never_a_panic() {
    let dir = TempDir::new().unwrap();
    let ttl = Duration::from_millis(300);
    let mut amy = Agent::start(dir.path(), "amy");
    let mut last = token(amy.take(ttl).await);
    amy.release(None).await;
    let good = std::fs::read(lease_file(dir.path())).unwrap();
    let mut spoilt: Vec<Vec<u8>> = vec![vec![], b"\0\xff\xfe".to_vec(), b"{}\n".to_vec(), vec![b'['; 100_000]];
    spoilt.extend([1, good.len() / 2, good.len() - 3].map(|end| good[..end].to_vec()));
    for garbage in spoilt {
        std::fs::write(lease_file(dir.path()), &garbage).unwrap();
        let LeaseAnswer::Quarantined { left } = amy.take(ttl).await else { panic!("a holder may be alive") };
        assert!(left <= ttl);
        tokio::time::sleep(left).await;
        let next = token(amy.take(ttl).await);
        assert!(next > last, "{next} after {last}");
        last = next;
        amy.release(None).await;
    }
}

#[tokio::test]
async fn a_copy_put_in_the_place_of_a_held_lease_makes_no_second_holder() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let first = token(amy.take(LONG).await);
    let copy = dir.path().join("copy");
    std::fs::copy(lease_file(dir.path()), &copy).unwrap();
    std::fs::rename(&copy, lease_file(dir.path())).unwrap();
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Quarantined { .. }));
    assert_eq!(amy.refresh(LONG, first).await, LeaseAnswer::Lost { by: None });
}

#[tokio::test]
async fn garbage_written_over_a_held_lease_is_healed_by_its_holder() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    let first = token(amy.take(LONG).await);
    std::fs::write(lease_file(dir.path()), "garbage").unwrap();
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Held { .. }));
    token(amy.refresh(LONG, first).await);
    match ben.take(LONG).await {
        LeaseAnswer::Held { by, .. } => assert_eq!(by, amy.owner.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_record_of_another_boot_holds_nobody_up() {
    let dir = TempDir::new().unwrap();
    let mut other = Other::start(dir.path(), "amy", LONG);
    other.tell("take");
    let text = std::fs::read_to_string(lease_file(dir.path())).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(lease_file(dir.path()), text.replace(boot.trim(), "00000000-aaaa")).unwrap();
    let mut ben = Agent::start(dir.path(), "ben");
    assert!(matches!(ben.take(LONG).await, LeaseAnswer::Held { .. }), "its lock is not free");
    other.signal(Signal::SIGKILL);
    ben.freed().await;
    token(ben.take(LONG).await);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_fails_with_the_reason() {
    // Nobody can write there, root included.
    let mut amy = Agent::start(Path::new("/proc/circus"), "amy");
    assert!(matches!(amy.next().await, Event::StoreDown { reason } if reason.contains("/proc/circus")));
    match amy.take(LONG).await {
        LeaseAnswer::Failed { reason } => assert!(reason.contains("/proc/circus/leases/default"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_mutex_that_is_never_let_go_fails_the_question_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    let first = token(amy.take(LONG).await);
    let mutex = std::fs::File::open(dir.path().join("leases/default/beat.mutex")).unwrap();
    mutex.lock().unwrap();
    match amy.refresh(LONG, first).await {
        LeaseAnswer::Failed { reason } => {
            assert!(reason.contains("beat.mutex") && reason.contains("stopped"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    drop(mutex);
    token(amy.refresh(LONG, first).await);
}

#[tokio::test]
async fn names_that_are_no_file_names_have_leases_of_their_own() {
    let dir = TempDir::new().unwrap();
    let (mut amy, mut ben) = (Agent::start(dir.path(), "amy"), Agent::start(dir.path(), "ben"));
    for name in ["..", "a/../../b", "a b", "a%20b", "straße", "beat.mutex", "beat"] {
        let lease = WatcherName::parse(name).unwrap();
        let kind = AskKind::Take { ttl: LONG, longest: LONG, seen: None };
        token(amy.ask(lease.clone(), kind.clone()).await);
        assert!(matches!(ben.ask(lease.clone(), kind).await, LeaseAnswer::Held { .. }), "{name}");
        amy.ask(lease.clone(), AskKind::Release { to: None }).await;
        while ben.next().await != (Event::LeaseFreed { watcher: lease.clone() }) {}
    }
    let above: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(above, ["leases"]);
}

#[tokio::test]
async fn every_question_gets_one_answer_however_many_there_are() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    const QUESTIONS: u128 = 2000;
    for nonce in 0..QUESTIONS {
        let ask = Ask {
            owner: owner("amy", nonce),
            sent: now(),
            kind: AskKind::Take { ttl: LONG, longest: LONG, seen: None },
        };
        amy.local.ask(beat(), ask, SOON);
    }
    let mut answered = std::collections::HashSet::new();
    let mut granted = 0;
    while answered.len() < QUESTIONS as usize {
        if let Event::Lease { ask, answer, .. } = amy.next().await {
            assert!(answered.insert(ask.owner.nonce), "answered twice");
            granted += usize::from(matches!(answer, LeaseAnswer::Granted { .. }));
        }
    }
    assert_eq!(granted, 1);
}

#[tokio::test]
async fn of_many_agents_that_want_one_lease_one_has_it_at_a_time() {
    let dir = TempDir::new().unwrap();
    let marker = dir.path().join("running");
    let turns = (0..8).map(|i| {
        let (dir, marker) = (dir.path().to_owned(), marker.clone());
        async move {
            let mut agent = Agent::start(&dir, &format!("node-{i}"));
            let mut tokens = Vec::new();
            while tokens.len() < 5 {
                match agent.take(LONG).await {
                    LeaseAnswer::Granted { token } => {
                        std::fs::OpenOptions::new().write(true).create_new(true).open(&marker).expect("two at once");
                        tokens.push(token);
                        tokio::task::yield_now().await;
                        std::fs::remove_file(&marker).unwrap();
                        agent.release(None).await;
                    }
                    // A waiter may be told of a release that somebody else was quicker to use.
                    LeaseAnswer::Held { .. } => agent.freed().await,
                    LeaseAnswer::Failed { reason } => assert!(reason.contains("locked"), "{reason}"),
                    other => panic!("{other:?}"),
                }
            }
            tokens
        }
    });
    let mut tokens: Vec<u64> = futures_util::future::join_all(turns).await.concat();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 40, "each tenure has a token of its own");
}

#[tokio::test]
async fn a_lease_without_a_past_can_be_initialised_and_one_with_a_past_cannot() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    assert_eq!(amy.next().await, Event::StoreUp);
    amy.local.init_lease(RequestId(1), beat());
    // Both come, in either order: the reply, and the news for those who wait.
    let news = [amy.next().await, amy.next().await];
    assert!(news.contains(&Event::LeaseInitialised { request: RequestId(1), result: Ok(()) }), "{news:?}");
    assert!(news.contains(&Event::LeaseFreed { watcher: beat() }), "{news:?}");
    token(amy.take(LONG).await);
    amy.local.init_lease(RequestId(2), beat());
    match amy.next().await {
        Event::LeaseInitialised { request: RequestId(2), result: Err(why) } => assert!(why.contains("amy:"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_history_of_a_lease_is_bounded_and_survives_a_line_that_was_cut_short() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    let token = token(amy.take(LONG).await);
    let file = dir.path().join("leases/default/beat.history");
    let last = 5 * KEPT as u64;
    for token in 0..=last {
        amy.local.record(beat(), Fact { token, at: now(), what: What::Started { pid: 7 } });
        if token % 500 == 0 {
            // No more at once than fit into the queue.
            amy.history().await;
        }
        if token == 3 {
            amy.history().await;
            let mut text = std::fs::read_to_string(&file).unwrap();
            text.push_str("{\"what\": \"sta\n");
            std::fs::write(&file, text).unwrap();
            assert_eq!(amy.history().await.len(), 4);
        }
    }
    let kept = amy.history().await;
    assert!((KEPT..=2 * KEPT).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().unwrap().token, last);
    assert_eq!(amy.checked(token).await, Ok(TokenState::Holds { left: Duration::ZERO }));
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o077, 0);
}

#[test]
fn a_renamed_agent_is_itself_under_the_new_name_and_leaves_the_old_one_to_another() {
    let dir = TempDir::new().unwrap();
    let at = |node: &str| identity(dir.path(), &NodeName::parse(node).unwrap());
    let name = |node: &str| NodeName::parse(node).unwrap();
    let (mine, other) = (at("amy").unwrap(), at("ben").unwrap());
    assert!(matches!(mine.claim(&name("ben")), Err(IdentityError::Taken { .. })));
    // One that is not kept changes nothing.
    let claim = mine.claim(&name("eve")).unwrap();
    assert!(matches!(other.claim(&name("eve")), Err(IdentityError::Taken { .. })));
    drop(claim);
    assert!(matches!(at("amy"), Err(IdentityError::Taken { .. })));
    mine.claim(&name("eve")).unwrap().keep().unwrap();
    assert!(matches!(at("eve"), Err(IdentityError::Taken { .. })));
    assert_ne!(at("amy").unwrap().instance, mine.instance, "or the registry would take it for the one that left");
    let instance = mine.instance;
    drop(mine);
    assert_eq!(at("eve").unwrap().instance, instance);
}

#[tokio::test]
async fn a_restarted_agent_is_itself_and_a_second_one_of_its_name_is_refused_with_the_pid() {
    let dir = TempDir::new().unwrap();
    let mut other = Other::start(dir.path(), "amy", LONG);
    let instance = other.tell("identity");
    let amy = NodeName::parse("amy").unwrap();
    match identity(dir.path(), &amy) {
        Err(refused @ IdentityError::Taken { .. }) => {
            let text = refused.to_string();
            assert!(text.contains(&format!("pid {}", other.child.id())), "{text}");
            assert!(text.contains("amy") && text.contains(&dir.path().display().to_string()), "{text}");
        }
        taken => panic!("{taken:?}"),
    }
    let ben = identity(dir.path(), &NodeName::parse("ben").unwrap()).unwrap();
    assert_ne!(format!("{:032x}", ben.instance), instance);
    drop(other);
    assert_eq!(format!("{:032x}", identity(dir.path(), &amy).unwrap().instance), instance);
    std::fs::write(dir.path().join("amy.id"), "garbage\n").unwrap();
    assert_ne!(format!("{:032x}", identity(dir.path(), &amy).unwrap().instance), instance);
}

#[tokio::test]
async fn nobody_else_can_open_the_files() {
    let dir = TempDir::new().unwrap();
    let mut amy = Agent::start(dir.path(), "amy");
    token(amy.take(LONG).await);
    let _identity = identity(dir.path(), &amy.owner.node).unwrap();
    for file in ["leases/default/beat.lease", "leases/default/beat.mutex", "amy.id"] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}: {mode:o}");
    }
}

// ---- slots of schedules and members, as any store must keep them ----

/// Several agents' stores in one directory.
struct Agents {
    runtime: tokio::runtime::Runtime,
    dir: TempDir,
    agents: BTreeMap<String, Agent>,
}

impl Agents {
    /// Has the store of a node's agent do something; it is started where it is not there yet.
    fn with<T>(&mut self, node: &str, does: impl AsyncFnOnce(&mut Agent) -> T) -> T {
        let Agents { runtime, dir, agents } = self;
        runtime.block_on(async {
            does(agents.entry(node.to_owned()).or_insert_with(|| Agent::start(dir.path(), node))).await
        })
    }
}

impl lease_cases::Store for Agents {
    fn ask(&mut self, _: &LeaseName, ask: &Ask) -> LeaseAnswer {
        self.with(ask.owner.node.as_str(), async |agent| {
            agent.owner = ask.owner.clone();
            agent.ask(beat(), ask.kind.clone()).await
        })
    }

    fn init(&mut self, _: &LeaseName) -> Result<(), String> {
        self.with("a", async |agent| {
            agent.local.init_lease(RequestId(6), beat());
            loop {
                if let Event::LeaseInitialised { request: RequestId(6), result } = agent.next().await {
                    return result;
                }
            }
        })
    }

    fn pause(&mut self, wish: Wish) -> Result<Told, String> {
        self.with("p", async |agent| {
            agent.local.pause_lease(RequestId(8), beat(), wish);
            loop {
                if let Event::LeasePaused { request: RequestId(8), result } = agent.next().await {
                    return result;
                }
            }
        })
    }

    fn claim(&mut self, node: &str, watcher: &str, claim: Claim) -> Claimed {
        let watcher = WatcherName::parse(watcher).unwrap();
        self.with(node, async |agent| {
            agent.local.claim(watcher.clone(), beat(), claim);
            loop {
                if let Event::SlotClaimed { watcher: of, claim: asked, answer } = agent.next().await {
                    assert_eq!((of, asked), (watcher, claim));
                    return answer;
                }
            }
        })
    }

    fn muster_as(&mut self, agent: &str, name: &str, membership: Option<Membership>) -> Result<Muster, String> {
        let name = NodeName::parse(name).unwrap();
        self.with(agent, async |agent| agent.muster_as(name, membership).await)
    }

    fn pass(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    fn disturb(&mut self, how: lease_cases::Disturbance) {
        unreachable!("none of its cases does {how:?}");
    }
}

#[test]
fn slots_are_claimed_as_under_redis() {
    as_under_redis(lease_cases::UNDISTURBED);
}

#[test]
fn leases_are_paused_as_under_redis() {
    as_under_redis(lease_cases::UNDISTURBED_PAUSES);
}

fn as_under_redis(cases: &[(&str, lease_cases::Case)]) {
    for (name, case) in cases {
        eprintln!("{name}");
        run_case(*case);
    }
}

#[test]
fn a_member_is_renamed_as_under_redis() {
    run_case(lease_cases::a_renamed_member_is_one_all_the_while);
    run_case(lease_cases::who_gives_up_a_name_does_not_leave_for_whoever_has_it_now);
}

fn run_case(case: lease_cases::Case) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut agents = Agents { runtime, dir: TempDir::new().unwrap(), agents: BTreeMap::new() };
    case(&mut agents, LONG);
}
