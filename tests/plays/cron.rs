//! Watchers that run at times.

use std::time::Duration;

use circus_agent::model::command::{Answer, Command, Outcome as Told, Patience, ReloadWay, Reply};
use circus_agent::model::event::{
    Action, AskKind, Calendar, Claim, Claimed, Event, Exit, HistoryRead, LeaseAnswer, News, ProcessEvent, ProcessId,
    Schedule, ScheduleRead, SpawnFailure,
};
use circus_agent::model::history::{Entry, Fact, What};
use circus_agent::model::names::{ClusterName, LeaseName, WatcherName};
use circus_agent::model::pattern::Pattern;
use circus_agent::model::runs::{How, Outcome, Turn};
use circus_agent::model::snapshot::WatcherState;
use circus_agent::model::spec::{
    AgentSpec, CronSpec, HookPoint, HookProgram, HookSpec, OnFailure, Slot, WatcherSpec, Zone,
};

use crate::specs::{agent, redis, watcher};
use crate::stage::{GRACE, Stage, TERM, name, releases, singleton};

/// A slot comes with each of these.
const MINUTE: u64 = 60;
/// What the clock on the wall shows when a play begins: a slot is 20 s away.
const NOON: u64 = 1_795_348_800;
const BEGIN: u64 = NOON + 40;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn cron() -> CronSpec {
    CronSpec { schedule: "* * * * *".into(), zone: Zone::Local, misfire_grace: secs(10), on_failure: OnFailure::Report }
}

fn job() -> WatcherSpec {
    WatcherSpec { cron: Some(cron()), ..watcher("job") }
}

fn slot(number: u64) -> Slot {
    Slot(NOON + number * MINUTE)
}

/// A stage with a clock on the wall, which may be set, and a store that confirms what is held.
struct Town {
    stage: Stage,
    set: i64,
    latest: Option<ProcessId>,
    /// Under which token it takes the lease, where it may.
    token: Option<u64>,
    /// What it wants to run, and how often it has asked.
    claims: Vec<Claim>,
}

impl Town {
    fn new(job: WatcherSpec) -> Town {
        let mut town = Town { stage: Stage::new(vec![job]), set: 0, latest: None, token: None, claims: Vec::new() };
        town.look();
        town
    }

    fn calendar(&self) -> Calendar {
        let nanos = self.stage.now.as_nanos() - 1_000_000_000 + BEGIN * 1_000_000_000;
        let wall = Duration::from_nanos(nanos.strict_add_signed(self.set * 1_000_000_000));
        let past = Slot(wall.as_secs() / MINUTE * MINUTE);
        let next = Slot(past.0 + MINUTE);
        Calendar {
            now: Slot(wall.as_secs()),
            past: Some((past, wall - secs(past.0))),
            next: Some((next, secs(next.0) - wall)),
        }
    }

    /// Answers whatever was asked of the calendar and about the lease; what else was ordered stays.
    fn look(&mut self) {
        let is_asked = |it: &Action| {
            matches!(it, Action::ReadCalendar { .. } | Action::AskLease { .. } | Action::ClaimSlot { .. })
        };
        while let Some(at) = self.stage.orders.iter().position(is_asked) {
            match self.stage.orders.remove(at) {
                Action::ReadCalendar { watcher, .. } => {
                    let calendar = Some(self.calendar());
                    self.stage.tell(Event::CalendarRead { watcher, calendar });
                }
                Action::AskLease { lease, ask, .. } => {
                    let by = LeaseAnswer::Held { by: "b".into(), left: secs(1), ttl: secs(15) };
                    let answer = match ask.kind {
                        AskKind::Release { .. } | AskKind::Withdraw => LeaseAnswer::Released,
                        AskKind::Refresh { .. } if self.token.is_none() => LeaseAnswer::Lost { by: Some("b".into()) },
                        AskKind::Take { .. } | AskKind::Refresh { .. } => {
                            self.token.map_or(by, |token| LeaseAnswer::Granted { token })
                        }
                    };
                    self.stage.tell(Event::Lease { watcher: lease.watcher, ask, answer });
                }
                Action::ClaimSlot { claim, .. } => self.claims.push(claim),
                _ => unreachable!(),
            }
        }
    }

    /// The store answers the latest claim.
    fn says(&mut self, answer: Claimed) {
        let claim = *self.claims.last().expect("a claim");
        let watcher = WatcherName::parse("job").unwrap();
        self.stage.tell(Event::SlotClaimed { watcher, claim, answer });
        self.look();
    }

