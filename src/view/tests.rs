//! Golden texts: what people see, as they see it.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::command::{Answer, NodeAbout, NodeRow, NodeState, Outcome, Part, Patience, Refusal, Reply};
use crate::model::event::{Changes, Exit, TokenState};
use crate::model::explain::{self, Condition, Explanation, Move};
use crate::model::history::{self, Before, Cause, Ending, Entry, History, Left, What};
use crate::model::names::{ClusterName, NodeName, SocketName, WatcherName};
use crate::model::pause::Pause;
use crate::model::plan::{Change, Effect, KeyChange, Plan, SocketChange, SocketEffect};
use crate::model::runs::{self, How, Turn};
use crate::model::snapshot::{
    LeaseCounts, LeaseRole, LeaseView, Phase, ProcessView, Snapshot, StoreView, WatcherState, WatcherView,
};
use crate::model::spec::Slot;
use crate::model::stats::Machine;
use crate::model::store::Missed;
use crate::wire::reply_json;

/// 2026-11-21 22:08 UTC.
const NOW: f64 = 1_795_298_934.0;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn watcher(name: &str, state: WatcherState, wanted: u32, pids: &[(u32, u64)], note: Option<&str>) -> WatcherView {
    WatcherView {
        name: WatcherName::parse(name).unwrap(),
        state,
        note: note.map(str::to_owned),
        numprocesses: wanted,
        processes: (1..)
            .zip(pids)
            .map(|(wid, &(pid, age))| ProcessView {
                wid,
                pid: Some(pid),
                state: "running",
                age: secs(age as f64),
                status: None,
            })
            .collect(),
        restarts: 0,
        last_exit: None,
        next_try: None,
        lease: None,
        legion: None,
        cron: None,
    }
}

fn lease(name: &str, role: LeaseRole, holder: Option<&str>) -> LeaseView {
    let holds = matches!(role, LeaseRole::Holder | LeaseRole::Losing);
    LeaseView {
        watcher: WatcherName::parse(name).unwrap(),
        key: format!("circus:{{prod/{name}}}:lease"),
        role,
        token: holds.then_some(17),
        ttl: secs(5.0),
        left: Some(secs(4.1)),
        holder: holder.map(str::to_owned),
        latency: holds.then_some(Duration::from_micros(2_130)),
        held_for: holds.then_some(secs(275_000.0)),
        why: None,
        pause: None,
        counts: LeaseCounts { taken: 2, lost_expired: 1, refreshes: 40, ..LeaseCounts::default() },
    }
}

fn with_lease(mut watcher: WatcherView, lease: LeaseView) -> WatcherView {
    watcher.lease = Some(lease);
    watcher
}

fn snapshot(name: &str, watchers: Vec<WatcherView>) -> Snapshot {
    Snapshot {
        messages_dropped: 0,
        node: node(name),
        cluster: ClusterName::parse("prod").unwrap(),
        phase: Phase::Running,
        config: String::new(),
        store: StoreView::Up,
        missed: Missed::default(),
        watchers,
    }
}

fn status(snapshot: Snapshot) -> Reply {
    Reply::Done(Answer::Status(Box::new(snapshot)))
}

fn own(reply: Reply) -> Value {
    reply_json(&Outcome::Own(reply), &Value::Null, NOW)
}

fn gathered(parts: Vec<(&str, Part)>) -> Value {
    let parts = parts.into_iter().map(|(name, part)| (node(name), part)).collect();
    reply_json(&Outcome::Gathered { parts, missing: None }, &Value::Null, NOW)
}

fn shown(command: &Command, reply: &Value) -> String {
    let text = text(command, reply, Some("web-1"), Style { colour: false, width: Some(100) });
    for line in text.out.lines() {
        assert!(line.chars().count() <= 100, "too long: {line}");
    }
    format!("{}{}", text.out, text.err)
}

fn golden(command: &Command, reply: &Value, expected: &str) {
    let shown = shown(command, reply);
    let expected: String = expected.lines().skip(1).map(|line| format!("{}\n", line.trim_start_matches('|'))).collect();
    assert!(shown == expected, "shown:\n{shown}\nexpected:\n{expected}");
}

const STATUS: Command = Command::Status { watcher: None };

fn web_1() -> Snapshot {
    let mut worker = watcher("worker", WatcherState::Backoff, 2, &[(510, 720)], Some("exit 1, again in 4 s"));
    worker.restarts = 3;
    worker.last_exit = Some((Exit::Code(1), secs(2.0)));
    let beat = watcher("beat", WatcherState::Active, 1, &[(48211, 275_000)], None);
    let reaper = watcher("reaper", WatcherState::Standby, 1, &[], Some("held by web-2"));
    snapshot(
        "web-1",
        vec![
            watcher("web", WatcherState::Active, 6, &[(1, 60), (2, 61), (3, 62), (4, 63), (5, 64), (6, 65)], None),
            worker,
            with_lease(beat, lease("beat", LeaseRole::Holder, Some("web-1"))),
            with_lease(reaper, lease("reaper", LeaseRole::Standby, Some("web-2"))),
            watcher("off", WatcherState::Stopped, 1, &[], None),
        ],
    )
}

fn web_2() -> Snapshot {
    let beat = watcher("beat", WatcherState::Standby, 1, &[], Some("held by web-1"));
    let reaper = watcher("reaper", WatcherState::Failed, 1, &[], Some("exit 1, five times in a row"));
    snapshot(
        "web-2",
        vec![
            watcher("web", WatcherState::Active, 2, &[(7, 60), (8, 61)], None),
            with_lease(beat, lease("beat", LeaseRole::Standby, Some("web-1"))),
            with_lease(reaper, lease("reaper", LeaseRole::Holder, Some("web-2"))),
        ],
    )
}

/// The facts of docs/circusctl.md, and one start too early.
fn histories() -> Reply {
    let (now, day) = (1_795_298_934_000, 86_400_000);
    let at = |token, node: &str, at, what, before| Entry { token, node: node.into(), at, slack: 1, what, before };
    let started = |token, node, begun, before| at(token, node, begun, What::Started { pid: 7 }, before);
    let before = |token, node: &str, seen, left| Some(Before { token, node: node.into(), seen: Some(seen), left });
    let moved = Ending {
        detail: Some("web-2".into()),
        by: Some("circusctl (uid 0) on web-1".into()),
        ..Ending::of(Cause::Moved)
    };
    let gave_up = Ending { detail: Some("exit 1, 5 times in a row".into()), ..Ending::of(Cause::GaveUp) };
    let (first, second, third) = (now - 19 * day, now - 8 * day, now - 3 * day);
    let entries = [
        started(15, "web-3", first, None),
        started(16, "web-1", second, before(15, "web-3", second - 5_300, Left::Expired)),
        at(16, "web-1", third - 210, What::Ended(moved), None),
        started(17, "web-2", third, before(16, "web-1", third - 200, Left::Released)),
        at(17, "web-2", third + 9_000, What::Ended(gave_up), None),
        started(18, "web-1", third + 9_012, before(17, "web-2", third + 9_001, Left::Released)),
    ];
    let early = [
        started(3, "web-1", second, None),
        at(3, "web-1", third + 1_200, What::Ended(Ending::of(Cause::Unconfirmed)), None),
        started(4, "web-2", third, before(3, "web-1", third - 9_000, Left::Expired)),
    ];
    let name = |name| WatcherName::parse(name).unwrap();
    let told = vec![
        (name("beat"), history::fold(&entries, now)),
        (name("never"), history::fold(&[], now)),
        (name("reaper"), history::fold(&early, now)),
    ];
    Reply::Done(Answer::Histories(told))
}