    /// The slots that it has claimed since the last look, each as often as it asked.
    fn claimed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.claims).iter().map(|claim| (claim.slot.0 - NOON) / MINUTE).collect()
    }

    fn wait(&mut self, time: Duration) {
        let end = self.stage.now + time;
        while let Some(due) = self.stage.node.next_wakeup().filter(|due| *due <= end) {
            self.stage.now = due;
            self.stage.tell(Event::Woke);
            self.look();
        }
        self.stage.now = end;
        self.stage.tell(Event::Woke);
        self.look();
    }

    fn story(&mut self) -> Vec<String> {
        self.stage.story()
    }

    /// The process of the latest run is done.
    fn is_done(&mut self) {
        let id = self.latest.take().expect("a run");
        self.stage.process(id, ProcessEvent::Spawned { pid: 7 });
        self.stage.end(id, Exit::Code(0));
    }

    /// The slots for which processes were told to run since the last look.
    fn slots(&mut self) -> Vec<u64> {
        let latest = &mut self.latest;
        let told = |action| match action {
            Action::Spawn { process, launch } => {
                *latest = Some(process);
                let found = launch.env.into_iter().find(|(name, _)| name == "CIRCUS_SLOT").map(|(_, slot)| slot);
                Some((found.expect("a slot").parse::<u64>().unwrap() - NOON) / MINUTE)
            }
            _ => None,
        };
        std::mem::take(&mut self.stage.orders).into_iter().filter_map(told).collect()
    }

    /// What was to be kept of slots since the last look, and with whose lease, and what was told of them.
    fn told(&mut self) -> Vec<String> {
        let minute = |slot: Slot| (slot.0 - NOON) / MINUTE;
        let mut lines = Vec::new();
        self.stage.orders.retain(|action| {
            let line = match action {
                Action::Record { lease, fact: Fact { token, what: What::Run { slot, turn, .. }, .. } } => {
                    let turn = match turn {
                        Turn::Claimed => panic!("the store tells of claims"),
                        Turn::Began { pid } => format!("began {pid}"),
                        Turn::Ended { how, told } => format!("ended{}: {how}", if *told { " as told" } else { "" }),
                        Turn::PassedOver { why } => format!("passed over: {why}"),
                        Turn::Missed { why } => format!("missed: {why}"),
                    };
                    format!("{}/{token} slot {} {turn}", lease.watcher, minute(*slot))
                }
                Action::Publish(notice) => match &notice.news {
                    News::CronFailure { slot, error } => format!("cron_failure {} {error}", minute(*slot)),
                    News::CronSkipped { slot, reason } => format!("cron_skipped {} {reason}", minute(*slot)),
                    _ => return true,
                },
                _ => return true,
            };
            lines.push(line);
            false
        });
        lines
    }

    /// The job's process runs for this slot, and ends so.
    fn runs(&mut self, slot: u64, exit: Exit) {
        assert_eq!(self.slots(), [slot]);
        let id = self.latest.take().expect("a run");
        self.stage.process(id, ProcessEvent::Spawned { pid: 7 });
        self.stage.end(id, exit);
        self.look();
    }

    fn counts(&self) -> (u64, u64, u64, Option<Slot>) {
        let snapshot = self.stage.node.snapshot();
        let job = snapshot.watchers.iter().find(|watcher| watcher.name.as_str() == "job").expect("the job");
        let counts = job.cron.expect("a schedule").counts;
        (counts.done, counts.failed, counts.skipped, counts.last_done)
    }

    fn note(&self) -> String {
        self.stage.note("job")
    }

    fn state(&self) -> WatcherState {
        self.stage.state("job")
    }
}

fn any() -> Option<Pattern> {
    Some(Pattern::Glob("job".into()))
}

#[test]
fn a_run_begins_with_its_slot_and_the_next_waits_for_its_own() {
    let mut town = Town::new(job());
    assert_eq!((town.state(), town.note().as_str()), (WatcherState::Scheduled, "next in 20 s"));
    town.wait(secs(19));
    assert_eq!(town.story(), [] as [&str; 0]);
    town.wait(secs(1));
    assert_eq!(town.story(), ["spawn job#1"]);
    town.stage.spawned("job#1");
    assert_eq!((town.state(), town.note()), (WatcherState::Active, format!("runs for {}", slot(1))));
    town.stage.ends("job#1", Exit::Code(0));
    assert_eq!((town.state(), town.note().as_str()), (WatcherState::Scheduled, "next in 1m 00s"));
    town.story();
    town.wait(secs(59));
    assert_eq!(town.story(), [] as [&str; 0]);
    town.wait(secs(1));
    assert_eq!(town.slots(), [2]);
}

#[test]
fn what_came_before_it_was_started_is_not_made_up_for() {
    let mut late = Town::new(WatcherSpec { autostart: false, ..job() });
    late.wait(secs(25));
    late.stage.asks_for(Command::Start { pattern: any(), patience: Patience::Admitted });
    late.look();
    assert_eq!(late.slots(), [] as [u64; 0], "five seconds after a slot, well in its grace");
    late.wait(secs(55));
    assert_eq!(late.slots(), [2]);
}

#[test]
fn a_slot_that_comes_while_a_run_goes_on_has_none() {
    let mut town = Town::new(job());
    town.wait(secs(20));
    town.story();
    town.stage.spawned("job#1");
    town.wait(secs(90));
    assert!(!town.story().contains(&"spawn job#1".into()));
    assert_eq!(town.note(), format!("runs for {}; {}: no run, the run before goes on", slot(1), slot(2)));
    // Its tree counts: what it left behind is of the same run.
    let id = ProcessId(town.stage.id("job#1"));
    town.stage.process(id, ProcessEvent::Exited(Exit::Code(0)));
    town.wait(secs(30));
    assert_eq!(town.slots(), [] as [u64; 0]);
    town.stage.process(id, ProcessEvent::Gone);
    town.wait(secs(60));
    assert_eq!(town.slots(), [4]);
}

#[test]
fn a_failed_run_is_not_repeated_and_is_told_of_until_one_is_well() {
    let mut town = Town::new(job());
    town.wait(secs(20));
    town.story();
    town.stage.spawned("job#1");
    town.stage.ends("job#1", Exit::Code(3));
    assert_eq!(town.note(), format!("next in 1m 00s; {}: exit 3", slot(1)));
    town.story();
    town.wait(secs(60));
    assert_eq!(town.story(), ["spawn job#1"]);
    let failure = SpawnFailure { stage: "exec(\"job\")".into(), error: "ENOENT".into() };
    town.stage.process(ProcessId(town.stage.id("job#1")), ProcessEvent::SpawnFailed(failure));
    assert!(town.note().contains("ENOENT"), "{}", town.note());
    assert_eq!(town.state(), WatcherState::Scheduled, "it is not given up");
    town.story();
    town.wait(secs(60));
    assert_eq!(town.story(), ["spawn job#1"]);
    town.stage.spawned("job#1");
    town.stage.ends("job#1", Exit::Code(0));
    assert_eq!(town.note(), "next in 1m 00s");
}

#[test]
fn a_slot_that_is_noticed_too_late_has_no_run_and_one_within_its_grace_has() {
    let mut town = Town::new(job());
    // The machine sleeps from here to 15 s after the third slot, and the fourth is noticed in time.
    town.stage.now = town.stage.now + secs(155);
    town.stage.tell(Event::Woke);
    town.look();
    assert_eq!(town.slots(), [] as [u64; 0]);
    assert!(town.note().contains(&format!("{}: no run, it was noticed 15 s late", slot(3))), "{}", town.note());
    town.stage.now = town.stage.now + secs(54);
    town.stage.tell(Event::Woke);
    town.look();
    assert_eq!(town.slots(), [4], "nine seconds late");
}

#[test]
fn a_clock_that_is_set_brings_no_slot_again() {
    let mut town = Town::new(job());
    town.wait(secs(25));
    assert_eq!(town.slots(), [1]);
    town.is_done();
    // Back by 30 s: the first slot comes once more, and the second 30 s later than it would have.
    town.set = -30;
    town.wait(secs(84));
    assert_eq!(town.slots(), [] as [u64; 0]);
    town.wait(secs(1));
    assert_eq!(town.slots(), [2]);
    town.is_done();
    // Ahead by a minute and a half: what is skipped has no run, and what comes then has its own.
    town.set = 75;
    town.wait(secs(30));
    assert_eq!(town.slots(), [] as [u64; 0], "noticed more than ten seconds late");
    town.wait(secs(45));
    assert_eq!(town.slots(), [5]);
}

#[test]
fn a_clock_that_was_years_ahead_keeps_nothing_from_running() {
    const YEARS: i64 = 100_000_000 / 60 * 60;
    let mut town = Town::new(job());
    town.set = YEARS;
    town.wait(secs(25));
    town.slots();
    town.is_done();
    town.set = 0;
    town.wait(secs(120));
    assert!(!town.slots().is_empty());
}

#[test]
fn a_stopped_watcher_has_no_runs_and_its_run_ends() {
    let mut town = Town::new(job());
    town.wait(secs(20));
    town.story();
    town.stage.spawned("job#1");
    town.stage.asks_for(Command::Stop { pattern: any(), patience: Patience::Admitted });
    assert!(town.story().contains(&format!("signal job#1 {TERM}")));
    town.stage.ends("job#1", Exit::Signal(TERM));
    assert_eq!(town.state(), WatcherState::Stopped);
    town.story();
    town.wait(GRACE * 10);
    assert_eq!(town.story(), [] as [&str; 0]);
}