#[test]
fn history_tells_who_had_a_lease_and_why_and_marks_what_must_never_be() {
    let named = Command::History { watcher: Some("beat".into()), count: 20 };
    let Reply::Done(Answer::Histories(mut told)) = histories() else { panic!() };
    told.truncate(1);
    let beat = Reply::Done(Answer::Histories(told));
    golden(
        &named,
        &own(beat.clone()),
        "
|TOKEN  FROM   TO     WHEN                       GAP  OVERLAP  WHY
|   18  web-2  web-1  2026-11-18 22:09:03Z     12 ms     none  given up on web-2: exit 1, 5 times in
|                                                              a row
|   17  web-1  web-2  2026-11-18 22:08:54Z    0.21 s     none  planned move, by circusctl (uid 0) on
|                                                              web-1
|   16  web-3  web-1  2026-11-13 22:08:54Z  ≤ 5.30 s        -  lease expired, web-3 last seen
|                                                              22:08:48Z
|   15  -      web-3  2026-11-02 22:08:54Z         -        -  first start
|worst gap ≤ 5.30 s, 2 moves in 7 days, no overlap",
    );
    // All nodes read the same.
    let many = gathered(vec![("web-1", Part::Own(beat.clone())), ("web-2", Part::Own(beat.clone()))]);
    assert_eq!(shown(&named, &many), shown(&named, &own(beat)));
    let Reply::Done(Answer::Histories(mut told)) = histories() else { panic!() };
    told.iter_mut().for_each(|(_, history)| history.tenures.truncate(1));
    golden(
        &Command::History { watcher: None, count: 1 },
        &own(Reply::Done(Answer::Histories(told))),
        "
|NAME    TOKEN  FROM   TO     WHEN                    GAP   OVERLAP  WHY
|beat       18  web-2  web-1  2026-11-18 22:09:03Z  12 ms      none  given up on web-2: exit 1, 5
|                                                                    times in a row
|reaper      4  web-1  web-2  2026-11-18 22:08:54Z   0 ms  1.20 s !  refresh not confirmed in time
|beat: worst gap ≤ 5.30 s, 2 moves in 7 days, no overlap
|never: worst gap -, 0 moves in 7 days, no overlap
|reaper: worst gap 0 ms, 1 move in 7 days, 1 OVERLAP: two have run at once",
    );
    golden(
        &named,
        &own(Reply::Done(Answer::Histories(vec![]))),
        "
|no leases: no watcher here has singleton = true",
    );
}

#[test]
fn history_tells_what_became_of_each_time_of_a_schedule() {
    let (day, pid) = (1_795_071_600, 7);
    let exit = |code| Turn::Ended { how: How::Exit(Exit::Code(code)), told: false };
    let at = |slot: u64, token, node: &str, late: u64, turn| {
        let what = What::Run { watcher: WatcherName::parse("report").unwrap(), slot: Slot(slot), turn };
        Entry { token, node: node.into(), at: slot * 1_000 + late, slack: 0, what, before: None }
    };
    let entries = [
        at(day, 15, "web-3", 13, Turn::Began { pid }),
        at(day + 86_400, 16, "web-1", 14, Turn::Began { pid }),
        at(day + 86_400, 16, "web-1", 2_000, exit(0)),
        at(day + 2 * 86_400, 16, "web-1", 0, Turn::PassedOver { why: "the run before goes on".into() }),
        at(day + 3 * 86_400, 16, "web-1", 11, Turn::Began { pid }),
        at(day + 3 * 86_400, 16, "web-1", 14_211, exit(3)),
        at(day + 4 * 86_400, 16, "web-1", 2, Turn::Claimed),
        at(day + 5 * 86_400, 17, "web-2", 12, Turn::Began { pid }),
    ];
    let runs = |holder| Some(runs::fold(&entries, holder));
    let name = |name| WatcherName::parse(name).unwrap();
    let report = History { runs: runs(Some(17)), ..History::default() };
    let named = Command::History { watcher: Some("report".into()), count: 20 };
    let reply = Reply::Done(Answer::Histories(vec![(name("report"), report.clone())]));
    golden(
        &named,
        &own(reply.clone()),
        "
|SLOT                  NODE   TOKEN   LATE     TOOK  RUN
|2026-11-24 07:00:00Z  web-2     17  12 ms        -  running
|2026-11-23 07:00:00Z  web-1     16      -        -  unfinished: claimed, and nothing was heard of it
|2026-11-22 07:00:00Z  web-1     16  11 ms  14.20 s  failed: exit 3
|2026-11-21 07:00:00Z  web-1     16      -        -  none: the run before goes on
|2026-11-20 07:00:00Z  web-1     16  14 ms   1.99 s  done
|2026-11-19 07:00:00Z  web-3     15  13 ms        -  unfinished: nothing was heard of its end",
    );
    // All nodes read the same of a schedule with a lease; of others each has its own.
    let many = gathered(vec![("web-1", Part::Own(reply.clone())), ("web-2", Part::Own(reply.clone()))]);
    assert_eq!(shown(&named, &many), shown(&named, &own(reply)));
    let here = |node: &str| {
        let entries = [at(day, 0, node, 9, Turn::Began { pid }), at(day, 0, node, 20, exit(0))];
        let clean = History { runs: Some(runs::fold(&entries, Some(0))), ..History::default() };
        Part::Own(Reply::Done(Answer::Histories(vec![(name("clean"), clean)])))
    };
    golden(
        &Command::History { watcher: Some("clean".into()), count: 20 },
        &gathered(vec![("web-1", here("web-1")), ("web-2", here("web-2"))]),
        "
|SLOT                  NODE   TOKEN  LATE   TOOK  RUN
|2026-11-19 07:00:00Z  web-1      -  9 ms  11 ms  done
|2026-11-19 07:00:00Z  web-2      -  9 ms  11 ms  done",
    );
    // With the tenures of a lease.
    let Reply::Done(Answer::Histories(mut told)) = histories() else { panic!() };
    told.truncate(1);
    told[0].1.tenures.truncate(1);
    told.push((name("report"), History { runs: runs(None).map(|runs| runs[..1].to_vec()), ..History::default() }));
    told.push((name("idle"), History { runs: Some(vec![]), ..History::default() }));
    golden(
        &Command::History { watcher: None, count: 1 },
        &own(Reply::Done(Answer::Histories(told))),
        "
|NAME    SLOT                  NODE   TOKEN   LATE  TOOK  RUN
|report  2026-11-24 07:00:00Z  web-2     17  12 ms     -  unfinished: nothing was heard of its end
|
|NAME  TOKEN  FROM   TO     WHEN                    GAP  OVERLAP  WHY
|beat     18  web-2  web-1  2026-11-18 22:09:03Z  12 ms     none  given up on web-2: exit 1, 5 times
|                                                                 in a row
|beat: worst gap ≤ 5.30 s, 2 moves in 7 days, no overlap",
    );
    golden(
        &named,
        &own(Reply::Done(Answer::Histories(vec![(name("report"), History { runs: Some(vec![]), ..report })]))),
        "
|no run is known to have been yet",
    );
}