#[test]
fn a_reload_leaves_a_run_alone() {
    let mut town = Town::new(job());
    town.wait(secs(20));
    town.story();
    town.stage.spawned("job#1");
    town.story();
    for way in [ReloadWay::Rolling, ReloadWay::Sequential] {
        town.stage.asks_for(Command::Reload { watcher: Some("job".into()), way, patience: Patience::Admitted });
    }
    assert_eq!(town.story(), [] as [&str; 0]);
}

#[test]
fn who_is_not_there_is_told_nothing() {
    let mut town = Town::new(watcher("job"));
    let calendar = town.calendar();
    for name in ["job", "none"] {
        let watcher = WatcherName::parse(name).unwrap();
        town.stage.tell(Event::CalendarRead { watcher, calendar: Some(calendar) });
    }
    town.stage.tell(Event::CalendarRead { watcher: WatcherName::parse("job").unwrap(), calendar: None });
    assert_eq!(town.state(), WatcherState::Starting);
}

// ---- under a lease ----

fn alone() -> WatcherSpec {
    WatcherSpec { cron: Some(cron()), ..singleton("job") }
}

/// A town whose node holds the lease of its job from the beginning.
fn holding() -> Town {
    let mut town = Town::new(alone());
    town.token = Some(7);
    town.wait(secs(2));
    assert_eq!((town.state(), town.claimed()), (WatcherState::Scheduled, vec![]));
    // Of the slot before it began it knows nothing better.
    assert!(matches!(&town.told()[..], [told] if told.starts_with("job/7 slot 0 missed")));
    town
}

fn taken() -> Claimed {
    Claimed::Taken { by: "b".into() }
}

fn unknown() -> Claimed {
    Claimed::Unknown("no answer".into())
}

#[test]
fn a_singleton_runs_when_the_slot_is_its_own_and_keeps_its_lease_in_between() {
    let mut town = holding();
    town.wait(secs(18));
    assert_eq!((town.slots(), town.claims.as_slice()), (vec![], [Claim { slot: slot(1), token: 7 }].as_slice()));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    town.is_done();
    town.wait(secs(40));
    let orders = std::mem::take(&mut town.stage.orders);
    assert_eq!((releases(&orders), town.state()), (0, WatcherState::Scheduled));
    town.claimed();
    town.wait(secs(20));
    assert_eq!(town.claimed(), [2]);
}

#[test]
fn a_standby_looks_at_no_calendar() {
    let mut town = Town::new(alone());
    town.wait(secs(300));
    assert_eq!((town.state(), town.claimed(), town.slots()), (WatcherState::Standby, vec![], vec![]));
}

#[test]
fn who_takes_over_makes_up_for_a_slot_that_nobody_has_begun_and_repeats_none() {
    for (answer, runs) in [(Claimed::Ours, vec![1]), (taken(), vec![])] {
        let mut town = Town::new(alone());
        town.wait(secs(25));
        town.token = Some(8);
        town.wait(secs(3));
        assert_eq!(town.claimed(), [1], "at most eight seconds after the slot");
        town.claims.push(Claim { slot: slot(1), token: 8 });
        town.says(answer);
        assert_eq!(town.slots(), runs);
        town.wait(secs(20));
        assert_eq!(town.slots(), [] as [u64; 0]);
    }
}

#[test]
fn who_takes_over_later_than_its_grace_leaves_the_slot_alone() {
    let mut town = Town::new(alone());
    town.wait(secs(31));
    town.token = Some(8);
    town.wait(secs(20));
    assert_eq!((town.state(), town.claimed()), (WatcherState::Scheduled, vec![]));
}

#[test]
fn without_an_answer_it_asks_again_for_its_grace_and_then_runs_not_at_all() {
    let mut town = holding();
    town.wait(secs(18));
    for _ in 0..19 {
        assert_eq!(town.slots(), [] as [u64; 0]);
        town.says(unknown());
        town.wait(Duration::from_millis(500));
    }
    assert_eq!(town.claimed(), [1; 20]);
    town.claims.push(Claim { slot: slot(1), token: 7 });
    town.says(unknown());
    assert!(town.note().contains("not known whether another node has it (no answer)"), "{}", town.note());
    town.says(Claimed::Ours);
    town.wait(secs(20));
    assert_eq!((town.slots(), town.claimed()), (vec![], vec![1]), "too late to begin");
}

#[test]
fn a_claim_that_is_answered_after_the_lease_is_gone_begins_nothing() {
    let mut town = holding();
    town.wait(secs(18));
    town.token = None;
    town.stage.asks_for(Command::Stop { pattern: any(), patience: Patience::Admitted });
    town.look();
    town.says(Claimed::Ours);
    assert_eq!((town.slots(), town.state()), (vec![], WatcherState::Stopped));
}

#[test]
fn a_restart_under_the_same_lease_repeats_no_slot() {
    let mut town = holding();
    town.wait(secs(18));
    town.says(Claimed::Ours);
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1], "an answer may be doubled");
    town.is_done();
    town.claimed();
    town.stage.asks_for(Command::Restart { pattern: any(), patience: Patience::Admitted });
    town.look();
    town.wait(secs(20));
    assert_eq!((town.claimed(), town.slots()), (vec![], vec![]));
}

#[test]
fn a_claim_that_is_answered_too_late_begins_nothing() {
    let mut town = holding();
    town.wait(secs(18));
    assert_eq!(town.claimed(), [1]);
    town.wait(secs(11));
    town.claims.push(Claim { slot: slot(1), token: 7 });
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [] as [u64; 0]);
    assert!(town.note().contains("the answer to its claim came too late"), "{}", town.note());
    town.claimed();
    town.wait(secs(50));
    assert_eq!(town.claimed(), [2]);
}

#[test]
fn no_clock_brings_a_tenure_what_it_has_had() {
    // What a clock has brought that was hours ahead is forgotten, and the first slot comes once more.
    let comes_again = |town: &mut Town| {
        town.set = 7_200;
        town.wait(secs(60));
        town.claimed();
        town.set = -i64::try_from(town.stage.now.as_nanos() / 1_000_000_000).unwrap();
        town.wait(secs(55));
        town.claimed()
    };
    for changed in [false, true] {
        let mut town = holding();
        town.wait(secs(18));
        town.says(Claimed::Ours);
        assert_eq!((town.slots(), town.claimed()), (vec![1], vec![1]));
        town.is_done();
        if changed {
            let cron = CronSpec { misfire_grace: secs(11), ..cron() };
            let spec =
                AgentSpec { redis: redis(), ..agent(&name("a"), vec![WatcherSpec { cron: Some(cron), ..alone() }]) };
            town.stage.tell(Event::SpecRead { request: None, spec: Ok(Box::new(spec)) });
            town.look();
        }
        assert_eq!(comes_again(&mut town), [] as [u64; 0]);
        // The next tenure asks for what this node had before.
        town.token = None;
        town.wait(secs(60));
        town.token = Some(9);
        assert_eq!(comes_again(&mut town), [1]);
    }
}

#[test]
fn what_follows_a_leader_and_is_taken_out_and_put_back_repeats_nothing() {
    let legion = singleton("ip");
    let job = WatcherSpec { cron: Some(cron()), follows: Some(legion.name.clone()), ..watcher("job") };
    let file = |watchers| Event::SpecRead {
        request: None,
        spec: Ok(Box::new(AgentSpec { redis: redis(), ..agent(&name("a"), watchers) })),
    };
    let mut town = Town { stage: Stage::new(vec![legion.clone(), job.clone()]), ..Town::new(watcher("none")) };
    town.token = Some(7);
    town.look();
    town.wait(secs(2));
    assert!(town.story().contains(&"spawn ip#1".into()));
    town.stage.spawned("ip#1");
    town.look();
    town.wait(secs(18));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    town.is_done();
    town.claimed();
    // The lease stays where it is, and what it was claimed with is the same tenure's.
    town.stage.tell(file(vec![legion.clone()]));
    town.look();
    town.stage.tell(file(vec![legion, job]));
    town.look();
    town.wait(secs(5));
    assert_eq!((town.state(), town.claimed()), (WatcherState::Scheduled, vec![]));
    town.wait(secs(60));
    assert_eq!(town.claimed(), [2]);
}

// ---- what became of slots ----

fn lease_of(watcher: &WatcherName) -> LeaseName {
    LeaseName { cluster: ClusterName::parse("test").unwrap(), watcher: watcher.clone(), key: None }
}

#[test]
fn what_became_of_a_run_is_kept_with_the_lease_that_it_was_under() {
    let mut town = holding();
    town.wait(secs(18));
    town.says(Claimed::Ours);
    assert_eq!(town.told(), [] as [&str; 0], "the claim tells of itself");
    town.runs(1, Exit::Code(0));
    assert_eq!(town.told(), ["job/7 slot 1 began 7", "job/7 slot 1 ended: exit 0"]);
    town.wait(secs(60));
    town.says(Claimed::Ours);
    town.runs(2, Exit::Signal(9));
    let told = ["job/7 slot 2 began 7", "job/7 slot 2 ended: killed by SIGKILL", "cron_failure 2 killed by SIGKILL"];
    assert_eq!((town.told(), town.state()), (told.map(str::to_owned).into(), WatcherState::Scheduled));
    assert_eq!(town.counts(), (1, 1, 0, Some(slot(1))));
}