#[test]
fn a_token_that_is_checked_is_told_with_who_holds() {
    let check = Command::LeaseCheck { watcher: "beat".into(), token: 16 };
    let told = |state| {
        let watcher = WatcherName::parse("beat").unwrap();
        shown(&check, &own(Reply::Done(Answer::LeaseChecked { watcher, token: 16, state })))
    };
    let over = |holder: Option<&str>, token| told(TokenState::Over { holder: holder.map(str::to_owned), token });
    assert_eq!(told(TokenState::Holds { left: secs(4.1) }), "token 16 holds beat, for 4.1 s unless it is refreshed\n");
    assert_eq!(over(Some("web-2"), Some(17)), "token 16 does not hold beat: web-2 holds it with token 17\n");
    assert_eq!(over(Some("somebody"), None), "token 16 does not hold beat: somebody holds it\n");
    assert_eq!(over(None, Some(16)), "token 16 does not hold beat: nobody does; the last token was 16\n");
    assert_eq!(over(None, None), "token 16 does not hold beat: nobody does\n");
}

fn pause() -> Pause {
    Pause { since: 1_795_291_800_000, by: "amy".into(), why: Some("migration".into()) }
}

#[test]
fn a_paused_lease_is_told_with_who_wanted_it_so_and_since_when() {
    let paused = || LeaseView {
        pause: Some(pause()),
        why: Some(pause().to_string()),
        ..lease("beat", LeaseRole::Standby, None)
    };
    let view = || Part::Own(Reply::Done(Answer::Leases { leases: vec![paused()], advice: Vec::new() }));
    golden(
        &Command::Leases,
        &gathered(vec![("web-1", view()), ("web-2", view())]),
        "
|NAME  HOLDER  TOKEN  LEASE  REFRESH  SINCE              WAITING      NOTE
|beat  paused      -      -        -  2026-11-21 20:10Z  web-1 web-2  by amy: migration",
    );
}

#[test]
fn a_pause_is_told_with_who_wanted_it_and_who_has_the_lease_still() {
    let watcher = || WatcherName::parse("beat").unwrap();
    let asked = Command::Pause { watcher: "beat".into(), reason: None, patience: Patience::Settled };
    let told = |changed, holder: Option<&str>, hears| {
        let holder = holder.map(str::to_owned);
        shown(&asked, &own(Reply::Done(Answer::Paused { watcher: watcher(), pause: pause(), changed, holder, hears })))
    };
    let done = "ok, beat is paused: it runs nowhere until circusctl resume beat";
    assert_eq!(told(true, None, false), format!("{done}\n"));
    assert_eq!(told(true, Some("web-1"), true), format!("{done}\nweb-1 has it still, and stops it\n"));
    let other = "has it, is no agent and does not hear of this: end it there";
    assert_eq!(told(true, Some("web-9-77"), false), format!("{done}\nweb-9-77 {other}\n"));
    assert_eq!(told(false, None, false), "ok, beat was paused before, by amy since 2026-11-21 20:10Z: migration\n");
    let resumed = |pause| {
        let asked = Command::Resume { watcher: "beat".into() };
        shown(&asked, &own(Reply::Done(Answer::Resumed { watcher: watcher(), pause })))
    };
    assert_eq!(
        resumed(Some(pause())),
        "ok, beat may run again; it was paused by amy since 2026-11-21 20:10Z: migration\n"
    );
    assert_eq!(resumed(None), "ok, beat is not paused\n");
}