#[test]
fn a_slot_without_a_run_says_why() {
    let mut town = holding();
    town.wait(secs(18));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    let id = town.latest.take().expect("a run");
    town.stage.process(id, ProcessEvent::Spawned { pid: 7 });
    town.wait(secs(60));
    let why = "2 the run before goes on";
    let told = ["job/7 slot 1 began 7".to_owned(), "job/7 slot 2 passed over: the run before goes on".into()];
    assert_eq!(town.told(), [&told[..], &[format!("cron_skipped {why}")]].concat());
    town.stage.end(id, Exit::Code(0));
    town.look();
    town.told();
    // Nobody can say whose the third one is.
    town.wait(secs(60));
    while town.claims.last().is_some_and(|claim| claim.slot == slot(3)) {
        town.says(unknown());
        town.claims.clear();
        town.wait(Duration::from_millis(500));
    }
    let why = "it is not known whether another node has it (no answer)";
    assert_eq!(town.told(), [format!("job/7 slot 3 passed over: {why}"), format!("cron_skipped 3 {why}")]);
    assert_eq!(town.counts(), (1, 0, 2, Some(slot(1))));
}

#[test]
fn who_takes_over_too_late_says_so_and_counts_nothing() {
    let mut town = Town::new(alone());
    town.wait(secs(31));
    town.token = Some(8);
    town.wait(secs(20));
    let told = town.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("job/8 slot 1 missed: no node was there for it, it was noticed 1"), "{told:?}");
    assert_eq!(town.counts(), (0, 0, 0, None), "it may have been another's");
}

#[test]
fn a_run_that_is_called_off_before_it_began_says_so() {
    let hook = HookSpec { program: HookProgram::Command(vec!["true".into()]), ignore_failure: false };
    let mut town = Town::new(WatcherSpec { hooks: [(HookPoint::BeforeStart, hook)].into(), ..alone() });
    town.token = Some(7);
    town.wait(secs(20));
    town.says(Claimed::Ours);
    assert_eq!(town.story(), ["hook job before_start"]);
    town.stage.asks_for(Command::Stop { pattern: any(), patience: Patience::Admitted });
    town.stage.returns("job before_start", true);
    town.look();
    assert_eq!(town.told(), ["job/7 slot 1 passed over: it was called off before it began"]);
    assert_eq!(town.state(), WatcherState::Stopped);
}

#[test]
fn a_hook_that_keeps_a_run_from_beginning_is_a_failure() {
    let hook = HookSpec { program: HookProgram::Command(vec!["false".into()]), ignore_failure: false };
    let mut town = Town::new(WatcherSpec { hooks: [(HookPoint::BeforeStart, hook)].into(), ..alone() });
    town.token = Some(7);
    town.wait(secs(20));
    town.says(Claimed::Ours);
    assert_eq!(town.story(), ["hook job before_start"]);
    town.stage.returns("job before_start", false);
    town.look();
    let why = "hook before_start said no";
    assert_eq!(town.told(), [format!("job/7 slot 1 ended: {why}"), format!("cron_failure 1 {why}")]);
}

#[test]
fn an_agent_keeps_by_itself_what_became_of_slots_without_a_lease() {
    let mut town = Town::new(job());
    town.wait(secs(20));
    town.runs(1, Exit::Code(0));
    town.wait(secs(62));
    assert_eq!(town.slots(), [2]);
    let id = town.latest.take().expect("a run");
    town.stage.process(id, ProcessEvent::Spawned { pid: 8 });
    town.wait(secs(60));
    assert_eq!(town.told(), ["cron_skipped 3 the run before goes on"], "and asks no store");
    let read = |town: &mut Town| {
        let request = town.stage.asks_for(Command::History { watcher: Some("job".into()), count: 9 });
        let Some(Told::Own(Reply::Done(Answer::Histories(mut told)))) = town.stage.outcome(request) else { panic!() };
        assert_eq!((told.len(), told[0].1.tenures.len()), (1, 0));
        told.remove(0).1.runs.expect("runs")
    };
    let runs = read(&mut town);
    let outcomes: Vec<_> = runs.iter().map(|run| (run.slot, run.outcome.clone())).collect();
    let skipped = Outcome::NoRun("the run before goes on".into());
    assert_eq!(outcomes, [(slot(3), skipped), (slot(2), Outcome::Running), (slot(1), Outcome::Done)]);
    let second = &runs[1];
    assert_eq!((second.began, second.token, second.pid), (Some((slot(2).0 + 2) * 1_000), None, Some(8)));
    town.stage.asks_for(Command::Stop { pattern: any(), patience: Patience::Admitted });
    town.stage.end(id, Exit::Signal(TERM));
    assert_eq!(read(&mut town)[1].outcome, Outcome::Stopped(How::Exit(Exit::Signal(TERM))));
    assert_eq!(town.told(), [] as [&str; 0], "to stop it is no failure");
}

#[test]
fn history_has_tenures_and_runs_of_a_singleton() {
    let mut town = holding();
    let request = town.stage.asks_for(Command::History { watcher: Some("job".into()), count: 1 });
    let name = WatcherName::parse("job").unwrap();
    let schedules = vec![Schedule { watcher: name.clone(), lease: lease_of(&name) }];
    let asked = Action::ReadHistory { request, leases: vec![lease_of(&name)], schedules };
    assert!(town.stage.orders().contains(&asked));
    let fact = |number, turn| {
        let what = What::Run { watcher: name.clone(), slot: slot(number), turn };
        Entry { token: 7, node: "a".into(), at: 5, slack: 0, what, before: None }
    };
    let entries = vec![fact(1, Turn::Claimed), fact(2, Turn::Claimed)];
    let schedules = vec![ScheduleRead { watcher: name.clone(), entries, holder: Some(7) }];
    let read = Ok(HistoryRead { now: 30, leases: vec![(name.clone(), vec![])], schedules });
    town.stage.tell(Event::HistoryRead { request, read });
    let Some(Told::Own(Reply::Done(Answer::Histories(told)))) = town.stage.outcome(request) else { panic!() };
    let [(of, history)] = &told[..] else { panic!("{told:?}") };
    let runs: Vec<_> = history.runs.iter().flatten().map(|run| (run.slot, run.outcome.clone())).collect();
    assert_eq!((of, runs), (&name, vec![(slot(2), Outcome::Running)]), "as many as were asked for");
}

// ---- what follows a failure ----

const APART: Duration = Duration::from_secs(600);

fn standing_back(job: WatcherSpec) -> WatcherSpec {
    WatcherSpec { cron: Some(CronSpec { on_failure: OnFailure::StandBack(APART), ..cron() }), ..job }
}

#[test]
fn a_failed_run_gives_the_lease_up_for_a_while_where_it_is_to() {
    let mut town = Town::new(standing_back(alone()));
    town.token = Some(7);
    town.wait(secs(20));
    town.says(Claimed::Ours);
    town.runs(1, Exit::Code(0));
    assert_eq!(town.state(), WatcherState::Scheduled, "all is well");
    town.wait(secs(60));
    town.says(Claimed::Ours);
    town.runs(2, Exit::Code(3));
    let why = format!("the run of {} failed: exit 3: stood back for another node", slot(2));
    assert_eq!((town.state(), town.note()), (WatcherState::Standby, why));
    town.told();
    town.claims.clear();
    town.wait(APART - secs(70));
    assert_eq!((town.claimed(), town.state()), (vec![], WatcherState::Standby));
    town.wait(secs(120));
    assert_eq!(town.state(), WatcherState::Scheduled, "it wants it again, and nobody else has it");
}

#[test]
fn a_run_that_is_stopped_is_no_reason_to_stand_back() {
    let mut town = Town::new(standing_back(alone()));
    town.token = Some(7);
    town.wait(secs(20));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    let id = town.latest.take().expect("a run");
    town.stage.process(id, ProcessEvent::Spawned { pid: 7 });
    town.stage.asks_for(Command::Restart { pattern: any(), patience: Patience::Admitted });
    town.stage.end(id, Exit::Signal(TERM));
    town.look();
    town.wait(secs(2));
    assert_eq!(town.state(), WatcherState::Scheduled);
}

#[test]
fn a_run_that_loses_its_lease_ends_as_told_under_the_token_it_had() {
    let mut town = Town::new(standing_back(alone()));
    town.token = Some(7);
    town.wait(secs(20));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    let id = town.latest.take().expect("a run");
    town.stage.process(id, ProcessEvent::Spawned { pid: 7 });
    town.token = None;
    town.wait(secs(6));
    town.told();
    town.stage.end(id, Exit::Signal(9));
    town.look();
    assert_eq!(town.told(), ["job/7 slot 1 ended as told: killed by SIGKILL"]);
    town.wait(secs(2));
    assert_eq!((town.state(), town.note().as_str()), (WatcherState::Standby, "held by b"), "it stands by");
}