#[test]
fn status_of_one_node() {
    golden(
        &STATUS,
        &own(status(web_1())),
        "
|web-1   cluster prod   running   lease store up
|
|SINGLETON  STATE    PID    UP         LEASE  TOKEN  RESTARTS  NOTE
|beat       active   48211  3d 04h  4.1/5.0s     17         0
|reaper     standby  -      -              -      -         0  held by web-2
|
|WATCHER  STATE    READY  PID     UP       RESTARTS  NOTE
|web      active     6/6  1 2 +4  1m 00s          0
|worker   backoff    1/2  510     12m 00s         3  exit 1, again in 4 s
|off      stopped    0/1  -       -               0
|
|1 problem.   circusctl status worker"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn status_of_a_circusd_has_what_it_tells_and_no_more() {
    let reply =
        json!({"status": "ok", "watchers": [{"name": "web", "state": "active"}, {"name": "b", "state": "stopping"}]});
    let wanted = "WATCHER  STATE\nweb      active\nb        stopping\n\n1 problem.   circusctl status b\n";
    assert_eq!(shown(&STATUS, &reply), wanted);
}

#[test]
fn an_unhealthy_process_is_up_and_not_ready() {
    let mut sick = watcher("sick", WatcherState::Unhealthy, 1, &[(7, 60)], Some("#1: exit 1"));
    sick.processes[0].state = "unhealthy";
    let shown = shown(&STATUS, &own(status(snapshot("web-1", vec![sick]))));
    assert!(shown.contains("sick     unhealthy    0/1  7    1m 00s         0  #1: exit 1"), "{shown}");
}

#[test]
fn status_of_the_cluster() {
    golden(
        &STATUS,
        &gathered(vec![
            ("web-1", Part::Own(status(web_1()))),
            ("web-2", Part::Relayed(own(status(web_2())).to_string())),
            ("web-4", Part::Silent("no answer within 5 s".into())),
        ]),
        "
|prod   2 of 3 nodes answered
|
|SINGLETON  STATE   NODE   PID    UP         LEASE  TOKEN  RESTARTS  NOTE
|beat       active  web-1  48211  3d 04h  4.1/5.0s     17         0
|reaper     failed  web-2  -      -       4.1/5.0s     17         0  exit 1, five times in a row
|
|WATCHER  READY  web-1  web-2  RESTARTS  NOTE
|web        8/8    6/6    2/2         0
|worker     1/2    1/2      -         3  web-1 backoff: exit 1, again in 4 s
|off        0/1    0/1      -         0  web-1 stopped
|
|2 problems.   circusctl status worker --node web-1
|error: web-4: no answer within 5 s"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn a_singleton_that_nobody_holds_is_a_problem_of_the_cluster_only() {
    let standby = |name: &str| {
        let beat = watcher("beat", WatcherState::Standby, 1, &[], Some("waits out one ttl"));
        snapshot(name, vec![with_lease(beat, lease("beat", LeaseRole::Standby, None))])
    };
    let alone = own(status(standby("web-1")));
    assert!(problems(&alone).is_empty());
    let all =
        gathered(vec![("web-1", Part::Own(status(standby("web-1")))), ("web-2", Part::Own(status(standby("web-2"))))]);
    assert_eq!(problems(&all), ["beat"]);
    let text = shown(&STATUS, &all);
    assert!(text.contains("beat       vacant  -"), "{text}");
    assert!(text.ends_with("1 problem.   circusctl status beat --all   ·   circusctl leases\n"), "{text}");
    // With a silent node it cannot be known.
    let partial = gathered(vec![
        ("web-1", Part::Own(status(standby("web-1")))),
        ("web-2", Part::Silent("no answer within 5 s".into())),
    ]);
    assert!(problems(&partial).is_empty());
}

#[test]
fn a_singleton_that_is_paused_is_no_problem_of_anybodys() {
    let paused = |name: &str| {
        let beat = watcher("beat", WatcherState::Standby, 1, &[], Some("paused by amy: migration"));
        let lease = LeaseView { pause: Some(pause()), ..lease("beat", LeaseRole::Standby, None) };
        Part::Own(status(snapshot(name, vec![with_lease(beat, lease)])))
    };
    let all = gathered(vec![("web-1", paused("web-1")), ("web-2", paused("web-2"))]);
    assert!(problems(&all).is_empty());
    let text = shown(&STATUS, &all);
    assert!(
        text.contains("beat       paused  -     -    -       -      -         0  paused by amy: migration\n"),
        "{text}"
    );
    assert!(text.ends_with("\nall is well\n"), "{text}");
}

#[test]
fn all_is_well_says_so_and_a_store_that_is_down_says_why() {
    let mut good = snapshot("web-1", vec![watcher("web", WatcherState::Active, 1, &[(7, 3)], None)]);
    assert!(problems(&own(status(good.clone()))).is_empty());
    assert!(shown(&STATUS, &own(status(good.clone()))).ends_with("\nall is well\n"));
    good.store = StoreView::Down { reason: "connection refused".into() };
    assert!(shown(&STATUS, &own(status(good.clone()))).contains("lease store down: connection refused"));
    assert!(problems(&own(status(good))).is_empty(), "what is no singleton does not need the store");
    let none = own(status(snapshot("web-1", vec![])));
    assert!(shown(&STATUS, &none).contains("no watchers; add a [watcher:NAME]"));
}

/// On one node it sleeps until somebody connects, beside one that is up.
fn asleep() -> Snapshot {
    snapshot(
        "web-1",
        vec![
            watcher("web", WatcherState::Active, 1, &[(7, 3)], None),
            watcher("reports", WatcherState::Listening, 2, &[], Some("starts at the first connection")),
        ],
    )
}

#[test]
fn a_watcher_that_sleeps_until_the_first_connection_is_well() {
    golden(
        &STATUS,
        &own(status(asleep())),
        "
|web-1   cluster prod   running   lease store up
|
|WATCHER  STATE      READY  PID  UP     RESTARTS  NOTE
|web      active       1/1  7    3.0 s         0
|reports  listening    0/2  -    -             0  starts at the first connection
|
|all is well"
            .replace("\n        ", "\n")
            .as_str(),
    );
    assert!(problems(&own(status(asleep()))).is_empty());
    let style = Style { colour: true, width: None };
    let coloured = text(&STATUS, &own(status(asleep())), None, style).out;
    assert!(coloured.contains("\x1b[32mlistening\x1b[0m"), "{coloured:?}");
    let all = shown(&STATUS, &gathered(vec![("web-1", Part::Own(status(asleep())))]));
    assert!(all.contains("web-1 listening: starts at the first connection"), "{all}");
    assert!(all.ends_with("all is well\n"), "{all}");
}

#[test]
fn systemd_is_told_of_a_node_in_one_line() {
    assert_eq!(status_line(&asleep()), "running: 1 of 2 watchers active, 1 listening");
    assert_eq!(status_line(&web_1()), "running: 1 of 3 watchers active; beat: holder, token 17; reaper: standby");
    assert_eq!(status_line(&snapshot("web-1", vec![])), "running");
}

#[test]
fn the_page_of_one_watcher() {
    let mut snapshot = web_1();
    snapshot.watchers.retain(|watcher| watcher.name.as_str() == "beat");
    snapshot.watchers[0].last_exit = Some((Exit::Signal(9), secs(275_010.0)));
    snapshot.watchers[0].next_try = Some(secs(4.0));
    snapshot.watchers[0].processes[0].status = Some("12 tasks".into());
    let reply = own(Reply::Done(Answer::WatcherStatus(Box::new(snapshot))));
    assert_eq!(reply["status"], "active");
    golden(
        &Command::Status { watcher: Some("beat".into()) },
        &reply,
        "
|beat   singleton, active on web-1
|  ready      1/1
|  process    #1 pid 48211, running, 3d 04h, says: 12 tasks
|  lease      holder, token 17, 4.1/5.0s left, refreshed in 2.1 ms, held for 3d 04h
|  key        circus:{prod/beat}:lease
|  restarts   0
|  last exit  killed by SIGKILL, 3d 04h ago
|  next try   in 4.0 s"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn leases_are_put_together_from_all_views() {
    let views = |leases: Vec<LeaseView>| Part::Own(Reply::Done(Answer::Leases { leases, advice: Vec::new() }));
    let mut aside = lease("beat", LeaseRole::Aside, Some("web-2"));
    aside.why = Some("failed here, back in 40 s".into());
    let mut free = lease("report", LeaseRole::Standby, None);
    free.why = Some("first taking, free in 3 s".into());
    golden(
        &Command::Leases,
        &gathered(vec![
            ("web-1", views(vec![lease("beat", LeaseRole::Standby, Some("web-2")), free.clone()])),
            ("web-2", views(vec![lease("beat", LeaseRole::Holder, Some("web-2")), free])),
            ("web-3", views(vec![aside])),
        ]),
        "
|NAME    HOLDER  TOKEN     LEASE  REFRESH  SINCE              WAITING      NOTE
|beat    web-2      17  4.1/5.0s   2.1 ms  2026-11-18 17:45Z  web-1        web-3 stands aside: failed
|                                                                          here, back in 40 s
|report  vacant      -         -        -  -                  web-1 web-2  first taking, free in 3 s
|1 vacant: nobody is known to hold it.   circusctl status report --all"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn what_follows_a_legion_is_wanted_where_it_is_led() {
    let part = |node, beat| (node, Part::Own(status(snapshot(node, vec![beat]))));
    let beat = |state, pids: &[(u32, u64)], note| watcher("beat", state, 2, pids, note);
    let led = beat(WatcherState::Active, &[(7, 60), (8, 60)], None);
    let elsewhere = || beat(WatcherState::Standby, &[], Some("web-1 leads ip"));
    let overview = |parts| shown(&STATUS, &gathered(parts));
    let text = overview(vec![part("web-1", led), part("web-2", elsewhere())]);
    assert!(text.contains("\nbeat       2/2    2/2      -         0\n\nall is well\n"), "{text}");
    let text = overview(vec![part("web-2", elsewhere())]);
    assert!(text.contains("\nbeat       0/0      -         0  web-2 standby: web-1 leads ip\n"), "{text}");
}

/// A node's view of a legion of three.
fn legion(name: &str, node: &str, state: &str, lord: Option<&str>, reason: &str) -> Value {
    let member = |name: &str, valor: u32, live: bool| {
        let (stands, seen) = (name != "web-2", NOW - 0.5);
        json!({"name": name, "valor": valor, "live": live, "stands": stands, "last_seen": seen, "scroll": "role=web"})
    };
    let held = lord == Some(node);
    json!({
        "legion": name, "node": node, "state": state, "reason": reason, "lord_node": lord, "quorum": 2, "votes": 2,
        "lord_since": lord.map(|_| NOW - 250.0), "token": held.then_some(17), "preempt": true, "seen": NOW,
        "members": [member("web-1", 98, true), member("web-2", 5, true), member("web-3", 0, false)],
        "changes": [{"at": NOW - 12.0, "text": "web-3 left"}, {"at": NOW - 250.0, "text": "web-1 leads"}],
    })
}

fn legions(nodes: &[(&str, Vec<Value>)]) -> Value {
    let part = |legions: &[Value]| json!({"status": "ok", "time": NOW, "legions": legions});
    let nodes: serde_json::Map<String, Value> =
        nodes.iter().map(|(node, legions)| ((*node).to_owned(), part(legions))).collect();
    json!({"status": "ok", "nodes": nodes})
}

#[test]
fn legions_are_put_together_from_all_views() {
    let few = "no quorum: 1 of 2 members that have to live";
    golden(
        &Command::Legions { legion: None },
        &legions(&[
            (
                "web-1",
                vec![
                    legion("ip", "web-1", "lord", Some("web-1"), "it comes first"),
                    legion("db", "web-1", "no-quorum", None, few),
                ],
            ),
            (
                "web-2",
                vec![
                    legion("ip", "web-2", "aside", Some("web-1"), "stopped by amy"),
                    legion("db", "web-2", "no-quorum", None, few),
                ],
            ),
            ("web-3", vec![legion("ip", "web-3", "arbiter", Some("web-1"), "an arbiter")]),
        ]),
        "
|LEGION  LORD    TOKEN  QUORUM                SINCE              NOTE
|db      vacant      -  2 of 3 live, needs 2  -                  web-1 web-2: no quorum: 1 of 2
|                                                                members that have to live
|ip      web-1      17  2 of 3 live, needs 2  2026-11-21 22:04Z  web-2: stopped by amy
|nobody is known to lead db.   circusctl legions db --all",
    );
}

#[test]
fn a_legion_in_full() {
    golden(
        &Command::Legions { legion: Some("ip".into()) },
        &legions(&[
            ("web-1", vec![legion("ip", "web-1", "lord", Some("web-1"), "it comes first")]),
            ("web-2", vec![legion("ip", "web-2", "aside", Some("web-1"), "stopped by amy")]),
        ]),
        "
|ip   legion, lord on web-1
|  lord       web-1, for 4m 10s, token 17
|  why        it comes first
|  quorum     2 of 3 live, needs 2; a higher valor takes over
|  web-2      aside: stopped by amy
|
|MEMBER  VALOR  PART         HEARD OF   SCROLL
|web-1      98  lord         0.5 s ago  role=web
|web-2       5  stands back  0.5 s ago  role=web
|web-3       0  arbiter      silent     role=web
|
|   CHANGED
|  12 s ago  web-3 left
|4m 10s ago  web-1 leads",
    );
}

#[test]
fn two_who_claim_a_lease_are_both_named() {
    let views = |role, token| {
        let mut lease = lease("beat", role, None);
        lease.token = Some(token);
        Part::Own(Reply::Done(Answer::Leases { leases: vec![lease], advice: Vec::new() }))
    };
    let text = shown(
        &Command::Leases,
        &gathered(vec![("a", views(LeaseRole::Losing, 16)), ("b", views(LeaseRole::Holder, 17))]),
    );
    assert!(text.contains("beat  b          17"), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("a said it held it too, with token 16"), "{text}");
}

#[test]
fn the_nodes_of_the_cluster() {
    let row = |name: &str, state, seen: f64, config: &str, holds: &[&str]| NodeRow {
        name: node(name),
        state,
        seen: secs(seen),
        about: NodeAbout {
            version: "0.1.0".into(),
            host: format!("{name}.example"),
            pid: 7,
            endpoint: format!("unix:///run/circus/{name}.sock"),
            up: secs(12.0 * 86_400.0),
            config: config.into(),
            formerly: Vec::new(),
            labels: [("zone".into(), "a".into())].into(),
            watchers: vec!["web".into(), "beat".into()],
            holds: holds.iter().map(ToString::to_string).collect(),
            waits: vec![],
            well: 1,
            processes: 5,
            wanted: [("web".into(), 4)].into(),
            most: [].into(),
            machine: Machine { cores: 4, load: 0.62, memory: 8_375_186_227, memory_used: 3_328_599_654 },
            protocol: 1,
            seals: vec![],
        },
    };
    golden(
        &Command::Nodes,
        &own(Reply::Done(Answer::Nodes(vec![
            row("web-1", NodeState::Up, 0.4, "7f3a2c", &["reaper"]),
            row("web-2", NodeState::Up, 0.9, "7f3a2c", &["beat", "report"]),
            row("web-3", NodeState::Draining, 0.2, "7f3a2c", &[]),
            row("web-4", NodeState::Stale, 14.2, "6b11e0", &[]),
            row("web-5", NodeState::Gone, 86_400.0, "6b11e0", &[]),
        ]))),
        "
|NODE     STATE       SEEN  AGENT  LOAD     MEM       WATCHERS  HOLDS        CONFIG
|web-1 *  up         0.4 s  0.1.0  0.62/4c  3.1/7.8G       1/2  reaper       7f3a2c
|web-2    up         0.9 s  0.1.0  0.62/4c  3.1/7.8G       1/2  beat report  7f3a2c
|web-3    draining   0.2 s  0.1.0  0.62/4c  3.1/7.8G       1/2  -            7f3a2c
|web-4    stale       14 s  0.1.0  -        -              1/2  -            6b11e0 (differs)
|web-5    gone      1d 00h  0.1.0  -        -                -  -            6b11e0 (differs)
|* this node
|web-3: draining, 5 processes still run"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn nodes_show_what_fits_and_who_speaks_otherwise() {
    let row = |name: &str, config: &str, held: usize, protocol: u32| NodeRow {
        name: node(name),
        state: NodeState::Up,
        seen: secs(1.0),
        about: NodeAbout {
            version: "0.1.0".into(),
            config: config.into(),
            labels: [("zone".into(), "a".into())].into(),
            holds: (0..held).map(|number| format!("reporter-{number}")).collect(),
            protocol,
            ..NodeAbout::default()
        },
    };
    // No configuration is the usual one here.
    let rows = vec![row("a", "7f3a2c", 12, 0), row("b", "6b11e0", 0, 3)];
    let reply = own(Reply::Done(Answer::Nodes(rows)));
    golden(
        &Command::Nodes,
        &reply,
        "
|NODE  STATE   SEEN  AGENT  UP     LOAD  MEM  WATCHERS  HOLDS                      LABELS  CONFIG
|a     up     1.0 s  0.1.0  0.0 s  -     -           0  reporter-0 reporter-1 +10  zone=a  7f3a2c
|b     up     1.0 s  0.1.0  0.0 s  -     -         0/0  -                          zone=a  6b11e0
|agents of protocol 3 cannot be asked from here, which is 1",
    );
    let narrow = text(&Command::Nodes, &reply, None, Style { colour: false, width: Some(56) }).out;
    assert!(narrow.starts_with("NODE  STATE   SEEN  HOLDS                      CONFIG\n"), "{narrow}");
}

#[test]
fn nodes_of_long_ago_hide_nobody_and_a_reason_that_many_share_is_told_once() {
    let row = |at: usize| NodeRow {
        name: node(&format!("n-{at:04}")),
        state: if at == 500 { NodeState::Up } else { NodeState::Stale },
        seen: secs(30.0),
        about: NodeAbout::default(),
    };
    let shown =
        text(&Command::Nodes, &own(Reply::Done(Answer::Nodes((0..1000).map(row).collect()))), None, Style::default())
            .out;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 1 + 20 + 1 + 1, "{shown}");
    assert!(lines[20].starts_with("n-0019") && lines[21].starts_with("n-0500"), "{shown}");
    assert_eq!(lines[22], "979 more are stale or gone; --json shows all");

    let why = |at: usize| if at == 3 { "no answer within 5 s" } else { "nobody listens" };
    let parts = (0..12).map(|at| (node(&format!("n-{at:02}")), Part::Silent(why(at).into()))).collect();
    let reply = reply_json(&Outcome::Gathered { parts, missing: None }, &Value::Null, 0.0);
    let said = text(&Command::Version, &reply, None, Style::default()).err;
    let named = "n-00, n-01, n-02, n-04, n-05, n-06, n-07, n-08, n-09, n-10";
    assert_eq!(said, format!("error: {named} and 1 more: nobody listens\nerror: n-03: no answer within 5 s\n"));
}

#[test]
fn stats_show_each_process() {
    let info = json!({
        "mem_info1": "8.50M", "mem_info2": "12.22M", "cpu": 0.0, "mem": 0.035, "ctime": "0:00.10", "pid": 755,
        "username": "root", "nice": 0, "cmdline": "python", "wid": 1,
    });
    let reply = json!({"status": "ok", "infos": {"web": {"755": info, "756": "No such process (stopped?)"}}});
    golden(
        &Command::Stats { watcher: None, pid: None, extended: false },
        &reply,
        "
|WATCHER  WID  PID   CPU   MEM    RSS    VIRT     TIME  USER  PROGRAM
|web        -  756     -     -      -       -        -  -     No such process (stopped?)
|web        1  755  0.0%  0.0%  8.50M  12.22M  0:00.10  root  python"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn children_stand_indented_below_their_parent_and_a_hooks_words_behind_it() {
    let child = |pid: u32, children: Value| {
        json!({
            "mem_info1": "1.00M", "mem_info2": "2.00M", "cpu": 1.5, "mem": 0.1, "ctime": "0:01.00", "pid": pid,
            "username": "www", "nice": 0, "cmdline": "gunicorn", "age": 9.0, "create_time": 1.0, "children": children,
        })
    };
    let mut info = child(755, json!([child(756, json!([child(757, json!([]))]))]));
    info["wid"] = json!(1);
    info["queue"] = json!(3);
    golden(
        &Command::Stats { watcher: Some("web".into()), pid: None, extended: true },
        &json!({"status": "ok", "name": "web", "info": {"755": info}}),
        "
|WATCHER  WID  PID   CPU   MEM    RSS   VIRT     TIME  USER  PROGRAM
|web        1  755  1.5%  0.1%  1.00M  2.00M  0:01.00  www   gunicorn  queue=3
|              756  1.5%  0.1%  1.00M  2.00M  0:01.00  www      gunicorn
|              757  1.5%  0.1%  1.00M  2.00M  0:01.00  www         gunicorn"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

fn key_changes(keys: &[(&str, Option<&str>, Option<&str>)]) -> Vec<KeyChange> {
    let key_change = |(key, from, to): &(&str, Option<&str>, Option<&str>)| KeyChange {
        key: (*key).to_owned(),
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    keys.iter().map(key_change).collect()
}

fn plan() -> Plan {
    let change = |watcher: &str, effect, keys: &[(&str, Option<&str>, Option<&str>)]| Change {
        watcher: WatcherName::parse(watcher).unwrap(),
        effect,
        keys: key_changes(keys),
    };
    Plan {
        sockets: Vec::new(),
        changes: vec![
            change("old", Effect::Removed { stops: 2 }, &[]),
            change(
                "worker",
                Effect::Replaced { restarts: 12 },
                &[("env SECRET", Some("********"), Some("********")), ("max_age", None, Some("3600"))],
            ),
            change("web", Effect::InPlace, &[("graceful_timeout", Some("30"), Some("300"))]),
            change("job", Effect::Resized { from: 1, to: 3 }, &[]),
            change("flower", Effect::Added { starts: 1 }, &[]),
        ],
        unchanged: 3,
        needs_restart: vec!["[circus] node".into()],
        config: "7f3a2c".into(),
    }
}

#[test]
fn a_plan_says_what_changes_and_what_that_costs() {
    golden(
        &Command::Plan,
        &own(Reply::Done(Answer::Plan(plan()))),
        "
|  - old      stops 2 processes
|  ~ worker   restarts 12 processes, one at a time
|      env SECRET   ******** → ********
|      max_age      (none) → 3600
|  ~ web      no restart
|      graceful_timeout   30 → 300
|  ~ job      1 → 3 processes
|  + flower   starts 1 process
|  = 3 watchers unchanged
|  ! [circus] node   changes with a restart of the agent only
|plan: 1 added, 3 changed, 1 removed, 12 restarts"
            .replace("\n        ", "\n")
            .as_str(),
    );
}

#[test]
fn a_plan_tells_of_sockets_before_those_who_have_them() {
    let socket = |name: &str, effect, keys: &[(&str, Option<&str>, Option<&str>)]| SocketChange {
        socket: SocketName::parse(name).unwrap(),
        effect,
        keys: key_changes(keys),
    };
    let mut plan = Plan { changes: plan().changes.split_off(4), needs_restart: vec![], ..plan() };
    plan.sockets = vec![
        socket("admin", SocketEffect::Added, &[]),
        socket("old", SocketEffect::Removed, &[]),
        socket("ux", SocketEffect::Adjusted, &[("backlog", None, Some("128")), ("umask", Some("0"), Some("077"))]),
        socket("web", SocketEffect::Moved, &[("port", Some("80"), Some("8080"))]),
    ];
    golden(
        &Command::Plan,
        &own(Reply::Done(Answer::Plan(plan.clone()))),
        "
|  + socket admin   opens
|  - socket old     closes, and the processes that have it are replaced
|  ~ socket ux      no restart
|      backlog   (none) → 128
|      umask     0 → 077
|  ~ socket web     moves, and the processes that have it are replaced
|      port   80 → 8080
|  + flower         starts 1 process
|  = 3 watchers unchanged
|plan: 2 added, 2 changed, 1 removed"
            .replace("\n        ", "\n")
            .as_str(),
    );
    // Only of sockets that stay where they are it is known that nobody is restarted.
    plan.changes.clear();
    plan.sockets.truncate(1);
    let opens = shown(&Command::Plan, &own(Reply::Done(Answer::Plan(plan))));
    assert!(opens.ends_with("plan: 1 added, no restart\n"), "{opens}");
}

#[test]
fn nodes_with_the_same_plan_share_it_and_nothing_to_do_is_said() {
    let part = |plan: Plan| Part::Own(Reply::Done(Answer::Plan(plan)));
    let with = |config: &str, plan: &Plan| part(Plan { config: config.into(), ..plan.clone() });
    let (small, none) = (Plan { changes: plan().changes.split_off(4), ..Plan::default() }, Plan::default());
    golden(
        &Command::Plan,
        &gathered(vec![
            ("web-1", with("7f3a2c", &small)),
            ("web-2", with("6b11e0", &none)),
            ("web-3", with("7f3a2c", &small)),
            ("web-4", with("7f3a2c", &none)),
        ]),
        "
|web-1, web-3  (the same)
|  + flower   starts 1 process
|plan: 1 added, no restart
|web-2, web-4  (the same)
|nothing to do
|the files differ: 7f3a2c on web-1, web-3, web-4; 6b11e0 on web-2"
            .replace("\n        ", "\n")
            .as_str(),
    );
    let reload = Command::ReloadConfig { patience: Patience::Admitted };
    assert_eq!(shown(&reload, &own(Reply::Done(Answer::Plan(Plan::default())))), "nothing to do\n");
}

#[test]
fn short_replies_are_circuss_own_lines() {
    let list = Command::List { watcher: None };
    assert_eq!(shown(&list, &json!({"status": "ok", "watchers": ["a", "b"]})), "a,b\n");
    assert_eq!(shown(&list, &json!({"status": "ok", "pids": [1, 2]})), "1,2\n");
    assert_eq!(shown(&Command::NumWatchers, &json!({"status": "ok", "numwatchers": 3})), "3\n");
    let list = json!({"status": "ok", "nodelist": {"first": "unix:///run/first.sock", "second": ""}});
    assert_eq!(shown(&Command::NodeList, &list), "first: unix:///run/first.sock\nsecond: -\n");
    let options = Command::Options { watcher: "web".into(), keys: None };
    let reply = json!({"status": "ok", "options": {"a": true, "b": null, "c": {}, "d": {"K": "V", "L": "W"}, "e": 3}});
    assert_eq!(shown(&options, &reply), "a: True\nb: \nc: {}\nd: K=V,L=W\ne: 3\n");
    let start = Command::Start { pattern: None, patience: Patience::Settled };
    assert_eq!(shown(&start, &json!({"status": "ok"})), "ok\n");
    assert_eq!(
        shown(&start, &json!({"status": "ok", "info": {"started": [4, 5], "kept": [3], "stopped": []}})),
        "ok, started 4 5, kept 3\n"
    );
    let add =
        Command::Add { name: "web".into(), changes: Changes::default(), start: true, patience: Patience::Settled };
    assert_eq!(shown(&add, &json!({"status": "ok", "started": [4], "kept": []})), "ok, started 4\n");
    let global = json!({"status": "ok", "options": {"check_delay": 5.0, "endpoint": "tcp://127.0.0.1:5555"}});
    assert_eq!(
        shown(&Command::GlobalOptions { option: None }, &global),
        "check_delay: 5.0\nendpoint: tcp://127.0.0.1:5555\n"
    );
    let info = json!({
        "pid": 7, "cmdline": "circus-agent", "username": "root", "nice": 0, "mem_info1": "8.50M", "mem_info2": "12.22M",
        "cpu": 0.0, "mem": 0.035, "ctime": "0:00.10", "children": [],
    });
    assert_eq!(
        shown(&Command::AgentStats, &json!({"status": "ok", "info": info})),
        "Main Process:\n    7  circus-agent root 0 8.50M 12.22M 0.0 0.035 0:00.10\n"
    );
    let sockets = json!({"status": "ok", "sockets": [
        {"fd": 6, "name": "ux", "backlog": 2048, "path": "/x"},
        {"fd": 7, "name": "web", "backlog": 2048, "host": "127.0.0.1", "port": 46525},
        {"fd": 8, "name": "six", "backlog": 2048, "host": "::1", "port": 80},
        {"fd": null, "name": "new", "backlog": 2048},
    ]});
    assert_eq!(
        shown(&Command::ListSockets, &sockets),
        "6:socket 'ux' at /x\n7:socket 'web' at 127.0.0.1:46525\n8:socket 'six' at [::1]:80\n\
         -:socket 'new' is not open yet\n"
    );
    let many = json!({"status": "ok", "nodes": {"a": {"status": "ok"}, "b": {"status": "ok"}}});
    assert_eq!(shown(&start, &many), "a: ok\nb: ok\n");
}

#[test]
fn an_error_is_one_line_with_its_reason() {
    let refusal = Refusal::NoSuchWatcher { name: "wbe".into(), hint: Some(WatcherName::parse("web").unwrap()) };
    assert_eq!(shown(&STATUS, &own(Reply::Refused(refusal))), "error: program wbe not found; did you mean web?\n");
}

#[test]
fn a_long_note_is_wrapped_under_itself_on_a_terminal() {
    let note = "spawn failed at exec(\"/srv/app/venv/bin/celery\"): ENOENT: No such file or directory; again in 4 s";
    let reply = own(status(snapshot("web-1", vec![watcher("web", WatcherState::Backoff, 1, &[], Some(note))])));
    let style = Style { colour: false, width: Some(100) };
    let text = text(&STATUS, &reply, None, style).out;
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(note), "{text}");
}

#[test]
fn colours_come_only_when_asked_for_and_control_characters_never() {
    let reply = own(status(snapshot("web-1", vec![watcher("web", WatcherState::Failed, 1, &[], Some("a\x1b[2Jb"))])));
    let plain = text(&STATUS, &reply, None, Style::default()).out;
    assert!(!plain.contains('\x1b'), "{plain:?}");
    let coloured = text(&STATUS, &reply, None, Style { colour: true, width: None }).out;
    assert!(coloured.contains("\x1b[31mfailed\x1b[0m"), "{coloured:?}");
    assert!(!coloured.contains("\x1b[2J"), "{coloured:?}");
}

#[test]
fn a_reply_of_unknown_shape_is_shown_and_never_panics() {
    let commands = [
        STATUS,
        Command::Status { watcher: Some("x".into()) },
        Command::Leases,
        Command::History { watcher: None, count: 1 },
        Command::LeaseCheck { watcher: "x".into(), token: 1 },
        Command::Legions { legion: None },
        Command::Legions { legion: Some("x".into()) },
        Command::Lord { legion: "x".into() },
        Command::Scrolls { legion: "x".into() },
        Command::Nodes,
        Command::Stats { watcher: None, pid: None, extended: false },
        Command::Version,
        Command::Plan,
        Command::ListSockets,
        Command::List { watcher: None },
        Command::Options { watcher: "x".into(), keys: None },
        Command::Resize { watcher: "x".into(), by: 1, patience: crate::model::command::Patience::Admitted },
    ];
    let odd = [json!(null), json!({}), json!([]), json!(5), json!("x"), json!([{}]), json!({"x": {}}), json!(-1.5)];
    let keys = [
        "status", "nodes", "watchers", "leases", "roster", "infos", "info", "process", "options", "reason", "store",
        "plan", "sockets", "legions", "members", "lord",
    ];
    for command in &commands {
        for value in &odd {
            let _ = text(command, value, None, Style::default());
            for key in keys {
                let reply = json!({"status": "ok", key: value});
                let _ = text(command, &reply, None, Style::default());
                let _ = problems(&reply);
                let _ = text(command, &json!({"status": "ok", "nodes": {"a": reply}}), None, Style::default());
            }
        }
    }
}

#[test]
fn days_become_dates() {
    assert_eq!(civil(0), (1970, 1, 1));
    assert_eq!(civil(-1), (1969, 12, 31));
    assert_eq!(civil(11_016), (2000, 2, 29));
    assert_eq!(civil(20_778), (2026, 11, 21));
}

/// One node's part of an explanation.
fn explained(name: &str, state: WatcherState, runs: bool, right: bool, conditions: Vec<Condition>) -> Part {
    let (outlook, moves) = match runs {
        true => {
            ("Another node gets it within 5.0 s after web-2 falls silent, and at once when web-2 gives it back.", false)
        }
        false => {
            ("web-1 may get it within 5.0 s after web-2 falls silent, and at once when web-2 gives it back.", true)
        }
    };
    let command = if moves { format!("failover beat --to {name}") } else { "failover beat".to_owned() };
    let explanation = Explanation {
        state,
        singleton: true,
        clustered: true,
        runs,
        right,
        holder: Some("web-2".into()),
        conditions,
        outlook: Some(outlook.into()),
        moves: Some(Move { here: moves, command }),
    };
    let watcher = WatcherName::parse("beat").unwrap();
    Part::Own(Reply::Done(Answer::Explained { node: node(name), watcher, explanation: Box::new(explanation) }))
}

#[test]
fn an_explanation_has_ticks_crosses_and_what_to_type() {
    let command = Command::Explain { watcher: "beat".into() };
    let tick = Condition::met;
    let held = || {
        vec![
            tick(explain::What::Configured, "in the file"),
            tick(explain::What::Store, "Redis at redis-1:6379/0, answered in 0.4 ms"),
            Condition::unmet(explain::What::Lease, "held by web-2, asked for again in 4.1 s at the latest", None),
        ]
    };
    let Part::Own(waiting) = explained("web-1", WatcherState::Standby, false, true, held()) else { panic!() };
    golden(
        &command,
        &own(waiting),
        "
|beat is not running on web-1, and that is right.
|  ✔ configured  in the file
|  ✔ store       Redis at redis-1:6379/0, answered in 0.4 ms
|  ✘ lease       held by web-2, asked for again in 4.1 s at the latest
|web-1 may get it within 5.0 s after web-2 falls silent, and at once when web-2 gives it back.
|To move it here:  circusctl failover beat --to web-1",
    );
    let crash = "exit 1, 2.0 s ago; failed 4 times in a row, next try in 8.0 s";
    let crashing = vec![
        tick(explain::What::Lease, "held here, for 3d 04h, token 17, 4.1 s of 5.0 s left"),
        Condition::unmet(explain::What::Process, crash, Some("start beat".into())),
    ];
    let stopped = vec![Condition::unmet(explain::What::Wanted, "stopped by amy", Some("start beat".into()))];
    golden(
        &command,
        &gathered(vec![
            ("web-1", explained("web-1", WatcherState::Standby, false, true, held())),
            ("web-2", explained("web-2", WatcherState::Backoff, false, false, crashing)),
            ("web-3", explained("web-3", WatcherState::Stopped, false, true, stopped)),
        ]),
        "
|beat is not running on web-2, and should be: it is backoff.
|  ✔ lease       held here, for 3d 04h, token 17, 4.1 s of 5.0 s left
|  ✘ process     exit 1, 2.0 s ago; failed 4 times in a row, next try in 8.0 s
|                circusctl start beat
|web-1 may get it within 5.0 s after web-2 falls silent, and at once when web-2 gives it back.
|To move it here:  circusctl failover beat --to web-2
|  ✘ web-1       lease: held by web-2, asked for again in 4.1 s at the latest
|  ✘ web-3       wanted: stopped by amy",
    );
}

#[test]
fn metrics_have_each_kind_once_with_the_series_of_all_nodes() {
    let node = |name: &str| {
        let role = if name == "web-1" { LeaseRole::Holder } else { LeaseRole::Standby };
        let watchers = vec![
            watcher("we\"b", WatcherState::Active, 2, &[(7, 9), (8, 9)], None),
            with_lease(watcher("beat", WatcherState::Standby, 1, &[], None), lease("beat", role, None)),
        ];
        Part::Own(Reply::Done(Answer::Metrics(Box::new(snapshot(name, watchers)))))
    };
    let told = shown(&Command::Metrics, &gathered(vec![("web-1", node("web-1")), ("web-2", node("web-2"))]));
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        &*format!("circus_build_info{{node=\"web-1\",version=\"{version}\"}} 1"),
        "circus_store_up{node=\"web-2\"} 1",
        "circus_watcher_state{node=\"web-1\",watcher=\"we\\\"b\",state=\"active\"} 1",
        "circus_watcher_processes{node=\"web-1\",watcher=\"we\\\"b\"} 2",
        "circus_lease_held{node=\"web-1\",watcher=\"beat\"} 1",
        "circus_lease_held{node=\"web-2\",watcher=\"beat\"} 0",
        "circus_lease_lost_total{node=\"web-2\",watcher=\"beat\",cause=\"expired\"} 1",
        "circus_lease_refreshes_total{node=\"web-1\",watcher=\"beat\"} 40",
        "circus_lease_latency_seconds{node=\"web-1\",watcher=\"beat\"} 0.00213",
    ] {
        assert!(told.lines().any(|own| own == line), "{line} is missing in:\n{told}");
    }
    // Every series is of the kind above it, and each kind stands once.
    let mut kinds = std::collections::BTreeSet::new();
    let mut kind = "";
    for line in told.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(head) => {
                kind = head.split(' ').next().unwrap();
                assert!(kinds.insert(kind), "{kind} stands twice");
                assert_eq!(head.ends_with("counter"), kind.ends_with("_total"), "{head}");
            }
            None if line.starts_with("# HELP ") => {}
            None => assert!(line.starts_with(&format!("{kind}{{")), "{line} stands below {kind}"),
        }
    }
    let page = include_str!("../../docs/metrics.md");
    for kind in &kinds {
        assert!(page.contains(&format!("`{kind}`")), "docs/metrics.md does not tell of {kind}");
    }
}