#[test]
fn a_run_that_its_guard_ended_with_the_lease_has_not_failed() {
    let mut town = Town::new(standing_back(alone()));
    town.token = Some(7);
    town.wait(secs(20));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    let id = town.latest.take().expect("a run");
    town.stage.process(id, ProcessEvent::Spawned { pid: 7 });
    town.told();
    // The agent stands still, and hears of the end before anything else.
    town.stage.now = town.stage.now + secs(40);
    town.stage.end(id, Exit::Signal(9));
    assert_eq!(town.told(), ["job/7 slot 1 ended as told: killed by SIGKILL"]);
    town.look();
    town.wait(secs(5));
    assert_eq!(town.state(), WatcherState::Scheduled, "it does not stand back");
}

// ---- under a leader's lease ----

/// A town whose node leads `ip`, which the job follows; the leader's process is up.
fn led(job: WatcherSpec) -> Town {
    let follows = Some(WatcherName::parse("ip").unwrap());
    let stage = Stage::new(vec![singleton("ip"), WatcherSpec { follows, singleton: None, ..job }]);
    let mut town = Town { stage, set: 0, latest: None, token: Some(7), claims: Vec::new() };
    town.look();
    town.wait(secs(2));
    assert!(town.story().contains(&"spawn ip#1".into()));
    town.stage.spawned("ip#1");
    town.look();
    assert_eq!((town.state(), town.claimed()), (WatcherState::Scheduled, vec![]));
    town
}

#[test]
fn what_follows_a_leader_runs_and_is_told_of_under_the_leaders_lease() {
    let mut town = led(job());
    town.wait(secs(18));
    let ip = WatcherName::parse("ip").unwrap();
    assert_eq!(town.claims, [Claim { slot: slot(1), token: 7 }]);
    town.says(Claimed::Ours);
    town.runs(1, Exit::Code(0));
    assert_eq!(town.told(), ["ip/7 slot 1 began 7", "ip/7 slot 1 ended: exit 0"]);
    let request = town.stage.asks_for(Command::History { watcher: Some("job".into()), count: 9 });
    let schedules = vec![Schedule { watcher: WatcherName::parse("job").unwrap(), lease: lease_of(&ip) }];
    assert!(town.stage.orders().contains(&Action::ReadHistory { request, leases: vec![], schedules }));
}

#[test]
fn what_follows_a_leader_that_is_elsewhere_looks_at_no_calendar() {
    let mut town = led(job());
    town.stage.asks_for(Command::Stop { pattern: Some(Pattern::Glob("ip".into())), patience: Patience::Admitted });
    town.stage.ends("ip#1", Exit::Signal(TERM));
    town.look();
    town.wait(secs(200));
    assert_eq!((town.state(), town.claimed()), (WatcherState::Standby, vec![]));
    assert_eq!(town.told(), [] as [&str; 0]);
}

#[test]
fn a_run_ends_before_its_leader_does_and_is_no_failure() {
    let mut town = led(standing_back(job()));
    town.wait(secs(18));
    town.says(Claimed::Ours);
    assert_eq!(town.slots(), [1]);
    let id = town.latest.take().expect("a run");
    town.stage.process(id, ProcessEvent::Spawned { pid: 7 });
    town.stage.asks_for(Command::Stop { pattern: Some(Pattern::Glob("ip".into())), patience: Patience::Admitted });
    let orders = std::mem::take(&mut town.stage.orders);
    let signals: Vec<_> = orders.iter().filter(|it| matches!(it, Action::Signal { .. })).collect();
    assert!(matches!(signals[..], [Action::Signal { process, signal: TERM, .. }] if *process == id), "{signals:?}");
    town.stage.end(id, Exit::Signal(TERM));
    town.look();
    assert_eq!(town.told(), ["ip/7 slot 1 ended as told: killed by SIGTERM"]);
    assert!(town.story().contains(&format!("signal ip#1 {TERM}")), "the leader goes last");
}

#[test]
fn a_failed_run_has_the_leader_stand_back_where_it_is_to() {
    let mut town = led(standing_back(job()));
    town.wait(secs(18));
    town.says(Claimed::Ours);
    town.runs(1, Exit::Code(3));
    assert!(town.story().contains(&format!("signal ip#1 {TERM}")));
    let orders = town.stage.orders.len();
    town.stage.ends("ip#1", Exit::Signal(TERM));
    assert_eq!(releases(&town.stage.orders[orders..]), 1, "nothing of it is left");
    town.look();
    assert_eq!((town.stage.state("ip"), town.state()), (WatcherState::Standby, WatcherState::Standby));
    let why = format!("job: the run of {} failed: exit 3: stood back for another node", slot(1));
    assert_eq!(town.stage.note("ip"), why);
    assert_eq!(town.note(), format!("ip: {why}"));
    town.token = None;
    town.wait(APART + secs(30));
    assert_eq!(town.stage.note("ip"), "held by b", "it asks again");
}
